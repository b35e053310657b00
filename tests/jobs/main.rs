//! Jobs as closures: whole services over SQLite and over etcd, looked at and steered by the stock command.
#![cfg(feature = "cli")]

#[path = "../support/mod.rs"]
mod support;

mod ends;
mod processes;
mod scene;
mod steering;

use std::time::Duration;

use fencron::Client;
use fencron::job::Verdict;
use fencron::jobs::{Jobs, JobsError, Missed, On, Overlap, Run, after};
use fencron::ledger::RunRow;
use fencron::store::{Op, Store};
use fencron::time::{Clock, Wall};
use tokio::sync::mpsc;

use scene::{GRACE, Scene, leads, triggered, verdict};
use support::{over_both, soon, until};

over_both!(
    a_closure_fires_on_schedule_with_its_fence_and_stamp,
    what_was_missed_is_made_up_for_as_the_job_says,
    a_chain_follows_the_end_that_it_waits_for,
    other_jobs_take_the_place_of_those_that_run,
);

/// A closure that passes its runs on and ends at once.
fn passing_on(runs: &mpsc::UnboundedSender<Run>) -> impl Fn(Run) -> std::future::Ready<()> + Send + Sync + 'static {
    let runs = runs.clone();
    move |run| {
        // The test may be over.
        runs.send(run).ok();
        std::future::ready(())
    }
}

async fn a_closure_fires_on_schedule_with_its_fence_and_stamp(scene: Scene) {
    let (told, mut runs) = mpsc::unbounded_channel();
    let client = scene.client("web-1", scene::LONG_TTL).await;
    let store = client.store().clone();
    let tick = move |run: Run| {
        let (told, store) = (told.clone(), store.clone());
        async move {
            let put = run.txn().then(Op::put("/shop/last", run.id()));
            let proven = store.commit(put).await?.succeeded;
            run.log(format_args!("proven: {proven}"));
            told.send(run).ok();
            Ok::<_, fencron::store::StoreError>(())
        }
    };
    let before = Clock::system().wall();
    let jobs = client.jobs().job("tick", "* * * * * *", tick).done().start().await.unwrap();
    let (first, second) = (soon("it fires", runs.recv()).await.unwrap(), soon("again", runs.recv()).await.unwrap());
    let fence = jobs.terms().borrow().expect("it leads");
    for run in [&first, &second] {
        assert_eq!((run.job(), run.attempt(), run.fence()), ("tick", 1, fence));
        assert_eq!((run.scheduled_at().as_millis() % 1000, run.scheduled_at() > before), (0, true));
        assert_eq!(run.id(), format!("tick@{}", run.scheduled_at()));
        let stamp = run.stamp();
        assert_eq!((stamp.scope.as_str(), stamp.node.as_str(), &*stamp.run_id), ("shop/leader", "web-1", run.id()));
        assert!(run.params().is_empty());
    }
    assert!(first.scheduled_at() < second.scheduled_at());
    let ended = verdict(&jobs, &first.id().parse().unwrap()).await;
    assert_eq!((ended.verdict, ended.output.as_str()), (Verdict::Succeeded, "proven: true\n"));

    let run = first.id();
    assert_eq!(scene.fencron(&["logs", run]), "proven: true\n");
    let shown = scene.json(&["runs", "--job", "tick"]);
    let shown = shown.as_array().unwrap().iter().find(|shown| shown["run_id"] == run).unwrap();
    assert_eq!((&shown["state"], &shown["node"]), (&"succeeded".into(), &"web-1".into()));
    assert_eq!(shown["fence"], fence.get());
    let status = scene.json(&["status"]);
    assert_eq!((&status["leader"]["node"], &status["leader"]["fence"]), (&"web-1".into(), &fence.get().into()));
    assert!(scene.fencron(&["jobs"]).contains("tick"));
    soon("it stops", jobs.stop(GRACE)).await.unwrap();
}

async fn what_was_missed_is_made_up_for_as_the_job_says(scene: Scene) {
    let (told, mut runs) = mpsc::unbounded_channel();
    let service = async || {
        let mut jobs = scene.service("web-1").await;
        for (name, missed) in [("all", Missed::All), ("latest", Missed::Latest), ("skip", Missed::Skip)] {
            let job = jobs.job(name, "* * * * * *", passing_on(&told)).missed(missed).missed_at_most(1000, "1000/s");
            jobs = job.overlap(Overlap::Allow { max_running: 1000 }).done();
        }
        jobs.start().await.unwrap()
    };
    let jobs = service().await;
    soon("it fires", runs.recv()).await.unwrap();
    soon("it stops", jobs.stop(GRACE)).await.unwrap();
    let now = || Clock::system().wall();
    let stopped = now();
    until("some are missed", async || (now().since(stopped) > Duration::from_secs(7)).then_some(())).await;
    let started = now();
    let jobs = service().await;
    // What is less late than this may be taken for one that a busy leader fires late.
    let is_missed = |at: &Wall| *at > stopped && at.plus(Duration::from_secs(3)) < started;
    let seconds = stopped.as_millis() / 1000..=started.as_millis() / 1000;
    let missed: Vec<Wall> = seconds.map(|second| Wall::from_millis(second * 1000)).filter(is_missed).collect();
    assert!(missed.len() >= 3, "{missed:?}");
    until("what was missed is decided", async || {
        for job in ["latest", "skip"] {
            succeeded(&jobs, job).await.last().filter(|at| **at > started)?;
        }
        let all = succeeded(&jobs, "all").await;
        missed.iter().all(|at| all.contains(at)).then_some(())
    })
    .await;
    // The latest may have been missed between the start and the take-over.
    assert!(succeeded(&jobs, "latest").await.iter().filter(|at| is_missed(at)).count() <= 1);
    assert_eq!(succeeded(&jobs, "skip").await.iter().filter(|at| is_missed(at)).count(), 0);
    for (job, reason) in [("latest", "a later occurrence takes its place"), ("skip", "no leader when it was due")] {
        let rows = jobs.runs(Some(job), 1000).await.unwrap();
        let says = |row: &RunRow| matches!(row, RunRow::Done(done) if done.reason.contains(reason));
        assert!(rows.iter().any(says), "{reason}: {rows:?}");
    }
    soon("it stops", jobs.stop(GRACE)).await.unwrap();
}

/// The instants of the job's runs that have succeeded, in their order.
async fn succeeded(jobs: &Jobs, job: &str) -> Vec<Wall> {
    let rows = jobs.runs(Some(job), 1000).await.unwrap();
    let mut instants: Vec<Wall> =
        rows.iter().filter(|row| row.verdict() == Some(Verdict::Succeeded)).map(|row| row.id().at()).collect();
    instants.sort_unstable();
    instants
}

async fn a_chain_follows_the_end_that_it_waits_for(scene: Scene) {
    let (told, mut runs) = mpsc::unbounded_channel();
    let jobs = scene.service("web-1").await;
    let jobs = jobs.job("import", "@yearly", async |_| Err::<(), _>("no file")).done();
    let jobs = jobs.job("report", after("import"), passing_on(&told)).done();
    let jobs = jobs.job("alarm", after("import").on(On::Failure), passing_on(&told)).done().start().await.unwrap();
    let import = triggered(&jobs, "import").await;
    let alarm = soon("the alarm follows", runs.recv()).await.unwrap();
    assert_eq!(alarm.job(), "alarm");
    let after = alarm.stamp().after.as_ref().expect("it follows a run");
    assert_eq!((after.run_id.as_str(), after.end.as_ref().unwrap().reason.as_str()), (import.as_str(), "no file"));
    verdict(&jobs, &alarm.id().parse().unwrap()).await;
    let rows = jobs.runs(None, 10).await.unwrap();
    assert_eq!(rows.len(), 2, "nothing follows a success that there was not: {rows:?}");
    assert!(matches!(jobs.runs(Some("report"), 10).await.as_deref(), Ok([])));
    soon("it stops", jobs.stop(GRACE)).await.unwrap();
}

async fn other_jobs_take_the_place_of_those_that_run(scene: Scene) {
    let (told, mut runs) = mpsc::unbounded_channel();
    let jobs = scene.service("web-1").await.job("old", "* * * * * *", passing_on(&told)).done();
    let mut jobs = jobs.start().await.unwrap();
    soon("the old one fires", runs.recv()).await.unwrap();
    let before = jobs.status().config_digest;
    let wrong = scene.service("web-1").await.job("new", "every second", passing_on(&told)).done();
    assert!(matches!(jobs.replace(wrong).await, Err(JobsError::Wrong(_))));
    let new = scene.service("web-1").await.job("new", "* * * * * *", passing_on(&told)).done();
    jobs.replace(new).await.unwrap();
    soon("the new one fires", async { while runs.recv().await.unwrap().job() != "new" {} }).await;
    assert_ne!(jobs.status().config_digest, before);
    assert!(matches!(jobs.trigger("old", &[]).await, Err(JobsError::NoSuchJob(_))));
    let rows = jobs.runs(None, 1000).await.unwrap();
    let failed: Vec<&RunRow> = rows.iter().filter(|row| row.verdict() == Some(Verdict::Failed)).collect();
    assert!(failed.is_empty(), "{failed:?}");
    soon("it stops", jobs.stop(GRACE)).await.unwrap();
}

#[tokio::test]
async fn all_that_is_wrong_is_told_at_once() {
    let jobs = scene::Scene::over_sqlite().service("web-1").await;
    let jobs = jobs.job("nightly", "0 25 * * *", async |_| {}).zone("Europe/Berln").retry(0).done();
    let jobs = jobs.job("report", after("elsewhere"), async |_| {}).done();
    let Err(JobsError::Wrong(problems)) = jobs.start().await else { panic!("it has started") };
    assert_eq!(problems.count(), 4, "{problems}");
    let told = problems.to_string();
    for part in [
        "jobs.nightly.schedule: ",
        "schedule: \"0 25 * * *\"",
        "jobs.nightly.timezone: `Europe/Berln` is not a time zone",
        "jobs.nightly.retry.attempts: `0` is not a whole number from 1 to 100",
        "jobs.report.after.job: there is no job `elsewhere`: name one of this program",
    ] {
        assert!(told.contains(part), "{part:?} is not in\n{told}");
    }
}

#[tokio::test]
async fn a_service_without_jobs_is_not_started_and_its_main_says_why() {
    let service = scene::Scene::over_sqlite().service("web-1").await;
    let error = service.start().await.unwrap_err();
    assert!(matches!(error, JobsError::NoJobs));
    assert_eq!(format!("{error:?}"), "there are no jobs to start: add one with `job(…).done()` before `start`");
    let main =
        async || -> Result<(), JobsError> { Client::connect("redis://10.0.0.1").await.map(drop).map_err(Into::into) };
    let error = main().await.unwrap_err();
    assert!(format!("{error:?}").starts_with("a URL that begins with `redis:` is no store"), "{error:?}");
    assert!(fencron::Error::from(error).is_invalid());
}

/// Two modules of one service that each start their jobs would otherwise be two nodes of one name, of which one never
/// leads.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_runs_one_set_of_jobs_at_a_time() {
    let scene = Scene::over_sqlite();
    let client = scene.client("web-1", Duration::from_secs(10)).await;
    let start = async |job: &str| client.jobs().job(job, "@yearly", async |_: Run| {}).done().start().await;
    let first = start("first").await.unwrap();
    assert!(matches!(start("second").await, Err(JobsError::Running)));
    soon("it stops", first.stop(GRACE)).await.unwrap();
    let second = start("second").await.unwrap();
    leads(&second).await;
    soon("it stops", second.stop(GRACE)).await.unwrap();
}
