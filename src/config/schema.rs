//! The JSON Schema of `jobs.yaml`, from the table that the decoder reads by.

use serde_json::{Map, Value, json};

use super::keys::{self, Key, Shape, Tables};
use super::tables::{JOB, MAX_TEXT_BYTES, TOP};
use crate::job;

/// What a name looks like: see [`crate::job::check_name`].
const NAME: &str = "^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$";

/// A whole number, a duration or a word may also be `${NAME}`: what it stands for is checked when it is known.
const FILLED: &str = r"\$\{";

/// The JSON Schema (draft 2020-12) of a configuration file, for editors: keys, shapes and bounds. What it cannot say,
/// such as which schedules can fire, only [`parse`](super::parse) knows.
///
/// ```
/// let schema = fencron::config::schema();
/// assert_eq!(schema["properties"]["version"]["const"], 1);
/// ```
pub fn schema() -> Value {
    let mut schema = map(TOP);
    let top = schema.as_object_mut().expect("a map's schema is an object");
    top.insert("$schema".into(), json!("https://json-schema.org/draft/2020-12/schema"));
    top.insert("title".into(), json!("fencron jobs.yaml"));
    top.insert("required".into(), json!(["version"]));
    top.insert("anyOf".into(), json!([{ "required": ["jobs"] }, { "required": ["migrations"] }]));
    top.insert("$defs".into(), json!({ "job": job_schema() }));
    schema
}

fn job_schema() -> Value {
    let mut schema = map(JOB);
    let job = schema.as_object_mut().expect("a map's schema is an object");
    let tasks: Vec<&str> = keys::tasks(JOB).map(|key| key.name).collect();
    let one_of = |names: &[&str]| {
        let each: Vec<Value> = names.iter().map(|name| json!({ "required": [name] })).collect();
        json!({ "oneOf": each })
    };
    job.insert("allOf".into(), json!([one_of(&["schedule", "after"]), one_of(&tasks)]));
    schema
}

fn map(tables: Tables) -> Value {
    let properties: Map<String, Value> = keys::all(tables).map(|key| (key.name.to_owned(), property(key))).collect();
    let anchors = json!({ format!("^{}", keys::ANCHOR_PLACE): true });
    json!({
        "type": ["object", "null"],
        "additionalProperties": false,
        "properties": properties,
        "patternProperties": anchors,
    })
}

fn property(key: &'static Key) -> Value {
    let mut schema = shape(&key.shape);
    let object = schema.as_object_mut().expect("every schema of a shape is an object");
    object.insert("description".into(), json!(key.about));
    if let Some(default) = key.default {
        let number = default.parse::<u32>().ok().map(|number| json!(number));
        object.insert("default".into(), number.unwrap_or(json!(default)));
    }
    schema
}

fn shape(shape: &'static Shape) -> Value {
    match shape {
        Shape::Version => json!({ "const": 1 }),
        Shape::Name => or_filled(json!({ "type": ["string", "integer"], "pattern": NAME })),
        Shape::Text | Shape::Directory => text(),
        Shape::Line { most, .. } => json!({ "type": ["string", "number", "boolean"], "maxLength": most }),
        Shape::Link => or_filled(json!({ "type": "string", "pattern": "^https?://" })),
        Shape::Any => json!({}),
        Shape::Command { most } | Shape::Dates { most } => list(*most),
        Shape::Texts { most } => json!({ "anyOf": [text(), list(*most)] }),
        Shape::Zone => or_filled(json!({ "type": "string", "examples": ["UTC", "Europe/Berlin"] })),
        Shape::Word(words) if words() == job::words::<bool>() => {
            or_filled(json!({ "enum": [true, false, "true", "false"] }))
        }
        Shape::Word(words) => or_filled(json!({ "enum": words() })),
        Shape::Count { least, most } => or_filled(json!({ "type": "integer", "minimum": least, "maximum": most })),
        Shape::Duration { or_none, .. } => {
            let duration = r"^\s*([0-9]+(\.[0-9]+)?\s*(ms|s|m|h|d|w)\s*)+$";
            let pattern = if *or_none { format!("^none$|{duration}") } else { duration.to_owned() };
            or_filled(json!({ "type": "string", "pattern": pattern, "examples": ["30s", "10m", "1h 30m", "7d"] }))
        }
        Shape::Bytes { .. } => {
            let pattern = r"^[0-9]+\s*([KMGT]i?)?B$";
            or_filled(json!({ "type": "string", "pattern": pattern, "examples": ["64KiB", "500MB", "1GiB"] }))
        }
        Shape::Rate => or_filled(json!({ "type": "string", "pattern": r"^[0-9]+\s*/\s*[smh]$", "examples": ["5/s"] })),
        Shape::Form { pattern } => or_filled(json!({ "type": ["string", "integer"], "pattern": pattern })),
        Shape::List { of, most } => {
            json!({ "type": "array", "minItems": 1, "maxItems": most, "items": self::shape(of) })
        }
        Shape::Map(tables) if std::ptr::eq(*tables, JOB) => json!({ "$ref": "#/$defs/job" }),
        Shape::Map(tables) => map(tables),
        Shape::MapOr { key, of } => {
            // A list stands in the map.
            let alone = keys::find(of, key).map(|(_, key)| match key.shape {
                Shape::Texts { .. } => text(),
                ref shape => self::shape(shape),
            });
            json!({ "anyOf": [alone, map(of)] })
        }
        Shape::Named { of, most, .. } => {
            let mut schema = json!({ "type": ["object", "null"], "maxProperties": most });
            schema["additionalProperties"] = self::shape(of);
            if !matches!(of, Shape::Text) {
                schema["propertyNames"] = json!({ "pattern": NAME });
            }
            schema
        }
    }
}

/// A number or `true` is the text that it is written as.
fn text() -> Value {
    json!({ "type": ["string", "number", "boolean"], "maxLength": MAX_TEXT_BYTES })
}

fn list(most: usize) -> Value {
    json!({ "type": "array", "minItems": 1, "maxItems": most, "items": text() })
}

fn or_filled(schema: Value) -> Value {
    json!({ "anyOf": [schema, { "type": "string", "pattern": FILLED }] })
}
