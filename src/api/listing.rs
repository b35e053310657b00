//! Lists in pages, and the tags by which a client learns that nothing has changed.
//!
//! A tag is made from what is answered and not from a version of this node: every node gives the same answer the same
//! tag, and what changes with the time alone, as being late does, changes the tag.

use std::collections::BTreeMap;
use std::str::FromStr;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::problem::Problem;
use crate::board::PAGE_MOST;

/// How many rows a page has by default.
pub const PAGE_USUAL: usize = 50;

/// The longest cursor, in bytes.
const CURSOR_MOST: usize = 1_024;

/// How much of a hash is a tag, in bytes.
const TAG_BYTES: usize = 12;

/// A page of a list.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "{T}Page")]
pub struct Listing<T> {
    /// The rows, in the order of the list.
    pub items: Vec<T>,
    /// The `after` of the next page; `null`: this is the last one.
    pub next: Option<String>,
    /// Grows with every change of what the node knows; it starts anew with the process.
    pub revision: u64,
    /// The parameters that were applied, those among them that were not given.
    pub applied: Applied,
    /// Where the search has ended before the page was full: verdicts from before this instant were not looked at. `next`
    /// goes on from there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scanned_to: Option<crate::time::Wall>,
    /// There is more than is listed, and no next page: ask for less.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cut: bool,
}

/// The parameters that were applied, by their names.
pub type Applied = BTreeMap<&'static str, Value>;

/// What was applied, as JSON: what cannot be written is none of it.
pub(super) fn applied<const N: usize>(given: [(&'static str, Value); N]) -> Applied {
    given.into_iter().filter(|(_, value)| !value.is_null()).collect()
}

impl<T> Listing<T> {
    /// A list that has no further pages.
    pub(super) fn whole(items: Vec<T>, revision: u64, applied: Applied) -> Listing<T> {
        Listing { items, next: None, revision, applied, scanned_to: None, cut: false }
    }
}

/// How many rows a page has.
pub(super) fn limit(asked: Option<usize>) -> Result<usize, Problem> {
    number("limit", asked, (PAGE_USUAL, PAGE_MOST))
}

/// The number that the parameter of this name asks for: from 1 to the most, and the usual one where none is asked for.
pub(super) fn number(name: &str, asked: Option<usize>, (usual, most): (usize, usize)) -> Result<usize, Problem> {
    let number = asked.unwrap_or(usual);
    let is_right = (1..=most).contains(&number);
    is_right.then_some(number).ok_or_else(|| Problem::parameter(name, format!("a number from 1 to {most}")))
}

/// A place in a list, as clients carry it: they learn nothing from it, so that it may change.
pub(super) fn cursor(place: &str) -> String {
    place.bytes().map(|byte| format!("{byte:02x}")).collect()
}

/// The place that a cursor stands for.
pub(super) fn place<T: FromStr>(cursor: Option<&str>) -> Result<Option<T>, Problem> {
    let Some(cursor) = cursor else { return Ok(None) };
    let wrong = || Problem::parameter("after", "is no place in this list: take the `next` of the page before");
    let digits = cursor.as_bytes();
    if digits.len() > CURSOR_MOST || !digits.len().is_multiple_of(2) || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(wrong());
    }
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let bytes: Option<Vec<u8>> = digits.chunks(2).map(byte).collect();
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    text.and_then(|text| text.parse().ok()).map(Some).ok_or_else(wrong)
}

/// What of a request decides how its answer is sent.
#[derive(Clone, Debug, Default)]
pub(super) struct Sent {
    if_none_match: Option<String>,
    query: String,
}

impl<State: Sync> FromRequestParts<State> for Sent {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &State) -> Result<Sent, Self::Rejection> {
        let tags = parts.headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
        let tags = tags.collect::<Vec<_>>().join(",");
        let query = parts.uri.query().unwrap_or_default().to_owned();
        Ok(Sent { if_none_match: Some(tags).filter(|tags| !tags.is_empty()), query })
    }
}

impl Sent {
    /// Answers with one thing, or that the client has it already.
    pub fn answer<T: Serialize>(&self, body: &T) -> Response {
        self.tagged(&tag_of(body), written(body))
    }

    /// Answers with one thing of this version, or that the client has it already.
    pub fn versioned<T: Serialize>(&self, version: u64, body: &T) -> Response {
        self.tagged(&format!("\"{version}\""), written(body))
    }

    /// Answers with a page, or that the client has it already.
    pub fn page<T: Serialize>(&self, page: &Listing<T>) -> Response {
        // Weak: the revision may be another one where nothing of this page has changed.
        let content = (&page.items, &page.next, &page.applied, page.scanned_to, page.cut);
        let mut answer = self.tagged(&tag_of(&content), written(page));
        if let Some(link) = page.next.as_deref().and_then(|next| self.link(next)) {
            answer.headers_mut().insert(header::LINK, link);
        }
        answer
    }

    fn tagged(&self, tag: &str, text: String) -> Response {
        let mut answer = match self.has(tag) {
            true => StatusCode::NOT_MODIFIED.into_response(),
            false => (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], text).into_response(),
        };
        if let Ok(tag) = HeaderValue::from_str(tag) {
            answer.headers_mut().insert(header::ETAG, tag);
        }
        answer
    }

    /// Whether the client says that it has what bears this tag, by the weak comparison of RFC 9110.
    fn has(&self, tag: &str) -> bool {
        let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
        let own = opaque(tag);
        self.if_none_match
            .as_deref()
            .is_some_and(|tags| tags.trim() == "*" || tags.split(',').any(|tag| opaque(tag) == own))
    }

    /// Where the next page is: the same question, from behind this one.
    fn link(&self, next: &str) -> Option<HeaderValue> {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(url::form_urlencoded::parse(self.query.as_bytes()).filter(|(name, _)| name != "after"));
        query.append_pair("after", next);
        // Relative, so that any prefix may stand before the API.
        HeaderValue::from_str(&format!("<?{}>; rel=\"next\"", query.finish())).ok()
    }
}

/// What only becomes older or younger with the time. It is no part of a tag, or nothing would ever be unchanged.
const AGES: [&str; 5] = ["last_sign_ms", "as_of", "looked_at", "trusted_ms", "took_ms"];

/// The tag of what is answered. It is weak, since the ages may be others.
fn tag_of<T: Serialize>(content: &T) -> String {
    let mut content = serde_json::to_value(content).expect("what is answered has only text keys");
    forget_ages(&mut content);
    format!("W/\"{}\"", hash(content.to_string().as_bytes()))
}

fn forget_ages(value: &mut Value) {
    match value {
        Value::Object(members) => {
            AGES.iter().for_each(|age| drop(members.remove(*age)));
            // What a jobs file says may have any names, and is no age.
            members.iter_mut().filter(|(name, _)| *name != "definition").for_each(|(_, value)| forget_ages(value));
        }
        Value::Array(values) => values.iter_mut().for_each(forget_ages),
        _ => {}
    }
}

fn written<T: Serialize>(body: &T) -> String {
    serde_json::to_string_pretty(body).expect("what is answered has only text keys") + "\n"
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes)[..TAG_BYTES].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::RunId;

    #[test]
    fn a_cursor_reads_back_and_what_is_none_is_refused() {
        let run: RunId = "a@2026-11-21T02:00:00Z".parse().unwrap();
        assert_eq!(place::<RunId>(Some(&cursor(run.as_str()))).unwrap(), Some(run));
        assert_eq!(place::<RunId>(None).unwrap(), None);
        for wrong in ["x", "é", "0", "zz", "ff", "61", "", &"61".repeat(CURSOR_MOST)] {
            let problem = place::<RunId>(Some(wrong)).unwrap_err();
            assert!(problem.detail.starts_with("after: "), "{wrong}: {}", problem.detail);
        }
    }

    #[test]
    fn a_tag_is_known_again_among_others() {
        for (sent, has) in
            [("\"a\"", true), ("W/\"a\"", true), ("\"x\", W/\"a\"", true), ("*", true), ("\"b\"", false), ("a", false)]
        {
            let sent = Sent { if_none_match: Some(sent.to_owned()), query: String::new() };
            assert_eq!((sent.has("\"a\""), sent.has("W/\"a\"")), (has, has), "{sent:?}");
        }
        assert!(!Sent::default().has("\"a\""));
    }

    #[test]
    fn the_next_page_keeps_the_filters() {
        let sent = Sent { if_none_match: None, query: "q=a%20b&after=00&limit=2".to_owned() };
        assert_eq!(sent.link("6a").unwrap(), "<?q=a+b&limit=2&after=6a>; rel=\"next\"");
    }

    #[test]
    fn what_has_only_become_older_has_the_same_tag() {
        let sent = Sent::default();
        let node = |name: &str, age| serde_json::json!({"items": [{"node": name, "last_sign_ms": age}], "as_of": age});
        let tag = |name, age| sent.answer(&node(name, age)).headers()["etag"].clone();
        assert_eq!(tag("a", 1), tag("a", 4_000));
        assert_ne!(tag("a", 1), tag("b", 1));
        // A variable of a job is no age, whatever it is called.
        let detail = |value| serde_json::json!({"definition": {"env": {"as_of": value}}});
        let tag = |value| sent.answer(&detail(value)).headers()["etag"].clone();
        assert_ne!(tag("monday"), tag("tuesday"));
    }

    #[test]
    fn the_same_rows_have_the_same_tag_whatever_else_the_node_has_heard() {
        let page = |revision| Sent::default().page(&Listing::whole(vec![1, 2], revision, Applied::new()));
        assert_eq!(page(1).headers()["etag"], page(2).headers()["etag"]);
    }
}
