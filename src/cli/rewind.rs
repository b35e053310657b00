//! `fencron rewind`: brings the schedules back after a clock that was ahead.

use clap::Args;
use serde::Serialize;

use super::place::Place;
use super::steer::{Why, acting};
use super::terminal::Terminal;
use super::{Exit, Failure, Global};
use crate::ledger::{AHEAD_MOST, RewindError, Rewinding, Rewound};
use crate::time::{Wall, written};

/// How many names are listed.
const NAMES_LISTED: usize = 5;

#[derive(Args)]
pub(super) struct RewindArgs {
    /// The instant (RFC 3339) after which the schedules are decided again [default: now]
    #[arg(long, value_name = "T")]
    to: Option<Wall>,
    /// Do not ask for confirmation
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    why: Why,
}

/// What `rewind` prints.
#[derive(Serialize)]
struct RewindView<'a> {
    namespace: &'a str,
    /// Up to where the schedules had been decided; `null`: that could not be read.
    from: Option<Wall>,
    to: Wall,
    jobs: u64,
    taken_back: u64,
}

pub(super) async fn rewind(args: &RewindArgs, global: &Global, terminal: &mut Terminal) -> anyhow::Result<Exit> {
    let place = global.open(None).await?;
    let (ledger, now) = (place.ledger(), place.clock.wall());
    if let Some(to) = args.to.filter(|to| *to > now) {
        let why = format!("--to {to} lies in the future: what was decided ahead of the time is what is brought back");
        return Err(Failure::wrong(why).into());
    }
    for done in ledger.rewinds().await? {
        let from = done.from.map_or("an unreadable watermark".to_owned(), |from| from.to_string());
        let Rewound { asked, to, .. } = &done;
        terminal.say(format_args!("fencron: rewound before, from {from} to {to}, by {} on {}", asked.by, asked.at));
    }
    clocks_agree(&place, now).await?;
    let plan = ledger.look_at_rewind(args.to, now).await.map_err(refused)?;
    terminal.say(what_it_does(&place, &plan));
    if !args.yes && !terminal.confirm("Bring them back?")? {
        return Err(Failure::wrong("nothing was changed: confirm, or add --yes").into());
    }
    let now = place.clock.wall();
    let done = ledger.rewind(&acting(&place, &args.why), args.to, now).await.map_err(refused)?;
    let Rewound { from, to, jobs, taken_back, .. } = done;
    let view = RewindView { namespace: place.namespace.as_str(), from, to, jobs, taken_back };
    terminal.show(&view, |view| format!("rewound: the schedules are decided from {} on\n", view.to))?;
    Ok(Exit::Done)
}

/// A clock that is ahead would decide again what is brought back, at once.
async fn clocks_agree(place: &Place, now: Wall) -> anyhow::Result<()> {
    let nodes = place.ledger().nodes().await?;
    let Some((_, node)) = nodes.iter().find(|(_, node)| node.clock.since(now) > AHEAD_MOST) else { return Ok(()) };
    let why = format!(
        "the clock of node {} is {} ahead of the one here: set right whichever is wrong, then bring the schedules back",
        node.node,
        written(std::time::Duration::from_secs(node.clock.since(now).as_secs()))
    );
    Err(Failure::new(Exit::Failed, why).into())
}

fn refused(error: RewindError) -> anyhow::Error {
    match error {
        RewindError::Store(error) => error.into(),
        RewindError::ToIsMissing => Failure::wrong(error.to_string()).into(),
        error => Failure::new(Exit::Failed, error.to_string()).into(),
    }
}

fn what_it_does(place: &Place, plan: &Rewinding) -> String {
    let from = plan.from.map_or("a watermark that cannot be read".to_owned(), |from| from.to_string());
    let mut text = format!(
        "fencron: a rewind of {} in {}\n\
         - brings the schedules back from {from} to {to}: what is due after that is decided when its time comes, and what \
         is due already as `missed` says;\n\
         - fires nothing again that was claimed or has a verdict;",
        place.namespace,
        place.url,
        to = plan.to
    );
    if plan.taken_back > 0 {
        text += &format!("\n- takes back {} verdicts `skipped` of instants that have not come;", plan.taken_back);
    }
    let some = |names: &[crate::job::JobName]| {
        let listed: Vec<&str> = names.iter().take(NAMES_LISTED).map(|name| name.as_str()).collect();
        let more = names.len().saturating_sub(NAMES_LISTED);
        if more > 0 { format!("{} and {more} more", listed.join(", ")) } else { listed.join(", ") }
    };
    if !plan.jobs.is_empty() {
        text += &format!(
            "\n- has these be due from there on, which a clock that was ahead saw first: {};",
            some(&plan.jobs)
        );
    }
    if !plan.pruned.is_empty() {
        let pruned = some(&plan.pruned);
        text += &format!("\n- skips what may have run and of which no verdict is kept any more, of: {pruned};");
    }
    text + "\n- is remembered, with your name"
}
