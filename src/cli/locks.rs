//! `fencron locks` and `unlock`: lists locks and semaphores, and revokes them.

use clap::{Args, ValueEnum};

use super::hold::{bad_name, semaphore_failure};
use super::place::Place;
use super::steer::{Why, acting};
use super::terminal::{Terminal, table, visible};
use super::{Exit, Failure, Global};
use crate::api::held::{LockView, ShareView};
use crate::ledger::HOLDS_TAKEN_MOST;
use crate::lock::{Config, HeldBy, LOCKS_LISTED, LockError, LockName, Locks, PermitsHeld, Seen, SemaphoreListed};
use crate::store::{AnyStore, LeaseId};

#[derive(Args)]
pub(super) struct LocksArgs {
    /// Only names that begin with this text
    #[arg(default_value = "", hide_default_value = true)]
    prefix: String,
    /// Also semaphores without holders and waiters
    #[arg(long)]
    all: bool,
}

#[derive(Args)]
pub(super) struct UnlockArgs {
    /// The name of the lock or semaphore
    name: String,
    /// Revoke it without asking its holder
    #[arg(long)]
    force: bool,
    /// The kind of the lock, as `fencron locks` shows it
    #[arg(long, value_enum, default_value = "lock", conflicts_with = "session")]
    kind: Kind,
    /// For a semaphore: the session to revoke permits from, as `fencron locks -o json` shows it
    #[arg(long, value_name = "ID", value_parser = session)]
    session: Option<LeaseId>,
    #[command(flatten)]
    why: Why,
}

/// The kinds of locks that can be revoked.
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

/// Lists locks and semaphores.
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

fn locks_table(views: &[LockView]) -> String {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let rows = views.iter().flat_map(|view| {
        let (name, kind, waiting) = (view.name.clone(), view.kind.to_owned(), view.waiting.to_string());
        let barred = view.barred.map(|why| format!("none ({why})"));
        let taken: u32 = view.holders.iter().map(|share| share.permits).sum();
        let all = view.permits.map_or("?".to_owned(), |permits| permits.to_string());
        if view.kind == "semaphore" && view.holders.is_empty() {
            let free = format!("none (0 of {all})");
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

/// Revokes a lock.
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
        Some(session) => take_permits(&place, (name, session), args, terminal).await,
        None => take_lock(&place, &locks, (name, args), terminal).await,
    }
}

async fn take_lock(
    place: &Place,
    locks: &Locks<AnyStore>,
    (name, args): (LockName, &UnlockArgs),
    terminal: &Terminal,
) -> anyhow::Result<Exit> {
    let shown = visible(name.as_str());
    let lock = locks.fenced(name.clone(), Config::default());
    let Some((holder, take)) = lock.revocation().await.map_err(unlock_failure)? else {
        return Err(nobody_holds(place, locks, &name).await.into());
    };
    let HeldBy { node, fence, since, .. } = &holder;
    let node = visible(node);
    if !args.force {
        let why = format!(
            "{shown} is held by {node} (fence {fence}) since {since}: with --force it is revoked, and the next waiter \
             gets it at once, while {node} may still be at work. A command of `fencron lock` is ended. What else \
             {node} still does is turned away only by targets that check fences"
        );
        return Err(Failure::wrong(why).into());
    }
    place.ledger().unlock(&acting(place, &args.why), &name, &holder, take).await?;
    terminal.say(format_args!(
        "fencron: {shown} was revoked from {node}, which held it under fence {fence} since {since}.\n\
         fencron: A command of `fencron lock` or `elect` is ended; a program that uses the library is notified.\n\
         fencron: What they still do, or have under way, cannot be stopped from here: check fences where it takes effect"
    ));
    Ok(Exit::Done)
}

/// Why there is nothing to revoke.
async fn nobody_holds(place: &Place, locks: &Locks<AnyStore>, name: &LockName) -> Failure {
    let shown = visible(name.as_str());
    let semaphore = locks.semaphore(name.clone(), 1).state().await;
    let holders: Vec<String> = semaphore.iter().flat_map(|state| &state.held).filter_map(permits_text).collect();
    let namespace = &place.namespace;
    if holders.is_empty() {
        return Failure::new(
            Exit::Failed,
            format!("{shown} has no holder in the namespace {namespace}: see `fencron locks`"),
        );
    }
    let why = format!(
        "{shown} is a semaphore, whose permits are held by {}: name the session to revoke them from with --session",
        holders.join(", ")
    );
    Failure::wrong(why)
}

fn permits_text(held: &PermitsHeld) -> Option<String> {
    Some(format!("{} ({}, session {})", visible(&held.node), held.permits, held.session?))
}

async fn take_permits(
    place: &Place,
    (name, session): (LockName, LeaseId),
    args: &UnlockArgs,
    terminal: &Terminal,
) -> anyhow::Result<Exit> {
    let shown = visible(name.as_str());
    if !args.force {
        let why = format!(
            "with --force the permits of {shown} that session {session} holds are revoked, and the next waiter gets \
             them at once, while their holder may still be at work, which no fence turns away"
        );
        return Err(Failure::wrong(why).into());
    }
    let semaphore = place.locks(Seen::default()).semaphore(name.clone(), 1);
    let revocations = semaphore.revocations(session).await.map_err(semaphore_failure)?;
    let Some(holder) = revocations.first().map(|(held, _)| visible(&held.node)) else {
        return Err(Failure::new(Exit::Failed, format!("session {session} holds no permits of {shown}")).into());
    };
    let mut count = 0;
    let mut revocations = revocations.into_iter().peekable();
    while revocations.peek().is_some() {
        let some: Vec<_> = revocations.by_ref().take(HOLDS_TAKEN_MOST).collect();
        count += some.iter().map(|(held, _)| u64::from(held.permits)).sum::<u64>();
        place.ledger().take_permits(&acting(place, &args.why), &name, some).await?;
    }
    terminal.say(format_args!(
        "fencron: {count} permits of {shown} were revoked from {holder}, session {session}.\n\
         fencron: A command of `fencron semaphore` is ended; a program that uses the library is notified"
    ));
    Ok(Exit::Done)
}

fn unlock_failure(error: LockError) -> anyhow::Error {
    match error {
        LockError::Store(error) if error.is_unknown() => {
            let why = format!("it is unknown whether it was revoked ({error}): run the command again");
            Failure::new(Exit::OutcomeUnknown, why).into()
        }
        LockError::Store(error) => error.into(),
        error => Failure::new(Exit::Failed, error.to_string()).into(),
    }
}
