//! `drain` and `undrain`: whether a node leads.

use std::time::Duration;

use clap::Args;

use super::steer::{Why, acting};
use super::terminal::Terminal;
use super::{Exit, Failure, Global};
use crate::ledger::AskError;
use crate::time::Wall;

#[derive(Args)]
pub(super) struct DrainArgs {
    /// The node, as `fencron status` shows it
    node: String,
    #[command(flatten)]
    why: Why,
    /// End it by itself at this instant (RFC 3339)
    #[arg(long, value_name = "T", conflicts_with = "for_")]
    until: Option<Wall>,
    /// End it by itself after this time
    #[arg(long = "for", value_name = "D", value_parser = super::duration)]
    for_: Option<Duration>,
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
    let until = args.until.or(args.for_.map(|last| now.plus(last)));
    if let Some(until) = until.filter(|until| *until <= now) {
        return Err(Failure::wrong(format!("--until {until} is over already: the node would not be drained")).into());
    }
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
    Ok(Exit::Done)
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
