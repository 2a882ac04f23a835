//! `hiera-consul`: see the library for what it does.

use std::process::ExitCode;

use clap::Parser;
use hiera_consul::cli::Cli;
use toolkit::{Io, exit};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return exit::usage(&error, exit::USAGE),
    };
    let mut io = Io::stdio("hiera-consul", cli.verbosity.level());
    let result = hiera_consul::run(&cli, &mut io);
    exit::finish(result, &mut io)
}
