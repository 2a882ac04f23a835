//! What has changed on the disk since a tree was written.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use git2::{ObjectType, Oid};
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat};

use super::walk::MAX_DEPTH;
use super::{Directory, Entry, Stat, escape, plain};

/// How thoroughly a tree is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// A file whose size, times and inode are as recorded is taken for unchanged.
    Stat,
    /// Every byte is read.
    Content,
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
                } else if !same_stat && (entry.stat.size != meta.len() || entry.oid != hash(path, meta)?) {
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

/// Whether it is sure that nothing has changed, without listing more than `root` itself: each directory and file is as
/// it was recorded. If not, [`changes`] has to say.
///
/// A directory's times change with each name that comes to it or goes. Those of `root` do not count, as moving it to
/// its place changed them.
pub(crate) fn is_untouched(root: &Path, entries: &[Entry], directories: &[Directory]) -> bool {
    let look = || -> io::Result<bool> {
        let mut empty = true;
        for found in fs::read_dir(root)? {
            let (found, name) = found.map(|found| (found.file_type(), found.file_name()))?;
            if name == OsStr::new(".git") {
                continue;
            }
            let name = escape(Path::new(&name));
            let known = if found?.is_dir() {
                directories.binary_search_by(|directory| directory.path.as_str().cmp(&name)).is_ok()
            } else {
                entries.binary_search_by(|entry| entry.path.as_str().cmp(&name)).is_ok()
            };
            if !known {
                return Ok(false);
            }
            empty = false;
        }
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let root = openat(AT_FDCWD, root, flags, Mode::empty())?;
        let stat = |path: &str| fstatat(&root, &*plain(path), AtFlags::AT_SYMLINK_NOFOLLOW);
        for directory in directories {
            let now = stat(&directory.path)?;
            if SFlag::from_bits_truncate(now.st_mode) & SFlag::S_IFMT != SFlag::S_IFDIR || directory.stat != times(&now)
            {
                return Ok(false);
            }
        }
        for entry in entries {
            let now = stat(&entry.path)?;
            if entry.mode != now.st_mode || entry.stat != times(&now) {
                return Ok(false);
            }
        }
        Ok(!empty)
    };
    look().unwrap_or(false)
}

fn times(now: &FileStat) -> Stat {
    Stat {
        size: now.st_size.cast_unsigned(),
        mtime: now.st_mtime,
        mtime_ns: now.st_mtime_nsec,
        ctime: now.st_ctime,
        ctime_ns: now.st_ctime_nsec,
        inode: now.st_ino,
    }
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
        let entry = entry.map_err(fail(directory))?;
        if level == 0 && entry.file_name() == OsStr::new(".git") {
            continue;
        }
        let path = entry.path();
        // What the directory itself says, and what is asked for relative to it, spares walks along the path.
        if entry.file_type().map_err(fail(&path))?.is_dir() {
            visit_disk(root, &path, level + 1, visit)?;
        } else {
            let meta = entry.metadata().map_err(fail(&path))?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    use crate::fault::Fault;

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

    type Change<'a> = &'a dyn Fn(&Path);

    /// Waits until what is written has later times than what was.
    fn tick() {
        let clock = || nix::time::ClockId::CLOCK_REALTIME_COARSE.now().expect("a clock");
        let begun = clock();
        while clock() == begun {
            std::thread::yield_now();
        }
    }

    #[test]
    fn whatever_changes_a_tree_is_seen_without_listing_its_directories() {
        let make = || {
            let scratch = tempfile::tempdir().expect("scratch");
            let root = scratch.path().join("tree");
            fs::create_dir_all(root.join("d/e")).expect("made");
            fs::create_dir(root.join("empty")).expect("made");
            for name in ["a", "d/b", "d/e/c", "d/50% é"] {
                fs::write(root.join(name), "1").expect("written");
            }
            let entries = scan(&root).expect("listed");
            let new = |path: &str| Directory { path: path.to_owned(), stat: Stat::NONE };
            let directories = super::super::look_again(&root, ["empty", "d", "d/e"].map(new).to_vec());
            tick();
            // As placing does.
            fs::rename(&root, scratch.path().join("place")).expect("moved");
            (scratch, entries, directories.expect("this file system tells times finely"))
        };
        let untouched = |change: Change<'_>| {
            let (scratch, entries, directories) = make();
            let place = scratch.path().join("place");
            change(&place);
            let sure = is_untouched(&place, &entries, &directories);
            let same = changes(&place, &entries, Depth::Content).expect("read").is_empty();
            (sure, same)
        };
        assert_eq!(untouched(&|_| ()), (true, true));
        assert_eq!(untouched(&|place| fs::create_dir(place.join(".git")).expect("made")), (true, true));
        let changed: [(&str, Change<'_>); 11] = [
            ("a new file", &|place| fs::write(place.join("new"), "").expect("written")),
            ("one in a directory", &|place| fs::write(place.join("d/new"), "").expect("written")),
            ("one in an empty one", &|place| fs::write(place.join("empty/new"), "").expect("written")),
            ("one in a new one", &|place| {
                fs::create_dir(place.join("n")).and_then(|()| fs::write(place.join("n/new"), "")).expect("written");
            }),
            ("other content of the same length", &|place| fs::write(place.join("d/e/c"), "2").expect("written")),
            ("a file less", &|place| fs::remove_file(place.join("d/e/c")).expect("removed")),
            ("none at all", &|place| {
                fs::remove_dir_all(place).and_then(|()| fs::create_dir(place)).expect("emptied");
            }),
            ("another mode", &|place| {
                fs::set_permissions(place.join("d/b"), fs::Permissions::from_mode(0o755)).expect("changed");
            }),
            ("two files exchanged", &|place| {
                fs::write(place.join("a"), "2").expect("written");
                for (from, to) in [("a", "x"), ("d/b", "a"), ("x", "d/b")] {
                    fs::rename(place.join(from), place.join(to)).expect("moved");
                }
            }),
            ("a link instead of a directory", &|place| {
                fs::rename(place.join("d/e"), place.join("../e")).expect("moved");
                std::os::unix::fs::symlink("../../e", place.join("d/e")).expect("linked");
            }),
            ("a file instead of a directory", &|place| {
                fs::remove_dir(place.join("empty")).and_then(|()| fs::write(place.join("empty"), "")).expect("written");
            }),
        ];
        for (what, change) in changed {
            assert_eq!(untouched(change), (false, false), "{what}");
        }
        // What is no change to the commit may be looked at closely, with the same result.
        assert_eq!(untouched(&|place| fs::write(place.join("a"), "1").expect("written")), (false, true));
        assert_eq!(untouched(&|place| fs::create_dir(place.join("d/none")).expect("made")), (false, true));
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
