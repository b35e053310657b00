//! What the tests share: a job, an attempt that is under way, and a look at processes.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fencron::execute::{
    Execute, Executor, Follow, Heard, MayStart, Outputs, Place, Reads, Started, Stop, Stopper, SupervisorProgram, Work,
};
use fencron::fence::{Fence, Scope, Stamp};
use fencron::job::*;
use fencron::time::{Clock, Wall};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// How long something may take that is to happen: long, as machines are slow at times, and nothing waits for it to
/// pass.
pub const LIMIT: Duration = Duration::from_secs(60);
/// Longer than [`LIMIT`]: what is not to be waited for.
pub const FOREVER: Duration = Duration::from_secs(3600);

pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, what).await.expect("it happens soon")
}

pub fn executor() -> Executor {
    executor_of(1_000)
}

/// One that runs so many at once.
pub fn executor_of(max_running: usize) -> Executor {
    let supervisor = SupervisorProgram::at(env!("CARGO_BIN_EXE_fencron"));
    Executor::new(Clock::system(), max_running, supervisor).unwrap()
}

/// A job that runs `argv`.
pub fn command<const N: usize>(argv: [&str; N]) -> Job {
    let task = Task::Command(argv.map(Text::plain).into());
    Job { kill_after: FOREVER, ..Job::new(JobName::new("report").unwrap(), task) }
}

/// A job that runs `script`.
pub fn shell(script: &str) -> Job {
    command(["/bin/sh", "-c", script])
}

pub fn run_id() -> RunId {
    "report@2026-11-21T02:00:00Z".parse().unwrap()
}

pub fn stamp() -> Stamp {
    Stamp {
        namespace: "shop".into(),
        scope: Scope::leader("shop"),
        fence: Fence::new(7).unwrap(),
        job: "report".into(),
        run_id: run_id().to_string(),
        scheduled_at: run_id().at(),
        attempt: 2,
        node: "a".into(),
        after: None,
    }
}

/// Keeps all of an output below `dir`, up to so many bytes.
pub fn whole_output(dir: &Path, max_bytes: u64) -> Arc<WholeOutput> {
    let dir = Text::plain(dir.join("outputs").to_str().unwrap());
    Arc::new(WholeOutput { dir, max_bytes, keep: KeepOutputs::FORGOTTEN })
}

/// Where that of the attempt here is.
pub fn whole_place(dir: &Path) -> Place {
    Place::of(&whole_output(dir, 0), "shop", &run_id(), stamp().attempt)
}

/// An attempt that is under way.
pub struct Attempt {
    pub ended: JoinHandle<AttemptResult>,
    pub started: oneshot::Receiver<Wall>,
    pub stopper: Stopper,
    follow: Follow,
    heard: String,
}

pub fn begin(executor: &Executor, job: Job) -> Attempt {
    begin_if(executor, job, MayStart::always())
}

pub fn begin_if(executor: &Executor, job: Job, may_start: MayStart) -> Attempt {
    let outputs = Outputs::new(Clock::system());
    let output = outputs.open(&run_id());
    let follow = outputs.follow(&run_id()).unwrap();
    let (stopper, stop) = Stop::channel();
    let (started, when) = Started::channel();
    let work = Work {
        job: Arc::new(job),
        stamp: stamp(),
        params: Params::new([("region", "eu")]).unwrap(),
        hold: None,
        stop,
        may_start,
        output,
        started,
        reads: Reads::Nothing,
    };
    let executor = executor.clone();
    let ended = tokio::spawn(async move { executor.run(work).await });
    Attempt { ended, started: when, stopper, follow, heard: String::new() }
}

/// Runs a job to its end.
pub async fn run(job: Job) -> AttemptResult {
    begin(&executor(), job).end().await
}

impl Attempt {
    pub async fn end(self) -> AttemptResult {
        soon(self.ended).await.unwrap()
    }

    /// Waits for a line of output that begins so, and returns the rest of it.
    pub async fn line(&mut self, prefix: &str) -> String {
        loop {
            let whole_lines = self.heard.rsplit_once('\n').map_or("", |(lines, _)| lines);
            if let Some(rest) = whole_lines.lines().find_map(|line| line.strip_prefix(prefix)) {
                return rest.to_owned();
            }
            match soon(self.follow.next()).await {
                Some(Heard::Text(text)) => self.heard.push_str(&text),
                other => panic!("no line begins with {prefix:?}, but {other:?}: {}", self.heard),
            }
        }
    }

    pub async fn pid(&mut self) -> i32 {
        self.line("pid ").await.parse().unwrap()
    }
}

/// The state letter of a process, as proc(5) has it; `None`: there is none.
pub fn state(pid: i32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

pub async fn comes_true(what: impl Fn() -> bool) {
    soon(async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

/// Whether this is the process that [`in_a_process_of_its_own`] made.
pub fn is_apart() -> bool {
    std::env::var_os("FENCRON_TEST_APART").is_some()
}

/// This test program once more, to run the test `name` alone in a process of its own.
pub fn in_a_process_of_its_own(name: &str) -> std::process::Command {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args([name, "--exact", "--nocapture", "--test-threads=1"]).env("FENCRON_TEST_APART", "1");
    command
}

pub fn script(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}
