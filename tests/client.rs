//! The client: its verbs, its guards, and what becomes of them when something ends, over SQLite and over etcd.

mod support;

use std::future::IntoFuture;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use fencron::client::{Finished, Guard};
use fencron::lock::{Config, LockName, Lost};
use fencron::store::{Compare, Entry, Keys, Op, Store};
use fencron::{Client, Error, isolated};
use scene::Scene;
use support::etcd::{Etcd, EtcdOptions};
use support::{PATIENCE, over_both, soon, until};
use tokio::sync::oneshot;

/// Nothing here waits for a lease of this length to end.
const TTL: Duration = Duration::from_secs(60);
/// How long a killed process keeps others out.
const SHORT_TTL: Duration = Duration::from_secs(4);
/// How long a call waits that is not to be served, and how long a hold lasts that is to end by itself.
const SHORTLY: Duration = Duration::from_millis(300);

mod scene {
    use super::*;

    /// A store, and what clients find it by.
    pub struct Scene {
        pub url: String,
        _directory: tempfile::TempDir,
        _etcd: Option<Etcd>,
    }

    impl Scene {
        pub fn over_sqlite() -> Scene {
            let directory = tempfile::tempdir().unwrap();
            let url = format!("sqlite:{}", directory.path().join("state.db").display());
            Scene { url, _directory: directory, _etcd: None }
        }

        pub async fn over_etcd() -> Scene {
            let etcd = Etcd::start(EtcdOptions::default()).await;
            let url = format!("etcd://{}", etcd.endpoint());
            Scene { url, _directory: tempfile::tempdir().unwrap(), _etcd: Some(etcd) }
        }

        pub async fn client(&self, node: &str) -> Client {
            Client::builder().node(node).ttl(TTL).connect(&self.url).await.unwrap()
        }
    }
}

over_both!(
    each_verb_of_a_lock_holds_it_and_gives_it_back,
    each_verb_of_a_semaphore_holds_permits_and_gives_them_back,
    a_killed_process_is_followed_under_a_greater_fence,
    a_session_that_ends_is_told_to_its_guard_and_followed_by_another,
    a_body_is_dropped_when_its_hold_is_lost,
    a_body_that_ran_to_its_end_keeps_its_value,
    a_flow_enters_again_what_it_holds,
    what_would_wait_for_itself_is_an_error,
    branches_and_tasks_are_owners_of_their_own,
    a_future_that_is_dropped_half_way_leaves_nothing,
    nothing_is_written_under_a_hold_that_is_over,
    two_clients_of_a_process_contend,
    a_client_that_is_closed_lets_others_in_at_once,
    a_client_that_is_dropped_lets_others_in,
);

/// What is in the store under the locks and semaphores of the client's namespace.
async fn left(client: &Client) -> Vec<Entry> {
    let (all, _) = client.store().range_all(Keys::prefix("/fencron/v1/default/")).await.unwrap();
    let is_of_locks = |entry: &Entry| ["/lock/", "/sem/"].iter().any(|part| entry.key.contains(part));
    all.into_iter().filter(|entry| is_of_locks(entry) && !entry.key.contains("/settled")).collect()
}

/// Until the lock has so many waiting for it.
async fn waiting(client: &Client, many: usize) {
    let count = async || left(client).await.iter().filter(|entry| entry.key.contains("/wait/")).count();
    until("they wait", async || (count().await == many).then_some(())).await;
}

async fn each_verb_of_a_lock_holds_it_and_gives_it_back(scene: Scene) {
    let (one, other) = (scene.client("one").await, scene.client("other").await);
    let (lock, others) = (one.lock("a/b c"), other.lock("a/b c"));
    let first = lock.with(async |held| (held.fence(), others.try_acquire().await.unwrap().is_none())).await.unwrap();
    assert!(first.1, "it is held");

    let guard = lock.acquire().await.unwrap();
    assert!(guard.fence() > first.0);
    assert_eq!(
        others.holder().await.unwrap().map(|holder| (holder.node, holder.fence)),
        Some(("one".into(), guard.fence()))
    );
    let refused = others.clone().wait(SHORTLY).acquire().await.unwrap_err();
    assert!(refused.is_not_acquired(), "{refused}");
    let said = format!("`a/b c` was not acquired in 300ms: one (fence {}) holds it since ", guard.fence());
    assert!(refused.to_string().starts_with(&said), "{refused}");
    assert!(others.clone().wait(SHORTLY).try_acquire().await.unwrap().is_none());
    let waits = tokio::spawn({
        let others = others.clone();
        async move { others.acquire().await.map(|guard| (guard.fence(), guard)) }
    });
    waiting(&other, 1).await;
    let stamp = guard.stamp("deploy-4711");
    assert_eq!(
        (stamp.scope.as_str(), stamp.node.as_str(), stamp.run_id.as_str()),
        ("default/lock/a/b c", "one", "deploy-4711")
    );
    let before = guard.fence();
    guard.release().await.unwrap();
    let (fence, guard) = soon("it is granted", waits).await.unwrap().unwrap();
    assert!(fence > before);
    drop(guard);
    soon("it is free", lock.acquire()).await.unwrap().release().await.unwrap();
    assert!(lock.holder().await.unwrap().is_none());
    assert_eq!(left(&one).await, []);
}

async fn each_verb_of_a_semaphore_holds_permits_and_gives_them_back(scene: Scene) {
    let (one, other) = (scene.client("one").await, scene.client("other").await);
    let (here, there) = (one.semaphore("slots", 2), other.semaphore("slots", 2));
    let first = here.acquire().await.unwrap();
    let second = there.try_acquire().await.unwrap().expect("there are two");
    assert!(here.try_acquire().await.unwrap().is_none());
    assert!(here.clone().wait(SHORTLY).acquire().await.unwrap_err().is_not_acquired());
    assert!(here.clone().take(3).acquire().await.unwrap_err().is_invalid(), "there are two");
    second.release().await.unwrap();
    let available = here.with(async |_| there.state().await.unwrap().available()).await.unwrap();
    assert_eq!(available, 0);
    one.store().revoke(here.state().await.unwrap().held[0].session.unwrap()).await.unwrap();
    soon("it is told", first.signal().lost()).await;
    let both = soon("the next session", here.clone().take(2).acquire()).await.unwrap();
    drop(both);
    soon("they are given back", there.take(2).acquire()).await.unwrap().release().await.unwrap();
    drop(first);
    until("nothing is left", async || (left(&one).await.len() == 1).then_some(())).await;
}

const URL: &str = "FENCRON_TEST_URL";
const PART: &str = "FENCRON_TEST_PART";

/// The part of another process: it holds a lock, or does something once, until it is killed. Run by itself it has none.
#[tokio::test]
async fn another_process() {
    let (Ok(url), Ok(part)) = (std::env::var(URL), std::env::var(PART)) else { return };
    let client = Client::builder().node("killed").ttl(SHORT_TTL).connect(&url).await.unwrap();
    match part.as_str() {
        #[cfg(feature = "jobs")]
        "once" => {
            let body = async || {
                println!("\nhas begun 1");
                std::future::pending::<Result<(), Error>>().await
            };
            client.once("seed", body).await.unwrap();
        }
        _ => {
            let guard = client.lock("door").acquire().await.unwrap();
            println!("\nhas begun {}", guard.fence());
            std::future::pending::<()>().await;
        }
    }
}

/// Starts another process, kills it when it has begun, and answers the number that it told.
async fn begun_and_killed(url: &str, part: &'static str, begun: impl AsyncFnOnce()) -> u64 {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "another_process", "--nocapture"]).env(URL, url).env(PART, part);
    let start = move || -> (Child, u64) {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let number = lines.find_map(|line| line.strip_prefix("has begun ").map(|number| number.parse().unwrap()));
        (child, number.expect("it begins"))
    };
    let (mut child, number) = tokio::task::spawn_blocking(start).await.unwrap();
    begun().await;
    child.kill().unwrap(); // SIGKILL
    child.wait().unwrap();
    number
}

async fn a_killed_process_is_followed_under_a_greater_fence(scene: Scene) {
    let client = scene.client("next").await;
    let is_held = async || assert!(client.lock("door").try_acquire().await.unwrap().is_none());
    let fence = begun_and_killed(&scene.url, "lock", is_held).await;
    let guard = soon("it is followed", client.lock("door").acquire()).await.unwrap();
    assert!(guard.fence().get() > fence);
}

async fn a_session_that_ends_is_told_to_its_guard_and_followed_by_another(scene: Scene) {
    let client = scene.client("one").await;
    let lock = client.lock("door");
    let guard = lock.acquire().await.unwrap();
    client.store().revoke(guard.hold().lease()).await.unwrap();
    soon("the guard is told", guard.signal().lost()).await;
    assert!(guard.is_lost().is_some());
    // The guard is still there, and stands in nobody's way.
    let next = soon("the next session holds it", lock.acquire()).await.unwrap();
    assert!(next.fence() > guard.fence() && next.hold().lease() != guard.hold().lease());
    assert!(guard.release().await.unwrap_err().is_lost());
    assert_eq!(next.is_lost(), None);
    next.release().await.unwrap();
}

/// Says that it was dropped.
struct Dropped(Arc<AtomicBool>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

async fn a_body_is_dropped_when_its_hold_is_lost(scene: Scene) {
    let client = scene.client("one").await;
    let (dropped, operator) = (Arc::new(AtomicBool::new(false)), client.clone());
    let body = async |_| {
        let _dropped = Dropped(Arc::clone(&dropped));
        let name = LockName::new("door").unwrap();
        operator.locks().fenced(name, Config::default()).force_unlock().await.unwrap();
        std::future::pending::<()>().await
    };
    let error = soon("it is cancelled", client.lock("door").with(body)).await.unwrap_err();
    assert!(error.is_lost() && dropped.load(Ordering::SeqCst), "{error}");
    assert!(error.to_string().contains("`door`") && error.to_string().contains("another may hold the lock"), "{error}");
    let limited = client.lock("door").max_hold(SHORTLY);
    let error =
        soon("it has lasted too long", limited.with(async |_| std::future::pending::<()>().await)).await.unwrap_err();
    assert!(error.is_lost(), "{error}");
    soon("it is free", client.lock("door").acquire()).await.unwrap().release().await.unwrap();
}

async fn a_body_that_ran_to_its_end_keeps_its_value(scene: Scene) {
    let client = scene.client("one").await;
    let taken = async |_| {
        let name = LockName::new("door").unwrap();
        let lock = client.locks().fenced(name, Config::default());
        // In one step of the body, so that nothing can hear of it before the body ends.
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(lock.force_unlock())).unwrap();
        7
    };
    let Finished { value, released } = client.lock("door").finish(taken).await.unwrap();
    assert_eq!(value, 7);
    assert!(released.unwrap_err().is_lost());
    assert!(client.lock("door").with(taken).await.unwrap_err().is_lost());
}

async fn a_flow_enters_again_what_it_holds(scene: Scene) {
    let client = scene.client("one").await;
    let (door, window) = (client.lock("door"), client.lock("window"));
    let fences = door.with(async |outer| {
        let inner = door.with(async |inner| {
            // Another lock inside of it, and the first one inside of that.
            let other = window.with(async |_| door.with(async |held| held.fence()).await.unwrap()).await.unwrap();
            (inner.fence(), other)
        });
        let inner = inner.await.unwrap();
        assert_eq!(outer.is_lost(), None, "the inner `with` has not released it");
        (outer.fence(), inner)
    });
    let (outer, (inner, innermost)) = soon("it enters", fences).await.unwrap();
    assert_eq!((inner, innermost), (outer, outer));

    let guard = door.acquire().await.unwrap();
    let again = guard.with(async |_| door.with(async |held| held.fence()).await.unwrap()).await.unwrap();
    assert_eq!(again, guard.fence());
    guard.release().await.unwrap();
    assert_eq!(left(&client).await, []);
}

async fn what_would_wait_for_itself_is_an_error(scene: Scene) {
    let client = scene.client("one").await;
    let once = client.lock("door").reentrant(1);
    let twice = client.lock("door").reentrant(2);
    let refused = once.with(async |_| once.with(async |_| ()).await.unwrap_err()).await.unwrap();
    assert!(refused.is_deadlock(), "{refused}");
    let thrice =
        twice.with(async |_| twice.with(async |_| twice.with(async |_| ()).await).await.unwrap()).await.unwrap();
    assert!(thrice.unwrap_err().is_deadlock());
    let refused = once.with(async |_| once.acquire().await.unwrap_err()).await.unwrap();
    assert!(refused.is_deadlock() && refused.to_string().contains("`with`"), "{refused}");
    let busy = once.with(async |_| once.try_acquire().await.unwrap().is_none()).await.unwrap();
    assert!(busy, "to try is no wait");

    let guard = once.acquire().await.unwrap();
    for refused in [once.with(async |_| ()).await.unwrap_err(), once.acquire().await.map(drop).unwrap_err()] {
        assert!(refused.is_deadlock() && refused.to_string().contains("Guard::with"), "{refused}");
    }
    // Taken from the guard by an operator, it is not what the flow would wait for.
    let name = LockName::new("door").unwrap();
    client.locks().fenced(name, Config::default()).force_unlock().await.unwrap();
    let next = soon("it is free", once.acquire()).await.unwrap();
    drop((guard, next));

    // A guard that is given away is waited for.
    let guard = soon("it is free", once.acquire()).await.unwrap().detached();
    let given = tokio::spawn({
        let client = client.clone();
        async move {
            waiting(&client, 1).await;
            drop(guard);
        }
    });
    soon("it waits", once.acquire()).await.unwrap().release().await.unwrap();
    given.await.unwrap();
}

async fn branches_and_tasks_are_owners_of_their_own(scene: Scene) {
    let client = scene.client("one").await;
    let door = client.lock("door");
    // A spawned task, though it was spawned by the body.
    let told = door.with(async |_| {
        let door = door.clone();
        tokio::spawn(async move { door.wait(SHORTLY).with(async |_| ()).await }).await.unwrap()
    });
    assert!(told.await.unwrap().unwrap_err().is_not_acquired());
    // Branches of one task, of which the second asks while the first holds the lock: by guards, and by bodies.
    let (begun, begins) = oneshot::channel();
    let one = async {
        let guard = door.acquire().await.unwrap();
        begun.send(()).unwrap();
        waiting(&client, 1).await;
        let fence = guard.fence();
        guard.release().await.map(|()| fence)
    };
    let other = async {
        begins.await.unwrap();
        door.acquire().await.map(|guard| guard.fence())
    };
    let (one, other) = soon("one after the other", async { tokio::join!(isolated(one), isolated(other)) }).await;
    assert!(one.unwrap() < other.unwrap());
    let (begun, begins) = oneshot::channel();
    let one = door.with(async |held| {
        begun.send(()).unwrap();
        waiting(&client, 1).await;
        held.fence()
    });
    let other = async {
        begins.await.unwrap();
        door.with(async |held| held.fence()).await
    };
    let (one, other) = soon("one after the other", async { tokio::join!(one, other) }).await;
    assert!(one.unwrap() < other.unwrap());
    // A branch of a body would wait for that body.
    let refused = door.with(async |_| isolated(door.with(async |_| ())).await.unwrap_err()).await.unwrap();
    assert!(refused.is_deadlock(), "{refused}");
    let entered = isolated(door.with(async |_| door.with(async |_| 7).await.unwrap())).await.unwrap();
    assert_eq!(entered, 7, "and may enter again what it holds itself");
}

async fn a_future_that_is_dropped_half_way_leaves_nothing(scene: Scene) {
    let (one, other) = (scene.client("one").await, scene.client("other").await);
    let guard = one.lock("door").acquire().await.unwrap();
    let lock = other.lock("door");
    let call = tokio::spawn({
        let lock = lock.clone();
        async move { lock.acquire().await.map(drop) }
    });
    waiting(&one, 1).await;
    call.abort();
    waiting(&one, 0).await;
    guard.release().await.unwrap();
    assert_eq!(left(&one).await, []);
    // Dropped within the body, and at any step on the way to it.
    for steps in 0..40 {
        let mut call = Box::pin(lock.with(async |_| tokio::task::yield_now().await));
        for _ in 0..steps {
            if futures_util::poll!(&mut call).is_ready() {
                break;
            }
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
    }
    until("nothing is left", async || left(&one).await.is_empty().then_some(())).await;
    soon("it is free", one.lock("door").acquire()).await.unwrap().release().await.unwrap();
}

async fn nothing_is_written_under_a_hold_that_is_over(scene: Scene) {
    let client = scene.client("one").await;
    let guard = client.lock("door").acquire().await.unwrap();
    let written = guard.commit(guard.txn().then(Op::put("/shop/door", "first"))).await.unwrap();
    assert!(written.succeeded);
    // The caller's own comparison fails, and its own branch is answered, no more.
    let own = guard.txn().when(Compare::absent(Keys::one("/shop/door"))).otherwise(Op::get("/shop/door"));
    let own = guard.commit(own.then(Op::put("/shop/door", "second"))).await.unwrap();
    assert!(!own.succeeded && own.answers.len() == 1);
    assert_eq!(own.got(0).unwrap()[0].value, b"first");
    client.locks().fenced(LockName::new("door").unwrap(), Config::default()).force_unlock().await.unwrap();
    for txn in [guard.txn(), fencron::store::Txn::new()] {
        let refused = guard.commit(txn.then(Op::put("/shop/door", "late"))).await.unwrap_err();
        assert!(refused.is_lost(), "{refused}");
    }
    let (found, _) = client.store().range_all(Keys::one("/shop/door")).await.unwrap();
    assert_eq!(found[0].value, b"first");
    assert_eq!(soon("it is told", guard.signal().lost()).await, Lost::Taken);
}

async fn two_clients_of_a_process_contend(scene: Scene) {
    const TURNS: u64 = 10;
    const DOCUMENT: &str = "/shop/count";
    async fn count_up(client: Client) -> Result<(), Error> {
        for _ in 0..TURNS {
            let count = async |held: fencron::client::Held| {
                let found = held.commit(held.txn().then(Op::get(DOCUMENT))).await?;
                let before = found
                    .got(0)
                    .and_then(|found| found.first())
                    .map_or(0, |entry| String::from_utf8_lossy(&entry.value).parse::<u64>().unwrap());
                held.commit(held.txn().then(Op::put(DOCUMENT, (before + 1).to_string()))).await
            };
            assert!(client.lock("count").with(count).await??.succeeded);
        }
        Ok(())
    }
    let mut clients = tokio::task::JoinSet::new();
    for node in ["one", "other", "third"] {
        clients.spawn(count_up(scene.client(node).await));
    }
    while let Some(client) = soon("all have their turns", clients.join_next()).await {
        client.unwrap().unwrap();
    }
    let (found, _) = scene.client("reader").await.store().range_all(Keys::one(DOCUMENT)).await.unwrap();
    assert_eq!(found[0].value, (3 * TURNS).to_string().into_bytes(), "no update was lost");
}

async fn a_client_that_is_closed_lets_others_in_at_once(scene: Scene) {
    let (one, other) = (scene.client("one").await, scene.client("other").await);
    let guard = one.lock("door").acquire().await.unwrap();
    one.close().await;
    soon("it is free", other.lock("door").acquire()).await.unwrap().release().await.unwrap();
    assert!(guard.release().await.unwrap_err().is_lost());
    let refused = one.clone().lock("door").acquire().await.unwrap_err();
    assert!(refused.is_closed(), "{refused}");
    one.close().await;
}

async fn a_client_that_is_dropped_lets_others_in(scene: Scene) {
    let (one, other) = (scene.client("one").await, scene.client("other").await);
    let guard = one.lock("door").acquire().await.unwrap();
    let lease = guard.hold().lease();
    drop(one);
    assert!(other.lock("door").try_acquire().await.unwrap().is_none(), "the guard keeps it up");
    drop(guard);
    soon("it is free", other.lock("door").acquire()).await.unwrap().release().await.unwrap();
    let session = other.namespace().sessions();
    until("the session is closed", async || {
        let (sessions, _) = other.store().range_all(session.clone()).await.unwrap();
        (!sessions.iter().any(|entry| entry.lease == Some(lease))).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_away_is_waited_for_as_long_as_is_said() {
    let mut etcd = Etcd::start(EtcdOptions::default()).await;
    let url = format!("etcd://{}", etcd.endpoint());
    let client = Client::connect(&url).await.unwrap();
    etcd.kill();
    let refused = soon("it does not connect", Client::connect(&url)).await.unwrap_err();
    assert!(refused.is_unavailable(), "{refused}");
    // Lazy: it has no session yet.
    let refused = soon("it gives up", client.lock("door").wait(SHORTLY).acquire()).await.unwrap_err();
    assert!(refused.is_unavailable(), "{refused}");
    let (began, begun) = oneshot::channel();
    let waits = tokio::spawn({
        let client = client.clone();
        async move {
            began.send(()).unwrap();
            client.lock("door").acquire().await
        }
    });
    begun.await.unwrap();
    etcd.restart();
    let guard = soon("it is back", waits).await.unwrap().unwrap();
    etcd.kill();
    // Nobody can say what became of the release; the guard is gone all the same.
    let released = soon("it says so", guard.release()).await.unwrap_err();
    assert!(released.is_unknown() || released.is_lost(), "{released}");
    etcd.restart();
    soon("it is free again", client.lock("door").acquire()).await.unwrap().release().await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_used_is_said_before_anything_is_opened() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", directory.path().join("state.db").display());
    for refused in [
        Client::connect("/var/lib/state.db").await.unwrap_err(),
        Client::builder().namespace("a/b").connect(&url).await.unwrap_err(),
        Client::builder().ttl(Duration::ZERO).connect(&url).await.unwrap_err(),
    ] {
        assert!(refused.is_invalid(), "{refused}");
        assert_eq!(format!("{refused:?}"), refused.to_string(), "as people read it");
    }
    assert!(!directory.path().join("state.db").exists());
    let client = Client::connect("memory:").await.unwrap();
    for name in ["", &"x".repeat(201)] {
        assert!(client.lock(name).acquire().await.unwrap_err().is_invalid());
        assert!(client.semaphore(name, 1).acquire().await.unwrap_err().is_invalid());
        assert!(client.elected(name).unwrap_err().is_invalid());
    }
    assert!(client.semaphore("none", 0).acquire().await.unwrap_err().is_invalid());
}

#[tokio::test]
async fn what_was_seen_is_remembered_where_that_is_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("state.db");
    let url = format!("sqlite:{}", file.display());
    let memory = directory.path().join("memory");
    let connect = async || Client::builder().remember_in(&memory).connect(&url).await.unwrap();
    let client = connect().await;
    for _ in 0..3 {
        client.lock("door").with(async |_| ()).await.unwrap();
    }
    client.close().await;
    drop(client);
    std::fs::remove_dir_all(directory.path().join("state.db")).ok();
    for entry in std::fs::read_dir(directory.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::fs::remove_file(path).unwrap();
        }
    }
    let refused = soon("it is refused", connect().await.lock("door").acquire()).await.unwrap_err();
    assert!(refused.is_refused() && refused.to_string().contains("fencron fence repair"), "{refused}");
}

/// That what the verbs answer can be sent to other threads, also where the body is an async closure.
#[tokio::test]
async fn verbs_can_be_spawned() {
    let client = Client::connect("memory:").await.unwrap();
    let value = tokio::spawn({
        let client = client.clone();
        async move {
            let text = String::from("seven");
            let door = client.lock("door");
            let lengths = door.with(async |held| {
                tokio::task::yield_now().await;
                held.commit(held.txn()).await.map(|_| text.len())
            });
            let _ = client.semaphore("slots", 1).with(async |_| tokio::task::yield_now().await).await;
            lengths.await
        }
    });
    assert_eq!(value.await.unwrap().unwrap().unwrap(), 5);
    fn sent<T: Send + Sync + 'static>() {}
    sent::<Guard>();
    sent::<Client>();
    sent::<Error>();
}

#[cfg(feature = "cli")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_sees_the_same_locks() {
    let scene = Scene::over_sqlite();
    let client = scene.client("service-1").await;
    let guard = client.lock("deploy").acquire().await.unwrap();
    let state = tempfile::tempdir().unwrap();
    let mut program = tokio::process::Command::new(env!("CARGO_BIN_EXE_fencron"));
    program.args(["--store", &scene.url, "-o", "json", "locks"]).env("FENCRON_STATE_DIR", state.path());
    let output = tokio::time::timeout(PATIENCE, program.output()).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("service-1") && text.contains(&guard.fence().to_string()), "{text}");
}

#[cfg(feature = "jobs")]
mod once {
    use fencron::client::Done;

    use super::*;

    over_both!(
        what_many_start_is_done_once,
        what_has_failed_is_said_to_all_and_done_again_where_that_is_asked_for,
        what_was_lost_in_the_middle_is_unknown_or_done_again_where_that_is_harmless,
    );

    async fn what_many_start_is_done_once(scene: Scene) {
        let (mut calls, times) = (tokio::task::JoinSet::new(), Arc::new(AtomicUsize::new(0)));
        for node in ["one", "other", "third", "fourth"] {
            let (client, times) = (scene.client(node).await, Arc::clone(&times));
            calls.spawn(async move {
                let here = client.clone();
                let body = async move || {
                    times.fetch_add(1, Ordering::SeqCst);
                    waiting(&here, 3).await;
                    Ok::<(), Error>(())
                };
                client.once("seed", body).await.unwrap()
            });
        }
        let done = soon("all are answered", calls.join_all()).await;
        assert_eq!(done.iter().filter(|done| **done == Done::Here).count(), 1, "{done:?}");
        assert_eq!(times.load(Ordering::SeqCst), 1);
        let client = scene.client("late").await;
        assert_eq!(client.once("seed", async || Err::<(), _>("not again")).await.unwrap(), Done::Elsewhere);
        for key in [String::new(), "x".repeat(196)] {
            let key = key.as_str();
            assert!(client.once(key, async || Ok::<(), Error>(())).await.unwrap_err().is_invalid());
        }
    }

    async fn what_has_failed_is_said_to_all_and_done_again_where_that_is_asked_for(scene: Scene) {
        let client = scene.client("one").await;
        let failed = client.once("seed", async || Err::<(), _>("the table is full")).await.unwrap_err();
        assert!(failed.is_failed() && failed.to_string() == "`seed` has failed: the table is full", "{failed}");
        let again = client.once("seed", async || Ok::<(), Error>(())).await.unwrap_err();
        assert!(again.is_failed() && again.to_string().contains("the table is full"), "{again}");
        assert_eq!(client.once("seed", async || Ok::<(), Error>(())).retry_failed().await.unwrap(), Done::Here);
        async fn panics() -> Result<(), Error> {
            panic!("out of paper")
        }
        let failed = client.once("print", panics).await.unwrap_err();
        assert!(failed.is_failed() && failed.to_string().contains("out of paper"), "{failed}");
    }

    async fn what_was_lost_in_the_middle_is_unknown_or_done_again_where_that_is_harmless(scene: Scene) {
        let client = scene.client("next").await;
        begun_and_killed(&scene.url, "once", async || {}).await;
        let done = async || Ok::<(), Error>(());
        let unknown = soon("somebody decides", client.once("seed", done).into_future()).await.unwrap_err();
        assert!(unknown.is_unknown() && unknown.to_string().contains("--resolve"), "{unknown}");
        let again = soon("it is done", client.once("seed", done).idempotent().into_future()).await.unwrap();
        assert_eq!(again, Done::Here);
    }
}

#[test]
fn a_client_outlives_the_runtime_that_was_opening_its_session() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", directory.path().join("state.db").display());
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let first = runtime();
    let client = first.block_on(Client::connect(&url)).unwrap();
    let once = first.block_on(async { tokio::time::timeout(Duration::ZERO, client.lock("door").acquire()).await });
    assert!(once.is_err(), "it was opening its session");
    drop(first);
    runtime().block_on(async {
        let guard = soon("it is acquired", client.lock("door").acquire()).await.unwrap();
        guard.release().await.unwrap();
        client.close().await;
    });
}

/// What a client has in a runtime that is gone, each with the verb that finds out whether it is released.
#[test]
fn a_guard_that_is_dropped_outside_of_a_runtime_is_released() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", directory.path().join("state.db").display());
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let first = runtime();
    let client = first.block_on(Client::connect(&url)).unwrap();
    let (guard, permits) = first.block_on(async {
        let permits = client.semaphore("desks", 1).acquire().await.unwrap();
        (client.lock("door").acquire().await.unwrap(), permits)
    });
    // What is dropped in a runtime that ends next is as good as dropped outside.
    let waits = client.clone();
    let waiting = first.spawn(async move { waits.lock("door").acquire().await.map(drop) });
    first.block_on(until("it waits", async || {
        let door = client.locks().election(LockName::new("door").unwrap()).observe().await.unwrap();
        (!door.waiting.is_empty()).then_some(())
    }));
    drop(first);
    drop((guard, permits, waiting));
    runtime().block_on(async {
        let other = Client::connect(&url).await.unwrap();
        drop(soon("the guard is released", other.lock("door").acquire()).await.unwrap());
        drop(soon("the permit is given back", other.semaphore("desks", 1).acquire()).await.unwrap());
        drop(client);
    });
}
