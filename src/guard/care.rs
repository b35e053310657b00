//! Shows what guards have seen, and lowers it: for people, after a fence was let in that was none.
//!
//! In a database there may be both: the state of guards ([`super::StateUrl`]), and the tables that transactions ask
//! ([`super::sql`]).

use std::fmt;
#[cfg(feature = "sqlite")]
use std::path::PathBuf;
use std::str::FromStr;

#[cfg(feature = "sql")]
use super::state::{connect_to_postgres, message_of};
use super::{FENCE_MOST, StateError, StateUrl};
use crate::fence::Fence;

#[cfg(feature = "sqlite")]
mod sqlite;

/// How many scopes are shown of one table.
pub const SHOWN_MOST: usize = 10_000;

/// Where guards keep what they have seen.
#[derive(Clone, PartialEq, Eq)]
pub enum Kept {
    #[cfg(feature = "sqlite")]
    Sqlite(PathBuf),
    #[cfg(feature = "sql")]
    Postgres(String),
    #[cfg(feature = "sql")]
    Mysql(String),
}

/// A text that says nowhere where they could. It is not repeated: there may be a password in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this is no place where a guard keeps what it has seen: write sqlite:PATH, postgres://USER@HOST/DATABASE or \
     mysql://USER@HOST/DATABASE. A guard with its state in memory forgets it when it is started again"
)]
pub struct NotKept;

impl FromStr for Kept {
    type Err = NotKept;

    fn from_str(text: &str) -> Result<Kept, NotKept> {
        #[cfg(feature = "sql")]
        if text.starts_with("mysql://") {
            return Ok(Kept::Mysql(text.to_owned()));
        }
        match text.parse() {
            #[cfg(feature = "sqlite")]
            Ok(StateUrl::Sqlite(path)) => Ok(Kept::Sqlite(path)),
            #[cfg(feature = "sql")]
            Ok(StateUrl::Postgres(url)) => Ok(Kept::Postgres(url)),
            _ => Err(NotKept),
        }
    }
}

/// Without what is secret.
impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            #[cfg(feature = "sqlite")]
            Kept::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            #[cfg(feature = "sql")]
            Kept::Postgres(url) => fmt::Display::fmt(&StateUrl::Postgres(url.clone()), f),
            // A password may stand in the parameters as well.
            #[cfg(feature = "sql")]
            Kept::Mysql(url) if url.contains('?') => f.write_str("mysql://…"),
            #[cfg(feature = "sql")]
            Kept::Mysql(url) => {
                let place = url.trim_start_matches("mysql://");
                write!(f, "mysql://{}", place.rsplit_once('@').map_or(place, |(_, place)| place))
            }
        }
    }
}

/// What one scope has seen.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SeenScope {
    /// Of guards: what they guard. `None`: it stands in the tables that transactions ask.
    pub resource: Option<String>,
    pub scope: String,
    pub fence: u64,
}

/// The statements of one table.
struct Table {
    /// Whether resource and scope stand in its names.
    of_guards: bool,
    /// Answers with one number: 0, it is not there.
    is_there: &'static str,
    /// Name and fence.
    select: &'static str,
    delete: &'static str,
    insert: &'static str,
}

impl Table {
    fn name_of(&self, seen: &SeenScope) -> String {
        match &seen.resource {
            Some(resource) => format!("{resource}\n{}", seen.scope),
            None => seen.scope.clone(),
        }
    }

    fn seen(&self, name: String, fence: i64) -> SeenScope {
        let fence = u64::try_from(fence).unwrap_or_default();
        match name.split_once('\n').filter(|_| self.of_guards) {
            Some((resource, scope)) => {
                SeenScope { resource: Some(resource.to_owned()), scope: scope.to_owned(), fence }
            }
            None => SeenScope { resource: None, scope: name, fence },
        }
    }

    fn has(&self, seen: &SeenScope) -> bool {
        self.of_guards == seen.resource.is_some()
    }
}

#[cfg(feature = "sql")]
const POSTGRES: [Table; 2] = [
    Table {
        of_guards: true,
        is_there: "SELECT count(to_regclass('fencron_guard_scopes'))",
        select: "SELECT name, fence FROM fencron_guard_scopes ORDER BY name LIMIT $1",
        delete: "DELETE FROM fencron_guard_scopes WHERE name = $1",
        insert: "INSERT INTO fencron_guard_scopes VALUES ($1, $2)",
    },
    Table {
        of_guards: false,
        is_there: "SELECT count(to_regclass('fencron_guard'))",
        select: "SELECT scope, fence FROM fencron_guard ORDER BY scope LIMIT $1",
        delete: "DELETE FROM fencron_guard WHERE scope = $1",
        insert: "INSERT INTO fencron_guard (scope, fence) VALUES ($1, $2)",
    },
];

#[cfg(feature = "sql")]
const MYSQL: [Table; 1] = [Table {
    of_guards: false,
    is_there: "SELECT count(*) FROM information_schema.tables WHERE table_schema = DATABASE() \
               AND table_name = 'fencron_guard'",
    select: "SELECT scope, fence FROM fencron_guard ORDER BY scope LIMIT ?",
    delete: "DELETE FROM fencron_guard WHERE scope = ?",
    insert: "INSERT INTO fencron_guard (scope, fence) VALUES (?, ?)",
}];

impl Kept {
    /// All scopes that guards have seen a fence of.
    ///
    /// # Errors
    ///
    /// Where it cannot be read.
    pub async fn scopes(&self) -> Result<Vec<SeenScope>, StateError> {
        match self {
            #[cfg(feature = "sqlite")]
            Kept::Sqlite(path) => {
                let path = path.clone();
                self.blocking(move || sqlite::SqliteFile::open(&path)?.scopes()).await
            }
            #[cfg(feature = "sql")]
            Kept::Postgres(url) => scopes_of_postgres(url).await.map_err(|error| self.unavailable(&error)),
            #[cfg(feature = "sql")]
            Kept::Mysql(url) => scopes_of_mysql(url).await.map_err(|error| self.unavailable(&error)),
        }
    }

    /// Makes `to` the greatest fence that the scope has seen, or forgets the one it has: then the next one is let in,
    /// whichever it is. What is in flight, and what is done, stays as it is. `false`: the scope has seen another fence
    /// meanwhile than `seen` says, and nothing was changed.
    ///
    /// # Errors
    ///
    /// Where it cannot be written.
    pub async fn reset(&self, seen: &SeenScope, to: Option<Fence>) -> Result<bool, StateError> {
        let to = to.map(|fence| i64::try_from(fence.get().min(FENCE_MOST)).unwrap_or(i64::MAX));
        match self {
            #[cfg(feature = "sqlite")]
            Kept::Sqlite(path) => {
                let (path, seen) = (path.clone(), seen.clone());
                self.blocking(move || sqlite::SqliteFile::open(&path)?.reset(&seen, to)).await
            }
            #[cfg(feature = "sql")]
            Kept::Postgres(url) => reset_in_postgres(url, seen, to).await.map_err(|error| self.unavailable(&error)),
            #[cfg(feature = "sql")]
            Kept::Mysql(url) => reset_in_mysql(url, seen, to).await.map_err(|error| self.unavailable(&error)),
        }
    }

    #[cfg(feature = "sqlite")]
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, StateError> + Send + 'static,
    ) -> Result<T, StateError> {
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(self.unavailable(&error)))
    }

    fn unavailable(&self, why: &dyn fmt::Display) -> StateError {
        StateError::Unavailable { state: self.to_string(), why: why.to_string() }
    }
}

#[cfg(feature = "sql")]
async fn scopes_of_postgres(url: &str) -> Result<Vec<SeenScope>, String> {
    let client = connect_to_postgres(url).await?;
    let mut all = Vec::new();
    for table in POSTGRES {
        let there: i64 = client.query_one(table.is_there, &[]).await.map_err(|error| message_of(&error))?.get(0);
        if there > 0 {
            let rows = client.query(table.select, &[&(SHOWN_MOST as i64)]).await.map_err(|error| message_of(&error))?;
            all.extend(rows.iter().map(|row| table.seen(row.get(0), row.get(1))));
        }
    }
    Ok(all)
}

#[cfg(feature = "sql")]
async fn reset_in_postgres(url: &str, seen: &SeenScope, to: Option<i64>) -> Result<bool, String> {
    let mut client = connect_to_postgres(url).await?;
    let transaction = client.transaction().await.map_err(|error| message_of(&error))?;
    for table in POSTGRES.iter().filter(|table| table.has(seen)) {
        let name = table.name_of(seen);
        let delete = format!("{} AND fence = $2", table.delete);
        let deleted = transaction.execute(&delete, &[&name, &seen.fence.cast_signed()]).await;
        if deleted.map_err(|error| message_of(&error))? == 0 {
            return Ok(false);
        }
        if let Some(to) = to {
            transaction.execute(table.insert, &[&name, &to]).await.map_err(|error| message_of(&error))?;
        }
    }
    transaction.commit().await.map_err(|error| message_of(&error))?;
    Ok(true)
}

#[cfg(feature = "sql")]
async fn scopes_of_mysql(url: &str) -> Result<Vec<SeenScope>, mysql_async::Error> {
    use mysql_async::prelude::Queryable as _;
    let mut connection = mysql_async::Conn::new(mysql_async::Opts::from_url(url)?).await?;
    let mut all = Vec::new();
    for table in MYSQL {
        if connection.query_first::<i64, _>(table.is_there).await?.is_some_and(|there| there > 0) {
            let rows: Vec<(String, i64)> = connection.exec(table.select, (SHOWN_MOST as u64,)).await?;
            all.extend(rows.into_iter().map(|(name, fence)| table.seen(name, fence)));
        }
    }
    connection.disconnect().await?;
    Ok(all)
}

#[cfg(feature = "sql")]
async fn reset_in_mysql(url: &str, seen: &SeenScope, to: Option<i64>) -> Result<bool, mysql_async::Error> {
    use mysql_async::prelude::Queryable as _;
    let mut connection = mysql_async::Conn::new(mysql_async::Opts::from_url(url)?).await?;
    let mut transaction = connection.start_transaction(mysql_async::TxOpts::default()).await?;
    for table in MYSQL.iter().filter(|table| table.has(seen)) {
        let name = table.name_of(seen);
        let delete = format!("{} AND fence = ?", table.delete);
        transaction.exec_drop(delete, (name.as_str(), seen.fence)).await?;
        if transaction.affected_rows() == 0 {
            transaction.rollback().await?;
            return Ok(false);
        }
        if let Some(to) = to {
            transaction.exec_drop(table.insert, (name.as_str(), to)).await?;
        }
    }
    transaction.commit().await?;
    connection.disconnect().await?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_is_shown() {
        for url in ["mysql://u:hunter2@db/shop", "mysql://u:p@hunter2@db/shop", "mysql://db/shop?password=p@hunter2"] {
            let kept: Kept = url.parse().unwrap();
            assert!(!kept.to_string().contains("hunter2"), "{kept}");
        }
        assert_eq!("mysql://u:hunter2@db/shop".parse::<Kept>().unwrap().to_string(), "mysql://db/shop");
        assert!("memory".parse::<Kept>().is_err());
    }
}
