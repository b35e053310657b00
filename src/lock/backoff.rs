//! Pauses that grow: between attempts, and between sessions or terms that do not last.

use std::time::Duration;

use crate::time::Boot;

/// Pauses between attempts that double, up to a bound.
#[derive(Debug)]
pub(crate) struct Backoff {
    pause: Duration,
    longest: Duration,
}

impl Backoff {
    pub const FIRST: Duration = Duration::from_millis(50);
    pub const LONGEST: Duration = Duration::from_secs(2);

    pub fn new() -> Backoff {
        Backoff::up_to(Backoff::LONGEST)
    }

    /// Pauses that grow to `longest`.
    pub fn up_to(longest: Duration) -> Backoff {
        Backoff { pause: Backoff::FIRST, longest }
    }

    pub fn reset(&mut self) {
        self.pause = Backoff::FIRST;
    }

    pub async fn wait(&mut self) {
        tokio::time::sleep(self.next()).await;
    }

    /// The next pause, for a caller that waits by other means.
    pub fn next(&mut self) -> Duration {
        let longer = (self.pause * 2).min(self.longest);
        std::mem::replace(&mut self.pause, longer)
    }
}

/// The pace at which sessions and terms are begun again after they have ended. A fault that ends each of them as it
/// begins must not cause new ones as fast as the store can create them.
#[derive(Debug)]
pub(crate) struct Pace {
    backoff: Backoff,
    began: Option<Boot>,
}

impl Pace {
    /// What lasted for so long is followed at once by the next.
    const LASTED: Duration = Duration::from_secs(10);

    pub fn new() -> Pace {
        Pace { backoff: Backoff::new(), began: None }
    }

    /// One begins.
    pub fn begins(&mut self, now: Boot) {
        self.began = Some(now);
    }

    /// The last one has ended: how long to wait, from `now` on, before the next begins.
    pub fn pause(&mut self, now: Boot) -> Duration {
        match self.began {
            Some(began) if now.since(began) < Pace::LASTED => self.backoff.next(),
            _ => {
                self.backoff.reset();
                Duration::ZERO
            }
        }
    }
}

/// How often the same trouble is reported: at once, and then ever more seldom.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    last: Option<(String, Boot, Duration)>,
}

impl Reports {
    /// The pauses between two reports of the same trouble double from the first to the longest.
    const FIRST: Duration = Duration::from_secs(4);
    const LONGEST: Duration = Duration::from_secs(300);

    /// Whether to report `what` at `now`.
    pub fn is_news(&mut self, what: String, now: Boot) -> bool {
        let pause = match &self.last {
            Some((last, at, pause)) if *last == what && now.since(*at) < *pause => return false,
            Some((last, _, pause)) if *last == what => (*pause * 2).min(Reports::LONGEST),
            _ => Reports::FIRST,
        };
        self.last = Some((what, now, pause));
        true
    }
}

/// A store that does not answer, reported once for each time that it is away: with the reason, and (`None`) when it answers
/// again.
#[cfg(feature = "jobs")]
pub(crate) struct Outage<R> {
    report: R,
    lasts: bool,
}

#[cfg(feature = "jobs")]
impl<R: Fn(Option<String>)> Outage<R> {
    pub fn new(report: R) -> Outage<R> {
        Outage { report, lasts: false }
    }

    pub fn goes_on(&mut self, why: &impl std::fmt::Display) {
        if !std::mem::replace(&mut self.lasts, true) {
            (self.report)(Some(why.to_string()));
        }
    }

    pub fn is_over(&mut self) {
        if std::mem::take(&mut self.lasts) {
            (self.report)(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_at_once_is_begun_ever_more_seldom_and_what_lasted_is_followed_at_once() {
        let (mut pace, mut now) = (Pace::new(), Boot::default());
        assert_eq!(pace.pause(now), Duration::ZERO);
        let mut begun = 0;
        while now.since_boot() < Duration::from_secs(60) {
            pace.begins(now);
            now = now.plus(Duration::from_millis(1));
            let pause = pace.pause(now);
            assert!((Backoff::FIRST..=Backoff::LONGEST).contains(&pause), "{pause:?}");
            (now, begun) = (now.plus(pause), begun + 1);
        }
        assert!(begun < 40, "{begun} in a minute");
        pace.begins(now);
        now = now.plus(Pace::LASTED);
        assert_eq!(pace.pause(now), Duration::ZERO);
        pace.begins(now);
        assert_eq!(pace.pause(now), Backoff::FIRST);
    }
}
