//! The catalog: which nodes and services are registered.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::Error;
use crate::client::Client;
use crate::query::{Answer, Query};
use crate::request::{Request, encode};
use crate::wire::nullable;

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Node {
    /// Its name.
    pub node: String,
    /// Its address inside the cluster.
    pub address: String,
    /// Its datacenter.
    #[serde(default)]
    pub datacenter: String,
    /// Its metadata.
    #[serde(default, deserialize_with = "nullable")]
    pub meta: BTreeMap<String, String>,
}

/// One instance of a service as the catalog has it, whatever its health.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct CatalogService {
    /// Name of its node.
    pub node: String,
    /// Address of its node.
    pub address: String,
    /// Id of the instance on its node.
    #[serde(rename = "ServiceID")]
    pub service_id: String,
    /// The service's name.
    pub service_name: String,
    /// Tags.
    #[serde(default, deserialize_with = "nullable")]
    pub service_tags: Vec<String>,
    /// The instance's own address; empty means the node's.
    #[serde(default)]
    pub service_address: String,
    /// Port.
    #[serde(default)]
    pub service_port: u16,
    /// Metadata.
    #[serde(default, deserialize_with = "nullable")]
    pub service_meta: BTreeMap<String, String>,
}

impl CatalogService {
    /// Returns the address to connect to.
    pub fn effective_address(&self) -> &str {
        if self.service_address.is_empty() { &self.address } else { &self.service_address }
    }
}

/// Access to the catalog; see [`Client::catalog`].
///
/// An empty answer may also mean that the token may see nothing: see [`crate::rights`].
#[derive(Debug, Clone, Copy)]
pub struct Catalog<'a> {
    client: &'a Client,
}

impl<'a> Catalog<'a> {
    pub(crate) fn new(client: &'a Client) -> Catalog<'a> {
        Catalog { client }
    }

    /// Returns the names of all services with all tags that their instances have, sorted.
    pub fn services(&self, query: &Query) -> Result<Answer<BTreeMap<String, Vec<String>>>, Error> {
        let response = self.client.send(&Request::get("catalog/services").query(query))?;
        let answer: Answer<BTreeMap<String, Option<Vec<String>>>> = response.answer()?;
        Ok(answer.map(|services| {
            services
                .into_iter()
                .map(|(name, tags)| {
                    let mut tags = tags.unwrap_or_default();
                    tags.sort();
                    tags.dedup();
                    (name, tags)
                })
                .collect()
        }))
    }

    /// Returns all nodes, sorted by name.
    pub fn nodes(&self, query: &Query) -> Result<Answer<Vec<Node>>, Error> {
        let response = self.client.send(&Request::get("catalog/nodes").query(query))?;
        let answer: Answer<Option<Vec<Node>>> = response.answer()?;
        Ok(answer.map(|nodes| {
            let mut nodes = nodes.unwrap_or_default();
            nodes.sort_by(|a, b| a.node.cmp(&b.node));
            nodes
        }))
    }

    /// Returns the instances of a service, sorted by node and id.
    pub fn service(&self, name: &str, query: &Query) -> Result<Answer<Vec<CatalogService>>, Error> {
        let path = format!("catalog/service/{}", encode(name));
        let response = self.client.send(&Request::get(path).query(query))?;
        let answer: Answer<Option<Vec<CatalogService>>> = response.answer()?;
        Ok(answer.map(|instances| {
            let mut all = instances.unwrap_or_default();
            all.sort_by(|a, b| (&a.node, &a.service_id).cmp(&(&b.node, &b.service_id)));
            all
        }))
    }
}
