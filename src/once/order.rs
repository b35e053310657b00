//! PURE: how the migrations that are asked for differ from those that were made.

use std::collections::BTreeMap;
use std::fmt;

use super::Step;
use crate::config::leads_back_from;
use crate::ledger::{OnceKind, OnceState, Recorded};
use crate::time::Wall;

/// How many hexadecimal digits of a checksum are shown.
const CHECKSUM_SHOWN: usize = 12;

/// How many differences are listed.
const DIFFERENCES_SHOWN: usize = 20;

/// A way in which what is asked for is not what was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// It does something else than what was done under its id.
    Changed { id: String, was: String, is: String, since: Wall },
    /// It was made, or begun, and is not asked for.
    Missing { id: String, was: String, since: Wall },
    /// It is new, and stands before one that was made already.
    Before { id: String, applied: String, since: Wall },
    /// Both were made, in the other order.
    Swapped { id: String, applied: String, since: Wall },
}

impl Difference {
    /// The migration that differs.
    pub fn id(&self) -> &str {
        match self {
            Difference::Changed { id, .. }
            | Difference::Missing { id, .. }
            | Difference::Before { id, .. }
            | Difference::Swapped { id, .. } => id,
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = |checksum: &str| checksum[..checksum.len().min(CHECKSUM_SHOWN)].to_owned();
        match self {
            Difference::Changed { id, was, is, since } => write!(
                f,
                "`{id}` was changed: what was made on {since} has the checksum {}, and it is {} now; put it back as it \
                 was, and make the change with a new migration",
                short(was),
                short(is)
            ),
            Difference::Missing { id, was, since } => write!(
                f,
                "`{id}` is missing: it was made on {since} (checksum {}); put it back into the file, in its place",
                short(was)
            ),
            Difference::Before { id, applied, since } => write!(
                f,
                "`{id}` is out of order: it is new, and stands before `{applied}`, which was made on {since} already; \
                 put it behind that"
            ),
            Difference::Swapped { id, applied, since } => write!(
                f,
                "`{id}` is out of order: it stands before `{applied}`, which was made before it, on {since}; put them \
                 back in their order"
            ),
        }
    }
}

pub(super) fn listed(differences: &[Difference]) -> String {
    let mut text = "these migrations are not those that were made, so none is made:".to_owned();
    for difference in differences.iter().take(DIFFERENCES_SHOWN) {
        text += &format!("\n  {difference}");
    }
    let more = differences.len().saturating_sub(DIFFERENCES_SHOWN);
    if more > 0 {
        text += &format!("\n  … and {more} more");
    }
    text
}

/// The directory that a migration is a file of, where it is one.
fn directory(id: &str) -> Option<&str> {
    id.split_once('/').map(|(directory, _)| directory)
}

/// Whether of two migrations, in the order of the file, the first has to be made before the second. A directory grows
/// at its end, also when other entries follow it: its files have an order among themselves, and none with those of
/// other entries.
pub fn has_order(first: &str, second: &str) -> bool {
    directory(first).is_none_or(|own| directory(second) == Some(own))
}

/// Whether two files of a directory were made in the order of the bytes of their names, as earlier versions had it.
fn was_order(made_first: &str, made_second: &str) -> bool {
    directory(made_first).is_some() && directory(made_first) == directory(made_second) && made_first < made_second
}

/// Compares `steps` with the recorded migrations, which are in the order in which they were made. A failed migration
/// may be changed or dropped: it is not listed. Work under a key has no order.
pub fn differences(steps: &[Step], records: &[Recorded]) -> Vec<Difference> {
    if steps.iter().any(|step| step.key.kind() != OnceKind::Migration) {
        return Vec::new();
    }
    let place: BTreeMap<&str, usize> = steps.iter().enumerate().map(|(place, step)| (step.key.name(), place)).collect();
    // What was made or may have been: it has to stay as it is, and where it is.
    let stands =
        |recorded: &&Recorded| matches!(recorded.once.state, OnceState::Done | OnceState::Claimed | OnceState::Unknown);
    let mut found = Vec::new();
    let mut made: BTreeMap<usize, usize> = BTreeMap::new();
    for (turn, recorded) in records.iter().enumerate().filter(|(_, recorded)| stands(recorded)) {
        let once = &recorded.once;
        let since = once.finished_at.unwrap_or(once.started_at);
        let Some(&at) = place.get(once.name.as_str()) else {
            if !leads_back_from(&once.name, place.keys().copied()) {
                found.push(Difference::Missing { id: once.name.clone(), was: once.checksum.clone(), since });
            }
            continue;
        };
        made.insert(at, turn);
        if !steps[at].is_same(&once.checksum) {
            let (id, was, is) = (once.name.clone(), once.checksum.clone(), steps[at].checksum.clone());
            found.push(Difference::Changed { id, was, is, since });
        }
    }
    out_of_order(steps, records, &made, &mut found);
    found
}

/// What of `made`, by its place in the file and its turn, or before it, is not in its order.
fn out_of_order(steps: &[Step], records: &[Recorded], made: &BTreeMap<usize, usize>, found: &mut Vec<Difference>) {
    let Some((&last, _)) = made.last_key_value() else { return };
    let name = |at: usize| steps[at].key.name();
    let made_at = |turn: usize| records[turn].once.finished_at.unwrap_or(records[turn].once.started_at);
    // A file of a directory has an order with those next to it, and anything else with all that comes behind.
    let last_of: BTreeMap<&str, (usize, usize)> =
        made.iter().filter_map(|(at, turn)| Some((directory(name(*at))?, (*at, *turn)))).collect();
    for at in 0..last {
        let id = name(at).to_owned();
        match made.get(&at) {
            None => {
                let behind = match directory(&id) {
                    Some(own) => last_of.get(own).copied(),
                    None => made.last_key_value().map(|(at, turn)| (*at, *turn)),
                };
                if let Some((applied, turn)) = behind.filter(|(applied, _)| *applied > at) {
                    let (applied, since) = (name(applied).to_owned(), made_at(turn));
                    found.push(Difference::Before { id, applied, since });
                }
            }
            Some(own) => {
                let behind = made.range(at + 1..).take_while(|(other, _)| has_order(&id, name(**other)));
                let mut earlier = behind.filter(|(_, turn)| *turn < own);
                if let Some((next, turn)) = earlier.find(|(next, _)| !was_order(name(**next), &id)) {
                    let (applied, since) = (name(*next).to_owned(), made_at(*turn));
                    found.push(Difference::Swapped { id, applied, since });
                }
            }
        }
    }
}
