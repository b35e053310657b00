//! Looking at what is held, and taking it away.

use serde_json::json;

use crate::scene::Scene;

const WHILE: &str = "echo x >> begun; while [ -e go ]; do sleep 0.02; done";

#[tokio::test]
async fn permits_are_listed_and_taken_from_one_session() {
    let scene = Scene::over_sqlite();
    scene.write("go", "");
    let hold = |node: &str, take: &str| {
        let options = ["semaphore", "exports", "--permits", "3", "--take", take, "--node", node, "--"];
        scene.start(&[&options[..], &["sh", "-c", WHILE]].concat())
    };
    let first = hold("first", "1");
    scene.wait_for_lines("begun", 1).await;
    let second = hold("second", "2");
    scene.wait_for_lines("begun", 2).await;
    let third = hold("third", "2");
    let listed = scene.wait_for_waiting("exports", 1).await;
    assert_eq!((&listed["kind"], &listed["permits"]), (&json!("semaphore"), &json!(3)));
    let holders = listed["holders"].as_array().unwrap();
    let share = |node: &str| holders.iter().find(|share| share["holder"] == node).unwrap();
    assert_eq!((&share("first")["permits"], &share("second")["permits"]), (&json!(1), &json!(2)));

    scene.run(&["unlock", "--force", "exports"]).ends(2, &["exports is a semaphore", "--session"]);
    let session = share("second")["session"].as_str().unwrap();
    scene.run(&["unlock", "exports", "--session", session]).ends(2, &["--force"]);
    scene.run(&["unlock", "--force", "exports", "--session", session]).ends(0, &["2 permits of exports", "second"]);
    second.end().await.ends(4, &["exports was lost"]);
    scene.wait_for_lines("begun", 3).await;
    std::fs::remove_file(scene.path("go")).unwrap();
    first.end().await.ends(0, &[]);
    third.end().await.ends(0, &[]);
    assert_eq!(scene.run(&["locks"]).stdout, "nothing is held\n");
    assert!(scene.run(&["locks", "--all"]).stdout.contains("none (0 of 3)"));
}

#[tokio::test]
async fn the_leaders_lock_is_shown_and_not_taken() {
    let scene = Scene::over_sqlite();
    scene.write("jobs.yaml", "version: 1\nnamespace: shop\njobs: {}\n");
    let node = scene.start(&["run", "--node", "a"]);
    node.wait_for(" leading ").await;
    let listed = scene.listed("leader").expect("it leads");
    assert_eq!((&listed["kind"], &listed["holder"]), (&json!("leader"), &json!("a")));
    scene.run(&["unlock", "--force", "leader"]).ends(2, &["fencron step-down"]);
    assert_eq!(scene.listed("leader").unwrap()["holder"], "a");
}

#[tokio::test]
async fn only_names_that_begin_so_are_listed() {
    let scene = Scene::over_sqlite();
    scene.write("go", "");
    let names = ["orders/1", "orders/2", "other"];
    let _held: Vec<_> = names.iter().map(|name| scene.start(&["lock", name, "--", "sh", "-c", WHILE])).collect();
    scene.wait_for_lines("begun", names.len()).await;
    let named = |prefix: &str| {
        let ran = scene.run(&["locks", prefix, "-o", "json"]);
        let all: Vec<serde_json::Value> = serde_json::from_str(&ran.stdout).unwrap();
        all.iter().map(|listed| listed["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(named("orders/"), ["orders/1", "orders/2"]);
    assert_eq!(named(""), names);
}
