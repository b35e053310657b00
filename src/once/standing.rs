//! How migrations stand: what the ledger has recorded of them, beside what the file has.

use super::{Step, differences};
use crate::ledger::{Ledger, Once, OnceKey, OnceState, Recorded};
use crate::store::{Store, StoreError};

/// A migration, by what the file and the ledger know of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    pub id: String,
    pub state: State,
    /// Of what was made; of what the file has, where it was not begun.
    pub checksum: String,
    /// What is recorded; `None`: it was not begun.
    pub once: Option<Once>,
    /// How it differs from what was made; `None`: it does not, or the file is not known.
    pub difference: Option<String>,
}

/// How far a migration came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It was not begun, or has to be made again.
    Pending,
    /// Claimed by a process that is there.
    Running,
    /// Claimed by a process that is gone.
    Lost,
    Done,
    Failed,
    Unknown,
}

impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            State::Pending => "pending",
            State::Running => "running",
            State::Lost => "lost",
            State::Done => "done",
            State::Failed => "failed",
            State::Unknown => "unknown",
        }
    }

    async fn of<S: Store>(ledger: &Ledger<S>, once: &Once) -> Result<State, StoreError> {
        Ok(match once.state {
            OnceState::Pending => State::Pending,
            OnceState::Claimed if ledger.may_be_under_way(once).await? => State::Running,
            OnceState::Claimed => State::Lost,
            OnceState::Done => State::Done,
            OnceState::Failed => State::Failed,
            OnceState::Unknown => State::Unknown,
        })
    }
}

/// How the migrations stand: those that are recorded, in the order in which they came to be so, the last `most` of them;
/// and behind them those of the file that were not begun. `steps`: what the file has; `None`: no file is known. With
/// whether some were left out.
///
/// # Errors
///
/// The store's.
pub async fn standings<S: Store>(
    ledger: &Ledger<S>,
    steps: Option<&[Step]>,
    most: usize,
) -> Result<(Vec<Standing>, bool), StoreError> {
    let (records, _) = ledger.once(&OnceKey::migration("")).await?;
    let differences = steps.map(|steps| differences(steps, &records)).unwrap_or_default();
    let difference = |id: &str| differences.iter().find(|found| found.id() == id).map(ToString::to_string);
    let left_out = records.len().saturating_sub(most);
    let mut standings = Vec::new();
    for Recorded { once, .. } in records.iter().skip(left_out) {
        standings.push(Standing {
            id: once.name.clone(),
            state: State::of(ledger, once).await?,
            checksum: once.checksum.clone(),
            once: Some(once.clone()),
            difference: difference(&once.name),
        });
    }
    let is_new = |step: &&Step| !records.iter().any(|recorded| recorded.once.name == step.key.name());
    standings.extend(steps.unwrap_or_default().iter().filter(is_new).map(|step| Standing {
        id: step.key.name().to_owned(),
        state: State::Pending,
        checksum: step.checksum.clone(),
        once: None,
        difference: difference(step.key.name()),
    }));
    Ok((standings, left_out > 0))
}
