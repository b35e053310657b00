//! The judgement over a run: its histories against the models, and two rules that follow from time alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::history::{Entry, Process, Run};
use crate::linear::{Nanos, Operation, Refusal, linearize};
use crate::model::{Context, Mutex, Permits, Step};
use crate::record::{Answer, Call, Event, Harm, Line, Object};

/// How much of a wrong history is shown: the calls that end it.
const SHOWN: usize = 40;

/// What was promised and not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// The answers are those of the model, in some order that respects time.
    Model(Object),
    /// Who was answered a lower fence had asked before the higher one was answered.
    FencesGrow(Object),
    /// Nobody believes that it holds what another believes to hold.
    OneBeliever(Object),
}

/// Looks for what was not kept, and tells it for people.
pub fn judge(run: &Run) -> Vec<(Rule, String)> {
    let mut found = Vec::new();
    for object in Object::ALL {
        let history = run.of(object);
        if let Err(refusal) = against_the_model(object, &history) {
            found.push((Rule::Model(object), tell(&history, &refusal)));
        }
    }
    let entries = run.entries();
    for object in Object::ALL {
        found.extend(falling_fence(run, &entries, object).map(|told| (Rule::FencesGrow(object), told)));
        found.extend(two_believers(run, &entries, object).map(|told| (Rule::OneBeliever(object), told)));
    }
    found
}

pub fn against_the_model(object: Object, history: &[Operation<Step>]) -> Result<usize, Refusal> {
    match object {
        Object::OwnerAware => linearize(&Mutex::OWNER_AWARE, history),
        Object::Reentrant => linearize(&Mutex::REENTRANT, history),
        Object::Fenced => linearize(&Mutex::FENCED, history),
        Object::ReentrantFenced => linearize(&Mutex::REENTRANT_FENCED, history),
        Object::Permits => linearize(&Permits { permits: Object::PERMITS }, history),
    }
}

/// The shortest prefix that is wrong: its last calls, in the order of their answers.
fn tell(history: &[Operation<Step>], refusal: &Refusal) -> String {
    let last = refusal.operation();
    let ends = history[last].answered.unwrap_or(history[last].invoked);
    let mut prefix: Vec<_> = (0..history.len()).filter(|index| history[*index].invoked <= ends).collect();
    let answered = |index: usize| history[index].answered.filter(|at| *at <= ends);
    prefix.sort_by_key(|index| (answered(*index).unwrap_or(Nanos::MAX), history[*index].invoked));
    let first = prefix.iter().map(|index| history[*index].invoked).min().unwrap_or_default();
    let millis = |at: Nanos| (at - first) as f64 / 1e6;
    let decided = prefix.iter().filter(|index| answered(**index).is_some()).count();
    let mut told = format!("{} of {} operations; the last {SHOWN} that were answered:\n", prefix.len(), history.len());
    for (place, index) in prefix.into_iter().enumerate().skip(decided.saturating_sub(SHOWN)) {
        let Operation { invoked, optional, step, who, .. } = &history[index];
        let end = answered(index).map_or("…".to_owned(), |at| format!("{:.3}", millis(at)));
        let maybe = if *optional { " (perhaps)" } else { "" };
        let mark = if index == last { ">>" } else { "  " };
        writeln!(told, "{mark}{place:5} {who:8} {:12.3} – {end:12} {step:?}{maybe}", millis(*invoked)).unwrap();
    }
    match refusal {
        Refusal::Inexplicable { possible, .. } => {
            told.push_str("the answer marked >> is that of none of the states that are possible by then:\n");
            possible.iter().take(SHOWN).for_each(|state| writeln!(told, "  {state}").unwrap());
        }
        Refusal::TooMuch { .. } => told.push_str("too much is under way at once to be judged\n"),
    }
    told
}

/// Needs no order to be found: a call that began after another was answered got a lower fence, or the same one in another
/// context.
fn falling_fence(run: &Run, entries: &[Entry], object: Object) -> Option<String> {
    let mut events: Vec<(Nanos, bool, u64, &Entry)> = Vec::new();
    for entry in entries.iter().filter(|entry| entry.object == object) {
        if let Some((at, Some(fence))) = entry.granted() {
            events.extend([(entry.invoked, false, fence, entry), (at, true, fence, entry)]);
        }
    }
    events.sort_by_key(|(at, is_answer, ..)| (*at, *is_answer));
    let mut highest: Option<(u64, &Entry)> = None;
    for (_, is_answer, fence, entry) in events {
        let before = highest.filter(|(other, _)| *other > fence);
        let same = highest.filter(|(other, before)| *other == fence && before.owner() != entry.owner());
        if let Some((other, before)) = before.or(same).filter(|_| !is_answer) {
            let (who, earlier) = (name(run, entry), name(run, before));
            return Some(format!("{who} was granted fence {fence} after {earlier} had been answered {other}"));
        }
        if is_answer && highest.is_none_or(|(other, _)| fence > other) {
            highest = Some((fence, entry));
        }
    }
    None
}

fn name(run: &Run, entry: &Entry) -> String {
    format!("{}/{} (call {})", run.processes[entry.process].name, entry.context, entry.number)
}

/// From when until when a context believed that it held something.
#[derive(Clone, Debug)]
pub struct Belief {
    pub object: Object,
    pub from: Nanos,
    pub to: Nanos,
    weight: u32,
    told: String,
}

/// Every hold for as long as its context believed in it: from the answer until it asks for the end, or its signal tells it
/// of that. **Exempt** is a process that stands still (stopped, killed, or not scheduled), from then on: it hears nothing,
/// and what protects then is the fence; and a session whose lease an operator revokes, from that on.
pub fn beliefs(run: &Run, entries: &[Entry]) -> Vec<Belief> {
    let mut beliefs: Vec<Belief> = Vec::new();
    // The hold of each context, by its first call, and how often it was entered.
    let mut holds: BTreeMap<(Context, Object), (Belief, u32)> = BTreeMap::new();
    for entry in entries {
        let key = (entry.owner(), entry.object);
        if let Some((from, _)) = entry.granted() {
            if let Some((_, count)) = holds.get_mut(&key) {
                *count += 1;
                continue;
            }
            let weight = if let Call::Acquire(permits, _) = entry.call { permits } else { 1 };
            let to = unbelieved(run, entry, from);
            let (object, told) = (entry.object, name(run, entry));
            let belief = Belief { object, from, to, weight, told };
            holds.insert(key, (belief, 1));
            continue;
        }
        let Some((belief, count)) = holds.get_mut(&key) else { continue };
        let is_end = match (entry.call, entry.answer.map(|(_, answer)| answer)) {
            (Call::Release(_) | Call::Drop(_), _) => true,
            (Call::Unlock(_), Some(Answer::Done)) if *count > 1 => {
                *count -= 1;
                false
            }
            (Call::Unlock(_), _) => *count == 1,
            (_, Some(Answer::Lost(_))) => true,
            _ => false,
        };
        let lost = matches!(entry.answer, Some((_, Answer::Lost(_) | Answer::NotOwner)));
        if is_end || lost {
            belief.to = belief.to.min(entry.invoked);
            beliefs.extend(holds.remove(&key).map(|(belief, _)| belief));
        }
    }
    beliefs.extend(holds.into_values().map(|(belief, _)| belief));
    beliefs.retain(|belief| belief.from < belief.to);
    beliefs
}

/// When the context stops believing in the hold that `entry` gave, or is exempt, unless it gives it up before.
fn unbelieved(run: &Run, entry: &Entry, from: Nanos) -> Nanos {
    let Process { lines, halted, .. } = &run.processes[entry.process];
    let ends = lines.iter().filter_map(|line| match &line.event {
        Event::Signal { context, number, .. } if (*context, *number) == (entry.context, entry.number) => Some(line.at),
        Event::StoodStill { from: still } if line.at >= from => Some(*still),
        Event::Closing { lease } if *lease == entry.lease => Some(line.at),
        _ => None,
    });
    let halted = halted.iter().copied().filter(|at| *at >= from);
    let revoked = run.revoked.get(&entry.lease).copied();
    let last = lines.last().map(|line| line.at);
    ends.chain(halted).chain(revoked).chain(last).min().unwrap_or(from)
}

fn two_believers(run: &Run, entries: &[Entry], object: Object) -> Option<String> {
    let beliefs: Vec<_> = beliefs(run, entries).into_iter().filter(|belief| belief.object == object).collect();
    let mut events: Vec<_> = beliefs.iter().enumerate().flat_map(|(i, b)| [(b.from, true, i), (b.to, false, i)]).collect();
    // In one moment, ends come first.
    events.sort_unstable();
    let mut holding = BTreeSet::new();
    for (_, begins, index) in events {
        if begins {
            holding.insert(index);
        } else {
            holding.remove(&index);
        }
        let held: u32 = holding.iter().map(|index| beliefs[*index].weight).sum();
        if held > object.capacity() {
            let all: Vec<_> = holding.iter().map(|index| beliefs[*index].told.as_str()).collect();
            return Some(format!("at one time believed to hold it: {}", all.join(" and ")));
        }
    }
    None
}

/// What a run consisted of.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub calls: usize,
    /// Holds, by object.
    pub grants: BTreeMap<Object, usize>,
    /// Which processes got anything.
    pub granted: BTreeSet<usize>,
    pub lost: usize,
    pub signals: usize,
    pub limits: usize,
    pub reentries: usize,
    pub strangers: usize,
    pub unknown: usize,
    pub dropped: usize,
    pub harms: BTreeMap<Harm, usize>,
}

pub fn tally(run: &Run) -> Tally {
    let mut tally = Tally::default();
    let mut depth: BTreeMap<(Context, Object), u32> = BTreeMap::new();
    for entry in run.entries() {
        tally.calls += 1;
        let deep = depth.entry((entry.owner(), entry.object)).or_default();
        match entry.answer.map(|(_, answer)| answer) {
            Some(Answer::Granted(_)) => {
                *deep += 1;
                tally.reentries += usize::from(*deep > 1 && entry.object != Object::Permits);
                *tally.grants.entry(entry.object).or_default() += 1;
                tally.granted.insert(entry.process);
            }
            Some(Answer::Done) => *deep = deep.saturating_sub(1),
            Some(Answer::Lost(_) | Answer::HadEnded) => {
                *deep = 0;
                tally.lost += 1;
            }
            Some(Answer::NotOwner) => {
                *deep = 0;
                tally.strangers += 1;
            }
            Some(Answer::LimitReached) => tally.limits += 1,
            Some(Answer::Unknown(_)) => tally.unknown += 1,
            Some(Answer::Dropped) => tally.dropped += 1,
            _ => {}
        }
    }
    for Line { event, .. } in run.processes.iter().flat_map(|process| &process.lines) {
        match event {
            Event::Harm(harm) => *tally.harms.entry(*harm).or_default() += 1,
            Event::Signal { .. } => tally.signals += 1,
            _ => {}
        }
    }
    tally
}
