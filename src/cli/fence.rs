//! `fencron fence`: the base that fences are counted from, and its repair.

use clap::{Args, Subcommand};
use serde::Serialize;

use super::place::Place;
use super::steer::{Why, acting};
use super::terminal::Terminal;
use super::{Exit, Failure, Global};
use crate::fence::{Fence, Scope};
use crate::ledger::{Act, Deed, Find};
use crate::lock::{ElectionState, LockName, Locks, Seen};
use crate::store::AnyStore;
use crate::time::Wall;

#[derive(Args)]
pub(super) struct FenceArgs {
    #[command(subcommand)]
    command: FenceCommand,
}

#[derive(Subcommand)]
enum FenceCommand {
    /// Show the fence of the leader, and whether the store can go on counting
    #[command(after_help = "Example: fencron fence show -o json")]
    Show,
    /// Make every later fence greater than all earlier ones, after the store was restored or damaged
    #[command(after_help = "Example: fencron fence repair --above 4711 --yes")]
    Repair(RepairArgs),
}

#[derive(Args)]
struct RepairArgs {
    /// Also go above this fence: one that a guard has seen, when the store that granted it is lost
    #[arg(long, value_name = "FENCE", value_parser = a_fence)]
    above: Option<Fence>,
    /// Do not ask for confirmation
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    why: Why,
}

pub(super) async fn run(args: &FenceArgs, global: &Global, terminal: &mut Terminal) -> anyhow::Result<Exit> {
    match &args.command {
        FenceCommand::Show => show(global, terminal).await,
        FenceCommand::Repair(args) => repair(args, global, terminal).await,
    }
}

/// What `fence show` prints.
#[derive(Serialize)]
struct FenceView {
    scope: Scope,
    /// The fence of the hold that stands.
    fence: Option<Fence>,
    node: Option<String>,
    since: Option<Wall>,
    /// The store's revision now.
    revision: u64,
    /// The highest fence and revision that this machine has seen.
    seen: Seen,
    /// Why no fence is granted, if none is.
    problem: Option<String>,
}

async fn observe(global: &Global) -> anyhow::Result<(Place, Locks<AnyStore>, ElectionState)> {
    let place = global.open(None).await?;
    let locks = place.remembering(global)?;
    let state = locks.election(LockName::leader()).observe().await?;
    Ok((place, locks, state))
}

async fn show(global: &Global, terminal: &mut Terminal) -> anyhow::Result<Exit> {
    let (place, locks, state) = observe(global).await?;
    let problem = state.age.err().map(|error| error.to_string());
    let problem = problem.or(state.base.err().map(|error| error.to_string()));
    let leader = state.leader;
    let view = FenceView {
        scope: Scope::leader(place.namespace.as_str()),
        fence: leader.as_ref().map(|leader| leader.fence),
        node: leader.as_ref().map(|leader| leader.node.clone()),
        since: leader.as_ref().map(|leader| leader.since),
        revision: state.revision.0,
        seen: *locks.seen().borrow(),
        problem,
    };
    terminal.show(&view, fence_text)?;
    Ok(if view.problem.is_some() { Exit::Failed } else { Exit::Done })
}

fn fence_text(view: &FenceView) -> String {
    let mut text = format!("scope     {}\n", view.scope);
    text += &match (view.fence, &view.node) {
        (Some(fence), Some(node)) => format!("fence     {fence}, held by {node}\n"),
        _ => "fence     no holder\n".to_owned(),
    };
    text += &format!("revision  {}\n", view.revision);
    text += &format!("seen      fence {} at most, revision {}\n", view.seen.fence, view.seen.revision);
    if let Some(problem) = &view.problem {
        text += &format!("!         {problem}\n");
    }
    text
}

pub(super) fn a_fence(text: &str) -> Result<Fence, String> {
    text.parse().ok().and_then(Fence::new).ok_or_else(|| "a fence is a whole number from 1".to_owned())
}

/// What `fence repair` prints.
#[derive(Serialize)]
struct RepairView {
    /// Every later fence is greater.
    base: u64,
    base_before: Option<u64>,
    /// What was due before this instant is not claimed any more.
    watermark: Wall,
    /// The holds, places in queues and sessions that were ended.
    removed: Vec<String>,
    /// How many open runs were ended as `unknown`.
    doubted: usize,
}

async fn repair(args: &RepairArgs, global: &Global, terminal: &mut Terminal) -> anyhow::Result<Exit> {
    let (place, locks, state) = observe(global).await?;
    let ledger = place.ledger();
    let open = Find { open: true, limit: usize::MAX, ..Find::default() };
    let (open, nodes) = (ledger.runs(&open, |_| true).await?.len(), ledger.nodes().await?.len());
    let namespace = &place.namespace;
    if state.age.is_ok() && state.base.is_ok() {
        terminal.say(format_args!("fencron: as far as can be seen from here, {namespace} needs no repair"));
    }
    terminal.say(format_args!(
        "fencron: a repair of {namespace} in {}\n\
         - makes every later fence greater than all that were seen here;\n\
         - ends every hold and session: {nodes} are there; nodes that run open new ones, and one of them is elected;\n\
         - skips what was due until now and not decided, so that no job is fired twice for it; it is not in the history;\n\
         - does not know what was made once after the backup: migrations and keys of `once` are made again unless you \
         record them first (`fencron migrate resolve ID --as done`, `fencron once KEY --resolve done`); SQL in a \
         transaction is found done in its database;\n\
         - ends {open} open runs as `unknown`, since it is unknown how they went on after the backup was taken:\n\
           look at them with `fencron runs --state unknown`, and settle each with `fencron resolve`",
        place.url
    ));
    if !args.yes && !terminal.confirm("Repair it?")? {
        return Err(Failure::wrong("nothing was changed: confirm, or add --yes").into());
    }
    // The watermark first: moving it turns away the claims of a leader that works right now.
    let watermark = ledger.skip_to(place.clock.wall()).await?.instant;
    let above = args.above.map_or(String::new(), |above| format!("above {above}"));
    let deed = Deed::new(Act::RepairFences, namespace.as_str()).with(above);
    let recording = ledger.recording(&acting(&place, &args.why), &deed);
    let repaired = locks.repair_with(args.above, &[recording]).await?;
    let reason = "the store was restored from a backup: what became of it since is not known";
    let doubted = ledger.doubt_open_runs(reason, place.clock.wall()).await?;
    locks.save_seen().await;
    let view = RepairView {
        base: repaired.base,
        base_before: repaired.base_before,
        watermark,
        removed: repaired.removed,
        doubted,
    };
    terminal.show(&view, |view| {
        format!("repaired: fences go on above {}, schedules from {}\n", view.base, view.watermark)
    })?;
    Ok(Exit::Done)
}
