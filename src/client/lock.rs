//! Locks: the handle with its settings, the three verbs, and the guard.

use std::num::NonZeroU32;
use std::ops::Deref;
use std::time::Duration;

use super::error::{Error, Said};
use super::flow::{self, Inside, Noted};
use super::held::Held;
use super::{Client, Deadline, name};
use crate::lock::{Config, FencedLock, HeldBy, LockError, LockGuard, LockName, NotALockName, Reentrancy};
use crate::store::AnyStore;

/// How long a call whose wait is over looks for the holder of the lock, to name it in the error.
const NAME_HOLDER_WITHIN: Duration = Duration::from_secs(1);

/// A lock of one name, with the settings of this handle. See [`Client::lock`].
///
/// Settings are not kept in the store: another handle of the same lock may have others.
#[derive(Clone, Debug)]
#[must_use = "a handle holds nothing: call `with`, `acquire` or `try_acquire`"]
pub struct Lock {
    client: Client,
    name: Result<LockName, NotALockName>,
    config: Config,
    wait: Option<Duration>,
}

/// The result of a body that ran to its end under a lock. See [`Lock::finish`].
#[derive(Debug)]
#[must_use]
pub struct Finished<T> {
    /// What the body answered.
    pub value: T,
    /// How the lock was released after that. [`Error::is_lost`]: the hold had ended before, so that another may have held
    /// the lock while the end of the body ran. [`Error::is_unknown`]: no answer came; it is released in the background, or
    /// with the client's session.
    pub released: Result<(), Error>,
}

impl Lock {
    pub(super) fn new(client: Client, name: &str) -> Lock {
        Lock { client, name: LockName::new(name), config: Config::default(), wait: None }
    }

    /// The longest wait; without this, without limit. Zero: no wait.
    pub fn wait(mut self, most: Duration) -> Lock {
        self.wait = Some(most);
        self
    }

    /// Ends a hold by itself after this time, though its session lives: see [`Config::max_hold`].
    pub fn max_hold(mut self, most: Duration) -> Lock {
        self.config.max_hold = Some(most);
        self
    }

    /// Keeps the lock free for at least so long after the session of a holder has *ended*, by a crash or a cut; not after
    /// a release. See [`Config::lock_delay`].
    pub fn lock_delay(mut self, delay: Duration) -> Lock {
        self.config.lock_delay = Some(delay);
        self
    }

    /// How often one flow may be inside of [`Lock::with`] at once, the first time included; without this, without limit.
    /// 1 (and 0): the lock is not reentrant.
    pub fn reentrant(mut self, limit: u32) -> Lock {
        self.config.reentrancy = NonZeroU32::new(limit).map_or(Reentrancy::No, Reentrancy::Limit);
        self
    }

    /// Runs `body` under the lock, then releases it, and answers what `body` did.
    ///
    /// **Entered again.** Within the body, in the same flow, `with` of the same lock by the same client (or a clone of it)
    /// enters the hold again, without asking the store. A spawned task is another owner and waits, and so is a branch that
    /// [`isolated`](crate::isolated) runs.
    ///
    /// **Cancelled.** As soon as the hold is over or may be, the body is dropped at the `await` that it is at. What it has
    /// spawned or started elsewhere it has to stop by [`Held::signal`].
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// # async fn send(fence: fencron::fence::Fence) -> u64 { fence.get() }
    /// let fencron = fencron::Client::connect("memory:").await?;
    /// let report = fencron.lock("report").with(async |held| send(held.fence()).await).await?;
    /// assert!(report > 0);
    /// # Ok::<(), fencron::Error>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Lock::acquire`], without having called `body`. [`Error::is_lost`] where the hold ended before `body` did, or
    /// before it could be released: the body may have done everything by then, in part or not at all. That the answer to
    /// the release was lost is no error: the value is answered, and the release goes on in the background.
    /// [`Lock::finish`] answers value and release each by itself.
    pub async fn with<T>(&self, body: impl AsyncFnOnce(Held) -> T) -> Result<T, Error> {
        let Finished { value, released } = self.finish(body).await?;
        match released {
            Err(error) if error.is_unknown() => {
                tracing::warn!(%error, "the lock is released in the background, or with its session");
                Ok(value)
            }
            released => released.map(|()| value),
        }
    }

    /// As [`Lock::with`], and answers the value of a body that ran to its end also where the release found that the hold
    /// had ended before.
    ///
    /// # Errors
    ///
    /// As [`Lock::with`], where `body` was not called or did not come to its end.
    pub async fn finish<T>(&self, body: impl AsyncFnOnce(Held) -> T) -> Result<Finished<T>, Error> {
        let (name, client) = (self.name()?, &self.client);
        match flow::look(client.number(), name) {
            Inside::Of(_, times) if times >= self.limit() => {
                Err(Said::LimitReached { name: name.clone(), limit: times }.into())
            }
            Inside::Of(held, _) => {
                if let Some(why) = held.known_lost() {
                    return Err(held.lost(why));
                }
                let inside = flow::inside(client.number(), name.clone(), held.clone(), body(held));
                let value = Box::pin(inside).await;
                Ok(Finished { value, released: Ok(()) })
            }
            Inside::No | Inside::Around => {
                // Known by the frame that it puts around the body, so that a branch beside it just waits.
                let guard = Box::pin(self.acquire()).await?.detached();
                let value = guard.with(body).await?;
                Ok(Finished { value, released: Box::pin(guard.release()).await })
            }
        }
    }

    /// Waits until the lock is held, first come, first served, and answers a guard that releases it when it is dropped.
    ///
    /// It goes on waiting while the store is unavailable, and through an end of the client's session, up to
    /// [`Lock::wait`]. Dropping the future takes the call back, in the background.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// let fencron = fencron::Client::connect("memory:").await?;
    /// let guard = fencron.lock("orders/4711").acquire().await?;
    /// println!("held under fence {}", guard.fence());
    /// guard.release().await // or drop it
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// - [`Error::is_not_acquired`]: another caller held it during the whole wait.
    /// - [`Error::is_deadlock`]: this flow holds it, by a `with` around this call or a guard that it has acquired.
    /// - [`Error::is_unavailable`]: the store did not answer during the whole wait.
    /// - [`Error::is_refused`]: rights, or a store that was restored from a backup.
    /// - [`Error::is_closed`], [`Error::is_invalid`]: the client is closed; the name cannot be one.
    pub async fn acquire(&self) -> Result<Guard, Error> {
        let lock = self.fenced()?;
        self.refuse_to_wait_for_itself(&lock).await?;
        match self.contend(&lock, self.wait).await? {
            Some(guard) => Ok(guard),
            None => {
                let holder = tokio::time::timeout(NAME_HOLDER_WITHIN, lock.holder()).await;
                let holder = holder.ok().and_then(Result::ok).flatten();
                let (name, waited) = (lock.name().clone(), self.wait.unwrap_or_default());
                Err(Said::NotAcquired { name, waited, holder }.into())
            }
        }
    }

    /// As [`Lock::acquire`], but without waiting; or, where [`Lock::wait`] was called, for so long at most. `None` if
    /// it has a holder, this flow included, or waiters.
    ///
    /// # Errors
    ///
    /// As [`Lock::acquire`], without [`Error::is_not_acquired`] and [`Error::is_deadlock`]. A store that does not answer is
    /// waited for for about ten seconds.
    pub async fn try_acquire(&self) -> Result<Option<Guard>, Error> {
        let lock = self.fenced()?;
        if !matches!(flow::look(self.client.number(), lock.name()), Inside::No) {
            return Ok(None);
        }
        self.contend(&lock, Some(self.wait.unwrap_or_default())).await
    }

    /// The holder of the lock now; `None`: it has none.
    pub async fn holder(&self) -> Result<Option<HeldBy>, Error> {
        Ok(self.fenced()?.holder().await?)
    }

    fn name(&self) -> Result<&LockName, Error> {
        name(&self.name)
    }

    fn limit(&self) -> u32 {
        match self.config.reentrancy {
            Reentrancy::Unlimited => u32::MAX,
            Reentrancy::Limit(limit) => limit.get(),
            Reentrancy::No => 1,
        }
    }

    fn fenced(&self) -> Result<FencedLock<AnyStore>, Error> {
        Ok(self.client.locks().fenced(self.name()?.clone(), self.config))
    }

    async fn refuse_to_wait_for_itself(&self, lock: &FencedLock<AnyStore>) -> Result<(), Error> {
        let name = lock.name().clone();
        match flow::look(self.client.number(), &name) {
            Inside::Of(held, _) if held.known_lost().is_none() => return Err(Said::HeldAround { name }.into()),
            Inside::Around => return Err(Said::HeldAround { name }.into()),
            Inside::Of(..) | Inside::No => {}
        }
        let Some(fence) = self.client.guards().of_this_flow(&name) else { return Ok(()) };
        // An operator may have revoked the guard's lock, which no code has noticed yet.
        match lock.holder().await {
            Ok(Some(holder)) if holder.fence == fence => Err(Said::HeldByGuard { name, fence }.into()),
            _ => Ok(()),
        }
    }

    /// `None`: not within `wait`.
    async fn contend(&self, lock: &FencedLock<AnyStore>, wait: Option<Duration>) -> Result<Option<Guard>, Error> {
        let mut deadline = Deadline::after(self.client.locks().clock(), wait);
        loop {
            let context = self.client.context(&deadline).await?;
            match Box::pin(lock.guard_owned(context, deadline.left())).await {
                Ok(guard) => return Ok(guard.map(|guard| Guard::new(&self.client, lock.name().clone(), guard))),
                // The next session, or what is left of this one, may still come in time.
                Err(LockError::SessionLost { .. }) if deadline.pause().await => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// A lock that is held until this is dropped or released. It can be kept, moved to another task, or sent to another thread;
/// [`Held`], to which it dereferences, has the fence, the signal and transactions.
///
/// Dropping it cannot wait for the store: the release is sent in the background, by the thread that keeps the client's
/// session alive, in whatever runtime the guard is dropped or outside of one, and no error is reported. If you must know
/// that it succeeded, call [`Guard::release`].
#[derive(Debug)]
#[must_use = "dropped, it releases the lock at once"]
pub struct Guard {
    held: Held,
    guard: LockGuard<'static, AnyStore>,
    /// That this flow holds the lock; `None`: another may.
    noted: Option<Noted>,
    client: Client,
}

impl Deref for Guard {
    type Target = Held;

    fn deref(&self) -> &Held {
        &self.held
    }
}

impl Guard {
    fn new(client: &Client, lock: LockName, guard: LockGuard<'static, AnyStore>) -> Guard {
        let (node, store, locks) = (client.node_shared(), client.store().clone(), client.locks().clone());
        let held = Held::new((lock.clone(), guard.hold().clone()), node, (store, locks), guard.signals());
        let noted = Some(client.guards().note(lock, held.clone()));
        Guard { held, guard, noted, client: client.clone() }
    }

    /// Runs `body` under this hold, as [`Lock::with`] does: the lock can be entered again in it, and it is dropped as soon
    /// as the hold is over or may be. The guard goes on holding the lock afterwards.
    ///
    /// # Errors
    ///
    /// [`Error::is_lost`] where the hold ended before `body` did.
    pub async fn with<T>(&self, body: impl AsyncFnOnce(Held) -> T) -> Result<T, Error> {
        let (held, signal) = (&self.held, self.held.signal());
        let body = flow::inside(self.client.number(), held.name().clone(), held.clone(), body(held.clone()));
        tokio::select! {
            biased;
            why = signal.lost() => Err(held.lost(why)),
            // On the heap, as bodies are inside of each other.
            value = Box::pin(body) => Ok(value),
        }
    }

    /// Releases the lock, and answers whether that succeeded. The next waiter holds it at once.
    ///
    /// # Errors
    ///
    /// [`Error::is_lost`] where the hold had ended before: another may have held the lock since. [`Error::is_unknown`]
    /// where no answer came in about ten seconds: the release goes on in the background.
    pub async fn release(self) -> Result<(), Error> {
        let Guard { held, guard, noted, client } = self;
        let released = guard.unlock().await;
        drop((held, noted, client));
        Ok(released?)
    }

    /// Detaches the guard from its flow, before it is given to another task: the flow that acquired it may then wait
    /// for the lock, rather than get [`Error::is_deadlock`].
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// let fencron = fencron::Client::connect("memory:").await?;
    /// let lock = fencron.lock("printer");
    /// let guard = lock.acquire().await?.detached();
    /// tokio::spawn(async move { drop(guard) });
    /// lock.acquire().await?.release().await // waits for that task
    /// # }).unwrap();
    /// ```
    pub fn detached(mut self) -> Guard {
        self.noted = None;
        self
    }
}
