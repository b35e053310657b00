//! What asks other nodes for the output of their runs: whose certificates it takes, as the file of --tls-ca changes.

use std::path::{Path, PathBuf};

use reqwest::Client;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::api::relay::{CONNECT_WITHIN, IDLE_MOST, Relay};
use crate::cli::asking;
use crate::cli::file::{self, Footprint};

/// Opens it. `beside` reads the file again, where one is named.
///
/// # Errors
///
/// The file cannot be read, or is no list of certificates: a node does not start with other authorities than are meant.
pub(super) fn open(ca: Option<&Path>, beside: &mut JoinSet<()>) -> anyhow::Result<Relay> {
    let (client, files) = client(ca);
    let (sender, receiver) = watch::channel(client?);
    if let Some(ca) = ca {
        beside.spawn(Watch { ca: ca.to_owned(), files, sender }.run());
    }
    Ok(Relay::new(receiver))
}

fn client(ca: Option<&Path>) -> (anyhow::Result<Client>, Footprint) {
    let mut files = Footprint::default();
    let http = asking::client_noting(ca, &mut files);
    let http = http.map(|http| http.connect_timeout(CONNECT_WITHIN).pool_max_idle_per_host(IDLE_MOST));
    (http.and_then(asking::built), files)
}

/// Reads the authorities again when their file has changed; what is wrong leaves the old ones in force.
struct Watch {
    ca: PathBuf,
    files: Footprint,
    sender: watch::Sender<Client>,
}

impl Watch {
    /// Goes on until it is dropped.
    async fn run(self) {
        let Watch { ca, files, sender } = self;
        let take = |client| match client {
            Ok(client) => {
                tracing::info!("took new authorities of the certificates of nodes");
                sender.send_replace(client);
            }
            Err(error) => tracing::error!("the old authorities of the certificates of nodes stay in force: {error:#}"),
        };
        file::read_again(files, move || client(Some(&ca)), take).await;
    }
}
