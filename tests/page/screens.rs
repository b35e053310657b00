//! What a person reads on each screen of a node that has one of everything.

use crate::scene::Scene;
use crate::support::browser::{Browser, Look, Window, client};
use crate::support::until;

/// The screens that need no name in their address.
pub const SCREENS: [&str; 8] = ["/", "/jobs", "/week", "/trouble", "/leadership", "/locks", "/migrations", "/store"];

async fn says(window: &Window<'_>, what: &[&str]) {
    for words in what {
        window.until_it_says("main", words).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_reads_what_there_is_to_know_and_the_browser_reports_no_error() {
    let (scene, node) = Scene::of_everything().await;
    let browser = Browser::start().await;
    let window = browser.window(Look::WIDE).await;
    let unknown = scene.run_of("charge-cards");
    let failed = scene.run_of("invoice-export");

    window.open(&node.url).await;
    says(&window, &["Firing", "Leader\na (this node)", "Fence", "may act for"]).await;
    says(&window, &[&unknown, &format!("fencron resolve {unknown} --as succeeded")]).await;
    says(&window, &["invoice-export", &format!("fencron logs {failed}"), "fencron resume stock-count"]).await;
    says(&window, &["backup", "running", "nightly-report", "Europe/Berlin", "became the leader"]).await;
    assert!(window.title().await.contains("Now · shop"));

    window.open(&format!("{}/jobs", node.url)).await;
    says(&window, &["All 7", "Failing 2", "Paused 1", "says what time it is", "after nightly-report"]).await;
    window.write("main input[type=search]", "INVOICES of\n").await;
    until("the list is searched", async || window.url().await.contains("q=").then_some(())).await;
    says(&window, &["invoice-export"]).await;
    assert!(!window.text("#list").await.contains("tick"));
    window.open(&format!("{}/jobs?q=nothing-of-the-kind", node.url)).await;
    says(&window, &["No job matches “nothing-of-the-kind”", "Show all jobs"]).await;

    window.open(&format!("{}/jobs/nightly-report", node.url)).await;
    says(&window, &["30 2 * * *, Europe/Berlin", "Next fires", "02:30:00 +01:00", "It never ran. First due"]).await;
    says(&window, &["guarantee\nat_most_once", "fencron pause nightly-report"]).await;

    window.open(&format!("{}/runs/{failed}", node.url)).await;
    says(
        &window,
        &[
            "failed exit code 3. A run of invoice-export, asked for by",
            "due",
            "claimed",
            "by a, fence",
            "started",
            "ended",
        ],
    )
    .await;
    says(&window, &["connecting\nerror: permission denied"]).await;
    assert_eq!(window.text("pre .f1.bo").await, "error");

    window.open(&format!("{}/runs/{unknown}", node.url)).await;
    says(&window, &["unknown", "nothing repeats it", &format!("fencron resolve {unknown} --as retry")]).await;

    window.open(&format!("{}/week", node.url)).await;
    says(&window, &["hour by hour in Europe/Berlin", "23"]).await;
    window.open(&format!("{}/trouble", node.url)).await;
    says(&window, &["In doubt", &unknown, "Failing jobs", "invoice-export"]).await;
    window.open(&format!("{}/leadership", node.url)).await;
    says(&window, &["a leads under fence", "No other node waits", "leader"]).await;
    window.open(&format!("{}/locks", node.url)).await;
    says(&window, &["leader", "fencron step-down"]).await;
    window.open(&format!("{}/migrations", node.url)).await;
    says(&window, &["2026-11-create-orders", "done"]).await;
    window.open(&format!("{}/store", node.url)).await;
    says(&window, &["answers", "sqlite"]).await;
    assert_eq!(window.errors().await, Vec::<String>::new());
    window.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_screen_comes_up_to_date_by_itself_and_output_is_followed() {
    let (scene, node) = Scene::of_everything().await;
    let browser = Browser::start().await;
    let window = browser.window(Look::WIDE).await;
    let run = scene.run_of("backup");
    window.open(&format!("{}/runs/{run}", node.url)).await;
    window.until_it_says("#output", "copied 1 of 400").await;
    // What a person opened and focused stays, while the screen changes around it.
    let other = browser.window(Look::WIDE).await;
    other.open(&node.url).await;
    other.until_it_says("#open", "running").await;
    other.script("document.querySelector('#next a').focus(); window.before = document.activeElement;").await;
    std::fs::write(scene.path("go"), "").unwrap();
    window.until_it_says("#output", "all copied").await;
    window.until_it_says("#head", "succeeded").await;
    other.until_it_says("#open", "No run is open.").await;
    assert_eq!(other.script("return document.activeElement === window.before;").await, true);
    let foot = other.text("#foot").await;
    until("the footer says a later time", async || (other.text("#foot").await != foot).then_some(())).await;
    other.click("#live").await;
    assert_eq!(other.text("#live").await, "Updates are paused");
    assert_eq!((window.errors().await, other.errors().await), (Vec::new(), Vec::new()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_of_it_can_be_read_without_script_and_within_320_pixels() {
    let (scene, node) = Scene::of_everything().await;
    let browser = Browser::start().await;
    let plain = browser.window(Look { has_script: false, ..Look::WIDE }).await;
    plain.open(&node.url).await;
    plain.until_it_says("main", "Firing").await;
    plain.click("header nav a:nth-child(2)").await;
    plain.until_it_says("main", "invoice-export").await;
    plain.click("#list td a").await;
    plain.until_it_says("main", "Definition").await;
    let failed = scene.run_of("invoice-export");
    plain.open(&format!("{}/runs/{failed}", node.url)).await;
    plain.until_it_says("#output", "permission denied").await;
    plain.close().await;

    let narrow = browser.window(Look::NARROW).await;
    let paths = SCREENS.map(str::to_owned).into_iter();
    let more = ["/jobs/invoice-export", "/login", "/problems/store-away", "/nothing/here"].map(str::to_owned);
    for path in paths.chain(more).chain([format!("/runs/{failed}")]) {
        narrow.open(&format!("{}{path}", node.url)).await;
        narrow.until_it_says("header", "fencron").await;
        let wide = "return [document.documentElement.scrollWidth, innerWidth];";
        assert_eq!(narrow.script(wide).await, serde_json::json!([320, 320]), "{path} is wider than the window");
    }
}

/// A proxy that answers below a prefix what a node answers at its top.
async fn behind_prefix(prefix: &'static str, node: String) -> String {
    use axum::extract::Request;
    use axum::response::IntoResponse as _;
    let client = client();
    let pass = move |request: Request| {
        let (client, node) = (client.clone(), node.clone());
        async move {
            let Some(path) = request.uri().to_string().strip_prefix(prefix).map(str::to_owned) else {
                return (axum::http::StatusCode::NOT_FOUND, "outside of the prefix").into_response();
            };
            let answer = client.get(format!("{node}{path}")).send().await.unwrap();
            let (status, headers) = (answer.status(), answer.headers().clone());
            (status, headers, answer.bytes().await.unwrap()).into_response()
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(pass)).await });
    format!("http://{address}{prefix}/")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_works_below_a_prefix() {
    let (_scene, node) = Scene::of_everything().await;
    let top = behind_prefix("/tools/cron", node.url.clone()).await;
    let browser = Browser::start().await;
    let window = browser.window(Look::WIDE).await;
    window.open(&top).await;
    for click in ["#failing td.name a", "#runs td.name a", "header nav a:nth-child(2)", "td.l a", "a.brand"] {
        window.until_it_says("header", "shop").await;
        window.click(click).await;
        until("it is loaded", async || {
            let is_styled = "return document.readyState === 'complete' && document.styleSheets.length === 1;";
            (window.script(is_styled).await == true).then_some(())
        })
        .await;
        assert!(window.url().await.starts_with(&top), "{click} leads to {}", window.url().await);
        window.until_it_says("header", "shop").await;
    }
    assert_eq!(window.errors().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_without_an_end_is_cut_while_it_is_followed() {
    let scene = Scene::with(
        r#"
version: 1
namespace: shop
jobs:
  endless:
    schedule: "@at 2099-01-01T00:00:00Z"
    shell: |
      printf first; while [ ! -e more ]; do sleep 0.1; done
      head -c 50000 /dev/zero | tr '\0' x; printf '\nlast\n'; while [ ! -e go ]; do sleep 0.1; done
"#,
    );
    let node = scene.node("a").await;
    node.leads().await;
    scene.run(&["trigger", "endless"]);
    let browser = Browser::start().await;
    let window = browser.window(Look::WIDE).await;
    window.open(&format!("{}/runs/{}", node.url, scene.run_of("endless"))).await;
    window.until_it_says("#output", "first").await;
    std::fs::write(scene.path("more"), "").unwrap();
    window.until_it_says("#output", "last").await;
    let lines =
        "return document.getElementById('output').textContent.split('\\n').map((line) => [line.length, line.at(-1)]);";
    let lines = window.script(lines).await;
    assert_eq!(lines, serde_json::json!([[20_001, "…"], [4, "t"], [0, null]]));
    std::fs::write(scene.path("go"), "").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migrations_that_were_not_begun_stand_behind_the_one_that_keeps_them() {
    let migrations = "migrations: [{id: 2026-01-bad, command: ['false']}, {id: 2026-02-next, command: [echo, x]}]";
    let scene = Scene::with(&format!("version: 1\nnamespace: shop\n{migrations}\njobs: {{}}\n"));
    let node = scene.node("a").await;
    let browser = Browser::start().await;
    let window = browser.window(Look::WIDE).await;
    window.open(&format!("{}/migrations", node.url)).await;
    let text = window.until_it_says("#migrations", "failed").await;
    let (next, bad) = (text.find("2026-02-next pending").unwrap(), text.find("2026-01-bad failed").unwrap());
    assert!(next < bad && text.contains("fencron migrate resolve 2026-01-bad --as done"), "{text}");
    let listed: serde_json::Value = node.get("/api/v1/migrations").await.json().await.unwrap();
    let listed: Vec<_> = listed["items"].as_array().unwrap().iter().map(|item| (&item["id"], &item["state"])).collect();
    assert_eq!(listed, [(&"2026-01-bad".into(), &"failed".into()), (&"2026-02-next".into(), &"pending".into())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_a_node_that_hangs_says_since_when_it_is_not_answered() {
    use nix::sys::signal::Signal::{SIGCONT, SIGSTOP};
    let scene = Scene::with("version: 1\nnamespace: shop\njobs: {}\n");
    let node = scene.node("a").await;
    node.leads().await;
    let browser = Browser::start().await;
    let window = browser.window(Look::WIDE).await;
    window.open(&node.url).await;
    window.until_it_says("#firing", "Firing").await;
    node.signal(SIGSTOP);
    window.until_it_says("#pill", "not known").await;
    window.until_it_says("#lost", "This node has not answered since 2").await;
    assert!(window.text("#firing").await == "Not known" && window.title().await.contains("not known"));
    node.signal(SIGCONT);
    window.until_it_says("#firing", "Firing").await;
    assert_eq!(window.script("return document.getElementById('lost');").await, serde_json::Value::Null);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_with_eight_tabs_of_a_run_that_goes_on_is_still_answered() {
    let (scene, node) = Scene::of_everything().await;
    let run = format!("{}/runs/{}", node.url, scene.run_of("backup"));
    let browser = Browser::start().await;
    let window = browser.window(Look::WIDE).await;
    window.open(&run).await;
    window.until_it_says("main h1", "backup@").await;
    // A browser has six connections for one node: a stream in each tab would leave none.
    for _ in 0..7 {
        window.open_tab(&run).await;
        window.until_it_says("main h1", "backup@").await;
        window.until_it_says("main", "copied 1 of 400").await;
    }
    window.open(&format!("{}/jobs", node.url)).await;
    window.until_it_says("main", "charge-cards").await;
    assert_eq!(window.errors().await, Vec::<String>::new());
}
