//! What is remembered about a watch: the digest of the payload whose command succeeded.
//!
//! A state directory holds two files a name: `NAME.lock`, locked by whoever handles the watch of that name, and
//! `NAME.json`, replaced as a whole after the command succeeded. A crash in between makes the command run
//! once more; it never loses a change. A file that cannot be read counts as "nothing remembered", with the same effect.
//! The directory belongs to its user and lies on a file system that a reboot empties.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use toolkit::lock::FileLock;
use toolkit::{atomic, dirs, files};

use crate::error::Error;
use crate::payload::{Items, Kind};

/// Where state is kept unless `STACKTIRA_WATCH_DIR` says otherwise.
pub const DEFAULT: &str = "/run/stacktira/watch";
/// How many events are remembered; servers keep 256.
pub const EVENTS: usize = 4096;
const FILE_LIMIT: u64 = 128 << 20;

/// What is remembered about one watch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// Version of this format.
    pub v: u32,
    /// What was watched.
    pub kind: Option<Kind>,
    /// Digest of the payload whose command succeeded last.
    pub digest: Option<String>,
    /// Its index.
    pub index: Option<u64>,
    /// The key, service or common prefix of keys that it was about.
    pub subject: Option<String>,
    /// What was there.
    pub items: Items,
    /// Ids of events whose command succeeded, oldest first.
    pub events: VecDeque<String>,
}

impl State {
    /// Remembers events, forgetting the oldest.
    pub fn remember(&mut self, ids: impl IntoIterator<Item = String>) {
        self.events.extend(ids);
        let surplus = self.events.len().saturating_sub(EVENTS);
        self.events.drain(..surplus);
    }
}

/// The state directory.
#[derive(Debug, Clone)]
pub struct Store {
    directory: PathBuf,
}

impl Store {
    /// Opens the directory that the environment names, creating it if need be.
    ///
    /// # Errors
    /// It cannot be made, or others could change what is in it.
    pub fn from_env() -> Result<Store, Error> {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        if let Some(directory) = set("STACKTIRA_WATCH_DIR") {
            return Store::open(Path::new(&directory));
        }
        match Store::open(&dirs::under_root(DEFAULT.as_ref())) {
            Err(error) => match set("XDG_RUNTIME_DIR") {
                Some(runtime) => Store::open(&Path::new(&runtime).join("stacktira/watch")),
                None if is_refusal(&error) => Err(Error::NoDirectory),
                None => Err(error),
            },
            opened => opened,
        }
    }

    /// Opens a directory, creating it if need be.
    ///
    /// # Errors
    /// It cannot be made, or others could change what is in it.
    pub fn open(directory: &Path) -> Result<Store, Error> {
        dirs::private(directory, 0o750)?;
        // Left over by a process that was killed while it wrote; that they stay is no harm.
        let _ = atomic::sweep(directory);
        Ok(Store { directory: directory.to_owned() })
    }

    /// Takes the lock of a name, waiting up to `limit` as long as `go_on` says so.
    ///
    /// # Errors
    /// The lock cannot be taken, or the holder keeps it.
    pub fn lock(&self, name: &str, limit: Duration, go_on: impl Fn() -> bool) -> Result<Option<FileLock>, Error> {
        let path = self.directory.join(format!("{name}.lock"));
        let deadline = Instant::now() + limit;
        loop {
            let slice = deadline.min(Instant::now() + Duration::from_millis(200));
            if let Some(lock) = FileLock::exclusive_until(&path, slice)? {
                return Ok(Some(lock));
            }
            if !go_on() {
                return Ok(None);
            }
            if Instant::now() >= deadline {
                return Err(Error::Busy { name: name.to_owned(), waited: limit });
            }
        }
    }

    /// Returns what is remembered; nothing for a file that is missing or broken. The caller holds the lock.
    #[must_use]
    pub fn load(&self, name: &str) -> State {
        let read = || {
            let bytes = files::read_bounded(&self.path(name), FILE_LIMIT).ok()?;
            serde_json::from_slice::<State>(&bytes).ok()
        };
        read().filter(|state| state.v == 1).unwrap_or_default()
    }

    /// Replaces what is remembered. The caller holds the lock.
    ///
    /// # Errors
    /// The file cannot be written; what was remembered before is then still there.
    pub fn save(&self, name: &str, state: &State) -> Result<(), Error> {
        let path = self.path(name);
        let bytes = serde_json::to_vec(&State { v: 1, ..state.clone() }).expect("plain data has a JSON form");
        match atomic::write(&path, &bytes, 0o600) {
            Ok(_) => Ok(()),
            Err(source) => Err(Error::Write { path, source }),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.json"))
    }
}

fn is_refusal(error: &Error) -> bool {
    use std::io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
    matches!(error, Error::Directory(dirs::DirError::Io { source, .. })
        if matches!(source.kind(), PermissionDenied | ReadOnlyFilesystem))
}

/// Checks the name of a watch, which becomes part of file names.
///
/// # Errors
/// What is wrong with it, as a message for the user.
pub fn check_name(name: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || name.len() > 100 || name.starts_with('.') || !name.chars().all(plain) {
        return Err("a name has 1 to 100 letters, digits, dots, dashes and underscores, no dot first".to_owned());
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_loaded_and_broken_files_are_forgotten() {
        let dir = tempfile::tempdir().expect("scratch directory");
        let store = Store::open(&dir.path().join("state")).expect("can be made");
        assert_eq!(store.load("a"), State::default());
        let mut state = State { v: 1, digest: Some("d".into()), kind: Some(Kind::Key), ..State::default() };
        state.items.insert(1, u64::MAX);
        store.save("a", &state).expect("writable");
        assert_eq!(store.load("a"), state);
        std::fs::write(store.path("a"), b"{\"v\":1,\"dig").expect("writable");
        assert_eq!(store.load("a"), State::default());
        std::fs::write(store.path("a"), b"{\"v\":2,\"digest\":\"d\"}").expect("writable");
        assert_eq!(store.load("a"), State::default());
    }

    #[test]
    fn the_oldest_events_are_forgotten() {
        let mut state = State::default();
        state.remember((0..EVENTS + 3).map(|number| number.to_string()));
        assert_eq!(state.events.len(), EVENTS);
        assert_eq!(state.events.front().map(String::as_str), Some("3"));
    }

    #[test]
    fn names_stay_inside_the_directory() {
        for name in ["", ".", "..", "../x", "a/b", ".hidden", "a b", "ü", &"x".repeat(101)] {
            assert!(check_name(name).is_err(), "{name}");
        }
        assert!(check_name("web-1_x.y").is_ok());
    }
}
