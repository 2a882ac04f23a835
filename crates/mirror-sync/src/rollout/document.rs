//! A rollout as Consul keeps it: `PREFIX/rollout/CHANNEL`, one document, changed by compare-and-set alone.
//!
//! Nodes read it themselves: the nodes of all stages up to `stage` follow `snapshot`, the others what the
//! channel points at. So a step of a rollout is one write, whatever number of nodes it moves, and there is no
//! instruction between whose death half of a step could remain.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// Where a rollout stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Phase {
    /// Stages are under way.
    Running,
    /// The channel points at the snapshot.
    Done,
    /// Every node follows the channel as it was before.
    Returned,
}

/// Nodes that move at the same time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stage {
    /// `canary`, or how much of the channel is reached with it.
    pub(crate) name: String,
    /// The nodes, sorted.
    pub(crate) nodes: Vec<String>,
}

/// A rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rollout {
    /// Format version.
    pub(crate) v: u32,
    /// Where it stands.
    pub(crate) phase: Phase,
    /// Snapshot that is rolled out.
    pub(crate) snapshot: Digest,
    /// What the channel pointed at when it began.
    pub(crate) previous: Option<Digest>,
    /// The stage that is under way, from 0.
    pub(crate) stage: usize,
    /// All stages.
    pub(crate) stages: Vec<Stage>,
    /// When it began, in seconds since the epoch.
    pub(crate) begun: u64,
    /// When the stage that is under way began.
    pub(crate) moved: u64,
    /// Seconds that a stage may take.
    pub(crate) wait: u64,
    /// Seconds for which everything must be well before the next stage.
    pub(crate) settle: u64,
    /// Seconds over which the nodes of a stage are spread.
    pub(crate) spread: u64,
    /// Runs that may fail on each node before it counts as failed.
    pub(crate) failed_runs: usize,
    /// Checks that failed before it began; they stop nothing.
    pub(crate) ignored: BTreeSet<(String, String)>,
    /// Starts of failed runs by node.
    #[serde(default)]
    pub(crate) failures: BTreeMap<String, BTreeSet<String>>,
    /// Who began it.
    pub(crate) by: String,
    /// Why it was begun.
    #[serde(default)]
    pub(crate) reason: String,
    /// Why it went back.
    #[serde(default)]
    pub(crate) why: String,
}

impl Rollout {
    /// Returns the nodes of the stages that have begun.
    pub(crate) fn moved_nodes(&self) -> impl Iterator<Item = &str> {
        self.stages.iter().take(self.stage + 1).flat_map(|stage| stage.nodes.iter().map(String::as_str))
    }

    /// Whether a node follows the rollout instead of the channel; if so, since when.
    pub(crate) fn takes(&self, node: &str) -> Option<u64> {
        let at = self.stages.iter().position(|stage| stage.nodes.binary_search_by(|n| n.as_str().cmp(node)).is_ok())?;
        let begun = if at == self.stage { self.moved } else { self.begun };
        (self.phase == Phase::Running && at <= self.stage).then_some(begun)
    }

    /// Returns how long a node waits after its stage began, so that not all of them ask the mirror at once.
    pub(crate) fn delay(&self, node: &str) -> u64 {
        if self.spread == 0 { 0 } else { place(&self.snapshot, node) % self.spread }
    }
}

/// A number that orders nodes differently for every snapshot, and the same everywhere.
pub(crate) fn place(snapshot: &Digest, node: &str) -> u64 {
    let digest = Digest::of(format!("{snapshot} {node}").as_bytes());
    u64::from_str_radix(&digest.as_str()[..16], 16).expect("a digest is hexadecimal")
}

#[cfg(test)]
pub(crate) fn sample(stages: &[&[&str]]) -> Rollout {
    Rollout {
        v: 1,
        phase: Phase::Running,
        snapshot: Digest::of(b"new"),
        previous: Some(Digest::of(b"old")),
        stage: 0,
        stages: stages
            .iter()
            .map(|nodes| Stage { name: "s".into(), nodes: nodes.iter().map(|&n| n.to_owned()).collect() })
            .collect(),
        begun: 1000,
        moved: 1000,
        wait: 600,
        settle: 0,
        spread: 0,
        failed_runs: 0,
        ignored: BTreeSet::new(),
        failures: BTreeMap::new(),
        by: String::new(),
        reason: String::new(),
        why: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_nodes_of_begun_stages_of_a_running_rollout_follow_it() {
        let mut rollout = sample(&[&["a"], &["b", "c"]]);
        assert_eq!((rollout.takes("a"), rollout.takes("b"), rollout.takes("x")), (Some(1000), None, None));
        rollout.stage = 1;
        rollout.moved = 2000;
        assert_eq!((rollout.takes("a"), rollout.takes("c")), (Some(1000), Some(2000)));
        for phase in [Phase::Done, Phase::Returned] {
            rollout.phase = phase;
            assert_eq!(rollout.takes("a"), None);
        }
    }

    #[test]
    fn delays_are_spread_and_bounded() {
        let mut rollout = sample(&[]);
        assert_eq!(rollout.delay("a"), 0);
        rollout.spread = 60;
        let delays: Vec<u64> = (0..1000).map(|n| rollout.delay(&format!("node{n}"))).collect();
        assert!(delays.iter().all(|delay| *delay < 60));
        let early = delays.iter().filter(|delay| **delay < 30).count();
        assert!((400..600).contains(&early), "{early} of 1000 in the first half");
    }
}
