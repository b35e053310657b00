//! What a channel sends next: alerts alone, or a summary of many, so that their number is bounded and none is lost.
//!
//! The first alert is sent at once; those that come within [`GROUP_EVERY`] after it wait, and are sent together with what
//! waits by then: each alone, or, if they are more than [`GROUP_MOST`] or the channel has sent [`HOURLY_MOST`] messages in
//! this hour, as one summary that counts all of them. What will be in a summary is counted at once and need not be kept.
//!
//! A job that has had its share of the hour's messages is counted alone: the others are sent on, and the next hour begins
//! with a summary of what was counted.

mod share;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::alert::Alert;
use super::hour::hour_of;
use super::trouble;
pub use share::JOB_HOURLY_MOST;
use share::Shares;

use crate::job::{AlertKind, JobName, RunId};
use crate::time::Wall;

/// How long alerts wait for others after a channel has sent some.
pub const GROUP_EVERY: Duration = Duration::from_secs(30);

/// How many alerts that wait together are sent each in a message of its own.
pub const GROUP_MOST: usize = 10;

/// How many messages a channel sends in an hour of the clock (UTC), beside the summary that the next hour begins with.
pub const HOURLY_MOST: u32 = 60;

const HOUR: Duration = Duration::from_secs(3_600);

/// How many waiting alerts are looked at together.
pub const LOOKED_AT: usize = 100;

/// For how long sending a message is tried before the message is given up.
pub const GIVEN_UP_AFTER: Duration = Duration::from_secs(24 * 3_600);

/// How many messages in a row are given up since the receiver refuses what is in them. When it refuses the next one too,
/// the messages are not at fault: they are kept, and sent again.
const REFUSED_MOST: u32 = 3;

/// Of how many jobs a channel knows at most that it has sent a failure alone, which their recovery has to end.
const INCIDENTS_MOST: usize = 1_000;

/// How much is kept of why a channel takes nothing, in bytes.
const WHY_MOST: usize = 400;

/// Of how many jobs a summary counts the alerts, and how many of them a message names.
const JOBS_COUNTED: usize = 200;
pub const JOBS_NAMED: usize = 5;

/// Alerts, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    pub kinds: BTreeMap<AlertKind, u64>,
    /// By job, for the first 200 jobs.
    pub jobs: BTreeMap<JobName, u64>,
    /// The earliest and the latest of them.
    pub from: Option<Wall>,
    pub until: Option<Wall>,
    /// How many alerts were given up before, since the channel did not take them.
    #[serde(default)]
    pub given_up: u64,
    /// The jobs that have recovered, of those whose failure was a message of its own. Where that opened something that
    /// stays open, the summary ends it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub recovered: BTreeSet<JobName>,
    /// What else has ended of what was a message of its own: runs that were late, and troubles.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub ended: BTreeSet<Incident>,
}

/// What a message of its own opens at some receivers, until it is ended.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Incident {
    /// A job fails.
    Failing(JobName),
    /// A run is late.
    Late(RunId),
    /// Something is wrong with the cluster: the key of that trouble.
    Trouble(String),
}

impl Summary {
    /// What has ended, and the summary ends elsewhere.
    pub fn ends(&self) -> impl Iterator<Item = Incident> {
        self.recovered.iter().cloned().map(Incident::Failing).chain(self.ended.iter().cloned())
    }

    fn has_ends(&self) -> bool {
        !self.recovered.is_empty() || !self.ended.is_empty()
    }

    /// The first of what has ended was ended elsewhere.
    fn end_first(&mut self) {
        if self.recovered.pop_first().is_none() {
            self.ended.pop_first();
        }
    }

    /// How many alerts it counts.
    pub fn total(&self) -> u64 {
        self.kinds.values().sum()
    }

    /// The jobs with the most alerts.
    pub fn top(&self) -> Vec<(&JobName, u64)> {
        let mut jobs: Vec<_> = self.jobs.iter().map(|(job, count)| (job, *count)).collect();
        jobs.sort_by(|(a, more), (b, less)| less.cmp(more).then(a.cmp(b)));
        jobs.truncate(JOBS_NAMED);
        jobs
    }

    fn add(&mut self, alert: &Alert) {
        *self.kinds.entry(alert.kind).or_default() += 1;
        if self.jobs.len() < JOBS_COUNTED || self.jobs.contains_key(&alert.job) {
            *self.jobs.entry(alert.job.clone()).or_default() += 1;
        }
        let at = alert.finished_at;
        self.from = Some(self.from.map_or(at, |from| from.min(at)));
        self.until = Some(self.until.map_or(at, |until| until.max(at)));
    }
}

/// A message of a channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// The same, however often it is sent.
    pub id: String,
    /// Since when it is being sent.
    pub since: Wall,
    /// The receiver has taken what it says: what is left are the ends of what the jobs that have recovered had opened.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_begun: bool,
    /// It is the last before a bound. `None`: the alerts behind it are messages of their own, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<LastOf>,
    pub content: Content,
}

/// That what comes behind a message is counted until the next hour begins, with a summary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastOf {
    pub bound: Bound,
    pub until: Wall,
}

/// Which bound of an hour is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// [`JOB_HOURLY_MOST`].
    Job,
    /// [`HOURLY_MOST`].
    Channel,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    Alert(Box<Alert>),
    Summary(Summary),
    /// Of the cluster.
    Trouble(Box<trouble::Trouble>),
}

impl Message {
    pub fn new(id: String, since: Wall, content: Content) -> Message {
        Message { id, since, is_begun: false, last: None, content }
    }

    /// How many alerts it stands for.
    pub fn alerts(&self) -> u64 {
        match &self.content {
            Content::Alert(_) | Content::Trouble(_) => 1,
            Content::Summary(summary) => summary.total(),
        }
    }
}

/// That a channel does not take what is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// Since when it takes nothing.
    pub since: Wall,
    /// Why not, the last time that this was recorded.
    pub why: String,
}

/// What to do next for a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There is nothing to send.
    Nothing,
    /// What waits is due then.
    Wait(Wall),
    /// Count what waits into the next summary.
    Count,
    /// Count the alerts of jobs that have had their share of this hour.
    Hold,
    /// Take what waits, each as a message.
    Take,
    /// Make a message of the summary.
    Summarize,
    /// Send the first message.
    Send,
}

/// What a channel has taken of its alerts and not sent yet, and what it has sent of late.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outgoing {
    pub sending: Vec<Message>,
    #[serde(default)]
    pub counted: Summary,
    /// How many summaries there were: part of their identity.
    #[serde(default)]
    summaries: u64,
    /// When messages were last made.
    #[serde(default)]
    made_at: Option<Wall>,
    /// How many were made in the hour of that.
    #[serde(default)]
    in_hour: u32,
    #[serde(default, skip_serializing_if = "Shares::is_empty")]
    shares: Shares,
    /// The hour in which all that is counted was held back, since its jobs had had their share: it is not summarized before
    /// that hour is over. A version that does not know it summarizes it at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    held_in: Option<Wall>,
    /// The jobs whose failure was a message of its own, and that have not recovered since.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    incidents: BTreeSet<JobName>,
    /// The runs of which it was a message of its own that they are late, and that are late still.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    late: BTreeSet<RunId>,
    /// How many messages in a row were given up since the receiver refused what is in them.
    #[serde(default, skip_serializing_if = "is_zero")]
    refused: u32,
    /// `None`: it has taken the last message that was sent, or there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trouble: Option<Trouble>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Outgoing {
    /// What to do next, with these alerts that wait.
    pub fn step(&self, waiting: &[Alert], now: Wall) -> Step {
        let beyond = self.shares.beyond(waiting, now).into_iter().filter(|is_beyond| *is_beyond).count();
        let (own, next_hour) = (waiting.len() - beyond, hour_of(now).plus(HOUR));
        let (has_counted, is_held) = (self.counted.total() > 0, self.held_in == Some(hour_of(now)));
        if own > GROUP_MOST || (has_counted && !is_held && !waiting.is_empty()) {
            return Step::Count;
        }
        if beyond > 0 {
            return Step::Hold;
        }
        if !self.sending.is_empty() {
            return Step::Send;
        }
        // What was given up, and ends what is still open elsewhere, does not wait for another alert.
        let is_owed = has_counted || self.counted.has_ends() || self.counted.given_up > 0;
        if own == 0 && (!is_owed || is_held) {
            return if is_held { Step::Wait(next_hour) } else { Step::Nothing };
        }
        // A clock that was ahead holds nothing up.
        let made_at = self.made_at.filter(|at| *at <= now);
        if let Some(due) = made_at.map(|at| at.plus(GROUP_EVERY)).filter(|due| now < *due) {
            return Step::Wait(due);
        }
        let left = HOURLY_MOST.saturating_sub(self.made_in_hour(now)) as usize;
        match left {
            0 => Step::Wait(next_hour),
            _ if own == 0 => Step::Summarize,
            left if own > left => Step::Count,
            _ => Step::Take,
        }
    }

    fn made_in_hour(&self, now: Wall) -> u32 {
        if self.made_at.map(hour_of) == Some(hour_of(now)) { self.in_hour } else { 0 }
    }

    /// [`Step::Count`]: these alerts need not be kept any more.
    pub fn count(&mut self, alerts: &[Alert]) {
        self.held_in = None;
        self.add(alerts);
    }

    /// [`Step::Hold`]: says for each of these alerts whether it was counted, and need not be kept any more.
    pub fn hold(&mut self, alerts: &[Alert], now: Wall) -> Vec<bool> {
        let beyond = self.shares.beyond(alerts, now);
        let held = alerts.iter().zip(&beyond).filter(|(_, is_beyond)| **is_beyond);
        self.add(held.map(|(alert, _)| alert));
        self.held_in = Some(hour_of(now));
        beyond
    }

    fn add<'a>(&mut self, alerts: impl IntoIterator<Item = &'a Alert>) {
        for alert in alerts {
            self.counted.add(alert);
            match alert.kind {
                AlertKind::Recovered if self.incidents.remove(&alert.job) => {
                    self.counted.recovered.insert(alert.job.clone());
                }
                kind if kind.is_bad() && self.counted.recovered.remove(&alert.job) => {
                    self.incidents.insert(alert.job.clone());
                }
                AlertKind::LateNoMore if self.late.remove(&alert.run) => {
                    self.counted.ended.insert(Incident::Late(alert.run.clone()));
                }
                AlertKind::Late if self.counted.ended.remove(&Incident::Late(alert.run.clone())) => {
                    self.late.insert(alert.run.clone());
                }
                _ => {}
            }
        }
    }

    /// [`Step::Take`].
    pub fn take(&mut self, alerts: &[Alert], now: Wall) {
        for alert in alerts {
            match alert.kind {
                AlertKind::Recovered => drop(self.incidents.remove(&alert.job)),
                AlertKind::Failed | AlertKind::TimedOut | AlertKind::Unknown => {
                    // It fails again: what an earlier summary could not end must not be ended now.
                    self.counted.recovered.remove(&alert.job);
                    if self.incidents.len() < INCIDENTS_MOST {
                        self.incidents.insert(alert.job.clone());
                    }
                }
                AlertKind::LateNoMore => drop(self.late.remove(&alert.run)),
                AlertKind::Late => {
                    self.counted.ended.remove(&Incident::Late(alert.run.clone()));
                    if self.late.len() < INCIDENTS_MOST {
                        self.late.insert(alert.run.clone());
                    }
                }
                AlertKind::Missed => {}
            }
        }
        for alert in alerts {
            self.make(alert.id(), Content::Alert(Box::new(alert.clone())), now);
        }
    }

    /// [`Step::Summarize`]. `channel`: its name, which is unique in its namespace.
    pub fn summarize(&mut self, channel: &str, now: Wall) {
        self.summaries += 1;
        let id = format!("summary:{channel}:{}:{}", now, self.summaries);
        self.held_in = None;
        let content = Content::Summary(std::mem::take(&mut self.counted));
        self.make(id, content, now);
    }

    /// Makes a message of each of these. `false`: it has sent as many as it may in this hour, and nothing was made.
    pub fn report(&mut self, troubles: &[trouble::Trouble], now: Wall) -> bool {
        if self.made_in_hour(now) >= HOURLY_MOST {
            return false;
        }
        for trouble in troubles {
            // It has come again, or is over by a message of its own.
            self.counted.ended.remove(&Incident::Trouble(trouble.key.clone()));
            self.make(trouble.id(), Content::Trouble(Box::new(trouble.clone())), now);
        }
        true
    }

    fn make(&mut self, id: String, content: Content, now: Wall) {
        self.in_hour = self.made_in_hour(now).saturating_add(1);
        self.made_at = Some(now);
        let is_jobs_last = if let Content::Alert(alert) = &content { self.shares.take(&alert.job, now) } else { false };
        let bound = if self.in_hour >= HOURLY_MOST { Some(Bound::Channel) } else { is_jobs_last.then_some(Bound::Job) };
        let last = bound.map(|bound| LastOf { bound, until: hour_of(now).plus(HOUR) });
        self.sending.push(Message { last, ..Message::new(id, now, content) });
    }

    /// When it may send again, where it has sent as many messages in this hour as it may.
    pub fn bound_until(&self, now: Wall) -> Option<Wall> {
        (self.made_in_hour(now) >= HOURLY_MOST).then(|| hour_of(now).plus(HOUR))
    }

    /// The jobs that have had their share of the messages of this hour.
    pub fn bound_jobs(&self, now: Wall) -> impl Iterator<Item = &JobName> {
        self.shares.spent(now)
    }

    /// When it last had something to do.
    pub fn last_used(&self) -> Option<Wall> {
        let since = self.sending.iter().map(|message| message.since);
        since.chain(self.made_at).chain(self.counted.until).max()
    }

    /// The first message was not taken. Says whether that is news.
    pub fn not_taken(&mut self, why: &str, now: Wall) -> bool {
        let why = &why[..why.floor_char_boundary(WHY_MOST)];
        let before = self.trouble.take();
        let is_news = before.as_ref().is_none_or(|before| before.why != why);
        let since = before.map_or(now, |before| before.since);
        self.trouble = Some(Trouble { since, why: why.to_owned() });
        is_news
    }

    /// Why the channel takes nothing.
    pub fn trouble(&self) -> Option<&Trouble> {
        self.trouble.as_ref()
    }

    /// How many alerts wait, of those that have been taken.
    pub fn alerts(&self) -> u64 {
        self.sending.iter().map(Message::alerts).sum::<u64>() + self.counted.total()
    }

    /// The first message was sent.
    pub fn sent(&mut self) {
        self.refused = 0;
        self.trouble = None;
        self.first();
    }

    /// A part of the first message was taken, where each end of what a job had opened is a part of its own: it is not sent
    /// again with those behind it.
    pub fn part_sent(&mut self) {
        let Some(message) = self.sending.first_mut() else { return };
        match &mut message.content {
            Content::Summary(summary) if message.is_begun => summary.end_first(),
            Content::Summary(_) | Content::Alert(_) | Content::Trouble(_) => message.is_begun = true,
        }
    }

    fn first(&mut self) -> Option<Message> {
        (!self.sending.is_empty()).then(|| self.sending.remove(0))
    }

    /// The receiver refuses what is in the first message: that is given up, and those behind it are not held up by it.
    /// `false`: it has refused those before as well. So its fault is not in the messages, and none is given up.
    pub fn refuse(&mut self) -> bool {
        let is_alone = self.refused < REFUSED_MOST;
        if is_alone {
            self.refused += 1;
            match self.sending.first() {
                // Only the end of what one job had opened is refused: a person closes that.
                Some(Message { is_begun: true, content: Content::Summary(summary), .. })
                    if summary.ends().count() > 1 =>
                {
                    self.part_sent();
                }
                Some(Message { is_begun: true, .. }) => drop(self.first()),
                _ => self.give_up(),
            }
        }
        is_alone
    }

    /// The first message is given up: the next summary says how many alerts were, and ends what that would have ended.
    pub fn give_up(&mut self) {
        let Some(message) = self.first() else { return };
        self.held_in = None;
        let has_said = message.is_begun;
        if !has_said {
            self.counted.given_up += message.alerts();
        }
        match message.content {
            Content::Trouble(trouble) if trouble.over_at.is_some() => {
                let is_again =
                    |message: &Message| matches!(&message.content, Content::Trouble(again) if again.key == trouble.key);
                if !self.sending.iter().any(is_again) {
                    self.counted.ended.insert(Incident::Trouble(trouble.key));
                }
            }
            // It fails, or is late, again, and that is a message of its own: it must not be ended.
            Content::Alert(alert) if alert.kind == AlertKind::Recovered && !self.incidents.contains(&alert.job) => {
                self.counted.recovered.insert(alert.job);
            }
            Content::Alert(alert) if alert.kind == AlertKind::LateNoMore && !self.late.contains(&alert.run) => {
                self.counted.ended.insert(Incident::Late(alert.run));
            }
            Content::Trouble(_) | Content::Alert(_) => {}
            Content::Summary(summary) => {
                if !has_said {
                    self.counted.given_up += summary.given_up;
                }
                let recovered = summary.recovered.into_iter().filter(|job| !self.incidents.contains(job));
                self.counted.recovered.extend(recovered);
                let is_over = |end: &Incident| !matches!(end, Incident::Late(run) if self.late.contains(run));
                self.counted.ended.extend(summary.ended.into_iter().filter(is_over));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Verdict;

    fn alert(job: &str, second: i64) -> Alert {
        let (job, at) = (JobName::new(job).unwrap(), Wall::from_millis(second * 1_000));
        Alert {
            kind: AlertKind::Failed,
            run: RunId::of(&job, at),
            job,
            scheduled_at: at,
            verdict: Some(Verdict::Failed),
            reason: String::new(),
            exit_code: Some(1),
            attempt: 1,
            in_a_row: 1,
            node: None,
            fence: None,
            finished_at: at,
            whose: crate::job::Whose::default(),
        }
    }

    /// A channel over time: the messages that it sends, each at the second at which it does. By second, how many jobs fail.
    fn sends(arrivals: &[(i64, usize)], seconds: i64) -> Vec<(i64, Message)> {
        let of_jobs = arrivals.iter().flat_map(|(at, jobs)| (0..*jobs).map(|nth| (*at, format!("j{nth}"))));
        sends_of(&of_jobs.collect::<Vec<_>>(), seconds)
    }

    /// The same of jobs by their names.
    fn sends_of(arrivals: &[(i64, String)], seconds: i64) -> Vec<(i64, Message)> {
        let (mut outgoing, mut waiting, mut sent) = (Outgoing::default(), Vec::new(), Vec::new());
        for second in 0..seconds {
            let now = Wall::from_millis(second * 1_000);
            let failed = arrivals.iter().filter(|(at, _)| *at == second);
            waiting.extend(failed.map(|(_, job)| alert(job, second)));
            loop {
                let looked_at = waiting.len().min(LOOKED_AT);
                match outgoing.step(&waiting[..looked_at], now) {
                    Step::Nothing | Step::Wait(_) => break,
                    Step::Count => outgoing.count(&waiting.drain(..looked_at).collect::<Vec<_>>()),
                    Step::Hold => {
                        let mut held = outgoing.hold(&waiting[..looked_at], now).into_iter();
                        waiting.retain(|_| !held.next().unwrap_or_default());
                    }
                    Step::Take => outgoing.take(&waiting.drain(..looked_at).collect::<Vec<_>>(), now),
                    Step::Summarize => outgoing.summarize("ops", now),
                    Step::Send => {
                        sent.push((second, outgoing.sending[0].clone()));
                        outgoing.sent();
                    }
                }
            }
        }
        sent
    }

    #[test]
    fn the_first_alert_is_sent_at_once_and_the_next_ones_together() {
        let sent = sends(&[(0, 1), (5, 2), (10, 1)], 60);
        let seconds: Vec<i64> = sent.iter().map(|(second, _)| *second).collect();
        assert_eq!(seconds, [0, 30, 30, 30]);
        assert!(sent.iter().all(|(_, message)| message.alerts() == 1));
        assert_eq!(sent[0].1.id, "j0@1970-01-01T00:00:00Z:failed:1970-01-01T00:00:00Z");
    }

    #[test]
    fn many_alerts_together_are_one_message_that_counts_all_of_them() {
        let sent = sends(&[(0, 10_000)], 120);
        let [(0, message)] = sent.as_slice() else { panic!("{sent:?}") };
        let Content::Summary(summary) = &message.content else { panic!("{message:?}") };
        assert_eq!((summary.total(), summary.jobs.len(), summary.top().len()), (10_000, JOBS_COUNTED, JOBS_NAMED));
    }

    #[test]
    fn an_hour_has_a_bounded_number_of_messages_and_none_of_the_alerts_is_lost() {
        let arrivals: Vec<(i64, usize)> = (0..3_500).step_by(30).map(|second| (second, 10)).collect();
        let alerts: usize = arrivals.iter().map(|(_, count)| count).sum();
        let sent = sends(&arrivals, 3_700);
        let in_hour = sent.iter().filter(|(second, _)| *second < 3_600).count();
        assert_eq!(in_hour, HOURLY_MOST as usize);
        assert_eq!(sent.iter().map(|(_, message)| message.alerts()).sum::<u64>(), alerts as u64);
    }

    #[test]
    fn a_noisy_job_is_summarized_while_the_others_have_messages_of_their_own() {
        let noisy = (0..3_500).step_by(20).map(|second| (second, "noisy".to_owned()));
        let others = (0..50).map(|nth| (1_500 + nth * 40, format!("quiet{nth}")));
        let arrivals: Vec<_> = noisy.chain(others).collect();
        let sent = sends_of(&arrivals, 3_700);
        let own = |message: &Message, name: &str| match &message.content {
            Content::Alert(alert) => alert.job.as_str().starts_with(name),
            _ => false,
        };
        let of_noisy: Vec<&Message> = sent.iter().map(|(_, sent)| sent).filter(|sent| own(sent, "noisy")).collect();
        assert_eq!(of_noisy.len(), JOB_HOURLY_MOST as usize);
        assert_eq!(
            sent.iter().filter(|(_, message)| own(message, "quiet")).count(),
            50,
            "none of them is in a summary"
        );
        // The last of them says that the others are in a summary, and when that comes.
        let next_hour = Wall::EPOCH.plus(HOUR);
        let last: Vec<_> = of_noisy.iter().filter_map(|message| message.last).collect();
        assert_eq!(last, [LastOf { bound: Bound::Job, until: next_hour }]);
        assert!(of_noisy.last().unwrap().last.is_some());
        let [(3_600, Message { content: Content::Summary(summary), .. })] =
            sent.iter().filter(|(_, sent)| matches!(sent.content, Content::Summary(_))).collect::<Vec<_>>()[..]
        else {
            panic!("one summary, at the beginning of the next hour: {sent:?}")
        };
        assert_eq!(summary.jobs, [(JobName::new("noisy").unwrap(), 175 - 6)].into());
    }

    #[test]
    fn a_channel_says_and_shows_when_it_is_at_its_bound() {
        let arrivals: Vec<_> = (0..HOURLY_MOST).map(|nth| (i64::from(nth) * 30, format!("j{nth}"))).collect();
        let sent = sends_of(&arrivals, 3_599);
        let last: Vec<_> = sent.iter().map(|(_, message)| message.last.map(|last| last.bound)).collect();
        assert_eq!((last.len(), last.iter().position(Option::is_some)), (60, Some(59)));
        assert_eq!(last[59], Some(Bound::Channel));
        let (mut outgoing, now) = (Outgoing::default(), Wall::from_millis(0));
        for nth in 0..10 {
            let six: Vec<Alert> = (0..6).map(|second| alert(&format!("j{nth}"), second)).collect();
            assert_eq!((outgoing.bound_until(now), outgoing.bound_jobs(now).count()), (None, nth));
            outgoing.take(&six, now);
        }
        assert_eq!((outgoing.bound_until(now), outgoing.bound_jobs(now).count()), (Some(now.plus(HOUR)), 10));
        let next = now.plus(HOUR);
        assert_eq!((outgoing.bound_until(next), outgoing.bound_jobs(next).count()), (None, 0));
    }

    #[test]
    fn what_is_held_is_counted_at_once_and_a_storm_takes_it_along() {
        let (mut outgoing, now) = (Outgoing::default(), Wall::from_millis(0));
        outgoing.take(&vec![alert("noisy", 0); 6], now);
        outgoing.sending.clear();
        let mut waiting = vec![alert("noisy", 1), alert("quiet", 1), alert("noisy", 1)];
        assert_eq!(outgoing.step(&waiting, now), Step::Hold);
        assert_eq!(outgoing.hold(&waiting, now), [true, false, true]);
        waiting.retain(|alert| alert.job.as_str() == "quiet");
        assert_eq!(outgoing.step(&[], now), Step::Wait(now.plus(HOUR)));
        assert_eq!(outgoing.step(&waiting, now.plus(GROUP_EVERY)), Step::Take);
        let storm: Vec<Alert> = (0..11).map(|nth| alert(&format!("s{nth}"), 2)).collect();
        assert_eq!(outgoing.step(&storm, now), Step::Count);
        outgoing.count(&storm);
        assert_eq!(outgoing.step(&[], now.plus(GROUP_EVERY)), Step::Summarize);
        outgoing.summarize("ops", now);
        let Content::Summary(summary) = &outgoing.sending[0].content else { panic!("{outgoing:?}") };
        assert_eq!(summary.total(), 13);
    }

    #[test]
    fn a_channel_that_takes_nothing_keeps_counting_and_the_next_summary_says_what_was_given_up() {
        let (mut outgoing, now) = (Outgoing::default(), Wall::from_millis(0));
        outgoing.take(&[alert("a", 0)], now);
        let waiting: Vec<Alert> = (0..LOOKED_AT).map(|nth| alert(&format!("b{nth}"), 1)).collect();
        assert_eq!(outgoing.step(&waiting[..GROUP_MOST], now), Step::Send);
        assert_eq!(outgoing.step(&waiting, now), Step::Count);
        outgoing.count(&[alert("b", 1)]);
        outgoing.give_up();
        let later = now.plus(GIVEN_UP_AFTER);
        assert_eq!(outgoing.step(&[], later), Step::Summarize);
        outgoing.summarize("ops", later);
        let Content::Summary(summary) = &outgoing.sending[0].content else { panic!("{outgoing:?}") };
        assert_eq!((summary.total(), summary.given_up), (1, 1));
        // What a summary that is given up itself has said of others is not forgotten.
        outgoing.give_up();
        outgoing.count(&[alert("c", 2)]);
        outgoing.summarize("ops", later);
        let Content::Summary(summary) = &outgoing.sending[0].content else { panic!("{outgoing:?}") };
        assert_eq!((summary.total(), summary.given_up), (1, 2));
    }

    #[test]
    fn a_recovery_that_is_given_up_ends_its_incident_with_the_next_message() {
        let (mut outgoing, now) = (Outgoing::default(), Wall::from_millis(0));
        let recovered = |job: &str| Alert { kind: AlertKind::Recovered, ..alert(job, 1) };
        outgoing.take(&[alert("a", 0), alert("b", 0)], now);
        outgoing.sent();
        outgoing.sent();
        outgoing.take(&[recovered("a"), recovered("b"), alert("b", 2)], now);
        outgoing.give_up();
        outgoing.give_up();
        outgoing.sent();
        let later = now.plus(GIVEN_UP_AFTER);
        assert_eq!(outgoing.step(&[], later), Step::Summarize, "nothing else has to come");
        assert_eq!(outgoing.step(&[alert("z", 3)], later), Step::Take, "an alert is not counted for its sake");
        outgoing.summarize("ops", later);
        let Content::Summary(summary) = &outgoing.sending[0].content else { panic!("{outgoing:?}") };
        let recovered: Vec<&str> = summary.recovered.iter().map(JobName::as_str).collect();
        assert_eq!((recovered, summary.given_up), (vec!["a"], 2), "b fails again");
        outgoing.sent();
        assert_eq!(outgoing.step(&[], later), Step::Nothing);
    }

    #[test]
    fn a_summary_ends_what_a_run_in_doubt_had_opened() {
        let (mut outgoing, now) = (Outgoing::default(), Wall::from_millis(0));
        outgoing.take(&[Alert { kind: AlertKind::Unknown, ..alert("a", 0) }], now);
        outgoing.count(&[Alert { kind: AlertKind::Recovered, ..alert("a", 1) }]);
        let a = JobName::new("a").unwrap();
        assert_eq!(outgoing.counted.ends().collect::<Vec<_>>(), [Incident::Failing(a)]);
    }

    #[test]
    fn a_summary_ends_what_is_late_no_more_and_a_trouble_whose_end_was_given_up() {
        let (mut outgoing, now) = (Outgoing::default(), Wall::from_millis(0));
        let late = |job: &str| Alert { kind: AlertKind::Late, ..alert(job, 0) };
        let over = |job: &str| Alert { kind: AlertKind::LateNoMore, ..alert(job, 0) };
        outgoing.take(&[late("a"), late("b"), late("c")], now);
        outgoing.sending.clear();
        outgoing.count(&[over("a"), over("b"), late("b"), over("d")]);
        let ends = |outgoing: &Outgoing| outgoing.counted.ends().collect::<Vec<_>>();
        let end_of = |job: &str| Incident::Late(alert(job, 0).run);
        assert_eq!(ends(&outgoing), [end_of("a")], "b is late again, and d was no message of its own");
        outgoing.take(&[over("c")], now);
        outgoing.give_up();
        assert_eq!(ends(&outgoing), [end_of("a"), end_of("c")]);
        let trouble = trouble::Trouble { what: "w".into(), key: "k".into(), since: now, over_at: Some(now) };
        assert!(outgoing.report(std::slice::from_ref(&trouble), now));
        outgoing.give_up();
        assert_eq!(ends(&outgoing).last(), Some(&Incident::Trouble("k".into())));
        outgoing.summarize("ops", now);
        outgoing.give_up();
        assert_eq!(ends(&outgoing).len(), 3, "what a summary could not end is ended by the next one");
        let again = trouble::Trouble { over_at: None, ..trouble };
        outgoing.report(&[again], now);
        assert_eq!(ends(&outgoing).len(), 2, "the trouble has come again");
        outgoing.take(&[late("a")], now);
        assert_eq!(ends(&outgoing), [end_of("c")]);
    }

    #[test]
    fn a_message_that_is_refused_is_given_up_unless_all_are() {
        let (mut outgoing, now) = (Outgoing::default(), Wall::from_millis(0));
        let alerts: Vec<Alert> = (0..8).map(|nth| alert(&format!("j{nth}"), 0)).collect();
        outgoing.take(&alerts, now);
        assert!(outgoing.refuse());
        outgoing.sent();
        assert!((0..REFUSED_MOST).all(|_| outgoing.refuse()), "the one between was taken");
        let left = outgoing.sending.clone();
        assert!(!outgoing.refuse());
        assert_eq!((outgoing.sending.clone(), outgoing.counted.given_up), (left, 4));
        outgoing.sent();
        assert!(outgoing.refuse());
    }

    #[test]
    fn what_was_taken_of_a_summary_is_neither_sent_again_nor_given_up() {
        let (mut outgoing, now) = (Outgoing::default(), Wall::from_millis(0));
        let jobs = ["a", "b", "c", "d"];
        outgoing.take(&jobs.map(|job| alert(job, 0)), now);
        outgoing.sending.clear();
        outgoing.count(&jobs.map(|job| Alert { kind: AlertKind::Recovered, ..alert(job, 1) }));
        outgoing.summarize("ops", now);
        outgoing.part_sent();
        outgoing.part_sent();
        let left = |outgoing: &Outgoing| -> Vec<String> {
            let Some(Message { is_begun: true, content: Content::Summary(summary), .. }) = outgoing.sending.first()
            else {
                panic!("{outgoing:?}")
            };
            summary.recovered.iter().map(JobName::to_string).collect()
        };
        assert_eq!(left(&outgoing), ["b", "c", "d"]);
        assert!(outgoing.refuse(), "the receiver refuses to end what b had opened");
        assert_eq!(left(&outgoing), ["c", "d"]);
        outgoing.give_up();
        assert_eq!(outgoing.counted.given_up, 0, "what the summary says was taken");
        assert_eq!(outgoing.step(&[], now.plus(GROUP_EVERY)), Step::Summarize, "c and d are still to be ended");
    }

    #[test]
    fn why_a_channel_takes_nothing_is_known_until_it_does() {
        let (mut outgoing, now) = (Outgoing::default(), Wall::from_millis(0));
        outgoing.take(&[alert("a", 0), alert("b", 0)], now);
        outgoing.count(&[alert("c", 0)]);
        assert_eq!(outgoing.alerts(), 3);
        let later = now.plus(GROUP_EVERY);
        assert!(outgoing.not_taken("it answers 500", now));
        assert!(!outgoing.not_taken("it answers 500", later), "it is recorded once");
        assert!(outgoing.not_taken("it answers 503", later));
        outgoing.give_up();
        let expected = Trouble { since: now, why: "it answers 503".to_owned() };
        assert_eq!(outgoing.trouble(), Some(&expected));
        outgoing.sent();
        assert_eq!(outgoing.trouble(), None);
    }

    #[test]
    fn a_summary_knows_which_jobs_have_recovered_whose_failure_was_sent_alone() {
        let (mut outgoing, now) = (Outgoing::default(), Wall::from_millis(0));
        outgoing.take(&[alert("a", 0), alert("b", 0), alert("c", 0)], now);
        let recovered = |job: &str| Alert { kind: AlertKind::Recovered, ..alert(job, 1) };
        outgoing.count(&[recovered("a"), recovered("b"), alert("b", 2), alert("d", 2), recovered("d")]);
        outgoing.summarize("ops", now);
        let recovered_of = |outgoing: &Outgoing| -> Vec<String> {
            let Some(Content::Summary(summary)) = outgoing.sending.last().map(|message| &message.content) else {
                panic!("{outgoing:?}")
            };
            summary.recovered.iter().map(JobName::to_string).collect()
        };
        assert_eq!(recovered_of(&outgoing), ["a"], "b has failed again, and d was never alone");
        outgoing.count(&[recovered("b")]);
        outgoing.sending.drain(..3);
        outgoing.give_up();
        outgoing.summarize("ops", now);
        assert_eq!(recovered_of(&outgoing), ["a", "b"]);
        outgoing.give_up();
        outgoing.take(&[alert("a", 3)], now);
        outgoing.summarize("ops", now);
        assert_eq!(recovered_of(&outgoing), ["b"], "a fails again");
    }
}
