//! Commands that come to their effect late.

use super::Stage;
use super::support::program::FENCRON;
use super::support::until;
use std::path::Path;

/// Waits for the word, and then leaves a line: with `guard exec` in front of it, or not.
fn task(directory: &Path, guarded: bool) -> String {
    let (dir, program) = (directory.display(), FENCRON);
    let effect = format!("echo $FENCRON_FENCE >>{dir}/effects");
    let effect = match guarded {
        true => format!("{program} guard exec ledger --state sqlite:{dir}/guard.db -- sh -c '{effect}'"),
        false => effect,
    };
    format!(
        "shell: |\n  touch {dir}/begun.$FENCRON_FENCE\n  while [ ! -e {dir}/go.$FENCRON_FENCE ]; do sleep 0.05; done\n  \
         {effect}; echo $? >{dir}/ended.$FENCRON_FENCE"
    )
}

/// Runs the effect under both fences, the older one last. Answers the fences, and what the directory holds of each.
async fn both(guarded: bool) -> (u64, u64, Vec<u64>, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let stage = Stage::set(&task(path, guarded)).await;
    stage.trigger();
    let there = async |name: String| {
        until(&name, async || path.join(&name).exists().then_some(())).await;
    };
    let (_, first) = super::leader(&stage.new).unwrap();
    there(format!("begun.{first}")).await;
    let (before, after) = stage.stop_old_until_replaced(|| {}).await;
    there(format!("begun.{after}")).await;
    std::fs::write(path.join(format!("go.{after}")), "").unwrap();
    there(format!("ended.{after}")).await;
    // The command of the first node is left to finish, as its job says; it goes on while its node stands still.
    std::fs::write(path.join(format!("go.{before}")), "").unwrap();
    there(format!("ended.{before}")).await;
    let effects = std::fs::read_to_string(path.join("effects")).unwrap();
    let code = until("its exit code", async || {
        let code = std::fs::read_to_string(path.join(format!("ended.{before}"))).unwrap();
        code.ends_with('\n').then_some(code)
    });
    let code = code.await.trim().to_owned();
    (before, after, effects.lines().map(|line| line.parse().unwrap()).collect(), code)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guard_exec_turns_away_the_commands_of_a_replaced_leader() {
    let (_, after, effects, code) = both(true).await;
    assert_eq!((effects, code.as_str()), (vec![after], "4"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_guard_the_commands_of_a_replaced_leader_make_their_effect() {
    let (before, after, effects, code) = both(false).await;
    assert_eq!((effects, code.as_str()), (vec![after, before], "0"));
}
