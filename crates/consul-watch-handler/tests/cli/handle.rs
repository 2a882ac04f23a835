//! `handle`.

use test_support::consul::Instance;

use crate::harness::{Bench, stderr};

const KEY: &str =
    r#"{"Key":"app/k","CreateIndex":1,"ModifyIndex":5,"LockIndex":0,"Flags":0,"Value":"aGVsbG8=","Session":""}"#;

#[test]
fn a_payload_runs_the_command_once() {
    let bench = Bench::new();
    let recorder = bench.recorder("r");
    let arguments = ["--name", "k", "--", recorder.as_str()];
    assert_eq!(bench.handle(&arguments, KEY).status.code(), Some(0));
    assert_eq!(bench.handle(&arguments, &KEY.replace("\"ModifyIndex\":5", "\"ModifyIndex\":6")).status.code(), Some(0));
    assert_eq!(bench.log("r"), [KEY], "exactly as it came, and only once");
    assert_eq!(bench.handle(&arguments, &KEY.replace("aGVsbG8=", "eA==")).status.code(), Some(0));
    assert_eq!(bench.log("r").len(), 2);
}

#[test]
fn the_command_is_told_why_and_gets_no_token() {
    let bench = Bench::new();
    let script = bench.script("env", "env | sort | grep -E '^(STACKTIRA_WATCH_[A-Z]*|CONSUL_HTTP_TOKEN)='");
    let output = bench
        .command()
        .args(["handle", "--name", "k", "--", &script])
        .env("CONSUL_INDEX", "42")
        .env("CONSUL_HTTP_TOKEN", "secret")
        .stdin(std::fs::File::open(bench_file(&bench, KEY)).expect("there"))
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("STACKTIRA_WATCH_DIR=")).collect();
    assert_eq!(lines.len(), 5, "{text}");
    assert!(lines[0].starts_with("STACKTIRA_WATCH_DIGEST=") && lines[0].len() == 23 + 64);
    assert_eq!(lines[1..3], ["STACKTIRA_WATCH_INDEX=42", "STACKTIRA_WATCH_NAME=k"]);
    let seen = lines[3].strip_prefix("STACKTIRA_WATCH_SEEN=").expect("a time").parse::<f64>().expect("in seconds");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("later").as_secs_f64();
    assert!((now - 60.0..=now).contains(&seen), "{seen}");
    assert_eq!(lines[4], "STACKTIRA_WATCH_TYPE=key");
}

fn bench_file(bench: &Bench, text: &str) -> std::path::PathBuf {
    let path = bench.path("payload");
    std::fs::write(&path, text).expect("written");
    path
}

#[test]
fn codes_are_the_commands_and_failures_are_not_remembered() {
    let bench = Bench::new();
    for (command, code) in [("exit 7", 7), ("kill -9 $$", 137), ("exit 0", 0), ("exit 7", 0)] {
        let arguments = ["--name", "k", "--", "/bin/sh", "-c", command];
        assert_eq!(bench.handle(&arguments, KEY).status.code(), Some(code), "{command}");
    }
    let missing = bench.handle(&["--name", "m", "--", "/nonexistent"], KEY);
    assert_eq!(missing.status.code(), Some(127));
    assert!(stderr(&missing).contains("cannot run /nonexistent"));
    let plain = bench_file(&bench, "");
    assert_eq!(bench.handle(&["--", plain.to_str().expect("plain")], KEY).status.code(), Some(126));
    let slow = bench.handle(&["--timeout", "100ms", "--", "sleep", "60"], KEY);
    assert_eq!(slow.status.code(), Some(124));
}

#[test]
fn its_own_failures_are_125() {
    let bench = Bench::new();
    for payload in ["", "{", "[1] [2]", "5", "\"x\"", "\u{fffd}"] {
        let output = bench.handle(&["--", "true"], payload);
        assert_eq!(output.status.code(), Some(125), "{payload}");
        assert_eq!(stderr(&output).lines().count(), 1, "{}", stderr(&output));
    }
    assert_eq!(bench.handle(&["--type", "key", "--", "true"], "[{}]").status.code(), Some(125));
    assert_eq!(bench.handle(&[], KEY).status.code(), Some(125), "no command");
    assert_eq!(bench.handle(&["--name", "../x", "--", "true"], KEY).status.code(), Some(125));
    assert_eq!(bench.handle(&["--type", "nodes", "--key", "k", "--", "true"], KEY).status.code(), Some(125));
}

#[test]
fn large_payloads_are_taken_and_larger_ones_refused() {
    let bench = Bench::new();
    let large = format!("{{\"Key\":\"k\",\"ModifyIndex\":1,\"Value\":\"{}\"}}", "A".repeat(9 << 20));
    let script = bench.script("count", &format!("wc -c > {}", bench.path("count").display()));
    assert_eq!(bench.handle(&["--", &script], &large).status.code(), Some(0));
    let counted = std::fs::read_to_string(bench.path("count")).expect("written");
    assert_eq!(counted.trim(), (large.len() + 1).to_string());
    let output = bench.handle(&["--", &script], &" ".repeat(17 << 20));
    assert_eq!(output.status.code(), Some(125));
    assert!(stderr(&output).contains("larger than 16 MiB"), "{}", stderr(&output));
}

#[test]
fn events_run_once_each_and_none_make_no_run() {
    let bench = Bench::new();
    let recorder = bench.recorder("r");
    let arguments = ["--name", "e", "--type", "event", "--", recorder.as_str()];
    let event = |id: &str| format!("{{\"ID\":\"{id}\",\"Name\":\"deploy\",\"Payload\":null,\"LTime\":1}}");
    let all = |ids: &[&str]| format!("[{}]", ids.iter().map(|id| event(id)).collect::<Vec<_>>().join(","));
    for payload in ["[]", "null", &all(&["1", "2"]), "[]", &all(&["1", "2"]), &all(&["2", "3"])] {
        assert_eq!(bench.handle(&arguments, payload).status.code(), Some(0), "{payload}");
    }
    assert_eq!(bench.log("r").concat(), [all(&["1", "2"]), all(&["3"])].concat());
}

#[test]
fn nothing_is_believed_only_when_consul_confirms_it() {
    let bench = Bench::new();
    let recorder = bench.recorder("r");
    let arguments = ["--name", "k", "--", recorder.as_str()];
    bench.consul.put("app/k", b"hello");
    assert_eq!(bench.handle(&arguments, KEY).status.code(), Some(0));
    let stale = bench.handle(&arguments, "null");
    assert_eq!(stale.status.code(), Some(125));
    assert!(stderr(&stale).contains("the servers still hold 1 of them"), "{}", stderr(&stale));
    bench.consul.delete("app/k");
    bench.consul.deny_keys("app/");
    let denied = bench.handle(&arguments, "null");
    assert_eq!(denied.status.code(), Some(125));
    assert!(stderr(&denied).contains("does not confirm"), "{}", stderr(&denied));
    assert_eq!(bench.log("r").len(), 1);
    let bench = Bench { consul: test_support::consul::FakeConsul::start(), ..bench };
    for nothing in ["null", "[]", "{}"] {
        let output = bench.handle(&["--name", "k", "--type", "key", "--", &recorder], nothing);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    }
    assert_eq!(bench.log("r").len(), 2, "nothing is the same in all spellings");
    let unknown = bench.handle(&["--name", "new", "--", &recorder], "[]");
    assert_eq!(unknown.status.code(), Some(125));
    assert!(stderr(&unknown).contains("hint: give --type"), "{}", stderr(&unknown));
    let told = bench.handle(&["--name", "new", "--prefix", "other/", "--", &recorder], "null");
    assert_eq!(told.status.code(), Some(0), "{}", stderr(&told));
}

#[test]
fn an_instance_that_left_a_filtered_watch_is_gone() {
    let bench = Bench::new();
    let recorder = bench.recorder("r");
    let arguments = ["--name", "s", "--type", "service", "--", recorder.as_str()];
    bench.consul.register(Instance::new("n1", "10.0.0.1", "web", 80));
    bench.consul.register(Instance::new("n2", "10.0.0.2", "web", 80));
    assert_eq!(bench.handle(&arguments, &answer(&bench)).status.code(), Some(0));
    // The payload lacks what is there unchanged: an old answer.
    let one = answer(&bench);
    bench.consul.set_status("n2", "web", "critical");
    let less = answer(&bench);
    bench.consul.set_status("n2", "web", "passing");
    assert_ne!(one, less);
    assert_eq!(bench.handle(&arguments, &less).status.code(), Some(125));
    // It failed: the watch for passing instances is right to leave it out, though it is still registered.
    bench.consul.set_status("n2", "web", "critical");
    let output = bench.handle(&arguments, &less);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    // The last one goes, but the token may not see services at all.
    bench.consul.deny_catalog(true);
    assert_eq!(bench.handle(&arguments, "[]").status.code(), Some(125));
    assert_eq!(bench.log("r").len(), 2);
}

fn answer(bench: &Bench) -> String {
    let client = bench.client();
    let path = ["health", "service", "web"];
    let answer = client.json(&path, &[("passing", "")], &consul_client::Query::new()).expect("it answers");
    answer.value.expect("a list").to_string()
}

#[test]
fn handlers_of_one_name_do_not_overlap() {
    let bench = Bench::new();
    let script = bench.script(
        "count",
        &format!("mkdir {0}/busy || exit 9; sleep 0.05; rmdir {0}/busy; echo >> {0}/runs", bench.dir.path().display()),
    );
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..6)
            .map(|number| {
                let payload = KEY.replace("aGVsbG8=", &format!("{number}"));
                let (bench, script) = (&bench, &script);
                scope.spawn(move || bench.handle(&["--name", "one", "--", script], &payload).status.code())
            })
            .collect();
        for handle in handles {
            assert_eq!(handle.join().expect("no panic"), Some(0));
        }
    });
    assert_eq!(std::fs::read_to_string(bench.path("runs")).expect("written").lines().count(), 6);
}

#[test]
fn a_signal_reaches_the_command() {
    let bench = Bench::new();
    let script = bench.script(
        "trap",
        &format!("trap 'echo got > {0}/got; exit 3' TERM; echo > {0}/up; sleep 60 & wait", bench.dir.path().display()),
    );
    let child = bench
        .command()
        .args(["handle", "--", &script])
        .stdin(std::fs::File::open(bench_file(&bench, KEY)).expect("there"))
        .spawn()
        .expect("it runs");
    crate::harness::until("it is up", || bench.path("up").exists());
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("ours");
    assert_eq!(child.wait_with_output().expect("it ends").status.code(), Some(143));
    assert!(bench.path("got").exists());
}
