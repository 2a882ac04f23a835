//! Tools as parts of pipelines.

use std::process::Stdio;

use serde_json::json;
use test_support::real_consul::RealConsul;

use crate::bench::{Bench, Run};

#[test]
fn bytes_pass_through_pipes_unchanged() {
    let Some(consul) = RealConsul::start(&json!({})) else { return };
    let mut bench = Bench::new();
    bench.set("CONSUL_HTTP_ADDR", &consul.url());
    let bytes: Vec<u8> = (0..=255).cycle().take(100_000).chain(*b"\n\n").collect();
    bench.write("in", &bytes);
    bench.sh("set -e; consul-kv put a < in; consul-kv get a | consul-kv put b -; consul-kv get b > out").is(0);
    assert_eq!(std::fs::read(bench.path("out")).unwrap(), bytes);
    bench.sh("consul-kv list '' | while read -r key; do consul-kv get \"$key\" | cksum; done | uniq | wc -l > n").is(0);
    assert_eq!(bench.lines("n"), ["1"]);
    // Absence is a code, not an empty value.
    let absent = bench.sh("consul-kv get none || echo absent").is(0);
    assert_eq!((absent.out.as_str(), absent.err.as_str()), ("absent\n", ""));
    bench.sh("consul-kv put empty '' && consul-kv get empty").is(0);
    assert_eq!(bench.sh("consul-kv get none | consul-kv put --cas 0 made -; consul-kv get made").is(0).out, "");
}

#[test]
fn a_reader_that_leaves_ends_every_tool_quietly() {
    let Some(consul) = RealConsul::start(&json!({})) else { return };
    let mut bench = Bench::new();
    bench.set("CONSUL_HTTP_ADDR", &consul.url());
    bench.write("big", vec![b'x'; 400_000]);
    for script in ["consul-kv put hiera/big < big", "consul-elect once db", "ts -f cat big"] {
        bench.sh(script).is(0);
    }
    let level = "version: 5\nhierarchy:\n- {name: c, lookup_key: 'stacktira::consul', options: {prefix: hiera/}}\n";
    bench.write("hiera.yaml", level);
    bench.write("node/etc/stacktira/metadata.json", json!({"big": "x".repeat(400_000)}).to_string());
    bench.write("mirror.yaml", format!("root: {}\nurl: http://m\n", bench.text("mirror")));
    bench.write("repos.yaml", "{}\n");
    for words in [
        "consul-kv get hiera/big",
        "consul-kv get --json hiera/big",
        "consul-kv list --json hiera/",
        "consul-kv wait hiera/big",
        "consul-elect show --json db",
        "hiera-consul lookup --hiera_config hiera.yaml big",
        "node-metadata dump",
        "node-metadata get big",
        "mirror-sync --config mirror.yaml list --json",
        "cloner -q --json repos.yaml",
        "ts -s --json",
        "ts -l --json",
        "ts -c",
        "ts --help",
        "consul-watch-handler --help",
    ] {
        let mut words = words.split(' ');
        let mut command = bench.command(words.next().unwrap(), words);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let run = Run::from(child.wait_with_output().unwrap());
        assert_eq!((run.code, run.err.as_str()), (0, ""), "{command:?}");
    }
    // As it is written by hand.
    let run = bench.sh("consul-kv get hiera/big | head -c0; consul-kv list '' | head -n1").is(0);
    assert_eq!((run.out.as_str(), run.err.as_str()), ("hiera/big\n", ""));
}
