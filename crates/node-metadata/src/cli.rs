//! What can be typed.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand};
use toolkit::args::{Verbosity, duration};

const AFTER_HELP: &str = "\
Examples:
  node-metadata get role
  node-metadata get meta.mirror_address --default ''
  node-metadata get public_keys.admin
  node-metadata dump --refresh

Sources:
  In this order, the first one that is there: cloud-init's /run/cloud-init/instance-data.json, the
  config drive, the metadata service, /etc/stacktira/metadata.json. Answers are not merged. The
  answer is kept in /run/stacktira/meta_data.json until --refresh, a restart, or a newer file among
  the sources.

Environment:
  STACKTIRA_METADATA_URL  address of the metadata service (default http://169.254.169.254); the path
                          /openstack/latest/meta_data.json is added unless it ends in .json
  STACKTIRA_ROOT          directory below which all files are looked for, for tests and images

Exit status:
  0   printed
  1   there is no such key and no --default
  2   the command line cannot be understood
  65  a source is there and does not hold a JSON object
  69  no source is there, or the metadata service does not answer
  77  a source may not be read";

/// Read the metadata that a cloud gave this machine
///
/// Metadata is what OpenStack calls meta_data.json: an object whose `meta` mapping holds what the owner of the machine
/// wrote. It is taken from the first source that is there and kept until the machine restarts.
#[derive(Debug, Parser)]
#[command(name = "node-metadata", version, after_long_help = AFTER_HELP)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
    /// How much to say.
    #[command(flatten)]
    pub verbosity: Verbosity,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Print one value as plain text
    ///
    /// Text and numbers are printed as they are, lists and mappings as JSON, each with a line end. KEY is
    /// looked for in the `meta` mapping first, then at the top; dots lead into mappings and lists. A value of
    /// null counts as absent.
    Get {
        /// Key, such as role, meta.role or public_keys.admin
        #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
        key: String,
        /// Value to print when there is no such key
        #[arg(long, value_name = "VALUE")]
        default: Option<String>,
        /// Where to look.
        #[command(flatten)]
        from: From,
    },
    /// Print everything as one JSON object
    Dump {
        /// Where to look.
        #[command(flatten)]
        from: From,
    },
}

/// Where the metadata comes from.
#[derive(Debug, Args)]
pub struct From {
    /// Directory where the config drive is mounted (default: /mnt/config, below STACKTIRA_ROOT)
    #[arg(long, value_name = "DIR")]
    pub config_drive: Option<PathBuf>,
    /// Ask the sources again instead of using what was kept
    #[arg(long)]
    pub refresh: bool,
    /// Give up on the metadata service after this long
    ///
    /// One attempt takes 5 s at most; attempts are repeated with growing pauses. When the local file could
    /// answer instead, there is only one attempt.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub timeout: Duration,
}

/// Returns the command line's description, for man pages and completions.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_description_is_consistent() {
        super::command().debug_assert();
    }
}
