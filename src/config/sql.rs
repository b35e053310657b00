//! `sql:` of a job: the keys, and how they are read.

use super::keys::{Key, Shape, key};
use super::walk::{Spot, Walk};
use crate::job::{Database, Sql};

/// The keys of `sql`.
pub static SQL: &[&[Key]] = &[&[
    key("database", Shape::Text, "Where the statements run: `postgres://…`, `mysql://…` or `sqlite:PATH`.")
        .also(&["url", "dsn"]),
    key("statement", Shape::Text, "The statements.").also(&["query", "sql", "text"]),
]];

/// Reads the statements at `spot`. What is wrong with them is noted.
pub fn read(walk: &mut Walk, spot: Spot) -> Option<Sql> {
    let fields = walk.fields(&spot)?;
    let url = walk.text(fields.get("database")?)?;
    let script = walk.text(fields.get("statement")?)?;
    let kind = match url.expose().split(':').next() {
        Some("postgres" | "postgresql") => Database::Postgres,
        Some("mysql" | "mariadb") => Database::Mysql,
        _ => Database::Sqlite,
    };
    Some(Sql { kind, url, script, transaction: true })
}

/// Why these statements cannot be run exactly once; `None`: they can.
pub fn why_not_exactly_once(sql: &Sql) -> Option<&'static str> {
    (!sql.transaction).then_some(
        "`exactly_once` needs a transaction, and this job has `transaction: false`: when its node is lost in the middle, \
         nobody can tell how far it came. Use `at_most_once` or `at_least_once`",
    )
}
