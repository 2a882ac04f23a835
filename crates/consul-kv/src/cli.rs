//! The command line: types, help and examples; no I/O.

use std::ffi::OsString;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand};
use consul_client::args::ConsulArgs;
use toolkit::args::Verbosity;

const AFTER: &str = "\
Examples:
  consul-kv put hiera/common/ntp_server 192.168.242.21
  consul-kv put hiera/common/motd < motd.txt
  consul-kv get hiera/common/ntp_server
  consul-kv put --cas 0 cluster/founder \"$(uname -n)\" || echo 'somebody was faster'
  consul-kv wait --timeout 10m --not pending cluster/database
  consul-kv list --json hiera/

Environment:
  CONSUL_HTTP_ADDR        where Consul's agent listens (default 127.0.0.1:8500)
  CONSUL_HTTP_TOKEN_FILE  file with the token to send
  CONSUL_HTTP_TOKEN       the token itself
  CONSUL_HTTP_SSL         use https for an address without a scheme
  CONSUL_HTTP_SSL_VERIFY  false: do not check the agent's certificate
  CONSUL_CACERT, CONSUL_CAPATH, CONSUL_CLIENT_CERT, CONSUL_CLIENT_KEY, CONSUL_TLS_SERVER_NAME
                          TLS settings, as for Consul's own programs

Exit status:
  0   done, or found
  1   the key is absent, no key matches, the index does not match, or the wait was in vain
  2   usage
  65  a value or key that Consul does not take, or a setting that makes no sense
  69  Consul is unreachable or has no leader
  73  the output cannot be written
  77  Consul denies it";

/// Read, write and wait for keys of Consul
///
/// Values are bytes: they are stored and printed exactly, without a newline being added or removed. A key
/// counts as absent only when a cluster with a leader says so; whatever else keeps the answer away is an error.
#[derive(Debug, Parser)]
#[command(name = "consul-kv", version, after_long_help = AFTER)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
    /// How much to say.
    #[command(flatten)]
    pub verbosity: Verbosity,
    /// How to reach Consul.
    #[command(flatten)]
    pub consul: ConsulArgs,
}

/// Returns the command, for man pages and completions.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Print the value of a key
    Get {
        /// The key
        key: String,
        /// Print an object with value, indexes and flags instead
        #[arg(long)]
        json: bool,
        /// Let the leader make sure that it still leads, so that the answer is certainly not old
        #[arg(long)]
        consistent: bool,
    },
    /// Store a value
    Put {
        /// Store only if the key's modify index is this; 0 stores only a new key
        #[arg(long, value_name = "INDEX")]
        cas: Option<u64>,
        /// The key
        key: String,
        /// The value; - or none reads it from stdin, which suits secrets
        #[arg(allow_hyphen_values = true)]
        value: Option<OsString>,
    },
    /// Remove a key
    ///
    /// Removing what is not there is no error.
    Delete {
        /// Remove only if the key's modify index is this
        #[arg(long, value_name = "INDEX", value_parser = clap::value_parser!(u64).range(1..))]
        cas: Option<u64>,
        /// The key
        key: String,
    },
    /// Print the keys that start with a prefix, sorted, one a line
    List {
        /// Print an object a line with value, indexes and flags instead
        #[arg(long)]
        json: bool,
        /// Let the leader make sure that it still leads, so that the answer is certainly not old
        #[arg(long)]
        consistent: bool,
        /// The prefix; '' means all keys
        prefix: String,
    },
    /// Wait until a key is there, and print its value
    ///
    /// A Consul that is away meanwhile is waited for too.
    Wait {
        /// Give up after this long
        #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = toolkit::args::duration)]
        timeout: Duration,
        /// Keep waiting while the value is this (can be repeated)
        #[arg(long, value_name = "VALUE", allow_hyphen_values = true)]
        not: Vec<OsString>,
        /// Print an object with value, indexes and flags instead
        #[arg(long)]
        json: bool,
        /// The key
        key: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definition_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn values_may_look_like_options() {
        let cli = Cli::try_parse_from(["consul-kv", "put", "--cas", "3", "k", "-5"]).expect("it parses");
        assert!(matches!(cli.action, Action::Put { cas: Some(3), value: Some(v), .. } if v == "-5"));
        let cli = Cli::try_parse_from(["consul-kv", "put", "k", "v", "--cas", "3"]).expect("it parses");
        assert!(matches!(cli.action, Action::Put { cas: Some(3), value: Some(v), .. } if v == "v"));
        let cli = Cli::try_parse_from(["consul-kv", "wait", "k", "--not", "-1", "--not", ""]).expect("it parses");
        assert!(matches!(cli.action, Action::Wait { not, .. } if not == ["-1", ""]));
    }
}
