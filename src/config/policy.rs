//! The policies of a job: read where they are given, laid over the defaults, and settled.

use std::collections::BTreeMap;
use std::time::Duration;

use super::env_file;
use super::keys::{self, MAX_VARIABLES};
use super::problem::quoted;
use super::timing::{Calendars, Rules};
use super::tree::NodeId;
use super::walk::{Entry, Fields, Path, Spot, Walk};
use crate::job::{Guarantee, History, Missed, MissedRun, OnLostLeadership, Overlap, Retry, Task, Text};

/// How many runs `overlap: allow` allows where `max_running` does not say it.
const DEFAULT_MAX_RUNNING: u32 = 10;
const DEFAULT_KILL_AFTER: Duration = Duration::from_secs(10);
const DEFAULT_MISSED: Missed = Missed {
    run: MissedRun::Latest,
    within: Some(Duration::from_secs(3_600)),
    limit: 10,
    every: Duration::from_millis(200),
};
pub const DEFAULT_RETRY: Retry = Retry { attempts: 1, initial: Duration::from_secs(5), max: Duration::from_secs(300) };
const DEFAULT_HISTORY: History = History { keep: 100, age: Duration::from_secs(30 * 86_400) };

/// A guarantee as it is asked for; whether it can be kept depends on the task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::enum_variant_names, reason = "they are the words of the language")]
pub enum Asked {
    AtMostOnce,
    AtLeastOnce,
    ExactlyOnce,
}

/// A setting, and the value's place in the file.
#[derive(Clone, Copy, Debug)]
pub struct Placed<T> {
    pub value: T,
    pub node: NodeId,
}

/// Policies as far as one map gives them.
#[derive(Clone, Default)]
pub struct Policies {
    pub rules: Rules,
    pub jitter: Option<Placed<Duration>>,
    pub env: BTreeMap<String, Text>,
    pub dir: Option<Text>,
    pub timeout: Option<Option<Duration>>,
    pub kill_after: Option<Duration>,
    overlap: Option<usize>,
    max_running: Option<Placed<u32>>,
    run: Option<usize>,
    within: Option<Option<Duration>>,
    limit: Option<u32>,
    every: Option<Duration>,
    attempts: Option<u32>,
    initial: Option<Placed<Duration>>,
    max: Option<Placed<Duration>>,
    guarantee: Option<Placed<Asked>>,
    on_lost: Option<OnLostLeadership>,
    keep: Option<u32>,
    age: Option<Duration>,
}

impl Policies {
    /// Reads what `fields`, a map with the table of policies, gives.
    pub fn read(walk: &mut Walk, fields: &Fields, calendars: &Calendars) -> Policies {
        let jitter = fields.get("jitter").and_then(|spot| place(spot, walk.duration(spot)));
        let guarantee = fields.get("guarantee").and_then(|spot| {
            let asked = walk.word(spot).map(|word| [Asked::AtMostOnce, Asked::AtLeastOnce, Asked::ExactlyOnce][word]);
            place(spot, asked)
        });
        let on_lost = fields.get("on_lost_leadership").and_then(|spot| walk.word(spot));
        let mut policies = Policies {
            rules: Rules::read(walk, fields, calendars),
            jitter,
            env: read_variables(walk, fields),
            dir: fields.get("dir").and_then(|spot| read_dir(walk, spot)),
            timeout: fields.get("timeout").and_then(|spot| walk.duration_or_none(spot)),
            kill_after: fields.get("kill_after").and_then(|spot| walk.duration(spot)),
            overlap: fields.get("overlap").and_then(|spot| walk.word(spot)),
            max_running: fields.get("max_running").and_then(|spot| place(spot, walk.count(spot))),
            guarantee,
            on_lost: on_lost.map(|word| [OnLostLeadership::Cancel, OnLostLeadership::Finish][word]),
            ..Policies::default()
        };
        policies.read_missed(walk, fields);
        policies.read_retry(walk, fields);
        policies.read_history(walk, fields);
        policies
    }

    /// Reads what a migration can say of how it is executed.
    pub fn of_migration(walk: &mut Walk, fields: &Fields) -> Policies {
        let mut policies = Policies {
            env: read_variables(walk, fields),
            dir: fields.get("dir").and_then(|spot| read_dir(walk, spot)),
            timeout: fields.get("timeout").and_then(|spot| walk.duration_or_none(spot)),
            kill_after: fields.get("kill_after").and_then(|spot| walk.duration(spot)),
            ..Policies::default()
        };
        policies.read_retry(walk, fields);
        policies
    }

    fn read_missed(&mut self, walk: &mut Walk, fields: &Fields) {
        let Some(spot) = fields.get("missed") else { return };
        let Some(fields) = walk.fields(&spot) else { return };
        self.run = fields.get("run").and_then(|spot| walk.word(spot));
        self.within = fields.get("within").and_then(|spot| walk.duration_or_none(spot));
        self.limit = fields.get("limit").and_then(|spot| walk.count(spot));
        self.every = fields.get("rate").and_then(|spot| walk.rate(spot));
    }

    fn read_retry(&mut self, walk: &mut Walk, fields: &Fields) {
        let Some(spot) = fields.get("retry") else { return };
        let Some(fields) = walk.fields(&spot) else { return };
        self.attempts = fields.get("attempts").and_then(|spot| walk.count(spot));
        let Some(spot) = fields.get("backoff") else { return };
        let Some(fields) = walk.fields(&spot) else { return };
        self.initial = fields.get("initial").and_then(|spot| place(spot, walk.duration(spot)));
        self.max = fields.get("max").and_then(|spot| place(spot, walk.duration(spot)));
    }

    fn read_history(&mut self, walk: &mut Walk, fields: &Fields) {
        let Some(spot) = fields.get("history") else { return };
        let Some(fields) = walk.fields(&spot) else { return };
        self.keep = fields.get("keep").and_then(|spot| walk.count(spot));
        self.age = fields.get("for").and_then(|spot| walk.duration(spot));
    }

    /// These policies with those of `defaults` where they say nothing.
    #[must_use]
    pub fn over(self, defaults: &Policies) -> Policies {
        let mut env = defaults.env.clone();
        env.extend(self.env);
        Policies {
            env,
            rules: self.rules.over(&defaults.rules),
            jitter: self.jitter.or(defaults.jitter),
            dir: self.dir.or_else(|| defaults.dir.clone()),
            timeout: self.timeout.or(defaults.timeout),
            kill_after: self.kill_after.or(defaults.kill_after),
            overlap: self.overlap.or(defaults.overlap),
            max_running: self.max_running.or(defaults.max_running),
            run: self.run.or(defaults.run),
            within: self.within.or(defaults.within),
            limit: self.limit.or(defaults.limit),
            every: self.every.or(defaults.every),
            attempts: self.attempts.or(defaults.attempts),
            initial: self.initial.or(defaults.initial),
            max: self.max.or(defaults.max),
            guarantee: self.guarantee.or(defaults.guarantee),
            on_lost: self.on_lost.or(defaults.on_lost),
            keep: self.keep.or(defaults.keep),
            age: self.age.or(defaults.age),
        }
    }

    pub fn kill_after(&self) -> Duration {
        self.kill_after.unwrap_or(DEFAULT_KILL_AFTER)
    }

    /// `overlap` and `max_running`, which the job itself may only give where it counts.
    pub fn overlap(&self, walk: &mut Walk, own: &Fields) -> Overlap {
        let max_running = self.max_running.map_or(DEFAULT_MAX_RUNNING, |placed| placed.value);
        let allow = Overlap::Allow { max_running };
        let overlap = [Overlap::Skip, Overlap::Queue, Overlap::Replace, allow][self.overlap.unwrap_or(0)];
        if let Some(spot) = own.get("max_running")
            && overlap != allow
        {
            let named = keys::OVERLAPS[self.overlap.unwrap_or(0)];
            walk.wrong(spot, format!("`max_running` needs `overlap: allow`, and this job has `overlap: {named}`"));
        }
        overlap
    }

    pub fn missed(&self) -> Missed {
        Missed {
            run: self.run.map_or(DEFAULT_MISSED.run, |word| [MissedRun::Skip, MissedRun::Latest, MissedRun::All][word]),
            within: self.within.unwrap_or(DEFAULT_MISSED.within),
            limit: self.limit.unwrap_or(DEFAULT_MISSED.limit),
            every: self.every.unwrap_or(DEFAULT_MISSED.every),
        }
    }

    /// `retry`, whose pauses must fit each other.
    pub fn retry(&self, walk: &mut Walk, job: &Path) -> Retry {
        let initial = self.initial.map_or(DEFAULT_RETRY.initial, |placed| placed.value);
        // A longer first pause moves the default of the longest with it; the two given must fit.
        let max = self.max.map_or(DEFAULT_RETRY.max.max(initial), |placed| placed.value);
        if let Some(Placed { node, .. }) = self.max
            && max < initial
        {
            let [initial, max] = [initial, max].map(crate::time::written);
            let retry = Path::Key(job, "retry");
            let backoff = Path::Key(&retry, "backoff");
            let message = format!("the longest pause ({max}) is shorter than the first ({initial})");
            walk.wrong_at(node, Path::Key(&backoff, "max"), message);
        }
        Retry { attempts: self.attempts.unwrap_or(DEFAULT_RETRY.attempts), initial, max }
    }

    /// `guarantee`, where the task can keep it; the strongest that it can keep without being asked.
    pub fn guarantee(&self, walk: &mut Walk, job: &Path, task: Option<&Task>) -> Guarantee {
        let why_not = match task {
            Some(Task::Command(_)) => Some(
                "`exactly_once` cannot be kept for a command: when its node is lost, nobody can tell how much of its \
                 work was done. Use `at_most_once` (it is not run again, and ends as `unknown`) or `at_least_once` (it \
                 is run again, with the same FENCRON_RUN_ID, by which the command can tell)",
            ),
            Some(Task::Http(_)) => Some(
                "`exactly_once` cannot be kept by the sender of a request: when its answer is lost, only the receiver \
                 can tell. Use `at_least_once`, and let the receiver turn repetitions away by their `Idempotency-Key` \
                 (`fencron guard proxy` does that for any service)",
            ),
            Some(Task::Sql(sql)) => super::sql::why_not_exactly_once(sql),
            None => None,
        };
        match (self.guarantee, why_not) {
            (Some(Placed { value: Asked::ExactlyOnce, node }), Some(why)) => {
                walk.wrong_at(node, Path::Key(job, "guarantee"), why.to_owned());
                Guarantee::AtMostOnce
            }
            (Some(Placed { value: Asked::AtMostOnce, .. }), _) | (None, Some(_)) => Guarantee::AtMostOnce,
            (Some(Placed { value: Asked::AtLeastOnce, .. }), _) => Guarantee::AtLeastOnce,
            (Some(Placed { value: Asked::ExactlyOnce, .. }) | None, None) => match task {
                Some(_) => Guarantee::ExactlyOnce,
                None => Guarantee::AtMostOnce,
            },
        }
    }

    pub fn on_lost_leadership(&self) -> OnLostLeadership {
        self.on_lost.unwrap_or(OnLostLeadership::Cancel)
    }

    pub fn history(&self) -> History {
        History { keep: self.keep.unwrap_or(DEFAULT_HISTORY.keep), age: self.age.unwrap_or(DEFAULT_HISTORY.age) }
    }
}

/// Warns of settings in `own` that do nothing beside the others of the job.
pub fn warn_of_idle(walk: &mut Walk, own: &Fields, missed: &Missed, retry: &Retry) {
    if let Some(spot) = own.get("missed")
        && let Some(fields) = walk.fields(&spot)
    {
        let idle: &[&'static str] = match missed.run {
            MissedRun::All => &[],
            MissedRun::Latest => &["limit", "rate"],
            MissedRun::Skip => &["within", "limit", "rate"],
        };
        if let Some(spot) = fields.first_of(idle) {
            walk.odd(spot, "this does nothing: it counts with `missed: {run: all}`".to_owned());
        }
    }
    if let Some(spot) = own.get("retry")
        && let Some(fields) = walk.fields(&spot)
        && let Some(spot) = fields.get("backoff").filter(|_| retry.attempts == 1)
    {
        walk.odd(spot, "this does nothing: there is one attempt; say how many with `attempts`".to_owned());
    }
}

fn place<T>(spot: Spot, value: Option<T>) -> Option<Placed<T>> {
    value.map(|value| Placed { value, node: spot.node })
}

fn read_dir(walk: &mut Walk, spot: Spot) -> Option<Text> {
    let text = walk.text(spot)?;
    if text.expose().is_empty() {
        walk.wrong(spot, "expected a directory, found an empty text".to_owned());
        return None;
    }
    Some(text)
}

/// `env_file` and `env`, which wins.
fn read_variables(walk: &mut Walk, fields: &Fields) -> BTreeMap<String, Text> {
    let mut env = fields.get("env_file").map(|spot| env_file::read(walk, spot)).unwrap_or_default();
    env.extend(fields.get("env").map(|spot| read_env(walk, spot)).unwrap_or_default());
    env
}

fn read_env(walk: &mut Walk, spot: Spot) -> BTreeMap<String, Text> {
    let entries = walk.entries(spot).unwrap_or_default();
    if entries.len() > MAX_VARIABLES {
        walk.wrong(spot, format!("{} variables are too many: a job sets at most {MAX_VARIABLES}", entries.len()));
        return BTreeMap::new();
    }
    let mut env = BTreeMap::new();
    for Entry { key, name, value } in entries {
        let path = Path::Key(&spot.path, name);
        if let Err(message) = check_variable(name) {
            walk.wrong_at(key, path, message);
        }
        if let Some(text) = walk.text(Spot { node: value, path, ..spot }) {
            env.insert(name.to_owned(), text);
        }
    }
    env
}

/// Whether a job may set the variable `name`.
pub fn check_variable(name: &str) -> Result<(), String> {
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_graphic() && c != '=') {
        return Err(format!("{} cannot be the name of a variable: use letters, digits and `_`", quoted(name)));
    }
    if name.starts_with("FENCRON_") || name == "TRACEPARENT" {
        return Err(format!("{} is set by fencron for every run: choose another name", quoted(name)));
    }
    Ok(())
}
