//! The judge of `fencron drill`, over the broken builds of the simulation: it catches each that shows from outside.
//!
//! A drill plays with the real program, which has no switch that weakens it. Here the same faults are done to whole nodes
//! that are broken on purpose, and what happened is given to the judge as a drill would have seen it.

#[path = "../../src/cli/drill/judge.rs"]
mod judge;

use std::collections::{BTreeSet, HashMap, HashSet};

use fencron::job::{JobName, RunId};
use fencron::time::Wall;
use judge::{Expected, Fact as Seen, Rule, judge};

use super::network::Broken;
use super::plan::{CHAOS, Deed, Plan};
use super::referee::record::{Fact, Record};
use super::world;

const CANARY: &str = "canary";

/// So many seeds of a broken build are looked at, at most.
const SEEDS: u64 = 60;

/// So many of the sound one, all of them.
const SOUND: u64 = 30;

/// What a drill shows of a build that is broken like this.
#[derive(Debug)]
enum Shows {
    Rule(Rule),
    /// Only where requests to the store are late, lost or repeated.
    InRoughWeather(Rule),
    /// It does not, and why that is so.
    Nothing(&'static str),
}

/// A build without an answer here does not compile.
fn shows(broken: Broken) -> Shows {
    match broken {
        Broken::Not => Shows::Nothing("nothing is wrong with it"),
        Broken::NoFenceCheck => Shows::InRoughWeather(Rule::ClaimedLate),
        Broken::NoFenceNorWatermark => Shows::InRoughWeather(Rule::ClaimedTwice),
        Broken::DropsClaims => Shows::Rule(Rule::Lost),
        Broken::TrustsForEver => Shows::Rule(Rule::StartedLate),
        Broken::NoVerdicts => Shows::Rule(Rule::Lost),
        Broken::NoSuccessor => Shows::Rule(Rule::NoTakeOver),
        Broken::StartsTwice => Shows::Rule(Rule::StartedTwice),
        Broken::EndsEarly => Shows::Rule(Rule::Overlapping),
        Broken::NoGuard => Shows::Rule(Rule::StaleAccepted),
        Broken::Overwrites => Shows::InRoughWeather(Rule::VerdictChanged),
        Broken::GrantsToAll => Shows::Nothing(
            "a node stands for the leadership when it is free, in a queue, so that none takes it from another; the judge \
             of a drill has a doctored record of it (`one_fence_of_two_nodes_is_caught`)",
        ),
        Broken::BaseFalls => Shows::Rule(Rule::FenceFell),
        Broken::ClaimsAgain => Shows::Nothing("no node does anything by `once`"),
        Broken::NoMemory => Shows::Nothing("a drill restores no store: it is not its own"),
        Broken::RevokesBeforeEmpty => {
            Shows::Nothing("the jobs of a drill are requests: a killed node leaves no command")
        }
        Broken::EndsSilently | Broken::ForgetsTaken => Shows::Nothing("the jobs of a drill notify nothing"),
        Broken::RevokesOfTheLiving => Shows::Nothing("no fault of a drill is between a node and its supervisor"),
    }
}

/// What a drill would have seen, and what it would expect.
fn seen(plan: &Plan, record: &Record) -> (judge::Record, Expected) {
    let claims: HashMap<u64, u64> = record
        .facts
        .iter()
        .filter_map(|(_, fact)| match fact {
            Fact::Decided { revision, fence, .. } => Some((*revision, *fence)),
            _ => None,
        })
        .collect();
    let deed = plan.deeds.iter().find(|(_, deed)| !matches!(deed, Deed::Weather(..))).expect("a drill has a fault").1;
    let mut looking = Looking { claims, leads: 0, accepted: HashSet::new(), fault: format!("{deed:?}") };
    let seen: judge::Record =
        record.facts.iter().flat_map(|(at, fact)| looking.at(fact).into_iter().map(move |seen| (*at, seen))).collect();
    let canary = JobName::new(CANARY).unwrap();
    let first = seen.iter().find_map(|(_, fact)| match fact {
        Seen::Claimed { run, .. } if run.starts_with(CANARY) => Some(run.parse::<RunId>().unwrap().at()),
        _ => None,
    });
    let last = Wall::from_millis(record.wall_start + CHAOS as i64 - 5_000);
    let expected = Expected {
        canary,
        first: first.unwrap_or(last),
        last,
        faults: 1,
        gap_most: plan.ttl() + 5_000,
        with_stale: true,
        begins_until: (!matches!(deed, Deed::Hold(..))).then(|| plan.ttl()),
    };
    (seen, expected)
}

struct Looking {
    /// Under which fence the transactions were made that claim.
    claims: HashMap<u64, u64>,
    leads: u64,
    accepted: HashSet<String>,
    fault: String,
}

impl Looking {
    fn at(&mut self, fact: &Fact) -> Vec<Seen> {
        match fact {
            Fact::Owner { fence, node, .. } => {
                self.leads = *fence;
                vec![Seen::Led { fence: *fence, node: node.clone() }]
            }
            Fact::Open { revision, run, .. } => {
                let fence = self.claims.get(revision);
                fence.map(|fence| Seen::Claimed { run: run.clone(), fence: *fence }).into_iter().collect()
            }
            Fact::Done { run, verdict, .. } => vec![Seen::Verdict { run: run.clone(), verdict: verdict.clone() }],
            Fact::Started { attempt, .. } => {
                vec![Seen::Arrived { run: attempt.run.clone(), attempt: attempt.number, fence: attempt.fence }]
            }
            Fact::Ended { attempt, .. } => {
                vec![Seen::Answered { run: attempt.run.clone(), attempt: attempt.number, fence: attempt.fence }]
            }
            Fact::Effect { attempt, accepted } => {
                let mut seen = vec![Seen::Judged { run: attempt.run.clone(), fence: attempt.fence }];
                // The guard of a drill answers a repetition itself.
                if *accepted && self.accepted.insert(attempt.run.clone()) {
                    seen.push(Seen::Accepted { run: attempt.run.clone(), fence: attempt.fence });
                }
                seen
            }
            Fact::Shock(what) if *what == self.fault => vec![Seen::Fault { fence: self.leads, happened: Ok(()) }],
            Fact::Broke(life, how) => vec![Seen::Ended { node: life.node.clone(), how: how.clone() }],
            _ => Vec::new(),
        }
    }
}

/// What the judge finds in one drill.
fn found(plan: &Plan) -> Vec<judge::Finding> {
    let record = world::run(plan);
    let (seen, expected) = seen(plan, &record);
    judge(&seen, &expected).findings
}

#[test]
fn each_broken_build_that_shows_from_outside_is_caught() {
    for broken in Broken::ALL {
        let (rule, rough) = match shows(*broken) {
            Shows::Rule(rule) => (rule, false),
            Shows::InRoughWeather(rule) => (rule, true),
            Shows::Nothing(why) => {
                println!("{broken:?} shows nothing: {why}");
                continue;
            }
        };
        let mut others = BTreeSet::new();
        let is_caught = (0..SEEDS).any(|seed| {
            let rules: Vec<Rule> = found(&Plan { broken: *broken, ..Plan::of_drill(seed, rough) })
                .into_iter()
                .map(|finding| finding.rule)
                .collect();
            others.extend(rules.iter().copied());
            rules.contains(&rule)
        });
        assert!(is_caught, "{broken:?} is not caught as {rule:?} in {SEEDS} drills, but as {others:?}");
    }
}

#[test]
fn a_sound_build_passes_each_drill() {
    for seed in 0..SOUND {
        assert_eq!(found(&Plan::of_drill(seed, false)), [], "seed {seed}");
    }
}

/// In rough weather a leader can be lost by itself, so that what depends on the time that it takes is not judged.
#[test]
fn a_sound_build_does_nothing_wrong_in_rough_weather() {
    for seed in 0..SOUND {
        let findings = found(&Plan::of_drill(seed, true));
        let by_time = [Rule::GapTooLong, Rule::NoTakeOver, Rule::NoStale];
        let wrong: Vec<_> = findings.iter().filter(|finding| !by_time.contains(&finding.rule)).collect();
        assert!(wrong.is_empty(), "seed {seed}: {wrong:?}");
    }
}
