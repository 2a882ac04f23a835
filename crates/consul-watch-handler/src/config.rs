//! The configuration of `watch`: read with positions, checked whole before anything starts.
//!
//! ```yaml
//! max_wait: 30s                  # somebody looks again at least this often, though nothing changed
//! consul:                        # optional; the environment wins over it
//!   address: https://127.0.0.1:8501
//!   token_file: /etc/stacktira/token
//!   ca_file: /etc/stacktira/ca.pem
//! watches:
//! - name: motd
//!   type: key
//!   key: app/motd
//!   run: [/opt/stacktira/bin/ts, /usr/local/bin/write-motd]
//! - name: balancer
//!   type: services
//!   tag: haproxy::balanced
//!   passing: true
//!   debounce: 200ms..5s
//!   run: [/opt/stacktira/bin/ts, -Q, converge, /opt/stacktira/provision/converge.sh]
//! ```

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toolkit::yaml::{self, Limits, Mark, Node, Value};
use toolkit::{duration, files};

use crate::payload::Kind;
use crate::source::{Subject, check_key};
use crate::state::check_name;

/// After how long somebody looks again though nothing changed, unless the file says otherwise: a restored snapshot
/// that no query was told of goes unnoticed no longer.
pub const MAX_WAIT: Duration = Duration::from_secs(30);
/// How long a command may run, unless the file says otherwise.
pub const TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// A configuration that can be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// After how long somebody looks again though nothing changed.
    pub max_wait: Duration,
    /// Settings of Consul, as pairs of an environment variable's name and the value that holds where it is not set.
    pub consul: Vec<(&'static str, OsString)>,
    /// The watches; their names differ.
    pub watches: Vec<WatchSpec>,
}

/// One watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchSpec {
    /// Its name.
    pub name: String,
    /// What is watched.
    pub subject: Subject,
    /// The top-level fields that count; all if there are none.
    pub fields: Vec<String>,
    /// How long changes are gathered.
    pub debounce: Debounce,
    /// How long the command may run.
    pub timeout: Duration,
    /// The command; not empty.
    pub run: Vec<OsString>,
}

/// A run starts when nothing has changed for `quiet`, or when the first change is `at_most` old. Where the file says
/// nothing, the first change after a quiet while is run at once and only those that follow are gathered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Debounce {
    /// How long it must be quiet.
    pub quiet: Duration,
    /// How long the first change may wait.
    pub at_most: Duration,
    /// Whether a change does not wait at all when nothing was run for `quiet`.
    pub at_once: bool,
}

impl Default for Debounce {
    fn default() -> Debounce {
        Debounce { quiet: Duration::from_millis(100), at_most: Duration::from_secs(2), at_once: true }
    }
}

impl Debounce {
    fn parse(text: &str) -> Result<Debounce, String> {
        let wrong = || format!("`{text}` is no debounce: write MIN..MAX, as in 200ms..5s, or one duration for both");
        let (quiet, at_most) = text.split_once("..").unwrap_or((text, text));
        let quiet = duration::parse(quiet).map_err(|_| wrong())?;
        let at_most = duration::parse(at_most).map_err(|_| wrong())?;
        if quiet > at_most { Err(wrong()) } else { Ok(Debounce { quiet, at_most, at_once: false }) }
    }
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Something in the file is wrong.
    #[error("{}:{mark}: {message}", path.display())]
    At {
        /// The file.
        path: PathBuf,
        /// Where in it.
        mark: Mark,
        /// What is wrong.
        message: String,
    },
}

impl ConfigError {
    /// Returns the next step, where there is one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            ConfigError::Read { .. } => None,
            ConfigError::At { .. } => Some("consul-watch-handler watch --help shows a whole file".to_owned()),
        }
    }
}

type Wrong = (Mark, String);

const FILE_KEYS: [&str; 3] = ["watches", "max_wait", "consul"];

/// The keys of `consul`, and the variable that each stands for.
const CONSUL_KEYS: [(&str, &str); 9] = [
    ("address", "CONSUL_HTTP_ADDR"),
    ("token_file", "CONSUL_HTTP_TOKEN_FILE"),
    ("ca_file", "CONSUL_CACERT"),
    ("ca_path", "CONSUL_CAPATH"),
    ("client_cert", "CONSUL_CLIENT_CERT"),
    ("client_key", "CONSUL_CLIENT_KEY"),
    ("tls_server_name", "CONSUL_TLS_SERVER_NAME"),
    ("namespace", "CONSUL_NAMESPACE"),
    ("partition", "CONSUL_PARTITION"),
];

/// The keys that a watch of some type has.
const WATCH_KEYS: [&str; 12] =
    ["name", "type", "key", "prefix", "service", "tag", "passing", "event", "fields", "debounce", "timeout", "run"];

/// Reads a configuration file.
///
/// # Errors
/// It cannot be read, or something in it is wrong; the first such thing is named with its line.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let bytes = files::read_given(path, Limits::default().bytes as u64)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    parse(&bytes).map_err(|(mark, message)| ConfigError::At { path: path.to_owned(), mark, message })
}

fn parse(bytes: &[u8]) -> Result<Config, Wrong> {
    let start = Mark { line: 1, column: 1 };
    let document = yaml::parse(bytes, &Limits::default()).map_err(|error| (error.mark, error.message))?;
    let document = document.ok_or((start, "the file is empty; `watches` is expected".to_owned()))?;
    let mut top = Fields::of(&document, "the file", &FILE_KEYS)?;
    let max_wait = top.parsed("max_wait", |text| match duration::parse(text)? {
        wait if wait < Duration::from_secs(1) => Err("the shortest wait is 1s".to_owned()),
        wait if wait > consul_client::MAX_WAIT => Err("the longest wait is 10m".to_owned()),
        wait => Ok(wait),
    })?;
    let consul = top.take("consul").map(consul).transpose()?.unwrap_or_default();
    let listed = top.required("watches")?;
    let items = listed.as_sequence().ok_or((listed.mark, "`watches` is not a list".to_owned()))?;
    let mut watches = Vec::with_capacity(items.len());
    let mut names = HashSet::new();
    for item in items {
        let spec = watch(item)?;
        if !names.insert(spec.name.clone()) {
            return Err((item.mark, format!("there is another watch named {}", spec.name)));
        }
        watches.push(spec);
    }
    Ok(Config { max_wait: max_wait.unwrap_or(MAX_WAIT), consul, watches })
}

fn consul(node: &Node) -> Result<Vec<(&'static str, OsString)>, Wrong> {
    let mut fields = Fields::of(node, "`consul`", &CONSUL_KEYS.map(|(key, _)| key))?;
    let mut settings = Vec::new();
    for (key, variable) in CONSUL_KEYS {
        if let Some(value) = fields.text(key)? {
            settings.push((variable, OsString::from(value)));
        }
    }
    Ok(settings)
}

fn watch(node: &Node) -> Result<WatchSpec, Wrong> {
    let mut fields = Fields::of(node, "a watch", &WATCH_KEYS)?;
    let name = fields.required_parsed("name", check_name)?;
    let kind = fields.required_parsed("type", |text| {
        Kind::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| {
            let names = Kind::ALL.map(Kind::name).join(", ");
            format!("there is no type `{text}`; the types are {names}")
        })
    })?;
    let subject = match kind {
        Kind::Key => Subject::Key(fields.required_parsed("key", |text| not_empty(text).and_then(check_key))?),
        Kind::Keyprefix => Subject::Prefix(fields.required_parsed("prefix", check_key)?),
        Kind::Services => match fields.parsed("tag", not_empty_owned)? {
            Some(tag) => Subject::Tagged { tag, passing: fields.flag("passing")? },
            None => Subject::Services,
        },
        Kind::Nodes => Subject::Nodes,
        Kind::Service => Subject::Service {
            name: fields.required_parsed("service", not_empty_owned)?,
            tag: fields.parsed("tag", not_empty_owned)?,
            passing: fields.flag("passing")?,
        },
        Kind::Checks => Subject::Checks { service: fields.parsed("service", not_empty_owned)? },
        Kind::Event => Subject::Event { name: fields.parsed("event", not_empty_owned)? },
    };
    let spec = WatchSpec {
        name,
        fields: if kind == Kind::Event { Vec::new() } else { fields.texts("fields")?.unwrap_or_default() },
        debounce: fields.parsed("debounce", Debounce::parse)?.unwrap_or_default(),
        timeout: fields.parsed("timeout", duration::parse)?.unwrap_or(TIMEOUT),
        run: {
            let run = fields.required("run")?;
            let words = texts("run", run)?;
            if words.first().is_none_or(String::is_empty) {
                return Err((run.mark, "`run` names no command".to_owned()));
            }
            words.into_iter().map(OsString::from).collect()
        },
        subject,
    };
    fields.finish(&format!("a watch of type {kind}"))?;
    Ok(spec)
}

fn not_empty(text: &str) -> Result<&str, String> {
    if text.is_empty() { Err("it is empty".to_owned()) } else { Ok(text) }
}

fn not_empty_owned(text: &str) -> Result<String, String> {
    not_empty(text).map(str::to_owned)
}

fn texts(key: &str, node: &Node) -> Result<Vec<String>, Wrong> {
    let items = node.as_sequence().ok_or((node.mark, format!("`{key}` is not a list, as in [a, b]")))?;
    items.iter().map(|item| scalar(key, item).map(str::to_owned)).collect()
}

fn scalar<'n>(key: &str, node: &'n Node) -> Result<&'n str, Wrong> {
    let text = node.as_str().filter(|_| !node.is_null());
    match text {
        Some(text) if text.contains('\0') => Err((node.mark, format!("`{key}` holds a NUL character"))),
        Some(text) => Ok(text),
        None => Err((node.mark, format!("`{key}` holds something else than text"))),
    }
}

/// The fields of a mapping, each taken once; what is left over does not belong there.
struct Fields<'n> {
    mark: Mark,
    what: &'n str,
    left: Vec<&'n (Node, Node)>,
}

impl<'n> Fields<'n> {
    /// What nothing knows is named first: where a key is misspelt, that it is missing says less.
    fn of(node: &'n Node, what: &'n str, keys: &[&str]) -> Result<Fields<'n>, Wrong> {
        let Value::Mapping(pairs) = &node.value else {
            return Err((node.mark, format!("{what} is not a mapping")));
        };
        if let Some(twice) = node.duplicate() {
            return Err((twice.mark, format!("`{}` stands here twice", twice.as_str().unwrap_or_default())));
        }
        for (key, _) in pairs {
            match key.as_str() {
                Some(name) if keys.contains(&name) => {}
                Some(name) => {
                    return Err((key.mark, format!("{what} has no key `{name}`; the keys are {}", keys.join(", "))));
                }
                None => return Err((key.mark, format!("a key of {what} is not text"))),
            }
        }
        Ok(Fields { mark: node.mark, what, left: pairs.iter().collect() })
    }

    fn take(&mut self, key: &str) -> Option<&'n Node> {
        let position = self.left.iter().position(|(name, _)| name.as_str() == Some(key))?;
        Some(&self.left.remove(position).1)
    }

    fn required(&mut self, key: &str) -> Result<&'n Node, Wrong> {
        self.take(key).ok_or_else(|| (self.mark, format!("{} has no `{key}`", self.what)))
    }

    fn text(&mut self, key: &str) -> Result<Option<&'n str>, Wrong> {
        self.take(key).map(|node| scalar(key, node)).transpose()
    }

    fn texts(&mut self, key: &str) -> Result<Option<Vec<String>>, Wrong> {
        self.take(key).map(|node| texts(key, node)).transpose()
    }

    fn parsed<T>(&mut self, key: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Result<Option<T>, Wrong> {
        self.take(key).map(|node| parse_scalar(key, node, parse)).transpose()
    }

    fn required_parsed<T>(&mut self, key: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Result<T, Wrong> {
        let node = self.required(key)?;
        parse_scalar(key, node, parse)
    }

    fn flag(&mut self, key: &str) -> Result<bool, Wrong> {
        let parsed = self.parsed(key, |text| match text {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err("it is neither true nor false".to_owned()),
        })?;
        Ok(parsed.unwrap_or(false))
    }

    fn finish(self, what: &str) -> Result<(), Wrong> {
        match self.left.first() {
            None => Ok(()),
            Some((key, _)) => Err((key.mark, format!("{what} has no key `{}`", key.as_str().unwrap_or_default()))),
        }
    }
}

fn parse_scalar<T>(key: &str, node: &Node, parse: impl FnOnce(&str) -> Result<T, String>) -> Result<T, Wrong> {
    parse(scalar(key, node)?).map_err(|message| (node.mark, format!("`{key}`: {message}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> String {
        let (mark, message) = parse(text.as_bytes()).expect_err("it is wrong");
        format!("{mark} {message}")
    }

    #[test]
    fn a_whole_file_is_understood() {
        let text = "max_wait: 5s\nconsul: {address: 'http://h:1', token_file: /t}\nwatches:\n\
            - {name: a, type: services, tag: 'haproxy::balanced', passing: true, debounce: 200ms..5s, run: [x, '']}\n\
            - {name: b, type: event, run: [y]}\n- {name: c, type: keyprefix, prefix: '', fields: [Value], run: [z]}\n";
        let config = parse(text.as_bytes()).expect("it is right");
        assert_eq!(config.max_wait, Duration::from_secs(5));
        assert_eq!(config.consul[1], ("CONSUL_HTTP_TOKEN_FILE", "/t".into()));
        assert_eq!(config.watches[0].subject, Subject::Tagged { tag: "haproxy::balanced".into(), passing: true });
        assert_eq!(config.watches[0].debounce.at_most, Duration::from_secs(5));
        assert_eq!(config.watches[1].subject, Subject::Event { name: None });
        assert_eq!(config.watches[2].fields, ["Value"]);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        for (text, said) in [
            ("", "1:1 the file is empty"),
            ("watches: 3", "1:10 `watches` is not a list"),
            ("watches: []\nmaxwait: 3s", "2:1 the file has no key `maxwait`"),
            ("watches: []\nmax_wait: 0s", "2:11 `max_wait`: the shortest wait"),
            ("watches:\n- name: a\n  type: key\n  run: [x]", "2:3 a watch has no `key`"),
            ("watch: []", "1:1 the file has no key `watch`; the keys are watches, max_wait, consul"),
            ("watches:\n- name: a\n  typ: key\n  run: [x]", "3:3 a watch has no key `typ`; the keys are name, type,"),
            ("watches:\n- {name: a, type: nodes, command: [x]}", "2:26 a watch has no key `command`; the keys are"),
            ("watches:\n- {name: a, type: nodes, run: [x], [b]: c}", "2:36 a key of a watch is not text"),
            ("watches:\n- name: a\n  type: kye\n  run: [x]", "3:9 `type`: there is no type `kye`"),
            ("watches:\n- {name: a, type: nodes, run: [x], tag: t}", "2:36 a watch of type nodes has no key `tag`"),
            ("watches:\n- {name: a, type: services, run: [x], passing: true}", "has no key `passing`"),
            ("watches:\n- {name: ../a, type: nodes, run: [x]}", "2:10 `name`: a name has"),
            ("watches:\n- {name: a, type: nodes, run: x}", "2:31 `run` is not a list"),
            ("watches:\n- {name: a, type: nodes, run: []}", "`run` names no command"),
            ("watches:\n- {name: a, type: nodes, run: [~]}", "`run` holds something else than text"),
            ("watches:\n- &w {name: a, type: nodes, run: [x]}\n- *w", "there is another watch named a"),
            ("watches:\n- {name: a, name: b, type: nodes, run: [x]}", "2:13 `name` stands here twice"),
            ("watches:\n- {name: a, type: nodes, debounce: 5s..1s, run: [x]}", "`debounce`: `5s..1s` is no debounce"),
            ("watches:\n- {name: a, type: key, key: /x, run: [x]}", "`key`: it starts with a slash"),
            ("watches: []\nconsul: {token: s}", "2:10 `consul` has no key `token`"),
            ("watches: [", "2:1 "),
        ] {
            let found = wrong(text);
            assert!(found.contains(said), "{text:?}: {found}");
        }
    }
}
