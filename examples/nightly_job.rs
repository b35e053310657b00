//! A nightly job in an existing service of several instances: `cargo run --example nightly_job`
//!
//! The service has its jobs in tokio-cron-scheduler, and every instance has the same. With `Elected::cron` in the place of
//! `Job::new_async` a job runs on one instance, once for each instant, and knows the instant and the fence.
//!
//! The example starts two instances as processes, kills the elected one (as `kill -9` does), and waits until the other
//! has gone on. So that you need not wait for a night, the job runs every second.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use fencron::elected::{Claimed, Elected};
use fencron::lock::{LockName, Locks, Namespace, Seen, Timing};
use fencron::store::sqlite::SqliteStore;
use fencron::store::{Op, Store, Txn};
use fencron::time::Clock;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio_cron_scheduler::JobScheduler;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Two in the morning, UTC, would be `0 0 2 * * *`.
const NIGHTLY: &str = "* * * * * *";

/// An instance of the service.
async fn service(name: &str, file: &Path) -> Result<(), Failure> {
    let clock = Clock::system();
    let store = SqliteStore::open(file, clock.clone()).await?; // or EtcdStore, for several machines
    let locks = Locks::new(store.clone(), clock, Namespace::new("shop")?, Seen::default());
    let elected = Elected::start(&locks, LockName::new("nightly")?, name, Timing::from_ttl(Duration::from_secs(5))?);

    let scheduler = JobScheduler::new().await?;
    let instance = name.to_owned();
    let job = elected.cron(NIGHTLY, "report", move |claimed| report(instance.clone(), store.clone(), claimed))?;
    scheduler.add(job).await?;
    scheduler.start().await?;

    // A service that is asked to stop lets its jobs end, and resigns: another instance is elected at once.
    tokio::signal::ctrl_c().await?;
    elected.stop(Duration::from_secs(30)).await;
    Ok(())
}

/// The job. An instance that was replaced and does not know it yet writes nothing: the write compares the hold. What takes
/// its effects elsewhere would carry `claimed.stamp()`, by which a guard turns it away there.
async fn report(instance: String, store: SqliteStore, claimed: Claimed) {
    let (at, fence) = (claimed.scheduled_at(), claimed.fence());
    let proven = claimed.hold().still_held().into_iter().fold(Txn::new(), Txn::when);
    let write = proven.then(Op::put(format!("/shop/reports/{at}"), format!("by {instance} under fence {fence}")));
    match store.commit(write).await {
        Ok(committed) if committed.succeeded => println!("the report of {at} by {instance} under fence {fence}"),
        Ok(_) => println!("{instance} was replaced: no report of {at}"),
        Err(error) => println!("{instance} does not know whether the report of {at} was written: {error}"),
    }
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    if let [name, file] = &arguments[..] {
        return service(name, Path::new(file)).await;
    }
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("state.db");

    let (mut first, mut of_first) = instance("a", &file)?;
    let (mut second, mut of_second) = instance("b", &file)?;
    // Whichever comes first is elected.
    let first_leads = tokio::select! {
        line = of_first.next_line() => { println!("{}", line?.unwrap_or_default()); true }
        line = of_second.next_line() => { println!("{}", line?.unwrap_or_default()); false }
    };
    let (elected, of_elected, of_other) =
        if first_leads { (&mut first, of_first, of_second) } else { (&mut second, of_second, of_first) };
    follow(of_elected, 2).await?;
    println!("it is killed");
    elected.kill().await?;
    follow(of_other, 3).await?;
    println!("the other has gone on");
    Ok(())
}

/// Starts this program again, as an instance that is killed when its handle is dropped.
fn instance(name: &str, file: &Path) -> Result<(Child, Lines<BufReader<ChildStdout>>), Failure> {
    let mut command = Command::new(std::env::current_exe()?);
    let mut child = command.arg(name).arg(file).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
    let lines = BufReader::new(child.stdout.take().ok_or("asked for above")?).lines();
    Ok((child, lines))
}

/// Shows so many lines of an instance.
async fn follow(mut lines: Lines<BufReader<ChildStdout>>, many: usize) -> Result<(), Failure> {
    for _ in 0..many {
        println!("{}", lines.next_line().await?.ok_or("the instance has ended")?);
    }
    Ok(())
}
