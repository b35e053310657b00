//! The rules that every form keeps.

use std::time::Duration;

use futures_util::future::join_all;

use super::door::{Door, Got, Place, Sent, keyed, under};
use super::{exec, layer, proxy, sql};
use crate::support::soon;

/// How long something that must not happen is waited for.
const A_WHILE: Duration = Duration::from_millis(300);

pub async fn a_stale_fence_is_turned_away(door: impl Door) {
    for (fence, stale) in [(5, false), (7, false), (6, true), (7, false), (8, false), (1, true), (7, true)] {
        let got = door.send(under(fence)).await;
        assert_eq!(got == Got::Stale, stale, "{fence}: {got:?}");
    }
    let done: Vec<String> = [5, 7, 7, 8].map(|fence| under(fence).mark()).into();
    assert_eq!(door.effects().await, done);
}

pub async fn a_repeated_key_is_done_once(door: impl Door) {
    let first = door.send(keyed(7, "report@02")).await.done();
    for fence in [7, 7, 9] {
        assert_eq!(door.send(keyed(fence, "report@02")).await, Got::Replayed(first.clone()));
    }
    door.send(keyed(9, "report@03")).await.done();
    assert_eq!(door.effects().await, [keyed(7, "report@02").mark(), keyed(9, "report@03").mark()]);
}

pub async fn a_stale_repetition_is_stale(door: impl Door) {
    door.send(keyed(7, "report@02")).await.done();
    door.send(under(8)).await.done();
    assert_eq!(door.send(keyed(7, "report@02")).await, Got::Stale);
}

pub async fn repetitions_at_once_are_done_once(door: impl Door) {
    let all = join_all((0..8).map(|_| door.send(keyed(7, "report@02")))).await;
    let done = all.iter().filter(|got| matches!(got, Got::Done(_))).count();
    assert_eq!(done, 1, "{all:?}");
    assert!(all.iter().all(|got| matches!(got, Got::Done(_) | Got::Replayed(_) | Got::InFlight)), "{all:?}");
    assert_eq!(door.effects().await.len(), 1);
}

pub async fn effects_never_go_back_to_an_older_fence(door: impl Door) {
    let fences = [4, 9, 2, 7, 1, 8, 3, 6, 5, 10, 4, 9];
    let all = join_all(fences.map(|fence| door.send(under(fence)))).await;
    assert!(all.iter().all(|got| matches!(got, Got::Done(_) | Got::Stale)), "{all:?}");
    assert!(matches!(all[9], Got::Done(_)), "the newest is let in whatever comes before it: {all:?}");
    let effects = door.effects().await;
    let order: Vec<u64> = effects.iter().map(|mark| mark.split(' ').nth(1).unwrap().parse().unwrap()).collect();
    assert!(order.is_sorted(), "{order:?}");
    assert_eq!(order.len(), all.iter().filter(|got| matches!(got, Got::Done(_))).count());
}

pub async fn scopes_have_nothing_to_do_with_each_other(door: impl Door) {
    let other = |fence| Sent { scope: "shop/lock/deploy", ..keyed(fence, "report@02") };
    door.send(keyed(7, "report@02")).await.done();
    door.send(other(3)).await.done();
    assert_eq!(door.send(other(2)).await, Got::Stale);
    assert!(matches!(door.send(keyed(7, "report@02")).await, Got::Replayed(_)));
}

pub async fn what_failed_may_be_repeated(door: impl Door) {
    door.fail(true);
    assert_eq!(door.send(keyed(7, "report@02")).await, Got::Failed);
    door.fail(false);
    door.send(keyed(7, "report@02")).await.done();
    assert_eq!(door.effects().await.len(), 1);
}

pub async fn a_newer_fence_waits_for_what_is_in_flight(door: impl Door) {
    // In SQL the first under a fence locks more than those after it: it is one of the others that is held.
    door.send(under(7)).await.done();
    let old = keyed(7, "report@02").held();
    let (held, newer) = tokio::join!(door.send(old), async {
        door.begun(2).await;
        let mut newer = Box::pin(door.send(under(8)));
        let early = tokio::time::timeout(A_WHILE, &mut newer).await;
        assert!(early.is_err(), "let in while an older one was in flight: {early:?}");
        door.release();
        soon("the newer one", newer).await
    });
    held.done();
    newer.done();
    let effects = door.effects().await;
    let ended = effects.iter().position(|mark| mark.starts_with(&old.mark())).unwrap();
    let begun = effects.iter().position(|mark| *mark == under(8).mark()).unwrap();
    assert!(ended < begun, "{effects:?}");
}

pub async fn a_restart_forgets_nothing(mut door: impl Door) {
    let first = door.send(keyed(7, "report@02")).await.done();
    door.send(Sent { scope: "shop/lock/deploy", ..under(9) }).await.done();
    door.restart().await;
    assert_eq!(door.send(under(6)).await, Got::Stale);
    assert_eq!(door.send(Sent { scope: "shop/lock/deploy", ..under(8) }).await, Got::Stale);
    assert_eq!(door.send(keyed(7, "report@02")).await, Got::Replayed(first));
    door.send(under(8)).await.done();
}

pub async fn what_can_be_no_fence_is_turned_away(door: impl Door) {
    for (fence, done) in [((1 << 53) - 1, false), (7, true), ((1 << 53) - 1, false), (1 << 52, false), (8, true)] {
        match door.send(under(fence)).await {
            Got::Done(_) if done => {}
            Got::Other(why) if !done && why.contains("no fence") => {}
            other => panic!("{fence}: {other:?}"),
        }
    }
    // After a repair fences go on above the milliseconds of the wall clock.
    let repaired = 1_900_000_000_123;
    door.send(under(repaired)).await.done();
    assert_eq!(door.send(under(9)).await, Got::Stale);
    assert_eq!(door.effects().await, [7, 8, repaired].map(|fence| under(fence).mark()));
}

/// One test for each rule and each form.
macro_rules! suite {
    ($($form:ident: $door:expr => $rules:tt;)*) => { $(suite!(@ $form, $door, $rules);)* };
    (@ $form:ident, $door:expr, [$($rule:ident)*]) => {
        mod $form {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $rule() {
                super::$rule($door.await).await;
            })*
        }
    };
    (@ $form:ident, $door:expr, all) => {
        suite!(@ $form, $door, [
            a_stale_fence_is_turned_away a_repeated_key_is_done_once a_stale_repetition_is_stale
            repetitions_at_once_are_done_once effects_never_go_back_to_an_older_fence
            scopes_have_nothing_to_do_with_each_other what_failed_may_be_repeated
            a_newer_fence_waits_for_what_is_in_flight a_restart_forgets_nothing
            what_can_be_no_fence_is_turned_away
        ]);
    };
}

suite! {
    layer_in_memory: layer::LayerDoor::open(Place::memory()) => [
        a_stale_fence_is_turned_away a_repeated_key_is_done_once a_stale_repetition_is_stale
        repetitions_at_once_are_done_once effects_never_go_back_to_an_older_fence
        scopes_have_nothing_to_do_with_each_other what_failed_may_be_repeated
        a_newer_fence_waits_for_what_is_in_flight what_can_be_no_fence_is_turned_away
    ];
    layer_on_sqlite: layer::LayerDoor::open(Place::sqlite()) => all;
    layer_on_postgres: layer::LayerDoor::open(Place::postgres()) => all;
    proxy_on_sqlite: proxy::ProxyDoor::open(Place::sqlite(), &[]) => all;
    proxy_on_postgres: proxy::ProxyDoor::open(Place::postgres(), &[]) => all;
    exec_on_sqlite: exec::ExecDoor::open(Place::sqlite(), &[]) => all;
    exec_on_postgres: exec::ExecDoor::open(Place::postgres(), &[]) => all;
    sql_on_postgres: sql::SqlDoor::postgres("READ COMMITTED") => all;
    sql_on_postgres_repeatable: sql::SqlDoor::postgres("REPEATABLE READ") => all;
    sql_on_postgres_serializable: sql::SqlDoor::postgres("SERIALIZABLE") => all;
    sql_on_mariadb: sql::SqlDoor::mariadb() => all;
    sql_on_sqlite: sql::SqlDoor::sqlite() => all;
}
