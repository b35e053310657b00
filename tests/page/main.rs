//! The operator's page, as a person sees it: in a real Chromium, over real nodes.
#![cfg(all(target_os = "linux", feature = "cli"))]

mod acting;
mod axe;
mod cluster;
mod hostile;
mod person;
mod scene;
mod screens;
mod screenshots;
#[path = "../support/mod.rs"]
mod support;
