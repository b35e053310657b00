//! Where the nodes of this machine listen: `run` publishes it in the state directory, and `health` looks there.
//!
//! Not in the store, which need not answer for a node to be well.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio_util::task::AbortOnDropHandle;

use super::living::{self, LivingFile};
use super::place::Place;
use super::{Exit, Failure};
use crate::store::StoreUrl;

/// What the names of the files begin with.
const PREFIX: &str = "listener-";

/// How often a node looks whether its file is still there.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// A node's listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Listener {
    pub node: String,
    pub namespace: String,
    /// The store, without what is secret.
    pub store: String,
    /// What it listens on; as its own network names it.
    pub address: SocketAddr,
    /// Whether it speaks TLS.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tls: bool,
    /// The network namespace: a container that shares the directory has addresses of its own.
    network: String,
}

/// Publishes where this node listens until the answer is dropped. A node whose directory cannot be written does without.
///
/// # Panics
///
/// Outside of a tokio runtime.
pub(super) fn publish(dir: &Path, node: &str, place: &Place, address: SocketAddr, tls: bool) -> AbortOnDropHandle<()> {
    let listener = Listener {
        node: node.to_owned(),
        namespace: place.namespace.as_str().to_owned(),
        store: place.url.identity(),
        address,
        tls,
        network: network(),
    };
    let text = serde_json::to_vec(&listener).expect("a record of texts can be written");
    let published = Published { file: made(dir, &text), dir: dir.to_owned(), text };
    AbortOnDropHandle::new(tokio::spawn(published.keep()))
}

fn made(dir: &Path, text: &[u8]) -> Option<LivingFile> {
    let made = LivingFile::make(dir, PREFIX, text);
    if let Err(error) = &made {
        let dir = dir.display();
        tracing::warn!(%error, %dir, "`fencron health` will not find this node by itself: give it --listen");
    }
    made.ok()
}

/// What a node has published.
struct Published {
    file: Option<LivingFile>,
    dir: PathBuf,
    text: Vec<u8>,
}

impl Published {
    /// Publishes it again when its file was removed, as programs do that clean up directories.
    async fn keep(mut self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if self.file.as_ref().is_some_and(|file| !file.is_there()) {
                self.file = LivingFile::make(&self.dir, PREFIX, &self.text).ok().or(self.file);
            }
        }
    }
}

/// The listeners of the nodes that run in this network.
pub(super) fn published(dir: &Path) -> Vec<Listener> {
    let network = network();
    let all = living::texts(dir, PREFIX).into_iter().filter_map(|text| serde_json::from_str::<Listener>(&text).ok());
    all.filter(|listener| listener.network == network).collect()
}

fn network() -> String {
    fs::read_link("/proc/self/ns/net").map(|link| link.display().to_string()).unwrap_or_default()
}

/// Which node is meant.
#[derive(Default)]
pub(super) struct Meant<'a> {
    pub node: Option<&'a str>,
    pub namespace: Option<&'a str>,
    /// The store that was named.
    pub store: Option<&'a StoreUrl>,
    /// The store that is used where none is named, which decides between several nodes alone.
    pub usual: Option<&'a StoreUrl>,
}

impl Meant<'_> {
    /// The one of `listeners` that is meant; `None`: none is there at all.
    ///
    /// # Errors
    ///
    /// Several may be meant, or those that are there are others.
    pub fn choose(&self, mut listeners: Vec<Listener>) -> Result<Option<Listener>, Failure> {
        let others = names(&listeners);
        listeners.retain(|listener| {
            self.node.is_none_or(|node| node == listener.node)
                && self.namespace.is_none_or(|namespace| namespace == listener.namespace)
                && self.store.is_none_or(|store| is_of(listener, store))
        });
        if let Some(usual) = self.usual
            && listeners.iter().any(|listener| is_of(listener, usual))
        {
            listeners.retain(|listener| is_of(listener, usual));
        }
        match (listeners.pop(), listeners.is_empty()) {
            (Some(one), true) => Ok(Some(one)),
            (None, _) if others.is_empty() => Ok(None),
            (None, _) => Err(Failure::new(Exit::Failed, format!("no such node runs here, but {others}"))),
            (Some(last), false) => {
                listeners.push(last);
                let all = names(&listeners);
                Err(Failure::wrong(format!("several nodes run here: {all}. Say which with --node or --listen")))
            }
        }
    }
}

/// Whether the node uses the store. The members of a cluster can be named in any order, and in part.
fn is_of(listener: &Listener, store: &StoreUrl) -> bool {
    match (store, listener.store.parse()) {
        (StoreUrl::Etcd(meant), Ok(StoreUrl::Etcd(used))) => meant.has_a_member_of(&used),
        _ => listener.store == store.identity(),
    }
}

/// The nodes as a message lists them.
fn names(listeners: &[Listener]) -> String {
    let name = |one: &Listener| format!("{} of {} ({})", one.node, one.namespace, one.address);
    let mut names: Vec<String> = listeners.iter().map(name).collect();
    names.sort();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(node: &str, store: &StoreUrl) -> Listener {
        let address = "127.0.0.1:1".parse().unwrap();
        let (namespace, network) = ("shop".to_owned(), network());
        Listener { node: node.to_owned(), namespace, store: store.identity(), address, tls: false, network }
    }

    #[test]
    fn of_several_nodes_the_one_is_chosen_that_is_meant() {
        let (here, there) = (StoreUrl::Sqlite("/a/state.db".into()), StoreUrl::Sqlite("/b/state.db".into()));
        let all = || vec![listener("a", &here), listener("b", &there), listener("c", &there)];
        let chosen = |meant: Meant| meant.choose(all()).map(|found| found.unwrap().node);
        assert_eq!(chosen(Meant { node: Some("c"), ..Meant::default() }).unwrap(), "c");
        assert_eq!(chosen(Meant { usual: Some(&here), ..Meant::default() }).unwrap(), "a");
        assert_eq!(chosen(Meant { store: Some(&here), ..Meant::default() }).unwrap(), "a");
        let both = Meant { node: Some("b"), namespace: Some("shop"), usual: Some(&here), ..Meant::default() };
        assert_eq!(chosen(both).unwrap(), "b");
        for (meant, exit, says) in [
            (Meant::default(), Exit::Wrong, "several nodes run here: a of shop (127.0.0.1:1), b"),
            (Meant { store: Some(&there), ..Meant::default() }, Exit::Wrong, "b of shop (127.0.0.1:1), c"),
            (Meant { node: Some("d"), ..Meant::default() }, Exit::Failed, "no such node"),
            (Meant { namespace: Some("x"), ..Meant::default() }, Exit::Failed, "no such node"),
        ] {
            let failure = chosen(meant).unwrap_err();
            assert!(failure.exit == exit && failure.message.contains(says), "{failure}");
        }
        assert_eq!(Meant::default().choose(Vec::new()).unwrap(), None);
    }

    #[test]
    fn a_cluster_is_the_same_however_its_members_are_named() {
        let url = |text: &str| text.parse::<StoreUrl>().unwrap();
        let used = listener("a", &url("etcd://10.0.0.1,10.0.0.2"));
        for (meant, is_meant) in [
            ("etcd://10.0.0.1,10.0.0.2", true),
            ("etcd://10.0.0.2:2379,10.0.0.1", true),
            ("etcd://eve:secret@10.0.0.2", true),
            ("etcd://10.0.0.3", false),
            ("etcd://10.0.0.1:12379", false),
            ("sqlite:/a/state.db", false),
        ] {
            assert_eq!(is_of(&used, &url(meant)), is_meant, "{meant}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_was_removed_is_published_again() {
        let dir = tempfile::tempdir().unwrap();
        let text = serde_json::to_vec(&listener("a", &StoreUrl::Memory)).unwrap();
        let published = Published { file: made(dir.path(), &text), dir: dir.path().to_owned(), text };
        let path = published.file.as_ref().unwrap().path().to_owned();
        let kept = AbortOnDropHandle::new(tokio::spawn(published.keep()));
        fs::remove_file(path).unwrap();
        assert!(super::published(dir.path()).is_empty());
        tokio::time::sleep(LOOK_EVERY * 2).await;
        assert_eq!(super::published(dir.path()).len(), 1);
        kept.abort();
        assert!(kept.await.unwrap_err().is_cancelled());
        assert!(fs::read_dir(dir.path()).unwrap().next().is_none(), "it goes with the node");
    }

    #[test]
    fn a_listener_of_another_network_is_another_machines() {
        let dir = tempfile::tempdir().unwrap();
        let away = Listener { network: "net:[1]".to_owned(), ..listener("a", &StoreUrl::Memory) };
        let _away = LivingFile::make(dir.path(), PREFIX, &serde_json::to_vec(&away).unwrap()).unwrap();
        assert_eq!(published(dir.path()), []);
        let near = listener("b", &StoreUrl::Memory);
        let _near = LivingFile::make(dir.path(), PREFIX, &serde_json::to_vec(&near).unwrap()).unwrap();
        assert_eq!(published(dir.path()), [near]);
    }
}
