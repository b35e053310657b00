//! Many commands at once.

use fencron::execute::{MayStart, NotRun, Stop, Wrapped};
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

/// Lowers a limit of this process, and returns what takes it back.
fn lower(resource: nix::sys::resource::Resource, to: u64) -> impl Fn() {
    let (soft, hard) = nix::sys::resource::getrlimit(resource).unwrap();
    nix::sys::resource::setrlimit(resource, to, hard).unwrap();
    move || nix::sys::resource::setrlimit(resource, soft, hard).unwrap()
}

/// This test alone, and as a user whom the limit of processes binds.
fn apart_as_nobody(name: &str) -> std::process::Command {
    let apart = in_a_process_of_its_own(name);
    let mut as_nobody = std::process::Command::new("setpriv");
    as_nobody.args(["--reuid=61234", "--regid=61234", "--clear-groups", "--"]);
    as_nobody.arg(apart.get_program()).args(apart.get_args()).env("FENCRON_TEST_APART", "1");
    as_nobody
}

/// Lets the attempts try: the first try of each is made when its task is first polled, and answered by a thread.
async fn tried(tries: &std::sync::atomic::AtomicUsize, times: usize) {
    comes_true(|| tries.load(std::sync::atomic::Ordering::SeqCst) >= times).await;
}

#[tokio::test]
async fn what_there_is_no_process_for_is_started_when_there_is() {
    const NAME: &str = "execute::limits::what_there_is_no_process_for_is_started_when_there_is";
    if !is_apart() {
        return assert!(apart_as_nobody(NAME).status().unwrap().success());
    }
    let executor = executor();
    let give_back = lower(nix::sys::resource::Resource::RLIMIT_NPROC, 1);
    let tries = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = std::sync::Arc::clone(&tries);
    let count = move || counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst) < usize::MAX;
    let mut attempts: Vec<_> =
        (0..20).map(|_| begin_if(&executor, command(["true"]), MayStart::new(count.clone()))).collect();
    // Of each more than one try, on the average: none has given up.
    tried(&tries, 60).await;
    assert!(attempts.iter_mut().all(|attempt| !attempt.ended.is_finished()));
    let stopped = attempts.pop().unwrap();
    stopped.stopper.stop(StopReason::Asked);
    assert_eq!(stopped.end().await.outcome, Outcome::Stopped(StopReason::Asked));

    let mut short = command(["true"]);
    short.timeout = Some(std::time::Duration::from_millis(100));
    let ended = begin(&executor, short).end().await;
    let Outcome::NotStarted(why) = &ended.outcome else { panic!("{ended:?}") };
    assert!(
        why.contains("tried again for 100ms; nothing of it was begun") && why.contains("limit of processes"),
        "{why}"
    );
    assert_eq!(ended.started_at, None);

    give_back();
    for attempt in attempts {
        assert_eq!(attempt.end().await.outcome, Outcome::Exited(0));
    }
}

#[tokio::test]
async fn what_there_is_no_open_file_for_is_started_when_there_is() {
    const NAME: &str = "execute::limits::what_there_is_no_open_file_for_is_started_when_there_is";
    if !is_apart() {
        return assert!(in_a_process_of_its_own(NAME).status().unwrap().success());
    }
    let executor = executor();
    let next = std::os::fd::AsRawFd::as_raw_fd(&std::fs::File::open("/dev/null").unwrap());
    // From none at all to one that is too few.
    for room in 0..5 {
        let give_back = lower(nix::sys::resource::Resource::RLIMIT_NOFILE, u64::try_from(next).unwrap() + room);
        let attempts: Vec<_> = (0..5).map(|_| begin(&executor, command(["true"]))).collect();
        let mut short = command(["true"]);
        short.timeout = Some(std::time::Duration::from_millis(50));
        let ended = begin(&executor, short).end().await;
        let Outcome::NotStarted(why) = &ended.outcome else { panic!("{ended:?} with {room}") };
        assert!(why.contains("limit of open files") && why.contains("nothing of it was begun"), "{why}");
        assert!(attempts.iter().all(|attempt| !attempt.ended.is_finished()), "none has given up with {room}");
        give_back();
        for attempt in attempts {
            assert_eq!(attempt.end().await.outcome, Outcome::Exited(0));
        }
    }
}

#[tokio::test]
async fn a_stop_ends_the_tries_of_a_wrapped_command() {
    const NAME: &str = "execute::limits::a_stop_ends_the_tries_of_a_wrapped_command";
    if !is_apart() {
        return assert!(apart_as_nobody(NAME).status().unwrap().success());
    }
    let executor = executor();
    let _limited = lower(nix::sys::resource::Resource::RLIMIT_NPROC, 1);
    let tries = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = std::sync::Arc::clone(&tries);
    let may_start = MayStart::new(move || counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst) < usize::MAX);
    let (stopper, stop) = Stop::channel();
    let kill_after = std::time::Duration::from_secs(1);
    let (argv, env, without, keeps_session) = (vec!["true".into()], Vec::new(), Vec::new(), false);
    let wrapped = Wrapped { argv, env, without, kill_after, keeps_session, may_start, stop };
    let starting = tokio::spawn(async move { executor.wrap(wrapped).await.map(drop) });
    tried(&tries, 2).await;
    stopper.stop(StopReason::Asked);
    let ended = soon(starting).await.unwrap();
    assert!(matches!(ended, Err(NotRun::Stopped(StopReason::Asked))), "{ended:?}");
}
