//! `serve`: a small HTTP server for what is published, and for git.
//!
//! One thread a connection, at most [`MAX_CONNECTIONS`]; further clients wait in the listen queue. Every read and
//! write has a deadline, so a client that stalls costs one thread for a bounded time. Only GET and HEAD below
//! `ROOT/pub/snap` and `ROOT/pub/channel`, the status in its three forms, and fetches below `/git`, are answered; nothing else of ROOT can be
//! reached, and no link is followed. Requests may be pipelined, as apt does.
//!
//! On TERM or INT no new request is taken, answers under way get a few seconds, and the exit code is 0.

mod connection;
pub(crate) mod http;
mod published;
mod smart;

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use toolkit::Io;
use toolkit::io::Level;
use toolkit::signals::Notes;

use crate::config::Config;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::store::Store;
use connection::Timed;
use http::{HeadError, Method, Refused, Request};

/// Connections at the same time.
const MAX_CONNECTIONS: usize = 512;
/// How long a connection may wait for its next request.
const IDLE: Duration = Duration::from_secs(30);
/// The same while most connections are taken.
const IDLE_WHEN_FULL: Duration = Duration::from_secs(2);
/// How long a request's head may take.
const HEAD: Duration = Duration::from_secs(10);
/// How long a request's body may take.
const BODY: Duration = Duration::from_secs(60);
/// How long answers under way may take once the server is told to end.
const GRACE: Duration = Duration::from_secs(5);

/// The page for people.
const PAGE: &str = "index.html";

const INDEX: &str = "\
mirror-sync

/channel/NAME.json           where a channel points: the snapshot's id and URL
/snap/ID/manifest.json       what a snapshot holds; manifest.json.sig is the site's signature
/snap/ID/deb/SOURCE          a repository for apt
/git/HOST/PATH.git           a repository for git
";

/// Serves until TERM or INT.
///
/// # Errors
/// [`Error::Unavailable`] when the address cannot be listened on.
pub(crate) fn run(config: &Config, listen: SocketAddr, io: &mut Io) -> Result<()> {
    let store = Store::at(config.root()?);
    let away = |error: io::Error| Error::unavailable(format!("cannot listen on {listen}"), error.to_string());
    let listener = TcpListener::bind(listen).map_err(away)?;
    listener.set_nonblocking(true).map_err(away)?;
    let address = listener.local_addr().map_err(away)?;
    let notes = Notes::install().map_err(|error| Error::Bug(format!("signals: {error}")))?;
    io.note(format_args!("serving {} on http://{address}", store.path("").display()));
    let server = Server {
        published: store.path("pub"),
        git: store.path("git"),
        smart: smart::Smart::new(),
        connections: Connections::default(),
        ending: AtomicBool::new(false),
        log: (io.level() >= Level::Debug).then(|| Mutex::new(io)),
    };
    std::thread::scope(|scope| {
        while notes.termination().is_none() {
            match server.accept(&listener, notes) {
                Ok(Some((stream, number))) => {
                    let server = &server;
                    let spawned = std::thread::Builder::new().stack_size(512 << 10).spawn_scoped(scope, move || {
                        // A client that goes away is its own business.
                        let _ = server.connection(&stream);
                        server.connections.remove(number);
                    });
                    if spawned.is_err() {
                        server.connections.remove(number);
                    }
                }
                Ok(None) => {}
                // Out of descriptors or memory for a moment: those who wait stay in the queue.
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
        server.ending.store(true, Ordering::SeqCst);
        server.connections.shutdown(Shutdown::Read);
        if !server.connections.wait_empty(GRACE) {
            server.smart.stop();
            server.connections.shutdown(Shutdown::Both);
        }
    });
    Ok(())
}

struct Server<'a> {
    published: PathBuf,
    git: PathBuf,
    smart: smart::Smart,
    connections: Connections,
    ending: AtomicBool,
    log: Option<Mutex<&'a mut Io>>,
}

impl Server<'_> {
    /// Waits for a client or a signal.
    fn accept(&self, listener: &TcpListener, notes: Notes) -> io::Result<Option<(TcpStream, u64)>> {
        let room = self.connections.count() < MAX_CONNECTIONS;
        let mut fds = vec![PollFd::new(notes.fd(), PollFlags::POLLIN)];
        if room {
            fds.push(PollFd::new(listener.as_fd(), PollFlags::POLLIN));
        }
        let timeout = if room { PollTimeout::NONE } else { PollTimeout::from(20u16) };
        match poll(&mut fds, timeout) {
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        notes.drain();
        if !room {
            return Ok(None);
        }
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                stream.set_nodelay(true)?;
                let number = self.connections.add(stream.try_clone()?);
                Ok(Some((stream, number)))
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionAborted) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn connection(&self, stream: &TcpStream) -> io::Result<()> {
        let timed = Timed::new(stream);
        let mut reader = BufReader::with_capacity(16 << 10, &timed);
        loop {
            let full = self.connections.count() * 4 > MAX_CONNECTIONS * 3;
            timed.allow(if full { IDLE_WHEN_FULL } else { IDLE });
            if reader.fill_buf()?.is_empty() {
                return Ok(());
            }
            timed.allow(HEAD);
            let request = match Request::read(&mut reader) {
                Ok(Some(request)) => request,
                Ok(None) => return Ok(()),
                Err(HeadError::Refused(Refused(status))) => return self.refuse(stream, status),
                Err(HeadError::Io(error)) if error.kind() == io::ErrorKind::TimedOut => {
                    return self.refuse(stream, 408);
                }
                Err(HeadError::Io(error)) => return Err(error),
            };
            timed.allow(BODY);
            let keep_alive = request.keep_alive() && !self.ending.load(Ordering::SeqCst);
            let started = Instant::now();
            let answered = self.answer(stream, &mut reader, &request, keep_alive);
            if let Some(log) = &self.log {
                let peer = stream.peer_addr().map_or_else(|_| "-".to_owned(), |address| address.ip().to_string());
                let status = answered.as_ref().map_or_else(ToString::to_string, |(status, _)| status.to_string());
                let line = format!("{peer} {:?} {} {status} {:?}", request.method, request.path, started.elapsed());
                log.lock().expect("no thread panics while it writes").detail(line);
            }
            if !answered?.1 {
                return Ok(());
            }
        }
    }

    fn answer(
        &self,
        stream: &TcpStream,
        reader: &mut impl BufRead,
        request: &Request,
        keep_alive: bool,
    ) -> io::Result<(u16, bool)> {
        let wanted = [Method::Get, Method::Head].contains(&request.method) && !request.has_body();
        if let Some(path) = request.path.strip_prefix("/git/").filter(|path| wanted && is_static(path)) {
            let status = published::answer(stream, request, &self.git, path, keep_alive)?;
            return Ok((status, keep_alive));
        }
        if request.path.starts_with("/git/") {
            return smart::answer(stream, reader, request, &self.git, &self.smart, keep_alive);
        }
        // A body that nobody reads would be taken for the next request.
        let keep_alive = keep_alive && !request.has_body();
        let status = match request.method {
            Method::Get | Method::Head if request.has_body() => published::plain(stream, request, 400, false)?,
            Method::Get | Method::Head if request.path == "/" => {
                // Before anything was done there is no page yet.
                if self.published.join(PAGE).is_file() {
                    published::answer(stream, request, &self.published, PAGE, keep_alive)?
                } else {
                    published::text(stream, request, 200, INDEX, "", keep_alive)?
                }
            }
            Method::Get | Method::Head if ["/status.json", "/metrics"].contains(&request.path.as_str()) => {
                published::answer(stream, request, &self.published, &request.path[1..], keep_alive)?
            }
            Method::Get | Method::Head if ["/snap/", "/channel/"].iter().any(|base| request.path.starts_with(base)) => {
                published::answer(stream, request, &self.published, &request.path[1..], keep_alive)?
            }
            Method::Get | Method::Head => published::plain(stream, request, 404, keep_alive)?,
            Method::Post | Method::Other => published::plain(stream, request, 405, keep_alive)?,
        };
        Ok((status, keep_alive))
    }

    /// Answers what could not be understood, and closes.
    fn refuse(&self, stream: &TcpStream, status: u16) -> io::Result<()> {
        let text = format!("{}\n", http::reason(status));
        let head = connection::Head {
            status,
            content_type: "text/plain; charset=utf-8",
            length: Some(text.len() as u64),
            more: "",
            keep_alive: false,
            is_11: true,
        };
        let mut answer = connection::Answer::new(stream, &head);
        answer.send(text.as_bytes())?;
        answer.finish()?;
        stream.shutdown(Shutdown::Write)
    }
}

/// Whether a path below `/git/` is a file: the refs index, a pack, a bundle. A repository has no such names in it.
fn is_static(path: &str) -> bool {
    let is_pack = || {
        let name = path.strip_prefix("packs/").and_then(|name| name.strip_suffix(".pack"));
        name.is_some_and(|name| name.parse::<Digest>().is_ok())
    };
    let is_bundle = || {
        let repository = path.strip_suffix(".bundle").map(|path| format!("{path}.git"));
        repository.is_some_and(|repository| crate::git::check_path(&repository).is_ok())
    };
    path == cloner::refsindex::FILE || is_pack() || is_bundle()
}

/// The sockets that are open, so that they can be ended.
#[derive(Default)]
struct Connections {
    open: Mutex<(u64, BTreeMap<u64, TcpStream>)>,
    closed: Condvar,
}

const COUNTING: &str = "no thread panics while it counts";

impl Connections {
    fn count(&self) -> usize {
        self.open.lock().expect(COUNTING).1.len()
    }

    fn add(&self, stream: TcpStream) -> u64 {
        let mut open = self.open.lock().expect(COUNTING);
        open.0 += 1;
        let number = open.0;
        open.1.insert(number, stream);
        number
    }

    fn remove(&self, number: u64) {
        self.open.lock().expect(COUNTING).1.remove(&number);
        self.closed.notify_all();
    }

    fn shutdown(&self, how: Shutdown) {
        for stream in self.open.lock().expect(COUNTING).1.values() {
            // One that is closed already needs no more.
            let _ = stream.shutdown(how);
        }
    }

    fn wait_empty(&self, limit: Duration) -> bool {
        let open = self.open.lock().expect(COUNTING);
        let (open, _) = self.closed.wait_timeout_while(open, limit, |open| !open.1.is_empty()).expect(COUNTING);
        open.1.is_empty()
    }
}
