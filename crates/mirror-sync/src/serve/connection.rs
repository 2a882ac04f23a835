//! One client's connection: reads and writes that end by a deadline, and the forms of an answer.

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::http;
use crate::files;

/// Longest time in which a client takes nothing of what is sent.
const STALL: Duration = Duration::from_secs(30);
/// A client that takes less than this in a second on average is cut off after the first minute.
const SLOWEST: u64 = 1024;

/// A socket whose reads end at a deadline.
#[derive(Debug)]
pub(crate) struct Timed<'a> {
    stream: &'a TcpStream,
    deadline: Cell<Instant>,
}

impl<'a> Timed<'a> {
    /// Wraps a socket.
    pub(crate) fn new(stream: &'a TcpStream) -> Self {
        Self { stream, deadline: Cell::new(Instant::now()) }
    }

    /// Lets reads go on for `limit` from now, however many they are.
    pub(crate) fn allow(&self, limit: Duration) {
        self.deadline.set(Instant::now() + limit);
    }
}

impl Read for &Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.deadline.get().saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        let mut stream = self.stream;
        match stream.read(buffer) {
            // What the system calls a socket's timeout.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(io::ErrorKind::TimedOut.into()),
            other => other,
        }
    }
}

/// Writes one answer.
#[derive(Debug)]
pub(crate) struct Answer<'a> {
    stream: &'a TcpStream,
    started: Instant,
    sent: u64,
    chunked: bool,
    /// Head and small pieces, sent together.
    buffer: Vec<u8>,
}

/// Facts of an answer's head.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head<'a> {
    /// Status code.
    pub(crate) status: u16,
    /// `Content-Type`.
    pub(crate) content_type: &'a str,
    /// Body length; `None` when it is not known yet.
    pub(crate) length: Option<u64>,
    /// Further header lines, each ended by CRLF.
    pub(crate) more: &'a str,
    /// Whether the connection stays open.
    pub(crate) keep_alive: bool,
    /// Whether the client understands chunks.
    pub(crate) is_11: bool,
}

impl<'a> Answer<'a> {
    /// Starts an answer.
    pub(crate) fn new(stream: &'a TcpStream, head: &Head<'_>) -> Self {
        let mut text = format!(
            "HTTP/1.1 {} {}\r\nDate: {}\r\nServer: mirror-sync\r\n",
            head.status,
            http::reason(head.status),
            files::rfc1123(files::now(), "GMT"),
        );
        if !head.content_type.is_empty() {
            text.push_str(&format!("Content-Type: {}\r\n", head.content_type));
        }
        let chunked = head.length.is_none() && head.is_11;
        match head.length {
            // An answer without a body by its status has no length.
            Some(_) if head.status == 304 => {}
            Some(length) => text.push_str(&format!("Content-Length: {length}\r\n")),
            None if chunked => text.push_str("Transfer-Encoding: chunked\r\n"),
            None => {}
        }
        text.push_str(head.more);
        text.push_str(if head.keep_alive { "Connection: keep-alive\r\n\r\n" } else { "Connection: close\r\n\r\n" });
        Self { stream, started: Instant::now(), sent: 0, chunked, buffer: text.into_bytes() }
    }

    /// Whether nothing was sent yet.
    pub(crate) fn is_new(&self) -> bool {
        self.sent == 0
    }

    /// Sends a piece of the body.
    ///
    /// # Errors
    /// The client is gone or too slow.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        if self.chunked {
            buffer.extend_from_slice(format!("{:x}\r\n", bytes.len()).as_bytes());
        }
        if bytes.len() <= 16 << 10 || self.chunked {
            buffer.extend_from_slice(bytes);
            if self.chunked {
                buffer.extend_from_slice(b"\r\n");
            }
            self.write(&buffer)
        } else {
            self.write(&buffer)?;
            self.write(bytes)
        }
    }

    /// Ends the answer.
    ///
    /// # Errors
    /// The client is gone or too slow.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        if self.chunked {
            buffer.extend_from_slice(b"0\r\n\r\n");
        }
        self.write(&buffer)
    }

    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let allowed = Duration::from_secs(60 + self.sent / SLOWEST);
            let left = allowed.saturating_sub(self.started.elapsed());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.stream.set_write_timeout(Some(left.min(STALL)))?;
            let mut stream = self.stream;
            match stream.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    bytes = &bytes[count..];
                    self.sent += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
