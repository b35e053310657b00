//! Work that is done only once: a closure under a key, with the records of `fencron once`.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::Client;
use super::error::{Error, Said};
use crate::execute::{Outputs, Stop};
use crate::job::{Job, Outcome, Task};
use crate::jobs::IntoOutcome as _;
use crate::jobs::calls::{self, Calls};
use crate::ledger::{Ledger, OnceKey};
use crate::lock::Driver;
use crate::once::{How, Notice, Reporter, Runner, Settled, Step};
use crate::store::AnyStore;

/// A call of [`Client::once`], with its settings: it is made when it is awaited.
#[derive(Debug)]
#[must_use = "nothing is done until it is awaited"]
pub struct Once<F> {
    client: Client,
    key: String,
    body: F,
    is_idempotent: bool,
    retries_failed: bool,
    wait: Option<Duration>,
}

/// Which call has done it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Done {
    /// This call has.
    Here,
    /// Another call has, before or meanwhile.
    Elsewhere,
}

impl<F> Once<F> {
    pub(super) fn new(client: Client, key: &str, body: F) -> Once<F> {
        Once { client, key: key.to_owned(), body, is_idempotent: false, retries_failed: false, wait: None }
    }

    /// Declares that a repetition does no harm: after a process was lost in the middle of it, the next call does it
    /// again. Without this no call does, and the answer is [`Error::is_unknown`].
    pub fn idempotent(mut self) -> Once<F> {
        self.is_idempotent = true;
        self
    }

    /// Does it again if it has failed before. Without this the answer is the recorded failure.
    pub fn retry_failed(mut self) -> Once<F> {
        self.retries_failed = true;
        self
    }

    /// The longest wait while another process is at work; without this, without limit.
    pub fn wait(mut self, most: Duration) -> Once<F> {
        self.wait = Some(most);
        self
    }
}

impl<F, R, E> IntoFuture for Once<F>
where
    F: FnOnce() -> R + Send + 'static,
    R: Future<Output = Result<(), E>> + Send + 'static,
    E: Display,
{
    type Output = Result<Done, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Result<Done, Error>> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let Once { client, key, body, is_idempotent, retries_failed, wait } = self;
            let key = OnceKey::once(&key)?;
            let checksum = Sha256::digest("a closure").iter().map(|byte| format!("{byte:02x}")).collect();
            let step = Step::of_key(key, checksum, Task::Call, None, is_idempotent);
            // It is dropped as soon as its lock is lost.
            let job = Arc::new(Job { kill_after: Duration::ZERO, ..step.job.as_ref().clone() });
            let body = Mutex::new(Some(body));
            let call = calls::body(move |_| {
                let body = body.lock().expect("no code panics while it holds this").take();
                async move {
                    match body {
                        Some(body) => body().await.into_outcome(),
                        None => Outcome::NotStarted("it was called before".to_owned()),
                    }
                }
            });
            let bodies = BTreeMap::from([(job.name.clone(), call)]);
            let execute = Calls::new(client.locks().clock().clone(), client.timing().killed_after(), bodies);
            let step = Step { job, ..step };
            let here = Arc::new(AtomicBool::new(false));
            let report: Reporter = Arc::new({
                let here = Arc::clone(&here);
                move |notice| {
                    here.fetch_or(matches!(notice, Notice::Ended { here: true, .. }), Ordering::SeqCst);
                }
            });
            let (_stopper, stop) = Stop::channel();
            let how = How { retry_failed: retries_failed, wait, stop };
            match client.runner(execute).run(&[step], how, &report).await? {
                Settled::Done if here.load(Ordering::SeqCst) => Ok(Done::Here),
                Settled::Done => Ok(Done::Elsewhere),
                Settled::Failed(once) => Err(Said::OnceFailed { key: once.name, why: once.reason }.into()),
                Settled::Unknown(once) => Err(Said::OnceUnknown { key: once.name, why: once.reason }.into()),
            }
        })
    }
}

impl Client {
    fn runner(&self, execute: Calls) -> Runner<AnyStore, Calls> {
        let clock = self.locks().clock().clone();
        Runner {
            ledger: Ledger::new(self.store().clone(), self.namespace().clone()),
            locks: self.locks().clone(),
            execute,
            outputs: Outputs::new(clock.clone()),
            clock,
            node: self.node().to_owned(),
            timing: self.timing(),
            driver: Driver::Thread,
        }
    }
}
