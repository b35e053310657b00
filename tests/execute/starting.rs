//! What a command is given, and what is said when it cannot be started.

use std::os::fd::AsRawFd;

use fencron::execute::MayStart;
use fencron::job::{Outcome, StopReason, Task, Text};

use super::attempt::*;

async fn reason(job: fencron::job::Job) -> String {
    let ended = run(job).await;
    assert_eq!(ended.started_at, None);
    match ended.outcome {
        Outcome::NotStarted(reason) => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_stamp_wins_over_the_job_and_the_job_over_what_is_inherited() {
    const NAME: &str = "execute::starting::the_stamp_wins_over_the_job_and_the_job_over_what_is_inherited";
    if !is_apart() {
        let inherited = [("TRACEPARENT", "x"), ("REGION", "us"), ("INHERITED", "yes")];
        let status = in_a_process_of_its_own(NAME).envs(inherited).status().unwrap();
        return assert!(status.success());
    }
    let mut job = command(["env"]);
    for (name, value) in [("REGION", "eu"), ("FENCRON_ATTEMPT", "9"), ("OWN", "a=b c")] {
        job.env.insert(name.into(), Text::secret(value));
    }
    let output = run(job).await.output;
    let get = |name: &str| output.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    let expected = [
        ("FENCRON_FENCE", "7"),
        ("FENCRON_SCOPE", "shop/leader"),
        ("FENCRON_NAMESPACE", "shop"),
        ("FENCRON_JOB", "report"),
        ("FENCRON_RUN_ID", "report@2026-11-21T02:00:00Z"),
        ("FENCRON_SCHEDULED_AT", "2026-11-21T02:00:00Z"),
        ("FENCRON_ATTEMPT", "2"),
        ("FENCRON_NODE", "a"),
        ("FENCRON_PARAM_REGION", "eu"),
        ("REGION", "eu"),
        ("OWN", "a=b c"),
        ("INHERITED", "yes"),
    ];
    for (name, value) in expected {
        assert_eq!(get(name), Some(value), "{name}");
    }
    assert_eq!(get("TRACEPARENT"), Some(stamp().traceparent().as_str()));
}

#[tokio::test]
async fn a_command_does_not_inherit_the_settings_of_the_node() {
    const NAME: &str = "execute::starting::a_command_does_not_inherit_the_settings_of_the_node";
    if !is_apart() {
        let node = [("FENCRON_STORE", "etcd://me:hunter2@host"), ("FENCRON_ETCD_PASSWORD", "hunter2")];
        let outer = [("FENCRON_FENCE", "1"), ("FENCRON_LISTEN", "127.0.0.1:1")];
        return assert!(in_a_process_of_its_own(NAME).envs(node).envs(outer).status().unwrap().success());
    }
    let output = run(command(["env"])).await.output;
    assert!(!output.contains("hunter2") && !output.contains("FENCRON_LISTEN"), "{output}");
    assert!(output.contains("FENCRON_FENCE=7\n") && !output.contains("FENCRON_FENCE=1\n"), "{output}");
}

#[tokio::test]
async fn a_command_starts_in_its_directory_and_relative_paths_are_seen_from_there() {
    let dir = tempfile::tempdir().unwrap();
    script(&dir.path().join("here.sh"), "#!/bin/sh\npwd -P\n");
    let mut job = command(["./here.sh"]);
    job.dir = Some(Text::plain(dir.path().to_str().unwrap()));
    let ended = run(job).await;
    assert_eq!(ended.outcome, Outcome::Exited(0));
    assert_eq!(ended.output.trim_end(), dir.path().canonicalize().unwrap().to_str().unwrap());
}

#[tokio::test]
async fn a_command_is_looked_up_in_the_path_it_is_given() {
    let dir = tempfile::tempdir().unwrap();
    script(&dir.path().join("only-here"), "#!/bin/sh\necho found\n");
    let mut job = command(["only-here"]);
    job.env.insert("PATH".into(), Text::plain(format!("/nowhere:{}", dir.path().display())));
    assert_eq!(run(job).await.output, "found\n");
}

#[tokio::test]
async fn a_command_reads_nothing_from_stdin() {
    let ended = run(command(["cat"])).await;
    assert_eq!((ended.outcome, ended.output_bytes), (Outcome::Exited(0), 0));
}

#[tokio::test]
async fn a_command_leads_its_own_session_and_group() {
    let ended = run(shell("echo $$ $(ps -o pgid=,sid= -p $$)")).await;
    let numbers: Vec<_> = ended.output.split_whitespace().collect();
    assert_eq!(numbers, [numbers[0]; 3]);
}

#[tokio::test]
async fn a_command_gets_default_signals_and_no_descriptors_of_the_node() {
    let leaked = std::fs::File::open("/dev/null").unwrap();
    nix::fcntl::fcntl(&leaked, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    let _handler = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::user_defined1()).unwrap();
    let output = run(shell("cat /proc/self/status; echo fds; exec ls /proc/self/fd")).await.output;
    let (status, fds) = output.split_once("fds\n").unwrap();
    let mask = |name| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        u64::from_str_radix(line.trim_start_matches(':').trim(), 16).unwrap()
    };
    assert_eq!(mask("SigBlk"), 0);
    assert_eq!(mask("SigIgn") & 1 << (nix::libc::SIGPIPE - 1), 0, "a Rust program ignores SIGPIPE, a command does not");
    assert_eq!(fds, "0\n1\n2\n3\n", "3 is what ls lists; {} was leaked", leaked.as_raw_fd());
}

#[tokio::test]
async fn what_cannot_be_started_is_named_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    script(&dir.path().join("no-first-line"), "echo hello\n");
    script(&dir.path().join("no-interpreter"), "#!/nowhere/perl\n");
    std::fs::write(dir.path().join("plain"), "#!/bin/sh\n").unwrap();
    let long = "x".repeat(4 << 20);
    let mut elsewhere = command(["true"]);
    elsewhere.dir = Some(Text::plain("/nowhere"));
    let cases = [
        (command(["no-such-program"]), vec!["`no-such-program`", "No such file", "PATH: install it"]),
        (command(["/nowhere/x"]), vec!["`/nowhere/x`", "No such file", "is the path right"]),
        (command([&path("no-interpreter")]), vec!["no-interpreter`", "does the interpreter"]),
        (command([&path("plain")]), vec!["plain`", "Permission denied", "chmod +x"]),
        (command([&path("no-first-line")]), vec!["no-first-line`", "#!/bin/sh"]),
        (command(["true", &long]), vec!["`true`", "rgument list too long", "in a file"]),
        (command(["true", "a\0b"]), vec!["an argument", "NUL"]),
        (elsewhere, vec!["`/nowhere`", "No such file", "correct `dir`"]),
    ];
    for (job, parts) in cases {
        let reason = reason(job).await;
        for part in parts {
            assert!(reason.contains(part), "{reason:?} does not say {part:?}");
        }
    }
}

#[tokio::test]
async fn what_came_from_a_secret_is_not_shown() {
    let mut job = command([]);
    job.task = Task::Command(vec![Text::secret("/hunter2")]);
    let reason = self::reason(job).await;
    assert!(reason.contains("`***`") && !reason.contains("hunter2"), "{reason}");
    let mut job = command(["true"]);
    job.dir = Some(Text::secret("/nowhere/hunter2"));
    assert!(!format!("{job:?}").contains("hunter2"), "{job:?}");
    let reason = self::reason(job).await;
    assert!(reason.contains("the directory `***`") && !reason.contains("hunter2"), "{reason}");
}

#[tokio::test]
async fn nothing_starts_when_the_node_may_not_act() {
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("started");
    let job = command(["touch", trace.to_str().unwrap()]);
    let attempt = begin_if(&executor(), job, MayStart::new(|| false));
    let ended = attempt.end().await;
    assert_eq!(ended.outcome, Outcome::Stopped(StopReason::LostLeadership));
    assert_eq!(ended.started_at, None);
    assert!(!trace.exists());
}

#[tokio::test]
async fn nothing_starts_that_is_stopped_while_it_waits() {
    let executor = executor_of(1);
    let mut first = begin(&executor, shell("echo pid $$; exec sleep 3600"));
    first.pid().await;
    let second = begin(&executor, command(["true"]));
    second.stopper.stop(StopReason::Replaced);
    second.stopper.stop(StopReason::Shutdown);
    let ended = second.end().await;
    assert_eq!((ended.outcome, ended.started_at), (Outcome::Stopped(StopReason::Replaced), None));
    first.stopper.stop(StopReason::Asked);
    first.end().await;
}

#[tokio::test]
async fn nothing_starts_whose_attempt_was_dropped_while_it_waited() {
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("started");
    let executor = executor();
    let (asked, asks) = std::sync::mpsc::channel();
    let (go, gone) = std::sync::mpsc::channel();
    let gone = std::sync::Mutex::new(gone);
    let blocking = MayStart::new(move || {
        asked.send(()).unwrap();
        gone.lock().unwrap().recv().is_ok()
    });
    let first = begin_if(&executor, command(["true"]), blocking);
    soon(tokio::task::spawn_blocking(move || asks.recv().unwrap())).await.unwrap();
    let second = begin(&executor, command(["touch", trace.to_str().unwrap()]));
    // Its order is given when its task is first polled, and waits behind the first.
    tokio::task::yield_now().await;
    second.ended.abort();
    assert!(second.ended.await.unwrap_err().is_cancelled());
    go.send(()).unwrap();
    assert_eq!(first.end().await.outcome, Outcome::Exited(0));
    assert_eq!(begin(&executor, command(["true"])).end().await.outcome, Outcome::Exited(0), "the queue has moved on");
    assert!(!trace.exists());
}

#[tokio::test]
async fn the_start_is_reported_while_the_command_runs() {
    let mut attempt = begin(&executor(), shell("echo pid $$; exec sleep 3600"));
    let at = soon(&mut attempt.started).await.unwrap();
    attempt.stopper.stop(StopReason::Asked);
    let ended = attempt.end().await;
    assert_eq!(ended.started_at, Some(at));
    assert!(at <= ended.finished_at);
}
