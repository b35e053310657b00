//! A store that was restored from a backup: whoever takes a hold remembers what it was, and refuses.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use fencron::store::{AnyStore, Op, Store as _, Txn};
use fencron::time::Clock;

use crate::scene::{Ran, Scene};
use crate::support::soon;

/// By how many revisions other writers carry the restored store: beyond all that was ever seen.
const GROWTH: usize = 120;

/// What can be asked for, each as another command.
const ALL: [&[&str]; 4] = [
    &["lock", "deploy", "--", "touch", "never"],
    &["elect", "deploy", "--", "touch", "never"],
    &["semaphore", "gpu", "--permits", "2", "--", "touch", "never"],
    &["once", "seed", "--", "touch", "never"],
];

fn copy(from: &Path, to: &Path) {
    // With its WAL, and everything that lies beside it.
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

/// Holds the lock for a moment, and answers its fence.
fn hold(scene: &Scene) -> u64 {
    scene.run(&["lock", "deploy", "--", "sh", "-c", "echo $FENCRON_FENCE >> begun"]).ends(0, &[]);
    *scene.fences().last().unwrap()
}

async fn grow(scene: &Scene) {
    let store = AnyStore::open(&scene.store_url().parse().unwrap(), Clock::system()).await.unwrap();
    for n in 0..GROWTH {
        let put = Txn::new().then(Op::put("/somebody/else", n.to_string()));
        soon("a write goes through", async { while store.commit(put.clone()).await.is_err() {} }).await;
    }
}

/// Whatever is asked for is refused, here and where nothing was ever seen, until the store is repaired; then fences are
/// greater than `last`.
fn all_refuse_until_repaired(scene: &Scene, last: u64) {
    for asked in ALL {
        scene.run(asked).ends(5, &["the store went back in time", "fencron fence repair"]);
    }
    let elsewhere = |args: &[&str]| {
        let mut command = scene.command(args);
        Ran::of(command.env("FENCRON_STATE_DIR", scene.path("elsewhere")).output().unwrap())
    };
    for asked in ALL {
        elsewhere(asked).ends(5, &["the store went back in time", "as was found out at"]);
    }
    let job = "{schedule: '0 0 * * *', timezone: UTC, shell: 'true'}";
    scene.write("jobs.yaml", &format!("version: 1\nnamespace: shop\njobs: {{tick: {job}}}\n"));
    let days = ["--from", "2026-01-01T00:00:00Z", "--to", "2026-01-03T00:00:00Z", "--yes"];
    for asked in [vec!["trigger", "tick"], [&["backfill", "tick"], &days[..]].concat()] {
        // A repair ends what was asked for before it.
        for ran in [scene.run(&asked), elsewhere(&asked)] {
            ran.ends(1, &["the store went back in time", "fencron fence repair"]);
        }
    }
    let status = elsewhere(&["status"]);
    assert!(status.stdout.contains("the store went back in time"), "{}", status.stdout);
    scene.run(&["fence", "show"]).ends(1, &[]);
    assert!(!scene.path("never").exists());
    scene.run(&["fence", "repair", "--yes"]).ends(0, &[]);
    let runs = scene.run(&["runs"]);
    assert_eq!(runs.stdout.lines().count(), 1, "no run was asked for: {}", runs.stdout);
    assert!(hold(scene) > last, "fences go on above all that were seen");
    elsewhere(ALL[2]).ends(0, &[]);
}

#[tokio::test]
async fn a_restored_etcd_that_others_have_written_to_is_refused_until_it_is_repaired() {
    let mut scene = Scene::over_etcd().await;
    hold(&scene);
    let backup = scene.path("backup");
    scene.server().save_snapshot(&backup);
    let last = (0..5).fold(0, |_, _| hold(&scene));
    scene.server().restore_snapshot(&backup);
    scene.server().restart();
    scene.server().ready().await;
    grow(&scene).await;
    all_refuse_until_repaired(&scene, last);
}

#[tokio::test]
async fn a_restored_file_that_others_have_written_to_is_refused_until_it_is_repaired() {
    let scene = Scene::over_sqlite();
    hold(&scene);
    let backup = scene.path("backup");
    fs::create_dir(&backup).unwrap();
    for name in ["store.db", "store.db-wal"] {
        if scene.path(name).exists() {
            copy(&scene.path(name), &backup);
        }
    }
    let last = (0..5).fold(0, |_, _| hold(&scene));
    for name in ["store.db", "store.db-wal", "store.db-shm"] {
        fs::remove_file(scene.path(name)).ok();
    }
    copy(&backup.join("."), &scene.path("."));
    grow(&scene).await;
    all_refuse_until_repaired(&scene, last);
}

/// The directory of the default store, as somebody backs it up and restores it, with everything in it.
#[test]
fn a_restored_directory_does_not_take_the_memory_back_with_it() {
    let scene = Scene::over_sqlite();
    let home = scene.path("home");
    fs::create_dir(&home).unwrap();
    fs::create_dir(scene.path("work")).unwrap();
    let run = |args: &[&str]| {
        let mut command = scene.command(args);
        command.env_remove("FENCRON_STATE_DIR").env_remove("XDG_STATE_HOME").env_remove("STATE_DIRECTORY");
        command.env("FENCRON_STORE", "sqlite:.fencron/state.db").env("HOME", &home);
        // Whoever is root keeps it where the system does: that is not this test's to write in.
        command.env("XDG_STATE_HOME", home.join(".local/state"));
        Ran::of(command.current_dir(scene.path("work")).output().unwrap())
    };
    let fence = ["lock", "deploy", "--", "sh", "-c", "echo $FENCRON_FENCE"];
    run(&fence).ends(0, &[]);
    copy(&scene.path("work"), &scene.path("backup"));
    let last = (0..5).fold(0, |_, _| run(&fence).stdout.trim().parse::<u64>().unwrap());
    fs::remove_dir_all(scene.path("work")).unwrap();
    copy(&scene.path("backup"), &scene.path("work"));
    run(&fence).ends(5, &["the store went back in time"]);
    run(&["fence", "repair", "--yes"]).ends(0, &[]);
    assert!(run(&fence).stdout.trim().parse::<u64>().unwrap() > last);
    assert!(home.join(".local/state/fencron").is_dir());
}

#[test]
fn what_is_remembered_is_for_its_owner_alone_and_leaves_nothing_beside_whatever_the_umask_is() {
    let scene = Scene::over_sqlite();
    for umask in ["000", "777"] {
        let state = scene.path(&format!("state-{umask}"));
        // The store's own file is made before, as one may make it.
        hold(&scene);
        let script = format!("umask {umask}; exec \"$0\" \"$@\"");
        let mut command = scene.within(
            Command::new("sh"),
            &["-c", &script, env!("CARGO_BIN_EXE_fencron"), "lock", "deploy", "--", "true"],
        );
        Ran::of(command.env("FENCRON_STATE_DIR", &state).output().unwrap()).ends(0, &[]);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        let files: Vec<_> = fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!((mode(&state), files.len()), (0o700, 1), "{files:?}");
        assert_eq!(mode(&files[0]), 0o600);
    }
}
