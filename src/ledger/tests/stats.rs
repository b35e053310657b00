//! What is counted by the hour: once, by whichever leader, over stores that lose requests and answers.

use super::*;
use crate::scheduler::hour::HourCounts;

fn counts(succeeded: u64) -> HourCounts {
    let mut counts = HourCounts::default();
    for nth in 0..succeeded {
        let open = Open { lateness: Some(Duration::from_millis(7)), ..open(nth, OpenState::Claimed, None) };
        counts.ended(&Done::of(&open, Verdict::Succeeded, "", at(nth)));
    }
    counts
}

fn addition(hold: &Hold, number: u64, succeeded: u64) -> Addition {
    Addition { hour: T0, counts: counts(succeeded), name: AdditionName { fence: hold.fence(), number } }
}

impl<S: Store> Desk<S> {
    async fn adds(&self, hold: &Hold, number: u64, succeeded: u64) -> bool {
        self.ledger.add_to_hour(hold, &addition(hold, number, succeeded)).await.unwrap()
    }

    /// How many runs were counted.
    async fn counted(&self) -> u64 {
        let hours = self.ledger.hours(T0, T0).await.unwrap();
        assert!(hours.iter().all(|row| row.counts.ran() == row.counts.late.count()), "{hours:?}");
        hours.iter().map(|row| row.counts.ran()).sum()
    }
}

async fn a_successor_goes_on_from_what_is_there<S: Store>(inner: S) {
    let mut desk = Desk::over(inner).await;
    assert_eq!(desk.counted().await, 0);
    assert!(desk.adds(&desk.hold, 1, 2).await && desk.adds(&desk.hold, 2, 3).await);
    assert_eq!(desk.counted().await, 5);
    assert!(desk.adds(&desk.hold, 2, 3).await, "it is there");
    assert_eq!(desk.counted().await, 5);
    let first = desk.hold.clone();
    desk.replaced().await;
    assert!(!desk.adds(&first, 3, 100).await, "its term is over");
    assert!(desk.adds(&desk.hold, 1, 4).await);
    assert_eq!(desk.counted().await, 9);
    assert!(!desk.adds(&first, 3, 100).await, "its term is still over");
    assert_eq!(desk.counted().await, 9);
}

async fn nothing_is_counted_twice_where_answers_are_lost<S: Store>(inner: S) {
    use Fault::{AnswerLost, Lost};
    let desk = Desk::over(inner).await;
    for (number, faults) in [&[AnswerLost][..], &[Lost], &[Lost, AnswerLost, AnswerLost]].into_iter().enumerate() {
        desk.meets(faults.iter().copied());
        assert!(desk.adds(&desk.hold, number as u64, 2).await);
        assert_eq!(desk.counted().await, 2 * (number as u64 + 1), "{faults:?}");
    }
    // It was added, and the answer to the next try is an error: the next call finds it there.
    desk.meets([AnswerLost, Fault::Refused]);
    desk.ledger.add_to_hour(&desk.hold, &addition(&desk.hold, 7, 2)).await.unwrap_err();
    assert!(desk.adds(&desk.hold, 7, 2).await);
    assert_eq!(desk.counted().await, 8);
}

#[tokio::test(start_paused = true)]
async fn the_counts_of_an_hour_go_on_under_the_next_leader() {
    a_successor_goes_on_from_what_is_there(MemoryStore::new(Clock::system())).await;
}

#[tokio::test(start_paused = true)]
async fn no_count_is_added_twice() {
    nothing_is_counted_twice_where_answers_are_lost(MemoryStore::new(Clock::system())).await;
}

#[tokio::test]
async fn the_counts_of_an_hour_go_on_in_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let open = async |name| SqliteStore::open(&dir.path().join(name), Clock::system()).await.unwrap();
    a_successor_goes_on_from_what_is_there(open("a.db").await).await;
    nothing_is_counted_twice_where_answers_are_lost(open("b.db").await).await;
}

#[tokio::test]
async fn a_successor_adds_to_what_its_predecessor_added_without_an_answer() {
    let mut desk = Desk::new().await;
    let first = desk.hold.clone();
    desk.meets([Fault::AnswerLost]);
    assert!(desk.adds(&first, 1, 5).await);
    desk.replaced().await;
    assert!(desk.adds(&desk.hold, 1, 1).await);
    assert!(!desk.adds(&first, 1, 5).await);
    assert_eq!(desk.counted().await, 6);
}

#[tokio::test]
async fn hours_are_read_from_one_to_another_and_only_so_many_are_kept() {
    const HOUR: Duration = Duration::from_secs(3_600);
    let desk = Desk::new().await;
    for nth in 0..=STATS_KEPT as u32 + 2 {
        let made = Addition { hour: T0.plus(HOUR * nth), ..addition(&desk.hold, u64::from(nth), 1) };
        assert!(desk.ledger.add_to_hour(&desk.hold, &made).await.unwrap());
    }
    let minute = Duration::from_secs(60);
    let some = desk.ledger.hours(T0.plus(HOUR * 5 + minute), T0.plus(HOUR * 7 + minute)).await.unwrap();
    assert_eq!(some.iter().map(|row| row.hour.since(T0) / 3_600).map(|d| d.as_secs()).collect::<Vec<_>>(), [5, 6, 7]);
    assert_eq!(desk.ledger.hours(T0.plus(HOUR), T0).await.unwrap(), []);
    desk.ledger.bound_hours(&desk.hold).await.unwrap();
    let kept = desk.ledger.hours(T0, Wall::MAX).await.unwrap();
    assert_eq!((kept.len(), kept[0].hour), (STATS_KEPT, T0.plus(HOUR * 3)));
}
