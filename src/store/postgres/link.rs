//! Connections: how they are made, shared and given up.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::error::Elapsed;
use tokio::time::timeout;
use tokio_postgres::{AsyncMessage, Client, Error};

use super::config::{CONNECT_WITHIN, PostgresConfig};
use super::watch::{Bell, is_of_another};
use super::{fault, tables};
use crate::store::StoreError;
use crate::time::Clock;

/// How long one question may take, after which its connection is given up: longer than the 5 seconds for which a statement
/// waits for a lock.
pub(super) const ASK_WITHIN: Duration = Duration::from_secs(8);

/// How long it may take until a new connection can be used, whatever its steps take.
const READY_WITHIN: Duration = Duration::from_secs(8);

const _: () = assert!(CONNECT_WITHIN.as_millis() < READY_WITHIN.as_millis(), "there is time for the checks");

/// The database that a store is in.
#[derive(Debug)]
pub(super) struct Place {
    pub config: PostgresConfig,
    /// What it is called in messages.
    pub name: String,
    /// What distinguishes this handle from the others, in what it notifies them of.
    pub handle: String,
    /// Rung when another handle has committed something.
    pub bell: Bell,
    pub clock: Clock,
}

impl Place {
    pub fn new(config: PostgresConfig, clock: Clock) -> Place {
        let handle = uuid::Uuid::new_v4().to_string();
        Place { name: config.to_string(), handle, bell: Bell::default(), config, clock }
    }

    pub fn unavailable(&self, why: impl Into<String>) -> StoreError {
        StoreError::Unavailable { store: self.name.clone(), why: why.into() }
    }

    pub fn unknown(&self, why: impl Into<String>) -> StoreError {
        StoreError::Unknown { store: self.name.clone(), why: why.into() }
    }

    pub fn not_applied(&self, error: &Error) -> StoreError {
        fault::not_applied(&self.name, error)
    }

    /// A connection whose server and tables are what they should be.
    pub async fn connect(&self) -> Result<Connected, StoreError> {
        let making = async {
            let connected = self.connect_as_it_is().await?;
            tables::check(&connected.client, &self.name).await?;
            Ok(connected)
        };
        timeout(READY_WITHIN, making).await.unwrap_or_else(|_| Err(self.unavailable("connecting took too long")))
    }

    async fn connect_as_it_is(&self) -> Result<Connected, StoreError> {
        let refused = |why: String| StoreError::Denied { store: self.name.clone(), why };
        let tls = self.config.tls().map_err(refused)?;
        let mut config = self.config.driver().map_err(|error| StoreError::Refused(error.to_string()))?;
        if let Some(password) = self.config.password_in_file().map_err(refused)? {
            config.password(password);
        }
        let (client, mut connection) = config.connect(tls).await.map_err(|error| self.not_applied(&error))?;
        let (bell, handle) = (self.bell.clone(), self.handle.clone());
        let driver = tokio::spawn(async move {
            // The caller that waits for an answer gets its error.
            while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
                if let AsyncMessage::Notification(notification) = message
                    && is_of_another(&notification, &handle)
                {
                    bell.ring();
                }
            }
        });
        Ok(Connected { client, listens: AtomicBool::new(false), driver })
    }
}

/// A connection. The task that speaks with the server ends with it: a server that does not answer cannot keep it.
#[derive(Debug)]
pub(super) struct Connected {
    pub client: Client,
    /// Whether it was asked to listen.
    pub listens: AtomicBool,
    driver: JoinHandle<()>,
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Why a question has no answer.
pub(super) enum Unanswered {
    Error(Error),
    Late,
}

impl Unanswered {
    pub fn not_applied(self, place: &Place) -> StoreError {
        match self {
            Unanswered::Error(error) => place.not_applied(&error),
            Unanswered::Late => place.unavailable("it did not answer in time"),
        }
    }

    /// Of a write that is one message: what is known of it.
    pub fn of_a_write(self, place: &Place) -> StoreError {
        match self {
            Unanswered::Error(error) => match error.code().map(|code| code.code()) {
                // A server that ends may have committed.
                Some(code) if !code.starts_with("57P") && !code.starts_with("08") => place.not_applied(&error),
                _ => fault::unknown(&place.name, &error),
            },
            Unanswered::Late => place.unknown("it did not answer in time"),
        }
    }
}

/// A connection that is made when it is first needed, and again when it was lost. Questions may be asked of it at the same
/// time: each is one message, and a transaction of its own.
#[derive(Debug)]
pub(super) struct Link {
    pub place: Arc<Place>,
    slot: Mutex<Option<Arc<Connected>>>,
}

impl Link {
    pub fn new(place: Arc<Place>) -> Link {
        Link { place, slot: Mutex::default() }
    }

    pub async fn connected(&self) -> Result<Arc<Connected>, StoreError> {
        let mut slot = self.slot.lock().await;
        if let Some(connected) = &*slot
            && !connected.client.is_closed()
        {
            return Ok(Arc::clone(connected));
        }
        *slot = None;
        Ok(Arc::clone(slot.insert(Arc::new(self.place.connect().await?))))
    }

    /// Gives the connection up where it was lost, or did not answer in time.
    pub async fn judge<T>(
        &self,
        connected: &Arc<Connected>,
        answer: Result<Result<T, Error>, Elapsed>,
    ) -> Result<T, Unanswered> {
        let unanswered = match answer {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => Unanswered::Error(error),
            Err(_) => Unanswered::Late,
        };
        // A standby is left for the one that takes writes; and tables that were made anew have to be looked at.
        let is_answer = matches!(&unanswered, Unanswered::Error(error) if fault::is_an_answer(error));
        let is_elsewhere = matches!(&unanswered, Unanswered::Error(error) if fault::is_elsewhere(error));
        if !is_answer || is_elsewhere {
            self.give_up(connected).await;
        }
        Err(unanswered)
    }

    pub async fn give_up(&self, connected: &Arc<Connected>) {
        let mut slot = self.slot.lock().await;
        if slot.as_ref().is_some_and(|present| Arc::ptr_eq(present, connected)) {
            *slot = None;
        }
    }
}
