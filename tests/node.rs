//! A whole node over the memory store, time paused: what a person would see first.
#![cfg(feature = "jobs")]

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fencron::board::Shared;
use fencron::config::{Config, Sources, parse};
use fencron::execute::{Execute, Outputs, Work};
use fencron::fence::Fence;
use fencron::job::{AttemptResult, JobName, Outcome, Params, Verdict};
use fencron::ledger::{Find, Ledger, RunRow, TermEnd};
use fencron::lock::{Driver, Locks, Namespace, Seen, Timing};
use fencron::node::housekeeping::Chore;
use fencron::node::{Ends, Node, Options, Order, Status};
use fencron::store::memory::MemoryStore;
use fencron::store::{
    About, Committed, Compare, Keys, LeaseId, Op, Page, Range, Revision, Store, StoreError, Txn, Watch,
};
use fencron::time::{Boot, Clock, Wall};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

const START: i64 = 1_790_000_000_000;

fn sim_clock() -> Clock {
    let began = Instant::now();
    Clock::from_fn(move || {
        let passed = began.elapsed();
        let boot = Boot::from_duration(Duration::from_secs(1000) + passed);
        (boot, Wall::from_millis(START).plus(passed))
    })
}

#[derive(Clone)]
struct Recorder {
    clock: Clock,
    takes: Duration,
    starts: Arc<Mutex<Vec<String>>>,
}

impl Execute for Recorder {
    async fn run(&self, work: Work) -> AttemptResult {
        let Work { stamp, mut stop, may_start, started, .. } = work;
        let now = self.clock.wall();
        let not_started = |outcome| AttemptResult {
            outcome,
            started_at: None,
            finished_at: now,
            output: String::new(),
            output_bytes: 0,
        };
        if !may_start.now() {
            return not_started(Outcome::Stopped(fencron::job::StopReason::LostLeadership));
        }
        self.starts.lock().unwrap().push(stamp.run_id.clone());
        started.at(now);
        let outcome = tokio::select! {
            reason = stop.requested() => Outcome::Stopped(reason),
            () = tokio::time::sleep(self.takes) => Outcome::Exited(0),
        };
        AttemptResult {
            outcome,
            started_at: Some(now),
            finished_at: self.clock.wall(),
            output: "x\n".into(),
            output_bytes: 2,
        }
    }
}

/// The reasons of a status, as one text.
fn told(status: &Status) -> String {
    status.reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

struct Handle {
    orders: mpsc::Sender<Order>,
    chores: mpsc::Sender<Chore>,
    status: watch::Receiver<Status>,
    board: Shared,
    task: tokio::task::JoinHandle<()>,
}

fn start<S: Store>(name: &str, store: &S, clock: &Clock, execute: &impl Execute, config: Config) -> Handle {
    let namespace = Namespace::new("t").unwrap();
    let (orders, order_end) = mpsc::channel(8);
    let (chore, chores) = mpsc::channel(8);
    let (status_end, status) = watch::channel(Status::starting(name, &config));
    let board = Shared::default();
    let node = Node {
        ledger: Ledger::new(store.clone(), namespace.clone()),
        locks: Locks::new(store.clone(), clock.clone(), namespace, Seen::default()),
        execute: execute.clone(),
        outputs: Outputs::new(clock.clone()),
        board: board.clone(),
        metrics: Arc::default(),
        options: Options {
            name: name.to_owned(),
            timing: Timing::from_ttl(Duration::from_secs(10)).unwrap(),
            room: fencron::execute::MAX_RUNNING,
            shutdown_grace: Duration::from_secs(30),
            max_clock_skew: Duration::from_secs(2),
            address: None,
            driver: Driver::Task,
            clock: clock.clone(),
        },
    };
    let task = tokio::spawn(async move {
        node.run(
            config,
            Ends {
                orders: order_end,
                chores,
                status: status_end,
                turned: watch::Sender::default(),
                leads: watch::Sender::default(),
                pings: None,
            },
        )
        .await
        .unwrap();
    });
    Handle { orders, chores: chore, status, board, task }
}

fn config(text: &str) -> Config {
    parse(text, &Sources::none()).unwrap_or_else(|problems| panic!("{problems}"))
}

async fn verdicts(store: &MemoryStore) -> Vec<RunRow> {
    let ledger = Ledger::new(store.clone(), Namespace::new("t").unwrap());
    let find = Find { open: true, done: true, limit: 10_000, ..Find::default() };
    let mut rows = ledger.runs(&find, |_| true).await.unwrap();
    rows.reverse();
    rows
}

const EVERY_SECOND: &str = "version: 1\njobs:\n  tick: {schedule: '@every 1s', command: [x]}\n";

#[tokio::test(start_paused = true)]
async fn a_lone_node_fires_every_occurrence_once() {
    let clock = sim_clock();
    let store = MemoryStore::new(clock.clone());
    let recorder = Recorder { clock: clock.clone(), takes: Duration::from_millis(100), starts: Arc::default() };
    let node = start("a", &store, &clock, &recorder, config(EVERY_SECOND));
    tokio::time::sleep(Duration::from_millis(60_500)).await;
    let rows = verdicts(&store).await;
    assert!(rows.len() >= 59, "{}", rows.len());
    for row in &rows {
        let RunRow::Done(done) = row else { panic!("{row:?}") };
        assert_eq!(done.verdict, Verdict::Succeeded, "{done:?}");
    }
    assert!(node.status.borrow().ready);
    node.orders.send(Order::Stop).await.unwrap();
    node.task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_node_that_nothing_can_be_ordered_of_any_more_stops_in_order() {
    let clock = sim_clock();
    let store = MemoryStore::new(clock.clone());
    let recorder = Recorder { clock: clock.clone(), takes: Duration::from_secs(5), starts: Arc::default() };
    let node = start("a", &store, &clock, &recorder, config(EVERY_SECOND));
    tokio::time::sleep(Duration::from_millis(10_500)).await;
    drop(node.orders);
    node.task.await.unwrap();
    let rows = verdicts(&store).await;
    assert!(rows.iter().all(|row| matches!(row, RunRow::Done(_))), "what ran has ended: {rows:?}");
}

#[tokio::test(start_paused = true)]
async fn a_follower_takes_over_at_once_when_the_leader_stops_and_after_the_ttl_when_it_crashes() {
    let clock = sim_clock();
    let store = MemoryStore::new(clock.clone());
    let recorder = Recorder { clock: clock.clone(), takes: Duration::from_millis(100), starts: Arc::default() };
    let a = start("a", &store, &clock, &recorder, config(EVERY_SECOND));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let b = start("b", &store, &clock, &recorder, config(EVERY_SECOND));
    // It is in the queue by then.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let c = start("c", &store, &clock, &recorder, config(EVERY_SECOND));
    tokio::time::sleep(Duration::from_millis(18_500)).await;
    a.orders.send(Order::Stop).await.unwrap();
    a.task.await.unwrap();
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(b.status.borrow().fence.is_some(), "{:?}", b.status.borrow());
    b.task.abort();
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(c.status.borrow().fence.is_some(), "{:?}", c.status.borrow());
    let rows = verdicts(&store).await;
    // Skips of one reason in a row share a verdict, at the last of them.
    let covered = |row: &RunRow| {
        let last = row.id().at().as_millis() / 1000;
        let many = if let RunRow::Done(done) = row { done.many } else { None };
        many.map_or(last, |many| many.from.as_millis() / 1000)..=last
    };
    let mut at: Vec<i64> = rows.iter().flat_map(covered).collect();
    at.sort_unstable();
    let first = at[0];
    let expected: Vec<i64> = (first..first + at.len() as i64).collect();
    assert_eq!(at, expected, "an occurrence is missing or there twice");
    assert!(at.len() >= 68, "{}", at.len());
    let starts = recorder.starts.lock().unwrap();
    let mut runs: Vec<_> = starts.clone();
    runs.sort();
    runs.dedup();
    assert_eq!(runs.len(), starts.len(), "something was started twice");
}

#[tokio::test(start_paused = true)]
async fn the_history_of_a_job_is_pruned_when_it_got_verdicts_and_that_of_a_job_that_is_gone_by_and_by() {
    let clock = sim_clock();
    let store = MemoryStore::new(clock.clone());
    let recorder = Recorder { clock: clock.clone(), takes: Duration::from_millis(100), starts: Arc::default() };
    let text = |name: &str| {
        format!("version: 1\njobs:\n  {name}: {{schedule: '@every 1s', command: [x], history: {{keep: 5}}}}\n")
    };
    let node = start("a", &store, &clock, &recorder, config(&text("before")));
    tokio::time::sleep(Duration::from_millis(200_500)).await;
    node.orders.send(Order::Stop).await.unwrap();
    node.task.await.unwrap();
    let node = start("b", &store, &clock, &recorder, config(&text("now")));
    tokio::time::sleep(Duration::from_secs(20)).await;
    let count = async |name: &str| {
        verdicts(&store).await.iter().filter(|row| row.id().job().as_str() == name && row.verdict().is_some()).count()
    };
    let before = count("before").await;
    assert!(before >= 199 && count("now").await >= 15);
    let prune = async || {
        node.chores.send(Chore::Prune).await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    prune().await;
    assert!(count("now").await <= 6);
    assert_eq!(count("before").await, before, "it is for the sweep, which begins with the next");
    prune().await;
    assert_eq!(count("before").await, 100, "as many as are kept of a job that is not configured");
}

/// A store that reports no change for as long as it is told not to (a watch is a hint, and may be late), and refuses
/// some transactions.
#[derive(Clone, Debug)]
struct Late {
    store: MemoryStore,
    reports: watch::Receiver<bool>,
    refuses: fn(&Txn) -> bool,
    /// How long a transaction takes.
    takes: Duration,
}

impl Store for Late {
    async fn grant(&self, ttl: Duration) -> Result<(LeaseId, Duration), StoreError> {
        self.store.grant(ttl).await
    }
    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, StoreError> {
        self.store.keep_alive(lease).await
    }
    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.store.revoke(lease).await
    }
    async fn commit(&self, txn: Txn) -> Result<Committed, StoreError> {
        tokio::time::sleep(self.takes).await;
        if (self.refuses)(&txn) {
            return Err(StoreError::Refused("on purpose".to_owned()));
        }
        self.store.commit(txn).await
    }
    async fn range(&self, range: Range) -> Result<Page, StoreError> {
        self.store.range(range).await
    }
    async fn watch(&self, keys: Keys, from: Revision) -> Result<Watch, StoreError> {
        let mut inner = self.store.watch(keys, from).await?;
        let (sender, watch) = Watch::channel();
        let mut reports = self.reports.clone();
        tokio::spawn(async move {
            while let Some(report) = inner.next().await {
                reports.wait_for(|reports| *reports).await.unwrap();
                if sender.send(report).await.is_err() {
                    break;
                }
            }
        });
        Ok(watch)
    }
    async fn about(&self) -> Result<About, StoreError> {
        self.store.about().await
    }
    async fn apart(&self) -> Result<Self, StoreError> {
        Ok(self.clone())
    }
}

/// Ends each run as a guard's refusal, once it is told to.
#[derive(Clone)]
struct TurnedAway {
    clock: Clock,
    seen: Fence,
    go: watch::Receiver<bool>,
}

impl Execute for TurnedAway {
    async fn run(&self, work: Work) -> AttemptResult {
        let now = self.clock.wall();
        work.started.at(now);
        self.go.clone().wait_for(|go| *go).await.unwrap();
        let outcome = Outcome::Fenced { seen: Some(self.seen) };
        AttemptResult { outcome, started_at: Some(now), finished_at: now, output: String::new(), output_bytes: 0 }
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_a_guard_turns_away_finds_out_that_it_was_replaced() {
    let clock = sim_clock();
    let memory = MemoryStore::new(clock.clone());
    let (hear, reports) = watch::channel(true);
    let store = Late { store: memory.clone(), reports, refuses: |_| false, takes: Duration::ZERO };
    let (go, gone) = watch::channel(false);
    let execute = TurnedAway { clock: clock.clone(), seen: Fence::new(1 << 40).unwrap(), go: gone };
    // It fires once, and then has nothing to do: no write of its own tells it that it leads no more.
    let once = format!(
        "version: 1\njobs:\n  x: {{schedule: '@at {}', command: [x]}}\n",
        clock.wall().plus(Duration::from_secs(2))
    );
    let mut node = start("a", &store, &clock, &execute, config(&once));
    node.status.wait_for(|status| status.running == 1).await.unwrap();

    hear.send(false).unwrap();
    let owner = "/fencron/v1/t/lock/leader/owner";
    let delete = Txn::new().when(Compare::absent(Keys::one(owner))).otherwise(Op::delete(owner));
    assert!(!memory.commit(delete).await.unwrap().succeeded, "somebody leads");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(node.status.borrow().fence.is_some(), "it has not heard of it");
    go.send(true).unwrap();
    let heard =
        tokio::time::timeout(Duration::from_secs(5), node.status.wait_for(|status| status.fence.is_none())).await;
    assert!(heard.is_ok(), "it still takes itself for the leader");
    node.task.abort();
}

#[tokio::test(start_paused = true)]
async fn a_verdict_that_the_store_refuses_holds_up_no_other_job() {
    const GOOD: usize = 12;
    let clock = sim_clock();
    let memory = MemoryStore::new(clock.clone());
    let (_hear, reports) = watch::channel(true);
    // Slow, so that the last verdicts are sent together.
    let ends_worse =
        |txn: &Txn| txn.then.iter().any(|op| matches!(op, Op::Delete(Keys::One(key)) if key.contains("/open/worse@")));
    let store = Late { store: memory.clone(), reports, refuses: ends_worse, takes: Duration::from_millis(50) };
    let recorder = Recorder { clock: clock.clone(), takes: Duration::from_millis(10), starts: Arc::default() };
    let row = |name: String| format!("  {name}: {{schedule: '@every 1s', command: [x]}}\n");
    let jobs: String = (0..GOOD).map(|nth| row(format!("good-{nth:02}"))).collect();
    let node =
        start("a", &store, &clock, &recorder, config(&format!("version: 1\njobs:\n{jobs}{}", row("worse".into()))));
    tokio::time::sleep(Duration::from_secs(30)).await;
    let rows = verdicts(&memory).await;
    let succeeded = |job: &str| {
        let of_job = rows.iter().filter(|row| row.id().job().as_str() == job);
        of_job.filter(|row| row.verdict() == Some(Verdict::Succeeded)).count()
    };
    for nth in 0..GOOD {
        let count = succeeded(&format!("good-{nth:02}"));
        assert!(count >= 25, "good-{nth:02} ended {count} times in 30 s");
    }
    assert_eq!(succeeded("worse"), 0);
    assert!(node.status.borrow().ready, "{:?}", node.status.borrow().reasons);
    node.task.abort();
}

/// Three machines' wall clocks over one true time, each set so far off.
fn machine_clock(truth: &Clock, off_ms: &Arc<AtomicI64>) -> Clock {
    let (truth, off) = (truth.clone(), Arc::clone(off_ms));
    Clock::from_fn(move || {
        let (boot, wall) = truth.both();
        (boot, Wall::from_millis(wall.as_millis() + off.load(Ordering::Relaxed)))
    })
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_clock_leaves_the_others_steps_down_before_it_decides_anything_by_it() {
    const DAY: i64 = 86_400_000;
    for by in [DAY, -DAY] {
        let truth = sim_clock();
        let store = MemoryStore::new(truth.clone());
        let recorder = Recorder { clock: truth.clone(), takes: Duration::from_millis(100), starts: Arc::default() };
        let offsets: [Arc<AtomicI64>; 3] = std::array::from_fn(|_| Arc::default());
        let mut nodes = Vec::new();
        for (name, off) in ["a", "b", "c"].iter().zip(&offsets) {
            nodes.push(start(name, &store, &machine_clock(&truth, off), &recorder, config(EVERY_SECOND)));
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
        assert!(nodes[0].status.borrow().fence.is_some());
        offsets[0].store(by, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(10)).await;
        let status = nodes[0].status.borrow().clone();
        assert!(status.fence.is_none() && !status.ready, "{status:?}");
        let told = told(&status);
        assert!(told.contains("the other nodes'") && told.contains("its clock was set"), "{told}");
        let ledger = Ledger::new(store.clone(), Namespace::new("t").unwrap());
        let decided = ledger.watermark().await.unwrap().unwrap().instant;
        let now = truth.wall();
        assert!(decided <= now && now.since(decided) < Duration::from_secs(3), "{decided} at {now}");
        assert!(nodes[1].status.borrow().fence.is_some(), "the next leads");
        assert!(verdicts(&store).await.iter().all(|row| row.verdict() != Some(Verdict::Skipped)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_behind_what_was_decided_is_told() {
    let truth = sim_clock();
    let store = MemoryStore::new(truth.clone());
    let recorder = Recorder { clock: truth.clone(), takes: Duration::from_millis(100), starts: Arc::default() };
    let off: Arc<AtomicI64> = Arc::new(AtomicI64::new(3_600_000));
    let node = start("a", &store, &machine_clock(&truth, &off), &recorder, config(EVERY_SECOND));
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(node.status.borrow().ready);
    off.store(0, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let status = node.status.borrow().clone();
    let told = told(&status);
    assert!(!status.ready && told.contains("59m 5") && told.contains("fencron rewind"), "{told}");
    let ledger = Ledger::new(store.clone(), Namespace::new("t").unwrap());
    let record = ledger.nodes().await.unwrap().remove(0).1;
    assert!(record.troubles.iter().any(|trouble| trouble.contains("fencron rewind")), "{:?}", record.troubles);
    // It catches up.
    off.store(3_600_000, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(node.status.borrow().ready, "{:?}", node.status.borrow().reasons);
}

#[tokio::test(start_paused = true)]
async fn a_jobs_file_that_was_refused_is_told_until_one_is_taken() {
    let clock = sim_clock();
    let store = MemoryStore::new(clock.clone());
    let recorder = Recorder { clock: clock.clone(), takes: Duration::from_millis(100), starts: Arc::default() };
    let node = start("a", &store, &clock, &recorder, config(EVERY_SECOND));
    tokio::time::sleep(Duration::from_secs(5)).await;
    node.orders.send(Order::Refused("jobs.yaml:3:1: unknown key `x`\n  | x: 1\n".to_owned())).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let status = node.status.borrow().clone();
    let since = clock.wall().minus(Duration::from_secs(1));
    assert!(status.ready, "it goes on with the old one");
    let since = since.to_utc().format("%Y-%m-%d %H:%MZ");
    let refused = format!("the jobs file is refused since {since}, the old one stays in force");
    let whole = format!("{refused}: jobs.yaml:3:1: unknown key `x`");
    assert_eq!(told(&status), whole);
    let ledger = Ledger::new(store.clone(), Namespace::new("t").unwrap());
    assert_eq!(ledger.nodes().await.unwrap()[0].1.troubles, [whole]);
    assert_eq!(told(&status.in_public()), format!("{refused}: the log of the node and `fencron status` say why"));
    node.orders.send(Order::Reload(Box::new(config(EVERY_SECOND)))).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(node.status.borrow().reasons, []);
}

#[tokio::test(start_paused = true)]
async fn two_nodes_of_one_name_say_so_and_one_that_was_started_again_does_not() {
    let clock = sim_clock();
    let store = MemoryStore::new(clock.clone());
    let recorder = Recorder { clock: clock.clone(), takes: Duration::from_millis(100), starts: Arc::default() };
    let crashed = start("a", &store, &clock, &recorder, config(EVERY_SECOND));
    tokio::time::sleep(Duration::from_secs(3)).await;
    crashed.task.abort();
    let first = start("a", &store, &clock, &recorder, config(EVERY_SECOND));
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(first.status.borrow().reasons, []);
    let second = start("a", &store, &clock, &recorder, config(EVERY_SECOND));
    tokio::time::sleep(Duration::from_secs(7)).await;
    for node in [&first, &second] {
        let told = told(&node.status.borrow());
        assert!(told.contains("another node has the name a too"), "{told}");
    }
    second.orders.send(Order::Stop).await.unwrap();
    second.task.await.unwrap();
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(first.status.borrow().reasons, []);
}

const WATERMARK: &str = "/fencron/v1/t/watermark";

/// A node that has fired some occurrences, and whose watermark is then changed by `harm`.
async fn harmed(harm: Op) -> (MemoryStore, Clock, Recorder, Handle) {
    let clock = sim_clock();
    let store = MemoryStore::new(clock.clone());
    let recorder = Recorder { clock: clock.clone(), takes: Duration::from_millis(100), starts: Arc::default() };
    let node = start("a", &store, &clock, &recorder, config(EVERY_SECOND));
    tokio::time::sleep(Duration::from_millis(10_500)).await;
    assert!(node.status.borrow().ready && recorder.starts.lock().unwrap().len() >= 9);
    store.commit(Txn::new().then(harm)).await.unwrap();
    (store, clock, recorder, node)
}

/// Nobody leads, without trying again and again; `status` and the node say why. Then the watermark is set anew.
async fn stands_back_until_set_anew(
    (store, clock, recorder, node): (MemoryStore, Clock, Recorder, Handle),
    says: &str,
) {
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (before, begun) = (store.about_revision().await, recorder.starts.lock().unwrap().len());
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(store.about_revision().await - before <= 25, "it keeps the store busy");
    let status = node.status.borrow().clone();
    assert!(!status.ready && status.fence.is_none(), "{status:?}");
    let explains = |text: &str| text.contains(says) && text.contains(WATERMARK) && text.contains("fencron rewind --to");
    assert!(status.reasons.iter().any(|reason| explains(&reason.to_string())), "{status:?}");
    let ledger = Ledger::new(store.clone(), Namespace::new("t").unwrap());
    let locks = Locks::new(store.clone(), clock.clone(), Namespace::new("t").unwrap(), Seen::default());
    let overview = fencron::api::view::Overview::look(&ledger, &locks, clock.wall()).await.unwrap();
    assert!(overview.obstacles.iter().any(|obstacle| explains(obstacle)), "{overview:?}");
    assert_eq!(recorder.starts.lock().unwrap().len(), begun, "something is fired");

    // Another one that starts now finds the same.
    let other = start("b", &store, &clock, &recorder, config(EVERY_SECOND));
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!other.status.borrow().ready && other.status.borrow().fence.is_none(), "{:?}", other.status.borrow());

    ledger.skip_to(clock.wall()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(node.status.borrow().ready && other.status.borrow().ready, "{:?}", node.status.borrow());
    let mut starts = recorder.starts.lock().unwrap().clone();
    assert!(starts.len() >= begun + 5, "{starts:?}");
    let all = starts.len();
    starts.sort();
    starts.dedup();
    assert_eq!(starts.len(), all, "something was started twice");
}

trait Asked {
    async fn about_revision(&self) -> u64;
}

impl Asked for MemoryStore {
    async fn about_revision(&self) -> u64 {
        self.range(Range { limit: 1, ..Range::of(Keys::one(WATERMARK)) }).await.unwrap().revision.0
    }
}

#[tokio::test(start_paused = true)]
async fn a_watermark_that_cannot_be_read_is_an_obstacle_that_names_the_way_out() {
    stands_back_until_set_anew(harmed(Op::put(WATERMARK, "garbage")).await, "cannot be read").await;
}

#[tokio::test(start_paused = true)]
async fn a_watermark_of_a_newer_version_is_an_obstacle_that_says_so() {
    let newer = r#"{"v":2,"r":{"upto":"2026-11-21T02:00:00Z"}}"#;
    stands_back_until_set_anew(harmed(Op::put(WATERMARK, newer)).await, "newer version").await;
}

#[tokio::test(start_paused = true)]
async fn a_watermark_that_was_deleted_is_an_obstacle_that_names_the_way_out() {
    stands_back_until_set_anew(harmed(Op::delete(WATERMARK)).await, "was deleted").await;
}

fn eve(at: Wall) -> fencron::ledger::Acting {
    fencron::ledger::Acting::fresh(fencron::ledger::Asked::new("eve", at))
}

#[tokio::test(start_paused = true)]
async fn a_cluster_in_which_nothing_was_due_yet_leads_without_a_watermark() {
    let clock = sim_clock();
    let store = MemoryStore::new(clock.clone());
    let recorder = Recorder { clock: clock.clone(), takes: Duration::from_millis(100), starts: Arc::default() };
    let yearly = || config("version: 1\njobs:\n  rare: {schedule: '0 0 1 1 *', command: [x]}\n");
    let node = start("a", &store, &clock, &recorder, yearly());
    tokio::time::sleep(Duration::from_secs(5)).await;
    let ledger = Ledger::new(store.clone(), Namespace::new("t").unwrap());
    ledger.trigger(&eve(clock.wall()), &JobName::new("rare").unwrap(), Params::default()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(recorder.starts.lock().unwrap().len(), 1);
    node.task.abort();
    let node = start("b", &store, &clock, &recorder, yearly());
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(node.status.borrow().ready && node.status.borrow().fence.is_some(), "{:?}", node.status.borrow());
}

#[tokio::test(start_paused = true)]
async fn a_rewind_while_leading_fires_nothing_again() {
    const HOUR: i64 = 3_600_000;
    let truth = sim_clock();
    let store = MemoryStore::new(truth.clone());
    let recorder = Recorder { clock: truth.clone(), takes: Duration::from_millis(100), starts: Arc::default() };
    let off: Arc<AtomicI64> = Arc::default();
    // Of the runs that the clock makes ahead of their time, the verdicts of the first are pruned.
    let text = "version: 1\njobs:\n  tick: {schedule: '@every 10s', command: [x], history: {keep: 20}}\n";
    let node = start("a", &store, &machine_clock(&truth, &off), &recorder, config(text));
    tokio::time::sleep(Duration::from_secs(60)).await;
    off.store(HOUR, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(600)).await;
    node.chores.send(Chore::Prune).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    off.store(0, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let ledger = Ledger::new(store.clone(), Namespace::new("t").unwrap());
    let fence = node.status.borrow().fence;
    let before = recorder.starts.lock().unwrap().len();
    ledger.rewind(&eve(truth.wall()), None, truth.wall()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let starts = recorder.starts.lock().unwrap().clone();
    assert!(starts.len() >= before + 5, "it goes on at once: {before}, then {}", starts.len());
    assert!(node.status.borrow().ready && fence.is_some() && node.status.borrow().fence == fence, "the same term");
    tokio::time::sleep(Duration::from_secs(5_000)).await;
    let mut starts = recorder.starts.lock().unwrap().clone();
    let all = starts.len();
    starts.sort();
    starts.dedup();
    assert_eq!(starts.len(), all, "something was started twice");
    let skipped = verdicts(&store).await;
    let skipped = skipped.iter().filter_map(|row| match row {
        RunRow::Done(done) if done.reason.contains("may have run before") => {
            Some(done.many.map_or(1, |many| many.count))
        }
        _ => None,
    });
    assert!(skipped.sum::<u64>() >= 10, "what was pruned is skipped, and says so");
    // Every ten seconds from here on something is decided.
    let mark = ledger.watermark().await.unwrap().unwrap().instant;
    assert!(truth.wall().since(mark) <= Duration::from_secs(11));
}

/// What a board says of the ledger, against what the store has.
async fn assert_board_is_as_the_store_says(who: &str, board: &Shared, store: &MemoryStore) {
    let ledger = Ledger::new(store.clone(), Namespace::new("t").unwrap());
    let find = Find { open: true, limit: 1000, ..Find::default() };
    let mut open: Vec<String> =
        ledger.runs(&find, |_| true).await.unwrap().iter().map(|row| row.id().to_string()).collect();
    open.sort();
    let (paused, nodes) = (ledger.paused().await.unwrap(), ledger.nodes().await.unwrap());
    let (known, mark) = (ledger.known_jobs().await.unwrap(), ledger.watermark().await.unwrap());
    let last = ledger.last_runs().await.unwrap();
    assert!(last.values().any(|last| last.verdict == Verdict::Succeeded && last.strip.starts_with('s')), "{last:?}");
    let board = board.read();
    assert_eq!(board.open_runs().map(|open| open.id.to_string()).collect::<Vec<_>>(), open, "{who}");
    assert_eq!(board.watermark(), mark.as_ref(), "{who}");
    assert_eq!(board.nodes().map(|(lease, node)| (lease, node.clone())).collect::<Vec<_>>(), nodes, "{who}");
    let now = Wall::from_millis(START);
    for (name, known) in known {
        assert_eq!(board.job(&name, now).unwrap().due_since, Some(known.since), "{who}");
    }
    for (name, last) in last {
        assert_eq!(board.last_of(&name).0, Some(&last), "{who}");
    }
    for (name, pause) in paused {
        let shown = board.job(&name, now).unwrap().paused.unwrap();
        assert_eq!((shown.by, shown.at), (pause.asked.by, pause.asked.at), "{who}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_boards_of_the_leader_and_of_a_follower_say_what_the_store_says() {
    let clock = sim_clock();
    let store = MemoryStore::new(clock.clone());
    let recorder = Recorder { clock: clock.clone(), takes: Duration::from_secs(3), starts: Arc::default() };
    let rest = "  rest: {schedule: '@daily', command: [x]}\n";
    let text = &format!("version: 1\njobs:\n  tick: {{schedule: '@every 2s', command: [x]}}\n{rest}");
    let a = start("a", &store, &clock, &recorder, config(text));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let b = start("b", &store, &clock, &recorder, config(text));
    tokio::time::sleep(Duration::from_millis(6_500)).await;
    let ledger = Ledger::new(store.clone(), Namespace::new("t").unwrap());
    ledger.pause(&eve(clock.wall()), Some(&JobName::new("rest").unwrap()), None).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    for (who, node) in [("the leader", &a), ("the follower", &b)] {
        assert_board_is_as_the_store_says(who, &node.board, &store).await;
        let board = node.board.read();
        let leader = board.leader().unwrap();
        assert_eq!(board.fence(), a.status.borrow().fence, "{who}");
        assert!(leader.since < Wall::from_millis(START).plus(Duration::from_secs(1)), "{who}: {leader:?}");
        assert_eq!(board.open_runs().count(), 1, "{who}");
        let next = board.next_fires().next().unwrap();
        assert!(next.0 > clock.wall() && next.1.as_str() == "tick", "{who}: {next:?}");
        assert_eq!(board.counts(clock.wall()).late, 0, "{who}");
    }
    // With nobody to lead, what is due is late; under the successor it is not any more.
    a.task.abort();
    tokio::time::sleep(Duration::from_secs(11)).await;
    let other = config("version: 1\njobs:\n  tock: {schedule: '@every 3s', command: [x]}\n");
    b.orders.send(Order::Reload(Box::new(other))).await.unwrap();
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert_board_is_as_the_store_says("the successor", &b.board, &store).await;
    let board = b.board.read();
    assert_eq!(board.fence(), b.status.borrow().fence);
    let next: Vec<&str> = board.next_fires().map(|(_, job)| job.as_str()).collect();
    assert_eq!(next, ["tock"]);
    assert_eq!(board.counts(clock.wall()).late, 0);
}

#[tokio::test(start_paused = true)]
async fn the_terms_of_leaders_are_recorded_with_how_they_ended() {
    let clock = sim_clock();
    let store = MemoryStore::new(clock.clone());
    let recorder = Recorder { clock: clock.clone(), takes: Duration::from_millis(100), starts: Arc::default() };
    let leads = async |node: &Handle| {
        let mut status = node.status.clone();
        status.wait_for(|status| status.fence.is_some()).await.unwrap();
        tokio::time::sleep(Duration::from_secs(2)).await;
    };
    let a = start("a", &store, &clock, &recorder, config(EVERY_SECOND));
    leads(&a).await;
    let b = start("b", &store, &clock, &recorder, config(EVERY_SECOND));
    tokio::time::sleep(Duration::from_secs(2)).await;
    a.orders.send(Order::Stop).await.unwrap();
    a.task.await.unwrap();
    leads(&b).await;
    let c = start("c", &store, &clock, &recorder, config(EVERY_SECOND));
    tokio::time::sleep(Duration::from_secs(2)).await;
    b.task.abort();
    leads(&c).await;
    let ledger = Ledger::new(store.clone(), Namespace::new("t").unwrap());
    ledger.ask_to_step_down(&eve(clock.wall()), c.status.borrow().fence.unwrap(), "c").await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;

    let terms = ledger.terms(None, 10).await.unwrap();
    let ends: Vec<_> = terms.iter().map(|term| (term.node.as_str(), term.end.map(TermEnd::as_str))).collect();
    let expected = [("c", None), ("c", Some("stepped_down")), ("b", Some("lapsed")), ("a", Some("resigned"))];
    assert_eq!(ends, expected);
    for (later, earlier) in terms.iter().zip(&terms[1..]) {
        assert!(earlier.to.unwrap() <= later.from && earlier.fence < later.fence, "{terms:?}");
    }
    assert!(terms.iter().all(|term| term.first_claim.is_some_and(|at| at >= term.from)), "{terms:?}");
    assert_eq!(Some(terms[0].fence), c.status.borrow().fence);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_drained_hands_over_and_does_not_lead_until_it_may_again() {
    let clock = sim_clock();
    let store = MemoryStore::new(clock.clone());
    let recorder = Recorder { clock: clock.clone(), takes: Duration::from_secs(3), starts: Arc::default() };
    let leads = async |node: &Handle| {
        let mut status = node.status.clone();
        status.wait_for(|status| status.fence.is_some()).await.unwrap();
    };
    let ledger = Ledger::new(store.clone(), Namespace::new("t").unwrap());
    let a = start("a", &store, &clock, &recorder, config(EVERY_SECOND));
    leads(&a).await;
    let b = start("b", &store, &clock, &recorder, config(EVERY_SECOND));
    tokio::time::sleep(Duration::from_secs(5)).await;

    ledger.drain(&eve(clock.wall()), "a", None).await.unwrap();
    leads(&b).await;
    assert_eq!(a.status.borrow().fence, None);
    assert!(told(&a.status.borrow()).contains("drained by eve"), "{}", told(&a.status.borrow()));
    assert!(a.status.borrow().ready, "a drained node is no broken one");
    let ends: Vec<_> = ledger.terms(None, 10).await.unwrap().iter().map(|term| term.end).collect();
    assert_eq!(ends, [None, Some(TermEnd::SteppedDown)]);
    // What ran under it had its end.
    let runs = ledger.runs(&Find { done: true, limit: 1000, ..Find::default() }, |_| true).await.unwrap();
    let verdicts: Vec<_> =
        runs.iter().filter_map(RunRow::verdict).filter(|verdict| *verdict != Verdict::Skipped).collect();
    assert!(!verdicts.is_empty() && verdicts.iter().all(|verdict| *verdict == Verdict::Succeeded), "{runs:?}");

    // Now no node may lead, until the drain of b comes to its end.
    let until = clock.wall().plus(Duration::from_secs(30));
    ledger.drain(&eve(clock.wall()), "b", Some(until)).await.unwrap();
    let mut status = b.status.clone();
    status.wait_for(|status| status.fence.is_none()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(ledger.nodes().await.unwrap().iter().all(|(_, node)| node.drained && node.stands_back.is_some()));
    assert_eq!((a.status.borrow().fence, b.status.borrow().fence), (None, None));
    assert_eq!(ledger.terms(None, 10).await.unwrap().len(), 2, "none campaigns, only to step down again");
    leads(&b).await;
    assert!(clock.wall() >= until);
    b.chores.send(Chore::EndPauses).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(ledger.drains().await.unwrap().len(), 1, "the record of what is over is deleted");

    // The first may lead again, once it is let.
    b.task.abort();
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(a.status.borrow().fence, None, "it is drained, though no other node is there");
    ledger.undrain(&eve(clock.wall()), "a").await.unwrap();
    leads(&a).await;
}
