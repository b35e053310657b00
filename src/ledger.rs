//! The ledger: what was claimed, what runs, how it ended. The one place, beside `lock`, that knows keys and encodings.
//!
//! Every change is one transaction that proves, as it is made, what entitles its maker to it:
//!
//! | change | condition, in the same transaction |
//! | --- | --- |
//! | a batch of claims | the leader's owner key is the one this term created, on its lease; the watermark is unmoved |
//! | a batch of claims after a rewind | the same, and nothing of it has a claim or a verdict |
//! | a rewind | the watermark is unmoved |
//! | an attempt begun, a lost leader's run decided | the same owner key; the open run is as it was |
//! | how an attempt ended, by the node that executed it | the open run is as it was: what a successor decided stands |
//! | a job first seen | the same owner key |
//! | what was counted in an hour | the same owner key; the record is as it was read |
//! | how a job's last run ended, with its verdict | that record is as its writer knows it |
//! | an act of a person | what it is about is as the person saw it; its record is absent, and put with it |
//! | an alert | those of the verdict that it is about |
//! | what a channel takes of its alerts, and sends | the same owner key; the channel's record is as it was read |
//! | a claim of what is done once | the hold of its lock stands; its record is as it was |
//! | how that ended | its record is as it was claimed |
//!
//! An answer that did not come is settled by reading back: a claim by the watermark, which names its batch; a change
//! of a run by the run itself. Repeating a transaction is harmless, since each changes what it compares.

use std::time::Duration;

mod act;
mod alerts;
mod attention;
mod audit;
#[cfg(feature = "cli")]
mod auth;
mod backfill;
mod drain;
mod follow;
mod history;
mod keys;
mod last;
mod once;
mod pages;
mod prune;
mod record;
mod request;
mod rewind;
mod stats;
mod terms;
mod transition;
mod watermark;

pub use act::{Act, Acting, Before, Deed, Once as OnceAsked, REASON_MOST, Via};
pub use alerts::{ALERTS_KEPT, ALERTS_LISTED, AlertsPut, GONE_KEPT, Lost, Next, Outbox, Waiting};
pub use attention::{ATTENTION_AGE, ATTENTION_BETWEEN, ATTENTION_KEPT, Attention, AttentionPage};
pub use audit::{AUDIT_AGE, AUDIT_KEPT, AuditPage, AuditRow, FindAudit, ONCE_AGE, ONCE_KEPT};
pub use backfill::{BACKFILL_MOST, BACKFILLS_KEPT, Backfill, BackfillPlan, BackfillProgress};
pub use drain::{ALL_DRAINED, all_drained};
pub(crate) use follow::pass_on;
pub use follow::{Follow, Followed, News};
pub use history::{Find, RunRow};
pub use last::LastRuns;
pub use once::{ClaimedBy, Live, NotAKey, Once, OnceKey, OnceKind, OnceState, Recorded};
pub use pages::{DonePage, DonePlace, FindDone, SEARCHED_MOST};
pub use prune::Pruned;
pub use record::{Asked, HandOver, NodeRecord, Pause};
pub use request::{ALL_JOBS, AskError, CALL_DIGITS, HOLDS_TAKEN_MOST, Resolution, check_params};
pub use rewind::{AHEAD_MOST, RewindError, Rewinding, Rewound};
pub use stats::{Addition, AdditionName, HourRow, STATS_KEPT};
pub use terms::{NewTerm, TERMS_KEPT, TermEnd, TermRow};
pub use transition::Changed;

use keys::LedgerKeys;
use record::{DoneRecord, KnownRecord, OpenRecord, WatermarkRecord, decode, encode};

use crate::job::{JobName, RunId};
use crate::lock::{Hold, Namespace};
use crate::scheduler::Batch;
use crate::scheduler::run::{Known, Version};
use crate::store::{Compare, Entry, Op, Revision, Store, StoreError, Txn};

/// The longest pause before a change is tried again that got no answer; the first is [`PAUSE_FIRST`].
const PAUSE_MOST: Duration = Duration::from_secs(1);
const PAUSE_FIRST: Duration = Duration::from_millis(20);

/// How many jobs one transaction registers.
const REGISTERED_AT_ONCE: usize = 100;

/// One namespace's ledger in a store.
#[derive(Clone, Debug)]
pub struct Ledger<S> {
    store: S,
    namespace: Namespace,
    keys: LedgerKeys,
}

/// How a claim went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The batch is in the ledger, at this version.
    Made { version: Version },
    /// This term is over, or the watermark was moved by another: nothing was claimed.
    Fenced,
    /// The store takes no transaction of this size: nothing was claimed.
    TooLarge,
    /// Some of it has a claim or a verdict from before a rewind, or may have had a verdict that was pruned: nothing was
    /// claimed.
    Decided { decided: Vec<RunId>, forgotten: Vec<RunId> },
    /// A person has brought the watermark back meanwhile, at this version: nothing was claimed.
    Rewound { version: Version },
}

/// Where the claims of one term stand: each moves the watermark from where the one before left it.
#[derive(Clone, Debug)]
pub struct Claims {
    hold: Hold,
    watermark_at: Revision,
}

impl Claims {
    /// The claims of a term that begins with the watermark's key at this version (0: there is none). No other node
    /// moves it for as long as the hold stands, so what was seen of it since the hold began is what it is.
    pub fn new(hold: Hold, watermark_at: Version) -> Claims {
        Claims { hold, watermark_at: Revision(watermark_at) }
    }

    /// A person has brought the watermark back, at this version, and the ledger has been seen up to that.
    pub fn rewound(&mut self, version: Version) {
        self.watermark_at = self.watermark_at.max(Revision(version));
    }

    /// The hold of the term.
    pub fn hold(&self) -> &Hold {
        &self.hold
    }
}

impl<S: Store> Ledger<S> {
    /// The ledger of `namespace`.
    pub fn new(store: S, namespace: Namespace) -> Ledger<S> {
        let keys = LedgerKeys::new(&namespace);
        Ledger { store, namespace, keys }
    }

    pub fn store(&self) -> &S {
        &self.store
    }

    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Claims a batch: all of it, once, or nothing. Repeats until there is an answer; dropped before, the watch shows
    /// whether the batch was claimed.
    pub async fn claim(&self, claims: &mut Claims, batch: &Batch) -> Result<Claim, StoreError> {
        let name = format!("{}-{}", batch.fence, batch.number);
        let forgotten = if batch.anew { self.forgotten(batch).await? } else { Vec::new() };
        if !forgotten.is_empty() {
            return Ok(Claim::Decided { decided: Vec::new(), forgotten });
        }
        let txn = self.claim_txn(claims, batch, &name);
        let mut pause = Pauses::new();
        loop {
            match self.store.commit(txn.clone()).await {
                Ok(committed) if committed.succeeded => {
                    claims.watermark_at = committed.revision;
                    return Ok(Claim::Made { version: committed.revision.0 });
                }
                Ok(committed) => {
                    let watermark = committed.got(0).and_then(<[Entry]>::first);
                    let ours = watermark.filter(|entry| batch_of(entry).as_deref() == Some(&name));
                    let Some(entry) = ours else {
                        return Ok(self.refused_claim(&committed, batch, claims.watermark_at));
                    };
                    claims.watermark_at = entry.modified;
                    return Ok(Claim::Made { version: entry.modified.0 });
                }
                Err(StoreError::Refused(why)) if batch.opens.len() + batch.dones.len() > 1 => {
                    tracing::warn!(%why, "the store refuses a batch of this size: claiming fewer at a time");
                    return Ok(Claim::TooLarge);
                }
                Err(error) if error.is_passing() => pause.wait(&error, "claim").await,
                Err(error) => return Err(error),
            }
        }
    }

    fn claim_txn(&self, claims: &Claims, batch: &Batch, name: &str) -> Txn {
        let mut txn = claims.hold.still_held().into_iter().fold(Txn::new(), Txn::when);
        txn = txn.when(Compare::modified_at(self.keys.watermark(), claims.watermark_at));
        for open in &batch.opens {
            txn = txn.then(Op::put(self.keys.open(&open.id), encode(OpenRecord::from(open))));
        }
        for done in &batch.dones {
            txn = txn.then(Op::put(self.keys.verdict(done), encode(DoneRecord::from(done))));
        }
        // The watermark has not moved since this term put these, so they are what it knows them to be.
        for run in &batch.replaced {
            txn = txn.then(Op::Delete(self.keys.verdict_on(run)));
        }
        for (job, known) in &batch.known {
            txn = txn.then(Op::put(self.keys.job(job), encode(KnownRecord::from(known))));
        }
        txn = self.put_alerts(txn, &batch.alerts);
        let watermark = WatermarkRecord::new(&batch.watermark, name.to_owned());
        let txn = txn.then(claims.hold.mark()).then(Op::put(self.keys.watermark(), encode(watermark)));
        let txn = txn.otherwise(Op::get(self.keys.watermark()));
        if batch.anew { self.compare_undecided(txn, batch) } else { txn }
    }

    /// Records since when jobs are due, and forgets others. `false`: the term is over.
    pub async fn register(
        &self,
        hold: &Hold,
        known: &[(JobName, Known)],
        forget: &[JobName],
    ) -> Result<bool, StoreError> {
        let puts = known.iter().map(|(job, known)| Op::put(self.keys.job(job), encode(KnownRecord::from(known))));
        let deletes = forget.iter().map(|job| Op::delete(self.keys.job(job)));
        let ops: Vec<Op> = puts.chain(deletes).collect();
        for ops in ops.chunks(REGISTERED_AT_ONCE) {
            if !self.write_as_leader(hold, &[], ops).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether the hold stands in the store, now. What is written as leader does not ask: it compares.
    pub async fn stands(&self, hold: &Hold) -> Result<bool, StoreError> {
        self.write_as_leader(hold, &[], &[]).await
    }

    /// Applies `ops`, which are harmless to repeat, for as long as the hold and `conditions` stand. `false`: one does
    /// not.
    async fn write_as_leader(&self, hold: &Hold, conditions: &[Compare], ops: &[Op]) -> Result<bool, StoreError> {
        let mut pause = Pauses::new();
        loop {
            let proof = hold.still_held().into_iter().chain(conditions.iter().cloned());
            let mut txn = proof.fold(Txn::new(), Txn::when);
            txn.then = ops.to_vec();
            match self.store.commit(txn).await {
                Ok(committed) => return Ok(committed.succeeded),
                Err(error) if error.is_passing() => pause.wait(&error, "write as leader").await,
                Err(error) => return Err(error),
            }
        }
    }
}

fn batch_of(watermark: &Entry) -> Option<String> {
    decode::<WatermarkRecord>(&watermark.value).map(|record| record.batch)
}

/// The pauses between the tries of one change: doubling, bounded, and reported once in a while.
struct Pauses {
    next: Duration,
    tries: u32,
}

impl Pauses {
    fn new() -> Pauses {
        Pauses { next: PAUSE_FIRST, tries: 0 }
    }

    async fn wait(&mut self, error: &StoreError, what: &str) {
        self.tries += 1;
        if self.tries.is_power_of_two() {
            tracing::warn!(%error, tries = self.tries, "no answer to a {what} yet; trying on");
        }
        tokio::time::sleep(self.next).await;
        self.next = (self.next * 2).min(PAUSE_MOST);
    }
}

#[cfg(test)]
mod tests;
