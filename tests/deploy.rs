//! What is in `deploy`: that the tools it is for take it, and that it keeps what the documents say of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use fencron::config::{Sources, parse};
use serde_yaml::Value;

/// How long a node may take to stop, by the defaults: the grace, the longest `kill_after`, and the last words.
const STOPPED_WITHIN: Duration = Duration::from_secs(30 + 10 + 12);

/// Of systemd's ten, at which it calls a service well protected.
const EXPOSURE_TENTHS: &str = "25";

fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name)
}

fn text(name: &str) -> String {
    std::fs::read_to_string(deploy(name)).unwrap()
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), output.stderr.as_slice()].concat()).into_owned()
}

#[test]
fn systemd_takes_the_unit_and_finds_it_well_protected() {
    let directory = tempfile::tempdir().unwrap();
    // systemd looks whether there is a program to start.
    let unit = text("fencron.service").replace("/usr/local/bin/fencron", env!("CARGO_BIN_EXE_fencron"));
    let file = directory.path().join("fencron.service");
    std::fs::write(&file, unit).unwrap();
    let analyze = |arguments: &[&str]| Command::new("systemd-analyze").args(arguments).arg(&file).output().unwrap();
    let verified = analyze(&["verify", "--recursive-errors=no"]);
    assert!(verified.status.success() && verified.stderr.is_empty(), "{}", told(&verified));
    let threshold = format!("--threshold={EXPOSURE_TENTHS}");
    let judged = analyze(&["security", "--offline=true", "--no-pager", &threshold]);
    assert!(judged.status.success(), "{}", told(&judged));
}

#[test]
fn the_unit_gives_a_node_its_time_to_stop_and_never_gives_up() {
    let unit = text("fencron.service");
    let settings: BTreeMap<&str, &str> = unit.lines().filter_map(|line| line.split_once('=')).collect();
    let stop = settings["TimeoutStopSec"].strip_suffix('s').unwrap().parse().map(Duration::from_secs).unwrap();
    assert!(stop > STOPPED_WITHIN, "{stop:?}");
    assert_eq!((settings["Restart"], settings["StartLimitIntervalSec"]), ("always", "0"));
}

#[test]
fn compose_takes_its_file() {
    let checked = Command::new("docker-compose").arg("-f").arg(deploy("compose.yaml")).args(["config", "-q"]).output();
    let checked = checked.expect("docker-compose is installed");
    assert!(checked.status.success(), "{}", told(&checked));
}

#[test]
fn replicas_of_compose_have_their_time_to_stop_and_a_directory_of_jobs() {
    let printed = Command::new("docker-compose").arg("-f").arg(deploy("compose.yaml")).arg("config").output().unwrap();
    let compose: Value = serde_yaml::from_slice(&printed.stdout).unwrap();
    let mut replicas = 0;
    for (name, service) in compose["services"].as_mapping().unwrap() {
        if !name.as_str().unwrap().starts_with("fencron-") {
            continue;
        }
        replicas += 1;
        let grace = fencron::time::parse_duration(service["stop_grace_period"].as_str().unwrap()).unwrap();
        assert!(grace > STOPPED_WITHIN, "{grace:?}");
        let mounted = service["volumes"][0].as_str().unwrap();
        let (host, inside) = mounted.strip_suffix(":ro").unwrap().split_once(':').unwrap();
        assert!(Path::new(host).is_dir(), "{host} is a directory, in which a file that is replaced is seen");
        assert_eq!(inside, "/etc/fencron");
    }
    assert_eq!(replicas, 3);
    parse(&text("jobs/jobs.yaml"), &Sources::none()).unwrap_or_else(|problems| panic!("{problems}"));
}
