//! What the node shows of what it knows: the board, as the loop writes it.

use super::Running;
use crate::board::{Board, Leader, Own, PLANNED_AT_ONCE, Paused};
use crate::execute::Execute;
use crate::ledger::{Asked, Followed, LastRuns, News, Pause};
use crate::lock::Hold;
use crate::scheduler::view::Change;
use crate::store::{Revision, Store};
use crate::time::Wall;

impl<S: Store, E: Execute> Running<S, E> {
    /// Shows what the ledger says.
    pub(super) fn show_news(&self, news: &News) {
        let now = self.node.options.clock.wall();
        let mut board = self.node.board.write();
        let all = match news {
            News::Changed(changes, _) => changes,
            News::Reread(all, _) => {
                board.forget_ledger();
                all
            }
        };
        for one in all {
            self.show_one(&mut board, one, now);
        }
        board.is_current(now);
    }

    /// Shows how jobs' last runs ended, as this node has just written or read it: the watch says so a little later.
    pub(super) fn show_last(&self, runs: &LastRuns) {
        let mut board = self.node.board.write();
        for (job, last, version) in runs.known() {
            board.last(job, last.cloned(), version);
        }
    }

    fn show_one(&self, board: &mut Board, one: &Followed, now: Wall) {
        match one {
            Followed::Ledger(Change::Watermark(mark), _) => board.decided(mark.clone()),
            Followed::Ledger(Change::Job(name, known), _) => board.known(name, known.as_ref()),
            Followed::Paused { job, paused, pause, .. } => {
                // What a newer version wrote pauses the jobs all the same.
                let unread = || Pause { asked: Asked::new("", now), until: None };
                let paused = paused.then(|| Paused::from(pause.clone().unwrap_or_else(unread)));
                match job {
                    Some(job) => board.paused(job, paused),
                    None => board.all_paused(paused),
                }
            }
            Followed::Last { job, last, version } => board.last(job, last.clone(), *version),
            Followed::Ledger(Change::Open(run, open), _) => board.open(run, open.clone()),
            Followed::Node { lease, alive, record, .. } => board.node(*lease, record.clone().filter(|_| *alive)),
            Followed::Other { key, created, since, .. } if key == self.leadership.owner_key() => {
                let leader = |(created, lease): &(Revision, Option<u64>)| {
                    Some(Leader { lease: (*lease)?, created: created.0, since: since.unwrap_or(now) })
                };
                board.led_by(created.as_ref().and_then(leader));
            }
            Followed::Mark { base, .. } => board.base(*base),
            Followed::Ledger(..) | Followed::Lineage | Followed::Damaged(_) | Followed::Other { .. } => {}
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
        });
        board.plan(self.node.options.clock.wall(), PLANNED_AT_ONCE)
    }
}
