//! The agent that is asked, and the events it saw.

use serde::Deserialize;

use crate::Error;
use crate::client::Client;
use crate::query::{Answer, Query};
use crate::request::Request;
use crate::wire;

/// Who the agent is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentInfo {
    /// Name of its node.
    pub node: String,
    /// Address of its node inside the cluster.
    pub address: String,
    /// Its datacenter.
    pub datacenter: String,
    /// Whether it is a server.
    pub server: bool,
    /// Its version.
    pub version: String,
}

/// A user event.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Event {
    /// Its id, the only thing that tells two events apart.
    #[serde(rename = "ID")]
    pub id: String,
    /// Its name.
    pub name: String,
    /// What it carries.
    #[serde(default, deserialize_with = "wire::base64")]
    pub payload: Vec<u8>,
    /// Its logical time.
    #[serde(default, rename = "LTime")]
    pub ltime: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SelfWire {
    config: ConfigWire,
    member: MemberWire,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ConfigWire {
    datacenter: String,
    node_name: String,
    #[serde(default)]
    server: bool,
    #[serde(default)]
    version: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct MemberWire {
    addr: String,
}

/// Access to the agent; see [`Client::agent`].
#[derive(Debug, Clone, Copy)]
pub struct Agent<'a> {
    client: &'a Client,
}

impl<'a> Agent<'a> {
    pub(crate) fn new(client: &'a Client) -> Agent<'a> {
        Agent { client }
    }

    /// Returns who the agent is. Needs no leader.
    pub fn info(&self) -> Result<AgentInfo, Error> {
        let wire: SelfWire = self.client.send(&Request::get("agent/self"))?.json()?;
        Ok(AgentInfo {
            node: wire.config.node_name,
            address: wire.member.addr,
            datacenter: wire.config.datacenter,
            server: wire.config.server,
            version: wire.config.version,
        })
    }

    /// Returns the last events that the agent saw (it keeps 256), oldest first.
    ///
    /// The index of the answer is made from the last event's id; it only says "same or other".
    pub fn events(&self, name: Option<&str>, query: &Query) -> Result<Answer<Vec<Event>>, Error> {
        let mut request = Request::get("event/list").query(query);
        if let Some(name) = name {
            request = request.with("name", name);
        }
        let answer: Answer<Option<Vec<Event>>> = self.client.send(&request)?.answer()?;
        Ok(answer.map(Option::unwrap_or_default))
    }
}
