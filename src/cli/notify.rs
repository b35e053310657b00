//! `fencron notify`: trying channels, and what waits in them.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::terminal::{Terminal, table};
use super::{Exit, Failure, Global, file, nearest};
use crate::client::default_node;
use crate::job::{AlertKind, JobName, RunId, Verdict, Whose, Word as _};
use crate::ledger::{ALERTS_LISTED, Waiting};
use crate::notify::{About, Sender, names};
use crate::scheduler::alert::Alert;
use crate::scheduler::outbox::{Content, Message};
use crate::time::{Clock, Wall};

#[derive(Args)]
pub(super) struct NotifyArgs {
    #[command(subcommand)]
    command: NotifyCommand,
}

#[derive(Subcommand)]
enum NotifyCommand {
    /// Send an alert of a job that does not exist, and print what the receiver answers
    #[command(after_help = "Example: fencron notify test ops --file jobs.yaml")]
    Test(TestArgs),
    /// List the alerts that wait to be sent
    #[command(after_help = "Example: fencron notify list -o json")]
    List,
}

#[derive(Args)]
struct TestArgs {
    /// The channel, as the jobs file names it
    #[arg(value_name = "CHANNEL")]
    channel: String,
    /// The jobs file, or a directory of them; may be given more than once
    #[arg(long, value_name = "FILE", env = "FENCRON_FILE", default_value = file::DEFAULT)]
    file: Vec<PathBuf>,
}

pub(super) async fn run(args: &NotifyArgs, global: &Global, terminal: &mut Terminal) -> anyhow::Result<Exit> {
    match &args.command {
        NotifyCommand::Test(args) => test(args, terminal).await,
        NotifyCommand::List => list(global, terminal).await,
    }
}

/// Sends a message that is known as a trial by its job.
async fn test(args: &TestArgs, terminal: &mut Terminal) -> anyhow::Result<Exit> {
    let config = file::read(&args.file)?;
    let channels = &config.notices.channels;
    let Some(channel) = channels.get(&args.channel) else {
        let known = if channels.is_empty() { "it has none".to_owned() } else { format!("it has {}", names(channels)) };
        let meant = nearest(&args.channel, channels.keys().map(String::as_str));
        let why = format!("{} has no channel `{}`{meant} ({known})", file::shown(&args.file), args.channel);
        return Err(Failure::wrong(why).into());
    };
    let now = Clock::system().wall();
    let namespace = config.namespace.clone();
    let about = About { namespace, node: default_node(), fence: None, now, output: String::new() };
    match Sender::new()?.send(channel, &trial(now)?, &about).await {
        Ok(said) => {
            terminal.line(format_args!("sent through {} ({}): {said}", args.channel, channel.kind()))?;
            Ok(Exit::Done)
        }
        Err(why) => {
            let why = format!("the channel {} ({}) did not take it: {why}", args.channel, channel.kind());
            Err(Failure::new(Exit::Failed, why).into())
        }
    }
}

pub(super) fn trial(now: Wall) -> anyhow::Result<Message> {
    let job = JobName::new("notify-test")?;
    let alert = Alert {
        kind: AlertKind::Failed,
        run: RunId::of(&job, now),
        job,
        scheduled_at: now,
        verdict: Some(Verdict::Failed),
        reason: "a trial by `fencron notify test`: nothing is wrong".to_owned(),
        exit_code: None,
        attempt: 1,
        in_a_row: 1,
        node: None,
        fence: None,
        finished_at: now,
        whose: Whose::default(),
    };
    Ok(Message::new(alert.id(), now, Content::Alert(Box::new(alert))))
}

/// One alert that waits, or many that the next summary counts.
#[derive(Serialize)]
struct WaitingView {
    channel: String,
    /// `waiting`, `counted` (into the next summary) or `sending`.
    state: &'static str,
    kind: String,
    alerts: u64,
    id: Option<String>,
    since: Option<Wall>,
    /// Why the channel does not take it.
    why: Option<String>,
}

async fn list(global: &Global, terminal: &mut Terminal) -> anyhow::Result<Exit> {
    let place = global.open(None).await?;
    let waiting = place.ledger().alerts_waiting().await?;
    let (more, views) = (waiting.more, views(waiting));
    if more {
        terminal
            .say(format_args!("fencron: there are more than {ALERTS_LISTED} alerts that wait: the first are listed"));
    }
    terminal.show(&views, |views| waiting_table(views))?;
    Ok(Exit::Done)
}

fn views(waiting: Waiting) -> Vec<WaitingView> {
    let mut views = Vec::new();
    for (channel, (outgoing, alerts)) in waiting.channels {
        let view = |state, kind: &str, alerts| WaitingView {
            channel: channel.clone(),
            state,
            kind: kind.to_owned(),
            alerts,
            id: None,
            since: None,
            why: None,
        };
        let mut trouble = outgoing.trouble().map(|trouble| trouble.why.clone());
        for message in &outgoing.sending {
            let kind = match &message.content {
                Content::Alert(alert) => alert.kind.word(),
                Content::Trouble(trouble) => trouble.kind(),
                Content::Summary(_) => "summary",
            };
            let sending = view("sending", kind, message.alerts());
            // It is the first that is tried.
            let (id, why) = (Some(message.id.clone()), trouble.take());
            views.push(WaitingView { id, since: Some(message.since), why, ..sending });
        }
        if outgoing.counted.total() > 0 {
            let counted = view("counted", "summary", outgoing.counted.total());
            views.push(WaitingView { since: outgoing.counted.from, ..counted });
        }
        for alert in &alerts {
            let waits = view("waiting", alert.kind.word(), 1);
            views.push(WaitingView { id: Some(alert.id()), since: Some(alert.finished_at), ..waits });
        }
    }
    views
}

fn waiting_table(views: &[WaitingView]) -> String {
    if views.is_empty() {
        return "no alerts wait\n".to_owned();
    }
    let rows = views.iter().map(|view| {
        vec![
            view.channel.clone(),
            view.state.to_owned(),
            view.kind.clone(),
            view.alerts.to_string(),
            view.since.map(|at| at.to_string()).unwrap_or_default(),
            view.id.clone().unwrap_or_default(),
            view.why.clone().unwrap_or_default(),
        ]
    });
    table(&["CHANNEL", "STATE", "KIND", "ALERTS", "SINCE", "ID", "WHY NOT SENT"], rows)
}
