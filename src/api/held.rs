//! What is held and what was done once: locks, semaphores and migrations.

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::access::{Caller, Role};
use super::listing::{Applied, Listing, Sent, applied};
use super::problem::Problem;
use super::routes::Query;
use super::{Api, in_time};
use crate::fence::Fence;
use crate::lock::{Bar, LockListed, PermitsHeld, SemaphoreListed};
use crate::once::{Standing, Step, standings};
use crate::store::Store;
use crate::time::Wall;

/// A lock or a semaphore, as `locks -o json` prints it.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct LockView {
    pub name: String,
    /// `lock`, `leader`, `migrations`, `once` or `semaphore`.
    pub kind: &'static str,
    /// The holder; `null`: none, or a semaphore.
    pub holder: Option<String>,
    pub session: Option<String>,
    pub fence: Option<Fence>,
    pub since: Option<Wall>,
    pub waiting: usize,
    /// Why it is not granted for now, once it has no holder: `delay` or `destroyed`.
    pub barred: Option<&'static str>,
    /// Of a semaphore: how many permits there are.
    pub permits: Option<u32>,
    /// Of a semaphore: the holders, and how many permits each holds.
    pub holders: Vec<ShareView>,
}

/// The permits that one session holds.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct ShareView {
    pub holder: String,
    pub session: Option<String>,
    pub permits: u32,
    pub since: Wall,
}

impl LockView {
    /// A lock.
    pub fn of_lock(listed: LockListed) -> LockView {
        let LockListed { name, holder, waiting, barred } = listed;
        let barred = barred.map(|why| match why {
            Bar::Delay => "delay",
            Bar::Destroyed => "destroyed",
        });
        LockView {
            kind: name.kind_word(),
            name: name.as_str().to_owned(),
            session: holder.as_ref().map(|holder| holder.session.to_string()),
            fence: holder.as_ref().map(|holder| holder.fence),
            since: holder.as_ref().map(|holder| holder.since),
            holder: holder.map(|holder| holder.node),
            waiting,
            barred,
            permits: None,
            holders: Vec::new(),
        }
    }

    /// A semaphore.
    pub fn of_semaphore(listed: SemaphoreListed) -> LockView {
        let SemaphoreListed { name, permits, held, waiting } = listed;
        let share = |held: PermitsHeld| {
            let session = held.session.map(|session| session.to_string());
            ShareView { holder: held.node, session, permits: held.permits, since: held.since }
        };
        LockView {
            name: name.as_str().to_owned(),
            kind: "semaphore",
            holder: None,
            session: None,
            fence: None,
            since: None,
            waiting,
            barred: None,
            permits,
            holders: held.into_iter().map(share).collect(),
        }
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct WantedLocks {
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    all: u8,
}

/// The longest beginning of a name, in bytes.
const PREFIX_MOST: usize = 200;

/// Answers with what is held and waited for.
pub(super) async fn locks<S: Store>(
    State(api): State<Api<S>>,
    Query(wanted): Query<WantedLocks>,
    sent: Sent,
) -> Result<Response, Problem> {
    let WantedLocks { prefix, all } = wanted;
    if prefix.len() > PREFIX_MOST {
        return Err(Problem::parameter("prefix", format!("at most {PREFIX_MOST} bytes")));
    }
    let listing = in_time(api.locks.list(&prefix)).await?;
    let used = |listed: &SemaphoreListed| all == 1 || !listed.held.is_empty() || listed.waiting > 0;
    let semaphores = listing.semaphores.into_iter().filter(used).map(LockView::of_semaphore);
    let items = listing.locks.into_iter().map(LockView::of_lock).chain(semaphores).collect();
    let applied = applied([("prefix", json!(prefix)), ("all", json!(u8::from(all == 1)))]);
    let page = Listing { cut: listing.more, ..Listing::whole(items, api.board.read().version(), applied) };
    Ok(sent.page(&page))
}

/// A migration, by what the file and the ledger know of it.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct MigrationView {
    pub id: String,
    /// `done`, `failed`, `unknown`, `pending`, `running`, or `lost`: claimed by a process that is gone.
    pub state: &'static str,
    /// Why, for a person; empty where there is nothing to say.
    pub reason: String,
    /// How it differs from what was made; `null`: it does not.
    pub difference: Option<String>,
    /// Of what was made; of what the file has, where it was not begun.
    pub checksum: String,
    pub node: Option<String>,
    pub fence: Option<Fence>,
    pub attempts: u32,
    pub started_at: Option<Wall>,
    pub finished_at: Option<Wall>,
    pub duration_ms: Option<u64>,
    pub exit_code: Option<i32>,
    /// The end of what it wrote.
    pub output: String,
}

impl From<Standing> for MigrationView {
    fn from(standing: Standing) -> MigrationView {
        let Standing { id, state, checksum, once, difference } = standing;
        let once = once.as_ref();
        let took = once.and_then(|once| Some((once.started_at, once.finished_at?, once.claimed_by.as_ref()?)));
        let duration = took.map(|(from, to, _)| u64::try_from(to.since(from).as_millis()).unwrap_or(u64::MAX));
        let by = once.and_then(|once| once.claimed_by.as_ref());
        MigrationView {
            id,
            state: state.as_str(),
            reason: once.map(|once| once.reason.clone()).unwrap_or_default(),
            difference,
            checksum,
            node: by.map(|by| by.node.clone()),
            fence: by.map(|by| by.fence),
            attempts: once.map_or(0, |once| once.attempts),
            started_at: once.map(|once| once.started_at),
            finished_at: once.and_then(|once| once.finished_at),
            duration_ms: duration,
            exit_code: once.and_then(|once| once.exit_code),
            output: once.map(|once| once.output.clone()).unwrap_or_default(),
        }
    }
}

/// How many migrations are listed, the last ones.
pub const MIGRATIONS_MOST: usize = 1_000;

/// Answers with the migrations that the ledger knows, in the order in which they were made, and behind them those of the
/// jobs file of this node that were not begun.
pub(super) async fn migrations<S: Store>(
    State(api): State<Api<S>>,
    Extension(caller): Extension<Caller>,
    sent: Sent,
) -> Result<Response, Problem> {
    let (migrations, revision) = {
        let board = api.board.read();
        (board.migrations().cloned(), board.version())
    };
    let steps: Option<Vec<Step>> = migrations.map(|migrations| migrations.iter().map(Step::from).collect());
    let (standings, cut) = in_time(standings(&api.ledger, steps.as_deref(), MIGRATIONS_MOST)).await?;
    let view = |standing| {
        let view = MigrationView::from(standing);
        if caller.role < Role::Reader { MigrationView { output: String::new(), ..view } } else { view }
    };
    let items = standings.into_iter().map(view).collect();
    let page = Listing { cut, ..Listing::whole(items, revision, Applied::new()) };
    Ok(sent.page(&page))
}
