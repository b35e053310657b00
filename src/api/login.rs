//! Logging in with a browser: a token for a cookie. The token stays with the person, and is in no URL.

use axum::extract::{Extension, Form, FromRequest as _, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use maud::{Markup, html};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Api;
use super::access::{Peer, cookie_name};
use super::problem::{Kind, Problem};
use super::routes::Query;
use crate::listen::HEAD_WITHIN;
use crate::lock::Namespace;
use crate::page::{Looker, plain, shown, up};
use crate::store::Store;
use crate::time::written;

/// What the form of the login sends.
#[derive(Deserialize)]
pub(super) struct Login {
    token: String,
    /// The page to show then, as a path of this node.
    #[serde(default)]
    next: String,
}

/// What leads to the form.
#[derive(Deserialize)]
pub(super) struct Before {
    #[serde(default)]
    next: String,
}

/// The form for a token.
pub(super) async fn page(looker: Looker, Query(before): Query<Before>) -> Html<String> {
    Html(markup(&looker, &before.next, None).into_string())
}

/// The form for a token, with why the last one was not taken.
pub(super) fn markup(looker: &Looker, next: &str, refused: Option<&str>) -> Markup {
    let body = html! {
        h1 { "Log in" }
        @if let Some(why) = refused { p.notice.bad role="alert" { bdi { (shown(why)) } } }
        form.login method="post" action="login" {
            input type="hidden" name="next" value=(next);
            label for="token" { "Token" }
            input id="token" name="token" type="password" required autofocus autocomplete="current-password";
            button { "Log in" }
        }
        p.muted {
            code { "fencron token new" }
            " makes a token; the file that --auth names lists the tokens of this node."
        }
    };
    plain(looker, "Log in", &body)
}

/// That the form for a token is shown again: an extension of the answer to a wrong one.
#[derive(Clone, Debug)]
pub(super) struct Again {
    pub next: String,
}

/// Takes a token, and answers with a cookie.
pub(super) async fn login<S: Store>(
    State(api): State<Api<S>>,
    Extension(peer): Extension<Peer>,
    request: Request,
) -> Result<Response, Problem> {
    let is_secure = api.access.is_secure(request.headers(), &peer);
    if peer.tls.is_none() && !peer.address.ip().to_canonical().is_loopback() {
        let detail = "this node is without TLS, and a login would send the token and the cookie for everyone on the way \
                      to read: start the node with --tls-cert and --tls-key, or come from the machine itself";
        return Err(Problem::new(Kind::LoginNeedsTls, detail));
    }
    let login: Login = form(request).await?;
    match api.access.login(login.token.trim(), &peer, &api.ledger, &api.clock).await {
        Ok((value, until)) => {
            let lasts = until.since(api.clock.wall()).as_secs();
            Ok(moved(&onward(&login.next), [cookie(api.ledger.namespace(), &value, lasts, is_secure)]))
        }
        Err(problem) => {
            tracing::warn!(from = %peer.address.ip(), why = problem.detail, "a login was refused");
            let mut answer = problem.into_response();
            answer.extensions_mut().insert(Again { next: login.next });
            Ok(answer)
        }
    }
}

/// The form that a request carries. A body that does not arrive holds its connection no longer than a head does.
pub(super) async fn form<T: DeserializeOwned>(request: Request) -> Result<T, Problem> {
    let form = tokio::time::timeout(HEAD_WITHIN, Form::<T>::from_request(request, &()));
    let late = || Problem::new(Kind::BadParameter, format!("the form did not arrive within {}", written(HEAD_WITHIN)));
    let form = form.await.map_err(|_| late())?;
    form.map(|Form(login)| login).map_err(|error| Problem::new(Kind::BadParameter, error.body_text()))
}

/// Takes the cookie away.
pub(super) async fn logout<S: Store>(
    State(api): State<Api<S>>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
) -> Response {
    moved("login", [cookie(api.ledger.namespace(), "", 0, api.access.is_secure(&headers, &peer))])
}

/// Where a browser that has not logged in goes, from a page at this path: relative, since a proxy may put a path before
/// it.
pub(super) fn to_login(path_and_query: &str) -> Response {
    let next: String = url::form_urlencoded::byte_serialize(path_and_query.as_bytes()).collect();
    moved(&format!("{}login?next={next}", up(path_and_query)), [])
}

/// A path of this node as a relative address; what is no such path leads to the first page.
pub(super) fn onward(next: &str) -> String {
    let is_own = next.starts_with('/')
        && next.len() < 2_000
        && !next.contains("//")
        && !next.contains("/..")
        && !next.contains(['\\', '\r', '\n']);
    let is_plain = next.bytes().all(|byte| byte.is_ascii_graphic());
    if is_own && is_plain { format!(".{next}") } else { "./".to_owned() }
}

fn cookie(namespace: &Namespace, value: &str, lasts: u64, is_secure: bool) -> String {
    let (name, secure) = (cookie_name(namespace, is_secure), if is_secure { "; Secure" } else { "" });
    format!("{name}={value}; Path=/; Max-Age={lasts}; HttpOnly; SameSite=Strict{secure}")
}

/// Leads a browser on, with these cookies.
pub(super) fn moved(to: &str, cookies: impl IntoIterator<Item = String>) -> Response {
    let mut headers = HeaderMap::new();
    let cookies = cookies.into_iter().map(|cookie| (header::SET_COOKIE, cookie));
    for (name, value) in [(header::LOCATION, to.to_owned())].into_iter().chain(cookies) {
        // All of them are ASCII without control characters.
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.append(name, value);
        }
    }
    (StatusCode::SEE_OTHER, headers).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_leads_back_to_a_page_of_this_node_and_nowhere_else() {
        for (next, to) in [
            ("/jobs/a?x=1", "./jobs/a?x=1"),
            ("/", "./"),
            ("", "./"),
            ("//evil.org", "./"),
            ("/\\evil.org", "./"),
            ("https://evil.org", "./"),
            ("/a\r\nset-cookie: x", "./"),
        ] {
            assert_eq!(onward(next), to, "{next}");
        }
        let location = |path: &str| to_login(path).headers()["location"].to_str().unwrap().to_owned();
        assert_eq!(location("/"), "./login?next=%2F");
        assert_eq!(location("/jobs/a?x=1"), "../login?next=%2Fjobs%2Fa%3Fx%3D1");
    }
}
