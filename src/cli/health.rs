//! `fencron health`: asks one node whether it is healthy, for an image that has no HTTP client.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use clap::Args;
use reqwest::{Response, Url};
use serde_json::Value;

use super::listener::{Listener, Meant, published};
use super::run::node_name;
use super::terminal::Terminal;
use super::{Exit, Failure, Global, asking};

/// How long the node has to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// How much of an answer is read, in bytes.
const ANSWER_MOST: usize = 64 * 1024;

/// Where a node listens that was started as the image starts it: asked where no node has published its address.
const USUAL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

#[derive(Args)]
pub(super) struct HealthArgs {
    /// The URL to ask, like <http://127.0.0.1:8080/readyz> [default: /healthz of the node that runs here]
    #[arg(value_name = "URL", env = "FENCRON_HEALTH_URL", value_parser = http_url)]
    url: Option<Url>,
    /// The address of the node here [default: the one that it published in the state directory, or 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR", env = "FENCRON_LISTEN")]
    listen: Option<SocketAddr>,
    /// The node to ask, if several run here
    #[arg(long, env = "FENCRON_NODE", value_parser = node_name)]
    node: Option<String>,
}

fn http_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).ok().filter(|url| ["http", "https"].contains(&url.scheme()));
    url.ok_or_else(|| "write it like http://127.0.0.1:8080/readyz".to_owned())
}

/// Asks a node, and exits 0 if it is healthy, 1 if it is not.
pub(super) async fn health(args: &HealthArgs, global: &Global, terminal: &mut Terminal) -> anyhow::Result<Exit> {
    // Any free port is none that could be asked.
    let listen = args.listen.filter(|listen| listen.port() != 0);
    let (url, unless_it_answers) = match (&args.url, listen) {
        (Some(url), _) => (url.clone(), "is a node running there?"),
        (None, Some(listen)) => {
            let is_it = |one: &Listener| one.tls && one.address.port() == listen.port();
            let is_tls = published(&global.state_directory()).iter().any(is_it);
            (own(listen, is_tls)?, "is a node running, and with this --listen (FENCRON_LISTEN)?")
        }
        (None, None) => match published_here(args, global)? {
            Some(listener) => (own(listener.address, listener.tls)?, "it runs, but its listener is not well"),
            None => (own(USUAL, false)?, NOT_PUBLISHED),
        },
    };
    let http = asking::client(global.tls_ca.as_deref())?.timeout(ANSWER_WITHIN);
    // Its certificate is for the name by which others know it, and not for an address of this machine. Nothing secret is
    // sent or answered.
    let http = asking::built(http.tls_danger_accept_invalid_certs(args.url.is_none()))?;
    let answer = match http.get(url.clone()).send().await {
        Ok(answer) => answer,
        Err(error) => {
            let why = if error.is_timeout() { "does not answer" } else { "cannot be reached" };
            let url = without_password(&url);
            return Err(Failure::new(Exit::Failed, format!("the node at {url} {why}: {unless_it_answers}")).into());
        }
    };
    let status = answer.status();
    let text = read(answer).await;
    if status.is_success() {
        terminal.write(&text)?;
        return Ok(Exit::Done);
    }
    Err(Failure::new(Exit::Failed, format!("{} answers {status}{}", without_password(&url), reasons(&text))).into())
}

fn without_password(url: &Url) -> Url {
    let mut shown = url.clone();
    // No URL of HTTP refuses that.
    shown.set_password(None).ok();
    shown
}

/// The end of a message where the usual address was asked for want of a better one.
const NOT_PUBLISHED: &str = "this user runs no node here that has published its address in the state directory, so that \
                             the usual one was asked. Does the node run, as this user, and with the same --state-dir \
                             (FENCRON_STATE_DIR)? Otherwise say where it listens with --listen";

/// The listener of the node that is meant, where one is published.
fn published_here(args: &HealthArgs, global: &Global) -> Result<Option<Listener>, Failure> {
    let url = global.url()?;
    let is_named = global.store.is_some();
    let meant = Meant {
        node: args.node.as_deref(),
        namespace: global.namespace.as_deref(),
        store: Some(&url).filter(|_| is_named),
        usual: Some(&url).filter(|_| !is_named),
    };
    meant.choose(published(&global.state_directory()))
}

/// `/healthz` of the node that listens there, from the same machine.
fn own(listen: SocketAddr, is_tls: bool) -> Result<Url, Failure> {
    let host = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    let scheme = if is_tls { "https" } else { "http" };
    let url = format!("{scheme}://{}/healthz", SocketAddr::new(host, listen.port()));
    Url::parse(&url).map_err(|error| Failure::wrong(format!("--listen: {url}: {error}")))
}

/// The beginning of an answer, as far as it comes.
async fn read(mut answer: Response) -> String {
    let mut bytes = Vec::new();
    while let Ok(Some(chunk)) = answer.chunk().await {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > ANSWER_MOST {
            bytes.truncate(ANSWER_MOST);
            break;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Why, as far as the node says it; as the end of a message.
fn reasons(text: &str) -> String {
    let answer: Option<Value> = serde_json::from_str(text).ok();
    let reasons = answer.as_ref().and_then(|answer| answer["reasons"].as_array());
    let reasons: Vec<&str> = reasons.into_iter().flatten().filter_map(Value::as_str).collect();
    if reasons.is_empty() { String::new() } else { format!(": {}", reasons.join("; ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_listens_everywhere_is_asked_on_loopback() {
        for (listen, asked) in [
            ("0.0.0.0:8080", "http://127.0.0.1:8080/healthz"),
            ("[::]:80", "http://[::1]/healthz"),
            ("10.0.0.7:9090", "http://10.0.0.7:9090/healthz"),
        ] {
            assert_eq!(own(listen.parse().unwrap(), false).unwrap().as_str(), asked);
        }
    }

    #[test]
    fn the_reasons_of_a_node_are_told() {
        assert_eq!(reasons(r#"{"ready": false, "reasons": ["no session", "stopping"]}"#), ": no session; stopping");
        assert_eq!(reasons("nonsense"), "");
    }
}
