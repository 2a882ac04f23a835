//! `diff`: what differs between two snapshots.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use toolkit::Io;
use toolkit::exit;

use crate::config::Config;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::manifest::{Manifest, Source};
use crate::store::Store;

/// One difference between two snapshots.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Change {
    r#type: &'static str,
    v: u32,
    source: String,
    name: String,
    arch: Option<String>,
    old: Option<String>,
    new: Option<String>,
}

/// What is compared: source, name, architecture, with every version and what tells apart equal versions.
type Items = BTreeMap<(String, String, Option<String>), BTreeSet<(String, String)>>;

fn items(manifest: &Manifest) -> Items {
    let mut items = Items::new();
    for source in &manifest.sources {
        match source {
            Source::Deb(_) | Source::Rpm(_) => {
                for package in source.packages() {
                    let key = (source.name().to_owned(), package.name.clone(), Some(package.arch.clone()));
                    items.entry(key).or_default().insert((package.version.clone(), package.sha256.to_string()));
                }
            }
            Source::Files(part) => {
                for file in &part.files {
                    let key = (part.name.clone(), file.path.clone(), None);
                    items.entry(key).or_default().insert((file.sha256.to_string(), String::new()));
                }
            }
            Source::Git(git) => {
                for repo in &git.repos {
                    for (name, target) in &repo.refs {
                        let key = (git.name.clone(), format!("{} {name}", repo.path), None);
                        items.entry(key).or_default().insert((target.clone(), String::new()));
                    }
                }
            }
        }
    }
    items
}

fn changes(old: &Manifest, new: &Manifest) -> Vec<Change> {
    let (old, new) = (items(old), items(new));
    let keys: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    let none = BTreeSet::new();
    let mut changes = Vec::new();
    for key in keys {
        let (before, after) = (old.get(key).unwrap_or(&none), new.get(key).unwrap_or(&none));
        let mut gone = before.difference(after).map(|(version, _)| version.clone());
        let mut come = after.difference(before).map(|(version, _)| version.clone());
        loop {
            let (old, new) = (gone.next(), come.next());
            if old.is_none() && new.is_none() {
                break;
            }
            let (source, name, arch) = key.clone();
            changes.push(Change { r#type: "change", v: 1, source, name, arch, old, new });
        }
    }
    changes
}

/// `diff`; returns the exit code.
///
/// # Errors
/// [`Error::NoSnapshot`] with 65; [`Error::Damaged`]; [`Error::Output`].
pub(crate) fn run(config: &Config, old: &Digest, new: &Digest, json: bool, io: &mut Io) -> Result<u8> {
    let store = Store::at(config.root()?);
    let load = |id: &Digest| {
        Manifest::load(&store, id).map_err(|error| match error {
            Error::NoSnapshot { id, .. } => Error::NoSnapshot { id, code: exit::BAD_INPUT },
            other => other,
        })
    };
    let changes = changes(&load(old)?, &load(new)?);
    for change in &changes {
        if json {
            io.json(change).map_err(Error::Output)?;
        } else {
            let arch = change.arch.as_ref().map(|arch| format!(":{arch}")).unwrap_or_default();
            let version = |version: &Option<String>| version.clone().unwrap_or_else(|| "-".into());
            let line =
                format!("{} {}{arch} {} {}\n", change.source, change.name, version(&change.old), version(&change.new));
            io.out(line).map_err(Error::Output)?;
        }
    }
    Ok(if changes.is_empty() { exit::OK } else { exit::NO })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Deb, Package};

    fn manifest(packages: &[(&str, &str, &str)]) -> Manifest {
        let packages = packages
            .iter()
            .map(|(name, version, content)| Package {
                name: (*name).into(),
                version: (*version).into(),
                arch: "amd64".into(),
                path: format!("pool/{name}"),
                size: 1,
                sha256: Digest::of(content.as_bytes()),
            })
            .collect();
        let lists = Vec::new;
        Manifest::new(vec![Source::Deb(Deb {
            name: "debian".into(),
            suites: lists(),
            components: lists(),
            architectures: lists(),
            packages,
            files: Vec::new(),
            keyring: None,
        })])
    }

    #[test]
    fn differences_pair_what_went_with_what_came() {
        let old = manifest(&[("a", "1", "x"), ("b", "1", "x"), ("same", "1", "x"), ("rebuilt", "1", "x")]);
        let new = manifest(&[("a", "2", "x"), ("c", "1", "x"), ("same", "1", "x"), ("rebuilt", "1", "y")]);
        let changes = changes(&old, &new);
        let short: Vec<_> = changes.iter().map(|c| (c.name.as_str(), c.old.as_deref(), c.new.as_deref())).collect();
        assert_eq!(
            short,
            [
                ("a", Some("1"), Some("2")),
                ("b", Some("1"), None),
                ("c", None, Some("1")),
                ("rebuilt", Some("1"), Some("1"))
            ]
        );
    }
}
