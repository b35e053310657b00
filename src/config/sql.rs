//! `sql:` of a job: the keys, and how they are read.

mod libpq;
mod url;

use std::collections::{BTreeMap, HashSet};
use std::path::Path as FilePath;

use super::draft::{Draft, Placed};
use super::fill::Filled;
use super::keys::{Shape, Tables, key, named};
use super::problem::quoted;
use super::sections::{self, Part, Tool};
use super::tree::Value;
use super::walk::{Entry, Fields, Path, Spot, Walk};
use crate::job::{Database, Fault, Place, STAMP_NAMES, Scalar, Script, Server, Sql, Target, Task, Text, words};

/// How many parameters a job may give its statements.
pub const MAX_PARAMS: usize = 1_000;

/// The keys of `sql`.
#[rustfmt::skip]
pub static SQL: Tables = &[&[
    key("database", Shape::MapOr { key: "url", of: DATABASE },
        "Where the statements run: `postgres://…`, `mysql://…` or `sqlite:PATH`; or that as `url`, and the \
         `password` apart.")
        .also("url dsn connection target"),
    key("statement", Shape::Text, "The statements, with `;` between them and `:name` for values.")
        .also("statements query sql text"),
    key("file", Shape::Text, "The file that the statements are in. It is read when the configuration is.")
        .also("path script"),
    key("params", named(&Shape::Text, MAX_PARAMS, "parameters are too many: at most"),
        "The value of each `:name` of the statements.")
        .also("parameters args bind values"),
    key("transaction", Shape::Word(words::<bool>), "Whether the statements run in one transaction with the guard.")
        .default("true").also("transactional tx").to(|d| &mut d.transaction),
]];

#[rustfmt::skip]
static DATABASE: Tables = &[&[
    key("url", Shape::Text, "`postgres://…`, `mysql://…` or `sqlite:PATH`.").also("dsn uri address"),
    key("password", Shape::Text,
        "The password, as it is. In a URL it would have to be encoded (`%40` for `@`); here it is not.")
        .also("pass pwd secret"),
]];

/// A script as it is written, to compare with what was recorded of it before.
pub struct Written {
    /// What is run: what leads back is none of it, nor what stands around it.
    pub content: String,
    /// All of it.
    pub whole: String,
    /// The configured transaction, without regard to the script.
    pub transaction: bool,
    /// Whose marks are in it.
    pub tool: Option<Tool>,
    /// The lines that lead back, the first and the last.
    pub left_out: Option<(usize, usize)>,
}

impl Written {
    /// Notes which lines of one script are left out.
    pub fn note_left_out(&self, walk: &mut Walk, spot: Spot) {
        if let (Some(tool), Some((first, last))) = (self.tool, self.left_out) {
            let mark = tool.down();
            walk.note(spot, format!("what stands behind `{mark}` is left out: lines {first} to {last}"));
        }
    }
}

/// Reads the statements at `spot`. What is wrong with them is noted.
pub fn read(walk: &mut Walk, spot: Spot, draft: &mut Draft) -> Option<Task> {
    let (sql, written) = read_from(walk, spot, None, draft)?;
    written.note_left_out(walk, spot);
    Some(Task::Sql(Box::new(sql)))
}

/// As [`read`], and how they are written; with `in_place`, from that file instead of the one that is named.
pub fn read_from(walk: &mut Walk, spot: Spot, in_place: Option<&str>, draft: &mut Draft) -> Option<(Sql, Written)> {
    let fields = walk.fields(&spot)?;
    draft.lay(walk, &fields);
    let stated = draft.transaction;
    let params = fields.get("params");
    let params = params.map(|spot| walk.named(spot, check_param, |walk, spot, _| read_scalar(walk, spot)));
    let params = params.unwrap_or_default();
    let target = read_target(walk, &fields, spot);
    let source = read_source(walk, &fields, spot, in_place);
    let (kind, target) = target?;
    let (source, part) = parted(walk, source?, kind)?;
    let transaction = stated.value && part.no_transaction.is_none();
    if let (Placed { value: true, given: Some(given) }, Some(words)) = (stated, part.no_transaction) {
        let message =
            format!("`transaction: true` stands here, and {} says `{words}`: take one of them away", source.name());
        walk.wrong_at(given.node, Path::Key(&spot.path, "transaction"), message);
        return None;
    }
    let script = match Script::read(&source.text, kind) {
        Ok(script) => match &source.file {
            Some(file) => script.of_file(file),
            None => script,
        },
        Err(Fault { place, message }) => {
            source.wrong(walk, place, message);
            return None;
        }
    };
    if script.statements.is_empty() {
        return walk.refuse(source.spot, "there is no statement here: write one");
    }
    check_names(walk, &source, &script, &params);
    if transaction {
        for statement in &script.statements {
            if let Some(why) = statement.why_not_in_transaction(kind) {
                source.wrong(walk, statement.place, why);
            }
        }
    }
    warn_of_unused(walk, &fields, &script);
    let written = Written {
        content: part.content,
        whole: source.whole,
        transaction: stated.value,
        tool: part.tool,
        left_out: part.left_out,
    };
    Some((Sql { kind, target, script, params, transaction, checksum: None, checksums_before: Vec::new() }, written))
}

/// Takes from a script what leads on.
fn parted<'p>(walk: &mut Walk, source: Source<'p>, kind: Database) -> Option<(Source<'p>, Part)> {
    match sections::part(&source.text, kind) {
        Ok(mut part) => Some((Source { text: std::mem::take(&mut part.text), ..source }, part)),
        Err((line, message)) => {
            source.wrong(walk, Place { line, column: 1 }, message);
            None
        }
    }
}

/// Why these statements cannot be run exactly once; `None`: they can.
pub fn why_not_exactly_once(sql: &Sql) -> Option<&'static str> {
    (!sql.transaction).then_some(
        "`exactly_once` needs a transaction, and this job has `transaction: false`: when its node is lost in the middle, \
         it is unknown how far it came. Use `at_most_once` or `at_least_once`",
    )
}

fn read_target(walk: &mut Walk, fields: &Fields, at: Spot) -> Option<(Database, Target)> {
    let missing = "this names no `database`: write `postgres://…`, `mysql://…` or `sqlite:PATH`";
    let spot = fields.need(walk, "database", at, missing)?;
    let database = walk.fields(&spot)?;
    let password = database.get("password").map(|spot| (spot, walk.text(spot)));
    let missing = "this has no `url`: write `postgres://…`, `mysql://…` or `sqlite:PATH`";
    let spot = database.need(walk, "url", spot, missing)?;
    let url = walk.text(spot)?;
    if walk.is_open(&url) {
        return None;
    }
    match url::parse(&url) {
        Ok(target) => with_password(walk, target, password),
        Err(why) => {
            let shown =
                if url.is_secret() { "what `${…}` stands for here".to_owned() } else { "this URL".to_owned() };
            walk.refuse(spot, format!("{shown} {why}"))
        }
    }
}

/// The password that is given apart, which a URL must not have as well.
fn with_password(
    walk: &mut Walk,
    (kind, target): (Database, Target),
    password: Option<(Spot, Option<Text>)>,
) -> Option<(Database, Target)> {
    let Some((spot, password)) = password else { return Some((kind, target)) };
    let password = Text::secret(password?.expose());
    match target {
        Target::Server(server) if server.password.is_none() => {
            Some((kind, Target::Server(Box::new(Server { password: Some(password), ..*server }))))
        }
        Target::Server(_) => walk.refuse(spot, "the password is given twice: take it out of the `url`"),
        Target::File(_) => walk.refuse(spot, "a SQLite file has no password"),
    }
}

/// The text of a script, and where it is from.
struct Source<'p> {
    text: String,
    /// As it was read.
    whole: String,
    file: Option<String>,
    spot: Spot<'p>,
}

impl Source<'_> {
    fn name(&self) -> String {
        self.file.as_deref().map_or_else(|| "this script".to_owned(), quoted)
    }

    /// Notes what is wrong at a place of the script.
    fn wrong(&self, walk: &mut Walk, place: Place, message: String) {
        if let Some(file) = &self.file {
            let message = format!("{file}:{}:{}: {message}", place.line, place.column);
            return walk.wrong(self.spot, message);
        }
        let lines = || self.text.split_inclusive('\n');
        let line = lines().nth(place.line - 1).unwrap_or_default();
        let column = line.char_indices().nth(place.column - 1).map_or(line.len(), |(at, _)| at);
        let inner = lines().take(place.line - 1).map(str::len).sum::<usize>() + column;
        let at = walk.tree.at_within(self.spot.node, inner);
        let unknown = place.line > 1 && at == walk.tree.at(self.spot.node);
        let message = if unknown { format!("line {} of the statement: {message}", place.line) } else { message };
        walk.wrong.add(at, self.spot.path.to_string(), message);
    }
}

fn read_source<'p>(walk: &mut Walk, fields: &Fields<'p>, at: Spot, in_place: Option<&str>) -> Option<Source<'p>> {
    match (fields.get("statement"), fields.get("file")) {
        (Some(spot), None) => {
            let text = walk.text(spot)?;
            if text.is_secret() {
                let message = "a statement takes no `${…}`: write `:name`, and `name: ${…}` in `params`. So the value is \
                               never read as SQL, and never shown with it";
                return walk.refuse(spot, message);
            }
            let text = text.expose().to_owned();
            Some(Source { whole: text.clone(), text, file: None, spot })
        }
        (None, Some(spot)) => {
            let named = walk.text(spot)?;
            let (path, shown) = match in_place {
                Some(path) => (path.to_owned(), path.to_owned()),
                None => (named.expose().to_owned(), named.to_string()),
            };
            match (walk.sources.file)(FilePath::new(&path)) {
                Ok(text) => Some(Source { whole: text.clone(), text, file: Some(shown), spot }),
                Err(error) => walk.refuse(spot, format!("the file {} cannot be read: {error}", quoted(&shown))),
            }
        }
        (Some(_), Some(file)) => walk.refuse(file, "the statements are given twice: keep `statement` or `file`"),
        (None, None) => {
            if !fields.meant(&["statement", "file"]) {
                walk.wrong(at, "there is nothing to run here: give it a `statement` or a `file`");
            }
            None
        }
    }
}

fn check_param(name: &str) -> Result<(), String> {
    let first_is_good = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !first_is_good || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Err(format!("{} cannot be the name of a parameter: use letters, digits and `_`", quoted(name)));
    }
    if STAMP_NAMES.contains(&name) {
        return Err(format!("{} is given to every statement by fencron: choose another name", quoted(name)));
    }
    Ok(())
}

/// A number or `true` that is not quoted is one; what is filled in is a text.
fn read_scalar(walk: &mut Walk, spot: Spot) -> Option<Scalar> {
    let plain = match walk.tree.value(spot.node) {
        Value::Null => return Some(Scalar::Null),
        Value::Text { plain, .. } => plain,
        _ => false,
    };
    let text = walk.text(spot)?;
    let as_it_stands =
        plain && matches!(walk.tree.value(spot.node), Value::Text { text: raw, .. } if !raw.contains("${"));
    Some(if as_it_stands { typed(text) } else { Scalar::Text(text) })
}

/// <https://yaml.org/spec/1.2.2/#1032-tag-resolution>
fn typed(text: Text) -> Scalar {
    let word = text.expose();
    let numeric = word.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | '-' | '+' | 'e' | 'E'));
    match word {
        "true" | "True" | "TRUE" => Scalar::Bool(true),
        "false" | "False" | "FALSE" => Scalar::Bool(false),
        _ => match word.parse::<i64>() {
            Ok(number) => Scalar::Integer(number),
            Err(_) if numeric && word.parse::<f64>().is_ok_and(f64::is_finite) => Scalar::Real(word.to_owned()),
            Err(_) => Scalar::Text(text),
        },
    }
}

/// Every `:name` must stand for something.
fn check_names(walk: &mut Walk, source: &Source, script: &Script, params: &BTreeMap<String, Scalar>) {
    let known: Vec<&str> = STAMP_NAMES.into_iter().chain(params.keys().map(String::as_str)).collect();
    for name in script.statements.iter().flat_map(|statement| &statement.names) {
        if known.contains(&name.name.as_str()) {
            continue;
        }
        let written = Filled { text: name.name.as_str().into(), secret: false, open: false };
        let advice = match walk.guess(&written, known.iter().copied()) {
            Some(meant) => format!("did you mean `:{meant}`?"),
            None => "give it in `params` (if it is no name of a value, put a blank behind the colon)".to_owned(),
        };
        source.wrong(walk, name.place, format!("`:{}` stands for nothing: {advice}", name.name));
    }
}

fn warn_of_unused(walk: &mut Walk, fields: &Fields, script: &Script) {
    let Some(spot) = fields.get("params") else { return };
    let names = script.statements.iter().flat_map(|statement| &statement.names);
    let used: HashSet<&str> = names.map(|name| name.name.as_str()).collect();
    for Entry { key, name, .. } in walk.entries(spot).unwrap_or_default() {
        if !used.contains(name) {
            walk.odd_at(key, Path::Key(&spot.path, name), format!("no statement uses `:{name}`"));
        }
    }
}
