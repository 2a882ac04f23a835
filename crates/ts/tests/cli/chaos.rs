//! Many kicks at once, and kicks among kills, in schedules that a seed decides.
//!
//! A few of each run with the other tests; `make sweep` runs a million kicks from 64 callers and 300 schedules.
//! `STACKTIRA_SEED` plays one schedule again, as far as the machine lets it.

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::heir::processes;
use crate::{Env, eventually};

const CALLERS: u64 = 64;

/// Kicks from many callers at once, against short runs of one job.
fn crowd(kicks: u64) {
    let env = Env::in_memory();
    let each = kicks / CALLERS;
    let script = "mkdir busy || echo overlap >> overlaps; cat last.* > seen 2> /dev/null; sleep 0.01; rmdir busy";
    let metrics = env.path("ts.prom");
    let job = ["-q", "--metrics", metrics.to_str().expect("UTF-8"), "sh", "-c", script];
    let start = Instant::now();
    std::thread::scope(|scope| {
        for caller in 0..CALLERS {
            let (env, job) = (&env, &job);
            scope.spawn(move || {
                for kick in 1..=each {
                    if kick == each {
                        std::fs::write(env.work().join(format!("last.{caller}")), "last\n").expect("ours");
                    }
                    let status = env.ts(job).stdout(Stdio::null()).status().expect("ts runs");
                    assert!(status.success(), "{status}");
                }
            });
        }
    });
    let kicked = start.elapsed();
    assert_eq!(env.code(&["-w"]), 0);
    assert_eq!(env.lines("overlaps"), [""; 0]);
    assert_eq!(env.lines("seen").len() as u64, CALLERS, "the last run began after the last kick of each caller");
    let figure = |name: &str| -> u64 {
        let text = std::fs::read_to_string(&metrics).expect("written after each run");
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {text}"));
        line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a number")
    };
    // The figures are written after the result.
    eventually("every kick is covered", || figure("ts_covered_kicks_total") == each * CALLERS);
    let runs = figure("ts_runs_total{queue=\"default\",result=\"success\"}");
    let _ = writeln!(
        std::io::stderr(),
        "{} kicks from {CALLERS} callers in {} s: 0 lost, 0 overlaps, {runs} runs",
        each * CALLERS,
        kicked.as_secs()
    );
}

/// A xorshift generator: the same numbers for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn pause(&mut self, most_ms: u64) {
        std::thread::sleep(Duration::from_micros(self.below(most_ms * 1000)));
    }
}

/// Notes an overlap with a living run, and the kick that it can have seen last.
fn script(job: u64) -> String {
    format!(
        "if read p < busy && [ $p != $$ ] && read -r s < /proc/$p/stat; then \
             case $s in *') Z '* | *') X '*) ;; *) echo \"$p $$\" >> overlaps ;; esac; fi; echo $$ > busy; \
         read k < kick.{job} || exit 9; sleep 0.0{}; echo $k >> seen.{job}; exit 7",
        job + 1
    )
}

/// Plays one schedule.
fn schedule(seed: u64) -> Result<(), String> {
    let env = Env::in_memory();
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut tickets: Vec<(u64, String)> = Vec::new();
    let mut stay: Vec<Child> = Vec::new();
    // The number of the last kick that was made, of the last that was answered, by job.
    let (mut made, mut answered) = ([0u64; 2], [0u64; 2]);
    for _ in 0..14 {
        let job = random.below(2);
        let index = usize::try_from(job).expect("small");
        let command = ["sh", "-c", &script(job)].map(str::to_owned);
        match random.below(10) {
            0..=4 => {
                made[index] += 1;
                std::fs::write(env.work().join(format!("kick.{job}")), format!("{}\n", made[index])).expect("ours");
                let mut kick: Child = env
                    .ts(&["-q", &command[0], &command[1], &command[2]])
                    .stdout(Stdio::piped())
                    .spawn()
                    .expect("ts runs");
                // Some kickers are killed before they can answer.
                if random.below(4) == 0 {
                    random.pause(2);
                    let _ = kick.kill();
                }
                let output = kick.wait_with_output().expect("reaped");
                let ticket = String::from_utf8_lossy(&output.stdout).trim().to_owned();
                if !ticket.is_empty() {
                    answered[index] = made[index];
                    tickets.push((job, ticket));
                }
            }
            5 | 6 => {
                let ts = env.ts(&["-f", &command[0], &command[1], &command[2]]).stderr(Stdio::null()).spawn();
                stay.push(ts.expect("ts runs"));
            }
            7 => {
                if let Some(mut ts) = stay.pop() {
                    let _ = ts.kill();
                    let _ = ts.wait();
                }
            }
            _ => {
                let role = if random.below(2) == 0 { "--lead" } else { "--heir" };
                let signals: &[&str] = if random.below(3) == 0 { &["-STOP", "-CONT"] } else { &["-KILL"] };
                if let Some(pid) = processes(&env, role).first() {
                    for signal in signals {
                        let _ = Command::new("kill").args([*signal, pid]).stderr(Stdio::null()).status();
                        random.pause(15);
                    }
                }
            }
        }
        random.pause(12);
    }
    assert_eq!(env.code(&["--resume"]), 0);
    for mut ts in stay {
        match ts.wait().expect("reaped").code() {
            // 9: its job was never kicked, and the file is not there.
            Some(7 | 9) => {}
            other => return Err(format!("a call that stays ends with {other:?}")),
        }
    }
    for (_, ticket) in &tickets {
        match env.code(&["-w", ticket]) {
            7 => {}
            other => return Err(format!("ticket {ticket} ends with {other}")),
        }
    }
    assert_eq!(env.code(&["--resume"]), 0);
    env.code(&["-w"]);
    for job in 0..2u64 {
        let last = env.lines(&format!("seen.{job}")).iter().filter_map(|line| line.parse().ok()).max().unwrap_or(0);
        let owed = answered[usize::try_from(job).expect("small")];
        if last < owed {
            return Err(format!("job {job}: kick {owed} was answered, and {last} is the last that a run has seen"));
        }
    }
    match env.lines("overlaps").as_slice() {
        [] => Ok(()),
        overlaps => Err(format!("overlaps: {overlaps:?}")),
    }
}

fn schedules(seeds: impl Iterator<Item = u64>) {
    let (mut count, mut failures) = (0, Vec::new());
    for seed in seeds {
        count += 1;
        if let Err(error) = schedule(seed) {
            failures.push(format!("STACKTIRA_SEED={seed}: {error}"));
        }
    }
    let _ = writeln!(std::io::stderr(), "survived {}/{count} schedules", count - failures.len());
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn thousands_of_kicks_from_many_callers_lose_none() {
    crowd(32 * CALLERS);
}

#[test]
#[ignore = "takes minutes"]
fn a_million_kicks_lose_none() {
    crowd(std::env::var("STACKTIRA_KICKS").map_or(1_000_000, |kicks| kicks.parse().expect("a number")));
}

#[test]
fn kicks_among_kills_are_not_lost() {
    match std::env::var("STACKTIRA_SEED") {
        Ok(seed) => schedules(std::iter::once(seed.parse().expect("a number"))),
        Err(_) => schedules(1..=12),
    }
}

#[test]
#[ignore = "takes minutes"]
fn kicks_among_kills_in_hundreds_of_schedules() {
    schedules(1000..1300);
}
