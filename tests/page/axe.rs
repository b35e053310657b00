//! Whether everybody can use the page, as axe-core judges it.

use std::path::Path;

use crate::scene::Scene;
use crate::screens::SCREENS;
use crate::support::browser::{Browser, Look};

/// What `tests/run` has fetched.
const AXE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/axe-4.14.1.min.js");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_on_any_screen_keeps_people_from_using_it() {
    assert!(Path::new(AXE).exists(), "{AXE} is not there: `tests/run` fetches it");
    let axe = std::fs::read_to_string(AXE).unwrap();
    let (scene, node) = Scene::of_everything().await;
    let browser = Browser::start().await;
    let run = format!("/runs/{}", scene.run_of("invoice-export"));
    let more = ["/jobs/invoice-export", "/week?day=2026-11-29", "/login", "/problems/store-away", "/nothing"];
    let more: Vec<String> = more.map(str::to_owned).into_iter().chain([run]).collect();
    for is_dark in [false, true] {
        let window = browser.window(Look { is_dark, ..Look::WIDE }).await;
        for path in SCREENS.map(str::to_owned).iter().chain(&more) {
            window.open(&format!("{}{path}", node.url)).await;
            window.until_it_says("header", "fencron").await;
            window.script("document.getElementById('me')?.setAttribute('open', '');").await;
            window.script(&format!("{axe}; window.axe = axe;")).await;
            let judged = "const found = await axe.run(document, {resultTypes: ['violations']}); \
                          return found.violations.filter((one) => one.impact === 'serious' || one.impact === 'critical') \
                          .map((one) => one.id + ': ' + one.nodes.slice(0, 3).map((node) => node.html).join(' | '));";
            let found = window.script(&format!("return (async () => {{ {judged} }})();")).await;
            assert_eq!(found, serde_json::json!([]), "{path}, dark: {is_dark}");
        }
        window.close().await;
    }
}
