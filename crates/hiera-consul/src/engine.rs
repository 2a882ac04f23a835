//! The lookup itself: layers, hierarchy levels, locations, lookup_options.
//!
//! Three layers are asked in order (global, environment, module), in each the levels of its
//! `hiera.yaml`, in each level its locations; one merge strategy joins what is found at every one
//! of these steps. `Ok(None)` always means "certainly not there"; whatever could not be read, be it
//! a broken file or an unreachable Consul, is an error and ends the lookup.
//!
//! An `Engine` serves one run: files, configurations and Consul snapshots are read once and kept,
//! so that all keys of a run see one state.

mod data;
mod layers;
mod options;
mod survey;

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::Rc;

use crate::config::Layer;
use crate::error::Error;
use crate::key::Key;
use crate::merge::Strategy;
use crate::scope::Scope;
use crate::types;
use crate::value::{Hash, Value};

use layers::{LayerState, Provider};
use options::{Options, compile, valid_options};
pub(crate) use survey::{Source, Survey};

/// The name of the lookup_key function that is answered natively.
pub const CONSUL_FUNCTION: &str = "stacktira::consul";
const LOOKUP_OPTIONS: &str = "lookup_options";
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
}

/// Returns the keys that lookups of these ask data for, as long as no value leads to another one.
pub fn roots(keys: &[String]) -> Vec<String> {
    let parsed = keys.iter().filter_map(|text| Key::parse(text, String::new).ok());
    parsed.map(|key| key.root).chain([LOOKUP_OPTIONS.to_owned()]).collect()
}
