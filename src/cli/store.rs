//! `fencron store`: the tables of a store in PostgreSQL.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::once::say;
use super::place::open_store;
use super::terminal::Terminal;
use super::{Exit, Failure, Global};
use crate::store::postgres::{Adopted, PostgresStore};
use crate::store::{AnyStore, StoreUrl};
use crate::time::{Clock, written};

#[derive(Args)]
pub(super) struct StoreArgs {
    #[command(subcommand)]
    command: StoreCommand,
}

#[derive(Subcommand)]
enum StoreCommand {
    /// Make the tables of a store in PostgreSQL, as their owner, and let other roles use them
    #[command(after_help = "Example: fencron store init postgres://owner@10.0.0.5/ops --grant fencron")]
    Init(InitArgs),
    /// Go on under another PostgreSQL server, after a failover or a restore: until then nothing is written
    #[command(after_help = "Example: fencron store adopt --store postgres://fencron@10.0.0.6/ops --yes")]
    Adopt(AdoptArgs),
}

#[derive(Args)]
struct InitArgs {
    /// The database, with a role that may make a schema in it [default: that of --store]
    #[arg(value_name = "URL")]
    url: Option<String>,
    /// A role that nodes and commands log in as; may be repeated
    #[arg(long, value_name = "ROLE")]
    grant: Vec<String>,
}

#[derive(Args)]
struct AdoptArgs {
    /// This is the server that is meant, and no old primary goes on
    #[arg(long)]
    yes: bool,
}

#[derive(Serialize)]
struct InitView {
    store: String,
    roles: Vec<String>,
}

#[derive(Serialize)]
struct AdoptView {
    store: String,
    /// The last revision that was there, and from which on they are given now; none where there was nothing to do.
    left_at: Option<u64>,
    begins_at: Option<u64>,
}

pub(super) async fn run(args: StoreArgs, global: &Global, terminal: &mut Terminal) -> anyhow::Result<Exit> {
    match args.command {
        StoreCommand::Init(args) => init(args, global, terminal).await,
        StoreCommand::Adopt(args) => adopt(&args, global, terminal).await,
    }
}

async fn open(url: &StoreUrl) -> anyhow::Result<PostgresStore> {
    match url {
        StoreUrl::Postgres(_) => {}
        _ => {
            return Err(
                Failure::wrong(format!("{url} is no store in PostgreSQL: it makes what it needs itself")).into()
            );
        }
    }
    match open_store(url, &Clock::system()).await? {
        AnyStore::Postgres(store) => Ok(store),
        _ => unreachable!("a PostgreSQL URL leads to a store in PostgreSQL"),
    }
}

async fn init(args: InitArgs, global: &Global, terminal: &mut Terminal) -> anyhow::Result<Exit> {
    let url = args.url.as_deref().map_or_else(|| global.url(), |url| global.url_of(url))?;
    open(&url).await?.init(&args.grant).await?;
    let view = InitView { store: url.to_string(), roles: args.grant };
    terminal.show(&view, |view| match &view.roles[..] {
        [] => format!("{}: the tables are there\n", view.store),
        roles => format!("{}: the tables are there, for the roles {}\n", view.store, roles.join(", ")),
    })?;
    Ok(Exit::Done)
}

async fn adopt(args: &AdoptArgs, global: &Global, terminal: &mut Terminal) -> anyhow::Result<Exit> {
    if !args.yes {
        let why = "writes that the old server had answered may be missing here, and their jobs run again; an old primary \
                   that goes on would be a second store. Add --yes when this is the server that is meant";
        return Err(Failure::wrong(why).into());
    }
    let url = global.url()?;
    let waiting = |longest: Duration| {
        say(&format!("fencron: waiting {} for holds that were lost with the old server to run out", written(longest)));
    };
    let adopted = open(&url).await?.adopt(waiting).await?;
    let (left_at, begins_at) = match adopted {
        Adopted::Ours => (None, None),
        Adopted::Adopted { left_at, begins_at } => (Some(left_at.0), Some(begins_at.0)),
    };
    let view = AdoptView { store: url.to_string(), left_at, begins_at };
    terminal.show(&view, |view| match (view.left_at, view.begins_at) {
        (Some(left_at), Some(begins_at)) => format!(
            "{}: goes on under this server. The last revision that is here is {left_at}; from now on they, and the \
             fences, are above {begins_at}\n",
            view.store
        ),
        _ => format!("{}: this server wrote it last: there is nothing to do\n", view.store),
    })?;
    Ok(Exit::Done)
}
