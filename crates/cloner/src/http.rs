//! HTTP for git: one client for all repositories, and the traffic of one of them.
//!
//! A [`Session`] is one attempt for one repository. Version 2 of the protocol is tried first, with
//! the question itself ([`Session::ask`]); a server that does not understand it is greeted as every
//! git client does ([`Session::greet`]), which tells the version and may redirect.
//!
//! What always holds: every request has a connect, a stall and a total limit, the last being what
//! is left of the repository's time, so a server that drips cannot hold a run; credentials are sent
//! to the server they belong to and to no other; redirects are followed for a greeting only, a few,
//! never from https to http and never to another protocol.

mod answer;
mod reuse;

use std::collections::HashSet;
use std::io::{self, Read, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use toolkit::files;
use ureq::Body;
use ureq::http::{Response, StatusCode, header};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::unversioned::transport::{Connector as _, DefaultConnector};

use crate::credential::{Keyring, Login};
use crate::fault::{Cause, Fault};
use crate::names::Names;
use crate::source::HttpUrl;

pub(crate) use answer::timed_out;
use answer::{check_status, check_type, read_fault, read_greeting, redirected, transfer_fault};

/// Time for a connection to be made.
const CONNECT: Duration = Duration::from_secs(10);
/// Longest silence within a transfer.
const STALL: Duration = Duration::from_secs(30);
/// Bytes that a connection takes or gives at once.
const BUFFER: usize = 64 << 10;
/// Redirects that are followed.
const MAX_REDIRECTS: usize = 4;
/// Largest list of refs that is read.
const MAX_ADVERT: u64 = 64 << 20;
/// Requests from this length on are sent compressed.
const GZIP_FROM: usize = 1024;
/// Largest file of certificates that is read.
const MAX_CERTIFICATES: u64 = 16 << 20;

const QUESTION: &str = "application/x-git-upload-pack-request";
const ANSWER: &str = "application/x-git-upload-pack-result";
const GREETING: &str = "application/x-git-upload-pack-advertisement";

/// The HTTP client that all sessions share; it keeps connections alive.
#[derive(Clone)]
pub(crate) struct Client(Arc<Shared>);

struct Shared {
    agent: ureq::Agent,
    keyring: Keyring,
    /// Servers that do not speak version 2.
    old: Mutex<HashSet<String>>,
}

/// The traffic of one attempt for one repository.
#[derive(Clone)]
pub(crate) struct Session(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    deadline: Instant,
    /// Whom credential helpers are asked about; a redirect does not change it.
    first: HttpUrl,
    /// Where requests go; a redirect of the greeting moves it.
    server: Mutex<HttpUrl>,
    greeting: Mutex<Option<Greeting>>,
    /// What went wrong; libgit2 would keep the text only.
    fault: Mutex<Option<Fault>>,
}

/// What a server says when it is greeted.
#[derive(Debug, Clone)]
pub(crate) enum Greeting {
    /// It speaks version 2.
    Two {
        /// The kind of object ids.
        sha256: bool,
    },
    /// It does not; this is its list of refs.
    Old(Arc<[u8]>),
}

/// An answer's body.
pub(crate) type Stream = Box<dyn Read + Send>;

impl Client {
    /// Makes a client; proxies and certificates come from the environment.
    ///
    /// # Errors
    /// Why the named certificates cannot be used.
    pub(crate) fn new(connections: usize, keyring: Keyring) -> Result<Self, String> {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT))
            .timeout_resolve(Some(CONNECT))
            .timeout_per_read(Some(STALL))
            .timeout_per_write(Some(STALL))
            .input_buffer_size(BUFFER)
            .output_buffer_size(BUFFER)
            .max_idle_connections(connections)
            .max_idle_connections_per_host(connections)
            .tls_config(TlsConfig::builder().root_certs(roots()?).build())
            // Some forges choose the smart protocol by this prefix.
            .user_agent(concat!("git/2 cloner/", env!("CARGO_PKG_VERSION")))
            .build();
        let agent =
            ureq::Agent::with_parts(config, reuse::Counting.chain(DefaultConnector::default()), Names::default());
        let shared = Shared { agent, keyring, old: Mutex::default() };
        Ok(Self(Arc::new(shared)))
    }

    /// Starts a session that ends by `deadline`.
    pub(crate) fn session(&self, url: &HttpUrl, deadline: Instant) -> Session {
        Session(Arc::new(Inner {
            shared: Arc::clone(&self.0),
            deadline,
            first: url.clone(),
            server: Mutex::new(url.clone()),
            greeting: Mutex::new(None),
            fault: Mutex::new(None),
        }))
    }
}

/// Reads the certificates of `SSL_CERT_FILE` or `GIT_SSL_CAINFO`, which stand instead of the built-in ones.
fn roots() -> Result<RootCerts, String> {
    let named = ["SSL_CERT_FILE", "GIT_SSL_CAINFO"]
        .into_iter()
        .find_map(|name| std::env::var_os(name).filter(|path| !path.is_empty()).map(|path| (name, path)));
    let Some((name, path)) = named else { return Ok(RootCerts::WebPki) };
    let fail = |why: String| format!("{name}: {}: {why}", path.display());
    let pem = files::read_given(Path::new(&path), MAX_CERTIFICATES).map_err(|err| fail(err.to_string()))?;
    let mut found = Vec::new();
    for item in parse_pem(&pem) {
        if let PemItem::Certificate(certificate) = item.map_err(|err| fail(err.to_string()))? {
            found.push(certificate);
        }
    }
    if found.is_empty() { Err(fail("it holds no certificate".to_owned())) } else { Ok(RootCerts::from(found)) }
}

impl Session {
    /// Whether the time of this session is over; for progress callbacks.
    pub(crate) fn expired(&self) -> bool {
        if Instant::now() < self.0.deadline {
            return false;
        }
        self.note(timed_out());
        true
    }

    /// Notes what went wrong, if nothing has before.
    pub(crate) fn note(&self, fault: Fault) {
        lock(&self.0.fault).get_or_insert(fault);
    }

    /// Returns and forgets what was noted.
    pub(crate) fn noted(&self) -> Option<Fault> {
        lock(&self.0.fault).take()
    }

    /// Returns the address that requests go to, without credentials.
    pub(crate) fn base(&self) -> String {
        lock(&self.0.server).base()
    }

    /// Turns an error of a stream into a failure.
    pub(crate) fn read_fault(&self, err: &io::Error) -> Fault {
        self.noted().unwrap_or_else(|| read_fault(&lock(&self.0.server), err))
    }

    fn left(&self) -> Result<Duration, Fault> {
        match self.0.deadline.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(timed_out()),
            left => Ok(left),
        }
    }

    /// Asks for what is below the address itself, such as a mirror's refs index.
    pub(crate) fn get(&self, path: &str, etag: Option<&str>) -> Result<Response<Body>, Fault> {
        let server = lock(&self.0.server).clone();
        let url = format!("{}/{path}", server.base());
        self.send(&server, |login, left| {
            let request = self.0.shared.agent.get(&url).config().timeout_global(Some(left)).build();
            let request = with(request, header::AUTHORIZATION, login);
            with(request, header::IF_NONE_MATCH, etag).call()
        })
    }

    /// Whether version 2 has to be left alone here.
    pub(crate) fn is_old(&self) -> bool {
        lock(&self.0.shared.old).contains(&server_key(&lock(&self.0.server)))
    }

    /// Whether the server was greeted.
    pub(crate) fn is_greeted(&self) -> bool {
        lock(&self.0.greeting).is_some()
    }

    /// Notes that an answer of version 2 was understood.
    pub(crate) fn speaks_two(&self) {
        lock(&self.0.greeting).get_or_insert(Greeting::Two { sha256: false });
    }

    /// Greets the server, once per session: follows redirects, and learns which version it speaks.
    pub(crate) fn greet(&self) -> Result<Greeting, Fault> {
        if let Some(greeting) = lock(&self.0.greeting).clone() {
            return Ok(greeting);
        }
        let mut server = lock(&self.0.server).clone();
        for _ in 0..=MAX_REDIRECTS {
            let url = format!("{}/info/refs?service=git-upload-pack", server.base());
            let response = self.send(&server, |login, left| {
                let request = self.0.shared.agent.get(&url).config().timeout_global(Some(left)).build();
                with(request, header::AUTHORIZATION, login)
                    .header(header::ACCEPT, format!("{GREETING}, */*;q=0.1"))
                    .header(header::PRAGMA, "no-cache")
                    .header("Git-Protocol", "version=2")
                    .call()
            })?;
            if response.status().is_redirection() {
                server = redirected(&server, &response)?;
                continue;
            }
            check_status(&server, &response)?;
            check_type(&server, &response, GREETING)?;
            let read = files::read_to_limit(response.into_body().into_reader(), MAX_ADVERT);
            let bytes = read.map_err(|err| match err.kind() {
                io::ErrorKind::FileTooLarge => {
                    Fault::new(Cause::Network, format!("{}: the list of refs is {err}", server.base()))
                }
                _ => read_fault(&server, &err),
            })?;
            let greeting = read_greeting(&bytes).unwrap_or_else(|| Greeting::Old(bytes.into()));
            if matches!(greeting, Greeting::Old(_)) {
                lock(&self.0.shared.old).insert(server_key(&server));
            }
            *lock(&self.0.server) = server;
            *lock(&self.0.greeting) = Some(greeting.clone());
            return Ok(greeting);
        }
        Err(Fault::new(Cause::Network, format!("{}: redirected more than {MAX_REDIRECTS} times", server.base())))
    }

    /// Sends a question of version 2. None if the answer is not one of git's, as when the repository has moved or the
    /// server wants to be greeted first.
    pub(crate) fn ask(&self, body: &[u8]) -> Result<Option<Stream>, Fault> {
        let server = lock(&self.0.server).clone();
        let response = self.post(&server, body, Some("version=2"))?;
        let status = response.status();
        let unfit = matches!(status.as_u16(), 400 | 405 | 406 | 411 | 415 | 501);
        let other = status.is_success() && check_type(&server, &response, ANSWER).is_err();
        if !self.is_greeted() && (status.is_redirection() || unfit || other) {
            return Ok(None);
        }
        check_status(&server, &response)?;
        check_type(&server, &response, ANSWER)?;
        Ok(Some(Box::new(response.into_body().into_reader())))
    }

    /// Sends one negotiation of an older version and returns the answer's stream.
    pub(crate) fn negotiate(&self, body: &[u8]) -> Result<Stream, Fault> {
        let server = lock(&self.0.server).clone();
        let response = self.post(&server, body, None)?;
        check_status(&server, &response)?;
        check_type(&server, &response, ANSWER)?;
        Ok(Box::new(response.into_body().into_reader()))
    }

    fn post(&self, server: &HttpUrl, body: &[u8], version: Option<&str>) -> Result<Response<Body>, Fault> {
        let url = format!("{}/git-upload-pack", server.base());
        let packed = (body.len() >= GZIP_FROM).then(|| gzip(body));
        self.send(server, |login, left| {
            let request = self.0.shared.agent.post(&url).config().timeout_global(Some(left)).build();
            let request = with(request, header::AUTHORIZATION, login);
            let request = with(request, "Git-Protocol", version);
            let request = with(request, header::CONTENT_ENCODING, packed.as_ref().map(|_| "gzip"));
            request
                .header(header::CONTENT_TYPE, QUESTION)
                .header(header::ACCEPT, ANSWER)
                .send(packed.as_deref().unwrap_or(body))
        })
    }

    /// Sends a request with the credentials of `server`; asks git's helpers when others are wanted.
    fn send(
        &self,
        server: &HttpUrl,
        request: impl Fn(Option<&str>, Duration) -> Result<Response<Body>, ureq::Error>,
    ) -> Result<Response<Body>, Fault> {
        let shared = &self.0.shared;
        let known = shared.keyring.known(server);
        let call = |login: Option<&Login>| {
            let header = login.map(basic);
            self.left()?;
            let left = || self.0.deadline.saturating_duration_since(Instant::now());
            reuse::send(|| request(header.as_deref(), left())).map_err(|err| transfer_fault(server, &err))
        };
        let response = call(known.as_ref())?;
        // Helpers are asked about the server that the manifest names, not about one that it redirects to.
        if response.status() != StatusCode::UNAUTHORIZED || !server.same_server(&self.0.first) {
            return Ok(response);
        }
        let same = |(user, password): &Login| known.as_ref() == Some(&(user.clone(), password.clone()));
        let login = shared.keyring.ask(server, self.0.deadline).filter(|login| !same(login));
        match login {
            Some(login) => {
                drop(response);
                call(Some(&login))
            }
            None => Ok(response),
        }
    }
}

fn with<B>(
    request: ureq::RequestBuilder<B>,
    name: impl TryInto<header::HeaderName, Error: Into<ureq::http::Error>>,
    value: Option<&str>,
) -> ureq::RequestBuilder<B> {
    match (value, name.try_into()) {
        (Some(value), Ok(name)) => request.header(name, value),
        _ => request,
    }
}

fn server_key(server: &HttpUrl) -> String {
    format!("{}://{}", if server.tls { "https" } else { "http" }, server.authority.to_ascii_lowercase())
}

fn basic((user, password): &Login) -> String {
    let pair = format!("{user}:{}", password.expose());
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    // Writing to memory cannot fail.
    let written = encoder.write_all(body);
    debug_assert!(written.is_ok());
    encoder.finish().unwrap_or_default()
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each value is replaced as a whole, so a panic elsewhere leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
