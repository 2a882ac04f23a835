//! The server, and what it can be told to do wrong.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::Repo;

/// How the server answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Behaviour {
    /// As it should.
    #[default]
    Serve,
    /// With this status, and this header line if it is not empty.
    Status(u16, String),
    /// With this status for so many requests, then as it should.
    StatusTimes(u16, usize),
    /// Takes the connection and says nothing.
    Hang,
    /// One byte every 50 ms, without end.
    Drip,
    /// To the same path at this address.
    Redirect(String),
    /// As it should, to requests with this user and password only.
    Login(String),
    /// Not at all: the connection is reset.
    Reset,
    /// With half of what was announced, then the connection ends.
    Cut,
    /// With half of what was announced, then nothing more.
    Freeze,
    /// As it should, until objects are asked for; then so.
    Late(Box<Behaviour>),
}

/// One request that the server took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Method and target.
    pub line: String,
    /// The `Authorization` header.
    pub authorization: Option<String>,
}

struct Shared {
    root: PathBuf,
    behaviour: Mutex<Behaviour>,
    requests: Mutex<Vec<Request>>,
    bytes: AtomicUsize,
    any_commit: AtomicBool,
    old: AtomicBool,
    stop: AtomicBool,
    active: AtomicUsize,
    peak: AtomicUsize,
}

/// A git server on a loopback port of its own.
pub struct GitServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    _scratch: tempfile::TempDir,
}

impl GitServer {
    /// Starts a server without repositories.
    ///
    /// # Panics
    /// There is no loopback port or scratch directory.
    #[must_use]
    pub fn start() -> GitServer {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a loopback port");
        let address = listener.local_addr().expect("bound");
        let shared = Arc::new(Shared {
            root: scratch.path().to_owned(),
            behaviour: Mutex::default(),
            requests: Mutex::default(),
            bytes: AtomicUsize::new(0),
            any_commit: AtomicBool::new(false),
            old: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            active: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
        });
        let accepting = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if accepting.stop.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let shared = Arc::clone(&accepting);
                // A client that goes away is no error of the test.
                std::thread::spawn(move || drop(shared.connection(&stream)));
            }
        });
        GitServer { address, shared, thread: Some(thread), _scratch: scratch }
    }

    /// Creates the repository `name`, such as `group/project.git`.
    #[must_use]
    pub fn repo(&self, name: &str) -> Repo {
        Repo::create(&self.shared.root.join(name))
    }

    /// Returns the directory of all repositories, which is also a mirror by path. `refs.index` and `packs` in it are
    /// handed out as plain files.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.shared.root
    }

    /// Returns `host:port`.
    #[must_use]
    pub fn authority(&self) -> String {
        self.address.to_string()
    }

    /// Returns the URL of `name`.
    #[must_use]
    pub fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.address)
    }

    /// Sets how requests are answered from now on.
    ///
    /// # Panics
    /// A thread of the server has panicked.
    pub fn behave(&self, behaviour: Behaviour) {
        *self.shared.behaviour.lock().expect("no panic") = behaviour;
    }

    /// Sets whether commits that are no tips may be asked for.
    pub fn allow_any_commit(&self, allowed: bool) {
        self.shared.any_commit.store(allowed, Ordering::SeqCst);
    }

    /// Sets whether the server knows the oldest version of the protocol only.
    pub fn speak_old(&self, old: bool) {
        self.shared.old.store(old, Ordering::SeqCst);
    }

    /// Returns and forgets the requests so far.
    ///
    /// # Panics
    /// A thread of the server has panicked.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut *self.shared.requests.lock().expect("no panic"))
    }

    /// Returns and forgets how many bytes of bodies were sent.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.shared.bytes.swap(0, Ordering::SeqCst)
    }

    /// Returns the highest number of requests that were in work at the same time.
    #[must_use]
    pub fn peak(&self) -> usize {
        self.shared.peak.load(Ordering::SeqCst)
    }
}

impl Drop for GitServer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // Wakes the accepting thread.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl Shared {
    fn connection(&self, stream: &TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut reader = BufReader::new(stream);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let line = line.trim_end().trim_end_matches(" HTTP/1.1").to_owned();
            let (mut length, mut authorization, mut chunked, mut gzip) = (0, None, false, false);
            let (mut protocol, mut fresh) = (String::new(), String::new());
            loop {
                let mut header = String::new();
                reader.read_line(&mut header)?;
                let Some((name, value)) = header.trim_end().split_once(':') else { break };
                match name.to_ascii_lowercase().as_str() {
                    "content-length" => length = value.trim().parse().unwrap_or(0),
                    "authorization" => authorization = Some(value.trim().to_owned()),
                    "transfer-encoding" => chunked = true,
                    "content-encoding" => gzip = value.trim() == "gzip",
                    "if-none-match" => value.trim().clone_into(&mut fresh),
                    "git-protocol" => value.trim().clone_into(&mut protocol),
                    _ => {}
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body)?;
            if gzip {
                let packed = std::mem::take(&mut body);
                flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut body)?;
            }
            self.requests
                .lock()
                .expect("no panic")
                .push(Request { line: line.clone(), authorization: authorization.clone() });
            let active = self.active.fetch_add(1, Ordering::SeqCst) + 1;
            self.peak.fetch_max(active, Ordering::SeqCst);
            if self.old.load(Ordering::SeqCst) {
                protocol.clear();
            }
            let reply = if chunked {
                Ok(Reply::empty(501, ""))
            } else {
                self.answer(stream, &line, authorization.as_deref(), &protocol, &fresh, &body)
            };
            // Before the reply is out, or the client's next request would be counted beside this one.
            self.active.fetch_sub(1, Ordering::SeqCst);
            let reply = reply?;
            self.bytes.fetch_add(reply.body.len(), Ordering::SeqCst);
            reply.send(stream)?;
            if reply.sent == Sent::HalfAndWait {
                while !self.stop.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
            if reply.sent != Sent::Whole {
                return Ok(());
            }
        }
    }

    fn answer(
        &self,
        stream: &TcpStream,
        line: &str,
        login: Option<&str>,
        protocol: &str,
        fresh: &str,
        body: &[u8],
    ) -> std::io::Result<Reply> {
        let behaviour = {
            let mut behaviour = self.behaviour.lock().expect("no panic");
            let now = behaviour.clone();
            if let Behaviour::StatusTimes(status, left) = *behaviour {
                *behaviour = if left <= 1 { Behaviour::Serve } else { Behaviour::StatusTimes(status, left - 1) };
            }
            now
        };
        let target = line.split(' ').nth(1).unwrap_or_default();
        let behaviour = match behaviour {
            Behaviour::Late(late) if body.windows(13).any(|bytes| bytes == b"command=fetch") => *late,
            Behaviour::Late(_) => Behaviour::Serve,
            other => other,
        };
        let mut sent = Sent::Whole;
        match behaviour {
            Behaviour::Serve | Behaviour::Late(_) => {}
            Behaviour::Cut => sent = Sent::Half,
            Behaviour::Freeze => sent = Sent::HalfAndWait,
            Behaviour::Reset => {
                let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
                nix::sys::socket::setsockopt(stream, nix::sys::socket::sockopt::Linger, &linger)?;
                return Err(std::io::ErrorKind::ConnectionReset.into());
            }
            Behaviour::Status(status, header) => return Ok(Reply::empty(status, &header)),
            Behaviour::StatusTimes(status, _) => return Ok(Reply::empty(status, "")),
            Behaviour::Redirect(to) => {
                return Ok(Reply::empty(302, &format!("Location: {to}{target}")));
            }
            Behaviour::Login(wanted) if login != Some(&wanted) => {
                return Ok(Reply::empty(401, "WWW-Authenticate: Basic realm=\"test\""));
            }
            Behaviour::Login(_) => {}
            Behaviour::Hang => {
                while !self.stop.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(20));
                }
                return Err(std::io::ErrorKind::ConnectionAborted.into());
            }
            Behaviour::Drip => {
                let mut out = stream;
                out.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-git-upload-pack-advertisement\r\n\r\n")?;
                while !self.stop.load(Ordering::SeqCst) {
                    out.write_all(b"0")?;
                    std::thread::sleep(Duration::from_millis(50));
                }
                return Err(std::io::ErrorKind::ConnectionAborted.into());
            }
        }
        let (path, advertise) = match target.strip_suffix("/info/refs?service=git-upload-pack") {
            Some(path) => (path, true),
            None => match target.strip_suffix("/git-upload-pack") {
                Some(path) => (path, false),
                None => return Ok(self.published(target, fresh)),
            },
        };
        let repository = self.root.join(path.trim_start_matches('/'));
        if path.contains("..") || !repository.join("HEAD").exists() {
            return Ok(Reply::empty(404, ""));
        }
        let out = self.upload_pack(&repository, advertise, protocol, body)?;
        if advertise {
            let mut bytes = b"001e# service=git-upload-pack\n0000".to_vec();
            bytes.extend_from_slice(&out);
            Ok(Reply {
                status: 200,
                header: "Content-Type: application/x-git-upload-pack-advertisement".to_owned(),
                body: bytes,
                sent,
            })
        } else {
            Ok(Reply {
                status: 200,
                header: "Content-Type: application/x-git-upload-pack-result".to_owned(),
                body: out,
                sent,
            })
        }
    }

    /// A plain file of the root: what a mirror publishes beside its repositories.
    fn published(&self, target: &str, fresh: &str) -> Reply {
        let known = target == "/refs.index" || target.starts_with("/packs/");
        if !known || target.contains("..") {
            return Reply::empty(404, "");
        }
        let Ok(body) = std::fs::read(self.root.join(target.trim_start_matches('/'))) else {
            return Reply::empty(404, "");
        };
        let mut hasher = std::hash::DefaultHasher::new();
        std::hash::Hash::hash(&body, &mut hasher);
        let etag = format!("\"{:x}\"", std::hash::Hasher::finish(&hasher));
        if fresh == etag {
            return Reply::empty(304, &format!("ETag: {etag}"));
        }
        Reply { status: 200, header: format!("ETag: {etag}"), body, sent: Sent::Whole }
    }

    fn upload_pack(&self, repository: &Path, advertise: bool, protocol: &str, body: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut command = Command::new("git");
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("HOME", "/nonexistent")
            .env("GIT_PROTOCOL", protocol)
            .args(["-c", "safe.directory=*"])
            .args(["-c", &format!("uploadpack.allowAnySHA1InWant={}", self.any_commit.load(Ordering::SeqCst))])
            .args(["upload-pack", "--stateless-rpc"])
            .args(advertise.then_some("--advertise-refs"))
            .arg(repository)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn()?;
        let mut stdin = child.stdin.take().expect("piped");
        std::thread::scope(|scope| {
            scope.spawn(move || {
                // upload-pack may stop reading early; what it says then is the answer.
                let _ = stdin.write_all(body);
            });
            child.wait_with_output().map(|output| output.stdout)
        })
    }
}

struct Reply {
    status: u16,
    header: String,
    body: Vec<u8>,
    sent: Sent,
}

/// How much of a reply's body is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    Whole,
    Half,
    HalfAndWait,
}

impl Reply {
    fn empty(status: u16, header: &str) -> Reply {
        Reply { status, header: header.to_owned(), body: Vec::new(), sent: Sent::Whole }
    }

    fn send(&self, mut stream: &TcpStream) -> std::io::Result<()> {
        let mut head = format!("HTTP/1.1 {} Test\r\nContent-Length: {}\r\n", self.status, self.body.len());
        if !self.header.is_empty() {
            head.push_str(&self.header);
            head.push_str("\r\n");
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes())?;
        let count = if self.sent == Sent::Whole { self.body.len() } else { self.body.len() / 2 };
        stream.write_all(&self.body[..count])
    }
}
