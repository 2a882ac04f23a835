//! Mirror packages and git repositories as signed, immutable snapshots.
//!
//! `sync` brings what the sources have into a content-addressed store, `snapshot` freezes the last complete
//! state of all of them under one id, `promote` and `rollback` move a channel between snapshots, `serve`
//! publishes them, `export` and `import` carry them to a mirror without a network, and `apply` makes a node follow a
//! channel.
//!
//! What always holds:
//! - A snapshot never changes, and its id is the digest of its manifest: equal content has an equal id and equal
//!   bytes. Clients are pointed at the URLs of one snapshot, never at a URL whose content moves.
//! - Nothing appears half: blobs, snapshots and pointers are made aside, synced and renamed, so a process that is
//!   killed at any instruction leaves the old state or the new one; what it left aside the next writer sweeps.
//! - Content is verified when it is taken in, signed by the site's key, and verified again by whoever uses it.
//! - One writer at a time; a second one ends at once with 75. Readers never wait.
//!
//! Exit codes: 0 done, 1 no (unknown, different, damaged, refused, forged), 2 usage, 65 bad configuration or manifest,
//! 69 away, 73 cannot write, 75 busy, 77 denied.

mod apply;
mod archive;
mod channel;
mod check;
mod child;
pub mod cli;
mod closed;
mod config;
mod consul;
mod convert;
mod deb;
mod deb822;
mod diff;
mod digest;
mod error;
mod export;
mod fetch;
mod files;
mod gc;
mod git;
mod import;
mod keygen;
mod manifest;
mod meter;
mod names;
mod packing;
mod parallel;
#[doc(hidden)]
pub mod parsers;
mod pending;
mod pieces;
mod publish;
mod report;
mod repository;
mod rollout;
mod rpm;
mod select;
mod serve;
mod sign;
mod snapshot;
mod state;
mod status;
mod store;
mod sync;
mod upstream;
mod verify;
mod window;

use std::path::Path;

use toolkit::Io;
use toolkit::exit;

use cli::{Action, Cli, DEFAULT_CONFIG, Rolling};
use config::Config;
use consul::{Aim, Scope};
use digest::Digest;
pub use error::{Error, Result};

/// Does what the command line says; returns the exit code.
///
/// # Errors
/// See [`Error`]; each has its exit code.
pub fn run(cli: &Cli, io: &mut Io) -> Result<u8> {
    if let Action::Keygen { out, public, user_id } = &cli.action {
        keygen::run(out, public, user_id, io)?;
        return Ok(exit::OK);
    }
    if let Action::Convert { files, architecture, keyring, releasever } = &cli.action {
        let architecture = architecture.as_deref().unwrap_or(this_architecture());
        let settings =
            convert::Settings { architecture, keyring: keyring.as_deref(), releasever: releasever.as_deref() };
        convert::run(files, &settings, io)?;
        return Ok(exit::OK);
    }
    let path = cli.config.clone().unwrap_or_else(|| toolkit::dirs::under_root(Path::new(DEFAULT_CONFIG)));
    let config = Config::load(&path)?;
    let done = act(&config, &cli.action, io);
    let changes = matches!(
        cli.action,
        Action::Sync { dry_run: false, .. }
            | Action::Snapshot
            | Action::Promote { .. }
            | Action::Rollback { .. }
            | Action::Rollout { .. }
            | Action::Import { .. }
            | Action::Gc
    );
    if changes {
        status::publish(&config, io);
    }
    done
}

fn act(config: &Config, action: &Action, io: &mut Io) -> Result<u8> {
    match action {
        Action::Keygen { .. } | Action::Convert { .. } => {}
        Action::Check => check::run(config, io)?,
        Action::Sync { dry_run: false, .. } => sync::run(config, sync::Mode::Real, io)?,
        Action::Sync { dry_run: true, json } => sync::run(config, sync::Mode::Dry { json: *json }, io)?,
        Action::Snapshot => {
            let id = snapshot::create(config, io)?;
            io.out(format!("{id}\n")).map_err(Error::Output)?;
        }
        Action::List { json } => report::list(config, *json, io)?,
        Action::Show { id, json } => report::show(config, &known(id, exit::NO)?, *json, io)?,
        Action::Diff { old, new, json } => {
            let (old, new) = (known(old, exit::BAD_INPUT)?, known(new, exit::BAD_INPUT)?);
            return diff::run(config, &old, &new, *json, io);
        }
        Action::Promote { id, whose, reason } => {
            let aim = match whose.scope() {
                Scope::Channel(_) => Aim::Snapshot(known(id, exit::NO)?),
                _ => Aim::try_from(id.clone()).map_err(|_| no_snapshot(id, exit::NO))?,
            };
            channel::promote(config, &whose.scope(), &aim, reason, io)?;
        }
        Action::Export { id, since, out } => {
            let since = since.as_ref().map(|since| known(since, exit::NO)).transpose()?;
            export::run(config, &known(id, exit::NO)?, since.as_ref(), out, io)?;
        }
        Action::Import { file, keyring } => {
            let id = import::run(config, file, keyring.as_deref(), io)?;
            io.out(format!("{id}\n")).map_err(Error::Output)?;
        }
        Action::Rollback { whose, reason } => channel::rollback(config, &whose.scope(), reason, io)?,
        Action::Unpin { whose, reason } => channel::unpin(config, &whose.scope(), reason, io)?,
        Action::Rollout { action } => rolling(config, action, io)?,
        Action::Gc => gc::run(config, io)?,
        Action::Verify { repair } => verify::run(config, *repair, io)?,
        Action::Status { json } => return status::run(config, *json, io),
        Action::Serve { listen } => serve::run(config, *listen, io)?,
        Action::Apply { check: true, .. } => return apply::check(config, io),
        Action::Apply { print, .. } => apply::run(config, *print, io)?,
    }
    Ok(exit::OK)
}

fn rolling(config: &Config, action: &Rolling, io: &mut Io) -> Result<()> {
    match action {
        Rolling::Start { id, channel, canary, waves, wait, settle, spread, failed_runs, reason, dry_run, detach } => {
            let settings = rollout::Settings {
                channel,
                canaries: canary,
                waves,
                wait: *wait,
                settle: *settle,
                spread: *spread,
                failed_runs: *failed_runs,
                reason,
            };
            rollout::start(config, &known(id, exit::NO)?, &settings, *dry_run, *detach, io)
        }
        Rolling::Resume { channel } => rollout::resume(config, channel.as_deref(), io),
        Rolling::Abort { channel, reason } => rollout::abort(config, channel, reason, io),
        Rolling::Status { channel, json } => rollout::status(config, channel.as_deref(), *json, io),
    }
}

/// Returns how Debian calls the architecture of this machine.
fn this_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "i386",
        "powerpc64" => "ppc64el",
        other => other,
    }
}

/// Text that is no id names no snapshot.
fn known(id: &str, code: u8) -> Result<Digest> {
    id.parse().map_err(|_| no_snapshot(id, code))
}

fn no_snapshot(id: &str, code: u8) -> Error {
    Error::NoSnapshot { id: toolkit::exit::one_line(id), code }
}
