//! Rows of skips: occurrences of a job that are skipped one after the other for the same reason share one verdict, so that
//! a pause, or one long run, does not fill the history.
//!
//! A row grows by the transaction that claims the next occurrence, which takes the row's verdict away and puts the longer
//! one. Since claims move the watermark, only the term that wrote a row extends it; the next leader begins its own.

use std::collections::HashMap;

use super::Claims;
use crate::job::{JobName, RunId, Verdict};
use crate::scheduler::run::{Done, Many, Source};

/// The verdict at which a job's row ends, as this term has put it into the ledger.
#[derive(Clone, Debug)]
pub(super) struct Row {
    last: RunId,
    reason: String,
    many: Many,
}

/// What a batch leaves a job with; `None`: no row goes on.
pub(super) type Ends = HashMap<JobName, Option<Row>>;

/// The verdicts of a batch, and where its jobs stand.
#[derive(Default)]
pub(super) struct Verdicts {
    pub(super) dones: Vec<Done>,
    /// The verdicts in the ledger that are part of those above, and go.
    pub(super) replaced: Vec<RunId>,
    last: HashMap<JobName, Option<usize>>,
}

impl Verdicts {
    /// How many operations of a transaction they take.
    pub(super) fn weight(&self) -> usize {
        self.dones.len() + self.replaced.len()
    }

    /// A run is opened: what the job skips from now on is another row.
    pub(super) fn interrupt(&mut self, job: &JobName) {
        self.last.insert(job.clone(), None);
    }

    /// Adds a verdict, to the row of its job where that has the same reason. `rows`: those in the ledger.
    pub(super) fn add(&mut self, done: Done, rows: &HashMap<JobName, Row>) {
        match self.last.get(&done.job) {
            Some(Some(index)) if extends(&Row::of(&self.dones[*index]), &done) => {
                self.dones[*index] = extended(&Row::of(&self.dones[*index]), done);
                return;
            }
            None => {
                if let Some(row) = rows.get(&done.job).filter(|row| extends(row, &done)) {
                    self.replaced.push(row.last.clone());
                    self.push(extended(row, done));
                    return;
                }
            }
            Some(_) => {}
        }
        self.push(done);
    }

    fn push(&mut self, done: Done) {
        self.last.insert(done.job.clone(), Some(self.dones.len()));
        self.dones.push(done);
    }

    /// Where its jobs stand once it is in the ledger.
    pub(super) fn ends(&self) -> Ends {
        let row = |index: usize| Some(Row::of(&self.dones[index])).filter(|_| is_skip(&self.dones[index]));
        self.last.iter().map(|(job, last)| (job.clone(), last.and_then(row))).collect()
    }
}

impl Row {
    fn of(done: &Done) -> Row {
        let many = done.many.unwrap_or(Many { from: done.at, count: 1, at_least: false });
        Row { last: done.id.clone(), reason: done.reason.clone(), many }
    }
}

impl Claims {
    /// The batch is in the ledger: the rows of its jobs end with it.
    pub(super) fn take_rows(&mut self) {
        for (job, end) in std::mem::take(&mut self.ends) {
            match end {
                Some(row) => drop(self.rows.insert(job, row)),
                None => drop(self.rows.remove(&job)),
            }
        }
    }
}

fn is_skip(done: &Done) -> bool {
    done.verdict == Verdict::Skipped && done.source == Source::Schedule && done.attempt == 0
}

fn extends(row: &Row, done: &Done) -> bool {
    is_skip(done) && done.reason == row.reason && row.last.at() < done.many.map_or(done.at, |many| many.from)
}

/// The verdict on all of a row and this one.
fn extended(row: &Row, done: Done) -> Done {
    let added = Row::of(&done).many;
    let count = row.many.count.saturating_add(added.count);
    let many = Many { from: row.many.from, count, at_least: row.many.at_least || added.at_least };
    Done { many: Some(many), ..done }
}
