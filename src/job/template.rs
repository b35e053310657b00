//! The body of a webhook in a form of its own: JSON in whose texts `{{NAME}}` stands for what a message has of that name.
//!
//! What is filled in becomes a part of a text, or a value of its own, and never a part of the JSON around it: so nothing
//! that a job writes can change the form.

use std::fmt;

use serde_json::Value;

/// What a message may have, by the names of the JSON of a webhook.
pub const NAMES: &[&str] = &[
    "alerts",
    "attempt",
    "exit_code",
    "fence",
    "finished_at",
    "from",
    "given_up",
    "id",
    "in_a_row",
    "job",
    "kind",
    "kinds",
    "labels",
    "last",
    "namespace",
    "node",
    "output",
    "over_at",
    "owner",
    "ran",
    "reason",
    "run_id",
    "runbook",
    "scheduled_at",
    "sent_by",
    "since",
    "state",
    "text",
    "top",
    "trouble",
    "until",
];

/// How often a template may have something filled in: each may be as long as a text is.
pub const FILLED_MOST: usize = 100;

#[derive(Clone, PartialEq, Eq)]
pub struct Template {
    json: Value,
    /// Whether something from outside of the file is in it.
    is_secret: bool,
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_secret { f.write_str("***") } else { write!(f, "{}", self.json) }
    }
}

impl Template {
    /// A body whose texts are as [`names`] reads them.
    pub fn new(json: Value, is_secret: bool) -> Template {
        Template { json, is_secret }
    }

    /// The body, with what `message` has in place of the names; what it has not is empty.
    pub fn fill(&self, message: &Value) -> Value {
        fill(&self.json, message)
    }
}

fn fill(json: &Value, message: &Value) -> Value {
    match json {
        Value::String(text) => fill_text(text, message),
        Value::Array(items) => items.iter().map(|item| fill(item, message)).collect(),
        Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), fill(value, message))).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) => json.clone(),
    }
}

/// A text that is one name alone becomes the value itself, such as a number or a list.
fn fill_text(text: &str, message: &Value) -> Value {
    let (mut filled, mut rest) = (String::new(), text);
    while let Some((before, name, behind)) = split(rest) {
        let value = find(message, name);
        if before.is_empty() && behind.is_empty() && filled.is_empty() {
            return value.cloned().unwrap_or_default();
        }
        filled.push_str(before);
        match value {
            None | Some(Value::Null) => {}
            Some(Value::String(text)) => filled.push_str(text),
            Some(value) => filled.push_str(&value.to_string()),
        }
        rest = behind;
    }
    Value::String(filled + rest)
}

/// What stands in front of the first `{{NAME}}`, the name, and what stands behind it.
fn split(text: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = text.split_once("{{")?;
    let (name, behind) = rest.split_once("}}")?;
    Some((before, name.trim(), behind))
}

/// `labels.team` is a label.
fn find<'m>(message: &'m Value, name: &str) -> Option<&'m Value> {
    match name.split_once('.') {
        None => message.get(name),
        Some((name, part)) => message.get(name)?.get(part),
    }
}

/// The names in a text, each as far as it is one: the byte at which its braces begin, and the name in front of a point.
///
/// # Errors
///
/// The byte at which braces begin that do not end.
pub fn names(text: &str) -> Result<Vec<(usize, &str)>, usize> {
    let (mut names, mut rest) = (Vec::new(), text);
    while let Some((before, name, behind)) = split(rest) {
        let at = text.len() - rest.len() + before.len();
        names.push((at, name.split_once('.').map_or(name, |(name, _)| name)));
        rest = behind;
    }
    match rest.find("{{") {
        Some(open) => Err(text.len() - rest.len() + open),
        None => Ok(names),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_filled_in_is_a_text_or_a_value_and_never_changes_the_form() {
        let evil = "\"}], \"admin\": true, {{kind}} \\ \u{0} \u{2028} ${HOME} ]}";
        let message = json!({
            "job": evil, "exit_code": 3, "labels": { "team": "shop" }, "owner": null, "kind": "failed",
        });
        let template = json!({
            "content": "{{ job }} {{kind}}!", "code": "{{exit_code}}", "of": "code {{exit_code}}, owner {{owner}}",
            "team": "{{labels.team}}", "labels": "{{labels}}", "none": ["{{owner}}", "{{labels.none}}", 1, true, null],
            "{{job}}": "as it is",
        });
        let filled = Template::new(template, false).fill(&message);
        let expected = json!({
            "content": format!("{evil} failed!"), "code": 3, "of": "code 3, owner ", "team": "shop",
            "labels": { "team": "shop" }, "none": [null, null, 1, true, null], "{{job}}": "as it is",
        });
        assert_eq!(filled, expected);
        let read: Value = serde_json::from_str(&filled.to_string()).unwrap();
        assert_eq!(read, expected, "it is the same when it is read");
    }

    #[test]
    fn names_have_their_places_and_braces_an_end() {
        assert_eq!(names("a {{job}} {{ labels.team }} }}"), Ok(vec![(2, "job"), (10, "labels")]));
        assert_eq!(names("é{{job"), Err(2));
        assert_eq!(format!("{:?}", Template::new(json!("hunter2"), true)), "***");
    }
}
