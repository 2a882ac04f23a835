//! `agent-config`.

use serde_json::{Value, json};
use test_support::real_consul::RealConsul;

use crate::harness::{Bench, stderr, until};

fn definitions(bench: &Bench, config: &str) -> (Option<i32>, Value, String) {
    std::fs::write(bench.path("watch.yaml"), config).expect("written");
    let output = bench.command().arg("agent-config").arg(bench.path("watch.yaml")).output().expect("it runs");
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or_default(), stderr(&output))
}

#[test]
fn every_type_has_its_definition() {
    let bench = Bench::new();
    let (code, value, said) = definitions(
        &bench,
        "consul: {address: 'http://h:1', token_file: /t, namespace: n}\nwatches:\n\
         - {name: k, type: key, key: app/k, run: [x, -y]}\n\
         - {name: p, type: keyprefix, prefix: app/, fields: [Key, Value], run: [x]}\n\
         - {name: a, type: services, run: [x]}\n- {name: n, type: nodes, run: [x]}\n\
         - {name: s, type: service, service: web, tag: t, passing: true, timeout: 5m, run: [x]}\n\
         - {name: c, type: checks, service: web, run: [x]}\n- {name: e, type: event, event: deploy, debounce: 1s..2s, run: [x]}\n",
    );
    assert_eq!(code, Some(0), "{said}");
    let watches = value["watches"].as_array().expect("a list");
    assert_eq!(watches.len(), 7);
    let own = env!("CARGO_BIN_EXE_consul-watch-handler");
    assert_eq!(
        watches[0],
        json!({"type": "key", "key": "app/k", "handler_type": "script", "args": [own, "handle", "--name", "k",
            "--type", "key", "--http-addr", "http://h:1", "--token-file", "/t", "--key=app/k", "--timeout=30m", "--", "x", "-y"]})
    );
    let service = &watches[4];
    assert_eq!(
        (&service["service"], &service["tag"], &service["passingonly"]),
        (&json!("web"), &json!("t"), &json!(true))
    );
    assert_eq!((&watches[6]["name"], &watches[1]["prefix"]), (&json!("deploy"), &json!("app/")));
    // Each of them is understood by `handle`.
    for watch in watches {
        let args: Vec<&str> = watch["args"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
        let at = args.iter().position(|arg| *arg == "--").expect("a command");
        let words = args[1..at].iter().map(|word| (*word).to_owned()).chain(["--help".to_owned()]);
        assert!(bench.command().args(words).output().expect("it runs").status.success(), "{args:?}");
    }
    assert!(said.contains("set CONSUL_NAMESPACE in the agent's environment"), "{said}");
    assert!(said.contains("e: Consul gathers no changes"), "{said}");
}

#[test]
fn what_consul_cannot_do_is_refused() {
    let bench = Bench::new();
    let (code, _, said) = definitions(&bench, "watches:\n- {name: b, type: services, tag: t, run: [x]}\n");
    assert_eq!(code, Some(65));
    assert!(said.contains("b: Consul's own watches follow no instances") && said.contains("hint: "), "{said}");
    assert_eq!(definitions(&bench, "watches: 3\n").0, Some(65));
}

#[test]
fn a_real_agent_takes_them() {
    let bench = Bench::new();
    let run = bench.recorder("r");
    let (code, mut value, said) =
        definitions(&bench, &format!("watches:\n- {{name: k, type: key, key: app/k, run: [{run}]}}\n"));
    assert_eq!(code, Some(0), "{said}");
    // The handler's state is this test's: an agent gives its own environment to handlers.
    let args = value["watches"][0]["args"].as_array_mut().expect("a list");
    let state = format!("STACKTIRA_WATCH_DIR={}", bench.path("state").display());
    args.splice(0..0, [json!("/usr/bin/env"), json!(state)]);
    let Some(real) = RealConsul::start(&value) else { return };
    let config = consul_client::Config::from_env(|name| (name == "CONSUL_HTTP_ADDR").then(|| real.url().into()));
    let client = consul_client::Client::new(&config.expect("an address")).expect("usable");
    client.kv().put("app/k", b"v").expect("written");
    until("the agent's handler ran", || bench.log("r").last().is_some_and(|last| last.contains("\"dg==\"")));
}
