//! What a large configuration costs. Alone in its process, so that what is measured is only this.

#![cfg(target_os = "linux")]

use fencron::config::{Sources, parse};

/// A node with 100,000 jobs must stay under 400 MB; of these, reading them may take this much at its peak (the text,
/// the tree and the jobs together) and keep this much.
const PEAK_MIB: usize = 300;
const KEPT_MIB: usize = 160;

/// A line like `VmHWM:   123456 kB` of what Linux says of this process, in MiB.
fn memory(line: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|candidate| candidate.starts_with(line)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() / 1024
}

#[test]
fn a_hundred_thousand_jobs_fit_into_memory() {
    let mut text = "version: 1\njobs:\n".to_owned();
    for number in 0..100_000 {
        let (minute, hour) = (number % 60, number / 60 % 24);
        text.push_str(&format!(
            "  job-{number}:\n    schedule: \"{minute} {hour} * * *\"\n    \
             command: [\"/usr/bin/report\", \"--number\", \"{number}\"]\n    env: {{REGION: eu}}\n    \
             timeout: 30m\n    retry: {{attempts: 3, backoff: {{initial: 5s, max: 5m}}}}\n"
        ));
    }
    assert!(text.len() > 18 << 20, "{}", text.len());
    let config = parse(&text, &Sources::none()).unwrap();
    assert_eq!(config.jobs.len(), 100_000);
    drop(text);
    let (peak, kept) = (memory("VmHWM:"), memory("VmRSS:"));
    assert!(peak < PEAK_MIB && kept < KEPT_MIB, "{peak} MiB at the peak, {kept} MiB kept");
    println!("{peak} MiB at the peak, {kept} MiB kept");
}
