//! The steps of one attempt, in any database.

use std::time::Duration;

use super::driver::{Answer, CurrentStatement, Driver, Failure, Kind, Value};
use super::message::Messages;
use super::occurrence::{self, fence_of};
use super::{COMMITTING, LOOSE, Progress, STOPPING};
use crate::execute;
use crate::execute::output::{OutputSink, Stream};
use crate::fence::{AFTER_NAMES, Stamp};
use crate::guard::sql::{Dialect, FenceCheck};
use crate::job::{Database, Guarantee, Job, Outcome, Place, Scalar, Sql, Statement};

/// How often a transaction is made again that lost against another one.
pub const CONFLICTS_MOST: u32 = 8;
/// The pause before the first time; it doubles from then on.
const CONFLICT_PAUSE: Duration = Duration::from_millis(20);
/// How often the way from the beginning to the guard is gone: to make the tables, to advance the row, after a newer
/// fence was let in meanwhile.
const ROUNDS_MOST: u32 = 8;
/// Why an attempt has no end of its own.
pub enum Broken {
    /// It is to stop, and nothing of it lasts.
    Stopped,
    /// A statement failed: one of the job's, at this place, or one of ours.
    Failed(Failure, Option<Place>),
    /// The transaction was ended by another than us, so that a part of it may last.
    Partial(Failure, Option<Place>),
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
    pub gate: &'a execute::Gate,
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
        self.session.enter(&self.sql.script, self.sql.transaction).await?;
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

    fn may_hide_a_commit(&self) -> bool {
        D::HIDES_COMMITS && self.sql.script.statements.iter().any(Statement::may_run_others)
    }

    /// Asks the guard, in the transaction that has just begun. Where it has to be asked again, that is over.
    async fn gate(&mut self) -> Result<Gate, Broken> {
        let statements = D::DIALECT.statements();
        let scope = Value::Text(self.stamp.scope.to_string());
        let seen = match self.ask(statements.hold, std::slice::from_ref(&scope)).await {
            Ok(answer) => first(&answer).and_then(|seen| seen.parse().ok()),
            Err(failure) => return self.without_tables(failure).await,
        };
        match FenceCheck::of(self.stamp.fence, seen) {
            FenceCheck::Stale { seen } => return Ok(Gate::Closed(Outcome::Fenced { seen: Some(seen) })),
            FenceCheck::TooFar { most } => {
                let why = format!(
                    "{} is no fence that the guard in the database can take: at most {most} is expected. If it is a true \
                     one, say so with `fencron guard reset {} --to {0}`",
                    self.stamp.fence, self.stamp.scope
                );
                return Ok(Gate::Closed(Outcome::Failed { why, again: crate::job::Again::Never }));
            }
            FenceCheck::Behind => {
                self.ask("ROLLBACK", &[]).await.or_else(unless_lost)?;
                let advanced = self.ask(statements.advance, &[scope, fence_of(self.stamp)]).await;
                advanced.map_err(|failure| self.of_guard(failure))?;
                return Ok(Gate::Again);
            }
            FenceCheck::Current => {}
        }
        if self.job.guarantee != Guarantee::ExactlyOnce {
            return Ok(Gate::Open);
        }
        match occurrence::insert(self.session, self.sql, self.stamp).await {
            Ok(true) if !self.may_hide_a_commit() => Ok(Gate::Open),
            Ok(true) => match occurrence::begin(self.session, self.stamp).await {
                Ok(true) => Ok(Gate::Open),
                Ok(false) => Ok(Gate::Closed(Outcome::Partial(occurrence::cut_short(self.stamp)))),
                Err(failure) => Err(self.of_guard(failure).into()),
            },
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
        if D::HIDES_COMMITS {
            let begun = occurrence::has_begun(self.session, self.stamp).await;
            if begun.map_err(|failure| self.of_guard(failure))? {
                return Ok(Outcome::Partial(occurrence::cut_short(self.stamp)));
            }
        }
        let Some(ours) = &self.sql.checksum else { return Ok(Outcome::AlreadyApplied) };
        let row = occurrence::read(self.session, self.stamp).await.map_err(|failure| self.of_guard(failure))?;
        let theirs = row.and_then(|(_, checksum)| checksum);
        if theirs.as_ref().is_some_and(|theirs| theirs == ours || self.sql.checksums_before.contains(theirs)) {
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
            _ if is_lock_timeout(&failure) => Failure { kind: Kind::Conflict, ..failure },
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
        let home = match self.job.guarantee {
            Guarantee::ExactlyOnce if self.may_hide_a_commit() => Some(occurrence::home(self.session).await?),
            _ => None,
        };
        if self.may_hide_a_commit() || !D::HIDES_COMMITS {
            self.session.mark().await?;
        }
        let ran = self.statements(true).await.and_then(|()| self.check());
        if matches!(ran, Ok(()) | Err(Broken::Stopped)) {
            self.session.confirm().await.map_err(|failure| broken(failure, None))?;
        }
        ran?;
        if let Some(home) = &home {
            let ended = occurrence::end(self.session, self.stamp, home).await;
            ended.map_err(|failure| broken(self.of_guard(failure), None))?;
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
        if self.gate.ask().is_err() {
            return Err(Broken::Stopped);
        }
        self.statements(false).await?;
        if self.session.is_open().await? {
            let why = "the script began a transaction and did not end it, so that what came after its beginning is \
                       undone: write `COMMIT` at the end of it";
            return Err(Failure::never(why).into());
        }
        Ok(Outcome::Done)
    }

    async fn statements(&mut self, in_transaction: bool) -> Result<(), Broken> {
        let (sql, stamp) = (self.sql, self.stamp);
        let script = &sql.script;
        for (index, statement) in script.statements.iter().enumerate() {
            self.check()?;
            if !in_transaction {
                self.progress.come_to(LOOSE);
            }
            let values = values_of(statement, sql, stamp);
            let next = script.statements.get(index + 1);
            let current = CurrentStatement { script, statement, next, values, in_transaction };
            match self.session.perform(&current).await {
                Ok(answer) => {
                    let text = self.messages.answer(statement.place, &answer);
                    self.output.write(Stream::Stdout, text.as_bytes());
                    self.output.settle().await;
                }
                Err(failure) => return Err(self.why_broken(failure, statement, in_transaction).await),
            }
        }
        Ok(())
    }

    /// What a statement that failed has done to the transaction.
    async fn why_broken(&mut self, mut failure: Failure, statement: &Statement, in_transaction: bool) -> Broken {
        let at = failure.at.unwrap_or(0);
        let place = Some(Place::within(&statement.text, at, statement.place));
        if D::DIALECT == Dialect::Mysql && failure.code.ends_with("error 1064") && statement.looks_cut_up() {
            failure.message.push_str(
                ": if this `;` is part of a body, put `DELIMITER //` in a line before the statement, `//` behind it, and \
                 `DELIMITER ;` after that",
            );
        }
        // What it called may have committed before it failed. A transaction that lost against another is undone whole,
        // and the attempt that repeats it finds out.
        let may_be_gone = in_transaction && D::HIDES_COMMITS && !matches!(failure.kind, Kind::Lost | Kind::Conflict);
        if may_be_gone
            && failure.kind != Kind::Gone
            && !is_lock_timeout(&failure)
            && let Err(gone) = self.session.confirm().await
            && gone.kind == Kind::Gone
        {
            failure = Failure { message: format!("{}; and {}", failure.message, gone.message), ..gone };
        }
        broken(failure, place)
    }
}

fn is_lock_timeout(failure: &Failure) -> bool {
    failure.code.ends_with("error 1205")
}

/// A transaction that is not the one which was begun may have left something.
fn broken(failure: Failure, place: Option<Place>) -> Broken {
    if failure.kind == Kind::Gone { Broken::Partial(failure, place) } else { Broken::Failed(failure, place) }
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

/// What the run follows; NULL where it follows none, or that is not known.
fn after_value(name: &str, stamp: &Stamp) -> Value {
    let Some(after) = &stamp.after else { return Value::Null };
    if name == "after_exit_code" {
        let code = after.end.as_ref().and_then(|end| end.exit_code);
        return code.map_or(Value::Null, |code| Value::Integer(i64::from(code)));
    }
    let known = AFTER_NAMES.into_iter().zip(after.values()).find(|(known, _)| *known == name);
    // PostgreSQL takes no NUL in a text.
    known.and_then(|(_, value)| value).map_or(Value::Null, |value| Value::Text(value.replace('\0', " ")))
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
        _ if AFTER_NAMES.contains(&name) => after_value(name, stamp),
        _ => match sql.params.get(name) {
            None | Some(Scalar::Null) => Value::Null,
            Some(Scalar::Bool(value)) => Value::Bool(*value),
            Some(Scalar::Integer(value)) => Value::Integer(*value),
            Some(Scalar::Real(value)) => value.parse().map_or_else(|_| Value::Text(value.clone()), Value::Real),
            Some(Scalar::Text(text)) => Value::Text(text.expose().to_owned()),
        },
    }
}
