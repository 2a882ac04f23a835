//! What a run works on: from flags, else from `/etc/stacktira/hiera-consul.yaml`, else a node's
//! usual places. Default paths honour `STACKTIRA_ROOT`; paths given as flags are taken as they are.

use std::path::{Path, PathBuf};

use consul_client::{Config, Overrides};
use serde::Deserialize;
use toolkit::dirs::under_root;

use consul_client::args::ConsulArgs;

use crate::cli::Place;
use crate::consul::{Access, consul};
use crate::engine::{Environment, Sources};
use crate::error::Error;
use crate::input;
use crate::psych;
use crate::value::{Hash, Value};

const FILE: &str = "/etc/stacktira/hiera-consul.yaml";
const ENVIRONMENT: &str = "/var/lib/stacktira/puppet";
const FACTS: &str = "/var/lib/stacktira/facts.json";

/// The settings file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    hiera_config: Option<PathBuf>,
    environmentpath: Option<String>,
    environment: Option<String>,
    modulepath: Option<String>,
    basemodulepath: Option<String>,
    facts: Option<PathBuf>,
    node: Option<String>,
    consul: Overrides,
}

impl Settings {
    /// Reads the settings file; without one everything is unset.
    pub fn load() -> Result<Self, Error> {
        let path = under_root(Path::new(FILE));
        let Some(bytes) = input::read_if_there(&path)? else { return Ok(Settings::default()) };
        let settings: Option<Settings> = serde_yaml::from_slice(&bytes).map_err(|e| Error::Data {
            message: e.to_string(),
            line: e.location().map(|at| at.line()),
            file: Some(path),
        })?;
        Ok(settings.unwrap_or_default())
    }

    /// Returns the way to Consul: flags win over the environment, that over the file.
    pub fn access(&self, args: &ConsulArgs) -> Result<Access, Error> {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let flags = args.overrides();
        let mut fixed = flags.clone();
        if fixed.address.is_none() {
            fixed.address = set("CONSUL_HTTP_ADDR").and_then(|value| value.into_string().ok());
        }
        for (field, name) in [
            (&mut fixed.token_file, "CONSUL_HTTP_TOKEN_FILE"),
            (&mut fixed.ca_file, "CONSUL_CACERT"),
            (&mut fixed.client_cert, "CONSUL_CLIENT_CERT"),
            (&mut fixed.client_key, "CONSUL_CLIENT_KEY"),
        ] {
            if field.is_none() {
                *field = set(name).map(PathBuf::from);
            }
        }
        let config = Config::from_env(|name| std::env::var_os(name))
            .and_then(|config| config.with(&self.consul))
            .and_then(|config| config.with(&fixed))
            .map_err(|source| consul("cannot use the settings of Consul", source))?;
        Ok(Access::new(config, fixed))
    }

    /// Returns the files that a lookup reads.
    pub fn sources(&self, args: &Place) -> Result<Sources, Error> {
        let own = |path: &PathBuf| under_root(path);
        let flagged = args.hiera_config.is_some() || args.environmentpath.is_some() || args.environment.is_some();
        let environment = args.environment.as_deref().or(self.environment.as_deref());
        let roots: Vec<PathBuf> = match (&args.environmentpath, &self.environmentpath) {
            (Some(path), _) => split(path),
            (None, Some(path)) if !flagged || args.environment.is_some() => split(path).iter().map(own).collect(),
            _ => Vec::new(),
        };
        let environment = match (roots.is_empty(), environment) {
            (false, name) => {
                let name = name.unwrap_or("production");
                if name.is_empty() || name.contains('/') || name.starts_with('.') {
                    return Err(Error::Argument(format!("'{name}' cannot be the name of an environment")));
                }
                let found = roots.iter().map(|root| root.join(name)).find(|path| path.is_dir());
                let path = found.ok_or_else(|| {
                    let roots: Vec<_> = roots.iter().map(|root| root.display().to_string()).collect();
                    Error::Argument(format!("there is no environment '{name}' in {}", roots.join(":")))
                })?;
                Some((name.to_owned(), path))
            }
            (true, Some(name)) if args.environment.is_some() => {
                return Err(Error::Argument(format!("environment '{name}' needs a place: give --environmentpath")));
            }
            (true, _) if !flagged && self.hiera_config.is_none() => {
                let path = under_root(Path::new(ENVIRONMENT));
                if !path.is_dir() {
                    return Err(Error::Argument(format!(
                        "there is no {}: give --hiera_config, or --environmentpath and --environment",
                        path.display()
                    )));
                }
                Some(("puppet".to_owned(), path))
            }
            _ => None,
        };
        let environment = match environment {
            Some((name, path)) => Some(Environment { modulepath: self.modules(args, &path)?, name, path }),
            None => None,
        };
        let hiera_config = match &args.hiera_config {
            Some(file) => Some(file.clone()),
            None => self.hiera_config.as_ref().map(own),
        };
        // Beside an environment a missing global file is an empty layer, as for Puppet. Alone it is a mistake: no
        // key would ever be found.
        if let (Some(file), None) = (&hiera_config, &environment)
            && !file.exists()
        {
            return Err(Error::Data { message: "there is no such file".into(), file: Some(file.clone()), line: None });
        }
        Ok(Sources { hiera_config, environment })
    }

    fn modules(&self, args: &Place, environment: &Path) -> Result<Vec<PathBuf>, Error> {
        let base = args.basemodulepath.as_deref().or(self.basemodulepath.as_deref());
        if let Some(path) = args.modulepath.as_deref().or(self.modulepath.as_deref()) {
            return Ok(split(path));
        }
        let file = environment.join("environment.conf");
        let conf = String::from_utf8(input::read_if_there(&file)?.unwrap_or_default())
            .map_err(|_| Error::data("not valid UTF-8").in_file(&file))?;
        let declared = conf.lines().find_map(|line| {
            let (name, value) = line.split_once('=')?;
            (name.trim() == "modulepath").then(|| value.trim().to_owned())
        });
        let declared = declared.unwrap_or_else(|| "modules:$basemodulepath".to_owned());
        let mut found = Vec::new();
        for part in declared.split(':').filter(|part| !part.is_empty()) {
            match part {
                "$basemodulepath" => found.extend(base.map(split).unwrap_or_default()),
                part => found.push(environment.join(part)),
            }
        }
        Ok(found)
    }

    /// Returns the name of the node and its facts.
    pub fn node(&self, args: &Place) -> Result<(String, Hash), Error> {
        let given = args.facts.clone().or_else(|| self.facts.as_ref().map(|path| under_root(path)));
        let facts = match given {
            Some(file) => Some(read_facts(&file)?),
            None => {
                let file = under_root(Path::new(FACTS));
                if file.exists() { Some(read_facts(&file)?) } else { None }
            }
        };
        let named = args.node.clone().or_else(|| self.node.clone());
        let known = facts.as_ref().and_then(|facts| facts.get_str("clientcert")).map(Value::to_text);
        let node = match named.or(known) {
            Some(name) => name,
            None => nix::unistd::gethostname()
                .ok()
                .and_then(|name| name.into_string().ok())
                .unwrap_or_else(|| "localhost".to_owned())
                .to_lowercase(),
        };
        let facts = facts.unwrap_or_else(|| {
            // The facts that follow from the name alone.
            let (hostname, domain) = node.split_once('.').unwrap_or((&node, ""));
            [("hostname", hostname), ("domain", domain), ("fqdn", &node), ("clientcert", &node)]
                .into_iter()
                .filter(|(_, value)| !value.is_empty())
                .map(|(name, value)| (Value::from(name), Value::from(value)))
                .collect()
        });
        Ok((node, facts))
    }
}

fn split(path: &str) -> Vec<PathBuf> {
    path.split(':').filter(|part| !part.is_empty()).map(PathBuf::from).collect()
}

/// Reads a JSON or YAML file of facts; the ending decides, else JSON is tried first.
fn read_facts(file: &Path) -> Result<Hash, Error> {
    let bytes = input::read_given(file)?;
    let json = |bytes: &[u8]| {
        serde_json::from_slice(bytes).map(Value::from_json).map_err(|e| Error::Data {
            message: e.to_string(),
            file: Some(file.to_owned()),
            line: Some(e.line()),
        })
    };
    let yaml = |bytes: &[u8]| psych::load(bytes).map_err(|e| e.in_file(file));
    let facts = match file.extension().and_then(|e| e.to_str()) {
        Some("json") => json(&bytes)?,
        Some("yaml" | "yml") => yaml(&bytes)?,
        _ => json(&bytes).or_else(|_| yaml(&bytes))?,
    };
    match facts {
        Value::Hash(facts) => Ok(facts),
        other => {
            Err(Error::data(format!("facts must be a hash of names and values, got {}", other.type_name()))
                .in_file(file))
        }
    }
}
