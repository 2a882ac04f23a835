//! Answers Hiera lookups from Consul, YAML and JSON.
//!
//! `hierarchy` chooses by the version of `hiera.yaml`: `engine` for 5, `hiera3` for 3. The
//! `engine` reads it and data as Puppet does (see its module for layers, merges and
//! lookup_options; `psych` for what YAML scalars mean). Levels of the lookup_key function
//! `stacktira::consul` are answered natively by `consul`, the backend of version 3 files by `consul3`. `check` finds
//! what is wrong or hardly meant without a key being asked for. `serve` is the coprocess that Puppet's
//! functions hold open, so that a catalog costs one read per level instead of one per key. `transfer` writes data files
//! to the key-value store and back.
//!
//! # What always holds
//!
//! - "Not there" is a fact, not a guess: a level that could not be read ends the lookup with an error.
//! - Nothing is written to stdout unless a key was found.
//! - All keys of a run see one snapshot of each Consul level.
//!
//! # Exit codes
//!
//! 0 found · 1 not there, warnings of a strict check, a dry run with differences · 2 usage · 65 broken configuration,
//! data, merge or type · 69 Consul does not answer · 73 cannot write · 75 try again · 77 denied.

mod check;
pub mod cli;
pub mod config;
pub mod consul;
mod consul3;
pub mod engine;
pub mod error;
pub mod hiera3;
mod hierarchy;
mod input;
mod interpolate;
pub mod key;
mod libyaml;
mod locations;
mod lookup;
pub mod merge;
pub mod psych;
pub mod scope;
pub mod serve;
pub mod settings;
mod transfer;
pub mod types;
pub mod value;

use toolkit::Io;

pub use error::Error;

/// Runs what the command line asks for.
///
/// # Errors
/// See [`Error`].
pub fn run(cli: &cli::Cli, io: &mut Io) -> Result<u8, Error> {
    let settings = settings::Settings::load()?;
    let access = settings.access(&cli.consul)?;
    match &cli.action {
        cli::Action::Lookup(args) => lookup::run(args, &settings, access, io),
        cli::Action::Check(args) => check::run(args, &settings, access, io),
        cli::Action::Import(args) => transfer::import(args, &access, io),
        cli::Action::Export(args) => transfer::export(args, &access, io),
        cli::Action::Serve => serve::run(access, io),
    }
}
