//! What ended in each hour, from the small records that the leaders add to.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::listing::{Listing, Sent, applied};
use super::problem::Problem;
use super::routes::Query;
use super::{Api, in_time};
use crate::ledger::HourRow;
use crate::scheduler::hour::Lateness;
use crate::store::Store;
use crate::time::Wall;

/// How far back the counts begin where the caller does not say.
const USUAL: Duration = Duration::from_secs(24 * 3_600);

/// What ended in one hour.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct HourView {
    /// The beginning of the hour, in UTC.
    pub hour: Wall,
    /// How many runs ended, by verdict, as it was first: what a person resolved later is not counted again.
    pub runs: BTreeMap<String, u64>,
    /// How many occurrences were skipped, by the code of the reason.
    pub skips: BTreeMap<String, u64>,
    /// How late those runs were started, but for backfills.
    pub lateness: LatenessView,
}

/// How late runs were started.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct LatenessView {
    /// How many runs there are of which that is known.
    pub count: u64,
    /// All of it together.
    pub sum_ms: u64,
    /// Runs by how late they were; bounds that no run fell under are left out.
    pub buckets: Vec<BucketView>,
}

/// Runs that were about as late.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct BucketView {
    /// They were at most as late as this, and later than the bound before; `null`: later than every bound.
    pub most_ms: Option<u64>,
    pub count: u64,
}

impl From<HourRow> for HourView {
    fn from(row: HourRow) -> HourView {
        let HourRow { hour, counts } = row;
        HourView { hour, runs: counts.runs, skips: counts.skips, lateness: counts.late.into() }
    }
}

impl From<Lateness> for LatenessView {
    fn from(late: Lateness) -> LatenessView {
        let count = late.count();
        let bounded = late.most_ms.into_iter().map(|(most_ms, count)| BucketView { most_ms: Some(most_ms), count });
        let beyond = Some(late.beyond).filter(|count| *count > 0).map(|count| BucketView { most_ms: None, count });
        LatenessView { count, sum_ms: late.sum_ms, buckets: bounded.chain(beyond).collect() }
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Wanted {
    since: Option<Wall>,
    until: Option<Wall>,
}

/// Answers with what ended in each hour of a stretch of time, the earliest first.
pub(super) async fn hours<S: Store>(
    State(api): State<Api<S>>,
    Query(wanted): Query<Wanted>,
    sent: Sent,
) -> Result<Response, Problem> {
    let until = wanted.until.unwrap_or_else(|| api.clock.wall());
    let since = wanted.since.unwrap_or_else(|| until.minus(USUAL));
    if since > until {
        return Err(Problem::parameter("since", format!("an instant that is not after `until`, {until}")));
    }
    let rows = in_time(api.ledger.hours(since, until)).await?;
    let items = rows.into_iter().map(HourView::from).collect();
    let applied = applied([("since", json!(since)), ("until", json!(until))]);
    let revision = api.board.read().version();
    Ok(sent.page(&Listing::whole(items, revision, applied)))
}
