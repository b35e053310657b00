//! `fencron output`: all that an attempt of a run wrote, from the file that a node keeps.

use std::path::PathBuf;

use clap::Args;

use super::terminal::Terminal;
use super::{Exit, Failure, Global, logs};
use crate::execute::Place;
use crate::fence::DEFAULT_NAMESPACE;
use crate::job::RunId;

/// How much is read at once.
const PIECE: usize = 64 * 1024;

#[derive(Args)]
pub(super) struct OutputArgs {
    /// The run, as `fencron runs` shows it
    pub run: RunId,
    /// Which attempt, counted from 1; by default the last one
    #[arg(long, value_name = "N", env = "FENCRON_OUTPUT_ATTEMPT", value_parser = clap::value_parser!(u32).range(1..))]
    pub attempt: Option<u32>,
    /// Read the file below this directory of this machine (`output.dir` of the job), and ask no node and no store
    #[arg(long, value_name = "DIR", env = "FENCRON_OUTPUT_DIR")]
    pub dir: Option<PathBuf>,
}

/// Prints the whole output of an attempt, as its bytes are.
pub(super) async fn output(args: &OutputArgs, global: &Global, terminal: &mut Terminal) -> anyhow::Result<Exit> {
    match &args.dir {
        Some(dir) => below(dir, args, global, terminal),
        None => logs::whole(args, global, terminal).await,
    }
}

fn below(dir: &std::path::Path, args: &OutputArgs, global: &Global, terminal: &mut Terminal) -> anyhow::Result<Exit> {
    let namespace = global.namespace()?.map_or_else(|| DEFAULT_NAMESPACE.to_owned(), |name| name.to_string());
    let unreadable = |error| Failure::new(Exit::Failed, format!("cannot read below {}: {error}", dir.display()));
    let attempt = match args.attempt {
        Some(attempt) => Some(attempt),
        None => Place::last_attempt(dir, &namespace, &args.run).map_err(unreadable)?,
    };
    let missing = || {
        let (run, dir) = (&args.run, dir.display());
        let which = args.attempt.map_or_else(String::new, |attempt| format!("the attempt {attempt} of "));
        let what = format!("there is no whole output of {which}{run} below {dir} in the namespace {namespace}");
        Failure::new(Exit::Failed, format!("{what}: name another with --namespace, or ask its node without --dir"))
    };
    let place = attempt.map(|attempt| Place::below(dir, &namespace, &args.run, attempt)).ok_or_else(missing)?;
    let mut offset = 0;
    loop {
        let (bytes, size) = place.read(offset, PIECE).map_err(unreadable)?.ok_or_else(missing)?;
        terminal.write_bytes(&bytes)?;
        offset += bytes.len() as u64;
        // What is written meanwhile is shown as well, up to the end that was last seen.
        if bytes.is_empty() || offset >= size {
            return Ok(Exit::Done);
        }
    }
}
