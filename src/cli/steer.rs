//! Steering a cluster: `trigger`, `pause`, `resume`, `cancel`, `resolve`, `backfill`, `step-down`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::FalseyValueParser;
use clap::{Args, ValueEnum};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::place::Place;
use super::terminal::Terminal;
use super::{Exit, Failure, Global, check, file, look, nearest};
use crate::job::{JobName, Param, Params, RunId, Trigger, Verdict};
use crate::ledger::{AskError, Asked, BACKFILL_MOST, CALL_DIGITS, Ledger, Resolution, RunRow, call};
use crate::lock::{LockName, Seen};
use crate::scheduler::run::{Done, Source};
use crate::store::AnyStore;
use crate::time::{Wall, written};

/// How many jobs with a history are looked through for a name.
const JOBS_LOOKED_AT: usize = 10_000;

#[derive(Args)]
pub(super) struct JobArgs {
    /// The job's name
    job: String,
    /// The jobs file, for a job that no leader has seen yet [default: jobs.yaml, where there is one]
    #[arg(long, value_name = "FILE", env = "FENCRON_FILE")]
    file: Option<PathBuf>,
}

#[derive(Args)]
pub(super) struct TriggerArgs {
    #[command(flatten)]
    job: JobArgs,
    /// Give the run a parameter, as often as needed: a command finds it in FENCRON_PARAM_NAME
    #[arg(long = "param", value_name = "NAME=VALUE")]
    params: Vec<Param>,
    /// Wait for the run's verdict: exit 0 if it succeeded, 1 if not, 6 if it is unknown (yet)
    #[arg(long, env = "FENCRON_TRIGGER_WAIT", value_parser = FalseyValueParser::new())]
    wait: bool,
    /// How long to wait [default: without limit]
    #[arg(long, env = "FENCRON_TRIGGER_TIMEOUT", requires = "wait", value_parser = super::duration)]
    timeout: Option<Duration>,
}

#[derive(Args)]
pub(super) struct RunIdArgs {
    /// The run, as `fencron runs` shows it
    run: RunId,
}

#[derive(Args)]
pub(super) struct ResolveArgs {
    /// The run, as `fencron runs` shows it
    run: RunId,
    /// How it ended, or `retry` to run it once more
    #[arg(long = "as", value_name = "OUTCOME")]
    outcome: Outcome,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Outcome {
    Succeeded,
    Failed,
    Retry,
}

#[derive(Args)]
pub(super) struct BackfillArgs {
    /// The job's name
    job: String,
    /// The first instant (RFC 3339), included
    #[arg(long, value_name = "T")]
    from: Wall,
    /// The end (RFC 3339), not included
    #[arg(long, value_name = "T")]
    to: Wall,
    /// The jobs file with the job's schedule
    #[arg(long, value_name = "FILE", env = "FENCRON_FILE", default_value = file::DEFAULT)]
    file: PathBuf,
    /// Request all of them again. Without this, instants are left out whose runs have succeeded, are open, or are in
    /// doubt
    #[arg(long)]
    again: bool,
    /// Do not ask for confirmation
    #[arg(short, long)]
    yes: bool,
}

/// A run that was asked for.
#[derive(Serialize)]
struct AskedFor<'a> {
    run_id: &'a RunId,
}

/// The requester, for people to read later.
pub(super) fn asked(place: &Place) -> Asked {
    let user = std::env::var("USER").ok().filter(|user| !user.is_empty());
    let user = user.unwrap_or_else(|| format!("uid {}", nix::unistd::geteuid()));
    Asked { by: format!("{user} on {}", crate::client::host_name()), at: place.clock.wall() }
}

/// The run of a backfill for one instant: the same for each call as long as nothing else is known of that instant, so
/// that a command that broke off and is given again requests nothing twice. A part of the SHA-256 of what is known.
fn backfilled(job: &JobName, at: Wall, known: &[&RunRow]) -> RunId {
    let mut ids: Vec<&str> = known.iter().map(|row| row.id().as_str()).collect();
    ids.sort_unstable();
    let hash = Sha256::digest(format!("{job} {at} {}", ids.join(" ")));
    let id: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    RunId::asked_for(job, at, &format!("b-{}", &id[..CALL_DIGITS]))
}

/// How an instant stands, and whether a backfill leaves it out.
fn standing(known: &[&RunRow]) -> (&'static str, bool) {
    let ended = |verdict| known.iter().any(|row| row.verdict() == Some(verdict));
    if ended(Verdict::Succeeded) {
        ("succeeded", true)
    } else if known.iter().any(|row| row.verdict().is_none()) {
        ("open", true)
    } else if ended(Verdict::Unknown) {
        ("unknown", true)
    } else if [Verdict::Failed, Verdict::TimedOut, Verdict::Cancelled].into_iter().any(ended) {
        ("failed", false)
    } else if ended(Verdict::Skipped) {
        ("skipped", false)
    } else {
        ("not run", false)
    }
}

/// The job of this name, which the ledger knows or the file has.
pub(super) async fn known_job(
    ledger: &Ledger<AnyStore>,
    name: &str,
    in_file: Option<&crate::config::Config>,
) -> anyhow::Result<JobName> {
    let job = JobName::new(name).map_err(|error| Failure::wrong(error.to_string()))?;
    if in_file.is_some_and(|config| config.jobs.contains_key(&job)) || ledger.last_verdict(&job).await?.is_some() {
        return Ok(job);
    }
    let mut names: Vec<JobName> = ledger.known_jobs().await?.into_iter().map(|(name, _)| name).collect();
    if names.contains(&job) {
        return Ok(job);
    }
    names.extend(ledger.paused().await?.into_iter().map(|(name, _)| name));
    names.extend(ledger.jobs_with_history(None, JOBS_LOOKED_AT).await?);
    names.extend(in_file.iter().flat_map(|config| config.jobs.keys().cloned()));
    let (namespace, meant) = (ledger.namespace(), nearest(name, names.iter().map(JobName::as_str)));
    let list = if names.is_empty() { ": no leader has seen any job there yet" } else { ": `fencron jobs` lists them" };
    let list = if meant.is_empty() { list } else { "" };
    Err(Failure::new(Exit::Failed, format!("there is no job `{name}` in the namespace {namespace}{meant}{list}"))
        .into())
}

/// Where the job is, and that it is.
async fn job_at(args: &JobArgs, global: &Global, terminal: &Terminal) -> anyhow::Result<(Place, JobName)> {
    let config = look::config_beside(args.file.as_deref(), terminal)?;
    let place = global.open(config.as_ref().map(|config| config.namespace.as_str())).await?;
    let config = config.filter(|config| config.namespace == place.namespace.as_str());
    let job = known_job(&place.ledger(), &args.job, config.as_ref()).await?;
    // What is asked for may come before the first node: it would find a namespace with keys, and none to count from.
    place.recalling(global).found().await?;
    Ok((place, job))
}

/// Whether a node leads, if one may: in a store that was restored from a backup no node does until it is repaired, and
/// the repair ends what was requested before it.
async fn has_leader(place: &Place, global: &Global) -> anyhow::Result<bool> {
    let standing = place.recalling(global).election(LockName::leader()).observe().await?;
    standing.age?;
    Ok(standing.leader.is_some())
}

/// Asks for a run now.
pub(super) async fn trigger(args: &TriggerArgs, global: &Global, terminal: &mut Terminal) -> anyhow::Result<Exit> {
    let given = args.params.iter().map(|param| (&*param.name, &*param.value));
    let params = Params::new(given).map_err(|error| Failure::wrong(error.to_string()))?;
    let (place, job) = job_at(&args.job, global, terminal).await?;
    let has_leader = has_leader(&place, global).await?;
    let (ledger, asked) = (place.ledger(), asked(&place));
    let source = Source::Trigger { by: asked.by, params };
    let runs = ledger.ask_for_runs(&job, &[asked.at], &call('t'), &source, asked.at).await?;
    let run = &runs[0];
    terminal.show(&AskedFor { run_id: run }, |_| format!("{run}\n"))?;
    if !has_leader {
        terminal.say("fencron: no node leads now: it runs as soon as one does");
    }
    if !args.wait {
        return Ok(Exit::Done);
    }
    let verdict = ledger.verdict_of(run);
    let done = match args.timeout {
        None => verdict.await?,
        Some(most) => match tokio::time::timeout(most, verdict).await {
            Ok(done) => done?,
            Err(_) => {
                let most = written(most);
                terminal
                    .say(format_args!("fencron: {run} has not ended in {most}; it goes on: `fencron logs -f {run}`"));
                return Ok(Exit::OutcomeUnknown);
            }
        },
    };
    tell_verdict(&done, terminal);
    Ok(match done.verdict {
        Verdict::Succeeded => Exit::Done,
        Verdict::Unknown => Exit::OutcomeUnknown,
        _ => Exit::Failed,
    })
}

/// Says how a run ended.
pub(super) fn tell_verdict(done: &Done, terminal: &Terminal) {
    let reason = if done.reason.is_empty() { String::new() } else { format!(": {}", done.reason) };
    terminal.say(format_args!("fencron: {} {}{reason}", done.id, done.verdict));
    if done.verdict == Verdict::Unknown {
        terminal.say(format_args!("fencron: settle it with `fencron resolve {} --as succeeded|failed|retry`", done.id));
    }
}

/// Pauses a job, or resumes it.
pub(super) async fn set_paused(
    args: &JobArgs,
    paused: bool,
    global: &Global,
    terminal: &mut Terminal,
) -> anyhow::Result<Exit> {
    let (place, job) = job_at(args, global, terminal).await?;
    match place.ledger().set_paused(&job, paused, &asked(&place)).await {
        Ok(()) if paused => terminal
            .say(format_args!("fencron: {job} is paused: its occurrences are skipped until `fencron resume {job}`")),
        Ok(()) => terminal.say(format_args!("fencron: {job} is resumed")),
        Err(AskError::AlreadySo { .. }) => {
            terminal.say(format_args!("fencron: {job} {}", if paused { "is paused already" } else { "is not paused" }));
        }
        Err(error) => return Err(error.into()),
    }
    Ok(Exit::Done)
}

/// Asks for a run to be cancelled.
pub(super) async fn cancel(args: &RunIdArgs, global: &Global, terminal: &mut Terminal) -> anyhow::Result<Exit> {
    let place = global.open(None).await?;
    place.ledger().ask_to_cancel(&args.run, &asked(&place)).await?;
    terminal.say(format_args!("fencron: asked for {run} to be cancelled: `fencron logs -f {run}`", run = args.run));
    Ok(Exit::Done)
}

/// Settles a run whose end is unknown.
pub(super) async fn resolve(args: &ResolveArgs, global: &Global, terminal: &mut Terminal) -> anyhow::Result<Exit> {
    let place = global.open(None).await?;
    let (resolution, what) = match args.outcome {
        Outcome::Succeeded => (Resolution::Succeeded, "is settled: it succeeded"),
        Outcome::Failed => (Resolution::Failed, "is settled: it failed"),
        Outcome::Retry => (Resolution::Retry, "runs once more, as the same occurrence"),
    };
    place.ledger().resolve(&args.run, resolution, &asked(&place)).await?;
    terminal.say(format_args!("fencron: {} {what}", args.run));
    Ok(Exit::Done)
}

/// Asks for the runs that a job's schedule names in a stretch of the past.
pub(super) async fn backfill(args: &BackfillArgs, global: &Global, terminal: &mut Terminal) -> anyhow::Result<Exit> {
    if args.from >= args.to {
        let why = format!("--from {} is not before --to {}: no instant lies between them", args.from, args.to);
        return Err(Failure::wrong(why).into());
    }
    let config = file::read(&args.file)?;
    let job = check::find(&config, &args.job)?;
    let place = global.open(Some(&config.namespace)).await?;
    place.recalling(global).found().await?;
    let Trigger::Schedule { schedule, .. } = &job.trigger else {
        let why = format!("`{}` has no schedule, so no instants of the past: `fencron trigger` runs it now", job.name);
        return Err(Failure::wrong(why).into());
    };
    if args.to > place.clock.wall() {
        return Err(Failure::wrong(format!("--to {} lies in the future: a backfill is for the past", args.to)).into());
    }
    let just_before = |at: Wall| Wall::from_millis(at.as_millis() - 1);
    let instants = schedule.between(just_before(args.from), just_before(args.to));
    let instants: Vec<Wall> = instants.take(BACKFILL_MOST + 1).collect();
    let (Some(first), Some(last)) = (instants.first(), instants.last()) else {
        terminal.say(format_args!("fencron: `{}` was not due from {} to {}", job.name, args.from, args.to));
        return Ok(Exit::Done);
    };
    if instants.len() > BACKFILL_MOST {
        let why = format!("that is more than {BACKFILL_MOST} runs: take a shorter stretch (the first ends at {last})");
        return Err(Failure::wrong(why).into());
    }
    let (name, ledger) = (&job.name, place.ledger());
    let rows = ledger.runs_between(name, *first, *last).await?;
    let (runs, counts) = chosen(name, &instants, &rows, args.again);
    terminal.say(format_args!("fencron: {} runs of {name}, from {first} to {last}: {counts}", instants.len()));
    if runs.is_empty() {
        terminal.say("fencron: nothing is left to request; `--again` requests all of it again");
    } else if !args.yes && !terminal.confirm("Ask for them?")? {
        return Err(Failure::wrong("nothing was asked for: confirm, or add --yes").into());
    }
    has_leader(&place, global).await?;
    let asked = asked(&place);
    ledger.ask_for(&runs, &Source::Backfill { by: asked.by }, asked.at).await?;
    let views: Vec<AskedFor<'_>> = runs.iter().map(|run_id| AskedFor { run_id }).collect();
    terminal.show(&views, |views| views.iter().map(|view| format!("{}\n", view.run_id)).collect())?;
    Ok(Exit::Done)
}

/// What a backfill asks for, and how many instants stand how.
fn chosen(job: &JobName, instants: &[Wall], rows: &[RunRow], again: bool) -> (Vec<RunId>, String) {
    let mut known: BTreeMap<Wall, Vec<&RunRow>> = BTreeMap::new();
    for row in rows {
        known.entry(row.id().at()).or_default().push(row);
    }
    let (mut runs, mut asked, mut left_out) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
    let fresh = call('b');
    for at in instants {
        let known = known.get(at).map_or(&[][..], Vec::as_slice);
        let (stands, leave_out) = standing(known);
        if leave_out && !again {
            *left_out.entry(stands).or_insert(0_usize) += 1;
            continue;
        }
        *asked.entry(stands).or_insert(0) += 1;
        runs.push(if again { RunId::asked_for(job, *at, &fresh) } else { backfilled(job, *at, known) });
    }
    let counted = |counts: &BTreeMap<&str, usize>| {
        let all: Vec<String> = counts.iter().map(|(stands, count)| format!("{count} {stands}")).collect();
        if all.is_empty() { "none".to_owned() } else { all.join(", ") }
    };
    let doubt = if left_out.contains_key("unknown") { " (settle what is unknown with `fencron resolve`)" } else { "" };
    let counts = format!("left out: {}{doubt}; asked for: {}", counted(&left_out), counted(&asked));
    (runs, counts)
}

/// Asks the leader to let another lead.
pub(super) async fn step_down(global: &Global, terminal: &mut Terminal) -> anyhow::Result<Exit> {
    let place = global.open(None).await?;
    let standing = place.locks(Seen::default()).election(LockName::leader()).observe().await?;
    let Some(leader) = standing.leader else {
        let why = format!("no node leads in the namespace {}: none can step down", place.namespace);
        return Err(Failure::new(Exit::Failed, why).into());
    };
    place.ledger().ask_to_step_down(leader.fence, asked(&place)).await?;
    let (node, fence) = (leader.node, leader.fence);
    terminal.say(format_args!("fencron: asked {node} (fence {fence}) to step down: it lets its runs end first"));
    if standing.waiting.is_empty() {
        terminal.say("fencron: no other node waits to lead, so it will lead again under a higher fence");
    }
    Ok(Exit::Done)
}
