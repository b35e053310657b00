//! Where a command works: the store and the namespace.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::Context as _;

use super::file;
use super::find::{self, Found};
use super::handover::{self, Handover};
use super::once::say;
use super::{DRILLS, Exit, Failure, Global};
use crate::config::DEFAULT_NAMESPACE;
use crate::execute::Executor;
use crate::ledger::Ledger;
use crate::lock::{Locks, Namespace, Seen, Timing, Trust};
use crate::store::postgres::PostgresConfig;
use crate::store::{AnyStore, StoreError, StoreUrl};
use crate::time::Clock;

/// The environment variable with the password of an etcd store whose URL holds none. No option: the arguments of a
/// process are public.
pub(super) const ETCD_PASSWORD: &str = "FENCRON_ETCD_PASSWORD";

/// That with the file which the password is in.
pub(super) const ETCD_PASSWORD_FILE: &str = "FENCRON_ETCD_PASSWORD_FILE";

/// That with the user.
pub(super) const ETCD_USER: &str = "FENCRON_ETCD_USER";

/// The environment variable with the password of a PostgreSQL store whose URL holds none.
pub(super) const POSTGRES_PASSWORD: &str = "FENCRON_POSTGRES_PASSWORD";

/// That with the file of passwords, as PostgreSQL's own clients name it.
pub(super) const POSTGRES_PASSFILE: &str = "PGPASSFILE";

/// How often a file is tried to be opened that others keep busy: fifty replicas may start at once, on a slow disk.
const OPEN_TRIES: u32 = 5;

/// A store that was opened, and one namespace of it.
pub(super) struct Place {
    pub url: StoreUrl,
    pub store: AnyStore,
    pub namespace: Namespace,
    pub clock: Clock,
    /// What is passed on to commands about the store.
    handover: OnceLock<Handover>,
}

impl Place {
    pub fn new(url: StoreUrl, store: AnyStore, namespace: Namespace, clock: Clock) -> Place {
        Place { url, store, namespace, clock, handover: OnceLock::new() }
    }

    pub fn ledger(&self) -> Ledger<AnyStore> {
        Ledger::new(self.store.clone(), self.namespace.clone())
    }

    pub fn locks(&self, seen: Seen) -> Locks<AnyStore> {
        Locks::new(self.store.clone(), self.clock.clone(), self.namespace.clone(), seen)
    }

    /// Publishes the trust in the sessions of this process to the supervisor of its commands, which also has the lease of
    /// the last one revoked should this process die.
    pub fn published(&self, execute: &Executor, timing: Timing) -> impl Fn(&Trust) + Send + Sync + 'static {
        let deadlines = execute.deadlines();
        if let Err(error) = deadlines.bequeath(&self.url) {
            tracing::warn!(%error, "should this process be killed, the next one waits until its lease has run out");
        }
        deadlines.following(timing)
    }

    /// The variables by which a `fencron` in a command finds this store. They hold for as long as this lives. A
    /// password is in a file in `dir`, which only this user can read; `true`: it is, and needs to be in no variable.
    pub fn handed_over(&self, dir: &Path) -> (Vec<(OsString, OsString)>, bool) {
        let handover = match self.handover.get() {
            Some(handover) => handover,
            None => match Handover::new(&self.url, dir) {
                Ok(handover) => self.handover.get_or_init(|| handover),
                Err(error) => {
                    let dir = dir.display();
                    tracing::warn!(%error, %dir, "the store is not passed on to commands: a `fencron` in them needs it");
                    return (Vec::new(), false);
                }
            },
        };
        (handover.variables(), handover.has_access())
    }
}

/// Where a store is looked for when none is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// In this directory, where it is made if it is not there.
    Here,
    /// Also in those above; it has to be there.
    HereAndAbove,
}

impl Global {
    /// The store's URL that was named, or that of this directory; with the credentials that stand beside it.
    pub fn url(&self) -> Result<StoreUrl, Failure> {
        self.url_of(self.store.as_deref().unwrap_or(StoreUrl::DEFAULT))
    }

    pub(super) fn url_of(&self, text: &str) -> Result<StoreUrl, Failure> {
        let url = text.parse().map_err(|error| Failure::wrong(format!("--store (FENCRON_STORE): {error}")))?;
        let mut config = match url {
            StoreUrl::Etcd(config) => config,
            StoreUrl::Postgres(config) => return with_login(config).map(StoreUrl::Postgres),
            url => return Ok(url),
        };
        let (has_user, has_password) = config.has_credentials();
        if let Some(user) = self.etcd_user.as_ref().filter(|_| !has_user) {
            config = config.with_user(user);
        }
        let given = std::env::var(ETCD_PASSWORD).ok().filter(|_| !has_password);
        match (given, self.etcd_password_file.as_ref().filter(|_| !has_password)) {
            (Some(_), Some(_)) => {
                let why =
                    format!("{ETCD_PASSWORD} and --etcd-password-file ({ETCD_PASSWORD_FILE}) both say the password");
                return Err(Failure::wrong(format!("{why}: leave one out")));
            }
            (Some(password), None) => config = config.with_password(password),
            (None, Some(path)) => {
                let path = std::path::absolute(path);
                let path = path.map_err(|error| Failure::wrong(format!("--etcd-password-file: {error}")))?;
                config = config.with_password_file(path);
            }
            (None, None) => {}
        }
        if config.has_credentials() == (false, false)
            && let Some((user, password)) = handed(&StoreUrl::Etcd(config.clone()))?
        {
            config = config.with_user(user).with_password(password);
        }
        Ok(StoreUrl::Etcd(config))
    }

    /// The store that was named, or is found in this directory or one above.
    ///
    /// # Errors
    ///
    /// Where none is, which ends the program with `exit`.
    fn url_found(&self, exit: Exit) -> Result<StoreUrl, Failure> {
        if self.store.is_some() {
            return self.url();
        }
        let name_it = "name one with --store or FENCRON_STORE, like sqlite:/var/lib/fencron/state.db or \
                       etcd://10.0.0.1:2379 or postgres://fencron@10.0.0.5/ops";
        match find::find() {
            Ok(Found::Here) => self.url(),
            Ok(Found::Above(path)) => Ok(StoreUrl::Sqlite(path)),
            Ok(Found::Foreign(path)) => {
                let path = path.display();
                let why = format!("no store is named, and the nearest, {path}, belongs to another user: {name_it}");
                Err(Failure::new(exit, why))
            }
            Ok(Found::Nothing) => {
                let why = format!(
                    "there is no store {} here or in a directory above, and none is named: {name_it}. (`fencron run` and \
                     `migrate` make it in the directory where they are started)",
                    StoreUrl::DEFAULT
                );
                Err(Failure::new(exit, why))
            }
            Err(error) => Err(Failure::new(exit, format!("cannot look for a store here ({error}): {name_it}"))),
        }
    }

    /// The namespace that the options name.
    pub fn namespace(&self) -> Result<Option<Namespace>, Failure> {
        let named = self.namespace.as_deref().map(Namespace::new).transpose();
        named.map_err(|error| Failure::wrong(format!("--namespace: {error}")))
    }

    /// Opens a store that has been used already, and the namespace that the options name, or `file` does, or else the
    /// only one that there is.
    pub async fn open(&self, file: Option<&str>) -> anyhow::Result<Place> {
        self.open_existing(self.url_found(Exit::StoreUnreachable)?, file).await
    }

    /// Opens a store that has been used already, with all that is in it.
    pub async fn open_store(&self) -> anyhow::Result<(StoreUrl, AnyStore)> {
        let url = self.url_found(Exit::StoreUnreachable)?;
        refuse_missing(&url)?;
        let store = open_store(&url, &Clock::system()).await?;
        Ok((url, store))
    }

    /// The store for a drill, which begins with one that has nothing as well.
    pub fn url_to_drill(&self) -> Result<StoreUrl, Failure> {
        let url = self.url_found(Exit::Wrong)?;
        refuse_memory(&url)?;
        Ok(url)
    }

    async fn open_existing(&self, url: StoreUrl, file: Option<&str>) -> anyhow::Result<Place> {
        refuse_missing(&url)?;
        self.open_at(url, file).await
    }

    /// As [`Global::open`], and makes a store of one machine where there is none yet: the one that is named, or in this
    /// directory.
    pub async fn open_or_make(&self, file: Option<&str>) -> anyhow::Result<Place> {
        self.open_looking(Look::Here, file).await
    }

    /// As [`Global::open_or_make`], but a store that is not named has to exist already, here or above. A store that is
    /// made in the current directory would be another one in each directory, and exclude no other process.
    pub async fn open_found_or_make(&self, file: Option<&str>) -> anyhow::Result<Place> {
        self.open_looking(Look::HereAndAbove, file).await
    }

    async fn open_looking(&self, look: Look, file: Option<&str>) -> anyhow::Result<Place> {
        let url = match look {
            Look::Here => self.url()?,
            Look::HereAndAbove => self.url_found(Exit::Wrong)?,
        };
        refuse_memory(&url)?;
        let made = made(&url);
        let mut tries = 1;
        let place = loop {
            match self.open_at(url.clone(), file).await {
                Err(error) if tries < OPEN_TRIES && is_busy_file(&url, &error) => tries += 1,
                result => break result?,
            }
        };
        if let Some(path) = made {
            say(&format!("fencron: made the store {}", path.display()));
            if let Some(other) = self.passed_over() {
                say(&format!("fencron: {other}"));
            }
        }
        Ok(place)
    }

    /// That there is another store above, where one was made here since none was named.
    pub fn passed_over(&self) -> Option<String> {
        let above = std::env::current_dir().ok()?.parent().map(Path::to_owned)?;
        let (None, Some(path)) = (&self.store, find::nearest(&above)) else { return None };
        Some(format!("the store {} is another one, and not used: name it with --store if it was meant", path.display()))
    }

    async fn open_at(&self, url: StoreUrl, file: Option<&str>) -> anyhow::Result<Place> {
        let clock = Clock::system();
        let store = open_store(&url, &clock).await?;
        let named = self.namespace()?.or(file.map(Namespace::new).transpose()?);
        let namespace = match named {
            Some(namespace) => namespace,
            None => only_namespace(&store).await?,
        };
        Ok(Place::new(url, store, namespace, clock))
    }
}

/// The password of the environment, and the login that the program which started this one has passed on.
fn with_login(config: PostgresConfig) -> Result<PostgresConfig, Failure> {
    let has_password = config.credentials().1.is_some() || config.passfile().is_some();
    let config = match (std::env::var(POSTGRES_PASSWORD), std::env::var_os(POSTGRES_PASSFILE)) {
        _ if has_password => config,
        (Ok(password), _) => config.with_password(password),
        (Err(_), Some(path)) if !path.is_empty() => config.with_passfile(path),
        (Err(_), _) => config,
    };
    if config.credentials() != (None, None) {
        return Ok(config);
    }
    Ok(match handed(&StoreUrl::Postgres(config.clone()))? {
        Some((user, password)) if password.is_empty() => config.with_user(user),
        Some((user, password)) => config.with_user(user).with_password(password),
        None => config,
    })
}

/// User and password, where this program was handed them.
fn handed(url: &StoreUrl) -> Result<Option<(String, String)>, Failure> {
    handover::credentials(url).map_err(|error| {
        let why = "the program that handed it over has ended, or this is another user";
        Failure::new(Exit::StoreUnreachable, format!("{}: {error}: {why}", handover::ACCESS))
    })
}

/// Refuses a store in memory, and a file that no node has made yet.
fn refuse_missing(url: &StoreUrl) -> Result<(), Failure> {
    refuse_memory(url)?;
    if let StoreUrl::Sqlite(path) = url
        && !path.exists()
    {
        let why = format!(
            "there is no store {url}: no node has run with it yet. Is this the directory in which it runs? \
             Otherwise say where the store is with --store or FENCRON_STORE"
        );
        return Err(Failure::new(Exit::StoreUnreachable, why));
    }
    Ok(())
}

fn refuse_memory(url: &StoreUrl) -> Result<(), Failure> {
    if *url == StoreUrl::Memory {
        let why = "`memory:` is a store of one process: nothing but `fencron run` can be done with it";
        return Err(Failure::wrong(why));
    }
    Ok(())
}

/// The file that opening the store is going to make.
pub(super) fn made(url: &StoreUrl) -> Option<PathBuf> {
    let StoreUrl::Sqlite(path) = url else { return None };
    if path.exists() {
        return None;
    }
    Some(std::path::absolute(path).unwrap_or_else(|_| path.clone()))
}

fn is_busy_file(url: &StoreUrl, error: &anyhow::Error) -> bool {
    matches!(url, StoreUrl::Sqlite(_)) && error.downcast_ref::<StoreError>().is_some_and(StoreError::is_passing)
}

/// Opens the store, or says which one it is that cannot be.
pub(super) async fn open_store(url: &StoreUrl, clock: &Clock) -> anyhow::Result<AnyStore> {
    AnyStore::open(url, clock.clone()).await.with_context(|| {
        let check = match url {
            StoreUrl::Etcd(_) => "check with `etcdctl endpoint health` that it runs, and that the address is right",
            StoreUrl::Postgres(_) => "check with `psql` that it can be reached, with this role and password",
            _ => "check that the directory exists and can be written",
        };
        format!("cannot use the store {url} ({check})")
    })
}

async fn only_namespace(store: &AnyStore) -> anyhow::Result<Namespace> {
    let mut namespaces = match Namespace::all(store).await {
        // A user who may read only a part of the store cannot list the rest.
        Err(StoreError::Denied { .. }) => file::read(&[file::DEFAULT.into()])
            .ok()
            .and_then(|config| Namespace::new(&config.namespace).ok())
            .into_iter()
            .collect(),
        namespaces => namespaces?,
    };
    namespaces.retain(|namespace| !namespace.as_str().starts_with(DRILLS));
    match (namespaces.pop(), namespaces.as_slice()) {
        (None, _) => Ok(Namespace::new(DEFAULT_NAMESPACE)?),
        (Some(only), []) => Ok(only),
        (Some(last), others) => {
            let all: Vec<&str> = others.iter().chain([&last]).map(Namespace::as_str).collect();
            let why = format!("the store has several namespaces: say which with --namespace ({})", all.join(", "));
            Err(Failure::wrong(why).into())
        }
    }
}
