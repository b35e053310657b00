//! Who looks at the page, by the caller and the cookies of a request; and the form by which a person says how the page has
//! to be.

use std::convert::Infallible;
use std::str::FromStr;
use std::time::Duration;

use axum::extract::{Extension, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use serde::Deserialize;

use super::Api;
use super::access::{By, Caller, Peer, Role};
use super::login::{form, moved, onward};
use super::problem::Problem;
use super::routes;
use crate::page::{Looker, Theme, Zones};
use crate::store::Store;

/// The cookies in which a browser keeps what its person chose. None of them is a secret.
const ZONES: &str = "fencron-zones";
const THEME: &str = "fencron-theme";

/// How long a browser keeps them.
const KEPT: Duration = Duration::from_secs(365 * 86_400);

impl<S: Store> FromRequestParts<Api<S>> for Looker {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &Api<S>) -> Result<Looker, Infallible> {
        let plain = without_caller(&parts.headers, &parts.uri);
        let Some(caller) = parts.extensions.get::<Caller>() else { return Ok(plain) };
        let refused: &'static [&'static str] = if caller.jobs.is_some() { routes::about_all_jobs::<S>() } else { &[] };
        Ok(Looker {
            name: caller.name.clone(),
            role: caller.role,
            jobs: caller.jobs.clone(),
            refused,
            has_login: caller.by == By::Cookie,
            ..plain
        })
    }
}

/// A person who is known only by what the browser keeps.
pub(super) fn without_caller(headers: &HeaderMap, uri: &Uri) -> Looker {
    Looker {
        name: None,
        role: Role::Metrics,
        jobs: None,
        refused: &[],
        has_login: false,
        said: said_in(headers),
        zones: kept(headers, ZONES).unwrap_or_default(),
        theme: kept(headers, THEME).unwrap_or_default(),
        path: uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
    }
}

/// What became of the form that was sent last, for the screen that it leads back to: `+` or `-` for whether it was done,
/// and what to say.
const SAID: &str = "fencron-said";

/// For how long that is shown, in seconds.
const SAID_LASTS: u64 = 20;

/// The longest text of it, in bytes.
const SAID_MOST: usize = 800;

/// The cookie with what became of a form.
pub(super) fn said(text: &str, is_tls: bool) -> String {
    let text = &text[..text.floor_char_boundary(SAID_MOST)];
    let text: String = url::form_urlencoded::byte_serialize(text.as_bytes()).collect();
    let secure = if is_tls { "; Secure" } else { "" };
    format!("{SAID}={text}; Path=/; Max-Age={SAID_LASTS}; HttpOnly; SameSite=Strict{secure}")
}

fn said_in(headers: &HeaderMap) -> Option<(bool, String)> {
    let text = super::access::cookie(headers, SAID)?;
    let text = url::form_urlencoded::parse(text.as_bytes()).next().map(|(text, _)| text.into_owned())?;
    let (is_done, text) =
        text.strip_prefix('+').map(|text| (true, text)).or(text.strip_prefix('-').map(|t| (false, t)))?;
    (text.len() <= SAID_MOST).then(|| (is_done, text.to_owned()))
}

/// What a cookie says; `None`: there is none, or nothing that can be read.
fn kept<T: FromStr>(headers: &HeaderMap, name: &str) -> Option<T> {
    super::access::cookie(headers, name)?.parse().ok()
}

/// How a person wants the page, as one of its forms sends it.
#[derive(Deserialize)]
pub(super) struct Wanted {
    /// The page to show then, as a path of this node.
    #[serde(default)]
    next: String,
    /// `job`, `utc`, or `mine`.
    zones: Option<String>,
    /// With `mine`: the zone.
    mine: Option<String>,
    /// `system`, `dark` or `light`.
    theme: Option<String>,
}

/// Keeps how a person wants the page, in cookies.
pub(super) async fn settings(Extension(peer): Extension<Peer>, request: Request) -> Result<Response, Problem> {
    let wanted: Wanted = form(request).await?;
    let zones = match wanted.zones.as_deref() {
        Some("mine") => Some(wanted.mine.as_deref().unwrap_or_default().trim()),
        other => other,
    };
    let zones: Option<Zones> =
        zones.map(str::parse).transpose().map_err(|error: String| Problem::parameter("zones", error))?;
    let theme: Option<Theme> = wanted
        .theme
        .as_deref()
        .map(str::parse)
        .transpose()
        .map_err(|error: String| Problem::parameter("theme", error))?;
    let cookies = zones.map(|zones| (ZONES, zones.word())).into_iter().chain(theme.map(|theme| (THEME, theme.word())));
    let secure = if peer.tls.is_some() { "; Secure" } else { "" };
    let cookies = cookies.map(|(name, value)| {
        format!("{name}={value}; Path=/; Max-Age={}; HttpOnly; SameSite=Lax{secure}", KEPT.as_secs())
    });
    Ok(moved(&onward(&wanted.next), cookies))
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::StatusCode;
    use tower::ServiceExt as _;

    use super::super::BODY_MOST;
    use super::super::tests::{LOCAL, api};
    use super::*;
    use crate::time::Clock;

    #[tokio::test]
    async fn what_a_person_chooses_is_kept_by_the_browser_and_leads_back() {
        let router = api(&Clock::system()).router_for(LOCAL);
        let choose = async |form: &str| {
            let request = Request::post("/settings")
                .header("sec-fetch-site", "same-origin")
                .header("content-type", "application/x-www-form-urlencoded")
                .body(Body::from(form.to_owned()));
            router.clone().oneshot(request.unwrap()).await.unwrap()
        };
        let chosen = choose("zones=mine&mine=+Europe%2FBerlin&theme=dark&next=%2Fjobs%3Fq%3Da").await;
        assert_eq!(
            (chosen.status(), &chosen.headers()["location"]),
            (StatusCode::SEE_OTHER, &"./jobs?q=a".parse().unwrap())
        );
        let cookies: Vec<&str> =
            chosen.headers().get_all("set-cookie").iter().map(|one| one.to_str().unwrap()).collect();
        assert_eq!(cookies.len(), 2, "{cookies:?}");
        assert!(cookies.iter().all(|one| one.ends_with("; Path=/; Max-Age=31536000; HttpOnly; SameSite=Lax")));
        let cookies: Vec<&str> = cookies.iter().filter_map(|one| one.split(';').next()).collect();
        let page = Request::get("/").header("cookie", cookies.join("; ")).body(Body::empty()).unwrap();
        let page = router.clone().oneshot(page).await.unwrap().into_body();
        let page = String::from_utf8(axum::body::to_bytes(page, 4 * BODY_MOST).await.unwrap().to_vec()).unwrap();
        assert!(page.contains("data-theme=\"dark\"") && page.contains("Times are in Europe/Berlin"), "{page}");

        assert_eq!(choose("next=%2F%2Fevil.org&theme=light").await.headers()["location"], "./");
        for wrong in ["zones=mine&mine=Mars", "zones=mine", "zones=", "theme=pink", "theme=dark%3B+Domain%3Dx"] {
            let answer = choose(wrong).await;
            assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{wrong}");
            assert!(!answer.headers().contains_key("set-cookie"), "{wrong}");
        }
        // A cookie that says nothing is none.
        let page = Request::get("/login").header("cookie", "fencron-theme=<b>").body(Body::empty()).unwrap();
        assert_eq!(router.clone().oneshot(page).await.unwrap().status(), StatusCode::OK);
    }
}
