//! How a hold ends against the will of its holder, and that nothing of its command is left when the next one begins.

use nix::sys::signal::Signal;

use crate::scene::{ALONE, Process, Scene, gone};
use crate::support::{over_both, until};

/// Long enough for a busy machine to keep the lease alive, and short enough to wait for its end.
const TTL: &str = "3s";

/// Far longer than a test may take: a lease that lives so long is not waited for.
const LONG: &str = "1h";

/// It has a child of its own, neither of them heeds TERM, and both hold the witness.
const DEAF: &str = "trap '' TERM; echo $$ >> pids; (echo term-deaf > /dev/null; exec sleep 1000) & sleep 1000; wait";

fn held(scene: &Scene, command: &str, node: &str, script: &str) -> Process {
    held_for(scene, TTL, &[command, "deploy", "--node", node], script)
}

fn held_for(scene: &Scene, ttl: &str, command: &[&str], script: &str) -> Process {
    let script = format!("{ALONE} {script}");
    let more = ["--kill-after", "300ms", "--ttl", ttl, "-v", "--", "sh", "-c", &script];
    scene.start(&[command, &more].concat())
}

/// Two that hold it in turn, the first for ever.
async fn two(scene: &Scene, ttl: &str, command: &str, script: &str) -> (Process, Process) {
    let first = held_for(scene, ttl, &[command, "deploy", "--node", "first"], script);
    scene.wait_for_lines("begun", 1).await;
    let second = held(scene, command, "second", "exit 9");
    scene.wait_for_waiting("deploy", 1).await;
    (first, second)
}

/// At once, not when the lease has run out: the supervisor sees to that.
async fn the_command_of_who_is_killed_has_ended_before_the_next_one_begins(scene: Scene) {
    let (first, second) = two(&scene, LONG, "lock", DEAF).await;
    first.signal(Signal::SIGKILL);
    second.end().await.ends(9, &["acquired under fence"]);
    assert_eq!(scene.fences().len(), 2);
}

async fn the_command_of_who_stands_still_has_ended_before_the_next_one_begins(scene: Scene) {
    let (first, second) = two(&scene, TTL, "lock", DEAF).await;
    first.signal(Signal::SIGSTOP);
    second.end().await.ends(9, &["acquired under fence"]);
    assert_eq!(scene.fences().len(), 2);
    first.signal(Signal::SIGCONT);
    first.end().await.ends(4, &["deploy was lost"]);
}

async fn who_leads_is_followed_when_it_is_killed(scene: Scene) {
    let (first, second) = two(&scene, LONG, "elect", DEAF).await;
    first.signal(Signal::SIGKILL);
    second.end().await.ends(9, &["acquired under fence"]);
    assert_eq!(scene.fences().len(), 2);
}

async fn a_lock_that_is_taken_away_ends_its_command(scene: Scene) {
    // It has its time to say good-bye, while the next one runs already: for that there are fences.
    let good_bye = "trap 'echo good-bye >> log; exit 0' TERM; echo $FENCRON_FENCE >> begun; \
                    while true; do sleep 0.02; done";
    let first = scene.start(&["lock", "deploy", "--node", "first", "--", "sh", "-c", good_bye]);
    scene.wait_for_lines("begun", 1).await;
    let second = scene.start(&["lock", "deploy", "--", "sh", "-c", "echo $FENCRON_FENCE >> begun"]);
    scene.wait_for_waiting("deploy", 1).await;
    scene.run(&["unlock", "deploy"]).ends(2, &["deploy is held by first", "--force"]);
    scene.run(&["unlock", "--force", "deploy"]).ends(0, &["was revoked from first", "cannot be stopped from here"]);
    first.end().await.ends(4, &["deploy was lost (the lock was revoked)"]);
    second.end().await.ends(0, &[]);
    assert_eq!(scene.lines("log"), ["good-bye"]);
    assert_eq!(scene.fences().len(), 2);
    scene.run(&["unlock", "--force", "deploy"]).ends(1, &["deploy has no holder"]);
}

/// The permit too, and what is done once.
async fn a_permit_and_what_is_done_once_pass_on_at_once_when_their_holder_is_killed(scene: Scene) {
    let script = "echo $$ >> pids; sleep 1000";
    let permit = ["semaphore", "slots", "--permits", "1"];
    let first = held_for(&scene, LONG, &permit, script);
    scene.wait_for_lines("begun", 1).await;
    let second = held_for(&scene, LONG, &permit, "exit 9");
    first.signal(Signal::SIGKILL);
    second.end().await.ends(9, &[]);

    let once = |script: &str| {
        let script = format!("{ALONE} {script}");
        scene.start(&["once", "seed", "--idempotent", "--ttl", LONG, "--", "sh", "-c", &script])
    };
    let first = once("sleep 1000");
    scene.wait_for_lines("begun", 3).await;
    let second = once("exit 0");
    first.signal(Signal::SIGKILL);
    second.end().await.ends(0, &[]);
    scene.wait_for_lines("begun", 4).await;
}

/// The supervisor that knew of the lease is gone too: its successor knows it.
async fn who_is_killed_after_its_supervisor_is_followed_at_once_all_the_same(scene: Scene) {
    let script = format!("{ALONE} sleep 1000");
    let mut command = scene.command(&["lock", "deploy", "--ttl", LONG, "--", "sh", "-c", &script]);
    command.env("FENCRON_LOG", "info");
    let first = Process::spawn(command);
    scene.wait_for_lines("begun", 1).await;
    let second = held(&scene, "lock", "second", "exit 9");
    let before = supervisor_of(&first).expect("it has one");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(before), Signal::SIGKILL).unwrap();
    let another = async || supervisor_of(&first).filter(|pid| *pid != before);
    until("there is another supervisor", another).await;
    // It is there once it knows what runs.
    first.wait_for("another supervisor has taken over").await;
    first.signal(Signal::SIGKILL);
    second.end().await.ends(9, &["acquired under fence"]);
    assert_eq!(scene.fences().len(), 2);
}

/// The child of this process that is a supervisor.
fn supervisor_of(process: &Process) -> Option<i32> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", process.pid())).unwrap().flatten();
    let children = tasks.map(|task| std::fs::read_to_string(task.path().join("children")).unwrap_or_default());
    let children: Vec<String> = children.collect();
    children.iter().flat_map(|of_a_thread| of_a_thread.split_whitespace()).map(|child| child.parse().unwrap()).find(
        |child: &i32| {
            let name = std::fs::read_to_string(format!("/proc/{child}/comm"));
            name.is_ok_and(|name| name.trim() == "fencron-supervi")
        },
    )
}

over_both!(
    a_permit_and_what_is_done_once_pass_on_at_once_when_their_holder_is_killed,
    who_is_killed_after_its_supervisor_is_followed_at_once_all_the_same,
    the_command_of_who_is_killed_has_ended_before_the_next_one_begins,
    the_command_of_who_stands_still_has_ended_before_the_next_one_begins,
    who_leads_is_followed_when_it_is_killed,
    a_lock_that_is_taken_away_ends_its_command,
);

/// The inner one has a supervisor of its own, that knows nothing of the outer lock; its lease has an hour to go.
#[tokio::test]
async fn the_command_of_an_inner_lock_has_ended_before_the_next_one_has_the_outer() {
    for signal in [Signal::SIGKILL, Signal::SIGSTOP] {
        let scene = Scene::over_sqlite();
        let script = format!("{ALONE} {DEAF}");
        let inner = [env!("CARGO_BIN_EXE_fencron"), "lock", "inner", "--ttl", "1h", "--", "sh", "-c", &script];
        let first = scene.start(&[&["lock", "deploy", "--ttl", TTL, "--"], &inner[..]].concat());
        scene.wait_for_lines("begun", 1).await;
        let second = held(&scene, "lock", "second", "exit 9");
        scene.wait_for_waiting("deploy", 1).await;
        first.signal(signal);
        second.end().await.ends(9, &[]);
        assert_eq!(scene.lines("overlaps"), [""; 0]);
    }
}

#[tokio::test]
async fn a_command_that_does_not_heed_term_is_killed() {
    let scene = Scene::over_sqlite();
    let first = held(&scene, "lock", "first", DEAF);
    let pid = &scene.wait_for_lines("pids", 1).await[0];
    scene.run(&["unlock", "--force", "deploy"]).ends(0, &[]);
    first.end().await.ends(4, &[]);
    gone(pid).await;
    held(&scene, "lock", "second", "true").end().await.ends(0, &[]);
    assert_eq!(scene.fences().len(), 2);
}

/// timeout(1) makes a group of its own, where it does not lead one already.
const STRAY: &str = "timeout 1000 sleep 1000 & echo x >> ready; wait";

#[tokio::test]
async fn what_has_made_a_group_of_its_own_is_ended_too() {
    let scene = Scene::over_sqlite();
    let (first, second) = two(&scene, LONG, "lock", STRAY).await;
    first.signal(Signal::SIGKILL);
    second.end().await.ends(9, &[]);
    let third = held(&scene, "lock", "third", STRAY);
    scene.wait_for_lines("ready", 2).await;
    scene.run(&["unlock", "--force", "deploy"]).ends(0, &[]);
    third.end().await.ends(4, &[]);
    held(&scene, "lock", "fourth", "true").end().await.ends(0, &[]);
    assert_eq!(scene.fences().len(), 4);
}

#[tokio::test]
async fn what_a_command_leaves_behind_ends_before_the_lock_is_free() {
    let scene = Scene::over_sqlite();
    // Deaf to TERM as well: it is killed after the time that it is given.
    let script = "trap '' TERM; sleep 1000 & exit 3";
    let script = format!("{ALONE} {script}");
    let args = ["lock", "deploy", "--kill-after", "200ms", "--", "sh", "-c", &script];
    scene.start(&args).end().await.ends(3, &[]);
    scene.start(&args).end().await.ends(3, &[]);
    // In a group of its own, as shells with job control make them.
    let script = format!("{ALONE} trap '' TERM; set -m; sleep 1000 & exit 3");
    let args = ["lock", "deploy", "--kill-after", "200ms", "--", "bash", "-c", &script];
    scene.start(&args).end().await.ends(3, &[]);
    scene.start(&args).end().await.ends(3, &[]);
    assert_eq!(scene.fences().len(), 4);
}

#[tokio::test]
async fn what_is_held_for_too_long_is_released_once_its_command_has_ended() {
    let scene = Scene::over_sqlite();
    let script = format!("{ALONE} {DEAF}");
    let options = ["lock", "deploy", "--max-hold", "500ms", "--kill-after", "200ms", "--", "sh", "-c", &script];
    let first = scene.start(&options);
    scene.wait_for_lines("begun", 1).await;
    held(&scene, "lock", "second", "true").end().await.ends(0, &[]);
    first.end().await.ends(4, &["deploy was held for 500ms, as long as it may be"]);
    assert_eq!(scene.fences().len(), 2);
}

#[tokio::test]
async fn who_contends_again_leads_again() {
    let scene = Scene::over_sqlite();
    let script = format!("{ALONE} while [ ! -e done ]; do sleep 0.02; done; exit 6");
    let leader = scene.start(&["elect", "deploy", "--again", "--ttl", TTL, "--", "sh", "-c", &script]);
    scene.wait_for_lines("begun", 1).await;
    scene.run(&["unlock", "--force", "deploy"]).ends(0, &[]);
    scene.wait_for_lines("begun", 2).await;
    scene.write("done", "");
    leader.end().await.ends(6, &["deploy was lost"]);
    assert_eq!(scene.fences().len(), 2);
}

#[tokio::test]
async fn who_was_told_to_end_does_not_contend_again() {
    let scene = Scene::over_sqlite();
    let script = format!("trap 'echo told >> told' TERM; {ALONE} while :; do sleep 0.02; done");
    let leader = scene.start(&["elect", "deploy", "--again", "--ttl", TTL, "--", "sh", "-c", &script]);
    scene.wait_for_lines("begun", 1).await;
    leader.signal(Signal::SIGTERM);
    scene.wait_for_lines("told", 1).await;
    scene.run(&["unlock", "--force", "deploy"]).ends(0, &[]);
    leader.end().await.ends(4, &["deploy was lost"]);
    assert_eq!(scene.fences().len(), 1);
}

#[tokio::test]
async fn after_a_crash_the_lock_is_held_back_for_its_delay() {
    let scene = Scene::over_sqlite();
    let script = format!("{ALONE} sleep 1000");
    let options = ["lock", "deploy", "--ttl", "1s", "--lock-delay", "1m", "--", "sh", "-c", &script];
    let first = scene.start(&options);
    scene.wait_for_lines("begun", 1).await;
    first.signal(Signal::SIGKILL);
    crate::support::until("its lease has run out", async || {
        scene.listed("deploy").filter(|listed| listed["holder"].is_null() && listed["barred"] == "delay")
    })
    .await;
    scene.run(&["lock", "deploy", "--try", "--", "true"]).ends(3, &[]);
}

/// Who holds it ends its command in time; who waits goes on to wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_of_the_store_ends_the_hold_and_not_the_wait() {
    let mut scene = Scene::over_etcd().await;
    let (first, second) = two(&scene, TTL, "lock", DEAF).await;
    scene.server().kill();
    let ended = first.end().await;
    ended.ends(4, &["deploy was lost (no keep-alive was acknowledged in time)"]);
    scene.server().restart();
    second.end().await.ends(9, &["acquired under fence"]);
    assert_eq!(scene.fences().len(), 2);
}

/// What a lead is lost to most often is such an outage.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_contends_again_waits_through_an_outage_of_the_store() {
    let mut scene = Scene::over_etcd().await;
    let script = format!("{ALONE} while [ ! -e done ]; do sleep 0.02; done; exit 6");
    let leader = scene.start(&["elect", "deploy", "--again", "--ttl", TTL, "--", "sh", "-c", &script]);
    scene.wait_for_lines("begun", 1).await;
    scene.server().kill();
    leader.wait_for("waiting for the store, which does not answer").await;
    scene.server().restart();
    scene.wait_for_lines("begun", 2).await;
    scene.write("done", "");
    leader.end().await.ends(6, &["deploy was lost"]);
    assert_eq!(scene.fences().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_away_does_not_keep_a_command_that_has_ended() {
    let mut scene = Scene::over_etcd().await;
    let script = format!("{ALONE} while [ ! -e done ]; do sleep 0.02; done; exit 6");
    let first = scene.start(&["lock", "deploy", "--ttl", "1h", "--", "sh", "-c", &script]);
    scene.wait_for_lines("begun", 1).await;
    scene.server().kill();
    scene.write("done", "");
    first.end().await.ends(6, &["the release of deploy was not acknowledged", "it is free in 1h at the latest"]);
}
