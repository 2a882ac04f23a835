//! The lock of a queue: flock(2) on the queue's own directory.
//!
//! Whoever holds it leads: adopts, runs, publishes. Three things differ from `toolkit::lock`. The lock is
//! taken on the directory, so a full disk cannot keep it from being there. Closing the descriptor does not
//! unlock while another process shares it: the child between fork and exec does (the descriptor is
//! close-on-exec, so exec ends that), and so does a background leader that is handed the lock as its stdin.
//! Giving the lock up is therefore a call of its own, made only when nobody shares it.

use std::fs::{File, TryLockError};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::process::Stdio;

/// The lock, held. Dropping it closes the descriptor and unlocks nothing that is shared.
#[derive(Debug)]
pub(crate) struct QueueLock(File);

impl QueueLock {
    /// Takes the lock if it is free.
    pub(crate) fn try_take(dir: &Path) -> std::io::Result<Option<QueueLock>> {
        let file = open(dir)?;
        loop {
            return match file.try_lock() {
                Ok(()) => Ok(Some(QueueLock(file))),
                Err(TryLockError::WouldBlock) => Ok(None),
                Err(TryLockError::Error(error)) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(TryLockError::Error(error)) => Err(error),
            };
        }
    }

    /// Waits for the lock.
    pub(crate) fn take(dir: &Path) -> std::io::Result<QueueLock> {
        let file = open(dir)?;
        loop {
            match file.lock() {
                Ok(()) => return Ok(QueueLock(file)),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes over the lock that was handed to this process as its stdin, or takes it, if what was handed is the
    /// directory alone ([`QueueLock::offered`]); `None` when somebody else has it.
    pub(crate) fn from_stdin(dir: &Path) -> std::io::Result<Option<QueueLock>> {
        let stdin = std::io::stdin();
        let file = File::from(stdin.as_fd().try_clone_to_owned()?);
        let (ours, queue) = (file.metadata()?, std::fs::metadata(dir)?);
        if (ours.dev(), ours.ino()) != (queue.dev(), queue.ino()) {
            return Err(std::io::Error::other("stdin is not the lock of this queue"));
        }
        match file.try_lock() {
            Ok(()) => Ok(Some(QueueLock(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Whether this is the lock of the directory that has this name now.
    pub(crate) fn is_of(&self, dir: &Path) -> bool {
        let identity = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
        let (ours, named) = (self.0.metadata().map(identity), std::fs::symlink_metadata(dir).map(identity));
        matches!((ours, named), (Ok(ours), Ok(named)) if ours == named)
    }

    /// Gives the lock up for everybody who shares it.
    pub(crate) fn release(self) -> std::io::Result<()> {
        self.0.unlock()
    }

    /// Returns the stdin of a process that is to take the lock by itself, if it is free.
    pub(crate) fn offered(dir: &Path) -> std::io::Result<Stdio> {
        open(dir).map(Stdio::from)
    }

    /// Turns the lock into the stdin of a process that will hold it from then on.
    pub(crate) fn handed_over(&self) -> std::io::Result<Stdio> {
        Ok(Stdio::from(self.0.try_clone()?))
    }
}

fn open(dir: &Path) -> std::io::Result<File> {
    std::fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW).open(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_at_a_time() {
        let dir = tempfile::tempdir().expect("scratch directory");
        let lock = QueueLock::try_take(dir.path()).expect("lockable").expect("free");
        assert!(QueueLock::try_take(dir.path()).expect("lockable").is_none());
        lock.release().expect("ours");
        assert!(QueueLock::try_take(dir.path()).expect("lockable").is_some());
    }

    #[test]
    fn whoever_was_handed_the_lock_holds_it_on() {
        let dir = tempfile::tempdir().expect("scratch directory");
        let lock = QueueLock::try_take(dir.path()).expect("lockable").expect("free");
        let mut heir = std::process::Command::new("sleep")
            .arg("1000")
            .stdin(lock.handed_over().expect("can be shared"))
            .spawn()
            .expect("sleep runs");
        assert!(lock.is_of(dir.path()) && !lock.is_of(Path::new("/")) && !lock.is_of(&dir.path().join("none")));
        drop(lock);
        assert!(QueueLock::try_take(dir.path()).expect("lockable").is_none());
        heir.kill().expect("ours");
        heir.wait().expect("reaped");
        assert!(QueueLock::try_take(dir.path()).expect("lockable").is_some());
    }
}
