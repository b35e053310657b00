//! Migrations that are commands: done once, or `unknown`, and never twice in silence.

use crate::scene::{MANY, Ran, Scene};
use crate::snare::{Catch, Snare};
use crate::support::{over_both, until};

/// A migration that waits before and after its effect for as long as a file is there.
fn jobs(setting: &str) -> String {
    let shell = "echo begun >> begun; while [ -e before ]; do sleep 0.02; done; echo $FENCRON_RUN_ID >> effects; \
                 while [ -e after ]; do sleep 0.02; done; echo made";
    format!("version: 1\nmigrations:\n  - id: first\n    shell: \"{shell}\"\n{setting}")
}

const PLAIN: &str = "";
const IDEMPOTENT: &str = "    idempotent: true\n";
const VERIFIED: &str = "    verify: {shell: \"test -s effects\"}\n";

/// How it must end where the one that was at it is gone.
struct Expected {
    exit: i32,
    state: &'static str,
    effects: std::ops::RangeInclusive<usize>,
}

const DONE: Expected = Expected { exit: 0, state: "done", effects: 1..=1 };

fn in_doubt(setting: &str, effects: usize) -> Expected {
    match setting {
        PLAIN => Expected { exit: 6, state: "unknown", effects: effects..=effects },
        // Made again: that it may be there twice is what `idempotent: true` says.
        IDEMPOTENT => Expected { exit: 0, state: "done", effects: 1 + effects..=1 + effects },
        _ => DONE,
    }
}

fn assert_all(scene: &Scene, ran: &[Ran], expected: &Expected) {
    assert!(!ran.is_empty());
    for ran in ran {
        ran.ends(expected.exit, &[]);
    }
    assert_eq!(scene.state("first"), expected.state);
    let effects = scene.lines("effects");
    assert!(expected.effects.contains(&effects.len()), "{effects:?}");
    assert!(effects.iter().all(|line| line == "migration/first"), "{effects:?}");
}

/// Those who come while the first is at it, and stay when it is killed.
fn others(scene: &Scene) -> Vec<crate::scene::Process> {
    (1..MANY).map(|number| scene.start(&format!("n{number}"), &["migrate"])).collect()
}

fn end(all: Vec<crate::scene::Process>) -> Vec<Ran> {
    all.into_iter().map(crate::scene::Process::end).collect()
}

async fn fifty_at_once_make_each_migration_once(scene: Scene) {
    let second = "  - {id: second, shell: \"echo two; echo 2 >> effects2\"}\n";
    let third = "  - {id: third, command: [sh, -c, \"echo 3 >> effects2\"]}\n";
    let more = format!("{second}{third}");
    scene.write("jobs.yaml", &jobs(&more));
    let ran = scene.many(&["migrate"]);
    assert_all(&scene, &ran, &DONE);
    assert_eq!(scene.lines("effects2"), ["2", "3"], "in their order, each once");
    // Who made it is one of them, and who waited was shown what it wrote.
    let waited = ran.iter().filter(|ran| ran.stderr().contains("migration first: done, made by")).count();
    let shown = ran.iter().filter(|ran| ran.stderr().contains("made\n") && ran.stderr().contains("two\n")).count();
    assert_eq!(ran.iter().filter(|ran| ran.stderr().contains("migration first begins")).count(), 1);
    assert!(shown > waited, "{shown} were shown the output, {waited} waited");
}

async fn fifty_end_with_the_failure_of_the_one_that_made_it(scene: Scene) {
    scene.write(
        "jobs.yaml",
        "version: 1\nmigrations:\n  - {id: first, shell: \"echo x >> effects; echo oops; exit 3\"}\n",
    );
    for ran in scene.many(&["migrate"]) {
        ran.ends(1, &["first failed: exit code 3"]);
    }
    assert_eq!(scene.lines("effects"), ["x"]);
    scene.run(&["migrate"]).ends(1, &["first failed: exit code 3"]);
    assert_eq!(scene.lines("effects"), ["x"], "what may have done a part is not made again unasked");
    scene.run(&["migrate", "--retry-failed"]).ends(1, &["oops"]);
    assert_eq!(scene.lines("effects"), ["x", "x"]);
}

/// Killed while the command runs, before and after its effect; and when it has ended, and its verdict has not arrived.
async fn killed_in_the_middle(scene: Scene, setting: &'static str, at: &str) {
    scene.write("jobs.yaml", &jobs(setting));
    scene.write(at, "");
    let mut first = scene.start("first", &["migrate"]);
    scene.wait_for_lines(if at == "before" { "begun" } else { "effects" }, 1).await;
    let others = others(&scene);
    first.kill();
    scene.remove(at);
    assert_all(&scene, &end(others), &in_doubt(setting, usize::from(at == "after")));
}

async fn killed_before_the_effect(scene: Scene) {
    killed_in_the_middle(scene, PLAIN, "before").await;
}

async fn killed_after_the_effect(scene: Scene) {
    killed_in_the_middle(scene, PLAIN, "after").await;
}

async fn killed_after_the_effect_of_what_may_be_repeated(scene: Scene) {
    killed_in_the_middle(scene, IDEMPOTENT, "after").await;
}

async fn killed_before_the_effect_of_what_can_be_verified(scene: Scene) {
    killed_in_the_middle(scene, VERIFIED, "before").await;
}

async fn killed_after_the_effect_of_what_can_be_verified(scene: Scene) {
    killed_in_the_middle(scene, VERIFIED, "after").await;
}

over_both!(
    fifty_at_once_make_each_migration_once,
    fifty_end_with_the_failure_of_the_one_that_made_it,
    killed_before_the_effect,
    killed_after_the_effect,
    killed_after_the_effect_of_what_may_be_repeated,
    killed_before_the_effect_of_what_can_be_verified,
    killed_after_the_effect_of_what_can_be_verified,
);

/// Killed at a message: the first one's requests go through a proxy that catches it. Answers how it ended.
async fn killed_at(words: &str, catch: Catch, setting: &'static str) -> (Scene, Vec<Ran>) {
    let scene = Scene::over_etcd().await;
    scene.write("jobs.yaml", &jobs(setting));
    let mut snare = Snare::set(&scene.store_endpoint(), words, catch).await;
    let mut first = scene.start_over(&format!("etcd://{}", snare.endpoint()), "first", &["migrate"]);
    snare.caught().await;
    if catch == Catch::Answers {
        let wanted = if words == CLAIM { "running" } else { "done" };
        until("it is applied", async || (scene.state("first") == wanted).then_some(())).await;
    }
    let others = others(&scene);
    first.kill();
    let ran = end(others);
    (scene, ran)
}

/// As a claim and a verdict are written.
pub const CLAIM: &str = r#""state":"claimed""#;
pub const VERDICT: &str = r#""state":"done""#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_before_the_claim_it_is_made_by_the_next() {
    let (scene, ran) = killed_at(CLAIM, Catch::Request, PLAIN).await;
    assert_all(&scene, &ran, &DONE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_between_the_claim_and_its_answer_nothing_was_begun_and_nobody_knows() {
    let (scene, ran) = killed_at(CLAIM, Catch::Answers, PLAIN).await;
    assert_all(&scene, &ran, &in_doubt(PLAIN, 0));
    // A person finds out that it was not done, and says so.
    scene.run(&["migrate", "resolve", "first", "--as", "retry"]).ends(0, &[]);
    scene.run(&["migrate"]).ends(0, &[]);
    assert_all(&scene, &[scene.run(&["migrate"])], &DONE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_between_the_claim_and_its_answer_it_is_found_not_to_be_done() {
    let (scene, ran) = killed_at(CLAIM, Catch::Answers, VERIFIED).await;
    assert_all(&scene, &ran, &DONE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_before_the_verdict_nobody_knows() {
    let (scene, ran) = killed_at(VERDICT, Catch::Request, PLAIN).await;
    assert_all(&scene, &ran, &in_doubt(PLAIN, 1));
    scene.run(&["migrate", "resolve", "first", "--as", "done"]).ends(0, &[]);
    assert_all(&scene, &[scene.run(&["migrate"])], &DONE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_before_the_verdict_it_is_found_to_be_done() {
    let (scene, ran) = killed_at(VERDICT, Catch::Request, VERIFIED).await;
    assert_all(&scene, &ran, &DONE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_between_the_verdict_and_its_answer_it_is_done() {
    let (scene, ran) = killed_at(VERDICT, Catch::Answers, PLAIN).await;
    assert_all(&scene, &ran, &DONE);
}

/// On a SQLite file: the store is locked while the command ends, so that its verdict cannot be written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_while_the_store_takes_no_verdict_nobody_knows() {
    let scene = Scene::over_sqlite();
    scene.write("jobs.yaml", &jobs(PLAIN));
    scene.write("after", "");
    let mut first = scene.start("first", &["migrate"]);
    scene.wait_for_lines("effects", 1).await;
    let store = rusqlite::Connection::open(scene.path("store.db")).unwrap();
    store.busy_timeout(crate::support::PATIENCE).unwrap();
    store.execute_batch("BEGIN IMMEDIATE").unwrap();
    scene.remove("after");
    // Its command is gone, so that it is at the verdict, or before it.
    first.wait_for_no_children().await;
    first.kill();
    store.execute_batch("ROLLBACK").unwrap();
    assert_all(&scene, &end(others(&scene)), &in_doubt(PLAIN, 1));
}
