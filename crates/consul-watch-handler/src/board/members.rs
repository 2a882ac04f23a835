//! The services that carry a tag: a reader for each, and one answer of them all.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// The services, and what their readers know.
#[derive(Debug, Default)]
pub(super) struct Members {
    all: BTreeMap<String, Member>,
    /// The number of the last reader.
    generation: u64,
}

#[derive(Debug)]
struct Member {
    generation: u64,
    value: Option<Value>,
}

impl Members {
    /// Says which services there are; returns those that need a reader, with the number it must show.
    pub(super) fn set(&mut self, names: &[String]) -> Vec<(String, u64)> {
        self.all.retain(|name, _| names.contains(name));
        let mut fresh = Vec::new();
        for name in names {
            if !self.all.contains_key(name) {
                self.generation += 1;
                self.all.insert(name.clone(), Member { generation: self.generation, value: None });
                fresh.push((name.clone(), self.generation));
            }
        }
        fresh
    }

    /// Takes what a reader has learnt; whether it is still the service's reader.
    pub(super) fn know(&mut self, name: &str, generation: u64, value: Value) -> bool {
        match self.all.get_mut(name) {
            Some(member) if member.generation == generation => {
                member.value = Some(value);
                true
            }
            _ => false,
        }
    }

    /// Whether this is the service's reader.
    pub(super) fn has(&self, name: &str, generation: u64) -> bool {
        self.all.get(name).is_some_and(|member| member.generation == generation)
    }

    /// Returns the answer of them all, once every one of them is known.
    pub(super) fn whole(&self) -> Option<Value> {
        let whole: Option<Map<String, Value>> =
            self.all.iter().map(|(name, member)| Some((name.clone(), member.value.clone()?))).collect();
        whole.map(Value::Object)
    }
}
