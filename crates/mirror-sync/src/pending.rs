//! Blobs that are whole but not yet on the disk for sure: they get their names together.
//!
//! A blob has its name in the store only once it is synced. To sync each alone is slow (a disk that others use takes
//! tens of milliseconds every time), so blobs first stay where they were written, are read there, and are named when
//! something durable is to refer to them: one `syncfs` for all contents, and one for all directories.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::files;

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
        let mut blobs = self.lock();
        if blobs.contains_key(digest) {
            return false;
        }
        blobs.insert(digest.clone(), path.to_owned());
        true
    }

    /// Gives all of them their names; `name` says which, `on` is a directory of the same file system.
    ///
    /// # Errors
    /// [`Error::Write`]; those that are not named yet are still pending.
    pub(crate) fn settle(&self, on: &Path, name: impl Fn(&Digest) -> PathBuf) -> Result<()> {
        let mut blobs = self.lock();
        if blobs.is_empty() {
            return Ok(());
        }
        if blobs.len() <= FEW {
            for path in blobs.values() {
                File::open(path).and_then(|file| file.sync_all()).map_err(Error::write(path))?;
            }
        } else {
            sync_all(on)?;
        }
        let mut parents = BTreeSet::new();
        while let Some(blob) = blobs.first_entry() {
            let target = name(blob.key());
            let parent = target.parent().expect("a blob has a directory");
            if !parents.contains(parent) {
                files::make_dir(parent)?;
                parents.insert(parent.to_owned());
            }
            fs::rename(blob.get(), &target).map_err(Error::write(&target))?;
            blob.remove();
        }
        if parents.len() <= FEW {
            parents.iter().try_for_each(|parent| toolkit::atomic::sync_dir(parent).map_err(Error::write(parent)))
        } else {
            sync_all(on)
        }
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
