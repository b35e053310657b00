//! `drain` and `undrain`: whether a node leads.

use clap::Args;

use super::steer::{Until, Why, acting};
use super::terminal::Terminal;
use super::{Exit, Global};
use crate::ledger::AskError;

#[derive(Args)]
pub(super) struct DrainArgs {
    /// The node, as `fencron status` shows it
    node: String,
    #[command(flatten)]
    why: Why,
    #[command(flatten)]
    until: Until,
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
