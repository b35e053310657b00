//! Histories: several processes, each with several contexts, use locks and semaphores at random while processes are killed
//! and stopped, connections are cut, leases revoked, members of etcd killed, and transactions and their answers lost, late
//! and repeated. What every call was answered is held against sequential models.
//!
//! `worker.rs` plays one of the processes, over the store as `wire.rs` spoils it, and writes its history (`record.rs`);
//! `scene.rs` starts them and does to them what a seed says; `history.rs` makes one history for each object of it;
//! `linear.rs` puts that in order, for the models of `model.rs`; `judge.rs` holds what follows from time alone.
//! `wrong.rs` and `rules.rs` show that the judgement refuses what it is to refuse, and `broken.rs` that it finds it in
//! locks that are broken on purpose.
//!
//! ```console
//! $ cargo test --test histories                                      # two seeds over SQLite, one over etcd
//! $ HISTORIES_FIRST=100 HISTORIES_SEEDS=20 cargo test --test histories over_sqlite -- --nocapture   # others, and more
//! $ HISTORIES_SECONDS=600 cargo test --test histories over_etcd      # each of them for longer
//! ```
//!
//! A seed decides what is done to the workers and what each of their contexts tries; not when, for processes and servers
//! run as the machine lets them. So a failing run keeps its files, and says where (others do with `HISTORIES_KEEP=1`).

mod broken;
#[path = "../sim/chance.rs"]
#[expect(dead_code, reason = "used in part")]
mod chance;
mod history;
mod judge;
mod linear;
mod model;
mod record;
mod rules;
mod scene;
#[path = "../support/mod.rs"]
mod support;
mod wire;
mod worker;
mod wrong;

use std::time::Duration;

use fencron::time::Clock;
use judge::{Tally, judge, tally};
use record::{Harm, Object};
use scene::{Fault, Scene, WORKERS};

/// How long a session outlives a process that dies: the shortest that etcd grants.
pub const TTL: Duration = Duration::from_secs(2);

/// The part of another process. Run by itself it has none to play.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn another_process() {
    if let Ok(part) = std::env::var(worker::PART) {
        worker::play(serde_json::from_str(&part).unwrap()).await;
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// The seeds of a test that has `default` of them.
fn seeds(default: u64) -> std::ops::Range<u64> {
    let first = setting("HISTORIES_FIRST", 1);
    first..first + setting("HISTORIES_SEEDS", default)
}

/// Plays rounds of these faults until the time is up, but one of them in any case, and until enough has happened.
async fn play(mut scene: Scene, seed: u64, faults: &[Fault]) {
    let clock = Clock::system();
    let until = clock.boot().plus(Duration::from_secs(setting("HISTORIES_SECONDS", 0)));
    loop {
        scene.play(faults).await;
        if clock.boot() >= until {
            break;
        }
    }
    scene.until(|run| something_happened(&tally(run))).await;
    let run = scene.end().await;
    let (found, tally) = (judge(&run), tally(&run));
    println!("seed {seed}: {:?}, {} hand-overs, {tally:?}", scene.effects, scene.handovers);
    if !found.is_empty() {
        let told: String = found.iter().map(|(rule, told)| format!("\n{rule:?}: {told}")).collect();
        panic!("seed {seed}: broken promises{told}");
    }
    assert!(faults.iter().all(|fault| scene.effects.contains_key(fault)), "{:?}", scene.effects);
    assert!(scene.handovers >= 2, "what a killed or stopped process held went to others");
    assert!(something_happened(&tally), "{tally:?}");
}

/// A judgement over nothing is none.
fn something_happened(tally: &Tally) -> bool {
    let harms = [Harm::AnswerLost, Harm::Lost, Harm::Late, Harm::Repeated];
    Object::ALL.iter().all(|object| tally.grants.get(object).is_some_and(|grants| *grants >= 30))
        // Successors got something too.
        && tally.granted.len() > WORKERS
        && harms.iter().all(|harm| tally.harms.get(harm).is_some_and(|times| *times >= 5))
        && [tally.lost, tally.signals, tally.reentries, tally.strangers, tally.limits, tally.dropped].iter().all(|n| *n > 0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn histories_over_sqlite_are_those_of_the_models() {
    use Fault::{Kill, Revoke, Stop};
    for seed in seeds(2) {
        play(Scene::over_sqlite(seed, None).await, seed, &[Kill, Stop, Revoke, Kill, Revoke]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn histories_over_three_members_of_etcd_are_those_of_the_models() {
    use Fault::{CutOff, Kill, LoseAnswers, Member, Revoke, Stop};
    for seed in seeds(1) {
        play(Scene::over_etcd(seed).await, seed, &[Kill, Stop, Revoke, CutOff, LoseAnswers, Member]).await;
    }
}
