//! A person who acts: the forms, without script, and what became of them.

use crate::person::{guarded, log_in};
use crate::support::browser::{Browser, Look};
use crate::support::until;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_acts_without_script_and_reads_what_became_of_it() {
    let (_scene, node, [operator, _]) = guarded().await;
    let browser = Browser::start().await;
    let window = browser.window(Look { has_script: false, ..Look::WIDE }).await;
    window.open(&format!("{}/jobs/tick", node.url)).await;
    log_in(&window, &operator).await;
    window.until_it_says("#me", "ann, operator").await;
    window.click("details.act summary").await;
    window.write("details.act input[name=reason]", "to see it\n").await;
    window.until_it_says("#said", "trigger: tick@").await;
    assert!(window.url().await.ends_with("/jobs/tick"), "{}", window.url().await);

    window.open(&format!("{}/jobs", node.url)).await;
    window.until_it_says("#bulk", "With the ticked jobs").await;
    window.click("#tick-tick").await;
    window.click("#bulk button[value=pause]").await;
    window.until_it_says("#said", "pause of 1 jobs: 1").await;

    window.open(&format!("{}/audit", node.url)).await;
    window.until_it_says("#audit", "to see it").await;
    window.until_it_says("#audit", "pause").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_looks_at_a_backfill_asks_for_it_and_follows_it_without_script() {
    let (_scene, node, [operator, _]) = guarded().await;
    let browser = Browser::start().await;
    let window = browser.window(Look { has_script: false, ..Look::WIDE }).await;
    window.open(&format!("{}/jobs/nightly-report", node.url)).await;
    log_in(&window, &operator).await;
    window.until_it_says("#me", "ann, operator").await;
    window.click("details.act:nth-of-type(2) summary").await;
    window.write("input[name=from]", "2026-11-01T00:00:00Z").await;
    window.write("input[name=to]", "2026-11-04T00:00:00Z\n").await;
    window.until_it_says("#plan", "due at 3 instants").await;
    window.click("#plan form button").await;
    window.until_it_says("#said", "backfill: nightly-report, 3 runs").await;
    until("all have succeeded", async || {
        window.open(&window.url().await).await;
        window.text("#progress").await.replace('\n', " ").contains("succeeded 3").then_some(())
    })
    .await;

    window.open(&format!("{}/audit", node.url)).await;
    window.until_it_says("#audit", "backfill").await;
    window.click("#audit td.name a").await;
    window.until_it_says("#progress", "Asked for by").await;
    assert_eq!(window.errors().await, Vec::<String>::new());
}
