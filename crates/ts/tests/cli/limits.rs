//! Time limits, retries, and output that does not end.

use std::time::{Duration, Instant};

use crate::{Env, alive, disk_usage, eventually};

#[test]
fn a_run_over_its_time_is_ended_with_its_whole_group() {
    let env = Env::new();
    let script = "sleep 1000 & echo $! > worker; wait";
    assert_eq!(env.code(&["-f", "--timeout", "300ms", "sh", "-c", script]), 124);
    let worker = env.lines("worker").remove(0);
    assert!(!alive(&worker));
    let start = Instant::now();
    let deaf = "trap '' TERM; sleep 1000 & echo $! > worker; until false; do wait; done";
    assert_eq!(env.code(&["-f", "--timeout", "200ms", "--kill-after", "200ms", "sh", "-c", deaf]), 124);
    assert!(start.elapsed() < Duration::from_secs(10));
    let worker = env.lines("worker").remove(0);
    eventually("the worker's end", || !alive(&worker));
}

#[test]
fn a_signal_to_a_foreground_reaches_the_run() {
    let env = Env::new();
    let script = "trap 'echo told >> told; exit 3' TERM; echo ready >> ready; while :; do sleep 0.01; done";
    let mut foreground =
        env.ts(&["-f", "--retry", "3", "--backoff", "1ms..1ms", "sh", "-c", script]).spawn().expect("ts runs");
    env.await_lines("ready", 1);
    let killed = std::process::Command::new("kill").arg(foreground.id().to_string()).status();
    assert!(killed.expect("kill runs").success());
    assert_eq!(foreground.wait().expect("reaped").code(), Some(3));
    assert_eq!(env.lines("told"), ["told"]);
    let status = env.status();
    assert!(status["retry"].is_null() && status["running"].is_null(), "what was asked to end is not tried again");
}

#[test]
fn a_failing_job_has_one_pending_retry_and_a_kick_does_not_wait_for_it() {
    let env = Env::new();
    let job = ["--retry", "1", "--backoff", "1h..1h", "sh", "-c", "echo run >> runs; [ -e fixed ]"];
    for kick in 1..=20 {
        env.kick(&job);
        env.await_lines("runs", kick.min(2));
    }
    eventually("a retry", || !env.status()["retry"].is_null() && env.status()["running"].is_null());
    let runs = env.lines("runs").len();
    let status = env.status();
    assert_eq!((&status["pending"], &status["retry"]["failures"]), (&0.into(), &1.into()));
    assert_eq!(env.code(&["-f", "true"]), 0, "the slot is free while the retry waits");
    assert_eq!(env.lines("runs").len(), runs);
    env.touch("fixed");
    let ticket = env.kick(&job);
    assert_eq!(env.code(&["-w", &ticket]), 0);
    assert_eq!(env.lines("runs").len(), runs + 1);
    eventually("no retry", || env.status()["retry"].is_null());
}

#[test]
fn retries_go_on_until_success() {
    let env = Env::new();
    let script = "echo run >> runs; [ $(wc -l < runs) -ge 4 ] && exit 2; exit 6";
    let job = ["--puppet", "--backoff", "10ms..20ms", "sh", "-c", script];
    let ticket = env.kick(&job);
    assert_eq!(env.code(&["-w", &ticket]), 6, "the failed run covers the kick");
    env.await_lines("runs", 4);
    eventually("success", || env.status()["last"]["status"] == 2);
    std::thread::sleep(Duration::from_millis(100));
    let status = env.status();
    assert!(status["retry"].is_null());
    assert_eq!(env.lines("runs").len(), 4);
}

#[test]
fn endless_output_stays_bounded_and_its_end_is_kept() {
    let env = Env::new();
    let script = "head -c 100000000 /dev/zero | tr '\\0' x; head -c 30000000 /dev/zero | tr '\\0' y >&2; echo the end";
    let ticket = env.kick(&["sh", "-c", script]);
    let mut highest = 0;
    eventually("its end", || {
        highest = highest.max(disk_usage(&env.path("state")));
        env.status()["running"].is_null() && env.status()["pending"] == 0
    });
    assert_eq!(env.code(&["-w", &ticket]), 0);
    assert!(highest < 24 << 20, "{highest}");
    assert!(disk_usage(&env.path("state")) < 12 << 20);
    let output = env.run(&["-c"]);
    assert!(output.stdout.ends_with(b"the end\n") && output.stderr.ends_with(b"y"));
    assert!(output.stdout.starts_with(b"[ts: ") && output.stdout.len() > 1 << 20);
}

#[test]
fn a_reader_that_stops_reading_does_not_stop_the_queue() {
    let env = Env::new();
    let script = "head -c 1000000 /dev/zero; echo run >> runs";
    let mut foreground =
        env.ts(&["-f", "sh", "-c", script]).stdout(std::process::Stdio::piped()).spawn().expect("ts runs");
    env.await_lines("runs", 1);
    assert_eq!(env.code(&["-f", "true"]), 0, "nobody reads the first one's pipe");
    let pipe = foreground.stdout.take();
    assert!(foreground.try_wait().expect("ours").is_none(), "it still has output to hand on");
    drop(pipe);
    assert_eq!(foreground.wait().expect("reaped").code(), Some(0), "a closed pipe is no failure");
}

#[test]
fn output_of_old_runs_can_be_asked_for() {
    let env = Env::new();
    for run in 1..=3 {
        assert_eq!(env.code(&["-f", "echo", &format!("number {run}")]), 0);
    }
    assert_eq!(env.run(&["-c"]).stdout, b"number 3\n");
    assert_eq!(env.run(&["-c", "2"]).stdout, b"number 2\n");
    assert_eq!(env.code(&["-c", "9"]), 125);
}
