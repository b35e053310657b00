//! Names and keys: the only place that knows how sessions and locks are laid out in the store.
//!
//! ```text
//! /fencron/v1/<namespace>/base                       what fences are counted from; no lease
//! /fencron/v1/<namespace>/mark                       put by every grant and claim (`lock/lineage.rs`); no lease
//! /fencron/v1/<namespace>/lineage                    links by which a restored store is known; no lease
//! /fencron/v1/<namespace>/refused                    why nothing is granted in a store that went back; no lease
//! /fencron/v1/<namespace>/sess/<lease>               a session's record; under its lease
//! /fencron/v1/<namespace>/lock/<name>/owner          its holder; under the holder's lease
//! /fencron/v1/<namespace>/lock/<name>/wait/<call>    a waiter; under the waiter's lease
//! /fencron/v1/<namespace>/lock/<name>/barred         why it is not granted for now; always under a lease
//! /fencron/v1/<namespace>/lock/~migrations/…         the same of the lock under which migrations are made
//! /fencron/v1/<namespace>/lock/~once.<key>/…         the same of the lock under which `once <key>` is done
//! /fencron/v1/<namespace>/sem/<name>/permits         how many permits there are; no lease
//! /fencron/v1/<namespace>/sem/<name>/held/<call>     a holder, and how many; under the holder's lease
//! /fencron/v1/<namespace>/sem/<name>/wait/<call>     a waiter, and for how many; under the waiter's lease
//! /fencron/v1/<namespace>/settled/<00 to ff>         the call that was last settled, of those that end so; no lease
//! /fencron/v1/<namespace>/claimed/<name>/<job>       the last occurrence of a program's job, of those it claims; no lease
//! ```
//!
//! Names are escaped, and no escaped name has a `~`: what is used inside has places of its own, which no name that a user
//! gives can reach.
//!
//! Nothing of a lock outlives its holders and waiters, so that names can be used once and forgotten. `settled`
//! distinguishes late requests of a call from requests that are still wanted; its 256 keys are shared by all calls of a
//! namespace.

use std::fmt;
use std::sync::{Arc, Mutex};

use uuid::Uuid;

use super::lineage::PastKeys;
use crate::fence::Scope;
use crate::store::{Keys, LeaseId, Range, Store, StoreError};

/// What a cluster's keys are kept apart by: 1 to 100 of `A-Z a-z 0-9 . _ -`, beginning with a letter or a digit.
///
/// ```
/// use fencron::lock::Namespace;
/// assert_eq!(Namespace::new("shop")?.prefix(), "/fencron/v1/shop/");
/// assert!(Namespace::new("shop/eu").is_err());
/// # Ok::<(), fencron::lock::NotANamespace>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Namespace(Arc<str>);

/// A text that cannot be a namespace.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a namespace: use 1 to 100 letters, digits, `.`, `_` or `-`, beginning with a letter or a digit")]
pub struct NotANamespace(String);

/// What all keys begin with.
const ROOT: &str = "/fencron/v1/";

/// How many namespaces of a store are listed.
pub const NAMESPACES_LISTED: usize = 100;

/// The longest namespace, in bytes.
const NAMESPACE_BYTES: usize = 100;

impl Namespace {
    /// The namespace, where `text` is one.
    pub fn new(text: &str) -> Result<Namespace, NotANamespace> {
        let begins_well = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        if text.len() <= NAMESPACE_BYTES && begins_well && text.bytes().all(is_plain) {
            Ok(Namespace(text.into()))
        } else {
            Err(NotANamespace(text.chars().take(NAMESPACE_BYTES + 1).collect()))
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The namespaces that have anything in `store`, by name: the first [`NAMESPACES_LISTED`].
    pub async fn all(store: &impl Store) -> Result<Vec<Namespace>, StoreError> {
        let Keys::Range { mut start, end } = Keys::prefix(ROOT) else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        while found.len() < NAMESPACES_LISTED {
            let keys = Keys::Range { start: start.clone(), end: end.clone() };
            let page = store.range(Range { keys_only: true, limit: 1, ..Range::of(keys) }).await?;
            let Some(key) = page.entries.into_iter().next().map(|entry| entry.key) else { break };
            let name = key[ROOT.len()..].split('/').next().unwrap_or_default();
            found.extend(Namespace::new(name));
            // `0` follows `/`: behind every key of this namespace.
            start = format!("{ROOT}{name}0");
        }
        Ok(found)
    }

    /// What all keys of the namespace begin with.
    pub fn prefix(&self) -> String {
        format!("{ROOT}{}/", self.0)
    }

    /// All sessions: one key per node that is present, its value the record that the node published.
    pub fn sessions(&self) -> Keys {
        Keys::prefix(format!("{}sess/", self.prefix()))
    }

    /// The key of one session.
    pub(crate) fn session_key(&self, lease: LeaseId) -> String {
        format!("{}sess/{lease}", self.prefix())
    }

    /// The lease of a session's key, as [`Namespace::sessions`] lists them.
    pub fn session_of(&self, key: &str) -> Option<LeaseId> {
        let lease = key.strip_prefix(&self.prefix())?.strip_prefix("sess/")?;
        u64::from_str_radix(lease, 16).ok().and_then(std::num::NonZeroU64::new).map(LeaseId)
    }

    pub(crate) fn base_key(&self) -> String {
        format!("{}base", self.prefix())
    }

    pub(crate) fn mark_key(&self) -> String {
        format!("{}mark", self.prefix())
    }

    pub(crate) fn lineage_key(&self) -> String {
        format!("{}lineage", self.prefix())
    }

    pub(crate) fn refused_key(&self) -> String {
        format!("{}refused", self.prefix())
    }

    fn settled(&self) -> String {
        format!("{}settled/", self.prefix())
    }

    pub(crate) fn locks(&self) -> Keys {
        Keys::prefix(self.locks_of(""))
    }

    /// What the keys of all locks begin with whose names begin with `name`.
    pub(super) fn locks_of(&self, name: &str) -> String {
        format!("{}lock/{}", self.prefix(), escaped(name))
    }

    /// The same for the locks that are used inside.
    pub(super) fn inner_locks_of(&self, name: &str) -> Vec<String> {
        let once = format!("{}lock/{ONCE_PLACE}{}", self.prefix(), escaped(name));
        let migrations = LockName::migrations();
        let migrations =
            migrations.as_str().starts_with(name).then(|| format!("{}lock/{MIGRATIONS_PLACE}/", self.prefix()));
        migrations.into_iter().chain([once]).collect()
    }

    /// The same for semaphores.
    pub(super) fn semaphores_of(&self, name: &str) -> String {
        format!("{}sem/{}", self.prefix(), escaped(name))
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

/// The name of a lock: any text of 1 to [`LockName::MOST_BYTES`] bytes. The one named `leader` is the leadership.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LockName {
    kind: LockKind,
    text: Arc<str>,
}

/// What a lock is used for. Two locks of different kinds are never the same, whatever their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LockKind {
    /// For its users to decide.
    Named,
    /// Inside: migrations are made under it.
    Migrations,
    /// Inside: `fencron once` does under it what its key names.
    Once,
}

/// What the places of the locks that are used inside begin with.
const MIGRATIONS_PLACE: &str = "~migrations";
const ONCE_PLACE: &str = "~once.";

/// A text that cannot be the name of a lock.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the name of a lock is 1 to {most} bytes long; this one has {bytes}", most = LockName::MOST_BYTES)]
pub struct NotALockName {
    bytes: usize,
}

impl LockName {
    /// The longest name, in bytes.
    pub const MOST_BYTES: usize = 200;

    /// The name, where `text` is neither empty nor too long.
    pub fn new(text: &str) -> Result<LockName, NotALockName> {
        if (1..=LockName::MOST_BYTES).contains(&text.len()) {
            Ok(LockName { kind: LockKind::Named, text: text.into() })
        } else {
            Err(NotALockName { bytes: text.len() })
        }
    }

    /// The lock whose owner leads the namespace.
    pub fn leader() -> LockName {
        LockName { kind: LockKind::Named, text: "leader".into() }
    }

    /// The lock under which migrations are made, all of them.
    pub fn migrations() -> LockName {
        LockName { kind: LockKind::Migrations, text: "migrations".into() }
    }

    /// The lock under which `fencron once` does what `key` names.
    ///
    /// # Errors
    ///
    /// As [`LockName::new`].
    pub fn once(key: &str) -> Result<LockName, NotALockName> {
        Ok(LockName { kind: LockKind::Once, ..LockName::new(key)? })
    }

    /// What it is used for.
    pub fn kind(&self) -> LockKind {
        self.kind
    }

    /// The word for what it is used for, as lists of locks have it.
    #[cfg(feature = "cli")]
    pub(crate) fn kind_word(&self) -> &'static str {
        match self.kind {
            LockKind::Named if *self == LockName::leader() => "leader",
            LockKind::Named => "lock",
            LockKind::Migrations => "migrations",
            LockKind::Once => "once",
        }
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Its place among the locks of a namespace.
    fn escaped(&self) -> String {
        match self.kind {
            LockKind::Named => escaped(&self.text),
            LockKind::Migrations => MIGRATIONS_PLACE.to_owned(),
            LockKind::Once => format!("{ONCE_PLACE}{}", escaped(&self.text)),
        }
    }

    /// The name whose place this is; `None` where it is that of none.
    pub(super) fn at_place(place: &str) -> Option<LockName> {
        match place.strip_prefix(ONCE_PLACE) {
            Some(key) => LockName::once(&unescaped(key)?).ok(),
            None if place == MIGRATIONS_PLACE => Some(LockName::migrations()),
            None => LockName::new(&unescaped(place)?).ok(),
        }
    }

    fn scope(&self, namespace: &Namespace) -> Scope {
        match self.kind {
            LockKind::Named => Scope::lock(namespace.as_str(), &self.text),
            LockKind::Migrations => Scope::migrations(namespace.as_str()),
            LockKind::Once => Scope::once(namespace.as_str(), &self.text),
        }
    }
}

/// Percent-encoded, so that no name can reach out of its place in a key, and two names never meet.
pub(crate) fn escaped(name: &str) -> String {
    let mut escaped = String::with_capacity(name.len());
    for byte in name.bytes() {
        if is_plain(byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

/// The name that [`escaped`] made this of; `None` where it made it of none.
pub(crate) fn unescaped(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = str::from_utf8(rest.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).ok().filter(|name| escaped(name) == text)
}

impl fmt::Display for LockName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// One call for a lock (a campaign, a `lock`), however often its requests are repeated: it takes effect once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(u128);

impl CallId {
    /// A new call, drawn from the machine's randomness.
    pub fn random() -> CallId {
        CallId(Uuid::new_v4().as_u128())
    }

    /// The call with this number, for callers that bring randomness of their own. It must be unique for ever within
    /// its lock.
    pub fn from_u128(number: u128) -> CallId {
        CallId(number)
    }

    /// The call after this one, of a caller that numbers its calls from a random one on.
    pub(crate) fn next(self) -> CallId {
        CallId(self.0.wrapping_add(1))
    }

    pub(crate) fn parse(text: &str) -> Option<CallId> {
        let well_formed = text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        well_formed.then(|| u128::from_str_radix(text, 16).ok().map(CallId)).flatten()
    }
}

/// Where the numbers of a program's calls come from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Calls(Option<Arc<Mutex<CallId>>>);

impl Calls {
    /// One after the other, from this one on.
    pub fn from(first: CallId) -> Calls {
        Calls(Some(Arc::new(Mutex::new(first))))
    }

    /// A call that no other has the number of.
    pub fn next(&self) -> CallId {
        let Some(next) = &self.0 else { return CallId::random() };
        let mut next = next.lock().expect("a number is never left half-way");
        let call = *next;
        *next = call.next();
        call
    }
}

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The keys of one lock, and what its fences are comparable within.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LockKeys {
    pub past: PastKeys,
    pub owner: String,
    pub barred: String,
    pub scope: Scope,
    prefix: String,
    waiting: String,
    settled: String,
}

impl LockKeys {
    pub fn new(namespace: &Namespace, name: &LockName) -> LockKeys {
        let prefix = format!("{}lock/{}/", namespace.prefix(), name.escaped());
        LockKeys {
            past: PastKeys::new(namespace),
            owner: format!("{prefix}owner"),
            barred: format!("{prefix}barred"),
            scope: name.scope(namespace),
            waiting: format!("{prefix}wait/"),
            settled: namespace.settled(),
            prefix,
        }
    }

    /// Whether the lock is the leadership.
    pub fn is_leaders(&self) -> bool {
        matches!(self.scope.as_str().split_once('/'), Some((_, "leader")))
    }

    /// Everything of the lock.
    pub fn all(&self) -> Keys {
        Keys::prefix(self.prefix.as_str())
    }

    /// Where it is noted that the call was released or withdrawn.
    pub fn settled(&self, call: CallId) -> String {
        settled(&self.settled, call)
    }

    /// All waiters.
    pub fn waiting(&self) -> Keys {
        Keys::prefix(self.waiting.as_str())
    }

    /// Where the call `call` waits.
    pub fn wait(&self, call: CallId) -> String {
        format!("{}{call}", self.waiting)
    }

    /// The call that waits at `key`; `None` where a key of another shape lies in the queue.
    pub fn call_of(&self, key: &str) -> Option<CallId> {
        key.strip_prefix(&self.waiting).and_then(CallId::parse)
    }
}

/// The keys of one semaphore.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SemaphoreKeys {
    pub past: PastKeys,
    pub permits: String,
    prefix: String,
    settled: String,
}

impl SemaphoreKeys {
    pub fn new(namespace: &Namespace, name: &LockName) -> SemaphoreKeys {
        let prefix = format!("{}sem/{}/", namespace.prefix(), name.escaped());
        let (past, settled) = (PastKeys::new(namespace), namespace.settled());
        SemaphoreKeys { past, permits: format!("{prefix}permits"), settled, prefix }
    }

    /// Everything of the semaphore.
    pub fn all(&self) -> Keys {
        Keys::prefix(self.prefix.as_str())
    }

    /// All holders of permits.
    pub fn holding(&self) -> Keys {
        Keys::prefix(format!("{}held/", self.prefix))
    }

    /// All waiters.
    pub fn waiting(&self) -> Keys {
        Keys::prefix(format!("{}wait/", self.prefix))
    }

    /// The keys that decide whether permits are free: the holders, and how many permits there are; but not the waiters.
    pub fn freeing(&self) -> Keys {
        Keys::Range { start: format!("{}held/", self.prefix), end: format!("{}wait/", self.prefix) }
    }

    /// What the call `call` holds.
    pub fn held(&self, call: CallId) -> String {
        format!("{}held/{call}", self.prefix)
    }

    /// Where the call `call` waits.
    pub fn wait(&self, call: CallId) -> String {
        format!("{}wait/{call}", self.prefix)
    }

    /// Where it is noted that the call was released or withdrawn.
    pub fn settled(&self, call: CallId) -> String {
        settled(&self.settled, call)
    }
}

/// Where the mark of the namespace of `scope` is.
pub(super) fn mark_of(scope: &Scope) -> String {
    format!("{ROOT}{}/mark", scope.as_str().split('/').next().unwrap_or_default())
}

/// Where the last claimed occurrence of `job` is noted, of those that are claimed under the lock `name`.
pub(crate) fn claimed(namespace: &Namespace, name: &LockName, job: &str) -> String {
    format!("{}claimed/{}/{}", namespace.prefix(), name.escaped(), escaped(job))
}

/// One of 256 places, by the call: few enough to stay for ever, enough for calls to seldom meet in one.
fn settled(prefix: &str, call: CallId) -> String {
    format!("{prefix}{:02x}", call.0 & 0xff)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(name: &str) -> LockKeys {
        LockKeys::new(&Namespace::new("shop").unwrap(), &LockName::new(name).unwrap())
    }

    #[test]
    fn no_lock_name_reaches_out_of_its_place() {
        assert_eq!(keys("leader").owner, "/fencron/v1/shop/lock/leader/owner");
        assert_eq!(keys("a/owner").owner, "/fencron/v1/shop/lock/a%2Fowner/owner");
        assert_eq!(keys("50%\0ü").owner, "/fencron/v1/shop/lock/50%25%00%C3%BC/owner");
    }

    #[test]
    fn two_lock_names_never_share_a_key() {
        assert_ne!(keys("a/b").owner, keys("a%2Fb").owner);
        assert_ne!(keys("a").owner, keys("A").owner);
    }

    #[test]
    fn no_name_of_a_user_is_that_of_a_lock_that_is_used_inside() {
        let namespace = Namespace::new("shop").unwrap();
        let once = LockName::once("a/b").unwrap();
        let inside = [LockName::migrations(), once];
        for name in &inside {
            let text = name.as_str();
            let keys_of = |name: &LockName| LockKeys::new(&namespace, name);
            let inner = keys_of(name);
            let place = inner.owner.strip_prefix("/fencron/v1/shop/lock/").unwrap().strip_suffix("/owner").unwrap();
            for user in
                [text.to_owned(), format!("once.{text}"), format!("once/{text}"), format!("~{text}"), place.to_owned()]
            {
                let user = keys_of(&LockName::new(&user).unwrap());
                assert!(user.owner != inner.owner && user.scope != inner.scope, "{user:?} is {inner:?}");
            }
            assert_eq!(LockName::at_place(place).as_ref(), Some(name));
        }
        assert_eq!(LockName::at_place("~other"), None);
    }

    #[test]
    fn a_name_is_read_back_from_its_key() {
        for name in ["leader", "a/owner", "50%\0ü", "%41"] {
            assert_eq!(unescaped(&escaped(name)).as_deref(), Some(name));
        }
        for text in ["%", "%4", "%4g", "%2f", "%41", "%+1", "a/b", "%C3"] {
            assert_eq!(unescaped(text), None, "{text}");
        }
    }

    #[test]
    fn all_holds_of_a_namespace_put_the_same_mark() {
        let namespace = Namespace::new("shop").unwrap();
        for name in ["leader", "a/b"] {
            assert_eq!(mark_of(&keys(name).scope), namespace.mark_key());
        }
    }

    #[test]
    fn a_lock_name_has_a_length() {
        assert!(LockName::new("").is_err() && LockName::new(&"x".repeat(201)).is_err());
        assert!(LockName::new(&"x".repeat(200)).is_ok());
    }

    #[test]
    fn a_namespace_is_one_plain_segment() {
        for text in ["", ".", "-a", "a/b", "a b", "ü", &"x".repeat(101)] {
            assert!(Namespace::new(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_waiting_key_names_its_call() {
        let (keys, call) = (keys("leader"), CallId::from_u128(0xfe));
        assert_eq!(keys.call_of(&keys.wait(call)), Some(call));
        assert_eq!(keys.call_of("/fencron/v1/shop/lock/leader/wait/by-hand"), None);
        assert!(keys.waiting().contains(&keys.wait(call)) && !keys.waiting().contains(&keys.owner));
    }

    #[test]
    fn a_session_key_names_its_lease() {
        let namespace = Namespace::new("shop").unwrap();
        let lease = LeaseId(std::num::NonZeroU64::new(0x7587_abcd).unwrap());
        assert_eq!(namespace.session_of(&namespace.session_key(lease)), Some(lease));
        assert_eq!(namespace.session_of("/fencron/v1/other/sess/1"), None);
    }
}
