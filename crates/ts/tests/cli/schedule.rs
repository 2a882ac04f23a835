//! Runs that wait: for quiet, and for this host's turn.

use std::time::{Duration, Instant};

use crate::{Env, eventually};

#[test]
fn kicks_are_gathered_and_not_for_ever() {
    let env = Env::new();
    let job = ["--debounce", "300ms..1200ms", "sh", "-c", "echo run >> runs"];
    let start = Instant::now();
    // Kicks without a pause: only MAX ends the wait.
    while env.lines("runs").is_empty() {
        env.kick(&job);
        std::thread::sleep(Duration::from_millis(40));
        assert!(start.elapsed() < Duration::from_secs(20), "never quiet, and never run");
    }
    assert!(start.elapsed() >= Duration::from_millis(1100), "{:?}", start.elapsed());
    assert_eq!(env.code(&["-w"]), 0);
    let runs = env.lines("runs").len();
    assert!(runs <= 2, "{runs}");
    // One kick waits MIN only.
    let start = Instant::now();
    let ticket = env.kick(&job);
    let why = env.json(&["--why", &ticket, "--json"]).remove(0);
    assert!(why["state"] != "pending" || why["waits_for"].as_str().is_some_and(|text| text.ends_with("to pass")));
    assert_eq!(env.code(&["-w", &ticket]), 0);
    assert!(start.elapsed() >= Duration::from_millis(250));
}

#[test]
fn who_is_in_a_hurry_takes_the_others_along() {
    let env = Env::new();
    let first = env.kick(&["--debounce", "1h..2h", "sh", "-c", "echo run >> runs"]);
    let status = env.status();
    assert_eq!(status["pending"], 1);
    assert!(status["starts_in"].as_f64().is_some_and(|seconds| (3000.0..=3600.0).contains(&seconds)), "{status}");
    let text = String::from_utf8(env.run(&["-s"]).stdout).expect("UTF-8");
    assert!(text.contains("pending   1, not before 3"), "{text}");
    assert_eq!(env.code(&["--if-busy", "fail", "true"]), 75, "pending is busy");
    assert_eq!(env.code(&["-f", "true"]), 0, "another job does not wait");
    assert!(env.lines("runs").is_empty());
    assert_eq!(env.code(&["-f", "sh", "-c", "echo run >> runs"]), 0);
    assert_eq!(env.code(&["-w", &first]), 0);
    assert_eq!(env.lines("runs").len(), 1);
}

#[test]
fn the_splay_of_this_host_is_always_the_same() {
    let env = Env::new();
    let mut waits = Vec::new();
    for _ in 0..2 {
        let start = Instant::now();
        let ticket = env.kick(&["--splay", "1500ms", "sh", "-c", "exit 4"]);
        assert_eq!(env.code(&["-w", &ticket]), 4);
        waits.push(start.elapsed().as_millis());
    }
    assert!(waits.iter().all(|wait| *wait < 15_000) && waits[0].abs_diff(waits[1]) < 700, "{waits:?}");
}

#[test]
fn a_disabled_queue_waits_longer_than_that() {
    let env = Env::new();
    assert_eq!(env.code(&["--disable", "upgrade"]), 0);
    let ticket = env.kick(&["--debounce", "10ms..20ms", "sh", "-c", "echo run >> runs"]);
    std::thread::sleep(Duration::from_millis(100));
    let why = env.json(&["--why", &ticket, "--json"]).remove(0);
    assert_eq!((&why["state"], &why["waits_for"]), (&"pending".into(), &"--enable: upgrade".into()));
    assert_eq!(env.code(&["--enable"]), 0);
    eventually("its run", || env.lines("runs").len() == 1);
}
