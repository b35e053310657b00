//! What became of each line of the source.

use std::collections::BTreeMap;

use serde::Serialize;

/// How much of a line is quoted.
const QUOTED: usize = 100;

/// What became of something; the later, the more a person has to look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Fate {
    /// It is no part of a job: an empty line, a comment, something else than a job.
    Ignored,
    /// It means the same here.
    Taken,
    /// It is there, and means something else in some respect.
    Differs,
    /// It cannot be said here.
    Cannot,
}

impl Fate {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Fate::Ignored => "ignored",
            Fate::Taken => "taken",
            Fate::Differs => "differs",
            Fate::Cannot => "cannot",
        }
    }
}

/// A line of the source, by the number of its file and its own, from 1; line 0 is the file as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    pub file: usize,
    pub line: usize,
}

/// Lines of a file that belong together: those of a document that begins with `first`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lines {
    pub file: usize,
    pub first: usize,
    pub last: usize,
    /// The line of the file that is line 1 of the document.
    pub origin: usize,
}

impl Lines {
    /// The line of the file that is this one of the document.
    pub fn line(&self, of_document: usize) -> usize {
        self.origin + of_document - 1
    }

    pub fn place(&self, of_document: usize) -> Place {
        Place { file: self.file, line: self.line(of_document) }
    }

    pub fn place_of_first(&self) -> Place {
        Place { file: self.file, line: self.first }
    }

    /// From a line of the document to one of the file.
    pub fn from(&self, of_document: usize, last: usize) -> Lines {
        Lines { first: self.line(of_document), last, ..*self }
    }
}

/// One line, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub file: String,
    pub line: usize,
    pub fate: Fate,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    pub text: String,
    pub message: String,
}

#[derive(Default)]
struct Entry {
    text: String,
    job: Option<String>,
    notes: Vec<(Fate, String)>,
}

/// The findings while they are made.
#[derive(Default)]
pub(crate) struct Report {
    files: Vec<String>,
    lines: BTreeMap<Place, Entry>,
}

impl Report {
    /// Begins with a file; each of its lines is noted, so that none can be left out.
    pub fn file(&mut self, name: &str, text: &str) -> usize {
        self.files.push(name.to_owned());
        let file = self.files.len() - 1;
        for (index, line) in text.lines().enumerate() {
            let shown = line.trim().chars().map(|c| if c.is_control() { ' ' } else { c });
            let shown: String = shown.take(QUOTED).collect();
            let entry = Entry { text: shown, ..Entry::default() };
            self.lines.insert(Place { file, line: index + 1 }, entry);
        }
        file
    }

    pub fn add(&mut self, place: Place, fate: Fate, message: impl Into<String>) {
        let (notes, message) = (&mut self.lines.entry(place).or_default().notes, message.into());
        if !notes.iter().any(|(_, known)| *known == message) {
            notes.push((fate, message));
        }
    }

    /// Notes a line of which nothing was noted.
    pub fn unless_noted(&mut self, place: Place, fate: Fate, message: &str) {
        let entry = self.lines.entry(place).or_default();
        if entry.notes.is_empty() {
            entry.notes.push((fate, message.to_owned()));
        }
    }

    /// Notes all of `lines` of which nothing was noted.
    pub fn rest(&mut self, lines: Lines, fate: Fate, message: &str) {
        let places = Place { file: lines.file, line: lines.first }..=Place {
            file: lines.file,
            line: lines.last.max(lines.first),
        };
        for (_, entry) in self.lines.range_mut(places) {
            if entry.notes.is_empty() && !entry.text.is_empty() && !entry.text.starts_with('#') {
                entry.notes.push((fate, message.to_owned()));
            }
        }
    }

    /// Notes the comments of a file, and the marks between its documents.
    pub fn comments(&mut self, file: usize) {
        let places = Place { file, line: 1 }..=Place { file, line: usize::MAX };
        for (_, entry) in self.lines.range_mut(places).filter(|(_, entry)| entry.notes.is_empty()) {
            let message = match entry.text.chars().next() {
                Some('#') => "a comment",
                _ if entry.text.starts_with("---") || entry.text == "..." => "a mark between documents",
                _ => continue,
            };
            entry.notes.push((Fate::Ignored, message.to_owned()));
        }
    }

    /// The job that a line became.
    pub fn name(&mut self, place: Place, job: &str) {
        self.lines.entry(place).or_default().job = Some(job.to_owned());
    }

    /// What was noted of a line, of this fate.
    pub fn of(&self, place: Place, fate: Fate) -> Vec<String> {
        let notes = self.lines.get(&place).map(|entry| entry.notes.as_slice()).unwrap_or_default();
        notes.iter().filter(|(noted, _)| *noted == fate).map(|(_, message)| message.clone()).collect()
    }

    /// All lines of this fate, as comments of the jobs file.
    pub fn all_that(&self, fate: Fate) -> Vec<String> {
        let is = |(_, entry): &(&Place, &Entry)| entry.fate() == fate;
        let shown = |(place, entry): (&Place, &Entry)| {
            format!("{}:{}: {}: {}", self.files[place.file], place.line, entry.text, entry.message(fate))
        };
        self.lines.iter().filter(is).map(shown).collect()
    }

    pub fn into_findings(self) -> Vec<Finding> {
        let files = self.files;
        let finding = |(place, entry): (Place, Entry)| {
            let (fate, file) = (entry.fate(), files[place.file].clone());
            // Why a line cannot be said stands alone: what else was noted of it no longer holds.
            let message = entry.message(if fate == Fate::Cannot { fate } else { Fate::Ignored });
            Finding { file, line: place.line, fate, message, text: entry.text, job: entry.job }
        };
        self.lines.into_iter().map(finding).collect()
    }
}

impl Entry {
    /// The worst that was noted; a line of which nothing was noted has not been understood.
    fn fate(&self) -> Fate {
        let worst = self.notes.iter().map(|(fate, _)| *fate).max();
        worst.unwrap_or(if self.text.is_empty() { Fate::Ignored } else { Fate::Cannot })
    }

    fn message(&self, least: Fate) -> String {
        let notes = self.notes.iter().filter(|(fate, _)| *fate >= least);
        let message = notes.map(|(_, message)| message.as_str()).collect::<Vec<_>>().join("; ");
        match message.is_empty() {
            true if self.text.is_empty() => "empty".to_owned(),
            true if self.notes.is_empty() => "not understood".to_owned(),
            _ => message,
        }
    }
}
