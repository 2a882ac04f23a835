//! The real binary: who leads, what happens to the command, and what a crash leaves.
#![allow(clippy::unwrap_used, reason = "a test that panics says what failed")]

mod once;
mod real;
mod run;
mod slot;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use test_support::consul::FakeConsul;

fn command(url: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_consul-elect"));
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("CONSUL_HTTP_ADDR", url)
        .args(arguments)
        .stdin(Stdio::null());
    command
}

#[track_caller]
fn elect(url: &str, arguments: &[&str]) -> (i32, String, String) {
    said(&command(url, arguments).output().unwrap())
}

#[track_caller]
fn said(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

/// Waits for a condition, not for a time.
#[track_caller]
fn eventually(limit: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A leader whose command writes its process id, and a line to a file every 50 ms, from a child of its own.
struct Worker {
    owner: Child,
    dir: tempfile::TempDir,
}

impl Worker {
    fn start(url: &str, options: &[&str], before: &str) -> Worker {
        let dir = tempfile::tempdir().unwrap();
        let script = format!(
            "{before}\n(while :; do echo x >> '{0}/beats'; sleep 0.05; done) &\necho $! > '{0}/pid'; wait; wait",
            dir.path().display()
        );
        let mut arguments = vec!["run"];
        arguments.extend_from_slice(options);
        arguments.extend_from_slice(&["db", "--", "sh", "-c", &script]);
        let owner = command(url, &arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let worker = Worker { owner, dir };
        eventually(Duration::from_secs(10), "the command works", || worker.beats() > 0);
        worker
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn beats(&self) -> usize {
        std::fs::read(self.path("beats")).map_or(0, |text| text.len())
    }

    /// Checks that nothing of the command works any more.
    #[track_caller]
    fn is_dead(&self) {
        let before = self.beats();
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(self.beats(), before, "a part of the command still works");
    }

    fn signal(&self, signal: &str) {
        kill(signal, &self.owner.id().to_string());
    }

    /// Waits for the owner's end; returns its code and what it printed.
    #[track_caller]
    fn end(&mut self) -> (i32, String, String) {
        let (mut out, mut err) = (String::new(), String::new());
        self.owner.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        self.owner.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        (self.owner.wait().unwrap().code().unwrap(), out, err)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // After a failed assertion it may still run.
        drop(self.owner.kill());
        drop(self.owner.wait());
    }
}

fn kill(signal: &str, process: &str) {
    assert!(Command::new("kill").args([signal, process]).status().unwrap().success());
}

/// Returns the children of a process.
fn children(process: u32) -> Vec<String> {
    let list = std::fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap_or_default();
    list.split_whitespace().map(str::to_owned).collect()
}

fn lines(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn leads(consul: &FakeConsul) -> bool {
    consul.get("stacktira/leader/db").is_some()
}
