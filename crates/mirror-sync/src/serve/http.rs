//! HTTP/1.1 as far as package managers and git need it: request heads, bodies, response heads.
//!
//! Everything that is read is bounded. What two parsers could understand differently (two lengths, a length and
//! chunks, folded lines, spaces before colons) is refused, and the connection closed.

use std::io::{self, BufRead, Read};

/// Largest request head.
const MAX_HEAD: usize = 16 << 10;
/// Most header lines.
const MAX_HEADERS: usize = 100;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    /// `GET`.
    Get,
    /// `HEAD`.
    Head,
    /// `POST`.
    Post,
    /// Anything else.
    Other,
}

/// A request's head.
#[derive(Debug)]
pub(crate) struct Request {
    /// Method.
    pub(crate) method: Method,
    /// Path after percent-decoding, starting with a slash.
    pub(crate) path: String,
    /// What stands behind the question mark, as sent.
    pub(crate) query: String,
    /// Whether the client speaks HTTP/1.1.
    pub(crate) is_11: bool,
    headers: Vec<(String, String)>,
    body: Length,
}

/// How long a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Length {
    Fixed(u64),
    Chunked,
}

/// A request that is refused; the status to answer with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused(pub(crate) u16);

/// Why no request was read.
#[derive(Debug)]
pub(crate) enum HeadError {
    /// Answer with this status, then close.
    Refused(Refused),
    /// The connection is of no use any more.
    Io(io::Error),
}

impl Request {
    /// Reads the next head; `None` when the client has closed the connection between requests.
    ///
    /// # Errors
    /// See [`HeadError`].
    pub(crate) fn read(reader: &mut impl BufRead) -> Result<Option<Self>, HeadError> {
        let mut lines: Vec<String> = Vec::new();
        let mut size = 0;
        loop {
            let mut line = Vec::new();
            let count = reader
                .by_ref()
                .take((MAX_HEAD + 1 - size) as u64)
                .read_until(b'\n', &mut line)
                .map_err(HeadError::Io)?;
            size += count;
            if count == 0 && lines.is_empty() {
                return Ok(None);
            }
            if line.pop() != Some(b'\n') {
                return Err(if size > MAX_HEAD {
                    HeadError::Refused(Refused(431))
                } else {
                    HeadError::Io(io::ErrorKind::UnexpectedEof.into())
                });
            }
            if line.last() == Some(&b'\r') {
                line.pop();
            }
            if line.is_empty() {
                // An empty line before a request is left over from the last one.
                if lines.is_empty() {
                    continue;
                }
                break;
            }
            if lines.len() > MAX_HEADERS {
                return Err(HeadError::Refused(Refused(431)));
            }
            lines.push(String::from_utf8(line).map_err(|_| HeadError::Refused(Refused(400)))?);
        }
        Self::parse(&lines).map(Some).map_err(HeadError::Refused)
    }

    fn parse(lines: &[String]) -> Result<Self, Refused> {
        let bad = || Refused(400);
        let (first, rest) = lines.split_first().ok_or_else(bad)?;
        let mut words = first.split(' ');
        let (Some(method), Some(target), Some(version), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(bad());
        };
        let is_11 = match version {
            "HTTP/1.1" => true,
            "HTTP/1.0" => false,
            _ if version.starts_with("HTTP/") => return Err(Refused(505)),
            _ => return Err(bad()),
        };
        let method = match method {
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            "POST" => Method::Post,
            _ => Method::Other,
        };
        // A proxy's client sends the whole URL.
        let target = match target.strip_prefix("http://") {
            Some(rest) => &rest[rest.find('/').ok_or_else(bad)?..],
            None => target,
        };
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let path = decode(path).ok_or_else(bad)?;
        let mut headers = Vec::with_capacity(rest.len());
        for line in rest {
            let (name, value) = line.split_once(':').ok_or_else(bad)?;
            let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
            if name.is_empty() || !name.bytes().all(token) || value.contains(['\r', '\0']) {
                return Err(bad());
            }
            headers.push((name.to_ascii_lowercase(), value.trim_matches([' ', '\t']).to_owned()));
        }
        let mut request = Self { method, path, query: query.to_owned(), is_11, headers, body: Length::Fixed(0) };
        request.body = request.length()?;
        if is_11 && request.all("host").count() != 1 {
            return Err(bad());
        }
        Ok(request)
    }

    fn length(&self) -> Result<Length, Refused> {
        let coding: Vec<&str> = self.all("transfer-encoding").collect();
        let length: Vec<&str> = self.all("content-length").collect();
        match (coding.as_slice(), length.as_slice()) {
            ([], []) => Ok(Length::Fixed(0)),
            ([], [length]) if !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit()) => {
                length.parse().map(Length::Fixed).map_err(|_| Refused(413))
            }
            ([coding], []) if self.is_11 && coding.eq_ignore_ascii_case("chunked") => Ok(Length::Chunked),
            ([_], []) => Err(Refused(501)),
            _ => Err(Refused(400)),
        }
    }

    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.headers.iter().filter(move |(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// Returns a header's value; the first one of several.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// Whether a body follows the head.
    pub(crate) fn has_body(&self) -> bool {
        self.body != Length::Fixed(0)
    }

    /// Whether the client wants to send further requests.
    pub(crate) fn keep_alive(&self) -> bool {
        let has = |word: &str| {
            self.all("connection").flat_map(|value| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case(word))
        };
        if self.is_11 { !has("close") } else { has("keep-alive") }
    }

    /// Whether the client waits for a word before it sends the body.
    pub(crate) fn expects_continue(&self) -> bool {
        self.is_11 && self.header("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue"))
    }

    /// Reads the whole body as sent, of at most `limit` bytes.
    ///
    /// # Errors
    /// 413 above the limit, 400 for broken chunks and bodies that end early.
    pub(crate) fn read_body(&self, reader: &mut impl BufRead, limit: u64) -> Result<Vec<u8>, Refused> {
        let exactly = |reader: &mut dyn Read, count: u64, into: &mut Vec<u8>| {
            if into.len() as u64 + count > limit {
                return Err(Refused(413));
            }
            let read = reader.take(count).read_to_end(into).map_err(|_| Refused(400))?;
            if read as u64 == count { Ok(()) } else { Err(Refused(400)) }
        };
        let mut body = Vec::new();
        match self.body {
            Length::Fixed(length) => exactly(reader, length, &mut body)?,
            Length::Chunked => {
                let mut lines = 0;
                loop {
                    let line = chunk_line(reader)?;
                    let size = line.split(';').next().unwrap_or_default().trim();
                    if size.is_empty() || size.len() > 8 || !size.bytes().all(|b| b.is_ascii_hexdigit()) {
                        return Err(Refused(400));
                    }
                    let size = u64::from_str_radix(size, 16).map_err(|_| Refused(400))?;
                    if size == 0 {
                        break;
                    }
                    exactly(reader, size, &mut body)?;
                    lines += 1;
                    if lines > 1_000_000 || !chunk_line(reader)?.is_empty() {
                        return Err(Refused(400));
                    }
                }
                // Trailers mean nothing here.
                for _ in 0..MAX_HEADERS {
                    if chunk_line(reader)?.is_empty() {
                        return Ok(body);
                    }
                }
                return Err(Refused(400));
            }
        }
        Ok(body)
    }
}

fn chunk_line(reader: &mut impl BufRead) -> Result<String, Refused> {
    let mut line = Vec::new();
    reader.take(1024).read_until(b'\n', &mut line).map_err(|_| Refused(400))?;
    let line = line.strip_suffix(b"\r\n").or_else(|| line.strip_suffix(b"\n")).ok_or(Refused(400))?;
    String::from_utf8(line.to_vec()).map_err(|_| Refused(400))
}

/// Decodes a path and refuses what could mean another file: `..`, hidden names, backslashes, control characters.
fn decode(path: &str) -> Option<String> {
    let bytes = path.as_bytes();
    for (at, _) in bytes.iter().enumerate().filter(|(_, b)| **b == b'%') {
        let hex = bytes.get(at + 1..at + 3)?;
        hex.iter().all(u8::is_ascii_hexdigit).then_some(())?;
    }
    let decoded = percent_encoding::percent_decode_str(path).decode_utf8().ok()?;
    let inner = decoded.strip_prefix('/')?;
    let plain = |part: &str| !part.starts_with('.') && !part.contains('\\') && !part.contains(char::is_control);
    let parts: Vec<&str> = inner.split('/').collect();
    let empty_inside = parts.iter().rev().skip(1).any(|part| part.is_empty());
    (!empty_inside && parts.iter().all(|part| plain(part))).then(|| decoded.into_owned())
}

/// Returns a status line's words.
pub(crate) fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        206 => "Partial Content",
        304 => "Not Modified",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Internal Server Error",
    }
}

/// One range of a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Range {
    /// Send everything: no range, several, or one that is no range.
    Whole,
    /// Send these bytes.
    Part {
        /// First byte.
        start: u64,
        /// Number of bytes, not 0.
        count: u64,
    },
    /// Nothing of it exists.
    Unsatisfiable,
}

/// Understands a `Range` header for a file of `size` bytes.
pub(crate) fn range(header: &str, size: u64) -> Range {
    let Some((first, last)) = header.strip_prefix("bytes=").and_then(|spec| spec.trim().split_once('-')) else {
        return Range::Whole;
    };
    let number = |text: &str| if text.bytes().all(|b| b.is_ascii_digit()) { text.parse::<u64>().ok() } else { None };
    let (start, end) = match (first, last) {
        ("", last) => match number(last) {
            Some(0) => return Range::Unsatisfiable,
            Some(count) => (size.saturating_sub(count), size),
            None => return Range::Whole,
        },
        (first, "") => match number(first) {
            Some(start) => (start, size),
            None => return Range::Whole,
        },
        (first, last) => match (number(first), number(last)) {
            (Some(start), Some(last)) if start <= last => (start, size.min(last.saturating_add(1))),
            _ => return Range::Whole,
        },
    };
    if start >= size { Range::Unsatisfiable } else { Range::Part { start, count: end - start } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn read(text: &str) -> Result<Option<Request>, HeadError> {
        Request::read(&mut Cursor::new(text.as_bytes()))
    }

    fn status(text: &str) -> u16 {
        match read(text) {
            Err(HeadError::Refused(Refused(status))) => status,
            other => panic!("{text:?}: {other:?}"),
        }
    }

    #[test]
    fn pipelined_requests_are_read_one_after_the_other() {
        let mut reader = Cursor::new(
            &b"GET /snap/a%20b HTTP/1.1\r\nHost: x\r\n\r\nPOST /git/h/x.git/git-upload-pack?a=b HTTP/1.1\r\nhost:x\r\n\
              Transfer-Encoding: chunked\r\n\r\n4\r\nwant\r\n2;x=y\r\ned\r\n0\r\n\r\nHEAD / HTTP/1.0\r\n\r\n"[..],
        );
        let first = Request::read(&mut reader).expect("fine").expect("there");
        assert_eq!((first.method, first.path.as_str(), first.keep_alive()), (Method::Get, "/snap/a b", true));
        let second = Request::read(&mut reader).expect("fine").expect("there");
        assert_eq!(second.query, "a=b");
        assert_eq!(second.read_body(&mut reader, 100).expect("fine"), b"wanted");
        let third = Request::read(&mut reader).expect("fine").expect("there");
        assert_eq!((third.method, third.keep_alive()), (Method::Head, false));
        assert!(Request::read(&mut reader).expect("fine").is_none());
    }

    #[test]
    fn paths_that_lead_out_are_refused() {
        for path in [
            "/../x",
            "/snap/%2e%2e/x",
            "/snap/..%2fx",
            "/snap/%00",
            "/a\\b",
            "/%5c",
            "/snap//x",
            "/.git",
            "x",
            "/%zz",
            "/%e9",
        ] {
            assert_eq!(status(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")), 400, "{path}");
        }
    }

    #[test]
    fn what_can_be_read_two_ways_is_refused() {
        let with = |header: &str| format!("POST / HTTP/1.1\r\nHost: x\r\n{header}\r\n\r\n");
        assert_eq!(status(&with("Content-Length: 1\r\nContent-Length: 2")), 400);
        assert_eq!(status(&with("Content-Length: 1\r\nTransfer-Encoding: chunked")), 400);
        assert_eq!(status(&with("Content-Length: +1")), 400);
        assert_eq!(status(&with("Transfer-Encoding: gzip, chunked")), 501);
        assert_eq!(status(&with("Content-Length : 1")), 400);
        assert_eq!(status(&with("A: b\r\n folded")), 400);
        assert_eq!(status("GET / HTTP/1.1\r\n\r\n"), 400);
        assert_eq!(status("GET / HTTP/2.0\r\n\r\n"), 505);
        assert_eq!(status(&with(&"a: b\r\n".repeat(200))), 431);
        assert_eq!(status(&with(&format!("A: {}", "x".repeat(20_000)))), 431);
        assert!(matches!(read("GET / HT"), Err(HeadError::Io(_))));
    }

    #[test]
    fn bodies_are_bounded_and_whole() {
        let body = |head: &str, body: &str, limit| {
            let text = format!("POST / HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n{body}");
            let mut reader = Cursor::new(text.into_bytes());
            let request = Request::read(&mut reader).expect("fine").expect("there");
            request.read_body(&mut reader, limit)
        };
        assert_eq!(body("Content-Length: 3", "abc", 3), Ok(b"abc".to_vec()));
        assert_eq!(body("Content-Length: 3", "abc", 2), Err(Refused(413)));
        assert_eq!(body("Content-Length: 18446744073709551615", "abc", 9), Err(Refused(413)));
        assert_eq!(body("Content-Length: 3", "ab", 9), Err(Refused(400)));
        assert_eq!(body("Transfer-Encoding: chunked", "3\r\nabc\r\n", 9), Err(Refused(400)));
        assert_eq!(body("Transfer-Encoding: chunked", "-3\r\nabc\r\n0\r\n\r\n", 9), Err(Refused(400)));
        assert_eq!(body("Transfer-Encoding: chunked", "ffffffff\r\nabc", 9), Err(Refused(413)));
    }

    #[test]
    fn ranges_are_those_of_the_standard() {
        let part = |start, count| Range::Part { start, count };
        assert_eq!(range("bytes=0-0", 10), part(0, 1));
        assert_eq!(range("bytes=4-", 10), part(4, 6));
        assert_eq!(range("bytes=4-99", 10), part(4, 6));
        assert_eq!(range("bytes=-3", 10), part(7, 3));
        assert_eq!(range("bytes=-30", 10), part(0, 10));
        assert_eq!(range("bytes=10-", 10), Range::Unsatisfiable);
        assert_eq!(range("bytes=-0", 10), Range::Unsatisfiable);
        assert_eq!(range("bytes=0-", 0), Range::Unsatisfiable);
        for whole in ["bytes=5-4", "bytes=a-", "bytes=1-2,4-5", "lines=1-2", "bytes=", "bytes=--1"] {
            assert_eq!(range(whole, 10), Range::Whole, "{whole}");
        }
    }
}
