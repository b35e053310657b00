//! A store that loses, delays and repeats what is sent through it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::store::memory::MemoryStore;
use crate::store::{About, Committed, Keys, LeaseId, Op, Page, Range, Revision, Store, StoreError, Txn, Watch};

/// What a transaction is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Look,
    Register,
    Enqueue,
    Grant,
    Release,
    Withdraw,
    Repair,
    Other,
}

/// What becomes of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is applied, and the answer is lost.
    AnswerLost,
    /// It is lost on its way.
    Lost,
    /// It is kept on its way until [`Faulty::deliver`]; the caller hears nothing.
    Late,
    /// The store cannot be reached.
    Unavailable,
    /// It denies access.
    Refused,
    /// It is answered, and the process stands still before it reads the answer: for [`STANDSTILL`], by its clock. Nobody
    /// else has had a turn when it goes on.
    StandsStill,
}

/// Longer than a session of ten seconds may be trusted, and shorter than it lives: its keep-alive, which looks at the clock
/// once in a second, comes in time, and whether what was held is released can be seen.
pub const STANDSTILL: Duration = Duration::from_millis(8_950);

#[derive(Clone, Debug)]
pub struct Faulty {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    inner: Mutex<MemoryStore>,
    faults: Mutex<VecDeque<(Kind, Fault)>>,
    sent: Mutex<Vec<Txn>>,
    late: Mutex<Vec<Txn>>,
    keep_alive_delay: Mutex<Duration>,
    keep_alives_fail: Mutex<bool>,
    past_is_told_after: Mutex<Option<Duration>>,
    watches_are_silent: Mutex<bool>,
    traffic: Mutex<Traffic>,
    /// For how long the process stood still, in milliseconds.
    standstill: Arc<AtomicU64>,
}

/// What went to and fro.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub commits: usize,
    pub watches: usize,
    /// The entries in all answers.
    pub entries: usize,
    /// The bytes of their keys and values.
    pub bytes: usize,
}

impl Faulty {
    pub fn new(inner: MemoryStore) -> Faulty {
        Faulty::standing_still(inner, Arc::default())
    }

    /// As seen by a process whose clock adds `standstill`.
    pub fn standing_still(inner: MemoryStore, standstill: Arc<AtomicU64>) -> Faulty {
        let shared = Shared {
            inner: Mutex::new(inner),
            faults: Mutex::default(),
            sent: Mutex::default(),
            late: Mutex::default(),
            keep_alive_delay: Mutex::default(),
            keep_alives_fail: Mutex::default(),
            past_is_told_after: Mutex::default(),
            watches_are_silent: Mutex::default(),
            traffic: Mutex::default(),
            standstill,
        };
        Faulty { shared: Arc::new(shared) }
    }

    /// The next transaction of this kind meets this fault.
    pub fn expect(&self, kind: Kind, fault: Fault) {
        self.shared.faults.lock().unwrap().push_back((kind, fault));
    }

    /// Whether every fault that was expected has been met.
    pub fn all_met(&self) -> bool {
        self.shared.faults.lock().unwrap().is_empty()
    }

    /// Everything that was kept on its way arrives now. Answers how much of it had an effect.
    pub async fn deliver(&self) -> usize {
        let late = std::mem::take(&mut *self.shared.late.lock().unwrap());
        self.apply(late).await
    }

    /// Everything that was ever sent through here and writes arrives once more.
    pub async fn replay(&self) -> usize {
        let sent = self.shared.sent.lock().unwrap().clone();
        self.apply(sent).await
    }

    async fn apply(&self, txns: Vec<Txn>) -> usize {
        let mut applied = 0;
        for txn in txns {
            // What is refused because its lease has ended had no effect either.
            applied += usize::from(self.inner().commit(txn).await.is_ok_and(|committed| committed.succeeded));
        }
        applied
    }

    /// The store becomes another one.
    pub fn become_store(&self, inner: MemoryStore) {
        *self.shared.inner.lock().unwrap() = inner;
    }

    /// Answers to keep-alives take this long from now on; the questions arrive at once.
    pub fn delay_keep_alives(&self, delay: Duration) {
        *self.shared.keep_alive_delay.lock().unwrap() = delay;
    }

    /// From now on keep-alives do not reach the store, or do again.
    pub fn lose_keep_alives(&self, lose: bool) {
        *self.shared.keep_alives_fail.lock().unwrap() = lose;
    }

    /// From now on a watch from a revision that is past hears nothing for so long, as etcd's do.
    pub fn tell_the_past_after(&self, delay: Duration) {
        *self.shared.past_is_told_after.lock().unwrap() = Some(delay);
    }

    /// Watches that are opened from now on stand, and report nothing.
    pub fn silence_watches(&self) {
        *self.shared.watches_are_silent.lock().unwrap() = true;
    }

    /// The store itself, for hands that are no fencron.
    pub fn inner(&self) -> MemoryStore {
        self.shared.inner.lock().unwrap().clone()
    }

    /// What went to and fro since this was last asked.
    pub fn traffic(&self) -> Traffic {
        std::mem::take(&mut *self.shared.traffic.lock().unwrap())
    }

    /// The same, and it goes on being counted.
    pub fn peek(&self) -> Traffic {
        *self.shared.traffic.lock().unwrap()
    }

    /// The process stands still, from one moment to the next.
    pub fn stand_still(&self) {
        self.shared.standstill.fetch_add(STANDSTILL.as_millis() as u64, Ordering::SeqCst);
    }

    fn count(&self, answer: &Result<Committed, StoreError>) {
        let mut traffic = self.shared.traffic.lock().unwrap();
        traffic.commits += 1;
        let Ok(committed) = answer else { return };
        for entry in (0..committed.answers.len()).filter_map(|index| committed.got(index)).flatten() {
            traffic.entries += 1;
            traffic.bytes += entry.key.len() + entry.value.len();
        }
    }

    fn fault_for(&self, txn: &Txn) -> Option<Fault> {
        let mut faults = self.shared.faults.lock().unwrap();
        let place = faults.iter().position(|(kind, _)| *kind == kind_of(txn))?;
        faults.remove(place).map(|(_, fault)| fault)
    }
}

fn kind_of(txn: &Txn) -> Kind {
    let of = |op: &Op| match op {
        Op::Put { key, .. } if key.ends_with("/owner") => Some(Kind::Grant),
        Op::Put { key, .. } if key.contains("/wait/") => Some(Kind::Enqueue),
        Op::Put { key, .. } if key.contains("/sess/") => Some(Kind::Register),
        Op::Put { key, .. } if key.contains("/held/") => Some(Kind::Grant),
        Op::Delete(Keys::One(key)) if key.contains("/held/") => Some(Kind::Release),
        Op::Put { key, .. } if key.ends_with("/base") => Some(Kind::Repair),
        Op::Delete(Keys::One(key)) if key.ends_with("/owner") => Some(Kind::Release),
        Op::Delete(Keys::One(key)) if key.contains("/wait/") => Some(Kind::Withdraw),
        Op::Put { .. } | Op::Delete(_) => Some(Kind::Other),
        Op::Get(_) => None,
    };
    txn.then.iter().find_map(of).unwrap_or(Kind::Look)
}

fn unknown() -> StoreError {
    StoreError::Unknown { store: "faulty".into(), why: "on purpose".into() }
}

impl Store for Faulty {
    async fn grant(&self, ttl: Duration) -> Result<(LeaseId, Duration), StoreError> {
        self.inner().grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, StoreError> {
        if *self.shared.keep_alives_fail.lock().unwrap() {
            return Err(unknown());
        }
        let answer = self.inner().keep_alive(lease).await;
        let delay = *self.shared.keep_alive_delay.lock().unwrap();
        tokio::time::sleep(delay).await;
        answer
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.inner().revoke(lease).await
    }

    async fn commit(&self, txn: Txn) -> Result<Committed, StoreError> {
        // Gives the others a turn, as a network would.
        tokio::task::yield_now().await;
        if !matches!(kind_of(&txn), Kind::Look | Kind::Other) {
            self.shared.sent.lock().unwrap().push(txn.clone());
        }
        match self.fault_for(&txn) {
            None => {
                let answer = self.inner().commit(txn).await;
                self.count(&answer);
                answer
            }
            Some(Fault::AnswerLost) => {
                self.inner().commit(txn).await?;
                Err(unknown())
            }
            Some(Fault::Lost) => Err(unknown()),
            Some(Fault::Late) => {
                self.shared.late.lock().unwrap().push(txn);
                Err(unknown())
            }
            Some(Fault::StandsStill) => {
                let answer = self.inner().commit(txn).await;
                self.stand_still();
                answer
            }
            Some(Fault::Refused) => Err(StoreError::Refused("on purpose".to_owned())),
            Some(Fault::Unavailable) => {
                Err(StoreError::Unavailable { store: "faulty".into(), why: "on purpose".into() })
            }
        }
    }

    async fn range(&self, range: Range) -> Result<Page, StoreError> {
        self.inner().range(range).await
    }

    async fn watch(&self, keys: Keys, from: Revision) -> Result<Watch, StoreError> {
        self.shared.traffic.lock().unwrap().watches += 1;
        if *self.shared.watches_are_silent.lock().unwrap() {
            let (reports, silent) = Watch::channel();
            tokio::spawn(async move { reports.closed().await });
            return Ok(silent);
        }
        let delay = *self.shared.past_is_told_after.lock().unwrap();
        // Others have their turn between the question that it follows and this.
        tokio::task::yield_now().await;
        let inner = self.inner();
        let now = inner.range(Range { limit: 1, ..Range::of(keys.clone()) }).await?.revision;
        let mut watch = inner.watch(keys, from).await?;
        let Some(delay) = delay.filter(|_| now >= from) else { return Ok(watch) };
        let (reports, late) = Watch::channel();
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            while let Some(report) = watch.next().await {
                if reports.send(report).await.is_err() {
                    return;
                }
            }
        });
        Ok(late.begun_behind())
    }

    async fn about(&self) -> Result<About, StoreError> {
        self.inner().about().await
    }

    async fn apart(&self) -> Result<Faulty, StoreError> {
        Ok(self.clone())
    }
}
