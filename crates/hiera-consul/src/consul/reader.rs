//! Reads of one run with one token, and whether something was left out of them.
//!
//! Consul leaves out of lists what a token may not see, without a word before version 1.11. A list is therefore
//! believed only together with one of two things:
//!
//! - **There are no ACLs.** Who has no token says so by sending one that cannot exist: with ACLs anywhere on the
//!   way it is refused, without them it is not looked at. The read itself is then the proof. Refused, the
//!   same is asked again with no token at all.
//! - **The token has the rights** to everything below the prefix, to the service and to nodes. All rights that a
//!   run will need are asked for in one request, as far as they are known by then.
//!
//! A policy that allows a prefix and denies something inside of it passes the second; servers from 1.11 on say
//! so in a header, older ones leave that part out of what is read. This cannot be seen from outside.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};

use consul_client::{Client, Query, Right};

use crate::error::Error;
use crate::value::{Hash, Value};

use super::{LEADERS, Leader, consul};

/// A token that no Consul knows: tokens are UUIDs.
const STRANGER: &str = "stacktira-has-no-token";
/// The most rights that are asked for at once: what Consul takes.
const MOST: usize = 64;

/// Tags by service.
pub(crate) type Tags = BTreeMap<String, Vec<String>>;

/// A right that a read needs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Need {
    /// All keys that start with this.
    Keys(String),
    /// The names of all services.
    Services,
    /// One service.
    Service(String),
    /// All nodes.
    Nodes,
}

impl Need {
    fn right(&self) -> Right<'_> {
        match self {
            Need::Keys(prefix) => Right::Keys(prefix),
            Need::Services => Right::Services,
            Need::Service(name) => Right::Service(name),
            Need::Nodes => Right::Nodes,
        }
    }
}

type Answer<T> = Result<T, consul_client::Error>;

/// Reads from one agent with one token; see the module's documentation.
pub struct Reader {
    client: Client,
    stranger: Client,
    /// Whether there are ACLs, once that is known.
    acls: Cell<Option<bool>>,
    rights: RefCell<HashMap<Need, bool>>,
    expected: RefCell<Vec<Need>>,
}

impl Reader {
    /// Returns a reader that has read nothing.
    pub fn new(client: Client) -> Self {
        let stranger = client.with_token(Some(STRANGER));
        Reader { client, stranger, acls: Cell::new(None), rights: RefCell::default(), expected: RefCell::default() }
    }

    /// Returns the client, for reads that are refused where they are not allowed: those of one key.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Says which rights will probably be needed, so that they are asked for together.
    pub(crate) fn expect(&self, needs: impl IntoIterator<Item = Need>) {
        let mut expected = self.expected.borrow_mut();
        for need in needs {
            if !expected.contains(&need) {
                expected.push(need);
            }
        }
    }

    /// Reads something that may be filtered; [`Reader::may`] has to follow.
    pub(crate) fn read<T>(&self, ask: impl Fn(&Client) -> Answer<T>) -> Answer<T> {
        if self.client.has_token() || self.acls.get() == Some(true) {
            return ask(&self.client);
        }
        match ask(&self.stranger) {
            Ok(answer) => {
                self.acls.set(Some(false));
                Ok(answer)
            }
            Err(consul_client::Error::Denied { .. }) => {
                self.acls.set(Some(true));
                ask(&self.client)
            }
            Err(error) => Err(error),
        }
    }

    /// Returns `Ok` when nothing is left out of answers that need these rights.
    pub(crate) fn may(&self, needs: &[Need]) -> Answer<()> {
        if self.acls.get() != Some(false) {
            self.learn(needs)?;
        }
        if self.acls.get() == Some(false) {
            return Ok(());
        }
        let rights = self.rights.borrow();
        match needs.iter().find(|need| rights.get(need) != Some(&true)) {
            None => Ok(()),
            Some(need) => Err(need.right().denied()),
        }
    }

    /// Asks for rights that are not known yet, and for those that will be needed.
    fn learn(&self, needs: &[Need]) -> Answer<()> {
        let unknown = |need: &&Need| !self.rights.borrow().contains_key(need);
        let mut wanted: Vec<Need> = needs.iter().filter(unknown).cloned().collect();
        if wanted.is_empty() {
            return Ok(());
        }
        for need in self.expected.borrow().iter().filter(unknown) {
            if wanted.len() < MOST && !wanted.contains(need) {
                wanted.push(need.clone());
            }
        }
        let rights: Vec<_> = wanted.iter().map(Need::right).collect();
        match self.client.rights().ask(&rights)? {
            Some(told) => self.rights.borrow_mut().extend(wanted.into_iter().zip(told)),
            None if self.acls.get() == Some(true) => self.try_each(needs)?,
            None => self.acls.set(Some(false)),
        }
        Ok(())
    }

    /// The agent has no ACLs, and servers behind it do: only reading a key can tell.
    fn try_each(&self, needs: &[Need]) -> Answer<()> {
        for need in needs {
            let allowed = match need {
                Need::Keys(_) => match self.client.rights().check(need.right()) {
                    Ok(()) => true,
                    Err(consul_client::Error::Denied { .. }) => false,
                    Err(error) => return Err(error),
                },
                _ => false,
            };
            self.rights.borrow_mut().insert(need.clone(), allowed);
        }
        Ok(())
    }

    /// Checks that a list without anything in it is that of an agent whose servers have no ACLs either.
    pub(crate) fn confirm_empty(&self, root: &str) -> Answer<()> {
        if self.client.has_token() && self.acls.get() == Some(false) {
            return self.client.rights().check(Right::Keys(root));
        }
        Ok(())
    }

    /// Makes an error that names what was done, and the agent where the cause does not.
    pub(crate) fn failed(&self, what: impl Into<String>, source: consul_client::Error) -> Error {
        let (what, address) = (what.into(), self.client.address());
        if source.to_string().contains(address) {
            return consul(what, source);
        }
        consul(format!("{what} from Consul at {address}"), source)
    }

    /// Reads the leader of a name; `None` when nobody leads.
    pub fn leader(&self, name: &str, query: &Query) -> Result<Option<Leader>, Error> {
        let key = format!("{LEADERS}{name}");
        let answer = self
            .client
            .kv()
            .get(&key, query)
            .map_err(|source| self.failed(format!("cannot read the leader {name}"), source))?;
        let Some(pair) = answer.value else { return Ok(None) };
        if pair.value.is_empty() {
            return Ok(None);
        }
        let leader: Leader = serde_json::from_slice(&pair.value)
            .map_err(|e| Error::data(format!("the value of Consul key {key} is not the record of a leader: {e}")))?;
        // A record that names a session counts while that session holds the key.
        let bound = leader.session.as_deref().is_some_and(|session| !session.is_empty());
        if leader.node.is_empty() || (bound && leader.session != pair.session) {
            return Ok(None);
        }
        Ok(Some(leader))
    }

    /// Reads the names of all services with their tags.
    pub(crate) fn services(&self, query: &Query) -> Result<Tags, Error> {
        self.read(|client| client.catalog().services(query))
            .and_then(|answer| self.may(&[Need::Services]).map(|()| answer.value))
            .map_err(|source| self.failed("cannot read the services", source))
    }

    /// Checks that lists of a service's instances are whole: Consul leaves out instances whose
    /// service or node the token may not read.
    pub(crate) fn may_see(&self, service: &str) -> Answer<()> {
        self.may(&[Need::Service(service.to_owned()), Need::Nodes])
    }

    /// Reads what the catalog has of a `service` or a `node`, as it is; `None` where there is no such thing.
    pub(crate) fn catalog_json(&self, what: &str, name: &str, query: &Query) -> Result<Option<Value>, Error> {
        self.read(|client| client.json(&["catalog", what, name], &[], query))
            .and_then(|answer| self.may_see(name).map(|()| answer.value.map(Value::from_json)))
            .map_err(|source| self.failed(format!("cannot read {what} {name}"), source))
    }

    /// Reads the instances of a service as the catalog spells them, in Consul's order. What is not a list of
    /// this service's instances is no answer.
    pub(crate) fn instances(&self, service: &str, query: &Query) -> Result<Vec<Hash>, Error> {
        let broken = || {
            let detail = format!("it is no list of instances of {service}");
            let (address, request) = (self.client.address().to_owned(), "GET /v1/catalog/service".to_owned());
            self.failed(
                format!("cannot read service {service}"),
                consul_client::Error::Body { address, request, detail },
            )
        };
        let Some(Value::Array(list)) = self.catalog_json("service", service, query)? else { return Err(broken()) };
        list.into_iter()
            .map(|entry| match entry {
                Value::Hash(entry)
                    if matches!(entry.get_str("Node"), Some(Value::String(_)))
                        && entry.get_str("ServiceName").and_then(Value::as_str) == Some(service) =>
                {
                    Ok(entry)
                }
                _ => Err(broken()),
            })
            .collect()
    }
}
