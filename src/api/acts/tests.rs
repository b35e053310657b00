//! Acts over HTTP: done once, with a record, by callers who may.

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tower::ServiceExt as _;

use super::*;
use crate::api::access::{Access, Settings};
use crate::api::tests::api_over;
use crate::config::{Sources, parse};
use crate::lock::{CallId, Driver, Presence, Session, Timing};
use crate::store::memory::MemoryStore;
use crate::store::sqlite::SqliteStore;
use crate::time::Clock;

const JOBS: &str = "version: 1\njobs:\n  a: {schedule: '0 * * * *', shell: 'true'}\n  \
                    b: {schedule: '@hourly', shell: 'true'}\n  \
                    web: {schedule: '@hourly', http: {url: 'http://localhost:1/'}}\n";

/// A node with an operator, an admin, and an operator of `b`.
async fn node<S: Store>(store: S) -> Api<S> {
    let row = |name: &str, role: &str, jobs: &str| {
        let sum: String = Sha256::digest(format!("fct_{name}")).iter().map(|byte| format!("{byte:02x}")).collect();
        format!("  - {{name: {name}, role: {role}, sha256: {sum}{jobs}}}\n")
    };
    let rules = "tokens:\n".to_owned()
        + &row("ann", "operator", "")
        + &row("root", "admin", "")
        + &row("rita", "admin", "")
        + &row("vic", "viewer", "")
        + &row("bob", "operator", ", jobs: b");
    let rules = crate::config::auth::read(rules.as_bytes()).unwrap();
    let clock = Clock::system();
    let api = Api { access: Access::new(Settings::default(), Some(rules)), ..api_over(store, &clock) };
    api.locks.found().await.unwrap();
    api.board.write().configured(&parse(JOBS, &Sources::none()).unwrap().jobs);
    api
}

async fn memory() -> Api<MemoryStore> {
    node(MemoryStore::new(Clock::system())).await
}

struct Ask<'a> {
    method: Method,
    path: &'a str,
    by: &'a str,
    key: Option<&'a str>,
    body: Value,
}

impl<'a> Ask<'a> {
    fn new(method: Method, path: &'a str, body: Value) -> Ask<'a> {
        Ask { method, path, by: "ann", key: None, body }
    }

    fn post(path: &'a str, body: Value) -> Ask<'a> {
        Ask::new(Method::POST, path, body)
    }

    async fn to(self, router: &Router) -> (u16, HeaderMap, Value) {
        let mut request = Request::builder()
            .method(self.method)
            .uri(self.path)
            .header("host", "localhost")
            .header("content-type", "application/json")
            .header("authorization", format!("Bearer fct_{}", self.by));
        if let Some(key) = self.key {
            request = request.header("idempotency-key", key);
        }
        let body = if self.body.is_null() { Body::empty() } else { Body::from(self.body.to_string()) };
        let answer = router.clone().oneshot(request.body(body).unwrap()).await.unwrap();
        let (parts, body) = answer.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        (parts.status.as_u16(), parts.headers, serde_json::from_slice(&body).unwrap_or_default())
    }
}

fn from<S: Store>(api: &Api<S>) -> Router {
    api.router_for("10.0.0.7:4000".parse().unwrap())
}

async fn acts_of<S: Store>(api: &Api<S>) -> Vec<Value> {
    let (code, _, page) =
        Ask { by: "root", ..Ask::new(Method::GET, "/api/v1/audit", Value::Null) }.to(&from(api)).await;
    assert_eq!(code, 200, "{page:#}");
    page["items"].as_array().unwrap().clone()
}

async fn every_act_is_made_once_and_recorded<S: Store>(api: Api<S>) {
    let router = from(&api);
    let run =
        Ask { key: Some("k1"), ..Ask::post("/api/v1/jobs/a/runs", json!({"reason": "a test"})) }.to(&router).await;
    assert_eq!((run.0, &run.2["act"], &run.2["job"]), (201, &"trigger".into(), &"a".into()), "{:#}", run.2);
    let id = run.2["run_id"].as_str().unwrap().to_owned();
    assert_eq!(run.1["location"], format!("/api/v1/runs/{id}").as_str());
    let again =
        Ask { key: Some("k1"), ..Ask::post("/api/v1/jobs/a/runs", json!({"reason": "a test"})) }.to(&router).await;
    assert_eq!((again.0, &again.2, &again.1["idempotency-replayed"]), (201, &run.2, &"true".parse().unwrap()));
    let other =
        Ask { key: Some("k1"), ..Ask::post("/api/v1/jobs/a/runs", json!({"reason": "another"})) }.to(&router).await;
    assert_eq!((other.0, &other.2["type"]), (422, &"/problems/key-reused".into()));
    // The same key of another caller is another key.
    let roots = Ask { key: Some("k1"), by: "root", ..Ask::post("/api/v1/jobs/a/runs", json!({"reason": "a test"})) };
    assert_ne!(roots.to(&router).await.2["run_id"], run.2["run_id"]);
    let cancelled = Ask::post(&format!("/api/v1/runs/{id}/cancel"), Value::Null).to(&router).await;
    assert_eq!((cancelled.0, &cancelled.2["act"]), (200, &"cancel".into()));
    let until = api.clock.wall().plus(Duration::from_secs(3600));
    for already in [false, true] {
        let paused = Ask::new(Method::PUT, "/api/v1/jobs/a/pause", json!({"until": until, "reason": "moves"}));
        let paused = paused.to(&router).await;
        assert_eq!((paused.0, &paused.2["already"]), (200, &already.into()), "{:#}", paused.2);
    }
    for already in [false, true] {
        let resumed = Ask::new(Method::DELETE, "/api/v1/jobs/a/pause", Value::Null).to(&router).await;
        assert_eq!((resumed.0, &resumed.2["already"]), (200, &already.into()), "{:#}", resumed.2);
    }
    let all = Ask { by: "root", ..Ask::new(Method::PUT, "/api/v1/pause", Value::Null) }.to(&router).await;
    assert_eq!((all.0, &all.2["on"]), (200, &"all jobs".into()), "{:#}", all.2);
    assert!(api.ledger.all_paused().await.unwrap().is_some());
    let all = Ask { by: "root", ..Ask::new(Method::DELETE, "/api/v1/pause", Value::Null) }.to(&router).await;
    assert_eq!(all.0, 200, "{:#}", all.2);
    let resolved = Ask::post(&format!("/api/v1/runs/{id}/resolve"), json!({"as": "failed"})).to(&router).await;
    assert_eq!((resolved.0, &resolved.2["type"]), (409, &"/problems/not-in-doubt".into()), "it is open");
    let acts = acts_of(&api).await;
    let words: Vec<&str> = acts.iter().map(|act| act["act"].as_str().unwrap()).collect();
    assert_eq!(words, ["resume_all", "pause_all", "resume", "pause", "cancel", "trigger", "trigger"]);
    let first = &acts[6];
    assert_eq!((&first["by"], &first["role"], &first["via"]), (&"ann".into(), &"operator".into(), &"api".into()));
    assert_eq!((&first["address"], &first["reason"]), (&"10.0.0.7".into(), &"a test".into()));
}

#[tokio::test]
async fn every_act_is_made_once_and_recorded_in_memory() {
    every_act_is_made_once_and_recorded(memory().await).await;
}

#[tokio::test]
async fn every_act_is_made_once_and_recorded_in_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path().join("state.db"), Clock::system()).await.unwrap();
    every_act_is_made_once_and_recorded(node(store).await).await;
}

#[tokio::test]
async fn two_nodes_that_get_one_request_at_once_make_one_act() {
    let store = MemoryStore::new(Clock::system());
    let (one, other) = (node(store.clone()).await, node(store).await);
    for nth in 0..10 {
        let key = format!("k{nth}");
        let ask = async |api: &Api<MemoryStore>| {
            let ask = Ask { key: Some(&key), ..Ask::post("/api/v1/jobs/a/runs", Value::Null) };
            let (code, _, body) = ask.to(&from(api)).await;
            assert_eq!(code, 201, "{body:#}");
            body["run_id"].clone()
        };
        let (one, other) = tokio::join!(ask(&one), ask(&other));
        assert_eq!(one, other);
    }
    assert_eq!(acts_of(&one).await.len(), 10);
}

#[tokio::test]
async fn what_is_asked_for_wrongly_is_refused_and_leaves_no_record() {
    let api = memory().await;
    let router = from(&api);
    let long = "x".repeat(501);
    let known = crate::scheduler::run::Known { fingerprint: "x".into(), since: api.clock.wall() };
    api.board.write().known(&JobName::new("gone").unwrap(), Some(&known));
    for (ask, code, says) in [
        (Ask::post("/api/v1/jobs/none/runs", Value::Null), 404, "there is no job none"),
        (Ask::post("/api/v1/jobs/gone/runs", Value::Null), 409, "gone is not in the jobs file any more"),
        (Ask::post("/api/v1/jobs/web/runs", json!({"params": {"x": "ü"}})), 400, "cannot be sent in a header"),
        (Ask::post("/api/v1/jobs/a/runs", json!({"params": {"X": "1"}})), 400, "params: "),
        (Ask::post("/api/v1/jobs/a/runs", json!({"parms": {}})), 400, "unknown field"),
        (Ask::post("/api/v1/jobs/a/runs", json!({"reason": long})), 400, "reason: at most 500 characters"),
        (Ask::post("/api/v1/jobs/a/runs", json!([])), 400, "the body is wrong"),
        (Ask::new(Method::PUT, "/api/v1/jobs/a/pause", json!({"until": "2020-01-01T00:00:00Z"})), 400, "until: "),
        (Ask::post("/api/v1/runs/a@2026-01-01T00:00:00Z/cancel", Value::Null), 404, "there is no run"),
        (Ask::post("/api/v1/bulk", json!({"act": "pause", "names": []})), 400, "names: "),
        (Ask { key: Some("a b"), ..Ask::post("/api/v1/jobs/a/runs", Value::Null) }, 400, "Idempotency-Key: "),
        (Ask::new(Method::PUT, "/api/v1/pause", Value::Null), 403, "takes the role admin"),
        (Ask { by: "bob", ..Ask::post("/api/v1/jobs/a/runs", Value::Null) }, 404, "there is no job a"),
        (Ask { by: "root", ..Ask::post("/api/v1/leadership/step-down", Value::Null) }, 412, "the leadership"),
        (Ask { by: "root", ..Ask::post("/api/v1/locks/unlock", json!({"name": "leader"})) }, 400, "step-down"),
        (Ask { by: "root", ..Ask::post("/api/v1/locks/unlock", json!({"name": "free"})) }, 412, "free was changed"),
        (Ask { by: "root", ..Ask::post("/api/v1/migrations/resolve", json!({"id": "m", "as": "done"})) }, 404, "`m`"),
    ] {
        let what = ask.path.to_owned();
        let (answered, _, problem) = ask.to(&router).await;
        let detail = problem["detail"].as_str().unwrap_or_default();
        assert!(answered == code && detail.contains(says), "{what}: {answered} {problem:#}");
    }
    assert_eq!(acts_of(&api).await, Vec::<Value>::new());
}

#[tokio::test]
async fn a_bulk_has_a_result_for_each_and_keeps_to_the_jobs_of_its_caller() {
    let api = memory().await;
    let router = from(&api);
    let ask = || Ask {
        by: "bob",
        key: Some("k"),
        ..Ask::post("/api/v1/bulk", json!({"act": "pause", "names": ["a", "b", "b", "?"]}))
    };
    let (code, _, bulk) = ask().to(&router).await;
    assert_eq!((code, &bulk["done"], &bulk["failed"]), (200, &1.into(), &2.into()), "{bulk:#}");
    let statuses: Vec<&Value> = bulk["results"].as_array().unwrap().iter().map(|result| &result["status"]).collect();
    assert_eq!(statuses, [404, 200, 400]);
    let (_, headers, again) = ask().to(&router).await;
    assert_eq!(again["results"][1]["done"]["already"], false, "the same request again is the same act");
    assert_eq!(headers["idempotency-replayed"], "true");
    let others =
        Ask { key: Some("k"), by: "bob", ..Ask::post("/api/v1/bulk", json!({"act": "pause", "names": ["b"]})) };
    assert_eq!(others.to(&router).await.0, 422, "the key is of another request");
    assert_eq!(acts_of(&api).await.len(), 1);
    assert_eq!(api.ledger.paused().await.unwrap().len(), 1);
    let (_, _, seen) = Ask { by: "bob", ..Ask::new(Method::GET, "/api/v1/audit", Value::Null) }.to(&router).await;
    assert_eq!(seen["items"].as_array().unwrap().len(), 1);
    Ask::new(Method::PUT, "/api/v1/jobs/a/pause", Value::Null).to(&router).await;
    let (_, _, seen) = Ask { by: "bob", ..Ask::new(Method::GET, "/api/v1/audit", Value::Null) }.to(&router).await;
    assert_eq!(seen["items"].as_array().unwrap().len(), 1, "what was done to other jobs is not for this caller");
}

#[tokio::test]
async fn a_backfill_is_looked_at_asked_for_followed_and_stopped() {
    let api = memory().await;
    let router = from(&api);
    let (first, end) = ("2026-01-01T00:00:00Z", "2026-01-01T05:00:00Z");
    let body = |dry_run: bool| json!({"job": "a", "from": first, "to": end, "dry_run": dry_run});
    let (code, _, plan) = Ask::post("/api/v1/backfills", body(true)).to(&router).await;
    assert_eq!((code, &plan["instants"], &plan["asked"]["not run"]), (200, &5.into(), &5.into()), "{plan:#}");
    let ask = || Ask { key: Some("k"), ..Ask::post("/api/v1/backfills", body(false)) };
    let (code, headers, deed) = ask().to(&router).await;
    assert_eq!(code, 201, "{deed:#}");
    let (code, _, again) = ask().to(&router).await;
    assert_eq!((code, &again["backfill"]), (201, &deed["backfill"]));
    let at = headers["location"].to_str().unwrap().to_owned();
    let (code, _, progress) = Ask::new(Method::GET, &at, Value::Null).to(&router).await;
    assert_eq!((code, &progress["counts"], &progress["runs"]), (200, &json!({"waiting": 5}), &5.into()));
    let (code, ..) = Ask { by: "bob", ..Ask::new(Method::GET, &at, Value::Null) }.to(&router).await;
    assert_eq!(code, 404);
    let (code, ..) = Ask { by: "bob", ..Ask::new(Method::DELETE, &at, Value::Null) }.to(&router).await;
    assert_eq!(code, 404);
    let (code, _, stopped) = Ask::new(Method::DELETE, &at, Value::Null).to(&router).await;
    assert_eq!((code, &stopped["act"]), (200, &"stop_backfill".into()), "{stopped:#}");
    let (_, _, progress) = Ask::new(Method::GET, &at, Value::Null).to(&router).await;
    assert_eq!(progress["stopped_by"], "ann");
    let (_, _, none) = Ask::post("/api/v1/backfills", body(false)).to(&router).await;
    assert!(none["detail"].as_str().unwrap().contains("nothing of a is left"), "{none:#}");
    let words: Vec<String> = acts_of(&api).await.iter().map(|act| act["act"].as_str().unwrap().to_owned()).collect();
    assert_eq!(words, ["stop_backfill", "backfill"]);
}

async fn session<S: Store>(api: &Api<S>) -> Session<S> {
    let presence = Presence { node: "n".into(), record: b"of a newer version".to_vec() };
    let timing = Timing::from_ttl(Duration::from_secs(60)).unwrap();
    api.locks.open_session(presence, timing, Driver::Task).await.unwrap()
}

#[tokio::test]
async fn a_leader_is_asked_to_step_down_and_only_the_one_that_was_meant() {
    let api = memory().await;
    let router = from(&api);
    let session = session(&api).await;
    let term = api.locks.election(crate::lock::LockName::leader()).campaign(&session, CallId::random()).await.unwrap();
    let fence = term.hold.fence().get();
    let ask = |fence: u64| Ask { by: "root", ..Ask::post("/api/v1/leadership/step-down", json!({"fence": fence})) };
    let (code, _, wrong) = ask(fence + 1).to(&router).await;
    let says = format!("no leader has the fence {}, n leads under fence {fence}", fence + 1);
    assert!(code == 412 && wrong["detail"].as_str().unwrap().starts_with(&says), "{wrong:#}");
    let (code, _, deed) = ask(fence).to(&router).await;
    assert_eq!((code, &deed["on"]), (200, &"n".into()), "{deed:#}");
    assert_eq!(acts_of(&api).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_was_lost_is_said_to_be_unknown() {
    let clock = Clock::system();
    let api = api_over(crate::api::tests::Silent, &clock);
    let asked = Asked::new("ann", clock.wall());
    let acting = Acting::fresh(asked.clone());
    let problem = api.make(&acting, std::future::pending()).await.unwrap_err();
    assert_eq!((problem.kind, problem.kind.status().as_u16()), (Kind::OutcomeUnknown, 504));
    let keyed = Acting::fresh(asked).once(Some(crate::ledger::OnceAsked::new("ann", "k", b"x")));
    let unknown = StoreError::Unknown { store: "it".into(), why: "on purpose".into() };
    let problem = refused(unknown.into(), &keyed);
    assert!(problem.detail.contains("with the same Idempotency-Key"), "{}", problem.detail);
    let away = api.make(&keyed, std::future::pending()).await.unwrap_err();
    assert_eq!(away.kind, Kind::StoreAway, "it was looked for before anything was sent");
}

/// Sends a form of the page.
async fn send(router: &Router, to: &str, by: &str, form: &str) -> (u16, String, String) {
    let request = Request::post(to)
        .header("host", "localhost")
        .header("content-type", "application/x-www-form-urlencoded")
        .header("authorization", format!("Bearer fct_{by}"))
        .body(Body::from(form.to_owned()))
        .unwrap();
    let answer = router.clone().oneshot(request).await.unwrap();
    let text = |name: &str| answer.headers().get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
    let said = text("set-cookie");
    let said = said.strip_prefix("fencron-said=").map_or("", |said| said.split(';').next().unwrap());
    let said = url::form_urlencoded::parse(said.as_bytes()).next().map(|(said, _)| said.into_owned());
    (answer.status().as_u16(), text("location"), said.unwrap_or_default())
}

#[tokio::test]
async fn a_form_of_the_page_acts_once_and_leads_back_with_what_became_of_it() {
    let api = memory().await;
    let router = from(&api);
    let form = "act=trigger&on=a&key=k1&next=%2Fjobs%2Fa&reason=now";
    let (code, to, said) = send(&router, "/operate", "ann", form).await;
    assert_eq!((code, &*to), (303, "./jobs/a"));
    assert!(said.starts_with("+trigger: a@"), "{said}");
    assert_eq!(send(&router, "/operate", "ann", form).await, (code, to, said), "a double click is one act");
    let pause_all = format!("act=pause_all&on=all+jobs&confirm={}&key=k5&next=%2F", api.ledger.namespace());
    for (to, by, form, says) in [
        ("/operate", "ann", "act=pause&on=a&key=k1&for=1h&next=%2F", "+pause: a, until "),
        ("/operate", "ann", "act=bulk&on=x&do=resume&name=a&name=b&key=k1&next=%2Fjobs", "+resume of 2 jobs: 2"),
        ("/operate", "ann", "act=bulk&on=x&do=pause&key=k2&next=%2Fjobs", "-name: no job is ticked"),
        ("/operate", "bob", "act=trigger&on=a&key=k3&next=%2F", "-there is no job a"),
        ("/operate", "ann", "act=pause_all&on=all+jobs&key=k4&next=%2F", "-act: there is no `pause_all`"),
        ("/administer", "root", "act=pause_all&on=all+jobs&key=k4&next=%2F", "-confirm: type `"),
        ("/administer", "root", &pause_all, "+pause all: all jobs"),
        ("/administer", "root", "act=unlock&on=door&fence=7&key=k6&next=%2F", "-confirm: type `door`"),
        ("/administer", "root", "act=step_down&on=n&confirm=n&fence=7&key=k7&next=%2F", "-no node leads, so that none"),
        ("/administer", "root", "act=drain&on=n&key=k8&next=%2F", "-confirm: type `n`"),
        ("/administer", "root", "act=drain&on=n&confirm=n&key=k9&next=%2F", "-there is no node n"),
    ] {
        let (code, _, said) = send(&router, to, by, form).await;
        assert!(code == 303 && said.starts_with(says), "{form}: {code} {said}");
    }
    assert_eq!(send(&router, "/administer", "ann", "act=pause_all&on=all+jobs").await.0, 403);
    let acts = acts_of(&api).await;
    let words: Vec<&str> = acts.iter().map(|act| act["act"].as_str().unwrap()).collect();
    assert_eq!(words, ["pause_all", "resume", "pause", "trigger"]);
    assert!(acts.iter().all(|act| act["via"] == "page"));
}

#[tokio::test]
async fn a_backfill_is_looked_at_asked_for_followed_and_stopped_by_forms() {
    let api = memory().await;
    api.board.write().is_current(api.clock.wall());
    let router = from(&api);
    let stretch = "from=2026-01-01T00:00:00Z&to=2026-01-01T03:00:00Z";
    let preview = page_of(&router, &format!("/backfill?job=a&{stretch}"), "ann", "").await;
    assert!(preview.contains("due at 3 instants") && preview.contains("Ask for 3 runs</button>"), "{preview}");
    assert_eq!(acts_of(&api).await.len(), 0, "to look at it changes nothing");
    let ask = format!("act=backfill&on=a&key=k1&{stretch}&do=x&next=%2F");
    let (code, to, said) = send(&router, "/operate", "ann", &ask).await;
    assert!(code == 303 && to.starts_with("./backfills/") && said.starts_with("+backfill: a, 3 runs"), "{to} {said}");
    assert_eq!(send(&router, "/operate", "ann", &ask).await.1, to, "a double click is one backfill");
    let refused = send(&router, "/operate", "bob", &ask).await;
    assert!(refused.2.starts_with("-there is no job a"), "{}", refused.2);
    let progress = page_of(&router, &to[1..], "ann", "").await;
    assert!(progress.contains("waiting") && progress.contains("value=\"stop_backfill\""), "{progress}");
    assert!(!page_of(&router, &to[1..], "vic", "").await.contains("value=\"stop_backfill\""), "a viewer stops nothing");
    let id = to.strip_prefix("./backfills/").unwrap();
    for (confirm, says) in [("b", "-confirm: type `a`"), ("a", "+stop backfill: a")] {
        let form = format!("act=stop_backfill&on={id}&confirm={confirm}&key=k2{confirm}&next=%2F");
        let said = send(&router, "/operate", "ann", &form).await.2;
        assert!(said.starts_with(says), "{said}");
    }
    let progress = page_of(&router, &to[1..], "ann", "").await;
    assert!(progress.contains("Stopped by") && !progress.contains("value=\"stop_backfill\""), "{progress}");
    let nothing =
        page_of(&router, "/backfill?job=a&from=2026-01-01T00:01:00Z&to=2026-01-01T00:02:00Z", "ann", "").await;
    assert!(nothing.contains("The job was not due in between."), "{nothing}");
}

#[tokio::test]
async fn what_cannot_be_taken_back_is_confirmed_by_name() {
    let api = memory().await;
    api.board.write().is_current(api.clock.wall());
    let (router, session) = (from(&api), session(&api).await);
    let gate = api.locks.semaphore(crate::lock::LockName::new("ga<b>te").unwrap(), 4);
    std::mem::forget(gate.acquire(&session, 2).await.unwrap());
    let asked = Acting::fresh(Asked::new("eve", api.clock.wall()));
    let run = api.ledger.trigger(&asked, &JobName::new("a").unwrap(), Params::default()).await.unwrap().run.unwrap();
    let now = api.clock.wall();
    api.ledger.skip_to(now.plus(Duration::from_secs(3600))).await.unwrap();
    let locks = page_of(&router, "/locks", "root", "").await;
    assert!(locks.contains("Revoke 2 permits of n") && locks.contains("ga&lt;b&gt;te"), "{locks}");
    assert!(!locks.contains("ga<b>"), "{locks}");
    let rewind = page_of(&router, &format!("/rewind?to={now}"), "root", "").await;
    assert!(rewind.contains("Bring them back</button>"), "{rewind}");
    let (namespace, lease) = (api.ledger.namespace().as_str(), session.lease());
    let unlock = format!("act=unlock&on=ga%3Cb%3Ete&kind=semaphore&session={lease}&do={lease}");
    for (to, by, form, confirm, says) in [
        ("/operate", "ann", format!("act=cancel&on={run}"), "a", "+cancel: a@"),
        ("/administer", "root", format!("act=rewind&on=x&to={now}"), namespace, "+rewind: "),
        ("/administer", "root", unlock, "ga%3Cb%3Ete", "+unlock: ga<b>te, 2 permits from n"),
    ] {
        let unsure = send(&router, to, by, &format!("{form}&confirm=other&key=k&next=%2F")).await.2;
        assert!(unsure.starts_with("-confirm: type `"), "{form}: {unsure}");
        let sure = send(&router, to, by, &format!("{form}&confirm={confirm}&key=l&next=%2F")).await.2;
        assert!(sure.starts_with(says), "{form}: {sure}");
    }
}

async fn page_of(router: &Router, path: &str, by: &str, cookie: &str) -> String {
    let request = Request::get(path)
        .header("host", "localhost")
        .header("accept", "text/html")
        .header("cookie", cookie)
        .header("authorization", format!("Bearer fct_{by}"));
    let answer = router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(answer.status(), 200, "{path}");
    String::from_utf8(axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap().to_vec()).unwrap()
}

#[tokio::test]
async fn forms_are_there_for_those_who_may_and_cannot_be_sent_while_the_store_is_away() {
    let api = memory().await;
    let router = from(&api);
    let said = crate::api::looker::said("+pause: <b>a", false);
    let page = page_of(&router, "/jobs/a", "ann", said.split(';').next().unwrap()).await;
    assert!(page.contains("action=\"../operate\"") && page.contains("Done. </b><bdi>pause: &lt;b&gt;a"), "{page}");
    assert!(
        page.contains("disabled") && page.contains("nothing can be done now"),
        "nothing was heard of the store yet"
    );
    api.board.write().is_current(api.clock.wall());
    let page = page_of(&router, "/jobs/a", "ann", "").await;
    assert!(page.contains("action=\"../operate\"") && !page.contains("disabled"), "{page}");
    assert!(page_of(&router, "/jobs", "ann", "").await.contains("id=\"tick-a\""));
    assert!(
        !page_of(&router, "/leadership", "ann", "").await.contains("administer"),
        "an operator does not administer"
    );
    assert!(page_of(&router, "/leadership", "root", "").await.contains("action=\"administer\""));
    api.ledger
        .trigger(&Acting::fresh(Asked::new("<i>eve", api.clock.wall())), &JobName::new("a").unwrap(), Params::default())
        .await
        .unwrap();
    let page = page_of(&router, "/audit", "ann", "").await;
    assert!(page.contains("&lt;i&gt;eve") && page.contains("href=\"runs/a@"), "{page}");
    assert!(!page_of(&router, "/audit", "bob", "").await.contains("eve"));
}

#[tokio::test]
async fn what_was_so_already_is_not_done_later_by_the_same_request() {
    let api = memory().await;
    let router = from(&api);
    let pause = || Ask { key: Some("k"), ..Ask::new(Method::PUT, "/api/v1/jobs/a/pause", json!({"reason": "moves"})) };
    let first = Ask::new(Method::PUT, "/api/v1/jobs/a/pause", json!({"reason": "moves"})).to(&router).await;
    assert_eq!(first.2["already"], false);
    assert_eq!(pause().to(&router).await.2["already"], true);
    Ask::new(Method::DELETE, "/api/v1/jobs/a/pause", Value::Null).to(&router).await;
    let (code, headers, again) = pause().to(&router).await;
    assert_eq!(
        (code, &again["already"], &headers["idempotency-replayed"]),
        (200, &true.into(), &"true".parse().unwrap())
    );
    assert_eq!(api.ledger.paused().await.unwrap(), Vec::new());
}

#[tokio::test]
async fn what_was_done_is_answered_again_though_it_could_not_be_done_any_more() {
    let api = memory().await;
    let router = from(&api);
    let trigger = || Ask { key: Some("t"), ..Ask::post("/api/v1/jobs/a/runs", json!({})) };
    let (code, _, first) = trigger().to(&router).await;
    assert_eq!(code, 201);
    let soon = api.clock.wall().plus(std::time::Duration::from_millis(300));
    let pause = || Ask { key: Some("p"), ..Ask::new(Method::PUT, "/api/v1/jobs/a/pause", json!({"until": soon})) };
    assert_eq!(pause().to(&router).await.0, 200);
    // The job leaves the jobs file, and the end of the pause comes.
    api.board.write().configured(&std::collections::BTreeMap::new());
    while api.clock.wall() <= soon {
        tokio::task::yield_now().await;
    }
    let (code, headers, again) = trigger().to(&router).await;
    assert_eq!(
        (code, &again["run_id"], &headers["idempotency-replayed"]),
        (201, &first["run_id"], &"true".parse().unwrap())
    );
    assert_eq!(pause().to(&router).await.0, 200);
    assert_eq!(Ask::post("/api/v1/jobs/a/runs", json!({})).to(&router).await.0, 404);
}

#[tokio::test]
async fn a_reason_has_five_hundred_characters_whatever_they_are() {
    let api = memory().await;
    let router = from(&api);
    let because =
        |count| Ask { by: "root", ..Ask::new(Method::PUT, "/api/v1/pause", json!({"reason": "ü".repeat(count)})) };
    assert_eq!(because(501).to(&router).await.0, 400);
    assert_eq!(because(500).to(&router).await.0, 200);
    let kept = api.ledger.all_paused().await.unwrap().unwrap().asked.reason;
    assert_eq!(kept.chars().count(), 500);
}

#[tokio::test]
async fn all_permits_of_a_session_are_revoked_by_one_act() {
    let api = memory().await;
    let (router, session) = (from(&api), session(&api).await);
    let semaphore = api.locks.semaphore(crate::lock::LockName::new("slots").unwrap(), 5);
    let (one, other) = (semaphore.try_acquire(&session, 1).await.unwrap(), semaphore.try_acquire(&session, 2).await);
    assert!(one.is_some() && other.unwrap().is_some());
    let body = json!({"name": "slots", "kind": "semaphore", "session": session.lease().to_string()});
    let meant = json!({"name": "slots", "kind": "semaphore", "session": session.lease().to_string(), "fence": 7});
    assert_eq!(Ask { by: "root", ..Ask::post("/api/v1/locks/unlock", meant) }.to(&router).await.0, 400);
    let ask = || Ask { by: "root", key: Some("k"), ..Ask::post("/api/v1/locks/unlock", body.clone()) };
    for _ in 0..2 {
        let (code, _, deed) = ask().to(&router).await;
        assert_eq!((code, &deed["detail"]), (200, &"3 permits from n".into()), "{deed:#}");
    }
    assert_eq!(acts_of(&api).await.len(), 1);
    assert!(semaphore.try_acquire(&session, 5).await.unwrap().is_some(), "all are free");
}

/// What the requests of all routes that act are about.
struct Scene<'a, S: Store> {
    api: &'a Api<S>,
    session: Session<S>,
    term: crate::lock::Term,
}

impl<S: Store> Scene<'_, S> {
    fn by_eve(&self) -> Acting {
        Acting::fresh(Asked::new("eve", self.api.clock.wall()))
    }

    async fn a_run(&self) -> RunId {
        let job = JobName::new("b").unwrap();
        self.api.ledger.trigger(&self.by_eve(), &job, Params::default()).await.unwrap().run.unwrap()
    }

    /// A node of this name is there.
    async fn publishes(&self, name: &str) {
        let record = crate::ledger::NodeRecord {
            node: name.to_owned(),
            version: String::new(),
            config_digest: String::new(),
            config_since: None,
            started_at: self.api.clock.wall(),
            address: None,
            clock: self.api.clock.wall(),
            stands_back: None,
            hands_over: None,
            drained: false,
            heard: 0,
            troubles: Vec::new(),
        };
        self.session.publish(record.encode()).await.unwrap();
    }

    async fn a_migration(&self) {
        let once = crate::ledger::Once {
            name: "m".into(),
            state: crate::ledger::OnceState::Failed,
            checksum: String::new(),
            claimed_by: None,
            attempts: 1,
            started_at: self.api.clock.wall(),
            finished_at: None,
            reason: String::new(),
            exit_code: None,
            output: String::new(),
            output_bytes: 0,
        };
        let key = crate::ledger::OnceKey::migration("m");
        self.api.ledger.settle_once(&key, Revision(0), &once).await.unwrap().unwrap();
    }

    /// The path, the body and how many acts; `None`: there is no such operation here.
    async fn request(&self, operation: &str) -> Option<(String, Value, usize)> {
        let (ledger, now) = (&self.api.ledger, self.api.clock.wall());
        let job = JobName::new("a").unwrap();
        let stretch = json!({"job": "b", "from": "2026-01-01T00:00:00Z", "to": "2026-01-01T05:00:00Z"});
        let (path, body) = match operation {
            "trigger" => ("/api/v1/jobs/a/runs".to_owned(), json!({})),
            "pause" => ("/api/v1/jobs/a/pause".to_owned(), json!({})),
            // The requests come in the order of the rows: it is paused by now.
            "resume" => ("/api/v1/jobs/a/pause".to_owned(), json!({})),
            "pause_all" | "resume_all" => ("/api/v1/pause".to_owned(), json!({})),
            "cancel" => (format!("/api/v1/runs/{}/cancel", self.a_run().await), json!({})),
            "resolve" => {
                let run = self.a_run().await;
                ledger.doubt_open_runs("a test", now).await.unwrap();
                (format!("/api/v1/runs/{run}/resolve"), json!({"as": "retry"}))
            }
            "bulk" => {
                let body = json!({"act": "trigger", "names": ["a", "b"]});
                return Some(("/api/v1/bulk".to_owned(), body, 2));
            }
            "backfill" => ("/api/v1/backfills".to_owned(), stretch),
            "stop_backfill" => {
                let run = RunId::asked_for(&job, now, "b-1");
                let deed = ledger.backfill(&self.by_eve(), &job, vec![run]).await.unwrap();
                (format!("/api/v1/backfills/{}", deed.backfill.unwrap()), json!({}))
            }
            "step_down" => ("/api/v1/leadership/step-down".to_owned(), json!({"fence": self.term.hold.fence().get()})),
            "drain" => {
                self.publishes("n").await;
                ("/api/v1/nodes/n/drain".to_owned(), json!({"reason": "a new disk"}))
            }
            "undrain" => ("/api/v1/nodes/n/drain".to_owned(), json!({})),
            "unlock" => {
                let gate = self.api.locks.semaphore(crate::lock::LockName::new("gate").unwrap(), 4);
                for _ in 0..2 {
                    std::mem::forget(gate.acquire(&self.session, 1).await.unwrap());
                }
                let session = self.session.lease().to_string();
                let body = json!({"name": "gate", "kind": "semaphore", "session": session});
                ("/api/v1/locks/unlock".to_owned(), body)
            }
            "resolve_migration" => {
                self.a_migration().await;
                ("/api/v1/migrations/resolve".to_owned(), json!({"id": "m", "as": "done"}))
            }
            "rewind" => {
                ledger.skip_to(now.plus(Duration::from_secs(3600))).await.unwrap();
                ("/api/v1/rewind".to_owned(), json!({"to": now}))
            }
            _ => return None,
        };
        Some((path, body, 1))
    }
}

/// Sends each request to two nodes at once, with one key, and then again to each, and as callers who may not.
async fn each_request_is_one_act<S: Store>((one, other): (Api<S>, Api<S>)) {
    let (first, second) = (from(&one), from(&other));
    let session = session(&one).await;
    let term = one.locks.election(crate::lock::LockName::leader()).campaign(&session, CallId::random()).await.unwrap();
    let scene = Scene { api: &one, session, term };
    for (nth, route) in super::rows::of_acts::<S>().into_iter().enumerate() {
        // One caller may ask for so many acts a second.
        let admin = if nth % 2 == 0 { "root" } else { "rita" };
        let (id, method, need) = (route.row.id, route.row.method, route.row.need);
        if method == Method::GET {
            continue;
        }
        let (path, body, count) = scene.request(id).await.unwrap_or_else(|| panic!("no request for {id}"));
        let before = acts_of(&one).await.len();
        let may_not = match need {
            crate::api::access::Need::Role(crate::api::access::Role::Admin) => "ann",
            _ => "vic",
        };
        let ask = |by: &'static str| Ask { method: method.clone(), path: &path, by, key: Some(id), body: body.clone() };
        for router in [&first, &second] {
            let refused = ask(may_not).to(router).await;
            assert_eq!(refused.0, 403, "{id}: {:#}", refused.2);
        }
        assert_eq!(acts_of(&one).await.len(), before, "{id} left a record of who may not");
        let (a, b) = tokio::join!(ask(admin).to(&first), ask(admin).to(&second));
        let (c, d) = (ask(admin).to(&second).await, ask(admin).to(&first).await);
        for (code, _, answer) in [&a, &b, &c, &d] {
            assert!((200..300).contains(code), "{id}: {code} {answer:#}");
            assert_eq!(answer, &a.2, "{id}");
        }
        let acts = acts_of(&one).await;
        assert_eq!(acts.len(), before + count, "{id}: {:#?}", &acts[..acts.len() - before]);
        assert!(acts[..count].iter().all(|act| act["by"] == admin && act["role"] == "admin"), "{id}: {:#}", acts[0]);
    }
}

#[tokio::test]
async fn every_request_that_acts_is_one_act_on_two_nodes_at_once_in_memory() {
    let store = MemoryStore::new(Clock::system());
    each_request_is_one_act((node(store.clone()).await, node(store).await)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_that_acts_is_one_act_on_two_nodes_at_once_in_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let open = async || SqliteStore::open(dir.path().join("state.db"), Clock::system()).await.unwrap();
    each_request_is_one_act((node(open().await).await, node(open().await).await)).await;
}
