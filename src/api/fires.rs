//! When jobs fire: the next fires of one job, and the fires of all jobs in a stretch of time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Api;
use super::access::Caller;
use super::jobs::{follows, named};
use super::listing::{Listing, Sent, applied, number};
use super::problem::Problem;
use super::routes::{Named, Query};
use crate::board::Board;
use crate::job::{Job, JobName, Trigger};
use crate::schedule::{Fire, Occurrence};
use crate::store::Store;
use crate::time::Wall;

/// How many of the next fires of one job are listed at most, and by default.
pub const NEXT_MOST: usize = 100;
const NEXT_USUAL: usize = 5;

/// How many fires of all jobs are listed at most, and by default.
pub const FIRES_MOST: usize = 5_000;
const FIRES_USUAL: usize = 500;

/// The longest stretch of time for which fires are listed, and the default.
pub const STRETCH_MOST: Duration = Duration::from_secs(32 * 86_400);
const STRETCH_USUAL: Duration = Duration::from_secs(7 * 86_400);

/// When a job fires next.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct NextView {
    pub job: JobName,
    pub timezone: Option<&'static str>,
    pub fires: Vec<Fire>,
    /// For a job without a schedule: what makes it due.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Only where it is `false`: it is not due until the file says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
}

impl NextView {
    /// The next `count` fires of the job after `from`.
    pub fn of(job: &Job, from: Wall, count: usize) -> NextView {
        let (timezone, fires) = match &job.trigger {
            Trigger::Schedule { schedule, .. } => {
                let fires = schedule.between(from, Wall::MAX).take(count).map(|at| schedule.explain(at));
                (Some(schedule.timezone()), fires.collect())
            }
            Trigger::After { .. } | Trigger::Disabled => (None, Vec::new()),
        };
        let enabled = (job.trigger == Trigger::Disabled).then_some(false);
        NextView { job: job.name.clone(), timezone, fires, after: follows(&job.trigger), enabled }
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct WantedNext {
    count: Option<usize>,
    from: Option<Wall>,
}

/// Answers with the next fires of one job, as the jobs file of this node has it.
pub(super) async fn next<S: Store>(
    State(api): State<Api<S>>,
    Extension(caller): Extension<Caller>,
    Named(name): Named,
    Query(wanted): Query<WantedNext>,
    sent: Sent,
) -> Result<Response, Problem> {
    let count = number("count", wanted.count, (NEXT_USUAL, NEXT_MOST))?;
    let now = api.clock.wall();
    let (row, job) = {
        let board = api.board.read();
        let row = named(&board, &name, &caller, now)?;
        let job = board.definition(&row.name).cloned();
        (row, job)
    };
    let unknown = || NextView { job: row.name.clone(), timezone: None, fires: Vec::new(), after: None, enabled: None };
    let view = job.map_or_else(unknown, |job| NextView::of(&job, wanted.from.unwrap_or(now), count));
    Ok(sent.answer(&view))
}

/// A fire of one of the jobs.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct FireView {
    pub job: JobName,
    pub scheduled_at: Wall,
    /// `scheduled_at`, moved by the job's jitter.
    pub starts_at: Wall,
    /// The instant in the zone of the schedule.
    pub local: String,
    pub timezone: &'static str,
    /// What a change of the clocks did to it.
    pub note: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct WantedFires {
    job: Option<JobName>,
    from: Option<Wall>,
    until: Option<Wall>,
    limit: Option<usize>,
}

/// Answers with the fires of all jobs in a stretch of time, from their definitions: what will become of them when they
/// are due, such as that their job is paused, is left aside.
pub(super) async fn fires<S: Store>(
    State(api): State<Api<S>>,
    Extension(caller): Extension<Caller>,
    Query(wanted): Query<WantedFires>,
    sent: Sent,
) -> Result<Response, Problem> {
    let limit = number("limit", wanted.limit, (FIRES_USUAL, FIRES_MOST))?;
    let from = wanted.from.unwrap_or_else(|| api.clock.wall());
    let until = wanted.until.unwrap_or_else(|| from.plus(STRETCH_USUAL));
    if until > from.plus(STRETCH_MOST) {
        let days = STRETCH_MOST.as_secs() / 86_400;
        return Err(Problem::parameter("until", format!("an instant at most {days} days after `from`, {from}")));
    }
    let stretch = Stretch { from, until, limit };
    let (jobs, revision) = {
        let board = api.board.read();
        (candidates(&board, wanted.job.as_ref(), &caller, &stretch), board.version())
    };
    let computed = tokio::task::spawn_blocking(move || in_order(&jobs, from, until, limit));
    let (items, more) = computed.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
    let applied =
        applied([("job", json!(wanted.job)), ("from", json!(from)), ("until", json!(until)), ("limit", json!(limit))]);
    let page = Listing { cut: more, ..Listing::whole(items, revision, applied) };
    Ok(sent.page(&page))
}

/// A stretch of time, and how many of its fires are wanted.
struct Stretch {
    from: Wall,
    until: Wall,
    limit: usize,
}

/// The jobs among which the first fires of the stretch are, by their names.
///
/// The board has the next fire of each job, in their order. Where the stretch begins behind what is decided, no job fires
/// in it before its next fire; so one more than `limit` of them suffice, beside those whose next fire is before the
/// stretch.
fn candidates(board: &Board, only: Option<&JobName>, caller: &Caller, stretch: &Stretch) -> Vec<Arc<Job>> {
    let is_wanted = |job: &&Arc<Job>| matches!(job.trigger, Trigger::Schedule { .. }) && caller.sees(&job.name);
    if let Some(only) = only {
        return board.definition(only).filter(is_wanted).cloned().into_iter().collect();
    }
    if board.watermark().is_none_or(|mark| stretch.from <= mark.instant) {
        return board.definitions().filter(is_wanted).cloned().collect();
    }
    let mut inside = 0;
    let mut is_enough = |start: Wall| {
        inside += usize::from(start >= stretch.from);
        inside > stretch.limit + 1
    };
    let planned = board.next_fires().take_while(|(start, _)| *start <= stretch.until);
    let planned = planned.filter_map(|(start, name)| Some((start, board.definition(name).filter(is_wanted)?)));
    let planned = planned.take_while(|(start, _)| !is_enough(*start)).map(|(_, job)| job);
    let unplanned = board.unplanned().filter_map(|name| board.definition(name)).filter(is_wanted);
    let mut jobs: Vec<Arc<Job>> = unplanned.chain(planned).cloned().collect();
    jobs.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    jobs
}

/// The first `limit` fires that start in the stretch, in their order, and whether there are more.
fn in_order(jobs: &[Arc<Job>], from: Wall, until: Wall, limit: usize) -> (Vec<FireView>, bool) {
    let next = |nth: usize, after: Wall| -> Option<Reverse<(Wall, usize, Wall)>> {
        let Trigger::Schedule { schedule, jitter } = &jobs[nth].trigger else { return None };
        let Occurrence { at, starts } = schedule.next_start(*jitter, after)?;
        (starts <= until).then_some(Reverse((starts, nth, at)))
    };
    let just_before = Wall::from_millis(from.as_millis() - 1);
    let mut heap: BinaryHeap<_> = (0..jobs.len()).filter_map(|nth| next(nth, just_before)).collect();
    let mut fires = Vec::new();
    while fires.len() < limit
        && let Some(Reverse((starts_at, nth, at))) = heap.pop()
    {
        heap.extend(next(nth, starts_at));
        let Trigger::Schedule { schedule, .. } = &jobs[nth].trigger else { continue };
        let Fire { scheduled_at, local, note } = schedule.explain(at);
        let (job, timezone) = (jobs[nth].name.clone(), schedule.timezone());
        fires.push(FireView { job, scheduled_at, starts_at, local, timezone, note });
    }
    (fires, !heap.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, parse};

    #[test]
    fn the_fires_of_all_jobs_come_in_their_order_and_no_more_than_asked_for() {
        let text = "version: 1\njobs:\n  a: {schedule: '@hourly', shell: 'true'}\n  \
                    b: {schedule: '30 * * * *', shell: 'true'}\n  c: {after: {job: a, on: success}, shell: 'true'}\n";
        let jobs: Vec<Arc<Job>> = parse(text, &Sources::none()).unwrap().jobs.into_values().collect();
        let at = |text: &str| text.parse::<Wall>().unwrap();
        let (fires, more) = in_order(&jobs, at("2026-11-27T01:00:00Z"), at("2026-11-27T02:00:00Z"), 10);
        let listed: Vec<_> = fires.iter().map(|fire| (fire.job.as_str(), fire.scheduled_at.to_string())).collect();
        let expected = [("a", "01:00"), ("b", "01:30"), ("a", "02:00")];
        assert_eq!(listed, expected.map(|(job, time)| (job, format!("2026-11-27T{time}:00Z"))));
        assert!(!more, "the last minute of the stretch is part of it, and nothing behind it");
        let (fires, more) = in_order(&jobs, at("2026-11-27T01:00:00Z"), at("2026-11-27T02:00:00Z"), 2);
        assert_eq!((fires.len(), more), (2, true));
    }

    #[test]
    fn a_list_of_fires_begins_at_its_first_instant_whatever_that_is() {
        let text = "version: 1\ndefaults: {timezone: Pacific/Kiritimati}\njobs:\n  \
                    a: {schedule: '* * * * *', shell: 'true'}\n  b: {schedule: '@every 1h', shell: 'true', jitter: 10m}\n";
        let jobs: Vec<Arc<Job>> = parse(text, &Sources::none()).unwrap().jobs.into_values().collect();
        let first = Wall::from_millis(i64::MIN);
        for from in [first, "2026-11-27T01:00:00Z".parse().unwrap(), Wall::MAX.minus(STRETCH_USUAL), Wall::MAX] {
            let (fires, _) = in_order(&jobs, from, from.plus(STRETCH_USUAL), FIRES_MOST);
            assert!(fires.iter().all(|fire| fire.starts_at >= from), "{from}: {:?}", fires.first());
            assert!(fires.is_sorted_by_key(|fire| fire.starts_at), "{from}");
            let is_whole = from.as_millis().rem_euclid(60_000) == 0;
            if is_whole && from > first {
                assert_eq!(fires[0].scheduled_at, from, "the instant itself is in the list");
            }
        }
    }
}
