//! The options of a Consul level, and what its stored bytes mean.

use std::path::PathBuf;
use std::time::Duration;

use consul_client::{Consistency, Overrides, Query};

use crate::error::Error;
use crate::psych;
use crate::value::{Hash, Value};

use super::layout::Layout;

/// How stored bytes become a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Text as it is.
    Raw,
    /// JSON.
    Json,
    /// YAML, as Puppet reads it.
    Yaml,
    /// JSON where it is JSON, else text.
    #[default]
    Auto,
}

impl Format {
    /// Parses the name.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "raw" => Format::Raw,
            "json" => Format::Json,
            "yaml" => Format::Yaml,
            "auto" => Format::Auto,
            _ => return None,
        })
    }

    /// Gives stored bytes their type.
    pub fn value(self, key: &str, bytes: &[u8]) -> Result<Value, Error> {
        let text = || {
            std::str::from_utf8(bytes).map_err(|_| {
                Error::data(format!("the value of Consul key {key} is not text ({} bytes, not UTF-8)", bytes.len()))
            })
        };
        match self {
            Format::Raw => text().map(Value::from),
            Format::Json => serde_json::from_slice(bytes)
                .map(Value::from_json)
                .map_err(|e| Error::data(format!("the value of Consul key {key} is not JSON: {e}"))),
            Format::Yaml => psych::load(bytes)
                .map(Value::symbol_keys_to_text)
                .map_err(|e| e.while_doing(format_args!("the value of Consul key {key}"))),
            Format::Auto => match serde_json::from_slice(bytes) {
                Ok(json) => Ok(Value::from_json(json)),
                // It would be read as text where others read a list.
                Err(e) if e.to_string().starts_with("recursion limit") => {
                    Err(Error::data(format!("the value of Consul key {key} is JSON that is nested too deep: {e}")))
                }
                Err(_) => text().map(Value::from),
            },
        }
    }
}

/// The options of a Consul level.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Level {
    /// Prefix of the keys; ends with a slash, or is empty when the level only computes.
    pub prefix: String,
    /// How values are typed.
    pub format: Format,
    /// What the keys below the prefix are.
    pub layout: Layout,
    /// How fresh reads are.
    pub consistency: Consistency,
    /// Answer the catalog's computed keys.
    pub services: bool,
    /// A part of the prefix is empty: a variable in it has no value, and the level holds nothing.
    pub hollow: bool,
    /// How old a kept snapshot may be that answers while Consul is away; `None` when none is kept.
    pub stale_if_error: Option<Duration>,
    /// Where Consul is, unless a flag or the environment says it.
    pub overrides: Overrides,
}

impl Level {
    /// Reads the options of a hierarchy entry, interpolated.
    pub fn from_options(options: &Hash) -> Result<Self, Error> {
        let level = Level::of_service(options)?;
        if level.prefix.is_empty() && !level.services {
            return Err(Error::data("option 'prefix' is missing"));
        }
        Ok(level)
    }

    /// Reads options where no keys are read, so that a prefix may be missing.
    pub fn of_service(options: &Hash) -> Result<Self, Error> {
        let mut level = Level::default();
        let mut prefix = None;
        for (key, value) in options.iter() {
            let key = key.as_str().unwrap_or_default();
            let bad =
                |expected: &str| Error::data(format!("option '{key}' must be {expected}, got {}", value.inspect()));
            let text = || value.as_str().map(str::to_owned).ok_or_else(|| bad("a string"));
            match key {
                "prefix" => prefix = Some(text()?),
                "format" => {
                    level.format = Format::parse(&text()?).ok_or_else(|| bad("raw, json, yaml or auto"))?;
                }
                "folders" => match value {
                    Value::Bool(false) => {}
                    Value::Bool(true) if level.layout == Layout::Keys => level.layout = Layout::Folders,
                    Value::Bool(true) => {
                        return Err(Error::data("options 'folders' and 'document' exclude each other"));
                    }
                    _ => return Err(bad("true or false")),
                },
                "document" => {
                    let name = text()?;
                    if name.is_empty() || name.starts_with('/') || name.ends_with('/') {
                        return Err(bad("the name of a key below the prefix"));
                    }
                    if level.layout != Layout::Keys {
                        return Err(Error::data("options 'folders' and 'document' exclude each other"));
                    }
                    level.layout = Layout::Document(name);
                }
                "consistency" => {
                    level.consistency = match text()?.as_str() {
                        "default" => Consistency::Default,
                        "consistent" => Consistency::Consistent,
                        "stale" => Consistency::Stale,
                        _ => return Err(bad("default, consistent or stale")),
                    }
                }
                "services" => match value {
                    Value::Bool(on) => level.services = *on,
                    _ => return Err(bad("true or false")),
                },
                "stale_if_error" => {
                    let duration = toolkit::duration::parse(&text()?).ok().filter(|duration| !duration.is_zero());
                    level.stale_if_error = Some(duration.ok_or_else(|| bad("a duration such as 2h"))?);
                }
                "address" => level.overrides.address = Some(text()?),
                "token_file" => level.overrides.token_file = Some(PathBuf::from(text()?)),
                "ca_file" => level.overrides.ca_file = Some(PathBuf::from(text()?)),
                "client_cert" => level.overrides.client_cert = Some(PathBuf::from(text()?)),
                "client_key" => level.overrides.client_key = Some(PathBuf::from(text()?)),
                "server_name" => level.overrides.server_name = Some(text()?),
                "datacenter" => level.overrides.datacenter = Some(text()?),
                _ => {
                    return Err(Error::data(format!(
                        "option '{key}' is not known; known are prefix, format, folders, document, consistency, services, stale_if_error, address, token_file, ca_file, client_cert, client_key, server_name, datacenter"
                    )));
                }
            }
        }
        if let Some(prefix) = prefix {
            if matches!(level.layout, Layout::Document(_)) && level.format == Format::Raw {
                return Err(Error::data("a document is of format json or yaml, not raw"));
            }
            level.hollow = prefix.is_empty() || prefix.starts_with('/') || prefix.contains("//");
            level.prefix = prefix;
            if !level.prefix.ends_with('/') {
                level.prefix.push('/');
            }
        }
        Ok(level)
    }

    pub(crate) fn query(&self) -> Query {
        Query::new().consistency(self.consistency)
    }

    /// Tells whether no key can be below the prefix.
    pub(crate) fn is_empty(&self) -> bool {
        self.hollow || self.prefix.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(json: serde_json::Value) -> Hash {
        match Value::from_json(json) {
            Value::Hash(hash) => hash,
            other => panic!("a hash, not {other:?}"),
        }
    }

    #[test]
    fn options_are_read_strictly() {
        let level = Level::from_options(&options(serde_json::json!({
            "prefix": "hiera/common", "format": "json", "consistency": "stale"
        })))
        .expect("valid");
        assert_eq!((level.prefix.as_str(), level.format), ("hiera/common/", Format::Json));
        let bad = [
            serde_json::json!({}),
            serde_json::json!({"prefix": "a", "fromat": "raw"}),
            serde_json::json!({"prefix": "a", "format": "xml"}),
            serde_json::json!({"prefix": 1}),
            serde_json::json!({"prefix": "a", "folders": "yes"}),
            serde_json::json!({"prefix": "a", "document": "/x"}),
            serde_json::json!({"prefix": "a", "document": "x", "folders": true}),
            serde_json::json!({"prefix": "a", "document": "x", "format": "raw"}),
            serde_json::json!({"prefix": "a", "stale_if_error": 7200}),
            serde_json::json!({"prefix": "a", "stale_if_error": "0"}),
            serde_json::json!({"prefix": "a", "stale_if_error": "2 hours"}),
        ];
        for options_ in bad {
            assert!(Level::from_options(&options(options_.clone())).is_err(), "{options_}");
        }
    }

    #[test]
    fn a_prefix_with_a_hole_holds_nothing() {
        for prefix in ["hiera/node//", "/x", ""] {
            let level = Level::from_options(&options(serde_json::json!({ "prefix": prefix }))).expect("valid");
            assert!(level.hollow, "{prefix}");
        }
    }

    #[test]
    fn formats_give_types() {
        let value = |format: Format, bytes: &[u8]| format.value("k", bytes);
        assert_eq!(value(Format::Raw, b"42").expect("text"), Value::from("42"));
        assert_eq!(value(Format::Auto, b"42").expect("json"), Value::Int(42));
        assert_eq!(value(Format::Auto, b"4 2").expect("text"), Value::from("4 2"));
        assert_eq!(value(Format::Auto, b"").expect("text"), Value::from(""));
        assert_eq!(value(Format::Yaml, b"yes").expect("yaml"), Value::Bool(true));
        assert!(value(Format::Json, b"{").is_err());
        assert!(value(Format::Raw, b"\xff").is_err());
        assert!(value(Format::Auto, b"\xff").is_err());
        let deep = |n: usize| [vec![b'['; n], vec![b']'; n]].concat();
        assert!(matches!(value(Format::Auto, &deep(100)), Ok(Value::Array(_))));
        assert!(value(Format::Auto, &deep(1000)).is_err() && value(Format::Yaml, &deep(1000)).is_err());
    }
}
