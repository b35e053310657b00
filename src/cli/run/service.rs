//! What systemd is notified of, where it runs the node as a service of `Type=notify`: sd_notify(3).
//!
//! The node is `READY` once its listener is open and its loop turns: whether the store answers is no condition, since a
//! restart brings no store back, and is in `STATUS`. The watchdog is fed when the loop has turned since the last time,
//! and by nothing else: a node that hangs is killed and started again.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use crate::node::{Role, Status};
use crate::time::{Boot, monotonic};

/// How often in the time that the watchdog allows it is fed.
const FED_TIMES: u32 = 3;

/// The shortest `WatchdogSec` that a healthy node always satisfies: its loop turns at least once a second.
const WATCHDOG_LEAST: Duration = Duration::from_secs(5);

/// How many characters of a status are shown.
const STATUS_MOST: usize = 300;

/// The way to the service manager; it goes nowhere where there is none.
#[derive(Clone, Default)]
pub(super) struct Service {
    to: Option<Arc<To>>,
    /// How long the manager waits for a sign of life.
    watchdog: Option<Duration>,
}

struct To {
    socket: UnixDatagram,
    address: SocketAddr,
    /// It was notified that the node stops: it is not ready again.
    stops: AtomicBool,
    /// A message was lost, and the log says so.
    failed: AtomicBool,
}

impl Service {
    /// The one that the environment names, which is notified of what the node does.
    pub fn beside(beside: &mut JoinSet<()>, status: watch::Receiver<Status>, turned: watch::Receiver<Boot>) -> Service {
        let service = Service::named();
        beside.spawn(service.clone().report(status, turned));
        service
    }

    fn named() -> Service {
        let variable = |name: &str| std::env::var(name).ok();
        let Some(named) = variable("NOTIFY_SOCKET") else { return Service::default() };
        let is_ours = variable("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
        let watchdog = variable("WATCHDOG_USEC").filter(|_| is_ours).and_then(|micros| micros.parse().ok());
        match Service::at(&named, watchdog.filter(|micros| *micros > 0).map(Duration::from_micros)) {
            Ok(service) => service,
            Err(error) => {
                tracing::warn!(%error, "NOTIFY_SOCKET is `{named}`, and the service manager is not notified");
                Service::default()
            }
        }
    }

    fn at(named: &str, watchdog: Option<Duration>) -> io::Result<Service> {
        let address = match named.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(named)?,
        };
        let socket = UnixDatagram::unbound()?;
        // A manager that does not read keeps no node waiting.
        socket.set_nonblocking(true)?;
        if let Some(short) = watchdog.filter(|watchdog| *watchdog < WATCHDOG_LEAST) {
            tracing::warn!("WatchdogSec is {short:?}, and a node may need {WATCHDOG_LEAST:?} while all is well");
        }
        let to = To { socket, address, stops: AtomicBool::new(false), failed: AtomicBool::new(false) };
        Ok(Service { to: Some(Arc::new(to)), watchdog })
    }

    /// Notifies the manager of what the node does, until it has ended.
    async fn report(self, mut status: watch::Receiver<Status>, mut turned: watch::Receiver<Boot>) {
        if self.to.is_none() || turned.changed().await.is_err() {
            return;
        }
        let mut shown = line(&status.borrow_and_update());
        self.send(&format!("READY=1\nSTATUS={shown}"));
        let mut meals = self.meals();
        loop {
            tokio::select! {
                changed = status.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let (is, drains) = {
                        let status = status.borrow_and_update();
                        (line(&status), status.role == Role::Draining)
                    };
                    if drains {
                        self.stopping();
                    }
                    if is != shown {
                        self.send(&format!("STATUS={is}"));
                        shown = is;
                    }
                }
                () = next(&mut meals) => {
                    if turned.has_changed().unwrap_or(false) {
                        turned.mark_unchanged();
                        self.send("WATCHDOG=1");
                    }
                }
            }
        }
    }

    /// When the watchdog is fed.
    fn meals(&self) -> Option<Interval> {
        let every = self.watchdog? / FED_TIMES;
        let mut meals = interval_at(Instant::now() + every, every);
        meals.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Some(meals)
    }

    /// The jobs file is read again, because the manager, or a person, has asked for it.
    pub fn reloading(&self) {
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic().as_micros()));
    }

    /// It has been read, whether it was taken or refused.
    pub fn reloaded(&self) {
        if self.to.as_ref().is_some_and(|to| !to.stops.load(Ordering::Relaxed)) {
            self.send("READY=1");
        }
    }

    /// Waits for the end of the node. However that came, the manager is notified of it.
    pub async fn until_ended<T>(&self, node: JoinHandle<T>) -> T {
        let ended = node.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        self.stopping();
        ended
    }

    /// Nothing new is started. Said once.
    fn stopping(&self) {
        if self.to.as_ref().is_some_and(|to| !to.stops.swap(true, Ordering::Relaxed)) {
            self.send("STOPPING=1");
        }
    }

    fn send(&self, message: &str) {
        let Some(to) = &self.to else { return };
        if let Err(error) = to.socket.send_to_addr(message.as_bytes(), &to.address)
            && !to.failed.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(%error, "the service manager could not be notified; further failures are not logged");
        }
    }
}

async fn next(meals: &mut Option<Interval>) {
    match meals {
        Some(meals) => drop(meals.tick().await),
        None => std::future::pending().await,
    }
}

/// The status on one line, for everyone on the machine: a line break would begin another field.
fn line(status: &Status) -> String {
    let Status { role, fence, jobs, running, ready, reasons, .. } = status.clone().in_public();
    let role = match (role, fence) {
        (Role::Leader, Some(fence)) => format!("leader, fence {fence}"),
        (Role::Leader, None) => "leader".to_owned(),
        (Role::Follower, _) => "follower".to_owned(),
        (Role::Starting, _) => "starting".to_owned(),
        (Role::Draining, _) => "stopping".to_owned(),
    };
    let mut line = format!("{role}; {jobs} jobs, {running} running");
    for (nth, reason) in reasons.iter().enumerate() {
        line += if nth > 0 || ready { "; " } else { "; not ready: " };
        line += &reason.to_string();
    }
    line.chars().map(|c| if c.is_control() { ' ' } else { c }).take(STATUS_MOST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, parse};
    use crate::node::Reason;

    const WATCHDOG: Duration = Duration::from_secs(30);

    fn starting() -> Status {
        Status::starting("a", &parse("version: 1\njobs: {}\n", &Sources::none()).unwrap())
    }

    /// A manager's end, and what has come to it.
    struct Manager {
        socket: UnixDatagram,
        _directory: tempfile::TempDir,
    }

    impl Manager {
        fn with(watchdog: Option<Duration>) -> (Manager, Service) {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("notify");
            let socket = UnixDatagram::bind(&path).unwrap();
            socket.set_nonblocking(true).unwrap();
            (Manager { socket, _directory: directory }, Service::at(path.to_str().unwrap(), watchdog).unwrap())
        }

        fn got(&self) -> Vec<String> {
            let mut buffer = [0; 4096];
            let read = std::iter::from_fn(|| self.socket.recv(&mut buffer).ok().map(|size| buffer[..size].to_vec()));
            read.map(|bytes| String::from_utf8(bytes).unwrap()).collect()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_watchdog_is_fed_only_while_the_loop_turns() {
        let (manager, service) = Manager::with(Some(WATCHDOG));
        let (status, turned) = (watch::Sender::new(starting()), watch::Sender::new(Boot::default()));
        let reporting = tokio::spawn(service.report(status.subscribe(), turned.subscribe()));
        tokio::time::sleep(WATCHDOG).await;
        assert_eq!(manager.got(), Vec::<String>::new(), "not ready before the loop has turned");
        let turn = || turned.send_replace(Boot::default());
        turn();
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(manager.got(), ["READY=1\nSTATUS=starting; 0 jobs, 0 running; not ready: starting"]);
        turn();
        tokio::time::sleep(WATCHDOG / 3).await;
        assert_eq!(manager.got(), ["WATCHDOG=1"]);
        tokio::time::sleep(WATCHDOG * 4).await;
        assert_eq!(manager.got(), Vec::<String>::new(), "a loop that hangs is not covered up");
        turn();
        tokio::time::sleep(WATCHDOG / 3).await;
        assert_eq!(manager.got(), ["WATCHDOG=1"]);
        drop(status);
        reporting.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_stopping_node_says_so_once_and_is_not_ready_again() {
        let (manager, service) = Manager::with(None);
        let (status, turned) = (watch::Sender::new(starting()), watch::Sender::new(Boot::default()));
        let reporting = tokio::spawn(service.clone().report(status.subscribe(), turned.subscribe()));
        tokio::time::sleep(Duration::from_millis(1)).await;
        turned.send_replace(Boot::default());
        tokio::time::sleep(Duration::from_millis(1)).await;
        manager.got();
        service.reloading();
        service.reloaded();
        let got = manager.got();
        assert!(got[0].starts_with("RELOADING=1\nMONOTONIC_USEC=") && got[1] == "READY=1", "{got:?}");
        status.send_modify(|status| status.role = Role::Draining);
        tokio::time::sleep(Duration::from_millis(1)).await;
        service.reloaded();
        service.stopping();
        assert_eq!(manager.got(), ["STOPPING=1", "STATUS=stopping; 0 jobs, 0 running; not ready: starting"]);
        drop(status);
        reporting.await.unwrap();
    }

    #[test]
    fn a_status_is_one_short_line_without_what_is_not_for_everyone() {
        let reason = Reason::with_detail("the jobs file is refused", "s3cret\nREADY=1");
        let long = Reason::new(format!("a\nREADY=1{}", "x".repeat(STATUS_MOST)));
        let shown = line(&Status { reasons: vec![reason, long], ..starting() });
        assert!(!shown.contains("s3cret") && !shown.contains('\n'), "{shown}");
        assert_eq!(shown.chars().count(), STATUS_MOST);
    }

    #[test]
    fn an_abstract_socket_is_a_name_without_a_path() {
        let address = SocketAddr::from_abstract_name(format!("fencron-{}", uuid::Uuid::new_v4())).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        manager.set_nonblocking(true).unwrap();
        let name = String::from_utf8(address.as_abstract_name().unwrap().to_vec()).unwrap();
        Service::at(&format!("@{name}"), None).unwrap().stopping();
        let mut buffer = [0; 64];
        let size = manager.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..size], b"STOPPING=1");
    }
}
