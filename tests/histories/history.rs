//! From what the processes wrote down, and what was done to them, to histories that can be judged: one for each object,
//! as a history of several objects can be put in order exactly when those of each object can.

use std::collections::BTreeMap;

use crate::linear::{Nanos, Operation};
use crate::model::{Context, Step};
use crate::record::{Answer, Call, Event, Line, Object, Patience};

/// One process, with what it wrote.
#[derive(Clone, Debug)]
pub struct Process {
    pub name: String,
    pub lines: Vec<Line>,
    /// When it was killed or stopped.
    pub halted: Vec<Nanos>,
}

/// Everything that is known of a run.
#[derive(Clone, Debug, Default)]
pub struct Run {
    pub processes: Vec<Process>,
    /// When the leases were revoked that were.
    pub revoked: BTreeMap<u64, Nanos>,
}

/// A call with its answer.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    pub process: usize,
    pub context: u32,
    pub number: u64,
    pub lease: u64,
    pub object: Object,
    pub call: Call,
    pub invoked: Nanos,
    pub answer: Option<(Nanos, &'a Answer)>,
}

impl Entry<'_> {
    pub fn owner(&self) -> Context {
        self.process as Context * 100 + self.context
    }

    fn conclusive(&self) -> Option<(Nanos, &Answer)> {
        self.answer.filter(|(_, answer)| answer.is_conclusive())
    }

    /// The fence of the hold that the call gave, and when that was known: `None` where it gave none.
    pub fn granted(&self) -> Option<(Nanos, Option<u64>)> {
        match self.answer {
            Some((at, Answer::Granted(fence))) => Some((at, *fence)),
            _ => None,
        }
    }
}

/// From when on a session may have ended, and by when it has.
#[derive(Clone, Copy, Debug, Default)]
pub struct End {
    pub from: Nanos,
    pub by: Option<Nanos>,
}

impl Run {
    /// Every call, by process and context in the order of the calls.
    pub fn entries(&self) -> Vec<Entry<'_>> {
        let mut entries = Vec::new();
        for (process, found) in self.processes.iter().enumerate() {
            let mut calls: BTreeMap<(u32, u64), Entry> = BTreeMap::new();
            for Line { at, event } in &found.lines {
                match event {
                    Event::Call { context, number, lease, object, call } => {
                        let (context, number, lease, object, call) = (*context, *number, *lease, *object, *call);
                        let invoked = *at;
                        let entry = Entry { process, context, number, lease, object, call, invoked, answer: None };
                        calls.insert((context, number), entry);
                    }
                    Event::Answer { context, number, answer } => {
                        let entry = calls.get_mut(&(*context, *number)).expect("a call comes before its answer");
                        entry.answer = Some((*at, answer));
                    }
                    _ => {}
                }
            }
            entries.extend(calls.into_values());
        }
        entries
    }

    /// When each session may have ended. **Not before its trust has**: whoever holds something under a session may act on
    /// it until then, without asking. Only an operator that revokes its lease, and the session that is closed, end it
    /// earlier.
    pub fn ends(&self) -> BTreeMap<u64, End> {
        let mut ends: BTreeMap<u64, End> = BTreeMap::new();
        for line in self.processes.iter().flat_map(|process| &process.lines) {
            match line.event {
                Event::Trust { lease, until, ended: false } => {
                    let end = ends.entry(lease).or_default();
                    end.from = end.from.max(until);
                }
                Event::Closed { lease } => ends.entry(lease).or_default().by = Some(line.at),
                _ => {}
            }
        }
        for line in self.processes.iter().flat_map(|process| &process.lines) {
            if let Event::Closing { lease } = line.event {
                let end = ends.entry(lease).or_default();
                end.from = end.from.min(line.at);
            }
        }
        for (lease, revoked) in &self.revoked {
            let end = ends.entry(*lease).or_default();
            end.from = end.from.min(*revoked);
        }
        ends
    }

    /// The history of one object.
    pub fn of(&self, object: Object) -> Vec<Operation<Step>> {
        let mut history: Vec<_> = self.ends().into_iter().map(|(lease, end)| self.end(lease, end)).collect();
        // The unlocking of which a context does not know what became of it.
        let mut open: BTreeMap<Context, usize> = BTreeMap::new();
        // Since when a context has asked without hearing an answer that says anything.
        let mut dropped: BTreeMap<Context, Nanos> = BTreeMap::new();
        for entry in self.entries().iter().filter(|entry| entry.object == object) {
            let owner = entry.owner();
            if let (Call::Unlock(_), Some((at, Answer::Done)), Some(earlier)) =
                (entry.call, entry.answer, open.get(&owner))
            {
                // Both calls together unlocked once.
                let earlier: &mut Operation<Step> = &mut history[*earlier];
                (earlier.answered, earlier.optional) = (Some(at), false);
                open.remove(&owner);
                continue;
            }
            // Whatever a context does next on a lock settles first what is open.
            if let Some((at, _)) = entry.conclusive()
                && let Some(earlier) = open.remove(&owner)
            {
                history[earlier].answered = Some(at);
            }
            // It may have been given back by a call before this one, whose future was dropped before it could tell.
            let since = *dropped.entry(owner).or_insert(entry.invoked);
            if entry.conclusive().is_some() {
                dropped.remove(&owner);
            }
            let Some((step, optional)) = step(entry) else { continue };
            if let (Step::NotOwner { context }, Some((at, Answer::Lost(_)))) = (&step, entry.answer)
                && self.lapsed_between(entry, (since, at))
            {
                let (answered, who) = (Some(at), format!("{}/{}", self.processes[entry.process].name, entry.context));
                let step = Step::GivenBack { context: *context };
                history.push(Operation { invoked: since, answered, optional: false, step, who });
                continue;
            }
            if optional && matches!(entry.call, Call::Unlock(_)) {
                if open.contains_key(&owner) {
                    continue;
                }
                open.insert(owner, history.len());
            }
            history.push(Operation {
                invoked: entry.invoked,
                answered: entry.answer.map(|(at, _)| at).filter(|_| !optional),
                optional,
                step,
                who: format!("{}/{}", self.processes[entry.process].name, entry.context),
            });
        }
        history
    }

    /// Whether, at some moment of the call, no keep-alive of its session had been acknowledged in time. The session may
    /// have gone on after that, and a hold that was asked for at that moment is given back all the same.
    fn lapsed_between(&self, entry: &Entry, (since, answered): (Nanos, Nanos)) -> bool {
        let mut until = None;
        for line in &self.processes[entry.process].lines {
            let Event::Trust { lease, until: next, ended: false } = line.event else { continue };
            if lease != entry.lease || line.at > answered {
                continue;
            }
            if line.at >= since && until.is_some_and(|until| until <= line.at) {
                return true;
            }
            until = until.max(Some(next));
        }
        until.is_some_and(|until| until <= answered)
    }

    fn end(&self, lease: u64, end: End) -> Operation<Step> {
        let opened = |line: &Line| line.event == Event::Opened { lease };
        let whose = self.processes.iter().find(|process| process.lines.iter().any(opened));
        Operation {
            invoked: end.from,
            answered: end.by,
            optional: end.by.is_none(),
            step: Step::Ended { session: lease },
            who: whose.map_or_else(|| "?".to_owned(), |process| process.name.clone()),
        }
    }
}

/// What a call did, and whether that is uncertain. `None`: nothing that another could see.
///
/// A call to lock that nobody knows the end of is left out: if it took effect, then nobody could tell, as its context
/// settles it before it does anything else; and what it kept others from doing, they may also not have done.
fn step(entry: &Entry) -> Option<(Step, bool)> {
    let context = entry.owner();
    let certain = |step| Some((step, false));
    match (entry.call, entry.answer.map(|(_, answer)| answer)) {
        (Call::Lock(_), Some(Answer::Granted(fence))) => {
            certain(Step::Entered { context, session: entry.lease, fence: *fence })
        }
        (Call::Lock(_), Some(Answer::LimitReached)) => certain(Step::LimitReached { context }),
        (Call::Lock(Patience::None | Patience::For(_)), Some(Answer::Refused)) => certain(Step::Refused { context }),
        (Call::Unlock(_), Some(Answer::Done)) => certain(Step::Left { context }),
        (Call::Unlock(_), None | Some(Answer::Unknown(_) | Answer::Dropped)) => Some((Step::Left { context }, true)),
        (Call::Lock(_) | Call::Unlock(_) | Call::Fence | Call::Count, Some(Answer::NotOwner | Answer::Lost(_))) => {
            certain(Step::NotOwner { context })
        }
        (Call::Fence, Some(Answer::Fence(fence))) => certain(Step::Shown { context, fence: *fence }),
        (Call::Count, Some(Answer::Count(count))) => certain(Step::Counted { context, count: *count }),
        (Call::Acquire(permits, _), Some(Answer::Granted(_))) => {
            certain(Step::Acquired { claim: (context, entry.number), session: entry.lease, permits })
        }
        (Call::Release(number), Some(Answer::Done)) => certain(Step::Released { claim: (context, number) }),
        (Call::Release(number), Some(Answer::HadEnded)) => certain(Step::HadEnded { claim: (context, number) }),
        (Call::Drop(number), _) | (Call::Release(number), None | Some(Answer::Unknown(_) | Answer::Dropped)) => {
            Some((Step::Released { claim: (context, number) }, true))
        }
        _ => None,
    }
}
