//! The migrations of the jobs file: made before it is taken, by the first node.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{Answer, Reason, Running};
use crate::config::{Config, Migration};
use crate::execute::{Execute, Stop, Stopper};
use crate::job::StopReason;
use crate::ledger::{Ledger, Once, OnceKey, OnceState};
use crate::once::{How, Notice, OnceError, Reporter, Runner, Settled, Step};
use crate::scheduler::Event;
use crate::store::Store;

/// The pause before what has failed, and may be made again without harm, is made again: it doubles up to the longest.
const AGAIN_FIRST: Duration = Duration::from_secs(5);
const AGAIN_MOST: Duration = Duration::from_secs(300);

/// How often a state that only a person can settle is checked, beside when it changes.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// What stands between a jobs file and its being in force.
#[derive(Debug)]
pub(super) struct Gate {
    /// The migrations of the file that comes into force next.
    steps: Vec<Step>,
    /// That file, where another one is in force meanwhile.
    wanted: Option<Box<Config>>,
    /// A file that came while migrations were being made.
    next: Option<Box<Config>>,
    /// Some file is in force: its jobs may fire.
    open: bool,
    /// Why the migrations are not made.
    blocked: Option<String>,
    /// How often in a row they could not be made.
    failures: u32,
    making: Option<Making>,
    /// Counts the waits for a change, so that one that is overtaken does nothing.
    turn: u64,
}

/// Migrations that are being made, here or elsewhere.
#[derive(Debug)]
struct Making {
    stopper: Stopper,
    /// One of them runs here.
    begun: Arc<AtomicBool>,
}

impl Gate {
    pub fn new(migrations: &[Migration]) -> Gate {
        let steps: Vec<Step> = migrations.iter().map(Step::from).collect();
        let open = steps.is_empty();
        Gate { steps, wanted: None, next: None, open, blocked: None, failures: 0, making: None, turn: 0 }
    }

    /// Whether a jobs file is in force.
    pub fn is_open(&self) -> bool {
        self.open
    }

    pub fn is_making(&self) -> bool {
        self.making.is_some()
    }

    /// Why no jobs are fired here; `None`: they are.
    pub fn closed(&self) -> Option<Reason> {
        const CLOSED: &str = "no jobs are fired yet";
        let why = self.blocked.as_deref();
        let reason = || match why {
            Some(why) => Reason::with_detail(CLOSED, why),
            None => Reason::new(format!("{CLOSED}: the migrations are being made")),
        };
        (!self.open).then(reason)
    }

    /// Why a new jobs file is not in force, where an old one is.
    pub fn refused(&self) -> Option<Reason> {
        let why = self.blocked.as_deref().filter(|_| self.open)?;
        Some(Reason::with_detail("the new jobs file is not in force, the old one is", why))
    }

    /// The node is leaving: what was not begun is not begun any more.
    pub fn leave(&self) {
        if let Some(making) = self.making.as_ref().filter(|making| !making.begun.load(Ordering::SeqCst)) {
            making.stopper.stop(StopReason::Shutdown);
        }
    }

    /// The node waits no longer.
    pub fn stop(&self, reason: StopReason) {
        if let Some(making) = &self.making {
            making.stopper.stop(reason);
        }
    }

    fn is_same(&self, migrations: &[Migration]) -> bool {
        let same = |(step, migration): (&Step, &Migration)| {
            step.key.name() == migration.id && step.checksum == migration.checksum
        };
        self.steps.len() == migrations.len() && self.steps.iter().zip(migrations).all(same)
    }
}

impl<S: Store, E: Execute> Running<S, E> {
    /// A new jobs file: it is in force once its migrations are made.
    pub(super) fn offered(&mut self, config: Box<Config>) {
        if self.gate.is_making() {
            self.gate.next = Some(config);
            return;
        }
        let made = self.gate.open && self.gate.blocked.is_none() && self.gate.is_same(&config.migrations);
        self.node.board.write().reads_migrations(&config.migrations);
        self.gate.steps = config.migrations.iter().map(Step::from).collect();
        self.gate.blocked = None;
        self.gate.failures = 0;
        self.gate.turn += 1;
        self.gate.wanted = Some(config);
        if made || self.gate.steps.is_empty() { self.let_in() } else { self.make_migrations() }
    }

    /// Nothing stands in the way any more.
    fn let_in(&mut self) {
        self.gate.open = true;
        self.gate.blocked = None;
        self.publishing.soon();
        let Some(config) = self.gate.wanted.take() else { return };
        tracing::info!(digest = config.digest, jobs = config.jobs.len(), "took a new configuration");
        self.node.metrics.jobs_file(false);
        self.config_digest = config.digest;
        self.config_since = Some(self.node.options.clock.wall());
        self.node.board.write().configured(&config.jobs);
        self.feed(Event::Reloaded(config.jobs));
    }

    /// Starts the migrations, if there are any; the first node makes them.
    pub(super) fn make_migrations(&mut self) {
        if self.gate.steps.is_empty() || self.gate.is_making() || self.is_leaving() {
            return;
        }
        let (stopper, stop) = Stop::channel();
        let begun = Arc::new(AtomicBool::new(false));
        self.gate.making = Some(Making { stopper, begun: Arc::clone(&begun) });
        let runner = Runner {
            ledger: self.node.ledger.clone(),
            locks: self.node.locks.clone(),
            execute: self.node.execute.clone(),
            outputs: self.node.outputs.clone(),
            clock: self.node.options.clock.clone(),
            node: self.node.options.name.clone(),
            timing: self.node.options.timing,
            driver: self.node.options.driver,
        };
        let steps = self.gate.steps.clone();
        let how = How { retry_failed: false, wait: None, stop };
        self.work.spawn(async move { Answer::Migrated(runner.run(&steps, how, &reporter(begun)).await) });
    }

    pub(super) fn migrated(&mut self, result: Result<Settled, OnceError>) {
        self.gate.making = None;
        self.publishing.soon();
        let next = self.gate.next.take();
        let is_done = matches!(result, Ok(Settled::Done));
        let (why, about, again) = match result {
            Ok(Settled::Done) => (String::new(), None, false),
            Ok(Settled::Failed(once)) => {
                let again = self.gate.steps.iter().any(|step| step.key.name() == once.name && step.is_repeatable());
                let what_to_do = if again {
                    "it is tried again from time to time; put right what is in its way"
                } else {
                    "put it right: change it, or `fencron migrate resolve`"
                };
                (format!("migration {} failed: {}: {what_to_do}", once.name, once.reason), Some(once), again)
            }
            Ok(Settled::Unknown(once)) => {
                let name = &once.name;
                let why = format!(
                    "it is unknown whether migration {name} was made: {}: find out, and record it: `fencron migrate \
                     resolve {name} --as done` or `--as retry`",
                    once.reason
                );
                (why, Some(once), false)
            }
            Err(error @ (OnceError::Different(_) | OnceError::Stopped(_))) => (error.to_string(), None, false),
            Err(error) => (error.to_string(), None, true),
        };
        if is_done {
            tracing::info!(migrations = self.gate.steps.len(), "the migrations are made");
            self.let_in();
        } else {
            self.gate.failures += 1;
            // It is looked at again and again, and said once.
            if self.gate.blocked.as_ref() != Some(&why) {
                tracing::error!("no jobs of this file are fired: {why}");
            }
            self.gate.blocked = Some(why);
        }
        match next {
            Some(config) => self.offered(config),
            None if is_done => {}
            None => self.await_change(about, again),
        }
    }

    /// Comes back when the migrations may be made after all.
    fn await_change(&mut self, about: Option<Box<Once>>, again: bool) {
        let pause = if again {
            let doublings = self.gate.failures.saturating_sub(1).min(16);
            AGAIN_FIRST.saturating_mul(1 << doublings).min(AGAIN_MOST)
        } else {
            LOOK_AGAIN
        };
        self.gate.turn += 1;
        let (turn, ledger, key) = (self.gate.turn, self.node.ledger.clone(), self.gate.steps[0].key.clone());
        self.work.spawn(async move {
            // Where it cannot be watched, time brings it back.
            tokio::time::timeout(pause, changed(&ledger, &key, about)).await.ok();
            Answer::MigrationsMoved(turn)
        });
    }

    pub(super) fn migrations_moved(&mut self, turn: u64) {
        if turn == self.gate.turn {
            self.make_migrations();
        }
    }
}

/// Resolves when something else is recorded of the migrations than when `about` was. That another node has failed at it
/// as well is nothing new: two that wake each other would try without a pause.
async fn changed<S: Store>(ledger: &Ledger<S>, key: &OnceKey, about: Option<Box<Once>>) {
    let mut is_first = true;
    loop {
        let Ok((records, at)) = ledger.once(key).await else { return std::future::pending().await };
        let is_new = match &about {
            None => !is_first,
            Some(about) => {
                let now = records.iter().map(|recorded| &recorded.once).find(|once| once.name == about.name);
                now.is_none_or(|now| now != &**about && now.state != OnceState::Failed)
            }
        };
        if is_new {
            return;
        }
        is_first = false;
        match ledger.watch_once(key, at.next()).await {
            Ok(mut watch) => drop(watch.next().await),
            Err(_) => return std::future::pending().await,
        }
    }
}

fn reporter(begun: Arc<AtomicBool>) -> Reporter {
    Arc::new(move |notice| match notice {
        Notice::Waits { holder } => tracing::info!(holder, "another makes the migrations: waiting for it"),
        Notice::Away { why } => tracing::warn!(why, "the store does not answer: the migrations wait for it"),
        Notice::Back => tracing::info!("the store answers again: going on with the migrations"),
        Notice::Starts { name, attempt, fence } => {
            begun.store(true, Ordering::SeqCst);
            tracing::info!(migration = name, attempt, %fence, "making a migration");
        }
        // Logged where it is written.
        Notice::Output { .. } | Notice::Missed { .. } => {}
        Notice::Ended { once, here } => {
            if here {
                begun.store(false, Ordering::SeqCst);
            }
            let by = once.claimed_by.as_ref().map_or("", |by| by.node.as_str());
            let reason = Some(once.reason.as_str()).filter(|reason| !reason.is_empty());
            tracing::info!(migration = once.name, by, reason, "migration: {}", once.state.as_str());
        }
    })
}
