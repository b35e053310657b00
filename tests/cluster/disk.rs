//! A store whose disk is full.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::scene::{Job, Scene};

/// A small file system of its own. Gone when it is dropped.
struct Disk {
    directory: tempfile::TempDir,
}

impl Disk {
    fn mount(size: &str) -> Disk {
        let directory = tempfile::tempdir().unwrap();
        let options = format!("size={size}");
        let arguments = ["-t", "tmpfs", "-o", options.as_str(), "tmpfs"];
        let output = Command::new("mount").args(arguments).arg(directory.path()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            output.status.success(),
            "a disk that can be filled has to be mounted for this, which takes root: run `tests/run` as root ({said})"
        );
        Disk { directory }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Takes all the space there is. Answers what is to be deleted to have it back.
    fn fill(&self) -> PathBuf {
        let path = self.path().join("filler");
        let mut file = OpenOptions::new().create(true).append(true).open(&path).unwrap();
        for size in [64 << 10, 4 << 10, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
        path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a process that is on its way out may still have files open.
        let status = Command::new("umount").arg("--lazy").arg(self.path()).status();
        assert!(status.is_ok_and(|status| status.success()) || std::thread::panicking(), "the disk is unmounted");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_told_of_and_costs_no_occurrence() {
    let crowd = |n: usize| Job { name: String::leak(format!("crowd-{n}")), every: 1, steps: 0, more: &[] };
    let crowd: Vec<Job> = (0..10).map(crowd).collect();
    let disk = Disk::mount("16m");
    let mut scene = Scene::over_file(&crowd, &disk.path().join("store.db")).await;
    let (leader, _) = scene.play().await;
    scene.claims(3).await;

    let since = scene.nodes[leader].now();
    scene.trouble("the disk is full");
    let filler = disk.fill();
    let said = scene.nodes[leader].says(since, "full").await;
    println!("{said}");
    let (_, fence) = {
        let history = scene.witness.history.borrow();
        history.leader().map_or((String::new(), 0), |(node, fence)| (node.to_owned(), fence))
    };
    std::fs::remove_file(filler).unwrap();
    scene.trouble_ends();
    scene.leader_after(fence.saturating_sub(1)).await;
    scene.claims(5).await;
    scene.judge(&[("claims", 8), ("starts", 50)]).await;
}
