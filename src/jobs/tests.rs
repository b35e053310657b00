//! The executor of closures, an attempt at a time.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::poll;
use tokio::sync::{mpsc, oneshot};

use super::calls::{Calls, body};
use super::run::REASON_MOST;
use super::{Cancelled, IntoOutcome, Outcome, Run};
use crate::config::{Program, Written};
use crate::execute::{Execute, MayStart, Outputs, Reads, Started, Stop, Stopper, Work};
use crate::fence::{Fence, Scope, Stamp};
use crate::job::{AttemptResult, Job, Params, RunId, StopReason};
use crate::time::Clock;

const KILLED_AFTER: Duration = Duration::from_millis(20);

/// An attempt of a job with these settings: its executor, its work, and what stops it.
struct Scene {
    calls: Calls,
    outputs: Outputs,
    work: Work,
    stopper: Stopper,
}

impl Scene {
    fn new<F, R>(call: F, keys: &[(&str, &str)], may_start: MayStart) -> Scene
    where
        F: Fn(Run) -> R + Send + Sync + 'static,
        R: Future<Output: IntoOutcome> + Send + 'static,
    {
        let job = job(keys);
        let clock = Clock::system();
        let calls = Calls::new(clock.clone(), KILLED_AFTER, BTreeMap::from([(job.name.clone(), body(call))]));
        let run_id = RunId::of(&job.name, "2026-11-21T02:00:00Z".parse().unwrap());
        let stamp = Stamp {
            namespace: "shop".into(),
            scope: Scope::leader("shop"),
            fence: Fence::new(7).unwrap(),
            job: job.name.to_string(),
            run_id: run_id.to_string(),
            scheduled_at: run_id.at(),
            attempt: 1,
            node: "a".into(),
            after: None,
        };
        let outputs = Outputs::new(clock);
        let (stopper, stop) = Stop::channel();
        let work = Work {
            job,
            stamp,
            params: Params::default(),
            hold: None,
            stop,
            may_start,
            output: outputs.open(&run_id),
            started: Started::channel().0,
            reads: Reads::Nothing,
        };
        Scene { calls, outputs, work, stopper }
    }

    async fn ended(self) -> AttemptResult {
        self.calls.run(self.work).await
    }
}

fn job(keys: &[(&str, &str)]) -> Arc<Job> {
    let mut written = Written::new("report");
    written.set(&["schedule"], "@daily");
    keys.iter().for_each(|(key, value)| written.set(&[key], *value));
    let mut program = Program::new("shop");
    program.job(written);
    program.config().unwrap().jobs.pop_first().unwrap().1
}

#[tokio::test]
async fn trust_is_looked_at_right_before_the_call() {
    let (trusted, called) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
    let (looked_at, noted) = (Arc::clone(&trusted), Arc::clone(&called));
    let call = move |_| {
        noted.store(true, Ordering::SeqCst);
        async {}
    };
    let scene = Scene::new(call, &[], MayStart::new(move || looked_at.load(Ordering::SeqCst)));
    let mut ended = std::pin::pin!(scene.ended());
    // The task is there and has not had its turn.
    assert!(poll!(&mut ended).is_pending());
    trusted.store(false, Ordering::SeqCst);
    let ended = ended.await;
    assert_eq!((ended.outcome, ended.started_at), (Outcome::Stopped(StopReason::LostLeadership), None));
    assert!(!called.load(Ordering::SeqCst));
}

#[tokio::test]
async fn what_was_stopped_before_it_began_is_not_called() {
    let scene = Scene::new(async |_| -> () { panic!("it is called") }, &[], MayStart::always());
    scene.stopper.stop(StopReason::Asked);
    let ended = scene.ended().await;
    assert_eq!((ended.outcome, ended.started_at), (Outcome::Stopped(StopReason::Asked), None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_is_not_over_while_its_closure_blocks_a_thread() {
    let (finish, finished) = std::sync::mpsc::channel::<()>();
    let finished = Arc::new(std::sync::Mutex::new(finished));
    let call = move |_| {
        let finished = Arc::clone(&finished);
        async move { finished.lock().unwrap().recv().unwrap() }
    };
    let scene = Scene::new(call, &[("timeout", "1ms"), ("kill_after", "0s")], MayStart::always());
    let mut ended = std::pin::pin!(scene.ended());
    let early = tokio::time::timeout(Duration::from_millis(300), &mut ended).await;
    assert!(early.is_err(), "the closure still runs: {early:?}");
    finish.send(()).unwrap();
    assert_eq!(ended.await.outcome, Outcome::TimedOut);
}

#[tokio::test]
async fn a_lost_leadership_leaves_no_more_time_than_the_lease_does() {
    let (told, mut reasons) = mpsc::unbounded_channel();
    let call = move |run: Run| {
        let told = told.clone();
        async move {
            told.send(None).unwrap();
            told.send(Some(run.cancelled().await)).unwrap();
            std::future::pending::<()>().await;
        }
    };
    let scene = Scene::new(call, &[("kill_after", "1h")], MayStart::always());
    let stopper = scene.stopper.clone();
    let ended = tokio::spawn(scene.ended());
    assert_eq!(reasons.recv().await, Some(None));
    stopper.stop(StopReason::LostLeadership);
    let ended = tokio::time::timeout(Duration::from_secs(60), ended).await.expect("not after an hour").unwrap();
    assert_eq!(reasons.try_recv(), Ok(Some(Cancelled::LostLeadership)));
    assert_eq!(ended.outcome, Outcome::Stopped(StopReason::LostLeadership));
}

#[tokio::test]
async fn a_dropped_attempt_leaves_nothing_but_what_the_closure_has_spawned() {
    let (dropped, drops) = oneshot::channel::<()>();
    let (begun, mut begins) = mpsc::unbounded_channel();
    let dropped = std::sync::Mutex::new(Some(dropped));
    let call = move |run: Run| {
        let (dropped, begun) = (dropped.lock().unwrap().take(), begun.clone());
        async move {
            let _dropped = dropped;
            begun.send(run).unwrap();
            std::future::pending::<()>().await;
        }
    };
    let scene = Scene::new(call, &[], MayStart::always());
    let outputs = scene.outputs.clone();
    let attempt = tokio::spawn(scene.ended());
    let run = begins.recv().await.unwrap();
    let (signal, id) = (run.signal(), run.id().parse().unwrap());
    assert!(outputs.follow(&id).is_some());
    attempt.abort();
    assert!(drops.await.is_err(), "its future is dropped");
    signal.cancelled().await;
    assert!(outputs.follow(&id).is_none(), "what it has left running writes nowhere");
    run.log("too late");
}

#[tokio::test]
async fn a_reason_is_bounded_and_shown_with_the_output() {
    let call = async |run: Run| {
        run.log("begun");
        Err::<(), _>("ü".repeat(REASON_MOST))
    };
    let ended = Scene::new(call, &[], MayStart::always()).ended().await;
    let Outcome::Failed { why, .. } = &ended.outcome else { panic!("{:?}", ended.outcome) };
    assert_eq!(*why, "ü".repeat(REASON_MOST / 2) + "…");
    assert_eq!(ended.output, format!("begun\n{why}\n"));
}
