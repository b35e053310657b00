//! The program's commands: their arguments, their output, and their exit codes.
//!
//! stdout is data, stderr is messages. `docs/cli.md` describes every command, its output and its exit codes.

mod advice;
mod asking;
mod audit;
mod backup;
mod check;
mod doctor;
mod drain;
mod drill;
mod fence;
mod file;
mod find;
mod first;
mod guard;
mod handover;
mod health;
mod hold;
mod import;
mod listener;
mod living;
mod locks;
mod logging;
mod logs;
mod look;
mod memory;
mod migrate;
mod notify;
mod once;
mod outage;
mod output;
mod place;
mod rewind;
mod run;
mod spread;
mod steer;
mod store;
mod terminal;
mod token;
mod top;

use std::io::IsTerminal as _;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand, ValueEnum};
use tokio::runtime::{Builder, Runtime};

use crate::config::Problems;
use crate::ledger::AskError;
use crate::store::StoreError;
use crate::store::etcd::ADVICE;
use crate::threads;
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

/// The options that every command takes: the store, the namespace, and the form of the output.
#[derive(Args)]
struct Global {
    /// sqlite:PATH, etcd://HOST:PORT[,HOST:PORT…], etcds://… (TLS), postgres://USER@HOST/DATABASE, or memory: (to try
    /// `run` alone) [default: the file .fencron/state.db here, which `run` and `migrate` create; other commands also look
    /// in the directories above]
    #[arg(long, global = true, value_name = "URL", env = "FENCRON_STORE", hide_env_values = true)]
    #[arg(help_heading = "Global options")]
    store: Option<String>,
    /// The namespace, which keeps clusters apart in one store [default: that of the jobs file, or the only one in the
    /// store]
    #[arg(long, global = true, value_name = "NS", env = "FENCRON_NAMESPACE", help_heading = "Global options")]
    namespace: Option<String>,
    /// The format of printed data
    #[arg(short, long, global = true, value_name = "FORMAT", env = "FENCRON_OUTPUT", default_value = "table")]
    #[arg(help_heading = "Global options")]
    output: Format,
    /// The format of logs on stderr; FENCRON_LOG or RUST_LOG sets their level (like info, or fencron=debug)
    #[arg(long, global = true, value_name = "FORMAT", env = "FENCRON_LOG_FORMAT", default_value = "text")]
    #[arg(help_heading = "Global options")]
    log_format: LogFormat,
    /// The user of an etcd store whose URL names none
    #[arg(long, global = true, value_name = "USER", env = "FENCRON_ETCD_USER", help_heading = "Global options")]
    etcd_user: Option<String>,
    /// The directory for what was seen of the store, kept outside of it: a store that was restored from a backup is
    /// recognized by it [default: $XDG_STATE_HOME/fencron, ~/.local/state/fencron, or /var/lib/fencron]
    #[arg(long, global = true, value_name = "DIR", env = "FENCRON_STATE_DIR", help_heading = "Global options")]
    state_dir: Option<PathBuf>,
    /// The authorities of the certificates of nodes (PEM), beside those of the system: for what is asked of nodes that
    /// run with --tls-cert
    #[arg(long, global = true, value_name = "FILE", env = "FENCRON_TLS_CA", help_heading = "Global options")]
    tls_ca: Option<PathBuf>,
    /// A file with the password of an etcd store, without a line end; it is read again when the password has changed
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "FENCRON_ETCD_PASSWORD_FILE",
        help_heading = "Global options"
    )]
    etcd_password_file: Option<PathBuf>,
}

/// The format of printed data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
    Yaml,
}

#[derive(Subcommand)]
enum Command {
    /// Run a node: it contends for the leadership, and fires the jobs of FILE while it leads
    #[command(after_help = "Example: fencron run jobs.yaml --store etcd://10.0.0.1:2379 --node a")]
    Run(run::RunArgs),
    /// Check a jobs file, and print all its problems, each with its line
    #[command(after_help = "Example: fencron validate jobs.yaml -o json")]
    Validate(check::ValidateArgs),
    /// Print the JSON Schema of jobs files, for editors
    #[command(after_help = "Example: fencron schema > jobs.schema.json")]
    Schema,
    /// Show when the jobs of FILE fire next, and how their time zones change that
    #[command(after_help = "Example: fencron next jobs.yaml --job nightly --count 3")]
    Next(check::NextArgs),
    /// Write the jobs of another scheduler as a jobs file, with a report on each of their lines
    #[command(after_help = "Example: fencron import crontab /etc/crontab /etc/cron.d --check --to jobs.yaml\n\n\
        Others:\n  \
        crontab -l | fencron import crontab - --timezone Europe/Berlin > jobs.yaml\n  \
        kubectl get cronjobs -o yaml | fencron import kubernetes - --check\n  \
        fencron import systemd /etc/systemd/system --to jobs.yaml\n  \
        curl -s http://dkron:8080/v1/jobs | fencron import dkron - --active\n\n\
        Exit codes: 0: all of it was taken over; 7: a line cannot be said here, or with --check a fire differs.")]
    Import(import::ImportArgs),
    /// Show the leader, the nodes, and what keeps jobs from being fired
    #[command(after_help = "Example: fencron status -o json")]
    Status,
    /// Look at the cluster in the terminal: what runs, what needs a person, who leads
    #[command(after_help = "Example: fencron top --store etcd://10.0.0.1:2379")]
    Top(top::TopArgs),
    /// List the jobs
    #[command(after_help = "Example: fencron jobs --job nightly")]
    Jobs(look::JobsArgs),
    /// List runs, the newest first
    #[command(after_help = "Example: fencron runs --state failed --limit 10")]
    Runs(look::RunsArgs),
    /// Print what a run wrote
    #[command(after_help = "Example: fencron logs nightly@2026-11-21T02:00:00Z -f")]
    Logs(logs::LogsArgs),
    /// Print all that a run wrote, where its job keeps whole outputs in files
    #[command(after_help = "Example: fencron output nightly@2026-11-21T02:00:00Z > nightly.txt")]
    Output(output::OutputArgs),
    /// Run a job now
    #[command(after_help = "Example: fencron trigger nightly --wait --timeout 10m")]
    Trigger(steer::TriggerArgs),
    /// Skip the occurrences of a job, or of all, until they are resumed
    #[command(after_help = "Example: fencron pause nightly --for 2h --reason maintenance")]
    Pause(steer::PauseUntilArgs),
    /// Let a paused job go on, or all
    #[command(after_help = "Example: fencron resume nightly")]
    Resume(steer::PauseArgs),
    /// Stop a run, or withdraw it before it starts
    #[command(after_help = "Example: fencron cancel nightly@2026-11-21T02:00:00Z")]
    Cancel(steer::RunIdArgs),
    /// Settle a run that ended as `unknown`
    #[command(after_help = "Example: fencron resolve nightly@2026-11-21T02:00:00Z --as succeeded")]
    Resolve(steer::ResolveArgs),
    /// Run a job for past instants
    #[command(after_help = "Example: fencron backfill nightly --from 2026-11-01T00:00:00Z --to 2026-11-08T00:00:00Z")]
    Backfill(steer::BackfillArgs),
    /// Let another node lead
    #[command(after_help = "Example: fencron step-down")]
    StepDown(steer::StepDownArgs),
    /// Let a node lead no more, as before maintenance: it hands over, and does not campaign
    #[command(after_help = "Example: fencron drain node-a --for 2h --reason kernel-update --wait --timeout 10m")]
    Drain(drain::DrainArgs),
    /// Let a drained node lead again
    #[command(after_help = "Example: fencron undrain node-a")]
    Undrain(drain::UndrainArgs),
    /// List what people did: who, when, through what, and why
    #[command(after_help = "Example: fencron audit --job nightly -o json")]
    Audit(audit::AuditArgs),
    /// Try the channels of alerts, and list the alerts that wait
    #[command(after_help = "Example: fencron notify test ops --file jobs.yaml")]
    Notify(notify::NotifyArgs),
    /// Bring the schedules back after a clock that was ahead, without firing anything again
    #[command(after_help = "Example: fencron rewind --to 2026-11-21T02:00:00Z --yes")]
    Rewind(rewind::RewindArgs),
    /// Make the migrations of FILE once: when several start at the same time, one makes them, and the others wait for
    /// its verdict
    #[command(after_help = "Example: fencron migrate jobs.yaml --wait 10m")]
    Migrate(migrate::MigrateArgs),
    /// Run a command only once for its key, in the whole cluster; later calls return its verdict
    #[command(after_help = "Example: fencron once seed-2026 -- ./seed.sh")]
    Once(once::OnceArgs),
    /// Run a command under a lock, with a fence: one at a time in the whole cluster
    #[command(after_help = "Example: fencron lock deploy --wait 5m -- ./deploy.sh")]
    Lock(hold::LockArgs),
    /// Run a command while it holds permits: a limited number at the same time in the whole cluster
    #[command(after_help = "Example: fencron semaphore exports --permits 3 -- ./export.sh")]
    Semaphore(hold::SemaphoreArgs),
    /// Run a command on one of several machines: the elected leader
    #[command(after_help = "Example: fencron elect worker --again -- ./worker")]
    Elect(hold::ElectArgs),
    /// List locks and semaphores, with their holders and the number of their waiters
    #[command(after_help = "Example: fencron locks deploy -o json")]
    Locks(locks::LocksArgs),
    /// Revoke a lock, or the permits of a semaphore, from its holder
    #[command(after_help = "Example: fencron unlock --force deploy")]
    Unlock(locks::UnlockArgs),
    /// Ask one node whether it is healthy: exit 0 if it is, 1 if it is not
    #[command(after_help = "Example: fencron health http://127.0.0.1:8080/readyz")]
    Health(health::HealthArgs),
    /// Make a token for the listeners of nodes
    #[command(after_help = "Example: fencron token new --name grafana --role metrics")]
    Token(token::TokenArgs),
    /// Show what fences are counted from, and repair it
    #[command(after_help = "Example: fencron fence show")]
    Fence(fence::FenceArgs),
    /// Turn away stale fences and repeated occurrences at the target of effects
    #[command(
        after_help = "Example: fencron guard exec disk --state sqlite:g.db --scope shop/leader --fence 7 -- ./backup.sh"
    )]
    Guard(guard::GuardArgs),
    /// Look for what is wrong, or soon will be: store, clock, jobs file, nodes, ledger
    #[command(after_help = "Example: fencron doctor jobs.yaml --store etcd://10.0.0.1:2379 --strict")]
    Doctor(doctor::DoctorArgs),
    /// Prove on your store that a leader that is lost is followed, and that nothing is lost or done twice by that
    #[command(after_help = "Example: fencron drill failover --store etcd://10.0.0.1:2379")]
    Drill(drill::DrillArgs),
    /// Make the tables of a store in PostgreSQL, or have it go on under another server
    #[command(after_help = "Example: fencron store init postgres://owner@10.0.0.5/ops --grant fencron")]
    Store(store::StoreArgs),
    /// Copy the store to a file while nodes use it, and check the copy
    #[command(after_help = "Example: fencron backup /var/backups/fencron-monday.db")]
    Backup(backup::BackupArgs),
    /// Print the manual page, or write that of each command into a directory
    #[command(after_help = "Example: fencron man --to /usr/local/share/man/man1")]
    Man(check::ManArgs),
    /// Print a completion script for a shell
    #[command(after_help = "Example: fencron completions bash > ~/.local/share/bash-completion/completions/fencron")]
    Completions(check::CompletionsArgs),
}

/// How long the program waits, at its end, for operations that still block on the disk.
const LAST_TASKS: Duration = Duration::from_secs(1);

/// What the names of the namespaces of drills begin with. Other commands pass them over.
const DRILLS: &str = "fencron-drill-";

/// How the program ends. The numbers are part of its contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    Done,
    Failed,
    /// Wrong usage, or a wrong configuration.
    Wrong,
    /// The lock could not be acquired in time.
    NotAcquired,
    /// The lock was lost to another holder.
    Lost,
    StoreUnreachable,
    /// It is unknown, or not known yet, whether it was done.
    OutcomeUnknown,
    /// Some of it could not be taken over.
    NotAll,
    /// The exit code of the command that was run.
    Command(u8),
}

impl Exit {
    fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Wrong => 2,
            Exit::NotAcquired => 3,
            Exit::Lost => 4,
            Exit::StoreUnreachable => 5,
            Exit::OutcomeUnknown => 6,
            Exit::NotAll => 7,
            Exit::Command(code) => code,
        }
    }
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
    crate::execute::supervise_if_asked();
    // Installing the provider never fails.
    crate::execute::hide().ok();
    if first::is_first() { first::run(run) } else { run() }
}

fn run() -> ExitCode {
    // Fails only where a provider is installed already, which then is this one.
    rustls::crypto::ring::default_provider().install_default().ok();
    let Cli { global, command } = Cli::parse();
    let mut terminal = Terminal::new(global.output);
    let exit = start(command, &global, &mut terminal).unwrap_or_else(|error| report(&error, &terminal));
    terminal.finish();
    ExitCode::from(exit.code())
}

fn start(command: Command, global: &Global, terminal: &mut Terminal) -> anyhow::Result<Exit> {
    let clock = Clock::system();
    let queue = matches!(command, Command::Run(_)).then(|| logging::queue(global.log_format, clock.clone()));
    let queue = queue.transpose().context("cannot start the thread that writes the logs")?;
    if let Some(queue) = &queue {
        terminal.say_through(queue.clone());
    }
    let mut logged = command.logs_by_default().to_owned();
    if logged == "warn" && global.store.as_deref().is_some_and(is_etcd) && advice::was_given_today(&clock) {
        logged += &format!(",{ADVICE}=off");
    }
    // They would be written over what is drawn, and the screen says what is wrong.
    let is_drawn_over = matches!(command, Command::Top(_)) && std::io::stderr().is_terminal();
    if !is_drawn_over {
        logging::start(global.log_format, &logged, clock, queue)?;
    }
    let runtime = command.runtime().context("cannot start the threads")?;
    let exit = runtime.block_on(command.run(global, terminal));
    runtime.shutdown_timeout(LAST_TASKS);
    exit
}

fn is_etcd(url: &str) -> bool {
    url.trim_start().starts_with("etcd")
}

impl Command {
    /// The log level when neither FENCRON_LOG nor RUST_LOG sets one.
    fn logs_by_default(&self) -> &'static str {
        match self {
            Command::Run(_) => "warn,fencron=info",
            Command::Guard(args) if args.has_work_for_many_threads() => "warn,fencron=info",
            _ => "warn",
        }
    }

    /// The runtime of the command: a node has work for many threads.
    fn runtime(&self) -> std::io::Result<Runtime> {
        let has_work_for_many = match self {
            Command::Run(_) => true,
            Command::Guard(args) => args.has_work_for_many_threads(),
            _ => false,
        };
        if !has_work_for_many {
            return threads::runtime(&mut Builder::new_current_thread(), 0);
        }
        let workers = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        threads::runtime(Builder::new_multi_thread().worker_threads(workers), workers)
    }

    async fn run(self, global: &Global, terminal: &mut Terminal) -> anyhow::Result<Exit> {
        match self {
            Command::Run(args) => run::run(args, global).await,
            Command::Validate(args) => check::validate(&args, terminal),
            Command::Schema => check::print_schema(terminal),
            Command::Next(args) => check::next(&args, terminal),
            Command::Import(args) => import::run(&args, global, terminal),
            Command::Completions(args) => check::completions(&args, terminal),
            Command::Man(args) => check::man(&args, terminal),
            Command::Status => look::status(global, terminal).await,
            Command::Top(args) => top::top(&args, global, terminal).await,
            Command::Jobs(args) => look::jobs(&args, global, terminal).await,
            Command::Runs(args) => look::runs(&args, global, terminal).await,
            Command::Logs(args) => logs::logs(&args, global, terminal).await,
            Command::Output(args) => output::output(&args, global, terminal).await,
            Command::Trigger(args) => steer::trigger(&args, global, terminal).await,
            Command::Pause(args) => steer::pause(&args, global, terminal).await,
            Command::Resume(args) => steer::resume(&args, global, terminal).await,
            Command::Cancel(args) => steer::cancel(&args, global, terminal).await,
            Command::Resolve(args) => steer::resolve(&args, global, terminal).await,
            Command::Backfill(args) => steer::backfill(&args, global, terminal).await,
            Command::Rewind(args) => rewind::rewind(&args, global, terminal).await,
            Command::StepDown(args) => steer::step_down(&args, global, terminal).await,
            Command::Drain(args) => drain::drain(&args, global, terminal).await,
            Command::Undrain(args) => drain::undrain(&args, global, terminal).await,
            Command::Audit(args) => audit::audit(&args, global, terminal).await,
            Command::Notify(args) => notify::run(&args, global, terminal).await,
            Command::Migrate(args) => migrate::run(args, global, terminal).await,
            Command::Once(args) => once::once(args, global).await,
            Command::Lock(args) => hold::lock(args, global).await,
            Command::Semaphore(args) => hold::semaphore(args, global).await,
            Command::Elect(args) => hold::elect(args, global).await,
            Command::Locks(args) => locks::list(&args, global, terminal).await,
            Command::Unlock(args) => locks::unlock(&args, global, terminal).await,
            Command::Health(args) => health::health(&args, global, terminal).await,
            Command::Token(args) => token::run(args, terminal),
            Command::Doctor(args) => doctor::doctor(&args, global, terminal).await,
            Command::Drill(args) => drill::drill(&args, global, terminal).await,
            Command::Store(args) => store::run(args, global, terminal).await,
            Command::Backup(args) => backup::backup(&args, global, terminal).await,
            Command::Fence(args) => fence::run(&args, global, terminal).await,
            Command::Guard(args) => guard::run(args, terminal).await,
        }
    }
}

/// A duration of an option, in the language of the jobs file.
fn duration(text: &str) -> Result<std::time::Duration, String> {
    crate::time::parse_duration(text).map_err(|why| format!("it {why}"))
}

/// The name that was probably meant, as the end of a message; empty where none is near.
fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> String {
    /// How similar two names have to be, from 0 to 1, for one to be suggested in the place of the other.
    const NEAR: f64 = 0.8;
    let likeness = |other: &'a str| (strsim::jaro_winkler(name, other), other);
    let best = names.map(likeness).filter(|(near, _)| *near >= NEAR).max_by(|a, b| a.0.total_cmp(&b.0));
    best.map_or_else(String::new, |(_, other)| format!(": did you mean `{other}`?"))
}

/// Prints what went wrong, and answers the exit code for it.
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
        Some(AskError::WrongStretch(_) | AskError::NotGiven { .. }) => return Exit::Wrong,
        Some(_) => return Exit::Failed,
        None => {}
    }
    match error.downcast_ref::<StoreError>() {
        Some(StoreError::Refused(_) | StoreError::LeaseEnded(_)) | None => Exit::Failed,
        Some(_) => Exit::StoreUnreachable,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    /// Each command below `command`, with the words that lead to it.
    fn all(command: &clap::Command, before: &str) -> Vec<(String, clap::Command)> {
        let below = command.get_subcommands().filter(|below| below.get_name() != "help");
        let each = below.flat_map(|below| {
            let name = format!("{before} {}", below.get_name());
            let further = all(below, &name);
            std::iter::once((name, below.clone())).chain(further)
        });
        each.collect()
    }

    #[test]
    fn the_help_of_each_command_has_an_example_that_is_one() {
        let commands = all(&Cli::command(), "fencron");
        assert!(commands.iter().any(|(name, _)| name == "fencron guard reset"));
        for (name, mut command) in commands {
            let help = command.render_long_help().to_string();
            let example = help.lines().find_map(|line| line.strip_prefix("Example: "));
            let example = example.unwrap_or_else(|| panic!("{name} has none"));
            let words = example.split(" > ").next().unwrap_or(example).split(' ');
            assert!(example.starts_with(&name), "{name}: {example}");
            if let Err(error) = Cli::try_parse_from(words) {
                panic!("{example}: {error}");
            }
        }
    }
}
