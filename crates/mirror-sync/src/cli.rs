//! The command line: what can be typed, and its help.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand};
use toolkit::args::{Verbosity, duration};

use crate::consul::Scope;
pub use crate::rollout::{Canary, Percent};

/// Where the configuration is unless `--config` says otherwise.
pub const DEFAULT_CONFIG: &str = "/etc/stacktira/mirror.yaml";

const AFTER: &str = "\
Examples:
  Make the site's key, once:
      mirror-sync keygen --out /etc/stacktira/site.sec.asc --public /etc/stacktira/site.gpg
  Begin with what this machine installs from:
      mirror-sync convert /etc/apt/sources.list.d/*.sources >>/etc/stacktira/mirror.yaml
  Take in what is new, freeze it, and let the channel follow:
      mirror-sync sync && id=$(mirror-sync snapshot) && mirror-sync promote \"$id\" --channel stable
  Serve it to every node:
      mirror-sync serve --listen 0.0.0.0:8080
  What would a promote change?
      mirror-sync diff \"$old\" \"$new\"
  Let a role try it first, then a quarter of the nodes, then all:
      mirror-sync rollout start \"$id\" --channel stable --canary role=build --waves 25%
  Carry to a mirror without a network what it does not have yet:
      mirror-sync export \"$new\" --since \"$old\" --out /media/usb/delta.tar
      mirror-sync import /media/usb/delta.tar
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
  1   no: unknown snapshot (`diff`: 65), differences, a channel that is too old, a rollout that
      went back, damage, content refused, a signature that does not hold
  2   usage
  65  the configuration, a manifest or a key cannot be used (`mirror-sync check --help` shows a
      configuration)
  69  an upstream, the mirror or Consul is away
  73  cannot write
  75  another writer is running, a rollout is under way, or somebody else moved the channel
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
    /// Say what the configuration means, and whether what it names can be used
    ///
    /// Reads keys, keyrings and catalogs; asks no upstream and changes nothing.
    ///
    /// The file of a build node; only root, url, signing_key, channels and sources are needed:
    ///
    ///   root: /srv/mirror             # the store and what is published
    ///   url: http://build1:8080       # where nodes reach `serve`
    ///   signing_key: /etc/stacktira/site.sec.asc
    ///   channels: [edge, stable]
    ///   keep: 3                       # newest snapshots that gc keeps besides those in use
    ///   grace: 24h                    # gc spares what is younger
    ///   jobs: 4                       # files or repositories at the same time
    ///   max_age: 7d                   # from when on status calls a channel too old
    ///   metrics: /var/lib/node_exporter/mirror.prom
    ///   proxy: http://proxy:3128      # to upstreams; else http_proxy, https_proxy and no_proxy
    ///   limits: {connect: 10s, stall: 30s, total: 10m, retries: 3, index: 256MiB, rate: 10MB}
    ///   consul: {address: "http://127.0.0.1:8500", prefix: stacktira/mirror}
    ///   closed: {deb: [catalogs], rpm: [db1.json], installed: /srv/status}
    ///   sources:
    ///   - name: debian
    ///     type: deb
    ///     url: http://deb.debian.org/debian
    ///     mirrors: ["http://ftp.de.debian.org/debian"]
    ///     keyring: /usr/share/keyrings/debian-archive-keyring.gpg
    ///     fingerprints: [4CB50190207B4758A3F73A796ED0E7B82643E131]
    ///     suites: [bookworm]
    ///     components: [main]
    ///     architectures: [amd64]
    ///     select: {closure: [nginx], packages: [catalogs/web1.json], recommends: false}
    ///   - {name: own, type: rpm, dir: /srv/rpms, architectures: [x86_64]}
    ///   - {name: modules, type: git, manifest: repos.yaml, mirror: /srv/git}
    ///   - name: images
    ///     type: files
    ///     files: [{url: "http://host/a.img", sha256: DIGEST, path: a.img}]
    ///
    /// deb and rpm take a url of a signed repository, or a dir of package files. `select: full`,
    /// which is the default, mirrors all of it; a closure is what the named packages, and those of
    /// compiled catalogs, need. A git source is the repositories of cloner's manifest. Without
    /// consul, pointers are files of the mirror alone. `closed` names catalogs that a snapshot must
    /// be able to install, from what `installed` (a status file of dpkg) has. Relative paths begin at
    /// the file's directory; those of root, signing_key, metrics and node are absolute.
    ///
    /// The file of a node, for apply; a build node's may have it as well:
    ///
    ///   node:
    ///     mirror: http://build1:8080
    ///     channel: stable
    ///     name: web1                  # in Consul; else the host's name
    ///     role: web
    ///     keyring: /etc/stacktira/site.asc
    ///     formats: [deb]              # deb, rpm or both
    ///     sources: [debian]           # else all of these formats
    ///     update: true                # package lists are fetched before the old sources go
    #[command(verbatim_doc_comment)]
    Check,
    /// Print the sources of apt's or dnf's files as `sources:` of a configuration
    ///
    /// Reads sources.list, *.sources and *.repo. What cannot be mirrored, or only without checking signatures, is left out
    /// and named on stderr. Needs no configuration and asks no upstream.
    Convert {
        /// Files
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
        /// Architecture, as Debian names it, of entries that name none [default: this machine's]
        #[arg(long, value_name = "ARCH", value_parser = name)]
        architecture: Option<String>,
        /// Public keys for entries that name none
        #[arg(long, value_name = "FILE")]
        keyring: Option<PathBuf>,
        /// What $releasever is in *.repo files
        #[arg(long, value_name = "VERSION", value_parser = name)]
        releasever: Option<String>,
    },
    /// Bring what the sources have into the store
    ///
    /// Changes nothing that is published and moves no channel. A source that fails keeps its last complete
    /// state; the others go on. At a terminal a line tells how far it is, at what rate, and what remains.
    Sync {
        /// Print what would be brought, and bring nothing: `fetch`, `take` or `update`, source, bytes, path
        ///
        /// Signed indices are read for it, and kept. Selections count on what directories held at the last sync.
        #[arg(long)]
        dry_run: bool,
        /// With --dry-run: print one JSON object per line
        #[arg(long, requires = "dry_run")]
        json: bool,
    },
    /// Freeze the last complete sync; print the id
    ///
    /// The same content has the same id. What selections ask for, and what the catalogs of `closed:` name, must have a
    /// solution with apt or dnf from the snapshot alone; else it is refused with the list of what has none.
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
    /// Write a snapshot, or what it has beyond an earlier one, into one file: for a mirror that no network reaches
    ///
    /// The file is a tar archive of the manifest with the site's signature, of content by its digest, of commits as git
    /// bundles, and of the site's signatures. It appears whole or not at all.
    Export {
        /// Snapshot
        id: String,
        /// Leave out what this snapshot has too; it must be where the file is imported
        #[arg(long, value_name = "ID")]
        since: Option<String>,
        /// The file; - for the standard output
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Take in what `export` wrote, and publish it as the same snapshot; print the id
    ///
    /// Nothing is published before all of it is proven: signatures, digests, lengths, commits. No channel moves. One that
    /// was interrupted goes on where it was when it is run again. Branches and tags of the repositories become those of
    /// the snapshot. A mirror with a `signing_key:` signs with it; one without publishes the signatures that came along.
    Import {
        /// The file; - for the standard input
        file: PathBuf,
        /// Public keys of the site that exported [default: those of `signing_key:`, else `node.keyring`]
        #[arg(long, value_name = "PUB")]
        keyring: Option<PathBuf>,
    },
    /// Point a channel at a snapshot; or a role or a node, also at a channel
    ///
    /// With `consul:` in the configuration the key in Consul moves first, by compare-and-set; when Consul is
    /// away nothing moves. The pointers of roles and nodes live in Consul alone and go before the channel
    /// of a node's own configuration.
    Promote {
        /// Snapshot; for a role or a node also a channel
        id: String,
        /// Whose pointer.
        #[command(flatten)]
        whose: Whose,
        /// Kept with the move in the history
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
    },
    /// Point a channel, a role or a node back at what it pointed at before
    Rollback {
        /// Whose pointer.
        #[command(flatten)]
        whose: Whose,
        /// Kept with the move in the history
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
    },
    /// Remove the pointer of a role or a node, which then follows its channel again
    Unpin {
        /// Whose pointer.
        #[command(flatten)]
        whose: Pinned,
        /// Kept with the move in the history
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
    },
    /// Bring a channel to a snapshot in stages: canaries, waves, all; back by itself when something is not well
    Rollout {
        /// What to do.
        #[command(subcommand)]
        action: Rolling,
    },
    /// Remove snapshots and content that nothing needs
    Gc,
    /// Check every published file, blob, signature and repository; name what is damaged
    Verify {
        /// Bring again what is damaged, from the mirror itself or from its sources; name what cannot be
        #[arg(long)]
        repair: bool,
    },
    /// Say how old channels are, how sources work; 1 when a channel is too old or a source does not work
    Status {
        /// Print a JSON object
        #[arg(long)]
        json: bool,
    },
    /// Serve snapshots, channels and git over HTTP until SIGTERM
    ///
    /// Read-only: GET and HEAD of /snap and /channel, a page for people, /status.json and /metrics, smart git below
    /// /git. Packages need no TLS: clients check
    /// signatures.
    Serve {
        /// Address and port
        #[arg(long, value_name = "ADDR:PORT")]
        listen: SocketAddr,
    },
    /// On a node: point apt or dnf, and `cloner --refs`, at the snapshot that its channel names
    ///
    /// Everything is proven, and the client has fetched its lists, before its file is replaced in one step.
    Apply {
        /// Print the files and change nothing
        #[arg(long)]
        print: bool,

        /// Change nothing; 0 if the snapshot in place is the one to use, 1 if another one is
        #[arg(long, conflicts_with = "print")]
        check: bool,
    },
}

/// Whose pointer a command moves.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Whose {
    /// Of this channel
    #[arg(long, value_name = "NAME")]
    channel: Option<String>,
    /// Of all nodes of this role
    #[arg(long, value_name = "ROLE", value_parser = name)]
    role: Option<String>,
    /// Of this node
    #[arg(long, value_name = "NODE", value_parser = name)]
    node: Option<String>,
}

impl Whose {
    pub(crate) fn scope(&self) -> Scope {
        match (&self.role, &self.node) {
            (Some(role), _) => Scope::Role(role.clone()),
            (_, Some(node)) => Scope::Node(node.clone()),
            _ => Scope::Channel(self.channel.clone().unwrap_or_default()),
        }
    }
}

/// A role or a node.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Pinned {
    /// Of all nodes of this role
    #[arg(long, value_name = "ROLE", value_parser = name)]
    role: Option<String>,
    /// Of this node
    #[arg(long, value_name = "NODE", value_parser = name)]
    node: Option<String>,
}

impl Pinned {
    pub(crate) fn scope(&self) -> Scope {
        match &self.node {
            Some(node) => Scope::Node(node.clone()),
            None => Scope::Role(self.role.clone().unwrap_or_default()),
        }
    }
}

fn name(text: &str) -> Result<String, String> {
    crate::names::check(text).map(|()| text.to_owned()).map_err(|why| format!("the name {why}"))
}

/// What to do with a rollout.
#[derive(Debug, Subcommand)]
pub enum Rolling {
    /// Begin one and watch it to its end
    ///
    /// Who takes part is what the nodes' `apply` reported: those that follow the channel and are alive. A stage is
    /// done when each of its nodes uses the snapshot, its run with it converged, and no check of it fails that did
    /// not fail before. What is known is in Consul: when this process ends, `rollout resume` goes on.
    Start {
        /// Snapshot
        id: String,
        /// Channel that is brought to it
        #[arg(long, value_name = "NAME")]
        channel: String,
        /// Who goes first: role=ROLE or node=NODE [default: one node]
        #[arg(long, value_name = "WHO", value_delimiter = ',')]
        canary: Vec<Canary>,
        /// How many of the other nodes are reached by each wave; a last one reaches all
        #[arg(long, value_name = "PERCENT", value_delimiter = ',', default_value = "25%,100%")]
        waves: Vec<Percent>,
        /// How long a stage may take before the rollout goes back
        #[arg(long, value_name = "TIME", default_value = "15m", value_parser = duration)]
        wait: Duration,
        /// How long everything must be well before the next stage
        #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
        settle: Duration,
        /// Time over which the nodes of a stage are spread
        #[arg(long, value_name = "TIME", default_value = "0s", value_parser = duration)]
        spread: Duration,
        /// Runs that may fail on a node before the rollout goes back
        #[arg(long, value_name = "N", default_value_t = 1)]
        failed_runs: usize,
        /// Kept with the rollout
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
        /// Print the stages and change nothing
        #[arg(long)]
        dry_run: bool,
        /// Begin it and leave the watching to `rollout resume`
        #[arg(long)]
        detach: bool,
    },
    /// Go on with what is under way and watch it to its end
    Resume {
        /// Only of this channel
        #[arg(long, value_name = "NAME")]
        channel: Option<String>,
    },
    /// Let every node follow the channel again
    Abort {
        /// Channel
        #[arg(long, value_name = "NAME")]
        channel: String,
        /// Kept with the rollout
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
    },
    /// Say how far rollouts are and what they wait for
    Status {
        /// Only of this channel
        #[arg(long, value_name = "NAME")]
        channel: Option<String>,
        /// Print one JSON object per line
        #[arg(long)]
        json: bool,
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
