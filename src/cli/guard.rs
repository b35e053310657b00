//! `fencron guard`: checks fences for services and scripts that do not check them themselves.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderName, Method, Request, StatusCode};
use axum::routing::get;
use clap::{Args, Subcommand, ValueEnum};
use hyper::service::service_fn;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::terminal::Terminal;
use super::{Exit, Failure};
use crate::guard::proxy::GuardProxy;
use crate::guard::sql::Dialect;
use crate::guard::{Guard, InDoubt, Options, StateError, StateUrl};
use crate::listen::{self, Remote, Room};
use crate::time::Clock;

mod care;
mod exec;

#[derive(Args)]
pub(super) struct GuardArgs {
    #[command(subcommand)]
    command: GuardCommand,
}

#[derive(Subcommand)]
enum GuardCommand {
    /// Print the tables of a guard, and the statements to call in your own transactions
    #[command(after_help = "Example: fencron guard sql postgres > guard.sql")]
    Sql(SqlArgs),
    /// Guard an HTTP service without changing it
    #[command(
        after_help = "Example: fencron guard proxy --listen 0.0.0.0:90 --upstream http://127.0.0.1:80 --state sqlite:g.db"
    )]
    Proxy(ProxyArgs),
    /// Guard a command: run it unless its fence is stale or it was run before
    #[command(
        after_help = "Example: fencron guard exec disk --state sqlite:g.db --scope shop/leader --fence 7 -- ./backup.sh"
    )]
    Exec(exec::ExecArgs),
    /// Show the greatest fence that each scope has seen
    #[command(after_help = "Example: fencron guard show --state sqlite:g.db -o json")]
    Show(care::ShowArgs),
    /// Lower the fence that a scope has seen, when a wrong one was recorded and shuts out the true leader
    #[command(after_help = "Example: fencron guard reset shop/leader --state sqlite:g.db --to 7 --yes")]
    Reset(care::ResetArgs),
}

#[derive(Args)]
struct SqlArgs {
    database: Database,
}

#[derive(Clone, Copy, ValueEnum)]
enum Database {
    Postgres,
    /// MySQL 8 and MariaDB
    Mysql,
    Sqlite,
}

/// The options of every guard.
#[derive(Args)]
struct RuleArgs {
    /// Where the guard keeps its state: memory, sqlite:PATH (this machine) or postgres://USER@HOST/DATABASE (shared)
    #[arg(long, value_name = "URL", env = "FENCRON_GUARD_STATE", hide_env_values = true)]
    // A text: what is no URL of a state may hold a password, and clap would show it.
    state: String,
    /// For how long an answer is replayed; after that a request with the same key is executed again
    #[arg(long, value_name = "D", default_value = "7d", value_parser = super::duration)]
    keep: Duration,
    /// How many keys are kept; above that, requests with new keys are turned away
    #[arg(long, value_name = "N", default_value_t = Options::default().keys_most)]
    keys_most: u64,
    /// How long to wait for requests of older fences that are in flight
    #[arg(long, value_name = "D", default_value = "10s", value_parser = super::duration)]
    wait: Duration,
    /// What to do with a repetition when it is unknown whether the first request took effect
    #[arg(long, value_name = "WHAT", default_value = "refuse")]
    in_doubt: WhenInDoubt,
}

#[derive(Clone, Copy, ValueEnum)]
enum WhenInDoubt {
    /// Turn the repetition away
    Refuse,
    /// Execute it, perhaps for the second time
    Repeat,
}

impl RuleArgs {
    fn options(&self, resource: &str) -> Options {
        Options {
            resource: resource.to_owned(),
            keep: self.keep,
            keys_most: self.keys_most,
            wait: self.wait,
            in_doubt: match self.in_doubt {
                WhenInDoubt::Refuse => InDoubt::Refuse,
                WhenInDoubt::Repeat => InDoubt::Repeat,
            },
            ..Options::default()
        }
    }

    fn state(&self) -> Result<StateUrl, Failure> {
        self.state.parse().map_err(|error| Failure::wrong(format!("--state: {error}")))
    }

    async fn open(&self, state: &StateUrl, options: Options) -> Result<Guard, Failure> {
        Guard::open(state, options, Clock::system()).await.map_err(|error| cannot_use(&error))
    }
}

fn cannot_use(error: &StateError) -> Failure {
    Failure::new(Exit::StoreUnreachable, format!("--state: {error}"))
}

#[derive(Args)]
struct ProxyArgs {
    /// The address to listen on; port 0 is any free port
    #[arg(long, value_name = "ADDR", env = "FENCRON_GUARD_LISTEN")]
    listen: SocketAddr,
    /// The URL of the guarded service, like http://127.0.0.1:8080
    #[arg(long, value_name = "URL", env = "FENCRON_GUARD_UPSTREAM")]
    upstream: String,
    #[command(flatten)]
    rules: RuleArgs,
    /// The name of the guarded resource, when several guards share a state and must not affect each other
    #[arg(long, value_name = "NAME", default_value = "")]
    resource: String,
    /// Turn away requests without a fence, rather than pass them on unguarded
    #[arg(long)]
    require_fence: bool,
    /// Another header that distinguishes callers, like X-Tenant; may be given several times
    #[arg(long = "caller-header", value_name = "NAME")]
    caller_headers: Vec<HeaderName>,
    /// The largest body of a guarded request, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = Options::default().body_most)]
    body_most: usize,
    /// How long the body of a guarded request may take to arrive
    #[arg(long, value_name = "D", default_value = "30s", value_parser = super::duration)]
    body_within: Duration,
    /// The largest answer that is kept for a replay, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = Options::default().answer_most)]
    answer_most: usize,
    /// How long the service may take to answer
    #[arg(long, value_name = "D", default_value = "5m", value_parser = super::duration)]
    timeout: Duration,
    /// The address of the guard's own /healthz and /readyz [default: none]
    #[arg(long, value_name = "ADDR")]
    health_listen: Option<SocketAddr>,
    /// How long requests may go on after the guard was asked to stop
    #[arg(long, value_name = "D", default_value = "30s", value_parser = super::duration)]
    shutdown_grace: Duration,
}

impl GuardArgs {
    pub fn has_work_for_many_threads(&self) -> bool {
        matches!(self.command, GuardCommand::Proxy(_))
    }
}

pub(super) async fn run(args: GuardArgs, terminal: &mut Terminal) -> anyhow::Result<Exit> {
    match args.command {
        GuardCommand::Sql(args) => {
            let dialect = match args.database {
                Database::Postgres => Dialect::Postgres,
                Database::Mysql => Dialect::Mysql,
                Database::Sqlite => Dialect::Sqlite,
            };
            terminal.write(&dialect.script())?;
            Ok(Exit::Done)
        }
        GuardCommand::Proxy(args) => proxy(args, terminal).await,
        GuardCommand::Exec(args) => exec::exec(&args, terminal).await,
        GuardCommand::Show(args) => care::show(&args, terminal).await,
        GuardCommand::Reset(args) => care::reset(&args, terminal).await,
    }
}

/// Guards a service until it is asked to stop.
async fn proxy(args: ProxyArgs, terminal: &Terminal) -> anyhow::Result<Exit> {
    let mut asked_to_stop = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
    let options = Options {
        require_fence: args.require_fence,
        caller_headers: args.caller_headers.iter().map(|name| name.as_str().to_owned()).collect(),
        body_most: args.body_most,
        body_within: args.body_within,
        answer_most: args.answer_most,
        ..args.rules.options(&args.resource)
    };
    let state = args.rules.state()?;
    let guard = args.rules.open(&state, options).await?;
    let proxy = GuardProxy::new(guard.clone(), &args.upstream, args.timeout);
    let proxy = proxy.map_err(|error| Failure::wrong(format!("--upstream: {error}")))?;
    let (listener, health) = (bind(args.listen)?, args.health_listen);
    let ending = CancellationToken::new();
    terminal.say(format_args!(
        "fencron: guarding {} on http://{}, with its state in {}",
        args.upstream,
        listener.local_addr()?,
        state
    ));
    if matches!(state, StateUrl::Memory) {
        terminal.say(
            "fencron: a guard with its state in memory knows nothing after a restart: stale fences are let in \
                      until it has seen a newer one",
        );
    }
    if let Some(address) = health {
        let listener = bind(address)?;
        terminal.say(format_args!("fencron: health on http://{}", listener.local_addr()?));
        let router = health_of(guard.clone());
        let ending = ending.clone();
        tokio::spawn(listen::serve(listener, None, move |_, _| TowerToHyperService::new(router.clone()), ending));
    }
    let answering = move |remote: Remote, room| {
        let proxy = proxy.clone();
        service_fn(move |request| {
            let proxy = proxy.clone();
            async move {
                let answered = room == Room::Enough || asks_for_health(&request);
                let answer = if answered { proxy.answer(request, remote.address).await } else { GuardProxy::busy() };
                Ok::<_, std::convert::Infallible>(answer)
            }
        })
    };
    let serving = tokio::spawn(listen::serve(listener, None, answering, ending.clone()));
    let [terminate, interrupt] = &mut asked_to_stop;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    ending.cancel();
    let drained = async {
        serving.await.ok();
        guard.drain().await;
    };
    if tokio::time::timeout(args.shutdown_grace, drained).await.is_err() {
        terminal.say("fencron: what is still in flight is in doubt from now on");
    }
    Ok(Exit::Done)
}

/// Whether it is a question about the service's health, by the path where such are asked. What else comes over a spare
/// connection is turned away.
fn asks_for_health<B>(request: &Request<B>) -> bool {
    const PATHS: [&str; 4] = ["/healthz", "/readyz", "/livez", "/health"];
    request.method() == Method::GET && PATHS.contains(&request.uri().path())
}

fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    listen::bind(address).with_context(|| format!("cannot listen on {address}: choose another address"))
}

fn health_of(guard: Guard) -> Router {
    let ready = |State(guard): State<Guard>| async move {
        match guard.check().await {
            Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
            Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
        }
    };
    Router::new().route("/healthz", get(|| async { "ok\n" })).route("/readyz", get(ready)).with_state(guard)
}
