//! A commit's tree on disk: writing it safely, listing it, and telling what has changed since.
//!
//! The tree comes from somebody else. Names that leave it or mean `.git` to any file system, links
//! that lead out of it, and sizes beyond reason are refused before they touch the disk. Files are
//! written as the commit has them: no attribute, filter or setting changes a byte, modes are 0755
//! or 0644 whatever the umask.

use std::collections::HashSet;
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

/// Largest file that is written.
const MAX_FILE: usize = 1 << 30;
/// Most bytes of one tree.
const MAX_TOTAL: u64 = 16 << 30;
/// Most entries of one tree.
const MAX_ENTRIES: usize = 1_000_000;
/// Deepest directory.
const MAX_DEPTH: usize = 128;

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

    /// Looks at this entry's file in the tree at `root`.
    fn stat_in(&self, root: &Path) -> Option<Stat> {
        fs::symlink_metadata(root.join(self.path())).ok().map(|meta| Stat::of(&meta))
    }

    fn new(path: &Path, oid: Oid, meta: &fs::Metadata) -> Self {
        Self { path: escape(path), mode: meta.mode(), oid: oid.to_string(), stat: Stat::of(meta) }
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

/// How thoroughly a tree is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// A file whose size, times and inode are as recorded is taken for unchanged.
    Stat,
    /// Every byte is read.
    Content,
}

/// What is to be written.
enum Item<'a> {
    Directory,
    File { oid: Oid, mode: u32 },
    Link { oid: Oid, target: &'a [u8] },
}

/// Writes the tree into `into`, where nothing of it may be yet, and lists what it has written. Unless `submodules`
/// asks for them, which is refused, submodules become empty directories.
pub(crate) fn write(
    repository: &Repository,
    tree: &git2::Tree<'_>,
    submodules: bool,
    into: &Path,
) -> Result<Vec<Entry>, Fault> {
    match make_dir(into) {
        Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {}
        made => made.map_err(|err| Fault::disk(into, &err))?,
    }
    let odb = repository.odb().map_err(|err| Fault::git(Cause::Disk, "cannot read objects", &err))?;
    let mut entries = Vec::new();
    Walk::new(repository, submodules)?.run(tree, &mut PathBuf::new(), &mut |below, item| {
        let path = into.join(below);
        let disk = |err: io::Error| Fault::disk(&path, &err);
        let (oid, meta) = match item {
            Item::Directory => return make_dir(&path).map_err(disk),
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
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(entries)
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

/// Makes `to` the same tree as `from`, of the same files: each is linked, or copied where that cannot be
/// or where git writes into it. Returns `recorded` as it is to be for `to`.
pub(crate) fn share(from: &Path, to: &Path, recorded: &[Entry]) -> io::Result<Vec<Entry>> {
    // Linking changes a file's times, so it is looked at before.
    let before: Vec<Option<Stat>> = recorded.iter().map(|entry| entry.stat_in(from)).collect();
    share_dir(from, to, 0, Sharing::Link)?;
    let entries = recorded.iter().zip(before).map(|(entry, before)| {
        let now = entry.stat_in(to).filter(|_| before == Some(entry.stat));
        Entry { stat: now.unwrap_or(entry.stat), ..entry.clone() }
    });
    Ok(entries.collect())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharing {
    Link,
    Copy,
}

fn share_dir(from: &Path, to: &Path, level: usize, how: Sharing) -> io::Result<()> {
    if level > 2 * MAX_DEPTH {
        return Err(io::Error::other("directories are nested too deep"));
    }
    make_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        let copy = to.join(&name);
        let meta = fs::symlink_metadata(&path)?;
        // What git changes in place is its own copy; objects never change.
        let how = match how {
            Sharing::Link if level == 0 && name == ".git" => Sharing::Copy,
            Sharing::Copy if level == 1 && name == "objects" => Sharing::Link,
            how => how,
        };
        if meta.is_dir() {
            share_dir(&path, &copy, level + 1, how)?;
        } else if meta.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&path)?, &copy)?;
        } else if meta.is_file() && (how == Sharing::Copy || fs::hard_link(&path, &copy).is_err()) {
            fs::copy(&path, &copy)?;
        }
    }
    Ok(())
}

struct Walk<'r> {
    repository: &'r Repository,
    odb: git2::Odb<'r>,
    submodules: bool,
    entries: usize,
    bytes: u64,
}

impl<'r> Walk<'r> {
    fn new(repository: &'r Repository, submodules: bool) -> Result<Self, Fault> {
        let odb = repository.odb().map_err(|err| Fault::git(Cause::Disk, "cannot read objects", &err))?;
        Ok(Self { repository, odb, submodules, entries: 0, bytes: 0 })
    }

    fn run(
        &mut self,
        tree: &git2::Tree<'_>,
        path: &mut PathBuf,
        visit: &mut dyn FnMut(&Path, Item<'_>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let refuse = |path: &Path, why: &str| {
            Err(Fault::new(Cause::Ref, format!("the commit's tree is not safe: '{}' {why}", escape(path))))
        };
        if path.components().count() > MAX_DEPTH {
            return refuse(path, "is too deep");
        }
        let mut seen = HashSet::with_capacity(tree.len());
        for entry in tree {
            let name = entry.name_bytes();
            path.push(OsStr::from_bytes(name));
            if !seen.insert(name.to_owned()) {
                return refuse(path, "is there twice");
            }
            if !is_safe_name(name) {
                return refuse(path, "is not a safe name");
            }
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                return refuse(path, "is one entry too many");
            }
            let oid = entry.id();
            let damaged = |err: git2::Error| Fault::git(Cause::Network, &format!("object {oid}"), &err);
            match entry.filemode() {
                0o040_000 => {
                    visit(path, Item::Directory)?;
                    let child = self.repository.find_tree(oid).map_err(damaged)?;
                    self.run(&child, path, visit)?;
                }
                0o160_000 if !self.submodules => visit(path, Item::Directory)?,
                0o160_000 => {
                    let what = escape(path);
                    return Err(Fault::new(
                        Cause::Ref,
                        format!("'{what}' is a submodule, which cloner does not place"),
                    )
                    .hint("`submodules: false` leaves it empty"));
                }
                mode => {
                    let (size, kind) = self.odb.read_header(oid).map_err(damaged)?;
                    if kind != ObjectType::Blob {
                        return refuse(path, "is no file");
                    }
                    self.bytes += size as u64;
                    if size > MAX_FILE || self.bytes > MAX_TOTAL {
                        return refuse(path, "is too large");
                    }
                    if mode == 0o120_000 {
                        let blob = self.odb.read(oid).map_err(damaged)?;
                        if name.eq_ignore_ascii_case(b".gitmodules") {
                            return refuse(path, "is a symbolic link, which could make git read another file");
                        }
                        if !is_safe_link(path, blob.data()) {
                            return refuse(path, "is a symbolic link that leaves the tree");
                        }
                        visit(path, Item::Link { oid, target: blob.data() })?;
                    } else {
                        let mode = if mode & 0o100 == 0 { 0o644 } else { 0o755 };
                        visit(path, Item::File { oid, mode })?;
                    }
                }
            }
            path.pop();
        }
        Ok(())
    }
}

/// Whether a tree may have an entry of this name. `.git` is refused in all the spellings that some
/// file system takes for it.
fn is_safe_name(name: &[u8]) -> bool {
    if name.is_empty() || name.len() > 255 || name == b"." || name == b".." || name.contains(&b'/') || name.contains(&0)
    {
        return false;
    }
    let text = String::from_utf8_lossy(name);
    // Code points that HFS+ ignores, then what NTFS cuts off at the end.
    let ignored =
        |c: char| matches!(c, '\u{200c}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{206a}'..='\u{206f}' | '\u{feff}');
    let plain: String = text.chars().filter(|&c| !ignored(c)).collect();
    let plain = plain.split(['\\', ':']).next().unwrap_or_default().trim_end_matches(['.', ' ']);
    !plain.eq_ignore_ascii_case(".git") && !plain.eq_ignore_ascii_case("git~1")
}

/// Whether a link at `path` stays in the tree: relative, all `..` first, and not more of them than
/// there are directories. Later `..` could follow another link and so mean something else.
fn is_safe_link(path: &Path, target: &[u8]) -> bool {
    if target.is_empty() || target.len() > 4095 || target.contains(&0) || target.starts_with(b"/") {
        return false;
    }
    let mut allowed = path.components().count() - 1;
    let mut descended = false;
    for part in target.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if descended || allowed == 0 => return false,
            b".." => allowed -= 1,
            name if !is_safe_name(name) => return false,
            _ => descended = true,
        }
    }
    true
}

/// Returns what differs between the recorded entries and the disk below `root`, as words.
pub(crate) fn changes(root: &Path, recorded: &[Entry], depth: Depth) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    let mut seen = vec![false; recorded.len()];
    visit_disk(root, root, 0, &mut |path, relative, meta| {
        let name = escape(relative);
        match recorded.binary_search_by(|entry| entry.path.as_str().cmp(&name)) {
            Err(_) => found.push(format!("{name} is new")),
            Ok(index) => {
                seen[index] = true;
                let entry = &recorded[index];
                let same_stat = depth == Depth::Stat && entry.stat == Stat::of(meta);
                if entry.mode != meta.mode() {
                    found.push(format!("{name} has another mode"));
                } else if !same_stat && (entry.stat.size != meta.len() || entry.oid != hash(path, meta)?.to_string()) {
                    found.push(format!("{name} is changed"));
                }
            }
        }
        Ok(())
    })
    .map_err(|(path, err)| io::Error::new(err.kind(), format!("{}: {err}", path.display())))?;
    let gone = recorded.iter().zip(&seen).filter(|(_, seen)| !**seen);
    found.extend(gone.map(|(entry, _)| format!("{} is gone", entry.path)));
    Ok(found)
}

type Visitor<'a> = dyn FnMut(&Path, &Path, &fs::Metadata) -> io::Result<()> + 'a;

/// Visits everything below `directory` that is no directory, except the `.git` of `root`.
fn visit_disk(
    root: &Path,
    directory: &Path,
    level: usize,
    visit: &mut Visitor<'_>,
) -> Result<(), (PathBuf, io::Error)> {
    if level > MAX_DEPTH + 1 {
        return Err((directory.to_owned(), io::Error::other("directories are nested too deep")));
    }
    let fail = |path: &Path| {
        let path = path.to_owned();
        move |err| (path, err)
    };
    for entry in fs::read_dir(directory).map_err(fail(directory))? {
        let path = entry.map_err(fail(directory))?.path();
        if level == 0 && path.file_name() == Some(OsStr::new(".git")) {
            continue;
        }
        let meta = fs::symlink_metadata(&path).map_err(fail(&path))?;
        if meta.is_dir() {
            visit_disk(root, &path, level + 1, visit)?;
        } else {
            let relative = path.strip_prefix(root).expect("the walk stays below its root");
            visit(&path, relative, &meta).map_err(fail(&path))?;
        }
    }
    Ok(())
}

/// Returns git's id of a file's or link's content; of anything else the id of nothing.
fn hash(path: &Path, meta: &fs::Metadata) -> io::Result<Oid> {
    let hashed = if meta.is_symlink() {
        Oid::hash_object(ObjectType::Blob, fs::read_link(path)?.as_os_str().as_bytes())
    } else if meta.is_file() {
        Oid::hash_file(ObjectType::Blob, path)
    } else {
        return Ok(Oid::ZERO_SHA1);
    };
    hashed.map_err(|err| io::Error::other(err.message().to_owned()))
}

fn escape(path: &Path) -> String {
    percent_encode(path.as_os_str().as_bytes(), ESCAPED).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lists what is on disk below `root`, with content ids.
    fn scan(root: &Path) -> Result<Vec<Entry>, Fault> {
        let mut entries = Vec::new();
        visit_disk(root, root, 0, &mut |path, relative, meta| {
            entries.push(Entry::new(relative, hash(path, meta)?, meta));
            Ok(())
        })
        .map_err(|(path, err)| Fault::disk(&path, &err))?;
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(entries)
    }

    #[test]
    fn names_that_mean_git_or_leave_the_tree_are_refused() {
        for name in [
            "",
            ".",
            "..",
            "a/b",
            ".git",
            ".GIT",
            ".Git",
            "git~1",
            "GIT~1",
            ".git.",
            ".git ",
            ".git. .",
            ".git:x",
            ".git::$INDEX_ALLOCATION",
            ".git\\hooks",
            ".g\u{200c}it",
            ".gi\u{feff}t",
        ] {
            assert!(!is_safe_name(name.as_bytes()), "{name:?}");
        }
        for name in [".gitignore", ".github", "git", ".gitmodules", "-x", "a b", "é", "...", "git~10"] {
            assert!(is_safe_name(name.as_bytes()), "{name:?}");
        }
        assert!(is_safe_name(b"\xff\xfe"));
    }

    #[test]
    fn links_stay_in_the_tree() {
        let safe = |path: &str, target: &str| is_safe_link(Path::new(path), target.as_bytes());
        assert!(
            safe("l", "a") && safe("l", "a/b") && safe("d/l", "../a") && safe("d/e/l", "../../a") && safe("l", ".")
        );
        for (path, target) in [
            ("l", "/etc/passwd"),
            ("l", ".."),
            ("l", "../x"),
            ("d/l", "../../x"),
            ("l", "a/../../x"),
            ("l", "a/.."),
            ("l", ""),
            ("l", ".git/config"),
            ("d/l", "../.git/config"),
            ("l", "a\0b"),
        ] {
            assert!(!safe(path, target), "{path} -> {target}");
        }
    }

    #[test]
    fn changes_are_named() {
        let scratch = tempfile::tempdir().expect("scratch");
        let root = scratch.path();
        fs::create_dir(root.join("d")).expect("made");
        for (name, text) in [("a", "1"), ("d/b", "2"), ("c", "3")] {
            fs::write(root.join(name), text).expect("written");
        }
        let recorded = scan(root).expect("listed");
        assert!(changes(root, &recorded, Depth::Content).expect("read").is_empty());
        fs::write(root.join("a"), "9").expect("written");
        fs::write(root.join("d/new"), "").expect("written");
        fs::remove_file(root.join("c")).expect("removed");
        fs::set_permissions(root.join("d/b"), fs::Permissions::from_mode(0o755)).expect("changed");
        let mut found = changes(root, &recorded, Depth::Stat).expect("read");
        found.sort();
        assert_eq!(found, ["a is changed", "c is gone", "d/b has another mode", "d/new is new"]);
    }

    #[test]
    fn same_size_and_times_are_seen_through_by_content() {
        let scratch = tempfile::tempdir().expect("scratch");
        let path = scratch.path().join("a");
        fs::write(&path, "1").expect("written");
        let mut recorded = scan(scratch.path()).expect("listed");
        fs::write(&path, "2").expect("written");
        recorded[0].stat = Stat::of(&fs::symlink_metadata(&path).expect("there"));
        assert!(changes(scratch.path(), &recorded, Depth::Stat).expect("read").is_empty());
        assert_eq!(changes(scratch.path(), &recorded, Depth::Content).expect("read"), ["a is changed"]);
    }
}
