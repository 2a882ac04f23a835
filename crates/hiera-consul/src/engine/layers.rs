//! Layers and the levels of their hierarchies, read and interpolated when they are first needed.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::config::{self, Config, FunctionKind, Layer, Level, Locations};
use crate::error::Error;
use crate::locations;
use crate::value::{Hash, Value};

use super::{CONSUL_FUNCTION, Engine, Invocation};

/// Puppet's default for version 3 files that name no datadir.
const V3_DATADIR: &str = "/etc/puppetlabs/code/environments/%{::environment}/hieradata";

/// A place of a level, interpolated.
pub(super) enum Location {
    File {
        path: PathBuf,
        exists: bool,
    },
    /// No function that is answered here takes one.
    Uri,
}

/// A level, interpolated.
pub(super) struct Provider {
    pub(super) name: String,
    pub(super) kind: FunctionKind,
    pub(super) function: String,
    pub(super) options: Hash,
    pub(super) locations: Vec<Option<Location>>,
}

pub(super) struct LayerState {
    pub(super) layer: Layer,
    pub(super) config: Config,
    pub(super) providers: RefCell<Option<Rc<Vec<Provider>>>>,
    pub(super) defaults: RefCell<Option<Rc<Vec<Provider>>>>,
}

impl Engine {
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

    pub(super) fn global_layer(&self) -> Result<Option<Rc<LayerState>>, Error> {
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

    pub(super) fn environment_layer(&self) -> Result<Option<Rc<LayerState>>, Error> {
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

    pub(super) fn module_layer(&self, module: &str) -> Result<Option<Rc<LayerState>>, Error> {
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

    pub(super) fn providers(&self, layer: &LayerState, inv: &mut Invocation) -> Result<Rc<Vec<Provider>>, Error> {
        if let Some(providers) = &*layer.providers.borrow() {
            return Ok(Rc::clone(providers));
        }
        let providers = Rc::new(self.resolve(&layer.config, &layer.config.hierarchy, inv)?);
        *layer.providers.borrow_mut() = Some(Rc::clone(&providers));
        Ok(providers)
    }

    pub(super) fn default_providers(
        &self,
        layer: &LayerState,
        inv: &mut Invocation,
    ) -> Result<Rc<Vec<Provider>>, Error> {
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
}
