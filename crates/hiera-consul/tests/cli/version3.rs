//! The `consul` backend of version 3 files.

use std::path::PathBuf;

use test_support::consul::{FakeConsul, Fault, Instance};

use super::{Ran, Scratch};

struct World {
    scratch: Scratch,
    consul: FakeConsul,
    config: PathBuf,
}

impl World {
    fn new(failure: &str) -> World {
        let scratch = Scratch::new();
        let consul = FakeConsul::start();
        let port = consul.address().rsplit(':').next().expect("a port").to_owned();
        let config = scratch.write(
            "hiera.yaml",
            &format!(
                "---\n:backends: [consul, yaml]\n:hierarchy: ['host/%{{host}}', common]\n:yaml:\n  :datadir: '{}'\n\
                 :consul:\n  :host: 127.0.0.1\n  :port: {port}\n  :failure: {failure}\n  :paths:\n    - services\n    \
                 - /v1/kv/hiera/host/%{{host}}\n    - /v1/kv/hiera\n    - /v1/kv/by/%{{key}}\n    - /v1/catalog/service\n",
                scratch.path("data").display()
            ),
        );
        scratch.write("data/common.yaml", "motd: file\nlist: [1]\nurl: \"http://%{hiera('web_Address')}/\"\n");
        World { scratch, consul, config }
    }

    fn lookup(&self, args: &[&str]) -> Ran {
        let mut command = self.scratch.command();
        command.args(["lookup", "--render-as", "json", "--scope", "host=n1", "--hiera_config"]);
        command.arg(&self.config).args(args).output().expect("it runs").into()
    }
}

#[test]
fn paths_answer_in_order_and_values_stay_text() {
    let world = World::new("hard");
    world.consul.put("hiera/n", b"42");
    world.consul.put("hiera/json", b"{\"a\": 1}");
    world.consul.put("hiera/token", b"%{host}");
    world.consul.put("hiera/both", b"all");
    world.consul.put("hiera/host/n1/both", b"this");
    world.consul.put("hiera/with space?keys", b"odd");
    world.consul.put("by/self/self", b"own");
    world.consul.register(Instance::new("c1", "10.0.0.1", "web", 80).tag("lb"));
    world.lookup(&["n"]).found("\"42\"");
    world.lookup(&["json"]).found("\"{\\\"a\\\": 1}\"");
    world.lookup(&["token"]).found("\"%{host}\"");
    world.lookup(&["both"]).found("\"this\"");
    world.lookup(&["with space?keys"]).found("\"odd\"");
    world.lookup(&["self"]).found("\"own\"");
    world.lookup(&["motd"]).found("\"file\"");
    world.lookup(&["url"]).found("\"http://10.0.0.1/\"");
    world.lookup(&["web_ServicePort"]).found("80");
    world.lookup(&["service_hash__lb__web__Address__array"]).found("[\"10.0.0.1\"]");
    world.lookup(&["web.0.Node"]).found("\"c1\"");
    // A variable without a value empties its path only.
    world.lookup(&["--scope", "host=", "both"]).found("\"all\"");
    assert_eq!(world.lookup(&["nope"]).code, 1);
    // The original ends at `services` for these, found or not.
    world.consul.put("hiera/service_hash__lb__none__Address", b"kv");
    assert_eq!(world.lookup(&["service_hash__lb__none__Address"]).code, 1);
    // One list of both backends.
    world.consul.put("hiera/list", b"x");
    world.lookup(&["--merge", "unique", "list"]).found("[\"x\",1]");
}

#[test]
fn all_prefixes_are_one_read() {
    let world = World::new("hard");
    world.consul.put("hiera/k", b"v");
    world.lookup(&["k"]).found("\"v\"");
    // The third path stands apart: all of them are one transaction.
    assert_eq!(world.consul.requests(), ["PUT /v1/txn"]);
}

#[test]
fn graceful_is_for_a_consul_out_of_reach_only() {
    let mut world = World::new("graceful");
    world.consul.put("hiera/other", b"v");
    for (fault, code) in [
        (Fault::Status(403, "Permission denied".to_owned()), 77),
        (Fault::Status(500, "internal".to_owned()), 69),
        (Fault::Body("<html>".to_owned()), 69),
        (Fault::Truncate, 69),
    ] {
        world.consul.fault("txn", fault.clone());
        world.consul.fault("kv/hiera/", fault.clone());
        let ran = world.lookup(&["motd"]);
        assert_eq!((ran.code, ran.out.as_str()), (code, ""), "{fault:?}: {}", ran.err);
        world.consul.heal();
    }
    world.consul.stop();
    let ran = world.lookup(&["motd"]);
    ran.found("\"file\"");
    assert_eq!(ran.err.matches("graceful").count(), 1, "{}", ran.err);
    let mut hard = World::new("hard");
    hard.consul.stop();
    hard.lookup(&["motd"]).failed(69, &["no answer from Consul"]);
}

#[test]
fn settings_are_read_strictly() {
    let scratch = Scratch::new();
    for (settings, word) in [
        ("{}", "needs :host and :port"),
        ("\n  :host: a\n  :port: x", ":port"),
        ("\n  :host: a\n  :failure: soft", ":failure"),
        ("\n  :host: a\n  :pahts: []", ":pahts"),
    ] {
        let config = scratch.write("hiera.yaml", &format!(":backends: [consul]\n:consul: {settings}\n"));
        scratch.global(&config, &["k"]).failed(65, &["hiera.yaml", word]);
    }
    let config =
        scratch.write("hiera.yaml", ":backends: [consul]\n:consul:\n  :host: a\n  :paths: [/v1/catalog/nodes]\n");
    scratch.global(&config, &["k"]).failed(65, &["/v1/catalog/nodes"]);
}

#[test]
fn the_global_layer_of_an_environment_has_it_too() {
    let world = World::new("hard");
    world.consul.put("hiera/n", b"42");
    world.scratch.write("environments/production/hiera.yaml", "version: 5\n");
    world.scratch.write("environments/production/data/common.yaml", "e: 1\n");
    world.scratch.write("facts.json", r#"{"host": "n1"}"#);
    let place = ["--environmentpath", "environments", "--facts", "facts.json"];
    world.lookup(&[&place[..], &["n"]].concat()).found("\"42\"");
    world.lookup(&[&place[..], &["motd"]].concat()).found("\"file\"");
    world.lookup(&[&place[..], &["e"]].concat()).found("1");
    world.consul.deny_keys("hiera/");
    world.lookup(&[&place[..], &["e"]].concat()).failed(77, &["hiera/"]);
}
