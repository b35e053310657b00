//! When jobs are due: zones, calendars, and one [`Schedule`] for all jobs that are due alike.

use std::collections::{BTreeMap, HashMap};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use chrono_tz::Tz;

use super::draft::Placed;
use super::fill::Filled;
use super::keys;
use super::values::Value;
use super::walk::{Fields, Path, Spot, Walk};
use crate::job::check_name;
use crate::schedule::{
    Calendar, Dst, Fold, Gap, Jitter, Schedule, ScheduleError, ScheduleSpec, WithinError, Zones, surprise, zone_advice,
};
use crate::time::{Wall, written};

/// From when on the distance of occurrences is looked at, for warnings: any instant does, so it is a fixed one.
const SAMPLED_FROM: Wall = Wall::from_millis(1_767_225_600_000);
/// How many calendars a message lists.
const LISTED: usize = 20;
/// How many distances are looked at.
const SAMPLES: usize = 10;

/// The calendars of a file, by name.
#[derive(Clone, Default)]
pub struct Calendars {
    by_name: Arc<BTreeMap<String, Arc<Calendar>>>,
}

impl Calendars {
    /// Reads `calendars`.
    pub fn read(walk: &mut Walk, spot: Option<Spot>) -> Calendars {
        let Some(spot) = spot else { return Calendars::default() };
        let check = |name: &str| check_name(name).map_err(|error| error.to_string());
        let by_name = walk
            .named(spot, check, |walk, spot, key| Some(Arc::new(read_calendar(walk, spot, key).unwrap_or_default())));
        Calendars { by_name: Arc::new(by_name) }
    }
}

fn read_calendar(walk: &mut Walk, spot: Spot, key: super::tree::NodeId) -> Option<Calendar> {
    let fields = walk.fields(&spot)?;
    let missing = "this calendar has no dates: write `dates: [2026-12-25]`";
    let dates = fields.need(walk, "dates", Spot { node: key, ..spot }, missing)?;
    let items = walk.items("a list of dates", &dates)?;
    let texts: Vec<_> =
        items.iter().map(|spot| walk.known("a date", *spot).map_or(String::new(), |f| f.text.into_owned())).collect();
    match Calendar::parse(&texts) {
        Ok(calendar) => Some(calendar),
        Err(errors) => {
            for error in errors.iter().filter(|error| !texts[error.index].is_empty()) {
                walk.wrong(items[error.index], error.to_string());
            }
            None
        }
    }
}

/// What decides the instants of a schedule, beside its expressions and its bounds.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Rules {
    pub zone: Tz,
    pub gap: Gap,
    pub fold: Fold,
    pub except: Except,
}

/// The names of calendars on whose dates a job is not due: in order, each once.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Except(Vec<String>);

impl Value for Tz {
    fn read(walk: &mut Walk, spot: Spot) -> Option<Tz> {
        let filled = walk.known("a time zone", spot)?;
        if let Ok(zone) = Tz::from_str(&filled.text) {
            return Some(zone);
        }
        let hint = zone_advice(if walk.may_guess(&filled) { &filled.text } else { "" });
        walk.refuse(spot, format!("{} is not a time zone: {hint}", filled.shown()))
    }
}

impl Value for Except {
    fn read(walk: &mut Walk, spot: Spot) -> Option<Except> {
        let calendars = walk.calendars.clone();
        let mut names = Vec::new();
        for item in walk.items("calendars", &spot)? {
            let Some(name) = walk.known("the name of a calendar", item) else { continue };
            if calendars.by_name.contains_key(name.text.as_ref()) {
                names.push(name.text.into_owned());
                continue;
            }
            let known = || calendars.by_name.keys().map(String::as_str);
            let hint = match walk.guess(&name, known()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None if calendars.by_name.is_empty() => format!("{} has no `calendars`", walk.whole()),
                None => format!("the calendars of {} are {}", walk.whole(), keys::list(known().take(LISTED))),
            };
            walk.wrong(item, format!("{} is not the name of a calendar: {hint}", name.shown()));
        }
        names.sort_unstable();
        names.dedup();
        Some(Except(names))
    }
}

/// What decides the instants of a schedule, where `H` is not used.
type Text = (Vec<String>, Rules, Within);

/// `start` and `end` of a job: the first and last instant that count, as they are written.
pub type Within = (Option<String>, Option<String>);

/// The schedules of a file: those that are due alike are one.
pub struct Schedules {
    calendars: Calendars,
    zones: Zones,
    by_text: HashMap<Text, Arc<Schedule>>,
    by_fingerprint: HashMap<String, Arc<Schedule>>,
    /// The shortest time between two occurrences, of those that were asked for it.
    intervals: HashMap<String, Option<Duration>>,
}

impl Schedules {
    pub fn new(calendars: Calendars) -> Schedules {
        Schedules {
            calendars,
            zones: Zones::new(),
            by_text: HashMap::new(),
            by_fingerprint: HashMap::new(),
            intervals: HashMap::new(),
        }
    }

    /// Reads the `schedule` of the job called `job`, of which `fields` are its keys.
    pub fn read(
        &mut self,
        walk: &mut Walk,
        fields: &Fields,
        (rules, within): (&Rules, Option<Within>),
        job: &str,
    ) -> Option<Arc<Schedule>> {
        let spot = fields.get("schedule")?;
        let items = walk.items("a schedule or a list of schedules", &spot)?;
        let filled: Vec<Filled> =
            items.iter().filter_map(|item| walk.known("a schedule like \"0 2 * * *\"", *item)).collect();
        if filled.len() < items.len() {
            return None;
        }
        for (item, filled) in items.iter().zip(&filled).filter(|(_, filled)| !filled.secret) {
            if let Some(message) = surprise(&filled.text) {
                walk.odd(*item, message);
            }
        }
        let texts: Vec<&str> = filled.iter().map(|filled| filled.text.as_ref()).collect();
        // `H` makes a schedule of its own for each job; the fingerprint then says which are alike.
        let may_hash = texts.iter().any(|text| text.contains(['H', 'h']));
        let key = (texts.iter().map(|text| (*text).to_owned()).collect(), rules.clone(), within?);
        if !may_hash && let Some(schedule) = self.by_text.get(&key) {
            return Some(Arc::clone(schedule));
        }
        let parsed = self.parse(&texts, rules, job);
        match parsed.map(|schedule| schedule.within(key.2.0.as_deref(), key.2.1.as_deref())) {
            Ok(Err(error)) => {
                report_within(walk, fields, &error);
                None
            }
            Ok(Ok(schedule)) => {
                let shared = self.by_fingerprint.entry(schedule.fingerprint()).or_insert_with(|| Arc::new(schedule));
                let shared = Arc::clone(shared);
                if !may_hash {
                    self.by_text.insert(key, Arc::clone(&shared));
                }
                Some(shared)
            }
            Err(errors) => {
                errors.into_iter().for_each(|error| report(walk, error, spot, &items, &filled));
                None
            }
        }
    }

    fn parse(&mut self, texts: &[&str], rules: &Rules, job: &str) -> Result<Schedule, Vec<ScheduleError>> {
        let names = rules.except.0.iter();
        let except: Vec<_> = names.filter_map(|name| self.calendars.by_name.get(name)).cloned().collect();
        let spec = ScheduleSpec {
            expressions: texts,
            timezone: rules.zone.name(),
            dst: Dst { gap: rules.gap, fold: rules.fold },
            except: &except,
            job,
        };
        Schedule::parse(&spec, &mut self.zones)
    }

    /// The jitter of the job called `job`; warns where it cannot be as long as it says.
    pub fn jitter(
        &mut self,
        walk: &mut Walk,
        Placed { value: most, given }: Placed<Duration>,
        schedule: &Schedule,
        (job, path): (&str, &Path),
    ) -> Jitter {
        if most.is_zero() {
            return Jitter::none();
        }
        let interval = *self.intervals.entry(schedule.fingerprint()).or_insert_with(|| shortest_interval(schedule));
        if let (Some(given), Some(interval)) = (given, interval.filter(|interval| *interval < most)) {
            let [interval, most] = [interval, most].map(written);
            let message = format!(
                "a jitter of {most} is longer than the {interval} from one occurrence to the next: none is moved \
                 beyond the next"
            );
            walk.odd_at(given.node, Path::Key(&given.map(path), "jitter"), message);
        }
        Jitter::of(most, job)
    }
}

/// The texts of `start` and `end`; `None`: one of them cannot be read.
pub fn read_within(walk: &mut Walk, fields: &Fields) -> Option<Within> {
    let (start, end) = (read_moment(walk, fields, "start"), read_moment(walk, fields, "end"));
    Some((start?, end?))
}

/// The text of `start` or `end`, where it is given; `None`: it cannot be read.
fn read_moment(walk: &mut Walk, fields: &Fields, name: &'static str) -> Option<Option<String>> {
    let Some(spot) = fields.get(name) else { return Some(None) };
    walk.known("a day or an instant", spot).map(|filled| Some(filled.text.into_owned()))
}

fn report_within(walk: &mut Walk, fields: &Fields, error: &WithinError) {
    let key = match error {
        WithinError::NotAMoment { start: true } => "start",
        WithinError::NotAMoment { start: false } | WithinError::EndsBeforeItStarts => "end",
        WithinError::NeverFires => {
            if fields.get("end").is_some() {
                "end"
            } else {
                "start"
            }
        }
    };
    let Some(spot) = fields.get(key) else { return };
    walk.wrong(spot, format!("the {key} {error}"));
}

fn report(walk: &mut Walk, error: ScheduleError, whole: Spot, items: &[Spot], filled: &[Filled]) {
    match error {
        ScheduleError::Expression { index, .. } if filled[index].secret => {
            walk.wrong(items[index], format!("{} is not a schedule", filled[index].shown()));
        }
        ScheduleError::Expression { index, offset, message } => {
            let at = walk.tree.at_within(items[index].node, offset);
            walk.wrong.add(at, items[index].path.to_string(), message);
        }
        ScheduleError::Zone { message } | ScheduleError::Whole { message } => walk.wrong(whole, message),
    }
}

fn shortest_interval(schedule: &Schedule) -> Option<Duration> {
    let mut at = schedule.next_after(SAMPLED_FROM)?;
    let mut shortest = None;
    for _ in 0..SAMPLES {
        let Some(next) = schedule.next_after(at) else { break };
        shortest = Some(shortest.map_or(next.since(at), |shortest: Duration| shortest.min(next.since(at))));
        at = next;
    }
    shortest
}
