//! A scratch place for one test: a manifest, a root, and the binary with a bare environment.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use test_support::git::{Content, GitServer};

/// The binary under test; `STACKTIRA_BINARIES=DIR` names another one, as for the pipelines of several tools.
pub(crate) fn binary() -> PathBuf {
    std::env::var_os("STACKTIRA_BINARIES")
        .map_or_else(|| env!("CARGO_BIN_EXE_cloner").into(), |directory| Path::new(&directory).join("cloner"))
}

pub(crate) struct Scratch {
    directory: tempfile::TempDir,
}

/// What a run left behind.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("scratch") }
    }

    /// Its manifest has one repository: the server's `m.git`, at `m`.
    pub(crate) fn of(server: &GitServer) -> Self {
        let scratch = Self::new();
        scratch.manifest(&format!("m: {{source: '{}', dest: m}}\n", server.url("m.git")));
        scratch
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.directory.path().join(below)
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.path("root")
    }

    pub(crate) fn manifest(&self, text: &str) {
        std::fs::write(self.path("repos.yaml"), text).expect("written");
    }

    pub(crate) fn read(&self, below: &str) -> String {
        std::fs::read_to_string(self.root().join(below)).unwrap_or_else(|err| panic!("{below}: {err}"))
    }

    /// The command with options but without the manifest.
    pub(crate) fn command(&self, options: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.env_clear().env("HOME", self.directory.path()).current_dir(self.directory.path());
        command.arg("--root").arg(self.root()).args(options).stdin(Stdio::null());
        command
    }

    /// Runs with options before and overrides after the manifest.
    pub(crate) fn run_with(&self, options: &[&str], overrides: &[&str]) -> Ran {
        Ran::from(self.command(options).arg("repos.yaml").args(overrides).output().expect("it runs"))
    }

    pub(crate) fn run(&self, options: &[&str]) -> Ran {
        self.run_with(options, &[])
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).expect("text"),
            err: String::from_utf8(output.stderr).expect("text"),
        }
    }
}

impl Ran {
    /// Checks the exit code, showing the output if it is another.
    #[track_caller]
    pub(crate) fn code(self, expected: i32) -> Self {
        assert_eq!(self.code, expected, "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }

    /// The JSON line of a repository.
    #[track_caller]
    pub(crate) fn line(&self, name: &str) -> Value {
        self.lines()
            .into_iter()
            .find(|line| line["type"] == "repo" && line["name"] == name)
            .unwrap_or_else(|| panic!("no line for {name} in:\n{}{}", self.out, self.err))
    }

    #[track_caller]
    pub(crate) fn lines(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
    }

    #[track_caller]
    pub(crate) fn state(&self, name: &str) -> String {
        self.line(name)["state"].as_str().unwrap_or_default().to_owned()
    }

    #[track_caller]
    pub(crate) fn cause(&self, name: &str) -> String {
        self.line(name)["cause"].as_str().unwrap_or_default().to_owned()
    }
}

/// A server with one repository `m.git` that has one commit with one file.
pub(crate) fn one_file(server: &GitServer, text: &str) -> (test_support::git::Repo, String) {
    let repo = server.repo("m.git");
    let commit = repo.commit("main", &[("file", Content::File(text))]);
    (repo, commit)
}

/// Every path below `directory`.
pub(crate) fn files(directory: &Path) -> Vec<String> {
    fn walk(top: &Path, directory: &Path, out: &mut Vec<String>) {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() && !path.is_symlink() {
                walk(top, &path, out);
            } else {
                out.push(path.strip_prefix(top).expect("below").to_string_lossy().into_owned());
            }
        }
    }
    let mut out = Vec::new();
    walk(directory, directory, &mut out);
    out.sort();
    out
}

/// Says why a test cannot be made here.
pub(crate) fn skipped(why: &str) {
    said(&format!("skipped: {why}"));
}

/// Says a figure that no assertion shows.
pub(crate) fn said(figure: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "{figure}");
}
