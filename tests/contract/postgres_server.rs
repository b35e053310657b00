//! What is particular to PostgreSQL: roles, servers that change, clients that stop, and leases that are observed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fencron::store::postgres::{Adopted, PostgresConfig, PostgresStore};
use fencron::store::{Compare, Keys, Op, Revision, Store, StoreError, Txn, Watched};
use fencron::time::{Boot, Clock, Wall};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::fixture::{commit, get, next_changes, put, soon};
use crate::support::PATIENCE;
use crate::support::databases::{Database, Kind, Server};

const TTL: Duration = Duration::from_secs(10);

async fn blocking<T: Send + 'static>(doing: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(doing).await.unwrap()
}

async fn database() -> Database {
    blocking(|| Server::shared(Kind::Postgres).database()).await
}

async fn ask(database: &Database, sql: &str) -> String {
    let (name, sql) = (database.name.clone(), sql.to_owned());
    blocking(move || Server::shared(Kind::Postgres).ask(&name, &sql)).await
}

fn config(url: &str) -> PostgresConfig {
    url.parse().unwrap()
}

async fn open(database: &Database) -> PostgresStore {
    PostgresStore::connect(config(&database.url), Clock::system()).await.unwrap()
}

/// A role of this database, which may log in and nothing else.
async fn role(database: &Database, name: &str) -> PostgresConfig {
    ask(database, &format!("CREATE ROLE {name} LOGIN PASSWORD 'secret of {name}'")).await;
    config(&database.url).with_user(name).with_password(format!("secret of {name}"))
}

fn take(key: &str) -> Txn {
    Txn::new().when(Compare::absent(Keys::one(key))).then(Op::put(key, "taken"))
}

/// A clock that a test moves by hand.
fn clock() -> (Arc<AtomicU64>, Clock) {
    let millis = Arc::new(AtomicU64::new(1_000));
    let read = Arc::clone(&millis);
    let now = move || (Boot::from_duration(Duration::from_millis(read.load(Ordering::SeqCst))), Wall::EPOCH);
    (millis, Clock::from_fn(now))
}

fn advance(millis: &AtomicU64, by: Duration) {
    millis.fetch_add(by.as_millis() as u64, Ordering::SeqCst);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_of_a_role_with_another_isolation_lose_no_write_beside_a_pinned_snapshot() {
    const WRITERS: u64 = 4;
    const INCREMENTS: u64 = 20;
    let database = database().await;
    let config = role(&database, "repeats").await;
    open(&database).await.init(&["repeats".to_owned()]).await.unwrap();
    ask(&database, "ALTER ROLE repeats SET default_transaction_isolation = 'repeatable read'").await;
    let (pinning, connection) = tokio_postgres::connect(&database.url, tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    pinning.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT * FROM fencron.log").await.unwrap();
    let store = PostgresStore::connect(config.clone(), Clock::system()).await.unwrap();
    put(&store, "counter", "0").await;
    let increments = (0..WRITERS).map(|_| {
        let config = config.clone();
        tokio::spawn(async move {
            let store = PostgresStore::connect(config, Clock::system()).await.unwrap();
            let mut done = 0;
            while done < INCREMENTS {
                let found = get(&store, "counter").await.unwrap();
                let count: u64 = String::from_utf8(found.value).unwrap().parse().unwrap();
                let unchanged = Compare::modified_at("counter", found.modified);
                let txn = Txn::new().when(unchanged).then(Op::put("counter", (count + 1).to_string()));
                done += u64::from(commit(&store, txn).await.succeeded);
            }
        })
    });
    for increment in increments.collect::<Vec<_>>() {
        soon(increment).await.unwrap();
    }
    let counter = get(&store, "counter").await.unwrap();
    assert_eq!(counter.value, (WRITERS * INCREMENTS).to_string().as_bytes());
    assert_eq!(counter.modified, Revision(2 + WRITERS * INCREMENTS), "only what changed something has a revision");
    connection.abort();
}

#[tokio::test]
async fn a_role_without_rights_is_sent_to_the_owner_and_works_once_it_has_them() {
    let database = database().await;
    let config = role(&database, "nodes").await;
    match PostgresStore::connect(config.clone(), Clock::system()).await {
        Err(StoreError::Denied { why, .. }) => assert!(why.contains("fencron store init"), "{why}"),
        other => panic!("not denied: {other:?}"),
    }
    let owner = open(&database).await;
    match PostgresStore::connect(config.clone(), Clock::system()).await {
        Err(StoreError::Denied { why, .. }) => assert!(why.contains("--grant"), "{why}"),
        other => panic!("not denied: {other:?}"),
    }
    owner.init(&["nodes".to_owned()]).await.unwrap();
    let store = PostgresStore::connect(config, Clock::system()).await.unwrap();
    let mut watch = store.watch(Keys::one("a"), Revision(2)).await.unwrap();
    let (lease, _) = store.grant(TTL).await.unwrap();
    commit(&store, Txn::new().then(Op::put_leased("a", "1", lease))).await;
    assert_eq!(next_changes(&mut watch).await[0].key(), "a");
    store.keep_alive(lease).await.unwrap();
    store.revoke(lease).await.unwrap();
    store.compact(Revision(2)).await.unwrap();
    assert_eq!(get(&store, "a").await, None);
}

#[tokio::test]
async fn tables_that_were_altered_or_are_newer_are_refused_with_what_is_wrong() {
    let database = database().await;
    let store = open(&database).await;
    put(&store, "a", "1").await;
    ask(&database, "ALTER TABLE fencron.entries ALTER COLUMN value DROP NOT NULL").await;
    match PostgresStore::connect(config(&database.url), Clock::system()).await {
        Err(StoreError::Unusable(why)) => assert!(why.contains("entries.value bytea not null"), "{why}"),
        other => panic!("not refused: {other:?}"),
    }
    ask(&database, "ALTER TABLE fencron.entries ALTER COLUMN value SET NOT NULL").await;
    ask(&database, "UPDATE fencron.meta SET version = 99").await;
    let newer = |answer: Result<_, StoreError>| match answer {
        Err(StoreError::Unusable(why)) => assert!(why.contains("newer"), "{why}"),
        other => panic!("not refused: {other:?}"),
    };
    newer(PostgresStore::connect(config(&database.url), Clock::system()).await.map(drop));
    newer(store.commit(Txn::new().then(Op::put("a", "2"))).await.map(drop));
    ask(&database, "UPDATE fencron.meta SET version = 1").await;
    assert_eq!(get(&store, "a").await.unwrap().value, b"1");
    ask(&database, "DROP TABLE fencron.entries").await;
    match store.commit(Txn::new().then(Op::put("a", "2"))).await {
        Err(StoreError::Unusable(why)) => assert!(why.contains("by hand"), "{why}"),
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handles_that_make_the_tables_at_once_share_them() {
    let database = database().await;
    let opened: Vec<_> = (0..8)
        .map(|n| {
            let database = database.clone();
            tokio::spawn(async move { put(&open(&database).await, &format!("a/{n}"), "1").await })
        })
        .collect();
    let mut revisions = Vec::new();
    for opened in opened {
        revisions.push(soon(opened).await.unwrap().0);
    }
    revisions.sort_unstable();
    assert_eq!(revisions, (2..10).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_database_that_is_not_there_and_a_wrong_password_are_named() {
    let database = database().await;
    let elsewhere = database.url.replace(&database.name, "no_such_database");
    match PostgresStore::connect(config(&elsewhere), Clock::system()).await {
        Err(StoreError::Unusable(why)) => assert!(why.contains("createdb"), "{why}"),
        other => panic!("not refused: {other:?}"),
    }
    let wrong = config(&database.url).with_password("wrong");
    match PostgresStore::connect(wrong, Clock::system()).await {
        Err(StoreError::Denied { why, .. }) => assert!(!why.contains("wrong\""), "{why}"),
        other => panic!("not denied: {other:?}"),
    }
}

/// As a failover to another timeline, or a copy in another server, leave it.
#[tokio::test]
async fn another_server_is_not_written_to_until_it_is_adopted_and_fences_go_on_above() {
    let database = database().await;
    let (millis, clock) = clock();
    let store = PostgresStore::connect(config(&database.url), clock.clone()).await.unwrap();
    let (lease, _) = store.grant(TTL).await.unwrap();
    commit(&store, Txn::new().then(Op::put_leased("held", "1", lease))).await;
    let before = put(&store, "a", "1").await;
    let mut watch = store.watch(Keys::one("a"), before.next()).await.unwrap();
    for changed in ["timeline = timeline + 1", "timeline = timeline - 1, sysid = sysid + 1"] {
        ask(&database, &format!("UPDATE fencron.meta SET {changed}")).await;
        match store.commit(Txn::new().then(Op::put("a", "2"))).await {
            Err(StoreError::Unusable(why)) => assert!(why.contains("fencron store adopt"), "{why}"),
            other => panic!("not refused: {other:?}"),
        }
        assert!(matches!(store.grant(TTL).await, Err(StoreError::Unusable(_))));
    }
    let look = Txn::new().then(Op::get("a")).then(Op::get("held"));
    let (looked, written) = tokio::join!(store.commit(look.clone()), store.commit(Txn::new().then(Op::put("a", "2"))));
    let looked = looked.unwrap();
    assert_eq!((looked.got(0).unwrap()[0].modified, looked.got(1).unwrap().len()), (before, 1), "it can be seen");
    assert!(matches!(written, Err(StoreError::Unusable(_))));
    let decides = look.when(Compare::present(Keys::one("held")));
    assert!(matches!(store.commit(decides).await, Err(StoreError::Unusable(_))), "what is there may be out of date");
    assert_eq!(store.keep_alive(lease).await.unwrap(), TTL, "a holder that lives goes on");
    assert_eq!(get(&store, "a").await.unwrap().modified, before);
    assert!(store.about().await.unwrap().warnings.iter().any(|warning| warning.contains("store adopt")));
    let waited = Arc::clone(&millis);
    let adopted = store
        .adopt(move |longest| {
            assert_eq!(longest, TTL, "a hold that was lost has run out by then");
            advance(&waited, longest);
        })
        .await
        .unwrap();
    let Adopted::Adopted { left_at, begins_at } = adopted else { panic!("nothing was done: {adopted:?}") };
    assert_eq!(left_at, before);
    assert_eq!(soon(watch.next()).await, Some(Watched::Compacted(begins_at)));
    assert_eq!(get(&store, "held").await.unwrap().value, b"1", "its beats are watched anew");
    assert_eq!(put(&store, "a", "2").await, begins_at.next());
    assert!(begins_at.0 > before.0 + 1_000_000);
    assert_eq!(store.adopt(|_| panic!("there is nothing to wait for")).await.unwrap(), Adopted::Ours);
}

#[tokio::test]
async fn processes_that_live_shorter_than_a_ttl_end_the_lease_of_a_dead_holder() {
    let database = database().await;
    let (millis, clock) = clock();
    let process = async || PostgresStore::connect(config(&database.url), clock.clone()).await.unwrap();
    let dead = process().await;
    let (lease, _) = dead.grant(TTL).await.unwrap();
    commit(&dead, Txn::new().then(Op::put_leased("lock", "dead", lease))).await;
    drop(dead);
    assert!(!commit(&process().await, take("lock")).await.succeeded);
    advance(&millis, TTL - Duration::from_millis(1));
    assert!(!commit(&process().await, take("lock")).await.succeeded, "its holder may live");
    advance(&millis, Duration::from_millis(1));
    assert!(commit(&process().await, take("lock")).await.succeeded);
}

#[tokio::test]
async fn a_lease_that_is_kept_alive_elsewhere_is_not_ended_by_one_that_has_not_looked() {
    let database = database().await;
    let (millis, clock) = clock();
    let holder = PostgresStore::connect(config(&database.url), clock.clone()).await.unwrap();
    let other = PostgresStore::connect(config(&database.url), clock).await.unwrap();
    let (lease, _) = holder.grant(TTL).await.unwrap();
    commit(&holder, Txn::new().then(Op::put_leased("lock", "held", lease))).await;
    assert!(!commit(&other, take("lock")).await.succeeded);
    advance(&millis, TTL - Duration::from_millis(100));
    holder.keep_alive(lease).await.unwrap();
    advance(&millis, Duration::from_millis(100));
    assert!(!commit(&other, take("lock")).await.succeeded, "its beat has changed since it was seen");
    holder.keep_alive(lease).await.unwrap();
    drop(holder);
    advance(&millis, TTL * 2);
    // What was seen in the meantime is seen unchanged from then on.
    assert!(!commit(&other, take("lock")).await.succeeded);
    advance(&millis, TTL);
    assert!(commit(&other, take("lock")).await.succeeded);
}

/// With time that stands still no poll comes, so that what comes was notified of.
#[tokio::test]
async fn a_watch_is_woken_by_what_another_handle_commits() {
    let database = database().await;
    let (watching, first, second) = (open(&database).await, open(&database).await, open(&database).await);
    let at = put(&first, "a", "1").await;
    let mut watch = watching.watch(Keys::one("a"), at).await.unwrap();
    assert_eq!(next_changes(&mut watch).await.len(), 1, "it listened before it looked");
    // Tokio moves no time on while a call blocks.
    let (_going_on, ends) = std::sync::mpsc::channel::<()>();
    let patience = tokio::task::spawn_blocking(move || ends.recv_timeout(PATIENCE));
    tokio::time::pause();
    put(&second, "a", "2").await;
    tokio::select! {
        woken = watch.next() => assert!(matches!(woken, Some(Watched::Changes(_))), "{woken:?}"),
        _ = patience => panic!("nothing woke the watch"),
    }
}

/// What a [`Gap`] does with what passes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Swallows {
    Nothing,
    /// What the client sends from the second flight on.
    SecondFlight,
    /// What the server answers to the second flight.
    Answer,
}

/// A connection between a client and the server, with a gap in it.
struct Gap {
    url: String,
    swallows: watch::Sender<Swallows>,
}

/// With what the second flight of a put begins.
const SECOND_FLIGHT: &[u8] = b"INSERT INTO fencron.entries";

impl Gap {
    async fn before(database: &Database) -> Gap {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (swallows, seen) = watch::channel(Swallows::Nothing);
        let (here, there) = (listener.local_addr().unwrap().port(), Server::shared(Kind::Postgres).port());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(("127.0.0.1", there)).await.unwrap();
                tokio::spawn(pass(client, server, seen.clone()));
            }
        });
        Gap { url: database.url.replace(&format!(":{there}/"), &format!(":{here}/")), swallows }
    }
}

async fn pass(mut client: TcpStream, mut server: TcpStream, swallows: watch::Receiver<Swallows>) {
    let (mut from_client, mut from_server) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    let mut is_second = false;
    loop {
        tokio::select! {
            read = client.read(&mut from_client) => {
                let Ok(length @ 1..) = read else { return };
                let mut parts = from_client[..length].windows(SECOND_FLIGHT.len());
                is_second |= *swallows.borrow() != Swallows::Nothing && parts.any(|part| part == SECOND_FLIGHT);
                if !(is_second && *swallows.borrow() == Swallows::SecondFlight) {
                    server.write_all(&from_client[..length]).await.unwrap();
                }
            }
            read = server.read(&mut from_server) => {
                let Ok(length @ 1..) = read else { return };
                match is_second && *swallows.borrow() == Swallows::Answer {
                    // The server has committed when it answers.
                    true => return,
                    false => client.write_all(&from_server[..length]).await.unwrap_or_default(),
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_stops_between_the_flights_holds_up_no_other_and_applies_nothing() {
    let database = database().await;
    let gap = Gap::before(&database).await;
    let (stopped, others) = (PostgresStore::connect(config(&gap.url), Clock::system()), open(&database));
    let (stopped, others) = tokio::join!(stopped, others);
    let stopped = stopped.unwrap();
    put(&stopped, "a", "1").await;
    gap.swallows.send_replace(Swallows::SecondFlight);
    let stuck = tokio::spawn({
        let stopped = stopped.clone();
        async move { stopped.commit(Txn::new().then(Op::put("a", "stuck"))).await }
    });
    let stuck = soon(stuck);
    let going_on = async {
        for n in 0..20 {
            put(&others, "b", &n.to_string()).await;
            tokio::task::yield_now().await;
        }
    };
    let (stuck, ()) = tokio::join!(stuck, going_on);
    let answer = stuck.unwrap();
    assert!(matches!(answer, Err(StoreError::Unavailable { .. })), "certainly not applied: {answer:?}");
    assert_eq!(get(&others, "a").await.unwrap().value, b"1");
    gap.swallows.send_replace(Swallows::Nothing);
    put(&stopped, "a", "again").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_answer_is_lost_is_unknown_and_stands_once() {
    let database = database().await;
    let gap = Gap::before(&database).await;
    let store = PostgresStore::connect(config(&gap.url), Clock::system()).await.unwrap();
    let before = put(&store, "a", "1").await;
    gap.swallows.send_replace(Swallows::Answer);
    let answer = soon(store.commit(Txn::new().then(Op::put("a", "2")))).await;
    assert!(matches!(answer, Err(StoreError::Unknown { .. })), "{answer:?}");
    let found = get(&open(&database).await, "a").await.unwrap();
    assert_eq!((found.value.as_slice(), found.modified), (&b"2"[..], before.next()));
    gap.swallows.send_replace(Swallows::Nothing);
    assert_eq!(put(&store, "a", "3").await, before.next().next());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handles_and_watches_go_on_after_the_server_was_down() {
    let mut server = blocking(|| Server::start(Kind::Postgres)).await;
    let url = server.database().url;
    let store = PostgresStore::connect(config(&url), Clock::system()).await.unwrap();
    let (lease, _) = store.grant(TTL * 60).await.unwrap();
    commit(&store, Txn::new().then(Op::put_leased("held", "1", lease))).await;
    let mut watch = store.watch(Keys::prefix("a/"), Revision(2)).await.unwrap();
    put(&store, "a/1", "1").await;
    assert_eq!(next_changes(&mut watch).await[0].key(), "a/1");
    let server = blocking(move || {
        server.kill();
        server
    })
    .await;
    let down = store.commit(Txn::new().then(Op::put("a/2", "1"))).await;
    assert!(down.as_ref().is_err_and(StoreError::is_passing), "{down:?}");
    assert!(store.keep_alive(lease).await.is_err_and(|error| error.is_passing()));
    let _server = blocking(move || {
        let mut server = server;
        server.restart();
        server
    })
    .await;
    put(&store, "a/3", "1").await;
    store.keep_alive(lease).await.unwrap();
    assert_eq!(next_changes(&mut watch).await[0].key(), "a/3");
    assert!(get(&store, "held").await.is_some());
}
