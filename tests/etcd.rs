//! etcd's own faults, and what the store makes of them: real servers, killed, frozen, cut off and restored.

mod support;

use std::time::Duration;

use etcd_client::{Client, ConnectOptions};
use fencron::store::etcd::{EtcdConfig, EtcdStore, Timeouts, Tls};
use fencron::store::{
    Change, Compare, Keys, Op, Order, Range, Revision, Sort, Store, StoreError, Test, Txn, Watch, Watched,
};
use fencron::time::Clock;
use support::certificates::Certificates;
use support::etcd::{Etcd, EtcdCluster, EtcdOptions};
use support::imitation::{Imitation, Manner};
use support::proxy::{Flow, Proxy};
use support::{soon, until};

/// A call must have ended after this: five seconds of attempts and one attempt more, and some for a slow machine.
const BOUND: Duration = Duration::from_secs(15);

fn config(endpoints: &[String]) -> EtcdConfig {
    EtcdConfig::new(endpoints).unwrap()
}

fn put(key: &str, value: &str) -> Txn {
    Txn::new().then(Op::put(key, value))
}

async fn value(store: &EtcdStore, key: &str) -> Option<String> {
    let page = store.range(Range::of(Keys::one(key))).await.unwrap();
    page.entries.first().map(|entry| String::from_utf8(entry.value.clone()).unwrap())
}

/// Counts `key` up from `from`, reading back whenever it is not known what became of a write, as a caller must.
async fn count_up(store: &EtcdStore, key: &str, from: u32, to: u32) {
    for number in from..to {
        soon("a write goes through", async {
            loop {
                let before = Test::Value(number.to_string().into());
                let txn = match number {
                    0 => Txn::new().when(Compare::absent(Keys::one(key))),
                    _ => Txn::new().when(Compare { keys: Keys::one(key), test: before }),
                };
                match store.commit(txn.then(Op::put(key, (number + 1).to_string()))).await {
                    Ok(committed) if committed.succeeded => return,
                    // It is not as it was before: an attempt whose answer was lost has been applied.
                    Ok(_) => return assert_eq!(value(store, key).await, Some((number + 1).to_string())),
                    Err(error) => assert!(error.is_passing(), "{error}"),
                }
            }
        })
        .await;
    }
}

/// The next so many values reported for one key, each of which must come once and in order.
async fn reported(watch: &mut Watch, from: u32, to: u32) {
    let mut next = from + 1;
    while next <= to {
        let report = soon("the watch reports", watch.next()).await.expect("the watch goes on");
        let Watched::Changes(changes) = report else { panic!("nothing was compacted: {report:?}") };
        for change in changes {
            let Change::Put(entry) = change else { panic!("nothing was deleted: {change:?}") };
            assert_eq!(String::from_utf8(entry.value).unwrap(), next.to_string());
            next += 1;
        }
    }
}

#[tokio::test]
async fn a_connection_that_is_refused_leaves_nothing_unknown() {
    let mut etcd = Etcd::start(EtcdOptions::default()).await;
    let store = etcd.store().await;
    etcd.kill();
    until("the connection is known to be broken", async || match store.commit(put("a", "1")).await {
        Err(StoreError::Unavailable { store, why }) => {
            assert!(store.contains(&etcd.endpoint()), "{store}");
            Some(why)
        }
        other => {
            assert!(matches!(other, Err(StoreError::Unknown { .. })), "{other:?}");
            None
        }
    })
    .await;
}

#[tokio::test]
async fn nobody_to_connect_to_is_unavailable() {
    let refused = EtcdStore::connect(config(&["127.0.0.1:1".into()])).await.unwrap_err();
    assert!(matches!(&refused, StoreError::Unavailable { why, .. } if why.contains("refused")), "{refused}");
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_is_unknown_and_can_be_read_back() {
    let etcd = Etcd::start(EtcdOptions::default()).await;
    let proxy = Proxy::start(&etcd.endpoint()).await;
    let store = EtcdStore::connect(config(&[proxy.endpoint()])).await.unwrap();
    proxy.answers(Flow::Hold);
    let error = store.commit(put("a", "1")).await.unwrap_err();
    assert!(matches!(error, StoreError::Unknown { .. }), "{error}");
    proxy.pass();
    assert_eq!(value(&store, "a").await.as_deref(), Some("1"));
}

#[tokio::test]
async fn a_write_whose_connection_is_reset_is_unknown() {
    let etcd = Etcd::start(EtcdOptions::default()).await;
    let proxy = Proxy::start(&etcd.endpoint()).await;
    let store = EtcdStore::connect(config(&[proxy.endpoint()])).await.unwrap();
    proxy.answers(Flow::Hold);
    let commit = tokio::spawn({
        let store = store.clone();
        async move { store.commit(put("a", "1")).await }
    });
    let directly = etcd.store().await;
    until("the write has arrived", async || value(&directly, "a").await).await;
    proxy.cut();
    let error = commit.await.unwrap().unwrap_err();
    assert!(matches!(error, StoreError::Unknown { .. }), "{error}");
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_is_not_repeated_on_another_member() {
    let cluster = EtcdCluster::start(3).await;
    let proxy = Proxy::start(&cluster.members[0].endpoint()).await;
    let store = EtcdStore::connect(config(&[proxy.endpoint(), cluster.members[1].endpoint()])).await.unwrap();
    proxy.answers(Flow::Hold);
    let error = store.commit(put("a", "1")).await.unwrap_err();
    assert!(matches!(error, StoreError::Unknown { .. }), "{error}");
    let page = store.range(Range::of(Keys::one("a"))).await.unwrap();
    assert!(page.entries.iter().all(|entry| entry.created == entry.modified), "it was put twice: {page:?}");
}

#[tokio::test]
async fn a_connection_that_the_network_forgot_is_not_used_twice() {
    let etcd = Etcd::start(EtcdOptions::default()).await;
    let proxy = Proxy::start(&etcd.endpoint()).await;
    let (store, writer) = (EtcdStore::connect(config(&[proxy.endpoint()])).await.unwrap(), etcd.store().await);
    let mut watch = store.watch(Keys::one("count"), Revision(1)).await.unwrap();
    count_up(&writer, "count", 0, 3).await;
    proxy.strand();
    let error = store.commit(put("a", "1")).await.unwrap_err();
    assert!(matches!(error, StoreError::Unknown { .. }), "{error}");
    store.commit(put("a", "1")).await.unwrap();
    count_up(&writer, "count", 3, 6).await;
    reported(&mut watch, 0, 6).await;
}

/// Not a multi-threaded runtime: blocking the test's thread is what makes everything else of it stand still.
#[tokio::test]
async fn a_handle_apart_works_while_the_runtime_of_the_other_is_blocked() {
    let etcd = Etcd::start(EtcdOptions::default()).await;
    // So patient that it would be noticed if a request were made over a connection that stands still.
    let patient = Timeouts { attempt: Duration::from_secs(60), ..Timeouts::default() };
    let store = EtcdStore::connect(etcd.config().with_timeouts(patient)).await.unwrap();
    let (lease, ttl) = store.grant(Duration::from_secs(60)).await.unwrap();
    let asked = Clock::system().boot();
    let apart = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { store.apart().await?.keep_alive(lease).await })
    });
    assert_eq!(apart.join().unwrap().unwrap(), ttl);
    assert!(Clock::system().boot().since(asked) < BOUND);
}

#[tokio::test]
async fn a_read_whose_answer_is_lost_is_asked_of_another_member() {
    let cluster = EtcdCluster::start(3).await;
    let proxy = Proxy::start(&cluster.members[0].endpoint()).await;
    let store = EtcdStore::connect(config(&[proxy.endpoint(), cluster.members[1].endpoint()])).await.unwrap();
    proxy.answers(Flow::Hold);
    assert_eq!(value(&store, "a").await, None);
}

#[tokio::test]
async fn a_read_that_nobody_answers_ends_as_unavailable() {
    let etcd = Etcd::start(EtcdOptions::default()).await;
    let store = etcd.store().await;
    etcd.freeze();
    let asked = Clock::system().boot();
    let error = store.range(Range::of(Keys::one("a"))).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    assert!(Clock::system().boot().since(asked) < BOUND);
    etcd.thaw();
    assert_eq!(value(&store, "a").await, None);
}

#[tokio::test]
async fn writes_go_on_when_the_member_asked_is_killed() {
    let mut cluster = EtcdCluster::start(3).await;
    let store = cluster.store().await;
    count_up(&store, "count", 0, 50).await;
    cluster.members[0].kill();
    count_up(&store, "count", 50, 100).await;
    // The dead member costs nothing from now on: none of these may fail.
    for number in 0..200 {
        store.commit(put("other", &number.to_string())).await.unwrap();
    }
    assert_eq!(value(&store, "count").await.as_deref(), Some("100"));
}

#[tokio::test]
async fn writes_go_on_when_the_cluster_loses_its_leader() {
    let mut cluster = EtcdCluster::start(3).await;
    let store = cluster.store().await;
    count_up(&store, "count", 0, 20).await;
    let leader = cluster.leader().await;
    cluster.members[leader].kill();
    count_up(&store, "count", 20, 60).await;
    assert_eq!(value(&store, "count").await.as_deref(), Some("60"));
}

#[tokio::test]
async fn writes_go_on_while_leadership_is_handed_over() {
    let cluster = EtcdCluster::start(3).await;
    let store = cluster.store().await;
    let writer = tokio::spawn({
        let store = store.clone();
        async move { count_up(&store, "count", 0, 300).await }
    });
    let mut handed_over = 0;
    while !writer.is_finished() {
        let leader = cluster.leader().await;
        let mut client = cluster.members[leader].client().await;
        let next = cluster.members[(leader + 1) % 3].client().await.status().await.unwrap();
        let moved = client.move_leader(next.header().unwrap().member_id()).await;
        handed_over += u32::from(moved.is_ok());
    }
    writer.await.unwrap();
    assert!(handed_over > 0);
    assert_eq!(value(&store, "count").await.as_deref(), Some("300"));
}

#[tokio::test]
async fn a_frozen_leader_is_an_outage_with_an_end() {
    let cluster = EtcdCluster::start(3).await;
    let store = cluster.store().await;
    let (lease, _) = store.grant(Duration::from_secs(60)).await.unwrap();
    let leader = cluster.leader().await;
    cluster.members[leader].freeze();
    let frozen = Clock::system().boot();
    count_up(&store, "count", 0, 1).await;
    let outage = Clock::system().boot().since(frozen);
    assert!(outage < BOUND, "{outage:?}");
    assert_eq!(store.keep_alive(lease).await.unwrap(), Duration::from_secs(60));
    cluster.members[leader].thaw();
}

#[tokio::test]
async fn a_frozen_member_is_left_by_keep_alives_within_seconds() {
    let cluster = EtcdCluster::start(3).await;
    let store = cluster.store().await;
    let (lease, _) = store.grant(Duration::from_secs(60)).await.unwrap();
    let follower = (cluster.leader().await + 1) % 3;
    let all: Vec<String> = (0..3).map(|step| cluster.members[(follower + step) % 3].endpoint()).collect();
    let store = EtcdStore::connect(config(&all)).await.unwrap().apart().await.unwrap();
    store.keep_alive(lease).await.unwrap();
    cluster.members[follower].freeze();
    let asked = Clock::system().boot();
    store.keep_alive(lease).await.unwrap();
    let taken = Clock::system().boot().since(asked);
    assert!(taken < Duration::from_secs(5), "{taken:?}");
    cluster.members[follower].thaw();
}

#[tokio::test]
async fn a_watch_on_a_member_that_freezes_goes_on_elsewhere_without_loss_or_repetition() {
    let cluster = EtcdCluster::start(3).await;
    let watcher = cluster.store().await;
    let writer =
        EtcdStore::connect(config(&[cluster.members[1].endpoint(), cluster.members[2].endpoint()])).await.unwrap();
    let mut watch = watcher.watch(Keys::one("count"), Revision(1)).await.unwrap();
    count_up(&writer, "count", 0, 20).await;
    reported(&mut watch, 0, 20).await;
    cluster.members[0].freeze();
    count_up(&writer, "count", 20, 60).await;
    reported(&mut watch, 20, 60).await;
    cluster.members[0].thaw();
    count_up(&writer, "count", 60, 100).await;
    reported(&mut watch, 60, 100).await;
}

#[tokio::test]
async fn a_watch_goes_on_after_its_connection_was_reset() {
    let etcd = Etcd::start(EtcdOptions::default()).await;
    let proxy = Proxy::start(&etcd.endpoint()).await;
    let (store, writer) = (EtcdStore::connect(config(&[proxy.endpoint()])).await.unwrap(), etcd.store().await);
    let mut watch = store.watch(Keys::one("count"), Revision(1)).await.unwrap();
    for round in 0..5 {
        count_up(&writer, "count", round * 10, round * 10 + 10).await;
        proxy.cut();
    }
    reported(&mut watch, 0, 50).await;
}

#[tokio::test]
async fn a_watch_goes_on_after_all_members_were_restarted_and_a_lease_lives_on() {
    let mut cluster = EtcdCluster::start(3).await;
    let store = cluster.store().await;
    let (lease, _) = store.grant(Duration::from_secs(60)).await.unwrap();
    let mut watch = store.watch(Keys::one("count"), Revision(1)).await.unwrap();
    count_up(&store, "count", 0, 20).await;
    cluster.restart().await;
    count_up(&store, "count", 20, 40).await;
    reported(&mut watch, 0, 40).await;
    assert_eq!(store.keep_alive(lease).await.unwrap(), Duration::from_secs(60));
}

#[tokio::test]
async fn a_watch_that_missed_what_was_compacted_says_so_and_ends() {
    let etcd = Etcd::start(EtcdOptions::default()).await;
    let proxy = Proxy::start(&etcd.endpoint()).await;
    let (store, writer) = (EtcdStore::connect(config(&[proxy.endpoint()])).await.unwrap(), etcd.store().await);
    let mut watch = store.watch(Keys::one("count"), Revision(1)).await.unwrap();
    count_up(&writer, "count", 0, 3).await;
    reported(&mut watch, 0, 3).await;
    proxy.refuse();
    count_up(&writer, "count", 3, 10).await;
    let now = writer.range(Range::of(Keys::one("count"))).await.unwrap().revision;
    etcd.client().await.compact(now.0.try_into().unwrap(), None).await.unwrap();
    proxy.pass();
    assert_eq!(soon("the watch reports", watch.next()).await, Some(Watched::Compacted(now)));
    assert_eq!(soon("the watch ends", watch.next()).await, None);
}

#[tokio::test]
async fn watches_that_nobody_reads_do_not_hold_up_requests() {
    /// More than a watch holds ready, and more beyond that than HTTP/2 lets wait on one connection (5 MiB).
    const PUTS: usize = 3 * Watch::BUFFER;
    let etcd = Etcd::start(EtcdOptions::default()).await;
    let patient = Timeouts { attempt: support::PATIENCE, ..Timeouts::default() };
    let store = EtcdStore::connect(etcd.config().with_timeouts(patient)).await.unwrap();
    let mut unread = Vec::new();
    for _ in 0..5 {
        unread.push(store.watch(Keys::prefix("large/"), Revision(1)).await.unwrap());
    }
    let begun = Clock::system().boot();
    for _ in 0..PUTS {
        store.commit(Txn::new().then(Op::put("large/a", vec![b'x'; 16 << 10]))).await.unwrap();
    }
    assert_eq!(value(&store, "small").await, None);
    assert!(Clock::system().boot().since(begun) < support::PATIENCE);
    drop(unread);
}

#[tokio::test]
async fn history_that_was_compacted_is_said_to_be_gone_with_where_it_begins_now() {
    let etcd = Etcd::start(EtcdOptions::default()).await;
    let store = etcd.store().await;
    count_up(&store, "count", 0, 5).await;
    let now = store.range(Range::of(Keys::one("count"))).await.unwrap().revision;
    etcd.client().await.compact(now.0.try_into().unwrap(), None).await.unwrap();
    let old = Range { at: Some(Revision(2)), ..Range::of(Keys::one("count")) };
    for result in
        [store.range(old.clone()).await.map(drop), store.commit(Txn::new().then(Op::Get(old))).await.map(drop)]
    {
        let Err(StoreError::Compacted { asked, kept_from }) = result else { panic!("{result:?}") };
        assert_eq!((asked, kept_from), (Revision(2), now));
    }
}

#[tokio::test]
async fn a_store_restored_from_a_backup_does_not_know_later_revisions() {
    let mut etcd = Etcd::start(EtcdOptions::default()).await;
    let backup = tempfile::tempdir().unwrap();
    let file = backup.path().join("snapshot");
    let store = etcd.store().await;
    count_up(&store, "count", 0, 3).await;
    etcd.save_snapshot(&file);
    count_up(&store, "count", 3, 9).await;
    let later = store.range(Range::of(Keys::one("count"))).await.unwrap().revision;
    let mut watch = store.watch(Keys::one("count"), later.next()).await.unwrap();
    etcd.restore_snapshot(&file);
    etcd.restart();
    etcd.ready().await;
    assert_eq!(value(&store, "count").await.as_deref(), Some("3"));
    let told = tokio::time::timeout(Duration::from_secs(60), watch.next()).await.expect("the watch says so");
    assert!(matches!(told, Some(Watched::Compacted(now)) if now < later), "{told:?}");
    let at = Range { at: Some(later), ..Range::of(Keys::one("count")) };
    let error = store.range(at).await.unwrap_err();
    assert!(matches!(&error, StoreError::Refused(why) if why.contains("restored from a backup")), "{error}");
}

#[tokio::test]
async fn without_a_majority_nothing_is_applied_and_that_is_said() {
    let mut cluster = EtcdCluster::start(3).await;
    let store = cluster.store().await;
    cluster.members[1].kill();
    cluster.members[2].kill();
    until("the member left knows that it has no leader", async || {
        match store.commit(put("a", "1")).await.unwrap_err() {
            StoreError::Unavailable { why, .. } => Some(why),
            other => {
                assert!(other.is_unknown(), "{other}");
                None
            }
        }
    })
    .await;
    cluster.members[1].restart();
    until("it serves again", async || store.commit(put("b", "1")).await.ok()).await;
}

#[tokio::test]
async fn tokens_that_a_server_forgot_are_renewed() {
    let mut etcd = Etcd::start(EtcdOptions::default()).await;
    etcd.enable_auth("shop", "s3cret", "shop/");
    let config = etcd.config().with_user("shop").with_password("s3cret");
    let store = EtcdStore::connect(config).await.unwrap();
    let mut watch = store.watch(Keys::one("shop/count"), Revision(1)).await.unwrap();
    count_up(&store, "shop/count", 0, 3).await;
    etcd.kill();
    etcd.restart();
    count_up(&store, "shop/count", 3, 6).await;
    reported(&mut watch, 0, 6).await;
}

#[tokio::test]
async fn tokens_that_ran_out_or_were_outdated_by_a_change_of_rights_are_renewed() {
    let certificates = Certificates::make();
    let (key, certificate) = (certificates.path("server.key"), certificates.path("server.pem"));
    let (key, certificate) = (key.display(), certificate.display());
    let jwt = format!("jwt,pub-key={certificate},priv-key={key},sign-method=RS256,ttl=3s");
    let etcd = Etcd::start(EtcdOptions::with(&["--auth-token", &jwt])).await;
    etcd.enable_auth("shop", "s3cret", "shop/");
    let config = etcd.config().with_user("shop").with_password("s3cret");
    let store = EtcdStore::connect(config).await.unwrap();
    let proxy = Proxy::start(&etcd.endpoint()).await;
    let watcher =
        EtcdStore::connect(self::config(&[proxy.endpoint()]).with_user("shop").with_password("s3cret")).await.unwrap();
    let mut watch = watcher.watch(Keys::one("shop/count"), Revision(1)).await.unwrap();
    count_up(&store, "shop/count", 0, 3).await;

    // Every change of users or roles outdates the tokens given before.
    etcd.etcdctl(&["--user", "root:root", "user", "add", "other:other"]);
    store.commit(Txn::new().when(Compare::absent(Keys::one("shop/x"))).then(Op::put("shop/x", "1"))).await.unwrap();
    let (lease, _) = store.grant(Duration::from_secs(60)).await.unwrap();

    let options = ConnectOptions::new().with_user("shop", "s3cret");
    let plain = Client::connect([etcd.endpoint()], Some(options)).await.unwrap();
    until("a token of the same age has run out", async || plain.kv_client().get("shop/count", None).await.err()).await;
    store.commit(put("shop/y", "1")).await.unwrap();
    store.keep_alive(lease).await.unwrap();
    proxy.cut();
    count_up(&store, "shop/count", 3, 6).await;
    reported(&mut watch, 0, 6).await;
}

#[tokio::test]
async fn wrong_credentials_are_denied_and_not_shown() {
    let etcd = Etcd::start(EtcdOptions::default()).await;
    etcd.enable_auth("shop", "s3cret", "shop/");
    let connect = async |config: EtcdConfig| EtcdStore::connect(config).await;

    let wrong = etcd.config().with_user("shop").with_password("wr0ng");
    let error = connect(wrong.clone()).await.unwrap_err();
    assert!(matches!(&error, StoreError::Denied { why, .. } if why.contains("wrong user or password")), "{error}");
    assert!(!format!("{error} {error:?} {wrong:?}").contains("wr0ng"));

    // Without a user the connection stands; what is asked over it is denied.
    let nobody = connect(etcd.config()).await.unwrap();
    let error = nobody.range(Range::of(Keys::one("shop/a"))).await.unwrap_err();
    assert!(matches!(&error, StoreError::Denied { why, .. } if why.contains("no user was given")), "{error}");

    let store = connect(etcd.config().with_user("shop").with_password("s3cret")).await.unwrap();
    let error = store.commit(put("elsewhere", "1")).await.unwrap_err();
    assert!(matches!(&error, StoreError::Denied { why, .. } if why.contains("has no right to these keys")), "{error}");
    let error = store.watch(Keys::one("elsewhere"), Revision(1)).await.unwrap_err();
    assert!(matches!(&error, StoreError::Denied { .. }), "{error}");
}

#[tokio::test]
async fn a_user_may_be_given_where_the_server_has_none() {
    let etcd = Etcd::start(EtcdOptions::default()).await;
    let store = EtcdStore::connect(etcd.config().with_user("shop").with_password("s3cret")).await.unwrap();
    store.commit(put("a", "1")).await.unwrap();
    etcd.enable_auth("shop", "s3cret", "a");
    store.commit(put("a", "2")).await.unwrap();
}

#[tokio::test]
async fn tls_needs_the_right_authority_and_a_certificate_of_ours() {
    let certificates = Certificates::make();
    let etcd = Etcd::start(EtcdOptions::tls(&certificates)).await;
    let ca = Some(certificates.path("ca.pem"));
    let identity = Some((certificates.path("client.pem"), certificates.path("client.key")));
    let tls = Tls { ca, identity, domain: None };

    etcd.ready().await;
    let store = until("it serves", async || EtcdStore::connect(etcd.config().with_tls(tls.clone())).await.ok()).await;
    store.commit(put("a", "1")).await.unwrap();
    assert_eq!(value(&store, "a").await.as_deref(), Some("1"));

    let nameless = Tls { identity: None, ..tls.clone() };
    let error = EtcdStore::connect(etcd.config().with_tls(nameless)).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");

    let strangers = Certificates::make();
    let strange = Tls { ca: Some(strangers.path("ca.pem")), ..tls.clone() };
    let error = EtcdStore::connect(etcd.config().with_tls(strange)).await.unwrap_err();
    assert!(matches!(&error, StoreError::Unavailable { why, .. } if why.contains("certificate")), "{error}");

    let missing = Tls { ca: Some("/nowhere/ca.pem".into()), ..tls.clone() };
    let error = EtcdStore::connect(etcd.config().with_tls(missing)).await.unwrap_err();
    assert!(matches!(&error, StoreError::Denied { why, .. } if why.contains("/nowhere/ca.pem")), "{error}");

    let misnamed = Tls { domain: Some("etcd.example".into()), ..tls };
    let error = EtcdStore::connect(etcd.config().with_tls(misnamed)).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
}

#[tokio::test]
async fn endpoints_of_two_clusters_are_refused() {
    let (mut one, other) = (Etcd::start(EtcdOptions::default()).await, Etcd::start(EtcdOptions::default()).await);
    let store = EtcdStore::connect(config(&[one.endpoint(), other.endpoint()])).await.unwrap();
    one.kill();
    let error = until("the other member is asked", async || match store.commit(put("a", "1")).await.unwrap_err() {
        error if error.is_passing() => None,
        error => Some(error),
    })
    .await;
    assert!(matches!(&error, StoreError::Unusable(why) if why.contains("another cluster")), "{error}");
    assert_eq!(value(&other.store().await, "a").await, None);
}

#[tokio::test]
async fn a_cluster_that_was_built_anew_under_the_same_address_is_refused() {
    let mut etcd = Etcd::start(EtcdOptions::default()).await;
    let store = etcd.store().await;
    store.commit(put("a", "1")).await.unwrap();
    etcd.rebuild();
    etcd.ready().await;
    let error = until("it is noticed", async || match store.commit(Txn::new().then(Op::get("a"))).await {
        Err(error) if error.is_passing() => None,
        answer => Some(answer),
    })
    .await
    .unwrap_err();
    assert!(matches!(&error, StoreError::Unusable(why) if why.contains("another cluster")), "{error}");
}

#[tokio::test]
async fn a_full_database_leaves_a_write_unknown_because_it_may_have_applied_it() {
    let etcd = Etcd::start(EtcdOptions::with(&["--quota-backend-bytes", "2000000"])).await;
    let store = etcd.store().await;
    let large = vec![b'x'; 200_000];
    let mut numbers = 0..;
    let error = until("the database is full", || {
        let key = format!("large/{}", numbers.next().unwrap());
        let (store, txn) = (&store, Txn::new().then(Op::put(key, large.clone())));
        async move { store.commit(txn).await.err() }
    })
    .await;
    assert!(error.is_unknown() && error.to_string().contains("alarm disarm"), "{error}");
    until("it is in what the store says of itself", async || {
        let warnings = store.about().await.unwrap().warnings;
        warnings.into_iter().find(|warning| warning.contains("NOSPACE"))
    })
    .await;
}

#[tokio::test]
async fn the_servers_limits_are_refused_with_advice() {
    let etcd = Etcd::start(EtcdOptions::with(&["--max-txn-ops", "10"])).await;
    let store = etcd.store().await;
    let many = (0..11).fold(Txn::new(), |txn, number| txn.then(Op::put(format!("many/{number}"), "")));
    for (txn, advice) in [
        (many, "--max-txn-ops"),
        (Txn::new().then(Op::put("a", vec![0; 1_600_000])), "--max-request-bytes"),
        (Txn::new().then(Op::put("a", vec![0; 30_000_000])), "--max-request-bytes"),
        (put("a", "1").then(Op::put("a", "2")), "twice"),
        (put("", "1"), "empty"),
    ] {
        let error = store.commit(txn).await.unwrap_err();
        assert!(matches!(&error, StoreError::Refused(why) if why.contains(advice)), "{error}");
    }
    assert_eq!(value(&store, "a").await, None);
}

#[tokio::test]
async fn a_page_may_be_larger_than_a_request() {
    let etcd = Etcd::start(EtcdOptions::default()).await;
    let store = etcd.store().await;
    for number in 0..8 {
        store.commit(Txn::new().then(Op::put(format!("large/{number}"), vec![b'x'; 1 << 20]))).await.unwrap();
    }
    let (entries, _) = store.range_all(Keys::prefix("large/")).await.unwrap();
    assert_eq!(entries.iter().map(|entry| entry.value.len()).sum::<usize>(), 8 << 20);
}

#[tokio::test]
async fn what_was_put_before_anything_is_nothing() {
    let etcd = Etcd::start(EtcdOptions::default()).await;
    let store = etcd.store().await;
    count_up(&store, "count", 0, 3).await;
    for before in [Revision(0), Revision(1), Revision(2)] {
        let range = Range { order: Sort::NewestFirst, modified_before: Some(before), ..Range::of(Keys::prefix("c")) };
        let page = store.range(range).await.unwrap();
        assert_eq!((page.entries.len(), page.more, page.revision > Revision(3)), (0, false, true));
    }
    let compared = Compare { keys: Keys::one("count"), test: Test::Created(Order::Less, Revision(2)) };
    assert!(!store.commit(Txn::new().when(compared)).await.unwrap().succeeded);
}

#[tokio::test]
async fn the_defects_of_the_servers_version_are_warned_of() {
    let etcd = Etcd::start(EtcdOptions::default()).await;
    let about = etcd.store().await.about().await.unwrap();
    assert_eq!(about.kind, "etcd");
    assert!(about.size.is_some_and(|size| size > 0));
    if about.version == "3.4.23" {
        assert!(about.warnings.iter().any(|warning| warning.contains("#20418")), "{:?}", about.warnings);
    }
}

#[tokio::test]
async fn a_watch_says_whether_what_it_has_missed_is_told_late() {
    let etcd = Etcd::start(EtcdOptions::default()).await;
    let store = etcd.store().await;
    let put = store.commit(Txn::new().then(Op::put("a", "1"))).await.unwrap().revision;
    assert!(!store.watch(Keys::one("a"), put.next()).await.unwrap().is_behind());
    store.commit(Txn::new().then(Op::put("b", "1"))).await.unwrap();
    assert!(store.watch(Keys::one("a"), put.next()).await.unwrap().is_behind(), "whatever was written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_looks_like_etcd_is_refused_by_name() {
    let config = |server: &Imitation| EtcdConfig::new([server.endpoint()]).unwrap();
    let kine = Imitation::start(Manner::Kine).await;
    let refused = EtcdStore::connect(config(&kine)).await.expect_err("it is not etcd");
    assert!(
        matches!(&refused, StoreError::Unusable(why) if why.contains("is not etcd") && why.contains("kine")),
        "{refused}"
    );
    // Whoever does not ask for the status first finds it out by the lease, or at the first keep-alive at the latest.
    let lessor = Imitation::start(Manner::MemberWithKinesLeases).await;
    let store = EtcdStore::connect(config(&lessor)).await.unwrap();
    let refused = store.grant(Duration::from_secs(10)).await.expect_err("all would share that lease");
    assert!(matches!(&refused, StoreError::Unusable(why) if why.contains("under the id 10")), "{refused}");
    let mortal = Imitation::start(Manner::NoKeepAlive).await;
    let store = EtcdStore::connect(config(&mortal)).await.unwrap();
    let (lease, _) = store.grant(Duration::from_secs(10)).await.unwrap();
    let refused = store.keep_alive(lease).await.expect_err("it cannot");
    assert!(matches!(&refused, StoreError::Unusable(why) if why.contains("keep alive is not supported")), "{refused}");
}

/// A store of the user `shop`, whose password is in this file.
async fn store_of(etcd: &Etcd, password: &std::path::Path) -> EtcdStore {
    EtcdStore::connect(etcd.config().with_user("shop").with_password_file(password)).await.unwrap()
}

#[tokio::test]
async fn a_password_that_is_changed_is_read_again_from_its_file() {
    let etcd = Etcd::start(EtcdOptions::default()).await;
    etcd.enable_auth("shop", "before", "a");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("password");
    std::fs::write(&file, "before\n").unwrap();
    let store = store_of(&etcd, &file).await;
    count_up(&store, "a", 0, 3).await;
    let root = ConnectOptions::new().with_user("root", "root");
    let mut root = Client::connect([etcd.endpoint()], Some(root)).await.unwrap();
    root.user_change_password("shop", "after").await.unwrap();
    // Until the file has it too, nothing is refused for good: it may be written at any moment.
    let refused = soon("an answer", store.range(Range::of(Keys::one("a")))).await.unwrap_err();
    assert!(refused.is_passing() && refused.to_string().contains("wrong user or password"), "{refused}");
    assert!(!format!("{refused} {store:?}").contains("before"), "{refused}");
    std::fs::write(&file, "after\n").unwrap();
    count_up(&store, "a", 3, 6).await;
    assert_eq!(value(&store, "a").await.as_deref(), Some("6"));
}

#[tokio::test]
async fn a_full_database_answers_what_only_reads() {
    let mut etcd = Etcd::start(EtcdOptions::default()).await;
    let store = etcd.store().await;
    store.commit(put("a", "1")).await.unwrap();
    for _ in 0..3 {
        store.commit(Txn::new().then(Op::put("large", vec![b'x'; 1 << 20]))).await.unwrap();
    }
    // It takes more than it may.
    etcd.kill();
    etcd.restart_with("--quota-backend-bytes", "1048576").await;
    until("it is full", async || {
        let written = store.commit(put("b", "1")).await.err()?;
        written.to_string().contains("is full").then_some(())
    })
    .await;
    let look = Txn::new().then(Op::get("a")).then(Op::Get(Range::of(Keys::prefix("c"))));
    let looked = store.commit(look).await.unwrap();
    assert_eq!(looked.got(0).unwrap()[0].value, b"1");
    assert_eq!((looked.succeeded, looked.got(1).unwrap().len()), (true, 0));
    let about = store.about().await.unwrap();
    assert!(about.warnings.iter().any(|warning| warning.contains("NOSPACE")), "{:?}", about.warnings);
    // Before 3.6 nobody is told the quota, and none is assumed.
    assert_eq!(about.quota.is_some(), !about.version.starts_with("3.4.") && !about.version.starts_with("3.5."));
}
