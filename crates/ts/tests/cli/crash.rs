//! What is left when participants are killed.

use crate::{Env, alive, eventually, kill};

/// Notes its own and its leader's process id, and an overlap; runs until `go` is there.
const WITNESS: &str = "mkdir busy || echo overlap >> overlaps; echo $$ $PPID >> pids; \
                       until [ -e go ]; do sleep 0.01; done; rmdir busy; echo done >> ends";

fn pids(env: &Env, run: usize) -> (String, String) {
    let line = env.await_lines("pids", run).remove(run - 1);
    let (child, leader) = line.split_once(' ').expect("two numbers");
    (child.to_owned(), leader.to_owned())
}

#[test]
fn a_run_survives_its_leader_and_nothing_overlaps_it() {
    let env = Env::new();
    let ticket = env.kick(&["sh", "-c", WITNESS]);
    let (child, leader) = pids(&env, 1);
    kill(&leader);
    assert!(alive(&child));
    assert_eq!(env.status()["running"]["pid"].to_string(), child);
    // The next call, of whatever command, finds the orphan and sees to everything.
    let late = env.kick(&["sh", "-c", "[ -e busy ] && echo overlap >> overlaps; echo late >> ends"]);
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(env.lines("ends"), [""; 0], "it waits for the orphan");
    env.touch("go");
    assert_eq!(env.code(&["-w", &late]), 0);
    assert_eq!(env.code(&["-w", &ticket]), 0);
    assert_eq!(env.lines("overlaps"), [""; 0]);
    let mut ends = env.lines("ends");
    ends.sort();
    assert_eq!(ends, ["done", "done", "late"], "the status of the orphan is unknown, so its kick is run again");
}

#[test]
fn whoever_waits_is_the_heir_of_a_killed_leader() {
    let env = Env::new();
    env.kick(&["sh", "-c", WITNESS]);
    let (child, leader) = pids(&env, 1);
    let mut joiner = env.ts(&["-f", "sh", "-c", "echo joined; exit 5"]).spawn().expect("ts runs");
    eventually("the kick", || env.status()["pending"] == 1);
    kill(&leader);
    env.touch("go");
    assert_eq!(joiner.wait().expect("reaped").code(), Some(5));
    assert_eq!(env.code(&["-w"]), 0);
    assert!(!alive(&child));
    assert_eq!(env.lines("overlaps"), [""; 0]);
    assert_eq!(env.lines("ends").len(), 2);
}

#[test]
fn a_killed_foreground_leaves_its_run_alone() {
    let env = Env::new();
    let mut foreground = env.ts(&["-f", "sh", "-c", WITNESS]).spawn().expect("ts runs");
    let (child, leader) = pids(&env, 1);
    assert_eq!(leader, foreground.id().to_string(), "it leads its own run");
    foreground.kill().expect("ours");
    foreground.wait().expect("reaped");
    assert!(alive(&child));
    assert_eq!(env.code(&["--resume"]), 0);
    env.touch("go");
    assert_eq!(env.code(&["-w"]), 0);
    assert_eq!((env.lines("ends").len(), env.lines("overlaps").len()), (2, 0));
}

#[test]
fn when_everything_is_killed_resume_runs_it_again() {
    let env = Env::new();
    let ticket = env.kick(&["-Q", "puppet", "sh", "-c", WITNESS]);
    let (child, leader) = pids(&env, 1);
    kill(&leader);
    kill(&child);
    std::fs::remove_dir(env.work().join("busy")).expect("the child made it");
    env.touch("go");
    assert_eq!(env.lines("ends").len(), 0);
    assert_eq!(env.code(&["--resume"]), 0);
    assert_eq!(env.code(&["-w", &ticket]), 0);
    assert_eq!(env.lines("ends").len(), 1);
    assert_eq!(env.code(&["--resume"]), 0);
    assert_eq!(env.code(&["-w"]), 0);
    assert_eq!(env.lines("ends").len(), 1, "nothing was left");
}

#[test]
fn resume_with_a_command_kicks_once_a_boot() {
    let env = Env::new();
    let job = ["--resume", "sh", "-c", "echo run >> runs"];
    for _ in 0..3 {
        assert_eq!(env.code(&job), 0);
        assert_eq!(env.code(&["-w"]), 0);
    }
    assert_eq!(env.lines("runs").len(), 1);
    env.kick(&job[1..]);
    assert_eq!(env.code(&["-w"]), 0);
    assert_eq!(env.lines("runs").len(), 2);
}

#[test]
fn a_lost_page_counts_as_a_kick_of_every_job() {
    let env = Env::new();
    assert_eq!(env.code(&["-f", "sh", "-c", "echo run >> runs"]), 0);
    std::fs::remove_file(env.path("state").join("default/page")).expect("there");
    assert_eq!(env.code(&["--resume"]), 0);
    env.await_lines("runs", 2);
    assert_eq!(env.code(&["-w"]), 0);
    assert_eq!(env.lines("runs").len(), 2);
}

#[test]
fn the_leader_is_nobodys_child() {
    let env = Env::new();
    env.kick(&["sh", "-c", WITNESS]);
    let (_, leader) = pids(&env, 1);
    let stat = std::fs::read_to_string(format!("/proc/{leader}/stat")).expect("it lives");
    let fields: Vec<&str> = stat.rsplit(") ").next().expect("fields").split(' ').collect();
    assert_eq!(fields[3], leader, "a session of its own");
    let cwd = std::fs::read_link(format!("/proc/{leader}/cwd")).expect("ours");
    assert_eq!(cwd.to_str(), Some("/"));
    for fd in ["0", "1"] {
        let target = std::fs::read_link(format!("/proc/{leader}/fd/{fd}")).expect("ours");
        assert_eq!(target.to_str(), Some("/dev/null"));
    }
    let environ = std::fs::read_to_string(format!("/proc/{leader}/environ")).expect("ours");
    assert!(!environ.contains("PATH="), "the kicker's environment stays in the record: {environ}");
    env.touch("go");
    assert_eq!(env.code(&["-w"]), 0);
    eventually("the leader's end", || !alive(&leader));
}

#[test]
fn random_kills_lose_no_kick_and_overlap_nothing() {
    let env = Env::new();
    // Each run says which kicks it can have seen.
    let script = "mkdir busy 2>/dev/null || echo overlap >> overlaps; cat kicks > seen.$$; \
                  echo $$ $PPID >> pids; sleep 0.02; mv seen.$$ seen; rmdir busy";
    for round in 0..25u32 {
        std::fs::write(env.work().join("kicks"), format!("{round}\n")).expect("ours");
        let runs = env.lines("pids").len();
        env.kick(&["sh", "-c", script]);
        if round % 2 == 0 {
            let (_, leader) = pids(&env, runs + 1);
            // It may have ended by itself meanwhile.
            let _ = std::process::Command::new("kill").args(["-9", &leader]).output();
        }
    }
    // Nobody calls any more: the heir of the last leader sees to it.
    eventually("a run after the last kick", || env.lines("seen") == ["24"]);
    assert_eq!(env.code(&["-w"]), 0);
    assert_eq!(env.lines("overlaps"), [""; 0]);
    assert_eq!(env.status()["pending"], 0);
}
