//! Flows: they know which locks the running code holds, so that it enters them again and never waits for itself.
//!
//! A flow is one task, or one branch that [`isolated`] runs. What a `with` holds is known to the body of that `with`, by a
//! value that is local to it; what a guard holds is known to the flow that acquired the guard.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;

use super::held::Held;
use crate::fence::Fence;
use crate::lock::LockName;

tokio::task_local! {
    static FLOW: Arc<Frame>;
}

/// One step into a lock, or into a branch of its own, with all that is around it.
struct Frame {
    step: Step,
    around: Option<Arc<Frame>>,
}

enum Step {
    /// The body of a `with`, by the client with this number.
    Holds {
        client: u64,
        lock: LockName,
        held: Held,
    },
    Branch(u64),
}

/// The caller that acquires a guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    Task(tokio::task::Id),
    /// What `block_on` runs is no task, and stays on its thread.
    Thread(ThreadId),
    Branch(u64),
}

/// How the running code stands to a lock.
pub(super) enum Inside {
    No,
    /// So many times.
    Of(Held, u32),
    /// A flow around this one is, which this one is isolated from.
    Around,
}

/// A number that nothing else of this process has: a client's, a branch's, a guard's.
pub(super) fn number() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed)
}

fn frames() -> impl Iterator<Item = Arc<Frame>> {
    let innermost = FLOW.try_with(Arc::clone).ok();
    std::iter::successors(innermost, |frame| frame.around.clone())
}

/// Runs `branch` as an owner of its own: it does not enter again what the code around it holds, and what it acquires is
/// not the caller's.
///
/// The code that one task runs is one owner. Branches of it that go on at the same time (`tokio::join!`,
/// `FuturesUnordered`) and acquire guards of one lock would wait for themselves, and get
/// [`Error::is_deadlock`](crate::Error::is_deadlock): run each of them isolated, or as a task. A branch that requests a
/// lock of the code around it gets the same error, as that code waits for the branch.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let fencron = fencron::Client::connect("memory:").await?;
/// let branch = async || {
///     let guard = fencron.lock("document").acquire().await?; // one after the other
///     guard.release().await
/// };
/// let (one, other) = tokio::join!(fencron::isolated(branch()), fencron::isolated(branch()));
/// one.and(other)
/// # }).unwrap();
/// ```
pub async fn isolated<T>(branch: impl Future<Output = T>) -> T {
    let frame = Frame { step: Step::Branch(number()), around: FLOW.try_with(Arc::clone).ok() };
    FLOW.scope(Arc::new(frame), branch).await
}

/// Runs `body` inside of the lock.
pub(super) async fn inside<T>(client: u64, lock: LockName, held: Held, body: impl Future<Output = T>) -> T {
    let frame = Frame { step: Step::Holds { client, lock, held }, around: FLOW.try_with(Arc::clone).ok() };
    FLOW.scope(Arc::new(frame), body).await
}

/// The flow that runs right now.
pub(super) fn current() -> Flow {
    let branch = frames().find_map(|frame| match frame.step {
        Step::Branch(number) => Some(Flow::Branch(number)),
        Step::Holds { .. } => None,
    });
    let outermost = || tokio::task::try_id().map_or_else(|| Flow::Thread(std::thread::current().id()), Flow::Task);
    branch.unwrap_or_else(outermost)
}

/// How the code that runs right now stands to a lock of the client with this number.
pub(super) fn look(client: u64, lock: &LockName) -> Inside {
    let (mut innermost, mut times, mut isolated) = (None, 0, false);
    for frame in frames() {
        match &frame.step {
            Step::Branch(_) => isolated = true,
            Step::Holds { client: other, lock: held_lock, held } if *other == client && held_lock == lock => {
                if isolated && innermost.is_none() {
                    return Inside::Around;
                }
                times += u32::from(!isolated);
                innermost.get_or_insert_with(|| held.clone());
            }
            Step::Holds { .. } => {}
        }
    }
    innermost.map_or(Inside::No, |held| Inside::Of(held, times))
}

/// The guards of one client that have not been dropped, and by which flow each was acquired.
#[derive(Clone, Default)]
pub(super) struct Guards(Arc<Mutex<HashMap<LockName, Vec<Entry>>>>);

struct Entry {
    number: u64,
    flow: Flow,
    held: Held,
}

/// That a guard is there, until this is dropped.
pub(super) struct Noted {
    guards: Guards,
    lock: LockName,
    number: u64,
}

impl Guards {
    fn with<T>(&self, act: impl FnOnce(&mut HashMap<LockName, Vec<Entry>>) -> T) -> T {
        act(&mut self.0.lock().expect("no code panics while it holds this"))
    }

    pub fn note(&self, lock: LockName, held: Held) -> Noted {
        let (number, flow) = (number(), current());
        self.with(|guards| guards.entry(lock.clone()).or_default().push(Entry { number, flow, held }));
        Noted { guards: self.clone(), lock, number }
    }

    /// The fence of a guard of the lock that the running flow has acquired, as far as is known without asking.
    pub fn of_this_flow(&self, lock: &LockName) -> Option<Fence> {
        let flow = current();
        self.with(|guards| {
            let mut entries = guards.get(lock)?.iter().filter(|entry| entry.flow == flow);
            entries.find(|entry| entry.held.known_lost().is_none()).map(|entry| entry.held.fence())
        })
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        self.guards.with(|guards| {
            if let Some(entries) = guards.get_mut(&self.lock) {
                entries.retain(|entry| entry.number != self.number);
                if entries.is_empty() {
                    guards.remove(&self.lock);
                }
            }
        });
    }
}

impl fmt::Debug for Guards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Guards").field(&self.with(|guards| guards.len())).finish()
    }
}

impl fmt::Debug for Noted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Noted").field(&self.lock).finish()
    }
}
