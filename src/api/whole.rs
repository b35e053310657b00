//! Whole outputs of runs: the files that nodes keep, in parts, here or through the node that has them.
//!
//! Offsets count the bytes of the file.

use std::io;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;

use super::output::{OFFSET, Wanted};
use super::problem::{Kind, Problem};
use super::relay::{self, RELAYED};
use super::{Api, in_time};
use crate::execute::Place;
use crate::job::RunId;
use crate::store::Store;

/// How many bytes the file has.
pub(super) const SIZE: HeaderName = HeaderName::from_static("fencron-size");

/// How much is read at once.
const PIECE: usize = 64 * 1024;

/// Where the whole output of this attempt would be on this node; `None`: its job keeps none.
fn place<S: Store>(api: &Api<S>, run: &RunId, attempt: u32) -> Option<Place> {
    let board = api.board.read();
    let whole = board.definition(&run.job())?.output.as_ref()?;
    Some(Place::of(whole, api.ledger.namespace().as_str(), run, attempt))
}

/// Answers with what is in the file of an attempt, as bytes.
pub(super) async fn whole<S: Store>(
    api: &Api<S>,
    run: &RunId,
    wanted: &Wanted,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let row = in_time(api.ledger.run(run)).await?.ok_or_else(|| Problem::no_such_run(run))?;
    let (claimant, last) = row.last_attempt();
    let attempt = wanted.attempt.unwrap_or(last);
    let unreadable = |error: io::Error| {
        let detail = format!("the whole output of the attempt {attempt} of {run} cannot be read: {error}");
        Problem::new(Kind::NoSuchOutput, detail).of(run)
    };
    if let Some(place) = place(api, run, attempt)
        && let Some(found) = place.read_soon(wanted.offset, PIECE).await.map_err(unreadable)?
    {
        return Ok(answer(place, wanted, found));
    }
    let mut why = "this node has no file of it".to_owned();
    if let Some(claimant) = claimant.filter(|_| !headers.contains_key(RELAYED)) {
        let query = wanted.of_whole(attempt);
        let question = relay::Question { query, headers, by_name: true };
        match relay::ask(api, run, claimant, &question).await {
            Ok(answer) => return Ok(answer),
            Err(not) => why = not,
        }
    }
    let detail = format!(
        "the whole output of the attempt {attempt} of {run} is not to be had: {why}. Its job keeps none (`output.dir`), it \
         was deleted (`output.keep`), or it is on another node"
    );
    Err(Problem::new(Kind::NoSuchOutput, detail).of(run).try_command(format!("fencron logs {run}")))
}

/// The file from the first piece on, a piece at a time, as far as it goes now or the limit says.
fn answer(place: Place, wanted: &Wanted, (first, size): (Vec<u8>, u64)) -> Response {
    let end = wanted.limit.map_or(size, |limit| wanted.offset.saturating_add(limit).min(size));
    let pieces = stream::unfold((place, wanted.offset, Some(first)), move |(place, offset, read_first)| async move {
        let most = usize::try_from(end.saturating_sub(offset)).unwrap_or(usize::MAX).min(PIECE);
        if most == 0 {
            return None;
        }
        let next = match read_first {
            Some(first) => Ok(Some(first)),
            None => place.read_soon(offset, most).await.map(|read| read.map(|(bytes, _)| bytes)),
        };
        let (piece, length) = match next {
            Ok(Some(mut bytes)) if !bytes.is_empty() => {
                bytes.truncate(most);
                let length = bytes.len() as u64;
                (Ok(Bytes::from(bytes)), length)
            }
            // It was deleted or cut amid the answer: a client sees that the answer broke off.
            Ok(_) => (Err(io::Error::other("the file is gone")), end),
            Err(error) => (Err(error), end),
        };
        Some((piece, (place, offset.saturating_add(length), None)))
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8")),
        (OFFSET, HeaderValue::from(wanted.offset.min(size))),
        (SIZE, HeaderValue::from(size)),
        (header::CONTENT_LENGTH, HeaderValue::from(end.saturating_sub(wanted.offset))),
    ];
    (headers, Body::from_stream(pieces)).into_response()
}
