//! Nodes in this process: what is measured of them is not the starting of processes.

use std::time::Duration;

use fencron::config::{Sources, parse};
use fencron::execute::{Execute, Outputs, Work};
use fencron::job::{AttemptResult, Outcome, Trigger};
use fencron::ledger::Ledger;
use fencron::lock::{Driver, Locks, Namespace, Seen, Timing};
use fencron::node::{Ends, Node, Options, Order, Status};
use fencron::store::Store;
use fencron::time::{Clock, Wall};
use nix::time::{ClockId, clock_gettime};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::support::soon;

/// A node that runs.
pub struct Running {
    orders: mpsc::Sender<Order>,
    task: JoinHandle<()>,
}

/// The namespace of everything that is measured.
pub fn namespace() -> Namespace {
    Namespace::new("bench").unwrap()
}

/// The namespace's ledger in `store`.
pub fn ledger<S: Store>(store: &S) -> Ledger<S> {
    Ledger::new(store.clone(), namespace())
}

/// Starts a node on this configuration, and waits until it leads.
pub async fn start<S: Store, E: Execute>(store: &S, execute: E, text: &str) -> Running {
    let clock = Clock::system();
    let config = parse(text, &Sources::none()).unwrap_or_else(|problems| panic!("{problems}"));
    let (orders, order_end) = mpsc::channel(8);
    let (_, chores) = mpsc::channel(8);
    let (status_end, mut status) = watch::channel(Status::starting("a", &config));
    let node = Node {
        ledger: ledger(store),
        locks: Locks::new(store.clone(), clock.clone(), namespace(), Seen::default()),
        execute,
        outputs: Outputs::new(clock.clone()),
        board: fencron::board::Shared::default(),
        metrics: std::sync::Arc::default(),
        options: Options {
            name: "a".to_owned(),
            timing: Timing::from_ttl(Duration::from_secs(10)).unwrap(),
            room: fencron::execute::MAX_RUNNING,
            shutdown_grace: Duration::from_secs(30),
            max_clock_skew: Duration::from_secs(2),
            address: None,
            driver: Driver::Thread,
            clock,
        },
    };
    let ends = Ends {
        orders: order_end,
        chores,
        status: status_end,
        turned: watch::Sender::default(),
        leads: watch::Sender::default(),
        pings: None,
    };
    let task = tokio::spawn(async move { node.run(config, ends).await.unwrap() });
    soon("the node leads", status.wait_for(|status| status.fence.is_some())).await.unwrap();
    Running { orders, task }
}

impl Running {
    /// Stops it, which waits for every verdict.
    pub async fn stop(self) {
        self.orders.send(Order::Stop).await.unwrap();
        soon("the node stops", self.task).await.unwrap();
    }
}

/// Makes attempts that do nothing and succeed, and tells when each was begun.
#[derive(Clone)]
pub struct Nothing {
    /// The instant an attempt is of, and how late it was begun.
    pub begun: mpsc::UnboundedSender<(Wall, Duration)>,
}

impl Execute for Nothing {
    async fn run(&self, work: Work) -> AttemptResult {
        let now = wall();
        let at = Wall::from_millis(i64::try_from(now.as_millis()).unwrap());
        let scheduled = work.stamp.scheduled_at;
        let Trigger::Schedule { schedule, jitter } = &work.job.trigger else { panic!("it has a schedule") };
        let starts = schedule.next_start(*jitter, scheduled.minus(Duration::from_millis(1)));
        let starts = starts.expect("it is an instant of the schedule").starts;
        // Whoever has seen enough does not listen any more.
        self.begun.send((scheduled, now.saturating_sub(since_epoch(starts)))).ok();
        work.started.at(at);
        AttemptResult {
            outcome: Outcome::Exited(0),
            started_at: Some(at),
            finished_at: at,
            output: String::new(),
            output_bytes: 0,
        }
    }
}

/// What the wall clock says, finer than the scheduler asks it.
pub fn wall() -> Duration {
    clock_gettime(ClockId::CLOCK_REALTIME).unwrap().into()
}

/// An instant as the wall clock counts.
pub fn since_epoch(instant: Wall) -> Duration {
    Duration::from_millis(u64::try_from(instant.as_millis()).unwrap())
}
