//! The mirror's directory: content-addressed blobs, locks, temporary files.
//!
//! ```text
//! ROOT/cas/sha256/ab/<64 hex>   blobs, mode 0444, never changed
//! ROOT/sources/NAME.json        what the last complete sync of a source found
//! ROOT/pieces/NAME.json         what the last indices of a source were packed of
//! ROOT/outcomes/NAME.json       how the last sync of a source went
//! ROOT/snapshots/ID/info.json   when and by which key a snapshot was made (not part of its identity)
//! ROOT/channels/NAME.json       what a channel pointed at before
//! ROOT/pub/                     what is published; ROOT/git/ bare repositories
//! ROOT/partial/DIGEST            a download that is not whole yet, continued by the next sync
//! ROOT/tmp/                     everything under construction; swept by the next writer
//! ```
//! Invariants: a blob has its final name only once it is whole and synced, and nothing that outlives the process refers
//! to it before ([`Store::settle`]); what is published is made in `tmp` and renamed; one writer at a time holds
//! `ROOT/lock`, whoever moves a channel holds `ROOT/channels/lock`.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};
use toolkit::lock::{FileLock, LockError};

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::files;
use crate::pending::Pending;

/// Largest file of the mirror that is read as a whole.
const MAX_READ: u64 = 512 << 20;

/// A mirror's directory.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    root: PathBuf,
    /// Blobs of this writer that have no name yet.
    pending: Arc<Pending>,
}

impl Store {
    /// Opens a mirror to read it; a directory that is not there reads as empty.
    pub(crate) fn at(root: &Path) -> Self {
        Self { root: root.to_owned(), pending: Arc::default() }
    }

    /// Opens a mirror to write, creates what is missing, and takes the writer's lock.
    ///
    /// # Errors
    /// [`Error::Busy`] at once when there is another writer; [`Error::Write`].
    pub(crate) fn writer(root: &Path) -> Result<(Self, FileLock)> {
        let store = Self::at(root);
        store.prepare()?;
        let path = root.join("lock");
        let lock = FileLock::try_exclusive(&path)
            .map_err(lock_failed)?
            .ok_or(Error::Busy { path, what: "writer (sync, snapshot, import or gc)" })?;
        store.sweep()?;
        Ok((store, lock))
    }

    /// Takes the lock under which channels move, waiting a moment for another holder.
    ///
    /// # Errors
    /// [`Error::Busy`]; [`Error::Write`].
    pub(crate) fn channel_lock(&self) -> Result<FileLock> {
        self.prepare()?;
        let path = self.root.join("channels/lock");
        FileLock::exclusive_until(&path, Instant::now() + Duration::from_secs(10))
            .map_err(lock_failed)?
            .ok_or(Error::Busy { path, what: "promote, rollback or gc" })
    }

    fn prepare(&self) -> Result<()> {
        // Readable by others on purpose: a static web server may publish ROOT/pub, and nothing here is secret.
        toolkit::dirs::private(&self.root, 0o755).map_err(|error| match error {
            toolkit::dirs::DirError::Io { path, source } => Error::Write { path, source },
            toolkit::dirs::DirError::Unsafe { path, reason } => Error::Denied { path, message: reason },
        })?;
        for part in [
            "cas/sha256",
            "sources",
            "pieces",
            "outcomes",
            "snapshots",
            "channels",
            "pub/snap",
            "pub/channel",
            "git",
            "tmp",
            "partial",
        ] {
            files::make_dir(&self.root.join(part))?;
        }
        let path = self.root.join("gitconfig");
        toolkit::atomic::write_derived(&path, crate::git::CONFIG.as_bytes(), 0o644).map_err(Error::write(&path))?;
        Ok(())
    }

    /// Removes what writers that were killed left behind. Only the holder of the writer's lock calls it.
    fn sweep(&self) -> Result<()> {
        for name in files::names_in(&self.root.join("tmp"))? {
            files::remove(&self.root.join("tmp").join(name))?;
        }
        for part in ["sources", "pieces", "outcomes", "channels", "pub", "pub/channel"] {
            let directory = self.root.join(part);
            toolkit::atomic::sweep(&directory).map_err(Error::write(&directory))?;
        }
        Ok(())
    }

    /// Returns a path below the mirror.
    pub(crate) fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.root.join(relative)
    }

    /// Returns a new name in `tmp`.
    pub(crate) fn temporary(&self, what: &str) -> PathBuf {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        self.root.join("tmp").join(format!("{what}-{}-{number}", std::process::id()))
    }

    /// Returns where a blob is, until the next [`Store::settle`].
    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.pending.path(digest).unwrap_or_else(|| self.named(digest))
    }

    fn named(&self, digest: &Digest) -> PathBuf {
        let hex = digest.as_str();
        self.root.join("cas/sha256").join(&hex[..2]).join(hex)
    }

    /// Takes in a whole file of the mirror as a blob; false when there was one already, and the file is still the
    /// caller's.
    pub(crate) fn adopt(&self, digest: &Digest, path: &Path) -> bool {
        self.pending.add(digest, path)
    }

    /// Syncs the blobs that came and gives them their names.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub(crate) fn settle(&self) -> Result<()> {
        self.pending.settle(&self.root.join("tmp"), |digest| self.named(digest))
    }

    /// Whether a blob of this length is there.
    pub(crate) fn has_blob(&self, digest: &Digest, size: u64) -> bool {
        fs::symlink_metadata(self.blob(digest)).is_ok_and(|metadata| metadata.is_file() && metadata.len() == size)
    }

    /// Stores bytes as a blob.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub(crate) fn put(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        if !self.has_blob(&digest, bytes.len() as u64) {
            let mut staged = self.stage()?;
            staged.file.write_all(bytes).map_err(Error::write(&staged.path))?;
            staged.give(self, &digest)?;
        }
        Ok(digest)
    }

    /// Reads a blob whole.
    ///
    /// # Errors
    /// [`Error::Read`]; [`Error::Damaged`] when it is not what its name says.
    pub(crate) fn get(&self, digest: &Digest) -> Result<Vec<u8>> {
        let path = self.blob(digest);
        let bytes = files::read_bounded(&path, MAX_READ).map_err(Error::read(&path))?;
        if Digest::of(&bytes) == *digest {
            Ok(bytes)
        } else {
            Err(Error::Damaged { path, message: "its content is not what its name says".into() })
        }
    }

    /// Starts a blob of unknown content.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub(crate) fn stage(&self) -> Result<Staged> {
        let path = self.temporary("blob");
        let file = File::options().read(true).write(true).create_new(true).open(&path).map_err(Error::write(&path))?;
        Ok(Staged { path, file, hasher: Sha256::new(), size: 0, given: false })
    }

    /// Reads a JSON file of the mirror; `None` if it is not there.
    ///
    /// # Errors
    /// [`Error::Read`]; [`Error::Damaged`].
    pub(crate) fn read_json<T: DeserializeOwned>(&self, relative: impl AsRef<Path>) -> Result<Option<T>> {
        self.read_parsed(relative, |bytes| serde_json::from_slice(&bytes))
    }

    /// As [`Store::read_json`], by a parser of one's own.
    ///
    /// # Errors
    /// [`Error::Read`]; [`Error::Damaged`].
    pub(crate) fn read_parsed<T>(
        &self,
        relative: impl AsRef<Path>,
        parse: impl FnOnce(Vec<u8>) -> serde_json::Result<T>,
    ) -> Result<Option<T>> {
        let path = self.root.join(relative);
        let bytes = match files::read_bounded(&path, MAX_READ) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(Error::read(&path))?,
        };
        let damaged = |error: serde_json::Error| Error::Damaged { path, message: error.to_string() };
        parse(bytes).map(Some).map_err(damaged)
    }

    /// Replaces a JSON file of the mirror; one with the same content is left alone. It may refer to blobs, so they are
    /// settled before.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub(crate) fn write_json(&self, relative: impl AsRef<Path>, value: &impl Serialize) -> Result<()> {
        self.settle()?;
        let path = self.root.join(relative);
        toolkit::atomic::write(&path, &json_line(value)?, 0o644).map_err(Error::write(&path))?;
        Ok(())
    }
}

/// Returns the one form in which a value is written as JSON: compact, fields as declared, a newline at the end.
///
/// # Errors
/// [`Error::Bug`].
pub(crate) fn json_line(value: &impl Serialize) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(value).map_err(|error| Error::Bug(format!("JSON: {error}")))?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn lock_failed(error: LockError) -> Error {
    Error::Write { path: error.path, source: error.source }
}

/// A blob under construction; dropped without [`Staged::store`] it is removed.
#[derive(Debug)]
pub(crate) struct Staged {
    path: PathBuf,
    file: File,
    hasher: Sha256,
    size: u64,
    /// The store has it now.
    given: bool,
}

impl Staged {
    /// Appends bytes.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(Error::write(&self.path))?;
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// Appends everything from a file.
    ///
    /// # Errors
    /// [`Error::Read`] naming `from`; [`Error::Write`].
    pub(crate) fn copy(&mut self, mut reader: impl Read, from: &Path) -> Result<()> {
        let mut buffer = vec![0; 256 << 10];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => self.write(&buffer[..count])?,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::read(from)(error)),
            }
        }
    }

    /// Returns the file, to read what was written.
    pub(crate) fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Returns the digest of what was written.
    pub(crate) fn digest(&self) -> Digest {
        Digest::finish(self.hasher.clone())
    }

    /// Returns how much was written.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// As [`Staged::store`], if the content is what is wanted; tells whether it is.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub(crate) fn store_if(self, store: &Store, wanted: &Digest) -> Result<bool> {
        if Digest::finish(self.hasher.clone()) != *wanted {
            return Ok(false);
        }
        self.store(store).map(|_| true)
    }

    /// Makes it a blob.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub(crate) fn store(mut self, store: &Store) -> Result<Digest> {
        let digest = Digest::finish(std::mem::take(&mut self.hasher));
        if !store.has_blob(&digest, self.size) {
            self.give(store, &digest)?;
        }
        Ok(digest)
    }

    fn give(mut self, store: &Store, digest: &Digest) -> Result<()> {
        self.file.set_permissions(fs::Permissions::from_mode(0o444)).map_err(Error::write(&self.path))?;
        self.given = store.adopt(digest, &self.path);
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.given {
            // What cannot be removed is swept by the next writer.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// What tells that a file has not changed since it was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Stamp {
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    inode: u64,
}

impl Stamp {
    /// Takes the stamp of a file.
    pub(crate) fn of(metadata: &fs::Metadata) -> Self {
        Self {
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            inode: metadata.ino(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_is_stored_once_under_its_digest() {
        let dir = tempfile::tempdir().expect("scratch directory");
        let (store, _lock) = Store::writer(&dir.path().join("m")).expect("writable");
        let digest = store.put(b"content").expect("writable");
        assert_eq!(store.put(b"content").expect("writable"), digest);
        let before = store.blob(&digest);
        assert_eq!(fs::read(&before).expect("there"), b"content");
        store.settle().expect("writable");
        assert!(!before.exists() && store.has_blob(&digest, 7));
        assert_eq!(fs::read(store.blob(&digest)).expect("there"), b"content");
        assert_eq!(fs::metadata(store.blob(&digest)).expect("there").permissions().mode() & 0o777, 0o444);
        assert!(files::names_in(&store.path("tmp")).expect("readable").is_empty());
    }

    #[test]
    fn the_second_writer_is_told_at_once_and_sweeps_nothing() {
        let dir = tempfile::tempdir().expect("scratch directory");
        let root = dir.path().join("m");
        let (store, lock) = Store::writer(&root).expect("writable");
        let staged = store.stage().expect("writable");
        assert!(matches!(Store::writer(&root), Err(Error::Busy { .. })));
        assert_eq!(files::names_in(&store.path("tmp")).expect("readable").len(), 1);
        std::mem::forget(staged);
        drop(lock);
        Store::writer(&root).expect("free again");
        assert!(files::names_in(&store.path("tmp")).expect("readable").is_empty());
    }
}
