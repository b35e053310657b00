//! How the loop comes to lead: the candidacy, its gate, and what the node makes of a term.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::oneshot;

use super::{Answer, Running};
use crate::execute::{Execute, MayStart};
use crate::fence::Fence;
use crate::ledger::{Claims, NewTerm, TermEnd};
use crate::lock::{Candidate, Hold, News, Session, StoreWentBack, Term, Trust};
use crate::scheduler::Event;
use crate::scheduler::run::Version;
use crate::store::{Revision, Store, StoreError};
use crate::time::{Boot, Clock, Wall};

/// How long a new node waits for the time of the others' clocks before it campaigns all the same.
const CLOCKS_SEEN_WITHIN: Duration = Duration::from_secs(1);

/// After how long the term before has its end in the store: a leader that gives the leadership back records that at the
/// same time.
const PREDECESSOR_SAYS_WITHIN: Duration = Duration::from_secs(1);

/// The node's candidacy, and its term.
pub(super) struct Leadership<S> {
    candidate: Candidate<S>,
    owner_key: String,
    role: Role,
    /// When the last election was won.
    won_at: Boot,
    /// When the session was opened.
    present_since: Boot,
    /// Whether the scheduler was last informed that it has trust.
    knows_trust: bool,
    /// The fence under which starting is allowed; 0: none. Read by the executor right before it starts something.
    acting: Arc<AtomicU64>,
    /// What claims under the term; `None` while a claim is under way.
    claims: Option<Claims>,
    /// The version at which a person last brought the watermark back.
    rewound_at: Version,
    /// Takes when the first occurrence of the term is claimed, for its record; `None`: it has been, or there is no term.
    first_claim: Option<oneshot::Sender<Wall>>,
    /// The owner key of the leader, as last seen: when it was created, and its lease.
    owner: Option<(Revision, Option<u64>)>,
    /// Since when this node knows that there is no leader, and with whose term that ended.
    vacant: Option<Vacancy>,
}

/// A time without a leader.
#[derive(Clone, Copy)]
struct Vacancy {
    since: Boot,
    /// When the owner key came to be with which it ended.
    until: Option<Revision>,
}

/// How the node stands towards the leadership.
#[derive(Debug, PartialEq, Eq)]
enum Role {
    Following,
    /// Won; acting once the ledger has been seen up to then.
    Won(Hold),
    Leading(Hold),
}

impl<S: Store> Leadership<S> {
    pub fn new(candidate: Candidate<S>, owner_key: String) -> Leadership<S> {
        Leadership {
            candidate,
            owner_key,
            role: Role::Following,
            won_at: Boot::default(),
            present_since: Boot::default(),
            knows_trust: false,
            acting: Arc::new(AtomicU64::new(0)),
            claims: None,
            rewound_at: 0,
            first_claim: None,
            owner: None,
            vacant: None,
        }
    }

    /// What becomes of the candidacy next. Cancel safe.
    pub async fn next(&mut self) -> News<S> {
        self.candidate.next().await
    }

    pub fn session(&self) -> Option<&Arc<Session<S>>> {
        self.candidate.session()
    }

    /// The lease of the session.
    pub fn lease(&self) -> Option<u64> {
        self.session().map(|session| session.lease().0.get())
    }

    pub fn trust(&self) -> Option<Trust> {
        self.candidate.trust().map(|trust| *trust.borrow())
    }

    /// Until when the leader may act without an answer of the store; `None` if it does not act.
    pub fn trusted_until(&self) -> Option<Boot> {
        self.trust().filter(|_| self.knows_trust).map(|trust| trust.trusted_until)
    }

    pub fn is_trusted(&self, now: Boot) -> bool {
        self.trust().is_some_and(|trust| trust.holds(now))
    }

    /// What keeps the node from taking part.
    pub fn obstacle(&self) -> Option<&str> {
        self.candidate.obstacle()
    }

    /// The record that the next session's key is to hold.
    pub fn present(&mut self, record: Vec<u8>) {
        self.candidate.present(record);
    }

    pub fn owner_key(&self) -> &str {
        &self.owner_key
    }

    /// The hold, whether the node acts under it yet or not.
    pub fn hold(&self) -> Option<&Hold> {
        match &self.role {
            Role::Won(hold) | Role::Leading(hold) => Some(hold),
            Role::Following => None,
        }
    }

    /// The hold, where it is the one of this fence.
    pub fn hold_under(&self, fence: Fence) -> Option<Hold> {
        self.hold().filter(|hold| hold.fence() == fence).cloned()
    }

    /// The hold that the node acts under.
    pub fn leading(&self) -> Option<&Hold> {
        match &self.role {
            Role::Leading(hold) => Some(hold),
            Role::Won(_) | Role::Following => None,
        }
    }

    /// Whether the fence base has been compared in this role, so that what is seen can be held against the store.
    pub fn has_compared_base(&self) -> bool {
        self.leading().is_some() || self.candidate.is_campaigning()
    }

    /// What claims under the term, for one claim. It is brought back with [`Leadership::claimed`].
    pub fn begin_claim(&mut self) -> Option<Claims> {
        self.claims.take()
    }

    /// Something was claimed under the term.
    pub fn has_claimed(&mut self, at: Wall) {
        if let Some(first_claim) = self.first_claim.take() {
            // Where it cannot be recorded, the record goes without it.
            first_claim.send(at).ok();
        }
    }

    /// A claim of this term is answered.
    pub fn claimed(&mut self, mut claims: Claims) {
        claims.rewound(self.rewound_at);
        self.claims = Some(claims);
    }

    /// A person brought the watermark back.
    pub fn rewound(&mut self, version: Version) {
        self.rewound_at = version;
        if let Some(claims) = &mut self.claims {
            claims.rewound(version);
        }
    }

    /// From here on nothing more is started.
    pub fn start_nothing(&self) {
        self.acting.store(0, Ordering::SeqCst);
    }

    /// Whether something may be started under `fence`: asked at the last moment, from wherever.
    pub fn may_start(&self, fence: Fence, clock: Clock) -> MayStart {
        let (acting, trust) = (Arc::clone(&self.acting), self.candidate.trust().cloned());
        let lease = trust.as_ref().map(|trust| trust.borrow().lease.0);
        let may_start = MayStart::new(move || {
            let leads = acting.load(Ordering::SeqCst) == fence.get();
            leads && trust.as_ref().is_some_and(|trust| trust.borrow().holds(clock.boot()))
        });
        match lease {
            Some(lease) => may_start.under(lease),
            None => may_start,
        }
    }

    /// Ends the term, and answers its hold: the lock is given back, or it is made sure that it is gone.
    pub fn end_term(&mut self) -> Option<Hold> {
        let (Role::Won(hold) | Role::Leading(hold)) = std::mem::replace(&mut self.role, Role::Following) else {
            return None;
        };
        self.start_nothing();
        self.claims = None;
        self.first_claim = None;
        self.knows_trust = false;
        self.candidate.give_up();
        Some(hold)
    }

    /// Closes the session: what is held goes with it, so that the successor starts at once.
    pub async fn leave(self) -> Result<(), StoreError> {
        self.candidate.leave().await
    }

    /// The lease of the leader.
    fn leader(&self) -> Option<u64> {
        self.hold().and(self.lease()).or(self.owner.and_then(|(_, lease)| lease))
    }

    /// The owner key is the one of this creation and lease, or there is none.
    fn owner_is(&mut self, owner: Option<(Revision, Option<u64>)>, now: Boot) {
        self.vacant = match (owner, self.owner, self.vacant) {
            (None, Some(_), _) => Some(Vacancy { since: now, until: None }),
            (Some((created, _)), None, Some(vacancy)) => Some(Vacancy { until: Some(created), ..vacancy }),
            (Some((created, _)), Some((before, _)), _) if created != before => None,
            (_, _, vacant) => vacant,
        };
        self.owner = owner;
    }

    /// How long this node knew of no leader before it came to act under the owner key of this creation.
    fn gap_before(&mut self, created: Revision, now: Boot) -> Option<Duration> {
        let vacancy = self.vacant.take().filter(|vacancy| vacancy.until.is_none_or(|until| until == created))?;
        Some(now.since(vacancy.since))
    }

    /// The term can be acted on from here on.
    fn act(&mut self, watermark_version: Version) {
        if let Role::Won(hold) = std::mem::replace(&mut self.role, Role::Following) {
            self.claims = Some(Claims::new(hold.clone(), watermark_version));
            self.rewound_at = 0;
            self.acting.store(hold.fence().get(), Ordering::SeqCst);
            self.role = Role::Leading(hold);
        }
    }
}

impl<S: Store, E: Execute> Running<S, E> {
    /// Has the next session opened with the node's present record.
    pub(super) fn present(&mut self) {
        let record = self.record();
        self.publishing.sent(record.clock, self.node.options.clock.boot());
        self.leadership.present(record.encode());
    }

    pub(super) fn candidacy(&mut self, news: News<S>) {
        match news {
            News::Session(session) => {
                let lease = session.lease();
                tracing::info!(%lease, node = self.node.options.name, "opened a session");
                // The record that it was opened with may have been long under way.
                self.publishing.soon();
                self.leadership.present_since = self.node.options.clock.boot();
                self.feed(Event::Session { lease: lease.0.get() });
            }
            News::NoSession(_) => self.present(),
            News::SessionOver(why) => {
                self.lose_term(&format!("its session has ended: {why}"));
                self.present();
            }
            News::Won(Term { hold }) => {
                self.leadership.won_at = self.node.options.clock.boot();
                self.leadership.role = Role::Won(hold);
                self.act_if_caught_up();
            }
            // The trust is looked at on every turn of the loop; a campaign that was not won is followed by another.
            News::Trust | News::NotWon(_) | News::TermOver(_) => {}
        }
    }

    /// Stands in the queue, unless the node is leaving, or stands back, or has something else in its way.
    pub(super) fn campaign(&mut self) {
        self.look_at_clocks();
        self.look_at_drains();
        let may = self.gate.is_open() && self.observed.is_sound() && !self.is_leaving();
        let waits = !self.leadership.candidate.is_campaigning() && self.waits_for_clocks();
        self.leadership.candidate.set_gate(may && !waits);
    }

    /// Whether the nodes that are there may yet say what their clocks show: they do when they see a new session.
    fn waits_for_clocks(&self) -> bool {
        let present_for = self.node.options.clock.boot().since(self.leadership.present_since);
        present_for < CLOCKS_SEEN_WITHIN && self.observed.has_unknown_clocks(self.leadership.lease())
    }

    /// Checks whether the store still knows everything that was seen of it, and informs the others if it does not.
    pub(super) fn verify(&mut self) {
        let locks = self.node.locks.clone();
        self.work.spawn(async move { Answer::Verified(locks.verify().await) });
    }

    pub(super) fn verified(&mut self, result: Result<Result<(), StoreWentBack>, StoreError>) {
        match result {
            Ok(Ok(())) => {}
            Ok(Err(went_back)) => {
                self.leadership.candidate.met(went_back.to_string());
                self.lose_term(&went_back.to_string());
            }
            Err(error) => tracing::debug!(%error, "could not look whether the store is as old as it was"),
        }
    }

    /// Acts as leader once the ledger has been seen up to the election: then nothing that an earlier leader wrote is
    /// still to come.
    pub(super) fn act_if_caught_up(&mut self) {
        let Role::Won(hold) = &self.leadership.role else { return };
        if self.observed.position().is_none_or(|position| position < hold.created()) {
            return;
        }
        if self.leadership.owner.is_none_or(|(created, _)| created != hold.created()) {
            return self.lose_term("its owner key was gone again by the time the ledger was seen up to the election");
        }
        if let Some(why) = self.observed.stands_back().map(str::to_owned) {
            return self.lose_term(&why);
        }
        let (fence, created) = (hold.fence(), hold.created());
        tracing::info!(%fence, node = self.node.options.name, "leading");
        self.leadership.act(self.scheduler.view().watermark_version);
        let gap = self.leadership.gap_before(created, self.node.options.clock.boot());
        self.record_term(gap);
        self.node.metrics.took_over(gap);
        self.feed(Event::Elected { fence });
        if self.stopping.is_none() {
            self.feed(Event::Undrain);
        }
        self.look_at_trust();
    }

    /// Records that the term has begun, after this node knew of no leader for `gap`, and then when it claimed for the first
    /// time.
    fn record_term(&mut self, gap: Option<Duration>) {
        let Some(hold) = self.leadership.leading().cloned() else { return };
        let (first_claim, claimed) = oneshot::channel();
        self.leadership.first_claim = Some(first_claim);
        let (ledger, from) = (self.node.ledger.clone(), self.node.options.clock.wall());
        let last_signs = self.node.board.read().gone().map(|gone| (gone.node.clone(), gone.last_sign)).collect();
        let vacant_since = gap.map(|gap| from.minus(gap));
        let term = NewTerm { node: self.node.options.name.clone(), from, vacant_since, last_signs };
        let metrics = Arc::clone(&self.node.metrics);
        self.work.spawn(async move {
            let recorded = async {
                if !ledger.begin_term(&hold, &term).await? {
                    return Ok(());
                }
                let counted = async {
                    tokio::time::sleep(PREDECESSOR_SAYS_WITHIN).await;
                    let before = ledger.terms(Some(hold.fence()), 1).await;
                    metrics.took_over_from(before.as_ref().ok().map(|rows| rows.first()));
                };
                let first = async {
                    match claimed.await {
                        Ok(at) => ledger.first_claim(hold.fence(), at).await,
                        Err(_) => Ok(()),
                    }
                };
                tokio::join!(counted, first).1
            };
            Answer::Done("record the term", recorded.await)
        });
    }

    /// Records how the term ended.
    pub(super) fn record_end_of_term(&mut self, fence: Fence, end: TermEnd) {
        let (ledger, now) = (self.node.ledger.clone(), self.node.options.clock.wall());
        self.work
            .spawn(async move { Answer::Done("record how the term ended", ledger.end_term(fence, now, end).await) });
    }

    /// Reports to the keep-alive that the loop turns: the session of a node that hangs must not be kept alive for long.
    /// A term that was won and cannot be used, since no news of the ledger arrives, is given to another node.
    pub(super) fn attend(&mut self) {
        let now = self.node.options.clock.boot();
        if let Some(session) = self.leadership.session() {
            session.attend(now);
        }
        let waited = now.since(self.leadership.won_at);
        if matches!(self.leadership.role, Role::Won(_)) && waited > self.node.options.timing.ttl() {
            self.lose_term("the ledger was not seen up to the election in time");
        }
    }

    /// The key of the leader's owner changed: the one that this node holds is either the one that stands, or lost.
    pub(super) fn heard_of_owner(&mut self, key: &str, at: Revision, created: Option<(Revision, Option<u64>)>) {
        if key != self.leadership.owner_key {
            return;
        }
        self.leadership.owner_is(created, self.node.options.clock.boot());
        let lost = self.leadership.hold().is_some_and(|hold| match created {
            Some((created, _)) => created > hold.created(),
            None => at >= hold.created(),
        });
        if lost {
            self.lose_term("its owner key is gone from the store");
        }
    }

    /// This node leads no more: nothing is started from here on, and what runs is stopped or finished as its job says.
    pub(super) fn lose_term(&mut self, why: &str) {
        let led = self.leadership.leading().is_some();
        let Some(hold) = self.leadership.end_term() else { return };
        tracing::warn!(fence = %hold.fence(), why, "leading no more");
        self.record_end_of_term(hold.fence(), TermEnd::Lost);
        self.node.metrics.terms_lost.fetch_add(u64::from(led), Ordering::Relaxed);
        self.feed(Event::Deposed);
    }

    /// Informs the scheduler whether it may act, if that changed.
    pub(super) fn look_at_trust(&mut self) {
        let leads = self.leadership.leading().is_some();
        let trusted = leads && self.leadership.is_trusted(self.node.options.clock.boot());
        if trusted == std::mem::replace(&mut self.leadership.knows_trust, trusted) {
            return;
        }
        if !trusted && leads {
            self.node.metrics.trust_lapses.fetch_add(1, Ordering::Relaxed);
            tracing::warn!("the lease may end soon and the store does not answer: nothing new is started");
        }
        self.feed(Event::Trust(trusted));
    }

    /// Hands the leadership over where a person has drained this node, and says so to the others.
    fn look_at_drains(&mut self) {
        if self.observed.look_at_drains(&self.node.options.name, self.node.options.clock.wall()) {
            self.publishing.soon();
            match self.observed.drained() {
                Some(why) => tracing::warn!("this node does not lead: {why}"),
                None => tracing::info!("this node is not drained any more"),
            }
        }
        if self.observed.drained().is_some() && self.leadership.leading().is_some() && self.stopping.is_none() {
            self.drain(false);
        }
    }

    /// Compares the clocks, and stands back from the leadership where this node's is off.
    pub(super) fn look_at_clocks(&mut self) {
        let Some(own) = self.leadership.lease() else { return };
        let leader = self.leadership.leader();
        self.node.metrics.clock_skew(self.observed.furthest_clock(own));
        let (most, now) = (self.node.options.max_clock_skew, self.node.options.clock.boot());
        if !self.observed.compare_clocks(own, leader, most, now) {
            return;
        }
        self.publishing.soon();
        let Some(why) = self.observed.stands_back() else {
            return tracing::info!("this node's clock agrees with the others' again");
        };
        // From here on it claims nothing more, so that nothing is decided before its time, or skipped.
        if self.leadership.leading().is_some() && self.stopping.is_none() {
            tracing::warn!("this node steps down: {why}");
            self.drain(false);
        } else {
            tracing::warn!("this node does not campaign: {why}");
        }
    }
}
