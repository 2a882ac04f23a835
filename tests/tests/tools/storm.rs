//! From a write to a run: the watcher and the runner as a node has them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use test_support::real_consul::RealConsul;

use crate::bench::{Bench, until};

/// Writes a key without the time that starting a program takes.
fn put(url: &str, key: &str, value: &str) {
    let address = url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    let length = value.len();
    let request =
        format!("PUT /v1/kv/{key} HTTP/1.1\r\nHost: c\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{value}");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.trim_end().ends_with("true"), "{answer}");
}

fn nanoseconds() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()
}

/// One run as its command noted it: when it began, what it read, when it ended.
struct Noted {
    start: u128,
    value: String,
    end: u128,
}

fn runs(bench: &Bench) -> Vec<Noted> {
    let run = |line: &String| {
        let words: Vec<&str> = line.split(' ').collect();
        Noted { start: words[0].parse().unwrap(), value: words[1].to_owned(), end: words[2].parse().unwrap() }
    };
    bench.lines("runs").iter().map(run).collect()
}

fn idle(bench: &Bench) -> bool {
    let status: Value = serde_json::from_str(&bench.run("ts", ["-Q", "site", "-s", "--json"]).is(0).out).unwrap();
    status["running"].is_null() && status["pending"] == json!(0)
}

/// A command that notes when it began, what it read from Consul, and when it ended.
fn converge(bench: &Bench) -> String {
    let log = bench.text("runs");
    let url = bench.text("url");
    bench.script(
        "converge.sh",
        &format!(
            "set -e\nexport CONSUL_HTTP_ADDR=$(cat {url})\nstart=$(date +%s%N)\nvalue=$(consul-kv get app/k)\n\
             sleep 0.2\necho \"$start $value $(date +%s%N)\" >> {log}"
        ),
    )
}

#[test]
fn a_storm_of_writes_becomes_few_runs_and_the_last_one_sees_the_last_value() {
    let Some(consul) = RealConsul::start(&json!({})) else { return };
    let url = consul.url();
    let mut bench = Bench::new();
    bench.set("CONSUL_HTTP_ADDR", &url);
    bench.write("url", &url);
    let converge = converge(&bench);
    let config = bench.write(
        "watch.yaml",
        format!(
            "max_wait: 2s\nwatches:\n- name: app\n  type: keyprefix\n  prefix: app/\n  debounce: 200ms..2s\n  \
             run: [ts, -Q, site, '{converge}']\n"
        ),
    );
    let watch = || bench.start(bench.command("consul-watch-handler", ["-vv", "watch", &config]), "watch.err");
    put(&url, "app/k", "0");
    let watcher = watch();
    until("the first observation", || runs(&bench).len() == 1 && idle(&bench));

    let begin = Instant::now();
    for number in 1..=50 {
        put(&url, "app/k", &number.to_string());
        let next = Duration::from_millis(19) * number;
        std::thread::sleep(next.saturating_sub(begin.elapsed()));
    }
    let written = nanoseconds();
    let storm = begin.elapsed();
    let newest = || runs(&bench).last().is_some_and(|run| run.value == "50");
    until("the last value is seen", || newest() && idle(&bench));
    // Whatever else was asked for would come now.
    std::thread::sleep(Duration::from_millis(700));
    assert!(idle(&bench));
    let all = runs(&bench);
    let caused = all.len() - 1;
    // A machine that needs longer for the writes gets a run more for each two seconds.
    let allowed = 3 + usize::try_from(storm.as_secs() / 2).unwrap();
    assert!(caused <= allowed, "{caused} runs for 50 writes in {storm:?}");
    assert!(all.last().unwrap().start > written, "the last run started before the last write");
    assert!(all.windows(2).all(|pair| pair[0].end <= pair[1].start), "two runs at the same time");

    // A watcher that starts again with nothing changed asks for nothing.
    assert_eq!(watcher.end(), 0);
    let watcher = watch();
    std::thread::sleep(Duration::from_millis(1500));
    assert!(idle(&bench));
    assert_eq!(runs(&bench).len(), all.len(), "the restart caused a run");
    // It does follow: what changes now is one run.
    put(&url, "app/k", "51");
    until("the change after the restart", || runs(&bench).last().is_some_and(|run| run.value == "51") && idle(&bench));
    assert_eq!(runs(&bench).len(), all.len() + 1);

    // What changes while no watcher runs is noticed by the next one.
    assert_eq!(watcher.end(), 0);
    put(&url, "app/k", "52");
    let watcher = watch();
    until("the change meanwhile", || runs(&bench).last().is_some_and(|run| run.value == "52") && idle(&bench));
    assert_eq!(watcher.end(), 0);
    assert_eq!(runs(&bench).len(), all.len() + 2);
}

/// A watcher that is killed at any moment has either asked for the run or asks for it when it is back.
#[test]
fn a_killed_watcher_loses_no_change() {
    let Some(consul) = RealConsul::start(&json!({})) else { return };
    let url = consul.url();
    let mut bench = Bench::new();
    bench.set("CONSUL_HTTP_ADDR", &url);
    bench.write("url", &url);
    let converge = converge(&bench);
    let config = bench.write(
        "watch.yaml",
        format!(
            "max_wait: 2s\nwatches:\n- {{name: k, type: key, key: app/k, debounce: 10ms..50ms, \
             run: [ts, -Q, site, '{converge}']}}\n"
        ),
    );
    for round in 0..8_u64 {
        let value = format!("v{round}");
        let watcher = bench.start(bench.command("consul-watch-handler", ["watch", &config]), "watch.err");
        std::thread::sleep(Duration::from_millis(60));
        put(&url, "app/k", &value);
        std::thread::sleep(Duration::from_millis(13 * round));
        // Dropped: killed, without a chance to say anything.
        drop(watcher);
    }
    let watcher = bench.start(bench.command("consul-watch-handler", ["watch", &config]), "watch.err");
    until("the last value", || runs(&bench).last().is_some_and(|run| run.value == "v7") && idle(&bench));
    let all = runs(&bench);
    assert!(all.windows(2).all(|pair| pair[0].end <= pair[1].start), "two runs at the same time");
    assert!(all.windows(2).all(|pair| pair[0].value <= pair[1].value), "an old value after a newer one");
    assert_eq!(watcher.end(), 0);
}

/// Consul's own watches may call the handler instead of the watcher, as `agent-config` says.
#[test]
fn watches_of_the_agent_ask_for_the_same_runs() {
    let bench = Bench::new();
    let converge = converge(&bench);
    let config = bench.write(
        "watch.yaml",
        format!("watches:\n- {{name: k, type: key, key: app/k, run: [ts, -Q, site, '{converge}']}}\n"),
    );
    let printed = bench.run("consul-watch-handler", ["agent-config", &config]).is(0).out;
    let mut definitions: Value = serde_json::from_str(&printed).unwrap();
    // The agent's own environment is another one than this test's.
    let command = definitions["watches"][0]["args"].as_array_mut().unwrap();
    let mut settings: Vec<Value> = vec![json!("/usr/bin/env")];
    settings.extend(["PATH", "STACKTIRA_WATCH_DIR", "TS_DIR", "TS_SCOPE"].map(|name| {
        let value = bench.setting(name);
        json!(format!("{name}={value}"))
    }));
    // Nobody confirms that nothing is there, as long as the key is missing.
    settings.push(json!("CONSUL_HTTP_ADDR=127.0.0.1:1"));
    command.splice(0..0, settings);
    let Some(consul) = RealConsul::start(&definitions) else { return };
    let url = consul.url();
    bench.write("url", &url);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(runs(&bench).len(), 0, "an absence that is not confirmed is no change");
    put(&url, "app/k", "0");
    until("the first value", || runs(&bench).len() == 1 && idle(&bench));
    for number in 1..=20 {
        put(&url, "app/k", &number.to_string());
    }
    let written = nanoseconds();
    until("the last value", || runs(&bench).last().is_some_and(|run| run.value == "20") && idle(&bench));
    std::thread::sleep(Duration::from_millis(500));
    let all = runs(&bench);
    assert!(all.len() <= 6, "{} runs for 20 writes at once", all.len() - 1);
    assert!(all.last().unwrap().start > written, "the last run started before the last write");
    // The index moves, the value does not.
    for _ in 0..3 {
        put(&url, "app/k", "20");
        std::thread::sleep(Duration::from_millis(150));
    }
    std::thread::sleep(Duration::from_millis(500));
    assert!(idle(&bench));
    assert_eq!(runs(&bench).len(), all.len(), "the same value is no change");
}
