//! What is asked of the store beside what is followed.

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use crate::job::{JobName, RunId};
use crate::ledger::{Find, FindAudit, Ledger, RunRow, TermRow};
use crate::lock::{Backoff, LockName, Locks};
use crate::page::changes::{ACTS, Recorded, TERMS};
use crate::page::leadership::Queue;
use crate::page::{TERMS_SHOWN, UNKNOWN_NAMED};
use crate::store::{AnyStore, StoreError};
use crate::time::{Clock, Wall, written};

/// How often the store is asked.
const ASK_EVERY: Duration = Duration::from_secs(2);

/// How long it may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// How many of the last runs of a job can be looked at.
pub(super) const RUNS: usize = 20;

/// What a screen needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// The runs in doubt. They are asked for also where no screen needs more than the board: the answer shows that the
    /// store answers.
    Unknown,
    Leadership,
    /// The last runs of a job, and this one.
    Runs(JobName, Option<RunId>),
}

/// What the store has answered.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// The runs in doubt, and whether there are more; and what is recorded of the last changes.
    Unknown(Vec<RunId>, bool, Recorded),
    /// Who waits to lead, and the last terms.
    Leadership(Queue, Vec<TermRow>),
    /// Runs of a job, the newest first.
    Runs(JobName, Vec<RunRow>),
}

/// What was heard from the store.
#[derive(Debug)]
pub(super) enum Said {
    /// What it answers, and when it was asked.
    Answer(Answer, Wall),
    /// Why it does not answer what it is asked. It is tried again.
    Unanswered(String),
    /// Why it cannot be followed. It is tried again.
    Unheard(String),
    /// It cannot be followed, and trying again would not help.
    Ended(StoreError),
}

/// Asks the store for what is wanted, again and again, until nothing receives the answers any more.
pub(super) async fn ask(
    (ledger, locks): (Ledger<AnyStore>, Locks<AnyStore>),
    clock: Clock,
    mut wants: watch::Receiver<Wanted>,
    say: mpsc::Sender<Said>,
) {
    let mut backoff = Backoff::new();
    loop {
        let wanted = wants.borrow_and_update().clone();
        let asked_at = clock.wall();
        let said = match timeout(ANSWER_WITHIN, answer(&ledger, &locks, wanted)).await {
            Ok(Ok(answer)) => Said::Answer(answer, asked_at),
            Ok(Err(error)) => Said::Unanswered(error.to_string()),
            Err(_) => Said::Unanswered(format!("it has not answered within {}", written(ANSWER_WITHIN))),
        };
        let pause = match &said {
            Said::Answer(..) => {
                backoff.reset();
                ASK_EVERY
            }
            Said::Unanswered(_) | Said::Unheard(_) | Said::Ended(_) => backoff.next(),
        };
        if say.send(said).await.is_err() {
            return;
        }
        tokio::select! {
            () = sleep(pause) => {}
            changed = wants.changed() => if changed.is_err() { return },
        }
    }
}

async fn answer(ledger: &Ledger<AnyStore>, locks: &Locks<AnyStore>, wanted: Wanted) -> Result<Answer, StoreError> {
    match wanted {
        Wanted::Unknown => {
            let unknown = ledger.unknown_runs(UNKNOWN_NAMED);
            let find = FindAudit { limit: ACTS, ..FindAudit::default() };
            let acts = ledger.audit(&find, |_| true);
            let ((runs, more), terms, acts) = tokio::try_join!(unknown, ledger.last_terms(TERMS), acts)?;
            Ok(Answer::Unknown(runs, more, Recorded { terms, acts: acts.rows }))
        }
        Wanted::Leadership => {
            let election = locks.election(LockName::leader());
            let (standing, terms) = tokio::try_join!(election.observe(), ledger.terms(None, TERMS_SHOWN))?;
            Ok(Answer::Leadership(Queue::of(standing), terms))
        }
        Wanted::Runs(job, run) => {
            let find = Find { job: Some(job.clone()), verdict: None, open: true, done: true, limit: RUNS };
            let mut rows = ledger.runs(&find, |_| true).await?;
            // An older one that the user came from.
            if let Some(run) = run.filter(|run| rows.iter().all(|row| row.id() != run)) {
                rows.extend(ledger.run(&run).await?);
            }
            Ok(Answer::Runs(job, rows))
        }
    }
}
