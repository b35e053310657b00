//! Runtimes that do without further threads where the system gives none.

use std::sync::mpsc;
use std::time::Duration;
use std::{io, thread};

use tokio::runtime::{Builder, Runtime};

/// How long a thread for what blocks is kept though nothing blocks: for as long as the runtime lasts.
const KEPT_FOR: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// How many threads for what blocks there may be, all of which are kept: a burst is not to take them from the jobs.
const BLOCKING_MOST: usize = 128;

/// Builds a runtime that has all of its threads from the beginning: `workers` of them, and one for what blocks (looking up
/// a host, writing a file).
///
/// tokio panics where it needs a thread and the system gives none (a limit of processes, a full cgroup). Once a runtime has
/// one thread for what blocks, all else that blocks waits for that one instead. So it is made here, and kept; where the
/// system does not give so many threads, that is an error.
pub(crate) fn runtime(builder: &mut Builder, workers: usize) -> io::Result<Runtime> {
    // One more: a thread that has been joined may count for a moment still.
    are_given(workers + 2)?;
    let runtime = builder.enable_all().max_blocking_threads(BLOCKING_MOST).thread_keep_alive(KEPT_FOR).build()?;
    drop(runtime.spawn_blocking(|| {}));
    Ok(runtime)
}

/// Whether the system gives so many threads at once, now.
fn are_given(count: usize) -> io::Result<()> {
    let (mut holds, mut threads) = (Vec::new(), Vec::new());
    let mut refused = Ok(());
    for _ in 0..count {
        let (hold, held) = mpsc::channel::<()>();
        match thread::Builder::new().spawn(move || held.recv().ok()) {
            Ok(thread) => threads.push(thread),
            Err(error) => {
                refused = Err(error);
                break;
            }
        }
        holds.push(hold);
    }
    drop(holds);
    for thread in threads {
        // It has done nothing that could panic.
        thread.join().ok();
    }
    refused
}
