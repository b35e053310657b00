//! How the commits of one store reach the watches of another on the same file, as those of another process would.

use std::path::PathBuf;

use super::*;
use crate::store::{Op, Watched};

/// Longer than any test runs.
const NEVER: Duration = Duration::from_secs(3600);

/// Longer than anything here may take.
const PATIENCE: Duration = Duration::from_secs(60);

const HEARS: Word = Word { announces: true, listens: true, look_every: NEVER };

struct Place {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

impl Place {
    fn new() -> Place {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.db");
        Place { _directory: directory, path }
    }

    async fn open(&self, word: Word) -> SqliteStore {
        SqliteStore::open_to_hear(&self.path, Clock::system(), word).await.unwrap()
    }
}

async fn put(store: &SqliteStore, value: &str) -> Revision {
    store.commit(Txn::new().then(Op::put("a", value))).await.unwrap().revision
}

/// Waits until the watch has reported `revision`.
async fn hear(watch: &mut Watch, revision: Revision) {
    let heard = async {
        loop {
            match watch.next().await {
                Some(Watched::Changes(changes)) if changes.iter().any(|change| change.revision() == revision) => return,
                Some(Watched::Changes(_)) => {}
                other => panic!("no changes: {other:?}"),
            }
        }
    };
    timeout(PATIENCE, heard).await.expect("it is heard without a look at intervals");
}

#[tokio::test]
async fn a_commit_of_another_store_is_heard_without_a_look_at_intervals() {
    let place = Place::new();
    let (ours, theirs) = (place.open(HEARS).await, place.open(HEARS).await);
    let mut watch = ours.watch(Keys::one("a"), Revision(2)).await.unwrap();
    for n in 0..100 {
        hear(&mut watch, put(&theirs, &n.to_string()).await).await;
    }
}

#[tokio::test]
async fn many_stores_of_a_directory_hear_each_of_their_own_file_and_one_that_closes_silences_none() {
    let places = Place::new();
    let path = |n: usize| places.path.with_file_name(format!("{n}.db"));
    let open = async |n: usize| SqliteStore::open_to_hear(&path(n), Clock::system(), HEARS).await.unwrap();
    let (mut watches, mut stores) = (Vec::new(), Vec::new());
    for n in 0..8 {
        let store = open(n).await;
        watches.push(store.watch(Keys::one("a"), Revision(2)).await.unwrap());
        stores.push(store);
    }
    for n in (0..8).rev() {
        let theirs = open(n).await;
        hear(&mut watches[n], put(&theirs, "1").await).await;
        drop(stores.pop());
        drop(watches.pop());
    }
}

#[tokio::test]
async fn a_store_that_cannot_listen_looks_at_short_intervals() {
    let place = Place::new();
    let ours = place.open(Word { listens: false, ..HEARS }).await;
    let theirs = place.open(HEARS).await;
    let mut watch = ours.watch(Keys::one("a"), Revision(2)).await.unwrap();
    hear(&mut watch, put(&theirs, "1").await).await;
}

/// An older version announces nothing, nor does a hand.
#[tokio::test]
async fn a_store_that_missed_a_commit_looks_at_short_intervals_for_a_while() {
    const COMMITS: u32 = 50;
    let place = Place::new();
    let look_every = Duration::from_secs(2);
    let ours = place.open(Word { look_every, ..HEARS }).await;
    let theirs = place.open(Word { announces: false, ..HEARS }).await;
    let mut watch = ours.watch(Keys::one("a"), Revision(2)).await.unwrap();
    hear(&mut watch, put(&theirs, "missed").await).await;
    let clock = Clock::system();
    let begun = clock.boot();
    for n in 0..COMMITS {
        hear(&mut watch, put(&theirs, &n.to_string()).await).await;
    }
    let took = clock.boot().since(begun);
    assert!(took < look_every * COMMITS / 2, "{took:?}");
}

#[tokio::test]
async fn a_lease_ends_when_it_is_due_without_a_look_at_intervals() {
    let place = Place::new();
    let ours = place.open(HEARS).await;
    let (lease, _) = ours.grant(Duration::from_secs(1)).await.unwrap();
    let mut watch = ours.watch(Keys::one("a"), Revision(2)).await.unwrap();
    let put = ours.commit(Txn::new().then(Op::put_leased("a", "1", lease))).await.unwrap();
    hear(&mut watch, put.revision).await;
    hear(&mut watch, put.revision.next()).await;
}

#[tokio::test]
async fn a_transaction_that_changes_nothing_is_not_announced() {
    let place = Place::new();
    let theirs = place.open(HEARS).await;
    let revision = put(&theirs, "1").await;
    let times = || std::fs::metadata(&place.path).unwrap().modified().unwrap();
    let before = times();
    let look = theirs.commit(Txn::new().then(Op::get("a"))).await.unwrap();
    assert_eq!((look.revision, times()), (revision, before));
}
