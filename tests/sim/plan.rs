//! What is going to happen in one simulation, all of it decided by its seed beforehand.

use super::alerts::NOTIFY;
use super::chance::Chance;
use super::jobs;
use super::network::{Broken, Harm, Kind, Point, Trap, Weather};
use super::referee::record::JobRule;

/// How long things go wrong, and how long all is well after that.
pub const CHAOS: u64 = 45_000;
pub const REST: u64 = 40_000;

/// Whom something happens to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    Leader,
    Node(usize),
}

/// Something that is done to the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    Crash(Whom, u64),
    /// The same of a process alone, and its supervisor sees it.
    CrashSeen(Whom, u64),
    StopInOrder(Whom, u64),
    /// For so long: its processes stand still, and (`true`) do not even see the time pass.
    Hold(Whom, u64, bool),
    Cut(Whom, u64),
    StoreDown(u64),
    /// For so long, its wall clock is so far off.
    SetClock(Whom, i64, u64),
    RevokeLeader,
    DeleteOwner,
    /// A key of nobody lies in the queue for so long.
    StrayKey(u64),
    Compact,
    Weather(Fair, u64),
    Ask(Request),
}

/// What a person asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    Trigger,
    Backfill,
    Cancel,
    Pause,
    Resume,
    StepDown,
    Resolve,
}

/// How bad the network is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fair {
    Drizzle,
    Rain,
    Storm,
}

impl Fair {
    pub fn weather(self) -> Weather {
        let times = match self {
            Fair::Drizzle => 1,
            Fair::Rain => 4,
            Fair::Storm => 12,
        };
        Weather {
            lost: 8 * times,
            answer_lost: 12 * times,
            late: 6 * times,
            repeated: 12 * times,
            unavailable: 8 * times,
            watch_breaks: 4 * times,
            watch_late: 8 * times,
        }
    }
}

/// When the store is backed up and restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restore {
    pub backed_up: u64,
    pub restored: u64,
    /// How much others write to the store after that, for its revision to grow.
    pub growth: u64,
    /// Whose processes crash after that.
    pub crashes: usize,
    pub repaired: u64,
}

/// What the processes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cast {
    Nodes,
    /// Programs that hold locks, stand for election and do things once.
    Holders,
}

/// All of it.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub cast: Cast,
    pub nodes: usize,
    pub ttl_secs: u64,
    pub grace_secs: u64,
    /// How many runs each node begins at once.
    pub room: usize,
    /// Parts of a million by which each node's clock is fast.
    pub drift: Vec<i64>,
    pub jobs: String,
    pub rules: Vec<JobRule>,
    /// In the order of their time.
    pub deeds: Vec<(u64, Deed)>,
    pub traps: Vec<(u64, Trap)>,
    pub restore: Option<Restore>,
    /// The nodes send alerts.
    pub tells: bool,
    pub broken: Broken,
}

impl Plan {
    pub fn of(seed: u64) -> Plan {
        let mut chance = Chance::new(seed);
        let nodes = *chance.pick(&[2, 3, 3, 3, 3, 3, 5]);
        let (jobs, rules) = jobs::choose(&mut chance);
        let mut plan = Plan {
            seed,
            cast: Cast::Nodes,
            nodes,
            ttl_secs: *chance.pick(&[2, 3, 5, 8]),
            grace_secs: *chance.pick(&[1, 5, 15]),
            room: *chance.pick(&[2, 5, 1000, 1000]),
            drift: (0..nodes).map(|_| chance.within(0, 20_000) as i64 - 10_000).collect(),
            jobs,
            rules,
            deeds: Vec::new(),
            traps: Vec::new(),
            restore: None,
            tells: false,
            broken: Broken::Not,
        };
        plan.spread_deeds(&mut chance);
        plan.lay_traps(&mut chance);
        plan
    }

    /// The same, and bad ends are notified.
    pub fn with_alerts(seed: u64) -> Plan {
        let plan = Plan::of(seed);
        let jobs = plan.jobs.replacen("jobs:\n", &format!("{NOTIFY}jobs:\n"), 1);
        Plan { tells: true, jobs, ..plan }
    }

    /// The same, and when all is well again the store is restored from a backup.
    pub fn with_restore(seed: u64) -> Plan {
        let mut chance = Chance::of(seed, "restore");
        let restored = CHAOS + chance.within(10_000, 14_000);
        let recent = chance.permille(500);
        let restore = Restore {
            backed_up: if recent { restored - chance.within(250, 6_000) } else { chance.within(5_000, restored - 250) },
            restored,
            growth: *chance.pick(&[0, 20, 400]),
            crashes: *chance.pick(&[0, 1, 2, 5]),
            repaired: restored + 12_000,
        };
        Plan { restore: Some(restore), ..Plan::of(seed) }
    }

    /// What a drill does: one fault of the leader, which lasts until another leads; in `rough` weather writes arrive late,
    /// twice or never, too.
    pub fn of_drill(seed: u64, rough: bool) -> Plan {
        let mut chance = Chance::of(seed, "drill");
        let (jobs, rules) = jobs::of_drill();
        let ttl_secs = *chance.pick(&[2, 3]);
        let at = 15_000 + chance.within(0, 2_000);
        let lasts = ttl_secs * 1000 + chance.within(1_500, 6_000);
        let deed = *chance.pick(&[
            Deed::Crash(Whom::Leader, 3_000),
            Deed::Hold(Whom::Leader, lasts, false),
            Deed::Cut(Whom::Leader, lasts),
        ]);
        let storm = (3_000, Deed::Weather(Fair::Storm, CHAOS - 3_000));
        let deeds = if rough { vec![storm, (at, deed)] } else { vec![(at, deed)] };
        Plan { nodes: 3, ttl_secs, grace_secs: 5, room: 1000, jobs, rules, deeds, traps: Vec::new(), ..Plan::of(seed) }
            .with_clocks(&mut chance)
    }

    fn with_clocks(self, chance: &mut Chance) -> Plan {
        let drift = (0..self.nodes).map(|_| chance.within(0, 20_000) as i64 - 10_000).collect();
        Plan { drift, ..self }
    }

    /// The same, done to programs that hold locks. (They have no jobs, and heed nobody who asks for something.)
    pub fn of_holders(seed: u64) -> Plan {
        Plan { cast: Cast::Holders, ..Plan::of(seed) }
    }

    /// The same, and when all is well again the store is restored from a backup.
    pub fn of_holders_with_restore(seed: u64) -> Plan {
        Plan { cast: Cast::Holders, ..Plan::with_restore(seed) }
    }

    fn spread_deeds(&mut self, chance: &mut Chance) {
        let many = *chance.pick(&[1, 3, 6, 12]);
        for _ in 0..many {
            let at = chance.within(1_000, CHAOS - 2_000);
            let deed = self.deed(chance);
            self.deeds.push((at, deed));
        }
        let asks = chance.within(0, 8);
        for _ in 0..asks {
            let request = *chance.pick(&[
                Request::Trigger,
                Request::Trigger,
                Request::Backfill,
                Request::Cancel,
                Request::Cancel,
                Request::Pause,
                Request::Resume,
                Request::StepDown,
                Request::Resolve,
                Request::Resolve,
            ]);
            self.deeds.push((chance.within(2_000, CHAOS), Deed::Ask(request)));
        }
        self.deeds.sort_by_key(|(at, _)| *at);
    }

    fn whom(&self, chance: &mut Chance) -> Whom {
        if chance.permille(600) { Whom::Leader } else { Whom::Node(chance.within(0, self.nodes as u64 - 1) as usize) }
    }

    fn deed(&self, chance: &mut Chance) -> Deed {
        let whom = self.whom(chance);
        let ttl = self.ttl_secs * 1000;
        let lasting = |chance: &mut Chance| match chance.permille(500) {
            true => chance.within(ttl, 3 * ttl),
            false => chance.within(100, ttl),
        };
        match chance.within(0, 15) {
            0 => Deed::CrashSeen(whom, chance.within(100, 15_000)),
            1 | 2 => Deed::Crash(whom, chance.within(100, 15_000)),
            3 => Deed::StopInOrder(whom, chance.within(3_000, 15_000)),
            4 | 5 => Deed::Hold(whom, lasting(chance), chance.permille(600)),
            6 | 7 => Deed::Cut(whom, lasting(chance)),
            8 => Deed::StoreDown(chance.within(500, 2 * ttl)),
            9 | 10 => {
                let far = *chance.pick(&[3_000, 60_000, 600_000, 3 * 3_600_000]);
                let off = chance.within(500, far) as i64;
                Deed::SetClock(whom, if chance.permille(500) { off } else { -off }, chance.within(1_000, 25_000))
            }
            11 => Deed::RevokeLeader,
            12 => Deed::DeleteOwner,
            13 => Deed::StrayKey(chance.within(100, 8_000)),
            14 => Deed::Compact,
            _ => {
                let fair = *chance.pick(&[Fair::Drizzle, Fair::Rain, Fair::Storm]);
                Deed::Weather(fair, chance.within(5_000, 40_000))
            }
        }
    }

    /// Harm at the worst moments: when a transaction of a kind is under way.
    fn lay_traps(&mut self, chance: &mut Chance) {
        let many = *chance.pick(&[0, 1, 2, 4]);
        for _ in 0..many {
            let kinds = [
                Kind::Claim,
                Kind::Claim,
                Kind::Verdict,
                Kind::Change,
                Kind::Register,
                Kind::Enqueue,
                Kind::Grant,
                Kind::Release,
                Kind::Session,
            ];
            let harms = [Harm::Crash, Harm::CrashSeen, Harm::Stop, Harm::Cut, Harm::RevokeLeader, Harm::DeleteOwner];
            let trap = Trap {
                kind: *chance.pick(&kinds),
                point: *chance.pick(&[Point::BeforeApplied, Point::BeforeAnswer, Point::Answered]),
                skip: chance.within(0, 6) as u32,
                harm: *chance.pick(&harms),
            };
            self.traps.push((chance.within(0, CHAOS - 5_000), trap));
        }
        self.traps.sort_by_key(|(at, _)| *at);
    }

    pub fn ttl(&self) -> u64 {
        self.ttl_secs * 1000
    }
}
