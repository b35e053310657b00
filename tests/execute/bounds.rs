//! The bounds of a command: what the process really has. As root, and as a user without any rights.

use std::sync::Arc;
use std::time::Duration;

use fencron::job::{
    AttemptResult, Bounds, Form as _, Ionice, Job, Limits, Nice, Outcome, Stdin, StopReason, Text, Umask,
};
use nix::unistd::geteuid;

use super::attempt::*;

fn bounded(script: &str, bounds: Bounds) -> Job {
    Job { bounds: Arc::new(bounds), ..shell(script) }
}

#[track_caller]
fn lines(ended: &AttemptResult) -> Vec<&str> {
    assert_eq!(ended.outcome, Outcome::Exited(0), "{}", ended.output);
    ended.output.lines().collect()
}

fn why_not(ended: AttemptResult) -> String {
    match ended.outcome {
        Outcome::NotStarted(why) => why,
        other => panic!("it was started: {other:?}: {}", ended.output),
    }
}

/// Whether this process may become another user; says so where it may not, for tests that need it.
fn is_root() -> bool {
    let is = geteuid().is_root();
    if !is {
        eprintln!("left out: it needs root");
    }
    is
}

#[tokio::test]
async fn a_command_has_the_bounds_that_its_job_gives() {
    let limits = Limits {
        open_files: Some(64),
        core: Some(0),
        file_size: Some(1 << 20),
        stack: Some(4 << 20),
        cpu_time: Some(Duration::from_millis(1_500)),
    };
    let bounds = Bounds {
        limits,
        nice: Some(Nice(7)),
        ionice: Some(Ionice::parse("best-effort/6").unwrap()),
        umask: Some(Umask(0o27)),
        no_new_privileges: true,
        ..Bounds::default()
    };
    let script = "ulimit -n; ulimit -c; ulimit -s; ulimit -t; umask; nice; ionice; grep NoNewPrivs /proc/self/status; \
                  grep 'Max file size' /proc/self/limits";
    let ended = run(bounded(script, bounds)).await;
    let said = lines(&ended);
    assert_eq!(said[..6], ["64", "0", "4096", "2", "0027", "7"]);
    assert_eq!(said[6], "best-effort: prio 6");
    assert_eq!(said[7].split_whitespace().last(), Some("1"));
    assert_eq!(said[8].split_whitespace().nth(3), Some("1048576"));
    // What the node has is not touched by what a command is given.
    let other = run(shell("umask; nice; grep NoNewPrivs /proc/self/status")).await;
    let said = lines(&other);
    assert!(said[0] != "0027" && said[1] != "7" && said[2].ends_with('0'), "{said:?}");
}

#[tokio::test]
async fn a_command_inherits_only_what_its_job_wants() {
    let bounds = Bounds { inherit: Some(vec!["PATH".into(), "ABSENT".into()]), ..Bounds::default() };
    let mut job = bounded("env", bounds);
    job.env.insert("OWN".into(), Text::plain("x"));
    let ended = run(job).await;
    let mut names: Vec<&str> = lines(&ended).into_iter().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    names.retain(|name| !name.starts_with("FENCRON_") && *name != "TRACEPARENT");
    // The shell sets PWD, and bash two more, whatever it was given.
    names.retain(|name| !["PWD", "SHLVL", "_", "OLDPWD"].contains(name));
    names.sort_unstable();
    assert_eq!(names, ["OWN", "PATH"]);
}

#[tokio::test]
async fn a_command_reads_what_its_job_gives_and_cannot_change_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("input");
    std::fs::write(&path, "from a file\n").unwrap();
    let of = |stdin: Stdin| bounded("cat; echo end", Bounds { stdin: Some(stdin), ..Bounds::default() });
    let file = || Text::plain(path.to_str().unwrap());
    assert_eq!(lines(&run(of(Stdin::Text(Text::secret("a\nb\n")))).await), ["a", "b", "end"]);
    assert_eq!(lines(&run(of(Stdin::File(file()))).await), ["from a file", "end"]);
    let change = bounded(
        "echo x 1<>/proc/self/fd/0 2>/dev/null || echo refused; cat",
        Bounds { stdin: Some(Stdin::Text(Text::plain("whole\n"))), ..Bounds::default() },
    );
    assert_eq!(lines(&run(change).await), ["refused", "whole"]);
    std::fs::remove_file(&path).unwrap();
    let why = why_not(run(of(Stdin::File(file()))).await);
    assert!(why.contains("its input `") && why.contains("correct `stdin`"), "{why}");
    let why = why_not(run(of(Stdin::File(Text::plain("/")))).await);
    assert!(why.contains("it is no file"), "{why}");
}

#[tokio::test]
async fn a_command_that_computes_for_too_long_is_ended_by_the_system() {
    let limits = Limits { cpu_time: Some(Duration::from_secs(1)), ..Limits::default() };
    let ended = run(bounded("while :; do :; done", Bounds { limits, ..Bounds::default() })).await;
    assert_eq!(ended.outcome, Outcome::Signalled(nix::libc::SIGXCPU));
}

#[tokio::test]
async fn a_command_runs_as_its_user_with_the_groups_of_that_user_alone() {
    if !is_root() {
        return;
    }
    let bounds = Bounds { user: Some(Text::plain("nobody")), ..Bounds::default() };
    let script = "grep -E '^(Uid|Groups|CapEff)' /proc/self/status; echo \"$USER $LOGNAME\"; echo open > /dev/stdout";
    let ended = run(bounded(script, bounds.clone())).await;
    let said = lines(&ended);
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    let ids: Vec<&str> = said[0].split_whitespace().skip(1).collect();
    assert_eq!(ids, vec![nobody.uid.to_string(); 4]);
    assert_eq!(said[1].split_whitespace().skip(1).collect::<Vec<_>>(), [nobody.gid.to_string()]);
    assert_eq!(said[2].trim_start_matches("CapEff:").trim().trim_start_matches('0'), "");
    assert_eq!(said[3..], ["nobody nobody", "open"]);
    // By numbers that have no name.
    let numbers = Bounds { user: Some(Text::plain("4711")), group: Some(Text::plain("4712")), ..Bounds::default() };
    assert_eq!(lines(&run(bounded("id -u; id -G", numbers)).await), ["4711", "4712"]);
    // A node that is root ends it as any other.
    let stubborn = "trap '' TERM; echo pid $$; while :; do sleep 3600 & wait; done";
    let job = Job { kill_after: Duration::from_millis(20), ..bounded(stubborn, bounds) };
    let mut attempt = begin(&executor(), job);
    let pid = attempt.pid().await;
    attempt.stopper.stop(StopReason::Asked);
    assert_eq!(attempt.end().await.outcome, Outcome::Stopped(StopReason::Asked));
    assert_eq!(state(pid), None);
}

#[tokio::test]
async fn what_cannot_be_kept_is_why_a_command_is_not_started() {
    let user = Bounds { user: Some(Text::plain("no-such-user")), ..Bounds::default() };
    let why = why_not(run(bounded("true", user)).await);
    assert_eq!(why, "there is no user `no-such-user` here: create it, or correct `user`");
    let group = Bounds { group: Some(Text::plain("no-such-group")), ..Bounds::default() };
    let why = why_not(run(bounded("true", group)).await);
    assert!(why.contains("there is no group `no-such-group` here"), "{why}");
    let number = Bounds { user: Some(Text::plain("4711")), ..Bounds::default() };
    let why = why_not(run(bounded("true", number)).await);
    assert!(why.contains("give it a `group`"), "{why}");
}

#[tokio::test]
async fn a_node_without_rights_starts_nothing_whose_bounds_need_them() {
    const NAME: &str = "execute::bounds::a_node_without_rights_starts_nothing_whose_bounds_need_them";
    if !is_apart() {
        let mut command = in_a_process_of_its_own(NAME);
        if is_root() {
            let inner = std::mem::replace(&mut command, std::process::Command::new("setpriv"));
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]);
            command.arg(inner.get_program()).args(inner.get_args()).env("FENCRON_TEST_APART", "1").current_dir("/");
        }
        assert!(command.status().unwrap().success());
        return;
    }
    assert!(!geteuid().is_root());
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 1 << 20).unwrap();
    let plain = Bounds::default();
    let limits = |limits: Limits| Bounds { limits, ..Bounds::default() };
    let cases = [
        (Bounds { user: Some(Text::plain("root")), ..plain.clone() }, "`user: root` cannot be kept"),
        (Bounds { group: Some(Text::plain("0")), ..plain.clone() }, "`group` cannot be kept"),
        (Bounds { nice: Some(Nice(-5)), ..plain.clone() }, "`nice` cannot be kept"),
        (Bounds { ionice: Some(Ionice::parse("realtime/1").unwrap()), ..plain }, "`ionice` cannot be kept"),
        (limits(Limits { core: Some(2 << 20), ..Limits::default() }), "`limits.core` cannot be kept"),
    ];
    for (bounds, expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().join("mark");
        let why = why_not(run(bounded(&format!("touch {}", mark.display()), bounds)).await);
        assert!(why.starts_with(expected) && why.contains("root"), "{expected}: {why}");
        assert!(!mark.exists(), "{expected}");
    }
    // What it may do, it does.
    let bounds = Bounds { nice: Some(Nice(19)), ..limits(Limits { core: Some(0), ..Limits::default() }) };
    assert_eq!(lines(&run(bounded("nice; ulimit -c", bounds)).await), ["19", "0"]);
}
