//! Requests: sent once an attempt, stamped, and what their ends mean.
//!
//! - An attempt makes a connection of its own, and asks whether it may still act when that stands, right before the
//!   request goes out: see [`Gate`]. So what did not pass the gate was not sent, for certain, and a connection that the
//!   other end has given up meanwhile is never sent on.
//! - What was sent and not answered is in doubt, unless its method bears repetition.
//! - The whole attempt, the body of the answer included, has the job's `timeout`.

mod answer;
mod client;
mod trouble;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use reqwest::Response;
use url::Url;

pub(super) use self::client::Roots;
use self::client::build;
use super::command::elapsed;
use super::output::OutputSink;
use super::room::Tries;
use super::{MayStart, Started, Stop};
use crate::fence::Stamp;
use crate::job::{Again, Http, Job, Outcome, StopReason};
use crate::time::{Clock, Wall, written};

/// What a request is made with.
pub(super) struct Run<'a> {
    pub job: &'a Job,
    pub http: &'a Http,
    pub stamp: &'a Stamp,
    pub stop: Stop,
    pub may_start: MayStart,
    pub started: Started,
    pub clock: &'a Clock,
}

/// Makes the request. Returns how it ended and when it was sent.
pub(super) async fn run(run: Run<'_>, roots: &Roots, output: &mut OutputSink) -> (Outcome, Option<Wall>) {
    let Run { job, http, stamp, mut stop, may_start, started, clock } = run;
    let gate = Arc::new(Gate {
        stop: stop.clone(),
        may_start,
        clock: clock.clone(),
        state: Mutex::new(GateState { started: Some(started), sent_at: None, refused: None, no_room: None }),
    });
    let outcome = {
        let mut cut = std::pin::pin!(async {
            tokio::select! {
                biased;
                reason = stop.requested() => Cut::Stopped(reason),
                () = elapsed(job.timeout) => Cut::TimedOut,
            }
        });
        let answer = tokio::select! {
            biased;
            answer = send((job, http), stamp, roots, &gate) => answer,
            cut = &mut cut => Err(before_answer(cut, job, http, &gate)),
        };
        match answer {
            Err(outcome) => outcome,
            Ok(answer) => {
                let meant =
                    answer::meaning(http, (stamp.fence, stamp.attempt >= job.retry.attempts), &answer, clock.wall());
                let end = tokio::select! {
                    biased;
                    end = answer::keep(answer, output) => end,
                    cut = &mut cut => Err(cut),
                };
                match (meant, end) {
                    // What says that it was done counts when all of it has come.
                    (Outcome::Done, Err(Cut::Broken(why))) => unanswered(http, &why),
                    (Outcome::Done, Err(cut)) => before_answer(cut, job, http, &gate),
                    (meant, _) => meant,
                }
            }
        }
    };
    (outcome, gate.sent_at())
}

/// Why an answer did not come to its end.
enum Cut {
    Stopped(StopReason),
    TimedOut,
    Broken(String),
}

/// Sends the request, if need be once there is room for its connection, and waits for the head of its answer.
async fn send((job, http): (&Job, &Http), stamp: &Stamp, roots: &Roots, gate: &Arc<Gate>) -> Result<Response, Outcome> {
    let never = |why: String| Outcome::Failed { why: format!("{}: {why}", Target(http)), again: Again::Never };
    let mut tries = Tries::new(&job.name, job.timeout, &gate.clock);
    loop {
        let client = build(http, roots, Arc::clone(gate)).await.map_err(never)?;
        let request = client::request(&client, http, stamp).map_err(never)?;
        let error = match client.execute(request).await {
            Ok(answer) => {
                tries.end();
                return Ok(answer);
            }
            Err(error) => error,
        };
        let why = trouble::in_words(&error, http.url.is_secret());
        if let Some(reason) = gate.refused() {
            return Err(Outcome::Stopped(reason));
        }
        if gate.sent_at().is_some() && !trouble::is_refusal_of_handshake(&error) {
            return Err(unanswered(http, &why));
        }
        if gate.sent_at().is_some() || !trouble::is_lack_of_room(&error) {
            return Err(unsent(http, &why));
        }
        gate.state().no_room = Some(why.clone());
        tries.pause(&why).await.map_err(|why| unsent(http, &why))?;
    }
}

/// Nothing of it was sent.
fn unsent(http: &Http, why: &str) -> Outcome {
    let again = if http.may_repeat_unsent() { Again::AsConfigured } else { Again::Never };
    Outcome::Failed { why: format!("{} was not sent: {why}", Target(http)), again }
}

/// It was sent, and no whole answer came.
fn unanswered(http: &Http, why: &str) -> Outcome {
    let target = Target(http);
    if !http.is_idempotent() {
        return Outcome::InDoubt(format!(
            "{target} was sent, and its answer did not come, or not to its end ({why}): only the receiver knows whether \
             it was done"
        ));
    }
    let again = if http.may_repeat_unanswered() { Again::AsConfigured } else { Again::Never };
    Outcome::Failed { why: format!("{target}: the answer did not come, or not to its end: {why}"), again }
}

/// It was ended by us, before its answer had come.
fn before_answer(cut: Cut, job: &Job, http: &Http, gate: &Gate) -> Outcome {
    let sent = gate.sent_at().is_some();
    match cut {
        Cut::Stopped(reason) => Outcome::Stopped(reason),
        Cut::Broken(why) => unanswered(http, &why),
        Cut::TimedOut => {
            let limit = written(job.timeout.unwrap_or_default());
            if let Some(why) = gate.state().no_room.take().filter(|_| !sent) {
                return unsent(http, &format!("{why} (tried again for {limit}; nothing of it was begun)"));
            }
            let may_repeat = if sent { http.may_repeat_unanswered() } else { http.may_repeat_unsent() };
            match (sent && !http.is_idempotent(), may_repeat) {
                (true, _) => unanswered(http, &format!("the timeout of {limit} has passed")),
                (false, true) => Outcome::TimedOut,
                (false, false) => {
                    let why = format!("{}: the timeout of {limit} has passed", Target(http));
                    Outcome::Failed { why, again: Again::Never }
                }
            }
        }
    }
}

/// A request as messages may name it: without what came from outside of the file, a password, or what a query holds.
struct Target<'a>(&'a Http);

impl fmt::Display for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Target(Http { method, url, .. }) = self;
        match Url::parse(url.expose()) {
            Ok(parsed) if !url.is_secret() => {
                write!(f, "{method} {}{}", parsed.origin().ascii_serialization(), parsed.path())
            }
            _ => write!(f, "{method} {url}"),
        }
    }
}

/// Asked when the connection stands, before anything of the request goes out on it. An attempt that follows redirects
/// passes it for each of its requests.
pub(super) struct Gate {
    stop: Stop,
    may_start: MayStart,
    clock: Clock,
    state: Mutex<GateState>,
}

struct GateState {
    started: Option<Started>,
    sent_at: Option<Wall>,
    refused: Option<StopReason>,
    /// Why the system made no connection for it at the last try.
    no_room: Option<String>,
}

/// The gate did not let a request pass.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.as_str())]
struct Refused(StopReason);

impl Gate {
    fn pass(&self) -> Result<(), Refused> {
        let asked = self.stop.asked();
        let refused = asked.or_else(|| (!self.may_start.now()).then_some(StopReason::LostLeadership));
        let mut state = self.state();
        if let Some(reason) = refused {
            state.refused = Some(reason);
            return Err(Refused(reason));
        }
        let now = self.clock.wall();
        state.sent_at.get_or_insert(now);
        if let Some(started) = state.started.take() {
            started.at(now);
        }
        Ok(())
    }

    fn sent_at(&self) -> Option<Wall> {
        self.state().sent_at
    }

    fn refused(&self) -> Option<StopReason> {
        self.state().refused
    }

    fn state(&self) -> MutexGuard<'_, GateState> {
        // Nothing between lock and unlock can panic half way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
