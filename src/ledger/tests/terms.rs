//! Terms of leaders, and the list of what ended badly.

use super::*;

impl<S: Store> Desk<S> {
    async fn terms(&self) -> Vec<String> {
        let rows = self.ledger.terms(None, 100).await.unwrap();
        let second = |at: Option<Wall>| at.map_or("-".to_owned(), |at| at.since(T0).as_secs().to_string());
        let row = |row: TermRow| {
            let end = row.end.map_or("goes on", TermEnd::as_str);
            format!(
                "{} {}-{} {end}, claimed {}",
                row.node,
                second(Some(row.from)),
                second(row.to),
                second(row.first_claim)
            )
        };
        rows.into_iter().map(row).collect()
    }

    /// The seconds of the runs on the list, the last recorded first.
    async fn bad(&self) -> Vec<u64> {
        let page = self.ledger.attention(None, 1000).await.unwrap();
        assert_eq!(page.next, None);
        page.runs.iter().map(|bad| bad.run.at().since(T0).as_secs()).collect()
    }

    async fn ends_so(&self, version: Version, ends: &[(u64, Verdict)]) {
        let ends = ends.iter().map(|(second, verdict)| self.ends(*second, version, *verdict)).collect();
        self.ledger.transition(None, ends, &mut LastRuns::default()).await.unwrap();
    }
}

fn term(node: &str, from: u64) -> NewTerm {
    NewTerm { node: node.to_owned(), from: at(from), vacant_since: None, last_signs: Vec::new() }
}

#[tokio::test]
async fn a_lost_leader_led_until_its_successor_learned_that_it_is_gone() {
    let mut desk = Desk::new().await;
    let first = desk.hold.clone();
    desk.ledger.begin_term(&first, &term("a", 10)).await.unwrap();
    desk.replaced().await;
    // Of an earlier process of that name, of another node, and of this leader.
    let signs = [("a", 4), ("b", 29), ("a", 20)].map(|(node, second)| (node.to_owned(), at(second)));
    let next = NewTerm { vacant_since: Some(at(28)), last_signs: signs.into(), ..term("b", 30) };
    desk.ledger.begin_term(&desk.hold, &next).await.unwrap();
    assert_eq!(desk.terms().await, ["b 30-- goes on, claimed -", "a 10-28 lapsed, claimed -"]);
    let row = desk.ledger.terms(None, 10).await.unwrap().pop().unwrap();
    assert_eq!(row.last_sign, Some(at(20)));
}

#[tokio::test]
async fn a_term_has_its_leader_its_first_claim_and_its_end() {
    let mut desk = Desk::new().await;
    let first = desk.hold.clone();
    assert!(desk.ledger.begin_term(&first, &term("a", 1)).await.unwrap());
    desk.ledger.first_claim(first.fence(), at(2)).await.unwrap();
    desk.ledger.first_claim(first.fence(), at(3)).await.unwrap();
    assert_eq!(desk.terms().await, ["a 1-- goes on, claimed 2"]);
    desk.ledger.end_term(first.fence(), at(5), TermEnd::Resigned).await.unwrap();
    desk.replaced().await;
    assert!(!desk.ledger.begin_term(&first, &term("a", 6)).await.unwrap(), "it is over");
    assert!(desk.ledger.begin_term(&desk.hold, &term("b", 7)).await.unwrap());
    assert_eq!(desk.terms().await, ["b 7-- goes on, claimed -", "a 1-5 resigned, claimed 2"]);
    let before = desk.ledger.terms(Some(desk.hold.fence()), 100).await.unwrap();
    assert_eq!(before.iter().map(|row| row.fence).collect::<Vec<_>>(), [first.fence()]);
}

#[tokio::test]
async fn the_successor_closes_a_term_that_recorded_no_end_until_its_leader_does() {
    let mut desk = Desk::new().await;
    let first = desk.hold.clone();
    desk.ledger.begin_term(&first, &term("a", 1)).await.unwrap();
    desk.replaced().await;
    desk.ledger.begin_term(&desk.hold, &term("b", 9)).await.unwrap();
    assert_eq!(desk.terms().await, ["b 9-- goes on, claimed -", "a 1-9 lapsed, claimed -"]);
    desk.ledger.end_term(first.fence(), at(6), TermEnd::Lost).await.unwrap();
    desk.ledger.end_term(first.fence(), at(20), TermEnd::Lapsed).await.unwrap();
    assert_eq!(desk.terms().await, ["b 9-- goes on, claimed -", "a 1-6 lost, claimed -"]);
}

#[tokio::test]
async fn the_term_of_a_leader_that_stood_still_does_not_reach_into_the_next_one() {
    let mut desk = Desk::new().await;
    let first = desk.hold.clone();
    desk.ledger.begin_term(&first, &term("a", 1)).await.unwrap();
    desk.replaced().await;
    let next = NewTerm { vacant_since: Some(at(7)), ..term("b", 9) };
    desk.ledger.begin_term(&desk.hold, &next).await.unwrap();
    // It wakes, and learns that it leads no more.
    desk.ledger.end_term(first.fence(), at(30), TermEnd::Lost).await.unwrap();
    assert_eq!(desk.terms().await, ["b 9-- goes on, claimed -", "a 1-7 lost, claimed -"]);
    // It wakes before its successor has recorded anything.
    let second = desk.hold.clone();
    desk.replaced().await;
    desk.ledger.end_term(second.fence(), at(50), TermEnd::Lost).await.unwrap();
    desk.ledger.begin_term(&desk.hold, &term("c", 40)).await.unwrap();
    let all = ["c 40-- goes on, claimed -", "b 9-40 lost, claimed -", "a 1-7 lost, claimed -"];
    assert_eq!(desk.terms().await, all);
    let last = desk.ledger.last_terms(3).await.unwrap();
    assert_eq!(last.iter().map(|row| row.to).collect::<Vec<_>>(), [None, Some(at(40)), Some(at(7))]);
}

#[tokio::test]
async fn only_so_many_terms_are_kept() {
    let desk = Desk::new().await;
    let term = |fence: u64| desk.ledger.keys.term(Fence::new(fence).unwrap());
    for fences in (1..=TERMS_KEPT as u64 + 3).collect::<Vec<_>>().chunks(100) {
        let record = record::TermRecord::new("a", at(1));
        let value = encode(record);
        let txn = fences.iter().fold(Txn::new(), |txn, fence| txn.then(Op::put(term(*fence), value.clone())));
        desk.ledger.store.inner.commit(txn).await.unwrap();
    }
    desk.ledger.bound_terms(&desk.hold).await.unwrap();
    let kept = desk.ledger.terms(None, usize::MAX).await.unwrap();
    assert_eq!((kept.len(), kept.last().unwrap().fence.get()), (TERMS_KEPT, 4));
}

#[tokio::test]
async fn what_ends_badly_is_on_the_list_with_the_beginning_of_its_reason() {
    let desk = Desk::new().await;
    let version = desk.claimed(&[1, 2, 3, 4, 5]).await;
    desk.ends_so(version, &[(1, Verdict::Succeeded), (2, Verdict::Cancelled), (3, Verdict::TimedOut)]).await;
    desk.ends_so(version, &[(5, Verdict::Unknown)]).await;
    let mut failed = desk.ends(4, version, Verdict::Failed);
    if let To::Done { done, .. } = &mut failed.to {
        done.reason = "ü".repeat(300);
        done.code = Some(Code::ExitCode);
    }
    desk.ledger.transition(None, vec![failed], &mut LastRuns::default()).await.unwrap();
    assert_eq!(desk.bad().await, [4, 5, 3]);
    let page = desk.ledger.attention(None, 1000).await.unwrap();
    let reason = "ü".repeat(100);
    let expected = Attention { run: run(4), at: at(5), verdict: Verdict::Failed, code: Some(Code::ExitCode), reason };
    assert_eq!(page.runs[0], expected);
}

#[tokio::test]
async fn the_list_comes_in_pages_that_lose_and_repeat_nothing() {
    let desk = Desk::new().await;
    let seconds: Vec<u64> = (1..=110).collect();
    let version = desk.claimed(&seconds).await;
    // Some are recorded together.
    for together in seconds.chunks(7) {
        let ends: Vec<(u64, Verdict)> = together.iter().map(|second| (*second, Verdict::Failed)).collect();
        desk.ends_so(version, &ends).await;
    }
    let (mut told, mut before) = (Vec::new(), None);
    loop {
        let page = desk.ledger.attention(before, 10).await.unwrap();
        assert!((1..=16).contains(&page.runs.len()), "{}", page.runs.len());
        told.extend(page.runs.into_iter().map(|bad| bad.run.at().since(T0).as_secs()));
        let Some(next) = page.next else { break };
        before = Some(next);
    }
    assert_eq!(told.len(), 110);
    told.sort_unstable();
    assert_eq!(told, seconds);
}

#[tokio::test]
async fn what_a_person_resolves_leaves_the_list_unless_it_failed() {
    for (resolution, left) in [(Resolution::Succeeded, None), (Resolution::Retry, None), (Resolution::Failed, Some(1))]
    {
        let desk = Desk::new().await;
        let version = desk.claimed(&[1]).await;
        desk.ends_so(version, &[(1, Verdict::Unknown)]).await;
        desk.ledger.resolve(&acting(), &run(1), resolution).await.unwrap();
        assert_eq!(desk.bad().await, Vec::from_iter(left), "{resolution:?}");
    }
    let desk = Desk::new().await;
    desk.claimed(&[1]).await;
    desk.ledger.doubt_open_runs("restored", at(10)).await.unwrap();
    let page = desk.ledger.attention(None, 10).await.unwrap();
    assert_eq!((page.runs[0].verdict, page.runs[0].code), (Verdict::Unknown, Some(Code::Restored)));
}

#[tokio::test]
async fn what_is_pruned_leaves_the_list_and_what_is_old_or_too_much_does_too() {
    let desk = Desk::new().await;
    let version = desk.claimed(&[1, 2, 3]).await;
    desk.ends_so(version, &[(1, Verdict::Failed), (2, Verdict::TimedOut), (3, Verdict::Failed)]).await;
    let bounds = History { keep: 100, age: Duration::from_secs(97) };
    desk.ledger.prune(&desk.hold, &job(), bounds, at(100)).await.unwrap();
    assert_eq!(desk.bad().await.len(), 2, "one of them is too old");
    desk.ledger.bound_attention(&desk.hold, at(4).plus(ATTENTION_AGE)).await.unwrap();
    assert_eq!(desk.bad().await, [3]);

    let many: Vec<usize> = (0..ATTENTION_KEPT + 4).collect();
    for some in many.chunks(100) {
        let put = |txn: Txn, nth: &usize| {
            let done = Done::of(&desk.open(*nth as u64), Verdict::Failed, "", at(10_000 + *nth as u64));
            desk.ledger.put_attention(txn, &done)
        };
        desk.ledger.store.inner.commit(some.iter().fold(Txn::new(), put)).await.unwrap();
    }
    assert_eq!(desk.ledger.bound_attention(&desk.hold, at(20_000)).await.unwrap(), 5);
    let page = desk.ledger.store.range(Range { keys_only: true, ..Range::of(desk.ledger.keys.all_attention()) });
    let first = page.await.unwrap().entries.remove(0).key;
    assert_eq!(desk.ledger.keys.run_of_attention(&first).unwrap().1, run(4));
}

#[tokio::test]
async fn bad_verdicts_are_found_by_the_list_and_those_from_before_it_in_the_history() {
    let desk = Desk::new().await;
    let found = async |verdict, limit| {
        let find = Find { verdict: Some(verdict), done: true, limit, ..Find::default() };
        let rows = desk.ledger.runs(&find, |_| true).await.unwrap();
        rows.iter().map(|row| row.id().at().since(T0).as_secs()).collect::<Vec<_>>()
    };
    desk.ended(1, Verdict::Failed).await;
    assert_eq!(found(Verdict::Failed, 10).await, [1], "nobody has begun the list");
    desk.ledger.begin_term(&desk.hold, &term("a", 1)).await.unwrap();
    let version = desk.claimed(&[2, 3, 4, 5]).await;
    let ends = [(2, Verdict::Failed), (3, Verdict::Succeeded), (4, Verdict::TimedOut), (5, Verdict::Failed)];
    desk.ends_so(version, &ends).await;
    assert_eq!(found(Verdict::Failed, 10).await, [5, 2, 1]);
    assert_eq!(found(Verdict::Failed, 2).await, [5, 2]);
    assert_eq!(found(Verdict::TimedOut, 10).await, [4]);
    assert_eq!(found(Verdict::Unknown, 10).await, Vec::<u64>::new());
    // What is not on the list was not written by a node that keeps it: the history is not read for that.
    desk.ended(9, Verdict::Failed).await;
    assert_eq!(found(Verdict::Failed, 10).await, [5, 2, 1]);
}
