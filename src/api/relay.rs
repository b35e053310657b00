//! The output of a run that another node runs, through this one.
//!
//! The other node is asked at the address that it has published with its session, and at no other: redirects are not
//! followed, and a question that was passed on is not passed on again.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use reqwest::Client;
use tokio::sync::watch;
use tokio::time::timeout;

use super::Api;
use super::access::{TICKET_HEADER, ticket};
use super::output::{OFFSET, PARTIAL};
use super::whole::SIZE;
use crate::job::RunId;
use crate::scheduler::run::Claimant;
use crate::store::Store;

/// How long the other node has to take a connection.
pub const CONNECT_WITHIN: Duration = Duration::from_secs(1);

/// How many connections to one node are kept for the next questions.
pub const IDLE_MOST: usize = 4;

/// How long it has to begin its answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// How much it may say of itself, in bytes.
const STATUS_MOST: u64 = 64 * 1024;

/// That a question was passed on by another node.
pub(super) const RELAYED: HeaderName = HeaderName::from_static("fencron-relayed");

/// What asks other nodes: the client of the moment, whose connections are kept. Another takes its place when the
/// authorities change whose certificates it takes. Clones are the same.
#[derive(Clone, Debug)]
pub struct Relay(watch::Receiver<Client>);

impl Relay {
    pub fn new(clients: watch::Receiver<Client>) -> Relay {
        Relay(clients)
    }

    fn client(&self) -> Client {
        self.0.borrow().clone()
    }
}

/// What is asked.
pub(super) struct Question<'a> {
    /// The parameters.
    pub query: String,
    pub headers: &'a HeaderMap,
    /// Another process of the node answers as well, such as one that was started again: its files are the same.
    pub by_name: bool,
}

/// Asks the node that has claimed the run. Its answer is passed on as it comes.
///
/// # Errors
///
/// Why it cannot be asked, for a person.
pub(super) async fn ask<S: Store>(
    api: &Api<S>,
    run: &RunId,
    claimant: &Claimant,
    question: &Question<'_>,
) -> Result<Response, String> {
    let node = &claimant.node;
    let runs = if question.by_name { "ran" } else { "runs" };
    let address = {
        if question.by_name && api.status.borrow().node == *node {
            return Err("the node that ran it is this one, and has no file of it".to_owned());
        }
        let board = api.board.read();
        let by_name = board.nodes().find(|(_, record)| question.by_name && record.node == *node);
        let record = board.nodes().find(|(lease, _)| *lease == claimant.lease).or(by_name);
        let address = record.map(|(_, record)| record.address.clone());
        address.ok_or_else(|| format!("the node {node}, which {runs} it, is gone"))?
    };
    let address = address.ok_or_else(|| format!("the node {node}, which {runs} it, has no listener"))?;
    let http = api.relay.client();
    let unreachable = || format!("the node {node}, which {runs} it, cannot be reached at {address}");
    if !is_at(&http, node, &address).await {
        return Err(unreachable());
    }
    let mut asked = http.get(url(&address, &format!("/api/v1/runs/{run}/output?{}", question.query)));
    asked = asked.header(RELAYED, "1");
    let made = timeout(super::STORE_WITHIN, ticket(&api.ledger, run, api.clock.wall())).await;
    if let Ok(Ok(ticket)) = made {
        asked = asked.header(TICKET_HEADER, ticket);
    }
    for name in [header::ACCEPT, HeaderName::from_static("last-event-id")] {
        for value in question.headers.get_all(&name) {
            asked = asked.header(&name, value);
        }
    }
    let answer = timeout(ANSWER_WITHIN, asked.send()).await.map_err(|_| unreachable())?.map_err(|_| unreachable())?;
    if answer.status() != StatusCode::OK {
        return Err(format!("the node {node} at {address} answers {}", answer.status()));
    }
    let mut headers = HeaderMap::new();
    for name in [header::CONTENT_TYPE, header::CONTENT_LENGTH, OFFSET, PARTIAL, SIZE] {
        if let Some(value) = answer.headers().get(&name) {
            headers.insert(name, value.clone());
        }
    }
    Ok((headers, Body::from_stream(answer.bytes_stream())).into_response())
}

/// What the address of a node begins with that speaks TLS.
pub(crate) const WITH_TLS: &str = "https://";

/// The URL of this path at a node, whose address is `HOST:PORT`, or `https://HOST:PORT`.
pub(crate) fn url(address: &str, path: &str) -> String {
    let scheme = if address.starts_with(WITH_TLS) { "" } else { "http://" };
    format!("{scheme}{address}{path}")
}

/// Whether it is this node that answers there: a loopback address is another machine's on each.
async fn is_at(http: &Client, node: &str, address: &str) -> bool {
    let ask = async {
        let answer = http.get(url(address, "/readyz")).send().await.ok()?;
        if answer.content_length().is_none_or(|length| length > STATUS_MOST) {
            return None;
        }
        serde_json::from_slice::<serde_json::Value>(&answer.bytes().await.ok()?).ok()
    };
    let status = timeout(ANSWER_WITHIN, ask).await.ok().flatten();
    status.is_some_and(|status| status["node"].as_str() == Some(node))
}
