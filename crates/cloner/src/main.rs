//! `cloner`: parse, run, exit. See the library for what it does.

use std::process::ExitCode;

use clap::Parser as _;
use cloner::cli::Cli;
use toolkit::{Io, exit};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(err) => return exit::usage(&err, exit::USAGE),
    };
    let mut io = Io::stdio("cloner", cli.verbosity.level());
    let result = cloner::run(&cli, &mut io);
    exit::finish(result, &mut io)
}
