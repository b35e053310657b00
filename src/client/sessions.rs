//! The session of a client: opened when something first needs it, kept, and opened again after it has ended.

use std::sync::Arc;

use tokio::sync::Mutex;

use super::error::{Error, Said};
use crate::lock::{Driver, LockContext, Locks, Presence, Reopening, Session, Timing};
use crate::store::AnyStore;

#[derive(Debug)]
pub(super) struct Sessions {
    locks: Locks<AnyStore>,
    node: Arc<str>,
    timing: Timing,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    session: Option<Session<AnyStore>>,
    reopening: Reopening,
    is_closed: bool,
}

impl Sessions {
    pub fn new(locks: Locks<AnyStore>, node: Arc<str>, timing: Timing) -> Sessions {
        let state = State { session: None, reopening: Reopening::new(), is_closed: false };
        Sessions { locks, node, timing, state: Mutex::new(state) }
    }

    /// A new owner of locks, under the session that there is, or under a new one.
    pub async fn context(&self) -> Result<LockContext, Error> {
        let mut state = self.state.lock().await;
        if state.is_closed {
            return Err(Said::Closed.into());
        }
        if let Some(context) = state.session.as_ref().map(Session::context)
            && context.session_ended().is_none()
        {
            return Ok(context);
        }
        state.session = None;
        let pause = state.reopening.pause(self.locks.clock().boot());
        tokio::time::sleep(pause).await;
        let presence = Presence { node: self.node.as_ref().to_owned(), record: b"{}".to_vec() };
        let session = Box::pin(self.locks.open_session(presence, self.timing, Driver::Thread)).await?;
        Ok(state.session.insert(session).context())
    }

    pub async fn close(&self) {
        let mut state = self.state.lock().await;
        state.is_closed = true;
        if let Some(session) = state.session.take()
            && let Err(error) = session.close().await
        {
            tracing::debug!(%error, "the session of a client that was closed runs out by itself");
        }
    }
}

impl Drop for Sessions {
    fn drop(&mut self) {
        let (Some(session), Ok(runtime)) = (self.state.get_mut().session.take(), tokio::runtime::Handle::try_current())
        else {
            return;
        };
        runtime.spawn(async move {
            if let Err(error) = session.close().await {
                tracing::debug!(%error, "the session of a client that was dropped runs out by itself");
            }
        });
    }
}
