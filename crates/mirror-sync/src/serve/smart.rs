//! Smart git over HTTP, read-only: `git upload-pack` per request, protocol versions 0 to 2.
//!
//! The child has a closed environment and reads no configuration; commits may be asked for by their id, so
//! that clients can fetch exactly what a snapshot or a lock file names. A child that says nothing for a
//! minute, or whose client is gone, is ended with everything it started.

use std::io::{self, BufRead, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use toolkit::process::Group;

use super::connection::{Answer, Head};
use super::http::{Method, Request};
use super::published::plain;
use crate::{files, git};

/// Largest request body as sent: the ids that a client wants and has, usually packed.
const MAX_BODY: u64 = 4 << 20;
/// Largest request body unpacked.
const MAX_UNPACKED: u64 = 16 << 20;
/// Bodies that are read at the same time.
const MAX_BODIES: usize = 64;
/// Children at the same time.
const MAX_CHILDREN: usize = 16;
/// How long a request waits for its turn.
const TURN: Duration = Duration::from_secs(60);
/// How often a wait looks whether the server ends.
const SLICE: Duration = Duration::from_millis(250);
/// Longest silence of a child; it says something every five seconds while it counts objects.
const SILENCE: Duration = Duration::from_secs(60);
/// Longest answer.
const TOTAL: Duration = Duration::from_secs(3600);

/// What all requests share.
#[derive(Debug)]
pub(crate) struct Smart {
    bodies: Turns,
    children: Turns,
    stopped: AtomicBool,
}

impl Smart {
    /// Prepares to answer.
    pub(crate) fn new() -> Self {
        Self { bodies: Turns::new(MAX_BODIES), children: Turns::new(MAX_CHILDREN), stopped: AtomicBool::new(false) }
    }

    /// Ends what is under way within moments.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }
}

/// Limits how many do something at the same time.
#[derive(Debug)]
struct Turns {
    free: Mutex<usize>,
    freed: Condvar,
}

struct Turn<'a>(&'a Turns);

const COUNTING: &str = "no thread panics while it counts";

impl Turns {
    fn new(count: usize) -> Self {
        Self { free: Mutex::new(count), freed: Condvar::new() }
    }

    /// Waits for a turn; `None` when there was none in time.
    fn take(&self, stopped: impl Fn() -> bool) -> Option<Turn<'_>> {
        let deadline = Instant::now() + TURN;
        let mut free = self.free.lock().expect(COUNTING);
        while *free == 0 {
            if stopped() || Instant::now() >= deadline {
                return None;
            }
            free = self.freed.wait_timeout(free, SLICE).expect(COUNTING).0;
        }
        *free -= 1;
        Some(Turn(self))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().expect(COUNTING) += 1;
        self.0.freed.notify_one();
    }
}

/// What a path below `/git/` asks for.
#[derive(Debug, PartialEq, Eq)]
enum Call<'a> {
    Refs(&'a str),
    Pack(&'a str),
}

/// Splits `HOST…/PATH.git/info/refs` and `HOST…/PATH.git/git-upload-pack`.
fn call(path: &str) -> Option<Call<'_>> {
    let (repository, call) = match path.strip_suffix("/info/refs") {
        Some(repository) => (repository, Call::Refs(repository)),
        None => path.strip_suffix("/git-upload-pack").map(|repository| (repository, Call::Pack(repository)))?,
    };
    git::check_path(repository).ok()?;
    Some(call)
}

/// Answers a request below `/git/`; the connection stays open only after a whole answer.
///
/// # Errors
/// The client is gone or too slow, or git failed in the middle of its answer.
pub(crate) fn answer(
    stream: &TcpStream,
    reader: &mut impl BufRead,
    request: &Request,
    base: &Path,
    smart: &Smart,
    keep_alive: bool,
) -> io::Result<(u16, bool)> {
    // A body that is not read ends the connection.
    let refuse = |status, keep: bool| plain(stream, request, status, keep).map(|status| (status, keep));
    let calm = keep_alive && !request.has_body();
    let path = request.path.strip_prefix("/git/").unwrap_or_default();
    let Some(call) = call(path) else { return refuse(404, calm) };
    let (repository, refs) = match (&call, request.method) {
        (Call::Refs(_), Method::Get | Method::Head) if request.query != "service=git-upload-pack" => {
            return refuse(403, calm);
        }
        (Call::Refs(repository), Method::Get) => (*repository, true),
        (Call::Pack(repository), Method::Post) => (*repository, false),
        _ => return refuse(405, calm),
    };
    let Some(directory) = present(base, repository) else { return refuse(404, calm) };
    let mut body = Vec::new();
    let mut _reading = None;
    if !refs {
        if request.header("content-type") != Some("application/x-git-upload-pack-request") {
            return refuse(415, false);
        }
        _reading = smart.bodies.take(|| smart.is_stopped());
        if _reading.is_none() {
            return refuse(503, false);
        }
        if request.expects_continue() {
            let mut stream = stream;
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        body = match request.read_body(reader, MAX_BODY) {
            Ok(body) => body,
            Err(refused) => return refuse(refused.0, false),
        };
    } else if request.has_body() {
        return refuse(400, false);
    }
    let protocol = request.header("git-protocol").filter(|value| is_protocol(value)).unwrap_or_default();
    let Some(_turn) = smart.children.take(|| smart.is_stopped()) else { return refuse(503, keep_alive) };
    match request.header("content-encoding") {
        None | Some("identity") => {}
        Some("gzip" | "x-gzip") => {
            match files::read_to_limit(flate2::read::MultiGzDecoder::new(&body[..]), MAX_UNPACKED) {
                Ok(unpacked) => body = unpacked,
                Err(error) if error.kind() == io::ErrorKind::FileTooLarge => return refuse(413, keep_alive),
                Err(_) => return refuse(400, keep_alive),
            }
        }
        Some(_) => return refuse(415, keep_alive),
    }
    let mut group = match spawn(&directory, refs, protocol) {
        Ok(group) => group,
        Err(_) => return refuse(500, keep_alive),
    };
    let content_type =
        if refs { "application/x-git-upload-pack-advertisement" } else { "application/x-git-upload-pack-result" };
    let head = Head {
        status: 200,
        content_type,
        length: None,
        more: "Cache-Control: no-cache\r\n",
        keep_alive: keep_alive && request.is_11,
        is_11: request.is_11,
    };
    let preface: &[u8] = if refs && version(protocol) < 2 { b"001e# service=git-upload-pack\n0000" } else { b"" };
    if relay(stream, &mut group, &body, &head, preface, smart)? {
        Ok((200, head.keep_alive))
    } else {
        refuse(500, keep_alive)
    }
}

/// Returns the directory of a repository that is there, no component of which is a link.
fn present(base: &Path, repository: &str) -> Option<PathBuf> {
    let mut path = base.to_owned();
    for part in repository.split('/') {
        path.push(part);
        if !std::fs::symlink_metadata(&path).ok()?.is_dir() {
            return None;
        }
    }
    Some(path)
}

fn is_protocol(value: &str) -> bool {
    value.len() <= 256 && value.bytes().all(|b| b.is_ascii_alphanumeric() || b"=:._-".contains(&b))
}

/// Returns the protocol version that git chooses by this header.
fn version(protocol: &str) -> u32 {
    protocol.split(':').filter_map(|part| part.strip_prefix("version=")?.parse().ok()).max().unwrap_or(0)
}

fn spawn(directory: &Path, refs: bool, protocol: &str) -> io::Result<Group> {
    let mut command = Command::new("git");
    git::closed_environment(&mut command);
    if !protocol.is_empty() {
        command.env("GIT_PROTOCOL", protocol);
    }
    for setting in [
        "safe.directory=*",
        "uploadpack.allowReachableSHA1InWant=true",
        "uploadpack.allowTipSHA1InWant=true",
        "uploadpack.allowFilter=true",
        "core.hooksPath=/dev/null",
    ] {
        command.args(["-c", setting]);
    }
    command.args(["upload-pack", "--strict", "--stateless-rpc"]);
    if refs {
        command.arg("--advertise-refs");
    }
    command.arg(directory).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    Group::spawn(&mut command)
}

/// Passes the body to the child and its output to the client; `false` when the child failed without a word.
fn relay(
    stream: &TcpStream,
    group: &mut Group,
    body: &[u8],
    head: &Head<'_>,
    preface: &[u8],
    smart: &Smart,
) -> io::Result<bool> {
    let child = group.child();
    let mut input = child.stdin.take().expect("stdin is piped");
    let mut output = child.stdout.take().expect("stdout is piped");
    let deadline = Instant::now() + TOTAL;
    std::thread::scope(|scope| {
        let writer = scope.spawn(move || {
            // A child that ends early leaves the rest unread; its status tells whether that is right.
            let _ = input.write_all(body);
        });
        let mut buffer = vec![0; 64 << 10];
        let mut answer: Option<Answer<'_>> = None;
        let copied = loop {
            let left = deadline.saturating_duration_since(Instant::now()).min(SILENCE);
            match read_within(&mut output, &mut buffer, left, smart) {
                Ok(0) => break Ok(()),
                Ok(count) => {
                    let answer = answer.get_or_insert_with(|| Answer::new(stream, head));
                    if answer.is_new()
                        && let Err(error) = answer.send(preface)
                    {
                        break Err(error);
                    }
                    if let Err(error) = answer.send(&buffer[..count]) {
                        break Err(error);
                    }
                }
                Err(error) => break Err(error),
            }
        };
        if copied.is_err() {
            group.signal(Signal::SIGKILL);
        }
        let _ = writer.join();
        let status = match group.wait_until(Instant::now() + Duration::from_secs(10))? {
            Some(status) => status,
            None => group.terminate(Duration::from_secs(1))?,
        };
        copied?;
        match answer {
            // An answer that is cut short must not look whole.
            Some(_) if !status.success() => Err(io::Error::other("git failed in its answer")),
            Some(answer) => answer.finish().map(|()| true),
            None if status.success() => Answer::new(stream, head).finish().map(|()| true),
            None => Ok(false),
        }
    })
}

fn read_within(pipe: &mut (impl Read + AsFd), buffer: &mut [u8], limit: Duration, smart: &Smart) -> io::Result<usize> {
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || smart.is_stopped() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let timeout = PollTimeout::try_from(left.min(SLICE)).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) | Err(nix::errno::Errno::EINTR) => {}
            Ok(_) => return pipe.read(buffer),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_two_calls_of_a_fetch_are_known() {
        assert_eq!(call("h/a/b.git/info/refs"), Some(Call::Refs("h/a/b.git")));
        assert_eq!(call("h/b.git/git-upload-pack"), Some(Call::Pack("h/b.git")));
        for path in [
            "h/b.git",
            "h/b.git/HEAD",
            "h/b.git/git-receive-pack",
            "b.git/info/refs",
            "h/b/info/refs",
            "h/b.git/x.git/info/refs",
            "",
            "/info/refs",
            "h/-x.git/info/refs",
        ] {
            assert_eq!(call(path), None, "{path}");
        }
    }

    #[test]
    fn the_protocol_header_is_data() {
        assert!(is_protocol("version=2") && is_protocol("version=1:key=x"));
        assert!(!is_protocol("version=2\nX=1") && !is_protocol(&"a".repeat(300)));
        assert_eq!((version(""), version("version=1:version=2"), version("x")), (0, 2, 0));
    }
}
