//! A connection of its own, for whoever asks one question after another and mostly waits.
//!
//! A blocking query waits half a minute for an answer of some hundred bytes. [`Line`] waits in one read(2) of a plain
//! TCP connection, with next to nothing on its thread's stack and no buffers: what forty watches cost is decided here.
//! It speaks the part of HTTP/1.1 that an agent uses (a length or chunks, one answer a request) and takes everything
//! else for a broken answer. Agents that are reached by TLS or by name are asked through the client's pool instead.
//!
//! Everything read is bounded, and so is the time: a deadline for the whole exchange.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use ureq::http::{HeaderMap, HeaderName, HeaderValue};

/// How long the head of an answer, or the rest behind its last chunk, may be.
const HEAD: usize = 64 << 10;
/// Longest line that announces a chunk.
const CHUNK_LINE: usize = 256;
/// Below the two minutes after which an agent closes a connection that nothing is asked on.
const IDLE: Duration = Duration::from_secs(30);

/// A connection to a Consul agent; opened when it is used first, and again when it broke.
#[derive(Debug, Default)]
pub struct Line {
    open: Option<Open>,
    end: LineEnd,
}

/// Ends what goes on on a [`Line`] from another thread: whoever waits on it gets an error at once.
#[derive(Debug, Clone, Default)]
pub struct LineEnd(Arc<Mutex<End>>);

#[derive(Debug, Default)]
struct End {
    over: bool,
    /// Whether it was cut, until the owner takes note.
    cut: bool,
    stream: Weak<TcpStream>,
}

impl LineEnd {
    /// Ends the line: it is never opened again.
    pub fn end(&self) {
        let mut end = self.lock();
        end.over = true;
        end.shutdown();
    }

    /// Ends the question that waits on the line, or the next one, until [`Line::take_cut`] says so to its owner.
    pub fn cut(&self) {
        let mut end = self.lock();
        end.cut = true;
        end.shutdown();
    }

    fn lock(&self) -> MutexGuard<'_, End> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a connection, unless it is over.
    fn follow(&self, stream: &Arc<TcpStream>) -> Result<(), Fault> {
        let mut end = self.lock();
        end.check()?;
        end.stream = Arc::downgrade(stream);
        Ok(())
    }
}

impl End {
    fn check(&self) -> Result<(), Fault> {
        let said = match (self.over, self.cut) {
            (false, false) => return Ok(()),
            (true, _) => "the line was ended",
            (false, true) => "the line was cut",
        };
        Err(Fault::Io(std::io::Error::other(said)))
    }

    fn shutdown(&self) {
        if let Some(stream) = self.stream.upgrade() {
            // It may be closed already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

#[derive(Debug)]
struct Open {
    address: SocketAddr,
    stream: Arc<TcpStream>,
    used: Instant,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

/// Why nothing came back.
#[derive(Debug)]
pub(crate) enum Fault {
    /// No connection, or it ended too early.
    Io(std::io::Error),
    /// The deadline passed.
    Late,
    /// This is no answer.
    Malformed(&'static str),
    /// The body is longer than the limit.
    TooLarge,
}

impl From<std::io::Error> for Fault {
    fn from(error: std::io::Error) -> Fault {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Fault::Late,
            _ => Fault::Io(error),
        }
    }
}

/// Limits of one exchange.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) connect: Duration,
    pub(crate) total: Duration,
    pub(crate) body: u64,
}

impl Line {
    /// Returns a line that is not open yet.
    #[must_use]
    pub fn new() -> Line {
        Line::default()
    }

    /// Returns what ends this line.
    #[must_use]
    pub fn end(&self) -> LineEnd {
        self.end.clone()
    }

    /// Returns whether the line was cut since this was asked last. Until then it answers nothing.
    pub fn take_cut(&mut self) -> bool {
        std::mem::take(&mut self.end.lock().cut)
    }

    /// Sends a request whose head is `head` and returns the answer.
    pub(crate) fn exchange(&mut self, address: SocketAddr, head: &[u8], limits: Limits) -> Result<Received, Fault> {
        let deadline = Instant::now() + limits.total;
        self.end.lock().check()?;
        let kept = self.open.take().filter(|open| open.address == address && open.used.elapsed() < IDLE);
        if let Some(open) = kept {
            match self.attempt(open, head, deadline, limits.body) {
                // The agent may have closed it while nothing was asked. A read can be asked again.
                Err(Fault::Io(error)) if was_cut(&error) => {}
                other => return other,
            }
        }
        let stream = TcpStream::connect_timeout(&address, limits.connect.min(limits.total))?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(limits.connect))?;
        let stream = Arc::new(stream);
        self.end.follow(&stream)?;
        self.attempt(Open { address, stream, used: Instant::now() }, head, deadline, limits.body)
    }

    fn attempt(&mut self, open: Open, head: &[u8], deadline: Instant, limit: u64) -> Result<Received, Fault> {
        (&*open.stream).write_all(head)?;
        let mut input = Input { stream: &open.stream, deadline, bytes: Vec::new(), at: 0 };
        let (status, headers, version) = input.head()?;
        let body = input.body(&headers, limit)?;
        let says = |value| has_token(&headers, "connection", value);
        // What follows an answer unasked belongs to nothing.
        if version == 1 && !says("close") && input.at == input.bytes.len() {
            self.open = Some(Open { used: Instant::now(), ..open });
        }
        Ok(Received { status, headers, body })
    }
}

fn has_token(headers: &HeaderMap, name: &str, token: &str) -> bool {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case(token))
}

/// What came over the connection and was not used yet.
struct Input<'a> {
    stream: &'a TcpStream,
    deadline: Instant,
    bytes: Vec<u8>,
    at: usize,
}

impl Input<'_> {
    /// Waits for more; the end of the stream is an error.
    fn fill(&mut self) -> Result<(), Fault> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Fault::Late);
        }
        self.stream.set_read_timeout(Some(left))?;
        self.bytes.drain(..self.at);
        self.at = 0;
        let mut part = [0; 2048];
        loop {
            match (&mut &*self.stream).read(&mut part) {
                Ok(0) => return Err(Fault::Io(ErrorKind::UnexpectedEof.into())),
                Ok(count) => {
                    self.bytes.extend_from_slice(&part[..count]);
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Takes a line without its end, which is CR LF.
    fn line(&mut self, limit: usize) -> Result<Vec<u8>, Fault> {
        let mut searched = 0;
        loop {
            let left = &self.bytes[self.at..];
            if let Some(end) = left[searched..].iter().position(|byte| *byte == b'\n').map(|end| searched + end) {
                if end > limit {
                    return Err(Fault::Malformed("a line is too long"));
                }
                let line = left[..end].strip_suffix(b"\r").ok_or(Fault::Malformed("a line ends without CR"))?.to_vec();
                self.at += end + 1;
                return Ok(line);
            }
            searched = left.len();
            if searched > limit {
                return Err(Fault::Malformed("a line is too long"));
            }
            self.fill()?;
        }
    }

    /// Takes status, headers and the minor version.
    fn head(&mut self) -> Result<(u16, HeaderMap, u8), Fault> {
        let start = self.line(HEAD)?;
        let malformed = Fault::Malformed("its first line is no status");
        let [b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor @ (b'0' | b'1'), b' ', rest @ ..] = start.as_slice()
        else {
            return Err(malformed);
        };
        let (digits, after) = rest.split_at_checked(3).ok_or(Fault::Malformed("its first line is no status"))?;
        if !digits.iter().all(u8::is_ascii_digit) || !(after.is_empty() || after[0] == b' ') {
            return Err(malformed);
        }
        let status = digits.iter().fold(0, |number, digit| number * 10 + u16::from(digit - b'0'));
        if status < 200 {
            return Err(Fault::Malformed("an interim status is not expected"));
        }
        Ok((status, self.headers()?, minor - b'0'))
    }

    fn headers(&mut self) -> Result<HeaderMap, Fault> {
        let mut headers = HeaderMap::new();
        let mut left = HEAD;
        loop {
            let line = self.line(left)?;
            if line.is_empty() {
                return Ok(headers);
            }
            left = left.checked_sub(line.len() + 2).ok_or(Fault::Malformed("its head is too long"))?;
            let malformed = Fault::Malformed("a header is malformed");
            let Some(colon) = line.iter().position(|byte| *byte == b':') else { return Err(malformed) };
            let name = HeaderName::from_bytes(&line[..colon]);
            let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
            let (Ok(name), Ok(value)) = (name, value) else { return Err(malformed) };
            headers.append(name, value);
        }
    }

    fn body(&mut self, headers: &HeaderMap, limit: u64) -> Result<Vec<u8>, Fault> {
        if headers.contains_key("content-encoding") {
            return Err(Fault::Malformed("it is encoded, which was not asked for"));
        }
        if headers.contains_key("transfer-encoding") {
            let codings: Vec<&HeaderValue> = headers.get_all("transfer-encoding").into_iter().collect();
            // With a length beside it nobody knows which of the two holds.
            if codings != ["chunked"] || headers.contains_key("content-length") {
                return Err(Fault::Malformed("its end cannot be told"));
            }
            return self.chunks(limit);
        }
        let mut lengths = headers.get_all("content-length").into_iter();
        let length = match (lengths.next(), lengths.next()) {
            (Some(length), None) => number(length.as_bytes(), 10).ok_or(Fault::Malformed("its length is no number"))?,
            _ => return Err(Fault::Malformed("its end cannot be told")),
        };
        if length > limit {
            return Err(Fault::TooLarge);
        }
        let mut body = Vec::new();
        self.take(length, &mut body)?;
        Ok(body)
    }

    fn chunks(&mut self, limit: u64) -> Result<Vec<u8>, Fault> {
        let mut body = Vec::new();
        loop {
            let line = self.line(CHUNK_LINE)?;
            let size = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
            let size = number(size, 16).ok_or(Fault::Malformed("the size of a chunk is no number"))?;
            if size == 0 {
                self.headers()?;
                return Ok(body);
            }
            if size > limit.saturating_sub(body.len() as u64) {
                return Err(Fault::TooLarge);
            }
            self.take(size, &mut body)?;
            if !self.line(2)?.is_empty() {
                return Err(Fault::Malformed("a chunk is longer than its size"));
            }
        }
    }

    fn take(&mut self, count: u64, into: &mut Vec<u8>) -> Result<(), Fault> {
        let mut left = usize::try_from(count).map_err(|_| Fault::TooLarge)?;
        loop {
            let ready = &self.bytes[self.at..];
            let used = ready.len().min(left);
            into.extend_from_slice(&ready[..used]);
            self.at += used;
            left -= used;
            if left == 0 {
                return Ok(());
            }
            self.fill()?;
        }
    }
}

/// Reads digits and nothing else; up to fifteen of them, which no limit of ours reaches.
fn number(text: &[u8], base: u32) -> Option<u64> {
    if text.is_empty() || text.len() > 15 {
        return None;
    }
    text.iter()
        .try_fold(0_u64, |number, digit| Some(number * u64::from(base) + u64::from(char::from(*digit).to_digit(base)?)))
}

/// Returns whether a connection ended rather than was refused or timed out.
pub(crate) fn was_cut(error: &std::io::Error) -> bool {
    use std::io::ErrorKind as Kind;
    matches!(error.kind(), Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe | Kind::UnexpectedEof)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    const LIMITS: Limits = Limits { connect: Duration::from_secs(5), total: Duration::from_millis(500), body: 1 << 20 };

    /// Answers each request on one connection with the next text, sent in parts of `part` bytes, then closes.
    fn server(answers: Vec<Vec<u8>>, part: usize) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        std::thread::spawn(move || {
            let mut answers = answers.into_iter();
            while answers.len() > 0 {
                let Ok((mut stream, _)) = listener.accept() else { return };
                let mut request = [0; 1024];
                while let Ok(1..) = stream.read(&mut request) {
                    let Some(answer) = answers.next() else { break };
                    let closes = answer.windows(5).any(|word| word == b"close");
                    for bytes in answer.chunks(part) {
                        if stream.write_all(bytes).is_err() {
                            break;
                        }
                    }
                    if closes || answer.is_empty() {
                        break;
                    }
                }
            }
        });
        address
    }

    fn ask(line: &mut Line, address: SocketAddr) -> Result<Received, Fault> {
        line.exchange(address, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", LIMITS)
    }

    fn text(received: Result<Received, Fault>) -> String {
        String::from_utf8(received.expect("an answer").body).expect("text")
    }

    #[test]
    fn answers_of_a_length_and_in_chunks_on_one_connection() {
        for part in [1, 7, 4096] {
            let answers = [
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Consul-Index:  7 \r\n\r\nhello",
                "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\nT: x\r\n\r\n",
                "HTTP/1.1 200\r\nConnection: keep-alive, close\r\nContent-Length: 2\r\n\r\n[]",
                "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlast",
            ];
            let address = server(answers.iter().map(|answer| answer.as_bytes().to_vec()).collect(), part);
            let mut line = Line::new();
            let first = ask(&mut line, address).expect("an answer");
            assert_eq!((first.status, first.body.as_slice()), (200, b"hello".as_slice()));
            assert_eq!(first.headers["x-consul-index"], "7");
            assert_eq!(ask(&mut line, address).expect("an answer").status, 404);
            assert_eq!(text(ask(&mut line, address)), "abc0123456789");
            assert!(line.open.is_some());
            assert_eq!(text(ask(&mut line, address)), "[]");
            assert!(line.open.is_none(), "it said that it closes");
            assert_eq!(text(ask(&mut line, address)), "last");
        }
    }

    #[test]
    fn a_connection_that_was_closed_meanwhile_is_opened_again() {
        let one = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1".to_vec();
        // Nothing as an answer: closed.
        let address = server(vec![one.clone(), Vec::new(), one], 4096);
        let mut line = Line::new();
        assert_eq!(text(ask(&mut line, address)), "1");
        assert_eq!(text(ask(&mut line, address)), "1");
    }

    #[test]
    fn another_thread_ends_a_wait_for_good() {
        let address = server(vec![b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n[1,".to_vec()], 4096);
        let mut line = Line::new();
        let end = line.end();
        let limits = Limits { total: Duration::from_secs(60), ..LIMITS };
        let waiting = std::thread::spawn(move || {
            let cut = line.exchange(address, b"GET / HTTP/1.1\r\n\r\n", limits);
            (cut, line.exchange(address, b"GET / HTTP/1.1\r\n\r\n", limits))
        });
        std::thread::sleep(Duration::from_millis(100));
        end.end();
        let (cut, again) = waiting.join().expect("no panic");
        assert!(matches!((&cut, &again), (Err(Fault::Io(_)), Err(Fault::Io(_)))), "{cut:?}, {again:?}");
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        for answer in [
            "HTTP/1.1 100 Continue\r\n\r\nclose",
            "HTTP/2 200 OK\r\n\r\nclose",
            "HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\nclose",
            "HTTP/1.1 200 OK\nContent-Length: 0\n\nclose",
            "HTTP/1.1 200 OK\r\n\r\nno length; close",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nclose",
            "HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\nclose",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\nclose",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\nclose",
            "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nclose",
            "HTTP/1.1 200 OK\r\nno colon\r\nContent-Length: 1\r\n\r\nclose",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\nclose",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\nclose",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nclose",
        ] {
            let address = server(vec![answer.as_bytes().to_vec()], 4096);
            let refused = ask(&mut Line::new(), address);
            assert!(matches!(refused, Err(Fault::Malformed(_))), "{answer:?}: {refused:?}");
        }
        let endless = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\nclose", "y".repeat(HEAD));
        assert!(matches!(ask(&mut Line::new(), server(vec![endless.into_bytes()], 4096)), Err(Fault::Malformed(_))));
    }

    #[test]
    fn what_is_cut_late_or_too_long_is_told_apart() {
        let answer = |text: &str| server(vec![text.as_bytes().to_vec()], 4096);
        let cut = ask(&mut Line::new(), answer("HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n[1, close"));
        assert!(matches!(cut, Err(Fault::Io(_))), "{cut:?}");
        let cut = ask(&mut Line::new(), answer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nclose"));
        assert!(matches!(cut, Err(Fault::Io(_))), "{cut:?}");
        let late = ask(&mut Line::new(), answer("HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n[1,"));
        assert!(matches!(late, Err(Fault::Late)), "{late:?}");
        for text in [
            "HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffff\r\n",
        ] {
            assert!(matches!(ask(&mut Line::new(), answer(text)), Err(Fault::TooLarge)), "{text:?}");
        }
    }
}
