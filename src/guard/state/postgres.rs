//! A state in PostgreSQL, shared by all guards that reach it. All time is the server's.
//!
//! A guard reports every few seconds that it lives. One that could not do so for a while counts as dead for the others,
//! and lets nothing in itself until it has.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustls::ClientConfig;
use tokio::sync::Mutex;
use tokio::task::AbortHandle;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, Row, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;
use uuid::Uuid;

use super::{Bounds, KEY_OVERHEAD, StateError};
use crate::fence::Fence;
use crate::guard::{
    Answer, Answered, Asked, Decision, End, Entry, Found, InDoubt, Progress, SCOPES_MOST, decide, fence_most,
};
use crate::time::Clock;

/// How long a guard that says nothing is taken to live, and how often it says so.
const LIVES_FOR: Duration = Duration::from_secs(15);
const BEAT_EVERY: Duration = Duration::from_secs(3);

/// By how much earlier a guard stops to trust in that itself.
const MARGIN: Duration = Duration::from_secs(3);

const _: () = assert!(
    (BEAT_EVERY.as_secs() + BEAT_WITHIN.as_secs()) * 2 <= LIVES_FOR.as_secs() - MARGIN.as_secs(),
    "a beat may fail"
);

/// How often what has expired is forgotten, and counted what is kept.
const SWEEP_EVERY: Duration = Duration::from_secs(3);

/// How long opening and sweeping may take, anything else, and a beat.
const SWEEP_WITHIN: Duration = Duration::from_secs(30);
const OPEN_WITHIN: Duration = Duration::from_secs(30);
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
const BEAT_WITHIN: Duration = Duration::from_secs(3);

/// How many connections are kept open. Others are made, and closed, as they are needed.
const CONNECTIONS_KEPT: usize = 8;

/// How many expired keys are forgotten at once.
const SWEEP_MOST: i64 = 20_000;

/// What two guards that make the tables at once wait for each other on.
const MAKING: i64 = 0x6665_6e63_6772_6400;

const SCHEMA: &str = r#"
CREATE TABLE IF NOT EXISTS fencron_guard_scopes (name text COLLATE "C" PRIMARY KEY, fence bigint NOT NULL);
CREATE TABLE IF NOT EXISTS fencron_guard_instances (name text PRIMARY KEY, lives_until timestamptz NOT NULL);
CREATE TABLE IF NOT EXISTS fencron_guard_entries (
    id text PRIMARY KEY,
    scope text COLLATE "C" NOT NULL,
    key text COLLATE "C",
    fence bigint NOT NULL,
    digest bytea NOT NULL,
    progress int NOT NULL,
    guard text NOT NULL,
    expires timestamptz NOT NULL,
    size bigint NOT NULL,
    answer bytea
);
CREATE UNIQUE INDEX IF NOT EXISTS fencron_guard_entries_by_key ON fencron_guard_entries (scope, key)
    WHERE key IS NOT NULL;
CREATE INDEX IF NOT EXISTS fencron_guard_entries_in_flight ON fencron_guard_entries (scope, fence)
    WHERE progress = 0;
CREATE INDEX IF NOT EXISTS fencron_guard_entries_by_expiry ON fencron_guard_entries (expires) WHERE progress <> 0;
"#;

/// What stands in the column `progress`.
const IN_FLIGHT: i32 = 0;
const DONE: i32 = 1;
const IN_DOUBT: i32 = 2;

/// Where it is.
pub(super) struct About {
    pub url: String,
    /// Without what is secret.
    pub named: String,
}

pub(in crate::guard) struct Postgres {
    shared: Arc<Shared>,
    idle: Mutex<Vec<Connection>>,
    chores: [AbortHandle; 2],
}

/// What a guard does regularly.
#[derive(Clone, Copy, Debug)]
enum Chore {
    /// Saying that it lives: nothing may delay it.
    Beat,
    Sweep,
}

struct Shared {
    config: Config,
    tls: MakeRustlsConnect,
    named: String,
    /// This guard.
    name: String,
    bounds: Bounds,
    clock: Clock,
    /// Until when, by the boot clock in milliseconds, the others take this guard to live.
    trusted_until: AtomicU64,
    /// How many keys there are, and how large, as last counted, and with what came since from here.
    keys: AtomicU64,
    bytes: AtomicU64,
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres").field("state", &self.shared.named).finish_non_exhaustive()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        for chore in &self.chores {
            chore.abort();
        }
    }
}

type Value<'a> = &'a (dyn ToSql + Sync);
type Result<T> = std::result::Result<T, tokio_postgres::Error>;

/// A connection, with its statements prepared.
struct Connection {
    client: Client,
    seen: Statement,
    see: Statement,
    row: Statement,
    older: Statement,
    remove: Statement,
    insert: Statement,
}

impl Connection {
    async fn open(shared: &Shared) -> Result<Connection> {
        let client = shared.connect().await?;
        let prepare = |text: &'static str| client.prepare(text);
        let (seen, see, row, older, remove, insert) = tokio::try_join!(
            prepare("SELECT fence FROM fencron_guard_scopes WHERE name = $1 FOR UPDATE"),
            prepare(
                "INSERT INTO fencron_guard_scopes AS s VALUES ($1, $2) \
                 ON CONFLICT (name) DO UPDATE SET fence = greatest(s.fence, excluded.fence) RETURNING fence"
            ),
            prepare(
                "SELECT e.digest, e.progress, e.answer, coalesce(i.lives_until > clock_timestamp(), false) \
                 FROM fencron_guard_entries e LEFT JOIN fencron_guard_instances i ON i.name = e.guard \
                 WHERE e.scope = $1 AND e.key = $2 AND (e.progress = 0 OR e.expires > clock_timestamp())"
            ),
            prepare(
                "SELECT EXISTS (SELECT 1 FROM fencron_guard_entries e \
                 JOIN fencron_guard_instances i ON i.name = e.guard \
                 WHERE e.scope = $1 AND e.progress = 0 AND e.fence < $2 AND i.lives_until > clock_timestamp())"
            ),
            prepare("DELETE FROM fencron_guard_entries WHERE scope = $1 AND key = $2"),
            prepare(
                "INSERT INTO fencron_guard_entries (id, scope, key, fence, digest, progress, guard, expires, size) \
                 VALUES ($1, $2, $3, $4, $5, 0, $6, clock_timestamp() + $7 * interval '1 ms', $8)"
            ),
        )?;
        Ok(Connection { client, seen, see, row, older, remove, insert })
    }

    /// The greatest fence of the scope, this one included; or the decision, if there are too many scopes for another
    /// one, or it can be no fence. From here on no other transaction decides about the scope, until this one ends.
    async fn see(&self, asked: &Asked, fence: i64) -> Result<std::result::Result<i64, Decision>> {
        let (client, scope) = (&self.client, &asked.scope);
        let only: [Value; 1] = [scope];
        let begin = format!("BEGIN; {}", lock(asked.id));
        let begin = client.batch_execute(&begin);
        let (_, known) = tokio::try_join!(biased; begin, client.query_opt(&self.seen, &only))?;
        let known: Option<i64> = known.map(|row| row.get(0));
        if let Some(known) = known.filter(|known| *known >= fence) {
            return Ok(Ok(known));
        }
        let most = fence_most(known.and_then(fence_of));
        if asked.request.fence.get() > most {
            return Ok(Err(Decision::TooFar { most }));
        }
        if known.is_none() {
            let scopes: i64 = client.query_one("SELECT count(*) FROM fencron_guard_scopes", &[]).await?.get(0);
            if scopes.cast_unsigned() >= SCOPES_MOST {
                return Ok(Err(Decision::Full));
            }
        }
        Ok(Ok(client.query_one(&self.see, &[scope, &fence]).await?.get(0)))
    }

    /// What is known of the key, and whether something older is in flight.
    async fn look(&self, asked: &Asked, fence: i64) -> Result<(Option<Row>, bool)> {
        let named: [Value; 2] = [&asked.scope, &asked.request.key];
        let before: [Value; 2] = [&asked.scope, &fence];
        let row = self.client.query_opt(&self.row, &named);
        let (row, older) = tokio::try_join!(biased; row, self.client.query_one(&self.older, &before))?;
        Ok((row, older.get(0)))
    }

    /// Lets it in, and counts its key.
    async fn admit(&self, asked: &Asked, shared: &Shared, fence: i64) -> Result<()> {
        let (scope, request) = (&asked.scope, &asked.request);
        let (id, digest) = (asked.id.to_string(), request.digest.as_bytes());
        let size = KEY_OVERHEAD + (scope.len() + request.key.as_ref().map_or(0, String::len)) as u64;
        let (size, keep) = (size.cast_signed(), shared.keep());
        let named: [Value; 2] = [scope, &request.key];
        let values: [Value; 8] = [&id, scope, &request.key, &fence, &digest, &shared.name, &keep, &size];
        let remove = self.client.execute(&self.remove, &named);
        let insert = self.client.execute(&self.insert, &values);
        tokio::try_join!(biased; remove, insert, self.client.batch_execute("COMMIT"))?;
        if request.key.is_some() {
            shared.keys.fetch_add(1, Ordering::Relaxed);
            shared.bytes.fetch_add(size.cast_unsigned(), Ordering::Relaxed);
        }
        Ok(())
    }
}

impl Shared {
    async fn connect(&self) -> Result<Client> {
        let (client, connection) = self.config.connect(self.tls.clone()).await?;
        // It ends when the client is dropped. An error of the connection is every statement's error as well.
        tokio::spawn(async move { connection.await.ok() });
        Ok(client)
    }

    fn unavailable(&self, why: impl fmt::Display) -> StateError {
        StateError::Unavailable { state: self.named.clone(), why: why.to_string() }
    }

    async fn in_time<T>(
        &self,
        most: Duration,
        work: impl Future<Output = Result<T>>,
    ) -> std::result::Result<T, StateError> {
        match tokio::time::timeout(most, work).await {
            Ok(done) => done.map_err(|error| self.unavailable(message_of(&error))),
            Err(_) => Err(self.unavailable(format_args!("no answer in {} s", most.as_secs()))),
        }
    }

    fn keep(&self) -> f64 {
        self.bounds.keep.as_secs_f64() * 1000.0
    }

    /// Says that this guard lives.
    async fn beat(&self, client: &Client) -> Result<()> {
        let sent = self.clock.boot();
        let lives = "INSERT INTO fencron_guard_instances VALUES ($1, clock_timestamp() + $2 * interval '1 ms') \
                     ON CONFLICT (name) DO UPDATE SET lives_until = excluded.lives_until";
        client.execute(lives, &[&self.name, &(LIVES_FOR.as_secs_f64() * 1000.0)]).await?;
        let trusted = sent.plus(LIVES_FOR - MARGIN).since_boot().as_millis();
        self.trusted_until.store(u64::try_from(trusted).unwrap_or(u64::MAX), Ordering::Release);
        Ok(())
    }

    /// Forgets what has expired, puts in doubt what dead guards had in flight, and counts what is kept.
    async fn sweep(&self, client: &Client) -> Result<()> {
        let expired = "DELETE FROM fencron_guard_entries WHERE id IN (SELECT id FROM fencron_guard_entries \
                       WHERE progress <> 0 AND expires <= clock_timestamp() LIMIT $1 FOR UPDATE SKIP LOCKED)";
        client.execute(expired, &[&SWEEP_MOST]).await?;
        let dead = "progress = 0 AND guard NOT IN \
                    (SELECT name FROM fencron_guard_instances WHERE lives_until > clock_timestamp())";
        client.execute(&format!("DELETE FROM fencron_guard_entries WHERE key IS NULL AND {dead}"), &[]).await?;
        let doubt = format!(
            "UPDATE fencron_guard_entries SET progress = $1, expires = clock_timestamp() + $2 * interval '1 ms' \
             WHERE {dead}"
        );
        client.execute(&doubt, &[&IN_DOUBT, &self.keep()]).await?;
        client
            .execute(
                "DELETE FROM fencron_guard_instances WHERE lives_until < clock_timestamp() - interval '1 day'",
                &[],
            )
            .await?;
        let count = "SELECT count(*), coalesce(sum(size), 0)::bigint FROM fencron_guard_entries WHERE key IS NOT NULL";
        let row = client.query_one(count, &[]).await?;
        self.keys.store(row.get::<_, i64>(0).cast_unsigned(), Ordering::Relaxed);
        self.bytes.store(row.get::<_, i64>(1).cast_unsigned(), Ordering::Relaxed);
        Ok(())
    }

    /// Goes on with a chore, on a connection of its own.
    async fn keep_on(self: Arc<Shared>, chore: Chore, mut client: Option<Client>) {
        let (every, within) = match chore {
            Chore::Beat => (BEAT_EVERY, BEAT_WITHIN),
            Chore::Sweep => (SWEEP_EVERY, SWEEP_WITHIN),
        };
        loop {
            tokio::time::sleep(every).await;
            let done = self.in_time(within, async {
                let connected = match client.take() {
                    Some(client) => client,
                    None => self.connect().await?,
                };
                match chore {
                    Chore::Beat => self.beat(&connected).await?,
                    Chore::Sweep => self.sweep(&connected).await?,
                }
                client = Some(connected);
                Ok(())
            });
            if let Err(error) = done.await {
                tracing::warn!(%error, ?chore, "the guard's state does not take what has to be done regularly");
            }
        }
    }

    fn trusted(&self) -> bool {
        self.clock.boot().since_boot().as_millis() < u128::from(self.trusted_until.load(Ordering::Acquire))
    }
}

/// A connection for one purpose.
pub(in crate::guard) async fn connect_once(url: &str) -> std::result::Result<Client, String> {
    let mut config: Config = url.parse().map_err(|error: tokio_postgres::Error| error.to_string())?;
    config.connect_timeout(OPEN_WITHIN).application_name("fencron-guard");
    let (client, connection) = config.connect(tls()?).await.map_err(|error| message_of(&error))?;
    tokio::spawn(async move { connection.await.ok() });
    Ok(client)
}

/// The error with what the server says, which `Display` leaves out.
pub(in crate::guard) fn message_of(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), |database| database.message().to_owned())
}

fn tls() -> std::result::Result<MakeRustlsConnect, String> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|error| error.to_string())?.with_root_certificates(roots).with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

impl Postgres {
    pub(super) async fn open(about: About, bounds: Bounds, clock: Clock) -> std::result::Result<Postgres, StateError> {
        let About { url, named } = about;
        let unusable = |why: String| StateError::Unusable { state: named.clone(), why };
        let mut config: Config = url.parse().map_err(|error: tokio_postgres::Error| unusable(error.to_string()))?;
        config.connect_timeout(OPEN_WITHIN).application_name("fencron-guard");
        let shared = Arc::new(Shared {
            config,
            tls: tls().map_err(unusable)?,
            name: Uuid::new_v4().to_string(),
            bounds,
            clock,
            trusted_until: AtomicU64::new(0),
            keys: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            named,
        });
        let client = shared
            .in_time(OPEN_WITHIN, async {
                let client = shared.connect().await?;
                make_tables(&client).await?;
                shared.beat(&client).await?;
                shared.sweep(&client).await?;
                Ok(client)
            })
            .await?;
        let keep_on = |chore, client| tokio::spawn(Arc::clone(&shared).keep_on(chore, client)).abort_handle();
        let chores = [keep_on(Chore::Beat, Some(client)), keep_on(Chore::Sweep, None)];
        Ok(Postgres { shared, idle: Mutex::default(), chores })
    }

    pub(super) async fn ask(&self, asked: &Asked, in_doubt: InDoubt) -> std::result::Result<Answered, StateError> {
        if !self.shared.trusted() {
            return Err(self.shared.unavailable("this guard could not report to it for a while that it lives"));
        }
        let answered = self.with(|connection| async move {
            let answered = self.decide(&connection, asked, in_doubt).await;
            (connection, answered)
        });
        let answered = answered.await?;
        // It may have taken so long that the others take this guard for dead.
        match answered {
            Answered::Decided(Decision::Admit) if !self.shared.trusted() => {
                Err(self.shared.unavailable("it took too long to answer"))
            }
            answered => Ok(answered),
        }
    }

    async fn decide(&self, connection: &Connection, asked: &Asked, in_doubt: InDoubt) -> Result<Answered> {
        let (shared, request) = (&self.shared, &asked.request);
        let fence = i64::try_from(request.fence.get()).unwrap_or(i64::MAX);
        let seen = match connection.see(asked, fence).await? {
            Ok(seen) => seen,
            Err(decision) => {
                connection.client.batch_execute("ROLLBACK").await?;
                return Ok(Answered::Decided(decision));
            }
        };
        let (row, older_in_flight) = connection.look(asked, fence).await?;
        let entry = row.as_ref().map(|row| Entry {
            payload: request.digest.stands_to(row.get(0)),
            progress: match row.get::<_, i32>(1) {
                IN_FLIGHT if row.get(3) => Progress::InFlight,
                DONE => Progress::Done,
                _ => Progress::InDoubt,
            },
        });
        let full = shared.bounds.full(shared.keys.load(Ordering::Relaxed), shared.bytes.load(Ordering::Relaxed));
        let seen = fence_of(seen);
        let found = Found { seen, entry, older_in_flight, full: full && request.key.is_some() };
        let decision = decide(&found, request.fence, in_doubt);
        match (decision, row) {
            (Decision::Admit, _) => {
                connection.admit(asked, shared, fence).await?;
                return Ok(Answered::Decided(decision));
            }
            (Decision::Replay, Some(row)) => {
                connection.client.batch_execute("COMMIT").await?;
                let answer: Option<Vec<u8>> = row.get(2);
                return Ok(Answered::Replay(answer.and_then(Answer::decode).unwrap_or_else(Answer::lost)));
            }
            _ => connection.client.batch_execute("COMMIT").await?,
        }
        Ok(Answered::Decided(decision))
    }

    pub(super) async fn end(&self, id: Uuid, end: &End) -> std::result::Result<(), StateError> {
        let ended = self.with(|connection| async {
            let ended = record(&connection.client, id, end, self.shared.keep()).await;
            (connection, ended)
        });
        let size = ended.await?;
        self.shared.bytes.fetch_add(size, Ordering::Relaxed);
        Ok(())
    }

    /// Does `work` on a connection, which is kept if nothing failed.
    async fn with<T, F>(&self, work: impl FnOnce(Connection) -> F) -> std::result::Result<T, StateError>
    where
        F: Future<Output = (Connection, Result<T>)>,
    {
        let idle = self.idle.lock().await.pop().filter(|connection| !connection.client.is_closed());
        let (connection, done) = self
            .shared
            .in_time(ANSWER_WITHIN, async {
                let connection = match idle {
                    Some(connection) => connection,
                    None => Connection::open(&self.shared).await?,
                };
                let (connection, done) = work(connection).await;
                Ok((connection, done?))
            })
            .await?;
        let mut idle = self.idle.lock().await;
        if idle.len() < CONNECTIONS_KEPT {
            idle.push(connection);
        }
        Ok(done)
    }
}

/// A fence as a column holds it.
fn fence_of(number: i64) -> Option<Fence> {
    u64::try_from(number).ok().and_then(Fence::new)
}

/// Makes the tables, unless they are there: a user without the right to make them may use them.
async fn make_tables(client: &Client) -> Result<()> {
    let there = "SELECT to_regclass('fencron_guard_entries_by_expiry') IS NOT NULL";
    if client.query_one(there, &[]).await?.get(0) {
        return Ok(());
    }
    client.batch_execute(&format!("BEGIN; SELECT pg_advisory_xact_lock({MAKING}); {SCHEMA}; COMMIT")).await
}

/// Waits until the transaction that asks about `id` is over: an abandoned one may be about to commit, and what it lets
/// in could not be taken back before.
fn lock(id: Uuid) -> String {
    format!("SELECT pg_advisory_xact_lock({})", id.as_u64_pair().0.cast_signed())
}

/// Records how it ended, and answers how much larger what is kept has become.
async fn record(client: &Client, id: Uuid, end: &End, keep: f64) -> Result<u64> {
    if *end == End::Again {
        client.batch_execute(&lock(id)).await?;
    }
    let id = id.to_string();
    client.execute("DELETE FROM fencron_guard_entries WHERE id = $1 AND key IS NULL", &[&id]).await?;
    let expires = "expires = clock_timestamp() + $2 * interval '1 ms'";
    match end {
        End::Again => {
            client.execute("DELETE FROM fencron_guard_entries WHERE id = $1 AND progress <> 1", &[&id]).await?;
            Ok(0)
        }
        End::Unknown => {
            let doubt = format!(
                "UPDATE fencron_guard_entries SET progress = {IN_DOUBT}, {expires} WHERE id = $1 AND progress = 0"
            );
            client.execute(&doubt, &[&id, &keep]).await?;
            Ok(0)
        }
        End::Done(answer) => {
            let done = format!(
                "UPDATE fencron_guard_entries SET progress = {DONE}, {expires}, answer = $3, size = size + $4 \
                 WHERE id = $1 AND progress <> 1"
            );
            let answer = answer.encode();
            let size = answer.len() as u64;
            client.execute(&done, &[&id, &keep, &answer, &size.cast_signed()]).await?;
            Ok(size)
        }
    }
}
