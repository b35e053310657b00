//! A job on its way from its source into a jobs file.

use super::fires::Rule;
use super::report::Place;

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

/// One job.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    pub name: String,
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
    /// When its source fires it.
    pub rule: Rule,
}

impl Draft {
    pub fn new(name: String, place: Place) -> Draft {
        let (comments, remarks, keys) = (Vec::new(), Vec::new(), Vec::new());
        Draft { name, place, comments, remarks, keys, held: false, rule: Rule::Unknown("nothing".to_owned()) }
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
