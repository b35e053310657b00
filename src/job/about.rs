//! Whose a job is, what people sort it by, and what is expected of its runs, as plain data.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Text;

/// What people need to know of a job that does not change what it does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// The people who answer for it.
    pub owner: Option<Text>,
    /// What jobs are sorted and found by.
    pub labels: BTreeMap<String, Text>,
    /// The URL of what people do when it fails.
    pub runbook: Option<Text>,
    pub expect: Expect,
}

impl About {
    /// Its labels, without what came from outside of the file.
    pub fn shown_labels(&self) -> BTreeMap<String, String> {
        self.labels.iter().map(|(name, value)| (name.clone(), value.to_string())).collect()
    }

    /// Whether it is of this owner, in whichever case.
    pub fn is_of(&self, owner: &str) -> bool {
        self.owner.as_ref().is_some_and(|own| own.to_string().to_lowercase() == owner.to_lowercase())
    }

    /// Whether it has this label, in whichever case: `NAME=VALUE`, or `NAME` for any value.
    pub fn has_label(&self, label: &str) -> bool {
        let label = label.to_lowercase();
        let (wanted, value) = label.split_once('=').map_or((&*label, None), |(name, value)| (name, Some(value)));
        self.labels.iter().any(|(name, own)| {
            name.to_lowercase() == wanted && value.is_none_or(|value| own.to_string().to_lowercase() == value)
        })
    }
}

/// How soon a run has to start and to end, from the instant on at which it was to start. Nothing is done to a run that
/// takes longer: it is late.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expect {
    pub start_within: Option<Duration>,
    pub end_within: Option<Duration>,
}
