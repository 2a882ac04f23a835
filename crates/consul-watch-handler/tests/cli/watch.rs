//! `watch`.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use test_support::consul::{Fault, Instance};

use crate::harness::{Bench, alive, pause, stderr, until};

fn value(payload: &str) -> String {
    let payload: serde_json::Value = serde_json::from_str(payload).expect("JSON");
    payload.get("Value").and_then(|value| value.as_str()).unwrap_or("nothing").to_owned()
}

#[test]
fn changes_run_the_command_and_a_restart_does_not() {
    let bench = Bench::new();
    let run = bench.recorder("r");
    let config = format!("watches:\n- {{name: k, type: key, key: app/k, debounce: 20ms..1s, run: [{run}]}}\n");
    let watch = bench.watch(&config);
    until("the first observation runs it", || bench.log("r").len() == 1);
    assert_eq!(bench.log("r"), ["null"]);
    bench.consul.put("app/k", b"one");
    until("a change runs it", || bench.log("r").len() == 2);
    bench.consul.put("app/other", b"x");
    bench.consul.put("app/k", b"one");
    pause(400);
    assert_eq!(bench.log("r").len(), 2, "nothing that counts changed");
    let (code, took) = watch.end();
    assert_eq!(code, Some(0));
    assert!(took < Duration::from_secs(2), "{took:?}");
    let before = bench.consul.requests().len();
    let watch = bench.watch(&config);
    until("it asked", || bench.consul.requests().len() >= before + 2);
    pause(300);
    assert_eq!(bench.log("r").len(), 2, "the same data makes no run");
    drop(watch);
    bench.consul.put("app/k", b"two");
    let _watch = bench.watch(&config);
    until("what happened meanwhile is seen", || bench.log("r").len() == 3);
}

#[test]
fn fifty_writes_in_a_second_are_at_most_three_runs() {
    let bench = Bench::new();
    let run = bench.recorder("r");
    let _watch = bench.watch(&format!("watches:\n- {{name: k, type: key, key: app/k, run: [{run}]}}\n"));
    until("the first observation", || bench.log("r").len() == 1);
    // A machine that stands still for a tenth of a second makes a run more, and rightly: a second of three has to be calm.
    let mut counts = Vec::new();
    for round in 0..3 {
        let before = bench.log("r").len();
        for number in 0..50 {
            bench.consul.put("app/k", format!("{round}{}", number + 10).as_bytes());
            pause(20);
        }
        let last = ["MDU5", "MTU5", "MjU5"][round];
        until("the last value is seen", || bench.log("r").last().is_some_and(|seen| value(seen) == last));
        pause(300);
        counts.push(bench.log("r").len() - before);
        if counts[round] <= 3 {
            return;
        }
    }
    panic!("runs of three seconds: {counts:?}");
}

#[test]
fn a_failed_command_is_tried_again_and_its_payload_not_remembered() {
    let bench = Bench::new();
    let flag = bench.path("ok");
    let log = bench.path("r.log");
    let run =
        bench.script("r", &format!("test -e {}; code=$?; echo $code >> {}; exit $code", flag.display(), log.display()));
    bench.consul.put("app/k", b"v");
    let watch = bench.watch(&format!("watches:\n- {{name: k, type: key, key: app/k, run: [{run}]}}\n"));
    until("it was tried twice", || bench.log("r").len() >= 2);
    std::fs::write(&flag, "").expect("written");
    let successes = || bench.log("r").iter().filter(|code| *code == "0").count();
    until("it succeeded", || successes() == 1);
    pause(2500);
    assert_eq!((successes(), bench.log("r").last().map(String::as_str)), (1, Some("0")), "then it rests");
    assert!(watch.said().contains("r.sh failed with code 1, trying again"), "{}", watch.said());
}

#[test]
fn a_denied_or_silent_consul_changes_nothing_and_is_told_once() {
    let bench = Bench::new();
    let run = bench.recorder("r");
    bench.consul.put("app/k", b"v");
    let watch = bench.watch(&format!(
        "max_wait: 1s\nwatches:\n- {{name: k, type: keyprefix, prefix: app/, debounce: 20ms..1s, run: [{run}]}}\n"
    ));
    until("the first observation", || bench.log("r").len() == 1);
    // Consul of this version filters lists silently: the prefix looks empty.
    bench.consul.deny_keys("app/");
    until("it is said", || watch.said().contains("unknown, the last state stays"));
    pause(2500);
    assert_eq!(bench.log("r").len(), 1, "not gone, but unknown");
    assert_eq!(watch.said().matches("unknown, the last state stays").count(), 1, "{}", watch.said());
    assert!(!watch.said().contains("secret-token"));
    drop(watch);
    let bench = Bench::new();
    let run = bench.recorder("r");
    bench.consul.put("app/k", b"v");
    let others: String =
        (0..5).map(|n| format!("- {{name: o{n}, type: key, key: app/{n}, run: ['true']}}\n")).collect();
    let config = format!("max_wait: 1s\nwatches:\n- {{name: k, type: key, key: app/k, run: [{run}]}}\n{others}");
    let watch = bench.watch(&config);
    until("the first observation", || bench.log("r").len() == 1);
    bench.consul.fault("kv/", Fault::Status(500, "No cluster leader".into()));
    until("it is said", || watch.said().contains("cannot answer"));
    // Queries that were under way are still answered.
    pause(1500);
    bench.consul.put("app/k", b"w");
    pause(500);
    assert_eq!(bench.log("r").len(), 1);
    assert_eq!(watch.said().matches("the last state stays").count(), 1, "for all watches at once: {}", watch.said());
    bench.consul.heal();
    until("it is back within 5 s and seen", || bench.log("r").len() == 2);
    until("it is said", || watch.said().contains("Consul answers again"));
}

#[test]
fn a_key_that_is_deleted_is_confirmed_and_told() {
    let bench = Bench::new();
    let run = bench.recorder("r");
    bench.consul.put("app/k", b"v");
    let _watch =
        bench.watch(&format!("watches:\n- {{name: k, type: key, key: app/k, debounce: 20ms..1s, run: [{run}]}}\n"));
    until("the first observation", || bench.log("r").len() == 1);
    bench.consul.delete("app/k");
    until("it is gone", || bench.log("r").len() == 2);
    assert_eq!(bench.log("r")[1], "null");
    assert!(bench.consul.requests().iter().any(|request| request.contains("/v1/kv/app/k?consistent")));
}

#[test]
fn a_restored_snapshot_is_noticed() {
    let bench = Bench::new();
    let run = bench.recorder("r");
    let old = bench.consul.put("app/k", b"A");
    bench.consul.put("app/k", b"B");
    for _ in 0..20 {
        bench.consul.put("app/x", b"more");
        bench.consul.put("app/x", b"and more");
    }
    let _watch =
        bench.watch(&format!("watches:\n- {{name: k, type: key, key: app/k, debounce: 20ms..1s, run: [{run}]}}\n"));
    until("the first observation", || bench.log("r").len() == 1);
    until("it waits", || bench.consul.requests().iter().any(|request| request.contains("index=")));
    // The value of before at an index of before; whoever waits is told what was.
    let restored = Instant::now();
    bench.consul.restore(old, &[("app/k", b"A")]);
    until("it is noticed", || bench.log("r").last().is_some_and(|last| value(last) == "QQ=="));
    assert!(restored.elapsed() < Duration::from_secs(10), "at once, and not after max_wait");
}

#[test]
fn one_watch_looks_again_for_all() {
    let bench = Bench::new();
    let run = bench.recorder("r");
    bench.consul.put("app/0", b"A");
    let old = bench.consul.put("app/1", b"A");
    for number in 0..20 {
        bench.consul.put(&format!("app/{number}"), b"B");
    }
    let watches: String =
        (0..20).map(|number| format!("- {{name: w{number}, type: key, key: app/{number}, run: [{run}]}}\n")).collect();
    let _watch = bench.watch(&format!("max_wait: 1s\nwatches:\n{watches}"));
    until("the first observations", || bench.log("r").len() == 20);
    let asked = || bench.consul.requests().len();
    until("the others are relieved", || {
        let before = asked();
        pause(3000);
        asked() - before <= 6
    });
    let watching = asked();
    until("one of them goes on", || asked() >= watching + 2);
    // Nobody who waits is told, and only two keys are as they were when it was saved.
    bench.consul.restore_silently(old, &[("app/0", b"A"), ("app/1", b"A")]);
    until("all have looked", || bench.log("r").len() == 40);
    let values: Vec<String> = bench.log("r")[20..].iter().map(|line| value(line)).collect();
    assert_eq!(values.iter().filter(|value| *value == "QQ==").count(), 2, "{values:?}");
}

#[test]
fn the_whole_balancer_is_one_watch() {
    let bench = Bench::new();
    let run = bench.recorder("r");
    let tagged =
        |node: &str, address: &str, name: &str, port| Instance::new(node, address, name, port).tag("haproxy::balanced");
    bench.consul.register(tagged("n1", "10.0.0.1", "web", 80));
    bench.consul.register(Instance::new("n1", "10.0.0.1", "db", 3306));
    let watch = bench.watch(&format!(
        "max_wait: 5s\nwatches:\n- name: lb\n  type: services\n  tag: haproxy::balanced\n  passing: true\n  \
         debounce: 20ms..1s\n  run: [{run}]\n"
    ));
    let last = |expected: &str| bench.log("r").last().is_some_and(|last| last == expected);
    let web1 = r#"{"node":"n1","id":"web","address":"10.0.0.1","port":80}"#;
    let web2 = r#"{"node":"n2","id":"web","address":"10.0.0.2","port":80}"#;
    let api = r#"{"node":"n2","id":"api","address":"10.0.0.2","port":81}"#;
    until("one instance", || last(&format!("{{\"web\":[{web1}]}}")));
    bench.consul.register(tagged("n2", "10.0.0.2", "web", 80));
    until("two instances", || last(&format!("{{\"web\":[{web1},{web2}]}}")));
    bench.consul.register(tagged("n2", "10.0.0.2", "api", 81));
    until("two services", || last(&format!("{{\"api\":[{api}],\"web\":[{web1},{web2}]}}")));
    bench.consul.set_status("n1", "web", "critical");
    until("a sick one leaves", || last(&format!("{{\"api\":[{api}],\"web\":[{web2}]}}")));
    bench.consul.set_status("n1", "web", "passing");
    until("a healthy one is back", || last(&format!("{{\"api\":[{api}],\"web\":[{web1},{web2}]}}")));
    bench.consul.deregister("n2", "api");
    until("a service leaves", || last(&format!("{{\"web\":[{web1},{web2}]}}")));
    let runs = bench.log("r").len();
    bench.consul.deny_catalog(true);
    bench.consul.register(tagged("n3", "10.0.0.3", "web", 80));
    until("it is said", || watch.said().contains("unknown, the last state stays"));
    pause(1000);
    assert_eq!(bench.log("r").len(), runs, "what may not be seen is not gone: {:?}", bench.log("r"));
    bench.consul.deny_catalog(false);
    until("all are back", || bench.log("r").last().is_some_and(|last| last.contains("10.0.0.3")));
}

#[test]
fn events_reach_a_busy_command_once_each() {
    let bench = Bench::new();
    let run = bench.script("r", &format!("cat >> {}; sleep 0.3", bench.path("r.log").display()));
    let _watch = bench
        .watch(&format!("watches:\n- {{name: e, type: event, event: deploy, debounce: 10ms..50ms, run: [{run}]}}\n"));
    until("it asks", || bench.consul.requests().len() >= 2);
    let mut fired = Vec::new();
    for number in 0..40 {
        fired.push(bench.consul.fire("deploy", format!("{number}").as_bytes()));
        bench.consul.fire("other", b"");
        pause(10);
    }
    let seen = || -> Vec<String> {
        let lists = bench
            .log("r")
            .iter()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .collect::<Vec<_>>();
        lists
            .iter()
            .flat_map(|list| list.as_array().expect("a list").iter())
            .map(|event| event["ID"].as_str().expect("an id").to_owned())
            .collect()
    };
    until("all are seen", || seen().len() >= fired.len());
    pause(500);
    assert_eq!(seen(), fired, "each once, in order");
}

#[test]
fn hangup_reads_the_file_again_and_a_wrong_file_changes_nothing() {
    let bench = Bench::new();
    let (a, b) = (bench.recorder("a"), bench.recorder("b"));
    bench.consul.put("a", b"1");
    bench.consul.put("b", b"1");
    let line = |name: &str, run: &str| {
        format!("- {{name: {name}, type: key, key: {name}, debounce: 20ms..1s, run: [{run}]}}\n")
    };
    let watch = bench.watch(&format!("watches:\n{}", line("a", &a)));
    until("the first observation", || bench.log("a").len() == 1);
    std::fs::write(bench.path("watch.yaml"), "watches:\n- nmae: x\n").expect("written");
    watch.signal(Signal::SIGHUP);
    until("it is refused", || {
        watch.said().contains("the old configuration stays") && watch.said().contains("watch.yaml:2:")
    });
    bench.consul.put("a", b"2");
    until("the old one goes on", || bench.log("a").len() == 2);
    std::fs::write(bench.path("watch.yaml"), format!("watches:\n{}{}", line("a", &a), line("b", &b))).expect("written");
    watch.signal(Signal::SIGHUP);
    until("the new watch runs", || bench.log("b").len() == 1);
    std::fs::write(bench.path("watch.yaml"), format!("watches:\n{}", line("b", &b))).expect("written");
    watch.signal(Signal::SIGHUP);
    pause(300);
    bench.consul.put("a", b"3");
    bench.consul.put("b", b"2");
    until("the one that stayed runs", || bench.log("b").len() == 2);
    pause(200);
    assert_eq!(bench.log("a").len(), 2, "the one that left does not");
    assert_eq!(watch.end().0, Some(0));
}

#[test]
fn termination_ends_the_command_and_all_it_started() {
    let bench = Bench::new();
    let pids = bench.path("pids");
    let run = bench.script(
        "r",
        &format!("sleep 600 & echo $! > {0}.new; mv {0}.new {0}; trap '' TERM; wait; sleep 600", pids.display()),
    );
    let watch = bench.watch(&format!("watches:\n- {{name: n, type: nodes, run: [{run}]}}\n"));
    bench.consul.node("n1", "10.0.0.1");
    until("it runs", || pids.exists());
    let child = std::fs::read_to_string(&pids).expect("written");
    let start = Instant::now();
    let (code, _) = watch.end();
    assert_eq!(code, Some(0));
    assert!(start.elapsed() < Duration::from_secs(10));
    until("nothing is left", || !alive(&child));
}

#[test]
fn a_wrong_file_is_65_and_names_line_and_key() {
    let bench = Bench::new();
    for (text, said) in [
        ("watches:\n- name: a\n  type: key\n  kye: x\n  run: [x]\n", "watch.yaml:4:3: a watch has no key `kye`"),
        (
            "watches:\n- name: a\n  type: key\n  key: x\n  runn: [x]\n  run: [x]\n",
            "watch.yaml:5:3: a watch has no key `runn`",
        ),
        ("max_wait: soon\nwatches: []\n", "watch.yaml:1:11: `max_wait`: `soon` is no duration"),
    ] {
        std::fs::write(bench.path("watch.yaml"), text).expect("written");
        let output = bench.command().arg("watch").arg(bench.path("watch.yaml")).output().expect("it runs");
        assert_eq!(output.status.code(), Some(65));
        assert!(stderr(&output).contains(said), "{}", stderr(&output));
    }
    let output = bench.command().arg("watch").arg(bench.path("none")).output().expect("it runs");
    assert_eq!(output.status.code(), Some(65));
    let output = bench.command().arg("watch").output().expect("it runs");
    assert_eq!(output.status.code(), Some(2));
    std::fs::write(bench.path("watch.yaml"), "watches: []\n").expect("written");
    let unsafe_place = bench.path("watch.yaml").join("state");
    let output = bench
        .command()
        .arg("watch")
        .arg(bench.path("watch.yaml"))
        .env("STACKTIRA_WATCH_DIR", unsafe_place)
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(73), "{}", stderr(&output));
}

/// How much that is of the goal, which is for an optimised program, tests/bench/watch.sh says.
#[test]
fn many_watches_cost_little() {
    let bench = Bench::new();
    let watches: String =
        (0..40).map(|number| format!("- {{name: w{number}, type: key, key: k{number}, run: [/bin/true]}}\n")).collect();
    let watch = bench.watch(&format!("watches:\n{watches}"));
    until("all ask", || bench.consul.requests().iter().filter(|request| request.contains("index=")).count() >= 40);
    let threads = || std::fs::read_dir(format!("/proc/{}/task", watch.pid())).expect("it runs").count();
    until("what runs commands rests", || threads() == 42);
    let status = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", watch.pid())).expect("readable");
    let own: u64 = status
        .lines()
        .filter(|line| line.starts_with("Anonymous:"))
        .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
        .sum();
    assert!(own < 5 * 1024, "{own} KiB of its own for 40 watches");
}

/// What systemd hears of a service of type notify, over a reload, while it lives and when it ends.
#[test]
fn systemd_is_told() {
    let bench = Bench::new();
    let told = bench.path("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&told).expect("free");
    socket.set_read_timeout(Some(Duration::from_secs(20))).expect("settable");
    let run = bench.script("r", &format!("env > {}", bench.path("r.log").display()));
    let config = format!("watches:\n- {{name: k, type: key, key: k, run: [{run}]}}\n");
    let variables = [("NOTIFY_SOCKET", told.to_str().expect("text")), ("WATCHDOG_USEC", "1000000")];
    let watch = bench.watch_with(&config, &variables);
    let next = || {
        let mut bytes = [0; 512];
        let count = socket.recv(&mut bytes).expect("it says something");
        String::from_utf8(bytes[..count].to_vec()).expect("text")
    };
    let after_beats = || loop {
        let message = next();
        if message != "WATCHDOG=1" {
            break message;
        }
    };
    let ready = after_beats();
    assert!(ready.starts_with("READY=1\nSTATUS=1 watches of "), "{ready}");
    until("it runs", || !bench.log("r").is_empty());
    let given = bench.log("r").join("\n");
    assert!(!given.contains("NOTIFY_SOCKET") && !given.contains("WATCHDOG_"), "commands do not speak for us: {given}");
    for _ in 0..3 {
        while next() != "WATCHDOG=1" {}
    }
    watch.signal(Signal::SIGHUP);
    let reloading = after_beats();
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
    assert!(after_beats().starts_with("READY=1\n"));
    assert_eq!(watch.end().0, Some(0));
    assert_eq!(after_beats(), "STOPPING=1");
}

/// A Consul whose plain reads of a prefix may be older than its consistent ones.
struct LaggingConsul {
    url: String,
    plain: Arc<Mutex<&'static str>>,
    consistent: Arc<Mutex<&'static str>>,
}

impl LaggingConsul {
    fn start() -> LaggingConsul {
        use std::io::{BufRead, BufReader, Write};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let plain = Arc::new(Mutex::new("null"));
        let consistent = Arc::new(Mutex::new("null"));
        let (slow, sure) = (Arc::clone(&plain), Arc::clone(&consistent));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                let (slow, sure) = (Arc::clone(&slow), Arc::clone(&sure));
                std::thread::spawn(move || {
                    let mut lines = BufReader::new(stream.try_clone().expect("a second handle")).lines();
                    while let Some(Ok(request)) = lines.next() {
                        while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
                        if request.contains("index=") {
                            pause(200);
                        }
                        let (status, body) = if request.contains("recurse") {
                            let body = if request.contains("consistent") { &sure } else { &slow };
                            ("200 OK", *body.lock().expect("no panic"))
                        } else {
                            ("404 Not Found", "")
                        };
                        let head = format!(
                            "HTTP/1.1 {status}\r\nX-Consul-Index: 5\r\nX-Consul-KnownLeader: true\r\n\
                             Content-Length: {}\r\n\r\n",
                            body.len()
                        );
                        if stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes())).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        LaggingConsul { url, plain, consistent }
    }
}

#[test]
fn an_old_answer_is_not_believed_until_it_comes_true() {
    const BOTH: &str = r#"[{"Key":"app/a","Value":"MQ=="},{"Key":"app/b","Value":"MQ=="}]"#;
    const ONE: &str = r#"[{"Key":"app/a","Value":"MQ=="}]"#;
    let bench = Bench::new();
    let consul = LaggingConsul::start();
    let run = bench.recorder("r");
    *consul.plain.lock().expect("no panic") = BOTH;
    *consul.consistent.lock().expect("no panic") = BOTH;
    let config = format!("watches:\n- {{name: p, type: keyprefix, prefix: app/, debounce: 20ms..1s, run: [{run}]}}\n");
    let watch = bench.watch_at(&consul.url, &config);
    until("the first observation", || bench.log("r").len() == 1);
    *consul.plain.lock().expect("no panic") = ONE;
    until("it is doubted", || watch.said().contains("an answer that lacked things was old"));
    pause(1000);
    assert_eq!(bench.log("r").len(), 1);
    // Nothing changes for a plain read, and yet what it says is true now.
    *consul.consistent.lock().expect("no panic") = ONE;
    until("it is believed", || bench.log("r").len() == 2);
    assert_eq!(bench.log("r")[1], ONE);
    pause(500);
    assert_eq!(bench.log("r").len(), 2);
}
