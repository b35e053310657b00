//! Servers that are not what they were: an old primary that goes on, a clock that is set, a backup that is restored.

use std::time::Duration;

use fencron::store::{Op, Store, Txn};
use tokio::sync::watch;

use crate::pair::{Pair, adopt, blocking, client, is_there, open, put, refused_until_adopted};
use crate::support::databases::{Kind, Server};
use crate::support::{soon, until};

/// What nothing but synchronous replication prevents, or what fences the old primary off; and what stands in for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_primary_that_goes_on_has_a_holder_of_its_own_under_a_lower_fence() {
    let pair = Pair::start().await;
    let (old_url, new_url) = (pair.database.url.clone(), pair.standby_url());
    let first = client(&old_url, "old").await;
    let of_old = first.lock("door").acquire().await.unwrap();
    let pair = pair.in_step().await.change(|pair| pair.standby.promote()).await;
    let operator = open(&new_url).await;
    refused_until_adopted(&operator).await;
    adopt(&operator).await;
    // A program that has reached both, at first the new one.
    let second = client(&new_url, "new").await;
    let of_new = until("the old holder's lease, of which no beat arrives here, is over", || async {
        second.lock("door").acquire().await.ok()
    })
    .await;
    assert!(of_old.is_lost().is_none(), "two holders: the old primary was not fenced off");
    assert!(of_new.fence() > of_old.fence(), "and every guard turns the old one away");
    // The old primary reaches no further than its own handles: it has not seen what the new one was written since.
    let stale = open(&old_url).await;
    assert!(put(&stale, "stale").await.0 < of_new.fence().get());
    assert!(!is_there(&operator, "stale").await);
    drop(pair);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_clock_that_is_set_forward_ends_no_lease_that_is_kept_alive() {
    let (server, database) = blocking(|| {
        let server = Server::start_with_clock(Kind::Postgres);
        let database = server.database();
        (server, database)
    })
    .await;
    let (holder, other) = (open(&database.url).await, open(&database.url).await);
    let (lease, ttl) = holder.grant(Duration::from_secs(10)).await.unwrap();
    holder.commit(Txn::new().then(Op::put_leased("held", "1", lease))).await.unwrap();
    assert!(is_there(&other, "held").await);
    let (kept, keeper) = (watch::Sender::new(0), holder.clone());
    let mut beats = kept.subscribe();
    let keeping = tokio::spawn(async move {
        let mut due = tokio::time::interval(ttl / 10);
        while !kept.is_closed() {
            due.tick().await;
            keeper.keep_alive(lease).await.unwrap();
            kept.send_modify(|beats| *beats += 1);
        }
    });
    let server = blocking(move || {
        let before: f64 = server.ask(&database.name, "SELECT extract(epoch FROM now())").parse().unwrap();
        server.set_clock("+1h");
        let is_later = format!("SELECT extract(epoch FROM now()) > {before} + 3000");
        server.wait_for(&database.name, &is_later, "t");
        server
    })
    .await;
    let set_at = *beats.borrow();
    soon("the lease goes on", beats.wait_for(|beats| *beats > set_at + 3)).await.unwrap();
    put(&other, "looks").await;
    assert!(is_there(&other, "held").await, "an hour has passed on the server's clock alone");
    drop(beats);
    soon("the last beat", keeping).await.unwrap();
    drop(holder);
    // Unkept, it ends by the clock of who looks.
    until("the end of the lease", || async { (!is_there(&other, "held").await).then_some(()) }).await;
    drop(server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dump_that_is_restored_is_refused_by_who_has_seen_more_until_a_repair() {
    let server = blocking(|| Server::start(Kind::Postgres)).await;
    let database = server.database();
    let program = client(&database.url, "program").await;
    program.lock("door").acquire().await.unwrap().release().await.unwrap();
    let dump = server.dump(&database);
    let lost = program.lock("door").acquire().await.unwrap();
    // In one transaction: the program would make the schema anew.
    server.restore(&database, &format!("DROP SCHEMA fencron CASCADE;\n{dump}"));
    // Same server and timeline: nothing inside shows it, and what was seen outside does.
    let refused = until("a refusal of the restored store", || async {
        program.lock("window").acquire().await.err().filter(fencron::Error::is_refused)
    })
    .await;
    assert!(refused.to_string().contains("fencron fence repair"), "{refused}");
    let operator = client(&database.url, "operator").await;
    soon("the repair", operator.locks().repair(Some(lost.fence()))).await.unwrap();
    let again = until("a grant after the repair", || async { program.lock("window").acquire().await.ok() }).await;
    assert!(again.fence() > lost.fence());
}
