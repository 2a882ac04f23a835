//! What a watch delivers: read within bounds, compared by what counts.
//!
//! Two payloads are the same when their canonical texts are. The canonical text leaves out what changes without
//! anything having changed: the order of lists and fields, the indexes that Consul stamps on every row, and
//! the output of checks. Names that users chose (metadata, a service called `Output`) are never left out.
//! `null`, `[]` and `{}` are one and the same: nothing there.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use toolkit::files;

/// How many bytes a payload may have.
pub const LIMIT: usize = 16 << 20;
/// How many values a payload may hold; bounds the memory that reading it takes.
pub const VALUE_LIMIT: usize = 2_000_000;

/// What is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
pub enum Kind {
    /// One key.
    Key,
    /// All keys that start with a prefix.
    Keyprefix,
    /// Names and tags of all services.
    Services,
    /// All nodes.
    Nodes,
    /// The instances of a service.
    Service,
    /// Checks.
    Checks,
    /// User events.
    Event,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 7] =
        [Kind::Key, Kind::Keyprefix, Kind::Services, Kind::Nodes, Kind::Service, Kind::Checks, Kind::Event];

    /// Returns Consul's word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Key => "key",
            Kind::Keyprefix => "keyprefix",
            Kind::Services => "services",
            Kind::Nodes => "nodes",
            Kind::Service => "service",
            Kind::Checks => "checks",
            Kind::Event => "event",
        }
    }

    /// Returns what a payload is of, by its shape; nothing for one that holds nothing.
    #[must_use]
    pub fn guess(payload: &Value) -> Option<Kind> {
        match payload {
            Value::Object(fields) if fields.is_empty() => None,
            Value::Object(fields) if fields.contains_key("ModifyIndex") && fields.contains_key("Key") => {
                Some(Kind::Key)
            }
            Value::Object(fields) if fields.values().all(|value| value.is_array() || value.is_null()) => {
                Some(Kind::Services)
            }
            Value::Array(rows) => {
                let row = rows.first()?.as_object()?;
                let has = |name| row.contains_key(name);
                if has("Service") && has("Node") {
                    Some(Kind::Service)
                } else if has("CheckID") {
                    Some(Kind::Checks)
                } else if has("LTime") {
                    Some(Kind::Event)
                } else if has("Node") && has("Address") {
                    Some(Kind::Nodes)
                } else if has("Key") {
                    Some(Kind::Keyprefix)
                } else {
                    None
                }
            }
            _ => None,
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A payload that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    /// stdin cannot be read.
    #[error("cannot read the payload on stdin")]
    Read(#[source] std::io::Error),
    /// There is too much of it.
    #[error("the payload is larger than {} MiB, which is the limit", LIMIT >> 20)]
    TooLong,
    /// There are too many values in it.
    #[error("the payload holds more than {VALUE_LIMIT} values, which is the limit")]
    TooMany,
    /// It is no JSON.
    #[error("the payload is not valid JSON")]
    Json(#[source] serde_json::Error),
    /// It is JSON and nothing that any watch delivers.
    #[error("the payload is a single value; a watch delivers an object, a list or null")]
    Scalar,
    /// It is JSON and nothing that a watch of this type delivers.
    #[error("the payload is not what a watch of type {kind} delivers: {reason}")]
    Shape {
        /// The type.
        kind: Kind,
        /// What is wrong.
        reason: &'static str,
    },
}

/// Reads a payload to its end, but never more than the limit; returns it as it came and as a value.
///
/// # Errors
/// Those of [`PayloadError`].
pub fn read(input: impl Read) -> Result<(Vec<u8>, Value), PayloadError> {
    let bytes = files::read_to_limit(input, LIMIT as u64).map_err(|error| match error.kind() {
        ErrorKind::FileTooLarge => PayloadError::TooLong,
        _ => PayloadError::Read(error),
    })?;
    let value = parse(&bytes)?;
    Ok((bytes, value))
}

/// Reads bytes as a payload.
///
/// # Errors
/// Those of [`PayloadError`].
pub fn parse(bytes: &[u8]) -> Result<Value, PayloadError> {
    if bytes.len() > LIMIT {
        return Err(PayloadError::TooLong);
    }
    if count_values(bytes) > VALUE_LIMIT {
        return Err(PayloadError::TooMany);
    }
    match serde_json::from_slice(bytes).map_err(PayloadError::Json)? {
        value @ (Value::Null | Value::Array(_) | Value::Object(_)) => Ok(value),
        _ => Err(PayloadError::Scalar),
    }
}

/// Returns a number of values that the text cannot exceed, without building any.
fn count_values(bytes: &[u8]) -> usize {
    let mut count = 1;
    let mut quoted = false;
    let mut escaped = false;
    for byte in bytes {
        if quoted {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => quoted = false,
                _ => {}
            }
        } else {
            match byte {
                b'"' => quoted = true,
                b',' | b'[' | b'{' => count += 1,
                _ => {}
            }
        }
    }
    count
}

/// Whether the payload says "nothing there".
#[must_use]
pub fn is_nothing(payload: &Value) -> bool {
    match payload {
        Value::Null => true,
        Value::Array(rows) => rows.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

/// Checks that the payload has the outer shape of its kind, as far as the rest of the program relies on it.
///
/// # Errors
/// [`PayloadError::Shape`].
pub fn check(kind: Kind, payload: &Value) -> Result<(), PayloadError> {
    if is_nothing(payload) {
        return Ok(());
    }
    let wrong = |reason| Err(PayloadError::Shape { kind, reason });
    match (kind, payload) {
        (Kind::Key | Kind::Services, Value::Object(_)) => Ok(()),
        (Kind::Key | Kind::Services, _) => wrong("an object is expected"),
        (_, Value::Array(rows)) if kind == Kind::Event => {
            if rows.iter().all(|row| event_id(row).is_some()) {
                Ok(())
            } else {
                wrong("an event has no ID")
            }
        }
        (_, Value::Array(rows)) if rows.iter().all(Value::is_object) => Ok(()),
        (_, Value::Array(_)) => wrong("a list of objects is expected"),
        _ => wrong("a list is expected"),
    }
}

/// Returns the digest of what counts in a payload. With `fields`, only the top-level fields of these names count:
/// of the object, or of each row of a list.
#[must_use]
pub fn digest(kind: Option<Kind>, payload: &Value, fields: &[String]) -> String {
    let text = canonical(kind, payload, fields);
    toolkit::hex::encode(&Sha256::digest(text.as_bytes()))
}

/// Returns the canonical text of what counts.
#[must_use]
pub fn canonical(kind: Option<Kind>, payload: &Value, fields: &[String]) -> String {
    if is_nothing(payload) {
        return "null".to_owned();
    }
    match payload {
        Value::Array(rows) => sorted(rows.iter().map(|row| row_text(row, fields))),
        // Names of services are users' own: nothing is left out by name.
        Value::Object(services) if kind == Some(Kind::Services) => {
            let chosen: Map<String, Value> = services
                .iter()
                .filter(|(name, _)| fields.is_empty() || fields.contains(name))
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect();
            free_text(&Value::Object(chosen))
        }
        other => row_text(other, fields),
    }
}

fn row_text(row: &Value, fields: &[String]) -> String {
    match row {
        Value::Object(all) if !fields.is_empty() => {
            // What is asked for by name counts, even if it would be left out otherwise.
            object_text(all.iter().filter(|(name, _)| fields.contains(name)), |_, value| Some(consul_text(value)))
        }
        other => consul_text(other),
    }
}

/// Consul's own structures: fields that only say when or how often are left out.
fn consul_text(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let check = fields.contains_key("CheckID");
            object_text(fields.iter(), |name, value| match name {
                "CreateIndex" | "ModifyIndex" | "LockIndex" => None,
                "Output" if check => None,
                "Meta"
                | "NodeMeta"
                | "ServiceMeta"
                | "TaggedAddresses"
                | "ServiceTaggedAddresses"
                | "Config"
                | "Header" => Some(free_text(value)),
                _ => Some(consul_text(value)),
            })
        }
        Value::Array(items) => sorted(items.iter().map(consul_text)),
        scalar => scalar.to_string(),
    }
}

/// Structures whose names users chose.
fn free_text(value: &Value) -> String {
    match value {
        Value::Object(fields) => object_text(fields.iter(), |_, value| Some(free_text(value))),
        Value::Array(items) => sorted(items.iter().map(free_text)),
        scalar => scalar.to_string(),
    }
}

fn object_text<'v>(
    fields: impl Iterator<Item = (&'v String, &'v Value)>,
    text: impl Fn(&str, &Value) -> Option<String>,
) -> String {
    let ordered: BTreeMap<&str, String> =
        fields.filter_map(|(name, value)| Some((name.as_str(), text(name, value)?))).collect();
    let mut line = String::from("{");
    for (position, (name, value)) in ordered.iter().enumerate() {
        if position > 0 {
            line.push(',');
        }
        line.push_str(&Value::from(*name).to_string());
        line.push(':');
        line.push_str(value);
    }
    line.push('}');
    line
}

fn sorted(items: impl Iterator<Item = String>) -> String {
    let mut all: Vec<String> = items.collect();
    all.sort_unstable();
    format!("[{}]", all.join(","))
}

/// The things that a payload says are there: for each its identity and its content, both as short hashes.
///
/// An identity that was there and is there no more is what makes an answer "shrunk". The content is kept where a
/// watch may filter (by tag or health): there a thing may leave the answer because it changed.
pub type Items = BTreeMap<u64, u64>;

/// Returns the things that a payload says are there; none for events, which are not "there".
#[must_use]
pub fn items(kind: Option<Kind>, payload: &Value) -> Items {
    let text = |value: &Value, path: &str| value.pointer(path).and_then(Value::as_str).unwrap_or("").to_owned();
    match (kind, payload) {
        (Some(Kind::Event), _) => Items::new(),
        (Some(Kind::Key), Value::Object(_)) => Items::from([(short(&text(payload, "/Key")), 0)]),
        (Some(Kind::Services), Value::Object(services)) => services
            .iter()
            .flat_map(|(name, members)| {
                let members = members.as_array().map(Vec::as_slice).unwrap_or_default();
                let below = members.iter().map(move |member| match member {
                    Value::String(tag) => format!("{name}\t{tag}"),
                    instance => format!("{name}\t{}/{}", text(instance, "/node"), text(instance, "/id")),
                });
                std::iter::once(name.clone()).chain(below)
            })
            .map(|identity| (short(&identity), 0))
            .collect(),
        (_, Value::Array(rows)) => rows
            .iter()
            .map(|row| {
                let (identity, filtered) = match kind {
                    Some(Kind::Keyprefix) => (text(row, "/Key"), false),
                    Some(Kind::Nodes) => (text(row, "/Node"), false),
                    Some(Kind::Service) => (format!("{}/{}", text(row, "/Node/Node"), text(row, "/Service/ID")), true),
                    Some(Kind::Checks) => (format!("{}/{}", text(row, "/Node"), text(row, "/CheckID")), true),
                    _ => (consul_text(row), false),
                };
                (short(&identity), if filtered { short(&consul_text(row)) } else { 0 })
            })
            .collect(),
        _ => Items::new(),
    }
}

/// Returns the id of an event.
#[must_use]
pub fn event_id(event: &Value) -> Option<&str> {
    event.get("ID")?.as_str().filter(|id| !id.is_empty())
}

fn short(text: &str) -> u64 {
    let digest = Sha256::digest(text.as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    u64::from_be_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn same(kind: Kind, a: &Value, b: &Value) -> bool {
        digest(Some(kind), a, &[]) == digest(Some(kind), b, &[])
    }

    #[test]
    fn order_indexes_and_output_do_not_count() {
        let entry = |output: &str, index: u64, tags: [&str; 2]| {
            json!({"Node": {"Node": "n", "ModifyIndex": index}, "Service": {"ID": "w", "Tags": tags, "Port": 80},
                   "Checks": [{"CheckID": "c", "Status": "passing", "Output": output, "ModifyIndex": index}]})
        };
        let other = json!({"Node": {"Node": "m"}, "Service": {"ID": "w2"}, "Checks": []});
        let a = json!([entry("ok", 1, ["x", "y"]), other]);
        let b = json!([other, entry("fine", 2, ["y", "x"])]);
        assert!(same(Kind::Service, &a, &b));
        let c = json!([other, entry("fine", 2, ["y", "z"])]);
        assert!(!same(Kind::Service, &a, &c));
    }

    #[test]
    fn names_of_users_count() {
        let meta = |value: &str| json!([{"Node": {"Node": "n", "Meta": {"Output": value, "ModifyIndex": value}}}]);
        assert!(!same(Kind::Service, &meta("1"), &meta("2")));
        let services = |tag: &str| json!({"ModifyIndex": [tag]});
        assert!(!same(Kind::Services, &services("a"), &services("b")));
    }

    #[test]
    fn nothing_is_nothing_of_any_kind() {
        let nothing = [json!(null), json!([]), json!({})].map(|value| digest(None, &value, &[]));
        assert!(nothing.iter().all(|digest| *digest == nothing[0]));
        assert_ne!(nothing[0], digest(None, &json!([{}]), &[]));
    }

    #[test]
    fn only_named_fields_count() {
        let fields = ["Status".to_owned()];
        let check = |status: &str, notes: &str| json!([{"CheckID": "c", "Status": status, "Notes": notes}]);
        let of = |value: &Value| digest(Some(Kind::Checks), value, &fields);
        assert_eq!(of(&check("passing", "a")), of(&check("passing", "b")));
        assert_ne!(of(&check("passing", "a")), of(&check("critical", "a")));
        let fields = ["Output".to_owned()];
        let of = |output: &str| digest(Some(Kind::Checks), &json!([{"CheckID": "c", "Output": output}]), &fields);
        assert_ne!(of("1"), of("2"), "asked for by name");
    }

    #[test]
    fn hostile_payloads_are_refused() {
        assert!(matches!(parse(b""), Err(PayloadError::Json(_))));
        assert!(matches!(parse(b"[1] x"), Err(PayloadError::Json(_))));
        assert!(matches!(parse(b"5"), Err(PayloadError::Scalar)));
        assert!(matches!(parse("[".repeat(100_000).as_bytes()), Err(PayloadError::Json(_))));
        assert!(matches!(parse(format!("[{}0]", "0,".repeat(VALUE_LIMIT)).as_bytes()), Err(PayloadError::TooMany)));
        assert!(matches!(read(std::io::repeat(b' ')), Err(PayloadError::TooLong)));
        let commas = json!([{"Key": "k", "Value": ",".repeat(9 << 20)}]).to_string();
        assert!(parse(commas.as_bytes()).is_ok(), "8 MiB and more are fine");
    }

    #[test]
    fn kinds_are_told_by_their_shape() {
        for (payload, kind) in [
            (json!({"Key": "k", "ModifyIndex": 1, "Value": "eA=="}), Some(Kind::Key)),
            (json!([{"Key": "k", "ModifyIndex": 1}]), Some(Kind::Keyprefix)),
            (json!({"consul": [], "web": ["t"]}), Some(Kind::Services)),
            (json!([{"ID": "x", "Node": "n", "Address": "1.2.3.4"}]), Some(Kind::Nodes)),
            (json!([{"Node": {}, "Service": {}, "Checks": []}]), Some(Kind::Service)),
            (json!([{"Node": "n", "CheckID": "c"}]), Some(Kind::Checks)),
            (json!([{"ID": "e", "Name": "n", "LTime": 1}]), Some(Kind::Event)),
            (json!([]), None),
            (json!(null), None),
            (json!([1]), None),
        ] {
            assert_eq!(Kind::guess(&payload), kind, "{payload}");
        }
    }

    #[test]
    fn what_vanished_is_seen() {
        let gone = |kind, before: &Value, after: &Value| {
            let after = items(Some(kind), after);
            items(Some(kind), before).keys().filter(|identity| !after.contains_key(identity)).count()
        };
        assert_eq!(gone(Kind::Key, &json!({"Key": "a"}), &json!(null)), 1);
        assert_eq!(
            gone(Kind::Keyprefix, &json!([{"Key": "a"}, {"Key": "b"}]), &json!([{"Key": "b"}, {"Key": "c"}])),
            1
        );
        assert_eq!(gone(Kind::Services, &json!({"w": ["x", "y"]}), &json!({"w": ["y"]})), 1);
        let tagged = json!({"w": [{"node": "n", "id": "1"}, {"node": "n", "id": "2"}]});
        assert_eq!(gone(Kind::Services, &tagged, &json!({"w": [{"node": "n", "id": "2"}]})), 1);
    }
}
