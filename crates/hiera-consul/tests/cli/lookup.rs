//! Files, flags, defaults and what is wrong with them.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{Ran, Scratch};

#[test]
fn answers_have_the_form_that_was_asked_for() {
    let scratch = Scratch::new();
    let config = scratch.write("hiera.yaml", "version: 5\n");
    scratch.write("data/common.yaml", "h: {a: [1, 'yes'], n: null}\ns: text\nyes_: yes\n");
    scratch.global(&config, &["h"]).found(r#"{"a":[1,"yes"],"n":null}"#);
    scratch.global(&config, &["h.a.0"]).found("1");
    scratch.global(&config, &["h.n"]).found("null");
    let config = config.to_str().expect("UTF-8");
    scratch.lookup(&["--hiera_config", config, "h"]).found("---\na:\n- 1\n- 'yes'\n\"n\":");
    scratch.lookup(&["--hiera_config", config, "s"]).found("--- text");
    scratch.lookup(&["--hiera_config", config, "--render-as", "s", "s"]).found("text");
    scratch.lookup(&["--hiera_config", config, "--render-as", "s", "h.a"]).found(r#"[1, "yes"]"#);
    let absent = scratch.lookup(&["--hiera_config", config, "nope"]);
    assert_eq!((absent.code, absent.out.as_str(), absent.err.as_str()), (1, "", ""));
    scratch.lookup(&["--hiera_config", config, "--render-as", "json", "nope", "s"]).found("\"text\"");
    scratch.lookup(&["--hiera_config", config, "--render-as", "json", "--default", "-d", "nope"]).found("\"-d\"");
}

#[test]
fn mistakes_in_arguments_are_usage() {
    let scratch = Scratch::new();
    let config = scratch.write("hiera.yaml", "version: 5\n");
    let file = config.to_str().expect("UTF-8");
    for args in [
        &["--hiera_config", file][..],
        &["--hiera_config", file, "--merge", "wild", "k"],
        &["--hiera_config", file, "--knock-out-prefix", "--", "k"],
        &["--hiera_config", file, "--type", "Nonsense", "k"],
        &["--hiera_config", file, "--render-as", "msgpack", "k"],
        &["--environment", "e", "k"],
        &["--environmentpath", ".", "--environment", "../x", "k"],
        &["--environmentpath", ".", "--environment", "missing", "k"],
        &["k"],
    ] {
        let ran = scratch.lookup(args);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{args:?}: {}", ran.err);
    }
}

#[test]
fn broken_files_are_named_with_their_line() {
    let scratch = Scratch::new();
    let config = scratch.write("hiera.yaml", "version: 5\nhierarchy:\n- {name: a, path: a.yaml}\n");
    let data = "data/a.yaml";
    let bad: [(&str, &[&str]); 7] = [
        ("k: [1,\n", &[data]),
        ("k: 1\nd: 2024-02-03\n", &["data/a.yaml:2: ", "date"]),
        ("k: '%{lookup(\"k\")}'\n", &[data, "recursive"]),
        ("k: '%{frob(\"k\")}'\n", &[data, "frob"]),
        ("k: x%{alias('z')}\n", &["alias"]),
        ("lookup_options: []\nk: 1\n", &["lookup_options", "hash"]),
        ("lookup_options: {'^(': {merge: deep}}\nk: 1\n", &["pattern"]),
    ];
    for (text, words) in bad {
        scratch.write(data, text);
        scratch.global(&config, &["k"]).failed(65, words);
    }
    scratch.write(data, "k: 1\n");
    for (text, words) in [
        ("version: 6\n", "version 6"),
        ("version: 5\nhierachy: []\n", "hierachy"),
        ("version: 5\nhierarchy:\n- {name: a, path: a, glob: b}\n", "only one of"),
        ("version: 5\nhierarchy:\n- {name: a, data_hash: eyaml_data, path: a.yaml}\n", "eyaml_data"),
        ("version: 5\nhierarchy:\n- {name: a, options: {path: b}}\n", "reserved"),
        ("version: 5\nhierarchy:\n- {name: a}\n- {name: a}\n", "more than once"),
        ("version: [\n", "hiera.yaml"),
    ] {
        scratch.write("hiera.yaml", text);
        scratch.global(&config, &["k"]).failed(65, &["hiera.yaml", words]);
    }
}

#[test]
fn types_are_asserted() {
    let scratch = Scratch::new();
    let config = scratch.write("hiera.yaml", "version: 5\n");
    scratch.write("data/common.yaml", "n: 5\n");
    scratch.global(&config, &["--type", "Integer[1, 9]", "n"]).found("5");
    scratch.global(&config, &["--type", "Optional[Array[String]]", "n"]).failed(65, &["wrong type"]);
}

#[test]
fn hostile_data_ends_in_an_error_not_in_a_crash() {
    let scratch = Scratch::new();
    let config = scratch.write("hiera.yaml", "version: 5\n");
    // A chain of lookups that is longer than any stack.
    let mut chain = String::new();
    for n in 0..5000 {
        chain.push_str(&format!("k{n}: \"%{{lookup('k{}')}}\"\n", n + 1));
    }
    scratch.write("data/common.yaml", &chain);
    scratch.global(&config, &["k0"]).failed(65, &["nested deeper"]);
    scratch.write("data/common.yaml", &format!("k0: {}1{}\n", "[".repeat(500), "]".repeat(500)));
    scratch.global(&config, &["k0"]).failed(65, &["common.yaml:1"]);
    // Every step of a chain adds as many levels as a file may have.
    let mut deep = String::new();
    for n in 0..140 {
        deep.push_str(&format!("k{n}: {}\"%{{alias('k{}')}}\"{}\n", "[".repeat(90), n + 1, "]".repeat(90)));
    }
    scratch.write("data/common.yaml", &deep);
    let ran = scratch.global(&config, &["k0"]);
    assert_eq!((ran.code, ran.out.len()), (0, 140 * 180 + 3), "{}", ran.err);
    // Values that double with every step.
    let mut bomb = String::from("k0: 0123456789\n");
    for n in 1..40 {
        bomb.push_str(&format!("k{n}: \"%{{lookup('k{0}')}}%{{lookup('k{0}')}}\"\n", n - 1));
    }
    scratch.write("data/common.yaml", &bomb);
    assert_eq!(scratch.global(&config, &["k10"]).code, 0);
    scratch.global(&config, &["k39"]).failed(65, &["longer than"]);
}

#[test]
fn a_node_needs_no_flags() {
    let scratch = Scratch::new();
    let environment = "var/lib/stacktira/puppet";
    scratch.write(
        &format!("{environment}/hiera.yaml"),
        "version: 5\nhierarchy:\n- {name: role, path: 'role/%{facts.role}.yaml'}\n- {name: common, path: common.yaml}\n",
    );
    scratch.write(&format!("{environment}/data/role/proxy.yaml"), "k: proxy\n");
    scratch.write(&format!("{environment}/data/common.yaml"), "k: common\nnode: '%{trusted.certname}'\n");
    scratch.write(&format!("{environment}/environment.conf"), "modulepath = site-modules:modules\n");
    scratch.write(&format!("{environment}/site-modules/m/hiera.yaml"), "version: 5\n");
    scratch.write(&format!("{environment}/site-modules/m/data/common.yaml"), "m::k: module\n");
    scratch.lookup(&["--render-as", "s", "k"]).found("common");
    scratch.lookup(&["--render-as", "s", "m::k"]).found("module");
    scratch.write("var/lib/stacktira/facts.json", r#"{"role": "proxy", "clientcert": "p1.example"}"#);
    scratch.lookup(&["--render-as", "s", "k"]).found("proxy");
    scratch.lookup(&["--render-as", "s", "node"]).found("p1.example");
    scratch.lookup(&["--render-as", "s", "--node", "other", "node"]).found("other");
    // The settings file wins over the usual places, a flag over both.
    scratch.write("srv/hiera.yaml", "version: 5\n");
    scratch.write("srv/data/common.yaml", "k: set\n");
    scratch.write("etc/stacktira/hiera-consul.yaml", "hiera_config: /srv/hiera.yaml\nfacts: /srv/facts.yaml\n");
    scratch.write("srv/facts.yaml", "role: none\n");
    scratch.lookup(&["--render-as", "s", "k"]).found("set");
    let root = scratch.path("var/lib/stacktira").display().to_string();
    scratch
        .lookup(&["--render-as", "s", "--environmentpath", &root, "--environment", "puppet", "m::k"])
        .found("module");
    scratch.write("etc/stacktira/hiera-consul.yaml", "hiera_confg: /srv/hiera.yaml\n");
    scratch.lookup(&["k"]).failed(65, &["hiera-consul.yaml", "hiera_confg"]);
}

#[test]
fn the_explanation_says_where_a_value_is_from() {
    let scratch = Scratch::new();
    let config = scratch.write(
        "hiera.yaml",
        "version: 5\nhierarchy:\n- {name: first, path: first.yaml}\n- {name: second, path: second.yaml}\n",
    );
    scratch.write("data/second.yaml", "k: v\n");
    let ran = scratch.lookup(&["--hiera_config", config.to_str().expect("UTF-8"), "--explain", "k"]);
    assert_eq!(ran.code, 0);
    assert!(ran.out.contains("first.yaml: not there"), "{}", ran.out);
    assert!(ran.out.contains("second.yaml: found \"v\""), "{}", ran.out);
}

#[test]
fn a_closed_pipe_is_no_error() {
    let scratch = Scratch::new();
    let config = scratch.write("hiera.yaml", "version: 5\n");
    scratch.write("data/common.yaml", &format!("k: {}\n", "x".repeat(1 << 20)));
    let mut child = scratch
        .command()
        .args(["lookup", "--hiera_config"])
        .arg(config)
        .arg("k")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("it runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
}

#[test]
fn version_3_files_answer_like_the_hiera_command() {
    let scratch = Scratch::new();
    let data = scratch.path("data").display().to_string();
    let config = scratch.write(
        "hiera.yaml",
        &format!(":backends: [yaml]\n:yaml:\n  :datadir: {data}\n:hierarchy: ['%{{role}}', common]\n:merge_behavior: deeper\n"),
    );
    scratch.write("data/proxy.yaml", "k: 'p %{x}'\nh: {a: {b: 1}}\n");
    scratch.write("data/common.yaml", "k: c\nh: {a: {c: 2}}\n");
    scratch.global(&config, &["--scope", "role=proxy", "--scope", "x=X", "k"]).found("\"p X\"");
    scratch.global(&config, &["k"]).found("\"c\"");
    scratch.global(&config, &["--scope", "role=proxy", "--merge", "unique", "k"]).found(r#"["p ","c"]"#);
    scratch.global(&config, &["--scope", "role=proxy", "--merge", "hash", "h"]).found(r#"{"a":{"c":2,"b":1}}"#);
    assert_eq!(scratch.global(&config, &["nope"]).code, 1);
    scratch.global(&config, &["--merge", "hash", "k"]).failed(65, &["expected Hash"]);
    scratch.write("hiera.yaml", ":backends: [consul]\n");
    scratch.global(&config, &["k"]).failed(65, &["hiera.yaml", "consul"]);
}

#[test]
fn what_eyaml_encrypted_is_refused_and_so_is_what_it_gets_into() {
    let scratch = Scratch::new();
    let config = scratch.write("hiera.yaml", "version: 5\n");
    scratch.write(
        "data/common.yaml",
        "secret: ENC[PKCS7,MIIBeQ==]\nurl: \"mysql://u:%{lookup('secret')}@h/\"\nlist: [1, {k: 'ENC[GPG,x]'}]\n\
         plain: ENC[ is how it begins\nother: 'ENC[]'\n",
    );
    for key in ["secret", "url", "list", "list.1.k"] {
        let ran = scratch.global(&config, &[key]);
        ran.failed(65, &[key, "encrypted by eyaml"]);
        assert!(ran.err.contains("hint: ") && !ran.err.contains("MIIB"), "{}", ran.err);
    }
    scratch.global(&config, &["list.0"]).found("1");
    scratch.global(&config, &["plain"]).found("\"ENC[ is how it begins\"");
    scratch.global(&config, &["other"]).found("\"ENC[]\"");
}

#[test]
fn what_is_no_file_is_refused_and_not_waited_for() {
    let scratch = Scratch::new();
    let config = scratch.write("hiera.yaml", "version: 5\nhierarchy:\n- {name: a, paths: [pipe.yaml]}\n");
    scratch.write("data/sound.yaml", "k: 1\n");
    let pipe = scratch.path("data/pipe.yaml");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs").success());
    let ran = |args: &[&str]| Ran::from(scratch.command().args(args).output().expect("it runs"));
    let (config, pipe) = (config.to_str().expect("UTF-8"), pipe.to_str().expect("UTF-8"));
    let words = ["data/pipe.yaml: a pipe"];
    ran(&["lookup", "--hiera_config", config, "k"]).failed(65, &words);
    ran(&["lookup", "--hiera_config", pipe, "k"]).failed(65, &words);
    ran(&["import", "--prefix", "hiera/", "--dry-run", "data"]).failed(65, &words);
    let checked = ran(&["check", "--hiera_config", config]);
    assert!(checked.code == 65 && checked.out.contains("pipe.yaml: error: a pipe"), "{} {}", checked.out, checked.err);
    // What does not end is read no further than a file may be long.
    ran(&["lookup", "--hiera_config", config, "--facts", "/dev/zero", "k"]).failed(65, &["/dev/zero: larger than"]);
}

#[test]
fn facts_may_come_through_a_pipe() {
    let scratch = Scratch::new();
    let config = scratch.write("hiera.yaml", "version: 5\nhierarchy:\n- {name: a, path: '%{facts.role}.yaml'}\n");
    scratch.write("data/proxy.yaml", "k: 1\n");
    let mut command = scratch.command();
    command.args(["lookup", "--facts", "/dev/stdin", "--hiera_config"]).arg(config).arg("k").stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    child.stdin.take().expect("a pipe").write_all(b"{\"role\": \"proxy\"}").expect("it reads");
    Ran::from(child.wait_with_output().expect("it ends")).found("--- 1");
}

/// Looks up one key and checks what that took.
fn costs(scratch: &Scratch, config: &Path, name: &str) {
    let mut command = scratch.command();
    command.args(["lookup", "--render-as", "json", "--hiera_config"]).arg(config).arg("k");
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it runs");
    // The largest that it ever was, read until it is gone.
    let (mut most, mut ticks) = (0_u64, 0_u64);
    let status = loop {
        let text = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let peak = text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
        most = most.max(peak.unwrap_or(0));
        // User and system, of all threads, in ticks of 10 ms; waiting for a busy machine does not count.
        let text = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap_or_default();
        let fields: Vec<u64> = text.split_whitespace().skip(13).take(2).filter_map(|n| n.parse().ok()).collect();
        ticks = ticks.max(fields.iter().sum());
        if let Some(status) = child.try_wait().expect("it can be waited for") {
            break status;
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    assert!(matches!(status.code(), Some(0 | 1 | 65)), "{name}: {status}");
    // A second where the tool is optimised; else it is many times slower.
    let limit = if cfg!(debug_assertions) { 1000 } else { 100 };
    assert!(ticks < limit, "{name}: {ticks} ticks");
    assert!(most < 64 << 10, "{name}: {most} kB");
    if std::env::var_os("STACKTIRA_COSTS").is_some() {
        let _ = writeln!(std::io::stderr(), "{:6} ms {:6} kB  {name}", ticks * 10, most);
    }
}

#[test]
fn any_file_of_a_megabyte_is_read_or_refused_within_64_mb() {
    let scratch = Scratch::new();
    let config = scratch.write("hiera.yaml", "version: 5\n");
    let mut bomb = String::from("l0: &l0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..9 {
        let alias = format!("*l{}, ", level - 1).repeat(10);
        bomb.push_str(&format!("l{level}: &l{level} [{}]\n", alias.trim_end_matches(", ")));
    }
    let mega = 1 << 20;
    let fill = |unit: &str| unit.repeat(mega / unit.len());
    let nested = |open: &str, close: &str, n: usize| format!("k: {}{}", open.repeat(n), close.repeat(n));
    let files: Vec<(&str, Vec<u8>)> = vec![
        ("alias bomb", bomb.into_bytes()),
        (
            "wide alias",
            format!("a: &a {}\nb: [{}]\n", "y".repeat(mega / 2), fill("*a, ").split_at(mega / 4).0).into_bytes(),
        ),
        ("anchors", (0..40_000).map(|n| format!("k{n}: &a{n} [1]\n")).collect::<String>().into_bytes()),
        (
            "merges",
            format!(
                "a: &a {{{}}}\nk:\n{}",
                (0..500).map(|n| format!("k{n}: 1, ")).collect::<String>(),
                "  <<: *a\n".repeat(50_000)
            )
            .into_bytes(),
        ),
        ("128 deep", nested("[", "]", 128).into_bytes()),
        ("deep", nested("[", "]", mega / 2 - 8).into_bytes()),
        ("deep hashes", nested("{a: ", "}", mega / 8).into_bytes()),
        ("deep blocks", fill("- ").into_bytes()),
        ("not UTF-8", [&b"k: "[..], &vec![0xff; mega - 8]].concat()),
        ("late bytes", [fill("a: b\n").as_bytes(), b"\xc3\x28"].concat()),
        ("NUL", vec![0; mega]),
        ("one line", fill("x").into_bytes()),
        ("lists", format!("k: [{}]", fill("1,")).into_bytes()),
        ("empty lists", format!("k: [{}]", fill("[],")).into_bytes()),
        ("many keys", (0..90_000).map(|n| format!("k{n}: {n}\n")).collect::<String>().into_bytes()),
        ("tokens", format!("k: \"{}\"", fill("%{a}")).into_bytes()),
        ("lookups", format!("k: \"{}\"\nb: x\n", fill("%{lookup('b')}")).into_bytes()),
        (
            "growing",
            (0..24)
                .map(|n| format!("k{n}: \"%{{lookup('k{}')}}%{{lookup('k{}')}}\"\n", n + 1, n + 1))
                .collect::<String>()
                .replace("k0:", "k:")
                .into_bytes(),
        ),
        ("quotes", fill("\"").into_bytes()),
        ("tags", fill("!!str ").into_bytes()),
        ("question marks", fill("? ").into_bytes()),
        ("colons", fill(": ").into_bytes()),
        ("digits", format!("k: {}", fill("1")).into_bytes()),
        ("directives", (0..90_000).map(|n| format!("%TAG !{n}! x\n")).collect::<String>().into_bytes()),
        ("unknown directives", fill("%X\n").into_bytes()),
        ("escapes", format!("k: \"{}\"", fill("\\x41")).into_bytes()),
        ("a literal", format!("k: |\n{}", fill("  x\n")).into_bytes()),
        ("a folded text", format!("k: >\n{}", fill(" x\n\n")).into_bytes()),
        ("a text over lines", format!("k: \"{}\"", fill("\n ")).into_bytes()),
        ("comments", fill("#\n").into_bytes()),
        ("lines", fill("\n").into_bytes()),
        ("carriage returns", fill("a\r").into_bytes()),
        ("tabs", format!("k:{}x", fill("\t")).into_bytes()),
        ("byte order marks", fill("\u{feff}").into_bytes()),
        ("an anchor's name", format!("k: &{} 1", fill("a")).into_bytes()),
        ("a tag's name", format!("k: !{} 1", fill("a")).into_bytes()),
        ("a tag's escapes", format!("k: !{} 1", fill("%41")).into_bytes()),
        ("a long key", format!("{}: 1", fill("a")).into_bytes()),
        ("anchors of one name", format!("k: [{}]", fill("&a 1, ")).into_bytes()),
        (
            "anchors of large texts",
            (0..64).map(|n| format!("k{n}: &a{n} {}\n", "x".repeat(16_000))).collect::<String>().into_bytes(),
        ),
        (
            "anchors in anchors",
            (0..90).map(|n| format!("{}k{n}: &a{n}\n", " ".repeat(n))).collect::<String>().into_bytes(),
        ),
        ("steps", (0..1400).map(|n| format!("{}k{n}:\n", " ".repeat(n))).collect::<String>().into_bytes()),
        ("keys in brackets", format!("k: [{}]", fill("a: b, ")).into_bytes()),
        ("hashes in brackets", format!("k: [{}]", fill("{a: b}, ")).into_bytes()),
        ("brackets in steps of a line", fill("[\n").into_bytes()),
        ("empty hashes", format!("k: [{}]", fill("{},")).into_bytes()),
        ("nulls", format!("k:\n{}", fill("-\n")).into_bytes()),
        ("one key again", fill("k: 1\n").into_bytes()),
        ("dates", format!("k: [{}]", fill("2024-01-x,")).into_bytes()),
        ("base 60", format!("k: [{}]", fill("1:2:3,")).into_bytes()),
        ("symbols", fill(":k: 1\n").into_bytes()),
        (
            "options",
            format!(
                "lookup_options:\n{}",
                (0..30_000).map(|n| format!("  '^k{n}.*': {{merge: deep}}\n")).collect::<String>()
            )
            .into_bytes(),
        ),
    ];
    let lists = format!("{{\"k\": [{}1]}}", "1,".repeat(mega / 2 - 8));
    let strings = format!("{{\"k\": [{}1]}}", "\"\",".repeat(mega / 3 - 8));
    let deep = format!("{{\"k\": {}{}}}", "[".repeat(mega / 2 - 8), "]".repeat(mega / 2 - 8));
    for (name, text) in [("JSON lists", &lists), ("JSON strings", &strings), ("JSON deep", &deep)] {
        scratch.write("json/data/common.json", text);
        let config = scratch
            .write("json/hiera.yaml", "version: 5\nhierarchy: [{name: j, data_hash: json_data, path: common.json}]\n");
        costs(&scratch, &config, name);
    }
    for (name, bytes) in &files {
        let bytes = &bytes[..bytes.len().min(mega)];
        std::fs::create_dir_all(scratch.path("data")).expect("mkdir");
        std::fs::write(scratch.path("data/common.yaml"), bytes).expect("write");
        costs(&scratch, &config, name);
        std::fs::write(scratch.path("data/common.yaml"), "k: 1\n").expect("write");
        std::fs::write(scratch.path("bad.yaml"), bytes).expect("write");
        costs(&scratch, &scratch.path("bad.yaml"), &format!("{name} as hiera.yaml"));
    }
}
