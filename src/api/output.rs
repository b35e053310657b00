//! What a run writes, live or as it was kept.

use std::convert::Infallible;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::{FutureExt as _, stream};
use serde::Deserialize;

use super::{Api, refuse, store_error};
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
    Path(run): Path<String>,
    Query(wanted): Query<Wanted>,
) -> Response {
    let run: RunId = match run.parse() {
        Ok(run) => run,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, &error),
    };
    if let Some(follow) = api.outputs.follow(&run) {
        return text(if wanted.follow == 1 { live(follow) } else { Body::from(so_far(follow)) });
    }
    match api.ledger.run(&run).await {
        Ok(Some(RunRow::Done(done))) => text(Body::from(done.output)),
        Ok(Some(RunRow::Open(_))) => refuse(StatusCode::CONFLICT, &format!("{run} is not running on this node")),
        Ok(None) => refuse(StatusCode::NOT_FOUND, &format!("there is no run {run}")),
        Err(error) => store_error(&error),
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
    let headers = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, body).into_response()
}
