//! Walking the tree by the table of keys: each value read as its key's shape, whatever is wrong noted on the way.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

use super::fill::{Filled, Sources, fill};
use super::keys::{self, Key, Shape};
use super::problem::{Findings, quoted};
use super::tree::{NodeId, Tree, Value};
use crate::job::Text;
use crate::time::{parse_duration, written};

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

/// An entry of a map: the key's node and text, and the value's node.
#[derive(Clone, Copy)]
pub struct Entry<'t> {
    pub key: NodeId,
    pub name: &'t str,
    pub value: NodeId,
}

/// A map that has been held against its tables.
pub struct Fields<'p> {
    tables: &'static [&'static [Key]],
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
        let node = self.found[index]?;
        Some(Spot { node, path: Path::Key(self.path, key.name), shape: &key.shape })
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
    /// Errors.
    pub wrong: Findings,
    /// What can be done as it is written, but is probably not meant.
    pub odd: Findings,
    /// How many values were left open: see [`Sources::open`].
    pub left_open: usize,
    /// What is done as the file has it, and worth saying.
    pub told: Findings,
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
        Walk { tree, sources, wrong: none(), odd: none(), told: none(), left_open: 0, guesses: 0, filled_bytes: 0 }
    }

    /// The name that `filled` probably is a misspelling of.
    pub fn guess<'a>(&mut self, filled: &Filled, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
        if self.may_guess(filled) { keys::nearest(&filled.text, names) } else { None }
    }

    /// Whether what was meant by `filled` is to be looked for once more.
    pub fn may_guess(&mut self, filled: &Filled) -> bool {
        self.guesses = self.guesses.saturating_add(1);
        !filled.secret && self.guesses <= MAX_GUESSES
    }

    /// Notes an error about a value.
    pub fn wrong(&mut self, spot: Spot, message: String) {
        self.wrong_at(spot.node, spot.path, message);
    }

    pub fn wrong_at(&mut self, node: NodeId, path: Path, message: String) {
        self.wrong.add(self.tree.at(node), path.to_string(), message);
    }

    /// Notes what is worth saying about a value.
    pub fn told(&mut self, spot: Spot, message: String) {
        self.told.add(self.tree.at(spot.node), spot.path.to_string(), message);
    }

    /// Notes a warning about a value.
    pub fn odd(&mut self, spot: Spot, message: String) {
        self.odd_at(spot.node, spot.path, message);
    }

    pub fn odd_at(&mut self, node: NodeId, path: Path, message: String) {
        self.odd.add(self.tree.at(node), path.to_string(), message);
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
        self.collect(spot, &mut entries, &mut names).then_some(entries)
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
                    self.wrong(spot, format!("what `${{…}}` stands for up to here is more than {most} MiB in all"));
                    return None;
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
            self.wrong(spot, "a text for a program cannot have a NUL character in it".to_owned());
            return None;
        }
        if text.len() > keys::MAX_TEXT_BYTES {
            let most = keys::MAX_TEXT_BYTES;
            self.wrong(spot, format!("this text has {} bytes: a program takes at most {most} in one", text.len()));
            return None;
        }
        Some(if secret { Text::secret(text) } else { Text::plain(text) })
    }

    /// The spots of a list of 1 to `most` items; with `or_one`, of a value alone as well.
    pub fn items<'p>(&mut self, what: &str, spot: &'p Spot<'p>, most: usize, or_one: bool) -> Option<Vec<Spot<'p>>> {
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
            self.wrong(*spot, format!("expected {what}: 1 to {most} of them, found {length}"));
            return None;
        }
        let item = |(index, node)| Spot { node, path: Path::Item(&spot.path, index), ..*spot };
        Some(items.into_iter().enumerate().map(item).collect())
    }

    /// One of the words of the table, as its index there.
    pub fn word(&mut self, spot: Spot) -> Option<usize> {
        let Shape::Word(words) = spot.shape else { unreachable!("the table says that {} is a word", spot.path) };
        let known = || words.iter().copied();
        let what = format!("one of {}", keys::list(known()).replace(" and ", " or "));
        let filled = self.known(&what, spot)?;
        let index = words.iter().position(|word| *word == filled.text);
        if index.is_none() {
            let meant = keys::nearest(&filled.text, known()).filter(|_| !filled.secret);
            let meant = meant.map_or(String::new(), |meant| format!(": did you mean `{meant}`?"));
            self.wrong(spot, format!("expected {what}, found {}{meant}", filled.shown()));
        }
        index
    }

    /// A whole number within the bounds of the table.
    pub fn count(&mut self, spot: Spot) -> Option<u32> {
        let &Shape::Count { least, most } = spot.shape else {
            unreachable!("the table says that {} is a number", spot.path)
        };
        self.read("a whole number", spot, |text| match text.parse::<u32>() {
            Ok(number) if (least..=most).contains(&number) => Ok(number),
            _ => Err(format!("is not a whole number from {least} to {most}")),
        })
    }

    /// A duration within the bounds of the table; `None` inside where `none` stands for no bound.
    pub fn duration_or_none(&mut self, spot: Spot) -> Option<Option<Duration>> {
        let &Shape::Duration { least, most, or_none } = spot.shape else {
            unreachable!("the table says that {} is a duration", spot.path)
        };
        self.read("a duration", spot, |text| match text {
            "none" if or_none => Ok(None),
            _ => duration_within(text, least, most).map(Some).map_err(|why| {
                let or_none = if or_none { " (or `none`)" } else { "" };
                format!("{why}{or_none}")
            }),
        })
    }

    /// A duration within the bounds of the table.
    pub fn duration(&mut self, spot: Spot) -> Option<Duration> {
        self.duration_or_none(spot).flatten()
    }

    /// The time from one start to the next at a rate like `5/s`.
    pub fn rate(&mut self, spot: Spot) -> Option<Duration> {
        self.read("a rate", spot, parse_rate)
    }
}

fn duration_within(text: &str, least: Duration, most: Duration) -> Result<Duration, String> {
    let duration = parse_duration(text).map_err(|why| why.to_string())?;
    if duration < least || duration > most {
        let [least, most] = [least, most].map(written);
        return Err(format!("is out of bounds: give a duration from {least} to {most}"));
    }
    Ok(duration)
}

fn parse_rate(text: &str) -> Result<Duration, String> {
    let how = || "is not a rate: write how many per second, minute or hour, like `5/s`, `30/m` or `100/h`".to_owned();
    let (number, unit) = text.split_once('/').ok_or_else(how)?;
    let number: u32 = number.trim().parse().map_err(|_| how())?;
    let seconds = match unit.trim() {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        _ => return Err(how()),
    };
    let per_second = number.div_ceil(seconds);
    if number == 0 || per_second > keys::MAX_RATE_PER_SECOND {
        return Err(format!("is out of bounds: give a rate above 0 and up to {}/s", keys::MAX_RATE_PER_SECOND));
    }
    Ok(Duration::from_secs(u64::from(seconds)) / number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_within_bounds() {
        let parse = |text| duration_within(text, Duration::from_secs(1), Duration::from_secs(86_400));
        assert_eq!(parse("1h 30m"), Ok(Duration::from_secs(5_400)));
        assert!(parse("30").unwrap_err().contains("without a unit"));
        assert!(parse("2d").unwrap_err().contains("1s to 1d"));
        assert!(parse("soon").unwrap_err().contains("1h 30m"));
        assert!(parse("").is_err());
    }

    #[test]
    fn rates_are_read_as_the_time_between_starts() {
        assert_eq!(parse_rate("5/s"), Ok(Duration::from_millis(200)));
        assert_eq!(parse_rate("30/m"), Ok(Duration::from_secs(2)));
        for text in ["", "5", "0/s", "-1/s", "5/d", "1001/s", "4000000000/h", "/"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }
}
