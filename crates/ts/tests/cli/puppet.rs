//! Puppet's own agent, and `puppet apply` by hand.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::{Env, eventually, skipped};

const RUN: &str = "cp agent.lock during; echo up >> up; until [ -e go ]; do sleep 0.01; done; exit 2";

#[test]
fn the_agents_lock_is_held_during_a_puppet_run_and_waited_for() {
    let env = Env::new();
    let lock = env.work().join("agent.lock");
    // An agent whose process Puppet believes in.
    let agent = env.work().join("puppet");
    std::fs::copy("/bin/sleep", &agent).expect("there");
    let mut agent = Command::new(agent).arg("1000").spawn().expect("it runs");
    std::fs::write(&lock, agent.id().to_string()).expect("ours");
    let mut run = env.ts(&["-f", "--puppet", "sh", "-c", RUN]).env("TS_PUPPET_LOCK", &lock).spawn().expect("ts runs");
    eventually("the run's wait", || env.path("state").join("default/runs/1.err").metadata().is_ok_and(|m| m.len() > 0));
    assert!(env.lines("up").is_empty());
    agent.kill().expect("ours");
    agent.wait().expect("reaped");
    env.await_lines("up", 1);
    assert_eq!(env.lines("during"), [run.id().to_string()], "the leader's own id");
    let ruby = "require 'puppet'; require 'puppet/util/pidlock'
        Puppet.initialize_settings; print Puppet::Util::Pidlock.new(ARGV[0]).locked?";
    match Command::new("ruby").args(["-e", ruby]).arg(&lock).env("HOME", env.work()).output() {
        Ok(output) if output.status.success() => {
            assert_eq!(String::from_utf8_lossy(&output.stdout), "true", "Puppet believes in it");
            assert!(lock.exists());
        }
        _ => skipped("Puppet is not installed"),
    }
    env.touch("go");
    assert_eq!(run.wait().expect("reaped").code(), Some(2));
    assert!(!lock.exists());
}

#[test]
fn an_agent_that_does_not_end_is_a_failure_that_is_tried_again() {
    let env = Env::new();
    let agent = env.work().join("puppet");
    std::fs::copy("/bin/sleep", &agent).expect("there");
    let mut agent = Command::new(agent).arg("1000").spawn().expect("it runs");
    std::fs::write(env.work().join("agent.lock"), agent.id().to_string()).expect("ours");
    let args = ["-f", "--puppet", "--timeout", "50ms", "--backoff", "1h..1h", "sh", "-c", "echo run >> runs"];
    let output = env.ts(&args).env("TS_PUPPET_LOCK", "agent.lock").output().expect("ts runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(75), "{text}");
    assert!(text.contains("runs Puppet for 50ms already"), "{text}");
    assert_eq!(env.status()["retry"]["failures"], 1);
    assert!(env.lines("runs").is_empty());
    agent.kill().expect("ours");
    agent.wait().expect("reaped");
}

#[test]
fn a_lock_that_cannot_be_made_stops_no_run() {
    let env = Env::new();
    let command = ["-f", "--puppet", "sh", "-c", "exit 2"];
    let output = env.ts(&command).env("TS_PUPPET_LOCK", "/nonexistent/lock").output().expect("ts runs");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("going on without the lock"));
}

#[test]
fn puppet_apply_by_hand_waits_its_turn() {
    let env = Env::new();
    let shim = concat!(env!("CARGO_MANIFEST_DIR"), "/doc/puppet-shim");
    let real = env.work().join("real");
    std::fs::write(&real, "#!/bin/sh\necho \"$@\" >> calls\n[ -e busy ] && echo overlap >> overlaps\nexit 4\n")
        .expect("ours");
    std::fs::set_permissions(&real, std::fs::Permissions::from_mode(0o755)).expect("ours");
    let by_hand = |args: &[&str]| {
        let mut command = Command::new("sh");
        let ts = env.ts(&[]);
        command.envs(ts.get_envs().filter_map(|(name, value)| Some((name, value?)))).current_dir(env.work());
        command.env("PUPPET_REAL", &real).env("TS", crate::program()).arg(shim).args(args);
        command
    };
    // A run may use puppet as if the shim were not there.
    let nested = format!("PUPPET_REAL={} sh {shim} apply nested", real.display());
    assert_eq!(env.code(&["-f", "-Q", "converge", "sh", "-c", &nested]), 4);
    env.kick(&[
        "-Q",
        "converge",
        "sh",
        "-c",
        "mkdir busy; echo up >> up; until [ -e go ]; do sleep 0.01; done; rmdir busy",
    ]);
    env.await_lines("up", 1);
    let mut apply = by_hand(&["apply", "site.pp"]).spawn().expect("sh runs");
    assert_eq!(by_hand(&["--version"]).status().expect("sh runs").code(), Some(4), "not queued");
    eventually("its kick", || env.json(&["-Q", "converge", "-s", "--json"])[0]["pending"] == 1);
    assert_eq!(env.lines("calls"), ["apply nested", "--version"]);
    std::fs::remove_file(env.work().join("overlaps")).expect("the version was asked for meanwhile");
    env.touch("go");
    assert_eq!(apply.wait().expect("reaped").code(), Some(4));
    assert_eq!(env.lines("calls").last().map(String::as_str), Some("apply site.pp"));
    assert!(env.lines("overlaps").is_empty());
}
