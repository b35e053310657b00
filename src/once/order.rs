//! PURE: how the migrations that are asked for differ from those that were made.

use std::collections::BTreeMap;
use std::fmt;

use super::Step;
use crate::ledger::{OnceKind, OnceState, Recorded};
use crate::time::Wall;

/// How many hexadecimal digits of a checksum are shown.
const CHECKSUM_SHOWN: usize = 12;

/// How many differences are told.
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

/// Holds `steps` against what is recorded of migrations, in the order in which they were made. What has failed may
/// be changed or dropped: it is not there. What is not a migration has no order.
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
            found.push(Difference::Missing { id: once.name.clone(), was: once.checksum.clone(), since });
            continue;
        };
        made.insert(at, turn);
        let is = &steps[at].checksum;
        if *is != once.checksum {
            let (id, was) = (once.name.clone(), once.checksum.clone());
            found.push(Difference::Changed { id, was, is: is.clone(), since });
        }
    }
    let Some((&last, &turn)) = made.last_key_value() else { return found };
    let made_at = |turn: usize| records[turn].once.finished_at.unwrap_or(records[turn].once.started_at);
    for at in 0..last {
        let id = steps[at].key.name().to_owned();
        match made.get(&at) {
            None => {
                let applied = steps[last].key.name().to_owned();
                found.push(Difference::Before { id, applied, since: made_at(turn) });
            }
            Some(own) => {
                let earlier = made.range(at + 1..).find(|(_, turn)| *turn < own);
                if let Some((next, turn)) = earlier {
                    let applied = steps[*next].key.name().to_owned();
                    found.push(Difference::Swapped { id, applied, since: made_at(*turn) });
                }
            }
        }
    }
    found
}
