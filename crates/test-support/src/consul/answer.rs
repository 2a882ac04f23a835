//! From a request to an answer: blocking queries, rights, and which endpoint it is for.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::http::{Asked, Told};
use super::state::State;
use super::{Shared, catalog, kv, lock, session, wait};

pub(super) fn answer(asked: &Asked, shared: &Shared) -> Told {
    let deadline = Instant::now() + duration(asked.parameters.get("wait")).unwrap_or_default();
    let known: u64 = asked.parameters.get("index").and_then(|index| index.parse().ok()).unwrap_or(0);
    let mut state = lock(shared);
    let restored = state.restored;
    let mut left_behind = None;
    loop {
        if let Some(told) = left_behind.take_if(|_| state.restored != restored) {
            return told;
        }
        state.expire_due();
        if let Some(token) = &state.token
            && asked.token.as_ref() != Some(token)
        {
            return Told::text(403, "Permission denied");
        }
        if state.acls() && state.token.is_none() && asked.token.is_some() {
            return Told::text(403, "ACL not found");
        }
        let told = route(asked, &mut state);
        if asked.method != "GET" {
            shared.changed.notify_all();
            return told;
        }
        let events = asked.path == "event/list";
        let newer = match told.index {
            Some(index) if events => index != known,
            Some(index) => index > known,
            None => true,
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if known == 0 || newer || left.is_zero() || !shared.up.load(Ordering::SeqCst) {
            return told;
        }
        left_behind = Some(told);
        // Short steps, so that sessions end while everybody waits.
        state = wait(shared, state, left.min(Duration::from_millis(100)));
    }
}

/// Reads Go's notation of a time as far as clients of tests use it.
pub(super) fn duration(text: Option<&String>) -> Option<Duration> {
    let text = text?;
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    match &text[digits..] {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_secs(number * 60)),
        "h" => Some(Duration::from_secs(number * 3600)),
        _ => None,
    }
}

fn route(asked: &Asked, state: &mut State) -> Told {
    let (method, path) = (asked.method.as_str(), asked.path.as_str());
    if let Some(key) = path.strip_prefix("kv/") {
        return match method {
            "GET" => kv::read(asked, key, state),
            "PUT" => kv::write(asked, key, state),
            "DELETE" => kv::delete(asked, key, state),
            _ => Told::text(405, "method not allowed"),
        };
    }
    match (method, path) {
        ("GET", "status/leader") => Told::json(None, &json!("127.0.0.1:8300")),
        ("GET", "agent/self") => Told::json(
            None,
            &json!({
                "Config": {"Datacenter": "dc1", "NodeName": state.node, "Server": true, "Version": "1.8.7"},
                "Member": {"Name": state.node, "Addr": state.node_address},
            }),
        ),
        ("GET", "catalog/services") => catalog::services(state),
        ("GET", "catalog/nodes") => catalog::nodes(state),
        ("GET", "event/list") => events(asked, state),
        ("PUT", "txn") => kv::txn(asked, state),
        ("PUT", "session/create") => session::create(asked, state),
        ("POST", "internal/acl/authorize") => authorize(asked, state),
        ("GET", _) if path.starts_with("catalog/service/") => {
            catalog::service(&path["catalog/service/".len()..], state)
        }
        ("GET", _) if path.starts_with("health/service/") => {
            catalog::health_service(asked, &path["health/service/".len()..], state)
        }
        ("GET", _) if path.starts_with("health/state/") => catalog::health_state(&path["health/state/".len()..], state),
        ("PUT", _) if path.starts_with("event/fire/") => {
            let id = state.fire(&path["event/fire/".len()..], &asked.body);
            Told::json(None, &json!({"ID": id}))
        }
        (_, _) if path.starts_with("session/") => session::existing(method, path, state),
        _ => Told::text(404, "404 page not found"),
    }
}

fn authorize(asked: &Asked, state: &State) -> Told {
    let Ok(Value::Array(asks)) = serde_json::from_slice::<Value>(&asked.body) else {
        return Told::text(400, "Request decode failed");
    };
    if !state.acls() {
        return Told::text(401, "ACL support disabled");
    }
    let told: Vec<Value> = asks
        .into_iter()
        .map(|mut ask| {
            let allow = if ask["Resource"] == "key" {
                !state.key_denied(ask["Segment"].as_str().unwrap_or(""))
            } else {
                !state.catalog_denied
            };
            ask["Allow"] = json!(allow);
            ask
        })
        .collect();
    Told::json(None, &Value::from(told))
}

fn events(asked: &Asked, state: &State) -> Told {
    let name = asked.parameters.get("name");
    let found: Vec<Value> =
        state.events.iter().filter(|event| name.is_none_or(|name| event["Name"] == name.as_str())).cloned().collect();
    // The index is made from the id, and is therefore not in order.
    let index = found.last().map_or(1, |event| {
        u64::from_str_radix(&event["ID"].as_str().expect("it has an id")[..8], 16).expect("it is hexadecimal") + 2
    });
    Told { index: Some(index), ..Told::json(None, &Value::from(found)) }
}
