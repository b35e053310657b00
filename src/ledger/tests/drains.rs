//! Nodes that are drained.

use super::*;
use crate::ledger::NodeRecord;

fn record(node: &str) -> NodeRecord {
    NodeRecord {
        node: node.to_owned(),
        version: String::new(),
        config_digest: String::new(),
        config_since: None,
        started_at: at(0),
        address: None,
        clock: at(0),
        stands_back: None,
        hands_over: None,
        drained: false,
        heard: 0,
        troubles: Vec::new(),
    }
}

impl<S: Store> Desk<S> {
    async fn drained(&self) -> Vec<String> {
        self.ledger.drains().await.unwrap().into_iter().map(|(node, _)| node).collect()
    }
}

#[tokio::test]
async fn a_node_that_is_there_is_drained_until_a_person_or_its_end_lets_it_lead() {
    let desk = Desk::new().await;
    let unknown = desk.ledger.drain(&acting(), "n", None).await.unwrap_err();
    assert!(matches!(unknown, AskError::NoSuchNode(_)), "{unknown}");
    desk.session.publish(record("a/b <i>").encode()).await.unwrap();
    let node = "a/b <i>";
    desk.ledger.drain(&acting(), node, None).await.unwrap();
    let again = desk.ledger.drain(&acting(), node, None).await.unwrap_err();
    assert_eq!(again.to_string(), "a/b <i> is drained already");
    // Another end is another drain; it ends by itself only once that has come.
    desk.ledger.drain(&acting(), node, Some(at(20))).await.unwrap();
    desk.ledger.end_drain(&desk.hold, node, at(19)).await.unwrap();
    assert_eq!(desk.drained().await, [node]);
    desk.ledger.end_drain(&desk.hold, node, at(20)).await.unwrap();
    assert_eq!(desk.drained().await, [""; 0]);
    let none = desk.ledger.undrain(&acting(), node).await.unwrap_err();
    assert_eq!(none.to_string(), "a/b <i> is not drained");
    desk.ledger.drain(&acting(), node, None).await.unwrap();
    desk.ledger.undrain(&acting(), node).await.unwrap();
    assert_eq!(desk.drained().await, [""; 0]);
}

#[tokio::test]
async fn drains_of_nodes_that_are_gone_are_kept_for_a_while() {
    let desk = Desk::new().await;
    for (node, second) in [("a", 1), ("b", 2), ("c", 3)] {
        desk.session.publish(record(node).encode()).await.unwrap();
        let acting = Acting::fresh(Asked::new("eve", at(second)));
        desk.ledger.drain(&acting, node, None).await.unwrap();
    }
    // The node c is there.
    for (now, kept) in [(at(2), vec!["a", "b", "c"]), (at(2).plus(AUDIT_AGE), vec!["b", "c"])] {
        desk.ledger.bound_drains(&desk.hold, now).await.unwrap();
        assert_eq!(desk.drained().await, kept);
    }
    desk.ledger.bound_drains(&desk.hold, at(9).plus(AUDIT_AGE)).await.unwrap();
    assert_eq!(desk.drained().await, ["c"]);
}
