//! Differential test: the same lookups by `hiera-consul` and by the real Puppet, on trees made at random.
//!
//! A seed makes configurations, data, facts and queries; Puppet answers all of them in one Ruby process,
//! `hiera-consul` one by one; kind and value must agree. For each tree fifty YAML documents are read by both, too. `STACKTIRA_DIFFERENTIAL=TREES[:SEED]` makes a larger
//! or another run. What once differed is kept in `regressions.json` and asked in every run. Without Puppet
//! the test says so and passes.

mod documents;
mod generate;
mod trees;

use std::collections::BTreeMap;
use std::io::Write;

use serde_json::Value;

use trees::{Answer, Tree, lay_out, ours, puppet, theirs};

/// What a run without settings does: trees, and queries of each.
const TREES: usize = 40;
const QUERIES: usize = 6;
const SEED: u64 = 1;

/// How many trees, and of which seed.
fn asked() -> (usize, u64) {
    let asked = std::env::var("STACKTIRA_DIFFERENTIAL").unwrap_or_default();
    let (trees, seed) = asked.split_once(':').unwrap_or((&asked, ""));
    (trees.parse().unwrap_or(TREES), seed.parse().unwrap_or(SEED))
}

#[test]
fn random_documents_are_read_as_puppet_reads_them() {
    if !puppet() {
        let _ = writeln!(std::io::stderr(), "skipped: there is no Ruby with Puppet");
        return;
    }
    let (trees, seed) = asked();
    let scratch = tempfile::tempdir().expect("a directory");
    assert_eq!(documents::compare(50 * trees, seed, scratch.path()), 0);
}

#[test]
fn random_trees_answer_as_puppet_does() {
    let mut stderr = std::io::stderr();
    if !puppet() {
        let _ = writeln!(stderr, "skipped: there is no Ruby with Puppet");
        return;
    }
    let (trees, seed) = asked();
    let mut all: Vec<Tree> = serde_json::from_str(include_str!("regressions.json")).expect("regressions");
    let kept = all.len();
    all.extend((0..trees).map(|n| generate::tree(&format!("s{seed}-{n}"), seed, n as u64, QUERIES)));
    let scratch = tempfile::tempdir().expect("a directory");
    let roots: Vec<_> = (0..all.len()).map(|n| scratch.path().join(format!("t{n}"))).collect();
    for (tree, root) in all.iter().zip(&roots) {
        lay_out(tree, root);
    }
    let theirs: Vec<Answer> = theirs(&all, &roots, scratch.path());
    let (mut differing, mut kinds) = (0, BTreeMap::<String, usize>::new());
    for answer in &theirs {
        let at = all.iter().position(|tree| tree.id == answer.job).expect("a tree that was asked");
        let query = &all[at].queries[answer.query];
        let (result, value, err) = ours(query, &roots[at]);
        *kinds.entry(answer.result.clone()).or_default() += 1;
        // As text, so that the order of a hash counts.
        let text = |value: &Value| serde_json::to_string(value).expect("JSON");
        if answer.result == "runaway" {
            // Ours has come to an end, which is all that can be compared.
            assert!(matches!(result.as_str(), "found" | "error"), "{result}: {err}");
            continue;
        }
        let same = result == answer.result && text(&value) == text(&answer.value);
        if !same {
            differing += 1;
            let single = Tree { queries: vec![query.clone()], ..all[at].clone() };
            let _ = writeln!(
                stderr,
                "--- {}\nPuppet: {} {} {}\nours:   {result} {value} {}\n{}",
                answer.job,
                answer.result,
                answer.value,
                answer.message,
                err.trim(),
                serde_json::to_string(&single).expect("JSON")
            );
        }
    }
    let count = theirs.len();
    let _ = writeln!(
        stderr,
        "{count} lookups of {} trees ({kept} kept), seed {seed}: {kinds:?}, {differing} differ",
        all.len()
    );
    assert_eq!(differing, 0);
}
