//! `fencron doctor`: looks for what is wrong, or soon will be, with the store, the clock, the jobs file, the nodes and the
//! ledger, and says why it matters and what to do.

use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use clap::Args;
use futures_util::future::join_all;
use serde::Serialize;

use super::run::tls::TlsArgs;
use super::terminal::{Terminal, named_lines};
use super::{Exit, Failure, Global};
use crate::lock::Timing;
use look::Looking;
use rules::{Found, Level};

mod look;
mod machine;
mod rules;
mod servers;

/// How long a check may take. They run beside each other.
const CHECK_WITHIN: Duration = Duration::from_secs(15);

/// A check, for the table of them in the documents.
struct Check {
    name: &'static str,
    group: &'static str,
    /// The page about what it finds.
    docs: &'static str,
}

/// All checks, in the order in which they are shown.
const CHECKS: &[Check] = &[
    Check { name: "store-answers", group: "store", docs: "docs/operations.md#a-store-that-is-slow-or-away" },
    Check { name: "store-latency", group: "store", docs: "docs/operations.md#a-store-that-is-slow-or-away" },
    Check { name: "store-defects", group: "store", docs: "docs/operations.md#what-a-store-warns-of" },
    Check { name: "etcd-members", group: "store", docs: "docs/operations.md#members-of-etcd" },
    Check { name: "leadership", group: "store", docs: "docs/operations.md#no-node-leads" },
    Check { name: "state-directory", group: "store", docs: "docs/operations.md#a-store-that-was-restored" },
    Check { name: "clock-synchronised", group: "time", docs: "docs/operations.md#clocks-that-differ" },
    Check { name: "clocks", group: "time", docs: "docs/operations.md#clocks-that-differ" },
    Check { name: "clock-changes", group: "time", docs: "docs/schedules.md#days-on-which-clocks-are-changed" },
    Check { name: "zones", group: "time", docs: "docs/operations.md#time-zones-that-are-out-of-date" },
    Check { name: "jobs-file", group: "config", docs: "docs/configuration.md#problems" },
    Check { name: "jobs-file-mode", group: "config", docs: "docs/security.md#who-is-trusted-with-what" },
    Check {
        name: "jobs-file-agrees",
        group: "config",
        docs: "docs/operations.md#jobs-files-that-differ-or-are-refused",
    },
    Check { name: "programs", group: "config", docs: "docs/operations.md#a-job-that-fails" },
    Check { name: "bounds", group: "config", docs: "docs/configuration.md#the-bounds-of-a-command" },
    Check { name: "hosts", group: "config", docs: "docs/configuration.md#http" },
    Check { name: "databases", group: "config", docs: "docs/configuration.md#sql" },
    Check { name: "certificates", group: "config", docs: "docs/operations.md#certificates" },
    Check { name: "auth-file", group: "config", docs: "docs/access.md" },
    Check { name: "nodes", group: "node", docs: "docs/operations.md#a-node-that-is-not-ready" },
    Check { name: "addresses", group: "node", docs: "docs/cli.md#run-file" },
    Check { name: "limits", group: "node", docs: "docs/deployment.md#systemd" },
    Check { name: "units", group: "node", docs: "docs/deployment.md#systemd" },
    Check { name: "runs-in-doubt", group: "ledger", docs: "docs/operations.md#runs-with-an-unknown-end" },
    Check { name: "paused", group: "ledger", docs: "docs/cli.md#steering" },
    Check { name: "never-fired", group: "ledger", docs: "docs/operations.md#due-and-not-decided" },
    Check { name: "versions", group: "ledger", docs: "docs/care.md#upgrading" },
    Check { name: "channels", group: "alerts", docs: "docs/alerts.md#channels" },
];

#[derive(Args)]
pub(super) struct DoctorArgs {
    /// The jobs files, or directories of them [default: jobs.yaml, where there is one]
    #[arg(value_name = "FILE", env = "FENCRON_FILE")]
    file: Vec<PathBuf>,
    /// Exit with 1 for warnings too
    #[arg(long)]
    strict: bool,
    /// The --ttl of the nodes, against which the latency of the store is judged
    #[arg(long, env = "FENCRON_TTL", default_value = "10s", value_parser = super::duration)]
    ttl: Duration,
    /// The --max-running of the nodes, against which the limits of this user are judged
    #[arg(long, value_name = "N", env = "FENCRON_MAX_RUNNING", default_value_t = crate::execute::MAX_RUNNING)]
    max_running: usize,
    /// The --shutdown-grace of the nodes, against which units of systemd are judged
    #[arg(long, env = "FENCRON_SHUTDOWN_GRACE", default_value = "30s", value_parser = super::duration)]
    shutdown_grace: Duration,
    /// The --max-clock-skew of the nodes, against which clocks are judged
    #[arg(long, env = "FENCRON_MAX_CLOCK_SKEW", default_value = "2s", value_parser = super::duration)]
    max_clock_skew: Duration,
    /// The --auth of the nodes, to look at the file
    #[arg(long, value_name = "FILE", env = "FENCRON_AUTH")]
    auth: Option<PathBuf>,
    #[command(flatten)]
    tls: TlsArgs,
    /// Send a trial through each channel of alerts, and a heartbeat
    #[arg(long)]
    send: bool,
}

/// What a check came to.
#[derive(Debug)]
enum Outcome {
    Looked(Vec<Found>),
    /// It does not apply, or what it needs is not there.
    Skipped(String),
}

#[derive(Serialize)]
struct DoctorView {
    /// Nothing is broken.
    ok: bool,
    checks: Vec<CheckView>,
}

#[derive(Serialize)]
struct CheckView {
    check: &'static str,
    group: &'static str,
    /// `ok`, `warning`, `broken` or `skipped`.
    state: &'static str,
    /// Why it was skipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    findings: Vec<Found>,
    docs: &'static str,
}

type Checking<'a> = Pin<Box<dyn Future<Output = (&'static str, Outcome)> + 'a>>;

pub(super) async fn doctor(args: &DoctorArgs, global: &Global, terminal: &mut Terminal) -> anyhow::Result<Exit> {
    let timing = Timing::from_ttl(args.ttl).map_err(|error| Failure::wrong(format!("--ttl: {error}")))?;
    let looking = Looking::begin(&args.file, global, timing, CHECK_WITHIN).await;
    let outcomes = join_all(checks(&looking, args, global)).await;
    let view = view(outcomes);
    terminal.show(&view, text)?;
    let is_bad = |check: &CheckView| check.state == "broken" || args.strict && check.state == "warning";
    Ok(if view.checks.iter().any(is_bad) { Exit::Failed } else { Exit::Done })
}

/// The checks, each with its bound.
fn checks<'a>(looking: &'a Looking, args: &'a DoctorArgs, global: &'a Global) -> Vec<Checking<'a>> {
    vec![
        bounded("store-answers", async { looking.store_answers() }),
        bounded("store-latency", looking.store_latency()),
        bounded("store-defects", looking.overview_of(|overview, _| rules::defects(&overview.store.warnings))),
        bounded("etcd-members", looking.members()),
        bounded("leadership", looking.overview_of(|overview, _| rules::leadership(overview))),
        bounded("state-directory", async { look::state_directory(global, looking) }),
        bounded("clock-synchronised", async { Outcome::Looked(rules::clock(machine::kernel_clock())) }),
        bounded("clocks", looking.clocks(global, args.max_clock_skew)),
        bounded("clock-changes", looking.config_of(|config, now| rules::clock_changes(config.jobs.values(), now))),
        bounded("zones", async { machine::zones(looking.clock.wall()) }),
        bounded("jobs-file", async { looking.jobs_file() }),
        bounded("jobs-file-mode", async { looking.jobs_file_mode() }),
        bounded("jobs-file-agrees", async { looking.files_agree() }),
        bounded("programs", looking.config_of(|config, _| rules::programs(look::programs(config)))),
        bounded("bounds", looking.config_of(|config, _| rules::bounds(look::bounds(config)))),
        bounded("hosts", looking.hosts()),
        bounded("databases", looking.databases()),
        bounded("certificates", looking.certificates(&args.tls)),
        bounded("auth-file", servers::auth(args.auth.as_deref(), &looking.clock)),
        bounded("nodes", looking.overview_of(|overview, _| rules::nodes(&overview.nodes))),
        bounded("addresses", looking.addresses(global)),
        bounded("limits", async { Outcome::Looked(rules::limits(&machine::limits(), args.max_running)) }),
        bounded("units", machine::units(looking.needs(args.shutdown_grace, args.max_running))),
        bounded("runs-in-doubt", looking.overview_of(|overview, _| rules::in_doubt(&overview.unknown))),
        bounded("paused", looking.paused()),
        bounded("never-fired", looking.never_fired()),
        bounded("versions", looking.overview_of(|overview, _| rules::versions(&overview.nodes))),
        bounded("channels", looking.channels(args.send)),
    ]
}

fn bounded<'a>(name: &'static str, check: impl Future<Output = Outcome> + 'a) -> Checking<'a> {
    Box::pin(async move {
        let late = || {
            let within = CHECK_WITHIN.as_secs();
            let what = format!("it was not known within {within} s");
            Outcome::Looked(vec![Found::warning(what, "run it again; what does not answer is slow or away")])
        };
        (name, tokio::time::timeout(CHECK_WITHIN, check).await.unwrap_or_else(|_| late()))
    })
}

fn view(outcomes: Vec<(&'static str, Outcome)>) -> DoctorView {
    let mut outcomes: std::collections::BTreeMap<&str, Outcome> = outcomes.into_iter().collect();
    let checks = CHECKS.iter().filter_map(|check| {
        let outcome = outcomes.remove(check.name)?;
        let (why, findings) = match outcome {
            Outcome::Looked(findings) => (None, findings),
            Outcome::Skipped(why) => (Some(why), Vec::new()),
        };
        let state = match findings.iter().map(|found| found.level).max() {
            Some(Level::Broken) => "broken",
            Some(Level::Warning) => "warning",
            None if why.is_some() => "skipped",
            None => "ok",
        };
        Some(CheckView { check: check.name, group: check.group, state, why, findings, docs: check.docs })
    });
    let checks: Vec<CheckView> = checks.collect();
    DoctorView { ok: checks.iter().all(|check| check.state != "broken"), checks }
}

/// Where in a line begins what is said.
const INDENT: usize = "broken   clock-synchronised  ".len();

fn text(view: &DoctorView) -> String {
    let mut lines = String::new();
    let mut docs = Vec::new();
    for check in &view.checks {
        let head = format!("{:<9}{:<20}", check.state, check.check);
        let why = check.why.as_deref().unwrap_or_default();
        if check.findings.is_empty() {
            lines += &format!("{}\n", format!("{head}{why}").trim_end());
        }
        for found in &check.findings {
            lines += &format!("{:<9}{:<20}{}: {}\n", found.level.as_str(), check.check, found.what, found.fix);
            docs.push(check.docs);
        }
    }
    docs.dedup();
    let mut text = named_lines(&lines, INDENT);
    let findings = || view.checks.iter().flat_map(|check| &check.findings);
    let count = |level: Level| findings().filter(|found| found.level == level).count();
    let skipped = view.checks.iter().filter(|check| check.state == "skipped").count();
    text += &format!("{} broken, {} to look at, {skipped} skipped\n", count(Level::Broken), count(Level::Warning));
    if !docs.is_empty() {
        text += &named_lines(&format!("see {}\n", docs.join(", ")), "see ".len());
    }
    text
}

#[cfg(test)]
mod tests;
