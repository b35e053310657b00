//! What the node shows of what it knows: the board, as the loop writes it.

use super::Running;
use crate::board::{Own, PLANNED_AT_ONCE};
use crate::execute::Execute;
use crate::ledger::{LastRuns, News};
use crate::lock::Hold;
use crate::store::Store;

impl<S: Store, E: Execute> Running<S, E> {
    /// Shows what the ledger says.
    pub(super) fn show_news(&self, news: &News) {
        let now = self.node.options.clock.wall();
        self.node.board.write().take(news, self.leadership.owner_key(), now);
    }

    /// Shows how jobs' last runs ended, as this node has just written or read it: the watch says so a little later.
    pub(super) fn show_last(&self, runs: &LastRuns) {
        let mut board = self.node.board.write();
        for (job, last, version) in runs.known() {
            board.last(job, last.cloned(), version);
        }
    }

    /// Shows what the node knows of itself, and plans on: a little on every turn of the loop. Answers whether more has
    /// to be planned.
    pub(super) fn show_self(&self) -> bool {
        let mut board = self.node.board.write();
        board.own(Own {
            lease: self.leadership.lease(),
            fence: self.leadership.leading().map(Hold::fence),
            trusted_until: self.leadership.trusted_until(),
            config_digest: self.config_digest.clone(),
            running: self.work.running(),
            clock_off_ms: self.observed.clock_off_ms(),
        });
        board.plan(self.node.options.clock.wall(), PLANNED_AT_ONCE)
    }
}
