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

use git2::{ObjectType, Oid};
use percent_encoding::{AsciiSet, CONTROLS, percent_encode};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::fault::{Cause, Fault};
use crate::git::Objects;

pub(crate) use compare::{Depth, changes, is_untouched};
pub(crate) use share::share;
pub(crate) use walk::is_safe_name;
use walk::{Item, Walk};

const ESCAPED: &AsciiSet = &CONTROLS.add(b'%');

/// A file or link of a placed tree. It is written as a list, which is short, and read as a list or a map.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Entry {
    /// Path below the tree; bytes outside of ASCII are percent-encoded.
    path: String,
    /// File type and permissions.
    mode: u32,
    /// Git's id of the content.
    #[serde(deserialize_with = "read_oid")]
    oid: Oid,
    /// What lets an unchanged file be recognised without reading it.
    stat: Stat,
}

/// A directory of a placed tree. While it is as it was, no name has come to it and none has gone.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Directory {
    /// Path below the tree, as that of an [`Entry`].
    path: String,
    stat: Stat,
}

impl Serialize for Entry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (&self.path, self.mode, self.oid.to_string(), &self.stat).serialize(serializer)
    }
}

impl Serialize for Directory {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (&self.path, &self.stat).serialize(serializer)
    }
}

fn read_oid<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Oid, D::Error> {
    struct Hex;
    impl serde::de::Visitor<'_> for Hex {
        type Value = Oid;

        fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            formatter.write_str("an object id")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Oid, E> {
            Oid::from_str(text).map_err(E::custom)
        }
    }
    deserializer.deserialize_str(Hex)
}

impl Entry {
    /// Returns where this is below the root of the tree.
    pub(crate) fn path(&self) -> Cow<'_, Path> {
        plain(&self.path)
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
        Self { path: escape(path).into_owned(), mode: meta.mode(), oid, stat: Stat::of(meta) }
    }
}

impl Directory {
    /// Returns the same directory of a tree that has this one's tree at `prefix`.
    pub(crate) fn under(self, prefix: &Path) -> Self {
        Self { path: format!("{}/{}", escape(prefix), self.path), ..self }
    }

    /// Looks at this directory in the tree at `root`; none if it is none, or if its file system counts time in seconds.
    fn stat_in(&self, root: &Path) -> Option<Stat> {
        let meta = fs::symlink_metadata(root.join(plain(&self.path))).ok()?;
        Some(Stat::of(&meta)).filter(|stat| meta.is_dir() && stat.mtime_ns != 0)
    }
}

/// Looks at directories anew, in the tree at `root`. None if one of them cannot be relied on, so that a look at the
/// tree has to list it.
pub(crate) fn look_again(root: &Path, directories: Vec<Directory>) -> Option<Vec<Directory>> {
    let look = |directory: Directory| {
        let stat = directory.stat_in(root)?;
        Some(Directory { stat, ..directory })
    };
    let mut directories = directories.into_iter().map(look).collect::<Option<Vec<Directory>>>()?;
    directories.sort_by(|a, b| a.path.cmp(&b.path));
    Some(directories)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
struct Stat {
    size: u64,
    mtime: i64,
    mtime_ns: i64,
    ctime: i64,
    ctime_ns: i64,
    inode: u64,
}

impl Serialize for Stat {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.size, self.mtime, self.mtime_ns, self.ctime, self.ctime_ns, self.inode).serialize(serializer)
    }
}

impl Stat {
    /// Of what was not looked at yet.
    const NONE: Self = Self { size: 0, mtime: 0, mtime_ns: 0, ctime: 0, ctime_ns: 0, inode: 0 };

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
    /// All directories, by path; none if they cannot be relied on.
    pub(crate) directories: Option<Vec<Directory>>,
    /// The directories where submodules belong, and their commits.
    pub(crate) submodules: Vec<(PathBuf, Oid)>,
}

/// Writes the tree into `into`, where nothing of it may be yet. Submodules become empty directories.
pub(crate) fn write(objects: Objects<'_>, tree: &git2::Tree<'_>, into: &Path) -> Result<Written, Fault> {
    match make_dir(into) {
        Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {}
        made => made.map_err(|err| Fault::disk(into, &err))?,
    }
    let reader = objects.reader()?;
    let (mut entries, mut directories, mut submodules) = (Vec::new(), Vec::new(), Vec::new());
    let mut made = |below: &Path| directories.push(Directory { path: escape(below).into_owned(), stat: Stat::NONE });
    Walk::new(objects)?.run(tree, &mut PathBuf::new(), &mut |below, item| {
        let path = into.join(below);
        let disk = |err: io::Error| Fault::disk(&path, &err);
        let (oid, meta) = match item {
            Item::Directory => {
                made(below);
                return make_dir(&path).map_err(disk);
            }
            Item::Submodule { oid } => {
                made(below);
                submodules.push((below.to_owned(), oid));
                return make_dir(&path).map_err(disk);
            }
            Item::Link { oid, target } => {
                std::os::unix::fs::symlink(Path::new(OsStr::from_bytes(target)), &path).map_err(disk)?;
                (oid, fs::symlink_metadata(&path).map_err(disk)?)
            }
            Item::File { oid, mode } => {
                let blob =
                    reader.read(oid).map_err(|err| Fault::git(Cause::Network, &format!("object {oid}"), &err))?;
                (oid, write_file(&path, &blob, mode).map_err(disk)?)
            }
        };
        entries.push(Entry::new(below, oid, &meta));
        Ok(())
    })?;
    sort(&mut entries);
    Ok(Written { entries, directories: look_again(into, directories), submodules })
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

/// Returns the path that [`escape`] has made text of.
fn plain(path: &str) -> Cow<'_, Path> {
    if path.contains('%') {
        let below: Vec<u8> = percent_encoding::percent_decode_str(path).collect();
        Cow::Owned(PathBuf::from(OsStr::from_bytes(&below)))
    } else {
        Cow::Borrowed(Path::new(path))
    }
}

fn escape(path: &Path) -> Cow<'_, str> {
    percent_encode(path.as_os_str().as_bytes(), ESCAPED).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_as_a_list_or_as_a_map() {
        let entry = Entry {
            path: "d/a%25".to_owned(),
            mode: 0o100_644,
            oid: Oid::from_str(&"1".repeat(40)).expect("an id"),
            stat: Stat { size: 1, mtime: -2, mtime_ns: 3, ctime: 4, ctime_ns: 5, inode: 6 },
        };
        let list = serde_json::to_string(&entry).expect("written");
        assert_eq!(list, format!(r#"["d/a%25",33188,"{}",[1,-2,3,4,5,6]]"#, "1".repeat(40)));
        // So it was written before.
        let map = format!(
            r#"{{"path":"d/a%25","mode":33188,"oid":"{}","stat":{{"size":1,"mtime":-2,"mtime_ns":3,"ctime":4,"ctime_ns":5,"inode":6}}}}"#,
            "1".repeat(40)
        );
        for text in [list, map] {
            assert_eq!(serde_json::from_str::<Entry>(&text).expect("read"), entry);
        }
        assert_eq!(entry.path(), Path::new("d/a%"));
        for wrong in [r#"["a",1,"x",[1,2,3,4,5,6]]"#, r#"["a",1]"#, "{}", "1"] {
            assert!(serde_json::from_str::<Entry>(wrong).is_err(), "{wrong}");
        }
    }
}
