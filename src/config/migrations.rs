//! `migrations:`: what is done once, in this order, before any job fires.

mod names;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::draft::Draft;
use super::fill::Filled;
use super::jobs::{check_process, read_command, read_shell, read_task};
use super::keys::{MILLISECOND, Needs, Shape, Tables, duration_or_none, key};
use super::problem::quoted;
use super::sql::Written;
use super::tables::{
    COMMAND, DIR, ENV_FILE, KILL_AFTER, MAX_ARGS, MAX_TIMEOUT, REQUEST, RETRY, SHELL, TIMEOUT, VARIABLES,
};
use super::tree::{NodeId, Tree, Value};
use super::walk::{Fields, Spot, Walk};
use crate::job::{Guarantee, Job, JobName, Sql, Task, check_name, words};

pub use names::leads_back_from;
use names::{Convention, Listing, list, same_number, some};

/// How many migrations a file may have, those of directories counted each.
pub const MAX_MIGRATIONS: usize = 10_000;

/// A change that is made once, before any job fires.
#[derive(Clone, Debug, PartialEq)]
pub struct Migration {
    /// Unique in its file. Of a file in a directory: `<id of the directory's>/<name of the file>`.
    pub id: String,
    /// What it does: as a job, whose trigger, overlap and history say nothing. Its guarantee says what may become of it
    /// when it is not known how it ended.
    pub job: Arc<Job>,
    /// The probe that finds out whether it was done, when that is unknown.
    pub verify: Option<Arc<Job>>,
    /// The SHA-256, in hexadecimal digits, of what it does as the file has it: before `${…}` is filled in, so that it
    /// stays the same when a password changes.
    pub checksum: String,
    /// The checksums that earlier versions gave the same: what was made under one of these was not changed.
    pub checksums_before: Vec<String>,
}

/// One of them.
pub static MIGRATION_SHAPE: Shape = Shape::Map(MIGRATION);

#[rustfmt::skip]
pub static MIGRATION: Tables = &[&[
    key("id", Shape::Name, "Its unique name, which never changes: its record has it.").also("name key"),
    COMMAND,
    SHELL,
    REQUEST,
    key("sql", Shape::Map(super::sql::SQL), "Statements to run in a database; `file` may name a directory.")
        .also("query database").task(super::sql::read),
    key("verify", Shape::Map(VERIFY), "A probe that succeeds if it was made, for when its end is unknown.")
        .also("check probe"),
    key("idempotent", Shape::Word(words::<bool>),
        "Whether it may be made again when it is unknown whether it was made.")
        .default("false").also("repeatable").to(|d| &mut d.idempotent),
    key("env", VARIABLES, "Variables for the command.")
        .also("environment vars variables").needs(Needs::Process).to(|d| &mut d.env),
    ENV_FILE,
    DIR,
    TIMEOUT,
    KILL_AFTER,
    RETRY,
]];

#[rustfmt::skip]
static VERIFY: Tables = &[&[
    key("command", Shape::Command { most: MAX_ARGS }, "Exit code 0: it was done; 1: it was not; another: unknown.")
        .task(read_command),
    key("shell", Shape::Text, "As `command`, run by `/bin/sh -c`.").task(read_shell),
    key("http", Shape::Map(super::http::HTTP), "A request whose expected answer means: made.").task(super::http::read),
    key("sql", Shape::Map(super::sql::SQL), "Statements that succeed only if it was made.")
        .task(super::sql::read),
    key("timeout", duration_or_none(MILLISECOND, MAX_TIMEOUT), "How long it may take; `none`: without limit.")
        .default("none").to(|d| &mut d.job.timeout),
]];

/// Reads the list. What is wrong with one of them is noted, and it is left out.
pub fn read(walk: &mut Walk, spot: Spot) -> Vec<Migration> {
    let what = "a list, one migration below the other like `- {id: NAME, sql: …}`";
    let items = walk.items(what, &spot).unwrap_or_default();
    let (mut migrations, mut ids) = (Vec::new(), BTreeSet::new());
    for spot in items {
        let Some(fields) = walk.fields(&spot) else { continue };
        let Some((id, at)) = read_id(walk, &fields, spot) else { continue };
        if !ids.insert(id.clone()) {
            walk.wrong(at, format!("the migration `{id}` is given twice: give each an id of its own"));
            continue;
        }
        migrations.extend(read_one(walk, &fields, spot, &id));
    }
    if migrations.len() > MAX_MIGRATIONS {
        walk.wrong(spot, format!("{} migrations are too many: at most {MAX_MIGRATIONS}", migrations.len()));
    }
    migrations
}

fn read_id<'p>(walk: &mut Walk, fields: &Fields<'p>, spot: Spot<'p>) -> Option<(JobName, Spot<'p>)> {
    let at = fields.need(walk, "id", spot, "this migration has no `id`: give it one, and keep it for ever")?;
    let filled: Filled = walk.known("the id of a migration", at)?;
    match JobName::new(&filled.text) {
        Ok(id) => Some((id, at)),
        Err(_) => {
            let shown = filled.shown();
            walk.refuse(at, format!("{shown} is not an id: use 1 to 100 letters, digits, `.`, `_` or `-`"))
        }
    }
}

/// What one entry of the list does.
struct Deed {
    id: String,
    task: Task,
    checksum: String,
    checksums_before: Vec<String>,
}

/// One migration, or one for each file of a directory.
fn read_one(walk: &mut Walk, fields: &Fields, spot: Spot, id: &JobName) -> Vec<Migration> {
    let wrong_before = walk.wrong.count();
    let mut draft = Draft::documented();
    draft.lay(walk, fields);
    let deeds = read_deeds(walk, fields, spot, id, &mut draft);
    let idempotent = draft.idempotent;
    let verify = fields.get("verify").and_then(|spot| read_verify(walk, spot, id));
    check_process(walk, fields, deeds.first().map(|deed| &deed.task));
    let guarantee = |task: &Task| match task {
        Task::Sql(sql) if super::sql::why_not_exactly_once(sql).is_none() => Guarantee::ExactlyOnce,
        _ if idempotent => Guarantee::AtLeastOnce,
        _ => Guarantee::AtMostOnce,
    };
    // Of a directory, some may be in no transaction.
    let all = deeds.iter().map(|deed| guarantee(&deed.task)).max_by_key(|own| *own != Guarantee::ExactlyOnce);
    warn_of_idle(walk, fields, all.unwrap_or(guarantee(&Task::Command(Vec::new()))), idempotent);
    draft.settle_retry(walk, &spot.path);
    if walk.wrong.count() != wrong_before {
        return Vec::new();
    }
    let migration = |Deed { id: own, task, checksum, checksums_before }| {
        let guarantee = guarantee(&task);
        let job = Job { name: id.clone(), task, guarantee, ..draft.job.clone() };
        Migration { id: own, job: Arc::new(job), verify: verify.clone(), checksum, checksums_before }
    };
    deeds.into_iter().map(migration).collect()
}

fn read_deeds(walk: &mut Walk, fields: &Fields, spot: Spot, id: &JobName, draft: &mut Draft) -> Vec<Deed> {
    let statements = fields.get("sql").filter(|_| fields.tasks().len() == 1);
    let Some(statements) = statements else {
        let checksum = checksum(walk.tree, fields);
        let task = read_task(walk, fields, spot, draft);
        let deed = |task| Deed { id: id.to_string(), task, checksum, checksums_before: Vec::new() };
        return task.map(deed).into_iter().collect();
    };
    let Some(directory) = directory_of(walk, statements) else { return Vec::new() };
    let Some(directory) = directory else {
        let Some((deed, written)) = read_script(walk, statements, (id.to_string(), None), draft) else {
            return Vec::new();
        };
        written.note_left_out(walk, statements);
        return vec![deed];
    };
    let (mut deeds, mut scripts) = (Vec::new(), Vec::new());
    for name in &directory.listing.taken {
        let path = directory.path.join(name).display().to_string();
        let script = (format!("{id}/{name}"), Some(path.as_str()));
        let Some((deed, written)) = read_script(walk, statements, script, draft) else { continue };
        if directory.listing.convention == Convention::Versioned && written.content.contains("${") {
            let why = "has a `${` in it, which Flyway fills in and fencron does not: write what it stands for";
            walk.wrong(directory.at, format!("the script {} {why}", quoted(&path)));
        }
        deeds.push(deed);
        scripts.push((name.clone(), written));
    }
    directory.check_marks(walk, &scripts);
    directory.note_left_out(walk, &scripts);
    deeds
}

fn read_script(
    walk: &mut Walk,
    spot: Spot,
    (id, path): (String, Option<&str>),
    draft: &mut Draft,
) -> Option<(Deed, Written)> {
    let (sql, mut written) = super::sql::read_from(walk, spot, path, draft)?;
    let params = walk.fields(&spot).and_then(|fields| fields.get("params").map(|spot| spot.node));
    let mut listed = String::new();
    if let Some(params) = params {
        canonical(walk.tree, params, &mut listed);
    }
    let checksum = sum(&format!("sql {} {}{listed}", sql.transaction, written.content));
    // Earlier versions, which did not distinguish its parts, meant all of the script.
    let whole = std::mem::take(&mut written.whole);
    let before = sum(&format!("sql {} {whole}{listed}", written.transaction));
    let checksums_before: Vec<String> = Some(before).filter(|before| *before != checksum).into_iter().collect();
    let sql = Sql { checksum: Some(checksum.clone()), checksums_before: checksums_before.clone(), ..sql };
    Some((Deed { id, task: Task::Sql(Box::new(sql)), checksum, checksums_before }, written))
}

/// The directory that `sql: {file: …}` names.
struct Directory<'p> {
    at: Spot<'p>,
    path: PathBuf,
    shown: String,
    listing: Listing,
}

/// `Some(None)`: it is no directory, or none is named.
fn directory_of<'p>(walk: &mut Walk, spot: Spot<'p>) -> Option<Option<Directory<'p>>> {
    let fields = walk.fields(&spot)?;
    let Some(found) = fields.get("file") else { return Some(None) };
    let at = Spot { path: spot.path, ..found };
    let named = walk.text(found)?;
    let shown = quoted(&named.to_string());
    let names = match (walk.sources.dir)(FilePath::new(named.expose())) {
        Ok(None) => return Some(None),
        Ok(Some(names)) => names,
        Err(error) => {
            return walk.refuse(found, format!("the directory {shown} cannot be read: {error}"));
        }
    };
    let listing = match list(names) {
        Ok(listing) => listing,
        Err(wrong) => {
            wrong.into_iter().for_each(|why| walk.wrong(found, format!("the directory {shown} {why}")));
            return None;
        }
    };
    let wrong_before = walk.wrong.count();
    for name in &listing.taken {
        if check_name(name).is_err() {
            let why = "cannot be part of a migration's id: use letters, digits, `.`, `_` or `-`";
            walk.wrong(found, format!("the name of the file {} {why}", quoted(name)));
        }
    }
    let path = PathBuf::from(named.expose());
    (walk.wrong.count() == wrong_before).then_some(Some(Directory { at, path, shown, listing }))
}

impl Directory<'_> {
    /// Whose marks are in the scripts: they must be of one tool, and of one that names its files so.
    fn check_marks(&self, walk: &mut Walk, scripts: &[(String, Written)]) {
        let Some((marked, tool)) = scripts.iter().find_map(|(name, script)| Some((name, script.tool?))) else { return };
        let (shown, marks) = (&self.shown, tool.name());
        let wrong = |walk: &mut Walk, why: String| walk.wrong(self.at, format!("the directory {shown} {why}"));
        if self.listing.convention != Convention::Plain {
            let why = "is named as those of other tools are";
            return wrong(walk, format!("mixes conventions: {} has the marks of {marks}, and {why}", quoted(marked)));
        }
        if let Some((name, _)) = scripts.iter().find(|(_, script)| script.tool != Some(tool)) {
            let why = format!("{} has the marks of {marks}, and {} has not", quoted(marked), quoted(name));
            return wrong(walk, format!("mixes conventions: {why}. Mark it, or move it to a directory of its own"));
        }
        if let Some((one, other)) = same_number(&self.listing.taken) {
            wrong(walk, format!("has the number of {} twice, in {} too: rename one", quoted(&one), quoted(&other)));
        }
    }

    /// Says what of it is not made.
    fn note_left_out(&self, walk: &mut Walk, scripts: &[(String, Written)]) {
        let shown = &self.shown;
        for odd in &self.listing.odd {
            walk.odd(self.at, format!("the directory {shown} {odd}"));
        }
        if !self.listing.left_out.is_empty() {
            let names = some(&self.listing.left_out);
            walk.note(self.at, format!("of the directory {shown} these files are left out, which lead back: {names}"));
        }
        let sections = scripts.iter().filter_map(|(name, script)| {
            let ((first, last), tool) = (script.left_out?, script.tool?);
            Some((tool, format!("{name} lines {first} to {last}")))
        });
        let (tools, sections): (Vec<_>, Vec<_>) = sections.unzip();
        if let Some(tool) = tools.first() {
            let (mark, sections) = (tool.down(), some(&sections));
            let message = format!("of the directory {shown} what stands behind `{mark}` is left out: {sections}");
            walk.note(self.at, message);
        }
    }
}

fn warn_of_idle(walk: &mut Walk, fields: &Fields, guarantee: Guarantee, idempotent: bool) {
    let why = match guarantee {
        Guarantee::ExactlyOnce => {
            "it runs in a transaction with the record that it was done, so there is never a doubt"
        }
        _ if idempotent => "with `idempotent: true` it is made again without asking",
        _ => return,
    };
    let idle = if guarantee == Guarantee::ExactlyOnce {
        fields.first_of(&["verify", "idempotent"])
    } else {
        fields.get("verify")
    };
    if let Some(spot) = idle {
        walk.odd(spot, format!("this does nothing: {why}"));
    }
}

fn read_verify(walk: &mut Walk, spot: Spot, id: &JobName) -> Option<Arc<Job>> {
    let fields = walk.fields(&spot)?;
    let mut draft = Draft::documented();
    draft.lay(walk, &fields);
    let task = read_task(walk, &fields, spot, &mut draft)?;
    draft.settle_retry(walk, &spot.path);
    Some(Arc::new(Job { name: id.clone(), task, guarantee: Guarantee::AtLeastOnce, ..draft.job }))
}

/// Of what it does, as it is written: neither where it is done (`env`, `dir`, a database's address) nor how it is
/// tried. Line ends count as `\n`, also when an editor or a checkout changed them.
fn checksum(tree: &Tree, fields: &Fields) -> String {
    let mut text = String::new();
    for (key, spot) in fields.tasks() {
        write!(text, "{} ", key.name).expect("a String takes all that is written");
        canonical(tree, spot.node, &mut text);
    }
    sum(&text)
}

fn sum(text: &str) -> String {
    Sha256::digest(text.replace("\r\n", "\n")).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A value in one way of writing: keys in order, texts with their length.
fn canonical(tree: &Tree, node: NodeId, out: &mut String) {
    match tree.value(node) {
        Value::Null | Value::Broken => out.push('~'),
        Value::Text { text, .. } => {
            let text = text.replace("\r\n", "\n");
            write!(out, "{}:{text}", text.len()).expect("a String takes all that is written");
        }
        Value::List(items) => {
            out.push('[');
            items.for_each(|item| canonical(tree, item, out));
            out.push(']');
        }
        Value::Map(children) => {
            let nodes: Vec<NodeId> = children.collect();
            let mut entries: Vec<(String, NodeId)> = Vec::new();
            for pair in nodes.chunks_exact(2) {
                let mut name = String::new();
                canonical(tree, pair[0], &mut name);
                entries.push((name, pair[1]));
            }
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            out.push('{');
            for (name, value) in entries {
                out.push_str(&name);
                canonical(tree, value, out);
            }
            out.push('}');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, parse};

    /// The checksums of the one migration that a directory with this file stands for.
    fn checksums(script: &str, setting: &str) -> (String, Vec<String>) {
        let sources = Sources {
            env: &|_| None,
            file: &|_| Ok(script.to_owned()),
            dir: &|_| Ok(Some(vec!["1_a.sql".to_owned()])),
            open: false,
        };
        let sql = format!("{{database: 'sqlite:x.db', file: m{setting}}}");
        let config = parse(&format!("version: 1\nmigrations: [{{id: m, sql: {sql}}}]"), &sources).unwrap();
        let Migration { checksum, checksums_before, .. } = config.migrations.into_iter().next().unwrap();
        (checksum, checksums_before)
    }

    #[test]
    fn what_was_recorded_before_is_known_again() {
        let plain = "CREATE TABLE a (x int);\n";
        let recorded = sum(&format!("sql true {plain}"));
        assert_eq!(checksums(plain, ""), (recorded.clone(), Vec::new()), "as it always was");
        assert_eq!(checksums(&plain.replace('\n', "\r\n"), "").0, recorded);
        let (now, before) = checksums(&format!("\u{feff}{plain}"), "");
        assert_eq!((now, before), (recorded, vec![sum(&format!("sql true \u{feff}{plain}"))]));
        for (script, setting) in [
            ("-- +goose Up\nSELECT 1;\n-- +goose Down\nSELECT 2;\n", ", transaction: false"),
            ("-- +goose NO TRANSACTION\n-- +goose Up\nSELECT 1;\n", ""),
            ("-- no-transaction\nVACUUM;\n", ""),
        ] {
            let (_, before) = checksums(script, setting);
            assert_eq!(before, [sum(&format!("sql {} {script}", setting.is_empty()))], "{script}");
        }
    }

    #[test]
    fn what_leads_back_says_nothing_about_what_was_made() {
        let script = |back: &str| format!("-- about it\n-- +goose Up\nSELECT 1;\n\n-- +goose Down\n{back}");
        assert_eq!(checksums(&script("A;"), "").0, checksums(&script("B;\nC;\n"), "").0);
        assert_ne!(checksums(&script("A;"), "").0, checksums(&script("A;").replace('1', "2"), "").0);
    }
}
