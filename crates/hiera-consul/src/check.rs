//! `check`: what is wrong, or means something else than it seems, in configuration and data.
//!
//! Puppet says nothing about most of this, or only with `--explain`: a broken hiera.yaml looks like a
//! missing key, a variable without a value like an empty string. Here every layer's configuration is
//! validated, every level of this node is read, every key of them is looked up, and every data file
//! below the data directories is parsed, also those that other nodes use.
//!
//! A finding is an error (a lookup fails, or would) or a warning (it works, but hardly as meant).

mod files;
mod scalar;
mod service_key;
mod text;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde::Serialize;
use toolkit::Io;
use toolkit::exit::{self, Failure};

use crate::cli::Check;
use crate::consul::{Access, Levels};
use crate::engine::{Engine, Invocation, Source, Survey};
use crate::error::Error;
use crate::hiera3::{self, Hiera3};
use crate::hierarchy::Hierarchy;
use crate::key::Key;
use crate::lookup::with_stack;
use crate::settings::Settings;
use crate::value::{Hash, Value};

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
        let access = Rc::new(access);
        let levels = || Levels::new(Rc::clone(&access));
        match Hierarchy::open(sources, (node.clone(), facts), &args.place, levels) {
            Hierarchy::Version3 { file, config, scope } => checker.version3((&file, config), scope, &access),
            Hierarchy::Layers(engine) => checker.version5(&engine),
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
            for token in text::tokens(template) {
                // Interpolation of the configuration itself was checked when it was resolved.
                if let Ok(("scope", name)) = text::parse(token)
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
