//! Finding out what the rules judge. What may hang does so on a thread of its own, for as long as its check may take.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use nix::unistd::{AccessFlags, access};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_cert::der::Decode as _;

use super::Outcome;
use super::machine::longest_stop;
use super::rules::{self, Found, Needs};
use super::servers::certificates_of;
use crate::api::view::Overview;
use crate::cli::file::{self, Pipe, Reading};
use crate::cli::place::Place;
use crate::cli::run::tls::TlsArgs;
use crate::cli::spread::Spread;
use crate::cli::{Global, asking, notify};
use crate::client::default_node;
use crate::config::Config;
use crate::execute::bounds::not_kept;
use crate::job::{Bounds, Job, JobName, Target, Task, Trigger};
use crate::lock::Timing;
use crate::notify::{About, Sender};
use crate::store::{Compare, Keys, Op, Store as _, StoreUrl, Txn};
use crate::time::{Clock, Wall};

/// How many writes the latency is measured by.
const WRITES: usize = 30;

/// How long the listener of a node has to answer.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// The `kill_after` of jobs that name none.
const KILL_AFTER: Duration = Duration::from_secs(10);

/// How many jobs without a run are asked for, and how many hosts.
const JOBS_MOST: usize = 500;
const HOSTS_MOST: usize = 200;

/// The cluster, as far as it is seen, and the jobs file.
pub(super) struct Looking {
    /// Or why the store cannot be used.
    pub(super) place: Result<Place, String>,
    /// What names the store, where that can be used without it.
    pub(super) url: Result<StoreUrl, String>,
    pub(super) overview: Result<Overview, String>,
    /// Empty: there is none.
    file: Vec<PathBuf>,
    /// The jobs files that were read: those of directories, and those that others include, as well.
    names: Vec<String>,
    pub(super) config: Option<Arc<Config>>,
    /// Why there is none.
    refused: Option<String>,
    timing: Timing,
    pub(super) clock: Clock,
}

impl Looking {
    /// Opens the store and reads the file, each within the time.
    pub async fn begin(named: &[PathBuf], global: &Global, timing: Timing, within: Duration) -> Looking {
        let usual = || PathBuf::from(file::DEFAULT);
        let file = if named.is_empty() && usual().exists() { vec![usual()] } else { named.to_vec() };
        let reading = async {
            if file.is_empty() {
                return (None, None, Vec::new());
            }
            let paths = file.clone();
            let read = tokio::task::spawn_blocking(move || file::look(&paths, Pipe::Wait));
            match tokio::time::timeout(within, read).await {
                Ok(Ok(Reading { config: Ok(config), names, .. })) => (Some(Arc::new(config)), None, names),
                Ok(Ok(Reading { config: Err(why), names, .. })) => (None, Some(format!("{why:#}")), names),
                Ok(Err(error)) => (None, Some(error.to_string()), Vec::new()),
                Err(_) => (None, Some(format!("it was not read within {} s", within.as_secs())), Vec::new()),
            }
        };
        let (config, refused, names) = reading.await;
        let namespace = config.as_ref().map(|config| config.namespace.clone());
        let opening = tokio::time::timeout(within, global.open(namespace.as_deref()));
        let place = match opening.await {
            Ok(opened) => opened.map_err(|error| format!("{error:#}")),
            Err(_) => Err(format!("the store did not answer within {} s", within.as_secs())),
        };
        let clock = Clock::system();
        let overview = match &place {
            Ok(place) => {
                let (ledger, locks) = (place.ledger(), place.recalling(global));
                match tokio::time::timeout(within, Overview::look(&ledger, &locks, clock.wall())).await {
                    Ok(overview) => overview.map_err(|error| error.to_string()),
                    Err(_) => Err(format!("the store did not answer within {} s", within.as_secs())),
                }
            }
            Err(why) => Err(why.clone()),
        };
        let url = global.url().map_err(|error| error.to_string());
        Looking { place, url, overview, file, names, config, refused, timing, clock }
    }

    pub fn store_answers(&self) -> Outcome {
        let fix = "start it, or name the right one with --store; what needs it was left out";
        match &self.overview {
            Ok(_) => Outcome::Looked(Vec::new()),
            Err(why) => Outcome::Looked(vec![Found::broken(why, fix)]),
        }
    }

    fn place(&self) -> Result<&Place, Outcome> {
        self.overview.as_ref().map_err(|_| away())?;
        self.place.as_ref().map_err(|_| away())
    }

    /// What a rule says of the cluster.
    pub async fn overview_of(&self, rule: impl FnOnce(&Overview, Option<&Config>) -> Vec<Found>) -> Outcome {
        match &self.overview {
            Ok(overview) => Outcome::Looked(rule(overview, self.config.as_deref())),
            Err(_) => away(),
        }
    }

    /// What a rule says of the jobs file.
    pub async fn config_of(&self, rule: impl FnOnce(&Config, Wall) -> Vec<Found> + Send + 'static) -> Outcome {
        let Some(config) = self.config.clone() else { return self.no_file() };
        let now = self.clock.wall();
        match tokio::task::spawn_blocking(move || rule(&config, now)).await {
            Ok(found) => Outcome::Looked(found),
            Err(error) => Outcome::Skipped(error.to_string()),
        }
    }

    pub(super) fn no_file(&self) -> Outcome {
        Outcome::Skipped(match self.file.as_slice() {
            [] => "no jobs file is named, and there is no jobs.yaml here".to_owned(),
            _ => "the jobs file is wrong".to_owned(),
        })
    }

    /// Whether the nodes have the same file, and the one that is here.
    pub fn files_agree(&self) -> Outcome {
        let Ok(overview) = &self.overview else { return away() };
        let found = rules::files_agree(&overview.nodes, self.config.as_deref());
        // Of the file here nothing can be said, so that what it was compared to is not fine.
        let is_wrong = self.refused.is_some() && !self.file.is_empty();
        if is_wrong && found.is_empty() { self.no_file() } else { Outcome::Looked(found) }
    }

    /// Whether the certificates that are named can be used, and for how long.
    pub async fn certificates(&self, listener: &TlsArgs) -> Outcome {
        let url = self.place.as_ref().map(|place| &place.url).or(self.url.as_ref());
        let mut files: BTreeSet<String> = url.map(certificates_of).unwrap_or_default().into_iter().collect();
        files.extend(listener.certificates().map(|file| file.display().to_string()));
        let is_alone = files.is_empty() && self.config.is_none();
        if is_alone {
            return self.no_file();
        }
        let (config, now, refused) = (self.config.clone(), self.clock.wall(), listener.refused());
        let judging = move || {
            files.extend(config.iter().flat_map(|config| certificates(config)));
            let ends = files.into_iter().map(|file| (file.clone(), valid_until(Path::new(&file)))).collect();
            let mut found = rules::certificates(ends, now);
            found.extend(refused.map(|why| Found::broken(why, "correct it: a node does not start with these files")));
            found
        };
        match tokio::task::spawn_blocking(judging).await {
            Ok(found) => Outcome::Looked(found),
            Err(error) => Outcome::Skipped(error.to_string()),
        }
    }

    /// What a unit of systemd has to leave to a node with these options, and the jobs of the file.
    pub fn needs(&self, grace: Duration, max_running: usize) -> Needs {
        let of_jobs = self.config.iter().flat_map(|config| config.jobs.values().map(|job| job.kill_after));
        Needs { stop: longest_stop(grace, of_jobs.max().unwrap_or(KILL_AFTER)), max_running }
    }

    pub fn jobs_file(&self) -> Outcome {
        match (&self.refused, &self.config) {
            (Some(why), _) => {
                let first = why.lines().next().unwrap_or_default();
                let fix = format!("see `fencron validate {}`", file::shown(&self.file).replace(", ", " "));
                Outcome::Looked(vec![Found::broken(first, fix)])
            }
            (_, Some(config)) => {
                let fix = "see `fencron validate`";
                let warnings = config.warnings.list().iter().map(|problem| Found::warning(&problem.message, fix));
                Outcome::Looked(warnings.collect())
            }
            _ => self.no_file(),
        }
    }

    pub fn jobs_file_mode(&self) -> Outcome {
        if self.file.is_empty() {
            return self.no_file();
        }
        // In a directory that others may write to, they may replace a file.
        let directories = self.file.iter().filter(|path| path.is_dir()).map(|path| path.display().to_string());
        let mut found = Vec::new();
        for path in directories.chain(self.names.iter().cloned()) {
            match fs::metadata(&path) {
                Ok(stat) => found.extend(rules::mode(&path, stat.permissions().mode())),
                Err(error) => return Outcome::Skipped(format!("{path}: {error}")),
            }
        }
        Outcome::Looked(found)
    }

    /// Measures writes to a key of its own, which is gone afterwards. In a namespace that has nothing yet nothing is
    /// written: its first keys are those of a node.
    pub async fn store_latency(&self) -> Outcome {
        let place = match self.place() {
            Ok(place) => place,
            Err(skipped) => return skipped,
        };
        let key = format!("{}~doctor/{}", place.namespace.prefix(), uuid::Uuid::new_v4().simple());
        let is_used = Compare::present(Keys::one(place.namespace.base_key()));
        let mut took = Vec::new();
        for _ in 0..WRITES {
            let asked = self.clock.boot();
            let write = Txn::new().when(is_used.clone()).then(Op::put(&key, ""));
            if let Err(error) = place.store.commit(write).await {
                let fix = "see the store's own log";
                return Outcome::Looked(vec![Found::broken(format!("a write failed: {error}"), fix)]);
            }
            took.push(self.clock.boot().since(asked).as_secs_f64() * 1000.0);
        }
        if let Err(error) = place.store.commit(Txn::new().then(Op::delete(&key))).await {
            tracing::warn!(%error, key, "the key of the measurement was left");
        }
        Outcome::Looked(rules::latency(Spread::of(took), &self.timing))
    }

    /// Looks up the hosts of requests.
    pub async fn hosts(&self) -> Outcome {
        let Some(config) = &self.config else { return self.no_file() };
        let mut by_host: BTreeMap<(String, u16), Vec<String>> = BTreeMap::new();
        for job in config.jobs.values() {
            let Task::Http(http) = &job.task else { continue };
            let Ok(url) = url::Url::parse(http.url.expose()) else { continue };
            if let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) {
                let host = host.trim_matches(['[', ']']).to_owned();
                by_host.entry((host, port)).or_default().push(job.name.to_string());
            }
        }
        let looked_up = by_host.into_iter().take(HOSTS_MOST).map(async |((host, port), jobs)| {
            let found = tokio::net::lookup_host((host.as_str(), port)).await.map(|mut found| found.next().is_some());
            match found {
                Ok(true) => None,
                Ok(false) => Some((host, (jobs, "it has no address".to_owned()))),
                Err(error) => Some((host, (jobs, error.to_string()))),
            }
        });
        Outcome::Looked(rules::hosts(join_all(looked_up).await.into_iter().flatten().collect()))
    }

    /// Asks the listener of each node whether it is there.
    pub async fn addresses(&self, global: &Global) -> Outcome {
        let Ok(overview) = &self.overview else { return away() };
        let http = asking::client(global.tls_ca.as_deref()).map(|http| http.timeout(ANSWER_WITHIN));
        let http = match http.and_then(asking::built) {
            Ok(http) => http,
            Err(error) => return Outcome::Looked(vec![Found::broken(format!("{error:#}"), "correct --tls-ca")]),
        };
        let asked = overview.nodes.iter().filter_map(|node| Some((node.node.clone(), node.address.clone()?)));
        let asked = asked.map(|(node, address)| {
            let sending = http.get(asking::url(&address, "/healthz")).send();
            async move {
                let why =
                    sending.await.err().map(|error| if error.is_timeout() { "no answer" } else { "no connection" });
                why.map(|why| (format!("{node} at {address}"), why.to_owned()))
            }
        });
        Outcome::Looked(rules::addresses(join_all(asked).await.into_iter().flatten().collect()))
    }

    pub async fn paused(&self) -> Outcome {
        let place = match self.place() {
            Ok(place) => place,
            Err(skipped) => return skipped,
        };
        match place.ledger().paused().await {
            Ok(paused) => Outcome::Looked(rules::paused(&paused, self.clock.wall())),
            Err(error) => Outcome::Skipped(error.to_string()),
        }
    }

    pub async fn never_fired(&self) -> Outcome {
        let (place, config) = match (self.place(), &self.config) {
            (Ok(place), Some(config)) => (place, config),
            (Err(skipped), _) => return skipped,
            (_, None) => return self.no_file(),
        };
        let ledger = place.ledger();
        let without = async {
            let known: BTreeMap<JobName, _> = ledger.known_jobs().await?.into_iter().collect();
            let mut without = Vec::new();
            let scheduled = config.jobs.values().filter(|job| matches!(job.trigger, Trigger::Schedule { .. }));
            for job in scheduled.take(JOBS_MOST) {
                let Some(known) = known.get(&job.name) else { continue };
                if ledger.last_verdict(&job.name).await?.is_none() {
                    without.push((Arc::clone(job), known.since));
                }
            }
            Ok::<Vec<(Arc<Job>, Wall)>, crate::store::StoreError>(without)
        };
        match without.await {
            Ok(without) => Outcome::Looked(rules::never_fired(&without, self.clock.wall())),
            Err(error) => Outcome::Skipped(error.to_string()),
        }
    }

    /// Sends a trial through each channel, and a heartbeat.
    pub async fn channels(&self, send: bool) -> Outcome {
        let Some(config) = &self.config else { return self.no_file() };
        if !send {
            return Outcome::Skipped("nothing is sent without --send".to_owned());
        }
        let now = self.clock.wall();
        let (namespace, node) = (config.namespace.clone(), default_node());
        let about = About { namespace, node, fence: None, now, output: String::new() };
        let (sender, trial) = match (Sender::new(), notify::trial(now)) {
            (Ok(sender), Ok(trial)) => (sender, trial),
            (sender, _) => {
                let why = sender.err().map_or_else(String::new, |error| error.to_string());
                return Outcome::Skipped(format!("nothing can be sent: {why}"));
            }
        };
        let trials = config.notices.channels.iter().map(async |(name, channel)| {
            sender.send(channel, &trial, &about).await.err().map(|why| (name.clone(), why.to_string()))
        });
        let mut refused: Vec<(String, String)> = join_all(trials).await.into_iter().flatten().collect();
        if let Some(heartbeat) = &config.notices.heartbeat
            && let Err(why) = sender.beat(heartbeat, &about).await
        {
            refused.push(("the receiver of the heartbeat".to_owned(), why.to_string()));
        }
        Outcome::Looked(rules::channels(refused))
    }
}

pub(super) fn away() -> Outcome {
    Outcome::Skipped("the store does not answer".to_owned())
}

/// Whether what is seen of the store can be remembered, where a restore of the store leaves it alone.
pub(super) fn state_directory(global: &Global, looking: &Looking) -> Outcome {
    let directory = global.state_directory();
    let mut found = Vec::new();
    let nearest = directory.ancestors().find(|path| path.exists()).unwrap_or(&directory);
    let shown = directory.display();
    if let Err(errno) = access(nearest, AccessFlags::W_OK | AccessFlags::X_OK) {
        let what = format!("{shown} cannot be written ({errno}): a store that was restored would not be recognized");
        found.push(Found::broken(what, "name another directory with --state-dir"));
    }
    if let Ok(Place { url: StoreUrl::Sqlite(path), .. }) = &looking.place {
        let beside = path.parent().and_then(|parent| parent.canonicalize().ok());
        if beside.is_some() && beside == directory.canonicalize().ok() {
            let what =
                format!("{shown} holds the store too: a restore of it would bring back the memory with the store");
            found.push(Found::warning(what, "name another directory with --state-dir"));
        }
    }
    Outcome::Looked(found)
}

/// The jobs whose programs this user cannot start, and why.
pub(super) fn programs(config: &Config) -> Vec<(JobName, String)> {
    let wrong = config.jobs.values().filter_map(|job| {
        let Task::Command(words) = &job.task else { return None };
        let program = words.first()?.expose();
        let dir = job.dir.as_ref().map_or(Path::new("."), |dir| Path::new(dir.expose()));
        if !dir.is_dir() {
            return Some((job.name.clone(), format!("its directory {} is not there", dir.display())));
        }
        let path = job.env.get("PATH").map(|path| path.expose().into()).or_else(|| std::env::var_os("PATH"));
        let why = startable(program, dir, &path.unwrap_or_default()).err()?;
        Some((job.name.clone(), why))
    });
    wrong.collect()
}

/// The jobs whose bounds this user cannot keep here, and why.
pub(super) fn bounds(config: &Config) -> Vec<(JobName, String)> {
    // Most jobs of a file share theirs, and a directory service may be asked about them.
    let mut known: BTreeMap<*const Bounds, Vec<String>> = BTreeMap::new();
    let mut wrong = Vec::new();
    for job in config.jobs.values().filter(|job| matches!(job.task, Task::Command(_))) {
        let why = known.entry(Arc::as_ptr(&job.bounds)).or_insert_with(|| not_kept(&job.bounds));
        wrong.extend(why.iter().map(|why| (job.name.clone(), why.clone())));
    }
    wrong
}

fn startable(program: &str, dir: &Path, path: &std::ffi::OsStr) -> Result<(), String> {
    let can_start = |file: &Path| file.is_file() && access(file, AccessFlags::X_OK).is_ok();
    if !program.contains('/') {
        let is_there = std::env::split_paths(path).any(|directory| can_start(&dir.join(directory).join(program)));
        return if is_there { Ok(()) } else { Err(format!("`{program}` is in no directory of PATH")) };
    }
    let file = dir.join(program);
    match (can_start(&file), file.is_file()) {
        (true, _) => Ok(()),
        (false, true) => Err(format!("this user may not execute {}", file.display())),
        (false, false) => Err(format!("there is no file {}", file.display())),
    }
}

/// The files of certificates that jobs and migrations name.
fn certificates(config: &Config) -> BTreeSet<String> {
    let mut files = BTreeSet::new();
    let migrations =
        config.migrations.iter().flat_map(|migration| std::iter::once(&migration.job).chain(&migration.verify));
    for job in config.jobs.values().chain(migrations) {
        match &job.task {
            Task::Http(http) => {
                files.extend(http.ca.iter().map(|file| file.expose().to_owned()));
                files.extend(http.identity.iter().map(|identity| identity.cert.expose().to_owned()));
            }
            Task::Sql(sql) => {
                let Target::Server(server) = &sql.target else { continue };
                let identity = server.identity.iter().map(|(certificate, _)| certificate);
                files.extend(server.roots.iter().chain(identity).map(|file| file.display().to_string()));
            }
            Task::Command(_) | Task::Call => {}
        }
    }
    files
}

fn valid_until(file: &Path) -> Result<Wall, String> {
    let pem = fs::read(file).map_err(|error| error.to_string())?;
    let ends = CertificateDer::pem_slice_iter(&pem).map(|der| {
        let der = der.map_err(|error| error.to_string())?;
        let certificate = x509_cert::Certificate::from_der(&der).map_err(|error| error.to_string())?;
        let end = certificate.tbs_certificate.validity.not_after.to_unix_duration();
        Ok::<Wall, String>(Wall::from_millis(i64::try_from(end.as_millis()).unwrap_or(i64::MAX)))
    });
    let ends: Vec<Wall> = ends.collect::<Result<_, _>>()?;
    ends.into_iter().min().ok_or_else(|| "there is no certificate in it".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_as_a_node_finds_it() {
        let dir = tempfile::tempdir().unwrap();
        let (here, path) = (dir.path(), std::ffi::OsStr::new("/usr/bin:/bin"));
        assert_eq!(startable("sh", here, path), Ok(()));
        assert_eq!(startable("/bin/sh", here, path), Ok(()));
        assert!(startable("no-such-program", here, path).unwrap_err().contains("in no directory of PATH"));
        assert!(startable("./job.sh", here, path).unwrap_err().contains("there is no file"));
        fs::write(here.join("job.sh"), "#!/bin/sh\n").unwrap();
        assert!(startable("./job.sh", here, path).unwrap_err().contains("may not execute"));
        fs::set_permissions(here.join("job.sh"), fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(startable("./job.sh", here, path), Ok(()));
    }
}
