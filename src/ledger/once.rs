//! The records of work that is done only once in a namespace: migrations, and what `fencron once` runs under a key.
//!
//! A record shows how far it came. It is put before anything is started, and again when that has ended:
//!
//! ```text
//!   (none) ── claimed ──┬── done
//!     ▲                 ├── failed ────────┐ asked for again, or harmless to repeat
//!  pending ◀── resolved ┴── unknown ◀──────┼── the next holder of the lock finds it `claimed`
//!     └────────────────────────────────────┴──▶ claimed
//! ```
//!
//! A claim that was stopped before anything began, or that the next may repeat, is `pending` again.
//!
//! A claim compares the hold of the lock and the record; every other change compares the record alone. So nothing is
//! claimed twice, and a claimant that was replaced can say how it ended until its successor has decided about it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::act::{Act, Acting, Deed};
use super::record::{decode, encode};
use super::request::AskError;
use super::{Ledger, Pauses};
use crate::fence::Fence;
use crate::lock::{Hold, LockName};
use crate::store::{Compare, Entry, Keys, LeaseId, Op, Range, Revision, Store, StoreError, Txn, Watch};
use crate::time::Wall;

/// How often a verdict is sent that gets no answer: for about a minute.
const VERDICT_TRIES: u32 = 60;

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OnceKind {
    /// A migration of the jobs file.
    Migration,
    /// What `fencron once` runs.
    Once,
}

/// What is done once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OnceKey {
    kind: OnceKind,
    name: Arc<str>,
}

/// A text that cannot be the key of something that is done once.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAKey {
    #[error("a key is 1 to {most} bytes long; this one has {bytes}", most = OnceKey::MOST_BYTES)]
    Length { bytes: usize },
    /// It is shown to people, in lines of their own.
    #[error("a key has no line breaks or other control characters in it; this one has {found:?}")]
    Control { found: char },
}

impl OnceKey {
    /// The longest key, in bytes. Its lock has it for a name.
    pub const MOST_BYTES: usize = 195;

    /// The migration with this id.
    pub fn migration(id: &str) -> OnceKey {
        OnceKey { kind: OnceKind::Migration, name: id.into() }
    }

    /// The key of `fencron once`, where `key` is neither empty nor too long, and can be shown.
    pub fn once(key: &str) -> Result<OnceKey, NotAKey> {
        if !(1..=OnceKey::MOST_BYTES).contains(&key.len()) {
            return Err(NotAKey::Length { bytes: key.len() });
        }
        match key.chars().find(|found| found.is_control()) {
            Some(found) => Err(NotAKey::Control { found }),
            None => Ok(OnceKey { kind: OnceKind::Once, name: key.into() }),
        }
    }

    pub fn kind(&self) -> OnceKind {
        self.kind
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The lock that its claimant holds. All migrations have one: they are made in their order.
    pub fn lock(&self) -> LockName {
        match self.kind {
            OnceKind::Migration => LockName::migrations(),
            OnceKind::Once => LockName::once(&self.name).expect("keys are as short as the names of locks"),
        }
    }

    /// The identity of the effect: the same for every attempt that is ever made of it.
    pub fn run_id(&self) -> String {
        match self.kind {
            OnceKind::Migration => format!("migration/{}", self.name),
            OnceKind::Once => format!("once/{}", self.name),
        }
    }
}

/// How far something came that is done once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnceState {
    /// Not begun, or to be done again: a person said so, or its claimant had to leave it to the next.
    Pending,
    /// Claimed by a process, and possibly under way.
    Claimed,
    Done,
    /// It is known that it did not come to its end.
    Failed,
    /// It is unknown: its process was lost in the middle.
    Unknown,
}

impl OnceState {
    pub fn as_str(self) -> &'static str {
        match self {
            OnceState::Pending => "pending",
            OnceState::Claimed => "claimed",
            OnceState::Done => "done",
            OnceState::Failed => "failed",
            OnceState::Unknown => "unknown",
        }
    }
}

/// Its claimant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimedBy {
    pub node: String,
    /// Its session's lease.
    pub lease: u64,
    /// The fence of its hold of the lock.
    pub fence: Fence,
}

/// What is kept of something that is done once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Once {
    /// The migration's id, or the key.
    pub name: String,
    pub state: OnceState,
    /// The SHA-256 of what it does, in hexadecimal digits.
    pub checksum: String,
    /// Its last claimant; `None`: it has none, a person resolved it.
    pub claimed_by: Option<ClaimedBy>,
    /// How many attempts were begun, of all claims together.
    pub attempts: u32,
    /// When it was claimed last.
    pub started_at: Wall,
    pub finished_at: Option<Wall>,
    /// Why it is in this state, for a person; empty where there is nothing to say.
    pub reason: String,
    /// That of a command; where a signal ended it, 128 and the signal's number.
    pub exit_code: Option<i32>,
    /// The end of what it wrote.
    pub output: String,
    /// How much it wrote in all, in bytes.
    pub output_bytes: u64,
}

/// A record as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    pub once: Once,
    /// When it came to be so: what is done stays as it is, so that this is the order in which it was done.
    pub modified: Revision,
}

/// What the holder of the lock shows of what it does, while it does it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Live {
    /// The migration's id, or the key.
    pub name: String,
    pub fence: Fence,
    pub attempt: u32,
    /// The end of what it has written so far.
    pub text: String,
    /// How much it has written so far, in bytes.
    pub bytes: u64,
}

impl Live {
    /// What a change of a key says, where that key is one of these.
    pub fn read(entry: &Entry) -> Option<Live> {
        entry.lease?;
        decode(&entry.value)
    }
}

impl Recorded {
    fn read(entry: &Entry) -> Result<Recorded, StoreError> {
        let once = decode::<Once>(&entry.value).ok_or_else(|| {
            StoreError::Unusable(format!(
                "the record `{}` cannot be read: it is damaged, or of a newer version",
                entry.key
            ))
        })?;
        Ok(Recorded { once, modified: entry.modified })
    }
}

impl<S: Store> Ledger<S> {
    /// What is recorded of `key`, or of all migrations, in the order in which they came to be as they are; as of a
    /// revision.
    ///
    /// # Errors
    ///
    /// The store's, and [`StoreError::Unusable`] where a record cannot be read: nothing is decided without it.
    pub async fn once(&self, key: &OnceKey) -> Result<(Vec<Recorded>, Revision), StoreError> {
        let mut pause = Pauses::new();
        let (entries, revision) = loop {
            match self.store.range_all(self.keys.once(key)).await {
                Err(error) if error.is_passing() && pause.tries < super::request::TRIES => {
                    pause.wait(&error, "question").await;
                }
                answer => break answer?,
            }
        };
        let live = self.keys.once_live(key);
        let records = entries.iter().filter(|entry| entry.key != live);
        let mut records: Vec<Recorded> = records.map(Recorded::read).collect::<Result<_, _>>()?;
        records.sort_by_key(|recorded| recorded.modified);
        Ok((records, revision))
    }

    /// Reports every change of what [`Ledger::once`] reads, and of what is shown live ([`Live::read`]).
    pub async fn watch_once(&self, key: &OnceKey, from: Revision) -> Result<Watch, StoreError> {
        self.store.watch(self.keys.once(key), from).await
    }

    /// What the holder of the lock shows right now.
    pub async fn live_once(&self, key: &OnceKey) -> Result<Option<Live>, StoreError> {
        let page = self.store.range(Range::of(Keys::one(self.keys.once_live(key)))).await?;
        Ok(page.entries.first().and_then(Live::read))
    }

    /// Claims what `once` describes, where its record still is as it was read `before`. Answers the claim's revision;
    /// `None`: the hold is over, or the record was changed.
    pub async fn claim_once(
        &self,
        hold: &Hold,
        key: &OnceKey,
        before: Option<&Recorded>,
        once: &Once,
    ) -> Result<Option<Revision>, StoreError> {
        self.put_once(Some(hold), key, before.map_or(Revision(0), |before| before.modified), once, u32::MAX).await
    }

    /// Records how a claim ended, or what was decided about it, where the record was last changed at `claimed`. Answers
    /// the revision of that; `None`: it was changed since, and what is recorded stands.
    pub async fn settle_once(
        &self,
        key: &OnceKey,
        claimed: Revision,
        once: &Once,
    ) -> Result<Option<Revision>, StoreError> {
        self.put_once(None, key, claimed, once, VERDICT_TRIES).await
    }

    async fn put_once(
        &self,
        hold: Option<&Hold>,
        key: &OnceKey,
        unchanged_since: Revision,
        once: &Once,
        tries: u32,
    ) -> Result<Option<Revision>, StoreError> {
        let (record, value) = (self.keys.once_record(key), encode(once));
        let proof = hold.into_iter().flat_map(Hold::still_held);
        let mut txn = proof
            .fold(Txn::new(), Txn::when)
            .when(Compare::modified_at(&record, unchanged_since))
            .then(Op::put(&record, value.clone()))
            .otherwise(Op::get(&record));
        txn.then.extend(hold.map(Hold::mark));
        let mut pause = Pauses::new();
        loop {
            match self.store.commit(txn.clone()).await {
                Ok(committed) if committed.succeeded => return Ok(Some(committed.revision)),
                Ok(committed) => {
                    // Where an earlier sending got no answer, that may have put it.
                    let found = committed.got(0).and_then(<[Entry]>::first);
                    let ours = found.filter(|entry| pause.tries > 0 && entry.value == value);
                    return Ok(ours.map(|entry| entry.modified));
                }
                Err(error) if error.is_passing() && pause.tries < tries => pause.wait(&error, "record").await,
                Err(error) => return Err(error),
            }
        }
    }

    /// Forgets what was done under `key`, where nothing was changed since it was read, and it is not under way.
    pub async fn forget_once(&self, acting: &Acting, key: &OnceKey, read: &Recorded) -> Result<Deed, AskError> {
        self.refuse_under_way(&read.once).await?;
        let record = self.keys.once_record(key);
        let txn = Txn::new().when(Compare::modified_at(&record, read.modified)).then(Op::delete(&record));
        self.act_with(acting, Deed::new(Act::ForgetOnce, key.name()), txn).await
    }

    /// Records a person's decision about what was recorded: `Done`, or `Pending` where it has to be done again.
    pub async fn resolve_once(
        &self,
        acting: &Acting,
        key: &OnceKey,
        recorded: &Recorded,
        state: OnceState,
    ) -> Result<Deed, AskError> {
        let (once, asked) = (&recorded.once, &acting.asked);
        self.refuse_under_way(once).await?;
        if once.state == OnceState::Done {
            return Err(AskError::IsDone(once.name.clone()));
        }
        let was = match once.reason.as_str() {
            "" => once.state.as_str().to_owned(),
            reason => format!("{} ({reason})", once.state.as_str()),
        };
        let reason = format!("resolved by {} on {}; was: {was}", asked.by, asked.at);
        let resolved = Once { state, reason, finished_at: Some(asked.at), ..once.clone() };
        self.record_once(acting, key, recorded.modified, &resolved).await
    }

    /// Records what a person says, where the record was last changed at `unchanged_since`; 0: there is none.
    pub async fn record_once(
        &self,
        acting: &Acting,
        key: &OnceKey,
        unchanged_since: Revision,
        once: &Once,
    ) -> Result<Deed, AskError> {
        let record = self.keys.once_record(key);
        let txn = Txn::new().when(Compare::modified_at(&record, unchanged_since)).then(Op::put(&record, encode(once)));
        let act = match key.kind() {
            OnceKind::Migration => Act::ResolveMigration,
            OnceKind::Once => Act::ResolveOnce,
        };
        let how = if once.state == OnceState::Done { "as done" } else { "to be done again" };
        self.act_with(acting, Deed::new(act, once.name.as_str()).with(how), txn).await
    }

    async fn refuse_under_way(&self, once: &Once) -> Result<(), AskError> {
        if !self.may_be_under_way(once).await? {
            return Ok(());
        }
        let node = once.claimed_by.as_ref().map_or("a process", |by| by.node.as_str());
        Err(AskError::UnderWay { name: once.name.clone(), node: node.to_owned() })
    }

    /// Whether the session of its claimant is still there, so that it may be under way.
    pub async fn may_be_under_way(&self, once: &Once) -> Result<bool, StoreError> {
        let Some(claimed_by) = once.claimed_by.as_ref().filter(|_| once.state == OnceState::Claimed) else {
            return Ok(false);
        };
        let Some(lease) = std::num::NonZeroU64::new(claimed_by.lease).map(LeaseId) else { return Ok(false) };
        let key = self.namespace.session_key(lease);
        Ok(!self.store.range(Range { keys_only: true, ..Range::of(Keys::one(key)) }).await?.entries.is_empty())
    }

    /// Shows the waiters what the holder does. It vanishes with the holder's session.
    pub async fn show_once(&self, hold: &Hold, key: &OnceKey, live: &Live) -> Result<(), StoreError> {
        let put = Op::put_leased(self.keys.once_live(key), encode(live), hold.lease());
        let txn = hold.still_held().into_iter().fold(Txn::new(), Txn::when).then(put);
        self.store.commit(txn).await.map(drop)
    }
}
