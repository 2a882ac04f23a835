//! One HTTP exchange: sent, bounded, and handed on to be judged.

use std::io::Read;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ureq::Timeout;
use ureq::config::AutoHeaderValue;
use ureq::http::{self, Uri};
use ureq::unversioned::transport::DefaultConnector;

use crate::agent::Agent;
use crate::catalog::Catalog;
use crate::config::Config;
use crate::error::{ADDRESS, Cause};
use crate::health::Health;
use crate::kv::Kv;
use crate::line::{Fault, Limits, Line, was_cut};
use crate::query::{Answer, Query};
use crate::request::Request;
use crate::resolver::Target;
use crate::response::{Raw, Response};
use crate::rights::Rights;
use crate::session::Sessions;
use crate::{Error, tls};

/// A handle on one Consul agent; cheap to clone, connections are shared.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    agent: ureq::Agent,
    /// `scheme://host:port/prefix` as requests use it; the host is the expected server name.
    base: String,
    /// As people know it, for messages.
    address: String,
    token: Option<String>,
    scope: Vec<(&'static str, String)>,
    connect: Duration,
    total: Duration,
    max_response: u64,
    /// Where a [`Line`] goes to: an agent without TLS whose address is a number.
    plain: Option<SocketAddr>,
    /// The host of a [`Line`]'s requests.
    host: String,
    /// What stands before the path of a [`Line`]'s requests.
    prefix: String,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("address", &self.inner.address).finish_non_exhaustive()
    }
}

impl Client {
    /// Returns a client of the agent that `config` names. Reads the files it names, connects to
    /// nothing.
    pub fn new(config: &Config) -> Result<Client, Error> {
        let mut builder = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_resolve(Some(config.connect_timeout))
            .timeout_connect(Some(config.connect_timeout))
            // Below the two minutes after which an agent closes idle connections.
            .max_idle_age(Duration::from_secs(30))
            // A connection owns these as long as it lives, which a blocking query makes long: 40 watches with
            // the defaults of 128 KiB each way hold 10 MiB.
            .input_buffer_size(16 << 10)
            .output_buffer_size(16 << 10)
            .user_agent(concat!("stacktira/", env!("CARGO_PKG_VERSION")));
        // To compress what never leaves the host costs the agent more time than anything else in a read.
        if config.address.is_on_this_host() {
            builder = builder.accept_encoding(AutoHeaderValue::None);
        }
        if config.address.https {
            builder = builder.tls_config(tls::build(&config.tls)?);
        }
        let resolver = Target::new(&config.address)?;
        let plain = resolver.fixed.filter(|_| !config.address.https);
        let agent = ureq::Agent::with_parts(builder.build(), DefaultConnector::default(), resolver);
        let mut url = config.address.clone();
        if let (true, Some(name)) = (url.https, &config.tls.server_name) {
            url.host.clone_from(name);
        }
        let base = url.to_string();
        base.parse::<Uri>().map_err(|e| Error::Config { setting: ADDRESS.to_owned(), reason: e.to_string() })?;
        let mut scope = Vec::new();
        for (name, value) in [("dc", &config.datacenter), ("ns", &config.namespace), ("partition", &config.partition)] {
            if let Some(value) = value {
                scope.push((name, value.clone()));
            }
        }
        Ok(Client {
            inner: Arc::new(Inner {
                agent,
                base,
                address: config.address.to_string(),
                token: config.read_token()?,
                scope,
                connect: config.connect_timeout,
                total: config.total_timeout,
                max_response: config.max_response,
                plain,
                host: plain.map(|address| address.to_string()).unwrap_or_default(),
                prefix: config.address.prefix.clone(),
            }),
        })
    }

    /// Returns a client of the same agent, on the same connections, that sends another token.
    #[must_use]
    pub fn with_token(&self, token: Option<&str>) -> Client {
        let inner = &*self.inner;
        Client {
            inner: Arc::new(Inner {
                agent: inner.agent.clone(),
                base: inner.base.clone(),
                address: inner.address.clone(),
                token: token.map(str::to_owned),
                scope: inner.scope.clone(),
                connect: inner.connect,
                total: inner.total,
                max_response: inner.max_response,
                plain: inner.plain,
                host: inner.host.clone(),
                prefix: inner.prefix.clone(),
            }),
        }
    }

    /// Tells whether a token is sent.
    pub fn has_token(&self) -> bool {
        self.inner.token.is_some()
    }

    /// Returns the agent's address for messages.
    pub fn address(&self) -> &str {
        &self.inner.address
    }

    /// Tells whether a [`Line`] to the agent stays on this host: nothing lies between that could vanish without closing it.
    pub fn stays_on_host(&self) -> bool {
        self.inner.plain.is_some_and(|address| address.ip().is_loopback())
    }

    /// Keys and values.
    pub fn kv(&self) -> Kv<'_> {
        Kv::new(self)
    }

    /// The catalog: which nodes and services are registered.
    pub fn catalog(&self) -> Catalog<'_> {
        Catalog::new(self)
    }

    /// Health: which of them work.
    pub fn health(&self) -> Health<'_> {
        Health::new(self)
    }

    /// The agent that is asked, and the events it saw.
    pub fn agent(&self) -> Agent<'_> {
        Agent::new(self)
    }

    /// Sessions, which hold locks.
    pub fn sessions(&self) -> Sessions<'_> {
        Sessions::new(self)
    }

    /// What this client's token may see.
    pub fn rights(&self) -> Rights<'_> {
        Rights::new(self)
    }

    /// Returns the address of the cluster's leader, `None` while there is none.
    pub fn leader(&self) -> Result<Option<String>, Error> {
        let response = self.send(&Request::get("status/leader"))?;
        let leader: String = response.json()?;
        Ok(Some(leader).filter(|l| !l.is_empty()))
    }

    /// Reads any endpoint below `/v1/` as it is, `None` when it is not there.
    ///
    /// `path` is one segment an element, each percent-encoded here. For endpoints without a typed
    /// method, and for callers that want the whole JSON.
    pub fn json(
        &self,
        path: &[&str],
        parameters: &[(&'static str, &str)],
        query: &Query,
    ) -> Result<Answer<Option<serde_json::Value>>, Error> {
        let response = self.send_maybe(&Request::endpoint(path, parameters, query))?;
        response.optional_answer()
    }

    /// Reads as [`Client::json`] does, on a connection of the caller's own.
    pub fn json_on(
        &self,
        line: &mut Line,
        path: &[&str],
        parameters: &[(&'static str, &str)],
        query: &Query,
    ) -> Result<Answer<Option<serde_json::Value>>, Error> {
        let request = Request::endpoint(path, parameters, query);
        let raw = match self.inner.plain {
            Some(address) => self.exchange_on(line, address, &request)?,
            None => self.exchange(&request)?,
        };
        raw.judge(&self.inner.address, &request)?.optional_answer()
    }

    /// Sends a request and takes only a 200.
    pub(crate) fn send(&self, request: &Request<'_>) -> Result<Response, Error> {
        let response = self.send_maybe(request)?;
        if response.found {
            return Ok(response);
        }
        Err(response.unexpected(404))
    }

    /// Sends a request and takes a 200, or a 404 that stands for "not there": it carries an index,
    /// which only the store itself gives.
    pub(crate) fn send_maybe(&self, request: &Request<'_>) -> Result<Response, Error> {
        self.exchange(request)?.judge(&self.inner.address, request)
    }

    /// Sends a request and hands back status and body for the caller to judge.
    pub(crate) fn exchange(&self, request: &Request<'_>) -> Result<Raw, Error> {
        match self.attempt(request) {
            // An idle connection may have been closed by the agent while it lay in the pool. A read
            // can be asked again at once; a write might have been carried out.
            Err(ureq::Error::Io(e)) if request.reads && was_cut(&e) => self.attempt(request),
            other => other,
        }
        .map_err(|e| self.transport_error(request, e))?
        .ok_or_else(|| Error::TooLarge { request: request.to_string(), limit: self.inner.max_response })
    }

    fn exchange_on(&self, line: &mut Line, address: SocketAddr, request: &Request<'_>) -> Result<Raw, Error> {
        let inner = &*self.inner;
        let mut head =
            format!("GET {}{} HTTP/1.1\r\nHost: {}\r\n", inner.prefix, request.target(&inner.scope), inner.host);
        head.push_str(concat!("User-Agent: stacktira/", env!("CARGO_PKG_VERSION"), "\r\n"));
        if let Some(token) = &inner.token {
            // What is no header would end it and begin another one.
            if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
                let reason = "it holds characters that no header can carry".to_owned();
                return Err(Error::Config { setting: "token".to_owned(), reason });
            }
            head.push_str("X-Consul-Token: ");
            head.push_str(token);
            head.push_str("\r\n");
        }
        head.push_str("\r\n");
        let total = self.deadline(request);
        let limits = Limits { connect: inner.connect, total, body: inner.max_response };
        let what = || (inner.address.clone(), request.to_string());
        match line.exchange(address, head.as_bytes(), limits) {
            Ok(received) => Ok(Raw::new(received.status, &received.headers, received.body)),
            Err(Fault::Io(error)) => {
                Err(Error::Unreachable { address: inner.address.clone(), source: Cause::new(error) })
            }
            Err(Fault::Late) => {
                let (address, request) = what();
                Err(Error::Timeout { address, request, after: total })
            }
            Err(Fault::Malformed(detail)) => {
                let (address, request) = what();
                Err(Error::Body { address, request, detail: detail.to_owned() })
            }
            Err(Fault::TooLarge) => Err(Error::TooLarge { request: request.to_string(), limit: inner.max_response }),
        }
    }

    fn deadline(&self, request: &Request<'_>) -> Duration {
        let wait = request.wait.unwrap_or_default();
        request.slack.unwrap_or(self.inner.total) + wait + wait / 16
    }

    fn attempt(&self, request: &Request<'_>) -> Result<Option<Raw>, ureq::Error> {
        let inner = &*self.inner;
        let url = format!("{}{}", inner.base, request.target(&inner.scope));
        let mut builder = http::Request::builder().method(request.method.name()).uri(url);
        if let Some(token) = &inner.token {
            builder = builder.header("X-Consul-Token", token);
        }
        let mut response = match request.body {
            None => {
                let built = builder.body(()).map_err(ureq::Error::Http)?;
                let built = inner.agent.configure_request(built).timeout_global(Some(self.deadline(request))).build();
                inner.agent.run(built)?
            }
            Some(body) => {
                let built =
                    builder.header("Content-Type", "application/octet-stream").body(body).map_err(ureq::Error::Http)?;
                let built = inner.agent.configure_request(built).timeout_global(Some(self.deadline(request))).build();
                inner.agent.run(built)?
            }
        };
        let mut body = Vec::new();
        // The limit is put on the decompressed side.
        response
            .body_mut()
            .as_reader()
            .take(inner.max_response + 1)
            .read_to_end(&mut body)
            .map_err(ureq::Error::from)?;
        if body.len() as u64 > inner.max_response {
            return Ok(None);
        }
        Ok(Some(Raw::new(response.status().as_u16(), response.headers(), body)))
    }

    fn transport_error(&self, request: &Request<'_>, error: ureq::Error) -> Error {
        let address = self.inner.address.clone();
        match error {
            ureq::Error::Timeout(Timeout::Global | Timeout::PerCall | Timeout::RecvResponse) => {
                Error::Timeout { address, request: request.to_string(), after: self.deadline(request) }
            }
            ureq::Error::Protocol(_)
            | ureq::Error::Decompress(..)
            | ureq::Error::LargeResponseHeader(..)
            | ureq::Error::BodyStalled => {
                Error::Body { address, request: request.to_string(), detail: error.to_string() }
            }
            ureq::Error::Io(e) => Error::Unreachable { address, source: Cause::new(e) },
            other => Error::Unreachable { address, source: Cause::new(other) },
        }
    }
}
