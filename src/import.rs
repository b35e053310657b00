//! Jobs of other schedulers as jobs of a `jobs.yaml`: what is read, what is written, and a finding on every line.
//!
//! Pure: the texts come from the caller, and so do the instant from which fires are compared and the zone of the machine.
//!
//! 1. `crontab` and its like read one source each into [`Draft`]s, and note what became of each line ([`Report`]).
//! 2. `fields` reads the fields of an expression by the rules of its source, and writes the one that means the same here.
//! 3. `emit` writes the drafts as YAML; the whole is read back with [`config`](crate::config), and what is refused there
//!    is taken out and reported.
//! 4. `fires` and `compare` hold the fires by the rules of the source against those of the job here.
//!
//! **Invariant**: a job that would fire at other instants than in its source, as far as that can be computed, has a
//! finding that says so.

mod calendar;
mod command;
mod compare;
mod crontab;
mod dkron;
mod draft;
mod drop_in;
mod emit;
mod fields;
mod fires;
mod kubernetes;
mod report;
mod robfig;
mod systemd;
#[cfg(test)]
mod tests;
mod unit;

use std::collections::{BTreeMap, BTreeSet};

use chrono_tz::Tz;

pub(crate) use compare::{COMPARED, Comparison};
pub(crate) use draft::Draft;
pub(crate) use drop_in::is_drop_in_directory;
pub(crate) use report::{Fate, Finding, Report};

use crate::config::{self, Sources};
use crate::time::Wall;

/// The most bytes that are read in all.
pub(crate) const MAX_INPUT_BYTES: usize = 16 << 20;

/// The most jobs of one import.
pub(crate) const MAX_DRAFTS: usize = 10_000;

/// What the jobs come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Crontab,
    Kubernetes,
    Dkron,
    Systemd,
}

/// One file of the source.
pub(crate) struct Input {
    /// What it is called in findings.
    pub name: String,
    pub text: String,
}

/// How it is read.
pub(crate) struct Settings {
    /// The zone of the machine on which the source ran, where it says nothing else.
    pub zone: Tz,
    /// The crontabs have a column for the user; `None`: as their path says.
    pub with_users: Option<bool>,
    /// The jobs are enabled.
    pub active: bool,
    /// From when on fires are compared.
    pub now: Wall,
}

/// What came of it.
pub(crate) struct Imported {
    /// A whole jobs file.
    pub yaml: String,
    pub findings: Vec<Finding>,
    pub comparisons: Vec<Comparison>,
    pub jobs: usize,
}

/// Reads all of `inputs` into one jobs file.
pub(crate) fn import(source: Source, inputs: &[Input], settings: &Settings) -> Imported {
    let mut report = Report::default();
    let mut drafts = match source {
        Source::Crontab => crontab::read(inputs, settings, &mut report),
        Source::Kubernetes => kubernetes::read(inputs, settings, &mut report),
        Source::Dkron => dkron::read(inputs, settings, &mut report),
        Source::Systemd => systemd::read(inputs, settings, &mut report),
    };
    if drafts.len() > MAX_DRAFTS {
        for draft in drafts.drain(MAX_DRAFTS..) {
            let message = format!("more than {MAX_DRAFTS} jobs: import the rest from a file of its own");
            report.add(draft.place, Fate::Cannot, message);
        }
    }
    name_uniquely(&mut drafts);
    drop_what_is_refused(&mut drafts, &mut report);
    note_mails(&drafts, &mut report);
    let comparisons = compare::all(&drafts, settings.now);
    for (draft, comparison) in drafts.iter_mut().zip(&comparisons) {
        report.name(draft.place, &draft.name);
        if let Some(message) = comparison.summary() {
            report.add(draft.place, Fate::Differs, message);
        }
    }
    for draft in &mut drafts {
        draft.remarks = report.of(draft.place, Fate::Differs);
    }
    let refused = report.all_that(Fate::Cannot);
    let yaml = emit::file(&drafts, settings.active, &refused);
    Imported { yaml, jobs: drafts.len(), findings: report.into_findings(), comparisons }
}

/// Gives jobs of one name the argument in which they differ, and then the second `backup` the name `backup-2`.
fn name_uniquely(drafts: &mut [Draft]) {
    let mut groups: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (index, draft) in drafts.iter().enumerate() {
        groups.entry(draft.name.clone()).or_default().push(index);
    }
    for (name, members) in groups.into_iter().filter(|(_, members)| members.len() > 1) {
        let arguments: Vec<&[String]> = members.iter().map(|index| drafts[*index].arguments.as_slice()).collect();
        let names = command::set_apart(&name, &arguments);
        members.into_iter().zip(names).for_each(|(index, name)| drafts[index].name = name);
    }
    let mut taken = BTreeSet::new();
    for draft in drafts {
        let base = draft.name.clone();
        let mut number = 1;
        while !taken.insert(draft.name.clone()) {
            number += 1;
            let suffix = format!("-{number}");
            draft.name = format!("{}{suffix}", &base[..base.len().min(100 - suffix.len())]);
        }
    }
}

/// Reports jobs whose mails would need more channels than there may be.
fn note_mails(drafts: &[Draft], report: &mut Report) {
    let beyond: Vec<_> = emit::mails(drafts).into_iter().skip(emit::CHANNELS_MOST).collect();
    for draft in drafts.iter().filter(|draft| draft.mail.as_ref().is_some_and(|mail| beyond.contains(&mail))) {
        let message = format!("its mails have no channel: a file has at most {}", emit::CHANNELS_MOST);
        report.add(draft.place, Fate::Differs, message);
    }
}

/// Takes out what a node would refuse, so that the rest is a jobs file that it takes.
fn drop_what_is_refused(drafts: &mut Vec<Draft>, report: &mut Report) {
    if check(drafts).is_ok() {
        return;
    }
    // A job that follows another one needs it beside it; alone, each is checked as if it had a schedule of its own.
    drafts.retain(|draft| match check(std::slice::from_ref(&draft.standing_alone())) {
        Ok(()) => true,
        Err(why) => {
            report.add(draft.place, Fate::Cannot, format!("fencron refuses what it would be here: {why}"));
            false
        }
    });
    while let Err(why) = check(drafts) {
        // What is left refers to jobs that are not there, or to itself.
        let Some(at) = drafts.iter().position(|draft| draft.follows().is_some()) else {
            drafts.clear();
            return;
        };
        let draft = drafts.remove(at);
        report.add(draft.place, Fate::Cannot, format!("fencron refuses what it would be here: {why}"));
    }
}

/// Whether a node takes them, enabled or not.
fn check(drafts: &[Draft]) -> Result<(), String> {
    let yaml = emit::file(drafts, true, &[]);
    let sources = Sources { open: true, ..Sources::none() };
    match config::parse(&yaml, &sources) {
        Ok(_) => Ok(()),
        Err(problems) => Err(problems.list().first().map_or(String::new(), |problem| problem.message.clone())),
    }
}
