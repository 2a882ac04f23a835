//! What is put into Consul is what a lookup with the shipped hierarchy finds.

use serde_json::json;
use test_support::real_consul::RealConsul;

use crate::bench::{Bench, repository};

fn lookup(bench: &Bench, facts: &str, key: &str) -> Option<String> {
    let arguments = ["lookup", "--hiera_config", "puppet/hiera.yaml", "--facts", facts, "--render-as", "json", key];
    let run = bench.run("hiera-consul", arguments);
    assert_eq!(run.err, "", "{key}");
    match run.code {
        0 => Some(run.out.trim_end().to_owned()),
        1 => None,
        _ => panic!("{run:?}"),
    }
}

#[test]
fn node_over_role_over_common_over_flat_over_files() {
    let Some(consul) = RealConsul::start(&json!({})) else { return };
    let mut bench = Bench::new();
    bench.set("CONSUL_HTTP_ADDR", &consul.url());
    let shipped = std::fs::read(repository().join("provision/puppet/hiera.yaml")).unwrap();
    bench.write("puppet/hiera.yaml", shipped);
    bench.write("puppet/data/common.yaml", "site::k: of the common file\nsite::only: 1\n");
    bench.write("puppet/data/role/control.yaml", "site::k: of the role's file\n");
    bench.write("facts.json", r#"{"role": "control", "networking": {"hostname": "control1"}}"#);
    bench.write("other.json", r#"{"role": "hyper", "networking": {"hostname": "hyper1"}}"#);

    let mut expected = "\"of the role's file\"".to_owned();
    assert_eq!(lookup(&bench, "facts.json", "site::k").unwrap(), expected);
    for (prefix, value) in [
        ("hiera/", "flat"),
        ("hiera/common/", "common"),
        ("hiera/role/control/", "of the role"),
        ("hiera/node/control1/", "of the node"),
    ] {
        let key = format!("{prefix}site::k");
        let script = format!("printf '%s' '{value}' | consul-kv put '{key}' -");
        bench.sh(&script).is(0);
        expected = format!("\"{value}\"");
        assert_eq!(lookup(&bench, "facts.json", "site::k").unwrap(), expected, "{prefix}");
    }
    // Another node of another role sees neither the node's nor the role's.
    assert_eq!(lookup(&bench, "other.json", "site::k").unwrap(), "\"common\"");
    // And back down again.
    for (prefix, then) in [
        ("hiera/node/control1/", "of the role"),
        ("hiera/role/control/", "common"),
        ("hiera/common/", "flat"),
        ("hiera/", "of the role's file"),
    ] {
        bench.run("consul-kv", ["delete", &format!("{prefix}site::k")]).is(0);
        assert_eq!(lookup(&bench, "facts.json", "site::k").unwrap(), format!("\"{then}\""), "{prefix}");
    }
    assert_eq!(lookup(&bench, "other.json", "site::k").unwrap(), "\"of the common file\"");
    assert_eq!(lookup(&bench, "facts.json", "site::only").unwrap(), "1");
    assert_eq!(lookup(&bench, "facts.json", "site::none"), None);

    // Structured values keep their types, and dig into as any other.
    bench.run("consul-kv", ["put", "hiera/common/site::tree", r#"{"port": 5000, "on": true, "list": [1, "2"]}"#]).is(0);
    assert_eq!(lookup(&bench, "facts.json", "site::tree").unwrap(), r#"{"port":5000,"on":true,"list":[1,"2"]}"#);
    assert_eq!(lookup(&bench, "facts.json", "site::tree.list.1").unwrap(), "\"2\"");
}

/// The shipped data can be read for every role, with Consul empty.
#[test]
fn the_shipped_data_answers_for_every_role() {
    let Some(consul) = RealConsul::start(&json!({})) else { return };
    let mut bench = Bench::new();
    bench.set("CONSUL_HTTP_ADDR", &consul.url());
    let hiera = repository().join("provision/puppet/hiera.yaml");
    let mut roles = 0;
    for file in std::fs::read_dir(repository().join("provision/puppet/data/role")).unwrap() {
        let path = file.unwrap().path();
        let role = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let facts = bench.write("f.json", json!({"role": role, "networking": {"hostname": "n1"}}).to_string());
        let arguments = ["lookup", "--hiera_config", hiera.to_str().unwrap(), "--facts", &facts, "--merge", "unique"];
        let run = bench.run("hiera-consul", arguments.iter().chain(&["--render-as", "json", "classes"])).is(0);
        let classes: Vec<String> = serde_json::from_str(&run.out).unwrap();
        assert!(
            !classes.is_empty() && classes.iter().all(|class| class.starts_with("stacktira")),
            "{role}: {classes:?}"
        );
        roles += 1;
    }
    assert!(roles >= 5, "{roles}");
}
