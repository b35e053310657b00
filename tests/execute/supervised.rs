//! Commands of a node that cannot end them itself: it was killed, stands still, or lost its supervisor.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Lines};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Stdio};
use std::time::Duration;

use fencron::execute::MayStart;
use fencron::job::{OnLostLeadership, Outcome, StopReason, Text};
use fencron::time::{Boot, Clock};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::attempt::*;

const LEASE: NonZeroU64 = NonZeroU64::new(7).unwrap();

/// How long a lease may be trusted that nobody keeps alive. The margins are wider than a node's: many tests run at once.
const TRUST: Duration = Duration::from_secs(5);
const KILLED_AFTER: Duration = Duration::from_secs(1);
/// From the end of the trust until another may lead.
const PASSES_AFTER: Duration = Duration::from_secs(4);

/// What a node is to do.
#[derive(Clone, Debug)]
struct Plan {
    script: String,
    kill_after: Duration,
    finish: bool,
    /// Until when its lease may be trusted, from its start; `None`: for ever.
    trust: Option<Duration>,
    /// How many commands it starts, one after the other.
    starts: usize,
    /// How many bytes of the whole output of each are kept below its directory; 0: it is not kept.
    keeps: u64,
}

fn plan(script: &str) -> Plan {
    Plan { script: script.to_owned(), kill_after: FOREVER, finish: false, trust: None, starts: 1, keeps: 0 }
}

/// A process that runs commands, and can be killed or stopped.
struct Node {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    directory: tempfile::TempDir,
    script: String,
}

const NODE: &str = "execute::supervised::a_node";

/// The process itself.
#[test]
fn a_node() {
    let Some(plan) = std::env::var("PLAN").ok().filter(|_| is_apart()) else { return };
    let [kill_after, trust, starts, finish, keeps] = plan.split(' ').collect::<Vec<_>>()[..] else { panic!("{plan}") };
    let millis = |text: &str| Duration::from_millis(text.parse().unwrap());
    let mut job = shell(&std::env::var("SCRIPT").unwrap());
    job.kill_after = millis(kill_after);
    if finish == "true" {
        job.on_lost_leadership = OnLostLeadership::Finish;
    }
    let log = std::env::var("NODE_LOG").unwrap();
    let keeps = keeps.parse().unwrap();
    job.output = (keeps > 0).then(|| whole_output(Path::new(&log).parent().unwrap(), keeps));
    job.env.insert("LOG".into(), Text::plain(log));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let executor = executor();
        let until = Clock::system().boot().plus(millis(trust));
        executor.deadlines().set(LEASE, until, KILLED_AFTER);
        println!("\nuntil {}", until.since_boot().as_nanos());
        let mut attempts = Vec::new();
        for _ in 0..starts.parse().unwrap() {
            let mut attempt = begin_if(&executor, job.clone(), MayStart::always().under(LEASE));
            soon(&mut attempt.started).await.unwrap();
            println!("started");
            attempts.push(attempt);
        }
        for attempt in attempts {
            println!("ended {:?}", attempt.ended.await.unwrap().outcome);
        }
    });
}

impl Node {
    fn start(plan: &Plan) -> Node {
        let directory = tempfile::tempdir().unwrap();
        let Plan { script, kill_after, finish, trust, starts, keeps } = plan;
        let [kill_after, trust] = [*kill_after, trust.unwrap_or(FOREVER)].map(|it| it.as_millis());
        let numbers = format!("{kill_after} {trust} {starts} {finish} {keeps}");
        let mut command = in_a_process_of_its_own(NODE);
        command.env("PLAN", numbers).env("SCRIPT", script).env("NODE_LOG", directory.path().join("log"));
        let mut child = command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Node { child, lines, directory, script: script.clone() }
    }

    /// Waits for a line that begins so, and returns the rest of it.
    fn line(&mut self, prefix: &str) -> String {
        let found = self.lines.by_ref().map_while(Result::ok).find_map(|line| {
            let rest = line.strip_prefix(prefix)?;
            Some(rest.to_owned())
        });
        found.unwrap_or_else(|| panic!("the node ended before it said {prefix:?}"))
    }

    /// Until when it was told to trust its lease.
    fn until(&mut self) -> Boot {
        Boot::from_duration(Duration::from_nanos(self.line("until ").parse().unwrap()))
    }

    fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Waits until the commands have written such a line, and returns the rest of it.
    async fn logged(&self, prefix: &str) -> String {
        let find = || {
            let log = self.log();
            let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
            whole.lines().find_map(|line| line.strip_prefix(prefix)).map(str::to_owned)
        };
        comes_true(|| find().is_some()).await;
        find().unwrap()
    }

    async fn logged_pid(&self, prefix: &str) -> i32 {
        self.logged(prefix).await.trim().parse().unwrap()
    }

    /// The supervisor that the node has now.
    fn supervisor(&self) -> Option<i32> {
        let is_ours = |pid: &i32| {
            let parent = stat(*pid).and_then(|stat| stat.get(1)?.parse::<i32>().ok());
            parent == Some(self.pid())
                && words(*pid, "cmdline").first().is_some_and(|name| name == "fencron-supervisor")
        };
        processes().into_iter().find(is_ours)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have been waited for already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn processes() -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The fields of `/proc/PID/stat` behind the name: state, parent, group, session.
fn stat(pid: i32) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(text.rsplit_once(") ")?.1.split(' ').map(str::to_owned).collect())
}

/// What is in a file of `/proc/PID` whose parts end with NUL.
fn words(pid: i32, file: &str) -> Vec<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    text.split_terminator('\0').map(str::to_owned).collect()
}

/// Whether a supervisor knows of a command: it has a pidfd of it.
fn holds(supervisor: i32, command: i32) -> bool {
    let of_command = |info: String| info.lines().any(|line| line.split_whitespace().eq(["Pid:", &command.to_string()]));
    let open = std::fs::read_dir(format!("/proc/{supervisor}/fdinfo")).into_iter().flatten().flatten();
    open.filter_map(|entry| std::fs::read_to_string(entry.path()).ok()).any(of_command)
}

fn is_gone(pid: i32) -> bool {
    matches!(state(pid), None | Some('Z'))
}

fn now() -> Boot {
    Clock::system().boot()
}

/// What heeds TERM, and has a child that does.
const HEEDS: &str = "say() { echo \"$@\" >>\"$LOG\"; }
    sh -c 'trap \"echo child heard >>\\\"$LOG\\\"; exit\" TERM; echo child $$ >>\"$LOG\"; while :; do sleep 0.02; done' &
    trap 'echo to nobody; say heard; wait; say bye; exit' TERM; say leader $$; while :; do sleep 0.02; done";

/// What says that it was told, and goes on; so does a grandchild of another group (timeout makes one).
const STUBBORN: &str = "say() { echo \"$@\" >>\"$LOG\"; }
    trap 'say heard' TERM
    timeout 3600 sh -c 'trap \"\" TERM; sleep 3600 & echo grandchild $! >>\"$LOG\"; wait' &
    say leader $$; while :; do sleep 0.02; done";

#[tokio::test]
async fn commands_of_a_killed_node_are_told_to_end_to_the_last_child() {
    let mut node = Node::start(&plan(HEEDS));
    let (leader, child) = (node.logged_pid("leader ").await, node.logged_pid("child ").await);
    node.kill();
    node.logged("bye").await;
    comes_true(|| is_gone(leader) && is_gone(child)).await;
    let log = node.log();
    assert_eq!(log.lines().filter(|line| *line == "child heard").count(), 1, "{log}");
}

#[tokio::test]
async fn a_command_that_became_another_user_is_told_when_its_node_is_killed() {
    assert!(nix::unistd::geteuid().is_root(), "only root can become another user: run the tests as root");
    let script = "echo leader $$ >>\"$LOG\"
        exec perl -e 'open L, \">>\", $ENV{LOG}; $( = $) = 65534; $< = $> = 65534;
            $SIG{TERM} = sub { syswrite L, \"heard\\n\"; exit }; syswrite L, \"other $>\\n\"; sleep 1 while 1'";
    let mut node = Node::start(&plan(script));
    let leader = node.logged_pid("leader ").await;
    assert_eq!(node.logged("other ").await, "65534");
    node.kill();
    node.logged("heard").await;
    comes_true(|| is_gone(leader)).await;
}

#[tokio::test]
async fn a_command_that_ended_while_its_node_stood_still_ended_by_itself() {
    let mut node = Node::start(&Plan { trust: Some(TRUST), ..plan("echo leader $$ >>\"$LOG\"; sleep 1; exit 3") });
    let until = node.until();
    let leader = node.logged_pid("leader ").await;
    node.signal(Signal::SIGSTOP);
    comes_true(|| is_gone(leader)).await;
    assert!(now() < until, "it ended in time");
    // Time for the supervisor, which would tell what still runs.
    comes_true(|| now() > until.plus(KILLED_AFTER)).await;
    node.signal(Signal::SIGCONT);
    assert_eq!(node.line("ended "), "Exited(3)");
}

#[tokio::test]
async fn a_command_of_a_stopped_node_is_told_once() {
    // Many programs take a second TERM for "at once". A shell is too slow to see two apart.
    let counts = "open L, '>>', $ENV{LOG}; $SIG{TERM} = sub { syswrite L, \"heard\\n\" };
        syswrite L, \"leader $$\\n\"; sleep 1 while 1";
    let script = format!("exec perl -e '{}'", counts.replace('\'', "'\\''"));
    let node = Node::start(&Plan { trust: Some(TRUST), ..plan(&script) });
    let leader = node.logged_pid("leader ").await;
    node.signal(Signal::SIGSTOP);
    comes_true(|| is_gone(leader)).await;
    assert_eq!(node.log().matches("heard").count(), 1, "{}", node.log());
}

#[tokio::test]
async fn commands_of_a_killed_node_are_killed_after_their_time() {
    let mut node = Node::start(&Plan { kill_after: Duration::from_millis(300), ..plan(STUBBORN) });
    let (leader, grandchild) = (node.logged_pid("leader ").await, node.logged_pid("grandchild ").await);
    let killed_at = now();
    node.kill();
    comes_true(|| is_gone(leader) && is_gone(grandchild)).await;
    assert!(now().since(killed_at) >= Duration::from_millis(300), "it had its time");
}

#[tokio::test]
async fn commands_of_a_killed_node_that_ignore_term_are_killed_before_the_lease_can_pass() {
    let mut node = Node::start(&Plan { trust: Some(TRUST), ..plan(STUBBORN) });
    let until = node.until();
    let (leader, grandchild) = (node.logged_pid("leader ").await, node.logged_pid("grandchild ").await);
    node.kill();
    node.logged("heard").await;
    comes_true(|| is_gone(leader) && is_gone(grandchild)).await;
    let gone_at = now();
    assert!(gone_at < until.plus(PASSES_AFTER), "{:?} late", gone_at.since(until));
    assert!(gone_at > until, "it had its time");
}

#[tokio::test]
async fn commands_of_a_node_that_stands_still_are_ended_before_the_lease_can_pass() {
    let mut nodes = [HEEDS, STUBBORN].map(|script| Node::start(&Plan { trust: Some(TRUST), ..plan(script) }));
    for node in &mut nodes {
        let until = node.until();
        let leader = node.logged_pid("leader ").await;
        node.logged_pid(if node.script == HEEDS { "child " } else { "grandchild " }).await;
        node.signal(Signal::SIGSTOP);
        comes_true(|| state(node.pid()) == Some('T')).await;
        assert!(now() < until && !is_gone(leader), "the machine is too slow for this");
    }
    for node in &mut nodes {
        let leader = node.logged_pid("leader ").await;
        node.logged("heard").await;
        comes_true(|| is_gone(leader)).await;
        assert_eq!(state(node.pid()), Some('T'), "it stands still all the time");
        assert_eq!(node.log().lines().filter(|line| *line == "heard").count(), 1, "{}", node.log());
    }
    let stubborn = &mut nodes[1];
    let grandchild = stubborn.logged_pid("grandchild ").await;
    comes_true(|| is_gone(grandchild)).await;
    for node in &mut nodes {
        node.signal(Signal::SIGCONT);
        let expected = format!("{:?}", Outcome::Stopped(StopReason::LostLeadership));
        assert_eq!(node.line("ended "), expected, "it knows why when it goes on");
    }
}

#[tokio::test]
async fn nothing_is_left_of_a_stopped_node_when_its_lease_can_pass() {
    let mut node = Node::start(&Plan { trust: Some(TRUST), ..plan(STUBBORN) });
    let until = node.until();
    let (leader, grandchild) = (node.logged_pid("leader ").await, node.logged_pid("grandchild ").await);
    node.signal(Signal::SIGSTOP);
    comes_true(|| is_gone(leader) && is_gone(grandchild)).await;
    let gone_at = now();
    assert!(gone_at < until.plus(PASSES_AFTER), "{:?} late", gone_at.since(until));
    assert!(gone_at >= until.plus(KILLED_AFTER), "it had its time");
}

#[tokio::test]
async fn a_command_told_by_its_node_does_not_outlive_the_lease_by_its_kill_after() {
    let executor = executor();
    let until = now().plus(TRUST);
    executor.deadlines().set(LEASE, until, KILLED_AFTER);
    let script = "trap '' TERM; sleep 3600 & echo child $!; echo pid $$; while :; do sleep 0.02; done";
    let mut attempt = begin_if(&executor, shell(script), MayStart::always().under(LEASE));
    let child: i32 = attempt.line("child ").await.parse().unwrap();
    attempt.pid().await;
    attempt.stopper.stop(StopReason::LostLeadership);
    assert_eq!(attempt.end().await.outcome, Outcome::Stopped(StopReason::LostLeadership));
    assert!(is_gone(child));
    assert!(now() < until.plus(PASSES_AFTER), "{:?} late", now().since(until));
}

#[tokio::test]
async fn a_command_lives_while_its_lease_is_kept_alive() {
    let executor = executor();
    let deadlines = executor.deadlines();
    const TRUST: Duration = Duration::from_secs(3);
    deadlines.set(LEASE, now().plus(TRUST), KILLED_AFTER);
    let mut attempt = begin_if(&executor, shell("echo pid $$; exec sleep 3600"), MayStart::always().under(LEASE));
    attempt.pid().await;
    let first = now().plus(TRUST);
    while now() < first.plus(KILLED_AFTER) {
        deadlines.set(LEASE, now().plus(TRUST), KILLED_AFTER);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(!attempt.ended.is_finished());
    assert_eq!(
        attempt.end().await.outcome,
        Outcome::Stopped(StopReason::LostLeadership),
        "nobody keeps it alive any more"
    );
}

#[tokio::test]
async fn a_command_is_ended_at_once_when_its_lease_ends_early() {
    let executor = executor();
    let deadlines = executor.deadlines();
    deadlines.set(LEASE, now().plus(FOREVER), KILLED_AFTER);
    let mut attempt = begin_if(&executor, shell("echo pid $$; exec sleep 3600"), MayStart::always().under(LEASE));
    attempt.pid().await;
    // By then the supervisor has heard of both, and sleeps until the lease ends.
    begin(&executor, command(["sleep", "0.2"])).end().await;
    deadlines.set(LEASE, now(), KILLED_AFTER);
    assert_eq!(attempt.end().await.outcome, Outcome::Stopped(StopReason::LostLeadership));
}

#[tokio::test]
async fn a_command_that_is_to_finish_outlives_its_node_and_the_trust() {
    // More than a pipe holds, so that it would stand still, or die of a broken pipe, if nobody read on.
    let script = "echo leader $$ >>\"$LOG\"; while ! [ -e \"$LOG.go\" ]; do sleep 0.02; done
        head -c 300000 /dev/zero || exit; echo more || exit; echo finished >>\"$LOG\"";
    let trust = Some(Duration::from_millis(300));
    for stopped in [false, true] {
        let mut node = Node::start(&Plan { finish: true, trust, ..plan(script) });
        let until = node.until();
        let leader = node.logged_pid("leader ").await;
        let supervisor = node.supervisor().unwrap();
        if stopped {
            node.signal(Signal::SIGSTOP);
            while now() < until.plus(PASSES_AFTER) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            assert!(!is_gone(leader), "the trust is over, and it goes on");
        }
        node.kill();
        assert!(!is_gone(supervisor), "it reads on");
        std::fs::write(node.directory.path().join("log.go"), "").unwrap();
        node.logged("finished").await;
        comes_true(|| is_gone(leader) && is_gone(supervisor)).await;
    }
}

#[tokio::test]
async fn a_supervisor_that_is_killed_is_replaced_and_the_next_knows_what_runs() {
    let mut node = Node::start(&plan(HEEDS));
    let (leader, child) = (node.logged_pid("leader ").await, node.logged_pid("child ").await);
    let first = node.supervisor().unwrap();
    kill(Pid::from_raw(first), Signal::SIGKILL).unwrap();
    comes_true(|| node.supervisor().is_some_and(|pid| pid != first && holds(pid, leader))).await;
    node.kill();
    node.logged("child heard").await;
    node.logged("bye").await;
    comes_true(|| is_gone(leader) && is_gone(child)).await;
}

#[tokio::test]
async fn a_start_waits_for_the_supervisor_that_is_replaced() {
    let executor = executor();
    assert_eq!(begin(&executor, command(["true"])).end().await.outcome, Outcome::Exited(0));
    let me = std::process::id().cast_signed();
    let node = format!("node={me}");
    // Other tests of this process have theirs, which are replaced as well.
    let ours =
        || processes().into_iter().filter(|pid| words(*pid, "cmdline").last() == Some(&node)).collect::<Vec<_>>();
    for supervisor in ours() {
        kill(Pid::from_raw(supervisor), Signal::SIGKILL).ok();
    }
    assert_eq!(begin(&executor, command(["true"])).end().await.outcome, Outcome::Exited(0));
}

#[tokio::test]
async fn the_kernel_tells_a_command_whose_node_and_supervisor_die() {
    let mut node = Node::start(&plan(
        "trap 'echo heard >>\"$LOG\"; exit' TERM
        echo leader $$ >>\"$LOG\"; while :; do sleep 0.02; done",
    ));
    let leader = node.logged_pid("leader ").await;
    let supervisor = node.supervisor().unwrap();
    node.signal(Signal::SIGSTOP);
    kill(Pid::from_raw(supervisor), Signal::SIGKILL).unwrap();
    comes_true(|| is_gone(supervisor)).await;
    assert!(!is_gone(leader));
    node.kill();
    node.logged("heard").await;
    comes_true(|| is_gone(leader)).await;
}

#[tokio::test]
async fn nothing_escapes_of_a_node_that_is_stopped_amid_its_starts() {
    const ROUNDS: u64 = 8;
    let running = |log: &Path| -> BTreeSet<i32> {
        let mark = format!("LOG={}", log.display());
        let ours = |pid: &i32| !is_gone(*pid) && words(*pid, "environ").contains(&mark);
        processes().into_iter().filter(ours).collect()
    };
    let mut most = 0;
    for round in 0..ROUNDS {
        let trust = Some(Duration::from_secs(2));
        let mut node = Node::start(&Plan { trust, starts: 400, ..plan("trap '' TERM; exec sleep 3600") });
        let until = node.until();
        node.line("started");
        // Another place of the loop in each round.
        tokio::time::sleep(Duration::from_micros(1_300 * round * round + 170 * round)).await;
        node.signal(Signal::SIGSTOP);
        comes_true(|| state(node.pid()) == Some('T')).await;
        most = most.max(running(&node.log_path()).len());
        assert!(now() < until, "the machine is too slow for this");
        // What is killed takes its time on a busy machine; what escaped stays.
        comes_true(|| running(&node.log_path()).is_empty()).await;
        assert_eq!(state(node.pid()), Some('T'), "it stands still all the time, in round {round}");
        node.kill();
    }
    assert!(most > 2, "the node was stopped amid its starts: {most}");
}

#[tokio::test]
async fn a_supervisor_holds_nothing_of_its_node_and_ends_with_it() {
    let mut node = Node::start(&plan("echo leader $$ >>\"$LOG\"; while ! [ -e \"$LOG.go\" ]; do sleep 0.02; done"));
    node.logged("leader ").await;
    let supervisor = node.supervisor().unwrap();
    assert_eq!(words(supervisor, "cmdline"), ["fencron-supervisor".to_owned(), format!("node={}", node.pid())]);
    assert_eq!(words(supervisor, "comm"), ["fencron-supervi\n"]);
    let variables = words(supervisor, "environ");
    assert!(variables.iter().all(|variable| variable.starts_with("LD_LIBRARY_PATH=")), "{variables:?}");
    let of_session = stat(supervisor).unwrap();
    assert_eq!(of_session[2..4], [supervisor.to_string(), supervisor.to_string()], "a group and session of its own");
    assert_eq!(std::fs::read_link(format!("/proc/{supervisor}/cwd")).unwrap(), Path::new("/"));
    let mut kinds = BTreeSet::new();
    for open in std::fs::read_dir(format!("/proc/{supervisor}/fd")).unwrap().flatten() {
        let target = std::fs::read_link(open.path()).unwrap().display().to_string();
        kinds.insert(target.split(':').next().unwrap().to_owned());
    }
    let expected = ["/memfd", "anon_inode", "pidfd", "pipe", "socket"].map(str::to_owned);
    assert!(kinds.is_subset(&BTreeSet::from(expected)), "{kinds:?}");
    for ignored in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM, Signal::SIGTSTP] {
        kill(Pid::from_raw(supervisor), ignored).unwrap();
    }
    std::fs::write(node.directory.path().join("log.go"), "").unwrap();
    assert_eq!(node.line("ended "), "Exited(0)");
    assert!(node.child.wait().unwrap().success());
    comes_true(|| is_gone(supervisor)).await;
}

#[test]
fn a_program_that_is_no_supervisor_is_refused() {
    use fencron::execute::{Executor, SupervisorProgram};
    let refused = |program| Executor::new(Clock::system(), 1, program).unwrap_err().to_string();
    let said = refused(SupervisorProgram::at("/bin/true"));
    assert!(said.contains("`/bin/true`") && said.contains("supervise_if_asked"), "{said}");
    let said = refused(SupervisorProgram::at("/nowhere"));
    assert!(said.contains("`/nowhere` cannot be executed"), "{said}");
    let said = SupervisorProgram::this().unwrap_err().to_string();
    assert!(said.contains("supervise_if_asked"), "{said}");
}

/// Lines of ten bytes: 200 MB of them, and then a sign of the end.
const MANY: &str = "seq -f %09.0f 1 20000000; echo done >>\"$LOG\"";
const MANY_BYTES: u64 = 200_000_000;

/// At most what the node has read and not written is lost: one piece.
const PIECE: u64 = 16 * 1024;

#[tokio::test]
async fn a_whole_output_goes_on_when_the_node_is_killed_amid_it() {
    let mut node = Node::start(&Plan { finish: true, keeps: 1 << 30, ..plan(MANY) });
    let file = whole_place(node.directory.path()).path();
    let size = || std::fs::metadata(&file).map_or(0, |meta| meta.len());
    comes_true(|| size() > 1_000_000).await;
    node.kill();
    let killed_at = size();
    assert!(killed_at < MANY_BYTES / 2, "the node was killed amid it");
    node.logged("done").await;
    comes_true(|| size() >= MANY_BYTES - PIECE && std::fs::read(&file).unwrap().ends_with(b"020000000\n")).await;
    let bytes = std::fs::read(&file).unwrap();
    let missing = MANY_BYTES - bytes.len() as u64;
    assert!(missing <= PIECE, "{missing} bytes of {MANY_BYTES}");
    // In order, but for what is missing: a line that is cut counts as missing.
    let mut last = 0;
    for line in bytes.split(|byte| *byte == b'\n').filter(|line| line.len() == 9) {
        let Ok(number) = std::str::from_utf8(line).unwrap().parse::<u64>() else { continue };
        assert!(number > last && (number - last - 1) * 10 <= PIECE + 10, "{number} follows {last}");
        last = number;
    }
}

#[tokio::test]
async fn a_supervisor_keeps_within_the_bound_of_a_file() {
    let script = "echo begun >>\"$LOG\"; while ! [ -e \"$LOG.go\" ]; do sleep 0.02; done; yes | head -c 1000000
        echo done >>\"$LOG\"";
    let mut node = Node::start(&Plan { finish: true, keeps: 100_000, ..plan(script) });
    node.logged("begun").await;
    node.kill();
    std::fs::write(node.log_path().with_extension("go"), "").unwrap();
    node.logged("done").await;
    let file = whole_place(node.directory.path()).path();
    comes_true(|| std::fs::metadata(&file).unwrap().len() == 100_000).await;
}
