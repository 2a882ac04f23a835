//! The manifest: which repositories, from where, at which ref, to which place.
//!
//! A manifest is a tree of mappings in YAML or JSON. Scalars are inherited down the tree and the
//! nearest definition wins. A mapping without sub-mappings for which `source` is set, by itself or
//! by inheritance, is a repository; one with sub-mappings is a group. `%{var}` stands for the
//! variable's value as the repository sees it, `%{name}` for the repository's own key; expansion
//! goes on until no token is left. `submodules: false` places a tree without its submodules;
//! `signed: tag` or `signed: commit` wants a signature by one of the keys in the file `signers`.
//!
//! `extends: FILE` at the top (or a list of files) lays the manifest on others: its texts replace
//! theirs of the same path and its new entries are added. Paths are relative to the file that
//! names them.
//!
//! A file that is called Puppetfile, or whose name ends with `.repos`, is read as r10k and vcstool
//! mean it.
//!
//! What always holds: a scalar means what is written (`1.10` and `yes` are texts); nothing is
//! guessed (an undefined variable, a cycle, a list, a duplicate key are errors with file, line and
//! column; a text that nothing uses is warned about); work is bounded whatever the input (bytes of
//! all files together, depth, aliases, length of a value).
//!
//! Values are not judged here: [`crate::source`] and [`crate::dest`] do that, for each repository
//! alone, so that one hostile entry does not stop the others.

mod expand;
mod foreign;
mod group;
mod read;

use std::collections::HashSet;
use std::fmt;
use std::path::Path;

use crate::nearest::nearest;

use expand::Expander;
use group::{Group, Place, Scalar};
use read::Reader;

/// Largest manifest that is read, with all that it extends.
pub const MAX_BYTES: usize = 1024 * 1024;
/// Longest value that expansion may produce.
const MAX_VALUE: usize = 4096;
/// The keys that have a meaning of their own in a repository.
const KNOWN: [&str; 6] = ["source", "ref", "dest", "submodules", "signed", "signers"];

/// A parsed manifest, before expansion.
#[derive(Debug, Clone)]
pub struct Manifest {
    root: Group,
}

/// One repository of a manifest, with all variables expanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repo {
    /// The key under which the manifest lists it.
    pub name: String,
    /// Keys from the top to the repository, joined by `::`.
    pub path: String,
    /// Where it comes from, as written.
    pub source: String,
    /// The branch, tag or commit; none means the remote's HEAD.
    pub reference: Option<String>,
    /// Where it goes, as written.
    pub dest: String,
    /// Whether submodules are placed, rather than an empty directory for each.
    pub submodules: bool,
    /// What must be signed, if anything.
    pub signed: Option<Signed>,
    /// The file with the keys of those who may sign.
    pub signers: Option<String>,
    /// Position of the repository in the manifest, `file:line:column`.
    pub at: String,
}

/// What a signature is wanted on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signed {
    /// The tag that `ref` names.
    Tag,
    /// The commit.
    Commit,
}

impl Signed {
    /// The word of the manifest.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Tag => "tag",
            Self::Commit => "commit",
        }
    }
}

/// Why a manifest cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The file cannot be read.
    #[error("cannot read the manifest {file}: {source}")]
    Read {
        /// The manifest's path.
        file: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The content is wrong at a known place.
    #[error("{at}: {message}")]
    At {
        /// `file:line:column`, or the override that is at fault.
        at: String,
        /// What is wrong.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// An override names something that the manifest does not have.
    #[error("override '{given}': {message}")]
    Override {
        /// The override as typed, without its value.
        given: String,
        /// What is wrong with it.
        message: String,
        /// The nearest thing that would work.
        hint: Option<String>,
    },
}

impl Manifest {
    /// Reads and parses `path` and what it extends.
    pub fn load(path: &Path) -> Result<Self, ManifestError> {
        Reader::new().load(path).map(|root| Self { root })
    }

    /// Parses `bytes`; `file` is the name used in messages, and the path that `extends` is relative to.
    pub fn parse(file: &str, bytes: &[u8]) -> Result<Self, ManifestError> {
        Reader::new().parse(&file.into(), bytes).map(|root| Self { root })
    }

    /// Applies `GROUP::REPO::KEY=VALUE`; `given` is the path as typed, for messages.
    ///
    /// The path must exist: a value of its own, one that is inherited there, or one that has a meaning
    /// in every repository, such as `ref`.
    pub fn set(&mut self, given: &str, path: &str, value: &str) -> Result<(), ManifestError> {
        let fail =
            |message: String, hint: Option<String>| ManifestError::Override { given: given.to_owned(), message, hint };
        let mut inherited: Vec<String> = KNOWN.iter().map(|&key| key.to_owned()).collect();
        let mut steps: Vec<&str> = path.split("::").collect();
        let key = steps.pop().unwrap_or_default();
        let all = self.paths();
        let suggest =
            || nearest(path, all.iter().map(String::as_str)).map(|near| format!("the nearest known one is --{near}"));
        let mut group = &mut self.root;
        for step in steps {
            inherited.extend(group.scalars.iter().map(|(name, _)| name.to_owned()));
            group = match group.groups.get_mut(step) {
                Some(child) => child,
                None => return Err(fail(format!("the manifest has no '{step}' there"), suggest())),
            };
        }
        if group.groups.get(key).is_some() {
            return Err(fail(
                "names a group or repository, not a value".to_owned(),
                Some(format!("name a value in it, as in --{path}::ref")),
            ));
        }
        let scalar = Scalar { text: value.to_owned(), at: Place::Override(given.to_owned()), plain: false };
        if group.scalars.get(key).is_none() && !inherited.iter().any(|name| name == key) {
            return Err(fail(format!("the manifest has no '{key}' there"), suggest()));
        }
        group.scalars.set(key.to_owned(), scalar);
        Ok(())
    }

    /// Returns every repository, in the order of the manifest.
    pub fn repos(&self) -> Result<Vec<Repo>, ManifestError> {
        let mut found = Vec::new();
        self.walk(&mut vec![&self.root], &mut Vec::new(), &mut found)?;
        Ok(found)
    }

    /// Names every text that nothing uses, which is most often a slip, with the word that may have been meant.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        fn asked<'a>(group: &'a Group, names: &mut HashSet<&'a str>) {
            group.scalars.iter().for_each(|(_, scalar)| names.extend(expand::asked(&scalar.text)));
            group.groups.iter().for_each(|(_, child)| asked(child, names));
        }
        fn unused(group: &Group, names: &HashSet<&str>, out: &mut Vec<String>) {
            for (key, scalar) in group.scalars.iter().filter(|(key, _)| !names.contains(key)) {
                let near = nearest(key, names.iter().copied());
                let meant = near.map(|near| format!(" (did you mean '{near}'?)")).unwrap_or_default();
                out.push(format!("{}: nothing uses '{key}'{meant}", scalar.at.show()));
            }
            group.groups.iter().for_each(|(_, child)| unused(child, names, out));
        }
        let mut names = HashSet::from(KNOWN);
        asked(&self.root, &mut names);
        let mut out = Vec::new();
        unused(&self.root, &names, &mut out);
        out
    }

    fn walk<'a>(
        &'a self,
        scope: &mut Vec<&'a Group>,
        path: &mut Vec<&'a str>,
        found: &mut Vec<Repo>,
    ) -> Result<(), ManifestError> {
        let group = *scope.last().expect("the walk starts with the root in scope");
        if group.groups.is_empty() {
            let has_source = scope.iter().any(|group| group.scalars.get("source").is_some());
            match path.last() {
                Some(name) if has_source => found.push(self.repo(scope, name, path)?),
                None if has_source => {
                    return Err(group.at.error(
                        "no repository has a name".to_owned(),
                        Some("put source, ref and dest below a name, as in `keystone: {source: …}`".to_owned()),
                    ));
                }
                // Only variables and no source: nothing to bring. But who writes a place for a
                // repository meant to have one.
                _ => {
                    let meant = group.scalars.iter().find(|(key, _)| *key == "ref" || *key == "dest");
                    if let Some((key, scalar)) = meant.filter(|_| !path.is_empty()) {
                        return Err(scalar.at.error(
                            format!("'{}' has {key} but no source", path.join("::")),
                            Some("set source here or in a group above".to_owned()),
                        ));
                    }
                }
            }
            return Ok(());
        }
        for (name, child) in group.groups.iter() {
            scope.push(child);
            path.push(name);
            self.walk(scope, path, found)?;
            path.pop();
            scope.pop();
        }
        Ok(())
    }

    fn repo(&self, scope: &[&Group], name: &str, path: &[&str]) -> Result<Repo, ManifestError> {
        let group = scope.last().expect("a repository is in its own scope");
        let mut expander = Expander::new(name, scope);
        let source = expander.value("source")?.unwrap_or_default();
        let reference = expander.value("ref")?;
        let dest = expander.value("dest")?.ok_or_else(|| {
            group.at.error(
                format!("'{}' has no dest", path.join("::")),
                Some("set dest here, or once above as in `dest: modules/%{name}`".to_owned()),
            )
        })?;
        let submodules = match expander.value("submodules")?.as_deref() {
            None | Some("true") => true,
            Some("false") => false,
            Some(other) => {
                let message = format!("submodules of '{}' is '{other}', not true or false", path.join("::"));
                return Err(expander.at("submodules").unwrap_or(&group.at).error(message, None));
            }
        };
        let signed = match expander.value("signed")?.as_deref() {
            None | Some("false") => None,
            Some("tag") => Some(Signed::Tag),
            Some("commit") => Some(Signed::Commit),
            Some(other) => {
                let message = format!("signed of '{}' is '{other}', not tag, commit or false", path.join("::"));
                return Err(expander.at("signed").unwrap_or(&group.at).error(message, None));
            }
        };
        let signers = expander.value("signers")?;
        if signed.is_some() && signers.is_none() {
            let message = format!("'{}' has signed but no signers", path.join("::"));
            let hint = "set signers to a file of ssh allowed signers or OpenPGP keys, here or once above";
            return Err(expander.at("signed").unwrap_or(&group.at).error(message, Some(hint.to_owned())));
        }
        Ok(Repo {
            signed,
            signers,
            submodules,
            name: name.to_owned(),
            path: path.join("::"),
            source,
            reference,
            dest,
            at: group.at.show(),
        })
    }

    /// Every path that an override may name.
    fn paths(&self) -> Vec<String> {
        fn collect(group: &Group, prefix: &str, out: &mut Vec<String>) {
            out.extend(group.scalars.iter().map(|(key, _)| format!("{prefix}{key}")));
            if !prefix.is_empty() {
                out.extend(
                    KNOWN.iter().filter(|key| group.scalars.get(key).is_none()).map(|key| format!("{prefix}{key}")),
                );
            }
            for (name, child) in group.groups.iter() {
                collect(child, &format!("{prefix}{name}::"), out);
            }
        }
        let mut out = Vec::new();
        collect(&self.root, "", &mut out);
        out
    }
}

impl fmt::Display for Repo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)
    }
}

#[cfg(test)]
mod tests;
