//! Differential test: the same lookups by `hiera-consul` and by the real Puppet, on trees made at random.
//!
//! A seed makes configurations, data, facts and queries; Puppet answers all of them in one Ruby process,
//! `hiera-consul` one by one; kind and value must agree. `STACKTIRA_DIFFERENTIAL=TREES[:SEED]` makes a larger
//! or another run. What once differed is kept in `regressions.json` and asked in every run. Without Puppet
//! the test says so and passes.

mod generate;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a run without settings does: trees, and queries of each.
const TREES: usize = 40;
const QUERIES: usize = 6;
const SEED: u64 = 1;

/// One tree, and what is asked of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Tree {
    id: String,
    /// Text by path below the tree's root.
    files: BTreeMap<String, String>,
    facts: Value,
    queries: Vec<Query>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Query {
    keys: Vec<String>,
    merge: Option<String>,
    knockout: Option<String>,
    sort: bool,
    hashes: bool,
    default: Option<String>,
}

#[derive(Serialize)]
struct Job<'a> {
    id: &'a str,
    root: &'a Path,
    global: std::path::PathBuf,
    node: &'a str,
    facts: &'a Value,
    queries: &'a [Query],
}

#[derive(Debug, Deserialize)]
struct Answer {
    job: String,
    query: usize,
    result: String,
    #[serde(default)]
    value: Value,
    #[serde(default)]
    message: String,
}

const NODE: &str = "node1.example.test";

fn lay_out(tree: &Tree, root: &Path) {
    for (name, text) in &tree.files {
        let path = root.join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("mkdir");
        let text = text.replace("GLOBAL", &root.join("global").display().to_string());
        fs::write(path, text).expect("write");
    }
    fs::create_dir_all(root.join("environments/e")).expect("mkdir");
    fs::create_dir_all(root.join("global")).expect("mkdir");
    fs::write(root.join("facts.json"), tree.facts.to_string()).expect("write");
}

fn ours(query: &Query, root: &Path) -> (String, Value, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hiera-consul"));
    command.env_clear().env("STACKTIRA_ROOT", root.join("nowhere")).args(["lookup", "--render-as", "json"]);
    command.arg("--hiera_config").arg(root.join("global/hiera.yaml"));
    command.arg("--environmentpath").arg(root.join("environments")).args(["--environment", "e", "--node", NODE]);
    command.arg("--facts").arg(root.join("facts.json"));
    for (flag, value) in
        [("--merge", &query.merge), ("--knock-out-prefix", &query.knockout), ("--default", &query.default)]
    {
        if let Some(value) = value {
            command.arg(flag).arg(value);
        }
    }
    if query.sort {
        command.arg("--sort-merged-arrays");
    }
    if query.hashes {
        command.arg("--merge-hash-arrays");
    }
    let output = command.arg("--").args(&query.keys).output().expect("the tool runs");
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    match output.status.code() {
        Some(0) => ("found".to_owned(), serde_json::from_slice(&output.stdout).expect("JSON"), err),
        Some(1) => ("not_found".to_owned(), Value::Null, err),
        Some(65 | 2) => ("error".to_owned(), Value::Null, err),
        code => (format!("exit {code:?}"), Value::Null, err),
    }
}

/// Tells whether Ruby and Puppet are there.
fn puppet() -> bool {
    Command::new("ruby").args(["-e", "require 'puppet'"]).output().is_ok_and(|o| o.status.success())
}

#[test]
fn random_trees_answer_as_puppet_does() {
    let mut stderr = std::io::stderr();
    if !puppet() {
        let _ = writeln!(stderr, "skipped: there is no Ruby with Puppet");
        return;
    }
    let asked = std::env::var("STACKTIRA_DIFFERENTIAL").unwrap_or_default();
    let (trees, seed) = asked.split_once(':').unwrap_or((&asked, ""));
    let (trees, seed) = (trees.parse().unwrap_or(TREES), seed.parse().unwrap_or(SEED));
    let mut all: Vec<Tree> = serde_json::from_str(include_str!("regressions.json")).expect("regressions");
    let kept = all.len();
    all.extend((0..trees).map(|n| generate::tree(&format!("s{seed}-{n}"), seed, n as u64, QUERIES)));
    let scratch = tempfile::tempdir().expect("a directory");
    let roots: Vec<_> = (0..all.len()).map(|n| scratch.path().join(format!("t{n}"))).collect();
    let mut jobs = Vec::new();
    for (tree, root) in all.iter().zip(&roots) {
        lay_out(tree, root);
        let global = root.join("global/hiera.yaml");
        jobs.push(Job { id: &tree.id, root, global, node: NODE, facts: &tree.facts, queries: &tree.queries });
    }
    let list = scratch.path().join("jobs.json");
    fs::write(&list, serde_json::to_vec(&jobs).expect("JSON")).expect("write");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/differential/puppet.rb");
    let output = Command::new("ruby").arg(script).arg(&list).arg(scratch.path()).output().expect("ruby runs");
    let theirs: Vec<Answer> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|line| line.starts_with("{\"job\""))
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    let count: usize = all.iter().map(|tree| tree.queries.len()).sum();
    assert_eq!(theirs.len(), count, "{}", String::from_utf8_lossy(&output.stderr));
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
    let _ = writeln!(
        stderr,
        "{count} lookups of {} trees ({kept} kept), seed {seed}: {kinds:?}, {differing} differ",
        all.len()
    );
    assert_eq!(differing, 0);
}
