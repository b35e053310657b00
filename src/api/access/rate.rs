//! How often one caller may act.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::api::problem::{Kind, Problem};
use crate::time::Boot;

/// How many acts one caller may ask for in a second, on average; as many may come at once.
pub const ACTS_A_SECOND: u32 = 20;

/// Of how many callers it is known when they last acted.
const CALLERS_MOST: usize = 4_096;

/// How much of a second's acts each caller has used: a bucket that empties with time.
#[derive(Debug, Default)]
pub(super) struct Rate(Mutex<HashMap<String, (Duration, Boot)>>);

impl Rate {
    /// That this caller may act now.
    pub fn admit(&self, caller: &str, now: Boot) -> Result<(), Problem> {
        let one = Duration::from_secs(1) / ACTS_A_SECOND;
        let most = one * ACTS_A_SECOND;
        let mut used = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if used.len() >= CALLERS_MOST && !used.contains_key(caller) {
            used.retain(|_, (used, at)| now.since(*at) < *used);
        }
        let (before, at) = used.get(caller).copied().unwrap_or((Duration::ZERO, now));
        let left = before.saturating_sub(now.since(at));
        if left + one > most || (used.len() >= CALLERS_MOST && !used.contains_key(caller)) {
            let detail = format!("{caller} has asked for {ACTS_A_SECOND} acts within a second: wait a moment");
            return Err(Problem::new(Kind::TooManyActs, detail).again_after(Duration::from_secs(1)));
        }
        used.insert(caller.to_owned(), (left + one, now));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_may_act_twenty_times_a_second_and_others_are_not_held_up() {
        let (rate, at) = (Rate::default(), |millis| Boot::from_duration(Duration::from_millis(millis)));
        for _ in 0..ACTS_A_SECOND {
            rate.admit("ci", at(0)).unwrap();
        }
        assert_eq!(rate.admit("ci", at(0)).unwrap_err().kind, Kind::TooManyActs);
        rate.admit("ann", at(0)).unwrap();
        rate.admit("ci", at(50)).unwrap();
        assert!(rate.admit("ci", at(50)).is_err());
        for nth in 0..CALLERS_MOST {
            rate.admit(&format!("c{nth}"), at(10_000)).unwrap();
        }
        assert!(rate.admit("one too many", at(10_000)).is_err());
        rate.admit("one too many", at(10_050)).unwrap();
    }
}
