//! What a run writes: as it was kept, as it stands now, and as it goes on, here or through the node that runs it.
//!
//! All that it wrote, where a node keeps that in a file, is [`whole`]'s part.
//!
//! Offsets count the bytes of what one attempt has written; of a run that has ended, those of what was kept.

use std::convert::Infallible;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{FutureExt as _, StreamExt as _, stream};
use serde::Deserialize;

use super::access::Caller;
use super::problem::{Kind, Problem};
use super::relay::{self, RELAYED};
use super::routes::{Chosen, Named, Query};
use super::runs::known;
use super::{Api, EVENTS, follow, in_time, streams, whole};
use crate::execute::{FOLLOW_KEPT, Follow, Heard};
use crate::job::RunId;
use crate::ledger::RunRow;
use crate::scheduler::run::Claimant;
use crate::store::Store;

/// Which byte the answer begins with.
pub(super) const OFFSET: HeaderName = HeaderName::from_static("fencron-offset");

/// That more was written than the answer has, by a node that cannot be asked for it.
pub(super) const PARTIAL: HeaderName = HeaderName::from_static("fencron-partial");

/// What nginx, and proxies that follow it, take as the wish that an answer is passed on as it comes.
const UNBUFFERED: HeaderName = HeaderName::from_static("x-accel-buffering");

/// How often a stream says that it is still there where nothing is written.
const SIGN_EVERY: Duration = Duration::from_secs(10);

#[derive(Debug, Deserialize)]
pub(super) struct Wanted {
    /// 1: until the run ends.
    #[serde(default)]
    follow: u8,
    #[serde(default)]
    pub offset: u64,
    /// 1: what is in the file with all of it.
    #[serde(default)]
    whole: u8,
    /// Of the file: that of this attempt.
    pub attempt: Option<u32>,
    /// Of the file: at most so many bytes.
    pub limit: Option<u64>,
}

impl Wanted {
    /// The parameters by which another node is asked for the file of this attempt.
    pub fn of_whole(&self, attempt: u32) -> String {
        let limit = self.limit.map_or_else(String::new, |limit| format!("&limit={limit}"));
        format!("whole=1&attempt={attempt}&offset={}{limit}", self.offset)
    }

    /// What makes no sense together.
    fn check(&self, as_events: bool) -> Result<(), Problem> {
        match self.whole {
            1 if self.follow == 1 || as_events => {
                Err(Problem::parameter("whole", "the file is not followed: leave `follow`, or `whole`, out"))
            }
            1 => Ok(()),
            _ if self.attempt.is_some() || self.limit.is_some() => {
                Err(Problem::parameter("whole", "`attempt` and `limit` go with `whole=1`"))
            }
            _ => Ok(()),
        }
    }
}

/// Answers with what a run has written: as text, or as a stream of events that ends with its verdict.
pub(super) async fn output<S: Store>(
    State(api): State<Api<S>>,
    Extension(caller): Extension<Caller>,
    Extension(chosen): Extension<Chosen>,
    Named(run): Named,
    Query(wanted): Query<Wanted>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let run = known(&run, &caller)?;
    let as_events = chosen.0 == EVENTS;
    wanted.check(as_events)?;
    if wanted.whole == 1 {
        let place = api.streams.begin()?;
        return Ok(held(whole::whole(&api, &run, &wanted, &headers).await?, place));
    }
    if !as_events && wanted.follow != 1 {
        return written(api, run, &wanted, &headers, as_events).await;
    }
    let place = api.streams.begin()?;
    let answer = written(api, run, &wanted, &headers, as_events).await?;
    let mut answer = held(answer, place);
    // A proxy that gathers an answer, or compresses it, would deliver it when the run has ended.
    answer.headers_mut().insert(UNBUFFERED, HeaderValue::from_static("no"));
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform"));
    Ok(answer)
}

/// Keeps the place for as long as the answer goes on.
fn held(answer: Response, place: streams::Place) -> Response {
    answer.map(|body| {
        Body::from_stream(body.into_data_stream().map(move |piece| {
            let _held = &place;
            piece
        }))
    })
}

/// What a run has written, from wherever it runs.
async fn written<S: Store>(
    api: Api<S>,
    run: RunId,
    wanted: &Wanted,
    headers: &HeaderMap,
    as_events: bool,
) -> Result<Response, Problem> {
    let elsewhere = if headers.contains_key(RELAYED) { None } else { elsewhere(&api, &run).await };
    let mut unreachable = None;
    if let Some(claimant) = elsewhere {
        let follow = u8::from(as_events || wanted.follow == 1);
        let query = format!("follow={follow}&offset={}", wanted.offset);
        match relay::ask(&api, &run, &claimant, &relay::Question { query, headers, by_name: false }).await {
            Ok(answer) => return Ok(answer),
            Err(why) => unreachable = Some(why),
        }
    }
    if as_events {
        let from = follow::From::of(headers.get("last-event-id"), wanted.offset)?;
        let events = follow::events(api, run, from, unreachable);
        let signs = KeepAlive::new().interval(SIGN_EVERY);
        return Ok(Sse::new(events).keep_alive(signs).into_response());
    }
    as_text(&api, &run, wanted, unreachable).await
}

/// The node that has claimed the run, where that is another one.
async fn elsewhere<S: Store>(api: &Api<S>, run: &RunId) -> Option<Claimant> {
    if api.outputs.follow(run).is_some() {
        return None;
    }
    let board = api.board.read();
    let open = board.open_run(run)?;
    let claimant = open.claimant.as_ref()?;
    (board.this_node().lease != Some(claimant.lease)).then(|| claimant.clone())
}

async fn as_text<S: Store>(
    api: &Api<S>,
    run: &RunId,
    wanted: &Wanted,
    unreachable: Option<String>,
) -> Result<Response, Problem> {
    if let Some(follow) = api.outputs.follow(run) {
        let follow = follow.skip_to(wanted.offset);
        if wanted.follow == 1 {
            return Ok(text(wanted.offset, live(follow)));
        }
        let (offset, written) = so_far(follow);
        return Ok(text(offset, Body::from(written)));
    }
    match in_time(api.ledger.run(run)).await? {
        Some(RunRow::Done(done)) => {
            let offset = usize::try_from(wanted.offset).unwrap_or(usize::MAX).min(done.output.len());
            let offset = done.output.ceil_char_boundary(offset);
            Ok(text(offset as u64, Body::from(done.output[offset..].to_owned())))
        }
        Some(RunRow::Open(_)) if unreachable.is_some() => {
            let mut answer = text(0, Body::empty());
            answer.headers_mut().insert(PARTIAL, HeaderValue::from_static("true"));
            Ok(answer)
        }
        Some(RunRow::Open(_)) => {
            let detail = format!("{run} is not running on this node");
            Err(Problem::new(Kind::NotHere, detail).of(run).try_command(format!("fencron logs {run}")))
        }
        None => Err(Problem::no_such_run(run)),
    }
}

fn live(follow: Follow) -> Body {
    Body::from_stream(stream::unfold(follow, |mut follow| async move {
        let heard = follow.next().await?;
        Some((Ok::<_, Infallible>(heard.to_string()), follow))
    }))
}

/// What is kept of what an attempt has written, and the byte that it begins with.
fn so_far(mut follow: Follow) -> (u64, String) {
    let (mut offset, mut text) = (follow.offset(), String::new());
    // At most what is kept of a run, and what it writes while this looks.
    while let Some(Some(heard)) = follow.next().now_or_never() {
        match heard {
            Heard::Text(piece) => {
                if text.is_empty() {
                    offset = follow.offset() - piece.len() as u64;
                }
                text.push_str(&piece);
            }
            Heard::Missed(_) if text.is_empty() => offset = follow.offset(),
            missed @ Heard::Missed(_) => text.push_str(&missed.to_string()),
        }
        if text.len() > 4 * FOLLOW_KEPT {
            break;
        }
    }
    (offset, text)
}

fn text(offset: u64, body: Body) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8")),
        (OFFSET, HeaderValue::from(offset)),
    ];
    (headers, body).into_response()
}

/// An event with a text. A carriage return, which no event can carry, is sent as the sequence that means the same to a
/// terminal.
pub(super) fn event(text: &str) -> Event {
    Event::default().data(text.replace("\r\n", "\n").replace('\r', "\u{1b}[G"))
}
