//! Looking at a cluster: `status`, `jobs`, `runs`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use futures_util::{StreamExt as _, stream};
use serde::Serialize;

use super::place::Place;
use super::steer::known_job;
use super::terminal::{Terminal, named_lines, table};
use super::{Exit, Failure, Global, file};
use crate::api::view::{
    ChannelView, FailingView, Overview, PauseView, PausedJob, RunState, RunView, StoreView, UNKNOWN_COUNTED,
};
use crate::config::Config;
use crate::job::{Code, Job, JobName, RunId, Trigger, Verdict};
use crate::ledger::{Find, HourRow, Ledger};
use crate::page::words::took;
use crate::scheduler::hour::HourCounts;
use crate::scheduler::run::Last;
use crate::store::{AnyStore, StoreError};
use crate::time::{Wall, written};

/// Prints the leader, the nodes, and what keeps jobs from being fired.
pub(super) async fn status(global: &Global, terminal: &mut Terminal) -> anyhow::Result<Exit> {
    let place = global.open(None).await?;
    let (ledger, now) = (place.ledger(), place.clock.wall());
    let locks = place.recalling(global);
    let (overview, hours, last, terms) = tokio::try_join!(
        Overview::look(&ledger, &locks, now),
        ledger.hours(now.minus(DAY), now),
        ledger.last_runs(),
        ledger.last_terms(TERMS_LOOKED_AT)
    )?;
    let is_least = terms.iter().any(|term| term.ended_abruptly_after(now.minus(DAY)));
    let failing = last.iter().filter(|(_, last)| last.is_bad()).map(|(job, _)| job);
    let overview = Overview { failing: FailingView::of(failing), ..overview };
    terminal.show(&overview, |overview| status_text(overview, (&hours, is_least)))?;
    Ok(Exit::Done)
}

/// How far back `status` counts what ended.
const DAY: Duration = Duration::from_secs(24 * 3_600);

/// How many paused jobs are named.
const PAUSED_NAMED: usize = 10;

/// How many of the last terms are looked at for a leader that was lost before it had counted all.
const TERMS_LOOKED_AT: usize = 100;

/// What ended in these hours, in a line; nothing where nothing was counted. `is_least`: it may have been more.
fn ended_text(hours: &[HourRow], is_least: bool) -> String {
    let mut all = HourCounts::default();
    hours.iter().for_each(|row| all.merge(&row.counts));
    let skipped = all.skips.values().fold(0, |sum: u64, count| sum.saturating_add(*count));
    let of = |how: Verdict| match how {
        Verdict::Skipped => skipped,
        _ => all.runs.get(how.as_str()).copied().unwrap_or_default(),
    };
    let parts = Verdict::ALL.map(|how| (of(how), how)).into_iter().filter(|(count, _)| *count > 0);
    let parts: Vec<String> = parts.map(|(count, how)| format!("{count} {how}")).collect();
    if parts.is_empty() {
        return String::new();
    }
    let late = all.late.punctual().map_or_else(String::new, |(which, bound)| {
        let bound = bound.map(|bound| format!("within {}", took(Duration::from_millis(bound))));
        format!("; {which} started {}", bound.unwrap_or_else(|| "more than 5 min late".to_owned()))
    });
    let least = if is_least { "at least " } else { "" };
    format!("last 24h   {least}{}{late}\n", parts.join(", "))
}

/// Where in a line of `status` begins what is said.
const INDENT: usize = "namespace  ".len();

/// How many alerts wait, in a line; nothing where none do.
fn alerts_text(channels: &[ChannelView]) -> String {
    let waiting = channels.iter().filter(|view| view.waiting > 0);
    let waiting: Vec<String> = waiting.map(|view| format!("{} for {}", view.waiting, view.channel)).collect();
    if waiting.is_empty() { String::new() } else { format!("alerts     wait to be sent: {}\n", waiting.join(", ")) }
}

fn status_text(overview: &Overview, (hours, is_least): (&[HourRow], bool)) -> String {
    let mut text = format!("namespace  {}\n", overview.namespace);
    let store = &overview.store;
    text += &format!("store      {} {}{}\n", store.kind, store.version, size_text(store));
    text += &match &overview.leader {
        Some(leader) => {
            let sign = leader.last_sign_ms.map_or("no sign of life".to_owned(), last_sign);
            format!("leader     {}, fence {}, since {}, {sign}\n", leader.node, leader.fence, leader.since)
        }
        None => "leader     none\n".to_owned(),
    };
    if let Some(mark) = overview.watermark {
        text += &format!("decided    up to {mark}\n");
    }
    text += &ended_text(hours, is_least);
    text += &paused_text(overview);
    text += &doubts_text(overview);
    text += &failing_text(&overview.failing);
    text += &alerts_text(&overview.alerts);
    let unsent: Vec<String> = overview.alerts.iter().flat_map(ChannelView::defects).collect();
    for problem in store.warnings.iter().chain(&overview.obstacles).chain(&unsent) {
        text += &format!("!          {problem}\n");
    }
    let mut held_back: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for node in &overview.nodes {
        let hand_over = node.hands_over.as_ref().map(|hand_over| &hand_over.text);
        for why in node.stands_back.iter().chain(&node.troubles).chain(hand_over) {
            held_back.entry(why).or_default().push(&node.node);
        }
    }
    for (why, nodes) in held_back {
        text += &format!("!          {}: {why}\n", nodes.join(", "));
    }
    let text = named_lines(&text, INDENT);
    let rows = overview.nodes.iter().map(|node| {
        let role = match (&node.stands_back, node.leader) {
            (Some(_), true) if node.drained => "leader, drained",
            (Some(_), false) if node.drained => "drained",
            (None, true) if node.hands_over.is_some() => "leader, hands over",
            (None, true) => "leader",
            (None, false) => "follower",
            (Some(_), true) => "leader, held back",
            (Some(_), false) => "held back",
        };
        let address = node.address.clone().unwrap_or_default();
        vec![
            node.node.clone(),
            role.to_owned(),
            node.version.clone(),
            node.config_digest.clone(),
            node.started_at.to_string(),
            address,
        ]
    });
    if overview.nodes.is_empty() {
        return text + "\nno node is there: start one with `fencron run FILE`\n";
    }
    text + "\n" + &table(&["NODE", "ROLE", "VERSION", "CONFIG", "STARTED", "ADDRESS"], rows)
}

/// Which jobs are paused, who paused each, until when and why.
fn paused_text(overview: &Overview) -> String {
    let mut text = String::new();
    let said = |pause: &PauseView, resume: &str| {
        let until = pause.until.map_or_else(|| format!("until `fencron resume {resume}`"), |at| format!("until {at}"));
        let why = if pause.reason.is_empty() { String::new() } else { format!(": {}", pause.reason) };
        format!("by {} {until}{why}", pause.by)
    };
    for (nth, PausedJob { job, pause }) in overview.pauses.iter().take(PAUSED_NAMED).enumerate() {
        let head = if nth == 0 { "paused    " } else { "          " };
        text += &format!("{head} {job} {}\n", said(pause, job.as_str()));
    }
    let more = overview.paused.len().saturating_sub(PAUSED_NAMED);
    if more > 0 {
        text += &format!("           and {more} more: `fencron jobs`\n");
    }
    if let Some(pause) = &overview.all_paused {
        text += &format!("!          all jobs are paused {}\n", said(pause, "--all"));
    }
    text
}

/// How large the store is, where that has a limit.
fn size_text(store: &StoreView) -> String {
    match (store.size, store.quota) {
        (Some(size), Some(quota)) => format!(", {} MiB of {}", size >> 20, quota >> 20),
        (Some(size), None) if store.kind == "etcd" => {
            format!(", {} MiB of a quota that it reports from version 3.6 on", size >> 20)
        }
        _ => String::new(),
    }
}

fn last_sign(millis: u64) -> String {
    format!("last sign of life {} ago", written(Duration::from_secs(millis / 1000)))
}

/// What waits for a person, and what the clocks have to do with the schedules.
fn doubts_text(overview: &Overview) -> String {
    let mut text = String::new();
    if let Some(behind) = overview.behind_ms {
        let behind = written(Duration::from_millis(if behind < 10_000 { behind } else { behind / 1000 * 1000 }));
        text += &format!(
            "!          the clock here is {behind} behind what has been decided: until then nothing is due. If a clock was \
             ahead and is right now: `fencron rewind`\n"
        );
    }
    if let Some(rewound) = &overview.rewound {
        let from = rewound.from.map_or("an unreadable watermark".to_owned(), |from| from.to_string());
        text += &format!("rewound    from {from} to {}, by {} on {}\n", rewound.to, rewound.by, rewound.at);
    }
    let unknown = &overview.unknown;
    if unknown.count > 0 {
        let (at_least, more) = (
            if unknown.count >= UNKNOWN_COUNTED { "at least " } else { "" },
            if unknown.count > unknown.runs.len() { ", …" } else { "" },
        );
        let runs: Vec<&str> = unknown.runs.iter().map(RunId::as_str).collect();
        text += &format!(
            "!          {at_least}{} until `fencron resolve RUN --as succeeded|failed|retry`: {}{more}\n",
            crate::page::words::in_doubt(unknown.count),
            runs.join(", ")
        );
    }
    text
}

/// The jobs whose last run ended badly.
fn failing_text(failing: &FailingView) -> String {
    if failing.count == 0 {
        return String::new();
    }
    let names: Vec<&str> = failing.jobs.iter().map(JobName::as_str).collect();
    let more = if failing.count > names.len() { ", …" } else { "" };
    let fail = if failing.count == 1 { "fails" } else { "fail" };
    let jobs = crate::page::words::count(failing.count, "job");
    format!("!          {jobs} {fail} (see `fencron runs --job JOB`): {}{more}\n", names.join(", "))
}

/// Of so many jobs without a record of their last run, the history is asked: each is a question of its own to the store.
const VERDICTS_MOST: usize = 1000;

/// How many of those questions are on their way at once.
const ASKED_AT_ONCE: usize = 16;

#[derive(Args)]
pub(super) struct JobsArgs {
    /// Only this job
    #[arg(long, env = "FENCRON_JOBS_JOB")]
    job: Option<String>,
    /// Only jobs with this label: NAME=VALUE, or NAME for any value; again for further ones
    #[arg(long, value_name = "LABEL", env = "FENCRON_JOBS_LABEL", value_delimiter = ',')]
    label: Vec<String>,
    /// Only jobs of this owner
    #[arg(long, env = "FENCRON_JOBS_OWNER")]
    owner: Option<String>,
    /// The jobs file that says when they are due [default: jobs.yaml, where there is one]
    #[arg(long, value_name = "FILE", env = "FENCRON_FILE")]
    file: Vec<PathBuf>,
}

impl JobsArgs {
    /// Whether a job is shown, by whose it is and its labels.
    fn takes(&self, job: Option<&Arc<Job>>) -> bool {
        let is_of = |owner: &String| job.is_some_and(|job| job.about.is_of(owner));
        let has_label = |label: &String| job.is_some_and(|job| job.about.has_label(label));
        self.owner.iter().all(is_of) && self.label.iter().all(has_label)
    }
}

/// A job, by what the file and the ledger know of it.
#[derive(Serialize)]
struct JobView {
    name: JobName,
    /// What the file says that it is for.
    description: Option<String>,
    owner: Option<String>,
    labels: BTreeMap<String, String>,
    /// The URL of what people do when it fails.
    runbook: Option<String>,
    /// Its expressions, or what it follows; `null` where no file says it, or the file disables the job.
    schedule: Option<String>,
    timezone: Option<&'static str>,
    /// `Some(false)`: the file disables it, so that it fires by no schedule.
    #[serde(skip)]
    enabled: Option<bool>,
    next_fire: Option<Wall>,
    /// How its last run ended, and of which instant that was.
    last_verdict: Option<&'static str>,
    last_scheduled_at: Option<Wall>,
    /// Why, in a word, where it did not end well as usual.
    last_code: Option<&'static str>,
    last_finished_at: Option<Wall>,
    /// How many of its runs in a row have ended badly, up to the last.
    bad_in_a_row: Option<u32>,
    paused: bool,
    paused_by: Option<String>,
    /// When the pause ends by itself, and why it was begun.
    paused_until: Option<Wall>,
    paused_reason: Option<String>,
    /// Since when it is due, for the leader; `null`: no leader has seen it, or it has no schedule.
    due_since: Option<Wall>,
}

/// Lists the jobs that the file and the ledger know.
pub(super) async fn jobs(args: &JobsArgs, global: &Global, terminal: &mut Terminal) -> anyhow::Result<Exit> {
    let config = config_beside(&args.file, terminal)?;
    let place = global.open(config.as_ref().map(|config| config.namespace.as_str())).await?;
    if let Some(name) = &args.job {
        known_job(&place.ledger(), name, config.as_ref()).await?;
    }
    let mut views = job_views(&place, config.as_ref(), args.job.as_deref()).await?;
    if config.is_none() && (args.owner.is_some() || !args.label.is_empty()) {
        return Err(
            Failure::wrong("--owner and --label need the jobs file, which says them: name it with --file").into()
        );
    }
    views.retain(|view| args.takes(config.as_ref().and_then(|config| config.jobs.get(&view.name))));
    if config.is_none() {
        terminal.say("fencron: name the jobs file with --file to see when the jobs are due");
    }
    terminal.show(&views, |views| jobs_table(views))?;
    Ok(Exit::Done)
}

/// The jobs file that was named, or the one that is there. A file that was not named only helps: if it is wrong, a job
/// can be paused all the same.
pub(super) fn config_beside(named: &[PathBuf], terminal: &Terminal) -> anyhow::Result<Option<Config>> {
    if !named.is_empty() {
        return file::read(named).map(Some);
    }
    let usual = PathBuf::from(file::DEFAULT);
    if !usual.exists() {
        return Ok(None);
    }
    let config = file::read(&[usual]);
    if config.is_err() {
        let name = file::DEFAULT;
        terminal.say(format_args!("fencron: {name} here is wrong and left aside: see `fencron validate`"));
    }
    Ok(config.ok())
}

async fn job_views(place: &Place, config: Option<&Config>, only: Option<&str>) -> Result<Vec<JobView>, StoreError> {
    let (ledger, now) = (place.ledger(), place.clock.wall());
    let (known, paused) = tokio::try_join!(ledger.known_jobs(), ledger.paused())?;
    let (known, paused): (BTreeMap<_, _>, BTreeMap<_, _>) = (known.into_iter().collect(), paused.into_iter().collect());
    let in_file = config.iter().flat_map(|config| config.jobs.keys());
    let only_job = only.map(JobName::new).transpose().ok().flatten();
    let names = known.keys().chain(paused.keys()).chain(in_file).chain(&only_job).cloned();
    let mut names: Vec<JobName> = names.filter(|name| only.is_none_or(|only| name.as_str() == only)).collect();
    names.sort();
    names.dedup();
    let mut verdicts = last_verdicts(&ledger, &names).await?;
    let mut views = Vec::with_capacity(names.len());
    for name in names {
        let last = verdicts.remove(&name);
        let job = config.and_then(|config| config.jobs.get(&name));
        let trigger = job.map(|job| &job.trigger);
        let (schedule, timezone, next_fire) = match trigger {
            Some(Trigger::Schedule { schedule, .. }) => {
                (Some(schedule.text().to_owned()), Some(schedule.timezone()), schedule.next_after(now))
            }
            Some(Trigger::Disabled) => (None, None, None),
            Some(follows) => (crate::api::jobs::follows(follows).map(|after| format!("after {after}")), None, None),
            None => (None, None, None),
        };
        views.push(JobView {
            description: job.and_then(|job| job.description.as_ref()).map(ToString::to_string),
            owner: job.and_then(|job| job.about.owner.as_ref()).map(ToString::to_string),
            labels: job.map(|job| job.about.shown_labels()).unwrap_or_default(),
            runbook: job.and_then(|job| job.about.shown_runbook()),
            enabled: trigger.map(|trigger| *trigger != Trigger::Disabled),
            schedule,
            timezone,
            next_fire,
            last_verdict: last.as_ref().map(|last| last.verdict.as_str()),
            last_scheduled_at: last.as_ref().map(|last| last.run.at()),
            last_code: last.as_ref().and_then(|last| last.code).map(Code::as_str),
            last_finished_at: last.as_ref().map(|last| last.finished_at),
            bad_in_a_row: last.map(|last| last.bad_in_a_row),
            paused: paused.contains_key(&name),
            paused_by: paused.get(&name).map(|pause| pause.asked.by.clone()),
            paused_until: paused.get(&name).and_then(|pause| pause.until),
            paused_reason: paused.get(&name).map(|pause| pause.asked.reason.clone()).filter(|why| !why.is_empty()),
            due_since: known.get(&name).map(|known| known.since),
            name,
        });
    }
    Ok(views)
}

/// How the last run of each ended. Where nodes of an older version recorded it in the history alone, that is asked, unless
/// it would be asked for too many: a leader of this version makes the records that are missing.
async fn last_verdicts(ledger: &Ledger<AnyStore>, names: &[JobName]) -> Result<BTreeMap<JobName, Last>, StoreError> {
    let mut verdicts: BTreeMap<JobName, Last> = match names {
        [name] => ledger.last_run(name).await?.map(|last| (name.clone(), last)).into_iter().collect(),
        _ => ledger.last_runs().await?,
    };
    let unrecorded: Vec<&JobName> = names.iter().filter(|name| !verdicts.contains_key(name)).collect();
    if unrecorded.len() > VERDICTS_MOST {
        return Ok(verdicts);
    }
    let asked = stream::iter(unrecorded).map(|name| async move { (name, ledger.last_verdict(name).await) });
    let mut answers = asked.buffer_unordered(ASKED_AT_ONCE);
    while let Some((name, last)) = answers.next().await {
        if let Some(done) = last? {
            verdicts.insert(name.clone(), Last::after(None, &done));
        }
    }
    Ok(verdicts)
}

/// What the file says of a job, for people.
fn said_of(view: &JobView) -> String {
    let labels: Vec<String> = view.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let labels = Some(labels.join(", ")).filter(|labels| !labels.is_empty());
    let said = [
        view.description.clone(),
        view.owner.as_ref().map(|owner| format!("owner    {owner}")),
        labels.map(|labels| format!("labels   {labels}")),
        view.runbook.as_ref().map(|url| format!("runbook  {url}")),
    ];
    let said: Vec<String> = said.into_iter().flatten().collect();
    if said.is_empty() { String::new() } else { format!("\n{}\n", said.join("\n")) }
}

fn jobs_table(views: &[JobView]) -> String {
    let rows = views.iter().map(|view| {
        let time = |at: Option<Wall>| at.map_or("-".to_owned(), |at| at.to_string());
        let is_disabled = view.enabled == Some(false);
        let next = match (view.paused, is_disabled) {
            (true, _) => "paused".to_owned(),
            (false, true) => "not enabled".to_owned(),
            (false, false) => time(view.next_fire),
        };
        let zone = view.timezone.unwrap_or_default();
        let schedule = view.schedule.clone().unwrap_or_else(|| if is_disabled { "-" } else { "?" }.to_owned());
        let verdict = view.last_verdict.unwrap_or("-").to_owned();
        vec![view.name.to_string(), schedule, zone.to_owned(), next, verdict, time(view.last_scheduled_at)]
    });
    let table = table(&["JOB", "SCHEDULE", "ZONE", "NEXT", "LAST VERDICT", "OF"], rows);
    // Of many jobs it would be wider than a terminal.
    match views {
        [view] => table + &said_of(view),
        _ => table,
    }
}

#[derive(Args)]
pub(super) struct RunsArgs {
    /// Only runs of this job
    #[arg(long, env = "FENCRON_RUNS_JOB")]
    job: Option<String>,
    /// Only runs in this state
    #[arg(long, env = "FENCRON_RUNS_STATE")]
    state: Option<RunState>,
    /// At most so many, the newest
    #[arg(long, value_name = "N", env = "FENCRON_RUNS_LIMIT", default_value_t = 50)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
}

/// Lists runs, the newest first.
pub(super) async fn runs(args: &RunsArgs, global: &Global, terminal: &mut Terminal) -> anyhow::Result<Exit> {
    let place = global.open(None).await?;
    let ledger = place.ledger();
    let job = args.job.as_deref().map(JobName::new).transpose();
    let job = job.map_err(|error| Failure::wrong(format!("--job: {error}")))?;
    let verdict = args.state.and_then(RunState::verdict);
    let find = Find {
        job,
        verdict,
        open: verdict.is_none(),
        done: args.state.is_none() || verdict.is_some(),
        limit: args.limit as usize,
    };
    let rows = ledger.runs(&find, |row| args.state.is_none_or(|state| state.is_of(row))).await?;
    if let Some(name) = args.job.as_deref().filter(|_| rows.is_empty()) {
        known_job(&ledger, name, None).await?;
    }
    let views: Vec<RunView> = rows.into_iter().map(RunView::from).collect();
    terminal.show(&views, |views| runs_table(views))?;
    Ok(Exit::Done)
}

fn runs_table(views: &[RunView]) -> String {
    let rows = views.iter().map(|view| {
        // Of an `unknown` run it is only known when it was decided.
        let ended = view.finished_at.filter(|_| view.state != Verdict::Unknown.as_str());
        let took = view.started_at.zip(ended).map(|(from, to)| format!("{} ms", to.since(from).as_millis()));
        let many = view.count.zip(view.from).map(|(count, from)| format!("{count} since {from}: "));
        vec![
            view.run_id.to_string(),
            view.state.to_owned(),
            view.attempt.to_string(),
            view.fence.map_or("-".to_owned(), |fence| fence.to_string()),
            view.node.clone().unwrap_or_else(|| "-".to_owned()),
            took.unwrap_or_else(|| "-".to_owned()),
            many.unwrap_or_default() + &view.reason,
        ]
    });
    table(&["RUN", "STATE", "ATTEMPT", "FENCE", "NODE", "TOOK", "REASON"], rows)
}
