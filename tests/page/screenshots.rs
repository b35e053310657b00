//! Pictures of every screen, light and dark, wide and narrow, for people to look at:
//!
//! ```console
//! $ FENCRON_SCREENSHOTS=target/screens cargo test --test page screenshots -- --ignored
//! ```

use std::path::PathBuf;

use crate::scene::Scene;
use crate::screens::SCREENS;
use crate::support::browser::{Browser, Look};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "makes pictures for people to look at"]
async fn screenshots() {
    let directory = PathBuf::from(std::env::var("FENCRON_SCREENSHOTS").expect("FENCRON_SCREENSHOTS names a directory"));
    std::fs::create_dir_all(&directory).unwrap();
    let (scene, node) = Scene::of_everything().await;
    for _ in 0..12 {
        scene.run(&["trigger", "tick", "--wait", "--timeout", "60s"]);
    }
    scene.run(&["trigger", "invoice-export", "--wait", "--timeout", "60s"]);
    let _second = scene.node("b").await;
    let browser = Browser::start().await;
    let mut paths: Vec<(String, String)> = SCREENS.iter().map(|path| (name_of(path), (*path).to_owned())).collect();
    paths.push(("job".to_owned(), "/jobs/tick".to_owned()));
    paths.push(("job-next".to_owned(), "/jobs/nightly-report".to_owned()));
    paths.push(("run-failed".to_owned(), format!("/runs/{}", scene.run_of("invoice-export"))));
    paths.push(("run-live".to_owned(), format!("/runs/{}", scene.run_of("backup"))));
    paths.push(("week-day".to_owned(), "/week?day=2027-03-28".to_owned()));
    paths.push(("login".to_owned(), "/login?next=%2Fjobs".to_owned()));
    paths.push(("problem".to_owned(), "/nothing/here".to_owned()));
    paths.push(("menu".to_owned(), "/locks".to_owned()));
    for (look, kind) in [
        (Look::WIDE, "wide"),
        (Look { is_dark: true, ..Look::WIDE }, "wide-dark"),
        (Look::NARROW, "narrow"),
        (Look { is_dark: true, ..Look::NARROW }, "narrow-dark"),
    ] {
        let window = browser.window(look).await;
        for (name, path) in &paths {
            window.open(&format!("{}{path}", node.url)).await;
            window.until_it_says("header", "fencron").await;
            if name == "menu" {
                window.click("#me summary").await;
            }
            let picture = bytes_of(&window.picture().await);
            std::fs::write(directory.join(format!("{name}-{kind}.png")), picture).unwrap();
        }
        window.close().await;
    }
}

fn name_of(path: &str) -> String {
    if path == "/" { "now".to_owned() } else { path.trim_start_matches('/').to_owned() }
}

/// The bytes that a text in Base64 stands for.
fn bytes_of(text: &str) -> Vec<u8> {
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let (mut bits, mut count, mut bytes) = (0_u32, 0, Vec::new());
    for byte in text.bytes().take_while(|byte| *byte != b'=') {
        bits = bits << 6 | u32::from(value(byte));
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    bytes
}
