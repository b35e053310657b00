//! One of the processes of a run: a session with several contexts that use all objects at random, and write down what they
//! do. The test binary starts itself again for it.

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fencron::lock::{
    Config, Driver, FencedLock, LockContext, LockError, LockName, Locks, Namespace, Permits, Presence, Reentrancy,
    Resigned, Seen, Semaphore, SemaphoreError, Session, Timing,
};
use fencron::store::AnyStore;
use fencron::time::Clock;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::chance::Chance;
use crate::record::{Answer, Call, Event, Object, Patience, Recorder, now};
use crate::wire::{Broken, Standstill, Wire};

/// In the environment of a worker: its part, as JSON.
pub const PART: &str = "FENCRON_HISTORIES_PART";

/// How long a context waits for a lock in any case.
const LONGEST_WAIT_MS: u64 = 20_000;

/// How often a context asks what became of its unlocking.
const SETTLE_ATTEMPTS: u32 = 8;

/// How often a worker looks whether it stood still, and from how long on it did.
const PULSE: Duration = Duration::from_millis(10);
pub const STANDSTILL: Duration = Duration::from_millis(50);

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Part {
    pub name: String,
    pub seed: u64,
    pub store: String,
    pub file: PathBuf,
    pub contexts: u32,
    pub broken: Option<Broken>,
}

type Sessions = watch::Receiver<Option<Arc<Session<Wire>>>>;

/// Plays its part until its standard input is closed.
pub async fn play(part: Part) {
    let clock = Clock::system();
    let recorder = Recorder::create(&part.file, clock.clone());
    pulse(&recorder, clock.clone());
    let store = loop {
        match AnyStore::open(&part.store.parse().unwrap(), clock.clone()).await {
            Ok(store) => break store,
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    };
    let standstill = Standstill::default();
    let chance = Chance::of(part.seed, "wire");
    let wire = Wire::new(store, chance, recorder.clone(), (part.broken, standstill.clone()));
    let note = recorder.clone();
    let clock = standstill.clock(part.broken);
    let locks = Locks::new(wire, clock, Namespace::new("histories").unwrap(), Seen::default());
    let locks = locks.on_trust(move |trust| {
        let until = u64::try_from(trust.trusted_until.since_boot().as_nanos()).unwrap();
        note.note(Event::Trust { lease: trust.lease.0.get(), until, ended: trust.ended.is_some() });
    });
    let (over, is_over) = watch::channel(false);
    let (offer, sessions) = watch::channel(None);
    let attending = tokio::spawn(attend(locks.clone(), part.name.clone(), recorder.clone(), offer, is_over.clone()));
    let contexts: Vec<_> = (0..part.contexts)
        .map(|number| {
            let chance = Chance::of(part.seed, &format!("context {number}"));
            let (recorder, sessions, is_over) = (recorder.clone(), sessions.clone(), is_over.clone());
            let actor = Actor { locks: locks.clone(), recorder, chance, number, calls: 0, sessions, is_over };
            tokio::spawn(actor.act())
        })
        .collect();
    drop(sessions);
    let stopped = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    stopped.await.unwrap().unwrap();
    over.send_replace(true);
    for context in contexts {
        context.await.unwrap();
    }
    attending.await.unwrap();
    recorder.note(Event::Done);
}

/// Writes down when the process stood still, for whatever reason.
fn pulse(recorder: &Recorder, clock: Clock) {
    let recorder = recorder.clone();
    std::thread::spawn(move || {
        loop {
            let from = now(&clock);
            std::thread::sleep(PULSE);
            if now(&clock) - from > u64::try_from(STANDSTILL.as_nanos()).unwrap() {
                recorder.note(Event::StoodStill { from });
            }
        }
    });
}

/// Opens a session, and another when that is over; closes the last one.
async fn attend(
    locks: Locks<Wire>,
    node: String,
    recorder: Recorder,
    offer: watch::Sender<Option<Arc<Session<Wire>>>>,
    mut is_over: watch::Receiver<bool>,
) {
    loop {
        let presence = Presence { node: node.clone(), record: b"{}".to_vec() };
        let timing = Timing::from_ttl(crate::TTL).unwrap();
        let Ok(session) = locks.open_session(presence, timing, Driver::Thread).await else {
            if *is_over.borrow() {
                return;
            }
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        let lease = session.lease().0.get();
        recorder.note(Event::Opened { lease });
        let session = Arc::new(session);
        offer.send_replace(Some(session.clone()));
        let closing = tokio::select! {
            _ = session.ended() => false,
            _ = is_over.wait_for(|over| *over) => true,
        };
        if !closing {
            continue;
        }
        // The contexts are done with it first.
        offer.closed().await;
        offer.send_replace(None);
        recorder.note(Event::Closing { lease });
        let session = Arc::into_inner(session).expect("nobody else has the session any more");
        if session.close().await.is_ok() {
            recorder.note(Event::Closed { lease });
        }
        return;
    }
}

/// A context, with what it uses.
struct Actor {
    locks: Locks<Wire>,
    recorder: Recorder,
    chance: Chance,
    number: u32,
    calls: u64,
    sessions: Sessions,
    is_over: watch::Receiver<bool>,
}

impl Actor {
    async fn act(mut self) {
        let Some(mut session) = self.session(None).await else { return };
        let mut context = session.context();
        let handles: Vec<_> = Object::ALL.iter().map(|object| handle(&self.locks, *object)).collect();
        let semaphore = self.locks.semaphore(LockName::new("permits").unwrap(), Object::PERMITS);
        while !*self.is_over.borrow() {
            if context.session_ended().is_some() || self.sessions.has_changed().unwrap_or(false) {
                let Some(next) = self.session(Some(&session)).await else { return };
                session = next;
                context.move_to(&session);
            }
            let object = *self.chance.pick(&Object::ALL);
            match object {
                Object::Permits => self.use_permits(&semaphore, &session).await,
                _ => self.use_lock(object, &handles[object as usize], &mut context).await,
            }
            self.pause(0, 15).await;
        }
    }

    /// The session that is offered now, other than the one that is over.
    async fn session(&mut self, over: Option<&Arc<Session<Wire>>>) -> Option<Arc<Session<Wire>>> {
        let over = over.map(|session| session.lease());
        let mut is_over = self.is_over.clone();
        tokio::select! {
            offered = self.sessions.wait_for(|offered| {
                offered.as_ref().is_some_and(|session| Some(session.lease()) != over)
            }) => offered.ok().and_then(|offered| offered.clone()),
            _ = is_over.wait_for(|over| *over) => None,
        }
    }

    async fn pause(&mut self, low: u64, high: u64) {
        sleep(Duration::from_millis(self.chance.within(low, high))).await;
    }

    fn call(&mut self, lease: u64, object: Object, call: Call) -> u64 {
        self.calls += 1;
        let (context, number) = (self.number, self.calls);
        self.recorder.note(Event::Call { context, number, lease, object, call });
        number
    }

    fn answer(&self, number: u64, answer: &Answer) {
        self.recorder.note(Event::Answer { context: self.number, number, answer: answer.clone() });
    }

    fn patience(&mut self) -> Patience {
        match self.chance.within(0, 9) {
            0..5 => Patience::Forever,
            5..7 => Patience::For(self.chance.within(1, 300)),
            7..9 => Patience::None,
            _ => Patience::Dropped(self.chance.within(0, 80)),
        }
    }

    /// Locks, does one thing or another, and unlocks as often as it locked.
    async fn use_lock(&mut self, object: Object, lock: &FencedLock<Wire>, context: &mut LockContext) {
        let mut depth = 0;
        let patience = self.patience();
        self.lock(object, lock, context, patience, &mut depth).await;
        if depth == 0 && !self.chance.permille(100) {
            return;
        }
        let entered = depth;
        for _ in 0..self.chance.within(0, 4) {
            match self.chance.within(0, 3) {
                0 | 1 if entered == 0 => drop(self.look(Call::Count, object, lock, context, &mut depth).await),
                0 => {
                    let patience = self.patience();
                    self.lock(object, lock, context, patience, &mut depth).await;
                }
                1 => drop(self.look(Call::Fence, object, lock, context, &mut depth).await),
                2 => drop(self.look(Call::Count, object, lock, context, &mut depth).await),
                _ => self.pause(1, 40).await,
            }
            if depth < entered {
                return;
            }
        }
        // Now and then once too often.
        let more = u32::from(self.chance.permille(60) || entered == 0);
        let mut answer = Answer::Done;
        for _ in 0..depth + more {
            let dropped = self.chance.permille(60).then(|| self.chance.within(0, 5));
            answer = self.look(Call::Unlock(dropped), object, lock, context, &mut depth).await;
        }
        // Whoever does not know whether it still holds the lock has to ask, or keeps all others waiting.
        for _ in 0..SETTLE_ATTEMPTS {
            match answer {
                Answer::Count(1..) => answer = self.look(Call::Unlock(None), object, lock, context, &mut depth).await,
                Answer::Unknown(_) | Answer::Dropped => {
                    self.pause(0, 40).await;
                    let call = *self.chance.pick(&[Call::Count, Call::Unlock(None)]);
                    answer = self.look(call, object, lock, context, &mut depth).await;
                }
                Answer::Done if depth > 0 => answer = Answer::Dropped,
                _ => return,
            }
        }
    }

    async fn lock(
        &mut self,
        object: Object,
        lock: &FencedLock<Wire>,
        context: &mut LockContext,
        patience: Patience,
        depth: &mut u32,
    ) {
        let number = self.call(context.session().0.get(), object, Call::Lock(patience));
        let tried = |fence: Option<_>| fence.map_or(Answer::Refused, |fence| granted(object, fence));
        let call = async {
            match patience {
                Patience::Forever | Patience::Dropped(_) => {
                    lock.lock_and_get_fence(context).await.map(|fence| granted(object, fence))
                }
                Patience::For(millis) => {
                    lock.try_lock_for_and_get_fence(context, Duration::from_millis(millis)).await.map(tried)
                }
                Patience::None => lock.try_lock_and_get_fence(context).await.map(tried),
            }
        };
        let within = if let Patience::Dropped(millis) = patience { millis } else { LONGEST_WAIT_MS };
        let answer = timeout(Duration::from_millis(within), call).await.map_or(Answer::Dropped, refusal_or);
        self.answer(number, &answer);
        if matches!(answer, Answer::Granted(_)) {
            *depth += 1;
            if let Some(signal) = lock.signal(context).filter(|_| *depth == 1) {
                let (recorder, context) = (self.recorder.clone(), self.number);
                tokio::spawn(async move {
                    let why = signal.lost().await.to_string();
                    recorder.note(Event::Signal { context, number, why });
                });
            }
        }
        if matches!(answer, Answer::Lost(_) | Answer::SessionLost) {
            *depth = 0;
        }
    }

    /// Any other call on a lock.
    async fn look(
        &mut self,
        call: Call,
        object: Object,
        lock: &FencedLock<Wire>,
        context: &mut LockContext,
        depth: &mut u32,
    ) -> Answer {
        let number = self.call(context.session().0.get(), object, call);
        let within = if let Call::Unlock(Some(millis)) = call { millis } else { LONGEST_WAIT_MS };
        let asked = async {
            match call {
                Call::Unlock(_) => lock.unlock(context).await.map(|()| Answer::Done),
                Call::Fence => lock.fence(context).await.map(|fence| Answer::Fence(fence.get())),
                _ => lock.lock_count(context).await.map(Answer::Count),
            }
        };
        let answer = timeout(Duration::from_millis(within), asked).await.map_or(Answer::Dropped, refusal_or);
        self.answer(number, &answer);
        match &answer {
            Answer::Done => *depth = depth.saturating_sub(1),
            Answer::Lost(_) | Answer::SessionLost | Answer::NotOwner => *depth = 0,
            Answer::Count(count) => *depth = *count,
            _ => {}
        }
        answer
    }

    async fn use_permits(&mut self, semaphore: &Semaphore<Wire>, session: &Session<Wire>) {
        let (permits, patience) = (self.chance.within(1, 2) as u32, self.patience());
        let lease = session.lease().0.get();
        let acquiring = self.call(lease, Object::Permits, Call::Acquire(permits, patience));
        let call = async {
            match patience {
                Patience::Forever | Patience::Dropped(_) => semaphore.acquire(session, permits).await.map(Some),
                Patience::For(millis) => {
                    semaphore.acquire_within(session, permits, Duration::from_millis(millis)).await
                }
                Patience::None => semaphore.try_acquire(session, permits).await,
            }
        };
        let within = if let Patience::Dropped(millis) = patience { millis } else { LONGEST_WAIT_MS };
        let got = timeout(Duration::from_millis(within), call).await;
        let (answer, got) = match got {
            Ok(Ok(Some(permits))) => (Answer::Granted(None), Some(permits)),
            Ok(Ok(None)) => (Answer::Refused, None),
            Ok(Err(SemaphoreError::SessionLost { .. })) => (Answer::SessionLost, None),
            Ok(Err(error)) => (Answer::Unknown(error.to_string()), None),
            Err(_) => (Answer::Dropped, None),
        };
        self.answer(acquiring, &answer);
        if let Some(permits) = got {
            self.give_back(permits, lease, acquiring).await;
        }
    }

    async fn give_back(&mut self, permits: Permits<Wire>, lease: u64, acquiring: u64) {
        let signal = permits.signal();
        let (recorder, context) = (self.recorder.clone(), self.number);
        tokio::spawn(async move {
            let why = signal.lost().await.to_string();
            recorder.note(Event::Signal { context, number: acquiring, why });
        });
        self.pause(0, 60).await;
        if self.chance.permille(100) {
            let number = self.call(lease, Object::Permits, Call::Drop(acquiring));
            drop(permits);
            return self.answer(number, &Answer::Dropped);
        }
        let number = self.call(lease, Object::Permits, Call::Release(acquiring));
        let answer = match permits.release().await {
            Ok(Resigned::Released) => Answer::Done,
            Ok(Resigned::HadEnded) => Answer::HadEnded,
            Err(error) => Answer::Unknown(error.to_string()),
        };
        self.answer(number, &answer);
    }
}

fn handle(locks: &Locks<Wire>, object: Object) -> FencedLock<Wire> {
    let twice = Reentrancy::Limit(2.try_into().unwrap());
    let reentrancy = if object.is_reentrant() { twice } else { Reentrancy::No };
    locks.fenced(LockName::new(&format!("{object:?}")).unwrap(), Config { reentrancy, ..Config::default() })
}

fn granted(object: Object, fence: fencron::fence::Fence) -> Answer {
    Answer::Granted(object.is_fenced().then(|| fence.get()))
}

fn refusal_or(answered: Result<Answer, LockError>) -> Answer {
    match answered {
        Ok(answer) => answer,
        Err(LockError::LimitReached { .. }) => Answer::LimitReached,
        Err(LockError::OwnershipLost { fence, .. }) => Answer::Lost(fence.get()),
        Err(LockError::NotTheOwner { .. }) => Answer::NotOwner,
        Err(LockError::SessionLost { .. }) => Answer::SessionLost,
        Err(error) => Answer::Unknown(error.to_string()),
    }
}
