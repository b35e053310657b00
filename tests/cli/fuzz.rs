//! The HTTP API, asked for all that its description allows and for much that it does not.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Place;

/// The version that `tests/run` installs.
const SCHEMATHESIS: &str = "4.32.5";

/// How many requests are made up for each address.
const EXAMPLES: &str = "15";

const JOBS: &str = r#"
version: 1
namespace: shop
jobs:
  fine: {schedule: "0 2 * * *", timezone: Europe/Berlin, command: [echo, hello], description: "says hello"}
  wrong: {schedule: "@at 2099-01-01T00:00:00Z", shell: "echo oops; exit 3"}
  follower: {after: {job: fine, on: success}, http: {url: "http://localhost:9/"}}
"#;

/// What makes up the requests. It is a program of Python, which `tests/run` installs below `target`.
fn tool() -> PathBuf {
    let tool = format!("target/tools/schemathesis-{SCHEMATHESIS}/bin/schemathesis");
    let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join(tool);
    assert!(tool.exists(), "{} is not there: `tests/run` installs it", tool.display());
    tool
}

#[test]
fn the_api_keeps_to_its_description_whatever_it_is_asked() {
    let place = Place::with(JOBS);
    let token = place.json(&["token", "new", "--name", "fuzz", "--role", "operator"]);
    place.write("auth.yaml", &format!("tokens:\n  - {}\n", token["row"]));
    std::fs::set_permissions(place.path("auth.yaml"), PermissionsExt::from_mode(0o600)).unwrap();
    let _node = place.leader("a", &["--auth", "auth.yaml"]);
    for (job, state) in [("fine", "succeeded"), ("wrong", "failed")] {
        let run = place.trigger(job);
        place.wait_for_state(&run, state);
    }
    let address = place.json(&["status"])["leader"]["address"].as_str().unwrap().to_owned();
    let mut command = Command::new(tool());
    command.args(["run", &format!("http://{address}/api/v1/openapi.json"), "--no-color", "--seed", "20261121"]);
    command.args(["--header", &format!("Authorization: Bearer {}", token["token"].as_str().unwrap())]);
    command.args(["--max-examples", EXAMPLES, "--phases", "coverage,fuzzing", "--generation-database", "none"]);
    // It is described what a cursor and a run look like, and not which ones there are: those that are none are refused,
    // as they should be.
    command.args(["--exclude-checks", "positive_data_acceptance"]);
    let ran = command.current_dir(place.path("")).output().unwrap();
    let says = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{says}\n{}", String::from_utf8_lossy(&ran.stderr));
    assert!(says.contains("Fuzzing"), "{says}");
}
