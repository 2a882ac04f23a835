//! Sessions: what holds a lock, and ends by itself when its holder is gone.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::client::Client;
use crate::query::{Answer, Query};
use crate::request::{Request, encode};
use crate::wire::nullable;

/// What happens to the locks of a session that ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behavior {
    /// They are given back, values stay.
    Release,
    /// The keys are removed.
    Delete,
}

/// A session to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSession {
    /// What people call it.
    pub name: String,
    /// The session ends this long after its last renewal at the earliest, twice as long at the
    /// latest. Consul takes 10 s to 24 h.
    pub ttl: Duration,
    /// How long nobody may take a lock that ended with its session (as opposed to one given back).
    pub lock_delay: Duration,
    /// What happens to its locks at its end.
    pub behavior: Behavior,
    /// Checks of the node with which the session ends too. `None` is Consul's default: the node's
    /// gossip health.
    pub node_checks: Option<Vec<String>>,
}

/// A session that exists.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Session {
    /// Its id.
    #[serde(rename = "ID")]
    pub id: String,
    /// What people call it.
    #[serde(default)]
    pub name: String,
    /// The node it belongs to.
    pub node: String,
    /// Its time to live as Consul writes it; empty for none.
    #[serde(default, rename = "TTL", deserialize_with = "nullable")]
    pub ttl: String,
    /// Index of its creation.
    #[serde(default)]
    pub create_index: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct CreateWire<'a> {
    name: &'a str,
    #[serde(rename = "TTL")]
    ttl: String,
    lock_delay: String,
    behavior: &'static str,
    // Servers before 1.7 know the first name only, newer ones both.
    #[serde(skip_serializing_if = "Option::is_none")]
    checks: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_checks: Option<&'a [String]>,
}

#[derive(Deserialize)]
struct Created {
    #[serde(rename = "ID")]
    id: String,
}

/// Access to sessions; see [`Client::sessions`].
#[derive(Debug, Clone, Copy)]
pub struct Sessions<'a> {
    client: &'a Client,
}

impl<'a> Sessions<'a> {
    pub(crate) fn new(client: &'a Client) -> Sessions<'a> {
        Sessions { client }
    }

    /// Makes a session on the agent's node and returns its id.
    pub fn create(&self, session: &NewSession) -> Result<String, Error> {
        let wire = CreateWire {
            name: &session.name,
            ttl: format!("{}ms", session.ttl.as_millis()),
            lock_delay: format!("{}ms", session.lock_delay.as_millis()),
            behavior: match session.behavior {
                Behavior::Release => "release",
                Behavior::Delete => "delete",
            },
            checks: None,
            node_checks: session.node_checks.as_deref(),
        };
        let body = serde_json::to_vec(&wire).expect("plain strings serialise");
        let response = self.client.send(&Request::put("session/create", &body))?;
        let created: Created = response.json()?;
        if created.id.is_empty() {
            return Err(response.malformed("it names no session"));
        }
        Ok(created.id)
    }

    /// Renews a session; an ended one is [`Error::SessionGone`].
    pub fn renew(&self, id: &str) -> Result<Session, Error> {
        let request = Request::put(format!("session/renew/{}", encode(id)), &[]);
        let raw = self.client.exchange(&request)?;
        // This 404 carries no index; the words tell it from one of something in between.
        if raw.status == 404 && String::from_utf8_lossy(&raw.body).contains(id) {
            return Err(Error::SessionGone { session: id.to_owned() });
        }
        if raw.status != 200 {
            return Err(raw.into_error(self.client.address(), &request));
        }
        let mut sessions: Vec<Session> = serde_json::from_slice(&raw.body).map_err(|e| Error::Body {
            address: self.client.address().to_owned(),
            request: request.to_string(),
            detail: e.to_string(),
        })?;
        sessions.pop().ok_or_else(|| Error::SessionGone { session: id.to_owned() })
    }

    /// Ends a session, giving its locks back without a lock delay. No error when it is gone.
    pub fn destroy(&self, id: &str) -> Result<(), Error> {
        let request = Request::put(format!("session/destroy/{}", encode(id)), &[]);
        self.client.send(&request)?.truth().map(|_| ())
    }

    /// Returns a session, `None` when it ended.
    pub fn info(&self, id: &str, query: &Query) -> Result<Answer<Option<Session>>, Error> {
        let request = Request::get(format!("session/info/{}", encode(id))).query(query);
        let answer: Answer<Option<Vec<Session>>> = self.client.send(&request)?.answer()?;
        Ok(answer.map(|sessions| sessions.unwrap_or_default().into_iter().next()))
    }
}
