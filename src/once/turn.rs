//! What the holder of the lock does: one step after the other, until one does not end well.

use std::time::Duration;

use tokio::sync::watch;

use super::wait::{Heard, tell_ended};
use super::{Call, Next, OnceError, Runner, Settled, Step, Told, find};
use crate::execute::{self, Execute, Follow, MayStart, Reads, Started, Stop, Stopper, Work};
use crate::fence::Stamp;
use crate::job::{
    Again, Attempted, End, Ended, Job, Judgement, OUTPUT_KEPT, Outcome, Params, RunId, StopReason, Verdict, lost,
};
use crate::ledger::{ClaimedBy, Live, Once, OnceState, Recorded};
use crate::lock::{CampaignError, Candidate, Hold, HoldSignal, SessionEnd, Term, Trust};
use crate::store::Store;
use crate::time::Wall;

/// How often those who wait are shown what the holder writes.
pub const OUTPUT_SHOWN_EVERY: Duration = Duration::from_millis(250);

/// A hold, what it is trusted by, and what tells that it is over.
struct Turn<'a> {
    hold: &'a Hold,
    trust: watch::Receiver<Trust>,
    signal: &'a HoldSignal,
}

/// How all attempts of one claim ended.
struct Made {
    ended: Ended,
    /// How many there were.
    attempts: u32,
    judgement: Judgement,
    /// Why nobody can say how the last attempt ended that began, here or under the claimant before.
    doubt: Option<Box<str>>,
}

impl<S: Store, E: Execute> Runner<S, E> {
    pub(super) async fn take_turn(
        &self,
        candidate: &Candidate<S>,
        term: &Term,
        call: &Call<'_>,
        heard: &mut Heard,
    ) -> Result<Settled, OnceError> {
        let (Some(trust), Some(signal)) = (candidate.trust().cloned(), candidate.signal()) else {
            return Err(CampaignError::SessionEnded(SessionEnd::Unattended).into());
        };
        let turn = Turn { hold: &term.hold, trust, signal };
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
        if step.is_repeatable() {
            tracing::warn!(once = %step.key.run_id(), "it was begun and nobody said how it ended: it may be repeated");
            return Ok(None);
        }
        let lost = doubt_of(before);
        let Some(probe) = &step.verify else { return Ok(settled(OnceState::Unknown, lost)) };
        let ended = Box::pin(self.attempt(step, probe, before.attempts, turn, call)).await?.0;
        Ok(match ended.outcome {
            Outcome::Exited(0) | Outcome::Done | Outcome::AlreadyApplied => {
                settled(OnceState::Done, format!("{lost}, and `verify` found that it is done"))
            }
            Outcome::Exited(1) | Outcome::Failed { again: Again::Never, .. } => None,
            outcome => {
                let why = outcome.end(None).reason;
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
        let recorded = Recorded { once: claim.clone(), modified: claimed };
        let stopped = match (&made.ended.outcome, &made.judgement) {
            (Outcome::Stopped(reason), Judgement::HandOver) => Some(*reason),
            // A caller that withdraws before anything began has not cancelled it for the others.
            (Outcome::Stopped(reason), _) if made.ended.started_at.is_none() && made.doubt.is_none() => Some(*reason),
            _ => None,
        };
        match stopped {
            Some(reason) => Err(self.hand_over(step, &recorded, (made, attempts_before), reason).await),
            None => self.settle(step, &recorded, verdict(claim, made, attempts_before), call).await,
        }
    }

    /// Leaves a claim that was stopped to whoever holds the lock next. Answers what that is to the caller.
    async fn hand_over(
        &self,
        step: &Step,
        recorded: &Recorded,
        (made, attempts_before): (Made, u32),
        reason: StopReason,
    ) -> OnceError {
        let began = made.ended.started_at.is_some();
        let attempts = attempts_before + made.attempts - u32::from(!began);
        let finished_at = Some(made.ended.finished_at);
        let why = stopped_for(reason).to_owned();
        let pending =
            Once { state: OnceState::Pending, attempts, finished_at, reason: why.clone(), ..recorded.once.clone() };
        // A claim in doubt stays as it stands: the next holder finds out.
        if made.doubt.is_none()
            && let Err(error) = self.ledger.settle_once(&step.key, recorded.modified, &pending).await
        {
            tracing::warn!(%error, once = %step.key.run_id(), "that it was stopped is not recorded: it stays claimed");
        }
        match reason {
            StopReason::LostLeadership if !began => CampaignError::TrustLapsed.into(),
            StopReason::LostLeadership => OnceError::Lost { name: pending.name, why },
            _ => OnceError::Stopped(reason),
        }
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
        let in_doubt = |before: &Once| matches!(before.state, OnceState::Claimed | OnceState::Unknown);
        let before = before.map(|before| &before.once).filter(|before| step.is_repeatable() && in_doubt(before));
        let (mut attempts, mut doubt) = (0, before.map(|before| Box::from(doubt_of(before))));
        loop {
            attempts += 1;
            let (ended, lost) = self.attempt(step, &step.job, attempts_before + attempts, turn, call).await?;
            let attempted = Attempted {
                outcome: &ended.outcome,
                number: attempts,
                began: ended.started_at.is_some(),
                doubt: doubt.as_deref(),
                asked_by: None,
                is_last: lost,
            };
            let mut judgement = step.job.judge(attempted);
            let doubt_after = step.job.doubt_after(attempted);
            if let Judgement::Repeat { pause } = judgement {
                let why = ended.outcome.end(None).reason;
                tracing::warn!(once = %step.key.run_id(), ?pause, "failed: {why}; trying again");
                let mut stop = call.how.stop.clone();
                let goes_on = tokio::select! {
                    biased;
                    _ = stop.requested() => false,
                    _ = turn.signal.lost() => false,
                    () = tokio::time::sleep(pause) => true,
                };
                if goes_on {
                    doubt = doubt_after;
                    continue;
                }
                judgement = step.job.judge(Attempted { is_last: true, ..attempted });
            }
            return Ok(Made { ended, attempts, judgement, doubt: doubt_after });
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
        let (params, hold) = (Params::default(), Some(turn.hold.clone()));
        let work =
            Work { job: std::sync::Arc::clone(job), stamp, params, hold, stop, may_start, output, started, reads };
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

/// Why nobody can say how what is recorded so ended.
fn doubt_of(once: &Once) -> String {
    match once.state {
        OnceState::Claimed => lost("holder", once.claimed_by.as_ref().map(|by| (by.node.as_str(), by.fence))),
        _ => once.reason.clone(),
    }
}

/// The reason given for what was stopped: what is lost here is a lock.
fn stopped_for(reason: StopReason) -> &'static str {
    match reason {
        StopReason::LostLeadership => "its lock was lost, or may have been",
        other => other.as_str(),
    }
}

/// What is recorded of a claim that has ended.
fn verdict(claim: Once, made: Made, attempts_before: u32) -> Once {
    let Made { ended: Ended { outcome, finished_at, output, output_bytes, .. }, attempts, judgement, doubt } = made;
    let End { verdict, reason, exit_code } = match judgement {
        Judgement::End(end) => end,
        Judgement::Repeat { .. } | Judgement::HandOver => outcome.end(None),
    };
    let state = match verdict {
        Verdict::Succeeded => OnceState::Done,
        Verdict::Unknown => OnceState::Unknown,
        // It did not come to its end, and nobody can say how far it came.
        _ if doubt.is_some() => OnceState::Unknown,
        Verdict::Failed | Verdict::TimedOut | Verdict::Cancelled | Verdict::Skipped => OnceState::Failed,
    };
    let reason = match outcome {
        Outcome::Stopped(StopReason::LostLeadership) => stopped_for(StopReason::LostLeadership).to_owned(),
        _ => reason,
    };
    let (attempts, finished_at) = (attempts_before + attempts, Some(finished_at));
    Once { state, attempts, finished_at, reason, exit_code, output, output_bytes, ..claim }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::cases::{self, Case};
    use crate::ledger::OnceKey;

    #[test]
    fn every_end_of_an_attempt_has_its_place() {
        let mut settings = insta::Settings::clone_current();
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        settings.bind(|| insta::assert_snapshot!("once", cases::table(goes_on)));
    }

    /// What becomes of a claim whose attempt ends so.
    fn goes_on(job: &Job, outcome: &Outcome, case: Case) -> String {
        let key = OnceKey::migration("m");
        let step = Step {
            checksum: String::new(),
            checksums_before: Vec::new(),
            job: std::sync::Arc::new(job.clone()),
            verify: None,
            reads: Reads::Nothing,
            key,
        };
        let ended = Ended {
            outcome: outcome.clone(),
            started_at: case.began.then_some(Wall::EPOCH),
            finished_at: Wall::EPOCH,
            output: String::new(),
            output_bytes: 0,
        };
        let Case { number, began, in_doubt } = case;
        let doubt = in_doubt.then_some("no word");
        let outcome = &ended.outcome;
        let attempted = Attempted { outcome, number, began, doubt, asked_by: None, is_last: false };
        let (judgement, doubt) = (step.job.judge(attempted), step.job.doubt_after(attempted));
        match &judgement {
            Judgement::Repeat { pause } => {
                return format!("repeat after {pause:?}{}", if doubt.is_some() { ", in doubt" } else { "" });
            }
            Judgement::HandOver => {
                return format!("left to the next holder{}", if doubt.is_some() { ", in doubt" } else { "" });
            }
            Judgement::End(_) => {}
        }
        let claim = Once {
            name: "m".to_owned(),
            state: OnceState::Claimed,
            checksum: String::new(),
            claimed_by: None,
            attempts: 1,
            started_at: Wall::EPOCH,
            finished_at: None,
            reason: String::new(),
            exit_code: None,
            output: String::new(),
            output_bytes: 0,
        };
        let once = verdict(claim, Made { ended, attempts: number, judgement, doubt }, 0);
        let code = once.exit_code.map_or(String::new(), |code| format!(" [{code}]"));
        format!("{}: {}{code}", once.state.as_str(), once.reason).trim_end_matches(": ").to_owned()
    }
}
