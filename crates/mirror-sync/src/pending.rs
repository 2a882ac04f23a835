//! Blobs that are whole but not yet on the disk for sure: they get their names together.
//!
//! A blob has its name in the store only once it is synced. To sync each alone is slow (a disk that others use takes
//! tens of milliseconds every time), so blobs first stay where they were written, are read there, and are named when
//! something durable is to refer to them: one `syncfs` for all contents, and one for all directories.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::files;

/// So many are settled together where more come one after the other: those need not be brought again after an
/// interruption.
pub(crate) const TOGETHER: usize = 1000;

/// So many files are synced one by one: `syncfs` also waits for what others wrote.
const FEW: usize = 8;

/// Where blobs are until they are named.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    blobs: Mutex<BTreeMap<Digest, PathBuf>>,
}

impl Pending {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Digest, PathBuf>> {
        self.blobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns where a blob is that has no name yet.
    pub(crate) fn path(&self, digest: &Digest) -> Option<PathBuf> {
        self.lock().get(digest).cloned()
    }

    /// Adds a whole blob; false when another file with its content came first.
    pub(crate) fn add(&self, digest: &Digest, path: &Path) -> bool {
        self.lock().entry(digest.clone()).or_insert_with(|| path.to_owned()) == path
    }

    /// Gives all of them their names; `name` says which, `on` is a directory of the same file system.
    ///
    /// # Errors
    /// [`Error::Write`]; then all are still pending.
    pub(crate) fn settle(&self, on: &Path, name: impl Fn(&Digest) -> PathBuf) -> Result<()> {
        let mut blobs = self.lock();
        if blobs.is_empty() {
            return Ok(());
        }
        if blobs.len() <= FEW {
            for (digest, path) in blobs.iter() {
                let file = File::open(path).or_else(|_| File::open(name(digest)));
                file.and_then(|file| file.sync_all()).map_err(Error::write(path))?;
            }
        } else {
            sync_all(on)?;
        }
        let mut parents = BTreeSet::new();
        for (digest, path) in blobs.iter() {
            let target = name(digest);
            let parent = target.parent().expect("a blob has a directory");
            if !parents.contains(parent) {
                files::make_dir(parent)?;
                parents.insert(parent.to_owned());
            }
            match fs::rename(path, &target) {
                // An attempt before this one came so far.
                Err(error) if error.kind() == ErrorKind::NotFound && target.is_file() => {}
                other => other.map_err(Error::write(&target))?,
            }
        }
        if parents.len() <= FEW {
            parents.iter().try_for_each(|parent| toolkit::atomic::sync_dir(parent).map_err(Error::write(parent)))?;
        } else {
            sync_all(on)?;
        }
        blobs.clear();
        Ok(())
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // Nobody will name them. Downloads are continued by the next run; what cannot be removed is swept by it.
        for path in self.lock().values().filter(|path| path.parent().is_some_and(|parent| parent.ends_with("tmp"))) {
            let _ = fs::remove_file(path);
        }
    }
}

/// Syncs everything that was written to the file system.
fn sync_all(directory: &Path) -> Result<()> {
    let file = File::open(directory).map_err(Error::write(directory))?;
    nix::unistd::syncfs(&file).map_err(|error| Error::write(directory)(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_content_has_one_file_and_what_failed_is_tried_again() {
        let dir = tempfile::tempdir().expect("scratch directory");
        let tmp = dir.path().join("tmp");
        fs::create_dir(&tmp).expect("writable");
        let store = dir.path().join("store");
        let name = |digest: &Digest| store.join(digest.as_str());
        let pending = Pending::default();
        let add = |content: &str, file: &str| {
            let path = tmp.join(file);
            fs::write(&path, content).expect("writable");
            pending.add(&Digest::of(content.as_bytes()), &path)
        };
        assert!(add("one", "a") && add("two", "b"));
        assert!(add("one", "a"), "the same file");
        assert!(!add("one", "c"), "another one");
        // In the place of the directory there is a file.
        fs::write(&store, "").expect("writable");
        pending.settle(&tmp, name).expect_err("no directory");
        fs::remove_file(&store).expect("ours");
        // The second of an attempt before this one had no name yet.
        fs::create_dir(&store).expect("writable");
        fs::rename(tmp.join("a"), name(&Digest::of(b"one"))).expect("ours");
        pending.settle(&tmp, name).expect("writable");
        for content in ["one", "two"] {
            let digest = Digest::of(content.as_bytes());
            assert_eq!(fs::read_to_string(name(&digest)).expect("named"), content);
            assert!(pending.path(&digest).is_none());
        }
        pending.settle(&tmp, name).expect("nothing to do");
        assert!(add("three", "d"));
        drop(pending);
        let left: Vec<_> =
            fs::read_dir(&tmp).expect("there").map(|entry| entry.expect("readable").file_name()).collect();
        assert_eq!(left, ["c"], "what nobody will name is removed");
    }
}
