//! Sessions.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::answer::duration;
use super::http::{Asked, Told};
use super::state::{SessionState, State};

pub(super) fn create(asked: &Asked, state: &mut State) -> Told {
    let Ok(wanted) = serde_json::from_slice::<Value>(&asked.body) else {
        return Told::text(400, "Request decode failed");
    };
    let text = |name: &str| wanted[name].as_str().map(str::to_owned);
    let ttl = text("TTL").filter(|t| !t.is_empty());
    let ttl = match &ttl {
        None => None,
        Some(_) => match duration(ttl.as_ref()) {
            Some(t) if (Duration::from_secs(10)..=Duration::from_secs(86_400)).contains(&t) => Some(t),
            _ => return Told::text(500, "Invalid Session TTL, must be between [10s=24h0m0s]"),
        },
    };
    state.next_session += 1;
    let id = format!("00000000-0000-4000-8000-{:012x}", state.next_session);
    let create = state.bump();
    state.session_index = create;
    state.sessions.insert(
        id.clone(),
        SessionState {
            name: text("Name").unwrap_or_default(),
            ttl,
            lock_delay: duration(text("LockDelay").as_ref()).unwrap_or(Duration::from_secs(15)),
            delete: wanted["Behavior"] == "delete",
            renewed: Instant::now(),
            create,
        },
    );
    Told::json(None, &json!({"ID": id}))
}

/// Renews, destroys or shows sessions.
pub(super) fn existing(method: &str, path: &str, state: &mut State) -> Told {
    let mut parts = path.splitn(3, '/').skip(1);
    let (verb, id) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
    let node = state.node.clone();
    let index = Some(state.session_index);
    let show = |id: &str, session: &SessionState| {
        json!({
            "ID": id, "Name": session.name, "Node": node,
            "LockDelay": session.lock_delay.as_nanos() as u64,
            "Behavior": if session.delete { "delete" } else { "release" },
            "TTL": session.ttl.map_or(String::new(), |ttl| format!("{}s", ttl.as_secs())),
            "CreateIndex": session.create,
        })
    };
    match (method, verb) {
        ("PUT", "renew") => match state.sessions.get_mut(id) {
            None => Told::text(404, &format!("Session id '{id}' not found")),
            Some(session) => {
                session.renewed = Instant::now();
                Told::json(None, &json!([show(id, session)]))
            }
        },
        ("PUT", "destroy") => {
            // The lock delay runs after a destroyed session too.
            state.end_session(id);
            Told::json(None, &json!(true))
        }
        ("GET", "info") => {
            let all: Vec<Value> = state.sessions.get(id).map(|s| show(id, s)).into_iter().collect();
            Told::json(index, &Value::from(all))
        }
        ("GET", "list") => {
            let all: Vec<Value> = state.sessions.iter().map(|(id, s)| show(id, s)).collect();
            Told::json(index, &Value::from(all))
        }
        _ => Told::text(404, "404 page not found"),
    }
}
