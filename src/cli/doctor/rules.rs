//! What is wrong with what was found: each rule is given what it judges, and reads no clock and no store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::api::view::{NodeView, Overview, UnknownView};
use crate::cli::spread::Spread;
use crate::config::Config;
use crate::config::auth::TokenRule;
use crate::execute::Fitness;
use crate::job::{Job, JobName, Trigger};
use crate::ledger::Pause;
use crate::lock::Timing;
use crate::node::JOBS_FILE;
use crate::store::About;
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

/// From how many years on data about time zones is too old.
const ZONES_OLD: i32 = 2;

/// How many names are listed in a finding.
const NAMED: usize = 5;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    Warning,
    Broken,
}

impl Level {
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Warning => "warning",
            Level::Broken => "broken",
        }
    }
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

/// The digests of the nodes' files, and of the file here; a file that a node refuses is none of them.
pub(super) fn files_agree(nodes: &[NodeView], config: Option<&Config>) -> Vec<Found> {
    let refused = format!("{JOBS_FILE} is refused");
    let refuses = |node: &&NodeView| node.troubles.iter().any(|trouble| trouble.starts_with(&refused));
    let refusing: Vec<String> = nodes.iter().filter(refuses).map(|node| node.node.clone()).collect();
    let mut by_digest: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for node in nodes {
        by_digest.entry(&node.config_digest).or_default().push(node.node.clone());
    }
    let mut found = Vec::new();
    if !refusing.is_empty() {
        let what = format!("refused, so that an older jobs file stays in force: by {}", named(&refusing));
        found.push(Found::broken(what, "`fencron validate` says what is wrong with it; deploy a corrected one"));
    }
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

/// Databases: the jobs that use them, and what they are fit for.
pub(super) fn databases(examined: Vec<(Vec<String>, Fitness)>) -> Vec<Found> {
    let found = examined.into_iter().filter_map(|(jobs, fitness)| match fitness {
        Fitness::Fit => None,
        Fitness::WithoutTables => {
            let what = format!("the database of {} has no tables of the guard yet", named(&jobs));
            let fix = "the first run makes them; where its user may not, have `fencron guard sql` run by one who may";
            Some(Found::warning(what, fix))
        }
        Fitness::Unfit(why) => {
            let what = format!("the database of {} would fail their runs: {why}", named(&jobs));
            Some(Found::broken(what, "correct `database`, start the server, or grant the rights"))
        }
    });
    found.collect()
}

/// The members of etcd, each with what it says of itself, beside what is known of the store.
pub(super) fn members(members: &[(String, Result<About, String>)], known: &[String]) -> Vec<Found> {
    let mut found = Vec::new();
    let silent: Vec<String> =
        members.iter().filter_map(|(at, said)| Some(format!("{at} ({})", said.as_ref().err()?))).collect();
    if !silent.is_empty() {
        let most = members.len() / 2;
        let what = format!(
            "{} of {} members that --store names do not answer: {}",
            silent.len(),
            members.len(),
            named(&silent)
        );
        let fix = "start them, or give the nodes the addresses of those that replaced them";
        let level = if silent.len() > most { Level::Broken } else { Level::Warning };
        found.push(Found { level, what, fix: fix.to_owned() });
    }
    let mut by_version: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut by_warning: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (at, said) in members {
        let Ok(about) = said else { continue };
        by_version.entry(&about.version).or_default().push(at.clone());
        for warning in about.warnings.iter().filter(|warning| !known.contains(warning)) {
            by_warning.entry(warning).or_default().push(at.clone());
        }
    }
    if by_version.len() > 1 {
        let each: Vec<String> = by_version.iter().map(|(version, at)| format!("{version} at {}", named(at))).collect();
        let what = format!("the members of etcd have different versions: {}", each.join("; "));
        found.push(Found::warning(what, "finish the upgrade of etcd"));
    }
    let warnings = by_warning.into_iter();
    found.extend(warnings.map(|(why, at)| {
        Found::warning(format!("{}: {why}", named(&at)), "see the page for versions, quotas and alarms")
    }));
    found
}

/// By how much another clock is ahead of the one here, at least and at most, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Offset {
    least: i64,
    most: i64,
}

impl Offset {
    /// What follows from a clock that showed between `said` and `vague` later, at an instant between the two of here.
    pub fn between((before, after): (Wall, Wall), said: Wall, vague: Duration) -> Offset {
        let vague = i64::try_from(vague.as_millis()).unwrap_or(i64::MAX);
        let (before, after, said) = (before.as_millis(), after.as_millis(), said.as_millis());
        Offset { least: said.saturating_sub(after), most: said.saturating_add(vague).saturating_sub(before) }
    }
}

/// Clocks that are certainly off by more than nodes allow among each other.
pub(super) fn clocks(offsets: &[(String, Offset)], most: Duration) -> Vec<Found> {
    let allowed = i64::try_from(most.as_millis()).unwrap_or(i64::MAX);
    let shown = |millis: i64| written(Duration::from_secs(millis.unsigned_abs() / 1000));
    let found = offsets.iter().filter_map(|(whose, offset)| {
        let off = match offset {
            Offset { least, .. } if *least > allowed => format!("{} or more ahead of", shown(*least)),
            Offset { most, .. } if *most < -allowed => format!("{} or more behind", shown(*most)),
            _ => return None,
        };
        let what = format!("the clock of {whose} is {off} the one here, and {} is allowed among nodes", written(most));
        Some(Found::warning(
            what,
            "set the clock that is wrong, and have NTP keep it (`chronyc tracking`, `timedatectl`)",
        ))
    });
    found.collect()
}

/// What a unit has to leave to a node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Needs {
    /// How long after SIGTERM a node may be there.
    pub stop: Duration,
    pub max_running: usize,
}

/// What `systemctl show` says of units, a block for each; `None`: it has none.
pub(super) fn units(text: &str, needs: Needs) -> Option<Vec<Found>> {
    let blocks = text.split("\n\n").map(|block| block.lines().filter_map(|line| line.split_once('=')).collect());
    let units: Vec<BTreeMap<&str, &str>> =
        blocks.filter(|unit: &BTreeMap<_, _>| unit.get("LoadState") == Some(&"loaded")).collect();
    (!units.is_empty()).then(|| units.iter().flat_map(|unit| unit_found(unit, needs)).collect())
}

fn unit_found(unit: &BTreeMap<&str, &str>, needs: Needs) -> Vec<Found> {
    let value = |name: &str| unit.get(name).copied().unwrap_or_default();
    let (name, runs) = (value("Id"), needs.max_running as u64);
    let mut found = Vec::new();
    match value("KillMode") {
        "control-group" => found.push(Found::warning(
            format!("{name} has KillMode=control-group: its commands get SIGTERM as it stops, and have no time to end"),
            "KillMode=mixed",
        )),
        mode @ ("process" | "none") => found.push(Found::broken(
            format!("{name} has KillMode={mode}: what its commands have started may outlive it"),
            "KillMode=mixed",
        )),
        _ => {}
    }
    if let Some(stop) = span(value("TimeoutStopUSec")).filter(|stop| *stop < needs.stop) {
        let (stop, needed) = (written(stop), written(needs.stop));
        let what = format!("{name} is killed {stop} after it is asked to stop, and may need {needed} (TimeoutStopSec)");
        let fix = "raise TimeoutStopSec above the sum of --shutdown-grace, the longest `kill_after` and 12 s";
        found.push(Found::warning(what, fix));
    }
    for (limit, needed) in
        [("LimitNOFILE", runs * FILES_EACH + FILES_BESIDE), ("TasksMax", runs * PROCESSES_EACH + PROCESSES_BESIDE)]
    {
        if let Some(has) = value(limit).parse::<u64>().ok().filter(|has| *has < needed) {
            let what = format!("{name} has {limit}={has}, and {} runs at once may need {needed}", needs.max_running);
            found.push(Found::warning(what, format!("raise {limit}, or lower --max-running")));
        }
    }
    found
}

/// A time as systemd writes it, like `1min 30s`; `None`: it is none, or without end.
fn span(text: &str) -> Option<Duration> {
    let one = |word: &str| {
        let end = word.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = word[..end].parse().ok()?;
        let unit = match &word[end..] {
            "us" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "min" => 60.0,
            "h" => 3_600.0,
            "d" => 86_400.0,
            "w" => 604_800.0,
            _ => return None,
        };
        Duration::try_from_secs_f64(number * unit).ok()
    };
    let words: Option<Vec<Duration>> = text.split_whitespace().map(one).collect();
    words.filter(|words| !words.is_empty()).map(|words| words.iter().sum())
}

/// The data about time zones: that of the program, like `2025b`, and that of the machine, where it says so.
pub(super) fn zones(own: &str, system: Option<&str>, now: Wall) -> Vec<Found> {
    let year = |version: &str| version.get(..4).and_then(|year| year.parse::<i32>().ok());
    let fix = "upgrade fencron, which brings the data with it";
    if let Some(system) = system.filter(|system| *system > own && year(system).is_some()) {
        let what = format!(
            "schedules use the time zones of {own}, and this machine has {system}: where the clocks of a country have \
             been changed since, fires are off"
        );
        return vec![Found::warning(what, fix)];
    }
    let age = year(own).map(|year| chrono::Datelike::year(&now.to_utc()) - year);
    match age {
        Some(years) if years >= ZONES_OLD => {
            vec![Found::warning(format!("schedules use the time zones of {own}, which are {years} years old"), fix)]
        }
        _ => Vec::new(),
    }
}

/// Tokens of the file of `--auth` that are refused, or will be.
pub(super) fn tokens(file: &str, tokens: &[TokenRule], now: Wall) -> Vec<Found> {
    let found = tokens.iter().filter_map(|token| {
        let end = token.expires.filter(|end| end.since(now) < VALID_LEAST)?;
        let what = match end <= now {
            true => format!("{file}: the token {} is refused since {end}", token.name),
            false => format!("{file}: the token {} is refused from {end} on", token.name),
        };
        Some(Found::warning(what, "make its holder a new one with `fencron token new`, or take it out of the file"))
    });
    found.collect()
}

#[cfg(test)]
mod tests;
