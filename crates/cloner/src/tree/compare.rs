//! What has changed on the disk since a tree was written.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use git2::{ObjectType, Oid};

use super::walk::MAX_DEPTH;
use super::{Entry, Stat, escape};

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
