//! What is sent, to whom, and when it may be.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fencron::execute::MayStart;
use fencron::job::{Again, Outcome, Params, StopReason, Text};

use crate::LIMIT;
use crate::attempt::{RUN, apart, begin, begin_given, failed, request, run, stamp};
use crate::server::{Server, answer, nobody, silent};

#[tokio::test]
async fn a_request_carries_its_stamp() {
    let server = Server::with(200, "", "");
    let mut http = request("POST", &format!("{}?a=b", server.url()));
    http.headers = vec![("x-key".to_owned(), Text::secret("k")), ("content-type".to_owned(), Text::plain("text/x"))];
    http.body = Some(Text::plain("what is sent"));
    let ended = run(http).await;
    assert_eq!(ended.outcome, Outcome::Done);
    let got = server.request();
    assert_eq!((got.line.as_str(), got.body.as_str()), ("POST /path?a=b HTTP/1.1", "what is sent"));
    for (name, value) in [
        ("fencing-token", "7"),
        ("fencing-scope", "shop/leader"),
        ("idempotency-key", RUN),
        ("fencron-scheduled-at", "2026-11-21T02:00:00Z"),
        ("fencron-attempt", "2"),
        ("fencron-after-run-id", "import@2026-11-21T02:00:00Z"),
        ("fencron-after-job", "import"),
        ("fencron-after-verdict", "failed"),
        ("fencron-after-reason", "exit code 3"),
        ("fencron-after-exit-code", "3"),
        ("traceparent", &stamp().traceparent()),
        ("x-key", "k"),
        ("content-type", "text/x"),
        ("user-agent", concat!("fencron/", env!("CARGO_PKG_VERSION"))),
    ] {
        assert_eq!(got.header(name), Some(value), "{name}");
    }
    assert!(!server.was_asked(), "it is sent once");
    assert!(ended.started_at.is_some_and(|at| at <= ended.finished_at));
}

#[tokio::test]
async fn a_request_carries_the_parameters_of_its_run() {
    let server = Server::with(200, "", "");
    let params = Params::new([("region", "eu"), ("dry_run", "yes")]).unwrap();
    let begun = begin_given(params, request("POST", &server.url()), None, MayStart::always());
    assert_eq!(begun.end().await.outcome, Outcome::Done);
    let got = server.request();
    assert_eq!((got.header("fencron-param-region"), got.header("fencron-param-dry-run")), (Some("eu"), Some("yes")));
    let params = Params::new([("region", "ü")]).unwrap();
    let begun = begin_given(params, request("POST", &server.url()), None, MayStart::always());
    assert!(failed(&begun.end().await).0.contains("cannot be sent in a header"));
    assert!(!server.was_asked());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_where_the_node_may_not_act_when_the_connection_stands() {
    let server = Server::with(200, "", "");
    let asked = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&asked);
    let may_not = MayStart::new(move || {
        seen.store(true, Ordering::SeqCst);
        false
    });
    let ended = begin(request("POST", &server.url()), None, may_not).end().await;
    assert_eq!(ended.outcome, Outcome::Stopped(StopReason::LostLeadership));
    assert_eq!(ended.started_at, None);
    assert!(asked.load(Ordering::SeqCst));
    // The connection was there, and nothing came on it.
    server.client_gone();
    assert!(!server.was_asked());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_stopped_lets_go_of_its_connection() {
    let server = Server::start(|_| crate::server::Answer::Hang);
    let attempt = begin(request("POST", &server.url()), None, MayStart::always());
    server.request();
    attempt.stopper.stop(StopReason::LostLeadership);
    let ended = attempt.end().await;
    assert_eq!(ended.outcome, Outcome::Stopped(StopReason::LostLeadership));
    assert!(ended.started_at.is_some());
    server.client_gone();
}

#[tokio::test]
async fn what_cannot_be_sent_has_failed_for_certain() {
    let closed = nobody();
    let hosts = [
        (format!("http://{closed}/"), "no server listens there"),
        ("http://no-such-host.invalid/".to_owned(), "cannot be resolved"),
    ];
    for (url, says) in hosts {
        let ended = run(request("POST", &url)).await;
        let (why, again) = failed(&ended);
        assert!(why.contains(&format!("POST {url} was not sent: ")) && why.contains(says), "{why}");
        assert_eq!((again, ended.started_at), (Again::AsConfigured, None));
    }
}

#[tokio::test]
async fn a_connection_is_waited_for_as_long_as_is_said() {
    // It takes the connection, and never answers the greeting of TLS.
    let listener = silent();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    let mut http = request("POST", &url);
    http.connect_timeout = Duration::from_millis(50);
    let ended = run(http).await;
    let (why, again) = failed(&ended);
    assert!(why.contains("no connection within `connect_timeout`"), "{why}");
    assert_eq!((again, ended.started_at), (Again::AsConfigured, None));
}

#[tokio::test]
async fn a_redirect_is_not_followed_unless_it_is_asked_for() {
    let server = Server::with(307, "location: /other\r\n", "");
    let ended = run(request("POST", &server.url())).await;
    let (why, again) = failed(&ended);
    assert!(why.contains("307") && why.contains("redirects are followed with `redirects`"), "{why}");
    assert_eq!(again, Again::Never);
    server.request();
    assert!(!server.was_asked());
}

#[tokio::test]
async fn a_redirect_within_the_origin_is_followed_with_everything() {
    let server = Server::start(|request| match request.line.contains("/path") {
        true => answer(307, "location: /other\r\n", ""),
        false => answer(200, "", "there"),
    });
    let mut http = request("POST", &server.url());
    http.redirects = 1;
    http.body = Some(Text::plain("body"));
    assert_eq!(run(http).await.outcome, Outcome::Done);
    let (first, second) = (server.request(), server.request());
    assert_eq!((second.line.as_str(), second.body.as_str()), ("POST /other HTTP/1.1", "body"));
    assert_eq!(first.stamps(), second.stamps());
}

#[tokio::test]
async fn so_many_redirects_are_followed_and_no_more() {
    let server = Server::with(302, "location: /path\r\n", "");
    let mut http = request("GET", &server.url());
    http.redirects = 2;
    assert!(failed(&run(http).await).0.contains("302"));
    for _ in 0..3 {
        server.request();
    }
    assert!(!server.was_asked());
}

#[tokio::test]
async fn another_origin_is_never_told_a_stamp() {
    let other = Server::with(200, "", "");
    let elsewhere = other.url();
    let head = format!("location: {elsewhere}\r\n");
    let server = Server::start(move |_| answer(307, &head, ""));
    let mut http = request("PUT", &server.url());
    http.redirects = 5;
    let ended = run(http).await;
    let (why, again) = failed(&ended);
    assert!(why.contains("not followed") && !why.contains(&elsewhere), "{why}");
    assert_eq!(again, Again::Never);
    server.request();
    assert!(!other.was_asked());
}

#[tokio::test]
async fn a_redirect_that_makes_a_get_of_a_post_is_not_followed() {
    let server = Server::with(302, "location: /other\r\n", "");
    let mut http = request("POST", &server.url());
    http.redirects = 5;
    assert!(failed(&run(http).await).0.contains("no POST as a GET"));
    server.request();
    assert!(!server.was_asked());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_of_the_environment_is_used() {
    let proxy = Server::with(200, "", "");
    let variables = [("HTTP_PROXY", format!("http://{}", proxy.address)), ("NO_PROXY", "localhost".to_owned())];
    if !apart("sending::the_proxy_of_the_environment_is_used", &variables) {
        assert_eq!(proxy.request().line, "POST http://service.invalid/path HTTP/1.1");
        return;
    }
    assert_eq!(run(request("POST", "http://service.invalid/path")).await.outcome, Outcome::Done);
    let own = Server::with(204, "", "");
    let direct = format!("http://localhost:{}/path", own.address.port());
    assert_eq!(run(request("POST", &direct)).await.outcome, Outcome::Done);
    own.request();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_is_told_no_stamp_of_what_goes_through_it_by_tls() {
    let proxy = Server::with(403, "", "");
    let variables = [("HTTPS_PROXY", format!("http://{}", proxy.address))];
    if !apart("sending::a_proxy_is_told_no_stamp_of_what_goes_through_it_by_tls", &variables) {
        let asked = proxy.request();
        assert_eq!((asked.line.as_str(), asked.stamps()), ("CONNECT service.invalid:443 HTTP/1.1", Vec::new()));
        return;
    }
    let mut http = request("POST", "https://service.invalid/path");
    http.headers = vec![("authorization".to_owned(), Text::secret("Bearer k"))];
    let ended = tokio::time::timeout(LIMIT, run(http)).await.unwrap();
    let (why, again) = failed(&ended);
    assert!(why.contains("was not sent"), "{why}");
    assert_eq!(again, Again::AsConfigured);
}
