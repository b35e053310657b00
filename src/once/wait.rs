//! What the waiters do: they watch what the holder of the lock writes and records.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Call, Notice, OnceError, Runner, Settled};
use crate::execute::Execute;
use crate::ledger::{Live, Once, OnceState, Recorded};
use crate::store::{Change, Store, Watched};

/// The pause before a store that did not answer is asked again, or a broken watch is opened again.
const PAUSE: Duration = Duration::from_millis(500);

/// An attempt, and the fence that it is made under.
type Of = (u64, u32);

/// What a waiter has received so far, over all its sessions.
#[derive(Debug, Default)]
pub(super) struct Reported {
    /// Of each step: the last attempt, and how many bytes of its output were reported.
    of: BTreeMap<String, (Of, u64)>,
    /// The verdicts.
    ended: BTreeMap<String, crate::store::Revision>,
    /// Whether the holder was reported.
    holder: bool,
}

impl Reported {
    /// The part of a text, which is the end of `bytes` bytes, that was not reported yet; and how much of it is not kept.
    fn news<'t>(&mut self, name: &str, of: Of, text: &'t str, bytes: u64) -> (u64, &'t str) {
        let reported = self.of.entry(name.to_owned()).or_insert((of, 0));
        if reported.0 > of {
            // Late output of an attempt that was followed by another one is old.
            return (0, "");
        }
        if reported.0 < of {
            *reported = (of, 0);
        }
        let unreported = bytes.saturating_sub(reported.1);
        let kept = text.len() as u64;
        reported.1 = reported.1.max(bytes);
        let shown = usize::try_from(unreported.min(kept)).expect("no longer than the text");
        (unreported - shown as u64, &text[text.ceil_char_boundary(text.len() - shown)..])
    }
}

impl<S: Store, E: Execute> Runner<S, E> {
    /// Watches, and reports what is written, until nothing is left to do.
    pub(super) async fn watch_holder(&self, call: &Call<'_>, reported: &mut Reported) -> Result<Settled, OnceError> {
        let key = &call.steps[0].key;
        loop {
            let (records, at) = match self.ledger.once(key).await {
                Err(error) if error.is_passing() => {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                answer => answer?,
            };
            report_ended(call, &records, reported);
            if let Some(settled) = call.settled_by_others(&records)? {
                return Ok(settled);
            }
            let Ok(mut watch) = self.ledger.watch_once(key, at.next()).await else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            if !std::mem::replace(&mut reported.holder, true) {
                self.report_holder(call).await;
            }
            if let Ok(Some(live)) = self.ledger.live_once(key).await
                && is_under_way(&live, &records)
            {
                report_live(call, &live, reported);
            }
            // Until a record changes; live output is reported on the way.
            loop {
                match watch.next().await {
                    Some(Watched::Changes(changes)) => {
                        if report_changes(call, &changes, reported) {
                            break;
                        }
                    }
                    Some(Watched::Compacted(_)) | None => {
                        tokio::time::sleep(PAUSE).await;
                        break;
                    }
                }
            }
        }
    }

    async fn report_holder(&self, call: &Call<'_>) {
        let election = self.locks.election(call.steps[0].key.lock());
        if let Ok(standing) = election.observe().await
            && let Some(leader) = standing.leader.filter(|leader| leader.node != self.node)
        {
            (call.report)(Notice::Waits { holder: leader.node });
        }
    }
}

/// Whether live output belongs to work that goes on now: it stays there until the next work begins to write.
fn is_under_way(live: &Live, records: &[Recorded]) -> bool {
    let own = records.iter().map(|recorded| &recorded.once).find(|once| once.name == live.name);
    own.is_some_and(|once| {
        once.state == OnceState::Claimed && once.claimed_by.as_ref().is_some_and(|by| by.fence == live.fence)
    })
}

/// Reports live output. Answers whether a record changed.
fn report_changes(call: &Call<'_>, changes: &[Change], reported: &mut Reported) -> bool {
    let mut recorded = false;
    for change in changes {
        match change {
            Change::Put(entry) => match Live::read(entry) {
                Some(live) => report_live(call, &live, reported),
                None => recorded = true,
            },
            // Of a record, or of live output: the records are read again.
            Change::Deleted { .. } => recorded = true,
        }
    }
    recorded
}

fn report_live(call: &Call<'_>, live: &Live, reported: &mut Reported) {
    let of = (live.fence.get(), live.attempt);
    report_text(call, &live.name, reported.news(&live.name, of, &live.text, live.bytes));
}

fn report_text(call: &Call<'_>, name: &str, (missed, text): (u64, &str)) {
    if missed > 0 {
        (call.report)(Notice::Missed { name: name.to_owned(), bytes: missed });
    }
    if !text.is_empty() {
        (call.report)(Notice::Output { name: name.to_owned(), text: text.to_owned() });
    }
}

/// Reports the steps that have ended since the call began, with the part of their output that was not reported live.
pub(super) fn report_ended(call: &Call<'_>, records: &[Recorded], reported: &mut Reported) {
    for Recorded { once, modified } in records {
        let has_ended = matches!(once.state, OnceState::Done | OnceState::Failed | OnceState::Unknown);
        let is_news = *modified > call.began_at && reported.ended.get(&once.name) != Some(modified);
        if !has_ended || !is_news || !call.steps.iter().any(|step| step.key.name() == once.name) {
            continue;
        }
        reported.ended.insert(once.name.clone(), *modified);
        report_text(call, &once.name, reported.news(&once.name, last_attempt(once), &once.output, once.output_bytes));
        (call.report)(Notice::Ended { once: Box::new(once.clone()), here: false });
    }
}

fn last_attempt(once: &Once) -> Of {
    (once.claimed_by.as_ref().map_or(0, |by| by.fence.get()), once.attempts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_heard_live_is_not_told_again() {
        let mut reported = Reported::default();
        let mut news = |name: &str, attempt, text: &'static str, bytes| reported.news(name, (7, attempt), text, bytes);
        assert_eq!(news("a", 1, "one\n", 4), (0, "one\n"));
        assert_eq!(news("a", 1, "one\ntwo\n", 8), (0, "two\n"));
        assert_eq!(news("b", 1, "one\n", 4), (0, "one\n"), "another has begun");
        assert_eq!(news("a", 1, "one\ntwo\n", 8), (0, ""), "and its record is read later");
        assert_eq!(news("a", 1, "five\n", 20), (7, "five\n"), "what is not kept is counted");
        assert_eq!(news("a", 2, "one\n", 4), (0, "one\n"), "another attempt begins anew");
        assert_eq!(news("a", 1, "five\nsix\n", 24), (0, ""), "and the one before has nothing new to say");
    }

    #[test]
    fn what_is_left_of_one_that_has_ended_is_not_under_way() {
        let fence = crate::fence::Fence::new(7).unwrap();
        let live = Live { name: "a".into(), fence, attempt: 1, text: "old\n".into(), bytes: 4 };
        let once = |state| Once {
            name: "a".into(),
            state,
            checksum: String::new(),
            claimed_by: Some(crate::ledger::ClaimedBy { node: "n".into(), lease: 1, fence }),
            attempts: 1,
            started_at: crate::time::Wall::EPOCH,
            finished_at: None,
            reason: String::new(),
            exit_code: None,
            output: String::new(),
            output_bytes: 0,
        };
        let under_way =
            |state| is_under_way(&live, &[Recorded { once: once(state), modified: crate::store::Revision(1) }]);
        assert!(under_way(OnceState::Claimed));
        assert!(!under_way(OnceState::Done) && !under_way(OnceState::Failed));
    }
}
