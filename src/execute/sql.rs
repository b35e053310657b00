//! Statements: run in a database, with the guard that lets them through once.
//!
//! With `transaction: true` an attempt is one transaction: the scope's row of the guard is held, so that no newer
//! leader's effect can come before the end of it; with `exactly_once` the occurrence gets a row, or has one already;
//! then the job's statements, and the commit. See [`crate::guard::sql`] for the rows and their locks.
//!
//! - What failed, or was stopped, before the commit was sent is known to have had no effect.
//! - Before the commit the database is asked whether the transaction is still the one that holds the guard's rows: a
//!   statement may have ended it. What was committed then stays in doubt, for the next attempt too.
//! - A commit that was not answered is settled by asking for the occurrence's row: inserting it again waits until
//!   the server is through with the transaction that may have inserted it.
//! - Without a transaction, the guard is asked before the first statement; what happens in between cannot be seen, and
//!   an answer that is lost leaves the attempt in doubt.

mod driver;
mod message;
mod mysql;
mod occurrence;
mod postgres;
mod probe;
mod sqlite;
mod steps;

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use self::driver::{CONNECT_LIMIT, Driver, Failure, Kind};
use self::message::{Messages, Secrets};
pub(crate) use self::probe::{Fitness, examine};
use self::steps::{Broken, Steps};
use super::Attempt;
use super::output::OutputSink;
use crate::job::{Again, Database, Guarantee, Job, Outcome, Sql, Statement, StopReason};

/// How long a statement that is cancelled has to answer, before its connection is given up.
pub const CANCEL_LIMIT: Duration = Duration::from_secs(5);
/// How often it is asked to.
const CANCEL_EVERY: Duration = Duration::from_millis(500);
/// How long a goodbye may take.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);
/// How long a commit that was not answered is asked after: longer than a server keeps a silent session.
pub const SETTLE_LIMIT: Duration = Duration::from_secs(60);
/// And how long once the run is to stop.
pub const SETTLE_STOPPED: Duration = Duration::from_secs(10);
/// How long to wait before asking once more.
const SETTLE_EVERY: Duration = Duration::from_millis(500);

const _: () = assert!(driver::IDLE_LIMIT.as_millis() * 2 < SETTLE_LIMIT.as_millis(), "a silent session ends meanwhile");

/// Runs the statements.
pub(super) async fn run(attempt: Attempt<'_>, sql: &Sql, output: &mut OutputSink) -> Outcome {
    match sql.kind {
        Database::Postgres => make::<postgres::Postgres>(attempt, sql, output).await,
        Database::Mysql => make::<mysql::Mysql>(attempt, sql, output).await,
        Database::Sqlite => make::<sqlite::Sqlite>(attempt, sql, output).await,
    }
}

/// How far an attempt has come, for the code that ends it from outside.
#[derive(Default)]
struct Progress(AtomicU8);

/// Nothing was done that lasts.
const NOTHING: u8 = 0;
/// The commit was sent.
const COMMITTING: u8 = 1;
/// Statements were sent that take effect one by one.
const LOOSE: u8 = 2;
/// It has to end: no other statement is sent.
const STOPPING: u8 = 4;

impl Progress {
    fn come_to(&self, step: u8) {
        self.0.fetch_or(step, Ordering::SeqCst);
    }

    fn is(&self, step: u8) -> bool {
        self.0.load(Ordering::SeqCst) & step != NOTHING
    }
}

async fn make<D: Driver>(attempt: Attempt<'_>, sql: &Sql, output: &mut OutputSink) -> Outcome {
    let Attempt { job, stamp, gate } = attempt;
    let messages = Messages { sql, secrets: Secrets::of(sql) };
    let mut interrupted = std::pin::pin!(gate.interrupted(job.timeout));
    let connected = tokio::select! {
        biased;
        why = &mut interrupted => return why,
        connected = connect::<D>(sql) => connected,
    };
    let mut session = match connected {
        Ok(session) => session,
        Err(failure) => return messages.unreachable(&failure),
    };
    if let Err(reason) = gate.pass() {
        return Outcome::Stopped(reason);
    }
    let progress = Progress::default();
    let hides = may_hide_a_commit::<D>(job, sql);
    let canceller = session.canceller();
    let ended = {
        let mut steps =
            Steps { session: &mut session, job, sql, stamp, messages: &messages, progress: &progress, output, gate };
        let mut doing = std::pin::pin!(steps.run());
        tokio::select! {
            biased;
            ended = &mut doing => ended,
            why = &mut interrupted => {
                progress.come_to(STOPPING);
                let ended = cancel::<D, _>(&canceller, &progress, doing).await;
                stopped(ended, why, &progress, hides)
            }
        }
    };
    match ended {
        Ok(outcome) => {
            if outcome == Outcome::Done {
                occurrence::prune::<D>(&mut session, job, stamp, gate.clock()).await;
            }
            goodbye(session).await;
            outcome
        }
        Err(Broken::Stopped) => {
            goodbye(session).await;
            Outcome::Stopped(gate.asked_to_stop().unwrap_or(StopReason::LostLeadership))
        }
        Err(Broken::Failed(failure, place)) if (progress.is(LOOSE) || hides) && failure.kind == Kind::Lost => {
            Outcome::InDoubt(messages.in_doubt(&failure, place))
        }
        Err(Broken::Failed(failure, place)) => messages.failed(&failure, place),
        Err(Broken::Partial(failure, place)) => Outcome::Partial(messages.partial(&failure, place)),
        Err(Broken::Unanswered(failure)) => {
            drop(session);
            settle::<D>(&Unanswered { attempt, sql, messages: &messages, failure }).await
        }
    }
}

async fn connect<D: Driver>(sql: &Sql) -> Result<D, Failure> {
    match tokio::time::timeout(CONNECT_LIMIT, D::connect(&sql.target)).await {
        Ok(connected) => connected,
        Err(_) => {
            let message = format!("there was no answer within {CONNECT_LIMIT:?}");
            Err(Failure { kind: Kind::Later, message, code: String::new(), at: None })
        }
    }
}

/// A session that does not answer is left as it stands.
async fn goodbye<D: Driver>(session: D) {
    tokio::time::timeout(CLOSE_LIMIT, session.close()).await.ok();
}

/// Has the statement that runs stopped, and waits for what comes of it; `None`: no answer.
async fn cancel<D: Driver, F>(canceller: &D::Canceller, progress: &Progress, mut doing: F) -> Option<F::Output>
where
    F: Future + Unpin,
{
    let stopping = async {
        loop {
            // A commit is left to itself: it ends soon, or is asked after.
            if !progress.is(COMMITTING) {
                D::cancel(canceller).await;
            }
            tokio::time::sleep(CANCEL_EVERY).await;
        }
    };
    tokio::select! {
        biased;
        ended = &mut doing => Some(ended),
        () = stopping => None,
        () = tokio::time::sleep(CANCEL_LIMIT) => None,
    }
}

/// Whether a statement may have committed before the connection is lost in the middle of it, and nothing in the
/// database would show it.
fn may_hide_a_commit<D: Driver>(job: &Job, sql: &Sql) -> bool {
    let is_kept = job.guarantee == Guarantee::ExactlyOnce;
    D::HIDES_COMMITS && !is_kept && sql.script.statements.iter().any(Statement::may_run_others)
}

/// What an attempt comes to that was interrupted for `why`.
fn stopped(
    ended: Option<Result<Outcome, Broken>>,
    why: Outcome,
    progress: &Progress,
    hides: bool,
) -> Result<Outcome, Broken> {
    let loose = progress.is(LOOSE) || hides;
    match ended {
        // It was through before it was asked to stop.
        Some(Ok(outcome)) => Ok(outcome),
        Some(Err(broken @ (Broken::Unanswered(_) | Broken::Partial(..)))) => Err(broken),
        None if progress.is(COMMITTING) => {
            Err(Broken::Unanswered(Failure::lost("the commit was not answered in time")))
        }
        Some(Err(Broken::Failed(failure, place))) if loose && failure.kind == Kind::Lost => {
            Err(Broken::Failed(failure, place))
        }
        None if loose => Err(Broken::Failed(Failure::lost("it was asked to stop, and did not answer"), None)),
        Some(Err(_)) | None => Ok(why),
    }
}

/// A commit of which it is unknown whether it took place.
struct Unanswered<'a> {
    attempt: Attempt<'a>,
    sql: &'a Sql,
    messages: &'a Messages<'a>,
    failure: Failure,
}

async fn settle<D: Driver>(lost: &Unanswered<'_>) -> Outcome {
    let (failure, Attempt { job, stamp, gate }) = (&lost.failure, lost.attempt);
    if job.guarantee != Guarantee::ExactlyOnce {
        return match failure.kind {
            Kind::Lost => Outcome::InDoubt(lost.messages.unanswered(failure)),
            _ => lost.messages.failed(failure, None),
        };
    }
    let asking = async {
        loop {
            if let Ok(mut session) = connect::<D>(lost.sql).await
                && let Ok(found) = occurrence::look::<D>(&mut session, lost.sql, stamp).await
            {
                goodbye(session).await;
                return found;
            }
            tokio::time::sleep(SETTLE_EVERY).await;
        }
    };
    let given_up = async {
        gate.stopped().await;
        tokio::time::sleep(SETTLE_STOPPED).await;
    };
    tokio::select! {
        biased;
        found = asking => match found {
            Some(fence) if fence == stamp.fence.get() => Outcome::Done,
            Some(_) => Outcome::AlreadyApplied,
            // It is certain now: what was being committed is undone.
            None => match lost.messages.failed(failure, None) {
                Outcome::Failed { why, .. } if failure.kind == Kind::Lost => {
                    Outcome::Failed { why: format!("{why}; it was not committed"), again: Again::AsConfigured }
                }
                other => other,
            },
        },
        () = given_up => Outcome::InDoubt(lost.messages.unanswered(failure)),
        () = tokio::time::sleep(SETTLE_LIMIT) => Outcome::InDoubt(lost.messages.unanswered(failure)),
    }
}
