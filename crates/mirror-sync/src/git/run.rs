//! Commands of git: what they may read, whom they may ask, and how long.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use toolkit::process::Group;

use super::{Git, Upstream};
use crate::error::{Error, Result};
use crate::files;

/// Largest output of one git command that is read.
const MAX_OUTPUT: u64 = 64 << 20;
/// Commands that do not touch the network end by then.
pub(super) const LOCAL: Duration = Duration::from_secs(120);

/// Configuration that every git child reads; `ROOT/gitconfig`.
pub(crate) const CONFIG: &str = "\
[safe]
\tdirectory = *
[gc]
\tauto = 0
[maintenance]
\tauto = false
[protocol]
\tversion = 2
[http]
\tfollowRedirects = initial
[advice]
\tdetachedHead = false
";

impl Git<'_> {
    /// A git command with a closed environment.
    pub(super) fn command(&self, directory: Option<&Path>, upstream: Option<&Upstream>) -> Command {
        let mut command = Command::new("git");
        closed_environment(&mut command);
        command.env("GIT_CONFIG_GLOBAL", self.store.path("gitconfig"));
        // A server may send its clients from http to https, never elsewhere.
        let protocols = match upstream.map_or("file", |upstream| upstream.protocol) {
            "http" => "http:https",
            other => other,
        };
        command.env("GIT_ALLOW_PROTOCOL", protocols);
        let stall = self.limits.stall.as_secs().max(1).to_string();
        let mut settings = vec![("http.lowSpeedLimit", "1".to_owned()), ("http.lowSpeedTime", stall)];
        if let Some(upstream) = upstream {
            if upstream.protocol == "ssh" {
                for name in ["HOME", "SSH_AUTH_SOCK"] {
                    if let Some(value) = std::env::var_os(name) {
                        command.env(name, value);
                    }
                }
                command.env("GIT_SSH_COMMAND", "ssh -o BatchMode=yes -o ConnectTimeout=10");
            } else {
                for name in ["http_proxy", "https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY", "GIT_SSL_CAINFO"] {
                    if let Some(value) = std::env::var_os(name) {
                        command.env(name, value);
                    }
                }
            }
        }
        let header;
        if let Some((base, value)) = upstream.and_then(|upstream| upstream.authorization.as_ref()) {
            // Bound to its own host: neither git nor curl takes it along to another one.
            header = format!("http.{base}.extraHeader");
            settings.push((&header, value.expose().to_owned()));
        }
        command.env("GIT_CONFIG_COUNT", settings.len().to_string());
        for (index, (key, value)) in settings.iter().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{index}"), key).env(format!("GIT_CONFIG_VALUE_{index}"), value);
        }
        if let Some(directory) = directory {
            command.arg("--git-dir").arg(directory);
        }
        command
    }

    pub(super) fn local_run(&self, command: Command, stdin: Option<Vec<u8>>, what: &str) -> Result<String> {
        self.run(command, stdin, LOCAL).map_err(|message| Error::rejected(what, message))
    }

    pub(super) fn run(
        &self,
        mut command: Command,
        stdin: Option<Vec<u8>>,
        limit: Duration,
    ) -> std::result::Result<String, String> {
        command.stdin(match (&stdin, self.lock) {
            (Some(_), _) => Stdio::piped(),
            (None, Some(lock)) => Stdio::from(lock.file().try_clone().map_err(|error| error.to_string())?),
            (None, None) => Stdio::null(),
        });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut group = Group::spawn(&mut command).map_err(|error| format!("cannot run git: {error}"))?;
        let child = group.child();
        let (input, output, errors) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let read = |pipe: Option<Box<dyn Read + Send>>, limit| {
            pipe.map_or_else(|| Ok(Vec::new()), |pipe| files::read_to_limit(pipe, limit))
        };
        let boxed = |pipe: std::process::ChildStderr| Box::new(pipe) as Box<dyn Read + Send>;
        let deadline = Instant::now() + limit;
        std::thread::scope(|scope| {
            let writer = input.zip(stdin).map(|(mut pipe, bytes)| scope.spawn(move || pipe.write_all(&bytes)));
            let output =
                scope.spawn(move || read(output.map(|pipe| Box::new(pipe) as Box<dyn Read + Send>), MAX_OUTPUT));
            let errors = scope.spawn(move || read(errors.map(boxed), 1 << 20));
            let status = match group.wait_until(deadline).map_err(|error| error.to_string())? {
                Some(status) => {
                    // Nothing of the command outlives it, so the pipes end.
                    group.signal(nix::sys::signal::Signal::SIGKILL);
                    status
                }
                None => {
                    group.terminate(Duration::from_secs(1)).map_err(|error| error.to_string())?;
                    return Err(format!("not done after {}", toolkit::duration::format(limit)));
                }
            };
            let joined = "a reader does not panic";
            let errors = errors.join().expect(joined).unwrap_or_default();
            let written = writer.map(|writer| writer.join().expect(joined));
            if !status.success() {
                return Err(last_words(&errors).unwrap_or_else(|| format!("git failed: {status}")));
            }
            if let Some(Err(error)) = written {
                return Err(format!("git did not read its input: {error}"));
            }
            let output = output.join().expect(joined).map_err(|error| format!("git's output: {error}"))?;
            String::from_utf8(output).map_err(|_| "git's output is not UTF-8".to_owned())
        })
    }
}

/// Leaves a git child only what it needs.
pub(crate) fn closed_environment(command: &mut Command) {
    command.env_clear();
    command.env("PATH", std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into()));
    command.env("LC_ALL", "C").env("HOME", "/nonexistent");
    command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_TERMINAL_PROMPT", "0");
}

/// Returns the line of git's complaint that says most: the first `fatal:` or `error:`, else the last line.
fn last_words(errors: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(errors);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let line = lines.iter().find(|line| line.starts_with("fatal:")).or_else(|| lines.last())?;
    Some(line.trim_start_matches("fatal: ").chars().take(300).collect())
}
