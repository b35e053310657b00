//! Whether a database takes what an attempt needs, without an attempt: the login, and the guard's rows, in a transaction
//! that is rolled back.

use super::driver::{CONNECT_LIMIT, Driver, Failure, Kind, Value};
use super::message::{Messages, Secrets};
use super::{connect, goodbye, mysql, postgres, sqlite};
use crate::guard::sql::Dialect;
use crate::job::{Database, Outcome, Sql};

/// What a database would do for an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fitness {
    Fit,
    /// The guard's tables are not there. Where that can be tried without a trace, the user may make them.
    WithoutTables,
    /// No attempt can come to its statements, and why.
    Unfit(String),
}

/// Examines the database of these statements.
pub async fn examine(sql: &Sql) -> Fitness {
    match sql.kind {
        Database::Postgres => probe::<postgres::Postgres>(sql).await,
        Database::Mysql => probe::<mysql::Mysql>(sql).await,
        Database::Sqlite => probe::<sqlite::Sqlite>(sql).await,
    }
}

async fn probe<D: Driver>(sql: &Sql) -> Fitness {
    let messages = Messages { sql, secrets: Secrets::of(sql) };
    let mut session = match connect::<D>(sql).await {
        Ok(session) => session,
        Err(failure) => return Fitness::Unfit(why(messages.unreachable(&failure))),
    };
    let asking = tokio::time::timeout(CONNECT_LIMIT, look(&mut session));
    let looked = asking.await.unwrap_or_else(|_| Err(Failure::lost(format!("no answer within {CONNECT_LIMIT:?}"))));
    goodbye(session).await;
    match looked {
        Ok(fitness) => fitness,
        Err(failure) if failure.kind == Kind::NoRight => {
            Fitness::Unfit(why(messages.failed(&messages.no_right_to_guard(&failure), None)))
        }
        Err(failure) => Fitness::Unfit(why(messages.failed(&failure, None))),
    }
}

async fn look<D: Driver>(session: &mut D) -> Result<Fitness, Failure> {
    match undone(session, false).await {
        Ok(()) => Ok(Fitness::Fit),
        // There a table that is made stays, whatever becomes of the transaction.
        Err(failure) if failure.kind == Kind::NoTable && D::DIALECT == Dialect::Mysql => Ok(Fitness::WithoutTables),
        Err(failure) if failure.kind == Kind::NoTable => undone(session, true).await.map(|()| Fitness::WithoutTables),
        Err(failure) => Err(failure),
    }
}

/// Writes the guard's rows as an attempt would, and rolls that back.
async fn undone<D: Driver>(session: &mut D, with_tables: bool) -> Result<(), Failure> {
    session.ask(D::BEGIN, &[]).await?;
    let written = write(session, with_tables).await;
    // Where it is not answered, the end of the connection does it.
    let rolled_back = session.ask("ROLLBACK", &[]).await;
    written.and(rolled_back.map(drop))
}

async fn write<D: Driver>(session: &mut D, with_tables: bool) -> Result<(), Failure> {
    let statements = D::DIALECT.statements();
    if with_tables {
        for table in statements.tables {
            session.ask(table, &[]).await?;
        }
    }
    // A scope of its own, so that no attempt waits for its row.
    let scope = Value::Text(format!("~doctor/{}", uuid::Uuid::new_v4().simple()));
    let (run, fence) = (Value::Text("~doctor".to_owned()), Value::Integer(1));
    session.ask(statements.hold, std::slice::from_ref(&scope)).await?;
    session.ask(statements.advance, &[scope.clone(), fence.clone()]).await?;
    session.ask(statements.insert_occurrence, &[scope.clone(), run.clone(), fence, Value::Null]).await?;
    session.ask(statements.read_occurrence, &[scope, run]).await.map(drop)
}

fn why(outcome: Outcome) -> String {
    match outcome {
        Outcome::Failed { why, .. } => why,
        other => format!("{other:?}"),
    }
}
