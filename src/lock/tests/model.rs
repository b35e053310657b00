//! Every interleaving of a few calls that contend for one lock, over the transactions and decisions that the program
//! itself uses: requests are delayed, repeated, applied after their sender gave up on them; leases end; an operator
//! deletes the owner's key. The calls are candidates of an election, each with a session of its own, or contexts of a
//! reentrant lock, of which two share a session.

use std::collections::BTreeSet;

use stateright::{Checker, HasDiscoveries, Model, Property};

use super::{BASE, OWNER, call};
use crate::lock::hold::{Base, Caller, Entrance, Hold, Manner, Opening, QueuePlace, QueueRead};
use crate::lock::keys::{LockKeys, LockName, Namespace};
use crate::lock::line::{Line, Step};
use crate::store::{Entry, Keys, LeaseId, Op, Revision, Txn};
use crate::time::Wall;

mod contents;
mod permits;
mod restore;

use contents::Contents;

/// What a node has sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Request {
    Enqueue { owner_created: u64, wanted_at: u64 },
    Grant { queued: u64, base: u64, base_modified: u64 },
    Seize { base: u64, base_modified: u64, wanted_at: u64 },
    Release { created: u64, base: u64 },
    Withdraw,
}

/// What a node is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    /// It has sent nothing yet.
    Beginning,
    Looking,
    Asking(Request),
    /// `count`: how often it was locked and not unlocked.
    Leading {
        created: u64,
        base: u64,
        count: u8,
    },
    Done,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    manner: Manner,
    contents: Contents,
    nodes: Vec<Phase>,
    /// Requests under way, whether somebody still waits for them or not.
    network: BTreeSet<(usize, Request)>,
    /// Every grant that was applied: its fence, and to whom.
    granted: Vec<(u64, usize)>,
    /// The fence of the last effect that was accepted.
    effect: u64,
    /// How much may still go wrong.
    budget: Budget,
    /// How often an operator deleted the owner's key.
    deletions: u8,
    /// What must never be.
    broken: Option<&'static str>,
    adopted: bool,
    entered_again: bool,
    told_of_loss: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Budget {
    timeouts: u8,
    repeats: u8,
    lease_ends: u8,
    owner_deletions: u8,
    /// How many calls may run out of time.
    abandons: u8,
    /// How often a hold may be entered again.
    entries: u8,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Move {
    Look(usize),
    SeizeUnseen(usize),
    Deliver(usize, Request),
    /// It arrives, and will arrive again.
    Repeat(usize, Request),
    GiveUp(usize),
    Abandon(usize),
    EnterAgain(usize),
    Resign(usize),
    Effect(usize),
    EndLease(usize),
    DeleteOwner,
}

struct Contention {
    manner: Manner,
    nodes: usize,
    budget: Budget,
    /// What is left out of every transaction, to see that the search finds it.
    weaken: Weaken,
}

type Weaken = fn(&LockKeys, &mut Txn);

const NOT_GRANTED: &str = "a node leads under a fence that it was not granted";
const NOT_GROWN: &str = "a fence did not grow";
const TWICE: &str = "one call was granted twice";
const BESIDE: &str = "the lock was granted beside an owner";
const OVERTAKEN: &str = "the lock was granted before an earlier waiter";
const REPLACED: &str = "an effect of a replaced leader was accepted";
const LEFT: &str = "nothing waits or holds that nobody waits for or holds";

fn keys() -> LockKeys {
    LockKeys::new(&Namespace::new("test").unwrap(), &LockName::leader())
}

/// Of contexts the first two share a session.
fn lease(manner: Manner, node: usize) -> LeaseId {
    let session = match manner {
        Manner::Candidate => node,
        Manner::Context => node.saturating_sub(1),
    };
    LeaseId((session as u64 + 1).try_into().unwrap())
}

fn caller(manner: Manner, node: usize) -> Caller {
    let lease = lease(manner, node);
    Caller {
        // All contexts' calls are settled in one place.
        call: call(if manner == Manner::Context { node as u128 * 256 } else { node as u128 }),
        node: "n".into(),
        lease,
        session_key: Namespace::new("test").unwrap().session_key(lease),
        session_created: Revision(1 + lease.0.get()),
        delay: None,
    }
}

fn hold(caller: &Caller, base: u64, created: u64) -> Hold {
    keys().hold(caller, base, Revision(created)).unwrap()
}

fn transaction(caller: &Caller, request: Request) -> Txn {
    match request {
        Request::Enqueue { owner_created, wanted_at } => {
            let entrance = Entrance { owner_created: Revision(owner_created), wanted_at: Revision(wanted_at) };
            keys().enqueue(caller, entrance, Wall::EPOCH, QueueRead::Whole)
        }
        Request::Grant { queued, base, base_modified } => {
            let base = Base { value: base, modified: Revision(base_modified) };
            keys().grant(caller, QueuePlace { queued: Revision(queued), base }, Wall::EPOCH)
        }
        Request::Seize { base, base_modified, wanted_at } => {
            let base = Base { value: base, modified: Revision(base_modified) };
            let opening = Opening { base, wanted_at: Revision(wanted_at) };
            keys().seize(caller, opening, Wall::EPOCH, QueueRead::Near { queued: None })
        }
        Request::Release { created, base } => keys().release(&hold(caller, base, created)),
        Request::Withdraw => keys().withdraw(caller.call),
    }
}

impl World {
    fn caller(&self, node: usize) -> Caller {
        caller(self.manner, node)
    }

    /// A candidate sees all of the queue, a context what it needs of it.
    fn line(&mut self, node: usize) -> Line {
        let caller = self.caller(node);
        let mut look = |view| {
            let look = Txn { then: keys().look(Some(&caller), view), ..Txn::new() };
            Line::read(&keys(), self.contents.commit(&look).unwrap()).unwrap()
        };
        if self.manner == Manner::Candidate {
            return look(QueueRead::Whole);
        }
        let queued = look(QueueRead::Near { queued: None }).queued(&keys(), caller.call);
        look(QueueRead::Near { queued })
    }

    fn look(&mut self, node: usize) -> bool {
        let line = self.line(node);
        let request = match line.step(&keys(), &self.caller(node), self.manner) {
            Step::Wait { .. } => return false,
            Step::Destroyed => unreachable!("nobody destroys it"),
            Step::SessionGone | Step::NoBase(_) => {
                self.nodes[node] = Phase::Done;
                return true;
            }
            Step::Adopt(hold) => {
                self.adopted = true;
                let base = hold.fence().get() - hold.created().0;
                self.lead(node, hold.created().0, base);
                return true;
            }
            Step::Enqueue(Entrance { owner_created, wanted_at }) => {
                Request::Enqueue { owner_created: owner_created.0, wanted_at: wanted_at.0 }
            }
            Step::Take(QueuePlace { queued, base }) => {
                Request::Grant { queued: queued.0, base: base.value, base_modified: base.modified.0 }
            }
            Step::Seize(Opening { base, wanted_at }) => {
                let (base, base_modified) = (base.value, base.modified.0);
                Request::Seize { base, base_modified, wanted_at: wanted_at.0 }
            }
        };
        self.ask(node, request);
        true
    }

    /// A context seizes the lock without a look at it, on the base and a revision that its process knows. Of those the
    /// present one is the most that can go wrong: an older one is refused where this is, and elsewhere.
    fn seize_unseen(&mut self, node: usize) {
        let (base_modified, wanted_at) = (self.contents.entries[BASE].2, self.contents.revision);
        self.ask(node, Request::Seize { base: 0, base_modified, wanted_at });
    }

    /// A context that believes it holds the lock looks whether it does.
    fn enter_again(&mut self, node: usize, (created, base, count): (u64, u64, u8)) {
        if self.line(node).shows(&hold(&self.caller(node), base, created)) {
            self.entered_again = true;
            self.nodes[node] = Phase::Leading { created, base, count: count + 1 };
        } else {
            self.told_of_loss = true;
            self.ask(node, Request::Withdraw);
        }
    }

    fn ask(&mut self, node: usize, request: Request) {
        self.network.insert((node, request));
        self.nodes[node] = Phase::Asking(request);
    }

    fn lead(&mut self, node: usize, created: u64, base: u64) {
        if !self.granted.contains(&(base + created, node)) {
            self.broken = Some(NOT_GRANTED);
        }
        self.nodes[node] = Phase::Leading { created, base, count: 1 };
    }

    /// What is wrong with a grant of the lock in this state, beside its fence.
    fn wrong_with(&self, request: Request) -> Option<&'static str> {
        let before = match request {
            Request::Grant { queued, .. } => Revision(queued),
            Request::Seize { .. } => Revision(u64::MAX),
            Request::Enqueue { .. } | Request::Release { .. } | Request::Withdraw => return None,
        };
        if self.contents.entries.contains_key(OWNER) {
            return Some(BESIDE);
        }
        self.contents.find(&keys().waiting()).iter().any(|waiter| waiter.created < before).then_some(OVERTAKEN)
    }

    fn deliver(&mut self, node: usize, request: Request, weaken: Weaken) {
        let caller = self.caller(node);
        let wrong = self.wrong_with(request);
        let mut txn = transaction(&caller, request);
        weaken(&keys(), &mut txn);
        let committed = self.contents.commit(&txn);
        let applied = committed.as_ref().filter(|committed| committed.succeeded).map(|committed| committed.revision.0);
        if let (Request::Grant { base, .. } | Request::Seize { base, .. }, Some(created)) = (request, applied) {
            self.broken = self.broken.or(wrong);
            if self.granted.iter().any(|(fence, _)| *fence >= base + created) {
                self.broken = Some(NOT_GROWN);
            }
            // Where a hand took the owner's key away before its call knew of it, the call may win anew.
            if self.deletions == 0 && self.granted.iter().any(|(_, to)| *to == node) {
                self.broken = Some(TWICE);
            }
            self.granted.push((base + created, node));
        }
        if self.nodes[node] != Phase::Asking(request) {
            return;
        }
        match (request, applied) {
            (Request::Grant { base, .. } | Request::Seize { base, .. }, Some(created)) => {
                self.lead(node, created, base);
            }
            (Request::Release { .. }, None) if self.manner == Manner::Context && !self.has_ended(node) => {
                let settled = committed.as_ref().and_then(|committed| committed.got(0));
                if LockKeys::was_settled(settled, caller.call) {
                    self.nodes[node] = Phase::Done;
                } else {
                    self.ask(node, Request::Withdraw);
                }
            }
            (Request::Release { .. }, _) => self.nodes[node] = Phase::Done,
            (Request::Withdraw, _) => {
                let owner = committed.as_ref().and_then(|committed| committed.got(2)).and_then(<[Entry]>::first);
                match owner.and_then(|owner| keys().hold_in(owner, &caller)) {
                    Some(hold) => {
                        let (created, base) = (hold.created().0, hold.fence().get() - hold.created().0);
                        self.ask(node, Request::Release { created, base });
                    }
                    None => self.nodes[node] = Phase::Done,
                }
            }
            _ => self.nodes[node] = Phase::Looking,
        }
    }

    fn has_ended(&self, node: usize) -> bool {
        self.contents.ended.contains(&lease(self.manner, node))
    }

    fn effect(&mut self, node: usize, created: u64, base: u64) -> bool {
        let proof = hold(&self.caller(node), base, created).still_held();
        let fence = base + created;
        if !proof.iter().all(|compare| self.contents.holds(compare)) || self.effect == fence {
            return false;
        }
        if fence < self.effect {
            self.broken = Some(REPLACED);
        }
        self.effect = fence;
        true
    }

    /// Everything has come to rest, and nobody's hand was in it. (A context makes good what a hand has done.)
    fn has_settled(&self) -> bool {
        (self.deletions == 0 || self.manner == Manner::Context)
            && self.network.is_empty()
            && self.nodes.iter().all(|phase| *phase == Phase::Done)
    }
}

impl Model for Contention {
    type State = World;
    type Action = Move;

    fn init_states(&self) -> Vec<World> {
        let manner = self.manner;
        let mut contents = Contents::new();
        for node in 0..self.nodes {
            let caller = caller(manner, node);
            if !contents.entries.contains_key(&caller.session_key) {
                contents.commit(&Txn::new().then(Op::put_leased(caller.session_key, "", caller.lease))).unwrap();
            }
        }
        contents.commit(&Txn::new().then(Op::put(BASE, "0"))).unwrap();
        vec![World {
            manner,
            nodes: vec![Phase::Beginning; self.nodes],
            contents,
            network: BTreeSet::new(),
            granted: Vec::new(),
            effect: 0,
            budget: self.budget,
            deletions: 0,
            broken: None,
            adopted: false,
            entered_again: false,
            told_of_loss: false,
        }]
    }

    fn actions(&self, world: &World, moves: &mut Vec<Move>) {
        for (node, phase) in world.nodes.iter().enumerate() {
            let may_abandon = world.budget.abandons > 0;
            match phase {
                Phase::Beginning if world.manner == Manner::Context => {
                    moves.extend([Move::SeizeUnseen(node), Move::Look(node)]);
                }
                Phase::Beginning | Phase::Looking => {
                    moves.push(Move::Look(node));
                    moves.extend(may_abandon.then_some(Move::Abandon(node)));
                }
                // These are sent until they are answered: their repetition is all that can come of a lost answer.
                Phase::Asking(Request::Release { .. } | Request::Withdraw) | Phase::Done => {}
                Phase::Asking(_) => {
                    moves.extend((world.budget.timeouts > 0).then_some(Move::GiveUp(node)));
                    moves.extend(may_abandon.then_some(Move::Abandon(node)));
                }
                Phase::Leading { .. } => {
                    moves.extend([Move::Resign(node), Move::Effect(node)]);
                    moves.extend((world.budget.entries > 0).then_some(Move::EnterAgain(node)));
                }
            }
            if world.budget.lease_ends > 0 && !world.has_ended(node) {
                moves.push(Move::EndLease(node));
            }
        }
        for (node, request) in &world.network {
            moves.push(Move::Deliver(*node, *request));
            if world.budget.repeats > 0 {
                moves.push(Move::Repeat(*node, *request));
            }
        }
        if world.budget.owner_deletions > 0 && world.contents.entries.contains_key(OWNER) {
            moves.push(Move::DeleteOwner);
        }
    }

    fn next_state(&self, world: &World, action: Move) -> Option<World> {
        let mut next = world.clone();
        let changed = match action {
            Move::Look(node) => next.look(node),
            Move::SeizeUnseen(node) => {
                next.seize_unseen(node);
                true
            }
            Move::Deliver(node, request) => {
                next.network.remove(&(node, request));
                next.deliver(node, request, self.weaken);
                true
            }
            Move::Repeat(node, request) => {
                next.budget.repeats -= 1;
                next.deliver(node, request, self.weaken);
                true
            }
            Move::GiveUp(node) => {
                next.budget.timeouts -= 1;
                next.nodes[node] = Phase::Looking;
                true
            }
            Move::Abandon(node) => {
                next.budget.abandons -= 1;
                next.ask(node, Request::Withdraw);
                true
            }
            Move::EnterAgain(node) => {
                let Phase::Leading { created, base, count } = next.nodes[node] else { return None };
                next.budget.entries -= 1;
                next.enter_again(node, (created, base, count));
                true
            }
            Move::Resign(node) => {
                let Phase::Leading { created, base, count } = next.nodes[node] else { return None };
                if count > 1 {
                    next.nodes[node] = Phase::Leading { created, base, count: count - 1 };
                } else {
                    next.ask(node, Request::Release { created, base });
                }
                true
            }
            Move::Effect(node) => {
                let Phase::Leading { created, base, .. } = next.nodes[node] else { return None };
                next.effect(node, created, base)
            }
            Move::EndLease(node) => {
                next.budget.lease_ends -= 1;
                next.contents.end(lease(next.manner, node));
                true
            }
            Move::DeleteOwner => {
                next.budget.owner_deletions -= 1;
                next.deletions += 1;
                next.contents.commit(&Txn::new().then(Op::delete(OWNER))).unwrap();
                true
            }
        };
        changed.then_some(next)
    }

    fn properties(&self) -> Vec<Property<Contention>> {
        vec![
            Property::always(NOT_GRANTED, |_, world: &World| world.broken != Some(NOT_GRANTED)),
            Property::always(NOT_GROWN, |_, world: &World| world.broken != Some(NOT_GROWN)),
            Property::always(TWICE, |_, world: &World| world.broken != Some(TWICE)),
            Property::always(BESIDE, |_, world: &World| world.broken != Some(BESIDE)),
            Property::always(OVERTAKEN, |_, world: &World| world.broken != Some(OVERTAKEN)),
            Property::always(REPLACED, |_, world: &World| world.broken != Some(REPLACED)),
            Property::always(LEFT, |_, world: &World| {
                let is_empty = |keys: &Keys| world.contents.find(keys).is_empty();
                !world.has_settled() || is_empty(&keys().waiting()) && is_empty(&Keys::one(OWNER))
            }),
            Property::sometimes("all have led", |model: &Contention, world: &World| world.granted.len() == model.nodes),
            Property::sometimes("a grant whose answer was lost is adopted", |_, world: &World| world.adopted),
            Property::sometimes("a replaced leader is turned away", |_, world: &World| {
                let leads = |phase: &&Phase| matches!(phase, Phase::Leading { .. });
                world.nodes.iter().filter(leads).count() > 1
            }),
            Property::sometimes(
                "a hold is entered again, where that is allowed",
                |model: &Contention, world: &World| model.budget.entries == 0 || world.entered_again,
            ),
            Property::sometimes("a context is told that it has lost", |model: &Contention, world: &World| {
                model.budget.entries == 0 || world.told_of_loss
            }),
        ]
    }
}

fn check(manner: Manner, nodes: usize, budget: Budget) {
    let checker = Contention { manner, nodes, budget, weaken: |_, _| {} }.checker().spawn_bfs().join();
    checker.assert_properties();
}

const NOTHING: Budget = Budget { timeouts: 0, repeats: 0, lease_ends: 0, owner_deletions: 0, abandons: 0, entries: 0 };

#[test]
fn two_nodes_keep_the_promises_in_every_interleaving() {
    let budget = Budget { timeouts: 1, repeats: 1, lease_ends: 1, owner_deletions: 1, ..NOTHING };
    check(Manner::Candidate, 2, budget);
}

#[test]
fn three_nodes_keep_the_promises_in_every_interleaving() {
    check(Manner::Candidate, 3, Budget { timeouts: 1, lease_ends: 1, ..NOTHING });
}

#[test]
fn two_contexts_of_one_session_keep_the_promises_in_every_interleaving() {
    let budget = Budget { timeouts: 1, repeats: 1, owner_deletions: 1, abandons: 1, entries: 2, ..NOTHING };
    check(Manner::Context, 2, budget);
}

#[test]
fn three_contexts_of_two_sessions_keep_the_promises_in_every_interleaving() {
    check(Manner::Context, 3, Budget { timeouts: 1, lease_ends: 1, entries: 1, ..NOTHING });
}

/// Without a comparison of each kind, one of the promises is broken, and the search finds it.
#[test]
fn each_comparison_of_a_grant_that_is_left_out_is_found() {
    let left_out: [(&'static str, Weaken); 3] = [
        (BESIDE, |keys, txn| txn.when.retain(|compare| compare.keys != Keys::one(keys.owner.as_str()))),
        (OVERTAKEN, |keys, txn| txn.when.retain(|compare| compare.keys != keys.waiting())),
        (LEFT, |_, txn| {
            txn.when.retain(|compare| !matches!(&compare.keys, Keys::One(key) if key.contains("/settled/")));
        }),
    ];
    for (promise, weaken) in left_out {
        let budget = Budget { timeouts: 1, abandons: 1, ..NOTHING };
        let model = Contention { manner: Manner::Context, nodes: 3, budget, weaken };
        let checker = model.checker().finish_when(HasDiscoveries::AnyOf([promise].into())).spawn_bfs().join();
        checker.assert_any_discovery(promise);
    }
}
