//! A listener with TLS: whom it lets in, its certificate as it changes, and the commands that read from it.

use std::time::Duration;

use reqwest::{Certificate, Client, Identity};

use crate::support::certificates::Certificates;
use crate::{LIMIT, NodeProcess, Place};

const PATH: &str = "/api/v1/openapi.json";

/// A node with a certificate of its own, and roles for those of clients.
fn secured(place: &Place, made: &Certificates) -> NodeProcess {
    for (from, to) in [("server.pem", "node.pem"), ("server.key", "node.key"), ("ca.pem", "ca.pem")] {
        std::fs::copy(made.path(from), place.path(to)).unwrap();
    }
    crate::access::write_rules(place, "clients: {roles: {client: viewer}}\n");
    let tls = ["--tls-cert", "node.pem", "--tls-key", "node.key", "--tls-client-ca", "ca.pem"];
    place.leader("a", &[&tls[..], &["--auth", "auth.yaml"]].concat())
}

fn client(made: &Certificates, shows: Option<&str>) -> Client {
    rustls::crypto::ring::default_provider().install_default().ok();
    let read = |name: &str| std::fs::read(made.path(name)).unwrap();
    let http = Client::builder().no_proxy().timeout(LIMIT).pool_max_idle_per_host(0);
    let http = http.tls_certs_only([Certificate::from_pem(&read("ca.pem")).unwrap()]);
    let identity = shows.map(|name| [read(&format!("{name}.pem")), read(&format!("{name}.key"))].concat());
    let identity = identity.map(|pem| Identity::from_pem(&pem).unwrap());
    identity.into_iter().fold(http, |http, identity| http.identity(identity)).build().unwrap()
}

/// A client that shows a certificate of another authority than the one that it trusts.
fn stranger(trusts: &Certificates, shows: &Certificates) -> Client {
    let read = |of: &Certificates, name: &str| std::fs::read(of.path(name)).unwrap();
    let ca = Certificate::from_pem(&read(trusts, "ca.pem")).unwrap();
    let identity = [read(shows, "client.pem"), read(shows, "client.key")].concat();
    let http = Client::builder().no_proxy().timeout(LIMIT).pool_max_idle_per_host(0).tls_certs_only([ca]);
    http.identity(Identity::from_pem(&identity).unwrap()).build().unwrap()
}

/// The status of the answer; 0: there is none.
async fn ask(client: &Client, url: &str) -> u16 {
    client.get(url).send().await.map_or(0, |answer| answer.status().as_u16())
}

#[tokio::test]
async fn a_listener_with_tls_lets_certificates_in_and_the_commands_read_from_it() {
    let (place, made) = (Place::new(), Certificates::make());
    made.issue("stranger", "extendedKeyUsage=clientAuth");
    let node = secured(&place, &made);
    let address = place.json(&["status"])["nodes"][0]["address"].as_str().unwrap().to_owned();
    assert!(address.starts_with("https://127.0.0.1:"), "{address}");
    let url = format!("{address}{PATH}");
    assert_eq!(ask(&client(&made, None), &url).await, 401);
    assert_eq!(ask(&client(&made, None), &format!("{address}/healthz")).await, 200);
    assert_eq!(ask(&client(&made, Some("client")), &url).await, 200);
    assert_eq!(ask(&client(&made, Some("stranger")), &url).await, 403);
    assert_eq!(ask(&client(&made, None), &url.replace("https", "http")).await, 0);
    let metrics = client(&made, Some("client")).get(format!("{address}/metrics")).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    let end = metrics.lines().find(|line| line.starts_with("fencron_tls_certificate_not_after_timestamp_seconds{"));
    let end: f64 = end.unwrap_or_else(|| panic!("{metrics}")).rsplit(' ').next().unwrap().parse().unwrap();
    assert!(end > std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64(), "{end}");
    let others = Certificates::make();
    assert_eq!(ask(&stranger(&made, &others), &url).await, 0);

    assert_eq!(place.run(&["health"]).stdout(), "ok\n");
    let run = place.trigger("lasting");
    node.wait_for("lasting | begun");
    let logs = place.run(&["logs", &run]);
    assert!(logs.stdout().is_empty() && logs.stderr().contains("cannot be reached"), "{}", logs.stderr());
    place.write("go", "");
    assert_eq!(place.run(&["logs", "-f", &run, "--tls-ca", "ca.pem"]).stdout(), "begun\ndone\n");
    place.run(&["logs", &run, "--tls-ca", "node.key"]).fails(2, &["--tls-ca: node.key cannot be used"]);
}

/// What a node answers, when another node runs it: whether that is all, and the text.
async fn relayed(client: &Client, url: &str) -> (bool, String) {
    let answer = client.get(url).send().await.unwrap();
    let is_partial = answer.headers().contains_key("fencron-partial");
    (!is_partial, answer.text().await.unwrap())
}

#[tokio::test]
async fn output_is_read_through_another_node_whose_certificate_a_private_authority_signed() {
    let (place, made, others) = (Place::new(), Certificates::make(), Certificates::make());
    for (from, to) in [("server.pem", "node.pem"), ("server.key", "node.key")] {
        std::fs::copy(made.path(from), place.path(to)).unwrap();
    }
    let tls = ["--tls-cert", "node.pem", "--tls-key", "node.key", "--tls-ca", "trusted.pem"];
    let start = |name| place.run(&[&["run", "--node", name], &tls[..]].concat());
    start("x").fails(2, &["--tls-ca: trusted.pem cannot be used"]);
    std::fs::copy(others.path("ca.pem"), place.path("trusted.pem")).unwrap();
    let leader = place.leader("a", &tls);
    let follower = place.node("b", &tls);
    let run = place.trigger("lasting");
    leader.wait_for("lasting | begun");
    place.wait_for_state(&run, "running");
    let nodes = place.wait_for(&["status"], |status| {
        let nodes = status["nodes"].as_array().filter(|nodes| nodes.len() == 2)?;
        nodes.iter().find(|node| node["node"] == "b").map(|node| node["address"].as_str().unwrap().to_owned())
    });
    let (client, url) = (client(&made, None), format!("{nodes}/api/v1/runs/{run}/output"));
    let mut answered = relayed(&client, &url).await;
    assert!(!answered.1.contains("begun"), "another authority has signed the certificate: {answered:?}");
    std::fs::copy(made.path("ca.pem"), place.path("trusted.pem")).unwrap();
    follower.wait_for("took new authorities");
    // The other node may not have seen the run yet.
    for _ in 0..LIMIT.as_millis() / 100 {
        if answered == (true, "begun\n".to_owned()) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        answered = relayed(&client, &url).await;
    }
    assert_eq!(answered, (true, "begun\n".to_owned()));
    place.write("trusted.pem", "no certificate");
    follower.wait_for("the old authorities");
    assert_eq!(relayed(&client, &url).await, (true, "begun\n".to_owned()));
    place.write("go", "");
    place.wait_for_state(&run, "succeeded");
}

#[tokio::test]
async fn a_new_certificate_is_taken_and_a_wrong_one_leaves_the_old_in_force() {
    let (place, made) = (Place::new(), Certificates::make());
    made.issue("next", "subjectAltName=DNS:localhost\nextendedKeyUsage=serverAuth");
    let node = secured(&place, &made);
    let address = place.json(&["status"])["nodes"][0]["address"].as_str().unwrap().to_owned();
    let (before, after) = (format!("{address}{PATH}"), format!("{address}{PATH}").replace("127.0.0.1", "localhost"));
    let client = client(&made, Some("client"));
    assert_eq!(ask(&client, &before).await, 200);
    // A certificate without its key.
    std::fs::copy(made.path("next.pem"), place.path("node.pem")).unwrap();
    node.wait_for("keeps its old certificate");
    assert_eq!(ask(&client, &before).await, 200);
    std::fs::copy(made.path("next.key"), place.path("node.key")).unwrap();
    node.wait_for("took a new certificate");
    assert_eq!((ask(&client, &before).await, ask(&client, &after).await), (0, 200));
}

#[tokio::test]
async fn the_rules_name_the_authorities_of_clients_and_new_ones_are_taken() {
    let (place, made, others) = (Place::new(), Certificates::make(), Certificates::make());
    let copy = |of: &Certificates, from: &str, to: &str| std::fs::copy(of.path(from), place.path(to)).unwrap();
    copy(&made, "server.pem", "node.pem");
    copy(&made, "server.key", "node.key");
    copy(&made, "ca.pem", "clients.pem");
    crate::access::write_rules(&place, "clients: {ca: clients.pem, roles: {client: viewer}}\n");
    let tls = ["--tls-cert", "node.pem", "--tls-key", "node.key", "--auth", "auth.yaml"];
    let both = [&["run"], &tls[..], &["--tls-client-ca", "clients.pem"]].concat();
    place.run(&both).fails(2, &["clients.ca in the file of --auth", "leave one of the two out"]);
    place.run(&["run", "--auth", "auth.yaml"]).fails(2, &["clients.ca", "give --tls-cert and --tls-key"]);

    let node = place.leader("a", &tls);
    let address = place.json(&["status"])["nodes"][0]["address"].as_str().unwrap().to_owned();
    let url = format!("{address}{PATH}");
    let (known, other) = (client(&made, Some("client")), stranger(&made, &others));
    assert_eq!((ask(&known, &url).await, ask(&other, &url).await), (200, 0));
    // The file that the rules name is another one now.
    copy(&others, "ca.pem", "clients.pem");
    node.wait_for("took a new certificate");
    assert_eq!((ask(&known, &url).await, ask(&other, &url).await), (0, 200));
    // The rules name a file that is not there, then one that is.
    crate::access::write_rules(&place, "clients: {ca: more.pem, roles: {client: viewer}}\n");
    node.wait_for("clients.ca in the file of --auth: more.pem cannot be used");
    assert_eq!((ask(&known, &url).await, ask(&other, &url).await), (0, 200));
    copy(&made, "ca.pem", "more.pem");
    node.wait_for("took a new certificate");
    assert_eq!((ask(&known, &url).await, ask(&other, &url).await), (200, 0));
}

#[test]
fn a_node_does_not_start_with_tls_that_does_not_fit() {
    let (place, made) = (Place::new(), Certificates::make());
    std::fs::copy(made.path("server.pem"), place.path("node.pem")).unwrap();
    std::fs::copy(made.path("client.key"), place.path("other.key")).unwrap();
    place.write("empty.pem", "");
    let start = |args: &[&str], says: &[&str]| place.run(&[&["run"], args].concat()).fails(2, says);
    start(&["--tls-cert", "node.pem"], &["--tls-key"]);
    start(&["--tls-cert", "node.pem", "--tls-key", "absent"], &["--tls-key: absent cannot be used"]);
    start(&["--tls-cert", "empty.pem", "--tls-key", "other.key"], &["--tls-cert: empty.pem", "no certificate"]);
    start(&["--tls-cert", "node.pem", "--tls-key", "other.key"], &["--tls-cert with --tls-key"]);
}

/// Nobody who begins a handshake and does not end it keeps others from asking.
#[tokio::test]
async fn handshakes_that_do_not_end_keep_nobody_from_asking() {
    let (place, made) = (Place::new(), Certificates::make());
    let _node = secured(&place, &made);
    let address = place.json(&["status"])["nodes"][0]["address"].as_str().unwrap().to_owned();
    let to = address.trim_start_matches("https://").to_owned();
    let mut idle = Vec::new();
    for _ in 0..300 {
        idle.push(tokio::net::TcpStream::connect(&to).await.unwrap());
    }
    let (client, url) = (client(&made, None), format!("{address}/healthz"));
    assert_eq!(tokio::time::timeout(Duration::from_secs(3), ask(&client, &url)).await, Ok(200));
}
