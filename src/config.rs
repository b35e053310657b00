//! `jobs.yaml`: YAML text into a [`Config`], or every [`Problem`] with it at once, each with its line.
//!
//! Pure: the values of `${NAME}` and `${file:…}` come from [`Sources`], and the text of a file from the caller, which
//! read it. There is one way of decoding, for a node that runs a file and for `validate` alike:
//!
//! 1. `tree`: the text becomes a compact tree of YAML values that know their places; aliases are bounded.
//! 2. `tables`: what keys there are, what values they take within which bounds, their defaults, and what they are read
//!    into; `keys` says what a key is.
//! 3. `walk`, `values`: values are read by the tables, and each problem is noted while reading goes on.
//! 4. `draft`: the defaults of the tables, those of the file and a job's own settings are laid over each other.
//! 5. `timing`, `jobs`: what is read becomes [`Job`]s, which are then held against each other.
//!
//! `docs/configuration.md` describes the language for people; [`schema`] for editors, from the same table.

#[cfg(feature = "cli")]
pub mod auth;
mod bounds;
mod draft;
mod env_file;
mod fill;
mod http;
mod jobs;
mod keys;
mod migrations;
mod notify;
mod output;
#[cfg(feature = "cli")]
pub(crate) mod plain;
mod problem;
mod program;
mod schema;
mod sections;
mod sql;
#[rustfmt::skip] // Each key of the tables is a row.
mod tables;
mod timing;
mod tree;
mod values;
mod walk;

use std::collections::BTreeMap;
use std::sync::Arc;

use sha2::{Digest, Sha256};

pub use fill::Sources;
pub use http::{
    MAX_BODY_BYTES, MAX_CONNECT_TIMEOUT, MAX_HEADER_BYTES, MAX_HEADERS, MAX_REDIRECTS, MAX_STATUSES, MAX_URL_BYTES,
};
pub use migrations::{MAX_MIGRATIONS, Migration, leads_back_from};
pub use notify::{MAX_AFTER, MAX_REPEAT};
pub use output::{MAX_BYTES_KEPT, MAX_OUTPUT_BYTES, MAX_OUTPUTS_KEPT};
pub use problem::{MAX_KEPT, MAX_SHOWN, Problem, Problems};
pub use program::{Program, Written};
pub use schema::schema;
pub use sql::MAX_PARAMS;
pub use tables::{
    MAX_AGE, MAX_ARGS, MAX_ATTEMPTS, MAX_BACKOFF, MAX_CALENDARS, MAX_DATES, MAX_ENV_FILES, MAX_EXPRESSIONS,
    MAX_INCLUDED, MAX_JITTER, MAX_JOBS, MAX_KEEP, MAX_KILL_AFTER, MAX_MISSED, MAX_RATE_PER_SECOND, MAX_RUNNING,
    MAX_TEXT_BYTES, MAX_TIMEOUT, MAX_VARIABLES,
};
pub use tree::{MAX_DEPTH, MAX_EXPANDED_BYTES, MAX_VALUES};
pub use walk::MAX_FILLED_BYTES;

use crate::job::{Job, JobName, Notices, check_name};
use draft::{Draft, Layer};
use problem::{Findings, Part};
use tables::FILE_SHAPE;
use timing::{Calendars, Schedules};
use tree::{NodeId, Tree, Value};
use walk::{Fields, Path, Spot, Walk};

pub use crate::fence::DEFAULT_NAMESPACE;

/// The largest file, in bytes. A caller should check the size of a file before reading it.
pub const MAX_FILE_BYTES: usize = 32 * 1024 * 1024;

/// How many files a configuration may be read from.
pub const MAX_FILES: usize = 10_000;

/// How many files may lead to one, each included by the one before.
pub const MAX_INCLUDE_DEPTH: usize = 10;

/// How many hexadecimal digits a digest has.
const DIGEST_DIGITS: usize = 12;

/// A configuration in which everything can be done.
#[derive(Clone, Debug)]
pub struct Config {
    /// What keeps the jobs, locks and history of one cluster apart in a shared store.
    pub namespace: String,
    /// The jobs, by name.
    pub jobs: BTreeMap<JobName, Arc<Job>>,
    /// What is done once, in this order, before any job fires.
    pub migrations: Vec<Migration>,
    /// Where alerts go.
    pub notices: Arc<Notices>,
    /// The first 12 hexadecimal digits of the SHA-256 of the file: nodes with the same file have the same.
    pub digest: String,
    /// What can be done as it is written, but is probably not meant.
    pub warnings: Problems,
    /// How many values nothing can be said of: see [`Sources::open`].
    pub left_open: usize,
    /// What is left out of scripts and directories, since it leads back.
    pub notes: Problems,
}

impl Config {
    /// Takes from `before` the jobs that are equal in both, so that a comparison of the two finds the same objects: of
    /// 100,000 jobs, a scheduler that leads meanwhile then looks only at those that have changed.
    pub fn keep_unchanged(&mut self, before: &BTreeMap<JobName, Arc<Job>>) {
        for (name, job) in &mut self.jobs {
            if let Some(same) = before.get(name).filter(|before| *before == job) {
                *job = Arc::clone(same);
            }
        }
    }
}

/// Reads the text of a configuration.
///
/// ```
/// use fencron::config::{Sources, parse};
/// let text = "version: 1\njobs:\n  hello: {schedule: '@hourly', command: [echo, hello]}\n";
/// let config = parse(text, &Sources::none()).unwrap();
/// assert_eq!(config.jobs.len(), 1);
///
/// let problems = parse(&text.replace("command", "comand"), &Sources::none()).unwrap_err().of_file("jobs.yaml");
/// assert_eq!(problems.list()[0].message, "unknown key `comand`: did you mean `command`?");
/// assert!(problems.to_string().contains("jobs.yaml:3:32: unknown key"));
/// ```
///
/// # Errors
///
/// Everything that is wrong with it. A text that is not YAML, or goes beyond what a file may hold, is one problem:
/// what comes after cannot be read.
pub fn parse(text: &str, sources: &Sources) -> Result<Config, Problems> {
    from_bytes(text.as_bytes(), sources)
}

/// Reads a configuration file's bytes: UTF-8, with or without a byte order mark.
///
/// # Errors
///
/// As [`parse`], and one problem for bytes that are no text or more than [`MAX_FILE_BYTES`].
pub fn from_bytes(bytes: &[u8], sources: &Sources) -> Result<Config, Problems> {
    read_text(decode(bytes)?, bytes, sources, false)
}

/// Reads a configuration in several files, each with its name and its bytes, as one: jobs stand in any of them, and each
/// other key but `version` in one.
///
/// # Errors
///
/// As [`from_bytes`]; together they have at most [`MAX_FILE_BYTES`]. Each problem names its file.
pub fn from_files(files: &[(String, Vec<u8>)], sources: &Sources) -> Result<Config, Problems> {
    let size = files.iter().fold(0, |size: usize, (_, bytes)| size.saturating_add(bytes.len()));
    if let Some((name, _)) = files.first().filter(|_| size > MAX_FILE_BYTES) {
        let (size, most) = (size >> 20, MAX_FILE_BYTES >> 20);
        let message = format!("the files are too large ({size} MiB): a configuration has at most {most} MiB");
        return Err(Problems::unreadable((1, 1), message).in_part(name));
    }
    let (mut text, mut parts) = (String::with_capacity(size + files.len()), Vec::new());
    for (name, bytes) in files {
        parts.push(Part { name: name.clone(), begin: text.len() });
        text.push_str(decode(bytes).map_err(|problems| problems.in_part(name))?);
        if !text.ends_with('\n') || parts.last().is_some_and(|part| part.begin == text.len()) {
            text.push('\n');
        }
    }
    let mut wrong = Findings::default();
    let Some((tree, roots)) = Tree::of_parts(&text, &parts, &mut wrong) else {
        return Err(wrong.locate_in(&text, &parts));
    };
    let mut walk = Walk::new(&tree, sources);
    (walk.wrong, walk.parts) = (wrong, &parts);
    read_tree(walk, &roots, &text, || digest_of(files))
}

/// A file that another one includes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Include {
    /// As it is written: relative to the directory of the file that includes it.
    pub path: String,
    /// The line, from 1.
    pub line: usize,
}

/// What a file includes. What is wrong with that, or with the file, [`from_files`] says.
pub fn includes(bytes: &[u8]) -> Vec<Include> {
    let Ok(text) = decode(bytes) else { return Vec::new() };
    // A file with many jobs is not read twice for nothing.
    let tree = text.contains("include").then(|| Tree::read(text, &mut Findings::default())).flatten();
    let Some(tree) = tree else { return Vec::new() };
    let sources = Sources::none();
    let mut walk = Walk::new(&tree, &sources);
    let root = Spot { node: tree.root(), path: Path::Root, shape: &FILE_SHAPE };
    let Some(spot) = walk.fields(&root).and_then(|fields| fields.get("include")) else { return Vec::new() };
    let items = walk.items(INCLUDED, &spot).unwrap_or_default();
    items
        .into_iter()
        .filter_map(|item| included(&mut walk, item).map(|path| Include { path, line: tree.line(item.node, 0) }))
        .collect()
}

/// What `include` takes.
const INCLUDED: &str = "a path, or a list of paths";

/// One path of `include`. Nothing is filled in there: which files a configuration is made of does not depend on a node.
fn included(walk: &mut Walk, spot: Spot) -> Option<String> {
    match walk.tree.value(spot.node) {
        Value::Text { text, .. } if !text.is_empty() && !text.contains("${") => Some(text.to_owned()),
        Value::Text { text: "", .. } => walk.refuse(spot, "expected the path of a file, found an empty text"),
        Value::Text { .. } => walk.refuse(spot, "`include` takes no `${…}`: every node reads the same files"),
        _ => walk.refuse(spot, "expected the path of a file"),
    }
}

/// The configuration in `text`, which `bytes` are: that of a file, or of a program whose jobs are closures.
fn read_text(text: &str, bytes: &[u8], sources: &Sources, of_program: bool) -> Result<Config, Problems> {
    let mut wrong = Findings::default();
    let tree = Tree::read(text, &mut wrong);
    let Some(tree) = tree else { return Err(wrong.locate(text)) };
    let mut walk = Walk::new(&tree, sources);
    walk.wrong = wrong;
    walk.of_program = of_program;
    read_tree(walk, &[tree.root()], text, || digest(bytes))
}

fn read_tree(
    mut walk: Walk,
    roots: &[NodeId],
    text: &str,
    digest: impl FnOnce() -> String,
) -> Result<Config, Problems> {
    let read = read(&mut walk, roots);
    let Walk { wrong, odd, notes, left_open, parts, .. } = walk;
    match read {
        Some((namespace, jobs, migrations, notices)) if wrong.is_empty() => {
            let (warnings, notes) = (odd.locate_in(text, parts), notes.locate_in(text, parts));
            let notices = Arc::new(notices);
            Ok(Config { namespace, jobs, migrations, notices, digest: digest(), warnings, left_open, notes })
        }
        _ => Err(wrong.locate_in(text, parts)),
    }
}

/// The bytes as text, or why they are none.
fn decode(bytes: &[u8]) -> Result<&str, Problems> {
    let refuse = |message: &str| Err(Problems::unreadable((1, 1), message.to_owned()));
    if bytes.len() > MAX_FILE_BYTES {
        let (size, most) = (bytes.len() >> 20, MAX_FILE_BYTES >> 20);
        return refuse(&format!("the file is too large ({size} MiB): a configuration has at most {most} MiB"));
    }
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return refuse("the file is in UTF-16: save it as UTF-8");
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    if let Some(at) = bytes.iter().position(|byte| *byte == 0) {
        let message = "the file is not text: it has a NUL byte here. Is it the right file, and saved as UTF-8?";
        return Err(Problems::unreadable(place(bytes, at), message.to_owned()));
    }
    std::str::from_utf8(bytes).map_err(|error| {
        let (at, byte) = (error.valid_up_to(), bytes[error.valid_up_to()]);
        let message = format!("the byte 0x{byte:02x} here is not UTF-8: save the file as UTF-8");
        Problems::unreadable(place(bytes, at), message)
    })
}

/// The line and the column of a byte.
fn place(bytes: &[u8], at: usize) -> (usize, usize) {
    let before = &bytes[..at];
    let line = before.iter().filter(|byte| **byte == b'\n').count();
    let start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    (line + 1, String::from_utf8_lossy(&before[start..]).chars().count() + 1)
}

fn digest(bytes: &[u8]) -> String {
    digits(&Sha256::digest(bytes))
}

/// Over the files in their order, with their names: without the directories, which may be others on another node.
fn digest_of(files: &[(String, Vec<u8>)]) -> String {
    let mut hash = Sha256::new();
    for (name, bytes) in files {
        for part in [name.rsplit('/').next().unwrap_or_default().as_bytes(), bytes] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
    }
    digits(&hash.finalize())
}

fn digits(hash: &[u8]) -> String {
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    hex[..DIGEST_DIGITS].to_owned()
}

/// The namespace, the jobs, the migrations, and where alerts go.
type Read = (String, BTreeMap<JobName, Arc<Job>>, Vec<Migration>, Notices);

/// The keys of the files, and the `jobs` of each that has some.
fn top<'p>(walk: &mut Walk, roots: &'p [Spot<'p>]) -> Option<(Fields<'p>, Vec<Spot<'p>>)> {
    let (mut all, mut jobs): (Option<Fields>, Vec<Spot>) = (None, Vec::new());
    for root in roots {
        if matches!(walk.tree.value(root.node), Value::Null) {
            walk.wrong(*root, "the file is empty: begin with `version: 1` and `jobs:`");
            continue;
        }
        let Some(fields) = walk.fields(root) else { continue };
        check_version(walk, &fields, *root)?;
        if let Some(spot) = fields.get("include") {
            let items = walk.items(INCLUDED, &spot).unwrap_or_default();
            let paths = items.into_iter().filter_map(|item| included(walk, item)).count();
            if walk.parts.is_empty() && paths > 0 {
                walk.wrong(spot, "`include` needs the file that it is in: this text is read without one");
            }
        }
        jobs.extend(fields.get("jobs"));
        match &mut all {
            None => all = Some(fields),
            Some(all) => all.join(walk, &fields, &["version", "include", "jobs"]),
        }
    }
    Some((all?, jobs))
}

/// What the files say, as far as they can be read.
fn read(walk: &mut Walk, roots: &[NodeId]) -> Option<Read> {
    let roots: Vec<Spot> =
        roots.iter().map(|node| Spot { node: *node, path: Path::Root, shape: &FILE_SHAPE }).collect();
    let (root, (fields, jobs)) = (*roots.first()?, top(walk, &roots)?);
    let namespace = fields.get("namespace").map_or(Some(DEFAULT_NAMESPACE.to_owned()), |spot| {
        walk.read("a namespace", spot, |text| match check_name(text) {
            Ok(()) => Ok(text.to_owned()),
            Err(_) => {
                Err("is not a name: use 1 to 100 letters, digits, `.`, `_` or `-`, beginning with a letter or a digit"
                    .into())
            }
        })
    });
    // Left open, it is any: nothing else in the file depends on it.
    let namespace = namespace.or_else(|| walk.sources.open.then(|| DEFAULT_NAMESPACE.to_owned()));
    walk.calendars = Calendars::read(walk, fields.get("calendars"));
    let notices = fields.get("notify").map(|spot| notify::read(walk, spot)).unwrap_or_default();
    let mut defaults = Draft::documented();
    if let Some(spot) = fields.get("defaults")
        && let Some(fields) = walk.fields(&spot)
    {
        walk.layer = Layer::Defaults;
        defaults.lay(walk, &fields);
        walk.layer = Layer::Job;
    }
    let migrations = fields.get("migrations").map(|spot| migrations::read(walk, spot)).unwrap_or_default();
    if fields.get("migrations").is_some() && jobs.is_empty() {
        // A file for a deploy step.
        return Some((namespace?, BTreeMap::new(), migrations, notices));
    }
    let Some(spot) = jobs.first().copied() else {
        let missing = "the file has no `jobs`: write `jobs:` and the jobs below it, by name";
        fields.need(walk, "jobs", root, missing);
        return None;
    };
    let mut schedules = Schedules::new(walk.calendars.clone());
    let jobs = jobs::read(walk, &jobs, &defaults, &mut schedules);
    if jobs.is_empty() {
        walk.odd(spot, "there are no jobs: a node with this file does nothing");
    }
    Some((namespace?, jobs, migrations, notices))
}

/// A file of another version is another language: nothing more is said about it.
fn check_version(walk: &mut Walk, fields: &Fields, root: Spot) -> Option<()> {
    let missing = "the file does not say its version: begin with `version: 1`";
    let Some(spot) = fields.need(walk, "version", root, missing) else { return Some(()) };
    let filled = walk.known("the version `1`", spot)?;
    if filled.text != "1" {
        walk.wrong = Findings::default();
        let (given, version) = (filled.shown(), env!("CARGO_PKG_VERSION"));
        return walk.refuse(spot, format!("{given} is not a version that fencron {version} reads: write `version: 1`"));
    }
    Some(())
}
