//! The few system calls that no safe wrapper of ours offers: futex, pidfd and inotify.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Sleeps until `word` no longer holds `seen`, somebody wakes it, a signal comes or `timeout` passes.
pub(crate) fn futex_wait(word: &AtomicU32, seen: u32, timeout: Duration) {
    let limit = libc::timespec {
        tv_sec: timeout.as_secs().try_into().unwrap_or(i32::MAX.into()),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    // SAFETY: the word outlives the call (it is borrowed), the timespec too, and FUTEX_WAIT only reads both.
    // Every outcome means "look again", so the result is not needed.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, seen, &raw const limit) };
}

/// Wakes everybody who sleeps on `word`, in whatever process.
pub(crate) fn futex_wake(word: &AtomicU32) {
    // SAFETY: the word is borrowed and FUTEX_WAKE does not touch memory.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, libc::c_int::MAX) };
}

/// Opens a descriptor for a process; it becomes readable when the process ends.
pub(crate) fn pidfd_open(pid: i32) -> std::io::Result<OwnedFd> {
    // SAFETY: plain numbers in, a descriptor (always close-on-exec) or -1 out.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = RawFd::try_from(fd).unwrap_or(-1);
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Returns the name of the calling thread, as the system shows it.
pub(crate) fn thread_name() -> Option<std::ffi::CString> {
    let mut name = [0u8; 16];
    // SAFETY: PR_GET_NAME writes at most 16 bytes, a zero among them, to the buffer, which has that length.
    let got = unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    if got != 0 {
        return None;
    }
    std::ffi::CStr::from_bytes_until_nul(&name).ok().map(std::ffi::CStr::to_owned)
}

/// Gives the calling thread a name, of which the system keeps 15 bytes.
pub(crate) fn set_thread_name(name: &std::ffi::CStr) {
    // SAFETY: PR_SET_NAME reads a C string; `name` is one for the length of the call.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// Watches files for writes; the descriptor is readable after one.
#[derive(Debug)]
pub(crate) struct Writes(OwnedFd);

impl Writes {
    /// Watches `paths`; `None` when the system has no watch left, and then the caller polls.
    pub(crate) fn of(paths: &[&Path]) -> Option<Writes> {
        // SAFETY: plain flags in, a descriptor or -1 out.
        let fd = unsafe { libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK) };
        if fd < 0 {
            return None;
        }
        // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        for path in paths {
            let path = std::ffi::CString::new(path.as_os_str().as_bytes()).ok()?;
            // SAFETY: the path is a valid C string for the length of the call.
            let watch = unsafe { libc::inotify_add_watch(fd.as_raw_fd(), path.as_ptr(), libc::IN_MODIFY) };
            if watch < 0 {
                return None;
            }
        }
        Some(Writes(fd))
    }

    /// Forgets the writes seen so far.
    pub(crate) fn drain(&self) {
        let mut buffer = [0u8; 4096];
        while nix::unistd::read(&self.0, &mut buffer).is_ok_and(|count| count > 0) {}
    }

    /// Returns the descriptor to poll.
    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.0
    }
}

/// Returns the milliseconds since boot, suspend included; no clock step changes it.
pub(crate) fn boot_ms() -> u64 {
    milliseconds(ClockId::CLOCK_BOOTTIME)
}

/// Returns the wall clock as milliseconds since 1970; only ever shown to people.
pub(crate) fn unix_ms() -> u64 {
    milliseconds(ClockId::CLOCK_REALTIME)
}

fn milliseconds(clock: ClockId) -> u64 {
    clock_gettime(clock).map_or(0, |time| {
        let time = Duration::from(time);
        u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_wait_ends_at_its_limit_or_at_once_when_the_word_has_changed() {
        let word = AtomicU32::new(1);
        let start = std::time::Instant::now();
        futex_wait(&word, 0, Duration::from_secs(60));
        futex_wait(&word, 1, Duration::from_millis(5));
        assert!(start.elapsed() < Duration::from_secs(30));
        futex_wake(&word);
    }

    #[test]
    fn a_pidfd_is_given_for_the_living_only() {
        let pid = i32::try_from(std::process::id()).expect("pids are small");
        assert!(pidfd_open(pid).is_ok());
        assert!(pidfd_open(i32::MAX).is_err());
    }

    #[test]
    fn a_thread_has_the_name_it_was_given() {
        set_thread_name(c"a name of many letters");
        assert_eq!(thread_name().as_deref(), Some(c"a name of many "));
    }

    #[test]
    fn writes_are_seen() {
        let mut file = tempfile::NamedTempFile::new().expect("scratch file");
        let writes = Writes::of(&[file.path()]).expect("a watch is left");
        file.write_all(b"x").expect("written");
        let mut fds = [nix::poll::PollFd::new(std::os::fd::AsFd::as_fd(writes.fd()), nix::poll::PollFlags::POLLIN)];
        assert_eq!(nix::poll::poll(&mut fds, 10_000u16), Ok(1));
        writes.drain();
        assert_eq!(nix::poll::poll(&mut fds, 0u8), Ok(0));
    }
}
