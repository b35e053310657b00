//! How a run goes on after each end of an attempt.

use super::bench::config;
use super::*;
use crate::job::cases::{self, Case};
use crate::scheduler::run::{Open, Source};
use crate::scheduler::view::Cancel;

const LEASE: u64 = 7;

#[test]
fn every_end_of_an_attempt_has_its_place() {
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!("runs", cases::table(goes_on)));
}

/// What becomes of a run whose attempt ends so.
fn goes_on(job: &Job, outcome: &Outcome, case: Case) -> String {
    let id = RunId::asked_for(&job.name, at(0), "t-1");
    let waiting = Open {
        id: id.clone(),
        job: job.name.clone(),
        at: at(0),
        starts: at(0),
        source: Source::Trigger { by: "eve".into(), params: crate::job::Params::default() },
        state: OpenState::Waiting { not_before: at(0) },
        attempt: case.number - 1,
        claimant: None,
        claimed_at: at(0),
        started_at: None,
        lateness: None,
        doubt: case.in_doubt.then(|| "no word".into()),
        catch_up: None,
    };
    let mut scheduler = Scheduler::new("n", config([job.clone()]));
    let mut actions = Vec::new();
    for event in [
        Event::Session { lease: LEASE },
        Event::Changed(Change::Session { lease: LEASE, alive: true }, 1),
        Event::Changed(Change::Open(id.clone(), Some(waiting)), 2),
        Event::Elected { fence: Fence::new(5).unwrap() },
        Event::Trust(true),
    ] {
        actions.extend(scheduler.handle(event, at(0)));
    }
    assert!(matches!(actions.as_slice(), [Action::Transition(_)]), "it is to begin: {actions:?}");
    let result = Transitioned::Applied { version: 3 };
    let begun = scheduler.handle(Event::Transitioned { run: id.clone(), result }, at(0));
    assert!(matches!(begun.as_slice(), [Action::Start { .. }]), "{begun:?}");
    if *outcome == Outcome::Stopped(StopReason::Asked) {
        scheduler.handle(
            Event::Changed(Change::Cancel(id.clone(), Some(Cancel { by: "eve".into(), unless_begun: false })), 4),
            at(0),
        );
    }
    let started_at = case.began.then(|| at(1));
    let event = Event::Ended { run: id, attempt: case.number, ended: ended(outcome.clone(), started_at, at(2)) };
    let actions = scheduler.handle(event, at(2));
    let [Action::Transition(Transition { to, .. })] = actions.as_slice() else { panic!("{actions:?}") };
    shown(to)
}

fn shown(to: &To) -> String {
    match to {
        To::Done { done, .. } => {
            let code = done.exit_code.map_or(String::new(), |code| format!(" [{code}]"));
            format!("{}: {}{code}", done.verdict, done.reason).trim_end_matches(": ").to_owned()
        }
        To::Open(open) => {
            let doubt = open.doubt.as_deref().map_or(String::new(), |doubt| format!(", in doubt: {doubt}"));
            match open.state {
                OpenState::Retrying { not_before } => format!("repeat after {:?}{doubt}", not_before.since(at(2))),
                OpenState::Waiting { .. } => format!("left to the next leader as #{}{doubt}", open.attempt),
                OpenState::Claimed => panic!("{open:?}"),
            }
        }
    }
}
