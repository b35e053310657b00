//! A cluster on its stage: a store, three nodes, the jobs that they run, and whatever can be done to them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fencron::lock::Namespace;
use fencron::store::AnyStore;
use fencron::time::{Boot, Clock};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::effects::{Effects, Line, Step};
use super::node::Node;
use super::referee::record::{Fact, JobRule, Life, Millis};
use super::support::databases::{Kind, Server};
use super::support::etcd::EtcdCluster;
use super::support::proxy::Proxy;
use super::support::until;
use super::witness::{History, Witness};

mod judgement;

/// How long a leadership outlives a node that is cut off. etcd grants whole seconds, and no fewer than two.
pub const TTL: Duration = Duration::from_secs(3);

/// The namespace of every scene; each has a store of its own.
pub const NAMESPACE: &str = "scene";

/// A job of a scene.
#[derive(Clone, Debug)]
pub struct Job {
    pub name: &'static str,
    /// Due at the multiples of so many seconds; a divisor of 60.
    pub every: i64,
    /// For how many fifths of a second it is at work.
    pub steps: u32,
    /// More lines of its definition.
    pub more: &'static [&'static str],
}

/// The job that every scene has: due each second, done at once.
pub const TICK: Job = Job { name: "tick", every: 1, steps: 0, more: &["overlap: allow", "max_running: 20"] };

/// Where the store is.
pub enum Stage {
    Sqlite,
    Postgres,
    /// The members, and for each node a network of its own to each of them.
    Etcd {
        cluster: EtcdCluster,
        networks: Vec<Vec<Proxy>>,
    },
}

/// Nodes are killed first, then the store goes.
pub struct Scene {
    pub nodes: Vec<Node>,
    pub witness: Witness,
    pub store: AnyStore,
    pub effects: Effects,
    pub stage: Stage,
    pub jobs: Vec<Job>,
    /// With which nodes are started. They are judged by [`TTL`] in any case.
    pub ttl: Duration,
    clock: Clock,
    began: Boot,
    wall_start: i64,
    /// What was done to the nodes.
    marks: Vec<(Millis, Fact)>,
    directory: TempDir,
}

/// The jobs file that defines `jobs`.
pub fn yaml(jobs: &[Job], effects: &Effects) -> String {
    let mut text = format!("version: 1\nnamespace: {NAMESPACE}\njobs:\n");
    for job in jobs {
        let schedule = if job.every == 1 { "*".to_owned() } else { format!("*/{}", job.every) };
        let (name, script) = (job.name, effects.script(job.steps));
        write!(text, "  {name}:\n    schedule: \"{schedule} * * * * *\"\n    shell: |\n      {script}\n").unwrap();
        for line in job.more {
            writeln!(text, "    {line}").unwrap();
        }
    }
    text
}

impl Scene {
    /// Three nodes over three members of etcd, each reaching each through a network of its own.
    pub async fn over_etcd(jobs: &[Job]) -> Scene {
        let cluster = EtcdCluster::start(3).await;
        let mut networks = Vec::new();
        for _node in 0..3 {
            let mut network = Vec::new();
            for member in &cluster.members {
                network.push(Proxy::start(&member.endpoint()).await);
            }
            networks.push(network);
        }
        let direct = url(cluster.members.iter().map(|member| member.endpoint()));
        let reached = networks.iter().map(|network| url(network.iter().map(Proxy::endpoint))).collect();
        Scene::set(jobs, Stage::Etcd { cluster, networks }, direct, reached, tempfile::tempdir().unwrap()).await
    }

    /// Three nodes over one file.
    pub async fn over_sqlite(jobs: &[Job]) -> Scene {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", directory.path().join("store.db").display());
        Scene::set(jobs, Stage::Sqlite, url.clone(), vec![url; 3], directory).await
    }

    /// Three nodes over a database of their own.
    pub async fn over_postgres(jobs: &[Job]) -> Scene {
        let database = tokio::task::spawn_blocking(|| Server::shared(Kind::Postgres).database()).await.unwrap();
        let url = database.url;
        Scene::set(jobs, Stage::Postgres, url.clone(), vec![url; 3], tempfile::tempdir().unwrap()).await
    }

    /// Three nodes over this file.
    pub async fn over_file(jobs: &[Job], file: &Path) -> Scene {
        let url = format!("sqlite:{}", file.display());
        Scene::set(jobs, Stage::Sqlite, url.clone(), vec![url; 3], tempfile::tempdir().unwrap()).await
    }

    /// Sets the stage; nobody is on it yet.
    async fn set(jobs: &[Job], stage: Stage, direct: String, reached: Vec<String>, directory: TempDir) -> Scene {
        let effects = Effects::new(directory.path());
        let jobs = [&[TICK], jobs].concat();
        let clock = Clock::system();
        let (began, wall_start) = (clock.boot(), clock.wall().as_millis());
        let store = AnyStore::open(&direct.parse().unwrap(), clock.clone()).await.unwrap();
        let witness = Witness::start(store.clone(), prefix(), clock.clone(), began);
        let nodes = ["a", "b", "c"].iter().zip(reached);
        let nodes = nodes
            .map(|(name, store)| {
                let file = directory.path().join(format!("{name}.yaml"));
                std::fs::write(&file, yaml(&jobs, &effects)).unwrap();
                Node::new(name, directory.path(), &file, store)
            })
            .collect();
        let marks = Vec::new();
        let ttl = TTL;
        Scene { nodes, witness, store, effects, stage, jobs, ttl, clock, began, wall_start, marks, directory }
    }

    /// All nodes come on, and one of them leads.
    pub async fn play(&mut self) -> (usize, u64) {
        (0..self.nodes.len()).for_each(|node| self.start(node));
        for node in 0..self.nodes.len() {
            self.joined(node).await;
        }
        self.leader_after(0).await
    }

    /// How long it is since the scene began.
    pub fn now(&self) -> Millis {
        self.clock.boot().since(self.began).as_millis() as Millis
    }

    pub fn mark(&mut self, fact: Fact) {
        let now = self.now();
        self.marks.push((now, fact));
    }

    pub fn shock(&mut self, what: impl Into<String>) {
        self.mark(Fact::Shock(what.into()));
    }

    fn life(&self, node: usize) -> Life {
        Life { node: self.nodes[node].name.clone(), life: self.nodes[node].lives }
    }

    pub fn start(&mut self, node: usize) {
        self.nodes[node].start(self.ttl);
        self.mark(Fact::Up(self.life(node)));
    }

    /// Kills a node, which has no time for anything.
    pub fn kill(&mut self, node: usize) {
        self.nodes[node].kill();
        self.mark(Fact::Down(self.life(node)));
    }

    /// Tells a node to stop, and waits until it has.
    pub async fn stop(&mut self, node: usize) {
        self.nodes[node].signal(Signal::SIGTERM);
        let status = self.nodes[node].ended().await;
        self.mark(Fact::Down(self.life(node)));
        assert!(status.success(), "{} ended with {status}", self.nodes[node].name);
    }

    /// A node that was waited for elsewhere is gone.
    pub fn mark_down(&mut self, node: usize) {
        self.mark(Fact::Down(self.life(node)));
    }

    /// A node stands still, and does not know it.
    pub async fn freeze(&mut self, node: usize) {
        self.nodes[node].freeze().await;
        self.impair(node, "it stands still");
    }

    pub fn thaw(&mut self, node: usize) {
        self.recover(node);
        self.nodes[node].signal(Signal::SIGCONT);
    }

    /// A node cannot take part, for a reason that lies outside of it.
    pub fn impair(&mut self, node: usize, why: impl Into<String>) {
        self.shock(why);
        self.mark(Fact::Impaired(self.nodes[node].name.clone()));
    }

    /// The reason is gone.
    pub fn recover(&mut self, node: usize) {
        self.mark(Fact::Recovered(self.nodes[node].name.clone()));
    }

    /// Something is wrong that concerns all of them.
    pub fn trouble(&mut self, what: &str) {
        self.mark(Fact::TroubleBegins(what.to_owned()));
    }

    pub fn trouble_ends(&mut self) {
        self.mark(Fact::TroubleEnds("it is over".to_owned()));
    }

    /// What lies between a node and the members of etcd.
    pub fn network(&self, node: usize) -> &[Proxy] {
        match &self.stage {
            Stage::Etcd { networks, .. } => &networks[node],
            Stage::Sqlite | Stage::Postgres => panic!("the nodes have no network of their own"),
        }
    }

    pub fn etcd(&mut self) -> &mut EtcdCluster {
        match &mut self.stage {
            Stage::Etcd { cluster, .. } => cluster,
            Stage::Sqlite | Stage::Postgres => panic!("the store has no members"),
        }
    }

    /// The node that leads, once it has claimed something under a fence above `fence`.
    pub async fn leader_after(&self, fence: u64) -> (usize, u64) {
        let acts = |history: &History| {
            let (node, found) = history.leader()?;
            (found > fence && history.claims_under(found) > 0).then(|| (node.to_owned(), found))
        };
        let (name, found) = self.witness.until(&format!("somebody leads after fence {fence}"), acts).await;
        (self.nodes.iter().position(|node| node.name == name).expect("a node of ours leads"), found)
    }

    /// Waits for so many more batches of claims, whoever makes them.
    pub async fn claims(&self, more: usize) {
        let count =
            |history: &History| history.facts.iter().filter(|(_, fact)| matches!(fact, Fact::Decided { .. })).count();
        let before = count(&self.witness.history.borrow());
        self.witness.until("claims are made", |history| (count(history) >= before + more).then_some(())).await;
    }

    /// Waits until a run of `job` begins, on the authority of `fence`.
    pub async fn begins(&self, job: &str, fence: u64) -> Line {
        let found = async || self.effects.first_under(job, fence);
        until(&format!("a run of {job} begins under fence {fence}"), found).await
    }

    /// Waits until a run that had begun begins once more, under this fence. That takes a moment, in which others of its job
    /// may begin.
    pub async fn begins_again(&self, run: &str, fence: u64) -> Line {
        let again = |line: &Line| line.step == Step::Begins && line.attempt.run == run && line.attempt.fence == fence;
        let found = async || self.effects.lines().into_iter().find(again);
        until(&format!("{run} begins under fence {fence}"), found).await
    }

    /// Waits for the verdict on a run.
    pub async fn verdict(&self, run: &str) -> String {
        self.witness.until(&format!("{run} has a verdict"), |history| history.verdict(run).map(str::to_owned)).await
    }

    /// Waits until a node has a session.
    pub async fn joined(&self, node: usize) {
        let node = &self.nodes[node];
        let has_joined = async || {
            node.expect_running();
            self.witness.history.borrow().session(&node.name).map(|_| ())
        };
        until(&format!("{} has joined", node.name), has_joined).await;
    }

    /// Replaces a node's jobs file at once, as editors and deployments do.
    pub fn write_file(&self, node: usize, jobs: &[Job]) {
        let file = &self.nodes[node].file;
        let beside = file.with_extension("new");
        std::fs::write(&beside, yaml(jobs, &self.effects)).unwrap();
        std::fs::rename(&beside, file).unwrap();
    }

    /// The store is another one, or is as it was at another time: its history is read anew.
    pub fn look_anew(&mut self) {
        self.witness = Witness::start(self.store.clone(), prefix(), self.clock.clone(), self.began);
    }

    /// A path in the directory of the scene, for what a scenario needs beside.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What the referee is to know of the jobs.
    fn rules(&self) -> Vec<JobRule> {
        let rule = |job: &Job| JobRule {
            name: job.name.to_owned(),
            every: Some(job.every * 1000),
            jitter: 0,
            at_once: usize::MAX,
            at_most_once: !job.more.iter().any(|line| line.contains("at_least_once")),
            finishes: job.more.iter().any(|line| line.contains("finish")),
        };
        self.jobs.iter().map(rule).collect()
    }
}

/// What the keys of a scene begin with.
pub fn prefix() -> String {
    Namespace::new(NAMESPACE).unwrap().prefix()
}

fn url(endpoints: impl Iterator<Item = String>) -> String {
    format!("etcd://{}", endpoints.collect::<Vec<_>>().join(","))
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.directory.disable_cleanup(true);
            eprintln!("the logs and the effects of this scene are kept in {}", self.directory.path().display());
        }
    }
}
