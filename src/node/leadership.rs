//! Sessions, campaigns and terms: how the loop comes to lead, and how it leaves.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Answer, LAST_WORDS, PUBLISH_EVERY, Running, Standing, Stopping};
use crate::execute::Execute;
use crate::job::StopReason;
use crate::ledger::{Claims, NodeRecord};
use crate::lock::{CallId, CampaignError, Ended, Presence, Session, SessionError, StoreWentBack, Term};
use crate::scheduler::Event;
use crate::store::{Revision, Store, StoreError};
use crate::time::{Wall, written};

/// The pause before a session is opened, or a campaign begun, again after a failure.
const PAUSE: Duration = Duration::from_millis(500);

/// The pause before another attempt where the last one was refused for a reason that somebody has to remove.
const PAUSE_AT_OBSTACLE: Duration = Duration::from_secs(2);

/// What no attempt has met for so long is not in the way any more: the present one waits in the queue.
const OBSTACLE_LASTS: Duration = Duration::from_secs(5);

/// How often, and how many times, it is looked whether nobody uses a session any more that is over.
const LET_GO_EVERY: Duration = Duration::from_millis(10);
const LET_GO_LOOKS: u32 = 500;

/// How long a new node waits to hear what the others' clocks show before it campaigns all the same.
const CLOCKS_HEARD_WITHIN: Duration = Duration::from_secs(1);

/// The session once nobody else holds it; `None`, where that does not come to be, and it ends by itself.
async fn let_go<S>(mut session: Arc<Session<S>>) -> Option<Session<S>> {
    for _ in 0..LET_GO_LOOKS {
        // Whoever was told to stop using it does so once it has had its turn.
        tokio::time::sleep(LET_GO_EVERY).await;
        session = match Arc::try_unwrap(session) {
            Ok(session) => return Some(session),
            Err(shared) => shared,
        };
    }
    None
}

impl<S: Store, E: Execute> Running<S, E> {
    /// Opens a session, trying until there is one.
    pub(super) fn open_session(&mut self) {
        self.standing = Standing::Away;
        let record = self.record();
        self.publications.sent(record.clock, self.options.clock.boot());
        let presence = Presence { node: self.options.name.clone(), record: record.encode() };
        let (locks, timing, driver) = (self.locks.clone(), self.options.timing, self.options.driver);
        let pause = if self.obstacle().is_some() { PAUSE_AT_OBSTACLE } else { Duration::ZERO };
        let pause = pause.max(self.reopening.pause(self.options.clock.boot()));
        self.tasks.spawn(async move {
            tokio::time::sleep(pause).await;
            loop {
                match locks.open_session(presence.clone(), timing, driver).await {
                    Err(SessionError::Store(error)) if error.is_passing() => {
                        tracing::warn!(%error, "no session with the store yet; trying again");
                    }
                    Err(SessionError::Ended { .. }) => tracing::warn!("the session ended as it began; opening another"),
                    result => return Answer::Session(result),
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
    }

    pub(super) fn session_opened(&mut self, result: Result<Session<S>, SessionError>) {
        match result {
            Ok(session) => {
                let lease = session.lease().0.get();
                tracing::info!(lease = %session.lease(), node = self.options.name, "opened a session");
                self.trust = Some(session.trust());
                self.session = Some(Arc::new(session));
                // The record that it was opened with may have been long under way.
                self.published_at = None;
                self.present_since = self.options.clock.boot();
                self.standing = Standing::Idle;
                self.tell(Event::Session { lease });
            }
            Err(error) => {
                tracing::error!(%error, "cannot open a session; trying again");
                self.obstacle = Some((error.to_string(), self.options.clock.boot()));
                self.open_session();
            }
        }
    }

    /// Stands in the queue, unless it does, or the node is leaving or stands back.
    pub(super) fn campaign(&mut self) {
        if self.standing != Standing::Idle || self.stopping.is_some_and(|stopping| stopping.leave) {
            return;
        }
        self.look_at_clocks();
        let Some(session) = self.session.clone() else { return };
        let may_not = !self.gate.is_open() || self.stands_back.is_some() || self.damage.is_some();
        if may_not || self.position.is_none() || self.waits_for_clocks(&session) {
            return;
        }
        let call = CallId::random();
        let election = self.election.clone();
        self.standing = Standing::Campaigning(call);
        let now = self.options.clock.boot();
        let just_lost = self.lost_at.is_some_and(|at| now.since(at) < PAUSE);
        let pause = match self.obstacle() {
            Some(_) => PAUSE_AT_OBSTACLE,
            // Whatever takes every term away must not be met with elections as fast as the store can hold them.
            None if just_lost => PAUSE,
            None => Duration::ZERO,
        };
        self.campaign = Some(self.tasks.spawn(async move {
            tokio::time::sleep(pause).await;
            Answer::Campaign(call, election.campaign(&session, call).await)
        }));
    }

    /// What keeps the node from taking part.
    pub(super) fn obstacle(&self) -> Option<&str> {
        let (what, met_at) = self.obstacle.as_ref()?;
        (self.options.clock.boot().since(*met_at) < OBSTACLE_LASTS).then_some(what)
    }

    /// The watermark cannot be gone by (`None`: it can): this node does not lead, or it would fire again what was fired.
    pub(super) fn damaged(&mut self, damage: Option<String>) {
        if self.damage == damage {
            return;
        }
        self.damage = damage;
        self.published_at = None;
        let Some(why) = self.damage.clone() else {
            return tracing::info!("the watermark can be gone by again");
        };
        tracing::error!("this node does not lead: {why}");
        if let Standing::Campaigning(call) = self.standing {
            if let Some(campaign) = self.campaign.take() {
                campaign.abort();
            }
            self.withdraw(call);
        }
        self.lose_term(&why);
    }

    /// Looks whether the store still knows of all that was seen of it, and tells the others where it does not.
    pub(super) fn verify(&mut self) {
        let locks = self.locks.clone();
        self.tasks.spawn(async move { Answer::Verified(locks.verify().await) });
    }

    pub(super) fn verified(&mut self, result: Result<Result<(), StoreWentBack>, StoreError>) {
        match result {
            Ok(Ok(())) => {}
            Ok(Err(went_back)) => {
                self.obstacle = Some((went_back.to_string(), self.options.clock.boot()));
                self.lose_term(&went_back.to_string());
            }
            Err(error) => tracing::debug!(%error, "could not look whether the store is as old as it was"),
        }
    }

    /// Whether the nodes that are there may yet say what their clocks show: they do when they see a new session.
    fn waits_for_clocks(&self, session: &Session<S>) -> bool {
        let own = session.lease().0.get();
        let unheard = self.nodes.keys().any(|lease| *lease != own && !self.clocks.has_heard(*lease));
        unheard && self.options.clock.boot().since(self.present_since) < CLOCKS_HEARD_WITHIN
    }

    pub(super) fn campaigned(&mut self, call: CallId, result: Result<Term, CampaignError>) {
        if self.standing != Standing::Campaigning(call) {
            return;
        }
        self.campaign = None;
        match result {
            Ok(Term { hold }) => {
                self.obstacle = None;
                self.won_at = self.options.clock.boot();
                self.standing = Standing::Won(hold);
                self.act_if_caught_up();
            }
            Err(CampaignError::SessionEnded(why)) => {
                tracing::warn!(%why, "the session ended while waiting for the leadership");
                self.standing = Standing::Idle;
                self.replace_session();
            }
            // Not the session's end: what the node runs under it goes on.
            Err(CampaignError::TrustLapsed) => {
                tracing::warn!("the leadership was won too late to be acted on: given back, and campaigning again");
                self.lost_at = Some(self.options.clock.boot());
                self.withdraw(call);
            }
            Err(CampaignError::OtherCall(other)) => {
                tracing::warn!(call = %other, "an earlier call of this session still stands: taking it back");
                self.withdraw(other);
            }
            Err(error) => {
                tracing::error!(%error, "cannot campaign");
                self.obstacle = Some((error.to_string(), self.options.clock.boot()));
                self.withdraw(call);
            }
        }
    }

    fn withdraw(&mut self, call: CallId) {
        let (Some(session), election) = (self.session.clone(), self.election.clone()) else { return };
        self.standing = Standing::Withdrawing(call);
        self.tasks.spawn(async move {
            if let Err(error) = election.withdraw(&session, call).await {
                tracing::warn!(%error, "could not leave the queue for the leadership");
            }
            Answer::Withdrawn(call)
        });
    }

    pub(super) fn withdrawn(&mut self, call: CallId) {
        if self.standing == Standing::Withdrawing(call) {
            self.standing = Standing::Idle;
        }
    }

    /// Acts as leader once the ledger has been seen up to the election: then nothing that an earlier leader wrote is
    /// still to come.
    pub(super) fn act_if_caught_up(&mut self) {
        let Standing::Won(hold) = &self.standing else { return };
        if self.position.is_none_or(|position| position < hold.created()) {
            return;
        }
        let hold = hold.clone();
        if self.owner.is_none_or(|(created, _)| created != hold.created()) {
            return self.lose_term("its owner key was gone again by the time the ledger was seen up to the election");
        }
        if let Some(why) = self.stands_back.clone() {
            return self.lose_term(&why);
        }
        let fence = hold.fence();
        tracing::info!(%fence, node = self.options.name, "leading");
        self.claims = Some(Claims::new(hold.clone(), self.scheduler.view().watermark_version));
        self.rewound_at = 0;
        self.standing = Standing::Leading(hold);
        self.acting.store(fence.get(), Ordering::SeqCst);
        self.tell(Event::Elected { fence });
        if self.stopping.is_none() {
            self.tell(Event::Undrain);
        }
        self.look_at_trust();
    }

    /// A term that was won and cannot be acted on, since the ledger is not heard of, is given to another.
    fn give_up_unheard(&mut self) {
        let waited = self.options.clock.boot().since(self.won_at);
        if matches!(self.standing, Standing::Won(_)) && waited > self.options.timing.ttl() {
            self.lose_term("the ledger was not seen up to the election in time");
        }
    }

    /// Tells the keep-alive that the loop turns: the session of a node that hangs is not to be kept alive for long.
    pub(super) fn attend(&mut self) {
        if let Some(session) = &self.session {
            session.attend(self.options.clock.boot());
        }
        self.give_up_unheard();
    }

    /// The key of the leader's owner changed: the one that this node holds is either the one that stands, or lost.
    pub(super) fn heard_of_owner(&mut self, key: &str, at: Revision, created: Option<(Revision, Option<u64>)>) {
        if key != self.election.owner_key() {
            return;
        }
        self.owner = created;
        let lost = self.hold().is_some_and(|hold| match created {
            Some((created, _)) => created > hold.created(),
            None => at >= hold.created(),
        });
        if lost {
            self.lose_term("its owner key is gone from the store");
        }
    }

    /// This node leads no more: nothing is started from here on, and what runs is stopped or finished as its job says.
    pub(super) fn lose_term(&mut self, why: &str) {
        let Some(hold) = self.hold().cloned() else { return };
        tracing::warn!(fence = %hold.fence(), why, "leading no more");
        self.lost_at = Some(self.options.clock.boot());
        self.acting.store(0, Ordering::SeqCst);
        self.claims = None;
        self.told_trust = false;
        self.tell(Event::Deposed);
        self.resign(crate::lock::Term { hold });
    }

    /// Gives the hold back, or makes sure that it is gone; then campaigns anew.
    fn resign(&mut self, term: Term) {
        self.standing = Standing::Resigning;
        let election = self.election.clone();
        self.tasks.spawn(async move {
            if let Err(error) = election.resign(&term).await {
                tracing::warn!(%error, "could not resign: the leadership ends with the session");
            }
            Answer::Resigned
        });
    }

    pub(super) fn resigned(&mut self) {
        if self.standing == Standing::Resigning {
            self.standing = Standing::Idle;
        }
    }

    /// The session's trust was extended, or the session has ended.
    pub(super) fn trust_moved(&mut self) {
        let Some(trust) = &self.trust else { return };
        let unattended = trust.has_changed().is_err().then_some(Ended::Unattended);
        let ended = trust.borrow().ended.or(unattended);
        let Some(ended) = ended else { return };
        tracing::warn!(why = %ended, "the session has ended");
        self.replace_session();
    }

    /// The session is over, though its lease may live on (its key was deleted, as a repair does): another is opened.
    fn replace_session(&mut self) {
        self.lose_term("its session has ended");
        if let Some(campaign) = self.campaign.take() {
            campaign.abort();
        }
        self.trust = None;
        if let Some(session) = self.session.take() {
            self.tasks.spawn(async move {
                let closed = match let_go(session).await {
                    Some(session) => session.close().await,
                    None => Ok(()),
                };
                Answer::Done("close a session that is over", closed)
            });
        }
        if self.stopping.is_none_or(|stopping| !stopping.leave) {
            self.open_session();
        } else {
            self.standing = Standing::Away;
        }
    }

    /// Tells the scheduler whether it may act, where that changed.
    pub(super) fn look_at_trust(&mut self) {
        let now = self.options.clock.boot();
        let trusted = matches!(self.standing, Standing::Leading(_))
            && self.trust.as_ref().is_some_and(|trust| trust.borrow().holds(now));
        if trusted != self.told_trust {
            self.told_trust = trusted;
            if !trusted && matches!(self.standing, Standing::Leading(_)) {
                tracing::warn!("the lease may end soon and the store does not answer: nothing new is started");
            }
            self.tell(Event::Trust(trusted));
        }
    }

    /// Compares the clocks, and stands back from the leadership where this node's is off.
    pub(super) fn look_at_clocks(&mut self) {
        let Some(session) = &self.session else { return };
        let own = session.lease().0.get();
        let leader = self.hold().map(|_| own).or(self.owner.and_then(|(_, lease)| lease));
        let stands_back = self.clocks.stands_back(own, leader, self.options.max_clock_skew);
        if stands_back.is_some() == self.stands_back.is_some() {
            self.stands_back = stands_back;
            return;
        }
        self.stands_back = stands_back;
        self.published_at = None;
        match (self.stands_back.clone(), &self.standing) {
            (Some(why), Standing::Campaigning(call)) => {
                tracing::warn!("this node does not campaign: {why}");
                let call = *call;
                if let Some(campaign) = self.campaign.take() {
                    campaign.abort();
                }
                self.withdraw(call);
            }
            // From here on it claims nothing more, so that nothing is decided before its time, or skipped.
            (Some(why), Standing::Leading(_)) if self.stopping.is_none() => {
                tracing::warn!("this node steps down: {why}");
                self.drain(false);
            }
            (Some(why), _) => tracing::warn!("this node does not campaign: {why}"),
            (None, _) => tracing::info!("this node's clock agrees with the others' again"),
        }
    }

    /// Looks whether the wall clock was set, before anything is decided by it; answers what it says.
    pub(super) fn look_at_own_clock(&mut self) -> Wall {
        let (boot, wall) = self.options.clock.both();
        if let Some(by) = self.steps.look(boot, wall) {
            let what = self.troubles.clock_set(by, (boot, wall));
            tracing::warn!(
                "{what}: time that was jumped over counts as missed, and what is decided is not decided again"
            );
            self.clocks.own_was_set(by);
            self.published_at = None;
            self.look_at_clocks();
        }
        wall
    }

    /// Says when the clock falls behind what has been decided, and when it has caught up.
    pub(super) fn look_at_watermark(&mut self) {
        let decided = self.scheduler.view().watermark.as_ref().map(|mark| mark.instant);
        let (now, most) = (self.options.clock.wall(), self.options.max_clock_skew);
        match self.troubles.behind(decided, now, most) {
            None => return,
            Some("") => tracing::info!("this node's clock has caught up with what has been decided"),
            Some(what) => tracing::warn!("this node: {what}"),
        }
        self.published_at = None;
    }

    /// Says when the store has not answered for so long that the session may have ended, and when it answers again.
    pub(super) fn look_at_silence(&mut self) {
        let Some(trust) = self.trust.as_ref().map(|trust| *trust.borrow()) else { return };
        let now = self.options.clock.boot();
        if trust.holds(now) {
            if let Some(since) = self.silent_since.take() {
                let away = written(Duration::from_secs(now.since(since).as_secs()));
                tracing::info!(%away, "the store is back: it had not answered for {away}");
            }
        } else if trust.ended.is_none() && self.silent_since.is_none() {
            let timing = self.options.timing;
            // When the last keep-alive was sent that was acknowledged.
            let since = trust.trusted_until.minus(timing.ttl().saturating_sub(timing.margin()));
            self.silent_since = Some(since);
            let silent = written(Duration::from_secs(now.since(since).as_secs()));
            tracing::warn!(%silent, "the store has not answered for {silent}");
        }
    }

    fn record(&self) -> NodeRecord {
        let boot = self.options.clock.boot();
        NodeRecord {
            node: self.options.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            config_digest: self.config_digest.clone(),
            started_at: self.started_at,
            address: self.options.address.clone(),
            clock: self.options.clock.wall(),
            stands_back: self
                .stands_back
                .clone()
                .or_else(|| self.damage.clone())
                .or_else(|| self.gate.closed())
                .or_else(|| self.gate.refused()),
            heard: self.position.map_or(0, |position| position.0),
            troubles: self.troubles.in_the_way().chain(self.troubles.beside(boot)).cloned().collect(),
        }
    }

    /// Publishes the node's record now and then, and when it has changed.
    pub(super) fn publish_in_time(&mut self) {
        let now = self.options.clock.wall();
        let due = self.published_at.is_none_or(|at| now.since(at) >= PUBLISH_EVERY || at > now);
        let Some(session) = self.session.clone().filter(|_| due && !self.publishing) else { return };
        self.published_at = Some(now);
        self.publishing = true;
        let record = self.record();
        self.publications.sent(record.clock, self.options.clock.boot());
        let record = record.encode();
        self.tasks.spawn(async move { Answer::Published(session.publish(record).await) });
    }

    pub(super) fn published(&mut self, result: Result<(), SessionError>) {
        self.publishing = false;
        let now = self.options.clock.wall();
        let why = match &result {
            Err(SessionError::Store(error)) => Some(error.to_string()),
            Err(_) | Ok(()) => None,
        };
        let takes_writes = why.is_none();
        if self.troubles.unwritten(why, now) && takes_writes {
            tracing::info!("the store takes what this node writes again");
            self.published_at = None;
        }
        let Err(error) = result else { return };
        tracing::warn!(%error, "could not publish this node's record");
        let own = self.session.as_ref().map(|session| session.lease());
        if matches!(error, SessionError::Ended { lease, .. } if Some(lease) == own) {
            self.replace_session();
        }
    }

    /// Starts nothing new; what runs may end within the grace. Then the node leaves, or steps down.
    pub(super) fn drain(&mut self, leave: bool) {
        let now = self.options.clock.boot();
        let patience_until = now.plus(self.options.shutdown_grace);
        let give_up_at = patience_until.plus(self.longest_kill()).plus(LAST_WORDS);
        self.stopping = Some(Stopping { patience_until, give_up_at, told: false, drained: false, leave });
        // What waits for its turn in the executor does not start any more; it is given back.
        self.acting.store(0, Ordering::SeqCst);
        if leave && let Standing::Campaigning(call) = self.standing {
            if let Some(campaign) = self.campaign.take() {
                campaign.abort();
            }
            self.withdraw(call);
        }
        if leave {
            self.gate.leave();
        }
        self.tell(Event::Drain { wait_for_finish: leave });
    }

    fn longest_kill(&self) -> Duration {
        let jobs = self.scheduler.active().filter_map(|run| self.scheduler.jobs().get(&run.job()));
        jobs.map(|job| job.kill_after).max().unwrap_or_default()
    }

    pub(super) fn drained(&mut self) {
        if let Some(stopping) = &mut self.stopping {
            stopping.drained = true;
        }
    }

    /// Goes on with stopping or stepping down, as time passes.
    pub(super) fn push_on_stopping(&mut self) {
        let Some(mut stopping) = self.stopping else { return };
        let now = self.options.clock.boot();
        let runs = !stopping.drained || self.gate.is_making();
        if runs && !stopping.told && now >= stopping.patience_until {
            stopping.told = true;
            self.stopping = Some(stopping);
            tracing::warn!(running = self.runs.len(), "the grace is over: stopping what still runs");
            self.gate.stop();
            self.tell(Event::StopAll(StopReason::Shutdown));
        }
        let Some(stopping) = self.stopping else { return };
        if !stopping.leave && (stopping.drained || now >= stopping.give_up_at) {
            self.stopping = None;
            self.step_down_now();
        }
    }

    fn step_down_now(&mut self) {
        if let Some(hold) = self.hold().cloned() {
            tracing::info!(fence = %hold.fence(), "stepping down");
            self.acting.store(0, Ordering::SeqCst);
            self.claims = None;
            self.told_trust = false;
            self.tell(Event::Deposed);
            self.resign(Term { hold });
        }
        self.tell(Event::Undrain);
    }

    /// Whether everything that had to end has ended, or has had its time.
    pub(super) fn may_leave(&self) -> bool {
        let Some(stopping) = self.stopping.filter(|stopping| stopping.leave) else { return false };
        (stopping.drained && !self.gate.is_making()) || self.options.clock.boot() >= stopping.give_up_at
    }

    /// The last acts: resigns, and closes the session.
    pub(super) async fn leave(mut self) {
        self.acting.store(0, Ordering::SeqCst);
        let hold = self.hold().cloned();
        self.tasks.shutdown().await;
        let last_words = async {
            if let Some(hold) = hold {
                if let Err(error) = self.election.resign(&Term { hold }).await {
                    tracing::warn!(%error, "could not resign: the leadership ends with the session");
                } else {
                    tracing::info!("resigned");
                }
            }
            if let Some(session) = self.session.take().and_then(Arc::into_inner)
                && let Err(error) = session.close().await
            {
                tracing::warn!(%error, "could not close the session: it ends by itself");
            }
        };
        if tokio::time::timeout(LAST_WORDS, last_words).await.is_err() {
            tracing::warn!("the store does not answer: leadership and session end by themselves");
        }
    }
}
