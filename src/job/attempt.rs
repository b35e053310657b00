//! PURE: what follows an attempt that has ended: another one, another node, or a verdict. Runs of jobs, migrations and
//! what `fencron once` runs are judged alike.

#[cfg(test)]
pub(crate) mod cases;

use std::time::Duration;

use super::{Again, Code, End, Guarantee, Job, Outcome, StopReason, Task, Verdict};
use crate::fence::Fence;

/// The longest that a target can have the next attempt put off (`Retry-After`).
pub const PUT_OFF_MOST: Duration = Duration::from_secs(86_400);

/// How many attempts, at most, may end unknown when repeating is harmless: an attempt that takes its node down each
/// time must not take down all nodes.
pub const ATTEMPTS_LOST_MOST: u32 = 10;

/// The pause before an attempt is repeated whose node was lost, the first time: it doubles up to [`LOST_PAUSE_LONGEST`].
/// What the dead node had sent may still be on its way, and what takes down its node must not take down the next at once.
const LOST_PAUSE_FIRST: Duration = Duration::from_secs(1);
pub(crate) const LOST_PAUSE_LONGEST: Duration = Duration::from_secs(60);

/// What shells add to a signal's number, for the exit code of what it has ended.
const EXIT_OF_SIGNAL: i32 = 128;

/// An attempt that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Attempted<'a> {
    pub outcome: &'a Outcome,
    /// Which attempt it was, from 1.
    pub number: u32,
    /// Whether anything of it was begun.
    pub began: bool,
    /// Why it is unknown how the last attempt before it ended; `None`: that is known, or there was none.
    pub doubt: Option<&'a str>,
    /// The person that requested the stop of the attempt, if one did.
    pub asked_by: Option<&'a str>,
    /// No other attempt can follow here, under any `retry`.
    pub is_last: bool,
}

/// What follows an attempt that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Another attempt, after this pause.
    Repeat { pause: Duration },
    /// An attempt by whichever node comes next.
    HandOver,
    /// Nothing: this is how it ended.
    End(End),
}

impl Job {
    /// What follows an attempt that has ended.
    pub fn judge(&self, attempted: Attempted<'_>) -> Judgement {
        let Attempted { outcome, began, doubt, asked_by, is_last, .. } = attempted;
        // What never began loses nothing by it, and what may run twice is to run to its end once.
        let may_move = !began || self.guarantee.may_repeat();
        let is_of_its_node = |reason| match reason {
            StopReason::Shutdown | StopReason::StepDown | StopReason::LostLeadership => true,
            StopReason::Asked | StopReason::Replaced => false,
        };
        if may_move && matches!(outcome, Outcome::Stopped(reason) if is_of_its_node(*reason)) {
            return Judgement::HandOver;
        }
        match self.pause_after(attempted).filter(|_| !is_last) {
            Some(pause) => Judgement::Repeat { pause },
            None => Judgement::End(outcome.end(asked_by).after(doubt.filter(|_| !began))),
        }
    }

    /// Why it is unknown how far the attempt came, or the one before it if this one did not begin; `None`: it is known,
    /// or none has begun.
    pub fn doubt_after(&self, attempted: Attempted<'_>) -> Option<Box<str>> {
        let Attempted { outcome, began, .. } = attempted;
        match outcome {
            Outcome::InDoubt(why) | Outcome::Partial(why) => Some(why.as_str().into()),
            Outcome::Stopped(_) | Outcome::TimedOut if began && self.is_in_doubt_when_cut_short() => {
                Some(format!("stopped in the middle: {}", outcome.end(None).reason).into())
            }
            _ if began => None,
            _ => attempted.doubt.map(Into::into),
        }
    }

    /// The pause before another attempt; `None`: none follows.
    fn pause_after(&self, ended: Attempted<'_>) -> Option<Duration> {
        let configured = self.retry.pause_after(ended.number);
        // Repeating it is how the target is asked whether it was done, which is never one attempt too many.
        let asking = (ended.number < ATTEMPTS_LOST_MOST).then(|| self.retry.pause(ended.number));
        let unsettled = self.guarantee == Guarantee::ExactlyOnce && ended.doubt.is_some() && !ended.began;
        let pause = if unsettled { configured.or(asking) } else { configured };
        match ended.outcome {
            Outcome::Exited(0) | Outcome::Done | Outcome::AlreadyApplied => None,
            Outcome::Stopped(_) | Outcome::Fenced { .. } | Outcome::Failed { again: Again::Never, .. } => None,
            Outcome::Partial(_) => None,
            Outcome::TimedOut if self.took_effect_in_part(ended.began) => None,
            Outcome::Exited(_) | Outcome::Signalled(_) | Outcome::TimedOut | Outcome::NotStarted(_) => pause,
            Outcome::Failed { again: Again::AsConfigured, .. } => pause,
            Outcome::Failed { again: Again::After(asked), .. } => {
                pause.map(|pause| pause.max((*asked).min(PUT_OFF_MOST)))
            }
            Outcome::InDoubt(_) => match self.guarantee {
                Guarantee::AtMostOnce => None,
                Guarantee::AtLeastOnce => configured,
                Guarantee::ExactlyOnce => asking,
            },
        }
    }

    /// Whether it is unknown how far a task came that was cut short: its statements take effect one by one, or its
    /// request may have arrived.
    fn is_in_doubt_when_cut_short(&self) -> bool {
        match &self.task {
            Task::Command(_) | Task::Call => false,
            Task::Http(_) => true,
            Task::Sql(sql) => !sql.transaction,
        }
    }

    fn took_effect_in_part(&self, began: bool) -> bool {
        let in_part = matches!(&self.task, Task::Sql(sql) if !sql.transaction);
        began && in_part && !self.guarantee.may_repeat()
    }
}

/// What follows the attempt `number` of which its claimant did not report the end, since it is gone. `lost` says so: see
/// [`lost`].
pub fn judge_lost(guarantee: Guarantee, number: u32, lost: &str) -> Judgement {
    let unknown =
        |code, reason| Judgement::End(End { verdict: Verdict::Unknown, reason, exit_code: None, code: Some(code) });
    match guarantee.may_repeat() {
        true if number < ATTEMPTS_LOST_MOST => {
            let doubled = LOST_PAUSE_FIRST.saturating_mul(1 << number.saturating_sub(1).min(16));
            Judgement::Repeat { pause: doubled.min(LOST_PAUSE_LONGEST) }
        }
        true => unknown(Code::AttemptsLost, format!("{lost}; it was attempt {number}, and no further one follows")),
        false => unknown(Code::LeaderLost, lost.to_owned()),
    }
}

/// The reason given for an attempt whose claimant, a `leader` or a `holder`, is gone and did not report its end.
pub fn lost(role: &str, claimant: Option<(&str, Fence)>) -> String {
    let claimant = claimant.map_or(format!("a {role}"), |(node, fence)| format!("{node} (fence {fence})"));
    format!("{role} lost: {claimant} claimed it and did not say how it ended")
}

/// The reason given for what ended because a person asked for that.
pub fn cancelled(by: Option<&str>) -> String {
    let asked = StopReason::Asked.as_str();
    by.map_or(asked.to_owned(), |by| format!("{asked}, of {by}"))
}

impl Outcome {
    /// How something ends of which this was the last attempt.
    pub fn end(&self, asked_by: Option<&str>) -> End {
        let (verdict, reason) = match self {
            Outcome::Exited(0) | Outcome::Done => (Verdict::Succeeded, String::new()),
            Outcome::AlreadyApplied => (Verdict::Succeeded, "already applied".to_owned()),
            Outcome::Exited(code) => (Verdict::Failed, format!("exit code {code}")),
            Outcome::Signalled(signal) => (Verdict::Failed, format!("killed by signal {signal}")),
            Outcome::NotStarted(why) => (Verdict::Failed, format!("not started: {why}")),
            Outcome::Failed { why, .. } => (Verdict::Failed, why.clone()),
            Outcome::TimedOut => (Verdict::TimedOut, "took longer than its `timeout`".to_owned()),
            Outcome::Stopped(StopReason::Asked) => (Verdict::Cancelled, cancelled(asked_by)),
            Outcome::Stopped(reason) => (Verdict::Cancelled, reason.as_str().to_owned()),
            Outcome::Fenced { seen } => {
                let seen = seen.map_or("a greater fence".to_owned(), |seen| format!("fence {seen}"));
                (Verdict::Cancelled, format!("fenced: the target has seen {seen}"))
            }
            Outcome::InDoubt(why) | Outcome::Partial(why) => (Verdict::Unknown, why.clone()),
        };
        let exit_code = match self {
            Outcome::Exited(code) => Some(*code),
            Outcome::Signalled(signal) => Some(EXIT_OF_SIGNAL + signal),
            _ => None,
        };
        End { verdict, reason, exit_code, code: self.code() }
    }

    /// Why something ends as it does of which this was the last attempt; `None`: it ended well, as usual.
    fn code(&self) -> Option<Code> {
        Some(match self {
            Outcome::Exited(0) | Outcome::Done => return None,
            Outcome::AlreadyApplied => Code::AlreadyApplied,
            Outcome::Exited(_) => Code::ExitCode,
            Outcome::Signalled(_) => Code::Signal,
            Outcome::NotStarted(_) => Code::NotStarted,
            Outcome::Failed { .. } => Code::Error,
            Outcome::TimedOut => Code::TimedOut,
            Outcome::Stopped(reason) => reason.code(),
            Outcome::Fenced { .. } => Code::Fenced,
            Outcome::InDoubt(_) => Code::InDoubt,
            Outcome::Partial(_) => Code::Partial,
        })
    }
}

impl End {
    /// The same where no attempt began since one that is in doubt: that it did not succeed now says nothing of then.
    #[must_use]
    pub fn after(self, doubt: Option<&str>) -> End {
        match doubt {
            Some(doubt) if !matches!(self.verdict, Verdict::Unknown | Verdict::Succeeded) => {
                let reason = format!("{}; before: {doubt}", self.reason);
                End { verdict: Verdict::Unknown, reason, code: Some(Code::InDoubt), ..self }
            }
            _ => self,
        }
    }
}
