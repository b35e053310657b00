//! What was seen of a drill so far, by all that look on.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::judge::{Fact, Millis, Record};
use crate::time::{Boot, Clock};

/// The record as it grows. Cloning gives another handle to the same one.
#[derive(Clone)]
pub(super) struct Log(Arc<Inner>);

struct Inner {
    clock: Clock,
    began: Boot,
    record: Mutex<Record>,
    grown: watch::Sender<usize>,
}

impl Log {
    pub fn new(clock: Clock) -> Log {
        let began = clock.boot();
        Log(Arc::new(Inner { clock, began, record: Mutex::default(), grown: watch::Sender::new(0) }))
    }

    pub fn now(&self) -> Millis {
        Millis::try_from(self.0.clock.boot().since(self.0.began).as_millis()).unwrap_or(Millis::MAX)
    }

    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    fn record_mut(&self) -> MutexGuard<'_, Record> {
        // What was recorded stands, whatever became of the task that recorded it.
        self.0.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a fact of now.
    pub fn add(&self, fact: Fact) {
        self.place(fact);
    }

    /// Adds a fact of now that is not settled yet, and answers its place.
    pub fn place(&self, fact: Fact) -> usize {
        let mut record = self.record_mut();
        record.push((self.now(), fact));
        let grown = record.len();
        drop(record);
        self.0.grown.send_replace(grown);
        grown - 1
    }

    /// Says of the fault at this place whether it has happened.
    pub fn settle(&self, place: usize, outcome: Result<(), String>) {
        if let Some((_, Fact::Fault { happened, .. })) = self.record_mut().get_mut(place) {
            *happened = outcome;
        }
    }

    pub fn record(&self) -> Record {
        self.record_mut().clone()
    }

    /// The first answer that `look` has to one of the facts, those to come among them; `None`: none came in time.
    pub async fn wait<T>(&self, within: Duration, mut look: impl FnMut(&Fact) -> Option<T>) -> Option<T> {
        let mut grown = self.0.grown.subscribe();
        let mut looked_at = 0;
        let looking = async {
            loop {
                grown.borrow_and_update();
                {
                    let record = self.record_mut();
                    if let Some(answer) = record[looked_at..].iter().find_map(|(_, fact)| look(fact)) {
                        return Some(answer);
                    }
                    looked_at = record.len();
                }
                grown.changed().await.ok()?;
            }
        };
        tokio::time::timeout(within, looking).await.ok().flatten()
    }
}
