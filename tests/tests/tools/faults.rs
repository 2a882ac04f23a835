//! A Consul that makes mistakes all the time: what is there is never taken for gone, and what was written last is seen.
//!
//! Everything that is watched is always there, and changes all the time. Each change carries a number, the mark. After
//! a while of mistakes the last mark is written, and only then the mistakes end: every watch must come to it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use test_support::real_consul::RealConsul;

use crate::bench::{Bench, send};
use crate::proxy::{Dice, Faulty};

/// How long after the end of the mistakes a watch may need: a stall of ten seconds and more, a pause of five.
const PATIENCE: Duration = Duration::from_secs(60);

/// The watches, and for each what its payload looks like when all is there.
const KINDS: [(&str, &str); 7] = [
    ("key", "type: key, key: app/k"),
    ("prefix", "type: keyprefix, prefix: app/"),
    ("services", "type: services"),
    ("tagged", "type: services, tag: balanced, passing: true"),
    ("service", "type: service, service: web"),
    ("nodes", "type: nodes"),
    ("checks", "type: checks, service: web"),
];

/// Whether everything is in a payload.
fn whole(kind: &str, payload: &Value) -> bool {
    let count = payload.as_array().map_or(0, Vec::len);
    match kind {
        "key" => payload["Key"] == "app/k",
        "prefix" => count == 4,
        "services" => payload.get("web").is_some() && payload.get("api").is_some(),
        "tagged" => payload["web"].as_array().is_some_and(|instances| instances.len() == 3),
        "service" | "checks" => count == 3,
        "nodes" => count == 4,
        _ => unreachable!("all kinds are here"),
    }
}

/// Whether a payload carries a mark.
fn carries(payload: &Value, mark: u64) -> bool {
    let text = payload.to_string();
    [
        format!("\"Flags\":{mark},"),
        format!("\"Port\":{},", 10_000 + mark),
        format!("\"port\":{}}}", 10_000 + mark),
        format!("\"mark-{mark}\""),
    ]
    .iter()
    .any(|form| text.contains(form))
}

/// Writes a mark to everything.
fn write(url: &str, mark: u64) {
    send(url, &format!("kv/app/k?flags={mark}"), "value");
    for node in 1..=3 {
        let register = json!({
            "Node": format!("n{node}"), "Address": format!("192.0.2.{node}"), "NodeMeta": {"mark": format!("mark-{mark}")},
            "Service": {"ID": "web", "Service": "web", "Port": 10_000 + mark, "Tags": ["balanced", format!("mark-{mark}")]},
            "Check": {"CheckID": "service:web", "ServiceID": "web", "Name": "web", "Status": "passing",
                "Notes": format!("mark-{mark}")},
        });
        send(url, "catalog/register", &register.to_string());
    }
}

/// Plays until this many mistakes were made by this many watches of each kind.
#[expect(clippy::print_stdout, reason = "a campaign ends with its figures")]
fn play(mistakes: usize, copies: usize) {
    let Some(consul) = RealConsul::start(&json!({})) else { return };
    let url = consul.url();
    let seed = Dice::seed();
    let proxy = Faulty::before(&url, seed);
    let mut bench = Bench::new();
    bench.set("CONSUL_HTTP_ADDR", &proxy.url());
    for key in ["app/a", "app/b", "app/c"] {
        crate::bench::put(&url, key, "fixed");
    }
    send(
        &url,
        "catalog/register",
        &json!({"Node": "n1", "Address": "192.0.2.1", "Service": {"ID": "api", "Service": "api", "Port": 1}})
            .to_string(),
    );
    let mut mark = 1;
    write(&url, mark);
    let names: Vec<(&str, String)> =
        KINDS.iter().flat_map(|(kind, _)| (0..copies).map(move |copy| (*kind, format!("{kind}{copy}")))).collect();
    let mut config = "max_wait: 1s\nwatches:\n".to_owned();
    for (kind, options) in KINDS {
        for copy in 0..copies {
            let name = format!("{kind}{copy}");
            let run =
                bench.script(&format!("{name}.sh"), &format!("exec cat >> {}", bench.text(&format!("{name}.log"))));
            config.push_str(&format!("- {{name: {name}, {options}, run: ['{run}']}}\n"));
        }
    }
    let config = bench.write("watch.yaml", config);
    let watch = bench.start(bench.command("consul-watch-handler", ["watch", &config]), "watch.err");

    let payloads = |name: &str| -> Vec<Value> {
        bench.lines(&format!("{name}.log")).iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let settle = |mark: u64| {
        let end = Instant::now() + PATIENCE;
        for (_, name) in &names {
            while !payloads(name).last().is_some_and(|payload| carries(payload, mark)) {
                assert!(
                    Instant::now() < end,
                    "seed {seed}: {name} has missed the last state, {mark}: {:?}\n{}",
                    payloads(name).last(),
                    watch.said()
                );
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    };
    settle(mark);
    let mut rounds = 0;
    let made = || proxy.made().iter().map(|(_, count)| count).sum::<usize>();
    while made() < mistakes {
        rounds += 1;
        proxy.rate(50);
        for _ in 0..8 {
            std::thread::sleep(Duration::from_millis(700));
            mark += 1;
            write(&url, mark);
        }
        proxy.rate(0);
        settle(mark);
    }
    let mut runs = 0;
    for (kind, name) in &names {
        for payload in payloads(name) {
            assert!(whole(kind, &payload), "seed {seed}: {name} was told that something is gone: {payload}");
            runs += 1;
        }
    }
    assert_eq!(watch.end(), 0);
    let made = proxy.made();
    let total: usize = made.iter().map(|(_, count)| count).sum();
    println!(
        "seed {seed}: {total} mistakes in {rounds} rounds, {} watches, {runs} runs: 0 false \"gone\", 0 last states missed\n  {made:?}",
        names.len()
    );
    assert!(made.iter().all(|(_, count)| *count > 0) || mistakes < 500, "a mistake was never made: {made:?}");
}

#[test]
fn mistakes_make_nothing_disappear() {
    play(100, 1);
}

/// `make campaign`
#[test]
#[ignore = "takes minutes: make campaign"]
fn campaign_of_two_thousand_mistakes() {
    play(2000, 6);
}
