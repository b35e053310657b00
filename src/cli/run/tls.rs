//! TLS of the listener: its certificate, as it changes, and which certificates of clients it takes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::sync::{mpsc, watch};

use super::access::report;
use crate::api::access::certificate_ends;
use crate::cli::Failure;
use crate::cli::file::{self, Footprint};
use crate::listen::Tls;
use crate::metrics::Metrics;
use crate::node::{Beside, Order};
use crate::time::Wall;

#[derive(Args)]
pub(in crate::cli) struct TlsArgs {
    /// The certificate of the listener, with those that lead to its authority (PEM); it is read again when it changes
    #[arg(long, value_name = "FILE", env = "FENCRON_TLS_CERT", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The private key of --tls-cert (PEM)
    #[arg(long, value_name = "FILE", env = "FENCRON_TLS_KEY", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// The authorities of certificates that clients may show (PEM): `clients` in the file of --auth gives them roles
    #[arg(long, value_name = "FILE", env = "FENCRON_TLS_CLIENT_CA", requires = "tls_cert")]
    tls_client_ca: Option<PathBuf>,
}

/// The files of TLS.
#[derive(Clone)]
struct Files {
    cert: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
}

impl TlsArgs {
    /// What the listener speaks, and what reads the files again; `None`: plain HTTP.
    ///
    /// # Errors
    ///
    /// A file cannot be read, or they do not fit: a node does not start without the TLS that is meant.
    pub(super) fn open(self) -> anyhow::Result<Option<(Tls, Watch)>> {
        let Some(files) = self.files() else { return Ok(None) };
        let (loaded, footprint) = files.load();
        let (config, ends) = loaded?;
        let (sender, receiver) = watch::channel(config);
        Ok(Some((Tls::new(receiver), Watch { files, footprint, sender, ends })))
    }
}

impl TlsArgs {
    fn files(&self) -> Option<Files> {
        let (cert, key) = (self.tls_cert.clone()?, self.tls_key.clone()?);
        Some(Files { cert, key, client_ca: self.tls_client_ca.clone() })
    }

    /// The files of certificates that are named.
    pub fn certificates(&self) -> impl Iterator<Item = &PathBuf> {
        self.tls_cert.iter().chain(&self.tls_client_ca)
    }

    /// Why a node would not start with these files; nothing where it would.
    pub fn refused(&self) -> Option<String> {
        self.files()?.load().0.err().map(|error| format!("{error:#}"))
    }
}

impl Files {
    fn load(&self) -> (anyhow::Result<Loaded>, Footprint) {
        let mut footprint = Footprint::default();
        let config = self.config(&mut footprint).map(|(config, ends)| (Arc::new(config), ends));
        (config, footprint)
    }

    fn config(&self, footprint: &mut Footprint) -> anyhow::Result<(ServerConfig, Option<Wall>)> {
        let chain = certificates("--tls-cert", &self.cert, footprint);
        let key = read("--tls-key", &self.key, footprint).and_then(|pem| {
            let key = PrivateKeyDer::from_pem_slice(&pem);
            key.map_err(|error| refused("--tls-key", &self.key, &error))
        });
        let clients = self.client_ca.as_deref().map(|ca| certificates("--tls-client-ca", ca, footprint));
        let (chain, key, clients) = (chain?, key?, clients.transpose()?);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
        let builder = builder.context("TLS cannot be used")?;
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(certificates) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates {
                    let ca = self.client_ca.as_deref().unwrap_or(&self.cert);
                    roots.add(certificate).map_err(|error| refused("--tls-client-ca", ca, &error))?;
                }
                // Browsers and others with a token have no certificate.
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                let verifier = verifier.allow_unauthenticated().build();
                builder.with_client_cert_verifier(verifier.context("--tls-client-ca cannot be used")?)
            }
        };
        let ends = chain.first().and_then(|certificate| certificate_ends(certificate));
        let config = builder.with_single_cert(chain, key);
        let mut config = config.map_err(|error| refused("--tls-cert with --tls-key", &self.cert, &error))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok((config, ends))
    }
}

fn read(option: &str, path: &Path, footprint: &mut Footprint) -> anyhow::Result<Vec<u8>> {
    footprint.read(path).map_err(|error| refused(option, path, &error))
}

fn certificates(option: &str, path: &Path, footprint: &mut Footprint) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let pem = read(option, path, footprint)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let all = all.map_err(|error| refused(option, path, &error))?;
    if all.is_empty() {
        return Err(refused(option, path, &"there is no certificate in it"));
    }
    Ok(all)
}

fn refused(option: &str, path: &Path, why: &dyn std::fmt::Display) -> anyhow::Error {
    Failure::wrong(format!("{option}: {} cannot be used: {why}", path.display())).into()
}

/// Reads the files again when one has changed; what does not fit leaves the old ones in force.
pub(super) struct Watch {
    files: Files,
    footprint: Footprint,
    sender: watch::Sender<Arc<ServerConfig>>,
    /// When the certificate ends with which the node starts.
    ends: Option<Wall>,
}

/// What the listener shows, and when its certificate ends.
type Loaded = (Arc<ServerConfig>, Option<Wall>);

impl Watch {
    /// Goes on until it is dropped. The node receives what became of the files, and `metrics` when the certificate ends.
    pub async fn run(self, order: mpsc::Sender<Order>, metrics: Arc<Metrics>) {
        let Watch { files, footprint, sender, ends } = self;
        metrics.certificate_ends(ends);
        let take = |loaded: anyhow::Result<Loaded>| {
            let refused = match loaded {
                Ok((config, ends)) => {
                    sender.send_replace(config);
                    metrics.certificate_ends(ends);
                    tracing::info!("took a new certificate of the listener");
                    None
                }
                Err(error) => {
                    tracing::error!("the listener keeps its old certificate: {error:#}");
                    Some(format!("{error:#}"))
                }
            };
            report(&order, Beside::Tls, refused);
        };
        file::read_again(footprint, move || files.load(), take).await;
    }
}
