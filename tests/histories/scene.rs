//! Several workers on one store, and whatever is done to them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fencron::store::{AnyStore, LeaseId, Store};
use fencron::time::Clock;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::time::sleep;

use crate::TTL;
use crate::chance::Chance;
use crate::history::{Process, Run};
use crate::linear::Nanos;
use crate::record::{Answer, Call, Event, Harm, Line, Object, Tail, now};
use crate::support::etcd::EtcdCluster;
use crate::support::proxy::{Flow, Proxy};
use crate::support::{PATIENCE, soon};
use crate::wire::Broken;
use crate::worker::{PART, Part, STANDSTILL};

/// How many processes there are at a time, and how many contexts each has.
pub const WORKERS: usize = 3;
const CONTEXTS: u32 = 4;

/// How long something may take that is not bound to happen, for what was done may have struck in a moment that mattered
/// to nobody: it is then done once more.
const LIMIT: Duration = Duration::from_secs(6);

/// How many calls are made between two faults.
const CALM: usize = 100;

/// What is done to workers, beside what happens to their transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// SIGKILL; another takes its place.
    Kill,
    /// SIGSTOP for longer than the TTL, and SIGCONT.
    Stop,
    /// An operator revokes its lease.
    Revoke,
    /// All its connections are cut, for longer than the TTL.
    CutOff,
    /// Answers that are on their way to it get lost with the connections.
    LoseAnswers,
    /// The member of etcd that leads is killed, and comes back.
    Member,
}

/// A process that runs.
struct Worker {
    name: String,
    child: Child,
    tail: Tail,
    halted: Vec<Nanos>,
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It has usually been waited for.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Worker {
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    fn lines(&mut self) -> &[Line] {
        self.tail.update();
        &self.tail.lines
    }

    /// What it holds, as far as it has written down.
    fn holds(&mut self) -> Vec<Object> {
        let mut held: BTreeMap<u32, Object> = BTreeMap::new();
        let mut called = BTreeMap::new();
        for Line { event, .. } in self.lines() {
            match event {
                Event::Call { context, object, call, .. } => {
                    called.insert(*context, *object);
                    if matches!(call, Call::Unlock(_) | Call::Release(_) | Call::Drop(_)) {
                        held.remove(context);
                    }
                }
                Event::Answer { context, answer: Answer::Granted(_), .. } => {
                    held.insert(*context, called[context]);
                }
                Event::Answer { context, answer: Answer::Lost(_), .. } => drop(held.remove(context)),
                _ => {}
            }
        }
        // A permit may be held by several: it need not be handed over.
        held.into_values().filter(|object| *object != Object::Permits).collect()
    }

    /// Whether it was granted one of these after `since`.
    fn was_granted(&mut self, objects: &[Object], since: Nanos) -> bool {
        let mut called = BTreeMap::new();
        self.lines().iter().any(|line| match &line.event {
            Event::Call { context, object, .. } => {
                called.insert(*context, *object);
                false
            }
            Event::Answer { context, answer: Answer::Granted(_), .. } => {
                line.at > since && objects.contains(&called[context])
            }
            _ => false,
        })
    }

    fn wrote_after(&mut self, since: Nanos, what: impl Fn(&Event) -> bool) -> bool {
        self.lines().iter().any(|line| line.at > since && what(&line.event))
    }

    /// The lease of the session that it opened last.
    fn lease(&mut self) -> Option<u64> {
        self.lines().iter().rev().find_map(|line| match line.event {
            Event::Opened { lease } => Some(lease),
            _ => None,
        })
    }
}

/// What the workers reach the store by.
enum Stage {
    File(String),
    /// The members, and for each worker a network of its own to each of them.
    Etcd {
        cluster: EtcdCluster,
        networks: Vec<Vec<Proxy>>,
    },
}

pub struct Scene {
    seed: u64,
    chance: Chance,
    clock: Clock,
    broken: Option<Broken>,
    store: AnyStore,
    stage: Stage,
    workers: Vec<Worker>,
    past: Vec<Worker>,
    revoked: BTreeMap<u64, Nanos>,
    /// How often each fault took effect.
    pub effects: BTreeMap<Fault, usize>,
    /// How often another process got what a killed or stopped one had held.
    pub handovers: usize,
    directory: TempDir,
}

impl Scene {
    pub async fn over_sqlite(seed: u64, broken: Option<Broken>) -> Scene {
        let directory = tempfile::Builder::new().prefix("histories-").tempdir().unwrap();
        let url = format!("sqlite:{}", directory.path().join("state.db").display());
        let store = AnyStore::open(&url.parse().unwrap(), Clock::system()).await.unwrap();
        Scene::set(seed, broken, store, Stage::File(url), directory).await
    }

    pub async fn over_etcd(seed: u64) -> Scene {
        let directory = tempfile::Builder::new().prefix("histories-").tempdir().unwrap();
        let cluster = EtcdCluster::start(3).await;
        let mut networks = Vec::new();
        for _ in 0..WORKERS {
            let mut network = Vec::new();
            for member in &cluster.members {
                network.push(Proxy::start(&member.endpoint()).await);
            }
            networks.push(network);
        }
        let store = url(cluster.members.iter().map(|member| member.endpoint()));
        let store = AnyStore::open(&store.parse().unwrap(), Clock::system()).await.unwrap();
        Scene::set(seed, None, store, Stage::Etcd { cluster, networks }, directory).await
    }

    async fn set(seed: u64, broken: Option<Broken>, store: AnyStore, stage: Stage, directory: TempDir) -> Scene {
        let mut scene = Scene {
            seed,
            chance: Chance::of(seed, "scene"),
            clock: Clock::system(),
            broken,
            store,
            stage,
            workers: Vec::new(),
            past: Vec::new(),
            revoked: BTreeMap::new(),
            effects: BTreeMap::new(),
            handovers: 0,
            directory,
        };
        for slot in 0..WORKERS {
            let worker = scene.start(slot);
            scene.workers.push(worker);
        }
        for slot in 0..WORKERS {
            scene
                .poll("every worker is granted something", |scene| scene.workers[slot].was_granted(&Object::ALL, 0))
                .await;
        }
        scene
    }

    fn start(&self, slot: usize) -> Worker {
        let name = format!("w{}", self.workers.len() + self.past.len());
        let file = self.file(&name);
        let store = match &self.stage {
            Stage::File(url) => url.clone(),
            Stage::Etcd { networks, .. } => url(networks[slot].iter().map(Proxy::endpoint)),
        };
        let seed = Chance::of(self.seed, &name).draw();
        // Somebody has to be well, to be granted what another loses without knowing it.
        let one = [Broken::KeepAlives, Broken::Handouts, Broken::Nothing];
        let broken = self.broken.filter(|broken| !one.contains(broken) || slot == 0);
        let part = Part { name: name.clone(), seed, store, file: file.clone(), contexts: CONTEXTS, broken };
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "another_process", "--nocapture"])
            .env(PART, serde_json::to_string(&part).unwrap())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Worker { name, child, tail: Tail::new(file), halted: Vec::new() }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(format!("{name}.jsonl"))
    }

    fn now(&self) -> Nanos {
        now(&self.clock)
    }

    /// Waits for what must happen.
    async fn poll(&mut self, what: &str, mut happened: impl FnMut(&mut Scene) -> bool) {
        let waiting = async {
            while !happened(self) {
                sleep(Duration::from_millis(30)).await;
            }
        };
        soon(what, waiting).await;
    }

    /// Waits for what may happen.
    async fn try_poll(&mut self, mut happened: impl FnMut(&mut Scene) -> bool) -> bool {
        let waiting = async {
            while !happened(self) {
                sleep(Duration::from_millis(30)).await;
            }
        };
        tokio::time::timeout(LIMIT, waiting).await.is_ok()
    }

    /// What happens to these workers, in an order of chance, each fault until it took effect.
    pub async fn play(&mut self, faults: &[Fault]) {
        let mut rest = faults.to_vec();
        while !rest.is_empty() {
            let fault = rest.swap_remove(self.chance.within(0, rest.len() as u64 - 1) as usize);
            let began = self.now();
            let took_effect = async {
                while !self.strike(fault).await {
                    println!("{fault:?} struck nothing");
                }
            };
            let in_time = tokio::time::timeout(PATIENCE * 3, took_effect).await;
            assert!(in_time.is_ok(), "{fault:?} never takes effect");
            println!("{fault:?} took effect after {:?}", Duration::from_nanos(self.now() - began));
            *self.effects.entry(fault).or_default() += 1;
            self.calls(CALM).await;
        }
    }

    /// Answers whether it took effect.
    async fn strike(&mut self, fault: Fault) -> bool {
        let slot = self.chance.within(0, WORKERS as u64 - 1) as usize;
        match fault {
            Fault::Kill => self.kill(slot).await,
            Fault::Stop => self.stop(slot).await,
            Fault::Revoke => self.revoke(slot).await,
            Fault::CutOff => self.cut_off(slot).await,
            Fault::LoseAnswers => self.lose_answers(slot).await,
            Fault::Member => self.kill_member().await,
        }
    }

    async fn holding(&mut self, slot: usize) -> bool {
        self.try_poll(|scene| !scene.workers[slot].holds().is_empty()).await
    }

    /// Another than this worker gets one of these.
    async fn handed_over(&mut self, slot: usize, objects: &[Object], since: Nanos) -> bool {
        self.try_poll(|scene| {
            let mut others = scene.workers.iter_mut().enumerate().filter(|(other, _)| *other != slot);
            others.any(|(_, worker)| worker.was_granted(objects, since))
        })
        .await
    }

    async fn kill(&mut self, slot: usize) -> bool {
        if !self.holding(slot).await {
            return false;
        }
        let at = self.kill_and_replace(slot);
        let held = self.past.last_mut().map_or(Vec::new(), Worker::holds);
        let handed_over = !held.is_empty() && self.handed_over(slot, &held, at).await;
        self.handovers += usize::from(handed_over);
        handed_over
    }

    /// Answers when it was killed.
    fn kill_and_replace(&mut self, slot: usize) -> Nanos {
        let at = self.now();
        let worker = &mut self.workers[slot];
        worker.halted.push(at);
        worker.child.kill().unwrap();
        worker.child.wait().unwrap();
        let successor = self.start(slot);
        let killed = std::mem::replace(&mut self.workers[slot], successor);
        self.past.push(killed);
        at
    }

    async fn stop(&mut self, slot: usize) -> bool {
        if !self.holding(slot).await {
            return false;
        }
        let at = self.now();
        let worker = &mut self.workers[slot];
        worker.halted.push(at);
        worker.signal(Signal::SIGSTOP);
        // It stops a little later than it was told to; and a stop that is shorter than this is none that it notices.
        sleep(STANDSTILL * 2).await;
        let held = self.workers[slot].holds();
        // Stopped amid a write to the file, it would keep everybody from everything until it goes on.
        let since = self.now();
        let others_go_on = tokio::time::timeout(TTL / 2, self.handed_over(slot, &Object::ALL, since)).await.is_ok();
        let handed_over = others_go_on && !held.is_empty() && self.handed_over(slot, &held, at).await;
        self.workers[slot].signal(Signal::SIGCONT);
        self.handovers += usize::from(handed_over);
        let noticed = |event: &Event| matches!(event, Event::StoodStill { .. });
        self.poll("who stood still notices", |scene| scene.workers[slot].wrote_after(at, noticed)).await;
        let lost = |event: &Event| matches!(event, Event::Answer { answer: Answer::Lost(_), .. });
        handed_over && self.try_poll(|scene| scene.workers[slot].wrote_after(at, lost)).await
    }

    async fn revoke(&mut self, slot: usize) -> bool {
        if !self.holding(slot).await {
            return false;
        }
        let Some(lease) = self.workers[slot].lease() else { return false };
        let at = self.now();
        self.revoked.entry(lease).or_insert(at);
        self.store.revoke(LeaseId(lease.try_into().unwrap())).await.unwrap();
        let opened = |event: &Event| matches!(event, Event::Opened { .. });
        self.poll("another session", |scene| scene.workers[slot].wrote_after(at, opened)).await;
        // It may have held nothing any more.
        let lost = |event: &Event| matches!(event, Event::Answer { answer: Answer::Lost(_) | Answer::HadEnded, .. });
        self.try_poll(|scene| scene.workers[slot].wrote_after(at, lost)).await
    }

    async fn cut_off(&mut self, slot: usize) -> bool {
        if !self.holding(slot).await {
            return false;
        }
        let at = self.now();
        self.networks(slot).iter().for_each(Proxy::refuse);
        let held = self.workers[slot].holds();
        let handed_over = !held.is_empty() && self.handed_over(slot, &held, at).await;
        self.networks(slot).iter().for_each(Proxy::pass);
        let opened = |event: &Event| matches!(event, Event::Opened { .. });
        handed_over && self.try_poll(|scene| scene.workers[slot].wrote_after(at, opened)).await
    }

    async fn lose_answers(&mut self, slot: usize) -> bool {
        for proxy in self.networks(slot) {
            proxy.answers(Flow::Hold);
        }
        // What the members answer in this time is lost: transactions that were applied, for one.
        sleep(Duration::from_millis(100)).await;
        for proxy in self.networks(slot) {
            proxy.cut();
            proxy.pass();
        }
        let since = self.now();
        self.try_poll(|scene| scene.workers[slot].was_granted(&Object::ALL, since)).await
    }

    async fn kill_member(&mut self) -> bool {
        let Stage::Etcd { cluster, .. } = &mut self.stage else { return true };
        let leader = cluster.leader().await;
        cluster.members[leader].kill();
        let since = now(&self.clock);
        for slot in 0..WORKERS {
            self.poll("all go on without a member", |scene| scene.workers[slot].was_granted(&Object::ALL, since)).await;
        }
        let Stage::Etcd { cluster, .. } = &mut self.stage else { return true };
        cluster.members[leader].restart();
        cluster.members[leader].ready().await;
        true
    }

    fn networks(&self, slot: usize) -> &[Proxy] {
        match &self.stage {
            Stage::Etcd { networks, .. } => &networks[slot],
            Stage::File(_) => &[],
        }
    }

    /// Waits until this worker has lost what it held. One whose session ends while it holds nothing, and that does not
    /// know it, has nothing to lose any more: another takes its place.
    pub async fn loses(&mut self, slot: usize) {
        let lost = |event: &Event| matches!(event, Event::Answer { answer: Answer::Lost(_), .. });
        while !self.try_poll(|scene| scene.workers[slot].wrote_after(0, lost)).await {
            self.kill_and_replace(slot);
        }
    }

    /// Waits until this worker has read so many answers late.
    pub async fn oversleeps(&mut self, slot: usize, times: usize) {
        let late = |line: &&Line| line.event == Event::Harm(Harm::Overslept);
        for time in 1..=times {
            self.poll("an answer is read late", |scene| {
                scene.workers[slot].lines().iter().filter(late).count() >= time
            })
            .await;
        }
    }

    /// Waits until so many calls more were made, at least a hundred of them within the limit of what must happen.
    pub async fn calls(&mut self, more: usize) {
        for done in (0..more).step_by(CALM) {
            self.next_calls(CALM.min(more - done)).await;
        }
    }

    async fn next_calls(&mut self, more: usize) {
        let is_call = |line: &&Line| matches!(line.event, Event::Call { .. });
        let calls = |scene: &mut Scene| {
            scene.workers.iter_mut().map(|worker| worker.lines().iter().filter(is_call).count()).sum::<usize>()
        };
        let before = calls(self);
        self.poll("the workers work", |scene| calls(scene) >= before + more).await;
    }

    /// Waits until what was written so far is enough.
    pub async fn until(&mut self, enough: impl Fn(&Run) -> bool) {
        self.poll("everything happens that is to happen", |scene| enough(&scene.so_far())).await;
    }

    /// All workers end in order. Everything they wrote.
    pub async fn end(&mut self) -> Run {
        for worker in &mut self.workers {
            drop(worker.child.stdin.take());
        }
        for worker in &mut self.workers {
            let ended = async {
                loop {
                    match worker.child.try_wait().unwrap() {
                        Some(status) => return status,
                        None => sleep(Duration::from_millis(20)).await,
                    }
                }
            };
            let status = soon("a worker ends", ended).await;
            assert!(status.success(), "{} failed: {status}", worker.name);
            assert!(worker.lines().iter().any(|line| line.event == Event::Done), "{} did not run", worker.name);
        }
        self.so_far()
    }

    fn so_far(&mut self) -> Run {
        let workers = self.past.iter_mut().chain(&mut self.workers);
        let written = |worker: &mut Worker| {
            let (name, halted) = (worker.name.clone(), worker.halted.clone());
            Process { name, lines: worker.lines().to_vec(), halted }
        };
        Run { processes: workers.map(written).collect(), revoked: self.revoked.clone() }
    }

    /// Keeps what the workers wrote, and answers where.
    fn keep(&mut self) -> &Path {
        std::fs::write(self.file("revoked"), serde_json::to_string(&self.revoked).unwrap()).unwrap();
        self.directory.disable_cleanup(true);
        self.directory.path()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() || std::env::var_os("HISTORIES_KEEP").is_some() {
            let seed = self.seed;
            println!("seed {seed}: what the workers wrote is in {}", self.keep().display());
        }
    }
}

fn url(endpoints: impl Iterator<Item = String>) -> String {
    format!("etcd://{}", endpoints.collect::<Vec<_>>().join(","))
}
