//! MySQL and MariaDB.
//!
//! Statements without values go as text, for not every kind of statement can be prepared.

use mysql_async::consts::StatusFlags;
use mysql_async::prelude::{Protocol, Queryable};
use mysql_async::{ClientIdentity, Conn, DriverError, Error, Opts, OptsBuilder, Params, QueryResult, SslOpts};

use super::driver::{Answer, CurrentStatement, Driver, Failure, IDLE_LIMIT, Kind, Value, check_quoting, cut};
use crate::guard::sql::Dialect;
use crate::job::{Encryption, Quoting, Script, Server, Target, Text};
use crate::tls;

/// Stands in the transaction in which the guard's rows were written, and in no other.
const SAVEPOINT: &str = "fencron_has_begun";
/// "There is no such variable": only MariaDB counts a silent transaction by itself.
const UNKNOWN_VARIABLE: &str = "error 1193";
/// "There is no such savepoint."
const UNKNOWN_SAVEPOINT: &str = "error 1305";

pub struct Mysql {
    conn: Conn,
    /// The statement that sets the bounds of the session.
    bounds: String,
    quoting: Quoting,
    /// A savepoint stands in the transaction.
    marked: bool,
    /// The bounds have to be set again, once a statement is through that no other statement checks.
    owed: bool,
}

impl Driver for Mysql {
    type Canceller = (Opts, u32);

    const DIALECT: Dialect = Dialect::Mysql;
    const BEGIN: &'static str = "START TRANSACTION";
    const HIDES_COMMITS: bool = true;

    async fn connect(target: &Target) -> Result<Mysql, Failure> {
        let Target::Server(server) = target else { unreachable!("a MySQL database is on a server") };
        let opts = options(server, server.encryption > Encryption::Disable)?;
        let conn = match Conn::new(opts).await {
            Err(Error::Driver(DriverError::NoClientSslFlagFromServer)) if server.encryption == Encryption::Prefer => {
                Conn::new(options(server, false)?).await
            }
            other => other,
        };
        let conn = conn.map_err(|error| refused(&error))?;
        let idle = IDLE_LIMIT.as_secs();
        let bounds = format!("SET SESSION wait_timeout = {idle}");
        let quoting = Quoting { backslash: true, double_is_name: false };
        let mut mysql = Mysql { conn, bounds, quoting, marked: false, owed: false };
        // Instants are bound as UTC, and a TIMESTAMP is read in the session's zone. A statement outside of a
        // transaction has to last, under any default of the server.
        let first = format!("SET SESSION autocommit = 1, time_zone = '+00:00', wait_timeout = {idle}");
        mysql.ask(&first, &[]).await?;
        let more = format!("{}, idle_transaction_timeout = {idle}", mysql.bounds);
        match mysql.ask(&more, &[]).await {
            Ok(_) => mysql.bounds = more,
            Err(failure) if failure.code.ends_with(UNKNOWN_VARIABLE) => {}
            Err(failure) => return Err(failure),
        }
        mysql.quoting = mysql.ask_quoting().await?;
        Ok(mysql)
    }

    async fn ask(&mut self, text: &str, values: &[Value]) -> Result<Answer, Failure> {
        let asked = if values.is_empty() {
            match self.conn.query_iter(text).await {
                Ok(result) => collect(result).await,
                Err(error) => Err(error),
            }
        } else {
            let values = values.iter().map(bound).collect();
            match self.conn.exec_iter(text, Params::Positional(values)).await {
                Ok(result) => collect(result).await,
                Err(error) => Err(error),
            }
        };
        asked.map_err(|error| failure(&error))
    }

    async fn enter(&mut self, script: &Script, _: bool) -> Result<(), Failure> {
        check_quoting(script, self.quoting, QUOTES)
    }

    async fn mark(&mut self) -> Result<(), Failure> {
        self.ask(&format!("SAVEPOINT {SAVEPOINT}"), &[]).await.map(|_| self.marked = true)
    }

    async fn perform(&mut self, current: &CurrentStatement<'_>) -> Result<Answer, Failure> {
        let (text, may_set) = (current.statement.text.as_str(), current.statement.may_set());
        let asked_after = current.next.is_some_and(crate::job::Statement::asks_after_the_last);
        // In one message: a node that stands still from then on has already sent it.
        let together = may_set && current.values.is_empty() && !asked_after;
        let answer = match together {
            true => self.ask(&format!("{text}\n;{}", self.bounds), &[]).await?,
            false => self.ask(text, &current.values).await?,
        };
        if current.in_transaction && !self.is_in_transaction() {
            return Err(Failure::gone(
                "this statement ended the transaction: what came before it is committed, and what comes after it was \
                 not done: write `transaction: false`",
            ));
        }
        // A statement that asks after the one before it must follow it at once: then the bounds come after that one.
        self.owed = (may_set || self.owed) && !together;
        if self.owed && !asked_after {
            self.ask(&self.bounds.clone(), &[]).await?;
            self.owed = false;
        }
        if may_set && text.to_ascii_uppercase().contains("SQL_MODE") {
            let quoting = self.ask_quoting().await?;
            if quoting != self.quoting {
                self.quoting = quoting;
                check_quoting(current.script, quoting, QUOTES)?;
            }
        }
        Ok(answer)
    }

    async fn confirm(&mut self) -> Result<(), Failure> {
        if !std::mem::take(&mut self.marked) {
            return Ok(());
        }
        match self.ask(&format!("RELEASE SAVEPOINT {SAVEPOINT}"), &[]).await {
            Ok(_) => Ok(()),
            Err(failure) if failure.code.ends_with(UNKNOWN_SAVEPOINT) => Err(Failure::gone(
                "a statement ended the transaction and began another one: what came before that is committed, and what \
                 came after it is undone: write `transaction: false`",
            )),
            Err(failure) => Err(failure),
        }
    }

    async fn is_open(&mut self) -> Result<bool, Failure> {
        Ok(self.is_in_transaction())
    }

    fn canceller(&self) -> Self::Canceller {
        (self.conn.opts().clone(), self.conn.id())
    }

    async fn cancel((opts, id): &Self::Canceller) {
        // When it cannot be asked, it does not answer either, which the caller notices.
        if let Ok(mut conn) = Conn::new(opts.clone()).await {
            conn.query_drop(format!("KILL QUERY {id}")).await.ok();
            conn.disconnect().await.ok();
        }
    }

    async fn close(self) {
        self.conn.disconnect().await.ok();
    }
}

/// The settings by which quotes are read otherwise.
const QUOTES: &str = "this `sql_mode` (ANSI_QUOTES, NO_BACKSLASH_ESCAPES)";

impl Mysql {
    fn is_in_transaction(&self) -> bool {
        // An answer of rows has no such packet: then the last statement that had one shows it.
        self.conn.last_ok_packet().is_none_or(|ok| ok.status_flags().contains(StatusFlags::SERVER_STATUS_IN_TRANS))
    }

    async fn ask_quoting(&mut self) -> Result<Quoting, Failure> {
        let has = |mode: &str| format!("FIND_IN_SET('{mode}', @@SESSION.sql_mode) > 0");
        let asked = format!("SELECT {}, {}", has("NO_BACKSLASH_ESCAPES"), has("ANSI_QUOTES"));
        let answer = self.ask(&asked, &[]).await?;
        let mut modes = answer.rows.into_iter().flatten().map(|found| found.as_deref() == Some("1"));
        Ok(Quoting { backslash: !modes.next().unwrap_or(false), double_is_name: modes.next().unwrap_or(false) })
    }
}

fn options(server: &Server, encrypted: bool) -> Result<Opts, Failure> {
    let host = server.host.expose();
    let socket = host.starts_with('/');
    let shown = |text: &Option<Text>| text.as_ref().map(|text| text.expose().to_owned());
    let mut options = OptsBuilder::default()
        .user(shown(&server.user))
        .pass(shown(&server.password))
        .db_name(shown(&server.database))
        .tcp_port(server.port)
        // It is asked by the way that the URL names, not by another that the server names.
        .prefer_socket(false)
        .stmt_cache_size(0);
    if socket {
        options = options.socket(Some(host)).prefer_socket(true).ip_or_hostname("localhost");
    } else {
        options = options.ip_or_hostname(host);
        if encrypted {
            // It is the only provider of cryptography in this program, unless the program has set another one.
            rustls::crypto::ring::default_provider().install_default().ok();
            options = options.ssl_opts(Some(encryption(server)?));
        }
    }
    Ok(options.into())
}

fn encryption(server: &Server) -> Result<SslOpts, Failure> {
    let lenient = server.encryption < Encryption::VerifyCa;
    let shown = server.identity.clone();
    let shown = shown.map(|(certificate, key)| ClientIdentity::new(certificate.into(), key.into()));
    let ssl = SslOpts::default()
        .with_client_identity(shown)
        // Without any root it would not begin, whether or not one is asked.
        .with_disable_built_in_roots(!lenient)
        .with_danger_accept_invalid_certs(lenient);
    if lenient {
        return Ok(ssl);
    }
    let roots = tls::certificates(server.roots.as_deref()).map_err(Failure::never)?;
    let roots = roots.into_iter().map(|root| root.to_vec().into()).collect();
    Ok(ssl.with_root_certs(roots))
}

async fn collect<P: Protocol>(mut result: QueryResult<'_, 'static, P>) -> Result<Answer, Error> {
    let mut answer = Answer::default();
    // A procedure answers with several sets of rows: the first is shown, all are read.
    loop {
        if answer.columns.is_empty() {
            answer.columns = result.columns_ref().iter().map(|column| column.name_str().into_owned()).collect();
        }
        answer.affected += result.affected_rows();
        while let Some(row) = result.next().await? {
            answer.push(|| row.unwrap().into_iter().map(shown).collect());
        }
        if result.is_empty() {
            return Ok(answer);
        }
    }
}

fn bound(value: &Value) -> mysql_async::Value {
    match value {
        Value::Null => mysql_async::Value::NULL,
        Value::Bool(value) => mysql_async::Value::Int(i64::from(*value)),
        Value::Integer(value) => mysql_async::Value::Int(*value),
        Value::Real(value) => mysql_async::Value::Double(*value),
        Value::Text(value) => mysql_async::Value::Bytes(value.clone().into_bytes()),
    }
}

fn shown(value: mysql_async::Value) -> Option<String> {
    match value {
        mysql_async::Value::NULL => None,
        mysql_async::Value::Bytes(bytes) => Some(cut(String::from_utf8_lossy(&bytes).into_owned())),
        other => Some(other.as_sql(true).trim_matches('\'').to_owned()),
    }
}

/// Why there is no connection.
fn refused(error: &Error) -> Failure {
    let mut failure = failure(error);
    if let Error::Server(server) = error {
        // 1044, 1045, 1698: not this user, or not with this password. 1049: no such database. All else may pass.
        failure.kind = if matches!(server.code, 1044 | 1045 | 1049 | 1698) { Kind::Never } else { Kind::Later };
    }
    failure
}

fn failure(error: &Error) -> Failure {
    match error {
        Error::Server(server) => Failure {
            kind: kind(server.code, &server.state),
            message: server.message.clone(),
            code: format!("{}, error {}", server.state, server.code),
            at: None,
        },
        Error::Driver(
            DriverError::StmtParamsMismatch { .. } | DriverError::MixedParams | DriverError::LocalInfile(_),
        ) => Failure::never(error.to_string()),
        // The error may carry the packet that it is about, which people cannot read.
        Error::Driver(DriverError::UnexpectedPacket { .. }) => Failure::lost("an answer that is no MySQL"),
        other => Failure::lost(other.to_string()),
    }
}

/// <https://mariadb.com/kb/en/mariadb-error-code-reference/>, <https://dev.mysql.com/doc/mysql-errors/8.4/en/server-error-reference.html>
fn kind(code: u16, state: &str) -> Kind {
    match code {
        // A deadlock, a record that has changed since it was read.
        1213 | 1020 => Kind::Conflict,
        1146 => Kind::NoTable,
        1044 | 1142 | 1143 | 1227 | 1370 => Kind::NoRight,
        1062 => Kind::Duplicate,
        // The server shuts down, or the session was killed.
        1053 | 1077 | 1079 | 1927 | 3169 => Kind::Lost,
        // Too many connections of this user, although the class is that of wrong statements.
        1203 | 1226 => Kind::Later,
        _ if ["0A", "28", "3D", "42"].iter().any(|class| state.starts_with(class)) => Kind::Never,
        _ => Kind::Later,
    }
}
