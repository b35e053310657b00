//! Whether a request is meant for this node.
//!
//! A page of an attacker can bind its own name to the address of a node (DNS rebinding). The browser then takes what the
//! node answers for its own, and lets the page read it. But it sends the name in `Host`.

use std::net::{IpAddr, Ipv6Addr};

use axum::http::uri::Authority;
use axum::http::{HeaderMap, Uri, header};

use crate::api::problem::{Kind, Problem};

/// The names of a node, beside those that no attacker can bind: addresses, `localhost`, and names below `.localhost` and
/// `.local`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts(Vec<String>);

impl Hosts {
    /// These names, without ports.
    pub fn new(names: impl IntoIterator<Item = String>) -> Hosts {
        Hosts(names.into_iter().map(|name| plain(&name)).collect())
    }

    /// That the request is meant for this node.
    pub(super) fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
        // A target with a host takes precedence over the header. A request without either is of no browser.
        let named: Vec<&str> = headers.get_all(header::HOST).iter().map(|host| host.to_str().unwrap_or("?")).collect();
        for host in uri.authority().map(Authority::as_str).into_iter().chain(named) {
            if !self.include(host) {
                let host: String = host.chars().take(100).collect();
                let detail = format!(
                    "this node is not `{host}`: call it by its address or by the name in --advertise, start it with \
                     --allowed-host for another name, or send a token"
                );
                return Err(Problem::new(Kind::WrongHost, detail));
            }
        }
        Ok(())
    }

    fn include(&self, host: &str) -> bool {
        let Some(name) = without_port(host) else { return false };
        let name = plain(name);
        is_address(&name)
            || name == "localhost"
            || name.ends_with(".localhost")
            || name.ends_with(".local")
            || self.0.contains(&name)
    }
}

fn plain(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// `None`: it is no host.
fn without_port(host: &str) -> Option<&str> {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (host, None),
    };
    // An empty port is the usual one.
    let is_port = port.is_none_or(|port| {
        port.is_empty() || (port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok())
    });
    (is_port && is_host(name)).then_some(name)
}

/// Whether it is an address in brackets, or labels of letters, digits, `-` and `_` between dots.
fn is_host(name: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    (name.starts_with('[') && name.ends_with(']')) || name.strip_suffix('.').unwrap_or(name).split('.').all(is_label)
}

fn is_address(name: &str) -> bool {
    let inner = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    inner.map_or_else(|| name.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv4()), |name| name.parse::<Ipv6Addr>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_no_attacker_can_bind_are_this_nodes() {
        let hosts = Hosts::new(["Node-1.example.org".to_owned()]);
        for (host, is_own) in [
            ("127.0.0.1:8080", true),
            ("10.0.0.7", true),
            ("[::1]:8080", true),
            ("[::1]", true),
            ("localhost:1", true),
            ("LOCALHOST", true),
            ("a.localhost", true),
            ("printer.local:80", true),
            ("node-1.example.org.:443", true),
            ("node-1.example.org", true),
            ("evil.example.org", false),
            ("node-1.example.org.evil.org", false),
            ("notlocalhost", false),
            ("local", false),
            ("127.0.0.1.evil.org", false),
            ("evil.org:127.0.0.1", false),
            ("user@localhost", false),
            ("::1", false),
            ("", false),
            (":80", false),
            ("localhost:x", false),
            ("localhost:", true),
            ("[::1]:", true),
            ("localhost:+80", false),
            ("localhost:65536", false),
            ("user@a.localhost", false),
            ("evil.org/a.localhost", false),
            ("evil.org#.local", false),
            ("a b.local", false),
            ("..local", false),
            (".localhost", false),
            ("localhost..", false),
            ("[evil.org].local", false),
            ("[::1", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            assert_eq!(hosts.check(&Uri::from_static("/"), &headers).is_ok(), is_own, "{host}");
        }
        let mut headers = HeaderMap::new();
        assert!(hosts.check(&Uri::from_static("/"), &headers).is_ok());
        headers.insert(header::HOST, "localhost".parse().unwrap());
        assert!(hosts.check(&Uri::from_static("http://evil.org/"), &headers).is_err());
        headers.append(header::HOST, "evil.org".parse().unwrap());
        assert!(hosts.check(&Uri::from_static("/"), &headers).is_err());
    }
}
