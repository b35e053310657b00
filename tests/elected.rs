//! Services whose work only one of their instances does: over the memory store and over SQLite, with the real
//! tokio-cron-scheduler, in one process and in two of which one is killed.

mod support;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use fencron::elected::{Claimed, Elected, Led};
use fencron::fence::Fence;
use fencron::lock::{LockName, Locks, Namespace, Seen, Timing};
use fencron::store::memory::MemoryStore;
use fencron::store::sqlite::SqliteStore;
use fencron::store::{Keys, Op, Range, Store, Txn};
use fencron::time::{Clock, Wall};
use support::etcd::{Etcd, EtcdOptions};
use support::soon;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio_cron_scheduler::JobScheduler;

/// Nothing here waits for a lease of this length to end.
const LONG_TTL: Duration = Duration::from_secs(60);
/// How long it takes at most until an instance that was killed is followed.
const SHORT_TTL: Duration = Duration::from_secs(4);
const GRACE: Duration = Duration::from_secs(30);

fn namespace() -> Namespace {
    Namespace::new("test").unwrap()
}

fn instance<S: Store>(store: &S, name: &str, ttl: Duration) -> Elected<S> {
    let locks = Locks::new(store.clone(), Clock::system(), namespace(), Seen::default());
    Elected::start(&locks, LockName::new("reports").unwrap(), name, Timing::from_ttl(ttl).unwrap())
}

async fn elected<S: Store>(instance: &Elected<S>) -> Led {
    let mut terms = instance.terms();
    let led = soon("it is elected", terms.wait_for(Option::is_some)).await.unwrap().clone();
    led.expect("waited for")
}

/// Two instances, the first of them elected and the second in the queue.
async fn two() -> (Elected<MemoryStore>, Elected<MemoryStore>) {
    let store = MemoryStore::new(Clock::system());
    two_over(&store, &store).await
}

async fn two_over<S: Store>(one: &S, other: &S) -> (Elected<S>, Elected<S>) {
    let a = instance(one, "a", LONG_TTL);
    elected(&a).await;
    let b = instance(other, "b", LONG_TTL);
    support::until("b waits", async || {
        let standing = b.election().observe().await.unwrap();
        (!standing.waiting.is_empty()).then_some(())
    })
    .await;
    (a, b)
}

fn at(second: u64) -> Wall {
    "2026-11-21T02:00:00Z".parse::<Wall>().unwrap().plus(Duration::from_secs(second))
}

#[tokio::test]
async fn an_occurrence_is_done_once_across_a_hand_over() {
    let (a, b) = two().await;
    done_once_across_a_hand_over(a, b).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_occurrence_is_done_once_across_a_hand_over_in_etcd() {
    let etcd = Etcd::start(EtcdOptions::default()).await;
    let (a, b) = two_over(&etcd.store().await, &etcd.store().await).await;
    done_once_across_a_hand_over(a, b).await;
}

async fn done_once_across_a_hand_over<S: Store>(a: Elected<S>, b: Elected<S>) {
    let (here, there) = (a.job("report").unwrap(), b.job("report").unwrap());
    let first = here.claim(at(1)).await.unwrap().expect("a is elected");
    assert_eq!((first.job(), first.scheduled_at()), ("report", at(1)));
    let fence = first.fence();
    drop(first);
    // Both sides of the hand-over are asked for the same instant.
    let asked = tokio::spawn(async move { (there.claim(at(1)).await.unwrap().map(|claimed| claimed.fence()), there) });
    soon("a stops", a.stop(GRACE)).await;
    assert!(a.terms().borrow().is_none(), "its term is over, and told so");
    let (again, there) = soon("b answers", asked).await.unwrap();
    assert_eq!(again, None, "a has done it");
    let next = soon("b claims", there.claim(at(2))).await.unwrap().expect("b is elected");
    assert!(next.fence() > fence);
    assert!(here.claim(at(3)).await.unwrap().is_none(), "a is over");
}

#[tokio::test]
async fn an_occurrence_that_comes_due_during_a_hand_over_is_done_after_it() {
    let (a, b) = two().await;
    let there = b.job("report").unwrap();
    let asked = tokio::spawn(async move { there.claim(at(1)).await.unwrap().map(|claimed| claimed.scheduled_at()) });
    soon("a stops", a.stop(GRACE)).await;
    assert_eq!(soon("b claims", asked).await.unwrap(), Some(at(1)));
}

#[tokio::test]
async fn of_what_comes_due_during_a_hand_over_only_the_last_is_done() {
    let (a, b) = two().await;
    let there = std::sync::Arc::new(b.job("report").unwrap());
    let mut asked = Vec::new();
    for second in 1..=3 {
        let job = there.clone();
        let (begun, begins) = tokio::sync::oneshot::channel();
        asked.push(tokio::spawn(async move {
            let claim = job.claim(at(second));
            tokio::pin!(claim);
            // Asked for, in this order, before anybody is elected.
            assert!(futures_util::poll!(&mut claim).is_pending());
            begun.send(()).unwrap();
            claim.await.unwrap().map(|claimed| claimed.scheduled_at())
        }));
        begins.await.unwrap();
    }
    soon("a stops", a.stop(GRACE)).await;
    let mut done = Vec::new();
    for asked in asked {
        done.extend(soon("b answers", asked).await.unwrap());
    }
    assert_eq!(done, [at(3)]);
}

#[tokio::test]
async fn a_term_that_is_taken_away_ends_its_work_and_the_instance_stands_again() {
    let store = MemoryStore::new(Clock::system());
    let a = instance(&store, "a", LONG_TTL);
    let job = a.job("report").unwrap();
    let claimed = job.claim(at(1)).await.unwrap().expect("elected");
    let sessions = store.range(Range::of(namespace().sessions())).await.unwrap().entries;
    store.revoke(namespace().session_of(&sessions[0].key).unwrap()).await.unwrap();
    soon("its work is told", claimed.signal().cancelled()).await;
    let fence = claimed.fence();
    let next = soon("it is elected again, in another session", job.claim(at(2))).await.unwrap().expect("elected");
    assert!(next.fence() > fence);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_whose_keys_were_deleted_opens_another_session_and_is_elected_again() {
    let directory = tempfile::tempdir().unwrap();
    let file = SqliteStore::open(directory.path().join("state.db"), Clock::system()).await.unwrap();
    deleted_keys_are_followed_by_another_session(&file).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_whose_keys_were_deleted_in_etcd_opens_another_session_and_is_elected_again() {
    let etcd = Etcd::start(EtcdOptions::default()).await;
    deleted_keys_are_followed_by_another_session(&etcd.store().await).await;
}

/// As `fencron fence repair` deletes them. The lease of the old session would live on for a minute.
async fn deleted_keys_are_followed_by_another_session<S: Store>(store: &S) {
    let a = instance(store, "a", LONG_TTL);
    let led = elected(&a).await;
    let owner = a.election().owner_key().to_owned();
    let sessions = Op::Delete(namespace().sessions());
    store.commit(Txn::new().then(sessions).then(Op::delete(owner))).await.unwrap();
    soon("its term ends", led.signal.cancelled()).await;
    let mut terms = a.terms();
    let again = |now: &Option<Led>| now.as_ref().is_some_and(|now| now.term.fence() > led.term.fence());
    let next = soon("it is elected again", terms.wait_for(again)).await.unwrap().clone().expect("waited for");
    assert_ne!(next.term.hold.lease(), led.term.hold.lease(), "under another session");
    soon("it stops", a.stop(GRACE)).await;
    assert!(store.range(Range::of(namespace().sessions())).await.unwrap().entries.is_empty());
}

#[tokio::test]
async fn stopping_waits_for_what_runs_and_then_tells_it_to_end() {
    let (a, b) = two().await;
    let claimed = a.job("report").unwrap().claim(at(1)).await.unwrap().expect("a is elected");
    let signal = claimed.signal();
    let mut stopping = std::pin::pin!(a.stop(GRACE));
    assert!(futures_util::poll!(&mut stopping).is_pending(), "something runs");
    // While it runs, nothing new begins here, and nobody else is elected.
    assert!(a.job("report").unwrap().claim(at(2)).await.unwrap().is_none());
    let early = tokio::time::timeout(Duration::from_millis(500), &mut stopping).await;
    assert!(early.is_err() && !signal.is_cancelled() && b.terms().borrow().is_none());
    drop(claimed);
    soon("a stops", stopping).await;
    let claimed = soon("b claims", b.job("report").unwrap().claim(at(2))).await.unwrap().expect("b is elected");
    let (signal, heeded) = (claimed.signal(), tokio::spawn(async move { claimed.signal().cancelled().await }));
    soon("b stops, with no patience", b.stop(Duration::ZERO)).await;
    assert!(signal.is_cancelled());
    soon("it heeds", heeded).await.unwrap();
}

#[tokio::test]
async fn an_instance_that_stops_stands_for_no_other_term_while_it_waits_for_its_work() {
    let (a, b) = two().await;
    let claimed = a.job("report").unwrap().claim(at(1)).await.unwrap().expect("a is elected");
    let mut stopping = std::pin::pin!(a.stop(GRACE));
    assert!(futures_util::poll!(&mut stopping).is_pending(), "something runs");
    a.election().resign(&elected(&a).await.term).await.unwrap();
    elected(&b).await;
    b.stop(GRACE).await;
    // For longer than it would take to campaign again.
    tokio::time::timeout(Duration::from_secs(1), &mut stopping).await.unwrap_err();
    let standing = a.election().observe().await.unwrap();
    assert!(standing.leader.is_none() && standing.waiting.is_empty(), "{standing:?}");
    drop(claimed);
    soon("it stops", stopping).await;
}

#[tokio::test]
async fn a_stamp_names_the_occurrence_and_the_fence() {
    let store = MemoryStore::new(Clock::system());
    let a = instance(&store, "a", LONG_TTL);
    let claimed = a.job("report").unwrap().claim(at(1)).await.unwrap().expect("elected");
    let stamp = claimed.stamp();
    assert_eq!(stamp.run_id, "report@2026-11-21T02:00:01Z");
    assert_eq!((stamp.namespace.as_str(), stamp.scope.as_str()), ("test", "test/lock/reports"));
    assert_eq!((stamp.job.as_str(), stamp.node.as_str(), stamp.fence), ("report", "a", claimed.fence()));
}

#[tokio::test]
async fn what_cannot_be_a_job_is_refused() {
    let a = instance(&MemoryStore::new(Clock::system()), "a", LONG_TTL);
    for name in ["", "a b", "-a", "a/b", "ü", &"x".repeat(101), &"x".repeat(10_000)] {
        let error = a.job(name).expect_err("no name").to_string();
        assert!(error.contains("is not the name of a job") && error.len() < 300, "{error}");
    }
    for schedule in ["0 0 0 31 2 *", "0 0 0 1 1 * 2020"] {
        let error = a.cron(schedule, "report", async |_| {}).err().expect("no instant").to_string();
        assert_eq!(error, format!("`{schedule}` of job `report` names no instant from now on, so it would never run"));
    }
    for schedule in ["", "* * * * *", "0 0 25 * * *", "nightly"] {
        let error = a.cron(schedule, "report", async |_| {}).err().expect("no schedule").to_string();
        assert!(error.contains(schedule) && error.contains("report") && error.contains("six fields"), "{error}");
    }
}

/// What a call was told.
type Call = (String, Fence, Wall);

/// An instance with a scheduler, which runs a job every second and tells of it.
async fn service(
    file: &Path,
    name: &str,
    ttl: Duration,
    calls: mpsc::UnboundedSender<Call>,
) -> (Elected<SqliteStore>, JobScheduler) {
    let store = SqliteStore::open(file, Clock::system()).await.unwrap();
    let elected = instance(&store, name, ttl);
    let scheduler = JobScheduler::new().await.unwrap();
    let name = name.to_owned();
    let job = elected.cron("* * * * * *", "report", move |claimed: Claimed| {
        let told = calls.send((name.clone(), claimed.fence(), claimed.scheduled_at()));
        async move { drop((told, claimed)) }
    });
    scheduler.add(job.unwrap()).await.unwrap();
    scheduler.start().await.unwrap();
    (elected, scheduler)
}

/// In the order of their fences and instants: no instant twice, none that goes back, each one that the schedule names.
fn judge(mut calls: Vec<Call>) {
    calls.sort_by_key(|(_, fence, at)| (*fence, *at));
    assert!(calls.windows(2).all(|pair| pair[0].2 < pair[1].2), "{calls:?}");
    assert!(calls.iter().all(|(_, _, at)| at.as_millis() % 1000 == 0), "{calls:?}");
    assert!(calls.windows(2).all(|pair| pair[0].0 == pair[1].0 || pair[0].1 < pair[1].1), "a fence each: {calls:?}");
    assert!(calls[0].0 == "a" && calls[calls.len() - 1].0 == "b", "a hand-over: {calls:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_of_a_cron_scheduler_run_on_the_elected_instance_only() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("state.db");
    let (told, mut calls) = mpsc::unbounded_channel();
    let (a, mut of_a) = service(&file, "a", LONG_TTL, told.clone()).await;
    elected(&a).await;
    let (b, mut of_b) = service(&file, "b", LONG_TTL, told).await;
    let mut seen = Vec::new();
    while seen.len() < 3 {
        seen.push(soon("a runs the job", calls.recv()).await.unwrap());
    }
    assert!(seen.iter().all(|(name, _, _)| name == "a"), "{seen:?}");
    soon("a stops", a.stop(GRACE)).await;
    while seen.iter().filter(|(name, _, _)| name == "b").count() < 3 {
        seen.push(soon("b runs the job", calls.recv()).await.unwrap());
    }
    b.stop(GRACE).await;
    of_a.shutdown().await.unwrap();
    of_b.shutdown().await.unwrap();
    judge(seen);
}

#[tokio::test]
async fn ticks_that_come_late_are_one_call_for_the_last_instant() {
    let a = instance(&MemoryStore::new(Clock::system()), "a", LONG_TTL);
    let (told, mut calls) = mpsc::unbounded_channel();
    let job = a.cron("* * * * * *", "report", move |claimed| {
        told.send(claimed.scheduled_at()).unwrap();
        async {}
    });
    let mut scheduler = JobScheduler::new().await.unwrap();
    scheduler.add(job.unwrap()).await.unwrap();
    scheduler.start().await.unwrap();
    let first = soon("it is called", calls.recv()).await.unwrap();
    // The whole runtime stands still, the scheduler with it, for at least two more instants.
    std::thread::sleep(Duration::from_millis(2500));
    let now = Clock::system().wall();
    let second = soon("it is called again", calls.recv()).await.unwrap();
    assert!(second.as_millis() > now.as_millis() - 1000, "{first} {second}: for the last, at {now}");
    let third = soon("it goes on", calls.recv()).await.unwrap();
    assert!(third > second);
    scheduler.shutdown().await.unwrap();
}

/// Tells when it is dropped.
struct Dropped(mpsc::UnboundedSender<()>);

impl Drop for Dropped {
    fn drop(&mut self) {
        // The test may be over.
        let _ = self.0.send(());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_is_cancelled_when_its_term_is_over() {
    let store = MemoryStore::new(Clock::system());
    let a = instance(&store, "a", LONG_TTL);
    let ((begun, mut begins), (dropped, mut drops)) = (mpsc::unbounded_channel(), mpsc::unbounded_channel());
    let job = a.cron("* * * * * *", "report", move |_claimed| {
        let (begun, dropped) = (begun.clone(), Dropped(dropped.clone()));
        async move {
            let _dropped = dropped;
            begun.send(()).unwrap();
            std::future::pending().await
        }
    });
    let mut scheduler = JobScheduler::new().await.unwrap();
    scheduler.add(job.unwrap()).await.unwrap();
    scheduler.start().await.unwrap();
    soon("it begins", begins.recv()).await.unwrap();
    assert!(drops.try_recv().is_err(), "it never ends by itself");
    let led = elected(&a).await;
    store.revoke(led.term.hold.lease()).await.unwrap();
    soon("it is cancelled", drops.recv()).await.unwrap();
    scheduler.shutdown().await.unwrap();
}

const PART: &str = "FENCRON_TEST_PART";
const FILE: &str = "FENCRON_TEST_FILE";

/// The part of another process: an instance that tells its calls until it is killed. Run by itself it has none to play.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_process() {
    let (Ok(name), Some(file)) = (std::env::var(PART), std::env::var_os(FILE).map(PathBuf::from)) else { return };
    let (told, mut calls) = mpsc::unbounded_channel();
    let _service = service(&file, &name, SHORT_TTL, told).await;
    while let Some((_, fence, at)) = calls.recv().await {
        println!("\ncall {fence} {at}");
    }
}

/// Starts another process, and passes on what it tells.
fn process(file: &Path, name: &'static str, calls: mpsc::UnboundedSender<Call>) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "another_process", "--nocapture"]).env(PART, name).env(FILE, file);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    tokio::spawn(async move {
        while let Ok(Some(line)) = lines.next_line().await {
            let Some(call) = line.strip_prefix("call ") else { continue };
            let (fence, at) = call.split_once(' ').unwrap();
            let fence = Fence::new(fence.parse().unwrap()).unwrap();
            // The test may be over.
            drop(calls.send((name.to_owned(), fence, at.parse().unwrap())));
        }
    });
    child
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_instance_is_followed_and_no_instant_is_run_twice() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("state.db");
    let (told, mut calls) = mpsc::unbounded_channel();
    let mut a = process(&file, "a", told.clone());
    let mut seen = vec![soon("a runs the job", calls.recv()).await.unwrap()];
    let mut b = process(&file, "b", told);
    while seen.len() < 3 {
        seen.push(soon("a runs the job", calls.recv()).await.unwrap());
    }
    a.kill().await.unwrap();
    while seen.iter().filter(|(name, _, _)| name == "b").count() < 3 {
        seen.push(soon("b runs the job", calls.recv()).await.unwrap());
    }
    b.kill().await.unwrap();
    let file = SqliteStore::open(&file, Clock::system()).await.unwrap();
    let kept = file.range(Range::of(Keys::prefix("/fencron/v1/test/claimed/"))).await.unwrap();
    assert_eq!(kept.entries.len(), 1, "one key for the job: {kept:?}");
    judge(seen);
}
