//! Pauses that grow: between attempts, and between sessions that do not last.

use std::time::Duration;

use crate::time::Boot;

/// Pauses between attempts that double, up to a bound.
#[derive(Debug)]
pub(crate) struct Backoff {
    pause: Duration,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(50);
    const LONGEST: Duration = Duration::from_secs(2);

    pub fn new() -> Backoff {
        Backoff { pause: Backoff::FIRST }
    }

    pub fn reset(&mut self) {
        self.pause = Backoff::FIRST;
    }

    pub async fn wait(&mut self) {
        tokio::time::sleep(self.next()).await;
    }

    /// The next pause, for who waits by other means.
    pub fn next(&mut self) -> Duration {
        let longer = (self.pause * 2).min(Backoff::LONGEST);
        std::mem::replace(&mut self.pause, longer)
    }
}

/// Pauses before sessions that a program opens one after the other: whatever ends each of them as it begins must not be met
/// with sessions as fast as the store can hold them.
#[derive(Debug)]
pub(crate) struct Reopening {
    backoff: Backoff,
    /// When the last one was to be opened.
    last: Option<Boot>,
}

impl Reopening {
    /// A session that lasted for so long is followed at once by another.
    const LASTED: Duration = Duration::from_secs(10);

    pub fn new() -> Reopening {
        Reopening { backoff: Backoff::new(), last: None }
    }

    /// How long to wait, from `now` on, before a session is opened: not at all for the first one.
    pub fn pause(&mut self, now: Boot) -> Duration {
        let lasted = self.last.map(|last| now.since(last));
        let pause = match lasted {
            Some(lasted) if lasted < Reopening::LASTED => self.backoff.next(),
            _ => {
                self.backoff.reset();
                Duration::ZERO
            }
        };
        self.last = Some(now.plus(pause));
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_that_end_at_once_are_opened_ever_more_seldom_and_one_that_lasted_is_followed_at_once() {
        let (mut reopening, mut now) = (Reopening::new(), Boot::default());
        assert_eq!(reopening.pause(now), Duration::ZERO);
        let mut opened = 0;
        while now.since_boot() < Duration::from_secs(60) {
            let pause = reopening.pause(now);
            assert!((Backoff::FIRST..=Backoff::LONGEST).contains(&pause), "{pause:?}");
            (now, opened) = (now.plus(pause).plus(Duration::from_millis(1)), opened + 1);
        }
        assert!(opened < 40, "{opened} in a minute");
        now = now.plus(Reopening::LASTED);
        assert_eq!(reopening.pause(now), Duration::ZERO);
        assert_eq!(reopening.pause(now), Backoff::FIRST);
    }
}
