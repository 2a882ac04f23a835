//! Programs of the system that do part of the work: run with a closed environment and a deadline, as a group that ends
//! as a whole.

use std::io::Read;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use toolkit::process::Group;

use crate::files;

/// What a program answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: ExitStatus,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Answer {
    /// Returns what it complained of, if it did not succeed: its first lines that begin so, or else how it ended.
    pub(crate) fn complaint(&self, begin: &str) -> Option<String> {
        if self.status.success() {
            return None;
        }
        let lines: Vec<&str> = self.err.lines().filter(|line| line.starts_with(begin)).take(3).collect();
        Some(if lines.is_empty() { self.status.to_string() } else { lines.join("; ") })
    }
}

/// Most that is read of an output.
const MAX_OUTPUT: u64 = 64 << 20;
/// What a program may take to end when it is asked to.
const GRACE: Duration = Duration::from_secs(5);

/// A command with nothing of the caller's environment but its PATH and, by name, `more`.
pub(crate) fn command(program: &str, more: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("LC_ALL", "C");
    command.env("PATH", std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into()));
    for name in more {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
}

/// Whether a program is on the PATH.
pub(crate) fn is_there(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|directory| directory.join(program).is_file()))
}

/// Runs a command to its end, or to the limit of time.
///
/// # Errors
/// Why it did not run to its end.
pub(crate) fn run(command: &mut Command, limit: Duration) -> Result<Answer, String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut group = Group::spawn(command).map_err(|error| format!("cannot run: {error}"))?;
    let child = group.child();
    let out = child.stdout.take().expect("stdout is piped");
    let err = child.stderr.take().expect("stderr is piped");
    std::thread::scope(|scope| {
        let out = scope.spawn(move || text(out));
        let err = scope.spawn(move || text(err));
        let status = match group.wait_until(Instant::now() + limit).map_err(|error| error.to_string())? {
            Some(status) => status,
            None => {
                group.terminate(GRACE).map_err(|error| error.to_string())?;
                return Err(format!("not done after {}", toolkit::duration::format(limit)));
            }
        };
        // Whatever still holds the pipes is ended, so that the readers end.
        group.signal(nix::sys::signal::Signal::SIGKILL);
        let joined = "a reader does not panic";
        Ok(Answer { status, out: out.join().expect(joined)?, err: err.join().expect(joined)? })
    })
}

fn text(pipe: impl Read) -> Result<String, String> {
    let bytes = files::read_to_limit(pipe, MAX_OUTPUT).map_err(|error| format!("its output: {error}"))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_end_is_ended_and_nothing_outlives_it() {
        let mut shell = command("sh", &[]);
        let answer = run(shell.args(["-c", "echo out; echo err >&2; sleep 100 & exit 3"]), Duration::from_secs(20));
        let answer = answer.expect("ends");
        assert_eq!((answer.status.code(), &*answer.out, &*answer.err), (Some(3), "out\n", "err\n"));
        assert_eq!(answer.complaint("e").as_deref(), Some("err"));
        assert_eq!(answer.complaint("E:").as_deref(), Some("exit status: 3"));
        let mut sleep = command("sleep", &[]);
        let why = run(sleep.arg("100"), Duration::from_millis(50)).expect_err("is ended");
        assert!(why.contains("not done"), "{why}");
        assert!(run(&mut command("no-such-program", &[]), Duration::from_secs(1)).is_err());
    }
}
