//! The guard in the database's own transactions, as `fencron guard sql` prints it.

use std::path::PathBuf;
use std::time::Duration;

use fencron::guard::sql::{Dialect, FenceCheck, MYSQL_STALE, POSTGRES_STALE};
use mysql_async::prelude::Queryable as _;
use rusqlite::{Connection, TransactionBehavior, params};
use tempfile::TempDir;
use tokio_postgres::NoTls;
use tokio_postgres::error::SqlState;

use super::door::{Door, Got, Sent};
use super::service::Service;
use crate::support::databases::{Database, Kind, Server};
use crate::support::{PATIENCE, soon};

const EFFECTS: &str = "SELECT mark FROM effects ORDER BY nth";

/// A database whose every effect is a transaction that asks the guard first, on a connection of its own.
pub struct SqlDoor {
    target: Target,
    service: Service,
}

enum Target {
    Postgres(Database, &'static str),
    Mariadb(Database),
    Sqlite(TempDir),
}

impl SqlDoor {
    /// Transactions have this isolation.
    pub async fn postgres(isolation: &'static str) -> SqlDoor {
        let server = Server::shared(Kind::Postgres);
        let database = server.database();
        for _ in 0..2 {
            server.ask(&database.name, &Dialect::Postgres.script());
        }
        server.ask(&database.name, "CREATE TABLE effects (nth bigserial PRIMARY KEY, mark text NOT NULL)");
        SqlDoor { target: Target::Postgres(database, isolation), service: Service::new() }
    }

    pub async fn mariadb() -> SqlDoor {
        let server = Server::shared(Kind::Mariadb);
        let database = server.database();
        for _ in 0..2 {
            server.ask(&database.name, &Dialect::Mysql.script());
        }
        server.ask(&database.name, "CREATE TABLE effects (nth bigint AUTO_INCREMENT PRIMARY KEY, mark text NOT NULL)");
        SqlDoor { target: Target::Mariadb(database), service: Service::new() }
    }

    pub async fn sqlite() -> SqlDoor {
        let directory = tempfile::tempdir().unwrap();
        let connection = Connection::open(sqlite_path(&directory)).unwrap();
        connection.pragma_update(None, "journal_mode", "wal").unwrap();
        for _ in 0..2 {
            connection.execute_batch(&Dialect::Sqlite.script()).unwrap();
        }
        connection.execute_batch("CREATE TABLE effects (nth INTEGER PRIMARY KEY, mark TEXT NOT NULL)").unwrap();
        SqlDoor { target: Target::Sqlite(directory), service: Service::new() }
    }

    /// The effect has begun, in a transaction that is open.
    async fn begin(&self, sent: Sent<'_>) {
        self.service.start();
        if sent.payload == "hold" {
            self.service.released().await;
        }
    }

    async fn to_postgres(&self, database: &Database, isolation: &str, sent: Sent<'_>) -> Got {
        let (client, connection) = tokio_postgres::connect(&database.url, NoTls).await.unwrap();
        tokio::spawn(connection);
        let fence = i64::try_from(sent.fence).unwrap();
        let outcome: Result<Got, tokio_postgres::Error> = async {
            client.batch_execute(&format!("BEGIN ISOLATION LEVEL {isolation}")).await?;
            let go = client.query_one("SELECT fencron_guard($1, $2, $3)", &[&sent.scope, &fence, &sent.key]).await?;
            if !go.get::<_, bool>(0) {
                return Ok(Got::Replayed(String::new()));
            }
            client.execute("INSERT INTO effects (mark) VALUES ($1)", &[&sent.mark()]).await?;
            if self.service.failing() {
                return Ok(Got::Failed);
            }
            self.begin(sent).await;
            client.batch_execute("COMMIT").await?;
            Ok(Got::Done(String::new()))
        }
        .await;
        match outcome {
            Ok(got) => got,
            Err(error) if error.code().map(SqlState::code) == Some(POSTGRES_STALE) => Got::Stale,
            // To be repeated as a whole, as the script says.
            Err(error) if error.code() == Some(&SqlState::T_R_SERIALIZATION_FAILURE) => {
                Box::pin(self.to_postgres(database, isolation, sent)).await
            }
            Err(error) => Got::Other(format!("{error:?}")),
        }
    }

    async fn to_mariadb(&self, database: &Database, sent: Sent<'_>) -> Got {
        let opts = mysql_async::Opts::from_url(&database.url).unwrap();
        let mut conn = mysql_async::Conn::new(opts).await.unwrap();
        let outcome: mysql_async::Result<Got> = async {
            conn.query_drop("START TRANSACTION").await?;
            conn.exec_drop("CALL fencron_guard(?, ?, ?, @go)", (sent.scope, sent.fence, sent.key)).await?;
            let go: Option<bool> = conn.query_first("SELECT @go").await?;
            if go != Some(true) {
                return Ok(Got::Replayed(String::new()));
            }
            conn.exec_drop("INSERT INTO effects (mark) VALUES (?)", (sent.mark(),)).await?;
            if self.service.failing() {
                return Ok(Got::Failed);
            }
            self.begin(sent).await;
            conn.query_drop("COMMIT").await?;
            Ok(Got::Done(String::new()))
        }
        .await;
        conn.query_drop("ROLLBACK").await.unwrap();
        conn.disconnect().await.unwrap();
        match outcome {
            Ok(got) => got,
            Err(mysql_async::Error::Server(error)) if error.state == MYSQL_STALE && error.code == 30412 => Got::Stale,
            Err(error) => Got::Other(format!("{error:?}")),
        }
    }

    async fn to_sqlite(&self, directory: &TempDir, sent: Sent<'_>) -> Got {
        // SQLite blocks the thread that waits for its lock.
        let path = sqlite_path(directory);
        let (scope, key) = (sent.scope.to_owned(), sent.key.map(str::to_owned));
        let (fence, mark, failing) = (sent.fence.cast_signed(), sent.mark(), self.service.failing());
        let begin = move || begin_on_sqlite(path, (&scope, fence, key.as_deref()), &mark, failing);
        let connection = match tokio::task::spawn_blocking(begin).await.unwrap() {
            Ok(connection) => connection,
            Err(got) => return got,
        };
        self.begin(sent).await;
        connection.execute_batch("COMMIT").unwrap();
        Got::Done(String::new())
    }
}

fn sqlite_path(directory: &TempDir) -> PathBuf {
    directory.path().join("shop.db")
}

/// The transaction, up to its commit.
fn begin_on_sqlite(
    path: PathBuf,
    (scope, fence, key): (&str, i64, Option<&str>),
    mark: &str,
    failing: bool,
) -> Result<Connection, Got> {
    let connection = Connection::open(path).unwrap();
    connection.busy_timeout(PATIENCE).unwrap();
    connection.execute_batch("BEGIN IMMEDIATE").unwrap();
    let see = "INSERT INTO fencron_guard (scope, fence) VALUES (?1, ?2) \
               ON CONFLICT (scope) DO UPDATE SET fence = excluded.fence";
    if let Err(error) = connection.execute(see, params![scope, fence]) {
        let stale = error.to_string().contains("fencron: stale fence");
        return Err(if stale { Got::Stale } else { Got::Other(error.to_string()) });
    }
    if let Some(key) = key {
        let done = "INSERT INTO fencron_done (scope, run_id, fence) VALUES (?1, ?2, ?3) \
                    ON CONFLICT (scope, run_id) DO NOTHING";
        if connection.execute(done, params![scope, key, fence]).unwrap() == 0 {
            return Err(Got::Replayed(String::new()));
        }
    }
    connection.execute("INSERT INTO effects (mark) VALUES (?1)", [mark]).unwrap();
    if failing { Err(Got::Failed) } else { Ok(connection) }
}

impl Door for SqlDoor {
    async fn send(&self, sent: Sent<'_>) -> Got {
        match &self.target {
            Target::Postgres(database, isolation) => self.to_postgres(database, isolation, sent).await,
            Target::Mariadb(database) => self.to_mariadb(database, sent).await,
            Target::Sqlite(directory) => self.to_sqlite(directory, sent).await,
        }
    }

    async fn effects(&self) -> Vec<String> {
        let lines = |text: String| text.lines().map(str::to_owned).collect();
        match &self.target {
            Target::Postgres(database, _) => lines(Server::shared(Kind::Postgres).ask(&database.name, EFFECTS)),
            Target::Mariadb(database) => lines(Server::shared(Kind::Mariadb).ask(&database.name, EFFECTS)),
            Target::Sqlite(directory) => {
                let connection = Connection::open(sqlite_path(directory)).unwrap();
                let mut statement = connection.prepare(EFFECTS).unwrap();
                statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
            }
        }
    }

    async fn begun(&self, count: usize) {
        self.service.begun(count).await;
    }

    fn release(&self) {
        self.service.release();
    }

    fn fail(&self, failing: bool) {
        self.service.fail(failing);
    }

    /// The guard is in the tables, and every transaction has a connection of its own.
    async fn restart(&mut self) {}
}

fn fence(number: u64) -> fencron::fence::Fence {
    fencron::fence::Fence::new(number).unwrap()
}

/// What the statements that are run one by one say, on a connection that is open: hold, and how we stand.
async fn hold(client: &tokio_postgres::Client, ours: u64) -> Result<FenceCheck, tokio_postgres::Error> {
    let row = client.query_opt(Dialect::Postgres.statements().hold, &[&"s"]).await?;
    Ok(FenceCheck::of(fence(ours), row.map(|row| row.get(0))))
}

async fn tables_in_postgres() -> Database {
    let server = Server::shared(Kind::Postgres);
    let database = server.database();
    for table in Dialect::Postgres.statements().tables {
        server.ask(&database.name, table);
    }
    database
}

async fn client_of(database: &Database) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(&database.url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// How long something that must not happen is waited for.
const A_WHILE: Duration = Duration::from_millis(300);

#[tokio::test]
async fn in_postgres_one_term_shares_the_row_and_the_next_one_waits_for_it() {
    let database = tables_in_postgres().await;
    let statements = Dialect::Postgres.statements();
    let (first, second, newer) = (client_of(&database).await, client_of(&database).await, client_of(&database).await);
    assert_eq!(hold(&first, 7).await.unwrap(), FenceCheck::Behind);
    first.execute(statements.advance, &[&"s", &7_i64]).await.unwrap();
    for client in [&first, &second] {
        client.batch_execute("BEGIN").await.unwrap();
        assert_eq!(soon("a shared row", hold(client, 7)).await.unwrap(), FenceCheck::Current);
    }
    let values: [&(dyn tokio_postgres::types::ToSql + Sync); 2] = [&"s", &8_i64];
    let mut advancing = Box::pin(newer.execute(statements.advance, &values));
    assert!(tokio::time::timeout(A_WHILE, &mut advancing).await.is_err(), "advanced past a transaction under 7");
    first.batch_execute("COMMIT").await.unwrap();
    assert!(tokio::time::timeout(A_WHILE, &mut advancing).await.is_err(), "advanced past the other one");
    second.batch_execute("COMMIT").await.unwrap();
    soon("the advance", advancing).await.unwrap();
    assert_eq!(hold(&first, 7).await.unwrap(), FenceCheck::Stale { seen: fence(8) });
    newer.execute(statements.advance, &[&"s", &5_i64]).await.unwrap();
    assert_eq!(hold(&newer, 8).await.unwrap(), FenceCheck::Current, "an advance never lowers it");
}

#[tokio::test]
async fn in_postgres_a_snapshot_from_before_the_advance_is_never_current() {
    let database = tables_in_postgres().await;
    let statements = Dialect::Postgres.statements();
    let (old, newer) = (client_of(&database).await, client_of(&database).await);
    newer.execute(statements.advance, &[&"s", &7_i64]).await.unwrap();
    for isolation in ["REPEATABLE READ", "SERIALIZABLE"] {
        old.batch_execute(&format!("BEGIN ISOLATION LEVEL {isolation}; SELECT 1 FROM fencron_guard")).await.unwrap();
        newer.execute("UPDATE fencron_guard SET fence = fence + 1", &[]).await.unwrap();
        let error = hold(&old, 7).await.unwrap_err();
        assert_eq!(error.code(), Some(&SqlState::T_R_SERIALIZATION_FAILURE), "{isolation}");
        old.batch_execute("ROLLBACK").await.unwrap();
    }
}

#[tokio::test]
async fn in_postgres_an_occurrence_is_inserted_once() {
    let database = tables_in_postgres().await;
    let (client, statements) = (client_of(&database).await, Dialect::Postgres.statements());
    for inserted in [1, 0] {
        let values: [&(dyn tokio_postgres::types::ToSql + Sync); 4] = [&"s", &"report@02", &7_i64, &Some("abc")];
        assert_eq!(client.execute(statements.insert_occurrence, &values).await.unwrap(), inserted);
    }
    let row = client.query_one(statements.read_occurrence, &[&"s", &"report@02"]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, &str>(1)), (7, "abc"));
}

#[tokio::test]
async fn in_mariadb_one_term_shares_the_row_and_the_next_one_waits_for_it() {
    let server = Server::shared(Kind::Mariadb);
    let (database, statements) = (server.database(), Dialect::Mysql.statements());
    for table in statements.tables {
        server.ask(&database.name, table);
    }
    let pool = mysql_async::Pool::new(database.url.as_str());
    let (mut first, mut second) = (pool.get_conn().await.unwrap(), pool.get_conn().await.unwrap());
    let mut newer = pool.get_conn().await.unwrap();
    for _ in 0..2 {
        first.exec_drop(statements.advance, ("s", 7)).await.unwrap();
    }
    for conn in [&mut first, &mut second] {
        conn.query_drop("START TRANSACTION").await.unwrap();
        let seen = soon("a shared row", conn.exec_first(statements.hold, ("s",))).await.unwrap();
        assert_eq!(FenceCheck::of(fence(7), seen), FenceCheck::Current);
    }
    let mut advancing = Box::pin(newer.exec_drop(statements.advance, ("s", 8)));
    assert!(tokio::time::timeout(A_WHILE, &mut advancing).await.is_err(), "advanced past a transaction under 7");
    first.query_drop("COMMIT").await.unwrap();
    second.query_drop("COMMIT").await.unwrap();
    soon("the advance", advancing).await.unwrap();
    first.exec_drop(statements.advance, ("s", 5)).await.unwrap();
    let seen: Option<i64> = first.exec_first(statements.hold, ("s",)).await.unwrap();
    assert_eq!(FenceCheck::of(fence(7), seen), FenceCheck::Stale { seen: fence(8) });

    let values = ("s", "report@02", 7, Some("abc"));
    first.exec_drop(statements.insert_occurrence, values).await.unwrap();
    match first.exec_drop(statements.insert_occurrence, values).await {
        Err(mysql_async::Error::Server(error)) => assert_eq!(error.code, 1062),
        other => panic!("{other:?}"),
    }
    let row: Option<(i64, String)> = first.exec_first(statements.read_occurrence, ("s", "report@02")).await.unwrap();
    assert_eq!(row, Some((7, "abc".to_owned())));
    let blank = first.exec_drop(statements.insert_occurrence, ("s", "report@02 ", 7, None::<&str>)).await;
    assert!(blank.is_err(), "a run id that differs in a blank at its end was taken for the same, or let in");
}

#[test]
fn in_sqlite_the_statements_advance_and_never_lower() {
    let statements = Dialect::Sqlite.statements();
    let mut connection = Connection::open_in_memory().unwrap();
    for table in statements.tables.iter().chain(statements.tables) {
        connection.execute_batch(table).unwrap();
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
    for (advance, seen) in [(7, 7), (5, 7), (8, 8)] {
        transaction.execute(statements.advance, params!["s", advance]).unwrap();
        let found: i64 = transaction.query_row(statements.hold, ["s"], |row| row.get(0)).unwrap();
        assert_eq!(found, seen);
    }
    for inserted in [1, 0] {
        let values = params!["s", "report@02", 7, "abc"];
        assert_eq!(transaction.execute(statements.insert_occurrence, values).unwrap(), inserted);
    }
    let row: (i64, String) = transaction
        .query_row(statements.read_occurrence, ["s", "report@02"], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap();
    assert_eq!(row, (7, "abc".to_owned()));
}
