//! A server that looks like etcd and is none: it answers as kine does (pkg/server/lease.go, maintenance.go), as far as it
//! is asked here.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// How the server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// As kine does.
    Kine,
    /// It says that it is a member of a cluster; its leases are those of kine.
    MemberWithKinesLeases,
    /// It grants leases as etcd does, and does not keep them alive.
    NoKeepAlive,
}

/// Ends when it is dropped.
pub struct Imitation {
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Imitation {
    pub async fn start(manner: Manner) -> Imitation {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let service = service_fn(move |request: Request<hyper::body::Incoming>| async move {
                        Ok::<_, Infallible>(answer(manner, request.uri().path()))
                    });
                    // Whoever hangs up has heard enough.
                    http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service)
                        .await
                        .ok();
                });
            }
        });
        Imitation { address, accepting }
    }

    pub fn endpoint(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for Imitation {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

type Body = StreamBody<stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>>;

fn answer(manner: Manner, path: &str) -> Response<Body> {
    let member = manner != Manner::Kine;
    // A header of the field 1: empty, or with the cluster 5 and the member 7.
    let header: &[u8] = if member { &[0x0a, 4, 0x08, 5, 0x10, 7] } else { &[0x0a, 0] };
    let version: &[u8] = b"\x12\x063.5.13";
    match path.rsplit('/').next().unwrap_or_default() {
        "Status" => message(&[header, version].concat()),
        // The id (2) and the TTL (3): 10 seconds were asked for.
        "LeaseGrant" if manner == Manner::NoKeepAlive => {
            message(&[header, &[0x10, 0x92, 0xba, 0x2d, 0x18, 10]].concat())
        }
        "LeaseGrant" => message(&[header, &[0x10, 10, 0x18, 10]].concat()),
        "LeaseKeepAlive" => refusal("lease keep alive is not supported"),
        "LeaseRevoke" => refusal("lease revoke is not supported"),
        other => refusal(&format!("unsupported transaction: {other}")),
    }
}

fn message(encoded: &[u8]) -> Response<Body> {
    let mut frame = vec![0];
    frame.extend(u32::try_from(encoded.len()).unwrap().to_be_bytes());
    frame.extend(encoded);
    response(vec![Frame::data(Bytes::from(frame)), Frame::trailers(status(0, ""))])
}

fn refusal(text: &str) -> Response<Body> {
    response(vec![Frame::trailers(status(2, text))])
}

fn status(code: u8, text: &str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(u16::from(code)));
    trailers.insert("grpc-message", HeaderValue::from_str(text).unwrap());
    trailers
}

fn response(frames: Vec<Frame<Bytes>>) -> Response<Body> {
    let frames = frames.into_iter().map(Ok).collect::<Vec<_>>();
    let body = StreamBody::new(stream::iter(frames));
    Response::builder().header("content-type", "application/grpc").body(body).unwrap()
}
