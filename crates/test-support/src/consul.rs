//! A small Consul for tests: one process-local server on a port of its own.
//!
//! It keeps keys, sessions with locks, lock delays and time limits, a catalog with health, and
//! events in memory, answers blocking queries, and does what a fault tells it to. What it knows it
//! answers as Consul 1.8.7 does; any other path is a 404 without an index, which clients take for an
//! error. It is not a cluster: for elections of leaders and lost servers use real ones.
//!
//! Indexes follow Consul: an existing key has its own modify index, an absent one the index of the
//! last change of any key; the catalog has one index. A session ends exactly at its TTL, the earliest
//! moment that Consul allows itself, so that a client which relies on more fails here; a client that
//! relies on less can be shown the latest ([`FakeConsul::expire_late`]).

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// Largest value that is stored.
const VALUE_LIMIT: usize = 512 * 1024;

/// What to do wrong.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Answer with this status and body.
    Status(u16, String),
    /// Answer 200 with this body.
    Body(String),
    /// Answer as usual, this much later.
    Delay(Duration),
    /// Send half of the body, then close.
    Truncate,
    /// Close the connection without an answer.
    Close,
    /// Take the request and never answer.
    Hang,
    /// Answer as usual, a byte at a time with this pause after each.
    Drip(Duration),
    /// Answer as usual, with the header that says that ACLs left something out.
    Filtered,
    /// Answer as usual, with the header that says that no leader is known.
    NoLeader,
}

/// An instance of a service to register.
#[derive(Debug, Clone)]
pub struct Instance {
    /// Name of its node.
    pub node: String,
    /// Address of its node.
    pub node_address: String,
    /// Id on its node.
    pub id: String,
    /// Name of the service.
    pub name: String,
    /// Its own address; empty means the node's.
    pub address: String,
    /// Port.
    pub port: u16,
    /// Tags.
    pub tags: Vec<String>,
    /// `passing`, `warning` or `critical`.
    pub status: String,
}

impl Instance {
    /// Returns a passing instance without tags whose id is its name.
    pub fn new(node: &str, node_address: &str, name: &str, port: u16) -> Instance {
        Instance {
            node: node.to_owned(),
            node_address: node_address.to_owned(),
            id: name.to_owned(),
            name: name.to_owned(),
            address: String::new(),
            port,
            tags: Vec::new(),
            status: "passing".to_owned(),
        }
    }

    /// Adds a tag.
    pub fn tag(mut self, tag: &str) -> Instance {
        self.tags.push(tag.to_owned());
        self
    }

    /// Sets the health.
    pub fn status(mut self, status: &str) -> Instance {
        self.status = status.to_owned();
        self
    }
}

/// The server. It ends when this value is dropped.
#[derive(Debug)]
pub struct FakeConsul {
    shared: Arc<Shared>,
    address: SocketAddr,
    listener: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// Set while the server is up; connections end soon after it falls.
    up: AtomicBool,
}

#[derive(Debug, Clone)]
struct Entry {
    value: Vec<u8>,
    flags: u64,
    create: u64,
    modify: u64,
    lock: u64,
    session: Option<String>,
}

#[derive(Debug)]
struct SessionState {
    name: String,
    ttl: Option<Duration>,
    lock_delay: Duration,
    delete: bool,
    renewed: Instant,
    create: u64,
}

#[derive(Debug)]
struct State {
    index: u64,
    kv_index: u64,
    catalog_index: u64,
    session_index: u64,
    kv: BTreeMap<String, Entry>,
    tombstones: BTreeMap<String, u64>,
    lock_delays: BTreeMap<String, Instant>,
    sessions: BTreeMap<String, SessionState>,
    next_session: u64,
    /// How many times a snapshot was restored.
    restored: u64,
    /// How many TTLs a session lives.
    grace: u32,
    instances: BTreeMap<(String, String), Instance>,
    events: Vec<Value>,
    faults: Vec<(String, Fault)>,
    denied: BTreeSet<String>,
    catalog_denied: bool,
    filter_header: bool,
    token: Option<String>,
    node: String,
    node_address: String,
    requests: Vec<String>,
    connections: Vec<TcpStream>,
}

impl FakeConsul {
    /// Starts a server on a free port of the loopback interface.
    pub fn start() -> FakeConsul {
        let state = State {
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
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new(), up: AtomicBool::new(false) });
        let mut consul = FakeConsul { shared, address: SocketAddr::from(([127, 0, 0, 1], 0)), listener: None };
        consul.restart();
        consul
    }

    /// Takes the server away: connections break, new ones are refused. What it knows stays.
    pub fn stop(&mut self) {
        let Some(listener) = self.listener.take() else { return };
        self.shared.up.store(false, Ordering::SeqCst);
        // Wakes the accept call; refused only when the listener ended by itself.
        drop(TcpStream::connect(self.address));
        listener.join().expect("the accept loop does not panic");
        let connections = std::mem::take(&mut self.state().connections);
        for connection in connections {
            // It may be closed already.
            drop(connection.shutdown(Shutdown::Both));
        }
        self.shared.changed.notify_all();
    }

    /// Brings a stopped server back on the same port.
    pub fn restart(&mut self) {
        assert!(self.listener.is_none(), "it runs already");
        let listener = TcpListener::bind(self.address).expect("a loopback port can be bound");
        self.address = listener.local_addr().expect("a bound socket has an address");
        self.shared.up.store(true, Ordering::SeqCst);
        let shared = Arc::clone(&self.shared);
        self.listener = Some(std::thread::spawn(move || accept(&listener, &shared)));
    }

    /// Returns `http://127.0.0.1:PORT`, for `CONSUL_HTTP_ADDR`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.shared)
    }

    fn change<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        let result = f(&mut self.state());
        self.shared.changed.notify_all();
        result
    }

    /// Sets name and address of the agent's node.
    pub fn node(&self, name: &str, address: &str) {
        self.change(|state| {
            state.node = name.to_owned();
            state.node_address = address.to_owned();
        });
    }

    /// Stores a value and returns its modify index.
    pub fn put(&self, key: &str, value: &[u8]) -> u64 {
        self.change(|state| state.put(key, value, 0))
    }

    /// Returns a value.
    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        self.state().kv.get(key).map(|entry| entry.value.clone())
    }

    /// Removes a key.
    pub fn delete(&self, key: &str) {
        self.change(|state| state.delete(key));
    }

    /// Returns the session that holds the lock on a key.
    pub fn holder(&self, key: &str) -> Option<String> {
        self.state().kv.get(key).and_then(|entry| entry.session.clone())
    }

    /// Returns the ids of all sessions.
    pub fn sessions(&self) -> Vec<String> {
        self.state().sessions.keys().cloned().collect()
    }

    /// Ends a session as a lost node does: locks are freed, their delay runs.
    pub fn expire(&self, session: &str) {
        self.change(|state| state.end_session(session));
    }

    /// Lets sessions end at twice their TTL, as a real Consul usually does.
    pub fn expire_late(&self) {
        self.change(|state| state.grace = 2);
    }

    /// Registers or changes an instance.
    pub fn register(&self, instance: Instance) {
        self.change(|state| {
            let key = (instance.node.clone(), instance.id.clone());
            state.instances.insert(key, instance);
            state.catalog_index = state.bump();
        });
    }

    /// Removes an instance.
    pub fn deregister(&self, node: &str, id: &str) {
        self.change(|state| {
            state.instances.remove(&(node.to_owned(), id.to_owned()));
            state.catalog_index = state.bump();
        });
    }

    /// Changes the health of an instance.
    pub fn set_status(&self, node: &str, id: &str, status: &str) {
        self.change(|state| {
            let key = (node.to_owned(), id.to_owned());
            let instance = state.instances.get_mut(&key).expect("it was registered");
            instance.status = status.to_owned();
            state.catalog_index = state.bump();
        });
    }

    /// Fires an event and returns its id.
    pub fn fire(&self, name: &str, payload: &[u8]) -> String {
        self.change(|state| state.fire(name, payload))
    }

    /// Does `fault` for every request whose path below `/v1/` starts with `path`, until
    /// [`FakeConsul::heal`]. The newest matching fault is done.
    pub fn fault(&self, path: &str, fault: Fault) {
        self.change(|state| state.faults.push((path.to_owned(), fault)));
    }

    /// Removes all faults.
    pub fn heal(&self) {
        self.change(|state| state.faults.clear());
    }

    /// Denies keys below a prefix: reads of one are refused, lists leave them out silently. From then on there
    /// are ACLs, and a token that nobody made is refused.
    pub fn deny_keys(&self, prefix: &str) {
        self.change(|state| state.denied.insert(prefix.to_owned()));
    }

    /// Denies services and nodes: lists are silently empty.
    pub fn deny_catalog(&self, denied: bool) {
        self.change(|state| state.catalog_denied = denied);
    }

    /// Says in a header when ACLs left something out, as Consul 1.11 and later do.
    pub fn filter_header(&self, on: bool) {
        self.change(|state| state.filter_header = on);
    }

    /// Refuses requests without this token.
    pub fn require_token(&self, token: &str) {
        self.change(|state| state.token = Some(token.to_owned()));
    }

    /// Puts the store back to `index` and these values, as a restored snapshot does. Queries that wait end with what they
    /// were about to say, unchanged and of the store that was left.
    pub fn restore(&self, index: u64, values: &[(&str, &[u8])]) {
        self.change(|state| {
            state.restore(index, values);
            state.restored += 1;
        });
    }

    /// Does the same and tells no query that waits.
    pub fn restore_silently(&self, index: u64, values: &[(&str, &[u8])]) {
        self.state().restore(index, values);
    }

    /// Returns all requests so far, as `METHOD path?query`.
    pub fn requests(&self) -> Vec<String> {
        self.state().requests.clone()
    }

    /// Returns whether `seen` held for the requests so far within `limit`.
    pub fn wait_for(&self, limit: Duration, mut seen: impl FnMut(&[String]) -> bool) -> bool {
        let deadline = Instant::now() + limit;
        let mut state = self.state();
        loop {
            if seen(&state.requests) {
                return true;
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return false };
            state = wait(&self.shared, state, left);
        }
    }
}

impl Drop for FakeConsul {
    fn drop(&mut self) {
        self.stop();
    }
}

fn lock(shared: &Shared) -> MutexGuard<'_, State> {
    // A test that panicked elsewhere must not hide its message behind a poisoned lock.
    shared.state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wait<'a>(shared: &'a Shared, state: MutexGuard<'a, State>, limit: Duration) -> MutexGuard<'a, State> {
    shared.changed.wait_timeout(state, limit).unwrap_or_else(PoisonError::into_inner).0
}

impl State {
    fn bump(&mut self) -> u64 {
        self.index += 1;
        self.index
    }

    fn restore(&mut self, index: u64, values: &[(&str, &[u8])]) {
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

    fn put(&mut self, key: &str, value: &[u8], flags: u64) -> u64 {
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

    fn delete(&mut self, key: &str) {
        if self.kv.remove(key).is_some() {
            let index = self.bump();
            self.kv_index = index;
            self.tombstones.insert(key.to_owned(), index);
        }
    }

    fn fire(&mut self, name: &str, payload: &[u8]) -> String {
        let n = self.events.len() + 1;
        let id = format!("{:08x}-0000-4000-8000-{n:012x}", n.wrapping_mul(2_654_435_761) as u32);
        self.events.push(json!({
            "ID": id, "Name": name, "Payload": STANDARD.encode(payload), "NodeFilter": "",
            "ServiceFilter": "", "TagFilter": "", "Version": 1, "LTime": n,
        }));
        id
    }

    fn end_session(&mut self, id: &str) {
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

    fn expire_due(&mut self) {
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
    fn acls(&self) -> bool {
        self.catalog_denied || !self.denied.is_empty() || self.token.is_some()
    }

    fn key_denied(&self, key: &str) -> bool {
        self.denied.iter().any(|prefix| key.starts_with(prefix.as_str()))
    }

    fn fault_for(&self, path: &str) -> Option<Fault> {
        self.faults.iter().rev().find(|(p, _)| path.starts_with(p.as_str())).map(|(_, f)| f.clone())
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for connection in listener.incoming() {
        if !shared.up.load(Ordering::SeqCst) {
            return;
        }
        let Ok(connection) = connection else { continue };
        // One answer is one segment; waiting for more would only cost time.
        drop(connection.set_nodelay(true));
        if let Ok(copy) = connection.try_clone() {
            lock(shared).connections.push(copy);
        }
        let shared = Arc::clone(shared);
        std::thread::spawn(move || serve(&connection, &shared));
    }
}

struct Asked {
    method: String,
    /// Below `/v1/`, decoded.
    path: String,
    parameters: BTreeMap<String, String>,
    token: Option<String>,
    body: Vec<u8>,
}

struct Told {
    status: u16,
    /// `None` leaves the header out.
    index: Option<u64>,
    /// Whether it says how much the server knows of a leader.
    meta: bool,
    filtered: bool,
    body: Vec<u8>,
}

impl Told {
    fn json(index: Option<u64>, value: &Value) -> Told {
        Told { status: 200, index, meta: index.is_some(), filtered: false, body: value.to_string().into_bytes() }
    }

    fn text(status: u16, text: &str) -> Told {
        Told { status, index: None, meta: false, filtered: false, body: text.as_bytes().to_vec() }
    }
}

fn serve(connection: &TcpStream, shared: &Shared) {
    let mut reader = BufReader::new(connection);
    // Any error of the connection ends it, as it does for a real server.
    while shared.up.load(Ordering::SeqCst) {
        let Some((asked, line)) = read_request(&mut reader) else { break };
        let fault = {
            let mut state = lock(shared);
            state.requests.push(line);
            state.fault_for(&asked.path)
        };
        shared.changed.notify_all();
        match fault {
            Some(Fault::Close) => break,
            Some(Fault::Hang) => {
                let state = lock(shared);
                drop(wait_until_down(shared, state));
                break;
            }
            Some(Fault::Delay(time)) => std::thread::sleep(time),
            _ => {}
        }
        let mut told = match &fault {
            Some(Fault::Status(code, body)) => Told::text(*code, body),
            Some(Fault::Body(body)) => Told::text(200, body),
            _ => answer(&asked, shared),
        };
        told.filtered |= matches!(fault, Some(Fault::Filtered));
        let known = !matches!(fault, Some(Fault::NoLeader));
        let half = matches!(fault, Some(Fault::Truncate));
        if let Some(Fault::Drip(pause)) = fault {
            drip(connection, &told, shared, pause);
            break;
        }
        if write_answer(connection, &told, known, half).is_err() || half {
            break;
        }
    }
    drop(connection.shutdown(Shutdown::Both));
}

fn wait_until_down<'a>(shared: &'a Shared, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
    while shared.up.load(Ordering::SeqCst) {
        state = wait(shared, state, Duration::from_millis(200));
    }
    state
}

fn read_request(reader: &mut BufReader<&TcpStream>) -> Option<(Asked, String)> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
    let mut words = line.split_whitespace();
    let method = words.next()?.to_owned();
    let target = words.next()?.to_owned();
    let (mut length, mut token) = (0_usize, None);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok().filter(|n| *n > 0)?;
        let Some((name, value)) = header.trim_end().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().ok()?,
            "x-consul-token" => token = Some(value.trim().to_owned()),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let mut parameters = BTreeMap::new();
    for pair in query.split('&').filter(|p| !p.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        parameters.insert(decode(name), decode(value));
    }
    let path = decode(path.strip_prefix("/v1/").unwrap_or(path));
    let line = format!("{method} {target}");
    Some((Asked { method, path, parameters, token, body }, line))
}

fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let byte = match bytes[at] {
            b'%' => {
                let code = text.get(at + 1..at + 3).and_then(|h| u8::from_str_radix(h, 16).ok());
                at += if code.is_some() { 2 } else { 0 };
                code.unwrap_or(b'%')
            }
            byte => byte,
        };
        out.push(byte);
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn write_answer(mut connection: &TcpStream, told: &Told, known_leader: bool, half: bool) -> std::io::Result<()> {
    let mut bytes = head(told, known_leader);
    let body = if half { &told.body[..told.body.len() / 2] } else { &told.body };
    bytes.extend_from_slice(body);
    connection.write_all(&bytes)
}

fn drip(mut connection: &TcpStream, told: &Told, shared: &Shared, pause: Duration) {
    for byte in head(told, true).iter().chain(&told.body) {
        // Until nobody listens any more.
        if !shared.up.load(Ordering::SeqCst) || connection.write_all(&[*byte]).is_err() {
            break;
        }
        std::thread::sleep(pause);
    }
}

fn head(told: &Told, known_leader: bool) -> Vec<u8> {
    let mut head = format!(
        "HTTP/1.1 {} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n",
        told.status,
        told.body.len()
    );
    if let Some(index) = told.index {
        head.push_str(&format!("X-Consul-Index: {index}\r\n"));
    }
    if told.meta {
        head.push_str(&format!("X-Consul-KnownLeader: {known_leader}\r\nX-Consul-LastContact: 0\r\n"));
    }
    if told.filtered {
        head.push_str("X-Consul-Results-Filtered-By-ACLs: true\r\n");
    }
    head.push_str("\r\n");
    head.into_bytes()
}

fn answer(asked: &Asked, shared: &Shared) -> Told {
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
fn duration(text: Option<&String>) -> Option<Duration> {
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
            "GET" => kv_read(asked, key, state),
            "PUT" => kv_write(asked, key, state),
            "DELETE" => kv_delete(asked, key, state),
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
        ("GET", "catalog/services") => catalog_services(state),
        ("GET", "catalog/nodes") => catalog_nodes(state),
        ("GET", "event/list") => events(asked, state),
        ("PUT", "txn") => txn(asked, state),
        ("PUT", "session/create") => session_create(asked, state),
        ("POST", "internal/acl/authorize") => authorize(asked, state),
        ("GET", _) if path.starts_with("catalog/service/") => catalog_service(&path["catalog/service/".len()..], state),
        ("GET", _) if path.starts_with("health/service/") => {
            health_service(asked, &path["health/service/".len()..], state)
        }
        ("GET", _) if path.starts_with("health/state/") => health_state(&path["health/state/".len()..], state),
        ("PUT", _) if path.starts_with("event/fire/") => {
            let id = state.fire(&path["event/fire/".len()..], &asked.body);
            Told::json(None, &json!({"ID": id}))
        }
        (_, _) if path.starts_with("session/") => session(method, path, state),
        _ => Told::text(404, "404 page not found"),
    }
}

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

fn kv_read(asked: &Asked, key: &str, state: &State) -> Told {
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

fn kv_write(asked: &Asked, key: &str, state: &mut State) -> Told {
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

/// The two transactions that clients use: read trees, or make a key and lock it.
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

fn txn(asked: &Asked, state: &mut State) -> Told {
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

fn kv_delete(asked: &Asked, key: &str, state: &mut State) -> Told {
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

fn session_create(asked: &Asked, state: &mut State) -> Told {
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

fn session(method: &str, path: &str, state: &mut State) -> Told {
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

fn visible(state: &State) -> impl Iterator<Item = &Instance> {
    state.instances.values().filter(|_| !state.catalog_denied)
}

fn catalog(state: &State, value: &Value) -> Told {
    let mut told = Told::json(Some(state.catalog_index), value);
    told.filtered = state.catalog_denied && state.filter_header;
    told
}

fn catalog_services(state: &State) -> Told {
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

fn catalog_nodes(state: &State) -> Told {
    let mut all = BTreeMap::new();
    if !state.catalog_denied {
        all.insert(state.node.clone(), node(&state.node, &state.node_address));
    }
    for instance in visible(state) {
        all.insert(instance.node.clone(), node(&instance.node, &instance.node_address));
    }
    catalog(state, &Value::from(all.into_values().collect::<Vec<_>>()))
}

fn catalog_service(name: &str, state: &State) -> Told {
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

fn health_service(asked: &Asked, name: &str, state: &State) -> Told {
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

fn health_state(which: &str, state: &State) -> Told {
    let found: Vec<Value> = visible(state).filter(|i| which == "any" || i.status == which).map(check).collect();
    catalog(state, &Value::from(found))
}
