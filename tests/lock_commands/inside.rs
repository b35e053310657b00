//! Locks that are used inside have names of their own, which no user's name is.

use serde_json::json;

use crate::scene::Scene;
use crate::support::over_both;
use crate::support::program::FENCRON;

const JOBS: &str = "version: 1\nnamespace: shop\njobs: {}\n\
                    migrations: [{id: m, shell: 'echo $FENCRON_SCOPE $FENCRON_FENCE >> made'}]\n";

async fn a_lock_by_which_something_is_done_once_is_not_waited_for_under_a_lock_of_its_name(scene: Scene) {
    scene.write("jobs.yaml", JOBS);
    scene.run(&["lock", "migrations", "--", FENCRON, "migrate", "--wait", "20s"]).ends(0, &[]);
    let made = scene.lines("made");
    assert!(made.len() == 1 && made[0].starts_with("shop/migrations "), "{made:?}");
    for name in ["seed", "once.seed", "once/seed", "~once.seed"] {
        let args =
            ["lock", name, "--", FENCRON, "once", name, "--wait", "20s", "--", "sh", "-c", "echo $FENCRON_SCOPE"];
        let ran = scene.run(&args);
        ran.ends(0, &[]);
        assert_eq!(ran.stdout, format!("shop/once/{name}\n"));
    }
}

async fn what_is_used_inside_is_listed_as_what_it_is_and_can_be_taken_away(scene: Scene) {
    let locks = |of: &str| {
        let ran = scene.run(&["locks", of, "-o", "json"]);
        ran.ends(0, &[]);
        let all: Vec<serde_json::Value> = serde_json::from_str(&ran.stdout).unwrap();
        all.into_iter().map(|lock| (lock["name"].clone(), lock["kind"].clone())).collect::<Vec<_>>()
    };
    let args = ["lock", "seed", "--", FENCRON, "once", "seed", "--", "sh", "-c", "echo x > begun; exec sleep 300"];
    let holder = scene.start(&args);
    scene.wait_for_lines("begun", 1).await;
    let mut both = locks("se");
    both.sort_by_key(|(_, kind)| kind.to_string());
    assert_eq!(both, [(json!("seed"), json!("lock")), (json!("seed"), json!("once"))]);
    assert_eq!(locks("").len(), 2);
    scene.run(&["unlock", "--force", "seed", "--kind", "once"]).ends(0, &["seed was revoked"]);
    holder.end().await.ends(1, &["its lock was lost"]);
    assert_eq!(locks(""), []);
}

over_both!(
    a_lock_by_which_something_is_done_once_is_not_waited_for_under_a_lock_of_its_name,
    what_is_used_inside_is_listed_as_what_it_is_and_can_be_taken_away,
);
