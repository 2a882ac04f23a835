//! Where a repository goes: judging a manifest's `dest`, and walking to it without following links.

use std::collections::HashMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::source::normal_relative;

/// Name of the directory below the root in which cloner keeps its own things.
pub(crate) const STATE_DIR: &str = ".cloner";

/// Longest place; with the root and what is in the tree, paths must stay below the system's 4096.
const MAX_BYTES: usize = 1024;

/// Judges `text` and returns the path below `root`.
///
/// # Errors
/// A message that says why the place is refused.
pub(crate) fn parse(text: &str, root: &Path) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err("dest is empty".to_owned());
    }
    if text.chars().any(char::is_control) {
        return Err("dest holds a control character".to_owned());
    }
    if text.len() > MAX_BYTES {
        return Err(format!("dest has more than {MAX_BYTES} bytes"));
    }
    let path = Path::new(text);
    let outside = || format!("dest '{text}' is outside of the root {}", root.display());
    let below = if path.is_absolute() { path.strip_prefix(root).map_err(|_| outside())? } else { path };
    let relative = normal_relative(below).ok_or_else(outside)?;
    if relative.as_os_str().is_empty() {
        return Err(format!("dest '{text}' is the root itself"));
    }
    for component in relative.components() {
        let part = component.as_os_str().to_string_lossy();
        if part.eq_ignore_ascii_case(".git") {
            return Err(format!("dest '{text}' is inside a .git directory"));
        }
        if part.starts_with('-') {
            return Err(format!("dest '{text}' has a part that begins with '-'"));
        }
        if part.len() > 255 {
            return Err("dest has a part of more than 255 bytes".to_owned());
        }
    }
    if relative.starts_with(STATE_DIR) {
        return Err(format!("dest '{text}' is where cloner keeps its own state"));
    }
    Ok(relative)
}

/// Two places that cannot both be, as indices of the later and the earlier one.
pub(crate) fn conflict(dests: &[Option<PathBuf>]) -> Option<(usize, usize)> {
    let mut taken: HashMap<&Path, usize> = HashMap::new();
    for (index, dest) in dests.iter().enumerate() {
        if let Some(dest) = dest
            && let Some(earlier) = taken.insert(dest, index)
        {
            return Some((index, earlier));
        }
    }
    for (index, dest) in dests.iter().enumerate() {
        let above = dest.iter().flat_map(|dest| dest.ancestors().skip(1));
        if let Some(&other) = above.into_iter().find_map(|above| taken.get(above)) {
            return Some((index.max(other), index.min(other)));
        }
    }
    None
}

/// Returns an error if a directory on the way from `root` to `dest`, or `dest` itself, is a link or no directory.
///
/// # Errors
/// A message that names the path.
pub(crate) fn check_path(root: &Path, dest: &Path) -> Result<(), String> {
    let mut path = root.to_owned();
    for component in dest.components() {
        let Component::Normal(part) = component else { continue };
        path.push(part);
        match fs::symlink_metadata(&path) {
            Ok(meta) if meta.file_type().is_symlink() => {
                return Err(format!("{} is a symbolic link", path.display()));
            }
            Ok(meta) if !meta.is_dir() => return Err(format!("{} is not a directory", path.display())),
            Ok(_) => {}
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(err) => return Err(format!("{}: {err}", path.display())),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_places_are_refused() {
        let root = Path::new("/srv/root");
        for text in [
            "",
            ".",
            "./",
            "..",
            "../x",
            "a/../../x",
            "a/../b",
            "/etc",
            "/srv/rootless/x",
            "/srv/root",
            "a/.git/hooks",
            ".GIT",
            ".cloner",
            ".cloner/x",
            "-x",
            "a/-x",
            "a\nb",
            "a\0b",
        ] {
            assert!(parse(text, root).is_err(), "{text:?}");
        }
        for (text, expected) in [("a", "a"), ("./a//b/", "a/b"), ("/srv/root/a", "a"), ("a b", "a b"), ("..a", "..a")] {
            assert_eq!(parse(text, root), Ok(PathBuf::from(expected)));
        }
    }

    #[test]
    fn equal_and_nested_places_conflict() {
        let dests = |list: &[&str]| list.iter().map(|text| Some(PathBuf::from(text))).collect::<Vec<_>>();
        assert_eq!(conflict(&dests(&["a", "b", "ab", "c/d"])), None);
        assert_eq!(conflict(&dests(&["a", "b", "a"])), Some((2, 0)));
        assert_eq!(conflict(&dests(&["a/b/c", "x", "a"])), Some((2, 0)));
        assert_eq!(conflict(&dests(&["a", "a/b"])), Some((1, 0)));
    }
}
