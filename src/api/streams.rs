//! Answers that go on: bounded apart from requests, so that followers leave room for them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::problem::{Kind, Problem};

/// How many answers may go on at once on one node.
pub const STREAMS_MOST: usize = 64;

/// When a client may try again that found no room.
const AGAIN: Duration = Duration::from_secs(5);

/// The room for answers that go on. Clones are the same.
#[derive(Clone, Debug)]
pub struct Streams(Arc<Semaphore>);

/// The place of one such answer, until it is dropped.
#[derive(Debug)]
pub(super) struct Place(#[expect(dead_code, reason = "it is held, and freed when it is dropped")] OwnedSemaphorePermit);

impl Default for Streams {
    fn default() -> Streams {
        Streams(Arc::new(Semaphore::new(STREAMS_MOST)))
    }
}

impl Streams {
    /// A place, where there is one.
    pub(super) fn begin(&self) -> Result<Place, Problem> {
        let place = Arc::clone(&self.0).try_acquire_owned().map(Place);
        place.map_err(|_| {
            let detail = format!("this node has {STREAMS_MOST} followers already: ask again later, or another node");
            Problem::new(Kind::TooManyStreams, detail).again_after(AGAIN)
        })
    }

    /// How many answers go on.
    pub fn count(&self) -> usize {
        STREAMS_MOST - self.0.available_permits()
    }
}
