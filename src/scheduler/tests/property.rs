//! Random events in random order over several nodes. What must hold at every step is checked by the bench; what must
//! hold in the end, here.

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::bench::{after, every};
use super::*;
use crate::job::{Missed, On};

const NODES: usize = 3;

/// In so many rounds of seven seconds everything that waits has its turn.
const CALM_ROUNDS: usize = 60;

#[derive(Clone, Debug)]
enum Step {
    Apply(usize),
    Answer(usize),
    Watch(usize),
    /// Everything on its way to and from a node arrives.
    Flow(usize),
    Pass(u64),
    Back(u64),
    Tick(usize),
    Elect(usize),
    Depose(usize),
    Resign(usize),
    Trust(usize, bool),
    EndSession(usize),
    Crash(usize),
    Reread(usize),
    End(usize, u8, u8),
    Started(usize, u8),
    Trigger(u8),
    Backfill(u8),
    Cancel(u8),
    Withdraw(u8),
    Pause(u8, bool),
    Drain(usize, bool),
    Reload(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let node = || 0..NODES;
    prop_oneof![
        8 => node().prop_map(Step::Apply),
        8 => node().prop_map(Step::Answer),
        8 => node().prop_map(Step::Watch),
        14 => node().prop_map(Step::Flow),
        8 => (1..90u64).prop_map(Step::Pass),
        1 => (1..90u64).prop_map(Step::Back),
        1 => (600..9000u64).prop_map(Step::Pass),
        8 => node().prop_map(Step::Tick),
        6 => node().prop_map(Step::Elect),
        1 => node().prop_map(Step::Depose),
        1 => node().prop_map(Step::Resign),
        3 => (node(), any::<bool>()).prop_map(|(at, trusted)| Step::Trust(at, trusted)),
        1 => node().prop_map(Step::EndSession),
        1 => node().prop_map(Step::Crash),
        1 => node().prop_map(Step::Reread),
        10 => (node(), any::<u8>(), any::<u8>()).prop_map(|(at, which, how)| Step::End(at, which, how)),
        4 => (node(), any::<u8>()).prop_map(|(at, which)| Step::Started(at, which)),
        2 => any::<u8>().prop_map(Step::Trigger),
        1 => any::<u8>().prop_map(Step::Backfill),
        2 => any::<u8>().prop_map(Step::Cancel),
        2 => any::<u8>().prop_map(Step::Withdraw),
        1 => (any::<u8>(), any::<bool>()).prop_map(|(job, paused)| Step::Pause(job, paused)),
        1 => (node(), any::<bool>()).prop_map(|(at, drain)| Step::Drain(at, drain)),
        1 => any::<bool>().prop_map(Step::Reload),
    ]
}

const NAMES: [&str; 6] = ["skip", "queue", "replace", "allow", "again", "next"];

fn jobs(missed: MissedRun) -> Vec<Job> {
    let retry = crate::job::Retry { attempts: 2, initial: secs(3), max: secs(9) };
    let base =
        |name: &str| Job { missed: Missed { run: missed, limit: 3, every: secs(2), within: None }, retry, ..job(name) };
    vec![
        base("skip"),
        Job { overlap: Overlap::Queue, ..base("queue") },
        Job { overlap: Overlap::Replace, trigger: every("replace", "@every 1m", secs(20)), ..base("replace") },
        Job {
            overlap: Overlap::Allow { max_running: 2 },
            on_lost_leadership: OnLostLeadership::Finish,
            ..base("allow")
        },
        Job { guarantee: Guarantee::AtLeastOnce, on_lost_leadership: OnLostLeadership::Finish, ..base("again") },
        Job { trigger: after("skip", On::End), ..base("next") },
    ]
}

/// The bench with what the steps need to know of it.
struct Chaos {
    bench: Bench,
    calls: u32,
    missed: MissedRun,
}

impl Chaos {
    fn pick(&self, at: usize, which: u8) -> Option<RunId> {
        let running: Vec<&RunId> = self.bench.nodes[at].running.keys().collect();
        (!running.is_empty()).then(|| running[which as usize % running.len()].clone())
    }

    fn call(&mut self) -> String {
        self.calls += 1;
        format!("c{}", self.calls)
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Apply(at) => self.bench.apply(at),
            Step::Answer(at) => self.bench.answer(at),
            Step::Watch(at) => self.bench.watch(at),
            Step::Flow(at) => self.bench.flow(at),
            Step::Pass(by) => self.bench.now = self.bench.now.plus(secs(by)),
            Step::Back(by) => self.bench.now = self.bench.now.minus(secs(by)),
            Step::Tick(at) => self.bench.tell(at, Event::Tick),
            Step::Elect(at) => self.elect(at),
            Step::Depose(at) => self.bench.depose(at),
            Step::Resign(at) if self.bench.nodes[at].term.is_some() => self.bench.resign(at),
            Step::Trust(at, trusted) => {
                if self.bench.nodes[at].term.is_some() {
                    self.bench.trust(at, trusted);
                }
            }
            Step::EndSession(at) => self.bench.end_session(at),
            Step::Crash(at) => self.bench.crash(at),
            Step::Reread(at) => self.bench.reread(at),
            Step::End(at, which, how) => self.end(at, which, how),
            Step::Started(at, which) => {
                let run = self.pick(at, which);
                run.into_iter().for_each(|run| self.bench.started(at, &run));
            }
            Step::Trigger(job) => {
                let call = self.call();
                self.bench.trigger(NAMES[job as usize % NAMES.len()], &call);
            }
            Step::Backfill(job) => {
                let call = self.call();
                self.bench.backfill(NAMES[job as usize % NAMES.len()], T0.minus(secs(job.into())), &call);
            }
            Step::Cancel(which) => {
                let run = self.pick_open(which);
                run.into_iter().for_each(|run| self.bench.cancel(&run));
            }
            Step::Withdraw(which) => {
                let run = self.pick_open(which);
                run.into_iter().for_each(|run| self.bench.withdraw(&run));
            }
            Step::Pause(job, paused) => self.bench.pause(NAMES[job as usize % NAMES.len()], paused),
            Step::Drain(at, true) => self.bench.drain(at, true),
            Step::Drain(at, false) => self.bench.undrain(at),
            Step::Reload(with_all) => {
                let jobs = jobs(self.missed);
                self.bench.reload(jobs.into_iter().filter(|job| with_all || job.name.as_str() != "queue"));
            }
            Step::Resign(_) => {}
        }
    }

    fn pick_open(&self, which: u8) -> Option<RunId> {
        let open = &self.bench.ledger.open;
        open.keys().nth(which as usize % open.len().max(1)).cloned()
    }

    /// A node whose session has ended learns it before it gets another; one that leads is not elected again.
    fn elect(&mut self, at: usize) {
        if self.bench.nodes[at].term.is_some() || self.bench.ledger.leader.is_some() {
            return;
        }
        if !self.bench.has_session(at) {
            self.bench.open_session(at);
        }
        self.bench.elect(at);
    }

    fn end(&mut self, at: usize, which: u8, how: u8) {
        let Some(run) = self.pick(at, which) else { return };
        let stop = self.bench.nodes[at].running[&run].stop;
        match (stop, how % 4) {
            (Some(reason), 0) => self.bench.ends_unstarted(at, &run, reason),
            (Some(reason), 1 | 2) => self.bench.ends(at, &run, stopped(reason)),
            (None, 0) => self.bench.ends(at, &run, failed()),
            _ => self.bench.ends(at, &run, succeeded()),
        }
    }

    /// Calm comes: one node leads, everything arrives, everything that runs ends well.
    fn calm(&mut self) {
        let jobs = jobs(self.missed);
        self.bench.reload(jobs);
        for at in 0..NODES {
            // What a session that lives has claimed is its node's to give back.
            self.bench.resign(at);
            self.bench.undrain(at);
        }
        NAMES.iter().for_each(|job| self.bench.pause(job, false));
        self.bench.settle();
        self.elect(0);
        // The clock may have been set back by the steps: it is right again.
        let mark = self.bench.ledger.watermark.as_ref().map_or(T0, |(mark, _)| mark.instant);
        self.bench.now = self.bench.now.max(mark);
        for _ in 0..CALM_ROUNDS {
            self.bench.pass(secs(7));
            for at in 0..NODES {
                // Where there is little room, the end of one lets the next begin.
                while let Some(run) = self.bench.nodes[at].running.keys().next().cloned() {
                    self.bench.ends(at, &run, succeeded());
                    self.bench.settle();
                }
            }
        }
    }

    fn check_the_end(&self) {
        self.bench.assert_complete();
        let began = self.bench.now.minus(secs(120));
        for (open, _) in self.bench.ledger.open.values() {
            assert!(open.claimed_at > began, "{open:?} is stuck");
        }
        assert_eq!(self.bench.cancels(), 0, "every request to cancel is seen to");
        for node in &self.bench.nodes {
            node.scheduler.assert_forgets();
        }
    }
}

#[test]
fn whatever_happens_in_whatever_order_every_occurrence_is_decided_once() {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(60);
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 4000, ..Config::default() };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let missed = prop_oneof![Just(MissedRun::Skip), Just(MissedRun::Latest), Just(MissedRun::All)];
    let started = std::cell::Cell::new(0);
    let room = prop_oneof![2 => Just(usize::MAX), 1 => 1..4usize];
    let result = runner.run(&(missed, room, prop::collection::vec(step(), 1..400)), |(missed, room, steps)| {
        let mut chaos = Chaos { bench: Bench::crowded(NODES, room, jobs(missed)), calls: 0, missed };
        chaos.elect(0);
        steps.iter().for_each(|step| chaos.take(step));
        chaos.calm();
        chaos.check_the_end();
        started.set(started.get() + chaos.bench.all_starts());
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    assert!(started.get() > 1000, "something happened");
}
