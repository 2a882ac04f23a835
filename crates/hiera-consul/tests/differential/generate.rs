//! Makes trees: configurations, data, facts and queries that use most of what Hiera can do.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::json;

use super::trees::{NODE, Query, Tree};

/// A small generator of numbers: the same seed gives the same tree on every machine.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub(super) fn pick<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.below(list.len())]
    }
}

const KEYS: [&str; 9] = ["a", "b", "c", "h", "l", "m::x", "m::y", "m::h", "n::z"];
const SUBKEYS: [&str; 6] = ["k1", "k2", "k.3", "--k1", "0", "x y"];
const SCALARS: [&str; 68] = [
    "a:b",
    "!!str 7",
    "!!float 7",
    "!foo 7",
    "a#b",
    "\"a: b\"",
    "1",
    "-7",
    "0",
    "1.5",
    "true",
    "false",
    "yes",
    "no",
    "on",
    "Off",
    "~",
    "null",
    "0755",
    "0899",
    "0x1f",
    "0b101",
    "1_000",
    "1,000",
    "1e3",
    "1.5e+3",
    "1.5e3",
    ".5",
    "5.",
    "12:30:45",
    "1:2",
    "190:20:30.15",
    ".inf",
    "y",
    "text",
    "two words",
    "10.0.0.1",
    "a/b",
    "'0755'",
    "'yes'",
    "''",
    "\"a\\tb\"",
    "'it''s'",
    "\"\\u00fc\"",
    "--1",
    "--text",
    "'--'",
    "-text",
    "é",
    "18446744073709551616",
    "2024-02",
    "1.2.3",
    "TRUE",
    "NULL",
    "Null",
    "nUlL",
    "+12",
    "+.5",
    "0o17",
    "00",
    "08",
    "1__0",
    "_1",
    "1_",
    "0x",
    "12e03",
    "1.0",
    "100.0",
];
const TOKENS: [&str; 24] = [
    "%{role}",
    "%{::role}",
    "%{facts.role}",
    "%{facts.os.name}",
    "%{facts.list.1}",
    "%{facts.gone}",
    "%{gone}",
    "%{trusted.certname}",
    "%{trusted.hostname}",
    "%{environment}",
    "%{lookup('a')}",
    "%{hiera('b')}",
    "%{lookup('h.k1')}",
    "%{lookup('m::x')}",
    "%{lookup('l')}",
    "%{lookup('none')}",
    "%{literal('%')}",
    "%{scope('role')}",
    "%{ role }",
    "%{}",
    "%{::}",
    "%{lookup(\"c\")}",
    "%{facts.os}",
    "%{alias('c')}",
];

/// Makes tree number `n` of a seed.
pub(super) fn tree(id: &str, seed: u64, n: u64, queries: usize) -> Tree {
    let mut dice = Dice(seed.wrapping_mul(0x1_0000_0001).wrapping_add(n.wrapping_mul(7919)));
    let mut files = BTreeMap::new();
    if dice.chance(60) {
        let version3 = dice.chance(25);
        let text = if version3 { version3_config() } else { config(&mut dice, "global") };
        files.insert("global/hiera.yaml".to_owned(), text);
        layer_data(&mut dice, "global", "", &mut files);
    }
    if dice.chance(90) {
        files.insert("environments/e/hiera.yaml".to_owned(), config(&mut dice, "environment"));
    }
    layer_data(&mut dice, "environments/e", "", &mut files);
    if dice.chance(60) {
        files.insert("environments/e/modules/m/hiera.yaml".to_owned(), config(&mut dice, "module"));
        layer_data(&mut dice, "environments/e/modules/m", "m::", &mut files);
        files.insert("environments/e/modules/m/metadata.json".to_owned(), metadata());
    }
    let queries = (0..queries).map(|_| query(&mut dice)).collect();
    let facts = json!({
        "clientcert": NODE, "role": "web", "os": {"name": "debian", "n": 12}, "list": ["l0", "l1"], "empty": "", "zero": 0, "many": {"p": "x", "q": "y"},
    });
    Tree { id: id.to_owned(), files, facts, queries }
}

fn metadata() -> String {
    json!({"name": "t-m", "version": "1.0.0", "author": "t", "license": "x", "summary": "x", "source": "x", "dependencies": []}).to_string()
}

fn version3_config() -> String {
    "---\n:backends:\n  - yaml\n  - json\n:hierarchy:\n  - \"role/%{role}\"\n  - \"%{::gone}\"\n  - common\n:yaml:\n  :datadir: GLOBAL/data\n:json:\n  :datadir: GLOBAL/data\n".to_owned()
}

fn config(dice: &mut Dice, layer: &str) -> String {
    let mut text = String::from("version: 5\n");
    if dice.chance(40) {
        text.push_str("defaults:\n  datadir: data\n");
        text.push_str(dice.pick(&["  data_hash: yaml_data\n", "", "  data_hash: json_data\n"]));
    }
    if dice.chance(8) {
        return text;
    }
    text.push_str("hierarchy:\n");
    levels(dice, &mut text, "l");
    if layer == "module" && dice.chance(50) {
        text.push_str("default_hierarchy:\n");
        levels(dice, &mut text, "d");
    }
    text
}

fn levels(dice: &mut Dice, text: &mut String, prefix: &str) {
    for n in 0..=dice.below(3) {
        let json = dice.chance(20);
        let _ = writeln!(text, "  - name: \"{prefix}{n}\"");
        let _ = writeln!(text, "    data_hash: {}", if json { "json_data" } else { "yaml_data" });
        let end = if json { "json" } else { "yaml" };
        let location = match dice.below(9) {
            0 | 1 => format!("path: common.{end}"),
            2 => format!("path: \"role/%{{facts.role}}.{end}\""),
            3 => format!("paths: [\"role/%{{role}}.{end}\", none.{end}, common.{end}]"),
            4 => format!("glob: \"role/*.{end}\""),
            5 => format!("globs: [\"{{common,extra}}.{end}\", \"r?le/**/*.{end}\"]"),
            6 => format!("mapped_paths: [facts.list, item, \"map/%{{item}}.{end}\"]"),
            7 => format!("mapped_paths: [facts.many, item, \"map/%{{item.1}}.{end}\"]"),
            _ => format!("path: \"%{{trusted.hostname}}/%{{facts.gone}}extra.{end}\""),
        };
        let _ = writeln!(text, "    {location}");
        if dice.chance(10) {
            let _ = writeln!(text, "    datadir: \"da%{{literal}}ta\"");
        }
    }
}

fn layer_data(dice: &mut Dice, root: &str, prefix: &str, files: &mut BTreeMap<String, String>) {
    for name in ["common", "extra", "role/web", "role/db", "map/l0", "map/l1", "map/x", "node1/extra"] {
        if dice.chance(if name == "common" { 95 } else { 50 }) {
            files.insert(format!("{root}/data/{name}.yaml"), data(dice, prefix));
        }
        if dice.chance(40) {
            files.insert(format!("{root}/data/{name}.json"), json_data(dice, prefix));
        }
    }
}

fn key(dice: &mut Dice, prefix: &str) -> &'static str {
    if prefix.is_empty() { dice.pick(&KEYS) } else { dice.pick(&["m::x", "m::y", "m::h", "m::x", "b"]) }
}

fn data(dice: &mut Dice, prefix: &str) -> String {
    if dice.chance(3) {
        return dice.pick(&["", "---\n", "[1, 2]\n", "text\n", "~\n", "false\n"]).to_owned();
    }
    let mut text = String::from(dice.pick(&["", "---\n"]));
    let mut options = String::new();
    for _ in 0..=dice.below(6) {
        let name = key(dice, prefix);
        let depth = dice.below(4);
        let value = match (name.ends_with('h'), name.ends_with('l')) {
            (true, _) if dice.chance(85) => hash(dice, 1 + depth / 2),
            (_, true) if dice.chance(85) => list(dice, 1 + depth / 2),
            _ => value(dice, depth),
        };
        let _ = writeln!(text, "{name}: {value}");
        if dice.chance(25) {
            let pattern = match (dice.below(4), prefix) {
                (0, "") => "\"^[ah]$\"".to_owned(),
                (1, _) => "\"^m::\"".to_owned(),
                _ => name.to_owned(),
            };
            if (prefix.is_empty() || pattern.contains("m::")) && !options.contains(&format!("  {pattern}:")) {
                let _ = writeln!(options, "  {pattern}: {}", option(dice));
            }
        }
    }
    if !options.is_empty() {
        let _ = write!(text, "lookup_options:\n{options}");
    }
    text
}

fn option(dice: &mut Dice) -> String {
    let merge = dice.pick(&[
        "merge: unique",
        "merge: hash",
        "merge: deep",
        "merge: first",
        "merge: {strategy: deep, knockout_prefix: \"--\"}",
        "merge: {strategy: deep, merge_hash_arrays: true}",
        "merge: {strategy: deep, sort_merged_arrays: true}",
        "merge: {strategy: unique}",
    ]);
    match dice.below(8) {
        0 => "{convert_to: String}".to_owned(),
        1 => format!("{{{merge}, convert_to: Array}}"),
        _ => format!("{{{merge}}}"),
    }
}

fn string(dice: &mut Dice) -> String {
    let mut text = String::new();
    for _ in 0..=dice.below(2) {
        text.push_str(dice.pick(&["", "x", " ", "p:", "-"]));
        text.push_str(dice.pick(&TOKENS));
    }
    text
}

fn value(dice: &mut Dice, depth: usize) -> String {
    match dice.below(10) {
        0 | 1 if depth > 0 => list(dice, depth),
        2 | 3 if depth > 0 => hash(dice, depth),
        4 | 5 => format!("'{}'", string(dice).replace('\'', "''")),
        _ => dice.pick(&SCALARS).to_owned(),
    }
}

/// What stands in brackets; a comma in a scalar makes two of it there, and a colon may be refused.
fn inner(dice: &mut Dice, depth: usize) -> String {
    value(dice, depth.saturating_sub(1))
}

fn list(dice: &mut Dice, depth: usize) -> String {
    let items: Vec<_> = (0..dice.below(4)).map(|_| inner(dice, depth)).collect();
    format!("[{}]", items.join(", "))
}

fn hash(dice: &mut Dice, depth: usize) -> String {
    let mut pairs = BTreeMap::new();
    for _ in 0..dice.below(4) {
        let value = inner(dice, depth);
        pairs.insert(dice.pick(&SUBKEYS), value);
    }
    let pairs: Vec<_> = pairs.into_iter().map(|(k, v)| format!("{k}: {v}")).collect();
    format!("{{{}}}", pairs.join(", "))
}

fn json_data(dice: &mut Dice, prefix: &str) -> String {
    let mut all = serde_json::Map::new();
    for _ in 0..=dice.below(4) {
        let value = json_value(dice, 2);
        all.insert(key(dice, prefix).to_owned(), value);
    }
    serde_json::Value::from(all).to_string()
}

fn json_value(dice: &mut Dice, depth: usize) -> serde_json::Value {
    match dice.below(9) {
        0 if depth > 0 => (0..dice.below(4)).map(|_| json_value(dice, depth - 1)).collect(),
        1 if depth > 0 => {
            let pairs = (0..dice.below(4)).map(|_| (dice.pick(&SUBKEYS).to_owned(), json_value(dice, depth - 1)));
            serde_json::Value::Object(pairs.collect())
        }
        2 => json!(null),
        3 => json!(dice.chance(50)),
        4 => json!(dice.below(100)),
        5 => json!(1.25),
        6 => json!(string(dice)),
        _ => json!(dice.pick(&["s", "--s", "", "yes", "0755", "é"])),
    }
}

fn query(dice: &mut Dice) -> Query {
    let mut query = Query::default();
    for _ in 0..1 + usize::from(dice.chance(10)) {
        let root = dice.pick(&KEYS);
        query.keys.push(match dice.below(12) {
            0 => format!("{root}.{}", dice.pick(&["k1", "'k.3'", "0", "1", "k2.k1", "-1", "'--k1'"])),
            1 => "h.k1".to_owned(),
            2 => "l.0".to_owned(),
            3 => dice
                .pick(&["none", "lookup_options", "m", "m::none", "::a", "a.", "'a'", "h.'x y'", "", "A"])
                .to_owned(),
            _ => root.to_owned(),
        });
    }
    if dice.chance(45) {
        let merge = dice.pick(&["first", "unique", "hash", "deep", "deep"]);
        if merge == "deep" {
            query.knockout = dice.chance(30).then(|| "--".to_owned());
            query.sort = dice.chance(20);
            query.hashes = dice.chance(25);
        }
        query.merge = Some(merge.to_owned());
    }
    query.default = dice.chance(10).then(|| "dflt".to_owned());
    query
}
