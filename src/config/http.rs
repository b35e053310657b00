//! `http:` of a job: the keys, and how they are read.

use std::time::Duration;

use super::keys::{Key, Shape, key};
use super::walk::{Spot, Walk};
use crate::job::Http;

const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The keys of `http`.
pub static HTTP: &[&[Key]] = &[&[
    key("url", Shape::Text, "Where the request goes: `http://…` or `https://…`.").also(&["uri", "address"]),
    key("method", Shape::Text, "`GET`, `POST` and so on.").default("GET"),
]];

/// Reads the request at `spot`. What is wrong with it is noted.
pub fn read(walk: &mut Walk, spot: Spot) -> Option<Http> {
    let fields = walk.fields(&spot)?;
    let method = match fields.get("method") {
        Some(spot) => walk.text(spot)?.expose().to_uppercase(),
        None => "GET".to_owned(),
    };
    let Some(url) = fields.get("url") else {
        if !fields.meant(&["url"]) {
            walk.wrong(spot, "the request goes nowhere: give it a `url`".to_owned());
        }
        return None;
    };
    let url = walk.text(url)?;
    Some(Http { method, url, headers: Vec::new(), body: None, connect_timeout: DEFAULT_CONNECT_TIMEOUT })
}
