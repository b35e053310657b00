//! Who may look at a node: its file of rules, tokens, and what changes without one.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::{LIMIT, NodeProcess, Place};

/// The status and the body of the answer.
pub(crate) fn ask(address: &str, path: &str, headers: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n{headers}\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), body.to_owned())
}

/// A file of rules, as careful people make it.
pub(crate) fn write_rules(place: &Place, text: &str) {
    let new = place.path("auth.new");
    std::fs::write(&new, text).unwrap();
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::rename(new, place.path("auth.yaml")).unwrap();
}

/// Makes a token: the token itself, and its row.
pub(crate) fn token(place: &Place, name: &str, role: &str) -> (String, String) {
    let made: Value = place.json(&["token", "new", "--name", name, "--role", role]);
    (made["token"].as_str().unwrap().to_owned(), format!("  - {}\n", made["row"]))
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

/// What the file was refused for is in the node's record, for all commands and nodes.
fn until_status(place: &Place, is_so: impl Fn(&str) -> bool) {
    for _ in 0..LIMIT.as_millis() / 100 {
        if is_so(&place.run(&["status"]).stdout()) {
            return;
        }
        thread::sleep(Duration::from_millis(100));
    }
    panic!("{}", place.run(&["status"]).stdout());
}

fn until_answers(address: &str, headers: &str, code: u16) {
    for _ in 0..LIMIT.as_millis() / 100 {
        if ask(address, "/api/v1/openapi.json", headers).0 == code {
            return;
        }
        thread::sleep(Duration::from_millis(100));
    }
    panic!("it never answers {code}");
}

fn address_of(place: &Place) -> String {
    place.json(&["status"])["nodes"][0]["address"].as_str().unwrap().to_owned()
}

fn with_auth(place: &Place, name: &str) -> NodeProcess {
    place.leader(name, &["--auth", "auth.yaml"])
}

#[test]
fn rules_are_taken_while_a_node_runs_and_broken_ones_leave_the_old_in_force() {
    let place = Place::new();
    let ((first, first_row), (second, second_row)) = (token(&place, "a", "viewer"), token(&place, "b", "viewer"));
    write_rules(&place, &format!("tokens:\n{first_row}"));
    let node = with_auth(&place, "a");
    let address = address_of(&place);
    assert_eq!(ask(&address, "/healthz", "").0, 200);
    let (code, body) = ask(&address, "/api/v1/openapi.json", "");
    assert!(code == 401 && body.contains("/problems/unauthenticated"), "{body}");
    assert_eq!(ask(&address, "/api/v1/openapi.json", &bearer(&first)).0, 200);

    write_rules(&place, &format!("tokens:\n{first_row}{second_row}"));
    node.wait_for("took new rules of who may look");
    until_answers(&address, &bearer(&second), 200);
    write_rules(&place, "tokens: [{name: a, role: boss}]\n");
    node.wait_for("the old ones stay in force");
    node.wait_for("auth.yaml:1:");
    assert_eq!(ask(&address, "/api/v1/openapi.json", &bearer(&second)).0, 200);
    until_status(&place, |text| text.contains("the file of --auth is refused since"));
    write_rules(&place, &format!("tokens:\n{second_row}"));
    node.wait_for("took new rules of who may look");
    until_answers(&address, &bearer(&first), 401);
    until_status(&place, |text| !text.contains("is refused since"));
}

#[test]
fn a_node_does_not_start_with_rules_that_others_can_write_or_that_are_wrong() {
    let place = Place::new();
    let (_, row) = token(&place, "a", "viewer");
    let start = |says: &[&str]| place.run(&["run", "--auth", "auth.yaml"]).fails(2, says);
    start(&["auth.yaml", "No such file"]);
    write_rules(&place, &format!("tokens:\n{row}"));
    for mode in [0o644, 0o620, 0o602] {
        std::fs::set_permissions(place.path("auth.yaml"), std::fs::Permissions::from_mode(mode)).unwrap();
        start(&[&format!("mode {mode:03o}"), "chmod 600"]);
    }
    write_rules(&place, "token: []\n");
    start(&["auth.yaml:1:1: unknown key `token`: did you mean `tokens`?"]);
    place.run(&["run", "--auth", "auth.yaml", "--insecure-read"]).fails(2, &["--insecure-read"]);
    place.run(&["token", "new", "--name", "a", "--role", "viewer", "--expires", "2020-01-01"]).fails(2, &["--expires"]);
    place.run(&["token", "new", "--name", "a", "--role", "viewer", "--jobs", "a b"]).fails(2, &["--jobs", "`a b`"]);
    place.run(&["token", "new", "--name", "a", "--role", "boss"]).fails(2, &["operator"]);
}

#[test]
fn the_commands_read_the_output_of_a_node_with_rules_without_a_token() {
    let place = Place::new();
    let (_, row) = token(&place, "a", "metrics");
    write_rules(&place, &format!("tokens:\n{row}"));
    let node = with_auth(&place, "a");
    let run = place.trigger("lasting");
    node.wait_for("lasting | begun");
    let output = format!("/api/v1/runs/{run}/output");
    assert_eq!(ask(&address_of(&place), &output, "").0, 401);
    assert_eq!(place.run(&["logs", &run]).stdout(), "begun\n");
    place.write("go", "");
    assert_eq!(place.run(&["logs", "-f", &run]).stdout(), "begun\ndone\n");
}

#[test]
fn a_node_that_listens_for_others_without_rules_says_what_they_get() {
    let place = Place::new();
    let node = place.starting("a", &["--listen", "0.0.0.0:0"]);
    let line = node.wait_for("without --auth FILE other machines get only the health");
    assert!(line.contains("fencron token new"), "{line}");
    drop(node);
    place.starting("a", &["--listen", "0.0.0.0:0", "--insecure-read"]).wait_for("may read everything");
}
