//! Alerts: put with the verdict, taken and marked by the leader alone.

use std::collections::BTreeMap;

use super::*;
use crate::job::{AlertKind, Notify, Whose, Word as _, words};
use crate::scheduler::outbox::Step;

fn notify() -> Option<Arc<Notify>> {
    let on = words::<AlertKind>().into_iter().filter_map(AlertKind::named).collect();
    let to = vec!["hook".to_owned(), "ops".to_owned()];
    Some(Arc::new(Notify { on, to, after: 1, repeat: Duration::from_secs(3_600), whose: Whose::default() }))
}

impl<S: Store> Desk<S> {
    /// The occurrence at this second ends so, whatever its transaction meets.
    async fn ends_noticed(&self, second: u64, verdict: Verdict, version: Version) {
        let end = Transition { notify: notify(), ..self.ends(second, version, verdict) };
        let changed = self.ledger.transition(None, vec![end], &mut LastRuns::default()).await.unwrap();
        assert!(matches!(changed.answers[0].1, Transitioned::Applied { .. }), "{changed:?}");
    }

    async fn ids(&self, channel: &str) -> Vec<String> {
        let outbox = self.ledger.outbox(channel).await.unwrap().unwrap();
        outbox.waiting.iter().map(crate::scheduler::alert::Alert::id).collect()
    }
}

async fn an_alert_is_there_once_with_its_verdict<S: Store>(inner: S) {
    let desk = Desk::over(inner).await;
    let version = desk.claimed(&[1, 2, 3]).await;
    desk.meets([Fault::AnswerLost]);
    desk.ends_noticed(1, Verdict::Failed, version).await;
    desk.ends_noticed(2, Verdict::Failed, version).await;
    desk.meets([Fault::Lost]);
    desk.ends_noticed(3, Verdict::Succeeded, version).await;
    let expected = [id(1, "failed"), id(3, "recovered")];
    assert_eq!((desk.ids("hook").await, desk.ids("ops").await), (expected.to_vec(), expected.to_vec()));
}

async fn a_leader_that_was_replaced_takes_and_marks_nothing<S: Store>(inner: S) {
    let mut desk = Desk::over(inner).await;
    let version = desk.claimed(&[1]).await;
    desk.ends_noticed(1, Verdict::Failed, version).await;
    let first = desk.hold.clone();
    let mut outbox = desk.ledger.outbox("ops").await.unwrap().unwrap();
    assert_eq!(outbox.advance("ops", at(5)), Next::Changed);
    desk.replaced().await;
    assert!(!desk.ledger.put_outbox(&first, "ops", &outbox).await.unwrap());
    assert_eq!(desk.ids("ops").await.len(), 1);
    assert!(desk.ledger.put_outbox(&desk.hold, "ops", &outbox).await.unwrap());
    // The successor finds the message, and no row of it.
    let mut taken = desk.ledger.outbox("ops").await.unwrap().unwrap();
    assert_eq!((taken.waiting.len(), taken.outgoing.step(&taken.waiting, at(5))), (0, Step::Send));
    assert_eq!(taken.outgoing.sending[0].id, id(1, "failed"));
    assert!(!desk.ledger.put_outbox(&desk.hold, "ops", &outbox).await.unwrap(), "it is not as it was read");
    taken.outgoing.sent();
    assert!(!desk.ledger.put_outbox(&first, "ops", &taken).await.unwrap());
    assert!(desk.ledger.put_outbox(&desk.hold, "ops", &taken).await.unwrap());
    assert_eq!(desk.ledger.alerts_waiting().await.unwrap().channels["ops"].0.sending, []);
    assert_eq!(desk.ids("hook").await.len(), 1, "another channel has its own rows");
}

#[tokio::test]
async fn alerts_are_right_in_memory() {
    an_alert_is_there_once_with_its_verdict(MemoryStore::new(Clock::system())).await;
    a_leader_that_was_replaced_takes_and_marks_nothing(MemoryStore::new(Clock::system())).await;
}

#[tokio::test]
async fn what_cannot_be_read_of_alerts_is_counted_and_nothing_is_written_over() {
    let desk = Desk::new().await;
    let version = desk.claimed(&[1]).await;
    desk.ends_noticed(1, Verdict::Failed, version).await;
    let put = |key: &str, value: &[u8]| {
        let txn = Txn::new().then(Op::put(key, value));
        async { desk.ledger.store.commit(txn).await.unwrap() }
    };
    let rows = desk.ledger.keys.alerts_prefix();
    for nth in 0..3 {
        put(&format!("{rows}ops/0{nth}/damaged"), b"{").await;
    }
    let outbox = desk.ledger.outbox("ops").await.unwrap().unwrap();
    assert_eq!((outbox.waiting.len(), outbox.is_damaged(), outbox.outgoing.counted.given_up), (1, true, 3));
    assert!(desk.ledger.put_outbox(&desk.hold, "ops", &outbox).await.unwrap());
    let outbox = desk.ledger.outbox("ops").await.unwrap().unwrap();
    assert_eq!((outbox.waiting.len(), outbox.is_damaged(), outbox.outgoing.counted.given_up), (1, false, 3));
    let record = format!("{}ops", desk.ledger.keys.channels_prefix());
    put(&record, b"{").await;
    let why = desk.ledger.outbox("ops").await.unwrap_err().to_string();
    assert!(why.contains(&record) && why.contains("damaged"), "{why}");
}

/// The id of the alert of this kind on the run of this second.
fn id(second: u64, kind: &str) -> String {
    format!("{}:{kind}:{}", run(second), at(second + 1))
}

impl Desk<MemoryStore> {
    /// Rows of a channel, of alerts at the seconds of this range.
    async fn rows(&self, channel: &str, seconds: std::ops::Range<usize>) {
        let rows = self.ledger.keys.alerts_prefix();
        for first in seconds.clone().step_by(100) {
            let some = (first..seconds.end.min(first + 100)).map(|second| {
                let at = keys::sortable(at(second as u64));
                Op::put(format!("{rows}{channel}/{at}/x"), b"{}")
            });
            self.ledger.store.commit(some.fold(Txn::new(), Txn::then)).await.unwrap();
        }
    }

    /// How many rows each channel has.
    async fn rows_left(&self) -> BTreeMap<String, usize> {
        let rows = self.ledger.keys.alerts_prefix();
        let (left, _) = self.ledger.store.range_all(Keys::prefix(&rows)).await.unwrap();
        let mut counted = BTreeMap::new();
        for entry in left {
            let channel = entry.key[rows.len()..].split('/').next().unwrap().to_owned();
            *counted.entry(channel).or_default() += 1;
        }
        counted
    }
}

#[tokio::test]
async fn each_channel_has_its_own_bound_of_rows_and_what_goes_of_a_live_one_is_counted() {
    let desk = Desk::new().await;
    desk.rows("a", 0..ALERTS_KEPT + 3).await;
    // The channel that the file has no more is the last by its name, and would be the last to go.
    desk.rows("gone", 0..ALERTS_KEPT + 5).await;
    let lost = desk.ledger.bound_alerts(&desk.hold, &["a".to_owned()].into(), at(0)).await.unwrap();
    let expected = ["a", "gone"].map(|channel| (channel.to_owned(), ALERTS_KEPT));
    assert_eq!((lost, desk.rows_left().await), ([("a".to_owned(), 3)].into(), expected.into()));
}

#[tokio::test]
async fn what_waits_for_a_channel_that_is_gone_goes_after_a_while_and_its_record_too() {
    let desk = Desk::new().await;
    for channel in ["a", "gone"] {
        desk.rows(channel, 0..3).await;
        let mut outbox = desk.ledger.outbox(channel).await.unwrap().unwrap();
        outbox.outgoing.summarize(channel, at(1));
        assert!(desk.ledger.put_outbox(&desk.hold, channel, &outbox).await.unwrap());
        desk.rows(channel, 0..3).await;
    }
    let live = ["a".to_owned()].into();
    let bound = async |now: Wall| {
        assert!(desk.ledger.bound_alerts(&desk.hold, &live, now).await.unwrap().is_empty());
        let channels: Vec<String> = desk.ledger.alerts_waiting().await.unwrap().channels.into_keys().collect();
        (desk.rows_left().await.into_values().collect::<Vec<_>>(), channels.join(" "))
    };
    assert_eq!(bound(at(1).plus(GONE_KEPT)).await, (vec![3, 2], "a gone".to_owned()));
    assert_eq!(bound(at(9).plus(GONE_KEPT)).await, (vec![3], "a".to_owned()));
}

#[tokio::test]
async fn what_is_not_listed_of_alerts_is_not_hidden() {
    let desk = Desk::new().await;
    desk.rows("a", 0..ALERTS_LISTED).await;
    assert!(!desk.ledger.alerts_waiting().await.unwrap().more);
    desk.rows("b", 0..1).await;
    assert!(desk.ledger.alerts_waiting().await.unwrap().more);
}
