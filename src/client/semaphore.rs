//! Semaphores: a limited number of holders at the same time.

use std::sync::Arc;
use std::time::Duration;

use super::error::{Error, Said};
use super::{Client, Deadline, name};
use crate::lock::{self, HoldSignal, LockName, NotALockName, Permits, SemaphoreError, SemaphoreState};
use crate::store::AnyStore;

/// A number of permits that the programs of a namespace share, with the settings of this handle. See
/// [`Client::semaphore`].
#[derive(Clone, Debug)]
#[must_use = "a handle holds nothing: call `with`, `acquire` or `try_acquire`"]
pub struct Semaphore {
    client: Client,
    name: Result<LockName, NotALockName>,
    initially: u32,
    take: u32,
    wait: Option<Duration>,
}

impl Semaphore {
    pub(super) fn new(client: Client, name: &str, initially: u32) -> Semaphore {
        Semaphore { client, name: LockName::new(name), initially, take: 1, wait: None }
    }

    /// How many permits to acquire at once; without this, one.
    pub fn take(mut self, permits: u32) -> Semaphore {
        self.take = permits;
        self
    }

    /// The longest wait; without this, without limit. Zero: no wait.
    pub fn wait(mut self, most: Duration) -> Semaphore {
        self.wait = Some(most);
        self
    }

    /// Runs `body` while the permits are held, then gives them back, and answers what `body` did. As soon as they are
    /// lost or may be, the body is dropped at the `await` that it is at; the signal that it receives reports the same
    /// to what it has started elsewhere.
    ///
    /// A semaphore is not reentrant: a `with` in the body asks for permits of its own.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// # async fn export() -> u32 { 7 }
    /// let fencron = fencron::Client::connect("memory:").await?;
    /// assert_eq!(fencron.semaphore("exports", 2).with(async |_| export().await).await?, 7);
    /// # Ok::<(), fencron::Error>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Semaphore::acquire`], without having called `body`. [`Error::is_lost`] where the permits were lost before
    /// `body` came to its end.
    pub async fn with<T>(&self, body: impl AsyncFnOnce(Arc<HoldSignal>) -> T) -> Result<T, Error> {
        let permits = Box::pin(self.acquire()).await?;
        let signal = Arc::new(permits.signal());
        let value = tokio::select! {
            biased;
            why = signal.lost() => {
                let name = name(&self.name)?.clone();
                return Err(Said::PermitsLost { name, why }.into());
            }
            value = Box::pin(body(Arc::clone(&signal))) => value,
        };
        if let Err(error) = Box::pin(permits.release()).await {
            tracing::warn!(%error, "the permits are given back in the background, or with their session");
        }
        Ok(value)
    }

    /// Waits until the permits are held, first come, first served. They are given back when what this answers is
    /// dropped or [released](Permits::release). It goes on waiting while the store is unavailable, up to
    /// [`Semaphore::wait`].
    ///
    /// # Errors
    ///
    /// As [`Lock::acquire`](super::Lock::acquire), without [`Error::is_deadlock`]; [`Error::is_invalid`] also where more
    /// permits are asked for than there are.
    pub async fn acquire(&self) -> Result<Permits<AnyStore>, Error> {
        let semaphore = self.shared()?;
        match self.contend(&semaphore, self.wait).await? {
            Some(permits) => Ok(permits),
            None => {
                let (name, waited) = (semaphore.name().clone(), self.wait.unwrap_or_default());
                Err(Said::NotAcquired { name, waited, holder: None }.into())
            }
        }
    }

    /// As [`Semaphore::acquire`], but without waiting; or, where [`Semaphore::wait`] was called, for so long at most.
    /// `None` where there are not so many free.
    ///
    /// # Errors
    ///
    /// As [`Semaphore::acquire`], without [`Error::is_not_acquired`].
    pub async fn try_acquire(&self) -> Result<Option<Permits<AnyStore>>, Error> {
        self.contend(&self.shared()?, Some(self.wait.unwrap_or_default())).await
    }

    /// The holders and the waiters, now.
    pub async fn state(&self) -> Result<SemaphoreState, Error> {
        Ok(self.shared()?.state().await?)
    }

    /// Changes how many permits there are, for all callers and from now on: see
    /// [`lock::Semaphore::set_permits`](crate::lock::Semaphore::set_permits).
    pub async fn set_permits(&self, permits: u32) -> Result<(), Error> {
        Ok(self.shared()?.set_permits(permits).await?)
    }

    fn shared(&self) -> Result<lock::Semaphore<AnyStore>, Error> {
        Ok(self.client.locks().semaphore(name(&self.name)?.clone(), self.initially))
    }

    async fn contend(
        &self,
        semaphore: &lock::Semaphore<AnyStore>,
        wait: Option<Duration>,
    ) -> Result<Option<Permits<AnyStore>>, Error> {
        let mut deadline = Deadline::after(self.client.locks().clock(), wait);
        loop {
            let context = self.client.context(&deadline).await?;
            match Box::pin(semaphore.acquire_as(&context, self.take, deadline.left())).await {
                Ok(permits) => return Ok(permits),
                Err(SemaphoreError::SessionLost { .. }) if deadline.pause().await => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
