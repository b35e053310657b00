//! Locks that are broken on purpose: the judgement finds them out, through real processes and a real store.

use crate::judge::{Rule, judge};
use crate::record::Object;
use crate::scene::Scene;
use crate::wire::Broken;

/// The rules that a lock is seen to break that is broken so.
async fn broken(broken: Broken) -> Vec<Rule> {
    let mut scene = Scene::over_sqlite(1, Some(broken)).await;
    match broken {
        // Not before a lease ends that nobody kept alive, while something is held under it.
        Broken::KeepAlives => scene.loses(0).await,
        Broken::Handouts | Broken::Nothing => scene.oversleeps(0, LATE).await,
        Broken::Grants | Broken::Releases | Broken::Permits => scene.calls(1500).await,
    }
    let found = judge(&scene.end().await);
    found.iter().for_each(|(rule, told)| println!("{rule:?}: {told}"));
    found.into_iter().map(|(rule, _)| rule).collect()
}

/// How many answers are read late in a run.
const LATE: usize = 5;

const LOCKS: [Object; 4] = [Object::OwnerAware, Object::Reentrant, Object::Fenced, Object::ReentrantFenced];

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_grant_that_looks_at_nobody_else_is_found_out() {
    let found = broken(Broken::Grants).await;
    assert!(LOCKS.iter().all(|lock| found.contains(&Rule::Model(*lock))), "{found:?}");
    assert!(!found.contains(&Rule::Model(Object::Permits)), "the semaphore is as it was: {found:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_release_that_does_not_look_whose_hold_it_is_is_found_out() {
    let found = broken(Broken::Releases).await;
    assert!(LOCKS.iter().all(|lock| found.contains(&Rule::Model(*lock))), "{found:?}");
    assert!(!found.contains(&Rule::Model(Object::Permits)), "the semaphore is as it was: {found:?}");
}

/// It goes on believing while another has long been granted what it held.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_trust_that_outlives_the_lease_is_found_out() {
    /// Where the machine is so busy that the worker stands still for as long as its lease lasts, it knows that it may have
    /// lost everything, and that is nothing wrong.
    const TRIES: u32 = 5;
    for _ in 0..TRIES {
        if broken(Broken::KeepAlives).await.iter().any(|rule| matches!(rule, Rule::Model(_))) {
            return;
        }
    }
    panic!("not found out in {TRIES} runs");
}

/// A hold that was granted before its process stood still, and that another has by the time that the answer is read.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_hold_that_is_handed_out_without_a_look_at_the_clock_is_found_out() {
    /// A worker that is not scheduled for a while is no believer.
    const TRIES: u32 = 5;
    for _ in 0..TRIES {
        if broken(Broken::Handouts).await.iter().any(|rule| matches!(rule, Rule::OneBeliever(_))) {
            return;
        }
    }
    panic!("not found out in {TRIES} runs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_hold_whose_answer_is_read_late_is_not_handed_out() {
    assert_eq!(broken(Broken::Nothing).await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn permits_taken_without_a_look_at_those_of_others_are_found_out() {
    let found = broken(Broken::Permits).await;
    assert!(found.contains(&Rule::Model(Object::Permits)), "{found:?}");
    assert!(found.contains(&Rule::OneBeliever(Object::Permits)), "{found:?}");
    assert!(!LOCKS.iter().any(|lock| found.contains(&Rule::Model(*lock))), "the locks are as they were: {found:?}");
}
