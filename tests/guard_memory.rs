//! What a guard needs in memory. Alone in its process, so that what is measured is only this.

#![cfg(target_os = "linux")]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use fencron::fence::Fence;
use fencron::guard::{Answer, Digest, Guard, Options, Request, Verdict};
use fencron::time::{Clock, Wall};

/// A key with an answer of a hundred bytes takes at most this, as docs/guard.md says.
const BYTES_A_KEY: usize = 1000;

const KEYS: i64 = 1_000_000;
const LIVE: u64 = 100_000;

/// What Linux says that this process has in memory, in bytes.
fn memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

/// Keys come and expire, each a millisecond after the one before.
#[tokio::test]
async fn a_million_keys_in_turn_need_the_memory_of_those_that_live() {
    let now = Arc::new(AtomicI64::new(0));
    let (read, system) = (now.clone(), Clock::system());
    let clock = Clock::from_fn(move || (system.boot(), Wall::from_millis(read.load(Ordering::Relaxed))));
    let options = Options { keep: Duration::from_millis(LIVE), keys_most: LIVE + 100, ..Options::default() };
    let guard = Guard::in_memory(options, clock);
    let before = memory();
    let digest = Digest::of([]);
    for nth in 0..KEYS {
        now.store(nth, Ordering::Relaxed);
        let key = format!("nightly-report@{nth:020}");
        let asked = Request::new("shop/leader", Fence::new(7).unwrap(), Some(&key), digest).unwrap();
        match guard.ask(asked).await {
            Verdict::Admitted(ticket) => ticket.done(Answer::new(200, vec![b'x'; 100])).await,
            other => panic!("{key}: {other:?}"),
        }
    }
    let needed = memory() - before;
    let most = usize::try_from(LIVE).unwrap() * BYTES_A_KEY;
    assert!(needed < most, "{needed} bytes for {LIVE} live keys of {KEYS}; at most {most}");
    println!("{needed} bytes for {LIVE} live keys of {KEYS}");
}
