//! Random YAML documents: what `hiera-consul` and Puppet's own reader make of them.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use hiera_consul::psych;
use hiera_consul::value::Value;

use super::generate::Dice;

/// What parsers of YAML decide on.
const PARTS: [&str; 92] = [
    "a",
    "b",
    "k",
    "a: ",
    "b: ",
    "? ",
    "- ",
    "-",
    ":",
    ": ",
    ", ",
    ",",
    "[",
    "]",
    "{",
    "}",
    "\n",
    "\n",
    "\n ",
    "\n  ",
    "\n    ",
    "\n- ",
    "\n  - ",
    "&x ",
    "&y ",
    "*x",
    "*y",
    "<<: ",
    "<<: *x",
    "!!str ",
    "!!int ",
    "!!float ",
    "!!binary ",
    "!!omap ",
    "!!set ",
    "!ruby/sym ",
    "!ruby/object:A ",
    "!foo ",
    "! ",
    "!",
    "'",
    "\"",
    "'a'",
    "\"a\"",
    "\\",
    "\\n",
    "\\x41",
    "|",
    ">",
    "|\n  x\n",
    ">-\n  x\n  y\n",
    "|+\n  x\n\n",
    "#",
    " #c\n",
    "---\n",
    "--- ",
    "...\n",
    "%YAML 1.1\n",
    "%TAG ! x\n",
    "yes",
    "No",
    "~",
    "null",
    "0755",
    "0x1f",
    "0b11",
    "1_0",
    "1,0",
    "12:30",
    "1:2",
    "2024-01-02",
    "2024-01-02 10:00:00",
    ".inf",
    ".5",
    "5.",
    "1e3",
    "1.5e+3",
    "+1",
    "-1",
    ":s",
    ":\"s\"",
    "=",
    "%",
    "@",
    "`",
    "\t",
    "\r\n",
    "\r",
    "\u{e9}",
    "\u{feff}",
    "\u{85}",
    "\u{2028}",
];

/// What once was read otherwise than Puppet reads it.
const REGRESSIONS: [&str; 16] = [
    ":\"a\"b\"c",
    ":'a'b\"",
    ":\":a\"",
    "\u{feff}a: 1\nb: 2\n",
    "!!float 1_0e5",
    "!!binary aGFsbG8=aGFsbG8=",
    "!!binary =aGFsbG8",
    ":\"s\"'a': !!float .51_0",
    "- !!float .5\n- !!float -.5e3\n",
    "\n     #c\n&x \r<<: *x",
    "&x \u{2028}<<: *x\r",
    "&x \na: 1\n<<: *x\nb: 2",
    "2024-01-02 10:00:00\u{2028}-1 #c\n*x",
    "No\n\n~, ",
    "a: no\n\n  off\nb: on\n\n  x\n",
    "\u{662}\u{660}\u{662}\u{664}-01-02",
];

/// Makes a document.
fn document(dice: &mut Dice) -> String {
    (0..=dice.below(14)).map(|_| dice.pick(&PARTS)).collect()
}

/// Writes a value with its types, as `documents.rb` does.
fn meaning(value: &Value) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => format!("i{value}"),
        Value::Big(digits) => format!("i{digits}"),
        Value::Float(value) if value.is_nan() => "fnan".to_owned(),
        Value::Float(value) => format!("f{}", hex(&value.to_be_bytes())),
        Value::String(text) => format!("\"{}\"", hex(text.as_bytes())),
        Value::Symbol(text) => format!(":\"{}\"", hex(text.as_bytes())),
        Value::Array(items) => format!("[{}]", items.iter().map(meaning).collect::<Vec<_>>().join(",")),
        Value::Hash(hash) => {
            let pairs: Vec<_> = hash.iter().map(|(key, item)| format!("{}={}", meaning(key), meaning(item))).collect();
            format!("{{{}}}", pairs.join(","))
        }
    }
}

/// Compares what once differed and `count` documents; returns how many differ, and says which.
pub(super) fn compare(count: usize, seed: u64, scratch: &Path) -> usize {
    let mut dice = Dice::new(seed ^ 0x5eed);
    let random = (0..count).map(|_| document(&mut dice));
    let documents: Vec<String> = REGRESSIONS.iter().map(|text| (*text).to_owned()).chain(random).collect();
    let list = scratch.join("documents.json");
    fs::write(&list, serde_json::to_vec(&documents).expect("JSON")).expect("write");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/differential/documents.rb");
    let output = Command::new("ruby").arg(script).arg(&list).output().expect("ruby runs");
    let theirs: Vec<String> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    assert_eq!(theirs.len(), documents.len(), "{}", String::from_utf8_lossy(&output.stderr));
    let (mut differing, mut sound) = (0, 0);
    for (document, theirs) in documents.iter().zip(&theirs) {
        let ours = psych::load(document.as_bytes()).map_or_else(|_| "error".to_owned(), |value| meaning(&value));
        sound += usize::from(theirs != "error");
        // No document is false to Ruby, and nothing to us; neither is data.
        if ours != *theirs && (theirs.as_str(), ours.as_str()) != ("false", "null") {
            differing += 1;
            let _ = writeln!(std::io::stderr(), "--- {document:?}\n  Puppet: {theirs}\n  ours:   {ours}");
        }
    }
    let _ = writeln!(std::io::stderr(), "{count} documents ({sound} sound), seed {seed}: {differing} differ");
    differing
}
