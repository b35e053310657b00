//! `fencron guard show` and `guard reset`: what guards have seen, and how it is lowered.

use clap::Args;
use serde::Serialize;

use super::cannot_use;
use crate::cli::fence::a_fence;
use crate::cli::terminal::{Terminal, table};
use crate::cli::{Exit, Failure};
use crate::fence::Fence;
use crate::guard::FENCE_MOST;
use crate::guard::care::{Kept, SeenScope};

#[derive(Args)]
pub(super) struct KeptArgs {
    /// Where guards keep what they have seen: sqlite:PATH, postgres://…, or mysql://… (of `guard sql` and `sql:` jobs)
    #[arg(long, value_name = "URL", env = "FENCRON_GUARD_STATE", hide_env_values = true)]
    state: String,
}

#[derive(Args)]
pub(super) struct ShowArgs {
    #[command(flatten)]
    kept: KeptArgs,
}

#[derive(Args)]
pub(super) struct ResetArgs {
    /// The scope, like shop/leader
    scope: String,
    #[command(flatten)]
    kept: KeptArgs,
    /// The fence to lower the scope to [default: none, so that the next fence is let in, whichever it is]
    #[arg(long, value_name = "FENCE", value_parser = a_fence)]
    to: Option<Fence>,
    /// The resource, if guards of several know the scope
    #[arg(long, value_name = "NAME", conflicts_with = "sql")]
    resource: Option<String>,
    /// In the tables that transactions ask, if guards know the scope as well
    #[arg(long)]
    sql: bool,
    /// Do not ask for confirmation
    #[arg(short, long)]
    yes: bool,
}

impl KeptArgs {
    async fn scopes(&self) -> anyhow::Result<(Kept, Vec<SeenScope>)> {
        let kept: Kept = self.state.parse().map_err(|error| Failure::wrong(format!("--state: {error}")))?;
        let scopes = kept.scopes().await.map_err(|error| cannot_use(&error))?;
        Ok((kept, scopes))
    }
}

/// A row of `guard show`.
#[derive(Serialize)]
struct ScopeView<'a> {
    scope: &'a str,
    fence: u64,
    /// `guard`: a proxy, a layer or `guard exec`. `sql`: transactions.
    asked_by: &'static str,
    resource: Option<&'a str>,
}

impl ScopeView<'_> {
    fn of(seen: &SeenScope) -> ScopeView<'_> {
        let asked_by = if seen.resource.is_some() { "guard" } else { "sql" };
        ScopeView { scope: &seen.scope, fence: seen.fence, asked_by, resource: seen.resource.as_deref() }
    }
}

pub(super) async fn show(args: &ShowArgs, terminal: &mut Terminal) -> anyhow::Result<Exit> {
    let (_, scopes) = args.kept.scopes().await?;
    let views: Vec<_> = scopes.iter().map(ScopeView::of).collect();
    terminal.show(&views, |views| {
        let row = |view: &ScopeView| {
            let resource = view.resource.unwrap_or_default().to_owned();
            vec![view.scope.to_owned(), view.fence.to_string(), view.asked_by.to_owned(), resource]
        };
        table(&["SCOPE", "FENCE", "ASKED BY", "RESOURCE"], views.iter().map(row))
    })?;
    Ok(Exit::Done)
}

pub(super) async fn reset(args: &ResetArgs, terminal: &mut Terminal) -> anyhow::Result<Exit> {
    if args.to.is_some_and(|to| to.get() > FENCE_MOST) {
        return Err(Failure::wrong(format!("--to: no fence is greater than {FENCE_MOST}")).into());
    }
    let (kept, scopes) = args.kept.scopes().await?;
    let seen = chosen(args, &kept, &scopes)?;
    let (scope, before) = (&seen.scope, seen.fence);
    let becomes = match args.to {
        Some(to) if to.get() > before => format!("it will have seen {to}: every fence below that is turned away"),
        Some(to) => format!("it will have seen {to}: a leader that was replaced since then is let in again"),
        None => "it forgets that: whichever fence comes next is let in, a replaced leader's as well".to_owned(),
    };
    terminal.say(format_args!(
        "fencron: {scope} has seen {before} in {kept}; {becomes}. What was done stays done, and is not done again"
    ));
    if !args.yes && !terminal.confirm("Reset it?")? {
        return Err(Failure::wrong("nothing was changed: confirm, or add --yes").into());
    }
    if !kept.reset(seen, args.to).await.map_err(|error| cannot_use(&error))? {
        let why = format!("nothing was changed: {scope} has seen another fence meanwhile. Look at it, and try again");
        return Err(Failure::new(Exit::Failed, why).into());
    }
    let fence = args.to.map_or(0, Fence::get);
    let view = SeenScope { fence, ..seen.clone() };
    terminal.show(&ScopeView::of(&view), |view| match args.to {
        Some(to) => format!("{} has seen {to}\n", view.scope),
        None => format!("{} has seen no fence\n", view.scope),
    })?;
    Ok(Exit::Done)
}

/// The one that is meant.
fn chosen<'a>(args: &ResetArgs, kept: &Kept, scopes: &'a [SeenScope]) -> Result<&'a SeenScope, Failure> {
    let mut found: Vec<_> = scopes.iter().filter(|seen| seen.scope == args.scope).collect();
    if found.is_empty() {
        let why = format!("{kept} knows no scope {}: `fencron guard show` lists those that it knows", args.scope);
        return Err(Failure::wrong(why));
    }
    found.retain(|seen| match &args.resource {
        Some(resource) => seen.resource.as_ref() == Some(resource),
        None => !args.sql || seen.resource.is_none(),
    });
    match found.as_slice() {
        [one] => Ok(one),
        [] => Err(Failure::wrong(format!("{} is not known there: see `fencron guard show`", args.scope))),
        _ => Err(Failure::wrong(format!(
            "{} is known of several: say which with --resource NAME or --sql, see `fencron guard show`",
            args.scope
        ))),
    }
}
