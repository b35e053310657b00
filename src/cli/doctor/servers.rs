//! Asking what is on other machines: the members of etcd, the clocks of nodes and of the store, the databases of jobs.

use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::header::DATE;

use super::Outcome;
use super::look::{ANSWER_WITHIN, Looking, away};
use super::rules::{self, Found, Offset};
use crate::cli::{Global, asking};
use crate::execute::{Fitness, examine};
use crate::job::{Job, Sql, Target, Task};
use crate::store::{About, AnyStore, Store as _, StoreUrl};
use crate::time::{Clock, Wall};

/// How many databases are examined.
const DATABASES_MOST: usize = 100;

/// What a header `Date` leaves open: it has whole seconds, and a server may say the same for a second more.
const DATE_VAGUE: Duration = Duration::from_secs(2);

impl Looking {
    /// Asks each member of etcd that the URL names.
    pub async fn members(&self) -> Outcome {
        let url = self.place.as_ref().map(|place| place.url.clone()).or_else(|_| self.url.clone());
        let Ok(StoreUrl::Etcd(config)) = url else { return Outcome::Skipped("the store is not etcd".to_owned()) };
        let asked = config.endpoints().iter().map(async |endpoint| {
            let asking = async {
                let alone = config.clone().through([endpoint]).map_err(|error| error.to_string())?;
                let store = AnyStore::open(&StoreUrl::Etcd(alone), self.clock.clone()).await;
                let store = store.map_err(|error| error.to_string())?;
                store.about().await.map_err(|error| error.to_string())
            };
            let late = || Err(format!("no answer within {} s", ANSWER_WITHIN.as_secs()));
            (endpoint.clone(), tokio::time::timeout(ANSWER_WITHIN, asking).await.unwrap_or_else(|_| late()))
        });
        let members: Vec<(String, Result<About, String>)> = join_all(asked).await;
        let known = self.overview.as_ref().map_or(&[][..], |overview| &overview.store.warnings);
        Outcome::Looked(rules::members(&members, known))
    }

    /// Compares the clock of this machine to those of the nodes and of the store.
    pub async fn clocks(&self, global: &Global, most: Duration) -> Outcome {
        let Ok(overview) = &self.overview else { return away() };
        let http = asking::client(global.tls_ca.as_deref()).map(|http| http.timeout(ANSWER_WITHIN));
        let http = match http.and_then(asking::built) {
            Ok(http) => http,
            Err(error) => return Outcome::Skipped(format!("{error:#}")),
        };
        let asked = overview.nodes.iter().filter_map(|node| Some((&node.node, node.address.as_ref()?)));
        let asked = asked.map(async |(node, address)| {
            let before = self.clock.wall();
            let answer = http.get(asking::url(address, "/healthz")).send().await.ok()?;
            let date = answer.headers().get(DATE)?.to_str().ok()?;
            let said = httpdate::parse_http_date(date).ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
            let said = Wall::from_millis(i64::try_from(said.as_millis()).ok()?);
            Some((format!("the node {node}"), Offset::between((before, self.clock.wall()), said, DATE_VAGUE)))
        });
        let mut offsets: Vec<(String, Offset)> = join_all(asked).await.into_iter().flatten().collect();
        if let Ok(place) = &self.place {
            let before = self.clock.wall();
            let about = place.store.about().await.ok().and_then(|about| about.clock);
            let offset = about.map(|said| Offset::between((before, self.clock.wall()), said, Duration::ZERO));
            offsets.extend(offset.map(|offset| ("the store".to_owned(), offset)));
        }
        if offsets.is_empty() {
            return Outcome::Skipped("no node and no store says what its clock shows".to_owned());
        }
        Outcome::Looked(rules::clocks(&offsets, most))
    }

    /// Logs in to the databases of jobs and migrations, and writes the guard's rows in a transaction that is rolled back.
    pub async fn databases(&self) -> Outcome {
        let Some(config) = &self.config else { return self.no_file() };
        let migrations = config.migrations.iter().flat_map(|migration| {
            let name = format!("the migration {}", migration.id);
            std::iter::once(&migration.job).chain(&migration.verify).map(move |job| (name.clone(), job))
        });
        let all = config.jobs.values().map(|job| (job.name.to_string(), job)).chain(migrations);
        let mut by_target: Vec<(&Sql, Vec<String>)> = Vec::new();
        for (name, job) in all {
            let Some(sql) = sql_of(job) else { continue };
            let is_same = |(other, _): &(&Sql, _)| (other.kind, &other.target) == (sql.kind, &sql.target);
            match by_target.iter().position(is_same) {
                Some(place) => by_target[place].1.push(name),
                None if by_target.len() < DATABASES_MOST => by_target.push((sql, vec![name])),
                None => {}
            }
        }
        let examined = by_target.into_iter().map(async |(sql, mut names)| {
            names.dedup();
            (names, fitness(sql).await)
        });
        Outcome::Looked(rules::databases(join_all(examined).await))
    }
}

fn sql_of(job: &Job) -> Option<&Sql> {
    match &job.task {
        Task::Sql(sql) => Some(sql),
        Task::Command(_) | Task::Http(_) | Task::Call => None,
    }
}

/// Nothing is made that is not there: opening a file of SQLite would make it.
async fn fitness(sql: &Sql) -> Fitness {
    if let Target::File(path) = &sql.target {
        let path = Path::new(path.expose());
        let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
        match (path.exists(), directory.is_none_or(Path::is_dir)) {
            (true, _) => {}
            (false, true) => return Fitness::WithoutTables,
            (false, false) => return Fitness::Unfit("the directory of the SQLite file is not there".to_owned()),
        }
    }
    examine(sql).await
}

/// The certificates of the store, where its URL names some.
pub(super) fn certificates_of(url: &StoreUrl) -> Vec<String> {
    let shown = |path: &std::path::PathBuf| path.display().to_string();
    match url {
        StoreUrl::Etcd(config) => config.certificates().map(shown).collect(),
        StoreUrl::Postgres(config) => config.certificates().map(shown).collect(),
        _ => Vec::new(),
    }
}

/// What the file of `--auth` says, as a node would read it.
pub(super) async fn auth(file: Option<&Path>, clock: &Clock) -> Outcome {
    let Some(path) = file.map(Path::to_owned) else {
        return Outcome::Skipped("no --auth is named".to_owned());
    };
    let (shown, now) = (path.display().to_string(), clock.wall());
    let read = tokio::task::spawn_blocking(move || crate::cli::file::rules(&path).0.map_err(|why| format!("{why:#}")));
    match read.await {
        Ok(Ok(read)) => Outcome::Looked(rules::tokens(&shown, &read.tokens, now)),
        Ok(Err(why)) => {
            let first = why.lines().next().unwrap_or_default();
            let fix = "correct the file; a node keeps the rules that it has, and does not start with these";
            Outcome::Looked(vec![Found::broken(first, fix)])
        }
        Err(error) => Outcome::Skipped(error.to_string()),
    }
}
