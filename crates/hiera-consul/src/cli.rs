//! The command line: data only.

use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use consul_client::args::ConsulArgs;
use toolkit::args::Verbosity;

use crate::consul::Format;
use crate::types::Expected;

const MORE: &str = "\
Examples:
  hiera-consul lookup ntp::servers
  hiera-consul lookup --render-as json --merge deep haproxy::listeners
  hiera-consul lookup --hiera_config ./hiera.yaml --facts facts.json --node web1 motd
  hiera-consul lookup --explain leader__db
  hiera-consul check --strict --facts facts.json
  hiera-consul import --dry-run --diff --prefix hiera/ data
  hiera-consul export --prefix hiera/common/ common.yaml

Environment:
  CONSUL_HTTP_ADDR         where Consul's agent listens
  CONSUL_HTTP_TOKEN_FILE   file with the token to send
  CONSUL_HTTP_TOKEN        the token itself
  CONSUL_CACERT and the others of Consul's own commands: TLS, namespace, partition
  STACKTIRA_ROOT           put before every default path

Options of a Consul level in hiera.yaml (lookup_key: stacktira::consul):
  prefix          the keys below it are the level's
  format          auto (JSON where it is JSON, else text), raw, json or yaml
  folders         true: folders are hashes, db/host is host in the hash db
  document        the name of one key below the prefix that holds all others, as a YAML or JSON
                  hash
  consistency     default, consistent or stale
  services        true: keys of the catalog, such as web_Address and service_hash__TAG__SERVICE
  stale_if_error  such as 2h: while Consul is away, the level is what it was when it was last
                  read, if that is no longer ago; kept in /var/lib/stacktira/hiera-consul, or in
                  XDG_STATE_HOME for other users than root
  address, token_file, ca_file, client_cert, client_key, server_name, datacenter

Exit status:
  0   found
  1   no level has any of the keys; check --strict: there are warnings; import, export --dry-run:
      something differs
  2   usage
  65  broken configuration, data, merge or type
  69  Consul cannot be reached or does not answer as promised
  73  the answer or a file cannot be written
  75  the system has no resources left, or a key changed while it was imported; try again
  77  Consul or the system denies reading or writing
";

/// Answer Hiera lookups from Consul, YAML and JSON
///
/// Reads hiera.yaml as Puppet does, and answers levels of the function stacktira::consul from
/// Consul's key-value store and catalog. A level that cannot be read is an error, never a miss.
#[derive(Debug, Parser)]
#[command(name = "hiera-consul", version, after_long_help = MORE)]
pub struct Cli {
    /// How much is said.
    #[command(flatten)]
    pub verbosity: Verbosity,

    /// How Consul is reached.
    #[command(flatten)]
    pub consul: ConsulArgs,

    /// What to do.
    #[command(subcommand)]
    pub action: Action,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Look up the first of the keys that is found
    ///
    /// Options have the names and meanings of `puppet lookup`. Without them the settings come from
    /// /etc/stacktira/hiera-consul.yaml, and without that the environment is /var/lib/stacktira/puppet
    /// and facts are /var/lib/stacktira/facts.json, where they exist. Keys of the settings file are hiera_config,
    /// environmentpath, environment, modulepath, basemodulepath, facts, node, and consul with address, token_file,
    /// ca_file, client_cert, client_key, server_name and datacenter.
    Lookup(Box<Lookup>),

    /// Find what is wrong, or hardly meant, in configuration and data
    ///
    /// Validates every layer's hiera.yaml, reads every level of this node, looks up every key of them, and parses
    /// every data file below the data directories, also those of other nodes. Finds what Puppet reports only with
    /// --explain or not at all: scalars that mean something else to other readers of YAML (yes, 0755, 12:30),
    /// duplicate keys, tokens that become empty, misspelt service_hash keys, eyaml values. One finding a line:
    /// PLACE:LINE: error or warning: what.
    Check(Box<Check>),

    /// Write data files to Consul's key-value store
    ///
    /// PATH is a data directory or one file. The values of common.yaml come below PREFIXcommon/, those of node/a.yaml
    /// below PREFIXnode/a/; those of a single file directly below PREFIX. Each is written such that a level with the
    /// same format, folders and document reads it exactly as Hiera reads the file; what has no such form is
    /// refused before anything is written. Consul takes 64 writes or 512 KiB in one transaction: a larger import is
    /// several of them, which is said, and is not one state for who reads meanwhile. A key that somebody else changes
    /// meanwhile ends the import (75) and is not overwritten.
    Import(Transfer),

    /// Write Consul's key-value store to data files
    ///
    /// The inverse of import. Files whose values do not change are left alone, comments and all; others are
    /// written anew, with their keys sorted. New files are YAML and have mode 0640.
    Export(Transfer),

    /// Answer requests of Puppet's functions on stdin, one JSON object a line, until it ends
    ///
    /// Every request has an "id" and an "op": snapshot, lookup, services, leader, version3 or wait. The answer
    /// carries the id, and the result or {"error": {"code", "message"}}.
    Serve,
}

/// Options of `lookup`.
#[derive(Debug, Args)]
pub struct Lookup {
    /// Keys, with dots for what is inside of a value
    #[arg(required = true, value_name = "KEY")]
    pub keys: Vec<String>,

    /// Where configuration and data are, and for which node.
    #[command(flatten)]
    pub place: Place,

    /// How values of several levels are joined, instead of what lookup_options say
    #[arg(long, value_enum)]
    pub merge: Option<Merge>,

    /// With deep: list items with this prefix remove their counterparts
    #[arg(long, value_name = "PREFIX", allow_hyphen_values = true, value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub knock_out_prefix: Option<String>,

    /// With deep: sort lists that were merged
    #[arg(long)]
    pub sort_merged_arrays: bool,

    /// With deep: merge hashes inside of lists by position
    #[arg(long)]
    pub merge_hash_arrays: bool,

    /// The answer when no level has any of the keys
    #[arg(long, value_name = "VALUE", allow_hyphen_values = true)]
    pub default: Option<String>,

    /// The Puppet type that the answer must have
    #[arg(long = "type", value_name = "TYPE", value_parser = Expected::parse)]
    pub value_type: Option<Expected>,

    /// Form of the answer
    #[arg(long, value_enum, default_value = "yaml")]
    pub render_as: Render,

    /// Print how the answer is found instead of the answer
    #[arg(long)]
    pub explain: bool,
}

/// Options of `check`.
#[derive(Debug, Args)]
pub struct Check {
    /// Where configuration and data are, and for which node.
    #[command(flatten)]
    pub place: Place,

    /// Exit with 1 when there are warnings
    #[arg(long)]
    pub strict: bool,

    /// Print one JSON object for each finding
    #[arg(long)]
    pub json: bool,
}

/// Options of `import` and `export`.
#[derive(Debug, Args)]
pub struct Transfer {
    /// A directory of data files, or one file
    #[arg(value_name = "PATH")]
    pub path: PathBuf,

    /// The folder of Consul's keys
    #[arg(long, value_name = "PREFIX", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub prefix: String,

    /// Format of the stored values, as the level's: auto, raw, json or yaml
    #[arg(long, value_name = "FORMAT", default_value = "auto", value_parser = format)]
    pub format: Format,

    /// Hashes are folders, for a level with folders: true; one file only
    #[arg(long, conflicts_with = "document")]
    pub folders: bool,

    /// Each file is one value, byte for byte, under this name, for a level with document: NAME
    #[arg(long, value_name = "NAME")]
    pub document: Option<String>,

    /// Also remove what the other side does not have
    #[arg(long)]
    pub delete: bool,

    /// Print every value that differs: + added, ~ changed, - removed
    #[arg(long)]
    pub diff: bool,

    /// Change nothing; exit with 1 when something differs
    #[arg(long)]
    pub dry_run: bool,
}

/// Where configuration and data are, and for which node.
#[derive(Debug, Args)]
pub struct Place {
    /// The global layer's hiera.yaml
    #[arg(long = "hiera_config", value_name = "FILE")]
    pub hiera_config: Option<PathBuf>,

    /// Directories of environments, separated by colons
    #[arg(long, value_name = "PATH")]
    pub environmentpath: Option<String>,

    /// The environment [default: production, where an environmentpath is given]
    #[arg(long, value_name = "NAME")]
    pub environment: Option<String>,

    /// Directories of modules, instead of the environment's own
    #[arg(long, value_name = "PATH")]
    pub modulepath: Option<String>,

    /// Directories of modules after the environment's own
    #[arg(long, value_name = "PATH")]
    pub basemodulepath: Option<String>,

    /// The node to answer for [default: the facts' clientcert, else this host]
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,

    /// The node's facts, a JSON or YAML file
    #[arg(long, value_name = "FILE")]
    pub facts: Option<PathBuf>,

    /// A further variable (can be repeated)
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub scope: Vec<(String, String)>,
}

/// Names of merge strategies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Merge {
    /// The first found value
    First,
    /// One flat list without duplicates
    Unique,
    /// Hashes joined at their top level
    Hash,
    /// Hashes and lists joined at every level
    Deep,
}

/// Forms of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Render {
    /// Text
    S,
    /// One line of JSON
    Json,
    /// A YAML document
    Yaml,
}

fn format(text: &str) -> Result<Format, String> {
    Format::parse(text).ok_or_else(|| "expected auto, raw, json or yaml".to_owned())
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}

/// Returns the command for man pages and completions.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definition_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn types_and_prefixes_are_checked_while_parsing() {
        let parse = |args: &[&str]| Cli::try_parse_from([&["hiera-consul", "lookup"], args].concat());
        assert!(parse(&["--type", "Array[String]", "k"]).is_ok());
        assert!(parse(&["--type", "Foo", "k"]).is_err());
        assert!(parse(&["--merge", "deep", "--knock-out-prefix", "--", "k"]).is_ok());
        assert!(parse(&["--knock-out-prefix", "", "k"]).is_err());
        assert!(parse(&["--scope", "novalue", "k"]).is_err());
        assert!(parse(&[]).is_err());
    }
}
