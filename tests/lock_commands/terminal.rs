//! On a terminal: script(1) makes one.

use std::io::Write as _;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::scene::{ALONE, Process, Ran, Scene, gone};
use crate::support::program::FENCRON;
use crate::support::until;

/// A shell of a session of its own, with a terminal.
fn on_a_terminal(scene: &Scene, script: &str) -> Command {
    let mut command = scene.within(Command::new("script"), &["-qec", script, "/dev/null"]);
    command.env("SHELL", "/bin/bash").stdin(Stdio::piped());
    command
}

#[tokio::test]
async fn the_command_is_in_the_foreground_and_the_shell_is_again_after_it() {
    let scene = Scene::over_sqlite();
    // The fifth to eighth fields: group, session, terminal, and the terminal's foreground group.
    scene.write("stat", "cut -d' ' -f5-8 /proc/self/stat");
    let stat = "sh ./stat";
    let script = format!(
        "{FENCRON} lock n -- bash -c 'read -r answer < /dev/tty; echo got $answer; {stat}; exit 3'; echo code $?; {stat}"
    );
    let mut child = on_a_terminal(&scene, &script).spawn().unwrap();
    child.stdin.as_mut().unwrap().write_all(b"yes\n").unwrap();
    let ran = Ran::of(child.wait_with_output().unwrap());
    let lines: Vec<&str> = ran.stdout.lines().map(str::trim).collect();
    let found = |words: &str| lines.iter().position(|line| line.contains(words)).unwrap_or_else(|| panic!("{ran:?}"));
    let numbers = |line: &str| line.split(' ').map(|number| number.parse().unwrap()).collect::<Vec<i64>>();
    let (command, shell) = (numbers(lines[found("got yes") + 1]), numbers(lines[found("code 3") + 1]));
    assert_eq!(command[0], command[3], "it is in the foreground");
    assert_eq!(command[1], shell[1], "it is of the same session");
    assert_ne!(command[0], shell[3], "it has a group of its own");
    assert_eq!(shell[0], shell[3], "the shell's group is in the foreground again");
}

/// The key goes to the group in the foreground, and the shell finds a command that was interrupted.
#[tokio::test]
async fn the_key_that_interrupts_reaches_the_command_and_the_one_that_stops_does_not_stop_it() {
    let scene = Scene::over_sqlite();
    // A shell that starts a program at that moment would not stop before that program runs, which stops before: no shell
    // notices that, and neither does this one. So its pauses are its own.
    let beats = "mkfifo pipe; exec 3<> pipe; echo x > ready; while true; do read -t 0.05 -u 3; echo x >> beats; done";
    let script = format!("{FENCRON} lock n -- bash -c '{beats}'");
    let mut child = on_a_terminal(&scene, &script).spawn().unwrap();
    let mut keys = child.stdin.take().unwrap();
    let process = Process::of(child);
    scene.wait_for_lines("ready", 1).await;
    keys.write_all(b"\x1a").unwrap();
    let beats = scene.lines("beats").len();
    scene.wait_for_lines("beats", beats + 20).await;
    keys.write_all(b"\x03").unwrap();
    process.end().await.ends(130, &[]);
    assert_eq!(scene.listed("n"), None);
}

/// It is not in the foreground, as another member of the pipeline may want the terminal, until it asks for it.
#[tokio::test]
async fn in_a_pipeline_the_command_gets_the_terminal_when_it_asks_for_it() {
    let scene = Scene::over_sqlite();
    let script = format!("{FENCRON} lock n -- sh -c 'read -r answer < /dev/tty; echo got $answer' | cat; echo after");
    let mut child = on_a_terminal(&scene, &script).spawn().unwrap();
    child.stdin.as_mut().unwrap().write_all(b"yes\n").unwrap();
    let ran = Process::of(child).end().await;
    assert!(ran.stdout.contains("got yes") && ran.stdout.contains("after"), "{ran:?}");
}

/// It is stopped then, and would hear of nothing; and it is offered the terminal all the same later.
#[tokio::test]
async fn a_command_that_is_in_want_of_the_terminal_hears_of_signals() {
    let scene = Scene::over_sqlite();
    let script = "trap \"echo x >> heard\" USR1; echo $$ > pid; read -r one; read -r answer; echo got $answer; exit 3";
    let script = format!(
        "set -m; {FENCRON} lock n -- bash -c '{script}' & \
                          echo $! > fencron; while [ ! -e go ]; do sleep 0.02; done; fg; echo code $?"
    );
    let mut child = on_a_terminal(&scene, &script).spawn().unwrap();
    let mut keys = child.stdin.take().unwrap();
    let process = Process::of(child);
    let pid = &scene.wait_for_lines("pid", 1).await[0];
    let fencron = Pid::from_raw(scene.wait_for_lines("fencron", 1).await[0].parse().unwrap());
    for count in 1..=2 {
        stopped(pid).await;
        kill(fencron, Signal::SIGUSR1).unwrap();
        scene.wait_for_lines("heard", count).await;
    }
    stopped(pid).await;
    scene.write("go", "");
    keys.write_all(b"one\nyes\n").unwrap();
    let ran = process.end().await;
    assert!(ran.stdout.contains("got yes") && ran.stdout.contains("code 3"), "{ran:?}");
}

/// Waits until a process is stopped.
async fn stopped(pid: &str) {
    until(&format!("{pid} is stopped"), async || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T')).then_some(())
    })
    .await;
}

/// There it has the session of the shell, and what it has started in other groups is found by descent.
#[tokio::test]
async fn what_has_made_a_group_of_its_own_is_ended_too_on_a_terminal() {
    let scene = Scene::over_sqlite();
    let stray = "timeout 1000 sleep 1000 & echo $! > stray; echo x > ready; wait";
    let child = on_a_terminal(&scene, &format!("{FENCRON} lock n -- sh -c '{stray}'")).spawn().unwrap();
    let process = Process::of(child);
    scene.wait_for_lines("ready", 1).await;
    let pid = &scene.lines("stray")[0];
    assert!(std::path::Path::new(&format!("/proc/{pid}")).exists());
    scene.run(&["unlock", "--force", "n"]).ends(0, &[]);
    process.end().await.ends(4, &[]);
    gone(pid).await;
}

/// As without a terminal; the command does not heed TERM, nor that its terminal is taken away.
#[tokio::test]
async fn the_command_has_ended_before_the_next_one_begins_on_a_terminal_too() {
    for signal in [Signal::SIGKILL, Signal::SIGSTOP] {
        let scene = Scene::over_sqlite();
        let deaf = format!("{ALONE} trap \"\" TERM HUP; echo $PPID > fencron; sleep 1000 & sleep 1000; wait");
        let script = format!("{FENCRON} lock n --ttl 3s -- sh -c '{deaf}'; echo after");
        let _shell = Process::of(on_a_terminal(&scene, &script).spawn().unwrap());
        let pid = scene.wait_for_lines("fencron", 1).await[0].parse().unwrap();
        let second = scene.start(&["lock", "n", "--", "sh", "-c", &format!("{ALONE} exit 9")]);
        scene.wait_for_waiting("n", 1).await;
        kill(Pid::from_raw(pid), signal).unwrap();
        second.end().await.ends(9, &[]);
        assert_eq!(scene.fences().len(), 2);
        if signal == Signal::SIGSTOP {
            kill(Pid::from_raw(pid), Signal::SIGCONT).unwrap();
        }
    }
}
