//! From a write to a run: the watcher and the runner as a node has them.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use test_support::real_consul::RealConsul;

use crate::bench::{Bench, put, put_all, send, until, within};
use crate::proxy::Wire;

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

/// How the run goes on during which everything is written.
#[derive(Clone, Copy)]
enum Lasting {
    /// This long.
    Seconds(u64),
    /// Until the watcher has handed on the last value: as short as it can be without ending before.
    UntilHandedOn,
}

/// Storms of a thousand writes, each while one run of each of some queues goes on. Each queue has a watch of its own,
/// and each pair of them counts as one trial: exactly two runs, the second one started after the last write and with the
/// last value.
#[expect(clippy::print_stdout, reason = "a campaign ends with its figures")]
fn storms(watches: usize, storms: usize, lasting: Lasting) {
    let Some(consul) = RealConsul::start(&json!({})) else { return };
    let url = consul.url();
    let mut bench = Bench::new();
    bench.set("CONSUL_HTTP_ADDR", &url);
    let scratch = bench.text("");
    let hold = match lasting {
        Lasting::Seconds(seconds) => format!("sleep {seconds}"),
        Lasting::UntilHandedOn => format!("until [ -e {scratch}/let-$value ]; do sleep 0.1; done"),
    };
    let command = bench.script(
        "storm.sh",
        &format!(
            "set -e\nstart=$(date +%s%N)\nvalue=$(consul-kv get app/k)\necho $value >> {scratch}/began.$1\n\
             case $value in begin-*) {hold} ;; esac\necho \"$start $value $(date +%s%N)\" >> {scratch}/runs.$1"
        ),
    );
    let config: String = (0..watches)
        .map(|number| {
            format!("- {{name: s{number}, type: key, key: app/k, run: [ts, -Q, q{number}, '{command}', '{number}']}}\n")
        })
        .collect();
    let config = bench.write("watch.yaml", format!("watches:\n{config}"));
    put(&url, "app/k", "begin-1");
    let watcher = bench.start(bench.command("consul-watch-handler", ["watch", &config]), "watch.err");
    let all =
        |file: &str, lines: usize| (0..watches).all(|number| bench.lines(&format!("{file}.{number}")).len() >= lines);
    let mut slowest = Duration::ZERO;
    for storm in 1..=storms {
        let begin = format!("begin-{storm}");
        if storm > 1 {
            put(&url, "app/k", &begin);
        }
        let before = 2 * (storm - 1);
        within(Duration::from_secs(60), "the run before the storm", || all("began", before + 1));
        let start = Instant::now();
        put_all(&url, "app/k", (1..1000).map(|number| number.to_string()).chain([format!("final-{storm}")]));
        let written = nanoseconds();
        slowest = slowest.max(start.elapsed());
        if matches!(lasting, Lasting::UntilHandedOn) {
            // The last line of each watch names the index of what it handed on.
            let answer = bench.run("consul-kv", ["get", "--json", "app/k"]).is(0).out;
            let last = serde_json::from_str::<Value>(&answer).unwrap()["modify_index"].to_string();
            until("the last value is handed on", || {
                let said = watcher.said();
                (0..watches).all(|number| said.contains(&format!(": s{number}: changed (index {last}), ts succeeded")))
            });
            bench.write(&format!("let-{begin}"), "");
        }
        let long = match lasting {
            Lasting::Seconds(seconds) => Duration::from_secs(seconds + 60),
            Lasting::UntilHandedOn => Duration::from_secs(60),
        };
        within(long, "two runs", || all("runs", before + 2));
        // Whatever else was asked for would come now.
        std::thread::sleep(Duration::from_millis(1500));
        for number in 0..watches {
            let runs = bench.lines(&format!("runs.{number}"));
            let began = bench.lines(&format!("began.{number}"));
            assert_eq!((runs.len(), began.len()), (before + 2, before + 2), "storm {storm}, q{number}: {began:?}");
            let words: Vec<&str> = runs[before + 1].split(' ').collect();
            assert!(runs[before].contains(&begin), "{runs:?}");
            assert_eq!(words[1], format!("final-{storm}"), "the last value");
            assert!(words[0].parse::<u128>().unwrap() > written, "the second run started before the last write");
        }
    }
    assert_eq!(watcher.end(), 0);
    println!(
        "{} trials of 1000 writes (at most {} ms) during a run{}: exactly 2 runs each, the last value seen",
        watches * storms,
        slowest.as_millis(),
        match lasting {
            Lasting::Seconds(seconds) => format!(" of {seconds} s"),
            Lasting::UntilHandedOn => " that ends when the last value is handed on".to_owned(),
        },
    );
}

#[test]
fn a_thousand_writes_during_a_run_are_one_more_run() {
    storms(3, 2, Lasting::UntilHandedOn);
}

/// `make campaign`: twenty queues at a time share each storm.
#[test]
#[ignore = "takes minutes: make campaign"]
fn campaign_of_a_hundred_storms() {
    storms(20, 5, Lasting::Seconds(60));
}

/// Reading the file again, broken connections and new processes are no changes.
#[test]
fn forty_watches_of_unchanged_data_make_no_run() {
    // An agent keeps a query that nobody waits for any more until it is over, and its connection counts.
    let limits = json!({"limits": {"http_max_conns_per_client": 2000}});
    let Some(consul) = RealConsul::start(&limits) else { return };
    let wire = Wire::to(&consul.url());
    let mut bench = Bench::new();
    bench.set("CONSUL_HTTP_ADDR", &wire.url());
    let command = bench.script("run.sh", &format!("echo $STACKTIRA_WATCH_NAME >> {}", bench.text("ran")));
    let config = |wait: usize| {
        let watches: String = (0..40)
            .map(|number| format!("- {{name: w{number}, type: key, key: app/{number}, run: ['{command}']}}\n"))
            .collect();
        bench.write("watch.yaml", format!("max_wait: {wait}s\nwatches:\n{watches}"))
    };
    for number in 0..40 {
        put(&consul.url(), &format!("app/{number}"), "value");
    }
    let file = config(30);
    let start = || bench.start(bench.command("consul-watch-handler", ["watch", &file]), "watch.err");
    let mut watcher = start();
    let ran = || bench.lines("ran").len();
    until("each ran once", || ran() == 40);
    for round in 0..10 {
        match round % 3 {
            // Another limit makes all of them ask anew.
            0 => {
                config(20 + round);
                watcher.signal("HUP");
                // Readers of before do not wait for their answers.
                let threads = || std::fs::read_dir(format!("/proc/{}/task", watcher.pid())).unwrap().count();
                until("only the new readers are left", || threads() == 42);
            }
            1 => wire.reset(),
            _ => {
                drop(watcher);
                watcher = start();
            }
        }
        // A run that nothing asked for would come now.
        std::thread::sleep(Duration::from_millis(800));
        assert_eq!(ran(), 40, "round {round}: {}", watcher.said());
    }
    // They are all at work.
    for number in 0..40 {
        put(&consul.url(), &format!("app/{number}"), "another");
    }
    until("each ran once more", || ran() == 80);
    assert_eq!(watcher.end(), 0);
}

/// What a run is for comes along from the watch: name, index, and when it was seen, so that the run can say how long
/// ago the change was made. The first of the changes that a run covers counts.
#[test]
fn the_first_cause_of_a_run_reaches_its_command() {
    let Some(consul) = RealConsul::start(&json!({})) else { return };
    let mut bench = Bench::new();
    bench.set("CONSUL_HTTP_ADDR", &consul.url());
    let command = bench.script(
        "run.sh",
        &format!(
            "echo $TS_REASON $STACKTIRA_WATCH_NAME $STACKTIRA_WATCH_INDEX $STACKTIRA_WATCH_SEEN >> {0}\n\
             until [ -e {1}.$(wc -l < {0}) ]; do sleep 0.1; done",
            bench.text("causes"),
            bench.text("let")
        ),
    );
    let config = bench.write(
        "watch.yaml",
        format!(
            "watches:\n- {{name: k, type: key, key: app/k, run: [ts, -Q, site, --reason, watch k, '{command}']}}\n"
        ),
    );
    put(&consul.url(), "app/k", "0");
    let watcher = bench.start(bench.command("consul-watch-handler", ["watch", &config]), "watch.err");
    until("the first run", || bench.lines("causes").len() == 1);
    let mut indexes = Vec::new();
    for value in ["1", "2"] {
        put(&consul.url(), "app/k", value);
        let answer = bench.run("consul-kv", ["get", "--json", "app/k"]).is(0).out;
        indexes.push(serde_json::from_str::<Value>(&answer).unwrap()["modify_index"].to_string());
        until("it is handed on", || watcher.said().contains(&format!("(index {})", indexes[indexes.len() - 1])));
    }
    let handed_on = nanoseconds();
    bench.write("let.1", "");
    bench.write("let.2", "");
    until("one more run", || bench.lines("causes").len() == 2 && idle(&bench));
    let causes = bench.lines("causes");
    let words: Vec<&str> = causes[1].split(' ').collect();
    assert_eq!(words[..4], ["watch", "k", "k", &indexes[0]], "{causes:?}");
    let seen = (words[4].parse::<f64>().unwrap() * 1e9) as u128;
    assert!(seen < handed_on && handed_on - seen < 60_000_000_000, "{causes:?}");
    assert_eq!(watcher.end(), 0);
}

/// Watches of the agent itself, which calls all handlers whenever it is reloaded.
#[expect(clippy::print_stdout, reason = "a campaign ends with its figures")]
fn reloads(watches: usize, reloads: usize) {
    let bench = Bench::new();
    let command = bench.script("run.sh", &format!("echo $STACKTIRA_WATCH_NAME >> {}", bench.text("ran")));
    let handler = bench.command("consul-watch-handler", [""; 0]).get_program().to_str().unwrap().to_owned();
    let called = bench.script(
        "called.sh",
        &format!(
            "export STACKTIRA_WATCH_DIR={} CONSUL_HTTP_ADDR=127.0.0.1:1\necho >> {}\nexec {handler} \"$@\"",
            bench.text("watch"),
            bench.text("calls")
        ),
    );
    let definitions: Vec<Value> = (0..watches)
        .map(|number| {
            let key = format!("app/{number}");
            let args = [&called, "handle", "--name", &format!("w{number}"), "--type", "key", "--", &command];
            json!({"type": "key", "key": key, "handler_type": "script", "args": args})
        })
        .collect();
    // The agent's watches of before a reload stay connected for a while.
    let settings = json!({"watches": definitions, "limits": {"http_max_conns_per_client": 2000}});
    let Some(consul) = RealConsul::start(&settings) else { return };
    let calls = || bench.lines("calls").len();
    until("the agent has called for what is not there", || calls() >= watches);
    for number in 0..watches {
        put(&consul.url(), &format!("app/{number}"), "value");
    }
    let ran = || bench.lines("ran").len();
    until("each ran once", || ran() == watches);
    for _ in 0..reloads {
        let before = calls();
        send(&consul.url(), "agent/reload", "");
        until("the agent has called all handlers", || calls() >= before + watches);
    }
    // The handlers that were called last may still be at work.
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(ran(), watches, "a reload made a run");
    println!("{watches} watches, {reloads} reloads, {} calls of handlers: {} runs", calls(), ran() - watches);
}

#[test]
fn reloads_of_the_agent_make_no_run() {
    reloads(10, 3);
}

/// `make campaign`
#[test]
#[ignore = "takes a minute: make campaign"]
fn campaign_of_ten_reloads_of_forty_watches() {
    reloads(40, 10);
}
