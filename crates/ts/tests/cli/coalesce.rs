//! How kicks become runs.

use std::time::{Duration, Instant};

use crate::{Env, eventually};

/// Appends to `starts`, then runs until `go` is there.
const UNTIL_GO: &str = "echo run >> starts; until [ -e go ]; do sleep 0.01; done";
/// Notes an overlap with any other command of this kind.
const EXCLUSIVE: &str = "mkdir busy || echo overlap >> overlaps; sleep 0.03; rmdir busy; echo run >> runs";

#[test]
fn a_thousand_kicks_during_a_run_are_one_more_run_that_starts_after_the_last() {
    let env = Env::new();
    let script = "echo run >> starts; cp kicked seen 2>/dev/null; until [ -e go ]; do sleep 0.01; done";
    env.kick(&["sh", "-c", script]);
    env.await_lines("starts", 1);
    for kick in 1..=1000 {
        if kick == 1000 {
            std::fs::write(env.work().join("kicked"), "the last\n").expect("ours");
        }
        env.kick(&["sh", "-c", script]);
    }
    assert_eq!(env.status()["pending"], 1000);
    assert_eq!(env.lines("starts").len(), 1);
    env.touch("go");
    assert_eq!(env.code(&["-w"]), 0);
    assert_eq!(env.lines("starts").len(), 2);
    assert_eq!(env.lines("seen"), ["the last"]);
    let last = &env.status()["last"];
    assert_eq!(last["tickets"]["count"], 1000);
}

#[test]
fn a_kick_returns_at_once_and_leaves_no_pipe_open() {
    let env = Env::new();
    let start = Instant::now();
    // `output` waits for the end of both pipes.
    env.kick(&["sleep", "30"]);
    assert!(start.elapsed() < Duration::from_secs(10));
    eventually("a run", || !env.status()["running"].is_null());
    assert_eq!(env.code(&["-k"]), 0);
    eventually("its end", || env.status()["running"].is_null());
    assert_eq!(env.code(&["-k"]), 1);
}

#[test]
fn different_commands_of_one_queue_never_overlap() {
    let env = Env::new();
    let other = format!(": other; {EXCLUSIVE}");
    let kickers: Vec<_> = (0..64)
        .map(|kicker| {
            let script = if kicker % 2 == 0 { EXCLUSIVE } else { &other };
            let foreground = if kicker % 3 == 0 { "-f" } else { "--if-busy=kick" };
            env.ts(&[foreground, "sh", "-c", script]).stdout(std::process::Stdio::null()).spawn().expect("ts runs")
        })
        .collect();
    for mut kicker in kickers {
        assert!(kicker.wait().expect("reaped").success());
    }
    assert_eq!(env.code(&["-w"]), 0);
    assert_eq!(env.lines("overlaps"), [""; 0]);
    let runs = env.lines("runs").len();
    assert!((2..=64).contains(&runs), "{runs}");
    let status = env.status();
    assert_eq!((&status["pending"], status["running"].is_null()), (&0.into(), true));
}

#[test]
fn queues_do_not_wait_for_each_other() {
    let env = Env::new();
    env.kick(&["sh", "-c", UNTIL_GO]);
    env.await_lines("starts", 1);
    assert_eq!(env.code(&["-f", "-Q", "other", "true"]), 0);
    env.touch("go");
    assert_eq!(env.code(&["-w"]), 0);
}

#[test]
fn the_directory_is_part_of_the_job_and_the_environment_is_the_first_kickers() {
    let env = Env::new();
    let kick = |dir: &str, value: &str| {
        let dir = env.path(dir);
        std::fs::create_dir_all(&dir).expect("made");
        let out = env.path("work").join("runs");
        let script = format!("echo $(pwd) $WHO $(umask) >> {}", out.display());
        let status = env.ts(&["sh", "-c", &script]).env("WHO", value).current_dir(dir).status().expect("ts runs");
        assert!(status.success());
    };
    env.kick(&["sh", "-c", UNTIL_GO]);
    env.await_lines("starts", 1);
    kick("a", "first");
    kick("a", "second");
    kick("b", "third");
    env.touch("go");
    assert_eq!(env.code(&["-w"]), 0);
    let runs = env.lines("runs");
    assert_eq!(runs.len(), 2, "{runs:?}");
    assert!(runs[0].contains("/a first 0") && runs[1].contains("/b third 0"), "{runs:?}");
    let umask = std::process::Command::new("sh").args(["-c", "umask"]).output().expect("sh runs").stdout;
    let umask = String::from_utf8(umask).expect("digits");
    assert!(runs[0].ends_with(umask.trim()), "the run has the kicker's umask, not the leader's: {runs:?}");
}

#[test]
fn a_foreground_kick_shows_output_and_status_even_when_it_only_joins() {
    let env = Env::new();
    let job = "echo out; echo err >&2; exit 7";
    let output = env.run(&["-f", "sh", "-c", job]);
    assert_eq!((output.status.code(), &*output.stdout, &*output.stderr), (Some(7), &b"out\n"[..], &b"err\n"[..]));
    env.kick(&["sh", "-c", UNTIL_GO]);
    env.await_lines("starts", 1);
    let joiners: Vec<_> = (0..8)
        .map(|_| {
            let mut command = env.ts(&["-f", "sh", "-c", job]);
            command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
            command.spawn().expect("ts runs")
        })
        .collect();
    eventually("eight kicks", || env.status()["pending"] == 8);
    env.touch("go");
    for joiner in joiners {
        let output = joiner.wait_with_output().expect("reaped");
        assert_eq!((output.status.code(), &*output.stdout, &*output.stderr), (Some(7), &b"out\n"[..], &b"err\n"[..]));
    }
    assert_eq!(env.status()["last"]["tickets"]["count"], 8);
}

#[test]
fn statuses_are_passed_on() {
    let env = Env::new();
    assert_eq!(env.code(&["-f", "true"]), 0);
    assert_eq!(env.code(&["-f", "sh", "-c", "exit 255"]), 255);
    assert_eq!(env.code(&["-f", "sh", "-c", "kill -9 $$"]), 137);
    assert_eq!(env.code(&["-f", "no-such-command"]), 127);
    let plain = env.work().join("plain");
    std::fs::write(&plain, "").expect("ours");
    assert_eq!(env.code(&["-f", plain.to_str().expect("UTF-8")]), 126);
    let output = env.run(&["-f", "no-such-command"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot run no-such-command: No such file"));
    for usage in [&["--bogus", "true"][..], &["-f"], &[], &["-Q", "a/b", "true"]] {
        assert_eq!(env.code(usage), 125, "{usage:?}");
    }
}

#[test]
fn tickets_are_waited_for_by_number() {
    let env = Env::new();
    let first = env.kick(&["-Q", "puppet", "sh", "-c", "exit 4"]);
    assert_eq!(env.code(&["-w", &first]), 4, "the ticket tells its queue");
    assert_eq!(env.code(&["-Q", "puppet", "-w", &first]), 4);
    let other = env.run(&["-Q", "other", "-w", &first]);
    assert_eq!(other.status.code(), Some(125));
    let next = (first.parse::<u64>().expect("a number") + (1 << 18)).to_string();
    assert_eq!(env.code(&["-Q", "puppet", "-w", &next]), 125, "it was never given");
    for _ in 0..20 {
        env.kick(&["-Q", "puppet", "-f", "sh", "-c", "exit 4"].map(|arg| if arg == "-f" { "-q" } else { arg }));
        env.code(&["-Q", "puppet", "-w"]);
    }
    assert_eq!(env.code(&["-Q", "puppet", "-w", &first]), 125, "its result is no longer kept");
}

#[test]
fn busy_queues_can_be_joined_skipped_or_refused() {
    let env = Env::new();
    env.kick(&["sh", "-c", UNTIL_GO]);
    env.await_lines("starts", 1);
    assert_eq!(env.code(&["--if-busy", "skip", "touch", "skipped"]), 0);
    assert_eq!(env.code(&["--if-busy", "fail", "touch", "skipped"]), 75);
    let mut joiner = env.ts(&["--if-busy", "join", "sh", "-c", "exit 9"]).spawn().expect("ts runs");
    eventually("the kick", || env.status()["pending"] == 1);
    env.touch("go");
    assert_eq!(joiner.wait().expect("reaped").code(), Some(9));
    assert!(!env.work().join("skipped").exists());
    assert_eq!(env.code(&["--if-busy", "fail", "true"]), 0);
}

#[test]
fn a_disabled_queue_records_kicks_and_starts_them_when_enabled() {
    let env = Env::new();
    assert_eq!(env.code(&["--disable", "upgrade"]), 0);
    let ticket = env.kick(&["sh", "-c", "echo run >> runs"]);
    assert_eq!(env.code(&["-f", "true"]), 75);
    assert_eq!(env.code(&["-w", &ticket]), 75);
    let status = env.status();
    assert_eq!(status["disabled"]["reason"], "upgrade");
    assert_eq!((&status["pending"], env.lines("runs").len()), (&1.into(), 0));
    assert_eq!(env.code(&["--enable"]), 0);
    assert_eq!(env.code(&["-w", &ticket]), 0);
    assert_eq!(env.lines("runs").len(), 1);
}
