//! Child processes in groups of their own, ended as a whole.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::exit;

/// A child and everything it starts, unless that leaves the group.
#[derive(Debug)]
pub struct Group {
    child: Child,
    status: Option<ExitStatus>,
}

impl Group {
    /// Starts the command as the leader of a new process group.
    ///
    /// # Errors
    /// Those of `Command::spawn`; [`spawn_failure_code`] tells what they mean for a wrapper.
    pub fn spawn(command: &mut Command) -> std::io::Result<Group> {
        let child = command.process_group(0).spawn()?;
        Ok(Group { child, status: None })
    }

    /// Returns the child, to reach its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Returns the process id, which is the group's too.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the child as long as it takes.
    ///
    /// # Errors
    /// Those of waitpid(2).
    pub fn wait(&mut self) -> std::io::Result<ExitStatus> {
        let status = self.child.wait()?;
        self.status = Some(status);
        Ok(status)
    }

    /// Returns the child's status if it has ended.
    ///
    /// # Errors
    /// Those of waitpid(2).
    pub fn try_wait(&mut self) -> std::io::Result<Option<ExitStatus>> {
        if let Some(status) = self.child.try_wait()? {
            self.status = Some(status);
        }
        Ok(self.status)
    }

    /// Waits until `deadline`; `None` when the child still runs then.
    ///
    /// # Errors
    /// Those of waitpid(2).
    pub fn wait_until(&mut self, deadline: Instant) -> std::io::Result<Option<ExitStatus>> {
        let mut pause = Duration::from_millis(1);
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(Some(status));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            std::thread::sleep(pause.min(left));
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    /// Sends a signal to the whole group; a group that is gone is no error.
    pub fn signal(&self, signal: Signal) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = killpg(Pid::from_raw(pid), signal);
        }
    }

    /// Asks the group to end, gives it `grace`, then kills it; reaps the child.
    ///
    /// # Errors
    /// Those of waitpid(2).
    pub fn terminate(&mut self, grace: Duration) -> std::io::Result<ExitStatus> {
        self.signal(Signal::SIGTERM);
        let status = match self.wait_until(Instant::now() + grace)? {
            Some(status) => status,
            None => {
                self.signal(Signal::SIGKILL);
                self.wait()?
            }
        };
        // What the child left behind in its group must not outlive it.
        self.signal(Signal::SIGKILL);
        Ok(status)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if self.status.is_none() {
            self.signal(Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

/// Returns the code by which a wrapper reports its child: the child's own, or 128 + signal.
#[must_use]
pub fn exit_code_of(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => u8::try_from(code & 0xff).unwrap_or(exit::WRAPPER),
        (None, Some(signal)) => u8::try_from(signal).map_or(exit::WRAPPER, |n| exit::SIGNALED.saturating_add(n)),
        (None, None) => exit::WRAPPER,
    }
}

/// Returns the wrapper's code for a command that could not be started.
#[must_use]
pub fn spawn_failure_code(error: &std::io::Error) -> u8 {
    if error.kind() == std::io::ErrorKind::NotFound { exit::NOT_FOUND } else { exit::CANNOT_RUN }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_signals_are_told() {
        let status = |script: &str| Command::new("sh").args(["-c", script]).status().expect("sh runs");
        assert_eq!(exit_code_of(status("exit 6")), 6);
        assert_eq!(exit_code_of(status("kill -9 $$")), 137);
    }

    #[test]
    fn the_whole_group_ends() {
        let dir = tempfile::tempdir().expect("scratch directory");
        let pid_file = dir.path().join("pid");
        let script =
            format!("trap '' TERM; sleep 1000 & echo $! > {0}.new; mv {0}.new {0}; wait; wait", pid_file.display());
        let mut group = Group::spawn(Command::new("sh").args(["-c", &script])).expect("sh runs");
        let deadline = Instant::now() + Duration::from_secs(10);
        while !pid_file.exists() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        let grandchild = std::fs::read_to_string(&pid_file).expect("written");
        let status = group.terminate(Duration::from_millis(100)).expect("reaped");
        assert!(!status.success());
        let gone = || match std::fs::read_to_string(format!("/proc/{}/stat", grandchild.trim())) {
            Err(_) => true,
            Ok(stat) => stat.contains(") Z "),
        };
        while !gone() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(gone());
    }

    #[test]
    fn a_deadline_passes_without_harm() {
        let mut group = Group::spawn(Command::new("sleep").arg("1000")).expect("sleep runs");
        assert!(group.wait_until(Instant::now() + Duration::from_millis(30)).expect("waitable").is_none());
    }
}
