//! What a job is, by the keys of the jobs file, with what may be a secret left out: all that the API, the page and the
//! commands show of a definition comes from here.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::about::{MASK, is_secret, without_secrets};
use super::{
    AlertKind, Bounds, Database, Expect, Guarantee, Http, Job, JobName, KeepOutputs, Missed, MissedRun, On,
    OnLostLeadership, Overlap, Retry, Sql, Stdin, Target, Task, Text, Trigger, WholeOutput,
};
use crate::time::written;

/// How many excepted dates and ranges of dates are listed.
pub const EXCEPTED_MOST: usize = 1_000;

/// A job's definition. Durations are written as in the file, like `1m 30s`; what came from outside of the file is `***`.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Definition {
    /// The people who answer for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The URL of what people do when it fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runbook: Option<String>,
    /// How soon its runs have to start and to end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expect: Option<ExpectView>,
    /// Its expressions, separated by semicolons.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timezone: Option<&'static str>,
    /// The dates on which the schedule does not fire: `2026-12-25`, `2026-12-24..2027-01-01`, and each year `12-25`. At
    /// most 1,000 are listed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<String>,
    /// The most by which a start is moved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jitter: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<AfterView>,
    /// `false`: only a person makes it due.
    pub enabled: bool,
    /// The program and its arguments; `shell: …` is `/bin/sh -c …`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sql: Option<SqlView>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dir: Option<String>,
    /// The user that the command runs as, what it is given, and how much it may take, by the keys of the jobs file.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub bounds: BTreeMap<&'static str, String>,
    /// How long an attempt may take; `null`: as long as it wants.
    pub timeout: Option<String>,
    pub kill_after: String,
    /// `skip`, `queue`, `replace` or `allow`.
    pub overlap: &'static str,
    /// With `allow`: how many runs there are at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_running: Option<u32>,
    pub missed: MissedView,
    pub retry: RetryView,
    pub guarantee: Guarantee,
    pub on_lost_leadership: OnLostLeadership,
    pub history: HistoryView,
    /// Where all that its attempts write is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<OutputView>,
    /// Which ends of its runs are notified, and where; `null`: none are.
    pub notify: Option<NotifyView>,
    /// Where signs of life of its runs go; what follows the host is left out, since it is what gives access there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ping: Option<String>,
}

/// Which ends of a job's runs are notified, and where.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct NotifyView {
    pub on: Vec<AlertKind>,
    /// The names of channels.
    pub to: Vec<String>,
    /// How many runs in a row have to end badly before the first alert.
    pub after: u32,
    /// How long after an alert the next is sent, while runs go on ending badly.
    pub repeat: String,
}

/// How soon a run has to start and to end, from the instant on at which it was to start; one that takes longer is late.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct ExpectView {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_within: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_within: Option<String>,
}

/// What a job follows.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct AfterView {
    pub job: JobName,
    pub on: On,
}

/// A request.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct HttpView {
    pub method: String,
    pub url: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// The statuses that say that it was done.
    pub expect: String,
    pub redirects: u32,
    pub connect_timeout: String,
}

/// Statements for a database.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct SqlView {
    /// `postgres`, `mysql` or `sqlite`.
    pub database: &'static str,
    /// The server's host and port, or the file.
    pub target: String,
    /// The file that the statements are in, where they are in one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    pub statements: Vec<String>,
    pub transaction: bool,
}

/// What becomes of missed occurrences.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct MissedView {
    pub run: MissedRun,
    /// Only those not older than this; `null`: however old.
    pub within: Option<String>,
    pub limit: u32,
    /// The time from one start to the next.
    pub every: String,
}

/// How failed attempts are repeated.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct RetryView {
    /// Attempts in all.
    pub attempts: u32,
    pub initial: String,
    pub max: String,
}

/// How much of the history is kept.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct HistoryView {
    pub keep: u32,
    pub age: String,
}

/// Where all that the attempts of a job write is kept, and which of the files.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct OutputView {
    /// The directory that the files are below, on the node that makes the attempt.
    pub dir: String,
    /// How large the file of one attempt becomes, in bytes.
    pub max_bytes: u64,
    /// Of how many runs files are kept.
    pub runs: u32,
    /// How long files are kept.
    pub age: String,
    /// How many bytes the files have together.
    pub bytes: u64,
}

impl Definition {
    /// The definition of this job.
    pub fn of(job: &Job) -> Definition {
        let (schedule, timezone, jitter) = match &job.trigger {
            Trigger::Schedule { schedule, jitter } => (
                Some(schedule.text().to_owned()),
                Some(schedule.timezone()),
                Some(jitter.most).filter(|most| !most.is_zero()).map(written),
            ),
            Trigger::After { .. } | Trigger::Disabled => (None, None, None),
        };
        let except = match &job.trigger {
            Trigger::Schedule { schedule, .. } => schedule.excepted().take(EXCEPTED_MOST).collect(),
            Trigger::After { .. } | Trigger::Disabled => Vec::new(),
        };
        let after = match &job.trigger {
            Trigger::After { job, on } => Some(AfterView { job: job.clone(), on: *on }),
            Trigger::Schedule { .. } | Trigger::Disabled => None,
        };
        let (command, http, sql) = match &job.task {
            Task::Command(words) => (Some(words.iter().map(ToString::to_string).collect()), None, None),
            Task::Http(http) => (None, Some(HttpView::of(http)), None),
            Task::Sql(sql) => (None, None, Some(SqlView::of(sql))),
            Task::Call => (None, None, None),
        };
        let (overlap, max_running) = match job.overlap {
            Overlap::Skip => ("skip", None),
            Overlap::Queue => ("queue", None),
            Overlap::Replace => ("replace", None),
            Overlap::Allow { max_running } => ("allow", Some(max_running)),
        };
        let expect = (job.about.expect != Expect::default()).then(|| ExpectView {
            start_within: job.about.expect.start_within.map(written),
            end_within: job.about.expect.end_within.map(written),
        });
        Definition {
            owner: job.about.owner.as_ref().map(ToString::to_string),
            labels: job.about.shown_labels(),
            runbook: job.about.shown_runbook(),
            expect,
            schedule,
            timezone,
            except,
            jitter,
            after,
            enabled: job.trigger != Trigger::Disabled,
            command,
            http,
            sql,
            env: job.env.iter().map(|(name, value)| (name.clone(), shown(name, value))).collect(),
            dir: job.dir.as_ref().map(ToString::to_string),
            bounds: bounds_of(&job.bounds),
            timeout: job.timeout.map(written),
            kill_after: written(job.kill_after),
            overlap,
            max_running,
            missed: MissedView::of(&job.missed),
            retry: RetryView::of(&job.retry),
            guarantee: job.guarantee,
            on_lost_leadership: job.on_lost_leadership,
            history: HistoryView { keep: job.history.keep, age: written(job.history.age) },
            output: job.output.as_deref().map(OutputView::of),
            notify: job.notify.as_deref().map(|notify| NotifyView {
                on: notify.on.clone(),
                to: notify.to.clone(),
                after: notify.after,
                repeat: written(notify.repeat),
            }),
            ping: job.ping.as_ref().map(host_of),
        }
    }
}

impl OutputView {
    fn of(whole: &WholeOutput) -> OutputView {
        let KeepOutputs { runs, age, bytes } = whole.keep;
        OutputView { dir: whole.dir.to_string(), max_bytes: whole.max_bytes, runs, age: written(age), bytes }
    }
}

/// The bounds of a command that are given, by their keys.
fn bounds_of(bounds: &Bounds) -> BTreeMap<&'static str, String> {
    let Bounds { user, group, limits, nice, ionice, umask, inherit, stdin, no_new_privileges } = bounds;
    let bytes = |most: u64| format!("{most} bytes");
    let given = [
        ("user", user.as_ref().map(ToString::to_string)),
        ("group", group.as_ref().map(ToString::to_string)),
        ("limits.open_files", limits.open_files.map(|most| most.to_string())),
        ("limits.core", limits.core.map(bytes)),
        ("limits.file_size", limits.file_size.map(bytes)),
        ("limits.stack", limits.stack.map(bytes)),
        ("limits.cpu_time", limits.cpu_time.map(written)),
        ("nice", nice.map(|nice| nice.0.to_string())),
        ("ionice", ionice.map(|ionice| ionice.to_string())),
        ("umask", umask.map(|umask| umask.to_string())),
        ("inherit", inherit.as_ref().map(|names| names.join(", "))),
        (
            "stdin",
            stdin.as_ref().map(|stdin| match stdin {
                Stdin::Text(text) => format!("a text of {} bytes", text.expose().len()),
                Stdin::File(path) => format!("the file {path}"),
            }),
        ),
        ("no_new_privileges", no_new_privileges.then(|| "true".to_owned())),
    ];
    given.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
}

impl MissedView {
    fn of(missed: &Missed) -> MissedView {
        let Missed { run, within, limit, every } = *missed;
        MissedView { run, within: within.map(written), limit, every: written(every) }
    }
}

impl RetryView {
    fn of(retry: &Retry) -> RetryView {
        let (initial, max) = (written(retry.initial), written(retry.max));
        RetryView { attempts: retry.attempts, initial, max }
    }
}

impl HttpView {
    fn of(http: &Http) -> HttpView {
        HttpView {
            method: http.method.clone(),
            url: without_secrets(&http.url),
            headers: http.headers.iter().map(|(name, text)| (name.clone(), shown(name, text))).collect(),
            body: http.body.as_ref().map(ToString::to_string),
            expect: http.expect.to_string(),
            redirects: http.redirects,
            connect_timeout: written(http.connect_timeout),
        }
    }
}

/// The value that bears this name, as it may be shown.
fn shown(name: &str, value: &Text) -> String {
    if is_secret(name) { MASK.to_owned() } else { value.to_string() }
}

/// A URL whose path gives access, as it may be shown.
fn host_of(url: &Text) -> String {
    let parsed = url::Url::parse(&url.to_string()).map(|url| url.origin().ascii_serialization());
    parsed.map_or_else(|_| MASK.to_owned(), |origin| format!("{origin}/{MASK}"))
}

impl SqlView {
    fn of(sql: &Sql) -> SqlView {
        let database = match sql.kind {
            Database::Postgres => "postgres",
            Database::Mysql => "mysql",
            Database::Sqlite => "sqlite",
        };
        let target = match &sql.target {
            Target::Server(server) => format!("{}:{}", server.host, server.port),
            Target::File(file) => file.to_string(),
        };
        let statements = sql.script.statements.iter().map(|statement| statement.text.clone()).collect();
        SqlView { database, target, file: sql.script.file.clone(), statements, transaction: sql.transaction }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, parse};

    fn defined(job: &str) -> serde_json::Value {
        let config = parse(&format!("version: 1\njobs:\n  j: {job}\n"), &Sources::none()).unwrap();
        serde_json::to_value(Definition::of(config.jobs.values().next().unwrap())).unwrap()
    }

    #[test]
    fn a_definition_says_what_the_file_says() {
        let of = defined("{schedule: '@hourly', timezone: Europe/Berlin, command: [ls, -l], timeout: 90s, jitter: 5m}");
        assert_eq!(of["schedule"], "@hourly");
        assert_eq!(of["timezone"], "Europe/Berlin");
        assert_eq!(of["command"], serde_json::json!(["ls", "-l"]));
        assert_eq!((of["timeout"].as_str(), of["jitter"].as_str()), (Some("1m 30s"), Some("5m")));
        assert_eq!((of["guarantee"].as_str(), of["overlap"].as_str()), (Some("at_most_once"), Some("skip")));
        assert!(of.get("http").is_none() && of["enabled"] == true);
    }

    #[test]
    fn a_definition_says_on_which_dates_it_does_not_fire() {
        let text = "version: 1\ncalendars: {closed: {dates: ['2026-12-24..2027-01-01', '2026-04-03', '05-01']}}\njobs:\n  \
                    j: {schedule: '@daily', except: closed, shell: 'true'}\n";
        let config = parse(text, &Sources::none()).unwrap();
        let of = Definition::of(config.jobs.values().next().unwrap());
        assert_eq!(of.except, ["2026-04-03", "2026-12-24..2027-01-01", "05-01"]);
    }

    #[test]
    fn a_definition_says_whose_it_is_and_what_is_expected_of_it() {
        let of = defined(
            "{schedule: '@hourly', shell: 'true', owner: ops, labels: {team: payments, tier: 1}, runbook: \
             'https://u:hunter2@wiki/x?token=hunter2#top', expect: {end_within: 90m}}",
        );
        assert_eq!(of["owner"], "ops");
        assert_eq!(of["labels"], serde_json::json!({"team": "payments", "tier": "1"}));
        assert_eq!(of["runbook"], "https://u:***@wiki/x?token=***#top");
        assert_eq!(of["expect"], serde_json::json!({"end_within": "1h 30m"}));
        let of = defined("{schedule: '@hourly', shell: 'true'}");
        assert!(["owner", "labels", "runbook", "expect"].iter().all(|key| of.get(key).is_none()), "{of}");
    }

    #[test]
    fn no_secret_is_in_a_definition() {
        let http = "{url: 'http://u:hunter2@localhost/', headers: {Authorization: 'Bearer hunter2', x: y}}";
        let of = defined(&format!("{{schedule: '@hourly', http: {http}}}"));
        assert_eq!(of["http"]["url"], "http://u:***@localhost/");
        assert_eq!(of["http"]["headers"], serde_json::json!({"authorization": "***", "x": "y"}));
        for (url, shown) in [
            ("http://hunter2@localhost/", "http://***@localhost/"),
            ("http://localhost/?a=1&api_key=hunter2", "http://localhost/?a=1&api_key=***"),
            ("http://localhost/?a=%20", "http://localhost/?a=%20"),
        ] {
            assert_eq!(defined(&format!("{{schedule: '@hourly', http: {{url: '{url}'}}}}"))["http"]["url"], shown);
        }
        for name in ["X-Api-Key", "Cookie", "X-Auth-Token", "X-Hub-Signature", "Client-Secret"] {
            let of =
                defined(&format!("{{schedule: '@hourly', http: {{url: 'http://x/', headers: {{{name}: hunter2}}}}}}"));
            assert_eq!(of["http"]["headers"][name.to_ascii_lowercase()], "***", "{name}");
        }
        let of = defined("{schedule: '@hourly', command: [a], env: {DB_PASSWORD: hunter2, LANG: C}}");
        assert_eq!(of["env"], serde_json::json!({"DB_PASSWORD": "***", "LANG": "C"}));

        let mut job =
            Job::new(JobName::new("j").unwrap(), Task::Command(vec![Text::plain("a"), Text::secret("hunter2")]));
        job.env.insert("TOKEN".to_owned(), Text::secret("hunter2"));
        job.dir = Some(Text::secret("/hunter2"));
        let text = serde_json::to_string(&Definition::of(&job)).unwrap();
        assert!(text.contains(r#"["a","***"]"#) && text.contains(r#"{"TOKEN":"***"}"#), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}
