//! What the holder of the lock does: one step after the other, until one does not succeed.

use std::time::Duration;

use tokio::sync::watch;

use super::wait::{Reported, report_ended};
use super::{Call, Notice, OnceError, Runner, Settled, Step, StepPlan, find};
use crate::execute::{self, Execute, Follow, MayStart, Reads, Started, Stop, Stopper, Work};
use crate::fence::Stamp;
use crate::job::{
    Again, AttemptResult, Attempted, End, Job, Judgement, OUTPUT_KEPT, Outcome, Params, RunId, StopReason, Verdict,
    lost,
};
use crate::ledger::{ClaimedBy, Live, Once, OnceState, Recorded};
use crate::lock::{CampaignError, Candidate, Hold, HoldSignal, SessionEnd, Term, Trust};
use crate::store::Store;
use crate::time::Wall;

/// How often the holder publishes its output for the waiters.
pub const OUTPUT_SHOWN_EVERY: Duration = Duration::from_millis(250);

/// A hold, its trust, and the signal of its end.
struct ActiveHold<'a> {
    hold: &'a Hold,
    trust: watch::Receiver<Trust>,
    signal: &'a HoldSignal,
}

/// How all attempts of one claim ended.
struct Made {
    ended: AttemptResult,
    /// How many there were.
    attempts: u32,
    judgement: Judgement,
    /// Why it is unknown how the last attempt ended that began, here or under the claimant before.
    doubt: Option<Box<str>>,
}

impl<S: Store, E: Execute> Runner<S, E> {
    pub(super) async fn act_under(
        &self,
        candidate: &Candidate<S>,
        term: &Term,
        call: &Call<'_>,
        reported: &mut Reported,
    ) -> Result<Settled, OnceError> {
        let (Some(trust), Some(signal)) = (candidate.trust().cloned(), candidate.signal()) else {
            return Err(CampaignError::SessionEnded(SessionEnd::Unattended).into());
        };
        let active = ActiveHold { hold: &term.hold, trust, signal };
        let recorded = tokio::select! {
            biased;
            recorded = self.recorded(call.steps, (&call.how, call.report), None) => Some(recorded?),
            _ = active.signal.lost() => None,
        };
        let Some((records, _)) = recorded else {
            // Nothing was begun: the next holder of the lock does it, which may be this process again.
            return Err(CampaignError::TrustLapsed.into());
        };
        // The lock may arrive before the news of how the work of the previous holder ended.
        report_ended(call, &records, reported);
        // The previous holder may have changed everything.
        if let Some(settled) = call.settled(&records)? {
            return Ok(settled);
        }
        for step in call.steps {
            if let Some(settled) = self.see_to(step, find(&records, step), &active, call).await? {
                return Ok(settled);
            }
        }
        Ok(Settled::Done)
    }

    /// Carries out the plan for one step. `None`: it is done.
    async fn see_to(
        &self,
        step: &Step,
        recorded: Option<&Recorded>,
        active: &ActiveHold<'_>,
        call: &Call<'_>,
    ) -> Result<Option<Settled>, OnceError> {
        match call.next(step, recorded) {
            StepPlan::Nothing => Ok(None),
            StepPlan::Stop(settled) => Ok(Some(settled)),
            StepPlan::Make => self.make(step, recorded, active, call).await,
            StepPlan::FindOut => {
                let recorded = recorded.expect("only what is recorded is in doubt");
                match self.find_out(step, recorded, active, call).await? {
                    None => self.make(step, Some(recorded), active, call).await,
                    Some(once) => self.settle(step, recorded, once, call).await,
                }
            }
        }
    }

    /// Decides about a claim whose claimant is gone. `None`: the work has to be done (again).
    async fn find_out(
        &self,
        step: &Step,
        recorded: &Recorded,
        active: &ActiveHold<'_>,
        call: &Call<'_>,
    ) -> Result<Option<Once>, OnceError> {
        let before = &recorded.once;
        let settled = |state, reason: String| {
            let finished_at = Some(self.clock.wall());
            Some(Once { state, reason, finished_at, ..before.clone() })
        };
        if step.is_repeatable() {
            tracing::warn!(once = %step.key.run_id(), "it was begun and its end was not recorded: it may be repeated");
            return Ok(None);
        }
        let lost = doubt_of(before);
        let Some(probe) = &step.verify else { return Ok(settled(OnceState::Unknown, lost)) };
        let ended = Box::pin(self.attempt(step, probe, before.attempts, active, call)).await?.0;
        Ok(match ended.outcome {
            Outcome::Exited(0) | Outcome::Done | Outcome::AlreadyApplied => {
                settled(OnceState::Done, format!("{lost}, and `verify` found that it is done"))
            }
            Outcome::Exited(1) | Outcome::Failed { again: Again::Never, .. } => None,
            outcome => {
                let why = outcome.end(None).reason;
                settled(
                    OnceState::Unknown,
                    format!("{lost}, and `verify` could not find out whether it is done: {why}"),
                )
            }
        })
    }

    /// Claims the work, does it, and records how that ended.
    async fn make(
        &self,
        step: &Step,
        before: Option<&Recorded>,
        active: &ActiveHold<'_>,
        call: &Call<'_>,
    ) -> Result<Option<Settled>, OnceError> {
        let attempts_before = before.map_or(0, |before| before.once.attempts);
        let fence = active.hold.fence();
        let claim = Once {
            name: step.key.name().to_owned(),
            state: OnceState::Claimed,
            checksum: step.checksum.clone(),
            claimed_by: Some(ClaimedBy { node: self.node.clone(), lease: active.hold.lease().0.get(), fence }),
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
            claimed = self.ledger.claim_once(active.hold, &step.key, before, &claim) => claimed?,
            // It is unknown whether it was claimed. If so, nothing of it was begun, and the next holder finds out.
            reason = stop.requested() => return Err(OnceError::Stopped(reason)),
            _ = active.signal.lost() => None,
        };
        let Some(claimed) = claimed else {
            let why =
                "the claim was refused: another process holds the lock, or a person resolved it meanwhile".to_owned();
            return Err(OnceError::Lost { name: claim.name, why });
        };
        (call.report)(Notice::Starts { name: claim.name.clone(), attempt: claim.attempts, fence });
        let made = Box::pin(self.attempts(step, before, active, call)).await?;
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

    /// Leaves a claim that was stopped to the next holder of the lock. Answers the caller's result.
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

    /// Records the decision about a step, if its record is still as it was read or claimed.
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
        (call.report)(Notice::Ended { once: Box::new(once.clone()), here: true });
        Ok(match once.state {
            OnceState::Done => None,
            OnceState::Unknown => Some(Settled::Unknown(Box::new(once))),
            OnceState::Failed | OnceState::Pending | OnceState::Claimed => Some(Settled::Failed(Box::new(once))),
        })
    }

    /// Makes attempts until one decides the step or none is left.
    async fn attempts(
        &self,
        step: &Step,
        before: Option<&Recorded>,
        active: &ActiveHold<'_>,
        call: &Call<'_>,
    ) -> Result<Made, OnceError> {
        let attempts_before = before.map_or(0, |before| before.once.attempts);
        // Where it may not be repeated, a probe has found that it was not done.
        let in_doubt = |before: &Once| matches!(before.state, OnceState::Claimed | OnceState::Unknown);
        let before = before.map(|before| &before.once).filter(|before| step.is_repeatable() && in_doubt(before));
        let (mut attempts, mut doubt) = (0, before.map(|before| Box::from(doubt_of(before))));
        loop {
            attempts += 1;
            let (ended, lost) = self.attempt(step, &step.job, attempts_before + attempts, active, call).await?;
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
                    _ = active.signal.lost() => false,
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
        active: &ActiveHold<'_>,
        call: &Call<'_>,
    ) -> Result<(AttemptResult, bool), OnceError> {
        let now = self.clock.wall();
        let run = RunId::of(&job.name, now);
        let output = self.outputs.open(&run);
        let follow = self.outputs.follow(&run).expect("it was opened just now");
        let (stopper, stop) = Stop::channel();
        let (started, _) = Started::channel();
        let (trust, clock) = (active.trust.clone(), self.clock.clone());
        // What it starts lives no longer than the hold may be trusted, also if this process is lost.
        let may_start = MayStart::new(move || trust.borrow().holds(clock.boot())).under(active.hold.lease().0);
        let stamp = self.stamp(step, active.hold, attempt, now);
        // A probe looks at what is there, and leaves the input to what it is about.
        let reads = if std::sync::Arc::ptr_eq(job, &step.job) { step.reads } else { Reads::Nothing };
        let (params, hold) = (Params::default(), Some(active.hold.clone()));
        let work =
            Work { job: std::sync::Arc::clone(job), stamp, params, hold, stop, may_start, output, started, reads };
        let name = step.key.name().to_owned();
        let nothing = Live { name, fence: active.hold.fence(), attempt, text: String::new(), bytes: 0 };
        let (live, shown) = watch::channel(nothing);
        // In one task: the work waits for the reporter of its output, so that none of it is missed.
        let reports = async {
            tokio::select! {
                biased;
                () = relay(follow, live, call) => {}
                () = self.show_all(shown, step, active) => {}
            }
        };
        let ((ended, lost), ()) = tokio::join!(self.execute_while_held(work, &stopper, active, call), reports);
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
        active: &ActiveHold<'_>,
        call: &Call<'_>,
    ) -> (AttemptResult, bool) {
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
            _ = active.signal.lost() => {
                tracing::error!(fence = %active.hold.fence(), "the lock is lost, or may be: stopping what runs under it");
                stopper.stop(StopReason::LostLeadership);
                true
            }
        };
        (run.await, lost)
    }

    /// Publishes what is written for the waiters of other processes, as long as the work writes.
    async fn show_all(&self, mut live: watch::Receiver<Live>, step: &Step, active: &ActiveHold<'_>) {
        while live.changed().await.is_ok() {
            tokio::time::sleep(OUTPUT_SHOWN_EVERY).await;
            let latest = live.borrow_and_update().clone();
            self.show(active.hold, step, &latest).await;
        }
        std::future::pending().await
    }

    /// Best effort: if a part does not arrive, the verdict still has the end of the output.
    async fn show(&self, hold: &Hold, step: &Step, live: &Live) {
        if let Err(error) = self.ledger.show_once(hold, &step.key, live).await {
            tracing::debug!(%error, "cannot publish the output for the waiters");
        }
    }
}

/// Reports what is written, until its end.
async fn relay(mut follow: Follow, live: watch::Sender<Live>, call: &Call<'_>) {
    let name = live.borrow().name.clone();
    while let Some(reported) = follow.next().await {
        let notice = match reported {
            execute::Heard::Missed(bytes) => {
                live.send_modify(|live| live.bytes += bytes);
                Notice::Missed { name: name.clone(), bytes }
            }
            execute::Heard::Text(text) => {
                live.send_modify(|live| {
                    live.bytes += text.len() as u64;
                    live.text.push_str(&text);
                    let cut = live.text.ceil_char_boundary(live.text.len().saturating_sub(OUTPUT_KEPT));
                    live.text.drain(..cut);
                });
                Notice::Output { name: name.clone(), text }
            }
        };
        (call.report)(notice);
    }
}

/// Why it is unknown how recorded work ended.
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
    let Made { ended: AttemptResult { outcome, finished_at, output, output_bytes, .. }, attempts, judgement, doubt } =
        made;
    let End { verdict, reason, exit_code, .. } = match judgement {
        Judgement::End(end) => end,
        Judgement::Repeat { .. } | Judgement::HandOver => outcome.end(None),
    };
    let state = match verdict {
        Verdict::Succeeded => OnceState::Done,
        Verdict::Unknown => OnceState::Unknown,
        // It did not come to its end, and it is unknown how far it came.
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
        let ended = AttemptResult {
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
