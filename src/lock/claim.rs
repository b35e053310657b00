//! Claims of programs that keep no ledger: one occurrence of a job after the other, each once, under any leader.
//!
//! A job has one key. It holds the instant up to which the job's occurrences have been decided. A claim is one
//! transaction that compares the hold and that key, and moves the key on: what the ledger does for all jobs of a node,
//! in small.

use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use super::contest::commit;
use super::hold::{Hold, json};
use super::keys::{CallId, LockName, claimed};
use super::{Backoff, Locks};
use crate::store::{Committed, Compare, Entry, Op, Revision, Store, StoreError, Txn};
use crate::time::Wall;

/// The version of the record.
const RECORD: u32 = 1;

/// The occurrences of one job, under the holds of one lock.
#[derive(Debug)]
pub(crate) struct Claims<S> {
    locks: Locks<S>,
    key: String,
    /// The last that was seen of the key. Where it was put since, a claim takes two round trips.
    seen: Mutex<Option<Decided>>,
}

/// Up to where the job's occurrences have been decided, and when that was put.
#[derive(Clone, Copy, Debug)]
struct Decided {
    until: Wall,
    modified: Revision,
}

/// The result of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// The occurrence belongs to the caller alone.
    Taken,
    /// The job's occurrences have been decided up to this instant, the one asked for among them.
    Decided(Wall),
    /// The hold is over.
    NotHeld,
}

/// The value of `claimed/…`.
#[derive(Debug, Serialize, Deserialize)]
struct ClaimRecord {
    v: u32,
    /// The last instant that was claimed.
    at: Wall,
    /// Under which fence, for operators who read the store.
    fence: u64,
    /// By which call: what settles a lost answer.
    call: String,
}

impl<S: Store> Claims<S> {
    /// The claims of `job` under the holds of `lock`.
    pub fn new(locks: Locks<S>, lock: &LockName, job: &str) -> Claims<S> {
        let key = claimed(&locks.namespace, lock, job);
        Claims { locks, key, seen: Mutex::default() }
    }

    /// Where it is kept what has been claimed.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Takes the occurrence `at`, if `hold` stands and no occurrence as late was taken before. It goes on trying while
    /// the store is unavailable. Dropping the future may leave the occurrence claimed without an owner; the same `call`
    /// finds it again, and takes it over under a later hold.
    pub async fn claim(&self, call: CallId, hold: &Hold, at: Wall) -> Result<Claim, StoreError> {
        let (call, fence) = (call.to_string(), hold.fence().get());
        let value = json(&ClaimRecord { v: RECORD, at, fence, call: call.clone() });
        let mut backoff = Backoff::new();
        // What the call has put under an earlier hold.
        let mut put_before = None;
        loop {
            // What was decided may have been deleted since, by hand: that it is there still is for the store to say.
            let seen = put_before.or_else(|| self.seen().filter(|seen| seen.until < at));
            let unchanged = seen.map_or(Revision(0), |seen: Decided| seen.modified);
            let txn = hold.still_held().into_iter().fold(Txn::new(), Txn::when);
            let txn = txn.when(Compare::modified_at(self.key.as_str(), unchanged));
            let txn = txn.then(hold.mark());
            let txn = txn.then(Op::put(self.key.as_str(), value.clone())).otherwise(Op::get(self.key.as_str()));
            let committed = match commit(&self.locks.store, txn).await {
                Ok(committed) => committed,
                Err(error) if error.is_passing() => {
                    tracing::debug!(%error, key = %self.key, "claiming again: the call's id shows whether it was claimed");
                    backoff.wait().await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            if committed.succeeded {
                self.note(Some(Decided { until: at, modified: committed.revision }));
                self.locks.saw_claim(hold, committed.revision);
                return Ok(Claim::Taken);
            }
            let found = self.found(&committed)?;
            let is_ours = found.as_ref().is_some_and(|(record, _)| record.call == call);
            let is_of_this_hold = found.as_ref().is_some_and(|(record, _)| record.fence == fence);
            let found = found.map(|(record, modified)| Decided { until: record.at, modified });
            self.note(found);
            match found {
                _ if is_ours && is_of_this_hold => return Ok(Claim::Taken),
                Some(found) if is_ours && found.modified != unchanged => put_before = Some(found),
                Some(found) if !is_ours && found.until >= at => return Ok(Claim::Decided(found.until)),
                found if found.map_or(Revision(0), |found| found.modified) == unchanged => return Ok(Claim::NotHeld),
                // What was put before is there no more.
                _ => put_before = None,
            }
        }
    }

    fn seen(&self) -> Option<Decided> {
        *self.seen.lock().expect("no code panics while it holds this")
    }

    fn note(&self, decided: Option<Decided>) {
        *self.seen.lock().expect("no code panics while it holds this") = decided;
    }

    fn found(&self, committed: &Committed) -> Result<Option<(ClaimRecord, Revision)>, StoreError> {
        let Some(Entry { value, modified, .. }) = committed.got(0).and_then(<[Entry]>::first) else { return Ok(None) };
        let record = serde_json::from_slice(value).ok().filter(|record: &ClaimRecord| record.v == RECORD);
        let unreadable = || {
            let key = &self.key;
            StoreError::Unusable(format!("`{key}` is not of this version: delete it to begin the job's claims again"))
        };
        record.map(|record| Some((record, *modified))).ok_or_else(unreadable)
    }
}
