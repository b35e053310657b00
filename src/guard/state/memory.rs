//! A state that is gone with its process.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use uuid::Uuid;

use super::{Bounds, KEY_OVERHEAD, SWEEP};
use crate::fence::Fence;
use crate::guard::{
    Answer, Answered, Asked, Decision, Digest, End, Entry, Found, InDoubt, Progress, SCOPES_MOST, decide,
};
use crate::time::{Clock, Wall};

#[derive(Debug)]
pub(in crate::guard) struct Memory {
    bounds: Bounds,
    clock: Clock,
    contents: Mutex<Contents>,
}

#[derive(Debug, Default)]
struct Contents {
    scopes: HashMap<Arc<str>, Scope>,
    in_flight: HashMap<Uuid, Flight>,
    /// The keys that are not in flight, by when they expire.
    expiries: BTreeMap<(Wall, Uuid), (Arc<str>, Arc<str>)>,
    keys: u64,
    bytes: u64,
}

#[derive(Debug)]
struct Scope {
    seen: Fence,
    in_flight: BTreeSet<(Fence, Uuid)>,
    keys: HashMap<Arc<str>, Kept>,
}

#[derive(Debug)]
struct Flight {
    scope: Arc<str>,
    key: Option<Arc<str>>,
    fence: Fence,
}

#[derive(Debug)]
struct Kept {
    id: Uuid,
    digest: Digest,
    what: What,
    bytes: u64,
}

#[derive(Debug)]
enum What {
    InFlight,
    InDoubt { expires: Wall },
    Done { answer: Answer, expires: Wall },
}

impl Memory {
    pub(super) fn new(bounds: Bounds, clock: Clock) -> Memory {
        Memory { bounds, clock, contents: Mutex::default() }
    }

    pub(super) fn ask(&self, asked: &Asked, in_doubt: InDoubt) -> Answered {
        let now = self.clock.wall();
        let mut contents = self.contents.lock().unwrap_or_else(PoisonError::into_inner);
        contents.sweep(now);
        contents.ask(asked, in_doubt, &self.bounds, now)
    }

    pub(super) fn end(&self, id: Uuid, end: &End) {
        let expires = self.clock.wall().plus(self.bounds.keep);
        self.contents.lock().unwrap_or_else(PoisonError::into_inner).end(id, end, expires);
    }
}

impl Contents {
    fn ask(&mut self, asked: &Asked, in_doubt: InDoubt, bounds: &Bounds, now: Wall) -> Answered {
        let request = &asked.request;
        let full = bounds.full(self.keys, self.bytes);
        if !self.scopes.contains_key(asked.scope.as_str()) {
            if self.scopes.len() as u64 >= SCOPES_MOST {
                return Answered::Decided(Decision::Full);
            }
            let first = Found { seen: None, entry: None, older_in_flight: false, full: false };
            let decision = decide(&first, request.fence, in_doubt);
            if !decision.has_seen() {
                return Answered::Decided(decision);
            }
            let scope = Scope { seen: request.fence, in_flight: BTreeSet::new(), keys: HashMap::new() };
            self.scopes.insert(asked.scope.as_str().into(), scope);
        }
        let (name, _) = self.scopes.get_key_value(asked.scope.as_str()).expect("it was put there");
        let name = Arc::clone(name);
        let scope = self.scopes.get_mut(&name).expect("it was put there");
        let kept = request.key.as_deref().and_then(|key| scope.keys.get(key)).filter(|kept| !kept.what.expired(now));
        let found = Found {
            seen: Some(scope.seen),
            entry: kept.map(|kept| Entry {
                payload: request.digest.stands_to(kept.digest.as_bytes()),
                progress: kept.what.progress(),
            }),
            older_in_flight: scope.in_flight.first().is_some_and(|(oldest, _)| *oldest < request.fence),
            full: full && request.key.is_some(),
        };
        let decision = decide(&found, request.fence, in_doubt);
        if decision.has_seen() {
            scope.seen = request.fence;
        }
        match (decision, kept.map(|kept| &kept.what)) {
            (Decision::Replay, Some(What::Done { answer, .. })) => return Answered::Replay(answer.clone()),
            (Decision::Admit, _) => self.admit(asked, name),
            _ => {}
        }
        Answered::Decided(decision)
    }

    fn admit(&mut self, asked: &Asked, name: Arc<str>) {
        let request = &asked.request;
        let key: Option<Arc<str>> = request.key.as_deref().map(Arc::from);
        if let Some(key) = &key {
            self.forget(&name, key);
            let bytes = KEY_OVERHEAD + (name.len() + key.len()) as u64;
            self.keys += 1;
            self.bytes += bytes;
            let kept = Kept { id: asked.id, digest: request.digest, what: What::InFlight, bytes };
            self.scopes.get_mut(&name).expect("it was found").keys.insert(Arc::clone(key), kept);
        }
        let scope = self.scopes.get_mut(&name).expect("it was found");
        scope.in_flight.insert((request.fence, asked.id));
        self.in_flight.insert(asked.id, Flight { scope: name, key, fence: request.fence });
    }

    fn end(&mut self, id: Uuid, end: &End, expires: Wall) {
        let Some(Flight { scope: name, key, fence }) = self.in_flight.remove(&id) else { return };
        let scope = self.scopes.get_mut(&name).expect("a scope is never forgotten");
        scope.in_flight.remove(&(fence, id));
        let Some(key) = key else { return };
        let Some(kept) = scope.keys.get_mut(&key).filter(|kept| kept.id == id) else { return };
        kept.what = match end {
            End::Again => return self.forget(&name, &key),
            End::Unknown => What::InDoubt { expires },
            End::Done(answer) => {
                let headers: usize = answer.headers.iter().map(|(name, value)| name.len() + value.len() + 64).sum();
                let bytes = (answer.body.len() + headers) as u64;
                kept.bytes += bytes;
                self.bytes += bytes;
                What::Done { answer: answer.clone(), expires }
            }
        };
        self.expiries.insert((expires, id), (name, key));
    }

    fn forget(&mut self, name: &str, key: &str) {
        let kept = self.scopes.get_mut(name).and_then(|scope| scope.keys.remove(key));
        let Some(kept) = kept else { return };
        self.keys -= 1;
        self.bytes -= kept.bytes;
        if let What::InDoubt { expires } | What::Done { expires, .. } = kept.what {
            self.expiries.remove(&(expires, kept.id));
        }
    }

    fn sweep(&mut self, now: Wall) {
        for _ in 0..SWEEP {
            let Some(first) = self.expiries.first_entry().filter(|first| first.key().0 <= now) else { return };
            let (name, key) = first.get().clone();
            self.forget(&name, &key);
        }
    }
}

impl What {
    fn progress(&self) -> Progress {
        match self {
            What::InFlight => Progress::InFlight,
            What::InDoubt { .. } => Progress::InDoubt,
            What::Done { .. } => Progress::Done,
        }
    }

    fn expired(&self, now: Wall) -> bool {
        match self {
            What::InFlight => false,
            What::InDoubt { expires } | What::Done { expires, .. } => *expires <= now,
        }
    }
}
