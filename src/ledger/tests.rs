//! The ledger over real stores, under real holds, and over one that loses requests and answers.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use super::*;
use crate::fence::Fence;
use crate::job::{Code, History, RunId, Verdict};
use crate::lock::{CallId, Driver, LockName, Locks, Presence, Seen, Session, Timing};
use crate::scheduler::run::{Claimant, Done, Open, OpenState, Predecessor, Source, Watermark};
use crate::scheduler::{To, Transition, Transitioned};
use crate::store::memory::MemoryStore;
use crate::store::sqlite::SqliteStore;
use crate::store::{About, Committed, Keys, LeaseId, Page, Range, Watch};
use crate::time::{Clock, Wall};

mod acts;
mod alerts;
mod claims;
mod drains;
mod history;
mod last;
mod requests;
mod rewind;
mod stats;
mod terms;
mod transitions;

/// 2026-11-21T00:00:00Z.
const T0: Wall = Wall::from_millis(1_795_219_200_000);

fn at(seconds: u64) -> Wall {
    T0.plus(Duration::from_secs(seconds))
}

fn job() -> JobName {
    JobName::new("a").unwrap()
}

/// What becomes of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// It is applied, and the answer is lost.
    AnswerLost,
    /// It is lost on its way.
    Lost,
    /// The store finds it too large.
    Refused,
    /// None.
    Passes,
}

/// A store that lets the next transactions meet these faults.
#[derive(Clone, Debug)]
struct Faulty<S> {
    inner: S,
    faults: Arc<Mutex<VecDeque<Fault>>>,
}

fn unknown() -> StoreError {
    StoreError::Unknown { store: "faulty".into(), why: "on purpose".into() }
}

impl<S: Store> Store for Faulty<S> {
    async fn commit(&self, txn: Txn) -> Result<Committed, StoreError> {
        let fault = self.faults.lock().unwrap().pop_front();
        match fault {
            None | Some(Fault::Passes) => self.inner.commit(txn).await,
            Some(Fault::AnswerLost) => {
                self.inner.commit(txn).await?;
                Err(unknown())
            }
            Some(Fault::Lost) => Err(unknown()),
            Some(Fault::Refused) => Err(StoreError::Refused("too large".into())),
        }
    }

    async fn grant(&self, ttl: Duration) -> Result<(LeaseId, Duration), StoreError> {
        self.inner.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, StoreError> {
        self.inner.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.inner.revoke(lease).await
    }

    async fn range(&self, range: Range) -> Result<Page, StoreError> {
        self.inner.range(range).await
    }

    async fn watch(&self, keys: Keys, from: Revision) -> Result<Watch, StoreError> {
        self.inner.watch(keys, from).await
    }

    async fn about(&self) -> Result<About, StoreError> {
        self.inner.about().await
    }

    async fn apart(&self) -> Result<Self, StoreError> {
        Ok(Faulty { inner: self.inner.apart().await?, faults: Arc::clone(&self.faults) })
    }
}

/// A ledger, and the hold of whoever leads.
struct Desk<S: Store> {
    ledger: Ledger<Faulty<S>>,
    locks: Locks<Faulty<S>>,
    session: Session<Faulty<S>>,
    hold: Hold,
}

impl Desk<MemoryStore> {
    async fn new() -> Desk<MemoryStore> {
        Desk::over(MemoryStore::new(Clock::system())).await
    }
}

impl<S: Store> Desk<S> {
    async fn over(inner: S) -> Desk<S> {
        let store = Faulty { inner, faults: Arc::default() };
        let namespace = Namespace::new("test").unwrap();
        let locks = Locks::new(store.clone(), Clock::system(), namespace.clone(), Seen::default());
        let session = Desk::open_session(&locks).await;
        let hold = locks.election(LockName::leader()).campaign(&session, CallId::random()).await.unwrap().hold;
        Desk { ledger: Ledger::new(store, namespace), locks, session, hold }
    }

    async fn open_session(locks: &Locks<Faulty<S>>) -> Session<Faulty<S>> {
        let presence = Presence { node: "n".into(), record: b"of a newer version".to_vec() };
        let timing = Timing::from_ttl(Duration::from_secs(60)).unwrap();
        locks.open_session(presence, timing, Driver::Task).await.unwrap()
    }

    /// Somebody else leads from now on.
    async fn replaced(&mut self) {
        let election = self.locks.election(LockName::leader());
        election.resign(&crate::lock::Term { hold: self.hold.clone() }).await.unwrap();
        let session = Desk::open_session(&self.locks).await;
        self.hold = election.campaign(&session, CallId::random()).await.unwrap().hold;
        self.session = session;
    }

    fn claims(&self) -> Claims {
        Claims::new(self.hold.clone(), 0)
    }

    fn meets(&self, faults: impl IntoIterator<Item = Fault>) {
        self.ledger.store.faults.lock().unwrap().extend(faults);
    }

    fn claimant(&self) -> Claimant {
        Claimant { node: "n".into(), fence: self.hold.fence(), lease: self.hold.lease().0.get() }
    }

    /// The occurrence at this second, claimed.
    fn open(&self, second: u64) -> Open {
        open(second, OpenState::Claimed, Some(self.claimant()))
    }

    fn batch(&self, number: u64, seconds: &[u64]) -> Batch {
        let instant = at(*seconds.last().unwrap());
        Batch {
            number,
            fence: self.hold.fence(),
            opens: seconds.iter().map(|second| self.open(*second)).collect(),
            dones: Vec::new(),
            replaced: Vec::new(),
            alerts: Vec::new(),
            known: Vec::new(),
            watermark: Watermark { instant, job: Some(job()) },
            anew: false,
        }
    }

    /// The occurrences at these seconds are claimed, at this version.
    async fn claimed(&self, seconds: &[u64]) -> Version {
        match self.ledger.claim(&mut self.claims(), &self.batch(1, seconds)).await.unwrap() {
            Claim::Made { version } => version,
            other => panic!("{other:?}"),
        }
    }

    fn ends(&self, second: u64, expect: Version, verdict: Verdict) -> Transition {
        let done = Done::of(&self.open(second), verdict, "", at(second + 1));
        Transition { run: run(second), expect, fence: None, to: To::Done { done, follow: Vec::new() }, notify: None }
    }

    async fn verdict(&self, run: &RunId) -> Option<Verdict> {
        self.ledger.run(run).await.unwrap().and_then(|row| row.verdict())
    }

    async fn is_open(&self, run: &RunId) -> bool {
        matches!(self.ledger.run(run).await.unwrap(), Some(RunRow::Open(_)))
    }

    /// This verdict is in the history.
    async fn ended(&self, second: u64, verdict: Verdict) {
        let done = Done::of(&self.open(second), verdict, "", at(second));
        let put = Op::put(self.ledger.keys.done(&done.id), encode(DoneRecord::from(&done)));
        self.ledger.store.inner.commit(Txn::new().then(put)).await.unwrap();
    }
}

fn run(second: u64) -> RunId {
    RunId::of(&job(), at(second))
}

fn open(second: u64, state: OpenState, claimant: Option<Claimant>) -> Open {
    Open { state, claimant, ..Open::claimed(run(second)) }
}

fn asked() -> Asked {
    Asked::new("eve", at(9))
}

/// An act of eve's that is no other's.
fn acting() -> Acting {
    Acting::fresh(asked())
}
