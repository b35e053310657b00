//! How long it takes to read a schedule and to find its next instant, and how much memory schedules take.
//!
//! `cargo bench --bench schedule`

use divan::{AllocProfiler, Bencher, black_box};
use fencron::schedule::{Dst, Jitter, Schedule, ScheduleSpec, Zones};
use fencron::time::Wall;

#[global_allocator]
static ALLOC: AllocProfiler = AllocProfiler::system();

const EXPRESSIONS: [&str; 8] = [
    "* * * * * *",
    "*/15 * * * *",
    "30 2 * * *",
    "0 9-17 * * MON-FRI",
    "0 0 LW * *",
    "0 0 29 2 *",
    "H H * * *",
    "@every 15m",
];
const JOBS: usize = 100_000;

fn main() {
    divan::main();
}

fn read(expression: &str, zones: &mut Zones, job: &str) -> Schedule {
    let expressions = [expression];
    let (timezone, dst) = ("Europe/Berlin", Dst::default());
    Schedule::parse(&ScheduleSpec { expressions: &expressions, timezone, dst, except: &[], job }, zones).unwrap()
}

fn now() -> Wall {
    "2026-11-21T12:34:56Z".parse().unwrap()
}

#[divan::bench(args = EXPRESSIONS)]
fn next_after(bencher: Bencher, expression: &str) {
    let schedule = read(expression, &mut Zones::new(), "job");
    bencher.bench(|| schedule.next_after(black_box(now())));
}

#[divan::bench(args = EXPRESSIONS)]
fn next_start_with_jitter(bencher: Bencher, expression: &str) {
    let schedule = read(expression, &mut Zones::new(), "job");
    let jitter = Jitter::of(std::time::Duration::from_secs(30), "job");
    bencher.bench(|| schedule.next_start(jitter, black_box(now())));
}

#[divan::bench]
fn read_a_zone() -> Schedule {
    read("30 2 * * *", &mut Zones::new(), "job")
}

#[divan::bench(args = EXPRESSIONS)]
fn read_an_expression(bencher: Bencher, expression: &str) {
    let mut zones = Zones::new();
    bencher.bench_local(|| read(expression, &mut zones, "job"));
}

/// The time in which that which can never fire is refused.
#[divan::bench]
fn refuse_the_30th_of_february(bencher: Bencher) {
    let mut zones = Zones::new();
    let spec = ScheduleSpec {
        expressions: &["0 0 30 2 *"],
        timezone: "Europe/Berlin",
        dst: Dst::default(),
        except: &[],
        job: "job",
    };
    drop(Schedule::parse(&spec, &mut zones));
    bencher.bench_local(|| Schedule::parse(&spec, &mut zones).unwrap_err());
}

/// 100,000 jobs whose patterns all differ.
#[divan::bench(sample_count = 5, sample_size = 1)]
fn read_100_000_different(bencher: Bencher) {
    let jobs: Vec<String> = (0..JOBS).map(|job| format!("job-{job}")).collect();
    bencher.bench_local(|| {
        let mut zones = Zones::new();
        jobs.iter().map(|job| read("H H H * *", &mut zones, job)).collect::<Vec<_>>()
    });
}

/// What a new leader asks when it was away for a year.
#[divan::bench]
fn a_year_of_missed_seconds(bencher: Bencher) {
    let schedule = read("* * * * * *", &mut Zones::new(), "job");
    let after = Wall::from_millis(now().as_millis() - 365 * 86_400_000);
    bencher.bench(|| schedule.latest_starts(Jitter::none(), after, black_box(now()), 10));
}
