//! Typed client of Consul's HTTP API, on ureq.
//!
//! # What it promises
//!
//! - **Nothing is "absent" by accident.** `None`, an empty map or an empty list mean that a cluster
//!   with a leader said so. A refusal, a lost connection, a missing leader, an answer that leaves
//!   rows out, or a page of some proxy in between are each an [`Error`].
//! - **Every call ends.** Name resolution and connecting have [`Config::connect_timeout`], the whole
//!   call has [`Config::total_timeout`]; a blocking query adds its wait and the sixteenth of it that
//!   Consul uses as jitter.
//! - **Memory is bounded**: an answer may be [`Config::max_response`] bytes long after decompression.
//! - **Secrets stay put.** The token goes into the `X-Consul-Token` header only, never into a URL, an
//!   error or `Debug`; redirects are not followed, and a proxy of the environment is not used.
//! - It never prints, exits, or reads arguments or (but for the closure given to
//!   [`Config::from_env`]) the environment.
//!
//! # What it does not know
//!
//! Consul before 1.11 filters lists by ACL without saying so. Where "nothing there" must be told from
//! "may not see", ask [`rights`] as well.
//!
//! ```no_run
//! use consul_client::{Client, Config, Query};
//! # fn main() -> Result<(), consul_client::Error> {
//! let client = Client::new(&Config::from_env(|name| std::env::var_os(name))?)?;
//! match client.kv().get("app/motd", &Query::consistent())?.value {
//!     Some(pair) => assert!(pair.modify_index > 0),
//!     None => { /* certainly absent */ }
//! }
//! # Ok(()) }
//! ```

mod agent;
#[cfg(feature = "args")]
pub mod args;
mod catalog;
mod client;
mod config;
mod error;
mod health;
mod kv;
mod line;
mod query;
mod request;
mod resolver;
mod response;
pub mod rights;
mod session;
mod tls;
mod wire;

pub use agent::{Agent, AgentInfo, Event};
pub use catalog::{Catalog, CatalogService, Node};
pub use client::Client;
pub use config::{Address, Config, Overrides, Tls};
pub use error::{Cause, Class, Error};
pub use health::{Check, Health, Instances, Service, ServiceEntry, State};
pub use kv::{Kv, KvPair, MOST_TREES, MOST_WRITES, TRANSACTION_LIMIT, VALUE_LIMIT, Write};
pub use line::{Line, LineEnd};
pub use query::{Answer, Consistency, MAX_WAIT, Meta, Query, next_index};
pub use rights::Right;
pub use session::{Behavior, NewSession, Session, Sessions};
