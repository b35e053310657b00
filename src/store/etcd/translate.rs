//! The seam's words in etcd's, and back.

use etcd_client as etcd;
use etcd_client::{CompareOp, DeleteOptions, EventType, GetOptions, PutOptions, SortOrder, SortTarget, TxnOpResponse};

use crate::store::{
    Answer, Change, Committed, Compare, Entry, Keys, LeaseId, Op, Order, Page, Range, Revision, Sort, StoreError, Test,
    Txn,
};

/// The revision as etcd counts; every revision it has given is one.
pub(super) fn number(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

/// etcd's revisions and lease names are never negative.
pub(super) fn revision(number: i64) -> Revision {
    Revision(u64::try_from(number).unwrap_or(0))
}

pub(super) fn lease_number(lease: LeaseId) -> i64 {
    i64::try_from(lease.0.get()).unwrap_or(i64::MAX)
}

pub(super) fn lease(number: i64) -> Option<LeaseId> {
    u64::try_from(number).ok().and_then(std::num::NonZeroU64::new).map(LeaseId)
}

/// First key and, for a range, the end. An empty range means something else to etcd, and is refused.
pub(super) fn bounds(keys: &Keys) -> Result<(&str, Option<&str>), StoreError> {
    match keys {
        Keys::One(key) => Ok((key, None)),
        Keys::Range { start, end } if start < end => Ok((start, Some(end))),
        Keys::Range { start, end } => {
            Err(StoreError::Refused(format!("the range from `{start}` up to `{end}` holds no key")))
        }
    }
}

/// The transaction as etcd takes it.
pub(super) fn txn(txn: &Txn) -> Result<etcd::Txn, StoreError> {
    let when = txn.when.iter().map(compare).collect::<Result<Vec<_>, _>>()?;
    let then = txn.then.iter().map(op).collect::<Result<Vec<_>, _>>()?;
    let otherwise = txn.otherwise.iter().map(op).collect::<Result<Vec<_>, _>>()?;
    Ok(etcd::Txn::new().when(when).and_then(then).or_else(otherwise))
}

/// Whether the transaction can change anything.
pub(super) fn writes(txn: &Txn) -> bool {
    txn.then.iter().chain(&txn.otherwise).any(|op| !matches!(op, Op::Get(_)))
}

/// The lease that an error about the transaction's lease is about: the first it puts with.
pub(super) fn lease_of(txn: &Txn) -> Option<LeaseId> {
    txn.then.iter().chain(&txn.otherwise).find_map(|op| match op {
        Op::Put { lease, .. } => *lease,
        _ => None,
    })
}

/// What an error about the history is about: the first revision that the transaction reads at, and a key it reads.
pub(super) fn history_read(txn: &Txn) -> Option<(Revision, &str)> {
    txn.then.iter().chain(&txn.otherwise).find_map(|op| match op {
        Op::Get(Range { at: Some(at), keys: Keys::One(key) | Keys::Range { start: key, .. }, .. }) => {
            Some((*at, key.as_str()))
        }
        _ => None,
    })
}

fn compare(compare: &Compare) -> Result<etcd::Compare, StoreError> {
    let order = |order: Order| match order {
        Order::Equal => CompareOp::Equal,
        Order::NotEqual => CompareOp::NotEqual,
        Order::Less => CompareOp::Less,
        Order::Greater => CompareOp::Greater,
    };
    let (key, end) = bounds(&compare.keys)?;
    let made = match &compare.test {
        Test::Created(relation, given) => etcd::Compare::create_revision(key, order(*relation), number(*given)),
        Test::Modified(relation, given) => etcd::Compare::mod_revision(key, order(*relation), number(*given)),
        Test::Lease(lease) => etcd::Compare::lease(key, CompareOp::Equal, lease.map_or(0, lease_number)),
        Test::Value(value) => etcd::Compare::value(key, CompareOp::Equal, value.clone()),
    };
    Ok(match end {
        Some(end) => made.with_range(end),
        None => made,
    })
}

fn op(op: &Op) -> Result<etcd::TxnOp, StoreError> {
    Ok(match op {
        Op::Put { key, value, lease } => {
            let options = lease.map(|lease| PutOptions::new().with_lease(lease_number(lease)));
            etcd::TxnOp::put(key.as_str(), value.clone(), options)
        }
        Op::Delete(keys) => {
            let (key, end) = bounds(keys)?;
            etcd::TxnOp::delete(key, end.map(|end| DeleteOptions::new().with_range(end)))
        }
        Op::Get(range) => {
            let (key, options) = get(range)?;
            etcd::TxnOp::get(key, Some(options))
        }
    })
}

/// The question for a range: its first key, and the rest.
pub(super) fn get(range: &Range) -> Result<(&str, GetOptions), StoreError> {
    let (key, end) = bounds(&range.keys)?;
    let mut options = GetOptions::new().with_limit(i64::try_from(range.limit).unwrap_or(i64::MAX));
    if let Some(end) = end {
        options = options.with_range(end);
    }
    if let Some(at) = range.at {
        options = options.with_revision(number(at));
    }
    if range.order == Sort::NewestFirst {
        options = options.with_sort(SortTarget::Mod, SortOrder::Descend);
    }
    match range.modified_before {
        None => {}
        // 0 would be no bound at all; nothing was put before revision 1, and a count brings no entries.
        Some(Revision(0 | 1)) => options = options.with_count_only(),
        Some(before) => options = options.with_max_mod_revision(number(before) - 1),
    }
    Ok((key, if range.keys_only { options.with_keys_only() } else { options }))
}

/// A key as text. One that is not UTF-8 is none of ours; it is shown as well as it can be.
fn text(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}

fn entry(found: &etcd::KeyValue) -> Entry {
    Entry {
        key: text(found.key()),
        value: found.value().to_vec(),
        created: revision(found.create_revision()),
        modified: revision(found.mod_revision()),
        lease: lease(found.lease()),
    }
}

/// The entries found, in a store that is at `now`.
pub(super) fn page(found: &etcd::GetResponse, now: Revision) -> Page {
    Page { entries: found.kvs().iter().map(entry).collect(), more: found.more(), revision: now }
}

pub(super) fn committed(answer: &etcd::TxnResponse) -> Committed {
    let now = header_revision(answer.header());
    let answers = answer.op_responses().into_iter().map(|response| match response {
        TxnOpResponse::Put(_) => Answer::Put,
        TxnOpResponse::Delete(deleted) => Answer::Deleted(u64::try_from(deleted.deleted()).unwrap_or(0)),
        TxnOpResponse::Get(found) => Answer::Got(page(&found, now)),
        TxnOpResponse::Txn(_) => unreachable!("no transaction of ours holds another"),
    });
    Committed { succeeded: answer.succeeded(), revision: now, answers: answers.collect() }
}

pub(super) fn header_revision(header: Option<&etcd::ResponseHeader>) -> Revision {
    header.map_or(Revision(0), |header| revision(header.revision()))
}

/// What an event reports; `None` for one without a key, which etcd does not send.
pub(super) fn change(event: &etcd::Event) -> Option<Change> {
    let found = event.kv()?;
    Some(match event.event_type() {
        EventType::Put => Change::Put(entry(found)),
        EventType::Delete => Change::Deleted { key: text(found.key()), revision: revision(found.mod_revision()) },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_that_only_reads_is_known_as_such() {
        assert!(!writes(&Txn::new().when(Compare::absent(Keys::one("a"))).then(Op::get("a")).otherwise(Op::get("b"))));
        assert!(writes(&Txn::new().otherwise(Op::delete("a"))));
    }

    #[test]
    fn a_range_that_holds_no_key_is_refused_and_not_taken_for_a_key() {
        let keys = Keys::Range { start: "b".into(), end: String::new() };
        assert!(matches!(bounds(&keys), Err(StoreError::Refused(_))));
    }
}
