//! The `node-metadata` command.

use std::process::ExitCode;

use clap::Parser;
use node_metadata::cli::Cli;
use toolkit::{Io, exit};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return exit::usage(&error, exit::USAGE),
    };
    let mut io = Io::stdio("node-metadata", cli.verbosity.level());
    let result = node_metadata::run(&cli, &mut io);
    exit::finish(result, &mut io)
}
