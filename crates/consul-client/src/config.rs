//! Where Consul is and how to speak to it.
//!
//! The names, meanings and precedence of the environment variables are Consul's own. Secrets
//! never show in `Debug`.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Error;
use crate::error::{ADDRESS, ADDRESS_VARIABLE};

/// The largest file that is read for a token or a certificate.
const FILE_LIMIT: u64 = 4 << 20;

/// Where Consul is and how to speak to it.
#[derive(Clone)]
pub struct Config {
    /// Where the agent listens.
    pub address: Address,
    /// Token, sent in the `X-Consul-Token` header only.
    pub token: Option<String>,
    /// File with the token; wins over `token` unless it is empty.
    pub token_file: Option<PathBuf>,
    /// TLS settings; used for https only.
    pub tls: Tls,
    /// Datacenter to ask; the agent's own when `None`.
    pub datacenter: Option<String>,
    /// Namespace (Consul Enterprise).
    pub namespace: Option<String>,
    /// Admin partition (Consul Enterprise).
    pub partition: Option<String>,
    /// Limit for name resolution, and for connecting including the TLS handshake.
    pub connect_timeout: Duration,
    /// Limit for a whole call; a blocking query adds its wait and Consul's jitter to it.
    pub total_timeout: Duration,
    /// Longest answer that is accepted, in bytes after decompression.
    pub max_response: u64,
}

/// TLS settings.
#[derive(Debug, Clone)]
pub struct Tls {
    /// Certificates (PEM) of the authorities to trust, instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Directory of such files, used when `ca_file` is not set.
    pub ca_path: Option<PathBuf>,
    /// Certificate (PEM) to show; needs `client_key`.
    pub client_cert: Option<PathBuf>,
    /// Key (PEM) of `client_cert`.
    pub client_key: Option<PathBuf>,
    /// Name to expect in the agent's certificate, instead of the address's host.
    pub server_name: Option<String>,
    /// Check the agent's certificate.
    pub verify: bool,
}

impl Default for Tls {
    fn default() -> Tls {
        Tls { ca_file: None, ca_path: None, client_cert: None, client_key: None, server_name: None, verify: true }
    }
}

impl Default for Config {
    fn default() -> Config {
        Config {
            address: Address { https: false, host: "127.0.0.1".to_owned(), port: 8500, prefix: String::new() },
            token: None,
            token_file: None,
            tls: Tls::default(),
            datacenter: None,
            namespace: None,
            partition: None,
            connect_timeout: Duration::from_secs(5),
            total_timeout: Duration::from_secs(10),
            max_response: 64 << 20,
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("address", &self.address)
            .field("token", &self.token.as_ref().map(|_| "[redacted]"))
            .field("token_file", &self.token_file)
            .field("tls", &self.tls)
            .field("datacenter", &self.datacenter)
            .field("namespace", &self.namespace)
            .field("partition", &self.partition)
            .field("connect_timeout", &self.connect_timeout)
            .field("total_timeout", &self.total_timeout)
            .field("max_response", &self.max_response)
            .finish()
    }
}

/// Settings that win over the environment: a tool's flags or its configuration file.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Overrides {
    /// As `CONSUL_HTTP_ADDR`.
    pub address: Option<String>,
    /// As `CONSUL_HTTP_TOKEN_FILE`.
    pub token_file: Option<PathBuf>,
    /// As `CONSUL_CACERT`.
    pub ca_file: Option<PathBuf>,
    /// As `CONSUL_CLIENT_CERT`.
    pub client_cert: Option<PathBuf>,
    /// As `CONSUL_CLIENT_KEY`.
    pub client_key: Option<PathBuf>,
    /// As `CONSUL_TLS_SERVER_NAME`.
    pub server_name: Option<String>,
    /// Datacenter to ask.
    pub datacenter: Option<String>,
}

impl Config {
    /// Returns the configuration that Consul's own environment variables describe.
    ///
    /// `lookup` is usually `|name| std::env::var_os(name)`. Empty variables count as unset.
    pub fn from_env(lookup: impl Fn(&str) -> Option<OsString>) -> Result<Config, Error> {
        let env = Environment { lookup: &lookup };
        let mut config = Config::default();
        let https = env.boolean("CONSUL_HTTP_SSL")?.unwrap_or(false);
        config.address.https = https;
        if let Some(address) = env.text("CONSUL_HTTP_ADDR")? {
            config.address = Address::parse(ADDRESS_VARIABLE, &address, https)?;
        }
        config.token = env.text("CONSUL_HTTP_TOKEN")?;
        config.token_file = env.path("CONSUL_HTTP_TOKEN_FILE");
        config.tls.ca_file = env.path("CONSUL_CACERT");
        config.tls.ca_path = env.path("CONSUL_CAPATH");
        config.tls.client_cert = env.path("CONSUL_CLIENT_CERT");
        config.tls.client_key = env.path("CONSUL_CLIENT_KEY");
        config.tls.server_name = env.text("CONSUL_TLS_SERVER_NAME")?;
        config.tls.verify = env.boolean("CONSUL_HTTP_SSL_VERIFY")?.unwrap_or(true);
        config.namespace = env.text("CONSUL_NAMESPACE")?;
        config.partition = env.text("CONSUL_PARTITION")?;
        Ok(config)
    }

    /// Returns the configuration with what `overrides` names put over it.
    pub fn with(mut self, overrides: &Overrides) -> Result<Config, Error> {
        if let Some(address) = &overrides.address {
            self.address = Address::parse(ADDRESS, address, self.address.https)?;
        }
        let put = |from: &Option<PathBuf>, to: &mut Option<PathBuf>| {
            if from.is_some() {
                to.clone_from(from);
            }
        };
        put(&overrides.token_file, &mut self.token_file);
        put(&overrides.ca_file, &mut self.tls.ca_file);
        put(&overrides.client_cert, &mut self.tls.client_cert);
        put(&overrides.client_key, &mut self.tls.client_key);
        if overrides.server_name.is_some() {
            self.tls.server_name.clone_from(&overrides.server_name);
        }
        if overrides.datacenter.is_some() {
            self.datacenter.clone_from(&overrides.datacenter);
        }
        Ok(self)
    }

    /// Returns the token to send: that of the file unless it is empty, else the given one.
    pub(crate) fn read_token(&self) -> Result<Option<String>, Error> {
        if let Some(path) = &self.token_file {
            let bytes = read_file("token file", path)?;
            let text = String::from_utf8(bytes).map_err(|_| Error::File {
                setting: "token file".to_owned(),
                path: path.clone(),
                reason: "it is not text".to_owned(),
            })?;
            let text = text.trim();
            if !text.is_empty() {
                check_token(text)?;
                return Ok(Some(text.to_owned()));
            }
        }
        match self.token.as_deref().map(str::trim) {
            None | Some("") => Ok(None),
            Some(token) => {
                check_token(token)?;
                Ok(Some(token.to_owned()))
            }
        }
    }
}

/// A token goes into a header: only visible ASCII can stand there.
fn check_token(token: &str) -> Result<(), Error> {
    if token.len() <= 4096 && token.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(());
    }
    Err(Error::Config {
        setting: "token".to_owned(),
        reason: "it holds characters that no Consul token has".to_owned(),
    })
}

/// Reads a file that a setting names, up to a limit.
pub(crate) fn read_file(setting: &str, path: &Path) -> Result<Vec<u8>, Error> {
    let fail = |reason: String| Error::File { setting: setting.to_owned(), path: path.to_owned(), reason };
    let file = File::open(path).map_err(|e| fail(e.to_string()))?;
    let mut bytes = Vec::new();
    file.take(FILE_LIMIT + 1).read_to_end(&mut bytes).map_err(|e| fail(e.to_string()))?;
    if bytes.len() as u64 > FILE_LIMIT {
        return Err(fail(format!("it is longer than {FILE_LIMIT} bytes")));
    }
    Ok(bytes)
}

struct Environment<'a> {
    lookup: &'a dyn Fn(&str) -> Option<OsString>,
}

impl Environment<'_> {
    fn path(&self, name: &str) -> Option<PathBuf> {
        (self.lookup)(name).filter(|v| v.as_os_str() != OsStr::new("")).map(PathBuf::from)
    }

    fn text(&self, name: &str) -> Result<Option<String>, Error> {
        match (self.lookup)(name) {
            None => Ok(None),
            Some(value) if value.is_empty() => Ok(None),
            Some(value) => value
                .into_string()
                .map(Some)
                .map_err(|_| Error::Config { setting: name.to_owned(), reason: "it is not valid UTF-8".to_owned() }),
        }
    }

    /// The words of Go's `strconv.ParseBool`, since these are Consul's variables.
    fn boolean(&self, name: &str) -> Result<Option<bool>, Error> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        match text.as_str() {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Some(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Some(false)),
            _ => Err(Error::Config { setting: name.to_owned(), reason: format!("{text:?} is neither true nor false") }),
        }
    }
}

/// Where an agent listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub(crate) https: bool,
    /// Without brackets, also for IPv6.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Path before `/v1`, without a slash at its end.
    pub(crate) prefix: String,
}

impl Address {
    /// Reads `http://host:port/prefix`, `https://…`, or `host:port`, for which `https` decides.
    ///
    /// Without a port an address with a scheme means the scheme's port, as for Consul's own
    /// programs, and one without a scheme means 8500. `setting` names the source in errors.
    pub fn parse(setting: &str, text: &str, https: bool) -> Result<Address, Error> {
        let fail = |reason: &str| Error::Config { setting: setting.to_owned(), reason: reason.to_owned() };
        let text = text.trim();
        let (https, default_port, rest) = match text.split_once("://") {
            None => (https, 8500, text),
            Some(("http", rest)) => (false, 80, rest),
            Some(("https", rest)) => (true, 443, rest),
            Some(("unix", _)) => {
                return Err(fail("unix sockets are not supported; give an http or https address"));
            }
            Some((scheme, _)) => {
                return Err(fail(&format!("unknown scheme {scheme:?}; use http or https")));
            }
        };
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        if rest.contains(['?', '#']) || rest.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(fail("it holds a query, a fragment or white space"));
        }
        if authority.contains('@') {
            // The text is not repeated: what stands before the @ is likely a password.
            return Err(fail("user names and passwords are not supported in the address"));
        }
        let (host, port) = split_port(authority).map_err(fail)?;
        let port = match port {
            None => default_port,
            Some(port) => {
                port.parse::<u16>().ok().filter(|p| *p != 0).ok_or_else(|| fail(&format!("{port:?} is not a port")))?
            }
        };
        if host.is_empty() || !host.chars().all(|c| c.is_ascii_alphanumeric() || "-._:%".contains(c)) {
            return Err(fail(&format!("{host:?} is not a host name or address")));
        }
        Ok(Address { https, host: host.to_owned(), port, prefix: path.trim_end_matches('/').to_owned() })
    }

    /// Returns the host as it stands in a URL.
    pub(crate) fn url_host(&self) -> String {
        if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() }
    }

    /// Tells whether what is asked there certainly does not leave this host.
    pub(crate) fn is_on_this_host(&self) -> bool {
        self.host.eq_ignore_ascii_case("localhost") || self.host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
    }

    pub(crate) fn scheme(&self) -> &'static str {
        if self.https { "https" } else { "http" }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}{}", self.scheme(), self.url_host(), self.port, self.prefix)
    }
}

fn split_port(authority: &str) -> Result<(&str, Option<&str>), &'static str> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or("a [ is not closed")?;
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err("only a port may follow the ]"),
        };
    }
    match authority.split_once(':') {
        None => Ok((authority, None)),
        Some((_, port)) if port.contains(':') => Err("put an IPv6 address into brackets"),
        Some((host, port)) => Ok((host, Some(port))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<String, String> {
        Address::parse("X", text, false).map(|a| a.to_string()).map_err(|e| e.to_string())
    }

    #[test]
    fn addresses() {
        for (text, want) in [
            ("127.0.0.1:8500", "http://127.0.0.1:8500"),
            ("consul", "http://consul:8500"),
            ("http://consul", "http://consul:80"),
            ("https://consul/", "https://consul:443"),
            ("https://h:1/a/b/", "https://h:1/a/b"),
            ("[::1]:8500", "http://[::1]:8500"),
            (" http://[::1]:9 ", "http://[::1]:9"),
        ] {
            assert_eq!(parse(text).as_deref(), Ok(want), "{text}");
        }
        for text in [
            "",
            "http://",
            "unix:///run/x",
            "ftp://h",
            "h:0",
            "h:65536",
            "h:x",
            "::1:8500",
            "[::1",
            "http://h/?a=b",
            "h h",
            "a\r\nb:1",
            "[::1]x",
            "h_ö:1",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
        let refused = |setting| Address::parse(setting, "h:x", false).unwrap_err();
        for error in [refused(ADDRESS), refused(ADDRESS_VARIABLE)] {
            assert!(error.hint().is_some_and(|hint| hint.contains("HOST:PORT")), "{error}");
        }
        let error = parse("http://me:secret@h:1").unwrap_err();
        assert!(!error.contains("secret"), "{error}");
    }

    #[test]
    fn only_loopback_addresses_are_on_this_host() {
        let near = |text: &str| Address::parse("address", text, false).unwrap().is_on_this_host();
        for text in ["127.0.0.1:8500", "http://127.1.2.3", "https://localhost:8501", "LOCALHOST", "[::1]:8500"] {
            assert!(near(text), "{text}");
        }
        for text in ["10.0.0.1:8500", "https://127.0.0.1.example.test", "localhost.example.test", "[::]:8500", "consul"]
        {
            assert!(!near(text), "{text}");
        }
    }

    #[test]
    fn environment() {
        let env = |pairs: &'static [(&'static str, &'static str)]| {
            Config::from_env(move |name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| OsString::from(v)))
        };
        assert_eq!(env(&[]).unwrap().address.to_string(), "http://127.0.0.1:8500");
        let config = env(&[
            ("CONSUL_HTTP_ADDR", "c:1"),
            ("CONSUL_HTTP_SSL", "true"),
            ("CONSUL_HTTP_TOKEN", "s3cret"),
            ("CONSUL_CACERT", ""),
            ("CONSUL_HTTP_SSL_VERIFY", "0"),
        ])
        .unwrap();
        assert_eq!(config.address.to_string(), "https://c:1");
        assert_eq!(config.tls.ca_file, None, "an empty variable is unset");
        assert!(!config.tls.verify);
        assert!(!format!("{config:?}").contains("s3cret"));
        assert!(env(&[("CONSUL_HTTP_SSL", "yes")]).is_err());
        let http = env(&[("CONSUL_HTTP_ADDR", "http://c:1"), ("CONSUL_HTTP_SSL", "1")]).unwrap();
        assert_eq!(http.address.to_string(), "http://c:1", "a scheme that is written wins");
    }

    #[test]
    fn token_file_wins_unless_empty() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let config = Config { token: Some("a".to_owned()), token_file: Some(path.clone()), ..Config::default() };
        assert!(matches!(config.read_token(), Err(Error::File { .. })));
        std::fs::write(&path, " \n").unwrap();
        assert_eq!(config.read_token().unwrap().as_deref(), Some("a"));
        std::fs::write(&path, "b\n").unwrap();
        assert_eq!(config.read_token().unwrap().as_deref(), Some("b"));
        std::fs::write(&path, "b\r\nX-Evil: 1\n").unwrap();
        let error = config.read_token().unwrap_err();
        assert!(!error.to_string().contains("Evil"), "{error}");
    }
}
