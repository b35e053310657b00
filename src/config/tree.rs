//! YAML values as a compact tree in which every value knows its place.
//!
//! A node is 16 bytes and borrows its text from the file, so that the tree of a file of 100,000 jobs stays small; lines
//! and columns are only computed for what is wrong. Aliases are followed, not copied.

mod yaml;

pub use yaml::{MAX_DEPTH, MAX_EXPANDED_BYTES, MAX_VALUES};

use super::problem::{Findings, Part};
use yaml::{Builder, Extent};

/// A value's place in the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeId(u32);

#[derive(Clone, Copy)]
struct Node {
    /// The byte at which it begins.
    at: u32,
    kind: Kind,
}

const _: () = assert!(size_of::<Node>() == 16, "a file of 32 MiB can have millions of them");

#[derive(Clone, Copy)]
enum Kind {
    /// A text that stands in the file as it is.
    Source {
        from: u32,
        to: u32,
        plain: bool,
    },
    /// A text that had to be put together (escapes, folded lines): an index of `Tree::made`.
    Made {
        index: u32,
        plain: bool,
    },
    /// Its items, or its keys and values in turn, are the nodes from the next one up to `end`.
    List {
        end: u32,
    },
    Map {
        end: u32,
    },
    Alias {
        of: u32,
    },
    /// Something that was reported when the tree was built.
    Broken,
}

/// A value, aliases followed.
#[derive(Clone, Copy, Debug)]
pub enum Value<'t> {
    Null,
    Text {
        text: &'t str,
        plain: bool,
    },
    List(Children<'t>),
    Map(Children<'t>),
    /// Already reported: not to be reported again.
    Broken,
}

/// The YAML values of a file.
pub struct Tree<'t> {
    text: &'t str,
    nodes: Vec<Node>,
    made: Vec<Box<str>>,
    /// What the outermost value comes to.
    extent: Extent,
}

impl<'t> Tree<'t> {
    /// Reads `text`; `None` where it cannot be read as one YAML document, which is then in `findings`.
    pub fn read(text: &'t str, findings: &mut Findings) -> Option<Tree<'t>> {
        Builder::new(Tree { text, nodes: Vec::new(), made: Vec::new(), extent: Extent::default() }, findings).build()
    }

    /// One text.
    pub fn of_text(text: &'t str) -> Tree<'t> {
        let kind = Kind::Source { from: 0, to: narrow(text.len()), plain: true };
        Tree { text, nodes: vec![Node { at: 0, kind }], made: Vec::new(), extent: Extent::default() }
    }

    /// The tree of several files, whose texts are `text`, and the outermost value of each; what is wrong is in `findings`.
    pub fn of_parts(text: &'t str, parts: &[Part], findings: &mut Findings) -> Option<(Tree<'t>, Vec<NodeId>)> {
        let mut whole = Tree { text, nodes: Vec::new(), made: Vec::new(), extent: Extent::default() };
        let (mut roots, mut is_read) = (Vec::new(), true);
        let ends = parts.iter().skip(1).map(|part| part.begin).chain([text.len()]);
        for (part, end) in parts.iter().zip(ends) {
            let (mut own, text) = (Findings::default(), &text[part.begin..end]);
            match Tree::read(text, &mut own) {
                Some(tree) => roots.push(whole.add(tree, part.begin)),
                None => is_read = false,
            }
            findings.take(own, part.begin, text.len());
            if let Some(why) = whole.extent.too_much("the files hold", "the files' texts have") {
                findings.add(part.begin, String::new(), why);
                return None;
            }
        }
        is_read.then_some((whole, roots))
    }

    /// Adds the values of a file that begins at the byte `begin` of the text.
    fn add(&mut self, other: Tree, begin: usize) -> NodeId {
        let (root, made, begin) = (narrow(self.nodes.len()), narrow(self.made.len()), narrow(begin));
        // What is missing at the end of a file is not in the next one.
        let last = narrow(other.text.len().saturating_sub(1));
        let moved = |Node { at, kind }: Node| {
            let kind = match kind {
                Kind::Source { from, to, plain } => Kind::Source { from: from + begin, to: to + begin, plain },
                Kind::Made { index, plain } => Kind::Made { index: index + made, plain },
                Kind::List { end } => Kind::List { end: end + root },
                Kind::Map { end } => Kind::Map { end: end + root },
                Kind::Alias { of } => Kind::Alias { of: of + root },
                Kind::Broken => Kind::Broken,
            };
            Node { at: at.min(last) + begin, kind }
        };
        self.nodes.extend(other.nodes.into_iter().map(moved));
        self.made.extend(other.made);
        self.extent.add(other.extent);
        NodeId(root)
    }

    /// The line of a value among those from the byte `begin` on, from 1.
    pub fn line(&self, id: NodeId, begin: usize) -> usize {
        self.text[begin..self.at(id)].matches('\n').count() + 1
    }

    /// The outermost value.
    pub fn root(&self) -> NodeId {
        NodeId(0)
    }

    /// The byte of the file at which a value begins.
    pub fn at(&self, id: NodeId) -> usize {
        self.nodes[id.0 as usize].at as usize
    }

    /// The byte of the file that is the byte `inner` of the text `id`; the value's first one, if that is unknown.
    pub fn at_within(&self, id: NodeId, inner: usize) -> usize {
        let target = self.target(id) as usize;
        match self.nodes[target].kind {
            Kind::Source { from, .. } => from as usize + inner,
            Kind::Made { index, .. } => {
                let (begin, made) = (self.nodes[target].at as usize, &self.made[index as usize]);
                made_from(self.text, begin, made, inner).unwrap_or(self.at(id))
            }
            _ => self.at(id),
        }
    }

    /// What a value is.
    pub fn value(&self, id: NodeId) -> Value<'_> {
        let first = self.target(id);
        let children = |end| Children { tree: self, next: first + 1, end };
        match self.nodes[first as usize].kind {
            Kind::Source { from, to, plain } => text_or_null(&self.text[from as usize..to as usize], plain),
            Kind::Made { index, plain } => text_or_null(&self.made[index as usize], plain),
            Kind::List { end } => Value::List(children(end)),
            Kind::Map { end } => Value::Map(children(end)),
            Kind::Alias { .. } => unreachable!("an alias names an anchored value, and an alias cannot have an anchor"),
            Kind::Broken => Value::Broken,
        }
    }

    fn target(&self, id: NodeId) -> u32 {
        match self.nodes[id.0 as usize].kind {
            Kind::Alias { of } => of,
            _ => id.0,
        }
    }
}

/// Where in `file`, in which the value that became `made` begins at `begin`, the byte `inner` of `made` stands. A
/// literal block has the lines of the file, each without its indentation. In a text that is folded or escaped it is
/// found by the `$` characters: as many of them are before it there as here.
fn made_from(file: &str, begin: usize, made: &str, inner: usize) -> Option<usize> {
    let before = made.get(..inner)?;
    // It begins at its first line that is not empty.
    let empty = made.bytes().take_while(|byte| *byte == b'\n').count();
    let number = before.matches('\n').count().checked_sub(empty)?;
    let line = made.split('\n').nth(empty + number)?;
    let column = inner - before.rfind('\n').map_or(0, |end| end + 1);
    let mut start = file[..begin].rfind('\n').map_or(0, |end| end + 1);
    for _ in 0..number {
        start += file[start..].find('\n')? + 1;
    }
    let written = file[start..].split('\n').next()?.trim_end_matches('\r');
    if let Some(indentation) = written.strip_suffix(line).filter(|indentation| indentation.trim().is_empty()) {
        return Some(start + indentation.len() + column);
    }
    let dollars = made[inner..].starts_with('$').then(|| before.matches('$').count())?;
    file[begin..].match_indices('$').nth(dollars).map(|(at, _)| begin + at)
}

/// A plain scalar may be no text but nothing: <https://yaml.org/spec/1.2.2/#1032-tag-resolution>.
fn text_or_null(text: &str, plain: bool) -> Value<'_> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" if plain => Value::Null,
        _ => Value::Text { text, plain },
    }
}

/// The values directly in a list or map.
#[derive(Clone, Copy)]
pub struct Children<'t> {
    tree: &'t Tree<'t>,
    next: u32,
    end: u32,
}

impl std::fmt::Debug for Children<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}..{}", self.next, self.end)
    }
}

impl Iterator for Children<'_> {
    type Item = NodeId;
    fn next(&mut self) -> Option<NodeId> {
        let id = (self.next < self.end).then_some(self.next)?;
        self.next = match self.tree.nodes[id as usize].kind {
            Kind::List { end } | Kind::Map { end } => end,
            _ => id + 1,
        };
        Some(NodeId(id))
    }
}

/// Positions and counts in a file that is far smaller than 4 GiB.
fn narrow(number: usize) -> u32 {
    u32::try_from(number).expect("the size of a file is checked before it is read")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_text_is_borrowed_from_the_file() {
        let mut findings = Findings::default();
        let tree = Tree::read("a: bc d\n\"é\": 'f'\n", &mut findings).unwrap();
        assert!(tree.made.is_empty());
        assert_eq!(tree.at_within(NodeId(2), 3), 6);
    }

    #[test]
    fn a_place_within_a_block_is_one_of_its_own_line() {
        let text = "a: |\n  b\n\n    c $x\nd: >-\n  e\n  $y f\n  ${z}\n";
        let mut findings = Findings::default();
        let tree = Tree::read(text, &mut findings).unwrap();
        let place = |value: u32, part: &str| {
            let Value::Text { text: made, .. } = tree.value(NodeId(value)) else { panic!("a text") };
            tree.at_within(NodeId(value), made.find(part).unwrap())
        };
        for (value, part) in [(2, "b\n"), (2, "c $x"), (2, "$x"), (4, "$y"), (4, "${z}")] {
            assert_eq!(place(value, part), text.find(part).unwrap(), "{part}");
        }
        assert_eq!(place(4, "f"), text.find("e\n  $y").unwrap(), "of a folded line nothing better is known");
    }
}
