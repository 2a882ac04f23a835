//! The lock file: which commit each repository of a manifest was resolved to.
//!
//! It is JSON with one repository per line, sorted, so that equal content is equal bytes and a
//! change is one line in a diff. An entry belongs to a name, a source and a ref together: when the
//! manifest asks for something else, the old entry does not answer for it.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use toolkit::files;

use crate::error::Error;
use crate::manifest::Repo;
use crate::report::shown;

const VERSION: u32 = 1;
/// Largest lock file that is read.
const MAX_BYTES: u64 = 16 << 20;

/// What identifies an entry: name, source without credentials, ref.
type Key = (String, String, Option<String>);

/// The entries, commit and tree by key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Lock(BTreeMap<Key, (String, String)>);

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    v: u32,
    repos: Vec<Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    source: String,
    #[serde(rename = "ref")]
    reference: Option<String>,
    sha: String,
    tree: String,
}

impl Lock {
    /// Reads `path`; a missing file is an error if it is `needed`, else it has no entries.
    pub(crate) fn read(path: &Path, needed: bool) -> Result<Self, Error> {
        let wrong = |message: String| Error::Lock { path: path.to_owned(), message };
        let bytes = match files::read_given(path, MAX_BYTES) {
            Err(err) if err.kind() == std::io::ErrorKind::NotFound && !needed => return Ok(Self::default()),
            read => read.map_err(|err| wrong(err.to_string()))?,
        };
        let file: File = serde_json::from_slice(&bytes).map_err(|err| wrong(err.to_string()))?;
        if file.v != VERSION {
            return Err(wrong(format!("version {} is not known", file.v)));
        }
        let mut entries = BTreeMap::new();
        for entry in file.repos {
            let id = |text: &str| text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
            if !id(&entry.sha) || !id(&entry.tree) {
                return Err(wrong(format!("the entry of '{}' has no full ids", entry.name)));
            }
            entries.insert((entry.name, entry.source, entry.reference), (entry.sha, entry.tree));
        }
        Ok(Self(entries))
    }

    /// Makes the lock of `repos`; one that was not resolved keeps its entry in `old`.
    pub(crate) fn of<'a>(repos: impl Iterator<Item = (&'a Repo, Option<(String, String)>)>, old: &Self) -> Self {
        let entries = repos.filter_map(|(repo, resolved)| {
            let key = key(repo);
            let value = resolved.or_else(|| old.0.get(&key).cloned())?;
            Some((key, value))
        });
        Self(entries.collect())
    }

    /// Returns the commit and the tree for `repo`.
    pub(crate) fn find(&self, repo: &Repo) -> Option<(&str, &str)> {
        self.0.get(&key(repo)).map(|(sha, tree)| (sha.as_str(), tree.as_str()))
    }

    /// Writes it to `path`, unless the same is there.
    pub(crate) fn write(&self, path: &Path) -> Result<(), Error> {
        let failed = |source| Error::WriteLock { path: path.to_owned(), source };
        toolkit::atomic::write(path, self.text().map_err(failed)?.as_bytes(), 0o644).map(drop).map_err(failed)
    }

    fn text(&self) -> std::io::Result<String> {
        let mut lines = Vec::new();
        for ((name, source, reference), (sha, tree)) in &self.0 {
            lines.push(serde_json::to_string(&Entry {
                name: name.clone(),
                source: source.clone(),
                reference: reference.clone(),
                sha: sha.clone(),
                tree: tree.clone(),
            })?);
        }
        Ok(format!("{{\"v\": {VERSION}, \"repos\": [\n{}\n]}}\n", lines.join(",\n")))
    }
}

fn key(repo: &Repo) -> Key {
    (repo.name.clone(), shown(&repo.source), repo.reference.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repo(name: &str, reference: &str) -> Repo {
        Repo {
            name: name.to_owned(),
            path: name.to_owned(),
            source: "https://me:canary@host/x".to_owned(),
            reference: Some(reference.to_owned()),
            dest: name.to_owned(),
            submodules: true,
            signed: None,
            signers: None,
            at: String::new(),
        }
    }

    #[test]
    fn it_is_sorted_stable_and_read_back() {
        let scratch = tempfile::tempdir().expect("scratch");
        let path = scratch.path().join("lock");
        let (a, b) = (repo("a", "v1"), repo("b", "v1"));
        let ids = |digit: &str| Some((digit.repeat(40), digit.repeat(40)));
        let none = Lock::default();
        let lock = Lock::of([(&b, ids("2")), (&a, ids("1"))].into_iter(), &none);
        let same = Lock::of([(&a, ids("1")), (&b, ids("2"))].into_iter(), &none);
        assert_eq!(lock.text().expect("text"), same.text().expect("text"));
        assert!(!lock.text().expect("text").contains("canary"));
        lock.write(&path).expect("written");
        assert_eq!(Lock::read(&path, true).expect("read"), lock);
        assert_eq!(lock.find(&repo("a", "v2")), None);
        let kept = Lock::of([(&a, None), (&b, ids("3"))].into_iter(), &lock);
        assert_eq!(kept.find(&a).map(|(sha, _)| sha.to_owned()), Some("1".repeat(40)));
        none.write(&path).expect("written");
        assert_eq!(Lock::read(&path, true).expect("read"), none);
    }

    #[test]
    fn damaged_files_are_refused() {
        let scratch = tempfile::tempdir().expect("scratch");
        let path = scratch.path().join("lock");
        assert!(Lock::read(&path, true).is_err());
        assert!(Lock::read(&path, false).is_ok());
        for text in [
            "",
            "[]",
            "{\"v\":2,\"repos\":[]}",
            "{\"v\":1}",
            "{\"v\":1,\"repos\":[{\"name\":\"a\",\"source\":\"s\",\"ref\":null,\"sha\":\"1\",\"tree\":\"2\"}]}",
        ] {
            std::fs::write(&path, text).expect("written");
            assert!(Lock::read(&path, false).is_err(), "{text}");
        }
    }
}
