//! How commands end, and that nothing of them is left.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use fencron::job::{Outcome, StopReason};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::attempt::*;

#[tokio::test]
async fn the_exit_code_or_the_signal_is_the_outcome() {
    assert_eq!(run(shell("exit 0")).await.outcome, Outcome::Exited(0));
    assert_eq!(run(shell("exit 41")).await.outcome, Outcome::Exited(41));
    assert_eq!(run(shell("kill -KILL $$")).await.outcome, Outcome::Signalled(9));
    assert_eq!(run(shell("kill -40 $$")).await.outcome, Outcome::Signalled(40));
}

#[tokio::test]
async fn a_command_that_takes_too_long_is_ended() {
    let mut job = command(["sleep", "3600"]);
    job.timeout = Some(Duration::from_millis(20));
    assert_eq!(run(job).await.outcome, Outcome::TimedOut);
}

#[tokio::test]
async fn a_command_that_heeds_term_is_not_killed_and_why_it_was_stopped_is_the_outcome() {
    let mut attempt =
        begin(&executor(), shell("trap 'echo bye; exit 0' TERM; echo pid $$; while :; do sleep 0.01; done"));
    attempt.pid().await;
    attempt.stopper.stop(StopReason::Shutdown);
    let ended = attempt.end().await;
    assert_eq!(ended.outcome, Outcome::Stopped(StopReason::Shutdown));
    assert!(ended.output.contains("bye\n"), "{}", ended.output);
}

#[tokio::test]
async fn a_group_that_ignores_term_is_killed_to_the_last_grandchild() {
    let mut job = shell("trap '' TERM; (sleep 3600 & echo pid $!; wait) & wait");
    job.kill_after = Duration::from_millis(50);
    let mut attempt = begin(&executor(), job);
    let grandchild = attempt.pid().await;
    attempt.stopper.stop(StopReason::Asked);
    assert_eq!(attempt.end().await.outcome, Outcome::Stopped(StopReason::Asked));
    assert!(matches!(state(grandchild), None | Some('Z')));
}

#[tokio::test]
async fn a_grandchild_that_survives_its_parent_has_until_kill_after() {
    // The leader heeds TERM and ends; the grandchild goes on for a moment, and may.
    let grandchild = "trap 'sleep 0.2; echo last words; exit' TERM; echo pid $$; while :; do sleep 0.01; done";
    let mut attempt = begin(&executor(), shell(&format!("sh -c \"{}\" & wait", grandchild.replace('$', "\\$"))));
    attempt.pid().await;
    attempt.stopper.stop(StopReason::Asked);
    assert!(attempt.end().await.output.contains("last words\n"));
}

#[tokio::test]
async fn what_a_command_leaves_in_the_background_is_ended_with_it() {
    let ended = run(shell("sleep 3600 & echo $!; exit 3")).await;
    assert_eq!(ended.outcome, Outcome::Exited(3));
    assert!(matches!(state(ended.output.trim().parse().unwrap()), None | Some('Z')));

    let mut stubborn = shell("trap '' TERM; sleep 3600 & echo $!; exit 0");
    stubborn.kill_after = Duration::from_millis(50);
    let ended = run(stubborn).await;
    assert_eq!(ended.outcome, Outcome::Exited(0));
    assert!(matches!(state(ended.output.trim().parse().unwrap()), None | Some('Z')));
}

#[tokio::test]
async fn a_stopped_command_takes_along_the_groups_that_it_made_in_its_session() {
    // timeout(1) makes itself a group; the shell traps TERM, and so hears it only when timeout has ended.
    let heeds = "trap 'echo bye' TERM; timeout 3600 sh -c 'echo pid $$; exec sleep 3600'; echo over";
    let mut attempt = begin(&executor(), shell(heeds));
    let stray = attempt.pid().await;
    attempt.stopper.stop(StopReason::Asked);
    let ended = attempt.end().await;
    assert_eq!(ended.outcome, Outcome::Stopped(StopReason::Asked));
    assert!(ended.output.contains("bye\nover\n"), "{}", ended.output);
    assert!(matches!(state(stray), None | Some('Z')));

    let mut ignores =
        shell("timeout 3600 sh -c 'trap \"\" TERM; echo pid $$; while :; do sleep 0.01; done'; echo over");
    ignores.kill_after = Duration::from_millis(50);
    let mut attempt = begin(&executor(), ignores);
    let stray = attempt.pid().await;
    attempt.stopper.stop(StopReason::Asked);
    assert_eq!(attempt.end().await.outcome, Outcome::Stopped(StopReason::Asked));
    assert!(matches!(state(stray), None | Some('Z')));
}

#[tokio::test]
async fn a_daemon_with_a_session_of_its_own_that_holds_the_output_does_not_hold_up_the_end() {
    let daemon = "setsid sh -c 'echo pid $$; echo ready >&2; exec sleep 3600'";
    let until_apart = "while ! ps -o sid= -p $! | grep -qw $!; do sleep 0.01; done";
    let ended = run(shell(&format!("{daemon} & {until_apart}; echo daemon $!"))).await;
    assert_eq!(ended.outcome, Outcome::Exited(0));
    let daemon: i32 = ended.output.lines().find_map(|line| line.strip_prefix("daemon ")).unwrap().parse().unwrap();
    assert!(state(daemon).is_some_and(|state| state != 'Z'), "it is out of reach");
    kill(Pid::from_raw(daemon), Signal::SIGKILL).unwrap();
}

#[tokio::test]
async fn a_stopped_process_hears_term() {
    let mut attempt = begin(&executor(), shell("trap 'echo bye; exit 0' TERM; echo pid $$; kill -STOP $$"));
    let pid = attempt.pid().await;
    comes_true(|| state(pid) == Some('T')).await;
    attempt.stopper.stop(StopReason::Asked);
    assert!(attempt.end().await.output.contains("bye\n"));
}

#[tokio::test]
async fn members_that_are_dead_but_never_reaped_do_not_hold_up_the_end() {
    // Leaves the group, but has a child in it that it does not reap.
    const NAME: &str = "execute::ending::a_parent_that_does_not_reap";
    let program = std::env::current_exe().unwrap();
    let script =
        format!("FENCRON_TEST_APART=1 {} {NAME} --exact --nocapture & read x < \"$FIFO\"; echo $!", program.display());
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut job = shell(&script);
    job.env.insert("FIFO".into(), fencron::job::Text::plain(fifo.to_str().unwrap()));
    let ended = run(job).await;
    assert_eq!(ended.outcome, Outcome::Exited(0));
    let parent: i32 = ended.output.lines().last().unwrap().parse().unwrap();
    kill(Pid::from_raw(parent), Signal::SIGKILL).unwrap();
}

#[test]
fn a_parent_that_does_not_reap() {
    let Some(fifo) = std::env::var_os("FIFO").filter(|_| is_apart()) else { return };
    let (me, group) = (Pid::from_raw(0), nix::unistd::getpgrp());
    let mut child = std::process::Command::new("sleep").arg("3600").spawn().unwrap();
    assert_eq!(nix::unistd::getpgid(Some(Pid::from_raw(child.id().try_into().unwrap()))), Ok(group));
    nix::unistd::setpgid(me, me).unwrap();
    std::fs::write(fifo, "ready\n").unwrap();
    std::thread::sleep(FOREVER);
    child.wait().unwrap();
}

#[tokio::test]
async fn an_attempt_that_is_dropped_is_killed_and_reaped() {
    let mut attempt = begin(&executor(), shell("trap '' TERM; sleep 3600 & echo child $!; echo pid $$; wait"));
    let leader = attempt.pid().await;
    let child: i32 = attempt.line("child ").await.parse().unwrap();
    attempt.ended.abort();
    comes_true(|| state(leader).is_none() && matches!(state(child), None | Some('Z'))).await;
}

#[tokio::test]
async fn no_zombie_is_left() {
    const NAME: &str = "execute::ending::no_zombie_is_left";
    if !is_apart() {
        return assert!(in_a_process_of_its_own(NAME).status().unwrap().success());
    }
    let executor = executor();
    for script in ["exit 0", "kill -KILL $$", "sleep 3600 & exit 1"] {
        begin(&executor, shell(script)).end().await;
    }
    begin(&executor, command(["/nowhere/at-all"])).end().await;
    // Its supervisor ends with it, and is no zombie either.
    drop(executor);
    let me = std::process::id();
    let children = || std::fs::read_dir("/proc/self/task").unwrap().flatten().map(|task| task.path().join("children"));
    comes_true(|| children().all(|list| std::fs::read_to_string(list).unwrap_or_default().is_empty())).await;
    assert!(std::path::Path::new(&format!("/proc/{me}/task/{me}/children")).exists(), "the kernel lists children");
}

#[test]
fn a_command_dies_with_a_node_that_is_killed() {
    const NAME: &str = "execute::ending::a_command_dies_with_a_node_that_is_killed";
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    if is_apart() {
        return runtime.block_on(async {
            let mut attempt = begin(&executor(), shell("echo pid $$; exec sleep 3600"));
            println!("\npid {}", attempt.pid().await);
            attempt.end().await;
        });
    }
    let mut node = in_a_process_of_its_own(NAME).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(node.stdout.take().unwrap()).lines();
    let pid = lines.map_while(Result::ok).find_map(|line| line.strip_prefix("pid ")?.parse().ok()).unwrap();
    assert!(state(pid).is_some_and(|state| state != 'Z'));
    node.kill().unwrap();
    node.wait().unwrap();
    runtime.block_on(comes_true(|| matches!(state(pid), None | Some('Z'))));
}

#[test]
fn a_command_outlives_the_thread_that_asked_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lock");
    let lock = std::fs::File::create(&path).unwrap();
    lock.lock().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let job = command(["flock", path.to_str().unwrap(), "echo", "survived"]);
    let handle = runtime.handle().clone();
    // The executor is made, and the attempt begun, by a thread that is gone before the command ends.
    let attempt = std::thread::spawn(move || {
        handle.block_on(async {
            let mut attempt = begin(&executor_of(1), job);
            soon(&mut attempt.started).await.unwrap();
            attempt
        })
    });
    let attempt = attempt.join().unwrap();
    lock.unlock().unwrap();
    assert_eq!(runtime.block_on(attempt.end()).output, "survived\n");
}
