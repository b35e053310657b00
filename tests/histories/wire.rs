//! The store as a worker reaches it: over a way on which transactions and answers are lost, late and repeated, as a network
//! would; and, where a lock is to be seen to be broken, with a store that is made to forget what protects it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fencron::store::{
    About, Answer, AnyStore, Committed, Compare, Entry, Keys, LeaseId, Op, Page, Range, Store, StoreError, Txn, Watch,
};
use fencron::time::{Boot, Clock, Wall};
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
    /// Answers are read late ([`Harm::Overslept`]), as by a process that stood still, and nobody looks at the clock then.
    Handouts,
    /// Answers are read late, and nothing is wrong with the lock.
    Nothing,
}

/// Whether the process stands still, as far as it can know: its keep-alive has no turn, and its clock does not go on where
/// it is not looked at.
#[derive(Clone, Debug, Default)]
pub struct Standstill(Arc<Mutex<Option<(Boot, Wall)>>>);

impl Standstill {
    fn stopped_at(&self) -> Option<(Boot, Wall)> {
        *self.0.lock().unwrap()
    }

    /// The clock of the locks of a process that is broken so.
    pub fn clock(&self, broken: Option<Broken>) -> Clock {
        let (system, still) = (Clock::system(), self.clone());
        if broken != Some(Broken::Handouts) {
            return system;
        }
        Clock::from_fn(move || still.stopped_at().unwrap_or_else(|| (system.boot(), system.wall())))
    }

    fn begins(&self) -> bool {
        let mut stopped_at = self.0.lock().unwrap();
        let clock = Clock::system();
        stopped_at.is_none() && stopped_at.replace((clock.boot(), clock.wall())).is_none()
    }

    /// Waits until it is over. A process that stands still asks nothing: what it asked would tell it that its session has
    /// ended.
    async fn over(&self) {
        while self.stopped_at().is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn ends(&self) {
        *self.0.lock().unwrap() = None;
    }
}

/// Which of a thousand transactions meet each harm.
const HARM_PERMILLE: u64 = 20;

/// Ends the standstill a moment after the answer was read, or the call was given up.
struct Waking(Standstill);

impl Drop for Waking {
    fn drop(&mut self) {
        let standstill = self.0.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(30)).await;
            standstill.ends();
        });
    }
}

/// Which of a thousand grants are read late, and how long they are waited for to be of no worth.
const LATE_PERMILLE: u64 = 100;
const LATE_WITHIN: Duration = Duration::from_secs(8);

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
    standstill: Standstill,
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
            Broken::Releases | Broken::KeepAlives | Broken::Handouts | Broken::Nothing => false,
        }
    }

    fn spoil(self, mut txn: Txn) -> Txn {
        match self {
            Broken::Grants | Broken::Releases => {
                txn.when.retain(|Compare { keys, .. }| matches!(keys, Keys::One(_)) && !ends_in(keys, "/owner"));
            }
            Broken::Permits => txn.when.retain(|Compare { keys, .. }| matches!(keys, Keys::One(_))),
            Broken::KeepAlives | Broken::Handouts | Broken::Nothing => {}
        }
        txn
    }
}

impl Wire {
    pub fn new(
        inner: AnyStore,
        chance: Chance,
        recorder: Recorder,
        (broken, standstill): (Option<Broken>, Standstill),
    ) -> Wire {
        Wire {
            standstill,
            inner,
            chance: Arc::new(Mutex::new(chance)),
            recorder,
            broken,
            lease: Arc::default(),
            lies: Arc::default(),
        }
    }

    fn draw(&self) -> (Option<Harm>, Duration) {
        let mut chance = self.chance.lock().unwrap();
        let harms = [Harm::AnswerLost, Harm::Lost, Harm::Late, Harm::Repeated];
        let harm = harms.into_iter().find(|_| chance.permille(HARM_PERMILLE));
        (harm, Duration::from_millis(chance.within(0, LATEST_MS)))
    }

    /// Which lock's answer is read late.
    fn oversleeps(&self, txn: &Txn) -> Option<String> {
        if !matches!(self.broken, Some(Broken::Handouts | Broken::Nothing)) {
            return None;
        }
        let granted = txn.then.iter().find_map(|op| match op {
            Op::Put { key, .. } if key.ends_with("/owner") => Some(key.clone()),
            _ => None,
        })?;
        let now = self.chance.lock().unwrap().permille(LATE_PERMILLE) && self.standstill.begins();
        now.then_some(granted)
    }

    /// Returns when another session has been granted the lock, or that has not come to be.
    async fn oversleep(&self, owner: &str) {
        let own = self.lease.load(Ordering::Relaxed);
        let taken = async {
            loop {
                let page = self.inner.range(Range::of(Keys::one(owner))).await;
                let holder = page.ok().and_then(|page| page.entries.first().and_then(|entry| entry.lease));
                if holder.is_some_and(|lease| lease.0.get() != own) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        if tokio::time::timeout(LATE_WITHIN, taken).await.is_ok() {
            // Whoever got it knows it by now.
            tokio::time::sleep(Duration::from_millis(2)).await;
            self.recorder.note(Event::Harm(Harm::Overslept));
        }
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
        self.standstill.over().await;
        self.inner.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.inner.revoke(lease).await
    }

    async fn commit(&self, txn: Txn) -> Result<Committed, StoreError> {
        self.standstill.over().await;
        if let Some(owner) = self.oversleeps(&txn) {
            let _awake = Waking(self.standstill.clone());
            let answer = self.inner.commit(txn).await;
            if answer.as_ref().is_ok_and(|committed| committed.succeeded) {
                self.oversleep(&owner).await;
            }
            return answer;
        }
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
            // Not drawn: it takes a grant, and another who wants the same.
            Some(Harm::Overslept) => self.inner.commit(txn).await,
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
        self.standstill.over().await;
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
