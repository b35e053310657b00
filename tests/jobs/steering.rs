//! The stock command steers a service that it knows nothing of but the store and the namespace.

use fencron::job::{RunId, Verdict};
use fencron::jobs::{Cancelled, JobsError, Run};
use tokio::sync::mpsc;

use crate::scene::{GRACE, Scene, leads, triggered, verdict};
use crate::support::{over_both, soon, until};

over_both!(
    parameters_reach_the_closure,
    a_person_cancels_a_run,
    a_paused_job_is_not_due,
    instances_that_differ_are_reported,
);

async fn parameters_reach_the_closure(scene: Scene) {
    let (told, mut params) = mpsc::unbounded_channel();
    let report = move |run: Run| {
        let all: Vec<(String, String)> = run.params().iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
        told.send((run.param("region").map(str::to_owned), all)).unwrap();
        async {}
    };
    let jobs = scene.service("web-1").await.job("report", "@yearly", report).done().start().await.unwrap();
    leads(&jobs).await;
    scene.fencron(&["trigger", "report", "--param", "region=eu", "--param", "note=a = b", "--wait"]);
    let expected = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<Vec<_>>()
    };
    let both = expected(&[("note", "a = b"), ("region", "eu")]);
    assert_eq!(params.try_recv(), Ok((Some("eu".to_owned()), both)));
    let run = jobs.trigger("report", &[("region", "us")]).await.unwrap();
    verdict(&jobs, &run).await;
    assert_eq!(params.try_recv(), Ok((Some("us".to_owned()), expected(&[("region", "us")]))));
    assert!(matches!(jobs.trigger("report", &[("Region", "us")]).await, Err(JobsError::Param(_))));
    assert!(matches!(jobs.trigger("no-such", &[]).await, Err(JobsError::NoSuchJob(_))));
    soon("it stops", jobs.stop(GRACE)).await.unwrap();
}

async fn a_person_cancels_a_run(scene: Scene) {
    let (told, mut reasons) = mpsc::unbounded_channel();
    let lasting = move |run: Run| {
        let told = told.clone();
        async move {
            run.log("begun");
            told.send(run.why_cancelled()).unwrap();
            let signal = run.signal();
            signal.cancelled().await;
            told.send(run.why_cancelled()).unwrap();
        }
    };
    let jobs = scene.service("web-1").await.job("lasting", "@yearly", lasting).done().start().await.unwrap();
    let run: RunId = triggered(&jobs, "lasting").await;
    assert_eq!(soon("it begins", reasons.recv()).await, Some(None));
    scene.fencron(&["cancel", run.as_str()]);
    assert_eq!(soon("it is told", reasons.recv()).await, Some(Some(Cancelled::Asked)));
    let ended = verdict(&jobs, &run).await;
    assert_eq!((ended.verdict, ended.output.as_str()), (Verdict::Cancelled, "begun\n"));
    assert!(ended.reason.starts_with("cancelled by request, of "), "{ended:?}");
    soon("it stops", jobs.stop(GRACE)).await.unwrap();
}

async fn a_paused_job_is_not_due(scene: Scene) {
    let jobs = scene.service("web-1").await.job("tick", "* * * * * *", async |_| {}).done().start().await.unwrap();
    leads(&jobs).await;
    scene.fencron(&["pause", "tick"]);
    assert!(jobs.pause("tick").await.unwrap_err().to_string().contains("paused already"));
    until("an occurrence is skipped", async || {
        let rows = jobs.runs(Some("tick"), 100).await.unwrap();
        rows.iter().any(|row| row.verdict() == Some(Verdict::Skipped)).then_some(())
    })
    .await;
    jobs.resume("tick").await.unwrap();
    assert_eq!(scene.json(&["jobs"])[0]["paused"], false);
    soon("it stops", jobs.stop(GRACE)).await.unwrap();
}

async fn instances_that_differ_are_reported(scene: Scene) {
    let service = async |node: &str, version: &str| {
        let jobs = scene.service(node).await.job("report", "@yearly", async |_| {}).version(version).done();
        jobs.start().await.unwrap()
    };
    let different = || scene.fencron(&["status"]).contains("different configurations");
    let (a, same) = (service("a", "1").await, service("same", "1").await);
    until("both are seen", async || (scene.json(&["status"])["nodes"].as_array()?.len() == 2).then_some(())).await;
    assert!(!different());
    let other = service("other", "2").await;
    until("it is reported", async || different().then_some(())).await;
    assert_ne!(a.status().config_digest, other.status().config_digest);
    for jobs in [a, same, other] {
        soon("it stops", jobs.stop(GRACE)).await.unwrap();
    }
}
