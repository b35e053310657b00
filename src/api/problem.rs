//! Why a request was not answered as it was meant: problem details as RFC 9457 has them.
//!
//! There is one list of kinds, [`Kind`]. Each has a page, `/problems/NAME`, to which the member `type` of an answer
//! leads.

use std::fmt::Display;
use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::job::{JobName, NotAName, NotARun, RunId};
use crate::page::{Looker, plain, shown, spoken, up};
use crate::store::StoreError;

/// The media type of a problem.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// When a client may try again what the store did not answer.
const STORE_AGAIN: Duration = Duration::from_secs(1);

/// Declares the kinds, one row each: name in URLs, status, title, and what its page says.
macro_rules! kinds {
    ($($kind:ident $name:literal $status:ident $title:literal $about:literal)*) => {
        /// What kind of problem it is. Clients distinguish problems by this, so kinds are added and never renamed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Kind {
            $(#[doc = $title] $kind,)*
        }

        impl Kind {
            /// All kinds, in the order of the documentation.
            pub const ALL: &[Kind] = &[$(Kind::$kind),*];

            fn described(self) -> Described {
                let (name, status, title, about) = match self {
                    $(Kind::$kind => ($name, StatusCode::$status, $title, $about),)*
                };
                Described { name, status, title, about }
            }
        }
    };
}

/// What there is to say of a kind: its name in URLs, the status of its answers, its title, and its page.
struct Described {
    name: &'static str,
    status: StatusCode,
    title: &'static str,
    about: &'static str,
}

kinds! {
    BadParameter "bad-parameter" BAD_REQUEST "A parameter has a wrong value"
    "The detail names the parameter and what it may be. /api/v1/openapi.json describes all parameters."

    UnknownParameter "unknown-parameter" BAD_REQUEST "There is no such parameter"
    "A parameter that is not known is refused and not passed over, since a misspelt filter would otherwise \
     answer with everything. The detail names the parameters that there are."

    NoSuchPage "no-such-page" NOT_FOUND "There is nothing at this address"
    "/api/v1/openapi.json lists the addresses of the API."

    NoSuchRun "no-such-run" NOT_FOUND "There is no such run"
    "The ledger does not know the run: it was never claimed, or it was pruned with the history of its job. \
     `fencron runs` lists the runs that there are."

    NoSuchJob "no-such-job" NOT_FOUND "There is no such job"
    "Neither the jobs file of this node nor the ledger knows the job. `fencron jobs` lists the jobs that \
     there are."

    Unauthenticated "unauthenticated" UNAUTHORIZED "The caller is not known"
    "Send a token as `Authorization: Bearer TOKEN`. `fencron token new` makes one; the file that --auth names lists \
     the tokens that a node takes. A browser logs in at /login."

    RoleTooLow "role-too-low" FORBIDDEN "The role of the caller does not suffice"
    "The roles, from the lowest: metrics, viewer, reader (may also read what runs write), operator, admin. The detail \
     says which one it takes. Roles stand in the file that --auth names."

    OtherJobs "other-jobs" FORBIDDEN "The caller is narrowed to some jobs"
    "The address answers about all jobs, and the token of the caller only covers those that `jobs` in the file of \
     --auth names."

    NotProtected "not-protected" FORBIDDEN "This node answers other machines about its health only"
    "The node was started without --auth. Without rules of who may look, only callers on the machine itself may read. \
     `fencron token new` makes a token, and prints what belongs in the file for --auth. --insecure-read lets everyone \
     who reaches the listener read everything."

    LoginNeedsTls "login-needs-tls" FORBIDDEN "A login takes TLS"
    "Without TLS, a token in a form could be read on the way. Start the node with --tls-cert and --tls-key. From the \
     machine itself a login works without TLS."

    ForeignOrigin "foreign-origin" FORBIDDEN "The request comes from a page of another site"
    "What changes something is taken from pages of the node itself, and from clients that send a token."

    WrongHost "wrong-host" MISDIRECTED_REQUEST "The node does not have this name"
    "A browser can be made to call a node by a name of an attacker, whose pages could then read what the node answers. \
     So a node answers only to addresses, to localhost, to names below .localhost and .local, to the name in \
     --advertise, and to each --allowed-host. A client with a token may use any name."

    TooManyTries "too-many-tries" TOO_MANY_REQUESTS "Too many logins have failed"
    "Wait for the time in Retry-After. A token is pasted whole, from `fct_` on."

    TooManyStreams "too-many-streams" SERVICE_UNAVAILABLE "Too many answers go on already"
    "A node bounds how many clients follow outputs at once. Ask again after the time in Retry-After, ask another node, \
     or read without following."

    NotHere "not-here" CONFLICT "The run is not running on this node"
    "What a run writes is on the node that runs it until the run ends; then every node has the end of it. \
     `fencron logs` finds the node."

    NoSuchOutput "no-such-output" NOT_FOUND "The whole output of the run is not here"
    "All that a run wrote is in a file where `output.dir` of its job says so, on the node that made the attempt, until it \
     is deleted as `output.keep` says. The detail says what was found. The end of what it wrote is had without `whole`."

    NoSuchBackfill "no-such-backfill" NOT_FOUND "There is no such backfill"
    "It was never asked for, or it is kept no longer: the last 200 of 90 days are. /api/v1/backfills lists them."

    NoSuchNode "no-such-node" NOT_FOUND "There is no such node"
    "A node is drained while it is there. /api/v1/nodes lists those that are."

    NoSuchMigration "no-such-migration" NOT_FOUND "No such migration was begun"
    "/api/v1/migrations lists those that were. `fencron migrate resolve` records one that was never begun as done."

    Ended "ended" CONFLICT "The run has ended already"
    "There is nothing left to cancel. `verdict` says how it ended."

    NotInDoubt "not-in-doubt" CONFLICT "The run is not in doubt"
    "Only a run that ended as `unknown` can be resolved. `verdict` says how it ended."

    NotNow "not-now" CONFLICT "It cannot be done as things are"
    "The detail says what is in the way."

    Changed "changed" PRECONDITION_FAILED "It was changed meanwhile"
    "Another person or process changed it between the look and the act, so that nothing was done. Look at it again."

    KeyReused "key-reused" UNPROCESSABLE_ENTITY "The key belongs to another request"
    "Another request of this caller had the same Idempotency-Key and asked for something else. Give each request a key of \
     its own, and send only the same request again with the same key."

    OutcomeUnknown "outcome-unknown" GATEWAY_TIMEOUT "It is unknown whether it was done"
    "The store did not answer in time, and may have done it or may yet do it. Send the same request again with the same \
     Idempotency-Key: it is done at most once."

    StoreRefuses "store-refuses" SERVICE_UNAVAILABLE "The store takes no writes"
    "The store refused the write, and nothing was done. The detail says why: it may be full."

    TooManyActs "too-many-acts" TOO_MANY_REQUESTS "The caller acts too often"
    "A caller may ask for 20 acts a second. /api/v1/bulk does the same to up to 500 jobs or runs in one request."

    TooLarge "too-large" PAYLOAD_TOO_LARGE "The body is too large"
    "A body has at most 1 MiB."

    NotJson "not-json" UNSUPPORTED_MEDIA_TYPE "The body is not JSON"
    "Send it as `Content-Type: application/json`."

    MethodNotAllowed "method-not-allowed" METHOD_NOT_ALLOWED "This address does not take this method"
    "The header Allow of the answer lists the methods that the address takes."

    NotAcceptable "not-acceptable" NOT_ACCEPTABLE "There is no answer of an accepted media type"
    "The detail lists the media types that the address has. Leave the header Accept out, or name one of them."

    StoreAway "store-away" SERVICE_UNAVAILABLE "The store does not answer"
    "The node is well and could not reach its store in time. Try again after the time in Retry-After. \
     /readyz says what the node knows of it."

    Hangs "hangs" SERVICE_UNAVAILABLE "The node hangs"
    "The loop of the node does not turn. Restart the node, and report it with its log."

    TooManyConnections "too-many-connections" SERVICE_UNAVAILABLE "There are too many connections"
    "The listener answers only /healthz and /readyz until some of its connections have ended."
}

impl Kind {
    /// The kind whose page is `/problems/NAME`.
    pub fn named(name: &str) -> Option<Kind> {
        Kind::ALL.iter().copied().find(|kind| kind.name() == name)
    }

    /// Whether the caller was refused for who that is, or where the request comes from.
    pub fn is_denial(self) -> bool {
        matches!(
            self,
            Kind::Unauthenticated
                | Kind::RoleTooLow
                | Kind::OtherJobs
                | Kind::NotProtected
                | Kind::LoginNeedsTls
                | Kind::ForeignOrigin
                | Kind::WrongHost
                | Kind::TooManyTries
        )
    }

    /// The last part of its `type`.
    pub fn name(self) -> &'static str {
        self.described().name
    }

    /// The status of the answer.
    pub fn status(self) -> StatusCode {
        self.described().status
    }

    /// What it is, in a few words.
    pub fn title(self) -> &'static str {
        self.described().title
    }

    /// What it means and what to do, for its page.
    pub fn about(self) -> &'static str {
        self.described().about
    }
}

/// A problem, as the answer to one request. [`IntoResponse`] makes the answer; the problem itself is an extension of it.
#[derive(Clone, Debug)]
pub struct Problem {
    pub kind: Kind,
    /// What happened, to what, and what to do.
    pub detail: String,
    /// The run that it is about.
    pub run: Option<RunId>,
    /// The command that helps.
    pub command: Option<String>,
    /// When it makes sense to try again.
    pub retry_after: Option<Duration>,
    more: Map<String, Value>,
}

/// The body of a problem.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Problem")]
pub(super) struct Body<'a> {
    /// The kind of the problem: `/problems/NAME`, which is also the address of its page.
    r#type: String,
    /// What it is, in a few words.
    title: &'static str,
    /// The status of the answer.
    status: u16,
    /// What happened, to what, and what to do.
    detail: &'a str,
    /// The same as `detail`, for clients of before there were kinds.
    message: &'a str,
    /// The run that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    run: Option<&'a RunId>,
    /// The command that helps.
    #[serde(skip_serializing_if = "Option::is_none")]
    r#try: Option<&'a str>,
    #[serde(flatten)]
    more: &'a Map<String, Value>,
}

impl Problem {
    /// A problem of this kind; `detail` says what happened, to what, and what to do.
    pub fn new(kind: Kind, detail: impl Display) -> Problem {
        let more = Map::new();
        Problem { kind, detail: detail.to_string(), run: None, command: None, retry_after: None, more }
    }

    /// A parameter of this name has a wrong value: `why` says what it may be.
    pub fn parameter(name: &str, why: impl Display) -> Problem {
        Problem::new(Kind::BadParameter, format!("{name}: {why}"))
    }

    /// The run that it is about.
    #[must_use]
    pub fn of(mut self, run: &RunId) -> Problem {
        self.run = Some(run.clone());
        self
    }

    /// The command that helps.
    #[must_use]
    pub fn try_command(mut self, command: impl Into<String>) -> Problem {
        self.command = Some(command.into());
        self
    }

    /// A further member of the answer.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Serialize) -> Problem {
        self.more.insert(name.to_owned(), serde_json::to_value(value).expect("what is answered has only text keys"));
        self
    }

    /// When it makes sense to try again.
    #[must_use]
    pub fn again_after(mut self, after: Duration) -> Problem {
        self.retry_after = Some(after);
        self
    }

    /// Why the store could not be read.
    pub fn store_away(why: impl Display) -> Problem {
        Problem::new(Kind::StoreAway, why).again_after(STORE_AGAIN)
    }

    /// There is no such run, or none that the caller may know of.
    pub fn no_such_run(run: &RunId) -> Problem {
        Problem::new(Kind::NoSuchRun, format!("there is no run {run}")).of(run).try_command("fencron runs")
    }

    /// There is no such job, or none that the caller may know of.
    pub fn no_such_job(job: &JobName) -> Problem {
        Problem::new(Kind::NoSuchJob, format!("there is no job {job}")).try_command("fencron jobs")
    }

    /// As a page, for a person.
    pub(super) fn page(&self, looker: &Looker) -> Markup {
        let up = up(&looker.path);
        let body = html! {
            h1 { (self.kind.title()) }
            p.notice.warn { (spoken(&self.detail)) }
            @if let Some(command) = self.command.as_deref() { p { "Try " code { (shown(command)) } } }
            p { (self.kind.about()) }
            p.muted {
                "Status " (self.kind.status().as_u16()) ", "
                a href={ (up) "problems/" (self.kind.name()) } { (self.kind.name()) }
            }
            p {
                @if self.kind == Kind::Unauthenticated { a href={ (up) "login" } { "Log in" } " · " }
                a href=(up) { "Now" } " · " a href={ (up) "jobs" } { "Jobs" }
            }
        };
        plain(looker, self.kind.title(), &body)
    }

    fn body(&self) -> Body<'_> {
        Body {
            r#type: format!("/problems/{}", self.kind.name()),
            title: self.kind.title(),
            status: self.kind.status().as_u16(),
            detail: &self.detail,
            message: &self.detail,
            run: self.run.as_ref(),
            r#try: self.command.as_deref(),
            more: &self.more,
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Problem {
        Problem::store_away(error)
    }
}

impl From<NotARun> for Problem {
    fn from(error: NotARun) -> Problem {
        Problem::parameter("run", error)
    }
}

impl From<NotAName> for Problem {
    fn from(error: NotAName) -> Problem {
        Problem::parameter("job", error)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut answer = super::json(self.kind.status(), &self.body());
        answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        if self.kind == Kind::Unauthenticated {
            answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"fencron\""));
        }
        if let Some(after) = self.retry_after {
            answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
        }
        answer.extensions_mut().insert(self);
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_kind_has_a_page_and_a_name_of_its_own() {
        let names: BTreeSet<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(names.len(), Kind::ALL.len());
        for kind in Kind::ALL {
            assert_eq!(Kind::named(kind.name()), Some(*kind));
            assert!(kind.status().is_client_error() || kind.status().is_server_error(), "{kind:?}");
            assert!(kind.about().ends_with('.') && !kind.title().ends_with('.'), "{kind:?}");
        }
    }
}
