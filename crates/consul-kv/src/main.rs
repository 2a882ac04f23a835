//! Entry point of `consul-kv`.

use std::process::ExitCode;

use clap::Parser;
use consul_kv::cli::Cli;
use toolkit::{Io, exit};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return exit::usage(&error, exit::USAGE),
    };
    let mut io = Io::stdio("consul-kv", cli.verbosity.level());
    let result = consul_kv::run(&cli, &mut io);
    exit::finish(result, &mut io)
}
