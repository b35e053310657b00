//! `fencron migrate`: the migrations of a jobs file, from a deploy step.

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand};

use super::once::{As, CHECKSUM_SHOWN, Patience, StopsOnSignals, resolve_as, runner, say};
use super::outage::{self, BACK, say_away};
use super::place::Place;
use super::terminal::{Terminal, table};
use super::{Exit, Failure, Global, file, look, steer};
use crate::api::held::MigrationView;
use crate::config::Config;
use crate::execute::Stop;
use crate::job::Guarantee;
use crate::ledger::{Once, OnceKey, OnceState, Recorded};
use crate::once::{How, Notice, Reporter, Settled, Step, has_order, standings};
use crate::store::Revision;
use crate::time::written;

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct MigrateArgs {
    #[command(subcommand)]
    what: Option<What>,
    /// The jobs files with the migrations, or directories of them: together one configuration
    #[arg(value_name = "FILE", env = "FENCRON_FILE", default_value = file::DEFAULT)]
    file: Vec<PathBuf>,
    /// Make failed migrations again, although they may have done a part of their work
    #[arg(long)]
    retry_failed: bool,
    #[command(flatten)]
    patience: Patience,
}

#[derive(Subcommand)]
enum What {
    /// Show the migrations with their state, node, start and duration
    #[command(after_help = "Example: fencron migrate status jobs.yaml -o json")]
    Status {
        /// The jobs files with the migrations, or directories of them: together one configuration
        #[arg(value_name = "FILE", env = "FENCRON_FILE", default_value = file::DEFAULT)]
        file: Vec<PathBuf>,
    },
    /// Settle a migration that is unknown or has failed, or record that a new one was made already
    #[command(after_help = "Example: fencron migrate resolve 2026-11-add-orders-index --as done")]
    Resolve {
        /// The migration
        id: String,
        /// Record that it was made, or have it made (again)
        #[arg(long = "as", value_name = "HOW")]
        how: As,
        /// The jobs file with the migration [default: jobs.yaml, where there is one]
        #[arg(long, value_name = "FILE", env = "FENCRON_FILE")]
        file: Vec<PathBuf>,
    },
}

pub(super) async fn run(args: MigrateArgs, global: &Global, terminal: &mut Terminal) -> anyhow::Result<Exit> {
    match &args.what {
        None => migrate(&args, global, terminal).await,
        Some(What::Status { file }) => {
            let config = file::read(file)?;
            let place = global.open(Some(&config.namespace)).await?;
            show(&place, &config, terminal).await?;
            Ok(Exit::Done)
        }
        Some(What::Resolve { id, how, file }) => {
            let config = look::config_beside(file, terminal)?;
            let place = global.open(config.as_ref().map(|config| config.namespace.as_str())).await?;
            resolve(&place, config.as_ref(), (id, *how), global).await?;
            let what =
                if *how == As::Done { "recorded as done" } else { "the next `fencron migrate` or node makes it" };
            terminal.say(format_args!("fencron: migration {id}: {what}"));
            Ok(Exit::Done)
        }
    }
}

async fn migrate(args: &MigrateArgs, global: &Global, terminal: &mut Terminal) -> anyhow::Result<Exit> {
    let config = file::read(&args.file)?;
    if config.migrations.is_empty() {
        terminal.say(format_args!("fencron: {} has no migrations: nothing to do", file::shown(&args.file)));
        return Ok(Exit::Done);
    }
    let namespace = Some(config.namespace.as_str());
    let patience = (args.patience.wait, false);
    let place = outage::opened(global, patience, async || global.open_or_make(namespace).await).await?;
    let steps: Vec<Step> = config.migrations.iter().map(Step::from).collect();
    let runner = runner(&place, &args.patience, global)?;
    let (stopper, stop) = Stop::channel();
    let signals = StopsOnSignals::listen(stopper)?;
    let how = How { retry_failed: args.retry_failed, wait: args.patience.wait, stop };
    let settled = runner.run(&steps, how, &reporter()).await;
    let settled = settled.map_err(|error| signals.failure(error))?;
    drop(signals);
    show(&place, &config, terminal).await?;
    match settled {
        Settled::Done => Ok(Exit::Done),
        Settled::Failed(once) => {
            let made = config.migrations.iter().find(|migration| migration.id == once.name);
            let advice = match made.map(|migration| migration.job.guarantee) {
                Some(Guarantee::ExactlyOnce) => "It left nothing behind. Put it right, and run this again",
                Some(Guarantee::AtLeastOnce) => "Put it right, and run this again: it is made again as a whole",
                Some(Guarantee::AtMostOnce) | None => {
                    "Put it right and run this again: with --retry-failed where it is unchanged, for it may have done a \
                     part"
                }
            };
            let why = format!("migration {} failed: {}. {advice}", once.name, once.reason);
            Err(Failure::new(Exit::Failed, why).into())
        }
        Settled::Unknown(once) => {
            let repeatable = steps.iter().any(|step| step.key.name() == once.name && step.is_repeatable());
            let again = if repeatable { "; or, where only an outage was in the way, run this again" } else { "" };
            let why = format!(
                "it is unknown whether migration {} was made: {}. Find out, and record it: `fencron migrate resolve {} \
                 --as done` or `--as retry`{again}",
                once.name, once.reason, once.name
            );
            Err(Failure::new(Exit::OutcomeUnknown, why).into())
        }
    }
}

/// All notices while it goes on go to stderr.
fn reporter() -> Reporter {
    Arc::new(|notice| match notice {
        Notice::Waits { holder } => say(&format!("fencron: {holder} makes the migrations: waiting for it")),
        Notice::Away { why } => say_away(&why),
        Notice::Back => say(BACK),
        Notice::Starts { name, attempt, fence } => {
            say(&format!("fencron: migration {name} begins (attempt {attempt}, fence {fence})"));
        }
        Notice::Output { text, .. } => {
            use std::io::Write as _;
            // A closed stderr has no reader.
            std::io::stderr().write_all(text.as_bytes()).ok();
        }
        Notice::Missed { name, bytes } => say(&format!("fencron: {bytes} bytes of what {name} wrote are not shown")),
        Notice::Ended { once, here } => {
            let by =
                once.claimed_by.as_ref().filter(|_| !here).map_or(String::new(), |by| format!(", made by {}", by.node));
            let why = if once.reason.is_empty() { String::new() } else { format!(" ({})", once.reason) };
            say(&format!("fencron: migration {}: {}{why}{by}", once.name, once.state.as_str()));
        }
    })
}

async fn resolve(place: &Place, config: Option<&Config>, (id, how): (&str, As), global: &Global) -> anyhow::Result<()> {
    let key = OnceKey::migration(id);
    let ledger = place.ledger();
    let (records, _) = ledger.once(&key).await?;
    let migration = config.and_then(|config| config.migrations.iter().find(|migration| migration.id == id));
    let as_done = migration.filter(|_| how == As::Done);
    if let Some(config) = config.filter(|_| as_done.is_some()) {
        refuse_out_of_order(config, &records, id)?;
    }
    if let Some(recorded) = records.iter().find(|recorded| recorded.once.name == id) {
        let mut resolved = recorded.clone();
        // A failed migration may have been changed since, and a person has made the present one by hand.
        let may_differ = matches!(recorded.once.state, OnceState::Failed | OnceState::Pending);
        if let Some(migration) = as_done.filter(|_| may_differ) {
            resolved.once.checksum.clone_from(&migration.checksum);
        }
        return resolve_as(place, &key, &resolved, how).await;
    }
    let Some(migration) = migration else {
        let names = records.iter().map(|recorded| recorded.once.name.as_str());
        let names = names.chain(config.iter().flat_map(|config| config.migrations.iter().map(|one| one.id.as_str())));
        let why = format!("no migration `{id}` is known{}", super::nearest(id, names));
        return Err(Failure::wrong(why).into());
    };
    if how == As::Retry {
        return Err(Failure::new(Exit::Failed, format!("{id} was never begun: there is nothing to retry")).into());
    }
    // Made before fencron was there, or by hand.
    place.recalling(global).found().await?;
    let acting = steer::acting(place, &steer::Why::default());
    let asked = &acting.asked;
    let once = Once {
        name: id.to_owned(),
        state: OnceState::Done,
        checksum: migration.checksum.clone(),
        claimed_by: None,
        attempts: 0,
        started_at: asked.at,
        finished_at: Some(asked.at),
        reason: format!("recorded as done by {} on {}", asked.by, asked.at),
        exit_code: None,
        output: String::new(),
        output_bytes: 0,
    };
    ledger.record_once(&acting, &key, Revision(0), &once).await?;
    Ok(())
}

/// What is done is done for ever, and in this order: one that would be out of it could never be put right again.
fn refuse_out_of_order(config: &Config, records: &[Recorded], id: &str) -> anyhow::Result<()> {
    let place = |name: &str| config.migrations.iter().position(|migration| migration.id == name);
    let is_done = |name: &str| {
        records.iter().any(|recorded| recorded.once.name == name && recorded.once.state == OnceState::Done)
    };
    let Some(own) = place(id).filter(|_| !is_done(id)) else { return Ok(()) };
    if let Some(before) =
        config.migrations[..own].iter().find(|before| has_order(&before.id, id) && !is_done(&before.id))
    {
        let why = format!("`{}` stands before `{id}` and is not done: make it, or settle it, first", before.id);
        return Err(Failure::new(Exit::Failed, why).into());
    }
    if let Some(after) =
        config.migrations[own + 1..].iter().find(|after| has_order(id, &after.id) && is_done(&after.id))
    {
        let why = format!("`{id}` stands before `{}`, which is done already: put it behind that first", after.id);
        return Err(Failure::new(Exit::Failed, why).into());
    }
    Ok(())
}

async fn show(place: &Place, config: &Config, terminal: &mut Terminal) -> anyhow::Result<()> {
    let steps: Vec<Step> = config.migrations.iter().map(Step::from).collect();
    let (mut standings, _) = standings(&place.ledger(), Some(&steps), usize::MAX).await?;
    // As the file has them, and those that it does not have behind them.
    let place = |id: &str| steps.iter().position(|step| step.key.name() == id).unwrap_or(usize::MAX);
    standings.sort_by_cached_key(|standing| place(&standing.id));
    let views: Vec<MigrationView> = standings.into_iter().map(MigrationView::from).collect();
    terminal.show(&views, |views| views_text(views))
}

fn views_text(views: &[MigrationView]) -> String {
    let shown = |text: Option<String>| text.unwrap_or_default();
    let rows = views.iter().map(|view| {
        let took = view.duration_ms.map(|ms| written(std::time::Duration::from_millis(ms)));
        vec![
            view.id.clone(),
            view.state.to_owned(),
            shown(view.started_at.map(|at| at.to_string())),
            shown(took),
            shown(view.node.clone()),
            shown(view.fence.map(|fence| fence.to_string())),
            view.checksum.chars().take(CHECKSUM_SHOWN).collect(),
            view.difference.clone().unwrap_or_else(|| view.reason.clone()),
        ]
    });
    if views.is_empty() {
        return "no migrations\n".to_owned();
    }
    table(&["MIGRATION", "STATE", "STARTED", "TOOK", "NODE", "FENCE", "CHECKSUM", "REASON"], rows)
}
