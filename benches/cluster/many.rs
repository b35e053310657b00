//! What 100,000 jobs cost: reading them, keeping them, reading them again, and handing them over.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use fencron::job::Verdict;
use fencron::scheduler::run::Done;
use fencron::store::sqlite::SqliteStore;
use fencron::time::Clock;
use nix::sys::signal::Signal;

use crate::figures::{Figures, Spread, millis};
use crate::node::{self, since_epoch, wall};
use crate::process::{Observer, PROGRAM, Process, dense_jobs};
use crate::support::until;

const JOBS: usize = 100_000;
const TTL: Duration = Duration::from_secs(10);

const VALIDATED: Duration = Duration::from_secs(6);
const MEMORY_MB: u64 = 400;
const CORE_PERCENT: f64 = 2.0;

/// How late the jobs beside a reload may be for them to be said to go on.
const ON_TIME: Duration = Duration::from_millis(100);

/// How many jobs are due each second while the file is read again.
const DENSE: usize = 50;

pub async fn measure(figures: &mut Figures) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("jobs.yaml"), file("", 30)).unwrap();
    validate(directory.path(), figures);
    idle(directory.path(), figures).await;
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("jobs.yaml"), file(&dense_jobs(DENSE), 30)).unwrap();
    reload_and_hand_over(directory.path(), figures).await;
}

/// A file of so many jobs as people write them, none of which is due but on the 29th of February; with these others.
fn file(others: &str, timeout_of_the_last: u32) -> String {
    let mut text = format!("version: 1\nnamespace: bench\ndefaults: {{timezone: Europe/Berlin}}\njobs:\n{others}");
    for number in 0..JOBS {
        let (minute, hour) = (number % 60, number / 60 % 24);
        let timeout = if number + 1 == JOBS { timeout_of_the_last } else { 30 };
        text.push_str(&format!(
            "  job-{number}:\n    schedule: \"{minute} {hour} 29 2 *\"\n    command: [\"/usr/bin/report\", \
             \"--number\", \"{number}\"]\n    env: {{REGION: eu}}\n    timeout: {timeout}m\n    retry: {{attempts: 3, \
             backoff: {{initial: 5s, max: 5m}}}}\n"
        ));
    }
    text
}

fn validate(directory: &Path, figures: &mut Figures) {
    let began = wall();
    let output = Command::new(PROGRAM).args(["validate", "jobs.yaml"]).current_dir(directory).output().unwrap();
    let took = wall() - began;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    figures.judge(format!("`fencron validate`, {JOBS} jobs"), millis(took), "under 6 s", took < VALIDATED);
}

async fn open(directory: &Path) -> SqliteStore {
    SqliteStore::open(directory.join("state.db"), Clock::system()).await.unwrap()
}

/// One node on SQLite, while nothing is due.
async fn idle(directory: &Path, figures: &mut Figures) {
    let began = wall();
    let process = Process::start(directory, "a", "sqlite:state.db", TTL);
    let store = open(directory).await;
    Observer::new(store.clone()).leads("a", 0).await;
    figures.note(format!("from start to leading, {JOBS} jobs"), millis(wall() - began));
    until("every job is recorded", async || {
        (node::ledger(&store).known_jobs().await.unwrap().len() == JOBS).then_some(())
    })
    .await;
    figures.note("the same, until each is recorded for the first time", millis(wall() - began));
    // What reading the file has left behind is gone by then, and the record of the node published.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let (before, from) = (process.processor_time(), wall());
    tokio::time::sleep(Duration::from_secs(25)).await;
    let share = (process.processor_time() - before) / (wall() - from).as_secs_f64() * 100.0;
    let (now, most) = process.memory();
    let reached = format!("{now} MB ({most} MB at most)");
    figures.judge(format!("memory of a node, {JOBS} jobs"), reached, "under 400 MB", most < MEMORY_MB);
    let what = format!("of one core while nothing is due, {JOBS} jobs");
    figures.judge(what, format!("{share:.2} %"), "under 2 %", share < CORE_PERCENT);
}

/// Jobs that are due all the time beside the many, while the file is read again, and while another node takes over.
async fn reload_and_hand_over(directory: &Path, figures: &mut Figures) {
    let leader = Process::start(directory, "a", "sqlite:state.db", TTL);
    let observer = Observer::new(open(directory).await);
    observer.leads("a", 0).await;
    observer.first_start_after(0).await;
    tokio::time::sleep(Duration::from_secs(3)).await;

    let from = wall();
    let new = directory.join("new.yaml");
    std::fs::write(&new, file(&dense_jobs(DENSE), 31)).unwrap();
    std::fs::rename(new, directory.join("jobs.yaml")).unwrap();
    let taken = until("the node takes the file", async || {
        let log = std::fs::read_to_string(directory.join("a.log")).unwrap();
        log.contains("took a new configuration").then(wall)
    })
    .await;
    figures.note(format!("reload, {JOBS} jobs: until the new file is taken"), millis(taken - from));
    tokio::time::sleep(Duration::from_secs(3)).await;
    judge_reload(&observer.verdicts().await, from, figures);
    let (now, most) = leader.memory();
    figures.note("memory of a node after a reload", format!("{now} MB ({most} MB at most)"));

    let successor = Process::start(directory, "b", "sqlite:state.db", TTL);
    let fence = observer.leads("a", 1).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let sent = wall();
    leader.signal(Signal::SIGTERM);
    let took = observer.first_start_after(fence).await.saturating_sub(sent);
    let what = format!("SIGTERM until the successor's first start, SQLite, {JOBS} jobs");
    figures.note(what, millis(took));
    let (now, most) = successor.memory();
    figures.note("memory of that successor", format!("{now} MB ({most} MB at most)"));
}

/// None of the jobs that are due all the time was late, or not run, from then on.
fn judge_reload(verdicts: &[Done], from: Duration, figures: &mut Figures) {
    let meanwhile: Vec<&Done> = verdicts.iter().filter(|done| since_epoch(done.at) >= from).collect();
    // A second of which nothing at all is left counts as well, so the span is what they ought to fill.
    let instants = || meanwhile.iter().map(|done| since_epoch(done.at).as_secs());
    let seconds = instants().max().zip(instants().min()).map_or(0, |(last, first)| (last - first + 1) as usize);
    let not_run = meanwhile.iter().filter(|done| done.verdict != Verdict::Succeeded).count();
    // The last second is not over yet.
    let missing = (seconds.saturating_sub(1) * DENSE).saturating_sub(meanwhile.len());
    let late = Spread::of(meanwhile.iter().filter_map(|done| done.lateness).collect());
    let reached = format!("{not_run} not run, {missing} missing, late by: {late}");
    let met = not_run == 0 && missing == 0 && late.most() < ON_TIME;
    figures.judge("other jobs during that reload", reached, "none missed, none over 100 ms late", met);
}
