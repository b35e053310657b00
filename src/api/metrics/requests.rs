//! Requests to the listener, as they were answered.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use axum::response::Response;

use crate::api::problem::{Kind, Problem};
use crate::api::routes::Routed;
use crate::metrics::Counters;

/// The route of what is at no address, or was refused before its route was looked for.
const NO_ROUTE: &str = "";

/// How many requests were answered, and why callers were refused.
#[derive(Debug)]
pub(super) struct Requests {
    /// By route and status: both are from closed sets.
    answered: Mutex<BTreeMap<(&'static str, u16), u64>>,
    denied: Counters<&'static str>,
}

impl Default for Requests {
    fn default() -> Requests {
        let denials = Kind::ALL.iter().filter(|kind| kind.is_denial()).map(|kind| kind.name());
        Requests { answered: Mutex::default(), denied: Counters::new(denials) }
    }
}

impl Requests {
    /// Counts an answer.
    pub fn answered(&self, answer: &Response) {
        let route = answer.extensions().get::<Routed>().map_or(NO_ROUTE, |routed| routed.0);
        let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        *answered.entry((route, answer.status().as_u16())).or_default() += 1;
        drop(answered);
        let refused = answer.extensions().get::<Problem>().map(|problem| problem.kind);
        if let Some(kind) = refused.filter(|kind| kind.is_denial()) {
            self.denied.add(&kind.name(), 1);
        }
    }

    /// How many were answered, by route and status. These routes are there with the status 200 before the first request.
    pub fn read(&self, routes: &[&'static str]) -> Vec<(&'static str, String, u64)> {
        let mut all: BTreeMap<(&'static str, u16), u64> = routes.iter().map(|route| ((*route, 200), 0)).collect();
        all.extend(&*self.answered.lock().unwrap_or_else(PoisonError::into_inner));
        all.into_iter().map(|((route, status), count)| (route, status.to_string(), count)).collect()
    }

    /// How many callers were refused, by the kind of the problem.
    pub fn denied(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.denied.read().map(|(reason, count)| (*reason, count))
    }
}
