//! Which snapshot a node is to use: its own pointer, its role's, a rollout's, its channel's, in that order.
//!
//! Without Consul, or before anything is in it (first boot), the mirror's own file of the channel answers.

use std::time::Duration;

use crate::channel::Pointer;
use crate::config::{Config, Node};
use crate::consul::{Aim, Cluster, Scope, hostname};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::fetch::Fetcher;
use crate::files;
use crate::rollout;

/// Longest time that a node lets others go first, whatever a rollout says.
const MAX_DELAY: u64 = 3600;

/// What a node is to use, and why.
#[derive(Debug)]
pub(crate) struct Followed {
    /// Snapshot.
    pub(crate) id: Digest,
    /// Channel by which it was found.
    pub(crate) channel: String,
    /// `node`, `role`, `rollout`, `channel`, or `mirror` for the mirror's own file.
    pub(crate) by: &'static str,
    /// How long to let others go first.
    pub(crate) delay: Duration,
}

/// What the node is called in Consul.
pub(crate) fn name_of(node: &Node) -> String {
    node.name.clone().unwrap_or_else(hostname)
}

/// Finds the snapshot.
///
/// # Errors
/// [`Error::Consul`]; [`Error::Unavailable`]; [`Error::Forged`] when the mirror's file is not a pointer.
pub(crate) fn resolve(config: &Config, cluster: Option<&Cluster>, node: &Node, fetcher: &Fetcher) -> Result<Followed> {
    debug_assert_eq!(config.consul.is_some(), cluster.is_some(), "the cluster is the configuration's");
    let mut channel = node.channel.clone();
    let mut by = "channel";
    if let Some(cluster) = cluster {
        let mut scopes = vec![("node", Scope::Node(name_of(node)))];
        scopes.extend(node.role.clone().map(|role| ("role", Scope::Role(role))));
        for (word, scope) in scopes {
            match cluster.pointer(&scope)?.value {
                Some(Aim::Snapshot(id)) => return Ok(Followed { id, channel, by: word, delay: Duration::ZERO }),
                Some(Aim::Channel(name)) => {
                    (channel, by) = (name, word);
                    break;
                }
                None => {}
            }
        }
        // Who has a pointer of its own is not part of a channel's rollout.
        if by == "channel"
            && let Some(rollout) = rollout::of_node(cluster, &channel, &name_of(node))?
        {
            let delay = delay(&rollout, &name_of(node));
            return Ok(Followed { id: rollout.snapshot, channel, by: "rollout", delay });
        }
        if let Some(Aim::Snapshot(id)) = cluster.pointer(&Scope::Channel(channel.clone()))?.value {
            return Ok(Followed { id, channel, by, delay: Duration::ZERO });
        }
    }
    let url = format!("{}/channel/{channel}.json", node.mirror.trim_end_matches('/'));
    let bytes = fetcher.get(&url, 64 << 10)?;
    let pointer: Pointer = serde_json::from_slice(&bytes)
        .map_err(|error| Error::forged(&url, format!("not a channel pointer: {error}")))?;
    if pointer.v != 1 || pointer.channel != channel {
        return Err(Error::forged(&url, format!("a pointer of channel {:?}, not {channel}", pointer.channel)));
    }
    Ok(Followed {
        id: pointer.snapshot,
        channel,
        by: if by == "channel" { "mirror" } else { by },
        delay: Duration::ZERO,
    })
}

/// How much of the node's turn is left. Clocks may differ: never longer than the whole turn.
fn delay(rollout: &rollout::Rollout, node: &str) -> Duration {
    let since = rollout.takes(node).map_or(0, |begun| files::now().saturating_sub(begun));
    Duration::from_secs(rollout.delay(node).saturating_sub(since).min(MAX_DELAY))
}
