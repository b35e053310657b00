//! Which occurrence of each job is decided next.

use super::{Board, Entry};
use crate::job::{JobName, Trigger};
use crate::scheduler::run::{Watermark, decided_until};
use crate::time::Wall;

impl Board {
    /// How far the schedules have been decided. Occurrences up to there are not next any more.
    pub fn decided(&mut self, mark: Watermark) {
        self.version += 1;
        let before = self.watermark.replace(mark);
        let Some(mark) = &self.watermark else { return };
        if before.is_some_and(|before| *mark < before) {
            // A person brought it back: what was decided may be due once more.
            self.by_start.clear();
            for (name, entry) in &mut self.jobs {
                entry.next = None;
                self.unplanned.insert(name.clone());
            }
            return;
        }
        while let Some(first) = self.by_start.first_entry() {
            let (start, name) = first.key();
            if !mark.includes(*start, name) {
                return;
            }
            let (_, name) = first.remove_entry().0;
            if let Some(entry) = self.jobs.get_mut(&name) {
                entry.next = None;
            }
            self.unplanned.insert(name);
        }
    }

    /// Whether the next occurrence of some jobs is still to be computed.
    pub fn has_unplanned(&self) -> bool {
        !self.unplanned.is_empty()
    }

    /// The jobs whose next occurrence is still to be computed: [`Board::next_fires`] does not have it.
    pub fn unplanned(&self) -> impl Iterator<Item = &JobName> {
        self.unplanned.iter()
    }

    /// Computes the next occurrence of jobs for which that is still to be done, at most `most` of them. Says whether
    /// some are left.
    pub fn plan(&mut self, now: Wall, most: usize) -> bool {
        self.version += u64::from(self.has_unplanned());
        for _ in 0..most {
            let Some(name) = self.unplanned.pop_first() else { return false };
            let Some(entry) = self.jobs.get_mut(&name) else { continue };
            let next = next_of(entry, self.watermark.as_ref(), now);
            entry.next = next;
            if let Some((_, starts)) = next {
                self.by_start.insert((starts, name), entry.marks);
            }
        }
        self.has_unplanned()
    }

    /// The occurrence of a job that is decided next, though its turn to be planned may not have come: its instant, and its
    /// start.
    pub(super) fn next_of(&self, name: &JobName, entry: &Entry, now: Wall) -> Option<(Wall, Wall)> {
        if entry.next.is_none() && self.unplanned.contains(name) {
            return next_of(entry, self.watermark.as_ref(), now);
        }
        entry.next
    }
}

fn next_of(entry: &Entry, mark: Option<&Watermark>, now: Wall) -> Option<(Wall, Wall)> {
    let job = entry.job.as_deref()?;
    let Trigger::Schedule { schedule, jitter } = &job.trigger else { return None };
    // A job that no leader has seen is not due before one does.
    let since = entry.known_since.unwrap_or(now);
    schedule.next_start(*jitter, decided_until(job, since, mark)).map(|next| (next.at, next.starts))
}
