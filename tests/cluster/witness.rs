//! Watches the store from outside, over a way that no scenario disturbs, and turns its history into facts.

use std::collections::BTreeMap;
use std::time::Duration;

use fencron::store::{AnyStore, Change, Keys, Revision, Store, Watched};
use fencron::time::{Boot, Clock};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::referee::record::{Fact, Millis};
use super::referee::witness::fact;
use super::support::soon;

/// What was seen so far.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub facts: Vec<(Millis, Fact)>,
    /// The sessions that there are, by their keys: what their nodes say of themselves.
    pub sessions: BTreeMap<String, Value>,
    /// Why nothing more is seen.
    pub broken: Option<String>,
}

impl History {
    /// Who leads, and under which fence.
    pub fn leader(&self) -> Option<(&str, u64)> {
        self.facts.iter().rev().find_map(|(_, fact)| match fact {
            Fact::Owner { node, fence, .. } => Some(Some((node.as_str(), *fence))),
            Fact::Vacant { .. } => Some(None),
            _ => None,
        })?
    }

    /// The batches of claims that were made under `fence`.
    pub fn claims_under(&self, fence: u64) -> usize {
        self.facts.iter().filter(|(_, fact)| matches!(fact, Fact::Decided { fence: of, .. } if *of == fence)).count()
    }

    /// The verdict on a run.
    pub fn verdict(&self, run: &str) -> Option<&str> {
        self.facts.iter().rev().find_map(|(_, fact)| match fact {
            Fact::Done { run: done, verdict, .. } if done == run => Some(verdict.as_str()),
            _ => None,
        })
    }

    /// The session of the node with this name, if it has one.
    pub fn session(&self, node: &str) -> Option<(&str, &Value)> {
        let found = self.sessions.iter().find(|(_, value)| value.to_string().contains(&format!("\"{node}\"")));
        found.map(|(key, value)| (key.as_str(), value))
    }
}

/// The watch itself.
pub struct Witness {
    pub history: watch::Receiver<History>,
    watching: JoinHandle<()>,
}

impl Witness {
    /// Watches everything below `prefix`, from the store's first revision.
    pub fn start(store: AnyStore, prefix: String, clock: Clock, began: Boot) -> Witness {
        let (seen, history) = watch::channel(History::default());
        let watching = tokio::spawn(watch_on(store, prefix, clock, began, seen));
        Witness { history, watching }
    }

    /// Waits until the history shows it.
    pub async fn until<T>(&self, what: &str, look: impl Fn(&History) -> Option<T>) -> T {
        let mut history = self.history.clone();
        soon(what, async {
            loop {
                let found = look(&history.borrow_and_update());
                if let Some(found) = found {
                    return found;
                }
                history.changed().await.expect("the witness watches as long as the scene lasts");
            }
        })
        .await
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

async fn watch_on(store: AnyStore, prefix: String, clock: Clock, began: Boot, seen: watch::Sender<History>) {
    const PAUSE: Duration = Duration::from_millis(50);
    let mut from = Revision(1);
    loop {
        let Ok(mut watch) = store.watch(Keys::prefix(prefix.as_str()), from).await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        while let Some(watched) = watch.next().await {
            let at = clock.boot().since(began).as_millis() as Millis;
            match watched {
                Watched::Changes(changes) => {
                    from = changes.iter().map(|change| change.revision().next()).max().unwrap_or(from);
                    seen.send_modify(|history| changes.iter().for_each(|change| history.take(&prefix, change, at)));
                }
                Watched::Compacted(upto) => {
                    let why = format!("the changes up to {upto} are gone: the record has a hole");
                    return seen.send_modify(|history| history.broken = Some(why));
                }
            }
        }
    }
}

impl History {
    fn take(&mut self, prefix: &str, change: &Change, at: Millis) {
        if let Some(fact) = fact(prefix, change) {
            self.facts.push((at, fact));
        }
        if !change.key().starts_with(&format!("{prefix}sess/")) {
            return;
        }
        match change {
            Change::Put(entry) => {
                let value = serde_json::from_slice(&entry.value).unwrap_or(Value::Null);
                self.sessions.insert(entry.key.clone(), value);
            }
            Change::Deleted { key, .. } => drop(self.sessions.remove(key)),
        }
    }
}
