//! The lookup itself: layers, hierarchy levels, locations, lookup_options.
//!
//! Three layers are asked in order (global, environment, module), in each the levels of its
//! `hiera.yaml`, in each level its locations; one merge strategy joins what is found at every one
//! of these steps. `Ok(None)` always means "certainly not there"; whatever could not be read, be it
//! a broken file or an unreachable Consul, is an error and ends the lookup.
//!
//! An `Engine` serves one run: files, configurations and Consul snapshots are read once and kept,
//! so that all keys of a run see one state.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use regex::{Regex, RegexBuilder};

use crate::config::{self, Config, FunctionKind, Layer, Level, Locations};
use crate::error::Error;
use crate::input;
use crate::key::Key;
use crate::locations;
use crate::merge::Strategy;
use crate::psych;
use crate::scope::Scope;
use crate::types;
use crate::value::{Hash, Value};

/// The name of the lookup_key function that is answered natively.
pub const CONSUL_FUNCTION: &str = "stacktira::consul";
const LOOKUP_OPTIONS: &str = "lookup_options";
/// Puppet's default for version 3 files that name no datadir.
const V3_DATADIR: &str = "/etc/puppetlabs/code/environments/%{::environment}/hieradata";
/// Names in lookup_options: far more than data has.
const MOST_OPTIONS: usize = 5000;
/// Patterns of lookup_options, and how many of them may be large.
const MOST_PATTERNS: usize = 500;
const MOST_LARGE: usize = 16;
/// Lookups inside lookups, and interpolations inside interpolations.
const MOST_NESTED: usize = 150;

/// Answers keys of Consul levels.
pub trait ConsulSource {
    /// Says which level will probably be asked, before any is, so that levels can be read together.
    fn announce(&self, options: &Hash);

    /// Returns the value of `key` in the level that `options` describe, not interpolated.
    fn lookup(&self, options: &Hash, key: &str) -> Result<Option<Value>, Error>;

    /// Answers a key as the `consul` backend of version 3 with these settings does, and says what was odd;
    /// `text` interpolates a part of the settings.
    fn version3(
        &self,
        settings: &Hash,
        key: &str,
        text: &mut dyn FnMut(&str) -> Result<String, Error>,
    ) -> Result<(Option<Value>, Option<String>), Error>;

    /// Tells whether answers were no answers, since more has to be read than was thought. From now on
    /// everything is; what was answered so far is of another state and must be asked again.
    fn widen(&self) -> bool {
        false
    }

    /// Returns everything that is stored in a level.
    fn entries(&self, options: &Hash) -> Result<Vec<Entry>, Error>;

    /// Returns what was odd about reads since this was last asked, such as a Consul that is away.
    fn notices(&self) -> Vec<String>;

    /// Says what was read for a level that was asked.
    fn place(&self, options: &Hash) -> Option<String>;
}

/// A stored value of a Consul level.
#[derive(Debug)]
pub struct Entry {
    /// The key of lookups.
    pub key: String,
    /// The key in Consul.
    pub name: String,
    /// What it means, or why it means nothing.
    pub value: Result<Value, Error>,
}

/// What a layer consists of on this node.
pub(crate) struct Survey {
    /// Its configuration; `None` for built-in defaults.
    pub(crate) file: Option<PathBuf>,
    /// Every string of the hierarchy that may hold tokens, by level.
    pub(crate) templates: Vec<(String, String)>,
    /// Where data comes from, by level.
    pub(crate) sources: Vec<(String, Source)>,
    /// Directories of data of all nodes.
    pub(crate) datadirs: Vec<PathBuf>,
}

/// Where data comes from.
pub(crate) enum Source {
    /// A file that exists.
    File {
        /// Where it is.
        path: PathBuf,
        /// JSON, else YAML.
        json: bool,
    },
    /// A Consul level with these options.
    Consul(Hash),
    /// A level that cannot be answered, and why.
    Other(String),
}

/// An environment directory.
#[derive(Clone, Debug)]
pub struct Environment {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// Directories of modules.
    pub modulepath: Vec<PathBuf>,
}

/// What an engine works on.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The global layer's file.
    pub hiera_config: Option<PathBuf>,
    /// The environment.
    pub environment: Option<Environment>,
}

/// State of one lookup and the lookups inside it.
#[derive(Default)]
pub struct Invocation {
    /// What is being resolved, for the detection of recursion.
    stack: Vec<String>,
    /// Only the global layer is asked.
    global_only: bool,
}

impl Invocation {
    /// Runs `f` while `name` counts as being resolved.
    pub(crate) fn guarded<T>(&mut self, name: &str, f: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        if self.stack.iter().any(|other| other == name) {
            return Err(Error::data(format!("recursive lookup detected in [{}]", self.stack.join(", "))));
        }
        if self.stack.len() >= MOST_NESTED {
            return Err(Error::data(format!("lookups are nested deeper than {MOST_NESTED} at '{name}'")));
        }
        self.stack.push(name.to_owned());
        let result = f(self);
        self.stack.pop();
        result
    }
}

/// A place of a level, interpolated.
enum Location {
    File {
        path: PathBuf,
        exists: bool,
    },
    /// No function that is answered here takes one.
    Uri,
}

/// A level, interpolated.
struct Provider {
    name: String,
    kind: FunctionKind,
    function: String,
    options: Hash,
    locations: Vec<Option<Location>>,
}

struct LayerState {
    layer: Layer,
    config: Config,
    providers: RefCell<Option<Rc<Vec<Provider>>>>,
    defaults: RefCell<Option<Rc<Vec<Provider>>>>,
}

/// lookup_options, ready to be asked.
struct Options {
    exact: Hash,
    patterns: Vec<(Regex, Value)>,
}

impl Options {
    fn of(&self, root: &str) -> Option<&Hash> {
        let found = match self.exact.get_str(root) {
            Some(Value::Null) | None => {
                self.patterns.iter().find(|(pattern, _)| pattern.is_match(root)).map(|(_, value)| value)
            }
            found => found,
        };
        found.and_then(Value::as_hash)
    }
}

/// Answers lookups; see the module's documentation.
pub struct Engine {
    sources: Sources,
    pub(crate) scope: Scope,
    consul: Box<dyn ConsulSource>,
    /// What is in the global layer's file, where that was read already.
    given: RefCell<Option<Value>>,
    files: RefCell<HashMap<PathBuf, Rc<Hash>>>,
    /// What values with tokens came to, so that data which names a value often costs it once.
    resolved: RefCell<HashMap<Resolved, Value>>,
    global: RefCell<Option<Option<Rc<LayerState>>>>,
    environment: RefCell<Option<Option<Rc<LayerState>>>>,
    modules: RefCell<HashMap<String, Option<Rc<LayerState>>>>,
    options: RefCell<HashMap<Option<String>, Option<Rc<Options>>>>,
    global_options: RefCell<Option<Option<Hash>>>,
    environment_options: RefCell<Option<Option<Hash>>>,
    warnings: RefCell<Vec<String>>,
    trace: RefCell<Option<Trace>>,
}

/// Where a value stands, its key, and whether lookups in it were confined to the global layer.
type Resolved = (String, String, bool);

#[derive(Default)]
struct Trace {
    depth: usize,
    lines: Vec<String>,
}

type Found = Result<Option<Value>, Error>;

impl Engine {
    /// Returns an engine; nothing is read yet.
    pub fn new(sources: Sources, scope: Scope, consul: Box<dyn ConsulSource>) -> Self {
        Engine {
            sources,
            scope,
            consul,
            given: RefCell::default(),
            files: RefCell::default(),
            resolved: RefCell::default(),
            global: RefCell::default(),
            environment: RefCell::default(),
            modules: RefCell::default(),
            options: RefCell::default(),
            global_options: RefCell::default(),
            environment_options: RefCell::default(),
            warnings: RefCell::default(),
            trace: RefCell::default(),
        }
    }

    /// Hands over what was read of the global layer's file, which is not read again then.
    pub(crate) fn give_global(&self, config: Value) {
        *self.given.borrow_mut() = Some(config);
    }

    /// Starts to record what `take_explanation` returns.
    pub fn explain(&self) {
        *self.trace.borrow_mut() = Some(Trace::default());
    }

    /// Returns the recorded steps.
    pub fn take_explanation(&self) -> Vec<String> {
        self.trace.borrow_mut().as_mut().map(|trace| std::mem::take(&mut trace.lines)).unwrap_or_default()
    }

    /// Returns what was odd but no error.
    pub fn take_warnings(&self) -> Vec<String> {
        for notice in self.consul.notices() {
            self.warn(notice);
        }
        std::mem::take(&mut *self.warnings.borrow_mut())
    }

    fn warn(&self, message: String) {
        let mut warnings = self.warnings.borrow_mut();
        if !warnings.contains(&message) {
            warnings.push(message);
        }
    }

    pub(crate) fn say(&self, line: impl FnOnce() -> String) {
        if let Some(trace) = self.trace.borrow_mut().as_mut() {
            let indent = "  ".repeat(trace.depth);
            trace.lines.push(format!("{indent}{}", line()));
        }
    }

    pub(crate) fn deeper<T>(&self, f: impl FnOnce() -> T) -> T {
        let step = |by: isize| {
            if let Some(trace) = self.trace.borrow_mut().as_mut() {
                trace.depth = trace.depth.saturating_add_signed(by);
            }
        };
        step(1);
        let result = f();
        step(-1);
        result
    }

    /// Returns the first of `keys` that is found, with its value.
    pub fn lookup_first(&self, keys: &[String], merge: Option<&Strategy>) -> Found {
        let found = self.first_of(keys, merge);
        if !self.consul.widen() {
            return found;
        }
        self.forget();
        self.first_of(keys, merge)
    }

    /// Forgets all that followed from what Consul answered; files stay as they were read.
    fn forget(&self) {
        self.resolved.take();
        self.global.take();
        self.environment.take();
        self.modules.take();
        self.options.take();
        self.global_options.take();
        self.environment_options.take();
    }

    fn first_of(&self, keys: &[String], merge: Option<&Strategy>) -> Found {
        for key in keys {
            let mut invocation = Invocation::default();
            self.say(|| format!("Searching for \"{key}\""));
            let found = self.deeper(|| self.lookup(key, merge, &mut invocation));
            if let Some(value) = found.map_err(|e| e.asked_for(key))? {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// Looks up one key with the options that lookup_options give it.
    pub(crate) fn lookup(&self, text: &str, merge: Option<&Strategy>, inv: &mut Invocation) -> Found {
        // Reserved: never found as data.
        if text == LOOKUP_OPTIONS || text.starts_with("lookup_options.") {
            return Ok(None);
        }
        let key = Key::parse(text, || format!("key: '{text}'"))?;
        let module = key.module().map(str::to_owned);
        let options = self.options_of(&key, module.as_deref(), inv)?;
        let strategy = match (merge, options.as_ref().and_then(|o| o.get_str("merge"))) {
            (Some(strategy), _) => strategy.clone(),
            (None, None | Some(Value::Null)) => Strategy::First,
            (None, Some(value)) => {
                let strategy = Strategy::from_value(value)
                    .map_err(|e| e.while_doing(format_args!("lookup_options of '{}'", key.root)))?;
                self.say(|| format!("Merge strategy \"{}\" of lookup_options", strategy.name()));
                strategy
            }
        };
        let mut found = self.in_layers(&key, &strategy, module.as_deref(), inv)?;
        if found.is_none()
            && !inv.global_only
            && let Some(value) = self.in_module_defaults(&key, module.as_deref(), inv)?
        {
            found = key.dig(value)?;
        }
        let Some(value) = found else {
            self.say(|| format!("No such key: \"{text}\""));
            return Ok(None);
        };
        match options.as_ref().and_then(|o| o.get_str("convert_to")) {
            None | Some(Value::Null) => Ok(Some(value)),
            Some(target) => types::convert(target, value)
                .map(Some)
                .map_err(|e| e.while_doing(format_args!("convert_to of key '{text}'"))),
        }
    }

    fn in_layers(&self, key: &Key, strategy: &Strategy, module: Option<&str>, inv: &mut Invocation) -> Found {
        let found = if inv.global_only {
            self.in_global(key, strategy, inv)?
        } else {
            strategy.combine(
                &[Layer::Global, Layer::Environment, Layer::Module(String::new())],
                |layer| match layer {
                    Layer::Global => self.in_global(key, strategy, inv),
                    Layer::Environment => self.in_environment(key, strategy, inv),
                    Layer::Module(_) => self.in_module(key, strategy, module, inv),
                },
            )?
        };
        match found {
            Some(value) => key.dig(value),
            None => Ok(None),
        }
    }

    fn in_global(&self, key: &Key, strategy: &Strategy, inv: &mut Invocation) -> Found {
        let Some(layer) = self.global_layer()? else { return Ok(None) };
        // A version 3 file confines lookups inside its data to itself, unless the environment has
        // a hierarchy of version 5.
        let confine = layer.config.version == 3
            && self.environment_layer()?.is_none_or(|environment| environment.config.version < 5);
        let before = inv.global_only;
        inv.global_only |= confine;
        let result = inv.guarded(&key.text, |inv| self.in_layer(&layer, key, strategy, inv));
        inv.global_only = before;
        result
    }

    fn in_environment(&self, key: &Key, strategy: &Strategy, inv: &mut Invocation) -> Found {
        match self.environment_layer()? {
            Some(layer) => inv.guarded(&key.text, |inv| self.in_layer(&layer, key, strategy, inv)),
            None => Ok(None),
        }
    }

    fn in_module(&self, key: &Key, strategy: &Strategy, module: Option<&str>, inv: &mut Invocation) -> Found {
        let Some(module) = module else { return Ok(None) };
        match self.module_layer(module)? {
            Some(layer) => inv.guarded(&key.text, |inv| self.in_layer(&layer, key, strategy, inv)),
            None => Ok(None),
        }
    }

    fn in_module_defaults(&self, key: &Key, module: Option<&str>, inv: &mut Invocation) -> Found {
        let Some(module) = module else { return Ok(None) };
        let Some(layer) = self.module_layer(module)?.filter(|l| l.config.default_hierarchy.is_some()) else {
            return Ok(None);
        };
        let providers = self.default_providers(&layer, inv)?;
        let options_key = Key::parse(LOOKUP_OPTIONS, String::new)?;
        let ask = |key: &Key, strategy: &Strategy, inv: &mut Invocation| {
            inv.guarded(&key.text, |inv| {
                strategy.combine(&providers, |provider| self.in_provider(provider, &layer, key, strategy, inv))
            })
        };
        self.say(|| format!("Default hierarchy of {}", layer.layer));
        self.deeper(|| {
            let options = ask(&options_key, &Strategy::Hash, inv)?;
            let options = compile(valid_options(options, Some(module))?)?;
            let strategy = match options.as_ref().and_then(|o| o.of(&key.root)).and_then(|o| o.get_str("merge")) {
                None | Some(Value::Null) => Strategy::First,
                Some(value) => Strategy::from_value(value)?,
            };
            ask(key, &strategy, inv)
        })
    }

    fn in_layer(&self, layer: &LayerState, key: &Key, strategy: &Strategy, inv: &mut Invocation) -> Found {
        let providers = self.providers(layer, inv)?;
        self.say(|| match &layer.config.file {
            Some(file) => format!("{} ({}, version {})", layer.layer, file.display(), layer.config.version),
            None => format!("{} (built-in defaults)", layer.layer),
        });
        self.deeper(|| strategy.combine(&providers, |provider| self.in_provider(provider, layer, key, strategy, inv)))
    }

    fn in_provider(
        &self,
        provider: &Provider,
        layer: &LayerState,
        key: &Key,
        strategy: &Strategy,
        inv: &mut Invocation,
    ) -> Found {
        self.say(|| format!("Hierarchy entry \"{}\"", provider.name));
        self.deeper(|| {
            strategy
                .combine(&provider.locations, |location| self.in_location(provider, layer, location.as_ref(), key, inv))
        })
    }

    fn in_location(
        &self,
        provider: &Provider,
        layer: &LayerState,
        location: Option<&Location>,
        key: &Key,
        inv: &mut Invocation,
    ) -> Found {
        let fail = |message: String| match &layer.config.file {
            Some(file) => Error::data(message).in_file(file),
            None => Error::data(message),
        };
        match (provider.kind, provider.function.as_str()) {
            (FunctionKind::DataHash, function @ ("yaml_data" | "json_data")) => {
                let (path, exists) = match location {
                    Some(Location::File { path, exists }) => (path, *exists),
                    Some(Location::Uri) | None => {
                        return Err(fail(needs_files(&provider.name, function)));
                    }
                };
                if !exists {
                    self.say(|| format!("{}: not there", path.display()));
                    return Ok(None);
                }
                let data = self.data(path, function == "json_data", &layer.layer)?;
                let Some(value) = data.get_str(&key.root) else {
                    self.say(|| format!("{}: no \"{}\"", path.display(), key.root));
                    return Ok(None);
                };
                if !value.is_rich_data() {
                    return Err(
                        Error::data(format!("the value of key '{}' is or holds a symbol", key.root)).in_file(path)
                    );
                }
                let value =
                    self.resolve_value(&path.to_string_lossy(), &key.root, value, inv).map_err(|e| e.in_file(path))?;
                self.say(|| format!("{}: found {}", path.display(), value.inspect()));
                Ok(Some(value))
            }
            (FunctionKind::LookupKey, CONSUL_FUNCTION) => {
                if location.is_some() {
                    return Err(fail(takes_no_path(&provider.name)));
                }
                let found = self
                    .consul
                    .lookup(&provider.options, &key.root)
                    .map_err(|e| e.while_doing(format_args!("hierarchy '{}'", provider.name)))?;
                if self.trace.borrow().is_some()
                    && let Some(place) = self.consul.place(&provider.options)
                {
                    self.say(|| format!("Consul: {place}"));
                }
                let Some(value) = found else {
                    self.say(|| format!("Consul: no \"{}\"", key.root));
                    return Ok(None);
                };
                let place = Value::Hash(provider.options.clone()).inspect();
                let value = self.resolve_value(&place, &key.root, &value, inv)?;
                self.say(|| format!("Consul: found {}", value.inspect()));
                Ok(Some(value))
            }
            (FunctionKind::Hiera3Backend, "consul") => {
                let mut text = |text: &str| Ok(self.interpolate(Value::from(text), true, inv)?.to_text());
                let (found, warning) = self
                    .consul
                    .version3(&provider.options, &key.root, &mut text)
                    .map_err(|e| e.while_doing(format_args!("backend '{}'", provider.name)))?;
                if let Some(warning) = warning {
                    self.warn(warning);
                }
                self.say(|| match &found {
                    Some(value) => format!("Consul: found {}", value.inspect()),
                    None => format!("Consul: no \"{}\"", key.root),
                });
                Ok(found)
            }
            (kind, function) => Err(fail(cannot_answer(&provider.name, kind, function))),
        }
    }

    /// Interpolates a found value, or returns what that came to before. The scope does not change
    /// within a run, and a value that was resolved once leads nowhere back to itself.
    fn resolve_value(&self, place: &str, key: &str, value: &Value, inv: &mut Invocation) -> Result<Value, Error> {
        if !has_token(value) {
            return Ok(value.clone());
        }
        let name = (place.to_owned(), key.to_owned(), inv.global_only);
        if let Some(value) = self.resolved.borrow().get(&name) {
            return Ok(value.clone());
        }
        let value = self.interpolate(value.clone(), true, inv)?;
        self.resolved.borrow_mut().insert(name, value.clone());
        Ok(value)
    }

    /// Reads a data file once.
    fn data(&self, path: &Path, json: bool, layer: &Layer) -> Result<Rc<Hash>, Error> {
        if let Some(data) = self.files.borrow().get(path) {
            return Ok(Rc::clone(data));
        }
        let bytes = input::read(path)?;
        let data = if json {
            match psych::load_json(&bytes).map_err(|e| e.in_file(path))? {
                Value::Hash(hash) => hash,
                other => {
                    return Err(
                        Error::data(format!("holds {} where a hash is expected", other.type_name())).in_file(path)
                    );
                }
            }
        } else {
            match psych::load(&bytes).map_err(|e| e.in_file(path))?.symbol_keys_to_text() {
                Value::Hash(hash) => hash,
                _ => {
                    self.warn(format!("{}: does not hold a hash; it counts as empty", path.display()));
                    Hash::new()
                }
            }
        };
        if let Layer::Module(module) = layer {
            let prefix = format!("{module}::");
            for (key, _) in data.iter() {
                let text = key.to_text();
                if text != LOOKUP_OPTIONS && !text.starts_with(&prefix) {
                    self.warn(format!(
                        "{}: key '{text}' does not begin with '{prefix}' and cannot be found",
                        path.display()
                    ));
                }
            }
        }
        let data = Rc::new(data);
        self.files.borrow_mut().insert(path.to_owned(), Rc::clone(&data));
        Ok(data)
    }

    // Layers.

    fn load(&self, file: &Path, layer: Layer) -> Result<Option<Rc<LayerState>>, Error> {
        let v3_datadir = toolkit::dirs::under_root(Path::new(V3_DATADIR));
        let warn = &mut |message| self.warn(message);
        let given = if layer == Layer::Global { self.given.take() } else { None };
        let config = match given {
            Some(value) => config::validate(value, file, &layer, &v3_datadir, warn)?,
            None => config::load(file, &layer, &v3_datadir, warn)?,
        };
        if config.version == 3 && layer != Layer::Global {
            self.warn(format!("{}: version 3 is only read in the global layer; ignored", file.display()));
            return Ok(None);
        }
        Ok(Some(Rc::new(LayerState { layer, config, providers: RefCell::default(), defaults: RefCell::default() })))
    }

    fn global_layer(&self) -> Result<Option<Rc<LayerState>>, Error> {
        if let Some(layer) = &*self.global.borrow() {
            return Ok(layer.clone());
        }
        let layer = match &self.sources.hiera_config {
            Some(file) => self.load(file, Layer::Global)?,
            None => None,
        };
        *self.global.borrow_mut() = Some(layer.clone());
        Ok(layer)
    }

    fn environment_layer(&self) -> Result<Option<Rc<LayerState>>, Error> {
        if let Some(layer) = &*self.environment.borrow() {
            return Ok(layer.clone());
        }
        let file = self.sources.environment.as_ref().map(|e| e.path.join("hiera.yaml"));
        let layer = match file {
            Some(file) if file.exists() => self.load(&file, Layer::Environment)?,
            _ => None,
        };
        *self.environment.borrow_mut() = Some(layer.clone());
        Ok(layer)
    }

    fn module_layer(&self, module: &str) -> Result<Option<Rc<LayerState>>, Error> {
        if let Some(layer) = self.modules.borrow().get(module) {
            return Ok(layer.clone());
        }
        // The name comes from a key: only what can be a module's name may become a path.
        let valid = module.starts_with(|c: char| c.is_ascii_lowercase())
            && module.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        let directory = self
            .sources
            .environment
            .iter()
            .filter(|_| valid)
            .flat_map(|environment| &environment.modulepath)
            .map(|directory| directory.join(module))
            .find(|directory| directory.is_dir());
        let layer = match directory.map(|directory| directory.join("hiera.yaml")) {
            Some(file) if file.exists() => self.load(&file, Layer::Module(module.to_owned()))?,
            _ => None,
        };
        self.modules.borrow_mut().insert(module.to_owned(), layer.clone());
        Ok(layer)
    }

    fn providers(&self, layer: &LayerState, inv: &mut Invocation) -> Result<Rc<Vec<Provider>>, Error> {
        if let Some(providers) = &*layer.providers.borrow() {
            return Ok(Rc::clone(providers));
        }
        let providers = Rc::new(self.resolve(&layer.config, &layer.config.hierarchy, inv)?);
        *layer.providers.borrow_mut() = Some(Rc::clone(&providers));
        Ok(providers)
    }

    fn default_providers(&self, layer: &LayerState, inv: &mut Invocation) -> Result<Rc<Vec<Provider>>, Error> {
        if let Some(providers) = &*layer.defaults.borrow() {
            return Ok(Rc::clone(providers));
        }
        let levels = layer.config.default_hierarchy.as_deref().unwrap_or_default();
        let providers = Rc::new(self.resolve(&layer.config, levels, inv)?);
        *layer.defaults.borrow_mut() = Some(Rc::clone(&providers));
        Ok(providers)
    }

    /// Interpolates a hierarchy.
    fn resolve(&self, config: &Config, levels: &[Level], inv: &mut Invocation) -> Result<Vec<Provider>, Error> {
        let mut providers: Vec<Provider> = Vec::with_capacity(levels.len());
        for level in levels {
            let provider = self.resolve_level(config, level, inv).map_err(|e| {
                let e = e.while_doing(format_args!("hierarchy '{}'", level.name));
                match &config.file {
                    Some(file) => e.in_file(file),
                    None => e,
                }
            })?;
            providers.extend(provider);
        }
        for provider in providers.iter().filter(|p| p.kind == FunctionKind::LookupKey && p.function == CONSUL_FUNCTION)
        {
            self.consul.announce(&provider.options);
        }
        Ok(providers)
    }

    fn text(&self, text: &str, inv: &mut Invocation) -> Result<String, Error> {
        Ok(self.interpolate(Value::from(text), false, inv)?.to_text())
    }

    fn resolve_level(&self, config: &Config, level: &Level, inv: &mut Invocation) -> Result<Option<Provider>, Error> {
        let datadir = PathBuf::from(self.text(&level.datadir.to_string_lossy(), inv)?);
        let file = |mut path: String| {
            if let Some(extension) = &level.extension
                && !path.ends_with(extension.as_str())
            {
                path.push_str(extension);
            }
            let path = datadir.join(path);
            let exists = path.exists();
            Some(Location::File { path, exists })
        };
        let mut found = Vec::new();
        match &level.locations {
            Locations::None => found.push(None),
            Locations::Paths(paths) => {
                for path in paths {
                    found.push(file(self.text(path, inv)?));
                }
            }
            Locations::Globs(patterns) => {
                for pattern in patterns {
                    let pattern = datadir.join(self.text(pattern, inv)?);
                    found.extend(
                        locations::glob(&pattern).into_iter().map(|path| Some(Location::File { path, exists: true })),
                    );
                }
            }
            Locations::Uris(uris) => {
                found.extend(uris.iter().map(|_| Some(Location::Uri)));
            }
            Locations::Mapped(mapped) => {
                let [collection, item, template] = &**mapped;
                let items = match self.variable(collection, "mapped_paths")? {
                    None | Some(Value::Null) => Vec::new(),
                    Some(Value::String(text)) if text.is_empty() => Vec::new(),
                    Some(Value::String(text)) => vec![Value::String(text)],
                    Some(Value::Array(items)) => items,
                    Some(Value::Hash(pairs)) => pairs.into_iter().map(|(k, v)| Value::Array(vec![k, v])).collect(),
                    Some(other) => {
                        return Err(Error::data(format!(
                            "mapped_paths needs a list, a hash or a string in '{collection}', got {}",
                            other.type_name()
                        )));
                    }
                };
                for value in items {
                    found.push(file(self.scope.with_local(item, value, || self.text(template, inv))?));
                }
            }
        }
        if config.file.is_none() {
            // Built-in defaults name only what exists.
            found.retain(|location| matches!(location, Some(Location::File { exists: true, .. })));
            if found.is_empty() {
                return Ok(None);
            }
        }
        // A backend of version 3 interpolates its settings itself, for each key.
        let raw = level.kind == FunctionKind::Hiera3Backend;
        let options = if raw {
            Value::Hash(level.options.clone())
        } else {
            self.interpolate(Value::Hash(level.options.clone()), false, inv)?
        };
        let options = match options {
            Value::Hash(options) => options,
            _ => Hash::new(),
        };
        Ok(Some(Provider {
            name: level.name.clone(),
            kind: level.kind,
            function: level.function.clone(),
            options,
            locations: found,
        }))
    }

    // What `check` looks at.

    /// Returns what answers Consul levels.
    pub(crate) fn consul(&self) -> &dyn ConsulSource {
        &*self.consul
    }

    /// Returns every layer: global, environment, and the modules that have a configuration.
    pub(crate) fn all_layers(&self) -> Vec<Layer> {
        let mut layers = vec![Layer::Global, Layer::Environment];
        let mut modules: Vec<String> = self
            .sources
            .environment
            .iter()
            .flat_map(|environment| &environment.modulepath)
            .filter_map(|directory| std::fs::read_dir(directory).ok())
            .flat_map(|entries| entries.flatten())
            .filter(|entry| entry.path().join("hiera.yaml").exists())
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        modules.sort();
        modules.dedup();
        layers.extend(modules.into_iter().map(Layer::Module));
        layers
    }

    fn layer(&self, layer: &Layer) -> Result<Option<Rc<LayerState>>, Error> {
        match layer {
            Layer::Global => self.global_layer(),
            Layer::Environment => self.environment_layer(),
            Layer::Module(name) => self.module_layer(name),
        }
    }

    /// Returns what a layer consists of; `None` when it has no configuration.
    pub(crate) fn survey(&self, layer: &Layer) -> Result<Option<Survey>, Error> {
        let Some(state) = self.layer(layer)? else { return Ok(None) };
        let mut inv = Invocation::default();
        let config = &state.config;
        let levels: Vec<&Level> = config.hierarchy.iter().chain(config.default_hierarchy.iter().flatten()).collect();
        let mut templates = Vec::new();
        let mut datadirs: Vec<PathBuf> = Vec::new();
        for level in levels.iter().filter(|level| level.kind != FunctionKind::Hiera3Backend) {
            let mut add = |text: &str| templates.push((level.name.clone(), text.to_owned()));
            match &level.locations {
                Locations::None => {}
                Locations::Paths(list) | Locations::Globs(list) | Locations::Uris(list) => {
                    list.iter().for_each(|text| add(text));
                }
                // The template's variable exists only while it is resolved.
                Locations::Mapped(_) => {}
            }
            strings(&Value::Hash(level.options.clone()), &mut add);
            let datadir = level.datadir.to_string_lossy();
            add(&datadir);
            if level.kind == FunctionKind::DataHash && !datadir.contains("%{") && !datadirs.contains(&level.datadir) {
                datadirs.push(level.datadir.clone());
            }
        }
        let providers = self.providers(&state, &mut inv)?;
        let defaults = self.default_providers(&state, &mut inv)?;
        let mut sources = Vec::new();
        for provider in providers.iter().chain(defaults.iter()) {
            match (provider.kind, provider.function.as_str()) {
                (FunctionKind::DataHash, function @ ("yaml_data" | "json_data")) => {
                    for location in &provider.locations {
                        match location {
                            Some(Location::File { path, exists: true }) => {
                                let json = function == "json_data";
                                sources.push((provider.name.clone(), Source::File { path: path.clone(), json }));
                            }
                            Some(Location::File { .. }) => {}
                            _ => {
                                let message = needs_files(&provider.name, function);
                                sources.push((provider.name.clone(), Source::Other(message)));
                            }
                        }
                    }
                }
                (FunctionKind::LookupKey, CONSUL_FUNCTION) => {
                    let source = match provider.locations.iter().flatten().next() {
                        None => Source::Consul(provider.options.clone()),
                        Some(_) => Source::Other(takes_no_path(&provider.name)),
                    };
                    sources.push((provider.name.clone(), source));
                }
                (FunctionKind::Hiera3Backend, "consul") => {}
                (kind, function) => {
                    let message = cannot_answer(&provider.name, kind, function);
                    sources.push((provider.name.clone(), Source::Other(message)));
                }
            }
        }
        Ok(Some(Survey { file: config.file.clone(), templates, sources, datadirs }))
    }

    /// Reads the lookup_options that hold in a layer.
    pub(crate) fn check_options(&self, layer: &Layer) -> Result<(), Error> {
        let module = match layer {
            Layer::Module(name) => Some(name.as_str()),
            _ => None,
        };
        let Some(options) = self.retrieve_options(module, &mut Invocation::default())? else { return Ok(()) };
        let all = options.exact.iter().map(|(key, value)| (key.to_text(), value));
        for (key, value) in all.chain(options.patterns.iter().map(|(key, value)| (key.to_string(), value))) {
            if let Some(merge) = value.as_hash().and_then(|o| o.get_str("merge")).filter(|m| **m != Value::Null) {
                Strategy::from_value(merge).map_err(|e| e.while_doing(format_args!("lookup_options of '{key}'")))?;
            }
        }
        Ok(())
    }

    // lookup_options.

    fn options_of(&self, key: &Key, module: Option<&str>, inv: &mut Invocation) -> Result<Option<Hash>, Error> {
        let cached = self.options.borrow().get(&module.map(str::to_owned)).cloned();
        let options = match cached {
            Some(options) => options,
            None => {
                let options = self.retrieve_options(module, inv)?;
                self.options.borrow_mut().insert(module.map(str::to_owned), options.clone());
                options
            }
        };
        Ok(options.and_then(|options| options.of(&key.root).cloned()))
    }

    fn retrieve_options(&self, module: Option<&str>, inv: &mut Invocation) -> Result<Option<Rc<Options>>, Error> {
        let key = Key::parse(LOOKUP_OPTIONS, String::new)?;
        let hash = Strategy::Hash;
        if self.global_options.borrow().is_none() {
            let found = valid_options(self.in_global(&key, &hash, inv)?, None)?;
            *self.global_options.borrow_mut() = Some(found);
        }
        let global = self.global_options.borrow().clone().flatten();
        if inv.global_only {
            return compile(global);
        }
        if self.environment_options.borrow().is_none() {
            let own = valid_options(self.in_environment(&key, &hash, inv)?, None)?;
            let joined = match (global, own) {
                (Some(global), Some(own)) => hash.merge(Value::Hash(global), Value::Hash(own))?.as_hash().cloned(),
                (global, own) => global.or(own),
            };
            *self.environment_options.borrow_mut() = Some(joined);
        }
        let outer = self.environment_options.borrow().clone().flatten();
        let Some(module) = module else { return compile(outer) };
        let own = valid_options(self.in_module(&key, &hash, Some(module), inv)?, Some(module))?;
        let joined = match (outer, own) {
            (Some(outer), Some(own)) => hash.merge(Value::Hash(outer), Value::Hash(own))?.as_hash().cloned(),
            (outer, own) => outer.or(own),
        };
        compile(joined)
    }
}

/// Returns the keys that lookups of these ask data for, as long as no value leads to another one.
pub fn roots(keys: &[String]) -> Vec<String> {
    let parsed = keys.iter().filter_map(|text| Key::parse(text, String::new).ok());
    parsed.map(|key| key.root).chain([LOOKUP_OPTIONS.to_owned()]).collect()
}

fn cannot_answer(level: &str, kind: FunctionKind, function: &str) -> String {
    format!(
        "hierarchy '{level}': {} '{function}' is not one that hiera-consul can answer (yaml_data, json_data, {CONSUL_FUNCTION})",
        kind.key()
    )
}

fn needs_files(level: &str, function: &str) -> String {
    format!("hierarchy '{level}': one of path, paths, glob, globs or mapped_paths must be declared for {function}")
}

fn takes_no_path(level: &str) -> String {
    format!("hierarchy '{level}': {CONSUL_FUNCTION} takes no path, glob or uri; give options: {{prefix: …}}")
}

/// Hands over every string in a value.
fn strings(value: &Value, add: &mut impl FnMut(&str)) {
    match value {
        Value::String(text) => add(text),
        Value::Array(list) => list.iter().for_each(|item| strings(item, add)),
        Value::Hash(hash) => hash.iter().for_each(|(_, item)| strings(item, add)),
        _ => {}
    }
}

fn has_token(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains("%{"),
        Value::Array(list) => list.iter().any(has_token),
        Value::Hash(hash) => hash.iter().any(|(key, value)| has_token(key) || has_token(value)),
        _ => false,
    }
}

fn valid_options(found: Option<Value>, module: Option<&str>) -> Result<Option<Hash>, Error> {
    let options = match found {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Hash(options)) => options,
        Some(other) => {
            return Err(Error::data(format!("value of lookup_options must be a hash, got {}", other.type_name())));
        }
    };
    // They are joined and kept several times over.
    if options.len() > MOST_OPTIONS {
        return Err(Error::data(format!("lookup_options has more than {MOST_OPTIONS} names")));
    }
    let prefix = module.map(|module| format!("{module}::"));
    for (key, _) in options.iter() {
        let Some(text) = key.as_str() else {
            return Err(Error::data(format!("lookup_options has a key that is no string: {}", key.inspect())));
        };
        if let (Some(prefix), Some(module)) = (&prefix, module) {
            let name = text.strip_prefix('^').unwrap_or(text);
            if !name.starts_with(prefix.as_str()) {
                return Err(Error::data(format!(
                    "all lookup_options of module '{module}' must begin with '{prefix}', got '{text}'"
                )));
            }
        }
    }
    Ok(Some(options))
}

/// Builds a pattern of lookup_options. All of them together stay below 50 MB: few may be large.
fn pattern(text: &str, large: &mut usize) -> Result<Regex, Error> {
    // Ruby's ^ and $ stand at line ends.
    let build = |limit: usize| RegexBuilder::new(text).multi_line(true).size_limit(limit).build();
    let built = match build(64 << 10) {
        Err(regex::Error::CompiledTooBig(_)) if *large < MOST_LARGE => {
            *large += 1;
            build(1 << 20)
        }
        other => other,
    };
    built.map_err(|e| {
        let reason = e.to_string();
        let reason = reason.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
        Error::data(format!("pattern '{text}' of lookup_options: {reason}"))
    })
}

fn compile(options: Option<Hash>) -> Result<Option<Rc<Options>>, Error> {
    let Some(options) = options else { return Ok(None) };
    let mut exact = Hash::new();
    let mut patterns = Vec::new();
    let mut large = 0;
    for (key, value) in options {
        match key.as_str().filter(|text| text.starts_with('^')) {
            // Ruby's ^ and $ stand at line ends.
            Some(text) => {
                if patterns.len() >= MOST_PATTERNS {
                    return Err(Error::data(format!("lookup_options has more than {MOST_PATTERNS} patterns")));
                }
                patterns.push((pattern(text, &mut large)?, value));
            }
            None => exact.insert(key, value),
        }
    }
    Ok(Some(Rc::new(Options { exact, patterns })))
}
