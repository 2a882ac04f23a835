//! What `check` looks at.

use std::path::PathBuf;
use std::rc::Rc;

use crate::config::{FunctionKind, Layer, Level, Locations};
use crate::error::Error;
use crate::merge::Strategy;
use crate::value::{Hash, Value};

use super::data::{cannot_answer, needs_files, takes_no_path};
use super::layers::{LayerState, Location};
use super::{CONSUL_FUNCTION, ConsulSource, Engine, Invocation};

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

impl Engine {
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
