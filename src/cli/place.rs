//! Where a command works: the store and the namespace.

use anyhow::Context as _;

use super::{Failure, Global};
use crate::config::DEFAULT_NAMESPACE;
use crate::ledger::Ledger;
use crate::lock::{Locks, Namespace, Seen};
use crate::store::{AnyStore, StoreError, StoreUrl};
use crate::time::Clock;

/// The environment variable with the password of an etcd store whose URL holds none. No option: the arguments of a
/// process are public.
const ETCD_PASSWORD: &str = "FENCRON_ETCD_PASSWORD";

/// How often a file is tried to be opened that others keep busy: fifty replicas may start at once, on a slow disk.
const OPEN_TRIES: u32 = 5;

/// A store that was opened, and one namespace of it.
pub(super) struct Place {
    pub url: StoreUrl,
    pub store: AnyStore,
    pub namespace: Namespace,
    pub clock: Clock,
}

impl Place {
    pub fn ledger(&self) -> Ledger<AnyStore> {
        Ledger::new(self.store.clone(), self.namespace.clone())
    }

    pub fn locks(&self, seen: Seen) -> Locks<AnyStore> {
        Locks::new(self.store.clone(), self.clock.clone(), self.namespace.clone(), seen)
    }
}

impl Global {
    /// The store's URL, with the credentials that stand beside it.
    pub fn url(&self) -> Result<StoreUrl, Failure> {
        let url = self.store.parse().map_err(|error| Failure::wrong(format!("--store (FENCRON_STORE): {error}")))?;
        let StoreUrl::Etcd(mut config) = url else { return Ok(url) };
        let (has_user, has_password) = config.has_credentials();
        if let Some(user) = self.etcd_user.as_ref().filter(|_| !has_user) {
            config = config.with_user(user);
        }
        if let Some(password) = std::env::var(ETCD_PASSWORD).ok().filter(|_| !has_password) {
            config = config.with_password(password);
        }
        Ok(StoreUrl::Etcd(config))
    }

    /// The namespace that the options name.
    pub fn namespace(&self) -> Result<Option<Namespace>, Failure> {
        let named = self.namespace.as_deref().map(Namespace::new).transpose();
        named.map_err(|error| Failure::wrong(format!("--namespace: {error}")))
    }

    /// Opens a store that has been used already, and the namespace that the options name, or `file` does, or else the
    /// only one that there is.
    pub async fn open(&self, file: Option<&str>) -> anyhow::Result<Place> {
        let url = self.url()?;
        match &url {
            StoreUrl::Memory => {
                let why = "`memory:` is a store of one process: nothing but `fencron run` can be done with it";
                return Err(Failure::wrong(why).into());
            }
            StoreUrl::Sqlite(path) if !path.exists() => {
                let why = format!(
                    "there is no store {url}: no node has run with it yet. Is this the directory in which it runs? \
                     Otherwise say where the store is with --store or FENCRON_STORE"
                );
                return Err(Failure::new(super::Exit::StoreUnreachable, why).into());
            }
            _ => {}
        }
        self.open_at(url, file).await
    }

    /// As [`Global::open`], and makes a store of one machine where there is none yet.
    pub async fn open_or_make(&self, file: Option<&str>) -> anyhow::Result<Place> {
        let url = self.url()?;
        if url == StoreUrl::Memory {
            return self.open(file).await;
        }
        let mut tries = 1;
        loop {
            match self.open_at(url.clone(), file).await {
                Err(error) if tries < OPEN_TRIES && is_busy_file(&url, &error) => tries += 1,
                result => return result,
            }
        }
    }

    async fn open_at(&self, url: StoreUrl, file: Option<&str>) -> anyhow::Result<Place> {
        let clock = Clock::system();
        let store = open_store(&url, &clock).await?;
        let named = self.namespace()?.or(file.map(Namespace::new).transpose()?);
        let namespace = match named {
            Some(namespace) => namespace,
            None => only_namespace(&store).await?,
        };
        Ok(Place { url, store, namespace, clock })
    }
}

fn is_busy_file(url: &StoreUrl, error: &anyhow::Error) -> bool {
    matches!(url, StoreUrl::Sqlite(_)) && error.downcast_ref::<StoreError>().is_some_and(StoreError::is_passing)
}

/// Opens the store, or says which one it is that cannot be.
pub(super) async fn open_store(url: &StoreUrl, clock: &Clock) -> anyhow::Result<AnyStore> {
    AnyStore::open(url, clock.clone()).await.with_context(|| {
        let check = match url {
            StoreUrl::Etcd(_) => "check with `etcdctl endpoint health` that it runs, and that the address is right",
            _ => "check that the directory exists and can be written",
        };
        format!("cannot use the store {url} ({check})")
    })
}

async fn only_namespace(store: &AnyStore) -> anyhow::Result<Namespace> {
    let mut namespaces = match Namespace::all(store).await {
        // Whoever may only read a part of the store has to say which.
        Err(StoreError::Denied { .. }) => Vec::new(),
        namespaces => namespaces?,
    };
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
