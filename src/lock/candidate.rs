//! The shell around [`Candidacy`]: it opens sessions, campaigns, gives back what it won, and reports each result.
//!
//! The owner of a [`Candidate`] calls [`Candidate::next`] again and again, which does all the work in between, or lets
//! [`Candidate::run`] do so. Between two calls the session is kept alive and the signal of the term still fires; the
//! steps that follow wait for the next call.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinError, JoinSet, yield_now};
use tokio::time::sleep;

use super::Locks;
use super::candidacy::{Action, Candidacy, Event, NotWon, Trouble};
use super::election::{CampaignError, Election, Term};
use super::keys::{CallId, LockName};
use super::lease::Timing;
use super::session::{Driver, Presence, RECHECK, Session, SessionEnd, SessionError, Trust};
use super::signal::{HoldSignal, Lost};
use crate::store::{Store, StoreError};

/// How many turns a campaign that was stopped is given to end, and how often it is looked after that whether it has.
const STOPPED_TURNS: u32 = 100;
const STOPPED_LOOK_EVERY: Duration = Duration::from_millis(1);

/// The result of a step of a candidacy.
#[derive(Debug)]
pub(crate) enum News<S> {
    /// A session is open.
    Session(Arc<Session<S>>),
    /// None could be opened this time. It is tried again.
    NoSession(SessionError),
    /// The trust of the session was extended.
    Trust,
    /// The session is over, and the term with it.
    SessionOver(SessionEnd),
    /// The lock is held.
    Won(Term),
    /// This campaign has ended without a term. Another follows.
    NotWon(CampaignError),
    /// The term is over, or may be.
    TermOver(Lost),
}

/// What comes back from what takes time.
enum Came<S> {
    Opened(Result<Session<S>, SessionError>),
    Campaigned(CallId, Result<Term, CampaignError>),
    GaveBack(CallId, Result<(), StoreError>),
    Closed(Result<(), StoreError>),
}

/// The call that is under way, and the event that the machine receives when the call breaks off: its runtime may be
/// gone while the candidate is not.
#[derive(Debug)]
struct Attempt {
    task: AbortHandle,
    broken_off: Event,
}

/// Keeps a session open, and contends with it for one lock where there is one to contend for, until it leaves.
///
/// Dropping it leaves the session to run out, as a crash would.
#[derive(Debug)]
pub(crate) struct Candidate<S> {
    locks: Locks<S>,
    election: Option<Election<S>>,
    presence: Presence,
    timing: Timing,
    driver: Driver,
    machine: Candidacy,
    session: Option<Arc<Session<S>>>,
    trust: Option<watch::Receiver<Trust>>,
    /// The opening, the campaign or the giving back that is under way: there is one at most.
    attempt: Option<Attempt>,
    term: Option<Term>,
    /// Whether a term ends by its signal; otherwise by [`Candidate::give_up`] and the end of its session.
    heeds_signal: bool,
    signal: Option<HoldSignal>,
    tasks: JoinSet<Came<S>>,
    news: VecDeque<News<S>>,
}

impl<S: Store> Candidate<S> {
    /// Keeps a session open, from the first call of [`Candidate::next`] on, and campaigns for nothing.
    pub fn new(locks: &Locks<S>, presence: Presence, timing: Timing, driver: Driver) -> Candidate<S> {
        Candidate {
            locks: locks.clone(),
            election: None,
            presence,
            timing,
            driver,
            machine: Candidacy::new(locks.calls.next()),
            session: None,
            trust: None,
            attempt: None,
            term: None,
            heeds_signal: true,
            signal: None,
            tasks: JoinSet::new(),
            news: VecDeque::new(),
        }
    }

    /// Also campaigns for the lock `name`, whenever its gate is open ([`Candidate::set_gate`]), as it is at first.
    pub fn campaigning_for(mut self, name: LockName) -> Candidate<S> {
        self.election = Some(self.locks.election(name));
        self.set_gate(true);
        self
    }

    /// The candidate itself finds out whether its term stands, and bears lapses of trust.
    pub fn heeding_no_signal(mut self) -> Candidate<S> {
        self.heeds_signal = false;
        self
    }

    pub fn session(&self) -> Option<&Arc<Session<S>>> {
        self.session.as_ref()
    }

    /// The trust of the session, where there is one.
    pub fn trust(&self) -> Option<&watch::Receiver<Trust>> {
        self.trust.as_ref()
    }

    /// The term that is held.
    #[cfg(test)]
    pub fn term(&self) -> Option<&Term> {
        self.term.as_ref()
    }

    /// The signal of the term that is held.
    pub fn signal(&self) -> Option<&HoldSignal> {
        self.signal.as_ref()
    }

    pub fn is_campaigning(&self) -> bool {
        self.machine.campaign().is_some()
    }

    /// What keeps the candidate from taking part.
    pub fn obstacle(&self) -> Option<&str> {
        self.machine.obstacle(self.locks.clock.boot())
    }

    /// What the session's key is to hold where another one is opened.
    pub fn present(&mut self, record: Vec<u8>) {
        self.presence.record = record;
    }

    /// Whether the candidate wants to campaign.
    pub fn set_gate(&mut self, open: bool) {
        self.handle(Event::Gate(open));
    }

    /// Something else has found what keeps the candidate from taking part.
    pub fn met(&mut self, obstacle: String) {
        self.handle(Event::Met(obstacle));
    }

    /// Gives the term up, so that the next in the queue follows.
    pub fn give_up(&mut self) {
        self.handle(Event::TermOver);
    }

    /// Closes the session, and opens another.
    pub fn renew(&mut self) {
        self.handle(Event::SessionOver);
    }

    /// What happens next. Cancel safe.
    pub async fn next(&mut self) -> News<S> {
        loop {
            self.handle(Event::Tick);
            if let Some(news) = self.news.pop_front() {
                return news;
            }
            let now = self.locks.clock.boot();
            // Timers stand still while the machine is suspended.
            let pause = self.machine.wake_at().map_or(RECHECK, |at| at.since(now).min(RECHECK));
            tokio::select! {
                biased;
                trust = moved(self.trust.as_mut()) => match trust.ended {
                    None => self.news.push_back(News::Trust),
                    Some(why) => self.session_over(why),
                },
                why = lost(self.signal.as_ref()) => {
                    self.handle(Event::TermOver);
                    self.news.push_back(News::TermOver(why));
                }
                Some(came) = self.tasks.join_next() => match came {
                    Ok(came) => self.came(came),
                    Err(error) => self.broke_off(error),
                },
                () = sleep(pause) => {}
            }
        }
    }

    /// Goes on until `over`, and calls `report` with what happens. The session is attended to meanwhile: when the
    /// runtime hangs, the session is left to run out.
    pub async fn run(&mut self, over: impl Future<Output = ()>, mut report: impl FnMut(&Candidate<S>, News<S>)) {
        let (mut over, attend_every) = (std::pin::pin!(over), self.timing.renew_every());
        loop {
            if let Some(session) = &self.session {
                session.attend(self.locks.clock.boot());
            }
            tokio::select! {
                biased;
                () = &mut over => return,
                news = self.next() => report(self, news),
                () = sleep(attend_every) => {}
            }
        }
    }

    /// Ends the candidacy: closes its session, and what is held goes with that, at once.
    ///
    /// # Errors
    ///
    /// Where the store does not answer: session and hold end by themselves then.
    pub async fn leave(mut self) -> Result<(), StoreError> {
        self.handle(Event::Leave);
        let mut closed = Ok(());
        while let Some(came) = self.tasks.join_next().await {
            match came {
                Ok(Came::Closed(result)) => closed = closed.and(result),
                Ok(came) => self.came(came),
                Err(_) => {}
            }
        }
        debug_assert!(self.machine.has_left(), "a candidate that leaves has nothing left to do");
        closed
    }

    /// What was under way has ended without an answer, and is tried again; unless it was stopped.
    fn broke_off(&mut self, error: JoinError) {
        if let Some(attempt) = self.attempt.take_if(|attempt| attempt.task.id() == error.id()) {
            self.handle(attempt.broken_off);
        }
        if let Ok(panic) = error.try_into_panic() {
            std::panic::resume_unwind(panic);
        }
    }

    fn came(&mut self, came: Came<S>) {
        let node = self.presence.node.clone();
        match came {
            Came::Opened(Ok(session)) => {
                let session = Arc::new(session);
                self.trust = Some(session.trust());
                self.session = Some(Arc::clone(&session));
                self.handle(Event::Opened);
                self.news.push_back(News::Session(session));
            }
            Came::Opened(Err(error)) => {
                let trouble = if error.is_passing() { Trouble::Passing } else { Trouble::Obstacle };
                if self.handle(Event::NotOpened(trouble(error.to_string()))) {
                    tracing::warn!(%error, node, "no session with the store yet; trying again");
                }
                self.news.push_back(News::NoSession(error));
            }
            // What a campaign that was stopped just then has won goes with its session, or is being given back.
            Came::Campaigned(call, _) if self.machine.campaign() != Some(call) => {}
            Came::Campaigned(call, Ok(term)) => {
                self.handle(Event::Won(call));
                if let (Some(election), Some(session)) = (&self.election, &self.session)
                    && self.heeds_signal
                {
                    self.signal = Some(election.signal(session, &term));
                }
                self.term = Some(term.clone());
                self.news.push_back(News::Won(term));
            }
            Came::Campaigned(_, Err(CampaignError::SessionEnded(why))) => self.session_over(why),
            Came::Campaigned(call, Err(error)) => {
                let why = match &error {
                    CampaignError::TrustLapsed => NotWon::Late,
                    CampaignError::OtherCall(other) => NotWon::Blocked(*other),
                    error => NotWon::Obstacle(error.to_string()),
                };
                if self.handle(Event::NotWon(call, why)) {
                    tracing::error!(%error, node, "cannot campaign; trying again");
                }
                self.news.push_back(News::NotWon(error));
            }
            Came::GaveBack(call, Ok(())) => drop(self.handle(Event::GivenBack(call))),
            Came::GaveBack(call, Err(error)) => {
                if self.handle(Event::NotGivenBack(call, error.to_string())) {
                    tracing::warn!(%error, %call, node, "a call that is over may still wait or hold; trying again");
                }
            }
            Came::Closed(Ok(())) => {}
            Came::Closed(Err(error)) => {
                tracing::warn!(%error, node, "could not close the session: it ends by itself");
            }
        }
    }

    fn session_over(&mut self, why: SessionEnd) {
        if self.session.is_none() {
            return;
        }
        tracing::warn!(%why, node = self.presence.node, "the session is over");
        self.handle(Event::SessionOver);
        self.news.push_back(News::SessionOver(why));
    }

    /// Does what the machine answers, and says whether a report is among it.
    fn handle(&mut self, event: Event) -> bool {
        let actions = self.machine.handle(event, self.locks.clock.boot());
        for action in &actions {
            self.act(*action);
        }
        actions.contains(&Action::Report)
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Open => {
                let (locks, presence) = (self.locks.clone(), self.presence.clone());
                let (timing, driver) = (self.timing, self.driver);
                let open = async move { Came::Opened(locks.open_session(presence, timing, driver).await) };
                let broken_off = Event::NotOpened(Trouble::Passing("its opening broke off".to_owned()));
                self.attempt = Some(Attempt { task: self.tasks.spawn(open), broken_off });
            }
            Action::StopOpening => self.stop_attempt(),
            Action::Close => self.close(),
            Action::Campaign(call) => {
                let (Some(election), Some(session)) = (self.election.clone(), self.session.clone()) else { return };
                let campaign = async move { Came::Campaigned(call, election.campaign(&session, call).await) };
                let broken_off = Event::NotWon(call, NotWon::Late);
                self.attempt = Some(Attempt { task: self.tasks.spawn(campaign), broken_off });
            }
            Action::GiveBack(call) => self.give_back(call),
            // By the handler of the event.
            Action::Report => {}
        }
    }

    fn stop_attempt(&mut self) {
        if let Some(attempt) = self.attempt.take() {
            attempt.task.abort();
        }
    }

    fn close(&mut self) {
        self.stop_attempt();
        (self.term, self.signal, self.trust) = (None, None, None);
        if let Some(session) = self.session.take() {
            self.tasks.spawn(async move { Came::Closed(session.close().await) });
        }
    }

    fn give_back(&mut self, call: CallId) {
        let stopped = self.attempt.take().map(|attempt| attempt.task);
        self.signal = None;
        let term = self.term.take();
        let (Some(election), Some(session)) = (self.election.clone(), self.session.clone()) else { return };
        let give_back = async move {
            // A campaign that is stopped may be amid a step, and write after it was withdrawn.
            if let Some(campaign) = stopped {
                campaign.abort();
                for look in 0.. {
                    if campaign.is_finished() {
                        break;
                    }
                    // At once, as a rule.
                    if look < STOPPED_TURNS { yield_now().await } else { sleep(STOPPED_LOOK_EVERY).await }
                }
            }
            let gave_back = match term {
                Some(term) => election.resign(&term).await.map(drop),
                None => election.withdraw(&session, call).await,
            };
            Came::GaveBack(call, gave_back)
        };
        let broken_off = Event::NotGivenBack(call, "its request broke off".to_owned());
        self.attempt = Some(Attempt { task: self.tasks.spawn(give_back), broken_off });
    }
}

/// Resolves when the trust has changed; never, without a session.
async fn moved(trust: Option<&mut watch::Receiver<Trust>>) -> Trust {
    let Some(trust) = trust else { return std::future::pending().await };
    let unattended = trust.changed().await.is_err().then_some(SessionEnd::Unattended);
    let trust = *trust.borrow_and_update();
    Trust { ended: trust.ended.or(unattended), ..trust }
}

/// Resolves when the hold is over; never, without one.
async fn lost(signal: Option<&HoldSignal>) -> Lost {
    match signal {
        Some(signal) => signal.lost().await,
        None => std::future::pending().await,
    }
}
