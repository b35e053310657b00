//! Many commands at once.

use fencron::execute::MayStart;
use fencron::job::{Outcome, StopReason};

use super::attempt::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_run_at_once_and_none_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lock");
    let lock = std::fs::File::create(&path).unwrap();
    lock.lock().unwrap();
    let executor = executor();
    let script = format!("echo pid $$; exec flock --shared {} true", path.display());
    let mut attempts: Vec<_> = (0..300).map(|_| begin(&executor, shell(&script))).collect();
    let mut pids = Vec::new();
    for attempt in &mut attempts {
        pids.push(attempt.pid().await);
    }
    assert!(pids.iter().all(|pid| state(*pid).is_some_and(|state| state != 'Z')), "all run at the same time");
    lock.unlock().unwrap();
    for attempt in attempts {
        assert_eq!(attempt.end().await.outcome, Outcome::Exited(0));
    }
    assert!(pids.iter().all(|pid| state(*pid).is_none()), "all are reaped");
}

#[tokio::test]
async fn no_more_run_at_once_than_are_allowed_and_the_others_wait_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let executor = executor_of(1);
    let mut attempts = Vec::new();
    for number in 0..10 {
        let script = format!("echo begin {number} >> {0}; sleep 0.01; echo end {number} >> {0}", log.display());
        attempts.push(begin(&executor, shell(&script)));
        // The attempt asks for its place when its task is first polled.
        tokio::task::yield_now().await;
    }
    for attempt in attempts {
        attempt.end().await;
    }
    let expected: String = (0..10).map(|number| format!("begin {number}\nend {number}\n")).collect();
    assert_eq!(std::fs::read_to_string(log).unwrap(), expected);
}

#[tokio::test]
async fn a_command_ends_while_the_start_of_another_is_held_up() {
    let executor = executor();
    let mut first = begin(&executor, shell("echo pid $$; exec sleep 3600"));
    first.pid().await;
    let (asked, asks) = std::sync::mpsc::channel();
    let (go, gone) = std::sync::mpsc::channel::<()>();
    let gone = std::sync::Mutex::new(gone);
    let held_up = MayStart::new(move || {
        asked.send(()).unwrap();
        gone.lock().unwrap().recv().is_ok()
    });
    let second = begin_if(&executor, command(["true"]), held_up);
    soon(tokio::task::spawn_blocking(move || asks.recv().unwrap())).await.unwrap();
    first.stopper.stop(StopReason::Asked);
    assert_eq!(first.end().await.outcome, Outcome::Stopped(StopReason::Asked));
    go.send(()).unwrap();
    assert_eq!(second.end().await.outcome, Outcome::Exited(0));
}

#[tokio::test]
async fn the_node_may_open_more_files_than_it_was_started_with_and_a_command_may_not() {
    const NAME: &str = "execute::limits::the_node_may_open_more_files_than_it_was_started_with_and_a_command_may_not";
    if !is_apart() {
        let apart = in_a_process_of_its_own(NAME);
        let mut limited = std::process::Command::new("/bin/sh");
        limited.args(["-c", "ulimit -S -n 100; exec \"$0\" \"$@\""]).arg(apart.get_program()).args(apart.get_args());
        return assert!(limited.env("FENCRON_TEST_APART", "1").status().unwrap().success());
    }
    let executor = executor();
    let mut sleepers: Vec<_> = (0..60).map(|_| begin(&executor, command(["sleep", "3600"]))).collect();
    for sleeper in &mut sleepers {
        soon(&mut sleeper.started).await.unwrap();
    }
    assert_eq!(begin(&executor, shell("ulimit -S -n")).end().await.output, "100\n");
    for sleeper in sleepers {
        sleeper.stopper.stop(StopReason::Asked);
        sleeper.end().await;
    }
}
