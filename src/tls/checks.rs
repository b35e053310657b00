//! How a connection checks the identity of the server.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WantsClientCert, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, ConfigBuilder, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

use super::{Checks, Encryption};

/// What a connection has to check.
pub(crate) fn config(checks: &Checks<'_>) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    if checks.encryption < Encryption::VerifyCa {
        let verifier = Arc::new(Lenient { provider, chain: None });
        return shown_by(checks, builder.dangerous().with_custom_certificate_verifier(verifier));
    }
    let mut roots = RootCertStore::empty();
    for certificate in certificates(checks.roots)? {
        roots.add(certificate).map_err(|error| format!("a root certificate cannot be used: {error}"))?;
    }
    if checks.encryption == Encryption::VerifyFull {
        return shown_by(checks, builder.with_root_certificates(roots));
    }
    let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .build()
        .map_err(|error| format!("the root certificates cannot be used: {error}"))?;
    let verifier = Arc::new(Lenient { provider, chain: Some(chain) });
    shown_by(checks, builder.dangerous().with_custom_certificate_verifier(verifier))
}

/// With the certificate that the client shows to the server, where it has one. It is read for each connection, so that a
/// renewed one is taken.
fn shown_by(
    checks: &Checks<'_>,
    builder: ConfigBuilder<ClientConfig, WantsClientCert>,
) -> Result<ClientConfig, String> {
    let Some((certificate, key)) = checks.identity else { return Ok(builder.with_no_client_auth()) };
    let chain = read_certificates(certificate, "certificates")?;
    let key = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| format!("the private key in {} cannot be used: {error}", key.display()))?;
    let unusable = |error| format!("the certificate in {} cannot be used: {error}", certificate.display());
    builder.with_client_auth_cert(chain, key).map_err(unusable)
}

/// The certificates of those that are trusted to vouch for a server: those in `file`, or the system's.
pub(crate) fn certificates(file: Option<&Path>) -> Result<Vec<CertificateDer<'static>>, String> {
    let Some(file) = file else {
        let native = rustls_native_certs::load_native_certs();
        return match native.certs.is_empty() {
            true => Err("this system has no root certificates: install ca-certificates, or name a file in \
                         `sslrootcert`"
                .to_owned()),
            false => Ok(native.certs),
        };
    };
    read_certificates(file, "root certificates")
}

fn read_certificates(file: &Path, what: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let unusable = |why: String| format!("the {what} in {} cannot be used: {why}", file.display());
    let found: Result<Vec<_>, _> = match CertificateDer::pem_file_iter(file) {
        Ok(certificates) => certificates.collect(),
        Err(error) => Err(error),
    };
    match found {
        Ok(found) if found.is_empty() => Err(unusable("there is no certificate (PEM) in it".to_owned())),
        Ok(found) => Ok(found),
        Err(error) => Err(unusable(error.to_string())),
    }
}

/// Takes any certificate, or any that `chain` takes but for the name in it. That the server has its key is checked all
/// the same.
#[derive(Debug)]
struct Lenient {
    provider: Arc<CryptoProvider>,
    chain: Option<Arc<WebPkiServerVerifier>>,
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
