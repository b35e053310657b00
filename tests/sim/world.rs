//! One simulation: nodes, whole, on a runtime whose time is moved on when nothing is left to do.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fencron::board::Shared;
use fencron::config::{Config, Sources, parse};
use fencron::execute::Outputs;
use fencron::fence::Fence;
use fencron::job::{JobName, Params, RunId, Verdict};
use fencron::ledger::{Acting, Asked, Find, Ledger, Resolution, RunRow};
use fencron::lock::{CallId, Driver, Locks, Namespace, Seen, Timing};
use fencron::node::housekeeping::Chore;
use fencron::node::{self, Node, Options, Order, Status};
use fencron::store::memory::Snapshot;
use fencron::store::{Change, Entry, Keys, Op, Range, Revision, Store, StoreError, Txn, Watched};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::alerts::Teller;
use super::chance::Chance;
use super::clock::{MachineClock, TrueClock, WALL_START};
use super::holders::Holders;
use super::network::{Broken, Harm, Link, Machine, Net, Weather};
use super::plan::{CHAOS, Cast, Deed, Plan, REST, Request, Whom};
use super::referee::holders::{ELECTED, LOCKS};
use super::referee::record::{Fact, Life, Record};
use super::referee::witness;
use super::supervisor::{Death, Supervisor};
use super::work::{Receiver, Worker};

/// How often a leader adds up what it has counted.
const COUNTS_EVERY: Duration = Duration::from_secs(10);

/// Runs a plan to its end, and answers what happened.
pub fn run(plan: &Plan) -> Record {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    // Inside: outside of the runtime, `Instant` is the machine's.
    runtime.block_on(async { World::new(plan).live().await })
}

struct World<'a> {
    plan: &'a Plan,
    truth: TrueClock,
    net: Arc<Net>,
    machines: Vec<Machine>,
    nodes: Vec<Option<Process>>,
    lives: BTreeMap<usize, u32>,
    /// What the processes of each machine have seen of the store, on its disk.
    seen: Vec<Arc<Mutex<Seen>>>,
    receiver: Arc<Receiver>,
    config: Config,
    namespace: Namespace,
    chance: Chance,
    sprung: mpsc::UnboundedReceiver<(usize, Harm, oneshot::Sender<()>)>,
    /// What is to end, and when.
    endings: Vec<(u64, Ending)>,
    asked: u32,
}

struct Process {
    life: Life,
    link: Link,
    orders: mpsc::Sender<Order>,
    status: watch::Receiver<Status>,
    task: Task,
    supervisor: Arc<Supervisor>,
    /// It was told to end.
    told: bool,
}

/// The end of what was done to the world.
#[derive(Debug)]
enum Ending {
    Start(usize),
    Recover(usize),
    Release(usize),
    Connect(usize),
    StoreUp,
    SetClockRight(usize),
    TakeKeyAway(String),
    ClearSky,
}

/// A process's machine, its way to the store, and its locks.
type Way = (Machine, Link, Locks<Link>);

/// The ends of a process's channels.
type Ends = (mpsc::Receiver<Order>, watch::Sender<Status>);

type Task = JoinHandle<Result<(), StoreError>>;

enum Turn {
    Deed(Deed),
    Trap,
    Ending(Ending),
    Sprung(usize, Harm, oneshot::Sender<()>),
    Look,
    Over,
}

/// How far a restore of the store has come.
enum Backup {
    Taken(Box<Snapshot>, Revision),
    PutBack,
    WrittenTo,
    Repaired,
}

/// How often the processes are looked at for those that ended.
const LOOK_EVERY: u64 = 250;

impl<'a> World<'a> {
    fn new(plan: &'a Plan) -> World<'a> {
        let truth = TrueClock::starting_now();
        let (springs, sprung) = mpsc::unbounded_channel();
        let net = Net::new(truth, Chance::of(plan.seed, "network"), plan.broken, springs);
        let machines = (0..plan.nodes).map(|at| Machine::new(at, MachineClock::new(truth, plan.drift[at]))).collect();
        let config = parse(&plan.jobs, &Sources::none()).unwrap_or_else(|problems| panic!("{problems}"));
        World {
            plan,
            truth,
            net,
            machines,
            nodes: (0..plan.nodes).map(|_| None).collect(),
            lives: BTreeMap::new(),
            seen: (0..plan.nodes).map(|_| Arc::default()).collect(),
            receiver: Arc::default(),
            config,
            namespace: Namespace::new("sim").unwrap(),
            chance: Chance::of(plan.seed, "world"),
            sprung,
            endings: Vec::new(),
            asked: 0,
        }
    }

    async fn live(mut self) -> Record {
        let witness = tokio::spawn(witness(Arc::clone(&self.net), self.namespace.clone()));
        for node in 0..self.plan.nodes {
            self.start(node);
        }
        let mut backup = None;
        let (mut deeds, mut traps) = (self.plan.deeds.iter().peekable(), self.plan.traps.iter().peekable());
        let mut look_at = 0;
        loop {
            self.endings.sort_by_key(|(at, _)| *at);
            let ending = self.endings.first().map_or(u64::MAX, |(at, _)| *at);
            let deed = deeds.peek().map_or(u64::MAX, |(at, _)| *at);
            let trap = traps.peek().map_or(u64::MAX, |(at, _)| *at);
            let next = [ending, deed, trap, look_at, CHAOS].into_iter().min().expect("there are some");
            let pause = Duration::from_millis(next.saturating_sub(self.truth.millis()));
            let turn = tokio::select! {
                biased;
                Some((node, harm, done)) = self.sprung.recv() => Turn::Sprung(node, harm, done),
                () = tokio::time::sleep(pause) => match next {
                    _ if next >= CHAOS => Turn::Over,
                    _ if next == ending => Turn::Ending(self.endings.remove(0).1),
                    _ if next == deed => Turn::Deed(deeds.next().expect("it was seen").1),
                    _ if next == trap => Turn::Trap,
                    _ => Turn::Look,
                },
            };
            match turn {
                Turn::Deed(deed) => self.deed(deed).await,
                Turn::Trap => self.net.lay(traps.next().expect("it was seen").1),
                Turn::Ending(ending) => self.end(ending).await,
                Turn::Sprung(node, harm, done) => {
                    self.harm(node, harm).await;
                    done.send(()).ok();
                }
                Turn::Look => look_at += LOOK_EVERY,
                Turn::Over => break,
            }
            self.look_at_processes().await;
            self.restore(&mut backup).await;
        }
        self.heal().await;
        let healed = self.truth.millis();
        while self.truth.millis() < CHAOS + REST {
            tokio::time::sleep(Duration::from_millis(LOOK_EVERY)).await;
            self.look_at_processes().await;
            self.restore(&mut backup).await;
        }
        witness.abort();
        self.record(healed)
    }

    /// Does what the plan has for a restore of the store, each when it is time.
    async fn restore(&mut self, backup: &mut Option<Backup>) {
        let Some(plan) = self.plan.restore else { return };
        let now = self.truth.millis();
        *backup = match backup.take() {
            None if now >= plan.backed_up => {
                let revision = self.net.store.range(Range::of(Keys::one("none"))).await.unwrap().revision;
                Some(Backup::Taken(Box::new(self.net.store.snapshot()), revision))
            }
            Some(Backup::Taken(snapshot, revision)) if now >= plan.restored => {
                self.net.restore(&snapshot, revision);
                for at in 0..plan.crashes.min(self.nodes.len()) {
                    self.crash(at).await;
                    self.start(at);
                }
                Some(Backup::PutBack)
            }
            Some(Backup::PutBack) if now >= plan.restored + 2_000 => {
                for number in 0..plan.growth {
                    self.by_hand(Txn::new().then(Op::put("/somebody/else", number.to_string()))).await;
                }
                Some(Backup::WrittenTo)
            }
            Some(Backup::WrittenTo) if now >= plan.repaired => {
                self.repair().await;
                Some(Backup::Repaired)
            }
            before => before,
        };
    }

    /// As `fencron fence repair`, where the most was seen.
    async fn repair(&mut self) {
        let seen = self.seen.iter().map(|seen| *seen.lock().unwrap()).max_by_key(|seen| (seen.base, seen.revision));
        let machine = Machine::new(usize::MAX, MachineClock::new(self.truth, 0));
        let link = Link::new(Arc::clone(&self.net), machine.clone(), None);
        let ledger = Ledger::new(link.clone(), self.namespace.clone());
        let locks = Locks::new(link, machine.clock.clock(), self.namespace.clone(), seen.unwrap_or_default());
        ledger.skip_to(self.truth.wall()).await.unwrap();
        // From here on somebody may be granted the leadership, also before the rest is done.
        self.net.note(Fact::Repaired);
        locks.repair(None).await.unwrap();
        ledger.doubt_open_runs("the store was restored", self.truth.wall()).await.unwrap();
    }

    fn record(self, healed: u64) -> Record {
        let timing = self.timing();
        Record {
            rules: self.plan.rules.clone(),
            ttl: self.plan.ttl(),
            margin: timing.margin().as_millis() as u64,
            grace: self.plan.grace_secs * 1000,
            wall_start: WALL_START,
            facts: self.net.take_facts(),
            healed,
            end: self.truth.millis(),
        }
    }

    fn timing(&self) -> Timing {
        Timing::from_ttl(Duration::from_secs(self.plan.ttl_secs)).unwrap()
    }

    fn start(&mut self, at: usize) {
        let life = self.lives.entry(at).or_default();
        *life += 1;
        let (name, machine) = (format!("n{at}"), self.machines[at].clone());
        let life = Life { node: name.clone(), life: *life };
        let link = Link::new(Arc::clone(&self.net), machine.clone(), Some(life.clone()));
        let clock = machine.clock.clock();
        let (orders, order_end) = mpsc::channel(8);
        let (status_end, status) = watch::channel(Status::starting(&name, &self.config));
        let locks = Locks::new(link.clone(), clock.clone(), self.namespace.clone(), self.remembered(at));
        self.remember(at, locks.seen());
        let supervisor = Arc::new(Supervisor::default());
        let task = match self.plan.cast {
            Cast::Nodes => {
                let execute = self.worker(&life, &machine, &supervisor);
                self.spawn_node(execute, (link.clone(), locks), (order_end, status_end))
            }
            Cast::Holders => self.spawn_holders(life.clone(), (machine, link.clone(), locks), (order_end, status_end)),
        };
        self.net.note(Fact::Up(life.clone()));
        self.nodes[at] = Some(Process { life, link, orders, status, task, supervisor, told: false });
    }

    fn worker(&self, life: &Life, machine: &Machine, supervisor: &Arc<Supervisor>) -> Worker {
        Worker {
            net: Arc::clone(&self.net),
            machine: machine.clone(),
            life: life.clone(),
            receiver: Arc::clone(&self.receiver),
            seed: self.plan.seed,
            supervisor: Arc::clone(supervisor),
        }
    }

    fn spawn_node(&self, execute: Worker, (link, locks): (Link, Locks<Link>), (orders, status): Ends) -> Task {
        let (clock, name) = (execute.machine.clock.clock(), execute.life.node.clone());
        let ledger = Ledger::new(link, self.namespace.clone());
        let teller = Teller {
            net: Arc::clone(&self.net),
            machine: execute.machine.clone(),
            life: execute.life.clone(),
            ledger: ledger.clone(),
        };
        let node = Node {
            ledger,
            locks,
            execute,
            outputs: Outputs::new(clock.clone()),
            board: Shared::default(),
            metrics: Arc::default(),
            options: Options {
                name,
                timing: self.timing(),
                room: self.plan.room,
                shutdown_grace: Duration::from_secs(self.plan.grace_secs),
                max_clock_skew: Duration::from_secs(2),
                address: None,
                driver: Driver::Task,
                clock,
            },
        };
        let config = self.config.clone();
        let leads = watch::Sender::default();
        let (telling, tells) = (teller.run(leads.subscribe()), self.plan.tells);
        // Its one chore is to add up what it has counted.
        let (chores_end, chores) = mpsc::channel(1);
        let counting = async move {
            loop {
                tokio::time::sleep(COUNTS_EVERY).await;
                // One that does not fit is left out, as by the clock of the chores.
                chores_end.try_send(Chore::AddCounts).ok();
            }
        };
        tokio::spawn(async move {
            let ends = node::Ends { orders, chores, status, turned: watch::Sender::default(), leads, pings: None };
            tokio::select! {
                biased;
                ended = node.run(config, ends) => ended,
                () = counting => unreachable!("it goes on for ever"),
                () = telling, if tells => unreachable!("it goes on for ever"),
            }
        })
    }

    fn spawn_holders(&self, life: Life, (machine, link, locks): Way, (orders, status): Ends) -> Task {
        // Drawn by the seed, as everything is; no two processes number their calls alike.
        let first = Chance::of(self.plan.seed, &format!("calls of {life}")).draw();
        let holders = Holders {
            net: Arc::clone(&self.net),
            machine,
            life,
            locks: locks.numbering_calls_from(CallId::from_u128(u128::from(first) << 64)),
            ledger: Ledger::new(link, self.namespace.clone()),
            timing: self.timing(),
            grace: Duration::from_secs(self.plan.grace_secs),
            seed: self.plan.seed,
        };
        tokio::spawn(holders.run(orders, status))
    }

    /// What a process on this machine begins with. Only where the store is restored nodes have disks: that costs each of
    /// them its place in what is drawn by chance.
    fn remembered(&self, at: usize) -> Seen {
        let remembers = self.plan.restore.is_some() && self.plan.broken != Broken::NoMemory;
        if remembers { *self.seen[at].lock().unwrap() } else { Seen::default() }
    }

    fn remember(&self, at: usize, mut seen: watch::Receiver<Seen>) {
        if self.plan.restore.is_some() {
            let kept = Arc::clone(&self.seen[at]);
            tokio::spawn(async move {
                while seen.changed().await.is_ok() {
                    *kept.lock().unwrap() = *seen.borrow();
                }
            });
        }
    }

    /// Notes the processes that have ended; one that was not told to is a finding.
    async fn look_at_processes(&mut self) {
        for at in 0..self.nodes.len() {
            if self.nodes[at].as_ref().is_some_and(|process| process.task.is_finished()) {
                let process = self.nodes[at].take().expect("it was just seen");
                let end = match process.task.await {
                    Ok(Ok(())) if process.told => None,
                    Ok(Ok(())) => Some("it left by itself".to_owned()),
                    Ok(Err(error)) => Some(error.to_string()),
                    Err(error) if error.is_panic() => Some(format!("{error}")),
                    Err(_) => None,
                };
                if let Some(why) = end {
                    self.net.note(Fact::Broke(process.life.clone(), why));
                }
                self.net.note(Fact::Down(process.life));
            }
        }
    }

    async fn crash(&mut self, at: usize) {
        let Some(process) = self.nodes[at].take() else { return };
        process.link.sever();
        process.task.abort();
        match process.task.await {
            Err(error) if error.is_panic() => {
                self.net.note(Fact::Broke(process.life.clone(), error.to_string()));
            }
            Ok(Err(error)) => self.net.note(Fact::Broke(process.life.clone(), error.to_string())),
            _ => {}
        }
        self.net.note(Fact::Down(process.life));
    }

    /// The same, and its supervisor sees it. One that stands still itself does not.
    async fn crash_seen(&mut self, at: usize) {
        let Some(process) = &self.nodes[at] else { return };
        let (life, supervisor, machine) =
            (process.life.clone(), Arc::clone(&process.supervisor), self.machines[at].clone());
        if machine.is_held() {
            return self.crash(at).await;
        }
        let (net, namespace) = (Arc::clone(&self.net), self.namespace.clone());
        let death = Death { net, machine, namespace, life, supervisor: Arc::clone(&supervisor) };
        if self.plan.broken == Broken::RevokesOfTheLiving {
            drop(tokio::spawn(death.execute_will()));
            return;
        }
        supervisor.watch();
        self.crash(at).await;
        death.see_to();
    }

    fn leader(&self) -> Option<usize> {
        let leads = |process: &Process| process.status.borrow().fence;
        let fences = self.nodes.iter().enumerate().filter_map(|(at, node)| Some((leads(node.as_ref()?)?, at)));
        fences.max().map(|(_, at)| at)
    }

    fn whom(&self, whom: Whom) -> usize {
        match whom {
            Whom::Leader => self.leader().unwrap_or(0),
            Whom::Node(at) => at,
        }
    }

    fn end_in(&mut self, millis: u64, ending: Ending) {
        let at = (self.truth.millis() + millis).min(CHAOS);
        self.endings.push((at, ending));
    }

    async fn deed(&mut self, deed: Deed) {
        match deed {
            Deed::Ask(_) if self.plan.cast == Cast::Holders => return,
            Deed::Ask(request) => return self.ask(request),
            Deed::Compact => {
                self.net.store.compact(Revision(u64::MAX));
                return self.net.note(Fact::Saw("compactions"));
            }
            deed => self.net.note(Fact::Shock(format!("{deed:?}"))),
        }
        match deed {
            Deed::Crash(whom, away) => {
                let at = self.whom(whom);
                self.crash(at).await;
                self.net.note(Fact::Saw("crashes"));
                self.end_in(away, Ending::Start(at));
            }
            Deed::CrashSeen(whom, away) => {
                let at = self.whom(whom);
                self.crash_seen(at).await;
                self.net.note(Fact::Saw("crashes"));
                self.end_in(away, Ending::Start(at));
            }
            Deed::StopInOrder(whom, away) => {
                let at = self.whom(whom);
                if let Some(process) = &mut self.nodes[at] {
                    process.told = true;
                    process.orders.try_send(Order::Stop).ok();
                    self.net.note(Fact::Saw("orderly stops"));
                    self.net.note(Fact::Drains);
                    self.net.note(Fact::Impaired(process.life.node.clone()));
                    self.end_in(away, Ending::Start(at));
                    self.end_in(away, Ending::Recover(at));
                }
            }
            Deed::Hold(whom, lasts, clock_too) => self.hold(self.whom(whom), lasts, clock_too),
            Deed::Cut(whom, lasts) => self.cut(self.whom(whom), lasts),
            Deed::StoreDown(lasts) => {
                self.net.set_store_down(true);
                self.net.note(Fact::TroubleBegins("the store is down".into()));
                self.end_in(lasts, Ending::StoreUp);
            }
            Deed::SetClock(whom, off, lasts) => {
                let at = self.whom(whom);
                self.machines[at].clock.set_offset(off);
                // A leader that is off all others steps down, and so does one whom all others have become right about.
                self.net.note(Fact::Drains);
                self.net.note(Fact::TroubleBegins(format!("the clock of n{at} is off by {off} ms")));
                self.end_in(lasts, Ending::SetClockRight(at));
            }
            Deed::RevokeLeader => self.revoke_leader().await,
            Deed::DeleteOwner => self.delete_owner().await,
            Deed::StrayKey(lasts) => {
                let lock = match self.plan.cast {
                    Cast::Nodes => "leader",
                    Cast::Holders => *self.chance.pick(&[LOCKS[0], LOCKS[1], ELECTED]),
                };
                let key = format!("{}lock/{lock}/wait/by-hand", self.namespace.prefix());
                self.by_hand(Txn::new().then(Op::put(&key, "what?"))).await;
                self.net.note(Fact::TroubleBegins("a stray key".into()));
                self.end_in(lasts, Ending::TakeKeyAway(key));
            }
            Deed::Weather(fair, lasts) => {
                self.net.set_weather(fair.weather());
                self.net.note(Fact::TroubleBegins(format!("{fair:?}")));
                self.end_in(lasts, Ending::ClearSky);
            }
            Deed::Ask(_) | Deed::Compact => {}
        }
    }

    fn hold(&mut self, at: usize, lasts: u64, clock_too: bool) {
        self.machines[at].set_held(true);
        if clock_too {
            self.machines[at].clock.stop();
        }
        self.net.note(Fact::Impaired(format!("n{at}")));
        self.net.note(Fact::Saw("pauses"));
        self.end_in(lasts, Ending::Release(at));
    }

    fn cut(&mut self, at: usize, lasts: u64) {
        self.machines[at].set_cut(true);
        self.net.note(Fact::Impaired(format!("n{at}")));
        self.net.note(Fact::Saw("cuts"));
        self.end_in(lasts, Ending::Connect(at));
    }

    async fn harm(&mut self, at: usize, harm: Harm) {
        self.net.note(Fact::Shock(format!("{harm:?} of n{at} by a trap")));
        let ttl = self.plan.ttl();
        match harm {
            Harm::Crash | Harm::CrashSeen => {
                match harm {
                    Harm::CrashSeen => self.crash_seen(at).await,
                    _ => self.crash(at).await,
                }
                self.net.note(Fact::Saw("crashes"));
                let away = self.chance.within(100, 2 * ttl);
                self.end_in(away, Ending::Start(at));
            }
            Harm::Stop => {
                let lasts = self.chance.within(ttl / 2, 3 * ttl);
                self.hold(at, lasts, true);
            }
            Harm::Cut => {
                let lasts = self.chance.within(ttl / 2, 3 * ttl);
                self.cut(at, lasts);
            }
            Harm::RevokeLeader => self.revoke_leader().await,
            Harm::DeleteOwner => self.delete_owner().await,
        }
    }

    /// The owner's key of the leadership; of holders, that of any lock.
    async fn an_owner(&mut self) -> Option<Entry> {
        let locks = format!("{}lock/", self.namespace.prefix());
        let page = self.net.store.range(Range::of(Keys::prefix(locks))).await.unwrap();
        let is_victim = |entry: &Entry| match self.plan.cast {
            Cast::Nodes => entry.key.ends_with("lock/leader/owner"),
            Cast::Holders => entry.key.ends_with("/owner"),
        };
        let mut owners: Vec<Entry> = page.entries.into_iter().filter(is_victim).collect();
        match owners.len() {
            0 | 1 => owners.pop(),
            many => Some(owners.swap_remove(self.chance.draw() as usize % many)),
        }
    }

    async fn revoke_leader(&mut self) {
        if let Some(lease) = self.an_owner().await.and_then(|entry| entry.lease) {
            let page = self.net.store.range(Range::of(Keys::prefix(self.namespace.prefix()))).await.unwrap();
            for entry in page.entries.iter().filter(|entry| entry.lease == Some(lease)) {
                self.note_taken(entry);
            }
            self.net.store.revoke(lease).await.unwrap();
            self.net.note(Fact::Saw("leases revoked by hand"));
        }
    }

    async fn delete_owner(&mut self) {
        if let Some(entry) = self.an_owner().await {
            self.note_taken(&entry);
            self.by_hand(Txn::new().then(Op::delete(&entry.key))).await;
        }
        self.net.note(Fact::Saw("owners deleted by hand"));
    }

    fn note_taken(&self, entry: &Entry) {
        if let Some(Fact::Granted { lock, fence, .. }) =
            witness::fact(&self.namespace.prefix(), &Change::Put(entry.clone()))
        {
            self.net.note(Fact::TakenAway { lock, fence });
        }
    }

    async fn by_hand(&self, txn: Txn) {
        let committed = self.net.store.commit(txn).await.unwrap();
        self.net.note(Fact::Wrote { revision: committed.revision.0, by: None });
    }

    async fn end(&mut self, ending: Ending) {
        match ending {
            Ending::Start(at) => {
                if self.nodes[at].as_ref().is_some_and(|process| process.told) {
                    self.crash(at).await;
                }
                let name = format!("n{at}");
                if self.nodes[at].is_none() {
                    self.start(at);
                }
                self.net.note(Fact::Shock(format!("{name} is started")));
            }
            Ending::Recover(at) => self.net.note(Fact::Recovered(format!("n{at}"))),
            Ending::Release(at) => {
                self.machines[at].clock.go_on();
                self.machines[at].set_held(false);
                self.net.note(Fact::Recovered(format!("n{at}")));
            }
            Ending::Connect(at) => {
                self.machines[at].set_cut(false);
                self.net.note(Fact::Recovered(format!("n{at}")));
            }
            Ending::StoreUp => {
                self.net.set_store_down(false);
                self.net.note(Fact::TroubleEnds("the store is down".into()));
            }
            Ending::SetClockRight(at) => {
                self.machines[at].clock.set_offset(0);
                self.net.note(Fact::Drains);
                self.net.note(Fact::TroubleEnds(format!("the clock of n{at}")));
            }
            Ending::TakeKeyAway(key) => {
                self.by_hand(Txn::new().then(Op::delete(key))).await;
                self.net.note(Fact::TroubleEnds("a stray key".into()));
            }
            Ending::ClearSky => {
                self.net.set_weather(Weather::default());
                self.net.note(Fact::TroubleEnds("weather".into()));
            }
        }
    }

    /// Ends everything that goes wrong, and has every node up.
    async fn heal(&mut self) {
        self.net.clear_traps();
        self.sprung.close();
        while let Ok((_, _, done)) = self.sprung.try_recv() {
            done.send(()).ok();
        }
        for (_, ending) in std::mem::take(&mut self.endings) {
            self.end(ending).await;
        }
        for at in 0..self.nodes.len() {
            if self.nodes[at].is_none() {
                self.start(at);
            }
        }
        self.net.note(Fact::Shock("everything was repaired".into()));
    }

    /// What a person asks for goes its own way, through a network of its own.
    fn ask(&mut self, request: Request) {
        self.asked += 1;
        let truth = self.truth;
        let machine = Machine::new(usize::MAX, MachineClock::new(truth, 0));
        let ledger = Ledger::new(Link::new(Arc::clone(&self.net), machine, None), self.namespace.clone());
        let scheduled: Vec<_> = self.plan.rules.iter().map(|rule| JobName::new(&rule.name).unwrap()).collect();
        let job = self.chance.pick(&scheduled).clone();
        let fence = self.leader().and_then(|at| self.nodes[at].as_ref()?.status.borrow().fence);
        let (call, which) = (format!("{:012}", self.asked), self.chance.draw());
        let net = Arc::clone(&self.net);
        tokio::spawn(async move {
            let asking = Asking { ledger, truth, job, fence, call, which };
            if asking.ask(request).await {
                net.note(Fact::Saw("requests of people taken"));
            }
        });
    }
}

struct Asking {
    ledger: Ledger<Link>,
    truth: TrueClock,
    job: JobName,
    fence: Option<Fence>,
    call: String,
    which: u64,
}

impl Asking {
    /// Whether it was taken.
    async fn ask(self, request: Request) -> bool {
        let Asking { ledger, truth, job, fence, call, which } = self;
        let now = truth.wall();
        let acting = Acting::new(Asked::new("eve", now), call);
        match request {
            Request::Trigger => ledger.trigger(&acting, &job, Params::default()).await.is_ok(),
            Request::Backfill => {
                let past = (1..=4).map(|n| now.minus(Duration::from_secs(3600 * n)));
                let runs = past.map(|at| RunId::asked_for(&job, at, &acting.call('b'))).collect();
                ledger.backfill(&acting, &job, runs).await.is_ok()
            }
            Request::Pause => ledger.pause(&acting, Some(&job), None).await.is_ok(),
            Request::Resume => ledger.resume(&acting, Some(&job)).await.is_ok(),
            Request::StepDown => match fence {
                Some(fence) => ledger.ask_to_step_down(&acting, fence, "it").await.is_ok(),
                None => false,
            },
            Request::Cancel => {
                let open = Find { open: true, limit: 100, ..Find::default() };
                match pick(ledger.runs(&open, |_| true).await, which) {
                    Some(row) => ledger.ask_to_cancel(&acting, row.id()).await.is_ok(),
                    None => false,
                }
            }
            Request::Resolve => {
                let done = Find { done: true, limit: 100, ..Find::default() };
                let unknown = |row: &RunRow| matches!(row, RunRow::Done(done) if done.verdict == Verdict::Unknown);
                let how = [Resolution::Succeeded, Resolution::Failed, Resolution::Retry, Resolution::Retry];
                match pick(ledger.runs(&done, unknown).await, which) {
                    Some(row) => ledger.resolve(&acting, row.id(), how[which as usize % 4]).await.is_ok(),
                    None => false,
                }
            }
        }
    }
}

fn pick(rows: Result<Vec<RunRow>, StoreError>, which: u64) -> Option<RunRow> {
    let mut rows = rows.ok()?;
    if rows.is_empty() {
        return None;
    }
    let at = which as usize % rows.len();
    Some(rows.swap_remove(at))
}

/// Sees everything that the true store comes to hold.
async fn witness(net: Arc<Net>, namespace: Namespace) {
    let prefix = namespace.prefix();
    let mut watch = net.store.watch(Keys::prefix(&prefix), Revision(1)).await.unwrap();
    loop {
        match watch.next().await {
            Some(Watched::Changes(changes)) => {
                for change in &changes {
                    if let Some(fact) = witness::fact(&prefix, change) {
                        net.note(fact);
                    }
                }
            }
            // It was watching what is there no more.
            None if net.restored_to().is_some() => {
                let from = net.restored_to().expect("it was just seen").next();
                watch = net.store.watch(Keys::prefix(&prefix), from).await.unwrap();
            }
            other => return net.note(Fact::Broke(Life { node: "witness".into(), life: 0 }, format!("{other:?}"))),
        }
    }
}
