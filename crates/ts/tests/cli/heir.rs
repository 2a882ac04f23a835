//! Who leads after the leader.

use crate::{Env, alive, eventually, kill};

/// Processes of this state directory's queue that stand by or lead.
pub(crate) fn processes(env: &Env, role: &str) -> Vec<String> {
    let state = format!("TS_DIR={}", env.path("state").display());
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let words = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap_or_default();
    entries
        .flatten()
        .filter(|entry| words(entry.path().join("cmdline")).split('\0').nth(1) == Some(role))
        .filter(|entry| words(entry.path().join("environ")).split('\0').any(|pair| pair == state))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|pid| alive(pid))
        .collect()
}

const WAITS: &str = "echo $$ $PPID >> pids; until [ -e go ]; do sleep 0.01; done; echo done >> ends";

fn leader(env: &Env) -> String {
    let line = env.await_lines("pids", 1).remove(0);
    line.split_once(' ').expect("two numbers").1.to_owned()
}

#[test]
fn a_leader_killed_right_after_a_kick_has_one_heir() {
    let env = Env::new();
    env.kick(&["sh", "-c", WAITS]);
    let first = leader(&env);
    eventually("an heir", || processes(&env, "--heir").len() == 1);
    let late = env.kick(&["sh", "-c", "echo late >> ends"]);
    kill(&first);
    env.touch("go");
    // Nobody calls: the heir waits for the orphan, runs it again since its end is unknown, and then what came late.
    env.await_lines("ends", 3);
    assert_eq!(env.code(&["-w", &late]), 0);
    let mut ends = env.lines("ends");
    ends.sort();
    assert_eq!(ends, ["done", "done", "late"]);
    eventually("nobody", || processes(&env, "--heir").is_empty() && processes(&env, "--lead").is_empty());
}

#[test]
fn heirs_of_heirs_lead_and_many_kicks_make_one() {
    let env = Env::new();
    let mut foreground = env.ts(&["-f", "sh", "-c", WAITS]).spawn().expect("ts runs");
    leader(&env);
    assert!(processes(&env, "--heir").is_empty(), "nobody relies on a process that stays for itself");
    for _ in 0..20 {
        env.kick(&["sh", "-c", "echo late >> ends"]);
    }
    assert_eq!(processes(&env, "--heir").len(), 1);
    foreground.kill().expect("ours");
    foreground.wait().expect("reaped");
    eventually("the heir's heir", || processes(&env, "--heir").len() == 2);
    // Both keep their first name; the one that was made later stands by, the other leads.
    let mut heirs: Vec<u32> = processes(&env, "--heir").iter().map(|pid| pid.parse().expect("a number")).collect();
    heirs.sort_unstable();
    kill(&heirs[0].to_string());
    env.touch("go");
    env.await_lines("ends", 3);
    assert_eq!(env.code(&["-w"]), 0);
    let mut ends = env.lines("ends");
    ends.sort();
    assert_eq!(ends, ["done", "done", "late"]);
    eventually("nobody", || processes(&env, "--heir").is_empty() && processes(&env, "--lead").is_empty());
}

#[test]
fn roles_of_ts_itself_are_refused_to_others() {
    let env = Env::new();
    assert_eq!(env.code(&["-f", "true"]), 0);
    for role in ["--lead", "--heir=1"] {
        assert_eq!(env.code(&[role]), 125, "{role}");
    }
}

#[test]
fn what_kills_each_leader_does_not_go_on_for_ever() {
    let env = Env::new();
    let ticket = env.kick(&["sh", "-c", "echo run >> runs; kill -9 $PPID"]);
    env.await_lines("runs", 9);
    eventually("nobody", || processes(&env, "--heir").is_empty() && processes(&env, "--lead").is_empty());
    let why = || env.json(&["--why", &ticket, "--json"]).remove(0);
    assert_eq!(why()["state"], "pending");
    // A process that is ending loses its name before its lock.
    eventually("no leader", || {
        why()["waits_for"].as_str().is_some_and(|text| text.contains("the last one was killed"))
    });
    assert_eq!(env.lines("runs").len(), 9, "the first leader's and those of eight heirs");
}
