//! `fencron audit`: what people did.

use clap::Args;

use super::terminal::{Terminal, table};
use super::{Exit, Failure, Global};
use crate::api::acts::AuditView;
use crate::job::{JobName, Word, words};
use crate::ledger::{Act, AuditRow, FindAudit};
use crate::time::Wall;

#[derive(Args)]
pub(super) struct AuditArgs {
    /// Only what was done to this job, or to one of its runs
    #[arg(long, env = "FENCRON_AUDIT_JOB")]
    job: Option<String>,
    /// Only what was done by persons whose names have this text in them
    #[arg(long, value_name = "TEXT", env = "FENCRON_AUDIT_BY")]
    by: Option<String>,
    /// Only acts of this kind, such as `pause`
    #[arg(long, value_name = "ACT", env = "FENCRON_AUDIT_ACT", value_parser = act)]
    act: Option<Act>,
    /// Only from this instant (RFC 3339) on
    #[arg(long, value_name = "T", env = "FENCRON_AUDIT_SINCE")]
    since: Option<Wall>,
    /// At most so many, the newest
    #[arg(long, value_name = "N", env = "FENCRON_AUDIT_LIMIT", default_value_t = 50)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
}

fn act(text: &str) -> Result<Act, String> {
    Act::named(text).ok_or_else(|| format!("there are {}", words::<Act>().join(", ")))
}

/// Lists what people did, the last first.
pub(super) async fn audit(args: &AuditArgs, global: &Global, terminal: &mut Terminal) -> anyhow::Result<Exit> {
    let job = args.job.as_deref().map(JobName::new).transpose();
    let job = job.map_err(|error| Failure::wrong(format!("--job: {error}")))?;
    let place = global.open(None).await?;
    let wanted = |row: &AuditRow| {
        job.as_ref().is_none_or(|job| row.deed.job.as_ref() == Some(job))
            && args.by.as_ref().is_none_or(|by| row.asked.by.contains(by))
            && args.since.is_none_or(|since| row.asked.at >= since)
    };
    let find = FindAudit { act: args.act, before: None, limit: args.limit as usize };
    let rows = place.ledger().audit(&find, wanted).await?.rows;
    let views: Vec<AuditView> = rows.into_iter().map(AuditView::from).collect();
    terminal.show(&views, |views| audit_table(views))?;
    Ok(Exit::Done)
}

fn audit_table(views: &[AuditView]) -> String {
    if views.is_empty() {
        return "no acts are recorded\n".to_owned();
    }
    let rows = views.iter().map(|view| {
        let what = if view.detail.is_empty() { view.on.clone() } else { format!("{}, {}", view.on, view.detail) };
        let who = view.role.as_ref().map_or(view.by.clone(), |role| format!("{} ({role})", view.by));
        vec![
            view.at.to_string(),
            view.act.word().to_owned(),
            what,
            who,
            view.via.word().to_owned(),
            view.address.clone().unwrap_or_default(),
            view.reason.clone(),
        ]
    });
    table(&["AT", "ACT", "ON", "BY", "VIA", "FROM", "REASON"], rows)
}
