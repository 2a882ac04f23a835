//! Nodes, services and their health.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::Instance;
use super::http::{Asked, Told};
use super::state::State;

fn visible(state: &State) -> impl Iterator<Item = &Instance> {
    state.instances.values().filter(|_| !state.catalog_denied)
}

fn catalog(state: &State, value: &Value) -> Told {
    let mut told = Told::json(Some(state.catalog_index), value);
    told.filtered = state.catalog_denied && state.filter_header;
    told
}

pub(super) fn services(state: &State) -> Told {
    let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    if !state.catalog_denied {
        all.insert("consul".to_owned(), BTreeSet::new());
    }
    for instance in visible(state) {
        all.entry(instance.name.clone()).or_default().extend(instance.tags.iter().cloned());
    }
    catalog(state, &json!(all))
}

fn node(name: &str, address: &str) -> Value {
    json!({"Node": name, "Address": address, "Datacenter": "dc1", "Meta": {"consul-network-segment": ""}})
}

pub(super) fn nodes(state: &State) -> Told {
    let mut all = BTreeMap::new();
    if !state.catalog_denied {
        all.insert(state.node.clone(), node(&state.node, &state.node_address));
    }
    for instance in visible(state) {
        all.insert(instance.node.clone(), node(&instance.node, &instance.node_address));
    }
    catalog(state, &Value::from(all.into_values().collect::<Vec<_>>()))
}

pub(super) fn service(name: &str, state: &State) -> Told {
    let found: Vec<Value> = visible(state)
        .filter(|i| i.name == name)
        .map(|i| {
            json!({
                "Node": i.node, "Address": i.node_address, "Datacenter": "dc1", "ServiceID": i.id,
                "ServiceName": i.name, "ServiceTags": i.tags, "ServiceAddress": i.address,
                "ServicePort": i.port, "ServiceMeta": null,
            })
        })
        .collect();
    catalog(state, &Value::from(found))
}

fn check(i: &Instance) -> Value {
    json!({
        "Node": i.node, "CheckID": format!("service:{}", i.id), "Name": format!("Service '{}' check", i.name),
        "Status": i.status, "Notes": "", "Output": "", "ServiceID": i.id, "ServiceName": i.name,
        "ServiceTags": i.tags,
    })
}

pub(super) fn health_service(asked: &Asked, name: &str, state: &State) -> Told {
    let passing = asked.parameters.contains_key("passing");
    let tag = asked.parameters.get("tag");
    let found: Vec<Value> = visible(state)
        .filter(|i| i.name == name)
        .filter(|i| !passing || i.status == "passing")
        .filter(|i| tag.is_none_or(|tag| i.tags.contains(tag)))
        .map(|i| {
            json!({
                "Node": node(&i.node, &i.node_address),
                "Service": {
                    "ID": i.id, "Service": i.name, "Tags": i.tags, "Meta": null, "Port": i.port,
                    "Address": i.address, "Weights": {"Passing": 1, "Warning": 1},
                },
                "Checks": [check(i)],
            })
        })
        .collect();
    catalog(state, &Value::from(found))
}

pub(super) fn health_state(which: &str, state: &State) -> Told {
    let found: Vec<Value> = visible(state).filter(|i| which == "any" || i.status == which).map(check).collect();
    catalog(state, &Value::from(found))
}
