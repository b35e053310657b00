//! The candidacy with time moved by hand: each rule by itself, and all of them in any order of events.

use proptest::prelude::*;

use super::*;

fn ms(millis: u64) -> Boot {
    Boot::from_duration(Duration::from_millis(millis))
}

fn call(number: u128) -> CallId {
    CallId::from_u128(number)
}

fn passing() -> Event {
    Event::NotOpened(Trouble::Passing("away".into()))
}

fn denied() -> Event {
    Event::NotOpened(Trouble::Obstacle("denied".into()))
}

fn not_won(number: u128, why: NotWon) -> Event {
    Event::NotWon(call(number), why)
}

fn not_given_back(call: CallId) -> Event {
    Event::NotGivenBack(call, "adopt it".into())
}

fn no_base() -> NotWon {
    NotWon::Obstacle("no base".into())
}

/// A candidate with its gate open that has a session, and its first campaign under way.
fn campaigning() -> Candidacy {
    let mut candidate = Candidacy::new(call(1));
    assert_eq!(candidate.handle(Event::Gate(true), ms(0)), [Action::Open]);
    assert_eq!(candidate.handle(Event::Opened, ms(0)), [Action::Campaign(call(1))]);
    candidate
}

/// The same, and its first term won.
fn holding() -> Candidacy {
    let mut candidate = campaigning();
    assert_eq!(candidate.handle(Event::Won(call(1)), ms(0)), []);
    candidate
}

/// Asks again at the instants that it names, until it does something.
fn next(candidate: &mut Candidacy) -> (Boot, Vec<Action>) {
    for _ in 0..10 {
        let at = candidate.wake_at().expect("something is due");
        let actions = candidate.handle(Event::Tick, at);
        if !actions.is_empty() {
            return (at, actions);
        }
    }
    panic!("nothing is done at the instants that were named: {candidate:?}");
}

#[test]
fn the_first_session_and_the_first_campaign_are_begun_at_once() {
    let candidate = holding();
    assert!(candidate.holds(call(1)));
    assert_eq!(candidate.wake_at(), None);
}

#[test]
fn a_candidate_whose_gate_never_opens_keeps_a_session_open() {
    let mut candidate = Candidacy::new(call(1));
    assert_eq!(candidate.handle(Event::Tick, ms(0)), [Action::Open]);
    assert_eq!((candidate.handle(Event::Opened, ms(10)), candidate.wake_at()), (vec![], None));
    assert_eq!(candidate.handle(Event::SessionOver, ms(60_000)), [Action::Close, Action::Open], "it had lasted");
}

#[test]
fn sessions_that_end_as_they_begin_are_opened_ever_more_seldom() {
    let mut candidate = Candidacy::new(call(1));
    let mut now = ms(0);
    let mut pauses = Vec::new();
    assert_eq!(candidate.handle(Event::Tick, now), [Action::Open]);
    for _ in 0..8 {
        candidate.handle(Event::Opened, now);
        assert_eq!(candidate.handle(Event::SessionOver, now), [Action::Close]);
        let (at, actions) = next(&mut candidate);
        assert_eq!(actions, [Action::Open]);
        pauses.push(at.since(now).as_millis());
        now = at;
    }
    assert_eq!(pauses, [50, 100, 200, 400, 800, 1_600, 2_000, 2_000]);
}

#[test]
fn a_session_that_cannot_be_opened_is_tried_again_and_reported_ever_more_seldom() {
    let mut candidate = Candidacy::new(call(1));
    candidate.handle(Event::Tick, ms(0));
    let (mut now, mut attempts, mut reports) = (ms(0), 0, 0);
    while now.since_boot() < Duration::from_secs(600) {
        reports += usize::from(candidate.handle(passing(), now).contains(&Action::Report));
        (now, attempts) = (next(&mut candidate).0, attempts + 1);
    }
    assert!((290..330).contains(&attempts), "{attempts} attempts in ten minutes");
    assert!((5..=8).contains(&reports), "{reports} reports in ten minutes");
    candidate.handle(Event::Opened, now);
    candidate.handle(Event::SessionOver, now);
    next(&mut candidate);
    assert!(candidate.handle(passing(), now).contains(&Action::Report), "it is news again");
}

#[test]
fn what_somebody_has_to_mend_is_tried_every_two_seconds_and_shown_for_as_long_as_it_is_met() {
    let mut candidate = Candidacy::new(call(1));
    candidate.handle(Event::Tick, ms(0));
    candidate.handle(denied(), ms(0));
    assert_eq!(next(&mut candidate), (ms(2_000), vec![Action::Open]));
    assert_eq!(candidate.obstacle(ms(4_999)), Some("denied"));
    assert_eq!(candidate.obstacle(ms(5_000)), None, "no attempt has met it for so long");
    let mut candidate = campaigning();
    assert_eq!(candidate.handle(not_won(1, no_base()), ms(0)), [Action::Report, Action::GiveBack(call(1))]);
    candidate.handle(Event::GivenBack(call(1)), ms(1));
    assert_eq!(next(&mut candidate), (ms(2_000), vec![Action::Campaign(call(2))]));
    assert_eq!(candidate.handle(not_won(2, no_base()), ms(2_000)), [Action::GiveBack(call(2))], "said already");
    candidate.handle(Event::GivenBack(call(2)), ms(2_001));
    next(&mut candidate);
    candidate.handle(Event::Won(call(3)), ms(4_000));
    assert_eq!(candidate.obstacle(ms(4_000)), None, "it is not in the way any more");
}

#[test]
fn another_obstacle_is_reported_at_once() {
    let mut candidate = campaigning();
    candidate.handle(not_won(1, no_base()), ms(0));
    candidate.handle(Event::GivenBack(call(1)), ms(1));
    next(&mut candidate);
    let went_back = NotWon::Obstacle("the store went back".into());
    assert_eq!(candidate.handle(not_won(2, went_back), ms(2_000)), [Action::Report, Action::GiveBack(call(2))]);
}

#[test]
fn a_term_is_given_back_before_the_next_campaign_and_one_that_lasted_is_followed_at_once() {
    let mut candidate = holding();
    assert_eq!(candidate.handle(Event::TermOver, ms(10_000)), [Action::GiveBack(call(1))]);
    assert!(!candidate.holds(call(1)));
    assert_eq!(candidate.handle(Event::Tick, ms(60_000)), [], "the old term may still stand");
    assert_eq!(candidate.handle(Event::GivenBack(call(1)), ms(60_001)), [Action::Campaign(call(2))]);
}

#[test]
fn terms_that_are_lost_as_they_are_won_are_campaigned_for_ever_more_seldom() {
    let mut candidate = campaigning();
    let (mut now, mut pauses) = (ms(0), Vec::new());
    for number in 1..=8 {
        // Won in time to be held, or too late.
        if number % 2 == 0 {
            candidate.handle(Event::Won(call(number)), now);
            candidate.handle(Event::TermOver, now);
        } else {
            candidate.handle(not_won(number, NotWon::Late), now);
        }
        assert_eq!(candidate.handle(Event::GivenBack(call(number)), now), []);
        let (at, actions) = next(&mut candidate);
        assert_eq!(actions, [Action::Campaign(call(number + 1))]);
        pauses.push(at.since(now).as_millis());
        now = at;
    }
    assert_eq!(pauses, [50, 100, 200, 400, 800, 1_600, 2_000, 2_000]);
}

#[test]
fn what_could_not_be_given_back_is_given_back_again_until_the_session_ends() {
    let mut candidate = holding();
    candidate.handle(Event::TermOver, ms(20_000));
    assert_eq!(candidate.handle(not_given_back(call(1)), ms(30_000)), [Action::Report]);
    assert_eq!(next(&mut candidate), (ms(30_050), vec![Action::GiveBack(call(1))]));
    assert_eq!(candidate.wake_at(), None, "one at a time");
    candidate.handle(not_given_back(call(1)), ms(40_000));
    assert_eq!(candidate.handle(Event::SessionOver, ms(40_001)), [Action::Close, Action::Open]);
    assert_eq!(candidate.handle(Event::Opened, ms(40_002)), [Action::Campaign(call(2))]);
}

#[test]
fn what_cannot_be_given_back_for_hours_is_said_ever_more_seldom() {
    let mut candidate = holding();
    candidate.handle(Event::TermOver, ms(0));
    let (mut said, mut now) = (0, ms(0));
    while now < ms(3_600_000) {
        said +=
            candidate.handle(not_given_back(call(1)), now).iter().filter(|action| **action == Action::Report).count();
        now = next(&mut candidate).0;
    }
    assert!((2..25).contains(&said), "{said} times in an hour");
}

#[test]
fn a_gate_that_closes_ends_the_campaign_and_not_the_term() {
    let mut candidate = campaigning();
    assert_eq!(candidate.handle(Event::Gate(false), ms(1)), [Action::GiveBack(call(1))]);
    assert_eq!(candidate.handle(Event::Won(call(1)), ms(2)), [], "what it won just then is being given back");
    assert!(!candidate.holds(call(1)));
    assert_eq!(candidate.handle(Event::GivenBack(call(1)), ms(3)), []);
    assert_eq!(candidate.handle(Event::Gate(true), ms(4)), [Action::Campaign(call(2))]);
    candidate.handle(Event::Won(call(2)), ms(5));
    assert_eq!(candidate.handle(Event::Gate(false), ms(6)), []);
    assert!(candidate.holds(call(2)));
}

#[test]
fn an_earlier_call_of_the_session_is_taken_back() {
    let mut candidate = campaigning();
    let blocked = not_won(1, NotWon::Blocked(call(77)));
    assert_eq!(candidate.handle(blocked, ms(0)), [Action::Report, Action::GiveBack(call(77))]);
    candidate.handle(Event::GivenBack(call(77)), ms(1));
    assert_eq!(next(&mut candidate), (ms(50), vec![Action::Campaign(call(2))]));
}

#[test]
fn whoever_leaves_closes_the_session_whatever_is_under_way() {
    for mut candidate in [campaigning(), holding()] {
        assert_eq!(candidate.handle(Event::Leave, ms(1)), [Action::Close]);
        assert!(candidate.has_left());
        assert_eq!((candidate.handle(Event::Tick, ms(60_000)), candidate.wake_at()), (vec![], None));
    }
    let mut candidate = Candidacy::new(call(1));
    candidate.handle(Event::Tick, ms(0));
    assert_eq!(candidate.handle(Event::Leave, ms(1)), [Action::StopOpening]);
    assert_eq!(candidate.handle(Event::Opened, ms(2)), [Action::Close], "it was opened just then");
    assert!(candidate.has_left());
}

/// What may happen to a shell that does what the machine answers.
#[derive(Clone, Copy, Debug)]
enum Chance {
    /// What is under way comes back: well, or in one of the ways in which it fails.
    Answer(u8),
    SessionOver,
    TermOver,
    Gate(bool),
    /// An answer to a call of before.
    Stale(u8),
    Time(u64),
    /// The instant that the machine named.
    Wake,
}

fn chances() -> impl Strategy<Value = Vec<Chance>> {
    let chance = prop_oneof![
        6 => (0u8..6).prop_map(Chance::Answer),
        1 => Just(Chance::SessionOver),
        2 => Just(Chance::TermOver),
        1 => any::<bool>().prop_map(Chance::Gate),
        1 => (0u8..6).prop_map(Chance::Stale),
        2 => (0u64..20_000).prop_map(Chance::Time),
        6 => Just(Chance::Wake),
    ];
    proptest::collection::vec(chance, 0..200)
}

/// What is under way, as a shell knows it.
#[derive(Debug, Default)]
struct Shell {
    machine: Option<Candidacy>,
    now: Boot,
    opening: bool,
    open: bool,
    campaign: Option<CallId>,
    giving_back: Option<CallId>,
    /// Won, and neither given back nor gone with its session.
    won: Option<CallId>,
    calls: Vec<CallId>,
    gate: bool,
    left: bool,
    /// When a session was last asked for, and whether that failed or it ended.
    opened_at: Option<Boot>,
}

impl Shell {
    fn new() -> Shell {
        let mut shell = Shell { machine: Some(Candidacy::new(call(1))), ..Shell::default() };
        shell.gate = true;
        shell.tell(Event::Gate(true));
        shell
    }

    fn machine(&mut self) -> &mut Candidacy {
        self.machine.as_mut().unwrap()
    }

    fn tell(&mut self, event: Event) {
        let now = self.now;
        let actions = self.machine().handle(event, now);
        for action in actions {
            self.act(action);
        }
        self.check();
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Open => {
                assert!(!self.opening && !self.open && !self.left, "two sessions: {self:?}");
                let pause = self.opened_at.map_or(Duration::MAX, |at| self.now.since(at));
                assert!(pause >= Backoff::FIRST, "sessions follow each other within {pause:?}");
                (self.opening, self.opened_at) = (true, Some(self.now));
            }
            Action::StopOpening => {
                assert!(self.opening, "{self:?}");
                self.opening = false;
            }
            Action::Close => {
                assert!(self.open, "there is none to close: {self:?}");
                self.open = false;
                (self.campaign, self.giving_back, self.won) = (None, None, None);
            }
            Action::Campaign(call) => {
                assert!(self.open && self.gate, "{self:?}");
                assert!(self.campaign.is_none() && self.giving_back.is_none(), "two calls: {self:?}");
                assert_eq!(self.won, None, "a term is held, and not given back");
                assert!(!self.calls.contains(&call), "a call is used twice");
                self.calls.push(call);
                self.campaign = Some(call);
            }
            Action::GiveBack(call) => {
                assert!(self.open && self.giving_back.is_none(), "{self:?}");
                self.campaign = None;
                self.giving_back = Some(call);
            }
            Action::Report => {}
        }
    }

    fn check(&mut self) {
        let (now, gate) = (self.now, self.gate);
        let (won, giving_back) = (self.won, self.giving_back);
        let is_waited_for = self.opening || self.campaign.is_some() || giving_back.is_some();
        let machine = self.machine();
        if let Some(won) = won {
            assert!(
                machine.holds(won) || giving_back == Some(won) || machine.wake_at().is_some(),
                "{won} is forgotten"
            );
        }
        let may_rest = is_waited_for || won.is_some() || machine.has_left() || !gate;
        let wake_at = machine.wake_at();
        assert!(may_rest || wake_at.is_some(), "it waits for nothing: {self:?}");
        let pause = wake_at.map_or(Duration::ZERO, |at| at.since(now));
        assert!(pause <= OBSTACLE_PAUSE.max(Backoff::LONGEST), "a pause of {pause:?}");
    }

    /// The answer to what is under way: well where `how` is 0 or 1.
    fn answer(&mut self, how: u8) {
        let well = how < 2;
        if std::mem::take(&mut self.opening) {
            self.open = well;
            return self.tell(match how {
                0 | 1 => Event::Opened,
                2 | 3 => passing(),
                _ => denied(),
            });
        }
        if let Some(call) = self.giving_back.take() {
            if well && self.won == Some(call) {
                self.won = None;
            }
            return self.tell(if well { Event::GivenBack(call) } else { not_given_back(call) });
        }
        if let Some(call) = self.campaign.take() {
            if well {
                self.won = Some(call);
            }
            self.tell(match how {
                0 | 1 => Event::Won(call),
                2 => Event::NotWon(call, NotWon::Late),
                3 => Event::NotWon(call, NotWon::Blocked(CallId::from_u128(1 << 90))),
                _ => Event::NotWon(call, no_base()),
            });
        }
    }

    fn happen(&mut self, chance: Chance) {
        match chance {
            Chance::Answer(how) => self.answer(how),
            Chance::SessionOver if self.open => self.tell(Event::SessionOver),
            Chance::TermOver => self.tell(Event::TermOver),
            Chance::Gate(open) => {
                self.gate = open;
                self.tell(Event::Gate(open));
            }
            Chance::Stale(how) => {
                let current = [self.campaign, self.giving_back, self.won];
                let old = self.calls.iter().rev().find(|call| !current.contains(&Some(**call))).copied();
                let Some(old) = old else { return };
                self.tell(match how {
                    0 => Event::Won(old),
                    1 => Event::NotWon(old, NotWon::Late),
                    2 => Event::NotWon(old, no_base()),
                    3 => not_given_back(old),
                    _ => Event::GivenBack(old),
                });
            }
            Chance::Time(millis) => {
                self.now = self.now.plus(Duration::from_millis(millis));
                self.tell(Event::Tick);
            }
            Chance::Wake => {
                if let Some(at) = self.machine().wake_at() {
                    self.now = self.now.max(at);
                    self.tell(Event::Tick);
                }
            }
            Chance::SessionOver => {}
        }
    }
}

proptest! {
    /// Whatever happens in whatever order: one session, one call, no term forgotten, pauses within their bounds; and once
    /// everything goes well it holds a term within a few pauses, and leaves when it is to.
    #[test]
    fn whatever_happens_there_is_one_session_and_one_call_and_it_comes_to_hold_a_term(chances in chances()) {
        let mut shell = Shell::new();
        chances.into_iter().for_each(|chance| shell.happen(chance));
        shell.happen(Chance::Gate(true));
        let began = shell.now;
        while shell.won.is_none() || shell.giving_back.is_some() {
            shell.happen(Chance::Answer(0));
            shell.happen(Chance::Wake);
            prop_assert!(shell.now.since(began) <= Duration::from_secs(8), "it does not come to win: {shell:?}");
        }
        shell.left = true;
        shell.tell(Event::Leave);
        prop_assert!(!shell.open && !shell.opening && shell.machine().has_left());
    }
}
