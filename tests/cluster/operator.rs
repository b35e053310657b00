//! What an operator does to the store by hand.

use super::scene::{Job, Scene, prefix};

fn jobs() -> Vec<Job> {
    vec![Job { name: "long", every: 5, steps: 300, more: &["guarantee: at_least_once"] }]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_revoked_by_hand_costs_the_term_and_nothing_else() {
    let mut scene = Scene::over_etcd(&jobs()).await;
    let (leader, fence) = scene.play().await;
    let run = scene.begins("long", fence).await;
    let name = scene.nodes[leader].name.clone();
    let session = scene.witness.history.borrow().session(&name).expect("the leader has a session").0.to_owned();
    let lease = session.rsplit_once('/').expect("a key of ours").1;
    let since = scene.nodes[leader].now();
    scene.shock("the leader's lease is revoked");
    scene.etcd().members[0].etcdctl(&["lease", "revoke", lease]);
    let (_, next) = scene.leader_after(fence).await;
    scene.nodes[leader].says(since, "leading no more").await;
    let again = scene.begins("long", next).await;
    assert_eq!(again.attempt.run, run.attempt.run);
    scene.joined(leader).await;
    scene.judge(&[("failovers", 1)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_key_deleted_by_hand_costs_the_term_and_nothing_else() {
    let mut scene = Scene::over_etcd(&jobs()).await;
    let (mut leader, mut fence) = scene.play().await;
    for _ in 0..2 {
        let since = scene.nodes[leader].now();
        scene.shock("the owner's key is deleted");
        scene.etcd().members[0].etcdctl(&["del", &format!("{}lock/leader/owner", prefix())]);
        scene.nodes[leader].says(since, "leading no more").await;
        (leader, fence) = scene.leader_after(fence).await;
        scene.begins("tick", fence).await;
    }
    scene.judge(&[("failovers", 2)]).await;
}
