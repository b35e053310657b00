//! `fencron health`: one node's own word on whether it is well, for an image that has no HTTP client.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use reqwest::{Client, Response, Url};
use serde_json::Value;

use super::terminal::Terminal;
use super::{Exit, Failure};

/// How long the node has to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// How much of an answer is read, in bytes.
const ANSWER_MOST: usize = 64 * 1024;

/// Where a node listens that was started as the image starts it.
const USUAL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

#[derive(Args)]
pub(super) struct HealthArgs {
    /// What to ask, like <http://127.0.0.1:8080/readyz> [default: /healthz of the node here, at --listen]
    #[arg(value_name = "URL", env = "FENCRON_HEALTH_URL", value_parser = http_url)]
    url: Option<Url>,
    /// Where the node here listens [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR", env = "FENCRON_LISTEN")]
    listen: Option<SocketAddr>,
}

fn http_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).ok().filter(|url| url.scheme() == "http");
    url.ok_or_else(|| "write it like http://127.0.0.1:8080/readyz".to_owned())
}

/// Asks a node, and exits 0 where it says that it is well, 1 where it does not.
pub(super) async fn health(args: &HealthArgs, terminal: &mut Terminal) -> anyhow::Result<Exit> {
    let url = match &args.url {
        Some(url) => url.clone(),
        None => own(args.listen.unwrap_or(USUAL))?,
    };
    let http = Client::builder().no_proxy().timeout(ANSWER_WITHIN).build().context("cannot use HTTP")?;
    let answer = match http.get(url.clone()).send().await {
        Ok(answer) => answer,
        Err(error) => {
            let why = if error.is_timeout() { "does not answer" } else { "cannot be reached" };
            let what_to_do = if args.url.is_none() && args.listen.is_none() {
                "no --listen (FENCRON_LISTEN) says where the node here listens, so that the address was asked where one \
                 listens that was started as the image starts it. `run` listens on any free port unless --listen names \
                 one: `fencron status` shows it"
            } else {
                "is a node running, and with this --listen?"
            };
            return Err(Failure::new(Exit::Failed, format!("the node at {url} {why}: {what_to_do}")).into());
        }
    };
    let status = answer.status();
    let text = read(answer).await;
    if status.is_success() {
        terminal.write(&text)?;
        return Ok(Exit::Done);
    }
    Err(Failure::new(Exit::Failed, format!("{url} answers {status}{}", reasons(&text))).into())
}

/// `/healthz` of the node that listens there, from the same machine.
fn own(listen: SocketAddr) -> Result<Url, Failure> {
    if listen.port() == 0 {
        let why = "--listen (FENCRON_LISTEN) names any free port, so nobody knows which: `fencron status` shows it";
        return Err(Failure::wrong(why));
    }
    let host = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    let url = format!("http://{}/healthz", SocketAddr::new(host, listen.port()));
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
            assert_eq!(own(listen.parse().unwrap()).unwrap().as_str(), asked);
        }
        assert!(own("127.0.0.1:0".parse().unwrap()).is_err());
    }

    #[test]
    fn the_reasons_of_a_node_are_told() {
        assert_eq!(reasons(r#"{"ready": false, "reasons": ["no session", "stopping"]}"#), ": no session; stopping");
        assert_eq!(reasons("nonsense"), "");
    }
}
