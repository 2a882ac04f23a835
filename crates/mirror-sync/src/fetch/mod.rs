//! Bounded HTTP: connect, stall and total limits, retries with back-off, a rate limit, conditional requests.
//!
//! A user and password in an address go to that host as `Authorization` and are in no message; after a
//! redirect they are not sent again. Content is taken as it is on the wire (no content encoding), because
//! what counts is the digest that was signed.

mod blob;

use std::io::Read;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use toolkit::backoff::Backoff;
use toolkit::redact::Secret;
use ureq::unversioned::transport::DefaultConnector;

pub(crate) use self::blob::{Batch, Hasher, Sums, Wanted};
use crate::config::Limits;
use crate::error::{Error, Result};
use crate::files;

/// Redirects that one request may take.
const MAX_REDIRECTS: u32 = 5;
/// What is not written as it is in the path of a URL.
const PATH: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'`')
    .add(b'{')
    .add(b'}')
    .add(b'\\')
    .add(b'^')
    .add(b'|');

/// An address below which content is: a URL without a trailing slash, and what to say to its host.
#[derive(Debug, Clone)]
pub(crate) struct Base {
    url: String,
    authorization: Option<Secret>,
}

impl Base {
    /// Splits the user and password off an address.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn new(text: &str) -> std::result::Result<Self, &'static str> {
        let url = toolkit::redact::url(text).trim_end_matches('/').to_owned();
        let (_, rest) = text.split_once("://").ok_or("is not a URL")?;
        let authority = rest.split('/').next().unwrap_or_default();
        let authorization = match authority.rsplit_once('@') {
            None => None,
            Some((login, _)) => {
                let login: Vec<u8> = percent_decode_str(login).collect();
                if !login.contains(&b':') || login.iter().any(u8::is_ascii_control) {
                    return Err("has a user that is not written USER:PASSWORD");
                }
                let login = base64::engine::general_purpose::STANDARD.encode(login);
                Some(Secret::new(format!("Basic {login}")))
            }
        };
        Ok(Self { url, authorization })
    }

    /// Returns the address, without user and password.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Returns the address of a path below this one.
    pub(crate) fn join(&self, path: &str) -> String {
        format!("{}/{}", self.url, utf8_percent_encode(path, PATH))
    }
}

/// What a server said about the version it sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Validators {
    /// `ETag`.
    pub(crate) etag: Option<String>,
    /// `Last-Modified`.
    pub(crate) modified: Option<String>,
}

/// Answer to a conditional request.
#[derive(Debug)]
pub(crate) enum Answer {
    /// Content.
    Content(Vec<u8>, Validators),
    /// The version that was named is still the one.
    Same,
    /// There is no such file.
    Absent,
}

/// Why an attempt failed.
struct Failed {
    message: String,
    /// Whether the same request may succeed later.
    again: bool,
}

impl Failed {
    fn again(message: impl std::fmt::Display) -> Self {
        Self { message: message.to_string(), again: true }
    }

    fn finally(message: impl std::fmt::Display) -> Self {
        Self { message: message.to_string(), again: false }
    }

    fn status(status: ureq::http::StatusCode) -> Self {
        let again = status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429);
        Self { message: format!("the server answered {status}"), again }
    }
}

/// Downloads.
pub(crate) struct Fetcher {
    agent: ureq::Agent,
    limits: Limits,
    throttle: Option<Throttle>,
    received: AtomicU64,
}

impl Fetcher {
    /// Returns how many bytes of content have come so far.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Prepares a connection pool with the limits; the proxy is the environment's.
    pub(crate) fn new(limits: &Limits) -> Self {
        Self::with(limits, None, 4).expect("no proxy is configured")
    }

    /// Prepares a connection pool for `jobs` threads.
    ///
    /// # Errors
    /// The proxy's address cannot be used.
    pub(crate) fn with(limits: &Limits, proxy: Option<&str>, jobs: usize) -> std::result::Result<Self, String> {
        let mut config = ureq::Agent::config_builder()
            .timeout_connect(Some(limits.connect.min(limits.total)))
            .timeout_recv_response(Some(limits.stall))
            .timeout_per_read(Some(limits.stall))
            .timeout_global(Some(limits.total))
            .http_status_as_error(false)
            .accept_encoding("identity")
            .max_redirects(MAX_REDIRECTS)
            .max_idle_connections_per_host(jobs)
            .user_agent(concat!("mirror-sync/", env!("CARGO_PKG_VERSION")));
        if let Some(proxy) = proxy {
            // The address may hold a password, so no error repeats it.
            let proxy = ureq::Proxy::new(proxy).map_err(|_| "the proxy's address cannot be used".to_owned())?;
            config = config.proxy(Some(proxy));
        }
        let throttle = (limits.rate > 0).then(|| Throttle { rate: limits.rate, free: Mutex::new(Instant::now()) });
        let (connector, resolver) = (DefaultConnector::default(), cloner::names::Names::default());
        let agent = ureq::Agent::with_parts(config.build(), connector, resolver);
        Ok(Self { agent, limits: limits.clone(), throttle, received: AtomicU64::new(0) })
    }

    /// Returns the content of a URL, of at most `limit` bytes.
    ///
    /// # Errors
    /// [`Error::Unavailable`], whatever the server answered instead.
    pub(crate) fn get(&self, url: &str, limit: u64) -> Result<Vec<u8>> {
        let base = Base { url: url.to_owned(), authorization: None };
        match self.retrying(url, || self.ask(&base, url, &Validators::default(), limit))? {
            Answer::Content(bytes, _) => Ok(bytes),
            Answer::Same | Answer::Absent => Err(Error::unavailable(url, "the server answered 404 Not Found")),
        }
    }

    /// Returns what is at a path, unless it is still the version that was seen before.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub(crate) fn check(&self, base: &Base, path: &str, seen: &Validators, limit: u64) -> Result<Answer> {
        let url = base.join(path);
        self.retrying(&url, || self.ask(base, &url, seen, limit))
    }

    fn retrying<T>(&self, url: &str, mut attempt: impl FnMut() -> std::result::Result<T, Failed>) -> Result<T> {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        let mut left = self.limits.retries;
        loop {
            match attempt() {
                Ok(answer) => return Ok(answer),
                Err(failed) if failed.again && left > 0 => {
                    left -= 1;
                    std::thread::sleep(backoff.next_delay());
                }
                Err(failed) => return Err(Error::unavailable(url, failed.message)),
            }
        }
    }

    fn request(&self, base: &Base, url: &str) -> ureq::RequestBuilder<ureq::typestate::WithoutBody> {
        let request = self.agent.get(url);
        match &base.authorization {
            Some(secret) => request.header("Authorization", secret.expose()),
            None => request,
        }
    }

    fn ask(&self, base: &Base, url: &str, seen: &Validators, limit: u64) -> std::result::Result<Answer, Failed> {
        let mut request = self.request(base, url);
        if let Some(etag) = &seen.etag {
            request = request.header("If-None-Match", etag);
        }
        if let Some(modified) = &seen.modified {
            request = request.header("If-Modified-Since", modified);
        }
        let mut response = request.call().map_err(failure)?;
        match response.status().as_u16() {
            200 => {}
            304 if *seen != Validators::default() => return Ok(Answer::Same),
            404 | 410 => return Ok(Answer::Absent),
            _ => return Err(Failed::status(response.status())),
        }
        let header = |name: &str| {
            let value = response.headers().get(name)?.to_str().ok()?;
            (value.len() <= 1000).then(|| value.to_owned())
        };
        let validators = Validators { etag: header("etag"), modified: header("last-modified") };
        let reader = Throttled { reader: response.body_mut().as_reader(), fetcher: self };
        let bytes = files::read_to_limit(reader, limit).map_err(|error| match error.kind() {
            std::io::ErrorKind::FileTooLarge => Failed::finally(error),
            _ => Failed::again(error),
        })?;
        Ok(Answer::Content(bytes, validators))
    }
}

/// What another attempt cannot change is told apart from what it can.
fn failure(error: ureq::Error) -> Failed {
    match error {
        ureq::Error::TooManyRedirects => Failed::finally("too many redirects"),
        ureq::Error::BadUri(_) | ureq::Error::RedirectFailed => Failed::finally(error),
        error => Failed::again(error),
    }
}

/// One rate for all connections.
#[derive(Debug)]
struct Throttle {
    rate: u64,
    /// When the line is free again.
    free: Mutex<Instant>,
}

impl Throttle {
    fn wait(&self, bytes: usize) {
        let until = {
            let mut free = self.free.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            *free = (*free).max(Instant::now()) + Duration::from_secs_f64(bytes as f64 / self.rate as f64);
            *free
        };
        std::thread::sleep(until.saturating_duration_since(Instant::now()));
    }
}

struct Throttled<'a, R> {
    reader: R,
    fetcher: &'a Fetcher,
}

impl<R: Read> Read for Throttled<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        // Small pieces, so that a low rate does not look like a stall to the other side.
        let throttle = self.fetcher.throttle.as_ref();
        let most = throttle.map_or(buffer.len(), |throttle| buffer.len().min((throttle.rate / 8).max(512) as usize));
        let count = self.reader.read(&mut buffer[..most])?;
        self.fetcher.received.fetch_add(count as u64, Ordering::Relaxed);
        if let Some(throttle) = throttle {
            throttle.wait(count);
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_and_password_are_apart_from_the_address() {
        let base = Base::new("http://me:p%40ss@host:1/debian/").expect("a URL");
        assert_eq!(base.url(), "http://host:1/debian");
        assert_eq!(base.authorization.as_ref().expect("there").expose(), "Basic bWU6cEBzcw==");
        assert!(!format!("{base:?}").contains("bWU6"));
        assert!(Base::new("http://me@host").is_err());
        assert!(Base::new("http://host").expect("a URL").authorization.is_none());
    }

    #[test]
    fn paths_are_quoted() {
        let base = Base::new("http://host/x").expect("a URL");
        assert_eq!(base.join("pool/a+b_1%3a2~x y?.deb"), "http://host/x/pool/a+b_1%253a2~x%20y%3F.deb");
    }
}
