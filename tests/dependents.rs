//! Services that have a SQLite library of their own and add fencron: `tests/dependents` has one for each version of sqlx
//! whose SQLite is another one. They are resolved and compiled as they are, with the `protoc` of this clone.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

/// A service, and how fencron is built in it.
struct Service {
    name: &'static str,
    features: &'static str,
}

impl Service {
    fn cargo(&self, arguments: &[&str]) -> String {
        let top = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let directory = top.join("tests/dependents").join(self.name);
        let mut command = Command::new(env!("CARGO"));
        // One directory for all of them; that of this build has other settings, and may be in use.
        let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("dependents");
        command.current_dir(directory).args(arguments).args(["--features", self.features]);
        command.env("CARGO_TARGET_DIR", target).env("PROTOC", top.join(".cargo/protoc"));
        // What `cargo test` sets for this test is not meant for the other package.
        command.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
        let output = command.output().expect("cargo has built this test");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{} with {}: {err}", self.name, self.features);
        out.into_owned()
    }

    /// The packages that it is made of, each as `name 1.2.3`.
    fn packages(&self) -> BTreeSet<String> {
        let tree = self.cargo(&["tree", "--prefix", "none", "--edges", "normal,build", "--format", "{p}"]);
        tree.lines().map(|line| line.split(" (").next().unwrap_or(line).replace(" v", " ")).collect()
    }

    fn builds(&self) {
        self.cargo(&["check", "--quiet"]);
    }
}

fn version<'a>(packages: &'a BTreeSet<String>, name: &str) -> Option<&'a str> {
    packages.iter().find_map(|package| package.strip_prefix(name)?.strip_prefix(' '))
}

#[test]
fn a_service_with_sqlx_adds_a_store_in_etcd_without_another_sqlite() {
    let service = Service { name: "sqlx-0.9", features: "etcd" };
    let packages = service.packages();
    assert!(version(&packages, "sqlx-sqlite").is_some() && version(&packages, "etcd-client").is_some(), "{packages:?}");
    for left_out in ["rusqlite", "clap", "chrono-tz", "reqwest"] {
        assert_eq!(version(&packages, left_out), None, "{left_out} is there");
    }
    service.builds();
}

#[test]
fn a_service_with_sqlx_adds_a_store_in_sqlite_that_shares_its_sqlite() {
    let service = Service { name: "sqlx-0.9", features: "sqlite" };
    let packages = service.packages();
    assert!(version(&packages, "rusqlite").is_some_and(|version| version.starts_with("0.39.")), "{packages:?}");
    for left_out in [
        "etcd-client",
        "tonic",
        "prost-build",
        "protoc-bin-vendored-linux-x86_64",
        "clap",
        "axum",
        "chrono-tz",
        "reqwest",
    ] {
        assert_eq!(version(&packages, left_out), None, "{left_out} is there");
    }
    service.builds();
}

#[test]
fn a_service_with_the_oldest_sqlite_of_the_range_adds_a_store_in_sqlite() {
    let service = Service { name: "sqlx-0.8", features: "sqlite" };
    let packages = service.packages();
    assert!(version(&packages, "rusqlite").is_some_and(|version| version.starts_with("0.32.")), "{packages:?}");
    service.builds();
}
