//! A leader that stands still for longer than its lease lives, and does not know it when it goes on.

use super::scene::{Job, Scene};
use super::support::over_both;

over_both!(
    sqlite: super::Scene::over_sqlite(&super::jobs()).await, etcd: super::Scene::over_etcd(&super::jobs()).await;
    a_frozen_leader_changes_nothing_when_it_thaws,
);

fn jobs() -> Vec<Job> {
    vec![
        Job { name: "long", every: 10, steps: 300, more: &[] },
        Job {
            name: "stubborn",
            every: 10,
            steps: 300,
            more: &["on_lost_leadership: finish", "guarantee: at_least_once"],
        },
    ]
}

async fn a_frozen_leader_changes_nothing_when_it_thaws(mut scene: Scene) {
    let (frozen, fence) = scene.play().await;
    let long = scene.begins("long", fence).await;
    let stubborn = scene.begins("stubborn", fence).await;
    let since = scene.nodes[frozen].now();
    scene.freeze(frozen).await;
    let (_, next) = scene.leader_after(fence).await;
    assert_eq!(scene.verdict(&long.attempt.run).await, "unknown");
    scene.begins_again(&stubborn.attempt.run, next).await;

    scene.thaw(frozen);
    // It would have gone on: it has runs at hand that it wants to report, and an occurrence due in every second that
    // it stood still.
    scene.nodes[frozen].says(since, "leading no more").await;
    scene.claims(5).await;
    assert_eq!(scene.verdict(&long.attempt.run).await, "unknown", "what the successor decided stands");
    let history = scene.witness.history.borrow().clone();
    assert_eq!(history.leader().map(|(_, fence)| fence), Some(next), "nobody was disturbed");
    let lines = scene.effects.lines();
    let first = lines.iter().position(|line| line.attempt.fence == next).expect("the successor's jobs have written");
    let stale = lines[first..].iter().find(|line| line.attempt.fence == fence && line.job() != "stubborn");
    assert_eq!(
        stale, None,
        "commands to be cancelled have ended before the successor began, while their node stood still"
    );
    let goes_on = lines[first..].iter().any(|line| line.attempt == stubborn.attempt);
    assert!(goes_on, "one that is to finish goes on");
    scene.judge(&[("failovers", 1), ("unknown verdicts", 1)]).await;
}
