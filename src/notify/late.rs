//! Runs that are late, by the node that leads: each is notified once, and once that it is late no more.
//!
//! That time goes on is no transaction, so this one puts the alert together with a mark of the run. A run that is late for
//! less time than it takes to look may be over unnoticed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{AGAIN, Notifier};
use crate::job::{AlertKind, Notify, RunId};
use crate::lock::Hold;
use crate::scheduler::alert::Alert;
use crate::store::{Store, StoreError};

/// How often it is looked which runs are late.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How many runs are notified at one look: the others wait for the next.
const AT_ONCE: usize = 200;

/// The runs that are marked as late, and what was notified of each.
pub(super) type Marked = BTreeMap<RunId, Alert>;

impl<S: Store> Notifier<S> {
    /// Looks again and again which runs are late, until it is dropped.
    pub(super) async fn watch_late(self, hold: Hold) {
        let (mut marked, mut failures) = (None, 0);
        loop {
            let pause = match self.look_for_late(&hold, &mut marked).await {
                Ok(()) => {
                    failures = 0;
                    LOOK_EVERY
                }
                Err(error) => {
                    tracing::warn!(%error, "it cannot be notified which runs are late");
                    failures += 1;
                    AGAIN.pause(failures)
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Brings the marks in line with which runs are late now. `None`: the marks of earlier terms are not read yet.
    pub(super) async fn look_for_late(&self, hold: &Hold, marked: &mut Option<Marked>) -> Result<(), StoreError> {
        let mut known = match marked.take() {
            Some(known) => known,
            None => self.ledger.late().await?,
        };
        let now = self.clock.wall();
        let late = self.board.read().late_alerts(now);
        let news =
            late.values().filter(|(_, alert)| known.get(&alert.run).is_none_or(|before| before.id() != alert.id()));
        let news: Vec<&(Arc<Notify>, Alert)> = news.take(AT_ONCE).collect();
        for one in news {
            // Where it was marked already, an attempt whose answer was lost did that.
            self.ledger.put_late(hold, one, known.get(&one.1.run)).await?;
            known.insert(one.1.run.clone(), one.1.clone());
        }
        let over: Vec<RunId> = known.keys().filter(|run| !late.contains_key(*run)).take(AT_ONCE).cloned().collect();
        for run in over {
            let Some(before) = known.remove(&run) else { continue };
            let wanted = |notify: &Arc<Notify>| notify.on.contains(&AlertKind::LateNoMore);
            let notify = self.board.read().definition(&before.job).and_then(|job| job.notify.clone()).filter(wanted);
            let ended = Alert { kind: AlertKind::LateNoMore, finished_at: now, ..before };
            let alerts = notify.map(|notify| (notify, ended)).into_iter().collect();
            self.ledger.end_late(hold, &run, &alerts).await?;
        }
        *marked = Some(known);
        Ok(())
    }
}
