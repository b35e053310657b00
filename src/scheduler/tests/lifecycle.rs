//! Attempts, retries, cancelling, and what follows a run.

use super::bench::{after, run};
use super::*;
use crate::job::{Again, AlertKind, Guarantee, Http, Notify, On, Retry, Statuses, Task, Text, Whose};
use crate::scheduler::run::{End, Predecessor, Source};

fn retrying(attempts: u32) -> Job {
    Job { retry: Retry { attempts, initial: secs(5), max: secs(8) }, ..job("a") }
}

fn request() -> Task {
    Task::Http(Box::new(Http {
        method: "POST".into(),
        url: Text::plain("http://127.0.0.1:9/"),
        headers: Vec::new(),
        body: None,
        expect: Statuses::default(),
        retry_on: None,
        redirects: 0,
        ca: None,
        identity: None,
        connect_timeout: secs(1),
    }))
}

fn running(jobs: impl IntoIterator<Item = Job>) -> Bench {
    let mut bench = Bench::leading(jobs);
    bench.pass(secs(60));
    bench
}

#[test]
fn a_run_ends_as_its_process_does() {
    let cases = [
        (succeeded(), "a@60 succeeded"),
        (failed(), "a@60 failed: exit code 1"),
        (Outcome::Signalled(9), "a@60 failed: killed by signal 9"),
        (Outcome::TimedOut, "a@60 timed_out: took longer than its `timeout`"),
        (Outcome::NotStarted("no such program".into()), "a@60 failed: not started: no such program"),
    ];
    for (outcome, verdict) in cases {
        let mut bench = running([job("a")]);
        bench.ends(0, &run("a", 60), outcome);
        bench.settle();
        assert_eq!(bench.verdicts(), [verdict]);
        assert!(bench.open().is_empty());
    }
}

#[test]
fn a_pause_mutes_the_bad_ends_of_its_job_but_no_recovery_and_nothing_in_doubt() {
    let on = vec![AlertKind::Failed, AlertKind::Unknown, AlertKind::Recovered];
    let (to, whose) = (vec!["ops".to_owned()], Whose::default());
    let notify = Arc::new(Notify { on, to, after: 1, repeat: secs(60), whose });
    let once = Job { task: request(), ..job("a") };
    for (outcome, paused, is_notified) in [
        (failed(), false, true),
        (failed(), true, false),
        (Outcome::TimedOut, true, false),
        (succeeded(), true, true),
        (Outcome::InDoubt("reset".into()), true, true),
    ] {
        let mut bench = running([Job { notify: Some(Arc::clone(&notify)), ..once.clone() }]);
        bench.pause("a", paused);
        bench.settle();
        bench.ends(0, &run("a", 60), outcome.clone());
        bench.settle();
        assert_eq!(bench.ledger.notified.contains(&run("a", 60)), is_notified, "{outcome:?} {:?}", bench.verdicts());
    }
}

#[test]
fn a_failed_attempt_is_repeated_after_its_pause_until_none_is_left() {
    let mut bench = running([retrying(3)]);
    for (attempt, pause) in [(1, 5), (2, 8)] {
        assert_eq!(bench.running(), [format!("a@60 #{attempt}")]);
        bench.ends(0, &run("a", 60), failed());
        bench.pass(secs(pause - 1));
        assert_eq!(bench.open(), ["a@60 retrying"]);
        bench.pass(secs(1));
    }
    bench.ends(0, &run("a", 60), failed());
    bench.settle();
    assert_eq!(bench.verdicts(), ["a@60 failed: exit code 1"]);
    assert_eq!(bench.ledger.done[&run("a", 60)].attempt, 3);
}

#[test]
fn what_is_not_a_command_ends_in_its_own_words() {
    let fence = Fence::new(9);
    let cases = [
        (Outcome::Done, "a@60 succeeded"),
        (Outcome::AlreadyApplied, "a@60 succeeded: already applied"),
        (Outcome::Fenced { seen: fence }, "a@60 cancelled: fenced: the target has seen fence 9"),
        (Outcome::Fenced { seen: None }, "a@60 cancelled: fenced: the target has seen a greater fence"),
        (Outcome::Failed { why: "404 Not Found".into(), again: Again::Never }, "a@60 failed: 404 Not Found"),
        (Outcome::InDoubt("no answer".into()), "a@60 unknown: no answer"),
    ];
    for (outcome, verdict) in cases {
        // With attempts left: none of these is repeated.
        let mut bench = running([retrying(3)]);
        bench.ends(0, &run("a", 60), outcome);
        bench.settle();
        assert_eq!(bench.verdicts(), [verdict]);
    }
}

#[test]
fn a_target_may_have_the_next_attempt_put_off_but_not_brought_forward_nor_given() {
    let busy = |after| Outcome::Failed { why: "503".into(), again: Again::After(secs(after)) };
    for (asked, pause) in [(30, 30), (1, 5), (7_200, 7_200), (1_000_000, 86_400)] {
        let mut bench = running([Job { task: request(), ..retrying(2) }]);
        bench.ends(0, &run("a", 60), busy(asked));
        bench.pass(secs(pause - 1));
        assert!(bench.open().contains(&"a@60 retrying".to_owned()), "asked for {asked}");
        bench.pass(secs(1));
        assert_eq!(bench.running(), ["a@60 #2"], "asked for {asked}");
        bench.ends(0, &run("a", 60), busy(asked));
        bench.settle();
        assert!(bench.verdicts().contains(&"a@60 failed: 503".to_owned()), "no attempt was left");
    }
}

#[test]
fn what_is_in_doubt_is_repeated_where_that_is_promised() {
    let in_doubt = || Outcome::InDoubt("no answer".into());
    let guaranteed = |guarantee, attempts| Job { guarantee, ..retrying(attempts) };
    let mut bench = running([guaranteed(Guarantee::AtLeastOnce, 2)]);
    bench.ends(0, &run("a", 60), in_doubt());
    bench.pass(secs(5));
    bench.ends(0, &run("a", 60), in_doubt());
    bench.settle();
    assert_eq!(bench.verdicts(), ["a@60 unknown: no answer"]);

    // Asking the target is how such a run is settled, whatever `retry` says.
    let mut bench = running([guaranteed(Guarantee::ExactlyOnce, 1)]);
    for attempt in 1..ATTEMPTS_LOST_MOST {
        assert_eq!(bench.running(), [format!("a@60 #{attempt}")]);
        bench.ends(0, &run("a", 60), in_doubt());
        bench.pass(secs(8));
    }
    bench.ends(0, &run("a", 60), Outcome::AlreadyApplied);
    bench.settle();
    assert!(bench.verdicts().contains(&"a@60 succeeded: already applied".to_owned()));
}

#[test]
fn lateness_is_that_of_the_first_attempt() {
    let mut bench = Bench::leading([retrying(2)]);
    bench.now = at(61);
    bench.tick();
    bench.settle();
    bench.ends(0, &run("a", 60), failed());
    bench.pass(secs(30));
    bench.succeeds(&run("a", 60));
    assert_eq!(bench.ledger.done[&run("a", 60)].lateness, Some(secs(1)));
}

#[test]
fn only_a_run_that_lasts_is_published_as_running() {
    let mut bench = running([job("a")]);
    bench.started(0, &run("a", 60));
    bench.pass(Duration::from_millis(499));
    assert_eq!(bench.ledger.open[&run("a", 60)].0.started_at, None);
    bench.pass(Duration::from_millis(1));
    assert_eq!(bench.ledger.open[&run("a", 60)].0.started_at, Some(at(60)));
}

#[test]
fn a_run_that_ends_while_it_is_being_published_has_its_verdict_after() {
    let mut bench = running([job("a")]);
    bench.started(0, &run("a", 60));
    bench.now = at(61);
    bench.tick();
    bench.ends(0, &run("a", 60), succeeded());
    assert_eq!(bench.nodes[0].requests.len(), 1, "one change of a run at a time");
    bench.settle();
    assert_eq!(bench.verdicts(), ["a@60 succeeded"]);
}

#[test]
fn a_run_that_waits_is_cancelled_without_being_started() {
    let mut bench = running([Job { overlap: Overlap::Queue, ..job("a") }]);
    bench.pass(secs(60));
    bench.cancel(&run("a", 120));
    bench.settle();
    assert_eq!(bench.verdicts(), ["a@120 cancelled: cancelled by request, of eve"]);
    assert_eq!(bench.cancels(), 0);
}

#[test]
fn a_run_that_runs_is_stopped_and_ends_as_cancelled() {
    let mut bench = running([job("a")]);
    bench.cancel(&run("a", 60));
    bench.settle();
    assert_eq!(bench.nodes[0].running[&run("a", 60)].stop, Some(StopReason::Asked));
    bench.ends(0, &run("a", 60), stopped(StopReason::Asked));
    bench.settle();
    assert_eq!(bench.verdicts(), ["a@60 cancelled: cancelled by request, of eve"]);
    assert_eq!(bench.cancels(), 0);
}

#[test]
fn a_run_that_is_claimed_and_not_started_is_cancelled_without_being_started() {
    let mut bench = Bench::leading([job("a")]);
    bench.now = at(60);
    bench.tick();
    bench.apply(0);
    bench.cancel(&run("a", 60));
    (0..3).for_each(|_| bench.watch(0));
    bench.settle();
    assert_eq!(bench.all_starts(), 0);
    assert_eq!(bench.verdicts(), ["a@60 cancelled: cancelled by request, of eve"]);
    assert_eq!(bench.cancels(), 0);
}

#[test]
fn a_run_of_a_stopped_backfill_is_cancelled_when_it_is_given_back_before_it_began() {
    let mut bench = Bench::with(2, [job("a")]);
    bench.elect(0);
    bench.settle();
    bench.now = at(60);
    bench.tick();
    bench.apply(0);
    // It is claimed, and its node has not heard of that yet.
    bench.withdraw(&run("a", 60));
    bench.resign(0);
    bench.settle();
    assert_eq!((bench.all_starts(), bench.open()), (0, vec!["a@60 waiting".to_owned()]));
    bench.elect(1);
    bench.settle();
    assert_eq!(bench.verdicts(), ["a@60 cancelled: cancelled by request, of eve"]);
    assert_eq!((bench.all_starts(), bench.cancels()), (0, 0));
}

#[test]
fn a_run_of_a_stopped_backfill_that_has_begun_goes_on() {
    let mut bench = running([retrying(2)]);
    bench.withdraw(&run("a", 60));
    bench.settle();
    assert_eq!(bench.nodes[0].running[&run("a", 60)].stop, None);
    bench.ends(0, &run("a", 60), failed());
    bench.pass(secs(60));
    assert_eq!(bench.running(), ["a@60 #2"], "it is repeated as it would be");
    // A person may still cancel it.
    bench.cancel(&run("a", 60));
    bench.settle();
    assert_eq!(bench.nodes[0].running[&run("a", 60)].stop, Some(StopReason::Asked));
    bench.ends(0, &run("a", 60), stopped(StopReason::Asked));
    bench.settle();
    assert_eq!(bench.cancels(), 0);
}

#[test]
fn a_run_between_two_attempts_is_cancelled() {
    let mut bench = running([retrying(2)]);
    bench.ends(0, &run("a", 60), failed());
    bench.settle();
    bench.cancel(&run("a", 60));
    bench.settle();
    assert_eq!(bench.verdicts(), ["a@60 cancelled: cancelled by request, of eve"]);
}

#[test]
fn a_cancelled_attempt_that_fails_by_itself_is_not_repeated() {
    let mut bench = running([retrying(2)]);
    bench.cancel(&run("a", 60));
    bench.settle();
    bench.ends(0, &run("a", 60), failed());
    bench.settle();
    assert_eq!(bench.verdicts(), ["a@60 cancelled: cancelled by request, of eve"]);
}

#[test]
fn a_cancelled_run_that_succeeds_all_the_same_has_succeeded() {
    let mut bench = running([job("a")]);
    bench.cancel(&run("a", 60));
    bench.settle();
    bench.succeeds(&run("a", 60));
    assert_eq!(bench.verdicts(), ["a@60 succeeded"]);
    assert_eq!(bench.cancels(), 0, "the request came too late, and is forgotten");
}

#[test]
fn each_end_makes_due_what_waits_for_it() {
    let jobs = || {
        [
            job("a"),
            Job { trigger: after("a", On::Success), ..job("ok") },
            Job { trigger: after("a", On::Failure), ..job("bad") },
            Job { trigger: after("a", On::End), ..job("end") },
        ]
    };
    for (outcome, follow) in [(succeeded(), ["end@60 #1", "ok@60 #1"]), (failed(), ["bad@60 #1", "end@60 #1"])] {
        let mut bench = running(jobs());
        bench.ends(0, &run("a", 60), outcome);
        bench.settle();
        assert_eq!(bench.running(), follow);
    }
}

#[test]
fn nothing_follows_a_skipped_run() {
    let mut bench = Bench::leading([job("a"), Job { trigger: after("a", On::End), ..job("b") }]);
    bench.pause("a", true);
    bench.pass(secs(60));
    assert_eq!(bench.verdicts(), ["a@60 skipped: the job is paused"]);
    assert!(bench.open().is_empty());
}

#[test]
fn a_chain_goes_on_under_the_same_instant_and_the_same_call() {
    let mut bench = Bench::leading([
        job("a"),
        Job { trigger: after("a", On::Success), ..job("b") },
        Job { trigger: after("b", On::Success), ..job("c") },
    ]);
    let mut asked = bench.trigger("a", "t");
    bench.settle();
    for expected in ["a@0~t #1", "b@0~t #1", "c@0~t #1"] {
        assert_eq!(bench.running(), [expected]);
        asked = bench.nodes[0].running.keys().next().unwrap().clone();
        bench.succeeds(&asked);
    }
    assert_eq!(bench.verdicts().len(), 3, "{asked} is the last");
}

#[test]
fn a_following_run_that_exists_already_goes_on_as_it_was() {
    for heard_of_it in [true, false] {
        let mut bench = Bench::leading([job("a"), Job { trigger: after("a", On::Success), ..job("b") }]);
        let a = bench.trigger("a", "t");
        bench.settle();
        let b = bench.trigger("b", "t");
        if heard_of_it {
            bench.settle();
            assert_eq!(bench.running(), ["a@0~t #1", "b@0~t #1"]);
        }
        bench.succeeds(&a);
        assert_eq!(bench.running(), ["b@0~t #1"]);
        bench.succeeds(&b);
        assert_eq!(bench.verdicts(), ["a@0~t succeeded", "b@0~t succeeded"]);
        assert!(bench.open().is_empty());
    }
}

#[test]
fn only_the_last_attempt_of_a_run_is_followed() {
    let mut bench = running([retrying(2), Job { trigger: after("a", On::Failure), ..job("b") }]);
    bench.ends(0, &run("a", 60), failed());
    bench.settle();
    assert_eq!(bench.open(), ["a@60 retrying"]);
    bench.pass(secs(5));
    bench.ends(0, &run("a", 60), failed());
    bench.settle();
    assert_eq!(bench.running(), ["b@60 #1"]);
}

#[test]
fn a_waiting_run_of_a_job_that_is_configured_no_more_is_cancelled() {
    let mut bench = running([Job { overlap: Overlap::Queue, ..job("a") }, job("b")]);
    bench.pass(secs(60));
    bench.reload([job("b")]);
    bench.settle();
    assert!(bench.verdicts().contains(&"a@120 cancelled: the job is not configured any more".to_owned()));
    bench.ends(0, &run("a", 60), failed());
    bench.settle();
    assert!(bench.verdicts().contains(&"a@60 failed: exit code 1".to_owned()), "what runs has its own end");
}

#[test]
fn a_doubt_outlasts_a_job_that_is_configured_no_more() {
    let mut bench = running([job("a"), job("b")]);
    bench.ends(0, &run("a", 60), Outcome::InDoubt("no answer".into()));
    bench.settle();
    bench.reload([job("b")]);
    bench.settle();
    bench.ledger.resolve_as_retry(&run("a", 60), bench.now);
    bench.settle();
    let reason = "the job is not configured any more; before: no answer";
    assert!(bench.verdicts().contains(&format!("a@60 unknown: {reason}")), "{:?}", bench.verdicts());
}

#[test]
fn a_doubt_outlasts_whatever_ends_a_run_before_it_begins_again() {
    let doubted = || {
        let mut bench = running([Job { guarantee: Guarantee::AtLeastOnce, ..retrying(3) }]);
        bench.ends(0, &run("a", 60), Outcome::InDoubt("no answer".into()));
        bench.settle();
        bench
    };
    let mut bench = doubted();
    bench.cancel(&run("a", 60));
    bench.settle();
    assert_eq!(bench.verdicts(), ["a@60 unknown: cancelled by request, of eve; before: no answer"]);

    let mut bench = doubted();
    bench.reload([]);
    bench.settle();
    assert_eq!(bench.verdicts(), ["a@60 unknown: the job is not configured any more; before: no answer"]);

    let mut bench = doubted();
    for pause in [5, 8] {
        bench.pass(secs(pause));
        bench.ends_without_having_begun(0, &run("a", 60), Outcome::NotStarted("no such program".into()));
        bench.settle();
    }
    assert_eq!(bench.verdicts(), ["a@60 unknown: not started: no such program; before: no answer"]);

    // One that begins and ends for certain has the last word.
    let mut bench = doubted();
    bench.pass(secs(5));
    bench.ends(0, &run("a", 60), failed());
    bench.settle();
    bench.cancel(&run("a", 60));
    bench.settle();
    assert_eq!(bench.verdicts(), ["a@60 cancelled: cancelled by request, of eve"]);
}

#[test]
fn a_target_that_cannot_be_reached_is_asked_on_about_a_commit_in_doubt() {
    let mut bench = running([Job { guarantee: Guarantee::ExactlyOnce, ..retrying(1) }]);
    bench.ends(0, &run("a", 60), Outcome::InDoubt("no answer".into()));
    bench.pass(secs(8));
    let away = Outcome::Failed { why: "refused".into(), again: Again::AsConfigured };
    bench.ends_without_having_begun(0, &run("a", 60), away);
    bench.pass(secs(8));
    assert_eq!(bench.running(), ["a@60 #3"]);
    bench.ends(0, &run("a", 60), Outcome::AlreadyApplied);
    bench.settle();
    assert!(bench.verdicts().contains(&"a@60 succeeded: already applied".to_owned()), "{:?}", bench.verdicts());
}

#[test]
fn what_waits_for_success_follows_a_run_that_a_person_says_has_succeeded() {
    let jobs = || {
        [
            job("a"),
            Job { trigger: after("a", On::Success), ..job("ok") },
            Job { trigger: after("a", On::Failure), ..job("bad") },
            Job { trigger: after("a", On::End), ..job("end") },
        ]
    };
    let mut bench = running(jobs());
    bench.ends(0, &run("a", 60), Outcome::InDoubt("no answer".into()));
    bench.settle();
    assert_eq!(bench.running(), ["bad@60 #1", "end@60 #1"], "they follow the doubt");
    bench.ledger.resolve_as_succeeded(&run("a", 60));
    bench.settle();
    assert_eq!(bench.running(), ["bad@60 #1", "end@60 #1", "ok@60 #1"]);
    assert!(bench.ledger.resolved.is_empty(), "the request is seen to");
    bench.succeeds(&run("ok", 60));

    // While nobody leads it is left to whoever does next.
    let mut bench = running(jobs());
    bench.ends(0, &run("a", 60), Outcome::InDoubt("no answer".into()));
    bench.settle();
    bench.resign(0);
    bench.ledger.resolve_as_succeeded(&run("a", 60));
    bench.settle();
    assert_eq!(bench.ledger.resolved.len(), 1);
    bench.elect(0);
    bench.settle();
    assert!(bench.running().contains(&"ok@60 #1".to_owned()), "{:?}", bench.running());
    assert!(bench.ledger.resolved.is_empty());
}

#[test]
fn nothing_but_an_end_of_what_had_begun_is_followed() {
    let follower = |on, name: &str| Job { trigger: after("a", on), ..job(name) };
    let jobs = || [Job { overlap: Overlap::Queue, ..job("a") }, follower(On::Failure, "bad"), follower(On::End, "end")];
    let others =
        |bench: &Bench| -> Vec<String> { bench.running().into_iter().filter(|run| !run.starts_with("a@")).collect() };
    // Cancelled while it waits.
    let mut bench = running(jobs());
    bench.pass(secs(60));
    bench.cancel(&run("a", 120));
    bench.settle();
    assert!(bench.verdicts().contains(&"a@120 cancelled: cancelled by request, of eve".to_owned()));
    assert_eq!(others(&bench), [""; 0]);
    // Of a job that is gone.
    bench.pass(secs(60));
    let [_, bad, end] = jobs();
    let other = Job { trigger: after("c", On::End), ..bad };
    bench.reload([job("c"), other, Job { trigger: after("c", On::End), ..end }]);
    bench.settle();
    assert!(bench.verdicts().contains(&"a@180 cancelled: the job is not configured any more".to_owned()));
    assert_eq!(others(&bench), [""; 0]);
    // Claimed, and cancelled before it was started.
    let mut bench = Bench::leading(jobs());
    bench.now = at(60);
    bench.tick();
    bench.apply(0);
    bench.cancel(&run("a", 60));
    (0..3).for_each(|_| bench.watch(0));
    bench.settle();
    assert_eq!(bench.verdicts(), ["a@60 cancelled: cancelled by request, of eve"]);
    assert_eq!(bench.open(), [""; 0]);
    // One that had begun is followed, and one that could not be started.
    for outcome in [stopped(StopReason::Asked), Outcome::NotStarted("no such program".into())] {
        let mut bench = running(jobs());
        bench.started(0, &run("a", 60));
        bench.ends(0, &run("a", 60), outcome);
        bench.settle();
        assert_eq!(others(&bench), ["bad@60 #1", "end@60 #1"]);
    }
}

#[test]
fn a_job_that_is_configured_no_more_is_not_retried() {
    let mut bench = running([retrying(3)]);
    bench.reload([]);
    bench.settle();
    bench.ends(0, &run("a", 60), failed());
    bench.settle();
    assert_eq!(bench.verdicts(), ["a@60 failed: exit code 1"]);
}

#[test]
fn the_end_of_an_attempt_that_is_not_the_present_one_changes_nothing() {
    let mut bench = running([retrying(2)]);
    let late = ended(failed(), None, at(60));
    bench.tell(0, Event::Ended { run: run("a", 60), attempt: 7, ended: late });
    assert_eq!(bench.nodes[0].scheduler.active().count(), 1);
    bench.succeeds(&run("a", 60));
    assert_eq!(bench.verdicts(), ["a@60 succeeded"]);
}

#[test]
fn a_run_is_told_what_it_follows_through_retries_and_a_take_over() {
    let retry = crate::job::Retry { attempts: 2, initial: secs(1), max: secs(1) };
    let follower = Job { trigger: after("a", On::Failure), retry, guarantee: Guarantee::AtLeastOnce, ..job("b") };
    let mut bench = Bench::with(2, [job("a"), follower]);
    bench.elect(0);
    bench.pass(secs(60));
    bench.ends(0, &run("a", 60), Outcome::Exited(3));
    bench.settle();
    bench.ends(0, &run("b", 60), failed());
    bench.pass(secs(2));
    assert_eq!(bench.running(), ["b@60 #2"]);
    let told = |bench: &Bench, at: usize| -> Vec<Source> {
        let starts = bench.nodes[at].told.iter().filter_map(|action| match action {
            Action::Start { open, .. } if open.job.as_str() == "b" => Some(open.source.clone()),
            _ => None,
        });
        starts.collect()
    };
    let mut sources = told(&bench, 0);
    bench.crash(0);
    bench.elect(1);
    bench.pass(secs(2));
    sources.extend(told(&bench, 1));
    let end = End {
        verdict: Verdict::Failed,
        reason: "exit code 3".to_owned(),
        exit_code: Some(3),
        code: Some(crate::job::Code::ExitCode),
    };
    let follows = Source::After(Box::new(Predecessor { run: run("a", 60), end: Some(end) }));
    assert_eq!(sources, vec![follows; 3]);
}
