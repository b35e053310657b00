//! Sending spans to a collector, in batches.

use std::time::Duration;

use http::{HeaderValue, StatusCode, header};
use prost::Message as _;
use reqwest::Client;
use tokio::sync::mpsc;

use super::otlp::{KeyValue, Request, Resource, ResourceSpans, Scope, ScopeSpans, Span};
use super::settings::Settings;

/// How many spans are sent at once.
const BATCH: usize = 512;

/// How long a span waits for others at most.
const WAIT: Duration = Duration::from_secs(1);

/// How often a batch is sent before it is dropped.
const TRIES: u32 = 3;

/// How long is waited before a batch is sent again.
const AGAIN: Duration = Duration::from_secs(1);

/// Sends spans.
pub(super) struct Sender {
    client: Client,
    settings: Settings,
    /// Spans that were lost since the collector last took some.
    lost: usize,
}

impl Sender {
    pub fn new(settings: Settings) -> Result<Sender, String> {
        let client = Client::builder().timeout(settings.timeout).redirect(reqwest::redirect::Policy::none()).build();
        let client = client.map_err(|error| format!("cannot use HTTP: {error}"))?;
        Ok(Sender { client, settings, lost: 0 })
    }

    /// Sends what comes, until nothing more can.
    pub async fn run(mut self, mut spans: mpsc::Receiver<Span>) {
        while let Some(first) = spans.recv().await {
            let mut batch = vec![first];
            let wait = tokio::time::sleep(WAIT);
            tokio::pin!(wait);
            while batch.len() < BATCH {
                tokio::select! {
                    () = &mut wait => break,
                    span = spans.recv() => match span {
                        Some(span) => batch.push(span),
                        None => break,
                    },
                }
            }
            self.deliver(batch).await;
        }
    }

    async fn deliver(&mut self, spans: Vec<Span>) {
        let count = spans.len();
        let body = self.request(spans).encode_to_vec();
        let mut tried = self.send(body.clone()).await;
        for _ in 1..TRIES {
            match &tried {
                Err(Refused { again: true, .. }) => tokio::time::sleep(AGAIN).await,
                _ => break,
            }
            tried = self.send(body.clone()).await;
        }
        match tried {
            Ok(()) if self.lost > 0 => {
                tracing::info!(lost = self.lost, "the collector takes spans again");
                self.lost = 0;
            }
            Ok(()) => {}
            Err(Refused { why, .. }) => {
                // Once, and not for each batch: the collector is beside the point of a scheduler.
                if self.lost == 0 {
                    tracing::warn!("spans are lost, since the collector does not take them: {why}");
                }
                self.lost += count;
            }
        }
    }

    fn request(&self, spans: Vec<Span>) -> Request {
        let attributes = self.settings.resource.iter().map(|(name, value)| KeyValue::text(name, value)).collect();
        let scope = Scope { name: "fencron".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() };
        let scope_spans = vec![ScopeSpans { scope: Some(scope), spans }];
        Request { resource_spans: vec![ResourceSpans { resource: Some(Resource { attributes }), scope_spans }] }
    }

    async fn send(&self, body: Vec<u8>) -> Result<(), Refused> {
        let request = self.client.post(self.settings.endpoint.clone()).headers(self.settings.headers.clone());
        let request = request.header(header::CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        match request.body(body).send().await {
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => {
                let status = answer.status();
                let passing = [
                    StatusCode::TOO_MANY_REQUESTS,
                    StatusCode::BAD_GATEWAY,
                    StatusCode::SERVICE_UNAVAILABLE,
                    StatusCode::GATEWAY_TIMEOUT,
                ];
                Err(Refused { why: format!("it answers {status}"), again: passing.contains(&status) })
            }
            // The URL may hold a password.
            Err(error) => Err(Refused { why: error.without_url().to_string(), again: true }),
        }
    }
}

/// The collector did not take a batch.
struct Refused {
    why: String,
    /// Whether it may take it later.
    again: bool,
}
