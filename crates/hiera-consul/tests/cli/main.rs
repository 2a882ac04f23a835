//! The real binary: streams, codes, signals, files, Consul and Puppet.

mod check;
mod consul;
mod faults;
mod kept;
mod lookup;
mod puppet;
mod serve;
mod transfer;
mod version3;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A directory of its own and the binary with a clean environment.
struct Scratch {
    dir: tempfile::TempDir,
}

impl Scratch {
    fn new() -> Scratch {
        Scratch { dir: tempfile::tempdir().expect("a directory") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("mkdir");
        std::fs::write(&path, text).expect("write");
        path
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hiera-consul"));
        command.env_clear().env("STACKTIRA_ROOT", self.dir.path()).current_dir(self.dir.path());
        command
    }

    fn lookup(&self, args: &[&str]) -> Ran {
        self.command().arg("lookup").args(args).output().expect("it runs").into()
    }

    /// Runs with a global configuration and JSON output.
    fn global(&self, config: &Path, args: &[&str]) -> Ran {
        let config = config.to_str().expect("UTF-8");
        self.lookup(&[&["--hiera_config", config, "--render-as", "json"], args].concat())
    }
}

/// What a run left.
#[derive(Debug, PartialEq)]
struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Ran {
        Ran {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).expect("UTF-8"),
            err: String::from_utf8(output.stderr).expect("UTF-8"),
        }
    }
}

impl Ran {
    #[track_caller]
    fn found(&self, out: &str) {
        assert_eq!((self.code, self.out.as_str()), (0, format!("{out}\n").as_str()), "{}", self.err);
    }

    #[track_caller]
    fn failed(&self, code: i32, words: &[&str]) {
        assert_eq!((self.code, self.out.as_str()), (code, ""), "{}", self.err);
        let first = self.err.lines().find(|line| line.contains("error: ")).unwrap_or_default();
        for word in words {
            assert!(first.contains(word), "'{word}' is not in: {}", self.err);
        }
        assert!(self.err.lines().count() <= 2, "one line and a hint: {}", self.err);
    }
}
