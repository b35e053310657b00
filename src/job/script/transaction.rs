//! What cannot be part of a transaction that others began, as far as a statement's first words show.
//!
//! The author of such a script learns of it when it is read. What the words do not show, the database reports when it runs.

use super::Meaning;
use super::{Database, Statement};

impl Statement {
    /// Why it cannot be part of a transaction that others began; `None`: as far as its words show, it can.
    pub fn why_not_in_transaction(&self, kind: Database) -> Option<String> {
        if let Meaning::Refused(why) = &self.meaning {
            return Some(why.clone());
        }
        let words: Vec<&str> = self.words.iter().map(String::as_str).collect();
        let shown = words.iter().take(2).copied().collect::<Vec<_>>().join(" ");
        if begins_or_ends(&words, kind) {
            return Some(not_for_the_script(words[0]));
        }
        if is_for_the_next(&words, kind) {
            return Some(format!(
                "`{shown}` takes effect from the next transaction on, and there is none after this one: remove it, or \
                 write `transaction: false` (the job cannot be `exactly_once` then)"
            ));
        }
        match kind {
            Database::Mysql if commits(&words) => Some(format!(
                "`{shown}` commits by itself in MySQL, and what came before it too: write `transaction: false` (the \
                 job cannot be `exactly_once` then)"
            )),
            Database::Postgres | Database::Sqlite if stands_alone(&words, kind) => Some(format!(
                "`{shown}` cannot run in a transaction here: write `transaction: false` (the job cannot be \
                 `exactly_once` then)"
            )),
            _ => None,
        }
    }

    /// Whether it may change a setting of the session, itself or by what it calls.
    pub fn may_set(&self) -> bool {
        const PLAIN: [&str; 7] = ["SELECT", "INSERT", "UPDATE", "DELETE", "REPLACE", "WITH", "VALUES"];
        self.words.first().is_none_or(|word| !PLAIN.contains(&word.as_str()))
    }

    /// Whether it may run statements that the script does not show: what it calls, or what only the server takes for a
    /// statement of its own.
    pub fn may_run_others(&self) -> bool {
        self.may_set() || self.text.contains(';')
    }

    /// Whether it may ask what became of the statement before it (MySQL): there must be none in between then.
    pub fn asks_after_the_last(&self) -> bool {
        let text = self.text.to_ascii_uppercase();
        ["ROW_COUNT", "FOUND_ROWS", "WARNING", "ERROR", "DIAGNOSTICS"].iter().any(|word| text.contains(word))
    }

    /// Whether it looks like the first part of a routine that its own `;` has cut up (MySQL).
    pub fn looks_cut_up(&self) -> bool {
        let has = |of: &[&str]| self.words.iter().any(|word| of.contains(&word.as_str()));
        self.words.first().is_some_and(|word| word == "CREATE")
            && has(&["BEGIN"])
            && has(&["PROCEDURE", "FUNCTION", "TRIGGER", "EVENT"])
    }
}

/// What is said of a statement that begins or ends a transaction.
pub fn not_for_the_script(word: &str) -> String {
    format!(
        "`{word}` is not for the script to say: fencron begins the transaction, and commits it with the guard's rows. \
         Remove it, or write `transaction: false`"
    )
}

fn begins_or_ends(words: &[&str], kind: Database) -> bool {
    match words {
        ["ROLLBACK", rest @ ..] => !rest.contains(&"TO"),
        // A block of statements, in MariaDB.
        ["BEGIN", "NOT", "ATOMIC", ..] => kind != Database::Mysql,
        ["BEGIN" | "COMMIT", ..] | ["START", "TRANSACTION", ..] => true,
        ["END" | "ABORT", ..] => kind != Database::Mysql,
        ["PREPARE", "TRANSACTION", ..] => kind == Database::Postgres,
        ["XA", ..] => kind == Database::Mysql,
        ["SET", rest @ ..] => kind == Database::Mysql && rest.iter().take(2).any(|word| *word == "AUTOCOMMIT"),
        _ => false,
    }
}

/// Which in a transaction the server passes over in silence.
fn is_for_the_next(words: &[&str], kind: Database) -> bool {
    match words {
        ["SET", "SESSION", "TRANSACTION", ..] => kind == Database::Mysql,
        ["SET", "SESSION", "CHARACTERISTICS", ..] => kind == Database::Postgres,
        _ => false,
    }
}

/// <https://dev.mysql.com/doc/refman/8.4/en/implicit-commit.html>, <https://mariadb.com/kb/en/sql-statements-that-cause-an-implicit-commit/>
fn commits(words: &[&str]) -> bool {
    match words {
        ["CREATE" | "DROP", "TEMPORARY", "TABLE", ..] => false,
        ["CREATE", "OR", "REPLACE", "TEMPORARY", "TABLE", ..] => false,
        ["ALTER" | "CREATE" | "DROP" | "RENAME" | "TRUNCATE" | "GRANT" | "REVOKE" | "LOCK" | "UNLOCK", ..] => true,
        ["ANALYZE" | "CHECK" | "OPTIMIZE" | "REPAIR" | "FLUSH" | "RESET" | "CACHE" | "INSTALL" | "UNINSTALL", ..] => {
            // MariaDB's `ANALYZE SELECT` only shows a plan.
            !matches!(words, ["ANALYZE", "SELECT" | "UPDATE" | "DELETE" | "INSERT" | "FORMAT", ..])
        }
        ["LOAD", "INDEX", ..] | ["SET", "PASSWORD", ..] | ["SET", "DEFAULT", "ROLE", ..] => true,
        ["START" | "STOP" | "CHANGE", ..] => true,
        _ => false,
    }
}

fn stands_alone(words: &[&str], kind: Database) -> bool {
    if kind == Database::Sqlite {
        // This is the only action that the authorizer does not receive.
        return matches!(words, ["VACUUM", ..]);
    }
    match words {
        ["VACUUM", ..] | ["CLUSTER"] | ["ALTER", "SYSTEM", ..] => true,
        ["CREATE" | "DROP", "DATABASE" | "TABLESPACE", ..] => true,
        ["CREATE" | "DROP", "INDEX", rest @ ..] | ["CREATE", "UNIQUE", "INDEX", rest @ ..] => {
            rest.first() == Some(&"CONCURRENTLY")
        }
        ["REINDEX", rest @ ..] => {
            rest.iter().take(4).any(|word| matches!(*word, "CONCURRENTLY" | "DATABASE" | "SYSTEM"))
        }
        _ => false,
    }
}
