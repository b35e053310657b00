//! What a run writes, live or as it was kept.

use std::convert::Infallible;

use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::{FutureExt as _, stream};
use serde::Deserialize;

use super::Api;
use super::problem::{Kind, Problem};
use super::routes::{Named, Query};
use crate::execute::Follow;
use crate::job::RunId;
use crate::ledger::RunRow;
use crate::store::Store;

#[derive(Debug, Deserialize)]
pub(super) struct Wanted {
    /// 1: until the run ends.
    #[serde(default)]
    follow: u8,
}

/// Answers with what is running here; with what was kept of what has ended, wherever it ran; and refuses what runs
/// elsewhere (409) or is not known (404).
pub(super) async fn output<S: Store>(
    State(api): State<Api<S>>,
    Named(run): Named,
    Query(wanted): Query<Wanted>,
) -> Result<Response, Problem> {
    let run: RunId = run.parse()?;
    if let Some(follow) = api.outputs.follow(&run) {
        return Ok(text(if wanted.follow == 1 { live(follow) } else { Body::from(so_far(follow)) }));
    }
    match api.ledger.run(&run).await? {
        Some(RunRow::Done(done)) => Ok(text(Body::from(done.output))),
        Some(RunRow::Open(_)) => {
            let detail = format!("{run} is not running on this node");
            Err(Problem::new(Kind::NotHere, detail).of(&run).try_command(format!("fencron logs {run}")))
        }
        None => {
            Err(Problem::new(Kind::NoSuchRun, format!("there is no run {run}")).of(&run).try_command("fencron runs"))
        }
    }
}

fn live(follow: Follow) -> Body {
    Body::from_stream(stream::unfold(follow, |mut follow| async move {
        let heard = follow.next().await?;
        Some((Ok::<_, Infallible>(heard.to_string()), follow))
    }))
}

fn so_far(mut follow: Follow) -> String {
    let mut text = String::new();
    // At most what is kept of a run, and what it writes while this looks.
    while let Some(Some(heard)) = follow.next().now_or_never() {
        text.push_str(&heard.to_string());
        if text.len() > 4 * crate::execute::FOLLOW_KEPT {
            break;
        }
    }
    text
}

fn text(body: Body) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], body).into_response()
}
