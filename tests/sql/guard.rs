//! What the guard lets through, and what it turns away.

use fencron::fence::Fence;
use fencron::job::Outcome;

use crate::scene::{Attempt, attempt, each, failed, servers};

const EFFECT: &str = "INSERT INTO effects VALUES (:fence, :run_id)";
const LATER: &str = "2026-11-22T02:00:00Z";

fn fenced(seen: u64) -> Outcome {
    Outcome::Fenced { seen: Fence::new(seen) }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_occurrence_is_applied_once() {
    for db in each() {
        let name = db.name();
        let pay = || attempt(&db.url(), EFFECT, "");
        assert_eq!(pay().outcome().await, Outcome::Done, "{name}");
        assert_eq!(pay().outcome().await, Outcome::AlreadyApplied, "{name}: by the same leader");
        assert_eq!(pay().fence(8).outcome().await, Outcome::AlreadyApplied, "{name}: by the next one");
        assert_eq!(pay().at(LATER).fence(8).outcome().await, Outcome::Done, "{name}: it is another occurrence");
        assert_eq!(db.effects(), "7,8", "{name}");
        let rows = db.ask("SELECT scope, run_id, fence FROM fencron_done ORDER BY fence");
        let expected = "shop/leader\tpay@2026-11-21T02:00:00Z\t7\nshop/leader\tpay@2026-11-22T02:00:00Z\t8";
        assert_eq!(rows, expected, "{name}");
        assert_eq!(db.ask("SELECT fence FROM fencron_guard"), "8", "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_fence_is_turned_away() {
    for db in each() {
        for (index, more) in [
            "}, guarantee: exactly_once",
            "}, guarantee: at_least_once",
            ", transaction: false}, guarantee: at_most_once",
        ]
        .into_iter()
        .enumerate()
        {
            let pay = |fence| {
                let more = more.trim_end_matches('}');
                let statement = serde_json::to_string(EFFECT).unwrap();
                let (inner, outer) = more.split_once("}, ").unwrap();
                let job = format!("{outer}\n    sql: {{database: '{}', statement: {statement}{inner}}}", db.url());
                crate::scene::attempt_of(&job, &Default::default())
                    .fence(fence)
                    .at(&format!("2026-11-2{index}T00:00:00Z"))
            };
            assert_eq!(pay(9).outcome().await, Outcome::Done, "{}: {more}", db.name());
            assert_eq!(pay(8).at(LATER).outcome().await, fenced(9), "{}: {more}", db.name());
        }
        assert_eq!(db.effects(), "9,9,9", "{}", db.name());
    }
}

/// A leader that stops right after it was told that it may start, and wakes once its successor has acted.
fn zombie(db_url: &str, more: &str, successor: fn(String) -> Attempt) -> Attempt {
    let url = db_url.to_owned();
    let slept = std::sync::atomic::AtomicU32::new(0);
    // Without a transaction, the guard is asked first: the sleep has to come after it.
    let asleep_at = if more.contains("false") { 1 } else { 0 };
    attempt(db_url, EFFECT, more).gate(move || {
        if slept.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == asleep_at {
            let next = successor(url.clone());
            std::thread::scope(|scope| {
                let acting = scope.spawn(|| {
                    tokio::runtime::Runtime::new().unwrap().block_on(async {
                        assert_eq!(next.outcome().await, Outcome::Done, "the successor acts");
                    });
                });
                acting.join().unwrap();
            });
        }
        true
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_wakes_after_its_successor_acted_does_nothing() {
    for db in each() {
        let outcome = zombie(&db.url(), "", |url| attempt(&url, EFFECT, "").fence(8)).outcome().await;
        assert_eq!(outcome, fenced(8), "{}", db.name());
        assert_eq!(db.effects(), "8", "{}", db.name());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_transaction_the_same_leader_acts_after_its_successor() {
    for db in each() {
        let loose = ", transaction: false";
        let outcome =
            zombie(&db.url(), loose, |url| attempt(&url, EFFECT, ", transaction: false").fence(8)).outcome().await;
        assert_eq!(outcome, Outcome::Done, "{}", db.name());
        assert_eq!(db.effects(), "7,8", "{}: both, so that the test above is not empty", db.name());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_leader_waits_for_what_an_older_one_was_let_in_for() {
    for db in servers() {
        let held = db.hold().await;
        let slow = format!("UPDATE locks SET n = n + 1 WHERE id = 1; {EFFECT}");
        let older = attempt(&db.url(), &slow, "").start();
        db.somebody_waits().await;
        let newer = attempt(&db.url(), EFFECT, "").fence(8).at(LATER).start();
        newer.started.await.unwrap();
        held.release().await;
        let (older, newer) = (crate::support::soon("the older ends", older.ended).await, newer.ended.await);
        let both = (older.unwrap(), newer.unwrap());
        // The newer one may have come first: it waits for nobody who was not let in.
        match both.0.outcome {
            Outcome::Done => {
                assert_eq!((db.effects().as_str(), both.1.outcome), ("7,8", Outcome::Done), "{}", db.name())
            }
            other => panic!("{}: {other:?}", db.name()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_who_begin_at_once_in_a_new_database_make_its_tables_once() {
    for db in each() {
        let runs: Vec<_> = (0..6)
            .map(|day| attempt(&db.url(), EFFECT, "").at(&format!("2026-11-2{day}T00:00:00Z")).fence(7).start())
            .collect();
        for run in runs {
            let ended = run.ended().await;
            assert_eq!(ended.outcome, Outcome::Done, "{}: {}", db.name(), ended.output);
        }
        assert_eq!(db.effects(), "7,7,7,7,7,7", "{}", db.name());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_content_under_the_same_name_is_refused() {
    for db in each() {
        let pay = || attempt(&db.url(), EFFECT, "");
        assert_eq!(pay().checksum("aa").outcome().await, Outcome::Done, "{}", db.name());
        assert_eq!(pay().checksum("aa").outcome().await, Outcome::AlreadyApplied, "{}", db.name());
        let outcome = pay().checksum("bb").outcome().await;
        let (why, again) = failed(&outcome);
        assert!(why.contains("aa") && why.contains("bb") && !again, "{}: {why}", db.name());
        assert_eq!(db.effects(), "7", "{}", db.name());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_occurrences_that_nobody_asks_for_any_more_are_deleted() {
    for db in each() {
        assert_eq!(attempt(&db.url(), EFFECT, "").outcome().await, Outcome::Done);
        for (job, day, checksum) in [("pay", "01", "NULL"), ("pay", "02", "'c'"), ("other", "03", "NULL")] {
            db.ask(&format!(
                "INSERT INTO fencron_done (scope, run_id, fence, checksum, applied_at) VALUES \
                 ('shop/leader', '{job}@2020-01-{day}T00:00:00Z', 1, {checksum}, '2020-01-01 00:00:00')"
            ));
        }
        assert_eq!(attempt(&db.url(), EFFECT, "").at(LATER).outcome().await, Outcome::Done);
        let kept = db.ask("SELECT run_id FROM fencron_done WHERE fence = 1 ORDER BY run_id");
        assert_eq!(kept, "other@2020-01-03T00:00:00Z\npay@2020-01-02T00:00:00Z", "{}", db.name());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_done_where_the_guard_never_lets_it_in() {
    for more in ["", ", transaction: false"] {
        let db = crate::scene::sqlite();
        for table in fencron::guard::sql::Dialect::Sqlite.statements().tables {
            db.ask(table);
        }
        db.ask("CREATE TRIGGER never BEFORE INSERT ON fencron_guard BEGIN SELECT RAISE(IGNORE); END");
        let outcome = attempt(&db.url(), EFFECT, more).outcome().await;
        assert!(failed(&outcome).0.contains("before it could be held"), "{outcome:?}");
        assert_eq!(db.effects(), "", "{more}");
    }
}
