//! Health: which instances of a service work.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::Error;
use crate::catalog::Node;
use crate::client::Client;
use crate::query::{Answer, Query};
use crate::request::{Request, encode};
use crate::wire::nullable;

/// An instance of a service.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Service {
    /// Id of the instance on its node.
    #[serde(rename = "ID")]
    pub id: String,
    /// The service's name.
    pub service: String,
    /// Tags.
    #[serde(default, deserialize_with = "nullable")]
    pub tags: Vec<String>,
    /// Metadata.
    #[serde(default, deserialize_with = "nullable")]
    pub meta: BTreeMap<String, String>,
    /// The instance's own address; empty means the node's.
    #[serde(default)]
    pub address: String,
    /// Port.
    #[serde(default)]
    pub port: u16,
}

/// A check of a node or an instance.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Check {
    /// Its node.
    pub node: String,
    /// Id of the check on its node.
    #[serde(rename = "CheckID")]
    pub check_id: String,
    /// What people call it.
    #[serde(default)]
    pub name: String,
    /// `passing`, `warning`, `critical` (or, for nodes and instances under it, `maintenance`).
    pub status: String,
    /// What it last printed.
    #[serde(default)]
    pub output: String,
    /// The instance it belongs to; empty for a check of the node.
    #[serde(default, rename = "ServiceID")]
    pub service_id: String,
    /// The service it belongs to; empty for a check of the node.
    #[serde(default)]
    pub service_name: String,
}

/// An instance with its node and its checks.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ServiceEntry {
    /// Its node.
    pub node: Node,
    /// The instance.
    pub service: Service,
    /// Checks of both.
    #[serde(default, deserialize_with = "nullable")]
    pub checks: Vec<Check>,
}

impl ServiceEntry {
    /// Returns the address to connect to.
    pub fn effective_address(&self) -> &str {
        if self.service.address.is_empty() { &self.node.address } else { &self.service.address }
    }
}

/// Which instances of a service to return.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Instances {
    /// Only those whose checks all pass.
    pub passing: bool,
    /// Only those with all of these tags.
    pub tags: Vec<String>,
}

/// Which checks to return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// All.
    Any,
    /// Those that pass.
    Passing,
    /// Those that warn.
    Warning,
    /// Those that fail.
    Critical,
}

/// Access to health; see [`Client::health`].
///
/// An empty answer may also mean that the token may see nothing: see [`crate::rights`].
#[derive(Debug, Clone, Copy)]
pub struct Health<'a> {
    client: &'a Client,
}

impl<'a> Health<'a> {
    pub(crate) fn new(client: &'a Client) -> Health<'a> {
        Health { client }
    }

    /// Returns the instances of a service, sorted by node and id.
    pub fn service(&self, name: &str, which: &Instances, query: &Query) -> Result<Answer<Vec<ServiceEntry>>, Error> {
        let mut request = Request::get(format!("health/service/{}", encode(name))).query(query);
        if which.passing {
            request = request.with("passing", "");
        }
        for tag in &which.tags {
            request = request.with("tag", tag.clone());
        }
        let answer: Answer<Option<Vec<ServiceEntry>>> = self.client.send(&request)?.answer()?;
        Ok(answer.map(|entries| {
            let mut all = entries.unwrap_or_default();
            all.sort_by(|a, b| (&a.node.node, &a.service.id).cmp(&(&b.node.node, &b.service.id)));
            all
        }))
    }

    /// Returns the checks that are in `state`, sorted by node and id.
    pub fn state(&self, state: State, query: &Query) -> Result<Answer<Vec<Check>>, Error> {
        let name = match state {
            State::Any => "any",
            State::Passing => "passing",
            State::Warning => "warning",
            State::Critical => "critical",
        };
        let request = Request::get(format!("health/state/{name}")).query(query);
        let answer: Answer<Option<Vec<Check>>> = self.client.send(&request)?.answer()?;
        Ok(answer.map(|checks| {
            let mut all = checks.unwrap_or_default();
            all.sort_by(|a, b| (&a.node, &a.check_id).cmp(&(&b.node, &b.check_id)));
            all
        }))
    }
}
