//! What those do who wait: they watch what the holder of the lock writes and records.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Call, OnceError, Runner, Settled, Told};
use crate::execute::Execute;
use crate::ledger::{Live, Once, OnceState, Recorded};
use crate::store::{Change, Store, Watched};

/// The pause before the store is asked again that did not answer, or a watch is opened that broke.
const PAUSE: Duration = Duration::from_millis(500);

/// An attempt, and the fence that it is made under.
type Of = (u64, u32);

/// What whoever waits was told, through however many sessions.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// Of each of those that are waited for, the last attempt, and how many bytes of its output.
    of: BTreeMap<String, (Of, u64)>,
    /// The verdicts.
    ended: BTreeMap<String, crate::store::Revision>,
    /// Who is waited for.
    holder: bool,
}

impl Heard {
    /// What of a text, the end of `bytes` bytes, was not told yet; and how much of it is not kept.
    fn news<'t>(&mut self, name: &str, of: Of, text: &'t str, bytes: u64) -> (u64, &'t str) {
        let heard = self.of.entry(name.to_owned()).or_insert((of, 0));
        if heard.0 > of {
            // What comes late of an attempt that another has followed is old.
            return (0, "");
        }
        if heard.0 < of {
            *heard = (of, 0);
        }
        let unheard = bytes.saturating_sub(heard.1);
        let kept = text.len() as u64;
        heard.1 = heard.1.max(bytes);
        let shown = usize::try_from(unheard.min(kept)).expect("no longer than the text");
        (unheard - shown as u64, &text[text.ceil_char_boundary(text.len() - shown)..])
    }
}

impl<S: Store, E: Execute> Runner<S, E> {
    /// Watches, and tells what is written, until nothing is left to be done.
    pub(super) async fn look_on(&self, call: &Call<'_>, heard: &mut Heard) -> Result<Settled, OnceError> {
        let key = &call.steps[0].key;
        loop {
            let (records, at) = match self.ledger.once(key).await {
                Err(error) if error.is_passing() => {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                answer => answer?,
            };
            tell_ended(call, &records, heard);
            if let Some(settled) = call.settled_by_others(&records)? {
                return Ok(settled);
            }
            let Ok(mut watch) = self.ledger.watch_once(key, at.next()).await else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            if !std::mem::replace(&mut heard.holder, true) {
                self.tell_holder(call).await;
            }
            if let Ok(Some(live)) = self.ledger.live_once(key).await
                && is_under_way(&live, &records)
            {
                tell_live(call, &live, heard);
            }
            // Until a record changes; what is live is told on the way.
            loop {
                match watch.next().await {
                    Some(Watched::Changes(changes)) => {
                        if tell_changes(call, &changes, heard) {
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

    async fn tell_holder(&self, call: &Call<'_>) {
        let election = self.locks.election(call.steps[0].key.lock());
        if let Ok(standing) = election.observe().await
            && let Some(leader) = standing.leader.filter(|leader| leader.node != self.node)
        {
            (call.tell)(Told::Waits { holder: leader.node });
        }
    }
}

/// Whether what is shown is of what is being made now: it stays there until the next begins to write.
fn is_under_way(live: &Live, records: &[Recorded]) -> bool {
    let own = records.iter().map(|recorded| &recorded.once).find(|once| once.name == live.name);
    own.is_some_and(|once| {
        once.state == OnceState::Claimed && once.claimed_by.as_ref().is_some_and(|by| by.fence == live.fence)
    })
}

/// Tells what is live. Answers whether something was recorded.
fn tell_changes(call: &Call<'_>, changes: &[Change], heard: &mut Heard) -> bool {
    let mut recorded = false;
    for change in changes {
        match change {
            Change::Put(entry) => match Live::read(entry) {
                Some(live) => tell_live(call, &live, heard),
                None => recorded = true,
            },
            // Of a record, or of what was live: a look tells.
            Change::Deleted { .. } => recorded = true,
        }
    }
    recorded
}

fn tell_live(call: &Call<'_>, live: &Live, heard: &mut Heard) {
    let of = (live.fence.get(), live.attempt);
    tell_text(call, &live.name, heard.news(&live.name, of, &live.text, live.bytes));
}

fn tell_text(call: &Call<'_>, name: &str, (missed, text): (u64, &str)) {
    if missed > 0 {
        (call.tell)(Told::Missed { name: name.to_owned(), bytes: missed });
    }
    if !text.is_empty() {
        (call.tell)(Told::Output { name: name.to_owned(), text: text.to_owned() });
    }
}

/// Tells of what has ended since the call began, with what of its output was not heard live.
pub(super) fn tell_ended(call: &Call<'_>, records: &[Recorded], heard: &mut Heard) {
    for Recorded { once, modified } in records {
        let has_ended = matches!(once.state, OnceState::Done | OnceState::Failed | OnceState::Unknown);
        let is_news = *modified > call.began_at && heard.ended.get(&once.name) != Some(modified);
        if !has_ended || !is_news || !call.steps.iter().any(|step| step.key.name() == once.name) {
            continue;
        }
        heard.ended.insert(once.name.clone(), *modified);
        tell_text(call, &once.name, heard.news(&once.name, last_attempt(once), &once.output, once.output_bytes));
        (call.tell)(Told::Ended { once: Box::new(once.clone()), here: false });
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
        let mut heard = Heard::default();
        let mut news = |name: &str, attempt, text: &'static str, bytes| heard.news(name, (7, attempt), text, bytes);
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
