//! The jobs of the simulations: every policy, and what the referee is told of each.

use super::chance::Chance;
use super::referee::record::JobRule;

/// Name, interval in seconds, jitter in seconds, how many at once, `at_most_once`, and the rest of its definition.
type Template = (&'static str, i64, i64, usize, bool, &'static str);

const ALWAYS: Template = ("tick", 1, 0, 1, true, "schedule: '@every 1s'");

const SCHEDULED: &[Template] = &[
    ("skips", 2, 0, 1, true, "schedule: '@every 2s', overlap: skip"),
    ("queues", 5, 0, 1, true, "schedule: '@every 5s', overlap: queue"),
    ("replaces", 4, 0, 1, true, "schedule: '@every 4s', overlap: replace"),
    ("beside", 2, 0, 3, true, "schedule: '@every 2s', overlap: allow, max_running: 3"),
    ("spread", 5, 3, 1, true, "schedule: '@every 5s', jitter: 3s, overlap: queue"),
    ("latest", 2, 0, 1, true, "schedule: '@every 2s', missed: {run: latest, within: 1h}"),
    ("all", 3, 0, 1, true, "schedule: '@every 3s', overlap: queue, missed: {run: all, limit: 4, rate: 2/s}"),
    ("misses", 1, 0, 1, true, "schedule: '@every 1s', missed: {run: skip}"),
    ("flaky", 5, 0, 1, true, "schedule: '@every 5s', retry: {attempts: 3, backoff: {initial: 500ms, max: 2s}}"),
    ("again", 4, 0, 1, false, "schedule: '@every 4s', guarantee: at_least_once, overlap: queue"),
    (
        "flaky-again",
        6,
        0,
        1,
        false,
        "schedule: '@every 6s', guarantee: at_least_once, retry: {attempts: 2, backoff: {initial: 1s, max: 1s}}",
    ),
    ("long", 12, 0, 1, true, "schedule: '@every 12s', on_lost_leadership: finish"),
    ("long-again", 10, 0, 1, false, "schedule: '@every 10s', on_lost_leadership: finish, guarantee: at_least_once"),
    ("hurried", 3, 0, 1, true, "schedule: '@every 3s', timeout: 1s"),
    ("cron", 5, 0, 1, true, "schedule: '*/5 * * * * *'"),
    ("instant", 1, 0, 2, true, "schedule: '@every 1s', overlap: allow, max_running: 2"),
];

const FOLLOWING: &[Template] = &[
    ("follows", 0, 0, 1, true, "after: {job: tick, on: success}, overlap: skip"),
    ("mourns", 0, 0, 1, true, "after: {job: tick, on: failure}"),
    ("chained", 0, 0, 1, false, "after: {job: follows, on: end}, overlap: queue, guarantee: at_least_once"),
];

/// The job whose effects are held back until another leader has acted, as by the sink of a drill.
pub const LATE: &str = "late";

/// The job whose attempts begin long after they were claimed, as where a name is looked up for long.
pub const SLOW: &str = "slow";

/// The jobs of a drill: one whose occurrences are counted, and one whose effects are late; and one that begins late, which
/// a drill has by chance only.
pub fn of_drill() -> (String, Vec<JobRule>) {
    let job = |name: &str, more: &str| {
        let each = "schedule: '* * * * * *', guarantee: at_least_once, timeout: 1h, retry: {attempts: 5}";
        format!("  {name}: {{{each}, {more}, command: [x]}}\n")
    };
    let canary = job("canary", "overlap: queue, missed: {run: all, within: none, limit: 1000, rate: 1000/s}");
    let beside = [LATE, SLOW].map(|name| job(name, "overlap: skip, missed: skip")).concat();
    let rule = |name: &str| JobRule {
        name: name.to_owned(),
        every: Some(1000),
        jitter: 0,
        at_once: 1,
        at_most_once: false,
        finishes: false,
    };
    (format!("version: 1\njobs:\n{canary}{beside}"), ["canary", LATE, SLOW].map(rule).to_vec())
}

/// A `jobs.yaml` and what it says, for the referee.
pub fn choose(chance: &mut Chance) -> (String, Vec<JobRule>) {
    let mut chosen = vec![ALWAYS];
    chosen.extend(SCHEDULED.iter().filter(|_| chance.permille(300)));
    if chance.permille(500) {
        chosen.extend(FOLLOWING);
    }
    let mut text = "version: 1\njobs:\n".to_owned();
    for (name, _, _, _, _, rest) in &chosen {
        text.push_str(&format!("  {name}: {{{rest}, command: [x]}}\n"));
    }
    let rules = chosen.into_iter().map(|(name, every, jitter, at_once, at_most_once, rest)| JobRule {
        name: name.to_owned(),
        every: (every > 0).then_some(every * 1000),
        jitter: jitter * 1000,
        at_once,
        at_most_once,
        finishes: rest.contains("finish"),
    });
    (text, rules.collect())
}
