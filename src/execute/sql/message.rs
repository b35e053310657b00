//! The messages about an attempt, without secrets: a message of the database may quote the values that it received.

use super::driver::{Answer, Failure, Kind};
use crate::guard::sql::Dialect;
use crate::job::{Again, Database, Outcome, Place, Scalar, Sql, Target, Text};

/// Texts of so many bytes are looked for everywhere; shorter ones only as words of their own.
const LONG_SECRET: usize = 4;
/// How many bytes of what a database says are kept.
const MESSAGE_KEPT: usize = 2_000;

/// Values that are not to be shown.
pub struct Secrets(Vec<String>);

impl Secrets {
    /// The password or the path, and parameters that were filled in from outside.
    pub fn of(sql: &Sql) -> Secrets {
        let access = match &sql.target {
            Target::Server(server) => server.password.as_ref(),
            Target::File(path) => Some(path).filter(|path| path.is_secret()),
        };
        let params = sql.params.values().filter_map(|value| match value {
            Scalar::Text(text) if text.is_secret() => Some(text),
            _ => None,
        });
        Secrets::new(access.into_iter().chain(params))
    }

    /// Other words of a server that refuses a login. They are short, and a job's own output may have them.
    fn of_access(sql: &Sql) -> Secrets {
        let Target::Server(server) = &sql.target else { return Secrets(Vec::new()) };
        let named = [Some(&server.host), server.user.as_ref(), server.database.as_ref()];
        Secrets::new(named.into_iter().flatten().filter(|text| text.is_secret()))
    }

    fn new<'t>(texts: impl Iterator<Item = &'t Text>) -> Secrets {
        let mut secrets: Vec<String> = texts.map(|text| text.expose().to_owned()).collect();
        secrets.retain(|secret| !secret.trim().is_empty());
        // A secret may be a part of another one.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Secrets(secrets)
    }

    /// `text` with each of them replaced.
    pub fn hidden(&self, text: &str) -> String {
        let mut shown = text.to_owned();
        for secret in &self.0 {
            if secret.len() >= LONG_SECRET {
                shown = shown.replace(secret.as_str(), "***");
            } else {
                shown = without_word(&shown, secret);
            }
        }
        shown
    }
}

/// `text` without `word` where no letter or digit is next to it.
fn without_word(text: &str, word: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = 0;
    for (at, _) in text.match_indices(word) {
        let before = text[..at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        if [before, after].into_iter().flatten().all(|c| !c.is_alphanumeric()) {
            shown.push_str(&text[rest..at]);
            shown.push_str("***");
            rest = at + word.len();
        }
    }
    shown.push_str(&text[rest..]);
    shown
}

/// Says what became of the statements of one job.
pub struct Messages<'a> {
    pub sql: &'a Sql,
    pub secrets: Secrets,
}

impl Messages<'_> {
    /// Where the database is, as far as that may be shown.
    fn target(&self) -> String {
        let shown = |text: &Text| Some(text.to_string()).filter(|_| !text.is_secret());
        let name = match &self.sql.target {
            Target::Server(server) => shown(&server.host).map(|host| format!("{host}:{}", server.port)),
            Target::File(path) => shown(path),
        };
        let kind = match self.sql.kind {
            Database::Postgres => "PostgreSQL",
            Database::Mysql => "MySQL",
            Database::Sqlite => "SQLite",
        };
        name.map_or_else(|| format!("the {kind} database"), |name| format!("the {kind} database at {name}"))
    }

    fn said(&self, failure: &Failure) -> String {
        let mut said = self.secrets.hidden(&failure.shown());
        if said.len() > MESSAGE_KEPT {
            said.truncate(said.floor_char_boundary(MESSAGE_KEPT));
            said.push('…');
        }
        said
    }

    /// There is no connection.
    pub fn unreachable(&self, failure: &Failure) -> Outcome {
        let (target, said) = (self.target(), Secrets::of_access(self.sql).hidden(&self.said(failure)));
        let code = failure.code.as_str();
        let (advice, again) = match failure.kind {
            Kind::Never if code.starts_with("28") => ("correct the user or the password in `database`", Again::Never),
            Kind::Never => ("correct `database`", Again::Never),
            _ if said.contains("certificate") || said.contains("TLS") || said.contains("SSL") => {
                ("correct the server's certificate, or `sslmode` and `sslrootcert` in `database`", Again::AsConfigured)
            }
            _ => ("is it running, and reachable from this node?", Again::AsConfigured),
        };
        let verb = if code.is_empty() { "cannot be reached" } else { "refuses logins" };
        Outcome::Failed { why: format!("{target} {verb}: {said}: {advice}"), again }
    }

    /// It is known to have failed: `place` is where, when it was one of the job's statements.
    pub fn failed(&self, failure: &Failure, place: Option<Place>) -> Outcome {
        let said = self.located(failure, place);
        let (why, again) = match failure.kind {
            Kind::Lost => (format!("the connection was lost before the commit: {said}"), Again::AsConfigured),
            Kind::Conflict => {
                (format!("it lost against other transactions again and again: {said}"), Again::AsConfigured)
            }
            Kind::NotInTransaction => {
                (format!("{said}: write `transaction: false` (the job cannot be `exactly_once` then)"), Again::Never)
            }
            Kind::NoTable | Kind::NoRight | Kind::Never | Kind::Gone => (said, Again::Never),
            Kind::Duplicate | Kind::Later => (said, Again::AsConfigured),
        };
        Outcome::Failed { why, again }
    }

    /// A statement outside of a transaction was not answered.
    pub fn in_doubt(&self, failure: &Failure, place: Option<Place>) -> String {
        format!("it is unknown whether it was done: {}", self.located(failure, place))
    }

    /// The transaction was ended in the middle, and not by us.
    pub fn partial(&self, failure: &Failure, place: Option<Place>) -> String {
        self.located(failure, place)
    }

    /// The commit was not answered, and the database could not be asked.
    pub fn unanswered(&self, failure: &Failure) -> String {
        format!("it is unknown whether it was committed: {}", self.said(failure))
    }

    fn located(&self, failure: &Failure, place: Option<Place>) -> String {
        let said = self.said(failure);
        place.map_or_else(|| said.clone(), |place| format!("{}: {said}", self.sql.script.at(place)))
    }

    /// The tables of the guard are not there, and the user may not make them.
    pub fn no_tables(&self, failure: &Failure, dialect: Dialect) -> Failure {
        let statements: Vec<String> = dialect.statements().tables.iter().map(|table| format!("{table};")).collect();
        let message = format!(
            "the tables of the guard are not there, and this user may not create them: {}. Have them created once by \
             a user who may, and the job's user allowed to SELECT, INSERT and UPDATE fencron_guard, and to SELECT, INSERT \
             and DELETE fencron_done:\n{}",
            failure.message,
            statements.join("\n")
        );
        Failure { message, ..failure.clone() }
    }

    /// The user may not use the tables of the guard.
    pub fn no_right_to_guard(&self, failure: &Failure) -> Failure {
        let message = format!(
            "{}: the user needs SELECT, INSERT and UPDATE on fencron_guard, and SELECT, INSERT and DELETE on \
             fencron_done",
            failure.message
        );
        Failure { message, ..failure.clone() }
    }

    /// What a statement came to, as lines of the run's output.
    pub fn answer(&self, place: Place, answer: &Answer) -> String {
        let at = self.sql.script.at(place);
        if answer.columns.is_empty() {
            return format!("{at}: {} changed\n", rows(answer.affected));
        }
        let mut text = format!("{at}: {}\n{}\n", rows(answer.row_count), answer.columns.join(" | "));
        for row in &answer.rows {
            let values: Vec<&str> = row.iter().map(|value| value.as_deref().unwrap_or("NULL")).collect();
            text.push_str(&values.join(" | "));
            text.push('\n');
        }
        if answer.row_count > answer.rows.len() as u64 {
            text.push_str("…\n");
        }
        self.secrets.hidden(&text)
    }
}

fn rows(count: u64) -> String {
    if count == 1 { "1 row".to_owned() } else { format!("{count} rows") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_hidden_wherever_they_stand() {
        let secrets = Secrets(vec!["hunter2".into(), "7".into()]);
        assert_eq!(secrets.hidden("key (x)=(hunter2): xhunter2y, 7, 17, (7)"), "key (x)=(***): x***y, ***, 17, (***)");
    }
}
