//! How the messages of an hour are shared among the jobs: one that fails and recovers again and again leaves room for the
//! others.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::job::JobName;
use crate::scheduler::alert::Alert;
use crate::scheduler::hour::hour_of;
use crate::time::Wall;

/// How many messages of its own a job has in an hour of the clock (UTC) in one channel; what comes behind them is counted.
pub const JOB_HOURLY_MOST: u32 = 6;

/// The messages that are of one job each, of one hour. The hour's bound of the channel bounds them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shares {
    hour: Option<Wall>,
    jobs: BTreeMap<JobName, u32>,
}

impl Shares {
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    fn had(&self, job: &JobName, now: Wall) -> u32 {
        if self.hour == Some(hour_of(now)) { self.jobs.get(job).copied().unwrap_or_default() } else { 0 }
    }

    /// For each of these alerts, in their order, whether its job has had its share before.
    pub fn beyond(&self, alerts: &[Alert], now: Wall) -> Vec<bool> {
        let mut had: BTreeMap<&JobName, u32> = BTreeMap::new();
        let is_beyond = alerts.iter().map(|alert| {
            let had = had.entry(&alert.job).or_insert_with(|| self.had(&alert.job, now));
            *had += 1;
            *had > JOB_HOURLY_MOST
        });
        is_beyond.collect()
    }

    /// The job has one more. Says whether it has had its share now.
    pub fn take(&mut self, job: &JobName, now: Wall) -> bool {
        if self.hour != Some(hour_of(now)) {
            *self = Shares { hour: Some(hour_of(now)), jobs: BTreeMap::new() };
        }
        let had = self.jobs.entry(job.clone()).or_default();
        *had = had.saturating_add(1);
        *had >= JOB_HOURLY_MOST
    }

    /// The jobs that have had their share in this hour.
    pub fn spent(&self, now: Wall) -> impl Iterator<Item = &JobName> {
        self.jobs.keys().filter(move |job| self.had(job, now) >= JOB_HOURLY_MOST)
    }
}
