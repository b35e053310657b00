//! The output of a run as a stream of server-sent events, over all its attempts, to its verdict.
//!
//! | event | data |
//! | --- | --- |
//! | `message` | what was written; the id of the event is `ATTEMPT.OFFSET` behind it |
//! | `attempt` | another attempt has begun: its number |
//! | `gap` | something is missing here: what, for a person |
//! | `partial` | the node that runs it cannot be asked: why, for a person; what is kept comes when the run has ended |
//! | `end` | the run has ended: the run, as `/api/v1/runs/{run}` has it, without its output |

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::http::HeaderValue;
use axum::response::sse::Event;
use futures_util::{Stream, stream};

use super::output::event;
use super::problem::Problem;
use super::view::RunView;
use super::{Api, in_time};
use crate::execute::{Follow, Heard};
use crate::job::RunId;
use crate::ledger::RunRow;
use crate::scheduler::run::Done;
use crate::store::Store;

/// How often a run that writes nowhere is looked at: it waits, or its verdict is being written.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// When a client that was cut off comes back.
const BACK_AFTER: Duration = Duration::from_secs(1);

/// From where on a run is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    /// From this byte of the attempt that runs.
    Offset(u64),
    /// From where the client was cut off.
    Cut { attempt: u32, offset: u64 },
}

impl From {
    /// The id of the last event that the client has had decides; otherwise the offset that it asks for.
    pub fn of(last: Option<&HeaderValue>, offset: u64) -> Result<From, Problem> {
        let Some(last) = last else { return Ok(From::Offset(offset)) };
        let parse = || {
            let (attempt, offset) = last.to_str().ok()?.split_once('.')?;
            Some(From::Cut { attempt: attempt.parse().ok()?, offset: offset.parse().ok()? })
        };
        parse().ok_or_else(|| Problem::parameter("Last-Event-ID", "is none of this stream: leave it out"))
    }
}

/// Where a stream stands.
struct Following<S> {
    api: Api<S>,
    run: RunId,
    from: From,
    follow: Option<Follow>,
    /// The attempt whose output was shown to its end.
    shown: Option<u32>,
    ready: VecDeque<Event>,
    ended: bool,
}

/// The events of a run. `unreachable`: why the node that runs it cannot be asked.
pub(super) fn events<S: Store>(
    api: Api<S>,
    run: RunId,
    from: From,
    unreachable: Option<String>,
) -> impl Stream<Item = Result<Event, Infallible>> {
    let mut ready = VecDeque::from([Event::default().retry(BACK_AFTER)]);
    ready.extend(unreachable.map(|why| event(&why).event("partial")));
    let following = Following { api, run, from, follow: None, shown: None, ready, ended: false };
    stream::unfold(following, |mut following| async move {
        let event = following.next().await?;
        Some((Ok(event), following))
    })
}

impl<S: Store> Following<S> {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.ended {
                return None;
            }
            let Some(follow) = &mut self.follow else {
                if !self.begin() {
                    self.look().await;
                }
                continue;
            };
            match follow.next().await {
                Some(heard) => self.heard(&heard),
                None => self.follow = None,
            }
        }
    }

    fn heard(&mut self, heard: &Heard) {
        let Some(follow) = &self.follow else { return };
        let id = format!("{}.{}", follow.attempt(), follow.offset());
        self.ready.push_back(match heard {
            Heard::Text(text) => event(text).id(id),
            Heard::Missed(bytes) => event(&format!("{bytes} bytes not shown")).event("gap").id(id),
        });
    }

    /// Begins to follow the attempt that runs here, where it is another one than was shown.
    fn begin(&mut self) -> bool {
        let Some(follow) = self.api.outputs.follow(&self.run) else { return false };
        let attempt = follow.attempt();
        if self.shown == Some(attempt) {
            return false;
        }
        let is_first = self.shown.is_none();
        if let Some(before) = self.shown.replace(attempt)
            && attempt > before.saturating_add(1)
        {
            let gone = "attempts between were over before they could be followed";
            self.ready.push_back(event(gone).event("gap"));
        }
        let offset = match self.from {
            From::Offset(offset) if is_first => offset,
            From::Cut { attempt: before, offset } if before == attempt => offset,
            From::Offset(_) | From::Cut { .. } => {
                self.ready.push_back(event(&attempt.to_string()).event("attempt"));
                0
            }
        };
        self.follow = Some(follow.skip_to(offset));
        true
    }

    /// Looks what has become of a run that writes nothing here.
    async fn look(&mut self) {
        if self.api.board.read().open_run(&self.run).is_none() {
            match in_time(self.api.ledger.run_and_version(&self.run)).await {
                Ok(Some((RunRow::Done(done), _))) => return self.end(done),
                Ok(Some((RunRow::Open(_), _))) | Err(_) => {}
                Ok(None) => {
                    self.ready.push_back(event(&format!("there is no run {}", self.run)).event("gap"));
                    self.ended = true;
                    return;
                }
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }

    fn end(&mut self, done: Done) {
        self.ended = true;
        if self.shown != Some(done.attempt) {
            self.ready.extend(kept(&done, self.from));
        }
        let view = RunView { output: String::new(), ..RunView::from(done) };
        let verdict = serde_json::to_string(&view).expect("runs have only text keys");
        self.ready.push_back(event(&verdict).event("end"));
    }
}

/// What was kept of a run that has ended before it was followed.
fn kept(done: &Done, from: From) -> Vec<Event> {
    let offset = match from {
        From::Offset(offset) => usize::try_from(offset).unwrap_or(usize::MAX).min(done.output.len()),
        From::Cut { .. } => 0,
    };
    let text = &done.output[done.output.ceil_char_boundary(offset)..];
    let mut events = Vec::new();
    if matches!(from, From::Cut { .. }) {
        // What is kept is not counted as it was written.
        events.push(event("it went on and ended meanwhile: this is what is kept of its output").event("gap"));
    }
    if !text.is_empty() {
        events.push(event(text).id(format!("{}.{}", done.attempt, done.output.len())));
    }
    events
}
