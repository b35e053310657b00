//! How runs of closures end: badly, too late, or because somebody says so.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use fencron::job::Verdict;
use fencron::jobs::{Cancelled, Guarantee, Outcome, Overlap, Run};
use fencron::ledger::Ledger;
use fencron::lock::Namespace;
use fencron::store::{LeaseId, Store};
use tokio::sync::mpsc;

use crate::scene::{GRACE, NAMESPACE, Scene, leads, triggered, verdict};
use crate::support::{over_both, soon, until};

over_both!(
    an_error_is_tried_again_and_a_panic_is_a_failed_run,
    what_takes_too_long_is_told_and_then_dropped,
    a_run_that_is_due_while_another_is_open_is_skipped,
    a_lost_leadership_cancels_what_runs,
    stopping_lets_runs_end_within_the_grace_and_hands_over_at_once,
    what_still_runs_after_the_grace_is_told_to_stop,
    a_handle_that_is_dropped_stops,
);

/// Tells when it is dropped.
struct Dropped(mpsc::UnboundedSender<()>);

impl Drop for Dropped {
    fn drop(&mut self) {
        // The test may be over.
        self.0.send(()).ok();
    }
}

async fn an_error_is_tried_again_and_a_panic_is_a_failed_run(scene: Scene) {
    let tries = Arc::new(AtomicU32::new(0));
    let flaky = move |run: Run| {
        let attempt = tries.fetch_add(1, Ordering::SeqCst) + 1;
        async move {
            assert_eq!(run.attempt(), attempt);
            if attempt < 3 { Err(format!("not yet {attempt}")) } else { Ok(()) }
        }
    };
    let jobs = scene.service("web-1").await;
    let pause = Duration::from_millis(10);
    let jobs = jobs.job("flaky", "@yearly", flaky).retry(3).backoff(pause, pause).done();
    let jobs = jobs.job("wrong", "@yearly", async |_| Err::<(), _>("no such customer")).done();
    let jobs = jobs.job("panics", "@yearly", async |_| -> () { panic!("no {}", "luck") }).done();
    let jobs = jobs.job("doubts", "@yearly", async |_| Outcome::InDoubt("no answer".to_owned())).done();
    let jobs = jobs.start().await.unwrap();
    for (job, expected, reason, attempts) in [
        ("flaky", Verdict::Succeeded, "", 3),
        ("wrong", Verdict::Failed, "no such customer", 1),
        ("panics", Verdict::Failed, "panicked: no luck", 1),
        ("doubts", Verdict::Unknown, "no answer", 1),
    ] {
        let run = triggered(&jobs, job).await;
        let ended = verdict(&jobs, &run).await;
        assert_eq!((ended.verdict, ended.reason.as_str(), ended.attempt), (expected, reason, attempts), "{ended:?}");
    }
    assert!(jobs.terms().borrow().is_some(), "a panic ends nothing else");
    soon("it stops", jobs.stop(GRACE)).await.unwrap();
}

async fn what_takes_too_long_is_told_and_then_dropped(scene: Scene) {
    let ((told, mut reasons), (dropped, mut drops)) = (mpsc::unbounded_channel(), mpsc::unbounded_channel());
    let heeds = move |run: Run| {
        let told = told.clone();
        async move {
            told.send(run.cancelled().await).unwrap();
        }
    };
    let deaf = move |run: Run| {
        let dropped = Dropped(dropped.clone());
        async move {
            let _dropped = dropped;
            run.log("begun");
            std::future::pending::<()>().await;
        }
    };
    let jobs = scene.service("web-1").await;
    let soon_over = Duration::from_millis(100);
    let jobs = jobs.job("heeds", "@yearly", heeds).timeout(soon_over).kill_after(Duration::from_secs(3600)).done();
    let jobs = jobs.job("deaf", "@yearly", deaf).timeout(soon_over).kill_after(soon_over).done();
    let jobs = jobs.start().await.unwrap();
    let run = triggered(&jobs, "heeds").await;
    assert_eq!(verdict(&jobs, &run).await.verdict, Verdict::TimedOut);
    assert_eq!(reasons.try_recv(), Ok(Cancelled::TimedOut));
    let run = triggered(&jobs, "deaf").await;
    let ended = verdict(&jobs, &run).await;
    assert_eq!((ended.verdict, ended.output.as_str()), (Verdict::TimedOut, "begun\n"));
    assert_eq!(drops.try_recv(), Ok(()), "nothing of it is left when its verdict is there");
    soon("it stops", jobs.stop(GRACE)).await.unwrap();
}

async fn a_run_that_is_due_while_another_is_open_is_skipped(scene: Scene) {
    let (begun, mut begins) = mpsc::unbounded_channel();
    let lasting = move |run: Run| {
        let begun = begun.clone();
        async move {
            begun.send(run.id().to_owned()).unwrap();
            run.cancelled().await;
        }
    };
    let jobs = scene.service("web-1").await;
    let jobs = jobs.job("alone", "@yearly", lasting.clone()).overlap(Overlap::Skip).done();
    let jobs = jobs.job("beside", "@yearly", lasting).overlap(Overlap::Allow { max_running: 2 }).done();
    let jobs = jobs.start().await.unwrap();
    let first = triggered(&jobs, "alone").await;
    soon("it begins", begins.recv()).await.unwrap();
    let second = triggered(&jobs, "alone").await;
    let ended = verdict(&jobs, &second).await;
    assert_eq!((ended.verdict, ended.reason), (Verdict::Skipped, format!("overlap: {first} has not ended")));
    for _ in 0..2 {
        triggered(&jobs, "beside").await;
        soon("it begins", begins.recv()).await.unwrap();
    }
    jobs.cancel(&first).await.unwrap();
    let ended = verdict(&jobs, &first).await;
    assert_eq!(ended.verdict, Verdict::Cancelled);
    assert!(ended.reason.contains("of the service, as web-1"), "{ended:?}");
    soon("it stops", jobs.stop(Duration::ZERO)).await.unwrap();
}

async fn a_lost_leadership_cancels_what_runs(scene: Scene) {
    let (told, mut reasons) = mpsc::unbounded_channel();
    let lasting = move |run: Run| {
        let told = told.clone();
        async move {
            told.send(None).unwrap();
            told.send(Some(run.cancelled().await)).ok();
        }
    };
    let client = scene.client("web-1", crate::scene::LONG_TTL).await;
    let jobs = client.jobs().job("lasting", "@yearly", lasting).done().start().await.unwrap();
    let run = triggered(&jobs, "lasting").await;
    assert_eq!(soon("it begins", reasons.recv()).await.unwrap(), None);
    let fence = jobs.terms().borrow().expect("it leads");
    let ledger = Ledger::new(client.store().clone(), Namespace::new(NAMESPACE).unwrap());
    let nodes = until("its node is seen", async || Some(ledger.nodes().await.unwrap()).filter(|n| !n.is_empty())).await;
    client.store().revoke(LeaseId(nodes[0].0.try_into().unwrap())).await.unwrap();
    assert_eq!(soon("it is told", reasons.recv()).await.unwrap(), Some(Cancelled::LostLeadership));
    let ended = verdict(&jobs, &run).await;
    assert!(matches!(ended.verdict, Verdict::Cancelled | Verdict::Unknown), "{ended:?}");
    let mut terms = jobs.terms();
    soon("it leads again", terms.wait_for(|term| term.is_some_and(|again| again > fence))).await.unwrap();
    soon("it stops", jobs.stop(GRACE)).await.unwrap();
}

async fn stopping_lets_runs_end_within_the_grace_and_hands_over_at_once(scene: Scene) {
    let ((begun, mut begins), finish) = (mpsc::unbounded_channel(), Arc::new(tokio::sync::Notify::new()));
    let lasting = |name: &'static str| {
        let (begun, finish) = (begun.clone(), Arc::clone(&finish));
        move |run: Run| {
            let (begun, finish) = (begun.clone(), Arc::clone(&finish));
            async move {
                begun.send(name).unwrap();
                finish.notified().await;
                assert!(!run.is_cancelled(), "it ends within the grace");
            }
        }
    };
    let a = scene.service("a").await.job("lasting", "@yearly", lasting("a")).done().start().await.unwrap();
    leads(&a).await;
    let b = scene.service("b").await.job("lasting", "@yearly", lasting("b")).done().start().await.unwrap();
    let run = triggered(&b, "lasting").await;
    assert_eq!(soon("it begins", begins.recv()).await, Some("a"));
    let a = Arc::new(a);
    let stopping = tokio::spawn({
        let a = Arc::clone(&a);
        async move { a.stop(GRACE).await }
    });
    let mut changes = a.changes();
    soon("it drains", changes.wait_for(|status| status.role == fencron::node::Role::Draining)).await.unwrap();
    assert!(!stopping.is_finished());
    finish.notify_one();
    soon("it stops", stopping).await.unwrap().unwrap();
    assert_eq!(verdict(&b, &run).await.verdict, Verdict::Succeeded);
    leads(&b).await;
    assert!(soon("again", a.stop(GRACE)).await.is_ok());
    assert_eq!(*a.terms().borrow(), None);
    soon("it stops", b.stop(GRACE)).await.unwrap();
}

async fn what_still_runs_after_the_grace_is_told_to_stop(scene: Scene) {
    let (told, mut reasons) = mpsc::unbounded_channel();
    let lasting = move |run: Run| {
        let told = told.clone();
        async move {
            told.send(None).unwrap();
            told.send(Some(run.cancelled().await)).unwrap();
        }
    };
    let jobs = scene.service("a").await;
    let jobs = jobs.job("once", "@yearly", lasting.clone()).done();
    let jobs = jobs.job("again", "@yearly", lasting).guarantee(Guarantee::AtLeastOnce).done().start().await.unwrap();
    let runs = [triggered(&jobs, "once").await, triggered(&jobs, "again").await];
    for _ in &runs {
        assert_eq!(soon("it begins", reasons.recv()).await, Some(None));
    }
    soon("it stops", jobs.stop(Duration::from_millis(50))).await.unwrap();
    for _ in &runs {
        assert_eq!(reasons.try_recv(), Ok(Some(Cancelled::Shutdown)));
    }
    let states = runs.map(|run| {
        let shown = scene.json(&["runs", "--job", &run.job().to_string()]);
        (shown[0]["state"].as_str().unwrap().to_owned(), shown[0]["reason"].as_str().unwrap_or_default().to_owned())
    });
    assert_eq!(states[0], ("cancelled".to_owned(), "node shut down".to_owned()));
    assert_eq!(states[1].0, "waiting", "the next leader runs it once more: {states:?}");
}

async fn a_handle_that_is_dropped_stops(scene: Scene) {
    let a = scene.service("a").await.job("rare", "@yearly", async |_| {}).done().start().await.unwrap();
    leads(&a).await;
    let b = scene.service("b").await.job("rare", "@yearly", async |_| {}).done().start().await.unwrap();
    let mut ends = a.terms();
    drop(a);
    soon("its term ends", ends.wait_for(Option::is_none)).await.unwrap();
    // Far sooner than its session could end by itself.
    leads(&b).await;
    soon("it stops", b.stop(GRACE)).await.unwrap();
}
