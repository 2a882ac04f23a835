//! Keys that are computed from the catalog and from elections.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use crate::error::Error;
use crate::value::{Hash, Value};

use super::level::Level;
use super::reader::{Need, Reader, Tags};

/// Answers computed keys, each service read at most once.
pub struct Computed {
    reader: Rc<Reader>,
    level: Level,
    names: RefCell<Option<Rc<Tags>>>,
    instances: RefCell<HashMap<String, Rc<Vec<Hash>>>>,
}

impl Computed {
    /// Returns a source of computed keys; nothing is read yet.
    pub fn new(reader: Rc<Reader>, level: Level) -> Self {
        Computed { reader, level, names: RefCell::default(), instances: RefCell::default() }
    }

    fn names(&self) -> Result<Rc<Tags>, Error> {
        if let Some(names) = &*self.names.borrow() {
            return Ok(Rc::clone(names));
        }
        let names = Rc::new(self.reader.services(&self.level.query())?);
        // Whoever wants the names will want the services.
        self.reader.expect(names.keys().map(|name| Need::Service(name.clone())));
        *self.names.borrow_mut() = Some(Rc::clone(&names));
        Ok(names)
    }

    fn instances(&self, service: &str) -> Result<Rc<Vec<Hash>>, Error> {
        if service.is_empty() {
            return Ok(Rc::default());
        }
        if let Some(instances) = self.instances.borrow().get(service) {
            return Ok(Rc::clone(instances));
        }
        let instances = Rc::new(self.reader.instances(service, &self.level.query())?);
        self.instances.borrow_mut().insert(service.to_owned(), Rc::clone(&instances));
        Ok(instances)
    }

    /// Answers a key: the leader keys, and with `services` those of the catalog.
    pub fn lookup(&self, key: &str) -> Result<Option<Value>, Error> {
        if let Some(rest) = key.strip_prefix("leader__") {
            let (name, address) = match rest.strip_suffix("__address") {
                Some(name) => (name, true),
                None => (rest, false),
            };
            if name.is_empty() {
                return Ok(None);
            }
            return Ok(self.reader.leader(name, &self.level.query())?.and_then(|leader| {
                let text = if address { leader.address } else { leader.node };
                (!text.is_empty()).then_some(Value::String(text))
            }));
        }
        if !self.level.services {
            return Ok(None);
        }
        if key == "service_hash" {
            let mut all = Hash::new();
            for (name, tags) in self.names()?.iter() {
                all.insert(Value::from(name.as_str()), Value::Hash(self.entry(name, tags)?));
            }
            return Ok(Some(Value::Hash(all)));
        }
        if let Some(query) = key.strip_prefix("service_hash__") {
            return self.query(query);
        }
        for (name, rest) in properties(key) {
            if let Some(value) = flat(&self.instances(name)?, rest) {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// Returns a service's tags and its properties by node; of two instances on a node the last.
    fn entry(&self, name: &str, tags: &[String]) -> Result<Hash, Error> {
        let tags = tags.iter().map(|tag| Value::from(tag.as_str())).collect();
        let mut entry: Hash = [(Value::from("tags"), Value::Array(tags))].into_iter().collect();
        for (node, properties) in by_node(&self.instances(name)?) {
            entry.insert(node, Value::Hash(properties));
        }
        Ok(entry)
    }

    fn query(&self, query: &str) -> Result<Option<Value>, Error> {
        let mut parts: Vec<&str> = query.split("__").collect();
        while parts.last() == Some(&"") {
            parts.pop();
        }
        let tagged = |tag: &str, service: &str| -> Result<Vec<(Value, Hash)>, Error> {
            // One request for the service that is asked, not one for each that exists.
            Ok(by_node(&self.instances(service)?)
                .into_iter()
                .filter(|(node, properties)| {
                    node.as_str() != Some("tags")
                        && matches!(properties.get_str("ServiceTags"),
                            Some(Value::Array(tags)) if tags.iter().any(|t| t.as_str() == Some(tag)))
                })
                .collect())
        };
        let property = |properties: &Hash, name: &str| properties.get_str(name).cloned().unwrap_or(Value::Null);
        Ok(match parts[..] {
            [tag] => {
                let mut found = Hash::new();
                for (name, tags) in self.names()?.iter().filter(|(_, tags)| tags.iter().any(|t| t == tag)) {
                    found.insert(Value::from(name.as_str()), Value::Hash(self.entry(name, tags)?));
                }
                Some(Value::Hash(found))
            }
            [tag, service] => Some(Value::Hash(
                tagged(tag, service)?.into_iter().map(|(node, properties)| (node, Value::Hash(properties))).collect(),
            )),
            [tag, service, name] => tagged(tag, service)?
                .iter()
                .rev()
                .find_map(|(_, properties)| properties.get_str(name).cloned())
                .filter(|value| !matches!(value, Value::Null)),
            [tag, service, name, "array"] => Some(Value::Array(
                tagged(tag, service)?.iter().map(|(_, properties)| property(properties, name)).collect(),
            )),
            [tag, service, name, "hash"] => Some(Value::Hash(
                tagged(tag, service)?
                    .into_iter()
                    .map(|(node, properties)| (node, property(&properties, name)))
                    .collect(),
            )),
            _ => None,
        })
    }
}

/// Tells whether a level that computes, with `services`, may have an answer to a key that is not stored.
///
/// Consul's names of properties begin with a capital letter, so that the names of parameters, of which a catalog
/// looks up hundreds, cost nothing.
pub(crate) fn is_computed(key: &str) -> bool {
    key == "service_hash"
        || key.starts_with("leader__")
        || key.starts_with("service_hash__")
        || properties(key).next().is_some()
}

/// Returns every way to read a key as a service and what stands after `SERVICE_`, the shortest service first.
fn properties(key: &str) -> impl Iterator<Item = (&str, &str)> {
    key.match_indices('_')
        .map(|(at, _)| (&key[..at], &key[at + 1..]))
        .filter(|(name, rest)| !name.is_empty() && rest.starts_with(|c: char| c.is_ascii_uppercase()))
}

fn by_node(instances: &[Hash]) -> Vec<(Value, Hash)> {
    let mut nodes: Hash = Hash::new();
    for instance in instances {
        let properties: Hash = instance
            .iter()
            .filter(|(name, _)| name.as_str() != Some("ServiceID"))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let node = instance.get_str("Node").cloned().unwrap_or(Value::Null);
        nodes.insert(node, Value::Hash(properties));
    }
    nodes
        .into_iter()
        .filter_map(|(node, properties)| match properties {
            Value::Hash(properties) => Some((node, properties)),
            _ => None,
        })
        .collect()
}

/// Answers what stands after `SERVICE_`: `PROPERTY`, `PROPERTY_NODE` or `PROPERTY_array`.
fn flat(instances: &[Hash], rest: &str) -> Option<Value> {
    let mut found = None;
    for instance in instances {
        let node = instance.get_str("Node").and_then(Value::as_str).unwrap_or_default();
        for (name, value) in instance.iter() {
            let Some(name) = name.as_str().filter(|name| *name != "ServiceID") else { continue };
            if rest == name {
                return Some(value.clone()).filter(|value| !matches!(value, Value::Null));
            }
            match rest.strip_prefix(name).and_then(|rest| rest.strip_prefix('_')) {
                Some("array") => {
                    let all = instances.iter().filter_map(|i| i.get_str(name).cloned()).collect();
                    return Some(Value::Array(all));
                }
                Some(asked) if asked == node && name != "Node" => found = Some(value.clone()),
                _ => {}
            }
        }
    }
    found.filter(|value| !matches!(value, Value::Null))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(json: serde_json::Value) -> Hash {
        match Value::from_json(json) {
            Value::Hash(hash) => hash,
            other => panic!("a hash, not {other:?}"),
        }
    }

    #[test]
    fn flat_keys_answer_as_the_original() {
        let instances = vec![
            options(serde_json::json!({"Node": "n1", "Address": "10.0.0.1", "ServiceID": "a", "ServicePort": 1})),
            options(serde_json::json!({"Node": "n2", "Address": "10.0.0.2", "ServiceID": "a", "ServicePort": 2})),
        ];
        assert_eq!(flat(&instances, "Address"), Some(Value::from("10.0.0.1")));
        assert_eq!(flat(&instances, "Address_n2"), Some(Value::from("10.0.0.2")));
        assert_eq!(flat(&instances, "ServicePort_array"), Some(Value::Array(vec![Value::Int(1), Value::Int(2)])));
        assert_eq!(flat(&instances, "ServiceID"), None);
        assert_eq!(flat(&instances, "Node"), Some(Value::from("n1")));
        assert_eq!(flat(&instances, "Node_n1"), None);
    }

    #[test]
    fn only_names_of_properties_can_be_computed() {
        assert_eq!(
            properties("web_front_ServicePort_N_1").collect::<Vec<_>>(),
            [("web_front", "ServicePort_N_1"), ("web_front_ServicePort", "N_1"),]
        );
        for key in ["a_b", "keystone::db_password", "_Address", "web", "service_Hash_"] {
            assert_eq!(is_computed(key), key == "service_Hash_", "{key}");
        }
        assert!(is_computed("service_hash__x") && is_computed("service_hash"));
    }
}
