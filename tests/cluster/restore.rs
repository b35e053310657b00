//! An etcd that was restored from a backup while nodes work: what it says of the time since is not true.

use std::path::Path;

use fencron::store::{Op, Store as _, Txn};

use super::effects::Step;
use super::referee::record::Fact;
use super::scene::{Job, Scene};
use super::support::until;
use super::witness::History;

/// By how many revisions the restored store grows: more than the backup was behind.
const GROWTH: u32 = 300;

fn jobs() -> Vec<Job> {
    vec![Job { name: "other", every: 2, steps: 1, more: &["missed: {run: all}"] }]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_etcd_is_refused_until_it_is_repaired_and_nothing_is_done_twice() {
    let mut scene = Scene::over_etcd(&jobs()).await;
    let (leader, fence) = scene.play().await;
    let backed_up = fence;
    let backup = scene.path("backup");
    scene.etcd().members[0].save_snapshot(&backup);
    scene.claims(6).await;
    scene.kill(leader);
    let (leader, fence) = scene.leader_after(fence).await;
    scene.claims(3).await;

    let since: Vec<_> = scene.nodes.iter().map(|node| node.runs().then(|| node.now())).collect();
    let cluster = scene.etcd();
    cluster.members.iter_mut().for_each(|member| member.restore_snapshot(&backup));
    cluster.members.iter_mut().for_each(|member| member.restart());
    cluster.ready().await;
    scene.look_anew();
    for (node, since) in scene.nodes.iter().zip(since) {
        if let Some(since) = since {
            node.says(since, "the store went back in time").await;
        }
    }
    // It grows on, by whatever writes to it, until no revision tells any more that it went back.
    for n in 0..GROWTH {
        scene.store.commit(Txn::new().then(Op::put("/growth", n.to_string()))).await.unwrap();
    }
    let since = scene.nodes[leader].now();
    scene.nodes[leader].says(since, "the store went back in time").await;
    assert_eq!(owners(&scene.witness.history.borrow(), backed_up), 0, "nobody leads on a store that went back");
    let begun_before = scene.effects.lines().len();
    let (status, body) = scene.nodes[leader].http("/readyz").await;
    assert!(status == 503 && body.contains("fencron fence repair"), "{status} {body}");
    let (code, printed, _) = scene.nodes[leader].fencron(&["fence", "show"]);
    assert!(code == Some(1) && printed.contains("went back in time"), "{code:?} {printed}");

    let (code, printed, said) = scene.nodes[leader].fencron(&["fence", "repair", "--yes"]);
    assert_eq!(code, Some(0), "{printed}{said}");
    let (_, next) = scene.leader_after(fence).await;
    scene.begins("tick", next).await;
    scene.begins("other", next).await;
    scene.claims(5).await;

    let lines = scene.effects.lines();
    let highest = lines[..begun_before].iter().map(|line| line.attempt.fence).max();
    let after = lines[begun_before..].iter().filter(|line| line.step == Step::Begins);
    let between: Vec<_> = after.filter(|line| line.attempt.fence < next).collect();
    assert!(highest <= Some(fence) && between.is_empty(), "begun on a store that had gone back: {between:?}");
    let twice: Vec<_> = scene.effects.begun().into_iter().filter(|(_, begun)| begun.len() > 1).collect();
    assert!(twice.is_empty(), "done twice: {twice:?}");
    let node = &scene.nodes[leader];
    let well = async || (node.http("/readyz").await.0 == 200).then_some(());
    until("all is well again", well).await;
}

/// The store is what it was at the backup, and others write to it until its revision is beyond all that was seen.
async fn restore_and_outgrow(scene: &mut Scene, backup: &Path) {
    let cluster = scene.etcd();
    cluster.members.iter_mut().for_each(|member| member.restore_snapshot(backup));
    cluster.members.iter_mut().for_each(|member| member.restart());
    cluster.ready().await;
    scene.look_anew();
    outgrow(scene).await;
}

async fn outgrow(scene: &Scene) {
    for n in 0..GROWTH {
        let put = Txn::new().then(Op::put("/growth", n.to_string()));
        until("a write goes through", async || scene.store.commit(put.clone()).await.ok()).await;
    }
}

/// How often somebody became leader in a store that was restored, whose backup has the leader of `backed_up`. The
/// witness reads that history anew, and has read it at some time.
fn owners(history: &History, backed_up: u64) -> usize {
    let is_new = |fact: &Fact| matches!(fact, Fact::Owner { fence, .. } if *fence != backed_up);
    history.facts.iter().filter(|(_, fact)| is_new(fact)).count()
}

async fn refuses(scene: &Scene, node: usize) {
    let refuses = async || {
        let (status, body) = scene.nodes[node].http("/readyz").await;
        (status == 503 && body.contains("went back in time") && body.contains("fencron fence repair")).then_some(())
    };
    until(&format!("{} refuses the store", scene.nodes[node].name), refuses).await;
}

fn begun_twice(scene: &Scene) -> usize {
    scene.effects.begun().into_values().filter(|begun| begun.len() > 1).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_leads_beside_nodes_that_refuse_a_restored_etcd() {
    let mut scene = Scene::over_etcd(&jobs()).await;
    for node in [0, 1] {
        scene.start(node);
        scene.joined(node).await;
    }
    let (leader, fence) = scene.leader_after(0).await;
    let backed_up = fence;
    let backup = scene.path("backup");
    scene.etcd().members[0].save_snapshot(&backup);
    scene.claims(3).await;
    scene.kill(leader);
    let (_, fence) = scene.leader_after(fence).await;
    scene.start(leader);
    scene.joined(leader).await;
    scene.claims(3).await;

    restore_and_outgrow(&mut scene, &backup).await;
    for node in [0, 1] {
        refuses(&scene, node).await;
    }
    scene.start(2);
    refuses(&scene, 2).await;
    for node in [0, 1] {
        scene.kill(node);
    }
    outgrow(&scene).await;
    let since = scene.nodes[2].now();
    scene.nodes[2].says(since, "as was found out at").await;
    assert_eq!(owners(&scene.witness.history.borrow(), backed_up), 0, "somebody led");
    let (_, status, _) = scene.nodes[2].fencron(&["status"]);
    assert!(status.contains("the store went back in time"), "{status}");

    let (code, printed, said) = scene.nodes[0].fencron(&["fence", "repair", "--yes"]);
    assert_eq!(code, Some(0), "{printed}{said}");
    let (_, next) = scene.leader_after(fence).await;
    scene.begins("tick", next).await;
    assert_eq!(begun_twice(&scene), 0, "done twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leads_a_restored_etcd_alone_is_deposed_by_the_first_that_knows_better() {
    let mut scene = Scene::over_etcd(&jobs()).await;
    scene.play().await;
    scene.stop(2).await;
    let (leader, fence) = scene.leader_after(0).await;
    let backed_up = fence;
    let backup = scene.path("backup");
    scene.etcd().members[0].save_snapshot(&backup);
    scene.kill(leader);
    let (other, last) = scene.leader_after(fence).await;
    scene.claims(3).await;
    scene.kill(other);

    restore_and_outgrow(&mut scene, &backup).await;
    scene.start(2);
    let (late, fence) = scene.leader_after(last).await;
    assert_eq!(late, 2, "it has seen nothing of what is gone");
    scene.claims(2).await;
    let since = scene.nodes[2].now();
    scene.start(other);
    refuses(&scene, other).await;
    scene.nodes[2].says(since, "leading no more").await;
    refuses(&scene, 2).await;
    let since = owners(&scene.witness.history.borrow(), backed_up);
    let (code, printed, said) = scene.nodes[other].fencron(&["fence", "repair", "--yes"]);
    assert_eq!(code, Some(0), "{printed}{said}");
    let (_, next) = scene.leader_after(fence).await;
    assert!(next > fence && owners(&scene.witness.history.borrow(), backed_up) > since);
}
