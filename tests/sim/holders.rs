//! Programs that hold locks, stand for election and do things once, each by the one candidacy that nodes have as well.
//!
//! tokio wakes several who wait for one `watch` in an order that differs from run to run. So that a seed goes the same way
//! each time, each user has a session of its own, and one claim at a time waits for the end of a hand-over.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fencron::elected::{Claimed, Elected, ElectedJob};
use fencron::execute::{Execute, Outputs, Stop, Work};
use fencron::job::{Again, AttemptResult, Outcome, StopReason, Task};
use fencron::ledger::{Ledger, OnceKey};
use fencron::lock::{
    Config, Driver, FencedLock, KeptSession, LockContext, LockError, LockGuard, LockName, Locks, Presence, Timing,
};
use fencron::node::{Order, Status};
use fencron::once::{How, OnceError, Reporter, Runner, Settled, Step};
use fencron::store::StoreError;
use fencron::time::Wall;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::chance::Chance;
use super::clock::WALL_START;
use super::network::{Link, Machine, Net};
use super::referee::holders::{ELECTED, LOCKS};
use super::referee::record::{Fact, Life};

/// How many of a process's tasks use the locks, each under a session of its own.
const USERS: u64 = 2;

/// The jobs of the elected instance, and how often they are due.
const JOBS: [(&str, u64); 2] = [("tick", 2_000), ("tock", 7_000)];

/// How often there is something else to be done once, and how long after that the first and the last come to do it.
const ONCE_EVERY: u64 = 9_000;
const ONCE_LATE: u64 = 2_500;

/// What a user does again where a call has failed.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// One process.
#[derive(Clone)]
pub struct Holders {
    pub net: Arc<Net>,
    pub machine: Machine,
    pub life: Life,
    pub locks: Locks<Link>,
    pub ledger: Ledger<Link>,
    pub timing: Timing,
    pub grace: Duration,
    pub seed: u64,
}

impl Holders {
    /// Does all of it until it is told to stop.
    pub async fn run(self, mut orders: mpsc::Receiver<Order>, status: watch::Sender<Status>) -> Result<(), StoreError> {
        let presence = Presence { node: self.life.node.clone(), record: b"{}".to_vec() };
        let sessions: Vec<_> = (0..USERS)
            .map(|_| Arc::new(KeptSession::new(&self.locks, presence.clone(), self.timing, Driver::Task)))
            .collect();
        let lock = LockName::new(ELECTED).unwrap();
        let elected = Elected::driven_by(Driver::Task, &self.locks, lock, &self.life.node, self.timing);
        let mut tasks = JoinSet::new();
        for (number, session) in (0..).zip(&sessions) {
            let (own, session, status) = (self.clone(), Arc::clone(session), status.clone());
            tasks.spawn(async move { own.use_locks(&session, number, &status).await });
        }
        let one_at_a_time = Arc::new(Mutex::new(()));
        for (name, every) in JOBS {
            let (own, job, turn) = (self.clone(), elected.job(name).unwrap(), Arc::clone(&one_at_a_time));
            tasks.spawn(async move { own.claim_all(&job, every, &turn).await });
        }
        let own = self.clone();
        tasks.spawn(async move { own.do_all_once().await });
        tokio::select! {
            biased;
            _ = orders.recv() => {}
            Some(ended) = tasks.join_next() => ended.expect("nothing of it panics"),
        }
        // What is left in the background goes with the session.
        tasks.shutdown().await;
        elected.stop(self.grace).await;
        for session in sessions {
            session.close().await;
        }
        Ok(())
    }

    fn chance(&self, what: &str) -> Chance {
        Chance::of(self.seed, &format!("{}/{what}", self.life))
    }

    fn acted(&self, lock: &str, fence: u64, looked: bool) {
        self.net.note(Fact::Acted { life: self.life.clone(), lock: lock.to_owned(), fence, looked });
    }
}

/// Locks.
impl Holders {
    async fn use_locks(&self, session: &KeptSession<Link>, number: u64, status: &watch::Sender<Status>) {
        let mut chance = self.chance(&format!("user {number}"));
        loop {
            let Ok(context) = session.context().await else {
                sleep(AGAIN_AFTER).await;
                continue;
            };
            let Some(mut context) = context else { return };
            for _ in 0..chance.within(1, 5) {
                sleep(Duration::from_millis(chance.within(20, 2_000))).await;
                self.machine.running().await;
                let name = *chance.pick(&LOCKS);
                let lock = self.locks.fenced(LockName::new(name).unwrap(), config_of(name, &mut chance));
                let key = format!("{name}, user {number}");
                self.net.note(Fact::Called { life: self.life.clone(), key: key.clone() });
                let locked = self.lock_once(&lock, &mut context, &mut chance, status).await;
                self.settle(&lock, &mut context).await;
                let how = if locked { "locked" } else { "not locked" };
                self.net.note(Fact::Answered { life: self.life.clone(), key, how });
                if context.session_ended().is_some() {
                    break;
                }
            }
        }
    }

    /// Whether it had the lock.
    async fn lock_once(
        &self,
        lock: &FencedLock<Link>,
        context: &mut LockContext,
        chance: &mut Chance,
        status: &watch::Sender<Status>,
    ) -> bool {
        let wait = Duration::from_millis(chance.within(10, 6_000));
        let got = match chance.within(0, 9) {
            0..=4 => lock.guard(context).await.map(Some),
            5 | 6 => lock.try_guard_for(context, wait).await,
            7 => lock.try_guard_for(context, Duration::ZERO).await,
            _ => match tokio::time::timeout(wait, lock.guard(context)).await {
                Ok(got) => got.map(Some),
                Err(_) => {
                    self.net.note(Fact::Saw("waits dropped half-way"));
                    Ok(None)
                }
            },
        };
        let Ok(Some(guard)) = got else { return false };
        self.hold(lock.name().as_str(), guard, chance, status).await;
        true
    }

    async fn hold(&self, name: &str, guard: LockGuard<'_, Link>, chance: &mut Chance, status: &watch::Sender<Status>) {
        let (fence, signal) = (guard.fence(), guard.signal());
        self.net.note(Fact::Held { life: self.life.clone(), lock: name.to_owned(), fence: fence.get() });
        status.send_modify(|status| status.fence = Some(fence));
        let mut left = chance.within(0, 4_000);
        loop {
            self.machine.running().await;
            // From here to the act there is nothing to wait for.
            if signal.is_lost().is_some() {
                self.net.note(Fact::Saw("holds lost"));
                break;
            }
            self.acted(name, fence.get(), true);
            let pause = chance.within(20, 400).min(left);
            left -= pause;
            if pause == 0 {
                break;
            }
            sleep(Duration::from_millis(pause)).await;
        }
        status.send_modify(|status| status.fence = None);
        self.machine.running().await;
        if chance.permille(300) {
            self.net.note(Fact::Saw("guards dropped"));
            drop(guard);
        } else {
            guard.unlock().await.ok();
        }
    }

    /// What is left of a call without an answer is for the context's next operation to settle.
    async fn settle(&self, lock: &FencedLock<Link>, context: &mut LockContext) {
        while context.session_ended().is_none() {
            match lock.is_locked_by(context).await {
                Ok(false) | Err(LockError::OwnershipLost { .. }) => return,
                Ok(true) => drop(lock.unlock(context).await),
                Err(_) => sleep(AGAIN_AFTER).await,
            }
        }
    }
}

/// Holders of the second lock may be lost, and those of the first may hold it for too long.
fn config_of(name: &str, chance: &mut Chance) -> Config {
    let is_first = name == LOCKS[0];
    Config {
        max_hold: (is_first && chance.permille(200)).then_some(Duration::from_millis(1_500)),
        lock_delay: (!is_first).then_some(Duration::from_millis(1_500)),
        ..Config::default()
    }
}

/// Elections.
impl Holders {
    /// Claims the occurrences as they come due by the machine's own clock.
    async fn claim_all(&self, job: &ElectedJob<Link>, every: u64, turn: &Mutex<()>) {
        let mut works = JoinSet::new();
        let mut chance = self.chance(job.name());
        loop {
            let now = self.machine.clock.boot_millis();
            let due = (now / every + 1) * every;
            sleep(Duration::from_millis(due - now)).await;
            self.machine.running().await;
            while works.try_join_next().is_some() {}
            let (own, at, takes) = (self.clone(), WALL_START + due as i64, chance.within(0, every * 2));
            let _turn = turn.lock().await;
            if let Ok(Some(claimed)) = job.claim(Wall::from_millis(at)).await {
                works.spawn(async move { own.work(&claimed, at, takes).await });
            }
        }
    }

    async fn work(&self, claimed: &Claimed, at: i64, takes: u64) {
        let (fence, signal) = (claimed.fence().get(), claimed.signal());
        self.net.note(Fact::Handed { life: self.life.clone(), job: claimed.job().to_owned(), at, fence });
        let mut left = takes;
        while left > 0 {
            self.machine.running().await;
            if signal.is_cancelled() {
                return self.net.note(Fact::Saw("terms that ended in the middle of work"));
            }
            self.acted(ELECTED, fence, false);
            let pause = left.min(250);
            left -= pause;
            sleep(Duration::from_millis(pause)).await;
        }
    }
}

/// What is done once.
impl Holders {
    async fn do_all_once(&self) {
        let mut calls = JoinSet::new();
        let mut chance = self.chance("once");
        loop {
            let now = self.machine.clock.boot_millis();
            let due = (now / ONCE_EVERY + 1) * ONCE_EVERY;
            sleep(Duration::from_millis(due - now)).await;
            while calls.try_join_next().is_some() {}
            if chance.permille(850) {
                let (own, late) = (self.clone(), chance.within(0, ONCE_LATE));
                calls.spawn(async move {
                    sleep(Duration::from_millis(late)).await;
                    own.machine.running().await;
                    own.do_once(due / ONCE_EVERY).await;
                });
            }
        }
    }

    async fn do_once(&self, number: u64) {
        let is_repeatable = number.is_multiple_of(2);
        let key = format!("{}{number}", if is_repeatable { "again-" } else { "" });
        let clock = self.machine.clock.clock();
        let step = Step::of_key(OnceKey::once(&key).unwrap(), "checksum".into(), Task::Call, None, is_repeatable);
        let runner = Runner {
            ledger: self.ledger.clone(),
            locks: self.locks.clone(),
            execute: Maker { own: self.clone(), key: key.clone(), begun: Arc::default() },
            outputs: Outputs::new(clock.clone()),
            clock,
            node: self.life.node.clone(),
            timing: self.timing,
            driver: Driver::Task,
        };
        let (_stopper, stop) = Stop::channel();
        let report: Reporter = Arc::new(|_| {});
        self.net.note(Fact::Called { life: self.life.clone(), key: key.clone() });
        let how = match runner.run(&[step], How { retry_failed: false, wait: None, stop }, &report).await {
            Ok(Settled::Done) => "done",
            Ok(Settled::Failed(_)) => "failed",
            Ok(Settled::Unknown(_)) => "unknown",
            Err(OnceError::Lost { .. }) => "lost",
            Err(_) => "error",
        };
        self.net.note(Fact::Answered { life: self.life.clone(), key, how });
    }
}

/// Makes what is done once, for one call.
#[derive(Clone)]
struct Maker {
    own: Holders,
    key: String,
    begun: Arc<AtomicU64>,
}

impl Execute for Maker {
    async fn run(&self, work: Work) -> AttemptResult {
        let Holders { net, machine, life, .. } = &self.own;
        let Work { stamp, mut stop, may_start, started, .. } = work;
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        let mut chance = self.own.chance(&format!("{} {number}", self.key));
        let ended = |outcome, started_at| {
            let finished_at = machine.clock.read().1;
            AttemptResult { outcome, started_at, finished_at, output: String::new(), output_bytes: 0 }
        };
        sleep(Duration::from_millis(chance.within(0, 20))).await;
        machine.running().await;
        if stop.asked().is_some() || !may_start.now() {
            return ended(Outcome::Stopped(StopReason::LostLeadership), None);
        }
        let (fence, began) = (stamp.fence.get(), machine.clock.read().1);
        net.note(Fact::Began { life: life.clone(), key: self.key.clone(), fence });
        started.at(began);
        let (lock, mut left) = (format!("~once.{}", self.key), chance.within(0, 5_000));
        while left > 0 {
            let pause = left.min(200);
            left -= pause;
            tokio::select! {
                biased;
                reason = stop.requested() => return ended(Outcome::Stopped(reason), Some(began)),
                () = async {
                    sleep(Duration::from_millis(pause)).await;
                    machine.running().await;
                } => {}
            }
            if let Some(reason) = stop.asked() {
                return ended(Outcome::Stopped(reason), Some(began));
            }
            self.own.acted(&lock, fence, false);
        }
        let fails = chance.permille(100);
        let failed = Outcome::Failed { why: "it was to fail".to_owned(), again: Again::Never };
        ended(if fails { failed } else { Outcome::Done }, Some(began))
    }
}
