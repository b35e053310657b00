//! Names that are used once: what is left of them in the store, and how long they take.

use fencron::lock::{Config, LockName};
use fencron::store::memory::MemoryStore;
use fencron::store::sqlite::SqliteStore;
use fencron::store::{Keys, Store};
use fencron::time::Clock;

use crate::figures::Figures;
use crate::{node, number};

/// The base, the mark and the lineage of the store, and the places where calls are settled.
const MAY_STAY: usize = 3 + 256;

pub async fn measure(figures: &mut Figures) {
    let names = number("FENCRON_BENCH_NAMES", 100_000);
    let memory = MemoryStore::new(Clock::system());
    on_store(figures, "memory", &memory, names).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("state.db");
    let sqlite = SqliteStore::open(&file, Clock::system()).await.unwrap();
    // The history that the store keeps is full after these.
    on_store(figures, "SQLite", &sqlite, names.min(10_000)).await;
    let before = std::fs::metadata(&file).unwrap().len();
    on_store(figures, "SQLite", &sqlite, names).await;
    let after = std::fs::metadata(&file).unwrap().len();
    let grown = format!("{} kB, from {} kB", after / 1000, before / 1000);
    figures.judge("the file of the last", grown, "no more than half as much again", after <= before * 3 / 2);
}

async fn on_store<S: Store>(figures: &mut Figures, what: &str, store: &S, names: usize) {
    let (locks, session) = node(store).await;
    let mut context = session.context();
    let clock = Clock::system();
    let begun = clock.boot();
    for number in 0..names {
        let lock = locks.fenced(LockName::new(&format!("orders/{number}")).unwrap(), Config::default());
        lock.lock(&mut context).await.unwrap();
        lock.unlock(&mut context).await.unwrap();
    }
    let took = clock.boot().since(begun).as_secs_f64();
    session.close().await.unwrap();
    let (left, _) = store.range_all(Keys::prefix("/fencron/v1/bench/")).await.unwrap();
    let of_locks = left.iter().filter(|entry| entry.key.contains("/lock/")).count();
    let text = format!("{} keys, {of_locks} of them of locks; {:.0} a second", left.len(), names as f64 / took);
    let met = of_locks == 0 && left.len() <= MAY_STAY;
    figures.judge(format!("left of {names} names used once, {what}"), text, "at most 259 keys", met);
}
