//! What those do who wait: they watch what the holder of the lock writes and records.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Call, OnceError, Runner, Settled, Told};
use crate::execute::Execute;
use crate::ledger::{Live, Once, OnceState, Recorded};
use crate::store::{Change, Store, Watched};

/// The pause before the store is asked again that did not answer, or a watch is opened that broke.
const PAUSE: Duration = Duration::from_millis(500);

/// How far the output of the holder was told.
#[derive(Debug, Default)]
struct Heard {
    /// Which attempt under which fence, and how many bytes of it.
    of: Option<(String, u64, u32)>,
    bytes: u64,
}

impl Heard {
    /// What of a text, the end of `bytes` bytes, was not told yet; and how much of it is not kept.
    fn news<'t>(&mut self, of: (String, u64, u32), text: &'t str, bytes: u64) -> (u64, &'t str) {
        if self.of.as_ref() != Some(&of) {
            *self = Heard { of: Some(of), bytes: 0 };
        }
        let unheard = bytes.saturating_sub(self.bytes);
        let kept = text.len() as u64;
        self.bytes = self.bytes.max(bytes);
        let shown = usize::try_from(unheard.min(kept)).expect("no longer than the text");
        (unheard - shown as u64, &text[text.ceil_char_boundary(text.len() - shown)..])
    }
}

impl<S: Store, E: Execute> Runner<S, E> {
    /// Watches, and tells what is written, until nothing is left to be done.
    pub(super) async fn look_on(&self, call: &Call<'_>) -> Result<Settled, OnceError> {
        let key = &call.steps[0].key;
        let (mut heard, mut told) = (Heard::default(), BTreeMap::new());
        let mut waits = false;
        loop {
            let (records, at) = match self.ledger.once(key).await {
                Err(error) if error.is_passing() => {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                answer => answer?,
            };
            tell_ended(call, &records, &mut told, &mut heard);
            if let Some(settled) = call.settled_by_others(&records)? {
                return Ok(settled);
            }
            let Ok(mut watch) = self.ledger.watch_once(key, at.next()).await else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            if !std::mem::replace(&mut waits, true) {
                self.tell_holder(call).await;
            }
            if let Ok(Some(live)) = self.ledger.live_once(key).await {
                tell_live(call, &live, &mut heard);
            }
            // Until a record changes; what is live is told on the way.
            loop {
                match watch.next().await {
                    Some(Watched::Changes(changes)) => {
                        if tell_changes(call, &changes, &mut heard) {
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
    tell_text(
        call,
        &live.name,
        heard.news((live.name.clone(), live.fence.get(), live.attempt), &live.text, live.bytes),
    );
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
fn tell_ended(
    call: &Call<'_>,
    records: &[Recorded],
    told: &mut BTreeMap<String, crate::store::Revision>,
    heard: &mut Heard,
) {
    for Recorded { once, modified } in records {
        let has_ended = matches!(once.state, OnceState::Done | OnceState::Failed | OnceState::Unknown);
        let is_news = *modified > call.began_at && told.get(&once.name) != Some(modified);
        if !has_ended || !is_news || !call.steps.iter().any(|step| step.key.name() == once.name) {
            continue;
        }
        told.insert(once.name.clone(), *modified);
        tell_text(call, &once.name, heard.news(last_attempt(once), &once.output, once.output_bytes));
        (call.tell)(Told::Ended { once: Box::new(once.clone()), here: false });
    }
}

fn last_attempt(once: &Once) -> (String, u64, u32) {
    let fence = once.claimed_by.as_ref().map_or(0, |by| by.fence.get());
    (once.name.clone(), fence, once.attempts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_heard_live_is_not_told_again() {
        let mut heard = Heard::default();
        let attempt = |number| ("a".to_owned(), 7, number);
        assert_eq!(heard.news(attempt(1), "one\n", 4), (0, "one\n"));
        assert_eq!(heard.news(attempt(1), "one\ntwo\n", 8), (0, "two\n"));
        assert_eq!(heard.news(attempt(1), "one\ntwo\n", 8), (0, ""));
        assert_eq!(heard.news(attempt(1), "five\n", 20), (7, "five\n"), "what is not kept is counted");
        assert_eq!(heard.news(attempt(2), "one\n", 4), (0, "one\n"), "another attempt begins anew");
    }
}
