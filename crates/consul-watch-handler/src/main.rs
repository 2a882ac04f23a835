//! The `consul-watch-handler` command.

use std::process::ExitCode;

use clap::Parser;
use consul_watch_handler::cli::Cli;
use toolkit::{Io, exit};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return exit::usage(&error, usage_code()),
    };
    let mut io = Io::stdio("consul-watch-handler", cli.verbosity.level());
    let result = consul_watch_handler::run(cli, &mut io);
    exit::finish(result, &mut io)
}

/// `handle` is a wrapper: whoever reads its code must be able to tell ours from the command's.
fn usage_code() -> u8 {
    let action = std::env::args_os().skip(1).find(|word| !word.as_encoded_bytes().starts_with(b"-"));
    if action.is_some_and(|action| action == "handle") { exit::WRAPPER } else { exit::USAGE }
}
