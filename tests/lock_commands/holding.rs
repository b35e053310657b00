//! Waiting, holding, and what the command is given.

use std::fs::File;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::scene::{ALONE, Process, Scene};
use crate::support::over_both;

/// As long as the file is there, it goes on.
const WHILE: &str = "while [ -e go ]; do sleep 0.02; done";

async fn one_at_a_time_under_growing_fences(scene: Scene) {
    let script = format!("{ALONE} sleep 0.1; exit 7");
    let all: Vec<Process> = (0..5).map(|_| scene.start(&["lock", "deploy", "--", "sh", "-c", &script])).collect();
    for process in all {
        process.end().await.ends(7, &[]);
    }
    assert_eq!(scene.fences().len(), 5);
    assert_eq!(scene.listed("deploy"), None, "nothing of it is left");
}

async fn who_may_not_wait_is_told_who_holds_it(scene: Scene) {
    scene.write("go", "");
    let script = format!("{ALONE} {WHILE}");
    let first = scene.start(&["lock", "deploy", "--node", "first", "--", "sh", "-c", &script]);
    let fence = &scene.wait_for_lines("begun", 1).await[0];
    let held = format!("deploy is held by first (fence {fence}) since 2");
    scene.run(&["lock", "deploy", "--try", "--", "touch", "never"]).ends(3, &["could not be had at once", &held]);
    let clock = fencron::time::Clock::system();
    let asked_at = clock.boot();
    scene
        .run(&["lock", "deploy", "--wait", "1500ms", "--", "touch", "never"])
        .ends(3, &["waiting: deploy is held by first", "could not be had within 1s 500ms", &held]);
    assert!(clock.boot().since(asked_at) >= Duration::from_millis(1_500));
    scene.run(&["elect", "deploy", "--try", "--", "touch", "never"]).ends(3, &[&held]);
    assert!(!scene.path("never").exists());
    let listed = scene.wait_for_waiting("deploy", 0).await;
    assert_eq!(listed["holder"], "first", "{listed}");

    let waiting = scene.start(&["lock", "deploy", "-v", "--wait", "1m", "--", "true"]);
    waiting.wait_for("next is this one").await;
    let listed = scene.wait_for_waiting("deploy", 1).await;
    assert_eq!(listed["kind"], "lock");
    assert_eq!(listed["fence"].to_string(), *fence);
    assert!(listed["since"].is_string() && listed["session"].is_string(), "{listed}");
    std::fs::remove_file(scene.path("go")).unwrap();
    waiting.end().await.ends(0, &["deploy acquired under fence", "deploy released after"]);
    first.end().await.ends(0, &[]);
}

async fn a_cancelled_wait_leaves_the_queue(scene: Scene) {
    scene.write("go", "");
    let script = format!("{ALONE} {WHILE}");
    let first = scene.start(&["lock", "deploy", "--", "sh", "-c", &script]);
    scene.wait_for_lines("begun", 1).await;
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143), (Signal::SIGHUP, 129)] {
        let waiting = scene.start(&["lock", "deploy", "--", "touch", "never"]);
        scene.wait_for_waiting("deploy", 1).await;
        waiting.signal(signal);
        waiting.end().await.ends(code, &[]);
        scene.wait_for_waiting("deploy", 0).await;
    }
    std::fs::remove_file(scene.path("go")).unwrap();
    first.end().await.ends(0, &[]);
    assert!(!scene.path("never").exists());
}

async fn no_more_than_the_permits_at_once(scene: Scene) {
    // Each has a file while it runs, and counts them.
    let script = "touch in.$$; ls in.* | wc -l >> counts; sleep 0.3; rm in.$$; echo x >> ended";
    let args = ["semaphore", "exports", "--permits", "2", "--", "sh", "-c", script];
    let all: Vec<Process> = (0..5).map(|_| scene.start(&args)).collect();
    for process in all {
        process.end().await.ends(0, &[]);
    }
    let counts: Vec<usize> = scene.lines("counts").iter().map(|count| count.trim().parse().unwrap()).collect();
    assert_eq!(scene.lines("ended").len(), 5);
    assert!(counts.iter().all(|count| *count <= 2) && counts.contains(&2), "{counts:?}");
}

over_both!(
    one_at_a_time_under_growing_fences,
    who_may_not_wait_is_told_who_holds_it,
    a_cancelled_wait_leaves_the_queue,
    no_more_than_the_permits_at_once,
);

#[tokio::test]
async fn the_number_of_permits_is_that_of_the_store() {
    let scene = Scene::over_sqlite();
    let semaphore = |options: &[&str]| scene.run(&[&["semaphore", "s", "--permits", "3"], options].concat());
    scene.run(&["semaphore", "s", "--permits", "2", "--", "true"]).ends(0, &[]);
    semaphore(&["--", "true"]).ends(0, &["s has 2 permits, not 3", "--set-permits"]);
    semaphore(&["--take", "3", "--", "true"]).ends(2, &["which has 2"]);
    semaphore(&["--set-permits"]).ends(0, &["s has 3 permits now"]);
    let taken = semaphore(&["--take", "3", "--", "true"]);
    taken.ends(0, &[]);
    assert_eq!(taken.stderr, "");
}

#[tokio::test]
async fn permits_pass_on_the_fence_of_the_lock_around_them_and_have_none() {
    let scene = Scene::over_sqlite();
    let shown = "echo ${FENCRON_LOCK-no} ${FENCRON_SEMAPHORE-no} ${FENCRON_SCOPE-no}; echo ${FENCRON_FENCE-none}";
    let inner = ["semaphore", "s", "--permits", "1", "--", "sh", "-c", shown];
    let alone = scene.run(&inner);
    assert_eq!(alone.stdout, "no s no\nnone\n", "{}", alone.stderr);
    let fencron = env!("CARGO_BIN_EXE_fencron");
    let around = scene.run(&[&["lock", "l", "--", fencron], &inner[..]].concat());
    assert!(around.stdout.starts_with("l s shop/lock/l\n") && !around.stdout.contains("none"), "{around:?}");
}

#[tokio::test]
async fn an_inner_lock_gives_its_own_fence_in_the_same_store() {
    let scene = Scene::over_sqlite();
    let fencron = env!("CARGO_BIN_EXE_fencron");
    let shown = "echo $FENCRON_SCOPE $FENCRON_FENCE $FENCRON_LOCK $FENCRON_NODE";
    let both = format!("{shown}; exec {fencron} lock inner/1 --node b -- sh -c '{shown}'");
    // The store is named by an argument, and all the same found by the inner one.
    let mut command = scene.command(&["--store", &scene.store_url(), "lock", "outer", "--node", "a"]);
    command.args(["--", "sh", "-c", &both]).env_remove("FENCRON_STORE").env("KEPT", "as it is");
    let ran = crate::scene::Ran::of(command.output().unwrap());
    ran.ends(0, &[]);
    let lines: Vec<Vec<&str>> = ran.stdout.lines().map(|line| line.split(' ').collect()).collect();
    let [outer, inner] = &lines[..] else { panic!("{ran:?}") };
    assert_eq!((outer[0], outer[2], outer[3]), ("shop/lock/outer", "outer", "a"));
    assert_eq!((inner[0], inner[2], inner[3]), ("shop/lock/inner/1", "inner/1", "b"));
    assert!(inner[1].parse::<u64>().unwrap() > outer[1].parse::<u64>().unwrap(), "fences of one store: {ran:?}");
}

#[tokio::test]
async fn who_waits_for_the_lock_that_it_runs_under_is_told_so() {
    let scene = Scene::over_sqlite();
    let inner = [env!("CARGO_BIN_EXE_fencron"), "lock", "deploy", "--wait", "2s", "--", "true"];
    scene
        .run(&[&["lock", "deploy", "--"], &inner[..]].concat())
        .ends(3, &["that is the command by which this one was started"]);
}

#[tokio::test]
async fn the_command_has_the_input_the_output_and_the_open_files() {
    let scene = Scene::over_sqlite();
    let input = scene.path("input");
    File::create(&input).unwrap().write_all(b"from the file\n").unwrap();
    let mut command = scene.command(&["lock", "n", "--", "sh", "-c", "cat; cat <&5; echo told >&2; pwd"]);
    command.stdin(Stdio::piped());
    // The shell opens a fifth file for it, as for any command.
    let mut through_shell = scene.within(Command::new("sh"), &["-c", "exec \"$@\" 5<input", "sh"]);
    through_shell.arg(command.get_program()).args(command.get_args()).stdin(Stdio::piped());
    let mut child = through_shell.spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"from the pipe\n").unwrap();
    let ran = crate::scene::Ran::of(child.wait_with_output().unwrap());
    ran.ends(0, &["told"]);
    let here = scene.path("").canonicalize().unwrap();
    assert_eq!(ran.stdout, format!("from the pipe\nfrom the file\n{}\n", here.display()));
}

#[tokio::test]
async fn it_exits_as_the_command_does() {
    let scene = Scene::over_sqlite();
    scene.write("text", "no program");
    for (command, code, says) in [
        (&["sh", "-c", "exit 42"][..], 42, ""),
        (&["sh", "-c", "kill -9 $$"], 137, ""),
        (&["no-such-program"], 127, "no-such-program"),
        (&[""], 127, "cannot execute"),
        (&["./text"], 126, "Permission denied"),
    ] {
        scene.run(&[&["lock", "n", "--"], command].concat()).ends(code, &[says]);
    }
    assert_eq!(scene.listed("n"), None);
}

#[tokio::test]
async fn signals_are_passed_on_to_the_whole_group() {
    let scene = Scene::over_sqlite();
    // Two beside the shell, which itself hears of signals only once they have ended.
    let script = "all='TERM INT HUP QUIT USR1 USR2'; trap : $all; \
                  hear() { for s in $all; do trap \"echo $s >> $1\" $s; done; echo x >> ready; \
                           while [ ! -e done ]; do sleep 0.02; done; }; \
                  hear one | hear two; exit 5";
    let process = scene.start(&["lock", "n", "--", "sh", "-c", script]);
    scene.wait_for_lines("ready", 2).await;
    let signals = [
        (Signal::SIGUSR1, "USR1"),
        (Signal::SIGHUP, "HUP"),
        (Signal::SIGINT, "INT"),
        (Signal::SIGTERM, "TERM"),
        (Signal::SIGUSR2, "USR2"),
        (Signal::SIGQUIT, "QUIT"),
    ];
    for (count, (signal, name)) in (1..).zip(signals) {
        process.signal(signal);
        for listener in ["one", "two"] {
            let heard = scene.wait_for_lines(listener, count).await;
            assert_eq!(heard[count - 1], name);
        }
    }
    scene.write("done", "");
    process.end().await.ends(5, &[]);
}

#[tokio::test]
async fn what_nohup_has_it_ignore_stays_ignored() {
    let scene = Scene::over_sqlite();
    let fencron = env!("CARGO_BIN_EXE_fencron");
    let script = "echo x > ready; while [ ! -e done ]; do sleep 0.02; done; grep SigIgn /proc/self/status";
    let process =
        Process::spawn(scene.within(Command::new("nohup"), &[fencron, "lock", "n", "--", "sh", "-c", script]));
    scene.wait_for_lines("ready", 1).await;
    process.signal(Signal::SIGHUP);
    scene.write("done", "");
    let ran = process.end().await;
    ran.ends(0, &[]);
    let mask = ran.stdout.trim_start_matches("SigIgn:").trim();
    assert_eq!(u64::from_str_radix(mask, 16).unwrap() & 1, 1, "the hangup is ignored by the command as well");
}

#[tokio::test]
async fn bad_names_are_refused_and_strange_ones_are_not() {
    let scene = Scene::over_sqlite();
    let long = "x".repeat(10 << 10);
    for (name, says) in [("", "this one has 0"), (&long, "this one has 10240"), ("leader", "would stop the scheduler")]
    {
        scene.run(&["lock", name, "--", "touch", "never"]).ends(2, &[says]);
        scene.run(&["elect", name, "--", "touch", "never"]).ends(2, &[says]);
    }
    scene.run(&["lock", "n", "--ttl", "1ms", "--", "touch", "never"]).ends(2, &["--ttl", "out of bounds"]);
    scene.run(&["lock", "n", "--lock-delay", "400d", "--", "touch", "never"]).ends(2, &["--lock-delay", "365 days"]);
    scene.run(&["lock", "n"]).ends(2, &["CMD"]);
    scene.run(&["semaphore", "", "--permits", "1", "--", "touch", "never"]).ends(2, &["this one has 0"]);
    scene.run(&["semaphore", "s", "--permits", "0", "--", "touch", "never"]).ends(2, &["--permits"]);
    assert!(!scene.path("never").exists());

    let strange = "a/b c%\u{fc}\n\u{1b}[31m";
    scene.write("go", "");
    let process = scene.start(&["lock", strange, "-v", "--", "sh", "-c", &format!("{ALONE} {WHILE}")]);
    scene.wait_for_lines("begun", 1).await;
    let listed = scene.listed(strange).expect("it is listed under its name");
    assert_eq!(listed["waiting"], 0);
    assert!(!scene.run(&["locks"]).stdout.contains('\u{1b}'), "nothing of it reaches the terminal");
    std::fs::remove_file(scene.path("go")).unwrap();
    process.end().await.ends(0, &["a/b c%\u{fc}  [31m acquired"]);
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_told_from_a_lock_that_is_held() {
    let scene = Scene::over_sqlite();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let nowhere = format!("etcd://127.0.0.1:{port}");
    let args = ["--store", &nowhere, "lock", "n", "--wait", "1s", "--", "touch", "never"];
    scene.run(&args).ends(5, &["cannot use the store"]);
    assert!(!scene.path("never").exists());
}
