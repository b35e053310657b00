//! Starts for which the system has no room now: no process, no memory, no open file more. Certainly nothing of it was
//! begun, so it is tried again: others end meanwhile, and make room.

use std::time::Duration;

use nix::errno::Errno;

use super::Gate;
use crate::job::Outcome;
use crate::time::{Boot, written};

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
    what: &'a str,
    gate: &'a Gate,
    most: Duration,
    since: Option<Boot>,
    pause: Duration,
}

impl<'a> Tries<'a> {
    /// To start `what` within `most`, unless it is stopped before.
    pub(super) fn new(what: &'a str, most: Option<Duration>, gate: &'a Gate) -> Tries<'a> {
        Tries { what, gate, most: most.unwrap_or(TRIED_MOST), since: None, pause: PAUSE_FIRST }
    }

    /// Waits before the next try, and logs it the first time. Cancel safe.
    ///
    /// # Errors
    ///
    /// The outcome, where it was stopped, or tried for long enough.
    pub(super) async fn pause(&mut self, why: &str) -> Result<(), Outcome> {
        let (what, now) = (self.what, self.gate.clock().boot());
        let since = *self.since.get_or_insert_with(|| {
            tracing::warn!(what, why, "the system has no room to start it now: nothing was begun, trying again");
            now
        });
        let left = self.most.saturating_sub(now.since(since));
        if left.is_zero() {
            let most = written(self.most);
            return Err(Outcome::NotStarted(format!("{why} (tried again for {most}; nothing of it was begun)")));
        }
        let pause = self.pause.min(left);
        self.pause = (self.pause * 2).min(PAUSE_LAST);
        tokio::select! {
            biased;
            reason = self.gate.stopped() => Err(Outcome::Stopped(reason)),
            () = tokio::time::sleep(pause) => Ok(()),
        }
    }

    /// It was started.
    pub(super) fn end(&self) {
        if let Some(since) = self.since {
            let after = self.gate.clock().boot().since(since);
            tracing::info!(what = self.what, ?after, "there was room for it again: it was started");
        }
    }
}
