//! The guard inside a database: two tables, and the statements by which a transaction proves that it is neither stale
//! nor a repetition.
//!
//! The check and the effect are one transaction, so that nothing can come between them and no crash can part them.
//! `fencron_guard` has the greatest fence that a scope has seen, `fencron_done` every occurrence that was applied. For
//! programs that run the transaction themselves, [`Dialect::script`] is what `fencron guard sql` prints: the tables,
//! and a function to call first. A program that runs statements one by one takes these steps:
//!
//! 1. Begin, and [`Statements::hold`] first of all. It locks the scope's row *for sharing* until the end of the
//!    transaction, and answers with its fence, which [`FenceCheck::of`] judges.
//! 2. Where that says [`FenceCheck::Behind`]: roll back, [`Statements::advance`] in a transaction of its own, and begin
//!    again. Advancing waits for every transaction that holds the row: what an older leader was let in for ends before
//!    anything of a newer one begins. An advance that is committed without an effect does no harm.
//! 3. [`Statements::insert_occurrence`]: no row inserted means that the occurrence has been applied.
//! 4. The effect, and commit. [`Statements::read_occurrence`] shows whether an unanswered commit took place.
//!
//! Effects under one fence share the row and do not wait for each other, and none upgrades its lock, so that the
//! guard makes no deadlock. What a transaction sees that had to wait:
//!
//! - PostgreSQL, `READ COMMITTED`: the row as it is after the wait, hence the newer fence. `REPEATABLE READ` and
//!   `SERIALIZABLE`: SQLSTATE 40001 where the row was changed after the snapshot; repeated, it sees the newer fence.
//! - InnoDB: a locking read always reads what was committed last. As it comes first, the transaction's snapshot is
//!   taken after the wait, and the effect sees what those before it did. (MariaDB's `innodb_snapshot_isolation`
//!   answers a row that changed after an earlier snapshot with error 1020: repeat.)
//! - SQLite: `BEGIN IMMEDIATE` lets one writer in at a time.

use super::fence_most;
use crate::fence::Fence;

/// The databases that a guard can stand in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    Postgres,
    /// MySQL 8 and MariaDB, with InnoDB.
    Mysql,
    Sqlite,
}

/// The statements of one dialect, with the dialect's own placeholders. Fences are signed 64-bit integers there.
#[derive(Debug)]
pub struct Statements {
    /// Makes the tables where they are not there, each by a statement of its own. In PostgreSQL two that do so at once
    /// may collide (SQLSTATE 23505, 42P07 or 42710): the tables are there then.
    pub tables: &'static [&'static str],
    /// (scope) → the fence that the scope has seen, or no row: locked for sharing until the transaction ends.
    pub hold: &'static str,
    /// (scope, fence): raises what the scope has seen to `fence`, never lowers it. Waits for those that hold the row.
    pub advance: &'static str,
    /// (scope, run id, fence, checksum or null): records the occurrence. Where it is recorded already, no row is
    /// inserted; in MySQL that is error 1062, after which the transaction can go on.
    pub insert_occurrence: &'static str,
    /// (scope, run id) → (fence, checksum or null) of the occurrence, or no row: it was not applied.
    pub read_occurrence: &'static str,
}

/// How a fence compares to what its scope has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FenceCheck {
    /// They are the same: go on.
    Current,
    /// The scope has not seen this fence yet: advance first.
    Behind,
    /// The scope has seen a greater one: nothing may be done.
    Stale { seen: Fence },
    /// It can be no fence of the scope: at most `most` is expected. Nothing may be done.
    TooFar { most: u64 },
}

impl FenceCheck {
    /// Judges `ours` by what [`Statements::hold`] answered.
    ///
    /// ```
    /// use fencron::{fence::Fence, guard::sql::FenceCheck};
    /// let (six, seven) = (Fence::new(6).unwrap(), Fence::new(7).unwrap());
    /// assert_eq!(FenceCheck::of(seven, Some(7)), FenceCheck::Current);
    /// assert_eq!(FenceCheck::of(seven, None), FenceCheck::Behind);
    /// assert_eq!(FenceCheck::of(six, Some(7)), FenceCheck::Stale { seen: seven });
    /// let far = Fence::new((1 << 53) - 1).unwrap();
    /// assert!(matches!(FenceCheck::of(far, Some(7)), FenceCheck::TooFar { .. }));
    /// ```
    pub fn of(ours: Fence, seen: Option<i64>) -> FenceCheck {
        let seen = seen.and_then(|seen| u64::try_from(seen).ok()).and_then(Fence::new);
        match seen {
            Some(seen) if seen == ours => FenceCheck::Current,
            Some(seen) if seen > ours => FenceCheck::Stale { seen },
            seen if ours.get() > fence_most(seen) => FenceCheck::TooFar { most: fence_most(seen) },
            _ => FenceCheck::Behind,
        }
    }
}

impl Dialect {
    /// The statements to send.
    pub const fn statements(self) -> &'static Statements {
        match self {
            Dialect::Postgres => &POSTGRES,
            Dialect::Mysql => &MYSQL,
            Dialect::Sqlite => &SQLITE,
        }
    }

    /// What a person runs once in the database: the tables, and what to call in one's own transactions, with how.
    pub fn script(self) -> String {
        let tables: String = self.statements().tables.iter().map(|table| format!("{table};\n\n")).collect();
        let (head, rest) = match self {
            Dialect::Postgres => (POSTGRES_HEAD, POSTGRES_FUNCTION),
            Dialect::Mysql => (MYSQL_HEAD, MYSQL_PROCEDURE),
            Dialect::Sqlite => (SQLITE_HEAD, SQLITE_TRIGGER),
        };
        format!("{head}\n{tables}{rest}")
    }
}

/// The SQLSTATE with which the function in PostgreSQL turns away a stale fence: class `FE` is not in use elsewhere.
pub const POSTGRES_STALE: &str = "FE001";

/// The SQLSTATE with which the function in PostgreSQL turns away what can be no fence.
pub const POSTGRES_TOO_FAR: &str = "FE002";

/// The SQLSTATE with which the procedure in MySQL turns away a stale fence: "unhandled user-defined exception".
pub const MYSQL_STALE: &str = "45000";

static POSTGRES: Statements = Statements {
    tables: &[
        r#"CREATE TABLE IF NOT EXISTS fencron_guard (
    scope text COLLATE "C" PRIMARY KEY,
    fence bigint NOT NULL CHECK (fence > 0),
    updated_at timestamptz NOT NULL DEFAULT now()
)"#,
        r#"CREATE TABLE IF NOT EXISTS fencron_done (
    scope text COLLATE "C" NOT NULL,
    run_id text COLLATE "C" NOT NULL,
    fence bigint NOT NULL,
    checksum text,
    applied_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (scope, run_id)
)"#,
    ],
    hold: "SELECT fence FROM fencron_guard WHERE scope = $1 FOR SHARE",
    advance: "INSERT INTO fencron_guard AS g (scope, fence) VALUES ($1, $2) \
              ON CONFLICT (scope) DO UPDATE SET fence = excluded.fence, updated_at = now() \
              WHERE g.fence < excluded.fence",
    insert_occurrence: "INSERT INTO fencron_done (scope, run_id, fence, checksum) VALUES ($1, $2, $3, $4) \
                        ON CONFLICT (scope, run_id) DO NOTHING",
    read_occurrence: "SELECT fence, checksum FROM fencron_done WHERE scope = $1 AND run_id = $2",
};

const POSTGRES_HEAD: &str = "\
-- The guard of fencron for PostgreSQL. Run it once: psql -f guard.sql. Running it again does no harm.
--
-- Then, in the transaction of every effect, before the effect:
--
--     BEGIN;
--     SELECT fencron_guard('shop/leader', 7, 'report@2026-11-21T02:00:00Z');
--         -- the fence is stale: fails with SQLSTATE FE001, and the transaction with it
--         -- it can be no fence, so far is it above those before: fails with FE002
--         -- false: this run id has been applied; do not do it again
--         -- true: go on
--     ...
--     COMMIT;
--
-- NULL as the run id checks the fence alone. Repeat a transaction that fails with 40001 as a whole.
-- Its caller needs SELECT, INSERT and UPDATE on fencron_guard, and INSERT on fencron_done.
-- Forget what will not be repeated any more:
--     DELETE FROM fencron_done WHERE applied_at < now() - interval '90 days';
";

const POSTGRES_FUNCTION: &str = r#"CREATE OR REPLACE FUNCTION fencron_guard(scope text, fence bigint, run_id text)
RETURNS boolean LANGUAGE plpgsql AS $guard$
#variable_conflict use_column
DECLARE
    seen bigint;
    inserted bigint;
BEGIN
    IF $1 IS NULL OR $2 IS NULL OR $2 < 1 THEN
        RAISE EXCEPTION 'fencron: a guarded transaction needs a scope and a fence, got % and %', $1, $2
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- Without a lock, to know which one is needed: one that is upgraded could deadlock.
    SELECT g.fence INTO seen FROM fencron_guard g WHERE g.scope = $1;
    IF $2 > greatest(coalesce(seen, 0), 2199023255552) + 1099511627776 THEN
        RAISE EXCEPTION 'fencron: % is no fence that % can have: it has seen %', $2, $1, coalesce(seen::text, 'none')
            USING ERRCODE = 'FE002', HINT = 'If it is a true one: fencron guard reset --to.';
    END IF;
    IF seen IS NULL OR seen < $2 THEN
        INSERT INTO fencron_guard AS g (scope, fence) VALUES ($1, $2)
            ON CONFLICT (scope) DO UPDATE SET fence = excluded.fence, updated_at = now()
            WHERE g.fence < excluded.fence;
    END IF;
    -- Until the end of the transaction no newer fence is let in.
    SELECT g.fence INTO seen FROM fencron_guard g WHERE g.scope = $1 FOR SHARE;
    IF seen IS DISTINCT FROM $2 THEN
        RAISE EXCEPTION 'fencron: fence % of % is stale: % has been seen', $2, $1, seen
            USING ERRCODE = 'FE001', HINT = 'The sender has been replaced as leader. Do not repeat it.';
    END IF;
    IF $3 IS NULL THEN
        RETURN true;
    END IF;
    INSERT INTO fencron_done (scope, run_id, fence) VALUES ($1, $3, $2) ON CONFLICT (scope, run_id) DO NOTHING;
    GET DIAGNOSTICS inserted = ROW_COUNT;
    RETURN inserted = 1;
END
$guard$;
"#;

static MYSQL: Statements = Statements {
    // `utf8mb4_bin` takes texts for equal that differ in blanks at their end: there are none.
    tables: &[
        "CREATE TABLE IF NOT EXISTS fencron_guard (
    scope VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL CHECK (scope NOT LIKE '% '),
    fence BIGINT NOT NULL CHECK (fence > 0),
    updated_at TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6),
    PRIMARY KEY (scope)
) ENGINE = InnoDB",
        "CREATE TABLE IF NOT EXISTS fencron_done (
    scope VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    run_id VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL CHECK (run_id NOT LIKE '% '),
    fence BIGINT NOT NULL,
    checksum VARCHAR(128) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL,
    applied_at TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
    PRIMARY KEY (scope, run_id)
) ENGINE = InnoDB",
    ],
    // MariaDB does not know `FOR SHARE`; both know this.
    hold: "SELECT fence FROM fencron_guard WHERE scope = ? LOCK IN SHARE MODE",
    advance: "INSERT INTO fencron_guard (scope, fence) VALUES (?, ?) \
              ON DUPLICATE KEY UPDATE fence = GREATEST(fence, VALUES(fence))",
    insert_occurrence: "INSERT INTO fencron_done (scope, run_id, fence, checksum) VALUES (?, ?, ?, ?)",
    read_occurrence: "SELECT fence, checksum FROM fencron_done WHERE scope = ? AND run_id = ?",
};

const MYSQL_HEAD: &str = "\
-- The guard of fencron for MySQL 8 and MariaDB. Run it once: mysql shop < guard.sql. Running it again replaces the
-- procedure, and does no other harm.
--
-- Then, in the transaction of every effect, as the first statement, so that the effect sees what those before it did:
--
--     START TRANSACTION;
--     CALL fencron_guard('shop/leader', 7, 'report@2026-11-21T02:00:00Z', @go);
--         -- the fence is stale: fails with SQLSTATE 45000, error 30412: ROLLBACK
--         -- it can be no fence, so far is it above those before: fails with error 30413: ROLLBACK
--         -- @go = 0: this run id has been applied; do not do it again
--         -- @go = 1: go on
--     ...
--     COMMIT;
--
-- NULL as the run id checks the fence alone. The scope's row stays locked until the end of the transaction: those of
-- one scope wait for each other. Repeat a transaction that fails with 1213 (or 1020) as a whole.
-- Forget what will not be repeated any more:
--     DELETE FROM fencron_done WHERE applied_at < NOW() - INTERVAL 90 DAY;
";

const MYSQL_PROCEDURE: &str = r"DROP PROCEDURE IF EXISTS fencron_guard;

DELIMITER //
CREATE PROCEDURE fencron_guard(
    IN the_scope TEXT CHARACTER SET utf8mb4, IN the_fence BIGINT, IN the_run_id TEXT CHARACTER SET utf8mb4,
    OUT go BOOLEAN
)
MODIFIES SQL DATA SQL SECURITY INVOKER
BEGIN
    DECLARE seen BIGINT;
    DECLARE message VARCHAR(128);
    SET go = FALSE;
    IF the_scope IS NULL OR the_fence IS NULL OR the_fence < 1
        OR CHAR_LENGTH(the_scope) > 255 OR CHAR_LENGTH(the_run_id) > 255 THEN
        SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = 30400,
            MESSAGE_TEXT = 'fencron: it needs a fence, and a scope and a run id of at most 255 characters';
    END IF;
    -- It locks the row against all others at once: a lock that is upgraded could deadlock.
    -- What can be no fence leaves the row as it is, or at 1 where there was none, and is recognized by the row being lower.
    INSERT INTO fencron_guard (scope, fence)
        VALUES (the_scope, IF(the_fence > 2199023255552 + 1099511627776, 1, the_fence))
        ON DUPLICATE KEY UPDATE
            fence = IF(the_fence > GREATEST(fence, 2199023255552) + 1099511627776, fence, GREATEST(fence, the_fence));
    SELECT fence INTO seen FROM fencron_guard WHERE scope = the_scope COLLATE utf8mb4_bin FOR UPDATE;
    IF seen < the_fence THEN
        SET message = CONCAT('fencron: ', the_fence, ' is no fence that the scope can have: if it is a true one, ',
            'fencron guard reset --to');
        SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = 30413, MESSAGE_TEXT = message;
    END IF;
    IF seen IS NULL OR seen <> the_fence THEN
        SET message = CONCAT('fencron: fence ', the_fence, ' is stale: ', COALESCE(seen, 'none'), ' has been seen');
        SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = 30412, MESSAGE_TEXT = message;
    END IF;
    SET go = TRUE;
    IF the_run_id IS NOT NULL THEN
        BEGIN
            DECLARE CONTINUE HANDLER FOR 1062 SET go = FALSE;
            INSERT INTO fencron_done (scope, run_id, fence) VALUES (the_scope, the_run_id, the_fence);
        END;
    END IF;
END//
DELIMITER ;
";

static SQLITE: Statements = Statements {
    tables: &[
        "CREATE TABLE IF NOT EXISTS fencron_guard (
    scope TEXT NOT NULL PRIMARY KEY,
    fence INTEGER NOT NULL CHECK (typeof(fence) = 'integer' AND fence > 0),
    updated_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
) WITHOUT ROWID",
        "CREATE TABLE IF NOT EXISTS fencron_done (
    scope TEXT NOT NULL,
    run_id TEXT NOT NULL,
    fence INTEGER NOT NULL,
    checksum TEXT,
    applied_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    PRIMARY KEY (scope, run_id)
) WITHOUT ROWID",
    ],
    hold: "SELECT fence FROM fencron_guard WHERE scope = ?1",
    advance: "INSERT INTO fencron_guard (scope, fence) VALUES (?1, ?2) \
              ON CONFLICT (scope) DO UPDATE SET fence = excluded.fence, \
              updated_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now') WHERE excluded.fence > fencron_guard.fence",
    insert_occurrence: "INSERT INTO fencron_done (scope, run_id, fence, checksum) VALUES (?1, ?2, ?3, ?4) \
                        ON CONFLICT (scope, run_id) DO NOTHING",
    read_occurrence: "SELECT fence, checksum FROM fencron_done WHERE scope = ?1 AND run_id = ?2",
};

const SQLITE_HEAD: &str = "\
-- The guard of fencron for SQLite (3.24 or later). Run it once: sqlite3 shop.db < guard.sql. Running it again does no
-- harm. SQLite has no stored functions: a trigger turns away what is stale.
--
-- Then, in the transaction of every effect, before the effect:
--
--     BEGIN IMMEDIATE;
--     INSERT INTO fencron_guard (scope, fence) VALUES ('shop/leader', 7)
--         ON CONFLICT (scope) DO UPDATE SET fence = excluded.fence;
--         -- the fence is stale: fails with `fencron: stale fence`: ROLLBACK
--         -- it can be no fence, so far is it above those before: fails with `fencron: this is no fence`: ROLLBACK
--     INSERT INTO fencron_done (scope, run_id, fence) VALUES ('shop/leader', 'report@2026-11-21T02:00:00Z', 7)
--         ON CONFLICT (scope, run_id) DO NOTHING;
--         -- changes() = 0: this run id has been applied; do not do it again: ROLLBACK
--     ...
--     COMMIT;
--
-- Forget what will not be repeated any more:
--     DELETE FROM fencron_done WHERE applied_at < strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-90 days');
";

const SQLITE_TRIGGER: &str = "\
CREATE TRIGGER IF NOT EXISTS fencron_guard_stale BEFORE UPDATE ON fencron_guard WHEN new.fence < old.fence
BEGIN
    SELECT RAISE(ABORT, 'fencron: stale fence: a newer one has been seen in this scope');
END;

CREATE TRIGGER IF NOT EXISTS fencron_guard_too_far BEFORE UPDATE ON fencron_guard
WHEN new.fence > max(old.fence, 2199023255552) + 1099511627776
BEGIN
    SELECT RAISE(ABORT, 'fencron: this is no fence that the scope can have');
END;

CREATE TRIGGER IF NOT EXISTS fencron_guard_too_far_at_first BEFORE INSERT ON fencron_guard
WHEN new.fence > max(coalesce((SELECT fence FROM fencron_guard WHERE scope = new.scope), 0), 2199023255552)
    + 1099511627776
BEGIN
    SELECT RAISE(ABORT, 'fencron: this is no fence that the scope can have');
END;
";
