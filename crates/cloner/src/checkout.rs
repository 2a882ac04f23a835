//! The work tree of a clone: written as an export is, with an index that fits it.
//!
//! libgit2's own checkout trusts probes of the file system and settings that a passing error of the
//! disk can turn: a link becomes a file, a ref is not seen. Here every byte that is written is one of
//! the commit's, and what the record will say of `.git` is checked against what was meant.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use git2::{IndexEntry, IndexTime, Repository, Tree};

use crate::fault::{Cause, Fault};
use crate::git::Target;
use crate::place;
use crate::record::GitDir;
use crate::tree::{self, Depth, Written};

/// Writes the work tree at `path`, whose refs and HEAD are as `target` wants them, and its index.
pub(crate) fn check_out(
    clone: &Repository,
    path: &Path,
    target: &Target,
    tree: &Tree<'_>,
) -> Result<(GitDir, Written), Fault> {
    let fail = |err: git2::Error| Fault::git(Cause::Disk, "cannot set the clone up", &err);
    let mut config = clone.config().map_err(fail)?;
    // What libgit2 has found out by trying; the tree is written with modes and links, or not at all.
    config.set_bool("core.filemode", true).map_err(fail)?;
    match config.remove("core.symlinks") {
        Err(err) if err.code() != git2::ErrorCode::NotFound => return Err(fail(err)),
        _ => {}
    }
    let written = tree::write(clone.into(), tree, path)?;
    let mut index = clone.index().map_err(fail)?;
    // All entries, submodules too; then those on the disk with what lets git see that they are unchanged.
    index.read_tree(tree).map_err(fail)?;
    for entry in &written.entries {
        let below = entry.path();
        let file = path.join(&below);
        let meta = fs::symlink_metadata(&file).map_err(|err| Fault::disk(&file, &err))?;
        let mut listed = index
            .get_path(&below, 0)
            .ok_or_else(|| Fault::new(Cause::Disk, format!("{} is not in the index of the commit", below.display())))?;
        listed = IndexEntry { path: below.as_os_str().as_bytes().to_vec(), ..stamped(listed, &meta) };
        index.add(&listed).map_err(fail)?;
    }
    index.write().map_err(fail)?;
    // A probe of libgit2 that could not be removed would later be taken for somebody's file.
    let found = tree::changes(path, &written.entries, Depth::Stat).map_err(|err| Fault::disk(path, &err))?;
    if !found.is_empty() {
        return Err(Fault::new(Cause::Disk, format!("the clone is not what was written: {}", place::summary(&found))));
    }
    let git = GitDir::read(path).map_err(|why| Fault::new(Cause::Disk, why))?;
    git.stands_on(target)
        .map_err(|why| Fault::new(Cause::Disk, format!("the clone is not what it was made to be: {why}")))?;
    Ok((git, written))
}

/// Truncates as git's index does, whose fields have 32 bits.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the index holds the low 32 bits")]
fn stamped(entry: IndexEntry, meta: &fs::Metadata) -> IndexEntry {
    IndexEntry {
        ctime: IndexTime::new(meta.ctime() as i32, meta.ctime_nsec() as u32),
        mtime: IndexTime::new(meta.mtime() as i32, meta.mtime_nsec() as u32),
        dev: meta.dev() as u32,
        ino: meta.ino() as u32,
        uid: meta.uid(),
        gid: meta.gid(),
        file_size: meta.len() as u32,
        ..entry
    }
}
