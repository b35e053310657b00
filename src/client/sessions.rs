//! The session of a client: opened when something first needs it, kept, and opened again after it has ended.

use tokio::sync::Mutex;

use super::error::{Error, Said};
use crate::lock::{Candidate, Driver, LockContext, Locks, News, Presence, Timing};
use crate::store::AnyStore;

/// A candidate that never campaigns; `None` once the client was closed. It goes on whenever a call needs a session.
#[derive(Debug)]
pub(super) struct Sessions(Mutex<Option<Candidate<AnyStore>>>);

impl Sessions {
    pub fn new(locks: &Locks<AnyStore>, node: &str, timing: Timing) -> Sessions {
        let presence = Presence { node: node.to_owned(), record: b"{}".to_vec() };
        Sessions(Mutex::new(Some(Candidate::new(locks, presence, timing, Driver::Thread))))
    }

    /// A new owner of locks, under the session that there is, or under a new one.
    pub async fn context(&self) -> Result<LockContext, Error> {
        let mut candidate = self.0.lock().await;
        let Some(candidate) = candidate.as_mut() else { return Err(Said::Closed.into()) };
        let context = candidate.session().map(|session| session.context());
        if let Some(context) = context.filter(|context| context.session_ended().is_none()) {
            return Ok(context);
        }
        loop {
            match candidate.next().await {
                News::Session(session) => return Ok(session.context()),
                News::NoSession(error) => return Err(error.into()),
                _ => {}
            }
        }
    }

    pub async fn close(&self) {
        if let Some(candidate) = self.0.lock().await.take() {
            leave(candidate).await;
        }
    }
}

impl Drop for Sessions {
    fn drop(&mut self) {
        if let (Some(candidate), Ok(runtime)) = (self.0.get_mut().take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(leave(candidate));
        }
    }
}

async fn leave(candidate: Candidate<AnyStore>) {
    if let Err(error) = candidate.leave().await {
        tracing::debug!(%error, "the session of a client runs out by itself");
    }
}
