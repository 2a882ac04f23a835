//! Properties that hold for any input: nothing panics, nothing takes long, and what is written is read back.
//!
//! Inputs are made from a seed, by damaging sound ones and by joining the parts that matter to a parser.
//! `STACKTIRA_ROUNDS` makes a longer run, `STACKTIRA_SEED` another one.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hiera_consul::engine::{ConsulSource, Engine, Entry, Sources};
use hiera_consul::error::Error;
use hiera_consul::key::Key;
use hiera_consul::psych;
use hiera_consul::scope::Scope;
use hiera_consul::types::Expected;
use hiera_consul::value::{Hash, Value};

struct Dice(u64);

impl Dice {
    fn new(test: u64) -> Dice {
        let seed: u64 = std::env::var("STACKTIRA_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ test)
    }

    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }

    fn pick<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.below(list.len())]
    }

    fn join(&mut self, parts: &[&str], most: usize) -> String {
        (0..self.below(most)).map(|_| self.pick(parts)).collect()
    }

    /// Damages a text: bytes lost, doubled, changed or moved.
    fn damage(&mut self, text: &str) -> Vec<u8> {
        let mut bytes = text.as_bytes().to_vec();
        for _ in 0..=self.below(4) {
            if bytes.is_empty() {
                return bytes;
            }
            let at = self.below(bytes.len());
            match self.below(5) {
                0 => drop(bytes.remove(at)),
                1 => bytes[at] = self.below(256) as u8,
                2 => bytes.insert(at, bytes[at]),
                3 => bytes.truncate(at),
                _ => {
                    let end = at + self.below(bytes.len() - at);
                    let part = bytes[at..end].to_vec();
                    let to = self.below(bytes.len());
                    bytes.splice(to..to, part);
                }
            }
        }
        bytes
    }
}

fn rounds(usual: usize) -> usize {
    std::env::var("STACKTIRA_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// What parsers of YAML decide on.
const YAML: [&str; 44] = [
    "a: ",
    "b: ",
    "- ",
    "\n",
    "\n  ",
    "\n    ",
    "[",
    "]",
    "{",
    "}",
    ", ",
    ": ",
    "? ",
    "| ",
    "> ",
    "|-\n  x",
    "&x ",
    "*x",
    "<<: ",
    "!!str ",
    "!ruby/sym ",
    "!ruby/object:A ",
    "'",
    "\"",
    "\\",
    "#",
    " #c\n",
    "---\n",
    "...\n",
    "yes",
    "0755",
    "1_0",
    "12:30",
    "-",
    "2024-01-02",
    ".inf",
    "1e3",
    ":s",
    "~",
    "%{",
    "}",
    "\t",
    "é",
    "\u{feff}",
];

const TOKENS: [&str; 30] = [
    "%{",
    "}",
    "%{a}",
    "%{lookup('k')}",
    "%{lookup(\"k\")}",
    "%{hiera('r')}",
    "%{alias('k')}",
    "%{alias('r')}",
    "%{literal('%')}",
    "%{scope('a')}",
    "%{facts.a}",
    "%{facts.a.0.b}",
    "%{::a}",
    "%{}",
    "%{''}",
    "%{a.'b'}",
    "%{a..b}",
    "%{f(",
    "('",
    "')",
    "'",
    "\"",
    "%",
    "{",
    ".",
    "::",
    " ",
    "x",
    "é",
    "\n",
];

/// Nothing is in Consul.
struct Nothing;

impl ConsulSource for Nothing {
    fn announce(&self, _: &Hash) {}

    fn lookup(&self, _: &Hash, _: &str) -> Result<Option<Value>, Error> {
        Ok(None)
    }

    fn version3(
        &self,
        _: &Hash,
        _: &str,
        _: &mut dyn FnMut(&str) -> Result<String, Error>,
    ) -> Result<(Option<Value>, Option<String>), Error> {
        Ok((None, None))
    }

    fn entries(&self, _: &Hash) -> Result<Vec<Entry>, Error> {
        Ok(Vec::new())
    }

    fn notices(&self) -> Vec<String> {
        Vec::new()
    }

    fn place(&self, _: &Hash) -> Option<String> {
        None
    }
}

#[test]
fn yaml_is_read_or_refused_and_what_is_written_is_read_back() {
    let mut dice = Dice::new(1);
    let sound =
        "a: &x {b: [1, 'two', yes]}\nc: *x\nd: |\n  text\n  more\ne:\n- 0755\n- 12:30:45\n<<: {f: ~}\n\"g\": 1.5\n";
    let began = Instant::now();
    let (count, mut read) = (rounds(6000), 0);
    for round in 0..count {
        let input = if round % 2 == 0 { dice.damage(sound) } else { dice.join(&YAML, 24).into_bytes() };
        let one = Instant::now();
        if let Ok(value) = psych::load(&input) {
            read += 1;
            // Symbols and numbers that are none have no form of their own.
            let text = value.to_yaml();
            if value.is_data() && value.to_json().is_some() {
                let back = psych::load(text.as_bytes());
                let shown = String::from_utf8_lossy(&input);
                assert_eq!(back.ok().as_ref(), Some(&value), "{shown:?} was written as {text:?}");
            }
        }
        assert!(one.elapsed() < Duration::from_secs(1), "{:?}", String::from_utf8_lossy(&input));
    }
    assert!(read > count / 10, "only {read} of {count} were YAML");
    assert!(began.elapsed() < Duration::from_secs(60));
}

#[test]
fn scalars_are_resolved_or_refused() {
    let mut dice = Dice::new(2);
    let parts = [
        "0", "1", "9", "7", "_", ",", ":", ".", "-", "+", "e", "E", "x", "b", "o", "f", " ", "T", "Z", "yes", "~", "é",
        "00",
    ];
    for _ in 0..rounds(60_000) {
        let text = dice.join(&parts, 14);
        if let Ok(value) = psych::scalar(&text) {
            // A number comes back as itself.
            if matches!(value, Value::Int(_) | Value::Bool(_)) {
                assert_eq!(psych::scalar(&value.inspect()).ok(), Some(value), "{text:?}");
            }
        }
    }
}

#[test]
fn limits_hold_for_hostile_documents() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for n in 1..12 {
        let again = vec![format!("*a{}", n - 1); 9].join(", ");
        bomb.push_str(&format!("a{n}: &a{n} [{again}]\n"));
    }
    let deep = format!("{}{}", "[".repeat(400_000), "]".repeat(400_000));
    let wide = "- some word\n".repeat(90_000);
    let keys: String = (0..60_000).map(|n| format!("key{n}: v\n")).collect();
    for (input, sound) in [(bomb, false), (deep, false), (wide, true), (keys, true), ("a: \u{0}\n".to_owned(), false)] {
        let began = Instant::now();
        assert_eq!(psych::load(input.as_bytes()).is_ok(), sound, "{:.40}", input);
        assert!(began.elapsed() < Duration::from_secs(5), "{:.40}", input);
    }
    assert!(psych::load(b"a: \xff\xfe\n").is_err());
}

#[test]
fn keys_and_types_are_parsed_or_refused() {
    let mut dice = Dice::new(3);
    let keys = ["a", ".", "'", "\"", "0", "-1", "::", " ", "é", "b c", "%{", "99999999999999999999"];
    let types = [
        "Array", "Hash", "String", "Integer", "Optional", "Variant", "Enum", "[", "]", ",", " ", "1", "default", "'x'",
        "-", "Data",
    ];
    for _ in 0..rounds(20_000) {
        let text = dice.join(&keys, 10);
        if let Ok(key) = Key::parse(&text, String::new) {
            assert_eq!(key.text, text);
        }
        drop(Expected::parse(&dice.join(&types, 14)));
    }
    assert!(Expected::parse(&"Optional[".repeat(100_000)).is_err());
}

#[test]
fn interpolation_ends() {
    let mut dice = Dice::new(4);
    let scratch = tempfile::tempdir().expect("a directory");
    let config = scratch.path().join("hiera.yaml");
    std::fs::write(&config, "version: 5\n").expect("write");
    std::fs::create_dir(scratch.path().join("data")).expect("mkdir");
    let quoted = |text: &str| serde_json::Value::String(text.to_owned()).to_string();
    for round in 0..rounds(1500) {
        let [k, r, s] = [(); 3].map(|()| dice.join(&TOKENS, 7));
        let data = format!("k: {}\nr: [{}, {{{}: 1}}]\n", quoted(&k), quoted(&r), quoted(&s));
        std::fs::write(scratch.path().join("data/common.yaml"), &data).expect("write");
        let facts = [(Value::from("a"), Value::from(if round % 2 == 0 { "v" } else { "%{lookup('k')}" }))];
        let scope = Scope::new("n1", None, facts.into_iter().collect());
        let sources = Sources { hiera_config: Some(config.clone()), environment: None };
        let engine = Engine::new(sources, scope, Box::new(Nothing));
        let one = Instant::now();
        for key in ["k", "r", "r.0"] {
            if let Ok(Some(value)) = engine.lookup_first(&[key.to_owned()], None) {
                drop(value.to_json());
            }
        }
        assert!(one.elapsed() < Duration::from_secs(2), "{data}");
    }
}

#[test]
fn every_request_of_the_coprocess_gets_one_answer() {
    let mut dice = Dice::new(5);
    let sound = [
        r#"{"id":1,"op":"snapshot","options":{"prefix":"hiera/","format":"auto"}}"#,
        r#"{"id":2,"op":"lookup","options":{"services":true},"key":"web_Address"}"#,
        r#"{"id":3,"op":"services","tag":"t","passing":true}"#,
        r#"{"id":"4","op":"leader","name":"db"}"#,
        r#"{"id":5,"op":"wait","key":"k","timeout":0}"#,
        r#"{"id":6,"op":"version3","run":"r","settings":{"host":"127.0.0.1","port":1},"paths":["services","/v1/kv/a"],"key":"k"}"#,
    ];
    let mut lines = Vec::new();
    for round in 0..rounds(1200) {
        let mut line = dice.damage(sound[round % sound.len()]);
        // Whole lines are asked, and a damaged wait must not wait.
        line.retain(|byte| *byte != b'\n');
        let text = String::from_utf8_lossy(&line).into_owned();
        let long_wait = text.contains("timeout") && !text.contains("\"timeout\":0}");
        if text.trim().is_empty() || long_wait || line.len() > 1 << 20 {
            continue;
        }
        lines.push(line);
    }
    lines.push([b"{\"id\":7,\"x\":\"".to_vec(), vec![b'x'; 2 << 20], b"\"}".to_vec()].concat());
    lines.push("[".repeat(100_000).into_bytes());
    lines.push(br#"{"id":"last","op":"none"}"#.to_vec());
    let scratch = tempfile::tempdir().expect("a directory");
    let mut child = Command::new(env!("CARGO_BIN_EXE_hiera-consul"))
        .args(["--http-addr", "127.0.0.1:1", "serve"])
        .env_clear()
        .env("STACKTIRA_ROOT", scratch.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut input = child.stdin.take().expect("piped");
    let all = lines.join(&b'\n');
    let writer = std::thread::spawn(move || {
        // It ends early only when the process died, which the count below shows.
        drop(input.write_all(&all).and_then(|()| input.write_all(b"\n")));
    });
    let output = child.wait_with_output().expect("it ends");
    writer.join().expect("it wrote");
    assert!(output.status.success(), "{:?}", output.status);
    let answers: Vec<serde_json::Value> = output
        .stdout
        .split(|b| *b == b'\n')
        .filter(|l| !l.is_empty())
        .map(|l| serde_json::from_slice(l).expect("JSON"))
        .collect();
    assert_eq!(answers.len(), lines.len());
    for answer in &answers {
        let error = &answer["error"];
        assert!(error.is_null() || error["code"].is_u64() && error["message"].is_string(), "{answer}");
    }
    assert_eq!(answers.last().map(|a| a["id"].clone()), Some("last".into()));
}
