//! A commit's tree entry by entry, each judged before anybody acts on it.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use git2::{ObjectType, Oid, Repository};

use super::escape;
use crate::fault::{Cause, Fault};
use crate::git::{Objects, Reader};

/// Largest file that is written.
const MAX_FILE: usize = 1 << 30;
/// Most bytes of one tree.
const MAX_TOTAL: u64 = 16 << 30;
/// Most entries of one tree.
const MAX_ENTRIES: usize = 1_000_000;
/// Deepest directory.
pub(super) const MAX_DEPTH: usize = 128;

/// What a tree has at a path.
pub(super) enum Item<'a> {
    Directory,
    Submodule { oid: Oid },
    File { oid: Oid, mode: u32 },
    Link { oid: Oid, target: &'a [u8] },
}

pub(super) struct Walk<'r> {
    repository: &'r Repository,
    reader: Reader<'r>,
    entries: usize,
    bytes: u64,
}

impl<'r> Walk<'r> {
    pub(super) fn new(objects: Objects<'r>) -> Result<Self, Fault> {
        Ok(Self { repository: objects.repository, reader: objects.reader()?, entries: 0, bytes: 0 })
    }

    pub(super) fn run(
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
                0o160_000 => visit(path, Item::Submodule { oid })?,
                mode => {
                    let (size, kind) = self.reader.header(oid).map_err(damaged)?;
                    if kind != ObjectType::Blob {
                        return refuse(path, "is no file");
                    }
                    self.bytes += size as u64;
                    if size > MAX_FILE || self.bytes > MAX_TOTAL {
                        return refuse(path, "is too large");
                    }
                    if mode == 0o120_000 {
                        let blob = self.reader.read(oid).map_err(damaged)?;
                        if name.eq_ignore_ascii_case(b".gitmodules") {
                            return refuse(path, "is a symbolic link, which could make git read another file");
                        }
                        if !is_safe_link(path, &blob) {
                            return refuse(path, "is a symbolic link that leaves the tree");
                        }
                        visit(path, Item::Link { oid, target: &blob })?;
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
pub(crate) fn is_safe_name(name: &[u8]) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
