//! What is notified of a job's runs, and through which channels, as plain data.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Text, Verdict, Word};

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
}

impl Word for AlertKind {
    const WORDS: &'static [(&'static str, AlertKind)] = &[
        ("failed", AlertKind::Failed),
        ("timed_out", AlertKind::TimedOut),
        ("unknown", AlertKind::Unknown),
        ("recovered", AlertKind::Recovered),
    ];
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
}

/// Where alerts go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Channel {
    /// A POST of JSON.
    Webhook { url: Text, headers: Vec<(String, Text)> },
    /// An incoming webhook of Slack, or of what takes the same.
    Slack { url: Text },
    /// Alertmanager, by its API of version 2.
    Alertmanager { url: Text, headers: Vec<(String, Text)> },
    /// PagerDuty's Events API of version 2, or what takes the same.
    Pagerduty { key: Text, url: Text },
    /// A program and its arguments, with the JSON as its input.
    Exec(Vec<Text>),
}

impl Channel {
    /// What each kind of channel is called.
    pub const KINDS: [&'static str; 5] = ["webhook", "slack", "alertmanager", "pagerduty", "exec"];

    /// What this kind of channel is called.
    pub fn kind(&self) -> &'static str {
        match self {
            Channel::Webhook { .. } => "webhook",
            Channel::Slack { .. } => "slack",
            Channel::Alertmanager { .. } => "alertmanager",
            Channel::Pagerduty { .. } => "pagerduty",
            Channel::Exec(_) => "exec",
        }
    }
}

/// A request that a leader makes again and again, so that its silence is noticed elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    pub url: Text,
    pub every: Duration,
}

/// Where the notices of a cluster go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notices {
    /// By name.
    pub channels: BTreeMap<String, Channel>,
    pub heartbeat: Option<Heartbeat>,
}
