//! The `consul` backend of version 3 files, with the answers of the original Ruby backend.
//!
//! `:paths:` are tried in order: `services` is the catalog's computed keys, `/v1/kv/PREFIX` the
//! key-value store, whose values stay text and are not interpolated, `/v1/catalog/service` and
//! `/v1/catalog/node` the catalog as it is. A path that comes to hold `//`, because a variable in it has
//! no value, is skipped. Unlike the original, a refusal or a broken answer is never a miss, whatever
//! `:failure:` says; `graceful` lets a run go on without a Consul that cannot be reached, and says so.
//! Prefixes are read once, together where one is inside of another.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use consul_client::{Overrides, Query};

use crate::consul::{Access, Computed, Format, Level, Levels, Reader, Snapshot, is_computed};
use crate::error::Error;
use crate::value::{Hash, Value};

/// The variable of a path that stands for the key.
const KEY: &str = "%{key}";

/// One backend; reads everything once.
pub(crate) struct Consul3 {
    levels: Levels,
    reader: Rc<Reader>,
    paths: Vec<String>,
    graceful: bool,
    level: Level,
    computed: Rc<Computed>,
    read: RefCell<Vec<(String, Rc<Snapshot>)>>,
    announced: Cell<bool>,
    /// Why Consul is done without.
    away: RefCell<Option<String>>,
}

/// What is at a path.
pub(crate) enum Stored {
    /// A path with a variable that has no value, or of no known kind.
    Nothing,
    /// Every key has to be asked for; `true` when only computed keys have.
    Asked(bool),
    /// The keys of the store.
    Values(Rc<Snapshot>),
}

/// What a path asks.
enum Target {
    Services,
    /// The prefix with a slash at its end, and the rest of the key.
    Keys(String, String),
    /// What of the catalog, and the name.
    Catalog(&'static str, String),
    Skipped,
}

impl Consul3 {
    /// Reads the settings under `:consul:`; flags and the environment win over them.
    pub(crate) fn new(settings: &Hash, access: &Access) -> Result<Self, Error> {
        let mut given = Overrides::default();
        let (mut host, mut port, mut secure) = (None, None, false);
        let (mut paths, mut graceful) = (Vec::new(), false);
        let mut token = None;
        let (mut connect, mut total, mut verify) = (None, None, true);
        for (name, value) in settings.iter() {
            let name = name.to_text();
            let bad = |expected: &str| Error::data(format!(":{name} of backend consul must be {expected}"));
            let text = || value.as_str().map(str::to_owned).ok_or_else(|| bad("a string"));
            let number = || match value {
                Value::Int(n) => u16::try_from(*n).map_err(|_| bad("a number up to 65535")),
                Value::String(text) => text.parse().map_err(|_| bad("a number")),
                _ => Err(bad("a number")),
            };
            let flag = || match value {
                Value::Bool(on) => Ok(*on),
                _ => Err(bad("true or false")),
            };
            let file = || text().map(|path| Some(PathBuf::from(path)));
            if matches!(value, Value::Null) {
                continue;
            }
            match name.as_str() {
                "host" => host = Some(text()?),
                "port" => port = Some(number()?),
                "use_ssl" => secure = flag()?,
                "ssl_verify" => verify = flag()?,
                "ssl_cert" => given.client_cert = file()?,
                "ssl_key" => given.client_key = file()?,
                "ssl_ca_cert" => given.ca_file = file()?,
                "token" => token = Some(text()?),
                "http_connect_timeout" => connect = Some(Duration::from_secs(number()?.into())),
                "http_read_timeout" => total = Some(Duration::from_secs(number()?.into())),
                "failure" => {
                    graceful = match value.to_text().as_str() {
                        "graceful" => true,
                        "hard" => false,
                        _ => return Err(bad("graceful or hard")),
                    }
                }
                // A key that is not there was never an error to the original either.
                "ignore_404" => drop(flag()?),
                "paths" => {
                    let list = match value {
                        Value::Array(list) => list.iter().map(|v| v.as_str().map(str::to_owned)).collect(),
                        Value::String(one) => Some(vec![one.clone()]),
                        _ => None,
                    };
                    paths = list.ok_or_else(|| bad("a list of strings"))?;
                }
                "datadir" | "extension" => {}
                _ => return Err(Error::data(format!("backend consul has no setting :{name}"))),
            }
        }
        if host.is_none() && port.is_none() {
            return Err(Error::data("backend consul needs :host and :port"));
        }
        let host = host.unwrap_or_else(|| "127.0.0.1".to_owned());
        let scheme = if secure { "https" } else { "http" };
        let bare = host.contains(':') && !host.starts_with('[');
        let host = if bare { format!("[{host}]") } else { host };
        given.address = Some(format!("{scheme}://{host}:{}", port.unwrap_or(8500)));
        let access = Rc::new(access.changed(|config| {
            if config.token.is_none() && config.token_file.is_none() {
                config.token = token;
            }
            config.connect_timeout = connect.unwrap_or(config.connect_timeout);
            // The original's limit is for each read; a call as a whole may connect and read.
            config.total_timeout = total.map_or(config.total_timeout, |total| total + config.connect_timeout);
            if !verify && std::env::var_os("CONSUL_HTTP_SSL_VERIFY").is_none() {
                config.tls.verify = false;
            }
        }));
        let level = Level { services: true, overrides: given, format: Format::Raw, ..Level::default() };
        let levels = Levels::new(access);
        Ok(Consul3 {
            reader: levels.reader(&level.overrides)?,
            computed: levels.computed(&level)?,
            levels,
            level,
            paths,
            graceful,
            read: RefCell::default(),
            announced: Cell::default(),
            away: RefCell::default(),
        })
    }

    /// Returns why Consul was done without, once.
    pub(crate) fn take_warning(&self) -> Option<String> {
        self.away.borrow_mut().as_mut().map(std::mem::take).filter(|text| !text.is_empty())
    }

    /// Answers a key; `text` interpolates a path.
    pub(crate) fn lookup(
        &self,
        key: &str,
        text: &mut dyn FnMut(&str) -> Result<String, Error>,
    ) -> Result<Option<Value>, Error> {
        let mut paths = Vec::with_capacity(self.paths.len());
        for path in &self.paths {
            let mut whole = String::new();
            for (at, part) in path.split(KEY).enumerate() {
                if at > 0 {
                    whole.push_str(key);
                }
                whole.push_str(&text(part)?);
            }
            paths.push(whole);
        }
        self.lookup_at(key, &paths)
    }

    /// Answers a key with paths that are interpolated already.
    pub(crate) fn lookup_at(&self, key: &str, paths: &[String]) -> Result<Option<Value>, Error> {
        if self.away.borrow().is_some() {
            return Ok(None);
        }
        let targets = paths.iter().map(|path| target(path, key)).collect::<Result<Vec<_>, _>>()?;
        self.announce(&targets);
        self.gracefully(self.first(&targets, key))
    }

    /// Returns what is stored at each path, for a caller that looks it up there itself; `None` when
    /// Consul is done without.
    pub(crate) fn stored(&self, paths: &[String]) -> Result<Option<Vec<Stored>>, Error> {
        if self.away.borrow().is_some() {
            return Ok(None);
        }
        let targets = paths.iter().map(|path| target(path, "key")).collect::<Result<Vec<_>, _>>()?;
        self.announce(&targets);
        let stored = targets.iter().map(|target| {
            Ok(match target {
                Target::Skipped => Stored::Nothing,
                Target::Services | Target::Catalog(..) => Stored::Asked(matches!(target, Target::Services)),
                Target::Keys(prefix, _) => Stored::Values(self.snapshot(prefix)?),
            })
        });
        self.gracefully(stored.collect::<Result<Vec<_>, _>>().map(Some))
    }

    /// Says which prefixes will be read, before the first is.
    fn announce(&self, targets: &[Target]) {
        if !self.announced.replace(true) {
            for target in targets {
                if let Target::Keys(prefix, _) = target {
                    self.levels.expect(&self.level(prefix));
                }
            }
        }
    }

    /// Takes a Consul that nobody reaches for one without keys, where the settings say so.
    fn gracefully<T>(&self, result: Result<Option<T>, Error>) -> Result<Option<T>, Error> {
        match result {
            Err(Error::Consul { what, source }) if self.graceful && self.out_of_reach(&source) => {
                *self.away.borrow_mut() =
                    Some(format!("{what}: {source}; going on without Consul, as :failure: graceful says"));
                Ok(None)
            }
            other => other,
        }
    }

    fn first(&self, targets: &[Target], key: &str) -> Result<Option<Value>, Error> {
        for target in targets {
            let found = match target {
                Target::Skipped => None,
                Target::Services if !is_computed(key) => None,
                Target::Services => {
                    let found = self.computed.lookup(key)?;
                    // The original ends here for these keys, found or not.
                    if key.starts_with("service_hash__") {
                        return Ok(found);
                    }
                    found
                }
                Target::Keys(prefix, rest) => {
                    let snapshot = self.snapshot(prefix)?;
                    match snapshot.get(rest) {
                        Some(bytes) => Some(Format::Raw.value(&format!("{prefix}{rest}"), bytes)?),
                        None => None,
                    }
                }
                Target::Catalog(what, name) => self.catalog(what, name)?,
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// Tells whether nobody answers. An answer that broke off looks much the same, and is told from that by
    /// asking for something else.
    fn out_of_reach(&self, error: &consul_client::Error) -> bool {
        use consul_client::Error::{Timeout, Unreachable};
        matches!(error, Unreachable { .. } | Timeout { .. })
            && matches!(self.reader.client().leader(), Err(Unreachable { .. } | Timeout { .. }))
    }

    fn level(&self, prefix: &str) -> Level {
        Level { prefix: prefix.to_owned(), services: false, ..self.level.clone() }
    }

    fn snapshot(&self, prefix: &str) -> Result<Rc<Snapshot>, Error> {
        if let Some((_, snapshot)) = self.read.borrow().iter().find(|(known, _)| known == prefix) {
            return Ok(Rc::clone(snapshot));
        }
        let snapshot = Rc::new(self.levels.snapshot(&self.level(prefix))?);
        self.read.borrow_mut().push((prefix.to_owned(), Rc::clone(&snapshot)));
        Ok(snapshot)
    }

    fn catalog(&self, what: &'static str, name: &str) -> Result<Option<Value>, Error> {
        Ok(match self.reader.catalog_json(what, name, &Query::new())? {
            None | Some(Value::Null) => None,
            Some(Value::Array(list)) if list.is_empty() => None,
            found => found,
        })
    }
}

/// Says what a path asks for a key.
fn target(path: &str, key: &str) -> Result<Target, Error> {
    if path == "services" {
        return Ok(Target::Services);
    }
    let whole = format!("{path}/{key}");
    if whole.contains("//") {
        return Ok(Target::Skipped);
    }
    let version = path.strip_prefix("/v").filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    let Some(rest) = version.map(|rest| &rest[1..]) else { return Ok(Target::Skipped) };
    if let Some(prefix) = rest.strip_prefix("/kv/") {
        return Ok(Target::Keys(format!("{}/", prefix.trim_end_matches('/')), key.to_owned()));
    }
    match rest.strip_prefix("/catalog/") {
        Some("service") => Ok(Target::Catalog("service", key.to_owned())),
        Some("node") => Ok(Target::Catalog("node", key.to_owned())),
        Some(_) => Err(Error::data(format!(
            "path {path} of backend consul cannot be asked; of the catalog there are /v1/catalog/service and /v1/catalog/node"
        ))),
        None => Ok(Target::Skipped),
    }
}
