//! What jobs do here: they take a while, end well or badly, and have an effect that carries their stamp.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fencron::execute::{Execute, Work};
use fencron::job::{AttemptResult, OnLostLeadership, Outcome, StopReason};
use fencron::time::Wall;
use tokio::sync::watch;
use tokio::time::Instant;

use super::chance::Chance;
use super::jobs::{LATE, SLOW};
use super::network::{Broken, Machine, Net};
use super::referee::record::{Attempt, Fact, Life};
use super::supervisor::{Left, Supervisor};

/// What receives the effects of all jobs, and looks at their fences.
#[derive(Debug, Default)]
pub struct Receiver {
    highest: Mutex<u64>,
    /// The runs whose effect was taken, and the greatest fence of those that took one first.
    done: Mutex<HashSet<String>>,
    acted: watch::Sender<u64>,
}

impl Receiver {
    fn takes(&self, attempt: &Attempt, guarded: bool) -> bool {
        let mut highest = self.highest.lock().unwrap();
        let accepted = attempt.fence >= *highest || !guarded;
        *highest = attempt.fence.max(*highest);
        if accepted && self.done.lock().unwrap().insert(attempt.run.clone()) {
            self.acted.send_modify(|acted| *acted = attempt.fence.max(*acted));
        }
        accepted
    }

    /// Waits until a later leader has done something that was not done before.
    async fn has_taken_above(&self, fence: u64) {
        self.acted.subscribe().wait_for(|acted| *acted > fence).await.ok();
    }
}

/// Executes the attempts of one process.
#[derive(Clone)]
pub struct Worker {
    pub net: Arc<Net>,
    pub machine: Machine,
    pub life: Life,
    pub receiver: Arc<Receiver>,
    pub seed: u64,
    pub supervisor: Arc<Supervisor>,
}

/// How one attempt will go: the same whenever the seed is replayed.
struct Course {
    takes: Duration,
    code: i32,
    start_takes: Duration,
    effect_takes: Duration,
    stop_takes: Duration,
}

impl Course {
    fn of(seed: u64, attempt: &Attempt) -> Course {
        let mut chance = Chance::of(seed, &format!("{}/{}", attempt.run, attempt.number));
        let job = attempt.run.split('@').next().expect("a run names its job");
        let (shortest, longest) = match job {
            "tick" => (5, 700),
            "long" => (3_000, 9_000),
            "instant" => (0, 1),
            "canary" | SLOW => (40, 400),
            // It lasts for as long as its effect is held back.
            LATE => (3_600_000, 3_600_000),
            _ => (50, 3_500),
        };
        let slow_effect = chance.permille(150) && job != "canary";
        let fails = match job {
            "flaky" | "flaky-again" => 500,
            "canary" | LATE | SLOW => 0,
            _ => 50,
        };
        Course {
            takes: Duration::from_millis(chance.within(shortest, longest)),
            code: i32::from(chance.permille(fails)),
            start_takes: Duration::from_millis(chance.within(0, if job == SLOW { 10_000 } else { 20 })),
            effect_takes: Duration::from_millis(chance.within(0, if slow_effect { 15_000 } else { 30 })),
            stop_takes: Duration::from_millis(chance.within(0, 400)),
        }
    }
}

/// Notes that an attempt is over, also where its process is killed: then its supervisor sees to it, where there is one.
struct Over<'a> {
    worker: &'a Worker,
    left: Left,
}

impl Drop for Over<'_> {
    fn drop(&mut self) {
        if let Some(left) = self.worker.supervisor.takes_on(&self.left) {
            self.worker.net.note(Fact::Ended { life: self.worker.life.clone(), attempt: left.attempt });
        }
    }
}

impl Worker {
    fn ended(outcome: Outcome, started_at: Option<Wall>, finished_at: Wall) -> AttemptResult {
        AttemptResult { outcome, started_at, finished_at, output: "done\n".into(), output_bytes: 5 }
    }

    /// The effect goes its own way: it arrives though its sender be dead, and however late.
    fn send_effect(&self, attempt: &Attempt, after: Duration) {
        let (own, attempt) = (self.clone(), attempt.clone());
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            if attempt.run.split_once('@').is_some_and(|(job, _)| job == LATE) {
                own.receiver.has_taken_above(attempt.fence).await;
            }
            own.machine.running().await;
            let accepted = own.receiver.takes(&attempt, own.net.broken != Broken::NoGuard);
            own.net.note(Fact::Effect { attempt, accepted });
        });
    }
}

impl Execute for Worker {
    async fn run(&self, work: Work) -> AttemptResult {
        let Work { job, stamp, mut stop, may_start, started, .. } = work;
        let attempt = Attempt { run: stamp.run_id.clone(), number: stamp.attempt, fence: stamp.fence.get() };
        let course = Course::of(self.seed, &attempt);
        tokio::select! {
            biased;
            reason = stop.requested() => return Worker::ended(Outcome::Stopped(reason), None, self.machine.clock.read().1),
            () = tokio::time::sleep(course.start_takes) => {}
        }
        if !may_start.now() {
            self.net.note(Fact::Saw("starts refused for want of trust"));
            let outcome = Outcome::Stopped(StopReason::LostLeadership);
            return Worker::ended(outcome, None, self.machine.clock.read().1);
        }
        let (boot, at) = self.machine.clock.read();
        let own = boot.since_boot().as_millis() as u64;
        let times = if self.net.broken == Broken::StartsTwice { 2 } else { 1 };
        for _ in 0..times {
            self.net.note(Fact::Started { life: self.life.clone(), attempt: attempt.clone(), own });
        }
        let finishes = job.on_lost_leadership == OnLostLeadership::Finish;
        let ends = Instant::now() + course.takes;
        let left = Left { attempt: attempt.clone(), finishes, stop_takes: course.stop_takes, ends };
        let over = Over { worker: self, left };
        started.at(at);
        self.send_effect(&attempt, course.effect_takes);
        let timeout = job.timeout.unwrap_or(Duration::from_secs(3600));
        let takes = if self.net.broken == Broken::EndsEarly { course.takes / 10 } else { course.takes };
        let outcome = tokio::select! {
            biased;
            reason = stop.requested() => {
                tokio::time::sleep(course.stop_takes).await;
                Outcome::Stopped(reason)
            }
            () = tokio::time::sleep(timeout) => Outcome::TimedOut,
            () = tokio::time::sleep(takes) => Outcome::Exited(course.code),
        };
        if self.net.broken == Broken::EndsEarly {
            // It goes on where nobody sees it.
            std::mem::forget(over);
        }
        Worker::ended(outcome, Some(at), self.machine.clock.read().1)
    }
}
