//! Telling "nothing there" from "may not see".
//!
//! Under ACLs Consul leaves rows out of lists. Since 1.11 it says so in a header, which this crate
//! turns into [`Error::Filtered`]; older servers answer a list that looks empty. A caller to whom an
//! empty or shorter list means work (removing members, applying defaults) asks here first:
//!
//! - Keys: reading one key is refused with 403 where reading a prefix is filtered, so a key below the
//!   prefix that nobody uses is read. This uses nothing but the public API.
//! - Services, nodes, sessions, events: the agent's own interface for its web page answers what the
//!   token may do. Consul 1.8 and later have it.
//!
//! [`Rights::ask`] asks for many rights in one request, keys included.
//!
//! A right is checked for everything of its kind, or for one name. A policy that allows a prefix but
//! denies something inside it passes the check of the prefix and still filters that part.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::client::Client;
use crate::query::Query;
use crate::request::Request;
use crate::response::Raw;

/// The most rights that one request asks for: what Consul takes.
const MOST: usize = 64;

/// Last part of the key that is read to try the right on a prefix.
const PROBE: &str = "stacktira-rights-probe";

/// Something a token may be allowed to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right<'a> {
    /// Keys that start with this.
    Keys(&'a str),
    /// All services.
    Services,
    /// The service of this name.
    Service(&'a str),
    /// All nodes, and with them the checks of nodes.
    Nodes,
    /// All sessions.
    Sessions,
    /// Events of this name; all events for the empty name.
    Events(&'a str),
}

impl<'a> Right<'a> {
    /// Returns the error of a token without this right.
    pub fn denied(&self) -> Error {
        Error::Denied { what: self.to_string(), detail: "the token has no such right".to_owned() }
    }

    fn resource(&self) -> (&'static str, &'a str) {
        match *self {
            Right::Keys(prefix) => ("key", prefix),
            Right::Services => ("service", ""),
            Right::Service(name) => ("service", name),
            Right::Nodes => ("node", ""),
            Right::Sessions => ("session", ""),
            Right::Events(name) => ("event", name),
        }
    }
}

impl std::fmt::Display for Right<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Right::Keys("") => write!(f, "reading all keys"),
            Right::Keys(prefix) => write!(f, "reading keys below {prefix}"),
            Right::Services => write!(f, "reading all services"),
            Right::Service(name) => write!(f, "reading service {name}"),
            Right::Nodes => write!(f, "reading all nodes"),
            Right::Sessions => write!(f, "reading all sessions"),
            Right::Events("") => write!(f, "reading all events"),
            Right::Events(name) => write!(f, "reading events {name}"),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Ask<'a> {
    resource: &'static str,
    access: &'static str,
    segment: Cow<'a, str>,
}

impl<'a> Ask<'a> {
    fn of(right: &Right<'a>) -> Ask<'a> {
        let (resource, segment) = right.resource();
        let segment = match right {
            // A rule may be for a key alone; what is asked for is everything below it.
            Right::Keys(prefix) => Cow::Owned(format!("{prefix}{PROBE}")),
            _ => Cow::Borrowed(segment),
        };
        Ask { resource, access: "read", segment }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Told {
    allow: bool,
}

/// Access to rights; see [`Client::rights`].
#[derive(Debug, Clone, Copy)]
pub struct Rights<'a> {
    client: &'a Client,
}

impl<'a> Rights<'a> {
    pub(crate) fn new(client: &'a Client) -> Rights<'a> {
        Rights { client }
    }

    /// Returns `Ok` when the token may read this, [`Error::Denied`] when it may not, another error
    /// when nobody can say.
    pub fn check(&self, right: Right<'_>) -> Result<(), Error> {
        match right {
            Right::Keys(prefix) => self.keys(prefix),
            _ => self.authorize(right),
        }
    }

    fn keys(&self, prefix: &str) -> Result<(), Error> {
        match self.client.kv().get(&format!("{prefix}{PROBE}"), &Query::new()) {
            Ok(_) => Ok(()),
            Err(Error::Denied { detail, .. }) => Err(Error::Denied { what: Right::Keys(prefix).to_string(), detail }),
            Err(error) => Err(error),
        }
    }

    fn authorize(&self, right: Right<'_>) -> Result<(), Error> {
        match self.authorize_all(std::slice::from_ref(&right))?.as_deref() {
            None | Some([true]) => Ok(()),
            _ => Err(right.denied()),
        }
    }

    /// Tells for each of the rights whether the token has it; `None` when the agent runs without ACLs.
    ///
    /// 64 rights are one request. A Consul older than 1.8 has no such request; it is then asked for
    /// keys one by one, and other rights are an error.
    pub fn ask(&self, rights: &[Right<'_>]) -> Result<Option<Vec<bool>>, Error> {
        let mut all = Vec::with_capacity(rights.len());
        for some in rights.chunks(MOST) {
            match self.authorize_all(some) {
                Ok(Some(told)) => all.extend(told),
                Ok(None) => return Ok(None),
                Err(Error::Status { code: 404, .. }) if some.iter().all(|r| matches!(r, Right::Keys(_))) => {
                    for right in some {
                        all.push(match self.check(*right) {
                            Ok(()) => true,
                            Err(Error::Denied { .. }) => false,
                            Err(error) => return Err(error),
                        });
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Some(all))
    }

    fn authorize_all(&self, rights: &[Right<'_>]) -> Result<Option<Vec<bool>>, Error> {
        let asks: Vec<Ask<'_>> = rights.iter().map(Ask::of).collect();
        let body = serde_json::to_vec(&asks).expect("plain strings serialise");
        let request = Request::post("internal/acl/authorize", &body).reading();
        let raw: Raw = self.client.exchange(&request)?;
        if raw.acl_disabled() {
            return Ok(None);
        }
        if raw.status != 200 {
            return Err(raw.into_error(self.client.address(), &request));
        }
        let malformed = |detail: String| Error::Body {
            address: self.client.address().to_owned(),
            request: request.to_string(),
            detail,
        };
        let told: Vec<Told> = serde_json::from_slice(&raw.body).map_err(|e| malformed(e.to_string()))?;
        if told.len() != rights.len() {
            return Err(malformed("it does not answer each question".to_owned()));
        }
        Ok(Some(told.into_iter().map(|told| told.allow).collect()))
    }
}
