//! Whole outputs: all that commands write, in files.

use std::fs;
use std::path::Path;

use fencron::job::{Job, OUTPUT_KEPT, Outcome};
use nix::libc;
use nix::sys::resource::{Resource, setrlimit};

use super::attempt::*;

/// One that keeps all of its output below `dir`.
fn keeping(script: &str, dir: &Path, max_bytes: u64) -> Job {
    Job { output: Some(whole_output(dir, max_bytes)), ..shell(script) }
}

#[tokio::test]
async fn all_of_200_megabytes_and_the_end_are_in_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let script = "echo begin >&2; head -c 200000000 /dev/zero; printf 'end\\377'";
    let ended = soon(begin(&executor(), keeping(script, dir.path(), 1 << 30)).ended).await.unwrap();
    assert_eq!((ended.outcome, ended.output_bytes), (Outcome::Exited(0), 200_000_010));
    assert!(ended.output.len() <= OUTPUT_KEPT && ended.output.ends_with("end\u{fffd}"));
    let bytes = fs::read(whole_place(dir.path()).path()).unwrap();
    assert_eq!(bytes.len(), 200_000_010);
    assert!(bytes.ends_with(b"end\xff"), "the bytes as they came");
}

#[tokio::test]
async fn what_comes_beyond_the_bound_of_a_file_is_not_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let ended = begin(&executor(), keeping("yes | head -c 1000000", dir.path(), 70_001)).end().await;
    assert_eq!((ended.outcome, ended.output_bytes), (Outcome::Exited(0), 1_000_000));
    assert_eq!(fs::metadata(whole_place(dir.path()).path()).unwrap().len(), 70_001);
}

#[tokio::test]
async fn a_disk_that_takes_no_more_does_not_stop_the_command() {
    // Apart, for the limit is that of the process.
    const NAME: &str = "execute::whole::a_disk_that_takes_no_more_does_not_stop_the_command";
    if !is_apart() {
        // Through pipes: what it says may go to a file that is larger than the limit already.
        let output = in_a_process_of_its_own(NAME).output().unwrap();
        return assert!(output.status.success(), "{output:?}");
    }
    let dir = tempfile::tempdir().unwrap();
    let executor = executor();
    setrlimit(Resource::RLIMIT_FSIZE, 50_000, libc::RLIM_INFINITY).unwrap();
    let ended = begin(&executor, keeping("yes | head -c 1000000; echo end", dir.path(), 1 << 30)).end().await;
    assert_eq!((ended.outcome, ended.output_bytes), (Outcome::Exited(0), 1_000_004));
    assert!(ended.output.ends_with("y\nend\n"), "the end of it is kept all the same");
    assert_eq!(fs::metadata(whole_place(dir.path()).path()).unwrap().len(), 50_000);
}

#[tokio::test]
async fn a_command_expects_to_be_killed_where_its_own_files_become_too_large() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    let ended = run(shell(&format!("ulimit -f 1; exec head -c 10000 /dev/zero >{}", file.display()))).await;
    assert_eq!(ended.outcome, Outcome::Signalled(libc::SIGXFSZ));
}

#[tokio::test]
async fn a_directory_that_cannot_be_used_does_not_stop_the_command() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("outputs"), "a file").unwrap();
    let ended = begin(&executor(), keeping("echo hello", dir.path(), 1 << 20)).end().await;
    assert_eq!((ended.outcome, ended.output.as_str()), (Outcome::Exited(0), "hello\n"));
}

#[tokio::test]
async fn files_beyond_the_bounds_go_when_another_ends() {
    let dir = tempfile::tempdir().unwrap();
    let old = whole_place(dir.path()).path().with_file_name("2026-11-20T02:00:00Z.001.out");
    fs::create_dir_all(old.parent().unwrap()).unwrap();
    let too_large = fs::File::create(&old).unwrap();
    too_large.set_len(20 << 30).unwrap();
    begin(&executor(), keeping("echo hello", dir.path(), 1 << 20)).end().await;
    comes_true(|| !old.exists()).await;
    assert_eq!(fs::read(whole_place(dir.path()).path()).unwrap(), b"hello\n");
}
