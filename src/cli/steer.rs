//! Steering a cluster: `trigger`, `pause`, `resume`, `cancel`, `resolve`, `backfill`, `step-down`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::builder::FalseyValueParser;
use clap::{Args, ValueEnum};
use nix::unistd::{User, geteuid};
use serde::Serialize;

use super::place::Place;
use super::terminal::Terminal;
use super::{Exit, Failure, Global, check, file, look, nearest};
use crate::job::{Job, JobName, Param, Params, RunId, Verdict};
use crate::ledger::{ALL_JOBS, Acting, AskError, Asked, BackfillPlan, Ledger, Resolution, check_params};
use crate::lock::{LockName, Seen};
use crate::page::words::count;
use crate::scheduler::run::Done;
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
    file: Vec<PathBuf>,
}

/// Why something is done.
#[derive(Args, Default)]
pub(super) struct Why {
    /// Why, for others to read: it is kept with the record of the act, which `fencron audit` shows
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// A job, or all of them.
#[derive(Args)]
pub(super) struct PauseArgs {
    /// The job's name
    #[arg(required_unless_present = "all")]
    job: Option<String>,
    /// All jobs of the namespace, those that are added later among them
    #[arg(long, conflicts_with = "job")]
    all: bool,
    /// The jobs file, for a job that no leader has seen yet [default: jobs.yaml, where there is one]
    #[arg(long, value_name = "FILE", env = "FENCRON_FILE")]
    file: Vec<PathBuf>,
    #[command(flatten)]
    why: Why,
}

#[derive(Args)]
pub(super) struct PauseUntilArgs {
    #[command(flatten)]
    pause: PauseArgs,
    #[command(flatten)]
    until: Until,
}

/// When what a person does ends by itself.
#[derive(Args)]
pub(super) struct Until {
    /// End it by itself: from this instant (RFC 3339) on all is as before
    #[arg(long, value_name = "T", conflicts_with = "for_")]
    until: Option<Wall>,
    /// End it by itself after this time
    #[arg(long = "for", value_name = "D", value_parser = super::duration)]
    for_: Option<Duration>,
}

impl Until {
    /// The instant, if there is one. `nothing`: what would be done where it has come already.
    pub(super) fn end(&self, now: Wall, nothing: &str) -> Result<Option<Wall>, Failure> {
        let until = self.until.or(self.for_.map(|last| now.plus(last)));
        match until {
            Some(until) if until <= now => Err(Failure::wrong(format!("--until {until} is over already: {nothing}"))),
            until => Ok(until),
        }
    }
}

#[derive(Args)]
pub(super) struct TriggerArgs {
    #[command(flatten)]
    job: JobArgs,
    #[command(flatten)]
    why: Why,
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
    #[command(flatten)]
    why: Why,
}

#[derive(Args)]
pub(super) struct StepDownArgs {
    #[command(flatten)]
    why: Why,
}

#[derive(Args)]
pub(super) struct ResolveArgs {
    /// The run, as `fencron runs` shows it
    run: RunId,
    #[command(flatten)]
    why: Why,
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
    file: Vec<PathBuf>,
    /// Request all of them again. Without this, instants are left out whose runs have succeeded, are open, or are in
    /// doubt
    #[arg(long)]
    again: bool,
    /// Do not ask for confirmation
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    why: Why,
}

/// A run that was asked for.
#[derive(Serialize)]
struct AskedFor<'a> {
    run_id: &'a RunId,
}

/// An act of the user of this command: who that is, and why.
pub(super) fn acting(place: &Place, why: &Why) -> Acting {
    let user = ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok().filter(|user| !user.is_empty()));
    let user = user.or_else(|| User::from_uid(geteuid()).ok().flatten().map(|user| user.name));
    // A container may have no name for its user.
    let user = user.unwrap_or_else(|| format!("user {}", geteuid()));
    let asked = Asked::new(format!("{user} on {}", crate::client::host_name()), place.clock.wall());
    Acting::fresh(asked.because(why.reason.as_deref().unwrap_or_default().trim()))
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

/// Where the job is, that it is, and what the file says of it where there is one of this namespace: the inner `None` says
/// that the file does not have the job.
async fn job_at(
    (name, file): (&str, &[PathBuf]),
    global: &Global,
    terminal: &Terminal,
) -> anyhow::Result<(Place, JobName, Option<Option<Arc<Job>>>)> {
    let config = look::config_beside(file, terminal)?;
    let place = global.open(config.as_ref().map(|config| config.namespace.as_str())).await?;
    let config = config.filter(|config| config.namespace == place.namespace.as_str());
    let job = known_job(&place.ledger(), name, config.as_ref()).await?;
    // What is asked for may come before the first node: it would find a namespace with keys, and none to count from.
    place.recalling(global).found().await?;
    let definition = config.map(|config| config.jobs.get(&job).cloned());
    Ok((place, job, definition))
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
    let at = (args.job.job.as_str(), &*args.job.file);
    let (place, job, definition) = job_at(at, global, terminal).await?;
    match definition {
        Some(Some(definition)) => check_params(&definition, &params)?,
        Some(None) => return Err(AskError::Unconfigured(job).into()),
        None => {}
    }
    let has_leader = has_leader(&place, global).await?;
    let (ledger, acting) = (place.ledger(), acting(&place, &args.why));
    let deed = ledger.trigger(&acting, &job, params).await?;
    let Some(run) = &deed.run else { anyhow::bail!("the run of {job} has no name") };
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

/// Where the jobs are that are paused or resumed, and which one it is; `None`: all.
async fn paused_at(args: &PauseArgs, global: &Global, terminal: &Terminal) -> anyhow::Result<(Place, Option<JobName>)> {
    if let Some(job) = &args.job {
        let (place, job, _) = job_at((job, &args.file), global, terminal).await?;
        return Ok((place, Some(job)));
    }
    let config = look::config_beside(&args.file, terminal)?;
    let place = global.open(config.as_ref().map(|config| config.namespace.as_str())).await?;
    place.recalling(global).found().await?;
    Ok((place, None))
}

/// Pauses a job, or all.
pub(super) async fn pause(args: &PauseUntilArgs, global: &Global, terminal: &mut Terminal) -> anyhow::Result<Exit> {
    let (place, job) = paused_at(&args.pause, global, terminal).await?;
    let now = place.clock.wall();
    let until = args.until.end(now, "no occurrence would be skipped")?;
    let paused = place.ledger().pause(&acting(&place, &args.pause.why), job.as_ref(), until).await;
    let (what, are, resume) = said_of(job.as_ref());
    match paused {
        Ok(_) => {
            let until = until.map_or(format!("`fencron resume {resume}`"), |until| until.to_string());
            terminal.say(format_args!("fencron: {what} {are} paused: occurrences are skipped until {until}"));
        }
        Err(AskError::AlreadySo { .. }) => terminal.say(format_args!("fencron: {what} {are} paused already")),
        Err(error) => return Err(error.into()),
    }
    Ok(Exit::Done)
}

/// Resumes a job, or all.
pub(super) async fn resume(args: &PauseArgs, global: &Global, terminal: &mut Terminal) -> anyhow::Result<Exit> {
    let (place, job) = paused_at(args, global, terminal).await?;
    let (what, are, _) = said_of(job.as_ref());
    match place.ledger().resume(&acting(&place, &args.why), job.as_ref()).await {
        Ok(_) => terminal.say(format_args!("fencron: {what} {are} resumed")),
        Err(AskError::NotSo { .. }) => terminal.say(format_args!("fencron: {what} {are} not paused")),
        Err(error) => return Err(error.into()),
    }
    Ok(Exit::Done)
}

/// What is said of a job or of all, the verb for it, and how `resume` is given it.
fn said_of(job: Option<&JobName>) -> (&str, &'static str, &str) {
    job.map_or((ALL_JOBS, "are", "--all"), |job| (job.as_str(), "is", job.as_str()))
}

/// Asks for a run to be cancelled.
pub(super) async fn cancel(args: &RunIdArgs, global: &Global, terminal: &mut Terminal) -> anyhow::Result<Exit> {
    let place = global.open(None).await?;
    let run = &args.run;
    match place.ledger().ask_to_cancel(&acting(&place, &args.why), run).await {
        Ok(_) => terminal.say(format_args!("fencron: asked for {run} to be cancelled: `fencron logs -f {run}`")),
        Err(already @ AskError::CancelAsked { .. }) => terminal.say(format_args!("fencron: {already}")),
        Err(error) => return Err(error.into()),
    }
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
    place.ledger().resolve(&acting(&place, &args.why), &args.run, resolution).await?;
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
    let (name, ledger, acting) = (&job.name, place.ledger(), acting(&place, &args.why));
    let again = args.again.then(|| acting.call('b'));
    let stretch = (args.from, args.to);
    let Some(plan) = ledger.plan_backfill(&job, stretch, again.as_deref(), place.clock.wall()).await? else {
        terminal.say(format_args!("fencron: `{name}` was not due from {} on and before {}", args.from, args.to));
        return Ok(Exit::Done);
    };
    let BackfillPlan { runs, first, last, instants, .. } = &plan;
    let runs_of = count(*instants, "run");
    let counts = counts_text(&plan);
    terminal.say(format_args!("fencron: {runs_of} of {name}, the first due at {first}, the last at {last}: {counts}"));
    if runs.is_empty() {
        terminal.say("fencron: nothing is left to request; `--again` requests all of it again");
    } else if !args.yes && !terminal.confirm("Ask for them?")? {
        return Err(Failure::wrong("nothing was asked for: confirm, or add --yes").into());
    }
    has_leader(&place, global).await?;
    if !runs.is_empty() {
        ledger.backfill(&acting, name, runs.clone()).await?;
    }
    let views: Vec<AskedFor<'_>> = runs.iter().map(|run_id| AskedFor { run_id }).collect();
    terminal.show(&views, |views| views.iter().map(|view| format!("{}\n", view.run_id)).collect())?;
    Ok(Exit::Done)
}

/// How many instants of a backfill stand how.
fn counts_text(plan: &BackfillPlan) -> String {
    let counted = |counts: &BTreeMap<&str, usize>| {
        let all: Vec<String> = counts.iter().map(|(stands, count)| format!("{count} {stands}")).collect();
        if all.is_empty() { "none".to_owned() } else { all.join(", ") }
    };
    let has_doubt = plan.left_out.contains_key("unknown");
    let doubt = if has_doubt { " (settle what is unknown with `fencron resolve`)" } else { "" };
    format!("left out: {}{doubt}; asked for: {}", counted(&plan.left_out), counted(&plan.asked))
}

/// Asks the leader to let another lead.
pub(super) async fn step_down(args: &StepDownArgs, global: &Global, terminal: &mut Terminal) -> anyhow::Result<Exit> {
    let place = global.open(None).await?;
    let standing = place.locks(Seen::default()).election(LockName::leader()).observe().await?;
    let Some(leader) = standing.leader else {
        let why = format!("no node leads in the namespace {}: none can step down", place.namespace);
        return Err(Failure::new(Exit::Failed, why).into());
    };
    let (node, fence) = (leader.node, leader.fence);
    place.ledger().ask_to_step_down(&acting(&place, &args.why), fence, &node).await?;
    terminal.say(format_args!("fencron: asked {node} (fence {fence}) to step down: it lets its runs end first"));
    terminal
        .say("fencron: it stops those that outlast its --shutdown-grace (`fencron status` says until when it waits)");
    if standing.waiting.is_empty() {
        terminal.say("fencron: no other node waits to lead, so it will lead again under a higher fence");
    }
    Ok(Exit::Done)
}
