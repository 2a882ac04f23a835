//! State directories that cannot be trusted or written.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output};

use crate::{Env, skipped};

fn refused(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(125), "{text}");
    text
}

#[test]
fn a_directory_that_others_can_change_is_refused() {
    let env = Env::new();
    std::fs::create_dir(env.path("real")).expect("made");
    symlink(env.path("real"), env.path("link")).expect("made");
    let text = refused(&env.ts(&["true"]).env("TS_DIR", env.path("link")).output().expect("ts runs"));
    assert!(text.contains("is not safe: it is not a directory") && text.contains("hint: set TS_DIR"), "{text}");
    std::fs::set_permissions(env.path("real"), std::fs::Permissions::from_mode(0o777)).expect("ours");
    for args in [&["true"][..], &["-s"], &["-l"], &["--resume"]] {
        refused(&env.ts(args).env("TS_DIR", env.path("real")).output().expect("ts runs"));
    }
    refused(&env.ts(&["true"]).env("TS_DIR", "relative").output().expect("ts runs"));
    refused(&env.ts(&["true"]).env("TS_DIR", "/proc/ts").output().expect("ts runs"));
}

#[test]
fn a_queue_or_a_page_that_is_a_link_is_refused() {
    let env = Env::new();
    assert_eq!(env.code(&["-f", "true"]), 0);
    symlink(env.path("state").join("default"), env.path("state").join("linked")).expect("made");
    refused(&env.run(&["-Q", "linked", "true"]));
    let page = env.path("state").join("default/page");
    std::fs::rename(&page, env.path("page")).expect("there");
    symlink(env.path("page"), &page).expect("made");
    refused(&env.run(&["true"]));
}

#[test]
fn a_directory_of_somebody_else_is_refused() {
    let env = Env::new();
    let foreign = env.path("foreign");
    std::fs::create_dir(&foreign).expect("made");
    if std::os::unix::fs::chown(&foreign, Some(65534), None).is_err() {
        return skipped("only root can give a directory away");
    }
    let text = refused(&env.ts(&["true"]).env("TS_DIR", &foreign).output().expect("ts runs"));
    assert!(text.contains("it belongs to user 65534"), "{text}");
}

/// Runs a script with a small file system at `state`; `None` where that is not allowed.
fn on_small_disk(env: &Env, script: &str) -> Option<Output> {
    std::fs::create_dir(env.path("state")).expect("made");
    let mount = "mount -t tmpfs -o size=128k,mode=0700 ts \"$TS_DIR\" || exit 99";
    let output = Command::new("unshare")
        .args(["-m", "sh", "-euc", &format!("{mount}; {script}")])
        .env("TS_DIR", env.path("state"))
        .env("TS", crate::program())
        .env("TS_SCOPE", "0")
        .current_dir(env.work())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.code() == Some(99) || text.contains("unshare:") {
        return None;
    }
    Some(output)
}

#[test]
fn a_full_disk_drops_nothing() {
    let env = Env::new();
    let script = "\"$TS\" -f true; dd if=/dev/zero of=\"$TS_DIR/fill\" 2>/dev/null || :
        \"$TS\" sh -c 'echo run >> runs'; \"$TS\" -Q default -w; \"$TS\" -f sh -c 'echo out; echo run >> runs; exit 6'";
    let Some(output) = on_small_disk(&env, script) else { return skipped("mounting is not allowed") };
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(6), "{text}");
    assert!(text.contains("No space left on device") && text.contains("running the command here"), "{text}");
    assert_eq!(env.lines("runs").len(), 2, "{text}");
}

#[test]
fn a_read_only_disk_drops_nothing() {
    let env = Env::new();
    let script = "\"$TS\" -f true; mount -o remount,ro \"$TS_DIR\"; \"$TS\" sh -c 'echo run >> runs; exit 3'";
    let Some(output) = on_small_disk(&env, script) else { return skipped("mounting is not allowed") };
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains("Read-only file system"), "{text}");
    assert_eq!(env.lines("runs").len(), 1, "{text}");
}

#[test]
fn on_a_full_disk_a_leader_that_waits_for_a_retry_makes_way() {
    let env = Env::new();
    let script = "\"$TS\" -f --retry 1 --backoff 1h..1h sh -c 'exit 1' || :
        dd if=/dev/zero of=\"$TS_DIR/fill\" 2>/dev/null || :
        for n in 1 2 3; do timeout 10 \"$TS\" sh -c \"echo run >> runs; exit $n\" & done; wait
        rm \"$TS_DIR/fill\"; \"$TS\" -s --json > status; \"$TS\" --disable over; \"$TS\" -s --json | grep -c retry";
    let Some(output) = on_small_disk(&env, script) else { return skipped("mounting is not allowed") };
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(env.lines("runs").len(), 3, "{text}");
    let status: serde_json::Value = serde_json::from_str(&env.lines("status")[0]).expect("JSON");
    assert_eq!(status["retry"]["failures"], 1, "the retry is still to come: {status}");
}

#[test]
fn a_systemd_that_does_not_answer_delays_a_kick_and_keeps_no_run_away() {
    if !Path::new("/usr/bin/busctl").exists() {
        return skipped("busctl is not installed");
    }
    for (busctl, said) in [("sleep 60", "no answer from systemd in 2 s"), ("exit 1", "busctl: exit status: 1")] {
        let env = Env::new();
        let place = env.path("busctl");
        std::fs::write(&place, format!("#!/bin/sh\n{busctl}\n")).expect("ours");
        std::fs::set_permissions(&place, std::fs::Permissions::from_mode(0o755)).expect("ours");
        let script = format!(
            "mount -t tmpfs ts /run && mkdir -p /run/systemd/system && mount --bind {} /usr/bin/busctl || exit 99
             \"$TS\" -q sh -c 'echo run >> runs'; \"$TS\" -w; cat \"$TS_DIR/default/leader.log\"",
            place.display()
        );
        let start = std::time::Instant::now();
        let output = Command::new("unshare")
            .args(["-m", "sh", "-euc", &script])
            .env("TS_DIR", env.path("state"))
            .env("TS", crate::program())
            .env_remove("TS_SCOPE")
            .current_dir(env.work())
            .output();
        let Ok(output) = output else { return skipped("unshare is not installed") };
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        if output.status.code() == Some(99) || text.contains("unshare:") {
            return skipped("mounting is not allowed");
        }
        assert!(output.status.success() && text.contains(said), "{text}");
        assert_eq!(env.lines("runs").len(), 1);
        assert!(start.elapsed() < std::time::Duration::from_secs(50), "{:?}", start.elapsed());
    }
}
