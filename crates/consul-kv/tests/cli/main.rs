//! The real binary: streams, codes, and what happens when Consul is not well.
#![allow(clippy::unwrap_used, reason = "a test that panics says what failed")]

use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use test_support::consul::{FakeConsul, Fault};
use test_support::real_consul::RealConsul;

fn command(url: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_consul-kv"));
    command.env_clear().env("CONSUL_HTTP_ADDR", url).args(arguments).stdin(Stdio::null());
    command
}

#[track_caller]
fn run(url: &str, arguments: &[&str]) -> (i32, String, String) {
    said(&command(url, arguments).output().unwrap())
}

#[track_caller]
fn said(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

fn with_input(url: &str, arguments: &[&str], input: &[u8]) -> Output {
    let mut command = command(url, arguments);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // The tool may refuse before it read everything.
    drop(child.stdin.take().unwrap().write_all(input));
    child.wait_with_output().unwrap()
}

#[test]
fn bytes_go_in_and_come_out_unchanged() {
    let consul = FakeConsul::start();
    let url = consul.url();
    let bytes: Vec<u8> = (0..=255).chain(*b"\n\n").collect();
    for arguments in [&["put", "k"] as &[&str], &["put", "k", "-"]] {
        let stored = with_input(&url, arguments, &bytes);
        assert_eq!(said(&stored), (0, String::new(), String::new()));
        assert_eq!(consul.get("k").unwrap(), bytes);
    }
    assert_eq!(command(&url, &["get", "k"]).output().unwrap().stdout, bytes);
    assert_eq!(run(&url, &["put", "k", "-5"]).0, 0);
    assert_eq!(run(&url, &["get", "k"]), (0, "-5".to_owned(), String::new()));
    assert_eq!(run(&url, &["put", "k", ""]).0, 0);
    assert_eq!(run(&url, &["get", "k"]), (0, String::new(), String::new()), "there and empty");
}

#[test]
fn absent_is_one_and_says_nothing_to_scripts() {
    let consul = FakeConsul::start();
    assert_eq!(run(&consul.url(), &["get", "k"]), (1, String::new(), String::new()));
    assert_eq!(run(&consul.url(), &["list", "k"]), (1, String::new(), String::new()));
    assert_eq!(run(&consul.url(), &["delete", "k"]), (0, String::new(), String::new()));
}

#[test]
fn json_has_everything() {
    let consul = FakeConsul::start();
    let index = consul.put("a/k", b"v\xff");
    let want = json!({
        "type": "key", "v": 1, "key": "a/k", "value": "dv8=", "text": null, "flags": 0,
        "create_index": index, "modify_index": index, "lock_index": 0, "session": null,
    });
    for arguments in [["get", "--json", "a/k"], ["list", "--json", "a/"], ["wait", "--json", "a/k"]] {
        let (code, out, _) = run(&consul.url(), &arguments);
        assert_eq!((code, serde_json::from_str::<Value>(&out).unwrap()), (0, want.clone()), "{arguments:?}");
    }
    consul.put("a/k", b"text");
    let (_, out, _) = run(&consul.url(), &["get", "a/k", "--json"]);
    assert!(out.contains(r#""text":"text""#) && out.ends_with("}\n"), "{out}");
}

#[test]
fn compare_and_swap() {
    let consul = FakeConsul::start();
    let url = consul.url();
    assert_eq!(run(&url, &["put", "--cas", "0", "k", "1"]).0, 0);
    assert_eq!(run(&url, &["put", "--cas", "0", "k", "2"]).0, 1);
    let index = consul.put("k", b"3").to_string();
    assert_eq!(run(&url, &["delete", "--cas", "1", "k"]).0, 1);
    assert_eq!(run(&url, &["put", "--cas", &index, "k", "4"]).0, 0);
    assert_eq!(consul.get("k").unwrap(), b"4");
    assert_eq!(run(&url, &["delete", "--cas", "0", "k"]).0, 2, "Consul never deletes at index 0");
}

/// One of many writers wins, the others are told.
#[test]
fn one_of_many_creators_wins() {
    let consul = FakeConsul::start();
    let children: Vec<_> =
        (0..12).map(|n| command(&consul.url(), &["put", "--cas", "0", "k", &n.to_string()]).spawn().unwrap()).collect();
    let codes: Vec<i32> = children.into_iter().map(|mut c| c.wait().unwrap().code().unwrap()).collect();
    assert_eq!(codes.iter().filter(|code| **code == 0).count(), 1, "{codes:?}");
    let winner = codes.iter().position(|code| *code == 0).unwrap();
    assert_eq!(consul.get("k").unwrap(), winner.to_string().into_bytes());
}

#[test]
fn lists_are_full_keys_sorted() {
    let consul = FakeConsul::start();
    for key in ["p/b", "p/a/x", "p/a", "q"] {
        consul.put(key, b"");
    }
    assert_eq!(run(&consul.url(), &["list", "p/"]).1, "p/a\np/a/x\np/b\n");
    assert_eq!(run(&consul.url(), &["list", ""]).1, "p/a\np/a/x\np/b\nq\n");
}

#[test]
fn refusals_name_their_reason() {
    let consul = FakeConsul::start();
    let url = consul.url();
    let big = with_input(&url, &["put", "k"], &vec![b'x'; 512 * 1024 + 1]);
    let (code, _, err) = said(&big);
    assert!(code == 65 && err.contains("512 KiB"), "{code} {err}");
    assert_eq!(with_input(&url, &["put", "k"], &vec![b'x'; 512 * 1024]).status.code(), Some(0));
    assert_eq!(run(&url, &["get", "a//b"]).0, 65);
    assert_eq!(run("ftp://x", &["get", "k"]).0, 65);
    assert_eq!(run(&url, &["get"]).0, 2);
    assert_eq!(run(&url, &["--token-file", "/nonexistent", "get", "k"]).0, 65);
    let (code, _, err) = run("127.0.0.1:1", &["get", "k"]);
    assert!(code == 69 && err.contains("127.0.0.1:1") && err.contains("hint: "), "{code} {err}");
    assert_eq!(err.lines().count(), 2, "{err}");
}

#[test]
fn denied_is_never_absent() {
    let consul = FakeConsul::start();
    consul.put("secret/k", b"v");
    consul.deny_keys("secret/");
    for arguments in [
        &["get", "secret/k"] as &[&str],
        &["get", "secret/none"],
        &["list", "secret/"],
        &["list", "--json", "secret/"],
        &["put", "secret/k", "w"],
        &["delete", "secret/k"],
        &["wait", "secret/k"],
    ] {
        let (code, out, err) = run(&consul.url(), arguments);
        assert_eq!((code, out.as_str()), (77, ""), "{arguments:?} {err}");
    }
}

#[test]
fn a_sick_consul_is_never_absent() {
    let consul = FakeConsul::start();
    for fault in [
        Fault::Status(500, "No cluster leader".to_owned()),
        Fault::Status(404, "404 page not found".to_owned()),
        Fault::Body("<html>".to_owned()),
        Fault::NoLeader,
        Fault::Close,
    ] {
        consul.heal();
        consul.fault("kv/", fault.clone());
        assert_eq!(run(&consul.url(), &["get", "k"]).0, 69, "{fault:?}");
        assert_eq!(run(&consul.url(), &["list", "k"]).0, 69, "{fault:?}");
    }
}

#[test]
fn wait_prints_the_first_wanted_value() {
    let consul = FakeConsul::start();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for value in [b"pending".as_slice(), b"-1", b"ready"] {
                std::thread::sleep(Duration::from_millis(150));
                consul.put("k", value);
            }
        });
        let start = Instant::now();
        let (code, out, err) =
            run(&consul.url(), &["wait", "--timeout", "20s", "--not", "pending", "--not", "-1", "k"]);
        assert_eq!((code, out.as_str(), err.as_str()), (0, "ready", ""));
        assert!(start.elapsed() < Duration::from_secs(5));
    });
    let reads = consul.requests().len();
    assert!(reads < 12, "it polls: {reads} reads");
}

#[test]
fn wait_in_vain_ends_in_time() {
    let mut consul = FakeConsul::start();
    let start = Instant::now();
    let (code, out, err) = run(&consul.url(), &["wait", "--timeout", "300ms", "k"]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains("waiting for k") && err.contains("300ms"), "{err}");
    consul.stop();
    assert_eq!(run(&consul.url(), &["wait", "--timeout", "300ms", "k"]).0, 69, "it was away to the end");
    consul.restart();
    consul.fault("", Fault::Hang);
    assert_eq!(run(&consul.url(), &["wait", "--timeout", "300ms", "k"]).0, 69, "it never said anything");
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
}

#[test]
fn wait_outlives_a_restart_of_consul() {
    let mut consul = FakeConsul::start();
    let waiting = command(&consul.url(), &["wait", "--timeout", "30s", "k"]).stdout(Stdio::piped()).spawn().unwrap();
    assert!(consul.wait_for(Duration::from_secs(5), |requests| !requests.is_empty()));
    consul.stop();
    std::thread::sleep(Duration::from_millis(300));
    consul.restart();
    consul.put("k", b"back");
    assert_eq!(said(&waiting.wait_with_output().unwrap()).1, "back");
}

#[test]
fn wait_tells_every_ten_seconds() {
    let consul = FakeConsul::start();
    let (code, _, err) = run(&consul.url(), &["wait", "--timeout", "11s", "some/key"]);
    assert_eq!(code, 1);
    assert!(err.lines().next().unwrap().contains("waiting for some/key for 10 s"), "{err}");
}

#[test]
fn a_closed_pipe_is_no_error() {
    let consul = FakeConsul::start();
    for n in 0..3000 {
        consul.put(&format!("prefix/with/a/long/name/{n}"), b"");
    }
    let mut child =
        command(&consul.url(), &["list", ""]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(said(&child.wait_with_output().unwrap()), (0, String::new(), String::new()));
}

#[test]
fn the_token_comes_from_its_file_and_stays_out_of_sight() {
    let consul = FakeConsul::start();
    consul.require_token("s3cret");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "s3cret\n").unwrap();
    assert_eq!(run(&consul.url(), &["--token-file", file.to_str().unwrap(), "put", "k", "v"]).0, 0);
    let output = command(&consul.url(), &["get", "k"]).env("CONSUL_HTTP_TOKEN", "s3cret").output().unwrap();
    assert_eq!(said(&output).1, "v");
    let help = command("", &["--help"]).env("CONSUL_HTTP_TOKEN", "s3cret").output().unwrap();
    let (code, out, _) = said(&help);
    assert!(code == 0 && !out.contains("s3cret"));
    for heading in ["Examples:\n", "Environment:\n", "Exit status:\n"] {
        assert!(out.contains(heading), "{heading}");
    }
}

#[test]
fn against_a_real_consul() {
    let Some(consul) = RealConsul::start(&json!({})) else { return };
    let url = consul.url();
    assert_eq!(run(&url, &["put", "a/b c", "1"]).0, 0);
    assert_eq!(run(&url, &["get", "--consistent", "a/b c"]), (0, "1".to_owned(), String::new()));
    assert_eq!(run(&url, &["put", "--cas", "0", "a/b c", "2"]).0, 1);
    assert_eq!(run(&url, &["list", "a/"]).1, "a/b c\n");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| run(&url, &["wait", "--timeout", "20s", "late"]));
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(run(&url, &["put", "late", "come"]).0, 0);
        assert_eq!(waiting.join().unwrap(), (0, "come".to_owned(), String::new()));
    });
    assert_eq!(run(&url, &["delete", "late"]).0, 0);
    assert_eq!(run(&url, &["get", "late"]).0, 1);
}
