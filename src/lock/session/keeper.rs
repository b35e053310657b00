//! What keeps a session alive: the keep-alives to the store, and what their answers mean for the session's trust.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};

use super::{Delays, RECHECK, SessionEnd, Trust, TrustListener};
use crate::lock::errands::{ERRANDS_AT_ONCE, Errands};
use crate::lock::lease::{Lease, Renewal, Timing};
use crate::lock::signal::Over;
use crate::store::{LeaseId, Store, StoreError};
use crate::threads;
use crate::time::{Boot, Clock};

/// How many keep-alives of one lease may be under way at once.
const QUESTIONS_AT_ONCE: usize = 4;

/// Keeps one lease alive and publishes its trust.
pub(super) struct Keeper<S> {
    pub store: S,
    pub clock: Clock,
    pub id: LeaseId,
    pub timing: Timing,
    pub lease: Lease,
    pub trust: watch::Sender<Trust>,
    pub listener: TrustListener,
    pub kept: Kept,
}

/// What a keeper shares with its session.
pub(super) struct Kept {
    pub attendance: Attendance,
    pub delays: Delays,
    pub errands: Errands,
    /// Ended by the session's owner, or by the call that found that the session's key is gone.
    pub over: Over<SessionEnd>,
}

/// When a session was last attended to, in milliseconds of the boot clock; 0: no user has reported yet.
#[derive(Clone, Debug, Default)]
pub(super) struct Attendance(Arc<AtomicU64>);

impl Attendance {
    pub fn note(&self, now: Boot) {
        let millis = u64::try_from(now.since_boot().as_millis()).unwrap_or(u64::MAX);
        self.0.store(millis.max(1), Ordering::Relaxed);
    }

    fn lapsed(&self, now: Boot, after: Duration) -> bool {
        let last = self.0.load(Ordering::Relaxed);
        last != 0 && now.since(Boot::from_duration(Duration::from_millis(last))) > after
    }
}

/// When a keep-alive was sent, and its result.
/// Runs the errands of a session that has ended: what was dropped right before the session is released all the same. They
/// compare what they change, so that they may run beside the end of its lease.
async fn run_what_is_left<S: Store>(left: &Errands, mut under_way: JoinSet<()>, store: &S, within: Duration) {
    let rest = async {
        while let Some(errand) = left.take() {
            under_way.spawn(errand.run(store.clone()));
        }
        while under_way.join_next().await.is_some() {}
    };
    if tokio::time::timeout(within, rest).await.is_err() {
        tracing::debug!("what was dropped right before its session ends with the lease of the session");
    }
}

type Answered = (Boot, Result<Duration, StoreError>);

impl<S: Store> Keeper<S> {
    pub fn on_a_thread(self) -> io::Result<()> {
        let work = move || match threads::runtime(&mut tokio::runtime::Builder::new_current_thread(), 0) {
            Ok(runtime) => runtime.block_on(self.run_apart()),
            Err(error) => {
                tracing::error!(%error, "the session cannot be kept alive: the system gives no threads for it");
                self.publish(Some(SessionEnd::Unattended));
            }
        };
        std::thread::Builder::new().name("fencron-lease".into()).spawn(work).map(drop)
    }

    /// Runs on a connection of its own, as soon as there is one.
    async fn run_apart(mut self) {
        let over = self.kept.over.clone();
        loop {
            let apart = tokio::select! {
                biased;
                why = over.ended() => return self.publish(Some(why)),
                apart = self.store.apart() => apart,
            };
            match apart {
                Ok(store) => {
                    self.store = store;
                    return self.run().await;
                }
                Err(error) => tracing::warn!(%error, session.lease = %self.id, "the keep-alive cannot connect yet"),
            }
            tokio::select! {
                biased;
                why = over.ended() => return self.publish(Some(why)),
                () = tokio::time::sleep(self.timing.answer_within()) => {}
            }
        }
    }

    pub async fn run(mut self) {
        let over = self.kept.over.clone();
        let (mut questions, mut errands, left) = (JoinSet::new(), JoinSet::new(), self.kept.errands.clone());
        let mut neglected = false;
        loop {
            let now = self.clock.boot();
            let neglected_before =
                std::mem::replace(&mut neglected, self.kept.attendance.lapsed(now, self.timing.ttl() * 2));
            if neglected && !neglected_before {
                tracing::error!(session.lease = %self.id, "the node hangs: its session is not kept alive any more");
            }
            let pause = match self.lease.next(now) {
                Renewal::Ended => return self.publish(Some(SessionEnd::Refused)),
                Renewal::Ask if neglected => RECHECK,
                Renewal::Ask if questions.len() < QUESTIONS_AT_ONCE => {
                    self.lease.asked(now);
                    let (store, id) = (self.store.clone(), self.id);
                    questions.spawn(async move { (now, store.keep_alive(id).await) });
                    continue;
                }
                Renewal::Ask => RECHECK,
                Renewal::WaitUntil(due) => due.since(now).min(RECHECK),
            };
            tokio::select! {
                biased; // An answer may be what makes the next question needless.
                why = over.ended() => {
                    self.publish(Some(why));
                    let (store, within) = (self.store.clone(), self.timing.ttl());
                    // Closing the session waits for this to be gone.
                    drop(self);
                    return run_what_is_left(&left, errands, &store, within).await;
                }
                Some(answer) = questions.join_next() => self.take_answer(answer),
                Some(_) = errands.join_next() => {}
                errand = left.next(), if errands.len() < ERRANDS_AT_ONCE => {
                    errands.spawn(errand.run(self.store.clone()));
                }
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn take_answer(&mut self, answer: Result<Answered, JoinError>) {
        let lease = self.id;
        match answer {
            Ok((asked_at, Ok(ttl))) => {
                self.lease.acknowledged(asked_at, ttl);
                self.publish(None);
                self.keep_delays();
            }
            Ok((_, Err(StoreError::LeaseEnded(_)))) => {
                tracing::warn!(session.lease = %lease, "the session's lease has ended");
                self.lease.end(self.clock.boot());
            }
            Ok((_, Err(error))) => tracing::warn!(%error, session.lease = %lease, "a keep-alive was not acknowledged"),
            Err(error) => tracing::error!(%error, session.lease = %lease, "a keep-alive broke off"),
        }
    }

    /// Only after the session's own lease was acknowledged: a delay counts from that lease's end.
    fn keep_delays(&self) {
        for lease in self.kept.delays.leases() {
            let (store, delays) = (self.store.clone(), self.kept.delays.clone());
            tokio::spawn(async move {
                match store.keep_alive(lease).await {
                    Ok(_) => {}
                    Err(StoreError::LeaseEnded(_)) => delays.forget(lease),
                    Err(error) => tracing::warn!(%error, %lease, "the keep-alive of a delay was not acknowledged"),
                }
            });
        }
    }

    fn publish(&self, ended: Option<SessionEnd>) {
        let trusted_until = match ended {
            None => self.lease.trusted_until(),
            Some(_) => self.lease.trusted_until().min(self.clock.boot()),
        };
        let trust = Trust { lease: self.id, trusted_until, ended };
        self.listener.notify(&trust);
        self.trust.send_if_modified(|published| std::mem::replace(published, trust) != trust);
    }
}
