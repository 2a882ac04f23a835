//! Version 3 files without an environment: the lookup of the `hiera` 3.10 command.
//!
//! It is another algorithm than the engine's: backends after backends, one resolution type for all
//! (`first`, `unique` as `--array`, `hash` as `--hash` with the file's merge_behavior), a scope of
//! plain variables, and an interpolation of its own. Its peculiarities are kept, because data that
//! is read this way was written for them.

mod interpolation;
mod key;

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::consul::Access;
use crate::consul3::Consul3;
use crate::error::Error;
use crate::input;
use crate::merge::{Deep, Strategy};
use crate::psych;
use crate::value::{Hash, Value};

use interpolation::Guard;
use key::{dig, split};

const DATADIR: &str = "/etc/puppet/environments/%{environment}/hieradata";
/// How values of several sources become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// The first one.
    Priority,
    /// All as one list.
    Array,
    /// All hashes as one.
    Hash,
}

impl Resolution {
    /// Returns what a merge strategy of the command line means to Hiera 3.
    pub fn from_strategy(strategy: Option<&Strategy>) -> Result<Self, Error> {
        match strategy {
            None | Some(Strategy::First) => Ok(Resolution::Priority),
            Some(Strategy::Unique) => Ok(Resolution::Array),
            Some(Strategy::Hash) => Ok(Resolution::Hash),
            Some(Strategy::Deep(_)) => Err(Error::Argument(
                "a version 3 file decides itself how deep hashes are merged (merge_behavior); use --merge hash"
                    .to_owned(),
            )),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Resolution::Priority => "priority",
            Resolution::Array => "array",
            Resolution::Hash => "hash",
        }
    }
}

/// Tells whether what was read of a file is of version 3 (or no hash at all, which Hiera 3 takes for defaults).
pub(crate) fn says_version3(config: &Value) -> bool {
    match config {
        Value::Hash(config) => match setting(config, "version").or_else(|| config.get_str("version")) {
            None => true,
            Some(version) => *version == Value::Int(3),
        },
        _ => true,
    }
}

/// Settings of version 3 are symbols.
fn setting<'a>(hash: &'a Hash, name: &str) -> Option<&'a Value> {
    hash.get(&Value::Symbol(name.to_owned()))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Backend {
    Yaml,
    Json,
    Consul,
}

impl Backend {
    fn name(self) -> &'static str {
        match self {
            Backend::Yaml => "yaml",
            Backend::Json => "json",
            Backend::Consul => "consul",
        }
    }
}

/// Answers lookups of one version 3 file.
pub struct Hiera3 {
    file: PathBuf,
    config: Hash,
    backends: Vec<Backend>,
    hierarchy: Vec<String>,
    /// `None` is native: the top level only.
    deep: Option<Deep>,
    scope: Hash,
    files: RefCell<HashMap<PathBuf, Rc<Hash>>>,
    consul: Option<Consul3>,
    /// Set while a part of the configuration is interpolated.
    config_guard: RefCell<Option<Guard>>,
}

impl Hiera3 {
    /// Validates what was read of a file; `scope` are the variables, `access` is for a Consul backend.
    pub(crate) fn new(config: Value, file: &Path, scope: Hash, access: &Access) -> Result<Self, Error> {
        let config = match config {
            Value::Hash(config) => config,
            Value::Null | Value::Bool(false) => Hash::new(),
            other => return Err(Error::data(format!("holds {}, not a hash", other.type_name())).in_file(file)),
        };
        let fail = |message: String| Error::data(message).in_file(file);
        let texts = |name: &str, default: &[&str]| match setting(&config, name) {
            None => Ok(default.iter().map(|text| (*text).to_owned()).collect()),
            Some(Value::String(one)) => Ok(vec![one.clone()]),
            Some(Value::Array(list)) => list
                .iter()
                .map(|item| item.as_str().map(str::to_owned))
                .collect::<Option<Vec<_>>>()
                .ok_or_else(|| fail(format!(":{name} must hold strings"))),
            Some(_) => Err(fail(format!(":{name} must be a string or a list of strings"))),
        };
        let backends: Vec<Backend> = texts("backends", &["yaml"])?
            .iter()
            .map(|name| match name.as_str() {
                "yaml" => Ok(Backend::Yaml),
                "json" => Ok(Backend::Json),
                "consul" => Ok(Backend::Consul),
                other => Err(fail(format!(
                    "backend '{other}' of a version 3 file is not one that hiera-consul can answer (yaml, json, consul); a version 5 file can name {}",
                    crate::engine::CONSUL_FUNCTION
                ))),
            })
            .collect::<Result<_, _>>()?;
        let hierarchy = texts("hierarchy", &["nodes/%{::trusted.certname}", "common"])?;
        let deep = match setting(&config, "merge_behavior").map(Value::to_text).as_deref() {
            None | Some("" | "native") => None,
            Some(behavior @ ("deep" | "deeper")) => {
                let mut deep = match setting(&config, "deep_merge_options") {
                    None | Some(Value::Null) => Deep::default(),
                    Some(options) => deep_options(options).map_err(fail)?,
                };
                deep.preserve_unmergeables = behavior == "deep";
                Some(deep)
            }
            Some(other) => return Err(fail(format!("unknown :merge_behavior {other}"))),
        };
        let consul = match backends.contains(&Backend::Consul) {
            true => {
                let none = Hash::new();
                let settings = setting(&config, "consul").and_then(Value::as_hash).unwrap_or(&none);
                Some(Consul3::new(settings, access).map_err(|e| e.in_file(file))?)
            }
            false => None,
        };
        Ok(Hiera3 {
            file: file.to_owned(),
            consul,
            backends,
            hierarchy,
            deep,
            config,
            scope,
            files: RefCell::default(),
            config_guard: RefCell::default(),
        })
    }

    /// Returns why Consul was done without.
    pub fn take_warning(&self) -> Option<String> {
        self.consul.as_ref().and_then(Consul3::take_warning)
    }

    /// Returns the data files of this scope that exist, and whether each is JSON.
    pub(crate) fn survey(&self) -> Result<Vec<(PathBuf, bool)>, Error> {
        let mut found = Vec::new();
        for backend in self.backends.iter().filter(|backend| **backend != Backend::Consul) {
            for source in &self.hierarchy {
                let source = self.interpolate_config(source)?;
                let path = self.path(*backend, &source)?;
                if path.is_file() {
                    found.push((path, *backend == Backend::Json));
                }
            }
        }
        Ok(found)
    }

    /// Looks up a key.
    pub fn lookup(&self, key: &str, resolution: Resolution) -> Result<Option<Value>, Error> {
        self.lookup_guarded(key, resolution, None)
    }

    /// Returns the default as Hiera 3 returns it: interpolated.
    pub fn default(&self, text: &str) -> Result<Value, Error> {
        self.interpolate(text, None)
    }

    fn lookup_guarded(&self, key: &str, resolution: Resolution, guard: Option<&Guard>) -> Result<Option<Value>, Error> {
        let segments = split(key).ok_or_else(|| Error::data(format!("syntax error in key: {key}")))?;
        if segments.len() > 1 && resolution != Resolution::Priority {
            return Err(Error::data(format!(
                "resolution type {} is illegal when accessing values using dotted keys, as in '{key}'",
                resolution.name()
            )));
        }
        let mut all = Vec::new();
        let mut joined: Option<Value> = None;
        let mut found = false;
        for backend in &self.backends {
            let Some(value) = self.in_backend(*backend, &segments[0], resolution, guard)? else { continue };
            let Some(value) = dig(&segments[1..], value, key)? else { continue };
            found = true;
            match resolution {
                Resolution::Priority => return Ok(Some(value)),
                Resolution::Array => all.push(value),
                Resolution::Hash => joined = Some(self.join(key, value, joined)?),
            }
        }
        Ok(match resolution {
            Resolution::Array if found => Some(flat(all)),
            Resolution::Hash => joined,
            _ => None,
        })
    }

    fn in_backend(
        &self,
        backend: Backend,
        key: &str,
        resolution: Resolution,
        guard: Option<&Guard>,
    ) -> Result<Option<Value>, Error> {
        if backend == Backend::Consul {
            // Ignores the resolution, as the original does: the first path that has the key wins.
            let consul = self.consul.as_ref().expect("it was made because this backend is there");
            let found = consul.lookup(key, &mut |text| self.interpolate_config(text))?;
            if let Some(value) = &found
                && resolution == Resolution::Array
                && !matches!(value, Value::Array(_) | Value::String(_))
            {
                return Err(mismatch(key, "Array", value));
            }
            return Ok(found);
        }
        let mut all = Vec::new();
        let mut joined: Option<Value> = None;
        let mut found = false;
        for source in &self.hierarchy {
            // Interpolated only when the lookup comes this far: a source may be looked up in those before.
            let source = self.interpolate_config(source)?;
            if source.is_empty() || source.starts_with('/') || source.ends_with('/') || source.contains("//") {
                continue;
            }
            let Some(data) = self.data(backend, &source)? else { continue };
            let Some(value) = data.get_str(key) else { continue };
            found = true;
            let value = self.answer(value, guard)?;
            match resolution {
                Resolution::Priority => return Ok(Some(value)),
                Resolution::Array => {
                    if !matches!(value, Value::Array(_) | Value::String(_)) {
                        return Err(mismatch(key, "Array", &value));
                    }
                    all.push(value);
                }
                Resolution::Hash => joined = Some(self.join(key, value, joined)?),
            }
        }
        Ok(match resolution {
            Resolution::Array if found => Some(Value::Array(all)),
            Resolution::Hash => joined,
            _ => None,
        })
    }

    /// Joins a hash of lower priority below what was found before.
    fn join(&self, key: &str, lower: Value, higher: Option<Value>) -> Result<Value, Error> {
        let Value::Hash(mut lower) = lower else { return Err(mismatch(key, "Hash", &lower)) };
        let Some(higher) = higher else { return Ok(Value::Hash(lower)) };
        match &self.deep {
            Some(deep) => deep.merge(higher, Value::Hash(lower)),
            None => {
                if let Value::Hash(higher) = higher {
                    for (name, value) in higher {
                        lower.insert(name, value);
                    }
                }
                Ok(Value::Hash(lower))
            }
        }
    }

    fn path(&self, backend: Backend, source: &str) -> Result<PathBuf, Error> {
        let settings = setting(&self.config, backend.name()).and_then(Value::as_hash);
        let datadir = match settings.and_then(|settings| setting(settings, "datadir")) {
            None | Some(Value::Null) => DATADIR,
            Some(Value::String(datadir)) => datadir,
            Some(_) => {
                return Err(Error::data(format!(":datadir of {} must be a string", backend.name())).in_file(&self.file));
            }
        };
        Ok(PathBuf::from(self.interpolate_config(datadir)?).join(format!("{source}.{}", backend.name())))
    }

    fn data(&self, backend: Backend, source: &str) -> Result<Option<Rc<Hash>>, Error> {
        let path = self.path(backend, source)?;
        if !path.exists() {
            return Ok(None);
        }
        if let Some(data) = self.files.borrow().get(&path) {
            return Ok(Some(Rc::clone(data)));
        }
        let bytes = input::read(&path)?;
        let value = match backend {
            Backend::Yaml => psych::load(&bytes).map_err(|e| e.in_file(&path))?,
            Backend::Json | Backend::Consul => psych::load_json(&bytes).map_err(|e| e.in_file(&path))?,
        };
        let data = match (backend, value) {
            (_, Value::Hash(data)) => data,
            (Backend::Yaml, Value::Null | Value::Bool(false)) => Hash::new(),
            (_, other) => {
                return Err(Error::data(format!("holds {}, not a hash", other.type_name())).in_file(&path));
            }
        };
        let data = Rc::new(data);
        self.files.borrow_mut().insert(path, Rc::clone(&data));
        Ok(Some(data))
    }

    fn answer(&self, value: &Value, guard: Option<&Guard>) -> Result<Value, Error> {
        Ok(match value {
            Value::String(text) => self.interpolate(text, guard)?,
            Value::Array(list) => {
                Value::Array(list.iter().map(|item| self.answer(item, guard)).collect::<Result<_, _>>()?)
            }
            Value::Hash(hash) => Value::Hash(
                hash.iter()
                    .map(|(key, value)| {
                        let key = match key {
                            Value::String(text) => self.interpolate(text, guard)?,
                            other => other.clone(),
                        };
                        Ok((key, self.answer(value, guard)?))
                    })
                    .collect::<Result<_, Error>>()?,
            ),
            Value::Symbol(_) => Value::Null,
            other => other.clone(),
        })
    }
}

fn mismatch(key: &str, expected: &str, value: &Value) -> Error {
    Error::data(format!("type mismatch for key '{key}': expected {expected}, got {}", value.type_name()))
}

/// One flat list without duplicates and nulls.
fn flat(all: Vec<Value>) -> Value {
    fn flatten(list: Vec<Value>, out: &mut Vec<Value>) {
        for item in list {
            match item {
                Value::Array(inner) => flatten(inner, out),
                Value::Null => {}
                other if out.contains(&other) => {}
                other => out.push(other),
            }
        }
    }
    let mut out = Vec::new();
    flatten(all, &mut out);
    Value::Array(out)
}

fn deep_options(options: &Value) -> Result<Deep, String> {
    let Value::Hash(options) = options else { return Err(":deep_merge_options must be a hash".to_owned()) };
    let mut deep = Deep::default();
    for (name, value) in options.iter() {
        match (name.to_text().as_str(), value) {
            ("knockout_prefix", Value::String(prefix)) if !prefix.is_empty() => {
                deep.knockout_prefix = Some(prefix.clone());
            }
            ("sort_merged_arrays", Value::Bool(on)) => deep.sort_merged_arrays = *on,
            ("merge_hash_arrays", Value::Bool(on)) => deep.merge_hash_arrays = *on,
            (other, _) => return Err(format!("deep merge option {other} is not supported")),
        }
    }
    Ok(deep)
}
