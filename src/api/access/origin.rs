//! Whether a request that changes something was meant by its caller, and not made by a page of another site in the
//! caller's browser.

use axum::http::{HeaderMap, Method, header};

use super::Caller;
use crate::api::problem::{Kind, Problem};

/// Where a browser says from what kind of page a request comes. No page can set it.
const FETCH_SITE: &str = "sec-fetch-site";

/// That a request may change something: it reads, it comes from a page of this node, or it bears what no browser sends
/// by itself.
pub(in crate::api) fn check(method: &Method, headers: &HeaderMap, caller: Option<&Caller>) -> Result<(), Problem> {
    if method.is_safe() || caller.is_some_and(Caller::bears) {
        return Ok(());
    }
    let text = |value: &axum::http::HeaderValue| value.to_str().unwrap_or("?").to_owned();
    let site = headers.get(FETCH_SITE).map(text);
    let origin = headers.get(header::ORIGIN).map(text);
    let is_own = match (&site, &origin) {
        (Some(site), _) => matches!(site.as_str(), "same-origin" | "none"),
        // Browsers send no `Sec-Fetch-Site` over plain HTTP, but to loopback.
        (None, Some(origin)) => {
            let host = headers.get(header::HOST).map(text).unwrap_or_default();
            origin.split_once("://").is_some_and(|(_, of)| !host.is_empty() && of.eq_ignore_ascii_case(&host))
        }
        (None, None) => false,
    };
    if is_own {
        return Ok(());
    }
    let detail = match (site, origin) {
        (None, None) => "a request that changes something comes from a page of this node, or bears a token".to_owned(),
        (_, origin) => {
            let from: String = origin.unwrap_or_else(|| "another site".to_owned()).chars().take(100).collect();
            format!("this request comes from a page of {from}: only pages of this node may change something")
        }
    };
    Err(Problem::new(Kind::ForeignOrigin, detail))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::access::{By, Role};

    #[test]
    fn only_pages_of_this_node_and_tokens_change_something() {
        let caller = |by: By| Some(Caller { name: None, role: Role::Admin, jobs: None, by });
        for (site, origin, by, passes) in [
            ("same-origin", "", By::Cookie, true),
            ("none", "", By::Cookie, true),
            ("same-site", "http://node:80", By::Cookie, false),
            ("cross-site", "http://node:80", By::Cookie, false),
            ("", "http://node:80", By::Cookie, true),
            ("", "https://NODE:80", By::Cookie, true),
            ("", "http://node", By::Cookie, false),
            ("", "http://evil.org", By::Cookie, false),
            ("", "null", By::Cookie, false),
            ("", "", By::Cookie, false),
            ("", "", By::Certificate, false),
            ("", "", By::Token, true),
            ("cross-site", "http://evil.org", By::Token, true),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, "node:80".parse().unwrap());
            for (name, value) in [(FETCH_SITE, site), ("origin", origin)].iter().filter(|(_, value)| !value.is_empty())
            {
                headers.insert(*name, value.parse().unwrap());
            }
            let caller = caller(by);
            let checked = check(&Method::POST, &headers, caller.as_ref());
            assert_eq!(checked.is_ok(), passes, "{site} {origin} {caller:?}");
            assert!(check(&Method::GET, &headers, caller.as_ref()).is_ok());
        }
    }
}
