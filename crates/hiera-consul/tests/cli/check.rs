//! `check`: what it finds, and what it leaves alone.

use test_support::consul::{FakeConsul, Fault};

use super::{Ran, Scratch};

const LEVELS: &str = "version: 5
hierarchy:
- name: consul
  lookup_key: stacktira::consul
  options: {prefix: 'hiera/%{facts.zone}/', format: auto}
- name: role
  path: 'role/%{facts.role}.yaml'
- name: common
  path: common.yaml
";

struct World {
    scratch: Scratch,
    consul: FakeConsul,
}

impl World {
    fn new() -> World {
        let scratch = Scratch::new();
        scratch.write("hiera.yaml", LEVELS);
        scratch.write("facts.json", r#"{"role": "web", "zone": "a", "clientcert": "n1"}"#);
        World { scratch, consul: FakeConsul::start() }
    }

    fn check(&self, args: &[&str]) -> Ran {
        let mut command = self.scratch.command();
        command.env("CONSUL_HTTP_ADDR", self.consul.url()).args(["check", "--hiera_config"]);
        command.arg(self.scratch.path("hiera.yaml")).args(["--facts", "facts.json"]).args(args);
        command.output().expect("it runs").into()
    }

    #[track_caller]
    fn finds(&self, code: i32, lines: &[&[&str]]) {
        let ran = self.check(&[]);
        assert_eq!(ran.code, code, "{}{}", ran.out, ran.err);
        assert_eq!(ran.out.lines().count(), lines.len(), "{}", ran.out);
        for (line, words) in ran.out.lines().zip(lines) {
            for word in *words {
                assert!(line.contains(word), "'{word}' is not in: {line}");
            }
        }
    }
}

#[test]
fn sound_data_is_silent() {
    let world = World::new();
    world.scratch.write("data/role/web.yaml", "a: \"%{lookup('b')} %{facts.role}\"\nc: \"%{alias('b')}\"\n");
    world.scratch.write("data/common.yaml", "b: true\nm: '0755'\nlookup_options: {b: {merge: first}}\n");
    world.consul.put("hiera/a/k", b"{\"x\": 1}");
    let ran = world.check(&["--strict"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, ""), "{}", ran.err);
    let ran = world.check(&["-v"]);
    assert!(ran.err.contains("2 files and 5 keys of n1: 0 errors, 0 warnings"), "{}", ran.err);
}

#[test]
fn what_is_hardly_meant_is_a_warning_with_its_line() {
    let world = World::new();
    world.scratch.write(
        "data/common.yaml",
        "a: yes\nb: 0755\nc: \"%{lookup('nope')}\"\nd: \"x%{facts.gone}\"\na: on\n\
         e: \"%{hiera('service_hash__lb__mysql_Address')}\"\nf: ENC[PKCS7,abc]\ng: \"%{lookup(nope)}\"\n",
    );
    // Another role's file: its form counts, though not what it leads to on this node.
    world.scratch.write("data/role/other.yaml", "t: 12:30\nu: \"%{lookup('nope')}\"\n");
    world.consul.put("hiera/a/k", b"{\"x\": 1");
    world.finds(
        0,
        &[
            &["common.yaml:1: warning: yes is the boolean true to Puppet and the string yes to others"],
            &["common.yaml:2: ", "0755 is the integer 493", "the integer 755"],
            &["common.yaml:3: ", "no such key"],
            &["common.yaml:4: ", "%{facts.gone} becomes empty"],
            &["common.yaml:5: ", "key 'a' stands here and on line 1"],
            &["common.yaml:5: ", "on is the boolean true"],
            &["common.yaml:6: ", "write service_hash__lb__mysql__Address"],
            &["common.yaml:7: ", "eyaml"],
            &["common.yaml:8: ", "quote the key"],
            &["other.yaml:1: ", "12:30 is the integer 45000"],
            &["Consul key hiera/a/k", "warning", "looks like JSON"],
        ],
    );
    assert_eq!(world.check(&["--strict"]).code, 1);
    let ran = world.check(&["--json"]);
    let first: serde_json::Value = serde_json::from_str(ran.out.lines().next().expect("a line")).expect("JSON");
    assert_eq!((&first["type"], &first["v"], &first["severity"]), (&"finding".into(), &1.into(), &"warning".into()));
    assert_eq!(first["line"], 1);
}

#[test]
fn what_fails_is_an_error() {
    let world = World::new();
    world.scratch.write("data/common.yaml", "a: \"%{lookup('b')}\"\nb: \"%{lookup('a')}\"\n");
    world.scratch.write("data/role/other.yaml", "d: 2024-02-03\n");
    world.scratch.write("data/role/web.yaml", "x: \"%{frob('k')}\"\n");
    let ran = world.check(&[]);
    assert_eq!(ran.code, 65, "{}", ran.out);
    for words in ["recursive lookup", "role/other.yaml:1: error: ", "unknown interpolation method 'frob'"] {
        assert!(ran.out.contains(words), "'{words}' is not in {}", ran.out);
    }
    world.scratch.write("hiera.yaml", "version: 5\nhierarchy:\n- {name: a, path: x, glob: y}\n");
    world.finds(65, &[&["hiera.yaml: error: ", "only one of"]]);
    world.scratch.write("hiera.yaml", "version: 5\nhierarchy:\n- {name: a, lookup_key: eyaml_lookup_key, path: x}\n");
    world.finds(65, &[&["hiera.yaml: error: ", "eyaml_lookup_key"]]);
}

#[test]
fn a_level_that_cannot_be_read_is_said_once() {
    let mut world = World::new();
    world.scratch.write("data/common.yaml", "a: \"%{lookup('b')}\"\nb: 1\nc: 2\n");
    world.consul.fault("kv/hiera/a/", Fault::Status(403, "Permission denied".to_owned()));
    world.finds(77, &[&["hierarchy 'consul'", "hiera/a/"]]);
    world.consul.stop();
    world.finds(69, &[&["hierarchy 'consul'", "no answer from Consul"]]);
}

#[test]
fn a_variable_of_the_hierarchy_without_a_value_is_found() {
    let world = World::new();
    world.scratch.write("facts.json", r#"{"role": "web"}"#);
    world.scratch.write("data/common.yaml", "a: 1\n");
    world.finds(0, &[&["hiera.yaml: warning: hierarchy 'consul': %{facts.zone} has no value"]]);
}

#[test]
fn variables_of_the_command_line_lead_through_files_of_version_3_too() {
    let world = World::new();
    let data = world.scratch.path("data").display().to_string();
    world.scratch.write("hiera.yaml", &format!(":hierarchy: ['%{{role}}']\n:yaml:\n  :datadir: '{data}'\n"));
    world.scratch.write("data/web.yaml", "a: 1\n");
    world.scratch.write("data/db.yaml", "a: [1\n");
    let ran = world.check(&["-v"]);
    assert!(ran.code == 0 && ran.err.contains("1 files and 1 keys"), "{}", ran.err);
    let ran = world.check(&["--scope", "role=db"]);
    assert!(ran.code == 65 && ran.out.contains("db.yaml"), "{}{}", ran.out, ran.err);
}
