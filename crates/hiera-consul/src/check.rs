//! `check`: what is wrong, or means something else than it seems, in configuration and data.
//!
//! Puppet says nothing about most of this, or only with `--explain`: a broken hiera.yaml looks like a
//! missing key, a variable without a value like an empty string. Here every layer's configuration is
//! validated, every level of this node is read, every key of them is looked up, and every data file
//! below the data directories is parsed, also those that other nodes use.
//!
//! A finding is an error (a lookup fails, or would) or a warning (it works, but hardly as meant).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::LazyLock;

use regex::Regex;
use serde::Serialize;
use toolkit::exit::{self, Failure};
use toolkit::{Io, yaml};

use crate::cli::Check;
use crate::consul::{Access, Levels};
use crate::engine::{Engine, Invocation, Source, Sources, Survey};
use crate::error::Error;
use crate::hiera3::{self, Hiera3};
use crate::input;
use crate::interpolate::method_and_key;
use crate::key::Key;
use crate::libyaml;
use crate::lookup::with_stack;
use crate::psych;
use crate::scope::Scope;
use crate::settings::Settings;
use crate::value::{Hash, Value};

/// Data files below one directory that are looked at.
const MOST_FILES: usize = 100_000;
/// Directories in directories.
const DEEPEST: usize = 32;

/// Properties of a service's instance that the catalog's keys answer.
const PROPERTIES: [&str; 21] = [
    "ID",
    "Node",
    "Address",
    "Datacenter",
    "TaggedAddresses",
    "NodeMeta",
    "ServiceKind",
    "ServiceName",
    "ServiceTags",
    "ServiceAddress",
    "ServiceTaggedAddresses",
    "ServiceWeights",
    "ServiceMeta",
    "ServicePort",
    "ServiceSocketPath",
    "ServiceEnableTagOverride",
    "ServiceProxy",
    "ServiceConnect",
    "Namespace",
    "CreateIndex",
    "ModifyIndex",
];

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Severity {
    /// A lookup fails.
    Error,
    /// It works, but hardly as meant.
    Warning,
}

#[derive(Debug, Serialize)]
struct Finding {
    severity: Severity,
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    message: String,
    #[serde(skip)]
    code: u8,
}

#[derive(Serialize)]
struct Line<'a> {
    r#type: &'static str,
    v: u8,
    #[serde(flatten)]
    finding: &'a Finding,
}

/// Runs `check`.
pub(crate) fn run(args: &Check, settings: &Settings, access: Access, io: &mut Io) -> Result<u8, Error> {
    let sources = settings.sources(&args.place)?;
    let (node, facts) = settings.node(&args.place)?;
    let (findings, files, keys) = with_stack(|| {
        let mut checker = Checker::default();
        match (hiera3::read_only_config(&sources), &sources) {
            (Some(config), Sources { hiera_config: Some(file), .. }) if hiera3::says_version3(&config) => {
                checker.version3((file, config), facts, &access);
            }
            (global, _) => {
                let mut scope = Scope::new(&node, sources.environment.as_ref().map(|e| e.name.as_str()), facts);
                for (name, value) in &args.place.scope {
                    scope.set(name, Value::from(value.as_str()));
                }
                let engine = Engine::new(sources, scope, Box::new(Levels::new(Rc::new(access))));
                if let Some(global) = global {
                    engine.give_global(global);
                }
                checker.version5(&engine);
            }
        }
        (checker.sorted(), checker.files.len(), checker.keys)
    })?;
    for finding in &findings {
        if args.json {
            io.json(&Line { r#type: "finding", v: 1, finding }).map_err(Error::Write)?;
            continue;
        }
        let severity = if finding.severity == Severity::Error { "error" } else { "warning" };
        let place = match (&finding.place, finding.line) {
            (Some(place), Some(line)) => format!("{place}:{line}: "),
            (Some(place), None) => format!("{place}: "),
            (None, _) => String::new(),
        };
        io.out(format!("{place}{severity}: {}\n", finding.message)).map_err(Error::Write)?;
    }
    let count = |severity| findings.iter().filter(|f| f.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    io.note(format!("{files} files and {keys} keys of {node}: {errors} errors, {warnings} warnings"));
    let worst = findings.iter().map(|f| f.code).max().unwrap_or(exit::OK);
    Ok(if worst == exit::OK && args.strict && warnings > 0 { exit::NO } else { worst })
}

#[derive(Default)]
struct Checker {
    findings: Vec<Finding>,
    /// Files that were looked at.
    files: BTreeSet<PathBuf>,
    /// How many keys were looked up.
    keys: usize,
    /// Consul could not be read.
    blind: bool,
}

impl Checker {
    fn sorted(&mut self) -> Vec<Finding> {
        let mut findings = std::mem::take(&mut self.findings);
        findings.sort_by(|a, b| {
            (&a.place, a.line, a.severity, &a.message).cmp(&(&b.place, b.line, b.severity, &b.message))
        });
        findings.dedup_by(|a, b| (&a.place, a.line, &a.message) == (&b.place, b.line, &b.message));
        findings
    }

    fn error(&mut self, error: &Error) {
        let (place, line, message) = match error {
            Error::Data { message, file, line } => {
                (file.as_ref().map(|f| f.display().to_string()), *line, message.clone())
            }
            other => (None, None, exit::chain(other)),
        };
        self.findings.push(Finding { severity: Severity::Error, place, line, message, code: error.exit_code() });
    }

    fn warning(&mut self, place: &str, line: Option<usize>, message: String) {
        let place = Some(place.to_owned()).filter(|place| !place.is_empty());
        self.findings.push(Finding { severity: Severity::Warning, place, line, message, code: exit::OK });
    }

    fn version5(&mut self, engine: &Engine) {
        let mut keys = BTreeSet::new();
        let mut surveys = Vec::new();
        let layers = engine.all_layers();
        for layer in &layers {
            match engine.survey(layer) {
                Ok(Some(survey)) => surveys.push(survey),
                Ok(None) => {}
                Err(error) => self.error(&error),
            }
        }
        // Consul first: without it no lookup says anything that is not said here.
        for survey in &surveys {
            self.consul_levels(engine, survey);
        }
        self.blind = self.findings.iter().any(|finding| matches!(finding.code, exit::UNAVAILABLE | exit::DENIED));
        for survey in &surveys {
            self.layer(engine, survey, &mut keys);
        }
        if self.blind {
            return;
        }
        for layer in &layers {
            if let Err(error) = engine.check_options(layer) {
                self.error(&error);
            }
        }
        for key in &keys {
            // A key with dots or quotes in it can only be asked for in quotes.
            let text = if key.contains(['.', '\'', '"']) { format!("'{key}'") } else { key.clone() };
            if key.contains('\'') || key.trim() != key {
                continue;
            }
            self.keys += 1;
            if let Err(error) = engine.lookup(&text, None, &mut Invocation::default()) {
                self.error(&error.while_doing(format_args!("lookup of '{key}'")));
            }
        }
        for warning in engine.take_warnings() {
            self.warning("", None, warning);
        }
    }

    fn consul_levels(&mut self, engine: &Engine, survey: &Survey) {
        for (level, source) in &survey.sources {
            if let Source::Consul(options) = source
                && let Err(error) = engine.consul().entries(options)
            {
                self.findings.push(Finding {
                    severity: Severity::Error,
                    place: survey.file.as_ref().map(|file| file.display().to_string()),
                    line: None,
                    message: format!("hierarchy '{level}': {}", exit::chain(&error)),
                    code: error.exit_code(),
                });
            }
        }
    }

    fn layer(&mut self, engine: &Engine, survey: &Survey, keys: &mut BTreeSet<String>) {
        let config = survey.file.as_ref().map(|file| file.display().to_string()).unwrap_or_default();
        for (level, template) in &survey.templates {
            for token in tokens(template) {
                // Interpolation of the configuration itself was checked when it was resolved.
                if let Ok(("scope", name)) = parse(token)
                    && matches!(engine.variable(name, template), Ok(None))
                {
                    self.warning(&config, None, format!("hierarchy '{level}': {token} has no value for this node"));
                }
            }
        }
        for (_, source) in &survey.sources {
            match source {
                Source::File { path, json } => {
                    let found = self.file(path, *json, Some(engine));
                    keys.extend(found);
                }
                Source::Consul(_) if self.blind => {}
                Source::Consul(options) => {
                    for entry in engine.consul().entries(options).unwrap_or_default() {
                        self.consul(engine, &entry.name, &entry.value);
                        keys.insert(entry.key);
                    }
                }
                Source::Other(message) => {
                    let error = Error::data(message.clone());
                    self.error(&match &survey.file {
                        Some(file) => error.in_file(file),
                        None => error,
                    });
                }
            }
        }
        keys.remove("lookup_options");
        for directory in &survey.datadirs {
            self.directory(directory, 0);
        }
    }

    /// Looks at the data files of other nodes: their form, not what they lead to.
    fn directory(&mut self, directory: &Path, depth: usize) {
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
    fn file(&mut self, path: &Path, json: bool, engine: Option<&Engine>) -> Vec<String> {
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

    fn value(&mut self, place: &str, value: &Value, engine: Option<&Engine>) {
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

    fn consul(&mut self, engine: &Engine, key: &str, value: &Result<Value, Error>) {
        let place = format!("Consul key {key}");
        match value {
            // Named when the key is looked up.
            Err(_) => {}
            Ok(Value::String(text)) if text.trim_start().starts_with(['{', '[']) && !text.starts_with("%{") => {
                self.warning(&place, None, "looks like JSON but is not; it is read as text".to_owned());
            }
            Ok(value) => self.value(&place, value, Some(engine)),
        }
    }

    /// Looks at the tokens of a string.
    fn text(&mut self, place: &str, line: Option<usize>, text: &str, engine: Option<&Engine>) {
        if Value::from(text).is_encrypted() {
            self.warning(place, line, "an eyaml value is not decrypted; looking it up is refused".to_owned());
        }
        for token in tokens(text) {
            let (method, key) = match parse(token) {
                Ok(parsed) => parsed,
                Err(message) => {
                    self.warning(place, line, message);
                    continue;
                }
            };
            match method {
                "literal" => {}
                "scope" => {
                    if let Some(engine) = engine
                        && matches!(engine.variable(key, text), Ok(None))
                        && !key.is_empty()
                    {
                        self.warning(place, line, format!("{token} becomes empty: the variable has no value"));
                    }
                }
                "lookup" | "hiera" | "alias" => {
                    if method == "alias" && token != text {
                        let message = format!("{token} must be the whole string");
                        let error = Error::Data { message, file: Some(place.into()), line };
                        self.error(&error);
                        continue;
                    }
                    let misspelt = misspelt(key);
                    if let Some(engine) = engine.filter(|_| !self.blind)
                        && misspelt.is_none()
                        && matches!(engine.lookup(key, None, &mut Invocation::default()), Ok(None))
                    {
                        self.warning(place, line, format!("{token} becomes empty: there is no such key"));
                    }
                    if let Some(message) = misspelt {
                        self.warning(place, line, format!("{token}: {message}"));
                    }
                }
                other => {
                    let message = format!("unknown interpolation method '{other}' in {token}");
                    self.error(&Error::Data { message, file: Some(place.into()), line });
                }
            }
        }
    }

    fn version3(&mut self, (file, config): (&Path, Value), scope: Hash, access: &Access) {
        let hiera = match Hiera3::new(config, file, scope, access) {
            Ok(hiera) => hiera,
            Err(error) => return self.error(&error),
        };
        let found = hiera.survey();
        let files = match found {
            Ok(files) => files,
            Err(error) => return self.error(&error),
        };
        let mut keys = BTreeSet::new();
        for (path, json) in files {
            keys.extend(self.file(&path, json, None));
        }
        for key in keys {
            if Key::parse(&key, String::new).is_ok_and(|key| key.segments.is_empty()) {
                self.keys += 1;
                if let Err(error) = hiera.lookup(&key, hiera3::Resolution::Priority) {
                    self.error(&error.while_doing(format_args!("lookup of '{key}'")));
                }
            }
        }
    }
}

fn keys_of(value: &Value) -> Vec<String> {
    let hash = value.as_hash();
    hash.into_iter().flat_map(Hash::iter).filter_map(|(key, _)| key.as_str().map(str::to_owned)).collect()
}

/// Iterates over the `%{…}` of a string.
fn tokens(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let start = rest.find("%{")?;
        let end = start + rest[start..].find('}')? + 1;
        let token = &rest[start..end];
        rest = &rest[end..];
        Some(token)
    })
}

/// Returns method and key of a token.
fn parse(token: &str) -> Result<(&str, &str), String> {
    let expression = token[2..token.len() - 1].trim();
    if matches!(expression, "" | "::" | "\"\"" | "''" | "\"::\"" | "'::'") {
        return Ok(("literal", ""));
    }
    match method_and_key(expression) {
        Some(found) => Ok(found),
        None if expression.contains('(') => Err(format!("{token} is read as a variable of that name; quote the key")),
        None => Ok(("scope", expression)),
    }
}

/// Says what is wrong with a key of the catalog that can never be answered as meant.
fn misspelt(key: &str) -> Option<String> {
    let rest = key.strip_prefix("service_hash_")?;
    let Some(rest) = rest.strip_prefix('_') else {
        return Some("two underscores stand after service_hash".to_owned());
    };
    let parts: Vec<&str> = rest.split('.').next().unwrap_or_default().split("__").collect();
    let property = |name: &str| PROPERTIES.contains(&name);
    match parts[..] {
        [] | [""] | ["", ..] => Some("the tag is missing".to_owned()),
        [_] => None,
        [tag, service] => {
            let (name, last) = service.rsplit_once('_')?;
            property(last).then(|| {
                format!(
                    "asks for a service '{service}', which is found and empty even when there is none; \
                     write service_hash__{tag}__{name}__{last}"
                )
            })
        }
        [_, _, "ServiceID", ..] => Some("ServiceID is never answered".to_owned()),
        [_, _, name, ..] if !property(name) => Some(format!("'{name}' is no property of a service in Consul")),
        [_, _, _] | [_, _, _, "array" | "hash"] => None,
        [_, _, _, last] => Some(format!("'{last}' is neither array nor hash: the key is never answered")),
        _ => Some("has more than four parts: the key is never answered".to_owned()),
    }
}

static CORE_INTEGER: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$").expect("a constant pattern"));
static CORE_FLOAT: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
    )
    .expect("a constant pattern")
});

/// What readers of YAML 1.2 make of a plain scalar.
fn core(text: &str) -> (&'static str, String) {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return ("null", String::new()),
        "true" | "True" | "TRUE" | "false" | "False" | "FALSE" => return ("boolean", text.to_ascii_lowercase()),
        _ => {}
    }
    if CORE_INTEGER.is_match(text) {
        let number = match (text.strip_prefix("0o"), text.strip_prefix("0x")) {
            (Some(octal), _) => i128::from_str_radix(octal, 8),
            (_, Some(hex)) => i128::from_str_radix(hex, 16),
            _ => text.trim_start_matches('+').parse(),
        };
        return ("integer", number.map_or_else(|_| text.to_owned(), |n| n.to_string()));
    }
    if CORE_FLOAT.is_match(text) {
        let number = text.trim_start_matches('+').parse::<f64>();
        return ("float", number.map_or_else(|_| text.to_ascii_lowercase(), |n| Value::Float(n).inspect()));
    }
    ("string", text.to_owned())
}

/// Says when Puppet and other readers of YAML differ about a plain scalar.
fn ambiguous(text: &str) -> Option<String> {
    // A date is an error that loading names; an infinity is spelt in more than one way.
    let value = psych::scalar(text).ok().filter(|value| !matches!(value, Value::Float(f) if !f.is_finite()))?;
    let ours = match &value {
        Value::Null => ("null", String::new()),
        Value::Bool(_) => ("boolean", value.inspect()),
        Value::Int(_) | Value::Big(_) => ("integer", value.inspect()),
        Value::Float(_) => ("float", value.inspect()),
        Value::Symbol(name) => return Some(format!(":{name} is a symbol, which data cannot hold; quote it")),
        _ => ("string", text.to_owned()),
    };
    let theirs = core(text);
    if ours == theirs {
        return None;
    }
    let say = |(kind, value): &(&str, String)| {
        if *kind == "null" { "null".to_owned() } else { format!("the {kind} {value}") }
    };
    Some(format!("{text} is {} to Puppet and {} to others; quote it or write what is meant", say(&ours), say(&theirs)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_that_readers_differ_about_are_found() {
        for text in ["yes", "Off", "0755", "1_000", "1,000", "12:30:45", "1e3", "0o17", ":sym", "0b11"] {
            assert!(ambiguous(text).is_some(), "{text}");
        }
        for text in [
            "true", "False", "755", "-1", "1.5", "1.5e+3", "text", "10.0.0.1", "y", "~", "", ".inf", "0", "0x1f",
            "a: b", "2024",
        ] {
            assert_eq!(ambiguous(text), None, "{text}");
        }
    }

    #[test]
    fn keys_that_can_never_be_answered_are_found() {
        for key in [
            "service_hash_lb__mysql__Address",
            "service_hash__lb__mysql_Address",
            "service_hash__lb__mysql__Adress",
            "service_hash__lb__mysql__ServiceID",
            "service_hash__lb__mysql__Address__list",
            "service_hash__lb__mysql__Address__array__x",
            "service_hash__",
        ] {
            assert!(misspelt(key).is_some(), "{key}");
        }
        for key in [
            "service_hash",
            "service_hash__lb",
            "service_hash__lb__web_front",
            "service_hash__haproxy::balanced__mysql__Address",
            "service_hash__lb__mysql__Address__array",
            "service_hashes",
            "other",
        ] {
            assert_eq!(misspelt(key), None, "{key}");
        }
    }
}
