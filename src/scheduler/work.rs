//! What runs here, what of it the ledger has been asked to record, and what has to be checked again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::SHOWN_AS_RUNNING_AFTER;
use super::run::{Claimant, Open, OpenState};
use super::tail::Earlier;
use super::{To, Transition};
use crate::fence::Fence;
use crate::job::{AttemptResult, Job, JobName, RunId, StopReason};
use crate::time::Wall;

#[derive(Debug)]
pub(super) struct Work {
    /// What runs here.
    active: BTreeMap<RunId, Active>,
    /// The last attempt of each open run that was started here: it may have had its effect.
    started: HashMap<RunId, Attempt>,
    /// The ends of what the attempts of open runs wrote that ended here.
    outputs: HashMap<RunId, Earlier>,
    /// Transitions without an answer yet, with what follows them.
    flights: HashMap<RunId, Flight>,
    /// How many of them may have the outcome of a beginning.
    beginning: usize,
    /// How many runs may be begun here and not ended.
    room: usize,
    /// What could begin, were there room; the earliest first.
    crowd: BTreeSet<(Wall, RunId)>,
    /// When to look at a run again.
    timers: BTreeSet<(Wall, RunId)>,
}

#[derive(Debug)]
pub(super) struct Active {
    pub job: Arc<Job>,
    pub attempt: Attempt,
    pub started_at: Option<Wall>,
    stopping: Option<StopReason>,
}

/// One attempt of a run with its owner: the node that executes it may report on it, and on nothing that came after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attempt {
    pub number: u32,
    pub claimant: Claimant,
}

impl Attempt {
    /// The attempt that the ledger shows as under way.
    pub fn of(open: &Open) -> Option<Attempt> {
        let claimant = open.claimant.as_ref().filter(|_| open.state == OpenState::Claimed)?;
        Some(Attempt { number: open.attempt, claimant: claimant.clone() })
    }
}

/// A transition that is not answered.
#[derive(Debug)]
pub(super) struct Flight {
    pub sent: Transition,
    pub by: By,
    pub then: Option<(To, Attempt)>,
}

/// On whose authority a run is changed.
#[derive(Clone, Debug)]
pub(super) enum By {
    /// The leader's.
    Term(Fence),
    /// That of the node that executed this attempt, as long as it owns the run.
    Attempt(Attempt),
}

impl Work {
    pub fn within(room: usize) -> Work {
        Work {
            active: BTreeMap::new(),
            started: HashMap::new(),
            outputs: HashMap::new(),
            flights: HashMap::new(),
            beginning: 0,
            room,
            crowd: BTreeSet::new(),
            timers: BTreeSet::new(),
        }
    }

    pub fn active(&self) -> impl Iterator<Item = (&RunId, &Active)> {
        self.active.iter()
    }

    /// The attempt of a run that runs here.
    pub fn active_of(&self, run: &RunId) -> Option<&Active> {
        self.active.get(run)
    }

    pub fn is_active(&self, run: &RunId) -> bool {
        self.active.contains_key(run)
    }

    /// What runs here of a job, by instant.
    pub fn active_of_job(&self, job: &JobName) -> impl Iterator<Item = &RunId> {
        let first = (!self.active.is_empty()).then(|| RunId::of(job, Wall::from_millis(i64::MIN)));
        let running = first.into_iter().flat_map(|first| self.active.range(first..));
        let is_of = move |active: &Active| active.job.name == *job;
        running.take_while(move |(_, active)| is_of(active)).map(|(run, _)| run)
    }

    /// An attempt has to start now.
    pub fn start(&mut self, run: RunId, job: Arc<Job>, attempt: Attempt) {
        self.started.insert(run.clone(), attempt.clone());
        self.active.insert(run, Active { job, attempt, started_at: None, stopping: None });
    }

    /// Whether this attempt was started here, and is not known to have had no effect.
    pub fn has_started(&self, run: &RunId, attempt: &Attempt) -> bool {
        self.started.get(run) == Some(attempt)
    }

    /// An attempt was started: it is published once it has lasted a little.
    pub fn started(&mut self, run: RunId, number: u32, at: Wall) {
        if let Some(active) = self.active.get_mut(&run).filter(|active| active.attempt.number == number) {
            active.started_at = Some(at);
            self.wake_at(at.plus(SHOWN_AS_RUNNING_AFTER), run);
        }
    }

    /// An attempt has ended, if it runs here.
    pub fn ended(&mut self, run: &RunId, number: u32) -> Option<Active> {
        self.active.get(run).filter(|active| active.attempt.number == number)?;
        self.active.remove(run)
    }

    /// The attempt that was to start certainly had no effect.
    pub fn never_began(&mut self, run: &RunId) {
        self.started.remove(run);
    }

    /// Keeps the end of what an attempt wrote that is followed by another.
    pub fn keep_output(&mut self, run: &RunId, number: u32, ended: &AttemptResult) {
        self.outputs.entry(run.clone()).or_default().add(number, ended);
    }

    /// What is kept of the output of a run whose last attempt this was.
    pub fn output_of(&self, run: &RunId, number: u32, ended: &AttemptResult) -> String {
        self.outputs.get(run).unwrap_or(&Earlier::default()).and_last(number, ended)
    }

    /// Forgets a run that is not open any more, unless it runs here.
    pub fn forget(&mut self, run: &RunId) {
        if !self.is_active(run) {
            self.outputs.remove(run);
            self.started.remove(run);
        }
    }

    /// Forgets the runs that are not open any more, but for those that run here.
    pub fn forget_all_but(&mut self, is_open: impl Fn(&RunId) -> bool) {
        let active = &self.active;
        self.started.retain(|run, _| is_open(run) || active.contains_key(run));
        self.outputs.retain(|run, _| is_open(run) || active.contains_key(run));
    }

    /// Marks an attempt as to be stopped. Answers whether it runs here and was not before.
    pub fn stop(&mut self, run: &RunId, reason: StopReason) -> bool {
        match self.active.get_mut(run).filter(|active| active.stopping.is_none()) {
            Some(active) => {
                active.stopping = Some(reason);
                true
            }
            None => false,
        }
    }

    /// The verdict on a run that is on its way to the store.
    pub fn verdict_under_way(&self, run: &RunId) -> Option<&super::run::Done> {
        self.flights.get(run).and_then(|flight| flight.sent.to.verdict())
    }

    pub fn is_in_flight(&self, run: &RunId) -> bool {
        self.flights.contains_key(run)
    }

    /// Whether the transition of a run into [`OpenState::Claimed`] is under way.
    pub fn is_beginning(&self, run: &RunId) -> bool {
        self.flights.get(run).is_some_and(|flight| begins(&flight.sent.to))
    }

    /// A transition is under way.
    pub fn send(&mut self, sent: Transition, by: By) {
        self.beginning += usize::from(begins(&sent.to));
        self.flights.insert(sent.run.clone(), Flight { sent, by, then: None });
    }

    /// Keeps a change until the transition under way is answered. A verdict that is kept is kept for good.
    pub fn send_later(&mut self, run: &RunId, to: To, attempt: Attempt) {
        let flight = self.flights.get_mut(run).filter(|flight| !matches!(flight.then, Some((To::Done { .. }, _))));
        if let Some(flight) = flight {
            flight.then = Some((to, attempt));
        }
    }

    /// The transition of a run is answered.
    pub fn answered(&mut self, run: &RunId) -> Option<Flight> {
        let flight = self.flights.remove(run)?;
        self.beginning -= usize::from(begins(&flight.sent.to));
        Some(flight)
    }

    /// Whether a transition is under way, or an attempt runs that has to be waited for.
    pub fn is_busy(&self, waits_for: impl Fn(&Job) -> bool) -> bool {
        !self.flights.is_empty() || self.active.values().any(|active| waits_for(&active.job))
    }

    /// How many more runs may be begun, where so many are being claimed.
    pub fn room_beside(&self, claimed: usize) -> usize {
        self.room.saturating_sub(self.active.len() + self.beginning + claimed)
    }

    /// A run could begin, were there room: it waits for its `turn`.
    pub fn wait_for_room(&mut self, turn: Wall, run: RunId) {
        self.crowd.insert((turn, run));
    }

    pub fn is_crowded(&self) -> bool {
        !self.crowd.is_empty()
    }

    /// The next one that waits for room.
    pub fn next_in_crowd(&mut self) -> Option<RunId> {
        self.crowd.pop_first().map(|(_, run)| run)
    }

    pub fn disperse(&mut self) {
        self.crowd.clear();
    }

    pub fn wake_at(&mut self, at: Wall, run: RunId) {
        self.timers.insert((at, run));
    }

    pub fn next_wake(&self) -> Option<Wall> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// A run that has to be checked again by now.
    pub fn woken(&mut self, now: Wall) -> Option<RunId> {
        self.next_wake().filter(|at| *at <= now)?;
        self.timers.pop_first().map(|(_, run)| run)
    }

    /// What it remembers of runs is about those that are open, or that run here.
    #[cfg(test)]
    pub fn assert_forgets(&self, is_open: impl Fn(&RunId) -> bool) {
        let lives = |run: &RunId| is_open(run) || self.is_active(run);
        assert!(self.started.keys().all(lives), "{:?} were started and are gone", self.started.keys());
        assert!(self.outputs.keys().all(lives), "the output of {:?} is kept, and they are gone", self.outputs.keys());
        assert!(self.flights.is_empty(), "{:?} are not answered", self.flights.keys());
        assert!(self.timers.iter().all(|(_, run)| lives(run)), "{:?} wake nobody", self.timers);
    }
}

/// Whether a run that changes so is under way from then on.
fn begins(to: &To) -> bool {
    matches!(to, To::Open(open) if open.state == OpenState::Claimed && open.started_at.is_none())
}
