//! From a tree's gitlinks and its `.gitmodules` to the submodules that are to be brought.
//!
//! Both come from somebody else. A name becomes a directory below `.git/modules`, a path one of the
//! tree, an address a request to a server: each is judged here, before anything is asked for, and refused
//! by its name. What is bounded: how deep submodules have submodules, and how many there are below one
//! repository of the manifest; a repository that comes again below itself through another is refused.

use std::borrow::Cow;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use git2::{ObjectType, Oid, Tree};

use crate::fault::{Cause, Fault};
use crate::git::Objects;
use crate::gitmodules::{self, Section};
use crate::job;
use crate::source::Source;
use crate::tree::{Written, is_safe_name};

/// The file that says where submodules come from.
const FILE: &str = ".gitmodules";
/// How deep submodules may have submodules.
const MAX_DEPTH: usize = 8;
/// Most submodules below one repository of the manifest.
const MAX_COUNT: usize = 1000;
/// Longest name.
const MAX_NAME: usize = 1024;

/// A submodule that is to be brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Submodule {
    /// What its repository calls it; its place below `.git/modules`.
    pub(crate) name: String,
    /// Its place in its repository's tree.
    pub(crate) path: String,
    pub(crate) source: Source,
    pub(crate) commit: Oid,
}

/// What lies above a submodule, up to the repository of the manifest.
#[derive(Debug, Clone, Default)]
pub(crate) struct Chain {
    /// What the sources are called, the outermost first.
    sources: Vec<String>,
    /// How many submodules were found below the outermost.
    found: Arc<AtomicUsize>,
}

impl Chain {
    /// Whether nothing lies above, as above a repository of the manifest.
    pub(crate) fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// Returns the chain for what lies in the repository at `source`.
    fn with(&self, source: &Source) -> Self {
        let mut sources = self.sources.clone();
        sources.push(job::key(source));
        Self { sources, found: Arc::clone(&self.found) }
    }

    /// Judges whether a submodule may be brought into the last of these.
    fn admit(&self, submodule: &Submodule) -> Result<(), String> {
        if self.found.fetch_add(1, Ordering::Relaxed) >= MAX_COUNT {
            return Err(format!("is one of more than {MAX_COUNT}"));
        }
        if self.sources.len() > MAX_DEPTH {
            return Err(format!("is more than {MAX_DEPTH} deep in others"));
        }
        let key = job::key(&submodule.source);
        let above = self.sources.iter().filter(|source| **source == key).count();
        // A repository may hold another branch of itself, as the pages of its site.
        if above == 0 || (above == 1 && self.sources.last() == Some(&key)) {
            return Ok(());
        }
        Err("comes from a repository that it is in itself".to_owned())
    }
}

/// Returns the submodules of the tree that was written as `written` from `source`, and the chain above them.
pub(crate) fn of_tree(
    objects: Objects<'_>,
    tree: &Tree<'_>,
    written: &Written,
    source: &Source,
    above: &Chain,
) -> Result<(Vec<Submodule>, Chain), Fault> {
    let chain = above.with(source);
    if written.submodules.is_empty() {
        return Ok((Vec::new(), chain));
    }
    let refuse = |why: String| {
        Fault::new(Cause::Ref, format!("the commit's submodules are refused: {why}"))
            .hint("`submodules: false` leaves them empty")
    };
    if written.submodules.len() > MAX_COUNT {
        return Err(refuse(format!("there are more than {MAX_COUNT}")));
    }
    let sections = read(objects, tree).map_err(|why| refuse(format!("{FILE}: {why}")))?;
    judge(&sections, written).map_err(refuse)?;
    let mut submodules = Vec::new();
    for (path, commit) in &written.submodules {
        let section = sections.iter().find(|section| section.path.as_deref().map(Path::new) == Some(path));
        let submodule = section
            .ok_or_else(|| format!("{FILE} does not name it"))
            .and_then(|section| {
                let url = section.url.as_deref().ok_or_else(|| format!("{FILE} has no url for it"))?;
                let source = source.submodule(url)?;
                let path = section.path.clone().unwrap_or_default();
                let submodule = Submodule { name: section.name.clone(), path, source, commit: *commit };
                chain.admit(&submodule).map(|()| submodule)
            })
            .map_err(|why| refuse(format!("'{}': {why}", path.display().to_string().escape_debug())))?;
        submodules.push(submodule);
    }
    Ok((submodules, chain))
}

fn read(objects: Objects<'_>, tree: &Tree<'_>) -> Result<Vec<Section>, String> {
    let text = |err: git2::Error| err.message().to_owned();
    let Some(entry) = tree.get_name(FILE) else { return Ok(Vec::new()) };
    let reader = objects.reader().map_err(|fault| fault.message)?;
    let (size, kind) = reader.header(entry.id()).map_err(text)?;
    if kind != ObjectType::Blob || entry.filemode() & 0o170_000 != 0o100_000 {
        return Err("it is not a file".to_owned());
    }
    if size > gitmodules::MAX_BYTES {
        return Err(format!("it is larger than {} KiB", gitmodules::MAX_BYTES >> 10));
    }
    gitmodules::parse(&reader.read(entry.id()).map_err(text)?)
}

/// Judges all that is said, whether or not the tree has it: who writes such things means no good.
fn judge(sections: &[Section], written: &Written) -> Result<(), String> {
    let links: HashSet<Cow<'_, Path>> =
        written.entries.iter().filter(|entry| entry.is_link()).map(crate::tree::Entry::path).collect();
    for section in sections {
        let refuse = |why: &str| Err(format!("'{}' {why}", section.name.escape_debug()));
        // A quote would have to be escaped in the configuration.
        if !is_safe_path(&section.name) || section.name.len() > MAX_NAME || section.name.contains('"') {
            return refuse("is not a safe name");
        }
        if section.update.as_ref().is_some_and(|update| update.starts_with('!')) {
            return refuse("wants a command to be run");
        }
        let Some(path) = &section.path else { continue };
        if !is_safe_path(path) {
            return refuse("has a path that is not safe");
        }
        if Path::new(path).ancestors().any(|above| links.contains(above)) {
            return refuse("has a path through a symbolic link");
        }
    }
    let names: Vec<PathBuf> = sections.iter().map(|section| PathBuf::from(&section.name)).collect();
    let paths: Vec<PathBuf> = sections.iter().filter_map(|section| section.path.as_ref().map(PathBuf::from)).collect();
    for (list, what) in [(names, "name"), (paths, "path")] {
        if let Some(inner) = nested(list) {
            let inner = inner.display().to_string();
            return Err(format!("the {what} '{}' is, or lies in, that of another", inner.escape_debug()));
        }
    }
    Ok(())
}

/// Returns a path that stands twice or lies below another one.
fn nested(mut paths: Vec<PathBuf>) -> Option<PathBuf> {
    // By components, a path comes right before what lies below it.
    paths.sort();
    paths.windows(2).find(|pair| pair[1].starts_with(&pair[0])).map(|pair| pair[1].clone())
}

/// Whether a name or path is made of safe names and nothing else.
fn is_safe_path(path: &str) -> bool {
    !path.starts_with('-')
        && !path.chars().any(char::is_control)
        && !path.contains('\\')
        && path.split('/').all(|part| is_safe_name(part.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(name: &str, path: &str) -> Section {
        Section { name: name.to_owned(), path: Some(path.to_owned()), ..Section::default() }
    }

    #[test]
    fn names_and_paths_are_judged() {
        let nothing = Written { entries: Vec::new(), directories: None, submodules: Vec::new() };
        let judge = |sections: &[Section]| judge(sections, &nothing);
        assert!(judge(&[section("a", "lib/a"), section("a.b", "lib/ab"), section("x/y", "z")]).is_ok());
        for name in ["", "..", "../x", "a/../b", "/a", "a/", "a//b", ".", "-x", "a\\b", "a\nb", ".git", "a/.GIT/b"] {
            assert!(judge(&[section(name, "p")]).is_err(), "{name:?}");
            assert!(judge(&[section("n", name)]).is_err(), "{name:?}");
        }
        for (a, b) in [("a", "a/b"), ("a/modules/b", "a"), ("a", "a")] {
            assert!(judge(&[section(a, "p"), section("m", "q"), section(b, "r")]).is_err(), "{a} {b}");
            assert!(judge(&[section("l", a), section("m", "q"), section("n", b)]).is_err(), "{a} {b}");
        }
        let update = |update: &str| judge(&[Section { update: Some(update.to_owned()), ..section("a", "b") }]);
        assert!(update("!touch x").is_err() && update("rebase").is_ok());
    }

    #[test]
    fn chains_end() {
        let source = |name: &str| Source::parse(&format!("https://h/{name}"), Path::new("")).expect("valid");
        let submodule = |name: &str| Submodule {
            name: "n".to_owned(),
            path: "p".to_owned(),
            source: source(name),
            commit: Oid::ZERO_SHA1,
        };
        let one = Chain::default().with(&source("a"));
        assert!(one.admit(&submodule("b")).is_ok());
        assert!(one.admit(&submodule("a")).is_ok(), "another branch of itself");
        assert!(one.with(&source("a")).admit(&submodule("a")).is_err());
        assert!(one.with(&source("b")).admit(&submodule("a")).is_err());
        assert!(one.with(&source("b")).admit(&submodule("c")).is_ok());
        let mut deep = one.clone();
        for number in 1..MAX_DEPTH {
            deep = deep.with(&source(&number.to_string()));
        }
        assert!(deep.admit(&submodule("x")).is_ok());
        assert!(deep.with(&source("y")).admit(&submodule("x")).is_err());
        let many = Chain::default().with(&source("a"));
        let admitted = (0..=MAX_COUNT).filter(|_| many.admit(&submodule("x")).is_ok()).count();
        assert_eq!(admitted, MAX_COUNT);
    }
}
