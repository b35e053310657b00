//! What the holder of the lock does: one step after the other, until one does not end well.

use std::time::Duration;

use tokio::sync::watch;

use super::wait::{Heard, tell_ended};
use super::{Call, Next, OnceError, Runner, Settled, Step, Told, find};
use crate::execute::{self, Execute, Follow, MayStart, Reads, Started, Stop, Stopper, Work};
use crate::fence::Stamp;
use crate::job::{Again, Attempted, Ended, Job, OUTPUT_KEPT, Outcome, RunId, StopReason};
use crate::ledger::{ClaimedBy, Live, Once, OnceState, Recorded};
use crate::lock::{CampaignError, Election, Hold, HoldSignal, Session, Term, Trust};
use crate::store::Store;
use crate::time::Wall;

/// How often those who wait are shown what the holder writes.
pub const OUTPUT_SHOWN_EVERY: Duration = Duration::from_millis(250);

/// A hold, what it is trusted by, and what tells that it is over.
struct Turn<'a> {
    hold: &'a Hold,
    trust: watch::Receiver<Trust>,
    signal: HoldSignal,
}

/// How all attempts of one claim ended.
struct Made {
    ended: Ended,
    /// How many were begun.
    attempts: u32,
    /// Nobody knows how the last one ended of which anything was begun, here or by whoever was lost before.
    in_doubt: bool,
}

impl<S: Store, E: Execute> Runner<S, E> {
    pub(super) async fn take_turn(
        &self,
        (session, election): (&Session<S>, &Election<S>),
        term: &Term,
        call: &Call<'_>,
        heard: &mut Heard,
    ) -> Result<Settled, OnceError> {
        let turn = Turn { hold: &term.hold, trust: session.trust(), signal: election.signal(session, term) };
        let recorded = tokio::select! {
            biased;
            recorded = self.recorded(call.steps, (&call.how, call.tell), None) => Some(recorded?),
            _ = turn.signal.lost() => None,
        };
        let Some((records, _)) = recorded else {
            // Nothing was begun: whoever has the lock next does it, and this may be the one.
            return Err(CampaignError::TrustLapsed.into());
        };
        // The turn may come before the news of how the one before ended.
        tell_ended(call, &records, heard);
        // Whoever had the turn before may have changed everything.
        if let Some(settled) = call.settled(&records)? {
            return Ok(settled);
        }
        for step in call.steps {
            if let Some(settled) = self.see_to(step, find(&records, step), &turn, call).await? {
                return Ok(settled);
            }
        }
        Ok(Settled::Done)
    }

    /// Does what is to be done about one step. `None`: it is done.
    async fn see_to(
        &self,
        step: &Step,
        recorded: Option<&Recorded>,
        turn: &Turn<'_>,
        call: &Call<'_>,
    ) -> Result<Option<Settled>, OnceError> {
        match call.next(step, recorded) {
            Next::Nothing => Ok(None),
            Next::Stop(settled) => Ok(Some(settled)),
            Next::Make => self.make(step, recorded, turn, call).await,
            Next::FindOut => {
                let recorded = recorded.expect("only what is recorded is in doubt");
                match self.find_out(step, recorded, turn, call).await? {
                    None => self.make(step, Some(recorded), turn, call).await,
                    Some(once) => self.settle(step, recorded, once, call).await,
                }
            }
        }
    }

    /// Decides about a claim whose claimant is gone. `None`: it is to be made (again).
    async fn find_out(
        &self,
        step: &Step,
        recorded: &Recorded,
        turn: &Turn<'_>,
        call: &Call<'_>,
    ) -> Result<Option<Once>, OnceError> {
        let before = &recorded.once;
        let settled = |state, reason: String| {
            let finished_at = Some(self.clock.wall());
            Some(Once { state, reason, finished_at, ..before.clone() })
        };
        if step.repeatable {
            tracing::warn!(once = %step.key.run_id(), "it was begun and nobody said how it ended: it may be repeated");
            return Ok(None);
        }
        let lost = match before.state {
            OnceState::Claimed => {
                let by = before.claimed_by.as_ref();
                let by = by.map_or("somebody".to_owned(), |by| format!("{} (fence {})", by.node, by.fence));
                format!("{by} was lost in the middle of it")
            }
            _ => before.reason.clone(),
        };
        let Some(probe) = &step.verify else { return Ok(settled(OnceState::Unknown, lost)) };
        let ended = Box::pin(self.attempt(step, probe, before.attempts, turn, call)).await?.0;
        Ok(match ended.outcome {
            Outcome::Exited(0) | Outcome::Done | Outcome::AlreadyApplied => {
                settled(OnceState::Done, format!("{lost}, and `verify` found that it is done"))
            }
            Outcome::Exited(1) | Outcome::Failed { again: Again::Never, .. } => None,
            outcome => {
                let why = reason_of(&outcome);
                settled(OnceState::Unknown, format!("{lost}, and `verify` could not tell whether it is done: {why}"))
            }
        })
    }

    /// Claims it, makes it, and records how that ended.
    async fn make(
        &self,
        step: &Step,
        before: Option<&Recorded>,
        turn: &Turn<'_>,
        call: &Call<'_>,
    ) -> Result<Option<Settled>, OnceError> {
        let attempts_before = before.map_or(0, |before| before.once.attempts);
        let fence = turn.hold.fence();
        let claim = Once {
            name: step.key.name().to_owned(),
            state: OnceState::Claimed,
            checksum: step.checksum.clone(),
            claimed_by: Some(ClaimedBy { node: self.node.clone(), lease: turn.hold.lease().0.get(), fence }),
            attempts: attempts_before + 1,
            started_at: self.clock.wall(),
            finished_at: None,
            reason: String::new(),
            exit_code: None,
            output: String::new(),
            output_bytes: 0,
        };
        if let Some(reason) = call.how.stop.asked() {
            return Err(OnceError::Stopped(reason));
        }
        let mut stop = call.how.stop.clone();
        let claimed = tokio::select! {
            biased;
            claimed = self.ledger.claim_once(turn.hold, &step.key, before, &claim) => claimed?,
            // Whether it was claimed is not known: if so, nothing of it was begun, and whoever comes next finds out.
            reason = stop.requested() => return Err(OnceError::Stopped(reason)),
            _ = turn.signal.lost() => None,
        };
        let Some(claimed) = claimed else {
            let why = "the claim was refused: another holds the lock, or somebody resolved it meanwhile".to_owned();
            return Err(OnceError::Lost { name: claim.name, why });
        };
        (call.tell)(Told::Starts { name: claim.name.clone(), attempt: claim.attempts, fence });
        let made = Box::pin(self.attempts(step, before, turn, call)).await?;
        let once = verdict(claim, made, attempts_before);
        let recorded = Recorded { once: once.clone(), modified: claimed };
        self.settle(step, &recorded, once, call).await
    }

    /// Records what is decided about a step, where it still is as it was read or claimed.
    async fn settle(
        &self,
        step: &Step,
        recorded: &Recorded,
        once: Once,
        call: &Call<'_>,
    ) -> Result<Option<Settled>, OnceError> {
        if self.ledger.settle_once(&step.key, recorded.modified, &once).await?.is_none() {
            let why = format!("here it ended as `{}`, and meanwhile another decided about it", once.state.as_str());
            return Err(OnceError::Lost { name: once.name, why });
        }
        (call.tell)(Told::Ended { once: Box::new(once.clone()), here: true });
        Ok(match once.state {
            OnceState::Done => None,
            OnceState::Unknown => Some(Settled::Unknown(Box::new(once))),
            OnceState::Failed | OnceState::Pending | OnceState::Claimed => Some(Settled::Failed(Box::new(once))),
        })
    }

    /// Attempts, until one decides it or none is left.
    async fn attempts(
        &self,
        step: &Step,
        before: Option<&Recorded>,
        turn: &Turn<'_>,
        call: &Call<'_>,
    ) -> Result<Made, OnceError> {
        let attempts_before = before.map_or(0, |before| before.once.attempts);
        // Where it may not be repeated, a probe has found that it was not done.
        let in_doubt = |before: &Recorded| matches!(before.once.state, OnceState::Claimed | OnceState::Unknown);
        let (mut attempts, mut in_doubt) = (0, step.repeatable && before.is_some_and(in_doubt));
        loop {
            attempts += 1;
            let (ended, lost) = self.attempt(step, &step.job, attempts_before + attempts, turn, call).await?;
            let began = ended.started_at.is_some();
            let attempted = Attempted { outcome: &ended.outcome, number: attempts, began, in_doubt_before: in_doubt };
            let pause = step.job.pause_after(attempted).filter(|_| !lost);
            in_doubt = if began { is_in_doubt(step, &ended.outcome) } else { in_doubt };
            let Some(pause) = pause else { return Ok(Made { ended, attempts, in_doubt }) };
            tracing::warn!(once = %step.key.run_id(), ?pause, "failed: {}; trying again", reason_of(&ended.outcome));
            let mut stop = call.how.stop.clone();
            tokio::select! {
                biased;
                _ = stop.requested() => return Ok(Made { ended, attempts, in_doubt }),
                _ = turn.signal.lost() => return Ok(Made { ended, attempts, in_doubt }),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// One attempt of `job`, and whether the hold was lost meanwhile.
    async fn attempt(
        &self,
        step: &Step,
        job: &std::sync::Arc<Job>,
        attempt: u32,
        turn: &Turn<'_>,
        call: &Call<'_>,
    ) -> Result<(Ended, bool), OnceError> {
        let now = self.clock.wall();
        let run = RunId::of(&job.name, now);
        let output = self.outputs.open(&run);
        let follow = self.outputs.follow(&run).expect("it was opened just now");
        let (stopper, stop) = Stop::channel();
        let (started, _) = Started::channel();
        let (trust, clock) = (turn.trust.clone(), self.clock.clone());
        // What it starts lives no longer than the hold may be trusted, whatever becomes of this process.
        let may_start = MayStart::new(move || trust.borrow().holds(clock.boot())).under(turn.hold.lease().0);
        let stamp = self.stamp(step, turn.hold, attempt, now);
        // A probe looks at what is there, and leaves the input to what it is about.
        let reads = if std::sync::Arc::ptr_eq(job, &step.job) { step.reads } else { Reads::Nothing };
        let work = Work { job: std::sync::Arc::clone(job), stamp, stop, may_start, output, started, reads };
        let name = step.key.name().to_owned();
        let nothing = Live { name, fence: turn.hold.fence(), attempt, text: String::new(), bytes: 0 };
        let (live, shown) = watch::channel(nothing);
        // In one task: what runs waits for whoever is told of its output, so that none of it is missed.
        let told = async {
            tokio::select! {
                biased;
                () = relay(follow, live, call) => {}
                () = self.show_all(shown, step, turn) => {}
            }
        };
        let ((ended, lost), ()) = tokio::join!(self.execute_while_held(work, &stopper, turn, call), told);
        Ok((ended, lost))
    }

    fn stamp(&self, step: &Step, hold: &Hold, attempt: u32, now: Wall) -> Stamp {
        Stamp {
            namespace: self.ledger.namespace().as_str().to_owned(),
            scope: hold.scope().clone(),
            fence: hold.fence(),
            job: step.key.name().to_owned(),
            run_id: step.key.run_id(),
            scheduled_at: now,
            attempt,
            node: self.node.clone(),
            after: None,
        }
    }

    async fn execute_while_held(
        &self,
        work: Work,
        stopper: &Stopper,
        turn: &Turn<'_>,
        call: &Call<'_>,
    ) -> (Ended, bool) {
        // On the heap: it is large, and many more futures are around it.
        let mut run = Box::pin(self.execute.run(work));
        let mut stop = call.how.stop.clone();
        let lost = tokio::select! {
            biased;
            ended = &mut run => return (ended, false),
            reason = stop.requested() => {
                stopper.stop(reason);
                false
            }
            _ = turn.signal.lost() => {
                tracing::error!(fence = %turn.hold.fence(), "the lock is lost, or may be: stopping what runs under it");
                stopper.stop(StopReason::LostLeadership);
                true
            }
        };
        (run.await, lost)
    }

    /// Shows those who wait elsewhere what is written, for as long as somebody writes.
    async fn show_all(&self, mut live: watch::Receiver<Live>, step: &Step, turn: &Turn<'_>) {
        while live.changed().await.is_ok() {
            tokio::time::sleep(OUTPUT_SHOWN_EVERY).await;
            let latest = live.borrow_and_update().clone();
            self.show(turn.hold, step, &latest).await;
        }
        std::future::pending().await
    }

    /// Only shown: where it does not get through, the verdict brings the end of the output.
    async fn show(&self, hold: &Hold, step: &Step, live: &Live) {
        if let Err(error) = self.ledger.show_once(hold, &step.key, live).await {
            tracing::debug!(%error, "those who wait are not shown the output");
        }
    }
}

/// Tells what is written, until its end.
async fn relay(mut follow: Follow, live: watch::Sender<Live>, call: &Call<'_>) {
    let name = live.borrow().name.clone();
    while let Some(heard) = follow.next().await {
        let told = match heard {
            execute::Heard::Missed(bytes) => {
                live.send_modify(|live| live.bytes += bytes);
                Told::Missed { name: name.clone(), bytes }
            }
            execute::Heard::Text(text) => {
                live.send_modify(|live| {
                    live.bytes += text.len() as u64;
                    live.text.push_str(&text);
                    let cut = live.text.ceil_char_boundary(live.text.len().saturating_sub(OUTPUT_KEPT));
                    live.text.drain(..cut);
                });
                Told::Output { name: name.clone(), text }
            }
        };
        (call.tell)(told);
    }
}

/// Whether an attempt that was begun leaves open, by ending so, whether it was done.
fn is_in_doubt(step: &Step, outcome: &Outcome) -> bool {
    match outcome {
        Outcome::InDoubt(_) | Outcome::Partial(_) => true,
        Outcome::TimedOut | Outcome::Stopped(_) => step.job.is_in_doubt_when_cut_short(),
        _ => false,
    }
}

fn reason_of(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Exited(0) | Outcome::Done => String::new(),
        Outcome::Exited(code) => format!("exit code {code}"),
        Outcome::Signalled(signal) => format!("ended by signal {signal}"),
        Outcome::TimedOut => "it took longer than its `timeout`".to_owned(),
        Outcome::Stopped(StopReason::LostLeadership) => "stopped: its lock was lost, or may have been".to_owned(),
        Outcome::Stopped(reason) => format!("stopped: {}", reason.as_str()),
        Outcome::NotStarted(why) | Outcome::Failed { why, .. } => why.clone(),
        Outcome::InDoubt(why) | Outcome::Partial(why) => why.clone(),
        Outcome::AlreadyApplied => "already applied".to_owned(),
        Outcome::Fenced { seen: Some(seen) } => format!("turned away: its target has seen the greater fence {seen}"),
        Outcome::Fenced { seen: None } => "turned away: its target has seen a greater fence".to_owned(),
    }
}

/// What is recorded of a claim that has ended.
fn verdict(claim: Once, made: Made, attempts_before: u32) -> Once {
    let Made { ended: Ended { outcome, finished_at, output, output_bytes, .. }, attempts, in_doubt } = made;
    let attempts = attempts_before + attempts;
    let state = match &outcome {
        Outcome::Exited(0) | Outcome::Done | Outcome::AlreadyApplied => OnceState::Done,
        Outcome::InDoubt(_) | Outcome::Partial(_) => OnceState::Unknown,
        _ if in_doubt => OnceState::Unknown,
        _ => OnceState::Failed,
    };
    let exit_code = match outcome {
        Outcome::Exited(code) => Some(code),
        Outcome::Signalled(signal) => Some(EXIT_OF_SIGNAL + signal),
        _ => None,
    };
    let (reason, finished_at) = (reason_of(&outcome), Some(finished_at));
    Once { state, attempts, finished_at, reason, exit_code, output, output_bytes, ..claim }
}

/// What shells add to a signal's number.
const EXIT_OF_SIGNAL: i32 = 128;
