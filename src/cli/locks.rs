//! `fencron locks` and `unlock`: what is held, and taking it away.

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::hold::{bad_name, semaphore_failure};
use super::place::Place;
use super::terminal::{Terminal, table, visible};
use super::{Exit, Failure, Global};
use crate::fence::Fence;
use crate::lock::{
    Bar, Config, HeldBy, LOCKS_LISTED, LockError, LockKind, LockListed, LockName, Locks, PermitsHeld, Seen,
    SemaphoreListed,
};
use crate::store::{AnyStore, LeaseId};
use crate::time::Wall;

#[derive(Args)]
pub(super) struct LocksArgs {
    /// Only those whose names begin so
    #[arg(default_value = "", hide_default_value = true)]
    prefix: String,
    /// Also semaphores that nobody uses now
    #[arg(long)]
    all: bool,
}

#[derive(Args)]
pub(super) struct UnlockArgs {
    /// The lock, or the semaphore
    name: String,
    /// Take it away from whoever holds it, without asking them
    #[arg(long)]
    force: bool,
    /// Which of the locks of that name: what `locks` shows as its kind
    #[arg(long, value_enum, default_value = "lock", conflicts_with = "session")]
    kind: Kind,
    /// Of a semaphore: from which session, as `fencron locks -o json` shows it
    #[arg(long, value_name = "ID", value_parser = session)]
    session: Option<LeaseId>,
}

/// The locks that may be taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// One that `lock`, `elect` or a program holds.
    Lock,
    /// That of the migrations: NAME is `migrations`.
    Migrations,
    /// That of `once NAME`.
    Once,
}

fn session(text: &str) -> Result<LeaseId, String> {
    let number = u64::from_str_radix(text, 16).ok().and_then(std::num::NonZeroU64::new);
    number.map(LeaseId).ok_or_else(|| "a session is a hexadecimal number".to_owned())
}

/// What `locks` prints of each.
#[derive(Serialize)]
struct LockView {
    name: String,
    /// `lock`, `leader`, `migrations`, `once` or `semaphore`.
    kind: &'static str,
    /// Who holds it; `null`: nobody, or a semaphore.
    holder: Option<String>,
    session: Option<String>,
    fence: Option<Fence>,
    since: Option<Wall>,
    waiting: usize,
    /// Why nobody is granted it for now, once nobody holds it: `delay` or `destroyed`.
    barred: Option<&'static str>,
    /// Of a semaphore: how many permits there are.
    permits: Option<u32>,
    /// Of a semaphore: who holds how many.
    holders: Vec<ShareView>,
}

#[derive(Serialize)]
struct ShareView {
    holder: String,
    session: Option<String>,
    permits: u32,
    since: Wall,
}

/// Lists what is held.
pub(super) async fn list(args: &LocksArgs, global: &Global, terminal: &mut Terminal) -> anyhow::Result<Exit> {
    let place = global.open(None).await?;
    let listing = place.locks(Seen::default()).list(&args.prefix).await?;
    if listing.more {
        terminal.say(format_args!("fencron: there are more than {LOCKS_LISTED}: give the beginning of a name"));
    }
    let used = |listed: &SemaphoreListed| args.all || !listed.held.is_empty() || listed.waiting > 0;
    let semaphores = listing.semaphores.into_iter().filter(used).map(LockView::of_semaphore);
    let views: Vec<LockView> = listing.locks.into_iter().map(LockView::of_lock).chain(semaphores).collect();
    terminal.show(&views, |views| locks_table(views))?;
    Ok(Exit::Done)
}

impl LockView {
    fn of_lock(listed: LockListed) -> LockView {
        let LockListed { name, holder, waiting, barred } = listed;
        let barred = barred.map(|why| match why {
            Bar::Delay => "delay",
            Bar::Destroyed => "destroyed",
        });
        LockView {
            kind: kind_of(&name),
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

    fn of_semaphore(listed: SemaphoreListed) -> LockView {
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

fn kind_of(name: &LockName) -> &'static str {
    match name.kind() {
        LockKind::Named if *name == LockName::leader() => "leader",
        LockKind::Named => "lock",
        LockKind::Migrations => "migrations",
        LockKind::Once => "once",
    }
}

fn locks_table(views: &[LockView]) -> String {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let rows = views.iter().flat_map(|view| {
        let (name, kind, waiting) = (view.name.clone(), view.kind.to_owned(), view.waiting.to_string());
        let barred = view.barred.map(|why| format!("nobody ({why})"));
        let taken: u32 = view.holders.iter().map(|share| share.permits).sum();
        let all = view.permits.map_or("?".to_owned(), |permits| permits.to_string());
        if view.kind == "semaphore" && view.holders.is_empty() {
            let free = format!("nobody (0 of {all})");
            return vec![vec![name, kind, free, "-".to_owned(), "-".to_owned(), waiting]];
        }
        if view.kind != "semaphore" {
            let holder = view.holder.clone().or(barred);
            let (fence, since) = (view.fence.map(|fence| fence.to_string()), view.since.map(|since| since.to_string()));
            return vec![vec![name, kind, or_none(holder), or_none(fence), or_none(since), waiting]];
        }
        let share = |share: &ShareView| {
            let of = format!("{} ({} of {all}, {taken} taken)", share.holder, share.permits);
            let (name, kind, waiting) = (name.clone(), kind.clone(), waiting.clone());
            vec![name, kind, of, "-".to_owned(), share.since.to_string(), waiting]
        };
        view.holders.iter().map(share).collect()
    });
    if views.is_empty() {
        return "nothing is held\n".to_owned();
    }
    table(&["NAME", "KIND", "HOLDER", "FENCE", "SINCE", "WAITING"], rows)
}

/// Takes a lock away.
pub(super) async fn unlock(args: &UnlockArgs, global: &Global, terminal: &mut Terminal) -> anyhow::Result<Exit> {
    if args.kind == Kind::Lock && args.name == LockName::leader().as_str() {
        let why = "`leader` is held by the node that leads: `fencron step-down` asks it to let another one lead, and lets \
                   its runs end first";
        return Err(Failure::wrong(why).into());
    }
    let name = match args.kind {
        Kind::Lock => LockName::new(&args.name).map_err(|_| bad_name(&args.name))?,
        Kind::Once => LockName::once(&args.name).map_err(|_| bad_name(&args.name))?,
        Kind::Migrations if args.name == LockName::migrations().as_str() => LockName::migrations(),
        Kind::Migrations => return Err(Failure::wrong("the lock of the migrations has the name `migrations`").into()),
    };
    let place = global.open(None).await?;
    let locks = place.locks(Seen::default());
    match args.session {
        Some(session) => take_permits(&locks, name, (args.force, session), terminal).await,
        None => take_lock(&place, &locks, (name, args.force), terminal).await,
    }
}

async fn take_lock(
    place: &Place,
    locks: &Locks<AnyStore>,
    (name, force): (LockName, bool),
    terminal: &Terminal,
) -> anyhow::Result<Exit> {
    let shown = visible(name.as_str());
    let lock = locks.fenced(name.clone(), Config::default());
    let holder = if force { lock.force_unlock().await } else { lock.holder().await };
    let Some(holder) = holder.map_err(unlock_failure)? else {
        return Err(nobody_holds(place, locks, &name).await.into());
    };
    let HeldBy { node, fence, since, .. } = &holder;
    let node = visible(node);
    if !force {
        let why = format!(
            "{shown} is held by {node} (fence {fence}) since {since}: with --force it is taken away, and whoever is next \
             gets it at once, while {node} may still be at work. A command of `fencron lock` is told and ended; whatever \
             else {node} still does is turned away only where fences are checked"
        );
        return Err(Failure::wrong(why).into());
    }
    terminal.say(format_args!(
        "fencron: {shown} was taken away from {node}, who held it under fence {fence} since {since}.\n\
         fencron: A command of `fencron lock` or `elect` is told, and ended; a program that uses the library is told.\n\
         fencron: What they still do, or have under way, cannot be stopped from here: check fences where it takes effect"
    ));
    Ok(Exit::Done)
}

/// Why there is nothing to take away.
async fn nobody_holds(place: &Place, locks: &Locks<AnyStore>, name: &LockName) -> Failure {
    let shown = visible(name.as_str());
    let semaphore = locks.semaphore(name.clone(), 1).state().await;
    let holders: Vec<String> = semaphore.iter().flat_map(|state| &state.held).filter_map(permits_text).collect();
    let namespace = &place.namespace;
    if holders.is_empty() {
        return Failure::new(
            Exit::Failed,
            format!("nobody holds {shown} in the namespace {namespace}: see `fencron locks`"),
        );
    }
    let why = format!(
        "{shown} is a semaphore, whose permits are held by {}: say from which session to take them away, with --session",
        holders.join(", ")
    );
    Failure::wrong(why)
}

fn permits_text(held: &PermitsHeld) -> Option<String> {
    Some(format!("{} ({}, session {})", visible(&held.node), held.permits, held.session?))
}

async fn take_permits(
    locks: &Locks<AnyStore>,
    name: LockName,
    (force, session): (bool, LeaseId),
    terminal: &Terminal,
) -> anyhow::Result<Exit> {
    let shown = visible(name.as_str());
    if !force {
        let why = format!(
            "with --force the permits of {shown} that session {session} holds are taken away, and whoever is next gets \
             them at once, while their holder may still be at work, which no fence turns away"
        );
        return Err(Failure::wrong(why).into());
    }
    let taken = locks.semaphore(name, 1).take_from(session).await.map_err(semaphore_failure)?;
    let Some(holder) = taken.first().map(|taken| visible(&taken.node)) else {
        return Err(Failure::new(Exit::Failed, format!("session {session} holds no permits of {shown}")).into());
    };
    let count: u32 = taken.iter().map(|taken| taken.permits).sum();
    terminal.say(format_args!(
        "fencron: {count} permits of {shown} were taken away from {holder}, session {session}.\n\
         fencron: A command of `fencron semaphore` is told, and ended; a program that uses the library is told"
    ));
    Ok(Exit::Done)
}

fn unlock_failure(error: LockError) -> anyhow::Error {
    match error {
        LockError::Store(error) if error.is_unknown() => {
            let why = format!("nobody can say whether it was taken away ({error}): ask again");
            Failure::new(Exit::OutcomeUnknown, why).into()
        }
        LockError::Store(error) => error.into(),
        error => Failure::new(Exit::Failed, error.to_string()).into(),
    }
}
