//! The task that writes. It takes all waiting requests, and makes one transaction of PostgreSQL of them, in two flights:
//! the first takes the lock of the writers and loads what the requests may touch, the second writes what they come to and
//! commits. In between they are evaluated as those of SQLite are (`store/contents.rs`).
//!
//! The lock is `pg_advisory_xact_lock`, and the number of a revision is taken under it: commits become visible in the
//! order of their numbers, without gaps. The transaction is READ COMMITTED whatever the role's default is, and the lock is
//! a statement of its own: what follows sees all that was committed before the lock was taken. A client that stops between
//! the flights holds up the store for a second, after which the server ends its session.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::timeout;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error, Row};

use super::fault;
use super::leases::{Leases, another_lineage, lease_in};
use super::link::{Connected, Place};
use super::loaded::{Loaded, Wants};
use super::reader::{Params, Reader, emptied, entry, revision, text};
use super::tables::{LINEAGE, LOCK, VERSION, newer};
use super::watch::Bell;
use crate::store::contents::{Contents, bounds, lease_sql, sql};
use crate::store::{Committed, Entry, LeaseId, Revision, StoreError, Txn};

/// The most requests in one transaction of PostgreSQL.
const BATCH: usize = 64;

/// How long the flights may take. The first waits for the lock for 5 s at most.
const FLIGHT_WITHIN: Duration = Duration::from_secs(8);

/// What can be asked of the task.
pub(super) enum Write {
    Commit(Txn),
    Revoke(LeaseId),
    Compact(Revision),
    /// Ends the leases whose time is up, which every transaction begins with.
    Expire,
}

/// What it answers: of a transaction what was committed, otherwise nothing.
pub(super) type Written = Option<Committed>;

/// The answers to the requests of a batch, in their order.
type Answers = Vec<Result<Written, StoreError>>;

pub(super) struct Request {
    pub write: Write,
    /// `None`: no caller waits for the answer.
    pub reply: Option<oneshot::Sender<Result<Written, StoreError>>>,
    /// Bounds how many requests wait.
    pub permit: Option<OwnedSemaphorePermit>,
}

/// What the task owns.
pub(super) struct Writer {
    pub place: Arc<Place>,
    pub connected: Option<Connected>,
    pub requests: mpsc::UnboundedReceiver<Request>,
    pub leases: Arc<Leases>,
    pub reader: Arc<Reader>,
    /// Has the watches of this handle served.
    pub bell: Bell,
    /// Has the other handles notified.
    pub committed: Bell,
    /// From where on history is kept, whenever that has changed.
    pub compacted: mpsc::UnboundedSender<Revision>,
}

/// What the first flight brings.
struct Ground {
    loaded: Loaded,
    newest: Revision,
    kept_from: Revision,
    /// The leases that were due, and are removed.
    expired: Vec<LeaseId>,
    /// Whether the tables were last written by this server.
    is_ours: bool,
}

/// What came of a batch.
struct Outcome {
    answers: Answers,
    has_changed: bool,
    kept_from: Option<Revision>,
}

impl Writer {
    pub async fn run(mut self) {
        while let Some(first) = self.requests.recv().await {
            let mut batch = vec![first];
            while batch.len() < BATCH
                && let Ok(request) = self.requests.try_recv()
            {
                batch.push(request);
            }
            self.answer(batch).await;
        }
    }

    async fn answer(&mut self, mut batch: Vec<Request>) {
        // A caller that has stopped waiting got the error that the outcome is unknown: not applying it is the better of
        // the two.
        batch.retain(|request| request.reply.as_ref().is_none_or(|reply| !reply.is_closed()));
        self.look_first().await;
        let writes: Vec<&Write> = batch.iter().map(|request| &request.write).collect();
        let (answers, changed) = match self.transact(&writes).await {
            Ok(Outcome { answers, has_changed, kept_from }) => {
                kept_from.map(|kept_from| self.compacted.send(kept_from).ok());
                (answers, has_changed)
            }
            Err(error) => {
                self.connected = None;
                // It may stand all the same, where the commit was not answered.
                (batch.iter().map(|_| Err(error.clone())).collect(), true)
            }
        };
        if changed {
            self.bell.ring();
            self.committed.ring();
        }
        for (request, answer) in batch.into_iter().zip(answers) {
            if let Some(reply) = request.reply {
                // The caller may have gone in the meantime, knowing that the outcome is unknown.
                drop(reply.send(answer));
            }
            drop(request.permit);
        }
    }

    /// Leases are looked at before the first transaction, which may meet one that is over, and now and then after.
    async fn look_first(&self) {
        if !self.leases.is_out_of_date() {
            return;
        }
        if self.leases.has_looked() {
            self.leases.wanted.notify_one();
        } else if let Err(error) = self.leases.look(&self.reader).await {
            // The transaction meets the same, and says so.
            tracing::debug!(%error, "leases could not be looked at");
        }
    }

    /// Makes one transaction of the requests. An error is the answer to all of them: none was applied, or (if COMMIT was
    /// not answered) that is unknown.
    async fn transact(&mut self, writes: &[&Write]) -> Result<Outcome, StoreError> {
        let connected = match self.connected.take().filter(|connected| !connected.client.is_closed()) {
            Some(connected) => connected,
            None => self.place.connect().await?,
        };
        let client = &connected.client;
        let due = self.leases.due();
        let ground = self.load(client, &Wants::of(writes), &due).await?;
        if !ground.is_ours {
            let answers = self.only_look(writes, ground);
            if matches!(timeout(FLIGHT_WITHIN, client.batch_execute("ROLLBACK")).await, Ok(Ok(()))) {
                self.connected = Some(connected);
            }
            return Ok(Outcome { answers, has_changed: false, kept_from: None });
        }
        self.remember(&due, &ground.expired);
        let (kept_before, expired) = (ground.kept_from, ground.expired);
        let mut contents = Contents::new(ground.loaded, ground.newest, ground.kept_from);
        expired.iter().try_for_each(|lease| contents.end(*lease))?;
        let answers = writes.iter().map(|write| apply(&mut contents, write)).collect();
        contents.bound_history();
        let kept_from = Some(contents.kept_from).filter(|kept_from| *kept_from != kept_before);
        let has_changed = contents.rows.has_changed() || !expired.is_empty();
        if has_changed || kept_from.is_some() {
            self.save(client, &contents, kept_from).await?;
        } else if !matches!(timeout(FLIGHT_WITHIN, client.batch_execute("COMMIT")).await, Ok(Ok(()))) {
            // What was read stands.
            return Ok(Outcome { answers, has_changed, kept_from });
        }
        self.connected = Some(connected);
        Ok(Outcome { answers, has_changed, kept_from })
    }

    /// The first flight.
    async fn load(&self, client: &Client, wants: &Wants, due: &[(i64, i64)]) -> Result<Ground, StoreError> {
        let flight = timeout(FLIGHT_WITHIN, first_flight(client, wants, due)).await;
        let landed = flight.map_err(|_| self.place.unavailable("it did not answer in time"))?;
        let landed = landed.map_err(|error| self.place.not_applied(&error))?;
        let Some(state) = landed.state.first() else { return Err(emptied(&self.place.name)) };
        let version: i32 = state.try_get(2).map_err(|error| self.place.not_applied(&error))?;
        if version > VERSION {
            return Err(newer(&self.place.name, version));
        }
        let understood = ground(&landed).map_err(|error| self.place.not_applied(&error))?;
        let ground = understood.ok_or_else(|| emptied(&self.place.name))?;
        let now = self.place.clock.boot();
        for row in &landed.seen {
            if let (Ok(id), Ok(beat), Ok(ttl)) = (row.try_get(0), row.try_get(1), row.try_get::<_, i64>(2)) {
                self.leases.seen().saw(id, beat, Duration::from_nanos(ttl.unsigned_abs()), now);
            }
        }
        Ok(ground)
    }

    /// What a server answers that was not adopted: what is there, as it is. It takes no write, and by nothing that it says
    /// is anything decided: commits may be missing.
    fn only_look(&self, writes: &[&Write], ground: Ground) -> Answers {
        let mut contents = Contents::new(ground.loaded, ground.newest, ground.kept_from);
        let answers = writes.iter().map(|write| match write {
            Write::Commit(txn) if txn.only_looks() => apply(&mut contents, write),
            _ => Err(another_lineage(&self.place.name)),
        });
        answers.collect()
    }

    /// Those that are removed, or are there no more, are forgotten. One that goes on was seen with its new beat.
    fn remember(&self, due: &[(i64, i64)], expired: &[LeaseId]) {
        let mut seen = self.leases.seen();
        for (lease, beat) in due {
            if expired.contains(&lease_in(*lease)) || seen.has(*lease, *beat) {
                seen.forget(*lease);
            }
        }
    }

    /// The second flight.
    async fn save(
        &self,
        client: &Client,
        contents: &Contents<Loaded>,
        kept_from: Option<Revision>,
    ) -> Result<(), StoreError> {
        let rows = &contents.rows;
        let (put, gone) = rows.changes();
        let flight = async {
            tokio::join!(biased;
                insert_entries(client, &put),
                remove_entries(client, &gone),
                insert_log(client, rows),
                remove_leases(client, rows.ended()),
                keep_from(client, kept_from),
                client.batch_execute("COMMIT"),
            )
        };
        let Ok((inserted, removed, logged, ended, kept, committed)) = timeout(FLIGHT_WITHIN, flight).await else {
            return Err(self.place.unknown("COMMIT was not answered in time"));
        };
        for written in [inserted, removed, logged, ended, kept] {
            match written {
                Err(error) if fault::is_an_answer(&error) => return Err(self.place.not_applied(&error)),
                Err(error) => return Err(fault::unknown(&self.place.name, &error)),
                Ok(()) => {}
            }
        }
        match committed {
            Ok(()) => Ok(()),
            Err(error) if fault::refuses_a_commit(&error) => Err(self.place.not_applied(&error)),
            Err(error) => Err(fault::unknown(&self.place.name, &error)),
        }
    }
}

fn apply(contents: &mut Contents<Loaded>, write: &Write) -> Result<Written, StoreError> {
    match write {
        Write::Commit(txn) => contents.commit(txn).map(Some),
        Write::Revoke(lease) => contents.revoke(*lease).map(|()| None),
        Write::Compact(revision) => {
            contents.compact(*revision);
            Ok(None)
        }
        Write::Expire => Ok(None),
    }
}

/// The rows that the statements of the first flight answer.
struct Landed {
    state: Vec<Row>,
    expired: Vec<Row>,
    seen: Vec<Row>,
    leases: Vec<Row>,
    bare: Vec<Row>,
    entries: [Vec<Row>; 3],
    past: Vec<Vec<Row>>,
}

async fn first_flight(client: &Client, wants: &Wants, due: &[(i64, i64)]) -> Result<Landed, Error> {
    let begin = format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL synchronous_commit = on; \
         SET LOCAL lock_timeout = '5s'; SET LOCAL idle_in_transaction_session_timeout = '1s'; \
         SELECT pg_catalog.pg_advisory_xact_lock({LOCK})"
    );
    let state = format!(
        "SELECT (SELECT max(revision) FROM fencron.log), kept_from, version, sysid = system AND timeline = wal_timeline
         FROM fencron.meta, (SELECT {LINEAGE}) l"
    );
    let (ids, beats): (Vec<i64>, Vec<i64>) = due.iter().copied().unzip();
    let (begun, state, expired, seen, leases, bare, keys, whole, held, past) = tokio::join!(biased;
        client.batch_execute(&begin),
        ask(client, &state, &[]),
        remove_due(client, &ids, &beats),
        ask_by_ids(client, "SELECT id, beat, ttl FROM fencron.leases WHERE id = ANY($1)", &ids),
        ask_by_ids(client, "SELECT id FROM fencron.leases WHERE id = ANY($1)", &wants.leases),
        ranges(client, "''::bytea", &wants.bare_starts, &wants.bare_ends),
        one_by_one(client, &wants.keys),
        ranges(client, "value", &wants.starts, &wants.ends),
        held(client, wants, &ids),
        past(client, wants),
    );
    begun?;
    let entries = [keys?, whole?, held?];
    Ok(Landed { state: state?, expired: expired?, seen: seen?, leases: leases?, bare: bare?, entries, past: past? })
}

/// Removes the leases whose beat is still the one that was seen for their TTL. The lock of the row decides between this
/// and a beat that comes now.
async fn remove_due(client: &Client, ids: &[i64], beats: &[i64]) -> Result<Vec<Row>, Error> {
    let query = "DELETE FROM fencron.leases l USING unnest($1::bigint[], $2::bigint[]) AS d (id, beat)
        WHERE l.id = d.id AND l.beat = d.beat RETURNING l.id";
    ask_of(ids, client, query, &[(&ids, Type::INT8_ARRAY), (&beats, Type::INT8_ARRAY)]).await
}

async fn ask_by_ids(client: &Client, query: &str, ids: &[i64]) -> Result<Vec<Row>, Error> {
    ask_of(ids, client, query, &[(&ids, Type::INT8_ARRAY)]).await
}

async fn one_by_one(client: &Client, keys: &[Vec<u8>]) -> Result<Vec<Row>, Error> {
    let query = "SELECT key, value, created, modified, lease FROM fencron.entries WHERE key = ANY($1)";
    ask_of(keys, client, query, &[(&keys, Type::BYTEA_ARRAY)]).await
}

async fn ranges(client: &Client, value: &str, starts: &[Vec<u8>], ends: &[Vec<u8>]) -> Result<Vec<Row>, Error> {
    let query = format!(
        "SELECT e.key, {value}, created, modified, lease FROM unnest($1::bytea[], $2::bytea[]) AS r (first, behind)
         JOIN fencron.entries e ON e.key >= r.first AND e.key < r.behind"
    );
    ask_of(starts, client, &query, &[(&starts, Type::BYTEA_ARRAY), (&ends, Type::BYTEA_ARRAY)]).await
}

/// The entries that may vanish with their leases.
async fn held(client: &Client, wants: &Wants, due: &[i64]) -> Result<Vec<Row>, Error> {
    let leases = [&wants.held, due].concat();
    let query = "SELECT key, value, created, modified, lease FROM fencron.entries WHERE lease = ANY($1)";
    ask_by_ids(client, query, &leases).await
}

async fn past(client: &Client, wants: &Wants) -> Result<Vec<Vec<Row>>, Error> {
    let query = "SELECT key, old_value, old_created, old_modified, old_lease, revision, nth FROM fencron.log
        WHERE revision > $1 AND key >= $2 AND key < $3";
    let mut all = Vec::new();
    for (keys, since) in &wants.past {
        let (start, end) = bounds(keys);
        let params: Params<'_> =
            &[(since, Type::INT8), (&start.as_bytes(), Type::BYTEA), (&end.as_bytes(), Type::BYTEA)];
        all.push(ask(client, query, params).await?);
    }
    Ok(all)
}

async fn ask(client: &Client, query: &str, params: Params<'_>) -> Result<Vec<Row>, Error> {
    client.query_typed(query, params).await
}

/// Asks where there is something to ask for.
async fn ask_of<T>(of: &[T], client: &Client, query: &str, params: Params<'_>) -> Result<Vec<Row>, Error> {
    if of.is_empty() { Ok(Vec::new()) } else { ask(client, query, params).await }
}

/// What the rows say. `None`: there is nothing in them.
fn ground(landed: &Landed) -> Result<Option<Ground>, Error> {
    let Some(state) = landed.state.first() else { return Ok(None) };
    let (Some(newest), Some(kept_from)) = (revision(state, 0)?, revision(state, 1)?) else { return Ok(None) };
    let mut loaded = Loaded::default();
    for row in landed.bare.iter().chain(landed.entries.iter().flatten()) {
        entry(row, 0)?.into_iter().for_each(|entry| loaded.add(entry));
    }
    for row in &landed.leases {
        loaded.add_lease(lease_in(row.try_get(0)?));
    }
    for row in landed.past.iter().flatten() {
        let old = if row.try_get::<_, Option<i64>>(2)?.is_some() { entry(row, 0)? } else { None };
        loaded.add_past(revision(row, 5)?.unwrap_or_default(), row.try_get(6)?, text(row.try_get(0)?), old);
    }
    let expired: Result<Vec<i64>, Error> = landed.expired.iter().map(|row| row.try_get(0)).collect();
    let expired = expired?.into_iter().map(lease_in).collect();
    Ok(Some(Ground { loaded, newest, kept_from, expired, is_ours: state.try_get(3)? }))
}

async fn insert_entries(client: &Client, put: &[&Entry]) -> Result<(), Error> {
    if put.is_empty() {
        return Ok(());
    }
    let keys: Vec<&[u8]> = put.iter().map(|entry| entry.key.as_bytes()).collect();
    let values: Vec<&[u8]> = put.iter().map(|entry| &entry.value[..]).collect();
    let created: Vec<i64> = put.iter().map(|entry| sql(entry.created)).collect();
    let modified: Vec<i64> = put.iter().map(|entry| sql(entry.modified)).collect();
    let leases: Vec<Option<i64>> = put.iter().map(|entry| entry.lease.map(lease_sql)).collect();
    let query = "INSERT INTO fencron.entries (key, value, created, modified, lease)
        SELECT * FROM unnest($1::bytea[], $2::bytea[], $3::bigint[], $4::bigint[], $5::bigint[])
        ON CONFLICT (key) DO UPDATE SET value = excluded.value, created = excluded.created,
            modified = excluded.modified, lease = excluded.lease";
    let params: Params<'_> = &[
        (&keys, Type::BYTEA_ARRAY),
        (&values, Type::BYTEA_ARRAY),
        (&created, Type::INT8_ARRAY),
        (&modified, Type::INT8_ARRAY),
        (&leases, Type::INT8_ARRAY),
    ];
    ask(client, query, params).await.map(drop)
}

async fn remove_entries(client: &Client, gone: &[&str]) -> Result<(), Error> {
    let keys: Vec<&[u8]> = gone.iter().map(|key| key.as_bytes()).collect();
    let query = "DELETE FROM fencron.entries WHERE key = ANY($1)";
    ask_of(&keys, client, query, &[(&keys, Type::BYTEA_ARRAY)]).await.map(drop)
}

async fn insert_log(client: &Client, rows: &Loaded) -> Result<(), Error> {
    let logged: Vec<_> = rows.logged().collect();
    if logged.is_empty() {
        return Ok(());
    }
    let revisions: Vec<i64> = logged.iter().map(|(revision, ..)| sql(*revision)).collect();
    let nths: Vec<i64> = logged.iter().map(|(_, nth, _)| *nth).collect();
    let keys: Vec<&[u8]> = logged.iter().map(|(.., logged)| logged.key.as_bytes()).collect();
    let new = || logged.iter().map(|(.., logged)| logged.new.as_ref());
    let old = || logged.iter().map(|(.., logged)| logged.old.as_ref());
    let lease = |entry: &Entry| entry.lease.map(lease_sql);
    let values: Vec<Option<&[u8]>> = new().map(|new| new.map(|new| &new.value[..])).collect();
    let created: Vec<Option<i64>> = new().map(|new| new.map(|new| sql(new.created))).collect();
    let leases: Vec<Option<i64>> = new().map(|new| new.and_then(lease)).collect();
    let old_values: Vec<Option<&[u8]>> = old().map(|old| old.map(|old| &old.value[..])).collect();
    let old_created: Vec<Option<i64>> = old().map(|old| old.map(|old| sql(old.created))).collect();
    let old_modified: Vec<Option<i64>> = old().map(|old| old.map(|old| sql(old.modified))).collect();
    let old_leases: Vec<Option<i64>> = old().map(|old| old.and_then(lease)).collect();
    let query = "INSERT INTO fencron.log (revision, nth, key, value, created, lease,
            old_value, old_created, old_modified, old_lease)
        SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bytea[], $4::bytea[], $5::bigint[], $6::bigint[],
            $7::bytea[], $8::bigint[], $9::bigint[], $10::bigint[])";
    let params: Params<'_> = &[
        (&revisions, Type::INT8_ARRAY),
        (&nths, Type::INT8_ARRAY),
        (&keys, Type::BYTEA_ARRAY),
        (&values, Type::BYTEA_ARRAY),
        (&created, Type::INT8_ARRAY),
        (&leases, Type::INT8_ARRAY),
        (&old_values, Type::BYTEA_ARRAY),
        (&old_created, Type::INT8_ARRAY),
        (&old_modified, Type::INT8_ARRAY),
        (&old_leases, Type::INT8_ARRAY),
    ];
    ask(client, query, params).await.map(drop)
}

async fn remove_leases(client: &Client, ended: &[LeaseId]) -> Result<(), Error> {
    let ids: Vec<i64> = ended.iter().copied().map(lease_sql).collect();
    let query = "DELETE FROM fencron.leases WHERE id = ANY($1)";
    ask_of(&ids, client, query, &[(&ids, Type::INT8_ARRAY)]).await.map(drop)
}

async fn keep_from(client: &Client, kept_from: Option<Revision>) -> Result<(), Error> {
    let Some(kept_from) = kept_from else { return Ok(()) };
    ask(client, "UPDATE fencron.meta SET kept_from = $1", &[(&sql(kept_from), Type::INT8)]).await.map(drop)
}
