//! The pure scheduler: it is told what happened and when ([`Event`]), and answers what to do ([`Action`]).
//!
//! Late, missed, overlap, retry, `after` and what becomes of a lost leader's runs are decided here and nowhere else.
//! Nothing here reads a clock, waits, or talks to a store; whoever drives it does what the actions say and comes back
//! with the answers.
//!
//! Three rules keep it honest:
//!
//! - **Nothing starts before its claim is acknowledged.** [`Action::Start`] only ever follows the answer to
//!   [`Action::Claim`], or to a [`Transition`] into [`run::OpenState::Claimed`], under the fence of the present term.
//! - **Claims are made one batch at a time,** in the order of (start, job), each moving the watermark; so every
//!   occurrence is decided once, by whichever leader.
//! - **A run is in one pair of hands.** One that is claimed by a session which still lives is left to that session's
//!   node, whoever leads.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

pub mod due;
pub mod run;
pub mod view;

mod claims;
mod lifecycle;
mod message;
mod overlap;
mod rewind;
mod skips;
mod tail;
mod turn;

use due::DueQueue;
pub use message::{Action, Batch, Event, To, Transition, Transitioned};
use run::{Claimant, Known, Open, OpenState, Version};
use view::{Change, View};

use crate::fence::Fence;
use crate::job::{Job, JobName, On, OnLostLeadership, RunId, StopReason};
use crate::time::Wall;

/// How many occurrences one batch decides, unless the store wants fewer.
pub const BATCH: usize = 120;

/// How long a run lasts before it is published that it runs: short ones cost no write for it.
const SHOWN_AS_RUNNING_AFTER: Duration = Duration::from_millis(500);

/// How many runs of a job may wait (`overlap: queue`); what is due beyond is skipped.
pub const WAITING_MOST: usize = 100;

/// How many of its own former leases a node remembers: what it claimed on one of them and never started may come to its
/// knowledge after the lease has ended.
const LEASES_REMEMBERED: usize = 16;

/// The scheduler of one node.
#[derive(Debug)]
pub struct Scheduler {
    node: String,
    jobs: BTreeMap<JobName, Arc<Job>>,
    /// Jobs by the job whose end makes them due.
    followers: BTreeMap<JobName, Vec<(JobName, On)>>,
    view: View,
    lease: u64,
    former_leases: VecDeque<u64>,
    /// The fence of the present term.
    term: Option<Fence>,
    trusted: bool,
    draining: Option<Draining>,
    due: DueQueue,
    /// The batch whose claim is not yet answered.
    claiming: Option<Batch>,
    /// Where the rows of its jobs end with it.
    claiming_rows: skips::Ends,
    /// The rows of skips that this term goes on with.
    rows: HashMap<JobName, skips::Row>,
    batches: u64,
    batch_most: usize,
    /// The batch after which that was last changed.
    batch_most_since: u64,
    /// What comes due by the watermark and is decided already, as the last claim found; and that of which nobody knows.
    decided: BTreeSet<RunId>,
    forgotten: BTreeSet<RunId>,
    /// The watermark was brought back: everything is to be planned anew, once the ledger has been seen up to this version.
    plan_anew: Option<Version>,
    /// Jobs whose registration is not yet acknowledged; nothing is claimed before it is.
    registering: Option<Registration>,
    /// A configuration that is to be adopted once everything due under the old one has been decided.
    incoming: Option<BTreeMap<JobName, Arc<Job>>>,
    /// What runs here.
    active: BTreeMap<RunId, Active>,
    /// The last attempt of each open run that was started here: it may have had its effect.
    started: HashMap<RunId, Attempt>,
    /// The ends of what the attempts of open runs wrote that ended here.
    tails: HashMap<RunId, String>,
    /// Transitions without an answer yet, with what is to follow them.
    flights: HashMap<RunId, Flight>,
    /// How many of them may have the outcome of a beginning.
    beginning: usize,
    /// How many runs may be begun here and not ended.
    room: usize,
    /// What could begin, were there room; the earliest first.
    crowd: BTreeSet<(Wall, RunId)>,
    /// When to look at a run again.
    timers: BTreeSet<(Wall, RunId)>,
    actions: Vec<Action>,
}

#[derive(Debug)]
struct Active {
    job: Arc<Job>,
    attempt: Attempt,
    started_at: Option<Wall>,
    stopping: Option<StopReason>,
}

/// One attempt of a run, in one pair of hands: what whoever executes it may speak for, and nothing that came after.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Attempt {
    number: u32,
    claimant: Claimant,
}

impl Attempt {
    /// The attempt that the ledger shows as under way.
    fn of(open: &Open) -> Option<Attempt> {
        let claimant = open.claimant.as_ref().filter(|_| open.state == OpenState::Claimed)?;
        Some(Attempt { number: open.attempt, claimant: claimant.clone() })
    }
}

#[derive(Debug)]
struct Registration {
    known: Vec<(JobName, Known)>,
    forget: Vec<JobName>,
}

#[derive(Debug)]
struct Flight {
    sent: Transition,
    by: By,
    then: Option<(To, Attempt)>,
}

/// On whose authority a run is changed.
#[derive(Clone, Debug)]
enum By {
    /// The leader's.
    Term(Fence),
    /// That of whoever executed this attempt, for as long as the run is in its hands.
    Attempt(Attempt),
}

#[derive(Clone, Copy, Debug)]
struct Draining {
    /// Wait for runs that may outlive the leadership, too.
    wait_for_finish: bool,
    announced: bool,
}

impl Scheduler {
    /// The scheduler of the node `node`, with these jobs, which follows until it is told that it leads.
    pub fn new(node: impl Into<String>, jobs: BTreeMap<JobName, Arc<Job>>) -> Scheduler {
        let followers = claims::followers(&jobs);
        Scheduler {
            node: node.into(),
            jobs,
            followers,
            view: View::default(),
            lease: 0,
            former_leases: VecDeque::new(),
            term: None,
            trusted: false,
            draining: None,
            due: DueQueue::default(),
            claiming: None,
            claiming_rows: HashMap::new(),
            rows: HashMap::new(),
            batches: 0,
            batch_most: BATCH,
            batch_most_since: 0,
            decided: BTreeSet::new(),
            forgotten: BTreeSet::new(),
            plan_anew: None,
            registering: None,
            incoming: None,
            active: BTreeMap::new(),
            started: HashMap::new(),
            tails: HashMap::new(),
            flights: HashMap::new(),
            beginning: 0,
            room: usize::MAX,
            crowd: BTreeSet::new(),
            timers: BTreeSet::new(),
            actions: Vec::new(),
        }
    }

    /// Begins no more runs at once than `room` (at least one). The others are claimed as well, in time, and wait in the
    /// ledger: nobody has to wonder whether they were started when the node is lost.
    #[must_use]
    pub fn with_room(self, room: usize) -> Scheduler {
        Scheduler { room: room.max(1), ..self }
    }

    /// Takes in an event that happened at `now`, and answers what to do, in this order.
    pub fn handle(&mut self, event: Event, now: Wall) -> Vec<Action> {
        match event {
            Event::Tick => {}
            Event::Session { lease } => self.session(lease),
            Event::Elected { fence } => self.elected(fence, now),
            Event::Deposed => self.deposed(now),
            Event::Trust(trusted) => self.trust(trusted, now),
            Event::Claimed { batch, version } => self.claimed(batch, version, now),
            Event::BatchTooLarge { most } => self.batch_too_large(most, now),
            Event::AlreadyDecided { batch, decided, forgotten } => self.already_decided(batch, decided, forgotten, now),
            Event::Rewound { batch, version } => self.rewound(batch, version),
            Event::Registered => self.registered(now),
            Event::Transitioned { run, result } => self.transitioned(run, result, now),
            Event::Started { run, attempt, at } => self.started(run, attempt, at),
            Event::Ended { run, attempt, ended } => self.ended(run, attempt, ended, now),
            Event::Changed(change, version) => self.changed(change, version, now),
            Event::Reread { changes, version } => self.reread(changes, version, now),
            Event::WentBack => self.view = View::default(),
            Event::Reloaded(jobs) => self.reloaded(jobs),
            Event::Drain { wait_for_finish } => {
                self.draining = Some(Draining { wait_for_finish, announced: false });
            }
            Event::Undrain => {
                self.draining = None;
                self.advance_all(now);
            }
            Event::StopAll(reason) => {
                let all = self.draining.is_none_or(|draining| draining.wait_for_finish);
                self.stop_all(reason, |job| all || job.on_lost_leadership == OnLostLeadership::Cancel);
            }
        }
        self.run_timers(now);
        self.let_in(now);
        self.plan_after_rewind(now);
        self.claim_what_is_due(now);
        self.adopt_configuration(now);
        self.announce_drained();
        std::mem::take(&mut self.actions)
    }

    /// When the scheduler wants to be told the time again.
    pub fn wake_at(&mut self) -> Option<Wall> {
        let may_claim = self.may_act() && self.claiming.is_none() && self.registering.is_none();
        let due = if may_claim { self.due.next_start() } else { None };
        let timer = self.timers.first().map(|(at, _)| *at);
        due.into_iter().chain(timer).min()
    }

    /// The instant from which on what is due has not been decided, while this node leads: later than now when all is
    /// well, whatever keeps it from being decided.
    pub fn undecided_since(&mut self) -> Option<Wall> {
        self.term?;
        let claiming = self.claiming.as_ref().map(|batch| batch.watermark.instant);
        claiming.into_iter().chain(self.due.next_start()).min()
    }

    /// What the ledger says, as far as it has been seen.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// The jobs as configured.
    pub fn jobs(&self) -> &BTreeMap<JobName, Arc<Job>> {
        &self.jobs
    }

    /// The attempts that run here.
    pub fn active(&self) -> impl Iterator<Item = &RunId> {
        self.active.keys()
    }

    /// Whether anything new may be claimed or begun.
    fn may_act(&self) -> bool {
        self.term.is_some() && self.trusted && self.draining.is_none()
    }

    fn claimant(&self, fence: Fence) -> Claimant {
        Claimant { node: self.node.clone(), fence, lease: self.lease }
    }

    fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    fn session(&mut self, lease: u64) {
        let former = std::mem::replace(&mut self.lease, lease);
        if former != lease {
            self.former_leases.push_front(former);
            self.former_leases.truncate(LEASES_REMEMBERED);
        }
    }

    /// Whether what was claimed on this lease was claimed by this process.
    fn is_own(&self, lease: u64) -> bool {
        self.lease == lease || self.former_leases.contains(&lease)
    }

    fn elected(&mut self, fence: Fence, now: Wall) {
        self.term = Some(fence);
        self.claiming = None;
        self.rows.clear();
        self.due.clear();
        self.registering = None;
        self.plan_anew = None;
        self.decided.clear();
        self.forgotten.clear();
        self.plan_all(now);
        self.register_changes(now);
        self.adopt_open_runs(now);
        let asks: Vec<RunId> = self.view.cancels.keys().cloned().collect();
        asks.into_iter().for_each(|run| self.cancel_asked(&run, now));
        self.follow_all_resolved(now);
        if let Some(meant_for) = self.view.step_down {
            self.step_down_asked(meant_for);
        }
    }

    fn deposed(&mut self, now: Wall) {
        self.term = None;
        self.claiming = None;
        self.rows.clear();
        self.plan_anew = None;
        self.registering = None;
        self.due.clear();
        self.crowd.clear();
        if let Some(jobs) = self.incoming.take() {
            self.set_jobs(jobs);
        }
        self.trust(false, now);
        self.give_back_unstarted(now);
    }

    fn trust(&mut self, trusted: bool, now: Wall) {
        let before = std::mem::replace(&mut self.trusted, trusted);
        if before && !trusted {
            self.stop_all(StopReason::LostLeadership, |job| job.on_lost_leadership == OnLostLeadership::Cancel);
        }
        if trusted && !before && self.term.is_some() {
            self.advance_all(now);
        }
    }

    fn changed(&mut self, change: Change, version: Version, now: Wall) {
        let followed = match &change {
            Change::Open(run, _) | Change::Cancel(run, _) => Some(run.clone()),
            _ => None,
        };
        let ended_session = match &change {
            Change::Session { lease, alive: false } => Some(*lease),
            _ => None,
        };
        let resolved = match &change {
            Change::Resolved(run, true) => Some(run.clone()),
            _ => None,
        };
        let step_down = match &change {
            Change::StepDown(fence) => *fence,
            _ => None,
        };
        let mark = self.view.watermark.clone();
        if !self.view.apply(change, version) {
            return;
        }
        self.note_rewind(mark.as_ref());
        if let Some(run) = followed {
            self.run_changed(&run, now);
        }
        if let Some(lease) = ended_session {
            self.session_ended(lease, now);
        }
        if let Some(run) = resolved {
            self.follow_resolved(&run, now);
        }
        if let Some(meant_for) = step_down {
            self.step_down_asked(meant_for);
        }
    }

    fn reread(&mut self, changes: Vec<(Change, Version)>, version: Version, now: Wall) {
        let mark = self.view.watermark.clone();
        self.view.reread(changes, version);
        self.note_rewind(mark.as_ref());
        let (open, active) = (&self.view.open, &self.active);
        self.started.retain(|run, _| open.contains_key(run) || active.contains_key(run));
        self.tails.retain(|run, _| open.contains_key(run) || active.contains_key(run));
        if self.term.is_some() {
            self.adopt_open_runs(now);
        }
        self.give_back_unstarted(now);
        let asks: Vec<RunId> = self.view.cancels.keys().cloned().collect();
        asks.into_iter().for_each(|run| self.cancel_asked(&run, now));
        self.follow_all_resolved(now);
        if let Some(meant_for) = self.view.step_down {
            self.step_down_asked(meant_for);
        }
    }

    fn step_down_asked(&mut self, meant_for: Fence) {
        if let Some(fence) = self.term {
            self.act(Action::StepDown { fence: meant_for, resign: fence == meant_for });
        }
    }

    fn stop_all(&mut self, reason: StopReason, which: impl Fn(&Job) -> bool) {
        let mut stop: Vec<RunId> =
            self.active.iter().filter(|(_, active)| which(&active.job)).map(|(run, _)| run.clone()).collect();
        stop.sort();
        stop.into_iter().for_each(|run| self.stop(&run, reason));
    }

    fn stop(&mut self, run: &RunId, reason: StopReason) {
        if let Some(active) = self.active.get_mut(run)
            && active.stopping.is_none()
        {
            active.stopping = Some(reason);
            self.act(Action::Stop { run: run.clone(), reason });
        }
    }

    fn announce_drained(&mut self) {
        let Some(draining) = self.draining else { return };
        let waits_for =
            |active: &Active| draining.wait_for_finish || active.job.on_lost_leadership == OnLostLeadership::Cancel;
        let busy = self.claiming.is_some() || !self.flights.is_empty() || self.active.values().any(waits_for);
        if !busy && !draining.announced {
            self.draining = Some(Draining { announced: true, ..draining });
            self.act(Action::Drained);
        }
    }

    /// How many more runs may be begun.
    fn room_left(&self) -> usize {
        let is_begun = |open: &&Open| open.state == OpenState::Claimed;
        let claiming = self.claiming.iter().flat_map(|batch| &batch.opens).filter(is_begun).count();
        self.room.saturating_sub(self.active.len() + self.beginning + claiming)
    }

    /// Begins what waited for room, where there is some again.
    fn let_in(&mut self, now: Wall) {
        while self.may_act() && self.room_left() > 0 {
            let Some((_, run)) = self.crowd.pop_first() else { return };
            self.look_again(&run, now);
        }
    }

    fn run_timers(&mut self, now: Wall) {
        while let Some((at, _)) = self.timers.first() {
            if *at > now {
                return;
            }
            let (_, run) = self.timers.pop_first().expect("it was just seen");
            self.look_again(&run, now);
        }
    }
}

#[cfg(test)]
mod tests;
