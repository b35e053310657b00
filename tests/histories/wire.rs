//! The store as a worker reaches it: over a way on which transactions and answers are lost, late and repeated, as a network
//! would; and, where a lock is to be seen to be broken, with a store that is made to forget what protects it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fencron::store::{
    About, Answer, AnyStore, Committed, Compare, Entry, Keys, LeaseId, Op, Page, Range, Store, StoreError, Txn, Watch,
};
use serde::{Deserialize, Serialize};

use crate::chance::Chance;
use crate::record::{Event, Harm, Recorder};

/// How much later than it was sent a transaction may arrive.
const LATEST_MS: u64 = 400;

/// What is wrong with a lock on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Broken {
    /// Locks are granted without looking whether somebody of another session holds them.
    Grants,
    /// Locks are released without looking whose they are, and every release arrives once more later.
    Releases,
    /// Most keep-alives are acknowledged by somebody who is not the store.
    KeepAlives,
    /// Permits are taken without looking which those of other sessions hold.
    Permits,
}

/// Which of a thousand transactions meet each harm.
const HARM_PERMILLE: u64 = 20;

/// So many keep-alives in a row but one do not reach the store: enough for the lease to end meanwhile.
const LIES: u64 = 8;

#[derive(Clone, Debug)]
pub struct Wire {
    inner: AnyStore,
    chance: Arc<Mutex<Chance>>,
    recorder: Recorder,
    broken: Option<Broken>,
    /// The session's.
    lease: Arc<AtomicU64>,
    /// How many keep-alives there were.
    lies: Arc<AtomicU64>,
}

fn writes(txn: &Txn) -> bool {
    txn.then.iter().any(|op| !matches!(op, Op::Get(_)))
}

fn ends_in(keys: &Keys, end: &str) -> bool {
    matches!(keys, Keys::One(key) if key.ends_with(end))
}

impl Broken {
    /// Whether the transaction is of the kind that this spoils.
    fn concerns(self, txn: &Txn) -> bool {
        txn.then.iter().any(|op| match (self, op) {
            (Broken::Grants, Op::Put { key, .. }) => key.ends_with("/owner") || key.contains("/wait/"),
            (Broken::Releases, Op::Delete(keys)) => ends_in(keys, "/owner"),
            (Broken::Permits, Op::Put { key, .. }) => key.contains("/held/"),
            _ => false,
        })
    }

    /// Whether it does not see this entry of another session.
    fn overlooks(self, key: &str) -> bool {
        match self {
            Broken::Grants => key.ends_with("/owner"),
            Broken::Permits => key.contains("/held/"),
            Broken::Releases | Broken::KeepAlives => false,
        }
    }

    fn spoil(self, mut txn: Txn) -> Txn {
        match self {
            Broken::Grants | Broken::Releases => {
                txn.when.retain(|Compare { keys, .. }| matches!(keys, Keys::One(_)) && !ends_in(keys, "/owner"));
            }
            Broken::Permits => txn.when.retain(|Compare { keys, .. }| matches!(keys, Keys::One(_))),
            Broken::KeepAlives => {}
        }
        txn
    }
}

impl Wire {
    pub fn new(inner: AnyStore, chance: Chance, recorder: Recorder, broken: Option<Broken>) -> Wire {
        Wire { inner, chance: Arc::new(Mutex::new(chance)), recorder, broken, lease: Arc::default(), lies: Arc::default() }
    }

    fn draw(&self) -> (Option<Harm>, Duration) {
        let mut chance = self.chance.lock().unwrap();
        let harms = [Harm::AnswerLost, Harm::Lost, Harm::Late, Harm::Repeated];
        let harm = harms.into_iter().find(|_| chance.permille(HARM_PERMILLE));
        (harm, Duration::from_millis(chance.within(0, LATEST_MS)))
    }

    fn as_seen(&self, mut answer: Committed) -> Committed {
        let own = self.lease.load(Ordering::Relaxed);
        if let Some(broken) = self.broken {
            for page in answer.answers.iter_mut().filter_map(|answer| match answer {
                Answer::Got(page) => Some(page),
                Answer::Put | Answer::Deleted(_) => None,
            }) {
                let seen = |entry: &Entry| {
                    entry.lease.is_some_and(|lease| lease.0.get() == own) || !broken.overlooks(&entry.key)
                };
                page.entries.retain(seen);
            }
        }
        answer
    }

    /// Applies the transaction later, whatever comes of it.
    fn later(&self, txn: Txn, delay: Duration) {
        let store = self.inner.clone();
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            drop(store.commit(txn).await);
        });
    }
}

fn lost(why: &str) -> StoreError {
    StoreError::Unknown { store: "the store".into(), why: format!("{why} on purpose") }
}

impl Store for Wire {
    async fn grant(&self, ttl: Duration) -> Result<(LeaseId, Duration), StoreError> {
        let granted = self.inner.grant(ttl).await?;
        self.lease.store(granted.0.0.get(), Ordering::Relaxed);
        Ok(granted)
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, StoreError> {
        if self.broken == Some(Broken::KeepAlives) && self.lies.fetch_add(1, Ordering::Relaxed) % LIES < LIES - 1 {
            return Ok(crate::TTL);
        }
        self.inner.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.inner.revoke(lease).await
    }

    async fn commit(&self, txn: Txn) -> Result<Committed, StoreError> {
        let broken = self.broken.filter(|broken| broken.concerns(&txn));
        let txn = broken.map_or_else(|| txn.clone(), |broken| broken.spoil(txn.clone()));
        if broken == Some(Broken::Grants) {
            // A new holder's key is a new one, whatever was there.
            let owners = txn.then.iter().filter_map(|op| match op {
                Op::Put { key, .. } if key.ends_with("/owner") => Some(Op::delete(key)),
                _ => None,
            });
            let removal = Txn { then: owners.collect(), ..Txn::new() };
            if writes(&removal) {
                self.inner.commit(removal).await?;
            }
        }
        let (harm, delay) = self.draw();
        // What compares nothing would do more harm than it is to show if it came late.
        let harm = match broken {
            Some(Broken::Releases) => Some(Harm::Repeated),
            Some(_) => None,
            None => harm,
        };
        if let Some(harm) = harm.filter(|_| writes(&txn)) {
            self.recorder.note(Event::Harm(harm));
        }
        match harm {
            None => self.inner.commit(txn).await.map(|answer| self.as_seen(answer)),
            Some(Harm::Lost) => Err(lost("lost")),
            Some(Harm::AnswerLost) => {
                self.inner.commit(txn).await?;
                Err(lost("the answer was lost"))
            }
            Some(Harm::Late) => {
                self.later(txn, delay);
                Err(lost("held up"))
            }
            Some(Harm::Repeated) => {
                let answer = self.inner.commit(txn.clone()).await;
                self.later(txn, delay);
                answer.map(|answer| self.as_seen(answer))
            }
        }
    }

    async fn range(&self, range: Range) -> Result<Page, StoreError> {
        self.inner.range(range).await
    }

    async fn watch(&self, keys: Keys, from: fencron::store::Revision) -> Result<Watch, StoreError> {
        self.inner.watch(keys, from).await
    }

    async fn about(&self) -> Result<About, StoreError> {
        self.inner.about().await
    }

    async fn apart(&self) -> Result<Wire, StoreError> {
        Ok(Wire { inner: self.inner.apart().await?, ..self.clone() })
    }
}
