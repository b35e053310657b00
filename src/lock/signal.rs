//! The signal by which the holder of a lock learns that its hold is over.

use std::fmt;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::contest::{Noticed, RECHECK_EVERY, next_change};
use super::hold::Proof;
use super::session::{RECHECK, SessionEnd, Trust};
use super::{Backoff, Locks};
use crate::store::{Keys, Range, Store};
use crate::time::Clock;

/// Why a hold is over, or may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Lost {
    /// Its session is over.
    SessionEnded(SessionEnd),
    /// No keep-alive was acknowledged in time: the store may give the lock to another from about now on. It may also
    /// be that the hold goes on; but nothing more should be done under it without asking.
    TrustLapsed,
    /// Its key is gone: an operator took the lock away, or destroyed it.
    Taken,
    /// It lasted for as long as the lock's configuration lets a hold last.
    HeldTooLong,
    /// Its holder released it.
    Released,
}

impl Lost {
    /// What to do where nothing was had under a session: after a lapse the session may go on, otherwise it is `over`.
    pub(super) fn remedy(self, over: &'static str) -> &'static str {
        if self == Lost::TrustLapsed { "the session may go on, so try again" } else { over }
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lost::SessionEnded(why) => write!(f, "the session is over: {why}"),
            Lost::TrustLapsed => f.write_str("no keep-alive was acknowledged in time"),
            Lost::Taken => f.write_str("the lock was revoked"),
            Lost::HeldTooLong => f.write_str("it was held for as long as it may be"),
            Lost::Released => f.write_str("it was released"),
        }
    }
}

/// The end of a hold or of a session, for all that rely on it. The first reason stays.
#[derive(Clone, Debug)]
pub(super) struct Over<W>(watch::Sender<Option<W>>);

/// What its holder knows of the end of a hold.
pub(super) type HoldOver = Over<Lost>;

impl<W> Default for Over<W> {
    fn default() -> Over<W> {
        Over(watch::Sender::new(None))
    }
}

impl<W: Copy> Over<W> {
    /// It is over.
    pub fn end(&self, why: W) {
        self.0.send_if_modified(|over| over.is_none() && over.replace(why).is_none());
    }

    pub fn why(&self) -> Option<W> {
        *self.0.borrow()
    }

    pub async fn ended(&self) -> W {
        let mut over = self.0.subscribe();
        loop {
            if let Some(why) = *over.borrow_and_update() {
                return why;
            }
            // It cannot fail while `self` keeps the sender.
            over.changed().await.ok();
        }
    }
}

/// Fires when a hold is over, as far as can be known here: at the end of the trust window at the latest, by the clock
/// of this machine, also without a network. A process that stands still receives no signal; then the fence protects.
///
/// It watches the lock for as long as it lives.
#[derive(Debug)]
pub struct HoldSignal {
    lookout: Lookout,
    _vigil: AbortOnDropHandle<()>,
}

/// What is known of a hold at any moment, for its signal and for code that hands something out under it.
#[derive(Clone, Debug)]
pub(crate) struct Lookout {
    lost: watch::Receiver<Option<Lost>>,
    token: CancellationToken,
    /// What a look at the clock found before the watching task had run. It stays, as every reason does.
    noticed: HoldOver,
    trust: watch::Receiver<Trust>,
    clock: Clock,
}

impl Lookout {
    /// Why the hold is over or may be, at this moment.
    pub fn lost(&self) -> Option<Lost> {
        let reported = *self.lost.borrow();
        reported.or_else(|| self.noticed.why()).or_else(|| {
            let why = self.trust.borrow().lost(self.clock.boot())?;
            self.noticed.end(why);
            self.token.cancel();
            Some(why)
        })
    }
}

/// The parts of a hold's signal, for a caller that may want one later: nothing is watched before.
#[derive(Clone, Debug)]
pub(crate) struct SignalSource<S> {
    locks: Locks<S>,
    proof: Proof,
    trust: watch::Receiver<Trust>,
    over: HoldOver,
}

impl<S: Store> SignalSource<S> {
    pub(super) fn new(
        locks: &Locks<S>,
        proof: Proof,
        trust: watch::Receiver<Trust>,
        over: HoldOver,
    ) -> SignalSource<S> {
        SignalSource { locks: locks.clone(), proof, trust, over }
    }

    /// The signal.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn signal(&self) -> HoldSignal {
        HoldSignal::of(&self.locks, self.proof.clone(), self.trust.clone(), self.over.clone())
    }

    /// Why the hold is over or may be, as far as that is known without watching it.
    pub fn lost(&self) -> Option<Lost> {
        self.over.why().or_else(|| self.trust.borrow().lost(self.locks.clock().boot()))
    }
}

impl HoldSignal {
    pub(super) fn of<S: Store>(
        locks: &Locks<S>,
        proof: Proof,
        trust: watch::Receiver<Trust>,
        over: HoldOver,
    ) -> HoldSignal {
        let (publish, lost) = watch::channel(None);
        let token = CancellationToken::new();
        let (store, clock, cancel) = (locks.store.clone(), locks.clock.clone(), token.clone());
        let noticed = HoldOver::default();
        let lookout =
            Lookout { lost, token, noticed: noticed.clone(), trust: trust.clone(), clock: locks.clock.clone() };
        let vigil = tokio::spawn(async move {
            let why = tokio::select! {
                biased;
                why = over.ended() => why,
                why = noticed.ended() => why,
                why = end_of_trust(trust, clock) => why,
                () = end_of_key(&store, &proof) => Lost::Taken,
            };
            publish.send_replace(Some(why));
            cancel.cancel();
        });
        HoldSignal { lookout, _vigil: AbortOnDropHandle::new(vigil) }
    }

    /// Waits until the hold is over. Each waiter looks at the clock as well: what watches the hold may not have had its
    /// turn, or its runtime may be gone.
    pub async fn lost(&self) -> Lost {
        if let Some(why) = self.lookout.lost() {
            return why;
        }
        let mut lost = self.lookout.lost.clone();
        let watched = async {
            match lost.wait_for(Option::is_some).await.map(|lost| *lost) {
                Ok(lost) => lost.unwrap_or(Lost::Released),
                Err(_) => std::future::pending().await,
            }
        };
        let lookout = &self.lookout;
        tokio::select! {
            biased;
            why = watched => why,
            why = end_of_trust(lookout.trust.clone(), lookout.clock.clone()) => lookout.lost().unwrap_or(why),
        }
    }

    /// Why the hold is over, or may be, at this moment: also before the watching task has run.
    pub fn is_lost(&self) -> Option<Lost> {
        self.lookout.lost()
    }

    pub(crate) fn lookout(&self) -> Lookout {
        self.lookout.clone()
    }

    /// A token that is cancelled when the hold is over.
    pub fn token(&self) -> CancellationToken {
        self.lookout.token.clone()
    }
}

async fn end_of_trust(mut trust: watch::Receiver<Trust>, clock: Clock) -> Lost {
    let mut attended = true;
    loop {
        let current = *trust.borrow_and_update();
        let now = clock.boot();
        if let Some(why) = current.lost(now) {
            return why;
        }
        tokio::select! {
            changed = trust.changed(), if attended => attended = changed.is_ok(),
            // The timers of a machine stand still while it is suspended.
            () = tokio::time::sleep(current.trusted_until.since(now).min(RECHECK)) => {}
        }
    }
}

/// Each read gives the revision from which to watch: a hold may be older than the history that the store keeps.
async fn end_of_key<S: Store>(store: &S, proof: &Proof) {
    let key = || Keys::one(proof.key.as_str());
    let (mut from, mut backoff) = (proof.created.next(), Backoff::new());
    loop {
        if let Ok(mut watch) = Box::pin(store.watch(key(), from)).await {
            let heard = tokio::time::timeout(RECHECK_EVERY, next_change(&mut watch)).await;
            match (heard, Box::pin(store.range(Range::of(key()))).await) {
                (_, Ok(page)) if !page.entries.iter().any(|entry| proof.is_shown_by(entry)) => return,
                (Ok(Noticed::Nothing), _) | (_, Err(_)) => {}
                (_, Ok(page)) => {
                    from = page.revision.next();
                    backoff.reset();
                    continue;
                }
            }
        }
        backoff.wait().await;
    }
}
