//! A job on its way from its source into a jobs file.

use std::collections::BTreeMap;

use super::fires::Rule;
use super::report::Place;
use crate::job::check_name;

/// The value of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Text(String),
    List(Vec<String>),
    Map(Vec<(String, Value)>),
}

impl Value {
    pub fn text(text: impl Into<String>) -> Value {
        Value::Text(text.into())
    }
}

/// The longest value of a label, and the most of them.
const LABEL_MOST: usize = 100;
const LABELS_MOST: usize = 50;

/// Whether a text can stand as a label or an owner here.
pub(super) fn is_line(text: &str, most: usize, without: &[char]) -> bool {
    let is_fine = |c: char| !c.is_control() && !without.contains(&c);
    !text.trim().is_empty() && text.chars().count() <= most && text.chars().all(is_fine)
}

/// The pairs that can be labels here, each without the prefix of its name.
pub(super) fn labels<'p>(pairs: impl Iterator<Item = (&'p str, &'p str)>) -> Option<Value> {
    let named = pairs.map(|(name, value)| (name.rsplit('/').next().unwrap_or(name), value));
    let fit = named.filter(|(name, value)| check_name(name).is_ok() && is_line(value, LABEL_MOST, &['"', ',']));
    let labels: BTreeMap<&str, &str> = fit.take(LABELS_MOST).collect();
    let pairs: Vec<_> = labels.into_iter().map(|(name, value)| (name.to_owned(), Value::text(value))).collect();
    (!pairs.is_empty()).then_some(Value::Map(pairs))
}

/// Where the source mails what a job writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mail {
    /// Empty: nowhere.
    pub to: Vec<String>,
    pub from: Option<String>,
}

/// One job.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    pub name: String,
    /// What may be added to the name where several jobs have it.
    pub arguments: Vec<String>,
    /// The line that the job is of.
    pub place: Place,
    /// What stood above it.
    pub comments: Vec<String>,
    /// In what it differs from its source.
    pub remarks: Vec<String>,
    /// Its keys, in the order in which they are written.
    pub keys: Vec<(&'static str, Value)>,
    /// The source has it switched off, so that it stays off.
    pub held: bool,
    /// `None`: the source says nothing of it.
    pub mail: Option<Mail>,
    /// The texts of `OnCalendar`, about which systemd itself can be asked.
    pub calendars: Vec<String>,
    /// When its source fires it.
    pub rule: Rule,
}

impl Draft {
    pub fn new(name: String, place: Place) -> Draft {
        let none = Vec::new;
        let rule = Rule::Unknown("nothing".to_owned());
        let (comments, arguments) = (none(), none());
        let (remarks, keys, calendars) = (none(), Vec::new(), none());
        Draft { name, arguments, place, comments, remarks, keys, held: false, mail: None, calendars, rule }
    }

    pub fn set(&mut self, key: &'static str, value: Value) {
        self.keys.push((key, value));
    }

    /// The job after which it runs.
    pub fn follows(&self) -> Option<&Value> {
        self.keys.iter().find(|(key, _)| *key == "after").map(|(_, value)| value)
    }

    /// The same job with a schedule in the place of a job that it follows.
    pub fn standing_alone(&self) -> Draft {
        let mut alone = self.clone();
        for (key, value) in &mut alone.keys {
            if *key == "after" {
                (*key, *value) = ("schedule", Value::text("@daily"));
            }
        }
        alone
    }
}
