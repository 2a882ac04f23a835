//! Channels: moving pointers to snapshots.
//!
//! A pointer is a small file, `ROOT/pub/channel/NAME.json`, replaced in one step, and with `consul:` also a
//! key, moved by compare-and-set before the file. When Consul is away nothing moves. Nothing is copied, so
//! a promote or a rollback costs the same whatever the snapshot holds.

use serde::{Deserialize, Serialize};
use toolkit::Io;

use crate::config::Config;
use crate::consul::Pointers;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::manifest::Manifest;
use crate::store::Store;

/// Earlier snapshots of a channel that are remembered.
const MAX_HISTORY: usize = 100;

/// The published pointer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pointer {
    /// Format version.
    pub(crate) v: u32,
    /// Channel.
    pub(crate) channel: String,
    /// Snapshot.
    pub(crate) snapshot: Digest,
    /// Where the snapshot is.
    pub(crate) url: String,
}

/// What a channel pointed at before, oldest first.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct History {
    v: u32,
    earlier: Vec<Digest>,
}

fn file(channel: &str) -> String {
    format!("pub/channel/{channel}.json")
}

fn history(channel: &str) -> String {
    format!("channels/{channel}.json")
}

/// Reads a channel's pointer.
///
/// # Errors
/// [`Error::Read`]; [`Error::Damaged`].
pub(crate) fn read(store: &Store, channel: &str) -> Result<Option<Pointer>> {
    store.read_json(file(channel))
}

fn known(config: &Config, channel: &str) -> Result<()> {
    if config.channels.iter().any(|name| name == channel) {
        return Ok(());
    }
    Err(Error::NoChannel {
        config: config.path().to_owned(),
        channel: channel.to_owned(),
        known: if config.channels.is_empty() { "none".into() } else { config.channels.join(", ") },
    })
}

/// `promote`.
///
/// # Errors
/// [`Error::NoChannel`]; [`Error::NoSnapshot`]; [`Error::Consul`]; [`Error::Moved`]; [`Error::Write`].
pub(crate) fn promote(config: &Config, channel: &str, id: &Digest, io: &mut Io) -> Result<()> {
    known(config, channel)?;
    let store = Store::at(config.root()?);
    Manifest::load(&store, id)?;
    let _lock = store.channel_lock()?;
    // Again under the lock: gc takes it too.
    Manifest::load(&store, id)?;
    let mut past: History = store.read_json(history(channel))?.unwrap_or_default();
    if let Some(current) = read(&store, channel)?
        && current.snapshot != *id
    {
        past.earlier.push(current.snapshot);
        let excess = past.earlier.len().saturating_sub(MAX_HISTORY);
        past.earlier.drain(..excess);
    }
    point(config, &store, channel, id, past)?;
    io.note(format_args!("channel {channel} points at {id}"));
    Ok(())
}

/// `rollback`: back to what the channel pointed at before.
///
/// # Errors
/// [`Error::NoRollback`]; otherwise as [`promote`].
pub(crate) fn rollback(config: &Config, channel: &str, io: &mut Io) -> Result<()> {
    known(config, channel)?;
    let store = Store::at(config.root()?);
    let nothing = |why: &str| Error::NoRollback { channel: channel.to_owned(), why: why.to_owned() };
    let _lock = store.channel_lock()?;
    let mut past: History = store.read_json(history(channel))?.unwrap_or_default();
    let id = past.earlier.pop().ok_or_else(|| nothing("it pointed at nothing before"))?;
    match Manifest::load(&store, &id) {
        Err(Error::NoSnapshot { .. }) => {
            return Err(nothing(&format!("the snapshot before, {id}, is no longer there")));
        }
        other => other?,
    };
    point(config, &store, channel, &id, past)?;
    io.note(format_args!("channel {channel} points at {id} again"));
    Ok(())
}

fn point(config: &Config, store: &Store, channel: &str, id: &Digest, mut past: History) -> Result<()> {
    let pointer = Pointer {
        v: 1,
        channel: channel.to_owned(),
        snapshot: id.clone(),
        url: format!("{}/snap/{id}", config.url()?),
    };
    past.v = 1;
    if let Some(consul) = &config.consul {
        let pointers = Pointers::new(consul)?;
        let seen = pointers.read(channel)?;
        if seen.id.as_ref() != Some(id) && !pointers.replace(channel, &seen, id)? {
            return Err(Error::Moved { channel: channel.to_owned() });
        }
    }
    // The pointer first: a crash in between loses an entry of the history, never shows one that was not.
    store.write_json(file(channel), &pointer)?;
    store.write_json(history(channel), &past)
}
