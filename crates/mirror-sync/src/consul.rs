//! Channel pointers in Consul: `PREFIX/channel/NAME` holds a snapshot's id alone.

use consul_client::{Client, Config as ClientConfig, Overrides, Query};

use crate::config;
use crate::digest::Digest;
use crate::error::{Error, Result};

/// Pointers of one mirror.
pub(crate) struct Pointers {
    client: Client,
    prefix: String,
}

/// A pointer and the index that a write must name.
#[derive(Debug)]
pub(crate) struct Pointer {
    /// What it holds; `None` if the key is not there.
    pub(crate) id: Option<Digest>,
    index: u64,
}

impl Pointers {
    /// Prepares access as the configuration and Consul's environment variables say.
    ///
    /// # Errors
    /// [`Error::Consul`] for settings that cannot be used.
    pub(crate) fn new(consul: &config::Consul) -> Result<Self> {
        let failed = |error| failed("settings", &error);
        let mut settings = ClientConfig::from_env(|name| std::env::var_os(name)).map_err(failed)?;
        // The environment wins over the file.
        if std::env::var_os("CONSUL_HTTP_ADDR").is_none_or(|value| value.is_empty()) {
            let overrides = Overrides { address: consul.address.clone(), ..Overrides::default() };
            settings = settings.with(&overrides).map_err(failed)?;
        }
        let client = Client::new(&settings).map_err(failed)?;
        Ok(Self { client, prefix: consul.prefix.clone() })
    }

    fn key(&self, channel: &str) -> String {
        format!("{}/channel/{channel}", self.prefix)
    }

    /// Reads a channel's pointer, consistently.
    ///
    /// # Errors
    /// [`Error::Consul`]; also when the value is no id.
    pub(crate) fn read(&self, channel: &str) -> Result<Pointer> {
        let key = self.key(channel);
        let answer = self.client.kv().get(&key, &Query::consistent()).map_err(|error| failed(&key, &error))?;
        let Some(pair) = answer.value else { return Ok(Pointer { id: None, index: 0 }) };
        let text = String::from_utf8_lossy(&pair.value);
        let id = text.trim().parse().map_err(|message| Error::Consul {
            what: key,
            message: format!("does not hold a snapshot's id: {message}"),
            code: toolkit::exit::BAD_INPUT,
        })?;
        Ok(Pointer { id: Some(id), index: pair.modify_index })
    }

    /// Moves a channel's pointer if nobody moved it since `seen`; tells whether it did.
    ///
    /// # Errors
    /// [`Error::Consul`].
    pub(crate) fn replace(&self, channel: &str, seen: &Pointer, id: &Digest) -> Result<bool> {
        let key = self.key(channel);
        self.client.kv().cas(&key, id.as_str().as_bytes(), seen.index).map_err(|error| failed(&key, &error))
    }
}

fn failed(what: &str, error: &consul_client::Error) -> Error {
    let message = toolkit::exit::chain(error);
    Error::Consul { what: what.to_owned(), message, code: error.exit_code() }
}
