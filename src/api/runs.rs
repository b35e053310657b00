//! Runs: lists of them, open ones first, and one run.

use std::fmt;
use std::str::FromStr;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;

use super::access::{Caller, Role};
use super::listing::{Applied, Listing, Sent, applied, cursor, limit, place};
use super::problem::Problem;
use super::routes::{Named, Query};
use super::view::{RunState, RunView, state_of};
use super::{Api, in_time};
use crate::board::Board;
use crate::job::{JobName, RunId};
use crate::ledger::{DonePage, DonePlace, FindDone, RunRow};
use crate::scheduler::run::{Done, Open};
use crate::store::Store;
use crate::time::Wall;

/// A row's place in a list of runs: among the open ones, by when they were claimed, or in the history.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Open(Wall, RunId),
    Done(DonePlace),
}

/// A text that is no place in a list of runs.
#[derive(Debug, PartialEq, Eq)]
struct NoPlace;

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Open(claimed_at, run) => write!(f, "o.{}.{run}", claimed_at.as_millis()),
            Place::Done(DonePlace { revision, run: Some(run) }) => write!(f, "d.{revision}.{run}"),
            Place::Done(DonePlace { revision, run: None }) => write!(f, "d.{revision}."),
        }
    }
}

impl FromStr for Place {
    type Err = NoPlace;

    fn from_str(text: &str) -> Result<Place, NoPlace> {
        let parse = || {
            let (kind, rest) = text.split_once('.')?;
            let (number, run) = rest.split_once('.')?;
            match (kind, run) {
                ("o", run) => Some(Place::Open(Wall::from_millis(number.parse().ok()?), run.parse().ok()?)),
                ("d", "") => Some(Place::Done(DonePlace { revision: number.parse().ok()?, run: None })),
                ("d", run) => {
                    Some(Place::Done(DonePlace { revision: number.parse().ok()?, run: Some(run.parse().ok()?) }))
                }
                _ => None,
            }
        };
        parse().ok_or(NoPlace)
    }
}

/// The parameters of lists of runs. Those of one job do not take `job`.
#[derive(Debug, Deserialize)]
pub(super) struct Wanted {
    job: Option<JobName>,
    state: Option<RunState>,
    since: Option<Wall>,
    until: Option<Wall>,
    limit: Option<usize>,
    after: Option<String>,
}

/// Answers with a page of runs: the open ones first, then those with a verdict, the last written first.
pub(super) async fn list<S: Store>(
    State(api): State<Api<S>>,
    Extension(caller): Extension<Caller>,
    Query(wanted): Query<Wanted>,
    sent: Sent,
) -> Result<Response, Problem> {
    let page = page(&api, &caller, wanted).await?;
    Ok(sent.page(&page))
}

/// Answers with a page of the runs of one job.
pub(super) async fn of_job<S: Store>(
    State(api): State<Api<S>>,
    Extension(caller): Extension<Caller>,
    Named(job): Named,
    Query(wanted): Query<Wanted>,
    sent: Sent,
) -> Result<Response, Problem> {
    let job = JobName::new(&job)?;
    let is_known = caller.sees(&job) && api.board.read().job(&job, api.clock.wall()).is_some();
    let begins = wanted.after.is_none();
    let page = page(&api, &caller, Wanted { job: Some(job.clone()), ..wanted }).await?;
    // Of a job that is gone, the history may be left.
    if page.items.is_empty() && page.next.is_none() && begins && !is_known {
        return Err(Problem::no_such_job(&job));
    }
    Ok(sent.page(&page))
}

async fn page<S: Store>(api: &Api<S>, caller: &Caller, wanted: Wanted) -> Result<Listing<RunView>, Problem> {
    let limit = limit(wanted.limit)?;
    let after: Option<Place> = place(wanted.after.as_deref())?;
    let Wanted { job, state, since, until, .. } = wanted;
    let applied = applied([
        ("job", json!(job)),
        ("state", json!(state)),
        ("since", json!(since)),
        ("until", json!(until)),
        ("limit", json!(limit)),
    ]);
    let verdict = state.and_then(RunState::verdict);
    let find = FindDone { job, verdict, since, until, after: None, limit };
    let (mut open, revision, from) = match after {
        Some(Place::Done(place)) => (Vec::new(), api.board.read().version(), Some(place)),
        after => {
            let behind = match after {
                Some(Place::Open(claimed_at, run)) => Some((claimed_at, run)),
                _ => None,
            };
            let board = api.board.read();
            let open = if verdict.is_none() { open_runs(&board, &find, (state, caller), behind) } else { Vec::new() };
            (open, board.version(), None)
        }
    };
    let is_over = open.len() > limit;
    open.truncate(limit);
    let has_done = state.is_none() || verdict.is_some();
    if is_over || !has_done {
        let last = open.last().filter(|_| is_over).map(|open| Place::Open(open.claimed_at, open.id.clone()));
        let next = last.map(|place| cursor(&place.to_string()));
        let items = on_board(api, open);
        return Ok(Listing { next, ..Listing::whole(items, revision, applied) });
    }
    with_done(api, caller, open, FindDone { after: from, ..find }, (revision, applied)).await
}

/// A page that begins with these open runs, and goes on in the history.
async fn with_done<S: Store>(
    api: &Api<S>,
    caller: &Caller,
    open: Vec<Open>,
    find: FindDone,
    (revision, applied): (u64, Applied),
) -> Result<Listing<RunView>, Problem> {
    let room = find.limit - open.len();
    let last_open = open.last().map(|open| Place::Open(open.claimed_at, open.id.clone()));
    let mut items = on_board(api, open);
    // Where the open ones fill the page, the history still begins behind the last of them.
    let find = FindDone { limit: room.max(1), ..find };
    let DonePage { rows, next, searched_to } =
        in_time(api.ledger.done_page(&find, |done| caller.sees(&done.job))).await?;
    let next = match last_open.filter(|_| room == 0) {
        Some(last) => Some(last).filter(|_| !rows.is_empty() || next.is_some()),
        None => {
            items.extend(rows.into_iter().map(|(done, _)| in_list(done)));
            next.map(Place::Done)
        }
    };
    let next = next.map(|place| cursor(&place.to_string()));
    let scanned_to = searched_to.filter(|_| room > 0);
    Ok(Listing { next, scanned_to, ..Listing::whole(items, revision, applied) })
}

/// The open runs that are wanted, the last claimed first, from behind a place on: at most one more than the page has.
fn open_runs(
    board: &Board,
    find: &FindDone,
    (state, caller): (Option<RunState>, &Caller),
    behind: Option<(Wall, RunId)>,
) -> Vec<Open> {
    let is_wanted = |open: &&Open| {
        state.is_none_or(|state| state.as_str() == state_of(open))
            && find.since.is_none_or(|since| open.at >= since)
            && find.until.is_none_or(|until| open.at <= until)
            && caller.sees(&open.job)
            && behind.as_ref().is_none_or(|(at, run)| (open.claimed_at, &open.id) < (*at, run))
    };
    let mut open: Vec<&Open> = match &find.job {
        Some(job) => board.open_runs_of(job).filter(is_wanted).collect(),
        None => board.open_runs().filter(is_wanted).collect(),
    };
    open.sort_by(|a, b| (b.claimed_at, &b.id).cmp(&(a.claimed_at, &a.id)));
    open.truncate(find.limit + 1);
    open.into_iter().cloned().collect()
}

/// Open runs, with what they wait for.
fn on_board<S: Store>(api: &Api<S>, open: Vec<Open>) -> Vec<RunView> {
    let (board, now) = (api.board.read(), api.clock.wall());
    open.into_iter().map(|open| RunView::on(&board, open, now)).collect()
}

/// A run as lists have it: what it wrote is a part of the run itself.
fn in_list(done: Done) -> RunView {
    RunView { output: String::new(), ..RunView::from(done) }
}

/// A run as this caller may see it.
fn shown<S: Store>(api: &Api<S>, row: RunRow, caller: &Caller) -> RunView {
    let mut view = match row {
        RunRow::Open(open) => RunView::on(&api.board.read(), open, api.clock.wall()),
        RunRow::Done(done) => RunView::from(done),
    };
    if caller.role < Role::Reader {
        view.output.clear();
    }
    view
}

/// Answers with one run. Where the store says nothing, an open one is answered as this node knows it.
pub(super) async fn one<S: Store>(
    State(api): State<Api<S>>,
    Extension(caller): Extension<Caller>,
    Named(run): Named,
    sent: Sent,
) -> Result<Response, Problem> {
    let run = known(&run, &caller)?;
    match in_time(api.ledger.run_and_version(&run)).await {
        // What an open run waits for changes without its record.
        Ok(Some((row @ RunRow::Open(_), _))) => Ok(sent.answer(&shown(&api, row, &caller))),
        Ok(Some((row, version))) => Ok(sent.versioned(version, &shown(&api, row, &caller))),
        Ok(None) => Err(Problem::no_such_run(&run)),
        Err(problem) => {
            let board = api.board.read();
            let open = board.open_run(&run).cloned().ok_or(problem)?;
            Ok(sent.answer(&RunView::on(&board, open, api.clock.wall())))
        }
    }
}

/// The run that a path names, where the caller may know of its job.
pub(super) fn known(run: &str, caller: &Caller) -> Result<RunId, Problem> {
    let run: RunId = run.parse()?;
    if caller.sees(&run.job()) { Ok(run) } else { Err(Problem::no_such_run(&run)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_among_runs_reads_back() {
        let run: RunId = "a.b@2026-11-21T02:00:00.250Z~t-1".parse().unwrap();
        let at = Wall::from_millis(1_795_000_000_123);
        for place in [
            Place::Open(at, run.clone()),
            Place::Done(DonePlace { revision: 7, run: Some(run) }),
            Place::Done(DonePlace { revision: 7, run: None }),
        ] {
            assert_eq!(place.to_string().parse(), Ok(place));
        }
        for wrong in ["", "o", "o.1", "o.x.a@2026-11-21T02:00:00Z", "d.x.", "d.7.garbage", "x.1.", "o.1."] {
            assert_eq!(wrong.parse::<Place>(), Err(NoPlace), "{wrong}");
        }
    }

    #[test]
    fn a_state_has_the_name_that_runs_show() {
        for state in [RunState::Waiting, RunState::TimedOut, RunState::Unknown, RunState::Retrying] {
            assert_eq!(serde_json::json!(state), state.as_str());
        }
    }
}
