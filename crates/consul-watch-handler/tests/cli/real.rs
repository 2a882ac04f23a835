//! A real Consul, where the machine has one.

use std::time::{Duration, Instant};

use consul_client::{Client, Config, Query};
use serde_json::json;
use test_support::real_consul::RealConsul;

use crate::harness::{Bench, pause, until};

fn client(url: &str, token: Option<&str>) -> Client {
    let config = Config::from_env(|name| match name {
        "CONSUL_HTTP_ADDR" => Some(url.into()),
        "CONSUL_HTTP_TOKEN" => token.map(Into::into),
        _ => None,
    });
    Client::new(&config.expect("an address")).expect("usable")
}

#[test]
fn a_storm_of_writes_and_a_silent_denial() {
    const ROOT: &str = "00000000-0000-4000-8000-000000000001";
    let acl = json!({"acl": {"enabled": true, "default_policy": "deny", "tokens": {"master": ROOT}}});
    let Some(real) = RealConsul::start(&acl) else { return };
    let bench = Bench::new();
    let token = bench.path("token");
    std::fs::write(&token, ROOT).expect("written");
    let config = |name: &str, run: &str| {
        format!(
            "max_wait: 1s\nconsul: {{token_file: {}}}\nwatches:\n\
             - {{name: {name}, type: keyprefix, prefix: app/, run: [{run}]}}\n",
            token.display()
        )
    };
    let root = client(&real.url(), Some(ROOT));
    root.kv().put("app/k", b"0").expect("written");
    let run = bench.recorder("r");
    let watch = bench.watch_at(&real.url(), &config("p", &run));
    until("the first observation", || bench.log("r").len() == 1);
    for number in 1..=50 {
        root.kv().put("app/k", format!("{number}").as_bytes()).expect("written");
        pause(18);
    }
    until("the last value is seen", || bench.log("r").last().is_some_and(|last| last.contains("\"NTA=\"")));
    pause(300);
    let runs = bench.log("r").len();
    // One at once, one for the rest; a pause of this machine may look like the end of the storm.
    assert!(runs <= 7, "{} runs for 50 writes", runs - 1);

    // The token loses its rights: this version then answers that the prefix is empty.
    std::fs::write(&token, "").expect("written");
    drop(watch);
    let anonymous = client(&real.url(), None);
    let silent = anonymous.json(&["kv", "app", ""], &[("recurse", "")], &Query::new());
    if !silent.is_ok_and(|answer| answer.value.is_none()) {
        eprintln!("skipped: this Consul says what it leaves out");
        return;
    }
    let watch = bench.watch_at(&real.url(), &config("p", &run));
    until("it is said", || watch.said().contains("unknown, the last state stays"));
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(bench.log("r").len(), runs, "not gone, but unknown");
    // The token is back in its file, without a restart or a reload, and what happened meanwhile is seen.
    root.kv().put("app/k", b"later").expect("written");
    std::fs::write(&token, ROOT).expect("written");
    until("it is seen", || bench.log("r").last().is_some_and(|last| last.contains("\"bGF0ZXI=\"")));
}

#[test]
fn a_restored_snapshot_is_noticed_at_once() {
    let Some(real) = RealConsul::start(&json!({})) else { return };
    let bench = Bench::new();
    let run = bench.recorder("r");
    let root = client(&real.url(), None);
    root.kv().put("app/k", b"A").expect("written");
    real.snapshot("save");
    root.kv().put("app/k", b"B").expect("written");
    for number in 0..20 {
        root.kv().put("app/other", format!("{number}").as_bytes()).expect("written");
    }
    let _watch = bench.watch_at(
        &real.url(),
        &format!("watches:\n- {{name: k, type: key, key: app/k, debounce: 20ms..1s, run: [{run}]}}\n"),
    );
    until("the first observation", || bench.log("r").last().is_some_and(|last| last.contains("\"Qg==\"")));
    // It must be waiting, which nothing tells from outside.
    pause(500);
    let restored = Instant::now();
    real.snapshot("restore");
    until("it is noticed", || bench.log("r").last().is_some_and(|last| last.contains("\"QQ==\"")));
    assert!(restored.elapsed() < Duration::from_secs(10), "at once, and not after max_wait");
}
