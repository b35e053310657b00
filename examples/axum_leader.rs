//! Elects a leader among the instances of an axum service: `cargo run --example axum_leader`
//!
//! Every instance serves requests; one of them leads, and `GET /leader` of any answers which. An instance that is asked
//! to stop finishes its requests, then resigns, and another leads at once.
//!
//! The three instances are tasks here, each with a store and a session of its own, and a client asks them; as a service of
//! its own an instance is [`serve`] with `tokio::signal::ctrl_c()` to stop it.

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use fencron::elected::Elected;
use fencron::lock::{LockName, Locks, Namespace, Seen, Timing};
use fencron::store::sqlite::SqliteStore;
use fencron::time::Clock;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// How long what runs is waited for when an instance stops.
const GRACE: Duration = Duration::from_secs(10);

/// One instance of the service, until `told_to_stop`.
async fn serve(
    listener: TcpListener,
    elected: Elected<SqliteStore>,
    told_to_stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let service = Router::new().route("/leader", get(leader)).with_state(elected.clone());
    axum::serve(listener, service).with_graceful_shutdown(told_to_stop).await?;
    // Last, so that no request is served by an instance that has resigned.
    elected.stop(GRACE).await;
    Ok(())
}

/// Who leads, as the store knows it: the same answer from every instance.
async fn leader(State(elected): State<Elected<SqliteStore>>) -> Result<Json<Value>, (StatusCode, String)> {
    let unavailable = |error: fencron::store::StoreError| (StatusCode::SERVICE_UNAVAILABLE, error.to_string());
    let leader = elected.election().observe().await.map_err(unavailable)?.leader;
    Ok(Json(json!(leader.map(|leader| json!({"leader": leader.node, "fence": leader.fence})))))
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let directory = tempfile::tempdir()?;
    let mut instances = Vec::new();
    for name in ["a", "b", "c"] {
        let elected = stand(name, &directory.path().join("state.db")).await?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (address, stop) = (listener.local_addr()?, CancellationToken::new());
        println!("instance {name} serves http://{address}/leader");
        let service = tokio::spawn(serve(listener, elected.clone(), stop.clone().cancelled_owned()));
        if name == "a" {
            // So that the others stand behind it.
            elected.terms().wait_for(Option::is_some).await?;
        }
        instances.push((name, address.to_string(), elected, stop, service));
    }
    // One after the other is asked to stop, each while it leads.
    while !instances.is_empty() {
        for (name, address, ..) in &instances {
            println!("{name} says {}", ask(address).await?);
        }
        let mut leading = None;
        for (place, (_, _, elected, ..)) in instances.iter().enumerate() {
            // A copy of what the instance itself knows: enough to choose which one to stop, and no proof of anything.
            leading = leading.or(elected.terms().borrow().is_some().then_some(place));
        }
        let (name, _, _, stop, service) = instances.remove(leading.ok_or("no instance leads")?);
        println!("{name} is asked to stop");
        stop.cancel();
        service.await??;
        if !instances.is_empty() {
            let waits = instances.iter().map(|(_, _, elected, ..)| {
                let mut terms = elected.terms();
                Box::pin(async move { terms.wait_for(Option::is_some).await.map(drop) })
            });
            futures_util::future::select_all(waits).await.0?;
        }
    }
    println!("all have stopped");
    Ok(())
}

async fn stand(name: &str, file: &Path) -> Result<Elected<SqliteStore>, Failure> {
    let clock = Clock::system();
    let store = SqliteStore::open(file, clock.clone()).await?;
    let locks = Locks::new(store, clock, Namespace::new("shop")?, Seen::default());
    Ok(Elected::start(&locks, LockName::new("web")?, name, Timing::from_ttl(Duration::from_secs(10))?))
}

/// The body of `GET /leader`.
async fn ask(address: &str) -> Result<String, Failure> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET /leader HTTP/1.0\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer.rsplit_once("\r\n\r\n").map_or_else(|| answer.clone(), |(_, body)| body.to_owned()))
}
