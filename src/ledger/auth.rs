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
    /// The key of this namespace. The first call that finds none makes one, once for all.
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
        let txn = Txn::new().when(Compare::absent(Keys::one(&key)));
        let txn = txn.then(Op::put(key.clone(), record)).otherwise(Op::get(key));
        let committed = self.store.commit(txn).await?;
        match committed.got(0).and_then(<[Entry]>::first) {
            Some(entry) if !committed.succeeded => key_of(entry),
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
