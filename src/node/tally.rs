//! What this node has counted of runs that ended, until it adds that to the records of the hours as the leader.

use std::collections::BTreeMap;

use super::{Answer, Running};
use crate::execute::Execute;
use crate::fence::Fence;
use crate::ledger::{Addition, AdditionName};
use crate::metrics::Decided;
use crate::scheduler::hour::{HourCounts, hour_of};
use crate::scheduler::run::Done;
use crate::store::{Store, StoreError};
use crate::time::Wall;

/// How many hours are kept that could not be added: those of a node that leads no more wait until it leads again.
const HOURS_MOST: usize = 48;

/// What was counted, and what of it is on its way.
#[derive(Debug, Default)]
pub(super) struct Tally {
    hours: BTreeMap<Wall, HourCounts>,
    /// What is being added, or has to be added again: the answer was an error.
    sent: Option<Addition>,
    under_way: bool,
    numbered: u64,
}

impl Tally {
    /// The verdict is in the store, and this node wrote it.
    pub fn ended(&mut self, done: &Done) {
        self.hour(done.finished_at).ended(done);
    }

    /// A batch of claims is in the store.
    pub fn decided(&mut self, decided: &Decided, now: Wall) {
        for (reason, count) in decided.skips() {
            self.hour(now).skipped(reason, count);
        }
    }

    fn hour(&mut self, at: Wall) -> &mut HourCounts {
        let hour = hour_of(at);
        if self.hours.len() >= HOURS_MOST && !self.hours.contains_key(&hour) {
            self.hours.pop_first();
        }
        self.hours.entry(hour).or_default()
    }

    /// What has to be added next, under this fence; `None`: nothing, or something is being added.
    fn begin(&mut self, fence: Fence) -> Option<Addition> {
        if self.under_way {
            return None;
        }
        // Whether the last addition of an earlier term was made is not known: it is not made again.
        self.sent = self.sent.take().filter(|sent| sent.name.fence == fence);
        if self.sent.is_none() {
            let (hour, counts) = self.hours.pop_first()?;
            self.numbered += 1;
            self.sent = Some(Addition { hour, counts, name: AdditionName { fence, number: self.numbered } });
        }
        self.under_way = self.sent.is_some();
        self.sent.clone()
    }

    /// An addition was answered. Says whether it is settled.
    fn answered(&mut self, result: &Result<bool, StoreError>) -> bool {
        self.under_way = false;
        if result.is_ok() {
            self.sent = None;
        }
        result.is_ok()
    }

    /// Whether something is being added.
    pub fn is_under_way(&self) -> bool {
        self.under_way
    }

    fn has_hour_before(&self, hour: Wall) -> bool {
        self.hours.first_key_value().is_some_and(|(first, _)| *first < hour)
    }
}

impl<S: Store, E: Execute> Running<S, E> {
    /// Adds what was counted to the record of its hour, where this node leads and nothing is being added.
    pub(super) fn add_counts(&mut self) {
        let Some(hold) = self.leadership.leading().cloned() else { return };
        let Some(addition) = self.work.tally().begin(hold.fence()) else { return };
        let ledger = self.node.ledger.clone();
        self.work.spawn(async move { Answer::Added(ledger.add_to_hour(&hold, &addition).await) });
    }

    /// What was counted in an earlier hour follows at once, and everything where the node is about to go.
    pub(super) fn counts_added(&mut self, result: &Result<bool, StoreError>) {
        if let Err(error) = result {
            tracing::warn!(%error, "could not add to what was counted of this hour; trying again in a minute");
        }
        let hour = hour_of(self.node.options.clock.wall());
        let is_settled = self.work.tally().answered(result);
        if is_settled && (self.stopping.is_some() || self.work.tally().has_hour_before(hour)) {
            self.add_counts();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fence(number: u64) -> Fence {
        Fence::new(number).unwrap()
    }

    fn hour(number: i64) -> Wall {
        Wall::from_millis(number * 3_600_000)
    }

    fn tally(hours: impl IntoIterator<Item = i64>) -> Tally {
        let mut tally = Tally::default();
        hours.into_iter().for_each(|number| tally.hour(hour(number)).skipped("paused", 1));
        tally
    }

    #[test]
    fn one_addition_is_under_way_at_a_time_and_the_earliest_hour_comes_first() {
        let mut tally = tally([2, 1]);
        let first = tally.begin(fence(7)).unwrap();
        assert_eq!((first.hour, first.name.to_string()), (hour(1), "7-1".to_owned()));
        assert!(tally.begin(fence(7)).is_none() && tally.is_under_way());
        assert!(tally.answered(&Ok(true)) && tally.has_hour_before(hour(3)) && !tally.has_hour_before(hour(2)));
        assert_eq!(tally.begin(fence(7)).unwrap().name.to_string(), "7-2");
        assert!(tally.answered(&Ok(true)) && tally.begin(fence(7)).is_none() && !tally.is_under_way());
    }

    #[test]
    fn what_failed_is_added_again_under_its_name_and_in_another_term_not_at_all() {
        let mut tally = tally([1]);
        let first = tally.begin(fence(7)).unwrap();
        let full = || Err(StoreError::Refused("it is full".into()));
        assert!(!tally.answered(&full()));
        tally.hour(hour(1)).skipped("paused", 1);
        assert_eq!(tally.begin(fence(7)), Some(first.clone()));
        tally.answered(&full());
        let other = tally.begin(fence(9)).unwrap();
        assert_eq!((other.name.to_string(), other.counts), ("9-2".to_owned(), first.counts));
        tally.answered(&Ok(false));
        assert_eq!(tally.begin(fence(9)), None, "the term is over");
    }

    #[test]
    fn only_so_many_hours_wait() {
        let mut tally = tally(0..HOURS_MOST as i64 + 5);
        assert_eq!((tally.hours.len(), tally.begin(fence(1)).unwrap().hour), (HOURS_MOST, hour(5)));
    }
}
