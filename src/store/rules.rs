//! What every embedded store refuses, and how a comparison is decided: written once, so that memory and SQLite cannot
//! drift apart. etcd enforces the same by itself.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Compare, Entry, Keys, Op, Range, Revision, StoreError, TXN_OPS, Test, Txn};

/// The most bytes one request may carry: etcd's default `--max-request-bytes`, 1.5 MiB.
pub(super) const REQUEST_BYTES: usize = 3 << 19;

/// The shortest lease: what is asked for below it is rounded up.
pub(super) const TTL_MIN: Duration = Duration::from_millis(10);

/// The longest lease that is granted. One that stands for a year is a mistake in a unit, not a lease.
pub(super) const TTL_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// The TTL that is put in force where `asked` was asked for.
pub(super) fn ttl(asked: Duration) -> Result<Duration, StoreError> {
    if asked > TTL_MAX {
        return Err(StoreError::Refused(format!("a lease of {asked:?} is longer than the longest, {TTL_MAX:?}")));
    }
    Ok(asked.max(TTL_MIN))
}

/// Refuses a transaction that breaks a rule of the seam, whichever of its branches would be applied.
pub(super) fn check(txn: &Txn) -> Result<(), StoreError> {
    let most = txn.when.len().max(txn.then.len()).max(txn.otherwise.len());
    if most > TXN_OPS {
        return Err(StoreError::Refused(format!("{most} operations in one transaction; the most is {TXN_OPS}")));
    }
    for compare in &txn.when {
        check_keys(&compare.keys)?;
    }
    check_branch(&txn.then)?;
    check_branch(&txn.otherwise)?;
    let bytes = txn.when.iter().map(compare_bytes).sum::<usize>()
        + txn.then.iter().chain(&txn.otherwise).map(op_bytes).sum::<usize>();
    if bytes > REQUEST_BYTES {
        return Err(StoreError::Refused(format!("a request of {bytes} bytes; the most is {REQUEST_BYTES}")));
    }
    Ok(())
}

fn check_branch(ops: &[Op]) -> Result<(), StoreError> {
    let mut puts = BTreeSet::new();
    for op in ops {
        match op {
            Op::Put { key, .. } if key.is_empty() => return Err(StoreError::Refused("a key is empty".into())),
            Op::Put { key, .. } if !puts.insert(key.as_str()) => {
                return Err(StoreError::Refused(format!("key `{key}` is put twice in one transaction")));
            }
            Op::Put { .. } => {}
            Op::Delete(keys) | Op::Get(Range { keys, .. }) => check_keys(keys)?,
        }
    }
    for op in ops {
        if let Op::Delete(keys) = op
            && let Some(key) = puts.iter().find(|key| keys.contains(key))
        {
            return Err(StoreError::Refused(format!("key `{key}` is put and deleted in one transaction")));
        }
    }
    Ok(())
}

/// Refuses what names no key: an empty key, or a range whose end is not after its start.
pub(super) fn check_keys(keys: &Keys) -> Result<(), StoreError> {
    match keys {
        Keys::One(key) | Keys::Range { start: key, .. } if key.is_empty() => {
            Err(StoreError::Refused("a key is empty".into()))
        }
        Keys::Range { start, end } if start >= end => {
            Err(StoreError::Refused(format!("the range from `{start}` to `{end}` holds no key")))
        }
        _ => Ok(()),
    }
}

fn keys_bytes(keys: &Keys) -> usize {
    match keys {
        Keys::One(key) => key.len(),
        Keys::Range { start, end } => start.len() + end.len(),
    }
}

fn compare_bytes(compare: &Compare) -> usize {
    keys_bytes(&compare.keys) + if let Test::Value(value) = &compare.test { value.len() } else { 0 }
}

fn op_bytes(op: &Op) -> usize {
    match op {
        Op::Put { key, value, .. } => key.len() + value.len(),
        Op::Delete(keys) | Op::Get(Range { keys, .. }) => keys_bytes(keys),
    }
}

/// Whether the test holds for a key; `None`: there is no such key, or none in the range.
pub(super) fn holds(test: &Test, found: Option<&Entry>) -> bool {
    match test {
        Test::Created(order, given) => order.holds(found.map_or(Revision(0), |entry| entry.created), *given),
        Test::Modified(order, given) => order.holds(found.map_or(Revision(0), |entry| entry.modified), *given),
        Test::Lease(given) => found.and_then(|entry| entry.lease) == *given,
        Test::Value(given) => found.is_some_and(|entry| entry.value == *given),
    }
}

/// Refuses to read at a revision that is no longer kept, or that is yet to come.
pub(super) fn check_at(at: Revision, kept_from: Revision, now: Revision) -> Result<(), StoreError> {
    if at < kept_from {
        return Err(StoreError::Compacted { asked: at, kept_from });
    }
    if at > now {
        return Err(StoreError::Refused(format!("revision {at} is yet to come: the store is at {now}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(txn: Txn) -> String {
        match check(&txn) {
            Err(StoreError::Refused(why)) => why,
            other => panic!("not refused: {other:?}"),
        }
    }

    #[test]
    fn a_key_is_put_once_and_not_deleted_beside() {
        assert!(refused(Txn::new().then(Op::put("a", "1")).then(Op::put("a", "2"))).contains("put twice"));
        let range = Keys::Range { start: "a".into(), end: "c".into() };
        assert!(refused(Txn::new().otherwise(Op::put("b", "1")).otherwise(Op::Delete(range))).contains("deleted"));
        assert!(check(&Txn::new().then(Op::put("a", "1")).otherwise(Op::delete("a"))).is_ok());
    }

    #[test]
    fn what_names_no_key_is_refused() {
        refused(Txn::new().then(Op::put("", "1")));
        refused(Txn::new().when(Compare::absent(Keys::one(""))));
        refused(Txn::new().then(Op::Delete(Keys::Range { start: "b".into(), end: "b".into() })));
    }

    #[test]
    fn a_request_has_a_largest_size() {
        assert!(check(&Txn::new().then(Op::put("a", vec![0; REQUEST_BYTES - 1]))).is_ok());
        refused(Txn::new().then(Op::put("a", vec![0; REQUEST_BYTES])));
    }
}
