//! Asking nodes over HTTP.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use reqwest::{Certificate, Client, ClientBuilder};

use super::Failure;
use super::file::Footprint;
pub(super) use crate::api::relay::{WITH_TLS, url};
use crate::execute::even_without_authorities;

/// How long a node has to take a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);

/// A client for the listeners of nodes, which trusts these authorities (PEM) beside those of the system.
pub(super) fn client(ca: Option<&Path>) -> anyhow::Result<ClientBuilder> {
    client_noting(ca, &mut Footprint::default())
}

/// The same; `files` remembers what was read.
pub(super) fn client_noting(ca: Option<&Path>, files: &mut Footprint) -> anyhow::Result<ClientBuilder> {
    let http = even_without_authorities(Client::builder());
    let http = http.no_proxy().redirect(reqwest::redirect::Policy::none()).connect_timeout(CONNECT_WITHIN);
    let Some(ca) = ca else { return Ok(http) };
    let refuse = |why: String| Failure::wrong(format!("--tls-ca: {} cannot be used: {why}", ca.display()));
    let pem = files.read(ca).map_err(|error| refuse(error.to_string()))?;
    let certificates = Certificate::from_pem_bundle(&pem).map_err(|error| refuse(error.to_string()))?;
    if certificates.is_empty() {
        return Err(refuse("there is no certificate in it".to_owned()).into());
    }
    let http = http.tls_certs_merge(certificates);
    Ok(http)
}

/// The client of these settings.
pub(super) fn built(http: ClientBuilder) -> anyhow::Result<Client> {
    http.build().context("cannot use HTTP")
}

/// The host in the address of a node.
pub(super) fn host(address: &str) -> &str {
    let plain = address.strip_prefix(WITH_TLS).unwrap_or(address);
    plain.rsplit_once(':').map_or(plain, |(host, _)| host).trim_matches(['[', ']'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_says_whether_its_node_speaks_tls() {
        for (address, at, is) in [
            ("node-1:8080", "http://node-1:8080/healthz", "node-1"),
            ("https://node-1:8080", "https://node-1:8080/healthz", "node-1"),
            ("[::1]:80", "http://[::1]:80/healthz", "::1"),
            ("https://[::1]:80", "https://[::1]:80/healthz", "::1"),
        ] {
            assert_eq!((url(address, "/healthz").as_str(), host(address)), (at, is));
        }
    }
}
