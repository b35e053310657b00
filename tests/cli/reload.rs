//! The jobs file as it changes, in the layouts in which files are brought to a node.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::{JOBS, NodeProcess, Place};

/// The jobs file with another output of `fine`.
fn saying(words: &str) -> String {
    JOBS.replace("hello", words)
}

/// What `fine` prints from now on.
fn output_of_fine(place: &Place) -> String {
    let run = place.trigger("fine");
    place.wait_for_state(&run, "succeeded")["output"].as_str().unwrap().to_owned()
}

fn takes(node: &NodeProcess, place: &Place, words: &str) {
    node.wait_for("took a new configuration");
    assert_eq!(output_of_fine(place), format!("{words}\n"));
}

/// A node with this file, which leads.
fn leader_with(place: &Place, file: &str) -> NodeProcess {
    let node = place.starting("a", &[file]);
    node.wait_for(" leading ");
    node
}

#[test]
fn a_link_to_a_directory_on_the_way_that_leads_elsewhere_is_noticed() {
    let place = Place::new();
    for (release, words) in [("1", "first"), ("2", "second"), ("3", "third")] {
        let config = place.path("releases").join(release).join("config");
        fs::create_dir_all(&config).unwrap();
        fs::write(config.join("jobs.yaml"), saying(words)).unwrap();
    }
    symlink("releases/1", place.path("current")).unwrap();
    let node = leader_with(&place, "current/config/jobs.yaml");
    for (release, words) in [("2", "second"), ("3", "third")] {
        symlink(format!("releases/{release}"), place.path("next")).unwrap();
        fs::rename(place.path("next"), place.path("current")).unwrap();
        takes(&node, &place, words);
    }
    // Nor is an edit behind the link overlooked.
    fs::write(place.path("releases/3/config/jobs.yaml"), saying("edited")).unwrap();
    takes(&node, &place, "edited");
}

#[test]
fn a_file_that_is_mounted_by_itself_and_edited_where_it_comes_from_is_noticed() {
    let place = Place::new();
    for directory in ["host", "bind"] {
        fs::create_dir(place.path(directory)).unwrap();
        place.write(&format!("{directory}/jobs.yaml"), JOBS);
    }
    // A mount of the node's alone, as in a container.
    let program = env!("CARGO_BIN_EXE_fencron");
    let script = format!("mount --bind host/jobs.yaml bind/jobs.yaml && exec {program} run bind/jobs.yaml --ttl 2s");
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-c", &script]).current_dir(place.path(""));
    let node = NodeProcess::spawn(command);
    node.wait_for(" leading ");
    place.write("host/jobs.yaml", &saying("edited on the host"));
    takes(&node, &place, "edited on the host");
}

/// As the kubelet does it: the files of a volume are links into `..data`, and that is a link which is replaced.
#[test]
fn a_config_map_that_is_replaced_is_noticed() {
    let place = Place::new();
    let write = |version: &str, words: &str| {
        fs::create_dir_all(place.path("etc").join(version)).unwrap();
        fs::write(place.path("etc").join(version).join("jobs.yaml"), saying(words)).unwrap();
        symlink(version, place.path("etc/..data_tmp")).unwrap();
        fs::rename(place.path("etc/..data_tmp"), place.path("etc/..data")).unwrap();
    };
    write("..1", "first");
    symlink("..data/jobs.yaml", place.path("etc/jobs.yaml")).unwrap();
    let node = leader_with(&place, "etc/jobs.yaml");
    write("..2", "second");
    fs::remove_dir_all(place.path("etc/..1")).unwrap();
    takes(&node, &place, "second");
}

/// The same with all files of the volume as one configuration.
#[test]
fn a_directory_is_read_anew_when_a_file_in_it_changes_comes_or_goes_and_stays_in_force_while_it_is_wrong() {
    let place = Place::new();
    fs::create_dir_all(place.path("etc")).unwrap();
    let write = |version: &str, texts: &[(&str, &str)]| {
        fs::create_dir_all(place.path("etc").join(version)).unwrap();
        for (name, text) in texts {
            fs::write(place.path("etc").join(version).join(name), text).unwrap();
        }
        symlink(version, place.path("etc/..data_tmp")).unwrap();
        fs::rename(place.path("etc/..data_tmp"), place.path("etc/..data")).unwrap();
    };
    let other = "version: 1\njobs: {other: {schedule: '@at 2099-01-01T00:00:00Z', command: [echo, other]}}\n";
    write("..1", &[("jobs.yaml", &saying("first")), ("other.yml", "")]);
    symlink("..data/jobs.yaml", place.path("etc/jobs.yaml")).unwrap();
    fs::write(place.path("etc/.other.yaml.swp"), "no YAML: {").unwrap();
    fs::write(place.path("etc/README"), "no YAML: {").unwrap();
    let node = leader_with(&place, "etc");
    write("..2", &[("jobs.yaml", &saying("second")), ("other.yml", other)]);
    takes(&node, &place, "second");
    // A file comes, is wrong, and goes.
    symlink("..data/other.yml", place.path("etc/other.yml")).unwrap();
    node.wait_for("took a new configuration");
    let asked = place.json(&["trigger", "other", "--file", "etc"]);
    let run = asked["run_id"].as_str().unwrap();
    assert_eq!(place.wait_for_state(run, "succeeded")["output"], "other\n");
    write("..3", &[("jobs.yaml", &saying("third")), ("other.yml", &saying("again"))]);
    node.wait_for("is in etc/jobs.yaml:");
    assert_eq!(output_of_fine(&place), "second\n");
    fs::remove_file(place.path("etc/other.yml")).unwrap();
    takes(&node, &place, "third");
}

/// Files that are named one by one, with defaults that they share, for every command.
#[test]
fn several_files_and_what_they_include_are_one_configuration_for_every_command() {
    let place = Place::new();
    fs::create_dir_all(place.path("shared")).unwrap();
    fs::create_dir_all(place.path("team")).unwrap();
    let base = |words: &str| format!("version: 1\ndefaults: {{kill_after: 1s, env: {{WORDS: {words}}}}}\n");
    let never = "schedule: '@at 2099-01-01T00:00:00Z'";
    let more = format!(
        "version: 1\ninclude: ../shared/base.yaml\njobs: {{more: {{{never}, shell: 'echo $WORDS'}}}}\n\
         migrations: [{{id: first, sql: {{database: 'sqlite:shop.db', statement: 'SELECT 1'}}}}]\n"
    );
    place.write("shared/base.yaml", &base("first"));
    place.write("team/more.yaml", &more);
    place.write("own.yaml", &format!("version: 1\nnamespace: shop\njobs: {{own: {{{never}, shell: 'echo own'}}}}\n"));
    let (files, named) = (["own.yaml", "team/more.yaml"], ["--file", "own.yaml", "--file", "team/more.yaml"]);
    let both = |args: &[&'static str]| [args, &files[..]].concat();
    assert!(place.run(&both(&["validate"])).stdout().contains("own.yaml, team/more.yaml: nothing is wrong"));
    assert_eq!(place.json(&both(&["next"])).as_array().unwrap().len(), 2);
    assert_eq!(place.run(&["validate", "team"]).code(), 0);
    assert_eq!(place.run(&both(&["migrate"])).code(), 0);
    assert_eq!(place.json(&both(&["migrate", "status"]))[0]["state"], "done");

    let node = place.starting("a", &files);
    node.wait_for(" leading ");
    let output = || {
        let run = place.json(&[&["trigger", "more"], &named[..]].concat())["run_id"].as_str().unwrap().to_owned();
        place.wait_for_state(&run, "succeeded")["output"].as_str().unwrap().to_owned()
    };
    assert_eq!(output(), "first\n");
    let listed = place.json(&[&["jobs"], &named[..]].concat());
    assert_eq!(listed.as_array().unwrap().len(), 2, "{listed:#}");
    place.write("shared/base.yaml", &base("second"));
    node.wait_for("took a new configuration");
    assert_eq!(output(), "second\n");
    // One that is wrong is named with its line, and taken when it is right again.
    place.write("shared/base.yaml", &format!("{}jobs: {{own: {{}}}}\n", base("third")));
    node.wait_for("shared/base.yaml:3:");
    fs::remove_file(place.path("shared/base.yaml")).unwrap();
    node.wait_for("team/more.yaml:2: `include`: cannot read team/../shared/base.yaml");
    place.write("shared/base.yaml", &base("fourth"));
    node.wait_for("took a new configuration");
    assert_eq!(output(), "fourth\n");
    // All users may write to a file that is included: as bad as if it were the file itself.
    let all = fs::Permissions::from_mode(0o666);
    fs::set_permissions(place.path("shared/base.yaml"), all).unwrap();
    let found = place.run(&both(&["doctor"])).stdout();
    assert!(found.contains("chmod o-w team/../shared/base.yaml"), "{found}");
}

/// As `rsync --times`, `cp --preserve` and images of files without dates leave it.
#[test]
fn another_file_of_the_same_size_and_date_is_noticed() {
    let place = Place::new();
    let date = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
    let write = |name: &str, words: &str| {
        place.write(name, &saying(words));
        fs::File::options().write(true).open(place.path(name)).unwrap().set_modified(date).unwrap();
    };
    write("jobs.yaml", "hallo");
    let node = place.leader("a", &[]);
    write("other", "howdy");
    fs::rename(place.path("other"), place.path("jobs.yaml")).unwrap();
    takes(&node, &place, "howdy");
    write("jobs.yaml", "salve");
    takes(&node, &place, "salve");
}

#[test]
fn a_file_that_is_gone_for_a_while_stays_in_force_and_is_taken_when_it_is_back() {
    let place = Place::new();
    let node = place.leader("a", &[]);
    fs::remove_file(place.path("jobs.yaml")).unwrap();
    node.wait_for("the jobs file is refused");
    assert_eq!(output_of_fine(&place), "hello\n");
    place.write("jobs.yaml", &saying("back"));
    takes(&node, &place, "back");
}

#[test]
fn what_would_never_end_in_the_place_of_the_file_is_refused_and_the_file_taken_when_it_is_back() {
    let place = Place::new();
    let node = place.leader("a", &[]);
    let fifo = |path: &Path| mkfifo(path, Mode::S_IRWXU).unwrap();
    let device = |path: &Path| symlink("/dev/zero", path).unwrap();
    let directory = |path: &Path| fs::create_dir(path).unwrap();
    let (no_file, none) = ("it is no regular file", "no jobs file is in jobs.yaml");
    let all = [(&fifo as &dyn Fn(&Path), no_file, "one"), (&device, no_file, "two"), (&directory, none, "three")];
    for (make, why, words) in all {
        make(&place.path("new"));
        fs::remove_file(place.path("jobs.yaml")).unwrap();
        fs::rename(place.path("new"), place.path("jobs.yaml")).unwrap();
        node.wait_for(why);
        fs::remove_file(place.path("jobs.yaml")).or_else(|_| fs::remove_dir(place.path("jobs.yaml"))).unwrap();
        place.write("jobs.yaml", &saying(words));
        takes(&node, &place, words);
    }
}

const NAMING_OTHERS: &str = "
version: 1
namespace: shop
jobs:
  show: {schedule: '@at 2099-01-01T00:00:00Z', shell: 'echo $SECRET', env: {SECRET: '${file:run/secret}'}}
  write: {schedule: '@at 2099-01-01T00:00:00Z', sql: {database: 'sqlite:shop.db', file: write.sql}}
";

#[test]
fn a_file_that_the_jobs_file_names_is_noticed_when_it_changes() {
    let place = Place::with(NAMING_OTHERS);
    fs::create_dir(place.path("run")).unwrap();
    place.write("run/secret", "four");
    place.write("write.sql", "SELECT 'before';");
    let node = place.leader("a", &[]);
    let output = |job: &str| {
        let run = place.trigger(job);
        place.wait_for_state(&run, "succeeded")["output"].as_str().unwrap().to_owned()
    };
    assert_eq!(output("show"), "four\n");
    place.write("new", "five");
    fs::rename(place.path("new"), place.path("run/secret")).unwrap();
    node.wait_for("took a new configuration");
    assert_eq!(output("show"), "five\n");
    place.write("write.sql", "SELECT 'behind';");
    node.wait_for("took a new configuration");
    assert!(output("write").contains("behind"));
    // One that is missing is waited for.
    fs::remove_file(place.path("run/secret")).unwrap();
    node.wait_for("the jobs file is refused");
    place.write("run/secret", "six");
    node.wait_for("took a new configuration");
    assert_eq!(output("show"), "six\n");
}

#[test]
fn a_pipe_is_read_once_and_one_that_says_nothing_is_refused() {
    let place = Place::new();
    let mut command = Command::new("sh");
    let program = env!("CARGO_BIN_EXE_fencron");
    command.args(["-c", &format!("cat jobs.yaml | {program} validate /dev/stdin")]).current_dir(place.path(""));
    let said = command.output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    mkfifo(&place.path("silent"), Mode::S_IRWXU).unwrap();
    place.run(&["validate", "silent"]).fails(2, &["cannot read silent", "nothing was written to it"]);
    place.run(&["validate", "/dev/zero"]).fails(2, &["it is no regular file"]);
}

/// A signal that the node handles interrupts its waiting for whoever writes to the pipe.
#[test]
fn a_signal_does_not_end_the_reading_of_a_pipe() {
    let place = Place::new();
    let fifo = place.path("pipe.yaml");
    mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    let node = place.starting("a", &["pipe.yaml"]);
    // Once it can be opened to write without waiting, somebody reads.
    let open = || fs::OpenOptions::new().write(true).custom_flags(nix::libc::O_NONBLOCK).open(&fifo);
    let mut pipe = open();
    for _ in 0..crate::LIMIT.as_millis() / 20 {
        if pipe.is_ok() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
        pipe = open();
    }
    let mut pipe = pipe.expect("the node reads the pipe");
    let (first, rest) = JOBS.split_at(JOBS.len() / 2);
    pipe.write_all(first.as_bytes()).unwrap();
    for _ in 0..20 {
        node.signal(Signal::SIGHUP);
        std::thread::sleep(Duration::from_millis(20));
    }
    pipe.write_all(rest.as_bytes()).unwrap();
    drop(pipe);
    node.wait_for(" leading ");
}
