//! `fencron top` on a terminal, which script(1) makes: what stands on the screen is read as a person reads it.

use std::io::{Read as _, Write as _};
use std::num::NonZero;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::etcd::{Etcd, EtcdOptions};
use crate::support::program::{FENCRON, within};
use crate::{LIMIT, Place};

const LINES: NonZero<u16> = NonZero::new(24).unwrap();
const COLUMNS: NonZero<u16> = NonZero::new(80).unwrap();

/// `fencron top` on a terminal of 80 columns and 24 lines.
struct OnTerminal<'a> {
    place: &'a Place,
    child: Child,
    keys: ChildStdin,
    screen: Arc<Mutex<vt100::Parser>>,
}

impl OnTerminal<'_> {
    fn start<'a>(place: &'a Place, store: &str, variables: &str) -> OnTerminal<'a> {
        let script = format!(
            "stty rows 24 cols 80; stty -g > before; sh -c 'echo $$ > pid.new; mv pid.new pid; exec env {variables} \
             {FENCRON} top --store {store}'; echo $? > code; stty -g > after; echo ended"
        );
        let mut command = within(place.dir.path(), Command::new("script"));
        command.args(["-qec", &script, "/dev/null"]).env("SHELL", "/bin/bash").env("TERM", "xterm-256color");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (keys, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let screen = Arc::new(Mutex::new(vt100::Parser::new(LINES, COLUMNS, 0)));
        let drawn = Arc::clone(&screen);
        thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(length @ 1..) = output.read(&mut piece) {
                drawn.lock().unwrap().process(&piece[..length]);
            }
        });
        OnTerminal { place, child, keys, screen }
    }

    fn text(&self) -> String {
        self.screen.lock().unwrap().screen().contents()
    }

    #[track_caller]
    fn until(&self, what: &str, is_so: impl Fn(&vt100::Screen) -> bool) {
        for _ in 0..LIMIT.as_millis() / 20 {
            if is_so(self.screen.lock().unwrap().screen()) {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        panic!("{what}: it never came:\n{}", self.text());
    }

    #[track_caller]
    fn until_it_says(&self, texts: &[&str]) {
        self.until(&format!("{texts:?}"), |screen| {
            let text = screen.contents();
            texts.iter().all(|wanted| text.contains(wanted))
        });
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Gives the terminal another size, of which its programs learn.
    fn resize(&self, lines: u16, columns: u16) {
        let new = |count| NonZero::new(count).unwrap();
        self.screen.lock().unwrap().screen_mut().set_size(new(lines), new(columns));
        let terminal = std::fs::read_link(format!("/proc/{}/fd/0", self.pid())).unwrap();
        let mut stty = Command::new("stty");
        stty.arg("-F").arg(terminal).args(["rows", &lines.to_string(), "cols", &columns.to_string()]);
        assert!(stty.status().unwrap().success());
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.read("pid").parse().unwrap())
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.place.path(file)).unwrap().trim().to_owned()
    }

    /// Waits for its end, after which the terminal is as it was.
    #[track_caller]
    fn ends(mut self, code: i32) {
        self.until_it_says(&["ended"]);
        assert!(self.child.wait().unwrap().success());
        assert_eq!(self.read("code"), code.to_string(), "{}", self.text());
        assert_eq!(self.read("before"), self.read("after"), "the modes of the terminal");
        let screen = self.screen.lock().unwrap();
        assert!(!screen.screen().alternate_screen() && !screen.screen().hide_cursor());
    }
}

impl Drop for OnTerminal<'_> {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn file(place: &Place) -> String {
    format!("sqlite:{}", place.path(".fencron/state.db").display())
}

/// Follows a leader that is killed, finds a job and opens its run.
fn a_cluster_is_looked_at(place: &Place, store: &str) {
    let mut leader = place.leader("first", &["--store", store]);
    let _second = place.node("second", &["--store", store]);
    place.json(&["trigger", "wrong", "--store", store]);
    let mut top = OnTerminal::start(place, store, "NO_COLOR=1");
    top.until_it_says(&["firing  first, fence", "✗ failed     wrong", "1 in a row", "j/k ↓↑ move"]);
    top.press("/wro\r");
    top.until_it_says(&["[2 Jobs]", "Only jobs with “wro”", "✗ failing    wrong"]);
    top.press("\r");
    top.until_it_says(&["[3 Run]", "Run wrong@", "✗ failed: ", "by first, fence", "OUTPUT", "oops"]);
    top.press("4");
    top.until_it_says(&["first leads under fence", "1. second", "follower   second"]);
    leader.child.kill().unwrap();
    leader.ended();
    top.until_it_says(&["second leads under fence", "No other node waits", "✗ lapsed"]);
    top.until("NO_COLOR is respected", |screen| {
        let cells = (0..24).flat_map(|row| (0..80).filter_map(move |column| screen.cell(row, column)));
        cells.into_iter().all(|cell| cell.fgcolor() == vt100::Color::Default)
    });
    top.press("q");
    top.ends(0);
}

#[test]
fn top_follows_a_cluster_over_a_file_while_its_leader_is_killed() {
    let place = Place::new();
    let store = file(&place);
    a_cluster_is_looked_at(&place, &store);
}

#[tokio::test]
async fn top_follows_a_cluster_over_etcd_while_its_leader_is_killed_and_the_store_is_away() {
    let place = Place::new();
    let mut etcd = Etcd::start(EtcdOptions::default()).await;
    let store = format!("etcd://{}", etcd.endpoint());
    a_cluster_is_looked_at(&place, &store);
    // Without any node, the store alone says that it answers.
    let mut top = OnTerminal::start(&place, &store, "A=1");
    top.until_it_says(&["NOT firing", "no leader", "wrong"]);
    etcd.kill();
    top.until_it_says(&["The store does not answer", "What stands here is", "Trying again.", "wrong"]);
    etcd.restart();
    top.until("it answers again", |screen| {
        let text = screen.contents();
        !text.contains("does not answer") && text.contains("NOT firing") && text.contains("wrong")
    });
    top.press("\u{3}");
    top.ends(0);
}

#[test]
fn however_top_ends_or_is_stopped_the_terminal_is_as_it_was() {
    let place = Place::new();
    let store = file(&place);
    let _node = place.leader("first", &["--store", &store]);
    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT] {
        let top = OnTerminal::start(&place, &store, "A=1");
        top.until_it_says(&["[1 Now]", "firing  first"]);
        kill(top.pid(), signal).unwrap();
        top.ends(128 + signal as i32);
    }
    let mut top = OnTerminal::start(&place, &store, "A=1");
    top.until("it has a screen of its own", |screen| screen.alternate_screen() && screen.hide_cursor());
    top.until_it_says(&["[1 Now]", "firing  first"]);
    // By the key, and by the signal.
    for by_key in [true, false] {
        match by_key {
            true => top.press("\u{1a}"),
            false => kill(top.pid(), Signal::SIGTSTP).unwrap(),
        }
        top.until("the terminal is given back", |screen| !screen.alternate_screen() && !screen.hide_cursor());
        let stat = format!("/proc/{}/stat", top.pid());
        top.until("it is stopped", |_| {
            let stat = std::fs::read_to_string(&stat).unwrap();
            stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
        });
        kill(top.pid(), Signal::SIGCONT).unwrap();
        top.until_it_says(&["[1 Now]", "firing  first"]);
        top.until("it is drawn", |screen| screen.alternate_screen() && screen.hide_cursor());
    }
    top.press("2");
    top.until_it_says(&["[2 Jobs]", "daily"]);
    // Another size, and one that is too small.
    top.resize(40, 100);
    top.until("it fills the terminal", |screen| screen.contents().lines().count() == 40);
    top.resize(10, 60);
    top.until_it_says(&["This terminal has 60 columns and 10 lines."]);
    top.resize(24, 80);
    top.until_it_says(&["[2 Jobs]", "daily"]);
    top.press("q");
    top.ends(0);
}

#[test]
fn without_a_terminal_top_says_what_to_use() {
    let place = Place::new();
    place.run(&["top"]).fails(2, &["there is no terminal to draw on", "fencron status"]);
}
