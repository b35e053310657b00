//! The due queue: the next occurrence to start, at a cost that grows with what is due and not with what is configured,
//! and which of the occurrences that passed with no leader still run.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::run::Many;
use crate::job::{Code, Job, JobName, MissedRun, Reason, Trigger};
use crate::schedule::Occurrence;
use crate::time::{Wall, written};

/// An occurrence decided this much after its start, or more, was missed; less, it is only late. A hand-over between
/// leaders is well within it, so it costs no occurrence, under any `missed:`.
pub const LATE_AT_MOST: Duration = Duration::from_secs(2);

/// How many missed occurrences of a job get a verdict each; those before them get one together.
const LISTED: usize = 100;

/// How many missed occurrences are listed in all: with many jobs, fewer of each.
const LISTED_IN_ALL: usize = 200_000;

/// What has to be decided about a job at an instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    pub job: JobName,
    pub occurrence: Occurrence,
    pub what: What,
}

/// How an occurrence came to its decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// In time, or a little late.
    InTime,
    /// Missed, and to be run all the same: the `nth` (from 0) of its job that is, `every` after the one before.
    CatchUp { nth: u32, every: Duration },
    /// Missed, and not to be run, with the reason.
    Skip(Reason),
    /// Missed with many others before it, none of which runs: all that start until `upto` are decided by it.
    SkipMany { many: Many, upto: Wall, reason: Reason },
}

/// The jobs that have a schedule, by when they are next due.
#[derive(Debug, Default)]
pub struct DueQueue {
    plans: HashMap<JobName, Plan>,
    /// Entries of replaced plans stay until they surface; their generation gives them away.
    heap: BinaryHeap<Reverse<(Wall, JobName, u64)>>,
    generation: u64,
}

#[derive(Debug)]
struct Plan {
    job: Arc<Job>,
    generation: u64,
    ahead: VecDeque<Due>,
}

impl DueQueue {
    /// Plans `job` from the first occurrence that starts after `after`, in place of what was planned for it.
    pub fn plan(&mut self, job: Arc<Job>, after: Wall, now: Wall) {
        self.generation += 1;
        let ahead = coming(&job, after, now, self.plans.len() + 1);
        let plan = Plan { job, generation: self.generation, ahead };
        self.heap.extend(plan.first());
        self.plans.insert(plan.job.name.clone(), plan);
    }

    /// Takes the job's next occurrence where its instant has come and its start, moved by jitter, has not.
    pub fn take_moved(&mut self, name: &JobName, now: Wall) -> Option<Occurrence> {
        let plan = self.plans.get(name)?;
        let next = plan.ahead.front().filter(|due| due.what == What::InTime)?.occurrence;
        if next.at > now || next.starts <= now {
            return None;
        }
        let job = Arc::clone(&plan.job);
        self.plan(job, next.starts, now);
        Some(next)
    }

    /// Takes a job's new definition. Where its rule has changed, [`DueQueue::plan`] is to follow.
    pub fn redefine(&mut self, job: &Arc<Job>) {
        if let Some(plan) = self.plans.get_mut(&job.name) {
            plan.job = Arc::clone(job);
        }
    }

    pub fn remove(&mut self, job: &JobName) {
        self.plans.remove(job);
    }

    pub fn clear(&mut self) {
        self.plans.clear();
        self.heap.clear();
    }

    /// When the next occurrence is to start.
    pub fn next_start(&mut self) -> Option<Wall> {
        while let Some(Reverse((starts, name, generation))) = self.heap.peek() {
            if self.plans.get(name).is_some_and(|plan| plan.generation == *generation) {
                return Some(*starts);
            }
            self.heap.pop();
        }
        None
    }

    /// When the next occurrence is to start, and whose it is.
    pub fn next_job(&mut self) -> Option<(Wall, &JobName)> {
        self.next_start()?;
        self.heap.peek().map(|Reverse((starts, name, _))| (*starts, name))
    }

    /// The next occurrence, if it is due; in the order of (start, job).
    pub fn pop(&mut self, now: Wall) -> Option<Due> {
        loop {
            if self.next_start()? > now {
                return None;
            }
            let Reverse((_, name, _)) = self.heap.pop()?;
            let jobs = self.plans.len();
            let plan = self.plans.get_mut(&name).expect("`next_start` leaves a planned job on top");
            let due = plan.ahead.pop_front().expect("a job in the heap has something ahead");
            if due.what == What::InTime && is_missed(due.occurrence, now) {
                // It was in time when it was planned and is not any more: it was not looked at in between. What is
                // first now may start later than other jobs' occurrences, so it queues up again.
                let before = due.occurrence.starts.minus(Duration::from_millis(1));
                plan.ahead = look_back(&plan.job, before, now, jobs);
                self.heap.extend(plan.first());
                continue;
            }
            if plan.ahead.is_empty() {
                plan.ahead = coming(&plan.job, due.occurrence.starts, now, jobs);
            }
            self.heap.extend(plan.first());
            return Some(due);
        }
    }
}

impl Plan {
    /// Its first occurrence, as it stands in the heap.
    fn first(&self) -> Option<Reverse<(Wall, JobName, u64)>> {
        self.ahead.front().map(|due| Reverse((due.occurrence.starts, self.job.name.clone(), self.generation)))
    }
}

/// What comes after `after`: what was missed by now, or else the next occurrence.
fn coming(job: &Job, after: Wall, now: Wall, jobs: usize) -> VecDeque<Due> {
    let Trigger::Schedule { schedule, jitter } = &job.trigger else { return VecDeque::new() };
    match schedule.next_start(*jitter, after) {
        None => VecDeque::new(),
        Some(next) if is_missed(next, now) => look_back(job, after, now, jobs),
        Some(next) => VecDeque::from([Due { job: job.name.clone(), occurrence: next, what: What::InTime }]),
    }
}

fn is_missed(occurrence: Occurrence, now: Wall) -> bool {
    now.since(occurrence.starts) >= LATE_AT_MOST
}

/// What came due after `after` and until now, with what `missed:` says of each.
fn look_back(job: &Job, after: Wall, now: Wall, jobs: usize) -> VecDeque<Due> {
    let Trigger::Schedule { schedule, jitter } = &job.trigger else { return VecDeque::new() };
    let fair_share = (LISTED_IN_ALL / jobs.max(1)).clamp(1, LISTED);
    let most = match job.missed.run {
        MissedRun::All => fair_share.max(job.missed.limit as usize),
        MissedRun::Latest | MissedRun::Skip => fair_share,
    };
    let past = schedule.latest_starts(*jitter, after, now, most);
    let mut ahead = VecDeque::with_capacity(past.listed.len() + 1);
    if let (Some(before), Some(first)) = (past.before, past.listed.first()) {
        let many = Many { from: before.first, count: before.count, at_least: before.capped };
        // All of them start before the instant of the first listed one, jitter included; that one is due only after
        // this.
        let upto = first.at.minus(Duration::from_millis(1));
        let reason = Code::MissedMany.because("missed: no leader, and too many to decide one by one");
        let what = What::SkipMany { many, upto, reason };
        // It is decided before anything else that starts after `after`: the watermark of another job's decision must
        // not pass over the first of them while they have no verdict.
        let starts = after.plus(Duration::from_millis(1));
        ahead.push_back(Due { job: job.name.clone(), occurrence: Occurrence { at: before.last, starts }, what });
    }
    let decided = decide_missed(job, &past.listed, now);
    ahead.extend(past.listed.into_iter().zip(decided).map(|(occurrence, what)| Due {
        job: job.name.clone(),
        occurrence,
        what,
    }));
    ahead
}

/// One decision for each of `occurrences`, which are in order and reach up to now.
fn decide_missed(job: &Job, occurrences: &[Occurrence], now: Wall) -> Vec<What> {
    let policy = &job.missed;
    let too_old = |occurrence: &Occurrence| policy.within.is_some_and(|within| now.since(occurrence.starts) > within);
    let missed = occurrences.iter().take_while(|occurrence| is_missed(**occurrence, now)).count();
    let to_run = match policy.run {
        MissedRun::Skip => 0,
        MissedRun::Latest if missed < occurrences.len() => 0,
        MissedRun::Latest => 1,
        MissedRun::All => policy.limit as usize,
    };
    let first_to_run = missed.saturating_sub(to_run);
    let mut nth = 0;
    let decide = |(index, occurrence): (usize, &Occurrence)| {
        if index >= missed {
            return What::InTime;
        }
        if too_old(occurrence) {
            let within = policy.within.unwrap_or_default();
            let text = format!("missed: no leader within {} (`missed.within`)", written(within));
            return What::Skip(Code::MissedWindow.because(text));
        }
        if index >= first_to_run {
            nth += 1;
            return What::CatchUp { nth: nth - 1, every: policy.every };
        }
        What::Skip(match policy.run {
            MissedRun::Skip => Code::Missed.because("missed: no leader when it was due (`missed.run: skip`)"),
            MissedRun::Latest => {
                Code::Superseded.because("missed: a later occurrence takes its place (`missed.run: latest`)")
            }
            MissedRun::All => {
                Code::MissedLimit.because(format!("missed: more than {} were (`missed.limit`)", policy.limit))
            }
        })
    };
    occurrences.iter().enumerate().map(decide).collect()
}
