//! Hand-made cases for each rule of Hiera, answered by the real tools.
//!
//! `table.yaml` has the cases, `answers.json` what Puppet and the `hiera` command say to them, which `make rules` writes
//! anew; the test asks `hiera-consul` alone. Kind (found, not found, error) and value must agree.

#[path = "../differential/trees.rs"]
mod trees;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use trees::{Query, Tree, lay_out, ours, puppet, theirs};

const TABLE: &str = include_str!("table.yaml");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    scalars: BTreeMap<String, Vec<String>>,
    documents: Vec<Document>,
    lookups: Vec<Lookup>,
    version3: Vec<Version3>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    rule: String,
    data: String,
    #[serde(default)]
    keys: Vec<String>,
    /// What ours says where it differs on purpose.
    ours: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Lookup {
    rule: String,
    files: BTreeMap<String, String>,
    #[serde(default)]
    facts: serde_json::Map<String, Value>,
    asks: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Version3 {
    rule: String,
    config: String,
    files: BTreeMap<String, String>,
    #[serde(default)]
    scope: BTreeMap<String, String>,
    asks: Vec<Value>,
}

/// What a real tool says to one question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Said {
    /// The rule and what was asked.
    case: String,
    /// Everything that the answer depends on.
    of: String,
    result: String,
    #[serde(default)]
    value: Value,
}

#[derive(Serialize, Deserialize)]
struct Answers {
    tools: BTreeMap<String, String>,
    answers: Vec<Said>,
}

fn table() -> Table {
    serde_yaml::from_str(TABLE).expect("the table is sound")
}

fn tree(id: String, files: BTreeMap<String, String>, facts: Value, queries: Vec<Query>) -> Tree {
    Tree { id, files, facts, queries }
}

fn plain(key: &str) -> Query {
    Query { keys: vec![key.to_owned()], ..Query::default() }
}

fn data_file(text: &str) -> BTreeMap<String, String> {
    [("environments/e/data/common.yaml", text), ("environments/e/hiera.yaml", "version: 5\n")]
        .map(|(name, text)| (name.to_owned(), text.to_owned()))
        .into()
}

/// The trees that Puppet answers, and by tree what ours says where it differs on purpose.
fn trees_of(table: &Table) -> (Vec<Tree>, BTreeMap<String, String>) {
    let (mut trees, mut apart) = (Vec::new(), BTreeMap::new());
    let node = json!({"clientcert": trees::NODE});
    for (group, texts) in &table.scalars {
        for (n, text) in texts.iter().enumerate() {
            let files = data_file(&format!("k: {text}\n"));
            trees.push(tree(format!("scalars, {group} {n}, {text:?}"), files, node.clone(), vec![plain("k")]));
        }
    }
    for document in &table.documents {
        let keys = if document.keys.is_empty() { vec!["k".to_owned()] } else { document.keys.clone() };
        let queries = keys.iter().map(|key| plain(key)).collect();
        let id = format!("documents, {}", document.rule);
        if let Some(ours) = &document.ours {
            apart.insert(id.clone(), ours.clone());
        }
        trees.push(tree(id, data_file(&document.data), node.clone(), queries));
    }
    for lookup in &table.lookups {
        let files = lookup.files.iter().map(|(name, text)| {
            let path = match name.as_str() {
                "hiera.yaml" => "environments/e/hiera.yaml".to_owned(),
                name if name.contains('/') => name.to_owned(),
                name => format!("environments/e/data/{name}"),
            };
            (path, text.clone())
        });
        let mut facts = lookup.facts.clone();
        facts.insert("clientcert".to_owned(), json!(trees::NODE));
        let queries = lookup.asks.iter().map(|ask| match ask {
            Value::String(key) => plain(key),
            other => serde_json::from_value(other.clone()).expect("an ask"),
        });
        trees.push(tree(format!("lookups, {}", lookup.rule), files.collect(), Value::Object(facts), queries.collect()));
    }
    (trees, apart)
}

/// What Puppet says to all trees, or what ours does.
fn ask_trees(trees: &[Tree], real: bool) -> Vec<Said> {
    let scratch = tempfile::tempdir().expect("a directory");
    let roots: Vec<_> = (0..trees.len()).map(|n| scratch.path().join(format!("t{n}"))).collect();
    for (tree, root) in trees.iter().zip(&roots) {
        lay_out(tree, root);
    }
    let mut answers = if real { theirs(trees, &roots, scratch.path()) } else { Vec::new() }.into_iter();
    let mut said = Vec::new();
    for (tree, root) in trees.iter().zip(&roots) {
        for query in &tree.queries {
            let (result, value) = match answers.next() {
                Some(answer) => (answer.result, answer.value),
                None => {
                    let (result, value, _) = ours(query, root);
                    (result, value)
                }
            };
            let case = format!("{}: {}", tree.id, serde_json::to_string(&asked(query)).expect("JSON"));
            let of = digest(&json!([tree.files, tree.facts, query]).to_string());
            said.push(Said { case, of, result, value });
        }
    }
    said
}

/// A query without what it leaves open.
fn asked(query: &Query) -> Value {
    let mut all = serde_json::to_value(query).expect("JSON");
    let fields = all.as_object_mut().expect("an object");
    fields.retain(|_, value| !matches!(value, Value::Null | Value::Bool(false)));
    match fields.get("keys").and_then(Value::as_array) {
        Some(keys) if fields.len() == 1 && keys.len() == 1 => keys[0].clone(),
        _ => all,
    }
}

/// Tells a changed case from the one that was answered.
fn digest(text: &str) -> String {
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    format!("{hash:016x}")
}

/// What the hiera command says to the cases of version 3, or what ours does.
fn ask_version3(cases: &[Version3], real: bool) -> Vec<Said> {
    let mut said = Vec::new();
    for case in cases {
        let scratch = tempfile::tempdir().expect("a directory");
        let root = scratch.path();
        for (name, text) in &case.files {
            fs::write(root.join(name), text).expect("write");
        }
        let config = root.join("hiera.yaml");
        fs::write(&config, case.config.replace("DATA", &root.display().to_string())).expect("write");
        fs::write(root.join("scope.json"), json!(case.scope).to_string()).expect("write");
        for ask in &case.asks {
            let key = ask.as_str().or_else(|| ask["key"].as_str()).expect("a key");
            let resolution = ask["resolution"].as_str();
            let (result, value) = match real {
                true => hiera(&config, key, resolution, case),
                false => ours3(root, key, resolution),
            };
            let of = digest(&json!([case.config, case.files, case.scope, ask]).to_string());
            said.push(Said { case: format!("version 3, {}: {ask}", case.rule), of, result, value });
        }
    }
    said
}

fn hiera(config: &Path, key: &str, resolution: Option<&str>, case: &Version3) -> (String, Value) {
    let mut command = Command::new("hiera");
    command.args(["-f", "json", "-c"]).arg(config);
    command.args(resolution.map(|resolution| format!("--{resolution}"))).arg(key);
    command.args(case.scope.iter().map(|(name, value)| format!("{name}={value}")));
    let output = command.output().expect("hiera runs");
    let text = String::from_utf8_lossy(&output.stdout);
    // It prints null for what is not there, and ends with 1 as for an error, which is a trace on stderr.
    match (text.trim(), output.status.success()) {
        ("null", _) => ("not_found".to_owned(), Value::Null),
        (text, true) => ("found".to_owned(), serde_json::from_str(text).expect("JSON")),
        (_, false) => ("error".to_owned(), Value::Null),
    }
}

fn ours3(root: &Path, key: &str, resolution: Option<&str>) -> (String, Value) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hiera-consul"));
    command.env_clear().env("STACKTIRA_ROOT", root.join("nowhere")).args(["lookup", "--render-as", "json", "--facts"]);
    command.arg(root.join("scope.json")).arg("--hiera_config").arg(root.join("hiera.yaml"));
    if let Some(resolution) = resolution {
        command.args(["--merge", if resolution == "array" { "unique" } else { "hash" }]);
    }
    let output = command.arg("--").arg(key).output().expect("the tool runs");
    match output.status.code() {
        Some(0) => match serde_json::from_slice(&output.stdout).expect("JSON") {
            // The hiera command says the same to null and to nothing.
            Value::Null => ("not_found".to_owned(), Value::Null),
            value => ("found".to_owned(), value),
        },
        Some(1) => ("not_found".to_owned(), Value::Null),
        _ => ("error".to_owned(), Value::Null),
    }
}

fn tools() -> BTreeMap<String, String> {
    let of = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().expect("it runs");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let psych = "require 'psych'; print Psych::VERSION, ' libyaml ', Psych::LIBYAML_VERSION";
    [
        ("puppet", of("puppet", &["--version"])),
        ("hiera", of("hiera", &["--version"])),
        ("psych", of("ruby", &["-e", psych])),
    ]
    .map(|(name, version)| (name.to_owned(), version))
    .into()
}

#[test]
fn every_rule_is_answered_as_the_real_tools_do() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rules/answers.json");
    let table = table();
    let (trees, apart) = trees_of(&table);
    if std::env::var_os("STACKTIRA_RULES").is_some_and(|value| value == "write") {
        assert!(puppet(), "there is no Ruby with Puppet");
        let mut answers = ask_trees(&trees, true);
        answers.extend(ask_version3(&table.version3, true));
        let text = serde_json::to_string_pretty(&Answers { tools: tools(), answers }).expect("JSON");
        fs::write(&path, text + "\n").expect("write");
    }
    let text = fs::read_to_string(&path).expect("answers.json");
    let answers: Answers = serde_json::from_str(&text).expect("answers");
    let mut mine = ask_trees(&trees, false);
    mine.extend(ask_version3(&table.version3, false));
    assert_eq!(answers.answers.len(), mine.len(), "the table has changed: make rules");
    let (mut differing, mut kinds) = (0, BTreeMap::<&str, usize>::new());
    for (theirs, ours) in answers.answers.iter().zip(&mine) {
        assert_eq!((&theirs.case, &theirs.of), (&ours.case, &ours.of), "the table has changed: make rules");
        *kinds.entry(&theirs.result).or_default() += 1;
        if let Some((_, wanted)) = apart.iter().find(|(id, _)| theirs.case.starts_with(&format!("{id}: "))) {
            assert_eq!(&ours.result, wanted, "{}", ours.case);
            continue;
        }
        // As text, so that the order of a hash counts.
        if (&theirs.result, theirs.value.to_string()) != (&ours.result, ours.value.to_string()) {
            differing += 1;
            let _ = writeln!(
                std::io::stderr(),
                "{}\n  real: {} {}\n  ours: {} {}",
                theirs.case,
                theirs.result,
                theirs.value,
                ours.result,
                ours.value
            );
        }
    }
    let _ = writeln!(std::io::stderr(), "{} cases: {kinds:?}, {differing} differ", mine.len());
    assert_eq!(differing, 0);
}
