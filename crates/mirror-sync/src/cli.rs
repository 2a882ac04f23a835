//! The command line: what can be typed, and its help.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{CommandFactory, Parser, Subcommand};
use toolkit::args::Verbosity;

/// Where the configuration is unless `--config` says otherwise.
pub const DEFAULT_CONFIG: &str = "/etc/stacktira/mirror.yaml";

const AFTER: &str = "\
Examples:
  Make the site's key, once:
      mirror-sync keygen --out /etc/stacktira/site.sec.asc --public /etc/stacktira/site.gpg
  Take in what is new, freeze it, and let the channel follow:
      mirror-sync sync && id=$(mirror-sync snapshot) && mirror-sync promote \"$id\" --channel stable
  Serve it to every node:
      mirror-sync serve --listen 0.0.0.0:8080
  What would a promote change?
      mirror-sync diff \"$old\" \"$new\"
  On a node, follow the channel:
      mirror-sync apply

Environment:
  CONSUL_HTTP_ADDR, CONSUL_HTTP_TOKEN_FILE, ...
      Consul's own settings, used when the file has `consul:`; the address wins over the file's.
  STACKTIRA_ROOT
      Prefix of what `apply` writes and of the default configuration file.
  APT_CONFIG
      Passed on to the apt-get that `apply` runs.

Exit status:
  0   done; `diff`: no difference
  1   no: unknown snapshot, differences, damage, content refused, a signature that does not hold
  2   usage
  65  the configuration, a manifest or a key cannot be used
  69  an upstream, the mirror or Consul is away
  73  cannot write
  75  another writer is running, or somebody else moved the channel
  77  denied: Consul's rights, a signing key that others may read, an unsafe directory";

/// Mirror packages and git repositories as signed, immutable snapshots
#[derive(Debug, Parser)]
#[command(name = "mirror-sync", version, after_long_help = AFTER, max_term_width = 100)]
pub struct Cli {
    /// Configuration file
    #[arg(long, global = true, value_name = "FILE", help = format!("Configuration file [default: {DEFAULT_CONFIG}]"))]
    pub config: Option<PathBuf>,
    /// How much is said.
    #[command(flatten)]
    pub verbosity: Verbosity,
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Make the site's OpenPGP key pair (Ed25519, no passphrase)
    ///
    /// A secret key that is there is kept; then only the public file is written again.
    Keygen {
        /// Secret key, armoured, mode 0600
        #[arg(long, value_name = "SEC")]
        out: PathBuf,
        /// Public key; armoured if its name ends with .asc, else binary as apt wants it
        #[arg(long, value_name = "PUB")]
        public: PathBuf,
        /// User id of a new key
        #[arg(long, value_name = "TEXT", default_value = "Stacktira mirror")]
        user_id: String,
    },
    /// Bring what the sources have into the store
    ///
    /// Changes nothing that is published and moves no channel. A source that fails keeps its last complete
    /// state; the others go on.
    Sync,
    /// Freeze the last complete sync; print the id
    ///
    /// The same content has the same id.
    Snapshot,
    /// List the snapshots, newest first: id, time, channels
    List {
        /// Print one JSON object per line
        #[arg(long)]
        json: bool,
    },
    /// Show what a snapshot holds
    Show {
        /// Snapshot
        id: String,
        /// Print one JSON object per line
        #[arg(long)]
        json: bool,
    },
    /// Compare two snapshots: source, name, old and new version
    Diff {
        /// Older snapshot
        #[arg(value_name = "A")]
        old: String,
        /// Newer snapshot
        #[arg(value_name = "B")]
        new: String,
        /// Print one JSON object per line
        #[arg(long)]
        json: bool,
    },
    /// Point a channel at a snapshot
    ///
    /// With `consul:` in the configuration the key in Consul moves first, by compare-and-set; when Consul is
    /// away nothing moves.
    Promote {
        /// Snapshot
        id: String,
        /// Channel
        #[arg(long, value_name = "NAME")]
        channel: String,
    },
    /// Point a channel back at what it pointed at before
    Rollback {
        /// Channel
        #[arg(long, value_name = "NAME")]
        channel: String,
    },
    /// Remove snapshots and content that nothing needs
    Gc,
    /// Check every published file, blob, signature and repository; name what is damaged
    Verify,
    /// Serve snapshots, channels and git over HTTP until SIGTERM
    ///
    /// Read-only: GET and HEAD of /snap and /channel, smart git below /git. Packages need no TLS: clients check
    /// signatures.
    Serve {
        /// Address and port
        #[arg(long, value_name = "ADDR:PORT")]
        listen: SocketAddr,
    },
    /// On a node: point apt at the snapshot that its channel names
    Apply {
        /// Print the sources file and change nothing
        #[arg(long)]
        print: bool,
    },
}

/// Returns the command, for man pages and completions.
pub fn command() -> clap::Command {
    Cli::command()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_consistent() {
        super::command().debug_assert();
    }
}
