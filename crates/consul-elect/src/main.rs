//! Entry point of `consul-elect`.

use std::process::ExitCode;

use clap::Parser;
use consul_elect::cli::Cli;
use toolkit::{Io, exit};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // `run` passes its command's code through, so that 2 would be the command's own.
            let action =
                std::env::args_os().skip(1).find(|a| ["run", "slot", "once", "show"].iter().any(|name| a == name));
            let wraps = action.is_some_and(|action| action == "run" || action == "slot");
            return exit::usage(&error, if wraps { exit::WRAPPER } else { exit::USAGE });
        }
    };
    let mut io = Io::stdio("consul-elect", cli.verbosity.level());
    let result = consul_elect::run(&cli, &mut io);
    exit::finish(result, &mut io)
}
