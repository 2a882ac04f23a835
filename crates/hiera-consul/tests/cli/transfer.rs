//! Data files to Consul and back.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use serde_json::json;
use test_support::consul::{FakeConsul, Fault};
use test_support::real_consul::RealConsul;

use super::{Ran, Scratch};

/// Values of every kind, and text that looks like other kinds.
const COMMON: &str = "text: hello
lines: |
  one
    two

  three
number: 42
as_text: '42'
float: 1.50
whole: 2.0
octal: 0755
octal_text: '0755'
yes_: yes
yes_text: 'yes'
nothing: ~
nothing_text: 'null'
empty: ''
space: ' '
quote: \"\\\"\"
brace: '{'
json_text: '{\"a\": 1}'
list: [1, '2', [], {}, ~, [x]]
hash: {z: 1, a: {'1': b, c.d: ~, 'e/f': [g]}}
token: \"%{facts.role} %{lookup('text')}\"
umlaut: \"\\u00fc\\U0001F600\\t\"
large: 9223372036854775807
tail: \"x\\n\"
lookup_options: {list: {merge: unique}, '^h': {merge: deep}}
a::b: module
with space: 1
";

struct World {
    scratch: Scratch,
    url: String,
}

impl World {
    fn new(url: String) -> World {
        let scratch = Scratch::new();
        scratch.write("data/common.yaml", COMMON);
        scratch.write("data/node/n1.yaml", "# of one node\ntext: node\nonly: {here: true}\n");
        scratch.write("data/node/n2.json", r#"{"text": "json", "n": 1.50}"#);
        scratch.write("data/README.md", "no data\n");
        scratch.write("data/.hidden.yaml", "no: data\n");
        World { scratch, url }
    }

    fn run(&self, args: &[&str]) -> Ran {
        self.scratch.command().env("CONSUL_HTTP_ADDR", &self.url).args(args).output().expect("it runs").into()
    }

    #[track_caller]
    fn done(&self, args: &[&str]) -> Ran {
        let ran = self.run(args);
        assert_eq!(ran.code, 0, "{args:?}: {} {}", ran.out, ran.err);
        ran
    }

    /// What a lookup says with one level, as JSON.
    fn value(&self, level: &str, key: &str) -> (i32, String) {
        let config = self.scratch.write("level.yaml", &format!("version: 5\nhierarchy: [{{name: l, {level}}}]\n"));
        let facts = self.scratch.write("facts.json", r#"{"role": "web"}"#);
        let (config, facts) = (config.display().to_string(), facts.display().to_string());
        let ran = self.run(&["lookup", "--hiera_config", &config, "--facts", &facts, "--render-as", "json", key]);
        assert!(matches!(ran.code, 0 | 1), "{key}: {}", ran.err);
        (ran.code, ran.out)
    }

    /// Every key of a file is the same through Consul.
    #[track_caller]
    fn same(&self, file: &str, options: &str) {
        let text = std::fs::read_to_string(self.scratch.path(&format!("data/{file}"))).expect("there");
        let keys: Vec<&str> = text
            .lines()
            .filter(|line| !line.starts_with([' ', '{', '#']))
            .filter_map(|line| line.split_once(':').map(|(key, rest)| if rest.starts_with(':') { "a::b" } else { key }))
            .filter(|key| !key.is_empty() && *key != "lookup_options")
            .collect();
        assert!(!keys.is_empty() || file.ends_with(".json"));
        for key in keys.into_iter().chain(["none"]) {
            let of_file = self.value(&format!("datadir: data, path: {file}"), key);
            let of_consul = self.value(&format!("lookup_key: 'stacktira::consul', options: {{{options}}}"), key);
            assert_eq!(of_consul, of_file, "{key}");
        }
    }
}

fn bytes(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// There and back, in each form.
fn round_trip(url: &str) {
    let world = World::new(url.to_owned());
    for format in ["auto", "json", "yaml"] {
        let prefix = format!("hiera-{format}/");
        let form = ["--format", format, "--prefix", &prefix];
        let import = |more: &[&str]| world.run(&[&["import"], &form[..], more, &["data"]].concat());
        let ran = import(&["--dry-run"]);
        assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{}", ran.err);
        assert_eq!(import(&[]).code, 0);
        assert_eq!(
            import(&["--dry-run", "--delete", "--diff"]),
            Ran { code: 0, out: String::new(), err: String::new() }
        );
        world.same("common.yaml", &format!("prefix: {prefix}common/, format: {format}"));
        world.same("node/n1.yaml", &format!("prefix: {prefix}node/n1/, format: {format}"));
        let n = world.value(
            &format!("lookup_key: 'stacktira::consul', options: {{prefix: {prefix}node/n2/, format: {format}}}"),
            "n",
        );
        assert_eq!(n, (0, "1.5\n".to_owned()));
        // Files that say the same are left alone, comments and all.
        let before = bytes(&world.scratch.path("data/node/n1.yaml"));
        world.done(&[&["export"], &form[..], &["--delete", "data"]].concat());
        assert_eq!(bytes(&world.scratch.path("data/node/n1.yaml")), before);
        // A tree that is made of Consul alone says the same again.
        let fresh = format!("fresh-{format}");
        world.done(&[&["export"], &form[..], &[&fresh]].concat());
        let ran = world.done(&[&["import", "--dry-run", "--delete", "--diff"], &form[..], &[&fresh]].concat());
        assert_eq!(ran.out, "");
        let mode =
            std::fs::metadata(world.scratch.path(&format!("{fresh}/node/n2.yaml"))).expect("there").permissions();
        assert_eq!(mode.mode() & 0o7777, 0o640);
    }
    // Whole files, byte for byte.
    let form = ["--document", "data", "--prefix", "docs/"];
    world.done(&[&["import"], &form[..], &["data"]].concat());
    world.same("common.yaml", "prefix: docs/common/, document: data");
    world.done(&[&["export"], &form[..], &["copy"]].concat());
    for (from, to) in
        [("common.yaml", "common.yaml"), ("node/n1.yaml", "node/n1.yaml"), ("node/n2.json", "node/n2.yaml")]
    {
        let (from, to) = (world.scratch.path(&format!("data/{from}")), world.scratch.path(&format!("copy/{to}")));
        assert_eq!(bytes(&from), bytes(&to));
    }
    // One file, with folders.
    let form = ["--folders", "--prefix", "tree/"];
    world.done(&[&["import"], &form[..], &["data/common.yaml"]].concat());
    world.same("common.yaml", "prefix: tree/, folders: true");
    world.done(&[&["export"], &form[..], &["folders.yaml"]].concat());
    let ran = world.done(&[&["import", "--dry-run", "--delete"], &form[..], &["folders.yaml"]].concat());
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
}

#[test]
fn what_goes_to_consul_comes_back() {
    let consul = FakeConsul::start();
    round_trip(&consul.url());
    // A hash that can be one is a folder; one with a slash in a key, or in another order, is one value.
    assert_eq!(consul.get("tree/hash").as_deref(), Some(&br#"{"z":1,"a":{"1":"b","c.d":null,"e/f":["g"]}}"#[..]));
    assert_eq!(consul.get("tree/lookup_options").map(|v| v.is_empty()), Some(false));
    assert_eq!(consul.get("hiera-auto/common/as_text").as_deref(), Some(&b"\"42\""[..]));
    assert_eq!(consul.get("hiera-auto/common/text").as_deref(), Some(&b"hello"[..]));
}

#[test]
fn a_real_consul_takes_and_gives_it_back() {
    let Some(consul) = RealConsul::start(&json!({})) else { return };
    round_trip(&consul.url());
    let world = World::new(consul.url());
    let many: String = (0..150).map(|n| format!("key{n}: {}\n", "x".repeat(n * 100))).collect();
    world.scratch.write("many/all.yaml", &format!("{many}large: {}\n", "y".repeat(512 * 1024)));
    let ran = world.done(&["import", "-v", "--prefix", "many/", "many"]);
    assert!(ran.err.contains("151 values added") && ran.err.contains("transactions"), "{}", ran.err);
    world.same("../many/all.yaml", "prefix: many/all/");
    world.scratch.write("many/all.yaml", "key1: new\n");
    world.done(&["import", "--delete", "--prefix", "many/", "many"]);
    let ran = world.done(&["export", "--diff", "--prefix", "many/", "left"]);
    assert_eq!(ran.out, "+ many/all/key1: \"new\"\n");
}

#[test]
fn differences_are_shown_and_nothing_is_removed_unasked() {
    let consul = FakeConsul::start();
    let world = World::new(consul.url());
    world.scratch.write("d/c.yaml", "a: 1\nb: {x: 2}\n");
    consul.put("h/c/b", b"3");
    consul.put("h/c/old", b"text");
    consul.put("h/gone/k", b"v");
    consul.put("h/folder/", b"");
    consul.put("hc/other", b"v");
    let diff = "+ h/c/a: 1\n~ h/c/b: 3 -> {\"x\":2}\n  h/c/old: \"text\" (kept: --delete removes it)\n  \
                h/gone/k: \"v\" (kept: --delete removes it)\n";
    let ran = world.run(&["import", "--dry-run", "--diff", "--prefix", "h", "d"]);
    assert_eq!((ran.code, ran.out.as_str()), (1, diff));
    assert_eq!((consul.get("h/c/a"), consul.requests().iter().any(|r| r.starts_with("PUT /v1/kv"))), (None, false));
    let ran = world.done(&["import", "-v", "--diff", "--prefix", "h", "d"]);
    assert_eq!(ran.out, diff);
    assert!(ran.err.contains("1 values added, 1 changed, 2 more are kept"), "{}", ran.err);
    assert_eq!(consul.get("h/c/old").as_deref(), Some(&b"text"[..]));
    let ran = world.run(&["import", "--dry-run", "--prefix", "h", "d"]);
    assert_eq!(ran.code, 0, "what is kept is no difference: {}", ran.err);
    let ran = world.run(&["import", "--dry-run", "--delete", "--diff", "--prefix", "h", "d"]);
    assert_eq!((ran.code, ran.out.as_str()), (1, "- h/c/old: \"text\"\n- h/gone/k: \"v\"\n"));
    assert!(consul.get("h/gone/k").is_some());
    world.done(&["import", "--delete", "--prefix", "h", "d"]);
    assert_eq!((consul.get("h/c/old"), consul.get("h/gone/k")), (None, None));
    assert!(consul.get("hc/other").is_some() && consul.get("h/folder/").is_some());
    // The other way.
    consul.put("h/new/k", b"[1]");
    world.scratch.write("d/extra.yaml", "# c\nk: 1\n");
    world.scratch.write("d/c.yaml", "a: 0\nown: 1\n");
    let ran = world.run(&["export", "--dry-run", "--diff", "--prefix", "h/", "d"]);
    let diff = "~ h/c/a: 0 -> 1\n+ h/c/b: {\"x\":2}\n+ h/new/k: [1]\n  h/c/own: 1 (kept: --delete removes it)\n  \
                h/extra/k: 1 (kept: --delete removes it)\n";
    assert_eq!((ran.code, ran.out.as_str()), (1, diff));
    world.done(&["export", "--prefix", "h/", "d"]);
    let text = |name: &str| std::fs::read_to_string(world.scratch.path(name)).ok();
    assert_eq!(text("d/c.yaml").as_deref(), Some("---\na: 1\nb:\n  x: 2\nown: 1\n"));
    assert_eq!(text("d/extra.yaml").as_deref(), Some("# c\nk: 1\n"));
    world.done(&["export", "--delete", "--prefix", "h/", "d"]);
    assert_eq!(text("d/c.yaml").as_deref(), Some("---\na: 1\nb:\n  x: 2\n"));
    assert_eq!((text("d/extra.yaml"), text("d/new.yaml").as_deref()), (None, Some("---\nk:\n- 1\n")));
}

#[test]
fn a_large_import_says_that_it_is_several_transactions() {
    let consul = FakeConsul::start();
    let world = World::new(consul.url());
    let keys: String = (0..130).map(|n| format!("k{n}: {n}\n")).collect();
    world.scratch.write("d/c.yaml", &keys);
    let ran = world.done(&["import", "-v", "--prefix", "h", "d"]);
    assert!(
        ran.err.contains("130 values added") && ran.err.contains("in 3 transactions: who reads meanwhile"),
        "{}",
        ran.err
    );
    assert_eq!(consul.requests().iter().filter(|request| *request == "PUT /v1/txn").count(), 3);
    // Values that are too long for one transaction together, and one that is for any.
    let large = |n: usize| format!("{}\n", "x".repeat(n));
    world.scratch.write("d/c.yaml", &format!("a: {}b: {}c: {}", large(300_000), large(300_000), large(512 * 1024)));
    let before = consul.requests().len();
    world.done(&["import", "--prefix", "large", "d"]);
    let requests = &consul.requests()[before..];
    assert_eq!(requests.iter().filter(|request| request.starts_with("PUT /v1/kv/large/c/")).count(), 3, "{requests:?}");
    world.scratch.write("d/c.yaml", &format!("a: 1\nb: {}", large(512 * 1024 + 1)));
    world.run(&["import", "--prefix", "larger", "d"]).failed(65, &["larger/c/b", "524289 bytes", "524288"]);
    assert_eq!(consul.get("larger/c/a"), None);
}

#[test]
fn a_change_made_meanwhile_is_not_lost() {
    let consul = FakeConsul::start();
    let world = World::new(consul.url());
    let url = consul.url();
    // The change has to come between one read and one write; some attempt hits that.
    for attempt in 0..50 {
        let keys: String = (0..640).map(|n| format!("k{n:03}: {attempt}\n")).collect();
        world.scratch.write("d/c.yaml", &keys);
        let seen = consul.requests().len();
        let mut command = world.scratch.command();
        command.env("CONSUL_HTTP_ADDR", &url).args(["import", "--prefix", "h", "d"]);
        let child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn();
        let child = child.expect("it runs");
        consul.wait_for(Duration::from_secs(20), |requests| requests[seen..].iter().any(|r| r.contains("recurse")));
        let changed = format!("changed {attempt}");
        consul.put("h/c/k639", changed.as_bytes());
        let ran = Ran::from(child.wait_with_output().expect("it ends"));
        if ran.code == 75 {
            ran.failed(75, &["h/c/k", "changed in Consul meanwhile", "keys are written"]);
            assert_eq!(consul.get("h/c/k639"), Some(changed.into_bytes()));
            world.done(&["import", "--prefix", "h", "d"]);
            assert_eq!(consul.get("h/c/k639"), Some(attempt.to_string().into_bytes()));
            return;
        }
    }
    panic!("no change came between a read and a write");
}

#[test]
fn what_cannot_be_kept_exactly_is_refused_before_anything_is_written() {
    let consul = FakeConsul::start();
    let world = World::new(consul.url());
    world.scratch.write("eyaml/a.eyaml", "k: 1\n");
    world.scratch.write("two/a.yaml", "k: 1\n");
    world.scratch.write("two/a.json", "{}");
    std::os::unix::fs::symlink("/etc", world.scratch.path("two-link")).expect("link");
    world.scratch.write("link/x.yaml", "k: 1\n");
    std::os::unix::fs::symlink(world.scratch.path("two"), world.scratch.path("link/two")).expect("link");
    for (text, format, words) in [
        ("a: 1\na/b: 2\n", "auto", ["c.yaml", "'a/b'"]),
        ("..: 2\n", "auto", ["c.yaml", "'..'"]),
        ("1: 2\n", "auto", ["c.yaml", "key 1"]),
        ("a: ok\nb: 2\n", "raw", ["h/c/b", "--format auto"]),
        ("a: .inf\n", "auto", ["h/c/a", "--format yaml"]),
        ("a: {1: x}\n", "json", ["h/c/a", "--format yaml"]),
        ("a: [\n", "auto", ["c.yaml", "2"]),
        ("- a\n", "auto", ["c.yaml", "hash"]),
        ("a: 2024-01-01\n", "yaml", ["c.yaml", "date"]),
    ] {
        world.scratch.write("d/c.yaml", text);
        world.run(&["import", "--format", format, "--prefix", "h", "d"]).failed(65, &words);
    }
    for (path, words) in
        [("eyaml", ["a.eyaml", "eyaml"]), ("two", ["a.yaml", "a.json"]), ("link", ["link/two", "symbolic"])]
    {
        world.run(&["import", "--prefix", "h", path]).failed(65, &words);
    }
    world.run(&["import", "--prefix", "h", "nowhere"]).failed(65, &["nowhere"]);
    world.run(&["import", "--prefix", "h", "nowhere.yaml"]).failed(65, &["nowhere.yaml"]);
    world.run(&["import", "--folders", "--prefix", "h", "data"]).failed(2, &["--folders"]);
    for prefix in ["/h", "h//i", "../h", "h/./i/"] {
        world.run(&["import", "--prefix", prefix, "data"]).failed(2, &["--prefix"]);
    }
    assert!(consul.requests().iter().all(|request| request.starts_with("GET")), "{:?}", consul.requests());
    // A store that files cannot express.
    consul.put("h/flat", b"1");
    world.run(&["export", "--prefix", "h", "out"]).failed(65, &["h/flat", "in no folder"]);
    consul.delete("h/flat");
    consul.put("h/../../etc/cron", b"1");
    world.run(&["export", "--prefix", "h", "out"]).failed(65, &["h/../../etc/cron", "no path"]);
    consul.delete("h/../../etc/cron");
    consul.put("h/two/k", b"\xff");
    world.run(&["export", "--prefix", "h", "out"]).failed(65, &["h/two/k", "UTF-8"]);
    assert!(!world.scratch.path("out").exists());
    consul.put("h/two/k", b"1");
    world.run(&["export", "--prefix", "h", "link"]).failed(65, &["link/two"]);
}

#[test]
fn a_consul_that_denies_or_fails_ends_both() {
    let consul = FakeConsul::start();
    let world = World::new(consul.url());
    consul.put("h/c/k", b"1");
    consul.deny_keys("h/");
    for action in ["import", "export"] {
        world.run(&[action, "--delete", "--prefix", "h", "data"]).failed(77, &["keys below h/", &consul.url()]);
    }
    assert!(world.scratch.path("data/common.yaml").exists());
    let consul = FakeConsul::start();
    let world = World { url: consul.url(), ..world };
    consul.put("h/c/k", b"1");
    for (fault, code) in [
        (Fault::Status(500, "rpc error: No cluster leader".to_owned()), 69),
        (Fault::Status(403, "Permission denied".to_owned()), 77),
        (Fault::Body("[]".to_owned()), 0),
        (Fault::Body("<html>".to_owned()), 69),
        (Fault::Truncate, 69),
        (Fault::Filtered, 77),
    ] {
        consul.fault("kv/", fault.clone());
        let ran = world.run(&["export", "--delete", "--prefix", "h", "data"]);
        consul.heal();
        if code != 0 {
            assert_eq!(ran.code, code, "{fault:?}: {}", ran.err);
            assert!(world.scratch.path("data/common.yaml").exists(), "{fault:?}");
        }
        world.scratch.write("data/common.yaml", COMMON);
    }
    consul.fault("txn", Fault::Status(403, "Permission denied".to_owned()));
    world
        .run(&["import", "--prefix", "h", "data"])
        .failed(77, &["cannot write the keys below h/", "transaction 1 of 1"]);
}
