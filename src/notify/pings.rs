//! Signs of life of runs, for services that watch one job: for each job in their order, and never in the way of a run.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{AGAIN, Sender};
use crate::job::{JobName, Ping};
use crate::metrics::Metrics;

/// How many signs may wait to be looked at, of all jobs.
pub const PINGS_MOST: usize = 4_096;

/// How many signs of one job wait at most: of more, the oldest is dropped.
const OF_JOB_MOST: usize = 16;

/// Of how many jobs signs are sent at once.
const AT_ONCE: usize = 32;

/// How often a sign is sent at most.
const TRIES: u32 = 3;

/// Sends signs of life.
pub struct Pings {
    sender: Sender,
    metrics: Arc<Metrics>,
    /// By job, for each of which one is being sent or which is in `ready`.
    waiting: BTreeMap<JobName, VecDeque<Ping>>,
    ready: VecDeque<JobName>,
}

impl Pings {
    pub fn new(sender: Sender, metrics: Arc<Metrics>) -> Pings {
        Pings { sender, metrics, waiting: BTreeMap::new(), ready: VecDeque::new() }
    }

    /// Goes on until none comes any more and all are sent.
    pub async fn run(mut self, mut pings: mpsc::Receiver<Ping>) {
        let (mut sending, mut is_open) = (JoinSet::new(), true);
        while is_open || !self.waiting.is_empty() {
            while sending.len() < AT_ONCE {
                let Some(job) = self.ready.pop_front() else { break };
                if let Some(ping) = self.waiting.get_mut(&job).and_then(VecDeque::pop_front) {
                    sending.spawn(sent(self.sender.clone(), Arc::clone(&self.metrics), ping));
                }
            }
            tokio::select! {
                ping = pings.recv(), if is_open => match ping {
                    Some(ping) => self.add(ping),
                    None => is_open = false,
                },
                Some(job) = sending.join_next() => match job {
                    Ok(job) => self.is_free(job),
                    Err(error) => std::panic::resume_unwind(error.into_panic()),
                },
            }
        }
    }

    fn add(&mut self, ping: Ping) {
        let ready = &mut self.ready;
        let of_job = self.waiting.entry(ping.job.clone()).or_insert_with_key(|job| {
            ready.push_back(job.clone());
            VecDeque::new()
        });
        if of_job.len() == OF_JOB_MOST {
            of_job.pop_front();
            self.metrics.pings.add(&"dropped", 1);
        }
        of_job.push_back(ping);
    }

    /// No sign of this job is being sent any more.
    fn is_free(&mut self, job: JobName) {
        if self.waiting.get(&job).is_some_and(VecDeque::is_empty) {
            self.waiting.remove(&job);
        } else {
            self.ready.push_back(job);
        }
    }
}

/// Sends a sign, a few times where it is not taken. Answers of which job.
async fn sent(sender: Sender, metrics: Arc<Metrics>, ping: Ping) -> JobName {
    for tries in 1.. {
        match sender.ping(&ping).await {
            Ok(()) => {
                metrics.pings.add(&"sent", 1);
                break;
            }
            Err(why) if tries == TRIES => {
                tracing::warn!(job = %ping.job, %why, "a sign of life of a run was not sent to what watches the job");
                metrics.pings.add(&"failed", 1);
                break;
            }
            Err(_) => tokio::time::sleep(AGAIN.pause(tries)).await,
        }
    }
    ping.job
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Sign, Text};

    fn ping(job: &str, sign: Sign) -> Ping {
        let (job, url) = (JobName::new(job).unwrap(), Text::plain("http://127.0.0.1:1/x"));
        Ping { job, url, sign, what: String::new() }
    }

    fn pings() -> Pings {
        rustls::crypto::ring::default_provider().install_default().ok();
        Pings::new(Sender::new().unwrap(), Arc::default())
    }

    #[test]
    fn what_waits_is_bounded_and_the_newest_signs_of_a_job_stay() {
        let mut pings = pings();
        for _ in 0..OF_JOB_MOST {
            pings.add(ping("a", Sign::Start));
        }
        pings.add(ping("a", Sign::Fail));
        pings.add(ping("b", Sign::Start));
        let of_a = &pings.waiting[&JobName::new("a").unwrap()];
        assert_eq!((of_a.len(), of_a.back().unwrap().sign), (OF_JOB_MOST, Sign::Fail));
        let dropped = pings.metrics.pings.read().find(|(result, _)| **result == "dropped").unwrap().1;
        assert_eq!((pings.ready.len(), dropped), (2, 1), "each job is ready once");
    }

    #[tokio::test]
    async fn the_last_signs_are_sent_before_it_ends() {
        let pings = pings();
        let metrics = Arc::clone(&pings.metrics);
        let (send, receive) = mpsc::channel(PINGS_MOST);
        for job in 0..AT_ONCE + 8 {
            send.try_send(ping(&format!("j{job}"), Sign::Success)).unwrap();
        }
        drop(send);
        tokio::time::pause();
        pings.run(receive).await;
        let failed = metrics.pings.read().find(|(result, _)| **result == "failed").unwrap().1;
        assert_eq!(failed, AT_ONCE as u64 + 8, "no server listens there");
    }
}
