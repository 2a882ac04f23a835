//! What can be typed.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use toolkit::args::Verbosity;

const AFTER_HELP: &str = "\
Examples:
  cargo run -p xtask -- man
  cargo run -p xtask -- completions target/completions

Exit status:
  0   the files are written
  2   the command line cannot be understood
  73  a file cannot be written";

/// Development tasks: man pages and completions
#[derive(Debug, Parser)]
#[command(name = "xtask", version, after_long_help = AFTER_HELP)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub task: Task,
    /// How much to say.
    #[command(flatten)]
    pub verbosity: Verbosity,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Task {
    /// Write a man page for every tool
    Man {
        /// Directory to write to
        #[arg(default_value = "target/man")]
        directory: PathBuf,
    },
    /// Write completions for bash, zsh and fish for every tool
    Completions {
        /// Directory to write to
        #[arg(default_value = "target/completions")]
        directory: PathBuf,
    },
}
