//! `drain` and `undrain`: whether a node leads.

use std::time::Duration;

use clap::Args;

use super::place::Place;
use super::steer::{Until, Why, acting};
use super::terminal::Terminal;
use super::{Exit, Global};
use crate::ledger::{AskError, Find, RunRow};
use crate::lock::{LockName, Seen};
use crate::scheduler::run::OpenState;
use crate::time::written;

/// How often it is looked whether anything runs on a node.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How many of the runs of a node are named that is waited for.
const RUNS_NAMED: usize = 5;

#[derive(Args)]
pub(super) struct DrainArgs {
    /// The node, as `fencron status` shows it
    node: String,
    #[command(flatten)]
    why: Why,
    #[command(flatten)]
    until: Until,
    /// Wait until the node leads no more and nothing that it has begun runs: exit 0; 6 where that takes longer
    #[arg(long)]
    wait: bool,
    /// How long to wait [default: without limit]
    #[arg(long, requires = "wait", value_parser = super::duration)]
    timeout: Option<Duration>,
}

#[derive(Args)]
pub(super) struct UndrainArgs {
    /// The node, as `fencron status` shows it
    node: String,
    #[command(flatten)]
    why: Why,
}

/// Drains a node.
pub(super) async fn drain(args: &DrainArgs, global: &Global, terminal: &mut Terminal) -> anyhow::Result<Exit> {
    let (place, node) = (global.open(None).await?, &args.node);
    let now = place.clock.wall();
    let until = args.until.end(now, "the node would not be drained")?;
    let ledger = place.ledger();
    match ledger.drain(&acting(&place, &args.why), node, until).await {
        Ok(_) => {
            let until = until.map_or(format!("`fencron undrain {node}`"), |until| until.to_string());
            terminal.say(format_args!(
                "fencron: {node} is drained until {until}: it lets its runs end, hands over, and does not campaign"
            ));
        }
        Err(AskError::AlreadySo { .. }) => terminal.say(format_args!("fencron: {node} is drained already")),
        Err(error) => return Err(error.into()),
    }
    let (nodes, drains) = (ledger.nodes().await?, ledger.drains().await?);
    let may_lead = |node: &str| !drains.iter().any(|(drained, drain)| drained == node && !drain.is_over(now));
    if !nodes.iter().any(|(_, record)| may_lead(&record.node)) {
        terminal.say("fencron: no other node may lead: no job fires until one is started, or undrained");
    }
    if !args.wait {
        return Ok(Exit::Done);
    }
    let idle = wait_until_idle(&place, node);
    match args.timeout {
        None => idle.await?,
        Some(most) => tokio::time::timeout(most, idle).await.unwrap_or(Ok(()))?,
    }
    let (leads, runs) = (leads(&place, node).await?, running_on(&place, node).await?);
    let what = match (leads, runs.is_empty()) {
        (false, true) => {
            terminal.say(format_args!("fencron: nothing runs on {node}, and it does not lead"));
            return Ok(Exit::Done);
        }
        (true, true) => format!("{node} leads still"),
        (_, false) => format!("on {node} there runs still {}", runs.join(", ")),
    };
    let most = args.timeout.map_or(String::new(), written);
    terminal.say(format_args!("fencron: after {most}, {what}; the drain stays, and it goes on"));
    Ok(Exit::OutcomeUnknown)
}

/// Waits until a node does not lead, and nothing that it has begun runs. Without a limit: the runs of a node that is gone
/// are ended by the next leader.
async fn wait_until_idle(place: &Place, node: &str) -> anyhow::Result<()> {
    while leads(place, node).await? || !running_on(place, node).await?.is_empty() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

async fn leads(place: &Place, node: &str) -> anyhow::Result<bool> {
    let standing = place.locks(Seen::default()).election(LockName::leader()).observe().await?;
    Ok(standing.leader.is_some_and(|leader| leader.node == node))
}

/// The first of the runs that a node has begun and not ended.
async fn running_on(place: &Place, node: &str) -> anyhow::Result<Vec<String>> {
    let is_there = |row: &RunRow| match row {
        RunRow::Open(open) => {
            open.state == OpenState::Claimed && open.claimant.as_ref().is_some_and(|claimant| claimant.node == node)
        }
        RunRow::Done(_) => false,
    };
    let find = Find { open: true, limit: RUNS_NAMED, ..Find::default() };
    let runs = place.ledger().runs(&find, is_there).await?;
    Ok(runs.iter().map(|row| row.id().to_string()).collect())
}

/// Lets a node lead again.
pub(super) async fn undrain(args: &UndrainArgs, global: &Global, terminal: &mut Terminal) -> anyhow::Result<Exit> {
    let (place, node) = (global.open(None).await?, &args.node);
    match place.ledger().undrain(&acting(&place, &args.why), node).await {
        Ok(_) => terminal.say(format_args!("fencron: {node} may lead again")),
        Err(AskError::NotSo { .. }) => terminal.say(format_args!("fencron: {node} is not drained")),
        Err(error) => return Err(error.into()),
    }
    Ok(Exit::Done)
}
