//! Whether a node's attempts are traced.

use std::time::Duration;

use tokio::task::JoinHandle;

use crate::cli::Failure;
use crate::execute::Executor;
#[cfg(feature = "otlp")]
use crate::traces::{Settings, Traced};

/// How long the last spans may take to be sent when the node ends.
const LAST_SPANS: Duration = Duration::from_secs(5);

/// The executor, traced where the environment names a collector; and the task that sends the spans.
#[cfg(feature = "otlp")]
pub(super) fn traced(execute: Executor) -> Result<(Traced<Executor>, JoinHandle<()>), Failure> {
    let settings = Settings::of(|name| std::env::var(name).ok()).map_err(Failure::wrong)?;
    Traced::new(execute, settings).map_err(Failure::wrong)
}

/// The executor as it is: this program was built without traces.
#[cfg(not(feature = "otlp"))]
#[expect(clippy::unnecessary_wraps, reason = "as with the feature `otlp`")]
pub(super) fn traced(execute: Executor) -> Result<(Executor, JoinHandle<()>), Failure> {
    let endpoints = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];
    if let Some(name) = endpoints.into_iter().find(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
    {
        tracing::info!("{name} is set, and this program was built without the feature `otlp`: no spans are sent");
    }
    Ok((execute, tokio::spawn(async {})))
}

/// Waits until the last spans are sent, for so long that they may be.
pub(super) async fn sent(spans: JoinHandle<()>) {
    if tokio::time::timeout(LAST_SPANS, spans).await.is_err() {
        tracing::debug!("the collector is slow: the last spans are lost");
    }
}
