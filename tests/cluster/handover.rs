//! Nodes that are told to go, one or all.

use std::collections::BTreeMap;

use nix::sys::signal::Signal;

use super::effects::Step;
use super::referee::record::{Fact, Millis};
use super::scene::{Job, Scene};
use super::support::over_both;

over_both!(
    sqlite: super::Scene::over_sqlite(&super::jobs()).await, etcd: super::Scene::over_etcd(&super::jobs()).await;
    a_leader_told_to_stop_hands_over_at_once,
    a_rolling_restart_loses_nothing,
);

/// From the resignation to the successor's first claim: far below the TTL, which it does not have to wait for.
const HANDED_OVER_WITHIN: Millis = 1_500;

fn jobs() -> Vec<Job> {
    vec![Job { name: "working", every: 5, steps: 8, more: &[] }]
}

async fn a_leader_told_to_stop_hands_over_at_once(mut scene: Scene) {
    let (leader, fence) = scene.play().await;
    let run = scene.begins("working", fence).await;
    scene.stop(leader).await;
    let (_, next) = scene.leader_after(fence).await;
    assert_eq!(scene.verdict(&run.attempt.run).await, "succeeded", "what ran was let end");
    let ended = scene.effects.lines().into_iter().any(|line| line.step == Step::Ends && line.attempt == run.attempt);
    assert!(ended, "it came to its end");
    let record = scene.judge(&[("failovers", 1), ("additions to counts", 1)]).await;
    let before = record.facts.iter().take_while(|(_, fact)| !matches!(fact, Fact::Vacant { .. })).map(|(_, fact)| fact);
    let (mut ended_before, mut counted) = (0, BTreeMap::new());
    for fact in before {
        match fact {
            Fact::Done { .. } => ended_before += 1,
            Fact::Counted { hour, ended } => drop(counted.insert(hour, *ended)),
            _ => {}
        }
    }
    assert_eq!(counted.values().sum::<u64>(), ended_before, "its counts are in the store before it resigns");

    let resigned = record.facts.iter().find(|(_, fact)| matches!(fact, Fact::Vacant { .. })).expect("it resigned").0;
    let claims = |fact: &Fact| matches!(fact, Fact::Decided { fence, .. } if *fence == next);
    let claimed = record.facts.iter().find(|(_, fact)| claims(fact)).expect("the successor claims").0;
    assert!(claimed - resigned < HANDED_OVER_WITHIN, "the first claim came {} ms later", claimed - resigned);
    let missed =
        record.facts.iter().filter(|(_, fact)| matches!(fact, Fact::Done { verdict, .. } if verdict == "skipped"));
    let missed: Vec<_> = missed.collect();
    assert!(missed.is_empty(), "a hand-over costs no occurrence: {missed:?}");
}

async fn a_rolling_restart_loses_nothing(mut scene: Scene) {
    scene.play().await;
    for node in 0..3 {
        scene.joined(node).await;
        scene.stop(node).await;
        scene.claims(1).await;
        scene.start(node);
        scene.joined(node).await;
        scene.claims(1).await;
    }
    // Once more all at once but one, the way an impatient person does it.
    scene.nodes[0].signal(Signal::SIGTERM);
    scene.stop(1).await;
    let ended = scene.nodes[0].ended().await;
    assert!(ended.success(), "{ended}");
    scene.mark_down(0);
    scene.start(0);
    scene.start(1);
    let record = scene.judge(&[("failovers", 1)]).await;
    let skipped =
        record.facts.iter().find(|(_, fact)| matches!(fact, Fact::Done { verdict, .. } if verdict == "skipped"));
    assert_eq!(skipped, None, "no occurrence was missed");
}
