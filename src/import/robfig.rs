//! Schedules of robfig/cron for Go, which Kubernetes and Dkron use.

use chrono_tz::Tz;

use super::draft::{Draft, Value};
use super::fields::{self, Dialect, Reading};
use super::fires::Rule;
use super::report::{Fate, Place, Report};
use super::{Settings, compare};
use crate::time::{parse_duration, written};

/// When a job is due.
pub(super) struct When {
    pub schedule: String,
    pub zone: Tz,
    /// `dst` has to be written.
    pub follows_clocks: bool,
    pub rule: Rule,
    pub notes: Vec<(Fate, String)>,
}

/// Reads a schedule of five fields, or of six where the source has seconds.
pub(super) fn when(text: &str, zone: Tz, seconds: bool, settings: &Settings) -> Result<When, String> {
    let mut notes = Vec::new();
    let (zone, text) = match text.trim().strip_prefix("CRON_TZ=").or_else(|| text.trim().strip_prefix("TZ=")) {
        None => (zone, text.trim()),
        Some(rest) => {
            let (name, rest) = rest.split_once(' ').ok_or("a zone, and no schedule behind it")?;
            notes.push((Fate::Differs, "the zone in the schedule is its `timezone` here".to_owned()));
            (read_zone(name)?, rest.trim())
        }
    };
    if let Some(length) = text.strip_prefix("@every ") {
        let length = parse_duration(length.trim()).map_err(|why| format!("`{text}`: it {why}"))?;
        let length = std::time::Duration::from_secs(length.as_secs().max(1));
        let message = "the source counts from its own start, and here it is counted from 1970-01-01T00:00:00Z, so that \
                       every node computes the same instants";
        notes.push((Fate::Differs, message.to_owned()));
        let rule = Rule::Unknown("the source counts from its own start".to_owned());
        let schedule = format!("@every {}", written(length));
        return Ok(When { schedule, zone, follows_clocks: false, rule, notes });
    }
    let fields = match text {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        _ if text.starts_with('@') => return Err(format!("`{text}` is not a schedule that the source knows")),
        text => text,
    };
    let parts: Vec<&str> = fields.split_whitespace().collect();
    let count = if seconds && !text.starts_with('@') { 6 } else { 5 };
    if parts.len() != count {
        return Err(format!("`{text}` has {} fields, not {count}: the source refuses it", parts.len()));
    }
    let Reading { cron, here, interval_here, .. } = fields::read(&parts, Dialect::Robfig)?;
    let changes = !compare::next_changes(zone, settings.now).is_empty();
    let rule = Rule::Cron(vec![cron], zone);
    Ok(When { schedule: here, zone, follows_clocks: changes && !interval_here, rule, notes })
}

pub(super) fn read_zone(name: &str) -> Result<Tz, String> {
    let name = if name.is_empty() { "UTC" } else { name };
    name.parse().map_err(|_| format!("the zone `{name}` is not one of the IANA database"))
}

impl When {
    /// Writes it into a job.
    pub fn write(self, draft: &mut Draft, place: Place, report: &mut Report) {
        draft.set("schedule", Value::Text(self.schedule));
        draft.set("timezone", Value::text(self.zone.name()));
        if self.follows_clocks {
            let words = [("gap", "skip"), ("fold", "both")];
            draft.set("dst", Value::Map(words.map(|(key, word)| (key.to_owned(), Value::text(word))).to_vec()));
        }
        draft.rule = self.rule;
        self.notes.into_iter().for_each(|(fate, message)| report.add(place, fate, message));
    }
}
