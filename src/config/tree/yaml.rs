//! YAML text into a tree, from the events of `granit-parser`. What aliases would expand to is bounded meanwhile.

use std::borrow::Cow;
use std::collections::HashMap;

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, ScanError, Span, Tag};

use super::{Kind, Node, NodeId, Tree, narrow};
use crate::config::problem::{Findings, quoted};

/// How deep values may be nested, aliases followed.
pub const MAX_DEPTH: usize = 64;

/// How many values a file may hold, those counted again that an alias repeats.
pub const MAX_VALUES: u64 = 8_000_000;

/// How many bytes the texts of a file may have, those counted again that an alias repeats.
pub const MAX_EXPANDED_BYTES: u64 = 64 << 20;

/// What a value comes to with its aliases followed.
#[derive(Clone, Copy, Default)]
pub(super) struct Extent {
    values: u64,
    bytes: u64,
    depth: usize,
}

impl Extent {
    pub fn add(&mut self, other: Extent) {
        self.values += other.values;
        self.bytes += other.bytes;
        self.depth = self.depth.max(other.depth);
    }

    /// Why it is more than may be held.
    pub fn too_much(&self, holds: &str, have: &str) -> Option<String> {
        if self.values > MAX_VALUES {
            return Some(format!("{holds} more than {MAX_VALUES} values, with aliases followed"));
        }
        let most = MAX_EXPANDED_BYTES >> 20;
        (self.bytes > MAX_EXPANDED_BYTES).then(|| format!("{have} more than {most} MiB, with aliases followed"))
    }
}

/// A list or map whose end has not been seen.
struct Open {
    node: u32,
    anchor: usize,
    extent: Extent,
}

pub(super) struct Builder<'t, 'f> {
    tree: Tree<'t>,
    open: Vec<Open>,
    /// The anchored nodes; no extent while they are open.
    anchors: HashMap<usize, (u32, Option<Extent>)>,
    documents: usize,
    findings: &'f mut Findings,
}

/// The file cannot be read further; why is in the findings.
struct Stop;

impl<'t, 'f> Builder<'t, 'f> {
    pub(super) fn new(tree: Tree<'t>, findings: &'f mut Findings) -> Builder<'t, 'f> {
        Builder { tree, open: Vec::new(), anchors: HashMap::new(), documents: 0, findings }
    }

    pub(super) fn build(mut self) -> Option<Tree<'t>> {
        let options = granit_parser::options! {
            emit_comments: false,
            emit_unresolved_aliases: true,
            flow_nesting_limit: MAX_DEPTH,
            block_nesting_limit: MAX_DEPTH,
        };
        for event in Parser::new_from_str_with_options(self.tree.text, options) {
            let step = match event {
                Ok((event, span)) => self.take(event, span),
                Err(error) => self.refuse_syntax(&error),
            };
            step.ok()?;
        }
        if self.tree.nodes.is_empty() {
            self.push(0, Kind::Source { from: 0, to: 0, plain: true });
        }
        Some(self.tree)
    }

    fn take(&mut self, event: Event<'t>, span: Span) -> Result<(), Stop> {
        let at = span.start.byte_offset().unwrap_or(0);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let is_text = self.check_tag(tag.as_deref(), &span);
                let bytes = text.len() as u64;
                let kind = self.scalar(text, style == ScalarStyle::Plain && !is_text);
                let node = self.push(at, kind);
                self.close(node, anchor, Extent { values: 1, bytes, depth: 1 })
            }
            Event::SequenceStart(_, anchor, tag) => self.enter(at, Kind::List { end: 0 }, anchor, tag, &span),
            Event::MappingStart(_, anchor, tag) => self.enter(at, Kind::Map { end: 0 }, anchor, tag, &span),
            Event::SequenceEnd | Event::MappingEnd => self.leave(),
            Event::Alias(anchor) => self.alias(at, anchor),
            Event::UnresolvedAlias(name) => {
                let message = format!(
                    "{} is read as a YAML alias, and no anchor of that name is above it: put a text that begins with \
                     `*` in quotes",
                    quoted(&format!("*{name}"))
                );
                self.findings.add(at, String::new(), message);
                let node = self.push(at, Kind::Broken);
                self.close(node, 0, Extent { values: 1, bytes: 0, depth: 1 })
            }
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents < 2 {
                    return Ok(());
                }
                self.refuse(at, "a second document begins here (`---`): a configuration is one document".to_owned())
            }
            _ => Ok(()),
        }
    }

    fn push(&mut self, at: usize, kind: Kind) -> u32 {
        let node = narrow(self.tree.nodes.len());
        self.tree.nodes.push(Node { at: narrow(at), kind });
        node
    }

    fn scalar(&mut self, text: Cow<'t, str>, plain: bool) -> Kind {
        let whole = self.tree.text.as_ptr() as usize;
        match text {
            Cow::Borrowed(part) if self.tree.text.as_bytes().as_ptr_range().contains(&part.as_ptr()) => {
                let from = part.as_ptr() as usize - whole;
                Kind::Source { from: narrow(from), to: narrow(from + part.len()), plain }
            }
            made => {
                self.tree.made.push(made.into_owned().into_boxed_str());
                Kind::Made { index: narrow(self.tree.made.len() - 1), plain }
            }
        }
    }

    fn enter(&mut self, at: usize, kind: Kind, anchor: usize, tag: Option<Cow<Tag>>, span: &Span) -> Result<(), Stop> {
        self.check_tag(tag.as_deref(), span);
        let node = self.push(at, kind);
        if anchor != 0 {
            self.anchors.insert(anchor, (node, None));
        }
        self.open.push(Open { node, anchor, extent: Extent { values: 1, bytes: 0, depth: 1 } });
        Ok(())
    }

    fn leave(&mut self) -> Result<(), Stop> {
        let Open { node, anchor, extent } = self.open.pop().expect("the parser pairs starts and ends");
        let after = narrow(self.tree.nodes.len());
        match &mut self.tree.nodes[node as usize].kind {
            Kind::List { end } | Kind::Map { end } => *end = after,
            _ => unreachable!("only lists and maps are opened"),
        }
        self.close(node, anchor, extent)
    }

    fn alias(&mut self, at: usize, anchor: usize) -> Result<(), Stop> {
        match self.anchors.get(&anchor) {
            Some(&(of, Some(extent))) => {
                let node = self.push(at, Kind::Alias { of });
                self.close(node, 0, extent)
            }
            _ => self.refuse(at, "this alias stands inside of what it names: that would never end".to_owned()),
        }
    }

    /// Adds a finished value to the one that it is in.
    fn close(&mut self, node: u32, anchor: usize, extent: Extent) -> Result<(), Stop> {
        if anchor != 0 {
            self.anchors.insert(anchor, (node, Some(extent)));
        }
        let Some(parent) = self.open.last_mut() else {
            self.tree.extent = extent;
            return Ok(());
        };
        parent.extent.values += extent.values;
        parent.extent.bytes += extent.bytes;
        parent.extent.depth = parent.extent.depth.max(extent.depth + 1);
        let at = self.tree.at(NodeId(node));
        if let Some(why) = parent.extent.too_much("the file holds", "the file's texts have") {
            return self.refuse(at, why);
        }
        if parent.extent.depth > MAX_DEPTH {
            return self.refuse(at, format!("values are nested deeper than {MAX_DEPTH} levels, with aliases followed"));
        }
        Ok(())
    }

    /// Whether the tag says that a plain scalar is a text. Tags that mean something else are refused.
    fn check_tag(&mut self, tag: Option<&Tag>, span: &Span) -> bool {
        let Some(tag) = tag else { return false };
        let known = matches!(tag.core_suffix(), Some("str" | "map" | "seq")) || tag.original() == "!";
        if !known {
            let at = span.tag_start.unwrap_or(span.start).byte_offset().unwrap_or(0);
            let message = format!("the YAML tag {} means nothing here: remove it", quoted(&tag.original()));
            self.findings.add(at, String::new(), message);
        }
        known
    }

    fn refuse(&mut self, at: usize, message: String) -> Result<(), Stop> {
        self.findings.add(at, String::new(), message);
        Err(Stop)
    }

    fn refuse_syntax(&mut self, error: &ScanError) -> Result<(), Stop> {
        let text = self.tree.text;
        let at = error.marker().byte_offset().unwrap_or(0).min(text.len());
        // `*/5 * * * *` without quotes is an alias first, and then a syntax error that says less.
        if self.findings.touches_line_of(text, at) {
            return Err(Stop);
        }
        let at_line_start = text[..text.floor_char_boundary(at)].rfind('\n').map_or(0, |end| end + 1);
        let line = text[at_line_start..].lines().next().unwrap_or("");
        let flow_dollar = text[..text.floor_char_boundary(at)].ends_with('$') && text[at..].starts_with('{');
        let message = match advice(error.kind(), line, flow_dollar) {
            Some(advice) => format!("this is not YAML ({}): {advice}", error.info()),
            None => format!("this is not YAML: {}", error.info()),
        };
        self.refuse(at, message)
    }
}

/// What a person most likely meant by a line that is not YAML.
fn advice(kind: &ErrorKind, line: &str, flow_dollar: bool) -> Option<String> {
    if matches!(kind, ErrorKind::RecursionLimitExceeded) {
        return Some(format!("at most {MAX_DEPTH} levels are read"));
    }
    if flow_dollar {
        return Some("inside of `{…}` and `[…]`, put a text with `${…}` in it in quotes".to_owned());
    }
    let indentation = line.len() - line.trim_start().len();
    if line[..indentation].contains('\t') {
        return Some("indent with spaces, YAML does not take tabs".to_owned());
    }
    let value = value_of(line);
    if let Some(first) = value.chars().next().filter(|first| "*@`%&!".contains(*first)) {
        return Some(format!("put a text that begins with `{first}` in quotes"));
    }
    match kind {
        ErrorKind::MappingValueNotAllowed if value.contains(": ") => {
            Some("put a text that has `: ` in it in quotes".to_owned())
        }
        ErrorKind::InvalidQuotedScalarIndent | ErrorKind::UnclosedQuotedScalar => {
            Some("a text in quotes does not end: look for a missing quote here or above".to_owned())
        }
        ErrorKind::ExpectedBlockMappingKey | ErrorKind::InvalidIndentation => {
            Some("indent the keys of one map alike, and put a `:` and a space after each".to_owned())
        }
        _ => None,
    }
}

/// What follows `key:` or `-` on a line.
fn value_of(line: &str) -> &str {
    let item = line.trim_start();
    let item = item.strip_prefix("- ").unwrap_or(item).trim_start();
    item.split_once(": ").map_or(item, |(_, value)| value.trim_start())
}

#[cfg(test)]
mod tests {
    use super::super::Value;
    use super::*;

    fn show(tree: &Tree, id: NodeId) -> String {
        match tree.value(id) {
            Value::Null => "null".into(),
            Value::Text { text, plain } => format!("{}{text}", if plain { "" } else { "'" }),
            Value::List(items) => format!("[{}]", items.map(|id| show(tree, id)).collect::<Vec<_>>().join(",")),
            Value::Map(items) => format!("{{{}}}", items.map(|id| show(tree, id)).collect::<Vec<_>>().join(",")),
            Value::Broken => "!".into(),
        }
    }

    fn read(text: &str) -> Result<String, String> {
        let mut findings = Findings::default();
        let tree = Tree::read(text, &mut findings);
        match tree {
            Some(tree) if findings.is_empty() => Ok(show(&tree, tree.root())),
            _ => Err(findings.locate(text).list()[0].message.clone()),
        }
    }

    #[test]
    fn values_of_every_kind_are_read() {
        let text = "a: [1, 'x', \"y\\n\", ~, ]\nb: &b\n  c: |\n    two\n    lines\nd: *b\ne:\n";
        assert_eq!(read(text).unwrap(), "{a,[1,'x,'y\n,null],b,{c,'two\nlines\n},d,{c,'two\nlines\n},e,null}");
        assert_eq!(read("").unwrap(), "null");
        assert_eq!(read("!!str 1").unwrap(), "'1");
    }

    #[test]
    fn an_alias_in_its_own_anchor_is_refused() {
        assert!(read("&a [*a]").unwrap_err().contains("would never end"));
    }

    #[test]
    fn aliases_that_multiply_are_refused() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
            text.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
        }
        assert!(read(&text).unwrap_err().contains("more than 8000000 values"));
    }

    #[test]
    fn aliases_that_nest_are_refused() {
        let mut text = "a0: &a0 {x: 1}\n".to_owned();
        for level in 1..1000 {
            text.push_str(&format!("a{level}: &a{level} {{<<: *a{}}}\n", level - 1));
        }
        assert!(read(&text).unwrap_err().contains("nested deeper than 64 levels"));
    }

    #[test]
    fn deep_nesting_is_refused() {
        for text in ["[".repeat(20_000), "{a: ".repeat(20_000), "- ".repeat(20_000)] {
            assert!(read(&text).unwrap_err().contains("64 levels"), "{:?}", read(&text));
        }
    }
}
