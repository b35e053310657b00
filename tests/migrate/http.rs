//! Migrations that are requests: done once where the service answers, and `unknown` where nobody heard what it said.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::scene::Scene;
use crate::support::soon;

/// A service that counts what it was asked for, and answers when it is let.
#[derive(Clone)]
struct Service {
    asked: watch::Sender<Vec<Asked>>,
    answers: watch::Sender<bool>,
    status: Arc<Mutex<StatusCode>>,
}

#[derive(Clone, Debug, PartialEq)]
struct Asked {
    key: String,
    fence: u64,
}

impl Service {
    async fn start() -> (Service, String) {
        let service = Service {
            asked: watch::Sender::default(),
            answers: watch::Sender::new(true),
            status: Arc::new(Mutex::new(StatusCode::OK)),
        };
        let router = Router::new()
            .route("/rename", post(Service::rename))
            .route("/renamed", post(async || StatusCode::NO_CONTENT))
            .with_state(service.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        (service, url)
    }

    async fn rename(State(service): State<Service>, headers: HeaderMap) -> StatusCode {
        let text = |name: &str| headers[name].to_str().unwrap().to_owned();
        let asked = Asked { key: text("idempotency-key"), fence: text("fencing-token").parse().unwrap() };
        service.asked.send_modify(|all| all.push(asked));
        let mut answers = service.answers.subscribe();
        soon("leave to answer", answers.wait_for(|answers| *answers)).await.unwrap();
        *service.status.lock().unwrap()
    }

    async fn asked(&self, count: usize) {
        soon("a request", self.asked.subscribe().wait_for(|asked| asked.len() >= count)).await.unwrap();
    }

    fn all(&self) -> Vec<Asked> {
        self.asked.borrow().clone()
    }
}

fn jobs(url: &str, setting: &str) -> String {
    let http = format!("{{url: \"{url}/rename\", method: POST}}");
    format!("version: 1\nmigrations:\n  - id: rename\n    http: {http}\n{setting}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_ask_once() {
    let (scene, (service, url)) = (Scene::over_sqlite(), Service::start().await);
    scene.write("jobs.yaml", &jobs(&url, ""));
    for ran in scene.many(&["migrate"]) {
        ran.ends(0, &[]);
    }
    scene.run(&["migrate"]).ends(0, &[]);
    let asked = service.all();
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!(asked[0].key, "migration/rename");
    assert_eq!(scene.status()[0]["fence"], asked[0].fence);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_its_verdict_until_it_is_to_be_retried() {
    let (scene, (service, url)) = (Scene::over_sqlite(), Service::start().await);
    scene.write("jobs.yaml", &jobs(&url, ""));
    *service.status.lock().unwrap() = StatusCode::FORBIDDEN;
    scene.run(&["migrate"]).ends(1, &["rename failed", "403"]);
    *service.status.lock().unwrap() = StatusCode::OK;
    scene.run(&["migrate"]).ends(1, &["403"]);
    scene.run(&["migrate", "--retry-failed"]).ends(0, &[]);
    assert_eq!(service.all().len(), 2);
}

/// Killed when the service has done it and has not said so.
async fn killed_before_the_answer(setting: impl Fn(&str) -> String) -> (Scene, Vec<Asked>, i32) {
    let (scene, (service, url)) = (Scene::over_sqlite(), Service::start().await);
    scene.write("jobs.yaml", &jobs(&url, &setting(&url)));
    service.answers.send_replace(false);
    let mut first = scene.start("first", &["migrate"]);
    service.asked(1).await;
    first.kill();
    service.answers.send_replace(true);
    let exit = scene.start("second", &["migrate"]).end().code();
    (scene, service.all(), exit)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_whose_answer_nobody_heard_is_unknown_and_not_sent_again() {
    let (scene, asked, exit) = killed_before_the_answer(|_| String::new()).await;
    assert_eq!((exit, scene.state("rename").as_str(), asked.len()), (6, "unknown", 1));
    scene.run(&["migrate", "resolve", "rename", "--as", "done"]).ends(0, &[]);
    scene.run(&["migrate"]).ends(0, &[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_may_be_repeated_is_sent_again_with_the_same_key_and_a_greater_fence() {
    let (scene, asked, exit) = killed_before_the_answer(|_| "    idempotent: true\n".to_owned()).await;
    assert_eq!((exit, scene.state("rename").as_str()), (0, "done"));
    assert_eq!(asked.len(), 2);
    assert!(asked[0].key == asked[1].key && asked[0].fence < asked[1].fence, "{asked:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_the_service_can_be_asked_about_is_settled_by_that() {
    let verify = |url: &str| format!("    verify: {{http: {{url: \"{url}/renamed\", method: POST}}}}\n");
    let (scene, asked, exit) = killed_before_the_answer(verify).await;
    assert_eq!((exit, scene.state("rename").as_str(), asked.len()), (0, "done", 1));
}
