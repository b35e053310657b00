//! A person who acts: the forms, without script, and what became of them.

use crate::person::{guarded, log_in};
use crate::support::browser::{Browser, Look};

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
