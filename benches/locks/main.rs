//! What locks cost: beside `etcdctl lock`, beside etcd's own recipe for locks, and beside plain transactions, on the same
//! server or disk and by turns; and what a store in PostgreSQL costs.
//!
//! `cargo bench --bench locks -- [uncontended] [handover] [crowd] [names] [postgres]`; all of them when none is named. It
//! starts an etcd and a PostgreSQL of its own. `FENCRON_BENCH_RECIPE` names the program of `benches/locks/recipe`, built
//! (`go build`): where it is set, etcd's own recipe in Go is measured by turns with ours. `FENCRON_BENCH_CALLS` is how many
//! locks `uncontended` takes, how often `handover` hands over, and how much `postgres` does of each (default: 500),
//! `FENCRON_BENCH_NAMES` how many names `names` uses once (default: 100,000).

use std::future::Future;
use std::time::Duration;

use fencron::fence::Fence;
use fencron::lock::{
    Config, Driver, FencedLock, LockContext, LockName, Locks, Namespace, Presence, Seen, Session, Timing,
};
use fencron::store::{Keys, Store};
use fencron::time::{Boot, Clock};
use tokio::task::JoinHandle;

mod crowd;
#[path = "../cluster/figures.rs"]
mod figures;
mod handover;
mod names;
mod postgres;
mod recipe;
#[path = "../../tests/support/mod.rs"]
mod support;
mod uncontended;

use figures::Figures;

const PARTS: [&str; 5] = ["uncontended", "handover", "crowd", "names", "postgres"];

fn main() {
    let asked: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    if let Some(unknown) = asked.iter().find(|part| !PARTS.contains(&part.as_str())) {
        panic!("`{unknown}` is not measured here: choose among {PARTS:?}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let mut figures = Figures::default();
    for part in PARTS.into_iter().filter(|part| asked.is_empty() || asked.iter().any(|named| named == part)) {
        eprintln!("measuring: {part}");
        match part {
            "uncontended" => runtime.block_on(uncontended::measure(&mut figures)),
            "handover" => runtime.block_on(handover::measure(&mut figures)),
            "crowd" => runtime.block_on(crowd::measure(&mut figures)),
            "names" => runtime.block_on(names::measure(&mut figures)),
            _ => runtime.block_on(postgres::measure(&mut figures)),
        }
    }
    println!("{figures}");
    if figures.missed() > 0 {
        std::process::exit(1);
    }
}

/// A whole number from the environment.
fn number(variable: &str, unless_told: usize) -> usize {
    std::env::var(variable).map_or(unless_told, |text| text.parse().expect("a whole number"))
}

fn calls() -> usize {
    number("FENCRON_BENCH_CALLS", 500)
}

/// How many calls of one kind are made before the next kind has its turn.
const TURN: usize = 20;

/// The median of ours, in medians of theirs.
fn ratio(ours: &figures::Spread, theirs: &figures::Spread) -> f64 {
    ours.percent(50).as_secs_f64() / theirs.percent(50).as_secs_f64()
}

async fn node<S: Store>(store: &S) -> (Locks<S>, Session<S>) {
    let locks = Locks::new(store.clone(), Clock::system(), Namespace::new("bench").unwrap(), Seen::default());
    let presence = Presence { node: "a".into(), record: Vec::new() };
    let timing = Timing::from_ttl(Duration::from_secs(30)).unwrap();
    let session = Box::pin(locks.open_session(presence, timing, Driver::Thread)).await.unwrap();
    (locks, session)
}

fn door<S: Store>(locks: &Locks<S>, name: &str) -> FencedLock<S> {
    locks.fenced(LockName::new(name).unwrap(), Config::default())
}

async fn timed(call: impl Future) -> Duration {
    let clock = Clock::system();
    let begun = clock.boot();
    call.await;
    clock.boot().since(begun)
}

/// A call for a lock in the background, which tells when it was granted.
type Waiting = JoinHandle<(LockContext, Fence, Boot)>;

fn wait_for<S: Store>(lock: &FencedLock<S>, mut context: LockContext) -> Waiting {
    let lock = lock.clone();
    tokio::spawn(async move {
        let fence = lock.lock_and_get_fence(&mut context).await.unwrap();
        (context, fence, Clock::system().boot())
    })
}

/// Returns when so many wait.
async fn until_they_wait(store: &impl Store, many: usize) {
    support::until("all wait", async || {
        let (entries, _) = store.range_all(Keys::prefix("/fencron/v1/bench/lock/")).await.unwrap();
        (entries.iter().filter(|entry| entry.key.contains("/wait/")).count() == many).then_some(())
    })
    .await;
}
