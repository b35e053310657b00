//! A store that was restored from a backup: until it is repaired nobody acts in it as if it were what it was.

use super::record::{Fact, Record};
use super::{Findings, Rule};

/// What had been given out and decided before the store was put back.
#[derive(Clone, Copy)]
struct Before {
    fence: u64,
    instant: i64,
}

pub(super) fn judge(record: &Record, found: &mut Findings) {
    let mut now = Before { fence: 0, instant: i64::MIN };
    let (mut before, mut repaired, mut leads) = (None::<Before>, false, false);
    for (at, fact) in &record.facts {
        match fact {
            Fact::Restored { .. } => before = Some(now),
            Fact::Repaired => repaired = true,
            Fact::Owner { fence, node, .. } => {
                if let Some(before) = before.filter(|before| *fence <= before.fence) {
                    let highest = before.fence;
                    found.add(Rule::Restored, *at, format!("{node} was granted fence {fence}, after {highest}"));
                }
                leads = repaired;
                now.fence = now.fence.max(*fence);
            }
            Fact::Decided { instant, fence, .. } => {
                if let Some(before) = before.filter(|before| !repaired && *instant <= before.instant) {
                    let what = format!("fence {fence} decided up to {instant}, which was decided: {}", before.instant);
                    found.add(Rule::Restored, *at, what);
                }
                now.instant = now.instant.max(*instant);
            }
            Fact::Started { attempt, life, .. } => {
                if let Some(before) = before.filter(|before| attempt.fence < before.fence) {
                    let what = format!("{life} started {attempt:?}, and fence {} had been granted", before.fence);
                    found.add(Rule::Restored, *at, what);
                }
            }
            _ => {}
        }
    }
    if repaired && !leads {
        found.add(Rule::Restored, record.end, "nobody leads after the repair");
    }
}
