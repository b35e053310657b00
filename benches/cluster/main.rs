//! What a cluster is measured by: how late jobs start, how many a second are claimed and run, what 100,000 jobs cost, what
//! it costs to look at 200,000, and how long a hand-over takes. Against real stores: SQLite files, and an etcd server of
//! one member.
//! `cargo bench --bench cluster -- [lateness] [burst] [claims] [runs] [many] [board] [handover]`; all of them, in this
//! order, when none is named. `many`, `board` and `handover` run the `fencron` binary itself. Ends with 1 when a target is
//! missed.
//!
//! `FENCRON_BENCH_SECONDS` is how long each steady measurement lasts (default: 60 for `lateness`, 15 for `runs`,
//! 5 for each turn of `claims`), `FENCRON_BENCH_OFFERED` how many occurrences `runs` makes due every second (default:
//! 10,000), and `FENCRON_BENCH_ROUNDS` how often a hand-over is made (default: 5).

use std::time::Duration;

mod board;
mod burst;
mod claims;
mod figures;
mod handover;
mod lateness;
mod many;
mod node;
mod process;
mod runs;
#[path = "../../tests/support/mod.rs"]
mod support;

use figures::Figures;

/// What can be measured, in the order in which it is.
const PARTS: [&str; 7] = ["lateness", "burst", "claims", "runs", "many", "board", "handover"];

fn main() {
    let asked: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    if let Some(unknown) = asked.iter().find(|part| !PARTS.contains(&part.as_str())) {
        panic!("`{unknown}` is not measured here: choose among {PARTS:?}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let mut figures = Figures::default();
    for part in PARTS.into_iter().filter(|part| asked.is_empty() || asked.iter().any(|named| named == part)) {
        eprintln!("measuring: {part}");
        match part {
            "lateness" => runtime.block_on(lateness::measure(&mut figures)),
            "burst" => runtime.block_on(burst::measure(&mut figures)),
            "claims" => runtime.block_on(claims::measure(&mut figures)),
            "runs" => runtime.block_on(runs::measure(&mut figures)),
            "many" => runtime.block_on(many::measure(&mut figures)),
            "board" => runtime.block_on(board::measure(&mut figures)),
            _ => runtime.block_on(handover::measure(&mut figures)),
        }
    }
    println!("{figures}");
    if figures.missed() > 0 {
        std::process::exit(1);
    }
}

/// How long a steady measurement lasts.
fn lasts(unless_told: u64) -> Duration {
    Duration::from_secs(number("FENCRON_BENCH_SECONDS", unless_told))
}

/// A whole number from the environment.
fn number(variable: &str, unless_told: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable} is `{text}`, and must be a whole number")),
        Err(_) => unless_told,
    }
}
