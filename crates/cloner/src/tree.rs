//! A commit's tree on disk: writing it safely, listing it, and telling what has changed since.
//!
//! The tree comes from somebody else. Names that leave it or mean `.git` to any file system, links
//! that lead out of it, and sizes beyond reason are refused before they touch the disk. Files are
//! written as the commit has them: no attribute, filter or setting changes a byte, modes are 0755
//! or 0644 whatever the umask.

mod compare;
mod share;
mod walk;

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use git2::{ObjectType, Oid, Repository};
use percent_encoding::{AsciiSet, CONTROLS, percent_encode};
use serde::{Deserialize, Serialize};

use crate::fault::{Cause, Fault};

pub(crate) use compare::{Depth, changes};
pub(crate) use share::share;
pub(crate) use walk::is_safe_name;
use walk::{Item, Walk};

const ESCAPED: &AsciiSet = &CONTROLS.add(b'%');

/// A file or link of a placed tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// Path below the tree; bytes outside of ASCII are percent-encoded.
    path: String,
    /// File type and permissions.
    mode: u32,
    /// Git's id of the content.
    oid: String,
    /// What lets an unchanged file be recognised without reading it.
    stat: Stat,
}

impl Entry {
    /// Returns where this is below the root of the tree.
    pub(crate) fn path(&self) -> PathBuf {
        let below: Vec<u8> = percent_encoding::percent_decode_str(&self.path).collect();
        PathBuf::from(OsStr::from_bytes(&below))
    }

    /// Whether this is a symbolic link.
    pub(crate) fn is_link(&self) -> bool {
        self.mode & nix::libc::S_IFMT == nix::libc::S_IFLNK
    }

    /// Returns the same entry of a tree that has this entry's tree at `prefix`.
    pub(crate) fn under(self, prefix: &Path) -> Self {
        Self { path: format!("{}/{}", escape(prefix), self.path), ..self }
    }

    /// Looks at this entry's file in the tree at `root`.
    fn stat_in(&self, root: &Path) -> Option<Stat> {
        fs::symlink_metadata(root.join(self.path())).ok().map(|meta| Stat::of(&meta))
    }

    fn new(path: &Path, oid: Oid, meta: &fs::Metadata) -> Self {
        Self { path: escape(path).into_owned(), mode: meta.mode(), oid: oid.to_string(), stat: Stat::of(meta) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Stat {
    size: u64,
    mtime: i64,
    mtime_ns: i64,
    ctime: i64,
    ctime_ns: i64,
    inode: u64,
}

impl Stat {
    fn of(meta: &fs::Metadata) -> Self {
        Self {
            size: meta.len(),
            mtime: meta.mtime(),
            mtime_ns: meta.mtime_nsec(),
            ctime: meta.ctime(),
            ctime_ns: meta.ctime_nsec(),
            inode: meta.ino(),
        }
    }
}

/// What [`write()`] has written.
#[derive(Debug)]
pub(crate) struct Written {
    /// Files and links, by path.
    pub(crate) entries: Vec<Entry>,
    /// The directories where submodules belong, and their commits.
    pub(crate) submodules: Vec<(PathBuf, Oid)>,
}

/// Writes the tree into `into`, where nothing of it may be yet. Submodules become empty directories.
pub(crate) fn write(repository: &Repository, tree: &git2::Tree<'_>, into: &Path) -> Result<Written, Fault> {
    match make_dir(into) {
        Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {}
        made => made.map_err(|err| Fault::disk(into, &err))?,
    }
    let odb = repository.odb().map_err(|err| Fault::git(Cause::Disk, "cannot read objects", &err))?;
    let (mut entries, mut submodules) = (Vec::new(), Vec::new());
    Walk::new(repository)?.run(tree, &mut PathBuf::new(), &mut |below, item| {
        let path = into.join(below);
        let disk = |err: io::Error| Fault::disk(&path, &err);
        let (oid, meta) = match item {
            Item::Directory => return make_dir(&path).map_err(disk),
            Item::Submodule { oid } => {
                submodules.push((below.to_owned(), oid));
                return make_dir(&path).map_err(disk);
            }
            Item::Link { oid, target } => {
                std::os::unix::fs::symlink(Path::new(OsStr::from_bytes(target)), &path).map_err(disk)?;
                (oid, fs::symlink_metadata(&path).map_err(disk)?)
            }
            Item::File { oid, mode } => {
                let blob = odb.read(oid).map_err(|err| Fault::git(Cause::Network, &format!("object {oid}"), &err))?;
                (oid, write_file(&path, blob.data(), mode).map_err(disk)?)
            }
        };
        entries.push(Entry::new(below, oid, &meta));
        Ok(())
    })?;
    sort(&mut entries);
    Ok(Written { entries, submodules })
}

/// Puts entries into the order in which they are searched.
pub(crate) fn sort(entries: &mut [Entry]) {
    entries.sort_by(|a, b| a.path.cmp(&b.path));
}

/// Writes a file that is no part of the commit at `path`, which is `below` the root of the tree.
pub(crate) fn write_own(path: &Path, below: &Path, content: &[u8]) -> io::Result<Entry> {
    let oid = Oid::hash_object(ObjectType::Blob, content).map_err(|err| io::Error::other(err.message().to_owned()))?;
    Ok(Entry::new(below, oid, &write_file(path, content, 0o644)?))
}

fn write_file(path: &Path, content: &[u8], mode: u32) -> io::Result<fs::Metadata> {
    // New, so never through a link.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(content)?;
    let meta = file.metadata()?;
    if meta.permissions().mode() & 0o7777 == mode {
        return Ok(meta);
    }
    // The umask has taken bits away that readers need.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.metadata()
}

/// Makes a directory that everybody may read, whatever the umask.
pub(crate) fn make_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o755).create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

/// Makes the directories of `below` that are missing under `top`.
pub(crate) fn make_dirs(top: &Path, below: &Path) -> io::Result<()> {
    let mut path = top.to_owned();
    for part in below.components() {
        path.push(part);
        if !path.is_dir() {
            make_dir(&path)?;
        }
    }
    Ok(())
}

fn escape(path: &Path) -> Cow<'_, str> {
    percent_encode(path.as_os_str().as_bytes(), ESCAPED).into()
}
