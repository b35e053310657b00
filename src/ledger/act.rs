//! What people do to the cluster: each act is one transaction, and its record is in it.
//!
//! The record stands under a key that only this act has, and the transaction compares that the key is absent. So an act
//! that is sent again because an answer was lost is one act, and none is made without its record. An act that bears a
//! key of its caller ([`Once`]) also puts that key with what was done: a second request with the same key, from whatever
//! node, finds it in the same transaction and does nothing.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::record::{Asked, decode, encode};
use super::request::{AskError, CALL_DIGITS};
use super::{Ledger, keys::LedgerKeys};
use crate::job::{JobName, RunId, Word};
use crate::store::{Answer, Committed, Compare, Entry, Keys, Op, Range, Store, StoreError, Txn};
use crate::time::Wall;

/// How much of a reason is kept, in characters.
pub const REASON_MOST: usize = 500;

/// What a person does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Act {
    Trigger,
    Pause,
    Resume,
    PauseAll,
    ResumeAll,
    Cancel,
    Resolve,
    Backfill,
    StopBackfill,
    StepDown,
    Drain,
    Undrain,
    Unlock,
    ResolveMigration,
    ResolveOnce,
    ForgetOnce,
    Rewind,
    RepairFences,
}

impl Word for Act {
    const WORDS: &'static [(&'static str, Act)] = &[
        ("trigger", Act::Trigger),
        ("pause", Act::Pause),
        ("resume", Act::Resume),
        ("pause_all", Act::PauseAll),
        ("resume_all", Act::ResumeAll),
        ("cancel", Act::Cancel),
        ("resolve", Act::Resolve),
        ("backfill", Act::Backfill),
        ("stop_backfill", Act::StopBackfill),
        ("step_down", Act::StepDown),
        ("drain", Act::Drain),
        ("undrain", Act::Undrain),
        ("unlock", Act::Unlock),
        ("resolve_migration", Act::ResolveMigration),
        ("resolve_once", Act::ResolveOnce),
        ("forget_once", Act::ForgetOnce),
        ("rewind", Act::Rewind),
        ("repair_fences", Act::RepairFences),
    ];
}

/// Through what a person does it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Via {
    /// A command of the program.
    #[default]
    Cli,
    Api,
    /// The operator's page.
    Page,
    /// A program that uses the library.
    Library,
}

impl Word for Via {
    const WORDS: &'static [(&'static str, Via)] =
        &[("cli", Via::Cli), ("api", Via::Api), ("page", Via::Page), ("library", Via::Library)];
}

/// What was done, and to what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deed {
    pub act: Act,
    /// What it was done to, for people: a job, a run, a node, a lock, a migration, or `all jobs`.
    pub on: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
    /// The backfill that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backfill: Option<String>,
    /// The rest, for people; empty where there is nothing to say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

impl Deed {
    /// Something that is about no single job.
    pub fn new(act: Act, on: impl Into<String>) -> Deed {
        Deed { act, on: on.into(), job: None, run: None, backfill: None, detail: String::new() }
    }

    pub fn of_job(act: Act, job: &JobName) -> Deed {
        Deed { job: Some(job.clone()), ..Deed::new(act, job.as_str()) }
    }

    pub fn of_run(act: Act, run: &RunId) -> Deed {
        Deed { job: Some(run.job()), run: Some(run.clone()), ..Deed::new(act, run.as_str()) }
    }

    #[must_use]
    pub fn with(self, detail: impl Into<String>) -> Deed {
        Deed { detail: detail.into(), ..self }
    }
}

/// By what a caller makes two requests one act.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Once {
    key: String,
    request: String,
}

impl Once {
    /// The request of `principal` that bears `key`. `request`: all that decides what it does.
    pub fn new(principal: &str, key: &str, request: &[u8]) -> Once {
        Once { key: hash(&[principal.as_bytes(), key.as_bytes()]), request: hash(&[request]) }
    }

    /// The same for one of several acts that one request makes.
    #[must_use]
    pub fn part(&self, name: &str) -> Once {
        Once { key: hash(&[self.key.as_bytes(), name.as_bytes()]), request: self.request.clone() }
    }
}

/// The SHA-256 of several texts, whose bounds count, in hexadecimal digits.
fn hash(parts: &[&[u8]]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An act on its way: who asks, and by what it is known again. However often it is sent, it is one act.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acting {
    pub asked: Asked,
    /// Hexadecimal digits that no other act has.
    id: String,
    once: Option<Once>,
}

impl Acting {
    /// `id`: at least [`CALL_DIGITS`] ASCII letters and digits that no other act has.
    pub fn new(asked: Asked, id: impl Into<String>) -> Acting {
        let mut asked = asked;
        if let Some((end, _)) = asked.reason.char_indices().nth(REASON_MOST) {
            asked.reason.truncate(end);
        }
        Acting { asked, id: id.into(), once: None }
    }

    /// The same with a fresh id.
    pub fn fresh(asked: Asked) -> Acting {
        Acting::new(asked, uuid::Uuid::new_v4().simple().to_string())
    }

    /// Two of these with the same key are one act.
    #[must_use]
    pub fn once(self, once: Option<Once>) -> Acting {
        Acting { once, ..self }
    }

    /// One of several acts that one request makes.
    #[must_use]
    pub fn part(&self, name: &str) -> Acting {
        let once = self.once.as_ref().map(|once| once.part(name));
        Acting::fresh(self.asked.clone()).once(once)
    }

    /// Whether the caller gave it a key.
    pub fn has_key(&self) -> bool {
        self.once.is_some()
    }

    /// What runs that this act asks for have behind their instants.
    pub fn call(&self, kind: char) -> String {
        format!("{kind}-{}", &self.id[..self.id.len().min(CALL_DIGITS)])
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    fn audit_key(&self, keys: &LedgerKeys) -> String {
        keys.audit(self.asked.at, &self.id)
    }
}

/// What is kept of an act.
#[derive(Serialize, Deserialize)]
pub(super) struct AuditRecord {
    pub asked: Asked,
    pub deed: Deed,
}

/// What is kept under a caller's key.
#[derive(Serialize, Deserialize)]
pub(super) struct OnceRecord {
    request: String,
    at: Wall,
    deed: Deed,
    /// It was so already, and nothing was done.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    already: bool,
}

/// When a record was made, whatever else it says: one of a newer version has its time as well.
#[derive(Deserialize)]
pub(super) struct Kept {
    pub at: Wall,
}

/// What a request with the same key did before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Before {
    pub deed: Deed,
    /// It was so already, and nothing was done.
    pub already: bool,
}

/// How the transaction of an act went.
pub(super) enum Acted {
    /// It was made, now or by an earlier sending.
    Made,
    /// A request with the same key was it before: what that did.
    Before(Deed),
    /// Something in the transaction was not as expected, and nothing was changed. The answers are those of its own
    /// questions, and behind them those about the records.
    Refused(Committed),
}

impl<S: Store> Ledger<S> {
    /// Commits the transaction of an act, with the record of the act in it.
    pub(super) async fn act(&self, acting: &Acting, deed: &Deed, txn: Txn) -> Result<Acted, AskError> {
        let audit = acting.audit_key(&self.keys);
        let record = encode(AuditRecord { asked: acting.asked.clone(), deed: deed.clone() });
        let mut txn = txn.when(Compare::absent(Keys::one(&audit))).otherwise(Op::get(&audit));
        // The first of all: by this key a full store shows what became of the rest.
        txn.then.insert(0, Op::put(&audit, record.clone()));
        if let Some(once) = &acting.once {
            let key = self.keys.once_asked(&once.key);
            let kept =
                OnceRecord { request: once.request.clone(), at: acting.asked.at, deed: deed.clone(), already: false };
            txn = txn.when(Compare::absent(Keys::one(&key))).then(Op::put(&key, encode(kept))).otherwise(Op::get(key));
        }
        let (committed, _) = self.commit(txn).await?;
        if committed.succeeded || found(&committed, &audit).is_some_and(|entry| entry.value == record) {
            return Ok(Acted::Made);
        }
        let before = acting.once.as_ref().and_then(|once| {
            let entry = found(&committed, &self.keys.once_asked(&once.key))?;
            Some(before(once, entry))
        });
        before.map_or(Ok(Acted::Refused(committed)), |before| Ok(Acted::Before(before?.deed)))
    }

    /// Keeps under the caller's key what a request does whose acts are others, or (`already`) that it was so already: the
    /// same request changes nothing later, when it may not be so any more. Answers what a request with this key did before.
    ///
    /// # Errors
    ///
    /// [`AskError::OtherRequest`] where the key is of another request; the store's.
    pub async fn keep(&self, acting: &Acting, deed: &Deed, already: bool) -> Result<Option<Before>, AskError> {
        let Some(once) = &acting.once else { return Ok(None) };
        let key = self.keys.once_asked(&once.key);
        let (request, at, deed) = (once.request.clone(), acting.asked.at, deed.clone());
        let kept = encode(OnceRecord { request, at, deed, already });
        let txn = Txn::new().when(Compare::absent(Keys::one(&key))).then(Op::put(&key, kept)).otherwise(Op::get(&key));
        let (committed, _) = self.commit(txn).await?;
        found(&committed, &key).map(|entry| before(once, entry)).transpose()
    }

    /// The record of an act whose transaction is another layer's.
    pub fn recording(&self, acting: &Acting, deed: &Deed) -> Op {
        let record = AuditRecord { asked: acting.asked.clone(), deed: deed.clone() };
        Op::put(acting.audit_key(&self.keys), encode(record))
    }

    /// What a request with the same key did before; `None`: there was none.
    ///
    /// # Errors
    ///
    /// [`AskError::OtherRequest`] where that was another request; the store's.
    pub async fn acted(&self, acting: &Acting) -> Result<Option<Before>, AskError> {
        let Some(once) = &acting.once else { return Ok(None) };
        let page = self.store.range(Range::of(Keys::one(self.keys.once_asked(&once.key)))).await?;
        page.entries.first().map(|entry| before(once, entry)).transpose()
    }
}

fn before(once: &Once, entry: &Entry) -> Result<Before, AskError> {
    let record: Option<OnceRecord> = decode(&entry.value);
    let Some(record) = record else {
        let why = "what is kept of the request with this key cannot be read: it is damaged, or of a newer version";
        return Err(StoreError::Unusable(why.to_owned()).into());
    };
    let OnceRecord { request, deed, already, .. } = record;
    if request == once.request { Ok(Before { deed, already }) } else { Err(AskError::OtherRequest) }
}

/// What a transaction found under this key.
pub(super) fn found<'a>(committed: &'a Committed, key: &str) -> Option<&'a Entry> {
    let got = committed.answers.iter().filter_map(|answer| match answer {
        Answer::Got(page) => Some(&page.entries),
        Answer::Put | Answer::Deleted(_) => None,
    });
    got.flatten().find(|entry| entry.key == key)
}
