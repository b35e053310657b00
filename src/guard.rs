//! The guard at the target: it turns away the effects of a leader that has been replaced, and repeated effects.
//!
//! A fence protects only where it is checked. The target of a lock holder's effects checks it by one of four forms of
//! the same rules, which `docs/guard.md` describes for readers of any language:
//!
//! - [`layer::GuardLayer`]: around a [`tower`] service, in the service's own process;
//! - `fencron guard proxy`: in front of any HTTP service, which need not be changed;
//! - `fencron guard exec`: around a command;
//! - [`sql`]: inside a transaction of the database that is written to.
//!
//! The first three ask a [`Guard`], whose state is in memory, in a SQLite file, or in PostgreSQL. They
//! decide by `decide`, which is pure; a state finds what is known, and records what was decided, in one transaction. In a
//! database, [`sql`] has the same rules as statements and in `FenceCheck`.
//!
//! An axum service whose leaders cannot write after they were replaced, and whose orders are not placed twice:
//!
//! ```
//! use axum::{Router, routing::post};
//! use fencron::guard::{Guard, Options, StateUrl, layer::GuardLayer};
//! use fencron::time::Clock;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! # let state = format!("sqlite:{}/guard.db", directory.path().display());
//! let state: StateUrl = state.parse()?; // such as sqlite:/var/lib/shop/guard.db
//! let guard = Guard::open(&state, Options::default(), Clock::system()).await?;
//! let app = Router::new()
//!     .route("/orders", post(|body: String| async move { format!("ordered {body}\n") }))
//!     .layer(GuardLayer::new(guard));
//! # use {tower::ServiceExt as _, axum::body::Body, axum::http::Request};
//! # let order = |fence: u64| Request::post("/orders").header("fencing-scope", "shop/leader")
//! #     .header("fencing-token", fence).body(Body::from("tea")).unwrap();
//! # assert_eq!(app.clone().oneshot(order(7)).await?.status(), 200);
//! # assert_eq!(app.oneshot(order(6)).await?.status(), 412);
//! # Ok(()) }
//! ```

mod answer;
#[cfg(any(feature = "sqlite", feature = "sql"))]
pub mod care;
pub mod layer;
#[cfg(feature = "cli")]
pub mod proxy;
mod refusal;
pub mod sql;
mod state;

use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use uuid::Uuid;

pub use self::answer::Answer;
pub use self::refusal::Refusal;
use self::state::State;
pub use self::state::{NotAState, StateError, StateUrl};
use crate::fence::Fence;
use crate::time::Clock;

/// How far a fence may be above the greatest that its scope has seen, or above [`FENCES_BELOW`] where that is more. One
/// that is not a fence at all would shut the true leader out for good. A caller's own steps are far smaller: a leader's
/// fence is above the one before by as many changes as its store has taken meanwhile.
pub const FENCE_STEP_MOST: u64 = 1 << 40;

/// Where fences may begin: a repair makes them greater than the milliseconds of the wall clock, which come here in 2039.
pub const FENCES_BELOW: u64 = 1 << 41;

/// The greatest fence that is let in where `seen` is the greatest that was.
fn fence_most(seen: Option<Fence>) -> u64 {
    (seen.map_or(0, Fence::get).max(FENCES_BELOW) + FENCE_STEP_MOST).min(FENCE_MOST)
}

/// How long a scope and a key may be, in bytes.
pub const NAME_MOST: usize = 512;

/// How many scopes a state knows. A scope is never forgotten, for a stale fence would then be let in.
pub const SCOPES_MOST: u64 = 100_000;

/// The greatest fence: readers of JSON keep numbers exact up to it.
pub const FENCE_MOST: u64 = (1 << 53) - 1;

/// After how long a request that has to wait asks again, if it is not notified that another one has ended.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// How often the end of a request is reported to a state that does not answer, and how long the first pause is. Each
/// one is twice the one before.
const TELL_TRIES: u32 = 8;
const TELL_PAUSE: Duration = Duration::from_millis(100);

/// What a guard is to do, and its bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// What is guarded: fences and keys of two resources have nothing to do with each other, also in one state.
    pub resource: String,
    /// For how long an answer is replayed. After that the key is unknown again.
    pub keep: Duration,
    /// How many keys are kept. Beyond it new keys are turned away: none is forgotten early.
    pub keys_most: u64,
    /// How large all kept keys and answers are, in bytes. Beyond it new keys are turned away.
    pub bytes_most: u64,
    /// How large an answer may be to be kept, in bytes. Of a larger one it is kept that it was given, and its status.
    pub answer_most: usize,
    /// How large the body of a guarded request may be, in bytes: it is held in memory, to be compared.
    pub body_most: usize,
    /// How long the body of a guarded request may take to come, from its headers on.
    pub body_within: Duration,
    /// How many guarded requests are in flight at once.
    pub in_flight_most: usize,
    /// How long a request waits for those under older fences that are still in flight.
    pub wait: Duration,
    /// What to do with a repetition when it is unknown whether the first one took effect.
    pub in_doubt: InDoubt,
    /// Turn away what bears no fence, rather than pass it on unguarded.
    pub require_fence: bool,
    /// Headers that distinguish callers, beside those of [`layer::OF_THE_CALLER`], in lower case: a key of one caller
    /// is none for another.
    pub caller_headers: Vec<String>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            resource: String::new(),
            keep: Duration::from_secs(7 * 24 * 3600),
            keys_most: 1_000_000,
            bytes_most: 512 << 20,
            answer_most: 64 << 10,
            body_most: 1 << 20,
            body_within: Duration::from_secs(30),
            in_flight_most: 256,
            wait: Duration::from_secs(10),
            in_doubt: InDoubt::Refuse,
            require_fence: false,
            caller_headers: Vec::new(),
        }
    }
}

/// What is done with a repeated request when the guard that passed on the first one died before it had an answer, or
/// the answer was lost: it may or may not have been done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InDoubt {
    /// It is turned away.
    Refuse,
    /// It is done, perhaps for the second time.
    Repeat,
}

/// The digest that distinguishes payloads: a SHA-256 of their parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest {
    /// [`Digest::WITH_CALLER`], and the SHA-256.
    bytes: [u8; 33],
    with_caller: bool,
}

impl Digest {
    /// The digest of all parts, in their order. Where a part ends matters: `["ab", "c"]` is not `["a", "bc"]`.
    ///
    /// ```
    /// use fencron::guard::Digest;
    /// assert_ne!(Digest::of([&b"ab"[..], b"c"]), Digest::of([&b"a"[..], b"bc"]));
    /// ```
    pub fn of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Digest {
        let mut digest = Sha256::new();
        for part in parts {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        let mut bytes = [Digest::WITH_CALLER; 33];
        bytes[1..].copy_from_slice(&digest.finalize());
        Digest { bytes, with_caller: false }
    }

    /// The first byte of a digest that also covers the caller. Digests of requests had no such byte, and covered no
    /// caller, until that was added.
    const WITH_CALLER: u8 = 2;

    /// As [`Digest::of`], for parts that also name the caller.
    fn with_caller<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Digest {
        Digest { with_caller: true, ..Digest::of(parts) }
    }

    fn as_bytes(&self) -> &[u8] {
        if self.with_caller { &self.bytes } else { &self.bytes[1..] }
    }

    /// How what is asked now stands to what was asked under the same key.
    fn stands_to(&self, stored: &[u8]) -> Payload {
        if self.as_bytes() == stored {
            Payload::Same
        } else if self.with_caller && stored.len() < self.bytes.len() {
            Payload::Unknown
        } else {
            Payload::Other
        }
    }
}

/// What is asked under a key that was used before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Payload {
    Same,
    Other,
    /// The first caller of the key was not recorded: it may have been another one.
    Unknown,
}

/// What asks to be let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What the fence is comparable within.
    pub scope: String,
    pub fence: Fence,
    /// What is the same for every repetition: the occurrence.
    pub key: Option<String>,
    pub digest: Digest,
}

impl Request {
    /// A request, if its texts are within their bounds.
    ///
    /// # Errors
    ///
    /// [`Refusal::Malformed`] where one is empty or longer than [`NAME_MOST`], or the fence is greater than
    /// [`FENCE_MOST`].
    pub fn new(scope: &str, fence: Fence, key: Option<&str>, digest: Digest) -> Result<Request, Refusal> {
        for (what, text) in [("scope", Some(scope)), ("key", key)] {
            let Some(text) = text else { continue };
            if text.is_empty() || text.len() > NAME_MOST || text.contains('\0') {
                return Err(Refusal::Malformed(format!(
                    "the {what} must have 1 to {NAME_MOST} bytes, and none of them 0"
                )));
            }
        }
        if fence.get() > FENCE_MOST {
            return Err(Refusal::Malformed(format!("the fence is greater than {FENCE_MOST}")));
        }
        Ok(Request { scope: scope.to_owned(), fence, key: key.map(str::to_owned), digest })
    }
}

/// What a state knows when a request comes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    /// The greatest fence of the scope, before this request.
    seen: Option<Fence>,
    /// What is known of the key.
    entry: Option<Entry>,
    /// Something that was let in under an older fence has not ended.
    older_in_flight: bool,
    /// There is no room for one more key.
    full: bool,
}

/// What is known of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    payload: Payload,
    progress: Progress,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// It was let in, and the guard that let it in lives.
    InFlight,
    /// It was let in, and it stays unknown how it ended.
    InDoubt,
    Done,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    Admit,
    /// Not before those under older fences have ended.
    Wait,
    Replay,
    Stale {
        seen: Fence,
    },
    /// It can be no fence: the greatest that could be is this.
    TooFar {
        most: u64,
    },
    OtherPayload,
    InFlight,
    InDoubt,
    Full,
}

impl Decision {
    /// Whether the scope has seen the request's fence from then on.
    fn has_seen(self) -> bool {
        !matches!(self, Decision::Stale { .. } | Decision::TooFar { .. })
    }
}

/// The rules.
fn decide(found: &Found, fence: Fence, in_doubt: InDoubt) -> Decision {
    if let Some(seen) = found.seen.filter(|seen| fence < *seen) {
        return Decision::Stale { seen };
    }
    let most = fence_most(found.seen);
    if fence.get() > most {
        return Decision::TooFar { most };
    }
    match found.entry {
        Some(Entry { payload: Payload::Other, .. }) => return Decision::OtherPayload,
        Some(Entry { progress: Progress::InFlight, .. }) => return Decision::InFlight,
        // An answer is only for the caller that got the first one.
        Some(Entry { progress: Progress::Done, payload: Payload::Same }) => return Decision::Replay,
        // It was done, for certain, by a version that did not record the caller: it is neither replayed nor done again.
        Some(Entry { progress: Progress::Done, .. }) => return Decision::InDoubt,
        Some(_) if in_doubt == InDoubt::Refuse => return Decision::InDoubt,
        Some(_) => {}
        None if found.full => return Decision::Full,
        None => {}
    }
    if found.older_in_flight { Decision::Wait } else { Decision::Admit }
}

/// How a request that was let in has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    /// It is decided for good, and this was the answer.
    Done(Answer),
    /// It was not done, or the answer invites to repeat it: the key is free.
    Again,
    /// It is unknown.
    Unknown,
}

/// What a state is asked.
#[derive(Clone, Debug)]
struct Asked {
    /// Names the entry that is made for it.
    id: Uuid,
    /// The scope, within the resource.
    scope: String,
    request: Request,
}

/// What it answers.
#[derive(Debug)]
enum Answered {
    Decided(Decision),
    Replay(Answer),
}

/// A guard: it lets requests in, or says why not. Clones are the same guard.
///
/// ```
/// use fencron::fence::Fence;
/// use fencron::guard::{Answer, Digest, Guard, Options, Refusal, Request, Verdict};
/// use fencron::time::Clock;
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let guard = Guard::in_memory(Options::default(), Clock::system());
/// let write = |fence| {
///     let digest = Digest::of([&b"the payload"[..]]);
///     Request::new("shop/leader", Fence::new(fence).unwrap(), Some("report@2026-11-21T02:00:00Z"), digest).unwrap()
/// };
/// let Verdict::Admitted(ticket) = guard.ask(write(7)).await else { panic!() };
/// // … the effect …
/// ticket.done(Answer::new(200, "written\n")).await;
///
/// assert!(matches!(guard.ask(write(8)).await, Verdict::Replay(answer) if answer.body == "written\n"));
/// assert!(matches!(guard.ask(write(7)).await, Verdict::Refused(Refusal::Stale { .. })));
/// # });
/// ```
#[derive(Clone, Debug)]
pub struct Guard(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: State,
    options: Options,
    clock: Clock,
    /// Something that this guard let in has ended.
    ended: Notify,
    room: Arc<Semaphore>,
}

/// What a guard says.
#[derive(Debug)]
#[must_use]
pub enum Verdict {
    /// Go on, and report how it ended.
    Admitted(Ticket),
    /// It was done, and this was the answer.
    Replay(Answer),
    Refused(Refusal),
}

impl Guard {
    /// Opens the state and guards with it.
    ///
    /// # Errors
    ///
    /// Where the state cannot be used: [`StateError`] says what to do.
    pub async fn open(url: &StateUrl, options: Options, clock: Clock) -> Result<Guard, StateError> {
        let state = State::open(url, &options, &clock).await?;
        Ok(Guard::new(state, options, clock))
    }

    /// A guard that forgets everything with its process: a stale fence is let in after a restart, until the first
    /// newer one has been seen.
    pub fn in_memory(options: Options, clock: Clock) -> Guard {
        Guard::new(State::memory(&options, &clock), options, clock)
    }

    fn new(state: State, options: Options, clock: Clock) -> Guard {
        let room = Arc::new(Semaphore::new(options.in_flight_most.clamp(1, Semaphore::MAX_PERMITS)));
        Guard(Arc::new(Inner { state, options, clock, ended: Notify::new(), room }))
    }

    /// The settings of the guard.
    pub fn options(&self) -> &Options {
        &self.0.options
    }

    /// Asks to be let in. Waits, at most [`Options::wait`], for what older fences have in flight.
    ///
    /// Where the future is dropped, nothing was let in.
    pub async fn ask(&self, request: Request) -> Verdict {
        let inner = &self.0;
        let Ok(permit) = Arc::clone(&inner.room).try_acquire_owned() else {
            return Verdict::Refused(Refusal::Busy);
        };
        let scope = format!("{}\n{}", inner.options.resource, request.scope);
        let asked = Asked { id: Uuid::new_v4(), scope, request };
        let mut ticket = Ticket { guard: self.clone(), id: asked.id, standing: TicketState::Asked, _room: permit };
        let begun = inner.clock.boot();
        loop {
            let ended = inner.ended.notified();
            let answered = match inner.state.ask(&asked, inner.options.in_doubt).await {
                Ok(answered) => answered,
                Err(error) => return Verdict::Refused(Refusal::StateUnavailable(error)),
            };
            let decision = match answered {
                Answered::Decided(Decision::Admit) => {
                    ticket.standing = TicketState::Admitted;
                    return Verdict::Admitted(ticket);
                }
                Answered::Replay(answer) => {
                    ticket.standing = TicketState::Reported;
                    return Verdict::Replay(answer);
                }
                Answered::Decided(decision) => decision,
            };
            let waited = inner.clock.boot().since(begun);
            if decision != Decision::Wait || waited >= inner.options.wait {
                ticket.standing = TicketState::Reported;
                return Verdict::Refused(Refusal::of(decision, &asked.request));
            }
            let pause = ASK_AGAIN.min(inner.options.wait - waited);
            tokio::time::timeout(pause, ended).await.ok();
        }
    }

    /// Whether the state answers, and takes what is written to it.
    ///
    /// # Errors
    ///
    /// Why not.
    pub async fn check(&self) -> Result<(), StateError> {
        // Nothing has this id.
        self.0.state.end(Uuid::nil(), &End::Again).await
    }

    /// Waits until nothing that was let in is in flight, and lets nothing in any more.
    pub async fn drain(&self) {
        let all = u32::try_from(self.0.options.in_flight_most.max(1)).unwrap_or(u32::MAX);
        if let Ok(all) = self.0.room.acquire_many(all).await {
            all.forget();
        }
    }

    async fn report(&self, id: Uuid, end: End) {
        let mut pause = TELL_PAUSE;
        for left in (0..TELL_TRIES).rev() {
            match self.0.state.end(id, &end).await {
                Ok(()) => break,
                Err(error) if left == 0 => {
                    // Its key stays in flight while this guard lives, and is in doubt afterwards: never done twice.
                    tracing::error!(%error, "the end of a guarded request cannot be recorded");
                }
                Err(_) => tokio::time::sleep(pause).await,
            }
            pause *= 2;
        }
        self.0.ended.notify_waiters();
    }
}

/// Proof of having been let in. One that is dropped without a report records that it is unknown how it ended.
#[derive(Debug)]
#[must_use = "report how it ended"]
pub struct Ticket {
    guard: Guard,
    id: Uuid,
    standing: TicketState,
    _room: OwnedSemaphorePermit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TicketState {
    /// Whether it was let in is not known, but nothing was done.
    Asked,
    Admitted,
    Reported,
}

impl Ticket {
    /// It is decided for good: `answer` is replayed from now on.
    pub async fn done(mut self, answer: Answer) {
        let answer = answer.within(self.guard.0.options.answer_most);
        self.report(End::Done(answer)).await;
    }

    /// It was not done, or the answer was an invitation to repeat it.
    pub async fn again(mut self) {
        self.report(End::Again).await;
    }

    /// It is unknown whether it was done.
    pub async fn unknown(mut self) {
        self.report(End::Unknown).await;
    }

    async fn report(&mut self, end: End) {
        self.guard.report(self.id, end).await;
        self.standing = TicketState::Reported;
    }

    /// Ties it to the processes that this one starts from now on: while one of them lives, what was let in is in
    /// flight, even when this process is killed. `false` if the state cannot do that.
    ///
    /// # Errors
    ///
    /// Where the system does not allow it.
    pub fn lives_as_long_as_children(&self) -> std::io::Result<bool> {
        self.guard.0.state.inherit()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let end = match self.standing {
            TicketState::Asked => End::Again,
            TicketState::Admitted => End::Unknown,
            TicketState::Reported => return,
        };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (guard, id) = (self.guard.clone(), self.id);
            runtime.spawn(async move { guard.report(id, end).await });
        }
    }
}

#[cfg(test)]
mod tests;
