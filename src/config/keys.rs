//! The keys of `jobs.yaml`: each once, with its meaning, its values, its default, and the place that it is read into.
//!
//! The decoder, its suggestions for misspelt keys and the JSON Schema all come from the tables of such keys.

use std::time::Duration;

use super::draft::Draft;
use super::tables::{DEFAULTS, OWN, POLICIES, TOP};
use super::values::Place;
use super::walk::{Spot, Walk};
use crate::job::Task;

/// The keys of one map.
pub type Tables = &'static [&'static [Key]];

/// One key that a map may have.
pub struct Key {
    pub name: &'static str,
    /// Its meaning, in a sentence: the description in the schema.
    pub about: &'static str,
    pub shape: Shape,
    /// The value of a key that is not given, as one would write it: it is read as if it were.
    pub default: Option<&'static str>,
    /// What other schedulers call it, with blanks between the names: leads to a suggestion.
    pub also: &'static str,
    pub goes: Goes,
    pub needs: Option<Needs>,
}

/// What the value of a key is read into.
#[derive(Clone, Copy)]
pub enum Goes {
    /// Nothing yet: the reader of the map looks for the key by its name.
    Apart,
    /// This place of the draft.
    To(fn(&mut Draft) -> &mut dyn Place),
    /// It is a map, and each of its keys has a place of its own.
    InParts,
    /// The task.
    Task(fn(&mut Walk, Spot, &mut Draft) -> Option<Task>),
}

/// What a job must have for a key to have a meaning.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// A task that starts a process.
    Process,
    /// A schedule.
    Schedule,
}

/// What values a key takes.
pub enum Shape {
    /// The number 1.
    Version,
    /// The name of a job, a namespace or a calendar.
    Name,
    /// Any text.
    Text,
    /// The path of a directory.
    Directory,
    /// A line of text, at most so many characters, with none of these in it.
    Line {
        most: usize,
        without: &'static str,
    },
    /// The URL of a page.
    Link,
    /// Any value.
    Any,
    /// A list of at least one text: a program and its arguments.
    Command {
        most: usize,
    },
    /// A text, or a list of at least one.
    Texts {
        most: usize,
    },
    /// A list of at least one text.
    Dates {
        most: usize,
    },
    /// An IANA time zone.
    Zone,
    /// One of these words: those of an enum.
    Word(fn() -> Vec<&'static str>),
    Count {
        least: u32,
        most: u32,
    },
    /// A duration; `none` where `or_none`.
    Duration {
        least: Duration,
        most: Duration,
        or_none: bool,
    },
    /// So many bytes, with a unit.
    Bytes {
        least: u64,
        most: u64,
    },
    /// So many per `s`, `m` or `h`.
    Rate,
    /// A text that a type of its own reads.
    Form {
        pattern: &'static str,
    },
    /// A list of at least one value of one shape.
    List {
        of: &'static Shape,
        most: usize,
    },
    /// A map with the keys of these tables.
    Map(Tables),
    /// The same, or the value of its key `key` alone.
    MapOr {
        key: &'static str,
        of: Tables,
    },
    /// A map from names to values of one shape.
    Named {
        of: &'static Shape,
        most: usize,
        /// What a message says of more, behind their number and in front of the most.
        too_many: &'static str,
    },
}

pub(super) const MILLISECOND: Duration = Duration::from_millis(1);
pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const HOUR: Duration = Duration::from_secs(3_600);
pub(super) const DAY: Duration = Duration::from_secs(86_400);

pub(super) const KIB: u64 = 1 << 10;
pub(super) const TIB: u64 = 1 << 40;

pub(super) const fn key(name: &'static str, shape: Shape, about: &'static str) -> Key {
    Key { name, about, shape, default: None, also: "", goes: Goes::Apart, needs: None }
}

impl Key {
    pub(super) const fn default(self, default: &'static str) -> Key {
        Key { default: Some(default), ..self }
    }

    pub(super) const fn also(self, also: &'static str) -> Key {
        Key { also, ..self }
    }

    /// Its value is read into this place.
    pub(super) const fn to(self, place: fn(&mut Draft) -> &mut dyn Place) -> Key {
        Key { goes: Goes::To(place), ..self }
    }

    /// Its value is a map whose keys have places.
    pub(super) const fn in_parts(self) -> Key {
        Key { goes: Goes::InParts, ..self }
    }

    /// Its value is what the job does.
    pub(super) const fn task(self, read: fn(&mut Walk, Spot, &mut Draft) -> Option<Task>) -> Key {
        Key { goes: Goes::Task(read), ..self }
    }

    pub(super) const fn needs(self, needs: Needs) -> Key {
        Key { needs: Some(needs), ..self }
    }
}

pub(super) const fn count(least: u32, most: u32) -> Shape {
    Shape::Count { least, most }
}

pub(super) const fn named(of: &'static Shape, most: usize, too_many: &'static str) -> Shape {
    Shape::Named { of, most, too_many }
}

pub(super) const fn duration(least: Duration, most: Duration) -> Shape {
    Shape::Duration { least, most, or_none: false }
}

pub(super) const fn duration_or_none(least: Duration, most: Duration) -> Shape {
    Shape::Duration { least, most, or_none: true }
}

/// Keys that begin so are left alone wherever keys are known: a place for YAML anchors, and for others' tools.
pub const ANCHOR_PLACE: &str = "x-";

/// The key called `name`, and its place in the tables.
pub fn find(tables: Tables, name: &str) -> Option<(usize, &'static Key)> {
    all(tables).enumerate().find(|(_, key)| key.name == name)
}

/// The keys of the tables.
pub fn all(tables: Tables) -> impl Iterator<Item = &'static Key> {
    tables.iter().flat_map(|table| table.iter())
}

/// The keys of the tables that say what is done.
pub fn tasks(tables: Tables) -> impl Iterator<Item = &'static Key> {
    all(tables).filter(|key| matches!(key.goes, Goes::Task(_)))
}

/// Why a map with these tables has no key called `name`, and the key that was probably meant.
pub fn unknown(tables: Tables, name: &str) -> (String, Option<&'static str>) {
    let quoted = super::problem::quoted(name);
    let is = |other: &[&[Key]]| std::ptr::eq(tables.as_ptr(), other.as_ptr());
    if is(DEFAULTS) && OWN.iter().any(|key| key.name == name) {
        return (format!("{quoted} cannot be given for all jobs at once: give it to each job"), None);
    }
    let known = || all(tables).map(|key| key.name);
    let plain = name.to_lowercase().replace('-', "_");
    let synonym = all(tables).find(|key| key.also.split(' ').any(|other| other == plain)).map(|key| key.name);
    let meant = nearest(name, known()).or(synonym);
    let message = match meant {
        Some(meant) => format!("unknown key {quoted}: did you mean `{meant}`?"),
        None if is(TOP) && POLICIES.iter().any(|key| key.name == name) => {
            format!("unknown key {quoted}: to say it for all jobs, put it under `defaults`")
        }
        None => format!("unknown key {quoted}: known here are {}", list(known())),
    };
    (message, meant)
}

/// The candidate that `text` most likely is a misspelling of.
pub fn nearest<'a>(text: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    /// Longer texts are not misspelt names, and comparing them would take long.
    const LONGEST: usize = 64;
    /// With so many names, the right one is not guessed.
    const MOST: usize = 10_000;
    let length = text.chars().count();
    if length > LONGEST {
        return None;
    }
    let plain = text.to_lowercase();
    let near = candidates.take(MOST).filter(|candidate| candidate.chars().count().abs_diff(length) <= 3).filter_map(
        |candidate| {
            let distance = strsim::osa_distance(&plain, &candidate.to_lowercase());
            let most = (candidate.chars().count() / 3).clamp(1, 3);
            (distance <= most).then_some((distance, candidate))
        },
    );
    near.min_by_key(|(distance, _)| *distance).map(|(_, candidate)| candidate)
}

/// `` `a`, `b` and `c` ``.
pub fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
    match names.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
        None => "none".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tables::{CALENDAR, JOB};
    use super::*;

    #[test]
    fn a_misspelt_key_is_recognised() {
        for (text, meant) in
            [("comand", "command"), ("Schedule", "schedule"), ("timeuot", "timeout"), ("tz", "timezone")]
        {
            let (message, told) = unknown(JOB, text);
            assert!(message.ends_with(&format!("did you mean `{meant}`?")), "{message}");
            assert_eq!(told, Some(meant));
        }
        assert!(unknown(JOB, "colour").0.contains("known here are `schedule`, `command`"));
    }

    #[test]
    fn a_key_stands_in_a_table_once() {
        for tables in [TOP, JOB, DEFAULTS, CALENDAR] {
            for key in all(tables) {
                assert_eq!(all(tables).filter(|other| other.name == key.name).count(), 1, "{}", key.name);
            }
        }
    }
}
