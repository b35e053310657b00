//! A watermark that a person brought back: what comes due again is planned anew, and claimed only where it was not before.

use std::collections::BTreeSet;

use crate::job::{JobName, RunId};
use crate::scheduler::Scheduler;
use crate::scheduler::run::{Version, Watermark};
use crate::time::Wall;

impl Scheduler {
    /// Looks whether the watermark went back, which no leader moves it: it was `before`.
    pub(in crate::scheduler) fn note_rewind(&mut self, before: Option<&Watermark>) {
        let now = self.view.watermark.as_ref();
        if self.authority.leads() && before.zip(now).is_some_and(|(before, now)| now < before) {
            self.claims.plan_anew = self.claims.plan_anew.max(Some(self.view.watermark_version));
        }
    }

    /// A batch was not claimed, since the watermark was brought back at `version`.
    pub(in crate::scheduler) fn rewound(&mut self, number: u64, version: Version) {
        if self.claims.batch.take_if(|batch| batch.number == number).is_some() {
            self.claims.plan_anew = self.claims.plan_anew.max(Some(version));
        }
    }

    /// Plans everything anew once it is known what was brought back, and nothing is under way that was planned before.
    pub(in crate::scheduler) fn plan_after_rewind(&mut self, now: Wall) {
        let seen = self.claims.plan_anew.is_some_and(|version| version <= self.view.watermark_version);
        if seen && self.claims.batch.is_none() && !self.configuration.is_registering() {
            self.claims.plan_anew = None;
            self.claims.rows.clear();
            self.plan_all(now);
            self.advance_all(now);
        }
    }

    /// Some of a batch is decided, and never a second time: the jobs that it is about are planned again from the
    /// watermark on, without that.
    pub(in crate::scheduler) fn already_decided(
        &mut self,
        number: u64,
        decided: Vec<RunId>,
        forgotten: Vec<RunId>,
        now: Wall,
    ) {
        let Some(batch) = self.claims.batch.take_if(|batch| batch.number == number) else { return };
        self.claims.decided.extend(decided);
        self.claims.forgotten.extend(forgotten);
        let opens = batch.opens.iter().map(|open| &open.job);
        let jobs: BTreeSet<&JobName> = opens.chain(batch.dones.iter().map(|done| &done.job)).collect();
        for name in jobs {
            if let Some(job) = self.configuration.job(name) {
                self.claims.plan(job, &self.view, now);
            }
            self.advance(name, now);
        }
    }
}
