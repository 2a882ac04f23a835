//! Advisory locks on files by flock(2).
//!
//! The descriptor is close-on-exec, so children do not hold the lock, and the kernel releases it when
//! the holder dies, however it dies. Lock files are never unlinked: a file that is removed while
//! somebody waits for it would be locked by two.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A lock that is held until this value is dropped.
#[derive(Debug)]
pub struct FileLock {
    file: File,
}

/// A lock file that cannot be opened or locked.
#[derive(Debug, thiserror::Error)]
#[error("cannot lock {}", path.display())]
pub struct LockError {
    /// The lock file.
    pub path: PathBuf,
    /// What the system said.
    pub source: std::io::Error,
}

impl FileLock {
    /// Waits for the lock as long as it takes.
    ///
    /// # Errors
    /// The file cannot be opened, or the file system has no locks.
    pub fn exclusive(path: &Path) -> Result<FileLock, LockError> {
        let file = open(path)?;
        retry(|| fs2::FileExt::lock_exclusive(&file)).map_err(|source| failed(path, source))?;
        Ok(FileLock { file })
    }

    /// Takes the lock if it is free.
    ///
    /// # Errors
    /// The file cannot be opened, or the file system has no locks.
    pub fn try_exclusive(path: &Path) -> Result<Option<FileLock>, LockError> {
        let file = open(path)?;
        match retry(|| fs2::FileExt::try_lock_exclusive(&file)) {
            Ok(()) => Ok(Some(FileLock { file })),
            Err(error) if is_contended(&error) => Ok(None),
            Err(source) => Err(failed(path, source)),
        }
    }

    /// Waits for the lock until `deadline`; `None` when it is still taken then.
    ///
    /// # Errors
    /// The file cannot be opened, or the file system has no locks.
    pub fn exclusive_until(path: &Path, deadline: Instant) -> Result<Option<FileLock>, LockError> {
        let mut pause = Duration::from_millis(5);
        loop {
            if let Some(lock) = FileLock::try_exclusive(path)? {
                return Ok(Some(lock));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            std::thread::sleep(pause.min(left));
            pause = (pause * 2).min(Duration::from_millis(200));
        }
    }

    /// Waits for a lock that other readers may hold too.
    ///
    /// # Errors
    /// The file cannot be opened, or the file system has no locks.
    pub fn shared(path: &Path) -> Result<FileLock, LockError> {
        let file = open(path)?;
        retry(|| fs2::FileExt::lock_shared(&file)).map_err(|source| failed(path, source))?;
        Ok(FileLock { file })
    }

    /// Returns the locked file, for those who keep words in it.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }
}

fn open(path: &Path) -> Result<File, LockError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
        .map_err(|source| failed(path, source))
}

fn failed(path: &Path, source: std::io::Error) -> LockError {
    LockError { path: path.to_owned(), source }
}

fn is_contended(error: &std::io::Error) -> bool {
    error.raw_os_error() == fs2::lock_contended_error().raw_os_error()
}

fn retry(mut lock: impl FnMut() -> std::io::Result<()>) -> std::io::Result<()> {
    loop {
        match lock() {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_holder_waits() {
        let dir = tempfile::tempdir().expect("scratch directory");
        let path = dir.path().join("lock");
        let held = FileLock::exclusive(&path).expect("free lock");
        assert!(FileLock::try_exclusive(&path).expect("lockable").is_none());
        let soon = Instant::now() + Duration::from_millis(20);
        assert!(FileLock::exclusive_until(&path, soon).expect("lockable").is_none());
        drop(held);
        assert!(FileLock::try_exclusive(&path).expect("lockable").is_some());
    }

    #[test]
    fn a_symbolic_link_is_refused() {
        let dir = tempfile::tempdir().expect("scratch directory");
        let link = dir.path().join("lock");
        std::os::unix::fs::symlink(dir.path().join("target"), &link).expect("link");
        assert!(FileLock::exclusive(&link).is_err());
        assert!(!dir.path().join("target").exists());
    }
}
