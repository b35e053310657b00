//! The SQLite store, and that in PostgreSQL, answer whatever happens as the memory store, the reference model, does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fencron::store::memory::MemoryStore;
use fencron::store::postgres::{PostgresConfig, PostgresStore};
use fencron::store::sqlite::SqliteStore;
use fencron::store::{
    Answer, Change, Compare, Entry, Keys, LeaseId, Op, Order, Page, Range, Revision, Sort, Store, StoreError, Test,
    Txn, Watched,
};
use fencron::time::{Boot, Clock, Wall};
use proptest::prelude::*;

use crate::fixture::{everything, soon};
use crate::support::databases::{Kind, Server};

/// How many leases are granted before anything else happens: what steps refer to by their place.
const LEASES: usize = 3;

#[derive(Clone, Debug)]
enum Step {
    Commit(Txn),
    Grant(u64),
    KeepAlive(usize),
    Revoke(usize),
    Advance(u64),
    Range(Range),
    Compact(u64),
}

/// A placeholder for the `n`th lease granted; the stores name theirs differently.
fn place(n: usize) -> LeaseId {
    LeaseId((n as u64 + 1).try_into().unwrap())
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![Just("a"), Just("b/"), Just("b/1"), Just("b/2"), Just("b0"), Just("ä")].prop_map(String::from)
}

fn some_keys() -> impl Strategy<Value = Keys> {
    let range = (key(), key()).prop_map(|(start, end)| Keys::Range { start, end });
    prop_oneof![3 => key().prop_map(Keys::One), 2 => Just(Keys::prefix("b/")), 1 => range]
}

fn some_lease() -> impl Strategy<Value = Option<LeaseId>> {
    proptest::option::of((0..LEASES + 2).prop_map(place))
}

fn some_revision() -> impl Strategy<Value = Revision> {
    prop_oneof![0..20u64, Just(u64::MAX)].prop_map(Revision)
}

fn some_test() -> impl Strategy<Value = Test> {
    let order = prop_oneof![Just(Order::Equal), Just(Order::NotEqual), Just(Order::Less), Just(Order::Greater)];
    prop_oneof![
        (order.clone(), some_revision()).prop_map(|(order, revision)| Test::Created(order, revision)),
        (order, some_revision()).prop_map(|(order, revision)| Test::Modified(order, revision)),
        some_lease().prop_map(Test::Lease),
        some_value().prop_map(Test::Value),
    ]
}

fn some_value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![Just(vec![]), Just(vec![0]), Just(b"value".to_vec())]
}

fn some_range() -> impl Strategy<Value = Range> {
    let order = prop_oneof![Just(Sort::Key), Just(Sort::NewestFirst)];
    let revision = || proptest::option::of(some_revision());
    (some_keys(), 0..4usize, revision(), order, revision(), any::<bool>()).prop_map(
        |(keys, limit, at, order, modified_before, keys_only)| Range {
            keys,
            limit,
            at,
            order,
            modified_before,
            keys_only,
        },
    )
}

fn some_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (key(), some_value(), some_lease()).prop_map(|(key, value, lease)| Op::Put { key, value, lease }),
        2 => some_keys().prop_map(Op::Delete),
        1 => some_range().prop_map(Op::Get),
    ]
}

fn some_step() -> impl Strategy<Value = Step> {
    let ops = || proptest::collection::vec(some_op(), 0..4);
    let when =
        proptest::collection::vec((some_keys(), some_test()).prop_map(|(keys, test)| Compare { keys, test }), 0..3);
    let txn = (when, ops(), ops()).prop_map(|(when, then, otherwise)| Txn { when, then, otherwise });
    prop_oneof![
        12 => txn.prop_map(Step::Commit),
        1 => (0..20_000u64).prop_map(Step::Grant),
        2 => (0..LEASES + 2).prop_map(Step::KeepAlive),
        1 => (0..LEASES + 2).prop_map(Step::Revoke),
        2 => (0..8_000u64).prop_map(Step::Advance),
        3 => some_range().prop_map(Step::Range),
        1 => (0..20u64).prop_map(Step::Compact),
    ]
}

/// A store whose leases are named by their places.
struct Subject<S> {
    store: S,
    granted: Vec<LeaseId>,
}

impl<S: Store> Subject<S> {
    fn real(&self, place: LeaseId) -> LeaseId {
        let index = place.0.get() as usize - 1;
        self.granted.get(index).copied().unwrap_or(LeaseId(u64::MAX.try_into().unwrap()))
    }

    fn placed(&self, real: LeaseId) -> LeaseId {
        self.granted.iter().position(|lease| *lease == real).map_or(real, place)
    }

    fn translate(&self, mut txn: Txn) -> Txn {
        for op in txn.then.iter_mut().chain(&mut txn.otherwise) {
            if let Op::Put { lease: Some(lease), .. } = op {
                *lease = self.real(*lease);
            }
        }
        for compare in &mut txn.when {
            if let Test::Lease(Some(lease)) = &mut compare.test {
                *lease = self.real(*lease);
            }
        }
        txn
    }

    fn entry(&self, entry: &Entry) -> Entry {
        Entry { lease: entry.lease.map(|lease| self.placed(lease)), ..entry.clone() }
    }

    fn page(&self, page: &Page) -> Page {
        Page { entries: page.entries.iter().map(|entry| self.entry(entry)).collect(), ..page.clone() }
    }

    fn error(&self, error: StoreError) -> String {
        match error {
            StoreError::LeaseEnded(lease) => StoreError::LeaseEnded(self.placed(lease)).to_string(),
            other => format!("{other:?}"),
        }
    }

    /// What it answers, in words that are the same for every store.
    async fn answer(&mut self, step: &Step) -> String {
        match step {
            Step::Commit(txn) => match self.store.commit(self.translate(txn.clone())).await {
                Ok(mut committed) => {
                    for answer in &mut committed.answers {
                        if let Answer::Got(page) = answer {
                            *page = self.page(page);
                        }
                    }
                    format!("{committed:?}")
                }
                Err(error) => self.error(error),
            },
            Step::Grant(millis) => {
                let (lease, ttl) = self.store.grant(Duration::from_millis(*millis)).await.unwrap();
                self.granted.push(lease);
                format!("granted for {ttl:?}")
            }
            Step::KeepAlive(n) => {
                let kept = self.store.keep_alive(self.real(place(*n))).await;
                kept.map_or_else(|error| self.error(error), |ttl| format!("{ttl:?}"))
            }
            Step::Revoke(n) => format!("{:?}", self.store.revoke(self.real(place(*n))).await.is_ok()),
            Step::Range(range) => match self.store.range(range.clone()).await {
                Ok(page) => format!("{:?}", self.page(&page)),
                Err(error) => self.error(error),
            },
            Step::Advance(_) | Step::Compact(_) => String::new(),
        }
    }

    /// All that a watch from the beginning of what is kept reports, and the contents at each of those revisions.
    async fn history(&self) -> String {
        let now = self.store.range(Range::of(everything())).await.unwrap();
        let mut told = format!("{:?}\n", self.page(&now));
        for at in (0..now.revision.0).map(Revision) {
            let read = self.store.range(Range { at: Some(at), ..Range::of(everything()) }).await;
            told += &format!("{at}: {:?}\n", read.map(|page| self.page(&page)).map_err(|error| self.error(error)));
        }
        let mut watch = self.store.watch(everything(), Revision(0)).await.unwrap();
        let mut from = Revision(0);
        while from < now.revision && now.revision > Revision(1) {
            match soon(watch.next()).await.expect("it goes on until the newest change") {
                Watched::Compacted(revision) => {
                    told += &format!("compacted {revision}\n");
                    from = revision;
                    watch = self.store.watch(everything(), revision).await.unwrap();
                    if revision == now.revision {
                        break;
                    }
                }
                Watched::Changes(changes) => {
                    from = changes.last().expect("a report is not empty").revision();
                    for change in changes {
                        told += &match change {
                            Change::Put(entry) => format!("{:?}\n", self.entry(&entry)),
                            deleted @ Change::Deleted { .. } => format!("{deleted:?}\n"),
                        };
                    }
                }
            }
        }
        told
    }
}

/// A store under test, which forgets its history where it is asked to.
trait Forgets: Store {
    fn forget(&self, before: Revision) -> impl Future<Output = ()> + Send;
}

impl Forgets for SqliteStore {
    async fn forget(&self, before: Revision) {
        self.compact(before).await.unwrap();
    }
}

impl Forgets for PostgresStore {
    async fn forget(&self, before: Revision) {
        self.compact(before).await.unwrap();
    }
}

async fn both_answer_alike<S: Forgets>(steps: Vec<Step>, open: impl AsyncFnOnce(Clock) -> S) {
    let millis = Arc::new(AtomicU64::new(1_000));
    let read = Arc::clone(&millis);
    let clock =
        Clock::from_fn(move || (Boot::from_duration(Duration::from_millis(read.load(Ordering::SeqCst))), Wall::EPOCH));
    let mut tested = Subject { store: open(clock.clone()).await, granted: Vec::new() };
    let mut memory = Subject { store: MemoryStore::new(clock), granted: Vec::new() };
    let begin = (0..LEASES).map(|n| Step::Grant(5_000 * (n as u64 + 1)));
    for step in begin.chain(steps) {
        match step {
            Step::Advance(by) => drop(millis.fetch_add(by, Ordering::SeqCst)),
            Step::Compact(at) => {
                memory.store.compact(Revision(at));
                tested.store.forget(Revision(at)).await;
            }
            _ => {}
        }
        assert_eq!(tested.answer(&step).await, memory.answer(&step).await, "{step:?}");
    }
    assert_eq!(tested.history().await, memory.history().await);
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn sqlite_answers_as_the_model_does(steps in proptest::collection::vec(some_step(), 1..40)) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.db");
        let open = async |clock| SqliteStore::open(&path, clock).await.unwrap();
        runtime().block_on(both_answer_alike(steps, open));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, ..ProptestConfig::default() })]

    #[test]
    fn postgres_answers_as_the_model_does(steps in proptest::collection::vec(some_step(), 1..40)) {
        let database = Server::shared(Kind::Postgres).database();
        let config: PostgresConfig = database.url.parse().unwrap();
        let open = async |clock| PostgresStore::connect(config, clock).await.unwrap();
        runtime().block_on(both_answer_alike(steps, open));
    }
}
