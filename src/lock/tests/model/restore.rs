//! Every interleaving of calls for one lock in a store that is restored from a backup, by processes that each remember what
//! they have seen, and what holds for them then:
//!
//! - A process that has seen a grant is granted nothing in a store that has forgotten it, unless another process, which had
//!   seen less, was granted the lock there before. (Then the lineage tells, which is not in here.)
//! - No process holds the lock under a fence that is not greater than each that it has seen.
//! - Nothing is written under a hold that the store has forgotten, but where a late request of the same session was granted
//!   the lock anew at the same revision: then the lock is nobody else's.
//! - Nothing is granted in a store that a process has refused, until it is repaired.
//! - After a repair, fences are greater than all before, whoever was given those.

use std::collections::BTreeSet;

use stateright::{Checker, HasDiscoveries, Model, Property};

use super::contents::Contents;
use super::{BASE, call, keys};
use crate::lock::hold::{Base, Caller, Hold, Manner, Opening, QueueRead};
use crate::lock::keys::Namespace;
use crate::lock::line::{Line, Step};
use crate::lock::seen::Seen;
use crate::store::{LeaseId, Op, Revision, Test, Txn};
use crate::time::Wall;

/// What fences are counted from after a repair: the time, which is far beyond every revision.
const REPAIRED_BASE: u64 = 1_000;

/// What a process has sent, with what it remembered then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Request {
    Seize { call: u8, base: u64, base_modified: u64, wanted_at: u64, marked: u64 },
    Release { call: u8, base: u64, created: u64 },
    Refuse { base_modified: u64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Looking,
    Asking(Request),
    /// `grant`: which of all grants it was.
    Leading {
        base: u64,
        created: u64,
        grant: usize,
    },
    /// It has made all its calls, or refuses the store.
    Done,
}

/// A process, with a session of its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Process {
    phase: Phase,
    /// What it remembers.
    seen: Seen,
    /// What it was shown, whether it remembers that or not.
    shown: Seen,
    session_created: u64,
    /// How many calls it is still to make, with the present one.
    calls: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Grant {
    to: usize,
    fence: u64,
    created: u64,
    /// The store has been restored from before it.
    forgotten: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    contents: Contents,
    backup: Option<Contents>,
    processes: Vec<Process>,
    network: BTreeSet<(usize, Request)>,
    granted: Vec<Grant>,
    restored: bool,
    repaired: bool,
    /// The lock was granted since the restore.
    granted_since: bool,
    /// The greatest revision of all times.
    latest: u64,
    broken: Option<&'static str>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Move {
    Look(usize),
    Deliver(usize, Request),
    GiveUp(usize),
    Release(usize),
    Write(usize),
    Backup,
    /// `grown`: it is written to until its revision is beyond all that was ever seen.
    Restore {
        grown: bool,
    },
    Repair,
}

/// What a build lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lacks {
    Nothing,
    /// Grants do not compare when the mark was put.
    Mark,
    /// Grants do not compare that the store is not refused.
    Trust,
    /// Processes remember nothing.
    Memory,
    /// What is written under a hold does not compare whose the lock is.
    Proof,
    /// A repair counts fences from just above the base before.
    Height,
}

struct Restoring {
    /// How many calls each process makes.
    calls: Vec<u8>,
    lacks: Lacks,
}

const FORGOTTEN: &str = "a process is granted the lock where the store has forgotten a grant that the process saw";
const NOT_GREATER: &str = "a process holds the lock under a fence that is not greater than one it has seen";
const UNDER_FORGOTTEN: &str = "something is written under a hold that the store has forgotten";
const REFUSED: &str = "the lock is granted in a store that was refused";
const NOT_ABOVE: &str = "a fence after a repair is not greater than all before";

fn namespace() -> Namespace {
    Namespace::new("test").unwrap()
}

fn lease(process: usize) -> LeaseId {
    LeaseId((process as u64 + 1).try_into().unwrap())
}

impl Process {
    fn caller(&self, index: usize, number: u8) -> Caller {
        Caller {
            call: call(index as u128 + 16 * u128::from(number)),
            node: "n".into(),
            lease: lease(index),
            session_key: namespace().session_key(lease(index)),
            session_created: Revision(self.session_created),
            delay: None,
        }
    }

    fn note(&mut self, lacks: Lacks, note: impl Fn(&mut Seen)) {
        note(&mut self.shown);
        if lacks != Lacks::Memory {
            note(&mut self.seen);
        }
    }
}

impl World {
    fn hold(&self, (index, number): (usize, u8), base: u64, created: u64) -> Hold {
        keys().hold(&self.processes[index].caller(index, number), base, Revision(created)).unwrap()
    }

    fn ask(&mut self, index: usize, request: Request) {
        self.network.insert((index, request));
        self.processes[index].phase = Phase::Asking(request);
    }

    /// Puts the sessions of all processes, as after their start, and after a repair.
    fn open_sessions(&mut self) {
        for index in 0..self.processes.len() {
            let (key, lease) = (namespace().session_key(lease(index)), lease(index));
            let opened = self.contents.commit(&Txn::new().then(Op::put_leased(key, "", lease))).unwrap();
            self.processes[index].session_created = opened.revision.0;
        }
    }

    fn look(&mut self, index: usize, lacks: Lacks) -> bool {
        let number = self.processes[index].calls;
        let caller = self.processes[index].caller(index, number);
        let look = Txn { then: keys().look(Some(&caller), QueueRead::Whole), ..Txn::new() };
        let line = Line::read(&keys(), self.contents.commit(&look).unwrap()).unwrap();
        let process = &mut self.processes[index];
        let (before, base) = (process.seen, line.past.base.clone().unwrap());
        if before.check_past(&line.past, line.revision).is_err() {
            if line.past.refused.is_none() {
                process.seen.went_back = true;
                self.ask(index, Request::Refuse { base_modified: base.modified.0 });
            } else {
                process.phase = Phase::Done;
            }
            return true;
        }
        let shown = process.shown;
        process.note(lacks, |seen| {
            seen.note(base.value, line.revision, line.holder().map(|holder| holder.fence));
            seen.note_mark(base.value, line.past.marked);
        });
        let (noted, marked) = (process.shown != shown, process.seen.marked.0);
        match line.step(&keys(), &caller, Manner::Context) {
            Step::Seize(Opening { base, wanted_at }) => {
                let (value, base_modified) = (base.value, base.modified.0);
                let wanted_at = wanted_at.0;
                self.ask(index, Request::Seize { call: number, base: value, base_modified, wanted_at, marked });
                true
            }
            Step::Adopt(hold) => {
                self.lead(index, hold.base(), hold.created().0, shown);
                true
            }
            // It waits, and looks again when something has changed. (The queue is searched elsewhere.)
            _ => noted,
        }
    }

    /// What was granted is handed out to a process that had been shown this before.
    fn lead(&mut self, index: usize, base: u64, created: u64, shown: Seen) {
        let fence = base + created;
        if fence <= shown.fence {
            self.broken = Some(NOT_GREATER);
        }
        // What is adopted, or was granted just now, is the last grant of all.
        let grant = self.granted.len() - 1;
        self.processes[index].phase = Phase::Leading { base, created, grant };
    }

    fn deliver(&mut self, index: usize, request: Request, lacks: Lacks) {
        let waits = self.processes[index].phase == Phase::Asking(request);
        match request {
            Request::Seize { .. } => self.seize(index, request, lacks, waits),
            Request::Release { call, base, created } => {
                self.contents.commit(&keys().release(&self.hold((index, call), base, created)));
                if waits {
                    self.next_call(index);
                }
            }
            Request::Refuse { base_modified } => {
                let refuse = keys().past.refuse(Some(Revision(base_modified)), b"so".to_vec());
                self.contents.commit(&refuse.then(Op::Delete(namespace().locks())));
                if waits {
                    self.processes[index].phase = Phase::Done;
                }
            }
        }
    }

    fn seize(&mut self, index: usize, request: Request, lacks: Lacks, waits: bool) {
        let Request::Seize { call, base, base_modified, wanted_at, marked } = request else { return };
        let caller = self.processes[index].caller(index, call);
        let opening =
            Opening { base: Base { value: base, modified: Revision(base_modified) }, wanted_at: Revision(wanted_at) };
        let mut seize = keys().seize(&caller, opening, Wall::EPOCH, QueueRead::Whole);
        if lacks == Lacks::Trust {
            seize.when.retain(|compare| *compare != keys().past.trusted());
        }
        if lacks != Lacks::Mark {
            seize.when.extend(keys().past.unforgotten(Revision(marked)));
        }
        let is_refused = self.contents.entries.contains_key(&keys().past.refused);
        let committed = self.contents.commit(&seize).unwrap();
        if !committed.succeeded {
            if waits {
                self.processes[index].phase = Phase::Looking;
            }
            return;
        }
        let created = committed.revision.0;
        let is_handed_out = waits && self.processes[index].seen.check(base, committed.revision).is_ok();
        self.judge(index, base + created, is_refused, is_handed_out);
        self.granted.push(Grant { to: index, fence: base + created, created, forgotten: false });
        if is_handed_out {
            let (shown, hold) = (self.processes[index].shown, self.hold((index, call), base, created));
            self.processes[index].note(lacks, |seen| {
                seen.note(base, committed.revision, Some(hold.fence()));
                seen.note_mark(base, committed.revision);
            });
            self.lead(index, base, created, shown);
        } else if waits {
            self.processes[index].seen.went_back = true;
            self.ask(index, Request::Release { call, base, created });
        }
    }

    /// What is wrong with a grant that the store has made.
    fn judge(&mut self, index: usize, fence: u64, is_refused: bool, is_handed_out: bool) {
        if is_refused {
            self.broken = Some(REFUSED);
        }
        if self.repaired && self.granted.iter().any(|grant| grant.fence >= fence) {
            self.broken = Some(NOT_ABOVE);
        }
        let shown = self.processes[index].shown;
        let saw = |grant: &Grant| grant.forgotten && (grant.created <= shown.marked.0 || grant.fence <= shown.fence);
        if is_handed_out && !self.granted_since && !self.repaired && self.granted.iter().any(saw) {
            self.broken = Some(FORGOTTEN);
        }
        self.granted_since |= self.restored;
    }

    fn next_call(&mut self, index: usize) {
        let process = &mut self.processes[index];
        process.calls = process.calls.saturating_sub(1);
        process.phase = if process.calls > 0 { Phase::Looking } else { Phase::Done };
    }

    fn restore(&mut self, grown: bool) {
        let Some(backup) = self.backup.take() else { return };
        self.latest = self.latest.max(self.contents.revision);
        self.contents = backup;
        let kept = self.contents.revision;
        for grant in &mut self.granted {
            grant.forgotten |= grant.created > kept;
        }
        if grown {
            self.contents.revision = self.latest + 1;
        }
        self.restored = true;
    }

    fn repair(&mut self, lacks: Lacks) {
        let (_, _, modified, _) = self.contents.entries[BASE];
        let base = if lacks == Lacks::Height { 1 } else { REPAIRED_BASE };
        let rebase = keys().past.rebase(Revision(modified), base);
        let rebase = rebase.then(Op::Delete(namespace().locks())).then(Op::Delete(namespace().sessions()));
        self.contents.commit(&rebase).unwrap();
        self.repaired = true;
        self.open_sessions();
        for process in self.processes.iter_mut().filter(|process| process.phase == Phase::Done && process.calls > 0) {
            process.phase = Phase::Looking;
        }
    }
}

impl Model for Restoring {
    type State = World;
    type Action = Move;

    fn init_states(&self) -> Vec<World> {
        let mut contents = Contents::new();
        contents.commit(&Txn::new().then(Op::put(BASE, "0"))).unwrap();
        let process = |calls: &u8| Process {
            phase: Phase::Looking,
            seen: Seen::default(),
            shown: Seen::default(),
            session_created: 0,
            calls: *calls,
        };
        let mut world = World {
            contents,
            backup: None,
            processes: self.calls.iter().map(process).collect(),
            network: BTreeSet::new(),
            granted: Vec::new(),
            restored: false,
            repaired: false,
            granted_since: false,
            latest: 0,
            broken: None,
        };
        world.open_sessions();
        vec![world]
    }

    fn actions(&self, world: &World, moves: &mut Vec<Move>) {
        for (index, process) in world.processes.iter().enumerate() {
            match process.phase {
                Phase::Looking => moves.push(Move::Look(index)),
                Phase::Leading { .. } => moves.extend([Move::Release(index), Move::Write(index)]),
                Phase::Asking(Request::Seize { .. }) if process.calls > 1 => moves.push(Move::GiveUp(index)),
                Phase::Asking(_) | Phase::Done => {}
            }
        }
        moves.extend(world.network.iter().map(|(index, request)| Move::Deliver(*index, *request)));
        if world.backup.is_none() && !world.restored {
            moves.push(Move::Backup);
        }
        if world.backup.is_some() {
            moves.extend([Move::Restore { grown: false }, Move::Restore { grown: true }]);
        }
        if world.restored && !world.repaired {
            moves.push(Move::Repair);
        }
    }

    fn next_state(&self, world: &World, action: Move) -> Option<World> {
        let mut next = world.clone();
        match action {
            Move::Look(index) => return next.look(index, self.lacks).then_some(next),
            Move::Deliver(index, request) => {
                next.network.remove(&(index, request));
                next.deliver(index, request, self.lacks);
            }
            // Its request may arrive all the same, and the call after it is another one.
            Move::GiveUp(index) => next.next_call(index),
            Move::Release(index) => {
                let Phase::Leading { base, created, .. } = next.processes[index].phase else { return None };
                let call = next.processes[index].calls;
                next.ask(index, Request::Release { call, base, created });
            }
            Move::Write(index) => {
                let Phase::Leading { base, created, grant } = next.processes[index].phase else { return None };
                let mut proof = next.hold((index, next.processes[index].calls), base, created).still_held().to_vec();
                if self.lacks == Lacks::Proof {
                    proof.retain(|compare| !matches!(compare.test, Test::Lease(_)));
                }
                let is_again = |other: &Grant| !other.forgotten && (other.to, other.created) == (index, created);
                let is_forgotten = next.granted[grant].forgotten && !next.granted.iter().any(is_again);
                if !is_forgotten || !proof.iter().all(|compare| next.contents.holds(compare)) {
                    return None;
                }
                next.broken = Some(UNDER_FORGOTTEN);
            }
            Move::Backup => next.backup = Some(next.contents.clone()),
            Move::Restore { grown } => next.restore(grown),
            Move::Repair => next.repair(self.lacks),
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Restoring>> {
        vec![
            Property::always(FORGOTTEN, |_, world: &World| world.broken != Some(FORGOTTEN)),
            Property::always(NOT_GREATER, |_, world: &World| world.broken != Some(NOT_GREATER)),
            Property::always(UNDER_FORGOTTEN, |_, world: &World| world.broken != Some(UNDER_FORGOTTEN)),
            Property::always(REFUSED, |_, world: &World| world.broken != Some(REFUSED)),
            Property::always(NOT_ABOVE, |_, world: &World| world.broken != Some(NOT_ABOVE)),
            Property::sometimes("the store is refused", |_, world: &World| {
                world.contents.entries.contains_key(&keys().past.refused)
            }),
            Property::sometimes(
                "one that has seen less is granted the lock in a restored store",
                |_, world: &World| world.granted_since && !world.repaired,
            ),
            Property::sometimes(
                "the lock is granted after the repair to one that had refused the store",
                |_, world: &World| {
                    let leads = |process: &Process| {
                        process.seen.base == REPAIRED_BASE && matches!(process.phase, Phase::Leading { .. })
                    };
                    world.repaired
                        && world.granted.iter().any(|grant| grant.forgotten)
                        && world.processes.iter().any(leads)
                },
            ),
        ]
    }
}

#[test]
fn a_restored_store_breaks_no_promise_to_those_who_remember_in_any_interleaving() {
    for calls in [vec![2, 1], vec![1, 1, 1]] {
        let checker = Restoring { calls, lacks: Lacks::Nothing }.checker().spawn_bfs().join();
        checker.assert_properties();
    }
}

/// Whatever is left out, one of the promises is broken, and the search finds it.
#[test]
fn what_is_left_out_of_the_care_for_a_restored_store_is_found() {
    for (lacks, promise, calls) in [
        (Lacks::Mark, FORGOTTEN, vec![2, 1]),
        (Lacks::Trust, REFUSED, vec![2, 1]),
        (Lacks::Memory, NOT_GREATER, vec![2, 1]),
        (Lacks::Memory, FORGOTTEN, vec![2, 1]),
        (Lacks::Proof, UNDER_FORGOTTEN, vec![1, 1]),
        (Lacks::Height, NOT_ABOVE, vec![3, 1]),
    ] {
        let model = Restoring { calls, lacks };
        let checker = model.checker().finish_when(HasDiscoveries::AnyOf([promise].into())).spawn_bfs().join();
        assert!(checker.discovery(promise).is_some(), "{lacks:?} breaks nothing that shows as: {promise}");
    }
}
