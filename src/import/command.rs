//! Commands of a source: the name of a job that runs one, and how one gets its input and its user here.

use std::collections::BTreeSet;

/// What stands before the command that is meant.
const WRAPPERS: &[&str] = &[
    "sudo",
    "nice",
    "ionice",
    "nohup",
    "exec",
    "time",
    "timeout",
    "flock",
    "env",
    "chronic",
    "cronic",
    "setsid",
    "su",
    "runuser",
    "command",
    "if",
    "then",
    "else",
    "!",
    "(",
    "{",
    "gosu",
    "setpriv",
    "systemd-cat",
    "chrt",
    "taskset",
    "solo",
    "lockrun",
    "-",
    "/",
];

/// Commands that only prepare for others.
const ASIDE: &[&str] = &[
    "cd", "test", "[", "[[", ".", "source", "export", "set", "umask", "sleep", "true", "mkdir", "pushd", "ulimit",
    "echo", "exit", "false", "date",
];

/// What runs a file that is named after it.
const INTERPRETERS: &[&str] = &[
    "sh",
    "bash",
    "dash",
    "zsh",
    "ksh",
    "ash",
    "python",
    "python2",
    "python3",
    "perl",
    "ruby",
    "node",
    "php",
    "java",
    "run-parts",
    "Rscript",
    "deno",
    "uv",
    "poetry",
    "pipenv",
    "bundle",
    "npx",
    "php7",
    "php8",
];

/// Options that take a value as their next word, of the wrappers and interpreters.
const WITH_VALUE: &[&str] = &["-n", "-u", "-c", "-k", "-s", "-w", "-E", "-m", "-d", "-g", "-p"];

/// How long such a name may be.
const NAME_MOST: usize = 40;

/// What a job that runs `command` is called, and the arguments by which it differs from others of this name.
pub(super) fn name(command: &str) -> (String, Vec<String>) {
    let parts = command.split(['\n', ';', '|', '&']).map(str::trim).filter(|part| !part.is_empty());
    let parts: Vec<&str> = parts.collect();
    let found = parts.iter().find_map(|part| of_simple_command(part, ASIDE));
    // Where all of them only prepare, the first one is what is done.
    let found = found.or_else(|| parts.iter().find_map(|part| of_simple_command(part, &[])));
    found.unwrap_or_else(|| ("job".to_owned(), Vec::new()))
}

fn of_simple_command(part: &str, aside: &[&str]) -> Option<(String, Vec<String>)> {
    let mut words = part.split_whitespace().peekable();
    let mut behind_interpreter = false;
    while let Some(word) = words.next() {
        let word = bare(word);
        let base = word.rsplit('/').next().unwrap_or(word);
        let is_assignment = word.split_once('=').is_some_and(|(name, _)| is_variable(name));
        let is_number = word.starts_with(|c: char| c.is_ascii_digit() || c == '.')
            && word.bytes().all(|byte| byte.is_ascii_digit() || b".smhd".contains(&byte));
        if word.starts_with('-') {
            if WITH_VALUE.contains(&word) && !(behind_interpreter && word == "-m") {
                words.next();
            }
            continue;
        }
        if word.is_empty()
            || is_assignment
            || is_number
            || WRAPPERS.contains(&base)
            || word.starts_with(['>', '<', '2'])
        {
            continue;
        }
        if aside.contains(&base) {
            return None;
        }
        if INTERPRETERS.contains(&base) && words.peek().is_some() {
            behind_interpreter = true;
            continue;
        }
        let name = cleaned(base);
        let arguments = words.map(bare).take_while(|word| !is_redirection(word)).map(str::to_owned);
        return (!name.is_empty()).then(|| (name, arguments.collect()));
    }
    None
}

/// A word without the quotes and brackets around it.
fn bare(word: &str) -> &str {
    word.trim_matches(['"', '\'', '(', ')', '{', '}', '`'])
}

fn is_redirection(word: &str) -> bool {
    let word = word.trim_start_matches(|c: char| c.is_ascii_digit());
    word.starts_with(['>', '<'])
}

/// Names for jobs of one name, from the argument in which most of them differ: `sync-shop` and `sync-blog`.
pub(super) fn set_apart(name: &str, of_jobs: &[&[String]]) -> Vec<String> {
    let longest = of_jobs.iter().map(|arguments| arguments.len()).max().unwrap_or(0);
    let at = |place: usize, read: fn(&str) -> String| -> Vec<String> {
        let read = |arguments: &&[String]| arguments.get(place).map_or(String::new(), |word| read(word));
        of_jobs.iter().map(read).collect()
    };
    let kinds = |words: &[String]| words.iter().collect::<BTreeSet<_>>().len();
    // The end of a path or of a URL says enough where it differs; otherwise all of it is needed.
    let candidates = (0..longest).flat_map(|place| [at(place, last_part), at(place, cleaned)]);
    let mut best = vec![String::new(); of_jobs.len()];
    for words in candidates {
        if kinds(&words) > kinds(&best) {
            best = words;
        }
    }
    best.into_iter().map(|word| if word.is_empty() { name.to_owned() } else { format!("{name}-{word}") }).collect()
}

/// What stands behind the last `/` that something stands behind.
fn last_part(word: &str) -> String {
    let path = word.split(['?', '#']).next().unwrap_or(word).trim_end_matches('/');
    cleaned(path.rsplit('/').next().unwrap_or(path))
}

fn is_variable(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// A text as a name of a job; it may be empty.
pub(super) fn cleaned(text: &str) -> String {
    const SCRIPTS: [&str; 9] = [".sh", ".py", ".pl", ".rb", ".php", ".js", ".bash", ".jar", ".service"];
    let text = SCRIPTS.iter().find_map(|end| text.strip_suffix(end)).unwrap_or(text);
    let kept = text.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' });
    let kept: String = kept.collect();
    let kept = kept.trim_start_matches(|c: char| !c.is_ascii_alphanumeric()).trim_end_matches(['-', '.']);
    kept.chars().take(NAME_MOST).collect()
}

/// A shell text that gives `input` to `text`.
pub(super) fn with_input(text: &str, input: &str) -> String {
    let mut end = "INPUT".to_owned();
    while input.lines().any(|line| line == end) {
        end.push('_');
    }
    let line_end = if input.is_empty() || input.ends_with('\n') { "" } else { "\n" };
    format!("{{\n{text}\n}} <<'{end}'\n{input}{line_end}{end}\n")
}

/// A name of the source as one of a job, whole as far as that goes.
pub(super) fn kept(text: &str) -> String {
    let kept = text.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' });
    let kept: String = kept.skip_while(|c| !c.is_ascii_alphanumeric()).take(100).collect();
    if kept.is_empty() { "job".to_owned() } else { kept }
}

/// The words of a command that no shell reads: blanks divide them, quotes and backslashes hold them together. `None`: a
/// quote has no end.
pub(super) fn shell_words(command: &str) -> Option<Vec<String>> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut chars = command.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some('"') | None, '\\') => word.get_or_insert_default().extend(chars.next()),
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}
