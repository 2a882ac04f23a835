//! Git's smart HTTP protocol for libgit2, on our one HTTP and TLS stack.
//!
//! libgit2 speaks the git protocol; this module carries its messages with ureq. A [`Session`] is
//! the traffic of one attempt for one repository. libgit2 gives its transports no place for own
//! data, so the session of the moment is kept per thread while [`Session::run`] works, and the URL
//! that libgit2 sees is a constant. That also keeps passwords out of it.
//!
//! What always holds: every request has a connect, a stall and a total limit, the last being what
//! is left of the repository's time, so a server that drips cannot hold a run; credentials are sent
//! to the server they belong to and to no other; redirects are followed for the first request
//! only, a few, never from https to http and never to another protocol.

use std::cell::RefCell;
use std::io::{self, Cursor, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use git2::transport::{Service, SmartSubtransport, SmartSubtransportStream, Transport};
use ureq::http::{Response, StatusCode, header};

use crate::fault::{Cause, Fault, Retry};
use crate::netrc::Netrc;
use crate::source::HttpUrl;

/// Time for a connection to be made.
const CONNECT: Duration = Duration::from_secs(10);
/// Longest silence within a transfer.
const STALL: Duration = Duration::from_secs(30);
/// Redirects that are followed.
const MAX_REDIRECTS: usize = 4;
/// Largest list of refs that is read.
const MAX_ADVERT: u64 = 64 << 20;
/// Largest negotiation that libgit2 may send.
const MAX_REQUEST: usize = 64 << 20;
/// What libgit2 is told to open.
pub(crate) const URL: &str = "cloner-http://session";

thread_local! {
    static CURRENT: RefCell<Option<Arc<Inner>>> = const { RefCell::new(None) };
}

/// The HTTP client that all sessions share; it keeps connections alive.
#[derive(Clone)]
pub(crate) struct Client {
    agent: ureq::Agent,
    netrc: Arc<Netrc>,
}

/// The traffic of one attempt for one repository.
pub(crate) struct Session(Arc<Inner>);

struct Inner {
    agent: ureq::Agent,
    netrc: Arc<Netrc>,
    deadline: Instant,
    /// Where requests go; a redirect of the first moves it.
    server: Mutex<HttpUrl>,
    /// The list of refs, so that resolving and fetching see the same one and ask once.
    advert: Mutex<Option<Arc<[u8]>>>,
    /// What went wrong; libgit2 would keep the text only.
    fault: Mutex<Option<Fault>>,
}

impl Client {
    /// Makes a client; proxies come from the environment.
    pub(crate) fn new(connections: usize, netrc: Netrc) -> Self {
        register();
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT))
            .timeout_resolve(Some(CONNECT))
            .timeout_per_read(Some(STALL))
            .timeout_per_write(Some(STALL))
            .max_idle_connections(connections)
            .max_idle_connections_per_host(connections)
            // Some forges choose the smart protocol by this prefix.
            .user_agent(concat!("git/2 cloner/", env!("CARGO_PKG_VERSION")))
            .build();
        Self { agent: config.new_agent(), netrc: Arc::new(netrc) }
    }

    /// Starts a session that ends by `deadline`.
    pub(crate) fn session(&self, url: &HttpUrl, deadline: Instant) -> Session {
        Session(Arc::new(Inner {
            agent: self.agent.clone(),
            netrc: Arc::clone(&self.netrc),
            deadline,
            server: Mutex::new(url.clone()),
            advert: Mutex::new(None),
            fault: Mutex::new(None),
        }))
    }
}

impl Session {
    /// Runs `work`, whose libgit2 remotes for [`URL`] use this session.
    pub(crate) fn run<T>(&self, what: &str, work: impl FnOnce() -> Result<T, git2::Error>) -> Result<T, Fault> {
        /// Clears the thread's session on every way out.
        struct Guard;
        impl Drop for Guard {
            fn drop(&mut self) {
                CURRENT.set(None);
            }
        }
        CURRENT.set(Some(Arc::clone(&self.0)));
        let guard = Guard;
        let result = work();
        drop(guard);
        result.map_err(|err| match lock(&self.0.fault).take() {
            Some(fault) => fault,
            None => Fault::git(Cause::Network, what, &err),
        })
    }

    /// Whether the time of this session is over; for libgit2's progress callbacks.
    pub(crate) fn expired(&self) -> bool {
        if Instant::now() < self.0.deadline {
            return false;
        }
        self.0.note(timed_out());
        true
    }

    /// Notes why a callback stops libgit2.
    pub(crate) fn refuse(&self, fault: Fault) {
        self.0.note(fault);
    }
}

impl Inner {
    fn note(&self, fault: Fault) {
        lock(&self.fault).get_or_insert(fault);
    }

    /// Notes `fault` and returns an error for libgit2, which carries its text only.
    fn fail(&self, fault: Fault) -> git2::Error {
        let err = git2::Error::from_str(&fault.message);
        self.note(fault);
        err
    }

    fn left(&self) -> Result<Duration, Fault> {
        match self.deadline.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(timed_out()),
            left => Ok(left),
        }
    }

    /// Returns the credentials for `server`: its own, else those that `.netrc` has for its host.
    fn authorization(&self, server: &HttpUrl) -> Option<String> {
        let (user, password) = server.login.as_ref().or_else(|| self.netrc.find(&server.authority))?;
        let pair = format!("{user}:{}", password.expose());
        Some(format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair)))
    }

    /// Returns the list of refs, asking for it once per session.
    fn advert(&self) -> Result<Arc<[u8]>, Fault> {
        if let Some(advert) = lock(&self.advert).clone() {
            return Ok(advert);
        }
        let mut server = lock(&self.server).clone();
        for _ in 0..=MAX_REDIRECTS {
            let url = format!("{}/info/refs?service=git-upload-pack", server.base());
            let mut request = self.agent.get(&url).config().timeout_global(Some(self.left()?)).build();
            if let Some(login) = self.authorization(&server) {
                request = request.header(header::AUTHORIZATION, login);
            }
            let response = request
                .header(header::ACCEPT, "application/x-git-upload-pack-advertisement, */*;q=0.1")
                .header(header::PRAGMA, "no-cache")
                .call()
                .map_err(|err| transfer_fault(&server, &err))?;
            if response.status().is_redirection() {
                server = redirected(&server, &response)?;
                continue;
            }
            check_status(&server, &response)?;
            check_type(&server, &response, "application/x-git-upload-pack-advertisement")?;
            let mut bytes = Vec::new();
            response
                .into_body()
                .into_reader()
                .take(MAX_ADVERT + 1)
                .read_to_end(&mut bytes)
                .map_err(|err| read_fault(&server, &err))?;
            if bytes.len() as u64 > MAX_ADVERT {
                let message = format!("{}: the list of refs is larger than {} MiB", server.base(), MAX_ADVERT >> 20);
                return Err(Fault::new(Cause::Network, message));
            }
            *lock(&self.server) = server;
            let advert: Arc<[u8]> = bytes.into();
            *lock(&self.advert) = Some(Arc::clone(&advert));
            return Ok(advert);
        }
        Err(Fault::new(Cause::Network, format!("{}: redirected more than {MAX_REDIRECTS} times", server.base())))
    }

    /// Sends one negotiation and returns the answer's stream.
    fn post(&self, body: &[u8]) -> Result<Box<dyn Read + Send>, Fault> {
        let server = lock(&self.server).clone();
        let url = format!("{}/git-upload-pack", server.base());
        let mut request = self.agent.post(&url).config().timeout_global(Some(self.left()?)).build();
        if let Some(login) = self.authorization(&server) {
            request = request.header(header::AUTHORIZATION, login);
        }
        let response = request
            .header(header::CONTENT_TYPE, "application/x-git-upload-pack-request")
            .header(header::ACCEPT, "application/x-git-upload-pack-result")
            .send(body)
            .map_err(|err| transfer_fault(&server, &err))?;
        check_status(&server, &response)?;
        check_type(&server, &response, "application/x-git-upload-pack-result")?;
        Ok(Box::new(response.into_body().into_reader()))
    }
}

/// libgit2's side: one per remote.
struct Subtransport(Arc<Inner>);

impl SmartSubtransport for Subtransport {
    fn action(&self, _: &str, action: Service) -> Result<Box<dyn SmartSubtransportStream>, git2::Error> {
        match action {
            Service::UploadPackLs => {
                let advert = self.0.advert().map_err(|fault| self.0.fail(fault))?;
                Ok(Box::new(AdvertStream(Cursor::new(advert))))
            }
            Service::UploadPack => {
                Ok(Box::new(PostStream { inner: Arc::clone(&self.0), request: Vec::new(), response: None }))
            }
            Service::ReceivePackLs | Service::ReceivePack => Err(git2::Error::from_str("cloner never pushes")),
        }
    }

    fn close(&self) -> Result<(), git2::Error> {
        Ok(())
    }
}

struct AdvertStream(Cursor<Arc<[u8]>>);

impl Read for AdvertStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for AdvertStream {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::Error::other("the list of refs is only read"))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Collects what libgit2 writes and sends it when libgit2 reads for the first time.
struct PostStream {
    inner: Arc<Inner>,
    request: Vec<u8>,
    response: Option<Box<dyn Read + Send>>,
}

impl Read for PostStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let response = match &mut self.response {
            Some(response) => response,
            empty => {
                empty.insert(self.inner.post(&self.request).map_err(|fault| io::Error::other(self.inner.fail(fault)))?)
            }
        };
        response.read(buffer).inspect_err(|err| {
            let fault = read_fault(&lock(&self.inner.server), err);
            self.inner.note(fault);
        })
    }
}

impl Write for PostStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.request.len() + bytes.len() > MAX_REQUEST {
            return Err(io::Error::other("the negotiation grows without end"));
        }
        self.request.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Sets libgit2 up, once per process and before any thread uses it.
///
/// No configuration of the system or the user is read: what a manifest says must mean the same for
/// everyone, and a configuration can name programs and rewrite addresses.
pub(crate) fn register() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        use git2::ConfigLevel::{Global, ProgramData, System, XDG};
        for level in [System, Global, XDG, ProgramData] {
            // SAFETY: `Once` lets one thread in, and every use of libgit2 in this crate comes after
            // `register`, so nothing else touches the options meanwhile.
            unsafe { git2::opts::set_search_path(level, "") }.expect("an empty search path is always accepted");
        }
        git2::opts::strict_hash_verification(true);
        // SAFETY: as above; the factory only reads the calling thread's session.
        unsafe {
            git2::transport::register("cloner-http", |remote| {
                let inner = CURRENT
                    .with_borrow(Clone::clone)
                    .ok_or_else(|| git2::Error::from_str("no session runs on this thread"))?;
                Transport::smart(remote, true, Subtransport(inner))
            })
        }
        .expect("the prefix is registered once");
    });
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each value is replaced as a whole, so a panic elsewhere leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn redirected<B>(from: &HttpUrl, response: &Response<B>) -> Result<HttpUrl, Fault> {
    let refuse = |why: &str| Fault::new(Cause::Network, format!("{}: refused redirect: {why}", from.base()));
    let location = response
        .headers()
        .get(header::LOCATION)
        .and_then(|value| value.to_str().ok())
        .ok_or_else(|| refuse("it names no address"))?;
    let absolute = match location {
        path if path.starts_with('/') && !path.starts_with("//") => {
            format!("{}://{}{path}", if from.tls { "https" } else { "http" }, from.authority)
        }
        url => url.to_owned(),
    };
    let repository = absolute
        .strip_suffix("/info/refs?service=git-upload-pack")
        .ok_or_else(|| refuse("it does not lead to a git repository"))?;
    let mut to = HttpUrl::from_url(repository).map_err(|why| refuse(&why))?;
    if from.tls && !to.tls {
        return Err(refuse("it leads from https to http"));
    }
    // A server may not choose which credentials are sent, and ours are for the old server only.
    to.login = if to.same_server(from) { from.login.clone() } else { None };
    Ok(to)
}

fn check_status<B>(server: &HttpUrl, response: &Response<B>) -> Result<(), Fault> {
    let status = response.status();
    if status.is_success() {
        return Ok(());
    }
    let url = server.base();
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
            Err(Fault::new(Cause::Auth, format!("{url}: other credentials are wanted (HTTP {})", status.as_u16()))
                .hint("a private repository needs its host in ~/.netrc, or user:password@ in its source; a misspelt one may ask for them too"))
        }
        StatusCode::FORBIDDEN => Err(Fault::new(Cause::Auth, format!("{url}: forbidden (HTTP 403)"))),
        StatusCode::NOT_FOUND | StatusCode::GONE => {
            Err(Fault::new(Cause::Network, format!("{url}: no such repository (HTTP {})", status.as_u16()))
                .hint("check the source, or whether the mirror has it"))
        }
        _ => {
            let mut fault = Fault::new(Cause::Network, format!("{url}: HTTP {}", status.as_u16()));
            let later = status.is_server_error()
                || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT);
            if later {
                let wait = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
                fault.retry = match wait.and_then(|value| value.trim().parse().ok()) {
                    Some(seconds) => Retry::After(Duration::from_secs(seconds)),
                    None => Retry::Soon,
                };
            }
            Err(fault)
        }
    }
}

fn check_type<B>(server: &HttpUrl, response: &Response<B>, wanted: &str) -> Result<(), Fault> {
    let given = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if given.is_some_and(|given| given.split(';').next().is_some_and(|kind| kind.trim() == wanted)) {
        return Ok(());
    }
    let message = format!("{}: the answer is not git's smart protocol", server.base());
    Err(Fault::new(Cause::Network, message).hint("the source must be a repository's own address, not its web page"))
}

fn timed_out() -> Fault {
    Fault::new(Cause::Network, "the time for this repository is over").hint("--timeout sets it")
}

fn transfer_fault(server: &HttpUrl, err: &ureq::Error) -> Fault {
    let message = format!("{}: {err}", server.base());
    match err {
        ureq::Error::Timeout(ureq::Timeout::Global | ureq::Timeout::PerCall) => {
            Fault { message: format!("{}: {}", server.base(), timed_out().message), ..timed_out() }
        }
        ureq::Error::Io(io) if is_certificate(io) => Fault::new(Cause::Network, message),
        ureq::Error::Tls(_) | ureq::Error::Rustls(_) | ureq::Error::BadUri(_) | ureq::Error::InvalidProxyUrl => {
            Fault::new(Cause::Network, message)
        }
        _ => Fault::network(message),
    }
}

fn read_fault(server: &HttpUrl, err: &io::Error) -> Fault {
    match err.get_ref().and_then(|inner| inner.downcast_ref::<ureq::Error>()) {
        Some(inner) => transfer_fault(server, inner),
        None => Fault::network(format!("{}: {err}", server.base())),
    }
}

fn is_certificate(err: &io::Error) -> bool {
    err.kind() == io::ErrorKind::InvalidData && err.to_string().contains("certificate")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(location: &str) -> Response<()> {
        Response::builder().status(302).header("Location", location).body(()).expect("valid")
    }

    #[test]
    fn a_redirect_leads_to_a_repository_and_takes_no_credentials_along() {
        let from = HttpUrl::from_url("https://me:canary@a/x").expect("valid");
        let to = |location: &str| redirected(&from, &answer(location));
        let service = "/info/refs?service=git-upload-pack";
        let same = to(&format!("/y{service}")).expect("followed");
        assert_eq!((same.base().as_str(), same.login.is_some()), ("https://a/y", true));
        let other = to(&format!("https://b/y{service}")).expect("followed");
        assert_eq!((other.base().as_str(), other.login.is_none()), ("https://b/y", true));
        let planted = to(&format!("https://you:pw@b/y{service}")).expect("followed");
        assert!(planted.login.is_none());
        for hostile in ["http://a/x", "file:///etc", "https://b/", "//b/x", "ssh://b/x", "gopher://x"] {
            assert!(to(&format!("{hostile}{service}")).is_err() || hostile == "https://b/", "{hostile}");
        }
        assert!(to("https://b/login").is_err());
    }

    #[test]
    fn no_session_is_an_error_and_no_crash() {
        register();
        let mut remote = git2::Remote::create_detached(URL).expect("a remote");
        assert!(remote.connect(git2::Direction::Fetch).is_err());
    }

    #[test]
    fn the_configuration_of_the_user_is_not_read() {
        register();
        let home = tempfile::tempdir().expect("scratch");
        let repository = git2::Repository::init_bare(home.path()).expect("a repository");
        let config = repository.config().expect("its configuration");
        assert!(config.get_string("url.x.insteadOf").is_err());
        for level in [git2::ConfigLevel::Global, git2::ConfigLevel::System] {
            assert!(config.open_level(level).is_err(), "{level:?}");
        }
    }
}
