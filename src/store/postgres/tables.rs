//! The tables of a store: how they are made, and how they are recognized.
//!
//! Keys are `bytea`: a text holds no NUL, with which the key after another one ends, and is sorted by the collation of the
//! database.

use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::fault;
use crate::store::StoreError;

/// What every write of the store waits for: `fenc`, `ron1`.
pub(super) const LOCK: i64 = 0x6665_6e63_726f_6e31;

/// The identity of the cluster of databases, which a copy of its files keeps; and the timeline that it writes, which is
/// another one after each promotion and each recovery. (The timeline of `pg_control_checkpoint` is the old one until the
/// first checkpoint.)
pub(super) const LINEAGE: &str = "(SELECT system_identifier FROM pg_catalog.pg_control_system()) AS system,
    ('x' || pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 1, 8))::bit(32)::bigint
        AS wal_timeline";

/// Each makes the tables of a version of those of the version before; that of the first is no tables.
const MIGRATIONS: &[&str] = &["
    CREATE TABLE fencron.meta (
        one boolean PRIMARY KEY DEFAULT true CHECK (one), version integer NOT NULL, kept_from bigint NOT NULL,
        sysid bigint NOT NULL, timeline bigint NOT NULL, longest_ttl bigint NOT NULL
    );
    CREATE TABLE fencron.entries (
        key bytea PRIMARY KEY, value bytea NOT NULL, created bigint NOT NULL, modified bigint NOT NULL, lease bigint
    ) WITH (fillfactor = 70);
    CREATE INDEX entries_by_lease ON fencron.entries (lease) WHERE lease IS NOT NULL;
    CREATE TABLE fencron.log (
        revision bigint, nth bigint, key bytea NOT NULL, value bytea, created bigint, lease bigint,
        old_value bytea, old_created bigint, old_modified bigint, old_lease bigint, PRIMARY KEY (revision, nth)
    );
    CREATE TABLE fencron.leases (id bigint PRIMARY KEY, ttl bigint NOT NULL, beat bigint NOT NULL)
        WITH (fillfactor = 20);
    CREATE TABLE fencron.sightings (
        lease bigint REFERENCES fencron.leases ON DELETE CASCADE, boot text, beat bigint NOT NULL, at bigint NOT NULL,
        PRIMARY KEY (lease, boot)
    );
    INSERT INTO fencron.log (revision, nth, key) VALUES (1, 0, '');
"];

/// The version of the tables that this program works with.
pub(super) const VERSION: i32 = MIGRATIONS.len() as i32;

/// The columns and primary keys of that version, as [`SHAPE`] lists them.
const EXPECTED: &str = "entries p
entries.created bigint not null
entries.key bytea not null
entries.lease bigint
entries.modified bigint not null
entries.value bytea not null
entries: PRIMARY KEY (key)
leases p
leases.beat bigint not null
leases.id bigint not null
leases.ttl bigint not null
leases: PRIMARY KEY (id)
log p
log.created bigint
log.key bytea not null
log.lease bigint
log.nth bigint not null
log.old_created bigint
log.old_lease bigint
log.old_modified bigint
log.old_value bytea
log.revision bigint not null
log.value bytea
log: PRIMARY KEY (revision, nth)
meta p
meta.kept_from bigint not null
meta.longest_ttl bigint not null
meta.one boolean not null
meta.sysid bigint not null
meta.timeline bigint not null
meta.version integer not null
meta: PRIMARY KEY (one)
sightings p
sightings.at bigint not null
sightings.beat bigint not null
sightings.boot text not null
sightings.lease bigint not null
sightings: PRIMARY KEY (lease, boot)";

/// The tables with their persistence (`u`: a crash empties it), columns and primary keys.
const SHAPE: &str = "
    WITH tables AS (
        SELECT c.oid, c.relname::text AS name, c.relpersistence::text AS kept
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = 'fencron' AND c.relkind IN ('r', 'p')
    )
    SELECT name || ' ' || kept FROM tables
    UNION ALL
    SELECT name || '.' || a.attname || ' ' || pg_catalog.format_type(a.atttypid, a.atttypmod)
        || CASE WHEN a.attnotnull THEN ' not null' ELSE '' END
    FROM tables JOIN pg_catalog.pg_attribute a ON a.attrelid = tables.oid AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT name || ': ' || pg_catalog.pg_get_constraintdef(k.oid)
    FROM tables JOIN pg_catalog.pg_constraint k ON k.conrelid = tables.oid AND k.contype = 'p'";

/// The least version of PostgreSQL: older ones are no longer repaired.
const SERVER_LEAST: i32 = 130_000;

/// Other databases that speak PostgreSQL's protocol, by what their `version()` says, and what they lack.
const OTHERS: [&str; 7] = ["CockroachDB", "-YB-", "Yugabyte", "Redshift", "Greenplum", "Materialize", "QuestDB"];

/// Checks that the server is one, and that the tables are those of this version; makes them where there are none.
pub(super) async fn check(client: &Client, store: &str) -> Result<(), StoreError> {
    let broken = |error: tokio_postgres::Error| fault::not_applied(store, &error);
    let version: String = first(client, "SELECT pg_catalog.version()").await.map_err(broken)?;
    refuse_others(store, &version)?;
    let number = "SELECT pg_catalog.current_setting('server_version_num')::integer";
    if first::<i32>(client, number).await.map_err(broken)? < SERVER_LEAST {
        return Err(StoreError::Unusable(format!("{store} is {version}: fencron needs version 13 or later")));
    }
    let found = found(client).await.map_err(broken)?;
    if found < VERSION {
        migrate(client, store).await?;
    } else if found > VERSION {
        return Err(newer(store, found));
    }
    let shape: Vec<String> = client
        .query_typed(SHAPE, &[])
        .await
        .and_then(|rows| rows.iter().map(|row| row.try_get(0)).collect())
        .map_err(broken)?;
    match difference(&shape) {
        None => Ok(()),
        Some(difference) => Err(StoreError::Unusable(format!(
            "{store}: the tables of the schema `fencron` are not those that fencron made ({difference}): they were \
             altered by hand. Put that back, or restore them from a backup"
        ))),
    }
}

pub(super) fn newer(store: &str, found: i32) -> StoreError {
    StoreError::Unusable(format!(
        "{store} has tables of version {found}, from a newer fencron; this one knows {VERSION}: use the newer program"
    ))
}

fn refuse_others(store: &str, version: &str) -> Result<(), StoreError> {
    match OTHERS.iter().any(|other| version.contains(other)) || !version.starts_with("PostgreSQL ") {
        false => Ok(()),
        true => Err(StoreError::Unusable(format!(
            "{store} is no PostgreSQL but `{version}`, on whose locks fencron cannot rely: use PostgreSQL or etcd"
        ))),
    }
}

/// What is there and should not be, or the other way round: the first that is found.
fn difference(shape: &[String]) -> Option<String> {
    let missing = EXPECTED.lines().find(|line| !shape.iter().any(|found| found == line));
    let surplus = || shape.iter().find(|found| !EXPECTED.lines().any(|line| line == found.as_str()));
    match missing {
        Some(missing) => Some(format!("there is no `{missing}`")),
        None => surplus().map(|surplus| format!("there is `{surplus}`")),
    }
}

async fn first<T: for<'a> tokio_postgres::types::FromSql<'a>>(
    client: &Client,
    query: &str,
) -> Result<T, tokio_postgres::Error> {
    client.query_typed_one(query, &[]).await?.try_get(0)
}

/// The version of the tables; 0: there are none.
async fn found(client: &Client) -> Result<i32, tokio_postgres::Error> {
    // Not `to_regclass`: what that knows may be from before the lock of the writers was taken.
    let there = "SELECT EXISTS (
        SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = 'fencron' AND c.relname = 'meta'
    )";
    if first::<bool>(client, there).await? { first(client, "SELECT version FROM fencron.meta").await } else { Ok(0) }
}

/// Makes the tables of this version of those that there are, in one transaction. Another process may do so at the same
/// time: one of them waits, and finds them made.
async fn migrate(client: &Client, store: &str) -> Result<(), StoreError> {
    let outcome = migrate_in_transaction(client).await;
    let explained = outcome.map_err(|error| match error.code().map(|code| code.code()) {
        Some("42501") => StoreError::Denied {
            store: store.to_owned(),
            why: format!(
                "the tables are not there yet, and this role may not make them ({}): let the owner of the database run \
                 `fencron store init URL --grant ROLE` with this role",
                error.as_db_error().map_or("", |said| said.message())
            ),
        },
        // Whether a lost COMMIT made them shows the next connection.
        _ => fault::not_applied(store, &error),
    });
    explained.inspect_err(|_| tracing::debug!(%store, "the tables were not made"))
}

async fn migrate_in_transaction(client: &Client) -> Result<(), tokio_postgres::Error> {
    client
        .batch_execute(&format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL lock_timeout = '5s'; \
             SELECT pg_catalog.pg_advisory_xact_lock({LOCK})"
        ))
        .await?;
    let from = found(client).await?;
    if from == 0 {
        let there = "SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'fencron')";
        if !first::<bool>(client, there).await? {
            client.batch_execute("CREATE SCHEMA fencron").await?;
        }
    }
    for migration in MIGRATIONS.iter().skip(usize::try_from(from).unwrap_or(0)) {
        client.batch_execute(migration).await?;
    }
    let record = match from {
        0 => format!("INSERT INTO fencron.meta SELECT true, $1, 0, system, wal_timeline, 0 FROM (SELECT {LINEAGE}) l"),
        _ => "UPDATE fencron.meta SET version = $1".to_owned(),
    };
    client.execute_typed(&record, &[(&VERSION, Type::INT4)]).await?;
    client.batch_execute("COMMIT").await
}

/// Lets a role use the tables.
pub(super) async fn grant(client: &Client, role: &str) -> Result<(), tokio_postgres::Error> {
    let role = format!("\"{}\"", role.replace('"', "\"\""));
    client
        .batch_execute(&format!(
            "BEGIN; GRANT USAGE ON SCHEMA fencron TO {role}; \
             GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA fencron TO {role}; COMMIT"
        ))
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_postgresql_is_refused_by_its_version() {
        let refused = |version| refuse_others("postgres://a/b", version).is_err();
        assert!(!refused("PostgreSQL 15.18 (Debian 15.18-0+deb12u1) on x86_64-pc-linux-gnu"));
        for other in ["CockroachDB CCL v24.1.0", "PostgreSQL 11.2-YB-2.15.0 on x86_64", "Materialize v0.1"] {
            assert!(refused(other), "{other}");
        }
    }

    #[test]
    fn a_difference_of_the_tables_is_named() {
        let expected: Vec<String> = EXPECTED.lines().map(str::to_owned).collect();
        assert_eq!(difference(&expected), None);
        assert!(difference(&expected[1..]).unwrap().contains("entries p"));
        let more = [&expected[..], &["log.more text".to_owned()]].concat();
        assert!(difference(&more).unwrap().contains("log.more text"));
    }
}
