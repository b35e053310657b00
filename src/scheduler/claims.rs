//! What is due, and what becomes of it: batches of decisions, each moving the watermark.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::due::{Due, What};
use super::run::{Done, Known, Open, OpenState, Source, Version, Watermark};
use super::{Action, Batch, Registration, Scheduler, WAITING_MOST};
use crate::fence::Fence;
use crate::job::{Job, JobName, On, Overlap, RunId, Trigger, Verdict};
use crate::schedule::Occurrence;
use crate::time::Wall;

/// What a batch has decided so far, by job: the ledger does not show it yet.
#[derive(Default)]
struct Fresh {
    opens: HashMap<JobName, Vec<RunId>>,
}

enum Decision {
    Open(Open),
    Done(Done),
    /// The verdict on many, and until when the job is decided by it.
    Many(Done, Wall),
}

impl Scheduler {
    /// Takes the due occurrences, in order, and claims them together.
    pub(super) fn claim_what_is_due(&mut self, now: Wall) {
        let Some(fence) = self.term else { return };
        if !self.may_act() || self.claiming.is_some() || self.registering.is_some() {
            return;
        }
        let (mut opens, mut dones, mut known, mut watermark) = (Vec::new(), Vec::new(), Vec::new(), None);
        let mut fresh = Fresh::default();
        while opens.len() + dones.len() + known.len() < self.batch_most {
            let Some(due) = self.due.pop(now) else { break };
            watermark = Some(Watermark { instant: due.occurrence.starts, job: Some(due.job.clone()) });
            let Some(job) = self.jobs.get(&due.job).cloned() else { continue };
            match self.decide(&job, due, &fresh, fence, now) {
                Decision::Open(open) => {
                    fresh.opens.entry(open.job.clone()).or_default().push(open.id.clone());
                    opens.push(open);
                }
                Decision::Done(done) => dones.push(done),
                Decision::Many(done, upto) => {
                    let rule = self.view.jobs.get(&job.name).map(|known| known.fingerprint.clone());
                    known.extend(rule.map(|fingerprint| (job.name.clone(), Known { fingerprint, since: upto })));
                    dones.push(done);
                }
            }
        }
        let Some(watermark) = watermark else { return };
        self.batches += 1;
        let batch = Batch { number: self.batches, fence, opens, dones, known, watermark };
        self.claiming = Some(batch.clone());
        self.act(Action::Claim(batch));
    }

    fn decide(&self, job: &Job, due: Due, fresh: &Fresh, fence: Fence, now: Wall) -> Decision {
        let id = RunId::of(&job.name, due.occurrence.at);
        let open = Open {
            id,
            job: job.name.clone(),
            at: due.occurrence.at,
            starts: due.occurrence.starts,
            source: Source::Schedule,
            state: OpenState::Claimed,
            attempt: 1,
            claimant: Some(self.claimant(fence)),
            claimed_at: now,
            started_at: None,
            lateness: None,
        };
        let skip = |reason: String| {
            let mut done = Done::of(&open, Verdict::Skipped, reason, now);
            done.attempt = 0;
            Decision::Done(done)
        };
        let nth = match due.what {
            What::SkipMany { many, upto, reason } => {
                let mut done = Done::of(&open, Verdict::Skipped, reason, now);
                (done.attempt, done.many) = (0, Some(many));
                return Decision::Many(done, upto);
            }
            What::Skip(reason) => return skip(reason),
            _ if self.view.paused.contains(&job.name) => return skip("the job is paused".to_owned()),
            What::InTime => None,
            What::CatchUp { nth, every } => Some((nth, every)),
        };
        let fresh = fresh.opens.get(&job.name).map_or(&[][..], Vec::as_slice);
        match self.room_for(job, fresh, nth.is_some()) {
            Room::Free if nth.is_none_or(|(nth, _)| nth == 0) => Decision::Open(open),
            Room::Free | Room::Wait => {
                let pause = nth.map_or(Duration::ZERO, |(nth, every)| every * nth);
                Decision::Open(waiting(open, now.plus(pause)))
            }
            Room::None(reason) => skip(reason),
        }
    }

    /// Whether an occurrence of `job` may start beside the runs that are open. One that was missed and is to run all
    /// the same waits where one in time would be skipped: catching up is what was asked for.
    fn room_for(&self, job: &Job, fresh: &[RunId], catching_up: bool) -> Room {
        let before: Vec<&RunId> =
            self.view.open_of(&job.name).chain(fresh).chain(self.left_running(&job.name)).collect();
        let Some(last) = before.last() else { return Room::Free };
        match job.overlap {
            Overlap::Skip if catching_up => Room::Wait,
            Overlap::Skip => Room::None(format!("overlap: {last} has not ended")),
            Overlap::Queue if !catching_up && before.len() > WAITING_MOST => {
                Room::None(format!("overlap: {WAITING_MOST} runs wait already"))
            }
            Overlap::Queue | Overlap::Replace => Room::Wait,
            Overlap::Allow { max_running } if before.len() < max_running as usize => Room::Free,
            Overlap::Allow { .. } if catching_up => Room::Wait,
            Overlap::Allow { max_running } => {
                Room::None(format!("overlap: {max_running} runs are open (`max_running`)"))
            }
        }
    }

    /// The store has the batch: what it claimed starts.
    pub(super) fn claimed(&mut self, number: u64, version: Version, now: Wall) {
        let Some(batch) = self.claiming.take_if(|batch| batch.number == number) else { return };
        self.view.put_watermark(batch.watermark, version);
        self.view.jobs.extend(batch.known);
        let runs: Vec<RunId> = batch.opens.iter().map(|open| open.id.clone()).collect();
        let jobs: BTreeSet<JobName> = batch.opens.iter().map(|open| open.job.clone()).collect();
        for open in batch.opens {
            self.view.put_open(open.id.clone(), open, version);
        }
        runs.iter().for_each(|run| self.start_claimed(run, now));
        // What came to be open while the claim was under way waited for its answer.
        jobs.iter().for_each(|job| self.advance(job, now));
    }

    /// The store takes fewer operations than thought: everything not yet claimed is decided anew.
    pub(super) fn batch_too_large(&mut self, most: usize, now: Wall) {
        let Some(refused) = self.claiming.take() else { return };
        let fewer = (refused.opens.len() + refused.dones.len()).saturating_sub(1);
        self.batch_most = most.min(fewer).max(1);
        self.plan_all(now);
        self.advance_all(now);
    }

    /// Asks for the jobs that are new, or have another rule than the ledger knows, to be recorded. Until that is
    /// acknowledged nothing is claimed, so that none of their occurrences is passed over by the watermark.
    pub(super) fn register_changes(&mut self, now: Wall) {
        let Some(fence) = self.term else { return };
        let since = self.not_before(now);
        let changed: Vec<(JobName, Known)> = self
            .jobs
            .values()
            .filter_map(|job| Some((job.name.clone(), Known { fingerprint: fingerprint(job)?, since })))
            .filter(|(name, now)| self.view.jobs.get(name).is_none_or(|known| known.fingerprint != now.fingerprint))
            .collect();
        let mut forget: Vec<JobName> = self.view.jobs.keys().filter(|name| !self.is_scheduled(name)).cloned().collect();
        forget.sort();
        if !(changed.is_empty() && forget.is_empty()) {
            self.act(Action::Register { fence, known: changed.clone(), forget: forget.clone() });
            self.registering = Some(Registration { known: changed, forget });
        }
    }

    /// The store knows the new jobs: claims go on.
    pub(super) fn registered(&mut self, now: Wall) {
        let Some(Registration { known, forget }) = self.registering.take() else { return };
        for name in forget {
            self.view.jobs.remove(&name);
        }
        for (name, known) in known {
            self.view.jobs.insert(name.clone(), known);
            self.plan(&name, now);
        }
    }

    pub(super) fn reloaded(&mut self, jobs: BTreeMap<JobName, Arc<Job>>) {
        if self.term.is_some() {
            self.incoming = Some(jobs);
        } else {
            self.set_jobs(jobs);
        }
    }

    pub(super) fn set_jobs(&mut self, jobs: BTreeMap<JobName, Arc<Job>>) {
        self.followers = followers(&jobs);
        self.jobs = jobs;
    }

    /// Adopts a configuration that was read while leading, once what was due under the old one is decided.
    pub(super) fn adopt_configuration(&mut self, now: Wall) {
        let decided = self.claiming.is_none() && self.registering.is_none();
        if self.incoming.is_none() || !decided || self.due.next_start().is_some_and(|next| next <= now) {
            return;
        }
        let Some(jobs) = self.incoming.take() else { return };
        let before = std::mem::take(&mut self.jobs);
        self.set_jobs(jobs);
        let removed: Vec<&JobName> = before.keys().filter(|name| !self.is_scheduled(name)).collect();
        removed.into_iter().for_each(|name| self.due.remove(name));
        for job in self.jobs.values() {
            self.due.redefine(job);
        }
        self.register_changes(now);
        self.advance_all(now);
    }

    /// No job can be first due before this: the watermark may be ahead of the clock.
    fn not_before(&self, now: Wall) -> Wall {
        self.view.watermark.as_ref().map_or(now, |mark| mark.instant.max(now))
    }

    fn is_scheduled(&self, name: &JobName) -> bool {
        self.jobs.get(name).is_some_and(|job| matches!(job.trigger, Trigger::Schedule { .. }))
    }

    pub(super) fn plan_all(&mut self, now: Wall) {
        self.due.clear();
        let names: Vec<JobName> = self.jobs.keys().cloned().collect();
        names.iter().for_each(|name| self.plan(name, now));
    }

    /// Plans a job from the first of its occurrences that no leader has decided.
    fn plan(&mut self, name: &JobName, now: Wall) {
        let (Some(job), Some(known)) = (self.jobs.get(name), self.view.jobs.get(name)) else { return };
        if !matches!(job.trigger, Trigger::Schedule { .. }) {
            return;
        }
        let decided = match &self.view.watermark {
            None => known.since,
            Some(mark) if mark.job.as_ref().is_some_and(|last| name > last) => {
                mark.instant.minus(Duration::from_millis(1))
            }
            Some(mark) => mark.instant,
        };
        let (job, after) = (Arc::clone(job), known.since.max(decided));
        // Due only after it was seen: with another jitter, an instant that was decided already may be to start again.
        let of_old = first_start(&job, after).filter(|first| first.at <= known.since);
        self.due.plan(job, of_old.map_or(after, |first| first.starts), now);
    }
}

/// Jobs by the job whose end makes them due.
pub(super) fn followers(jobs: &BTreeMap<JobName, Arc<Job>>) -> BTreeMap<JobName, Vec<(JobName, On)>> {
    let mut followers: BTreeMap<JobName, Vec<(JobName, On)>> = BTreeMap::new();
    for job in jobs.values() {
        if let Trigger::After { job: before, on } = &job.trigger {
            followers.entry(before.clone()).or_default().push((job.name.clone(), *on));
        }
    }
    followers
}

enum Room {
    Free,
    Wait,
    None(String),
}

/// The first occurrence of a job with jitter that starts after `after`.
fn first_start(job: &Job, after: Wall) -> Option<Occurrence> {
    match &job.trigger {
        Trigger::Schedule { schedule, jitter } if !jitter.most.is_zero() => schedule.next_start(*jitter, after),
        _ => None,
    }
}

fn waiting(open: Open, not_before: Wall) -> Open {
    Open { state: OpenState::Waiting { not_before }, attempt: 0, claimant: None, ..open }
}

/// The rule of a scheduled job, jitter included; `None` for one that has no schedule.
fn fingerprint(job: &Job) -> Option<String> {
    match &job.trigger {
        Trigger::Schedule { schedule, jitter } if jitter.most.is_zero() => Some(schedule.fingerprint()),
        Trigger::Schedule { schedule, jitter } => {
            Some(format!("{}+{}ms", schedule.fingerprint(), jitter.most.as_millis()))
        }
        Trigger::After { .. } => None,
    }
}
