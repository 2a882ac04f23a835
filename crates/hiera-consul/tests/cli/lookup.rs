//! Files, flags, defaults and what is wrong with them.

use super::Scratch;

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
        &format!(":backends: [yaml]\n:yaml: {{:datadir: {data}}}\n:hierarchy: ['%{{role}}', common]\n:merge_behavior: deeper\n"),
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
