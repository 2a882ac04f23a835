//! The same files in two trees.

use std::fs;
use std::io;
use std::path::Path;

use super::walk::MAX_DEPTH;
use super::{Directory, Entry, Stat, look_again, make_dir};

/// Makes `to` the same tree as `from`, of the same files: each is linked, or copied where that cannot be
/// or where git writes into it. Returns `recorded` and `directories` as they are to be for `to`.
pub(crate) fn share(
    from: &Path,
    to: &Path,
    recorded: &[Entry],
    directories: Option<Vec<Directory>>,
) -> io::Result<(Vec<Entry>, Option<Vec<Directory>>)> {
    // Linking changes a file's times, so it is looked at before.
    let before: Vec<Option<Stat>> = recorded.iter().map(|entry| entry.stat_in(from)).collect();
    share_dir(from, to, 0, Sharing::Link)?;
    // What somebody has put into a directory is in the new one too, and has to be found there.
    let as_recorded = |directory: &Directory| directory.stat_in(from) == Some(directory.stat);
    let directories = directories.filter(|directories| directories.iter().all(as_recorded));
    let directories = directories.and_then(|directories| look_again(to, directories));
    let entries = recorded.iter().zip(before).map(|(entry, before)| {
        let now = entry.stat_in(to).filter(|_| before == Some(entry.stat));
        Entry { stat: now.unwrap_or(entry.stat), ..entry.clone() }
    });
    Ok((entries.collect(), directories))
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
        // What git changes in place is its own copy; objects never change. A submodule's are in `.git/modules`.
        let how = match how {
            Sharing::Link if level == 0 && name == ".git" => Sharing::Copy,
            Sharing::Copy if name == "objects" && from.join("HEAD").is_file() => Sharing::Link,
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
