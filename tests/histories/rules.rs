//! What follows from time alone, over runs made by hand.

use crate::history::{Process, Run};
use crate::judge::{Rule, judge};
use crate::linear::Nanos;
use crate::record::{Answer, Call, Event, Line, Object, Patience};

/// A process with one context and one session, of which it is told what happened when.
fn process(name: &str, lease: u64, events: &[(Nanos, Event)]) -> Process {
    let trust = (0, Event::Trust { lease, until: 1_000, ended: false });
    let events = [(0, Event::Opened { lease }), trust].into_iter().chain(events.iter().cloned());
    Process { name: name.into(), lines: events.map(|(at, event)| Line { at, event }).collect(), halted: Vec::new() }
}

fn call(number: u64, lease: u64, call: Call) -> Event {
    Event::Call { context: 0, number, lease, object: Object::Fenced, call }
}

fn answer(number: u64, answer: Answer) -> Event {
    Event::Answer { context: 0, number, answer }
}

/// Locks at `from`, and is answered `fence` at `to`.
fn locks(lease: u64, (from, to): (Nanos, Nanos), fence: u64) -> Vec<(Nanos, Event)> {
    vec![(from, call(1, lease, Call::Lock(Patience::Forever))), (to, answer(1, Answer::Granted(Some(fence))))]
}

fn unlocks(lease: u64, (from, to): (Nanos, Nanos)) -> Vec<(Nanos, Event)> {
    vec![(from, call(2, lease, Call::Unlock(None))), (to, answer(2, Answer::Done))]
}

fn loses(at: Nanos) -> Vec<(Nanos, Event)> {
    vec![(at, Event::Signal { context: 0, number: 1, why: "on purpose".into() })]
}

fn rules(processes: Vec<Process>) -> Vec<Rule> {
    let run = Run { processes, ..Run::default() };
    judge(&run).into_iter().map(|(rule, _)| rule).collect()
}

/// A run in which one context has the lock from 10 to 30, and another is granted it between `second`.
fn one_and_another(fence: u64, second: (Nanos, Nanos)) -> Vec<Process> {
    let first = [locks(1, (5, 10), 7), unlocks(1, (30, 35))].concat();
    let last = [(99, Event::Done)];
    vec![
        process("a", 1, &[&first[..], &last].concat()),
        process("b", 2, &[&locks(2, second, fence)[..], &last].concat()),
    ]
}

#[test]
fn a_lower_fence_after_a_higher_one_was_answered_is_found() {
    assert_eq!(rules(one_and_another(8, (36, 40))), []);
    assert_eq!(rules(one_and_another(8, (11, 40))), []);
    let found = rules(one_and_another(6, (36, 40)));
    assert_eq!(found, [Rule::Model(Object::Fenced), Rule::FencesGrow(Object::Fenced)]);
    // Of the same fence in another hold it knows too, and who asked before may still be answered less.
    assert!(rules(one_and_another(7, (36, 40))).contains(&Rule::FencesGrow(Object::Fenced)));
    assert!(!rules(one_and_another(6, (8, 9))).contains(&Rule::FencesGrow(Object::Fenced)));
}

#[test]
fn two_who_believe_at_once_are_found() {
    let found = rules(one_and_another(8, (11, 20)));
    assert_eq!(found, [Rule::Model(Object::Fenced), Rule::OneBeliever(Object::Fenced)]);
}

#[test]
fn whose_signal_came_first_or_who_stood_still_is_no_believer() {
    let end_of_trust = |mut processes: Vec<Process>| {
        // Its session may have ended.
        processes[0].lines[1].event = Event::Trust { lease: 1, until: 12, ended: false };
        processes[0].lines.retain(|line| line.at < 30 || line.at > 35);
        processes
    };
    let both = end_of_trust(one_and_another(8, (11, 20)));
    assert_eq!(rules(both.clone()), [Rule::OneBeliever(Object::Fenced)]);
    let mut told = both.clone();
    told[0].lines.extend(loses(15).into_iter().map(|(at, event)| Line { at, event }));
    assert_eq!(rules(told), []);
    let mut late = both.clone();
    late[0].lines.extend(loses(25).into_iter().map(|(at, event)| Line { at, event }));
    assert_eq!(rules(late), [Rule::OneBeliever(Object::Fenced)]);
    let mut stopped = both.clone();
    stopped[0].halted.push(13);
    assert_eq!(rules(stopped), []);
    let mut still = both;
    still[0].lines.push(Line { at: 60, event: Event::StoodStill { from: 14 } });
    assert_eq!(rules(still), []);
}

/// Its lease is kept alive, as far as it knows, and nobody has revoked it.
#[test]
fn a_hold_that_is_lost_while_its_session_is_trusted_is_found() {
    let lost = vec![(20, call(2, 1, Call::Fence)), (25, answer(2, Answer::Lost(7)))];
    let mut processes = vec![process("a", 1, &[locks(1, (5, 10), 7), lost].concat())];
    assert_eq!(rules(processes.clone()), [Rule::Model(Object::Fenced)]);
    let run = Run { processes: processes.clone(), revoked: [(1, 15)].into() };
    assert_eq!(judge(&run), []);
    processes[0].lines[1].event = Event::Trust { lease: 1, until: 18, ended: false };
    assert_eq!(rules(processes), []);
}

/// No keep-alive was acknowledged in time, and then one was: what was asked for in between was given back.
#[test]
fn a_hold_that_is_given_back_after_a_lapse_is_right_and_one_that_is_given_back_without_is_found() {
    let trust = |until| Event::Trust { lease: 1, until, ended: false };
    let given_back = |from, to| {
        let lost = vec![(from, call(2, 1, Call::Fence)), (to, answer(2, Answer::Lost(7)))];
        let mut process = process("a", 1, &[locks(1, (5, 10), 7), lost, vec![(99, Event::Done)]].concat());
        process.lines[1].event = trust(18);
        process.lines.push(Line { at: 22, event: trust(2_000) });
        process.lines.sort_by_key(|line| line.at);
        process
    };
    let other = process("b", 2, &[&locks(2, (12, 30), 8)[..], &[(99, Event::Done)]].concat());
    assert_eq!(rules(vec![given_back(17, 19), other.clone()]), []);
    assert_eq!(rules(vec![given_back(20, 25), other.clone()]), []);
    assert_eq!(rules(vec![given_back(23, 25), other.clone()]), [Rule::Model(Object::Fenced)]);
    assert_eq!(rules(vec![given_back(11, 17), other]), [Rule::Model(Object::Fenced)]);
}

/// Both calls together unlocked once, and that before whatever the context did next.
#[test]
fn an_unlocking_of_which_nobody_knows_is_settled_by_the_next_call() {
    let unsure = |next: Answer| {
        let calls = [
            (20, call(2, 1, Call::Unlock(None))),
            (21, answer(2, Answer::Unknown("lost".into()))),
            (22, call(3, 1, Call::Unlock(None))),
            (23, answer(3, next)),
        ];
        process("a", 1, &[&locks(1, (5, 10), 7)[..], &calls, &[(99, Event::Done)]].concat())
    };
    let other = |at| process("b", 2, &[&locks(2, (11, at), 8)[..], &[(99, Event::Done)]].concat());
    assert_eq!(rules(vec![unsure(Answer::Done), other(21)]), []);
    assert_eq!(rules(vec![unsure(Answer::Done), other(30)]), []);
    assert_eq!(rules(vec![unsure(Answer::NotOwner), other(30)]), []);
    let second_unlock = Answer::Lost(7);
    assert_eq!(rules(vec![unsure(second_unlock)]), [], "it may have been lost after it was unlocked");
    let too_early = rules(vec![unsure(Answer::Done), other(19)]);
    assert!(too_early.contains(&Rule::Model(Object::Fenced)), "{too_early:?}");
}
