//! That each route gives each kind of caller exactly what its row says. The rows are the table itself, so that a new route
//! is in here from its first day.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, Response, StatusCode};
use sha2::{Digest as _, Sha256};
use tower::ServiceExt as _;

use super::*;
use crate::api::routes::{Row, routes};
use crate::api::tests::api;
use crate::api::{Api, BODY_MOST};
use crate::config::{Sources, parse};
use crate::job::Word as _;
use crate::node::{Reason, Status};
use crate::store::memory::MemoryStore;
use crate::time::Clock;

const HERE: &str = "127.0.0.1:4000";
const ELSEWHERE: &str = "10.0.0.7:4000";
const RUN: &str = "deploy-a@2026-01-01T00:00:00Z";

fn rows() -> Vec<Row> {
    routes::<MemoryStore>().into_iter().map(|route| route.row).collect()
}

fn sum(token: &str) -> String {
    Sha256::digest(token).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A file with a token of each role, named as the role; one of an admin of other jobs, one of an admin of these; and one
/// that has expired.
fn rules() -> Rules {
    let row = |name: &str, role: Role, more: &str| {
        let sum = sum(&format!("fct_{name}"));
        format!("  - {{name: {name}, role: {}, sha256: {sum}{more}}}\n", role.word())
    };
    let mut text = "tokens:\n".to_owned();
    Role::WORDS.iter().for_each(|(word, role)| text += &row(word, *role, ""));
    text += &row("other", Role::Admin, ", jobs: 'other-*'");
    text += &row("same", Role::Admin, ", jobs: ['x', 'deploy-*']");
    text += &row("late", Role::Admin, ", expires: 2020-01-01");
    text += "proxy: {trust_from: [10.1.0.0/16], user: X-User, groups: X-Groups, roles: {ops: viewer, boss: admin}}\n\
             clients: {roles: {'spiffe://x/prom': metrics}}\n";
    crate::config::auth::read(text.as_bytes()).unwrap()
}

/// A node that is called `node`, with or without rules.
fn node(rules: Option<Rules>, insecure_read: bool) -> Api<MemoryStore> {
    let settings = Settings { hosts: Hosts::new(["node".to_owned()]), insecure_read };
    Api { access: Access::new(settings, rules), ..api(&Clock::system()) }
}

fn from(api: &Api<MemoryStore>, address: &str) -> Router {
    api.router_for(address.parse::<SocketAddr>().unwrap())
}

fn request(row: &Row, headers: &[(&str, &str)]) -> Request<Body> {
    let path = row
        .path
        .replace("{run}", RUN)
        .replace("{job}", "deploy-a")
        .replace("{name}", "store-away")
        .replace("{backfill}", "x");
    let mut request = Request::builder().method(row.method.clone()).uri(path).header("host", "node:80");
    for (name, value) in headers {
        if *name == "host" {
            request.headers_mut().unwrap().remove("host");
        }
        request = request.header(*name, *value);
    }
    request.body(Body::empty()).unwrap()
}

/// What became of a request.
#[derive(Debug, PartialEq, Eq)]
enum Came {
    /// To the handler, whatever that said.
    Through,
    /// To the page of the login.
    Login,
    To(Kind),
}

fn came(answer: &Response<Body>) -> Came {
    const OF_ACCESS: &[Kind] = &[
        Kind::Unauthenticated,
        Kind::RoleTooLow,
        Kind::OtherJobs,
        Kind::NotProtected,
        Kind::ForeignOrigin,
        Kind::WrongHost,
    ];
    let kind = answer.extensions().get::<Problem>().map(|problem| problem.kind);
    let is_login = answer.status() == StatusCode::SEE_OTHER
        && answer.headers()["location"].to_str().unwrap().contains("login?next=");
    match kind {
        Some(kind) if OF_ACCESS.contains(&kind) => Came::To(kind),
        _ if is_login => Came::Login,
        _ => Came::Through,
    }
}

/// Asks each route so, and holds what comes of it against what `meant` says of the row.
async fn check(what: &str, router: &Router, headers: &[(&str, &str)], meant: impl Fn(&Row) -> Came) {
    for row in rows() {
        let answer = router.clone().oneshot(request(&row, headers)).await.unwrap();
        let meant = if row.need == Need::Health { Came::Through } else { meant(&row) };
        assert_eq!(came(&answer), meant, "{what}: {} {} ({})", row.method, row.path, answer.status());
    }
}

/// What a caller of this role, who shows it with every request, gets.
fn with_role(row: &Row, role: Role) -> Came {
    match row.need {
        Need::Role(least) if role < least => Came::To(Kind::RoleTooLow),
        _ => Came::Through,
    }
}

fn unknown(row: &Row) -> Came {
    match row.need {
        Need::Role(_) if row.is_page() && row.method == Method::GET => Came::Login,
        Need::Role(_) => Came::To(Kind::Unauthenticated),
        Need::Health | Need::Nothing => Came::Through,
    }
}

#[tokio::test]
async fn a_caller_without_a_token_learns_how_one_of_the_role_that_the_route_takes_is_made() {
    let router = from(&node(Some(rules()), false), HERE);
    let mut roles = Vec::new();
    for row in rows() {
        let Need::Role(least) = row.need else { continue };
        let answer = router.clone().oneshot(request(&row, &[])).await.unwrap();
        if came(&answer) == Came::To(Kind::Unauthenticated) {
            let body = axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap();
            let (body, make) = (String::from_utf8_lossy(&body), new_token(least));
            assert!(body.contains(&make), "{} {}: {make}: {body}", row.method, row.path);
            roles.push(least);
        }
    }
    assert!(roles.contains(&Role::Viewer) && roles.contains(&Role::Operator), "{roles:?}");
}

const OWN_PAGE: (&str, &str) = ("sec-fetch-site", "same-origin");
const OTHER_PAGE: (&str, &str) = ("sec-fetch-site", "cross-site");

fn foreign(row: &Row, otherwise: Came) -> Came {
    if row.method == Method::GET { otherwise } else { Came::To(Kind::ForeignOrigin) }
}

#[tokio::test]
async fn without_rules_this_machine_reads_and_others_get_the_health() {
    let open = node(None, false);
    let here = from(&open, HERE);
    check("here", &here, &[OWN_PAGE], |row| with_role(row, Role::Reader)).await;
    check("here, by IPv6", &from(&open, "[::1]:1"), &[OWN_PAGE], |row| with_role(row, Role::Reader)).await;
    check("elsewhere", &from(&open, ELSEWHERE), &[OWN_PAGE], |_| Came::To(Kind::NotProtected)).await;
    for header in ["forwarded", "x-forwarded-for", "x-real-ip", "via"] {
        check("by a proxy", &here, &[OWN_PAGE, (header, "10.0.0.7")], |_| Came::To(Kind::NotProtected)).await;
    }
    check("here, another name", &here, &[OWN_PAGE, ("host", "evil.org")], |_| Came::To(Kind::WrongHost)).await;
    check("a page of another", &here, &[OTHER_PAGE], |row| foreign(row, with_role(row, Role::Reader))).await;
    let everyone = node(None, true);
    check("insecure", &from(&everyone, ELSEWHERE), &[OWN_PAGE], |row| with_role(row, Role::Reader)).await;
}

#[tokio::test]
async fn with_rules_each_role_gets_what_the_table_says() {
    let node = node(Some(rules()), false);
    let (here, elsewhere) = (from(&node, HERE), from(&node, ELSEWHERE));
    for router in [&here, &elsewhere] {
        check("no token", router, &[OWN_PAGE], unknown).await;
        check("another name", router, &[OWN_PAGE, ("host", "evil.org")], |_| Came::To(Kind::WrongHost)).await;
        for wrong in ["Bearer fct_nothing", "Bearer fct_late", "Basic YTpi", "Bearer", ""] {
            check(wrong, router, &[OWN_PAGE, ("authorization", wrong)], unknown).await;
        }
        for (word, role) in Role::WORDS {
            let bearer = format!("Bearer fct_{word}");
            let headers = [("authorization", &*bearer), OTHER_PAGE, ("host", "evil.org")];
            check(word, router, &headers, |row| with_role(row, *role)).await;
        }
    }
}

fn is_of_one_job(row: &Row) -> bool {
    row.path.contains("{job}") || row.path.contains("{run}")
}

#[tokio::test]
async fn a_token_for_other_jobs_finds_nothing_of_these() {
    let node = node(Some(rules()), false);
    let router = from(&node, ELSEWHERE);
    let narrowed = |row: &Row| match row.need {
        Need::Role(_) if !row.narrowed && !is_of_one_job(row) => Came::To(Kind::OtherJobs),
        _ => Came::Through,
    };
    check("other jobs", &router, &[("authorization", "Bearer fct_other")], narrowed).await;
    check("these jobs", &router, &[("authorization", "Bearer fct_same")], narrowed).await;
    // What is there and not for the caller is answered as what is not there.
    let text = "version: 1\njobs:\n  deploy-a: {schedule: '@hourly', shell: 'true', description: payroll}\n";
    let jobs = parse(text, &Sources::none()).unwrap().jobs;
    for row in rows().iter().filter(|row| matches!(row.need, Need::Role(_)) && row.method == Method::GET) {
        let ask = async |token: &str| {
            let bearer = format!("Bearer {token}");
            let answer = router.clone().oneshot(request(row, &[("authorization", &bearer)])).await.unwrap();
            let status = answer.status();
            let body = axum::body::to_bytes(answer.into_body(), 64 * BODY_MOST).await.unwrap();
            (status, String::from_utf8(body.to_vec()).unwrap())
        };
        node.board.write().configured(&Default::default());
        let absent = ask("fct_admin").await;
        node.board.write().configured(&jobs);
        let hidden = ask("fct_other").await;
        assert!(!hidden.1.contains("payroll"), "{}: {}", row.path, hidden.1);
        if is_of_one_job(row) && row.is_page() {
            assert_eq!(hidden.0, absent.0, "{}: as if it did not exist", row.path);
        } else if is_of_one_job(row) {
            assert_eq!(hidden, absent, "{}: as if it did not exist", row.path);
        } else {
            assert!(!hidden.1.contains("deploy-a"), "{}: {}", row.path, hidden.1);
        }
    }
}

#[tokio::test]
async fn a_ticket_is_for_the_output_of_its_run_and_for_a_minute() {
    let node = node(Some(rules()), false);
    node.locks.found().await.unwrap();
    let router = from(&node, ELSEWHERE);
    let now = node.clock.wall();
    let of = async |run: &str, at: Wall| ticket(&node.ledger, &run.parse().unwrap(), at).await.unwrap();
    let good = of(RUN, now).await;
    let only_its_run = |row: &Row| match row.need {
        Need::Role(least) if !row.path.contains("{run}") || least > Role::Reader => Came::To(Kind::RoleTooLow),
        _ => Came::Through,
    };
    check("a ticket", &router, &[(TICKET_HEADER, &good), ("host", "evil.org")], only_its_run).await;
    let of_another = of("deploy-b@2026-01-01T00:00:00Z", now).await;
    let none = |row: &Row| if row.need == Need::Nothing { Came::Through } else { Came::To(Kind::RoleTooLow) };
    check("another run's", &router, &[(TICKET_HEADER, &of_another)], none).await;
    let mut forged = good.clone();
    forged.replace_range(..good.find('.').unwrap(), of_another.split('.').next().unwrap());
    let old = of(RUN, now.minus(Duration::from_secs(61))).await;
    let of_later = of(RUN, now.plus(Duration::from_secs(600))).await;
    for wrong in [&*forged, &*old, &*of_later, "x", "a.b.c", ""] {
        check(wrong, &router, &[(TICKET_HEADER, wrong), OWN_PAGE], unknown).await;
    }
}

#[tokio::test]
async fn readiness_quotes_the_jobs_file_to_those_only_who_may_see_all_jobs() {
    let asked = async |api: &Api<MemoryStore>, address: &str, headers: &[(&str, &str)]| {
        let mut request = Request::get("/readyz");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = from(api, address).oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let body = axum::body::to_bytes(answer.into_body(), BODY_MOST).await.unwrap();
        String::from_utf8(body.to_vec()).unwrap()
    };
    let refused = |api: Api<MemoryStore>| {
        let why = Reason::with_detail("the jobs file is refused", "payroll.yaml:3:1: unknown key `salary`");
        let status = Status { reasons: vec![why], ..api.status.borrow().clone() };
        Api { status: tokio::sync::watch::channel(status).1, ..api }
    };
    let (ruled, open) = (refused(node(Some(rules()), false)), refused(node(None, false)));
    let bearer = |name: &str| format!("Bearer fct_{name}");
    let (viewer, metrics, other) = (bearer("viewer"), bearer("metrics"), bearer("other"));
    const MEANT: (&str, &str) = ("host", "node");
    for (api, address, headers, is_whole) in [
        (&ruled, ELSEWHERE, vec![MEANT], false),
        (&ruled, HERE, vec![MEANT], false),
        (&ruled, ELSEWHERE, vec![MEANT, ("authorization", &*viewer)], true),
        (&ruled, ELSEWHERE, vec![MEANT, ("authorization", &*metrics)], false),
        (&ruled, ELSEWHERE, vec![MEANT, ("authorization", &*other)], false),
        (&ruled, "10.1.2.3:1", vec![MEANT, ("x-user", "boss")], true),
        (&ruled, ELSEWHERE, vec![MEANT, ("x-user", "boss")], false),
        (&open, HERE, vec![MEANT], true),
        (&open, ELSEWHERE, vec![MEANT], false),
        // A page of an attacker, whose name is bound to this address.
        (&open, HERE, vec![("host", "evil.org")], false),
    ] {
        let body = asked(api, address, &headers).await;
        assert!(body.contains("the jobs file is refused: "), "{body}");
        assert_eq!(body.contains("salary"), is_whole, "{address} {headers:?}: {body}");
        assert_eq!(body.contains("`fencron status` say why"), !is_whole, "{address} {headers:?}: {body}");
    }
}

/// Logs in with a token, and answers with the cookie, as a browser sends it.
async fn log_in(router: &Router, token: &str) -> Result<String, Kind> {
    let form = Request::post("/login")
        .header("host", "node:80")
        .header(OWN_PAGE.0, OWN_PAGE.1)
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Body::from(format!("token={token}&next=%2Fjobs")))
        .unwrap();
    let answer = router.clone().oneshot(form).await.unwrap();
    match answer.extensions().get::<Problem>() {
        Some(problem) => Err(problem.kind),
        None => {
            assert_eq!(
                (answer.status(), &answer.headers()["location"]),
                (StatusCode::SEE_OTHER, &"./jobs".parse().unwrap())
            );
            let cookie = answer.headers()["set-cookie"].to_str().unwrap();
            assert!(cookie.contains("; HttpOnly; SameSite=Strict"), "{cookie}");
            Ok(cookie.split(';').next().unwrap().to_owned())
        }
    }
}

#[tokio::test]
async fn a_login_is_as_good_as_its_token_and_ends_with_it() {
    let node = node(Some(rules()), false);
    node.locks.found().await.unwrap();
    let router = from(&node, HERE);
    // There is no screen for it.
    assert_eq!(log_in(&router, "fct_metrics").await, Err(Kind::RoleTooLow));
    for (word, role) in Role::WORDS.iter().filter(|(_, role)| *role >= Role::Viewer) {
        let cookie = log_in(&router, &format!("fct_{word}")).await.unwrap();
        assert!(cookie.starts_with("fencron-login-test="), "{cookie}");
        check(word, &router, &[OWN_PAGE, ("cookie", &format!("a=b; {cookie}"))], |row| with_role(row, *role)).await;
        let headers = [OTHER_PAGE, ("cookie", &*cookie)];
        check(word, &router, &headers, |row| foreign(row, with_role(row, *role))).await;
        let headers = [OWN_PAGE, ("cookie", &*cookie), ("host", "evil.org")];
        check(word, &router, &headers, |_| Came::To(Kind::WrongHost)).await;
    }
    let cookie = log_in(&router, "fct_viewer").await.unwrap();
    // A role that is changed by hand, and another token under the name.
    let promoted = {
        use base64::Engine as _;
        let rest = cookie.split_once('.').unwrap().1;
        format!("fencron-login-test={}.{rest}", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode("admin"))
    };
    check("forged", &router, &[OWN_PAGE, ("cookie", &promoted)], unknown).await;
    let mut changed = rules();
    changed.tokens[1].sha256[0] ^= 1;
    node.access.replace(changed);
    check("another token", &router, &[OWN_PAGE, ("cookie", &cookie)], unknown).await;
    node.access.replace(rules());
    check("the same again", &router, &[OWN_PAGE, ("cookie", &cookie)], |row| with_role(row, Role::Viewer)).await;
}

#[tokio::test]
async fn the_cookie_is_for_tls_alone_where_a_trusted_proxy_says_that_the_browser_speaks_it() {
    // The proxy is on this machine, and another one is in the network of the rules.
    let text = format!("tokens: [{{name: viewer, role: viewer, sha256: {}}}]\n", sum("fct_viewer"))
        + "proxy: {trust_from: [127.0.0.0/8], user: X-User, roles: {boss: admin}}\n";
    let rules = crate::config::auth::read(text.as_bytes()).unwrap();
    let node = node(Some(rules), false);
    node.locks.found().await.unwrap();
    let cookies = async |headers: &[(&str, &str)], (path, body): (&str, &str)| {
        let mut request = Request::post(path).header("host", "node:80").header("sec-fetch-site", "same-origin");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request =
            request.header("content-type", "application/x-www-form-urlencoded").body(Body::from(body.to_owned()));
        let answer = from(&node, HERE).oneshot(request.unwrap()).await.unwrap();
        assert_eq!(answer.status(), StatusCode::SEE_OTHER);
        answer.headers()["set-cookie"].to_str().unwrap().to_owned()
    };
    let https = ("x-forwarded-proto", "https");
    let login = ("/login", "token=fct_viewer");
    assert!(!cookies(&[], login).await.contains("Secure"));
    assert!(!cookies(&[("x-forwarded-proto", "http")], login).await.contains("Secure"));
    let secure = cookies(&[https], login).await;
    assert!(secure.starts_with("__Host-fencron-login-test=") && secure.contains("; Secure"), "{secure}");
    let pair = secure.split(';').next().unwrap();
    let gone = cookies(&[https, ("cookie", pair)], ("/logout", "")).await;
    assert!(gone.starts_with("__Host-fencron-login-test=;") && gone.contains("; Secure"), "{gone}");
    // It is taken from where it was given to, and not where it may have been read on the way.
    let page = |headers: Vec<(&'static str, String)>| {
        let mut request = Request::get("/api/v1/me").header("host", "node:80");
        for (name, value) in headers {
            request = request.header(name, value);
        }
        from(&node, HERE).oneshot(request.body(Body::empty()).unwrap())
    };
    let cookie = || ("cookie", pair.to_owned());
    assert_eq!(page(vec![cookie(), (https.0, https.1.to_owned())]).await.unwrap().status(), StatusCode::OK);
    assert_eq!(page(vec![cookie()]).await.unwrap().status(), StatusCode::UNAUTHORIZED);
    // Who is no such proxy says nothing of that.
    let request = Request::post("/login").header("host", "node:80").header("sec-fetch-site", "same-origin");
    let request = request.header(https.0, https.1);
    let request =
        request.header("content-type", "application/x-www-form-urlencoded").body(Body::from(login.1)).unwrap();
    let answer = from(&node, "[::1]:5000").oneshot(request).await.unwrap();
    assert!(!answer.headers()["set-cookie"].to_str().unwrap().contains("Secure"));
}

#[tokio::test]
async fn logins_take_tls_or_this_machine_and_five_wrong_ones_make_wrong_ones_wait() {
    let node = node(Some(rules()), false);
    node.locks.found().await.unwrap();
    assert_eq!(log_in(&from(&node, ELSEWHERE), "fct_viewer").await, Err(Kind::LoginNeedsTls));
    let secured = api_over_tls(&node, &[]);
    assert!(log_in(&secured, "fct_viewer").await.unwrap().starts_with("__Host-fencron-login-test="));
    let here = from(&node, HERE);
    for _ in 0..5 {
        assert_eq!(log_in(&here, "fct_wrong").await, Err(Kind::Unauthenticated));
    }
    assert_eq!(log_in(&here, "fct_wrong").await, Err(Kind::TooManyTries));
    // Others behind the same proxy have tried.
    assert!(log_in(&here, "fct_viewer").await.is_ok());
    assert!(log_in(&secured, "fct_viewer").await.is_ok());
}

fn api_over_tls(node: &Api<MemoryStore>, names: &[&str]) -> Router {
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    let peer = Peer { address: ELSEWHERE.parse().unwrap(), tls: Some(Secured { names }) };
    crate::api::router(node.clone()).layer(axum::Extension(peer))
}

#[tokio::test]
async fn proxies_and_certificates_say_who_comes_where_they_are_trusted() {
    let node = node(Some(rules()), false);
    let boss = [OWN_PAGE, ("x-user", "boss")];
    let ops = [OWN_PAGE, ("x-user", "ann"), ("x-groups", "dev, ops")];
    let proxy = from(&node, "10.1.2.3:1");
    // A proxy is no browser's page of this node: what it passes on has its own `Sec-Fetch-Site`.
    check("boss", &proxy, &boss, |row| with_role(row, Role::Admin)).await;
    // As a listener for both kinds of addresses names it.
    check("boss", &from(&node, "[::ffff:10.1.2.3]:1"), &boss, |row| with_role(row, Role::Admin)).await;
    check("ops", &proxy, &ops, |row| with_role(row, Role::Viewer)).await;
    let without_role = |row: &Row| if row.need == Need::Nothing { Came::Through } else { Came::To(Kind::RoleTooLow) };
    check("nobody", &proxy, &[OWN_PAGE, ("x-user", "eve")], without_role).await;
    // What a client sent, and what a proxy that only adds has added.
    for added in
        [[OWN_PAGE, ("x-user", "boss"), ("x-user", "eve")], [OWN_PAGE, ("x-groups", "ops"), ("x-groups", "dev")]]
    {
        check("doubled", &proxy, &added, unknown).await;
    }
    for stranger in [ELSEWHERE, HERE] {
        check("not the proxy", &from(&node, stranger), &boss, unknown).await;
    }
    check("a certificate", &api_over_tls(&node, &["a", "spiffe://x/prom"]), &[OWN_PAGE], |row| {
        with_role(row, Role::Metrics)
    })
    .await;
    check("another certificate", &api_over_tls(&node, &["a"]), &[OWN_PAGE], without_role).await;
    check("no certificate", &api_over_tls(&node, &[]), &[OWN_PAGE], unknown).await;
}
