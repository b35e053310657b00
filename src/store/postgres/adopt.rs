//! How a store goes on under another server: after a failover, or a restore from a backup.

use std::time::Duration;

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error};

use super::PostgresStore;
use super::reader::{emptied, revision};
use super::tables::{self, LINEAGE, LOCK};
use crate::store::contents::sql;
use crate::store::{Revision, StoreError};

/// By how much revisions jump: no server can have given as many that were lost. (2^63 leaves eight thousand million jumps.)
const JUMP: u64 = 1 << 30;

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adopted {
    /// The tables were last written by this server: there is nothing to do.
    Ours,
    /// Revisions go on from `begins_at`. The last one before the change that is there is `left_at`.
    Adopted { left_at: Revision, begins_at: Revision },
}

/// Where the tables and the server stand.
#[derive(PartialEq, Eq)]
struct Standing {
    is_ours: bool,
    server: (i64, i64),
    newest: Revision,
    longest_ttl: Duration,
}

impl PostgresStore {
    /// Makes the tables where they are not there, or are of an older version, and lets `roles` use them.
    ///
    /// # Errors
    ///
    /// [`StoreError::Denied`] where this role may not, and whatever connecting fails with.
    pub async fn init(&self, roles: &[String]) -> Result<(), StoreError> {
        let place = &self.shared.place;
        let connected = place.connect().await?;
        for role in roles {
            tables::grant(&connected.client, role).await.map_err(|error| place.not_applied(&error))?;
        }
        Ok(())
    }

    /// Has the store go on under the server that it is reached by. Before, nothing but keep-alives is accepted there.
    ///
    /// It waits for the longest TTL that was ever granted: a hold that was granted and then lost with the last commits has
    /// run out by then. `waiting` is called with that time. Then revisions, and so fences, jump above all that were given.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] where the server changes once more in the meantime, and whatever asking it fails with.
    pub async fn adopt(&self, waiting: impl FnOnce(Duration)) -> Result<Adopted, StoreError> {
        let place = &self.shared.place;
        let first = place.connect().await?;
        let since = place.clock.boot();
        let standing = self.standing(&first.client).await?;
        if standing.is_ours {
            return Ok(Adopted::Ours);
        }
        drop(first);
        waiting(standing.longest_ttl);
        let until = since.plus(standing.longest_ttl);
        loop {
            let left = until.since(place.clock.boot());
            if left.is_zero() {
                break;
            }
            tokio::time::sleep(left).await;
        }
        let connected = place.connect().await?;
        let client = &connected.client;
        let refused = |error: Error| place.not_applied(&error);
        client
            .batch_execute(&format!(
                "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL synchronous_commit = on; \
                 SET LOCAL lock_timeout = '5s'; SELECT pg_catalog.pg_advisory_xact_lock({LOCK})"
            ))
            .await
            .map_err(refused)?;
        let now = self.standing(client).await?;
        if now.is_ours {
            return Ok(Adopted::Ours);
        }
        if now.server != standing.server {
            return Err(place.unavailable("the server has changed once more: run this again"));
        }
        let begins_at = Revision(now.newest.0.saturating_add(JUMP));
        jump(client, begins_at).await.map_err(refused)?;
        let committed = client.batch_execute("COMMIT").await;
        committed.map_err(|error| super::fault::unknown(&place.name, &error))?;
        Ok(Adopted::Adopted { left_at: now.newest, begins_at })
    }

    async fn standing(&self, client: &Client) -> Result<Standing, StoreError> {
        let place = &self.shared.place;
        let query = format!(
            "SELECT sysid = system AND timeline = wal_timeline, system, wal_timeline, longest_ttl,
                (SELECT max(revision) FROM fencron.log)
             FROM fencron.meta, (SELECT {LINEAGE}) l"
        );
        let rows = client.query_typed(&query, &[]).await.map_err(|error| place.not_applied(&error))?;
        let row = rows.first().ok_or_else(|| emptied(&place.name))?;
        let read = || {
            let longest_ttl = Duration::from_nanos(row.try_get::<_, i64>(3)?.unsigned_abs());
            let server = (row.try_get(1)?, row.try_get(2)?);
            Ok(Standing {
                is_ours: row.try_get(0)?,
                server,
                newest: revision(row, 4)?.unwrap_or_default(),
                longest_ttl,
            })
        };
        read().map_err(|error: Error| place.not_applied(&error))
    }
}

/// A row without a key keeps the number. All watches list again, and every lease is watched anew: a beat that was lost
/// could otherwise be counted up to one that was seen before.
async fn jump(client: &Client, begins_at: Revision) -> Result<(), Error> {
    let at = sql(begins_at);
    client
        .execute_typed("INSERT INTO fencron.log (revision, nth, key) VALUES ($1, 0, '')", &[(&at, Type::INT8)])
        .await?;
    let record = format!(
        "UPDATE fencron.meta SET kept_from = $1, sysid = system, timeline = wal_timeline FROM (SELECT {LINEAGE}) l"
    );
    client.execute_typed(&record, &[(&at, Type::INT8)]).await?;
    client.batch_execute(&format!("UPDATE fencron.leases SET beat = beat + {JUMP}")).await
}
