//! The command `ts`; everything it does is in the library.

use std::process::ExitCode;

use clap::Parser;
use toolkit::{Io, exit};
use ts::cli::Cli;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return exit::usage(&error, exit::WRAPPER),
    };
    let mut io = Io::stdio("ts", cli.verbosity.level());
    let result = ts::run(&cli, &mut io);
    exit::finish_wrapper(result, &mut io)
}
