//! A person at a node that asks who looks: the login, the name, what the person may see, and how the person wants the page.

use std::os::unix::fs::OpenOptionsExt as _;

use std::io::Write as _;

use crate::scene::{JOBS, Node, Scene};
use crate::support::browser::{Browser, Look, Window};
use crate::support::until;

/// A node with rules, and the tokens of an operator and of a viewer who is narrowed to one job.
pub(crate) async fn guarded() -> (Scene, Node, [String; 2]) {
    let scene = Scene::with(JOBS);
    let mut file = String::from("tokens:\n");
    let mut token = |arguments: &[&str]| {
        let made = scene.run(&[&["token", "new", "-o", "json"], arguments].concat());
        let made: serde_json::Value = serde_json::from_str(&made).unwrap();
        let row = made["row"].as_str().map_or_else(|| made["row"].to_string(), str::to_owned);
        file += &format!("  - {}\n", row.trim().trim_start_matches("- "));
        made["token"].as_str().unwrap().to_owned()
    };
    let all = token(&["--name", "ann", "--role", "operator"]);
    let narrowed = token(&["--name", "bob", "--role", "viewer", "--jobs", "tick"]);
    let path = scene.path("auth.yaml");
    let options = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    options.unwrap().write_all(file.as_bytes()).unwrap();
    let node = scene.node_with("a", &["--auth", "auth.yaml"]).await;
    (scene, node, [all, narrowed])
}

/// Logs in at the page of the login.
pub(crate) async fn log_in(window: &Window<'_>, token: &str) {
    window.until_it_says("main", "Log in").await;
    window.write("#token", &format!("{token}\n")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_logs_in_chooses_a_zone_and_colours_and_logs_out_without_script() {
    let (_scene, node, [token, _]) = guarded().await;
    let browser = Browser::start().await;
    let window = browser.window(Look { has_script: false, ..Look::WIDE }).await;
    window.open(&format!("{}/jobs?q=tick", node.url)).await;
    log_in(&window, "fct_wrong").await;
    window.until_it_says("main [role=alert]", "this token is not known here").await;
    log_in(&window, &token).await;
    window.until_it_says("#me", "ann, operator").await;
    assert!(window.url().await.ends_with("/jobs?q=tick"), "{}", window.url().await);

    window.click("#me summary").await;
    window.write("#mine", "Mars/Base\n").await;
    window.until_it_says("main", "Mars/Base is no time zone").await;
    window.open(&format!("{}/jobs?q=tick", node.url)).await;
    window.click("#me summary").await;
    window.write("#mine", "Asia/Tokyo\n").await;
    window.until_it_says("footer", "Times are in Asia/Tokyo").await;
    window.until_it_says("footer", "+09:00").await;
    window.click("#me summary").await;
    window.click("button[value=dark]").await;
    until("it is dark", async || window.attribute("html", "data-theme").await.filter(|theme| theme == "dark")).await;
    assert_eq!(window.css("body", "background-color").await, "rgba(20, 23, 27, 1)");
    window.click("#me summary").await;
    window.click("button[value=utc]").await;
    window.until_it_says("footer", "Times are in UTC").await;
    assert!(window.url().await.ends_with("/jobs?q=tick"), "{}", window.url().await);

    window.click("#me summary").await;
    window.click("#logout").await;
    window.until_it_says("main", "Log in").await;
    window.open(&format!("{}/trouble", node.url)).await;
    window.until_it_says("main", "Log in").await;
    assert_eq!(window.attribute("html", "data-theme").await.as_deref(), Some("dark"), "that is kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_who_is_narrowed_to_a_job_sees_that_job_on_each_screen_and_no_other() {
    let (scene, node, [_, token]) = guarded().await;
    scene.run(&["trigger", "tick", "--wait", "--timeout", "60s"]);
    let failed = scene.run(&["trigger", "invoice-export", "--wait", "--timeout", "60s"]);
    assert!(failed.contains("failed"), "{failed}");
    let browser = Browser::start().await;
    let window = browser.window(Look::WIDE).await;
    window.open(&node.url).await;
    log_in(&window, &token).await;
    window.until_it_says("#me", "bob, viewer").await;
    window.until_it_says("main", "Nothing: no run is in doubt, no job fails").await;
    assert_eq!(window.text("header nav").await.replace('\n', " "), "Now Jobs Week Trouble");
    for path in ["/", "/jobs", "/week", "/trouble", "/jobs/tick"] {
        window.open(&format!("{}{path}", node.url)).await;
        window.until_it_says("header", "shop").await;
        let text = window.text("body").await;
        assert!(!text.contains("invoice") && !text.contains("backup"), "{path}: {text}");
    }
    window.until_it_says("#runs", "succeeded").await;
    // The menu has the zone of the browser for the person to choose.
    window.click("#me summary").await;
    window.until_it_says("#me", "You see the jobs tick.").await;
    assert_ne!(window.script("return document.getElementById('mine').value;").await, "");
    assert_eq!(window.errors().await, Vec::<String>::new());
    window.open(&format!("{}/leadership", node.url)).await;
    window.until_it_says("main", "The caller is narrowed to some jobs").await;
    window.open(&format!("{}/jobs/invoice-export", node.url)).await;
    window.until_it_says("main", "there is no job invoice-export").await;
}
