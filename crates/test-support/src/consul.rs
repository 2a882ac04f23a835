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

mod answer;
mod catalog;
mod http;
mod kv;
mod session;
mod state;

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use http::accept;
use state::State;

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

impl FakeConsul {
    /// Starts a server on a free port of the loopback interface.
    pub fn start() -> FakeConsul {
        let shared =
            Arc::new(Shared { state: Mutex::new(State::new()), changed: Condvar::new(), up: AtomicBool::new(false) });
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
