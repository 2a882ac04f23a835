//! Output that is followed, questions about kicks, metrics, and who hears of a run's end.

use std::io::Read;
use std::process::Stdio;

use crate::{Env, eventually};

#[test]
fn a_run_is_followed_to_its_end() {
    let env = Env::new();
    let script = "echo one; echo two >&2; echo up >> up; until [ -e go ]; do sleep 0.01; done; echo three; exit 3";
    env.kick(&["sh", "-c", script]);
    env.await_lines("up", 1);
    let mut tail = env.ts(&["-t"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("ts runs");
    let mut out = tail.stdout.take().expect("piped");
    let mut first = [0; 4];
    out.read_exact(&mut first).expect("it shows what is there");
    assert_eq!(&first, b"one\n");
    assert!(tail.try_wait().expect("ours").is_none(), "it stays");
    env.touch("go");
    let mut rest = String::new();
    out.read_to_string(&mut rest).expect("text");
    assert_eq!((rest.as_str(), tail.wait().expect("reaped").code()), ("three\n", Some(0)));
    // What has ended is printed, and what never was is an error.
    assert_eq!(String::from_utf8_lossy(&env.run(&["-t", "1"]).stdout), "one\nthree\n");
    assert_eq!(env.code(&["-t", "99"]), 125);
    assert_eq!(env.code(&["-Q", "other", "-t"]), 125);
}

#[test]
fn a_reader_that_goes_away_ends_nothing_but_itself() {
    let env = Env::new();
    env.kick(&["sh", "-c", "echo up >> up; while [ ! -e go ]; do echo y; done"]);
    env.await_lines("up", 1);
    let mut tail = env.ts(&["-t"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("ts runs");
    drop(tail.stdout.take());
    env.touch("go");
    assert_eq!(env.code(&["-w"]), 0);
    assert_eq!(tail.wait().expect("reaped").code(), Some(0));
}

#[test]
fn a_kick_can_be_asked_about() {
    let env = Env::new();
    let job = ["sh", "-c", "until [ -e go ]; do sleep 0.01; done; exit 6"];
    let with = |reason| [&["--reason", reason][..], &job].concat();
    let why = |ticket: &str| env.json(&["--why", ticket, "--json"]).remove(0);
    let first = env.kick(&with("watch a"));
    eventually("its run", || why(&first)["state"] == "running");
    let tickets = [env.kick(&with("watch b")), env.kick(&with("timer")), env.kick(&job)];
    let pending = why(&tickets[2]);
    assert_eq!((&pending["state"], &pending["waits_for"]), (&"pending".into(), &"the end of run 1".into()));
    assert!(pending["run"].is_null() && pending["reason"].is_null());
    env.touch("go");
    assert_eq!(env.code(&["-w"]), 6);
    assert_eq!(why(&first)["run"]["reasons"], serde_json::json!(["watch a"]));
    let last = why(&tickets[1]);
    assert_eq!(
        (&last["state"], &last["reason"], &last["run"]["status"]),
        (&"covered".into(), &"timer".into(), &6.into())
    );
    assert_eq!((&last["run"]["run"], &last["run"]["tickets"]["count"]), (&2.into(), &3.into()));
    assert_eq!(last["run"]["reasons"], serde_json::json!(["watch b", "timer"]));
    assert!(last["run"]["waited"].is_number());
    let text = String::from_utf8(env.run(&["--why", &tickets[2]]).stdout).expect("UTF-8");
    for line in ["state     run 2 covers it and ended with 6", "because   watch b"] {
        assert!(text.contains(line), "{text}");
    }
    assert_eq!(env.code(&["--why", "7"]), 125);
    assert_eq!(env.code(&["-Q", "none", "--why", &first]), 125);
}

#[test]
fn metrics_are_there_when_a_run_has_ended() {
    let env = Env::new();
    let metrics = |args: &[&str]| env.code(&[&["-f", "--metrics", "ts.prom"], args].concat());
    assert_eq!(metrics(&["true"]), 0);
    assert_eq!(
        metrics(&[
            "--success",
            "0,2",
            "sh",
            "-c",
            "until grep '^ts_running.* 1' ts.prom; do sleep 0.01; done > during; exit 2"
        ]),
        2
    );
    assert_eq!(metrics(&["false"]), 1);
    let read = |name: &str| std::fs::read_to_string(env.work().join(name)).expect("written");
    let text = read("ts.prom");
    for line in [
        "ts_running{queue=\"default\"} 0",
        "ts_pending_kicks{queue=\"default\"} 0",
        "ts_runs_total{queue=\"default\",result=\"success\"} 2",
        "ts_runs_total{queue=\"default\",result=\"failure\"} 1",
        "ts_runs_total{queue=\"default\",result=\"unknown\"} 0",
        "ts_covered_kicks_total{queue=\"default\"} 3",
        "ts_last_run_status{queue=\"default\"} 1",
        "# TYPE ts_runs_total counter",
    ] {
        assert!(text.lines().any(|each| each == line), "{line}: {text}");
    }
    assert_eq!(read("during"), "ts_running{queue=\"default\"} 1\n");
    // That they cannot be written is no failure of the run.
    assert_eq!(env.code(&["-f", "--metrics", "/proc/none/ts.prom", "true"]), 0);
    assert_eq!(env.code(&["-f", "--metrics", "", "true"]), 125);
}

#[test]
fn a_program_hears_of_each_end() {
    let env = Env::new();
    let hook = env.work().join("hook");
    let script = "#!/bin/sh\necho \"$TS_STATUS $TS_QUEUE $TS_RUN $TS_REASON\" >> ends; echo heard\n";
    std::fs::write(&hook, script).expect("ours");
    std::fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("ours");
    let job = ["-Q", "q", "--on-finish", "./hook", "--reason", "because", "sh", "-c"];
    let told = "echo \"$TS_QUEUE $TS_RUN $TS_REASON\"; exit 5";
    let output = env.run(&[&["-f"], &job[..], &[told]].concat());
    assert_eq!((output.status.code(), &*String::from_utf8_lossy(&output.stdout)), (Some(5), "q 1 because\n"));
    env.kick(&[&job[..], &["kill -9 $$"]].concat());
    let ends = env.await_lines("ends", 2);
    assert_eq!(ends, ["5 q 1 because", "137 q 2 because"]);
    // One that fails, or is not there, changes nothing.
    assert_eq!(env.code(&["-f", "--on-finish", "false", "true"]), 0);
    assert_eq!(env.code(&["-f", "--on-finish", "/nonexistent", "sh", "-c", "exit 4"]), 4);
}

#[test]
fn a_run_that_would_wait_for_itself_is_told_so() {
    let env = Env::new();
    let ts = crate::program().display().to_string();
    for inner in ["-f true", "-w"] {
        let output = env.run(&["-f", "sh", "-c", &format!("{ts} {inner}")]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(125), "{text}");
        assert!(text.contains("would never end"), "{text}");
    }
    assert_eq!(env.code(&["-f", "sh", "-c", &format!("{ts} true && {ts} -f -Q other true")]), 0);
}

#[test]
fn what_cannot_be_shown_is_said() {
    let env = Env::new();
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").expect("there");
    let run = |args: &[&str]| {
        let output = env.ts(args).stdout(full()).output().expect("ts runs");
        (output.status.code().expect("ts is not killed"), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for (args, status) in [
        (&["-f", "echo", "x"][..], 125),
        (&["-c"], 125),
        (&["-t"], 125),
        (&["-s"], 125),
        (&["-l"], 125),
        (&["true"], 125),
        (&["-f", "sh", "-c", "echo x; exit 3"], 3),
    ] {
        let (code, text) = run(args);
        assert_eq!(code, status, "{args:?}: {text}");
        assert!(text.contains("No space left on device"), "{args:?}: {text}");
    }
    let output = env.run(&["-f", "--timeout", "50ms", "sleep", "30"]);
    assert_eq!(output.status.code(), Some(124));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "ts: the time limit of 50ms is over; ending the run\n");
}
