//! The key with which the nodes of a namespace seal what they hand out to clients.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::{Deserialize, Serialize};

use super::Ledger;
use super::record::{decode, encode};
use crate::store::{Compare, Entry, Keys, Op, Range, Store, StoreError, Txn};

/// How long the key is, in bytes.
const KEY_BYTES: usize = 32;

#[derive(Serialize, Deserialize)]
struct AuthKeyRecord {
    key: String,
}

impl<S: Store> Ledger<S> {
    /// The key of this namespace. The first call that finds none makes one, once for all, in a namespace that has a fence
    /// base: one that has keys and no base counts as damaged.
    ///
    /// # Errors
    ///
    /// The store's; what stands in the place of the key and is none cannot be used.
    pub async fn auth_key(&self) -> Result<Vec<u8>, StoreError> {
        let key = self.keys.auth_key();
        let page = self.store.range(Range::of(Keys::one(&key))).await?;
        if let Some(entry) = page.entries.first() {
            return key_of(entry);
        }
        let mut fresh = [0; KEY_BYTES];
        let random = SystemRandom::new().fill(&mut fresh);
        random.map_err(|_| StoreError::Unusable("this machine has no random numbers for a key".to_owned()))?;
        let record = encode(AuthKeyRecord { key: STANDARD.encode(fresh) });
        let founded = Compare::present(Keys::one(self.namespace.base_key()));
        let txn = Txn::new().when(founded).when(Compare::absent(Keys::one(&key)));
        let txn = txn.then(Op::put(key.clone(), record)).otherwise(Op::get(key));
        let committed = self.store.commit(txn).await?;
        match committed.got(0).and_then(<[Entry]>::first) {
            Some(entry) if !committed.succeeded => key_of(entry),
            None if !committed.succeeded => Err(StoreError::Unavailable {
                store: "the store".to_owned(),
                why: "no node has opened a session in this namespace yet".to_owned(),
            }),
            _ => Ok(fresh.to_vec()),
        }
    }
}

fn key_of(entry: &Entry) -> Result<Vec<u8>, StoreError> {
    let key = decode::<AuthKeyRecord>(&entry.value).and_then(|record| STANDARD.decode(record.key).ok());
    key.filter(|key| key.len() == KEY_BYTES).ok_or_else(|| {
        let why = format!("{} holds no key: delete it, then a new one is made and all logins end", entry.key);
        StoreError::Unusable(why)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::{Locks, Namespace, Seen};
    use crate::store::memory::MemoryStore;
    use crate::time::Clock;

    #[tokio::test]
    async fn a_new_namespace_gets_its_key_after_its_fence_base() {
        let (clock, namespace) = (Clock::system(), Namespace::new("shop").unwrap());
        let store = MemoryStore::new(clock.clone());
        let ledger = Ledger::new(store.clone(), namespace.clone());
        assert!(matches!(ledger.auth_key().await, Err(StoreError::Unavailable { .. })));
        // With a key in it, the namespace would not be new any more, and no base would be made.
        Locks::new(store, clock, namespace, Seen::default()).found().await.unwrap();
        let key = ledger.auth_key().await.unwrap();
        assert_eq!((key.len(), ledger.auth_key().await.unwrap()), (KEY_BYTES, key));
    }
}
