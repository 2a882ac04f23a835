//! What stands between a tool and Consul in campaigns: a wire that can be cut, and a proxy that makes mistakes.
//!
//! Mistakes are drawn from a seed that a failing campaign prints; `STACKTIRA_SEED` plays it again (as far as threads
//! allow that).

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Numbers that look random and come again from the same seed.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    pub(crate) fn seed() -> u64 {
        let given = std::env::var("STACKTIRA_SEED").ok().and_then(|text| text.parse().ok());
        given.unwrap_or_else(|| {
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64
        })
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }
}

/// A wire to an address, through which connections go until it is cut.
pub(crate) struct Wire {
    address: SocketAddr,
    state: Arc<WireState>,
}

#[derive(Default)]
struct WireState {
    /// Nothing goes through, and nobody is told: what is sent is lost.
    cut: AtomicBool,
    gone: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

impl Wire {
    pub(crate) fn to(url: &str) -> Wire {
        let target: SocketAddr = url.strip_prefix("http://").unwrap().parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(WireState::default());
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for near in listener.incoming() {
                if shared.gone.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(near), Ok(far)) = (near, TcpStream::connect(target)) else { continue };
                {
                    let mut open = shared.open.lock().unwrap();
                    open.retain(|stream| stream.peer_addr().is_ok());
                    open.extend([near.try_clone().unwrap(), far.try_clone().unwrap()]);
                }
                for (from, to) in [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)] {
                    let shared = Arc::clone(&shared);
                    std::thread::spawn(move || carry(from, to, &shared));
                }
            }
        });
        Wire { address, state }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn cut(&self, cut: bool) {
        self.state.cut.store(cut, Ordering::SeqCst);
        if !cut {
            // What was lost is not sent again: connections that lost something break.
            self.reset();
        }
    }

    /// Ends all connections.
    pub(crate) fn reset(&self) {
        for stream in self.state.open.lock().unwrap().drain(..) {
            drop(stream.shutdown(Shutdown::Both));
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.state.gone.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
        self.reset();
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, state: &WireState) {
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        if !state.cut.load(Ordering::SeqCst) && to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    for stream in [from, to] {
        drop(stream.shutdown(Shutdown::Both));
    }
}

/// The mistakes that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mistake {
    Error500,
    NoLeaderStatus,
    NoLeaderHeader,
    Denied,
    /// Nothing there, and a header that says that something was left out.
    Filtered,
    Truncated,
    Stalled,
    Reset,
    Closed,
    IndexZero,
    IndexBackwards,
    /// A part is missing, as in an answer of a server that lags. Reads that ask for consistency never lag.
    Shrunk,
    /// All is missing, likewise.
    Emptied,
    NoJson,
}

impl Mistake {
    pub(crate) const ALL: [Mistake; 14] = [
        Mistake::Error500,
        Mistake::NoLeaderStatus,
        Mistake::NoLeaderHeader,
        Mistake::Denied,
        Mistake::Filtered,
        Mistake::Truncated,
        Mistake::Stalled,
        Mistake::Reset,
        Mistake::Closed,
        Mistake::IndexZero,
        Mistake::IndexBackwards,
        Mistake::Shrunk,
        Mistake::Emptied,
        Mistake::NoJson,
    ];
}

/// A proxy that answers as Consul does, or makes a mistake.
pub(crate) struct Faulty {
    address: SocketAddr,
    state: Arc<FaultyState>,
}

struct FaultyState {
    target: SocketAddr,
    /// Mistakes in a hundred requests.
    rate: AtomicUsize,
    dice: Mutex<Dice>,
    made: [AtomicUsize; Mistake::ALL.len()],
    gone: AtomicBool,
}

impl Faulty {
    pub(crate) fn before(url: &str, seed: u64) -> Faulty {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(FaultyState {
            target: url.strip_prefix("http://").unwrap().parse().unwrap(),
            rate: AtomicUsize::new(0),
            dice: Mutex::new(Dice::new(seed)),
            made: std::array::from_fn(|_| AtomicUsize::new(0)),
            gone: AtomicBool::new(false),
        });
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.gone.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || drop(serve(stream, &shared)));
            }
        });
        Faulty { address, state }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Sets how many of a hundred requests go wrong.
    pub(crate) fn rate(&self, percent: usize) {
        self.state.rate.store(percent, Ordering::SeqCst);
    }

    /// Returns how often each mistake was made.
    pub(crate) fn made(&self) -> Vec<(Mistake, usize)> {
        let counts = self.state.made.iter().map(|count| count.load(Ordering::SeqCst));
        Mistake::ALL.into_iter().zip(counts).collect()
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        self.state.gone.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
    }
}

struct Answer {
    status: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn set(&mut self, name: &str, value: &str) {
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.to_owned()));
    }

    fn index(&self) -> u64 {
        let header = self.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("X-Consul-Index"));
        header.and_then(|(_, value)| value.parse().ok()).unwrap_or(1)
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = format!("HTTP/1.1 {}\r\n", self.status).into_bytes();
        for (name, value) in &self.headers {
            bytes.extend(format!("{name}: {value}\r\n").bytes());
        }
        bytes.extend(format!("Content-Length: {}\r\n\r\n", self.body.len()).bytes());
        bytes.extend(&self.body);
        bytes
    }
}

fn serve(mut stream: TcpStream, state: &FaultyState) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if lines.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        let length = head.lines().filter_map(|line| line.split_once(':'));
        let mut length =
            length.filter(|(name, _)| name.eq_ignore_ascii_case("content-length")).map(|(_, value)| value.trim());
        let mut body = vec![0; length.next_back().and_then(|length| length.parse().ok()).unwrap_or(0)];
        lines.read_exact(&mut body)?;
        let (mistake, dice) = state.choose(&head);
        // Before the answer: the request may be a long wait.
        if matches!(mistake, Some(Mistake::Error500 | Mistake::NoLeaderStatus | Mistake::Denied)) {
            let (status, body) = match mistake {
                Some(Mistake::Denied) => ("403 Forbidden", "Permission denied"),
                Some(Mistake::NoLeaderStatus) => ("500 Internal Server Error", "No cluster leader"),
                _ => ("500 Internal Server Error", "something went wrong"),
            };
            let answer = Answer { status: status.to_owned(), headers: Vec::new(), body: body.as_bytes().to_vec() };
            stream.write_all(&answer.bytes())?;
            continue;
        }
        let mut answer = ask(state.target, &head, &body)?;
        match mistake {
            Some(Mistake::NoLeaderHeader) => answer.set("X-Consul-KnownLeader", "false"),
            Some(Mistake::Filtered) => {
                answer.body = nothing(&answer.body);
                answer.set("X-Consul-Results-Filtered-By-ACLs", "true");
            }
            Some(Mistake::IndexZero) => answer.set("X-Consul-Index", "0"),
            Some(Mistake::IndexBackwards) => {
                let index = answer.index() / 2;
                answer.set("X-Consul-Index", &index.to_string());
            }
            Some(Mistake::NoJson) => answer.body = b"<html>gateway</html>".to_vec(),
            Some(Mistake::Emptied) => answer.body = nothing(&answer.body),
            Some(Mistake::Shrunk) => answer.body = less(&answer.body, dice),
            Some(Mistake::Truncated) => {
                let bytes = answer.bytes();
                stream.write_all(&bytes[..bytes.len() - answer.body.len().div_ceil(2)])?;
                return Ok(());
            }
            Some(Mistake::Stalled) => {
                let bytes = answer.bytes();
                stream.write_all(&bytes[..bytes.len() - answer.body.len().div_ceil(2)])?;
                // Until the other side has had enough.
                stream.set_read_timeout(Some(Duration::from_secs(30)))?;
                drop(stream.read(&mut [0; 1]));
                return Ok(());
            }
            Some(Mistake::Closed) => return Ok(()),
            Some(Mistake::Reset) => {
                let now = nix::libc::linger { l_onoff: 1, l_linger: 0 };
                nix::sys::socket::setsockopt(&stream.as_fd(), nix::sys::socket::sockopt::Linger, &now)?;
                return Ok(());
            }
            _ => {}
        }
        stream.write_all(&answer.bytes())?;
    }
}

impl FaultyState {
    /// Draws what happens to a request.
    fn choose(&self, head: &str) -> (Option<Mistake>, u64) {
        let mut dice = self.dice.lock().unwrap();
        let request = head.lines().next().unwrap_or_default();
        if dice.below(100) >= self.rate.load(Ordering::SeqCst) {
            return (None, 0);
        }
        let which = dice.below(Mistake::ALL.len());
        let mistake = Mistake::ALL[which];
        let lags = matches!(mistake, Mistake::Shrunk | Mistake::Emptied);
        // A stall holds a watch for ten seconds and more: rarely.
        let rarely = mistake == Mistake::Stalled && dice.below(4) > 0;
        if rarely || (lags && (request.contains("consistent") || request.contains("/acl/"))) {
            return (None, 0);
        }
        self.made[which].fetch_add(1, Ordering::SeqCst);
        (Some(mistake), dice.next())
    }
}

/// Asks the real one.
fn ask(target: SocketAddr, head: &str, body: &[u8]) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect(target)?;
    stream.write_all(head.trim_end().as_bytes())?;
    stream.write_all(b"\r\nConnection: close\r\n\r\n")?;
    stream.write_all(body)?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let broken = || std::io::Error::other("no answer");
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").ok_or_else(broken)?;
    let text = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = text.lines();
    let status = lines.next().and_then(|line| line.split_once(' ')).ok_or_else(broken)?.1.to_owned();
    let all: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let chunked = all.iter().any(|(name, value)| name.eq_ignore_ascii_case("transfer-encoding") && value == "chunked");
    let body = if chunked { unchunked(&bytes[end + 4..]).ok_or_else(broken)? } else { bytes[end + 4..].to_vec() };
    let ours = ["content-length", "transfer-encoding", "connection"];
    let headers = all.into_iter().filter(|(name, _)| !ours.contains(&name.to_ascii_lowercase().as_str())).collect();
    Ok(Answer { status, headers, body })
}

fn unchunked(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = bytes.windows(2).position(|two| two == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).ok()?, 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.extend(bytes.get(end + 2..end + 2 + size)?);
        bytes = bytes.get(end + 2 + size + 2..)?;
    }
}

/// Returns an answer of the same shape that holds nothing.
fn nothing(body: &[u8]) -> Vec<u8> {
    if body.starts_with(b"{") { b"{}".to_vec() } else { b"[]".to_vec() }
}

/// Returns an answer that lacks a thing.
fn less(body: &[u8], dice: u64) -> Vec<u8> {
    match serde_json::from_slice(body) {
        Ok(serde_json::Value::Array(mut rows)) if !rows.is_empty() => {
            rows.remove(usize::try_from(dice % rows.len() as u64).unwrap());
            serde_json::to_vec(&rows).unwrap()
        }
        Ok(serde_json::Value::Object(mut fields)) if !fields.is_empty() => {
            let name = fields.keys().nth(usize::try_from(dice % fields.len() as u64).unwrap()).unwrap().clone();
            fields.remove(&name);
            serde_json::to_vec(&fields).unwrap()
        }
        _ => body.to_vec(),
    }
}
