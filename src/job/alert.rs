//! What is notified of a job's runs, and through which channels, as plain data.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::template::Template;
use super::{JobName, Text, Verdict, Word};

/// How many channels there may be: the transaction of a verdict has a row for each.
pub const CHANNELS_MOST: usize = 8;

/// What an alert is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum AlertKind {
    /// A run failed.
    Failed,
    /// A run exceeded its timeout.
    TimedOut,
    /// It is unknown how a run ended: a person has to look.
    Unknown,
    /// A job whose bad end was notified has succeeded again.
    Recovered,
    /// Occurrences were not run, since no node led when they were due.
    Missed,
    /// A run has not started or not ended within the time that is expected.
    Late,
    /// A run that was late has started or ended.
    LateNoMore,
}

impl AlertKind {
    /// The kind of alert that a verdict may be worth; `None`: that is not notified.
    pub fn of(verdict: Verdict) -> Option<AlertKind> {
        match verdict {
            Verdict::Failed => Some(AlertKind::Failed),
            Verdict::TimedOut => Some(AlertKind::TimedOut),
            Verdict::Unknown => Some(AlertKind::Unknown),
            Verdict::Succeeded => Some(AlertKind::Recovered),
            Verdict::Cancelled | Verdict::Skipped => None,
        }
    }

    /// Whether it is about a run that ended badly.
    pub fn is_bad(self) -> bool {
        matches!(self, AlertKind::Failed | AlertKind::TimedOut | AlertKind::Unknown)
    }
}

impl Word for AlertKind {
    const WORDS: &'static [(&'static str, AlertKind)] = &[
        ("failed", AlertKind::Failed),
        ("timed_out", AlertKind::TimedOut),
        ("unknown", AlertKind::Unknown),
        ("recovered", AlertKind::Recovered),
        ("missed", AlertKind::Missed),
        ("late", AlertKind::Late),
        ("late_no_more", AlertKind::LateNoMore),
    ];
}

/// What an alert bears of its job, as it may be shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whose {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The URL of what people do when it fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runbook: Option<String>,
    /// What was run, in a line; `None`: nothing was, or it has no text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ran: Option<String>,
}

impl Whose {
    pub fn is_empty(&self) -> bool {
        *self == Whose::default()
    }

    /// How much it takes in a record, in bytes, at most.
    pub fn bytes(&self) -> usize {
        let labels = self.labels.iter().map(|(name, value)| name.len() + value.len() + 6);
        2 * (labels.sum::<usize>()
            + [&self.owner, &self.runbook, &self.ran].into_iter().flatten().map(String::len).sum::<usize>())
    }
}

/// Which ends of a job's runs are notified, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notify {
    pub on: Vec<AlertKind>,
    /// The names of channels, each once; at least one.
    pub to: Vec<String>,
    /// How many runs in a row have to end badly before the first alert, from 1.
    pub after: u32,
    /// How long after an alert the next is sent, while runs go on ending badly.
    pub repeat: Duration,
    /// What its alerts bear of the job.
    pub whose: Whose,
}

/// Where alerts go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Channel {
    /// A POST of JSON.
    Webhook { url: Text, headers: Vec<(String, Text)>, template: Option<Box<Template>> },
    /// An incoming webhook of Slack, or of what takes the same.
    Slack { url: Text },
    /// Alertmanager, by its API of version 2.
    Alertmanager { url: Text, headers: Vec<(String, Text)> },
    /// PagerDuty's Events API of version 2, or what takes the same.
    Pagerduty { key: Text, url: Text },
    /// A program and its arguments, with the JSON as its input.
    Exec(Vec<Text>),
    /// A mail.
    Smtp(Box<Smtp>),
}

/// A server that takes mails, and what they bear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Smtp {
    pub host: String,
    pub port: u16,
    pub security: SmtpSecurity,
    /// The address of the sender.
    pub from: String,
    /// The addresses of the receivers, at least one.
    pub to: Vec<String>,
    /// The user and the password.
    pub login: Option<(Text, Text)>,
    /// A file of the certificates (PEM) to trust instead of those that the machine trusts.
    pub ca: Option<Text>,
}

/// How the connection to a server for mails is secured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SmtpSecurity {
    /// TLS from the beginning.
    Tls,
    /// TLS by STARTTLS, without which nothing is sent.
    StartTls,
    /// Not at all.
    Plain,
}

impl Channel {
    /// What each kind of channel is called.
    pub const KINDS: [&'static str; 6] = ["webhook", "slack", "alertmanager", "pagerduty", "smtp", "exec"];

    /// What this kind of channel is called.
    pub fn kind(&self) -> &'static str {
        match self {
            Channel::Webhook { .. } => "webhook",
            Channel::Slack { .. } => "slack",
            Channel::Alertmanager { .. } => "alertmanager",
            Channel::Pagerduty { .. } => "pagerduty",
            Channel::Exec(_) => "exec",
            Channel::Smtp(_) => "smtp",
        }
    }
}

/// A request that a leader makes again and again, so that its silence is noticed elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    pub url: Text,
    pub every: Duration,
}

/// A sign of life of a run, for a service that watches one job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ping {
    pub job: JobName,
    /// The URL of the job; the sign is added to its path.
    pub url: Text,
    pub sign: Sign,
    /// What happened, in a line.
    pub what: String,
}

/// What a ping is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// A run began.
    Start,
    /// A run has succeeded.
    Success,
    /// A run has ended otherwise.
    Fail,
}

impl Sign {
    /// What is added to the path of a job's URL.
    pub fn path(self) -> &'static str {
        match self {
            Sign::Start => "/start",
            Sign::Success => "",
            Sign::Fail => "/fail",
        }
    }

    /// The sign of the end of a run; `None`: it was not begun.
    pub fn of(verdict: Verdict) -> Option<Sign> {
        match verdict {
            Verdict::Succeeded => Some(Sign::Success),
            Verdict::Failed | Verdict::TimedOut | Verdict::Unknown | Verdict::Cancelled => Some(Sign::Fail),
            Verdict::Skipped => None,
        }
    }
}

/// Where the notices of a cluster go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notices {
    /// By name.
    pub channels: BTreeMap<String, Channel>,
    /// The names of the channels whose alerts have the end of the output of their runs.
    pub with_output: BTreeSet<String>,
    pub heartbeat: Option<Heartbeat>,
    /// The names of the channels through which troubles of the cluster are notified.
    pub troubles: Vec<String>,
}
