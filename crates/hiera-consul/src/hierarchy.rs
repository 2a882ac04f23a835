//! What a run looks up in, by the version of its hiera.yaml.

use std::path::PathBuf;

use crate::cli::Place;
use crate::consul::Levels;
use crate::engine::{Engine, Sources};
use crate::hiera3;
use crate::input;
use crate::psych;
use crate::scope::Scope;
use crate::value::{Hash, Value};

/// The hierarchy of a run.
pub(crate) enum Hierarchy {
    /// A file of version 3, without an environment: the facts and further variables are its scope, and nothing else is.
    Version3 {
        /// The file.
        file: PathBuf,
        /// What was read of it.
        config: Value,
        /// The variables.
        scope: Hash,
    },
    /// The layers of version 5.
    Layers(Box<Engine>),
}

impl Hierarchy {
    /// Decides by the file of the global layer where that is all there is; `levels` makes the levels of an engine.
    pub(crate) fn open(
        sources: Sources,
        (node, mut facts): (String, Hash),
        place: &Place,
        levels: impl FnOnce() -> Levels,
    ) -> Self {
        // It is read once. What is wrong with it is said by whom it is for.
        let only = match &sources {
            Sources { hiera_config: Some(file), environment: None } => {
                input::read(file).ok().and_then(|bytes| psych::load(&bytes).ok()).map(|config| (file.clone(), config))
            }
            _ => None,
        };
        let global = match only {
            Some((file, config)) if hiera3::says_version3(&config) => {
                for (name, value) in &place.scope {
                    facts.insert(Value::from(name.as_str()), Value::from(value.as_str()));
                }
                return Hierarchy::Version3 { file, config, scope: facts };
            }
            Some((_, config)) => Some(config),
            None => None,
        };
        let mut scope = Scope::new(&node, sources.environment.as_ref().map(|e| e.name.as_str()), facts);
        for (name, value) in &place.scope {
            scope.set(name, Value::from(value.as_str()));
        }
        let engine = Engine::new(sources, scope, Box::new(levels()));
        if let Some(global) = global {
            engine.give_global(global);
        }
        Hierarchy::Layers(Box::new(engine))
    }
}
