//! A scratch directory, and the tools in a clean environment.

use std::ffi::OsStr;
use std::io::{BufRead, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use integration_tests::{directory, tool};
use tempfile::TempDir;

/// How long a condition may take to come true.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A scratch directory with settings that hold for every tool that runs in it.
pub(crate) struct Bench {
    dir: TempDir,
    settings: Vec<(String, String)>,
}

/// What a tool left behind.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Run {
    fn from(output: Output) -> Run {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Run { code: code(output.status), out: text(&output.stdout), err: text(&output.stderr) }
    }
}

/// The code of a program that ended by itself; a signal's number, negative, for one that did not.
fn code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| -status.signal().unwrap())
}

impl Run {
    #[track_caller]
    pub(crate) fn is(self, code: i32) -> Run {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.out, self.err);
        self
    }
}

impl Bench {
    pub(crate) fn new() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        // apt's own user reads below it.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut bench = Bench { dir, settings: Vec::new() };
        bench.set("PATH", &format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", directory().display()));
        for (name, path) in [
            ("HOME", ""),
            ("TS_DIR", "ts"),
            ("STACKTIRA_ROOT", "node"),
            ("STACKTIRA_WATCH_DIR", "watch"),
            ("XDG_RUNTIME_DIR", ""),
        ] {
            let path = bench.text(path);
            bench.set(name, &path);
        }
        // Leaders stay in the tests' own process tree, and no test talks to a machine's metadata service.
        bench.set("TS_SCOPE", "0");
        bench.set("STACKTIRA_METADATA_URL", "http://127.0.0.1:1");
        bench.set("LC_ALL", "C");
        bench
    }

    /// Sets an environment variable for all tools.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.settings.retain(|(known, _)| known != name);
        self.settings.push((name.to_owned(), value.to_owned()));
    }

    pub(crate) fn setting(&self, name: &str) -> &str {
        &self.settings.iter().find(|(known, _)| known == name).unwrap().1
    }

    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.dir.path().join(relative)
    }

    pub(crate) fn text(&self, relative: &str) -> String {
        self.path(relative).to_str().unwrap().trim_end_matches('/').to_owned()
    }

    /// Writes a file, and the directories above it.
    pub(crate) fn write(&self, relative: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.path(relative);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    pub(crate) fn script(&self, relative: &str, body: &str) -> String {
        let path = self.write(relative, format!("#!/bin/sh\n{body}\n"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    pub(crate) fn lines(&self, relative: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.path(relative)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// A tool, or any other program by its path, in the scratch directory.
    pub(crate) fn command<A: AsRef<OsStr>>(&self, program: &str, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = if program.contains('/') { Command::new(program) } else { Command::new(tool(program)) };
        command.env_clear().envs(self.settings.iter().map(|(name, value)| (name, value)));
        command.args(arguments).current_dir(self.dir.path()).stdin(Stdio::null());
        command
    }

    pub(crate) fn run<A: AsRef<OsStr>>(&self, program: &str, arguments: impl IntoIterator<Item = A>) -> Run {
        self.command(program, arguments).output().unwrap().into()
    }

    /// Runs a shell script, as the provisioning does.
    pub(crate) fn sh(&self, script: &str) -> Run {
        self.run("/bin/sh", ["-c", script])
    }

    /// Starts something that goes on; it is killed when the value is dropped.
    pub(crate) fn start(&self, mut command: Command, stderr: &str) -> Running {
        let stderr = self.path(stderr);
        let child = command.stdout(Stdio::null()).stderr(std::fs::File::create(&stderr).unwrap()).spawn().unwrap();
        Running { child, stderr }
    }
}

/// A tool that goes on.
pub(crate) struct Running {
    child: Child,
    stderr: PathBuf,
}

impl Running {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(&self.stderr).unwrap()
    }

    /// Sends a signal, by its name.
    pub(crate) fn signal(&self, name: &str) {
        // The shell's own `kill`; there may be no program of that name.
        let script = format!("kill -{name} {}", self.child.id());
        assert!(Command::new("/bin/sh").args(["-c", &script]).status().unwrap().success());
    }

    /// Sends TERM and returns the code.
    pub(crate) fn end(mut self) -> i32 {
        self.signal("TERM");
        code(self.child.wait().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Waits until something holds.
#[track_caller]
pub(crate) fn until(what: &str, holds: impl FnMut() -> bool) {
    within(PATIENCE, what, holds);
}

/// Waits until something holds, this long.
#[track_caller]
pub(crate) fn within(limit: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether a program can be run; a test that needs one that cannot is skipped with a word.
#[expect(clippy::print_stderr, reason = "a skip is told to whoever runs the tests")]
pub(crate) fn has(program: &str) -> bool {
    let found = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"].iter().any(|dir| Path::new(dir).join(program).is_file());
    if !found {
        eprintln!("skipped: no {program} here");
    }
    found
}

/// The repository's top.
pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Sends a PUT to Consul without the time that starting a program takes; returns the body of the answer.
pub(crate) fn send(url: &str, path: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(url.strip_prefix("http://").unwrap()).unwrap();
    let length = body.len();
    let request =
        format!("PUT /v1/{path} HTTP/1.1\r\nHost: c\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

/// Writes many values to a key, in this order and a thousand a second, if Consul takes them as fast.
pub(crate) fn put_all(url: &str, key: &str, values: impl IntoIterator<Item = String>) {
    let mut stream = TcpStream::connect(url.strip_prefix("http://").unwrap()).unwrap();
    let mut answers = std::io::BufReader::new(stream.try_clone().unwrap());
    let values: Vec<String> = values.into_iter().collect();
    let begin = Instant::now();
    for (number, part) in values.chunks(20).enumerate() {
        let due = begin + Duration::from_millis(20) * u32::try_from(number).unwrap();
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let requests: String = part
            .iter()
            .map(|value| {
                format!("PUT /v1/kv/{key} HTTP/1.1\r\nHost: c\r\nContent-Length: {}\r\n\r\n{value}", value.len())
            })
            .collect();
        stream.write_all(requests.as_bytes()).unwrap();
        for _ in part {
            let (mut head, mut length) = (String::new(), 0);
            while !head.ends_with("\r\n\r\n") {
                let from = head.len();
                assert!(answers.read_line(&mut head).unwrap() > 0, "cut after {head}");
                let line = head[from..].to_ascii_lowercase();
                length = line.strip_prefix("content-length:").map_or(length, |text| text.trim().parse().unwrap());
            }
            let mut body = vec![0; length];
            answers.read_exact(&mut body).unwrap();
            assert!(head.starts_with("HTTP/1.1 200") && body.starts_with(b"true"), "{head}");
        }
    }
}

/// Writes a key likewise.
pub(crate) fn put(url: &str, key: &str, value: &str) {
    let answer = send(url, &format!("kv/{key}"), value);
    assert_eq!(answer.trim_end(), "true");
}
