//! What is in `deploy`: that the tools it is for take it, and that it keeps what the documents say of it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use fencron::config::{Sources, parse};
use fencron::store::StoreUrl;
use serde::Deserialize as _;
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
    // A loop turns each second, and a node warns of less than five.
    let watchdog = settings["WatchdogSec"].strip_suffix('s').unwrap().parse::<u64>().unwrap();
    assert!(settings["Type"] == "notify" && settings["NotifyAccess"] == "main" && (10..=60).contains(&watchdog));
}

/// What `deploy/package` makes of a script that runs the program: a debug build would take long to pack.
#[test]
fn the_package_has_the_program_its_units_pages_completions_and_settings() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("fencron");
    std::fs::write(&program, format!("#!/bin/sh\nexec {} \"$@\"\n", env!("CARGO_BIN_EXE_fencron"))).unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let made = Command::new(deploy("package"))
        .args(["--program", program.to_str().unwrap(), "--to", "made"])
        .current_dir(directory.path())
        .env("COMPRESSION", "none")
        .env("FENCRON_STORE", "etcd://me:s3cret@10.0.0.1")
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", told(&made));
    let printed = String::from_utf8(made.stdout).unwrap();
    let (package, archive) = printed.trim().split_once('\n').unwrap();
    let listed = |mut command: Command| String::from_utf8(command.output().unwrap().stdout).unwrap();
    let mut contents = Command::new("dpkg-deb");
    contents.args(["--contents", package]);
    let contents = listed(contents);
    for (mode, path) in [
        ("-rwxr-xr-x", "usr/bin/fencron"),
        ("-rw-r--r--", "usr/lib/systemd/system/fencron.service"),
        ("-rw-r--r--", "usr/lib/systemd/system/fencron@.service"),
        ("-rw-r--r--", "usr/lib/sysusers.d/fencron.conf"),
        ("-rw-r--r--", "usr/share/man/man1/fencron-run.1.gz"),
        ("-rw-r--r--", "usr/share/bash-completion/completions/fencron"),
        ("-rw-r--r--", "usr/share/zsh/vendor-completions/_fencron"),
        ("-rw-r--r--", "usr/share/fish/vendor_completions.d/fencron.fish"),
        ("-rw-r--r--", "usr/share/doc/fencron/docs/deployment.md"),
        ("-rw-r--r--", "etc/fencron/jobs.yaml"),
        ("-rw-------", "etc/fencron/environment"),
    ] {
        let is_there =
            |line: &str| line.starts_with(&format!("{mode} root/root")) && line.ends_with(&format!("./{path}"));
        assert!(contents.lines().any(is_there), "{mode} {path} is not in:\n{contents}");
    }
    let mut tar = Command::new("tar");
    tar.args(["-tzf", archive]);
    assert!(listed(tar).lines().any(|line| line == "usr/bin/fencron"));

    let unpacked = directory.path().join("unpacked");
    let raw = Command::new("dpkg-deb").args(["--raw-extract", package]).arg(&unpacked).output().unwrap();
    assert!(raw.status.success(), "{}", told(&raw));
    let read = |path: &str| std::fs::read_to_string(unpacked.join(path)).unwrap();
    assert!(
        read("usr/lib/systemd/system/fencron@.service")
            .contains("ExecStart=/usr/bin/fencron run /etc/fencron/jobs.yaml")
    );
    assert!(read("DEBIAN/control").contains(&format!("\nVersion: {}\n", env!("CARGO_PKG_VERSION"))));
    for path in read("DEBIAN/conffiles").lines() {
        assert!(unpacked.join(path.trim_start_matches('/')).is_file(), "{path}");
    }
    parse(&read("etc/fencron/jobs.yaml"), &Sources::none()).unwrap_or_else(|problems| panic!("{problems}"));
    for script in ["postinst", "prerm", "postrm"] {
        let checked = Command::new("sh").arg("-n").arg(unpacked.join("DEBIAN").join(script)).output().unwrap();
        assert!(checked.status.success(), "{}", told(&checked));
    }
    let page = unpacked.join("usr/share/man/man1/fencron-run.1.gz");
    let mut zcat = Command::new("zcat");
    zcat.arg(page);
    let page = listed(zcat);
    assert!(page.contains("FENCRON_STORE") && !page.contains("s3cret"), "no value of this environment is in a page");
}

/// All objects of `deploy/kubernetes`, by kind and name.
fn kubernetes() -> BTreeMap<(String, String), Value> {
    let mut objects = BTreeMap::new();
    for entry in std::fs::read_dir(deploy("kubernetes")).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        for document in serde_yaml::Deserializer::from_str(&text) {
            let object = Value::deserialize(document).unwrap();
            let name = |value: &Value| value.as_str().unwrap().to_owned();
            let key = (name(&object["kind"]), name(&object["metadata"]["name"]));
            assert!(objects.insert(key.clone(), object).is_none(), "{key:?} is there twice");
        }
    }
    objects
}

fn list(value: &Value) -> &[Value] {
    value.as_sequence().map_or(&[], Vec::as_slice)
}

#[test]
fn what_the_manifests_of_kubernetes_name_is_there() {
    let objects = kubernetes();
    let there = |kind: &str, name: &Value| objects.contains_key(&(kind.to_owned(), name.as_str().unwrap().to_owned()));
    let mut sets = 0;
    for ((kind, name), set) in &objects {
        if kind != "StatefulSet" {
            continue;
        }
        sets += 1;
        let (spec, pod) = (&set["spec"], &set["spec"]["template"]["spec"]);
        let labels = &spec["template"]["metadata"]["labels"];
        let of_it = [&spec["selector"]["matchLabels"], labels].map(|labels| &labels["app.kubernetes.io/name"]);
        let selected = |kind: &str| objects[&(kind.to_owned(), name.clone())]["spec"].clone();
        assert_eq!(of_it[0], of_it[1]);
        assert_eq!(&selected("PodDisruptionBudget")["selector"]["matchLabels"], labels);
        assert_eq!(&selected("NetworkPolicy")["podSelector"]["matchLabels"], labels);
        assert_eq!(&objects[&("Service".to_owned(), name.clone())]["spec"]["selector"], labels);
        assert!(there("Service", &spec["serviceName"]), "the pods have names");
        let container = &pod["containers"][0];
        let ports: BTreeSet<_> = list(&container["ports"]).iter().map(|port| port["name"].as_str().unwrap()).collect();
        for probe in ["livenessProbe", "readinessProbe"] {
            assert!(ports.contains(container[probe]["httpGet"]["port"].as_str().unwrap()), "{name}: {probe}");
        }
        let claimed = list(&spec["volumeClaimTemplates"]).iter().map(|claim| &claim["metadata"]["name"]);
        let volumes: Vec<_> = list(&pod["volumes"]).iter().map(|volume| &volume["name"]).chain(claimed).collect();
        for mount in list(&container["volumeMounts"]) {
            assert!(volumes.contains(&&mount["name"]) && mount["subPath"].is_null(), "{name}: {mount:?}");
        }
        for volume in list(&pod["volumes"]) {
            let config = &volume["configMap"]["name"];
            let secret = &volume["secret"]["secretName"];
            assert!(config.is_null() || there("ConfigMap", config), "{volume:?}");
            assert!(secret.is_null() || there("Secret", secret), "{volume:?}");
        }
        let security = &container["securityContext"];
        assert_eq!(
            (&security["readOnlyRootFilesystem"], &pod["securityContext"]["runAsNonRoot"]),
            (&true.into(), &true.into())
        );
        assert_eq!((&pod["enableServiceLinks"], &pod["automountServiceAccountToken"]), (&false.into(), &false.into()));
    }
    assert_eq!(sets, 2);
    let fencron = &objects[&("StatefulSet".to_owned(), "fencron".to_owned())]["spec"]["template"]["spec"];
    let grace = Duration::from_secs(fencron["terminationGracePeriodSeconds"].as_u64().unwrap());
    assert!(grace > STOPPED_WITHIN, "{grace:?}");
    assert!(there("ServiceAccount", &fencron["serviceAccountName"]));
    let probed = |probe: &str| fencron["containers"][0][probe]["httpGet"]["path"].as_str().unwrap().to_owned();
    assert_eq!((probed("livenessProbe"), probed("readinessProbe")), ("/healthz".to_owned(), "/readyz".to_owned()));
    // The etcd beside it is the one that it is pointed at.
    let store =
        list(&fencron["containers"][0]["env"]).iter().find(|variable| variable["name"] == "FENCRON_STORE").unwrap();
    let store = store["value"].as_str().unwrap();
    assert!(store.parse::<StoreUrl>().is_ok() && store.contains("etcd-2.etcd:2379"), "{store}");
}

/// A process that is killed when the test is over.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// With all that the manifests give it but the addresses and the store.
#[test]
fn the_program_starts_with_the_arguments_and_settings_of_the_manifests() {
    let objects = kubernetes();
    let object = |kind: &str, name: &str| &objects[&(kind.to_owned(), name.to_owned())];
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let jobs = object("ConfigMap", "fencron-jobs")["data"]["jobs.yaml"].as_str().unwrap();
    std::fs::write(path("jobs.yaml"), jobs).unwrap();
    let auth = object("Secret", "fencron-auth")["stringData"]["auth.yaml"].as_str().unwrap();
    std::fs::write(path("auth.yaml"), auth).unwrap();
    std::fs::set_permissions(path("auth.yaml"), PermissionsExt::from_mode(0o600)).unwrap();
    let container = &object("StatefulSet", "fencron")["spec"]["template"]["spec"]["containers"][0];
    let inside = |text: &str| {
        let text = text.replace("/etc/fencron-auth/", &path("")).replace("/etc/fencron/", &path(""));
        text.replace("$(POD_IP)", "127.0.0.1").replace("/var/lib/fencron", &path("state"))
    };
    let mut command = Command::new(env!("CARGO_BIN_EXE_fencron"));
    command.current_dir(directory.path()).stdin(Stdio::null()).stderr(Stdio::piped());
    for variable in list(&container["env"]) {
        let name = variable["name"].as_str().unwrap();
        let value = match name {
            "FENCRON_STORE" => format!("sqlite:{}", path("state.db")),
            "FENCRON_LISTEN" => "127.0.0.1:0".to_owned(),
            _ => variable["value"].as_str().map_or_else(|| "fencron-0".to_owned(), inside),
        };
        command.env(name, value);
    }
    let arguments = list(&container["args"]).iter().map(|argument| inside(argument.as_str().unwrap()));
    let mut node = Killed(command.args(arguments).spawn().unwrap());
    let lines = BufReader::new(node.0.stderr.take().unwrap()).lines().map_while(Result::ok);
    let mut before = String::new();
    let mut is_leading = |line: &String| {
        before += &(line.clone() + "\n");
        line.contains("\"leading\"")
    };
    assert!(lines.into_iter().any(|line| is_leading(&line)), "it ended: {before}");
    let published = Command::new(env!("CARGO_BIN_EXE_fencron"))
        .args(["status", "-o", "json", "--store", &format!("sqlite:{}", path("state.db"))])
        .env("FENCRON_STATE_DIR", path("state"))
        .output()
        .unwrap();
    let status: Value = serde_yaml::from_slice(&published.stdout).unwrap();
    assert_eq!(status["leader"]["node"], "fencron-0");
    assert_eq!(status["leader"]["address"], "127.0.0.1:8080", "where others reach it");
    let listening = before.lines().find(|line| line.contains("listening on ")).unwrap();
    assert!(listening.contains("the page; /healthz"), "it has rules: {listening}");
}

/// The dotted names of all values, as templates use them. What is empty is filled in by the user as a whole.
fn names(value: &Value, before: &str, found: &mut BTreeSet<String>) {
    match value.as_mapping().filter(|mapping| !mapping.is_empty()) {
        Some(mapping) => {
            mapping.iter().for_each(|(key, value)| names(value, &format!("{before}.{}", key.as_str().unwrap()), found))
        }
        None => drop(found.insert(before.to_owned())),
    }
}

#[test]
fn the_chart_uses_each_of_its_values_and_its_schema_knows_them() {
    let chart: Value = serde_yaml::from_str(&text("helm/fencron/Chart.yaml")).unwrap();
    assert_eq!(
        (&chart["version"], &chart["appVersion"]),
        (&env!("CARGO_PKG_VERSION").into(), &env!("CARGO_PKG_VERSION").into())
    );
    let values: Value = serde_yaml::from_str(&text("helm/fencron/values.yaml")).unwrap();
    let schema: Value = serde_yaml::from_str(&text("helm/fencron/values.schema.json")).unwrap();
    let mut given = BTreeSet::new();
    names(&values, "", &mut given);
    let mut used = BTreeSet::new();
    for entry in std::fs::read_dir(deploy("helm/fencron/templates")).unwrap() {
        let template = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        for part in template.split(".Values").skip(1) {
            let end = part.find(|c: char| !c.is_ascii_alphanumeric() && c != '.').unwrap_or(part.len());
            used.insert(part[..end].to_owned());
        }
    }
    let covers = |whole: &str, part: &str| part == whole || part.starts_with(&format!("{whole}."));
    for name in &given {
        assert!(used.iter().any(|used| covers(used, name)), "{name} does nothing");
        let known = name
            .split('.')
            .skip(1)
            .fold(&schema, |at, part| if at["additionalProperties"] == false { &at["properties"][part] } else { at });
        assert!(!known.is_null(), "the schema does not know {name}");
    }
    for name in &used {
        assert!(given.iter().any(|given| covers(name, given)), "no value {name}");
    }
    parse(values["jobs"].as_str().unwrap(), &Sources::none()).unwrap_or_else(|problems| panic!("{problems}"));
}

/// A reader of the chart and one of the manifests get the same node, but for what the chart leaves to its values.
#[test]
fn the_chart_sets_what_the_manifests_set() {
    let template = text("helm/fencron/templates/statefulset.yaml");
    let container =
        &kubernetes()[&("StatefulSet".to_owned(), "fencron".to_owned())]["spec"]["template"]["spec"]["containers"][0];
    for variable in list(&container["env"]) {
        let name = variable["name"].as_str().unwrap();
        assert!(template.contains(&format!("{{name: {name}, ")), "{name}");
    }
    for line in [
        "enableServiceLinks: false",
        "readOnlyRootFilesystem: true",
        "runAsNonRoot: true",
        "podManagementPolicy: Parallel",
    ] {
        assert!(template.contains(line), "{line}");
    }
}

/// Cargo reads the manifest before it builds anything, and refuses one that names a file that is not there.
#[test]
fn the_image_is_built_from_a_package_that_is_whole() {
    let (here, directory) = (Path::new(env!("CARGO_MANIFEST_DIR")), tempfile::tempdir().unwrap());
    let ignored = std::fs::read_to_string(here.join(".dockerignore")).unwrap();
    let sent: Vec<&str> = ignored.lines().filter_map(|line| line.strip_prefix('!')).collect();
    for name in &sent {
        std::os::unix::fs::symlink(here.join(name), directory.path().join(name)).unwrap();
    }
    // Of what comes to nothing without a network, this looks for every file that the manifest names.
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let arguments = ["fetch", "--offline", "--locked", "--target", &target];
    let read = Command::new(env!("CARGO")).args(arguments).current_dir(directory.path()).output().unwrap();
    assert!(read.status.success() && sent.contains(&"src"), "{}", told(&read));
    let dockerfile = std::fs::read_to_string(here.join("Dockerfile")).unwrap();
    let rust = format!("FROM rust:{}-", env!("CARGO_PKG_RUST_VERSION"));
    assert!(dockerfile.contains(&rust), "the image is built by the oldest compiler that is promised: {rust}");
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
