//! Clocks that are wrong: that drift, jump, and stand still while their process is stopped.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use fencron::time::{Boot, Clock, Wall};
use tokio::time::Instant;

/// The wall-clock instant at which every simulation begins.
pub const WALL_START: i64 = 1_790_000_000_000;

/// What a machine's boot clock shows at the beginning.
const BOOT_START: Duration = Duration::from_secs(1_000);

/// The one true clock.
#[derive(Clone, Copy, Debug)]
pub struct TrueClock {
    began: Instant,
}

impl TrueClock {
    pub fn starting_now() -> TrueClock {
        TrueClock { began: Instant::now() }
    }

    pub fn millis(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    pub fn wall(&self) -> Wall {
        Wall::from_millis(WALL_START).plus(self.began.elapsed())
    }

    /// For the store.
    pub fn clock(self) -> Clock {
        Clock::from_fn(move || (Boot::from_duration(BOOT_START + self.began.elapsed()), self.wall()))
    }
}

/// One machine's clock.
#[derive(Clone, Debug)]
pub struct MachineClock {
    truth: TrueClock,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    /// Parts of a million by which it is fast.
    fast_ppm: i64,
    offset_ms: i64,
    stopped_at: Option<(Boot, Wall)>,
}

impl MachineClock {
    pub fn new(truth: TrueClock, fast_ppm: i64) -> MachineClock {
        let state = State { fast_ppm, offset_ms: 0, stopped_at: None };
        MachineClock { truth, state: Arc::new(Mutex::new(state)) }
    }

    pub fn read(&self) -> (Boot, Wall) {
        let state = self.state.lock().unwrap();
        state.stopped_at.unwrap_or_else(|| state.read(self.truth))
    }

    /// Milliseconds on the boot clock.
    pub fn boot_millis(&self) -> u64 {
        self.read().0.since_boot().as_millis() as u64
    }

    pub fn clock(&self) -> Clock {
        let own = self.clone();
        Clock::from_fn(move || own.read())
    }

    /// Sets the wall clock so far off the truth.
    pub fn set_offset(&self, millis: i64) {
        self.state.lock().unwrap().offset_ms = millis;
    }

    /// Whoever reads it sees no time pass until it goes on.
    pub fn stop(&self) {
        let mut state = self.state.lock().unwrap();
        state.stopped_at = Some(state.read(self.truth));
    }

    pub fn go_on(&self) {
        self.state.lock().unwrap().stopped_at = None;
    }
}

impl State {
    fn read(&self, truth: TrueClock) -> (Boot, Wall) {
        let passed = truth.began.elapsed().as_micros() as i64;
        let seen = passed + passed / 1_000_000 * self.fast_ppm;
        let boot = Boot::from_duration(BOOT_START + Duration::from_micros(seen as u64));
        (boot, Wall::from_millis(WALL_START + seen / 1000 + self.offset_ms))
    }
}
