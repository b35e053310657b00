//! Alerts as mails, to a real server: how it is reached, and what comes. And the pings of a job.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::Duration;

use fencron::time::{Clock, Wall};
use serde_json::Value;

use crate::support::certificates::Certificates;
use crate::support::etcd::{Etcd, EtcdOptions};
use crate::support::mail::MailServer;
use crate::{LIMIT, Place};

/// A jobs file whose channel `mail` is this.
fn jobs(channel: &str) -> String {
    format!(
        "version: 1\nnamespace: shop\nnotify:\n  channels:\n    mail: {{{channel}, from: fencron@example.org}}\n\
         jobs:\n  bill: {{schedule: '@at 2099-01-01T00:00:00Z', shell: 'test -e fine'}}\n"
    )
}

/// The certificates of servers, and a server that asks for them so.
fn server(made: &Certificates, security: &str) -> MailServer {
    MailServer::start(security, &made.path("server.pem"), &made.path("server.key"))
}

/// Has a channel tried that is this.
fn tried(place: &Place, channel: &str) -> crate::Ran {
    place.write("jobs.yaml", &jobs(channel));
    place.run(&["notify", "test", "mail"])
}

#[test]
fn a_mail_goes_over_tls_of_either_kind_with_a_login_or_to_a_relay_of_this_machine() {
    let (place, made) = (Place::new(), Certificates::make());
    let ca: PathBuf = made.path("ca.pem");
    let login = format!("ca: '{}', user: u, password: hunter2, to: ops@example.org", ca.display());
    for (security, channel) in [
        ("tls", format!("smtp: 'smtps://localhost:PORT', {login}")),
        ("starttls", format!("smtp: 'smtp://localhost:PORT', {login}")),
        ("plain", "smtp: 'smtp://127.0.0.1:PORT', starttls: false, to: [ops@example.org, b@example.org]".to_owned()),
    ] {
        let server = server(&made, security);
        let ran = tried(&place, &channel.replace("PORT", &server.port.to_string()));
        assert_eq!(ran.code(), 0, "{security}: {}", ran.stderr());
        assert!(ran.stdout().contains("sent through mail (smtp): 250"), "{}", ran.stdout());
        let mail = server.next();
        let (is_plain, to) = (security == "plain", mail["to"].as_array().unwrap().len());
        assert_eq!(
            (&mail["tls"], &mail["authenticated"], to),
            (&(!is_plain).into(), &(!is_plain).into(), 1 + usize::from(is_plain))
        );
        assert_eq!((&mail["from"], &mail["automatic"]), (&"fencron@example.org".into(), &"auto-generated".into()));
        assert_eq!(mail["subject"], "[shop] notify-test failed");
        assert!(mail["text"].as_str().unwrap().contains("a trial by `fencron notify test`"), "{mail}");
    }
}

#[test]
fn why_a_mail_was_not_taken_is_said_and_none_is_sent_in_the_clear() {
    let (place, made) = (Place::new(), Certificates::make());
    let (ca, to) = (format!("ca: '{}'", made.path("ca.pem").display()), "to: ops@example.org");
    let (tls, plain) = (server(&made, "tls"), server(&made, "plain"));
    for (channel, says) in [
        (format!("smtp: 'smtps://localhost:{}', user: u, password: wrong, {ca}, {to}", tls.port), "535"),
        (format!("smtp: 'smtps://localhost:{}', {ca}, {to}", tls.port), "530"),
        (format!("smtp: 'smtps://localhost:{}', user: u, password: hunter2, {to}", tls.port), "certificate"),
        (format!("smtp: 'smtp://localhost:{}', {ca}, {to}", plain.port), "`starttls: false` sends in the clear"),
        ("smtp: 'smtp://127.0.0.1:1', starttls: false, to: ops@example.org".to_owned(), "127.0.0.1:1: "),
        (format!("smtp: 'smtp://127.0.0.1:{}', starttls: false, to: unknown@example.org", plain.port), "550"),
    ] {
        let ran = tried(&place, &channel);
        ran.fails(1, &["the channel mail (smtp) did not take it", says]);
        assert!(!ran.stderr().contains("hunter2"), "{}", ran.stderr());
    }
    assert_eq!((tls.rest().len(), plain.rest().len()), (0, 0));
}

#[test]
fn a_job_that_fails_and_recovers_is_two_mails_with_ids_of_their_own() {
    let (place, made) = (Place::new(), Certificates::make());
    let server = server(&made, "plain");
    place.write(
        "jobs.yaml",
        &jobs(&format!("smtp: 'smtp://127.0.0.1:{}', starttls: false, to: ops@example.org", server.port)),
    );
    let _node = place.leader("a", &[]);
    let failed = place.trigger("bill");
    let first = server.next();
    assert_eq!(first["subject"], "[shop] bill failed");
    assert!(first["text"].as_str().unwrap().contains(&failed), "{first}");
    place.write("fine", "");
    place.wait_for_state(&place.trigger("bill"), "succeeded");
    // It is sent with what comes within the half minute after the first.
    let second = server.next();
    assert_eq!(second["subject"], "[shop] bill has recovered");
    assert!(first["id"].is_string() && second["id"].is_string() && first["id"] != second["id"], "{first} {second}");
}

/// A server that hands on the path and the body of each request. While `holds`, it answers none.
struct Receiver {
    port: u16,
    received: mpsc::Receiver<(String, String)>,
    holds: Arc<(Mutex<bool>, Condvar)>,
}

impl Receiver {
    fn start() -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (send, received) = mpsc::channel();
        let holds = Arc::<(Mutex<bool>, Condvar)>::default();
        let held = Arc::clone(&holds);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (send, held) = (send.clone(), Arc::clone(&held));
                std::thread::spawn(move || {
                    let Some(request) = request(&stream) else { return };
                    send.send(request).ok();
                    drop(held.1.wait_while(held.0.lock().unwrap(), |holds| *holds).unwrap());
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                    // A sender that was killed does not read it.
                    (&stream).write_all(answer).ok();
                });
            }
        });
        Receiver { port, received, holds }
    }

    fn hold(&self, holds: bool) {
        *self.holds.0.lock().unwrap() = holds;
        self.holds.1.notify_all();
    }

    fn next(&self) -> (String, String) {
        self.received.recv_timeout(LIMIT).expect("a request comes")
    }
}

/// The path and the body of a request; `None`: its sender is gone.
fn request(stream: &TcpStream) -> Option<(String, String)> {
    let mut read = BufReader::new(stream);
    let (mut first, mut line, mut length) = (String::new(), String::new(), 0);
    read.read_line(&mut first).ok()?;
    while read.read_line(&mut line).ok()? > 2 {
        let lower = line.to_ascii_lowercase();
        length = lower.strip_prefix("content-length:").map_or(length, |text| text.trim().parse().unwrap());
        line.clear();
    }
    let mut body = vec![0; length];
    read.read_exact(&mut body).ok()?;
    Some((first.split(' ').nth(1)?.to_owned(), String::from_utf8(body).ok()?))
}

#[test]
fn a_job_pings_what_watches_it_when_a_run_begins_succeeds_and_fails() {
    let receiver = Receiver::start();
    let (port, next) = (receiver.port, || receiver.next());
    let place = Place::with(&format!(
        "version: 1\njobs:\n  bill: {{schedule: '@at 2099-01-01T00:00:00Z', shell: 'test -e fine', \
         ping: 'http://127.0.0.1:{port}/abc?k=v'}}\n"
    ));
    let _node = place.leader("a", &[]);
    let failed = place.trigger("bill");
    let (path, body) = next();
    assert_eq!((path.as_str(), body), ("/abc/start?k=v", failed.clone()));
    let (path, body) = next();
    assert_eq!(path, "/abc/fail?k=v");
    assert!(body.starts_with(&format!("{failed}: failed")), "{body}");
    place.write("fine", "");
    place.trigger("bill");
    assert_eq!([next().0, next().0], ["/abc/start?k=v", "/abc?k=v"]);
}

/// A jobs file whose alerts go to this receiver.
fn notified(receiver: &Receiver, jobs: &str) -> Place {
    let port = receiver.port;
    Place::with(&format!(
        "version: 1\nnotify: {{channels: {{hook: {{webhook: 'http://127.0.0.1:{port}/'}}}}}}\njobs:\n{jobs}"
    ))
}

#[test]
fn an_alert_says_what_ran_where_and_what_it_wrote_to_channels_alone_that_want_it() {
    let (with, without) = (Receiver::start(), Receiver::start());
    let place = Place::with(&format!(
        "version: 1\nnotify: {{channels: {{a: {{webhook: 'http://127.0.0.1:{}/', output: true}}, b: {{webhook: \
         'http://127.0.0.1:{}/'}}}}}}\njobs:\n  bill: {{schedule: '@at 2099-01-01T00:00:00Z', \
         shell: 'TOKEN=hunter2; echo no route; exit 3'}}\n",
        with.port, without.port
    ));
    let _node = place.leader("north", &[]);
    place.trigger("bill");
    let [with, without] = [with, without].map(|receiver| receiver.next().1);
    assert!(!with.contains("hunter2") && !without.contains("hunter2"), "{with} {without}");
    let [with, without] = [with, without].map(|body| serde_json::from_str::<Value>(&body).unwrap());
    assert_eq!((&with["output"], &without["output"]), (&"no route".into(), &Value::Null));
    assert!(without.to_string().matches("no route").count() == 2, "the command has it, in two places: {without}");
    for alert in [with, without] {
        assert_eq!((&alert["ran"], &alert["exit_code"]), (&"TOKEN=*** echo no route; exit 3".into(), &3.into()));
        assert!(text(&alert["text"]).contains("\non node north, ended 2"), "{alert}");
    }
}

#[test]
fn a_run_that_does_not_end_in_time_is_notified_and_that_it_is_late_no_more() {
    let receiver = Receiver::start();
    let place = notified(
        &receiver,
        "  slow: {schedule: '@at 2099-01-01T00:00:00Z', shell: 'until test -e fine; do sleep 0.1; done', \
         expect: {end_within: 1s}}\n",
    );
    let _node = place.leader("a", &[]);
    let run = place.trigger("slow");
    let late: Value = serde_json::from_str(&receiver.next().1).unwrap();
    assert_eq!((&late["kind"], &late["run_id"], &late["state"]), (&"late".into(), &run.into(), &Value::Null));
    assert!(text(&late["text"]).contains("has not ended within the time that is expected"), "{late}");
    place.write("fine", "");
    let over: Value = serde_json::from_str(&receiver.next().1).unwrap();
    assert_eq!((&over["kind"], &over["run_id"]), (&"late_no_more".into(), &late["run_id"]));
}

#[test]
fn what_no_node_ran_when_it_was_due_is_notified_once() {
    let receiver = Receiver::start();
    let place = notified(&receiver, "  tick: {schedule: '@every 1s', missed: {run: skip}, shell: 'true'}\n");
    let mut first = place.leader("a", &[]);
    place.wait_for(&["runs", "--job", "tick"], |runs| runs.as_array()?.first().cloned());
    first.signal(nix::sys::signal::Signal::SIGKILL);
    first.ended();
    // A gap of less than two seconds is none: what came due in it is run, a little late.
    place.wait_for(&["status"], |status| {
        let decided: Wall = status["watermark"].as_str()?.parse().unwrap();
        (Clock::system().wall().since(decided) > Duration::from_secs(3)).then_some(())
    });
    let _second = place.leader("b", &[]);
    let missed: Value = serde_json::from_str(&receiver.next().1).unwrap();
    assert_eq!(
        (&missed["kind"], &missed["job"], &missed["state"]),
        (&"missed".into(), &"tick".into(), &"skipped".into())
    );
    // Several were: they are decided, and none of the others is notified.
    place.wait_for(&["runs", "--job", "tick"], |runs| {
        let rows = runs.as_array()?;
        rows.iter().find(|row| row["state"] == "succeeded" && row["node"] == "b").cloned()
    });
    place.wait_for(&["notify", "list"], |list| list.as_array()?.is_empty().then_some(()));
}

#[test]
fn status_says_which_channel_takes_no_alerts_and_why() {
    // Nothing listens there.
    let place = Place::with(
        "version: 1\nnotify: {channels: {hook: {webhook: 'http://127.0.0.1:1/'}}}\njobs:\n  bill: {schedule: \
         '@at 2099-01-01T00:00:00Z', shell: 'exit 3'}\n",
    );
    let _node = place.leader("a", &[]);
    place.trigger("bill");
    let silent = place.wait_for(&["status"], |status| {
        status["alerts"].as_array()?.iter().find(|channel| channel["why"].is_string()).cloned()
    });
    assert_eq!((&silent["channel"], &silent["waiting"]), (&"hook".into(), &1.into()));
    let text = place.run(&["status"]).stdout();
    assert!(text.contains("the channel `hook` takes no alerts since") && text.contains("1 for hook"), "{text}");
}

/// How many leaders are killed. The whole campaign, as in docs/alerts.md: `FENCRON_KILLS=200`.
fn kills() -> usize {
    std::env::var("FENCRON_KILLS").map_or(2, |text| text.parse().expect("FENCRON_KILLS is a number"))
}

/// How many alerts each of these ids stands for.
type Counted = BTreeMap<String, u64>;

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("a text: {value}")).to_owned()
}

/// What these mails are, once by the id of the alert and once by that of the mail.
fn of_mails(mails: &[Value]) -> [Counted; 2] {
    let (mut by_alert, mut by_mail) = (Counted::new(), Counted::new());
    for mail in mails {
        let id = mail["text"].as_str().unwrap().lines().find_map(|line| line.strip_prefix("alert ")).unwrap();
        let subject = mail["subject"].as_str().unwrap();
        let many = subject.strip_prefix("[shop] ").and_then(|rest| rest.split_once(" alerts: "));
        let alerts = many.map_or(1, |(count, _)| count.parse().unwrap());
        by_alert.insert(id.to_owned(), alerts);
        by_mail.insert(mail["id"].as_str().unwrap().to_owned(), alerts);
    }
    [by_alert, by_mail]
}

/// Kills one leader after the other while jobs fail and a webhook and a server for mails are receiving: each failure is
/// sent or waits, once by its id, and what was sent again has the same one.
fn campaign(store: &[&str]) {
    let (place, mut server, receiver) = (Place::new(), MailServer::held(), Receiver::start());
    receiver.hold(true);
    place.write(
        "jobs.yaml",
        &format!(
            "version: 1\nnamespace: shop\nnotify:\n  channels:\n    hook: {{webhook: 'http://127.0.0.1:{}/'}}\n    \
             mail: {{smtp: 'smtp://127.0.0.1:{}', starttls: false, from: fencron@example.org, to: ops@example.org}}\n\
             jobs:\n  bill: {{schedule: '@at 2099-01-01T00:00:00Z', shell: 'exit 3', notify: {{repeat: 0s}}}}\n",
            receiver.port, server.port
        ),
    );
    let with = |args: &[&'static str]| -> Vec<&str> { [args, store].concat() };
    let node = |nth: usize| place.node(&format!("n{nth}"), store);
    let fails = || {
        let run = place.json(&with(&["trigger", "bill"]))["run_id"].as_str().unwrap().to_owned();
        place.wait_for(&with(&["runs", "--job", "bill"]), |runs| {
            runs.as_array()?.iter().find(|row| row["run_id"] == run.as_str() && row["state"] == "failed").cloned()
        });
        run
    };
    let (mut leader, mut follower) = (place.leader("n0", store), node(1));
    let mut failed = vec![fails()];
    let (mut ids, mut mails) = (Vec::new(), Vec::new());
    for nth in 0..kills() {
        // Both were received, and cannot be marked any more.
        let body: Value = serde_json::from_str(&receiver.next().1).unwrap();
        ids.push(text(&body["id"]));
        mails.push(server.next());
        leader.signal(nix::sys::signal::Signal::SIGKILL);
        leader.ended();
        follower.wait_for(" leading ");
        leader = std::mem::replace(&mut follower, node(nth + 2));
        failed.push(fails());
    }
    assert!(ids.iter().all(|id| *id == ids[0]) && ids[0].starts_with(&failed[0]), "{ids:?}");
    receiver.hold(false);
    server.answer();
    let list = place.wait_for(&with(&["notify", "list"]), |list| {
        let rows = list.as_array()?;
        (!rows.iter().any(|row| row["state"] == "sending")).then(|| rows.clone())
    });
    let waits = |channel: &str| -> u64 {
        let rows = list.iter().filter(|row| row["channel"] == channel);
        rows.map(|row| row["alerts"].as_u64().unwrap()).sum()
    };
    let more: Vec<Value> = receiver.received.try_iter().map(|(_, body)| serde_json::from_str(&body).unwrap()).collect();
    let received = ids.len() + more.len();
    let mut hook: Counted = ids.into_iter().map(|id| (id, 1)).collect();
    hook.extend(more.iter().map(|body| (text(&body["id"]), body["alerts"].as_u64().unwrap_or(1))));
    mails.extend(server.rest());
    let (all, repeats) = (failed.len() as u64, [received - hook.len(), mails.len() - of_mails(&mails)[0].len()]);
    println!("kills: {}, failures: {all}, repeats of the webhook and of mails: {repeats:?}", kills());
    let [mails, by_mail] = of_mails(&mails);
    assert_eq!(hook.values().sum::<u64>() + waits("hook"), all, "{hook:?} {list:?}");
    assert_eq!(mails.values().sum::<u64>() + waits("mail"), all, "{mails:?} {list:?}");
    assert_eq!(mails.len(), by_mail.len(), "a mail that is sent again has the same id");
    assert!(repeats.iter().all(|repeats| *repeats >= kills()), "each leader was killed while it sent: {repeats:?}");
}

#[test]
fn each_failure_is_sent_whichever_leaders_are_killed_meanwhile_on_sqlite() {
    campaign(&[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_failure_is_sent_whichever_leaders_are_killed_meanwhile_on_etcd() {
    let etcd = Etcd::start(EtcdOptions::default()).await;
    let url = format!("etcd://{}", etcd.endpoint());
    campaign(&["--store", &url]);
}
