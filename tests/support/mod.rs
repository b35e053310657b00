//! What the integration tests share: real etcd servers, and a network between them and us that can be made to fail.

#![allow(dead_code, unused_imports, unused_macros, reason = "each test binary uses a part of this")]

#[cfg(feature = "cli")]
pub mod browser;
pub mod certificates;
pub mod databases;
pub mod etcd;
#[cfg(feature = "cli")]
pub mod imitation;
#[cfg(feature = "cli")]
pub mod mail;
pub mod pooler;
pub mod ports;
#[cfg(feature = "cli")]
pub mod program;
pub mod proxy;

use std::future::Future;
use std::time::Duration;

/// How long to wait for what must happen: far longer than it takes, so that a slow machine is no failure.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The outcome of `event`, which must come.
pub async fn soon<T>(what: &str, event: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, event).await {
        Ok(outcome) => outcome,
        Err(_) => panic!("{what}: not within {PATIENCE:?}"),
    }
}

/// Asks again and again until there is an answer.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    soon(what, async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}

/// Far longer than any fact takes: a test that hangs is to fail.
const LONGEST: Duration = Duration::from_secs(600);

/// What a fact of [`over_both`] comes to, in time.
pub async fn in_time(fact: &str, told: impl Future<Output = ()>) {
    assert!(tokio::time::timeout(LONGEST, told).await.is_ok(), "{fact}: not within {LONGEST:?}");
}

/// Runs each fact over SQLite and over etcd: in what the two expressions make (from a module below the caller's), or else
/// in a `Scene`.
macro_rules! over_both {
    (sqlite: $sqlite:expr, etcd: $etcd:expr; $($fact:ident),* $(,)?) => {
        mod over_sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $fact() {
                let told = async { super::$fact($sqlite).await };
                crate::support::in_time(stringify!($fact), Box::pin(told)).await;
            })*
        }
        mod over_etcd {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $fact() {
                let told = async { super::$fact($etcd).await };
                crate::support::in_time(stringify!($fact), Box::pin(told)).await;
            })*
        }
    };
    ($($fact:ident),* $(,)?) => {
        crate::support::over_both!(
            sqlite: crate::scene::Scene::over_sqlite(), etcd: crate::scene::Scene::over_etcd().await; $($fact),*
        );
    };
}
pub(crate) use over_both;
