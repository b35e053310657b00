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
            words => masked(&words.iter().map(quoted).collect::<Vec<_>>().join(" ")),
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

/// A word of a command, in quotes where it would be more than one.
fn quoted(word: &Text) -> String {
    let word = word.to_string();
    if word.contains(char::is_whitespace) { format!("'{word}'") } else { word }
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

/// What is left out next.
enum Hidden {
    Nothing,
    /// A word.
    Word,
    /// All words up to the one that ends with this quote.
    Until(char),
}

/// A command without the values of what is named as secrets are: `--password=…`, `--token …`, `API_KEY=…`, a header in
/// quotes, what follows `-u`, and what gives access in URLs.
fn masked(command: &str) -> String {
    let mut hidden = Hidden::Nothing;
    let words = command.split_inclusive(char::is_whitespace).map(|word| {
        let (word, space) = word.split_at(word.trim_end().len());
        if word.is_empty() {
            return space.to_owned();
        }
        let (shown, next) = match hidden {
            Hidden::Word => (MASK.to_owned(), Hidden::Nothing),
            Hidden::Until(quote) if word.ends_with(quote) => (quote.to_string(), Hidden::Nothing),
            Hidden::Until(_) => return String::new(),
            Hidden::Nothing => mask(word),
        };
        hidden = next;
        if matches!(hidden, Hidden::Until(_)) { shown } else { shown + space }
    });
    words.collect()
}

/// A word as it may be shown, and what is left out behind it.
fn mask(word: &str) -> (String, Hidden) {
    let header = word.strip_prefix(['"', '\'']).and_then(|rest| Some((word.chars().next()?, rest.split_once(':')?)));
    if let Some((quote, (name, value))) = header
        && is_secret(name)
    {
        let shown = format!("{quote}{name}: {MASK}");
        return if value.ends_with(quote) {
            (format!("{shown}{quote}"), Hidden::Nothing)
        } else {
            (shown, Hidden::Until(quote))
        };
    }
    let shown = match word.split_once('=') {
        Some((name, _)) if is_secret(name) && !name.contains("://") => format!("{name}={MASK}"),
        None if matches!(word, "-u" | "--user") || word.starts_with('-') && is_secret(word) => {
            return (word.to_owned(), Hidden::Word);
        }
        _ if word.contains("://") => link(word),
        _ => word.to_owned(),
    };
    (shown, Hidden::Nothing)
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
            (
                "command: [curl, -H, 'Authorization: Bearer hunter2', -u, 'me:hunter2', x]".to_owned(),
                "curl -H 'Authorization: ***' -u *** x",
            ),
            (
                "shell: 'curl --token  hunter2 -H \"X-Api-Key:hunter2\" x'".to_owned(),
                "curl --token  *** -H \"X-Api-Key: ***\" x",
            ),
            ("shell: \"cd /srv\\n./bill\"".to_owned(), "cd /srv…"),
            ("http: {url: 'http://u:hunter2@h/x', method: PUT}".to_owned(), "PUT http://u:***@h/x"),
            ("sql: {database: 'sqlite:/a.db', statement: 'SELECT 1'}".to_owned(), "a statement in /a.db"),
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
