//! Data files: whether they can be read, and what in them means something else than it seems.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toolkit::yaml;

use super::Checker;
use super::scalar::ambiguous;
use crate::engine::Engine;
use crate::error::Error;
use crate::input;
use crate::libyaml;
use crate::psych;
use crate::value::{Hash, Value};

/// Data files below one directory that are looked at.
const MOST_FILES: usize = 100_000;
/// Directories in directories.
const DEEPEST: usize = 32;

impl Checker {
    /// Looks at the data files of other nodes: their form, not what they lead to.
    pub(super) fn directory(&mut self, directory: &Path, depth: usize) {
        let Ok(entries) = std::fs::read_dir(directory) else { return };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            if self.files.len() >= MOST_FILES {
                return;
            }
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            if name.starts_with('.') {
                continue;
            }
            // Not through links: they may lead round in circles.
            let Ok(kind) = path.symlink_metadata() else { continue };
            if kind.is_dir() && depth < DEEPEST {
                self.directory(&path, depth + 1);
            } else if kind.is_file() {
                match path.extension().and_then(|e| e.to_str()) {
                    Some("yaml" | "yml") => drop(self.file(&path, false, None)),
                    Some("json") => drop(self.file(&path, true, None)),
                    Some("eyaml") => self.eyaml(&path),
                    _ => {}
                }
            }
        }
    }

    fn eyaml(&mut self, path: &Path) {
        if self.files.insert(path.to_owned()) {
            let message = "eyaml is not decrypted; keep secrets out of Hiera's data, or give them to Puppet alone";
            self.warning(&path.display().to_string(), None, message.to_owned());
        }
    }

    /// Looks at a data file and returns its keys; with an engine also at what its values lead to.
    pub(super) fn file(&mut self, path: &Path, json: bool, engine: Option<&Engine>) -> Vec<String> {
        if !self.files.insert(path.to_owned()) {
            return Vec::new();
        }
        let place = path.display().to_string();
        let bytes = match input::read(path) {
            Ok(bytes) => bytes,
            Err(error) => {
                self.error(&error);
                return Vec::new();
            }
        };
        if json {
            let value = match serde_json::from_slice(&bytes).map(Value::from_json) {
                Ok(value) => value,
                Err(e) => {
                    self.error(&Error::Data {
                        message: e.to_string(),
                        file: Some(path.to_owned()),
                        line: Some(e.line()),
                    });
                    return Vec::new();
                }
            };
            self.value(&place, &value, engine);
            return keys_of(&value);
        }
        if bytes.starts_with("\u{feff}".as_bytes()) {
            let message = "begins with a byte order mark: Puppet reads nothing after the first key; remove it";
            self.warning(&place, Some(1), message.to_owned());
        }
        // Both readings: one for what the scalars mean, one for where and how they are written.
        let value = match psych::load(&bytes) {
            Ok(value) => value,
            Err(error) => {
                self.error(&error.in_file(path));
                return Vec::new();
            }
        };
        if !matches!(value, Value::Hash(_)) {
            self.warning(&place, None, "does not hold a hash; it counts as empty".to_owned());
        }
        if let Ok(Some(node)) = libyaml::parse_first(&bytes, &psych::limits(bytes.len())) {
            self.node(&place, &node, engine);
        }
        keys_of(&value)
    }

    fn node(&mut self, place: &str, node: &yaml::Node, engine: Option<&Engine>) {
        let line = Some(node.mark.line);
        match &node.value {
            yaml::Value::Scalar { text, plain } => {
                if *plain
                    && node.tag.is_none()
                    && let Some(message) = ambiguous(text)
                {
                    self.warning(place, line, message);
                }
                self.text(place, line, text, engine);
            }
            yaml::Value::Sequence(items) => items.iter().for_each(|item| self.node(place, item, engine)),
            yaml::Value::Mapping(pairs) => {
                let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
                for (key, value) in pairs {
                    if let Some(name) = key.as_str().filter(|name| *name != "<<")
                        && let Some(first) = seen.insert(name, key.mark.line)
                    {
                        let message = format!("key '{name}' stands here and on line {first}; the last one counts");
                        self.warning(place, Some(key.mark.line), message);
                    }
                    self.node(place, key, engine);
                    self.node(place, value, engine);
                }
            }
        }
    }

    pub(super) fn value(&mut self, place: &str, value: &Value, engine: Option<&Engine>) {
        match value {
            Value::String(text) => self.text(place, None, text, engine),
            Value::Array(items) => items.iter().for_each(|item| self.value(place, item, engine)),
            Value::Hash(hash) => {
                for (key, value) in hash.iter() {
                    self.value(place, key, engine);
                    self.value(place, value, engine);
                }
            }
            _ => {}
        }
    }
}

fn keys_of(value: &Value) -> Vec<String> {
    let hash = value.as_hash();
    hash.into_iter().flat_map(Hash::iter).filter_map(|(key, _)| key.as_str().map(str::to_owned)).collect()
}
