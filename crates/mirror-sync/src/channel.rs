//! Pointers to snapshots: of channels, and in Consul also of roles and single nodes.
//!
//! A channel's pointer is a small file, `ROOT/pub/channel/NAME.json`, replaced in one step, and with `consul:`
//! also a key, moved by compare-and-set before the file. When Consul is away nothing moves. Nothing is copied or
//! even read of what the snapshot holds, so a promote or a rollback costs the same whatever that is.

use serde::{Deserialize, Serialize};
use toolkit::Io;
use toolkit::exit;

use crate::config::Config;
use crate::consul::{Aim, Cluster, Scope};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::rollout;
use crate::snapshot;
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

/// Checks that the configuration names a channel.
///
/// # Errors
/// [`Error::NoChannel`].
pub(crate) fn known(config: &Config, channel: &str) -> Result<()> {
    if config.channels.iter().any(|name| name == channel) {
        return Ok(());
    }
    Err(Error::NoChannel {
        config: config.path().to_owned(),
        channel: channel.to_owned(),
        known: if config.channels.is_empty() { "none".into() } else { config.channels.join(", ") },
    })
}

/// `promote`: points a channel, a role or a node at a snapshot, a role or a node also at a channel.
///
/// # Errors
/// [`Error::NoChannel`]; [`Error::NoSnapshot`]; [`Error::Consul`]; [`Error::Moved`]; [`Error::Write`].
pub(crate) fn promote(config: &Config, scope: &Scope, aim: &Aim, why: &str, io: &mut Io) -> Result<()> {
    let Scope::Channel(channel) = scope else {
        let store = Store::at(config.root()?);
        match aim {
            Aim::Snapshot(id) => snapshot::must_exist(&store, id)?,
            Aim::Channel(name) => known(config, name)?,
        }
        // gc takes it too: what is pointed at stays.
        let _lock = store.channel_lock()?;
        if let Aim::Snapshot(id) = aim {
            snapshot::must_exist(&store, id)?;
        }
        return move_in_consul(config, scope, Some(aim), why, io);
    };
    known(config, channel)?;
    let Aim::Snapshot(id) = aim else {
        return Err(Error::NoSnapshot { id: aim.to_string(), code: exit::NO });
    };
    let cluster = config.consul.as_ref().map(Cluster::new).transpose()?;
    if let Some(cluster) = &cluster {
        rollout::none_under_way(cluster, channel)?;
    }
    point_at(config, cluster.as_ref(), channel, id, why)?;
    io.note(format_args!("channel {channel} points at {id}"));
    Ok(())
}

/// Points a channel at a snapshot, whatever else goes on.
///
/// # Errors
/// As [`promote`].
pub(crate) fn point_at(
    config: &Config,
    cluster: Option<&Cluster>,
    channel: &str,
    id: &Digest,
    why: &str,
) -> Result<()> {
    let store = Store::at(config.root()?);
    snapshot::must_exist(&store, id)?;
    let _lock = store.channel_lock()?;
    // Again under the lock: gc takes it too.
    snapshot::must_exist(&store, id)?;
    let mut past: History = store.read_json(history(channel))?.unwrap_or_default();
    if let Some(current) = read(&store, channel)?
        && current.snapshot != *id
    {
        past.earlier.push(current.snapshot);
        let excess = past.earlier.len().saturating_sub(MAX_HISTORY);
        past.earlier.drain(..excess);
    }
    point(config, cluster, &store, channel, id, past, why)
}

/// `rollback`: back to what the pointer pointed at before.
///
/// # Errors
/// [`Error::NoRollback`]; otherwise as [`promote`].
pub(crate) fn rollback(config: &Config, scope: &Scope, why: &str, io: &mut Io) -> Result<()> {
    let nothing = |why: &str| Error::NoRollback { channel: scope.to_string(), why: why.to_owned() };
    let Scope::Channel(channel) = scope else {
        let cluster = Cluster::new(with_consul(config)?)?;
        let seen = cluster.pointer(scope)?;
        let history = cluster.history(scope)?.value.unwrap_or_default();
        if seen.value.is_none() && history.before(None).is_none() {
            return Err(nothing("it points at nothing and did not before"));
        }
        let back = history.before(seen.value.as_ref()).cloned();
        if let Some(Aim::Snapshot(id)) = &back
            && snapshot::must_exist(&Store::at(config.root()?), id).is_err()
        {
            return Err(nothing(&format!("the snapshot before, {id}, is no longer there")));
        }
        return move_in_consul(config, scope, back.as_ref(), why, io);
    };
    known(config, channel)?;
    let cluster = config.consul.as_ref().map(Cluster::new).transpose()?;
    if let Some(cluster) = &cluster {
        rollout::none_under_way(cluster, channel)?;
    }
    let store = Store::at(config.root()?);
    let _lock = store.channel_lock()?;
    let mut past: History = store.read_json(history(channel))?.unwrap_or_default();
    let id = past.earlier.pop().ok_or_else(|| nothing("it pointed at nothing before"))?;
    if snapshot::must_exist(&store, &id).is_err() {
        return Err(nothing(&format!("the snapshot before, {id}, is no longer there")));
    }
    point(config, cluster.as_ref(), &store, channel, &id, past, why)?;
    io.note(format_args!("channel {channel} points at {id} again"));
    Ok(())
}

/// `unpin`: removes the pointer of a role or a node, which then follows its channel again.
///
/// # Errors
/// [`Error::Consul`]; [`Error::Moved`].
pub(crate) fn unpin(config: &Config, scope: &Scope, why: &str, io: &mut Io) -> Result<()> {
    move_in_consul(config, scope, None, why, io)
}

fn with_consul(config: &Config) -> Result<&crate::config::Consul> {
    config.consul.as_ref().ok_or_else(|| {
        Error::config(config.path(), "consul: missing; pointers of roles and nodes, and rollouts, live there alone")
    })
}

/// Opens the cluster for a command that needs it.
///
/// # Errors
/// [`Error::Config`] when there is no `consul:`.
pub(crate) fn cluster(config: &Config) -> Result<Cluster> {
    Cluster::new(with_consul(config)?)
}

fn move_in_consul(config: &Config, scope: &Scope, aim: Option<&Aim>, why: &str, io: &mut Io) -> Result<()> {
    let cluster = cluster(config)?;
    let seen = cluster.pointer(scope)?;
    if !cluster.move_pointer(scope, &seen, aim, why)? {
        return Err(Error::Moved { what: scope.to_string() });
    }
    match aim {
        Some(aim) => io.note(format_args!("{scope} points at {aim}")),
        None => io.note(format_args!("{scope} has no pointer of its own")),
    }
    Ok(())
}

fn point(
    config: &Config,
    cluster: Option<&Cluster>,
    store: &Store,
    channel: &str,
    id: &Digest,
    mut past: History,
    why: &str,
) -> Result<()> {
    let pointer = Pointer {
        v: 1,
        channel: channel.to_owned(),
        snapshot: id.clone(),
        url: format!("{}/snap/{id}", config.url()?),
    };
    past.v = 1;
    if let Some(cluster) = cluster {
        let scope = Scope::Channel(channel.to_owned());
        let seen = cluster.pointer(&scope)?;
        if !cluster.move_pointer(&scope, &seen, Some(&Aim::Snapshot(id.clone())), why)? {
            return Err(Error::Moved { what: scope.to_string() });
        }
    }
    // The pointer first: a crash in between loses an entry of the history, never shows one that was not.
    store.write_json(file(channel), &pointer)?;
    store.write_json(history(channel), &past)
}

/// Returns the snapshots that a channel can be rolled back to with the next `count` rollbacks.
///
/// # Errors
/// [`Error::Read`]; [`Error::Damaged`].
pub(crate) fn earlier(store: &Store, channel: &str, count: usize) -> Result<Vec<Digest>> {
    let past: History = store.read_json(history(channel))?.unwrap_or_default();
    Ok(past.earlier.into_iter().rev().take(count).collect())
}
