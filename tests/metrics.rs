//! Metrics of real nodes, and what is made of them: alerts and a dashboard, with a real Prometheus.
#![cfg(target_os = "linux")]

#[path = "metrics/alerts.rs"]
mod alerts;
#[path = "metrics/dashboard.rs"]
mod dashboard;
#[path = "metrics/scene.rs"]
mod scene;
mod support;
#[path = "metrics/values.rs"]
mod values;

use std::path::PathBuf;

/// A file of the repository, as text.
fn text(path: &str) -> String {
    std::fs::read_to_string(file(path)).unwrap()
}

/// Where a file of the repository is.
fn file(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}
