//! TLS: whom a job trusts, and by what it is known.

use fencron::job::{Again, Http, Identity, Outcome, Text};

use crate::attempt::{apart, failed, request, run};
use crate::server::{Server, answer};
use crate::support::certificates::Certificates;

fn file(certificates: &Certificates, name: &str) -> Text {
    Text::plain(certificates.path(name).to_str().unwrap())
}

fn trusting(certificates: &Certificates, server: &Server) -> Http {
    let mut http = request("POST", &server.secure_url());
    http.ca = Some(file(certificates, "ca.pem"));
    http
}

#[tokio::test]
async fn a_server_is_known_by_its_authority() {
    let certificates = Certificates::make();
    let server = Server::secure(&certificates, false, |_| answer(200, "", ""));
    assert_eq!(run(trusting(&certificates, &server)).await.outcome, Outcome::Done);
    assert_eq!(server.request().header("fencing-token"), Some("7"));
}

/// Made by the process that looks on, and used by the one that makes the request.
const MADE: &str = "FENCRON_TEST_URL";

#[tokio::test]
async fn what_the_machine_trusts_is_trusted() {
    let certificates = Certificates::make();
    let server = Server::secure(&certificates, false, |_| answer(200, "", ""));
    let ca = certificates.path("ca.pem").to_str().unwrap().to_owned();
    let variables = [("SSL_CERT_FILE", ca), (MADE, server.secure_url())];
    if apart("secure::what_the_machine_trusts_is_trusted", &variables) {
        let url = std::env::var(MADE).unwrap();
        assert_eq!(run(request("POST", &url)).await.outcome, Outcome::Done);
    } else {
        server.request();
    }
}

#[tokio::test]
async fn http_2_is_spoken_where_the_server_offers_it() {
    let certificates = Certificates::make();
    let mut config = Server::config(&certificates, false);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/path", listener.local_addr().unwrap());
    let served = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let stream = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config)).accept(stream).await.unwrap();
        let answer = hyper::service::service_fn(|request: hyper::Request<hyper::body::Incoming>| async move {
            let token = request.headers()["fencing-token"].to_str().unwrap().to_owned();
            Ok::<_, std::convert::Infallible>(hyper::Response::new(format!("fence {token}")))
        });
        let server = hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
        server.serve_connection(hyper_util::rt::TokioIo::new(stream), answer).await
    });
    let mut http = request("POST", &url);
    http.ca = Some(file(&certificates, "ca.pem"));
    let ended = run(http).await;
    assert_eq!((ended.outcome, ended.output.as_str()), (Outcome::Done, "HTTP/2.0 200 OK\nfence 7\n"));
    served.await.unwrap().ok();
}

#[tokio::test]
async fn a_server_of_an_unknown_authority_is_told_nothing() {
    let (certificates, others) = (Certificates::make(), Certificates::make());
    let server = Server::secure(&certificates, false, |_| answer(200, "", ""));
    for ca in [None, Some(file(&others, "ca.pem"))] {
        let mut http = request("POST", &server.secure_url());
        http.ca = ca;
        let ended = run(http).await;
        let (why, again) = failed(&ended);
        assert!(why.contains("was not sent: the server's certificate is ") && !why.contains("/CN="), "{why}");
        assert_eq!((again, ended.started_at), (Again::AsConfigured, None));
    }
    assert!(!server.was_asked());
}

#[tokio::test]
async fn a_client_shows_its_certificate() {
    let certificates = Certificates::make();
    let server = Server::secure(&certificates, true, |_| answer(200, "", ""));
    let mut http = trusting(&certificates, &server);
    http.identity = Some(Identity { cert: file(&certificates, "client.pem"), key: file(&certificates, "client.key") });
    assert_eq!(run(http).await.outcome, Outcome::Done);
    server.request();
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused_where_one_is_wanted() {
    let certificates = Certificates::make();
    let server = Server::secure(&certificates, true, |_| answer(200, "", ""));
    let mut http = trusting(&certificates, &server);
    http.method = "GET".to_owned();
    let ended = run(http).await;
    assert!(matches!(ended.outcome, Outcome::Failed { again: Again::AsConfigured, .. }), "{:?}", ended.outcome);
    assert!(!server.was_asked());
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named() {
    let certificates = Certificates::make();
    let server = Server::secure(&certificates, true, |_| answer(200, "", ""));
    let with = |ca: &str, cert: &str, key: &str| {
        let mut http = trusting(&certificates, &server);
        http.ca = Some(file(&certificates, ca));
        http.identity = Some(Identity { cert: file(&certificates, cert), key: file(&certificates, key) });
        http
    };
    for (http, says) in [
        (with("none.pem", "client.pem", "client.key"), "none.pem` cannot be read"),
        (with("client.key", "client.pem", "client.key"), "client.key` has no certificate"),
        (with("ca.pem", "client.pem", "client.pem"), "client.pem` has no private key"),
        (with("ca.pem", "client.pem", "server.key"), "does the `key` belong to it?"),
        (with(".", "client.pem", "client.key"), "it is no regular file"),
    ] {
        let ended = run(http).await;
        let (why, again) = failed(&ended);
        assert!(why.contains(says), "{why}");
        assert_eq!((again, ended.started_at), (Again::Never, None));
    }
    assert!(!server.was_asked());
}

#[tokio::test]
async fn what_speaks_no_tls_is_told_of() {
    let server = Server::with(200, "", "");
    let ended = run(request("GET", &server.secure_url())).await;
    let (why, _) = failed(&ended);
    assert!(why.contains("was not sent"), "{why}");
}
