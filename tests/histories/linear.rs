//! Whether a history can be put in one order that a sequential model allows, and that respects time.
//!
//! This is the just-in-time linearization of G. Lowe, "Testing for linearizability" (Concurrency and Computation:
//! Practice and Experience 29(4), 2017), which goes back to J. Wing and C. Gong, "Testing and verifying concurrent
//! objects" (Journal of Parallel and Distributed Computing 17, 1993): the history is walked through in the order of time,
//! with every *configuration* that it allows (a state of the model, and which of the calls under way have taken effect
//! already). A call takes effect only when that is needed for one that is being answered. What is remembered is as large
//! as what is under way at once, however long the history; and the first answer that no configuration explains ends the
//! shortest prefix that is wrong.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::hash::Hash;

/// Nanoseconds of the machine's boot clock, which all its processes share.
pub type Nanos = u64;

/// How many calls may be under way at once, those included that never get an answer.
const SLOTS: usize = 2048;

/// How many configurations one answer may have to be looked for among.
const MOST_CONFIGURATIONS: usize = 1 << 16;

/// What the objects of one kind do when they are used by one caller at a time.
pub trait Model {
    type State: Clone + Eq + Hash + fmt::Debug;
    type Step: fmt::Debug;

    fn start(&self) -> Self::State;

    /// The state after `step`, answered as it was; `None`: in this state it is not answered so.
    fn apply(&self, state: &Self::State, step: &Self::Step) -> Option<Self::State>;

    /// Whether a step from `before` to `after` gave nobody anything to see: there is then no use in an optional one.
    fn is_idle(&self, before: &Self::State, after: &Self::State) -> bool {
        before == after
    }
}

/// One call of a history.
#[derive(Clone, Debug)]
pub struct Operation<S> {
    pub invoked: Nanos,
    /// `None`: not answered, or not before the history ends.
    pub answered: Option<Nanos>,
    /// It may as well not have taken effect; if it did, then before `answered`.
    pub optional: bool,
    pub step: S,
    /// Who called, for people.
    pub who: String,
}

/// Why a history is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No order explains this answer. `possible`: what the object's state may have been.
    Inexplicable { operation: usize, possible: Vec<String> },
    /// The search was given up: too much is under way at once.
    TooMuch { operation: usize },
}

impl Refusal {
    /// The operation at whose answer the search ended.
    pub fn operation(&self) -> usize {
        match self {
            Refusal::Inexplicable { operation, .. } | Refusal::TooMuch { operation } => *operation,
        }
    }
}

/// Which of the calls under way, by slot, have taken effect.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Done([u64; SLOTS / 64]);

impl Done {
    fn has(&self, slot: usize) -> bool {
        self.0[slot / 64] & 1 << (slot % 64) != 0
    }

    fn with(mut self, slot: usize) -> Done {
        self.0[slot / 64] |= 1 << (slot % 64);
        self
    }

    fn without(mut self, slot: usize) -> Done {
        self.0[slot / 64] &= !(1 << (slot % 64));
        self
    }
}

/// A state that the model may be in, and what has taken effect.
type Configuration<S> = (S, Done);

/// Looks for an order. Answers the most configurations that there were at once.
pub fn linearize<M: Model>(model: &M, history: &[Operation<M::Step>]) -> Result<usize, Refusal> {
    let mut events: Vec<(Nanos, bool, usize)> = Vec::new();
    for (index, operation) in history.iter().enumerate() {
        // What begins in the moment in which another thing ends may have happened before it.
        events.push((operation.invoked, false, index));
        events.extend(operation.answered.map(|at| (at.max(operation.invoked), true, index)));
    }
    events.sort_unstable();
    let mut under_way: BTreeMap<usize, usize> = BTreeMap::new();
    let mut configurations = HashSet::from([(model.start(), Done([0; SLOTS / 64]))]);
    let mut most = 1;
    for (_, is_answer, index) in events {
        if !is_answer {
            let free = (0..SLOTS).find(|slot| !under_way.contains_key(slot));
            under_way.insert(free.ok_or(Refusal::TooMuch { operation: index })?, index);
            continue;
        }
        let found = under_way.iter().find(|(_, found)| **found == index);
        let slot = *found.expect("it was invoked before").0;
        let search = Search { model, history, under_way: &under_way };
        configurations = if history[index].optional {
            // It did not take effect, or it has by now.
            match search.explain(configurations.clone(), slot) {
                Ok(explained) => explained.into_iter().chain(configurations).collect(),
                Err(Refusal::Inexplicable { .. }) => configurations,
                Err(too_much) => return Err(too_much),
            }
        } else {
            search.explain(configurations, slot)?
        };
        most = most.max(configurations.len());
        under_way.remove(&slot);
        configurations = configurations.into_iter().map(|(state, done)| (state, done.without(slot))).collect();
    }
    Ok(most)
}

struct Search<'a, M: Model> {
    model: &'a M,
    history: &'a [Operation<M::Step>],
    under_way: &'a BTreeMap<usize, usize>,
}

impl<M: Model> Search<'_, M> {
    /// The configurations in which the call of this slot has taken effect, that can follow from these.
    fn explain(
        &self,
        before: HashSet<Configuration<M::State>>,
        slot: usize,
    ) -> Result<HashSet<Configuration<M::State>>, Refusal> {
        let operation = self.under_way[&slot];
        let mut rest: Vec<_> = before.iter().cloned().collect();
        let mut seen = before;
        let mut explained = HashSet::new();
        while let Some((state, done)) = rest.pop() {
            if done.has(slot) {
                explained.insert((state, done));
                continue;
            }
            if seen.len() > MOST_CONFIGURATIONS {
                return Err(Refusal::TooMuch { operation });
            }
            for next in self.next(&state, done) {
                if seen.insert(next.clone()) {
                    rest.push(next);
                }
            }
        }
        if explained.is_empty() {
            let mut possible: Vec<_> = seen.iter().map(|(state, _)| format!("{state:?}")).collect();
            possible.sort();
            possible.dedup();
            return Err(Refusal::Inexplicable { operation, possible });
        }
        Ok(explained)
    }

    /// What one call taking effect can make of it.
    fn next(&self, state: &M::State, done: Done) -> Vec<Configuration<M::State>> {
        let open = self.under_way.iter().filter(|(slot, _)| !done.has(**slot));
        open.filter_map(|(slot, index)| {
            let operation = &self.history[*index];
            let after = self.model.apply(state, &operation.step)?;
            let pointless = operation.optional && self.model.is_idle(state, &after);
            (!pointless).then_some((after, done.with(*slot)))
        })
        .collect()
    }
}
