//! PostgreSQL.
//!
//! Values are sent as text, and the server reads each as the type that the statement wants there. Statements without
//! values go the simple way, for only that takes every kind of statement.

use std::error::Error as _;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::StreamExt;
use tokio::task::JoinHandle;
use tokio_postgres::config::{ChannelBinding, SslMode, TargetSessionAttrs};
use tokio_postgres::error::{ErrorPosition, Severity};
use tokio_postgres::types::{Format, FromSql, IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{CancelToken, Client, Config, Error, SimpleQueryMessage, Statement as Prepared};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::driver::{
    Answer, CONNECT_LIMIT, CurrentStatement, Driver, Failure, IDLE_LIMIT, Kind, Value, check_quoting, cut,
};
use crate::guard::sql::Dialect;
use crate::job::{Binding, Database, Encryption, Quoting, Script, Server, Session, Target, Text, WantedServer};
use crate::tls::{self, Checks};

/// How often the server looks, while a statement runs, whether its client is still there.
const PRESENCE_EVERY: Duration = Duration::from_secs(5);

/// The transaction that is open, as far as it has written, and how the session reads quotes.
const WHERE: &str =
    "SELECT pg_catalog.txid_current_if_assigned(), pg_catalog.current_setting('standard_conforming_strings')";
/// The setting by which a backslash escapes in `'…'`.
const OLD_QUOTES: &str = "standard_conforming_strings = off";

pub struct Postgres {
    client: Client,
    tls: MakeRustlsConnect,
    connection: Connection,
    /// The statements that set the bounds of the session.
    bounds: String,
    /// The transaction in which the guard's rows stand.
    marked: Option<String>,
    quoting: Quoting,
}

/// The task that speaks with the server. It ends with this: otherwise it would wait for answers without a receiver.
struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Driver for Postgres {
    type Canceller = (CancelToken, MakeRustlsConnect);

    const DIALECT: Dialect = Dialect::Postgres;
    const BEGIN: &'static str = "BEGIN";
    /// In a transaction that others began, neither a routine nor a `DO` can.
    const HIDES_COMMITS: bool = false;

    async fn connect(target: &Target) -> Result<Postgres, Failure> {
        let Target::Server(server) = target else { unreachable!("a PostgreSQL database is on a server") };
        let tls = MakeRustlsConnect::new(tls::config(&checks(server)).map_err(Failure::never)?);
        let (client, connection) = config(server).connect(tls.clone()).await.map_err(|error| refused(&error))?;
        let old_quotes = connection.parameter("standard_conforming_strings") == Some("off");
        let connection = Connection(tokio::spawn(async move {
            // The caller that waits for an answer gets its error.
            connection.await.ok();
        }));
        let bounds = format!("SET idle_in_transaction_session_timeout = {}", IDLE_LIMIT.as_millis());
        let quoting = quoting(old_quotes);
        let mut postgres = Postgres { client, tls, connection, bounds, marked: None, quoting };
        postgres.ask(&postgres.bounds.clone(), &[]).await?;
        // Without it, the statement of a node that is gone holds up its successor until it is through. Before version
        // 14 there is no such setting.
        let presence = format!("SET client_connection_check_interval = {}", PRESENCE_EVERY.as_millis());
        match postgres.ask(&presence, &[]).await {
            Err(failure) if failure.kind == Kind::Lost => return Err(failure),
            Err(_) => {}
            Ok(_) => postgres.bounds = format!("{}; {presence}", postgres.bounds),
        }
        Ok(postgres)
    }

    async fn ask(&mut self, text: &str, values: &[Value]) -> Result<Answer, Failure> {
        let asked = if values.is_empty() { self.simple(text).await } else { self.extended(text, values).await };
        asked.map_err(|error| failure(&error, text))
    }

    async fn enter(&mut self, script: &Script, _: bool) -> Result<(), Failure> {
        check_quoting(script, self.quoting, OLD_QUOTES)
    }

    async fn mark(&mut self) -> Result<(), Failure> {
        let answer = self.ask(WHERE, &[]).await?;
        self.marked = answer.rows.into_iter().next().and_then(|row| row.into_iter().next().flatten());
        match self.marked {
            Some(_) => Ok(()),
            None => Err(Failure::never("PostgreSQL names no transaction that the guard's rows are written in")),
        }
    }

    async fn perform(&mut self, current: &CurrentStatement<'_>) -> Result<Answer, Failure> {
        let (text, plain) = (current.statement.text.as_str(), current.values.is_empty());
        // What goes the simple way may be several statements, and one of them a COMMIT, if the server reads it
        // otherwise. It prepares one only.
        let prepared = match plain && !(current.in_transaction && text.contains(';')) {
            true => None,
            false => Some(self.client.prepare(text).await.map_err(|error| failure(&error, text))?),
        };
        let asking = async {
            match prepared.filter(|_| !plain) {
                Some(statement) => self.execute(&statement, &current.values).await,
                None => self.simple(text).await,
            }
        };
        // They are under way before there is an answer: a node that stands still from then on has already sent it.
        let after = format!("{WHERE}; {}", self.bounds);
        let (answer, after) = tokio::join!(biased; asking, self.simple(&after));
        let answer = answer.map_err(|error| failure(&error, text))?;
        match after.map_err(|error| failure(&error, "")) {
            Ok(after) => self.look_at(current, after)?,
            // The transaction that the script itself has begun may have failed.
            Err(failure) if current.in_transaction || failure.kind == Kind::Lost => return Err(failure),
            Err(_) => {}
        }
        Ok(answer)
    }

    /// It was asked with the last statement.
    async fn confirm(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    async fn is_open(&mut self) -> Result<bool, Failure> {
        match self.ask("SAVEPOINT fencron", &[]).await {
            Ok(_) => Ok(true),
            // There is none, or one that has failed.
            Err(failure) if failure.code == "25P01" => Ok(false),
            Err(failure) if failure.code == "25P02" => Ok(true),
            Err(failure) => Err(failure),
        }
    }

    fn canceller(&self) -> Self::Canceller {
        (self.client.cancel_token(), self.tls.clone())
    }

    async fn cancel((token, tls): &Self::Canceller) {
        // When it cannot be asked, it does not answer either, which the caller notices.
        token.cancel_query(tls.clone()).await.ok();
    }

    async fn close(self) {
        let Postgres { client, mut connection, .. } = self;
        drop(client);
        (&mut connection.0).await.ok();
    }
}

fn checks(server: &Server) -> Checks<'_> {
    let Server { encryption, roots, identity, .. } = server;
    Checks { encryption: *encryption, roots: roots.as_deref(), identity: identity.as_ref() }
}

fn config(server: &Server) -> Config {
    let mut config = Config::new();
    let host = server.host.expose();
    let socket = host.starts_with('/');
    if socket {
        config.host_path(host);
    } else {
        config.host(host);
    }
    let session = &server.session;
    let limit = session.connect_timeout.map_or(CONNECT_LIMIT, |limit| limit.min(CONNECT_LIMIT));
    config.port(server.port).connect_timeout(limit);
    config.application_name(session.application_name.as_deref().unwrap_or("fencron"));
    ask_for(&mut config, session);
    config.user(server.user.as_ref().map_or("postgres", Text::expose));
    if let Some(password) = &server.password {
        config.password(password.expose());
    }
    if let Some(database) = &server.database {
        config.dbname(database.expose());
    }
    config.ssl_mode(match server.encryption {
        Encryption::Disable => SslMode::Disable,
        _ if socket => SslMode::Disable,
        Encryption::Prefer => SslMode::Prefer,
        Encryption::Require | Encryption::VerifyCa | Encryption::VerifyFull => SslMode::Require,
    });
    config
}

/// What the URL asks for beyond the server.
fn ask_for(config: &mut Config, session: &Session) {
    if let Some(options) = &session.options {
        config.options(options.as_str());
    }
    if let Some(address) = session.address {
        config.hostaddr(address);
    }
    config.target_session_attrs(match session.server {
        WantedServer::Any => TargetSessionAttrs::Any,
        WantedServer::Writable => TargetSessionAttrs::ReadWrite,
        WantedServer::ReadOnly => TargetSessionAttrs::ReadOnly,
    });
    config.channel_binding(match session.binding {
        Binding::Disable => ChannelBinding::Disable,
        Binding::Prefer => ChannelBinding::Prefer,
        Binding::Require => ChannelBinding::Require,
    });
    config.keepalives(session.keepalives);
    session.keepalives_idle.map(|idle| config.keepalives_idle(idle));
    session.keepalives_interval.map(|pause| config.keepalives_interval(pause));
    session.keepalives_count.map(|count| config.keepalives_retries(count));
    session.tcp_user_timeout.map(|limit| config.tcp_user_timeout(limit));
}

impl Postgres {
    async fn simple(&self, text: &str) -> Result<Answer, Error> {
        let mut answer = Answer::default();
        let messages = self.client.simple_query_raw(text).await?;
        let mut messages = std::pin::pin!(messages);
        while let Some(message) = messages.next().await {
            match message? {
                SimpleQueryMessage::RowDescription(columns) => {
                    answer.columns = columns.iter().map(|column| column.name().to_owned()).collect();
                }
                SimpleQueryMessage::Row(row) => {
                    answer.push(|| (0..row.len()).map(|i| row.get(i).map(|text| cut(text.to_owned()))).collect());
                }
                SimpleQueryMessage::CommandComplete(affected) => answer.affected += affected,
                _ => {}
            }
        }
        Ok(answer)
    }

    async fn extended(&self, text: &str, values: &[Value]) -> Result<Answer, Error> {
        let statement = self.client.prepare(text).await?;
        self.execute(&statement, values).await
    }

    async fn execute(&self, statement: &Prepared, values: &[Value]) -> Result<Answer, Error> {
        let columns = statement.columns().iter().map(|column| column.name().to_owned()).collect();
        let mut answer = Answer { columns, ..Answer::default() };
        let rows = self.client.query_raw(statement, values.iter().map(Bound)).await?;
        let mut rows = std::pin::pin!(rows);
        while let Some(row) = rows.next().await {
            let row = row?;
            answer.push(|| {
                (0..row.len()).map(|i| row.try_get::<_, Option<Shown>>(i).ok().flatten()).map(text_of).collect()
            });
        }
        answer.affected = rows.rows_affected().unwrap_or(0);
        Ok(answer)
    }

    /// Judges what [`WHERE`] answered after a statement.
    fn look_at(&mut self, current: &CurrentStatement<'_>, after: Answer) -> Result<(), Failure> {
        let Some([transaction, standard]) = after.rows.first().and_then(|row| row.first_chunk()) else {
            return Err(Failure::lost("an answer without the row that was asked for"));
        };
        if current.in_transaction {
            self.is_marked(transaction.as_deref())?;
        }
        let quoting = quoting(standard.as_deref() == Some("off"));
        if quoting != self.quoting {
            self.quoting = quoting;
            check_quoting(current.script, quoting, OLD_QUOTES)?;
        }
        Ok(())
    }

    fn is_marked(&self, transaction: Option<&str>) -> Result<(), Failure> {
        let same = transaction.is_some() && transaction == self.marked.as_deref();
        if same { Ok(()) } else { Err(Failure::gone("the transaction is not the one that the guard let in")) }
    }
}

fn quoting(old_quotes: bool) -> Quoting {
    Quoting { backslash: old_quotes, ..Quoting::usual(Database::Postgres) }
}

fn text_of(shown: Option<Shown>) -> Option<String> {
    shown.map(|shown| cut(shown.0))
}

/// A value as text, for a parameter of any type.
struct Bound<'v>(&'v Value);

impl std::fmt::Debug for Bound<'_> {
    /// The client logs what it binds.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl ToSql for Bound<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self.0 {
            Value::Null => return Ok(IsNull::Yes),
            Value::Bool(value) => out.extend_from_slice(value.to_string().as_bytes()),
            Value::Integer(value) => out.extend_from_slice(value.to_string().as_bytes()),
            Value::Real(value) => out.extend_from_slice(value.to_string().as_bytes()),
            Value::Text(value) => out.extend_from_slice(value.as_bytes()),
        }
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }

    to_sql_checked!();
}

/// A value of an answer that came in PostgreSQL's binary form, as text where that is a type which most use.
struct Shown(String);

impl<'r> FromSql<'r> for Shown {
    fn from_sql(kind: &Type, raw: &'r [u8]) -> Result<Shown, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Shown(match *kind {
            Type::BOOL => bool::from_sql(kind, raw)?.to_string(),
            Type::INT2 => i16::from_sql(kind, raw)?.to_string(),
            Type::INT4 => i32::from_sql(kind, raw)?.to_string(),
            Type::INT8 => i64::from_sql(kind, raw)?.to_string(),
            Type::OID => u32::from_sql(kind, raw)?.to_string(),
            Type::FLOAT4 => f32::from_sql(kind, raw)?.to_string(),
            Type::FLOAT8 => f64::from_sql(kind, raw)?.to_string(),
            Type::JSONB => String::from_utf8_lossy(raw.get(1..).unwrap_or_default()).into_owned(),
            Type::TIMESTAMP | Type::TIMESTAMPTZ => timestamp(i64::from_sql(&Type::INT8, raw)?),
            Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME | Type::JSON | Type::UNKNOWN | Type::XML => {
                String::from_utf8_lossy(raw).into_owned()
            }
            _ => format!("({kind})"),
        }))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// Microseconds since the beginning of 2000.
fn timestamp(micros: i64) -> String {
    const SINCE_1970: i64 = 946_684_800_000_000;
    match micros.checked_add(SINCE_1970).and_then(chrono::DateTime::from_timestamp_micros) {
        Some(at) => at.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true),
        None => "infinity".to_owned(),
    }
}

/// Why there is no connection.
fn refused(error: &Error) -> Failure {
    let mut failure = failure(error, "");
    if error.as_db_error().is_some() {
        // Class 28 is about the login, 3D about the database. Other errors may pass: the server starts, or is full.
        let never = ["28", "3D", "42"].iter().any(|class| failure.code.starts_with(class));
        failure.kind = if never { Kind::Never } else { Kind::Later };
    } else if failure.kind != Kind::Lost {
        failure.kind = Kind::Later;
    }
    failure
}

fn failure(error: &Error, text: &str) -> Failure {
    let Some(db) = error.as_db_error() else {
        let message = match error.source() {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        let io = error.source().is_some_and(|source| source.is::<std::io::Error>());
        let kind = if error.is_closed() || io { Kind::Lost } else { Kind::Never };
        return Failure { kind, message, code: String::new(), at: None };
    };
    let code = db.code().code();
    let mut message = db.message().to_owned();
    for more in [db.detail(), db.hint()].into_iter().flatten() {
        message = format!("{message}: {more}");
    }
    // What is fatal to the session may come in the place of the answer to a statement that has had its effect.
    let fatal = matches!(db.parsed_severity(), Some(Severity::Fatal | Severity::Panic));
    let kind = if fatal { Kind::Lost } else { kind(code) };
    let at = match db.position() {
        Some(ErrorPosition::Original(at)) => {
            text.char_indices().nth((*at as usize).saturating_sub(1)).map(|(at, _)| at)
        }
        _ => None,
    };
    Failure { kind, message, code: code.to_owned(), at }
}

/// <https://www.postgresql.org/docs/current/errcodes-appendix.html>
fn kind(code: &str) -> Kind {
    match code {
        "40001" | "40P01" => Kind::Conflict,
        "42P01" => Kind::NoTable,
        "42501" => Kind::NoRight,
        "25001" => Kind::NotInTransaction,
        "23505" | "42P07" | "42710" => Kind::Duplicate,
        // What the statement says is wrong, and will be next time.
        _ if ["0A", "26", "28", "3D", "3F", "42"].iter().any(|class| code.starts_with(class)) => Kind::Never,
        _ => Kind::Later,
    }
}
