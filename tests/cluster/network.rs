//! Nodes and members of etcd that cannot reach each other.

use super::scene::{Job, Scene};
use super::support::proxy::Proxy;

fn jobs() -> Vec<Job> {
    vec![Job { name: "long", every: 5, steps: 300, more: &["guarantee: at_least_once"] }]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_stops_before_another_starts() {
    let mut scene = Scene::over_etcd(&jobs()).await;
    let (mut leader, mut fence) = scene.play().await;
    for how in ["swallowed", "refused"] {
        let run = scene.begins("long", fence).await;
        let since = scene.nodes[leader].now();
        let cut = if how == "swallowed" { Proxy::hold } else { Proxy::refuse };
        scene.network(leader).iter().for_each(cut);
        scene.impair(leader, format!("all that it sends is {how}"));
        let (next, higher) = scene.leader_after(fence).await;
        scene.begins_again(&run.attempt.run, higher).await;
        scene.nodes[leader].says(since, "the lease may end soon and the store does not answer").await;
        let lines = scene.effects.lines();
        let first = lines.iter().position(|line| line.attempt.fence == higher).expect("it begun");
        let late: Vec<_> = lines[first..].iter().filter(|line| line.attempt.fence == fence).collect();
        assert!(late.is_empty(), "the leader that was cut off had ended its runs before: {late:?}");

        scene.network(leader).iter().for_each(Proxy::pass);
        scene.recover(leader);
        scene.nodes[leader].says(since, "leading no more").await;
        (leader, fence) = (next, higher);
    }
    scene.judge(&[("failovers", 2)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_of_etcd_come_and_go() {
    let mut scene = Scene::over_etcd(&[]).await;
    let (_, fence) = scene.play().await;

    let member = scene.etcd().leader().await;
    scene.trouble("the leader of etcd is killed");
    scene.etcd().members[member].kill();
    scene.claims(5).await;
    scene.etcd().members[member].restart();
    scene.etcd().members[member].ready().await;
    scene.trouble_ends();

    scene.trouble("all of etcd is killed");
    scene.etcd().restart().await;
    scene.trouble_ends();
    scene.claims(5).await;
    scene.judge(&[("claims", 10)]).await;
    let fences = scene.witness.history.borrow().leader().map(|(_, now)| now >= fence);
    assert_eq!(fences, Some(true));
}
