//! The row of an occurrence, and the mark beside it for as long as the occurrence is being applied.
//!
//! Where a statement may commit and not look like it (a procedure of MySQL), the row would be committed with a part of
//! the script, and the next attempt would count all of it as applied. Such a transaction therefore writes a second row,
//! the mark, at its beginning and deletes it at its end: an attempt that finds the mark knows that the end was not in
//! the same transaction.

use std::time::Duration;

use super::driver::{Answer, Driver, Failure, IDLE_LIMIT, Kind, Value};
use crate::fence::Stamp;
use crate::guard::sql::Dialect;
use crate::job::{Guarantee, Job, Sql};
use crate::time::Clock;

/// How long the row of an occurrence is kept at least.
pub const DONE_KEPT: Duration = Duration::from_secs(90 * 86_400);
/// How many rows of that age a run deletes at most, and how long that may take.
pub const PRUNED_AT_ONCE: u32 = 20;
const PRUNE_LIMIT: Duration = Duration::from_secs(5);

const _: () = assert!(PRUNE_LIMIT.as_millis() < IDLE_LIMIT.as_millis(), "what is too old is no reason to wait");

/// Fences stay below 2^53: see [`crate::fence::Fence`].
pub fn fence_of(stamp: &Stamp) -> Value {
    Value::Integer(i64::try_from(stamp.fence.get()).unwrap_or(i64::MAX))
}

/// Inserts the row of the occurrence; false: it is there already. Waits for a transaction that has inserted it and is
/// not over.
pub async fn insert<D: Driver>(session: &mut D, sql: &Sql, stamp: &Stamp) -> Result<bool, Failure> {
    let checksum = sql.checksum.clone().map_or(Value::Null, Value::Text);
    let row = [Value::Text(stamp.scope.to_string()), Value::Text(stamp.run_id.clone()), fence_of(stamp), checksum];
    inserted(session.ask(D::DIALECT.statements().insert_occurrence, &row).await)
}

fn inserted(asked: Result<Answer, Failure>) -> Result<bool, Failure> {
    match asked {
        Ok(answer) => Ok(answer.affected > 0),
        Err(failure) if failure.kind == Kind::Duplicate => Ok(false),
        Err(failure) => Err(failure),
    }
}

/// The fence and the checksum of the occurrence's row.
pub async fn read<D: Driver>(session: &mut D, stamp: &Stamp) -> Result<Option<(u64, Option<String>)>, Failure> {
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

/// Deletes a few rows of occurrences of this job that are not needed any more. The rows of migrations have a checksum,
/// and stay. A transaction of its own, for it may fail: then the rows stay for now.
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

/// The name of the mark's row.
fn mark_of(stamp: &Stamp) -> Value {
    Value::Text(format!("{}#begun", stamp.run_id))
}

/// Where the guard's tables are, as the script may go elsewhere with `USE`.
pub async fn home<D: Driver>(session: &mut D) -> Result<String, Failure> {
    let answer = session.ask("SELECT DATABASE()", &[]).await?;
    let name = answer.rows.into_iter().flatten().flatten().next().unwrap_or_default();
    Ok(format!("`{}`", name.replace('`', "``")))
}

/// Inserts the mark; false: it is there already.
pub async fn begin<D: Driver>(session: &mut D, stamp: &Stamp) -> Result<bool, Failure> {
    let row = [Value::Text(stamp.scope.to_string()), mark_of(stamp), fence_of(stamp), Value::Null];
    inserted(session.ask(D::DIALECT.statements().insert_occurrence, &row).await)
}

/// Whether the mark is there.
pub async fn has_begun<D: Driver>(session: &mut D, stamp: &Stamp) -> Result<bool, Failure> {
    let key = [Value::Text(stamp.scope.to_string()), mark_of(stamp)];
    Ok(session.ask(D::DIALECT.statements().read_occurrence, &key).await?.row_count > 0)
}

/// Deletes the mark: what comes after this is the commit.
pub async fn end<D: Driver>(session: &mut D, stamp: &Stamp, home: &str) -> Result<(), Failure> {
    let text = format!("DELETE FROM {home}.fencron_done WHERE scope = ? AND run_id = ?");
    let answer = session.ask(&text, &[Value::Text(stamp.scope.to_string()), mark_of(stamp)]).await?;
    match answer.affected {
        1 => Ok(()),
        _ => Err(Failure::gone("the row that says that this transaction is not over is not in it")),
    }
}

/// What is said of an occurrence whose mark is there.
pub fn cut_short(stamp: &Stamp) -> String {
    let (scope, run_id) = (&stamp.scope, &stamp.run_id);
    format!(
        "an earlier attempt at {run_id} ended its own transaction in the middle: a part of the script is committed, and \
         it is unknown how much. Complete it by hand and record that it was done, or undo it by hand and have it made \
         again, after `DELETE FROM fencron_done WHERE scope = '{scope}' AND run_id IN ('{run_id}', '{run_id}#begun')`"
    )
}
