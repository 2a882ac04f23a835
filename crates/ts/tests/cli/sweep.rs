//! Faults at every system call: of the kicker, the leader, the heir, the child before its exec and after, the joiner.
//!
//! Each scene is traced once undisturbed; then, for each system call that somebody made and each n, it is played with a
//! fault in the n-th such call of each process: a kill, or one of the errors that disks and tables give. Since whoever
//! starts the others is hit first, leader and heir have scenes in which the test starts them, and the child's calls
//! before its exec are told by the paths they name. What must hold afterwards, whatever was hit: nobody hangs; one
//! undisturbed call sees to everything that was left; a kick that was answered with a ticket is covered by a run that
//! began after it; a foreground call that says 0 has seen its run; no two runs overlapped.
//!
//! A sample runs with the other tests. All of it takes many minutes (`STACKTIRA_SWEEP_STEP=10`: a tenth of it):
//! `cargo test --release -p ts --test cli -- --ignored --nocapture every_system_call`

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crate::{Env, skipped};

const FAULTS: [&str; 5] = ["signal=KILL", "error=ENOSPC", "error=EIO", "error=EINTR", "error=EMFILE"];

/// Tells an overlap by a living process in `busy`, and which kicks the run can have seen.
const SCRIPT: &str = "if read p < busy && [ $p != $$ ] && read -r s < /proc/$p/stat; then \
        case $s in *') Z '* | *') X '*) ;; *) echo \"$p $$\" >> overlaps ;; esac; fi; echo $$ > busy; \
    read k < kicks || exit 9; sleep 0.01; echo $k > seen || exit 9";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scene {
    /// A kick of an idle queue, and everybody it starts.
    Kick,
    /// A call that stays and leads.
    Foreground,
    /// A kick and a call that stays, while somebody else's run goes on.
    Joiner,
    /// A kick while somebody leads who is killed just before: the heir is there, or is it not yet.
    Killed,
    /// A leader that finds a kick.
    Leader,
    /// An heir that finds a kick and no leader.
    Heir,
    /// The child, as it looks who it is and becomes the command.
    Child,
}

#[derive(Debug, Clone)]
struct Case {
    scene: Scene,
    /// None for an undisturbed play.
    fault: Option<&'static str>,
    call: String,
    n: u32,
}

/// Puts the fault in, looks at what is left, and returns the trace.
fn survive(case: &Case) -> Result<String, String> {
    let Case { scene, fault, ref call, n } = *case;
    let env = Env::in_memory();
    let log = env.path("strace");
    std::fs::write(env.work().join("kicks"), format!("{n}\n")).expect("ours");
    let busy_first = matches!(scene, Scene::Joiner | Scene::Killed);
    let role = match scene {
        Scene::Leader => Some(("--lead", "default")),
        Scene::Heir => Some(("--heir=1", "default/runs")),
        _ => None,
    };
    if busy_first {
        env.kick(&["sh", "-c", "echo $$ $PPID > first; sleep 0.03"]);
    }
    let stays = matches!(scene, Scene::Foreground | Scene::Joiner);
    let mut ticket = String::new();
    if role.is_some() {
        assert_eq!(env.code(&["--disable", "not yet"]), 0);
        ticket = env.kick(&["-q", "sh", "-c", SCRIPT]);
        std::fs::remove_file(env.path("state").join("default/disabled")).expect("there");
    }
    let mut ts = env.ts(&[if stays { "-f" } else { "-q" }, "sh", "-c", SCRIPT]);
    let mut strace = Command::new("timeout");
    strace.args(["-k", "1", "20", "strace", "-f", "-o"]).arg(&log);
    if let Some(fault) = fault {
        strace.args(["-e", &format!("inject={call}:{fault}:when={n}")]);
    }
    if scene == Scene::Child {
        strace.args(["-P", if call == "execve" { "/usr/bin/sh" } else { "/proc/self/stat" }]);
    }
    if let Some((role, lock)) = role {
        // It opens its lock by itself: strace would hold what it hands on.
        let mut shell = Command::new("/bin/sh");
        let state = env.path("state").join(lock);
        shell.arg("-c").arg(format!("exec {} {role} < {}", env!("CARGO_BIN_EXE_ts"), state.display()));
        shell.envs(ts.get_envs().filter_map(|(name, value)| Some((name, value?))));
        ts = shell;
    }
    strace.arg(ts.get_program()).args(ts.get_args()).current_dir(env.work()).env_clear();
    strace.envs(ts.get_envs().filter_map(|(name, value)| Some((name, value?)))).stdin(Stdio::null());
    if scene == Scene::Killed {
        let leader = env.await_lines("first", 1).remove(0);
        let leader = leader.split_once(' ').expect("two numbers").1.to_owned();
        // It may have ended by itself.
        let _ = Command::new("kill").args(["-9", &leader]).output();
    }
    let start = Instant::now();
    let output = strace.output().expect("strace runs");
    if start.elapsed() > Duration::from_secs(20) {
        return Err("it hangs".to_owned());
    }
    let trace = std::fs::read_to_string(&log).unwrap_or_default();
    let within = |args: &[&str]| -> Result<i32, String> {
        let ts = env.ts(args);
        let mut command = Command::new("timeout");
        command.args(["-k", "1", "30"]).arg(ts.get_program()).args(ts.get_args()).current_dir(env.work()).env_clear();
        command.envs(ts.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let output = command.output().expect("timeout runs");
        match output.status.code() {
            Some(124) => Err(format!("{args:?} hangs")),
            Some(code) => Ok(code),
            None => Err(format!("{args:?}: {}", output.status)),
        }
    };
    match within(&["--resume"])? {
        0 => {}
        code => return Err(format!("--resume ends with {code}")),
    }
    if role.is_none() {
        String::from_utf8_lossy(&output.stdout).trim().clone_into(&mut ticket);
    }
    let seen = || env.lines("seen") == [n.to_string()];
    if !stays && !ticket.is_empty() {
        // A command that was hit itself has failed, and that is its result.
        match within(&["-w", &ticket])? {
            0 if !seen() => return Err(format!("the run of the kick has not seen it: {:?}", env.lines("seen"))),
            _ => {}
        }
        // 125 is also what a run says that could not be started.
        match within(&["--why", &ticket])? {
            0 => {}
            code => return Err(format!("--why {ticket} ends with {code}")),
        }
    }
    if stays && output.status.success() && !seen() {
        return Err(format!("it says 0 and has not run: {:?}", env.lines("seen")));
    }
    within(&["-w"])?;
    let status = env.status();
    if !status["running"].is_null() || status["pending"] != 0 {
        return Err(format!("something is left: {status}"));
    }
    env.is_idle();
    match env.lines("overlaps").as_slice() {
        [] => Ok(trace),
        overlaps => Err(format!("overlaps: {overlaps:?}")),
    }
}

/// Returns each system call of a trace with the number of times that the process made it that made it most often.
fn calls(trace: &str) -> BTreeMap<String, u32> {
    let mut counts: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    for line in trace.lines() {
        let Some((pid, rest)) = line.split_once(' ') else { continue };
        let name = rest.trim_start().split('(').next().unwrap_or_default();
        if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            *counts.entry((pid, name)).or_default() += 1;
        }
    }
    let mut most: BTreeMap<String, u32> = BTreeMap::new();
    for ((_, name), count) in counts {
        let known = most.entry(name.to_owned()).or_default();
        *known = count.max(*known);
    }
    most
}

fn sweep(step: usize) {
    if Command::new("strace").arg("-V").output().is_err() {
        return skipped("strace is not installed");
    }
    let mut cases = Vec::new();
    for scene in [Scene::Kick, Scene::Foreground, Scene::Joiner, Scene::Killed, Scene::Leader, Scene::Heir] {
        let trace = survive(&Case { scene, fault: None, call: String::new(), n: 0 }).expect("undisturbed");
        for (call, count) in calls(&trace) {
            // Linux closes even where close(2) fails, and nothing keeps a process from ending.
            let kills_only = matches!(&*call, "close" | "exit_group");
            for fault in FAULTS.into_iter().filter(|fault| !kills_only || *fault == FAULTS[0]) {
                cases.extend((1..=count).map(|n| Case { scene, fault: Some(fault), call: call.clone(), n }));
            }
        }
    }
    // Coprime to the number of faults and to most others, a step meets all kinds.
    let mut cases: Vec<Case> = cases.into_iter().step_by(step).collect();
    for fault in FAULTS {
        let child = |call: &str| Case { scene: Scene::Child, fault: Some(fault), call: call.to_owned(), n: 1 };
        cases.extend(["openat", "execve"].map(child));
    }
    let (next, happened) = (AtomicU32::new(0), AtomicUsize::new(0));
    let failures = Mutex::new(Vec::new());
    let slowest = Mutex::new((Duration::ZERO, String::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, SeqCst) as usize) {
                    let start = Instant::now();
                    let survived = survive(case);
                    let mut slowest = slowest.lock().expect("no holder panics");
                    if start.elapsed() > slowest.0 {
                        *slowest = (start.elapsed(), format!("{case:?}"));
                    }
                    drop(slowest);
                    match survived {
                        Ok(trace) => {
                            let faults = trace.matches("(INJECTED)").count();
                            let kills = trace.matches("+++ killed by SIGKILL").count();
                            happened.fetch_add(faults + kills, SeqCst);
                        }
                        Err(error) => failures.lock().expect("no holder panics").push(format!("{case:?}: {error}")),
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().expect("no holder panics");
    let (longest, slowest) = slowest.into_inner().expect("no holder panics");
    let _ = writeln!(
        std::io::stderr(),
        "survived {}/{} ({} faults; the longest took {} ms: {slowest})",
        cases.len() - failures.len(),
        cases.len(),
        happened.into_inner(),
        longest.as_millis(),
    );
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn a_fault_at_a_sample_of_system_calls() {
    sweep(53);
}

#[test]
#[ignore = "takes minutes"]
fn a_fault_at_every_system_call() {
    let step = std::env::var("STACKTIRA_SWEEP_STEP").map_or(Ok(1), |step| step.parse());
    sweep(step.expect("a number"));
}
