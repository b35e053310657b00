//! What a node sees of the store beside what it follows, looked at from time to time, so that no request waits for it.

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use super::Api;
use super::view::Overview;
use crate::lock::Tally;
use crate::store::Store;
use crate::time::{Boot, Wall, written};

/// How often the store is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// How long a look may take.
const LOOK_WITHIN: Duration = Duration::from_secs(5);

/// For how long after a scrape locks are counted: a queue may be long, and only metrics have the numbers.
const TALLIED_FOR: Duration = Duration::from_secs(5 * 60);

/// What was last seen. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Glance(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    seen: RwLock<Seen>,
    /// Until when locks are counted.
    tallied_until: Mutex<Boot>,
}

/// What was seen of the store.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// The last that the store has said, and when it did.
    pub last: Option<(Overview, Wall)>,
    /// Why it has said nothing since; `None`: it has answered.
    pub silent: Option<String>,
    /// What is held and waited for; `None`: no scrape has asked for it lately, or the store has not said it.
    pub tally: Option<Tally>,
}

impl Glance {
    pub(super) fn seen(&self) -> Seen {
        self.0.seen.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Metrics are scraped: from now on locks are counted for a while.
    pub(super) fn scraped(&self, now: Boot) {
        *self.0.tallied_until.lock().unwrap_or_else(PoisonError::into_inner) = now.plus(TALLIED_FOR);
    }

    fn is_tallied(&self, now: Boot) -> bool {
        now < *self.0.tallied_until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, seen: impl FnOnce(&mut Seen)) {
        seen(&mut self.0.seen.write().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Looks at the store now and then. Goes on until it is dropped.
pub(super) async fn look<S: Store>(api: Api<S>) {
    loop {
        look_once(&api).await;
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

pub(super) async fn look_once<S: Store>(api: &Api<S>) {
    let tally = tally(api).await;
    let looked = Overview::look(&api.ledger, &api.locks, api.clock.wall());
    let why = match tokio::time::timeout(LOOK_WITHIN, looked).await {
        Ok(Ok(overview)) => {
            let now = api.clock.wall();
            return api.glance.note(|seen| *seen = Seen { last: Some((overview, now)), silent: None, tally });
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("the store has not answered within {}", written(LOOK_WITHIN)),
    };
    api.glance.note(|seen| (seen.silent, seen.tally) = (Some(why), tally));
}

async fn tally<S: Store>(api: &Api<S>) -> Option<Tally> {
    if !api.glance.is_tallied(api.clock.boot()) {
        return None;
    }
    tokio::time::timeout(LOOK_WITHIN, api.locks.tally()).await.ok()?.ok()
}
