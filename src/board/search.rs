//! Jobs by a text in their names or descriptions.

use super::Board;
use crate::job::JobName;

/// How much of a description is searched, in bytes.
const SEARCHED_MOST: usize = 1024;

/// The names and descriptions of all jobs in lower case, one after the other: one pass over one piece of memory is ten
/// times as fast as a visit to each job.
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
            texts.text.extend(name.as_str().chars().map(|letter| letter.to_ascii_lowercase()));
            if let Some(description) = entry.job.as_ref().and_then(|job| job.description.as_ref()) {
                let description = description.to_string().to_lowercase();
                let searched = &description[..description.floor_char_boundary(SEARCHED_MOST)];
                texts.text.push('\n');
                texts.text.extend(searched.chars().filter(|letter| *letter != '\0'));
            }
            texts.text.push('\0');
        }
        texts
    }

    /// The jobs with this text, which is in lower case, at most `most` of them.
    fn find(&self, wanted: &str, most: usize) -> Found<'_> {
        let (mut found, mut from) = (Vec::new(), 0);
        while let Some(at) = self.text[from..].find(wanted).map(|at| from + at) {
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
