//! What one location of a level holds: a data file, a Consul level, a backend of version 3.

use std::path::Path;
use std::rc::Rc;

use crate::config::{FunctionKind, Layer};
use crate::error::Error;
use crate::input;
use crate::key::Key;
use crate::psych;
use crate::value::{Hash, Value};

use super::layers::{LayerState, Location, Provider};
use super::{CONSUL_FUNCTION, Engine, Found, Invocation, LOOKUP_OPTIONS};

impl Engine {
    pub(super) fn in_location(
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
}

pub(super) fn cannot_answer(level: &str, kind: FunctionKind, function: &str) -> String {
    format!(
        "hierarchy '{level}': {} '{function}' is not one that hiera-consul can answer (yaml_data, json_data, {CONSUL_FUNCTION})",
        kind.key()
    )
}

pub(super) fn needs_files(level: &str, function: &str) -> String {
    format!("hierarchy '{level}': one of path, paths, glob, globs or mapped_paths must be declared for {function}")
}

pub(super) fn takes_no_path(level: &str) -> String {
    format!("hierarchy '{level}': {CONSUL_FUNCTION} takes no path, glob or uri; give options: {{prefix: …}}")
}

fn has_token(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains("%{"),
        Value::Array(list) => list.iter().any(has_token),
        Value::Hash(hash) => hash.iter().any(|(key, value)| has_token(key) || has_token(value)),
        _ => false,
    }
}
