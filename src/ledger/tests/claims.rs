//! Claims, what is followed of them, and jobs that are made known.

use super::*;
use crate::scheduler::run::Known;
use crate::scheduler::view::Change as LedgerChange;

#[tokio::test]
async fn a_batch_is_claimed_whole_with_its_watermark() {
    let desk = Desk::new().await;
    desk.claimed(&[1, 2, 3]).await;
    for second in [1, 2, 3] {
        assert_eq!(desk.ledger.run(&run(second)).await.unwrap(), Some(RunRow::Open(desk.open(second))));
    }
    let mark = desk.ledger.watermark().await.unwrap().unwrap();
    assert_eq!((mark.instant, mark.job), (at(3), Some(job())));
}

#[tokio::test]
async fn a_batch_as_large_as_they_get_is_claimed_in_a_file_too() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path().join("state.db"), Clock::system()).await.unwrap();
    let desk = Desk::over(store).await;
    let seconds: Vec<u64> = (1..=crate::scheduler::BATCH as u64).collect();
    let version = desk.claimed(&seconds).await;
    let ends = seconds.iter().map(|second| desk.ends(*second, version, Verdict::Succeeded));
    let mut waiting: VecDeque<Transition> = ends.collect();
    while !waiting.is_empty() {
        let together = Ledger::<SqliteStore>::next_transitions(&mut waiting, |_| false);
        let answers = desk.ledger.transition(None, together, &mut LastRuns::default()).await.unwrap().answers;
        assert!(answers.iter().all(|(_, answer)| matches!(answer, Transitioned::Applied { .. })));
    }
    let find = Find { done: true, limit: 1000, ..Find::default() };
    assert_eq!(desk.ledger.runs(&find, |_| true).await.unwrap().len(), seconds.len());
}

#[tokio::test]
async fn a_leader_that_was_replaced_claims_nothing() {
    let mut desk = Desk::new().await;
    let (mut claims, batch) = (desk.claims(), desk.batch(1, &[1]));
    desk.replaced().await;
    assert_eq!(desk.ledger.claim(&mut claims, &batch).await.unwrap(), Claim::Fenced);
    assert_eq!(desk.ledger.run(&run(1)).await.unwrap(), None);
}

#[tokio::test]
async fn nothing_is_claimed_where_the_watermark_was_moved() {
    let desk = Desk::new().await;
    let mut twin = desk.claims();
    desk.claimed(&[1]).await;
    let again = Batch { number: 2, ..desk.batch(2, &[1]) };
    assert_eq!(desk.ledger.claim(&mut twin, &again).await.unwrap(), Claim::Fenced);
}

#[tokio::test(start_paused = true)]
async fn a_claim_whose_answer_is_lost_is_made_once() {
    for faults in [vec![Fault::AnswerLost], vec![Fault::Lost], vec![Fault::Lost, Fault::AnswerLost, Fault::Lost]] {
        let desk = Desk::new().await;
        let mut claims = desk.claims();
        desk.meets(faults.clone());
        let first = desk.ledger.claim(&mut claims, &desk.batch(1, &[1])).await.unwrap();
        let Claim::Made { version } = first else { panic!("{faults:?}: {first:?}") };
        let entry = desk.ledger.store.range(Range::of(Keys::one(desk.ledger.keys.open(&run(1))))).await.unwrap();
        assert_eq!(entry.entries[0].modified.0, version, "{faults:?}");
        let next = desk.ledger.claim(&mut claims, &desk.batch(2, &[2])).await.unwrap();
        assert!(matches!(next, Claim::Made { .. }), "the next claim goes on from there");
    }
}

#[tokio::test]
async fn a_batch_that_the_store_refuses_is_to_be_made_smaller() {
    let desk = Desk::new().await;
    desk.meets([Fault::Refused]);
    let answer = desk.ledger.claim(&mut desk.claims(), &desk.batch(1, &[1, 2])).await.unwrap();
    assert_eq!(answer, Claim::TooLarge);
    desk.meets([Fault::Refused]);
    assert!(desk.ledger.claim(&mut desk.claims(), &desk.batch(1, &[1])).await.is_err(), "one cannot be made smaller");
}

#[tokio::test]
async fn jobs_are_made_known_and_forgotten_by_the_leader_alone() {
    let mut desk = Desk::new().await;
    let names: Vec<JobName> = (0..250).map(|number| JobName::new(&format!("j{number:03}")).unwrap()).collect();
    let known = Known { fingerprint: "rule".into(), since: at(1) };
    let all: Vec<_> = names.iter().map(|name| (name.clone(), known.clone())).collect();
    assert!(desk.ledger.register(&desk.hold, &all, &[]).await.unwrap());
    assert!(desk.ledger.register(&desk.hold, &[], &names[..50]).await.unwrap());
    assert_eq!(desk.ledger.known_jobs().await.unwrap(), all[50..]);
    let old = desk.hold.clone();
    desk.replaced().await;
    assert!(!desk.ledger.register(&old, &[], &names).await.unwrap());
    assert_eq!(desk.ledger.known_jobs().await.unwrap().len(), 200);
}

/// What is followed until `revision` has been told.
async fn told<S: Store>(follow: &mut Follow<S>, revision: u64) -> Vec<Followed> {
    let mut all = Vec::new();
    while follow.position().0 < revision {
        match follow.next().await.unwrap() {
            News::Changed(told, _) | News::Reread(told, _) => all.extend(told),
        }
    }
    all
}

#[tokio::test]
async fn the_first_news_are_everything_and_the_next_are_changes() {
    let desk = Desk::new().await;
    let version = desk.claimed(&[1]).await;
    let mut follow = desk.ledger.follow().await.unwrap();
    let News::Reread(all, _) = follow.next().await.unwrap() else { panic!("it is read first") };
    let run_is_told = Followed::Ledger(LedgerChange::Open(run(1), Some(desk.open(1))), version);
    assert!(all.contains(&run_is_told), "{all:?}");
    let answers = desk
        .ledger
        .transition(None, vec![desk.ends(1, version, Verdict::Succeeded)], &mut LastRuns::default())
        .await
        .unwrap()
        .answers;
    let Transitioned::Applied { version } = answers[0].1 else { panic!("{answers:?}") };
    let all = told(&mut follow, version).await;
    assert!(all.contains(&Followed::Ledger(LedgerChange::Open(run(1), None), version)), "{all:?}");
}

#[tokio::test]
async fn a_follower_that_lost_its_place_reads_everything_again() {
    let desk = Desk::new().await;
    let mut follow = desk.ledger.follow().await.unwrap();
    follow.next().await.unwrap();
    let mut claims = desk.claims();
    let mut version = 0;
    // More than the watch keeps for a reader that does not read, and then they are gone.
    for number in 1..=2 * Watch::BUFFER as u64 {
        let claim = desk.ledger.claim(&mut claims, &desk.batch(number, &[number])).await.unwrap();
        let Claim::Made { version: made } = claim else { panic!("{claim:?}") };
        version = made;
    }
    desk.ledger.store.inner.compact(Revision(version));
    let mut opens = std::collections::BTreeSet::new();
    let mut reread = false;
    while follow.position().0 < version {
        let (told, all) = match follow.next().await.unwrap() {
            News::Changed(told, _) => (told, false),
            News::Reread(told, _) => (told, true),
        };
        if all {
            opens.clear();
        }
        reread |= all;
        opens.extend(told.into_iter().filter_map(|told| match told {
            Followed::Ledger(LedgerChange::Open(run, Some(_)), _) => Some(run),
            _ => None,
        }));
    }
    assert_eq!(opens.len(), 2 * Watch::BUFFER);
    assert!(reread, "the watch was compacted away");
}

#[tokio::test]
async fn a_session_whose_record_a_newer_version_wrote_is_alive() {
    let desk = Desk::new().await;
    let lease = desk.session.lease().0.get();
    let mut follow = desk.ledger.follow().await.unwrap();
    let News::Reread(all, _) = follow.next().await.unwrap() else { panic!("it is read first") };
    let is_it =
        |told: &Followed| matches!(told, Followed::Node { lease: of, alive: true, record: None, .. } if *of == lease);
    assert!(all.iter().any(is_it), "{all:?}");
}

#[tokio::test]
async fn a_record_of_a_newer_version_is_passed_over_and_not_overwritten() {
    let desk = Desk::new().await;
    let newer = br#"{"v":99,"r":{"instant":"2027-01-01T00:00:00Z","batch":"x"}}"#;
    let put = Op::put(desk.ledger.keys.watermark(), newer.to_vec());
    desk.ledger.store.inner.commit(Txn::new().then(put)).await.unwrap();
    let claim = desk.ledger.claim(&mut desk.claims(), &desk.batch(1, &[1])).await.unwrap();
    assert_eq!(claim, Claim::Fenced, "how far a newer version has decided cannot be read");
}
