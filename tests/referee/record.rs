//! The record: what happened, as facts with their true time. Whoever runs nodes writes it; the referee reads it.
//!
//! Nothing here says how a node does its work. It says what can be seen from outside: what the store came to hold, what
//! was started where, and what arrived at whatever receives effects.

use std::fmt;

/// Milliseconds since the record began, by the one true clock.
pub type Millis = u64;

/// Everything that the referee judges.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    pub rules: Vec<JobRule>,
    /// The TTL of the nodes' sessions, and how much earlier than it they are to stop trusting them.
    pub ttl: Millis,
    pub margin: Millis,
    /// How long a node that stops, or steps down, may wait for what runs.
    pub grace: Millis,
    /// The wall-clock instant, in milliseconds since the epoch, at which the record begins.
    pub wall_start: i64,
    pub facts: Vec<(Millis, Fact)>,
    /// When the last disturbance was over and everything was repaired; the rest of the record is calm.
    pub healed: Millis,
    pub end: Millis,
}

/// What the referee knows of a job: only what its user wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobRule {
    pub name: String,
    /// It is due at the multiples of this many milliseconds since the epoch; `None`: it follows another job.
    pub every: Option<i64>,
    /// The most by which a start is moved.
    pub jitter: i64,
    /// How many of its runs may be executed at once.
    pub at_once: usize,
    /// An occurrence is not started again unless it failed before, or a person said so.
    pub at_most_once: bool,
    /// Its runs go on where their node is dead or has lost the leadership.
    pub finishes: bool,
}

/// A node's name and how often it had been started before.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Life {
    pub node: String,
    pub life: u32,
}

impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.node, self.life)
    }
}

/// Who has a run in its hands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimant {
    pub node: String,
    pub fence: u64,
    pub lease: u64,
}

/// Where an open run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Waiting,
    Claimed,
    Retrying,
}

/// One attempt of one run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attempt {
    pub run: String,
    pub number: u32,
    pub fence: u64,
}

/// Occurrences that one verdict covers: `count` of them (or more), the first at `from`, the last at its own instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Many {
    pub from: i64,
    pub count: u64,
    pub at_least: bool,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// A node was started, or is gone.
    Up(Life),
    Down(Life),
    /// A node ended though nobody told it to.
    Broke(Life, String),

    /// What the store came to hold, at a revision. Facts of one revision are one transaction.
    Owner {
        revision: u64,
        fence: u64,
        node: String,
        lease: u64,
    },
    Vacant {
        revision: u64,
    },
    Registered {
        revision: u64,
        job: String,
        since: i64,
    },
    Forgotten {
        revision: u64,
        job: String,
    },
    /// A batch of claims, made under `fence`, decided everything up to `instant`.
    Decided {
        revision: u64,
        instant: i64,
        fence: u64,
    },
    Open {
        revision: u64,
        run: String,
        state: State,
        claimant: Option<Claimant>,
        attempt: u32,
    },
    OpenGone {
        revision: u64,
        run: String,
    },
    Done {
        revision: u64,
        run: String,
        verdict: String,
        attempt: u32,
        many: Option<Many>,
    },
    DoneGone {
        revision: u64,
        run: String,
    },
    /// Who made the transaction of a revision; a person's or a client's has no node.
    Wrote {
        revision: u64,
        by: Option<Life>,
    },

    /// The same of the other locks, of what elected instances have claimed, and of what is done once.
    Granted {
        revision: u64,
        lock: String,
        fence: u64,
        node: String,
    },
    Freed {
        revision: u64,
        lock: String,
    },
    Claimed {
        revision: u64,
        job: String,
        instant: i64,
        fence: u64,
    },
    Once {
        revision: u64,
        key: String,
        state: String,
    },
    /// An operator has taken a lock from its holder.
    TakenAway {
        lock: String,
        fence: u64,
    },
    /// A program was handed a hold of a lock, or an occurrence.
    Held {
        life: Life,
        lock: String,
        fence: u64,
    },
    Handed {
        life: Life,
        job: String,
        at: i64,
        fence: u64,
    },
    /// It did something under a hold; it had `looked` at its clock right before, or went by a signal alone.
    Acted {
        life: Life,
        lock: String,
        fence: u64,
        looked: bool,
    },
    /// A program wants a lock, or something done once; began that; and learned how it stands.
    Called {
        life: Life,
        key: String,
    },
    Began {
        life: Life,
        key: String,
        fence: u64,
    },
    Answered {
        life: Life,
        key: String,
        how: &'static str,
    },

    /// A question that was put when the node's own clock said `sent` was answered: its lease lives `ttl` from then.
    Acknowledged {
        life: Life,
        lease: u64,
        sent: Millis,
        ttl: Millis,
    },
    /// An attempt was started, at `own` by the node's own clock.
    Started {
        life: Life,
        attempt: Attempt,
        own: Millis,
    },
    Ended {
        life: Life,
        attempt: Attempt,
    },
    /// A process that was seen to die has its lease revoked for it.
    WillExecuted {
        life: Life,
    },
    /// An effect arrived at a receiver that is guarded, which took it or turned it away.
    Effect {
        attempt: Attempt,
        accepted: bool,
    },

    /// An alert waits to be sent, in the transaction of what it is about; and waits no more.
    Alerted {
        revision: u64,
        id: String,
        run: String,
    },
    AlertGone {
        revision: u64,
        id: String,
    },
    /// What the channel has taken of them: the messages that it sends, and how many alerts it counts for a summary.
    Channel {
        revision: u64,
        sending: Vec<String>,
        counted: u64,
    },
    /// A message was sent under a term: that of one alert has its id, and a summary stands for many.
    Told {
        life: Life,
        fence: u64,
        id: String,
        alerts: u64,
    },
    /// A job was paused, or (`None`) all were.
    Paused {
        job: Option<String>,
    },

    /// So many occurrences are counted as ended in this hour.
    Counted {
        hour: String,
        ended: u64,
    },

    /// The store was put back to what it had been at this revision, as from a backup; and repaired after that.
    Restored {
        revision: u64,
    },
    Repaired,

    /// Something is wrong that concerns everybody, from here until as many [`Fact::TroubleEnds`].
    TroubleBegins(String),
    TroubleEnds(String),
    /// Something went wrong at one point: a crash, a cut, a revoked lease.
    Shock(String),
    /// The leader was asked to stop or to step down, or its clock is off: it claims nothing more while it waits for what
    /// runs.
    Drains,
    /// A node cannot take part, or can again, for a reason that lies outside of it.
    Impaired(String),
    Recovered(String),
    /// What is only counted.
    Saw(&'static str),
}

impl Fact {
    /// The transaction that it is a part of.
    pub fn revision(&self) -> Option<u64> {
        match self {
            Fact::Owner { revision, .. }
            | Fact::Vacant { revision }
            | Fact::Registered { revision, .. }
            | Fact::Forgotten { revision, .. }
            | Fact::Decided { revision, .. }
            | Fact::Open { revision, .. }
            | Fact::OpenGone { revision, .. }
            | Fact::Done { revision, .. }
            | Fact::DoneGone { revision, .. }
            | Fact::Granted { revision, .. }
            | Fact::Freed { revision, .. }
            | Fact::Claimed { revision, .. }
            | Fact::Once { revision, .. }
            | Fact::Alerted { revision, .. }
            | Fact::AlertGone { revision, .. }
            | Fact::Channel { revision, .. }
            | Fact::Wrote { revision, .. } => Some(*revision),
            _ => None,
        }
    }
}

/// The job and the instant (milliseconds since the epoch) of a scheduled occurrence; `None` for a run that a person
/// asked for.
pub fn occurrence(run: &str) -> Option<(&str, i64)> {
    if run.contains('~') {
        return None;
    }
    Some((job_of(run), instant(run)?))
}

/// The instant (milliseconds since the epoch) of any run.
pub fn instant(run: &str) -> Option<i64> {
    let (_, rest) = run.split_once('@')?;
    let text = rest.split_once('~').map_or(rest, |(text, _)| text);
    Some(chrono::DateTime::parse_from_rfc3339(text).ok()?.timestamp_millis())
}

/// The job of any run.
pub fn job_of(run: &str) -> &str {
    run.split_once('@').map_or(run, |(job, _)| job)
}
