//! Jobs as they are written in code: the keys of the jobs file, one method each.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use super::calls::{Body, body};
use super::run::{IntoOutcome, Run};
use super::running::{Jobs, Service};
use super::{JobsError, Missed};
use crate::config::{Config, Program, Written};
use crate::job::{Guarantee, JobName, On, OnLostLeadership, Overlap, Word};
use crate::schedule::{Fold, Gap};
use crate::time::written;

/// How long what runs may go on when the service stops, where nothing else is said.
pub(super) const GRACE: Duration = Duration::from_secs(30);

/// The jobs of a service that is about to start. Every instance of the service starts the same.
#[derive(Debug)]
#[must_use = "jobs are not due before `start`"]
pub struct JobsBuilder {
    service: Service,
    defined: Definitions,
    grace: Duration,
}

/// What the jobs are, and what they call.
#[derive(Debug)]
pub(super) struct Definitions {
    program: Program,
    bodies: Bodies,
}

/// Closures, which cannot be shown.
#[derive(Default)]
struct Bodies(BTreeMap<JobName, Body>);

impl std::fmt::Debug for Bodies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Definitions {
    /// The configuration, and the closures by job.
    pub fn made(self) -> Result<(Config, BTreeMap<JobName, Body>), JobsError> {
        let config = self.program.config().map_err(JobsError::Wrong)?;
        Ok((config, self.bodies.0))
    }
}

/// What makes a job due: a schedule, several, or [`after`] another job.
#[derive(Clone, Debug)]
pub struct When(Due);

#[derive(Clone, Debug)]
enum Due {
    At(Vec<String>),
    After { job: String, on: On },
}

impl From<&str> for When {
    fn from(schedule: &str) -> When {
        When(Due::At(vec![schedule.to_owned()]))
    }
}

impl From<String> for When {
    fn from(schedule: String) -> When {
        When(Due::At(vec![schedule]))
    }
}

impl<const N: usize> From<[&str; N]> for When {
    fn from(schedules: [&str; N]) -> When {
        When(Due::At(schedules.map(str::to_owned).into()))
    }
}

impl From<Vec<String>> for When {
    fn from(schedules: Vec<String>) -> When {
        When(Due::At(schedules))
    }
}

/// Due when a run of `job` has succeeded; [`When::on`] says which other ends count.
///
/// ```
/// # use fencron::jobs::{JobsBuilder, On, Run, after};
/// # fn add(jobs: JobsBuilder) -> JobsBuilder {
/// async fn import(run: Run) {}
/// async fn report(run: Run) {}
/// async fn alarm(run: Run) {}
/// jobs.job("import", "0 2 * * *", import)
///     .done()
///     .job("report", after("import"), report)
///     .done()
///     .job("alarm", after("import").on(On::Failure), alarm)
///     .done()
/// # }
/// ```
pub fn after(job: &str) -> When {
    When(Due::After { job: job.to_owned(), on: On::Success })
}

impl When {
    /// Which ends of the other job's run count. It does nothing for a schedule.
    #[must_use]
    pub fn on(self, on: On) -> When {
        match self.0 {
            Due::After { job, .. } => When(Due::After { job, on }),
            at @ Due::At(_) => When(at),
        }
    }
}

impl JobsBuilder {
    pub(crate) fn new(service: Service) -> JobsBuilder {
        let program = Program::new(service.namespace().as_str());
        JobsBuilder { service, defined: Definitions { program, bodies: Bodies::default() }, grace: GRACE }
    }

    /// A job: its name, when it is due, and the closure that is called with each of its runs on the instance that leads.
    ///
    /// The schedule is a cron expression of 5, 6 (seconds first) or 7 (year last) fields, `@daily` and the like,
    /// `@every 15m`, `@at` an instant, or a list of these; in UTC unless [`JobBuilder::zone`] names another zone. Settings
    /// that are not given are as in the jobs file.
    ///
    /// The closure runs as a task of the tokio runtime, beside the service's own: what blocks belongs in
    /// `tokio::task::spawn_blocking`. It must stop when [`Run::cancelled`] says so. An error is a failed run, with its text
    /// as the reason; so is a panic.
    pub fn job<F, R>(self, name: &str, when: impl Into<When>, call: F) -> JobBuilder
    where
        F: Fn(Run) -> R + Send + Sync + 'static,
        R: Future<Output: IntoOutcome> + Send + 'static,
    {
        let mut job = JobBuilder { jobs: self, name: name.to_owned(), job: Written::new(name), call: body(call) };
        match when.into().0 {
            Due::At(mut schedules) if schedules.len() == 1 => job.set(&["schedule"], schedules.remove(0)),
            Due::At(schedules) => job.set(&["schedule"], schedules),
            Due::After { job: other, on } => {
                job.set(&["after", "job"], other);
                job.set(&["after", "on"], on.word());
            }
        }
        job
    }

    /// A calendar for [`JobBuilder::except`]: dates (`2026-12-25`), ranges (`2026-12-24..2027-01-01`) and yearly days
    /// (`12-25`).
    pub fn calendar<D: Into<String>>(mut self, name: &str, dates: impl IntoIterator<Item = D>) -> JobsBuilder {
        self.defined.program.calendar(name, dates.into_iter().map(Into::into).collect());
        self
    }

    /// How long what runs may go on when the handle is dropped; 30 s where nothing is said. [`Jobs::stop`] says its own.
    pub fn grace(self, grace: Duration) -> JobsBuilder {
        JobsBuilder { grace, ..self }
    }

    /// Starts the node in the background: it stands for election, and while it leads it claims every due occurrence in
    /// the store before it calls anything. A store that is away now is waited for: [`Jobs::status`] says so.
    ///
    /// # Errors
    ///
    /// [`JobsError::Wrong`] with everything that is wrong with the jobs, at once;
    /// [`JobsError::NoJobs`] where there is none.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub async fn start(self) -> Result<Jobs, JobsError> {
        let (config, bodies) = self.defined.made()?;
        if config.jobs.is_empty() {
            return Err(JobsError::NoJobs);
        }
        Jobs::start(self.service, config, bodies, self.grace).await
    }

    pub(super) fn into_definitions(self) -> Definitions {
        self.defined
    }
}

/// A job that is being said. Each method is a key of the jobs file, which `docs/configuration.md` explains; what is not
/// given is as there. A value out of bounds is a problem that `start` reports with all others.
#[must_use = "the job is not there before `done`"]
pub struct JobBuilder {
    jobs: JobsBuilder,
    name: String,
    job: Written,
    call: Body,
}

impl std::fmt::Debug for JobBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JobBuilder").field("job", &self.job).finish_non_exhaustive()
    }
}

impl JobBuilder {
    fn set(&mut self, path: &[&str], value: impl Into<serde_json::Value>) {
        self.job.set(path, value);
    }

    fn with(mut self, path: &[&str], value: impl Into<serde_json::Value>) -> JobBuilder {
        self.set(path, value);
        self
    }

    /// The jobs with this one.
    pub fn done(mut self) -> JobsBuilder {
        if let Ok(name) = JobName::new(&self.name) {
            self.jobs.defined.bodies.0.insert(name, self.call);
        }
        self.jobs.defined.program.job(self.job);
        self.jobs
    }

    /// What the job is for, in a few words.
    pub fn description(self, text: &str) -> JobBuilder {
        self.with(&["description"], text)
    }

    /// Which version of the closure this is, for [`Status::config_digest`](crate::node::Status): a closure cannot be
    /// compared, so that instances which differ in nothing else would count as the same.
    pub fn version(self, version: &str) -> JobBuilder {
        self.with(&["x-version"], version)
    }

    /// The zone of its schedule, as IANA names it: `Europe/Berlin`. UTC where nothing is said.
    pub fn zone(self, zone: &str) -> JobBuilder {
        self.with(&["timezone"], zone)
    }

    /// What becomes of local times that a change of the clocks removes or repeats.
    pub fn dst(self, gap: Gap, fold: Fold) -> JobBuilder {
        self.with(&["dst", "gap"], gap.word()).with(&["dst", "fold"], fold.word())
    }

    /// Calendars on whose dates it is not due.
    pub fn except<C: Into<String>>(self, calendars: impl IntoIterator<Item = C>) -> JobBuilder {
        let names: Vec<String> = calendars.into_iter().map(Into::into).collect();
        self.with(&["except"], names)
    }

    /// From when on its schedule counts: a day, a time by the clocks of its zone, or an instant with its offset.
    pub fn starts(self, start: &str) -> JobBuilder {
        self.with(&["start"], start)
    }

    /// Until when its schedule counts, that day or instant included.
    pub fn ends(self, end: &str) -> JobBuilder {
        self.with(&["end"], end)
    }

    /// The most by which starts are moved, so that jobs do not all start at once; the same for every leader.
    pub fn jitter(self, most: Duration) -> JobBuilder {
        self.with(&["jitter"], written(most))
    }

    /// `false`: it is not due by itself; it can still be triggered.
    pub fn enabled(self, enabled: bool) -> JobBuilder {
        self.with(&["enabled"], enabled)
    }

    /// How long one attempt may take. Then [`Run::cancelled`] resolves, and after `kill_after` the closure is dropped.
    pub fn timeout(self, timeout: Duration) -> JobBuilder {
        self.with(&["timeout"], written(timeout))
    }

    /// How long a closure that is to stop has before it is dropped: 10 s where nothing is said.
    pub fn kill_after(self, kill_after: Duration) -> JobBuilder {
        self.with(&["kill_after"], written(kill_after))
    }

    /// What becomes of an occurrence that is due while a run of the same job is open: it is skipped, where nothing is said.
    pub fn overlap(self, overlap: Overlap) -> JobBuilder {
        let job = self.with(&["overlap"], overlap.word());
        match overlap {
            Overlap::Allow { max_running } => job.with(&["max_running"], max_running),
            Overlap::Skip | Overlap::Queue | Overlap::Replace => job,
        }
    }

    /// Which occurrences still run that passed with no leader to fire them: the latest of the last hour, where nothing is
    /// said.
    pub fn missed(self, run: Missed) -> JobBuilder {
        self.with(&["missed", "run"], run.word())
    }

    /// How old a missed occurrence may be to run; `None`: however old.
    pub fn missed_within(self, age: Option<Duration>) -> JobBuilder {
        self.with(&["missed", "within"], age.map_or("none".to_owned(), written))
    }

    /// With [`Missed::All`]: how many run at most, the newest of them, and how fast they start, as `5/s` or `30/m`.
    pub fn missed_at_most(self, limit: u32, rate: &str) -> JobBuilder {
        self.with(&["missed", "limit"], limit).with(&["missed", "rate"], rate)
    }

    /// How many attempts a run has, the first included: 1 where nothing is said.
    pub fn retry(self, attempts: u32) -> JobBuilder {
        self.with(&["retry", "attempts"], attempts)
    }

    /// The pause before the second attempt, which doubles from then on, and the longest: 5 s and 5 min where nothing is
    /// said.
    pub fn backoff(self, initial: Duration, max: Duration) -> JobBuilder {
        self.with(&["retry", "backoff", "initial"], written(initial)).with(&["retry", "backoff", "max"], written(max))
    }

    /// What is promised when the instance is lost in the middle of a run: [`Guarantee::AtMostOnce`] where nothing is said.
    /// [`Guarantee::ExactlyOnce`] is refused: only what the closure writes to can give that.
    pub fn guarantee(self, guarantee: Guarantee) -> JobBuilder {
        self.with(&["guarantee"], guarantee.word())
    }

    /// What becomes of a run whose instance may no longer trust its leadership: it is cancelled, where nothing is said.
    pub fn on_lost_leadership(self, what: OnLostLeadership) -> JobBuilder {
        self.with(&["on_lost_leadership"], what.word())
    }

    /// How much of its history is kept: so many verdicts, and those of so long; 100 and 30 days where nothing is said.
    pub fn history(self, keep: u32, age: Duration) -> JobBuilder {
        self.with(&["history", "keep"], keep).with(&["history", "for"], written(age))
    }
}
