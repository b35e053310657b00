//! What a job is, as plain data: its task, its policies, and how a run of it can end.
//!
//! Nothing here knows a clock, a store or a runtime.

mod about;
mod alert;
mod attempt;
mod bounds;
mod code;
#[cfg(feature = "cli")]
pub mod definition;
mod given;
mod http;
mod params;
mod ran;
mod script;
mod sql;
pub mod template;
mod whole;
mod words;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use about::{About, Expect, is_link};
pub use alert::{AlertKind, CHANNELS_MOST, Channel, Heartbeat, Notices, Notify, Ping, Sign, Smtp, SmtpSecurity, Whose};
pub(crate) use attempt::LOST_PAUSE_LONGEST;
#[cfg(test)]
pub(crate) use attempt::cases;
pub use attempt::{ATTEMPTS_LOST_MOST, Attempted, Judgement, PUT_OFF_MOST, cancelled, judge_lost, lost};
pub use bounds::{Bounds, Form, IoClass, Ionice, Limits, Nice, Stdin, Umask};
pub use code::{Code, NotACode, Reason};
pub use given::NotGiven;
pub use http::{Http, Identity, NotAStatus, RetryOn, StatusRange, Statuses};
pub use params::{BadParam, PARAM_NAME_MOST, PARAM_VALUE_MOST, PARAMS_MOST, Param, Params};
pub use ran::ran;
#[cfg(feature = "cli")]
pub use script::sqlite;
pub use script::{Fault, MAX_SCRIPT_BYTES, MAX_STATEMENTS, Name, Place, Quoting, STAMP_NAMES, Script, Statement};
pub use sql::{Binding, Database, Scalar, Server, Session, Sql, Target, WantedServer};
pub use whole::{KeepOutputs, WholeOutput};
pub use words::{Word, words};

pub use crate::tls::Encryption;

use crate::fence::Fence;
use crate::schedule::{Jitter, Schedule};
use crate::time::Wall;

/// A job's name: 1 to 100 of `A-Z a-z 0-9 . _ -`, beginning with a letter or a digit. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct JobName(Arc<str>);

/// Why a text cannot be the name of a job or a namespace.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a name: use 1 to 100 letters, digits, `.`, `_` or `-`, beginning with a letter or a digit")]
pub struct NotAName(String);

/// Whether `text` can be the name of a job or a namespace.
pub fn check_name(text: &str) -> Result<(), NotAName> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let well_formed =
        text.len() <= 100 && text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(allowed);
    if well_formed { Ok(()) } else { Err(NotAName(text.chars().take(120).collect())) }
}

impl JobName {
    /// The name, where `text` is one.
    pub fn new(text: &str) -> Result<JobName, NotAName> {
        check_name(text).map(|()| JobName(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for JobName {
    type Error = NotAName;
    fn try_from(text: String) -> Result<JobName, NotAName> {
        JobName::new(&text)
    }
}

impl From<JobName> for String {
    fn from(name: JobName) -> String {
        name.0.as_ref().to_owned()
    }
}

impl fmt::Display for JobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for JobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The identity of a run: `job@2026-11-21T02:00:00Z` for a scheduled occurrence, under any leader; with `~` and a
/// call's id behind it for a run that a person requested (`trigger`, `backfill`), which the schedule does not know.
///
/// ```
/// use fencron::job::{JobName, RunId};
/// let job = JobName::new("report").unwrap();
/// let run = RunId::of(&job, "2026-11-21T02:00:00Z".parse().unwrap());
/// assert_eq!(run.as_str(), "report@2026-11-21T02:00:00Z");
/// assert_eq!("report@2026-11-21T02:00:00Z~t-1f".parse::<RunId>().unwrap().job(), job);
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RunId(Arc<str>);

/// A text that is not the identity of a run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a run: write it as `fencron runs` shows it, like report@2026-11-21T02:00:00Z")]
pub struct NotARun(String);

impl RunId {
    /// The occurrence of `job` at `at`.
    pub fn of(job: &JobName, at: Wall) -> RunId {
        RunId(format!("{job}@{at}").into())
    }

    /// A run of `job` for the instant `at` that was asked for by the call `call` (ASCII letters, digits and `-`).
    pub fn asked_for(job: &JobName, at: Wall, call: &str) -> RunId {
        RunId(format!("{job}@{at}~{call}").into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn split(text: &str) -> Option<(JobName, Wall)> {
        let (job, rest) = text.split_once('@')?;
        let (at, call) = rest.split_once('~').unwrap_or((rest, "x"));
        let call_is_plain =
            !call.is_empty() && call.len() <= 64 && call.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        let at: Wall = at.parse().ok().filter(|wall: &Wall| wall.to_string() == at)?;
        Some((JobName::new(job).ok()?, at)).filter(|_| call_is_plain)
    }

    /// The run of `job` that follows this one (`after:`): the same instant, asked for by the same call.
    pub fn followed_by(&self, job: &JobName) -> RunId {
        let (_, instant) = self.0.split_once('@').expect("a RunId is well formed");
        RunId(format!("{job}@{instant}").into())
    }

    /// The job it is a run of.
    pub fn job(&self) -> JobName {
        RunId::split(&self.0).expect("a RunId is well formed").0
    }

    /// The instant it was scheduled for.
    pub fn at(&self) -> Wall {
        RunId::split(&self.0).expect("a RunId is well formed").1
    }
}

impl std::str::FromStr for RunId {
    type Err = NotARun;
    fn from_str(text: &str) -> Result<RunId, NotARun> {
        match RunId::split(text) {
            Some(_) => Ok(RunId(text.into())),
            None => Err(NotARun(text.chars().take(200).collect())),
        }
    }
}

impl TryFrom<String> for RunId {
    type Error = NotARun;
    fn try_from(text: String) -> Result<RunId, NotARun> {
        text.parse()
    }
}

impl From<RunId> for String {
    fn from(run: RunId) -> String {
        run.0.as_ref().to_owned()
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text of the configuration that may have come, in part, from a secret. It is only shown on purpose.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Text {
    text: String,
    secret: bool,
}

impl Text {
    /// A text that stands in the file as it is.
    pub fn plain(text: impl Into<String>) -> Text {
        Text { text: text.into(), secret: false }
    }

    /// A text in which something from outside the file was filled in.
    pub fn secret(text: impl Into<String>) -> Text {
        Text { text: text.into(), secret: true }
    }

    /// The text itself: for the process or request it is meant for, not for messages.
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// Whether something from outside the file is in it.
    pub fn is_secret(&self) -> bool {
        self.secret
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.secret { "***" } else { &self.text })
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(if self.secret { "***" } else { &self.text }, f)
    }
}

/// A job, checked: everything in it can be done.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    pub name: JobName,
    /// What it is for, in a few words.
    pub description: Option<Text>,
    /// Whose it is, and what is expected of its runs. Equal ones of a configuration are mostly one `Arc`.
    pub about: Arc<About>,
    pub trigger: Trigger,
    pub task: Task,
    /// Variables for the command, beside those that it inherits and those of its stamp.
    pub env: BTreeMap<String, Text>,
    /// Where the command starts; `None`: where the node does.
    pub dir: Option<Text>,
    /// The user that the command runs as, and how much it may take. Equal ones of a configuration are mostly one `Arc`.
    pub bounds: Arc<Bounds>,
    /// How long an attempt may take; `None`: as long as it wants.
    pub timeout: Option<Duration>,
    /// How long a command that was asked to end (TERM) has before it is killed.
    pub kill_after: Duration,
    pub overlap: Overlap,
    pub missed: Missed,
    pub retry: Retry,
    pub guarantee: Guarantee,
    pub on_lost_leadership: OnLostLeadership,
    pub history: History,
    /// Where all that its attempts write is kept; `None`: nowhere, beside the end of it in the history.
    pub output: Option<Arc<WholeOutput>>,
    /// Which ends of its runs are notified, and where; `None`: none are.
    pub notify: Option<Arc<Notify>>,
    /// A URL to which signs of life of its runs go.
    pub ping: Option<Text>,
}

impl Job {
    /// A job that is due only when a person asks for it, is tried once, and keeps the least of its history: each policy
    /// at its least, for others to be laid over it.
    ///
    /// ```
    /// use fencron::job::{Job, JobName, Task, Text};
    /// let hello = Task::Command(vec![Text::plain("echo"), Text::plain("hello")]);
    /// let job = Job { dir: Some(Text::plain("/srv")), ..Job::new(JobName::new("greet").unwrap(), hello) };
    /// assert_eq!((job.retry.attempts, job.timeout), (1, None));
    /// ```
    pub fn new(name: JobName, task: Task) -> Job {
        Job {
            name,
            description: None,
            about: Arc::default(),
            trigger: Trigger::Disabled,
            task,
            env: BTreeMap::new(),
            dir: None,
            bounds: Arc::default(),
            timeout: None,
            kill_after: Duration::ZERO,
            overlap: Overlap::Skip,
            missed: Missed { run: MissedRun::Skip, within: None, limit: 1, every: Duration::ZERO },
            retry: Retry { attempts: 1, initial: Duration::ZERO, max: Duration::ZERO },
            guarantee: Guarantee::AtMostOnce,
            on_lost_leadership: OnLostLeadership::Cancel,
            history: History { keep: 1, age: Duration::ZERO },
            output: None,
            notify: None,
            ping: None,
        }
    }

    /// Which ends of its runs are notified, with what it runs: for a run that has ended badly, or is late.
    pub fn notify_of_run(&self) -> Option<Arc<Notify>> {
        let notify = self.notify.as_deref()?;
        let whose = Whose { ran: ran(&self.task), ..notify.whose.clone() };
        Some(Arc::new(Notify { whose, ..notify.clone() }))
    }
}

/// What makes a job due.
#[derive(Clone, Debug, PartialEq)]
pub enum Trigger {
    /// Its schedule. Equal schedules of a configuration are one `Arc`.
    Schedule { schedule: Arc<Schedule>, jitter: Jitter },
    /// The end of another job's run.
    After { job: JobName, on: On },
    /// Only a person's request.
    Disabled,
}

/// Which ends of the other job's run count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum On {
    /// `succeeded`.
    Success,
    /// `failed`, `timed_out`, `unknown`, or `cancelled` after it had begun: it was meant to run, and did not end well.
    Failure,
    /// Any end of a run that had begun; a `skipped` one had not, nor one that was cancelled while it waited.
    End,
}

impl On {
    /// Whether a run that ended so makes the following job due. `began`: an attempt of it had begun.
    pub fn takes(self, verdict: Verdict, began: bool) -> bool {
        let never_ran = verdict == Verdict::Skipped || (verdict == Verdict::Cancelled && !began);
        match self {
            On::Success => verdict == Verdict::Succeeded,
            On::Failure => verdict != Verdict::Succeeded && !never_ran,
            On::End => !never_ran,
        }
    }
}

/// What a job does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// Runs a program with arguments; `shell: …` is `/bin/sh -c …`. Never empty.
    Command(Vec<Text>),
    /// Makes a request.
    Http(Box<Http>),
    /// Runs statements in a database.
    Sql(Box<Sql>),
    /// Calls the closure that a program has for the job of this name.
    Call,
}

/// What becomes of an occurrence that is due while a run of the same job is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overlap {
    /// It is skipped, with that reason.
    Skip,
    /// It waits until the runs before it have ended.
    Queue,
    /// The open run is cancelled, and it starts once that has ended.
    Replace,
    /// It runs beside them, up to this many at once; beyond, it is skipped.
    Allow { max_running: u32 },
}

impl Overlap {
    /// How many runs of the job may run at once.
    pub(crate) fn most(self) -> usize {
        if let Overlap::Allow { max_running } = self { max_running as usize } else { 1 }
    }
}

/// What becomes of occurrences whose instant passed with no leader to fire them.
#[derive(Clone, Debug, PartialEq)]
pub struct Missed {
    pub run: MissedRun,
    /// Only those not older than this; `None`: however old.
    pub within: Option<Duration>,
    /// With [`MissedRun::All`]: at most so many, the newest.
    pub limit: u32,
    /// With [`MissedRun::All`]: the time from one start to the next.
    pub every: Duration,
}

/// Which missed occurrences still run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum MissedRun {
    Skip,
    Latest,
    All,
}

/// How often, and after what pause, a failed attempt is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Attempts in all, from 1.
    pub attempts: u32,
    /// The pause before the second attempt; it doubles from then on.
    pub initial: Duration,
    /// The longest pause.
    pub max: Duration,
}

impl Retry {
    /// The pause between the attempt `attempt` (from 1) and the next, whether or not one is left.
    pub fn pause(&self, attempt: u32) -> Duration {
        let doublings = attempt.saturating_sub(1).min(31);
        self.initial.saturating_mul(1 << doublings).min(self.max)
    }

    /// The pause after the attempt `attempt` (from 1) failed; `None` when no attempt is left.
    pub fn pause_after(&self, attempt: u32) -> Option<Duration> {
        (attempt < self.attempts).then(|| self.pause(attempt))
    }
}

/// What is promised for an occurrence's effect when a leader is lost in the middle of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Guarantee {
    /// It is not run again: it ends as `unknown`, for a person to resolve.
    AtMostOnce,
    /// It is run again, as the same occurrence under a higher fence.
    AtLeastOnce,
    /// It is run again, and its target knows whether it was done: its effect is there once. Only for statements that
    /// run in one transaction.
    ExactlyOnce,
}

impl Guarantee {
    /// Whether a run may be repeated when it is unknown how far it came.
    pub fn may_repeat(self) -> bool {
        self != Guarantee::AtMostOnce
    }
}

/// What becomes of a run whose node may no longer trust its leadership.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum OnLostLeadership {
    Cancel,
    Finish,
}

/// How much of a job's history is kept: what is beyond either is pruned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct History {
    /// So many verdicts.
    pub keep: u32,
    /// Those of so long.
    pub age: Duration,
}

/// How an occurrence ended. `as_str` and JSON write it as in the design: `timed_out`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Succeeded,
    Failed,
    TimedOut,
    Cancelled,
    Skipped,
    /// It is unknown: the leader was lost in the middle. `fencron resolve` settles it.
    Unknown,
}

impl Verdict {
    pub const ALL: [Verdict; 6] = [
        Verdict::Succeeded,
        Verdict::Failed,
        Verdict::TimedOut,
        Verdict::Cancelled,
        Verdict::Skipped,
        Verdict::Unknown,
    ];

    /// Whether a run that ended so needs a person's attention.
    pub fn is_bad(self) -> bool {
        matches!(self, Verdict::Failed | Verdict::TimedOut | Verdict::Unknown)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Succeeded => "succeeded",
            Verdict::Failed => "failed",
            Verdict::TimedOut => "timed_out",
            Verdict::Cancelled => "cancelled",
            Verdict::Skipped => "skipped",
            Verdict::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How something ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    pub verdict: Verdict,
    /// The reason, for people to read; empty if there is none.
    pub reason: String,
    /// The exit code of its command; where a signal ended that, 128 and the signal's number.
    pub exit_code: Option<i32>,
    /// Why, for a program; `None`: it ended well, as usual.
    pub code: Option<Code>,
}

/// Why a run is being stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// A person asked for it (`fencron cancel`).
    Asked,
    /// A later occurrence takes its place (`overlap: replace`).
    Replaced,
    /// The node is stopping.
    Shutdown,
    /// The node steps down.
    StepDown,
    /// The node may no longer trust its leadership.
    LostLeadership,
}

impl StopReason {
    /// The same, for a program.
    pub fn code(self) -> Code {
        match self {
            StopReason::Asked => Code::Cancelled,
            StopReason::Replaced => Code::Replaced,
            StopReason::Shutdown | StopReason::StepDown => Code::Shutdown,
            StopReason::LostLeadership => Code::LeadershipLost,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            StopReason::Asked => "cancelled by request",
            StopReason::Replaced => "replaced by a later occurrence",
            StopReason::Shutdown => "node shut down",
            StopReason::StepDown => "node stepped down",
            StopReason::LostLeadership => "leadership lost",
        }
    }
}

/// How one attempt ended, as its executor saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The command exited with this code; 0 is success.
    Exited(i32),
    /// The command died of this signal, which fencron did not send.
    Signalled(i32),
    /// It took longer than its `timeout` and was ended.
    TimedOut,
    /// It was ended for this reason.
    Stopped(StopReason),
    /// It was never started, for certain: no such program, no such directory.
    NotStarted(String),
    /// Done: what is not a command has no exit code.
    Done,
    /// It was done before, by an earlier attempt or another leader, and so not again.
    AlreadyApplied,
    /// The target turned it away: it has seen this greater fence.
    Fenced { seen: Option<Fence> },
    /// It is known to have failed.
    Failed { why: String, again: Again },
    /// It may have been done, or not: no answer came that would say.
    InDoubt(String),
    /// A part of it lasts, or may last, and the target knows no more: a person has to look, and it is not repeated.
    Partial(String),
}

/// Whether, and when, a failed attempt may be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// It would fail again.
    Never,
    /// As the job's `retry` has it.
    AsConfigured,
    /// As the job's `retry` has it, but not before this time has passed: the target asks for that.
    After(Duration),
}

/// An attempt that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptResult {
    pub outcome: Outcome,
    /// When it was started; `None`: it was not.
    pub started_at: Option<Wall>,
    pub finished_at: Wall,
    /// The end of what it wrote, at most [`OUTPUT_KEPT`] bytes; begins at a character's start.
    pub output: String,
    /// How much it wrote in all, in bytes.
    pub output_bytes: u64,
}

/// How many jobs may run after one and the same job: they come to be in one transaction with its verdict.
pub const MAX_FOLLOWERS: usize = 50;

/// How much of a run's output is kept with its verdict.
pub const OUTPUT_KEPT: usize = 8 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_id_reads_back() {
        for text in ["a@2026-11-21T02:00:00Z", "a.b-c_9@2026-11-21T02:00:00.250Z~b-77aa-3"] {
            assert_eq!(text.parse::<RunId>().unwrap().as_str(), text);
        }
        for text in [
            "",
            "a",
            "@2026-11-21T02:00:00Z",
            "a@2026-11-21T03:00:00+01:00",
            "a@2026-11-21T02:00:00Z~",
            "a/b@2026-11-21T02:00:00Z",
        ] {
            assert!(text.parse::<RunId>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_pause_between_attempts_doubles_up_to_its_most() {
        let retry = Retry { attempts: 5, initial: Duration::from_secs(5), max: Duration::from_secs(15) };
        let pauses: Vec<_> = (1..=5).map(|attempt| retry.pause_after(attempt).map(|pause| pause.as_secs())).collect();
        assert_eq!(pauses, [Some(5), Some(10), Some(15), Some(15), None]);
    }

    #[test]
    fn a_secret_text_does_not_show() {
        let text = Text::secret("hunter2");
        assert_eq!(format!("{text} {text:?}"), "*** \"***\"");
    }
}
