//! Reading configurations, large ones above all.

use fencron::config::{Sources, parse};

fn main() {
    divan::main();
}

/// A file of so many jobs with options as people write them, at about 200 bytes a job.
fn file_of(jobs: usize) -> String {
    let mut text = "version: 1\ndefaults: {timezone: Europe/Berlin}\njobs:\n".to_owned();
    for number in 0..jobs {
        let (minute, hour) = (number % 60, number / 60 % 24);
        text.push_str(&format!(
            "  job-{number}:\n    schedule: \"{minute} {hour} * * *\"\n    \
             command: [\"/usr/bin/report\", \"--number\", \"{number}\"]\n    env: {{REGION: eu}}\n    \
             timeout: 30m\n    retry: {{attempts: 3, backoff: {{initial: 5s, max: 5m}}}}\n"
        ));
    }
    text
}

#[divan::bench(args = [10, 1_000, 100_000], sample_count = 3)]
fn read(bencher: divan::Bencher, jobs: usize) {
    let text = file_of(jobs);
    bencher
        .counter(divan::counter::BytesCount::new(text.len()))
        .bench(|| parse(&text, &Sources::none()).expect("the file is sound"));
}
