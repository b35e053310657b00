//! Where the nodes of this machine listen: `run` publishes it in the state directory, and `health` looks there.
//!
//! Not in the store, which need not answer for a node to be well.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::living::{self, LivingFile};
use super::place::Place;
use super::{Exit, Failure};
use crate::store::StoreUrl;

/// What the names of the files begin with.
const PREFIX: &str = "listener-";

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
    /// The network namespace: a container that shares the directory has addresses of its own.
    network: String,
}

/// Says where this node listens for as long as the answer is kept. A node whose directory cannot be written does without.
pub(super) fn publish(dir: &Path, node: &str, place: &Place, address: SocketAddr) -> Option<LivingFile> {
    let listener = Listener {
        node: node.to_owned(),
        namespace: place.namespace.as_str().to_owned(),
        store: place.url.identity(),
        address,
        network: network(),
    };
    let made = serde_json::to_vec(&listener).map_err(Into::into).and_then(|text| LivingFile::make(dir, PREFIX, &text));
    if let Err(error) = &made {
        let dir = dir.display();
        tracing::warn!(%error, %dir, "`fencron health` will not find this node by itself: give it --listen");
    }
    made.ok()
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
        let is_of = |listener: &Listener, store: &StoreUrl| listener.store == store.identity();
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
        Listener { node: node.to_owned(), namespace, store: store.identity(), address, network }
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
