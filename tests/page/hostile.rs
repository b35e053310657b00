//! Names, reasons and output that would be markup, or would hide or turn what stands beside them.

use crate::scene::Scene;
use crate::support::browser::{Browser, Look};

/// A job whose description is markup, that writes markup, sequences, marks of direction and bytes that are no text, and one
/// line of 30 MB.
const JOBS: &str = r#"
version: 1
namespace: shop
jobs:
  hostile:
    description: "<img src=x onerror=alert(1)> \u202eevil\u202c </td></table>"
    schedule: "@at 2099-01-01T00:00:00Z"
    shell: |
      printf '<script>document.title = "taken"</script>\n\033]0;taken\007\033[31mred\033[0m\342\200\256turned\n\377\376\n'
      exit 3
  long:
    schedule: "@at 2099-01-01T00:00:00Z"
    shell: "head -c 30000000 /dev/zero | tr '\\0' x; echo; echo '<b>end</b>'"
  refused:
    schedule: "@at 2099-01-01T00:00:00Z"
    command: ["/<script>alert(1)</script>"]
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_write_is_text_and_stays_in_its_place() {
    let scene = Scene::with(JOBS);
    let node = scene.node("a").await;
    node.leads().await;
    for job in ["hostile", "long", "refused"] {
        scene.run(&["trigger", job, "--wait", "--timeout", "60s"]);
    }
    scene.run(&["lock", "<script>alert(2)</script>", "--", "true"]);
    let browser = Browser::start().await;
    let window = browser.window(Look::NARROW).await;
    let runs = ["hostile", "long", "refused"].map(|job| format!("/runs/{}", scene.run_of(job)));
    for path in
        ["/", "/jobs", "/trouble", "/locks", "/jobs/hostile", "/jobs/refused"].map(str::to_owned).iter().chain(&runs)
    {
        window.open(&format!("{}{path}", node.url)).await;
        window.until_it_says("header", "shop").await;
        let shape = "return [document.querySelectorAll('script').length, document.querySelectorAll('main img').length, \
                     document.documentElement.scrollWidth];";
        assert_eq!(window.script(shape).await, serde_json::json!([1, 0, 320]), "{path}");
        assert!(!window.title().await.contains("taken"), "{path}");
    }
    window.open(&format!("{}{}", node.url, runs[0])).await;
    let output = window.until_it_says("#output", "<script>document.title").await;
    assert!(output.contains("red\u{fffd}turned\n\u{fffd}\u{fffd}"), "{output:?}");
    window.open(&format!("{}/jobs", node.url)).await;
    window.until_it_says("#list", "<img src=x onerror=alert(1)> \u{fffd}evil\u{fffd}").await;
    window.open(&format!("{}{}", node.url, runs[1])).await;
    window.until_it_says("#output", "<b>end</b>").await;
    assert_eq!(window.errors().await, Vec::<String>::new());
}
