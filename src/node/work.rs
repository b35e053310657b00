//! Claims, changes and runs: what the scheduler's actions become.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::housekeeping::{Bounding, Pruning};
use super::tally::Tally;
use super::{Answer, Running};
use crate::execute::{self, Execute, Reads, Started, Stop, Stopper};
use crate::fence::{After, AfterEnd, Fence, Scope, Stamp};
use crate::job::{AttemptResult, Job, JobName, Outcome, Ping, RunId, Sign};
use crate::ledger::{Changed, Claim, Claims, LastRuns, Ledger};
use crate::lock::{Hold, Reports};
use crate::metrics::{Decided, Exemplar, Metrics};
use crate::node::housekeeping::Chore;
use crate::scheduler::run::{Known, Open, Source};
use crate::scheduler::{Action, Batch, Event, Transition, Transitioned};
use crate::store::{Store, StoreError};
use crate::time::Wall;

/// How many transactions of changes may be under way at once. Changes of one run never are: the scheduler waits for
/// each.
const TRANSITIONS_UNDER_WAY: usize = 4;

/// How long changes wait that failed for a reason that a person may remove (denied, full).
const FAILED_PAUSE: Duration = Duration::from_secs(1);

/// What the node has under way: runs, changes on their way to the ledger, and other operations that take time.
pub(super) struct Work {
    tasks: JoinSet<Answer>,
    runs: BTreeMap<RunId, Stopper>,
    transitions: VecDeque<Transition>,
    /// Those that the store has refused even alone, and that are due again: each is sent alone.
    refused: VecDeque<Transition>,
    /// Whether it is the turn of one of those.
    alone_next: bool,
    transitions_under_way: usize,
    /// The jobs of which a verdict is under way that changes how their last run ended.
    ending: BTreeSet<JobName>,
    pruning: Pruning,
    bounding: Bounding,
    tally: Tally,
    started: mpsc::Sender<(RunId, u32, Wall)>,
    /// What the store does not take of what became of runs: said at once, and then ever more seldom.
    reports: Reports,
    /// Where signs of life of runs go.
    pub pings: Option<mpsc::Sender<Ping>>,
}

/// Hands on a sign of life of a run, where its job has a URL for that. It waits for nothing.
fn ping(pings: Option<&mpsc::Sender<Ping>>, job: &Job, sign: Sign, what: String, metrics: &Metrics) {
    let Some((pings, url)) = pings.zip(job.ping.clone()) else { return };
    if pings.try_send(Ping { job: job.name.clone(), url, sign, what }).is_err() {
        metrics.pings.add(&"dropped", 1);
    }
}

impl Work {
    /// `started` learns when a run has started.
    pub fn new(started: mpsc::Sender<(RunId, u32, Wall)>) -> Work {
        Work {
            tasks: JoinSet::new(),
            runs: BTreeMap::new(),
            transitions: VecDeque::new(),
            refused: VecDeque::new(),
            alone_next: false,
            transitions_under_way: 0,
            ending: BTreeSet::new(),
            pruning: Pruning::default(),
            bounding: Bounding::default(),
            tally: Tally::default(),
            started,
            pings: None,
            reports: Reports::default(),
        }
    }

    /// Does this beside the loop, which receives the answer.
    pub fn spawn(&mut self, task: impl Future<Output = Answer> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// What comes back next. Cancel safe.
    pub async fn next(&mut self) -> Answer {
        match self.tasks.join_next().await {
            Some(Ok(answer)) => answer,
            Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
            None => std::future::pending().await,
        }
    }

    /// What is sent next, in one transaction; nothing: what waits has to wait on. What the store has refused alone
    /// goes alone, in turns with the rest: on a busy node there is always more of that.
    fn next_transitions<S: Store>(&mut self) -> Vec<Transition> {
        let ending = &self.ending;
        let is_busy = |job: &JobName| ending.contains(job);
        for alone in [self.alone_next, !self.alone_next] {
            let sent = if alone {
                let mut one: VecDeque<Transition> = self.refused.pop_front().into_iter().collect();
                let sent = Ledger::<S>::next_transitions(&mut one, is_busy);
                self.refused.extend(one);
                sent
            } else {
                Ledger::<S>::next_transitions(&mut self.transitions, is_busy)
            };
            if !sent.is_empty() {
                self.alone_next = !alone;
                return sent;
            }
        }
        Vec::new()
    }

    /// Sends these changes again, each alone, which the store has refused.
    pub fn send_again(&mut self, refused: Vec<Transition>) {
        self.refused.extend(refused);
    }

    /// What was counted of runs that ended.
    pub fn tally(&mut self) -> &mut Tally {
        &mut self.tally
    }

    /// How many runs there are here.
    pub fn running(&self) -> usize {
        self.runs.len()
    }

    /// Drops all that is under way.
    pub async fn end(mut self) {
        self.tasks.shutdown().await;
    }
}

impl<S: Store, E: Execute> Running<S, E> {
    pub(super) fn act(&mut self, action: Action) {
        match action {
            Action::Claim(batch) => self.claim(batch),
            Action::Register { fence, known, forget } => self.register(fence, known, forget),
            Action::Transition(transition) => self.work.transitions.push_back(transition),
            Action::Start { open, job } => self.start(open, job),
            Action::Stop { run, reason } => {
                if let Some(stopper) = self.work.runs.get(&run) {
                    tracing::info!(run_id = %run, reason = reason.as_str(), "stopping a run");
                    stopper.stop(reason);
                }
            }
            Action::ForgetCancel(run) => {
                let ledger = self.node.ledger.clone();
                self.work.spawn(async move {
                    Answer::Done("take back a request to cancel", ledger.forget_cancel(&run).await)
                });
            }
            Action::Follow { fence, run, follow } => {
                let Some(hold) = self.leadership.hold_under(fence) else { return };
                let ledger = self.node.ledger.clone();
                self.work.spawn(async move {
                    let followed = ledger.follow_resolved(&hold, &run, &follow).await;
                    Answer::Done("make what follows a run that was resolved", followed.map(drop))
                });
            }
            Action::StepDown { fence, resign } => {
                let ledger = self.node.ledger.clone();
                self.work.spawn(async move {
                    Answer::Done("take back a request to step down", ledger.forget_step_down(fence).await)
                });
                if resign && self.stopping.is_none() {
                    tracing::info!(%fence, "asked to step down");
                    self.drain(false);
                }
            }
            Action::Drained => self.drained(),
        }
    }

    fn claim(&mut self, batch: Batch) {
        let Some(mut claims) = self.leadership.begin_claim() else {
            return self.lose_term("an abandoned claim is under way");
        };
        batch.dones.iter().for_each(|done| self.work.pruning.touch(&done.job));
        let ledger = self.node.ledger.clone();
        self.work.spawn(async move {
            let result = ledger.claim(&mut claims, &batch).await;
            let (size, decided) = (batch.opens.len() + batch.dones.len(), Decided::by(&batch));
            Answer::Claim { claims, batch: batch.number, size, decided, result }
        });
    }

    pub(super) fn claim_answered(
        &mut self,
        mut claims: Claims,
        batch: u64,
        size: usize,
        result: Result<Claim, StoreError>,
    ) {
        if self.leadership.leading() != Some(claims.hold()) {
            return;
        }
        match result {
            Ok(Claim::Made { version }) => {
                self.leadership.claimed(claims);
                self.leadership.has_claimed(self.node.options.clock.wall());
                self.feed(Event::Claimed { batch, version });
            }
            Ok(Claim::TooLarge) => {
                self.leadership.claimed(claims);
                self.feed(Event::BatchTooLarge { most: size / 2 });
            }
            Ok(Claim::Decided { decided, forgotten }) => {
                for run in decided.iter().chain(&forgotten) {
                    tracing::info!(run_id = %run, "not decided again after the rewind: it was, or may have been, before");
                }
                self.leadership.claimed(claims);
                self.feed(Event::AlreadyDecided { batch, decided, forgotten });
            }
            Ok(Claim::Rewound { version }) => {
                claims.rewound(version);
                self.leadership.claimed(claims);
                self.feed(Event::Rewound { batch, version });
            }
            Ok(Claim::Fenced) => self.lose_term("the store refuses its claims: another leads"),
            Err(error) => {
                tracing::error!(%error, "cannot claim");
                self.lose_term("its claims fail");
            }
        }
    }

    fn register(&mut self, fence: Fence, known: Vec<(JobName, Known)>, forget: Vec<JobName>) {
        let Some(hold) = self.leadership.hold_under(fence) else { return };
        let ledger = self.node.ledger.clone();
        self.work.spawn(async move {
            let result = ledger.register(&hold, &known, &forget).await;
            Answer::Register { hold, result }
        });
    }

    pub(super) fn register_answered(&mut self, hold: &Hold, result: Result<bool, StoreError>) {
        if self.leadership.leading() != Some(hold) {
            return;
        }
        match result {
            Ok(true) => self.feed(Event::Registered),
            Ok(false) => self.lose_term("the store refuses its writes: another leads"),
            Err(error) => {
                tracing::error!(%error, "cannot record the jobs");
                self.lose_term("its writes fail");
            }
        }
    }

    /// Sends what changes of runs are waiting, as many in a transaction as fit.
    pub(super) fn send_transitions(&mut self) {
        while self.work.transitions_under_way < TRANSITIONS_UNDER_WAY {
            let sent = self.work.next_transitions::<S>();
            if sent.is_empty() {
                return;
            }
            let fence = sent.first().and_then(|first| first.fence);
            let hold = fence.and_then(|fence| self.leadership.hold_under(fence));
            if fence.is_some() && hold.is_none() {
                for transition in sent {
                    self.feed(Event::Transitioned { run: transition.run, result: Transitioned::Fenced });
                }
                continue;
            }
            self.work.transitions_under_way += 1;
            let mut last = self.last_runs_of(&sent);
            self.work.ending.extend(last.known().map(|(job, ..)| job.clone()));
            let ledger = self.node.ledger.clone();
            self.work.spawn(async move {
                let result = ledger.transition(hold.as_ref(), sent.clone(), &mut last).await;
                if result.is_err() {
                    tokio::time::sleep(FAILED_PAUSE).await;
                }
                Answer::Transitions { sent, last, result }
            });
        }
    }

    /// What the board knows of the last runs of the jobs of which these changes end runs.
    fn last_runs_of(&self, changes: &[Transition]) -> LastRuns {
        let (mut last, board) = (LastRuns::default(), self.node.board.read());
        for done in changes.iter().filter_map(|change| change.to.verdict()).filter(|done| done.was_begun()) {
            let (known, version) = board.last_of(&done.job);
            last.note(done.job.clone(), known.cloned(), version);
        }
        last
    }

    pub(super) fn transitions_answered(
        &mut self,
        sent: Vec<Transition>,
        last: &LastRuns,
        result: Result<Changed, StoreError>,
    ) {
        self.work.transitions_under_way -= 1;
        for done in sent.iter().filter_map(|change| change.to.verdict()).filter(|done| done.was_begun()) {
            self.work.ending.remove(&done.job);
        }
        self.show_last(last);
        match result {
            Ok(Changed { answers, refused }) => {
                self.refused(refused);
                let fenced = answers.iter().any(|(_, answer)| *answer == Transitioned::Fenced);
                for (run, result) in answers {
                    self.verdict_answered(&sent, &run, &result);
                    self.feed(Event::Transitioned { run, result });
                }
                let fence = sent.first().and_then(|first| first.fence);
                if fenced && fence.is_some_and(|fence| self.leadership.hold_under(fence).is_some()) {
                    self.lose_term("the store refuses its writes: another leads");
                }
            }
            Err(error) => {
                if self.work.reports.is_news(error.to_string(), self.node.options.clock.boot()) {
                    tracing::error!(%error, runs = sent.len(), "cannot record what became of runs; trying again");
                }
                self.work.transitions.extend(sent);
            }
        }
    }

    /// What the store refuses alone is sent again after a pause, alone: the others go on meanwhile.
    fn refused(&mut self, refused: Vec<(Transition, StoreError)>) {
        let mut again = Vec::with_capacity(refused.len());
        for (change, error) in refused {
            if self.work.reports.is_news(error.to_string(), self.node.options.clock.boot()) {
                tracing::error!(%error, run_id = %change.run, "the store refuses what became of a run; trying again");
            }
            again.push(change);
        }
        if !again.is_empty() {
            self.work.spawn(async move {
                tokio::time::sleep(FAILED_PAUSE).await;
                Answer::Again(again)
            });
        }
    }

    fn verdict_answered(&mut self, sent: &[Transition], run: &RunId, result: &Transitioned) {
        let Some(done) = sent.iter().find(|sent| sent.run == *run).and_then(|sent| sent.to.verdict()) else { return };
        match result {
            Transitioned::Applied { .. } => {
                self.work.pruning.touch(&done.job);
                self.work.tally.ended(done);
                if self.work.bounding.ended(done.verdict) {
                    self.chore(Chore::BoundRecords);
                }
                let job = self.scheduler.jobs().get(&done.job).map(Arc::as_ref);
                self.node.metrics.ended(job, done);
                if let (Some(job), Some(sign)) = (job, Sign::of(done.verdict).filter(|_| done.was_begun())) {
                    let what = format!("{run}: {} {}", done.verdict, done.reason);
                    ping(self.work.pings.as_ref(), job, sign, what, &self.node.metrics);
                }
                let reason = Some(done.reason.as_str()).filter(|reason| !reason.is_empty());
                tracing::info!(job = %done.job, run_id = %run, verdict = %done.verdict, reason, "run ended");
            }
            Transitioned::Refused { now: None, .. } => {
                tracing::warn!(run_id = %run, verdict = %done.verdict, "its verdict came too late: the run is decided");
            }
            _ => {}
        }
    }

    fn start(&mut self, open: Open, job: Arc<Job>) {
        let Some(claimant) = open.claimant.clone() else { return };
        let namespace = self.node.ledger.namespace().as_str();
        let stamp = Stamp {
            namespace: namespace.to_owned(),
            scope: Scope::leader(namespace),
            fence: claimant.fence,
            job: open.job.to_string(),
            run_id: open.id.to_string(),
            scheduled_at: open.at,
            attempt: open.attempt,
            node: self.node.options.name.clone(),
            after: after_of(&open.source),
        };
        tracing::info!(job = %job.name, run_id = %open.id, fence = %claimant.fence, attempt = open.attempt, "run starts");
        let hold = self.leadership.hold_under(claimant.fence);
        let (stopper, stop) = Stop::channel();
        let (started, when) = Started::channel();
        self.work.runs.insert(open.id.clone(), stopper);
        let pinged = Arc::clone(&job);
        let trace = stamp.trace_id();
        let work = execute::Work {
            job,
            stamp,
            params: open.source.params(),
            hold,
            stop,
            may_start: self.leadership.may_start(claimant.fence, self.node.options.clock.clone()),
            output: self.node.outputs.open_attempt(&open.id, open.attempt),
            started,
            reads: Reads::Nothing,
        };
        let (execute, starts) = (self.node.execute.clone(), self.work.started.clone());
        let lateness = (open.lateness.is_none() && open.source.has_lateness()).then_some((open.starts, trace));
        let (run, attempt) = (open.id, open.attempt);
        let metrics = Arc::clone(&self.node.metrics);
        let pings = self.work.pings.clone().filter(|_| attempt == 1);
        self.work.spawn(async move {
            let report = async {
                let Ok(at) = when.await else { return };
                ping(pings.as_ref(), &pinged, Sign::Start, run.to_string(), &metrics);
                if let Some((due, trace)) = lateness {
                    metrics.lateness.observe(Exemplar { took: at.since(due), trace, at });
                }
                if starts.send((run.clone(), attempt, at)).await.is_err() {
                    tracing::debug!(run_id = %run, "no receiver is left for its start");
                }
            };
            let (ended, ()) = tokio::join!(execute.run(work), report);
            Answer::Run { run, attempt, ended }
        });
    }

    pub(super) fn run_ended(&mut self, run: RunId, attempt: u32, ended: AttemptResult) {
        self.work.runs.remove(&run);
        if let Outcome::NotStarted(why) = &ended.outcome {
            tracing::error!(run_id = %run, attempt, "the command could not be started: {why}");
        }
        let job = self.scheduler.jobs().get(&run.job()).map(Arc::as_ref);
        self.node.metrics.attempted(job, &ended.outcome);
        if let Outcome::Fenced { seen } = ended.outcome {
            self.look_at_own_term(&run, seen);
        }
        self.feed(Event::Ended { run, attempt, ended });
    }

    /// A target has seen a greater fence than the one it was shown: if that was this node's present one, it may have
    /// been replaced without knowing it.
    fn look_at_own_term(&mut self, run: &RunId, seen: Option<Fence>) {
        tracing::warn!(run_id = %run, seen = seen.map(Fence::get), "fenced: turned away by its target");
        let Some(hold) = self.leadership.hold().cloned() else { return };
        let ledger = self.node.ledger.clone();
        self.work.spawn(async move {
            let result = ledger.stands(&hold).await;
            Answer::Looked { hold, seen, result }
        });
    }

    pub(super) fn looked_at_own_term(&mut self, hold: &Hold, seen: Option<Fence>, result: Result<bool, StoreError>) {
        if self.leadership.hold() != Some(hold) {
            return;
        }
        match result {
            Ok(false) => self.lose_term("a target has seen a greater fence, and the store has another leader"),
            Ok(true) => {
                let greater = seen.filter(|seen| *seen > hold.fence());
                if let Some(seen) = greater {
                    tracing::error!(
                        fence = %hold.fence(), %seen,
                        "a target has seen a greater fence than that of the present leader: does another cluster with \
                         the same namespace write there, or was this store recreated? `fencron fence repair \
                         --above FENCE` makes every later fence greater"
                    );
                }
            }
            Err(error) => {
                tracing::error!(%error, "cannot look whether this node still leads");
                self.lose_term("a target has seen a greater fence, and the store does not show which node leads");
            }
        }
    }

    pub(super) fn chore(&mut self, chore: Chore) {
        let Some(hold) = self.leadership.leading().cloned() else { return };
        let (ledger, now) = (self.node.ledger.clone(), self.node.options.clock.wall());
        match chore {
            Chore::Prune => {
                let board = self.node.board.read();
                let Some(turn) = self.work.pruning.begin(self.scheduler.jobs(), &board) else { return };
                drop(board);
                self.work
                    .spawn(async move { Answer::Pruned(super::housekeeping::prune(&ledger, &hold, turn, now).await) });
            }
            Chore::AddCounts => self.add_counts(),
            Chore::RenewLineage => {
                let locks = self.node.locks.clone();
                self.work.spawn(async move {
                    Answer::Done("renew the lineage of the store", locks.renew_lineage(&hold, true).await)
                });
            }
            Chore::CheckStore => {
                self.work.spawn(async move {
                    Answer::Done("check the store", super::housekeeping::check_store(&ledger).await)
                });
            }
            Chore::BoundRecords if self.work.bounding.begin() => {
                self.work.spawn(async move {
                    Answer::Bounded(super::housekeeping::bound_records(&ledger, &hold, now).await)
                });
            }
            Chore::BoundRecords => {}
            Chore::CompareConfigs => super::housekeeping::compare_configs(&self.config_digest, self.observed.nodes()),
            Chore::EndPauses => {
                let over = (self.node.board.read().pauses_over(now), self.observed.drains_over(now));
                if over.0.is_empty() && over.1.is_empty() {
                    return;
                }
                self.work.spawn(async move {
                    let ended = super::housekeeping::end_pauses(&ledger, &hold, over, now).await;
                    Answer::Done("end a pause", ended)
                });
            }
            Chore::FinishBackfills => {
                self.work.spawn(async move {
                    Answer::Done("finish a backfill", super::housekeeping::finish_backfills(&ledger, &hold, now).await)
                });
            }
            Chore::LookForOverdue => {
                let overdue = self.scheduler.undecided_since().map(|due| now.since(due)).unwrap_or_default();
                super::housekeeping::look_for_overdue(overdue);
            }
        }
    }

    pub(super) fn bounded(&mut self, result: Result<(), StoreError>) {
        self.work.bounding.is_over();
        if let Err(error) = result {
            tracing::warn!(%error, "could not delete what is kept for too long");
        }
    }

    pub(super) fn pruned(&mut self, result: Result<Option<Vec<JobName>>, StoreError>) {
        let next = result.unwrap_or_else(|error| {
            tracing::warn!(%error, "could not prune the history");
            None
        });
        self.work.pruning.ended(next);
    }
}

/// What a run follows, for its stamp.
fn after_of(source: &Source) -> Option<After> {
    let Source::After(followed) = source else { return None };
    let end = followed.end.as_ref().map(|end| AfterEnd {
        verdict: end.verdict.to_string(),
        reason: end.reason.clone(),
        exit_code: end.exit_code,
    });
    Some(After { run_id: followed.run.to_string(), job: followed.run.job().to_string(), end })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Verdict;
    use crate::scheduler::To;
    use crate::scheduler::run::Done;
    use crate::store::memory::MemoryStore;

    fn ends(name: &str) -> Transition {
        let (job, at) = (JobName::new(name).unwrap(), Wall::from_millis(0));
        let open = Open::claimed(RunId::of(&job, at));
        let done = Done::of(&open, Verdict::Succeeded, "", at);
        Transition { run: open.id, expect: 1, fence: None, to: To::Done { done, follow: Vec::new() }, notify: None }
    }

    #[test]
    fn what_was_refused_alone_has_its_turn_on_a_busy_node() {
        let mut work = Work::new(mpsc::channel(1).0);
        work.send_again(vec![ends("refused")]);
        let sent: Vec<String> = (0..3)
            .flat_map(|nth| {
                // There is always more.
                work.transitions.push_back(ends(&format!("new{nth}")));
                work.next_transitions::<MemoryStore>().into_iter().map(|sent| sent.run.job().to_string())
            })
            .collect();
        assert_eq!(sent, ["new0", "refused", "new1", "new2"]);
    }
}
