//! Claims of due occurrences: batches of decisions, each moving the watermark.

mod rewind;
mod skips;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use self::skips::Verdicts;
use super::alert::{self, Alert};
use super::due::{Due, DueQueue, What};
use super::overlap::{Fresh, Place, pause_of};
use super::run::{CatchUp, Done, Known, Open, OpenState, Source, Version, Watermark, decided_until};
use super::view::LedgerView;
use super::{Action, BATCH, Batch, Scheduler};
use crate::fence::Fence;
use crate::job::{Code, Job, JobName, Notify, Reason, RunId, Trigger, Verdict};
use crate::schedule::Occurrence;
use crate::time::Wall;

/// After how many batches that the store took the next may be twice as large again: what it refused may have been an
/// exception.
pub(super) const GROWS_AFTER: u64 = 200;

/// How many occurrences one batch looks at: those that share a verdict do not fill it.
const LOOKED_AT: usize = 2_000;

/// What a batch has decided so far, by job.
type Decided = HashMap<JobName, Vec<Fresh>>;

/// What a batch notifies.
type Alerts = Vec<(Arc<Notify>, Alert)>;

/// How many occurrences a batch decides of those that may be decided already: each costs two comparisons.
const ANEW_BATCH: usize = 40;

/// Why an occurrence is skipped of which it is unknown whether it has run.
const FORGOTTEN: &str = "rewound: it may have run before, and its verdict was pruned";

/// What is due, and the batch of it that is being claimed.
#[derive(Debug)]
pub(super) struct Claims {
    due: DueQueue,
    /// The batch whose claim is not yet answered.
    batch: Option<Batch>,
    /// Where the rows of its jobs end with it.
    ends: skips::Ends,
    /// When what was missed was last notified in this term, by job.
    notified: HashMap<JobName, Wall>,
    /// The rows of skips that this term goes on with.
    rows: HashMap<JobName, skips::Row>,
    batches: u64,
    most: usize,
    /// The batch after which that was last changed.
    most_since: u64,
    /// What comes due by the watermark and is decided already, as the last claim found; and what is unknown.
    decided: BTreeSet<RunId>,
    forgotten: BTreeSet<RunId>,
    /// The watermark was brought back: everything has to be planned again, once the ledger has been seen up to this
    /// version.
    plan_anew: Option<Version>,
}

impl Default for Claims {
    fn default() -> Claims {
        Claims {
            due: DueQueue::default(),
            batch: None,
            ends: HashMap::new(),
            notified: HashMap::new(),
            rows: HashMap::new(),
            batches: 0,
            most: BATCH,
            most_since: 0,
            decided: BTreeSet::new(),
            forgotten: BTreeSet::new(),
            plan_anew: None,
        }
    }
}

impl Claims {
    /// A term begins, or ends: what was planned and claimed in the one before is none of it.
    pub fn begin_term(&mut self) {
        let (batches, most, most_since) = (self.batches, self.most, self.most_since);
        *self = Claims { batches, most, most_since, ..Claims::default() };
    }

    /// Whether no claim is under way.
    pub fn is_idle(&self) -> bool {
        self.batch.is_none()
    }

    /// Whether the next claim may be made, as far as the ones before go.
    fn is_ready(&self) -> bool {
        self.is_idle() && self.plan_anew.is_none()
    }

    /// The runs that the claim under way opens.
    pub fn opening(&self) -> impl Iterator<Item = &Open> {
        self.batch.iter().flat_map(|batch| &batch.opens)
    }

    /// When the next occurrence is to start.
    pub fn next_start(&mut self) -> Option<Wall> {
        self.due.next_start()
    }

    /// The instant from which on what is due has not been decided.
    pub fn undecided_since(&mut self) -> Option<Wall> {
        let claiming = self.batch.as_ref().map(|batch| batch.watermark.instant);
        claiming.into_iter().chain(self.due.next_start()).min()
    }

    /// Plans a job from the first of its occurrences that no leader has decided.
    pub fn plan(&mut self, job: &Arc<Job>, view: &LedgerView, now: Wall) {
        let (Trigger::Schedule { .. }, Some(known)) = (&job.trigger, view.jobs.get(&job.name)) else { return };
        self.due.plan(Arc::clone(job), decided_until(job, known.since, view.watermark.as_ref()), now);
    }

    /// Takes a job's new definition. Where its rule has changed, [`Claims::plan`] is to follow.
    pub fn redefine(&mut self, job: &Arc<Job>) {
        self.due.redefine(job);
    }

    pub fn remove(&mut self, job: &JobName) {
        self.due.remove(job);
    }

    /// What is notified of a verdict, where its occurrences were missed: of a job once, and again after its `repeat`.
    /// `alerts`: those of this batch.
    fn missed(&self, job: &Job, done: &Done, alerts: &Alerts) -> Option<(Arc<Notify>, Alert)> {
        let is_due = |notify: &Notify| {
            let before = self.notified.get(&job.name);
            before.is_none_or(|before| done.finished_at.since(*before) >= notify.repeat)
        };
        let is_new = || alerts.iter().all(|(_, alert)| alert.job != job.name);
        alert::missed(job, done).filter(|(notify, _)| is_due(notify) && is_new())
    }

    /// What the job skips from now on is another row.
    pub fn end_row(&mut self, job: &JobName) {
        self.rows.remove(job);
    }
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
        let Some(fence) = self.authority.term() else { return };
        if !self.authority.may_act() || !self.claims.is_ready() || self.configuration.is_registering() {
            return;
        }
        let (mut opens, mut known, mut watermark) = (Vec::new(), Vec::new(), None);
        let (mut verdicts, mut alerts) = (Verdicts::default(), Vec::new());
        let mut decided = Decided::new();
        let (mut room, mut anew, mut anew_jobs) = (self.room_left(), false, BTreeSet::new());
        for _ in 0..LOOKED_AT {
            let claimed = opens.len() + verdicts.weight();
            // Whether the next one of a job has room is known when it is known whether this one is decided already.
            let mut next = self.claims.due.next_job().filter(|(starts, _)| anew || self.view.may_be_decided(*starts));
            let is_full = next.take_if(|(_, name)| anew_jobs.contains(*name) || claimed >= ANEW_BATCH).is_some();
            if is_full || claimed + known.len() + rows_of(&alerts) >= self.claims.most {
                break;
            }
            let Some(due) = self.claims.due.pop(now) else { break };
            watermark = Some(Watermark { instant: due.occurrence.starts, job: Some(due.job.clone()) });
            let Some(job) = self.configuration.job(&due.job).cloned() else { continue };
            if self.view.may_be_decided(due.occurrence.starts) {
                anew = true;
                anew_jobs.insert(job.name.clone());
                if self.claims.decided.contains(&RunId::of(&job.name, due.occurrence.at)) {
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
                Decision::Done(done) => {
                    alerts.extend(self.claims.missed(&job, &done, &alerts));
                    verdicts.add(done, &self.claims.rows);
                }
                Decision::Many(done, upto) => {
                    alerts.extend(self.claims.missed(&job, &done, &alerts));
                    known.extend(self.known_until(&job.name, upto));
                    verdicts.add(done, &self.claims.rows);
                }
            }
        }
        let Some(watermark) = watermark else { return };
        self.claims.batches += 1;
        self.claims.ends = verdicts.ends();
        let Verdicts { dones, replaced, .. } = verdicts;
        let number = self.claims.batches;
        let batch = Batch { number, fence, opens, dones, replaced, alerts, known, watermark, anew };
        self.claims.batch = Some(batch.clone());
        self.act(Action::Claim(batch));
    }

    /// What the ledger is to know of a job of which everything is decided that starts until `since`.
    fn known_until(&self, name: &JobName, since: Wall) -> Option<(JobName, Known)> {
        let fingerprint = self.view.jobs.get(name)?.fingerprint.clone();
        Some((name.clone(), Known { fingerprint, since }))
    }

    fn decide(&self, job: &Job, due: Due, decided: &Decided, fence: Fence, now: Wall) -> Decision {
        let open = self.occurrence(&job.name, due.occurrence, fence, now);
        let skipped = |why: Reason| Done { attempt: 0, ..Done::of(&open, Verdict::Skipped, "", now).because(why) };
        let skip = |why: Reason| Decision::Done(skipped(why));
        let nth = match due.what {
            What::SkipMany { many, upto, reason } => {
                return Decision::Many(Done { many: Some(many), ..skipped(reason) }, upto);
            }
            What::Skip(reason) => return skip(reason),
            _ if self.claims.forgotten.contains(&open.id) => return skip(Code::Rewound.because(FORGOTTEN)),
            What::InTime => None,
            What::CatchUp { nth, every } => Some((nth, every)),
        };
        if let Some(why) = self.view.paused_at(&job.name, open.starts) {
            return skip(Code::Paused.because(why));
        }
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
            claimant: Some(self.authority.claimant(fence)),
            claimed_at: now,
            started_at: None,
            lateness: None,
            doubt: None,
            catch_up: None,
        }
    }

    /// The store has the batch: what it claimed starts.
    pub(super) fn claimed(&mut self, number: u64, version: Version, now: Wall) {
        let Some(batch) = self.claims.batch.take_if(|batch| batch.number == number) else { return };
        if number - self.claims.most_since >= GROWS_AFTER {
            self.claims.most = (self.claims.most * 2).min(BATCH);
            self.claims.most_since = number;
        }
        self.claims.decided.clear();
        self.claims.forgotten.clear();
        self.view.put_watermark(batch.watermark, version);
        self.view.jobs.extend(batch.known);
        self.claims.take_rows();
        self.claims.notified.extend(batch.alerts.into_iter().map(|(_, alert)| (alert.job, now)));
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
        let Some(refused) = self.claims.batch.take() else { return };
        let fewer = (refused.opens.len() + refused.dones.len()).saturating_sub(1);
        self.claims.most = most.min(fewer).max(1);
        self.claims.most_since = refused.number;
        self.plan_all(now);
        self.advance_all(now);
    }

    /// Claims the occurrences whose instant has come but whose start has not, of the jobs that a new configuration
    /// changes: under the new rule they would not come again. They wait for their start; a job that is gone skips them.
    /// The watermark stays where it is. Says whether there are any.
    pub(super) fn claim_what_jitter_moved(&mut self, now: Wall) -> bool {
        let (Some(fence), Some(changes)) = (self.authority.term(), self.configuration.changes()) else { return false };
        let changed: Vec<(JobName, bool)> = changes
            .into_iter()
            .map(|(name, job)| (name, job.is_some_and(|job| matches!(job.trigger, Trigger::Schedule { .. }))))
            .collect();
        let (mut opens, mut dones, mut known, mut anew) = (Vec::new(), Vec::new(), Vec::new(), false);
        for (name, stays) in changed {
            let room = if anew { ANEW_BATCH } else { self.claims.most };
            if opens.len() + dones.len() + known.len() >= room {
                break;
            }
            let Some(moved) = self.claims.due.take_moved(&name, now) else { continue };
            let open = self.occurrence(&name, moved, fence, now);
            anew |= self.view.may_be_decided(moved.starts);
            if self.claims.decided.contains(&open.id) {
                continue;
            }
            let rule = self.view.jobs.get(&name).map(|known| known.fingerprint.clone());
            self.claims.rows.remove(&name);
            // The watermark does not say that it is decided, so the job's own record does.
            known.extend(rule.map(|fingerprint| (name, Known { fingerprint, since: moved.starts })));
            if stays {
                opens.push(waiting(open, moved.starts));
            } else {
                let why = Code::Unconfigured.because("the job was taken out of the configuration before it started");
                dones.push(Done { attempt: 0, ..Done::of(&open, Verdict::Skipped, "", now).because(why) });
            }
        }
        if opens.is_empty() && dones.is_empty() {
            return false;
        }
        let watermark = self.view.watermark.clone().unwrap_or(Watermark { instant: Wall::EPOCH, job: None });
        self.claims.batches += 1;
        let number = self.claims.batches;
        let batch =
            Batch { number, fence, opens, dones, replaced: Vec::new(), alerts: Vec::new(), known, watermark, anew };
        self.claims.ends = HashMap::new();
        self.claims.batch = Some(batch.clone());
        self.act(Action::Claim(batch));
        true
    }

    pub(super) fn plan_all(&mut self, now: Wall) {
        self.claims.due.clear();
        for job in self.configuration.jobs().values() {
            self.claims.plan(job, &self.view, now);
        }
    }
}

/// How many operations of a transaction these take: one for each channel.
fn rows_of(alerts: &Alerts) -> usize {
    alerts.iter().map(|(notify, _)| notify.to.len()).sum()
}

fn waiting(open: Open, not_before: Wall) -> Open {
    Open { state: OpenState::Waiting { not_before }, attempt: 0, claimant: None, ..open }
}
