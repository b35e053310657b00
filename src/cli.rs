//! The program's commands: what is typed, what is printed, and how it exits.
//!
//! stdout is data, stderr is messages. `docs/cli.md` describes every command, its output and its exit codes.

mod file;
mod logging;
mod place;
mod run;
mod terminal;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::Problems;
use crate::ledger::AskError;
use crate::store::{StoreError, StoreUrl};
use crate::time::Clock;
use logging::LogFormat;
use terminal::{Closed, Terminal};

/// A job scheduler with leader election: of several replicas one leads and fires the jobs of a YAML file.
#[derive(Parser)]
#[command(name = "fencron", version, max_term_width = 100, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Where, and how it is shown: the options that every command takes.
#[derive(Args)]
struct Global {
    /// sqlite:PATH, etcd://HOST:PORT[,HOST:PORT…], etcds://… (TLS), or memory: (to try `run` alone)
    #[arg(long, global = true, value_name = "URL", env = "FENCRON_STORE", hide_env_values = true)]
    #[arg(default_value = StoreUrl::DEFAULT, help_heading = "Global options")]
    store: String,
    /// What keeps clusters apart in one store [default: that of the jobs file, or the only one in the store]
    #[arg(long, global = true, value_name = "NS", env = "FENCRON_NAMESPACE", help_heading = "Global options")]
    namespace: Option<String>,
    /// How data is printed
    #[arg(short, long, global = true, value_name = "FORMAT", env = "FENCRON_OUTPUT", default_value = "table")]
    #[arg(help_heading = "Global options")]
    output: Format,
    /// How logs are written to stderr; FENCRON_LOG or RUST_LOG says which (like info, or fencron=debug)
    #[arg(long, global = true, value_name = "FORMAT", env = "FENCRON_LOG_FORMAT", default_value = "text")]
    #[arg(help_heading = "Global options")]
    log_format: LogFormat,
    /// The user of an etcd store whose URL names none
    #[arg(long, global = true, value_name = "USER", env = "FENCRON_ETCD_USER", help_heading = "Global options")]
    etcd_user: Option<String>,
}

/// How data is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
    Yaml,
}

#[derive(Subcommand)]
enum Command {
    /// Run a node: it contends for the leadership, and fires the jobs of FILE while it leads
    Run(run::RunArgs),
}

/// How the program ends. The numbers are part of its contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    Done = 0,
    Failed = 1,
    /// Wrong usage, or a wrong configuration.
    Wrong = 2,
    StoreUnreachable = 5,
    /// Nobody can say, or nobody can say yet, whether it was done.
    OutcomeUnknown = 6,
}

/// An error that says how the program ends.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
struct Failure {
    exit: Exit,
    message: String,
}

impl Failure {
    fn new(exit: Exit, message: impl Into<String>) -> Failure {
        Failure { exit, message: message.into() }
    }

    fn wrong(message: impl Into<String>) -> Failure {
        Failure::new(Exit::Wrong, message)
    }
}

/// Runs the program with the arguments of the process.
pub fn main() -> ExitCode {
    // Fails only where a provider is installed already, which then is this one.
    rustls::crypto::ring::default_provider().install_default().ok();
    let Cli { global, command } = Cli::parse();
    let mut terminal = Terminal::new(global.output);
    let exit = match logging::start(global.log_format, command.logs_by_default(), Clock::system()) {
        Ok(()) => command.run(&global, &mut terminal),
        Err(error) => Err(error.into()),
    };
    let exit = exit.unwrap_or_else(|error| report(&error, &terminal));
    ExitCode::from(exit as u8)
}

impl Command {
    /// What is logged where neither FENCRON_LOG nor RUST_LOG says it.
    fn logs_by_default(&self) -> &'static str {
        match self {
            Command::Run(_) => "warn,fencron=info",
        }
    }

    fn run(self, global: &Global, terminal: &mut Terminal) -> anyhow::Result<Exit> {
        match self {
            Command::Run(args) => run::run(args, global),
        }
    }
}

/// Says what went wrong, and answers how the program ends for it.
fn report(error: &anyhow::Error, terminal: &Terminal) -> Exit {
    if error.is::<Closed>() {
        return Exit::Done;
    }
    terminal.say(format_args!("fencron: {error:#}"));
    exit_of(error)
}

fn exit_of(error: &anyhow::Error) -> Exit {
    if let Some(failure) = error.downcast_ref::<Failure>() {
        return failure.exit;
    }
    if error.is::<Problems>() {
        return Exit::Wrong;
    }
    match error.downcast_ref::<AskError>() {
        Some(AskError::Store(store)) if store.is_unknown() => return Exit::OutcomeUnknown,
        Some(AskError::Store(_)) => return Exit::StoreUnreachable,
        Some(_) => return Exit::Failed,
        None => {}
    }
    match error.downcast_ref::<StoreError>() {
        Some(StoreError::Refused(_) | StoreError::LeaseEnded(_)) | None => Exit::Failed,
        Some(_) => Exit::StoreUnreachable,
    }
}
