//! Package resources of compiled Puppet catalogs (`puppet catalog compile`).

use std::collections::BTreeSet;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::Asked;
use crate::error::{Error, Result};
use crate::files;

/// Largest catalog.
const MAX_CATALOG: u64 = 256 << 20;

#[derive(Deserialize)]
struct Catalog {
    name: Option<String>,
    resources: Vec<Resource>,
}

#[derive(Deserialize)]
struct Resource {
    r#type: String,
    title: String,
    #[serde(default)]
    parameters: serde_json::Map<String, Value>,
}

/// Returns the packages that a catalog installs with apt, dpkg, yum or dnf.
///
/// # Errors
/// [`Error::Config`] naming the catalog.
pub(crate) fn read(path: &Path) -> Result<BTreeSet<Asked>> {
    let bytes = files::read_bounded(path, MAX_CATALOG)
        .map_err(|error| Error::config(path, format!("cannot read the catalog: {error}")))?;
    parse(&bytes, path)
}

/// As [`read`], of a catalog in memory.
///
/// # Errors
/// [`Error::Config`] naming `path`.
pub(crate) fn parse(bytes: &[u8], path: &Path) -> Result<BTreeSet<Asked>> {
    let wrong = |error: serde_json::Error| Error::config(path, format!("not a compiled catalog: {error}"));
    // The command says what it does before the catalog; a catalog from a server may stand in `data`.
    let start = bytes.iter().position(|byte| *byte == b'{').unwrap_or(0);
    let value: Value = serde_json::from_slice(&bytes[start..]).map_err(wrong)?;
    let value = match value {
        Value::Object(mut outer) if !outer.contains_key("resources") => outer.remove("data").unwrap_or(Value::Null),
        value => value,
    };
    let catalog: Catalog = serde_json::from_value(value).map_err(wrong)?;
    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let from = match catalog.name {
        Some(name) => format!("catalog {file} of {name}"),
        None => format!("catalog {file}"),
    };
    let mut asked = BTreeSet::new();
    for resource in catalog.resources {
        if resource.r#type != "Package" {
            continue;
        }
        let text = |key: &str| resource.parameters.get(key).and_then(Value::as_str);
        if text("provider").is_some_and(|provider| !matches!(provider, "apt" | "dpkg" | "yum" | "dnf")) {
            continue;
        }
        let version = match text("ensure") {
            Some("absent" | "purged") => continue,
            None | Some("present" | "installed" | "latest" | "held" | "disabled") => None,
            Some(version) => Some(version.to_owned()),
        };
        let names = match resource.parameters.get("name") {
            Some(Value::String(name)) => vec![name.clone()],
            Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            _ => vec![resource.title],
        };
        for name in names {
            asked.insert(Asked { name, version: version.clone(), from: from.clone() });
        }
    }
    Ok(asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_packages_of_the_system_that_are_wanted_count() {
        let catalog = br#"Notice: Compiled catalog for web1
            {"name": "web1", "resources": [
            {"type": "Package", "title": "nginx", "parameters": {"ensure": "installed"}},
            {"type": "Package", "title": "web server", "parameters": {"name": "haproxy", "ensure": "2.6-1"}},
            {"type": "Package", "title": "gone", "parameters": {"ensure": "purged"}},
            {"type": "Package", "title": "rake", "parameters": {"provider": "gem"}},
            {"type": "Package", "title": "bare"},
            {"type": "Class", "title": "Main"}]}"#;
        let asked = parse(catalog, Path::new("/c/web.catalog.json")).expect("a catalog");
        let names: Vec<String> = asked.iter().map(ToString::to_string).collect();
        let from = "catalog web.catalog.json of web1";
        assert_eq!(names, [format!("{from}: bare"), format!("{from}: haproxy (= 2.6-1)"), format!("{from}: nginx")]);
        let wrapped = br#"{"data": {"resources": [{"type": "Package", "title": "a"}]}}"#;
        assert_eq!(parse(wrapped, Path::new("x.json")).expect("a catalog").len(), 1);
        assert!(parse(b"{}", Path::new("x.json")).is_err());
        assert!(parse(b"", Path::new("x.json")).is_err());
    }
}
