//! PURE: how long a lease may be trusted, and when to send the next keep-alive.
//!
//! The rule is River's (`internal/leadership`, "trusted until"): trust is counted from when the *question* left, not
//! from when its answer came, so that slowness cannot lengthen it:
//!
//! ```text
//! asked ───────────── answered                     trusted until        the store may end it
//!   │                     │                              │                       │
//!   ├─────────────────────┴──── ttl - margin ────────────┤──────── margin ───────┤
//! ```
//!
//! The store counts the TTL from the moment it receives the request, which is after the moment the node sent it. So the
//! lease lives at least until `asked + ttl`. The margin before that covers what one machine cannot know of another: the
//! rate of its clock, and the time it takes to stop what is already running.

use std::time::Duration;

use crate::time::Boot;

/// Parts of a thousand of the TTL: questions are put this often while they are answered.
const RENEW_PERMILLE: u32 = 333;
/// A question that was not answered for this long is put again.
const ANSWER_PERMILLE: u32 = 166;
/// How far the rates of two machines' clocks may differ. NTP disciplines a clock within 0.05 %; twenty times that.
const CLOCK_RATE_PERMILLE: u32 = 10;
/// How long it may take from the end of trust until nothing of ours runs any more (signals, a busy machine).
const STOP_PERMILLE: u32 = 100;
/// How much of that is left to end in order. The rest is for killing, until nothing is left.
const HEED_PERMILLE: u32 = 75;

const _: () = assert!(
    RENEW_PERMILLE + 3 * ANSWER_PERMILLE < 1000 - CLOCK_RATE_PERMILLE - STOP_PERMILLE,
    "two questions in a row may go unanswered without trust lapsing"
);
const _: () = assert!(HEED_PERMILLE < STOP_PERMILLE, "killing takes its time too");
const _: () = assert!(ANSWER_PERMILLE < RENEW_PERMILLE, "a lost question is repeated before the next one is due");

/// The times of a session, all derived from its TTL.
///
/// ```
/// use std::time::Duration;
/// use fencron::lock::Timing;
/// let timing = Timing::from_ttl(Duration::from_secs(10))?;
/// assert_eq!(timing.renew_every(), Duration::from_millis(3_330));
/// assert_eq!(timing.margin(), Duration::from_millis(1_100));
/// assert!(Timing::from_ttl(Duration::ZERO).is_err());
/// # Ok::<(), fencron::lock::BadTtl>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    ttl: Duration,
}

/// A TTL that cannot be kept, or that would keep a crashed holder's lock for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a TTL of {0:?} is out of bounds: choose one from {shortest:?} to {longest:?} (10s suits most)",
    shortest = Timing::SHORTEST_TTL,
    longest = Timing::LONGEST_TTL
)]
pub struct BadTtl(pub Duration);

impl Timing {
    /// Below this, the pauses of an ordinary busy machine are as long as the margin.
    pub const SHORTEST_TTL: Duration = Duration::from_secs(1);
    /// A holder that crashed keeps all waiters waiting for this long.
    pub const LONGEST_TTL: Duration = Duration::from_secs(3600);

    /// The times that go with a TTL, from [`Timing::SHORTEST_TTL`] to [`Timing::LONGEST_TTL`].
    pub fn from_ttl(ttl: Duration) -> Result<Timing, BadTtl> {
        if (Timing::SHORTEST_TTL..=Timing::LONGEST_TTL).contains(&ttl) { Ok(Timing { ttl }) } else { Err(BadTtl(ttl)) }
    }

    /// How long the store keeps the session after the last keep-alive.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// How much earlier than the store a node stops trusting its lease: 1 % of the TTL for clocks of different rate,
    /// 10 % to stop what runs.
    pub fn margin(&self) -> Duration {
        self.permille(CLOCK_RATE_PERMILLE + STOP_PERMILLE)
    }

    /// How long after the end of trust the node kills what still runs, so that nothing of it is left when the lease can
    /// pass: 7.5 % of the TTL, three quarters of the time to stop.
    pub fn killed_after(&self) -> Duration {
        self.permille(HEED_PERMILLE)
    }

    /// How often the lease is kept alive while the store answers: a third of the TTL.
    pub fn renew_every(&self) -> Duration {
        self.permille(RENEW_PERMILLE)
    }

    /// After how long without an answer the question is put again: a sixth of the TTL.
    pub fn answer_within(&self) -> Duration {
        self.permille(ANSWER_PERMILLE)
    }

    fn permille(&self, parts: u32) -> Duration {
        self.ttl * parts / 1000
    }
}

/// What to do for a lease, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// Ask the store to keep the lease alive, now.
    Ask,
    /// Nothing until then, unless an answer comes.
    WaitUntil(Boot),
    /// Nothing ever again: the lease has ended.
    Ended,
}

/// One lease, from its grant to its end, on the boot clock of the machine that holds it.
///
/// A keep-alive that is not acknowledged in time is repeated, also after trust has lapsed: a lapse is not a loss, only
/// the store's refusal is.
#[derive(Clone, Debug)]
pub struct Lease {
    timing: Timing,
    trusted_until: Boot,
    last_asked: Boot,
    last_acknowledged: Boot,
    ended: bool,
}

impl Lease {
    /// A lease that was granted for `ttl` in answer to a question put at `asked_at`.
    pub fn granted(timing: Timing, asked_at: Boot, ttl: Duration) -> Lease {
        let mut lease = Lease {
            timing,
            trusted_until: Boot::default(),
            last_asked: asked_at,
            last_acknowledged: Boot::default(),
            ended: false,
        };
        lease.acknowledged(asked_at, ttl);
        lease
    }

    /// A keep-alive was sent.
    pub fn asked(&mut self, at: Boot) {
        self.last_asked = self.last_asked.max(at);
    }

    /// The keep-alive sent at `asked_at` was acknowledged for `ttl`, whenever that may be. A store that grants more
    /// than the session asked for is not trusted for longer.
    pub fn acknowledged(&mut self, asked_at: Boot, ttl: Duration) {
        if self.ended {
            return;
        }
        let window = ttl.min(self.timing.ttl).saturating_sub(self.timing.margin());
        self.trusted_until = self.trusted_until.max(asked_at.plus(window));
        self.last_acknowledged = self.last_acknowledged.max(asked_at);
    }

    /// The store says, or the holder decides, that the lease has ended. Nothing brings it back.
    pub fn end(&mut self, now: Boot) {
        self.ended = true;
        self.trusted_until = self.trusted_until.min(now);
    }

    /// Until when the lease may be acted on without asking.
    pub fn trusted_until(&self) -> Boot {
        self.trusted_until
    }

    /// What to do at `now`.
    pub fn next(&self, now: Boot) -> Renewal {
        if self.ended {
            return Renewal::Ended;
        }
        let answered = self.last_acknowledged >= self.last_asked;
        let pause = if answered { self.timing.renew_every() } else { self.timing.answer_within() };
        let due = self.last_asked.plus(pause);
        if now >= due { Renewal::Ask } else { Renewal::WaitUntil(due) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TTL: Duration = Duration::from_secs(10);

    fn ms(millis: u64) -> Boot {
        Boot::from_duration(Duration::from_millis(millis))
    }

    fn lease_granted_at_zero() -> Lease {
        Lease::granted(Timing::from_ttl(TTL).unwrap(), ms(0), TTL)
    }

    #[test]
    fn trust_is_counted_from_the_question() {
        let mut lease = lease_granted_at_zero();
        assert_eq!(lease.trusted_until(), ms(8_900));
        lease.asked(ms(3_000));
        lease.acknowledged(ms(3_000), TTL);
        assert_eq!(lease.trusted_until(), ms(11_900), "however late the answer came");
    }

    #[test]
    fn a_late_answer_to_an_older_question_changes_nothing() {
        let mut lease = lease_granted_at_zero();
        for asked in [3_000, 5_000] {
            lease.asked(ms(asked));
        }
        lease.acknowledged(ms(5_000), TTL);
        lease.acknowledged(ms(3_000), TTL);
        assert_eq!(lease.trusted_until(), ms(13_900));
        assert_eq!(lease.next(ms(5_000)), Renewal::WaitUntil(ms(8_330)));
    }

    #[test]
    fn an_answer_to_an_older_question_extends_trust_by_that_question_only() {
        let mut lease = lease_granted_at_zero();
        for asked in [3_000, 5_000] {
            lease.asked(ms(asked));
        }
        lease.acknowledged(ms(3_000), TTL);
        assert_eq!(lease.trusted_until(), ms(11_900));
        assert_eq!(lease.next(ms(6_660)), Renewal::Ask, "the newer one is still unanswered");
    }

    #[test]
    fn an_unanswered_question_is_repeated_sooner() {
        let mut lease = lease_granted_at_zero();
        assert_eq!(lease.next(ms(0)), Renewal::WaitUntil(ms(3_330)));
        lease.asked(ms(3_330));
        assert_eq!(lease.next(ms(3_330)), Renewal::WaitUntil(ms(4_990)));
        assert_eq!(lease.next(ms(4_990)), Renewal::Ask);
    }

    #[test]
    fn two_lost_questions_do_not_cost_the_trust() {
        let mut lease = lease_granted_at_zero();
        let mut now = ms(0);
        for _ in 0..3 {
            let Renewal::WaitUntil(due) = lease.next(now) else { panic!("nothing is due yet") };
            now = due;
            lease.asked(now);
        }
        let answered = now.plus(Timing::from_ttl(TTL).unwrap().answer_within());
        assert!(answered < lease.trusted_until());
    }

    #[test]
    fn a_lapse_is_not_a_loss() {
        let mut lease = lease_granted_at_zero();
        assert_eq!(lease.next(ms(60_000)), Renewal::Ask, "it goes on asking after trust has lapsed");
        lease.asked(ms(60_000));
        lease.acknowledged(ms(60_000), TTL);
        assert_eq!(lease.trusted_until(), ms(68_900));
    }

    #[test]
    fn an_end_is_final() {
        let mut lease = lease_granted_at_zero();
        lease.asked(ms(3_000));
        lease.asked(ms(4_000));
        lease.end(ms(4_500));
        lease.acknowledged(ms(4_000), TTL);
        assert_eq!((lease.trusted_until(), lease.next(ms(9_000))), (ms(4_500), Renewal::Ended));
    }

    #[test]
    fn a_longer_lease_than_asked_for_is_not_trusted_longer() {
        let lease = Lease::granted(Timing::from_ttl(TTL).unwrap(), ms(0), TTL * 3);
        assert_eq!(lease.trusted_until(), ms(8_900));
    }

    #[test]
    fn a_shorter_lease_than_asked_for_is_trusted_shorter() {
        let lease = Lease::granted(Timing::from_ttl(TTL).unwrap(), ms(0), TTL / 2);
        assert_eq!(lease.trusted_until(), ms(3_900));
    }

    proptest! {
        /// Questions answered in any order, late or never: trust never outlives what the store has certainly promised.
        #[test]
        fn trust_ends_before_the_store_can_end_the_lease(
            questions in proptest::collection::vec((0u64..60_000, any::<bool>()), 0..30),
        ) {
            let mut lease = lease_granted_at_zero();
            let mut promised = 10_000;
            for (asked, answered) in questions {
                lease.asked(ms(asked));
                if answered {
                    lease.acknowledged(ms(asked), TTL);
                    promised = promised.max(asked + 10_000);
                }
                prop_assert_eq!(lease.trusted_until(), ms(promised - 1_100));
            }
        }
    }
}
