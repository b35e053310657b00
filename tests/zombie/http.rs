//! Requests that arrive late.

use super::Stage;
use super::service::{GuardProxy, Service};
use super::support::proxy::{Flow, Proxy};
use super::support::until;

fn task(gate: &Proxy) -> String {
    format!("http:\n  method: POST\n  url: http://{}/effect\n  body: effect", gate.endpoint())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_guard_proxy_turns_away_the_requests_of_a_replaced_leader() {
    let service = Service::start().await;
    let guard = GuardProxy::start(&service);
    let gate = Proxy::start(guard.address()).await;
    let stage = Stage::set(&task(&gate)).await;
    let (_, after) = stage.replace_in_the_middle(&gate, Flow::Hold).await;
    until("the successor's effect", async || (service.accepted() == [after]).then_some(())).await;
    assert_eq!(stage.verdict().await, "succeeded");
    let since = stage.old.now();
    stage.wake(&gate);
    stage.old.says(since, "fenced").await;
    assert_eq!(service.accepted(), [after]);
    assert_eq!(stage.verdict().await, "succeeded", "what the successor decided stands");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_guard_the_requests_of_a_replaced_leader_are_accepted() {
    let service = Service::start().await;
    let gate = Proxy::start(service.address()).await;
    let stage = Stage::set(&task(&gate)).await;
    let (before, after) = stage.replace_in_the_middle(&gate, Flow::Hold).await;
    until("the successor's effect", async || (service.accepted() == [after]).then_some(())).await;
    stage.wake(&gate);
    until("the late effect", async || (service.accepted() == [after, before]).then_some(())).await;
}
