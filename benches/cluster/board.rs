//! What 200,000 jobs cost to look at: the read model, the page over HTTP, and the memory of a node.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fencron::board::{Board, Filter, FindJobs, Order};
use fencron::config::{Sources, parse};
use fencron::job::{Job, JobName, RunId, Verdict};
use fencron::scheduler::run::{Last, STRIP_MOST};
use fencron::time::{Clock, Wall};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::figures::{Figures, Spread};
use crate::node::wall;
use crate::process::{Observer, Process};
use crate::support::until;

const JOBS: [usize; 2] = [100_000, 200_000];
const TTL: Duration = Duration::from_secs(10);

/// How many rows a page of a list has.
const ROWS: usize = 50;

/// How often each question is put.
const TIMES: usize = 50;

const PAGE_WITHIN: Duration = Duration::from_millis(20);
const FIRST_BYTE_WITHIN: Duration = Duration::from_millis(50);
const BYTES_MOST: usize = 40_000;

pub async fn measure(figures: &mut Figures) {
    for jobs in JOBS {
        lists(jobs, figures);
    }
    for jobs in JOBS {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("jobs.yaml"), file(jobs)).unwrap();
        over_http(directory.path(), jobs, figures).await;
    }
}

/// A file of so many jobs, spread over the day; every hundredth has a description.
fn file(jobs: usize) -> String {
    let mut text = "version: 1\nnamespace: bench\ndefaults: {timezone: Europe/Berlin}\njobs:\n".to_owned();
    for number in 0..jobs {
        let (minute, hour) = (number % 60, number / 60 % 24);
        let described = if number % 100 == 0 { "    description: sends the invoices of the day\n" } else { "" };
        text.push_str(&format!(
            "  job-{number}:\n    schedule: \"{minute} {hour} 29 2 *\"\n    command: [\"/usr/bin/report\", \
             \"--number\", \"{number}\"]\n{described}"
        ));
    }
    text
}

/// How the last run of a job ended: every thousandth badly.
fn last(job: &JobName, number: usize, at: Wall) -> Last {
    let verdict = if number.is_multiple_of(1_000) { Verdict::Failed } else { Verdict::Succeeded };
    Last {
        run: RunId::of(job, at),
        verdict,
        code: None,
        started_at: Some(at),
        finished_at: at,
        lateness_ms: Some(3),
        fence: None,
        bad_in_a_row: u32::from(verdict == Verdict::Failed),
        succeeded_at: Some(at),
        notified_at: None,
        doubt_notified: false,
        strip: "s".repeat(STRIP_MOST),
    }
}

/// Pages of lists, from the board alone.
fn lists(jobs: usize, figures: &mut Figures) {
    let configured: BTreeMap<JobName, Arc<Job>> = parse(&file(jobs), &Sources::none()).unwrap().jobs;
    let now = Clock::system().wall();
    let mut board = Board::default();
    board.configured(&configured);
    while board.plan(now, 10_000) {}
    for (number, job) in configured.keys().enumerate() {
        board.last(job, Some(last(job, number, now)), 1);
    }
    let find = |order, state, text: Option<&str>| FindJobs {
        text: text.map(str::to_owned),
        state,
        order,
        after: None,
        limit: ROWS,
        ..FindJobs::default()
    };
    for (what, find) in [
        ("what needs attention first", find(Order::Attention, None, None)),
        ("by name", find(Order::Name, None, None)),
        ("by the next fire, of those that fail", find(Order::Next, Some(Filter::Failing), None)),
        ("that have a text that few have", find(Order::Attention, None, Some("job-77777"))),
        ("that have a text that many have", find(Order::Name, None, Some("invoices"))),
        ("without a schedule, of which there are none", find(Order::Name, Some(Filter::OnDemand), None)),
    ] {
        let spread = Spread::of((0..TIMES).map(|_| timed(|| board.jobs(&find, now))).collect());
        let met = spread.percent(99) < PAGE_WITHIN;
        figures.judge(format!("a page of {ROWS} jobs {what}, {jobs} jobs"), spread.to_string(), "p99 < 20 ms", met);
    }
}

fn timed<T>(work: impl FnOnce() -> T) -> Duration {
    let began = wall();
    std::hint::black_box(work());
    wall().saturating_sub(began)
}

/// The first bytes of the page, and all that is sent of it, by the program itself.
async fn over_http(directory: &Path, jobs: usize, figures: &mut Figures) {
    let process = Process::start(directory, "a", "sqlite:state.db", TTL);
    let store = fencron::store::sqlite::SqliteStore::open(directory.join("state.db"), Clock::system()).await.unwrap();
    Observer::new(store.clone()).leads("a", 0).await;
    let ledger = crate::node::ledger(&store);
    until("every job is recorded", async || (ledger.known_jobs().await.unwrap().len() == jobs).then_some(())).await;
    let address = until("its listener is published", async || {
        ledger.nodes().await.unwrap().into_iter().find_map(|(_, node)| node.address)
    })
    .await;
    let whole = until("the board has them all", async || {
        let (_, page) = get(&address, "/api/v1/jobs?limit=1&sort=next").await;
        String::from_utf8_lossy(&page).contains("next_start").then_some(())
    });
    whole.await;
    for path in ["/", "/jobs", "/jobs?sort=name&q=job-7", "/api/v1/jobs?limit=50"] {
        let (mut first, mut bytes) = (Vec::new(), 0);
        for _ in 0..TIMES {
            let (took, page) = get(&address, path).await;
            first.push(took);
            bytes = bytes.max(page.len());
        }
        let first = Spread::of(first);
        let met = first.percent(99) < FIRST_BYTE_WITHIN && bytes < BYTES_MOST;
        let reached = format!("{first}; {:.1} kB", bytes as f64 / 1000.0);
        figures.judge(format!("{path}, {jobs} jobs: first byte; sent"), reached, "p99 < 50 ms; 40 kB", met);
    }
    let (now, most) = process.memory();
    figures.note(format!("memory of a node, {jobs} jobs"), format!("{now} MB ({most} MB at most)"));
}

/// Asks over a connection of its own: how long until the first byte of the answer, and all that was sent.
async fn get(address: &str, path: &str) -> (Duration, Vec<u8>) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let began = wall();
    let question = format!(
        "GET {path} HTTP/1.1\r\nhost: localhost\r\naccept: text/html, application/json\r\n\
         accept-encoding: gzip, deflate, br, zstd\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(question.as_bytes()).await.unwrap();
    let mut answer = vec![stream.read_u8().await.unwrap()];
    let took = wall().saturating_sub(began);
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{path}: {}", String::from_utf8_lossy(&answer));
    (took, answer)
}
