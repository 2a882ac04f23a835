//! A scratch directory, the binary in it, and what its commands wrote.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use test_support::consul::FakeConsul;

pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

pub(crate) struct Bench {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) consul: FakeConsul,
}

impl Bench {
    pub(crate) fn new() -> Bench {
        Bench { dir: tempfile::tempdir().expect("scratch directory"), consul: FakeConsul::start() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn client(&self) -> consul_client::Client {
        let url = self.consul.url();
        let config = consul_client::Config::from_env(|name| (name == "CONSUL_HTTP_ADDR").then(|| url.clone().into()));
        consul_client::Client::new(&config.expect("an address")).expect("usable")
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_consul-watch-handler"));
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.dir.path())
            .env("STACKTIRA_WATCH_DIR", self.path("state"))
            .env("CONSUL_HTTP_ADDR", self.consul.url());
        command
    }

    /// Runs `handle` with a payload on stdin.
    pub(crate) fn handle(&self, arguments: &[&str], payload: &str) -> Output {
        let mut child = self
            .command()
            .arg("handle")
            .args(arguments)
            .env("CONSUL_INDEX", "42")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it runs");
        // It may refuse before it has read everything.
        let _ = child.stdin.take().expect("piped").write_all(format!("{payload}\n").as_bytes());
        child.wait_with_output().expect("it ends")
    }

    /// Writes a script that appends its payload as a line to `NAME.log`, and returns its path.
    pub(crate) fn recorder(&self, name: &str) -> String {
        self.script(name, &format!("cat >> {}", self.path(&format!("{name}.log")).display()))
    }

    pub(crate) fn script(&self, name: &str, body: &str) -> String {
        use std::os::unix::fs::OpenOptionsExt;
        let path = self.path(&format!("{name}.sh"));
        let mut file =
            std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o755).open(&path).expect("made");
        write!(file, "#!/bin/sh\n{body}\n").expect("written");
        path.to_str().expect("a plain path").to_owned()
    }

    /// Returns the payloads that a recorder got.
    pub(crate) fn log(&self, name: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Starts `watch` with a configuration, on the small Consul, with a token in its environment.
    pub(crate) fn watch(&self, config: &str) -> Watch {
        let mut command = self.command();
        command.env("CONSUL_HTTP_TOKEN", "secret-token");
        self.start(command, config)
    }

    /// Starts `watch` with a configuration and variables, on the small Consul.
    pub(crate) fn watch_with(&self, config: &str, variables: &[(&str, &str)]) -> Watch {
        let mut command = self.command();
        command.envs(variables.iter().copied());
        self.start(command, config)
    }

    /// Starts `watch` with a configuration, on another Consul.
    pub(crate) fn watch_at(&self, url: &str, config: &str) -> Watch {
        let mut command = self.command();
        command.env("CONSUL_HTTP_ADDR", url);
        self.start(command, config)
    }

    fn start(&self, mut command: Command, config: &str) -> Watch {
        std::fs::write(self.path("watch.yaml"), config).expect("written");
        let errors = std::fs::File::create(self.path("stderr")).expect("made");
        let child = command
            .args(["-vv", "watch"])
            .arg(self.path("watch.yaml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
            .expect("it runs");
        Watch { child, stderr: self.path("stderr") }
    }
}

pub(crate) struct Watch {
    child: Child,
    stderr: PathBuf,
}

impl Watch {
    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).expect("a pid")), signal).expect("it is ours");
    }

    /// Sends SIGTERM and returns the code and how long the end took.
    pub(crate) fn end(mut self) -> (Option<i32>, Duration) {
        let start = Instant::now();
        self.signal(Signal::SIGTERM);
        let code = self.child.wait().expect("it ends").code();
        (code, start.elapsed())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until something holds.
#[track_caller]
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) fn pause(milliseconds: u64) {
    std::thread::sleep(Duration::from_millis(milliseconds));
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub(crate) fn alive(pid: &str) -> bool {
    match std::fs::read_to_string(Path::new("/proc").join(pid.trim()).join("stat")) {
        Ok(stat) => !stat.contains(") Z "),
        Err(_) => false,
    }
}
