//! The service behind a guard: it says what it did, can be held, and can fail.

use std::sync::Arc;

use http::{HeaderMap, StatusCode};
use tokio::sync::watch;

use super::door::Sent;
use crate::support::soon;

#[derive(Clone, Debug)]
pub struct Service(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    marks: watch::Sender<Vec<String>>,
    begun: watch::Sender<usize>,
    released: watch::Sender<bool>,
    failing: watch::Sender<bool>,
}

impl Service {
    pub fn new() -> Service {
        Service(Arc::new(Inner {
            marks: watch::Sender::default(),
            begun: watch::Sender::default(),
            released: watch::Sender::default(),
            failing: watch::Sender::default(),
        }))
    }

    /// Does what a request asks for.
    pub async fn answer(&self, headers: &HeaderMap, payload: &str) -> (StatusCode, String) {
        let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        let (scope, key) = (text("fencing-scope").unwrap_or_default(), text("idempotency-key"));
        let fence = text("fencing-token").map_or(0, |token| token.parse().unwrap());
        self.act(Sent { scope: &scope, fence, key: key.as_deref(), payload }).await
    }

    /// Does it.
    pub async fn act(&self, sent: Sent<'_>) -> (StatusCode, String) {
        if *self.0.failing.borrow() {
            return (StatusCode::INTERNAL_SERVER_ERROR, "failed".to_owned());
        }
        self.0.marks.send_modify(|marks| marks.push(sent.mark()));
        let count = self.0.marks.borrow().len();
        self.start();
        match sent.payload {
            "hold" => {
                self.released().await;
                self.0.marks.send_modify(|marks| marks.push(format!("{} ended", sent.mark())));
            }
            "gone" => return (StatusCode::GONE, "it is gone for good".to_owned()),
            "panic" => panic!("as it was told to"),
            _ => {}
        }
        (StatusCode::OK, format!("did {} as number {count}", sent.mark()))
    }

    /// Counts one more that has begun.
    pub fn start(&self) {
        self.0.begun.send_modify(|begun| *begun += 1);
    }

    pub async fn released(&self) {
        soon("a release", self.0.released.subscribe().wait_for(|released| *released)).await.unwrap();
    }

    pub fn marks(&self) -> Vec<String> {
        self.0.marks.borrow().clone()
    }

    pub async fn begun(&self, count: usize) {
        soon("an effect", self.0.begun.subscribe().wait_for(|begun| *begun >= count)).await.unwrap();
    }

    pub fn release(&self) {
        self.0.released.send_replace(true);
    }

    pub fn fail(&self, failing: bool) {
        self.0.failing.send_replace(failing);
    }

    pub fn failing(&self) -> bool {
        *self.0.failing.borrow()
    }
}
