//! When jobs are due: zones, calendars, and one [`Schedule`] for all jobs that are due alike.

use std::collections::{BTreeMap, HashMap};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use chrono_tz::Tz;

use super::fill::Filled;
use super::keys::{self, MAX_CALENDARS, MAX_DATES, MAX_EXPRESSIONS};
use super::policy::Placed;
use super::walk::{Entry, Fields, Path, Spot, Walk};
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

/// The calendars of a file, by name, and which of them some `except` names.
pub struct Calendars {
    by_name: BTreeMap<String, Arc<Calendar>>,
}

impl Calendars {
    /// Reads `calendars`.
    pub fn read(walk: &mut Walk, spot: Option<Spot>) -> Calendars {
        let mut by_name = BTreeMap::new();
        let Some(spot) = spot else { return Calendars { by_name } };
        let entries = walk.entries(spot).unwrap_or_default();
        if entries.len() > MAX_CALENDARS {
            walk.wrong(spot, format!("{} calendars are too many: at most {MAX_CALENDARS}", entries.len()));
            return Calendars { by_name };
        }
        for Entry { key, name, value } in entries {
            let path = Path::Key(&spot.path, name);
            if let Err(error) = check_name(name) {
                walk.wrong_at(key, path, error.to_string());
            }
            let shape = &keys::CALENDAR_SHAPE;
            let calendar = read_calendar(walk, Spot { node: value, path, shape }, key);
            by_name.insert(name.to_owned(), Arc::new(calendar.unwrap_or_default()));
        }
        Calendars { by_name }
    }
}

fn read_calendar(walk: &mut Walk, spot: Spot, key: super::tree::NodeId) -> Option<Calendar> {
    let fields = walk.fields(&spot)?;
    let Some(dates) = fields.get("dates") else {
        if fields.meant(&["dates"]) {
            return None;
        }
        let message = "this calendar has no dates: write `dates: [2026-12-25]`".to_owned();
        walk.wrong(Spot { node: key, ..spot }, message);
        return None;
    };
    let items = walk.items("a list of dates", &dates, MAX_DATES, false)?;
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

/// What a map says about the instants of schedules, beside the schedule itself.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Rules {
    zone: Option<Tz>,
    gap: Option<Gap>,
    fold: Option<Fold>,
    except: Option<Vec<String>>,
}

impl Rules {
    /// Reads `timezone`, `dst` and `except`.
    pub fn read(walk: &mut Walk, fields: &Fields, calendars: &Calendars) -> Rules {
        let spot = fields.get("dst");
        let dst = spot.as_ref().and_then(|spot| walk.fields(spot));
        let word = |walk: &mut Walk, name| walk.word(dst.as_ref()?.get(name)?);
        Rules {
            zone: fields.get("timezone").and_then(|spot| read_zone(walk, spot)),
            gap: word(walk, "gap").map(|word| [Gap::Shift, Gap::Skip][word]),
            fold: word(walk, "fold").map(|word| [Fold::First, Fold::Last, Fold::Both][word]),
            except: fields.get("except").and_then(|spot| read_except(walk, spot, calendars)),
        }
    }

    /// These rules with those of `defaults` where they say nothing.
    #[must_use]
    pub fn over(self, defaults: &Rules) -> Rules {
        Rules {
            zone: self.zone.or(defaults.zone),
            gap: self.gap.or(defaults.gap),
            fold: self.fold.or(defaults.fold),
            except: self.except.or_else(|| defaults.except.clone()),
        }
    }
}

fn read_zone(walk: &mut Walk, spot: Spot) -> Option<Tz> {
    let filled = walk.known("a time zone", spot)?;
    if let Ok(zone) = Tz::from_str(&filled.text) {
        return Some(zone);
    }
    let hint = zone_advice(if walk.may_guess(&filled) { &filled.text } else { "" });
    walk.wrong(spot, format!("{} is not a time zone: {hint}", filled.shown()));
    None
}

fn read_except(walk: &mut Walk, spot: Spot, calendars: &Calendars) -> Option<Vec<String>> {
    let mut names = Vec::new();
    for item in walk.items("calendars", &spot, MAX_CALENDARS, true)? {
        let Some(name) = walk.known("the name of a calendar", item) else { continue };
        if calendars.by_name.contains_key(name.text.as_ref()) {
            names.push(name.text.into_owned());
            continue;
        }
        let known = || calendars.by_name.keys().map(String::as_str);
        let hint = match walk.guess(&name, known()) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None if calendars.by_name.is_empty() => "this file has no `calendars`".to_owned(),
            None => format!("the calendars of this file are {}", keys::list(known().take(LISTED))),
        };
        walk.wrong(item, format!("{} is not the name of a calendar: {hint}", name.shown()));
    }
    names.sort_unstable();
    names.dedup();
    Some(names)
}

/// What decides the instants of a schedule, where `H` is not used.
type Text = (Vec<String>, Rules, Within);

/// `start` and `end` of a job: the first and last instant that count, as they are written.
pub type Within = (Option<String>, Option<String>);

/// The schedules of a file: those that are due alike are one.
pub struct Schedules<'c> {
    calendars: &'c Calendars,
    zones: Zones,
    by_text: HashMap<Text, Arc<Schedule>>,
    by_fingerprint: HashMap<String, Arc<Schedule>>,
    /// The shortest time between two occurrences, of those that were asked for it.
    intervals: HashMap<String, Option<Duration>>,
}

impl<'c> Schedules<'c> {
    pub fn new(calendars: &'c Calendars) -> Schedules<'c> {
        Schedules {
            calendars,
            zones: Zones::new(),
            by_text: HashMap::new(),
            by_fingerprint: HashMap::new(),
            intervals: HashMap::new(),
        }
    }

    pub fn calendars(&self) -> &'c Calendars {
        self.calendars
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
        let items = walk.items("a schedule or a list of schedules", &spot, MAX_EXPRESSIONS, true)?;
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
        let names = rules.except.iter().flatten();
        let except: Vec<_> = names.filter_map(|name| self.calendars.by_name.get(name)).cloned().collect();
        let spec = ScheduleSpec {
            expressions: texts,
            timezone: rules.zone.unwrap_or(Tz::UTC).name(),
            dst: Dst { gap: rules.gap.unwrap_or_default(), fold: rules.fold.unwrap_or_default() },
            except: &except,
            job,
        };
        Schedule::parse(&spec, &mut self.zones)
    }

    /// The jitter of the job called `job`; warns where it cannot be as long as it says.
    pub fn jitter(
        &mut self,
        walk: &mut Walk,
        most: Option<Placed<Duration>>,
        schedule: &Schedule,
        (job, path): (&str, &Path),
    ) -> Jitter {
        let Some(Placed { value: most, node }) = most.filter(|most| !most.value.is_zero()) else {
            return Jitter::none();
        };
        let interval = *self.intervals.entry(schedule.fingerprint()).or_insert_with(|| shortest_interval(schedule));
        if let Some(interval) = interval.filter(|interval| *interval < most) {
            let [interval, most] = [interval, most].map(written);
            let message = format!(
                "a jitter of {most} is longer than the {interval} from one occurrence to the next: none is moved \
                 beyond the next"
            );
            walk.odd_at(node, Path::Key(path, "jitter"), message);
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
