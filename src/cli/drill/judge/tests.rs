//! Each rule finds what is wrong in a history, and is silent about a sound one. The broken builds of the simulation, whole,
//! are judged in `tests/sim/drill.rs`.

use super::*;

const OLD: u64 = 5;
const NEW: u64 = 9;

fn run(second: i64) -> String {
    RunId::of(&JobName::new("canary").unwrap(), Wall::from_millis(second * 1000)).to_string()
}

fn late() -> String {
    run(1).replace("canary", "late")
}

fn led(fence: u64, node: &str) -> Fact {
    Fact::Led { fence, node: node.into() }
}

/// A run from its claim to its end.
fn done(run: &str, fence: u64) -> Vec<Fact> {
    let run = run.to_owned();
    vec![
        Fact::Claimed { run: run.clone(), fence },
        Fact::Arrived { run: run.clone(), attempt: 1, fence },
        Fact::Judged { run: run.clone(), fence },
        Fact::Accepted { run: run.clone(), fence },
        Fact::Answered { run: run.clone(), attempt: 1, fence },
        Fact::Verdict { run, verdict: "succeeded".into() },
    ]
}

/// A leader is killed while a request of it is on its way; its successor does it again, and the request arrives.
fn sound() -> Vec<Fact> {
    let held = late();
    let mut facts = vec![led(OLD, "a")];
    facts.extend(done(&run(1), OLD));
    facts.push(Fact::Claimed { run: held.clone(), fence: OLD });
    facts.push(Fact::Arrived { run: held.clone(), attempt: 1, fence: OLD });
    facts.push(Fact::Fault { fence: OLD, happened: Ok(()) });
    facts.push(led(NEW, "b"));
    facts.extend(done(&run(2), NEW));
    facts.push(Fact::Arrived { run: held.clone(), attempt: 2, fence: NEW });
    facts.push(Fact::Judged { run: held.clone(), fence: NEW });
    facts.push(Fact::Accepted { run: held.clone(), fence: NEW });
    facts.push(Fact::Answered { run: held.clone(), attempt: 2, fence: NEW });
    facts.push(Fact::Judged { run: held, fence: OLD });
    facts.extend(done(&run(3), NEW));
    facts
}

fn expected() -> Expected {
    Expected {
        canary: JobName::new("canary").unwrap(),
        first: Wall::from_millis(1000),
        last: Wall::from_millis(3000),
        faults: 1,
        gap_most: 1000,
        with_stale: true,
        begins_until: Some(10),
    }
}

/// The facts, 10 ms apart.
fn record(facts: Vec<Fact>) -> Record {
    (0..).step_by(10).zip(facts).collect()
}

fn rules(facts: Vec<Fact>) -> Vec<Rule> {
    let judgement = judge(&record(facts), &expected());
    let mut rules: Vec<Rule> = judgement.findings.iter().map(|finding| finding.rule).collect();
    rules.dedup();
    rules
}

fn place(facts: &[Fact], wanted: impl Fn(&Fact) -> bool) -> usize {
    facts.iter().position(wanted).unwrap()
}

/// The sound history with these facts in place of those that `wanted` finds first.
fn with(wanted: impl Fn(&Fact) -> bool, instead: Vec<Fact>) -> Vec<Fact> {
    let mut facts = sound();
    let at = place(&facts, wanted);
    facts.splice(at..=at, instead);
    facts
}

fn without(unwanted: impl Fn(&Fact) -> bool) -> Vec<Fact> {
    let before = sound();
    let facts: Vec<Fact> = before.iter().filter(|fact| !unwanted(fact)).cloned().collect();
    assert_ne!(facts.len(), before.len(), "nothing was taken out");
    facts
}

#[test]
fn a_sound_history_passes_with_its_numbers() {
    let judgement = judge(&record(sound()), &expected());
    assert_eq!(judgement.findings, []);
    assert!(judgement.has_passed());
    assert_eq!((judgement.due, judgement.lost, judgement.claimed_twice, judgement.accepted_twice), (3, 0, 0, 0));
    assert_eq!((judgement.stale_sent, judgement.stale_accepted), (1, 0));
    assert_eq!(judgement.take_overs, [TakeOver { leaderless: 10, gap: 50 }]);
}

/// `DropsClaims`: the watermark moves, and the occurrence is in no ledger.
#[test]
fn an_occurrence_that_is_dropped_is_lost() {
    let of = run(3);
    let facts = without(|fact| match fact {
        Fact::Claimed { run, .. } | Fact::Judged { run, .. } | Fact::Accepted { run, .. } => *run == of,
        Fact::Arrived { run, .. } | Fact::Answered { run, .. } | Fact::Verdict { run, .. } => *run == of,
        _ => false,
    });
    assert_eq!(rules(facts), [Rule::Lost]);
}

/// `NoVerdicts`: it is done, and never ends.
#[test]
fn a_run_that_never_ends_is_lost() {
    let of = run(3);
    let facts = without(|fact| matches!(fact, Fact::Verdict { run, .. } if *run == of));
    assert_eq!(rules(facts), [Rule::Lost]);
}

#[test]
fn a_run_that_ended_without_its_effect_is_lost() {
    let of = run(3);
    let facts = without(|fact| matches!(fact, Fact::Accepted { run, .. } if *run == of));
    assert_eq!(rules(facts), [Rule::Lost]);
}

/// `NoFenceNorWatermark`, `ClaimsAgain`: the next leader claims what its predecessor has claimed, and does it.
#[test]
fn an_occurrence_that_is_claimed_again_is_caught() {
    let mut facts = sound();
    facts.push(Fact::Claimed { run: run(1), fence: NEW });
    assert_eq!(rules(facts), [Rule::ClaimedTwice]);
}

/// `NoFenceCheck`: a leader that was replaced goes on claiming.
#[test]
fn a_claim_of_a_replaced_leader_is_caught() {
    let of = run(3);
    let facts = with(
        |fact| matches!(fact, Fact::Claimed { run, .. } if *run == of),
        vec![Fact::Claimed { run: of.clone(), fence: OLD }],
    );
    assert_eq!(rules(facts), [Rule::ClaimedLate]);
}

/// `Overwrites`: a verdict on a run that has one.
#[test]
fn a_verdict_that_is_written_over_is_caught() {
    let mut facts = sound();
    facts.push(Fact::Verdict { run: run(2), verdict: "unknown".into() });
    assert_eq!(rules(facts), [Rule::VerdictChanged]);
}

/// `StartsTwice`: one attempt is made two times.
#[test]
fn a_second_start_is_caught() {
    let mut facts = sound();
    facts.push(Fact::Arrived { run: run(3), attempt: 1, fence: NEW });
    assert_eq!(rules(facts), [Rule::StartedTwice]);
}

/// `TrustsForEver`: a leader that was cut off goes on beginning what it has claimed.
#[test]
fn an_attempt_of_a_replaced_leader_that_begins_after_its_lease_is_caught() {
    let begun = Fact::Arrived { run: late(), attempt: 3, fence: OLD };
    let mut facts = sound();
    // What arrived before the next leader was there is no evidence.
    let place_of_next = place(&facts, |fact| *fact == led(NEW, "b"));
    facts.insert(place_of_next, begun.clone());
    assert!(!rules(facts).contains(&Rule::StartedLate));
    let mut facts = without(|fact| matches!(fact, Fact::Arrived { run, attempt: 1, .. } if *run == late()));
    facts.push(begun);
    assert_eq!(rules(facts.clone()), [Rule::StartedLate]);
    let of_one_that_stood_still = Expected { begins_until: None, ..expected() };
    assert_eq!(judge(&record(facts), &of_one_that_stood_still).findings, []);
}

/// `EndsEarly`: a run goes on while the next one has begun.
#[test]
fn runs_of_one_leader_that_overlap_are_caught() {
    let of = run(2);
    let facts = without(|fact| matches!(fact, Fact::Answered { run, .. } if *run == of));
    assert_eq!(rules(facts), [Rule::Overlapping]);
}

/// `NoGuard`: the sink takes what arrives.
#[test]
fn a_stale_effect_that_is_accepted_is_caught() {
    let stale = Fact::Judged { run: late(), fence: OLD };
    let facts = with(
        |fact| *fact == stale,
        vec![stale.clone(), Fact::Accepted { run: late().replace("01Z", "00Z"), fence: OLD }],
    );
    assert_eq!(rules(facts.clone()), [Rule::StaleAccepted]);
    let judgement = judge(&record(facts), &expected());
    assert_eq!((judgement.stale_sent, judgement.stale_accepted), (1, 1));
}

#[test]
fn an_effect_that_is_accepted_again_is_caught() {
    let mut facts = sound();
    facts.push(Fact::Accepted { run: run(2), fence: NEW });
    assert_eq!(rules(facts), [Rule::AcceptedTwice]);
}

/// `BaseFalls`: the next leader has a lower fence, or the same.
#[test]
fn a_fence_that_does_not_grow_is_caught() {
    for fence in [OLD, OLD - 1] {
        let facts = with(|fact| *fact == led(NEW, "b"), vec![led(fence, "b"), led(NEW, "c")]);
        assert_eq!(rules(facts), [Rule::FenceFell]);
    }
}

/// `GrantsToAll`: the leadership is written over while another holds it.
#[test]
fn one_fence_of_two_nodes_is_caught() {
    let again = with(|fact| *fact == led(NEW, "b"), vec![led(NEW, "b"), led(NEW, "b")]);
    assert_eq!(rules(again), [], "a handle that its holder writes again is the same grant");
    let to_another = with(|fact| *fact == led(NEW, "b"), vec![led(NEW, "b"), led(NEW, "c")]);
    assert_eq!(rules(to_another), [Rule::FenceFell]);
}

/// `NoSuccessor`: the leadership stays free.
#[test]
fn a_leadership_that_no_node_takes_over_is_caught() {
    let mut facts = sound();
    facts.truncate(place(&facts, |fact| *fact == led(NEW, "b")));
    let found = rules(facts);
    assert!(found.contains(&Rule::NoTakeOver) && found.contains(&Rule::Lost), "{found:?}");
}

#[test]
fn a_leader_of_which_no_effect_is_accepted_is_no_take_over() {
    let facts = without(|fact| matches!(fact, Fact::Accepted { fence: NEW, .. }));
    assert!(rules(facts).contains(&Rule::NoTakeOver));
}

#[test]
fn a_fault_that_did_not_happen_proves_nothing() {
    let fault = Fact::Fault { fence: OLD, happened: Ok(()) };
    let not = Fact::Fault { fence: OLD, happened: Err("it runs on".into()) };
    assert_eq!(rules(with(|fact| *fact == fault, vec![not])), [Rule::NoFault]);
    assert_eq!(rules(without(|fact| *fact == fault)), [Rule::NoFault]);
}

#[test]
fn a_drill_that_brought_no_stale_effect_proves_nothing_of_the_guard() {
    let stale = Fact::Judged { run: late(), fence: OLD };
    assert_eq!(rules(without(|fact| *fact == stale)), [Rule::NoStale]);
    // Nor does one that came before the next leader's.
    let mut facts = without(|fact| *fact == stale);
    let at = place(&facts, |fact| *fact == led(NEW, "b"));
    facts.insert(at, stale);
    assert_eq!(rules(facts), [Rule::NoStale]);
}

#[test]
fn a_gap_over_the_bound_is_caught() {
    let mut facts = record(sound());
    let after = facts.iter().position(|(_, fact)| *fact == led(NEW, "b")).unwrap();
    facts[after..].iter_mut().for_each(|(at, _)| *at += 1000);
    let judgement = judge(&facts, &expected());
    assert_eq!(judgement.findings.len(), 1);
    assert_eq!(judgement.findings[0].rule, Rule::GapTooLong);
    assert_eq!(judgement.findings[0].what, "no effect for 1050 ms after the leader under fence 5: over 1000 ms");
}

#[test]
fn a_node_that_ends_by_itself_and_a_part_that_was_not_seen_are_caught() {
    let mut facts = sound();
    facts.push(Fact::Ended { node: "c".into(), how: "exit status: 101".into() });
    facts.push(Fact::Blind { why: "the store no longer had it".into() });
    facts.push(Fact::Stuck { why: "no node led within 60 s".into() });
    assert_eq!(rules(facts), [Rule::NodeEnded, Rule::Blind, Rule::Stuck]);
}

#[test]
fn many_findings_of_one_rule_are_shown_as_some_and_their_number() {
    let findings: Vec<Finding> = (0..10).map(|nth| Finding { rule: Rule::Lost, what: nth.to_string() }).collect();
    let shown: Vec<String> = shown(&findings).into_iter().map(|finding| finding.what).collect();
    assert_eq!(shown, ["0", "1", "2", "and 7 more like these"]);
}
