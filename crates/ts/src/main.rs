//! The command `ts`; everything it does is in the library.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use toolkit::{Io, exit};
use ts::cli::Cli;
use ts::quick;

#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let cli = match quick::read(args.get(1..).unwrap_or_default()) {
        Some(cli) => cli,
        None => match Cli::try_parse_from(args) {
            Ok(cli) => cli,
            Err(error) => return exit::usage(&error, exit::WRAPPER),
        },
    };
    let mut io = Io::stdio("ts", cli.verbosity.level());
    let result = ts::run(&cli, &mut io);
    exit::finish_wrapper(result, &mut io)
}
