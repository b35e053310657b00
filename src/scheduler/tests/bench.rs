//! A ledger in memory that is as honest as the real one, and nodes around it whose requests, answers and watch are
//! moved one at a time or all at once. It checks what must hold at every step, whatever the order.

mod asks;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::super::run::{Done, Known, Open, OpenState, Source, Watermark};
use super::super::view::Cancel;
use super::super::*;
use crate::job::{
    AttemptResult, Guarantee, History, Job, JobName, Missed, MissedRun, On, Outcome, Overlap, Retry, RunId, Task, Text,
    Trigger, Verdict,
};
use crate::schedule::{Dst, Jitter, Schedule, ScheduleSpec, Zones};

/// 2026-11-21T00:00:00Z.
pub const T0: Wall = Wall::from_millis(1_795_219_200_000);

/// So many steps are more than any scenario takes to come to rest.
const STEPS_MOST: usize = 20_000;

pub fn at(seconds: u64) -> Wall {
    T0.plus(Duration::from_secs(seconds))
}

pub fn name(text: &str) -> JobName {
    JobName::new(text).unwrap()
}

/// A job that runs every minute, once at a time, and is not run again when its leader is lost.
pub fn job(text: &str) -> Job {
    Job {
        trigger: every(text, "@every 1m", Duration::ZERO),
        kill_after: Duration::from_secs(10),
        missed: Missed { run: MissedRun::Skip, within: None, limit: 10, every: Duration::ZERO },
        retry: Retry { attempts: 1, initial: Duration::from_secs(5), max: Duration::from_secs(60) },
        history: History { keep: 100, age: Duration::from_secs(86_400) },
        ..Job::new(name(text), Task::Command(vec![Text::plain("true")]))
    }
}

pub fn every(job: &str, expression: &str, jitter: Duration) -> Trigger {
    let spec = ScheduleSpec { expressions: &[expression], timezone: "UTC", dst: Dst::default(), except: &[], job };
    Trigger::Schedule {
        schedule: Arc::new(Schedule::parse(&spec, &mut Zones::new()).unwrap()),
        jitter: Jitter::of(jitter, job),
    }
}

pub fn after(job: &str, on: On) -> Trigger {
    Trigger::After { job: name(job), on }
}

pub fn config(jobs: impl IntoIterator<Item = Job>) -> BTreeMap<JobName, Arc<Job>> {
    jobs.into_iter().map(|job| (job.name.clone(), Arc::new(job))).collect()
}

/// How an attempt that ran ends.
pub fn ended(outcome: Outcome, started_at: Option<Wall>, finished_at: Wall) -> AttemptResult {
    AttemptResult { outcome, started_at, finished_at, output: String::new(), output_bytes: 0 }
}

pub fn succeeded() -> Outcome {
    Outcome::Exited(0)
}

pub fn failed() -> Outcome {
    Outcome::Exited(1)
}

pub fn stopped(reason: StopReason) -> Outcome {
    Outcome::Stopped(reason)
}

/// The store's side.
#[derive(Debug, Default)]
pub struct Model {
    pub revision: Version,
    pub watermark: Option<(Watermark, Version)>,
    pub open: BTreeMap<RunId, (Open, Version)>,
    pub done: BTreeMap<RunId, Done>,
    pub known: BTreeMap<JobName, Known>,
    /// Every scheduled occurrence that was ever claimed.
    claimed: BTreeSet<RunId>,
    pub leader: Option<(Fence, u64)>,
    sessions: BTreeSet<u64>,
    paused: BTreeSet<JobName>,
    cancels: BTreeMap<RunId, Cancel>,
    pub resolved: BTreeSet<RunId>,
    /// The runs whose end may be notified.
    pub notified: BTreeSet<RunId>,
    /// What the watch reports.
    log: Vec<(Change, Version)>,
}

impl Model {
    fn next(&mut self) -> Version {
        self.revision += 1;
        self.revision
    }

    fn leads(&self, fence: Fence) -> bool {
        self.leader.is_some_and(|(leader, _)| leader == fence)
    }

    /// `None`: the term is over.
    fn claim(&mut self, batch: Batch, watermark_at: Version) -> Option<Version> {
        let moved_at = self.watermark.as_ref().map_or(0, |(_, at)| *at);
        if !self.leads(batch.fence) || moved_at != watermark_at {
            return None;
        }
        let version = self.next();
        if let Some((before, _)) = &self.watermark {
            assert!(batch.watermark >= *before, "the watermark never falls: {before:?} to {:?}", batch.watermark);
        }
        for open in batch.opens {
            assert!(self.claimed.insert(open.id.clone()), "{} is claimed twice", open.id);
            self.put(open, version);
        }
        for done in batch.dones {
            assert!(self.claimed.insert(done.id.clone()), "{} is claimed twice", done.id);
            super::assert_has_code(&done);
            self.done.insert(done.id.clone(), done);
        }
        for run in batch.replaced {
            assert!(self.done.remove(&run).is_some(), "{run} is part of a longer row, and was in the ledger");
        }
        for (job, known) in batch.known {
            self.log.push((Change::Job(job.clone(), Some(known.clone())), version));
            self.known.insert(job, known);
        }
        self.log.push((Change::Watermark(batch.watermark.clone()), version));
        self.watermark = Some((batch.watermark, version));
        Some(version)
    }

    pub fn put(&mut self, open: Open, version: Version) {
        self.log.push((Change::Open(open.id.clone(), Some(open.clone())), version));
        self.open.insert(open.id.clone(), (open, version));
    }

    fn transition(&mut self, change: Transition) -> Transitioned {
        if change.fence.is_some_and(|fence| !self.leads(fence)) {
            return Transitioned::Fenced;
        }
        match self.open.get(&change.run) {
            None => return Transitioned::Refused { now: None, version: self.revision },
            Some((now, version)) if *version != change.expect => {
                return Transitioned::Refused { now: Some(Box::new(now.clone())), version: *version };
            }
            Some(_) => {}
        }
        let version = self.next();
        match change.to {
            To::Open(open) => self.put(open, version),
            To::Done { done, follow } => {
                self.notified.extend(change.notify.map(|_| done.id.clone()));
                self.open.remove(&done.id);
                self.log.push((Change::Open(done.id.clone(), None), version));
                assert!(!self.done.contains_key(&done.id), "{} has two verdicts", done.id);
                super::assert_has_code(&done);
                self.done.insert(done.id.clone(), done);
                for open in follow {
                    if !self.open.contains_key(&open.id) && !self.done.contains_key(&open.id) {
                        self.put(open, version);
                    }
                }
            }
        }
        Transitioned::Applied { version }
    }

    fn follow_resolved(&mut self, fence: Fence, run: RunId, follow: Vec<Open>) {
        if !self.leads(fence) {
            return;
        }
        let version = self.next();
        for open in follow {
            if !self.open.contains_key(&open.id) && !self.done.contains_key(&open.id) {
                self.put(open, version);
            }
        }
        self.resolved.remove(&run);
        self.log.push((Change::Resolved(run, false), version));
    }

    /// A person says that a run which was in doubt has succeeded.
    pub fn resolve_as_succeeded(&mut self, run: &RunId) {
        let version = self.next();
        self.done.get_mut(run).expect("it has a verdict").verdict = Verdict::Succeeded;
        self.resolved.insert(run.clone());
        self.log.push((Change::Resolved(run.clone(), true), version));
    }

    /// A person has a run which was in doubt run once more.
    pub fn resolve_as_retry(&mut self, run: &RunId, now: Wall) {
        let version = self.next();
        let done = self.done.remove(run).expect("it has a verdict");
        let open = Open {
            id: run.clone(),
            job: done.job,
            at: done.at,
            starts: done.at,
            source: done.source,
            state: OpenState::Waiting { not_before: now },
            attempt: done.attempt,
            claimant: None,
            claimed_at: done.claimed_at,
            started_at: None,
            lateness: done.lateness,
            doubt: Some(done.reason.into()),
            catch_up: None,
        };
        self.put(open, version);
    }

    fn register(&mut self, known: Vec<(JobName, Known)>, forget: Vec<JobName>) {
        let version = self.next();
        for (job, known) in known {
            self.log.push((Change::Job(job.clone(), Some(known.clone())), version));
            self.known.insert(job, known);
        }
        for job in forget {
            self.log.push((Change::Job(job.clone(), None), version));
            self.known.remove(&job);
        }
    }

    fn end_session(&mut self, lease: u64) {
        if self.sessions.remove(&lease) {
            let version = self.next();
            self.log.push((Change::Session { lease, alive: false }, version));
        }
        self.leader = self.leader.filter(|(_, leader)| *leader != lease);
    }

    /// The whole ledger, as a watch that lost its place reads it.
    pub fn all(&self) -> Vec<(Change, Version)> {
        let mut all: Vec<(Change, Version)> = Vec::new();
        all.extend(self.watermark.iter().map(|(mark, at)| (Change::Watermark(mark.clone()), *at)));
        all.extend(
            self.known.iter().map(|(job, known)| (Change::Job(job.clone(), Some(known.clone())), self.revision)),
        );
        all.extend(self.paused.iter().map(|job| (Change::Paused(Some(job.clone()), Some(Wall::MAX)), self.revision)));
        all.extend(self.open.iter().map(|(run, (open, at))| (Change::Open(run.clone(), Some(open.clone())), *at)));
        all.extend(self.sessions.iter().map(|lease| (Change::Session { lease: *lease, alive: true }, self.revision)));
        all.extend(self.resolved.iter().map(|run| (Change::Resolved(run.clone(), true), self.revision)));
        all.extend(
            self.cancels.iter().map(|(run, asked)| (Change::Cancel(run.clone(), Some(asked.clone())), self.revision)),
        );
        all
    }

    pub fn verdict(&self, run: &str) -> Option<Verdict> {
        self.done.get(&run.parse::<RunId>().unwrap()).map(|done| done.verdict)
    }
}

/// On its way to the store.
#[derive(Debug)]
pub enum Request {
    Claim(Batch, Version),
    Register(Fence, Vec<(JobName, Known)>, Vec<JobName>),
    Transition(Transition),
    ForgetCancel(RunId),
    Follow(Fence, RunId, Vec<Open>),
}

/// On its way back.
#[derive(Debug)]
pub enum Answer {
    Claimed(Box<Batch>, Version),
    Registered(Fence),
    Transitioned(Box<Transition>, Transitioned),
    Fenced(Fence),
}

/// A process that a node was told to start.
#[derive(Debug)]
pub struct Process {
    pub attempt: u32,
    pub started_at: Wall,
    pub stop: Option<StopReason>,
    job: Arc<Job>,
}

/// How an attempt went, as the bench knows and the nodes may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Went {
    Running,
    Failed,
    Unstarted,
    Otherwise,
}

#[derive(Debug)]
pub struct Node {
    pub scheduler: Scheduler,
    pub lease: u64,
    pub term: Option<Fence>,
    pub trusted: bool,
    draining: bool,
    watermark_at: Version,
    pub requests: VecDeque<Request>,
    pub answers: VecDeque<Answer>,
    /// How much of the log the watch has reported.
    seen: usize,
    pub running: BTreeMap<RunId, Process>,
    /// Attempts whose claim was acknowledged to this node.
    acknowledged: BTreeSet<(RunId, u32, Fence)>,
    /// Everything it was told to do.
    pub told: Vec<Action>,
}

#[derive(Debug)]
pub struct Bench {
    pub now: Wall,
    pub ledger: Model,
    pub nodes: Vec<Node>,
    jobs: BTreeMap<JobName, Arc<Job>>,
    attempts: BTreeMap<RunId, Vec<Went>>,
    leases: u64,
    /// How many runs each node may begin at once.
    room: usize,
    /// What changed is reported to the nodes before what they have sent is answered.
    pub watch_ahead: bool,
}

impl Bench {
    /// So many nodes with these jobs, none of which leads.
    pub fn with(nodes: usize, jobs: impl IntoIterator<Item = Job>) -> Bench {
        Bench::crowded(nodes, usize::MAX, jobs)
    }

    /// As [`Bench::with`], each beginning no more than `room` runs at once.
    pub fn crowded(nodes: usize, room: usize, jobs: impl IntoIterator<Item = Job>) -> Bench {
        let (jobs, ledger, attempts) = (config(jobs), Model::default(), BTreeMap::new());
        let mut bench = Bench { now: T0, ledger, nodes: vec![], jobs, attempts, leases: 0, room, watch_ahead: false };
        for _ in 0..nodes {
            bench.nodes.push(Node::new(bench.nodes.len(), bench.jobs.clone(), room));
            bench.open_session(bench.nodes.len() - 1);
        }
        bench
    }

    /// One node, which leads, is trusted, and has made its jobs known.
    pub fn leading(jobs: impl IntoIterator<Item = Job>) -> Bench {
        let mut bench = Bench::with(1, jobs);
        bench.elect(0);
        bench.settle();
        bench
    }

    pub fn tell(&mut self, node: usize, event: Event) {
        let actions = self.nodes[node].scheduler.handle(event, self.now);
        for action in actions {
            self.act(node, &action);
            self.nodes[node].told.push(action);
        }
    }

    fn act(&mut self, at: usize, action: &Action) {
        let node = &mut self.nodes[at];
        match action.clone() {
            Action::Claim(batch) => {
                assert!(node.trusted && node.term == Some(batch.fence) && !node.draining, "claims only in trust");
                node.requests.push_back(Request::Claim(batch, node.watermark_at));
            }
            Action::Register { fence, known, forget } => {
                node.requests.push_back(Request::Register(fence, known, forget));
            }
            Action::Transition(change) => node.requests.push_back(Request::Transition(change)),
            Action::Start { open, job } => self.start(at, &open, job),
            Action::Stop { run, reason } => {
                let process = node.running.get_mut(&run).expect("what is stopped runs");
                assert_eq!(process.stop.replace(reason), None, "{run} is stopped once");
            }
            Action::ForgetCancel(run) => node.requests.push_back(Request::ForgetCancel(run)),
            Action::Follow { fence, run, follow } => {
                node.requests.push_back(Request::Follow(fence, run, follow));
            }
            Action::StepDown { .. } | Action::Drained => {}
        }
    }

    fn start(&mut self, at: usize, open: &Open, job: Arc<Job>) {
        let node = &mut self.nodes[at];
        let run = &open.id;
        let fence = open.claimant.as_ref().expect("what starts is claimed").fence;
        assert!(node.trusted && node.term == Some(fence) && !node.draining, "{run} starts only in trust");
        assert!(
            node.acknowledged.contains(&(run.clone(), open.attempt, fence)),
            "{run} starts only after its claim was acknowledged"
        );
        let beside = node.running.values().filter(|other| other.job.name == job.name).count();
        let most = if let Overlap::Allow { max_running } = job.overlap { max_running as usize } else { 1 };
        assert!(beside < most, "{run} starts beside {beside} others of its job");
        let went = self.attempts.entry(run.clone()).or_default();
        if job.guarantee == Guarantee::AtMostOnce {
            let again = |went: &Went| matches!(went, Went::Failed | Went::Unstarted);
            assert!(went.iter().all(again), "{run} starts again although nobody knows of its end: {went:?}");
            let failed = went.iter().filter(|went| **went == Went::Failed).count();
            assert!(failed < job.retry.attempts as usize, "{run} has no attempt left");
        }
        went.push(Went::Running);
        let process = Process { attempt: open.attempt, started_at: self.now, stop: None, job };
        assert!(node.running.len() < self.room, "{run} starts though there is no room");
        assert!(node.running.insert(run.clone(), process).is_none(), "{run} runs already");
    }

    /// The next request arrives at the store.
    pub fn apply(&mut self, at: usize) {
        let Some(request) = self.nodes[at].requests.pop_front() else { return };
        let ledger = &mut self.ledger;
        let answer = match request {
            Request::Claim(batch, watermark_at) => match ledger.claim(batch.clone(), watermark_at) {
                Some(version) => Answer::Claimed(Box::new(batch), version),
                None => Answer::Fenced(batch.fence),
            },
            Request::Register(fence, known, forget) if ledger.leads(fence) => {
                ledger.register(known, forget);
                Answer::Registered(fence)
            }
            Request::Register(fence, ..) => Answer::Fenced(fence),
            Request::Transition(change) => Answer::Transitioned(Box::new(change.clone()), ledger.transition(change)),
            Request::ForgetCancel(run) if ledger.open.contains_key(&run) => return,
            Request::ForgetCancel(run) => {
                ledger.cancels.remove(&run);
                let version = ledger.next();
                return ledger.log.push((Change::Cancel(run, None), version));
            }
            Request::Follow(fence, run, follow) => return ledger.follow_resolved(fence, run, follow),
        };
        self.nodes[at].answers.push_back(answer);
    }

    /// The next answer arrives at its node.
    pub fn answer(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        match node.answers.pop_front() {
            None => {}
            Some(Answer::Claimed(batch, version)) if node.term == Some(batch.fence) => {
                node.watermark_at = version;
                let claimed = batch.opens.iter().filter(|open| open.state == OpenState::Claimed);
                node.acknowledged.extend(claimed.map(|open| (open.id.clone(), open.attempt, batch.fence)));
                self.tell(at, Event::Claimed { batch: batch.number, version });
            }
            Some(Answer::Registered(fence)) if node.term == Some(fence) => self.tell(at, Event::Registered),
            Some(Answer::Transitioned(sent, result)) => {
                if let (To::Open(open), Transitioned::Applied { .. }, Some(fence)) = (&sent.to, &result, sent.fence) {
                    node.acknowledged.insert((open.id.clone(), open.attempt, fence));
                }
                let lost = sent.fence.filter(|_| result == Transitioned::Fenced);
                self.tell(at, Event::Transitioned { run: sent.run, result });
                lost.into_iter().for_each(|fence| self.lost_term(at, fence));
            }
            Some(Answer::Fenced(fence)) => self.lost_term(at, fence),
            Some(Answer::Claimed(..) | Answer::Registered(_)) => {}
        }
    }

    fn lost_term(&mut self, at: usize, fence: Fence) {
        if self.nodes[at].term == Some(fence) {
            self.depose(at);
        }
    }

    /// The watch reports the next change.
    pub fn watch(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let Some((change, version)) = self.ledger.log.get(node.seen).cloned() else { return };
        node.seen += 1;
        self.tell(at, Event::Changed(change, version));
    }

    /// The watch has lost its place: the node reads everything.
    pub fn reread(&mut self, at: usize) {
        let (changes, version) = (self.ledger.all(), self.ledger.revision);
        self.nodes[at].seen = self.ledger.log.len();
        self.tell(at, Event::Reread { changes, version });
    }

    fn is_quiet(&self, at: usize) -> bool {
        let node = &self.nodes[at];
        node.requests.is_empty() && node.answers.is_empty() && node.seen == self.ledger.log.len()
    }

    /// Everything that is on its way to and from this node arrives.
    pub fn flow(&mut self, at: usize) {
        for _ in 0..STEPS_MOST {
            if self.is_quiet(at) {
                return;
            }
            self.apply(at);
            self.answer(at);
            self.watch(at);
        }
        panic!("it does not come to rest: {:#?}", self.nodes[at].requests);
    }

    /// Everything that is on its way arrives.
    pub fn settle(&mut self) {
        for _ in 0..STEPS_MOST {
            let Some(at) = (0..self.nodes.len()).find(|at| !self.is_quiet(*at)) else { return };
            self.apply(at);
            if self.watch_ahead {
                self.watch(at);
            }
            self.answer(at);
            self.watch(at);
        }
        panic!("it does not come to rest: {:#?}", self.nodes.iter().map(|node| &node.requests).collect::<Vec<_>>());
    }

    /// Time goes on by this, with a stop at every instant that somebody waits for.
    pub fn pass(&mut self, by: Duration) {
        let until = self.now.plus(by);
        for _ in 0..STEPS_MOST {
            self.settle();
            let next = self.nodes.iter_mut().filter_map(|node| node.scheduler.wake_at()).min();
            match next.filter(|next| *next <= until) {
                Some(next) => self.now = next.max(self.now),
                None if self.now == until => return,
                None => self.now = until,
            }
            self.tick();
        }
        panic!("it waits for the same instant again and again");
    }

    /// Every node is told the time.
    pub fn tick(&mut self) {
        (0..self.nodes.len()).for_each(|at| self.tell(at, Event::Tick));
    }

    pub fn open_session(&mut self, at: usize) {
        self.leases += 1;
        let lease = self.leases;
        let version = self.ledger.next();
        self.ledger.sessions.insert(lease);
        self.ledger.log.push((Change::Session { lease, alive: true }, version));
        self.nodes[at].lease = lease;
        self.tell(at, Event::Session { lease });
    }

    /// The node leads, once its watch has caught up with that, and is trusted.
    pub fn elect(&mut self, at: usize) {
        let lease = self.nodes[at].lease;
        assert!(self.ledger.leader.is_none() && self.ledger.sessions.contains(&lease), "it can be elected");
        let fence = Fence::new(self.ledger.next()).unwrap();
        self.ledger.leader = Some((fence, lease));
        while self.nodes[at].seen < self.ledger.log.len() {
            self.watch(at);
        }
        let node = &mut self.nodes[at];
        (node.term, node.watermark_at) = (Some(fence), node.scheduler.view().watermark_version);
        self.tell(at, Event::Elected { fence });
        self.trust(at, true);
    }

    pub fn trust(&mut self, at: usize, trusted: bool) {
        self.nodes[at].trusted = trusted;
        self.tell(at, Event::Trust(trusted));
    }

    /// The node hears that it leads no more.
    pub fn depose(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        (node.term, node.trusted) = (None, false);
        self.tell(at, Event::Deposed);
    }

    /// The node gives up its leadership, keeping its session.
    pub fn resign(&mut self, at: usize) {
        let lease = self.nodes[at].lease;
        self.ledger.leader = self.ledger.leader.filter(|(_, leader)| *leader != lease);
        self.depose(at);
    }

    /// The lease of the node's session ends in the store; the node does not know.
    pub fn end_session(&mut self, at: usize) {
        let lease = self.nodes[at].lease;
        self.ledger.end_session(lease);
    }

    /// The node's process dies, and what it ran with it; another begins in its place. What it had sent is lost.
    pub fn crash(&mut self, at: usize) {
        self.end_session(at);
        for run in self.nodes[at].running.keys() {
            *self.attempts.get_mut(run).unwrap().last_mut().unwrap() = Went::Otherwise;
        }
        self.nodes[at] = Node::new(at, self.jobs.clone(), self.room);
        self.open_session(at);
        self.reread(at);
    }

    pub fn drain(&mut self, at: usize, wait_for_finish: bool) {
        self.nodes[at].draining = true;
        self.tell(at, Event::Drain { wait_for_finish });
    }

    pub fn undrain(&mut self, at: usize) {
        self.nodes[at].draining = false;
        self.tell(at, Event::Undrain);
    }

    /// Every node reads this configuration.
    pub fn reload(&mut self, jobs: impl IntoIterator<Item = Job>) {
        self.jobs = config(jobs);
        (0..self.nodes.len()).for_each(|at| self.tell(at, Event::Reloaded(self.jobs.clone())));
    }

    /// A person asks for a run of this job now.
    pub fn trigger(&mut self, job: &str, call: &str) -> RunId {
        let source = Source::Trigger { by: "eve".into(), params: crate::job::Params::default() };
        self.ask(job, self.now, call, source)
    }

    pub fn backfill(&mut self, job: &str, at: Wall, call: &str) -> RunId {
        self.ask(job, at, call, Source::Backfill { by: "eve".into() })
    }

    fn ask(&mut self, job: &str, at: Wall, call: &str, source: Source) -> RunId {
        let id = RunId::asked_for(&name(job), at, call);
        let version = self.ledger.next();
        let state = OpenState::Waiting { not_before: self.now };
        let open = Open {
            job: name(job),
            at,
            starts: self.now,
            source,
            state,
            attempt: 0,
            claimant: None,
            claimed_at: self.now,
            started_at: None,
            lateness: None,
            doubt: None,
            catch_up: None,
            id: id.clone(),
        };
        self.ledger.put(open, version);
        id
    }

    pub fn has_session(&self, at: usize) -> bool {
        self.ledger.sessions.contains(&self.nodes[at].lease)
    }

    pub fn pause(&mut self, job: &str, paused: bool) {
        let changed = if paused { self.ledger.paused.insert(name(job)) } else { self.ledger.paused.remove(&name(job)) };
        if changed {
            let version = self.ledger.next();
            self.ledger.log.push((Change::Paused(Some(name(job)), paused.then_some(Wall::MAX)), version));
        }
    }

    /// Pauses a job, or (`None`) all, until then; without an instant, it is resumed.
    pub fn pause_until(&mut self, job: Option<&str>, until: Option<Wall>) {
        let version = self.ledger.next();
        self.ledger.log.push((Change::Paused(job.map(name), until), version));
    }

    /// The process says that it has started.
    pub fn started(&mut self, at: usize, run: &RunId) {
        let process = &self.nodes[at].running[run];
        let event = Event::Started { run: run.clone(), attempt: process.attempt, at: process.started_at };
        self.tell(at, event);
    }

    /// What runs of this run ends.
    pub fn ends(&mut self, at: usize, run: &RunId, outcome: Outcome) {
        let started_at = Some(self.nodes[at].running[run].started_at);
        self.ends_as(at, run, outcome, started_at);
    }

    /// It ends without ever having been started.
    pub fn ends_unstarted(&mut self, at: usize, run: &RunId, reason: StopReason) {
        self.ends_without_having_begun(at, run, Outcome::Stopped(reason));
    }

    /// It ends so, and nothing of it had begun.
    pub fn ends_without_having_begun(&mut self, at: usize, run: &RunId, outcome: Outcome) {
        self.ends_as(at, run, outcome, None);
    }

    fn ends_as(&mut self, at: usize, run: &RunId, outcome: Outcome, started_at: Option<Wall>) {
        let process = self.nodes[at].running.remove(run).expect("it runs");
        *self.attempts.get_mut(run).unwrap().last_mut().unwrap() = match &outcome {
            Outcome::Stopped(_) if started_at.is_none() => Went::Unstarted,
            Outcome::Exited(0) | Outcome::Stopped(_) => Went::Otherwise,
            _ => Went::Failed,
        };
        let ended = ended(outcome, started_at, self.now);
        self.tell(at, Event::Ended { run: run.clone(), attempt: process.attempt, ended });
    }

    /// The run ends well, and everything about that arrives.
    pub fn succeeds(&mut self, run: &RunId) {
        let at = (0..self.nodes.len()).find(|at| self.nodes[*at].running.contains_key(run)).expect("it runs");
        self.ends(at, run, succeeded());
        self.settle();
    }

    /// What runs on the first node, as `job@second[~call] #attempt`.
    pub fn running(&self) -> Vec<String> {
        self.running_on(0)
    }

    pub fn running_on(&self, at: usize) -> Vec<String> {
        self.nodes[at].running.iter().map(|(run, process)| format!("{} #{}", short(run), process.attempt)).collect()
    }

    /// All verdicts, as `job@second[~call] verdict: reason`, and where one stands for many `(count since second)`.
    pub fn verdicts(&self) -> Vec<String> {
        let many = |done: &Done| {
            done.many.map_or(String::new(), |many| format!(" ({} since {})", many.count, many.from.since(T0).as_secs()))
        };
        let text = |done: &Done| format!("{} {}: {}{}", short(&done.id), done.verdict, done.reason, many(done));
        self.ledger.done.values().map(|done| text(done).trim_end_matches(": ").to_owned()).collect()
    }

    /// The open runs, as `job@second[~call] state`.
    pub fn open(&self) -> Vec<String> {
        let state = |open: &Open| match open.state {
            OpenState::Waiting { .. } => "waiting",
            OpenState::Claimed => "claimed",
            OpenState::Retrying { .. } => "retrying",
        };
        self.ledger.open.values().map(|(open, _)| format!("{} {}", short(&open.id), state(open))).collect()
    }

    /// How often a run was started, on whichever node.
    pub fn starts(&self, run: &RunId) -> usize {
        self.attempts.get(run).map_or(0, Vec::len)
    }

    pub fn all_starts(&self) -> usize {
        self.attempts.values().map(Vec::len).sum()
    }

    /// Every occurrence that was due since its job was first seen, up to the watermark, is open or has a verdict.
    pub fn assert_complete(&self) {
        let Some((mark, _)) = &self.ledger.watermark else { return };
        for (job, known) in &self.ledger.known {
            let Some(Trigger::Schedule { schedule, jitter }) = self.jobs.get(job).map(|job| job.trigger.clone()) else {
                continue;
            };
            let mut from = known.since;
            while let Some(next) = schedule.next_start(jitter, from).filter(|next| next.starts < mark.instant) {
                from = next.starts;
                let due = next.at;
                if due <= known.since {
                    continue;
                }
                let run = RunId::of(job, due);
                let listed = self.ledger.open.contains_key(&run) || self.ledger.done.contains_key(&run);
                let covers =
                    |done: &Done| done.job == *job && done.many.is_some_and(|many| many.from <= due && due <= done.at);
                assert!(listed || self.ledger.done.values().any(covers), "nobody has decided {run}");
            }
        }
    }
}

impl Node {
    fn new(number: usize, jobs: BTreeMap<JobName, Arc<Job>>, room: usize) -> Node {
        Node {
            scheduler: Scheduler::new(format!("n{number}"), jobs).with_room(room),
            lease: 0,
            term: None,
            trusted: false,
            draining: false,
            watermark_at: 0,
            requests: VecDeque::new(),
            answers: VecDeque::new(),
            seen: 0,
            running: BTreeMap::new(),
            acknowledged: BTreeSet::new(),
            told: Vec::new(),
        }
    }
}

/// `job@seconds-after-T0[~call]`.
fn short(run: &RunId) -> String {
    let call = run.as_str().split_once('~').map_or(String::new(), |(_, call)| format!("~{call}"));
    format!("{}@{}{call}", run.job(), run.at().since(T0).as_secs_f64())
}

/// The run of `job` at this many seconds.
pub fn run(job: &str, seconds: u64) -> RunId {
    RunId::of(&name(job), at(seconds))
}
