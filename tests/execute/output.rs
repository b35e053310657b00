//! What commands write.

use fencron::execute::FOLLOW_KEPT;
use fencron::job::{OUTPUT_KEPT, Outcome};

use super::attempt::*;

#[tokio::test]
async fn both_streams_are_kept_in_the_order_they_came() {
    // Reads each line back before it writes the next, so that they cannot arrive together.
    let dir = tempfile::tempdir().unwrap();
    // One for each: who opens the same one again may still meet the writer of before, and reads its end.
    let fifos = ["first", "second"].map(|name| dir.path().join(name).to_str().unwrap().to_owned());
    for fifo in &fifos {
        nix::unistd::mkfifo(fifo.as_str(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    }
    let [first, second] = &fifos;
    let mut attempt =
        begin(&executor(), shell(&format!("echo 1; read x < {first}; echo 2 >&2; read x < {second}; echo 3")));
    for (line, fifo) in ["1", "2"].into_iter().zip(fifos) {
        attempt.line(line).await;
        soon(tokio::task::spawn_blocking(move || std::fs::write(fifo, "next\n"))).await.unwrap().unwrap();
    }
    assert_eq!(attempt.end().await.output, "1\n2\n3\n");
}

#[tokio::test]
async fn what_was_written_right_before_the_end_is_kept() {
    for _ in 0..50 {
        assert_eq!(run(shell("echo out; echo err >&2; kill -KILL $$")).await.output_bytes, 8);
    }
}

#[tokio::test]
async fn gigabytes_are_counted_and_only_the_end_is_kept() {
    // Apart, for what other tests take would be counted too.
    const NAME: &str = "execute::output::gigabytes_are_counted_and_only_the_end_is_kept";
    if !is_apart() {
        return assert!(in_a_process_of_its_own(NAME).status().unwrap().success());
    }
    const BYTES: u64 = 1 << 30;
    let before = resident_kib();
    let ended = run(shell(&format!("yes | head -c {BYTES}; echo end"))).await;
    assert_eq!(ended.outcome, Outcome::Exited(0));
    assert_eq!(ended.output_bytes, BYTES + 4);
    assert!(ended.output.len() <= OUTPUT_KEPT && ended.output.len() >= OUTPUT_KEPT - 4);
    assert!(ended.output.ends_with("y\nend\n"));
    assert!(resident_kib() < before + 16 * 1024, "memory does not grow with the output");
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test]
async fn binary_output_is_text_with_replacements() {
    let ended = run(shell("printf 'a\\377\\000b\\342\\202'")).await;
    assert_eq!((ended.output.as_str(), ended.output_bytes), ("a\u{fffd}\0b\u{fffd}", 6));
    let ended = run(shell("head -c 1000000 /dev/urandom")).await;
    assert_eq!(ended.output_bytes, 1_000_000);
    assert!(ended.output.len() <= OUTPUT_KEPT);
}

#[tokio::test]
async fn a_line_that_never_ends_is_followed_as_it_comes() {
    let mut attempt =
        begin(&executor(), shell(&format!("head -c {} /dev/zero | tr '\\0' x; echo; exec sleep 3600", FOLLOW_KEPT)));
    assert_eq!(attempt.line("x").await.len(), FOLLOW_KEPT - 1);
    attempt.stopper.stop(fencron::job::StopReason::Asked);
    attempt.end().await;
}
