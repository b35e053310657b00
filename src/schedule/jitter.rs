//! How starts are spread: by a hash that every leader computes alike.

use std::time::Duration;

use super::Occurrence;
use crate::time::Wall;

/// No start is moved by more, whatever is asked for: a start must be found again from its instant, and back.
pub const MAX_JITTER: Duration = Duration::from_secs(86_400);

/// How far an occurrence's start is moved behind its instant: the same for every leader.
///
/// The move is less than `most` and less than the time to the job's next instant, so the starts of a job are in the
/// order of its instants and no two are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Jitter {
    /// The most it is moved; [`MAX_JITTER`] where this is more.
    pub most: Duration,
    /// From the job's name, so that equal schedules of two jobs move apart.
    pub seed: u64,
}

impl Jitter {
    /// Every occurrence starts at its instant.
    pub const fn none() -> Jitter {
        Jitter { most: Duration::ZERO, seed: 0 }
    }

    /// Starts are moved by less than `most`, for the job of this name.
    pub fn of(most: Duration, job: &str) -> Jitter {
        Jitter { most, seed: hash_text(job) }
    }

    pub(super) fn is_none(self) -> bool {
        self.most.as_millis() == 0
    }

    /// The occurrence at `at` of a schedule whose next instant is `next`.
    pub(super) fn apply(self, at: Wall, next: Option<Wall>) -> Occurrence {
        let most = u64::try_from(self.most.min(MAX_JITTER).as_millis()).unwrap_or(u64::MAX);
        let room = next.map_or(u64::MAX, |next| u64::try_from(next.since(at).as_millis()).unwrap_or(u64::MAX));
        let by = match most.min(room) {
            0 => 0,
            bound => mix(self.seed ^ mix(at.as_millis() as u64)) % bound,
        };
        Occurrence { at, starts: at.plus(Duration::from_millis(by)) }
    }
}

/// FNV-1a, 64 bits <http://www.isthe.com/chongo/tech/comp/fnv/>. Std's hasher may change with the compiler; this must not.
pub(super) fn hash_text(text: &str) -> u64 {
    const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let hash = text.bytes().fold(BASIS, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME));
    mix(hash)
}

/// The output function of SplitMix64: every bit of the input moves half of the output's.
/// <https://prng.di.unimi.it/splitmix64.c>
pub(super) fn mix(number: u64) -> u64 {
    let z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two versions of the program may lead one after the other.
    #[test]
    fn the_hash_never_changes() {
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf, "the first output of splitmix64.c seeded with 0");
        let at: Wall = "2026-11-21T02:00:00Z".parse().unwrap();
        let moved = Jitter::of(Duration::from_secs(30), "nightly-report").apply(at, None);
        assert_eq!(moved.starts.since(at).as_millis(), 3_235);
    }

    #[test]
    fn equal_schedules_of_two_jobs_move_apart() {
        let at = Wall::EPOCH;
        let start = |job| Jitter::of(Duration::from_secs(3600), job).apply(at, None).starts;
        assert_ne!(start("a"), start("b"));
    }
}
