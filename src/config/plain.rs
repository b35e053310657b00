//! YAML, and so JSON, that is no jobs file: as values that know their lines.

use super::problem::Findings;
use super::tree::{NodeId, Tree, Value};

/// The most values of one document, aliases followed.
const MOST: usize = 1_000_000;

/// A value, and the line at which it begins, from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub line: usize,
    pub plain: Plain,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Plain {
    Null,
    Text(String),
    List(Vec<Node>),
    /// Each key with its line.
    Map(Vec<(String, usize, Node)>),
}

impl Node {
    /// The value of a key, if this is a map that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|(_, node)| node)
    }

    /// The same with the line of the key.
    pub fn entry(&self, key: &str) -> Option<(usize, &Node)> {
        self.entries().iter().find(|(known, ..)| known == key).map(|(_, line, node)| (*line, node))
    }

    pub fn entries(&self) -> &[(String, usize, Node)] {
        if let Plain::Map(entries) = &self.plain { entries } else { &[] }
    }

    pub fn items(&self) -> &[Node] {
        if let Plain::List(items) = &self.plain { items } else { &[] }
    }

    /// The line at which the last thing in it begins.
    pub fn last_line(&self) -> usize {
        let inner = match &self.plain {
            Plain::List(items) => items.iter().map(Node::last_line).max(),
            Plain::Map(entries) => entries.iter().map(|(_, line, node)| node.last_line().max(*line)).max(),
            Plain::Null | Plain::Text(_) => None,
        };
        inner.unwrap_or(0).max(self.line)
    }

    pub fn text(&self) -> Option<&str> {
        if let Plain::Text(text) = &self.plain { Some(text) } else { None }
    }
}

/// Reads one document.
///
/// # Errors
///
/// The first thing that is wrong with it, with its line.
pub(crate) fn read(text: &str) -> Result<Node, (usize, String)> {
    let mut findings = Findings::default();
    let tree = Tree::read(text, &mut findings);
    let problems = findings.locate(text);
    if let Some(problem) = problems.list().first() {
        return Err((problem.line, problem.message.clone()));
    }
    let Some(tree) = tree else { return Err((1, "it cannot be read".to_owned())) };
    let begins: Vec<usize> =
        std::iter::once(0).chain(text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at + 1)).collect();
    let mut copy = Copy { tree: &tree, begins: &begins, left: MOST };
    copy.node(tree.root()).ok_or_else(|| (1, format!("it has more than {MOST} values")))
}

struct Copy<'t> {
    tree: &'t Tree<'t>,
    begins: &'t [usize],
    left: usize,
}

impl Copy<'_> {
    fn line(&self, id: NodeId) -> usize {
        self.begins.partition_point(|begin| *begin <= self.tree.at(id))
    }

    fn node(&mut self, id: NodeId) -> Option<Node> {
        self.left = self.left.checked_sub(1)?;
        let plain = match self.tree.value(id) {
            Value::Null | Value::Broken => Plain::Null,
            Value::Text { text, .. } => Plain::Text(text.to_owned()),
            Value::List(items) => Plain::List(items.map(|item| self.node(item)).collect::<Option<_>>()?),
            Value::Map(mut children) => {
                let mut entries = Vec::new();
                while let (Some(key), Some(value)) = (children.next(), children.next()) {
                    let name = match self.tree.value(key) {
                        Value::Text { text, .. } => text.to_owned(),
                        _ => String::new(),
                    };
                    entries.push((name, self.line(key), self.node(value)?));
                }
                Plain::Map(entries)
            }
        };
        Some(Node { line: self.line(id), plain })
    }
}
