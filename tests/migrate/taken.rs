//! A lock that is taken away in the middle of a migration, by whatever hand.

use fencron::store::{Keys, Op, Store, Txn};

use crate::scene::Scene;
use crate::support::proxy::Proxy;
use crate::support::until;

/// Neither a connection that broke nor history that was compacted meanwhile keeps whoever makes it from hearing of that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_ends_with_its_lock_though_the_watch_of_it_broke_before() {
    let scene = Scene::over_etcd().await;
    let proxy = Proxy::start(&scene.store_endpoint()).await;
    scene.write(
        "jobs.yaml",
        "version: 1\nnamespace: shop\nmigrations: [{id: m, shell: 'echo $$ > begun; exec sleep 300'}]\njobs: {}\n",
    );
    let migrating = scene.start_over(&format!("etcd://{}", proxy.endpoint()), "a", &["migrate"]);
    scene.wait_for_lines("begun", 1).await;
    let pid = scene.lines("begun").remove(0);
    let store = scene.server().store().await;

    proxy.refuse();
    for number in 0..10 {
        store.commit(Txn::new().then(Op::put("/elsewhere", number.to_string()))).await.unwrap();
    }
    let compacted = store.commit(Txn::new().then(Op::put("/elsewhere", "last"))).await.unwrap().revision;
    scene.server().client().await.compact(compacted.0.try_into().unwrap(), None).await.unwrap();
    proxy.pass();
    // Once it is heard of again, its watches are as well.
    let kept_alive = store.range_all(Keys::prefix("/fencron/v1/shop/sess/")).await.unwrap().0.remove(0).lease.unwrap();
    until("it is back", async || {
        store.commit(Txn::new().then(Op::put("/elsewhere", "again"))).await.unwrap();
        let ttl = scene.server().client().await.lease_time_to_live(kept_alive.0.get() as i64, None).await.unwrap();
        (ttl.ttl() >= ttl.granted_ttl() - 1).then_some(())
    })
    .await;

    let (entries, _) = store.range_all(Keys::prefix("/fencron/v1/shop/lock/")).await.unwrap();
    let owner = entries.into_iter().map(|entry| entry.key).find(|key| key.ends_with("migrations/owner")).unwrap();
    store.commit(Txn::new().then(Op::delete(owner))).await.unwrap();
    let alive = std::path::PathBuf::from(format!("/proc/{pid}/cmdline"));
    until("what runs under the lock is ended", async || {
        std::fs::read(&alive).map_or(true, |name| name.is_empty()).then_some(())
    })
    .await;
    assert_ne!(migrating.end().code(), 0);
}
