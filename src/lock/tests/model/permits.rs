//! Every interleaving of a few calls for the permits of one semaphore, over the transactions and decisions that the
//! program itself uses: requests are delayed, repeated, applied after their sender gave up on them; a session ends;
//! calls are taken back; the number of permits is lowered. And that this finds it when a comparison is left out.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use stateright::{Checker, HasDiscoveries, Model, Property};

use super::contents::Contents;
use super::{caller, lease};
use crate::lock::hold::{Manner, Proof, QueueRead};
use crate::lock::keys::{LockName, Namespace, SemaphoreKeys};
use crate::lock::permits::{Claim, PermitStep, Pool};
use crate::store::{Entry, Keys, Op, Revision, Txn};
use crate::time::Wall;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Found,
    Enqueue,
    Take,
    Release,
    Withdraw,
}

/// A request, with what it reads as: that is what it is told from others by.
#[derive(Debug)]
struct Request {
    call: usize,
    kind: Kind,
    txn: Txn,
    text: String,
}

impl PartialEq for Request {
    fn eq(&self, other: &Request) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Request {}

impl PartialOrd for Request {
    fn partial_cmp(&self, other: &Request) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Request {
    fn cmp(&self, other: &Request) -> Ordering {
        (self.call, &self.text).cmp(&(other.call, &other.text))
    }
}

impl Hash for Request {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.call, &self.text).hash(state);
    }
}

/// What a call is doing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Phase {
    /// Since when it waits, as far as it knows.
    Looking {
        queued: Option<Revision>,
    },
    Asking(Arc<Request>),
    Holding {
        created: Revision,
    },
    Done,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    contents: Contents,
    calls: Vec<Phase>,
    /// Requests under way, whether somebody still waits for them or not; sorted.
    network: Vec<Arc<Request>>,
    /// Who was granted permits, in this order.
    granted: Vec<usize>,
    budget: Budget,
    broken: Option<&'static str>,
    adopted: bool,
}

/// How much may still go wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Budget {
    timeouts: u8,
    repeats: u8,
    lease_ends: u8,
    abandons: u8,
    /// How often the number of permits is lowered by one.
    lowerings: u8,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Move {
    Look(usize),
    Deliver(Arc<Request>),
    /// It arrives, and will arrive again.
    Repeat(Arc<Request>),
    GiveUp(usize),
    Abandon(usize),
    Release(usize),
    EndLease(usize),
    Lower,
}

struct Sharing {
    permits: u32,
    /// How many each call asks for.
    asks: Vec<u32>,
    budget: Budget,
    /// What is left out of the transactions.
    weaken: fn(&SemaphoreKeys, &mut Txn),
}

const MORE_THAN_THERE_ARE: &str = "never more permits are out than there are";
const OVERTAKEN: &str = "nobody gets ahead of who came before";
const TWICE: &str = "a call is granted permits once";
const TAKEN_BACK: &str = "what is held is held until it is released or its session ends";
const LEFT: &str = "nothing waits or holds that nobody waits for or holds";
const STUCK: &str = "somebody can always go on";

fn keys() -> SemaphoreKeys {
    SemaphoreKeys::new(&Namespace::new("test").unwrap(), &LockName::new("gpu").unwrap())
}

impl Sharing {
    fn claim(&self, call: usize) -> Claim {
        Claim { caller: caller(Manner::Context, call), permits: self.asks[call] }
    }

    fn ask(&self, world: &mut World, call: usize, kind: Kind, mut txn: Txn) {
        (self.weaken)(&keys(), &mut txn);
        let request = Arc::new(Request { call, kind, text: format!("{txn:?}"), txn });
        if let Err(place) = world.network.binary_search(&request) {
            world.network.insert(place, request.clone());
        }
        world.calls[call] = Phase::Asking(request);
    }

    /// As the program decides on what it has read. Answers whether that was more than to wait on.
    fn decide(&self, world: &mut World, call: usize, pool: &Pool) -> bool {
        let claim = self.claim(call);
        let queued = pool.queued(&keys(), claim.caller.call);
        match pool.next(&keys(), &claim, Wall::EPOCH) {
            PermitStep::Adopt(proof) => {
                world.adopted = true;
                world.calls[call] = Phase::Holding { created: proof.created };
            }
            PermitStep::Found => self.ask(world, call, Kind::Found, keys().found(self.permits)),
            PermitStep::Enqueue(enqueue) => self.ask(world, call, Kind::Enqueue, enqueue),
            PermitStep::Take(take) => self.ask(world, call, Kind::Take, take),
            PermitStep::Wait { .. } => {
                let waits = Phase::Looking { queued };
                return std::mem::replace(&mut world.calls[call], waits.clone()) != waits;
            }
            PermitStep::SessionGone => world.calls[call] = Phase::Done,
            PermitStep::TooMany { .. } => self.withdraw(world, call),
            PermitStep::Unreadable => unreachable!("nobody else writes it"),
        }
        true
    }

    fn look(&self, world: &mut World, call: usize) -> bool {
        let Phase::Looking { queued } = world.calls[call] else { return false };
        let (claim, view) = (self.claim(call), QueueRead::Near { queued });
        let look = Txn { then: Pool::look(&keys(), Some(&claim.caller), view), ..Txn::new() };
        let pool = Pool::read(&keys(), world.contents.commit(&look).unwrap()).unwrap();
        self.decide(world, call, &pool)
    }

    fn withdraw(&self, world: &mut World, call: usize) {
        let withdraw = keys().withdraw(self.claim(call).caller.call);
        self.ask(world, call, Kind::Withdraw, withdraw);
    }

    fn deliver(&self, world: &mut World, request: &Arc<Request>) {
        let call = request.call;
        let waited = world.contents.find(&keys().waiting());
        let committed = world.contents.commit(&request.txn);
        let applied = committed.as_ref().filter(|committed| committed.succeeded).map(|committed| committed.revision);
        if request.kind == Kind::Take && applied.is_some() {
            world.broken = world.broken.or(self.wrong_with(world, call, &waited));
            world.granted.push(call);
        }
        if world.calls[call] != Phase::Asking(request.clone()) {
            return;
        }
        match (request.kind, committed) {
            // Refused, as its lease has ended.
            (Kind::Enqueue | Kind::Take, None) | (Kind::Release | Kind::Withdraw, _) => {
                world.calls[call] = Phase::Done;
            }
            (Kind::Take, Some(committed)) if committed.succeeded => {
                world.calls[call] = Phase::Holding { created: committed.revision };
            }
            (Kind::Enqueue, Some(committed)) if committed.succeeded => {
                world.calls[call] = Phase::Looking { queued: Some(committed.revision) };
            }
            (Kind::Found, _) => world.calls[call] = Phase::Looking { queued: None },
            (Kind::Enqueue | Kind::Take, Some(committed)) => {
                let pool = Pool::read(&keys(), committed).expect("what failed looks");
                self.decide(world, call, &pool);
            }
        }
    }

    /// Whether permits may just have been granted to `call`, when `waited` were waiting.
    fn wrong_with(&self, world: &mut World, call: usize, waited: &[Entry]) -> Option<&'static str> {
        let look = Txn { then: Pool::look(&keys(), None, QueueRead::Whole), ..Txn::new() };
        let pool = Pool::read(&keys(), world.contents.commit(&look).unwrap()).unwrap();
        let own = keys().wait(self.claim(call).caller.call);
        let place = waited.iter().find(|entry| entry.key == own).map_or(Revision(u64::MAX), |entry| entry.created);
        if pool.held() > u64::from(pool.permits().unwrap()) {
            Some(MORE_THAN_THERE_ARE)
        } else if waited.iter().any(|entry| entry.created < place) {
            Some(OVERTAKEN)
        } else {
            world.granted.contains(&call).then_some(TWICE)
        }
    }

    fn is_done(world: &World) -> bool {
        world.network.is_empty() && world.calls.iter().all(|phase| *phase == Phase::Done)
    }

    fn can_go_on(&self, world: &World) -> bool {
        let goes_on = |call: usize| match world.calls[call] {
            Phase::Looking { .. } => self.look(&mut world.clone(), call),
            Phase::Holding { .. } => true,
            Phase::Asking(_) | Phase::Done => false,
        };
        !world.network.is_empty() || Sharing::is_done(world) || (0..world.calls.len()).any(goes_on)
    }

    fn is_held(&self, world: &World, call: usize) -> bool {
        let Phase::Holding { created } = world.calls[call] else { return true };
        let held = Keys::one(keys().held(self.claim(call).caller.call));
        let has_ended = world.contents.ended.contains(&lease(Manner::Context, call));
        has_ended || world.contents.find(&held).first().is_some_and(|entry| entry.created == created)
    }

    fn proof(&self, call: usize, created: Revision) -> Proof {
        let caller = self.claim(call).caller;
        Proof { key: keys().held(caller.call), created, lease: caller.lease }
    }
}

impl Model for Sharing {
    type State = World;
    type Action = Move;

    fn init_states(&self) -> Vec<World> {
        let mut contents = Contents::new();
        for call in 0..self.asks.len() {
            let caller = caller(Manner::Context, call);
            if !contents.entries.contains_key(&caller.session_key) {
                contents.commit(&Txn::new().then(Op::put_leased(caller.session_key, "", caller.lease))).unwrap();
            }
        }
        let calls = vec![Phase::Looking { queued: None }; self.asks.len()];
        let (network, granted) = (Vec::new(), Vec::new());
        vec![World { contents, calls, network, granted, budget: self.budget, broken: None, adopted: false }]
    }

    fn actions(&self, world: &World, moves: &mut Vec<Move>) {
        let budget = &world.budget;
        for (call, phase) in world.calls.iter().enumerate() {
            match phase {
                Phase::Looking { .. } => {
                    moves.push(Move::Look(call));
                    moves.extend((budget.abandons > 0).then_some(Move::Abandon(call)));
                }
                Phase::Asking(request) if matches!(request.kind, Kind::Found | Kind::Enqueue | Kind::Take) => {
                    moves.extend((budget.timeouts > 0).then_some(Move::GiveUp(call)));
                    moves.extend((budget.abandons > 0).then_some(Move::Abandon(call)));
                }
                // These are sent until they are answered: their repetition is all that can come of a lost answer.
                Phase::Asking(_) | Phase::Done => {}
                Phase::Holding { .. } => moves.push(Move::Release(call)),
            }
            if budget.lease_ends > 0 && !world.contents.ended.contains(&lease(Manner::Context, call)) {
                moves.push(Move::EndLease(call));
            }
        }
        for request in &world.network {
            moves.push(Move::Deliver(request.clone()));
            moves.extend((budget.repeats > 0).then(|| Move::Repeat(request.clone())));
        }
        moves.extend((budget.lowerings > 0).then_some(Move::Lower));
    }

    fn next_state(&self, world: &World, action: Move) -> Option<World> {
        let mut next = world.clone();
        match action {
            Move::Look(call) => return self.look(&mut next, call).then_some(next),
            Move::Deliver(request) => {
                next.network.retain(|other| *other != request);
                self.deliver(&mut next, &request);
            }
            Move::Repeat(request) => {
                next.budget.repeats -= 1;
                self.deliver(&mut next, &request);
            }
            Move::GiveUp(call) => {
                next.budget.timeouts -= 1;
                next.calls[call] = Phase::Looking { queued: None };
            }
            Move::Abandon(call) => {
                next.budget.abandons -= 1;
                self.withdraw(&mut next, call);
            }
            Move::Release(call) => {
                let Phase::Holding { created } = next.calls[call] else { return None };
                let proof = self.proof(call, created);
                let release = keys().release(self.claim(call).caller.call, &proof);
                self.ask(&mut next, call, Kind::Release, release);
            }
            Move::EndLease(call) => {
                next.budget.lease_ends -= 1;
                next.contents.end(lease(Manner::Context, call));
            }
            Move::Lower => {
                next.budget.lowerings -= 1;
                next.contents.commit(&Txn::new().then(keys().number(self.permits - 1))).unwrap();
            }
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Sharing>> {
        vec![
            Property::always(MORE_THAN_THERE_ARE, |_, world: &World| world.broken != Some(MORE_THAN_THERE_ARE)),
            Property::always(OVERTAKEN, |_, world: &World| world.broken != Some(OVERTAKEN)),
            Property::always(TWICE, |_, world: &World| world.broken != Some(TWICE)),
            Property::always(TAKEN_BACK, |model: &Sharing, world: &World| {
                (0..world.calls.len()).all(|call| model.is_held(world, call))
            }),
            Property::always(LEFT, |_, world: &World| {
                let is_empty = |keys: &Keys| world.contents.find(keys).is_empty();
                !Sharing::is_done(world) || is_empty(&keys().waiting()) && is_empty(&keys().holding())
            }),
            Property::always(STUCK, Sharing::can_go_on),
            Property::sometimes("all get permits", |model: &Sharing, world: &World| {
                world.granted.len() == model.asks.len()
            }),
            Property::sometimes("a grant whose answer was lost is adopted", |model: &Sharing, world: &World| {
                model.budget.timeouts == 0 || world.adopted
            }),
            Property::sometimes(
                "who asks for many waits for them while one is free",
                |model: &Sharing, world: &World| {
                    let waiting = world.contents.find(&keys().waiting());
                    let first = waiting.iter().min_by_key(|entry| entry.created).map(|entry| entry.key.as_str());
                    let many = first == Some(keys().wait(model.claim(0).caller.call).as_str());
                    model.asks.iter().all(|asked| *asked == 1)
                        || many && model.permits == 2 && world.contents.find(&keys().holding()).len() == 1
                },
            ),
        ]
    }
}

fn nothing_left_out(_: &SemaphoreKeys, _: &mut Txn) {}

fn check(permits: u32, asks: &[u32], budget: Budget) {
    let model = Sharing { permits, asks: asks.to_vec(), budget, weaken: nothing_left_out };
    let checker = model.checker().spawn_bfs().join();
    checker.assert_properties();
}

#[test]
fn two_calls_for_one_permit_keep_the_promises_in_every_interleaving() {
    check(1, &[1, 1], Budget { timeouts: 1, repeats: 1, lease_ends: 1, abandons: 1, lowerings: 0 });
}

#[test]
fn three_calls_of_two_sessions_for_two_permits_keep_the_promises_in_every_interleaving() {
    check(2, &[2, 1, 1], Budget { timeouts: 1, lease_ends: 1, ..Budget::default() });
}

#[test]
fn calls_keep_the_promises_while_the_number_of_permits_is_lowered() {
    check(2, &[2, 1], Budget { timeouts: 1, repeats: 1, lease_ends: 1, lowerings: 1, ..Budget::default() });
}

/// Without a comparison of each kind, one of the promises is broken, and the search finds it.
#[test]
fn each_comparison_of_a_grant_that_is_left_out_is_found() {
    type Weaken = fn(&SemaphoreKeys, &mut Txn);
    let left_out: [(&'static str, Weaken); 4] = [
        (MORE_THAN_THERE_ARE, |keys, txn| txn.when.retain(|compare| compare.keys != keys.holding())),
        (MORE_THAN_THERE_ARE, |keys, txn| txn.when.retain(|compare| compare.keys != Keys::one(keys.permits.as_str()))),
        (OVERTAKEN, |keys, txn| txn.when.retain(|compare| compare.keys != keys.waiting())),
        (LEFT, |_, txn| {
            txn.when.retain(|compare| !matches!(&compare.keys, Keys::One(key) if key.contains("/settled/")))
        }),
    ];
    for (promise, weaken) in left_out {
        let budget = Budget { timeouts: 1, abandons: 1, lowerings: 1, ..Budget::default() };
        let model = Sharing { permits: 2, asks: vec![2, 1, 1], budget, weaken };
        let checker = model.checker().finish_when(HasDiscoveries::AnyOf([promise].into())).spawn_bfs().join();
        checker.assert_any_discovery(promise);
    }
}
