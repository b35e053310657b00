//! What the tests share: a job that makes a request, and an attempt at it.

use std::sync::Arc;
use std::time::Duration;

use fencron::execute::{Execute, Executor, MayStart, Outputs, Reads, Started, Stop, Stopper, SupervisorProgram, Work};
use fencron::fence::{After, AfterEnd, Fence, Scope, Stamp};
use fencron::job::*;
use fencron::time::Clock;
use tokio::task::JoinHandle;

use crate::LIMIT;

pub const RUN: &str = "report@2026-11-21T02:00:00Z";

/// A request with the defaults of the configuration.
pub fn request(method: &str, url: &str) -> Http {
    Http { connect_timeout: Duration::from_secs(30), ..Http::new(method, Text::plain(url)) }
}

pub fn statuses(text: &str) -> Statuses {
    text.split(' ').map(|range| range.parse::<StatusRange>().unwrap()).collect()
}

fn job(http: Http, timeout: Option<Duration>) -> Job {
    Job { timeout, ..Job::new(JobName::new("report").unwrap(), Task::Http(Box::new(http))) }
}

pub fn stamp() -> Stamp {
    let run: RunId = RUN.parse().unwrap();
    Stamp {
        namespace: "shop".into(),
        scope: Scope::leader("shop"),
        fence: Fence::new(7).unwrap(),
        job: "report".into(),
        run_id: run.to_string(),
        scheduled_at: run.at(),
        attempt: 2,
        node: "a".into(),
        after: Some(After {
            run_id: "import@2026-11-21T02:00:00Z".into(),
            job: "import".into(),
            end: Some(AfterEnd { verdict: "failed".into(), reason: "exit code 3".into(), exit_code: Some(3) }),
        }),
    }
}

/// An attempt that is under way.
pub struct Attempt {
    ended: JoinHandle<AttemptResult>,
    pub stopper: Stopper,
}

pub fn begin(http: Http, timeout: Option<Duration>, may_start: MayStart) -> Attempt {
    begin_given(Params::default(), http, timeout, may_start)
}

/// The same of a run that was given parameters.
pub fn begin_given(params: Params, http: Http, timeout: Option<Duration>, may_start: MayStart) -> Attempt {
    let executor = Executor::new(Clock::system(), 10, SupervisorProgram::at(env!("CARGO_BIN_EXE_fencron"))).unwrap();
    let output = Outputs::new(Clock::system()).open(&RUN.parse().unwrap());
    let (stopper, stop) = Stop::channel();
    let (started, _when) = Started::channel();
    let work = Work {
        job: Arc::new(job(http, timeout)),
        stamp: stamp(),
        params,
        hold: None,
        stop,
        may_start,
        output,
        started,
        reads: Reads::Nothing,
    };
    Attempt { ended: tokio::spawn(async move { executor.run(work).await }), stopper }
}

impl Attempt {
    pub async fn end(self) -> AttemptResult {
        tokio::time::timeout(LIMIT, self.ended).await.expect("it ends").unwrap()
    }
}

/// Makes a request, and tells how that ended.
pub async fn run(http: Http) -> AttemptResult {
    begin(http, None, MayStart::always()).end().await
}

/// The same with a limit of time.
pub async fn run_within(timeout: Duration, http: Http) -> AttemptResult {
    begin(http, Some(timeout), MayStart::always()).end().await
}

/// Why it failed, and whether it may be repeated.
#[track_caller]
pub fn failed(ended: &AttemptResult) -> (&str, Again) {
    match &ended.outcome {
        Outcome::Failed { why, again } => (why, *again),
        other => panic!("it is to fail, and is {other:?}"),
    }
}

/// Why it is in doubt.
#[track_caller]
pub fn in_doubt(ended: &AttemptResult) -> &str {
    match &ended.outcome {
        Outcome::InDoubt(why) => why,
        other => panic!("it is to be in doubt, and is {other:?}"),
    }
}

/// Whether this process runs one test alone. Else it runs the test `name` so, with these variables, which has to pass.
pub fn apart(name: &str, variables: &[(&str, String)]) -> bool {
    if std::env::var_os("FENCRON_TEST_APART").is_some() {
        return true;
    }
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args([name, "--exact", "--nocapture", "--test-threads=1"]).env("FENCRON_TEST_APART", "1");
    for name in ["ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"] {
        command.env_remove(name).env_remove(name.to_lowercase());
    }
    let output = command.envs(variables.iter().map(|(name, value)| (*name, value))).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    false
}
