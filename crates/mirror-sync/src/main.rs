//! `mirror-sync`: see the library for what it does.

use std::process::ExitCode;

use clap::Parser as _;
use mirror_sync::cli::Cli;
use nix::sys::stat::{Mode, umask};
use toolkit::Io;
use toolkit::exit;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return exit::usage(&error, exit::USAGE),
    };
    // What is published is for everybody; what is secret is made with its own mode.
    umask(Mode::S_IWGRP | Mode::S_IWOTH);
    let mut io = Io::stdio("mirror-sync", cli.verbosity.level());
    let result = mirror_sync::run(&cli, &mut io);
    exit::finish(result, &mut io)
}
