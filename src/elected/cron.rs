//! Jobs of tokio-cron-scheduler that run on the elected instance only.
//!
//! That scheduler (0.15) passes its id and a handle of the scheduler to a job, and neither says which instant the call
//! is for: the stored next tick is moved on by a task of its own, before or after the call begins, and the last tick is
//! when the scheduler looked, which it does twice a second. So the instant is computed here, from the schedule as the
//! scheduler itself has parsed it: the last one that is not after the call. It is the same on every instance.

use std::future::Future;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use tokio_cron_scheduler::{Job, JobSchedulerError};

use super::{Claimed, Elected, ElectedJob, NotAJobName};
use crate::store::Store;
use crate::time::Wall;

/// Why a job cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CronError {
    #[error(transparent)]
    Name(#[from] NotAJobName),
    #[error(
        "`{schedule}` is not a schedule of job `{job}`: write six fields, seconds first, as in `0 30 2 * * *` ({source})"
    )]
    Schedule {
        job: String,
        schedule: String,
        #[source]
        source: JobSchedulerError,
    },
    /// The scheduler itself would take it, and never call the job.
    #[error("`{schedule}` of job `{job}` names no instant from now on, so it would never run")]
    Never { job: String, schedule: String },
}

impl<S: Store> Elected<S> {
    /// A job for a `JobScheduler`, to be added to the one of every instance: at each instant of `schedule` (six fields,
    /// seconds first, **in UTC**) `body` is called, on the elected instance only, with the claimed occurrence. It is
    /// cancelled (dropped at its next `await`) when the term is over, or may be; what it has spawned or started elsewhere
    /// it has to stop by [`Claimed::signal`]. Where it must not be broken off, let it spawn.
    ///
    /// ```
    /// use std::time::Duration;
    /// use fencron::elected::Elected;
    /// use fencron::lock::{LockName, Locks, Namespace, Seen, Timing};
    /// use fencron::store::memory::MemoryStore; // or sqlite::SqliteStore, etcd::EtcdStore
    /// use fencron::time::Clock;
    /// use tokio_cron_scheduler::JobScheduler;
    ///
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
    /// let clock = Clock::system();
    /// let locks = Locks::new(MemoryStore::new(clock.clone()), clock, Namespace::new("shop")?, Seen::default());
    /// let timing = Timing::from_ttl(Duration::from_secs(10))?;
    /// let elected = Elected::start(&locks, LockName::new("reports")?, "instance-1", timing);
    ///
    /// let scheduler = JobScheduler::new().await?;
    /// let nightly = elected.cron("0 0 2 * * *", "nightly", |claimed| async move {
    ///     println!("the report of {} under fence {}", claimed.scheduled_at(), claimed.fence());
    /// })?;
    /// scheduler.add(nightly).await?;
    /// scheduler.start().await?;
    /// // … until the service is asked to stop:
    /// elected.stop(Duration::from_secs(30)).await;
    /// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// What comes from the scheduler itself:
    ///
    /// - It looks twice a second: calls are up to half a second late, and a little more.
    /// - Ticks that come later than the next instant of the schedule (a busy runtime, a suspended machine) are one call,
    ///   for the last instant that has come.
    /// - It passes on what is due through a channel of 200 places: of more jobs than that at one instant it loses some.
    /// - It keeps for a job the offset that its time zone had when the job was made: a job in a zone is off by an hour
    ///   once the clocks were changed, until the service starts again, and instances that started on different sides of
    ///   that disagree about its instants. That is why a schedule is in UTC here. For a job that is to follow a zone,
    ///   use `fencron run`; or make it yourself and [`claim`](ElectedJob::claim) the instant that you compute.
    /// - Repeated and one-shot jobs count from when they were made, so no two instances agree about their instants.
    ///
    /// # Errors
    ///
    /// Where the name cannot be a job's, the scheduler cannot read the schedule, or the schedule names no instant any more.
    pub fn cron<B, R>(&self, schedule: &str, name: &str, body: B) -> Result<Job, CronError>
    where
        B: Fn(Claimed) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let unreadable = |source| CronError::Schedule { job: name.to_owned(), schedule: schedule.to_owned(), source };
        let due = last_instant(schedule, self.shared.locks.clock().wall()).map_err(unreadable)?;
        let never = || CronError::Never { job: name.to_owned(), schedule: schedule.to_owned() };
        let due = Arc::new(due.ok_or_else(never)?);
        let (job, body) = (Arc::new(self.job(name)?), Arc::new(body));
        Job::new_async(schedule, move |_, _| {
            // Before anything else takes time.
            let at = due(job.elected.shared.locks.clock().wall());
            let (job, body) = (Arc::clone(&job), Arc::clone(&body));
            Box::pin(async move {
                match at {
                    Some(at) => run(&job, at, &*body).await,
                    None => tracing::error!(job = job.name(), "called, though its schedule names no instant so far"),
                }
            })
        })
        .map_err(unreadable)
    }
}

/// Answers, for a time, the last instant of `schedule` that is not after it, as the scheduler reads schedules. `None` where
/// the schedule names no instant from `now` on.
fn last_instant(
    schedule: &str,
    now: Wall,
) -> Result<Option<impl Fn(Wall) -> Option<Wall> + Send + Sync + 'static>, JobSchedulerError> {
    let data = Job::new(schedule, |_, _| {})?.job_data()?;
    let cron = data.schedule().ok_or(JobSchedulerError::ParseSchedule)?;
    let is_to_come = second(now).is_some_and(|now| cron.find_next_occurrence(&now, true).is_ok());
    Ok(is_to_come.then_some(move |now| cron.find_previous_occurrence(&second(now)?, true).ok().map(Wall::from)))
}

/// To the second: a schedule takes the fraction of its question for a part of the answer.
fn second(now: Wall) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(now.as_millis().div_euclid(1000), 0)
}

async fn run<S, B, R>(job: &ElectedJob<S>, at: Wall, body: &B)
where
    S: Store,
    B: Fn(Claimed) -> R,
    R: Future<Output = ()>,
{
    let claimed = match job.claim(at).await {
        Ok(Some(claimed)) => claimed,
        Ok(None) => return,
        Err(error) => {
            tracing::error!(%error, job = job.name(), %at, "not run: the store refused the claim");
            return;
        }
    };
    let (signal, fence) = (claimed.signal(), claimed.fence());
    tokio::select! {
        biased;
        () = signal.cancelled() => tracing::warn!(job = job.name(), %at, %fence, "cancelled: the term is over"),
        () = body(claimed) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last(schedule: &str, now: &str) -> String {
        let now = now.parse().unwrap();
        last_instant(schedule, now).unwrap().expect("instants are to come")(now).unwrap().to_string()
    }

    #[test]
    fn the_instant_of_a_call_is_the_last_that_the_schedule_names() {
        assert_eq!(last("0 0 2 * * *", "2026-11-21T02:00:00Z"), "2026-11-21T02:00:00Z", "the instant itself");
        assert_eq!(last("0 0 2 * * *", "2026-11-21T02:00:00.499Z"), "2026-11-21T02:00:00Z");
        assert_eq!(last("0 0 2 * * *", "2026-11-21T01:59:59.999Z"), "2026-11-20T02:00:00Z");
        assert_eq!(last("*/5 * * * * *", "2026-11-21T01:59:59.999Z"), "2026-11-21T01:59:55Z");
        assert_eq!(last("0 30 3 29 2 *", "2026-11-21T02:00:00Z"), "2024-02-29T03:30:00Z");
        // As the scheduler does: a day of the month and a day of the week both have to be right.
        assert_eq!(last("0 0 9 13 * FRI", "2026-11-21T02:00:00Z"), "2026-11-13T09:00:00Z");
    }

    #[test]
    fn no_time_zone_moves_an_instant() {
        // Europe/Berlin turns its clocks back at 01:00 UTC.
        assert_eq!(last("0 30 * * * *", "2026-10-25T00:30:00.4Z"), "2026-10-25T00:30:00Z");
        assert_eq!(last("0 30 * * * *", "2026-10-25T01:30:00.4Z"), "2026-10-25T01:30:00Z");
    }
}
