//! What those forms keep that ask a guard with a state of its own: the layer, the proxy and `exec`.

use std::time::Duration;

use fencron::fence::Fence;
use fencron::guard::{Digest, Guard, Options, Request, Verdict};
use fencron::time::Clock;

use super::door::{Door, Got, Place, Sent, keyed, under};
use super::exec::{self, ExecDoor};
use super::layer::{self, LayerDoor};
use super::proxy::{self, ProxyDoor};
use crate::support::{soon, until};

pub async fn a_key_is_not_for_another_payload(door: impl Door) {
    let other = Sent { payload: "undo", ..keyed(7, "report@02") };
    door.send(keyed(7, "report@02")).await.done();
    assert_eq!(door.send(other).await, Got::OtherPayload);
    assert_eq!(door.send(Sent { fence: 6, ..other }).await, Got::Stale);
    assert_eq!(door.effects().await.len(), 1);
}

pub async fn a_key_in_flight_is_said_to_be(door: impl Door) {
    let held = keyed(7, "report@02").held();
    let (first, second) = tokio::join!(door.send(held), async {
        door.begun(1).await;
        let second = door.send(held).await;
        door.release();
        second
    });
    assert_eq!(second, Got::InFlight);
    assert_eq!(door.send(held).await, Got::Replayed(first.done()));
}

pub async fn an_older_fence_is_stale_while_a_newer_one_waits(door: impl Door) {
    let (held, newer) = tokio::join!(door.send(keyed(7, "report@02").held()), async {
        door.begun(1).await;
        let newer = async { door.send(under(8)).await };
        let older = async {
            until("the newer fence", async || (door.send(under(7)).await == Got::Stale).then_some(())).await;
            door.release();
        };
        tokio::join!(newer, older).0
    });
    held.done();
    newer.done();
}

/// For doors that were told not to wait.
pub async fn waiting_for_older_fences_is_bounded(door: impl Door) {
    let (held, newer) = tokio::join!(door.send(keyed(7, "report@02").held()), async {
        door.begun(1).await;
        let newer = soon("an answer", door.send(under(8))).await;
        door.release();
        newer
    });
    held.done();
    assert_eq!(newer, Got::OlderInFlight);
    door.send(under(8)).await.done();
}

async fn impatient_layer(place: Place) -> LayerDoor {
    LayerDoor::with(place, Options { wait: Duration::ZERO, ..Options::default() }, Clock::system()).await
}

const IMPATIENT: &[&str] = &["--wait", "0s"];

macro_rules! suite {
    ($($form:ident: $patient:expr, $impatient:expr;)*) => { $(
        mod $form {
            use super::*;
            suite!(@ $patient, a_key_is_not_for_another_payload);
            suite!(@ $patient, a_key_in_flight_is_said_to_be);
            suite!(@ $patient, an_older_fence_is_stale_while_a_newer_one_waits);
            suite!(@ $impatient, waiting_for_older_fences_is_bounded);
        }
    )* };
    (@ $door:expr, $rule:ident) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $rule() {
            super::$rule($door.await).await;
        }
    };
}

suite! {
    layer_in_memory: LayerDoor::open(Place::memory()), impatient_layer(Place::memory());
    layer_on_sqlite: LayerDoor::open(Place::sqlite()), impatient_layer(Place::sqlite());
    layer_on_postgres: LayerDoor::open(Place::postgres()), impatient_layer(Place::postgres());
    proxy_in_memory: ProxyDoor::open(Place::memory(), &[]), ProxyDoor::open(Place::memory(), IMPATIENT);
    proxy_on_sqlite: ProxyDoor::open(Place::sqlite(), &[]), ProxyDoor::open(Place::sqlite(), IMPATIENT);
    proxy_on_postgres: ProxyDoor::open(Place::postgres(), &[]), ProxyDoor::open(Place::postgres(), IMPATIENT);
    exec_on_sqlite: ExecDoor::open(Place::sqlite(), &[]), ExecDoor::open(Place::sqlite(), IMPATIENT);
    exec_on_postgres: ExecDoor::open(Place::postgres(), &[]), ExecDoor::open(Place::postgres(), IMPATIENT);
}

/// Two guards that share a state are one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_guards_on_one_state_are_one() {
    for place in [Place::sqlite(), Place::postgres()] {
        let mut first = ProxyDoor::open(place, &[]).await;
        let second = proxy::ProxyProcess::start(&first.upstream, &first.place.url, &[]);
        let held = keyed(7, "report@02").held();
        let sending = tokio::spawn(first.process.post("/orders?x=1").headers(layer::headers(held)).body("hold").send());
        first.begun(1).await;
        let _first = std::mem::replace(&mut first.process, second);
        assert_eq!(first.send(held).await, Got::InFlight);
        assert!(tokio::time::timeout(Duration::from_millis(300), first.send(under(8))).await.is_err());
        first.release();
        let answered = soon("the first", sending).await.unwrap().unwrap().text().await.unwrap();
        assert_eq!(first.send(Sent { fence: 9, ..held }).await, Got::Replayed(answered));
        assert_eq!(first.send(under(8)).await, Got::Stale);
    }
}

/// A guard that is killed with a request in flight, and started again.
async fn killed_in_flight(place: Place) {
    let mut door = ProxyDoor::open(place, &[]).await;
    let held = keyed(7, "report@02").held();
    let sending = tokio::spawn(door.process.post("/orders?x=1").headers(layer::headers(held)).body("hold").send());
    door.begun(1).await;
    door.crash(&[]);
    assert!(sending.await.unwrap().is_err(), "the guard that was killed answered");
    door.release();
    until("doubt", async || match door.send(held).await {
        Got::InDoubt => Some(()),
        Got::InFlight => None,
        other => panic!("{other:?}"),
    })
    .await;
    assert_eq!(door.send(under(6)).await, Got::Stale);
    door.send(under(8)).await.done();
    let repeated = Sent { fence: 8, ..held };
    assert_eq!(door.send(repeated).await, Got::InDoubt, "doubt does not pass");
    door.crash(&["--in-doubt", "repeat"]);
    let done = door.send(repeated).await.done();
    assert_eq!(door.send(repeated).await, Got::Replayed(done));
    let begun = door.effects().await.into_iter().filter(|mark| !mark.ends_with("ended"));
    assert_eq!(begun.collect::<Vec<_>>(), [held.mark(), under(8).mark(), repeated.mark()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_guard_had_in_flight_is_in_doubt_on_sqlite() {
    killed_in_flight(Place::sqlite()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_guard_had_in_flight_is_in_doubt_on_postgres() {
    killed_in_flight(Place::postgres()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_outlives_its_guard_stays_in_flight() {
    let mut door = ExecDoor::open(Place::sqlite(), IMPATIENT).await;
    let held = keyed(7, "report@02").held();
    let mut guard = door.spawn(held);
    door.begun(1).await;
    guard.kill().await.unwrap();
    assert_eq!(door.send(held).await, Got::InFlight);
    assert_eq!(door.send(under(8)).await, Got::OlderInFlight);
    door.release();
    until("the orphan's end", async || (door.send(under(8)).await != Got::OlderInFlight).then_some(())).await;
    assert_eq!(door.send(Sent { fence: 8, ..held }).await, Got::InDoubt);
    door.told("--in-doubt=repeat");
    door.send(Sent { fence: 8, ..held }).await.done();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_ended_by_a_signal_is_in_doubt() {
    let door = ExecDoor::open(Place::sqlite(), &[]).await;
    let output = door.run(keyed(7, "report@02"), &["sh", "-c", "kill -9 $$"]).output().await.unwrap();
    assert_eq!(output.status.code(), Some(128 + 9));
    let again = door.run(keyed(7, "report@02"), &["sh", "-c", "kill -9 $$"]).output().await.unwrap();
    assert_eq!(exec::got(&again), Got::InDoubt);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_cannot_be_started_was_not_done() {
    let door = ExecDoor::open(Place::sqlite(), &[]).await;
    for _ in 0..2 {
        let output = door.run(keyed(7, "report@02"), &["./no-such-command"]).output().await.unwrap();
        assert_eq!(output.status.code(), Some(127), "{output:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_command_printed_is_not_lost_where_it_is_read_slowly() {
    use tokio::io::AsyncReadExt as _;
    let door = ExecDoor::open(Place::sqlite(), &[]).await;
    let mut child = door.run(keyed(7, "report@02"), &["seq", "1", "20000"]).spawn().unwrap();
    // Longer than output is waited for that has no end.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut printed = String::new();
    child.stdout.take().unwrap().read_to_string(&mut printed).await.unwrap();
    assert!(child.wait().await.unwrap().success());
    assert_eq!(printed.lines().count(), 20_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_command_printed_is_printed_again_with_its_exit_code() {
    let door = ExecDoor::open(Place::sqlite(), &["--final", "3"]).await;
    let script = "echo out; echo err >&2; exit 3";
    for first in [true, false] {
        let output = door.run(keyed(7, "report@02"), &["sh", "-c", script]).output().await.unwrap();
        assert_eq!(output.status.code(), Some(3));
        assert_eq!(output.stdout, b"out\n");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.starts_with("err\n"), "{stderr}");
        assert_eq!(stderr.contains("it was run before"), !first, "{stderr}");
    }
}

/// Guards of commands come and go all the time: none takes another one for dead that is about to begin.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guards_that_begin_at_once_do_not_bury_each_other() {
    let place = Place::sqlite();
    let all = (0..64).map(|_| {
        let state = place.state();
        tokio::spawn(async move {
            for _ in 0..25 {
                Guard::open(&state, Options::default(), Clock::system()).await.unwrap();
            }
        })
    });
    for guard in all.collect::<Vec<_>>() {
        soon("the guards", guard).await.unwrap();
    }
}

/// Who asked may go while the state is about to let it in: then nothing was let in, and its key is free.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_waits_for_any_more_is_not_in_flight() {
    let place = Place::postgres();
    let guard = Guard::open(&place.state(), Options::default(), Clock::system()).await.unwrap();
    let (client, connection) = tokio_postgres::connect(&place.url, tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let slow = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS \
                $$BEGIN PERFORM pg_sleep(1); RETURN NULL; END$$; \
                CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON fencron_guard_entries \
                DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow()";
    client.batch_execute(slow).await.unwrap();
    let ask = || {
        let digest = Digest::of([&b"it"[..]]);
        guard.ask(Request::new("shop/leader", Fence::new(7).unwrap(), Some("report@02"), digest).unwrap())
    };
    assert!(tokio::time::timeout(Duration::from_millis(500), ask()).await.is_err(), "it is being committed");
    let free = async || matches!(ask().await, Verdict::Admitted(_)).then_some(());
    until("the key is free", free).await;
    drop(client);
    connection.await.unwrap().unwrap();
}
