//! Consul levels: a prefix of the key-value store, the catalog's computed keys, the elected leader.
//!
//! A level is read once per run as one snapshot of its prefix, so that all keys of a run see one state and a
//! miss costs nothing. Prefixes inside of each other are one read, made when the first of them is asked: with
//! `hiera/` as the lowest level, the whole hierarchy is one request and one state. Prefixes apart from each other
//! are read in one transaction. Where the keys that a run asks for are known beforehand, they alone are read, as long as
//! no value leads to another key. `reader` makes sure that nothing was left out: a refusal is an error, never a
//! miss. What Consul could not answer is never "not there" either. A level may be `kept` on disk, to answer
//! while Consul is away.
//!
//! Keys, in the order in which a level answers them:
//! - what is stored below the prefix,
//! - `leader__NAME` and `leader__NAME__address`: the elected node,
//! - with `services: true`: `SERVICE_PROPERTY`, `SERVICE_PROPERTY_NODE`, `SERVICE_PROPERTY_array`,
//!   `service_hash` and `service_hash__TAG[__SERVICE[__PROPERTY[__array|hash]]]`, which answer as the
//!   original Ruby backend does. A service is read when a key asks for it.

mod computed;
mod kept;
mod layout;
mod level;
mod levels;
mod reader;
mod snapshot;

use std::cell::RefCell;
use std::collections::HashMap;

use consul_client::{Client, Config, Overrides};

use crate::error::Error;

pub use computed::Computed;
pub(crate) use computed::is_computed;
pub use layout::Layout;
pub(crate) use layout::{Values, document};
pub use level::{Format, Level};
pub use levels::Levels;
pub(crate) use reader::Need;
pub use reader::Reader;
pub use snapshot::{Origin, Pairs, Snapshot};

const LEADERS: &str = "stacktira/leader/";

/// An elected node.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
pub struct Leader {
    /// Its name.
    pub node: String,
    /// Its address.
    #[serde(default)]
    pub address: String,
    /// The session that holds the leadership; none for a choice made for good.
    #[serde(default)]
    session: Option<String>,
}

/// Reads from Consul; keeps connections, never answers.
pub struct Access {
    /// Of flags and the environment.
    config: Config,
    /// What flags and the environment set: it wins over a level's options.
    fixed: Overrides,
    clients: RefCell<HashMap<String, Client>>,
}

impl Access {
    /// Returns an access with `config`; `fixed` names the settings that a level may not change.
    pub fn new(config: Config, fixed: Overrides) -> Self {
        Access { config, fixed, clients: RefCell::default() }
    }

    /// Returns an access with other settings, that reads on connections of its own.
    pub(crate) fn changed(&self, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = self.config.clone();
        change(&mut config);
        Access::new(config, self.fixed.clone())
    }

    /// Returns the settings of a level, where flags and the environment do not say otherwise.
    pub(crate) fn own(&self, overrides: &Overrides) -> Overrides {
        let mut own = overrides.clone();
        let fixed = &self.fixed;
        macro_rules! fix {
            ($($field:ident),*) => { $( if fixed.$field.is_some() { own.$field.clone_from(&fixed.$field); } )* };
        }
        fix!(address, token_file, ca_file, client_cert, client_key, server_name, datacenter);
        own
    }

    /// Returns what a kept snapshot of a level is of.
    pub(crate) fn subject(&self, level: &Level) -> Result<kept::Subject, Error> {
        let config = self.config.clone().with(&self.own(&level.overrides));
        config
            .map(|config| kept::Subject::new(&config, &level.prefix))
            .map_err(|source| consul("cannot use the settings of Consul", source))
    }

    /// Returns the client of a level.
    pub fn client(&self, overrides: &Overrides) -> Result<Client, Error> {
        let own = self.own(overrides);
        let name = format!("{own:?}");
        if let Some(client) = self.clients.borrow().get(&name) {
            return Ok(client.clone());
        }
        let client = self
            .config
            .clone()
            .with(&own)
            .and_then(|config| Client::new(&config))
            .map_err(|source| consul("cannot use the settings of Consul", source))?;
        self.clients.borrow_mut().insert(name, client.clone());
        Ok(client)
    }
}

/// Wraps an error of Consul.
pub(crate) fn consul(what: impl Into<String>, source: consul_client::Error) -> Error {
    Error::Consul { what: what.into(), source }
}
