//! Keys and values, one by one and in transactions.

use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::http::{Asked, Told};
use super::state::{Entry, State};

/// Largest value that is stored.
const VALUE_LIMIT: usize = 512 * 1024;

fn pair(key: &str, entry: &Entry) -> Value {
    let value = if entry.value.is_empty() { Value::Null } else { Value::from(STANDARD.encode(&entry.value)) };
    let mut pair = json!({
        "LockIndex": entry.lock, "Key": key, "Flags": entry.flags, "Value": value,
        "CreateIndex": entry.create, "ModifyIndex": entry.modify,
    });
    if let Some(session) = &entry.session {
        pair["Session"] = json!(session);
    }
    pair
}

pub(super) fn read(asked: &Asked, key: &str, state: &State) -> Told {
    let recurse = asked.parameters.contains_key("recurse");
    let keys = asked.parameters.contains_key("keys");
    if !recurse && !keys {
        if state.key_denied(key) {
            return Told::text(403, "Permission denied");
        }
        return match state.kv.get(key) {
            Some(entry) if asked.parameters.contains_key("raw") => {
                Told { body: entry.value.clone(), ..Told::json(Some(entry.modify), &Value::Null) }
            }
            Some(entry) => Told::json(Some(entry.modify), &json!([pair(key, entry)])),
            None => Told { status: 404, body: Vec::new(), ..Told::json(Some(state.kv_index), &Value::Null) },
        };
    }
    let mut index = 0;
    let mut found = Vec::new();
    let mut filtered = false;
    for (name, entry) in state.kv.iter().filter(|(name, _)| name.starts_with(key)) {
        index = index.max(entry.modify);
        if state.key_denied(name) {
            filtered = state.filter_header;
        } else if keys {
            found.push(json!(name));
        } else {
            found.push(pair(name, entry));
        }
    }
    for (_, removed) in state.tombstones.iter().filter(|(name, _)| name.starts_with(key)) {
        index = index.max(*removed);
    }
    let index = Some(if index == 0 { state.kv_index } else { index });
    let mut told = if found.is_empty() {
        Told { status: 404, body: Vec::new(), ..Told::json(index, &Value::Null) }
    } else {
        Told::json(index, &Value::from(found))
    };
    told.filtered = filtered;
    told
}

pub(super) fn write(asked: &Asked, key: &str, state: &mut State) -> Told {
    if key.is_empty() {
        return Told::text(400, "Missing key name");
    }
    if state.key_denied(key) {
        return Told::text(403, "Permission denied");
    }
    if asked.body.len() > VALUE_LIMIT {
        return Told::text(413, "Request body too large");
    }
    let flags = asked.parameters.get("flags").and_then(|f| f.parse().ok()).unwrap_or(0);
    if let Some(index) = asked.parameters.get("cas") {
        let index: u64 = index.parse().unwrap_or(0);
        if state.kv.get(key).map_or(0, |entry| entry.modify) != index {
            return Told::json(None, &json!(false));
        }
    }
    if let Some(session) = asked.parameters.get("acquire") {
        if !state.sessions.contains_key(session) {
            return Told::text(500, &format!("invalid session {session:?}"));
        }
        let holder = state.kv.get(key).and_then(|entry| entry.session.clone());
        let delayed = state.lock_delays.get(key).is_some_and(|until| Instant::now() < *until);
        if holder.as_ref().is_some_and(|h| h != session) || delayed {
            return Told::json(None, &json!(false));
        }
        state.put(key, &asked.body, flags);
        let index = state.bump();
        state.kv_index = index;
        let entry = state.kv.get_mut(key).expect("it was just put");
        if holder.is_none() {
            entry.lock += 1;
            entry.session = Some(session.clone());
        }
        entry.modify = index;
        return Told::json(None, &json!(true));
    }
    if let Some(session) = asked.parameters.get("release") {
        let held = state.kv.get(key).and_then(|entry| entry.session.as_ref()) == Some(session);
        if !held {
            return Told::json(None, &json!(false));
        }
        state.put(key, &asked.body, flags);
        let index = state.bump();
        state.kv_index = index;
        let entry = state.kv.get_mut(key).expect("it is held");
        entry.session = None;
        entry.modify = index;
        return Told::json(None, &json!(true));
    }
    state.put(key, &asked.body, flags);
    Told::json(None, &json!(true))
}

pub(super) fn delete(asked: &Asked, key: &str, state: &mut State) -> Told {
    if state.key_denied(key) {
        return Told::text(403, "Permission denied");
    }
    if asked.parameters.contains_key("recurse") {
        let all: Vec<String> = state.kv.keys().filter(|name| name.starts_with(key)).cloned().collect();
        for name in all {
            state.delete(&name);
        }
        return Told::json(None, &json!(true));
    }
    if let Some(index) = asked.parameters.get("cas") {
        let index: u64 = index.parse().unwrap_or(0);
        // As Consul does: an absent key counts as deleted, index 0 never matches an existing one.
        if state.kv.get(key).is_some_and(|entry| entry.modify != index) {
            return Told::json(None, &json!(false));
        }
    }
    state.delete(key);
    Told::json(None, &json!(true))
}

/// Writes that depend on indexes: all of them, or none.
fn writes(steps: &[Value], state: &mut State) -> Told {
    for (n, step) in steps.iter().map(|step| &step["KV"]).enumerate() {
        let key = step["Key"].as_str().unwrap_or("");
        let what = if state.key_denied(key) {
            "Permission denied".to_owned()
        } else if state.kv.get(key).map_or(0, |entry| entry.modify) != step["Index"].as_u64().unwrap_or(0) {
            format!("failed to set key {key:?}, index is stale")
        } else {
            continue;
        };
        let refused = json!({"Results": null, "Errors": [{"OpIndex": n, "What": what}]});
        return Told { status: 409, ..Told::json(None, &refused) };
    }
    let mut results = Vec::new();
    for step in steps.iter().map(|step| &step["KV"]) {
        let key = step["Key"].as_str().unwrap_or("");
        if step["Verb"] == "delete-cas" {
            state.delete(key);
            continue;
        }
        let value = STANDARD.decode(step["Value"].as_str().unwrap_or("")).unwrap_or_default();
        state.put(key, &value, 0);
        let mut shown = pair(key, &state.kv[key]);
        shown["Value"] = Value::Null;
        results.push(json!({"KV": shown}));
    }
    Told::json(None, &json!({"Results": results, "Errors": null}))
}

/// The transactions that clients use: read trees, write what depends on indexes, or make a key and lock it.
pub(super) fn txn(asked: &Asked, state: &mut State) -> Told {
    let Ok(Value::Array(steps)) = serde_json::from_slice::<Value>(&asked.body) else {
        return Told::text(400, "Failed to parse body");
    };
    if steps.len() > 64 {
        return Told::text(413, &format!("Transaction contains too many operations ({} > 64)", steps.len()));
    }
    if !steps.is_empty() && steps.iter().all(|step| step["KV"]["Verb"] == "get-tree") {
        return trees(&steps, state);
    }
    let conditional = |step: &Value| matches!(step["KV"]["Verb"].as_str(), Some("cas" | "delete-cas"));
    if !steps.is_empty() && steps.iter().all(conditional) {
        return if asked.body.len() > VALUE_LIMIT {
            Told::text(
                413,
                &format!("Request body({} bytes) too large, max size: {VALUE_LIMIT} bytes.", asked.body.len()),
            )
        } else {
            writes(&steps, state)
        };
    }
    let [check, lock] = steps.as_slice() else { return Told::text(400, "unknown transaction") };
    let (check, lock) = (&check["KV"], &lock["KV"]);
    if check["Verb"] != "check-not-exists" || lock["Verb"] != "lock" || check["Key"] != lock["Key"] {
        return Told::text(400, "unknown transaction");
    }
    let refuse = |n: u8, what: &str| Told {
        status: 409,
        ..Told::json(None, &json!({"Results": null, "Errors": [{"OpIndex": n, "What": what}]}))
    };
    let key = lock["Key"].as_str().unwrap_or("");
    let session = lock["Session"].as_str().unwrap_or("");
    if state.key_denied(key) {
        return refuse(0, "Permission denied");
    }
    if state.kv.contains_key(key) {
        return refuse(0, &format!("key {key:?} exists"));
    }
    if !state.sessions.contains_key(session) {
        return refuse(1, &format!("invalid session {session:?}"));
    }
    if state.lock_delays.get(key).is_some_and(|until| Instant::now() < *until) {
        return refuse(1, &format!("failed to lock key {key:?} due to lock delay"));
    }
    let value = STANDARD.decode(lock["Value"].as_str().unwrap_or("")).unwrap_or_default();
    state.put(key, &value, 0);
    let entry = state.kv.get_mut(key).expect("it was just put");
    entry.lock = 1;
    entry.session = Some(session.to_owned());
    let mut shown = pair(key, entry);
    shown["Value"] = Value::Null;
    Told::json(None, &json!({"Results": [{"KV": shown}], "Errors": null}))
}

/// What a transaction may not see is left out, as from lists.
fn trees(steps: &[Value], state: &State) -> Told {
    let mut results = Vec::new();
    let mut filtered = false;
    for step in steps {
        let prefix = step["KV"]["Key"].as_str().unwrap_or("");
        for (name, entry) in state.kv.iter().filter(|(name, _)| name.starts_with(prefix)) {
            if state.key_denied(name) {
                filtered = state.filter_header;
            } else {
                results.push(json!({"KV": pair(name, entry)}));
            }
        }
    }
    let results = if results.is_empty() { Value::Null } else { Value::from(results) };
    let mut told = Told::json(None, &json!({"Results": results, "Errors": null, "Index": 0}));
    (told.meta, told.filtered) = (true, filtered);
    told
}
