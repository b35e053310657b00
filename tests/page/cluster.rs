//! The page of a cluster: a leader that is killed, and a store that is away.

use crate::scene::Scene;
use crate::support::browser::{Browser, Look};
use crate::support::etcd::{Etcd, EtcdOptions};

const JOBS: &str = "
version: 1
namespace: shop
jobs:
  tick: {schedule: '@every 1s', command: [echo, hello]}
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_shows_the_next_term_by_itself_and_how_old_it_is_what_it_shows() {
    let mut etcd = Etcd::start(EtcdOptions::default()).await;
    let store = format!("etcd://{}", etcd.endpoint());
    let scene = Scene::over(JOBS, &["--store", &store]);
    let mut first = scene.node("first").await;
    first.leads().await;
    let (second, third) = (scene.node("second").await, scene.node("third").await);
    let browser = Browser::start().await;
    let window = browser.window(Look::WIDE).await;
    // The one that waits first leads next: the other one is looked at.
    window.open(&format!("{}/leadership", third.url)).await;
    let before = window.until_it_says("main h1", "first leads under fence").await;
    window.until_it_says("#queue", "third").await;
    let queue = window.text("#queue").await;
    first.kill();
    let after = window.until_it_says("main h1", "second leads under fence").await;
    let fence = |text: &str| text.rsplit(' ').next().unwrap().parse::<u64>().unwrap();
    assert!(fence(&after) > fence(&before), "{before}; {after}; {queue}");

    etcd.kill();
    window.open(&third.url).await;
    window.until_it_says("#changed", "Node first is gone: it was stopped, or lost").await;
    window.until_it_says("#stale", "has heard nothing from the store (etcd://127.0.0.1:").await;
    window.until_it_says("#pill", "not known").await;
    window.open(&format!("{}/jobs/tick", third.url)).await;
    window.until_it_says("main", "The history is not known now").await;
    window.until_it_says("main", "@every 1s").await;
    window.open(&format!("{}/store", third.url)).await;
    window.until_it_says("main h1", "does not answer").await;
    drop(second);
    assert_eq!(window.errors().await, Vec::<String>::new());
}
