//! Many processes, one choice.

use std::process::Stdio;

use serde_json::json;
use test_support::real_consul::RealConsul;

use crate::bench::{Bench, Run};

#[test]
fn five_at_once_get_one_answer() {
    let Some(consul) = RealConsul::start(&json!({})) else { return };
    let mut bench = Bench::new();
    bench.set("CONSUL_HTTP_ADDR", &consul.url());
    let all: Vec<_> = (0..5)
        .map(|_| {
            let mut command = bench.command("consul-elect", ["once", "db"]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let answers: Vec<Run> = all.into_iter().map(|one| one.wait_with_output().unwrap().into()).collect();
    let first = answers[0].out.clone();
    assert_eq!(first.split_whitespace().take(2).collect::<Vec<_>>(), ["real1", "127.0.0.1"]);
    for answer in answers {
        assert_eq!(answer.is(0).out, first);
    }
    // And everybody later: by the same tool, by a lookup, and by the key itself.
    assert_eq!(bench.run("consul-elect", ["show", "db"]).is(0).out, first);
    bench.write(
        "hiera.yaml",
        "version: 5\nhierarchy:\n- {name: c, lookup_key: 'stacktira::consul', options: {prefix: hiera/}}\n",
    );
    let looked_up = |key: &str| {
        let run = bench.run("hiera-consul", ["lookup", "--hiera_config", "hiera.yaml", "--render-as", "s", key]);
        run.is(0).out.trim().to_owned()
    };
    assert_eq!(looked_up("leader__db"), "real1");
    assert_eq!(looked_up("leader__db__address"), "127.0.0.1");
    let record: serde_json::Value =
        serde_json::from_str(&bench.run("consul-kv", ["get", "stacktira/leader/db"]).is(0).out).unwrap();
    assert_eq!(record["node"], "real1");
    assert_eq!(bench.sh("consul-elect once db --mine && echo init").is(0).out.lines().last(), Some("init"));
}
