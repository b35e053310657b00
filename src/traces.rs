//! Traces: a span for each attempt that a node makes, sent to an OpenTelemetry collector.
//!
//! The trace is the run, and its id is computed from the run ([`Stamp::trace_id`]): attempts under different leaders are in
//! one trace, though no node passes anything on. Commands and requests receive the span of their attempt in `TRACEPARENT`
//! and `traceparent` in any case, so that what they trace themselves becomes part of the same trace.
//!
//! Spans are sent as OTLP over HTTP. Nothing waits for the collector: spans that it does not take in time are dropped, and
//! counted in the log.

mod export;
mod otlp;
mod settings;
mod span;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

pub use settings::Settings;

use crate::execute::{Execute, Work};
use crate::job::{AttemptResult, Outcome};
use span::Begun;

/// How many spans may wait to be sent. More are dropped.
pub const QUEUE: usize = 2_048;

/// An executor whose attempts are traced.
#[derive(Clone, Debug)]
pub struct Traced<E> {
    execute: E,
    /// `None`: no spans are sent.
    spans: Option<mpsc::Sender<otlp::Span>>,
}

impl<E: Execute> Traced<E> {
    /// `execute`, whose attempts are traced as `settings` say; `None`: they are not. The task sends spans, and ends after
    /// the last clone of the executor once all spans are sent or dropped.
    ///
    /// # Errors
    ///
    /// When there is no client for HTTP to be had, or when this is called outside of a runtime.
    pub fn new(execute: E, settings: Option<Settings>) -> Result<(Traced<E>, JoinHandle<()>), String> {
        let Some(settings) = settings else {
            return Ok((Traced { execute, spans: None }, tokio::spawn(async {})));
        };
        let (spans, ended) = mpsc::channel(QUEUE);
        let sender = export::Sender::new(settings)?;
        Ok((Traced { execute, spans: Some(spans) }, tokio::spawn(sender.run(ended))))
    }
}

impl<E: Execute> Execute for Traced<E> {
    async fn run(&self, work: Work) -> AttemptResult {
        let Some(spans) = &self.spans else { return self.execute.run(work).await };
        let begun = Begun::of(&work);
        let ended = self.execute.run(work).await;
        let was_made = ended.started_at.is_some() || matches!(ended.outcome, Outcome::NotStarted(_));
        if was_made && spans.try_send(begun.span(&ended)).is_err() {
            tracing::debug!("a span is dropped: too many wait for the collector");
        }
        ended
    }
}
