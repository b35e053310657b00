//! What is wrong with what was found: each rule is given what it judges, and reads no clock and no store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::api::view::{NodeView, Overview, UnknownView};
use crate::cli::spread::Spread;
use crate::config::Config;
use crate::job::{Job, JobName, Trigger};
use crate::ledger::Pause;
use crate::lock::Timing;
use crate::time::{Wall, written};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// How far ahead changes of the clocks are looked for, and at how many fires of a job.
const CHANGES_WITHIN: Duration = Duration::from_secs(14 * 24 * 3600);
const FIRES_LOOKED_AT: usize = 1000;

/// How long a certificate has to be valid at least.
const VALID_LEAST: Duration = Duration::from_secs(21 * 24 * 3600);

/// How long a job may be paused before it is probably forgotten.
const PAUSED_LONG: Duration = Duration::from_secs(30 * 24 * 3600);

/// How long after it was due a job that has no run may still get one.
const FIRED_WITHIN: Duration = Duration::from_secs(3600);

/// How many open files, and processes, a running command takes; and a node beside them.
const FILES_EACH: u64 = 6;
const FILES_BESIDE: u64 = 256;
const PROCESSES_EACH: u64 = 4;
const PROCESSES_BESIDE: u64 = 64;

/// How many names are listed in a finding.
const NAMED: usize = 5;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    Warning,
    Broken,
}

/// Something that is wrong, or soon will be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Found {
    pub level: Level,
    /// What, and why it matters.
    pub what: String,
    /// What to do.
    pub fix: String,
}

impl Found {
    pub fn warning(what: impl Into<String>, fix: impl Into<String>) -> Found {
        Found { level: Level::Warning, what: what.into(), fix: fix.into() }
    }

    pub fn broken(what: impl Into<String>, fix: impl Into<String>) -> Found {
        Found { level: Level::Broken, what: what.into(), fix: fix.into() }
    }
}

/// The first of the names, and that there are more.
fn named(names: &[String]) -> String {
    let more = if names.len() > NAMED { format!(" and {} more", names.len() - NAMED) } else { String::new() };
    format!("{}{more}", names[..names.len().min(NAMED)].join(", "))
}

/// A keep-alive that takes longer than a sixth of the TTL is repeated at another member.
pub(super) fn latency(spread: Option<Spread>, timing: &Timing) -> Vec<Found> {
    let Some(spread) = spread else { return Vec::new() };
    let most = timing.answer_within().as_secs_f64() * 1000.0;
    let (p99, ttl) = (spread.p99, written(timing.ttl()));
    let what = format!("99 of 100 writes took up to {p99:.0} ms, and with a TTL of {ttl} a node expects {most:.0} ms");
    let fix = "give it faster disks and a shorter way, or the nodes a longer --ttl";
    if p99 >= most {
        vec![Found::broken(format!("{what}: leaderships will be lost"), fix)]
    } else if p99 >= most / 2.0 {
        vec![Found::warning(what, fix)]
    } else {
        Vec::new()
    }
}

pub(super) fn defects(warnings: &[String]) -> Vec<Found> {
    warnings.iter().map(|warning| Found::warning(warning, "see the page for versions, quotas and alarms")).collect()
}

pub(super) fn leadership(overview: &Overview) -> Vec<Found> {
    let in_the_way = overview.obstacles.iter().map(|why| Found::broken(why, "remove what is in the way"));
    let mut found: Vec<Found> = in_the_way.collect();
    if overview.leader.is_none() && !overview.nodes.is_empty() {
        let what = format!("none of the nodes leads in {}, so that no job fires", overview.namespace);
        found.push(Found::broken(what, "`fencron status` says of each why it does not"));
    }
    if let Some(behind) = overview.behind_ms {
        let behind = written(Duration::from_secs(behind / 1000));
        let what = format!("the clock is {behind} behind what has been decided, and nothing is due until then");
        found.push(Found::broken(what, "set the clock, or go back with `fencron rewind`"));
    }
    found
}

/// What the kernel knows of its clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KernelClock {
    pub is_synchronised: bool,
}

pub(super) fn clock(clock: Option<KernelClock>) -> Vec<Found> {
    match clock {
        Some(KernelClock { is_synchronised: false }) => {
            let what = "the kernel does not know the clock to be synchronised, and schedules fire by it";
            vec![Found::warning(
                what,
                "run chrony, systemd-timesyncd or another NTP client, on the host of a container",
            )]
        }
        _ => Vec::new(),
    }
}

/// The jobs of which a fire is moved, repeated or left out by a change of the clocks soon.
pub(super) fn clock_changes<'a>(jobs: impl Iterator<Item = &'a Arc<Job>>, now: Wall) -> Vec<Found> {
    let mut by_note: BTreeMap<(Wall, String), Vec<String>> = BTreeMap::new();
    for job in jobs {
        let Trigger::Schedule { schedule, .. } = &job.trigger else { continue };
        let fires = schedule.between(now, now.plus(CHANGES_WITHIN)).take(FIRES_LOOKED_AT);
        let noted = fires.map(|at| schedule.explain(at)).find_map(|fire| Some((fire.scheduled_at, fire.note?)));
        if let Some((at, note)) = noted {
            by_note.entry((at, note)).or_default().push(job.name.to_string());
        }
    }
    let found = by_note.into_iter().map(|((at, note), jobs)| {
        Found::warning(
            format!("at {at} the clocks change for {}: {note}", named(&jobs)),
            "see whether `dst` says what you mean",
        )
    });
    found.collect()
}

/// The digests of the nodes' files, and of the file here.
pub(super) fn files_agree(nodes: &[NodeView], config: Option<&Config>) -> Vec<Found> {
    let mut by_digest: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for node in nodes {
        by_digest.entry(&node.config_digest).or_default().push(node.node.clone());
    }
    let mut found = Vec::new();
    if by_digest.len() > 1 {
        let each = by_digest.iter().map(|(digest, nodes)| format!("{digest} on {}", named(nodes)));
        let what = format!("the nodes have different jobs files ({})", each.collect::<Vec<_>>().join("; "));
        found.push(Found::warning(what, "give all nodes the same file: the one of the leader counts"));
    }
    if let (Some(config), [(digest, _)]) = (config, &by_digest.iter().collect::<Vec<_>>()[..])
        && **digest != config.digest
    {
        let what = format!("the nodes have another jobs file ({digest}) than the one here ({})", config.digest);
        found.push(Found::warning(what, "copy it to the nodes, or look at the file that they have"));
    }
    found
}

/// Whether a program can be started: its job, and why not.
pub(super) fn programs(wrong: Vec<(JobName, String)>) -> Vec<Found> {
    let found = wrong.into_iter().map(|(job, why)| {
        let fix = "install it, make it executable for this user, or correct `command` and `dir`";
        Found::broken(format!("{job} cannot be started here: {why}"), fix)
    });
    found.collect()
}

/// Bounds that cannot be kept here: the job, and why not.
pub(super) fn bounds(wrong: Vec<(JobName, String)>) -> Vec<Found> {
    let found = wrong.into_iter().map(|(job, why)| {
        let fix = "start nodes as a user that can keep it, or correct the job";
        Found::broken(format!("the bounds of {job} cannot be kept here: {why}"), fix)
    });
    found.collect()
}

/// Hosts that have no address, with the jobs that ask them.
pub(super) fn hosts(unresolved: BTreeMap<String, (Vec<String>, String)>) -> Vec<Found> {
    let found = unresolved.into_iter().map(|(host, (jobs, why))| {
        Found::broken(format!("{host} is not found ({why}), which {} ask", named(&jobs)), "correct the URL, or the DNS")
    });
    found.collect()
}

/// A file of certificates, and what is in it: until when the first of them ends.
pub(super) fn certificates(files: BTreeMap<String, Result<Wall, String>>, now: Wall) -> Vec<Found> {
    let judged = files.into_iter().filter_map(|(file, end)| match end {
        Err(why) => Some(Found::broken(format!("{file} cannot be used: {why}"), "correct the path, or renew the file")),
        Ok(end) if end <= now => Some(Found::broken(format!("{file} has ended at {end}"), "renew it")),
        Ok(end) if end.since(now) < VALID_LEAST => {
            let days = end.since(now).as_secs() / DAY.as_secs();
            Some(Found::warning(format!("{file} ends in {days} days, at {end}"), "renew it"))
        }
        Ok(_) => None,
    });
    judged.collect()
}

pub(super) fn nodes(nodes: &[NodeView]) -> Vec<Found> {
    let mut found = Vec::new();
    for node in nodes {
        if let Some(why) = node.stands_back.as_ref().filter(|_| node.drained) {
            let fix = format!("`fencron undrain {}`, once it may lead again", node.node);
            found.push(Found::warning(format!("{} is {why}", node.node), fix));
        } else if let Some(why) = &node.stands_back {
            let what = format!("{} does not contend for the leadership: {why}", node.node);
            found.push(Found::broken(what, "remove what keeps it"));
        }
        let troubles = node.troubles.iter();
        found.extend(troubles.map(|why| Found::warning(format!("{}: {why}", node.node), "see its log")));
    }
    match nodes {
        [] => found.push(Found::broken("no node runs, so that no job fires", "start one with `fencron run FILE`")),
        [one] => {
            let what = format!("{} is the only node: when it is lost no other takes over", one.node);
            found.push(Found::warning(what, "start another, where jobs must go on without this machine"));
        }
        _ => {}
    }
    found
}

/// Nodes whose listeners do not answer here, and why.
pub(super) fn addresses(silent: Vec<(String, String)>) -> Vec<Found> {
    let found = silent.into_iter().map(|(node, why)| {
        let what = format!("the listener of {node} is not reached from here: {why}");
        Found::warning(what, "give the node an --advertise that others reach, and open the port to them")
    });
    found.collect()
}

/// What this user may have at once; `None`: as many as it likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    pub files: Option<u64>,
    pub processes: Option<u64>,
}

pub(super) fn limits(limits: &Limits, max_running: usize) -> Vec<Found> {
    let runs = max_running as u64;
    let needed = [
        ("open files (NOFILE)", limits.files, runs * FILES_EACH + FILES_BESIDE),
        ("processes (NPROC)", limits.processes, runs * PROCESSES_EACH + PROCESSES_BESIDE),
    ];
    let found = needed.into_iter().filter_map(|(what, limit, needed)| {
        let limit = limit.filter(|limit| *limit < needed)?;
        let what = format!("this user may have {limit} {what}, and {max_running} runs at once may need {needed}");
        Some(Found::warning(what, "raise the limit of the nodes' user or unit, or lower --max-running"))
    });
    found.collect()
}

pub(super) fn in_doubt(unknown: &UnknownView) -> Vec<Found> {
    if unknown.count == 0 {
        return Vec::new();
    }
    let runs: Vec<String> = unknown.runs.iter().map(ToString::to_string).collect();
    let what = format!("{} in doubt: {}", crate::page::words::count(unknown.count, "run"), named(&runs));
    vec![Found::warning(what, "find out what they did, then `fencron resolve RUN --as succeeded|failed|retry`")]
}

pub(super) fn paused(paused: &[(JobName, Pause)], now: Wall) -> Vec<Found> {
    let long = paused.iter().filter(|(_, pause)| pause.until.is_none() && now.since(pause.asked.at) > PAUSED_LONG);
    let found = long.map(|(job, pause)| {
        let days = now.since(pause.asked.at).as_secs() / DAY.as_secs();
        let what = format!("{job} has been paused for {days} days, by {}", pause.asked.by);
        Found::warning(what, format!("`fencron resume {job}`, or take it out of the file"))
    });
    found.collect()
}

/// Jobs that were due after they were first seen, and of which no run is known.
pub(super) fn never_fired(jobs: &[(Arc<Job>, Wall)], now: Wall) -> Vec<Found> {
    let mut names = Vec::new();
    for (job, since) in jobs {
        let Trigger::Schedule { schedule, .. } = &job.trigger else { continue };
        if schedule.next_after(*since).is_some_and(|due| due.plus(FIRED_WITHIN) < now) {
            names.push(job.name.to_string());
        }
    }
    if names.is_empty() {
        return Vec::new();
    }
    let what = format!("due, and never fired or skipped: {}", named(&names));
    vec![Found::warning(what, "look at the leader and its log")]
}

pub(super) fn versions(nodes: &[NodeView]) -> Vec<Found> {
    let versions: BTreeSet<&str> = nodes.iter().map(|node| node.version.as_str()).collect();
    if versions.len() < 2 {
        return Vec::new();
    }
    let all = versions.into_iter().collect::<Vec<_>>().join(", ");
    vec![Found::warning(format!("the nodes have different versions ({all})"), "finish the upgrade")]
}

/// Whether others may write to the file, or to what has to be kept secret.
pub(super) fn mode(file: &str, mode: u32) -> Vec<Found> {
    if mode & 0o002 == 0 {
        return Vec::new();
    }
    let what =
        format!("every user of this machine may write to {file} (mode {:o}), and so run commands", mode & 0o7777);
    vec![Found::broken(what, format!("chmod o-w {file}"))]
}

/// Channels, and why they did not take a trial.
pub(super) fn channels(refused: Vec<(String, String)>) -> Vec<Found> {
    let found = refused.into_iter().map(|(channel, why)| {
        Found::broken(format!("{channel} did not take a trial: {why}"), "correct it in `notify`, or its receiver")
    });
    found.collect()
}

#[cfg(test)]
mod tests;
