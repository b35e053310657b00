//! TLS of the listener: its certificate, as it changes, and which certificates of clients it takes.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use sha2::{Digest as _, Sha256};
use tokio::sync::{mpsc, watch};

use super::access::report;
use crate::api::access::{Access, certificate_ends};
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
    /// The authorities of certificates that clients may show (PEM), unless `clients.ca` in the file of --auth names them;
    /// `clients.roles` there gives the certificates roles
    #[arg(long, value_name = "FILE", env = "FENCRON_TLS_CLIENT_CA", requires = "tls_cert")]
    tls_client_ca: Option<PathBuf>,
}

/// The files of TLS.
#[derive(Clone)]
struct Files {
    cert: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
    /// The file of --auth, which may name the authorities of client certificates, and the rules that are in force.
    rules: Option<(PathBuf, Access)>,
}

impl TlsArgs {
    /// Whether the listener speaks TLS.
    pub fn is_given(&self) -> bool {
        self.tls_cert.is_some() && self.tls_key.is_some()
    }

    /// What the listener speaks, and what reads the files again; `None`: plain HTTP.
    ///
    /// # Errors
    ///
    /// A file cannot be read, or they do not fit: a node does not start without the TLS that is meant.
    pub(super) fn open(self, rules: Option<(PathBuf, Access)>) -> anyhow::Result<Option<(Tls, Watch)>> {
        let Some(files) = self.files(rules) else { return Ok(None) };
        let (loaded, footprint) = files.load();
        let loaded = loaded?;
        let (sender, receiver) = watch::channel(Arc::clone(&loaded.config));
        Ok(Some((Tls::new(receiver), Watch { files, footprint, sender, loaded })))
    }
}

impl TlsArgs {
    fn files(&self, rules: Option<(PathBuf, Access)>) -> Option<Files> {
        let (cert, key) = (self.tls_cert.clone()?, self.tls_key.clone()?);
        Some(Files { cert, key, client_ca: self.tls_client_ca.clone(), rules })
    }

    /// The files of certificates that are named.
    pub fn certificates(&self) -> impl Iterator<Item = &PathBuf> {
        self.tls_cert.iter().chain(&self.tls_client_ca)
    }

    /// Why a node would not start with these files; nothing where it would. What the file of --auth names is not looked at.
    pub fn refused(&self) -> Option<String> {
        self.files(None)?.load().0.err().map(|error| format!("{error:#}"))
    }
}

impl Files {
    fn load(&self) -> (anyhow::Result<Loaded>, Footprint) {
        let mut footprint = Footprint::default();
        let config = self.config(&mut footprint);
        (config, footprint)
    }

    fn config(&self, footprint: &mut Footprint) -> anyhow::Result<Loaded> {
        let chain = certificates("--tls-cert", &self.cert, footprint);
        let key = read("--tls-key", &self.key, footprint).and_then(|pem| {
            let key = PrivateKeyDer::from_pem_slice(&pem);
            key.map_err(|error| refused("--tls-key", &self.key, &error))
        });
        let clients = self.authorities(footprint);
        let (chain, key, clients) = (chain?, key?, clients?);
        let sum = sum_of(&chain, &key, clients.as_ref());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
        let builder = builder.context("TLS cannot be used")?;
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(roots) => {
                // Browsers and others with a token have no certificate.
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                let verifier = verifier.allow_unauthenticated().build();
                builder.with_client_cert_verifier(verifier.context("the authorities of clients cannot be used")?)
            }
        };
        let ends = chain.first().and_then(|certificate| certificate_ends(certificate));
        let config = builder.with_single_cert(chain, key);
        let mut config = config.map_err(|error| refused("--tls-cert with --tls-key", &self.cert, &error))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Loaded { config: Arc::new(config), ends, sum })
    }

    /// The authorities whose certificates clients may show; `None`: clients show none.
    fn authorities(&self, footprint: &mut Footprint) -> anyhow::Result<Option<RootCertStore>> {
        let named = self.rules.as_ref().and_then(|(rules, access)| {
            let (read, files) = file::rules(rules);
            footprint.and(files);
            // Rules that are refused leave the old ones in force, and the authorities that these name.
            let ca = read.map_or_else(|_| access.client_ca(), |rules| rules.client_ca)?;
            Some(rules.parent().map_or_else(|| ca.clone(), |directory| directory.join(&ca)))
        });
        let (option, ca) = match (self.client_ca.as_deref(), named.as_deref()) {
            (None, None) => return Ok(None),
            (Some(ca), None) => ("--tls-client-ca", ca),
            (None, Some(ca)) => ("clients.ca in the file of --auth", ca),
            (Some(_), Some(ca)) => {
                let why = "--tls-client-ca names authorities as well: leave one of the two out";
                return Err(refused("clients.ca in the file of --auth", ca, &why));
            }
        };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(option, ca, footprint)? {
            roots.add(certificate).map_err(|error| refused(option, ca, &error))?;
        }
        Ok(Some(roots))
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

/// What the files hold, as one sum.
fn sum_of(chain: &[CertificateDer<'_>], key: &PrivateKeyDer<'_>, clients: Option<&RootCertStore>) -> [u8; 32] {
    let mut sum = Sha256::new();
    chain.iter().for_each(|certificate| sum.update(certificate));
    sum.update(key.secret_der());
    let roots = clients.into_iter().flat_map(|clients| &clients.roots);
    roots.for_each(|root| {
        sum.update(&root.subject);
        sum.update(&root.subject_public_key_info);
    });
    sum.finalize().into()
}

/// Reads the files again when one has changed; what does not fit leaves the old ones in force.
pub(super) struct Watch {
    files: Files,
    footprint: Footprint,
    sender: watch::Sender<Arc<ServerConfig>>,
    /// With what the node starts.
    loaded: Loaded,
}

/// What the listener speaks.
struct Loaded {
    config: Arc<ServerConfig>,
    /// When its certificate ends.
    ends: Option<Wall>,
    /// A sum of what the files hold: the rules of who may look are among the files, and mostly change nothing here.
    sum: [u8; 32],
}

impl Watch {
    /// Goes on until it is dropped. The node receives what became of the files, and `metrics` when the certificate ends.
    pub async fn run(self, order: mpsc::Sender<Order>, metrics: Arc<Metrics>) {
        let Watch { files, footprint, sender, loaded } = self;
        metrics.certificate_ends(loaded.ends);
        let in_force = Cell::new(Some(loaded.sum));
        let take = move |loaded: anyhow::Result<Loaded>| {
            let refused = match loaded {
                Ok(loaded) if in_force.get() == Some(loaded.sum) => return,
                Ok(Loaded { config, ends, sum }) => {
                    in_force.set(Some(sum));
                    sender.send_replace(config);
                    metrics.certificate_ends(ends);
                    tracing::info!("took a new certificate of the listener, or new authorities of its clients");
                    None
                }
                Err(error) => {
                    // The same files again are news then.
                    in_force.set(None);
                    tracing::error!("the listener keeps its old certificate and authorities: {error:#}");
                    Some(format!("{error:#}"))
                }
            };
            report(&order, Beside::Tls, refused);
        };
        file::read_again(footprint, move || files.load(), take).await;
    }
}
