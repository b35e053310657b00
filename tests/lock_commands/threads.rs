//! A system that gives few threads.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::Duration;

use crate::scene::{Process, Scene};
use crate::support::until;

/// Users of their own, of whom nothing else runs: the first of them.
const USERS: usize = 54_300;

/// What the system says where it gives no more.
const NO_THREADS: &str = "Resource temporarily unavailable";

/// How long a node is watched that goes on.
const WATCHED: Duration = Duration::from_secs(5);

/// With so many processes and threads the program starts, or does not, or something fails that is tried again.
#[tokio::test]
async fn with_few_threads_something_fails_and_nothing_panics() {
    assert!(nix::unistd::geteuid().is_root(), "only root can become another user: run the tests as root");
    let mut nodes = Vec::new();
    for most in [4, 6, 8, 9, 10, 11, 12, 13, 14, 16, 20, 24] {
        let scene = Scene::over_sqlite();
        scene.write("jobs.yaml", "version: 1\nnamespace: shop\njobs: {tick: {schedule: '@every 1s', shell: 'true'}}\n");
        std::fs::set_permissions(scene.path(""), std::fs::Permissions::from_mode(0o777)).unwrap();
        let (user, limit) = ((USERS + most).to_string(), format!("--nproc={most}"));
        let fencron = env!("CARGO_BIN_EXE_fencron");
        let limited = ["--reuid", &user, "--clear-groups", "prlimit", &limit, fencron, "run", "--node", "a"];
        nodes.push((most, Process::spawn(scene.within(Command::new("setpriv"), &limited)), scene));
    }
    for (most, mut node, _scene) in nodes {
        let lives = tokio::time::timeout(WATCHED, node.ended()).await.is_err();
        if !lives {
            // It may have ended before all that it wrote was read.
            until("it says why", async || Some(node.said()).filter(|said| said.contains(NO_THREADS))).await;
        }
        let said = node.said();
        assert!(!said.contains("panicked"), "{most}: {said}");
    }
}
