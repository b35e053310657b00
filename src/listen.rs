//! Listening: connections of HTTP/1.1, each bound in what it may take, answered by a service until they are to end.
//!
//! No client can keep others from learning whether the process is healthy: a connection is always accepted. Beyond
//! [`CONNECTIONS_MOST`], or [`PEER_MOST`] of one address, it is a spare one, which a service answers about health
//! alone, and which ends with that answer.

use std::collections::{HashMap, VecDeque};
use std::error::Error;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::HttpBody;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::socket::{setsockopt, sockopt};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How many connections there are at once on one listener, the spare ones not counted.
pub const CONNECTIONS_MOST: usize = 256;

/// How many of them one address may have, or one network of IPv6 (/64): a proxy in front has one address, and enough.
pub const PEER_MOST: usize = 192;

/// How many spare connections there are. Beyond it the oldest one ends: it had time to ask, and to be answered.
pub const SPARE_MOST: usize = 32;

/// How long a spare connection may take, its question and its answer.
pub const SPARE_WITHIN: Duration = Duration::from_secs(3);

/// How long a client may take to send the head of a request, and to begin another one.
pub const HEAD_WITHIN: Duration = Duration::from_secs(10);

/// How long a client may take for [`TAKEN_LEAST`] bytes of its answer, or for the rest of it.
pub const TAKEN_WITHIN: Duration = Duration::from_secs(10);

/// See [`TAKEN_WITHIN`].
pub const TAKEN_LEAST: usize = 16 << 10;

/// How many connections wait in the system to be accepted. It drops the first packet of those beyond, and their clients
/// send it again after a second; the 128 of tokio are fewer than come at once where a leader is followed by many.
const WAITING_MOST: u32 = 1024;

/// How long after a connection that could not be accepted the next one is tried.
const ACCEPT_AGAIN: Duration = Duration::from_secs(1);

/// What there is room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    Enough,
    /// For an answer about health, and nothing else.
    Spare,
}

/// The other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    pub address: SocketAddr,
    /// What TLS says of it; `None`: the connection is without TLS.
    pub tls: Option<Secured>,
}

/// What TLS says of the other end of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Secured {
    /// The certificate that the client has shown (DER), signed by an authority that the settings name.
    pub certificate: Option<Vec<u8>>,
}

/// TLS with settings that may change while a listener runs: connections from then on have the new ones.
#[derive(Clone, Debug)]
pub struct Tls(watch::Receiver<Arc<ServerConfig>>);

impl Tls {
    /// With the settings that are in there at the time.
    pub fn new(settings: watch::Receiver<Arc<ServerConfig>>) -> Tls {
        Tls(settings)
    }

    async fn accept(&self, stream: Paced) -> io::Result<(TlsStream<Paced>, Secured)> {
        let settings = Arc::clone(&self.0.borrow());
        let handshake = TlsAcceptor::from(settings).accept(stream);
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the client does not end the TLS handshake");
        let stream = tokio::time::timeout(HEAD_WITHIN, handshake).await.map_err(late)??;
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let certificate = shown.map(|certificate| certificate.as_ref().to_vec());
        Ok((stream, Secured { certificate }))
    }
}

/// Listens on this address.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A node that is started again takes its address, though connections of the one before are still being closed.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(WAITING_MOST)
}

/// Answers requests until `ending` is cancelled and those that are under way have been answered. `service` makes the
/// service of a connection, from its other end and from what there is room for.
pub async fn serve<S, B>(
    listener: TcpListener,
    tls: Option<Tls>,
    service: impl Fn(Remote, Room) -> S + Clone + Send + 'static,
    ending: CancellationToken,
) where
    S: Service<Request<Incoming>, Response = Response<B>> + Send + 'static,
    S::Future: Send,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: HttpBody + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let places = Places::default();
    let mut spare = VecDeque::new();
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = ending.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Of the process's descriptors, none may be left: that passes.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        if let Some(place) = places.take(peer.ip()) {
            let answering = answer(stream, peer, tls.clone(), service.clone(), Room::Enough, ending.clone());
            connections.spawn(async move {
                answering.await;
                drop(place);
            });
            continue;
        }
        spare.retain(|task: &tokio::task::AbortHandle| !task.is_finished());
        while spare.len() >= SPARE_MOST
            && let Some(oldest) = spare.pop_front()
        {
            oldest.abort();
        }
        let answering = answer(stream, peer, tls.clone(), service.clone(), Room::Spare, ending.clone());
        spare.push_back(connections.spawn(tokio::time::timeout(SPARE_WITHIN, answering)).abort_handle());
    }
    // From here on no client can connect any more.
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// The connections that are there, and whose they are.
#[derive(Clone, Debug, Default)]
struct Places(Arc<Mutex<Taken>>);

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    of: HashMap<IpAddr, usize>,
}

/// A connection's place, until it is dropped.
#[derive(Debug)]
struct Place {
    places: Places,
    of: IpAddr,
}

impl Places {
    /// A place for a connection of `peer`, where there is one.
    fn take(&self, peer: IpAddr) -> Option<Place> {
        let of = network(peer);
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let has = taken.of.get(&of).copied().unwrap_or_default();
        if taken.all >= CONNECTIONS_MOST || has >= PEER_MOST {
            return None;
        }
        taken.all += 1;
        taken.of.insert(of, has + 1);
        Some(Place { places: self.clone(), of })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all -= 1;
        match taken.of.get_mut(&self.of) {
            Some(has) if *has > 1 => *has -= 1,
            _ => {
                taken.of.remove(&self.of);
            }
        }
    }
}

/// What counts as one peer: a peer with an address of IPv6 has 2^64 of them.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

/// Answers what comes over one connection.
async fn answer<S, B>(
    stream: TcpStream,
    address: SocketAddr,
    tls: Option<Tls>,
    service: impl Fn(Remote, Room) -> S,
    room: Room,
    ending: CancellationToken,
) where
    S: Service<Request<Incoming>, Response = Response<B>>,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: HttpBody + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    // One whose machine is gone says nothing, and an answer that goes on may have nothing to say for hours.
    if let Err(error) = setsockopt(&stream, sockopt::KeepAlive, &true) {
        tracing::debug!(%error, "a connection to the listener does not show that its client is gone");
    }
    let stream = Paced { stream, late: None, taken: 0 };
    let Some(tls) = tls else {
        return converse(stream, service(Remote { address, tls: None }, room), room, ending).await;
    };
    let accepted = tokio::select! {
        accepted = tls.accept(stream) => accepted,
        () = ending.cancelled() => return,
    };
    match accepted {
        Ok((stream, secured)) => {
            converse(stream, service(Remote { address, tls: Some(secured) }, room), room, ending).await;
        }
        Err(error) => tracing::debug!(%error, "a connection to the listener is without TLS, or with a wrong one"),
    }
}

/// Answers requests over a stream.
async fn converse<I, S, B>(stream: I, service: S, room: Room, ending: CancellationToken)
where
    I: AsyncRead + AsyncWrite + Unpin,
    S: Service<Request<Incoming>, Response = Response<B>>,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: HttpBody + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN).keep_alive(room == Room::Enough);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = ending.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to the listener broke");
    }
}

/// A connection that breaks where its client does not take what it is sent.
struct Paced {
    stream: TcpStream,
    /// From when on the client has been too slow; `None`: it has taken all there was.
    late: Option<Pin<Box<Sleep>>>,
    /// What it took since it was waited for, in bytes.
    taken: usize,
}

impl Paced {
    /// What became of an attempt to send `wanted` bytes.
    fn sent(
        &mut self,
        wanted: usize,
        sent: Poll<io::Result<usize>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        match &sent {
            Poll::Ready(Ok(length)) => {
                self.taken += length;
                if *length == wanted || self.taken >= TAKEN_LEAST {
                    (self.late, self.taken) = (None, 0);
                }
                sent
            }
            Poll::Ready(Err(_)) => sent,
            Poll::Pending => {
                let late = self.late.get_or_insert_with(|| Box::pin(tokio::time::sleep(TAKEN_WITHIN)));
                let slow = || io::Error::new(io::ErrorKind::TimedOut, "the client does not take its answer");
                late.as_mut().poll(context).map(|()| Err(slow()))
            }
        }
    }
}

impl AsyncRead for Paced {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(context, into)
    }
}

impl AsyncWrite for Paced {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let sent = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.sent(bytes.len(), sent, context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let sent = Pin::new(&mut this.stream).poll_write_vectored(context, parts);
        this.sent(parts.iter().map(|part| part.len()).sum(), sent, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn as_many_connect_at_once_as_are_followers_and_pages_of_a_leader() {
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let all = async {
            let mut connected = Vec::new();
            for _ in 0..500 {
                connected.push(TcpStream::connect(address).await.unwrap());
            }
            connected
        };
        let connected = tokio::time::timeout(Duration::from_secs(60), all).await.expect("all wait to be accepted");
        assert_eq!(connected.len(), 500);
    }

    #[test]
    fn one_peer_leaves_places_to_others() {
        let places = Places::default();
        let take = |address: &str| places.take(address.parse().unwrap());
        let mut all: Vec<_> = (0..PEER_MOST).map(|_| take("10.0.0.1").unwrap()).collect();
        assert!(take("10.0.0.1").is_none() && take("::ffff:10.0.0.1").is_none());
        all.extend((PEER_MOST..CONNECTIONS_MOST).map(|nth| take(&format!("10.0.1.{nth}")).unwrap()));
        assert!(take("10.0.0.2").is_none());
        all.clear();
        assert_eq!(places.0.lock().unwrap().of.len(), 0);
        let all: Vec<_> = (0..PEER_MOST).map(|nth| take(&format!("2001:db8::{nth:x}")).unwrap()).collect();
        assert!(take("2001:db8::ffff").is_none() && take("2001:db8:0:1::1").is_some());
        drop(all);
    }
}
