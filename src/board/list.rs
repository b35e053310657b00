//! Lists of jobs, in pages.

use std::fmt;
use std::ops::Bound;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Board, JobRow, LATE_AFTER};
use crate::job::{JobName, Trigger};
use crate::time::Wall;

/// The most rows of one page.
pub const PAGE_MOST: usize = 500;

/// The order of a list of jobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// What fails, what is late, what comes next, and what has no next fire.
    #[default]
    Attention,
    Name,
    /// By the start of the next occurrence; jobs without one come last.
    Next,
}

/// Which jobs are looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FindJobs {
    /// Only jobs with this text in their name or description, in whichever case.
    pub text: Option<String>,
    pub state: Option<Filter>,
    pub order: Order,
    /// From behind this row.
    pub after: Option<Cursor>,
    /// At most so many rows; at most [`PAGE_MOST`].
    pub limit: usize,
}

/// A state that lists are filtered by. A job may be in several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    Failing,
    Late,
    Running,
    Paused,
    OnDemand,
    Unconfigured,
}

/// A page of jobs.
#[derive(Clone, Debug, PartialEq)]
pub struct JobsPage {
    pub jobs: Vec<JobRow>,
    /// Where the next page begins; `None`: this was the last one.
    pub next: Option<Cursor>,
}

/// A row's place in a list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    group: Group,
    start: Wall,
    job: JobName,
}

/// The groups of [`Order::Attention`], in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Group {
    Failing,
    /// With a next occurrence, the late ones first since theirs are the earliest.
    Coming,
    Rest,
}

/// A text that is no place in a list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no place in a list: take the `next` of the page before")]
pub struct NotACursor(String);

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let group = match self.group {
            Group::Failing => 'f',
            Group::Coming => 'c',
            Group::Rest => 'r',
        };
        write!(f, "{group}.{}.{}", self.start.as_millis(), self.job)
    }
}

impl FromStr for Cursor {
    type Err = NotACursor;

    fn from_str(text: &str) -> Result<Cursor, NotACursor> {
        let parse = || {
            let (group, rest) = text.split_once('.')?;
            let (start, job) = rest.split_once('.')?;
            let group = match group {
                "f" => Group::Failing,
                "c" => Group::Coming,
                "r" => Group::Rest,
                _ => return None,
            };
            let start = Wall::from_millis(start.parse().ok()?);
            Some(Cursor { group, start, job: JobName::new(job).ok()? })
        };
        parse().ok_or_else(|| NotACursor(text.chars().take(120).collect()))
    }
}

impl Board {
    /// The jobs that are looked for, a page of them, as of `now`.
    pub fn jobs(&self, find: &FindJobs, now: Wall) -> JobsPage {
        let text = find.text.as_deref().map(str::to_lowercase);
        let limit = find.limit.clamp(1, PAGE_MOST);
        let is_found = |place: &Cursor| self.is_found(&place.job, text.as_deref(), find.state, now);
        let mut places: Vec<Cursor> = self.places(find, now).filter(is_found).take(limit + 1).collect();
        let more = places.len() > limit;
        places.truncate(limit);
        let next = places.last().filter(|_| more).cloned();
        let rows = places.iter().filter_map(|place| self.job(&place.job, now));
        JobsPage { jobs: rows.collect(), next }
    }

    fn is_found(&self, name: &JobName, text: Option<&str>, state: Option<Filter>, now: Wall) -> bool {
        self.is_in(name, state, now) && text.is_none_or(|text| self.says(name, text))
    }

    fn says(&self, name: &JobName, text: &str) -> bool {
        let description = || {
            let description = self.definition(name)?.description.as_ref()?.to_string();
            Some(description.to_lowercase().contains(text))
        };
        contains_ignoring_case(name.as_str(), text) || description().unwrap_or(false)
    }

    fn is_in(&self, name: &JobName, state: Option<Filter>, now: Wall) -> bool {
        let entry = || self.jobs.get(name);
        match state {
            None => true,
            Some(Filter::Failing) => self.failing.contains(name),
            Some(Filter::Late) => entry().and_then(|e| e.next).is_some_and(|(_, start)| start < now.minus(LATE_AFTER)),
            Some(Filter::Running) => self.open_of.contains_key(name),
            Some(Filter::Paused) => self.paused.contains_key(name),
            Some(Filter::Unconfigured) => entry().is_some_and(|entry| entry.job.is_none()),
            Some(Filter::OnDemand) => entry()
                .and_then(|entry| entry.job.as_deref())
                .is_some_and(|job| matches!(job.trigger, Trigger::Disabled | Trigger::After { .. })),
        }
    }

    /// The places of all jobs that a state may let pass, in order, from behind `find.after` on.
    fn places<'a>(&'a self, find: &FindJobs, now: Wall) -> Box<dyn Iterator<Item = Cursor> + 'a> {
        let after = find.after.clone();
        let is_ahead = move |place: &Cursor| after.as_ref().is_none_or(|after| place > after);
        // A small set decides what is listed: it is sorted, and nothing else is looked at.
        let of_set = |names: &mut dyn Iterator<Item = &JobName>| {
            let mut places: Vec<Cursor> = names.map(|name| self.place(name, find.order)).collect();
            places.sort();
            places
        };
        match find.state {
            Some(Filter::Failing) => Box::new(of_set(&mut self.failing.iter()).into_iter().filter(is_ahead)),
            Some(Filter::Paused) => Box::new(of_set(&mut self.paused.keys()).into_iter().filter(is_ahead)),
            Some(Filter::Running) => Box::new(of_set(&mut self.open_of.keys()).into_iter().filter(is_ahead)),
            Some(Filter::Late) => {
                Box::new(of_set(&mut self.late(now).map(|(_, name)| name)).into_iter().filter(is_ahead))
            }
            Some(Filter::OnDemand | Filter::Unconfigured) | None => self.all_places(find),
        }
    }

    fn place(&self, name: &JobName, order: Order) -> Cursor {
        let start = self.jobs.get(name).and_then(|entry| entry.next).map(|(_, start)| start);
        let group = match (order, start) {
            (Order::Attention, _) if self.failing.contains(name) => Group::Failing,
            (Order::Attention | Order::Next, Some(_)) => Group::Coming,
            _ => Group::Rest,
        };
        let start = start.filter(|_| group == Group::Coming).unwrap_or(Wall::EPOCH);
        Cursor { group, start, job: name.clone() }
    }

    fn all_places<'a>(&'a self, find: &FindJobs) -> Box<dyn Iterator<Item = Cursor> + 'a> {
        let (order, after) = (find.order, find.after.clone());
        let behind = |group: Group| match &after {
            Some(place) if place.group == group => Some(place.clone()),
            _ => None,
        };
        let is_past = |group: Group| after.as_ref().is_some_and(|place| place.group > group);
        let from_name = |place: Option<Cursor>| place.map_or(Bound::Unbounded, |place| Bound::Excluded(place.job));
        let named = move |group: Group| move |name: &JobName| Cursor { group, start: Wall::EPOCH, job: name.clone() };

        let failing = (order == Order::Attention && !is_past(Group::Failing)).then(|| {
            self.failing.range((from_name(behind(Group::Failing)), Bound::Unbounded)).map(named(Group::Failing))
        });
        let coming = (order != Order::Name && !is_past(Group::Coming)).then(|| {
            let from =
                behind(Group::Coming).map_or(Bound::Unbounded, |place| Bound::Excluded((place.start, place.job)));
            let place =
                |(start, name): &(Wall, JobName)| Cursor { group: Group::Coming, start: *start, job: name.clone() };
            let is_here = move |(_, name): &&(Wall, JobName)| order == Order::Next || !self.failing.contains(name);
            self.by_start.range((from, Bound::Unbounded)).filter(is_here).map(place)
        });
        let is_rest = move |(name, entry): &(&JobName, &super::Entry)| match order {
            Order::Name => true,
            Order::Next => entry.next.is_none(),
            Order::Attention => entry.next.is_none() && !self.failing.contains(*name),
        };
        let rest = self.jobs.range((from_name(behind(Group::Rest)), Bound::Unbounded)).filter(is_rest);
        let rest = rest.map(|(name, _)| name).map(named(Group::Rest));
        Box::new(failing.into_iter().flatten().chain(coming.into_iter().flatten()).chain(rest))
    }
}

/// Whether `text`, which is ASCII, contains `part`, which is in lower case.
fn contains_ignoring_case(text: &str, part: &str) -> bool {
    part.is_empty() || text.as_bytes().windows(part.len()).any(|window| window.eq_ignore_ascii_case(part.as_bytes()))
}
