//! Faults at every system call: of the kicker, the leader, the heir, the child before its exec and after, the joiner.
//!
//! Each scene is traced once undisturbed; then, for each system call that somebody made and each n, it is played with a
//! fault in the n-th such call of each process: a kill, one of the errors that disks and tables give, the same error for
//! good, or a pause, which lets the others overtake. Since whoever starts the others is hit first, leader and heir have
//! scenes in which the test starts them, and the child's calls before its exec are told by the paths they name.
//!
//! What must hold afterwards, whatever was hit: nobody hangs; one undisturbed call sees to everything that was left; a kick
//! that was answered with a ticket is covered by a run that began after it, and where the job is to be tried again until it
//! succeeds it has succeeded in the end; no status is better than the run's; no two runs overlapped.
//!
//! A sample runs with the other tests; `make sweep` plays all, with the binary that is shipped. `STACKTIRA_SWEEP_STEP=10`
//! plays a tenth of it, `STACKTIRA_SWEEP_SCENE=Heir` one scene.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};

use crate::{Env, skipped};

/// What a call is hit with, and whether all later ones of the process are too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fault {
    strace: &'static str,
    lasting: bool,
}

const fn once(strace: &'static str) -> Fault {
    Fault { strace, lasting: false }
}

const fn lasting(strace: &'static str) -> Fault {
    Fault { strace, lasting: true }
}

const KILL: Fault = once("signal=KILL");
const PAUSE: Fault = once("delay_enter=15000");
const FAULTS: [Fault; 11] = [
    KILL,
    once("error=ENOSPC"),
    once("error=EIO"),
    once("error=EINTR"),
    once("error=EMFILE"),
    once("error=ENOMEM"),
    once("error=EAGAIN"),
    PAUSE,
    lasting("error=ENOSPC"),
    lasting("error=EIO"),
    lasting("error=EMFILE"),
];
/// Calls that a full or broken disk or table goes on to fail.
const LASTING: [&str; 14] = [
    "open",
    "openat",
    "write",
    "rename",
    "mkdir",
    "unlink",
    "link",
    "fallocate",
    "ftruncate",
    "flock",
    "getdents64",
    "lseek",
    "clone",
    "vfork",
];

/// The status of a run that did what it was for; nothing else may end with it.
const DONE: i32 = 7;
/// Tells an overlap by a living process in `busy`, and which kicks the run can have seen.
const SCRIPT: &str = "if read p < busy && [ $p != $$ ] && read -r s < /proc/$p/stat; then \
        case $s in *') Z '* | *') X '*) ;; *) echo \"$p $$\" >> overlaps ;; esac; fi; echo $$ > busy; \
    read k < kicks || exit 9; sleep 0.01; echo $k > seen || exit 9; exit 7";
/// Try again whatever happens until it is done.
const INSIST: [&str; 6] = ["--success", "7", "--retry", "0-6,8-255", "--backoff", "5ms..20ms"];

/// How long a fault meets whoever tries again.
const PATIENCE: Duration = Duration::from_millis(700);
/// What takes longer hangs, on a machine that has a hundred other things to do too.
const LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scene {
    /// A kick of an idle queue, and everybody it starts.
    Kick,
    /// The same, of a job that is tried again until it is done.
    Insist,
    /// A call that stays and leads.
    Foreground,
    /// A kick and a call that stays, while somebody else's run goes on.
    Joiner,
    /// A call that waits for a ticket whose run goes on.
    Waiter,
    /// A kick while somebody leads who is killed just before: the heir is there, or is it not yet.
    Killed,
    /// A call that stays and finds a run that has lost its leader and its heir.
    Orphan,
    /// A kick of a second command of the queue while the first one runs.
    Second,
    /// A call that takes up what was left.
    Resume,
    /// A call that lets a disabled queue go on.
    Enable,
    /// A call that finds a queue that has lost its page.
    Lost,
    /// A leader that finds a kick.
    Leader,
    /// An heir that finds a kick and no leader.
    Heir,
    /// The child, as it looks who it is and becomes the command.
    Child,
}

impl Scene {
    const ALL: [Scene; 13] = [
        Scene::Kick,
        Scene::Insist,
        Scene::Foreground,
        Scene::Joiner,
        Scene::Waiter,
        Scene::Killed,
        Scene::Orphan,
        Scene::Second,
        Scene::Resume,
        Scene::Enable,
        Scene::Lost,
        Scene::Leader,
        Scene::Heir,
    ];

    /// Whether the call ends with the status of a run that covers it.
    fn stays(self) -> bool {
        matches!(self, Scene::Foreground | Scene::Joiner | Scene::Waiter | Scene::Orphan | Scene::Child)
    }

    /// Whether the job is tried again until it is done.
    fn insists(self) -> bool {
        !matches!(self, Scene::Kick | Scene::Foreground | Scene::Joiner | Scene::Child)
    }

    /// Whether the ticket is given before the call that is hit.
    fn has_ticket(self) -> bool {
        matches!(self, Scene::Waiter | Scene::Resume | Scene::Enable | Scene::Lost | Scene::Leader | Scene::Heir)
    }
}

#[derive(Debug, Clone)]
struct Case {
    scene: Scene,
    /// None for an undisturbed play.
    fault: Option<Fault>,
    call: String,
    n: u32,
}

/// Runs a command to its end. Nothing is kept of its stderr, which leaders inherit.
fn within(command: &mut Command, limit: Duration) -> Result<Output, String> {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it runs");
    if await_end(&mut child, limit) {
        return Ok(child.wait_with_output().expect("it has ended"));
    }
    let _ = child.kill();
    let _ = child.wait();
    Err(format!("{command:?} hangs"))
}

fn await_end(child: &mut Child, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    while child.try_wait().expect("ours").is_none() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}

/// Whether strace has not yet started what it traces.
fn is_starting(strace: u32) -> bool {
    let children = std::fs::read_to_string(format!("/proc/{strace}/task/{strace}/children")).unwrap_or_default();
    let mut names = children.split_whitespace().map(|pid| std::fs::read_to_string(format!("/proc/{pid}/comm")));
    names.any(|name| name.is_ok_and(|name| name.trim_end() == "strace"))
}

/// What is there before the call that is hit, and that call.
struct Stage {
    env: Env,
    /// The arguments of `ts`.
    call: Vec<String>,
    /// The role of a process that the test starts with a lock as its stdin.
    lock: Option<&'static str>,
    ticket: Option<String>,
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

impl Stage {
    fn set(case: &Case) -> Stage {
        let scene = case.scene;
        let env = Env::in_memory();
        std::fs::write(env.work().join("kicks"), format!("{}\n", case.n)).expect("ours");
        let insist: &[&str] = if scene.insists() { &INSIST } else { &[] };
        let job = [insist, &["sh", "-c", SCRIPT]].concat();
        let first = |pause: &str| env.kick(&["sh", "-c", &format!("echo $$ $PPID > first; sleep {pause}")]);
        let background = || [&["-q"], &*job].concat();
        let (mut lock, mut ticket) = (None, None);
        let call = match scene {
            Scene::Kick | Scene::Insist => words(&background()),
            Scene::Foreground | Scene::Child => words(&[&["-f"], &*job].concat()),
            Scene::Joiner => {
                first("0.03");
                words(&[&["-f"], &*job].concat())
            }
            Scene::Second => {
                first("0.03");
                words(&background())
            }
            Scene::Waiter => {
                let given = env.kick(&job);
                let call = words(&["-w", &given]);
                ticket = Some(given);
                call
            }
            Scene::Killed => {
                first("0.03");
                let line = env.await_lines("first", 1).remove(0);
                let leader = line.split_once(' ').expect("two numbers").1.to_owned();
                // It may have ended by itself.
                let _ = Command::new("kill").args(["-9", &leader]).output();
                words(&background())
            }
            Scene::Orphan => {
                // Nobody relies on a call that stays, so it has no heir.
                let script = "echo $$ > first; echo $$ > busy; sleep 0.05";
                let mut leader = env.ts(&["-f", "sh", "-c", script]).stderr(Stdio::null()).spawn().expect("ts runs");
                env.await_lines("first", 1);
                leader.kill().expect("ours");
                leader.wait().expect("reaped");
                words(&[&["-f"], &*job].concat())
            }
            Scene::Resume | Scene::Enable | Scene::Lost | Scene::Leader | Scene::Heir => {
                assert_eq!(env.code(&["--disable", "not yet"]), 0);
                ticket = Some(env.kick(&background()));
                let state = env.path("state").join("default");
                if scene == Scene::Lost {
                    std::fs::remove_file(state.join("page")).expect("there");
                    // The tickets of a lost page mean nothing any more; the job does.
                    ticket = None;
                }
                if scene != Scene::Enable {
                    std::fs::remove_file(state.join("disabled")).expect("there");
                }
                match scene {
                    Scene::Enable => words(&["--enable"]),
                    Scene::Leader => {
                        lock = Some("default");
                        words(&["--lead"])
                    }
                    Scene::Heir => {
                        lock = Some("default/runs");
                        words(&["--heir", "1"])
                    }
                    _ => words(&["--resume"]),
                }
            }
        };
        Stage { env, call, lock, ticket }
    }

    /// Returns the call under strace.
    fn strace(&self, case: &Case) -> Command {
        let arguments: Vec<&str> = self.call.iter().map(String::as_str).collect();
        let ts = self.env.ts(&arguments);
        let mut strace = Command::new("strace");
        strace.arg("-f").arg("-o").arg(self.env.path("strace"));
        if let Some(fault) = case.fault {
            let call = &case.call;
            let plus = if fault.lasting { "+" } else { "" };
            strace.args(["-e", &format!("trace={call}")]);
            strace.args(["-e", &format!("inject={call}:{}:when={}{plus}", fault.strace, case.n)]);
        }
        if case.scene == Scene::Child && case.fault.is_some() {
            strace.args(["-P", if case.call == "execve" { "/usr/bin/sh" } else { "/proc/self/stat" }]);
        }
        if let Some(lock) = self.lock {
            // A shell opens it, below strace, which would hold what it hands on.
            let path = self.env.path("state").join(lock);
            strace.args(["/bin/sh", "-c", &format!("exec \"$@\" < '{}'", path.display()), "sh"]);
        }
        strace.arg(ts.get_program()).args(ts.get_args()).current_dir(self.env.work()).env_clear();
        strace.envs(ts.get_envs().filter_map(|(name, value)| Some((name, value?)))).stdin(Stdio::null());
        strace
    }
}

impl Stage {
    /// Plays the case to its end and returns the call's status, where it is known, and what it said.
    fn play(&self, case: &Case) -> Result<(Option<i32>, String), String> {
        let mut strace = self.strace(case);
        let mut child = strace.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("strace runs");
        // Each new process of a job that is tried again meets the fault again. It passes when strace goes: the processes
        // go on without it, and then the call has to end.
        let traced = await_end(&mut child, if case.fault.is_some() { PATIENCE } else { LIMIT });
        if !traced {
            // On a busy machine its own child may not be the program yet, and would wait for it for ever.
            while child.try_wait().expect("ours").is_none() && is_starting(child.id()) {
                std::thread::sleep(Duration::from_millis(5));
            }
            child.kill().expect("ours");
        }
        let status = child.wait().expect("reaped");
        let mut stdout = child.stdout.take().expect("a pipe");
        let mut said = String::new();
        let deadline = Instant::now() + LIMIT;
        loop {
            let mut fds = [PollFd::new(stdout.as_fd(), PollFlags::POLLIN)];
            if poll(&mut fds, 100u8).is_ok_and(|ready| ready > 0) {
                let mut buffer = [0; 256];
                match stdout.read(&mut buffer).expect("a pipe") {
                    0 => return Ok((status.code().filter(|_| traced), said)),
                    count => said.push_str(&String::from_utf8_lossy(&buffer[..count])),
                }
            } else if Instant::now() > deadline {
                return Err(format!("{strace:?} hangs"));
            }
        }
    }
}

/// Puts the fault in, looks at what is left, and returns the trace.
fn survive(case: &Case) -> Result<String, String> {
    let stage = Stage::set(case);
    let (env, scene) = (&stage.env, case.scene);
    let (status, said) = stage.play(case)?;
    let trace = std::fs::read_to_string(env.path("strace")).unwrap_or_default();
    let seen = || env.lines("seen") == [case.n.to_string()];
    let call = |args: &[&str]| -> Result<i32, String> {
        let output = within(&mut env.ts(args), LIMIT)?;
        output.status.code().ok_or_else(|| format!("{args:?}: {}", output.status))
    };
    let known = status.map_or("unknown".to_owned(), |status| status.to_string());
    if scene.stays() {
        match status {
            // 75 is the answer while it cannot be told whether the queue is disabled.
            Some(75) if case.fault.is_some_and(|fault| fault.lasting) => {}
            Some(0 | 75 | 124) => return Err(format!("the wrong status: {known}")),
            Some(DONE) if !seen() => return Err(format!("it says {DONE} and has not run: {:?}", env.lines("seen"))),
            Some(DONE) => {}
            _ if case.fault.is_none() => return Err(format!("undisturbed, it ends with {known}")),
            _ => {}
        }
    }
    let takes_up = if scene == Scene::Enable { "--enable" } else { "--resume" };
    match call(&[takes_up])? {
        0 => {}
        code => return Err(format!("{takes_up} ends with {code}")),
    }
    let answered = (!scene.stays() && !scene.has_ticket()).then(|| said.trim().to_owned());
    if let Some(ticket) = stage.ticket.clone().or(answered.filter(|answer| !answer.is_empty())) {
        // A command that was hit itself has failed, and that is its result.
        match call(&["-w", &ticket])? {
            code @ (0 | 75 | 124) => return Err(format!("-w {ticket} ends with {code}")),
            DONE if !seen() => return Err(format!("the run of the kick has not seen it: {:?}", env.lines("seen"))),
            _ => {}
        }
        // 125 is also what a run says that could not be started.
        match call(&["--why", &ticket])? {
            0 => {}
            code => return Err(format!("--why {ticket} ends with {code}")),
        }
        idle(env)?;
        if scene.insists() && !seen() {
            return Err(format!("the kick was lost: {:?}", env.lines("seen")));
        }
    } else {
        idle(env)?;
        if scene == Scene::Lost && !seen() {
            return Err("the job of the lost page was lost".to_owned());
        }
    }
    match env.lines("overlaps").as_slice() {
        [] => Ok(trace),
        overlaps => Err(format!("overlaps: {overlaps:?}")),
    }
}

/// Waits until nothing runs, waits or is to be tried again.
fn idle(env: &Env) -> Result<(), String> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let status = env.status();
        if status["running"].is_null() && status["pending"] == 0 && status["retry"].is_null() {
            env.is_idle();
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("something is left: {status}"));
        }
        std::thread::sleep(Duration::from_millis(3));
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

/// Whether the fault can befall the call.
fn befalls(fault: Fault, call: &str) -> bool {
    match call {
        // Linux closes even where close(2) fails, and nothing keeps a process from ending.
        "close" | "exit_group" => fault == KILL || fault == PAUSE,
        call => !fault.lasting || LASTING.contains(&call),
    }
}

/// Returns all cases, scene by scene.
fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let wanted = std::env::var("STACKTIRA_SWEEP_SCENE").ok();
    for scene in Scene::ALL.into_iter().filter(|scene| wanted.as_ref().is_none_or(|name| *name == format!("{scene:?}")))
    {
        let trace = survive(&Case { scene, fault: None, call: String::new(), n: 0 });
        for (call, count) in calls(&trace.unwrap_or_else(|error| panic!("{scene:?}: {error}"))) {
            for fault in FAULTS.into_iter().filter(|fault| befalls(*fault, &call)) {
                cases.extend((1..=count).map(|n| Case { scene, fault: Some(fault), call: call.clone(), n }));
            }
        }
    }
    cases
}

fn sweep(step: impl Fn(usize) -> usize) {
    let all = cases();
    let total = all.len();
    let mut cases: Vec<Case> = all.into_iter().step_by(step(total)).collect();
    for fault in FAULTS {
        let child = |call: &str| Case { scene: Scene::Child, fault: Some(fault), call: call.to_owned(), n: 1 };
        cases.extend(["open,openat", "read", "execve"].map(child));
    }
    let (next, happened) = (AtomicU32::new(0), AtomicUsize::new(0));
    let failures = Mutex::new(Vec::new());
    let slowest = Mutex::new((Duration::ZERO, String::new()));
    let start = Instant::now();
    std::thread::scope(|scope| {
        // Most of a case is waiting.
        for _ in 0..4 * std::thread::available_parallelism().map_or(1, usize::from) {
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
                            let faults = trace.matches("(INJECTED)").count() + trace.matches("(DELAYED)").count();
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
        "survived {}/{} (of {total} and the child's; {} faults in {} s; the longest took {} ms: {slowest})",
        cases.len() - failures.len(),
        cases.len(),
        happened.into_inner(),
        start.elapsed().as_secs(),
        longest.as_millis(),
    );
    assert!(failures.is_empty(), "{failures:#?}");
}

fn can_trace() -> bool {
    let traced = Command::new("strace").args(["-f", "-o", "/dev/null", "true"]).output();
    traced.is_ok_and(|output| output.status.success())
}

#[test]
fn a_fault_at_a_sample_of_system_calls() {
    if !can_trace() {
        return skipped("strace is not installed, or is not allowed to trace");
    }
    // Coprime to the number of faults, a step meets all kinds.
    sweep(|total| (total / 1100 / 11 * 11 + 1).min(total.div_ceil(1000)).max(1));
}

#[test]
#[ignore = "takes minutes"]
fn a_fault_at_every_system_call() {
    assert!(can_trace(), "strace is not installed, or is not allowed to trace");
    let step = std::env::var("STACKTIRA_SWEEP_STEP").map_or(Ok(1), |step| step.parse());
    let step = step.expect("a number");
    sweep(|_| step);
}
