//! Runtimes that work without further threads when the system gives none.

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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::{Arc, Barrier};

    use super::*;

    /// Threads of this process by that name, which is of this test alone.
    fn threads_named(name: &str) -> usize {
        let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
        let names = tasks.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
        names.filter(|found| found.trim_end() == name).count()
    }

    /// So many as there may be block at once, and what comes beyond them waits for one of them.
    #[test]
    fn a_burst_of_what_blocks_takes_no_more_threads_than_it_may() {
        let runtime = runtime(Builder::new_current_thread().thread_name("burst"), 0).unwrap();
        let (all_block, end) = (Arc::new(Barrier::new(BLOCKING_MOST + 1)), Arc::new(Barrier::new(BLOCKING_MOST + 1)));
        let block = |_| {
            let (all_block, end) = (Arc::clone(&all_block), Arc::clone(&end));
            runtime.spawn_blocking(move || {
                all_block.wait();
                end.wait();
            })
        };
        let blocked: Vec<_> = (0..BLOCKING_MOST).map(block).collect();
        // A thread is begun where something is to be done, or not at all.
        let more: Vec<_> = (0..4 * BLOCKING_MOST).map(|_| runtime.spawn_blocking(|| {})).collect();
        all_block.wait();
        let threads = threads_named("burst");
        end.wait();
        runtime.block_on(async {
            for ended in blocked.into_iter().chain(more) {
                ended.await.unwrap();
            }
        });
        assert_eq!(threads, BLOCKING_MOST);
    }
}
