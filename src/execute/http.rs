//! Requests: each attempt sends one, stamped, and judges its end.
//!
//! - An attempt makes a connection of its own, and asks whether it may still act when that stands, right before the
//!   request goes out. So what did not pass the gate was not sent, for certain, and a connection that the other end
//!   has given up meanwhile is never sent on.
//! - What was sent and not answered is in doubt, unless its method bears repetition.
//! - The whole attempt, the body of the answer included, has the job's `timeout`.

mod answer;
mod client;
mod trouble;

use std::fmt;
use std::sync::Mutex;

use reqwest::Response;
use url::Url;

pub(crate) use self::answer::retry_after;
pub(super) use self::client::Roots;
use self::client::build;
pub(crate) use self::client::{certificates, even_without_authorities};
use super::output::OutputSink;
use super::room::Tries;
use super::{Attempt, Gate};
use crate::job::{Again, Http, Job, Outcome};
use crate::time::written;

/// Makes the request.
pub(super) async fn run(attempt: Attempt<'_>, http: &Http, roots: &Roots, output: &mut OutputSink) -> Outcome {
    let Attempt { job, stamp, gate } = attempt;
    // Why the system made no connection for it at the last try.
    let no_room = Mutex::new(None);
    let mut interrupted = std::pin::pin!(gate.interrupted(job.timeout));
    let answer = tokio::select! {
        biased;
        answer = send(attempt, http, roots, &no_room) => answer,
        why = &mut interrupted => Err(before_answer(why, job, http, gate, no_room.lock().ok().and_then(|why| why.clone()))),
    };
    let answer = match answer {
        Err(outcome) => return outcome,
        Ok(answer) => answer,
    };
    let is_last = stamp.attempt >= job.retry.attempts;
    let meant = answer::meaning(http, (stamp.fence, is_last), &answer, gate.clock().wall());
    let end = tokio::select! {
        biased;
        end = answer::keep(answer, output) => end.map_err(|why| unanswered(http, &why)),
        why = &mut interrupted => Err(before_answer(why, job, http, gate, None)),
    };
    match (meant, end) {
        // What says that it was done counts when all of it has come.
        (Outcome::Done, Err(outcome)) => outcome,
        (meant, _) => meant,
    }
}

/// Sends the request, if need be once there is room for its connection, and waits for the head of its answer.
async fn send(
    attempt: Attempt<'_>,
    http: &Http,
    roots: &Roots,
    no_room: &Mutex<Option<String>>,
) -> Result<Response, Outcome> {
    let Attempt { job, stamp, gate } = attempt;
    let never = |why: String| Outcome::Failed { why: format!("{}: {why}", Target(http)), again: Again::Never };
    let mut tries = Tries::new(job.name.as_str(), job.timeout, gate);
    loop {
        let client = build(http, roots, gate.clone()).await.map_err(never)?;
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
        if gate.began_at().is_some() && !trouble::is_refusal_of_handshake(&error) {
            return Err(unanswered(http, &why));
        }
        if gate.began_at().is_some() || !trouble::is_lack_of_room(&error) {
            return Err(unsent(http, &why));
        }
        if let Ok(mut last) = no_room.lock() {
            *last = Some(why.clone());
        }
        tries.pause(&why).await.map_err(|over| match over {
            Outcome::NotStarted(why) => unsent(http, &why),
            stopped => stopped,
        })?;
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
fn before_answer(why: Outcome, job: &Job, http: &Http, gate: &Gate, no_room: Option<String>) -> Outcome {
    if why != Outcome::TimedOut {
        return why;
    }
    let sent = gate.began_at().is_some();
    let limit = written(job.timeout.unwrap_or_default());
    if let Some(why) = no_room.filter(|_| !sent) {
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
