//! Leaving the caller's systemd unit.
//!
//! A leader that is started from a service would be stopped with it, and with the leader puppet, which
//! may be what restarts that service. Where systemd runs and we are root, a background leader moves
//! itself into a transient scope. It asks systemd over the bus, by `busctl`, with its own process id:
//! unlike `systemd-run`, which would stand between the caller and the leader, this cannot hang while it
//! holds the queue's lock, because the call has a deadline and its failure leaves the leader where it was.
//! Whether it worked is read from `/proc/self/cgroup`, not believed. `TS_SCOPE=0` switches it off.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use toolkit::process::Group;

/// Limit of the call, and of the move after it.
const PATIENCE: Duration = Duration::from_secs(2);
/// Limit of the kicker's wait for both.
const READY_MS: u16 = 5_000;

/// Whether leaders move to a scope of their own here.
pub(crate) fn wanted() -> bool {
    std::env::var_os("TS_SCOPE").is_none_or(|choice| choice != "0")
        && nix::unistd::geteuid().is_root()
        && Path::new("/run/systemd/system").is_dir()
}

/// Waits until the leader says that it has moved or has given up on it; its end is an answer too.
pub(crate) fn await_ready(stdout: Option<ChildStdout>) {
    if let Some(stdout) = stdout {
        let mut fds = [PollFd::new(stdout.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, PollTimeout::from(READY_MS));
    }
}

/// Says to the kicker that it need not wait, by closing the pipe that is our stdout.
pub(crate) fn say_ready() -> std::io::Result<()> {
    let null = std::fs::OpenOptions::new().write(true).open("/dev/null")?;
    nix::unistd::dup2_stdout(&null)?;
    Ok(())
}

/// Moves this process into a scope of its own.
pub(crate) fn leave_unit() -> std::io::Result<()> {
    let before = own_unit()?;
    if before.starts_with("ts-leader-") {
        return Ok(());
    }
    let pid = std::process::id();
    let unit = format!("ts-leader-{pid}-{}.scope", crate::sys::boot_ms());
    let busctl = ["/usr/bin/busctl", "/bin/busctl"].into_iter().find(|path| Path::new(path).exists());
    let busctl = busctl.ok_or_else(|| std::io::Error::other("busctl is not installed"))?;
    let mut command = Command::new(busctl);
    command
        .args(["--quiet", "call", "org.freedesktop.systemd1", "/org/freedesktop/systemd1"])
        .args(["org.freedesktop.systemd1.Manager", "StartTransientUnit", "ssa(sv)a(sa(sv))"])
        .args([&unit, "fail", "3", "Description", "s", "ts: leader of a queue"])
        .args(["PIDs", "au", "1", &pid.to_string(), "CollectMode", "s", "inactive-or-failed", "0"])
        .stdin(Stdio::null())
        .stdout(File::options().write(true).open("/dev/null")?);
    let deadline = Instant::now() + PATIENCE;
    match Group::spawn(&mut command)?.wait_until(deadline)? {
        Some(status) if status.success() => {}
        Some(status) => return Err(std::io::Error::other(format!("busctl: {status}"))),
        None => return Err(std::io::Error::other("busctl: no answer from systemd in 2 s")),
    }
    // The call only queues the job.
    let deadline = Instant::now() + PATIENCE;
    while own_unit()? != unit {
        if Instant::now() >= deadline {
            return Err(std::io::Error::other(format!("systemd has not started {unit} in 2 s")));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Returns the last part of our control group's path in systemd's hierarchy.
fn own_unit() -> std::io::Result<String> {
    let text = std::fs::read_to_string("/proc/self/cgroup")?;
    Ok(unit_of(&text).to_owned())
}

fn unit_of(text: &str) -> &str {
    text.lines()
        .filter_map(|line| line.strip_prefix("0::").or_else(|| line.split_once(":name=systemd:").map(|(_, path)| path)))
        .next_back()
        .and_then(|path| path.rsplit('/').next())
        .unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_is_read_in_both_hierarchies() {
        assert_eq!(unit_of("0::/system.slice/ts-leader-1-2.scope\n"), "ts-leader-1-2.scope");
        assert_eq!(
            unit_of("5:cpu:/\n1:name=systemd:/system.slice/a.service\n0::/system.slice/a.service\n"),
            "a.service"
        );
        assert_eq!(unit_of("0::/\n"), "");
    }
}
