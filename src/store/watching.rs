//! An open watch, as the task or thread of a store serves it: the same for all stores that look for what is new.

#[cfg(any(feature = "sqlite", feature = "postgres"))]
use tokio::sync::mpsc;

use super::{Change, Revision};
#[cfg(any(feature = "sqlite", feature = "postgres"))]
use super::{Keys, Watched};

/// What is new to a watch.
pub(super) enum WatchBatch {
    /// Changes, and the revision to go on from. May be empty.
    Changes(Vec<Change>, Revision),
    Compacted(Revision),
}

/// How far a watch has come.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// All that is new is reported.
    Reported,
    /// Its reader has no room for more now.
    Full,
    /// Nothing more has to be reported: its reader has gone, or has to list again.
    Ended,
}

/// An open watch.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(super) struct Watching {
    pub keys: Keys,
    /// What it has to be reported next.
    pub from: Revision,
    /// Nothing else sends on it.
    pub reports: mpsc::Sender<Watched>,
}

#[cfg(any(feature = "sqlite", feature = "postgres"))]
impl Watching {
    /// Why nothing can be reported now; `None`: there is room for one report.
    pub fn is_held_up(&self) -> Option<Progress> {
        if self.reports.is_closed() {
            return Some(Progress::Ended);
        }
        (self.reports.capacity() == 0).then_some(Progress::Full)
    }

    /// Reports what is new, where there is room for it. `None`: there may be more.
    pub fn report(&mut self, batch: WatchBatch) -> Option<Progress> {
        match batch {
            WatchBatch::Compacted(revision) => {
                // A reader that has gone in the meantime needs no report.
                self.reports.try_send(Watched::Compacted(revision)).ok();
                Some(Progress::Ended)
            }
            WatchBatch::Changes(changes, next) if changes.is_empty() => {
                self.from = next;
                Some(Progress::Reported)
            }
            WatchBatch::Changes(changes, next) => {
                self.from = next;
                self.reports.try_send(Watched::Changes(changes)).err().map(|_| Progress::Ended)
            }
        }
    }
}
