//! May the next stage begin? A pure answer from the rollout and what the nodes report.
//!
//! A node is well when its `apply` uses the snapshot, its last run that used it converged (where runs are published
//! at all), and none of its checks fails that did not fail before the rollout. A node whose runs fail
//! too often, or whose `apply` refuses the snapshot, sends the rollout back at once; a node that is silent or
//! has failing checks does when the stage's time is over. Clocks of different machines are never compared.

use std::collections::BTreeMap;

use super::document::Rollout;
use crate::consul::{Failing, NodeState, RunState};

/// What the cluster reports.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    /// What each node's `apply` did last.
    pub(crate) states: BTreeMap<String, NodeState>,
    /// How each node's last run went.
    pub(crate) runs: BTreeMap<String, RunState>,
    /// Checks that fail now.
    pub(crate) failing: Failing,
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Not all is well yet; what is missed.
    Wait(Vec<String>),
    /// Everything is well.
    Well,
    /// Go back, and why.
    Back(String),
}

/// Judges the stage that is under way, and with it those before.
pub(crate) fn judge(rollout: &Rollout, reports: &Reports, now: u64) -> Verdict {
    let mut missed = Vec::new();
    for node in rollout.moved_nodes() {
        let state = reports.states.get(node);
        if let Some(state) = state
            && state.state == "failed"
            && state.want.as_ref() == Some(&rollout.snapshot)
        {
            return Verdict::Back(format!("{node} refuses the snapshot: {}", state.message));
        }
        if let Some(runs) = rollout.failures.get(node)
            && runs.len() > rollout.failed_runs
        {
            let more = if runs.len() == 1 { "a run".to_owned() } else { format!("{} runs", runs.len()) };
            return Verdict::Back(format!("{more} with the snapshot failed on {node}"));
        }
        if let Some(word) = miss(rollout, reports, node) {
            missed.push(format!("{node}: {word}"));
        }
    }
    for (node, check) in &reports.failing {
        if !rollout.ignored.contains(&(node.clone(), check.clone())) && rollout.moved_nodes().any(|moved| moved == node)
        {
            missed.push(format!("{node}: check {check} fails"));
        }
    }
    if missed.is_empty() {
        return Verdict::Well;
    }
    // A stage that takes its nodes one after the other has as much more time.
    if now.saturating_sub(rollout.moved) > rollout.wait + rollout.spread {
        return Verdict::Back(format!("not well in time: {}", few(&missed)));
    }
    Verdict::Wait(missed)
}

fn miss(rollout: &Rollout, reports: &Reports, node: &str) -> Option<String> {
    let Some(state) = reports.states.get(node) else { return Some("has not reported".into()) };
    if state.have.as_ref() != Some(&rollout.snapshot) || state.state != "applied" {
        return Some(if state.state == "away" && state.want.as_ref() == Some(&rollout.snapshot) {
            format!("cannot use the snapshot yet: {}", state.message)
        } else {
            "does not use the snapshot yet".into()
        });
    }
    match reports.runs.get(node) {
        Some(run) if run.mirror != rollout.snapshot.as_str() || run.state != "converged" => {
            Some(if run.state == "failed" { "its run failed".into() } else { "its run is not done".into() })
        }
        _ => None,
    }
}

/// Returns the failed runs that the rollout does not know yet, by node.
pub(crate) fn new_failures(rollout: &Rollout, reports: &Reports) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for node in rollout.moved_nodes() {
        let Some(run) = reports.runs.get(node) else { continue };
        let known = rollout.failures.get(node).is_some_and(|runs| runs.contains(&run.started));
        if run.state == "failed" && run.mirror == rollout.snapshot.as_str() && !known {
            found.push((node.to_owned(), run.started.clone()));
        }
    }
    found
}

/// Joins the first words of a long list.
pub(crate) fn few(words: &[String]) -> String {
    let shown = words.iter().take(3).map(String::as_str).collect::<Vec<_>>().join("; ");
    if words.len() > 3 { format!("{shown}; and {} more", words.len() - 3) } else { shown }
}

#[cfg(test)]
mod tests {
    use super::super::document::sample;
    use super::*;
    use crate::digest::Digest;

    fn state(node: &str, have: &[u8], state: &str) -> (String, NodeState) {
        let state = NodeState {
            v: 1,
            node: node.into(),
            role: None,
            channel: "stable".into(),
            by: "rollout".into(),
            want: Some(Digest::of(b"new")),
            have: Some(Digest::of(have)),
            state: state.into(),
            at: 0,
            message: "no signature".into(),
        };
        (node.into(), state)
    }

    fn run(node: &str, mirror: &[u8], state: &str, started: &str) -> (String, RunState) {
        let mirror = Digest::of(mirror).to_string();
        (node.into(), RunState { state: state.into(), started: started.into(), mirror })
    }

    fn reports(states: Vec<(String, NodeState)>, runs: Vec<(String, RunState)>) -> Reports {
        Reports { states: states.into_iter().collect(), runs: runs.into_iter().collect(), failing: Failing::new() }
    }

    #[test]
    fn a_stage_is_well_when_every_node_of_it_is() {
        let rollout = sample(&[&["a", "b"], &["c"]]);
        let well = |node| (state(node, b"new", "applied"), run(node, b"new", "converged", "t1"));
        let (a, b) = (well("a"), well("b"));
        assert_eq!(judge(&rollout, &reports(vec![a.0.clone(), b.0], vec![a.1.clone(), b.1]), 1001), Verdict::Well);
        // Without published runs apply's word is enough.
        assert_eq!(
            judge(&rollout, &reports(vec![a.0.clone(), state("b", b"new", "applied")], vec![]), 1001),
            Verdict::Well
        );
        for (other, what) in [
            (reports(vec![a.0.clone()], vec![]), "b: has not reported"),
            (reports(vec![a.0.clone(), state("b", b"old", "applied")], vec![]), "b: does not use the snapshot yet"),
            (
                reports(vec![a.0.clone(), state("b", b"new", "applied")], vec![run("b", b"old", "converged", "t0")]),
                "b: its run is not done",
            ),
            (
                reports(vec![a.0.clone(), state("b", b"new", "applied")], vec![run("b", b"new", "running", "t0")]),
                "b: its run is not done",
            ),
        ] {
            assert_eq!(judge(&rollout, &other, 1001), Verdict::Wait(vec![what.into()]));
            assert!(matches!(judge(&rollout, &other, 1601), Verdict::Back(why) if why.contains(what)), "in time");
        }
    }

    #[test]
    fn failures_and_checks_send_it_back() {
        let mut rollout = sample(&[&["a"], &["c"]]);
        rollout.failed_runs = 1;
        let failed = reports(vec![state("a", b"new", "applied")], vec![run("a", b"new", "failed", "t1")]);
        assert_eq!(new_failures(&rollout, &failed), [("a".to_owned(), "t1".to_owned())]);
        rollout.failures.entry("a".into()).or_default().insert("t1".into());
        assert_eq!(new_failures(&rollout, &failed), []);
        assert!(matches!(judge(&rollout, &failed, 1001), Verdict::Wait(_)), "one may fail");
        rollout.failures.entry("a".into()).or_default().insert("t2".into());
        assert!(matches!(judge(&rollout, &failed, 1001), Verdict::Back(why) if why.contains("2 runs")));
        rollout.failures.clear();

        // Runs that used another snapshot prove nothing.
        let other = reports(vec![state("a", b"old", "applied")], vec![run("a", b"old", "failed", "t1")]);
        assert_eq!(new_failures(&rollout, &other), []);
        let refused = reports(vec![state("a", b"old", "failed")], vec![]);
        assert!(matches!(judge(&rollout, &refused, 1001), Verdict::Back(why) if why.contains("no signature")));

        let mut sick = reports(vec![state("a", b"new", "applied")], vec![]);
        let check = |node: &str| (node.to_owned(), "service:web".to_owned());
        sick.failing.insert(check("c"));
        assert_eq!(judge(&rollout, &sick, 1001), Verdict::Well, "c did not move yet");
        sick.failing.insert(check("a"));
        assert_eq!(judge(&rollout, &sick, 1001), Verdict::Wait(vec!["a: check service:web fails".into()]));
        assert!(matches!(judge(&rollout, &sick, 2000), Verdict::Back(_)));
        rollout.ignored.insert(check("a"));
        assert_eq!(judge(&rollout, &sick, 2000), Verdict::Well, "it failed before");
    }
}
