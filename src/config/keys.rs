//! The language of `jobs.yaml` as one table: what keys there are, what values they take, within which bounds.
//!
//! The decoder, its suggestions for misspelt keys and the JSON Schema all come from it.

use std::time::Duration;

/// One key that a map may have.
pub struct Key {
    pub name: &'static str,
    /// Its meaning, in a sentence: the description in the schema.
    pub about: &'static str,
    pub shape: Shape,
    /// What it is when it is not given, as one would write it.
    pub default: Option<&'static str>,
    /// What other schedulers call it: leads to a suggestion.
    pub also: &'static [&'static str],
}

/// What values a key takes.
pub enum Shape {
    /// The number 1.
    Version,
    /// The name of a job, a namespace or a calendar.
    Name,
    /// Any text.
    Text,
    /// Any value.
    Any,
    /// A list of at least one text: a program and its arguments.
    Command {
        most: usize,
    },
    /// A text, or a list of at least one.
    Texts {
        most: usize,
    },
    /// A list of at least one text.
    Dates {
        most: usize,
    },
    /// An IANA time zone.
    Zone,
    /// One of these words.
    Word(&'static [&'static str]),
    Count {
        least: u32,
        most: u32,
    },
    /// A duration; `none` where `or_none`.
    Duration {
        least: Duration,
        most: Duration,
        or_none: bool,
    },
    /// So many per `s`, `m` or `h`.
    Rate,
    /// A list of at least one value of one shape.
    List {
        of: &'static Shape,
        most: usize,
    },
    /// A map with the keys of these tables.
    Map(&'static [&'static [Key]]),
    /// The same, or the value of its key `key` alone.
    MapOr {
        key: &'static str,
        of: &'static [&'static [Key]],
    },
    /// A map from names to values of one shape.
    Named {
        of: &'static Shape,
        most: usize,
    },
}

/// How many jobs a file may have.
pub const MAX_JOBS: usize = 200_000;
/// How many calendars a file may have, and how many a job may name.
pub const MAX_CALENDARS: usize = 1_000;
/// How many dates a calendar may have.
pub const MAX_DATES: usize = 10_000;
/// How many expressions a job's schedule may have.
pub const MAX_EXPRESSIONS: usize = 100;
/// How many arguments a command may have, the program included.
pub const MAX_ARGS: usize = 1_000;
/// How many variables a job may set.
pub const MAX_VARIABLES: usize = 1_000;
/// How many files of variables a job may name.
pub const MAX_ENV_FILES: usize = 10;
/// The longest argument or variable, in bytes: Linux starts no program with a longer one (`MAX_ARG_STRLEN`).
pub const MAX_TEXT_BYTES: usize = 131_071;
/// The longest jitter.
pub const MAX_JITTER: Duration = crate::schedule::MAX_JITTER;
/// The longest timeout.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(365 * 86_400);
/// The longest time between TERM and KILL.
pub const MAX_KILL_AFTER: Duration = HOUR;
/// The farthest that `missed` looks back, and the longest that history is kept.
pub const MAX_AGE: Duration = Duration::from_secs(10 * 365 * 86_400);
/// The most runs of one job at once.
pub const MAX_RUNNING: u32 = 1_000;
/// The most missed occurrences of one job that run.
pub const MAX_MISSED: u32 = 1_000;
/// The highest rate of missed occurrences, per second.
pub const MAX_RATE_PER_SECOND: u32 = 1_000;
/// The most attempts of one run.
pub const MAX_ATTEMPTS: u32 = 100;
/// The longest pause between attempts.
pub const MAX_BACKOFF: Duration = DAY;
/// The most verdicts of one job that are kept.
pub const MAX_KEEP: u32 = 10_000;

pub(super) const MILLISECOND: Duration = Duration::from_millis(1);
pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const HOUR: Duration = Duration::from_secs(3_600);
pub(super) const DAY: Duration = Duration::from_secs(86_400);

pub(super) const fn key(name: &'static str, shape: Shape, about: &'static str) -> Key {
    Key { name, about, shape, default: None, also: &[] }
}

impl Key {
    pub(super) const fn default(self, default: &'static str) -> Key {
        Key { default: Some(default), ..self }
    }

    pub(super) const fn also(self, also: &'static [&'static str]) -> Key {
        Key { also, ..self }
    }
}

pub(super) const fn duration(least: Duration, most: Duration) -> Shape {
    Shape::Duration { least, most, or_none: false }
}

pub(super) const fn duration_or_none(least: Duration, most: Duration) -> Shape {
    Shape::Duration { least, most, or_none: true }
}

/// The shapes of the file, of one job, and of one calendar.
pub static FILE_SHAPE: Shape = Shape::Map(TOP);
pub static JOB_SHAPE: Shape = Shape::Map(JOB);
pub static CALENDAR_SHAPE: Shape = Shape::Map(CALENDAR);

/// The file.
pub static TOP: &[&[Key]] = &[&[
    key("version", Shape::Version, "The version of this language: 1."),
    key("namespace", Shape::Name, "What keeps the jobs, locks and history of one cluster apart in a shared store.")
        .default("default"),
    key("defaults", Shape::Map(DEFAULTS), "Policies of every job that does not say otherwise.").also(&["default"]),
    key("calendars", Shape::Named { of: &CALENDAR_SHAPE, most: MAX_CALENDARS }, "Named sets of dates, for `except`.")
        .also(&["calendar", "holidays"]),
    key(
        "migrations",
        Shape::List { of: &super::migrations::MIGRATION_SHAPE, most: super::migrations::MAX_MIGRATIONS },
        "What is done once, in this order, before any job fires.",
    )
    .also(&["migration", "migrate"]),
    key("jobs", Shape::Named { of: &JOB_SHAPE, most: MAX_JOBS }, "The jobs, by name.").also(&[
        "job",
        "cron",
        "tasks",
        "schedules",
    ]),
]];

/// One calendar.
pub static CALENDAR: &[&[Key]] = &[&[key(
    "dates",
    Shape::Dates { most: MAX_DATES },
    "Dates (`2026-12-25`), ranges with both ends (`2026-12-24..2027-01-01`) and yearly days (`12-25`).",
)
.also(&["days"])]];

/// One job.
pub static JOB: &[&[Key]] = &[OWN, POLICIES];

/// What can be said for all jobs at once.
pub static DEFAULTS: &[&[Key]] = &[POLICIES];

/// What only a job can say.
pub static OWN: &[Key] = &[
    key(
        "schedule",
        Shape::Texts { most: MAX_EXPRESSIONS },
        "When it is due: a cron expression of 5, 6 (seconds first) or 7 (year last) fields, `@daily` and the like, \
         `@every 15m`, `@at` an instant; or a list of these.",
    )
    .also(&["cron", "when", "at", "every", "interval"]),
    key("command", Shape::Command { most: MAX_ARGS }, "The program to run and its arguments, started without a shell.")
        .also(&["cmd", "args", "exec", "run"]),
    key("http", Shape::Map(super::http::HTTP), "A request to make.").also(&["request", "webhook", "curl"]),
    key("sql", Shape::Map(super::sql::SQL), "Statements to run in a database.").also(&["query", "database"]),
    key("shell", Shape::Text, "A text that `/bin/sh -c` runs.").also(&["script", "sh", "bash"]),
    key(
        "after",
        Shape::MapOr { key: "job", of: AFTER },
        "Runs after another job instead of by a schedule; a name alone: after its success.",
    )
    .also(&["depends_on", "needs", "requires"]),
    key("description", Shape::Text, "What the job is for, in a few words.").also(&["comment", "title", "summary"]),
    key(
        "enabled",
        Shape::Word(FLAG),
        "`false`: it is not due, neither by its schedule nor after another job; it can still be triggered.",
    )
    .default("true")
    .also(&["active", "disabled", "suspend", "suspended", "paused"]),
    key(
        "start",
        Shape::Text,
        "From when on its schedule counts: a day, a time by the clocks of its zone, or an instant with its offset.",
    )
    .also(&["start_at", "start_date", "starts", "not_before", "from", "since"]),
    key("end", Shape::Text, "Until when its schedule counts, that day or instant included.").also(&[
        "end_at",
        "end_date",
        "ends",
        "not_after",
        "until",
        "expires",
        "expires_at",
    ]),
];

static AFTER: &[&[Key]] = &[&[
    key("job", Shape::Name, "The job whose end starts this one.").also(&["name"]),
    key(
        "on",
        Shape::Word(ENDS),
        "Which ends count: `success`; `failure` (failed, timed out, cancelled, unknown); `end`: any but skipped.",
    )
    .default("success")
    .also(&["when", "status"]),
]];

/// What a job, or `defaults` for all of them, can say.
pub static POLICIES: &[Key] = &[
    key("timezone", Shape::Zone, "The zone of its schedule, as IANA names it.").default("UTC").also(&[
        "tz",
        "time_zone",
        "zone",
    ]),
    key("dst", Shape::Map(DST), "What becomes of local times that a change of the clocks removes or repeats."),
    key("except", Shape::Texts { most: MAX_CALENDARS }, "Calendars on whose dates it is not due.")
        .also(&["exclude", "skip", "holidays"]),
    key(
        "jitter",
        duration(Duration::ZERO, MAX_JITTER),
        "The most by which starts are moved, so that jobs do not all start at once; the same for every leader.",
    )
    .default("0s")
    .also(&["splay", "random_delay", "spread"]),
    key(
        "env",
        Shape::Named { of: &Shape::Text, most: MAX_VARIABLES },
        "Variables for the command, added to those of the node; a job's are added to those of `defaults`.",
    )
    .also(&["environment", "vars", "variables"]),
    ENV_FILE,
    key("dir", Shape::Text, "The directory in which the command starts; the node's where it is not given.").also(&[
        "cwd",
        "workdir",
        "working_dir",
        "working_directory",
        "chdir",
    ]),
    key(
        "timeout",
        duration_or_none(MILLISECOND, MAX_TIMEOUT),
        "How long one attempt may take before it is ended; `none`: as long as it wants.",
    )
    .default("none")
    .also(&["deadline", "max_duration"]),
    key(
        "kill_after",
        duration(Duration::ZERO, MAX_KILL_AFTER),
        "How long a command that was told to end (TERM) has before it is killed.",
    )
    .default("10s")
    .also(&["grace", "grace_period", "stop_timeout"]),
    key(
        "overlap",
        Shape::Word(OVERLAPS),
        "What becomes of an occurrence that is due while a run of the same job is open.",
    )
    .default("skip")
    .also(&["concurrency", "concurrency_policy", "concurrencypolicy", "parallel"]),
    key("max_running", Shape::Count { least: 1, most: MAX_RUNNING }, "How many may run at once with `overlap: allow`.")
        .default("10")
        .also(&["max_concurrent", "max_parallel"]),
    key(
        "missed",
        Shape::MapOr { key: "run", of: MISSED },
        "What becomes of occurrences that passed with no leader to fire them; `missed: all` is `missed: {run: all}`.",
    )
    .also(&["misfire", "catchup", "catch_up"]),
    key("retry", Shape::Map(RETRY), "How often, and after what pause, a failed attempt is repeated.")
        .also(&["retries", "max_retries"]),
    key(
        "guarantee",
        Shape::Word(GUARANTEES),
        "What is promised when a leader is lost in the middle of a run; `exactly_once` is for statements in a \
         transaction.",
    )
    .default("at_most_once")
    .also(&["delivery", "semantics"]),
    key(
        "on_lost_leadership",
        Shape::Word(LOST),
        "What becomes of a run whose node may no longer trust its leadership.",
    )
    .default("cancel"),
    key("history", Shape::Map(HISTORY), "How much of its history is kept; what is beyond either bound is pruned.")
        .also(&["retention", "keep"]),
];

static DST: &[&[Key]] = &[&[
    key(
        "gap",
        Shape::Word(GAPS),
        "A local time that does not exist that day: fires right after the gap, or is skipped.",
    )
    .default("shift"),
    key("fold", Shape::Word(FOLDS), "A local time that comes twice that day: which of them fires.").default("first"),
]];

static MISSED: &[&[Key]] = &[&[
    key("run", Shape::Word(MISSED_RUNS), "Which of them still run: none, the latest, or all within the bounds.")
        .default("latest"),
    key("within", duration_or_none(SECOND, MAX_AGE), "Only those not older than this; `none`: however old.")
        .default("1h"),
    key("limit", Shape::Count { least: 1, most: MAX_MISSED }, "With `run: all`: at most so many, the newest.")
        .default("10"),
    key("rate", Shape::Rate, "With `run: all`: how fast they are started, like `5/s` or `30/m`.").default("5/s"),
]];

pub static RETRY: &[&[Key]] = &[&[
    key("attempts", Shape::Count { least: 1, most: MAX_ATTEMPTS }, "Attempts in all, the first included.")
        .default("1")
        .also(&["max", "max_attempts", "count"]),
    key("backoff", Shape::Map(BACKOFF), "The pauses between attempts."),
]];

static BACKOFF: &[&[Key]] = &[&[
    key("initial", duration(MILLISECOND, MAX_BACKOFF), "The pause before the second attempt; it doubles from then on.")
        .default("5s"),
    key("max", duration(MILLISECOND, MAX_BACKOFF), "The longest pause.").default("5m"),
]];

static HISTORY: &[&[Key]] = &[&[
    key("keep", Shape::Count { least: 1, most: MAX_KEEP }, "So many verdicts.").default("100"),
    key("for", duration(SECOND, MAX_AGE), "Those of so long.").default("30d"),
]];

pub const ENV_FILE: Key = key(
    "env_file",
    Shape::Texts { most: MAX_ENV_FILES },
    "Files of `NAME=value` lines with variables for the command; `env` wins over them.",
)
.also(&["envfile", "environment_file", "dotenv"]);

pub static FLAG: &[&str] = &["true", "false"];
pub static ENDS: &[&str] = &["success", "failure", "end"];
pub static OVERLAPS: &[&str] = &["skip", "queue", "replace", "allow"];
pub static GUARANTEES: &[&str] = &["at_most_once", "at_least_once", "exactly_once"];
pub static LOST: &[&str] = &["cancel", "finish"];
pub static GAPS: &[&str] = &["shift", "skip"];
pub static FOLDS: &[&str] = &["first", "last", "both"];
pub static MISSED_RUNS: &[&str] = &["skip", "latest", "all"];

/// Keys that begin so are left alone wherever keys are known: a place for YAML anchors, and for others' tools.
pub const ANCHOR_PLACE: &str = "x-";

/// The key called `name`, and its place in the tables.
pub fn find(tables: &'static [&'static [Key]], name: &str) -> Option<(usize, &'static Key)> {
    all(tables).enumerate().find(|(_, key)| key.name == name)
}

/// The keys of the tables.
pub fn all(tables: &'static [&'static [Key]]) -> impl Iterator<Item = &'static Key> {
    tables.iter().flat_map(|table| table.iter())
}

/// Why a map with these tables has no key called `name`, and the key that was probably meant.
pub fn unknown(tables: &'static [&'static [Key]], name: &str) -> (String, Option<&'static str>) {
    let quoted = super::problem::quoted(name);
    let is = |other: &[&[Key]]| std::ptr::eq(tables.as_ptr(), other.as_ptr());
    if is(DEFAULTS) && OWN.iter().any(|key| key.name == name) {
        return (format!("{quoted} cannot be given for all jobs at once: give it to each job"), None);
    }
    let known = || all(tables).map(|key| key.name);
    let plain = name.to_lowercase().replace('-', "_");
    let synonym = all(tables).find(|key| key.also.contains(&plain.as_str())).map(|key| key.name);
    let meant = nearest(name, known()).or(synonym);
    let message = match meant {
        Some(meant) => format!("unknown key {quoted}: did you mean `{meant}`?"),
        None if is(TOP) && POLICIES.iter().any(|key| key.name == name) => {
            format!("unknown key {quoted}: to say it for all jobs, put it under `defaults`")
        }
        None => format!("unknown key {quoted}: known here are {}", list(known())),
    };
    (message, meant)
}

/// The candidate that `text` most likely is a misspelling of.
pub fn nearest<'a>(text: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    /// Longer texts are not misspelt names, and comparing them would take long.
    const LONGEST: usize = 64;
    /// With so many names, the right one is not guessed.
    const MOST: usize = 10_000;
    let length = text.chars().count();
    if length > LONGEST {
        return None;
    }
    let plain = text.to_lowercase();
    let near = candidates.take(MOST).filter(|candidate| candidate.chars().count().abs_diff(length) <= 3).filter_map(
        |candidate| {
            let distance = strsim::osa_distance(&plain, &candidate.to_lowercase());
            let most = (candidate.chars().count() / 3).clamp(1, 3);
            (distance <= most).then_some((distance, candidate))
        },
    );
    near.min_by_key(|(distance, _)| *distance).map(|(_, candidate)| candidate)
}

/// `` `a`, `b` and `c` ``.
pub fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
    match names.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
        None => "none".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_key_is_recognised() {
        for (text, meant) in
            [("comand", "command"), ("Schedule", "schedule"), ("timeuot", "timeout"), ("tz", "timezone")]
        {
            let (message, told) = unknown(JOB, text);
            assert!(message.ends_with(&format!("did you mean `{meant}`?")), "{message}");
            assert_eq!(told, Some(meant));
        }
        assert!(unknown(JOB, "colour").0.contains("known here are `schedule`, `command`"));
    }

    #[test]
    fn a_key_stands_in_a_table_once() {
        for tables in [TOP, JOB, DEFAULTS, CALENDAR] {
            for key in all(tables) {
                assert_eq!(all(tables).filter(|other| other.name == key.name).count(), 1, "{}", key.name);
            }
        }
    }
}
