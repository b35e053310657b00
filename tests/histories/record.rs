//! What a process writes down while it works: one line for every event, each with one `write`, before a call and after
//! its answer, so that a kill loses nothing that was known.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fencron::time::Clock;
use serde::{Deserialize, Serialize};

use crate::linear::Nanos;

/// What contexts use. One of each in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Object {
    /// Not reentrant; its fences are not asked for.
    OwnerAware,
    /// Twice at most; its fences are not asked for.
    Reentrant,
    Fenced,
    ReentrantFenced,
    Permits,
}

impl Object {
    pub const ALL: [Object; 5] =
        [Object::OwnerAware, Object::Reentrant, Object::Fenced, Object::ReentrantFenced, Object::Permits];

    /// How many permits the semaphore has.
    pub const PERMITS: u32 = 3;

    pub fn is_fenced(self) -> bool {
        matches!(self, Object::Fenced | Object::ReentrantFenced)
    }

    pub fn is_reentrant(self) -> bool {
        matches!(self, Object::Reentrant | Object::ReentrantFenced)
    }

    /// How much of it may be held at once.
    pub fn capacity(self) -> u32 {
        if self == Object::Permits { Object::PERMITS } else { 1 }
    }
}

/// How long a call waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Patience {
    Forever,
    /// So many milliseconds.
    For(u64),
    None,
    /// As long as it takes, but the call's future is dropped after so many milliseconds.
    Dropped(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Call {
    Lock(Patience),
    /// The future may be dropped after so many milliseconds.
    Unlock(Option<u64>),
    Fence,
    Count,
    Acquire(u32, Patience),
    /// Gives back what the call of this number got.
    Release(u64),
    /// Drops it, which gives it back in the background.
    Drop(u64),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// It holds the lock, or the permits.
    Granted(Option<u64>),
    Refused,
    LimitReached,
    Done,
    NotOwner,
    /// It held the lock, under this fence, and does not any more.
    Lost(u64),
    Fence(u64),
    Count(u32),
    HadEnded,
    SessionLost,
    /// Nobody knows whether it took effect.
    Unknown(String),
    /// Its future was dropped.
    Dropped,
}

impl Answer {
    /// It says what became of the call, and of the calls before it on the same object.
    pub fn is_conclusive(&self) -> bool {
        !matches!(self, Answer::Unknown(_) | Answer::Dropped)
    }
}

/// What becomes of a transaction on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Harm {
    /// It is applied, and the answer is lost.
    AnswerLost,
    /// It is lost.
    Lost,
    /// It is applied some time after its caller was told that nobody knows.
    Late,
    /// It is applied, answered, and applied once more later.
    Repeated,
    /// It is a grant that is applied, and its answer is read when another has been granted the same.
    Overslept,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    Opened {
        lease: u64,
    },
    /// What the keep-alive published.
    Trust {
        lease: u64,
        until: Nanos,
        ended: bool,
    },
    Closing {
        lease: u64,
    },
    Closed {
        lease: u64,
    },
    Call {
        context: u32,
        number: u64,
        lease: u64,
        object: Object,
        call: Call,
    },
    Answer {
        context: u32,
        number: u64,
        answer: Answer,
    },
    /// The hold that began with the call of this number is over, or may be.
    Signal {
        context: u32,
        number: u64,
        why: String,
    },
    /// The process stood still from then on until now.
    StoodStill {
        from: Nanos,
    },
    /// Something was done to a transaction, and it was one that writes.
    Harm(Harm),
    Done,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    pub at: Nanos,
    pub event: Event,
}

/// The nanoseconds of the boot clock.
pub fn now(clock: &Clock) -> Nanos {
    u64::try_from(clock.boot().since_boot().as_nanos()).expect("a machine is not up for 584 years")
}

/// Where a process writes.
#[derive(Clone, Debug)]
pub struct Recorder {
    file: Arc<File>,
    clock: Clock,
}

impl Recorder {
    pub fn create(path: &Path, clock: Clock) -> Recorder {
        let file = OpenOptions::new().create(true).append(true).open(path).unwrap();
        Recorder { file: Arc::new(file), clock }
    }

    pub fn note(&self, event: Event) {
        let mut line = serde_json::to_vec(&Line { at: now(&self.clock), event }).unwrap();
        line.push(b'\n');
        (&*self.file).write_all(&line).unwrap();
    }
}

/// A file of lines that is still being written.
#[derive(Debug)]
pub struct Tail {
    path: PathBuf,
    read: u64,
    pub lines: Vec<Line>,
}

impl Tail {
    pub fn new(path: PathBuf) -> Tail {
        Tail { path, read: 0, lines: Vec::new() }
    }

    /// Reads what is new. A line that a kill has cut off is left out.
    pub fn update(&mut self) {
        let Ok(mut file) = File::open(&self.path) else { return };
        let mut text = String::new();
        file.seek(SeekFrom::Start(self.read)).unwrap();
        file.read_to_string(&mut text).unwrap();
        let whole = text.rfind('\n').map_or(0, |last| last + 1);
        self.read += whole as u64;
        self.lines.extend(text[..whole].lines().map(|line| serde_json::from_str(line).unwrap()));
    }
}
