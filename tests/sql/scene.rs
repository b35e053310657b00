//! A database of each kind, jobs that write to it, and somebody else who holds a lock in it.

use std::collections::HashMap;
use std::sync::Arc;

use fencron::config::{Sources, parse};
use fencron::execute::{
    Execute, Executor, MAX_RUNNING, MayStart, Outputs, Reads, Started, Stop, Stopper, SupervisorProgram, Work,
};
use fencron::fence::{Fence, Scope, Stamp};
use fencron::job::{AttemptResult, Job, JobName, Outcome, Params, RunId, Task};
use fencron::time::Clock;
use mysql_async::prelude::Queryable;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::support::databases::{Database, Kind, Server};
use crate::support::until;

/// The instant of every run here, unless it says otherwise.
pub const AT: &str = "2026-11-21T02:00:00Z";

/// A database with the tables `effects (n, note)` and `locks (id, n)`, of which one row is there.
pub enum Target {
    Server(&'static Server, Database),
    File(tempfile::TempDir),
}

/// One of each kind.
pub fn each() -> Vec<Target> {
    vec![postgres(), mariadb(), sqlite()]
}

/// Those that a network is in front of.
pub fn servers() -> Vec<Target> {
    vec![postgres(), mariadb()]
}

pub fn postgres() -> Target {
    Target::on(Server::shared(Kind::Postgres))
}

pub fn mariadb() -> Target {
    Target::on(Server::shared(Kind::Mariadb))
}

pub fn sqlite() -> Target {
    let target = Target::File(tempfile::tempdir().unwrap());
    target.prepare();
    target
}

impl Target {
    fn on(server: &'static Server) -> Target {
        let target = Target::Server(server, server.database());
        target.prepare();
        target
    }

    fn prepare(&self) {
        self.ask("CREATE TABLE effects (n int, note varchar(200))");
        self.ask("CREATE TABLE locks (id int PRIMARY KEY, n int)");
        self.ask("INSERT INTO locks VALUES (1, 0)");
        self.ask("INSERT INTO locks VALUES (2, 0)");
    }

    pub fn name(&self) -> &'static str {
        match self {
            Target::Server(server, _) if server.kind() == Kind::Postgres => "PostgreSQL",
            Target::Server(..) => "MariaDB",
            Target::File(_) => "SQLite",
        }
    }

    pub fn url(&self) -> String {
        match self {
            Target::Server(_, database) => database.url.clone(),
            Target::File(dir) => format!("sqlite:{}", dir.path().join("shop.db").display()),
        }
    }

    /// The same database, reached at another address.
    pub fn url_at(&self, endpoint: &str) -> String {
        let url = self.url();
        let (before, rest) = url.split_once('@').unwrap();
        let (_, database) = rest.split_once('/').unwrap();
        format!("{before}@{endpoint}/{database}")
    }

    pub fn endpoint(&self) -> String {
        match self {
            Target::Server(server, _) => format!("127.0.0.1:{}", server.port()),
            Target::File(_) => unreachable!("a file is at no address"),
        }
    }

    /// What `sql` answers: columns between tabs, rows between line ends.
    pub fn ask(&self, sql: &str) -> String {
        match self {
            Target::Server(server, database) => server.ask(&database.name, sql),
            Target::File(dir) => {
                let connection = rusqlite::Connection::open(dir.path().join("shop.db")).unwrap();
                connection.busy_timeout(crate::support::PATIENCE).unwrap();
                let mut statement = connection.prepare(sql).unwrap();
                let width = statement.column_count();
                let mut rows = statement.query([]).unwrap();
                let mut lines = Vec::new();
                while let Some(row) = rows.next().unwrap() {
                    let value = |i| match row.get::<_, rusqlite::types::Value>(i).unwrap() {
                        rusqlite::types::Value::Integer(number) => number.to_string(),
                        rusqlite::types::Value::Text(text) => text,
                        other => format!("{other:?}"),
                    };
                    lines.push((0..width).map(value).collect::<Vec<_>>().join("\t"));
                }
                lines.join("\n")
            }
        }
    }

    /// What the effects are, in the order of their number.
    pub fn effects(&self) -> String {
        self.ask("SELECT n FROM effects ORDER BY n").replace('\n', ",")
    }

    /// Takes the row 1 of `locks`, and keeps it (SQLite: the whole file).
    pub async fn hold(&self) -> Holder {
        let statements = ["BEGIN", "UPDATE locks SET n = n + 1 WHERE id = 1"];
        match self {
            Target::Server(server, database) if server.kind() == Kind::Postgres => {
                let (client, connection) = tokio_postgres::connect(&database.url, tokio_postgres::NoTls).await.unwrap();
                let connection = tokio::spawn(async move { connection.await.unwrap() });
                client.batch_execute(&statements.join(";")).await.unwrap();
                Holder::Postgres(client, connection)
            }
            Target::Server(_, database) => {
                let mut conn = mysql_async::Conn::from_url(&database.url).await.unwrap();
                for statement in statements {
                    conn.query_drop(statement).await.unwrap();
                }
                Holder::Mariadb(Box::new(conn))
            }
            Target::File(dir) => {
                let connection = rusqlite::Connection::open(dir.path().join("shop.db")).unwrap();
                connection.execute_batch("BEGIN IMMEDIATE").unwrap();
                Holder::Sqlite(connection)
            }
        }
    }

    /// Waits until somebody waits for a lock in this database; of a file nobody can see that.
    pub async fn somebody_waits(&self) {
        let Target::Server(server, database) = self else { return };
        let name = &database.name;
        let count = match server.kind() {
            Kind::Postgres => {
                format!("SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}' AND wait_event_type = 'Lock'")
            }
            Kind::Mariadb => format!(
                "SELECT count(*) FROM information_schema.innodb_trx t JOIN information_schema.processlist p \
                 ON p.id = t.trx_mysql_thread_id WHERE t.trx_state = 'LOCK WAIT' AND p.db = '{name}'"
            ),
        };
        // MariaDB shows an old picture for as long as it is looked at more often than every 100 ms.
        let look = async || {
            tokio::time::sleep(std::time::Duration::from_millis(150)).await;
            (self.ask(&count) != "0").then_some(())
        };
        until("somebody waits for a lock", look).await;
    }

    /// Waits until nobody is connected to this database: what they began is over.
    pub async fn everybody_has_left(&self) {
        let Target::Server(server, database) = self else { return };
        let name = &database.name;
        let count = match server.kind() {
            Kind::Postgres => {
                format!("SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}' AND pid <> pg_backend_pid()")
            }
            Kind::Mariadb => format!(
                "SELECT count(*) FROM information_schema.processlist WHERE db = '{name}' AND id <> connection_id()"
            ),
        };
        until("all connections end", async || (self.ask(&count) == "0").then_some(())).await;
    }
}

/// Somebody who is in the middle of a transaction.
pub enum Holder {
    Postgres(tokio_postgres::Client, JoinHandle<()>),
    Mariadb(Box<mysql_async::Conn>),
    Sqlite(rusqlite::Connection),
}

impl Holder {
    pub async fn release(self) {
        match self {
            Holder::Postgres(client, connection) => {
                client.batch_execute("COMMIT").await.unwrap();
                drop(client);
                connection.await.unwrap();
            }
            Holder::Mariadb(mut conn) => {
                conn.query_drop("COMMIT").await.unwrap();
                conn.disconnect().await.unwrap();
            }
            Holder::Sqlite(connection) => connection.execute_batch("COMMIT").unwrap(),
        }
    }
}

/// A run of a job, to be changed before it is made.
pub struct Attempt {
    pub job: Job,
    pub fence: u64,
    pub at: String,
    /// What a person gave the run.
    pub params: Params,
    pub may_start: MayStart,
}

/// A run of the one job whose `sql` has these keys, written as in `jobs.yaml`, under the fence 7.
pub fn attempt(url: &str, statement: &str, more: &str) -> Attempt {
    let statement = serde_json::to_string(statement).unwrap();
    attempt_of(&format!("sql: {{database: '{url}', statement: {statement}{more}}}"), &HashMap::new())
}

/// What is wrong with the file of such a job; empty: nothing.
pub fn problems(url: &str, statement: &str, more: &str) -> String {
    let statement = serde_json::to_string(statement).unwrap();
    let sql = format!("{{database: '{url}', statement: {statement}{more}}}");
    let text = format!("version: 1\njobs:\n  pay:\n    schedule: '@daily'\n    sql: {sql}\n");
    parse(&text, &Sources::none()).err().map_or_else(String::new, |problems| problems.to_string())
}

/// As [`attempt`], of a whole job.
pub fn attempt_of(job: &str, variables: &HashMap<&str, &str>) -> Attempt {
    let text = format!("version: 1\njobs:\n  pay:\n    schedule: '@daily'\n    {job}\n");
    let sources = Sources { env: &|name| variables.get(name).map(|value| (*value).to_owned()), ..Sources::none() };
    let config = parse(&text, &sources).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
    let job = config.jobs.values().next().unwrap().as_ref().clone();
    Attempt { job, fence: 7, at: AT.to_owned(), params: Params::default(), may_start: MayStart::always() }
}

/// An attempt that is being made.
pub struct Making {
    pub stopper: Stopper,
    pub started: oneshot::Receiver<fencron::time::Wall>,
    pub ended: JoinHandle<AttemptResult>,
}

impl Attempt {
    pub fn fence(mut self, fence: u64) -> Attempt {
        self.fence = fence;
        self
    }

    pub fn at(mut self, at: &str) -> Attempt {
        self.at = at.to_owned();
        self
    }

    pub fn given(mut self, params: &[(&str, &str)]) -> Attempt {
        self.params = Params::new(params.iter().map(|(name, value)| (*name, *value))).unwrap();
        self
    }

    pub fn checksum(mut self, checksum: &str) -> Attempt {
        let Task::Sql(sql) = &mut self.job.task else { unreachable!("these are all of SQL") };
        sql.checksum = Some(checksum.to_owned());
        self
    }

    pub fn gate(mut self, may_start: impl Fn() -> bool + Send + Sync + 'static) -> Attempt {
        self.may_start = MayStart::new(may_start);
        self
    }

    pub fn start(self) -> Making {
        let job: JobName = self.job.name.clone();
        let run_id = RunId::of(&job, self.at.parse().unwrap());
        let stamp = Stamp {
            namespace: "shop".into(),
            scope: Scope::leader("shop"),
            fence: Fence::new(self.fence).unwrap(),
            job: job.as_str().into(),
            run_id: run_id.to_string(),
            scheduled_at: run_id.at(),
            attempt: 1,
            node: "a".into(),
            after: None,
        };
        let (stopper, stop) = Stop::channel();
        let (started, when) = Started::channel();
        let output = Outputs::new(Clock::system()).open(&run_id);
        let executor =
            Executor::new(Clock::system(), MAX_RUNNING, SupervisorProgram::at(env!("CARGO_BIN_EXE_fencron"))).unwrap();
        let work = Work {
            job: Arc::new(self.job),
            stamp,
            params: self.params,
            hold: None,
            stop,
            may_start: self.may_start,
            output,
            started,
            reads: Reads::Nothing,
        };
        let ended = tokio::spawn(async move { executor.run(work).await });
        Making { stopper, started: when, ended }
    }

    /// Makes it to its end.
    pub async fn ended(self) -> AttemptResult {
        self.start().ended().await
    }

    pub async fn outcome(self) -> Outcome {
        self.ended().await.outcome
    }
}

impl Making {
    pub async fn ended(self) -> AttemptResult {
        let stopper = self.stopper;
        let ended = crate::support::soon("the attempt ends", self.ended).await.unwrap();
        drop(stopper);
        ended
    }
}

/// Why it failed, and whether it may be repeated as the job has it.
pub fn failed(outcome: &Outcome) -> (&str, bool) {
    match outcome {
        Outcome::Failed { why, again } => (why, *again == fencron::job::Again::AsConfigured),
        other => panic!("it did not fail: {other:?}"),
    }
}
