//! The network between one node and the servers of its store, which can be cut.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

/// How much is carried at once, in bytes.
const PIECE: usize = 64 << 10;

/// A way to each of the servers. They end when this is dropped.
pub(super) struct Network {
    pub addresses: Vec<SocketAddr>,
    line: Line,
    _carrying: Vec<AbortOnDropHandle<()>>,
}

/// Whether anything passes, and how much was kept from passing.
#[derive(Clone)]
struct Line {
    is_cut: watch::Sender<bool>,
    withheld: watch::Sender<u64>,
}

impl Network {
    /// Ways to these servers, on loopback. Everything passes.
    pub async fn open(servers: &[String]) -> std::io::Result<Network> {
        let line = Line { is_cut: watch::Sender::new(false), withheld: watch::Sender::new(0) };
        let (mut addresses, mut carrying) = (Vec::new(), Vec::new());
        for server in servers {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            addresses.push(listener.local_addr()?);
            carrying.push(AbortOnDropHandle::new(tokio::spawn(carry(listener, server.clone(), line.clone()))));
        }
        Ok(Network { addresses, line, _carrying: carrying })
    }

    /// From now on nothing passes in either direction, and neither side is notified, as where a cable is pulled.
    ///
    /// # Errors
    ///
    /// Where nothing was kept from passing within the time: then the node does not use this network.
    pub async fn cut(&self, within: Duration) -> Result<(), String> {
        self.line.withheld.send_replace(0);
        let mut withheld = self.line.withheld.subscribe();
        self.line.is_cut.send_replace(true);
        match tokio::time::timeout(within, withheld.wait_for(|pieces| *pieces > 0)).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(format!("nothing that the node sent in {} s was kept from the store", within.as_secs())),
        }
    }

    /// Everything passes again, also what was withheld.
    pub fn mend(&self) {
        self.line.is_cut.send_replace(false);
    }
}

async fn carry(listener: TcpListener, server: String, line: Line) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => drop(connections.spawn(connect(client, server.clone(), line.clone()))),
                Err(error) => {
                    tracing::debug!(%error, "no connection can be accepted now");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connect(client: TcpStream, server: String, line: Line) {
    line.pass().await;
    let Ok(server) = TcpStream::connect(server).await else { return };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = pump(from_client, to_server, &line) => {}
        () = pump(from_server, to_client, &line) => {}
    }
}

/// Carries what is read on, until one end closes.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, line: &Line) {
    let mut piece = vec![0; PIECE];
    while let Ok(read @ 1..) = from.read(&mut piece).await {
        line.pass().await;
        if to.write_all(&piece[..read]).await.is_err() {
            return;
        }
    }
}

impl Line {
    /// Waits until something may pass.
    async fn pass(&self) {
        if *self.is_cut.borrow() {
            self.withheld.send_modify(|pieces| *pieces += 1);
            self.is_cut.subscribe().wait_for(|is_cut| !is_cut).await.ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_cut_passes_nothing_and_is_known_to_until_it_is_mended() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let network = Network::open(&[listener.local_addr().unwrap().to_string()]).await.unwrap();
        let mut client = TcpStream::connect(network.addresses[0]).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        client.write_all(b"a").await.unwrap();
        assert_eq!(server.read_u8().await.unwrap(), b'a');

        let silent = network.cut(Duration::ZERO).await;
        assert!(silent.is_err_and(|why| why.starts_with("nothing that the node sent")));
        let (cut, written) = tokio::join!(network.cut(Duration::from_secs(60)), client.write_all(b"b"));
        assert_eq!((cut, written.is_ok()), (Ok(()), true));
        let read = tokio::time::timeout(Duration::from_millis(50), server.read_u8()).await;
        assert!(read.is_err(), "it arrived: {read:?}");
        network.mend();
        assert_eq!(server.read_u8().await.unwrap(), b'b');
    }
}
