//! Files below `ROOT/pub`, as any static web server would give them.

use std::fs::File;
use std::io;
use std::net::TcpStream;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;

use super::connection::{Answer, Head};
use super::http::{self, Method, Range, Request};
use crate::files;

/// Opens a regular file below `base`; no link is followed anywhere on the way.
///
/// # Errors
/// Those of open(2); `NotFound` for what is no regular file.
pub(crate) fn open_below(base: &Path, relative: &str) -> io::Result<File> {
    let directory = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut at = open(base, directory, Mode::empty())?;
    let parts: Vec<&str> = relative.split('/').collect();
    let (name, parents) = parts.split_last().expect("split gives at least one part");
    for part in parents {
        at = openat(&at, *part, directory | OFlag::O_NOFOLLOW, Mode::empty())?;
    }
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = File::from(openat(&at, *name, flags, Mode::empty())?);
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::NotFound.into()) }
}

fn content_type(path: &str) -> &'static str {
    let name = path.rsplit('/').next().unwrap_or_default();
    match name.rsplit('.').next().unwrap_or_default() {
        "json" => "application/json",
        "html" => "text/html; charset=utf-8",
        "metrics" => "text/plain; version=0.0.4; charset=utf-8",
        "deb" => "application/vnd.debian.binary-package",
        "sig" | "gpg" => "application/pgp-signature",
        "InRelease" | "Release" | "Packages" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

/// Answers a GET or HEAD of a published file.
///
/// # Errors
/// The client is gone or too slow.
pub(crate) fn answer(
    stream: &TcpStream,
    request: &Request,
    base: &Path,
    path: &str,
    keep_alive: bool,
) -> io::Result<u16> {
    let file = match open_below(base, path) {
        Ok(file) => file,
        Err(_) => return plain(stream, request, 404, keep_alive),
    };
    let metadata = file.metadata()?;
    let size = metadata.len();
    let modified = u64::try_from(metadata.mtime()).unwrap_or(0);
    // A published file is never changed in place; a pointer that is replaced has another inode.
    let etag = format!("\"{:x}-{:x}-{:x}\"", metadata.ino(), metadata.mtime_nsec(), size);
    let cache = if path.starts_with("snap/") || path.starts_with("packs/") {
        "public, max-age=31536000, immutable"
    } else {
        "no-cache"
    };
    let last_modified = files::rfc1123(modified, "GMT");
    let mut more =
        format!("ETag: {etag}\r\nLast-Modified: {last_modified}\r\nCache-Control: {cache}\r\nAccept-Ranges: bytes\r\n");
    if path.ends_with(".html") {
        more.push_str("Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'\r\n");
    }
    let head = Head {
        status: 200,
        content_type: content_type(path),
        length: Some(size),
        more: "",
        keep_alive,
        is_11: request.is_11,
    };
    if is_fresh(request, &etag, modified) {
        Answer::new(stream, &Head { status: 304, content_type: "", more: &more, ..head }).finish()?;
        return Ok(304);
    }
    let unchanged = request.header("if-range").is_none_or(|value| value == etag || value == last_modified);
    let wanted = request.header("range").filter(|_| unchanged && request.method == Method::Get);
    let (status, start, count) = match wanted.map_or(Range::Whole, |header| http::range(header, size)) {
        Range::Whole => (200, 0, size),
        Range::Part { start, count } => {
            more.push_str(&format!("Content-Range: bytes {start}-{}/{size}\r\n", start + count - 1));
            (206, start, count)
        }
        Range::Unsatisfiable => {
            more.push_str(&format!("Content-Range: bytes */{size}\r\n"));
            Answer::new(stream, &Head { status: 416, length: Some(0), more: &more, ..head }).finish()?;
            return Ok(416);
        }
    };
    let mut answer = Answer::new(stream, &Head { status, length: Some(count), more: &more, ..head });
    if request.method == Method::Get {
        let mut buffer = vec![0; usize::try_from(count.min(128 << 10)).expect("at most 128 KiB")];
        let (mut at, end) = (start, start + count);
        while at < end {
            let wanted = usize::try_from((end - at).min(buffer.len() as u64)).expect("at most the buffer");
            let got = file.read_at(&mut buffer[..wanted], at)?;
            if got == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            answer.send(&buffer[..got])?;
            at += got as u64;
        }
    }
    answer.finish()?;
    Ok(status)
}

fn is_fresh(request: &Request, etag: &str, modified: u64) -> bool {
    match request.header("if-none-match") {
        Some(list) => list.split(',').map(str::trim).any(|tag| tag == "*" || tag.trim_start_matches("W/") == etag),
        None => {
            request.header("if-modified-since").and_then(files::parse_http_date).is_some_and(|since| modified <= since)
        }
    }
}

/// Answers with a status and its words.
///
/// # Errors
/// The client is gone or too slow.
pub(crate) fn plain(stream: &TcpStream, request: &Request, status: u16, keep_alive: bool) -> io::Result<u16> {
    let more = match status {
        405 => "Allow: GET, HEAD\r\n",
        503 => "Retry-After: 2\r\n",
        _ => "",
    };
    text(stream, request, status, &format!("{}\n", http::reason(status)), more, keep_alive)
}

/// Answers with a short text.
///
/// # Errors
/// The client is gone or too slow.
pub(crate) fn text(
    stream: &TcpStream,
    request: &Request,
    status: u16,
    text: &str,
    more: &str,
    keep_alive: bool,
) -> io::Result<u16> {
    let content_type = "text/plain; charset=utf-8";
    let length = Some(text.len() as u64);
    let mut answer =
        Answer::new(stream, &Head { status, content_type, length, more, keep_alive, is_11: request.is_11 });
    if request.method != Method::Head {
        answer.send(text.as_bytes())?;
    }
    answer.finish()?;
    Ok(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_not_followed_anywhere() {
        let dir = tempfile::tempdir().expect("scratch directory");
        let base = dir.path().join("pub");
        std::fs::create_dir_all(base.join("snap")).expect("made");
        std::fs::write(base.join("snap/file"), "x").expect("writable");
        std::fs::write(dir.path().join("secret"), "x").expect("writable");
        std::os::unix::fs::symlink("../../secret", base.join("snap/link")).expect("link");
        std::os::unix::fs::symlink("..", base.join("up")).expect("link");
        assert!(open_below(&base, "snap/file").is_ok());
        for path in ["snap/link", "up/secret", "snap", "snap/none", ""] {
            assert!(open_below(&base, path).is_err(), "{path}");
        }
    }
}
