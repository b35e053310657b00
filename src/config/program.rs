//! The jobs of a program: the same language as that of a file, written by code in the place of a person, so that keys,
//! defaults, bounds and messages are the same.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::{Config, Problems, Sources, read_text};

/// The longest name that is passed on as it is. One that is longer is refused in any case.
const NAME_SHOWN: usize = 200;

/// The jobs of a program, as far as they are written.
#[derive(Clone, Debug, Default)]
pub struct Program {
    namespace: String,
    calendars: Vec<(String, Vec<String>)>,
    jobs: Vec<Written>,
}

/// One job, in the keys of the language. What it does is the closure that the program has for its name.
#[derive(Clone, Debug)]
pub struct Written {
    name: String,
    keys: Map<String, Value>,
}

impl Written {
    pub fn new(name: &str) -> Written {
        Written { name: name.chars().take(NAME_SHOWN).collect(), keys: Map::new() }
    }

    /// Gives the value at this path of keys: `["retry", "attempts"]`. The last one given counts.
    pub fn set(&mut self, path: &[&str], value: impl Into<Value>) {
        let Some((last, outer)) = path.split_last() else { return };
        let mut map = &mut self.keys;
        for key in outer {
            let inner = map.entry(*key).or_insert_with(|| Value::Object(Map::new()));
            if !inner.is_object() {
                *inner = Value::Object(Map::new());
            }
            map = inner.as_object_mut().expect("it was made a map above");
        }
        map.insert((*last).to_owned(), literal(value.into()));
    }
}

impl Program {
    pub fn new(namespace: &str) -> Program {
        Program { namespace: namespace.to_owned(), ..Program::default() }
    }

    /// Adds the calendar `name`, which jobs name in `except`.
    pub fn calendar(&mut self, name: &str, dates: Vec<String>) {
        self.calendars.push((name.chars().take(NAME_SHOWN).collect(), dates));
    }

    pub fn job(&mut self, job: Written) {
        self.jobs.push(job);
    }

    /// The text of a file with these jobs. It is the same for every order in which they were given.
    fn text(&self) -> String {
        let (mut calendars, mut jobs) = (self.calendars.clone(), self.jobs.clone());
        calendars.sort();
        jobs.sort_by(|a, b| a.name.cmp(&b.name));
        let mut text = format!("version: 1\nnamespace: {}\n", json!(self.namespace));
        if !calendars.is_empty() {
            text.push_str("calendars:\n");
        }
        for (name, dates) in calendars {
            let dates = literal(Value::from(dates));
            writeln!(text, "  {}: {}", literal(name.into()), json!({ "dates": dates })).expect("a String takes it");
        }
        text.push_str(if jobs.is_empty() { "jobs: {}\n" } else { "jobs:\n" });
        for job in jobs {
            writeln!(text, "  {}:", literal(job.name.into())).expect("a String takes it");
            for (key, value) in job.keys.iter().collect::<BTreeMap<_, _>>() {
                writeln!(text, "    {key}: {}", flow(value)).expect("a String takes it");
            }
        }
        text
    }

    /// The configuration. Its digest is that of the written text: equal for equal jobs, in any order in which they
    /// are given.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it, each with the path of its key.
    pub fn config(&self) -> Result<Config, Problems> {
        let text = self.text();
        read_text(&text, text.as_bytes(), &Sources::none(), true).map_err(Problems::of_program)
    }
}

/// A value in one line, keys in their order: the map itself may have them in that of their insertion.
fn flow(value: &Value) -> String {
    let Value::Object(map) = value else { return value.to_string() };
    let sorted: BTreeMap<_, _> = map.iter().collect();
    let entries: Vec<String> = sorted.into_iter().map(|(key, value)| format!("{key}: {}", flow(value))).collect();
    format!("{{{}}}", entries.join(", "))
}

/// A value in which nothing is filled in: `${` is written as `$${`.
fn literal(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(text.replace("${", "$${")),
        Value::Array(items) => items.into_iter().map(literal).collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{MissedRun, Task};

    fn nightly() -> Written {
        let mut job = Written::new("nightly");
        job.set(&["schedule"], "0 2 * * *");
        job
    }

    fn config(jobs: &[Written]) -> Result<Config, Problems> {
        let mut program = Program::new("shop");
        jobs.iter().for_each(|job| program.job(job.clone()));
        program.config()
    }

    #[test]
    fn a_job_of_a_program_has_the_settings_of_the_same_job_in_a_file() {
        let mut job = nightly();
        job.set(&["retry", "attempts"], 3);
        job.set(&["retry", "backoff", "initial"], "2s");
        job.set(&["missed"], "skip");
        job.set(&["missed", "run"], "all");
        job.set(&["description"], "costs ${5}");
        let (name, of_program) = config(&[job]).unwrap().jobs.pop_first().unwrap();
        let text = "version: 1\njobs:\n  nightly: {schedule: '0 2 * * *', command: [x], description: 'costs $${5}', \
                    retry: {attempts: 3, backoff: {initial: 2s}}, missed: {run: all}}\n";
        let of_file = super::super::parse(text, &Sources::none()).unwrap().jobs.remove(&name).unwrap();
        let expected = crate::job::Job { task: Task::Call, ..(*of_file).clone() };
        assert_eq!(*of_program, expected);
        assert_eq!(of_program.missed.run, MissedRun::All);
    }

    #[test]
    fn all_problems_are_told_at_once_each_with_its_key() {
        let (mut late, mut chained) = (Written::new("late"), Written::new("chained"));
        late.set(&["schedule"], "0 25 * * *");
        late.set(&["timezone"], "Europe/Berln");
        chained.set(&["after", "job"], "nothing");
        let problems = config(&[nightly(), nightly(), late, chained, Written::new("a b")]).unwrap_err();
        let told = problems.to_string();
        for part in [
            "jobs.late.schedule: ",
            "    schedule: \"0 25 * * *\"",
            "jobs.late.timezone: `Europe/Berln` is not a time zone",
            "jobs.chained.after.job: there is no job `nothing`: name one of this program",
            "jobs.nightly: the key `nightly` is given twice",
            "`a b` is not a name",
        ] {
            assert!(told.contains(part), "{part:?} is not in\n{told}");
        }
        assert!(!told.contains("jobs.yaml"), "{told}");
    }

    #[test]
    fn the_digest_is_that_of_the_definitions_in_any_order() {
        let digest = |jobs: &[Written]| config(jobs).unwrap().digest;
        let mut hourly = Written::new("hourly");
        hourly.set(&["schedule"], "@hourly");
        let before = digest(&[nightly(), hourly.clone()]);
        assert_eq!(before, digest(&[hourly.clone(), nightly()]));
        let mut changed = nightly();
        changed.set(&["x-version"], "2");
        assert_ne!(before, digest(&[changed, hourly.clone()]));
        hourly.set(&["timeout"], "5s");
        assert_ne!(before, digest(&[nightly(), hourly]));
    }
}
