//! What a server says of itself, and what an operator ought to know of it.

use super::leases::another_lineage;
use super::reader::Reader;
use super::tables::LINEAGE;
use crate::store::{About, StoreError};
use crate::time::Wall;

/// How old the oldest transaction may be before it is reported: it keeps the database from removing what was replaced.
const PINNED_FOR: &str = "15 minutes";

pub(super) async fn about(reader: &Reader) -> Result<About, StoreError> {
    // Of other roles' sessions a role may see little: a count that it may not see is none.
    let query = format!(
        "SELECT pg_catalog.current_setting('server_version') AS version,
            (SELECT sum(pg_catalog.pg_total_relation_size(c.oid))::bigint FROM pg_catalog.pg_class c
                JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'fencron' AND c.relkind = 'r'
            ) AS size,
            pg_catalog.current_setting('fsync') = 'on' AS fsync,
            pg_catalog.current_setting('full_page_writes') = 'on' AS full_page_writes,
            pg_catalog.current_setting('synchronous_standby_names') <> '' AS synchronous,
            (SELECT count(*) FROM pg_catalog.pg_stat_replication) AS standbys,
            (SELECT count(*) FROM pg_catalog.pg_stat_activity
                WHERE backend_xmin IS NOT NULL AND xact_start < pg_catalog.now() - interval '{PINNED_FOR}') AS pinned,
            (1000 * extract(epoch FROM pg_catalog.clock_timestamp()))::bigint AS clock,
            (SELECT sysid = system AND timeline = wal_timeline FROM fencron.meta, (SELECT {LINEAGE}) l) AS is_ours"
    );
    let rows = reader.ask(&query, &[]).await?;
    let place = &reader.link.place;
    let read = rows.first().map(|row| {
        let facts = Facts {
            fsync: row.try_get("fsync")?,
            full_page_writes: row.try_get("full_page_writes")?,
            synchronous: row.try_get("synchronous")?,
            standbys: row.try_get("standbys")?,
            pinned: row.try_get("pinned")?,
        };
        let is_ours = row.try_get::<_, Option<bool>>("is_ours")?.unwrap_or(false);
        let clock = Wall::from_millis(row.try_get("clock")?);
        Ok((row.try_get("version")?, row.try_get::<_, Option<i64>>("size")?, clock, facts, is_ours))
    });
    let read: Result<_, tokio_postgres::Error> = read.transpose();
    let read = read.map_err(|error| place.not_applied(&error))?;
    let (version, size, clock, facts, is_ours) = read.ok_or_else(|| place.unavailable("it has no answer"))?;
    let mut warnings = facts.warnings();
    if !is_ours {
        warnings.insert(0, another_lineage(&place.name).to_string());
    }
    let size = size.map(i64::unsigned_abs);
    Ok(About { kind: "postgres", version, size, quota: None, warnings, clock: Some(clock) })
}

struct Facts {
    fsync: bool,
    full_page_writes: bool,
    synchronous: bool,
    standbys: i64,
    pinned: i64,
}

impl Facts {
    fn warnings(&self) -> Vec<String> {
        let warnings = [
            (!self.fsync).then(|| {
                "PostgreSQL runs with fsync = off: a crash of its machine takes back what was answered".to_owned()
            }),
            (!self.full_page_writes).then(|| {
                "PostgreSQL runs with full_page_writes = off: a crash of its machine may damage the store".to_owned()
            }),
            (self.standbys > 0 && !self.synchronous).then(|| {
                "PostgreSQL has no synchronous standby (synchronous_standby_names is empty): a failover may take back the \
                 last answered writes, and nothing is written after it until `fencron store adopt`"
                    .to_owned()
            }),
            (self.pinned > 0).then(|| {
                format!(
                    "{} transactions are older than {PINNED_FOR}: PostgreSQL cannot remove what was replaced since, and \
                     the store grows",
                    self.pinned
                )
            }),
        ];
        warnings.into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOUND: Facts = Facts { fsync: true, full_page_writes: true, synchronous: true, standbys: 1, pinned: 0 };

    #[test]
    fn what_endangers_answered_writes_is_said() {
        assert_eq!(SOUND.warnings(), Vec::<String>::new());
        assert!(Facts { fsync: false, ..SOUND }.warnings()[0].contains("fsync"));
        assert!(Facts { full_page_writes: false, ..SOUND }.warnings()[0].contains("full_page_writes"));
        assert!(Facts { synchronous: false, ..SOUND }.warnings()[0].contains("synchronous standby"));
        assert_eq!(Facts { synchronous: false, standbys: 0, ..SOUND }.warnings(), Vec::<String>::new());
        assert!(Facts { pinned: 2, ..SOUND }.warnings()[0].contains("2 transactions"));
    }
}
