//! `--on-change`: one program that is told, once, what a run has changed.
//!
//! What is about to change is noted in `<root>/.cloner/changed` before the first tree is placed, and
//! the note goes when the program has taken it. So a change is told exactly once, except after a
//! kill or a failure of the program: then the next run with `--on-change` tells it again, also when
//! it changes nothing itself.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use toolkit::process::{Group, exit_code_of};

use crate::report::Line;

/// Most bytes of the note that are read.
const MAX_NOTE: u64 = 16 << 20;

/// The program and the note of what it is yet to be told.
#[derive(Debug)]
pub(crate) struct Hook {
    program: PathBuf,
    note: PathBuf,
    limit: Duration,
    /// Changes that earlier runs noted and nobody was told.
    left: Vec<Value>,
}

impl Hook {
    /// Prepares to tell `program`, which may take as long as `limit`.
    pub(crate) fn new(program: &Path, state: &Path, limit: Duration) -> std::io::Result<Self> {
        let note = state.join("changed");
        let mut text = Vec::new();
        let opened = std::fs::OpenOptions::new().read(true).custom_flags(nix::libc::O_NOFOLLOW).open(&note);
        match opened {
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => {}
            opened => drop(opened?.take(MAX_NOTE).read_to_end(&mut text)?),
        }
        let lines = text.split(|byte| *byte == b'\n');
        let left = lines.filter_map(|line| serde_json::from_slice(line).ok()).filter(Value::is_object).collect();
        // A plain name means a file here, never one of the search path.
        Ok(Self { program: std::path::absolute(program)?, note, limit, left })
    }

    /// Notes what is about to change.
    pub(crate) fn announce(&mut self, lines: &[Line]) -> std::io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        self.left = self.with(&lines.iter().collect::<Vec<_>>());
        self.write()
    }

    /// Tells the program what has changed, by this run and by those that could not tell.
    ///
    /// # Errors
    /// A message; the note stays for the next run.
    pub(crate) fn tell(&mut self, lines: &[&Line]) -> Result<(), String> {
        self.left = self.with(lines);
        if self.left.is_empty() {
            return Ok(());
        }
        let fail = |what: &str| format!("--on-change {}: {what}", self.program.display());
        let disk = |err: std::io::Error| fail(&format!("{}: {err}", self.note.display()));
        self.write().map_err(disk)?;
        self.run().map_err(|why| fail(&why))?;
        std::fs::remove_file(&self.note).map_err(disk)
    }

    /// Returns the notes with `lines` instead of those for the same places.
    fn with(&self, lines: &[&Line]) -> Vec<Value> {
        let new: Vec<Value> = lines.iter().filter_map(|line| serde_json::to_value(line).ok()).collect();
        let told = |old: &&Value| new.iter().all(|new| new["dest"] != old["dest"]);
        self.left.iter().filter(told).chain(&new).cloned().collect()
    }

    fn text(&self) -> Vec<u8> {
        self.left.iter().flat_map(|line| format!("{line}\n").into_bytes()).collect()
    }

    fn write(&self) -> std::io::Result<()> {
        toolkit::atomic::write(&self.note, &self.text(), 0o600).map(drop)
    }

    fn run(&self) -> Result<(), String> {
        let mut command = Command::new(&self.program);
        // stdout is for our own data.
        let stderr = std::io::stderr();
        let stdout = std::os::fd::AsFd::as_fd(&stderr).try_clone_to_owned().map_or_else(|_| Stdio::null(), Stdio::from);
        command.stdin(Stdio::piped()).stdout(stdout);
        let deadline = Instant::now() + self.limit;
        let mut group = Group::spawn(&mut command).map_err(|err| format!("cannot run it: {err}"))?;
        if let Some(mut stdin) = group.child().stdin.take() {
            let text = self.text();
            // It need not read, and must not hold us up by that.
            std::thread::spawn(move || drop(stdin.write_all(&text)));
        }
        match group.wait_until(deadline) {
            Err(err) => Err(err.to_string()),
            Ok(None) => {
                let _ = group.terminate(Duration::from_secs(2));
                Err(format!("ended after {}", toolkit::duration::format(self.limit)))
            }
            Ok(Some(status)) if status.success() => Ok(()),
            Ok(Some(status)) => Err(format!("it ended with {}", exit_code_of(status))),
        }
    }
}
