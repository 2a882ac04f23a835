//! What is asked of an agent.

use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::query::{Consistency, Query};

/// What may stand unescaped in a path segment or a query value.
const SAFE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    Get,
    Put,
    Post,
    Delete,
}

impl Method {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Put => "PUT",
            Method::Post => "POST",
            Method::Delete => "DELETE",
        }
    }
}

/// A request below `/v1/`. `path` is encoded already.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub(crate) method: Method,
    path: String,
    parameters: Vec<(&'static str, String)>,
    pub(crate) body: Option<&'a [u8]>,
    pub(crate) wait: Option<Duration>,
    pub(crate) slack: Option<Duration>,
    pub(crate) consistency: Consistency,
    pub(crate) allow_filtered: bool,
    /// Changes nothing, whatever its method.
    pub(crate) reads: bool,
}

impl<'a> Request<'a> {
    pub(crate) fn new(method: Method, path: impl Into<String>) -> Request<'a> {
        Request {
            method,
            path: path.into(),
            parameters: Vec::new(),
            // A PUT or POST without a body still says that its length is 0.
            body: matches!(method, Method::Put | Method::Post).then_some(&[]),
            wait: None,
            slack: None,
            consistency: Consistency::Default,
            allow_filtered: false,
            reads: method == Method::Get,
        }
    }

    /// Returns the request for any endpoint; `path` is one segment an element.
    pub(crate) fn endpoint(path: &[&str], parameters: &[(&'static str, &str)], query: &Query) -> Request<'a> {
        let path = path.iter().map(|segment| encode(segment)).collect::<Vec<_>>().join("/");
        let request = Request::get(path).query(query);
        parameters.iter().fold(request, |request, (name, value)| request.with(name, *value))
    }

    pub(crate) fn get(path: impl Into<String>) -> Request<'a> {
        Request::new(Method::Get, path)
    }

    pub(crate) fn put(path: impl Into<String>, body: &'a [u8]) -> Request<'a> {
        Request { body: Some(body), ..Request::new(Method::Put, path) }
    }

    pub(crate) fn post(path: impl Into<String>, body: &'a [u8]) -> Request<'a> {
        Request { body: Some(body), ..Request::new(Method::Post, path) }
    }

    /// Says that the request changes nothing, so that it may be sent again.
    pub(crate) fn reading(mut self) -> Request<'a> {
        self.reads = true;
        self
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Request<'a> {
        self.parameters.push((name, value.into()));
        self
    }

    pub(crate) fn query(mut self, query: &Query) -> Request<'a> {
        query.parameters(&mut self.parameters);
        self.wait = query.waits();
        self.slack = query.limit;
        self.consistency = query.consistency;
        self.allow_filtered = query.allow_filtered;
        self
    }

    /// Returns path and query, encoded; `scope` is what every request of a client has in its query.
    pub(crate) fn target(&self, scope: &[(&'static str, String)]) -> String {
        let mut target = format!("/v1/{}", self.path);
        let mut separator = '?';
        for (name, value) in self.parameters.iter().chain(scope) {
            target.push(separator);
            target.push_str(name);
            if !value.is_empty() {
                target.push('=');
                target.extend(utf8_percent_encode(value, SAFE));
            }
            separator = '&';
        }
        target
    }
}

impl std::fmt::Display for Request<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} /v1/{}", self.method.name(), self.path)
    }
}

/// Encodes one path segment.
pub(crate) fn encode(segment: &str) -> String {
    utf8_percent_encode(segment, SAFE).to_string()
}
