//! What people ask for about runs.

use super::*;

impl Bench {
    pub fn cancel(&mut self, run: &RunId) {
        self.ask_to_cancel(run, false);
    }

    /// The backfill of a run is stopped.
    pub fn withdraw(&mut self, run: &RunId) {
        if !self.ledger.cancels.contains_key(run) {
            self.ask_to_cancel(run, true);
        }
    }

    fn ask_to_cancel(&mut self, run: &RunId, unless_begun: bool) {
        if self.ledger.open.contains_key(run) {
            let (version, asked) = (self.ledger.next(), Cancel { by: "eve".into(), unless_begun });
            self.ledger.cancels.insert(run.clone(), asked.clone());
            self.ledger.log.push((Change::Cancel(run.clone(), Some(asked)), version));
        }
    }

    pub fn cancels(&self) -> usize {
        self.ledger.cancels.len()
    }
}
