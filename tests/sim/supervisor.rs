//! The supervisor of one process, which outlives it: it ends what that had started, and then has its lease revoked.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use fencron::lock::Namespace;
use fencron::store::{Keys, LeaseId, Range, Store};
use tokio::time::{Instant, sleep, sleep_until};

use super::network::{Broken, Link, Machine, Net};
use super::referee::record::{Attempt, Fact, Life};

/// How often the store is asked to revoke a lease, at most, and the pause in between.
const TRIES: u32 = 20;
const AGAIN_AFTER: Duration = Duration::from_millis(200);

/// An attempt that its process leaves behind.
#[derive(Clone, Debug)]
pub struct Left {
    pub attempt: Attempt,
    /// It goes on to its own end.
    pub finishes: bool,
    /// Otherwise it ends so long after it was asked to.
    pub stop_takes: Duration,
    pub ends: Instant,
}

/// What it knows. `None`: it has not seen its process die.
#[derive(Debug, Default)]
pub struct Supervisor(Mutex<Option<Vec<Left>>>);

impl Supervisor {
    /// From here on it sees to what is left.
    pub fn watch(&self) {
        *self.0.lock().unwrap() = Some(Vec::new());
    }

    /// Takes an attempt on that is left behind; answers it where nothing is: then it ends with its process.
    pub fn takes_on(&self, left: &Left) -> Option<Left> {
        match &mut *self.0.lock().unwrap() {
            Some(all) => {
                all.push(left.clone());
                None
            }
            None => Some(left.clone()),
        }
    }
}

/// The end of a process that was seen.
pub struct Death {
    pub net: Arc<Net>,
    pub machine: Machine,
    pub namespace: Namespace,
    pub life: Life,
    pub supervisor: Arc<Supervisor>,
}

impl Death {
    /// Ends what the process has left, and has its leases revoked.
    pub fn see_to(self) {
        let left = self.supervisor.0.lock().unwrap().take().unwrap_or_default();
        let now = Instant::now();
        let end = |left: &Left| if left.finishes { left.ends } else { now + left.stop_takes };
        let mut all: Vec<(Instant, Left)> = left.into_iter().map(|left| (end(&left), left)).collect();
        all.sort_by(|(at, left), (other_at, other)| (at, &left.attempt).cmp(&(other_at, &other.attempt)));
        let stopped = all.iter().filter(|(_, left)| !left.finishes).map(|(at, _)| *at).max();
        let empty_at = stopped.filter(|_| self.net.broken != Broken::RevokesBeforeEmpty);
        let (net, life) = (Arc::clone(&self.net), self.life.clone());
        tokio::spawn(async move {
            for (at, left) in all {
                sleep_until(at).await;
                net.note(Fact::Ended { life: life.clone(), attempt: left.attempt });
            }
        });
        tokio::spawn(async move {
            if let Some(at) = empty_at {
                // After what ends at that instant.
                sleep_until(at + Duration::from_millis(1)).await;
            }
            self.execute_will().await;
        });
    }

    /// Revokes the leases of the process's sessions; those by which locks are kept back after it are none of them.
    pub async fn execute_will(self) {
        let sessions = Keys::prefix(format!("{}sess/", self.namespace.prefix()));
        let page = self.net.store.range(Range::of(sessions)).await.expect("the true store answers");
        let own = self.net.leases_of(&self.life);
        let leases: Vec<LeaseId> =
            page.entries.iter().filter_map(|entry| entry.lease).filter(|it| own.contains(it)).collect();
        if leases.is_empty() {
            return;
        }
        self.net.note(Fact::WillExecuted { life: self.life.clone() });
        let link = Link::new(Arc::clone(&self.net), self.machine.clone(), None);
        for lease in leases {
            for _ in 0..TRIES {
                if link.revoke(lease).await.is_ok() {
                    break;
                }
                sleep(AGAIN_AFTER).await;
            }
        }
    }
}
