//! Which store is meant: the one that is named, the nearest one, or that of the program which runs the command.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::scene::{Process, Ran};
use crate::support::certificates::Certificates;
use crate::support::etcd::{Etcd, EtcdOptions};
use crate::support::program::FENCRON;
use crate::support::until;

/// A directory in which nobody has named a store, below a home directory.
struct Home(TempDir);

impl Home {
    fn new() -> Home {
        let home = Home(tempfile::tempdir().unwrap());
        fs::create_dir_all(home.path("one/sub")).unwrap();
        fs::create_dir_all(home.path("two")).unwrap();
        fs::create_dir_all(home.path("runtime")).unwrap();
        home
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().canonicalize().unwrap().join(name)
    }

    fn command(&self, dir: &str, args: &[&str]) -> Command {
        let mut command = Command::new(FENCRON);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("FENCRON_") || name == "RUST_LOG") {
            command.env_remove(name);
        }
        command.env("HOME", self.path("")).env("XDG_RUNTIME_DIR", self.path("runtime"));
        command.env("FENCRON_STATE_DIR", self.path("state"));
        command.args(args).current_dir(self.path(dir));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    #[track_caller]
    fn run(&self, dir: &str, args: &[&str]) -> Ran {
        Ran::of(self.command(dir, args).output().unwrap())
    }

    /// A file once it is there, whole: it ends in a line that says so.
    async fn wait_for(&self, name: &str) -> String {
        let ended = async || fs::read_to_string(self.path(name)).ok().filter(|text| text.ends_with("END\n"));
        until(&format!("{name} is written"), ended).await
    }
}

const MIGRATIONS: &str = "version: 1\nnamespace: shop\nmigrations:\n  - {id: one, shell: 'true'}\njobs: {}\n";

#[test]
fn a_lock_over_a_store_that_nobody_named_is_refused() {
    let home = Home::new();
    for args in [
        &["lock", "deploy", "--", "true"][..],
        &["elect", "deploy", "--", "true"],
        &["semaphore", "deploy", "--permits", "1", "--", "true"],
        &["semaphore", "deploy", "--permits", "1", "--set-permits"],
        &["once", "deploy", "--", "true"],
    ] {
        home.run("two", args).ends(2, &["none is named", "--store", "FENCRON_STORE"]);
    }
    for args in [&["locks"][..], &["unlock", "--force", "deploy"], &["status"], &["runs"], &["once", "x", "--forget"]] {
        home.run("two", args).ends(5, &["none is named", "--store"]);
    }
    assert!(!home.path("two/.fencron").exists());
}

#[test]
fn the_path_of_a_store_that_is_made_is_told_and_the_nearest_above_is_used() {
    let home = Home::new();
    fs::write(home.path("one/jobs.yaml"), MIGRATIONS).unwrap();
    let made = format!("made the store {}", home.path("one/.fencron/state.db").display());
    home.run("one", &["migrate"]).ends(0, &[&made]);
    assert!(!home.run("one", &["migrate"]).stderr.contains("made the store"), "it was there");

    let fence = |dir: &str| {
        let ran = home.run(dir, &["lock", "deploy", "--", "sh", "-c", "echo $FENCRON_SCOPE $FENCRON_FENCE"]);
        ran.ends(0, &[]);
        let (scope, fence) = ran.stdout.trim().split_once(' ').unwrap();
        assert_eq!(scope, "shop/lock/deploy", "the only namespace of that store");
        fence.parse::<u64>().unwrap()
    };
    let fences = [fence("one"), fence("one/sub"), fence("one"), fence("one/sub")];
    assert!(fences.is_sorted_by(|one, next| one < next), "fences of one store: {fences:?}");
    home.run("one/sub", &["locks"]).ends(0, &[]);
    assert!(!home.path("one/sub/.fencron").exists());

    fs::write(home.path("one/sub/jobs.yaml"), MIGRATIONS).unwrap();
    let another = format!("the store {} is another one", home.path("one/.fencron/state.db").display());
    let own = format!("made the store {}", home.path("one/sub/.fencron/state.db").display());
    home.run("one/sub", &["migrate"]).ends(0, &[&own, &another]);
    let named = format!("sqlite:{}", home.path("two/named.db").display());
    let said = format!("made the store {}", home.path("two/named.db").display());
    home.run("two", &["--store", &named, "once", "k", "--", "true"]).ends(0, &[&said]);
}

/// What a job does that looks at its environment, and takes a lock in its own directory.
fn looks(name: &str) -> String {
    let inner = format!("env >> {name}; echo END >> {name}");
    format!("env > {name}; {FENCRON} lock deploy -- sh -c '{inner}'")
}

fn value<'a>(env: &'a str, name: &str) -> Vec<&'a str> {
    env.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('=')).collect()
}

#[tokio::test]
async fn a_job_that_calls_fencron_finds_the_file_of_its_node() {
    let home = Home::new();
    let (two, looks) = (home.path("two").display().to_string(), looks("env"));
    let job = format!("{{schedule: '@every 1s', dir: {two}, shell: \"{looks}\"}}");
    fs::write(home.path("one/jobs.yaml"), format!("version: 1\nnamespace: shop\njobs:\n  j: {job}\n")).unwrap();
    let node = Process::spawn(home.command("one", &["run", "--ttl", "2s"]));
    node.wait_for(&format!("made the store {}", home.path("one/.fencron/state.db").display())).await;
    let env = home.wait_for("two/env").await;
    let store = format!("sqlite:{}", home.path("one/.fencron/state.db").display());
    assert_eq!(value(&env, "FENCRON_STORE"), [&store, &store], "of the job, and of what it runs under the lock");
    let [term, lock] = value(&env, "FENCRON_FENCE")[..] else { panic!("{env}") };
    assert!(lock.parse::<u64>().unwrap() > term.parse().unwrap(), "fences of one store: {term}, {lock}");
    assert_eq!(value(&env, "FENCRON_SCOPE"), ["shop/leader", "shop/lock/deploy"]);
    assert!(!home.path("two/.fencron").exists());
}

fn access_files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.to_string_lossy().contains("fencron-access-")).collect()
}

#[tokio::test]
async fn a_job_finds_the_store_of_its_node_without_a_password_in_its_environment() {
    let etcd = Etcd::start(EtcdOptions::default()).await;
    etcd.enable_auth("shop", "s3cret", "/fencron/v1/");
    let home = Home::new();
    let (two, looks) = (home.path("two").display().to_string(), looks("env"));
    let nested = format!(
        "{{schedule: '@every 1s', dir: {two}, shell: \"{FENCRON} run nested.yaml > nested 2>&1; echo $? END >> nested\"}}"
    );
    fs::write(home.path("two/nested.yaml"), "version: 1\njobs: {}\n").unwrap();
    let jobs = format!(
        "version: 1\nnamespace: shop\njobs:\n  j: {{schedule: '@every 1s', dir: {two}, shell: \"{looks}\"}}\n  \
         nested: {nested}\n"
    );
    fs::write(home.path("one/jobs.yaml"), jobs).unwrap();
    let store = format!("etcd://shop:s3cret@{}", etcd.endpoint());
    let mut node = Process::spawn(home.command("one", &["run", "--ttl", "2s", "--store", &store]));
    let env = home.wait_for("two/env").await;
    assert!(!env.contains("s3cret"), "{env}");
    let told = format!("etcd://{}", etcd.endpoint());
    assert_eq!(value(&env, "FENCRON_STORE"), [&told, &told]);
    let files = access_files(&home.path("state"));
    let [file] = &files[..] else { panic!("{files:?}") };
    assert_eq!(fs::metadata(file).unwrap().mode() & 0o777, 0o600);
    assert_eq!(value(&env, "FENCRON_STORE_ACCESS"), [file.to_str().unwrap(); 2], "the inner one hands on what it got");
    assert_eq!(value(&env, "FENCRON_SCOPE"), ["shop/leader", "shop/lock/deploy"]);
    assert!(!home.path("two/.fencron").exists());

    let nested = home.wait_for("two/nested").await;
    assert!(nested.contains("a command of the job nested") && nested.ends_with("2 END\n"), "{nested}");

    node.signal(Signal::SIGTERM);
    assert_eq!(node.ended().await.code(), Some(0));
    assert!(access_files(&home.path("state")).is_empty(), "gone with the node");
}

#[tokio::test]
async fn a_command_under_a_lock_and_a_migration_find_the_store_without_a_password() {
    let etcd = Etcd::start(EtcdOptions::default()).await;
    etcd.enable_auth("shop", "s3cret", "/fencron/v1/");
    let home = Home::new();
    let in_url = format!("etcd://shop:s3cret@{}", etcd.endpoint());
    let plain = format!("etcd://{}", etcd.endpoint());
    let shown = format!("env; cd {}; exec {FENCRON} lock inner -- env", home.path("one/sub").display());
    for (store, variables) in
        [(&in_url, &[][..]), (&plain, &[("FENCRON_ETCD_USER", "shop"), ("FENCRON_ETCD_PASSWORD", "s3cret")])]
    {
        let lock = ["--store", store, "--namespace", "shop", "lock", "outer", "--", "sh", "-c", &shown];
        let ran = Ran::of(home.command("two", &lock).envs(variables.iter().copied()).output().unwrap());
        ran.ends(0, &[]);
        assert!(!ran.stdout.contains("s3cret"), "{}", ran.stdout);
        assert_eq!(value(&ran.stdout, "FENCRON_LOCK"), ["outer", "inner"]);
        assert_eq!(value(&ran.stdout, "FENCRON_STORE"), [&plain, &plain]);
        assert!(access_files(&home.path("runtime")).is_empty(), "gone with the command");
    }
    let step = format!("{{id: one, dir: {}, shell: \"{FENCRON} lock inner -- env\"}}", home.path("one/sub").display());
    fs::write(home.path("two/jobs.yaml"), format!("version: 1\nnamespace: shop\nmigrations: [{step}]\njobs: {{}}\n"))
        .unwrap();
    let migrated = home.run("two", &["--store", &in_url, "migrate"]);
    migrated.ends(0, &["FENCRON_LOCK=inner"]);
    assert!(!migrated.stderr.contains("s3cret"), "{}", migrated.stderr);
    assert!(!home.path("one/sub/.fencron").exists());
}

#[tokio::test]
async fn a_password_is_not_shown_to_another_store() {
    let etcd = Etcd::start(EtcdOptions::default()).await;
    let other = Etcd::start(EtcdOptions::default()).await;
    etcd.enable_auth("shop", "s3cret", "/fencron/v1/");
    let home = Home::new();
    let store = format!("etcd://shop:s3cret@{}", etcd.endpoint());
    let inner = format!("exec {FENCRON} --store etcd://{} lock inner -- env", other.endpoint());
    let ran = home.run("two", &["--store", &store, "--namespace", "shop", "lock", "outer", "--", "sh", "-c", &inner]);
    ran.ends(0, &[]);
    // The file is still named, for the store that it is for. It was not taken for this one, which then would be handed on.
    let handed = fs::read_to_string(value(&ran.stdout, "FENCRON_STORE_ACCESS")[0]).unwrap_or_default();
    assert_eq!(value(&ran.stdout, "FENCRON_STORE"), [&format!("etcd://{}", other.endpoint())]);
    assert!(!handed.contains(&other.endpoint()), "{handed}");
}

/// What revokes the lease of a process that was killed has to log in as that one did, by the same files and passwords, from
/// wherever those are.
#[tokio::test]
async fn who_is_killed_is_followed_at_once_also_where_the_store_wants_a_login() {
    let certificates = Certificates::make();
    let secured = Etcd::start(EtcdOptions::tls(&certificates)).await;
    let with_login = Etcd::start(EtcdOptions::default()).await;
    with_login.enable_auth("shop", "s3cret", "/fencron/v1/");
    let home = Home::new();
    for file in ["ca.pem", "client.pem", "client.key"] {
        fs::copy(certificates.path(file), home.path("one").join(file)).unwrap();
    }
    fs::write(home.path("one/password"), "s3cret\n").unwrap();
    let tls = format!("etcds://{}?ca=ca.pem&cert=client.pem&key=client.key", secured.endpoint());
    let plain = format!("etcd://{}", with_login.endpoint());
    let given = [("FENCRON_ETCD_USER", "shop"), ("FENCRON_ETCD_PASSWORD", "s3cret")];
    let in_a_file = [("FENCRON_ETCD_USER", "shop"), ("FENCRON_ETCD_PASSWORD_FILE", "password")];
    for (name, store, variables) in [("a", &tls, &[][..]), ("b", &plain, &given[..]), ("c", &plain, &in_a_file[..])] {
        let lock = |script: &str| {
            let args = ["--store", store, "--namespace", "shop", "lock", name, "--ttl", "1h", "--", "sh", "-c", script];
            let mut command = home.command("one", &args);
            command.envs(variables.iter().copied());
            Process::spawn(command)
        };
        let first = lock(&format!("echo END > {name}; sleep 1000"));
        home.wait_for(&format!("one/{name}")).await;
        let second = lock("exit 9");
        first.signal(Signal::SIGKILL);
        second.end().await.ends(9, &[]);
    }
}
