//! Which nodes move when: canaries first, then waves.

use std::collections::{BTreeMap, BTreeSet};

use super::document::{Stage, place};
use crate::consul::{Failing, NodeState};
use crate::digest::Digest;

/// Whose node moves first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Canary {
    /// All nodes of a role.
    Role(String),
    /// One node.
    Node(String),
}

impl std::str::FromStr for Canary {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, name) = text.split_once('=').ok_or("expected role=ROLE or node=NODE")?;
        crate::names::check(name).map_err(|why| format!("{name:?} {why}"))?;
        match kind {
            "role" => Ok(Self::Role(name.to_owned())),
            "node" => Ok(Self::Node(name.to_owned())),
            _ => Err("expected role=ROLE or node=NODE".into()),
        }
    }
}

/// How much of a channel a wave reaches, in percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(u8);

impl std::str::FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_suffix('%').unwrap_or(text).parse() {
            Ok(percent @ 1..=100) => Ok(Self(percent)),
            _ => Err("expected 1% to 100%".into()),
        }
    }
}

/// The stages and who is left out.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Stages with at least one node each; the last one reaches every node.
    pub(crate) stages: Vec<Stage>,
    /// Nodes that cannot be waited for, because they were gone before.
    pub(crate) gone: Vec<String>,
}

/// Plans who moves when.
///
/// Nodes take part that follow the channel by their own configuration (a node or role with its own pointer
/// does not) and that are alive. The order among them differs from snapshot to snapshot, so that it is not always
/// the same nodes that go first.
///
/// # Errors
/// A canary that is not among them, or that nobody is.
pub(crate) fn plan(
    channel: &str,
    snapshot: &Digest,
    states: &BTreeMap<String, NodeState>,
    failing: &Failing,
    canaries: &[Canary],
    waves: &[Percent],
) -> Result<Plan, String> {
    let follows = |state: &&NodeState| state.channel == channel && !["role", "node"].contains(&state.by.as_str());
    let is_gone = |node: &str| failing.contains(&(node.to_owned(), "serfHealth".to_owned()));
    let (gone, mut nodes): (Vec<&NodeState>, Vec<&NodeState>) =
        states.values().filter(follows).partition(|state| is_gone(&state.node));
    let gone = gone.into_iter().map(|state| state.node.clone()).collect();
    if nodes.is_empty() {
        return Err(
            "no node that is alive has reported that it follows the channel; `mirror-sync apply` on a node does".into(),
        );
    }
    nodes.sort_by_key(|state| (place(snapshot, &state.node), state.node.clone()));
    let mut first = BTreeSet::new();
    for canary in canaries {
        let mut found = false;
        for state in &nodes {
            let is_it = match canary {
                Canary::Role(role) => state.role.as_deref() == Some(role),
                Canary::Node(node) => state.node == *node,
            };
            if is_it {
                found = true;
                first.insert(state.node.clone());
            }
        }
        if !found {
            let (Canary::Role(name) | Canary::Node(name)) = canary;
            return Err(format!("no canary {name} among the nodes that are alive and follow the channel"));
        }
    }
    if canaries.is_empty() {
        first.insert(nodes[0].node.clone());
    }
    let rest: Vec<&str> = nodes.iter().map(|state| state.node.as_str()).filter(|node| !first.contains(*node)).collect();
    let mut stages = vec![Stage { name: "canary".into(), nodes: first.into_iter().collect() }];
    let mut reached = 0;
    for percent in waves.iter().copied().chain([Percent(100)]) {
        let until = (rest.len() * usize::from(percent.0)).div_ceil(100);
        if until > reached {
            let mut wave: Vec<String> = rest[reached..until].iter().map(|&node| node.to_owned()).collect();
            wave.sort_unstable();
            stages.push(Stage { name: format!("{}%", percent.0), nodes: wave });
            reached = until;
        }
    }
    Ok(Plan { stages, gone })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states(nodes: &[(&str, &str, &str, &str)]) -> BTreeMap<String, NodeState> {
        let state = |&(node, role, channel, by): &(&str, &str, &str, &str)| {
            let state = NodeState {
                v: 1,
                node: node.into(),
                role: Some(role.into()),
                channel: channel.into(),
                by: by.into(),
                want: None,
                have: None,
                state: "applied".into(),
                at: 0,
                message: String::new(),
            };
            (node.to_owned(), state)
        };
        nodes.iter().map(state).collect()
    }

    #[test]
    fn every_node_of_the_channel_is_in_one_stage() {
        let mut nodes = states(&[
            ("build1", "build", "stable", "channel"),
            ("pinned", "hyper", "stable", "node"),
            ("other", "hyper", "edge", "channel"),
            ("dead", "hyper", "stable", "channel"),
        ]);
        for n in 0..20 {
            nodes.extend(states(&[(&format!("hyper{n:02}"), "hyper", "stable", "channel")]));
        }
        let failing = Failing::from([("dead".to_owned(), "serfHealth".to_owned())]);
        let percent = |text: &str| text.parse::<Percent>().expect("a percentage");
        let make = |canaries: &[Canary], id: &[u8]| {
            plan("stable", &Digest::of(id), &nodes, &failing, canaries, &[percent("10%"), percent("50")])
        };
        let first = make(&["role=build".parse().expect("a canary")], b"1").expect("planned");
        assert_eq!(first.gone, ["dead"]);
        assert_eq!(first.stages[0], Stage { name: "canary".into(), nodes: vec!["build1".into()] });
        assert_eq!(first.stages.iter().map(|s| s.nodes.len()).collect::<Vec<_>>(), [1, 2, 8, 10]);
        let all: BTreeSet<&String> = first.stages.iter().flat_map(|stage| &stage.nodes).collect();
        assert_eq!(all.len(), 21);
        assert!(!all.contains(&"pinned".to_owned()) && !all.contains(&"other".to_owned()));
        assert_ne!(first.stages[1], make(&["role=build".parse().expect("a canary")], b"2").expect("planned").stages[1]);
        assert_eq!(make(&[], b"1").expect("planned").stages[0].nodes.len(), 1);
        assert!(make(&["node=other".parse().expect("a canary")], b"1").expect_err("refused").contains("other"));
        assert!(plan("none", &Digest::of(b"1"), &nodes, &failing, &[], &[]).is_err());
    }

    #[test]
    fn what_is_typed_wrongly_is_told() {
        for text in ["build", "role=", "role=../x", "host=a"] {
            assert!(text.parse::<Canary>().is_err(), "{text}");
        }
        for text in ["0%", "101%", "x", ""] {
            assert!(text.parse::<Percent>().is_err(), "{text}");
        }
    }
}
