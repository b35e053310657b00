//! Which ends of runs are notified: after so many in a row, again after a while, and that a job has recovered.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::late::late_from;
use super::run::{Done, Last, Open};
use crate::fence::Fence;
use crate::job::{AlertKind, Code, Job, JobName, MissedRun, Notify, RunId, Verdict, Whose, Word as _};
use crate::time::Wall;

/// How much of the reason of a verdict an alert has, in bytes.
pub const REASON_MOST: usize = 400;

/// What is notified of one run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    pub kind: AlertKind,
    pub job: JobName,
    pub run: RunId,
    pub scheduled_at: Wall,
    /// `None`: the run goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// The beginning of the reason of the verdict, or why it is late.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    pub attempt: u32,
    /// How many runs of the job in a row have ended badly, up to this one, or how many occurrences were missed together; 0
    /// for one that has recovered, or is late.
    pub in_a_row: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<Fence>,
    /// When the run ended; of one that is late, since when it is.
    pub finished_at: Wall,
    #[serde(default, skip_serializing_if = "Whose::is_empty")]
    pub whose: Whose,
}

impl Alert {
    /// Its identity: the same, however often it is sent, and by which leader. A run may end more than once, as one in doubt
    /// does that a person has repeated, or one that is fired again after a rewind: each of these is an alert of its own.
    pub fn id(&self) -> String {
        format!("{}:{}:{}", self.run, self.kind.word(), self.finished_at)
    }

    fn of(kind: AlertKind, done: &Done, in_a_row: u32, notify: &Notify) -> Alert {
        let mut reason = done.reason.clone();
        reason.truncate(reason.floor_char_boundary(REASON_MOST));
        Alert {
            kind,
            job: done.job.clone(),
            run: done.id.clone(),
            scheduled_at: done.at,
            verdict: Some(done.verdict),
            reason,
            exit_code: done.exit_code,
            attempt: done.attempt,
            in_a_row,
            node: done.claimant.as_ref().map(|claimant| claimant.node.clone()),
            fence: done.claimant.as_ref().map(|claimant| claimant.fence),
            finished_at: done.finished_at,
            whose: notify.whose.clone(),
        }
    }
}

/// What is notified of occurrences that were not run, since no node led when they were due; `None`: nothing is. That a
/// later one took their place, as a job may want it, is not.
pub fn missed(job: &Job, done: &Done) -> Option<(Arc<Notify>, Alert)> {
    let is_missed = match done.code? {
        Code::Missed | Code::MissedWindow | Code::MissedLimit => true,
        Code::MissedMany => job.missed.run != MissedRun::Latest,
        _ => false,
    };
    let notify = job.notify.as_ref().filter(|notify| is_missed && notify.on.contains(&AlertKind::Missed))?;
    let count = done.many.map_or(1, |many| u32::try_from(many.count).unwrap_or(u32::MAX));
    Some((Arc::clone(notify), Alert::of(AlertKind::Missed, done, count, notify)))
}

/// What is notified of an open run that is late; `None`: nothing is.
pub fn late(job: &Job, open: &Open, now: Wall) -> Option<(Arc<Notify>, Alert)> {
    job.notify.as_ref().filter(|notify| notify.on.contains(&AlertKind::Late))?;
    let (since, late) = late_from(&job.about.expect, open).filter(|(since, _)| *since < now)?;
    let notify = job.notify_of_run()?;
    let alert = Alert {
        kind: AlertKind::Late,
        job: open.job.clone(),
        run: open.id.clone(),
        scheduled_at: open.at,
        verdict: None,
        reason: late.why().to_owned(),
        exit_code: None,
        attempt: open.attempt,
        in_a_row: 0,
        node: open.claimant.as_ref().map(|claimant| claimant.node.clone()),
        fence: open.claimant.as_ref().map(|claimant| claimant.fence),
        finished_at: since,
        whose: notify.whose.clone(),
    };
    Some((notify, alert))
}

/// What the end of a run makes of how its job's last run ended, and the alert that it is worth. A run that ended out of
/// order, as one of a backfill does, says nothing of how its job fares: only that it is in doubt is worth an alert.
pub fn after(before: Option<&Last>, done: &Done, notify: Option<&Notify>) -> (Last, Option<Alert>) {
    let mut last = Last::after(before, done);
    let Some(notify) = notify else { return (last, None) };
    let kind = AlertKind::of(done.verdict).filter(|kind| notify.on.contains(kind));
    let worth = if last.run == done.id {
        let was_bad = before.is_some_and(|before| before.bad_in_a_row > 0);
        if last.is_bad() && !was_bad {
            (last.notified_at, last.doubt_notified) = (None, false);
        }
        kind.filter(|kind| is_due(*kind, &last, done, notify))
    } else {
        let worth = kind.filter(|kind| *kind == AlertKind::Unknown);
        // What that opens somewhere, the next run that succeeds has to end.
        last.doubt_notified |= worth.is_some();
        worth
    };
    if last.run == done.id {
        match (done.verdict, worth) {
            (Verdict::Succeeded, _) => (last.notified_at, last.doubt_notified) = (None, false),
            // What is in doubt says nothing of failures: those that follow are notified as if it were not.
            (Verdict::Unknown, Some(_)) => last.doubt_notified = true,
            (_, Some(_)) => last.notified_at = Some(done.finished_at),
            (_, None) => {}
        }
    }
    let alert = worth.map(|kind| Alert::of(kind, done, last.bad_in_a_row, notify));
    (last, alert)
}

/// Whether an end of this kind is notified now. One that is in doubt always is: each of them waits for a person.
fn is_due(kind: AlertKind, last: &Last, done: &Done, notify: &Notify) -> bool {
    match (kind, last.notified_at) {
        (AlertKind::Unknown, _) => true,
        (AlertKind::Recovered, before) => before.is_some() || last.doubt_notified,
        (_, None) => last.bad_in_a_row >= notify.after,
        (_, Some(before)) => done.finished_at.since(before) >= notify.repeat,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::job::{JobName, words};
    use crate::scheduler::run::Open;

    fn notify() -> Notify {
        let on = words::<AlertKind>().iter().filter_map(|word| AlertKind::named(word)).collect();
        Notify { on, to: vec!["ops".to_owned()], after: 1, repeat: Duration::from_secs(3_600), whose: Whose::default() }
    }

    fn done(minute: i64, verdict: Verdict) -> Done {
        let (job, at) = (JobName::new("a").unwrap(), Wall::from_millis(minute * 60_000));
        let open = Open { started_at: Some(at), ..Open::claimed(RunId::of(&job, at)) };
        Done::of(&open, verdict, "why", at)
    }

    /// The kinds of alerts that these ends make, one after the other; `-`: none.
    fn kinds(notify: &Notify, ends: &[(i64, Verdict)]) -> Vec<&'static str> {
        let mut last = None;
        let each = ends.iter().map(|(minute, verdict)| {
            let (next, alert) = after(last.as_ref(), &done(*minute, *verdict), Some(notify));
            last = Some(next);
            alert.map_or("-", |alert| alert.kind.word())
        });
        each.collect()
    }

    const GOOD: Verdict = Verdict::Succeeded;
    const BAD: Verdict = Verdict::Failed;

    #[test]
    fn a_failure_is_notified_once_and_its_recovery_once() {
        let ends = [(0, GOOD), (1, BAD), (2, BAD), (3, GOOD), (4, GOOD), (5, Verdict::TimedOut), (6, GOOD)];
        assert_eq!(kinds(&notify(), &ends), ["-", "failed", "-", "recovered", "-", "timed_out", "recovered"]);
    }

    #[test]
    fn a_recovery_is_notified_only_where_the_failure_was() {
        let twice = Notify { after: 2, ..notify() };
        let ends = [(0, BAD), (1, GOOD), (2, BAD), (3, BAD), (4, BAD), (5, GOOD)];
        assert_eq!(kinds(&twice, &ends), ["-", "-", "-", "failed", "-", "recovered"]);
        let never = Notify { on: vec![AlertKind::TimedOut, AlertKind::Recovered], ..notify() };
        assert_eq!(kinds(&never, &[(0, BAD), (1, GOOD)]), ["-", "-"]);
    }

    #[test]
    fn a_failure_that_lasts_is_notified_again_after_a_while() {
        let ends = [(0, BAD), (59, BAD), (60, BAD), (61, BAD), (121, BAD)];
        assert_eq!(kinds(&notify(), &ends), ["failed", "-", "failed", "-", "failed"]);
    }

    #[test]
    fn each_run_in_doubt_is_notified_also_out_of_order() {
        let ends = [(5, Verdict::Unknown), (6, Verdict::Unknown), (1, BAD), (2, Verdict::Unknown)];
        assert_eq!(kinds(&notify(), &ends), ["unknown", "unknown", "-", "unknown"]);
    }

    #[test]
    fn a_run_in_doubt_that_ends_out_of_order_recovers_with_the_next_that_succeeds() {
        let ends = [(5, GOOD), (1, Verdict::Unknown), (6, GOOD), (7, GOOD)];
        assert_eq!(kinds(&notify(), &ends), ["-", "unknown", "recovered", "-"]);
    }

    #[test]
    fn a_run_in_doubt_does_not_silence_the_failures_behind_it_and_recovers() {
        let ends = [(0, Verdict::Unknown), (1, BAD), (2, BAD), (3, GOOD), (4, Verdict::Unknown), (5, GOOD), (6, GOOD)];
        assert_eq!(kinds(&notify(), &ends), ["unknown", "failed", "-", "recovered", "unknown", "recovered", "-"]);
    }

    #[test]
    fn a_run_that_is_in_doubt_twice_has_an_alert_for_each_time() {
        let first = done(0, Verdict::Unknown);
        let second = Done { finished_at: Wall::from_millis(60_000), ..first.clone() };
        let ids = [first, second].map(|done| after(None, &done, Some(&notify())).1.map(|alert| alert.id()));
        assert_eq!(ids[0].as_deref(), Some("a@1970-01-01T00:00:00Z:unknown:1970-01-01T00:00:00Z"));
        assert_ne!(ids[0], ids[1]);
    }

    #[test]
    fn occurrences_that_no_other_takes_the_place_of_are_missed() {
        let task = crate::job::Task::Command(vec![crate::job::Text::plain("a")]);
        let mut job = Job { notify: Some(Arc::new(notify())), ..Job::new(JobName::new("a").unwrap(), task) };
        let skipped = |code: Code| done(0, Verdict::Skipped).because(code.because("missed"));
        let is_missed = |job: &Job, code| missed(job, &skipped(code)).map(|(_, alert)| alert.kind);
        job.missed.run = MissedRun::Latest;
        for code in [Code::Superseded, Code::MissedMany, Code::Paused] {
            assert_eq!(is_missed(&job, code), None, "{code:?}");
        }
        assert_eq!(is_missed(&job, Code::MissedWindow), Some(AlertKind::Missed));
        job.missed.run = MissedRun::Skip;
        assert_eq!(is_missed(&job, Code::MissedMany), Some(AlertKind::Missed));
        let on = vec![AlertKind::Failed];
        job.notify = Some(Arc::new(Notify { on, ..notify() }));
        assert_eq!(is_missed(&job, Code::MissedMany), None, "the job does not want to know");
    }

    #[test]
    fn a_job_that_recovers_unnoticed_fails_anew() {
        let (first, _) = after(None, &done(0, BAD), Some(&notify()));
        // A person resolved it, or the jobs file had no channels at that time.
        let (second, none) = after(Some(&first), &done(1, GOOD), None);
        let (_, alert) = after(Some(&second), &done(2, BAD), Some(&notify()));
        assert_eq!((none, alert.map(|alert| (alert.kind, alert.in_a_row))), (None, Some((AlertKind::Failed, 1))));
    }
}
