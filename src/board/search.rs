//! Jobs by a text in their names or descriptions, by their owners and by their labels.

use memchr::memmem;

use super::{Board, FindJobs};
use crate::job::JobName;

/// How much of a description is searched, in bytes.
const SEARCHED_MOST: usize = 1024;

/// The names, descriptions, owners and labels of all jobs in lower case, one after the other: one pass over one piece of
/// memory is ten times as fast as a visit to each job.
#[derive(Debug)]
pub(super) struct Texts {
    text: String,
    /// Where the text of each job begins, in order; it ends with a NUL, which no text has.
    jobs: Vec<(usize, JobName)>,
}

/// What a search has found.
pub(super) enum Found<'a> {
    /// These jobs, in the order of their names.
    Jobs(Vec<&'a JobName>),
    /// More jobs than were asked for.
    Many,
}

impl Texts {
    fn of(board: &Board) -> Texts {
        let mut texts = Texts { text: String::new(), jobs: Vec::with_capacity(board.jobs.len()) };
        for (name, entry) in &board.jobs {
            texts.jobs.push((texts.text.len(), name.clone()));
            texts.add(name.as_str());
            if let Some(description) = entry.job.as_ref().and_then(|job| job.description.as_ref()) {
                texts.line(&description.to_string());
            }
            if let Some(about) = entry.job.as_ref().map(|job| &job.about) {
                about.owner.iter().for_each(|owner| texts.line(&owner_line(&owner.to_string())));
                about
                    .shown_labels()
                    .iter()
                    .for_each(|(name, value)| texts.line(&format!("{}{value}", label_line(name))));
                texts.text.push('\n');
            }
            texts.text.push('\0');
        }
        texts
    }

    /// Adds a line in lower case, behind the line end that every line but the first begins with. No other line can
    /// stand in it.
    fn line(&mut self, line: &str) {
        self.text.push('\n');
        self.add(line);
    }

    /// Adds as much of a text as is searched, in lower case.
    fn add(&mut self, text: &str) {
        let begin = self.text.len();
        if text.is_ascii() && !text.contains(['\0', '\n']) {
            self.text.push_str(&text[..text.len().min(SEARCHED_MOST)]);
            return self.text[begin..].make_ascii_lowercase();
        }
        let text = text.to_lowercase();
        let searched = &text[..text.floor_char_boundary(SEARCHED_MOST)];
        let letters = searched.chars().map(|letter| if letter == '\n' { ' ' } else { letter });
        self.text.extend(letters.filter(|letter| *letter != '\0'));
    }

    /// The jobs with this text, which is in lower case, at most `most` of them.
    fn find(&self, wanted: &str, most: usize) -> Found<'_> {
        let (mut found, mut from) = (Vec::new(), 0);
        let finder = memmem::Finder::new(wanted);
        while let Some(at) = finder.find(&self.text.as_bytes()[from..]).map(|at| from + at) {
            if found.len() == most {
                return Found::Many;
            }
            let nth = self.jobs.partition_point(|(begins, _)| *begins <= at) - 1;
            let next = self.jobs.get(nth + 1).map_or(self.text.len(), |(next, _)| *next);
            // Of one job: what goes on into the text of the next one would say what that is to those who do not see it.
            if at + wanted.len() < next {
                found.push(&self.jobs[nth].1);
            }
            from = next;
        }
        Found::Jobs(found)
    }

    fn has(&self, name: &JobName, wanted: &str) -> bool {
        let Ok(nth) = self.jobs.binary_search_by(|(_, other)| other.cmp(name)) else { return false };
        let end = self.jobs.get(nth + 1).map_or(self.text.len(), |(next, _)| *next);
        self.text[self.jobs[nth].0..end].contains(wanted)
    }
}

impl Board {
    /// The jobs with this text, which is in lower case and not empty, at most `most` of them.
    pub(super) fn search(&self, wanted: &str, most: usize) -> Found<'_> {
        self.texts().find(wanted, most)
    }

    /// Whether a job has this text, which is in lower case.
    pub(super) fn says(&self, name: &JobName, wanted: &str) -> bool {
        self.texts().has(name, wanted)
    }

    fn texts(&self) -> &Texts {
        self.texts.get_or_init(|| Texts::of(self))
    }
}

/// The line of an owner. What it begins with is in no text that people search for.
fn owner_line(owner: &str) -> String {
    format!("\u{1}{owner}")
}

/// The line of a label, up to its value.
fn label_line(name: &str) -> String {
    format!("\u{2}{name}=")
}

impl FindJobs {
    /// What is looked for by a text with terms in it, as people write it: `label:team=payments` and `label:team` for
    /// labels, `owner:ops` or `owner:"Team Ops"` for an owner; what is left is looked for as it is.
    pub fn asked(text: &str) -> FindJobs {
        let mut find = FindJobs::default();
        let mut rest: Vec<&str> = Vec::new();
        for word in words(text) {
            let value = |value: &str| value.replace('"', "");
            match word.split_once(':') {
                Some(("owner", owner)) if !value(owner).is_empty() => find.owner = Some(value(owner)),
                Some(("label", label)) if !value(label).is_empty() => find.labels.push(value(label)),
                _ => rest.push(word),
            }
        }
        // Without any term it is looked for as it was written.
        let has_terms = find.owner.is_some() || !find.labels.is_empty();
        let rest = if has_terms { rest.join(" ") } else { text.to_owned() };
        find.text = Some(rest).filter(|rest| !rest.is_empty());
        find
    }

    /// The texts that every job has to have that is looked for, in lower case.
    pub(super) fn texts(&self) -> Vec<String> {
        let label = |label: &String| match label.split_once('=') {
            Some((name, value)) => format!("\n{}{value}\n", label_line(name)),
            None => format!("\n{}", label_line(label)),
        };
        let owner = self.owner.as_ref().map(|owner| format!("\n{}\n", owner_line(owner)));
        let all = self.labels.iter().map(label).chain(owner).chain(self.text.clone());
        all.map(|text| text.to_lowercase()).filter(|text| !text.is_empty()).collect()
    }
}

/// The words of a text: blanks part them where they do not stand between double quotes.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    let parts = move |letter: char| {
        quoted ^= letter == '"';
        letter.is_whitespace() && !quoted
    };
    text.split(parts).filter(|word| !word.is_empty())
}
