//! The scheduler's events and actions: plain data.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::alert::Alert;
use super::run::{Done, Known, Open, Version, Watermark};
use super::view::Change;
use crate::fence::Fence;
use crate::job::{AttemptResult, Job, JobName, Notify, RunId, StopReason};
use crate::time::Wall;

/// Something that happened.
#[derive(Debug)]
pub enum Event {
    /// Time went on.
    Tick,
    /// This node has a session (again): what it claims from now on is in this lease's hands.
    Session { lease: u64 },
    /// This node leads, under this fence. The view has caught up with the election.
    Elected { fence: Fence },
    /// This node leads no more.
    Deposed,
    /// Whether this node may act on its term. Begins as `false` and is `false` after [`Event::Deposed`].
    Trust(bool),
    /// The store acknowledged the claim of the batch of this number.
    Claimed { batch: u64, version: Version },
    /// The batch did not fit the store's limits: claim at most this many at a time.
    BatchTooLarge { most: usize },
    /// Of the batch of this number these have a claim or a verdict already; of those forgotten it is unknown whether
    /// they had one. Nothing was claimed.
    AlreadyDecided { batch: u64, decided: Vec<RunId>, forgotten: Vec<RunId> },
    /// A person brought the watermark back, at this version, before the batch of this number was claimed: it was not.
    Rewound { batch: u64, version: Version },
    /// The store acknowledged [`Action::Register`].
    Registered,
    /// How a transition went.
    Transitioned { run: RunId, result: Transitioned },
    /// The process of a run was started.
    Started { run: RunId, attempt: u32, at: Wall },
    /// An attempt that this node was asked to start has ended.
    Ended { run: RunId, attempt: u32, ended: AttemptResult },
    /// The ledger changed, in the order of the watch.
    Changed(Change, Version),
    /// The watch lost its place, and the ledger was read whole, as of this version.
    Reread { changes: Vec<(Change, Version)>, version: Version },
    /// The store was set back to an older state. Its versions are given out a second time, so no known version shows
    /// what is newer: all of it is forgotten, and [`Event::Reread`] follows.
    WentBack,
    /// The configuration was read again.
    Reloaded(BTreeMap<JobName, Arc<Job>>),
    /// Nothing new is to start; [`Action::Drained`] follows when nothing runs.
    Drain { wait_for_finish: bool },
    /// What was drained may go on, as a follower.
    Undrain,
    /// Every run that goes on has to stop.
    StopAll(StopReason),
}

/// How a transition went.
#[derive(Clone, Debug, PartialEq)]
pub enum Transitioned {
    Applied {
        version: Version,
    },
    /// The term on whose authority it was to be made is over: nothing changed.
    Fenced,
    /// The run was not as expected: this is how it stands (`None`: it is not open), as of this version.
    Refused {
        now: Option<Box<Open>>,
        version: Version,
    },
}

/// Something to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Commit the batch, on the condition that this node leads under the fence and the watermark is where it was.
    Claim(Batch),
    /// Record when these jobs were first seen or their rule changed, and forget those; on the condition of leadership.
    Register { fence: Fence, known: Vec<(JobName, Known)>, forget: Vec<JobName> },
    /// Change an open run.
    Transition(Transition),
    /// Run an attempt of this run now.
    Start { open: Open, job: Arc<Job> },
    /// Stop the attempt of this run.
    Stop { run: RunId, reason: StopReason },
    /// The request to cancel this run has been seen to, or came too late: delete it.
    ForgetCancel(RunId),
    /// A person said that this run has succeeded: put what follows it, where it does not exist, on the condition of
    /// leadership; then delete the request.
    Follow { fence: Fence, run: RunId, follow: Vec<Open> },
    /// A request to step down has been seen to: delete it. `resign`: it was meant for this term.
    StepDown { fence: Fence, resign: bool },
    /// Nothing runs here any more.
    Drained,
}

/// Occurrences decided together.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Counts the batches of this process.
    pub number: u64,
    /// The term that claims it.
    pub fence: Fence,
    /// The occurrences that run.
    pub opens: Vec<Open>,
    /// The occurrences that do not; one verdict may stand for many.
    pub dones: Vec<Done>,
    /// Verdicts of this term that are part of those, and go.
    pub replaced: Vec<RunId>,
    /// What is notified of those verdicts.
    pub alerts: Vec<(Arc<Notify>, Alert)>,
    /// Jobs that are decided further than the watermark: by one verdict over many of their occurrences. At most one
    /// each.
    pub known: Vec<(JobName, Known)>,
    /// How far this batch decides.
    pub watermark: Watermark,
    /// Some of it may have been decided before the watermark was brought back: only undecided occurrences may be claimed.
    pub anew: bool,
}

/// A change of one open run, on the condition that it still is at `expect`.
#[derive(Clone, Debug, PartialEq)]
pub struct Transition {
    pub run: RunId,
    pub expect: Version,
    /// The term on whose authority it is made; `None`: that of the node that executed the run, which outlives the term.
    pub fence: Option<Fence>,
    pub to: To,
    /// Which ends of its job's runs are notified; `None`: none are.
    pub notify: Option<Arc<Notify>>,
}

/// What an open run becomes.
#[derive(Clone, Debug, PartialEq)]
pub enum To {
    Open(Open),
    /// It ends, and these runs come to be that follow it.
    Done {
        done: Done,
        follow: Vec<Open>,
    },
}

impl To {
    /// The verdict, where it ends.
    pub fn verdict(&self) -> Option<&Done> {
        match self {
            To::Done { done, .. } => Some(done),
            To::Open(_) => None,
        }
    }
}
