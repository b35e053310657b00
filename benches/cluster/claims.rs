//! How many occurrences a second are claimed: the scheduler and the ledger, with nothing else. Batches on one
//! watermark, and for comparison each occurrence in a transaction of its own, on the same server.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fencron::config::{Sources, parse};
use fencron::job::{AttemptResult, Job, JobName, Outcome, RunId};
use fencron::ledger::{Claim, Claims, Ledger};
use fencron::lock::{CallId, Driver, LockName, Locks, Namespace, Presence, Seen, Session, Timing};
use fencron::scheduler::run::{Known, Open, Watermark};
use fencron::scheduler::view::Change;
use fencron::scheduler::{Action, BATCH, Batch, Event, Scheduler, Transitioned};
use fencron::store::Store;
use fencron::store::sqlite::SqliteStore;
use fencron::time::{Clock, Wall};

use crate::figures::Figures;
use crate::support::etcd::{Etcd, EtcdOptions};

const JOBS: usize = 20_000;
const TARGET: f64 = 20_000.0;
const TARGET_RATIO: f64 = 10.0;
const TURNS: usize = 3;

pub async fn measure(figures: &mut Figures) {
    let etcd = Etcd::start(EtcdOptions::default()).await;
    let store = etcd.store().await;
    // By turns, so that what else the machine does, and the growth of the store, come to both.
    let (mut one_by_one, mut batched) = (Vec::new(), Vec::new());
    for turn in 0..TURNS {
        one_by_one.push(rate(&store, &format!("one-by-one-{turn}"), Size::One).await);
        batched.push(rate(&store, &format!("batched-{turn}"), Size::Batch).await);
    }
    let (one_by_one, batched) = (median(one_by_one), median(batched));
    let reached = format!("{batched:.0} a second");
    figures.judge("claims, etcd", reached, "at least 20,000 a second", batched >= TARGET);
    figures.note("claims, each its own transaction, etcd", format!("{one_by_one:.0} a second"));
    let ratio = batched / one_by_one;
    figures.judge("the two", format!("{ratio:.1} times"), "at least 10 times", ratio >= TARGET_RATIO);
    let directory = tempfile::tempdir().unwrap();
    let sqlite = SqliteStore::open(directory.path().join("state.db"), Clock::system()).await.unwrap();
    figures.note("claims, SQLite", format!("{:.0} a second", rate(&sqlite, "batched", Size::Batch).await));
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

/// How many occurrences a transaction claims. The scheduler decides the same batches either way, so that the two rates
/// differ by the transactions alone.
#[derive(Clone, Copy)]
enum Size {
    Batch,
    One,
}

impl Size {
    /// The transactions that claim `batch`: each moves the watermark to its own last occurrence.
    fn split(self, batch: &Batch) -> Vec<Batch> {
        match self {
            Size::Batch => vec![batch.clone()],
            Size::One => (0..).zip(&batch.opens).map(|(nth, open)| alone(batch, nth, open)).collect(),
        }
    }
}

fn alone(batch: &Batch, nth: u64, open: &Open) -> Batch {
    Batch {
        // Each transaction has a name of its own, by which a lost answer is settled.
        number: batch.number * BATCH as u64 + nth,
        opens: vec![open.clone()],
        watermark: Watermark { instant: open.starts, job: Some(open.job.clone()) },
        ..batch.clone()
    }
}

/// A leader of its own in a namespace of its own, which claims for a while.
async fn rate<S: Store>(store: &S, namespace: &str, size: Size) -> f64 {
    let (clock, namespace) = (Clock::system(), Namespace::new(namespace).unwrap());
    let locks = Locks::new(store.clone(), clock.clone(), namespace.clone(), Seen::default());
    let presence = Presence { node: "a".into(), record: Vec::new() };
    let timing = Timing::from_ttl(Duration::from_secs(10)).unwrap();
    let session: Session<S> = locks.open_session(presence, timing, Driver::Thread).await.unwrap();
    let term = locks.election(LockName::leader()).campaign(&session, CallId::random()).await.unwrap();
    let ledger = Ledger::new(store.clone(), namespace);

    // As if these jobs had been known for long, and time stood still until everything due has been claimed.
    let jobs = jobs();
    let start = clock.wall();
    let mut scheduler = Scheduler::new("a", jobs.clone());
    scheduler.handle(Event::Session { lease: session.lease().0.get() }, start);
    let mut actions = begin(&mut scheduler, &jobs, start);
    actions.extend(scheduler.handle(Event::Elected { fence: term.fence() }, start));
    actions.extend(scheduler.handle(Event::Trust(true), start));
    assert!(actions.is_empty(), "nothing is due yet: {actions:?}");

    let mut claims = Claims::new(term.hold.clone(), 0);
    let (mut claimed, mut now, mut begun) = (0, start.plus(Duration::from_secs(1)), Vec::new());
    let mut actions = scheduler.handle(Event::Tick, now);
    let (began, lasts) = (clock.boot(), crate::lasts(5));
    while clock.boot().since(began) < lasts {
        while let Some(batch) = claim_of(&actions) {
            assert!(batch.dones.is_empty() && batch.known.is_empty(), "every occurrence is to be claimed");
            let mut version = 0;
            for transaction in size.split(&batch) {
                let Claim::Made { version: made } = ledger.claim(&mut claims, &transaction).await.unwrap() else {
                    panic!("the claim was refused");
                };
                claimed += transaction.opens.len();
                version = made;
            }
            actions = scheduler.handle(Event::Claimed { batch: batch.number, version }, now);
            begun.extend(actions.iter().filter_map(begun_by));
            if clock.boot().since(began) >= lasts {
                break;
            }
        }
        for (run, attempt) in begun.drain(..) {
            end(&mut scheduler, run, attempt, now);
        }
        now = now.plus(Duration::from_secs(1));
        actions = scheduler.handle(Event::Tick, now);
    }
    let took = clock.boot().since(began);
    session.close().await.unwrap();
    claimed as f64 / took.as_secs_f64()
}

fn begin(scheduler: &mut Scheduler, jobs: &BTreeMap<JobName, Arc<Job>>, start: Wall) -> Vec<Action> {
    let known = jobs.values().map(|job| {
        let fencron::job::Trigger::Schedule { schedule, .. } = &job.trigger else { panic!("all are scheduled") };
        let known = Known { fingerprint: schedule.fingerprint(), since: start };
        (Change::Job(job.name.clone(), Some(known)), 1)
    });
    scheduler.handle(Event::Reread { changes: known.collect(), version: 1 }, start)
}

fn claim_of(actions: &[Action]) -> Option<Batch> {
    actions.iter().find_map(|action| match action {
        Action::Claim(batch) => Some(batch.clone()),
        _ => None,
    })
}

fn begun_by(action: &Action) -> Option<(RunId, u32)> {
    match action {
        Action::Start { open, .. } => Some((open.id.clone(), open.attempt)),
        _ => None,
    }
}

/// As if the run had ended and its verdict been written, at no cost: what is measured is claiming.
fn end(scheduler: &mut Scheduler, run: RunId, attempt: u32, now: Wall) {
    let outcome = Outcome::Exited(0);
    let ended =
        AttemptResult { outcome, started_at: Some(now), finished_at: now, output: String::new(), output_bytes: 0 };
    let version = scheduler.view().open[&run].version + 1;
    scheduler.handle(Event::Ended { run: run.clone(), attempt, ended }, now);
    scheduler.handle(Event::Transitioned { run, result: Transitioned::Applied { version } }, now);
}

fn jobs() -> BTreeMap<JobName, Arc<Job>> {
    let mut text = "version: 1\njobs:\n".to_owned();
    (0..JOBS).for_each(|job| text.push_str(&format!("  job-{job}: {{schedule: '@every 1s', command: [x]}}\n")));
    parse(&text, &Sources::none()).unwrap_or_else(|problems| panic!("{problems}")).jobs
}
