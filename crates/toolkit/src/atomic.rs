//! Files that appear whole: temporary file in the same directory, sync, rename, sync of the directory.
//!
//! After a crash at any instruction the path holds the old content or the new one. A temporary file
//! may be left behind; its name starts with `.` and ends with `.tmp`, and [`sweep`] removes it.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Whether a write was needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The file already had this content and mode.
    Unchanged,
    /// The file was created or replaced.
    Written,
}

/// Makes `path` hold exactly `content` with `mode`.
///
/// # Errors
/// Those of the file system; the old content is then still there.
pub fn write(path: &Path, content: &[u8], mode: u32) -> std::io::Result<Change> {
    write_then(path, content, mode, Staged::commit)
}

/// As [`write`], for what is made anew whenever it is not as it should be: readers see old or new content, but nothing is
/// synced, and after a power cut the file may be empty.
///
/// # Errors
/// Those of the file system; the old content is then still there.
pub fn write_derived(path: &Path, content: &[u8], mode: u32) -> std::io::Result<Change> {
    write_then(path, content, mode, |staged| std::fs::rename(&staged.temporary, &staged.path))
}

fn write_then(
    path: &Path,
    content: &[u8],
    mode: u32,
    name: impl FnOnce(Staged) -> std::io::Result<()>,
) -> std::io::Result<Change> {
    if is_same(path, content, mode) {
        return Ok(Change::Unchanged);
    }
    let mut staged = Staged::create(path, mode)?;
    staged.file().write_all(content)?;
    name(staged)?;
    Ok(Change::Written)
}

fn is_same(path: &Path, content: &[u8], mode: u32) -> bool {
    let Ok(mut file) = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)
    else {
        return false;
    };
    let Ok(metadata) = file.metadata() else { return false };
    if !metadata.is_file() || metadata.mode() & 0o7777 != mode || metadata.len() != content.len() as u64 {
        return false;
    }
    let mut present = Vec::with_capacity(content.len());
    file.read_to_end(&mut present).is_ok() && present == content
}

/// A file under construction beside its final path; dropped without [`Staged::commit`] it is removed.
#[derive(Debug)]
pub struct Staged {
    file: File,
    temporary: PathBuf,
    path: PathBuf,
}

impl Staged {
    /// Creates the temporary file in the directory of `path`.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn create(path: &Path, mode: u32) -> std::io::Result<Staged> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let name = path
            .file_name()
            .ok_or_else(|| std::io::Error::new(std::io::ErrorKind::InvalidInput, "path has no file name"))?;
        loop {
            let mut temporary_name = std::ffi::OsString::from(".");
            temporary_name.push(name);
            temporary_name.push(format!(".{}-{}.tmp", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed)));
            let temporary = parent(path).join(temporary_name);
            let opened = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(mode)
                .custom_flags(libc::O_NOFOLLOW)
                .open(&temporary);
            match opened {
                // Left over by a process of our number that was killed: ours now.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => std::fs::remove_file(&temporary)?,
                Err(error) => return Err(error),
                Ok(file) => {
                    let staged = Staged { file, temporary, path: path.to_owned() };
                    // The umask may have taken bits away.
                    staged.file.set_permissions(std::fs::Permissions::from_mode(mode))?;
                    return Ok(staged);
                }
            }
        }
    }

    /// Returns the open temporary file.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Syncs the file, renames it to its final path and syncs the directory.
    ///
    /// # Errors
    /// Those of the file system; before the rename the old content is still there.
    pub fn commit(self) -> std::io::Result<()> {
        self.file.sync_all()?;
        std::fs::rename(&self.temporary, &self.path)?;
        sync_dir(parent(&self.path))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After a commit the name is gone, which is not worth a word; another failure leaves what `sweep` finds.
        let _ = std::fs::remove_file(&self.temporary);
    }
}

/// Syncs a directory, so that a rename in it outlives a power cut.
///
/// # Errors
/// Those of the file system.
pub fn sync_dir(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}

/// Removes temporary files of `directory` whose makers are gone; returns how many.
///
/// # Errors
/// Those of the file system.
pub fn sweep(directory: &Path) -> std::io::Result<usize> {
    let mut removed = 0;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(owner) = name.to_str().and_then(owner_of_temporary) else { continue };
        if !Path::new(&format!("/proc/{owner}")).exists() {
            std::fs::remove_file(entry.path())?;
            removed += 1;
        }
    }
    Ok(removed)
}

fn owner_of_temporary(name: &str) -> Option<u32> {
    let stem = name.strip_prefix('.')?.strip_suffix(".tmp")?;
    let (_, numbers) = stem.rsplit_once('.')?;
    let (pid, counter) = numbers.split_once('-')?;
    counter.parse::<u64>().ok()?;
    pid.parse().ok()
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_and_mode_are_exact_and_repeats_change_nothing() {
        let dir = tempfile::tempdir().expect("scratch directory");
        let path = dir.path().join("file");
        assert_eq!(write(&path, b"one", 0o640).expect("writable"), Change::Written);
        assert_eq!(write(&path, b"one", 0o640).expect("writable"), Change::Unchanged);
        assert_eq!(write(&path, b"one", 0o600).expect("writable"), Change::Written);
        assert_eq!(std::fs::metadata(&path).expect("there").mode() & 0o7777, 0o600);
        assert_eq!(write_derived(&path, b"one", 0o600).expect("writable"), Change::Unchanged);
        assert_eq!(write_derived(&path, b"two", 0o600).expect("writable"), Change::Written);
        assert_eq!(std::fs::read(&path).expect("there"), b"two");
        assert_eq!(std::fs::read_dir(dir.path()).expect("there").count(), 1);
    }

    #[test]
    fn a_link_is_replaced_and_its_target_left_alone() {
        let dir = tempfile::tempdir().expect("scratch directory");
        let target = dir.path().join("target");
        std::fs::write(&target, "same").expect("writable");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&target, &link).expect("link");
        assert_eq!(write(&link, b"same", 0o600).expect("writable"), Change::Written);
        assert!(std::fs::symlink_metadata(&link).expect("there").is_file());
    }

    #[test]
    fn only_orphaned_temporary_files_are_swept() {
        let dir = tempfile::tempdir().expect("scratch directory");
        let mine = format!(".x.{}-0.tmp", std::process::id());
        for name in [".x.4194999-1.tmp", mine.as_str(), ".other.tmp", "x.4194999-1.tmp"] {
            std::fs::write(dir.path().join(name), "").expect("writable");
        }
        assert_eq!(sweep(dir.path()).expect("readable"), 1);
        assert!(!dir.path().join(".x.4194999-1.tmp").exists());
        assert!(dir.path().join(mine).exists());
    }
}
