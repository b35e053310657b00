//! What a job runs, in a line that may leave the cluster: in an alert.

use url::Url;

use super::about::{MASK, is_secret, without_secrets};
use super::{Sql, Target, Task, Text};

/// How much of it is said, in bytes.
const RAN_MOST: usize = 200;

/// What this runs, as people would write it: what came from outside of the jobs file is left out, and so is what bears the
/// name of a secret. `None`: a closure, which has no text.
pub fn ran(task: &Task) -> Option<String> {
    let text = match task {
        Task::Command(words) => match words.as_slice() {
            [shell, flag, script] if shell.expose() == "/bin/sh" && flag.expose() == "-c" => {
                masked(&script.to_string())
            }
            words => masked(&words.iter().map(Text::to_string).collect::<Vec<_>>().join(" ")),
        },
        Task::Http(http) => format!("{} {}", http.method, without_secrets(&http.url)),
        Task::Sql(sql) => statements(sql),
        Task::Call => return None,
    };
    let text = text.trim();
    let line = text.lines().next().unwrap_or_default();
    let shown = &line[..line.floor_char_boundary(RAN_MOST)];
    let more = if shown.len() < text.len() { "…" } else { "" };
    let shown: String = shown.chars().filter(|c| !c.is_control()).collect();
    Some(format!("{shown}{more}"))
}

fn statements(sql: &Sql) -> String {
    let database = match &sql.target {
        Target::File(file) => file.to_string(),
        Target::Server(server) => format!("{}:{}", server.host, server.port),
    };
    match (&sql.script.file, sql.script.statements.len()) {
        (Some(file), _) => format!("the statements of {file} in {database}"),
        (None, 1) => format!("a statement in {database}"),
        (None, count) => format!("{count} statements in {database}"),
    }
}

/// A command without the values of what is named as secrets are: `--password=…`, `--token …`, `API_KEY=…`, and what gives
/// access in URLs.
fn masked(command: &str) -> String {
    let mut is_next_secret = false;
    let words = command.split_inclusive(char::is_whitespace).map(|word| {
        let (word, space) = word.split_at(word.trim_end().len());
        let is_value = std::mem::take(&mut is_next_secret) && !word.is_empty();
        let shown = match word.split_once('=') {
            _ if is_value => MASK.to_owned(),
            Some((name, _)) if is_secret(name) && !name.contains("://") => format!("{name}={MASK}"),
            None if word.starts_with('-') && is_secret(word) => {
                is_next_secret = true;
                word.to_owned()
            }
            _ if word.contains("://") => link(word),
            _ => word.to_owned(),
        };
        shown + space
    });
    words.collect()
}

/// A word with a URL in it, perhaps quoted.
fn link(word: &str) -> String {
    let is_quote = |c: char| matches!(c, '\'' | '"' | '`' | '(' | ')' | ';' | ',');
    let bare = word.trim_matches(is_quote);
    if Url::parse(bare).is_ok() { word.replace(bare, &without_secrets(&Text::plain(bare))) } else { word.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, parse};

    fn said(job: &str) -> String {
        let config = parse(&format!("version: 1\njobs:\n  j: {{schedule: '@hourly', {job}}}\n"), &Sources::none());
        ran(&config.unwrap().jobs.values().next().unwrap().task).unwrap()
    }

    #[test]
    fn what_a_job_runs_is_a_line_without_secrets() {
        let dump =
            "mysqldump --password=hunter2 -h db > /b; curl --token hunter2 'https://u:hunter2@h/?api_key=hunter2&a=1'";
        for (job, expected) in [
            ("command: [./bill, --all]".to_owned(), "./bill --all"),
            ("shell: 'API_TOKEN=hunter2 ./bill  a=b'".to_owned(), "API_TOKEN=*** ./bill  a=b"),
            (
                format!("shell: {dump:?}"),
                "mysqldump --password=*** -h db > /b; curl --token *** 'https://u:***@h/?api_key=***&a=1'",
            ),
            ("shell: \"cd /srv\\n./bill\"".to_owned(), "cd /srv…"),
            ("http: {url: 'http://u:hunter2@h/x', method: PUT}".to_owned(), "PUT http://u:***@h/x"),
            (
                "sql: {database: 'postgres://u:hunter2@db/x', statement: 'SELECT 1'}, guarantee: at_most_once"
                    .to_owned(),
                "a statement in db:5432",
            ),
        ] {
            assert_eq!(said(&job), expected);
        }
        let secret = Task::Command(vec![Text::plain("./bill"), Text::secret("hunter2")]);
        assert_eq!(ran(&secret).as_deref(), Some("./bill ***"));
        assert_eq!(ran(&Task::Call), None);
        let long = ran(&Task::Command(vec![Text::plain("é".repeat(500))])).unwrap();
        assert!(long.len() <= RAN_MOST + 3 && long.ends_with('…'), "{long}");
    }
}
