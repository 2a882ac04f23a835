//! What the mirror keeps in Consul, below `PREFIX/`:
//!
//! ```text
//! channel/NAME          the id of a snapshot, alone
//! role/ROLE, node/NODE  a snapshot's id or a channel's name: goes before the node's own channel
//! history/SCOPE/NAME    who moved a pointer when, from where, to where and why
//! rollout/CHANNEL       a staged rollout (see `rollout`)
//! state/NODE            what a node's `apply` did last
//! ```
//! Every write is one compare-and-set, so whoever loses a race is told and nothing is overwritten.
//! A pointer's move is first noted in its history, then made: a process that dies in between
//! leaves a note of a move that did not happen, which readers recognise because nothing points there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use consul_client::{Client, Config as ClientConfig, Overrides, Query, State};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::config;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::files;
use crate::names;
use crate::store::json_line;

/// Moves that a history remembers.
const MAX_HISTORY: usize = 100;

/// Whose pointer it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Of all nodes that follow this channel.
    Channel(String),
    /// Of all nodes of a role.
    Role(String),
    /// Of one node.
    Node(String),
}

impl Scope {
    fn key(&self) -> String {
        match self {
            Self::Channel(name) => format!("channel/{name}"),
            Self::Role(name) => format!("role/{name}"),
            Self::Node(name) => format!("node/{name}"),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Channel(name) => write!(f, "channel {name}"),
            Self::Role(name) => write!(f, "role {name}"),
            Self::Node(name) => write!(f, "node {name}"),
        }
    }
}

/// What a pointer points at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) enum Aim {
    /// A snapshot.
    Snapshot(Digest),
    /// Whatever a channel points at.
    Channel(String),
}

impl TryFrom<String> for Aim {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        if let Ok(id) = text.parse() {
            return Ok(Self::Snapshot(id));
        }
        names::check(&text).map_err(|why| format!("{text:?} is neither a snapshot's id nor a channel: it {why}"))?;
        Ok(Self::Channel(text))
    }
}

impl From<Aim> for String {
    fn from(aim: Aim) -> Self {
        aim.to_string()
    }
}

impl fmt::Display for Aim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Snapshot(id) => id.fmt(f),
            Self::Channel(name) => f.write_str(name),
        }
    }
}

/// A value and the index that a write must name.
#[derive(Debug)]
pub(crate) struct Seen<T> {
    /// What the key holds; `None` if it is not there.
    pub(crate) value: Option<T>,
    index: u64,
}

/// One move of a pointer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Move {
    /// Seconds since the epoch.
    pub(crate) at: u64,
    /// Where it pointed before.
    pub(crate) from: Option<Aim>,
    /// Where it points since; `None`: it was removed.
    pub(crate) to: Option<Aim>,
    /// User and host.
    pub(crate) by: String,
    /// Why, in the operator's words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) why: String,
}

/// All moves of a pointer, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct History {
    v: u32,
    /// The moves.
    pub(crate) moves: Vec<Move>,
}

impl History {
    /// Returns where the pointer was before it came to `now`: notes of moves that did not happen end elsewhere.
    pub(crate) fn before(&self, now: Option<&Aim>) -> Option<&Aim> {
        self.moves.iter().rev().find(|step| step.to.as_ref() == now)?.from.as_ref()
    }
}

/// What a node's `apply` did last: `state/NODE`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeState {
    /// Format version.
    pub(crate) v: u32,
    /// Its name.
    pub(crate) node: String,
    /// Its role, if its configuration names one.
    #[serde(default)]
    pub(crate) role: Option<String>,
    /// Channel of its configuration, or the one that its role or node pointer names.
    pub(crate) channel: String,
    /// What decided: `channel`, `rollout`, `role`, `node` or `mirror`.
    pub(crate) by: String,
    /// Snapshot that it is to use.
    pub(crate) want: Option<Digest>,
    /// Snapshot that it uses.
    pub(crate) have: Option<Digest>,
    /// `applied`, `failed` (refused: forged or damaged) or `away` (something did not answer).
    pub(crate) state: String,
    /// Seconds since the epoch.
    pub(crate) at: u64,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) message: String,
}

/// What `provision/converge.sh` publishes of a run, as far as a rollout asks: `stacktira/node/NODE`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct RunState {
    /// `running`, `converged` or `failed`.
    #[serde(default)]
    pub(crate) state: String,
    /// When the run began.
    #[serde(default)]
    pub(crate) started: String,
    /// Snapshot whose packages it used.
    #[serde(default)]
    pub(crate) mirror: String,
}

/// A check that fails, as `NODE CHECK`.
pub(crate) type Failing = BTreeSet<(String, String)>;

/// The mirror's part of Consul.
pub(crate) struct Cluster {
    client: Client,
    prefix: String,
}

impl Cluster {
    /// Prepares access as the configuration and Consul's environment variables say.
    ///
    /// # Errors
    /// [`Error::Consul`] for settings that cannot be used.
    pub(crate) fn new(consul: &config::Consul) -> Result<Self> {
        let failed = |error| failed("settings", &error);
        let mut settings = ClientConfig::from_env(|name| std::env::var_os(name)).map_err(failed)?;
        // The environment wins over the file.
        if std::env::var_os("CONSUL_HTTP_ADDR").is_none_or(|value| value.is_empty()) {
            let overrides = Overrides { address: consul.address.clone(), ..Overrides::default() };
            settings = settings.with(&overrides).map_err(failed)?;
        }
        let client = Client::new(&settings).map_err(failed)?;
        Ok(Self { client, prefix: consul.prefix.clone() })
    }

    fn read<T>(&self, key: &str, parse: impl Fn(&[u8]) -> std::result::Result<T, String>) -> Result<Seen<T>> {
        let key = format!("{}/{key}", self.prefix);
        let answer = self.client.kv().get(&key, &Query::consistent()).map_err(|error| failed(&key, &error))?;
        let Some(pair) = answer.value else { return Ok(Seen { value: None, index: 0 }) };
        let value = parse(&pair.value).map_err(|message| Error::Consul {
            what: key,
            message: format!("does not hold what it should: {message}"),
            code: toolkit::exit::BAD_INPUT,
        })?;
        Ok(Seen { value: Some(value), index: pair.modify_index })
    }

    /// Writes a key if nobody wrote it since `seen`; tells whether it did.
    fn write<T>(&self, key: &str, value: &[u8], seen: &Seen<T>) -> Result<bool> {
        let key = format!("{}/{key}", self.prefix);
        self.client.kv().cas(&key, value, seen.index).map_err(|error| failed(&key, &error))
    }

    /// Reads a document, consistently.
    ///
    /// # Errors
    /// [`Error::Consul`]; also when it does not parse.
    pub(crate) fn document<T: DeserializeOwned>(&self, key: &str) -> Result<Seen<T>> {
        self.read(key, |bytes| serde_json::from_slice(bytes).map_err(|error| error.to_string()))
    }

    /// Reads a key whatever it holds, to replace it.
    ///
    /// # Errors
    /// [`Error::Consul`].
    pub(crate) fn any<T>(&self, key: &str) -> Result<Seen<T>> {
        self.read(key, |_| Ok(())).map(|seen| Seen { value: None, index: seen.index })
    }

    /// Replaces a document if nobody did since `seen`; tells whether it did.
    ///
    /// # Errors
    /// [`Error::Consul`].
    pub(crate) fn replace<T>(&self, key: &str, value: &impl Serialize, seen: &Seen<T>) -> Result<bool> {
        self.write(key, &json_line(value)?, seen)
    }

    /// Reads a pointer, consistently.
    ///
    /// # Errors
    /// [`Error::Consul`]; also when the value points at nothing.
    pub(crate) fn pointer(&self, scope: &Scope) -> Result<Seen<Aim>> {
        self.read(&scope.key(), |bytes| {
            let text = String::from_utf8_lossy(bytes).trim().to_owned();
            match (Aim::try_from(text)?, scope) {
                (Aim::Channel(name), Scope::Channel(_)) => Err(format!("{name:?} is not a snapshot's id")),
                (aim, _) => Ok(aim),
            }
        })
    }

    /// Reads a pointer's history.
    ///
    /// # Errors
    /// [`Error::Consul`].
    pub(crate) fn history(&self, scope: &Scope) -> Result<Seen<History>> {
        self.document(&format!("history/{}", scope.key()))
    }

    /// Moves a pointer if nobody moved it since `seen`, and remembers it; tells whether it did. `None` removes it.
    ///
    /// # Errors
    /// [`Error::Consul`].
    pub(crate) fn move_pointer(&self, scope: &Scope, seen: &Seen<Aim>, to: Option<&Aim>, why: &str) -> Result<bool> {
        if seen.value.as_ref() == to {
            return Ok(true);
        }
        let known = self.history(scope)?;
        let mut history = known.value.clone().unwrap_or_default();
        history.v = 1;
        history.moves.push(Move {
            at: files::now(),
            from: seen.value.clone(),
            to: to.cloned(),
            by: operator(),
            why: why.to_owned(),
        });
        let excess = history.moves.len().saturating_sub(MAX_HISTORY);
        history.moves.drain(..excess);
        if !self.replace(&format!("history/{}", scope.key()), &history, &known)? {
            return Ok(false);
        }
        match to {
            Some(aim) => self.write(&scope.key(), aim.to_string().as_bytes(), seen),
            None => {
                let key = format!("{}/{}", self.prefix, scope.key());
                self.client.kv().delete_cas(&key, seen.index).map_err(|error| failed(&key, &error))
            }
        }
    }

    /// Returns every document below `PREFIX/part/` that parses, by the last part of its name; what does not parse
    /// was not written by this program and is left out.
    ///
    /// # Errors
    /// [`Error::Consul`].
    pub(crate) fn all<T: DeserializeOwned>(&self, part: &str) -> Result<BTreeMap<String, T>> {
        self.below(&format!("{}/{part}/", self.prefix))
    }

    /// Returns what the nodes' runs published.
    ///
    /// # Errors
    /// [`Error::Consul`].
    pub(crate) fn runs(&self) -> Result<BTreeMap<String, RunState>> {
        self.below("stacktira/node/")
    }

    fn below<T: DeserializeOwned>(&self, prefix: &str) -> Result<BTreeMap<String, T>> {
        let pairs = self.client.kv().list(prefix, &Query::consistent()).map_err(|error| failed(prefix, &error))?.value;
        let entry = |pair: consul_client::KvPair| {
            let name = pair.key.strip_prefix(prefix)?.to_owned();
            Some((name, serde_json::from_slice(&pair.value).ok()?))
        };
        Ok(pairs.into_iter().filter_map(entry).collect())
    }

    /// Returns every snapshot that a channel, role or node pointer names.
    ///
    /// # Errors
    /// [`Error::Consul`].
    pub(crate) fn pointed(&self) -> Result<BTreeSet<Digest>> {
        let mut found = BTreeSet::new();
        for part in ["channel", "role", "node"] {
            let prefix = format!("{}/{part}/", self.prefix);
            let pairs = self.client.kv().list(&prefix, &Query::consistent());
            for pair in pairs.map_err(|error| failed(&prefix, &error))?.value {
                found.extend(String::from_utf8_lossy(&pair.value).trim().parse::<Digest>());
            }
        }
        Ok(found)
    }

    /// Returns all checks that are critical.
    ///
    /// # Errors
    /// [`Error::Consul`].
    pub(crate) fn failing(&self) -> Result<Failing> {
        let answer = self.client.health().state(State::Critical, &Query::consistent());
        let checks = answer.map_err(|error| failed("health/state/critical", &error))?.value;
        Ok(checks.into_iter().map(|check| (check.node, check.check_id)).collect())
    }
}

/// Who works here, for histories.
pub(crate) fn operator() -> String {
    let user = std::env::var("SUDO_USER").or_else(|_| std::env::var("USER")).unwrap_or_default();
    let user = if user.is_empty() { format!("uid {}", nix::unistd::getuid()) } else { user };
    format!("{}@{}", toolkit::exit::one_line(&user), hostname())
}

/// The machine's name without its domain; what nodes are called in Consul here.
pub(crate) fn hostname() -> String {
    let name = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    name.split('.').next().unwrap_or_default().to_owned()
}

fn failed(what: &str, error: &consul_client::Error) -> Error {
    let message = toolkit::exit::chain(error);
    Error::Consul { what: what.to_owned(), message, code: error.exit_code() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_aim_is_an_id_or_a_channel() {
        let id = "a".repeat(64);
        assert_eq!(Aim::try_from(id.clone()), Ok(Aim::Snapshot(id.parse().expect("an id"))));
        assert_eq!(Aim::try_from("edge".to_owned()), Ok(Aim::Channel("edge".into())));
        assert!(Aim::try_from("../x".to_owned()).is_err());
        assert!(Aim::try_from(String::new()).is_err());
    }

    #[test]
    fn a_move_that_did_not_happen_is_not_gone_back_to() {
        let aim = |n: u8| Aim::Snapshot(Digest::of(&[n]));
        let step = |from: Option<u8>, to: u8| Move {
            at: 0,
            from: from.map(aim),
            to: Some(aim(to)),
            by: String::new(),
            why: String::new(),
        };
        // 1, then 2, then a note of 3 whose process died.
        let history = History { v: 1, moves: vec![step(None, 1), step(Some(1), 2), step(Some(2), 3)] };
        assert_eq!(history.before(Some(&aim(2))), Some(&aim(1)));
        assert_eq!(history.before(Some(&aim(1))), None);
        assert_eq!(history.before(Some(&aim(9))), None);
    }
}
