//! A guard's state in a SQLite file, as processes that come and go share it.

use std::path::PathBuf;
use std::process::Command;

use fencron::fence::Fence;
use fencron::guard::{Answer, Digest, Guard, Options, Refusal, Request, Verdict};
use fencron::time::Clock;
use nix::fcntl::{FcntlArg, fcntl};

use super::door::{Got, Place, under};
use super::exec::{self, ExecDoor};

async fn open(place: &Place) -> Guard {
    Guard::open(&place.state(), Options::default(), Clock::system()).await.unwrap()
}

/// The resource that the commands of [`ExecDoor`] are for.
async fn guard_of_files(place: &Place) -> Guard {
    let options = Options { resource: "files".to_owned(), ..Options::default() };
    Guard::open(&place.state(), options, Clock::system()).await.unwrap()
}

async fn ask(guard: &Guard, fence: u64) -> Verdict {
    guard.ask(Request::new("shop/leader", Fence::new(fence).unwrap(), None, Digest::of([])).unwrap()).await
}

async fn done(guard: &Guard, fence: u64) {
    match ask(guard, fence).await {
        Verdict::Admitted(ticket) => ticket.done(Answer::new(200, "")).await,
        other => panic!("{other:?}"),
    }
}

fn log_of(place: &Place) -> PathBuf {
    place.path("guard.db-wal")
}

const FILE: &str = "FENCRON_TEST_FILE";

/// Where SQLite locks a file that it reads, until it closes it: behind its first gibibyte.
const READERS: (i64, i64) = (0x4000_0002, 510);

/// The part of another process. It looks whether anybody has the file open by SQLite's locks, as SQLite does before it
/// deletes the log, and closes it as the last one would. Run by itself it has none to play.
#[test]
fn another_process() {
    let Some(path) = std::env::var_os(FILE) else { return };
    let file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
    let mut lock = nix::libc::flock {
        l_type: i16::try_from(nix::libc::F_WRLCK).unwrap(),
        l_whence: i16::try_from(nix::libc::SEEK_SET).unwrap(),
        l_start: READERS.0,
        l_len: READERS.1,
        l_pid: 0,
    };
    fcntl(&file, FcntlArg::F_GETLK(&mut lock)).unwrap();
    assert_eq!(i32::from(lock.l_type), nix::libc::F_RDLCK, "nobody seems to have {} open", path.display());
    let connection = rusqlite::Connection::open(path).unwrap();
    connection.query_row("SELECT count(*) FROM scopes", [], |row| row.get::<_, i64>(0)).unwrap();
    connection.close().unwrap();
}

fn look_from_another_process(place: &Place) {
    let mut other = Command::new(std::env::current_exe().unwrap());
    other.args(["--exact", "guard::file::another_process"]).env(FILE, place.path("guard.db"));
    let looked = other.output().unwrap();
    assert!(looked.status.success(), "{}", String::from_utf8_lossy(&looked.stdout));
}

/// Where a descriptor of the file is closed in a process, that process has no lock on it any more. The next process that
/// closes it takes itself for the last, and an older SQLite deletes the log then that the first one still writes to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_guard_has_seen_others_see_however_often_its_process_opens_the_state() {
    let door = ExecDoor::open(Place::sqlite(), &[]).await;
    let first = guard_of_files(&door.place).await;
    let second = guard_of_files(&door.place).await;
    done(&first, 5).await;
    drop(guard_of_files(&door.place).await);
    look_from_another_process(&door.place);
    assert!(log_of(&door.place).exists(), "another process deleted the log that is written to");
    done(&first, 8).await;
    let run = async |fence| exec::got(&door.run(under(fence), &["true"]).output().await.unwrap());
    assert_eq!(run(7).await, Got::Stale, "another process does not see what this one has written");
    run(9).await.done();
    look_from_another_process(&door.place);
    assert!(matches!(ask(&second, 8).await, Verdict::Refused(Refusal::Stale { .. })));
}

#[tokio::test]
async fn a_state_that_is_replaced_in_use_lets_nothing_in() {
    let place = Place::sqlite();
    let guard = open(&place).await;
    done(&guard, 5).await;
    std::fs::rename(place.path("guard.db"), place.path("old.db")).unwrap();
    let fresh = open(&place).await;
    done(&fresh, 7).await;
    match ask(&guard, 6).await {
        Verdict::Refused(Refusal::StateUnavailable(why)) => assert!(why.to_string().contains("replaced"), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn guards_that_reach_the_state_by_different_links_know_of_each_other() {
    let place = Place::sqlite();
    let guard = open(&place).await;
    let Verdict::Admitted(_in_flight) = ask(&guard, 5).await else { panic!() };
    std::fs::create_dir(place.path("elsewhere")).unwrap();
    std::os::unix::fs::symlink("../guard.db", place.path("elsewhere/link.db")).unwrap();
    let link = format!("sqlite:{}", place.path("elsewhere/link.db").display()).parse().unwrap();
    let options = Options { wait: std::time::Duration::ZERO, ..Options::default() };
    let other = Guard::open(&link, options, Clock::system()).await.unwrap();
    assert!(matches!(ask(&other, 6).await, Verdict::Refused(Refusal::OlderInFlight { .. })));
}
