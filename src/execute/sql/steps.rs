//! The steps of one attempt, in any database.

use std::time::Duration;

use super::driver::{Answer, Driver, Failure, IDLE_LIMIT, Kind, Value};
use super::message::Messages;
use super::{COMMITTING, LOOSE, Progress, STOPPING};
use crate::execute::MayStart;
use crate::execute::output::{OutputSink, Stream};
use crate::fence::Stamp;
use crate::guard::sql::{Dialect, Standing};
use crate::job::{Database, Guarantee, Job, Outcome, Place, Scalar, Sql, Statement};
use crate::time::Clock;

/// How often a transaction is made again that lost against another one.
pub const CONFLICTS_MOST: u32 = 8;
/// The pause before the first time; it doubles from then on.
const CONFLICT_PAUSE: Duration = Duration::from_millis(20);
/// How often the way from the beginning to the guard is gone: to make the tables, to advance the row, after a newer
/// fence was let in meanwhile.
const ROUNDS_MOST: u32 = 8;
/// How long the row of an occurrence is kept at least.
pub const DONE_KEPT: Duration = Duration::from_secs(90 * 86_400);
/// How many rows of that age a run deletes at most, and how long that may take.
pub const PRUNED_AT_ONCE: u32 = 20;
const PRUNE_LIMIT: Duration = Duration::from_secs(5);

const _: () = assert!(PRUNE_LIMIT.as_millis() < IDLE_LIMIT.as_millis(), "what is too old is no reason to wait");

/// Why an attempt has no end of its own.
pub enum Broken {
    /// It is to stop, and nothing of it lasts.
    Stopped,
    /// A statement failed: one of the job's, at this place, or one of ours.
    Failed(Failure, Option<Place>),
    /// The commit was sent, and has not succeeded as far as is known.
    Unanswered(Failure),
}

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Broken {
        Broken::Failed(failure, None)
    }
}

/// One attempt, on one connection.
pub struct Steps<'a, D> {
    pub session: &'a mut D,
    pub job: &'a Job,
    pub sql: &'a Sql,
    pub stamp: &'a Stamp,
    pub messages: &'a Messages<'a>,
    pub progress: &'a Progress,
    pub output: &'a mut OutputSink,
    pub may_start: &'a MayStart,
}

/// What the guard says.
enum Gate {
    Open,
    /// The tables are made, or the row is advanced: ask again.
    Again,
    Closed(Outcome),
}

impl<D: Driver> Steps<'_, D> {
    pub async fn run(&mut self) -> Result<Outcome, Broken> {
        let mut conflicts = 0;
        loop {
            let ended = if self.sql.transaction { self.transaction().await } else { self.one_by_one().await };
            match ended {
                Err(Broken::Failed(failure, _)) if failure.kind == Kind::Conflict && self.may_repeat(conflicts) => {
                    let note = format!("{}: the transaction is made once more\n", failure.shown());
                    self.output.write(Stream::Stderr, self.messages.secrets.hidden(&note).as_bytes());
                    self.ask("ROLLBACK", &[]).await.or_else(unless_lost)?;
                    tokio::time::sleep(CONFLICT_PAUSE * (1 << conflicts)).await;
                    conflicts += 1;
                }
                other => return other,
            }
        }
    }

    fn may_repeat(&self, conflicts: u32) -> bool {
        // Statements that take effect one by one would take effect twice.
        conflicts < CONFLICTS_MOST && !self.progress.is(LOOSE)
    }

    async fn ask(&mut self, text: &str, values: &[Value]) -> Result<Answer, Failure> {
        self.session.ask(text, values).await
    }

    fn check(&self) -> Result<(), Broken> {
        if self.progress.is(STOPPING) { Err(Broken::Stopped) } else { Ok(()) }
    }

    async fn transaction(&mut self) -> Result<Outcome, Broken> {
        for _ in 0..ROUNDS_MOST {
            self.check()?;
            self.ask(D::BEGIN, &[]).await?;
            match self.gate().await? {
                Gate::Open => return self.body().await,
                Gate::Again => {}
                Gate::Closed(outcome) => {
                    self.ask("ROLLBACK", &[]).await.or_else(unless_lost)?;
                    return Ok(outcome);
                }
            }
        }
        Err(never_held())
    }

    /// Asks the guard, in the transaction that has just begun. Where it has to be asked again, that is over.
    async fn gate(&mut self) -> Result<Gate, Broken> {
        let statements = D::DIALECT.statements();
        let scope = Value::Text(self.stamp.scope.to_string());
        let seen = match self.ask(statements.hold, std::slice::from_ref(&scope)).await {
            Ok(answer) => first(&answer).and_then(|seen| seen.parse().ok()),
            Err(failure) => return self.without_tables(failure).await,
        };
        match Standing::of(self.stamp.fence, seen) {
            Standing::Stale { seen } => return Ok(Gate::Closed(Outcome::Fenced { seen: Some(seen) })),
            Standing::Behind => {
                self.ask("ROLLBACK", &[]).await.or_else(unless_lost)?;
                let advanced = self.ask(statements.advance, &[scope, fence_of(self.stamp)]).await;
                advanced.map_err(|failure| self.of_guard(failure))?;
                return Ok(Gate::Again);
            }
            Standing::Current => {}
        }
        if self.job.guarantee != Guarantee::ExactlyOnce {
            return Ok(Gate::Open);
        }
        match insert(self.session, self.sql, self.stamp).await {
            Ok(true) => Ok(Gate::Open),
            Ok(false) => self.found().await.map(Gate::Closed),
            // Another one may be about to make the second table, too.
            Err(failure) => self.without_tables(failure).await,
        }
    }

    /// Makes the tables, if it is them that are missing.
    async fn without_tables(&mut self, failure: Failure) -> Result<Gate, Broken> {
        if failure.kind != Kind::NoTable {
            return Err(self.of_guard(failure).into());
        }
        self.ask("ROLLBACK", &[]).await.or_else(unless_lost)?;
        self.create_tables().await?;
        Ok(Gate::Again)
    }

    /// The occurrence has a row: was it the same that was applied?
    async fn found(&mut self) -> Result<Outcome, Broken> {
        let Some(ours) = &self.sql.checksum else { return Ok(Outcome::AlreadyApplied) };
        let row = read(self.session, self.stamp).await.map_err(|failure| self.of_guard(failure))?;
        let theirs = row.and_then(|(_, checksum)| checksum);
        if theirs.as_ref() == Some(ours) {
            return Ok(Outcome::AlreadyApplied);
        }
        let theirs = theirs.unwrap_or_else(|| "none".to_owned());
        let why = format!(
            "{} was applied with other content: its checksum there is {theirs}, and here it is {ours}",
            self.stamp.run_id
        );
        Ok(Outcome::Failed { why, again: crate::job::Again::Never })
    }

    /// A lock that is not given in time is worth another try, where it is the guard's.
    fn of_guard(&self, failure: Failure) -> Failure {
        match failure.kind {
            Kind::NoRight => self.messages.no_right_to_guard(&failure),
            _ if failure.code.ends_with("error 1205") => Failure { kind: Kind::Conflict, ..failure },
            _ => failure,
        }
    }

    async fn create_tables(&mut self) -> Result<(), Broken> {
        for table in D::DIALECT.statements().tables {
            match self.ask(table, &[]).await {
                Ok(_) => {}
                // Another one made it at the same time.
                Err(failure) if failure.kind == Kind::Duplicate => {}
                Err(failure) if failure.kind == Kind::NoRight => {
                    return Err(self.messages.no_tables(&failure, D::DIALECT).into());
                }
                Err(failure) => return Err(failure.into()),
            }
        }
        Ok(())
    }

    /// The job's statements and the commit, behind the guard.
    async fn body(&mut self) -> Result<Outcome, Broken> {
        let sql = self.sql;
        // A procedure in MySQL may end the transaction and begin another one: this is gone then.
        let marked = D::DIALECT == Dialect::Mysql && sql.script.statements.iter().any(Statement::may_run_others);
        if marked {
            self.ask("SAVEPOINT fencron", &[]).await?;
        }
        for statement in &sql.script.statements {
            self.statement(statement).await?;
            if !self.session.is_in_transaction() {
                // It lasts, with the occurrence's row, and what was to come after it is missing.
                self.progress.come_to(LOOSE);
                let why = "this statement ended the transaction: what came before it is committed, and what comes after \
                           it was not done: write `transaction: false`";
                return Err(Broken::Failed(Failure::lost(why), Some(statement.place)));
            }
        }
        self.check()?;
        if marked && let Err(failure) = self.ask("RELEASE SAVEPOINT fencron", &[]).await {
            if !failure.code.ends_with("error 1305") {
                return Err(failure.into());
            }
            self.progress.come_to(LOOSE);
            let why = "a statement ended the transaction and began another one: what came before that is committed, and \
                       what came after it is undone: write `transaction: false`";
            return Err(Broken::Failed(Failure::lost(why), None));
        }
        self.progress.come_to(COMMITTING);
        match self.ask("COMMIT", &[]).await {
            Ok(_) => Ok(Outcome::Done),
            Err(failure) => Err(Broken::Unanswered(failure)),
        }
    }

    /// The job's statements, each on its own, once the guard has been asked.
    async fn one_by_one(&mut self) -> Result<Outcome, Broken> {
        let mut open = false;
        for _ in 0..ROUNDS_MOST {
            self.check()?;
            self.ask(D::BEGIN, &[]).await?;
            let gate = self.gate().await?;
            if !matches!(gate, Gate::Again) {
                self.ask("ROLLBACK", &[]).await?;
            }
            match gate {
                Gate::Closed(outcome) => return Ok(outcome),
                Gate::Open => {
                    open = true;
                    break;
                }
                Gate::Again => {}
            }
        }
        if !open {
            return Err(never_held());
        }
        // From here on nothing but this stands between a replaced leader and the statements.
        if !self.may_start.now() {
            return Err(Broken::Stopped);
        }
        let sql = self.sql;
        for statement in &sql.script.statements {
            self.check()?;
            self.progress.come_to(LOOSE);
            self.statement(statement).await?;
        }
        Ok(Outcome::Done)
    }

    async fn statement(&mut self, statement: &Statement) -> Result<(), Broken> {
        self.check()?;
        let values = values_of(statement, self.sql, self.stamp);
        match self.ask(&statement.text, &values).await {
            Ok(answer) => {
                let text = self.messages.answer(statement.place, &answer);
                self.output.write(Stream::Stdout, text.as_bytes());
                Ok(())
            }
            Err(failure) => {
                let at = failure.at.unwrap_or(0);
                let place = Place::within(&statement.text, at, statement.place);
                Err(Broken::Failed(failure, Some(place)))
            }
        }
    }
}

/// However often it was advanced, the guard's row never stood at this fence.
fn never_held() -> Broken {
    let message = "the guard's row changed again and again before it could be held".to_owned();
    Failure { kind: Kind::Later, message, code: String::new(), at: None }.into()
}

/// What cannot be undone any more because the connection is gone, the server undoes.
fn unless_lost(failure: Failure) -> Result<Answer, Failure> {
    if failure.kind == Kind::Lost { Err(failure) } else { Ok(Answer::default()) }
}

fn first(answer: &Answer) -> Option<&str> {
    answer.rows.first()?.first()?.as_deref()
}

/// Fences stay below 2^53: see [`crate::fence::Fence`].
fn fence_of(stamp: &Stamp) -> Value {
    Value::Integer(i64::try_from(stamp.fence.get()).unwrap_or(i64::MAX))
}

/// Inserts the row of the occurrence; false: it is there already. Waits for a transaction that has inserted it and is
/// not over.
async fn insert<D: Driver>(session: &mut D, sql: &Sql, stamp: &Stamp) -> Result<bool, Failure> {
    let checksum = sql.checksum.clone().map_or(Value::Null, Value::Text);
    let row = [Value::Text(stamp.scope.to_string()), Value::Text(stamp.run_id.clone()), fence_of(stamp), checksum];
    match session.ask(D::DIALECT.statements().insert_occurrence, &row).await {
        Ok(answer) => Ok(answer.affected > 0),
        Err(failure) if failure.kind == Kind::Duplicate => Ok(false),
        Err(failure) => Err(failure),
    }
}

/// The fence and the checksum of the occurrence's row.
async fn read<D: Driver>(session: &mut D, stamp: &Stamp) -> Result<Option<(u64, Option<String>)>, Failure> {
    let key = [Value::Text(stamp.scope.to_string()), Value::Text(stamp.run_id.clone())];
    let answer = session.ask(D::DIALECT.statements().read_occurrence, &key).await?;
    let Some(row) = answer.rows.into_iter().next() else { return Ok(None) };
    let mut row = row.into_iter();
    let fence = row.next().flatten().and_then(|fence| fence.parse().ok()).unwrap_or(0);
    Ok(Some((fence, row.next().flatten())))
}

/// The fence under which the occurrence was applied; `None`: it was not, for certain.
pub async fn look<D: Driver>(session: &mut D, sql: &Sql, stamp: &Stamp) -> Result<Option<u64>, Failure> {
    session.ask(D::BEGIN, &[]).await?;
    let found = match insert(session, sql, stamp).await {
        Ok(true) => None,
        Ok(false) => {
            let found = read(session, stamp).await?;
            Some(found.map_or(0, |(fence, _)| fence))
        }
        // Then nothing was ever applied here.
        Err(failure) if failure.kind == Kind::NoTable => None,
        Err(failure) => return Err(failure),
    };
    session.ask("ROLLBACK", &[]).await?;
    Ok(found)
}

/// Deletes a few rows of occurrences of this job that nobody will ask for any more. The rows of migrations have a
/// checksum, and stay. A transaction of its own, for it may fail: then the rows stay for now.
pub async fn prune<D: Driver>(session: &mut D, job: &Job, stamp: &Stamp, clock: &Clock) {
    if job.guarantee != Guarantee::ExactlyOnce {
        return;
    }
    let kept = DONE_KEPT.max(job.history.age);
    let before = clock.wall().minus(kept);
    let values = [
        Value::Text(stamp.scope.to_string()),
        Value::Text(format!("{}@", job.name)),
        Value::Text(format!("{}@{before}", job.name)),
        Value::Integer(i64::try_from(kept.as_secs()).unwrap_or(i64::MAX)),
    ];
    // The range of run ids finds them by the key; their age is the database's to say, whose clock wrote it.
    let text = match D::DIALECT {
        Dialect::Postgres => format!(
            "DELETE FROM fencron_done WHERE (scope, run_id) IN (SELECT scope, run_id FROM fencron_done \
             WHERE scope = $1 AND run_id >= $2 AND run_id < $3 AND checksum IS NULL \
             AND applied_at < now() - make_interval(secs => $4) LIMIT {PRUNED_AT_ONCE} FOR UPDATE SKIP LOCKED)"
        ),
        Dialect::Mysql => format!(
            "DELETE FROM fencron_done WHERE scope = ? AND run_id >= ? AND run_id < ? AND checksum IS NULL \
             AND applied_at < NOW(6) - INTERVAL ? SECOND ORDER BY scope, run_id LIMIT {PRUNED_AT_ONCE}"
        ),
        Dialect::Sqlite => format!(
            "DELETE FROM fencron_done WHERE (scope, run_id) IN (SELECT scope, run_id FROM fencron_done \
             WHERE scope = ?1 AND run_id >= ?2 AND run_id < ?3 AND checksum IS NULL \
             AND applied_at < strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-' || ?4 || ' seconds') LIMIT {PRUNED_AT_ONCE})"
        ),
    };
    if let Ok(Err(failure)) = tokio::time::timeout(PRUNE_LIMIT, session.ask(&text, &values)).await {
        tracing::debug!(job = job.name.as_str(), "old rows of fencron_done were not deleted: {}", failure.shown());
    }
}

/// What the placeholders of `statement` stand for, in their order.
fn values_of(statement: &Statement, sql: &Sql, stamp: &Stamp) -> Vec<Value> {
    let mut names: Vec<&str> = statement.names.iter().map(|name| name.name.as_str()).collect();
    if sql.kind == Database::Sqlite {
        // There a name is one placeholder, however often it stands in the statement.
        let mut seen = Vec::new();
        names.retain(|name| {
            !seen.contains(name) && {
                seen.push(*name);
                true
            }
        });
    }
    names.into_iter().map(|name| value_of(name, sql, stamp)).collect()
}

fn value_of(name: &str, sql: &Sql, stamp: &Stamp) -> Value {
    match name {
        "fence" => fence_of(stamp),
        "scope" => Value::Text(stamp.scope.to_string()),
        "run_id" => Value::Text(stamp.run_id.clone()),
        "attempt" => Value::Integer(i64::from(stamp.attempt)),
        // MariaDB takes no `T` and no zone; the session's zone is UTC.
        "scheduled_at" if sql.kind == Database::Mysql => {
            Value::Text(stamp.scheduled_at.to_utc().format("%Y-%m-%d %H:%M:%S%.3f").to_string())
        }
        "scheduled_at" => Value::Text(stamp.scheduled_at.to_string()),
        _ => match sql.params.get(name) {
            None | Some(Scalar::Null) => Value::Null,
            Some(Scalar::Bool(value)) => Value::Bool(*value),
            Some(Scalar::Integer(value)) => Value::Integer(*value),
            Some(Scalar::Real(value)) => value.parse().map_or_else(|_| Value::Text(value.clone()), Value::Real),
            Some(Scalar::Text(text)) => Value::Text(text.expose().to_owned()),
        },
    }
}
