//! Statements that a job runs in a database, as plain data.

use super::Text;

/// Which database a job writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Database {
    Postgres,
    /// MySQL or MariaDB.
    Mysql,
    Sqlite,
}

/// Statements, and where they run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sql {
    pub kind: Database,
    /// Where it is and who asks, as a URL.
    pub url: Text,
    /// The statements.
    pub script: Text,
    /// In one transaction, with the guard's rows.
    pub transaction: bool,
}
