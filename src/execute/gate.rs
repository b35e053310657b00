//! The gate that every attempt passes: it waits for room, asks right before it begins whether it still may, and reports
//! how it ended.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

#[cfg(feature = "cli")]
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{MayStart, OutputSink, Started, Stop};
#[cfg(feature = "cli")]
use crate::fence::Stamp;
#[cfg(feature = "cli")]
use crate::job::Job;
use crate::job::{AttemptResult, Outcome, StopReason};
use crate::time::{Clock, Wall};

/// An attempt that is being made.
#[cfg(feature = "cli")]
#[derive(Clone, Copy)]
pub(crate) struct Attempt<'a> {
    pub job: &'a Job,
    pub stamp: &'a Stamp,
    pub gate: &'a Gate,
}

/// Whether an attempt may begin, and whether it has. Clones are of the same attempt.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    stop: Stop,
    may_start: MayStart,
    clock: Clock,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    started: Option<Started>,
    began_at: Option<Wall>,
    refused: Option<StopReason>,
}

impl Gate {
    pub fn new(stop: Stop, may_start: MayStart, started: Started, clock: &Clock) -> Gate {
        let state = State { started: Some(started), began_at: None, refused: None };
        Gate { stop, may_start, clock: clock.clone(), state: Arc::new(Mutex::new(state)) }
    }

    /// Waits for room within a bound that it shares with others, first come, first served.
    ///
    /// # Errors
    ///
    /// The attempt was stopped before there was any.
    #[cfg(feature = "cli")]
    pub async fn room<'s>(&self, room: &'s Semaphore) -> Result<SemaphorePermit<'s>, StopReason> {
        tokio::select! {
            biased;
            reason = self.stopped() => Err(reason),
            room = room.acquire() => Ok(room.expect("the semaphore is never closed")),
        }
    }

    /// Whether it may begin now: asked at the last moment, since the process may have stood still for any time before.
    /// Answers the instant.
    ///
    /// # Errors
    ///
    /// Why it must not.
    pub fn ask(&self) -> Result<Wall, StopReason> {
        let lost = || (!self.may_start.now()).then_some(StopReason::LostLeadership);
        match self.stop.asked().or_else(lost) {
            Some(reason) => {
                self.state().refused = Some(reason);
                Err(reason)
            }
            None => Ok(self.clock.wall()),
        }
    }

    /// As [`Gate::ask`], for what has begun with the answer.
    ///
    /// # Errors
    ///
    /// Why it must not begin.
    pub fn pass(&self) -> Result<Wall, StopReason> {
        self.ask().inspect(|at| self.began(*at))
    }

    /// Reports that it has begun. The first report counts.
    pub fn began(&self, at: Wall) {
        let mut state = self.state();
        state.began_at.get_or_insert(at);
        if let Some(started) = state.started.take() {
            started.at(at);
        }
    }

    /// When it began; `None`: it has not.
    pub fn began_at(&self) -> Option<Wall> {
        self.state().began_at
    }

    /// Why it was last not let begin.
    #[cfg(feature = "cli")]
    pub fn refused(&self) -> Option<StopReason> {
        self.state().refused
    }

    /// Why it is to stop, if it is.
    #[cfg(feature = "cli")]
    pub fn asked_to_stop(&self) -> Option<StopReason> {
        self.stop.asked()
    }

    /// Waits until it is to stop. Cancel safe.
    pub async fn stopped(&self) -> StopReason {
        self.stop.clone().requested().await
    }

    /// Waits until it is to stop, or has taken so long.
    pub async fn interrupted(&self, timeout: Option<Duration>) -> Outcome {
        tokio::select! {
            biased;
            reason = self.stopped() => Outcome::Stopped(reason),
            () = elapsed(timeout) => Outcome::TimedOut,
        }
    }

    #[cfg(feature = "cli")]
    pub fn may_start(&self) -> &MayStart {
        &self.may_start
    }

    #[cfg(feature = "cli")]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// How the attempt ended, now that nothing of it is left.
    pub fn ended(&self, outcome: Outcome, output: OutputSink) -> AttemptResult {
        let (output, output_bytes) = output.finish();
        AttemptResult { outcome, started_at: self.began_at(), finished_at: self.clock.wall(), output, output_bytes }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing between lock and unlock can panic half way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn elapsed(timeout: Option<Duration>) {
    match timeout {
        Some(timeout) => tokio::time::sleep(timeout).await,
        None => std::future::pending().await,
    }
}
