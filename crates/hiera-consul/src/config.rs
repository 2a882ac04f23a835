//! `hiera.yaml`: versions 5 and 4 of any layer, version 3 of the global layer.
//!
//! The file is validated as Puppet validates it: an unknown key, a wrong type or two functions in
//! one level are errors that name the file, never guesses. What is kept is the hierarchy as it is
//! written; interpolation happens when a lookup first needs it.

use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::input;
use crate::psych;
use crate::value::{Hash, Value};

/// Where a configuration stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layer {
    /// `--hiera_config`.
    Global,
    /// The environment's own file.
    Environment,
    /// A module's own file.
    Module(String),
}

impl std::fmt::Display for Layer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Layer::Global => f.write_str("global layer"),
            Layer::Environment => f.write_str("environment layer"),
            Layer::Module(name) => write!(f, "module {name}"),
        }
    }
}

/// The kinds of data function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FunctionKind {
    /// Returns all data of a location.
    DataHash,
    /// Answers one key.
    LookupKey,
    /// Answers a dug key.
    DataDig,
    /// A backend of Hiera 3.
    Hiera3Backend,
}

impl FunctionKind {
    const ALL: [(&'static str, FunctionKind); 4] = [
        ("data_hash", FunctionKind::DataHash),
        ("lookup_key", FunctionKind::LookupKey),
        ("data_dig", FunctionKind::DataDig),
        ("hiera3_backend", FunctionKind::Hiera3Backend),
    ];

    /// Returns the key that declares the function.
    pub fn key(self) -> &'static str {
        FunctionKind::ALL.iter().find(|(_, kind)| *kind == self).map_or("", |(key, _)| key)
    }
}

/// Where a level's data is, before interpolation.
#[derive(Clone, Debug, PartialEq)]
pub enum Locations {
    /// The function finds its data itself.
    None,
    /// `path` and `paths`.
    Paths(Vec<String>),
    /// `glob` and `globs`.
    Globs(Vec<String>),
    /// `uri` and `uris`.
    Uris(Vec<String>),
    /// `mapped_paths`: collection, name of the item, template.
    Mapped(Box<[String; 3]>),
}

/// One level of a hierarchy, before interpolation.
#[derive(Clone, Debug)]
pub struct Level {
    /// Unique name.
    pub name: String,
    /// Kind of the function.
    pub kind: FunctionKind,
    /// Name of the function.
    pub function: String,
    /// Directory of relative paths.
    pub datadir: PathBuf,
    /// Where the data is.
    pub locations: Locations,
    /// Ending that every path gets (versions 3 and 4).
    pub extension: Option<String>,
    /// Options of the function.
    pub options: Hash,
}

/// A validated configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file; `None` for built-in defaults.
    pub file: Option<PathBuf>,
    /// 3, 4 or 5.
    pub version: i64,
    /// Levels, highest priority first.
    pub hierarchy: Vec<Level>,
    /// Levels asked when nothing else has the key (modules only).
    pub default_hierarchy: Option<Vec<Level>>,
}

/// Reads and validates the `hiera.yaml` of a layer. A file that does not exist means Puppet's
/// built-in default: `data/common.yaml` beside it, if that exists.
pub fn load(file: &Path, layer: &Layer, v3_datadir: &Path, warn: &mut dyn FnMut(String)) -> Result<Config, Error> {
    match input::read_if_there(file)? {
        Some(bytes) => validate(psych::load(&bytes).map_err(|e| e.in_file(file))?, file, layer, v3_datadir, warn),
        None => Reader::new(None, file.parent().unwrap_or(Path::new(".")), layer).version5(Hash::new()),
    }
}

/// Validates what was read of a layer's file.
pub(crate) fn validate(
    value: Value,
    file: &Path,
    layer: &Layer,
    v3_datadir: &Path,
    warn: &mut dyn FnMut(String),
) -> Result<Config, Error> {
    let root = file.parent().unwrap_or(Path::new("."));
    let config = match value.symbol_keys_to_text() {
        Value::Hash(config) => config,
        _ => {
            warn(format!(
                "{}: does not hold a hash; the defaults of version 3 are used, as Puppet does",
                file.display()
            ));
            Hash::new()
        }
    };
    let reader = Reader::new(Some(file), root, layer);
    let version = match config.get_str("version") {
        None | Some(Value::Null) => 3,
        Some(Value::Int(n)) => *n,
        Some(other) => {
            return Err(reader.fail(format!("version must be an integer, got {}", other.inspect())));
        }
    };
    match version {
        5 => reader.version5(config),
        4 if *layer == Layer::Global => {
            Err(reader.fail("version 4 cannot be used in the global layer; write it as version 5"))
        }
        4 => reader.version4(&config),
        3 => reader.version3(&config, v3_datadir),
        other => Err(reader.fail(format!("version {other} of hiera.yaml is not supported"))),
    }
}

struct Reader<'a> {
    file: Option<&'a Path>,
    root: &'a Path,
    layer: &'a Layer,
}

impl<'a> Reader<'a> {
    fn new(file: Option<&'a Path>, root: &'a Path, layer: &'a Layer) -> Self {
        Reader { file, root, layer }
    }

    fn fail(&self, message: impl Into<String>) -> Error {
        let error = Error::data(message);
        match self.file {
            Some(file) => error.in_file(file),
            None => error,
        }
    }

    fn config(&self, version: i64, hierarchy: Vec<Level>) -> Result<Config, Error> {
        self.unique_names(&hierarchy)?;
        Ok(Config { file: self.file.map(Path::to_owned), version, hierarchy, default_hierarchy: None })
    }

    fn unique_names(&self, levels: &[Level]) -> Result<(), Error> {
        for (at, level) in levels.iter().enumerate() {
            if levels[..at].iter().any(|other| other.name == level.name) {
                return Err(self.fail(format!("hierarchy name '{}' is defined more than once", level.name)));
            }
        }
        Ok(())
    }

    fn known_keys(&self, hash: &Hash, known: &[&str], what: &str) -> Result<(), Error> {
        match hash.iter().map(|(k, _)| k).find(|k| !k.as_str().is_some_and(|k| known.contains(&k))) {
            None => Ok(()),
            Some(key) => Err(self.fail(format!("unrecognized key {} in {what}", key.inspect()))),
        }
    }

    fn text(&self, hash: &Hash, key: &str, what: &str) -> Result<Option<String>, Error> {
        match hash.get_str(key) {
            None => Ok(None),
            Some(Value::String(text)) if !text.is_empty() => Ok(Some(text.clone())),
            Some(_) => Err(self.fail(format!("'{key}' of {what} must be a string that is not empty"))),
        }
    }

    fn texts(&self, value: &Value, key: &str, what: &str) -> Result<Vec<String>, Error> {
        let bad = || self.fail(format!("'{key}' of {what} must be a list of strings that are not empty"));
        match value {
            Value::Array(list) if !list.is_empty() => list
                .iter()
                .map(|item| item.as_str().filter(|s| !s.is_empty()).map(str::to_owned).ok_or_else(bad))
                .collect(),
            _ => Err(bad()),
        }
    }

    fn options(&self, hash: &Hash, what: &str) -> Result<Option<Hash>, Error> {
        let options = match hash.get_str("options") {
            None => return Ok(None),
            Some(Value::Hash(options)) => options,
            Some(_) => return Err(self.fail(format!("'options' of {what} must be a hash"))),
        };
        for (key, value) in options.iter() {
            let name = key.as_str().unwrap_or("");
            let valid = name.starts_with(|c: char| c.is_ascii_alphabetic())
                && name.ends_with(|c: char| c.is_ascii_alphanumeric())
                && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
            if !valid {
                return Err(self.fail(format!("option name {} of {what} is not valid", key.inspect())));
            }
            if matches!(name, "path" | "uri") {
                return Err(self.fail(format!("option key '{name}' of {what} is reserved by Puppet")));
            }
            if !value.is_data() {
                return Err(self.fail(format!("option '{name}' of {what} holds a value that is no data")));
            }
        }
        Ok(Some(options.clone()))
    }

    /// Finds the one function that a hash declares.
    fn function(
        &self,
        hash: &Hash,
        kinds: &[(&'static str, FunctionKind)],
        what: &str,
    ) -> Result<Option<(FunctionKind, String)>, Error> {
        let mut found = None;
        for (key, kind) in kinds {
            if let Some(name) = self.text(hash, key, what)? {
                if found.is_some() {
                    return Err(self.fail(format!(
                        "only one of data_hash, lookup_key, data_dig and hiera3_backend can be defined in {what}"
                    )));
                }
                found = Some((*kind, name));
            }
        }
        Ok(found)
    }

    fn version5(&self, config: Hash) -> Result<Config, Error> {
        self.known_keys(
            &config,
            &["version", "defaults", "hierarchy", "plan_hierarchy", "default_hierarchy"],
            "the configuration",
        )?;
        let defaults = match config.get_str("defaults") {
            None | Some(Value::Null) => [(Value::from("data_hash"), Value::from("yaml_data"))].into_iter().collect(),
            Some(Value::Hash(defaults)) => defaults.clone(),
            Some(_) => return Err(self.fail("'defaults' must be a hash")),
        };
        let what = "defaults";
        self.known_keys(&defaults, &["data_hash", "lookup_key", "data_dig", "datadir", "options"], what)?;
        let default_function = self.function(&defaults, &FunctionKind::ALL[..3], what)?;
        let default_options = self.options(&defaults, what)?;
        let default_datadir = self.text(&defaults, "datadir", what)?.unwrap_or_else(|| "data".to_owned());

        let read = |key: &str| -> Result<Option<Vec<Level>>, Error> {
            let list = match config.get_str(key) {
                None => return Ok(None),
                Some(Value::Null) if key == "hierarchy" => return Ok(None),
                Some(Value::Array(list)) => list,
                Some(_) => return Err(self.fail(format!("'{key}' must be a list"))),
            };
            let levels = list
                .iter()
                .map(|entry| {
                    self.level5(entry, key, default_function.as_ref(), default_options.as_ref(), &default_datadir)
                })
                .collect::<Result<Vec<_>, _>>()?;
            self.unique_names(&levels)?;
            Ok(Some(levels))
        };
        let hierarchy = match read("hierarchy")? {
            Some(levels) => levels,
            None => {
                let entry: Hash =
                    [(Value::from("name"), Value::from("Common")), (Value::from("path"), Value::from("common.yaml"))]
                        .into_iter()
                        .collect();
                vec![self.level5(
                    &Value::Hash(entry),
                    "hierarchy",
                    default_function.as_ref(),
                    default_options.as_ref(),
                    &default_datadir,
                )?]
            }
        };
        read("plan_hierarchy")?;
        let default_hierarchy = read("default_hierarchy")?;
        if default_hierarchy.is_some() && !matches!(self.layer, Layer::Module(_)) {
            return Err(self.fail("'default_hierarchy' is only allowed in the module layer"));
        }
        let mut config = self.config(5, hierarchy)?;
        config.default_hierarchy = default_hierarchy;
        Ok(config)
    }

    fn level5(
        &self,
        entry: &Value,
        list: &str,
        default_function: Option<&(FunctionKind, String)>,
        default_options: Option<&Hash>,
        default_datadir: &str,
    ) -> Result<Level, Error> {
        const LOCATIONS: [&str; 7] = ["path", "paths", "glob", "globs", "uri", "uris", "mapped_paths"];
        let Value::Hash(entry) = entry else {
            return Err(self.fail(format!("every entry of '{list}' must be a hash")));
        };
        let name = self
            .text(entry, "name", &format!("an entry of '{list}'"))?
            .ok_or_else(|| self.fail(format!("an entry of '{list}' has no 'name'")))?;
        let what = format!("hierarchy '{name}'");
        let mut known = vec!["name", "datadir", "options"];
        known.extend(LOCATIONS);
        known.extend(FunctionKind::ALL.iter().map(|(key, _)| *key));
        self.known_keys(entry, &known, &what)?;
        let (kind, function) = self
            .function(entry, &FunctionKind::ALL, &what)?
            .or_else(|| default_function.cloned())
            .ok_or_else(|| {
            self.fail(format!("one of data_hash, lookup_key, data_dig or hiera3_backend must be defined in {what}"))
        })?;
        if kind == FunctionKind::Hiera3Backend {
            if *self.layer != Layer::Global {
                return Err(self.fail(format!("'hiera3_backend' is only allowed in the global layer ({what})")));
            }
            if matches!(function.as_str(), "yaml" | "json" | "hocon") {
                return Err(self.fail(format!(
                    "use 'data_hash: {function}_data' instead of 'hiera3_backend: {function}' in {what}"
                )));
            }
        }
        let mut declared = LOCATIONS.iter().filter(|key| entry.get_str(key).is_some());
        let location = declared.next();
        if declared.next().is_some() {
            return Err(self.fail(format!("only one of {} can be defined in {what}", LOCATIONS.join(", "))));
        }
        let locations = match location {
            None => Locations::None,
            Some(key) => {
                let value = entry.get_str(key).expect("the key was found in this hash");
                let list = match *key {
                    "path" | "glob" | "uri" => self.text(entry, key, &what)?.into_iter().collect(),
                    _ => self.texts(value, key, &what)?,
                };
                match *key {
                    "path" | "paths" => Locations::Paths(list),
                    "glob" | "globs" => Locations::Globs(list),
                    "uri" | "uris" => Locations::Uris(list),
                    _ => Locations::Mapped(Box::new(<[String; 3]>::try_from(list).map_err(|_| {
                        self.fail(format!("'mapped_paths' of {what} must have exactly three elements"))
                    })?)),
                }
            }
        };
        let options = self.options(entry, &what)?.or_else(|| default_options.cloned()).unwrap_or_default();
        let datadir = self.text(entry, "datadir", &what)?;
        Ok(Level {
            name,
            kind,
            function,
            datadir: self.root.join(datadir.as_deref().unwrap_or(default_datadir)),
            locations,
            extension: None,
            options,
        })
    }

    fn version4(&self, config: &Hash) -> Result<Config, Error> {
        self.known_keys(config, &["version", "datadir", "hierarchy"], "the configuration")?;
        let datadir = self.text(config, "datadir", "the configuration")?.unwrap_or_else(|| "data".to_owned());
        let mut hierarchy = Vec::new();
        let list = match config.get_str("hierarchy") {
            None | Some(Value::Null) => vec![Value::Hash(
                [(Value::from("name"), Value::from("common")), (Value::from("backend"), Value::from("yaml"))]
                    .into_iter()
                    .collect(),
            )],
            Some(Value::Array(list)) => list.clone(),
            Some(_) => return Err(self.fail("'hierarchy' must be a list")),
        };
        for entry in &list {
            let Value::Hash(entry) = entry else {
                return Err(self.fail("every entry of 'hierarchy' must be a hash"));
            };
            let missing = |key: &str| self.fail(format!("an entry of 'hierarchy' has no '{key}'"));
            let name = self.text(entry, "name", "an entry of 'hierarchy'")?.ok_or_else(|| missing("name"))?;
            let what = format!("hierarchy '{name}'");
            self.known_keys(entry, &["name", "backend", "datadir", "path", "paths"], &what)?;
            let backend = self.text(entry, "backend", &what)?.ok_or_else(|| missing("backend"))?;
            if !matches!(backend.as_str(), "yaml" | "json") {
                return Err(self.fail(format!("no data provider is registered for backend '{backend}' of {what}")));
            }
            let paths = match entry.get_str("paths") {
                Some(paths) => self.texts(paths, "paths", &what)?,
                None => vec![self.text(entry, "path", &what)?.unwrap_or_else(|| name.clone())],
            };
            let own = self.text(entry, "datadir", &what)?;
            hierarchy.push(Level {
                name,
                kind: FunctionKind::DataHash,
                function: format!("{backend}_data"),
                datadir: self.root.join(own.as_deref().unwrap_or(&datadir)),
                locations: Locations::Paths(paths),
                extension: Some(format!(".{backend}")),
                options: Hash::new(),
            });
        }
        self.config(4, hierarchy)
    }

    /// A version 3 file as Puppet's global layer: a level per backend, over the same paths.
    fn version3(&self, config: &Hash, default_datadir: &Path) -> Result<Config, Error> {
        let list = |key: &str, default: &[&str]| -> Result<Vec<String>, Error> {
            match config.get_str(key) {
                None | Some(Value::Null) => Ok(default.iter().map(|s| (*s).to_owned()).collect()),
                Some(Value::String(one)) if !one.is_empty() => Ok(vec![one.clone()]),
                Some(Value::Array(items)) if items.is_empty() => Ok(Vec::new()),
                Some(other) => self.texts(other, key, "the configuration"),
            }
        };
        let backends = list("backends", &["yaml"])?;
        let paths = list("hierarchy", &["nodes/%{::trusted.certname}", "common"])?;
        let mut known = vec!["version", "backends", "hierarchy", "logger", "merge_behavior", "deep_merge_options"];
        known.extend(backends.iter().map(String::as_str));
        self.known_keys(config, &known, "the configuration")?;
        match config.get_str("merge_behavior").map(Value::to_text).as_deref() {
            None | Some("" | "native" | "deep" | "deeper") => {}
            Some(other) => return Err(self.fail(format!("unknown merge_behavior '{other}'"))),
        }
        let mut hierarchy: Vec<Level> = Vec::new();
        for backend in backends {
            if hierarchy.iter().any(|level| level.name == backend) {
                return Err(self.fail(format!("backend '{backend}' is defined more than once")));
            }
            let settings = match config.get_str(&backend) {
                None | Some(Value::Null) => Hash::new(),
                Some(Value::Hash(settings)) => settings.clone(),
                Some(_) => return Err(self.fail(format!("the settings of backend '{backend}' must be a hash"))),
            };
            let what = format!("backend '{backend}'");
            let datadir =
                self.text(&settings, "datadir", &what)?.map_or_else(|| default_datadir.to_owned(), PathBuf::from);
            let extension = self.text(&settings, "extension", &what)?.unwrap_or_else(|| backend.clone());
            let (kind, function) = match backend.as_str() {
                "yaml" | "json" => (FunctionKind::DataHash, format!("{backend}_data")),
                _ => (FunctionKind::Hiera3Backend, backend.clone()),
            };
            let own_paths = backend == "consul";
            hierarchy.push(Level {
                name: backend,
                kind,
                function,
                datadir,
                // The Consul backend is asked once: it has paths of its own.
                locations: if kind == FunctionKind::Hiera3Backend && own_paths {
                    Locations::None
                } else {
                    Locations::Paths(paths.clone())
                },
                extension: Some(format!(".{extension}")),
                options: if kind == FunctionKind::Hiera3Backend { settings } else { Hash::new() },
            });
        }
        self.config(3, hierarchy)
    }
}
