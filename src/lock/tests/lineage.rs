//! Stores that were restored from a backup, and have gone on from there.

use super::*;
use crate::lock::lineage::Lineage;

const LINEAGE: &str = "/fencron/v1/test/lineage";
const REFUSED: &str = "/fencron/v1/test/refused";

impl Cluster {
    /// What it holds now, but for what hangs on leases.
    async fn backup(&self) -> Vec<Entry> {
        let keys = Keys::prefix("/");
        self.store.range_all(keys).await.unwrap().0.into_iter().filter(|entry| entry.lease.is_none()).collect()
    }

    /// The store becomes what it was, and grows until its revision is beyond all that was ever seen.
    async fn restore(&self, backup: Vec<Entry>, revision: u64) {
        let older = MemoryStore::new(self.clock.clone());
        for entry in backup {
            older.commit(Txn::new().then(Op::put(entry.key, entry.value))).await.unwrap();
        }
        for n in 2..=revision {
            older.commit(Txn::new().then(Op::put("/other", n.to_string()))).await.unwrap();
        }
        self.store.become_store(older);
    }

    async fn is_refused(&self) -> bool {
        self.entry(REFUSED).await.is_some()
    }

    async fn links(&self) -> u64 {
        let entry = self.entry(LINEAGE).await;
        Lineage::read(entry.as_ref()).unwrap().newest().map_or(0, |link| link.number)
    }
}

/// A node that leads for a moment, and sees to the lineage.
async fn lead_once(locks: &Locks<Faulty>, number: u128) -> Term {
    let node = Node::open(locks, "n").await;
    let term = node.lead(number).await;
    locks.renew_lineage(&term.hold, true).await.unwrap();
    node.session.close().await.unwrap();
    term
}

async fn refuses(locks: &Locks<Faulty>, number: u128) {
    let node = Node::open(locks, "n").await;
    let error = node.fails(number).await;
    assert!(matches!(error, CampaignError::StoreWentBack(_)), "{error}");
    node.session.close().await.unwrap();
}

/// A store that was restored from before the last term that the first of these locks remember, and has grown beyond it;
/// the second have seen nothing.
async fn overtaken() -> (Cluster, Locks<Faulty>, Locks<Faulty>) {
    let cluster = Cluster::new();
    let locks = cluster.locks();
    lead_once(&locks, 1).await;
    let backup = cluster.backup().await;
    lead_once(&locks, 2).await;
    let seen = *locks.seen().borrow();
    cluster.restore(backup, seen.revision.0 + 50).await;
    let (a, late) = (cluster.locks_that_saw(seen), cluster.locks());
    (cluster, a, late)
}

#[tokio::test(start_paused = true)]
async fn a_store_whose_revision_has_overtaken_what_was_seen_is_refused_by_all_until_it_is_repaired() {
    let (cluster, a, late) = overtaken().await;
    refuses(&a, 3).await;
    assert!(cluster.is_refused().await);
    refuses(&late, 4).await;
    let semaphore = late.semaphore(LockName::new("gpu").unwrap(), 1);
    let node = Node::open(&late, "n").await;
    let error = semaphore.acquire(&node.session, 1).await.unwrap_err();
    assert!(matches!(error, SemaphoreError::StoreWentBack(_)), "{error}");
    assert!(node.election.observe().await.unwrap().age.is_err(), "whoever looks is told");

    late.repair(None).await.unwrap();
    assert!(!cluster.is_refused().await);
    let before = a.seen().borrow().fence;
    assert!(lead_once(&a, 5).await.fence().get() > before);
    assert!(lead_once(&late, 6).await.fence().get() > before);
}

#[tokio::test(start_paused = true)]
async fn who_came_late_and_leads_a_store_that_went_back_is_deposed_by_who_knows_better() {
    let (cluster, a, late) = overtaken().await;
    let c = Node::open(&late, "c").await;
    let term = c.lead(3).await;
    late.renew_lineage(&term.hold, true).await.unwrap();
    assert!(late.seen().borrow().marked > a.seen().borrow().marked, "only the lineage tells");
    refuses(&a, 4).await;
    assert!(cluster.is_refused().await && !c.still_leads(&term).await);
    assert!(matches!(c.fails(5).await, CampaignError::StoreWentBack(_)));
}

#[tokio::test(start_paused = true)]
async fn permits_of_a_store_that_went_back_end_when_it_is_refused() {
    let (cluster, a, late) = overtaken().await;
    let c = Node::open(&late, "c").await;
    let semaphores = ["gpu", "disk"].map(|name| late.semaphore(LockName::new(name).unwrap(), 2));
    let mut held = Vec::new();
    for semaphore in &semaphores {
        held.push(semaphore.acquire(&c.session, 1).await.unwrap());
    }
    refuses(&a, 4).await;
    assert!(cluster.is_refused().await);
    for (semaphore, permits) in semaphores.iter().zip(held) {
        assert_eq!(timeout(LONG, permits.signal().lost()).await.unwrap(), Lost::Taken);
        let state = semaphore.state().await.unwrap();
        assert_eq!((state.permits, state.available()), (Some(2), 2), "their number stays");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lock_and_a_semaphore_remember_too() {
    let cluster = Cluster::new();
    let (locks, name) = (cluster.locks(), LockName::new("deploy").unwrap());
    let node = Node::open(&locks, "n").await;
    let backup = cluster.backup().await;
    let fence =
        locks.fenced(name.clone(), Config::default()).lock_and_get_fence(&mut node.session.context()).await.unwrap();
    let seen = *locks.seen().borrow();
    assert_eq!(seen.fence, fence.get());
    cluster.restore(backup, seen.revision.0 + 50).await;

    let again = cluster.locks_that_saw(seen);
    let node = Node::open(&again, "n").await;
    let lock = again.fenced(name.clone(), Config::default());
    let error = lock.try_lock(&mut node.session.context()).await.unwrap_err();
    assert!(matches!(error, LockError::StoreWentBack(_)), "{error}");
    let semaphore = cluster.locks_that_saw(seen).semaphore(name, 1);
    let error = semaphore.try_acquire(&node.session, 1).await.unwrap_err();
    assert!(matches!(error, SemaphoreError::StoreWentBack(_)), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_grant_on_a_line_from_before_the_store_went_back_is_not_made() {
    let cluster = Cluster::new();
    let (a, locks) = (cluster.node("a").await, cluster.locks());
    let term = a.lead(1).await;
    let b = Node::open(&locks, "b").await.queue_up(2).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    // It heard elsewhere of a later claim, of which the store does not know.
    locks.saw_mark(0, Revision(term.hold.created().0 + 1));
    a.election.resign(&term).await.unwrap();
    let (_, result) = finished(b).await;
    assert!(matches!(result, Err(CampaignError::StoreWentBack(_))), "{result:?}");
    assert_eq!(cluster.entry(OWNER).await, None);
}

#[tokio::test(start_paused = true)]
async fn another_store_under_the_same_address_is_refused_and_left_alone() {
    let cluster = Cluster::new();
    let locks = cluster.locks();
    lead_once(&locks, 1).await;
    let seen = *locks.seen().borrow();
    cluster.store.become_store(MemoryStore::new(cluster.clock.clone()));
    let theirs = cluster.locks();
    let other = Node::open(&theirs, "other").await;
    let term = other.lead(2).await;
    refuses(&cluster.locks_that_saw(Seen { fence: 900, revision: Revision(900), ..seen }), 3).await;
    assert!(!cluster.is_refused().await && other.still_leads(&term).await);
}

#[tokio::test(start_paused = true)]
async fn the_lineage_grows_with_each_term_that_somebody_remembers_and_now_and_then() {
    let cluster = Cluster::new();
    let state = tempfile::tempdir().unwrap();
    let file = SeenFile::new(state.path(), "memory:", &Namespace::new("test").unwrap());
    let locks = cluster.locks().kept_in(file.clone());
    let node = Node::open(&locks, "n").await;
    assert_eq!(cluster.links().await, 1, "a namespace begins with one");
    let term = node.lead(1).await;
    while cluster.links().await < 2 {
        tokio::task::yield_now().await;
    }
    locks.renew_lineage(&term.hold, false).await.unwrap();
    assert_eq!(cluster.links().await, 2, "not due");
    tokio::time::sleep(Duration::from_secs(601)).await;
    locks.renew_lineage(&term.hold, false).await.unwrap();
    assert_eq!(cluster.links().await, 3);
    node.election.resign(&term).await.unwrap();
    locks.renew_lineage(&term.hold, true).await.unwrap();
    assert_eq!(cluster.links().await, 3, "whoever holds it no more adds none");
    locks.save_seen().await;
    let kept = file.load().unwrap();
    assert_eq!((kept.link.map(|link| link.number), kept.fence), (Some(3), term.fence().get()));
}

#[tokio::test(start_paused = true)]
async fn a_store_of_a_version_without_marks_and_links_goes_on() {
    let cluster = Cluster::new();
    let locks = cluster.locks();
    lead_once(&locks, 1).await;
    for key in ["/fencron/v1/test/mark", LINEAGE] {
        cluster.delete(key).await;
    }
    let (seen, older) = (*locks.seen().borrow(), cluster.locks());
    let before = Seen { base: seen.base, revision: seen.revision, fence: seen.fence, ..Seen::default() };
    let again = cluster.locks_that_saw(before);
    lead_once(&again, 2).await;
    lead_once(&older, 3).await;
    assert_eq!(cluster.links().await, 2);
}

#[tokio::test(start_paused = true)]
async fn a_new_namespace_needs_no_repair() {
    let cluster = Cluster::new();
    let standing = cluster.locks().election(LockName::leader()).observe().await.unwrap();
    assert!(standing.base.is_ok());
    cluster.put("/fencron/v1/test/job/a", "{}").await;
    assert!(cluster.locks().election(LockName::leader()).observe().await.unwrap().base.is_err(), "it had one");
}

#[tokio::test]
async fn a_disk_that_does_not_answer_holds_up_nobody_for_long() {
    let cluster = Cluster::new();
    let state = tempfile::tempdir().unwrap();
    let file = SeenFile::new(state.path(), "memory:", &Namespace::new("test").unwrap());
    // Whoever opens a pipe to read from it waits until somebody writes.
    nix::unistd::mkfifo(file.path(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let locks = cluster.locks().kept_in(file.clone());
    let node = Node::open(&locks, "n").await;
    let term = timeout(Duration::from_secs(60), node.election.campaign(&node.session, call(1))).await;
    assert!(node.still_leads(&term.expect("it leads without having saved").unwrap()).await);
    // What hangs comes to an end, so that the test does.
    std::fs::write(file.path(), "").unwrap();
}
