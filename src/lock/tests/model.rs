//! Every interleaving of a few nodes that contend for one lock, over the transactions and decisions that the program
//! itself uses: requests are delayed, repeated, applied after their sender gave up on them; leases end; an operator
//! deletes the owner's key.

use std::collections::{BTreeMap, BTreeSet};

use stateright::{Checker, Model, Property};

use super::{BASE, OWNER, call};
use crate::lock::hold::{Base, Caller, Entrance, Hold, Turn};
use crate::lock::keys::{LockKeys, LockName, Namespace};
use crate::lock::line::{Line, Step};
use crate::store::{Answer, Committed, Compare, Entry, Keys, LeaseId, Op, Order, Page, Revision, Test, Txn};
use crate::time::Wall;

/// Value, created, modified, lease.
type Fields = (Vec<u8>, u64, u64, Option<LeaseId>);

/// The contents of a store, small enough to be compared.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Contents {
    revision: u64,
    entries: BTreeMap<String, Fields>,
    ended: BTreeSet<LeaseId>,
}

impl Contents {
    fn find(&self, keys: &Keys) -> Vec<Entry> {
        let entry = |(key, (value, created, modified, lease)): (&String, &Fields)| Entry {
            key: key.clone(),
            value: value.clone(),
            created: Revision(*created),
            modified: Revision(*modified),
            lease: *lease,
        };
        self.entries.iter().filter(|(key, _)| keys.contains(key)).map(entry).collect()
    }

    fn holds(&self, compare: &Compare) -> bool {
        let nothing =
            Entry { key: String::new(), value: vec![], created: Revision(0), modified: Revision(0), lease: None };
        let mut found = self.find(&compare.keys);
        if found.is_empty() {
            found.push(nothing);
        }
        found.iter().all(|entry| match &compare.test {
            Test::Created(order, given) => Order::holds(*order, entry.created, *given),
            Test::Modified(order, given) => Order::holds(*order, entry.modified, *given),
            Test::Lease(lease) => entry.lease == *lease,
            Test::Value(value) => entry.value == *value,
        })
    }

    /// `None`: refused, because of a lease that has ended.
    fn commit(&mut self, txn: &Txn) -> Option<Committed> {
        let succeeded = txn.when.iter().all(|compare| self.holds(compare));
        let ops = if succeeded { &txn.then } else { &txn.otherwise };
        if ops.iter().any(|op| matches!(op, Op::Put { lease: Some(lease), .. } if self.ended.contains(lease))) {
            return None;
        }
        let next = self.revision + 1;
        let mut answers = Vec::new();
        for op in ops {
            answers.push(match op {
                Op::Put { key, value, lease } => {
                    let created = self.entries.get(key).map_or(next, |entry| entry.1);
                    self.entries.insert(key.clone(), (value.clone(), created, next, *lease));
                    self.revision = next;
                    Answer::Put
                }
                Op::Delete(keys) => Answer::Deleted(self.delete(keys, next)),
                Op::Get(range) => Answer::Got(Page { entries: self.find(&range.keys), ..Page::default() }),
            });
        }
        Some(Committed { succeeded, revision: Revision(self.revision), answers })
    }

    fn delete(&mut self, keys: &Keys, at: u64) -> u64 {
        let before = self.entries.len();
        self.entries.retain(|key, _| !keys.contains(key));
        let deleted = before - self.entries.len();
        if deleted > 0 {
            self.revision = at;
        }
        deleted as u64
    }

    fn end(&mut self, lease: LeaseId) {
        self.ended.insert(lease);
        self.entries.retain(|_, entry| entry.3 != Some(lease));
        self.revision += 1;
    }
}

/// What a node has sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Request {
    Enqueue { owner_created: u64, last_modified: u64 },
    Grant { queued: u64, base: u64, base_modified: u64 },
    Release { created: u64, base: u64 },
}

/// What a node is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Looking,
    Asking(Request),
    Leading { created: u64, base: u64 },
    Done,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
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
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Budget {
    timeouts: u8,
    repeats: u8,
    lease_ends: u8,
    owner_deletions: u8,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Move {
    Look(usize),
    Deliver(usize, Request),
    /// It arrives, and will arrive again.
    Repeat(usize, Request),
    GiveUp(usize),
    Resign(usize),
    Effect(usize),
    EndLease(usize),
    DeleteOwner,
}

struct Contention {
    nodes: usize,
    budget: Budget,
}

fn keys() -> LockKeys {
    LockKeys::new(&Namespace::new("test").unwrap(), &LockName::leader())
}

fn lease(node: usize) -> LeaseId {
    LeaseId((node as u64 + 1).try_into().unwrap())
}

fn caller(node: usize) -> Caller {
    Caller {
        call: call(node as u128),
        node: "n".into(),
        lease: lease(node),
        session_key: Namespace::new("test").unwrap().session_key(lease(node)),
        session_created: Revision(2 + node as u64),
    }
}

fn hold(node: usize, base: u64, created: u64) -> Hold {
    keys().hold(&caller(node), base, Revision(created)).unwrap()
}

fn transaction(node: usize, request: Request) -> Txn {
    match request {
        Request::Enqueue { owner_created, last_modified } => {
            let entrance = Entrance { owner_created: Revision(owner_created), last_modified: Revision(last_modified) };
            keys().enqueue(&caller(node), entrance, Wall::EPOCH)
        }
        Request::Grant { queued, base, base_modified } => {
            let base = Base { value: base, modified: Revision(base_modified) };
            keys().grant(&caller(node), Turn { queued: Revision(queued), base }, Wall::EPOCH)
        }
        Request::Release { created, base } => keys().release(&hold(node, base, created)),
    }
}

impl World {
    fn look(&mut self, node: usize) -> bool {
        let caller = caller(node);
        let look = Txn { then: keys().look(Some(&caller.session_key)), ..Txn::new() };
        let line = Line::read(&keys(), self.contents.commit(&look).unwrap()).unwrap();
        let request = match line.step(&keys(), &caller) {
            Step::Wait { .. } => return false,
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
            Step::Enqueue(Entrance { owner_created, last_modified }) => {
                Request::Enqueue { owner_created: owner_created.0, last_modified: last_modified.0 }
            }
            Step::Take(Turn { queued, base }) => {
                Request::Grant { queued: queued.0, base: base.value, base_modified: base.modified.0 }
            }
        };
        self.ask(node, request);
        true
    }

    fn ask(&mut self, node: usize, request: Request) {
        self.network.insert((node, request));
        self.nodes[node] = Phase::Asking(request);
    }

    fn lead(&mut self, node: usize, created: u64, base: u64) {
        if !self.granted.contains(&(base + created, node)) {
            self.broken = Some("a node leads under a fence that it was not granted");
        }
        self.nodes[node] = Phase::Leading { created, base };
    }

    fn deliver(&mut self, node: usize, request: Request) {
        let committed = self.contents.commit(&transaction(node, request));
        let applied = committed.filter(|committed| committed.succeeded).map(|committed| committed.revision.0);
        if let (Request::Grant { base, .. }, Some(created)) = (request, applied) {
            if self.granted.iter().any(|(fence, _)| *fence >= base + created) {
                self.broken = Some("a fence did not grow");
            }
            // Where a hand took the owner's key away before its call knew of it, the call may win anew.
            if self.deletions == 0 && self.granted.iter().any(|(_, to)| *to == node) {
                self.broken = Some("one call was granted twice");
            }
            self.granted.push((base + created, node));
        }
        if self.nodes[node] != Phase::Asking(request) {
            return;
        }
        match (request, applied) {
            (Request::Grant { base, .. }, Some(created)) => self.lead(node, created, base),
            (Request::Release { .. }, _) => self.nodes[node] = Phase::Done,
            _ => self.nodes[node] = Phase::Looking,
        }
    }

    fn effect(&mut self, node: usize, created: u64, base: u64) -> bool {
        let proof = hold(node, base, created).still_held();
        let fence = base + created;
        if !proof.iter().all(|compare| self.contents.holds(compare)) || self.effect == fence {
            return false;
        }
        if fence < self.effect {
            self.broken = Some("an effect of a replaced leader was accepted");
        }
        self.effect = fence;
        true
    }

    /// Everything has come to rest, and nobody's hand was in it.
    fn has_settled(&self) -> bool {
        self.deletions == 0 && self.network.is_empty() && self.nodes.iter().all(|phase| *phase == Phase::Done)
    }
}

impl Model for Contention {
    type State = World;
    type Action = Move;

    fn init_states(&self) -> Vec<World> {
        let mut contents = Contents { revision: 1, entries: BTreeMap::new(), ended: BTreeSet::new() };
        for node in 0..self.nodes {
            let caller = caller(node);
            contents.commit(&Txn::new().then(Op::put_leased(caller.session_key, "", caller.lease))).unwrap();
        }
        contents.commit(&Txn::new().then(Op::put(BASE, "0"))).unwrap();
        let nodes = vec![Phase::Looking; self.nodes];
        let (network, granted) = (BTreeSet::new(), Vec::new());
        let budget = self.budget;
        vec![World { contents, nodes, network, granted, effect: 0, budget, deletions: 0, broken: None, adopted: false }]
    }

    fn actions(&self, world: &World, moves: &mut Vec<Move>) {
        for (node, phase) in world.nodes.iter().enumerate() {
            match phase {
                Phase::Looking => moves.push(Move::Look(node)),
                // A release is sent until it is answered: its repetition is all that can come of a lost answer.
                Phase::Asking(Request::Release { .. }) | Phase::Done => {}
                Phase::Asking(_) if world.budget.timeouts > 0 => moves.push(Move::GiveUp(node)),
                Phase::Asking(_) => {}
                Phase::Leading { .. } => moves.extend([Move::Resign(node), Move::Effect(node)]),
            }
            if world.budget.lease_ends > 0 && !world.contents.ended.contains(&lease(node)) {
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
            Move::Deliver(node, request) => {
                next.network.remove(&(node, request));
                next.deliver(node, request);
                true
            }
            Move::Repeat(node, request) => {
                next.budget.repeats -= 1;
                next.deliver(node, request);
                true
            }
            Move::GiveUp(node) => {
                next.budget.timeouts -= 1;
                next.nodes[node] = Phase::Looking;
                true
            }
            Move::Resign(node) => {
                let Phase::Leading { created, base } = next.nodes[node] else { return None };
                next.ask(node, Request::Release { created, base });
                true
            }
            Move::Effect(node) => {
                let Phase::Leading { created, base } = next.nodes[node] else { return None };
                next.effect(node, created, base)
            }
            Move::EndLease(node) => {
                next.budget.lease_ends -= 1;
                next.contents.end(lease(node));
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
            Property::always("fences grow, and only who was granted one acts under it", |_, world: &World| {
                world.broken.is_none()
            }),
            Property::always("nothing waits that nobody waits for", |_, world: &World| {
                !world.has_settled() || world.contents.find(&keys().waiting()).is_empty()
            }),
            Property::sometimes("all have led", |model: &Contention, world: &World| world.granted.len() == model.nodes),
            Property::sometimes("a grant whose answer was lost is adopted", |_, world: &World| world.adopted),
            Property::sometimes("a replaced leader is turned away", |_, world: &World| {
                let leads = |phase: &&Phase| matches!(phase, Phase::Leading { .. });
                world.nodes.iter().filter(leads).count() > 1
            }),
        ]
    }
}

fn check(nodes: usize, budget: Budget) {
    let checker = Contention { nodes, budget }.checker().spawn_bfs().join();
    checker.assert_properties();
}

#[test]
fn two_nodes_keep_the_promises_in_every_interleaving() {
    check(2, Budget { timeouts: 1, repeats: 1, lease_ends: 1, owner_deletions: 1 });
}

#[test]
fn three_nodes_keep_the_promises_in_every_interleaving() {
    check(3, Budget { timeouts: 1, repeats: 0, lease_ends: 1, owner_deletions: 0 });
}
