//! PURE: when a program opens a session, campaigns with it, gives back what it won, and tries again.
//!
//! ```text
//!             opened             gate open             won
//!   absent ──────────▶ idle ────────────────▶ campaigning ──▶ holding
//!     ▲                 ▲                          │             │  lost, or given up
//!     │ session over    │ given back               ▼             ▼
//!     └──── any ────    └───────────────────── giving back ◀─────┘
//! ```
//!
//! The machine knows no store and no runtime. It receives what happened ([`Event`]) and at which instant, and answers
//! what to do now ([`Action`]). Between two events its driver asks it again at [`Candidacy::wake_at`]. A candidate
//! whose gate never opens is a program that only wants a session kept open.
//!
//! The first session and the first campaign begin at once. After that, a session or a term that lasted is followed at
//! once by the next; one that ended as it began is followed after a growing pause ([`Pace`]); and what an operator has
//! to mend is tried again every [`OBSTACLE_PAUSE`].

use std::time::Duration;

use super::backoff::{Backoff, Pace, Reports};
use super::keys::CallId;
use crate::time::Boot;

/// The pause before another attempt when the last one was refused for a reason that an operator has to remove.
pub(crate) const OBSTACLE_PAUSE: Duration = Duration::from_secs(2);

/// An obstacle that no attempt has met for so long is not in the way any more: the present attempt waits in the queue.
const OBSTACLE_LASTS: Duration = Duration::from_secs(5);

const _: () = assert!(
    OBSTACLE_PAUSE.as_millis() < OBSTACLE_LASTS.as_millis(),
    "an obstacle that every attempt meets is shown without a gap"
);

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Time has passed.
    Tick,
    /// Whether the candidate wants to campaign from now on. It may hold on to what it has won.
    Gate(bool),
    /// The session that was asked for is open.
    Opened,
    /// It could not be opened.
    NotOpened(Trouble),
    /// The open session is over, or its candidate does not want it any more.
    SessionOver,
    /// The campaign has won.
    Won(CallId),
    /// The campaign has ended without a term.
    NotWon(CallId, NotWon),
    /// The term is over, or may be, or its candidate gives it up.
    TermOver,
    /// The call neither waits nor holds any more.
    GivenBack(CallId),
    /// It may do so: the store did not answer, or refused.
    NotGivenBack(CallId, String),
    /// An attempt outside of the campaign has met this obstacle.
    Met(String),
    /// The candidacy ends, with its session.
    Leave,
}

/// Why something failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// It may succeed the next time.
    Passing(String),
    /// An operator has to remove the reason first.
    Obstacle(String),
}

/// How a campaign ended without a term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NotWon {
    /// It won too late to act on that.
    Late,
    /// Another call of the same session holds or waits.
    Blocked(CallId),
    Obstacle(String),
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Open a session.
    Open,
    /// Stop opening the session.
    StopOpening,
    /// Close the session. What runs under it has ended with this.
    Close,
    /// Campaign, as this call.
    Campaign(CallId),
    /// Stop the campaign of this call, or end its term, and see to it that it neither waits nor holds.
    GiveBack(CallId),
    /// Say what the event was about: it is news, or has not been said for long.
    Report,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    /// There is no session until this instant.
    Absent(Boot),
    Opening,
    Open,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Idle,
    Campaigning(CallId),
    Holding(CallId),
    /// Where the last attempt failed: the next one is due at the instant.
    GivingBack(CallId, Option<Boot>),
}

/// One candidate: at most one session, and at most one call with it.
#[derive(Debug)]
pub(crate) struct Candidacy {
    gate: bool,
    leaving: bool,
    presence: Presence,
    stage: Stage,
    next_call: CallId,
    /// No campaign begins before this instant.
    campaign_at: Boot,
    sessions: Pace,
    terms: Pace,
    giving_back: Backoff,
    obstacle: Option<(String, Boot)>,
    session_reports: Reports,
    campaign_reports: Reports,
    giving_back_reports: Reports,
}

impl Candidacy {
    /// A candidate with its gate closed. Its calls are numbered from `first_call` on, which is drawn at random.
    pub fn new(first_call: CallId) -> Candidacy {
        Candidacy {
            gate: false,
            leaving: false,
            presence: Presence::Absent(Boot::default()),
            stage: Stage::Idle,
            next_call: first_call,
            campaign_at: Boot::default(),
            sessions: Pace::new(),
            terms: Pace::new(),
            giving_back: Backoff::new(),
            obstacle: None,
            session_reports: Reports::default(),
            campaign_reports: Reports::default(),
            giving_back_reports: Reports::default(),
        }
    }

    /// What to do about `event`, at `now`.
    pub fn handle(&mut self, event: Event, now: Boot) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Tick => {}
            Event::Gate(open) => self.gate = open,
            Event::Opened => self.opened(&mut actions),
            Event::NotOpened(trouble) => self.not_opened(trouble, now, &mut actions),
            Event::SessionOver => self.session_over(now, &mut actions),
            Event::Won(call) if self.stage == Stage::Campaigning(call) => {
                self.stage = Stage::Holding(call);
                self.obstacle = None;
                self.campaign_reports = Reports::default();
                self.terms.begins(now);
            }
            Event::NotWon(call, why) if self.stage == Stage::Campaigning(call) => {
                self.not_won(call, why, now, &mut actions);
            }
            Event::GivenBack(call) if matches!(self.stage, Stage::GivingBack(own, _) if own == call) => {
                self.stage = Stage::Idle;
                self.giving_back.reset();
                self.giving_back_reports = Reports::default();
            }
            Event::NotGivenBack(call, why) if matches!(self.stage, Stage::GivingBack(own, _) if own == call) => {
                self.stage = Stage::GivingBack(call, Some(now.plus(self.giving_back.next())));
                actions.extend(self.giving_back_reports.is_news(why, now).then_some(Action::Report));
            }
            Event::TermOver => {
                if let Stage::Holding(call) = self.stage {
                    self.campaign_at = now.plus(self.terms.pause(now));
                    self.give_back(call, &mut actions);
                }
            }
            Event::Met(obstacle) => self.obstacle = Some((obstacle, now)),
            Event::Leave => self.leave(&mut actions),
            // An answer to what is not waited for any more: its session is closed, and with it went what it had won.
            Event::Won(_) | Event::NotWon(..) | Event::GivenBack(_) | Event::NotGivenBack(..) => {}
        }
        self.go_on(now, &mut actions);
        actions
    }

    /// When to be asked again, where nothing else happens before.
    pub fn wake_at(&self) -> Option<Boot> {
        match (self.presence, self.stage) {
            (Presence::Absent(at), _) => Some(at).filter(|_| !self.leaving),
            (Presence::Open, Stage::Idle) => Some(self.campaign_at).filter(|_| self.gate),
            (Presence::Open, Stage::GivingBack(_, at)) => at,
            _ => None,
        }
    }

    /// What keeps the candidate from taking part.
    pub fn obstacle(&self, now: Boot) -> Option<&str> {
        let (what, met_at) = self.obstacle.as_ref()?;
        (now.since(*met_at) < OBSTACLE_LASTS).then_some(what)
    }

    /// The campaign that is under way.
    pub fn campaign(&self) -> Option<CallId> {
        match self.stage {
            Stage::Campaigning(call) => Some(call),
            _ => None,
        }
    }

    /// Whether the call has won, and is not given back.
    #[cfg(test)]
    fn holds(&self, call: CallId) -> bool {
        self.stage == Stage::Holding(call)
    }

    /// Whether nothing is left to be done.
    pub fn has_left(&self) -> bool {
        self.leaving && matches!(self.presence, Presence::Absent(_))
    }

    fn opened(&mut self, actions: &mut Vec<Action>) {
        if self.presence == Presence::Opening {
            self.presence = Presence::Open;
            self.session_reports = Reports::default();
        } else {
            // It was opened just before that was stopped.
            actions.push(Action::Close);
        }
    }

    fn not_opened(&mut self, trouble: Trouble, now: Boot, actions: &mut Vec<Action>) {
        if self.presence != Presence::Opening {
            return;
        }
        let mut pause = self.sessions.pause(now);
        let what = match trouble {
            Trouble::Passing(what) => what,
            Trouble::Obstacle(what) => {
                pause = pause.max(OBSTACLE_PAUSE);
                self.obstacle = Some((what.clone(), now));
                what
            }
        };
        self.presence = Presence::Absent(now.plus(pause));
        actions.extend(self.session_reports.is_news(what, now).then_some(Action::Report));
    }

    fn session_over(&mut self, now: Boot, actions: &mut Vec<Action>) {
        if self.presence != Presence::Open {
            return;
        }
        if matches!(self.stage, Stage::Holding(_)) {
            self.campaign_at = now.plus(self.terms.pause(now));
        }
        self.presence = Presence::Absent(now.plus(self.sessions.pause(now)));
        self.stage = Stage::Idle;
        actions.push(Action::Close);
    }

    fn not_won(&mut self, call: CallId, why: NotWon, now: Boot, actions: &mut Vec<Action>) {
        // As good as a term that ended when it began.
        self.terms.begins(now);
        let mut pause = self.terms.pause(now);
        let (to_give_back, what) = match why {
            NotWon::Late => (call, String::new()),
            NotWon::Blocked(other) => (other, String::new()),
            NotWon::Obstacle(what) => {
                self.obstacle = Some((what.clone(), now));
                pause = pause.max(OBSTACLE_PAUSE);
                (call, what)
            }
        };
        self.campaign_at = now.plus(pause);
        actions.extend(self.campaign_reports.is_news(what, now).then_some(Action::Report));
        self.give_back(to_give_back, actions);
    }

    fn give_back(&mut self, call: CallId, actions: &mut Vec<Action>) {
        self.stage = Stage::GivingBack(call, None);
        actions.push(Action::GiveBack(call));
    }

    fn leave(&mut self, actions: &mut Vec<Action>) {
        self.leaving = true;
        match self.presence {
            Presence::Absent(_) => return,
            Presence::Opening => actions.push(Action::StopOpening),
            // What waits or is held goes with the session's lease, at once.
            Presence::Open => actions.push(Action::Close),
        }
        self.presence = Presence::Absent(Boot::default());
        self.stage = Stage::Idle;
    }

    /// What is due by now.
    fn go_on(&mut self, now: Boot, actions: &mut Vec<Action>) {
        match (self.presence, self.stage) {
            (Presence::Absent(at), _) if !self.leaving && now >= at => {
                self.presence = Presence::Opening;
                self.sessions.begins(now);
                actions.push(Action::Open);
            }
            (Presence::Open, Stage::Idle) if self.gate && now >= self.campaign_at => {
                let call = self.next_call;
                self.next_call = call.next();
                self.stage = Stage::Campaigning(call);
                actions.push(Action::Campaign(call));
            }
            (Presence::Open, Stage::Campaigning(call)) if !self.gate => self.give_back(call, actions),
            (Presence::Open, Stage::GivingBack(call, Some(at))) if now >= at => self.give_back(call, actions),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
