//! Signals as data: a handler only notes the signal and writes a byte to a pipe that can be polled.

use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use nix::fcntl::OFlag;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

static LAST: AtomicI32 = AtomicI32::new(0);
static HANGUPS: AtomicU32 = AtomicU32::new(0);
static WRITER: AtomicI32 = AtomicI32::new(-1);
static READER: OnceLock<OwnedFd> = OnceLock::new();

/// The process's signal notes, after [`Notes::install`].
#[derive(Debug, Clone, Copy)]
pub struct Notes(());

impl Notes {
    /// Handles TERM, INT and HUP from now on. Calling it again is harmless.
    ///
    /// # Errors
    /// No pipe, or the system refuses the handler.
    pub fn install() -> std::io::Result<Notes> {
        if READER.get().is_none() {
            let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
            if READER.set(reader).is_ok() {
                WRITER.store(writer.into_raw_fd(), Ordering::SeqCst);
            }
        }
        let action = SigAction::new(SigHandler::Handler(note), SaFlags::SA_RESTART, SigSet::empty());
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            // SAFETY: `note` only touches atomics and calls write(2), both async-signal-safe.
            unsafe { sigaction(signal, &action) }?;
        }
        Ok(Notes(()))
    }

    /// Returns the number of the last TERM or INT that arrived, if any.
    #[must_use]
    pub fn termination(self) -> Option<i32> {
        match LAST.load(Ordering::SeqCst) {
            0 => None,
            number => Some(number),
        }
    }

    /// Returns how many HUPs have arrived so far.
    #[must_use]
    pub fn hangups(self) -> u32 {
        HANGUPS.load(Ordering::SeqCst)
    }

    /// Returns a descriptor that becomes readable when a signal arrives.
    #[must_use]
    pub fn fd(self) -> BorrowedFd<'static> {
        READER.get().expect("set by install").as_fd()
    }

    /// Takes the bytes that made [`Notes::fd`] readable.
    pub fn drain(self) {
        let mut bytes = [0; 64];
        while matches!(nix::unistd::read(self.fd(), &mut bytes), Ok(count) if count > 0) {}
    }

    /// Sleeps until a signal arrives or `limit` has passed; returns whether one arrived.
    ///
    /// Only one thread should wait here: a byte wakes one reader.
    pub fn wait(self, limit: std::time::Duration) -> bool {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let mut fds = [PollFd::new(self.fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        let arrived = matches!(poll(&mut fds, timeout), Ok(count) if count > 0);
        if arrived {
            self.drain();
        }
        arrived
    }
}

extern "C" fn note(number: i32) {
    if number == Signal::SIGHUP as i32 {
        HANGUPS.fetch_add(1, Ordering::SeqCst);
    } else {
        LAST.store(number, Ordering::SeqCst);
    }
    let writer = WRITER.load(Ordering::SeqCst);
    if writer >= 0 {
        let errno = nix::errno::Errno::last_raw();
        // SAFETY: the pipe is never closed, and a full pipe (EAGAIN) already wakes the reader.
        unsafe { libc::write(writer, [0u8].as_ptr().cast(), 1) };
        nix::errno::Errno::set_raw(errno);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_hangup_is_counted_and_wakes() {
        let notes = Notes::install().expect("handlers");
        let before = notes.hangups();
        nix::sys::signal::raise(Signal::SIGHUP).expect("raise");
        assert!(notes.wait(Duration::from_secs(5)));
        assert_eq!(notes.hangups(), before + 1);
        assert_eq!(notes.termination(), None);
    }
}
