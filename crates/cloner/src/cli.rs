//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};
use toolkit::args::{self, Verbosity};

use crate::credential::TokenFile;

const AFTER: &str = "\
Examples:
  cloner repos.yaml
      Bring all repositories of the manifest below the current directory
  cloner --root /etc/puppetlabs/code --mode export repos.yaml
      Plain trees without .git, each replaced at once
  cloner --mirror http://build1:8080/git repos.yaml
      Take everything from a mirror; the manifest stays as it is
  cloner --cache /var/cache/cloner --offline repos.yaml
      Use what an earlier run with this --cache fetched, and no network
  cloner --lock repos.lock repos.yaml
      Note the commits; with --locked another machine gets exactly these
  cloner --plan --diff repos.yaml --ref=stable/2026.1 --openstack::nova::ref master
      Show what would change and by which commits, with values of the manifest overridden
  cloner --on-change /usr/local/bin/kick --metrics /var/lib/node_exporter/cloner.prom repos.yaml
      Have something done when modules changed, and let Prometheus see what failed
  cloner --root /etc/puppetlabs/code --generations 5 --mode export repos.yaml
      All modules change at once below current/; with --rollback instead of the manifest, the
      set before is back
  cloner --convert manifest Puppetfile > repos.yaml
      Take over what r10k brought; --convert puppetfile or repos goes the other way
  cloner --json repos.yaml | jq -r 'select(.state == \"failed\") | .name'
      Names of the repositories that failed

Environment:
  http_proxy, https_proxy, all_proxy, no_proxy
      Proxies for HTTP, and hosts that are reached without one
  NETRC
      File with credentials per host, instead of ~/.netrc; git's credential helpers are asked
      where it has none
  SSL_CERT_FILE, GIT_SSL_CAINFO
      File of PEM certificates to trust instead of the built-in ones
  SSH_AUTH_SOCK, HOME
      What ssh needs to log in, for ssh sources
  NO_COLOR
      No colours in messages about the command line

Exit status:
  0   All repositories hold the commits that the manifest asks for
  1   Some failed (named, with the cause) or, with --status and --verify, some differ
  2   The command line cannot be understood, or an override names nothing in the manifest
  65  The manifest or the lock file cannot be read or is wrong
  73  The root or the lock file cannot be created or written
  75  Another run holds the root and --no-wait was given";

/// Bring the git repositories of a manifest to this machine, in parallel and exactly
///
/// MANIFEST is a YAML or JSON tree of mappings. Scalars are inherited down the tree; a mapping
/// without sub-mappings for which `source` is set is a repository: `source`, `ref` (branch, tag or
/// full commit id; HEAD if not set) and `dest` (below the root). Submodules are placed at the commits that
/// are recorded for them; `submodules: false` leaves them empty. %{var} is replaced by the value of a scalar,
/// %{name} by the repository's own key. `extends: FILE` at the top lays the manifest on
/// another one. A text that nothing uses is warned about. `signed: tag` or `signed: commit` places only
/// what a key in the file `signers` has signed (lines of ssh's allowed signers, OpenPGP blocks, or both;
/// the path is relative to the manifest).
///
/// What follows MANIFEST overrides its values: --KEY VALUE, --KEY=VALUE, --GROUP::REPO::KEY VALUE.
///
/// Afterwards each dest holds exactly the resolved commit, or is untouched and named with a cause.
/// Readers never see a missing or a mixed tree.
#[derive(Debug, Parser)]
#[command(
    name = "cloner",
    version,
    disable_help_subcommand = true,
    override_usage = "cloner [OPTIONS] MANIFEST [--KEY VALUE | --KEY=VALUE | --GROUP::REPO::KEY VALUE]...",
    after_long_help = AFTER
)]
pub struct Cli {
    /// Directory below which every dest lies [default: the current directory]
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,

    /// What is placed
    #[arg(long, value_enum, default_value_t = Mode::Clone)]
    pub mode: Mode,

    /// Repositories that are worked on at the same time
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub jobs: u16,

    /// Repositories of one server that are worked on at the same time
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub per_host: u16,

    /// Network time that one repository may take, all attempts together
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = args::duration)]
    pub timeout: Duration,

    /// Further attempts after a network failure that may pass
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(0..=100))]
    pub retries: u16,

    /// Take repositories from URL/<host>/<path>.git; a directory is a mirror too (can be repeated: tried in order)
    #[arg(long, value_name = "URL")]
    pub mirror: Vec<String>,

    /// Refs are what FILE, a refs index, says, whatever they are at mirrors and sources by now
    ///
    /// Only the objects are fetched. What the index does not know is an error. `mirror-sync apply` writes one for the
    /// snapshot that this machine follows.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["status", "verify", "rollback", "convert"])]
    pub refs: Option<PathBuf>,

    /// Log in at HOST, as USER if one is named, with the token in FILE (can be repeated)
    ///
    /// FILE holds the token and nothing else, and nobody else may read it. HOST may have a port.
    #[arg(long, value_name = "[USER@]HOST=FILE", value_parser = TokenFile::parse)]
    pub token_file: Vec<TokenFile>,

    /// Try the source itself where the mirrors fail
    #[arg(long, requires = "mirror", conflicts_with = "offline")]
    pub fallback: bool,

    /// Keep what was fetched in DIR, for other roots and for --offline; several runs may share it
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,

    /// Use the mirrors and the cache only; refs mean what they meant when they were last listed
    #[arg(long)]
    pub offline: bool,

    /// Write the commits that were resolved to FILE, for --locked
    #[arg(long, value_name = "FILE")]
    pub lock: Option<PathBuf>,

    /// Place exactly the commits of the lock file and resolve nothing
    #[arg(long, requires = "lock", conflicts_with = "update")]
    pub locked: bool,

    /// Resolve this repository anew and keep the lock file's commits for all others (can be repeated)
    #[arg(long, value_name = "NAME", requires = "lock")]
    pub update: Vec<String>,

    /// Move what is in the way to .cloner/saved below the root, instead of refusing
    #[arg(long)]
    pub force: bool,

    /// Remove what this manifest had placed and no longer lists, if all else succeeded
    #[arg(long)]
    pub purge: bool,

    /// When anything was placed or removed, run this program once, with the changes as JSON lines on its stdin
    ///
    /// The root stays locked meanwhile, for --timeout at most. What it could not be told, because it failed or
    /// cloner was killed, the next run tells again.
    #[arg(long, value_name = "PROGRAM", conflicts_with_all = ["plan", "status", "verify"])]
    pub on_change: Option<PathBuf>,

    /// Change the whole set in one step and keep N sets; readers find the places below ROOT/current
    ///
    /// ROOT/current is a link to the newest whole set. If a repository fails, the set stays as it is. What is the
    /// same in two sets is the same file on the disk.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(2..=1000))]
    pub generations: Option<u16>,

    /// Make the set before the current one current again; takes no manifest
    #[arg(long, conflicts_with_all = ["generations", "plan", "status", "verify", "purge", "force", "lock"])]
    pub rollback: bool,

    /// Print the set in another form and bring nothing; with --lock and --locked at the locked commits
    ///
    /// A manifest called Puppetfile, or whose name ends with .repos, is read as r10k and vcstool mean it: to convert
    /// from these, print a manifest. Credentials in sources are left out.
    #[arg(long, value_enum, value_name = "FORM", conflicts_with_all = ["plan", "status", "verify", "rollback", "on_change", "purge", "update"])]
    pub convert: Option<Format>,

    /// Write figures of the run to FILE, for the textfile collector of Prometheus
    #[arg(long, value_name = "FILE")]
    pub metrics: Option<PathBuf>,

    /// Say what would be done and change nothing
    #[arg(long, conflicts_with_all = ["status", "verify", "force", "no_wait"])]
    pub plan: bool,

    /// With --plan: list the commits that updates would bring
    #[arg(long, requires = "plan")]
    pub diff: bool,

    /// Say what is placed and whether it was changed; no network
    #[arg(long, conflicts_with_all = ["verify", "force", "no_wait", "lock", "purge"])]
    pub status: bool,

    /// As --status, but read every file
    #[arg(long, conflicts_with_all = ["force", "no_wait", "lock", "purge"])]
    pub verify: bool,

    /// Exit with 75 when another run holds the root, instead of waiting
    #[arg(long)]
    pub no_wait: bool,

    /// Print one JSON object per repository and a summary
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub verbosity: Verbosity,

    /// The manifest and the overrides after it.
    #[command(subcommand)]
    pub manifest: Option<Manifest>,
}

/// The manifest's path and everything behind it.
///
/// Clap's external subcommand is the one form in which options behind a word belong to that word.
#[derive(Debug, Subcommand)]
pub enum Manifest {
    /// Path and overrides.
    #[command(external_subcommand)]
    Given(Vec<OsString>),
}

/// A form of the set of repositories.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// cloner's own
    Manifest,
    /// r10k's and g10k's
    Puppetfile,
    /// vcstool's
    Repos,
}

/// What is placed at a dest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// A work tree with its .git and full history
    Clone,
    /// The files alone
    Export,
}

/// Returns the command for man pages and completions.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// Whether `name` is a long option of this tool.
pub(crate) fn is_option(name: &str) -> bool {
    Cli::command().get_arguments().any(|argument| argument.get_long() == Some(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn everything_behind_the_manifest_belongs_to_it() {
        let cli =
            Cli::try_parse_from(["cloner", "--jobs", "2", "m.yaml", "--json", "x", "-q", "--a::b=c"]).expect("valid");
        let Some(Manifest::Given(words)) = cli.manifest else { panic!("a manifest was given") };
        assert_eq!(words, ["m.yaml", "--json", "x", "-q", "--a::b=c"]);
        assert!(!cli.json && !cli.verbosity.quiet);
    }

    #[test]
    fn unknown_options_and_wrong_values_are_usage_errors() {
        for line in [vec!["cloner", "--bogus", "m.yaml"], vec!["cloner", "--jobs", "0", "m.yaml"]] {
            assert!(Cli::try_parse_from(line).is_err());
        }
    }
}
