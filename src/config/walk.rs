//! Walking the tree by the table of keys: each value is read as its key's shape, and each problem is noted on the way.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;

use super::draft::{Draft, Layer};
use super::fill::{Filled, Sources, fill};
use super::keys::{self, Goes, Key, Needs, Shape, Tables};
use super::problem::{Findings, Part, quoted};
use super::tables::MAX_TEXT_BYTES;
use super::timing::Calendars;
use super::tree::{NodeId, Tree, Value};
use crate::job::Text;

/// The keys and indices from the root to a value, kept on the stack until a message needs them.
#[derive(Clone, Copy)]
pub enum Path<'p> {
    Root,
    Key(&'p Path<'p>, &'p str),
    Item(&'p Path<'p>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Key(Path::Root, key) => f.write_str(key),
            Path::Key(parent, key) => write!(f, "{parent}.{key}"),
            Path::Item(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// A value, and how one comes to it.
#[derive(Clone, Copy)]
pub struct Spot<'p> {
    pub node: NodeId,
    pub path: Path<'p>,
    pub shape: &'static Shape,
}

impl<'p> Spot<'p> {
    /// The value of an entry of the map that is here.
    pub fn value_of(&'p self, entry: &Entry<'p>) -> Spot<'p> {
        let shape = if let Shape::Named { of, .. } = self.shape { of } else { self.shape };
        Spot { node: entry.value, path: Path::Key(&self.path, entry.name), shape }
    }
}

/// An entry of a map: the key's node and text, and the value's node.
#[derive(Clone, Copy)]
pub struct Entry<'t> {
    pub key: NodeId,
    pub name: &'t str,
    pub value: NodeId,
}

/// A map that has been held against its tables.
pub struct Fields<'p> {
    tables: Tables,
    path: &'p Path<'p>,
    /// The value of each key of the tables, in their order.
    found: Vec<Option<NodeId>>,
    /// The keys that were probably meant by unknown ones.
    meant: Vec<&'static str>,
}

impl<'p> Fields<'p> {
    /// The value of the key `name` of the tables.
    pub fn get(&self, name: &'static str) -> Option<Spot<'p>> {
        let (index, key) = keys::find(self.tables, name).expect("only keys of the tables are asked for");
        Some(self.spot(key, self.found[index]?))
    }

    fn spot(&self, key: &'static Key, node: NodeId) -> Spot<'p> {
        Spot { node, path: Path::Key(self.path, key.name), shape: &key.shape }
    }

    /// The keys that are given, in the order of the tables.
    fn given(&self) -> impl Iterator<Item = (&'static Key, Spot<'p>)> {
        keys::all(self.tables).zip(&self.found).filter_map(|(key, node)| Some((key, self.spot(key, (*node)?))))
    }

    /// Takes what another file gives, but what each of them has for itself: a key stands in one of the files.
    pub fn join(&mut self, walk: &mut Walk, other: &Fields, apart: &[&str]) {
        for (index, key) in keys::all(self.tables).enumerate() {
            let Some(node) = other.found[index].filter(|_| !apart.contains(&key.name)) else { continue };
            match self.found[index] {
                None => self.found[index] = Some(node),
                Some(first) => {
                    let place = walk.place_of(first);
                    let message = format!("`{}` is given in {place} as well: keep it in one of the files", key.name);
                    walk.wrong(other.spot(key, node), message);
                }
            }
        }
        self.meant.extend(&other.meant);
    }

    /// Reads what is given into its places of the draft.
    pub fn read_into(&self, draft: &mut Draft, walk: &mut Walk) {
        for (key, spot) in self.given() {
            match key.goes {
                Goes::To(place) => place(draft).take(walk, spot),
                Goes::InParts => {
                    if let Some(parts) = walk.fields(&spot) {
                        parts.read_into(draft, walk);
                    }
                }
                Goes::Apart | Goes::Task(_) => {}
            }
        }
    }

    /// The keys that are given and say what is done.
    pub fn tasks(&self) -> Vec<(&'static Key, Spot<'p>)> {
        self.given().filter(|(key, _)| matches!(key.goes, Goes::Task(_))).collect()
    }

    /// The keys that are given and mean nothing without this.
    pub fn needing(&self, needs: Needs) -> Vec<(&'static Key, Spot<'p>)> {
        self.given().filter(|(key, _)| key.needs == Some(needs)).collect()
    }

    /// The names of the keys that could say what is done.
    pub fn known_tasks(&self) -> Vec<&'static str> {
        keys::tasks(self.tables).map(|key| key.name).collect()
    }

    /// The value of the key `name`, without which nothing comes of the map: says at `at` that it is missing.
    pub fn need(&self, walk: &mut Walk, name: &'static str, at: Spot, missing: &str) -> Option<Spot<'p>> {
        let found = self.get(name);
        if found.is_none() && !self.meant(&[name]) {
            walk.wrong(at, missing);
        }
        found
    }

    /// Whether an unknown key was probably meant to be one of these: then they are not missing as well.
    pub fn meant(&self, names: &[&str]) -> bool {
        self.meant.iter().any(|meant| names.contains(meant))
    }

    /// The first of these keys that is given.
    pub fn first_of(&self, names: &[&'static str]) -> Option<Spot<'p>> {
        names.iter().find_map(|name| self.get(name))
    }
}

/// The tree being walked, and what is found on the way.
pub struct Walk<'t> {
    pub tree: &'t Tree<'t>,
    pub sources: &'t Sources<'t>,
    /// The files that the tree is of, where they are several.
    pub parts: &'t [Part],
    /// The calendars of the file.
    pub calendars: Calendars,
    /// The names of the channels of the file.
    pub channels: Arc<[String]>,
    /// What is being read.
    pub layer: Layer,
    /// Errors.
    pub wrong: Findings,
    /// What can be done as it is written, but is probably not meant.
    pub odd: Findings,
    /// How many values were left open: see [`Sources::open`].
    pub left_open: usize,
    /// What is done as the file has it, and worth saying.
    pub notes: Findings,
    /// The jobs are closures of a program, not tasks of a file.
    pub of_program: bool,
    guesses: u32,
    /// How much was filled in so far.
    filled_bytes: usize,
}

/// How many bytes all texts with a `${…}` in them may have together, once it is replaced.
pub const MAX_FILLED_BYTES: usize = 64 << 20;

/// How many times a misspelt name is looked for among many: a file of 100,000 of them is wrong in another way.
const MAX_GUESSES: u32 = 100;

impl<'t> Walk<'t> {
    pub fn new(tree: &'t Tree<'t>, sources: &'t Sources<'t>) -> Walk<'t> {
        let none = Findings::default;
        Walk {
            tree,
            sources,
            parts: &[],
            calendars: Calendars::default(),
            channels: Arc::default(),
            layer: Layer::Job,
            wrong: none(),
            odd: none(),
            notes: none(),
            of_program: false,
            left_open: 0,
            guesses: 0,
            filled_bytes: 0,
        }
    }

    /// The name that `filled` probably is a misspelling of.
    pub fn guess<'a>(&mut self, filled: &Filled, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
        if self.may_guess(filled) { keys::nearest(&filled.text, names) } else { None }
    }

    /// Whether the meaning of `filled` has to be looked for once more.
    pub fn may_guess(&mut self, filled: &Filled) -> bool {
        self.guesses = self.guesses.saturating_add(1);
        !filled.secret && self.guesses <= MAX_GUESSES
    }

    /// What the jobs stand in, for messages.
    pub fn whole(&self) -> &'static str {
        match (self.of_program, self.parts.is_empty()) {
            (true, _) => "this program",
            (false, true) => "this file",
            (false, false) => "these files",
        }
    }

    /// Where a value is among several files, like `a.yaml:3`. To count the lines takes a while: that is done a few times.
    pub fn place_of(&mut self, node: NodeId) -> String {
        let Some(part) = Part::of(self.parts, self.tree.at(node)) else { return self.whole().to_owned() };
        self.guesses = self.guesses.saturating_add(1);
        if self.guesses > MAX_GUESSES {
            part.name.clone()
        } else {
            format!("{}:{}", part.name, self.tree.line(node, part.begin))
        }
    }

    /// Notes an error about a value.
    pub fn wrong(&mut self, spot: Spot, message: impl Into<String>) {
        self.wrong_at(spot.node, spot.path, message);
    }

    pub fn wrong_at(&mut self, node: NodeId, path: Path, message: impl Into<String>) {
        self.wrong.add(self.tree.at(node), path.to_string(), message.into());
    }

    /// Notes an error about a value, which therefore comes to nothing.
    pub fn refuse<T>(&mut self, spot: Spot, message: impl Into<String>) -> Option<T> {
        self.wrong(spot, message);
        None
    }

    /// Notes what is worth saying about a value.
    pub fn note(&mut self, spot: Spot, message: String) {
        self.notes.add(self.tree.at(spot.node), spot.path.to_string(), message);
    }

    /// Notes a warning about a value.
    pub fn odd(&mut self, spot: Spot, message: impl Into<String>) {
        self.odd_at(spot.node, spot.path, message);
    }

    pub fn odd_at(&mut self, node: NodeId, path: Path, message: impl Into<String>) {
        self.odd.add(self.tree.at(node), path.to_string(), message.into());
    }

    /// The map at `spot`, held against its tables; a map of which everything was left out is empty.
    pub fn fields<'p>(&mut self, spot: &'p Spot<'p>) -> Option<Fields<'p>> {
        let (tables, alone) = match spot.shape {
            Shape::Map(tables) => (*tables, None),
            Shape::MapOr { key, of } => (*of, keys::find(of, key)),
            _ => unreachable!("the table says that {} is a map", spot.path),
        };
        let mut found = vec![None; keys::all(tables).count()];
        if let (Some((index, _)), Value::Text { .. }) = (alone, self.tree.value(spot.node)) {
            found[index] = Some(spot.node);
            return Some(Fields { tables, path: &spot.path, found, meant: Vec::new() });
        }
        let entries = self.entries(*spot)?;
        let mut meant = Vec::new();
        for Entry { key, name, value } in entries {
            match keys::find(tables, name) {
                Some((index, _)) => found[index] = Some(value),
                None if name.starts_with(keys::ANCHOR_PLACE) => {}
                None => {
                    let path = Path::Key(&spot.path, name);
                    let (message, probably) = keys::unknown(tables, name);
                    meant.extend(probably);
                    self.wrong_at(key, path, message);
                }
            }
        }
        Some(Fields { tables, path: &spot.path, found, meant })
    }

    /// The entries of the map at `spot`, with the maps of `<<` merged in: what is written out wins over them.
    pub fn entries(&mut self, spot: Spot) -> Option<Vec<Entry<'t>>> {
        let (mut entries, mut names) = (Vec::new(), HashSet::new());
        if !self.collect(spot, &mut entries, &mut names) {
            return None;
        }
        match spot.shape {
            Shape::Named { most, too_many, .. } if entries.len() > *most => {
                self.refuse(spot, format!("{} {too_many} {most}", entries.len()))
            }
            _ => Some(entries),
        }
    }

    /// The map from names to values at `spot`: each name checked, and each value read, with its key.
    pub fn named<T>(
        &mut self,
        spot: Spot,
        check: impl Fn(&str) -> Result<(), String>,
        mut read: impl FnMut(&mut Walk<'t>, Spot, NodeId) -> Option<T>,
    ) -> BTreeMap<String, T> {
        let mut values = BTreeMap::new();
        for entry in self.entries(spot).unwrap_or_default() {
            let at = spot.value_of(&entry);
            if let Err(message) = check(entry.name) {
                self.wrong(Spot { node: entry.key, ..at }, message);
            }
            values.extend(read(self, at, entry.key).map(|value| (entry.name.to_owned(), value)));
        }
        values
    }

    fn collect(&mut self, spot: Spot, entries: &mut Vec<Entry<'t>>, names: &mut HashSet<&'t str>) -> bool {
        let mut children = match self.tree.value(spot.node) {
            Value::Map(children) => children,
            Value::Null => return true,
            other => {
                self.expected("a map (`key: value`)", other, spot);
                return false;
            }
        };
        let mut merged = Vec::new();
        let mut own = HashSet::new();
        while let (Some(key), Some(value)) = (children.next(), children.next()) {
            let at = Spot { node: key, ..spot };
            match self.tree.value(key) {
                Value::Text { text: "<<", plain: true } => merged.push(value),
                Value::Text { text: name, .. } => {
                    if !own.insert(name) {
                        let path = Path::Key(&spot.path, name);
                        self.wrong_at(key, path, format!("the key {} is given twice in this map", quoted(name)));
                    } else if names.insert(name) {
                        entries.push(Entry { key, name, value });
                    }
                }
                Value::Broken => {}
                _ => self.wrong(at, "a key must be a text".to_owned()),
            }
        }
        for node in merged {
            self.merge(Spot { node, ..spot }, entries, names);
        }
        true
    }

    /// `<<`: a map or a list of maps, the earlier of which win. <https://yaml.org/type/merge.html>
    fn merge(&mut self, spot: Spot, entries: &mut Vec<Entry<'t>>, names: &mut HashSet<&'t str>) {
        match self.tree.value(spot.node) {
            Value::List(items) => {
                for node in items {
                    self.collect(Spot { node, ..spot }, entries, names);
                }
            }
            _ => {
                self.collect(spot, entries, names);
            }
        }
    }

    /// Says that `found` is not what belongs here.
    pub fn expected(&mut self, what: &str, found: Value, spot: Spot) {
        let found = match found {
            Value::Null => "nothing is given: fill it in, or remove the key".to_owned(),
            Value::Text { text, .. } => format!("found {}", quoted(text)),
            Value::List(_) => "found a list".to_owned(),
            Value::Map(_) => "found a map".to_owned(),
            Value::Broken => return,
        };
        self.wrong(spot, format!("expected {what}, {found}"));
    }

    /// The scalar at `spot` with every `${…}` replaced; numbers and `true` are the text that they are written as.
    pub fn filled(&mut self, what: &str, spot: Spot) -> Option<Filled<'t>> {
        let text = match self.tree.value(spot.node) {
            Value::Text { text, .. } => text,
            other => {
                self.expected(what, other, spot);
                return None;
            }
        };
        if self.filled_bytes > MAX_FILLED_BYTES {
            return None;
        }
        match fill(text, self.sources) {
            Ok(filled) => {
                if matches!(filled.text, Cow::Owned(_)) {
                    self.filled_bytes += filled.text.len();
                }
                if self.filled_bytes > MAX_FILLED_BYTES {
                    let most = MAX_FILLED_BYTES >> 20;
                    return self
                        .refuse(spot, format!("what `${{…}}` stands for up to here is more than {most} MiB in all"));
                }
                Some(filled)
            }
            Err(faults) => {
                for (inner, message) in faults {
                    self.wrong.add(self.tree.at_within(spot.node, inner), spot.path.to_string(), message);
                }
                None
            }
        }
    }

    /// As [`Walk::filled`], for what is more than a text: nothing can be said of it where a part of it is left open.
    pub fn known(&mut self, what: &str, spot: Spot) -> Option<Filled<'t>> {
        let filled = self.filled(what, spot)?;
        self.left_open += usize::from(filled.open);
        Some(filled).filter(|filled| !filled.open)
    }

    /// Whether `text` is one of which a part is left open, so that nothing can be said of it.
    pub fn is_open(&mut self, text: &Text) -> bool {
        let open = self.sources.open && text.is_secret();
        self.left_open += usize::from(open);
        open
    }

    /// The scalar at `spot`, read by `parse`, whose error follows the value in the message: "is not …".
    pub fn read<T>(&mut self, what: &str, spot: Spot, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let filled = self.known(what, spot)?;
        match parse(&filled.text) {
            Ok(value) => Some(value),
            Err(why) => {
                self.wrong(spot, format!("{} {why}", filled.shown()));
                None
            }
        }
    }

    /// A text for a process: without NUL, and short enough for one.
    pub fn text(&mut self, spot: Spot) -> Option<Text> {
        let Filled { text, secret, .. } = self.filled("a text (\"\" for an empty one)", spot)?;
        if text.contains('\0') {
            return self.refuse(spot, "a text for a program cannot have a NUL character in it".to_owned());
        }
        if text.len() > MAX_TEXT_BYTES {
            let most = MAX_TEXT_BYTES;
            return self
                .refuse(spot, format!("this text has {} bytes: a program takes at most {most} in one", text.len()));
        }
        Some(if secret { Text::secret(text) } else { Text::plain(text) })
    }

    /// The items of a list, of which there may be so many as its shape says; where it allows that, a value alone.
    pub fn items<'p>(&mut self, what: &str, spot: &'p Spot<'p>) -> Option<Vec<Spot<'p>>> {
        let (most, or_one) = match *spot.shape {
            Shape::Texts { most } => (most, true),
            Shape::Command { most } | Shape::Dates { most } | Shape::List { most, .. } => (most, false),
            _ => unreachable!("the table says that {} is a list", spot.path),
        };
        let items: Vec<NodeId> = match self.tree.value(spot.node) {
            Value::List(items) => items.collect(),
            Value::Text { .. } if or_one => return Some(vec![*spot]),
            other => {
                self.expected(what, other, *spot);
                return None;
            }
        };
        if items.is_empty() || items.len() > most {
            let length = items.len();
            return self.refuse(*spot, format!("expected {what}: 1 to {most} of them, found {length}"));
        }
        let shape = if let Shape::List { of, .. } = spot.shape { of } else { spot.shape };
        let item = |(index, node)| Spot { node, path: Path::Item(&spot.path, index), shape };
        Some(items.into_iter().enumerate().map(item).collect())
    }
}
