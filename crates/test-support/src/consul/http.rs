//! Connections of the fake: requests read, faults done, answers written.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use serde_json::Value;

use super::answer::answer;
use super::state::State;
use super::{Fault, Shared, lock, wait};

pub(super) fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
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

pub(super) struct Asked {
    pub(super) method: String,
    /// Below `/v1/`, decoded.
    pub(super) path: String,
    pub(super) parameters: BTreeMap<String, String>,
    pub(super) token: Option<String>,
    pub(super) body: Vec<u8>,
}

pub(super) struct Told {
    pub(super) status: u16,
    /// `None` leaves the header out.
    pub(super) index: Option<u64>,
    /// Whether it says how much the server knows of a leader.
    pub(super) meta: bool,
    pub(super) filtered: bool,
    pub(super) body: Vec<u8>,
}

impl Told {
    pub(super) fn json(index: Option<u64>, value: &Value) -> Told {
        Told { status: 200, index, meta: index.is_some(), filtered: false, body: value.to_string().into_bytes() }
    }

    pub(super) fn text(status: u16, text: &str) -> Told {
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
