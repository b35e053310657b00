//! The commands that need no store: `validate`, `schema`, `next`, `man`, `completions`.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::terminal::{Terminal, table};
use super::{Cli, Exit, Failure, file, nearest};
use crate::api::fires::NextView;
use crate::config::{Config, schema};
use crate::job::{Job, JobName};
use crate::time::{Clock, Wall};

/// How many fires of each job `next` shows at most.
const FIRES_MOST: u32 = 10_000;

#[derive(Args)]
pub(super) struct ValidateArgs {
    /// The jobs files, or directories of them: together one configuration
    #[arg(value_name = "FILE", env = "FENCRON_FILE", default_value = file::DEFAULT)]
    file: Vec<PathBuf>,
    /// Do not fill in `${NAME}` and `${file:…}`: for a check on a machine without the secrets of the nodes
    #[arg(long)]
    no_env: bool,
}

/// Prints all problems of a file.
pub(super) fn validate(args: &ValidateArgs, terminal: &mut Terminal) -> anyhow::Result<Exit> {
    let name = file::shown(&args.file);
    match file::parse(&file::texts(&args.file)?, args.no_env) {
        Ok(config) => {
            warn(&name, &config, terminal);
            print_notes(&name, &config, terminal);
            let fine: [(); 0] = [];
            terminal.show(&fine, |_| format!("{}\n", praise(&name, &config)))?;
            Ok(Exit::Done)
        }
        Err(problems) => {
            terminal.show(&problems, |problems| format!("{problems}\n"))?;
            let count = problems.count();
            let some = if count == 1 { "one problem".to_owned() } else { format!("{count} problems") };
            terminal.say(format_args!("fencron: {name} has {some}"));
            Ok(Exit::Wrong)
        }
    }
}

fn praise(name: &str, config: &Config) -> String {
    let jobs = match config.jobs.len() {
        1 => "one job".to_owned(),
        jobs => format!("{jobs} jobs"),
    };
    let open = match config.left_open {
        0 => String::new(),
        1 => "; one value comes from elsewhere, and was not looked at".to_owned(),
        open => format!("; {open} values come from elsewhere, and were not looked at"),
    };
    format!("{}: nothing is wrong with its {jobs}{open} (digest {})", name, config.digest)
}

fn warn(name: &str, config: &Config, terminal: &Terminal) {
    for warning in config.warnings.list() {
        terminal.say(format_args!("{}: warning: {}", warning.place(name), warning.message));
    }
}

/// Prints what is left out of scripts and directories.
fn print_notes(name: &str, config: &Config, terminal: &Terminal) {
    for note in config.notes.list() {
        terminal.say(format_args!("{}: note: {}", note.place(name), note.message));
    }
}

/// Prints the JSON Schema of a jobs file.
pub(super) fn print_schema(terminal: &mut Terminal) -> anyhow::Result<Exit> {
    terminal.line(serde_json::to_string_pretty(&schema())?)?;
    Ok(Exit::Done)
}

#[derive(Args)]
pub(super) struct CompletionsArgs {
    shell: Shell,
}

/// Prints a completion script for a shell.
pub(super) fn completions(args: &CompletionsArgs, terminal: &mut Terminal) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "fencron", &mut script);
    terminal.write(&String::from_utf8(script)?)?;
    Ok(Exit::Done)
}

#[derive(Args)]
pub(super) struct ManArgs {
    /// Write a page for each command into this directory, which is made where it is not there, instead of printing one
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
}

/// Prints the manual page of the program, or writes those of all its commands.
pub(super) fn man(args: &ManArgs, terminal: &mut Terminal) -> anyhow::Result<Exit> {
    match &args.to {
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut page)?;
            terminal.write(&String::from_utf8(page)?)?;
        }
        Some(directory) => {
            let written =
                std::fs::create_dir_all(directory).and_then(|()| clap_mangen::generate_to(Cli::command(), directory));
            written.with_context(|| format!("cannot write manual pages into {}", directory.display()))?;
        }
    }
    Ok(Exit::Done)
}

#[derive(Args)]
pub(super) struct NextArgs {
    /// The jobs files, or directories of them: together one configuration
    #[arg(value_name = "FILE", env = "FENCRON_FILE", default_value = file::DEFAULT)]
    file: Vec<PathBuf>,
    /// Only this job
    #[arg(long, env = "FENCRON_NEXT_JOB")]
    job: Option<String>,
    /// How many instants to show of each job
    #[arg(long, value_name = "N", env = "FENCRON_NEXT_COUNT", default_value_t = 5)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(FIRES_MOST)))]
    count: u32,
    /// Only instants after this one (RFC 3339) [default: now]
    #[arg(long, value_name = "T", env = "FENCRON_NEXT_FROM")]
    from: Option<Wall>,
    /// Do not fill in `${NAME}` and `${file:…}`; jobs whose schedule depends on them are left out
    #[arg(long)]
    no_env: bool,
}

/// Prints when the jobs of a file fire, and how their time zones change that.
pub(super) fn next(args: &NextArgs, terminal: &mut Terminal) -> anyhow::Result<Exit> {
    let config = file::parse(&file::texts(&args.file)?, args.no_env)?;
    warn(&file::shown(&args.file), &config, terminal);
    let from = args.from.unwrap_or_else(|| Clock::system().wall());
    let only = args.job.as_deref().map(|name| find(&config, name)).transpose()?;
    let jobs = config.jobs.values().filter(|job| only.as_ref().is_none_or(|only| only.name == job.name));
    let views: Vec<NextView> = jobs.map(|job| NextView::of(job, from, args.count as usize)).collect();
    terminal.show(&views, |views| next_table(views))?;
    Ok(Exit::Done)
}

/// The job of this name.
pub(super) fn find(config: &Config, name: &str) -> Result<Arc<Job>, Failure> {
    let job = config.jobs.values().find(|job| job.name.as_str() == name);
    job.cloned().ok_or_else(|| {
        let meant = nearest(name, config.jobs.keys().map(JobName::as_str));
        Failure::new(Exit::Failed, format!("the file has no job `{name}`{meant}"))
    })
}

fn next_table(views: &[NextView]) -> String {
    let rows = views.iter().flat_map(|view| {
        let row = |at: String, local: &str, note: &str| {
            vec![view.job.to_string(), at, local.to_owned(), view.timezone.unwrap_or("").to_owned(), note.to_owned()]
        };
        let mut rows: Vec<_> = view
            .fires
            .iter()
            .map(|fire| row(fire.scheduled_at.to_string(), &fire.local, fire.note.as_deref().unwrap_or("")))
            .collect();
        if rows.is_empty() {
            let why = match &view.after {
                Some(after) => format!("after {after}"),
                None if view.enabled.is_some() => "not enabled".to_owned(),
                None => "never again".to_owned(),
            };
            rows.push(row("-".to_owned(), "-", &why));
        }
        rows
    });
    table(&["JOB", "SCHEDULED AT", "LOCAL", "ZONE", "NOTE"], rows)
}
