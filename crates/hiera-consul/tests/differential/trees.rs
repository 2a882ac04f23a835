//! Trees that are laid out in a directory and asked by `hiera-consul` and by the real Puppet.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub(crate) const NODE: &str = "node1.example.test";

/// One tree, and what is asked of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Tree {
    pub(crate) id: String,
    /// Text by path below the tree's root.
    pub(crate) files: BTreeMap<String, String>,
    pub(crate) facts: Value,
    pub(crate) queries: Vec<Query>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Query {
    pub(crate) keys: Vec<String>,
    pub(crate) merge: Option<String>,
    pub(crate) knockout: Option<String>,
    pub(crate) sort: bool,
    pub(crate) hashes: bool,
    pub(crate) default: Option<String>,
}

#[derive(Serialize)]
struct Job<'a> {
    id: &'a str,
    root: &'a Path,
    global: PathBuf,
    node: &'a str,
    facts: &'a Value,
    queries: &'a [Query],
}

#[derive(Debug, Deserialize)]
#[allow(dead_code, reason = "each of the tests that share this module reads some of it")]
pub(crate) struct Answer {
    pub(crate) job: String,
    pub(crate) query: usize,
    pub(crate) result: String,
    #[serde(default)]
    pub(crate) value: Value,
    #[serde(default)]
    pub(crate) message: String,
}

/// Writes the files of a tree.
pub(crate) fn lay_out(tree: &Tree, root: &Path) {
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

/// Asks `hiera-consul`: kind, value, and what it said on stderr.
pub(crate) fn ours(query: &Query, root: &Path) -> (String, Value, String) {
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

/// Asks Puppet about all trees, which are laid out; in the order of the trees and their queries.
pub(crate) fn theirs(trees: &[Tree], roots: &[PathBuf], scratch: &Path) -> Vec<Answer> {
    let mut jobs = Vec::new();
    for (tree, root) in trees.iter().zip(roots) {
        let global = root.join("global/hiera.yaml");
        jobs.push(Job { id: &tree.id, root, global, node: NODE, facts: &tree.facts, queries: &tree.queries });
    }
    let list = scratch.join("jobs.json");
    fs::write(&list, serde_json::to_vec(&jobs).expect("JSON")).expect("write");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/differential/puppet.rb");
    let output = Command::new("ruby").arg(script).arg(&list).arg(scratch).output().expect("ruby runs");
    let answers: Vec<Answer> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|line| line.starts_with("{\"job\""))
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    let count: usize = trees.iter().map(|tree| tree.queries.len()).sum();
    assert_eq!(answers.len(), count, "{}", String::from_utf8_lossy(&output.stderr));
    answers
}

/// Tells whether Ruby and Puppet are there.
pub(crate) fn puppet() -> bool {
    Command::new("ruby").args(["-e", "require 'puppet'"]).output().is_ok_and(|o| o.status.success())
}
