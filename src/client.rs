//! The library in a few lines: a client of a store, with locks, semaphores, elections, jobs, and work that is done once.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! # async fn send(fence: fencron::fence::Fence) {}
//! use fencron::Client;
//!
//! let fencron = Client::connect("memory:").await?; // or etcd://10.0.0.1:2379, or sqlite:PATH
//! fencron.lock("report").with(async |held| send(held.fence()).await).await?;
//! let guard = fencron.lock("orders/4711").acquire().await?; // held until it is dropped
//! # drop(guard);
//! # fencron.close().await;
//! # Ok::<(), fencron::Error>(()) }).unwrap();
//! ```
//!
//! A client keeps one **session**: it is opened when something first needs it, kept alive by a thread of its own, and
//! opened again after it has ended. What was held under a session that ended is lost, and says so by its signal; the next
//! call has the next session.
//!
//! The layers beneath are public for callers that need more: [`crate::lock`] has sessions, contexts and elections,
//! [`crate::store`] the stores. `docs/library.md` describes the library on one page, and `docs/locks.md` its promises.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::elected::Elected;
use crate::fence::DEFAULT_NAMESPACE;
use crate::lock::{
    Backoff, Driver, KeptSession, LockContext, LockName, Locks, Namespace, NotALockName, Presence, Seen, SeenFile,
    Timing,
};
use crate::store::{AnyStore, StoreError, StoreUrl};
use crate::time::{Boot, Clock};

mod error;
mod flow;
mod held;
#[cfg(feature = "jobs")]
mod jobs;
mod lock;
#[cfg(feature = "jobs")]
mod once;
mod semaphore;

use error::Said;
use flow::Guards;

pub use error::Error;
pub use flow::isolated;
pub use held::Held;
pub use lock::{Finished, Guard, Lock};
#[cfg(feature = "jobs")]
pub use once::{Done, Once};
pub use semaphore::Semaphore;

/// How long a holder that has crashed keeps others out, by default.
pub const DEFAULT_TTL: Duration = Duration::from_secs(10);

/// How long a call that does not wait for its turn waits for a session.
const SESSION_WITHIN: Duration = Duration::from_secs(10);

/// One program's access to the locks of one namespace of one store. Cheap to clone: clones share session and flows.
///
/// When the last clone is dropped, and the last guard with it, the session is closed in the background; where the runtime
/// shuts down first, it runs out, as after a crash. [`Client::close`] waits for the end of it.
#[derive(Clone, Debug)]
pub struct Client(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Distinguishes the clients of a process as owners.
    number: u64,
    store: AnyStore,
    locks: Locks<AnyStore>,
    node: Arc<str>,
    timing: Timing,
    session: KeptSession<AnyStore>,
    guards: Guards,
    #[cfg(feature = "jobs")]
    runs_jobs: Arc<std::sync::atomic::AtomicBool>,
}

impl Client {
    /// A client of the store that `url` names: `etcd://HOST:PORT[,HOST:PORT…]`, `etcds://…` (TLS), `sqlite:PATH` or
    /// `memory:`, as the program `fencron` takes them by `--store`. All else is as [`Client::builder`] has it.
    ///
    /// # Errors
    ///
    /// [`Error::is_invalid`] where the URL is none, [`Error::is_unavailable`] where the store does not answer,
    /// [`Error::is_refused`] where it denies access or holds something else. No password is in the message.
    pub async fn connect(url: &str) -> Result<Client, Error> {
        Client::builder().connect(url).await
    }

    /// A builder for the settings of a client, which begins with the defaults.
    pub fn builder() -> Builder {
        Builder {
            namespace: DEFAULT_NAMESPACE.to_owned(),
            node: None,
            ttl: DEFAULT_TTL,
            remember_in: None,
            clock: None,
            is_eager: false,
        }
    }

    /// The lock of this name: 1 to 200 bytes of text. A name that is none is an error of the first verb.
    pub fn lock(&self, name: &str) -> Lock {
        Lock::new(self.clone(), name)
    }

    /// The semaphore of this name, with `permits` permits if it is used for the first time. After that the store keeps
    /// the number, and [`Semaphore::set_permits`] changes it.
    pub fn semaphore(&self, name: &str, permits: u32) -> Semaphore {
        Semaphore::new(self.clone(), name, permits)
    }

    /// Stands for election under this name, in the background, until [`Elected::stop`]: [`Elected`] has the terms of
    /// this instance, and jobs of which each occurrence is done once. Every call is a candidacy of its own, in a
    /// session of its own.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// let fencron = fencron::Client::connect("memory:").await?;
    /// let elected = fencron.elected("reports")?;
    /// let mut terms = elected.terms();
    /// let led = terms.wait_for(Option::is_some).await.expect("it stands until it is stopped").clone();
    /// println!("elected under fence {}", led.expect("waited for").term.fence());
    /// elected.stop(std::time::Duration::from_secs(30)).await;
    /// # Ok::<(), fencron::Error>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::is_invalid`] where the name is empty or longer than 200 bytes.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn elected(&self, name: &str) -> Result<Elected<AnyStore>, Error> {
        Ok(Elected::start(&self.0.locks, LockName::new(name)?, &self.0.node, self.0.timing))
    }

    /// Does `body` only once under `key`, in the whole namespace: of all calls one does it, and the others wait for its
    /// end. What was done is recorded as `fencron once` records it, and steered by `fencron once KEY --resolve`,
    /// `--forget`.
    ///
    /// It is claimed before `body` is called. So when a program is lost in the middle, it is unknown whether it was
    /// done: the answer is [`Error::is_unknown`] until a person resolves it. If a repetition is harmless
    /// ([`Once::idempotent`]), `body` is called again instead. When its lock is lost, `body` is dropped at the `await`
    /// that it is at.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// use fencron::client::Done;
    ///
    /// let fencron = fencron::Client::connect("memory:").await?;
    /// let seed = async || Ok::<(), std::io::Error>(()); // the work
    /// assert_eq!(fencron.once("2026-11-seed", seed).await?, Done::Here);
    /// assert_eq!(fencron.once("2026-11-seed", seed).await?, Done::Elsewhere);
    /// # Ok::<(), fencron::Error>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// - [`Error::is_failed`]: `body` has failed, here or elsewhere.
    /// - [`Error::is_unknown`]: a program was lost in the middle of it.
    /// - [`Error::is_lost`]: this program was lost; the next caller finds out whether it was done.
    /// - [`Error::is_not_acquired`]: another process was at work for longer than [`Once::wait`].
    /// - [`Error::is_invalid`]: the key is not 1 to 195 bytes of text.
    #[cfg(feature = "jobs")]
    pub fn once<F>(&self, key: &str, body: F) -> Once<F> {
        Once::new(self.clone(), key, body)
    }

    /// Ends the session, so that no other client has to wait for it to run out: all that was held under it is over. The
    /// client and its clones acquire nothing any more ([`Error::is_closed`]). Where the store does not answer, the
    /// session ends by itself, within the TTL.
    pub async fn close(&self) {
        self.0.session.close().await;
    }

    /// The store, for the keys of the program itself (outside of `/fencron/`): see [`crate::store::Store`].
    pub fn store(&self) -> &AnyStore {
        &self.0.store
    }

    /// The locks beneath: sessions, contexts and elections as they are.
    pub fn locks(&self) -> &Locks<AnyStore> {
        &self.0.locks
    }

    /// The namespace.
    pub fn namespace(&self) -> &Namespace {
        self.0.locks.namespace()
    }

    /// The name by which others see this program.
    pub fn node(&self) -> &str {
        &self.0.node
    }

    /// The TTL of its sessions, and what follows from it.
    pub fn timing(&self) -> Timing {
        self.0.timing
    }

    fn number(&self) -> u64 {
        self.0.number
    }

    fn node_shared(&self) -> Arc<str> {
        Arc::clone(&self.0.node)
    }

    fn guards(&self) -> &Guards {
        &self.0.guards
    }

    async fn open_context(&self) -> Result<LockContext, Error> {
        self.0.session.context().await?.ok_or_else(|| Said::Closed.into())
    }

    /// A new owner of locks; it goes on trying while the store is unavailable.
    async fn context(&self, deadline: &Deadline) -> Result<LockContext, Error> {
        let mut last = None;
        let opened = async {
            let mut backoff = Backoff::new();
            loop {
                match self.open_context().await {
                    Err(error) if error.is_unavailable() || error.is_unknown() => last = Some(error),
                    context => return context,
                }
                backoff.wait().await;
            }
        };
        tokio::select! {
            biased;
            context = opened => context,
            () = deadline.clock.reached(deadline.session_by) => Err(last.unwrap_or_else(no_session)),
        }
    }
}

fn no_session() -> Error {
    let why = "no session could be opened in time".to_owned();
    StoreError::Unavailable { store: "the store".to_owned(), why }.into()
}

fn name(name: &Result<LockName, NotALockName>) -> Result<&LockName, Error> {
    name.as_ref().map_err(|error| error.clone().into())
}

/// The settings of a client. See [`Client::builder`].
///
/// ```
/// # use std::time::Duration;
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use fencron::Client;
///
/// let fencron = Client::builder().namespace("shop").node("web-1").ttl(Duration::from_secs(5)).connect("memory:").await?;
/// assert_eq!((fencron.namespace().as_str(), fencron.node()), ("shop", "web-1"));
/// # Ok::<(), fencron::Error>(()) }).unwrap();
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is connected until `connect` or `over`"]
pub struct Builder {
    namespace: String,
    node: Option<String>,
    ttl: Duration,
    remember_in: Option<PathBuf>,
    clock: Option<Clock>,
    is_eager: bool,
}

impl Builder {
    /// The namespace: programs of one namespace share locks. Without this it is `default`, as it is for the program
    /// `fencron` in a store that has no other.
    pub fn namespace(mut self, namespace: &str) -> Builder {
        self.namespace = namespace.to_owned();
        self
    }

    /// The name by which others see this program; without this, host name and process id.
    pub fn node(mut self, name: &str) -> Builder {
        self.node = Some(name.to_owned());
        self
    }

    /// How long a hold outlives a program that has crashed, hangs or is cut off; without this, 10 seconds. After a
    /// short one another holder follows sooner, but it is also lost more easily.
    pub fn ttl(mut self, ttl: Duration) -> Builder {
        self.ttl = ttl;
        self
    }

    /// Remembers in this directory what was seen of the store, beyond the end of the process, so that a store which was
    /// restored from a backup is refused rather than believed: by then it could give a fence out twice. Every grant is
    /// saved before it is handed out, which costs a write to this disk. `fencron --state-dir` takes the same directory.
    ///
    /// Without this, it is remembered for as long as the process lives.
    pub fn remember_in(mut self, directory: impl Into<PathBuf>) -> Builder {
        self.remember_in = Some(directory.into());
        self
    }

    /// The clock by which sessions and the leases of embedded stores are timed; without this, the machine's. A store that
    /// was opened before has to have the same.
    pub fn clock(mut self, clock: Clock) -> Builder {
        self.clock = Some(clock);
        self
    }

    /// Opens the session at once, so that errors show when the program starts, and the first call need not wait for it.
    pub fn eager(mut self) -> Builder {
        self.is_eager = true;
        self
    }

    /// Connects to the store that `url` names.
    ///
    /// # Errors
    ///
    /// As [`Client::connect`]; [`Error::is_invalid`] also where namespace or TTL cannot be used, and
    /// [`Error::is_refused`] where what is remembered cannot be read.
    pub async fn connect(self, url: &str) -> Result<Client, Error> {
        let (url, clock) = (url.parse::<StoreUrl>()?, self.clock.clone().unwrap_or_else(Clock::system));
        // What is wrong with the rest is said before anything is opened.
        let (namespace, timing) = (Namespace::new(&self.namespace)?, Timing::from_ttl(self.ttl)?);
        let store = Box::pin(AnyStore::open(&url, clock.clone())).await?;
        let locks = |seen| Locks::new(store.clone(), clock, namespace.clone(), seen);
        let locks = match &self.remember_in {
            None => locks(Seen::default()),
            Some(directory) => {
                let file = SeenFile::new(directory, &url.identity(), &namespace);
                locks(file.load()?).kept_in(file)
            }
        };
        self.finish(store, locks, timing).await
    }

    /// A client of a store that is open already: one with an [`EtcdConfig`](crate::store::etcd::EtcdConfig) of its own, or
    /// one that several clients of a process share.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// use fencron::Client;
    /// use fencron::store::memory::MemoryStore;
    /// use fencron::time::Clock;
    ///
    /// let store = MemoryStore::new(Clock::system());
    /// let one = Client::builder().node("one").over(store.clone()).await?;
    /// let other = Client::builder().node("other").over(store).await?;
    /// let guard = one.lock("door").acquire().await?;
    /// assert!(other.lock("door").try_acquire().await?.is_none());
    /// # guard.release().await }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::is_invalid`] where namespace or TTL cannot be used, or [`Builder::remember_in`] was called: what is
    /// remembered belongs to the store of a URL.
    pub async fn over(self, store: impl Into<AnyStore>) -> Result<Client, Error> {
        if self.remember_in.is_some() {
            let why =
                "`remember_in` is for a store that is named by its URL: use `connect`, or `Locks::kept_in` beneath";
            return Err(Said::Invalid(why.to_owned()).into());
        }
        let (store, clock) = (store.into(), self.clock.clone().unwrap_or_else(Clock::system));
        let (namespace, timing) = (Namespace::new(&self.namespace)?, Timing::from_ttl(self.ttl)?);
        let locks = Locks::new(store.clone(), clock, namespace, Seen::default());
        self.finish(store, locks, timing).await
    }

    async fn finish(self, store: AnyStore, locks: Locks<AnyStore>, timing: Timing) -> Result<Client, Error> {
        let node: Arc<str> = self.node.unwrap_or_else(default_node).into();
        let presence = Presence { node: node.as_ref().to_owned(), record: b"{}".to_vec() };
        let session = KeptSession::new(&locks, presence, timing, Driver::Thread);
        let (number, guards) = (flow::number(), Guards::default());
        let client = Client(Arc::new(Shared {
            number,
            store,
            locks,
            node,
            timing,
            session,
            guards,
            #[cfg(feature = "jobs")]
            runs_jobs: Arc::default(),
        }));
        if self.is_eager {
            client.open_context().await?;
        }
        Ok(client)
    }
}

/// Host name and process id: the default name of a program.
pub(crate) fn default_node() -> String {
    format!("{}-{}", host_name(), std::process::id())
}

/// The machine's name, as far as it can be part of a node's.
pub(crate) fn host_name() -> String {
    #[cfg(unix)]
    let name = nix::unistd::gethostname().unwrap_or_default();
    #[cfg(not(unix))]
    let name = std::env::var_os("COMPUTERNAME").unwrap_or_default();
    let plain: String =
        name.to_string_lossy().chars().filter(|c| c.is_ascii_alphanumeric() || "-.".contains(*c)).collect();
    let plain: String = plain.trim_start_matches(['-', '.']).chars().take(60).collect();
    if plain.is_empty() { "node".to_owned() } else { plain }
}

/// How long a call may still wait, by the boot clock: what a machine was suspended for counts.
#[derive(Debug)]
struct Deadline {
    clock: Clock,
    /// `None`: as long as it takes.
    at: Option<Boot>,
    /// Until when there has to be a session: a call that is not to wait for its turn needs one all the same.
    session_by: Option<Boot>,
    backoff: Backoff,
}

impl Deadline {
    fn after(clock: &Clock, wait: Option<Duration>) -> Deadline {
        let now = clock.boot();
        let within = wait.map(|wait| if wait.is_zero() { SESSION_WITHIN } else { wait });
        let (at, session_by) = (wait.map(|wait| now.plus(wait)), within.map(|within| now.plus(within)));
        Deadline { clock: clock.clone(), at, session_by, backoff: Backoff::new() }
    }

    /// `None`: without limit.
    fn left(&self) -> Option<Duration> {
        self.at.map(|at| at.since(self.clock.boot()))
    }

    /// Waits a little before another attempt; `false` if there is no time for one.
    async fn pause(&mut self) -> bool {
        let pause = self.backoff.next();
        if self.left().is_some_and(|left| left <= pause) {
            return false;
        }
        tokio::time::sleep(pause).await;
        true
    }
}
