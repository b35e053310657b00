//! What the system has no room for now: no process, no memory, no open file more. Nothing of it was begun, for certain, so
//! that it is tried again: others end meanwhile, and make room.

use std::time::Duration;

use nix::errno::Errno;

use crate::job::JobName;
use crate::time::{Boot, Clock, written};

/// The first pause between two tries; the pauses double.
const PAUSE_FIRST: Duration = Duration::from_millis(20);
/// The longest pause.
const PAUSE_LAST: Duration = Duration::from_secs(2);

/// How long a start without a `timeout` of its own is tried.
pub(super) const TRIED_MOST: Duration = Duration::from_secs(10 * 60);

/// Whether an error says that there is no room, which there may be later.
pub(super) fn is_lacking(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::EAGAIN | Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ETOOMANYREFS
    )
}

/// The tries of one start.
pub(super) struct Tries<'a> {
    job: &'a JobName,
    clock: &'a Clock,
    most: Duration,
    since: Option<Boot>,
    pause: Duration,
}

impl<'a> Tries<'a> {
    /// For as long as an attempt of the job may take.
    pub(super) fn new(job: &'a JobName, timeout: Option<Duration>, clock: &'a Clock) -> Tries<'a> {
        Tries { job, clock, most: timeout.unwrap_or(TRIED_MOST), since: None, pause: PAUSE_FIRST }
    }

    /// Waits before the next try, and says so the first time. `Err`: it was tried for long enough, with the reason as it is
    /// to be told then. Cancel safe.
    pub(super) async fn pause(&mut self, why: &str) -> Result<(), String> {
        let now = self.clock.boot();
        let since = *self.since.get_or_insert_with(|| {
            tracing::warn!(job = %self.job, why, "the system has no room to start it now: nothing was begun, trying again");
            now
        });
        let tried = now.since(since);
        let left = self.most.saturating_sub(tried);
        if left.is_zero() {
            let most = written(self.most);
            return Err(format!("{why} (tried again for {most}; nothing of it was begun)"));
        }
        let pause = self.pause.min(left);
        self.pause = (self.pause * 2).min(PAUSE_LAST);
        tokio::time::sleep(pause).await;
        Ok(())
    }

    /// It was started.
    pub(super) fn end(&self) {
        if let Some(since) = self.since {
            let after = self.clock.boot().since(since);
            tracing::info!(job = %self.job, ?after, "there was room for it again: it was started");
        }
    }
}
