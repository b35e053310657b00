//! What a process remembers of its store: compared with what the store shows, kept on a disk, and, when the store went
//! back, published to all others in the store itself.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;

use super::Locks;
use super::contest::{commit, settle};
use super::hold::{Hold, Opening};
use super::lineage::{LINK_EVERY, Lineage, Past, PastKeys, Refusal, random_id};
use super::seen::{Seen, SeenFile, SeenFileError, StoreWentBack};
use crate::fence::Fence;
use crate::store::{Committed, Compare, Entry, Keys, Op, Range, Revision, Store, StoreError, Txn};

/// How long a save may delay a grant. A disk that hangs costs the memory, not the term.
const SAVE_WITHIN: Duration = Duration::from_secs(2);

/// How often, at most, a renewal of the lineage starts over because of another writer.
const RENEWALS: u32 = 4;

/// Of how many semaphores the permits end in the transaction that refuses a store. Those of the rest end right after it.
const REFUSED_AT_ONCE: usize = 64;

/// The file in which it is kept what was seen, and what is being done about that.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    file: SeenFile,
    /// What this process saved last. Held while a save is under way, by the thread that saves: one that hangs is the only
    /// one that does.
    saved: Arc<Mutex<Option<Seen>>>,
    /// It was said that it cannot be saved.
    reported: Arc<AtomicBool>,
    /// When this process last saw to the lineage, in milliseconds of the boot clock; 0: never.
    renewed: Arc<AtomicU64>,
}

impl Kept {
    pub fn new(file: SeenFile) -> Kept {
        Kept { file, saved: Arc::default(), reported: Arc::default(), renewed: Arc::default() }
    }
}

/// What a look at the whole past of a namespace found to be right.
struct Verified {
    past: Past,
    /// `None`: a newer version wrote it.
    lineage: Option<Lineage>,
    lineage_modified: Revision,
}

impl<S: Store> Locks<S> {
    /// What has been seen so far: to be read before a question is sent, and held against its answer.
    pub(super) fn current(&self) -> Seen {
        *self.seen.borrow()
    }

    fn change(&self, change: impl FnOnce(&mut Seen)) {
        self.seen.send_if_modified(|seen| {
            let before = *seen;
            change(seen);
            *seen != before
        });
    }

    pub(super) fn note(&self, base: u64, revision: Revision, fence: Option<Fence>) {
        self.change(|seen| seen.note(base, revision, fence));
    }

    /// Notes a revision that the store was seen at since the last election or observation: what is below it later is an
    /// older store.
    pub fn saw(&self, revision: Revision) {
        self.change(|seen| seen.note(seen.base, revision, None));
    }

    /// Notes that something was granted or claimed at `marked`, by whomever, over fences that are counted from `base`.
    pub fn saw_mark(&self, base: u64, marked: Revision) {
        self.change(|seen| seen.note_mark(base, marked));
    }

    /// Notes that something was claimed under `hold`.
    pub fn saw_claim(&self, hold: &Hold, at: Revision) {
        self.saw_mark(hold.base(), at);
    }

    /// Notes that the store was found older than it had been, as counted from `base`: from here on nothing is taken from
    /// it, however far it grows, until it is repaired.
    pub(super) fn distrust(&self, base: u64) {
        self.change(|seen| seen.went_back |= seen.base == base);
    }

    /// Notes that a follower of the store was shown a revision below one it had been shown before.
    pub fn saw_it_go_back(&self) {
        let base = self.current().base;
        self.distrust(base);
    }

    /// Refuses a store that is older than `seen`, by what a look at `revision` shows, and notes what that shows
    /// otherwise.
    pub(super) fn check(
        &self,
        past: &Past,
        revision: Revision,
        fence: Option<Fence>,
        seen: &Seen,
    ) -> Result<(), StoreWentBack> {
        if let Err(went_back) = seen.check_past(past, revision) {
            // What another process has found out is known for as long as the store shows it.
            if past.refused.is_none() {
                self.distrust(seen.base);
            }
            return Err(went_back);
        }
        if let Ok(base) = &past.base {
            self.change(|seen| {
                seen.note(base.value, revision, fence);
                seen.note_mark(base.value, past.marked);
            });
            self.base.send_replace(Some(*base));
        }
        Ok(())
    }

    /// What a new call may try to seize a lock on, without a look at it. `None`: the base was never read, or the store is
    /// known to have gone back. What is out of date makes the seizure fail, no more.
    pub(super) fn opening(&self) -> Option<Opening> {
        let (seen, base) = (self.current(), (*self.base.borrow())?);
        let is_current = base.value == seen.base && !seen.went_back;
        is_current.then_some(Opening { base, wanted_at: seen.revision })
    }

    /// Checks whether the store still knows everything that was seen of it, by its lineage too. If it does not, nothing
    /// is granted in it to any process until it is repaired.
    ///
    /// # Errors
    ///
    /// The store's. A store that went back is no error here: calls for a hold fail with it.
    pub async fn verify(&self) -> Result<Result<(), StoreWentBack>, StoreError> {
        Ok(self.verified().await?.map(drop))
    }

    async fn verified(&self) -> Result<Result<Verified, StoreWentBack>, StoreError> {
        let (seen, keys) = (self.current(), PastKeys::new(&self.namespace));
        let look = keys.look().into_iter().chain([Op::get(&keys.lineage)]).fold(Txn::new(), Txn::then);
        let committed = settle(&self.store, look).await?;
        let other = || StoreError::Unusable("the store answered something else than was asked".to_owned());
        let found = read(&keys, &committed).ok_or_else(other)?;
        let by_lineage = || match (&found.past.base, &found.lineage) {
            (Ok(base), Some(lineage)) => {
                seen.check_lineage(base.value, lineage).inspect_err(|_| self.distrust(seen.base))
            }
            _ => Ok(()),
        };
        match self.check(&found.past, committed.revision, None, &seen).and_then(|()| by_lineage()) {
            Ok(()) => {
                if let (Ok(base), Some(lineage)) = (&found.past.base, &found.lineage) {
                    self.change(|seen| seen.note_lineage(base.value, lineage));
                }
                Ok(Ok(found))
            }
            Err(went_back) => {
                self.refuse(&keys, &found, &seen, &went_back).await?;
                Ok(Err(went_back))
            }
        }
    }

    /// Publishes in the store that it went back, and ends every hold: what is held in a store that went back may be
    /// held elsewhere, under a greater fence. A store that is not known to be the remembered one is left alone: it may
    /// be a different store, under an address where another one was seen before.
    async fn refuse(
        &self,
        keys: &PastKeys,
        found: &Verified,
        seen: &Seen,
        why: &StoreWentBack,
    ) -> Result<(), StoreError> {
        let is_same = found.lineage.as_ref().is_some_and(|lineage| seen.is_of_same_store(lineage));
        let (refused, unbased) = (found.past.refused.is_some(), found.past.base.is_err());
        if refused || !(is_same || unbased) {
            return Ok(());
        }
        // A repair that has come in between is the present.
        let base_modified = found.past.base.as_ref().ok().map(|base| base.modified);
        let txn = keys.refuse(base_modified, Refusal::new(self.clock.wall(), &why.why).encoded());
        let mut permits = Box::pin(self.permits_held()).await?.into_iter().map(|place| Op::Delete(Keys::prefix(place)));
        let holds = std::iter::once(Op::Delete(self.namespace.locks())).chain(permits.by_ref().take(REFUSED_AT_ONCE));
        let committed = settle(&self.store, holds.fold(txn, Txn::then)).await?;
        if committed.succeeded {
            tracing::error!(namespace = %self.namespace, "{why}; all others are informed, and what was held is free");
            for rest in permits {
                settle(&self.store, Txn::new().then(rest)).await?;
            }
        }
        Ok(())
    }

    /// What the keys of permits that are held begin with, for each semaphore.
    async fn permits_held(&self) -> Result<BTreeSet<String>, StoreError> {
        let (entries, _) = self.store.range_all(Keys::prefix(self.namespace.semaphores_of(""))).await?;
        let places = entries.iter().filter_map(|entry| Some(&entry.key[..=entry.key.rfind('/')?]));
        Ok(places.filter(|place| place.ends_with("/held/")).map(str::to_owned).collect())
    }

    /// Adds a link to the lineage under `hold`, where one is due, or at once (`now`). Every process that sees the link
    /// can distinguish this store from one that was restored from an older state.
    pub async fn renew_lineage(&self, hold: &Hold, now: bool) -> Result<(), StoreError> {
        self.renew(hold.still_held().to_vec(), now).await
    }

    async fn renew(&self, proof: Vec<Compare>, at_once: bool) -> Result<(), StoreError> {
        let (keys, id) = (PastKeys::new(&self.namespace), random_id());
        for _ in 0..RENEWALS {
            let Ok(Verified { past, lineage: Some(lineage), lineage_modified }) = self.verified().await? else {
                return Ok(());
            };
            let (Ok(base), now) = (past.base, self.clock.wall()) else { return Ok(()) };
            let is_done = lineage.newest().is_some_and(|newest| newest.id == id);
            if is_done || !(at_once || lineage.is_due(now)) {
                return Ok(());
            }
            let grown = lineage.grown(id, now);
            let txn = proof.iter().cloned().fold(Txn::new(), Txn::when);
            let txn = txn
                .when(keys.trusted())
                .when(Compare::modified_at(keys.base.as_str(), base.modified))
                .when(Compare::modified_at(keys.lineage.as_str(), lineage_modified));
            match commit(&self.store, txn.then(Op::put(&keys.lineage, grown.encoded()))).await {
                Ok(committed) if committed.succeeded => {
                    self.change(|seen| seen.note_lineage(base.value, &grown));
                    return Ok(());
                }
                Ok(_) => {}
                Err(error) if error.is_passing() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Extends the lineage while work goes on under `proof`: with every term of the leader, and otherwise now and then,
    /// if this process keeps a memory.
    pub(super) fn renew_beside(&self, proof: [Compare; 2], is_leader: bool) {
        let (Some(kept), Ok(runtime)) = (&self.kept_in, tokio::runtime::Handle::try_current()) else { return };
        let now = u64::try_from(self.clock.boot().since_boot().as_millis()).unwrap_or(u64::MAX);
        let last = kept.renewed.load(Ordering::Relaxed);
        if !is_leader && last > 0 && u128::from(now.saturating_sub(last)) < LINK_EVERY.as_millis() {
            return;
        }
        kept.renewed.store(now.max(1), Ordering::Relaxed);
        let locks = self.clone();
        runtime.spawn(async move {
            if let Err(error) = locks.renew(proof.to_vec(), is_leader).await {
                tracing::debug!(%error, "the lineage of the store gets its next link another time");
            }
        });
    }

    /// Writes the fence base if the namespace is empty and this node has never seen it otherwise. Opening a session
    /// does so. A caller that writes to a namespace without a session calls this first, since a namespace that has keys
    /// but no base counts as damaged.
    pub async fn found(&self) -> Result<(), StoreError> {
        if !self.current().is_nothing() {
            return Ok(());
        }
        let keys = PastKeys::new(&self.namespace);
        let first = Lineage::default().grown(random_id(), self.clock.wall());
        let found = Txn::new()
            .when(Compare::absent(Keys::prefix(self.namespace.prefix())))
            .then(Op::put(&keys.base, "0"))
            .then(Op::put(&keys.lineage, first.encoded()));
        match commit(&self.store, found).await {
            // A full store compares nothing before it says so, but it still says what is in it.
            Err(error) if error.is_full() && !self.is_new().await? => Ok(()),
            founded => founded.map(drop),
        }
    }

    /// Whether the namespace has nothing in it, and nothing was ever seen in it: it is new.
    pub(super) async fn is_new(&self) -> Result<bool, StoreError> {
        let all = Range { limit: 1, keys_only: true, ..Range::of(Keys::prefix(self.namespace.prefix())) };
        Ok(self.current().is_nothing() && Box::pin(self.store.range(all)).await?.entries.is_empty())
    }

    /// Saves what has been seen so far, where there is a file for it, and waits for that, but not for long. A term is not
    /// given up because the disk is full or hangs: what is lost by that is only the memory of a store that is restored
    /// later.
    pub async fn save_seen(&self) {
        let Some(Kept { file, saved, reported, .. }) = self.kept_in.as_deref().cloned() else { return };
        let seen = self.seen.subscribe();
        let save = async move {
            let mut saved = saved.lock_owned().await;
            let save = tokio::task::spawn_blocking(move || {
                let seen = *seen.borrow();
                // A save that was made while this waited has saved this as well.
                if *saved != Some(seen) {
                    file.save(&seen)?;
                    *saved = Some(seen);
                }
                Ok::<_, SeenFileError>(())
            });
            save.await
        };
        let failed = match tokio::time::timeout(SAVE_WITHIN, save).await {
            Ok(Ok(Ok(()))) => return reported.store(false, Ordering::Relaxed),
            Ok(Ok(Err(error))) => error.to_string(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("the disk has not answered in {SAVE_WITHIN:?}"),
        };
        // Once for as long as it lasts.
        if !reported.swap(true, Ordering::Relaxed) {
            tracing::error!(
                error = failed,
                "what was seen of the store is not saved: where it is restored from a backup, this may go unnoticed"
            );
        }
    }
}

fn read(keys: &PastKeys, committed: &Committed) -> Option<Verified> {
    let pages = (0..committed.answers.len()).map(|index| committed.got(index));
    let past = keys.read(&mut pages.map(|page| page.map(<[Entry]>::to_vec)))?;
    let lineage = committed.got(keys.look().len())?.first();
    let lineage_modified = lineage.map_or(Revision(0), |entry| entry.modified);
    Some(Verified { past, lineage: Lineage::read(lineage), lineage_modified })
}
