//! For every promise, a build that is broken on purpose, or a record that was doctored: the referee notices each.

use super::network::Broken;
use super::plan::Plan;
use super::referee::record::{Attempt, Fact, JobRule, Life, Record, State};
use super::referee::{
    Rule, Violation, count, judge, judge_alerts, judge_holders, judge_holders_restored, judge_restore,
};
use super::simulate;

/// So many seeds of a broken build are looked at, at most.
const SEEDS: u64 = 60;

/// How many seeds are looked at between two looks at what was found.
const STEP: u64 = 6;

#[track_caller]
fn is_caught(broken: Broken, rule: Rule) {
    is_caught_in(Plan::of, judge, broken, rule);
}

#[track_caller]
fn is_caught_in(plan: fn(u64) -> Plan, judge: fn(&Record) -> Vec<Violation>, broken: Broken, rule: Rule) {
    for first in (0..SEEDS).step_by(STEP as usize) {
        let outcome = simulate(first..first + STEP, |seed| Plan { broken, ..plan(seed) }, judge);
        if outcome.broken.iter().any(|(_, found)| found.iter().any(|violation| violation.rule == rule)) {
            return;
        }
    }
    panic!("{broken:?} broke nothing that the referee sees as {rule:?}, in {SEEDS} seeds");
}

#[test]
fn writes_without_the_fence_are_caught() {
    is_caught(Broken::NoFenceCheck, Rule::NoStaleWrite);
}

#[test]
fn claims_without_fence_and_watermark_are_caught() {
    is_caught(Broken::NoFenceNorWatermark, Rule::OneClaim);
}

#[test]
fn an_occurrence_that_is_dropped_is_caught() {
    is_caught(Broken::DropsClaims, Rule::NothingLost);
}

#[test]
fn a_trust_that_never_lapses_is_caught() {
    is_caught(Broken::TrustsForEver, Rule::NoStartPastTrust);
}

#[test]
fn bad_ends_without_alerts_are_caught() {
    is_caught_in(Plan::with_alerts, judge_alerts, Broken::EndsSilently, Rule::AlertsTold);
}

#[test]
fn alerts_that_are_taken_and_forgotten_are_caught() {
    is_caught_in(Plan::with_alerts, judge_alerts, Broken::ForgetsTaken, Rule::AlertsTold);
}

#[test]
fn an_alert_that_is_sent_again_under_another_id_or_by_a_leader_that_was_replaced_is_caught() {
    let (id, run) = ("a:failed".to_owned(), attempt(1).run);
    let put = || Fact::Alerted { revision: 7, id: id.clone(), run: run.clone() };
    let gone = || Fact::AlertGone { revision: 8, id: id.clone() };
    let told = |fence, id: &str| Fact::Told { life: life(), fence, id: id.to_owned(), alerts: 1 };
    let next = || Fact::Owner { revision: 9, fence: 9, node: "n1".into(), lease: 2 };
    let is_caught =
        |facts: Vec<Fact>| judge_alerts(&doctored(facts)).iter().any(|violation| violation.rule == Rule::AlertsTold);
    assert!(!is_caught(vec![put(), gone(), told(5, &id), told(5, &id)]), "a repetition has the same id");
    assert!(!is_caught(vec![put(), gone(), next(), told(5, &id)]), "one was on its way");
    assert!(is_caught(vec![put(), gone(), next(), told(5, &id), told(5, &id)]));
    assert!(is_caught(vec![put(), gone(), told(5, &id), told(5, "b:failed")]));
    assert!(is_caught(vec![put(), gone()]), "it was never sent");
}

#[test]
fn runs_that_never_end_are_caught() {
    is_caught(Broken::NoVerdicts, Rule::Settles);
}

#[test]
fn a_leadership_that_nobody_takes_over_is_caught() {
    is_caught(Broken::NoSuccessor, Rule::Takeover);
}

#[test]
fn a_second_start_is_caught() {
    is_caught(Broken::StartsTwice, Rule::NoDoubleStart);
}

#[test]
fn runs_that_go_on_after_their_end_are_caught() {
    is_caught(Broken::EndsEarly, Rule::Overlap);
}

#[test]
fn a_lease_that_is_revoked_before_the_commands_have_ended_is_caught() {
    is_caught(Broken::RevokesBeforeEmpty, Rule::NothingLeftAtTakeover);
}

#[test]
fn a_lease_that_is_revoked_of_a_node_that_lives_is_caught() {
    is_caught(Broken::RevokesOfTheLiving, Rule::NothingLeftAtTakeover);
}

#[test]
fn a_receiver_without_a_guard_is_caught() {
    is_caught(Broken::NoGuard, Rule::GuardHolds);
}

#[test]
fn a_verdict_on_a_run_that_is_another_s_is_caught() {
    is_caught(Broken::Overwrites, Rule::OneVerdict);
}

#[test]
fn a_lock_that_is_granted_to_all_is_caught() {
    is_caught_in(Plan::of_holders, judge_holders, Broken::GrantsToAll, Rule::OneHolder);
}

#[test]
fn fences_of_a_lock_that_fall_are_caught() {
    is_caught_in(Plan::of_holders, judge_holders, Broken::BaseFalls, Rule::FencesGrow);
}

#[test]
fn fences_of_leaders_that_fall_are_caught() {
    is_caught(Broken::BaseFalls, Rule::FencesGrow);
}

#[test]
fn a_holder_that_trusts_for_ever_is_caught() {
    is_caught_in(Plan::of_holders, judge_holders, Broken::TrustsForEver, Rule::OneHolder);
}

#[test]
fn occurrences_that_are_claimed_without_a_look_are_caught() {
    is_caught_in(Plan::of_holders, judge_holders, Broken::NoFenceNorWatermark, Rule::ClaimedOnce);
}

#[test]
fn what_is_done_again_is_caught() {
    is_caught_in(Plan::of_holders, judge_holders, Broken::ClaimsAgain, Rule::DoneOnce);
}

#[test]
fn a_lock_that_nobody_gets_again_is_caught() {
    is_caught_in(Plan::of_holders, judge_holders, Broken::NoSuccessor, Rule::Served);
}

#[test]
fn a_store_that_is_restored_where_nobody_remembers_is_caught() {
    is_caught_in(Plan::with_restore, judge_restore, Broken::NoMemory, Rule::Restored);
}

#[test]
fn a_store_that_is_restored_where_no_holder_remembers_is_caught() {
    is_caught_in(Plan::of_holders_with_restore, judge_holders_restored, Broken::NoMemory, Rule::Restored);
}

fn life() -> Life {
    Life { node: "n0".into(), life: 1 }
}

/// A short record in which nothing is wrong, with these facts in the middle.
fn doctored(facts: impl IntoIterator<Item = Fact>) -> Record {
    let owner = Fact::Owner { revision: 5, fence: 5, node: "n0".into(), lease: 1 };
    let registered = Fact::Registered { revision: 6, job: "a".into(), since: 0 };
    let mut all = vec![(0, Fact::Up(life())), (0, owner), (1, registered)];
    all.extend(facts.into_iter().map(|fact| (2, fact)));
    Record {
        rules: vec![JobRule {
            name: "a".into(),
            every: Some(60_000),
            jitter: 0,
            at_once: 1,
            at_most_once: true,
            finishes: false,
        }],
        ttl: 10_000,
        margin: 1_100,
        grace: 1_000,
        wall_start: 0,
        facts: all,
        healed: 2,
        end: 3,
    }
}

fn rules_broken(record: &Record) -> Vec<Rule> {
    judge(record).into_iter().map(|violation| violation.rule).collect()
}

fn attempt(number: u32) -> Attempt {
    Attempt { run: "a@1970-01-01T00:01:00Z".into(), number, fence: 5 }
}

#[test]
fn a_record_in_which_nothing_is_wrong_is_not_found_fault_with() {
    assert_eq!(rules_broken(&doctored([])), []);
}

#[test]
fn a_fence_that_falls_is_caught() {
    let record =
        doctored([Fact::Vacant { revision: 7 }, Fact::Owner { revision: 8, fence: 4, node: "n1".into(), lease: 2 }]);
    assert_eq!(rules_broken(&record), [Rule::FencesGrow]);
}

#[test]
fn a_count_of_more_than_was_recorded_is_caught() {
    let done = || Fact::Done {
        revision: 7,
        run: "a@1970-01-01T00:01:00Z".into(),
        verdict: "succeeded".into(),
        attempt: 1,
        many: None,
    };
    let counted = |hour: &str, ended| Fact::Counted { hour: hour.into(), ended };
    let is_caught = |facts: Vec<Fact>| rules_broken(&doctored(facts)).contains(&Rule::CountsHold);
    assert!(!is_caught(vec![done(), counted("0", 1), counted("0", 1)]));
    assert!(is_caught(vec![counted("0", 1), done()]));
    assert!(is_caught(vec![done(), counted("0", 1), counted("1", 1)]));
    assert!(is_caught(vec![done(), counted("0", 2)]));
}

#[test]
fn a_node_that_ends_by_itself_is_caught() {
    assert_eq!(rules_broken(&doctored([Fact::Broke(life(), "a panic".into())])), [Rule::NodesLast]);
}

#[test]
fn an_at_most_once_run_that_is_started_again_is_caught_unless_it_is_known_to_have_failed() {
    let acknowledged = || Fact::Acknowledged { life: life(), lease: 1, sent: 0, ttl: 10_000 };
    let started = |number| Fact::Started { life: life(), attempt: attempt(number), own: 1 };
    let ended = || Fact::Ended { life: life(), attempt: attempt(1) };
    let again = doctored([acknowledged(), started(1), ended(), started(2)]);
    assert_eq!(rules_broken(&again), [Rule::NoDoubleStart]);
    let failed = Fact::Open { revision: 9, run: attempt(1).run, state: State::Retrying, claimant: None, attempt: 1 };
    let after_failure = doctored([acknowledged(), started(1), ended(), failed, started(2)]);
    assert!(!rules_broken(&after_failure).contains(&Rule::NoDoubleStart));
}

#[test]
fn what_is_counted_is_what_is_in_the_record() {
    let counts = count(&doctored([Fact::Saw("crashes"), Fact::Saw("crashes")]));
    assert_eq!((counts["crashes"], counts["terms"], counts["failovers"]), (2, 1, 0));
}
