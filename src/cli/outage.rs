//! A store that is unavailable when a command begins, or while it waits.

use std::time::Duration;

use super::once::say;
use super::place::Place;
use super::{Exit, Failure, Global};
use crate::lock::{Backoff, Outage};
use crate::store::{StoreError, StoreUrl};
use crate::time::written;

/// What is said when a store that was waited for answers.
pub(super) const BACK: &str = "fencron: the store answers again";

pub(super) fn say_away(why: &impl std::fmt::Display) {
    say(&format!("fencron: waiting for the store, which does not answer: {why}"));
}

/// Prints that the command waits for the store, unless it is `quiet`.
pub(super) fn outage(quiet: bool) -> Outage<impl Fn(Option<String>)> {
    Outage::new(move |why| match why {
        _ if quiet => {}
        Some(why) => say_away(&why),
        None => say(BACK),
    })
}

/// What `open` opens. While the store is unavailable it is tried again for as long as `wait`: `None`, without limit;
/// zero, one attempt.
///
/// Only servers are waited for: a missing file does not appear by itself.
pub(super) async fn opened(
    global: &Global,
    (wait, quiet): (Option<Duration>, bool),
    open: impl AsyncFn() -> anyhow::Result<Place>,
) -> anyhow::Result<Place> {
    let waits = wait != Some(Duration::ZERO) && matches!(global.url(), Ok(StoreUrl::Etcd(_) | StoreUrl::Postgres(_)));
    let patiently = async {
        let (mut outage, mut backoff) = (outage(quiet), Backoff::new());
        loop {
            match open().await {
                Err(error) if waits && is_away(&error) => outage.goes_on(&format!("{error:#}")),
                opened => {
                    outage.is_over();
                    return opened;
                }
            }
            backoff.wait().await;
        }
    };
    match wait.filter(|_| waits) {
        None => patiently.await,
        Some(wait) => tokio::time::timeout(wait, patiently).await.unwrap_or_else(|_| {
            let why = format!(
                "cannot use the store: it has not answered within {} (check with `etcdctl endpoint health` that it runs, \
                 and that the address is right)",
                written(wait)
            );
            Err(Failure::new(Exit::StoreUnreachable, why).into())
        }),
    }
}

/// Whether the store may answer yet.
pub(super) fn is_away(error: &anyhow::Error) -> bool {
    error.downcast_ref::<StoreError>().is_some_and(StoreError::is_passing)
}
