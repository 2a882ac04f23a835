//! The real `ts`: many processes, one state directory, and everything that can be killed is.

mod chaos;
mod coalesce;
mod crash;
mod heir;
mod limits;
mod model;
mod puppet;
mod report;
mod schedule;
mod status;
mod sweep;
mod unsafe_state;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use serde_json::Value;

/// A scratch state directory and a place for the commands under test to leave marks.
pub(crate) struct Env {
    dir: tempfile::TempDir,
    /// Nothing is left that would have to be stopped.
    idle: std::sync::atomic::AtomicBool,
}

/// Returns the `ts` under test: cargo's, or the one in the directory that `STACKTIRA_BINARIES` names.
pub(crate) fn program() -> PathBuf {
    match std::env::var_os("STACKTIRA_BINARIES").filter(|directory| !directory.is_empty()) {
        Some(directory) => {
            std::fs::canonicalize(Path::new(&directory).join("ts")).expect("STACKTIRA_BINARIES has a ts")
        }
        None => env!("CARGO_BIN_EXE_ts").into(),
    }
}

impl Env {
    pub(crate) fn new() -> Env {
        Env::at(tempfile::tempdir().expect("scratch directory"))
    }

    /// Like [`Env::new`], where files cost least.
    pub(crate) fn in_memory() -> Env {
        tempfile::tempdir_in("/dev/shm").map_or_else(|_| Env::new(), Env::at)
    }

    fn at(dir: tempfile::TempDir) -> Env {
        let env = Env { dir, idle: false.into() };
        std::fs::create_dir(env.path("work")).expect("made");
        env
    }

    /// Says that nothing is left to be stopped at the end.
    pub(crate) fn is_idle(&self) {
        self.idle.store(true, SeqCst);
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Returns `ts` with these arguments, in a clean environment and in the work directory.
    pub(crate) fn ts(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.args(args).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("TS_DIR", self.path("state"));
        command
            .env("TS_SCOPE", "0")
            .env("TS_PUPPET_LOCK", "0")
            .current_dir(self.path("work"))
            .stdin(std::process::Stdio::null());
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.ts(args).output().expect("ts runs")
    }

    /// Runs `ts` and returns its status.
    pub(crate) fn code(&self, args: &[&str]) -> i32 {
        self.run(args).status.code().expect("ts is not killed")
    }

    /// Kicks and returns the ticket.
    pub(crate) fn kick(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let ticket = String::from_utf8(output.stdout).expect("a number").trim().to_owned();
        assert!(ticket.parse::<u64>().is_ok(), "{ticket}");
        ticket
    }

    pub(crate) fn json(&self, args: &[&str]) -> Vec<Value> {
        let output = self.run(args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).expect("JSON is UTF-8");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    pub(crate) fn status(&self) -> Value {
        self.json(&["-s", "--json"]).remove(0)
    }

    /// Returns the lines of a mark in the work directory.
    pub(crate) fn lines(&self, name: &str) -> Vec<String> {
        std::fs::read_to_string(self.path("work").join(name))
            .map(|text| text.lines().map(str::to_owned).collect())
            .unwrap_or_default()
    }

    /// Waits for a mark with this many whole lines.
    pub(crate) fn await_lines(&self, name: &str, count: usize) -> Vec<String> {
        eventually(&format!("{count} lines in {name}"), || {
            let text = std::fs::read_to_string(self.path("work").join(name)).unwrap_or_default();
            text.matches('\n').count() >= count
        });
        self.lines(name)
    }

    pub(crate) fn touch(&self, name: &str) {
        std::fs::write(self.path("work").join(name), "").expect("ours");
    }

    pub(crate) fn work(&self) -> PathBuf {
        self.path("work")
    }
}

impl Drop for Env {
    fn drop(&mut self) {
        if self.idle.load(SeqCst) {
            return;
        }
        // Nothing of ours outlives the test: no retry, no child, no leader.
        if let Ok(queues) = std::fs::read_dir(self.path("state")) {
            for queue in queues.flatten() {
                let name = queue.file_name();
                let name = name.to_str().unwrap_or("default");
                let _ = self.ts(&["-Q", name, "--disable", "the test is over"]).output();
                let _ = self.ts(&["-Q", name, "-k"]).output();
            }
        }
    }
}

/// Says why a test did nothing here.
pub(crate) fn skipped(why: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
}

/// Waits for a condition, long enough for a busy machine.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Kills a process the hard way and waits until it is gone, or a zombie that nobody reaps.
pub(crate) fn kill(pid: &str) {
    assert!(Command::new("kill").args(["-9", pid]).status().expect("kill runs").success(), "kill -9 {pid}");
    eventually(&format!("the end of {pid}"), || !alive(pid));
}

pub(crate) fn alive(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')))
}

/// Returns the bytes that a tree takes on disk.
pub(crate) fn disk_usage(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(path) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => disk_usage(&entry.path()),
            Ok(metadata) => metadata.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}
