//! PURE: whether another attempt follows one that has ended. Runs of jobs and what is done once are judged alike.

use std::time::Duration;

use super::{Again, Guarantee, Job, Outcome, Task};

/// The longest that a target can have the next attempt put off (`Retry-After`).
pub const PUT_OFF_MOST: Duration = Duration::from_secs(86_400);

/// How many attempts, at most, end without anybody knowing how, where repeating is harmless: one that takes its node
/// down each time is not to take all of them.
pub const ATTEMPTS_LOST_MOST: u32 = 10;

/// An attempt that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Attempted<'a> {
    pub outcome: &'a Outcome,
    /// Which attempt it was, from 1.
    pub number: u32,
    /// Whether anything of it was begun.
    pub began: bool,
    /// Whether nobody knows how the attempt before it ended.
    pub in_doubt_before: bool,
}

impl Job {
    /// After what pause an attempt is followed by another; `None`: it is not.
    pub fn pause_after(&self, ended: Attempted<'_>) -> Option<Duration> {
        let configured = self.retry.pause_after(ended.number);
        // Repeating it is how the target is asked whether it was done, which is never one attempt too many.
        let asking = (ended.number < ATTEMPTS_LOST_MOST).then(|| self.retry.pause(ended.number));
        let unsettled = self.guarantee == Guarantee::ExactlyOnce && ended.in_doubt_before && !ended.began;
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

    /// Whether nobody can say how far something came that was cut short: its statements take effect one by one, or
    /// its request may have arrived.
    pub fn is_in_doubt_when_cut_short(&self) -> bool {
        match &self.task {
            Task::Command(_) => false,
            Task::Http(_) => true,
            Task::Sql(sql) => !sql.transaction,
        }
    }

    fn took_effect_in_part(&self, began: bool) -> bool {
        let in_part = matches!(&self.task, Task::Sql(sql) if !sql.transaction);
        began && in_part && !self.guarantee.may_repeat()
    }
}
