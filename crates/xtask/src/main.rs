//! The `xtask` command.

use std::process::ExitCode;

use clap::Parser;
use toolkit::{Io, exit};
use xtask::cli::Cli;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return exit::usage(&error, exit::USAGE),
    };
    let mut io = Io::stdio("xtask", cli.verbosity.level());
    let result = xtask::run(&cli, &mut io);
    exit::finish(result, &mut io)
}
