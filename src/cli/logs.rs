//! `fencron logs`: what a run wrote, also while it runs on another node.

use std::net::IpAddr;
use std::time::Duration;

use clap::Args;
use clap::builder::FalseyValueParser;
use reqwest::{Client, Response, StatusCode};
use tokio::time::timeout;

use super::output::OutputArgs;
use super::steer::tell_verdict;
use super::terminal::Terminal;
use super::{Exit, Failure, Global, asking};
use crate::api::access::{TICKET_HEADER, ticket};
use crate::job::{RunId, Verdict};
use crate::ledger::{AskError, Ledger, RunRow};
use crate::page::words::nothing_kept;
use crate::scheduler::run::{Claimant, Done};
use crate::store::AnyStore;
use crate::time::Clock;

/// How long a node has to begin its answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// How long nothing may come of a run before it is looked at whether it still runs there.
const QUIET_MOST: Duration = Duration::from_secs(15);

/// How much a node may say of itself, in bytes.
const STATUS_MOST: u64 = 64 * 1024;

/// How often a run that cannot be streamed is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

#[derive(Args)]
pub(super) struct LogsArgs {
    /// The run, as `fencron runs` shows it
    run: RunId,
    /// Follow the output until the run has ended, then print its verdict
    #[arg(short, long, env = "FENCRON_LOGS_FOLLOW", value_parser = FalseyValueParser::new())]
    follow: bool,
}

/// Prints what a run wrote: what is kept of it, or what the node that runs it has.
pub(super) async fn logs(args: &LogsArgs, global: &Global, terminal: &mut Terminal) -> anyhow::Result<Exit> {
    let reader = open(&args.run, global, terminal).await?;
    if args.follow { reader.follow().await } else { reader.once().await }
}

/// Prints all that an attempt wrote, from the node that keeps it in a file.
pub(super) async fn whole(args: &OutputArgs, global: &Global, terminal: &mut Terminal) -> anyhow::Result<Exit> {
    open(&args.run, global, terminal).await?.whole(args.attempt).await
}

async fn open<'a>(run: &'a RunId, global: &Global, terminal: &'a mut Terminal) -> anyhow::Result<Reader<'a>> {
    let place = global.open(None).await?;
    let http = asking::built(asking::client(global.tls_ca.as_deref())?)?;
    let clock = place.clock.clone();
    Ok(Reader { ledger: place.ledger(), http, clock, run, terminal, shown: None, reported: None })
}

/// Reads one run's output.
struct Reader<'a> {
    ledger: Ledger<AnyStore>,
    http: Client,
    clock: Clock,
    run: &'a RunId,
    terminal: &'a mut Terminal,
    /// The attempt whose output has been shown to its end.
    shown: Option<u32>,
    /// The last report of why nothing is shown, so that it is printed once.
    reported: Option<String>,
}

/// What a node is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// What it has of the output now.
    SoFar,
    /// The output until the attempt ends.
    ToTheEnd,
    /// The file with all of what this attempt wrote.
    Whole { attempt: u32 },
}

/// The result of asking the node that runs it.
enum Streamed {
    ToTheEnd,
    /// It cannot be asked, or broke off.
    No(String),
    /// It does not run it (yet, or any more).
    NotThere,
}

impl Reader<'_> {
    async fn once(mut self) -> anyhow::Result<Exit> {
        match self.look().await? {
            RunRow::Done(done) => {
                self.terminal.write(&done.output)?;
                if done.output.is_empty() {
                    self.report(match &done.claimant {
                        Some(claimant) if done.verdict == Verdict::Unknown => format!(
                            "nothing that it wrote is kept: the node {} was lost before; the log of that node has it",
                            claimant.node
                        ),
                        _ => nothing_kept(&done),
                    });
                }
            }
            RunRow::Open(open) => match open.claimant {
                Some(claimant) => match self.stream(&claimant, Asked::SoFar).await? {
                    Streamed::ToTheEnd => {}
                    Streamed::NotThere => self.report("it is just starting, or just ending".to_owned()),
                    Streamed::No(why) => {
                        self.report(format!("{why}; what is kept of it can be read when it has ended"))
                    }
                },
                None => self.report("it has not started yet".to_owned()),
            },
        }
        Ok(Exit::Done)
    }

    async fn follow(mut self) -> anyhow::Result<Exit> {
        loop {
            match self.look().await? {
                RunRow::Done(done) => return self.ended(&done),
                RunRow::Open(open) => match open.claimant.filter(|_| self.shown != Some(open.attempt)) {
                    Some(claimant) => match self.stream(&claimant, Asked::ToTheEnd).await? {
                        Streamed::ToTheEnd => self.shown = Some(open.attempt),
                        Streamed::NotThere => {}
                        Streamed::No(why) => self.report(format!("{why}; waiting for what is kept of it at its end")),
                    },
                    None if open.attempt == 0 => self.report("it has not started yet".to_owned()),
                    None => {}
                },
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn whole(mut self, attempt: Option<u32>) -> anyhow::Result<Exit> {
        let row = self.look().await?;
        let (claimant, last) = row.last_attempt();
        let (run, attempt) = (self.run, attempt.unwrap_or(last));
        let Some(claimant) = claimant else {
            return Err(Failure::new(Exit::Failed, format!("{run}: no node has begun it")).into());
        };
        let node = &claimant.node;
        let why = match self.stream(claimant, Asked::Whole { attempt }).await? {
            Streamed::ToTheEnd => return Ok(Exit::Done),
            Streamed::NotThere => format!(
                "the node {node} has no whole output of its attempt {attempt}: its job keeps none (`output.dir`), the file \
                 was deleted (`output.keep`), or another node made this attempt"
            ),
            Streamed::No(why) => format!(
                "the whole output of its attempt {attempt} is on the node {node}, if anywhere: {why}. On that machine: \
                 fencron output --dir DIR {run}"
            ),
        };
        Err(Failure::new(Exit::Failed, format!("{run}: {why}")).into())
    }

    fn ended(self, done: &Done) -> anyhow::Result<Exit> {
        if self.shown != Some(done.attempt) {
            self.terminal.write(&done.output)?;
        }
        tell_verdict(done, self.terminal);
        Ok(Exit::Done)
    }

    async fn look(&self) -> anyhow::Result<RunRow> {
        // Twice: a run that ends between the look at the open ones and the look at the others is in neither.
        let row = match self.ledger.run(self.run).await? {
            None => self.ledger.run(self.run).await?,
            row => row,
        };
        row.ok_or_else(|| AskError::NoSuchRun(self.run.clone()).into())
    }

    /// Prints what the node that claimed the run has of it.
    async fn stream(&mut self, claimant: &Claimant, asked: Asked) -> anyhow::Result<Streamed> {
        let (follow, is_whole) = (asked == Asked::ToTheEnd, matches!(asked, Asked::Whole { .. }));
        let node = &claimant.node;
        let nodes = self.ledger.nodes().await?;
        // A file is still there when its node was started again.
        let at = nodes.iter().position(|(lease, _)| *lease == claimant.lease);
        let at = at.or_else(|| nodes.iter().position(|(_, record)| is_whole && record.node == *node));
        let Some((_, record)) = at.and_then(|at| nodes.into_iter().nth(at)) else {
            return Ok(Streamed::No(format!("the node {node}, which ran it, is gone")));
        };
        let Some(address) = record.address else {
            return Ok(Streamed::No(format!("the node {node}, which runs it, has no listener")));
        };
        if let Err(why) = self.is_at(node, &address).await {
            return Ok(Streamed::No(why));
        }
        let query = match asked {
            Asked::SoFar | Asked::ToTheEnd => format!("follow={}", u8::from(follow)),
            Asked::Whole { attempt } => format!("whole=1&attempt={attempt}"),
        };
        let url = asking::url(&address, &format!("/api/v1/runs/{}/output?{query}", self.run));
        let mut question = self.http.get(url);
        // By the key in the store. A reader of the store who cannot write there, and so make the first one, is a caller
        // like any other.
        if let Ok(ticket) = ticket(&self.ledger, self.run, self.clock.wall()).await {
            question = question.header(TICKET_HEADER, ticket);
        }
        let mut answer = match timeout(ANSWER_WITHIN, question.send()).await {
            Ok(Ok(answer)) if answer.status() == StatusCode::OK => answer,
            Ok(Ok(answer)) if matches!(answer.status(), StatusCode::CONFLICT | StatusCode::NOT_FOUND) => {
                return Ok(Streamed::NotThere);
            }
            Ok(Ok(answer)) => {
                let status = answer.status();
                let why = reason(answer).await.map_or_else(String::new, |why| format!(": {why}"));
                return Ok(Streamed::No(format!("the node {node} at {address} answers {status}{why}")));
            }
            Ok(Err(_)) | Err(_) => return Ok(Streamed::No(unreachable(node, &address))),
        };
        let mut begun = Vec::new();
        loop {
            match timeout(QUIET_MOST, answer.chunk()).await {
                Ok(Ok(Some(chunk))) if is_whole => self.terminal.write_bytes(&chunk)?,
                Ok(Ok(Some(chunk))) => {
                    begun.extend_from_slice(&chunk);
                    let whole = begun.len() - cut_character(&begun);
                    let rest = begun.split_off(whole);
                    self.terminal.write(&String::from_utf8_lossy(&begun))?;
                    begun = rest;
                }
                Ok(Ok(None)) => return Ok(Streamed::ToTheEnd),
                Ok(Err(_)) => return Ok(Streamed::No(format!("the connection to {node} at {address} broke"))),
                // A run may be silent; a node that was cut off is as well.
                Err(_) if follow && self.is_claimed_by(claimant).await? => {}
                Err(_) => return Ok(Streamed::No(format!("the node {node} at {address} has stopped answering"))),
            }
        }
    }

    /// That it is this node that answers at its address: a loopback address is another machine's on each.
    async fn is_at(&self, node: &str, address: &str) -> Result<(), String> {
        let ask = async {
            let answer = self.http.get(asking::url(address, "/readyz")).send().await.ok()?;
            if answer.content_length().is_none_or(|length| length > STATUS_MOST) {
                return None;
            }
            serde_json::from_slice::<serde_json::Value>(&answer.bytes().await.ok()?).ok()
        };
        let answer = timeout(ANSWER_WITHIN, ask).await.ok().flatten();
        match answer.as_ref().and_then(|status| status["node"].as_str()) {
            Some(name) if name == node => Ok(()),
            _ => Err(unreachable(node, address)),
        }
    }

    async fn is_claimed_by(&self, claimant: &Claimant) -> anyhow::Result<bool> {
        Ok(match self.look().await? {
            RunRow::Open(open) => open.claimant.is_some_and(|now| now.lease == claimant.lease),
            RunRow::Done(_) => false,
        })
    }

    fn report(&mut self, message: String) {
        if self.reported.as_ref() != Some(&message) {
            self.terminal.say(format_args!("fencron: {}: {message}", self.run));
            self.reported = Some(message);
        }
    }
}

/// What a node says of why it does not answer.
async fn reason(answer: Response) -> Option<String> {
    if answer.content_length().is_none_or(|length| length > STATUS_MOST) {
        return None;
    }
    let body = timeout(ANSWER_WITHIN, answer.bytes()).await.ok()?.ok()?;
    let problem: serde_json::Value = serde_json::from_slice(&body).ok()?;
    problem["message"].as_str().map(|why| why.chars().filter(|c| !c.is_control()).collect())
}

/// Why a node cannot be asked, and what would change that.
fn unreachable(node: &str, address: &str) -> String {
    let host = asking::host(address);
    let is_loopback = host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
    let what_to_do = if is_loopback {
        ": it listens for its own machine only; `run --listen` lets others reach it, `--advertise` says by what"
    } else {
        ""
    };
    format!("the node {node} cannot be reached at {address}{what_to_do}")
}

/// How many bytes at the end of a piece are the beginning of a character whose rest comes with the next.
fn cut_character(bytes: &[u8]) -> usize {
    match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() => bytes.len() - error.valid_up_to(),
        _ => 0,
    }
}
