//! The configuration file: what users write, checked completely before anything is done.
//!
//! A key that this version does not know is refused, never ignored: `serde` denies unknown fields, so a
//! setting that a later version understands cannot silently be without effect here. Commands ask for the
//! parts they need (`root`, `signing_key`, `node`), because a node's file has no mirror and a mirror's no node.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use self::value::{duration, size, some_duration};
use crate::error::{Error, Result};
use crate::names;

mod source;
mod value;

pub(crate) use self::source::{DebSource, FilesSource, GitSource, Origin, RpmSource, Select, Source, Upstream};

/// Largest configuration file that is read.
const MAX_CONFIG: u64 = 1 << 20;

/// The command whose help has the file of `the_file_in_the_help_is_whole_and_accepted`.
const WHOLE_FILE: &str = "`mirror-sync check --help`";

/// The file as a whole.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    #[serde(skip)]
    path: PathBuf,
    root: Option<PathBuf>,
    url: Option<String>,
    signing_key: Option<PathBuf>,
    /// Channels that can be promoted to.
    #[serde(default)]
    pub(crate) channels: Vec<String>,
    /// Files or repositories handled at the same time.
    #[serde(default = "four")]
    pub(crate) jobs: usize,
    /// Newest snapshots that `gc` keeps besides those a channel points at.
    #[serde(default = "three")]
    pub(crate) keep: usize,
    /// `gc` spares what is younger.
    #[serde(default = "day", deserialize_with = "duration")]
    pub(crate) grace: Duration,
    /// Time limits and retries of network access.
    #[serde(default)]
    pub(crate) limits: Limits,
    /// Age from which a channel is too old: `status` says so and its exit code with it.
    #[serde(default, deserialize_with = "some_duration")]
    pub(crate) max_age: Option<Duration>,
    /// File for Prometheus' text collector.
    pub(crate) metrics: Option<PathBuf>,
    /// HTTP proxy for upstreams; absent: what `http_proxy`, `https_proxy` and `no_proxy` say.
    pub(crate) proxy: Option<String>,
    /// Where channel pointers live besides the static files.
    pub(crate) consul: Option<Consul>,
    /// What every snapshot must be able to install.
    pub(crate) closed: Option<Closed>,
    /// What is mirrored.
    #[serde(default)]
    pub(crate) sources: Vec<Source>,
    node: Option<Node>,
}

/// `limits:`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Limits {
    /// Longest time to connect.
    #[serde(deserialize_with = "duration")]
    pub(crate) connect: Duration,
    /// Longest time without a byte.
    #[serde(deserialize_with = "duration")]
    pub(crate) stall: Duration,
    /// Longest time of one request or fetch.
    #[serde(deserialize_with = "duration")]
    pub(crate) total: Duration,
    /// Further attempts after the first.
    pub(crate) retries: u32,
    /// Largest unpacked index of an upstream.
    #[serde(deserialize_with = "size")]
    pub(crate) index: u64,
    /// Bytes per second of all connections together; 0: no limit.
    #[serde(deserialize_with = "size")]
    pub(crate) rate: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            stall: Duration::from_secs(30),
            total: Duration::from_secs(600),
            retries: 3,
            index: 256 << 20,
            rate: 0,
        }
    }
}

/// `consul:`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Consul {
    /// Address of the agent; `CONSUL_HTTP_ADDR` wins.
    pub(crate) address: Option<String>,
    /// Keys are `PREFIX/channel/NAME`.
    #[serde(default = "consul_prefix")]
    pub(crate) prefix: String,
}

/// `closed:`: a snapshot that cannot install what these catalogs name is refused.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Closed {
    /// Compiled catalogs of nodes with apt; of a directory every `*.json` in it.
    pub(crate) deb: Vec<PathBuf>,
    /// Compiled catalogs of nodes with dnf.
    pub(crate) rpm: Vec<PathBuf>,
    /// The `/var/lib/dpkg/status` that nodes with apt begin with; absent: nothing is installed.
    pub(crate) installed: Option<PathBuf>,
}

/// `node:`, what `apply` needs.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Node {
    /// URL of the mirror.
    pub(crate) mirror: String,
    /// Channel that this node follows.
    pub(crate) channel: String,
    /// What the node is called in Consul; the host's name without its domain unless it is given.
    pub(crate) name: Option<String>,
    /// Its role: rollouts choose by it, and a role can have a pointer of its own.
    pub(crate) role: Option<String>,
    /// Public keys of the site.
    pub(crate) keyring: PathBuf,
    /// Package formats that are configured.
    #[serde(default = "deb_only")]
    pub(crate) formats: Vec<Format>,
    /// The mirror's sources that this node uses; empty: all of its formats.
    #[serde(default)]
    pub(crate) sources: Vec<String>,
    /// Whether the package lists are fetched before the new sources are put in place.
    #[serde(default = "yes")]
    pub(crate) update: bool,
}

/// A package format that `apply` can configure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    /// apt.
    Deb,
    /// dnf.
    Rpm,
}

fn four() -> usize {
    4
}
fn three() -> usize {
    3
}
fn day() -> Duration {
    Duration::from_secs(24 * 3600)
}
fn yes() -> bool {
    true
}
fn deb_only() -> Vec<Format> {
    vec![Format::Deb]
}
fn consul_prefix() -> String {
    "stacktira/mirror".into()
}

impl Config {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// [`Error::Config`] with the key and position at fault.
    pub(crate) fn load(path: &Path) -> Result<Self> {
        let bytes = crate::files::read_bounded(path, MAX_CONFIG).map_err(|error| Error::Config {
            path: path.to_owned(),
            message: format!("cannot read the configuration: {error}"),
            hint: Some(format!("pass --config FILE; {WHOLE_FILE} shows a whole file")),
        })?;
        let mut config: Self = serde_yaml::from_slice(&bytes).map_err(|error| wrong(path, error.to_string()))?;
        path.clone_into(&mut config.path);
        config.check()?;
        Ok(config)
    }

    /// Returns the file this came from.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns `root:`.
    ///
    /// # Errors
    /// The key is missing.
    pub(crate) fn root(&self) -> Result<&Path> {
        self.root.as_deref().ok_or_else(|| self.missing("root"))
    }

    /// Returns `url:` without a trailing slash.
    ///
    /// # Errors
    /// The key is missing.
    pub(crate) fn url(&self) -> Result<&str> {
        self.url.as_deref().map(|url| url.trim_end_matches('/')).ok_or_else(|| self.missing("url"))
    }

    /// Returns `signing_key:`.
    ///
    /// # Errors
    /// The key is missing.
    pub(crate) fn signing_key(&self) -> Result<&Path> {
        self.signing_key.as_deref().ok_or_else(|| self.missing("signing_key"))
    }

    /// Returns `signing_key:` where there is one: a mirror that only takes in what others sign has none.
    pub(crate) fn own_key(&self) -> Option<&Path> {
        self.signing_key.as_deref()
    }

    /// Returns `node:`.
    ///
    /// # Errors
    /// The key is missing.
    pub(crate) fn node(&self) -> Result<&Node> {
        self.node.as_ref().ok_or_else(|| self.missing("node"))
    }

    /// Checks that there is something to mirror.
    ///
    /// # Errors
    /// The list is empty.
    pub(crate) fn some_sources(&self) -> Result<()> {
        if self.sources.is_empty() { Err(self.missing("sources")) } else { Ok(()) }
    }

    fn missing(&self, key: &str) -> Error {
        wrong(&self.path, format!("{key}: missing, and this command needs it"))
    }

    fn bad(&self, key: &str, message: impl AsRef<str>) -> Error {
        wrong(&self.path, format!("{key}: {}", message.as_ref()))
    }

    fn check(&mut self) -> Result<()> {
        for (key, path) in [("root", &self.root), ("signing_key", &self.signing_key), ("metrics", &self.metrics)] {
            if path.as_ref().is_some_and(|path| !path.is_absolute()) {
                return Err(self.bad(key, "must be an absolute path"));
            }
        }
        if let Some(url) = &self.url {
            check_http(url).map_err(|message| self.bad("url", message))?;
        }
        if self.jobs == 0 || self.jobs > 64 {
            return Err(self.bad("jobs", "must be 1 to 64"));
        }
        let mut seen = BTreeSet::new();
        for channel in &self.channels {
            names::check(channel).map_err(|why| self.bad("channels", format!("{channel:?} {why}")))?;
            if !seen.insert(channel) {
                return Err(self.bad("channels", format!("{channel} is there twice")));
            }
        }
        if let Some(consul) = &self.consul {
            let fine = !consul.prefix.is_empty() && consul.prefix.split('/').all(|part| names::check(part).is_ok());
            if !fine {
                return Err(self.bad("consul.prefix", "must be names with single slashes between them"));
            }
        }
        let mut seen = BTreeSet::new();
        for (index, source) in self.sources.iter().enumerate() {
            let name = source.name();
            let key = format!("sources[{index}]");
            names::check(name).map_err(|why| self.bad(&format!("{key}.name"), format!("{name:?} {why}")))?;
            if !seen.insert(name) {
                return Err(self.bad(&format!("{key}.name"), format!("{name} is there twice")));
            }
            source.check().map_err(|(part, message)| self.bad(&format!("{key}.{part}"), message))?;
        }
        if let Some(proxy) = &self.proxy {
            check_upstream(proxy).map_err(|message| self.bad("proxy", message))?;
        }
        if let Some(node) = &self.node {
            check_http(&node.mirror).map_err(|message| self.bad("node.mirror", message))?;
            names::check(&node.channel).map_err(|why| self.bad("node.channel", why))?;
            for (key, value) in [("node.name", &node.name), ("node.role", &node.role)] {
                if let Some(value) = value {
                    names::check(value).map_err(|why| self.bad(key, format!("{value:?} {why}")))?;
                }
            }
            if !node.keyring.is_absolute() || node.keyring.to_str().is_none_or(has_space) {
                return Err(self.bad("node.keyring", "must be an absolute path without spaces"));
            }
            if node.formats.is_empty() || node.formats == [node.formats[0]; 2] || node.formats.len() > 2 {
                return Err(self.bad("node.formats", "must name deb, rpm, or each of them"));
            }
        }
        // Relative paths are the configuration file's, wherever the command runs.
        let base = self.path.parent().map(Path::to_owned).unwrap_or_default();
        for source in &mut self.sources {
            source.resolve(&base);
        }
        if let Some(Closed { deb, rpm, installed }) = &mut self.closed {
            deb.iter_mut().chain(rpm).chain(installed).for_each(|path| *path = base.join(&*path));
        }
        Ok(())
    }
}

/// Something in the file is missing or wrong.
fn wrong(path: &Path, message: String) -> Error {
    Error::Config { path: path.to_owned(), message, hint: Some(format!("{WHOLE_FILE} shows a whole file")) }
}

fn has_space(text: &str) -> bool {
    text.chars().any(|c| c.is_whitespace() || c.is_control())
}

fn check_http(url: &str) -> std::result::Result<(), &'static str> {
    check_base(url)?;
    let host = url.split('/').nth(2).unwrap_or_default();
    if host.contains('@') { Err("must not hold a user or password") } else { Ok(()) }
}

/// Checks an address that may hold a user and a password, which no message shows.
fn check_upstream(url: &str) -> std::result::Result<(), &'static str> {
    check_base(url)?;
    crate::fetch::Base::new(url).map(|_| ())
}

fn check_base(url: &str) -> std::result::Result<(), &'static str> {
    let rest = url
        .strip_prefix("http://")
        .or_else(|| url.strip_prefix("https://"))
        .ok_or("must start with http:// or https://")?;
    let host = rest.split('/').next().unwrap_or_default();
    if host.is_empty() || has_space(url) {
        return Err("is not a URL");
    }
    if url.contains(['?', '#', '"', '\'', '[', ']']) && !host.starts_with('[') {
        return Err("must be a plain base URL");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config> {
        let dir = tempfile::tempdir().expect("scratch directory");
        let path = dir.path().join("mirror.yaml");
        std::fs::write(&path, text).expect("writable");
        Config::load(&path)
    }

    fn message(text: &str) -> String {
        load(text).expect_err("refused").to_string()
    }

    const DEB: &str = "suites: [bookworm], components: [main], architectures: [amd64]";

    #[test]
    fn a_whole_file_is_understood() {
        let config = load(&format!(
            "root: /m\nurl: http://build1:8080/\nsigning_key: /k\nchannels: [edge, stable]\ngrace: 0s\n\
             limits: {{stall: 2s}}\nconsul: {{address: 'http://127.0.0.1:8500'}}\n\
             sources:\n- {{name: debian, type: deb, dir: /d, {DEB}}}\n\
             - {{name: modules, type: git, manifest: repos.yaml, mirror: /srv/git}}\n\
             node: {{mirror: 'http://build1:8080', channel: stable, keyring: /etc/stacktira/site.gpg}}\n"
        ))
        .expect("accepted");
        assert_eq!(config.url().expect("there"), "http://build1:8080");
        assert_eq!(config.grace, Duration::ZERO);
        assert_eq!(config.limits.stall, Duration::from_secs(2));
        assert_eq!(config.limits.retries, 3);
        assert_eq!(config.consul.expect("there").prefix, "stacktira/mirror");
        let Source::Git(git) = &config.sources[1] else { panic!("second is git") };
        assert!(git.manifest.is_absolute());
    }

    #[test]
    fn the_file_in_the_help_is_whole_and_accepted() {
        let command = crate::cli::command();
        let check = command.find_subcommand("check").expect("there");
        let help = check.get_long_about().expect("long").to_string();
        let file: String = help
            .split("\n\n")
            .filter(|part| part.lines().all(|line| line.starts_with("  ")))
            .flat_map(|part| part.lines().map(|line| format!("{}\n", &line[2..])))
            .collect();
        let config = load(&file.replace("DIGEST", &"0".repeat(64))).expect("accepted");
        assert_eq!(config.sources.len(), 4);
        // What the file does not know it names, beside all that it knows.
        for part in [
            "X: 1",
            "limits: {X: 1}",
            "consul: {X: 1}",
            "closed: {X: 1}",
            "node: {X: 1}",
            "sources: [{type: deb, X: 1}]",
            "sources: [{type: rpm, X: 1}]",
            "sources: [{type: git, X: 1}]",
            "sources: [{type: files, X: 1}]",
            "sources: [{type: files, files: [{X: 1}]}]",
            "sources: [{type: deb, select: {X: 1}}]",
        ] {
            let said = message(part);
            let (_, known) = said.split_once("expected").unwrap_or_else(|| panic!("{part}: {said}"));
            let keys: Vec<&str> = known.split('`').skip(1).step_by(2).collect();
            assert!(keys.len() > 1, "{part}: {said}");
            for key in keys {
                assert!(file.contains(&format!("{key}:")), "{part}: the help does not show {key}");
            }
        }
    }

    #[test]
    fn what_is_not_known_is_refused_with_its_name() {
        assert!(message("rooot: /m").contains("rooot"));
        assert!(message("limits: {speed: 1s}").contains("speed"));
        let unsigned = message(&format!("sources: [{{name: a, type: deb, url: 'http://x', {DEB}}}]"));
        assert!(unsigned.contains("sources[0].keyring"), "{unsigned}");
        let nowhere = message("sources: [{name: a, type: rpm}]");
        assert!(nowhere.contains("sources[0].url"), "{nowhere}");
        let select = |text: &str| {
            message(&format!("sources: [{{name: a, type: deb, url: 'http://x', keyring: k, select: {text}, {DEB}}}]"))
        };
        assert!(select("some").contains("some"));
        assert!(select("{clojure: [a]}").contains("clojure"));
        assert!(select("{closure: []}").contains("sources[0].select"));
        assert!(message("limits: {index: 1 TB}").contains("index"));
        assert!(message("node: {mirror: 'http://m', channel: s, keyring: /k, formats: [apk]}").contains("apk"));
        assert!(
            message("node: {mirror: 'http://m', channel: s, keyring: /k, formats: [rpm, rpm]}").contains("formats")
        );
    }

    #[test]
    fn names_that_could_leave_their_directory_are_refused() {
        for name in ["..", "a/b", "", ".hidden", "a b", "-x"] {
            let text = format!("sources: [{{name: '{name}', type: deb, dir: /d, {DEB}}}]");
            assert!(message(&text).contains("sources[0].name"), "{name}");
        }
        let both = format!("sources: [{{name: a, type: deb, dir: d, url: 'http://x', {DEB}}}]");
        assert!(message(&both).contains("sources[0].dir"));
        for path in ["../x", "/x", "a//b", ""] {
            let sha256 = "0".repeat(64);
            let file = format!("{{url: 'http://x/y', sha256: '{sha256}', path: '{path}'}}");
            assert!(
                message(&format!("sources: [{{name: a, type: files, files: [{file}]}}]")).contains("files"),
                "{path}"
            );
        }
        assert!(message("url: ftp://x").contains("url"));
        assert!(message("url: 'http://user:secret@x'").contains("url"));
        assert!(!message("url: 'http://user:secret@x'").contains("secret"));
        assert!(message("grace: soon").contains("grace"));
    }
}
