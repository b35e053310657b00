//! Leaders that are killed, at the worst moments.

use std::time::Duration;

use super::effects::{Line, Step};
use super::referee::record::{Fact, job_of};
use super::scene::{Job, Scene};
use super::support::{over_both, until};

/// How many jobs come due together.
const CROWD: usize = 40;

/// How often the leader is killed.
const KILLS: usize = 3;

over_both!(
    sqlite: super::Scene::over_sqlite(&super::jobs()).await, etcd: super::Scene::over_etcd(&super::jobs()).await;
    a_leader_killed_amid_a_batch_loses_and_repeats_nothing,
    a_leader_killed_amid_a_run_leaves_what_its_jobs_say,
    a_leader_that_is_killed_is_followed_long_before_its_lease_can_run_out,
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_killed_amid_a_batch_over_postgres_loses_and_repeats_nothing() {
    let played =
        async { a_leader_killed_amid_a_batch_loses_and_repeats_nothing(Scene::over_postgres(&jobs()).await).await };
    super::support::in_time("a batch over PostgreSQL", Box::pin(played)).await;
}

/// A crowd, of which every second one may be run again, and two that take long.
fn jobs() -> Vec<Job> {
    let one = |n: usize| {
        let name: &str = String::leak(format!("crowd-{n}"));
        let more: &[&str] = if may_be_repeated(name) { &["guarantee: at_least_once"] } else { &[] };
        Job { name, every: 2, steps: 1, more }
    };
    let careful = Job { name: "careful", every: 10, steps: 200, more: &[] };
    let eager = Job { name: "eager", every: 10, steps: 200, more: &["guarantee: at_least_once"] };
    (0..CROWD).map(one).chain([careful, eager]).collect()
}

/// Every second one of the crowd.
fn may_be_repeated(job: &str) -> bool {
    job.strip_prefix("crowd-").and_then(|n| n.parse::<usize>().ok()).is_some_and(|n| n % 2 == 1)
}

async fn a_leader_killed_amid_a_batch_loses_and_repeats_nothing(mut scene: Scene) {
    let (mut leader, mut fence) = scene.play().await;
    for _ in 0..KILLS {
        let (before, begun) = (scene.witness.history.borrow().facts.len(), scene.effects.lines().len());
        let claimed = |fact: &Fact| matches!(fact, Fact::Open { run, .. } if job_of(run) == "crowd-0");
        let looked = scene.witness.until("the crowd is claimed", |history| {
            history.facts[before..].iter().any(|(_, fact)| claimed(fact)).then_some(())
        });
        looked.await;
        // Of what may be repeated something is under way by then.
        let begins = |line: &Line| line.step == Step::Begins && may_be_repeated(line.job());
        let lines = async || scene.effects.lines().into_iter().skip(begun).find(begins);
        until("one that may be repeated begins", lines).await;
        scene.kill(leader);
        let killed = leader;
        (leader, fence) = scene.leader_after(fence).await;
        scene.start(killed);
    }
    scene.judge(&[("failovers", 3), ("unknown verdicts", 1), ("starts", 100)]).await;
    let again = scene.effects.begun().into_values().filter(|lines| lines.len() > 1).count();
    assert!(again > 0, "nothing was run again, so nothing was in the middle of it");
}

async fn a_leader_killed_amid_a_run_leaves_what_its_jobs_say(mut scene: Scene) {
    let (leader, fence) = scene.play().await;
    let careful = scene.begins("careful", fence).await;
    let eager = scene.begins("eager", fence).await;
    scene.kill(leader);
    let killed_at = scene.effects.lines().len();
    let (_, next) = scene.leader_after(fence).await;
    assert_eq!(scene.verdict(&careful.attempt.run).await, "unknown");

    let again = scene.begins_again(&eager.attempt.run, next).await;
    assert_eq!(again.attempt.number, 2, "the same occurrence once more");
    scene.judge(&[("failovers", 1), ("unknown verdicts", 1)]).await;
    let late = scene.effects.lines().into_iter().skip(killed_at + 2).find(|line| line.attempt.fence == fence);
    assert_eq!(late, None, "the killed node's commands were ended with it");
}

/// The supervisor of a killed node ends its commands, and then its session. So a TTL may be as long as any fault of the
/// network, and a crash is over at once all the same.
async fn a_leader_that_is_killed_is_followed_long_before_its_lease_can_run_out(mut scene: Scene) {
    scene.ttl = Duration::from_secs(3600);
    let (leader, fence) = scene.play().await;
    let eager = scene.begins("eager", fence).await;
    scene.kill(leader);
    let (next, fence) = scene.leader_after(fence).await;
    let again = scene.begins_again(&eager.attempt.run, fence).await;
    assert_eq!(again.attempt.number, 2, "the same occurrence once more");
    // Its successor too, which was a follower before.
    scene.start(leader);
    scene.kill(next);
    scene.leader_after(fence).await;
    scene.judge(&[("failovers", 2), ("unknown verdicts", 1)]).await;
}
