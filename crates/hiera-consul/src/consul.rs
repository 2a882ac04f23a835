//! Consul levels: a prefix of the key-value store, the catalog's computed keys, the elected leader.
//!
//! A level is read once per run as one snapshot of its prefix, so that all keys of a run see one
//! state and a miss costs nothing. Prefixes inside of each other are one read, made when the first of
//! them is asked: with `hiera/` as the lowest level, the whole hierarchy is one request and one state.
//!
//! Consul leaves out what the token may not see without saying so. Unless the agent says that it runs
//! without ACLs, the right to read the whole prefix is therefore checked beside every snapshot, and a
//! refusal is an error, never a miss. What Consul could not answer is never "not there" either.
//!
//! Keys, in the order in which a level answers them:
//! - what is stored below the prefix,
//! - `leader__NAME` and `leader__NAME__address`: the elected node,
//! - with `services: true`: `SERVICE_PROPERTY`, `SERVICE_PROPERTY_NODE`, `SERVICE_PROPERTY_array`,
//!   `service_hash` and `service_hash__TAG[__SERVICE[__PROPERTY[__array|hash]]]`, which answer as the
//!   original Ruby backend does.

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::rc::Rc;

use consul_client::{Client, Config, Consistency, Overrides, Query, Right};

use crate::consul3::Consul3;
use crate::engine::{ConsulSource, Entry};
use crate::error::Error;
use crate::psych;
use crate::value::{Hash, Value};

const LEADERS: &str = "stacktira/leader/";

/// How stored bytes become a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Text as it is.
    Raw,
    /// JSON.
    Json,
    /// YAML, as Puppet reads it.
    Yaml,
    /// JSON where it is JSON, else text.
    #[default]
    Auto,
}

impl Format {
    /// Parses the name.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "raw" => Format::Raw,
            "json" => Format::Json,
            "yaml" => Format::Yaml,
            "auto" => Format::Auto,
            _ => return None,
        })
    }

    /// Gives stored bytes their type.
    pub fn value(self, key: &str, bytes: &[u8]) -> Result<Value, Error> {
        let text = || {
            std::str::from_utf8(bytes).map_err(|_| {
                Error::data(format!("the value of Consul key {key} is not text ({} bytes, not UTF-8)", bytes.len()))
            })
        };
        match self {
            Format::Raw => text().map(Value::from),
            Format::Json => serde_json::from_slice(bytes)
                .map(Value::from_json)
                .map_err(|e| Error::data(format!("the value of Consul key {key} is not JSON: {e}"))),
            Format::Yaml => psych::load(bytes)
                .map(Value::symbol_keys_to_text)
                .map_err(|e| e.while_doing(format_args!("the value of Consul key {key}"))),
            Format::Auto => match serde_json::from_slice(bytes) {
                Ok(json) => Ok(Value::from_json(json)),
                Err(_) => text().map(Value::from),
            },
        }
    }
}

/// The options of a Consul level.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Level {
    /// Prefix of the keys; ends with a slash, or is empty when the level only computes.
    pub prefix: String,
    /// How values are typed.
    pub format: Format,
    /// How fresh reads are.
    pub consistency: Consistency,
    /// Answer the catalog's computed keys.
    pub services: bool,
    /// A part of the prefix is empty: a variable in it has no value, and the level holds nothing.
    pub hollow: bool,
    /// Where Consul is, unless a flag or the environment says it.
    pub overrides: Overrides,
}

impl Level {
    /// Reads the options of a hierarchy entry, interpolated.
    pub fn from_options(options: &Hash) -> Result<Self, Error> {
        let level = Level::of_service(options)?;
        if level.prefix.is_empty() && !level.services {
            return Err(Error::data("option 'prefix' is missing"));
        }
        Ok(level)
    }

    /// Reads options where no keys are read, so that a prefix may be missing.
    pub fn of_service(options: &Hash) -> Result<Self, Error> {
        let mut level = Level::default();
        let mut prefix = None;
        for (key, value) in options.iter() {
            let key = key.as_str().unwrap_or_default();
            let bad =
                |expected: &str| Error::data(format!("option '{key}' must be {expected}, got {}", value.inspect()));
            let text = || value.as_str().map(str::to_owned).ok_or_else(|| bad("a string"));
            match key {
                "prefix" => prefix = Some(text()?),
                "format" => {
                    level.format = Format::parse(&text()?).ok_or_else(|| bad("raw, json, yaml or auto"))?;
                }
                "consistency" => {
                    level.consistency = match text()?.as_str() {
                        "default" => Consistency::Default,
                        "consistent" => Consistency::Consistent,
                        "stale" => Consistency::Stale,
                        _ => return Err(bad("default, consistent or stale")),
                    }
                }
                "services" => match value {
                    Value::Bool(on) => level.services = *on,
                    _ => return Err(bad("true or false")),
                },
                "address" => level.overrides.address = Some(text()?),
                "token_file" => level.overrides.token_file = Some(PathBuf::from(text()?)),
                "ca_file" => level.overrides.ca_file = Some(PathBuf::from(text()?)),
                "client_cert" => level.overrides.client_cert = Some(PathBuf::from(text()?)),
                "client_key" => level.overrides.client_key = Some(PathBuf::from(text()?)),
                "server_name" => level.overrides.server_name = Some(text()?),
                "datacenter" => level.overrides.datacenter = Some(text()?),
                _ => {
                    return Err(Error::data(format!(
                        "option '{key}' is not known; known are prefix, format, consistency, services, address, token_file, ca_file, client_cert, client_key, server_name, datacenter"
                    )));
                }
            }
        }
        if let Some(prefix) = prefix {
            level.hollow = prefix.is_empty() || prefix.starts_with('/') || prefix.contains("//");
            level.prefix = prefix;
            if !level.prefix.ends_with('/') {
                level.prefix.push('/');
            }
        }
        Ok(level)
    }

    fn query(&self) -> Query {
        Query::new().consistency(self.consistency)
    }

    /// Tells whether no key can be below the prefix.
    fn is_empty(&self) -> bool {
        self.hollow || self.prefix.is_empty()
    }
}

/// All keys below a prefix at one moment.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Values by key, without the prefix.
    pub pairs: BTreeMap<String, Rc<Vec<u8>>>,
    /// Consul's index of the read.
    pub index: u64,
}

/// One recursive read, which may serve several levels.
struct Tree {
    client: Client,
    /// Values by whole key.
    pairs: BTreeMap<String, Rc<Vec<u8>>>,
    index: u64,
    root: String,
    /// Whether the agent runs without ACLs; asked when it first matters.
    open: Rc<OnceCell<bool>>,
}

impl Tree {
    /// Reads all keys below `root`, for the level of `prefix`.
    fn read(client: Client, root: &str, consistency: Consistency, prefix: &str) -> Result<Self, Error> {
        let answer = client.kv().list(root, &Query::new().consistency(consistency)).map_err(|source| {
            let whole = if root == prefix { String::new() } else { format!(", in one read with all below {root}") };
            consul(format!("cannot read the keys below {prefix}{whole}"), source)
        })?;
        let pairs = answer.value.into_iter().map(|pair| (pair.key, Rc::new(pair.value))).collect();
        Ok(Tree { client, pairs, index: answer.meta.index, root: root.to_owned(), open: Rc::default() })
    }

    /// Checks that nothing below `prefix` was left out.
    ///
    /// Where the agent has no ACLs, nothing is. An agent without them may still stand before servers with
    /// them, which then answer as for a caller without rights: nothing at all. That is looked for whatever
    /// the agent says.
    fn check(&self, prefix: &str) -> Result<(), consul_client::Error> {
        let rights = self.client.rights();
        if self.pairs.is_empty() {
            rights.check(Right::Keys(&self.root))?;
            if prefix == self.root {
                return Ok(());
            }
        }
        if *self.open.get_or_init(|| without_acls(&self.client)) {
            return Ok(());
        }
        rights.check(Right::Keys(prefix))
    }
}

/// Tells whether the agent says that it runs without ACLs; any other answer, or none, is a no.
fn without_acls(client: &Client) -> bool {
    matches!(client.json(&["acl", "token", "self"], &[], &Query::new()),
        Err(consul_client::Error::Denied { detail, .. }) if detail.contains("ACL support disabled"))
}

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
    fn own(&self, overrides: &Overrides) -> Overrides {
        let mut own = overrides.clone();
        let fixed = &self.fixed;
        macro_rules! fix {
            ($($field:ident),*) => { $( if fixed.$field.is_some() { own.$field.clone_from(&fixed.$field); } )* };
        }
        fix!(address, token_file, ca_file, client_cert, client_key, server_name, datacenter);
        own
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

    /// Reads all keys of a level and checks that the token may.
    pub fn snapshot(&self, level: &Level) -> Result<Snapshot, Error> {
        if level.is_empty() {
            return Ok(Snapshot::default());
        }
        let tree = Tree::read(self.client(&level.overrides)?, &level.prefix, level.consistency, &level.prefix)?;
        self.part(&tree, &level.prefix)
    }

    /// Takes what is below a prefix out of what was read, and checks that the token may read all of it.
    fn part(&self, tree: &Tree, prefix: &str) -> Result<Snapshot, Error> {
        tree.check(prefix).map_err(|source| consul(format!("cannot read the keys below {prefix}"), source))?;
        let pairs = tree
            .pairs
            .range(prefix.to_owned()..)
            .take_while(|(key, _)| key.starts_with(prefix))
            // A key that ends with a slash is a folder of Consul's web page.
            .filter(|(key, _)| !key.ends_with('/'))
            .map(|(key, value)| (key[prefix.len()..].to_owned(), Rc::clone(value)))
            .collect();
        Ok(Snapshot { pairs, index: tree.index })
    }

    /// Reads the leader of a name; `None` when nobody leads.
    pub fn leader(&self, name: &str, level: &Level) -> Result<Option<Leader>, Error> {
        let key = format!("{LEADERS}{name}");
        let client = self.client(&level.overrides)?;
        let answer = client
            .kv()
            .get(&key, &level.query())
            .map_err(|source| consul(format!("cannot read the leader {name}"), source))?;
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
    pub fn services(&self, level: &Level) -> Result<Tags, Error> {
        let client = self.client(&level.overrides)?;
        let failed = |source| consul("cannot read the services", source);
        let answer = client.catalog().services(&level.query()).map_err(failed)?;
        client.rights().check(Right::Services).map_err(failed)?;
        Ok(answer.value)
    }

    /// Checks that lists of a service's instances are whole: Consul leaves out instances whose
    /// service or node the token may not read.
    pub(crate) fn may_see(&self, client: &Client, service: &str) -> Result<(), consul_client::Error> {
        client.rights().check(Right::Service(service))?;
        client.rights().check(Right::Nodes)
    }

    /// Reads the instances of a service as the catalog spells them, in Consul's order.
    fn catalog(&self, service: &str, level: &Level) -> Result<Vec<Hash>, Error> {
        let client = self.client(&level.overrides)?;
        let failed = |source| consul(format!("cannot read service {service}"), source);
        let answer = client.json(&["catalog", "service", service], &[], &level.query()).map_err(failed)?;
        self.may_see(&client, service).map_err(failed)?;
        match answer.value.map(Value::from_json) {
            Some(Value::Array(list)) => Ok(list
                .into_iter()
                .filter_map(|entry| match entry {
                    Value::Hash(hash) => Some(hash),
                    _ => None,
                })
                .collect()),
            _ => Ok(Vec::new()),
        }
    }
}

/// Wraps an error of Consul.
pub(crate) fn consul(what: impl Into<String>, source: consul_client::Error) -> Error {
    Error::Consul { what: what.into(), source }
}

/// Tags by service.
type Tags = BTreeMap<String, Vec<String>>;

/// Answers computed keys from the catalog, each service read at most once.
pub struct Computed {
    access: Rc<Access>,
    level: Level,
    names: RefCell<Option<Rc<Tags>>>,
    instances: RefCell<HashMap<String, Rc<Vec<Hash>>>>,
}

impl Computed {
    /// Returns a reader; nothing is read yet.
    pub fn new(access: Rc<Access>, level: Level) -> Self {
        Computed { access, level, names: RefCell::default(), instances: RefCell::default() }
    }

    /// Returns the level it answers for.
    pub(crate) fn level(&self) -> &Level {
        &self.level
    }

    fn names(&self) -> Result<Rc<Tags>, Error> {
        if let Some(names) = &*self.names.borrow() {
            return Ok(Rc::clone(names));
        }
        let names = Rc::new(self.access.services(&self.level)?);
        *self.names.borrow_mut() = Some(Rc::clone(&names));
        Ok(names)
    }

    fn instances(&self, service: &str) -> Result<Rc<Vec<Hash>>, Error> {
        if let Some(instances) = self.instances.borrow().get(service) {
            return Ok(Rc::clone(instances));
        }
        let instances = Rc::new(self.access.catalog(service, &self.level)?);
        self.instances.borrow_mut().insert(service.to_owned(), Rc::clone(&instances));
        Ok(instances)
    }

    /// Answers a key: the leader keys, and with `services` those of the catalog.
    pub fn lookup(&self, key: &str) -> Result<Option<Value>, Error> {
        if let Some(rest) = key.strip_prefix("leader__") {
            let (name, address) = match rest.strip_suffix("__address") {
                Some(name) => (name, true),
                None => (rest, false),
            };
            if name.is_empty() {
                return Ok(None);
            }
            return Ok(self.access.leader(name, &self.level)?.and_then(|leader| {
                let text = if address { leader.address } else { leader.node };
                (!text.is_empty()).then_some(Value::String(text))
            }));
        }
        if !self.level.services {
            return Ok(None);
        }
        if key == "service_hash" {
            let mut all = Hash::new();
            for (name, tags) in self.names()?.iter() {
                all.insert(Value::from(name.as_str()), Value::Hash(self.entry(name, tags)?));
            }
            return Ok(Some(Value::Hash(all)));
        }
        if let Some(query) = key.strip_prefix("service_hash__") {
            return self.query(query);
        }
        if !key.contains('_') {
            return Ok(None);
        }
        for name in self.names()?.keys() {
            if let Some(rest) = key.strip_prefix(name.as_str()).and_then(|rest| rest.strip_prefix('_'))
                && let Some(value) = flat(&self.instances(name)?, rest)
            {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// Returns a service's tags and its properties by node; of two instances on a node the last.
    fn entry(&self, name: &str, tags: &[String]) -> Result<Hash, Error> {
        let tags = tags.iter().map(|tag| Value::from(tag.as_str())).collect();
        let mut entry: Hash = [(Value::from("tags"), Value::Array(tags))].into_iter().collect();
        for (node, properties) in by_node(&self.instances(name)?) {
            entry.insert(node, Value::Hash(properties));
        }
        Ok(entry)
    }

    fn query(&self, query: &str) -> Result<Option<Value>, Error> {
        let mut parts: Vec<&str> = query.split("__").collect();
        while parts.last() == Some(&"") {
            parts.pop();
        }
        let tagged = |tag: &str, service: &str| -> Result<Vec<(Value, Hash)>, Error> {
            // One request for the service that is asked, not one for each that exists.
            Ok(by_node(&self.instances(service)?)
                .into_iter()
                .filter(|(node, properties)| {
                    node.as_str() != Some("tags")
                        && matches!(properties.get_str("ServiceTags"),
                            Some(Value::Array(tags)) if tags.iter().any(|t| t.as_str() == Some(tag)))
                })
                .collect())
        };
        let property = |properties: &Hash, name: &str| properties.get_str(name).cloned().unwrap_or(Value::Null);
        Ok(match parts[..] {
            [tag] => {
                let mut found = Hash::new();
                for (name, tags) in self.names()?.iter().filter(|(_, tags)| tags.iter().any(|t| t == tag)) {
                    found.insert(Value::from(name.as_str()), Value::Hash(self.entry(name, tags)?));
                }
                Some(Value::Hash(found))
            }
            [tag, service] => Some(Value::Hash(
                tagged(tag, service)?.into_iter().map(|(node, properties)| (node, Value::Hash(properties))).collect(),
            )),
            [tag, service, name] => tagged(tag, service)?
                .iter()
                .rev()
                .find_map(|(_, properties)| properties.get_str(name).cloned())
                .filter(|value| !matches!(value, Value::Null)),
            [tag, service, name, "array"] => Some(Value::Array(
                tagged(tag, service)?.iter().map(|(_, properties)| property(properties, name)).collect(),
            )),
            [tag, service, name, "hash"] => Some(Value::Hash(
                tagged(tag, service)?
                    .into_iter()
                    .map(|(node, properties)| (node, property(&properties, name)))
                    .collect(),
            )),
            _ => None,
        })
    }
}

fn by_node(instances: &[Hash]) -> Vec<(Value, Hash)> {
    let mut nodes: Hash = Hash::new();
    for instance in instances {
        let properties: Hash = instance
            .iter()
            .filter(|(name, _)| name.as_str() != Some("ServiceID"))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let node = instance.get_str("Node").cloned().unwrap_or(Value::Null);
        nodes.insert(node, Value::Hash(properties));
    }
    nodes
        .into_iter()
        .filter_map(|(node, properties)| match properties {
            Value::Hash(properties) => Some((node, properties)),
            _ => None,
        })
        .collect()
}

/// Answers what stands after `SERVICE_`: `PROPERTY`, `PROPERTY_NODE` or `PROPERTY_array`.
fn flat(instances: &[Hash], rest: &str) -> Option<Value> {
    let mut found = None;
    for instance in instances {
        let node = instance.get_str("Node").and_then(Value::as_str).unwrap_or_default();
        for (name, value) in instance.iter() {
            let Some(name) = name.as_str().filter(|name| *name != "ServiceID") else { continue };
            if rest == name {
                return Some(value.clone()).filter(|value| !matches!(value, Value::Null));
            }
            match rest.strip_prefix(name).and_then(|rest| rest.strip_prefix('_')) {
                Some("array") => {
                    let all = instances.iter().filter_map(|i| i.get_str(name).cloned()).collect();
                    return Some(Value::Array(all));
                }
                Some(asked) if asked == node && name != "Node" => found = Some(value.clone()),
                _ => {}
            }
        }
    }
    found.filter(|value| !matches!(value, Value::Null))
}

/// Everything that one run has read of a level.
struct Read {
    level: Level,
    snapshot: Snapshot,
    computed: Computed,
    answers: RefCell<HashMap<String, Option<Value>>>,
}

/// Levels that share a root: their settings, the root's prefix, and what was read of it.
struct Root {
    overrides: Overrides,
    consistency: Consistency,
    prefix: String,
    tree: Option<Rc<Tree>>,
}

/// Answers a run's Consul levels; each level is read once.
pub struct Levels {
    access: Rc<Access>,
    read: RefCell<Vec<(Hash, Rc<Read>)>>,
    /// What is read, or will be, widest first where one prefix is inside of another.
    roots: RefCell<Vec<Root>>,
    /// The backends of version 3, by their settings.
    version3: RefCell<Vec<(Hash, Rc<Consul3>)>>,
}

impl Levels {
    /// Returns a source that reads through `access`.
    pub fn new(access: Rc<Access>) -> Self {
        Levels { access, read: RefCell::default(), roots: RefCell::default(), version3: RefCell::default() }
    }

    /// Says which level will probably be read, so that it can be read together with others.
    pub(crate) fn expect(&self, level: &Level) {
        if !level.is_empty() {
            self.root(level);
        }
    }

    fn read(&self, options: &Hash) -> Result<Rc<Read>, Error> {
        if let Some((_, read)) = self.read.borrow().iter().find(|(known, _)| known == options) {
            return Ok(Rc::clone(read));
        }
        let level = Level::from_options(options)?;
        let snapshot = self.snapshot(&level)?;
        let computed = Computed::new(Rc::clone(&self.access), level.clone());
        let read = Rc::new(Read { level, snapshot, computed, answers: RefCell::default() });
        self.read.borrow_mut().push((options.clone(), Rc::clone(&read)));
        Ok(read)
    }

    /// Returns the place of the root that holds a level.
    fn root(&self, level: &Level) -> usize {
        let overrides = self.access.own(&level.overrides);
        let mut roots = self.roots.borrow_mut();
        let same = |root: &Root| root.consistency == level.consistency && root.overrides == overrides;
        if let Some(at) = roots.iter().position(|root| same(root) && level.prefix.starts_with(&root.prefix)) {
            return at;
        }
        // What is read already stays; what is not may become a part of this one.
        roots.retain(|root| !(same(root) && root.tree.is_none() && root.prefix.starts_with(&level.prefix)));
        roots.push(Root { consistency: level.consistency, prefix: level.prefix.clone(), overrides, tree: None });
        roots.len() - 1
    }

    /// Reads all keys of a level, with all levels that share a root.
    pub(crate) fn snapshot(&self, level: &Level) -> Result<Snapshot, Error> {
        if level.is_empty() {
            return Ok(Snapshot::default());
        }
        let at = self.root(level);
        let known = self.roots.borrow()[at].tree.clone();
        let tree = match known {
            Some(tree) => tree,
            None => {
                let client = self.access.client(&level.overrides)?;
                let root = self.roots.borrow()[at].prefix.clone();
                let mut tree = Tree::read(client, &root, level.consistency, &level.prefix)?;
                let overrides = self.access.own(&level.overrides);
                if let Some(other) =
                    self.roots.borrow().iter().filter(|r| r.overrides == overrides).find_map(|r| r.tree.as_ref())
                {
                    tree.open = Rc::clone(&other.open);
                }
                let tree = Rc::new(tree);
                self.roots.borrow_mut()[at].tree = Some(Rc::clone(&tree));
                tree
            }
        };
        self.access.part(&tree, &level.prefix)
    }
}

impl ConsulSource for Levels {
    fn announce(&self, options: &Hash) {
        // What is wrong with the options is said when the level is asked.
        if let Ok(level) = Level::from_options(options) {
            self.expect(&level);
        }
    }

    fn lookup(&self, options: &Hash, key: &str) -> Result<Option<Value>, Error> {
        let read = self.read(options)?;
        if let Some(bytes) = read.snapshot.pairs.get(key) {
            let name = format!("{}{key}", read.level.prefix);
            return read.level.format.value(&name, bytes).map(Some);
        }
        if let Some(answer) = read.answers.borrow().get(key) {
            return Ok(answer.clone());
        }
        let answer = read.computed.lookup(key)?;
        read.answers.borrow_mut().insert(key.to_owned(), answer.clone());
        Ok(answer)
    }

    fn version3(
        &self,
        settings: &Hash,
        key: &str,
        text: &mut dyn FnMut(&str) -> Result<String, Error>,
    ) -> Result<(Option<Value>, Option<String>), Error> {
        let known = self.version3.borrow().iter().find(|(known, _)| known == settings).map(|(_, b)| Rc::clone(b));
        let backend = match known {
            Some(backend) => backend,
            None => {
                let backend = Rc::new(Consul3::new(settings, &self.access)?);
                self.version3.borrow_mut().push((settings.clone(), Rc::clone(&backend)));
                backend
            }
        };
        let found = backend.lookup(key, text)?;
        Ok((found, backend.take_warning()))
    }

    fn entries(&self, options: &Hash) -> Result<Vec<Entry>, Error> {
        let read = self.read(options)?;
        let entry = |(key, bytes): (&String, &Rc<Vec<u8>>)| {
            let name = format!("{}{key}", read.level.prefix);
            let value = read.level.format.value(&name, bytes);
            Entry { key: key.clone(), name, value }
        };
        Ok(read.snapshot.pairs.iter().map(entry).collect())
    }

    fn place(&self, options: &Hash) -> Option<String> {
        let read = self.read(options).ok()?;
        if read.level.is_empty() {
            return Some("no prefix: a variable in it has no value".to_owned()).filter(|_| read.level.hollow);
        }
        let (keys, prefix) = (read.snapshot.pairs.len(), &read.level.prefix);
        Some(format!("{keys} keys below {prefix} at index {}", read.snapshot.index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(json: serde_json::Value) -> Hash {
        match Value::from_json(json) {
            Value::Hash(hash) => hash,
            other => panic!("a hash, not {other:?}"),
        }
    }

    #[test]
    fn options_are_read_strictly() {
        let level = Level::from_options(&options(serde_json::json!({
            "prefix": "hiera/common", "format": "json", "consistency": "stale"
        })))
        .expect("valid");
        assert_eq!((level.prefix.as_str(), level.format), ("hiera/common/", Format::Json));
        let bad = [
            serde_json::json!({}),
            serde_json::json!({"prefix": "a", "fromat": "raw"}),
            serde_json::json!({"prefix": "a", "format": "xml"}),
            serde_json::json!({"prefix": 1}),
        ];
        for options_ in bad {
            assert!(Level::from_options(&options(options_.clone())).is_err(), "{options_}");
        }
    }

    #[test]
    fn a_prefix_with_a_hole_holds_nothing() {
        for prefix in ["hiera/node//", "/x", ""] {
            let level = Level::from_options(&options(serde_json::json!({ "prefix": prefix }))).expect("valid");
            assert!(level.hollow, "{prefix}");
        }
    }

    #[test]
    fn formats_give_types() {
        let value = |format: Format, bytes: &[u8]| format.value("k", bytes);
        assert_eq!(value(Format::Raw, b"42").expect("text"), Value::from("42"));
        assert_eq!(value(Format::Auto, b"42").expect("json"), Value::Int(42));
        assert_eq!(value(Format::Auto, b"4 2").expect("text"), Value::from("4 2"));
        assert_eq!(value(Format::Auto, b"").expect("text"), Value::from(""));
        assert_eq!(value(Format::Yaml, b"yes").expect("yaml"), Value::Bool(true));
        assert!(value(Format::Json, b"{").is_err());
        assert!(value(Format::Raw, b"\xff").is_err());
        assert!(value(Format::Auto, b"\xff").is_err());
    }

    #[test]
    fn flat_keys_answer_as_the_original() {
        let instances = vec![
            options(serde_json::json!({"Node": "n1", "Address": "10.0.0.1", "ServiceID": "a", "ServicePort": 1})),
            options(serde_json::json!({"Node": "n2", "Address": "10.0.0.2", "ServiceID": "a", "ServicePort": 2})),
        ];
        assert_eq!(flat(&instances, "Address"), Some(Value::from("10.0.0.1")));
        assert_eq!(flat(&instances, "Address_n2"), Some(Value::from("10.0.0.2")));
        assert_eq!(flat(&instances, "ServicePort_array"), Some(Value::Array(vec![Value::Int(1), Value::Int(2)])));
        assert_eq!(flat(&instances, "ServiceID"), None);
        assert_eq!(flat(&instances, "Node"), Some(Value::from("n1")));
        assert_eq!(flat(&instances, "Node_n1"), None);
    }
}
