//! What the program is as a process: the first of a container, and closed to others of its user.

use std::process::Command;

use fencron::time::Clock;
use serde_json::Value;

use crate::{NodeProcess, Place};

/// What `stat` says behind the name: the state, the parent.
fn stat(pid: u32) -> Option<(char, u32)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

fn children(parent: u32) -> Vec<(u32, char)> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| stat(pid).filter(|(_, above)| *above == parent).map(|(state, _)| (pid, state))).collect()
}

#[test]
fn as_the_first_process_it_reaps_orphans_and_hears_how_its_own_commands_ended() {
    let job = "{schedule: '@every 1s', shell: \"for n in 1 2 3 4 5; do (setsid sh -c 'exit 0' &); done; exit 3\"}";
    let place = Place::with(&format!("version: 1\nnamespace: shop\njobs:\n  j: {job}\n"));
    let node = place.command(&["run", "--node", "a", "--ttl", "2s"]);
    let mut apart = Command::new("unshare");
    apart.args(["--pid", "--fork", "--kill-child", "--mount-proc"]).arg(node.get_program()).args(node.get_args());
    apart.current_dir(place.path(""));
    let mut unshare = NodeProcess::spawn(apart);
    unshare.wait_for(" leading ");
    let ran = place.wait_for(&["runs", "--job", "j"], |runs| {
        let runs = runs.as_array()?.clone();
        Some(runs.into_iter().filter(|run| run["state"] == "failed").collect())
            .filter(|ran: &Vec<Value>| ran.len() >= 5)
    });
    assert!(ran.iter().all(|run| run["exit_code"] == 3), "nobody else has heard of them: {ran:#?}");
    let [(first, _)] = children(unshare.child.id())[..] else { panic!("unshare has one child") };
    // They come five at a time, once a second; only who never reaps has always some.
    let dead = || children(first).into_iter().filter(|(_, state)| *state == 'Z').count();
    place.wait_for(&["locks"], |_| (dead() == 0).then_some(()));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(first).unwrap()), nix::sys::signal::SIGTERM)
        .unwrap();
    assert!(unshare.ended().success(), "told to stop, it ends in order");
}

/// A command of the same user, who is not root.
fn as_nobody(program: &Command, place: &Place) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=61235", "--regid=61235", "--clear-groups", "--"]);
    command.arg(program.get_program()).args(program.get_args()).current_dir(place.path(""));
    command
}

#[test]
fn others_of_the_same_user_cannot_look_into_a_node_nor_into_its_supervisor() {
    let looks = "look() { cat /proc/$1/environ; ls -l /proc/$1/fd; cat /proc/$1/maps; (: </proc/$1/mem); }; \
                 (look $PPID; for p in $(cat /proc/$PPID/task/*/children); do look $p; done) >seen 2>refused; \
                 cat /proc/$PPID/task/*/children >>children; echo END >>children";
    let place = Place::with(&format!(
        "version: 1\nnamespace: shop\njobs:\n  j: {{schedule: '@every 1s', shell: '{}'}}\n",
        looks.replace('\'', "''")
    ));
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(place.path(""), everybody).unwrap();
    let mut command = as_nobody(&place.command(&["run", "--node", "a", "--ttl", "2s"]), &place);
    command.env("DATABASE_PASSWORD", "hunter2");
    let node = NodeProcess::spawn(command);
    node.wait_for(" leading ");
    let read = |name: &str| std::fs::read_to_string(place.path(name)).unwrap_or_default();
    place.wait_for(&["runs", "--job", "j"], |_| read("children").contains("END").then_some(()));
    let (seen, refused) = (read("seen"), read("refused"));
    // The job's own shell is one of the node's children, and open to it; the node's environment is a job's too.
    assert!(!seen.contains("fencron-trust") && !seen.contains("fencron-told"), "{seen}");
    let node = node.child.id();
    let supervisor = children(node).into_iter().map(|(pid, _)| pid).find(|pid| {
        std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with("fencron-supervi"))
    });
    for pid in [node, supervisor.unwrap()] {
        for name in ["environ", "maps", "mem"] {
            let path = format!("/proc/{pid}/{name}");
            assert!(
                refused.lines().any(|line| line.contains(&path) && line.contains("ermission denied")),
                "{path}: {refused}"
            );
        }
    }
}

#[test]
fn what_is_closed_to_others_reads_its_own_input() {
    let place = Place::new();
    let file = std::fs::File::open(place.path("jobs.yaml")).unwrap();
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(place.path(""), everybody).unwrap();
    let mut validate = as_nobody(&place.command(&["validate", "/dev/stdin"]), &place);
    let ran = validate.stdin(file).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}

/// How often the threads of a process have slept since they began: each time something has woken them.
fn slept(pid: u32) -> u64 {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let of_thread = |path: std::path::PathBuf| {
        // One that has ended meanwhile sleeps no more.
        let status = std::fs::read_to_string(path.join("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
        line.trim().parse::<u64>().ok()
    };
    threads.filter_map(|thread| of_thread(thread.path())).sum()
}

/// A second's wake-ups of a node with nothing to do are some 20: so many would be those of something that polls.
const WAKES_MOST: u64 = 45;

#[test]
fn a_node_with_nothing_to_do_seldom_wakes() {
    let place = Place::with("version: 1\nnamespace: shop\njobs:\n  j: {schedule: '@every 10s', shell: 'true'}\n");
    let node = NodeProcess::spawn(place.command(&["run", "--node", "a"]));
    node.wait_for(" leading ");
    // From one run to the next, which is the second of these.
    node.wait_for("run ended");
    let (before, began) = (slept(node.child.id()), Clock::system().boot());
    node.wait_for("run ended");
    let (woken, seconds) = (slept(node.child.id()) - before, Clock::system().boot().since(began).as_secs());
    assert!(seconds >= 9, "from one run to the next, {seconds} s");
    assert!(woken < WAKES_MOST * seconds, "woken {woken} times in {seconds} s");
}
