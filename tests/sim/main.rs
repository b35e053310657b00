//! A seeded simulation of whole nodes, and the referee's judgement of what they did.
//!
//! `FENCRON_SIM_SEEDS=2000` sets how many seeds are tried, `FENCRON_SIM_SEED=17` replays one and tells what happened.
//! See `docs/testing.md`.
#![cfg(feature = "jobs")]

mod alerts;
mod broken;
mod chance;
mod clock;
#[cfg(feature = "cli")]
mod drill;
mod holders;
mod jobs;
mod network;
mod plan;
mod supervisor;
mod work;
mod world;

#[path = "../referee/mod.rs"]
mod referee;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

// The judge of a drill, which is read from its own file, names these.
#[cfg(feature = "cli")]
use fencron::{job, time};

use plan::Plan;
use referee::record::Record;
use referee::{Violation, count, judge, judge_alerts, judge_holders, judge_holders_restored, judge_restore};

/// How many seeds are tried unless `FENCRON_SIM_SEEDS` says otherwise.
const SEEDS: u64 = 500;
/// How many of programs that hold locks, each of which takes longer.
const HOLDERS_SEEDS: u64 = 200;

/// What has to have happened over the seeds, so that the judgement means something.
const HAPPENED: &[&str] = &[
    "failovers",
    "claims",
    "crashes",
    "orderly stops",
    "pauses",
    "cuts",
    "compactions",
    "traps sprung",
    "wills executed",
    "leases revoked by hand",
    "owners deleted by hand",
    "answers that did not come",
    "answers lost after application",
    "requests lost",
    "requests refused",
    "requests applied late",
    "requests applied twice",
    "requests of people taken",
    "watches broken",
    "starts refused for want of trust",
    "effects taken",
    "stale effects, taken by whoever does not look at fences",
    "retries",
    "succeeded verdicts",
    "failed verdicts",
    "timed out verdicts",
    "cancelled verdicts",
    "skipped verdicts",
    "unknown verdicts",
    "verdicts over many",
    "additions to counts",
];

/// From so many seeds on, all of that has to have happened.
const ENOUGH: u64 = 200;

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number, not `{text}`")))
}

/// What came of many seeds.
#[derive(Default)]
struct Outcome {
    broken: Vec<(u64, Vec<Violation>)>,
    counts: BTreeMap<&'static str, u64>,
}

/// Simulates the seeds on all processors, and judges each.
fn simulate(seeds: Range<u64>, plan: impl Fn(u64) -> Plan + Sync, judge: fn(&Record) -> Vec<Violation>) -> Outcome {
    let next = AtomicU64::new(seeds.start);
    let outcome = Mutex::new(Outcome::default());
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            let record = world::run(&plan(seed));
            let (violations, counts) = (judge(&record), count(&record));
            let mut outcome = outcome.lock().unwrap();
            for (what, times) in counts {
                *outcome.counts.entry(what).or_default() += times;
            }
            if !violations.is_empty() {
                outcome.broken.push((seed, violations));
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let mut outcome = outcome.into_inner().unwrap();
    outcome.broken.sort_by_key(|(seed, _)| *seed);
    outcome
}

#[test]
fn what_is_promised_holds_whatever_goes_wrong() {
    if let Some(seed) = setting("FENCRON_SIM_SEED") {
        return replay(Plan::of(seed), judge);
    }
    let tried = setting("FENCRON_SIM_SEEDS").unwrap_or(SEEDS);
    let first = setting("FENCRON_SIM_FIRST").unwrap_or(0);
    all_is_well(first..first + tried, Plan::of, judge, HAPPENED);
}

/// What has to have happened over the seeds of those who hold locks.
const HELD: &[&str] = &[
    "crashes",
    "orderly stops",
    "pauses",
    "cuts",
    "traps sprung",
    "wills executed",
    "leases revoked by hand",
    "locks taken by hand",
    "answers lost after application",
    "requests applied late",
    "requests applied twice",
    "holds",
    "holds lost",
    "calls for locks that had it not",
    "guards dropped",
    "waits dropped half-way",
    "occurrences handed out",
    "terms that ended in the middle of work",
    "keys begun",
    "keys done",
    "keys failed",
    "keys unknown",
];

#[test]
fn what_holders_are_promised_holds_whatever_goes_wrong() {
    if let Some(seed) = setting("FENCRON_SIM_SEED") {
        return replay(Plan::of_holders(seed), judge_holders);
    }
    let tried = setting("FENCRON_SIM_SEEDS").unwrap_or(HOLDERS_SEEDS);
    let first = setting("FENCRON_SIM_FIRST").unwrap_or(0);
    all_is_well(first..first + tried, Plan::of_holders, judge_holders, HELD);
}

fn all_is_well(seeds: Range<u64>, plan: fn(u64) -> Plan, judge: fn(&Record) -> Vec<Violation>, happened: &[&str]) {
    let tried = seeds.end - seeds.start;
    let outcome = simulate(seeds, plan, judge);
    for (what, times) in &outcome.counts {
        println!("{times:>9} {what}");
    }
    let mut by_rule: BTreeMap<referee::Rule, (usize, u64)> = BTreeMap::new();
    for (seed, violations) in &outcome.broken {
        println!("seed {seed}: {} ({} in all)", violations[0], violations.len());
        let mut rules: Vec<_> = violations.iter().map(|violation| violation.rule).collect();
        rules.dedup();
        for rule in rules {
            by_rule.entry(rule).or_insert((0, *seed)).0 += 1;
        }
    }
    let seeds: Vec<u64> = outcome.broken.iter().map(|(seed, _)| *seed).collect();
    assert!(seeds.is_empty(), "promises are broken ({by_rule:?}); replay one with FENCRON_SIM_SEED: {seeds:?}");
    let missing: Vec<_> = happened.iter().filter(|what| !outcome.counts.contains_key(**what)).collect();
    assert!(tried < ENOUGH || missing.is_empty(), "in {tried} seeds nothing of this happened: {missing:?}");
}

fn replay(plan: Plan, judge: fn(&Record) -> Vec<Violation>) {
    println!("{plan:#?}");
    let record = world::run(&plan);
    for (at, fact) in &record.facts {
        println!("{at:>7} {fact:?}");
    }
    let violations = judge(&record);
    for violation in &violations {
        println!("{violation}");
    }
    assert!(violations.is_empty(), "{} promises are broken", violations.len());
}

/// How many seeds of nodes that send alerts are tried.
const ALERTS_SEEDS: u64 = 100;

#[test]
fn what_is_promised_of_alerts_holds_whatever_goes_wrong() {
    if let Some(seed) = setting("FENCRON_SIM_SEED") {
        return replay(Plan::with_alerts(seed), judge_alerts);
    }
    let tried = setting("FENCRON_SIM_SEEDS").map_or(ALERTS_SEEDS, |seeds| seeds.min(ALERTS_SEEDS));
    let first = setting("FENCRON_SIM_FIRST").unwrap_or(0);
    let outcome = simulate(first..first + tried, Plan::with_alerts, judge_alerts);
    let broken: Vec<_> = outcome.broken.iter().map(|(seed, found)| (seed, &found[0])).collect();
    assert!(broken.is_empty(), "replay one with FENCRON_SIM_SEED: {broken:?}");
    for what in ["alerts put", "alerts sent", "summaries sent", "failovers", "unknown verdicts"] {
        assert!(
            tried < ALERTS_SEEDS || outcome.counts.contains_key(what),
            "there were no {what}: {:?}",
            outcome.counts
        );
    }
}

/// Each of these is whole, and then restored: fewer say as much.
const RESTORED_SEEDS: u64 = 100;

#[test]
fn a_store_that_is_restored_is_acted_in_by_nobody_until_it_is_repaired() {
    if let Some(seed) = setting("FENCRON_SIM_SEED") {
        return replay(Plan::with_restore(seed), judge_restore);
    }
    restored_and_repaired(Plan::with_restore, judge_restore);
}

#[test]
fn a_store_that_is_restored_gives_holders_nothing_until_it_is_repaired() {
    if let Some(seed) = setting("FENCRON_SIM_SEED") {
        return replay(Plan::of_holders_with_restore(seed), judge_holders_restored);
    }
    restored_and_repaired(Plan::of_holders_with_restore, judge_holders_restored);
}

fn restored_and_repaired(plan: fn(u64) -> Plan, judge: fn(&Record) -> Vec<Violation>) {
    let outcome = simulate(0..RESTORED_SEEDS, plan, judge);
    assert_eq!(outcome.broken, [], "{:?}", outcome.broken.iter().map(|(seed, _)| seed).collect::<Vec<_>>());
    let counted = |what| outcome.counts.get(what).copied().unwrap_or_default();
    assert_eq!((counted("restores"), counted("repairs")), (RESTORED_SEEDS, RESTORED_SEEDS));
}

#[test]
fn a_seed_replays_exactly() {
    for plan in [Plan::of, Plan::of_holders].into_iter().flat_map(|of| (0..5).map(of)) {
        let (seed, one, other) = (plan.seed, world::run(&plan), world::run(&plan));
        let differ = one.facts.iter().zip(&other.facts).find(|(one, other)| one != other);
        assert!(one == other, "seed {seed} went two ways: {differ:?}");
    }
}
