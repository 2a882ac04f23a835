//! `TS_DIR` and the names in it.
//!
//! ```text
//! TS_DIR/            0700, ours, no link
//!   QUEUE/           0700; flock on it is the queue's lock
//!     page           counters and results (see `page`), mmap'd
//!     table          short lock: a slot or the page itself is being made
//!     disabled       reason, while the queue is disabled
//!     leader.log     what background leaders had to say, bounded
//!     kicks .old     reasons of kicks, for --why; bounded
//!     jobs/KEY       what a job runs
//!     runs/N.out .err  output of run N; flock on the directory is the heir's
//! ```

use std::ffi::OsString;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::Error;
use crate::job::Key;

/// A queue's name: `[A-Za-z0-9._-]+`, not starting with `.` or `-`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct QueueName(String);

impl QueueName {
    /// Checks a name.
    ///
    /// # Errors
    /// A name that is none, as a message for the user.
    pub fn parse(text: &str) -> Result<QueueName, String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if text.is_empty() || text.len() > 100 || text.starts_with(['.', '-']) || !text.chars().all(plain) {
            return Err(format!(
                "`{text}` is no queue name: use letters, digits, `.`, `_` and `-` (at most 100), not starting with `.` or `-`"
            ));
        }
        Ok(QueueName(text.to_owned()))
    }

    /// Returns the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns 12 bits that tell queues apart in tickets.
    #[must_use]
    pub fn tag(&self) -> u64 {
        // FNV-1a: the tag must be the same in every version and process.
        let hash = self
            .0
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
        (hash ^ (hash >> 32)) & 0xfff
    }
}

impl std::fmt::Display for QueueName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The state directory, checked.
#[derive(Debug, Clone)]
pub struct StateDir(PathBuf);

impl StateDir {
    /// Returns the directory at an absolute path.
    #[must_use]
    pub fn at(path: PathBuf) -> StateDir {
        StateDir(path)
    }

    /// Returns the directory that `TS_DIR` names, else the default: `/run/stacktira/ts` for root,
    /// `$XDG_RUNTIME_DIR/ts` for others. It need not be there yet.
    ///
    /// # Errors
    /// None of these can be told, or the path is not absolute.
    pub fn from_env() -> Result<StateDir, Error> {
        let set = |name: &str| std::env::var_os(name).filter(|value: &OsString| !value.is_empty());
        let path = if let Some(path) = set("TS_DIR") {
            PathBuf::from(path)
        } else if nix::unistd::geteuid().is_root() {
            toolkit::dirs::under_root(Path::new("/run/stacktira/ts"))
        } else if let Some(path) = set("XDG_RUNTIME_DIR") {
            Path::new(&path).join("ts")
        } else {
            return Err(Error::NoStateDir);
        };
        if path.is_absolute() { Ok(StateDir(path)) } else { Err(Error::RelativeStateDir(path)) }
    }

    /// Returns the path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Returns the names of the queues that are there.
    ///
    /// # Errors
    /// A directory that is not safe or cannot be read; one that is missing holds no queue.
    pub fn queues(&self) -> Result<Vec<QueueName>, Error> {
        if std::fs::symlink_metadata(&self.0).is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            return Ok(Vec::new());
        }
        toolkit::dirs::private(&self.0, 0o700)?;
        let entries = std::fs::read_dir(&self.0).map_err(|source| Error::io("read", &self.0, source))?;
        let mut names: Vec<QueueName> = entries
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .filter_map(|entry| QueueName::parse(entry.file_name().to_str()?).ok())
            .collect();
        names.sort();
        Ok(names)
    }

    /// Returns the places of a queue without making any.
    #[must_use]
    pub fn queue(&self, name: &QueueName) -> Places {
        Places { root: self.clone(), dir: self.0.join(name.as_str()), name: name.clone() }
    }
}

/// The places of one queue.
#[derive(Debug, Clone)]
pub struct Places {
    /// The state directory.
    pub root: StateDir,
    /// The queue's name.
    pub name: QueueName,
    /// The queue's directory.
    pub dir: PathBuf,
}

impl Places {
    /// Makes the directories that are missing and checks all.
    ///
    /// # Errors
    /// One cannot be made, or is not safe.
    pub fn prepare(&self) -> Result<(), Error> {
        for dir in [self.root.path(), &self.dir, &self.jobs(), &self.runs()] {
            toolkit::dirs::private(dir, 0o700)?;
        }
        Ok(())
    }

    /// Whether the queue is there; checks what is there.
    ///
    /// # Errors
    /// The state directory or the queue's is there and not safe.
    pub fn exists(&self) -> Result<bool, Error> {
        for dir in [self.root.path(), &self.dir] {
            if std::fs::symlink_metadata(dir).is_err_and(|error| error.kind() == ErrorKind::NotFound) {
                return Ok(false);
            }
            toolkit::dirs::private(dir, 0o700)?;
        }
        Ok(true)
    }

    pub(crate) fn jobs(&self) -> PathBuf {
        self.dir.join("jobs")
    }

    pub(crate) fn job(&self, key: Key) -> PathBuf {
        self.dir.join("jobs").join(key.to_string())
    }

    pub(crate) fn runs(&self) -> PathBuf {
        self.dir.join("runs")
    }

    pub(crate) fn page(&self) -> PathBuf {
        self.dir.join("page")
    }

    pub(crate) fn table(&self) -> PathBuf {
        self.dir.join("table")
    }

    pub(crate) fn leader_log(&self) -> PathBuf {
        self.dir.join("leader.log")
    }

    /// Returns the reason for which the queue is disabled, if it is. While that cannot be told nothing is to start.
    #[must_use]
    pub fn disabled(&self) -> Option<String> {
        let mut patience = 50;
        loop {
            match self.read_disabled() {
                Ok(reason) => return Some(reason),
                Err(error) if error.kind() == ErrorKind::NotFound => return None,
                Err(error) if patience == 0 => return Some(format!("it cannot be told why: {error}")),
                // No descriptor, no memory: that passes.
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
            patience -= 1;
        }
    }

    fn read_disabled(&self) -> std::io::Result<String> {
        let mut text = Vec::new();
        open_read(&self.dir.join("disabled"))?.take(4096).read_to_end(&mut text)?;
        Ok(String::from_utf8_lossy(&text).trim_end().to_owned())
    }

    /// Disables the queue: kicks are recorded, nothing is started.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn disable(&self, reason: &str) -> Result<(), Error> {
        let path = self.dir.join("disabled");
        toolkit::atomic::write(&path, format!("{reason}\n").as_bytes(), 0o600)
            .map(|_| ())
            .map_err(|source| Error::io("write", &path, source))
    }

    /// Enables the queue again.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn enable(&self) -> Result<(), Error> {
        let path = self.dir.join("disabled");
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io("remove", &path, error)),
            _ => Ok(()),
        }
    }
}

/// Opens a file of ours for reading; links are not followed and nothing can make this hang.
pub(crate) fn open_read(path: &Path) -> std::io::Result<File> {
    std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_queues() {
        for name in ["default", "a", "puppet-apply_1.x", "0"] {
            assert!(QueueName::parse(name).is_ok(), "{name}");
        }
        for name in ["", ".", "..", "-x", ".x", "a/b", "a b", "é", "a\n", &"x".repeat(101)] {
            assert!(QueueName::parse(name).is_err(), "{name}");
        }
    }

    #[test]
    fn disabling_is_a_file_with_a_reason() {
        let dir = tempfile::tempdir().expect("scratch directory");
        let places = StateDir(dir.path().to_owned()).queue(&QueueName::parse("q").expect("a name"));
        places.prepare().expect("ours");
        assert_eq!(places.disabled(), None);
        places.disable("upgrade").expect("written");
        assert_eq!(places.disabled().as_deref(), Some("upgrade"));
        places.enable().expect("removed");
        places.enable().expect("twice is fine");
        assert_eq!(places.disabled(), None);
    }
}
