//! What is watched, and how it is read from Consul in the shape that Consul's own watches deliver.

use std::collections::BTreeMap;

use consul_client::{Answer, Client, Error, Line, Meta, Query, Right};
use serde_json::{Value, json};

use crate::payload::Kind;

/// What a watch is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// One key.
    Key(String),
    /// All keys that start with this.
    Prefix(String),
    /// Names and tags of all services.
    Services,
    /// The instances of every service that carries a tag.
    Tagged {
        /// The tag.
        tag: String,
        /// Only instances whose checks all pass.
        passing: bool,
    },
    /// All nodes.
    Nodes,
    /// The instances of one service.
    Service {
        /// Its name.
        name: String,
        /// Only instances with this tag.
        tag: Option<String>,
        /// Only instances whose checks all pass.
        passing: bool,
    },
    /// Checks: of one service, or all.
    Checks {
        /// The service.
        service: Option<String>,
    },
    /// Events of one name, or all.
    Event {
        /// The name.
        name: Option<String>,
    },
}

impl Subject {
    /// Returns the type of watch.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Subject::Key(_) => Kind::Key,
            Subject::Prefix(_) => Kind::Keyprefix,
            Subject::Services | Subject::Tagged { .. } => Kind::Services,
            Subject::Nodes => Kind::Nodes,
            Subject::Service { .. } => Kind::Service,
            Subject::Checks { .. } => Kind::Checks,
            Subject::Event { .. } => Kind::Event,
        }
    }

    /// Reads the subject with one query. For [`Subject::Tagged`] that is the list of services only: its instances are
    /// read by queries of their own, see [`instances`].
    ///
    /// # Errors
    /// Those of the client; "nothing there" is none.
    pub fn read(&self, client: &Client, query: &Query) -> Result<Answer<Value>, Error> {
        self.read_by(|path, parameters| client.json(path, parameters, query))
    }

    /// As [`Subject::read`], on a connection of the caller's own.
    ///
    /// # Errors
    /// Those of the client.
    pub fn read_on(&self, client: &Client, line: &mut Line, query: &Query) -> Result<Answer<Value>, Error> {
        self.read_by(|path, parameters| client.json_on(line, path, parameters, query))
    }

    fn read_by(
        &self,
        ask: impl FnOnce(&[&str], &[(&'static str, &str)]) -> Result<Answer<Option<Value>>, Error>,
    ) -> Result<Answer<Value>, Error> {
        let get = |path: &[&str], parameters: &[(&'static str, &str)]| {
            ask(path, parameters).map(|answer| answer.map(Option::unwrap_or_default))
        };
        match self {
            Subject::Key(key) => {
                let answer = get(&key_path(key), &[])?;
                Ok(answer.map(|rows| match rows {
                    Value::Array(mut rows) if !rows.is_empty() => rows.swap_remove(0),
                    _ => Value::Null,
                }))
            }
            Subject::Prefix(prefix) => get(&key_path(prefix), &[("recurse", "")]),
            Subject::Services | Subject::Tagged { .. } => get(&["catalog", "services"], &[]),
            Subject::Nodes => get(&["catalog", "nodes"], &[]),
            Subject::Service { name, tag, passing } => {
                let mut parameters = Vec::new();
                if *passing {
                    parameters.push(("passing", ""));
                }
                if let Some(tag) = tag {
                    parameters.push(("tag", tag.as_str()));
                }
                get(&["health", "service", name], &parameters)
            }
            Subject::Checks { service: None } => get(&["health", "state", "any"], &[]),
            Subject::Checks { service: Some(service) } => get(&["health", "checks", service], &[]),
            Subject::Event { name: None } => get(&["event", "list"], &[]),
            Subject::Event { name: Some(name) } => get(&["event", "list"], &[("name", name)]),
        }
    }

    /// Reads the whole subject so that the answer is certainly not old, and checks that the token may see all of it.
    ///
    /// # Errors
    /// Those of the client, among them that a right is missing.
    pub fn confirm(&self, client: &Client) -> Result<Answer<Value>, Error> {
        let query = Query::consistent();
        let answer = match self {
            Subject::Tagged { tag, passing } => {
                let listed = self.read(client, &query)?;
                let mut members = BTreeMap::new();
                for service in tagged(&listed.value, tag) {
                    let found = instances_of(&service, tag, *passing).read(client, &query)?;
                    members.insert(service, instances(&found.value));
                }
                Answer { value: json!(members), meta: listed.meta }
            }
            _ => self.read(client, &query)?,
        };
        let rights = client.rights();
        match self {
            // A refused key is an error already.
            Subject::Key(_) => {}
            Subject::Prefix(prefix) => rights.check(Right::Keys(prefix))?,
            Subject::Services => rights.check(Right::Services)?,
            Subject::Nodes => rights.check(Right::Nodes)?,
            Subject::Tagged { .. } | Subject::Checks { service: None } => {
                rights.check(Right::Services)?;
                rights.check(Right::Nodes)?;
            }
            Subject::Service { name, .. } | Subject::Checks { service: Some(name) } => {
                rights.check(Right::Service(name))?;
                rights.check(Right::Nodes)?;
            }
            Subject::Event { name } => rights.check(Right::Events(name.as_deref().unwrap_or_default()))?,
        }
        Ok(answer)
    }

    /// Whether the index of its answers is that of Consul's store, so that it falls when an older store takes the place.
    #[must_use]
    pub fn has_index_of_store(&self) -> bool {
        !matches!(self, Subject::Event { .. })
    }

    /// Returns the index to ask with next.
    #[must_use]
    pub fn next_index(&self, previous: u64, meta: &Meta) -> u64 {
        if self.has_index_of_store() {
            consul_client::next_index(previous, meta.index)
        } else {
            // Made from the event's id: it only says "same or other".
            meta.index.max(1)
        }
    }
}

/// Returns the query for the instances of a service that [`Subject::Tagged`] follows.
#[must_use]
pub fn instances_of(service: &str, tag: &str, passing: bool) -> Subject {
    Subject::Service { name: service.to_owned(), tag: Some(tag.to_owned()), passing }
}

/// Returns the names of services that carry a tag.
#[must_use]
pub fn tagged(services: &Value, tag: &str) -> Vec<String> {
    let Some(services) = services.as_object() else { return Vec::new() };
    services
        .iter()
        .filter(|(_, tags)| tags.as_array().is_some_and(|tags| tags.iter().any(|candidate| candidate == tag)))
        .map(|(name, _)| name.clone())
        .collect()
}

/// Returns where the instances of a health answer listen: the part of it that a balancer needs.
#[must_use]
pub fn instances(entries: &Value) -> Value {
    let Some(entries) = entries.as_array() else { return json!([]) };
    let text = |entry: &Value, path| entry.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut listed: Vec<(String, String, String, u64)> = entries
        .iter()
        .map(|entry| {
            let own = text(entry, "/Service/Address");
            let address = if own.is_empty() { text(entry, "/Node/Address") } else { own };
            let port = entry.pointer("/Service/Port").and_then(Value::as_u64).unwrap_or_default();
            (text(entry, "/Node/Node"), text(entry, "/Service/ID"), address, port)
        })
        .collect();
    listed.sort();
    let rows = listed
        .into_iter()
        .map(|(node, id, address, port)| json!({"node": node, "id": id, "address": address, "port": port}));
    Value::Array(rows.collect())
}

/// Splits a key into the segments of its path.
fn key_path(key: &str) -> Vec<&str> {
    std::iter::once("kv").chain(key.split('/')).collect()
}

/// Checks a key or prefix: what Consul's HTTP server would turn into another one is refused.
///
/// # Errors
/// What is wrong with it, as a message for the user.
pub fn check_key(key: &str) -> Result<String, String> {
    if key.starts_with('/') {
        return Err("it starts with a slash".to_owned());
    }
    if key.contains("//") {
        return Err("it holds an empty part (//)".to_owned());
    }
    if key.split('/').any(|part| part == "." || part == "..") {
        return Err("it holds a part that is . or ..".to_owned());
    }
    Ok(key.to_owned())
}

/// Returns what a payload tells about the subject of its watch, to be remembered: the key, the service, or the longest
/// prefix that all keys share.
#[must_use]
pub fn subject_hint(kind: Option<Kind>, payload: &Value) -> Option<String> {
    let text = |value: &Value, path| value.pointer(path).and_then(Value::as_str).map(str::to_owned);
    match kind? {
        Kind::Key => text(payload, "/Key"),
        Kind::Service => text(payload.get(0)?, "/Service/Service"),
        Kind::Keyprefix => {
            let keys: Vec<&str> = payload.as_array()?.iter().filter_map(|row| row.get("Key")?.as_str()).collect();
            let first = keys.first()?;
            let shared = keys.iter().fold(first.len(), |length, key| {
                first.bytes().zip(key.bytes()).take(length).take_while(|(a, b)| a == b).count()
            });
            let end = (0..=shared).rev().find(|&end| first.is_char_boundary(end))?;
            Some(first[..end].to_owned())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tagged_services_and_their_instances() {
        let services =
            json!({"consul": [], "web": ["haproxy::balanced", "x"], "db": null, "api": ["haproxy::balanced"]});
        let mut names = tagged(&services, "haproxy::balanced");
        names.sort();
        assert_eq!(names, ["api", "web"]);
        let entries = json!([
            {"Node": {"Node": "b", "Address": "10.0.0.2"}, "Service": {"ID": "w", "Address": "", "Port": 80}, "Checks": []},
            {"Node": {"Node": "a", "Address": "10.0.0.1"}, "Service": {"ID": "w", "Address": "10.9.9.9", "Port": 81}},
        ]);
        assert_eq!(
            instances(&entries),
            json!([{"node": "a", "id": "w", "address": "10.9.9.9", "port": 81},
                   {"node": "b", "id": "w", "address": "10.0.0.2", "port": 80}])
        );
    }

    #[test]
    fn a_payload_tells_its_subject() {
        let hint = |kind, payload| subject_hint(Some(kind), &payload);
        assert_eq!(hint(Kind::Key, json!({"Key": "a/b"})).as_deref(), Some("a/b"));
        assert_eq!(hint(Kind::Keyprefix, json!([{"Key": "a/bc"}, {"Key": "a/bd"}])).as_deref(), Some("a/b"));
        assert_eq!(hint(Kind::Keyprefix, json!([{"Key": "ä"}, {"Key": "å"}])).as_deref(), Some(""));
        assert_eq!(hint(Kind::Service, json!([{"Service": {"Service": "web"}}])).as_deref(), Some("web"));
        assert_eq!(hint(Kind::Service, json!([])), None);
    }

    #[test]
    fn keys_that_would_become_others_are_refused() {
        for key in ["/a", "a//b", "a/../b", "."] {
            assert!(check_key(key).is_err(), "{key}");
        }
        assert!(check_key("hiera/common/").is_ok());
    }
}
