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

#[test]
fn a_storm_of_writes_becomes_few_runs_and_the_last_one_sees_the_last_value() {
    let Some(consul) = RealConsul::start(&json!({})) else { return };
    let url = consul.url();
    let mut bench = Bench::new();
    bench.set("CONSUL_HTTP_ADDR", &url);
    let log = bench.text("runs");
    let converge = bench.script(
        "converge.sh",
        &format!(
            "set -e\nstart=$(date +%s%N)\nvalue=$(consul-kv get app/k)\nsleep 0.2\n\
             echo \"$start $value $(date +%s%N)\" >> {log}"
        ),
    );
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
