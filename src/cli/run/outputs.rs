//! Old whole outputs of jobs that have no runs, or that are not configured any more: nothing else would delete them.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::time::Duration;

use crate::board::Shared;
use crate::execute::Wholes;
use crate::job::{JobName, KeepOutputs};
use crate::time::Clock;

/// How often some of the directories are looked through. Those of jobs with runs are with each of them.
const SWEEP_EVERY: Duration = Duration::from_secs(600);

/// Goes on until it is dropped.
pub(super) async fn sweep(wholes: Wholes, board: Shared, namespace: String, clock: Clock) {
    let mut reached: HashMap<PathBuf, JobName> = HashMap::new();
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        let mut kept: BTreeMap<PathBuf, HashMap<JobName, KeepOutputs>> = BTreeMap::new();
        for job in board.read().definitions() {
            if let Some(whole) = &job.output {
                kept.entry(whole.dir.expose().into()).or_default().insert(job.name.clone(), whole.keep);
            }
        }
        for (dir, jobs) in kept {
            let keep_of = move |job: &JobName| jobs.get(job).copied().unwrap_or(KeepOutputs::FORGOTTEN);
            let after = reached.remove(&dir);
            let last = wholes.sweep(&dir, &namespace, keep_of, after, &clock).await;
            reached.extend(last.map(|last| (dir, last)));
        }
    }
}
