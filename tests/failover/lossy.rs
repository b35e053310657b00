//! A standby that is not synchronous takes over, and lacks what was answered last.

use fencron::store::{Keys, Revision, Store, Watched};

use crate::pair::{Pair, adopt, claim, client, is_there, put, refused_until_adopted};
use crate::support::{soon, until};

const LOST: u64 = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answered_commits_that_are_lost_are_said_and_no_revision_is_given_twice() {
    let pair = Pair::start().await;
    let store = pair.open().await;
    // The longest TTL that an adoption waits for.
    store.grant(crate::pair::TTL).await.unwrap();
    let kept = put(&store, "kept").await;
    let pair = pair.in_step().await.stop_the_standby().await;
    let mut watch = store.watch(Keys::prefix("lost/"), kept.next()).await.unwrap();
    let mut last = kept;
    for n in 0..LOST {
        last = put(&store, &format!("lost/{n}")).await;
    }
    let mut reported = Revision(0);
    while reported < last {
        match soon("what is lost later", watch.next()).await {
            Some(Watched::Changes(changes)) => reported = changes.last().unwrap().revision(),
            other => panic!("no changes: {other:?}"),
        }
    }
    let pair = pair.fail_over_to_the_stopped_standby().await;
    refused_until_adopted(&store).await;
    match soon("the end of a watch that saw more", watch.next()).await {
        Some(Watched::Compacted(newest)) => assert_eq!(newest, kept),
        other => panic!("not ended: {other:?}"),
    }
    assert!(is_there(&store, "kept").await && !is_there(&store, "lost/0").await, "they were lost on purpose");
    let (left_at, begins_at) = adopt(&store).await;
    assert_eq!(left_at, kept);
    assert!(begins_at > last, "{begins_at} after {last}");
    assert!(put(&store, "after").await > begins_at);
    // A handle that was not there before is given no earlier one.
    assert!(put(&pair.open().await, "after").await > begins_at);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_that_is_lost_is_over_after_the_adoption_and_who_saw_it_has_all_refuse_the_store_until_a_repair() {
    let pair = Pair::start().await;
    let before = pair.client("before").await.lock("door").acquire().await.unwrap();
    let first = before.fence();
    before.release().await.unwrap();
    let pair = pair.in_step().await.stop_the_standby().await;
    let holder = pair.client("holder").await;
    let lost = holder.lock("door").acquire().await.unwrap();
    assert!(lost.fence() > first);
    let pair = pair.fail_over_to_the_stopped_standby().await;
    let operator = pair.open().await;
    refused_until_adopted(&operator).await;
    adopt(&operator).await;
    // Its lease is not there, and by its TTL it is over at the latest, which the adoption has waited for.
    assert!(lost.is_lost().is_some(), "it was granted by a server whose commits are lost");
    // The holder knows that a grant is missing, as it would be after the restore of a backup.
    let refused = until("a refusal of the store that lacks a grant", || async {
        let answer = holder.lock("window").acquire().await;
        answer.err().filter(fencron::Error::is_refused)
    })
    .await;
    assert!(refused.to_string().contains("fencron fence repair"), "{refused}");
    // And so do all others, who have seen nothing.
    let next = client(&pair.standby_url(), "next").await;
    assert!(next.lock("door").acquire().await.is_err_and(|error| error.is_refused()));
    let repaired = client(&pair.standby_url(), "operator").await;
    repaired.locks().repair(Some(lost.fence())).await.unwrap();
    for client in [&next, &holder] {
        let again = until("a grant after the repair", || async { client.lock("door").try_acquire().await.ok()? }).await;
        assert!(again.fence() > lost.fence(), "{:?} after {:?}", again.fence(), lost.fence());
        again.release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_is_lost_may_be_made_again_and_only_then() {
    let pair = Pair::start().await;
    let store = pair.open().await;
    store.grant(crate::pair::TTL).await.unwrap();
    assert!(store.commit(claim("claims/kept")).await.unwrap().succeeded);
    let pair = pair.in_step().await.stop_the_standby().await;
    assert!(store.commit(claim("claims/lost")).await.unwrap().succeeded);
    let _pair = pair.fail_over_to_the_stopped_standby().await;
    refused_until_adopted(&store).await;
    adopt(&store).await;
    assert!(!store.commit(claim("claims/kept")).await.unwrap().succeeded);
    assert!(store.commit(claim("claims/lost")).await.unwrap().succeeded, "as docs/guarantees.md says");
}
