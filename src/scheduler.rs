//! The pure scheduler: it receives what happened and when ([`Event`]), and answers what to do ([`Action`]).
//!
//! Late, missed, overlap, retry, `after` and the runs of a lost leader are decided here. How often an attempt is repeated,
//! also one that a lost leader left, is judged by [`crate::job::judge_lost`] and its neighbours. Nothing here reads a
//! clock, waits, or talks to a store; the caller does what the actions say and returns the answers.
//!
//! Why an occurrence is skipped is said in `due` (missed), `overlap`, and `claims` and `turn` (paused, rewound);
//! `claims/skips` joins skips for one reason to one row. `lifecycle` has what becomes of open runs, `authority` whether
//! this node may act, `work` what runs here and what waits, `tail` which part of an output is kept.
//!
//! Three rules keep it honest:
//!
//! - **Nothing starts before its claim is acknowledged.** [`Action::Start`] only ever follows the answer to
//!   [`Action::Claim`], or to a [`Transition`] into [`run::OpenState::Claimed`], under the fence of the present term.
//! - **Claims are made one batch at a time,** in the order of (start, job), each moving the watermark; so every
//!   occurrence is decided once, by whichever leader.
//! - **A run is in one pair of hands.** One that is claimed by a session which still lives is left to that session's
//!   node, under any leader.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub mod alert;
pub mod due;
pub mod hour;
pub mod late;
pub mod outbox;
pub mod run;
pub mod trouble;
pub mod view;

mod authority;
mod claims;
mod configuration;
mod lifecycle;
mod message;
mod overlap;
pub mod tail;
mod turn;
mod work;

use authority::Authority;
use claims::Claims;
use configuration::Configuration;
pub use message::{Action, Batch, Event, To, Transition, Transitioned};
use run::{Done, Open, OpenState, Version};
use view::{Change, LedgerView};
use work::Work;

use crate::fence::Fence;
use crate::job::{Job, JobName, OnLostLeadership, RunId, StopReason};
use crate::time::Wall;

/// How many occurrences one batch decides, unless the store wants fewer.
pub const BATCH: usize = 120;

/// How long a run lasts before it is published that it runs: short ones cost no write for it.
const SHOWN_AS_RUNNING_AFTER: Duration = Duration::from_millis(500);

/// How many runs of a job may wait (`overlap: queue`); what is due beyond is skipped.
pub const WAITING_MOST: usize = 100;

/// The scheduler of one node.
#[derive(Debug)]
pub struct Scheduler {
    configuration: Configuration,
    view: LedgerView,
    authority: Authority,
    claims: Claims,
    work: Work,
    actions: Vec<Action>,
}

impl Scheduler {
    /// The scheduler of the node `node`, with these jobs, which follows until it is elected.
    pub fn new(node: impl Into<String>, jobs: BTreeMap<JobName, Arc<Job>>) -> Scheduler {
        Scheduler {
            configuration: Configuration::of(jobs),
            view: LedgerView::default(),
            authority: Authority::of(node.into()),
            claims: Claims::default(),
            work: Work::within(usize::MAX),
            actions: Vec::new(),
        }
    }

    /// Begins no more runs at once than `room` (at least one). The others are claimed as well, in time, and wait in the
    /// ledger: so it is never in doubt whether they were started when the node is lost.
    #[must_use]
    pub fn with_room(self, room: usize) -> Scheduler {
        Scheduler { work: Work::within(room.max(1)), ..self }
    }

    /// Takes in an event that happened at `now`, and answers what to do, in this order.
    pub fn handle(&mut self, event: Event, now: Wall) -> Vec<Action> {
        match event {
            Event::Tick => {}
            Event::Session { lease } => self.authority.session(lease),
            Event::Elected { fence } => self.elected(fence, now),
            Event::Deposed => self.deposed(now),
            Event::Trust(trusted) => self.trust(trusted, now),
            Event::Claimed { batch, version } => self.claimed(batch, version, now),
            Event::BatchTooLarge { most } => self.batch_too_large(most, now),
            Event::AlreadyDecided { batch, decided, forgotten } => self.already_decided(batch, decided, forgotten, now),
            Event::Rewound { batch, version } => self.rewound(batch, version),
            Event::Registered => self.registered(now),
            Event::Transitioned { run, result } => self.transitioned(run, result, now),
            Event::Started { run, attempt, at } => self.work.started(run, attempt, at),
            Event::Ended { run, attempt, ended } => self.ended(run, attempt, ended, now),
            Event::Changed(change, version) => self.changed(change, version, now),
            Event::Reread { changes, version } => self.reread(changes, version, now),
            Event::WentBack => self.view = LedgerView::default(),
            Event::Reloaded(jobs) => self.reloaded(jobs),
            Event::Drain { wait_for_finish } => self.authority.drain(wait_for_finish),
            Event::Undrain => {
                self.authority.undrain();
                self.advance_all(now);
            }
            Event::StopAll(reason) => self.stop_all(reason, Authority::waits_for),
        }
        self.run_timers(now);
        self.let_in(now);
        self.plan_after_rewind(now);
        self.claim_what_is_due(now);
        self.adopt_configuration(now);
        self.announce_drained();
        std::mem::take(&mut self.actions)
    }

    /// When the scheduler has to receive the next [`Event::Tick`].
    pub fn wake_at(&mut self) -> Option<Wall> {
        let may_claim = self.authority.may_act() && self.claims.is_idle() && !self.configuration.is_registering();
        let due = if may_claim { self.claims.next_start() } else { None };
        due.into_iter().chain(self.work.next_wake()).min()
    }

    /// The instant from which on what is due has not been decided, while this node leads: later than now when all is
    /// well; earlier when anything keeps it from being decided.
    pub fn undecided_since(&mut self) -> Option<Wall> {
        self.authority.term()?;
        self.claims.undecided_since()
    }

    /// What the ledger says, as far as it has been seen.
    pub fn view(&self) -> &LedgerView {
        &self.view
    }

    /// The jobs as configured.
    pub fn jobs(&self) -> &BTreeMap<JobName, Arc<Job>> {
        self.configuration.jobs()
    }

    /// The attempts that run here.
    pub fn active(&self) -> impl Iterator<Item = &RunId> {
        self.work.active().map(|(run, _)| run)
    }

    /// How many of them are let end before this node has drained, where it drains.
    pub fn waited_for(&self) -> usize {
        self.work.active().filter(|(_, active)| self.authority.waits_for(&active.job)).count()
    }

    fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    fn elected(&mut self, fence: Fence, now: Wall) {
        self.authority.elected(fence);
        self.configuration.forget_registration();
        self.claims.begin_term();
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
        self.authority.deposed();
        self.claims.begin_term();
        self.work.disperse();
        self.configuration.take_what_is_offered();
        self.trust(false, now);
        self.give_back_unstarted(now);
    }

    fn trust(&mut self, trusted: bool, now: Wall) {
        let before = self.authority.trust(trusted);
        if before && !trusted {
            self.stop_all(StopReason::LostLeadership, |_, job| job.on_lost_leadership == OnLostLeadership::Cancel);
        }
        if trusted && !before && self.authority.leads() {
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
        let ended = match &change {
            Change::Open(run, None) => self.ending(run),
            _ => None,
        };
        let mark = self.view.watermark.clone();
        if !self.view.apply(change, version) {
            return;
        }
        self.note_rewind(mark.as_ref());
        if let Some((ended, done)) = ended.filter(|_| self.authority.may_act()) {
            self.skip_overlapped(&ended, &done, now);
        }
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

    /// A run that is open as far as is known, and the verdict on it that is on its way: the watch may report that the run
    /// is gone before that is answered.
    fn ending(&self, run: &RunId) -> Option<(Open, Done)> {
        let done = self.work.verdict_under_way(run)?;
        Some((self.view.open.get(run)?.open.clone(), done.clone()))
    }

    fn reread(&mut self, changes: Vec<(Change, Version)>, version: Version, now: Wall) {
        let mark = self.view.watermark.clone();
        self.view.reread(changes, version);
        self.note_rewind(mark.as_ref());
        self.work.forget_all_but(|run| self.view.open.contains_key(run));
        if self.authority.leads() {
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
        if let Some(fence) = self.authority.term() {
            self.act(Action::StepDown { fence: meant_for, resign: fence == meant_for });
        }
    }

    fn stop_all(&mut self, reason: StopReason, which: impl Fn(&Authority, &Job) -> bool) {
        let runs = self.work.active().filter(|(_, active)| which(&self.authority, &active.job));
        let runs: Vec<RunId> = runs.map(|(run, _)| run.clone()).collect();
        runs.iter().for_each(|run| self.stop(run, reason));
    }

    fn stop(&mut self, run: &RunId, reason: StopReason) {
        if self.work.stop(run, reason) {
            self.act(Action::Stop { run: run.clone(), reason });
        }
    }

    fn announce_drained(&mut self) {
        if !self.authority.is_to_announce_drained() {
            return;
        }
        let authority = &self.authority;
        if self.claims.is_idle() && !self.work.is_busy(|job| authority.waits_for(job)) {
            self.authority.announced_drained();
            self.act(Action::Drained);
        }
    }

    /// How many more runs may be begun.
    fn room_left(&self) -> usize {
        self.work.room_beside(self.claims.opening().filter(|open| open.state == OpenState::Claimed).count())
    }

    /// Begins what waited for room, where there is some again.
    fn let_in(&mut self, now: Wall) {
        while self.authority.may_act() && self.room_left() > 0 {
            let Some(run) = self.work.next_in_crowd() else { return };
            self.look_again(&run, now);
        }
    }

    fn run_timers(&mut self, now: Wall) {
        while let Some(run) = self.work.woken(now) {
            self.look_again(&run, now);
        }
    }
}

#[cfg(test)]
mod tests;
