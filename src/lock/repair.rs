//! `fencron fence repair`: making fences greater than everything seen, after a base was lost or a store went back.

use super::hold::{Base, FENCE_LIMIT, OwnerRecord, fence};
use super::lineage::{Lineage, PastKeys, random_id};
use super::{Backoff, Locks};
use crate::fence::Fence;
use crate::store::{Entry, Keys, Op, Range, Revision, Store, StoreError};

/// How often a repair starts over because another process changed the base, or an answer was lost.
const ATTEMPTS: u32 = 10;

/// What a repair did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repaired {
    /// What fences are counted from now: every later fence is greater.
    pub base: u64,
    /// What they were counted from before; `None` where that was missing or unusable.
    pub base_before: Option<u64>,
    /// The keys that were found and deleted: every hold, every place in a queue, every session of the namespace.
    pub removed: Vec<String>,
    /// When it happened, in the store's history.
    pub revision: Revision,
}

impl<S: Store> Locks<S> {
    /// Sets the fence base of the namespace above every fence that this node has seen, that the store still shows, and
    /// that the present time stands for. The same transaction ends every hold and session of the namespace, and removes
    /// the mark of a store that went back.
    ///
    /// Run it where the node that saw the most keeps its [`SeenFile`](super::SeenFile): a node that has seen a higher
    /// fence goes on refusing the store. `above` is a fence that something else has seen, a guard for one: the base is
    /// above that too. Nodes that run open new sessions by themselves.
    ///
    /// # Errors
    ///
    /// [`StoreError::Refused`] where the highest fence seen leaves no room for more.
    pub async fn repair(&self, above: Option<Fence>) -> Result<Repaired, StoreError> {
        self.repair_with(above, &[]).await
    }

    /// The same; `beside` is in the same transaction.
    pub(crate) async fn repair_with(&self, above: Option<Fence>, beside: &[Op]) -> Result<Repaired, StoreError> {
        let mut backoff = Backoff::new();
        let mut written = None;
        let mut failed = StoreError::Refused("the fence base keeps changing: is another repair running?".to_owned());
        for _ in 0..ATTEMPTS {
            match self.repair_once(above, beside, &mut written).await {
                Ok(Some(repaired)) => {
                    self.note(repaired.base, repaired.revision, None);
                    self.saw_mark(repaired.base, repaired.revision);
                    return Ok(repaired);
                }
                Ok(None) => {}
                Err(error) if error.is_passing() => failed = error,
                Err(error) => return Err(error),
            }
            backoff.wait().await;
        }
        Err(failed)
    }

    /// `written` is what an attempt whose answer was lost may have done.
    async fn repair_once(
        &self,
        above: Option<Fence>,
        beside: &[Op],
        written: &mut Option<Repaired>,
    ) -> Result<Option<Repaired>, StoreError> {
        let keys = PastKeys::new(&self.namespace);
        let base_key = keys.base.clone();
        let page = self.store.range(Range::of(Keys::one(base_key.as_str()))).await?;
        let entry = page.entries.first();
        let base_before = Base::read(&base_key, entry).ok().map(|base| base.value);
        if let Some(repaired) = written.take_if(|repaired| Some(repaired.base) == base_before) {
            return Ok(Some(Repaired { revision: page.revision, ..repaired }));
        }
        let (locks, sessions) = (self.namespace.locks(), self.namespace.sessions());
        let (mut found, _) = self.store.range_all(locks.clone()).await?;
        found.extend(self.store.range_all(sessions.clone()).await?.0);
        let base = self.next_base(above, base_before, &found)?;
        let lineage = self.store.range(Range::of(Keys::one(keys.lineage.as_str()))).await?.entries;
        let lineage = Lineage::read(lineage.first()).map(|lineage| lineage.grown(random_id(), self.clock.wall()));
        let mut txn = keys
            .rebase(entry.map_or(Revision(0), |entry| entry.modified), base)
            .then(Op::Delete(locks))
            .then(Op::Delete(sessions));
        txn.then.extend(beside.iter().cloned());
        txn.then.extend(lineage.map(|lineage| Op::put(&keys.lineage, lineage.encoded())));
        let removed = found.into_iter().map(|entry| entry.key).collect();
        let repaired = Repaired { base, base_before, removed, revision: Revision(0) };
        *written = Some(repaired.clone());
        let committed = self.store.commit(txn).await?;
        Ok(committed.succeeded.then_some(Repaired { revision: committed.revision, ..repaired }))
    }

    fn next_base(&self, above: Option<Fence>, base_before: Option<u64>, found: &[Entry]) -> Result<u64, StoreError> {
        let seen = *self.seen.borrow();
        let shown = |entry: &Entry| OwnerRecord::read(&entry.value).and_then(|owner| fence(owner.base, entry.created));
        let now = u64::try_from(self.clock.wall().as_millis()).unwrap_or(0);
        let base = found.iter().filter_map(shown).chain(above).map(Fence::get).fold(now, u64::max);
        let base = base.max(seen.fence).max(seen.base.saturating_add(1)).max(base_before.map_or(0, |base| base + 1));
        if base < Base::LIMIT {
            return Ok(base);
        }
        Err(StoreError::Refused(format!(
            "the highest fence to go above is {}, which leaves no room below {FENCE_LIMIT}: this namespace cannot be \
             repaired, use another one",
            above.map_or(0, Fence::get).max(seen.fence)
        )))
    }
}
