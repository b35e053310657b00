//! Lists of jobs, in pages.

use std::fmt;
use std::ops::Bound;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::search::Found;
use super::{Board, Entry, JobRow, LATE_AFTER, Marks};
use crate::job::{JobName, Trigger};
use crate::time::Wall;

/// The most rows of one page.
pub const PAGE_MOST: usize = 500;

/// The order of a list of jobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// What fails, what takes longer than is expected, what is late, what comes next, and what has no next fire.
    #[default]
    Attention,
    Name,
    /// By the start of the next occurrence; jobs without one come last.
    Next,
}

/// Which jobs are looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FindJobs {
    /// Only jobs with this text in their name, description, owner or labels, in whichever case.
    pub text: Option<String>,
    /// Only jobs of this owner, in whichever case.
    pub owner: Option<String>,
    /// Only jobs with all of these labels: `NAME=VALUE`, or `NAME` for any value of that.
    pub labels: Vec<String>,
    pub state: Option<Filter>,
    pub order: Order,
    /// From behind this row.
    pub after: Option<Cursor>,
    /// At most so many rows; at most [`PAGE_MOST`].
    pub limit: usize,
}

/// A state that lists are filtered by. A job may be in several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
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
    /// With a run that takes longer than is expected.
    Overdue,
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
            Group::Overdue => 'o',
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
                "o" => Group::Overdue,
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

/// Of so many jobs or fewer it is cheaper to sort them than to walk the list until they come.
const SORTED_MOST: usize = 4_000;

/// A row of a list that is walked.
pub(super) struct Place<'a> {
    group: Group,
    start: Wall,
    pub(super) job: &'a JobName,
    marks: Marks,
    /// `None` where the list does not have it at hand: then the job has a next occurrence.
    entry: Option<&'a Entry>,
}

impl Place<'_> {
    pub(super) fn cursor(&self) -> Cursor {
        Cursor { group: self.group, start: self.start, job: self.job.clone() }
    }
}

pub(super) type Places<'a> = Box<dyn Iterator<Item = Place<'a>> + 'a>;

impl Board {
    /// The jobs that are looked for, a page of them, as of `now`.
    pub fn jobs(&self, find: &FindJobs, now: Wall) -> JobsPage {
        self.jobs_of(find, now, |_| true)
    }

    /// The same for a reader that sees only some jobs: to it, the others do not exist, and no place in the list names
    /// them.
    pub fn jobs_of(&self, find: &FindJobs, now: Wall, sees: impl Fn(&JobName) -> bool) -> JobsPage {
        let texts = find.texts();
        let limit = find.limit.clamp(1, PAGE_MOST);
        let few = self.few(texts.first().map(String::as_str), find, now);
        let checked = usize::from(few.as_ref().is_some_and(|few| few.have_the_text));
        let places = match few {
            Some(few) if few.are_in_order => self.named(few.jobs, find),
            Some(few) => self.sorted(&few.jobs, find, now),
            None => self.walked(find, now),
        };
        let judged = self.judged(now);
        let is_found = |place: &Place<'_>| {
            is_in(place, find.state, judged)
                && sees(place.job)
                && texts.iter().skip(checked).all(|text| self.says(place.job, text))
        };
        let mut rows: Vec<Place<'_>> = places.filter(is_found).take(limit + 1).collect();
        let has_more = rows.len() > limit;
        rows.truncate(limit);
        let next = rows.last().filter(|_| has_more).map(Place::cursor);
        JobsPage { jobs: rows.iter().filter_map(|place| self.job(place.job, now)).collect(), next }
    }

    /// The jobs among which all are that are looked for, where those are few.
    fn few(&self, text: Option<&str>, find: &FindJobs, now: Wall) -> Option<Few<'_>> {
        let in_state: Option<Vec<&JobName>> = match find.state {
            Some(Filter::Failing) if self.failing.len() <= SORTED_MOST => Some(self.failing.iter().collect()),
            Some(Filter::Paused) if self.paused.len() <= SORTED_MOST => Some(self.paused.keys().collect()),
            Some(Filter::Running) if self.open_of.len() <= SORTED_MOST => Some(self.open_of.keys().collect()),
            Some(Filter::OnDemand | Filter::Unconfigured) if self.unscheduled.len() <= SORTED_MOST => {
                Some(self.unscheduled.iter().collect())
            }
            Some(Filter::Late) => {
                let late: Vec<&JobName> = self.late(now).map(|(_, name)| name).take(SORTED_MOST + 1).collect();
                Some(late).filter(|late| late.len() <= SORTED_MOST)
            }
            _ => None,
        };
        if let Some(jobs) = in_state {
            return Some(Few { jobs, have_the_text: false, are_in_order: false });
        }
        // A search answers in the order of the names: in a list by name, many are no more than their first page.
        let are_in_order = find.order == Order::Name;
        match self.search(text?, if are_in_order { usize::MAX } else { SORTED_MOST }) {
            Found::Jobs(jobs) => Some(Few { jobs, have_the_text: true, are_in_order }),
            Found::Many => None,
        }
    }

    /// These jobs, which are in the order of their names, from behind `find.after` on.
    fn named<'a>(&'a self, jobs: Vec<&'a JobName>, find: &FindJobs) -> Places<'a> {
        let after = find.after.as_ref().filter(|after| after.group == Group::Rest);
        let from = after.map_or(0, |after| jobs.partition_point(|name| **name <= after.job));
        let place = |name: &'a JobName| {
            let (job, entry) = self.jobs.get_key_value(name)?;
            Some(Place { group: Group::Rest, start: Wall::EPOCH, job, marks: entry.marks, entry: Some(entry) })
        };
        Box::new(jobs.into_iter().skip(from).filter_map(place))
    }

    /// These jobs, in order, from behind `find.after` on.
    pub(super) fn sorted<'a>(&'a self, jobs: &[&JobName], find: &FindJobs, now: Wall) -> Places<'a> {
        let now = self.judged(now);
        let place = |name: &&JobName| {
            let (name, entry) = self.jobs.get_key_value(*name)?;
            let start = entry.next.map(|(_, start)| start);
            let group = match (find.order, start) {
                (Order::Attention, _) if entry.marks.failing => Group::Failing,
                (Order::Attention, _) if entry.marks.is_overdue(now) => Group::Overdue,
                (Order::Attention | Order::Next, Some(_)) => Group::Coming,
                _ => Group::Rest,
            };
            let start = match group {
                Group::Overdue => entry.marks.late_from,
                Group::Coming => start,
                Group::Failing | Group::Rest => None,
            };
            let start = start.unwrap_or(Wall::EPOCH);
            Some(Place { group, start, job: name, marks: entry.marks, entry: Some(entry) })
        };
        let is_ahead = |place: &Place<'_>| {
            let key = (place.group, place.start, place.job);
            find.after.as_ref().is_none_or(|after| key > (after.group, after.start, &after.job))
        };
        let mut places: Vec<Place<'a>> = jobs.iter().filter_map(place).filter(is_ahead).collect();
        places.sort_by(|a, b| (a.group, a.start, a.job).cmp(&(b.group, b.start, b.job)));
        Box::new(places.into_iter())
    }

    /// All jobs that may be in the state, in order, from behind `find.after` on.
    pub(super) fn walked<'a>(&'a self, find: &FindJobs, now: Wall) -> Places<'a> {
        let (order, after) = (find.order, find.after.clone());
        // Those states are about jobs without a next occurrence.
        let may_come = !matches!(find.state, Some(Filter::OnDemand | Filter::Unconfigured));
        // Where they do not stand in front, the jobs with a run that takes too long have any next occurrence.
        let has_others = order != Order::Attention && self.overdue(now).next().is_some();
        let is_bounded = find.state == Some(Filter::Late) && !has_others;
        let now = self.judged(now);
        let until = if is_bounded { now.minus(LATE_AFTER) } else { Wall::MAX };
        let is_past = |group: Group| after.as_ref().is_some_and(|place| place.group > group);
        let from_name = |group: Group| match &after {
            Some(place) if place.group == group => Bound::Excluded(place.job.clone()),
            _ => Bound::Unbounded,
        };
        let row = |group: Group, name: &'a JobName, entry: &'a Entry| Place {
            group,
            start: Wall::EPOCH,
            job: name,
            marks: entry.marks,
            entry: Some(entry),
        };

        let failing = (order == Order::Attention && !is_past(Group::Failing)).then(|| {
            let names = self.failing.range((from_name(Group::Failing), Bound::Unbounded));
            names.filter_map(move |name| Some(row(Group::Failing, name, self.jobs.get(name)?)))
        });
        let overdue = (order == Order::Attention && !is_past(Group::Overdue)).then(|| {
            let from = match &after {
                Some(place) if place.group == Group::Overdue => Bound::Excluded((place.start, place.job.clone())),
                _ => Bound::Unbounded,
            };
            let rows = self.overdue.range((from, Bound::Unbounded)).take_while(move |(from, _)| *from < now);
            let place = move |(from, name): &'a (Wall, JobName)| {
                let place = row(Group::Overdue, name, self.jobs.get(name)?);
                Some(Place { start: *from, ..place })
            };
            rows.filter_map(place).filter(|place| !place.marks.failing)
        });
        let coming = (order != Order::Name && may_come && !is_past(Group::Coming)).then(|| {
            let from = match &after {
                Some(place) if place.group == Group::Coming => Bound::Excluded((place.start, place.job.clone())),
                _ => Bound::Unbounded,
            };
            let rows = self.by_start.range((from, Bound::Unbounded)).take_while(move |((start, _), _)| *start <= until);
            let is_here =
                move |(_, marks): &(_, &Marks)| order == Order::Next || !(marks.failing || marks.is_overdue(now));
            rows.filter(is_here).map(|((start, job), marks)| Place {
                group: Group::Coming,
                start: *start,
                job,
                marks: *marks,
                entry: None,
            })
        });
        let is_rest = move |(_, entry): &(&JobName, &Entry)| match order {
            Order::Name => true,
            Order::Next => entry.next.is_none(),
            Order::Attention => entry.next.is_none() && !entry.marks.failing && !entry.marks.is_overdue(now),
        };
        let rest = self.jobs.range((from_name(Group::Rest), Bound::Unbounded)).filter(is_rest);
        let rest = rest.map(move |(name, entry)| row(Group::Rest, name, entry));
        let ahead = failing.into_iter().flatten().chain(overdue.into_iter().flatten());
        Box::new(ahead.chain(coming.into_iter().flatten()).chain(rest))
    }
}

/// Jobs among which all are that are looked for.
struct Few<'a> {
    jobs: Vec<&'a JobName>,
    /// They all have the text that is looked for.
    have_the_text: bool,
    /// They are in the order of their names, which is that of the list.
    are_in_order: bool,
}

/// `now`: the time by which lateness is judged.
pub(super) fn is_in(place: &Place<'_>, state: Option<Filter>, now: Wall) -> bool {
    let trigger = || place.entry.and_then(|entry| entry.job.as_deref()).map(|job| &job.trigger);
    match state {
        None => true,
        Some(Filter::Failing) => place.marks.failing,
        Some(Filter::Running) => place.marks.running,
        Some(Filter::Paused) => place.marks.paused,
        Some(Filter::Late) => {
            let start = place.entry.map_or(Some(place.start), |entry| entry.next.map(|(_, start)| start));
            let is_undecided =
                place.group != Group::Overdue && start.is_some_and(|start| start < now.minus(LATE_AFTER));
            is_undecided || place.marks.is_overdue(now)
        }
        Some(Filter::OnDemand) => matches!(trigger(), Some(Trigger::Disabled | Trigger::After { .. })),
        Some(Filter::Unconfigured) => place.entry.is_some_and(|entry| entry.job.is_none()),
    }
}
