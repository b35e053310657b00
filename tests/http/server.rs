//! A server that the tests lead through its answers: plain threads, so that it may also hang, break off or lie.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use crate::LIMIT;
use crate::support::certificates::Certificates;

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET /path HTTP/1.1`
    pub line: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// The headers that are stamps, by name.
    pub fn stamps(&self) -> Vec<&str> {
        let stamp = |name: &str| {
            name.starts_with("fenc") || matches!(name, "idempotency-key" | "traceparent" | "authorization" | "x-key")
        };
        self.headers.iter().map(|(name, _)| name.as_str()).filter(|name| stamp(name)).collect()
    }
}

pub enum Answer {
    /// These bytes, and then the connection is closed.
    Bytes(Vec<u8>),
    /// Nothing, until the client has gone.
    Hang,
    /// These bytes, and then nothing until the client has gone.
    Then(Vec<u8>),
    /// These bytes, and then others without an end.
    Endless(Vec<u8>),
}

/// An answer with this status and these other lines of the head, and a body.
pub fn answer(status: u16, head: &str, body: impl AsRef<[u8]>) -> Answer {
    let body = body.as_ref();
    let mut bytes = format!("HTTP/1.1 {status} Told\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
    bytes.push_str(head);
    bytes.push_str("\r\n");
    Answer::Bytes([bytes.as_bytes(), body].concat())
}

pub struct Server {
    pub address: SocketAddr,
    requests: Receiver<Request>,
    gone: Receiver<()>,
}

impl Server {
    pub fn start(answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Server {
        Server::listen(None, answer)
    }

    /// One that always answers so.
    pub fn with(status: u16, head: &'static str, body: &'static str) -> Server {
        Server::start(move |_| self::answer(status, head, body))
    }

    /// One that shows `server.pem`, and with `mutual` wants to see a certificate of the same authority.
    pub fn secure(
        certificates: &Certificates,
        mutual: bool,
        answer: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Server {
        Server::listen(Some(Arc::new(Server::config(certificates, mutual))), answer)
    }

    pub fn config(certificates: &Certificates, mutual: bool) -> ServerConfig {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(certificates.path("ca.pem")).unwrap()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = match mutual {
            true => config.with_client_cert_verifier(verifier.build().unwrap()),
            false => config.with_no_client_auth(),
        };
        let chain = vec![CertificateDer::from_pem_file(certificates.path("server.pem")).unwrap()];
        let key = PrivateKeyDer::from_pem_file(certificates.path("server.key")).unwrap();
        config.with_single_cert(chain, key).unwrap()
    }

    fn listen(tls: Option<Arc<ServerConfig>>, answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let ((came, requests), (went, gone)) = (mpsc::channel(), mpsc::channel());
        let shared = Arc::new((Mutex::new((came, went)), answer));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (shared, tls) = (Arc::clone(&shared), tls.clone());
                thread::spawn(move || {
                    let (came, went) = shared.0.lock().unwrap().clone();
                    let served = match tls {
                        None => serve(stream, &came, &shared.1),
                        Some(config) => {
                            let connection = ServerConnection::new(config).unwrap();
                            serve(StreamOwned::new(connection, stream), &came, &shared.1)
                        }
                    };
                    drop(served);
                    went.send(()).ok();
                });
            }
        });
        Server { address, requests, gone }
    }

    pub fn url(&self) -> String {
        format!("http://{}/path", self.address)
    }

    pub fn secure_url(&self) -> String {
        format!("https://{}/path", self.address)
    }

    /// The next request.
    #[track_caller]
    pub fn request(&self) -> Request {
        self.requests.recv_timeout(LIMIT).expect("a request comes")
    }

    /// Whether a request has come.
    pub fn was_asked(&self) -> bool {
        self.requests.try_recv().is_ok()
    }

    /// Waits until a connection has ended.
    #[track_caller]
    pub fn client_gone(&self) {
        self.gone.recv_timeout(LIMIT).expect("the client goes");
    }
}

fn serve<S: Read + Write>(stream: S, came: &Sender<Request>, answer: &impl Fn(&Request) -> Answer) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    let request = read(&mut reader)?;
    let answer = answer(&request);
    came.send(request).ok();
    let stream = reader.get_mut();
    match answer {
        Answer::Bytes(bytes) => stream.write_all(&bytes)?,
        Answer::Then(bytes) => {
            stream.write_all(&bytes)?;
            stream.flush()?;
            return io::copy(stream, &mut io::sink()).map(drop);
        }
        Answer::Hang => return io::copy(stream, &mut io::sink()).map(drop),
        Answer::Endless(bytes) => {
            stream.write_all(&bytes)?;
            let piece = [b'x'; 64 * 1024];
            loop {
                stream.write_all(&piece)?;
            }
        }
    }
    stream.flush()?;
    Ok(())
}

fn read(reader: &mut impl BufRead) -> io::Result<Request> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let (line, mut headers) = (line.trim_end().to_owned(), Vec::new());
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match header.trim_end().split_once(':') {
            Some((name, value)) => headers.push((name.to_lowercase(), value.trim().to_owned())),
            None => break,
        }
    }
    let mut request = Request { line, headers, body: String::new() };
    let length: usize = request.header("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    request.body = String::from_utf8(body).unwrap();
    Ok(request)
}

/// An address of this machine at which nobody listens.
pub fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A socket that takes connections and says nothing, as long as it is held.
pub fn silent() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}
