//! What the library promises to those who build on it: its public items, as they stand in `tests/api.txt`.
//!
//! A removed or changed line there breaks somebody's program: it takes a new minor version, and an entry in CHANGELOG.md.
//! `UPDATE=1 cargo test --test api` writes the list anew. It is made from the source as rustfmt leaves it: an item begins
//! on a line of its own, and what is inside of it is indented.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The modules that are the library. The rest is public for the program and its tests.
const LIBRARY: &[&str] = &["client", "elected", "fence", "guard", "jobs", "lock", "store", "time"];

#[test]
fn what_is_public_is_what_is_listed() {
    let mut found = String::new();
    for module in LIBRARY {
        let api = Api::of(module);
        for line in api.lines() {
            writeln!(found, "{line}").expect("a String takes all that is written");
        }
    }
    let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/api.txt");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&list, &found).unwrap();
    }
    let listed = fs::read_to_string(&list).unwrap_or_default();
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let (listed, found) = (lines(&listed), lines(&found));
    let report =
        |sign: char, lines: Vec<&String>| lines.iter().map(|line| format!("{sign} {line}\n")).collect::<String>();
    let gone = report('-', listed.difference(&found).collect());
    let new = report('+', found.difference(&listed).collect());
    assert!(gone.is_empty() && new.is_empty(), "\n{gone}{new}is it meant? then UPDATE=1 cargo test --test api");
}

#[test]
fn items_are_found_with_all_that_is_public_of_them() {
    let source = "\
#[derive(Clone)]
pub struct Shown<S> {
    pub field: S,
    hidden: u8,
}

pub(crate) struct Hidden(u8);

pub enum Kind {
    /// One.
    One(u8),
    Two {
        inner: u8,
    },
}

impl<S: Store> Shown<S> {
    pub async fn long(
        &self,
        more: Vec<u8>,
    ) -> Result<(), Error> {
        let text = \"pub fn none() {\";
        work(text)
    }

    fn hidden(&self) {}
}

impl fmt::Display for Shown<u8> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    pub fn none() {}
}
";
    let texts: Vec<_> = items(source).into_iter().map(|item| item.text).collect();
    assert_eq!(
        texts,
        [
            "#[derive(Clone)] pub struct Shown<S>",
            "Shown { pub field: S }",
            "pub enum Kind",
            "Kind::One(u8)",
            "Kind::Two { inner: u8 }",
            "Shown: pub async fn long(&self, more: Vec<u8>) -> Result<(), Error>",
            "impl fmt::Display for Shown<u8>",
        ]
    );
}

/// An item, and the name by which others reach it: its own, or that of the type which it belongs to.
struct Item {
    owner: String,
    text: String,
}

/// The public items of one top-level module and of all that it has inside.
struct Api {
    items: Vec<(String, Item)>,
    /// What is exported, wherever it is written.
    exported: BTreeSet<String>,
}

impl Api {
    fn of(module: &str) -> Api {
        let mut api = Api { items: Vec::new(), exported: BTreeSet::new() };
        api.walk(module, None);
        api
    }

    /// `names`: what the modules around export of this one; `None`: all, since it is public itself.
    fn walk(&mut self, module: &str, names: Option<&BTreeSet<String>>) {
        let path = file_of(module);
        let Ok(source) = fs::read_to_string(&path) else { return };
        let is_exported = |name: &str| names.is_none_or(|names| names.contains(name));
        for item in items(&source) {
            if !item.text.starts_with("impl ")
                && is_exported(&item.owner)
                && item.text.contains("pub ")
                && !item.text.contains(": pub")
            {
                self.exported.insert(item.owner.clone());
            }
            self.items.push((module.to_owned(), item));
        }
        let uses = uses(&source);
        for (child, is_public) in modules(&source) {
            let of_child = uses.get(&child).cloned().unwrap_or_default();
            let of_child = of_child.into_iter().filter(|name| is_exported(name)).collect();
            self.walk(&format!("{module}::{child}"), if is_public && names.is_none() { None } else { Some(&of_child) });
        }
    }

    fn lines(&self) -> BTreeSet<String> {
        let shown = self.items.iter().filter(|(_, item)| self.exported.contains(&item.owner));
        shown.map(|(module, item)| format!("{module} {}", item.text)).collect()
    }
}

fn file_of(module: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(format!("{}.rs", module.replace("::", "/")))
}

/// The modules that a file declares, and whether each is public.
fn modules(source: &str) -> Vec<(String, bool)> {
    let declared = source.lines().filter_map(|line| {
        let is_public = line.starts_with("pub mod ");
        let name = line.strip_prefix("pub mod ").or_else(|| line.strip_prefix("mod "))?.strip_suffix(';')?;
        (name != "tests").then(|| (name.to_owned(), is_public))
    });
    declared.collect()
}

/// The names that a file exports of each module inside of it.
fn uses(source: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut uses = BTreeMap::<_, BTreeSet<_>>::new();
    for (at, _) in source.match_indices("\npub use ") {
        let text = source[at + "\npub use ".len()..].split(';').next().unwrap_or_default();
        let text = text.strip_prefix("self::").unwrap_or(text);
        let Some((module, names)) = text.split_once("::") else { continue };
        let names = names.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|name| !name.is_empty());
        uses.entry(module.to_owned()).or_default().extend(names.map(str::to_owned));
    }
    uses
}

/// The public items of a file, in its order.
fn items(source: &str) -> Vec<Item> {
    let lines: Vec<&str> = source.lines().collect();
    let (mut items, mut at, mut attributes) = (Vec::new(), 0, String::new());
    while at < lines.len() {
        let line = lines[at];
        if line == "#[cfg(test)]" {
            at = end_of_block(&lines, at + 1) + 1;
            continue;
        }
        if let Some(attribute) =
            ["#[derive(", "#[non_exhaustive]", "#[cfg("].iter().find(|start| line.starts_with(**start))
        {
            let (text, end) = if *attribute == "#[derive(" { joined(&lines, at, ")]") } else { (line.to_owned(), at) };
            attributes += &format!("{text} ");
            at = end + 1;
            continue;
        }
        let end = at + item(&lines, at, &attributes, &mut items);
        if !line.starts_with("#[") && !line.starts_with("//") {
            attributes.clear();
        }
        at = end;
    }
    items
}

/// Puts the item that begins at line `at` among `items`; answers how many lines it has.
fn item(lines: &[&str], at: usize, attributes: &str, items: &mut Vec<Item>) -> usize {
    let line = lines[at];
    let is_impl = line.starts_with("impl ") || line.starts_with("impl<");
    if !is_impl && !line.starts_with("pub ") || line.starts_with("pub mod ") || line.starts_with("pub use ") {
        return 1;
    }
    let (header, end) = joined(lines, at, "");
    let block =
        if header.ends_with('{') && !lines[end].trim_end().ends_with('}') { end_of_block(lines, end) } else { end };
    let text = header.trim_end_matches(['{', ';', ' ']).to_owned();
    let has_value =
        ["pub const ", "pub static ", "pub type "].iter().any(|start| text.starts_with(start)) && !text.contains("fn ");
    let text = if has_value { text.split(" = ").next().unwrap_or_default() } else { &text };
    // What a struct hides is its own.
    let hides = text.contains("struct ") && !text.contains("(pub ");
    let text = if hides { text.split('(').next().unwrap_or_default() } else { text }.to_owned();
    if is_impl {
        let owner = owner_of_impl(&text);
        if text.contains(" for ") {
            items.push(Item { owner, text });
        } else {
            members(lines, end + 1..block, "pub ", &format!("{owner}: "), &owner, items);
        }
    } else {
        let mut words = text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty());
        let keyword =
            words.find(|word| ["struct", "enum", "trait", "fn", "const", "type", "static", "union"].contains(word));
        let keyword = match (keyword, text.contains(" fn ")) {
            (_, true) => "fn",
            (keyword, _) => keyword.unwrap_or_default(),
        };
        let after = text.split_once(&format!("{keyword} ")).map_or("", |(_, after)| after);
        let owner: String = after.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        items.push(Item { owner: owner.clone(), text: format!("{attributes}{text}") });
        match keyword {
            "struct" if header.ends_with('{') => {
                let before = items.len();
                members(lines, end + 1..block, "pub ", "", &owner, items);
                items[before..].iter_mut().for_each(|item| item.text = format!("{owner} {{ {} }}", item.text));
            }
            "enum" => members(lines, end + 1..block, "", &format!("{owner}::"), &owner, items),
            "trait" => members(lines, end + 1..block, "", &format!("{owner}: "), &owner, items),
            _ => {}
        }
    }
    block + 1 - at
}

/// What is one step inside of an item and begins with `start`.
fn members(lines: &[&str], within: Range<usize>, start: &str, prefix: &str, owner: &str, items: &mut Vec<Item>) {
    let mut at = within.start;
    while at < within.end {
        let Some(member) = lines[at].strip_prefix("    ").filter(|rest| !rest.starts_with(' ') && !rest.is_empty())
        else {
            at += 1;
            continue;
        };
        if member.starts_with("//") || member.starts_with("#[") {
            at += 1;
            continue;
        }
        let (header, end) = joined(lines, at, "");
        let is_block = header.ends_with('{') && !header.ends_with("{}");
        let block = if is_block { end_of_block(lines, end) } else { end };
        if member.starts_with(start) {
            let text = if is_block && !header.contains("fn ") {
                let inside =
                    lines[end + 1..block].iter().map(|line| line.trim()).filter(|line| !line.starts_with("//"));
                let inside: Vec<_> = inside.collect();
                format!("{header} {} }}", inside.join(" ").trim_end_matches(','))
            } else {
                header.trim_end_matches(['{', ';', ',', ' ']).to_owned()
            };
            items.push(Item { owner: owner.to_owned(), text: format!("{prefix}{text}") });
        }
        at = block + 1;
    }
}

/// The lines from `at` on as one, up to where the header of the item ends, or to a line that ends in `until`.
fn joined(lines: &[&str], at: usize, until: &str) -> (String, usize) {
    let (mut text, mut end) = (String::new(), at);
    loop {
        let line = lines[end].trim();
        let separator = if text.is_empty() || text.ends_with('(') || line.starts_with([')', '>']) { "" } else { " " };
        if line.starts_with(')') {
            text.truncate(text.trim_end_matches(',').len());
        }
        text = format!("{text}{separator}{line}");
        let depth = |open: char, close: char| text.matches(open).count().saturating_sub(text.matches(close).count());
        let is_whole = match until {
            "" if text.contains(" where") => line.ends_with(['{', ';']),
            "" => depth('(', ')') == 0 && depth('[', ']') == 0 && line.ends_with(['{', ';', ',', '}']),
            until => line.ends_with(until),
        };
        if is_whole || end + 1 == lines.len() {
            break;
        }
        end += 1;
    }
    // A body on the same line is not of the interface.
    let text = match text.split_once(" { ") {
        Some((header, _)) if text.contains("fn ") && text.ends_with('}') => header.to_owned(),
        _ => text.trim_end_matches("{}").trim_end().to_owned(),
    };
    (text, end)
}

/// Where what begins at line `at` ends: at the closing brace of the same indentation.
fn end_of_block(lines: &[&str], at: usize) -> usize {
    let mut first = at;
    while lines[first].trim_start().starts_with("#[") {
        first += 1;
    }
    if !lines[first..].iter().take(8).any(|line| line.ends_with('{')) || lines[first].ends_with(';') {
        return first;
    }
    let opened = (first..lines.len()).find(|line| lines[*line].ends_with('{')).unwrap_or(first);
    let indentation = lines[first].len() - lines[first].trim_start().len();
    let closing = format!("{}}}", " ".repeat(indentation));
    (opened + 1..lines.len()).find(|line| lines[*line].starts_with(&closing)).unwrap_or(opened)
}

/// The type that an `impl` is of.
fn owner_of_impl(header: &str) -> String {
    let rest = header.trim_start_matches("impl");
    let rest = if rest.starts_with('<') { after_generics(rest) } else { rest };
    let of = rest.split_once(" for ").map_or(rest, |(_, of)| of).trim();
    let path: String =
        of.trim_start_matches('&').chars().take_while(|c| c.is_alphanumeric() || "_:".contains(*c)).collect();
    path.rsplit("::").next().unwrap_or_default().to_owned()
}

fn after_generics(text: &str) -> &str {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            '<' => depth += 1,
            '>' if !text[..at].ends_with('-') => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return &text[at + 1..];
        }
    }
    text
}
