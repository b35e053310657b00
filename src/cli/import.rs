//! `fencron import`: the jobs of other schedulers as a jobs file, with a report on each of their lines.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::terminal::Terminal;
use super::{Exit, Failure, Format, Global};
use crate::import::{
    COMPARED, Comparison, Fate, Finding, Imported, Input, MAX_INPUT_BYTES, Settings, Source, import,
    is_drop_in_directory,
};
use crate::page::words;
use crate::schedule::zone_advice;
use crate::time::{Clock, Wall};

/// The most files of one directory.
const FILES_MOST: usize = 10_000;

/// What stands for the standard input.
const STDIN: &str = "-";

/// Where Linux keeps the zone of the machine: a link into the database, or its name in a file.
const LOCALTIME: &str = "/etc/localtime";
const TIMEZONE: &str = "/etc/timezone";

/// What computes the fires of timers.
const ANALYZE: &str = "systemd-analyze";

#[derive(Args)]
pub(super) struct ImportArgs {
    /// What the files are of
    #[arg(value_name = "SOURCE")]
    source: SourceWord,
    /// The files, or directories of them; `-`: the standard input
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Write the jobs file there, instead of to stdout; a file that is there is not replaced
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// List the fires that differ: the next 100 of each job, and all around the next two changes of the clocks
    #[arg(long)]
    check: bool,
    /// Write jobs that are due at once; without it each has `enabled: false`
    #[arg(long)]
    active: bool,
    /// The zone of the machine that the source runs on, where the files name none [default: that of
    /// this machine; UTC for kubernetes and dkron]
    #[arg(long, value_name = "ZONE", env = "FENCRON_IMPORT_TIMEZONE")]
    timezone: Option<String>,
    /// Crontabs have a column for the user [default: those below a directory cron.d, and etc/crontab]
    #[arg(long, conflicts_with = "user")]
    system: bool,
    /// Crontabs have no column for the user, wherever they are
    #[arg(long)]
    user: bool,
    /// Compare from this instant on (RFC 3339) [default: now]
    #[arg(long, value_name = "T", env = "FENCRON_IMPORT_FROM")]
    from: Option<Wall>,
}

/// What can be imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SourceWord {
    /// Crontabs of vixie cron, Debian's cron, cronie
    Crontab,
    /// CronJobs of Kubernetes: manifests, or what `kubectl get cronjobs -o yaml` prints
    Kubernetes,
    /// Timers of systemd with their services: directories, or files
    Systemd,
    /// Jobs of Dkron, as `GET /v1/jobs` of its API returns them
    Dkron,
}

impl SourceWord {
    fn source(self) -> Source {
        match self {
            SourceWord::Crontab => Source::Crontab,
            SourceWord::Kubernetes => Source::Kubernetes,
            SourceWord::Dkron => Source::Dkron,
            SourceWord::Systemd => Source::Systemd,
        }
    }

    /// Whether it probably ran on a machine like this one, and not in containers, whose zone is UTC.
    fn is_of_this_machine(self) -> bool {
        matches!(self, SourceWord::Crontab | SourceWord::Systemd)
    }

    /// Which files of a directory are read.
    fn takes(self, path: &Path) -> bool {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let directory = path.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
        match self {
            SourceWord::Crontab => !name.starts_with('.') && !name.ends_with('~'),
            SourceWord::Kubernetes => [".yaml", ".yml", ".json"].iter().any(|end| name.ends_with(end)),
            SourceWord::Dkron => name.ends_with(".json"),
            SourceWord::Systemd if is_drop_in_directory(&directory) => name.ends_with(".conf"),
            SourceWord::Systemd => name.ends_with(".timer") || name.ends_with(".service"),
        }
    }

    /// A link to nothing in the place of a unit: systemd does not start that unit.
    fn is_masked(self, path: &Path) -> bool {
        self == SourceWord::Systemd && path.canonicalize().is_ok_and(|path| path == Path::new("/dev/null"))
    }
}

/// Leaves out the links to units that are among the files as well, as `systemctl enable` makes them: only an instance, as
/// `backup@home.timer`, is a unit of its own.
fn without_links(files: Vec<PathBuf>) -> Vec<PathBuf> {
    let own = files.iter().filter(|path| !path.is_symlink()).filter_map(|path| path.canonicalize().ok());
    let own: BTreeSet<PathBuf> = own.collect();
    let is_instance = |path: &Path| {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        stem.contains('@') && !stem.ends_with('@')
    };
    let is_known = |path: &Path| path.canonicalize().is_ok_and(|real| own.contains(&real));
    files.into_iter().filter(|path| !path.is_symlink() || is_instance(path) || !is_known(path)).collect()
}

/// What `-o json` prints.
#[derive(Serialize)]
struct View<'i> {
    /// The jobs file, where it is not written to a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    yaml: Option<&'i str>,
    jobs: usize,
    findings: &'i [Finding],
    comparisons: &'i [Comparison],
}

/// Reads the files, and prints what becomes of them.
pub(super) fn run(args: &ImportArgs, global: &Global, terminal: &mut Terminal) -> anyhow::Result<Exit> {
    let zone = zone(args.timezone.as_deref(), args.source)?;
    let with_users = if args.system { Some(true) } else { args.user.then_some(false) };
    let now = args.from.unwrap_or_else(|| Clock::system().wall());
    let settings = Settings { zone, with_users, active: args.active, now };
    let inputs = inputs(&args.files, args.source)?;
    let mut imported = import(args.source.source(), &inputs, &settings);
    if args.check && args.source == SourceWord::Systemd {
        ask_systemd(&mut imported.comparisons, now, terminal);
    }
    if let Some(path) = &args.to {
        write_new(path, &imported.yaml)?;
    }
    print(&imported, args, global, terminal)?;
    let cannot = imported.findings.iter().any(|finding| finding.fate == Fate::Cannot);
    let differs = args.check && imported.comparisons.iter().any(|comparison| !comparison.differences.is_empty());
    Ok(if cannot || differs { Exit::NotAll } else { Exit::Done })
}

/// Compares with the fires that systemd itself computes, where its program is here.
fn ask_systemd(comparisons: &mut [Comparison], now: Wall, terminal: &Terminal) {
    for comparison in comparisons.iter_mut().filter(|comparison| !comparison.calendars.is_empty()) {
        let zone = comparison.zone.unwrap_or("UTC");
        let answers = comparison.calendars.iter().map(|calendar| systemd_says(calendar, zone, now));
        match answers.collect::<Result<Vec<_>, _>>() {
            Ok(answers) => {
                let mut fires: Vec<Wall> = answers.into_iter().flatten().collect();
                fires.sort_unstable();
                fires.dedup();
                fires.truncate(COMPARED);
                comparison.ask(ANALYZE, now, fires);
            }
            Err(why) => {
                let job = &comparison.job;
                terminal
                    .say(format_args!("check: {job}: {why}: compared by the rules of systemd as fencron knows them"));
            }
        }
    }
}

/// The next fires by `systemd-analyze calendar`, which says each in UTC too.
fn systemd_says(calendar: &str, zone: &str, now: Wall) -> Result<Vec<Wall>, String> {
    let base = now.to_utc().format("%Y-%m-%d %H:%M:%S UTC");
    let mut command = Command::new(ANALYZE);
    command.arg("calendar").arg(format!("--iterations={COMPARED}")).arg(format!("--base-time={base}")).arg(calendar);
    let output = command.env("TZ", zone).env("LC_ALL", "C").output();
    let output = output.map_err(|error| format!("{ANALYZE} cannot be asked ({error})"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{ANALYZE} refuses `{calendar}` ({})", why.lines().next().unwrap_or_default()));
    }
    let marks = if zone == "UTC" { ["Next elapse: ", "Iter. #"] } else { ["(in UTC): ", "(in UTC): "] };
    let instant = |line: &str| {
        // `Fri 2026-03-27 01:30:00 UTC`
        let mut words = line.strip_suffix(" UTC")?.split_whitespace().rev();
        let (time, date) = (words.next()?, words.next()?);
        format!("{date}T{time}Z").parse::<Wall>().ok()
    };
    let lines = text.lines().map(str::trim).filter(|line| marks.iter().any(|mark| line.starts_with(mark)));
    Ok(lines.filter_map(instant).filter(|at| *at > now).collect())
}

fn print(imported: &Imported, args: &ImportArgs, global: &Global, terminal: &mut Terminal) -> anyhow::Result<()> {
    let yaml = args.to.is_none().then_some(imported.yaml.as_str());
    if global.output != Format::Table {
        let Imported { findings, comparisons, jobs, .. } = imported;
        let view = View { yaml, jobs: *jobs, findings, comparisons };
        return terminal.show(&view, |_| String::new());
    }
    if let Some(yaml) = yaml {
        terminal.write(yaml)?;
    }
    for finding in &imported.findings {
        // An empty line is in JSON only.
        if !finding.text.is_empty() || finding.fate > Fate::Ignored || finding.line == 0 {
            terminal.say(line(finding));
        }
    }
    if args.check {
        imported.comparisons.iter().for_each(|comparison| terminal.say(compared(comparison)));
    }
    let count = |fate| imported.findings.iter().filter(|finding| finding.fate == fate && finding.line > 0).count();
    let (taken, differs, cannot) = (count(Fate::Taken), count(Fate::Differs), count(Fate::Cannot));
    let jobs = words::count(imported.jobs, "job");
    terminal.say(format_args!(
        "fencron: {jobs}; lines taken over: {taken}; with a difference: {differs}; not possible here: {cannot}"
    ));
    Ok(())
}

fn line(finding: &Finding) -> String {
    let Finding { file, line, fate, job, text, message } = finding;
    let place = if *line == 0 { file.clone() } else { format!("{file}:{line}") };
    let job = job.as_ref().map_or(String::new(), |job| format!(" [{job}]"));
    let text = if *fate == Fate::Cannot && !text.is_empty() { format!("\n    {text}") } else { String::new() };
    format!("{place}: {}{job}: {message}{text}", fate.word())
}

fn compared(comparison: &Comparison) -> String {
    let Comparison { job, zone, by, compared, not_compared, differences, more, .. } = comparison;
    if let Some(why) = not_compared {
        return format!("check: {job}: not compared: {why}");
    }
    let by = by.map_or(String::new(), |by| format!(", by {by}"));
    let zone = format!("{}{by}", zone.unwrap_or_default());
    if differences.is_empty() {
        return format!("check: {job}: {compared} fires are the same ({zone})");
    }
    let mut text = format!("check: {job}: {} of {compared} fires differ ({zone}):", differences.len() + more);
    for difference in differences {
        text += &format!("\n    {}: {} there, {} here", difference.at, difference.source, difference.here);
    }
    if *more > 0 {
        text += &format!("\n    and {more} more");
    }
    text
}

fn zone(given: Option<&str>, source: SourceWord) -> Result<chrono_tz::Tz, Failure> {
    let default = || if source.is_of_this_machine() { of_this_machine() } else { "UTC".to_owned() };
    let name = given.map_or_else(default, str::to_owned);
    name.parse().map_err(|_| {
        let advice = zone_advice(&name);
        Failure::wrong(format!("--timezone: `{name}` is not a zone of the IANA database: {advice}"))
    })
}

/// The zone of this machine, or UTC where it does not say.
fn of_this_machine() -> String {
    let variable = std::env::var("TZ").ok().map(|name| name.trim_start_matches(':').to_owned());
    let linked = || {
        let target = fs::read_link(LOCALTIME).ok()?;
        let target = target.to_str()?.to_owned();
        target.split_once("zoneinfo/").map(|(_, name)| name.to_owned())
    };
    let written = || fs::read_to_string(TIMEZONE).ok().map(|name| name.trim().to_owned());
    let is_zone = |name: &String| name.parse::<chrono_tz::Tz>().is_ok();
    variable
        .filter(is_zone)
        .or_else(|| linked().filter(is_zone))
        .or_else(|| written().filter(is_zone))
        .unwrap_or_else(|| "UTC".to_owned())
}

fn inputs(paths: &[PathBuf], source: SourceWord) -> Result<Vec<Input>, Failure> {
    let mut files = Vec::new();
    for path in paths {
        files.extend(if path.is_dir() { files_in(path, source)? } else { vec![path.clone()] });
    }
    if source == SourceWord::Systemd {
        files = without_links(files);
    }
    let mut inputs = Vec::new();
    let mut left = MAX_INPUT_BYTES;
    for file in files {
        let bytes = read(&file, left)?;
        left -= bytes.len();
        let name = if file == Path::new(STDIN) { "stdin".to_owned() } else { file.display().to_string() };
        let text = String::from_utf8_lossy(&bytes);
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text).to_owned();
        inputs.push(Input { name, text });
    }
    Ok(inputs)
}

/// The files of a directory, and of those in it, by their names.
fn files_in(directory: &Path, source: SourceWord) -> Result<Vec<PathBuf>, Failure> {
    let unreadable = |error: io::Error| Failure::wrong(format!("cannot read {}: {error}", directory.display()));
    let mut found = Vec::new();
    let mut rest = vec![directory.to_owned()];
    while let Some(directory) = rest.pop() {
        for entry in fs::read_dir(&directory).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let (path, kind) = (entry.path(), entry.file_type().map_err(unreadable)?);
            if kind.is_dir() {
                rest.push(path);
            } else if source.takes(&path) && (path.is_file() || source.is_masked(&path)) {
                found.push(path);
            }
            if found.len() + rest.len() > FILES_MOST {
                let message = format!("{} has more than {FILES_MOST} files: name those to import", directory.display());
                return Err(Failure::wrong(message));
            }
        }
    }
    found.sort();
    Ok(found)
}

fn read(path: &Path, most: usize) -> Result<Vec<u8>, Failure> {
    let limit = most as u64 + 1;
    let mut bytes = Vec::new();
    let read = match path == Path::new(STDIN) {
        true => io::stdin().take(limit).read_to_end(&mut bytes),
        false => fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes)),
    };
    read.map_err(|error| Failure::wrong(format!("cannot read {}: {error}", path.display())))?;
    if bytes.len() > most {
        let mib = MAX_INPUT_BYTES >> 20;
        return Err(Failure::wrong(format!("{}: more than {mib} MiB: import it in parts", path.display())));
    }
    Ok(bytes)
}

/// Writes a file that is not there yet: what a person has edited since is not lost.
fn write_new(path: &Path, text: &str) -> Result<(), Failure> {
    let open = fs::OpenOptions::new().write(true).create_new(true).open(path);
    open.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|error| {
        let what_to_do = match error.kind() {
            io::ErrorKind::AlreadyExists => ": name another, or move it away",
            _ => "",
        };
        Failure::new(Exit::Failed, format!("cannot write {}: {error}{what_to_do}", path.display()))
    })
}
