//! The jobs as configured, and how another configuration takes their place while this node leads.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::run::Known;
use super::{Action, Scheduler};
use crate::job::{Job, JobName, On, Trigger};
use crate::time::Wall;

pub(super) type Jobs = BTreeMap<JobName, Arc<Job>>;

/// A job that another configuration changes; `None`: it is not there any more.
type Changed<'a> = (JobName, Option<&'a Arc<Job>>);

#[derive(Debug, Default)]
pub(super) struct Configuration {
    jobs: Jobs,
    /// Jobs by the job whose end makes them due.
    followers: BTreeMap<JobName, Vec<(JobName, On)>>,
    /// A configuration that waits until everything due under the old one has been decided.
    offered: Option<Jobs>,
    /// Jobs whose registration is not yet acknowledged; nothing is claimed before it is.
    registering: Option<Registration>,
}

#[derive(Debug)]
struct Registration {
    known: Vec<(JobName, Known)>,
    forget: Vec<JobName>,
}

impl Configuration {
    pub fn of(jobs: Jobs) -> Configuration {
        let mut configuration = Configuration::default();
        configuration.put(jobs);
        configuration
    }

    fn put(&mut self, jobs: Jobs) -> Jobs {
        self.followers.clear();
        for job in jobs.values() {
            if let Trigger::After { job: before, on } = &job.trigger {
                self.followers.entry(before.clone()).or_default().push((job.name.clone(), *on));
            }
        }
        std::mem::replace(&mut self.jobs, jobs)
    }

    pub fn jobs(&self) -> &Jobs {
        &self.jobs
    }

    pub fn job(&self, name: &JobName) -> Option<&Arc<Job>> {
        self.jobs.get(name)
    }

    /// The jobs that the end of a run of this one makes due, and by which ends.
    pub fn followers(&self, of: &JobName) -> &[(JobName, On)] {
        self.followers.get(of).map_or(&[], Vec::as_slice)
    }

    pub fn is_registering(&self) -> bool {
        self.registering.is_some()
    }

    pub fn forget_registration(&mut self) {
        self.registering = None;
    }

    /// Adopts the configuration that was offered, where one was, with nothing to be recorded of it.
    pub fn take_what_is_offered(&mut self) {
        self.forget_registration();
        if let Some(jobs) = self.offered.take() {
            self.put(jobs);
        }
    }

    /// What the configuration that is offered makes another object, by name; `None`: it is not there any more.
    pub fn changes(&self) -> Option<Vec<Changed<'_>>> {
        self.offered.as_ref().map(|offered| differences(&self.jobs, offered))
    }

    fn is_scheduled(&self, name: &JobName) -> bool {
        self.job(name).is_some_and(|job| matches!(job.trigger, Trigger::Schedule { .. }))
    }
}

impl Scheduler {
    /// Asks for the jobs that are new, or have another rule than the ledger knows, to be recorded. Until that is
    /// acknowledged nothing is claimed, so that none of their occurrences is passed over by the watermark.
    pub(super) fn register_changes(&mut self, now: Wall) {
        let since = self.not_before(now);
        let (mut changed, mut found) = (Vec::new(), 0);
        for job in self.configuration.jobs.values() {
            let Some(fingerprint) = fingerprint(job) else { continue };
            let known = self.view.jobs.get(&job.name);
            found += usize::from(known.is_some());
            if known.is_none_or(|known| known.fingerprint != fingerprint) {
                changed.push((job.name.clone(), Known { fingerprint, since }));
            }
        }
        let mut forget: Vec<JobName> = if found == self.view.jobs.len() {
            Vec::new()
        } else {
            self.view.jobs.keys().filter(|name| !self.configuration.is_scheduled(name)).cloned().collect()
        };
        forget.sort();
        self.register(changed, forget);
    }

    fn register(&mut self, known: Vec<(JobName, Known)>, forget: Vec<JobName>) {
        let Some(fence) = self.authority.term() else { return };
        if !(known.is_empty() && forget.is_empty()) {
            self.act(Action::Register { fence, known: known.clone(), forget: forget.clone() });
            self.configuration.registering = Some(Registration { known, forget });
        }
    }

    /// The store knows the new jobs: claims go on.
    pub(super) fn registered(&mut self, now: Wall) {
        let Some(Registration { known, forget }) = self.configuration.registering.take() else { return };
        for name in forget {
            self.view.jobs.remove(&name);
            self.claims.end_row(&name);
        }
        for (name, known) in known {
            // Under another rule, what lies between two occurrences is none of the row.
            self.claims.end_row(&name);
            self.view.jobs.insert(name.clone(), known);
            if let Some(job) = self.configuration.job(&name) {
                self.claims.plan(job, &self.view, now);
            }
        }
    }

    pub(super) fn reloaded(&mut self, jobs: Jobs) {
        if self.authority.leads() {
            self.configuration.offered = Some(jobs);
        } else {
            self.configuration.put(jobs);
        }
    }

    /// Adopts a configuration that was read while leading, once what was due under the old one is decided.
    ///
    /// The rules of what is the same object as before are in the ledger already; with many jobs that is what keeps a
    /// reload from holding up the others.
    pub(super) fn adopt_configuration(&mut self, now: Wall) {
        let may_claim = self.claims.is_idle() && !self.configuration.is_registering() && self.authority.may_act();
        if self.configuration.offered.is_none()
            || !may_claim
            || self.claims.next_start().is_some_and(|next| next <= now)
        {
            return;
        }
        if self.claim_what_jitter_moved(now) {
            return;
        }
        let Some(jobs) = self.configuration.offered.take() else { return };
        let before = self.configuration.put(jobs);
        let (mut known, mut forget, since) = (Vec::new(), Vec::new(), self.not_before(now));
        for (name, job) in differences(&before, &self.configuration.jobs) {
            let in_ledger = self.view.jobs.get(&name);
            let Some((job, fingerprint)) = job.and_then(|job| Some((job, fingerprint(job)?))) else {
                self.claims.remove(&name);
                forget.extend(in_ledger.map(|_| name));
                continue;
            };
            self.claims.redefine(job);
            if in_ledger.is_none_or(|known| known.fingerprint != fingerprint) {
                known.push((name, Known { fingerprint, since }));
            }
        }
        self.register(known, forget);
        self.advance_all(now);
    }

    /// No job can be first due before this: the watermark may be ahead of the clock.
    fn not_before(&self, now: Wall) -> Wall {
        self.view.watermark.as_ref().map_or(now, |mark| mark.instant.max(now))
    }
}

/// What is not the same object in `new` as in `old`, by name; `None`: it is not there any more.
fn differences<'a>(old: &Jobs, new: &'a Jobs) -> Vec<Changed<'a>> {
    let (mut old, mut found) = (old.iter().peekable(), Vec::new());
    for (name, job) in new {
        while let Some((gone, _)) = old.next_if(|(before, _)| *before < name) {
            found.push((gone.clone(), None));
        }
        let before = old.next_if(|(before, _)| *before == name);
        if before.is_none_or(|(_, before)| !Arc::ptr_eq(before, job)) {
            found.push((name.clone(), Some(job)));
        }
    }
    found.extend(old.map(|(gone, _)| (gone.clone(), None)));
    found
}

/// The rule of a scheduled job, jitter included; `None` for one that has no schedule.
fn fingerprint(job: &Job) -> Option<String> {
    match &job.trigger {
        Trigger::Schedule { schedule, jitter } if jitter.most.is_zero() => Some(schedule.fingerprint()),
        Trigger::Schedule { schedule, jitter } => {
            Some(format!("{}+{}ms", schedule.fingerprint(), jitter.most.as_millis()))
        }
        Trigger::After { .. } | Trigger::Disabled => None,
    }
}
