//! The client of one attempt: the certificates that it trusts and sends, the redirects that it follows, and the request
//! that it sends.

use std::fs::File;
use std::io::{self, Read};
use std::sync::{Arc, Once};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use reqwest::{Client, ClientBuilder, Request, redirect};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::OnceCell;
use tower::BoxError;
use tower::util::MapResultLayer;
use url::Url;

use crate::execute::Gate;
use crate::fence::Stamp;
use crate::job::{Http, Identity, StopReason, Text};

/// How much is read of a file of certificates or keys, in bytes.
const PEM_MOST: u64 = 1 << 20;

const USER_AGENT: &str = concat!("fencron/", env!("CARGO_PKG_VERSION"));

/// The authorities that the machine trusts: read once, when they are needed first. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Roots(Arc<OnceCell<Arc<RootCertStore>>>);

impl Roots {
    async fn of_machine(&self) -> Result<Arc<RootCertStore>, String> {
        let read = || async {
            let read = tokio::task::spawn_blocking(|| {
                let found = rustls_native_certs::load_native_certs();
                for error in &found.errors {
                    tracing::warn!(%error, "a certificate that the machine trusts cannot be read");
                }
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(found.certs);
                Arc::new(roots)
            });
            read.await.map_err(|error| format!("the certificates that the machine trusts cannot be read: {error}"))
        };
        self.0.get_or_try_init(read).await.map(Arc::clone)
    }
}

/// The settings of a client, for a machine that may trust no authority at all: where `ca-certificates` is not installed,
/// reqwest would make none, and a node that sends nothing over HTTPS needs none. What it sends over HTTPS is refused there.
pub(crate) fn even_without_authorities(http: ClientBuilder) -> ClientBuilder {
    static SAID: Once = Once::new();
    if !rustls_native_certs::load_native_certs().certs.is_empty() {
        return http;
    }
    SAID.call_once(|| {
        tracing::warn!("this machine trusts no authority: HTTPS needs ca-certificates, or a `ca` of its own")
    });
    http.tls_certs_only([])
}

/// A client for one attempt. Proxies are those of the environment.
pub(super) async fn build(http: &Http, roots: &Roots, gate: Gate) -> Result<Client, String> {
    let passed = move |result: Result<_, BoxError>| {
        let connection = result?;
        gate.pass().map_err(StopReason::as_str)?;
        Ok::<_, BoxError>(connection)
    };
    Client::builder()
        .tls_backend_preconfigured(tls(http, roots).await?)
        .connector_layer(MapResultLayer::new(passed))
        .connect_timeout(http.connect_timeout)
        .redirect(redirects(http))
        // The URL may hold a secret.
        .referer(false)
        // The job says when it is repeated.
        .retry(reqwest::retry::never())
        .pool_max_idle_per_host(0)
        .user_agent(USER_AGENT)
        .build()
        .map_err(|error| format!("cannot use HTTP: {}", error.without_url()))
}

async fn tls(http: &Http, roots: &Roots) -> Result<ClientConfig, String> {
    let roots = match http.ca.clone() {
        None => roots.of_machine().await?,
        Some(ca) => apart(move || trusted(&ca)).await?,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("cannot use TLS: {error}"))?
        .with_root_certificates(roots);
    let mut config = match http.identity.clone() {
        None => config.with_no_client_auth(),
        Some(Identity { cert, key }) => {
            let (shown, read) = (cert.clone(), move || Ok((certificates(&cert)?, private_key(&key)?)));
            let (chain, key) = apart(read).await?;
            config.with_client_auth_cert(chain, key).map_err(|error| {
                format!(
                    "the certificate in `{shown}` cannot be shown to a server: {error}: does the `key` belong to it?"
                )
            })?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Reads files without keeping a thread of the runtime.
async fn apart<T: Send + 'static>(read: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(read).await.unwrap_or_else(|error| Err(format!("reading ended: {error}")))
}

fn trusted(ca: &Text) -> Result<Arc<RootCertStore>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca)? {
        let added = roots.add(certificate);
        added.map_err(|error| format!("the file `{ca}` holds what is no certificate: {error}"))?;
    }
    Ok(Arc::new(roots))
}

pub(crate) fn certificates(file: &Text) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = read(file)?;
    let all: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&pem).collect();
    match all {
        Ok(all) if all.is_empty() => Err(format!("the file `{file}` has no certificate in PEM form in it")),
        Ok(all) => Ok(all),
        Err(error) => Err(format!("the file `{file}` is not PEM: {error}")),
    }
}

fn private_key(file: &Text) -> Result<PrivateKeyDer<'static>, String> {
    let found = PrivateKeyDer::from_pem_slice(&read(file)?);
    found.map_err(|error| format!("the file `{file}` has no private key in PEM form in it: {error}"))
}

fn read(file: &Text) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = File::open(file.expose()).and_then(|opened| {
        if !opened.metadata()?.is_file() {
            return Err(io::Error::other("it is no regular file"));
        }
        opened.take(PEM_MOST + 1).read_to_end(&mut bytes)
    });
    match read {
        Ok(length) if length as u64 > PEM_MOST => Err(format!("the file `{file}` has more than {PEM_MOST} bytes")),
        Ok(_) => Ok(bytes),
        Err(error) => Err(format!("the file `{file}` cannot be read: {error}")),
    }
}

/// Redirects stay within the origin of the URL: a request's stamp and authorization are for no other server. Those that
/// would turn it into another one (301, 302 of a POST) are not followed: it would seem done, and was not.
fn redirects(http: &Http) -> redirect::Policy {
    if http.redirects == 0 {
        return redirect::Policy::none();
    }
    let most = http.redirects as usize;
    let asks = matches!(http.method.as_str(), "GET" | "HEAD");
    redirect::Policy::custom(move |attempt| {
        let followed = attempt.previous().len();
        let same = attempt.previous().first().is_some_and(|first| first.origin() == attempt.url().origin());
        let other_request = matches!(attempt.status(), StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND) && !asks;
        if followed > most || !same || other_request { attempt.stop() } else { attempt.follow() }
    })
}

/// The request, with the job's headers and then those of the stamp, which win.
pub(super) fn request(client: &Client, http: &Http, stamp: &Stamp) -> Result<Request, String> {
    let url = Url::parse(http.url.expose()).map_err(|error| format!("this is not a URL: {error}"))?;
    let method = Method::from_bytes(http.method.as_bytes()).map_err(|error| error.to_string())?;
    let mut headers = HeaderMap::new();
    for (name, text) in &http.headers {
        let (name, mut value) = header(name, text.expose())?;
        value.set_sensitive(text.is_secret());
        headers.insert(name, value);
    }
    for (name, text) in stamp.headers() {
        let (name, value) = header(name, &text)?;
        headers.insert(name, value);
    }
    let mut request = client.request(method, url).headers(headers);
    if let Some(body) = &http.body {
        request = request.body(body.expose().to_owned());
    }
    request.build().map_err(|error| format!("cannot be made: {}", error.without_url()))
}

fn header(name: &str, text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let named =
        HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("`{name}` cannot be the name of a header"))?;
    let value = HeaderValue::from_str(text).map_err(|_| format!("the value of the header `{name}` cannot be sent"))?;
    Ok((named, value))
}
