//! A session for a whole program: opened when it is first needed, kept alive, and opened again after it has ended.

use tokio::runtime::Handle;
use tokio::sync::Mutex;

use super::Locks;
use super::candidate::{Candidate, News};
use super::context::LockContext;
use super::lease::Timing;
use super::session::{Driver, Presence, SessionError};
use crate::store::Store;

/// One session at a time, for as long as the program runs. [`Client`](crate::Client) acquires its locks under one; it is
/// public for programs that bring a [`Store`] of their own.
///
/// Nothing is opened before the first [`KeptSession::context`], and a session that has ended is followed by another at the
/// next. Dropping it closes the session in the background of the runtime that it is dropped in; outside of one, the session
/// runs out, as after a crash. [`KeptSession::close`] waits for the end.
#[derive(Debug)]
pub struct KeptSession<S: Store>(Mutex<Option<Candidate<S>>>);

impl<S: Store> KeptSession<S> {
    /// A session of `locks`, to be opened as `presence` says, and kept alive by `driver`.
    pub fn new(locks: &Locks<S>, presence: Presence, timing: Timing, driver: Driver) -> KeptSession<S> {
        // A candidate that campaigns for nothing. It goes on whenever a context is needed.
        KeptSession(Mutex::new(Some(Candidate::new(locks, presence, timing, driver))))
    }

    /// A new owner of locks, under the session that there is, or under a new one. `None`: it was closed.
    ///
    /// # Errors
    ///
    /// Where no session could be opened this time. Another call tries again, after a pause that grows.
    pub async fn context(&self) -> Result<Option<LockContext>, SessionError> {
        let mut candidate = self.0.lock().await;
        let Some(candidate) = candidate.as_mut() else { return Ok(None) };
        let context = candidate.session().map(|session| session.context());
        if let Some(context) = context.filter(|context| context.session_ended().is_none()) {
            return Ok(Some(context));
        }
        loop {
            match candidate.next().await {
                News::Session(session) => return Ok(Some(session.context())),
                News::NoSession(error) => return Err(error),
                _ => {}
            }
        }
    }

    /// Ends the session, and what is held under it: there is no other after this. Where the store does not answer, it ends
    /// by itself, within the TTL.
    pub async fn close(&self) {
        if let Some(candidate) = self.0.lock().await.take() {
            leave(candidate).await;
        }
    }
}

impl<S: Store> Drop for KeptSession<S> {
    fn drop(&mut self) {
        if let (Some(candidate), Ok(runtime)) = (self.0.get_mut().take(), Handle::try_current()) {
            runtime.spawn(leave(candidate));
        }
    }
}

async fn leave<S: Store>(candidate: Candidate<S>) {
    if let Err(error) = candidate.leave().await {
        tracing::debug!(%error, "the session runs out by itself");
    }
}
