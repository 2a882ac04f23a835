//! The options by which a command line says how to reach Consul (feature `args`): the same words in every tool.

use std::path::PathBuf;

use crate::Overrides;

/// How to reach Consul; each option wins over the environment variable that Consul itself knows.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Consul")]
pub struct ConsulArgs {
    /// Where Consul's agent listens [env: CONSUL_HTTP_ADDR]
    #[arg(long, global = true, value_name = "ADDRESS")]
    pub http_addr: Option<String>,
    /// File with the token to send [env: CONSUL_HTTP_TOKEN_FILE]
    #[arg(long, global = true, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Certificates of the authorities to trust [env: CONSUL_CACERT]
    #[arg(long, global = true, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Certificate to show [env: CONSUL_CLIENT_CERT]
    #[arg(long, global = true, value_name = "FILE")]
    pub client_cert: Option<PathBuf>,
    /// Key of that certificate [env: CONSUL_CLIENT_KEY]
    #[arg(long, global = true, value_name = "FILE")]
    pub client_key: Option<PathBuf>,
    /// Datacenter to ask, instead of the agent's own
    #[arg(long, global = true, value_name = "NAME")]
    pub datacenter: Option<String>,
}

impl ConsulArgs {
    /// Returns the settings that win over the environment.
    #[must_use]
    pub fn overrides(&self) -> Overrides {
        Overrides {
            address: self.http_addr.clone(),
            token_file: self.token_file.clone(),
            ca_file: self.ca_file.clone(),
            client_cert: self.client_cert.clone(),
            client_key: self.client_key.clone(),
            datacenter: self.datacenter.clone(),
            ..Overrides::default()
        }
    }
}
