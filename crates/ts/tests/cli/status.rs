//! What `-s` and `-l` say.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::{Env, eventually};

#[test]
fn a_queue_that_was_never_used_is_idle_and_nothing_is_made_by_looking() {
    let env = Env::new();
    let status = env.status();
    assert_eq!(
        status,
        serde_json::json!({"type": "status", "v": 1, "queue": "default", "running": null, "pending": 0,
            "starts_in": null, "retry": null, "disabled": null, "last": null})
    );
    assert!(env.json(&["-l", "--json"]).is_empty());
    assert_eq!(env.code(&["-w"]), 0);
    assert_eq!(env.code(&["--resume"]), 0);
    assert!(!env.path("state").exists());
}

#[test]
fn what_runs_what_waits_and_what_was() {
    let env = Env::new();
    assert_eq!(env.code(&["-f", "sh", "-c", "exit 6"]), 6);
    env.kick(&["--reason", "watch haproxy", "sh", "-c", "echo $$ > pid; until [ -e go ]; do sleep 0.01; done"]);
    let pid = env.await_lines("pid", 1).remove(0);
    let odd = OsStr::from_bytes(b"\xff\n");
    assert!(env.ts(&["echo"]).arg(odd).stdout(std::process::Stdio::null()).status().expect("ts runs").success());
    let status = env.status();
    assert_eq!(status["running"]["pid"].to_string(), pid);
    assert_eq!(status["running"]["argv"][0], "sh");
    assert_eq!(status["running"]["reason"], "watch haproxy");
    assert_eq!(status["running"]["queue"], "default");
    assert!(status["running"]["started"].as_f64().is_some_and(|started| started > 1e9));
    assert_eq!(status["pending"], 1);
    assert_eq!(status["last"]["status"], 6);
    assert!(status["last"]["duration"].is_number());
    assert_eq!(status["last"]["tickets"]["count"], 1);
    let jobs = env.json(&["-l", "--json"]);
    let states: Vec<&str> = jobs.iter().filter_map(|job| job["state"].as_str()).collect();
    assert_eq!(states, ["idle", "running", "pending"]);
    assert_eq!(jobs[2]["argv"], serde_json::json!(["echo", "\\xff\n"]));
    let text = String::from_utf8(env.run(&["-l"]).stdout).expect("UTF-8");
    assert_eq!(text.lines().count(), 3, "{text}");
    env.touch("go");
    eventually("quiet", || env.status()["pending"] == 0 && env.status()["running"].is_null());
}

#[test]
fn help_has_examples_and_the_version_is_told() {
    let env = Env::new();
    let help = String::from_utf8(env.run(&["--help"]).stdout).expect("UTF-8");
    for heading in ["\nExamples:\n  ", "\nEnvironment:\n  TS_DIR", "\nExit status:\n  0"] {
        assert!(help.contains(heading), "{heading}");
    }
    assert!(!help.contains("--lead"));
    assert!(String::from_utf8_lossy(&env.run(&["--version"]).stdout).starts_with("ts "));
}
