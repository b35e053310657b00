//! `http:` of a job: the keys, and how they are read.

use std::path::Path as FilePath;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};
use serde_json::{Map, Number, Value as Json};
use url::Url;

use super::draft::Draft;
use super::fill::Filled;
use super::keys::{self, MILLISECOND, Shape, Tables, count, duration, key, named};
use super::problem::quoted;
use super::tree::Value as Node;
use super::values::Value;
use super::walk::{Fields, Path, Spot, Walk};
use crate::fence::header;
use crate::job::{Http, Identity, RetryOn, StatusRange, Statuses, Task, Text};

/// The longest wait for a connection.
pub const MAX_CONNECT_TIMEOUT: Duration = Duration::from_secs(600);
/// How many headers a request may set.
pub const MAX_HEADERS: usize = 100;
/// The longest URL, in bytes: few servers take a longer one.
pub const MAX_URL_BYTES: usize = 8_000;
/// The longest value of a header, in bytes.
pub const MAX_HEADER_BYTES: usize = 16_384;
/// The longest body, in bytes.
pub const MAX_BODY_BYTES: usize = 1 << 20;
/// How many redirects may be followed.
pub const MAX_REDIRECTS: u32 = 10;
/// How many statuses, classes and ranges a list may have.
pub const MAX_STATUSES: usize = 100;

/// A request that could not be sent.
const CONNECT: &str = "connect";
/// A request that was sent, and to which no whole answer came.
const NO_ANSWER: &str = "no_answer";

/// The keys of `http`.
#[rustfmt::skip]
pub static HTTP: Tables = &[&[
    key("url", Shape::Text, "The URL of the request: `http://…` or `https://…`.").also("uri address endpoint"),
    key("method", Shape::Text, "`GET`, `POST` and so on; by default `POST` with a body, `GET` without.")
        .also("verb"),
    key("headers", named(&Shape::Text, MAX_HEADERS, "headers are too many: a request sets at most"),
        "Headers to send, beside those with the fence and the occurrence.")
        .also("header"),
    key("body", Shape::Text, "The body to send, as it is.").also("data payload content"),
    key("json", Shape::Any, "The body to send, as JSON. A text with `${…}` in it stays a text."),
    key("expect", Shape::Texts { most: MAX_STATUSES },
        "The statuses that mean success: `200`, `2xx`, `200-204`, or a list of these.")
        .default("2xx").also("status expected success expect_status").to(|d| &mut d.http.expect),
    key("retry_on", Shape::Texts { most: MAX_STATUSES },
        "The results after which `retry` repeats it: `connect` (it could not be sent), `no_answer` (it was sent, and no \
         whole answer came), statuses; without it: both, 408, 425, 429 and 5xx.")
        .also("retry retryable").to(|d| &mut d.http.retry_on),
    key("redirects", count(0, MAX_REDIRECTS), "How many redirects are followed, within the origin of the URL.")
        .default("0").also("follow follow_redirects max_redirects").to(|d| &mut d.http.redirects),
    key("ca", Shape::Text, "A file of the certificates (PEM) to trust instead of those that the machine trusts.")
        .also("ca_file cacert ca_cert"),
    key("cert", Shape::Text, "A file with the certificate (PEM) to show to the server.")
        .also("cert_file client_cert certificate"),
    key("key", Shape::Text, "A file with the private key (PEM) of `cert`.").also("key_file client_key"),
    key("connect_timeout", duration(MILLISECOND, MAX_CONNECT_TIMEOUT),
        "How long connecting may take, from the look-up of the name to the end of the TLS handshake.")
        .default("10s").to(|d| &mut d.http.connect_timeout),
]];

/// Reads the request at `spot`. What is wrong with it is noted, all of it.
pub fn read(walk: &mut Walk, spot: Spot, draft: &mut Draft) -> Option<Task> {
    let wrong_before = walk.wrong.count();
    let fields = walk.fields(&spot)?;
    draft.lay(walk, &fields);
    let url = fields.need(walk, "url", spot, "the request goes nowhere: give it a `url`");
    let url = url.and_then(|spot| read_url(walk, spot));
    let mut headers = fields.get("headers").map(|spot| read_headers(walk, spot)).unwrap_or_default();
    let body = read_body(walk, &fields, &mut headers);
    let default = if body.is_some() { "POST" } else { "GET" };
    let method = fields.get("method").map_or(Some(default.to_owned()), |spot| read_method(walk, spot, body.is_some()));
    let (ca, identity) = read_files(walk, &fields, url.as_ref());
    if walk.wrong.count() > wrong_before {
        return None;
    }
    let http = Http { method: method?, url: url?, headers, body, ca, identity, ..draft.http.clone() };
    Some(Task::Http(Box::new(http)))
}

/// A text of at most `most` bytes.
fn read_text(walk: &mut Walk, spot: Spot, most: usize) -> Option<Text> {
    let filled = walk.filled("a text (\"\" for an empty one)", spot)?;
    if filled.text.len() > most {
        return walk.refuse(spot, format!("this text has {} bytes: at most {most} are sent", filled.text.len()));
    }
    Some(if filled.secret { Text::secret(filled.text) } else { Text::plain(filled.text) })
}

pub fn read_url(walk: &mut Walk, spot: Spot) -> Option<Text> {
    let (text, url) = read_link(walk, spot)?;
    if url.is_some_and(|url| url.fragment().is_some()) {
        walk.odd(spot, "what follows the `#` is not sent");
    }
    Some(text)
}

/// A URL; `None` beside its text: a part of that is left open.
pub fn read_link(walk: &mut Walk, spot: Spot) -> Option<(Text, Option<Url>)> {
    let text = read_text(walk, spot, MAX_URL_BYTES)?;
    if walk.is_open(&text) {
        return Some((text, None));
    }
    let why = match Url::parse(text.expose()) {
        Err(error) => format!("is not a URL: {error}"),
        Ok(url) if !matches!(url.scheme(), "http" | "https") => "is not an `http://` or `https://` URL".to_owned(),
        Ok(url) if url.port() == Some(0) => "names port 0, on which no server listens".to_owned(),
        Ok(url) => {
            if !url.password().unwrap_or_default().is_empty() && !text.is_secret() {
                walk.odd(spot, "there is a password in this URL: fill it in with `${…}`");
            }
            return Some((text, Some(url)));
        }
    };
    let shown = if text.is_secret() { "what `${…}` stands for here".to_owned() } else { quoted(text.expose()) };
    walk.refuse(spot, format!("{shown} {why}: write it like `https://example.org/path`"))
}

fn read_method(walk: &mut Walk, spot: Spot, has_body: bool) -> Option<String> {
    let method = walk.read("a method", spot, |text| {
        let method = text.to_uppercase();
        match Method::from_bytes(method.as_bytes()) {
            Ok(Method::CONNECT | Method::TRACE) | Err(_) => {
                Err("is not a method that a job can use: write `GET`, `POST`, `PUT`, `PATCH`, `DELETE` or the like"
                    .into())
            }
            Ok(_) => Ok(method),
        }
    })?;
    if has_body && matches!(method.as_str(), "GET" | "HEAD") {
        walk.odd(spot, format!("a body has no meaning in a {method}, and some servers refuse it: is it a POST?"));
    }
    Some(method)
}

/// Whether a header is set by what frames the message, for this connection, or from the URL.
fn frames(name: &str) -> bool {
    let of_proxies = matches!(name, "proxy-authorization" | "proxy-connection");
    let of_bodies = matches!(name, "content-length" | "expect" | "te" | "trailer" | "transfer-encoding");
    of_proxies || of_bodies || matches!(name, "connection" | "host" | "keep-alive" | "upgrade")
}

const STAMPED: &[&str] = &[header::IDEMPOTENCY_KEY, header::TRACEPARENT];
/// What the names of the other headers of a stamp begin with.
const STAMPED_PREFIXES: &[&str] = &["fencing-", "fencron-"];

pub fn read_headers(walk: &mut Walk, spot: Spot) -> Vec<(String, Text)> {
    let mut headers: Vec<(String, Text)> = Vec::new();
    for entry in walk.entries(spot).unwrap_or_default() {
        let (at, name) = (spot.value_of(&entry), entry.name);
        let plain = name.to_ascii_lowercase();
        let stamped = STAMPED_PREFIXES.iter().any(|prefix| plain.starts_with(prefix));
        let at_key = Spot { node: entry.key, ..at };
        if HeaderName::from_bytes(name.as_bytes()).is_err() {
            walk.wrong(at_key, format!("{} cannot be the name of a header", quoted(name)));
        } else if stamped || STAMPED.contains(&plain.as_str()) {
            walk.wrong(at_key, format!("{} is set by fencron for every request: remove it", quoted(name)));
        } else if frames(&plain) {
            let from = "is not for a job to set: it follows from the URL, the body or the connection";
            walk.wrong(at_key, format!("{} {from}", quoted(name)));
        } else if headers.iter().any(|(other, _)| *other == plain) {
            let twice = format!("the header {} is given twice: upper and lower case are the same", quoted(name));
            walk.wrong(at_key, twice);
        }
        let Some(text) = read_text(walk, at, MAX_HEADER_BYTES) else { continue };
        if HeaderValue::from_str(text.expose()).is_err() {
            walk.wrong(at, "a header's value is ASCII, without line ends and other control characters");
        }
        headers.push((plain, text));
    }
    headers
}

fn read_body(walk: &mut Walk, fields: &Fields, headers: &mut Vec<(String, Text)>) -> Option<Text> {
    match (fields.get("body"), fields.get("json")) {
        (Some(spot), None) => read_text(walk, spot, MAX_BODY_BYTES),
        (None, Some(spot)) => {
            let mut secret = false;
            let mut text = |_: &mut Walk, _: Spot, filled: Filled| {
                secret |= filled.secret;
                Some(filled.text.into_owned())
            };
            let json = read_json(walk, spot, &mut text)?.to_string();
            if json.len() > MAX_BODY_BYTES {
                return walk
                    .refuse(spot, format!("this has {} bytes as JSON: at most {MAX_BODY_BYTES} are sent", json.len()));
            }
            if !headers.iter().any(|(name, _)| name == "content-type") {
                headers.push(("content-type".to_owned(), Text::plain("application/json")));
            }
            Some(if secret { Text::secret(json) } else { Text::plain(json) })
        }
        (Some(_), Some(spot)) => walk.refuse(spot, "a request has a `body` or a `json`, not both: remove one of them"),
        (None, None) => None,
    }
}

/// What makes a text of JSON of what stands in the file; `None`: it cannot be one.
type ReadText<'r> = &'r mut dyn FnMut(&mut Walk, Spot, Filled) -> Option<String>;

/// A value as JSON: what is written like a number, `true`, `false` or `null` of JSON and without quotes is that, any
/// other scalar a text.
pub(super) fn read_json(walk: &mut Walk, spot: Spot, read_text: ReadText) -> Option<Json> {
    let tree = walk.tree;
    match tree.value(spot.node) {
        Node::Null => Some(Json::Null),
        Node::Text { text: "true", plain: true } => Some(Json::Bool(true)),
        Node::Text { text: "false", plain: true } => Some(Json::Bool(false)),
        Node::Text { text, plain } => match serde_json::from_str::<Number>(text) {
            Ok(number)
                if plain && number.is_f64() && text.trim_start_matches('-').bytes().all(|b| b.is_ascii_digit()) =>
            {
                walk.refuse(
                    spot,
                    format!("{} is too large to be kept exact as a number: put it in quotes", quoted(text)),
                )
            }
            Ok(number) if plain => Some(Json::Number(number)),
            _ => {
                let filled = walk.filled("a value", spot)?;
                read_text(walk, spot, filled).map(Json::String)
            }
        },
        Node::List(items) => {
            let mut list = Vec::new();
            for (index, node) in items.enumerate() {
                list.extend(read_json(walk, Spot { node, path: Path::Item(&spot.path, index), ..spot }, read_text));
            }
            Some(Json::Array(list))
        }
        Node::Map(_) => {
            let mut map = Map::new();
            for entry in walk.entries(spot)? {
                let value = read_json(walk, spot.value_of(&entry), read_text);
                map.extend(value.map(|value| (entry.name.to_owned(), value)));
            }
            Some(Json::Object(map))
        }
        Node::Broken => None,
    }
}

impl Value for Statuses {
    fn read(walk: &mut Walk, spot: Spot) -> Option<Statuses> {
        let items = walk.items("a status, or a list of them", &spot)?;
        let read =
            |item: &Spot| walk.read("a status", *item, |text| text.parse::<StatusRange>().map_err(|e| e.to_string()));
        Some(items.iter().filter_map(read).collect())
    }
}

impl Value for Option<RetryOn> {
    fn read(walk: &mut Walk, spot: Spot) -> Option<Option<RetryOn>> {
        let items = walk.items("`connect`, `no_answer` or statuses, or a list of these", &spot)?;
        let (mut connect, mut no_answer, mut statuses) = (false, false, Vec::new());
        for item in items {
            let range = walk.read("a status", item, |text| {
                connect |= text == CONNECT;
                no_answer |= text == NO_ANSWER;
                match text {
                    CONNECT | NO_ANSWER => Ok(None),
                    "timeout" | "reset" => {
                        Err(format!("is not distinguished here: after sending, it is `{NO_ANSWER}`"))
                    }
                    _ => text.parse::<StatusRange>().map(Some).map_err(|error| {
                        let meant = keys::nearest(text, [CONNECT, NO_ANSWER].into_iter());
                        meant.map_or(format!("{error}; or `{CONNECT}` or `{NO_ANSWER}`"), |meant| {
                            format!("is not known here: did you mean `{meant}`?")
                        })
                    }),
                }
            });
            statuses.extend(range.flatten());
        }
        Some(Some(RetryOn { connect, no_answer, statuses: statuses.into_iter().collect() }))
    }
}

/// `ca`, `cert` and `key`. What the files hold is read when a request is made: they are renewed at times.
fn read_files(walk: &mut Walk, fields: &Fields, url: Option<&Text>) -> (Option<Text>, Option<Identity>) {
    let ca = fields.get("ca").and_then(|spot| read_pem(walk, spot, "-----BEGIN CERTIFICATE-----", "certificate"));
    let cert = fields.get("cert").and_then(|spot| read_pem(walk, spot, "-----BEGIN CERTIFICATE-----", "certificate"));
    let key = fields.get("key").and_then(|spot| read_pem(walk, spot, "PRIVATE KEY-----", "private key"));
    for (given, other) in [("cert", "key"), ("key", "cert")] {
        if let (Some(spot), None) = (fields.get(given), fields.get(other)) {
            walk.wrong(
                spot,
                format!("`{given}` needs a `{other}`: a client shows its certificate and proves that it is its own"),
            );
        }
    }
    let plain_http =
        url.is_some_and(|url| url.expose().get(..5).is_some_and(|start| start.eq_ignore_ascii_case("http:")));
    if let Some(spot) = fields.first_of(&["ca", "cert", "key"]).filter(|_| plain_http) {
        walk.odd(spot, "this does nothing: the URL is not an `https://` one");
    }
    (ca, cert.zip(key).map(|(cert, key)| Identity { cert, key }))
}

/// The name of a file that has `mark` in it.
pub(super) fn read_pem(walk: &mut Walk, spot: Spot, mark: &str, what: &str) -> Option<Text> {
    let name = walk.text(spot)?;
    // Where secrets are not to be had, neither are the files of certificates.
    if walk.sources.open {
        walk.left_open += 1;
        return Some(name);
    }
    let shown = if name.is_secret() { "that `${…}` names here".to_owned() } else { quoted(name.expose()) };
    let message = match (walk.sources.file)(FilePath::new(name.expose())) {
        Err(error) => format!("the file {shown} cannot be read: {error}"),
        Ok(text) if text.contains("ENCRYPTED") => {
            format!("the key in the file {shown} is encrypted: store it decrypted")
        }
        Ok(text) if !text.contains(mark) => format!("the file {shown} has no {what} in PEM form in it"),
        Ok(_) => return Some(name),
    };
    walk.refuse(spot, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, parse};

    fn request(keys: &str) -> Http {
        let text =
            format!("version: 1\njobs:\n  x:\n    schedule: '@daily'\n    http:\n      url: http://localhost/\n{keys}");
        let sources = Sources {
            env: &|name| (name == "TOKEN").then(|| "hunter2".to_owned()),
            file: &|_| Ok("-----BEGIN CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----\n".to_owned()),
            ..Sources::none()
        };
        let config = parse(&text, &sources).unwrap_or_else(|problems| panic!("{problems}"));
        let job = config.jobs.values().next().unwrap();
        let Task::Http(http) = &job.task else { panic!("no request") };
        Http::clone(http)
    }

    #[test]
    fn a_request_needs_no_more_than_a_url() {
        let http = request("");
        assert_eq!((http.method.as_str(), http.redirects, http.body), ("GET", 0, None));
        assert_eq!((http.expect, http.retry_on), (Statuses::successful(), None));
    }

    #[test]
    fn what_is_sent_makes_it_a_post() {
        assert_eq!(request("      body: a\n").method, "POST");
        assert_eq!(request("      body: a\n      method: put\n").method, "PUT");
    }

    #[test]
    fn json_keeps_what_json_has_and_takes_the_rest_as_texts() {
        let http = request("      json: {n: 1.5, i: -3, t: true, z: null, s: '1', o: 0x1f, d: 007, l: [a, {b: ~}]}\n");
        let body = http.body.unwrap();
        let json = r#"{"d":"007","i":-3,"l":["a",{"b":null}],"n":1.5,"o":"0x1f","s":"1","t":true,"z":null}"#;
        assert_eq!((body.expose(), body.is_secret()), (json, false));
        assert_eq!(http.headers, [("content-type".to_owned(), Text::plain("application/json"))]);
    }

    #[test]
    fn json_with_a_secret_in_it_is_one() {
        let http = request("      json: {token: 'a ${TOKEN}'}\n      headers: {Content-Type: application/x+json}\n");
        let body = http.body.unwrap();
        assert_eq!((body.expose(), body.is_secret()), (r#"{"token":"a hunter2"}"#, true));
        assert_eq!(http.headers, [("content-type".to_owned(), Text::plain("application/x+json"))]);
    }

    #[test]
    fn statuses_are_a_word_or_a_list() {
        let http = request("      expect: 204\n      retry_on: [connect, 503, 520-530]\n");
        assert_eq!(http.expect.to_string(), "204");
        let retry_on = http.retry_on.unwrap();
        assert!(retry_on.connect && !retry_on.no_answer);
        assert_eq!(retry_on.statuses.to_string(), "503, 520-530");
    }

    #[test]
    fn a_client_is_known_by_its_files() {
        let http = request("      ca: ca.pem\n      cert: c.pem\n      key: k.pem\n");
        assert_eq!(http.ca, Some(Text::plain("ca.pem")));
        assert_eq!(http.identity, Some(Identity { cert: Text::plain("c.pem"), key: Text::plain("k.pem") }));
    }
}
