//! What is due, and what becomes of it: batches of decisions, each moving the watermark.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::due::{Due, DueQueue, What};
use super::overlap::{Fresh, Place, pause_of};
use super::run::{CatchUp, Done, Known, Open, OpenState, Source, Version, Watermark};
use super::skips::Verdicts;
use super::turn::PAUSED;
use super::view::View;
use super::{Action, BATCH, Batch, Registration, Scheduler};
use crate::fence::Fence;
use crate::job::{Job, JobName, On, RunId, Trigger, Verdict};
use crate::schedule::Occurrence;
use crate::time::Wall;

/// After how many batches that the store took the next may be twice as large again: what it refused may have been an
/// exception.
pub(super) const GROWS_AFTER: u64 = 200;

/// How many occurrences one batch looks at: those that share a verdict do not fill it.
const LOOKED_AT: usize = 2_000;

/// What a batch has decided so far, by job.
type Decided = HashMap<JobName, Vec<Fresh>>;

/// How many occurrences a batch decides of those that may be decided already: each costs two comparisons.
const ANEW_BATCH: usize = 40;

/// Why an occurrence is skipped of which nobody knows whether it has run.
const FORGOTTEN: &str = "rewound: it may have run before, and its verdict was pruned";

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
        if !self.may_act() || self.claiming.is_some() || self.registering.is_some() || self.plan_anew.is_some() {
            return;
        }
        let (mut opens, mut known, mut watermark) = (Vec::new(), Vec::new(), None);
        let mut verdicts = Verdicts::default();
        let mut decided = Decided::new();
        let (mut room, mut anew, mut anew_jobs) = (self.room_left(), false, BTreeSet::new());
        for _ in 0..LOOKED_AT {
            let claimed = opens.len() + verdicts.weight();
            // Whether the next one of a job has room is known when it is known whether this one is decided already.
            let mut next = self.due.next_job().filter(|(starts, _)| anew || self.view.may_be_decided(*starts));
            let is_full = next.take_if(|(_, name)| anew_jobs.contains(*name) || claimed >= ANEW_BATCH).is_some();
            if is_full || claimed + known.len() >= self.batch_most {
                break;
            }
            let Some(due) = self.due.pop(now) else { break };
            watermark = Some(Watermark { instant: due.occurrence.starts, job: Some(due.job.clone()) });
            let Some(job) = self.jobs.get(&due.job).cloned() else { continue };
            if self.view.may_be_decided(due.occurrence.starts) {
                anew = true;
                anew_jobs.insert(job.name.clone());
                if self.decided.contains(&RunId::of(&job.name, due.occurrence.at)) {
                    if let What::SkipMany { upto, .. } = due.what {
                        known.extend(self.known_until(&job.name, upto));
                    }
                    continue;
                }
            }
            match self.decide(&job, due, &decided, fence, now) {
                Decision::Open(open) => {
                    let fresh = Fresh { id: open.id.clone(), catch_up: open.catch_up };
                    decided.entry(open.job.clone()).or_default().push(fresh);
                    verdicts.interrupt(&open.job);
                    opens.push(if room == 0 && open.state == OpenState::Claimed { waiting(open, now) } else { open });
                    room = room.saturating_sub(usize::from(opens.last().is_some_and(|open| open.claimant.is_some())));
                }
                Decision::Done(done) => verdicts.add(done, &self.rows),
                Decision::Many(done, upto) => {
                    known.extend(self.known_until(&job.name, upto));
                    verdicts.add(done, &self.rows);
                }
            }
        }
        let Some(watermark) = watermark else { return };
        self.batches += 1;
        self.claiming_rows = verdicts.ends();
        let Verdicts { dones, replaced, .. } = verdicts;
        let batch = Batch { number: self.batches, fence, opens, dones, replaced, known, watermark, anew };
        self.claiming = Some(batch.clone());
        self.act(Action::Claim(batch));
    }

    /// What the ledger is to know of a job of which everything is decided that starts until `since`.
    fn known_until(&self, name: &JobName, since: Wall) -> Option<(JobName, Known)> {
        let fingerprint = self.view.jobs.get(name)?.fingerprint.clone();
        Some((name.clone(), Known { fingerprint, since }))
    }

    fn decide(&self, job: &Job, due: Due, decided: &Decided, fence: Fence, now: Wall) -> Decision {
        let open = self.occurrence(&job.name, due.occurrence, fence, now);
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
            _ if self.forgotten.contains(&open.id) => return skip(FORGOTTEN.to_owned()),
            _ if self.view.paused.contains(&job.name) => return skip(PAUSED.to_owned()),
            What::InTime => None,
            What::CatchUp { nth, every } => Some((nth, every)),
        };
        let fresh = decided.get(&job.name).map_or(&[][..], Vec::as_slice);
        let place = self.place_of_due(job, fresh, nth.is_some());
        let begins = matches!(place, Place::Begin);
        let catch_up = match place {
            Place::Never(_, reason) => return skip(reason),
            _ if nth.is_some() => Some(CatchUp::Missed),
            Place::Behind => Some(CatchUp::Behind),
            Place::Begin | Place::Wait | Place::Replace(_) => None,
        };
        let open = Open { catch_up, ..open };
        if begins && nth.is_none_or(|(nth, _)| nth == 0) {
            return Decision::Open(open);
        }
        Decision::Open(waiting(open, now.plus(nth.map_or(Duration::ZERO, pause_of))))
    }

    /// An occurrence as this term claims it.
    fn occurrence(&self, job: &JobName, occurrence: Occurrence, fence: Fence, now: Wall) -> Open {
        Open {
            id: RunId::of(job, occurrence.at),
            job: job.clone(),
            at: occurrence.at,
            starts: occurrence.starts,
            source: Source::Schedule,
            state: OpenState::Claimed,
            attempt: 1,
            claimant: Some(self.claimant(fence)),
            claimed_at: now,
            started_at: None,
            lateness: None,
            doubt: None,
            catch_up: None,
        }
    }

    /// The store has the batch: what it claimed starts.
    pub(super) fn claimed(&mut self, number: u64, version: Version, now: Wall) {
        let Some(batch) = self.claiming.take_if(|batch| batch.number == number) else { return };
        if number - self.batch_most_since >= GROWS_AFTER {
            self.batch_most = (self.batch_most * 2).min(BATCH);
            self.batch_most_since = number;
        }
        self.decided.clear();
        self.forgotten.clear();
        self.view.put_watermark(batch.watermark, version);
        self.view.jobs.extend(batch.known);
        let ends = std::mem::take(&mut self.claiming_rows);
        self.take_rows(ends);
        // One that was to wait may be seen to have been begun since: the answer to that is still to come.
        let claimed = batch.opens.iter().filter(|open| open.state == OpenState::Claimed);
        let runs: Vec<RunId> = claimed.map(|open| open.id.clone()).collect();
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
        self.batch_most_since = refused.number;
        self.plan_all(now);
        self.advance_all(now);
    }

    /// Asks for the jobs that are new, or have another rule than the ledger knows, to be recorded. Until that is
    /// acknowledged nothing is claimed, so that none of their occurrences is passed over by the watermark.
    pub(super) fn register_changes(&mut self, now: Wall) {
        let since = self.not_before(now);
        let (mut changed, mut found) = (Vec::new(), 0);
        for job in self.jobs.values() {
            let Some(fingerprint) = fingerprint(job) else { continue };
            let known = self.view.jobs.get(&job.name);
            found += usize::from(known.is_some());
            if known.is_none_or(|known| known.fingerprint != fingerprint) {
                changed.push((job.name.clone(), Known { fingerprint, since }));
            }
        }
        let mut forget: Vec<JobName> = if found == self.view.jobs.len() {
            Vec::new()
        } else {
            self.view.jobs.keys().filter(|name| !self.is_scheduled(name)).cloned().collect()
        };
        forget.sort();
        self.register(changed, forget);
    }

    fn register(&mut self, known: Vec<(JobName, Known)>, forget: Vec<JobName>) {
        let Some(fence) = self.term else { return };
        if !(known.is_empty() && forget.is_empty()) {
            self.act(Action::Register { fence, known: known.clone(), forget: forget.clone() });
            self.registering = Some(Registration { known, forget });
        }
    }

    /// The store knows the new jobs: claims go on.
    pub(super) fn registered(&mut self, now: Wall) {
        let Some(Registration { known, forget }) = self.registering.take() else { return };
        for name in forget {
            self.view.jobs.remove(&name);
            self.rows.remove(&name);
        }
        for (name, known) in known {
            // Under another rule, what lies between two occurrences is none of the row.
            self.rows.remove(&name);
            self.view.jobs.insert(name.clone(), known);
            if let Some(job) = self.jobs.get(&name) {
                plan(&mut self.due, &self.view, job, now);
            }
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
    ///
    /// The rules of what is the same object as before are in the ledger already; with many jobs that is what keeps a
    /// reload from holding up the others.
    pub(super) fn adopt_configuration(&mut self, now: Wall) {
        let decided = self.claiming.is_none() && self.registering.is_none() && self.may_act();
        if self.incoming.is_none() || !decided || self.due.next_start().is_some_and(|next| next <= now) {
            return;
        }
        if self.claim_what_jitter_moved(now) {
            return;
        }
        let Some(jobs) = self.incoming.take() else { return };
        let before = std::mem::take(&mut self.jobs);
        self.set_jobs(jobs);
        let (mut known, mut forget, since) = (Vec::new(), Vec::new(), self.not_before(now));
        for (name, job) in differences(&before, &self.jobs) {
            let in_ledger = self.view.jobs.get(&name);
            let Some((job, fingerprint)) = job.and_then(|job| Some((job, fingerprint(job)?))) else {
                self.due.remove(&name);
                forget.extend(in_ledger.map(|_| name));
                continue;
            };
            self.due.redefine(job);
            if in_ledger.is_none_or(|known| known.fingerprint != fingerprint) {
                known.push((name, Known { fingerprint, since }));
            }
        }
        self.register(known, forget);
        self.advance_all(now);
    }

    /// Claims the occurrences whose instant has come but whose start has not, of the jobs that a new configuration
    /// changes: under the new rule they would not come again. They wait for their start; a job that is gone skips them.
    /// The watermark stays where it is. Says whether there are any.
    fn claim_what_jitter_moved(&mut self, now: Wall) -> bool {
        let (Some(fence), Some(incoming)) = (self.term, &self.incoming) else { return false };
        let changed: Vec<(JobName, bool)> = differences(&self.jobs, incoming)
            .into_iter()
            .map(|(name, job)| (name, job.is_some_and(|job| matches!(job.trigger, Trigger::Schedule { .. }))))
            .collect();
        let (mut opens, mut dones, mut known, mut anew) = (Vec::new(), Vec::new(), Vec::new(), false);
        for (name, stays) in changed {
            let room = if anew { ANEW_BATCH } else { self.batch_most };
            if opens.len() + dones.len() + known.len() >= room {
                break;
            }
            let Some(moved) = self.due.take_moved(&name, now) else { continue };
            let open = self.occurrence(&name, moved, fence, now);
            anew |= self.view.may_be_decided(moved.starts);
            if self.decided.contains(&open.id) {
                continue;
            }
            let rule = self.view.jobs.get(&name).map(|known| known.fingerprint.clone());
            self.rows.remove(&name);
            // The watermark does not say that it is decided, so the job's own record does.
            known.extend(rule.map(|fingerprint| (name, Known { fingerprint, since: moved.starts })));
            if stays {
                opens.push(waiting(open, moved.starts));
            } else {
                let reason = "the job was taken out of the configuration before it started";
                dones.push(Done { attempt: 0, ..Done::of(&open, Verdict::Skipped, reason, now) });
            }
        }
        if opens.is_empty() && dones.is_empty() {
            return false;
        }
        let watermark = self.view.watermark.clone().unwrap_or(Watermark { instant: Wall::EPOCH, job: None });
        self.batches += 1;
        let batch = Batch { number: self.batches, fence, opens, dones, replaced: Vec::new(), known, watermark, anew };
        self.claiming_rows = HashMap::new();
        self.claiming = Some(batch.clone());
        self.act(Action::Claim(batch));
        true
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
        for job in self.jobs.values() {
            plan(&mut self.due, &self.view, job, now);
        }
    }
}

/// Plans a job from the first of its occurrences that no leader has decided.
pub(super) fn plan(due: &mut DueQueue, view: &View, job: &Arc<Job>, now: Wall) {
    let (Trigger::Schedule { .. }, Some(known)) = (&job.trigger, view.jobs.get(&job.name)) else { return };
    let decided = match &view.watermark {
        None => known.since,
        Some(mark) if mark.job.as_ref().is_some_and(|last| job.name > *last) => {
            mark.instant.minus(Duration::from_millis(1))
        }
        Some(mark) => mark.instant,
    };
    let after = known.since.max(decided);
    // Due only after it was seen: with another jitter, an instant that was decided already may be to start again.
    let of_old = first_start(job, after).filter(|first| first.at <= known.since);
    due.plan(Arc::clone(job), of_old.map_or(after, |first| first.starts), now);
}

/// What is not the same object in `new` as in `old`, by name; `None`: it is not there any more.
fn differences<'a>(
    old: &BTreeMap<JobName, Arc<Job>>,
    new: &'a BTreeMap<JobName, Arc<Job>>,
) -> Vec<(JobName, Option<&'a Arc<Job>>)> {
    let (mut old, mut found) = (old.iter().peekable(), Vec::new());
    for (name, job) in new {
        while let Some((gone, _)) = old.next_if(|(before, _)| *before < name) {
            found.push((gone.clone(), None));
        }
        let before = old.next_if(|(before, _)| *before == name);
        if before.is_none_or(|(_, before)| !Arc::ptr_eq(before, job)) {
            found.push((name.clone(), Some(job)));
        }
    }
    found.extend(old.map(|(gone, _)| (gone.clone(), None)));
    found
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
        Trigger::After { .. } | Trigger::Disabled => None,
    }
}
