//! Who a process is: its id, the tick at which it started, and the boot in which it did.
//!
//! A process id alone says nothing after the process has ended; together with the start tick it is
//! never met again within one boot. The identity of a run is written down by the run itself, before
//! exec, so that whoever holds the queue next can find it.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::sys;

/// Returns the identity of this boot.
pub(crate) fn boot_id() -> std::io::Result<[u64; 2]> {
    let mut buffer = [0u8; 64];
    let length = read_once("/proc/sys/kernel/random/boot_id", &mut buffer)?;
    let digits = buffer[..length].iter().filter_map(|byte| char::from(*byte).to_digit(16));
    let (count, value) = digits.fold((0, 0u128), |(count, value), digit| (count + 1, value << 4 | u128::from(digit)));
    if count != 32 {
        return Err(std::io::Error::other("/proc/sys/kernel/random/boot_id holds no boot id"));
    }
    let low = u64::try_from(value & u128::from(u64::MAX)).expect("masked to 64 bits");
    let high = u64::try_from(value >> 64).expect("shifted to 64 bits");
    Ok([high, low])
}

/// Reads a small file of the kernel, which answers one read with the whole. Allocates nothing.
fn read_once(path: &str, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut file = File::open(path)?;
    loop {
        match file.read(buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Returns the own start tick. Called between fork and exec, so it allocates nothing.
pub(crate) fn own_start_ticks() -> std::io::Result<u64> {
    let mut buffer = [0u8; 1024];
    let length = read_once("/proc/self/stat", &mut buffer)?;
    parse_stat(&buffer[..length]).map(|stat| stat.start).ok_or_else(|| std::io::ErrorKind::InvalidData.into())
}

/// Returns a number that is the same for this host and `what` at any time, and another on other hosts.
/// Machines made from one image may share a machine id, and names may be reused: both count.
pub(crate) fn host_number(what: &str) -> u64 {
    use sha2::{Digest, Sha256};
    let mut hash = Sha256::new();
    hash.update(std::fs::read("/etc/machine-id").unwrap_or_default());
    hash.update(nix::unistd::gethostname().unwrap_or_default().as_encoded_bytes());
    hash.update([0]);
    hash.update(what);
    u64::from_be_bytes(hash.finalize()[..8].try_into().expect("eight bytes"))
}

#[derive(Debug, PartialEq, Eq)]
struct Stat {
    zombie: bool,
    group: i32,
    start: u64,
}

/// Reads the fields after the name, which may itself hold spaces and parentheses.
fn parse_stat(bytes: &[u8]) -> Option<Stat> {
    let end = bytes.iter().rposition(|byte| *byte == b')')?;
    let mut fields = std::str::from_utf8(bytes.get(end + 1..)?).ok()?.split_ascii_whitespace();
    let state = fields.next()?;
    let group = fields.nth(1)?.parse().ok()?;
    let start = fields.nth(16)?.parse().ok()?;
    Some(Stat { zombie: matches!(state, "Z" | "X" | "x"), group, start })
}

/// Returns what the system knows of a process; `None` when there is none. That it cannot be told is an error.
fn stat_of(pid: i32) -> std::io::Result<Option<Stat>> {
    let mut buffer = [0u8; 1024];
    let length = read_once(&format!("/proc/{pid}/stat"), &mut buffer);
    match length {
        Ok(length) => Ok(parse_stat(&buffer[..length])),
        Err(error) if error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether the group still has a living member other than the group's leader.
pub(crate) fn group_has_others(group: i32) -> bool {
    let Ok(entries) = std::fs::read_dir("/proc") else { return false };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| *pid != group)
        .any(|pid| stat_of(pid).is_ok_and(|stat| stat.is_some_and(|stat| stat.group == group && !stat.zombie)))
}

/// A living process that has been identified beyond doubt.
#[derive(Debug)]
pub(crate) struct Process {
    pid: i32,
    start: u64,
    fd: Option<OwnedFd>,
}

impl Process {
    /// Returns the process with this id and start tick, if it still lives.
    pub(crate) fn find(pid: i32, start: u64) -> Option<Process> {
        if pid <= 0 {
            return None;
        }
        // The descriptor is opened before the tick is compared: what it names cannot change afterwards.
        // A kernel or filter without pidfd_open leaves us with looking at the tick again and again.
        let fd = sys::pidfd_open(pid).ok();
        let process = Process { pid, start, fd };
        process.alive().then_some(process)
    }

    /// Whether it still lives. While that cannot be told it does: whoever believes otherwise starts another run beside it.
    pub(crate) fn alive(&self) -> bool {
        match stat_of(self.pid) {
            Ok(stat) => stat.is_some_and(|stat| stat.start == self.start && !stat.zombie),
            Err(_) => !self.fd.as_ref().is_some_and(|fd| readable(fd, Duration::ZERO)),
        }
    }

    /// Waits for its end, at most this long; answers whether it has ended.
    pub(crate) fn wait(&self, timeout: Duration) -> bool {
        match &self.fd {
            Some(fd) => drop(readable(fd, timeout)),
            None => std::thread::sleep(timeout.min(Duration::from_millis(25))),
        }
        !self.alive()
    }

    /// Returns the descriptor to poll, where the kernel has such.
    pub(crate) fn fd(&self) -> Option<&OwnedFd> {
        self.fd.as_ref()
    }
}

fn readable(fd: &OwnedFd, timeout: Duration) -> bool {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, poll_timeout(timeout)).is_ok_and(|ready| ready > 0)
}

/// Returns the timeout for poll(2), rounded up so that a wait does not spin in its last millisecond.
pub(crate) fn poll_timeout(timeout: Duration) -> PollTimeout {
    let milliseconds = timeout.as_millis() + u128::from(!timeout.subsec_nanos().is_multiple_of(1_000_000));
    i32::try_from(milliseconds).ok().and_then(|ms| PollTimeout::try_from(ms).ok()).unwrap_or(PollTimeout::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_parentheses_do_not_confuse() {
        let mut line = b"7 (a) b) (c) S 1 42 7 0 -1 4 0 0 0 0 0 0 0 0 20 0 1 0 ".to_vec();
        line.extend_from_slice(b"98765 1 2 3");
        assert_eq!(parse_stat(&line), Some(Stat { zombie: false, group: 42, start: 98765 }));
        assert_eq!(parse_stat(b"7 (cut"), None);
        assert_eq!(parse_stat(b""), None);
    }

    #[test]
    fn we_are_who_we_are() {
        let pid = i32::try_from(std::process::id()).expect("pids are small");
        let start = own_start_ticks().expect("proc is there");
        assert!(Process::find(pid, start).is_some());
        assert!(Process::find(pid, start + 1).is_none(), "another process with a reused id is not ours");
        assert!(Process::find(0, start).is_none());
        assert_ne!(boot_id().expect("proc is there"), [0, 0]);
    }

    #[test]
    fn this_host_stays_itself() {
        assert_eq!(host_number("a"), host_number("a"));
        assert_ne!(host_number("a"), host_number("b"));
    }

    #[test]
    fn a_zombie_has_ended() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().expect("sleep runs");
        let pid = i32::try_from(child.id()).expect("pids are small");
        let start = stat_of(pid).expect("proc is there").expect("it runs").start;
        let process = Process::find(pid, start).expect("it runs");
        assert!(!process.wait(Duration::from_millis(1)));
        child.kill().expect("ours");
        while !process.wait(Duration::from_secs(10)) {}
        assert!(!process.alive(), "not reaped, and ended all the same");
        child.wait().expect("reaped");
    }
}
