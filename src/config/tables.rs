//! The tables: every key of `jobs.yaml`, and the bounds of its value. A key is spelled here and nowhere else, but where
//! a rule ties it to others.

use std::time::Duration;

use super::bounds::{BOUNDS, STDIN};
use super::jobs::{read_command, read_shell};
use super::keys::{
    DAY, HOUR, Key, MILLISECOND, Needs, SECOND, Shape, Tables, count, duration, duration_or_none, key, named,
};
use super::{http, migrations, notify, output, sql};
use crate::job::{CHANNELS_MOST, Guarantee, MissedRun, On, OnLostLeadership, Overlap, words};
use crate::schedule::{Fold, Gap};

/// How many jobs a file may have.
pub const MAX_JOBS: usize = 200_000;
/// How many files one may include.
pub const MAX_INCLUDED: usize = 100;
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
/// How many labels a job, or `defaults`, may have.
pub const MAX_LABELS: usize = 50;
/// The longest value of a label, in characters.
pub const MAX_LABEL_CHARS: usize = 100;
/// The longest owner, in characters.
pub const MAX_OWNER_CHARS: usize = 200;
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

/// The shapes of the file, of one job, and of one calendar.
pub static FILE_SHAPE: Shape = Shape::Map(TOP);
pub static JOB_SHAPE: Shape = Shape::Map(JOB);
pub static CALENDAR_SHAPE: Shape = Shape::Map(CALENDAR);

/// The file.
pub static TOP: Tables = &[&[
    key("version", Shape::Version, "The version of this language: 1."),
    key("include", Shape::Texts { most: MAX_INCLUDED },
        "Further files of the same configuration, relative to this one, such as defaults that several files share.")
        .also("includes import imports extends"),
    key("namespace", Shape::Name, "What keeps the jobs, locks and history of one cluster apart in a shared store.")
        .default(super::DEFAULT_NAMESPACE),
    key("defaults", Shape::Map(DEFAULTS), "Settings of every job that does not have its own.").also("default"),
    key("calendars", named(&CALENDAR_SHAPE, MAX_CALENDARS, "calendars are too many: at most"),
        "Named sets of dates, for `except`.")
        .also("calendar holidays"),
    key("notify", Shape::Map(notify::NOTICES),
        "Where alerts go, and a heartbeat for what watches the cluster from outside.")
        .also("notifications alerts alerting"),
    key("migrations", Shape::List { of: &migrations::MIGRATION_SHAPE, most: migrations::MAX_MIGRATIONS },
        "Changes that are made once, in this order, before any job fires.")
        .also("migration migrate"),
    key("jobs", named(&JOB_SHAPE, MAX_JOBS, "jobs are too many: at most"), "The jobs, by name.")
        .also("job cron tasks schedules"),
]];

/// One calendar.
pub static CALENDAR: Tables = &[&[
    key("dates", Shape::Dates { most: MAX_DATES },
        "Dates (`2026-12-25`), ranges with both ends (`2026-12-24..2027-01-01`) and yearly days (`12-25`).")
        .also("days"),
]];

/// One job.
pub static JOB: Tables = &[OWN, POLICIES, BOUNDS];

/// What can be said for all jobs at once.
pub static DEFAULTS: Tables = &[POLICIES, BOUNDS];

/// What only a job can say.
pub static OWN: &[Key] = &[
    key("schedule", Shape::Texts { most: MAX_EXPRESSIONS },
        "When the job is due: a cron expression of 5, 6 (seconds first) or 7 (year last) fields, `@daily` and the like, \
         `@every 15m`, `@at` an instant; or a list of these.")
        .also("cron when at every interval"),
    COMMAND,
    SHELL,
    REQUEST,
    key("sql", Shape::Map(sql::SQL), "Statements to run in a database.")
        .also("query database").task(sql::read),
    key("after", Shape::MapOr { key: "job", of: AFTER },
        "Runs the job after another one instead of by a schedule; a name alone: after its success.")
        .also("depends_on needs requires"),
    key("description", Shape::Text, "What the job is for, in a few words.")
        .also("comment title summary").to(|d| &mut d.job.description),
    key("enabled", Shape::Word(words::<bool>),
        "`false`: the job is not due, neither by its schedule nor after another job; it can still be triggered.")
        .default("true").also("active disabled suspend suspended paused").to(|d| &mut d.enabled),
    key("ping", Shape::Text,
        "A URL of a service that watches this job: POST to it when a run succeeds, with `/start` behind its path when one \
         begins, with `/fail` when one ends otherwise.")
        .also("healthcheck healthchecks heartbeat monitor"),
    STDIN,
    key("start", Shape::Text,
        "The beginning of its schedule: a day, a time by the clocks of its zone, or an instant with its offset.")
        .also("start_at start_date starts not_before from since").needs(Needs::Schedule),
    key("end", Shape::Text, "The end of its schedule, that day or instant included.")
        .also("end_at end_date ends not_after until expires expires_at").needs(Needs::Schedule),
];

static AFTER: Tables = &[&[
    key("job", Shape::Name, "The job whose end starts this one.").also("name"),
    key("on", Shape::Word(words::<On>),
        "Which ends count: `success`; `failure` (failed, timed out, cancelled, unknown); `end`: any but skipped.")
        .default("success").also("when status").to(|d| &mut d.on),
]];

/// What a job, or `defaults` for all of them, can say.
pub static POLICIES: &[Key] = &[
    key("timezone", Shape::Zone, "The time zone of its schedule, by its IANA name.")
        .default("UTC").also("tz time_zone zone").needs(Needs::Schedule).to(|d| &mut d.rules.zone),
    key("dst", Shape::Map(DST), "What to do with local times that a change of the clocks removes or repeats.")
        .needs(Needs::Schedule).in_parts(),
    key("except", Shape::Texts { most: MAX_CALENDARS }, "Calendars on whose dates the job is not due.")
        .also("exclude skip holidays").needs(Needs::Schedule).to(|d| &mut d.rules.except),
    key("jitter", duration(Duration::ZERO, MAX_JITTER),
        "The longest delay that is added to starts, so that jobs do not all start at once; the same for every leader.")
        .default("0s").also("splay random_delay spread").needs(Needs::Schedule).to(|d| &mut d.jitter),
    key("env", VARIABLES,
        "Variables for the command, added to those of the node; a job's are added to those of `defaults`.")
        .also("environment vars variables").needs(Needs::Process).to(|d| &mut d.env),
    ENV_FILE,
    DIR,
    key("owner", Shape::Line { most: MAX_OWNER_CHARS, without: "\"" },
        "The people who answer for the job: a team, an address.")
        .also("team contact maintainer owners responsible").to(|d| &mut d.about.owner),
    key("labels", named(&LABEL, MAX_LABELS, "labels are too many: at most"),
        "What jobs are sorted and found by, like `team: payments`; a job's are added to those of `defaults`.")
        .also("label tags annotations").to(|d| &mut d.about.labels),
    key("runbook", Shape::Link, "The URL of what people do when the job fails: `https://…`.")
        .also("runbook_url docs documentation link").to(|d| &mut d.about.runbook),
    key("expect", Shape::Map(EXPECT),
        "How soon a run has to start and to end; one that takes longer goes on, and its job is shown as late.")
        .also("sla slo expected").in_parts(),
    TIMEOUT,
    KILL_AFTER,
    key("overlap", Shape::Word(words::<Overlap>),
        "What to do with an occurrence that is due while a run of the same job is open.")
        .default("skip").also("concurrency concurrency_policy concurrencypolicy parallel").to(|d| &mut d.job.overlap),
    key("max_running", count(1, MAX_RUNNING), "How many runs of the job may run at once with `overlap: allow`.")
        .default("10").also("max_concurrent max_parallel").to(|d| &mut d.max_running),
    key("missed", Shape::MapOr { key: "run", of: MISSED },
        "What to do with occurrences that passed while no node led; `missed: all` is `missed: {run: all}`.")
        .also("misfire catchup catch_up").needs(Needs::Schedule).in_parts(),
    RETRY,
    key("guarantee", Shape::Word(words::<Guarantee>),
        "How often a run may start when a leader is lost in the middle of it; `exactly_once` is for statements in a \
         transaction.")
        .default("at_most_once").also("delivery semantics").to(|d| &mut d.guarantee),
    key("on_lost_leadership", Shape::Word(words::<OnLostLeadership>),
        "What to do with a run whose node can no longer trust its leadership.")
        .default("cancel").to(|d| &mut d.job.on_lost_leadership),
    key("history", Shape::Map(HISTORY), "How much of the job's history is kept; verdicts beyond either bound are pruned.")
        .also("retention keep").in_parts(),
    key("output", Shape::MapOr { key: "dir", of: output::OUTPUT },
        "Keeps all that the attempts of the job write, in files on the node that makes them; a directory alone: there.")
        .also("outputs logs log stdout artifacts").in_parts(),
    key("notify", Shape::MapOr { key: "to", of: NOTIFY },
        "Which ends of runs are notified, and through which channels; the name of a channel alone: through that one; \
         `off`: none are.")
        .also("alerts on_failure onfailure notifications").in_parts(),
];

static NOTIFY: Tables = &[&[
    key("to", Shape::Texts { most: CHANNELS_MOST }, "The channels, by name; by default all; `off`: none.")
        .also("channel channels via").to(|d| &mut d.notify.to),
    key("on", Shape::Texts { most: 10 },
        "Which ends are notified: `failed`, `timed_out`, `unknown`, `recovered`; by default all of them.")
        .also("when kinds events").to(|d| &mut d.notify.on),
    key("after", count(1, notify::MAX_AFTER), "How many runs in a row have to end badly before the first alert.")
        .default("1").also("threshold failures").to(|d| &mut d.notify.after),
    key("repeat", duration(Duration::ZERO, notify::MAX_REPEAT),
        "How long after an alert the next is sent, while runs go on ending badly; `0s`: each bad end is notified.")
        .default("1d").also("every interval").to(|d| &mut d.notify.repeat),
]];

static LABEL: Shape = Shape::Line { most: MAX_LABEL_CHARS, without: "\"," };

static EXPECT: Tables = &[&[
    key("start_within", duration_or_none(SECOND, MAX_TIMEOUT),
        "How soon after the instant at which it was to start (jitter included) a run has to start.")
        .default("none").also("start start_by").to(|d| &mut d.about.expect.start_within),
    key("end_within", duration_or_none(SECOND, MAX_TIMEOUT),
        "How soon after that instant a run has to end, with all its attempts.")
        .default("none").also("end end_by finish_within max_duration").to(|d| &mut d.about.expect.end_within),
]];

static DST: Tables = &[&[
    key("gap", Shape::Word(words::<Gap>),
        "For a local time that does not exist that day: fire right after the gap, or skip it.")
        .default("shift").to(|d| &mut d.rules.gap),
    key("fold", Shape::Word(words::<Fold>), "For a local time that comes twice that day: which of them fires.")
        .default("first").to(|d| &mut d.rules.fold),
]];

static MISSED: Tables = &[&[
    key("run", Shape::Word(words::<MissedRun>),
        "Which missed occurrences still run: none, the latest, or all within the bounds.")
        .default("latest").to(|d| &mut d.job.missed.run),
    key("within", duration_or_none(SECOND, MAX_AGE), "The oldest that still run; `none`: without limit.")
        .default("1h").to(|d| &mut d.job.missed.within),
    key("limit", count(1, MAX_MISSED), "With `run: all`: the most that still run, the newest.")
        .default("10").to(|d| &mut d.job.missed.limit),
    key("rate", Shape::Rate, "With `run: all`: the rate at which they are started, like `5/s` or `30/m`.")
        .default("5/s").to(|d| &mut d.job.missed.every),
]];

static RETRIES: Tables = &[&[
    key("attempts", count(1, MAX_ATTEMPTS), "How many attempts there are in all, the first included.")
        .default("1").also("max max_attempts count").to(|d| &mut d.job.retry.attempts),
    key("backoff", Shape::Map(BACKOFF), "The pauses between attempts.").in_parts(),
]];

static BACKOFF: Tables = &[&[
    key("initial", duration(MILLISECOND, MAX_BACKOFF),
        "The pause before the second attempt; it doubles from then on.")
        .default("5s").to(|d| &mut d.job.retry.initial),
    key("max", duration(MILLISECOND, MAX_BACKOFF), "The longest pause.")
        .default("5m").to(|d| &mut d.longest_pause),
]];

static HISTORY: Tables = &[&[
    key("keep", count(1, MAX_KEEP), "How many verdicts are kept.")
        .default("100").to(|d| &mut d.job.history.keep),
    key("for", duration(SECOND, MAX_AGE), "How long verdicts are kept.")
        .default("30d").to(|d| &mut d.job.history.age),
]];

/// Variables for a process.
pub const VARIABLES: Shape = named(&Shape::Text, MAX_VARIABLES, "variables are too many: a job sets at most");

// Keys of a job that a migration has too.

pub const COMMAND: Key =
    key("command", Shape::Command { most: MAX_ARGS },
        "The program to run and its arguments, started without a shell.")
        .also("cmd args exec run").task(read_command);

pub const SHELL: Key =
    key("shell", Shape::Text, "A text that `/bin/sh -c` runs.")
        .also("script sh bash").task(read_shell);

pub const REQUEST: Key =
    key("http", Shape::Map(http::HTTP), "A request to make.")
        .also("request webhook curl").task(http::read);

pub const DIR: Key =
    key("dir", Shape::Directory, "The directory in which the command starts; by default the node's.")
        .also("cwd workdir working_dir working_directory chdir").needs(Needs::Process).to(|d| &mut d.job.dir);

pub const TIMEOUT: Key =
    key("timeout", duration_or_none(MILLISECOND, MAX_TIMEOUT),
        "How long one attempt may take before it is ended; `none`: without limit.")
        .default("none").also("deadline max_duration").to(|d| &mut d.job.timeout);

pub const KILL_AFTER: Key =
    key("kill_after", duration(Duration::ZERO, MAX_KILL_AFTER),
        "How long a command that was asked to end (TERM) has before it is killed.")
        .default("10s").also("grace grace_period stop_timeout").needs(Needs::Process).to(|d| &mut d.job.kill_after);

pub const RETRY: Key =
    key("retry", Shape::Map(RETRIES), "How often, and after what pause, a failed attempt is repeated.")
        .also("retries max_retries").in_parts();

pub const ENV_FILE: Key =
    key("env_file", Shape::Texts { most: MAX_ENV_FILES },
        "Files of `NAME=value` lines with variables for the command; `env` wins over them.")
        .also("envfile environment_file dotenv").needs(Needs::Process).to(|d| &mut d.job.env);
