//! A watermark that a person brought back: what comes due again is planned anew, and claimed only where it was not before.

use std::collections::BTreeSet;

use super::Scheduler;
use super::claims::plan;
use super::run::{Version, Watermark};
use crate::job::{JobName, RunId};
use crate::time::Wall;

impl Scheduler {
    /// Looks whether the watermark went back, which no leader moves it: it was `before`.
    pub(super) fn note_rewind(&mut self, before: Option<&Watermark>) {
        let now = self.view.watermark.as_ref();
        if self.term.is_some() && before.zip(now).is_some_and(|(before, now)| now < before) {
            self.plan_anew = self.plan_anew.max(Some(self.view.watermark_version));
        }
    }

    /// A batch was not claimed, since the watermark was brought back at `version`.
    pub(super) fn rewound(&mut self, number: u64, version: Version) {
        if self.claiming.take_if(|batch| batch.number == number).is_some() {
            self.plan_anew = self.plan_anew.max(Some(version));
        }
    }

    /// Plans everything anew once it is known what was brought back, and nothing is under way that was planned before.
    pub(super) fn plan_after_rewind(&mut self, now: Wall) {
        let seen = self.plan_anew.is_some_and(|version| version <= self.view.watermark_version);
        if seen && self.claiming.is_none() && self.registering.is_none() {
            self.plan_anew = None;
            self.rows.clear();
            self.plan_all(now);
            self.advance_all(now);
        }
    }

    /// Some of a batch is decided, which nobody decides a second time: the jobs that it is about are planned again from the
    /// watermark on, without that.
    pub(super) fn already_decided(&mut self, number: u64, decided: Vec<RunId>, forgotten: Vec<RunId>, now: Wall) {
        let Some(batch) = self.claiming.take_if(|batch| batch.number == number) else { return };
        self.decided.extend(decided);
        self.forgotten.extend(forgotten);
        let opens = batch.opens.iter().map(|open| &open.job);
        let jobs: BTreeSet<&JobName> = opens.chain(batch.dones.iter().map(|done| &done.job)).collect();
        for name in jobs {
            if let Some(job) = self.jobs.get(name) {
                plan(&mut self.due, &self.view, job, now);
            }
            self.advance(name, now);
        }
    }
}
