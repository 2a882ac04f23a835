//! What the fake knows: keys, sessions, instances, events, and what it is told to do wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{Fault, Instance};

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) value: Vec<u8>,
    pub(super) flags: u64,
    pub(super) create: u64,
    pub(super) modify: u64,
    pub(super) lock: u64,
    pub(super) session: Option<String>,
}

#[derive(Debug)]
pub(super) struct SessionState {
    pub(super) name: String,
    pub(super) ttl: Option<Duration>,
    pub(super) lock_delay: Duration,
    pub(super) delete: bool,
    pub(super) renewed: Instant,
    pub(super) create: u64,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) index: u64,
    pub(super) kv_index: u64,
    pub(super) catalog_index: u64,
    pub(super) session_index: u64,
    pub(super) kv: BTreeMap<String, Entry>,
    pub(super) tombstones: BTreeMap<String, u64>,
    pub(super) lock_delays: BTreeMap<String, Instant>,
    pub(super) sessions: BTreeMap<String, SessionState>,
    pub(super) next_session: u64,
    /// How many times a snapshot was restored.
    pub(super) restored: u64,
    /// How many TTLs a session lives.
    pub(super) grace: u32,
    pub(super) instances: BTreeMap<(String, String), Instance>,
    pub(super) events: Vec<Value>,
    pub(super) faults: Vec<(String, Fault)>,
    pub(super) denied: BTreeSet<String>,
    pub(super) catalog_denied: bool,
    pub(super) filter_header: bool,
    pub(super) token: Option<String>,
    pub(super) node: String,
    pub(super) node_address: String,
    pub(super) requests: Vec<String>,
    pub(super) connections: Vec<TcpStream>,
}

impl State {
    pub(super) fn new() -> State {
        State {
            index: 10,
            kv_index: 1,
            catalog_index: 10,
            session_index: 1,
            kv: BTreeMap::new(),
            tombstones: BTreeMap::new(),
            lock_delays: BTreeMap::new(),
            sessions: BTreeMap::new(),
            next_session: 0,
            restored: 0,
            grace: 1,
            instances: BTreeMap::new(),
            events: Vec::new(),
            faults: Vec::new(),
            denied: BTreeSet::new(),
            catalog_denied: false,
            filter_header: false,
            token: None,
            node: "node1".to_owned(),
            node_address: "192.0.2.1".to_owned(),
            requests: Vec::new(),
            connections: Vec::new(),
        }
    }

    pub(super) fn bump(&mut self) -> u64 {
        self.index += 1;
        self.index
    }

    pub(super) fn restore(&mut self, index: u64, values: &[(&str, &[u8])]) {
        self.kv.clear();
        self.tombstones.clear();
        for (key, value) in values {
            self.put(key, value, 0);
        }
        for entry in self.kv.values_mut() {
            entry.modify = entry.modify.min(index);
            entry.create = entry.create.min(index);
        }
        self.index = index;
        for each in [&mut self.kv_index, &mut self.catalog_index, &mut self.session_index] {
            *each = index.min(*each);
        }
    }

    pub(super) fn put(&mut self, key: &str, value: &[u8], flags: u64) -> u64 {
        if let Some(entry) = self.kv.get(key)
            && entry.value == value
            && entry.flags == flags
        {
            return entry.modify;
        }
        let index = self.bump();
        self.kv_index = index;
        let entry = self.kv.entry(key.to_owned()).or_insert_with(|| Entry {
            value: Vec::new(),
            flags,
            create: index,
            modify: index,
            lock: 0,
            session: None,
        });
        entry.value = value.to_vec();
        entry.flags = flags;
        entry.modify = index;
        index
    }

    pub(super) fn delete(&mut self, key: &str) {
        if self.kv.remove(key).is_some() {
            let index = self.bump();
            self.kv_index = index;
            self.tombstones.insert(key.to_owned(), index);
        }
    }

    pub(super) fn fire(&mut self, name: &str, payload: &[u8]) -> String {
        let n = self.events.len() + 1;
        let id = format!("{:08x}-0000-4000-8000-{n:012x}", n.wrapping_mul(2_654_435_761) as u32);
        self.events.push(json!({
            "ID": id, "Name": name, "Payload": STANDARD.encode(payload), "NodeFilter": "",
            "ServiceFilter": "", "TagFilter": "", "Version": 1, "LTime": n,
        }));
        id
    }

    pub(super) fn end_session(&mut self, id: &str) {
        let Some(session) = self.sessions.remove(id) else { return };
        self.session_index = self.bump();
        let held: Vec<String> = self
            .kv
            .iter()
            .filter(|(_, entry)| entry.session.as_deref() == Some(id))
            .map(|(key, _)| key.clone())
            .collect();
        for key in held {
            if session.delete {
                self.delete(&key);
            } else {
                let index = self.bump();
                self.kv_index = index;
                let entry = self.kv.get_mut(&key).expect("it was just found");
                entry.session = None;
                entry.modify = index;
            }
            if !session.lock_delay.is_zero() {
                self.lock_delays.insert(key, Instant::now() + session.lock_delay);
            }
        }
    }

    pub(super) fn expire_due(&mut self) {
        let (now, grace) = (Instant::now(), self.grace);
        let due: Vec<String> = self
            .sessions
            .iter()
            .filter(|(_, s)| s.ttl.is_some_and(|ttl| now >= s.renewed + ttl * grace))
            .map(|(id, _)| id.clone())
            .collect();
        for id in due {
            self.end_session(&id);
        }
    }

    /// Whether it runs with ACLs. Callers without a token are then the ones to whom something is denied.
    pub(super) fn acls(&self) -> bool {
        self.catalog_denied || !self.denied.is_empty() || self.token.is_some()
    }

    pub(super) fn key_denied(&self, key: &str) -> bool {
        self.denied.iter().any(|prefix| key.starts_with(prefix.as_str()))
    }

    pub(super) fn fault_for(&self, path: &str) -> Option<Fault> {
        self.faults.iter().rev().find(|(p, _)| path.starts_with(p.as_str())).map(|(_, f)| f.clone())
    }
}
