//! Answers as JSON. Those with many values are written as they are read.

use consul_client::ServiceEntry;
use serde_json::{Map, Value as Json, json};
use toolkit::exit::{self, Failure};

use crate::consul::{Level, Levels, Values};
use crate::consul3::Stored;
use crate::error::Error;
use crate::value::{Value, push_json_string};

/// The fields of an answer.
pub(super) enum Fields {
    Made(Map<String, Json>),
    /// A line of JSON, as far as its last field; for answers with many values.
    Written(String),
}

pub(super) fn refusal(id: &Json, error: &Error) -> Json {
    let mut body = json!({"code": error.exit_code(), "message": exit::chain(error)});
    if let Some(hint) = error.hint() {
        body["hint"] = Json::String(hint);
    }
    json!({"id": id, "error": body})
}

pub(super) fn to_json(value: &Value) -> Result<Json, Error> {
    value.to_json().and_then(|text| serde_json::from_str(&text).ok()).ok_or_else(no_json)
}

fn no_json() -> Error {
    Error::data("the value holds a number that JSON cannot express")
}

/// Begins a member of a JSON object that has others before it, unless it is the first.
fn member(out: &mut String, name: &str) {
    if !out.ends_with('{') {
        out.push(',');
    }
    push_json_string(out, name);
    out.push(':');
}

/// What is stored at the paths of version 3: text, as the original reads it.
pub(super) fn stored(paths: Option<&[Stored]>) -> String {
    let Some(paths) = paths else { return "{\"paths\":null".to_owned() };
    let mut out = String::from("{\"paths\":[");
    for (at, stored) in paths.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        match stored {
            Stored::Nothing => out.push_str("{}"),
            Stored::Asked(true) => out.push_str("{\"computed\":true}"),
            Stored::Asked(false) => out.push_str("{\"ask\":true}"),
            Stored::Values(snapshot) => {
                let mut ask = Vec::new();
                out.push_str("{\"values\":{");
                for (key, bytes) in snapshot.iter() {
                    match std::str::from_utf8(bytes) {
                        Ok(text) => {
                            member(&mut out, key);
                            push_json_string(&mut out, text);
                        }
                        Err(_) => ask.push(key),
                    }
                }
                out.push_str(&format!("}},\"ask\":{}}}", json!(ask)));
            }
        }
    }
    out.push(']');
    out
}

/// Reads a level, with all that is announced, and types its values.
pub(super) fn snapshot(levels: &Levels, level: &Level) -> Result<String, Error> {
    let snapshot = levels.snapshot(level)?;
    let mut errors = Map::new();
    let mut out = String::from("{\"values\":{");
    Values::default().each(level, &snapshot, |key, name, value| {
        let before = out.len();
        let written = value.and_then(|value| {
            if value.is_encrypted() {
                return Err(Error::Encrypted(format!("Consul key {}", name())));
            }
            member(&mut out, key);
            value.write_json(&mut out).ok_or_else(no_json)
        });
        if let Err(error) = written {
            out.truncate(before);
            errors.insert(key.to_owned(), Json::String(exit::chain(&error)));
        }
    })?;
    let origin = snapshot.origin();
    out.push_str(&format!("}},\"errors\":{},\"index\":{}", Json::Object(errors), origin.index));
    if let Some(age) = origin.kept {
        out.push_str(&format!(",\"age\":{}", age.as_secs()));
    }
    let warnings = levels.take_notices();
    if !warnings.is_empty() {
        out.push_str(&format!(",\"warnings\":{}", json!(warnings)));
    }
    Ok(out)
}

pub(super) fn found_answer(value: Option<Json>) -> Json {
    match value {
        Some(value) => json!({"found": true, "value": value}),
        None => json!({"found": false}),
    }
}

pub(super) fn instance(entry: &ServiceEntry) -> Json {
    json!({
        "id": entry.service.id,
        "node": entry.node.node,
        "address": entry.effective_address(),
        "port": entry.service.port,
        "tags": entry.service.tags,
        "meta": entry.service.meta,
    })
}
