//! MySQL and MariaDB.
//!
//! Statements without values go as text, for not every kind of statement can be prepared.

use mysql_async::consts::StatusFlags;
use mysql_async::prelude::{Protocol, Queryable};
use mysql_async::{Conn, DriverError, Error, Opts, OptsBuilder, Params, QueryResult, SslOpts};

use super::driver::{Answer, Driver, Failure, IDLE_LIMIT, Kind, Value, cut};
use super::tls;
use crate::guard::sql::Dialect;
use crate::job::{Encryption, Server, Target, Text};

pub struct Mysql {
    conn: Conn,
}

impl Driver for Mysql {
    type Canceller = (Opts, u32);

    const DIALECT: Dialect = Dialect::Mysql;
    const BEGIN: &'static str = "START TRANSACTION";

    async fn connect(target: &Target) -> Result<Mysql, Failure> {
        let Target::Server(server) = target else { unreachable!("a MySQL database is on a server") };
        let opts = options(server, server.encryption > Encryption::Disable)?;
        let conn = match Conn::new(opts).await {
            Err(Error::Driver(DriverError::NoClientSslFlagFromServer)) if server.encryption == Encryption::Prefer => {
                Conn::new(options(server, false)?).await
            }
            other => other,
        };
        let mut mysql = Mysql { conn: conn.map_err(|error| refused(&error))? };
        // Instants are bound as UTC, and a TIMESTAMP is read in the session's zone. A statement outside of a transaction
        // has to last, whatever the server's default.
        let idle = IDLE_LIMIT.as_secs();
        mysql.ask(&format!("SET SESSION autocommit = 1, time_zone = '+00:00', wait_timeout = {idle}"), &[]).await?;
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

    fn is_in_transaction(&self) -> bool {
        // An answer of rows has no such packet: then the last statement that had one tells.
        self.conn.last_ok_packet().is_none_or(|ok| ok.status_flags().contains(StatusFlags::SERVER_STATUS_IN_TRANS))
    }

    fn canceller(&self) -> Self::Canceller {
        (self.conn.opts().clone(), self.conn.id())
    }

    async fn cancel((opts, id): &Self::Canceller) {
        // When it cannot be asked, it does not answer either, which whoever asks notices.
        if let Ok(mut conn) = Conn::new(opts.clone()).await {
            conn.query_drop(format!("KILL QUERY {id}")).await.ok();
            conn.disconnect().await.ok();
        }
    }

    async fn close(self) {
        self.conn.disconnect().await.ok();
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
        // It is asked by the way that the URL names, not by another that the server tells of.
        .prefer_socket(false)
        .stmt_cache_size(0);
    if socket {
        options = options.socket(Some(host)).prefer_socket(true).ip_or_hostname("localhost");
    } else {
        options = options.ip_or_hostname(host);
        if encrypted {
            // It is the only provider of cryptography in this program, or whoever set another one has decided.
            rustls::crypto::ring::default_provider().install_default().ok();
            options = options.ssl_opts(Some(encryption(server)?));
        }
    }
    Ok(options.into())
}

fn encryption(server: &Server) -> Result<SslOpts, Failure> {
    let lenient = server.encryption < Encryption::VerifyCa;
    let ssl = SslOpts::default()
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
        // The error may carry the packet that it is about, which nobody can read.
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
