//! What the due queue and the decisions cost with many jobs: `cargo bench --bench scheduler`.

use std::sync::Arc;
use std::time::Duration;

use divan::{Bencher, black_box};
use fencron::fence::Fence;
use fencron::job::{History, Job, JobName, Missed, MissedRun, Task, Text, Trigger};
use fencron::schedule::{Dst, Jitter, Schedule, ScheduleSpec, Zones};
use fencron::scheduler::{Action, Event, Scheduler};
use fencron::time::Wall;

fn main() {
    divan::main();
}

/// 2026-11-21T00:00:00Z.
const T0: Wall = Wall::from_millis(1_795_219_200_000);

const SIZES: [usize; 3] = [1_000, 10_000, 100_000];

fn job(number: usize, schedule: &Arc<Schedule>) -> Job {
    let name = JobName::new(&format!("job-{number:06}")).expect("a name");
    Job {
        trigger: Trigger::Schedule { schedule: Arc::clone(schedule), jitter: Jitter::none() },
        missed: Missed { run: MissedRun::Latest, within: None, limit: 10, every: Duration::ZERO },
        history: History { keep: 100, age: Duration::from_secs(86_400) },
        ..Job::new(name, Task::Command(vec![Text::plain("true")]))
    }
}

/// A scheduler that leads, with so many hourly jobs spread over the minutes of the hour.
fn leading(jobs: usize) -> Scheduler {
    let schedule = |minute: usize| {
        let expression = format!("{minute} * * * *");
        let spec = ScheduleSpec {
            expressions: &[&expression],
            timezone: "Europe/Berlin",
            dst: Dst::default(),
            except: &[],
            job: "bench",
        };
        Arc::new(Schedule::parse(&spec, &mut Zones::new()).expect("a schedule"))
    };
    let schedules: Vec<_> = (0..60).map(schedule).collect();
    let jobs =
        (0..jobs).map(|number| job(number, &schedules[number % 60])).map(|job| (job.name.clone(), Arc::new(job)));
    let mut scheduler = Scheduler::new("bench", jobs.collect());
    scheduler.handle(Event::Elected { fence: Fence::new(1).expect("not 0") }, T0);
    scheduler.handle(Event::Trust(true), T0);
    scheduler.handle(Event::Registered, T0);
    scheduler
}

/// To take over: everything planned from where the last leader stopped.
#[divan::bench(args = SIZES, sample_count = 5)]
fn elected(bencher: Bencher<'_, '_>, jobs: usize) {
    let mut scheduler = leading(jobs);
    let fence = Fence::new(2).expect("not 0");
    bencher.bench_local(|| black_box(scheduler.handle(Event::Elected { fence }, T0)));
}

/// To go on with another configuration, in which one job is another one.
#[divan::bench(args = SIZES, sample_count = 5)]
fn reloaded(bencher: Bencher<'_, '_>, jobs: usize) {
    let mut scheduler = leading(jobs);
    let changed = scheduler.jobs().clone();
    let last = changed.values().next_back().expect("there is one").clone();
    let other = |round| Arc::new(Job { timeout: Some(Duration::from_secs(round)), ..Job::clone(&last) });
    let mut round = 0;
    bencher
        .with_inputs(|| {
            round += 1;
            let mut jobs = changed.clone();
            jobs.insert(last.name.clone(), other(round));
            jobs
        })
        .bench_local_values(|jobs| black_box(scheduler.handle(Event::Reloaded(jobs), T0)));
}

/// To be told the time when nothing is due.
#[divan::bench(args = SIZES)]
fn idle_tick(bencher: Bencher<'_, '_>, jobs: usize) {
    let mut scheduler = leading(jobs);
    bencher.bench_local(|| black_box(scheduler.handle(Event::Tick, T0)));
}

/// One minute's occurrences, a sixtieth of the jobs: decided, claimed and started. Divide by their number.
#[divan::bench(args = SIZES, sample_count = 20)]
fn a_minute(bencher: Bencher<'_, '_>, jobs: usize) {
    bencher.counter(jobs / 60).with_inputs(|| leading(jobs)).bench_local_values(|mut scheduler| {
        let now = T0.plus(Duration::from_secs(60));
        let (mut started, mut version) = (0, 1);
        let mut actions = scheduler.handle(Event::Tick, now);
        while !actions.is_empty() {
            let next = actions.iter().find_map(|action| match action {
                Action::Claim(batch) => Some(batch.number),
                _ => None,
            });
            started += actions.iter().filter(|action| matches!(action, Action::Start { .. })).count();
            version += 1;
            let Some(batch) = next else { break };
            actions = scheduler.handle(Event::Claimed { batch, version }, now);
        }
        assert!(started >= jobs / 60, "all of them were started: {started}");
        scheduler
    });
}
