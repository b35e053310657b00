//! The same act on many jobs or runs, with a result for each.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use futures_util::{StreamExt as _, stream};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::sending::{Sender, Sending};
use super::{DeedView, Done, replays};
use crate::api::problem::Problem;
use crate::api::{Api, json};
use crate::job::{JobName, Params, RunId};
use crate::ledger::{Act, Acting, Deed};
use crate::store::Store;
use crate::time::Wall;

/// On how many jobs or runs one request may act.
pub const BULK_MOST: usize = 500;

/// How many of them are on their way to the store at once.
const AT_ONCE: usize = 8;

/// What is done to each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::api) enum BulkAct {
    Trigger,
    Pause,
    Resume,
    Cancel,
}

impl BulkAct {
    fn act(self) -> Act {
        match self {
            BulkAct::Trigger => Act::Trigger,
            BulkAct::Pause => Act::Pause,
            BulkAct::Resume => Act::Resume,
            BulkAct::Cancel => Act::Cancel,
        }
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "BulkRequest")]
pub(in crate::api) struct Bulk {
    pub act: BulkAct,
    /// The jobs; of `cancel`, the runs.
    #[schemars(length(min = 1, max = 500))]
    pub names: Vec<String>,
    /// Of `pause`: when it ends by itself.
    #[serde(default)]
    pub until: Option<Wall>,
    /// Why, for others to read: it is kept with the record of each act. At most 500 characters.
    #[serde(default)]
    #[schemars(length(max = 500))]
    pub reason: Option<String>,
}

/// What became of one of them.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct BulkResult {
    /// As the request names it.
    pub name: String,
    /// The status that a request about it alone would have had.
    pub status: u16,
    pub done: Option<DeedView>,
    /// The kind of the problem, and what happened.
    pub problem: Option<String>,
    pub detail: Option<String>,
}

/// What became of all of them, in the order of the request.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct BulkView {
    pub results: Vec<BulkResult>,
    pub done: usize,
    pub failed: usize,
}

impl<S: Store> Api<S> {
    /// Acts on each. What cannot be done to one is no reason to leave out the others.
    /// `true`: a request with the same key did so before.
    pub(in crate::api) async fn bulk(&self, bulk: Bulk, sender: &Sender) -> Result<(BulkView, bool), Problem> {
        let Bulk { act, mut names, until, reason } = bulk;
        if !(1..=BULK_MOST).contains(&names.len()) {
            return Err(Problem::parameter("names", format!("from 1 to {BULK_MOST} names")));
        }
        let mut seen = std::collections::BTreeSet::new();
        names.retain(|name| seen.insert(name.clone()));
        let acting = sender.acting(reason)?;
        // The key is of the whole request, too: with other names it is another one.
        let whole = Deed::new(act.act(), format!("{} names", names.len()));
        let before = self.within(&acting, self.ledger.keep(&acting, &whole, false)).await??;
        let one = async |name: String| {
            let part = acting.part(&name);
            let made = self.one_of(act, &name, until, (&part, sender)).await;
            result(name, made)
        };
        let results: Vec<BulkResult> = stream::iter(names).map(one).buffered(AT_ONCE).collect().await;
        let done = results.iter().filter(|result| result.done.is_some()).count();
        Ok((BulkView { failed: results.len() - done, done, results }, before.is_some()))
    }

    async fn one_of(
        &self,
        act: BulkAct,
        name: &str,
        until: Option<Wall>,
        (acting, sender): (&Acting, &Sender),
    ) -> Result<Done, Problem> {
        if act == BulkAct::Cancel {
            let run: RunId = name.parse()?;
            if !sender.caller.sees(&run.job()) {
                return Err(Problem::no_such_run(&run));
            }
            return self.cancel(&run, acting).await;
        }
        let job = JobName::new(name)?;
        if !sender.caller.sees(&job) {
            return Err(Problem::no_such_job(&job));
        }
        match act {
            BulkAct::Trigger => self.trigger(&job, Params::default(), acting).await,
            BulkAct::Pause => self.pause(Some(&job), until, acting).await,
            BulkAct::Resume | BulkAct::Cancel => self.resume(Some(&job), acting).await,
        }
    }
}

fn result(name: String, made: Result<Done, Problem>) -> BulkResult {
    match made {
        Ok(done) => {
            let status = if done.deed.run.is_some() && done.deed.act == Act::Trigger { 201 } else { 200 };
            BulkResult { name, status, done: Some(done.view()), problem: None, detail: None }
        }
        Err(problem) => BulkResult {
            name,
            status: problem.kind.status().as_u16(),
            done: None,
            problem: Some(format!("/problems/{}", problem.kind.name())),
            detail: Some(problem.detail),
        },
    }
}

pub(super) async fn bulk<S: Store>(State(api): State<Api<S>>, sending: Sending<Bulk>) -> Result<Response, Problem> {
    let (bulk, sender) = sending.parts();
    let (view, replayed) = api.bulk(bulk, &sender).await?;
    let mut answer = json(StatusCode::OK, &view);
    if replayed {
        replays(&mut answer);
    }
    Ok(answer)
}
