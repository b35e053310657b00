//! The description of the API as OpenAPI 3.1, made from the table of routes and the types of the answers.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::access::Need;
use super::acts::KEY_MOST;
use super::problem::{self, Kind};
use super::routes::{Place, Row, SchemaOf, routes};
use super::{Api, json as json_answer};
use crate::store::Store;

/// The problems that every route may have which takes a role.
const OF_EVERY_ROUTE: &[Kind] =
    &[Kind::UnknownParameter, Kind::Unauthenticated, Kind::RoleTooLow, Kind::NotAcceptable, Kind::WrongHost];

/// Answers with the description.
pub(super) async fn answer<S: Store>(State(_): State<Api<S>>) -> Response {
    json_answer(StatusCode::OK, &description::<S>())
}

/// The description of all routes but the pages.
pub(super) fn description<S: Store>() -> Value {
    let mut settings = SchemaSettings::draft2020_12().for_serialize();
    settings.definitions_path = "/components/schemas".into();
    settings.meta_schema = None;
    let mut schemas = settings.into_generator();
    let problem = schemas.subschema_for::<problem::Body<'static>>().to_value();
    let mut paths = Map::new();
    for route in routes::<S>().iter().filter(|route| !route.row.is_page()) {
        let row = &route.row;
        let operation = operation(row, &mut schemas, &problem);
        let path = paths.entry(row.path).or_insert_with(|| json!({}));
        path[row.method.as_str().to_ascii_lowercase()] = operation;
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "fencron",
            "version": "1",
            "description": "What a node of fencron knows of its cluster, and what people do to it. Any node answers. The \
                            version only grows by additions: clients pass over members that they do not know.",
            "license": {"name": "MIT OR Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas.take_definitions(true),
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "A token of the file that --auth names."},
            },
        },
    })
}

fn operation(row: &Row, schemas: &mut SchemaGenerator, problem: &Value) -> Value {
    let params = row.params.iter().map(|param| {
        let mut schema = (param.schema)(schemas).to_value();
        if let Some((least, most)) = param.bounds {
            schema = json!({"type": "integer", "minimum": least, "maximum": most});
        }
        json!({
            "name": param.name,
            "in": param.place.as_str(),
            "required": param.place == Place::Path,
            "description": param.about,
            "schema": schema,
        })
    });
    let params: Vec<Value> = params.collect();
    let mut operation = json!({
        "operationId": row.id,
        "summary": row.summary,
        "parameters": params,
        "responses": {},
    });
    if let Some(body) = row.body {
        act(&mut operation, body);
    }
    for answer in &row.answers {
        let response = &mut operation["responses"][answer.status.to_string()];
        response["description"] = json!(answer.about);
        response["content"][answer.media] = json!({"schema": (answer.schema)(schemas)});
    }
    if row.tagged {
        operation["responses"]["304"] =
            json!({"description": "The client has the answer already, as If-None-Match says."});
    }
    let common = if row.need == Need::Health { &[] } else { OF_EVERY_ROUTE };
    for kind in common.iter().chain(&row.problems) {
        let response = &mut operation["responses"][kind.status().as_str()];
        let about = match response["description"].as_str() {
            Some(before) => format!("{before} `{}`: {}.", kind.name(), kind.title()),
            None => format!("`{}`: {}.", kind.name(), kind.title()),
        };
        response["description"] = json!(about);
        response["content"][problem::MEDIA_TYPE] = json!({"schema": problem});
    }
    match row.need {
        Need::Health | Need::Nothing => operation["security"] = json!([]),
        Need::Role(role) => {
            let without_token = if row.body.is_none() { json!([{"token": []}, {}]) } else { json!([{"token": []}]) };
            operation["security"] = without_token;
            operation["x-role"] = json!(role);
        }
    }
    operation
}

/// What a request carries that acts.
fn act(operation: &mut Value, body: SchemaOf) {
    let mut settings = SchemaSettings::draft2020_12();
    settings.inline_subschemas = true;
    settings.meta_schema = None;
    let schema = body(&mut settings.into_generator()).to_value();
    let is_required = schema["required"].as_array().is_some_and(|required| !required.is_empty());
    operation["requestBody"] = json!({"required": is_required, "content": {"application/json": {"schema": schema}}});
    let key = json!({
        "name": "Idempotency-Key",
        "in": "header",
        "required": false,
        "description": "Two requests of one caller with the same key are one act, for 24 hours.",
        "schema": {"type": "string", "minLength": 1, "maxLength": KEY_MOST, "pattern": "^[!-~]+$"},
    });
    if let Some(params) = operation["parameters"].as_array_mut() {
        params.push(key);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::store::memory::MemoryStore;

    /// `UPDATE=1` writes it anew.
    #[test]
    fn the_description_in_the_documents_is_the_one_that_is_served() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.json");
        let made = serde_json::to_string_pretty(&description::<MemoryStore>()).unwrap() + "\n";
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, &made).unwrap();
        }
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(kept == made, "docs/openapi.json is not what is served: UPDATE=1 cargo test --lib openapi");
    }
}
