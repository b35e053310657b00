//! What lies between a node and the store: it loses, delays, repeats, cuts off, and holds back.

use std::collections::BTreeSet;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fencron::store::memory::{MemoryStore, Snapshot};
use fencron::store::{
    About, Committed, Compare, Keys, LeaseId, Op, Page, Range, Revision, Store, StoreError, Txn, Watch, Watched,
};
use tokio::sync::{Notify, mpsc, oneshot};

use super::chance::Chance;
use super::clock::{MachineClock, TrueClock};
use super::referee::record::{Fact, Life};

/// How long a node waits for an answer.
const PATIENCE: Duration = Duration::from_millis(1_500);

/// What a transaction is for, as far as faults aim at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Claim,
    Verdict,
    Change,
    Register,
    Enqueue,
    Grant,
    Release,
    Session,
    Other,
}

/// At which moment of a transaction something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    BeforeApplied,
    BeforeAnswer,
    Answered,
}

/// Something that happens when a node sends its next transaction of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trap {
    pub kind: Kind,
    pub point: Point,
    /// So many of the kind pass first.
    pub skip: u32,
    pub harm: Harm,
}

/// What a trap does to the node that it catches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    Crash,
    CrashSeen,
    Stop,
    Cut,
    RevokeLeader,
    DeleteOwner,
}

/// An enumeration with the list of all its variants, so that no test of each can leave one out.
macro_rules! listed {
    ($(#[$meta:meta])* pub enum $name:ident { $($(#[$of:meta])* $variant:ident,)* }) => {
        $(#[$meta])*
        pub enum $name { $($(#[$of])* $variant,)* }

        impl $name {
            pub const ALL: &[$name] = &[$($name::$variant,)*];
        }
    };
}

listed! {
    /// How the simulated program is broken on purpose, to see that the referee notices.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub enum Broken {
        #[default]
        Not,
        /// Writes do not compare the owner's key.
        NoFenceCheck,
        /// Neither that, nor the watermark.
        NoFenceNorWatermark,
        /// Claims put fewer runs than they decide.
        DropsClaims,
        /// Keep-alives are taken for acknowledged.
        TrustsForEver,
        /// Verdicts never arrive.
        NoVerdicts,
        /// Nobody can win once somebody has.
        NoSuccessor,
        /// Every attempt is started twice.
        StartsTwice,
        /// Attempts go on after they were reported to have ended.
        EndsEarly,
        /// The receiver does not look at fences.
        NoGuard,
        /// Changes of runs do not compare the run.
        Overwrites,
        /// What is done once is claimed without a look at its record.
        ClaimsAgain,
        /// A lock is granted without a look at its owner.
        GrantsToAll,
        /// What was seen of the store is forgotten with the process.
        NoMemory,
        /// The lease of a process that has died is revoked while its commands still run.
        RevokesBeforeEmpty,
        /// The same of a process that has only closed its connection to its supervisor.
        RevokesOfTheLiving,
        /// Verdicts put no alerts.
        EndsSilently,
        /// What is taken of the alerts of a channel is not put down.
        ForgetsTaken,
        /// Each grant counts its fence from a base below that of the grant before.
        BaseFalls,
    }
}

/// Chances of faults, in parts of a thousand of all requests.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    pub lost: u64,
    pub answer_lost: u64,
    pub late: u64,
    pub repeated: u64,
    pub unavailable: u64,
    pub watch_breaks: u64,
    pub watch_late: u64,
}

/// The network of one simulation.
pub struct Net {
    pub store: MemoryStore,
    pub truth: TrueClock,
    pub broken: Broken,
    state: Mutex<State>,
    facts: Mutex<Vec<(u64, Fact)>>,
    restored: Mutex<Option<Revision>>,
    sprung: mpsc::UnboundedSender<(usize, Harm, oneshot::Sender<()>)>,
}

struct State {
    chance: Chance,
    weather: Weather,
    store_is_down: bool,
    traps: Vec<Trap>,
    granted: bool,
    grants: u64,
}

/// How a machine stands towards the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Standing {
    /// Nothing that its processes send leaves it, and nothing reaches them, until it goes on.
    held: bool,
    cut: bool,
}

/// A machine: its clock, and its place in the network. It outlives its processes.
#[derive(Clone, Debug)]
pub struct Machine {
    pub index: usize,
    pub clock: MachineClock,
    place: Arc<Place>,
}

/// Who waits here is woken in the order of arrival, which a `watch` does not promise.
#[derive(Debug, Default)]
struct Place {
    standing: Mutex<Standing>,
    moved: Notify,
}

impl Machine {
    pub fn new(index: usize, clock: MachineClock) -> Machine {
        Machine { index, clock, place: Arc::default() }
    }

    pub fn set_held(&self, held: bool) {
        self.place.standing.lock().unwrap().held = held;
        self.place.moved.notify_waiters();
    }

    pub fn set_cut(&self, cut: bool) {
        self.place.standing.lock().unwrap().cut = cut;
        self.place.moved.notify_waiters();
    }

    /// Waits for as long as the machine's processes are stopped.
    pub async fn running(&self) {
        self.until(|standing| !standing.held).await;
    }

    /// Waits for as long as the machine is cut off.
    async fn connected(&self) {
        self.until(|standing| !standing.cut).await;
    }

    async fn until(&self, so: impl Fn(&Standing) -> bool) {
        loop {
            let moved = self.place.moved.notified();
            if so(&self.place.standing.lock().unwrap()) {
                return;
            }
            moved.await;
        }
    }

    pub fn is_held(&self) -> bool {
        self.place.standing.lock().unwrap().held
    }

    fn is_cut(&self) -> bool {
        self.place.standing.lock().unwrap().cut
    }
}

impl Net {
    pub fn new(
        truth: TrueClock,
        chance: Chance,
        broken: Broken,
        sprung: mpsc::UnboundedSender<(usize, Harm, oneshot::Sender<()>)>,
    ) -> Arc<Net> {
        let store = MemoryStore::new(truth.clock());
        let weather = Weather::default();
        let state = State { chance, weather, store_is_down: false, traps: Vec::new(), granted: false, grants: 0 };
        Arc::new(Net {
            store,
            truth,
            broken,
            state: Mutex::new(state),
            facts: Mutex::default(),
            restored: Mutex::default(),
            sprung,
        })
    }

    pub fn note(&self, fact: Fact) {
        self.facts.lock().unwrap().push((self.truth.millis(), fact));
    }

    pub fn take_facts(&self) -> Vec<(u64, Fact)> {
        std::mem::take(&mut *self.facts.lock().unwrap())
    }

    /// Every lease that was granted to a process.
    pub fn leases_of(&self, life: &Life) -> BTreeSet<LeaseId> {
        let facts = self.facts.lock().unwrap();
        let leases = facts.iter().filter_map(|(_, fact)| match fact {
            Fact::Acknowledged { life: of, lease, .. } if of == life => NonZeroU64::new(*lease).map(LeaseId),
            _ => None,
        });
        leases.collect()
    }

    /// Puts a backup of that revision back.
    pub fn restore(&self, snapshot: &Snapshot, revision: Revision) {
        self.note(Fact::Restored { revision: revision.0 });
        *self.restored.lock().unwrap() = Some(revision);
        self.store.restore(snapshot);
    }

    pub fn restored_to(&self) -> Option<Revision> {
        *self.restored.lock().unwrap()
    }

    pub fn set_weather(&self, weather: Weather) {
        self.state.lock().unwrap().weather = weather;
    }

    pub fn set_store_down(&self, down: bool) {
        self.state.lock().unwrap().store_is_down = down;
    }

    pub fn lay(&self, trap: Trap) {
        self.state.lock().unwrap().traps.push(trap);
    }

    pub fn clear_traps(&self) {
        self.state.lock().unwrap().traps.clear();
    }

    fn is_down(&self) -> bool {
        self.state.lock().unwrap().store_is_down
    }

    /// What becomes of the next request.
    fn fate(&self) -> Fate {
        let mut state = self.state.lock().unwrap();
        let weather = state.weather;
        let chance = &mut state.chance;
        let mut fate = Fate {
            there: Duration::from_micros(chance.within(200, 8_000)),
            back: Duration::from_micros(chance.within(200, 8_000)),
            unavailable: chance.permille(weather.unavailable),
            lost: chance.permille(weather.lost),
            answer_lost: chance.permille(weather.answer_lost),
            again: None,
            quick: chance.permille(500),
        };
        if chance.permille(weather.late) {
            fate.there = Duration::from_millis(chance.within(500, 20_000));
        }
        if chance.permille(weather.repeated) {
            fate.again = Some(Duration::from_millis(chance.within(1, 20_000)));
        }
        fate
    }

    /// The trap that springs at this point of a transaction of this kind.
    fn trapped(&self, kind: Kind, point: Point) -> Option<Harm> {
        let mut state = self.state.lock().unwrap();
        let at = state.traps.iter().position(|trap| trap.kind == kind && trap.point == point)?;
        match state.traps[at].skip.checked_sub(1) {
            Some(skip) => {
                state.traps[at].skip = skip;
                None
            }
            None => Some(state.traps.remove(at).harm),
        }
    }

    /// Springs a trap, and goes on when its harm is done.
    async fn spring(&self, machine: Option<usize>, kind: Kind, point: Point) {
        let Some(machine) = machine else { return };
        if let Some(harm) = self.trapped(kind, point) {
            self.note(Fact::Saw("traps sprung"));
            let (done, wait) = oneshot::channel();
            if self.sprung.send((machine, harm, done)).is_ok() {
                wait.await.ok();
            }
        }
    }

    async fn apply(&self, request: Request, by: Option<&Life>) -> Result<Reply, StoreError> {
        Ok(match request {
            Request::Grant(ttl) => Reply::Granted(self.store.grant(ttl).await?),
            Request::KeepAlive(lease) => Reply::KeptAlive(self.store.keep_alive(lease).await?),
            Request::Revoke(lease) => {
                self.store.revoke(lease).await?;
                Reply::Revoked
            }
            Request::Range(range) => Reply::Page(self.store.range(range).await?),
            Request::About => Reply::About(self.store.about().await?),
            Request::Commit(txn) => {
                let writes = |ops: &[Op]| ops.iter().any(|op| !matches!(op, Op::Get(_)));
                let (then, otherwise) = (writes(&txn.then), writes(&txn.otherwise));
                let committed = self.store.commit(txn).await?;
                if if committed.succeeded { then } else { otherwise } {
                    self.note(Fact::Wrote { revision: committed.revision.0, by: by.cloned() });
                }
                Reply::Committed(committed)
            }
        })
    }

    /// Breaks a request as the simulated program is broken.
    fn deface(&self, request: &mut Request, kind: Kind) -> Result<(), StoreError> {
        let Request::Commit(txn) = request else { return Ok(()) };
        let strips = |compare: &Compare| match &compare.keys {
            Keys::One(key) => match self.broken {
                Broken::NoFenceCheck => key.ends_with("/owner"),
                Broken::NoFenceNorWatermark => {
                    key.ends_with("/owner") || key.ends_with("/watermark") || key.contains("/claimed/")
                }
                Broken::ClaimsAgain => key.contains("/~once/"),
                Broken::Overwrites => key.contains("/open/"),
                _ => false,
            },
            Keys::Range { .. } => false,
        };
        match (self.broken, kind) {
            (_, Kind::Claim | Kind::Verdict | Kind::Change | Kind::Register) => {
                txn.when.retain(|compare| !strips(compare));
                if self.broken == Broken::DropsClaims && kind == Kind::Claim && txn.then.len() > 2 {
                    txn.then.remove(0);
                }
                if self.broken == Broken::EndsSilently {
                    txn.then.retain(|op| !matches!(op, Op::Put { key, .. } if key.contains("/~alert/out/")));
                }
                if self.broken == Broken::NoVerdicts && kind == Kind::Verdict {
                    return Err(unknown("it is broken"));
                }
                Ok(())
            }
            (Broken::ForgetsTaken, Kind::Other) if txn.then.iter().any(|op| matches!(op, Op::Delete(_))) => {
                txn.then.retain(|op| !matches!(op, Op::Put { key, .. } if key.contains("/~alert/channel/")));
                Ok(())
            }
            (Broken::GrantsToAll, Kind::Grant) => {
                txn.when.retain(|compare| !matches!(&compare.keys, Keys::One(key) if key.ends_with("/owner")));
                Ok(())
            }
            (Broken::BaseFalls, Kind::Grant) => {
                let mut state = self.state.lock().unwrap();
                state.grants += 1;
                let base = FALLING_FROM - state.grants * FALLS_BY;
                txn.then.iter_mut().for_each(|op| count_from(base, op));
                Ok(())
            }
            (Broken::NoSuccessor, Kind::Grant) => {
                let mut state = self.state.lock().unwrap();
                if std::mem::replace(&mut state.granted, true) { Err(unknown("it is broken")) } else { Ok(()) }
            }
            _ => Ok(()),
        }
    }
}

/// From where a base falls, and by how much with each grant: by more than the revisions between two of them.
const FALLING_FROM: u64 = 1 << 40;
const FALLS_BY: u64 = 1 << 20;

/// Has the record of an owner say that its fence is counted from `base`.
fn count_from(base: u64, op: &mut Op) {
    let Op::Put { key, value, .. } = op else { return };
    if !key.ends_with("/owner") {
        return;
    }
    let mut record: serde_json::Value = serde_json::from_slice(value).expect("the record of an owner");
    record["base"] = base.into();
    *value = record.to_string().into_bytes();
}

#[derive(Debug)]
struct Fate {
    there: Duration,
    back: Duration,
    unavailable: bool,
    lost: bool,
    answer_lost: bool,
    again: Option<Duration>,
    /// Whoever gets no answer learns it at once (a broken connection), and not by waiting.
    quick: bool,
}

#[derive(Clone, Debug)]
enum Request {
    Grant(Duration),
    KeepAlive(LeaseId),
    Revoke(LeaseId),
    Commit(Txn),
    Range(Range),
    About,
}

#[derive(Debug)]
enum Reply {
    Granted((LeaseId, Duration)),
    KeptAlive(Duration),
    Revoked,
    Committed(Committed),
    Page(Page),
    About(About),
}

fn unknown(why: &str) -> StoreError {
    StoreError::Unknown { store: "simulated".into(), why: why.into() }
}

fn unavailable() -> StoreError {
    StoreError::Unavailable { store: "simulated".into(), why: "it is cut off".into() }
}

fn kind_of(request: &Request) -> Kind {
    let Request::Commit(txn) = request else { return Kind::Other };
    let of = |op: &Op| match op {
        Op::Put { key, .. } if key.ends_with("/watermark") => Some(Kind::Claim),
        Op::Put { key, .. } if key.contains("/~done/") => Some(Kind::Verdict),
        Op::Put { key, .. } if key.contains("/job/") => Some(Kind::Register),
        Op::Put { key, .. } if key.ends_with("/owner") => Some(Kind::Grant),
        Op::Put { key, .. } if key.contains("/wait/") => Some(Kind::Enqueue),
        Op::Put { key, .. } if key.contains("/sess/") => Some(Kind::Session),
        Op::Put { key, .. } if key.contains("/claimed/") => Some(Kind::Claim),
        Op::Put { key, .. } if key.contains("/~once/") && key.ends_with("/at") => Some(Kind::Change),
        Op::Delete(Keys::One(key)) if key.ends_with("/owner") => Some(Kind::Release),
        _ => None,
    };
    let claims = txn.then.iter().any(|op| matches!(op, Op::Put { key, .. } if key.ends_with("/watermark")));
    let opens = txn.then.iter().any(|op| matches!(op, Op::Put { key, .. } if key.contains("/open/")));
    match txn.then.iter().find_map(of) {
        _ if claims => Kind::Claim,
        Some(kind) => kind,
        None if opens => Kind::Change,
        None => Kind::Other,
    }
}

/// One process's way to the store; `life` is `None` for a person's.
#[derive(Clone)]
pub struct Link {
    net: Arc<Net>,
    machine: Machine,
    life: Option<Life>,
    severed: Arc<AtomicBool>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Link({:?})", self.life)
    }
}

impl Link {
    pub fn new(net: Arc<Net>, machine: Machine, life: Option<Life>) -> Link {
        Link { net, machine, life, severed: Arc::default() }
    }

    /// The process has crashed: nothing that is left of it here is sent any more, nor hears anything.
    pub fn sever(&self) {
        self.severed.store(true, Ordering::Relaxed);
    }

    /// Waits for as long as the process is stopped; for ever, once it has crashed.
    async fn lives(&self) {
        self.machine.running().await;
        if self.severed.load(Ordering::Relaxed) {
            std::future::pending().await
        }
    }

    async fn call(&self, mut request: Request) -> Result<Reply, StoreError> {
        // A stopped process sends nothing until it goes on.
        self.lives().await;
        let kind = kind_of(&request);
        self.net.deface(&mut request, kind)?;
        let fate = self.net.fate();
        if fate.unavailable || self.machine.is_cut() || self.net.is_down() {
            tokio::time::sleep(fate.there.min(PATIENCE)).await;
            self.net.note(Fact::Saw("requests refused"));
            self.lives().await;
            return Err(unavailable());
        }
        let quick = fate.quick;
        let (answer, answered) = oneshot::channel();
        tokio::spawn(self.clone().deliver(request, kind, fate, answer));
        let reply = match tokio::time::timeout(PATIENCE, answered).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(_)) => {
                if !quick {
                    tokio::time::sleep(PATIENCE).await;
                }
                self.net.note(Fact::Saw("answers that did not come"));
                Err(unknown("the connection broke"))
            }
            Err(_) => {
                self.net.note(Fact::Saw("answers that did not come"));
                Err(unknown("it took too long"))
            }
        };
        self.lives().await;
        reply
    }

    /// A request on its way, which is not that of whoever sent it: it arrives though its sender be dead.
    async fn deliver(
        self,
        request: Request,
        kind: Kind,
        fate: Fate,
        answer: oneshot::Sender<Result<Reply, StoreError>>,
    ) {
        let (net, by) = (&self.net, self.life.as_ref());
        let machine = by.map(|_| self.machine.index);
        tokio::time::sleep(fate.there).await;
        net.spring(machine, kind, Point::BeforeApplied).await;
        if fate.lost || net.is_down() {
            return net.note(Fact::Saw("requests lost"));
        }
        let is_write = !matches!(request, Request::Range(_) | Request::About);
        // A keep-alive is not repeated: that of a node that has died would keep its lease, which bounds no takeover.
        let repeats = is_write && !matches!(request, Request::KeepAlive(_));
        let again = fate.again.filter(|_| repeats).map(|_| request.clone());
        if is_write && fate.there > PATIENCE {
            net.note(Fact::Saw("requests applied late"));
        }
        let reply = net.apply(request, by).await;
        if let (Some(again), Some(pause)) = (again, fate.again) {
            let (net, by) = (Arc::clone(net), self.life.clone());
            tokio::spawn(async move {
                tokio::time::sleep(pause).await;
                net.note(Fact::Saw("requests applied twice"));
                net.apply(again, by.as_ref()).await.ok();
            });
        }
        net.spring(machine, kind, Point::BeforeAnswer).await;
        tokio::time::sleep(fate.back).await;
        if fate.answer_lost || self.machine.is_cut() {
            return net.note(Fact::Saw("answers lost after application"));
        }
        // Nobody waits any more where the sender is dead or has given up.
        answer.send(reply).ok();
        self.net.spring(machine, kind, Point::Answered).await;
    }

    fn acknowledged(&self, lease: LeaseId, sent: u64, ttl: Duration) {
        if let Some(life) = &self.life {
            let (lease, ttl) = (lease.0.get(), ttl.as_millis() as u64);
            self.net.note(Fact::Acknowledged { life: life.clone(), lease, sent, ttl });
        }
    }
}

impl Store for Link {
    async fn grant(&self, ttl: Duration) -> Result<(LeaseId, Duration), StoreError> {
        let sent = self.machine.clock.boot_millis();
        match self.call(Request::Grant(ttl)).await? {
            Reply::Granted((lease, ttl)) => {
                self.acknowledged(lease, sent, ttl);
                Ok((lease, ttl))
            }
            other => unreachable!("{other:?}"),
        }
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, StoreError> {
        let sent = self.machine.clock.boot_millis();
        match self.call(Request::KeepAlive(lease)).await {
            Ok(Reply::KeptAlive(ttl)) => {
                self.acknowledged(lease, sent, ttl);
                Ok(ttl)
            }
            Err(_) if self.net.broken == Broken::TrustsForEver => Ok(Duration::from_secs(3600)),
            Err(error) => Err(error),
            Ok(other) => unreachable!("{other:?}"),
        }
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.call(Request::Revoke(lease)).await.map(drop)
    }

    async fn commit(&self, txn: Txn) -> Result<Committed, StoreError> {
        match self.call(Request::Commit(txn)).await? {
            Reply::Committed(committed) => Ok(committed),
            other => unreachable!("{other:?}"),
        }
    }

    async fn range(&self, range: Range) -> Result<Page, StoreError> {
        match self.call(Request::Range(range)).await? {
            Reply::Page(page) => Ok(page),
            other => unreachable!("{other:?}"),
        }
    }

    async fn watch(&self, keys: Keys, from: Revision) -> Result<Watch, StoreError> {
        self.lives().await;
        if self.machine.is_cut() || self.net.is_down() {
            return Err(unavailable());
        }
        let inner = self.net.store.watch(keys, from).await?;
        let (reports, watch) = Watch::channel();
        tokio::spawn(self.clone().relay(inner, reports));
        Ok(watch)
    }

    async fn about(&self) -> Result<About, StoreError> {
        match self.call(Request::About).await? {
            Reply::About(about) => Ok(about),
            other => unreachable!("{other:?}"),
        }
    }

    async fn apart(&self) -> Result<Link, StoreError> {
        Ok(self.clone())
    }
}

impl Link {
    /// Passes on what a watch reports: in order and once, but late, and not for ever.
    async fn relay(self, mut inner: Watch, reports: mpsc::Sender<Watched>) {
        loop {
            let report = tokio::select! {
                biased;
                () = reports.closed() => return,
                report = inner.next() => report,
            };
            let Some(report) = report else { return };
            let (pause, breaks, compacts) = {
                let mut state = self.net.state.lock().unwrap();
                let weather = state.weather;
                let late = state.chance.permille(weather.watch_late);
                let pause = if late { state.chance.within(100, 8_000) } else { state.chance.within(1, 8) };
                (pause, state.chance.permille(weather.watch_breaks), state.chance.permille(300))
            };
            tokio::time::sleep(Duration::from_millis(pause)).await;
            if self.machine.is_cut() || breaks || self.net.is_down() {
                self.net.note(Fact::Saw("watches broken"));
                self.machine.connected().await;
                if compacts {
                    reports.send(Watched::Compacted(Revision(1))).await.ok();
                }
                return;
            }
            self.machine.running().await;
            if reports.send(report).await.is_err() {
                return;
            }
        }
    }
}
