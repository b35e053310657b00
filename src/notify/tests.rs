//! Sending to real receivers, by leaders that are lost and replaced.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderMap, StatusCode};

use super::*;
use crate::config::{Sources, parse};
use crate::fence::header::IDEMPOTENCY_KEY;
use crate::job::{AlertKind, JobName, RunId, Text, Verdict};
use crate::ledger::NodeRecord;
use crate::lock::{CallId, Driver, LockName, Locks, Namespace, Presence, Seen, Timing};
use crate::scheduler::alert::Alert;
use crate::scheduler::run::Open;
use crate::scheduler::trouble::Found;
use crate::store::memory::MemoryStore;
use crate::store::{About as AboutStore, Committed, Keys, LeaseId, Page, Range, Revision, Txn, Watch};
use crate::time::Wall;

/// A store that can be away, and counts how often it is read.
#[derive(Clone, Debug)]
struct Distant {
    inner: MemoryStore,
    is_away: Arc<AtomicBool>,
    reads: Arc<AtomicU64>,
}

impl Store for Distant {
    async fn commit(&self, txn: Txn) -> Result<Committed, StoreError> {
        if self.is_away.load(Ordering::Relaxed) {
            return Err(StoreError::Unknown { store: "distant".into(), why: "it is away".into() });
        }
        self.inner.commit(txn).await
    }

    async fn range(&self, range: Range) -> Result<Page, StoreError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.inner.range(range).await
    }

    async fn grant(&self, ttl: Duration) -> Result<(LeaseId, Duration), StoreError> {
        self.inner.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, StoreError> {
        self.inner.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.inner.revoke(lease).await
    }

    async fn watch(&self, keys: Keys, from: Revision) -> Result<Watch, StoreError> {
        self.inner.watch(keys, from).await
    }

    async fn about(&self) -> Result<AboutStore, StoreError> {
        self.inner.about().await
    }

    async fn apart(&self) -> Result<Self, StoreError> {
        Ok(Distant { inner: self.inner.apart().await?, ..self.clone() })
    }
}

/// A server that keeps what it receives, and answers as it is asked to.
#[derive(Clone, Default)]
struct Receiver {
    received: Arc<Mutex<Vec<(String, String)>>>,
    answers: Arc<Mutex<VecDeque<StatusCode>>>,
    /// It has received something, and does not answer yet.
    holds_back: Arc<AtomicBool>,
}

impl Receiver {
    async fn listen(&self) -> Text {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = Text::secret(format!("http://{}/secret", listener.local_addr().unwrap()));
        let receiver = self.clone();
        let receive = move |headers: HeaderMap, body: String| async move {
            let id = headers.get(IDEMPOTENCY_KEY).map_or("", |id| id.to_str().unwrap()).to_owned();
            receiver.received.lock().unwrap().push((id, body));
            while receiver.holds_back.load(Ordering::Relaxed) {
                tokio::task::yield_now().await;
            }
            let status = receiver.answers.lock().unwrap().pop_front().unwrap_or(StatusCode::OK);
            (status, [(RETRY_AFTER, "7200")])
        };
        tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(receive)).await });
        url
    }

    fn ids(&self) -> Vec<String> {
        self.received.lock().unwrap().iter().map(|(id, _)| id.clone()).collect()
    }
}

/// A store with alerts, and its leader.
struct Scene {
    locks: Locks<MemoryStore>,
    notifier: Notifier<Distant>,
    hold: Hold,
    session: crate::lock::Session<MemoryStore>,
    receiver: Receiver,
    channel: Channel,
    with_output: bool,
}

impl Scene {
    async fn new() -> Scene {
        crate::execute::hide().ok();
        rustls::crypto::ring::default_provider().install_default().ok();
        let (store, clock) = (MemoryStore::new(Clock::system()), Clock::system());
        let namespace = Namespace::new("test").unwrap();
        let locks = Locks::new(store.clone(), clock.clone(), namespace.clone(), Seen::default());
        let (hold, session) = campaign(&locks).await;
        let store = Distant { inner: store, is_away: Arc::default(), reads: Arc::default() };
        let ledger = Ledger::new(store, namespace);
        let metrics = Arc::default();
        let (sender, board) = (Sender::new().unwrap(), Shared::default());
        let notifier = Notifier { ledger, node: "a".to_owned(), clock, metrics, sender, board };
        let receiver = Receiver::default();
        let channel = Channel::Webhook { url: receiver.listen().await, headers: Vec::new(), template: None };
        Scene { locks, notifier, hold, session, receiver, channel, with_output: false }
    }

    /// Another node leads from now on.
    async fn replaced(&mut self) {
        let election = self.locks.election(LockName::leader());
        election.resign(&crate::lock::Term { hold: self.hold.clone() }).await.unwrap();
        (self.hold, self.session) = campaign(&self.locks).await;
    }

    /// So many alerts wait, each of a job of its own.
    async fn waits(&self, jobs: std::ops::Range<usize>) {
        let mut outbox = self.notifier.ledger.outbox("ops").await.unwrap().unwrap();
        let alerts: Vec<Alert> = jobs.map(alert).collect();
        outbox.outgoing.take(&alerts, self.notifier.clock.wall());
        assert!(self.notifier.ledger.put_outbox(&self.hold, "ops", &outbox).await.unwrap());
    }

    /// The leader looks for troubles, and has seen none at the look before.
    async fn looks_again(&self, wanted: &Notices) {
        let looked = self.notifier.look_for_troubles(&self.hold, wanted, &Found::default(), &mut None).await;
        looked.unwrap().expect("it is put");
    }

    async fn turn(&self, hold: &Hold) -> Turn {
        let served = Served { name: "ops".to_owned(), channel: self.channel.clone(), with_output: self.with_output };
        self.notifier.turn(hold, &served).await.unwrap()
    }

    /// How many messages have this result.
    fn counted(&self, result: &str) -> u64 {
        let counted = self.notifier.metrics.alerts.read();
        counted.filter(|((_, of), _)| *of == result).map(|(_, count)| count).sum()
    }
}

async fn campaign(locks: &Locks<MemoryStore>) -> (Hold, crate::lock::Session<MemoryStore>) {
    let presence = Presence { node: "n".into(), record: Vec::new() };
    let timing = Timing::from_ttl(Duration::from_secs(60)).unwrap();
    let session = locks.open_session(presence, timing, Driver::Task).await.unwrap();
    let term = locks.election(LockName::leader()).campaign(&session, CallId::random()).await.unwrap();
    (term.hold, session)
}

fn alert(nth: usize) -> Alert {
    let (job, at) = (JobName::new(&format!("j{nth}")).unwrap(), Wall::EPOCH);
    Alert {
        kind: AlertKind::Failed,
        run: RunId::of(&job, at),
        job,
        scheduled_at: at,
        verdict: Some(Verdict::Failed),
        reason: String::new(),
        exit_code: Some(1),
        attempt: 1,
        in_a_row: 1,
        node: None,
        fence: None,
        finished_at: at,
        whose: crate::job::Whose::default(),
    }
}

#[tokio::test]
async fn what_a_lost_leader_sent_and_did_not_mark_is_sent_again_with_the_same_id() {
    let mut scene = Scene::new().await;
    scene.waits(0..1).await;
    let lost = scene.notifier.ledger.outbox("ops").await.unwrap().unwrap().outgoing.sending[0].clone();
    scene.notifier.sender.send(&scene.channel, &lost, &scene.notifier.about(Some(&scene.hold))).await.unwrap();
    scene.replaced().await;
    assert!(matches!(scene.turn(&scene.hold).await, Turn::Sent));
    assert!(matches!(scene.turn(&scene.hold).await, Turn::Idle(None)), "it is marked");
    assert_eq!(scene.receiver.ids(), [alert(0).id(), alert(0).id()]);
    assert_eq!(scene.counted("sent"), 1);
}

#[tokio::test]
async fn a_leader_that_was_replaced_sends_nothing() {
    let mut scene = Scene::new().await;
    scene.waits(0..2).await;
    let first = scene.hold.clone();
    assert!(matches!(scene.turn(&first).await, Turn::Sent));
    scene.replaced().await;
    assert!(matches!(scene.turn(&first).await, Turn::Moved));
    assert_eq!(scene.receiver.ids(), [alert(0).id()]);
    assert!(matches!(scene.turn(&scene.hold).await, Turn::Sent));
    assert_eq!(scene.receiver.ids(), [alert(0).id(), alert(1).id()]);
}

#[tokio::test]
async fn what_is_not_taken_is_sent_again_and_no_secret_is_said() {
    let scene = Scene::new().await;
    scene.waits(0..1).await;
    scene.receiver.answers.lock().unwrap().push_back(StatusCode::INTERNAL_SERVER_ERROR);
    assert!(matches!(scene.turn(&scene.hold).await, Turn::Refused(_)));
    let trouble = async || {
        let waiting = scene.notifier.ledger.alerts_waiting().await.unwrap();
        waiting.channels["ops"].0.trouble().map(|trouble| trouble.why.clone())
    };
    assert_eq!(trouble().await.as_deref(), Some("it answers 500 Internal Server Error"));
    assert_eq!(scene.notifier.metrics.alert_queue().alerts, 1);
    assert!(matches!(scene.turn(&scene.hold).await, Turn::Sent));
    assert!(matches!(scene.turn(&scene.hold).await, Turn::Idle(None)));
    assert_eq!((trouble().await, scene.notifier.metrics.alert_queue().alerts), (None, 0));
    assert_eq!((scene.receiver.ids().len(), scene.counted("failed"), scene.counted("sent")), (2, 1, 1));
    let nowhere = Channel::Slack { url: Text::secret("http://127.0.0.1:1/hunter2") };
    let message = Message::new("1".to_owned(), Wall::EPOCH, content(alert(0)));
    let why = scene
        .notifier
        .sender
        .send(&nowhere, &message, &scene.notifier.about(Some(&scene.hold)))
        .await
        .unwrap_err()
        .to_string();
    assert!(!why.contains("hunter2") && why.starts_with("127.0.0.1:1: "), "{why}");
}

fn content(alert: Alert) -> crate::scheduler::outbox::Content {
    crate::scheduler::outbox::Content::Alert(Box::new(alert))
}

#[tokio::test]
async fn a_program_reads_the_alert_and_its_exit_code_says_whether_it_took_it() {
    let scene = Scene::new().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("alert").display().to_string();
    let exec = |script: String| Channel::Exec(["/bin/sh", "-c", &script].map(Text::plain).into());
    let message = Message::new("1".to_owned(), Wall::EPOCH, content(alert(0)));
    let about = scene.notifier.about(Some(&scene.hold));
    let writes = exec(format!("cat > {file}; echo $FENCRON_ALERT_KIND $FENCRON_ALERT_JOB >> {file}"));
    scene.notifier.sender.send(&writes, &message, &about).await.unwrap();
    let read = std::fs::read_to_string(&file).unwrap();
    assert!(read.contains(r#""run_id":"j0@1970-01-01T00:00:00Z""#) && read.ends_with("failed j0\n"), "{read}");
    let why = scene.notifier.sender.send(&exec("exit 3".to_owned()), &message, &about).await.unwrap_err().to_string();
    assert!(why.contains("exit status: 3"), "{why}");
}

#[tokio::test]
async fn the_heartbeat_is_silent_once_the_term_is_over() {
    let mut scene = Scene::new().await;
    let heartbeat = Heartbeat { url: scene.receiver.listen().await, every: Duration::from_millis(10) };
    let beating = tokio::spawn(scene.notifier.clone().beat(scene.hold.clone(), heartbeat.clone()));
    let has_beaten = || scene.notifier.metrics.heartbeats.read().any(|(result, count)| *result == "sent" && count > 1);
    while !has_beaten() {
        tokio::task::yield_now().await;
    }
    beating.abort();
    beating.await.ok();
    let first = scene.hold.clone();
    scene.replaced().await;
    let before = scene.receiver.ids().len();
    let late = tokio::spawn(scene.notifier.clone().beat(first, heartbeat));
    let refused = || scene.notifier.metrics.heartbeats.read().any(|(result, count)| *result == "failed" && count > 1);
    while !refused() {
        tokio::task::yield_now().await;
    }
    late.abort();
    assert_eq!(scene.receiver.ids().len(), before);
    let body = scene.receiver.received.lock().unwrap()[0].1.clone();
    assert!(body.contains(r#""namespace":"test""#) && body.contains("fence"), "{body}");
}

/// What it has started too, and also where the sending is cut off by the end of the term.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_program_that_does_not_end_is_killed_with_all_that_it_has_started() {
    let scene = Scene::new().await;
    let directory = tempfile::tempdir().unwrap();
    let about = scene.notifier.about(Some(&scene.hold));
    let message = Message::new("1".to_owned(), Wall::EPOCH, content(alert(0)));
    for cut_off in [false, true] {
        let file = directory.path().join(format!("pids-{cut_off}"));
        let script = format!("sleep 1000 & echo $$ $! > {0}.new; mv {0}.new {0}; wait", file.display());
        let channel = Channel::Exec(["/bin/sh", "-c", &script].map(Text::plain).into());
        let sender = scene.notifier.sender.clone();
        let started = async {
            while !file.exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if cut_off {
            tokio::select! {
                answer = sender.send(&channel, &message, &about) => panic!("{answer:?}"),
                () = started => {}
            }
        } else {
            let sender = sender.within(Duration::from_secs(2));
            let (answer, ()) = tokio::join!(sender.send(&channel, &message, &about), started);
            assert!(answer.unwrap_err().why.contains("did not end in 2s"));
        }
        let pids = std::fs::read_to_string(&file).unwrap();
        for pid in pids.split_whitespace() {
            let lives = || {
                let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
            };
            while lives() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

/// A channel that refuses is asked less and less often, however many alerts come meanwhile.
#[tokio::test(start_paused = true)]
async fn alerts_that_come_do_not_shorten_the_pause_of_a_channel_that_refuses() {
    let scene = Scene::new().await;
    scene.waits(0..1).await;
    // Nothing listens there: it is known at once that nothing is taken.
    let channel = Channel::Slack { url: Text::plain("http://127.0.0.1:1/") };
    let bell = Arc::new(Notify::new());
    let served = Served { name: "ops".to_owned(), channel, with_output: false };
    let serving = scene.notifier.clone().serve(scene.hold.clone(), served, Arc::clone(&bell));
    let serving = tokio::spawn(serving);
    let mut tries = Vec::new();
    for second in 0..600 {
        scene.notifier.ledger.put_alert("ops", &Alert { finished_at: Wall::from_millis(second), ..alert(1) }).await;
        bell.notify_one();
        tokio::time::sleep(Duration::from_secs(1)).await;
        tries.push(scene.counted("failed"));
    }
    serving.abort();
    // Pauses of 1, 2, 4, … 256 and 300 seconds.
    assert!((6..=7).contains(&tries[59]), "{tries:?}");
    assert!((9..=10).contains(&tries[599]), "{tries:?}");
}

#[tokio::test]
async fn a_message_that_is_refused_holds_up_no_other_and_a_receiver_that_asks_for_time_has_it() {
    let scene = Scene::new().await;
    scene.waits(0..3).await;
    // A conflict, as with a request that is still being seen to, is over some time later.
    let answers = [StatusCode::BAD_REQUEST, StatusCode::OK, StatusCode::CONFLICT, StatusCode::TOO_MANY_REQUESTS];
    scene.receiver.answers.lock().unwrap().extend(answers);
    assert!(matches!(scene.turn(&scene.hold).await, Turn::Sent), "given up");
    assert!(matches!(scene.turn(&scene.hold).await, Turn::Sent));
    let hour = Duration::from_secs(3_600);
    for _ in 0..2 {
        assert!(matches!(scene.turn(&scene.hold).await, Turn::Refused(asked) if asked == hour), "at most an hour");
    }
    assert!(matches!(scene.turn(&scene.hold).await, Turn::Sent));
    assert_eq!(scene.receiver.ids()[1..], [alert(1).id(), alert(2).id(), alert(2).id(), alert(2).id()]);
    assert_eq!((scene.counted("given_up"), scene.counted("failed"), scene.counted("sent")), (1, 2, 2));
    assert_eq!(scene.notifier.ledger.outbox("ops").await.unwrap().unwrap().outgoing.counted.given_up, 1);
}

/// A channel of PagerDuty whose summary has the recoveries of so many jobs.
async fn summary_of_recoveries(jobs: std::ops::Range<usize>) -> Scene {
    let mut scene = Scene::new().await;
    let mut outbox = scene.notifier.ledger.outbox("ops").await.unwrap().unwrap();
    let failed: Vec<Alert> = jobs.map(alert).collect();
    let recovered = failed.iter().map(|alert| Alert { kind: AlertKind::Recovered, ..alert.clone() });
    outbox.outgoing.take(&failed, scene.notifier.clock.wall());
    outbox.outgoing.sending.clear();
    outbox.outgoing.count(&recovered.collect::<Vec<_>>());
    outbox.outgoing.summarize("ops", scene.notifier.clock.wall());
    assert!(scene.notifier.ledger.put_outbox(&scene.hold, "ops", &outbox).await.unwrap());
    let url = scene.receiver.listen().await;
    scene.channel = Channel::Pagerduty { key: Text::secret("k"), url };
    scene
}

#[tokio::test]
async fn what_pagerduty_has_taken_of_a_summary_is_not_sent_again() {
    let scene = summary_of_recoveries(0..3).await;
    let answers = [StatusCode::OK, StatusCode::OK, StatusCode::BAD_GATEWAY];
    scene.receiver.answers.lock().unwrap().extend(answers);
    assert!(matches!(scene.turn(&scene.hold).await, Turn::Refused(_)));
    assert!(matches!(scene.turn(&scene.hold).await, Turn::Sent));
    assert!(matches!(scene.turn(&scene.hold).await, Turn::Idle(None)));
    let ids = scene.receiver.ids();
    let ends: Vec<&str> = ids.iter().map(|id| id.strip_prefix(&*ids[0]).unwrap()).collect();
    assert_eq!(ends, ["", ":j0", ":j1", ":j1", ":j2"]);
}

#[tokio::test]
async fn a_run_that_is_late_is_notified_once_whichever_nodes_lead_and_once_when_it_is_late_no_more() {
    let mut scene = Scene::new().await;
    let text = "version: 1\nnotify: {channels: {ops: {slack: 'http://localhost/'}}}\njobs:\n  j0: {schedule: '@daily', \
                shell: 'true', expect: {end_within: 1s}}\n";
    let run = Open::claimed(alert(0).run);
    scene.notifier.board.write().configured(&parse(text, &Sources::none()).unwrap().jobs);
    scene.notifier.board.write().open(&run.id, Some(run.clone()));
    let kinds = async |scene: &Scene| -> Vec<AlertKind> {
        let outbox = scene.notifier.ledger.outbox("ops").await.unwrap().unwrap();
        outbox.waiting.iter().map(|alert| alert.kind).collect()
    };
    let (first, mut marked) = (scene.hold.clone(), None);
    for _ in 0..2 {
        scene.notifier.look_for_late(&first, &mut marked).await.unwrap();
        assert_eq!(kinds(&scene).await, [AlertKind::Late]);
    }
    scene.replaced().await;
    // The successor finds what was notified, and the first one does nothing any more.
    scene.notifier.board.write().open(&run.id, None);
    scene.notifier.look_for_late(&first, &mut marked).await.unwrap();
    assert_eq!(kinds(&scene).await, [AlertKind::Late]);
    let mut marked = None;
    for _ in 0..2 {
        scene.notifier.look_for_late(&scene.hold, &mut marked).await.unwrap();
        assert_eq!(kinds(&scene).await, [AlertKind::Late, AlertKind::LateNoMore]);
    }
    assert_eq!(scene.notifier.ledger.late().await.unwrap(), BTreeMap::new());
}

fn node(name: &str, troubles: &[&str]) -> NodeRecord {
    NodeRecord {
        node: name.to_owned(),
        version: String::new(),
        config_digest: "d".to_owned(),
        config_since: None,
        started_at: Wall::EPOCH,
        address: None,
        clock: Wall::EPOCH,
        stands_back: None,
        hands_over: None,
        drained: false,
        heard: 0,
        troubles: troubles.iter().map(|what| (*what).to_owned()).collect(),
    }
}

fn notices(channel: &Channel) -> Notices {
    let channels = [("ops".to_owned(), channel.clone())].into();
    Notices { channels, troubles: vec!["ops".to_owned()], ..Notices::default() }
}

/// What `ops` is sending, by the texts of its messages.
async fn sending(scene: &Scene) -> Vec<String> {
    let outbox = scene.notifier.ledger.outbox("ops").await.unwrap().unwrap();
    let about = scene.notifier.about(Some(&scene.hold));
    outbox.outgoing.sending.iter().map(|message| payload::text(message, &about)).collect()
}

#[tokio::test]
async fn a_trouble_that_lasts_is_notified_by_the_leader_and_none_by_one_that_was_replaced() {
    let mut scene = Scene::new().await;
    let wanted = notices(&scene.channel);
    let refused = "jobs.yaml is refused since 2026-11-28 05:00Z, the old one stays in force: jobs.bill.env: `hunter2`";
    scene.notifier.board.write().node(1, Some(node("b", &[refused])), Wall::EPOCH);
    let first = scene.hold.clone();
    let (mut before, mut known) = (Found::default(), None);
    for expected in [0, 1, 1] {
        before =
            scene.notifier.look_for_troubles(&first, &wanted, &before, &mut known).await.unwrap().expect("it is put");
        assert_eq!(sending(&scene).await.len(), expected);
    }
    let text = "[test] b: jobs.yaml is refused since 2026-11-28 05:00Z, the old one stays in force\n`fencron status` says \
                more";
    assert_eq!(sending(&scene).await, [text]);
    scene.replaced().await;
    scene.notifier.board.write().node(1, Some(node("b", &[])), Wall::EPOCH);
    assert_eq!(scene.notifier.look_for_troubles(&first, &wanted, &Found::default(), &mut None).await.unwrap(), None);
    assert_eq!(sending(&scene).await.len(), 1);
    scene.looks_again(&wanted).await;
    assert!(sending(&scene).await[1].starts_with("[test] it is over: b: jobs.yaml is refused"));
}

#[tokio::test]
async fn one_follower_sends_that_no_node_leads_and_the_next_leader_that_it_is_over() {
    let scene = Scene::new().await;
    let wanted = Arc::new(notices(&scene.channel));
    scene.notifier.board.write().node(1, Some(node("b", &[])), Wall::EPOCH);
    let followers =
        [(); 2].map(|()| tokio::spawn(scene.notifier.clone().watch_vacancy(Arc::clone(&wanted), Duration::ZERO)));
    while scene.counted("sent") == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(scene.notifier.record_vacancy().await.unwrap(), None, "it is recorded");
    followers.iter().for_each(tokio::task::JoinHandle::abort);
    let body: serde_json::Value = serde_json::from_str(&scene.receiver.received.lock().unwrap()[0].1).unwrap();
    assert_eq!((&body["kind"], &body["sent_by"]["fence"]), (&"trouble".into(), &serde_json::Value::Null));
    assert!(body["text"].as_str().unwrap().starts_with("[test] no node leads"), "{body}");
    assert_eq!(scene.receiver.ids().len(), 1, "one of both sends it");
    scene.looks_again(&wanted).await;
    assert!(sending(&scene).await[0].starts_with("[test] it is over: no node leads"));
}

/// What the webhook has taken: how many messages, and how many alerts these stand for.
fn taken(receiver: &Receiver) -> (usize, u64) {
    let received = receiver.received.lock().unwrap();
    let alerts = received.iter().map(|(_, body)| {
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        body["alerts"].as_u64().unwrap_or(1)
    });
    (received.len(), alerts.sum())
}

#[tokio::test]
async fn a_storm_of_failures_is_a_few_messages_and_each_failure_is_counted_in_them() {
    let scene = Scene::new().await;
    let ledger = &scene.notifier.ledger;
    let all_turns = async || {
        while !matches!(scene.turn(&scene.hold).await, Turn::Idle(_)) {}
    };
    for half in [0..5_000, 5_000..10_000] {
        for nth in half {
            ledger.put_alert("ops", &alert(nth)).await;
        }
        all_turns().await;
    }
    let outbox = ledger.outbox("ops").await.unwrap().unwrap();
    let (messages, alerts) = taken(&scene.receiver);
    // The second half is in the summary that is due half a minute after the first: the store holds no row of it.
    assert_eq!((alerts + outbox.outgoing.counted.total(), outbox.waiting.len()), (10_000, 0));
    assert!((1..=2).contains(&messages) && alerts >= 5_000, "{messages} messages count {alerts} alerts");
}

#[tokio::test]
async fn a_part_of_a_message_is_sent_only_while_the_term_stands() {
    let scene = summary_of_recoveries(0..1).await;
    // The term is over by the time the first part was taken.
    let (first, store) = (scene.hold.clone(), scene.notifier.ledger.store().clone());
    let receiver = scene.receiver.clone();
    let ends = async {
        while receiver.ids().is_empty() {
            tokio::task::yield_now().await;
        }
        let owner = Keys::one(first.owner_key());
        store.inner.commit(Txn::new().then(crate::store::Op::Delete(owner))).await.unwrap();
    };
    scene.receiver.holds_back.store(true, Ordering::Relaxed);
    let (turn, ()) = tokio::join!(scene.turn(&first), async {
        ends.await;
        scene.receiver.holds_back.store(false, Ordering::Relaxed);
    });
    assert!(matches!(turn, Turn::Moved));
    assert_eq!(scene.receiver.ids().len(), 1, "nothing was resolved by a leader that is none any more");
}

#[tokio::test(start_paused = true)]
async fn an_idle_channel_leaves_the_store_alone_and_an_alert_wakes_it() {
    let mut scene = Scene::new().await;
    scene.channel = Channel::Slack { url: Text::plain("http://127.0.0.1:1/") };
    let channels = (0..4).map(|nth| (format!("c{nth}"), scene.channel.clone())).collect();
    let notices = watch::Sender::new(Arc::new(Notices { channels, ..Notices::default() }));
    let leads = watch::Sender::new(Some(scene.hold.clone()));
    let running = tokio::spawn(scene.notifier.clone().run(leads.subscribe(), notices.subscribe(), Duration::MAX));
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    let store = scene.notifier.ledger.store().clone();
    let reads = store.reads.load(Ordering::Relaxed);
    assert!(reads < 4 * 2 * 61 + 20, "{reads}");
    tokio::time::sleep(Duration::from_millis(500)).await;
    scene.notifier.ledger.put_alert("c1", &alert(0)).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let outbox = scene.notifier.ledger.outbox("c1").await.unwrap().unwrap();
    assert_eq!((outbox.waiting.len(), outbox.outgoing.sending.len()), (0, 1));
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_that_the_store_does_not_confirm_fails_instead_of_waiting() {
    let scene = Scene::new().await;
    scene.notifier.ledger.store().is_away.store(true, Ordering::Relaxed);
    let heartbeat = Heartbeat { url: Text::plain("http://127.0.0.1:1/"), every: Duration::from_secs(60) };
    let beating = tokio::spawn(scene.notifier.clone().beat(scene.hold.clone(), heartbeat));
    tokio::time::sleep(Duration::from_secs(600)).await;
    let failed: u64 = scene.notifier.metrics.heartbeats.read().map(|(_, count)| count).sum();
    assert_eq!(failed, 7, "after 30 s each, and a pause of 60 s");
    beating.abort();
}
