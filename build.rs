//! Says by name what is missing where the feature `etcd` is built without `protoc`, which the build script of etcd-client
//! runs. See docs/decisions/0028-features-and-dependents.md.

use std::env;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=PROTOC");
    if env::var_os("CARGO_FEATURE_ETCD").is_none() {
        return;
    }
    // As prost-build looks for it.
    let protoc = env::var_os("PROTOC").unwrap_or_else(|| "protoc".into());
    if Command::new(&protoc).arg("--version").output().is_ok_and(|output| output.status.success()) {
        return;
    }
    let protoc = protoc.display();
    println!("cargo::error=fencron's feature `etcd` is built with protoc, and `{protoc}` cannot be run. Install it:");
    println!("cargo::error=  Debian, Ubuntu: apt-get install protobuf-compiler libprotobuf-dev");
    println!("cargo::error=  Fedora: dnf install protobuf-compiler protobuf-devel");
    println!("cargo::error=  Alpine: apk add protoc protobuf-dev");
    println!("cargo::error=  macOS: brew install protobuf");
    println!("cargo::error=or set PROTOC to its path, or build without the feature `etcd`.");
}
