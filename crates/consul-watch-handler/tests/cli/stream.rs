//! Streams that are recorded and replayed.

use crate::harness::{Bench, stderr, until};

fn replay(bench: &Bench, arguments: &[&str]) -> (Option<i32>, Vec<serde_json::Value>, String) {
    let record = bench.path("stream");
    let mut command = bench.command();
    // Nothing is asked of Consul, and nothing remembered.
    command.env("CONSUL_HTTP_ADDR", "http://127.0.0.1:1").env("STACKTIRA_WATCH_DIR", bench.path("other"));
    let output = command.arg("replay").arg(record).args(arguments).output().expect("it runs");
    let text = String::from_utf8(output.stdout.clone()).expect("text");
    let lines = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert!(!bench.path("other").exists());
    (output.status.code(), lines, stderr(&output))
}

fn runs(lines: &[serde_json::Value]) -> Vec<bool> {
    lines.iter().filter_map(|line| line["run"].as_bool()).collect()
}

#[test]
fn what_a_handler_got_is_replayed_byte_for_byte() {
    let bench = Bench::new();
    let record = bench.path("stream");
    let record = record.to_str().expect("plain");
    let key = |index: u32, value: &str| {
        format!(
            "{{ \"Key\":\"k\",  \"ModifyIndex\":{index},\"LockIndex\":0,\"Flags\":0,\"Value\":\"{value}\",\"Session\":\"\" }}"
        )
    };
    let payloads = [key(5, "YQ=="), key(6, "YQ=="), key(7, "Yg==")];
    for payload in &payloads {
        let arguments = ["--record", record, "--type", "key", "--name", "k", "--", "true"];
        assert_eq!(bench.handle(&arguments, payload).status.code(), Some(0));
    }
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(record).expect("there").permissions());
    assert_eq!(mode & 0o777, 0o600);
    let (code, lines, _) = replay(&bench, &[]);
    assert_eq!((code, runs(&lines)), (Some(0), vec![true, false, true]));
    assert_eq!((&lines[2]["line"], &lines[2]["index"], &lines[2]["same"]), (&3.into(), &42.into(), &true.into()));
    let run = bench.recorder("r");
    assert_eq!(replay(&bench, &["--", &run]).0, Some(0));
    assert_eq!(bench.log("r"), [payloads[0].as_str(), payloads[2].as_str()]);
    // After a failure the same payload counts as new, as it does in real life.
    let (code, ..) =
        replay(&bench, &["--", &bench.script("f", &format!("cat >> {}; exit 1", bench.path("f.log").display()))]);
    assert_eq!((code, bench.log("f").len()), (Some(1), 3));
}

#[test]
fn a_record_that_is_none_is_65_and_names_the_line() {
    let bench = Bench::new();
    assert_eq!(replay(&bench, &[]).0, Some(65), "there is none");
    let entry = r#"{"v":1,"name":"k","type":"key","fields":[],"index":1,"digest":"x","payload":"null\n"}"#;
    std::fs::write(bench.path("stream"), format!("{entry}\n")).expect("ours");
    let (code, lines, said) = replay(&bench, &[]);
    assert_eq!((code, &lines[0]["same"]), (Some(1), &false.into()));
    assert!(said.contains("stream:1: the digest was x when it was recorded"), "{said}");
    for wrong in
        ["{", &entry.replace("\"v\":1", "\"v\":2"), &entry.replace("null\\n", "[1"), &entry.replace("null", "[]x")]
    {
        std::fs::write(bench.path("stream"), format!("{entry}\n{wrong}\n")).expect("ours");
        let (code, _, said) = replay(&bench, &[]);
        assert_eq!(code, Some(65), "{wrong}");
        assert!(said.contains("stream:2: "), "{said}");
    }
}

#[test]
fn what_a_watch_saw_is_recorded_once_each() {
    let bench = Bench::new();
    let run = bench.recorder("r");
    bench.consul.put("app/k", b"a");
    let config = format!(
        "max_wait: 1s\nwatches:\n- {{name: k, type: key, key: app/k, debounce: 10ms..1s, run: [{run}]}}\n\
         - {{name: e, type: event, debounce: 10ms..1s, run: [{run}]}}\n"
    );
    std::fs::write(bench.path("watch.yaml"), config).expect("written");
    let mut command = bench.command();
    command.arg("watch").arg("--record").arg(bench.path("stream")).arg(bench.path("watch.yaml"));
    let mut watch = command.stdin(std::process::Stdio::null()).spawn().expect("it runs");
    until("the first observation", || bench.log("r").len() == 1);
    bench.consul.fire("deploy", b"one");
    until("the event", || bench.log("r").len() == 2);
    bench.consul.put("app/other", b"x");
    bench.consul.put("app/k", b"b");
    until("the change", || bench.log("r").len() == 3);
    bench.consul.fire("deploy", b"two");
    until("the other event", || bench.log("r").len() == 4);
    // SIGTERM by the shell's own word.
    let pid = watch.id().to_string();
    assert!(std::process::Command::new("kill").arg(pid).status().expect("kill runs").success());
    assert_eq!(watch.wait().expect("it ends").code(), Some(0));
    let (code, lines, _) = replay(&bench, &[]);
    // The first is that there was no event yet.
    assert_eq!((code, lines.len()), (Some(0), 5), "{lines:?}");
    assert_eq!(runs(&lines).iter().filter(|run| **run).count(), 4);
    let seen = bench.log("r");
    std::fs::remove_file(bench.path("r.log")).expect("ours");
    assert_eq!(replay(&bench, &["--", &run]).0, Some(0));
    assert_eq!(bench.log("r"), seen, "the same runs with the same payloads");
}
