//! Pins: refs of a snapshot, which keep its commits when the upstream throws them away.

use std::collections::BTreeMap;
use std::path::Path;

use super::Git;
use crate::digest::Digest;
use crate::error::Result;
use crate::manifest::Repo;

impl Git<'_> {
    /// Makes `refs/stacktira/snap/ID/…` point at what a snapshot holds, in one transaction.
    ///
    /// # Errors
    /// [`Error::Rejected`] when an object is missing.
    pub(crate) fn pin(&self, repo: &Repo, id: &Digest) -> Result<()> {
        let directory = self.directory(&repo.path);
        self.remove_stale_locks(&directory)?;
        self.pin_in(&directory, repo, id)
    }

    pub(super) fn pin_in(&self, directory: &Path, repo: &Repo, id: &Digest) -> Result<()> {
        if repo.refs.is_empty() {
            return Ok(());
        }
        let mut script = String::from("start\n");
        for (name, target) in &repo.refs {
            let short = name.strip_prefix("refs/").unwrap_or(name);
            script.push_str(&format!("update refs/stacktira/snap/{id}/{short} {target}\n"));
        }
        script.push_str("prepare\ncommit\n");
        let mut update = self.command(Some(directory), None);
        update.args(["update-ref", "--stdin"]);
        self.local_run(update, Some(script.into_bytes()), &repo.path).map(|_| ())
    }

    /// Returns which of a snapshot's pins are missing or point elsewhere.
    ///
    /// # Errors
    /// [`Error::Rejected`].
    pub(crate) fn unpinned(&self, repo: &Repo, id: &Digest) -> Result<Vec<String>> {
        let directory = self.directory(&repo.path);
        let prefix = format!("refs/stacktira/snap/{id}/");
        let pins = if directory.is_dir() { self.refs(&directory, &[&prefix])? } else { BTreeMap::new() };
        let missing = |name: &str, target: &String| {
            let short = name.strip_prefix("refs/").unwrap_or(name);
            pins.get(&format!("{prefix}{short}")) != Some(target)
        };
        Ok(repo.refs.iter().filter(|(name, target)| missing(name, target)).map(|(name, _)| name.clone()).collect())
    }

    /// Removes the pins of snapshots that `keep` does not name.
    ///
    /// # Errors
    /// [`Error::Rejected`].
    pub(crate) fn unpin(&self, path: &str, keep: impl Fn(&str) -> bool) -> Result<usize> {
        let directory = self.directory(path);
        let pins = self.refs(&directory, &["refs/stacktira/snap/"])?;
        let stale: Vec<&String> = pins
            .keys()
            .filter(|name| {
                let id = name.strip_prefix("refs/stacktira/snap/").and_then(|rest| rest.split('/').next());
                !id.is_some_and(&keep)
            })
            .collect();
        if stale.is_empty() {
            return Ok(0);
        }
        self.remove_stale_locks(&directory)?;
        let script: String = stale.iter().map(|name| format!("delete {name}\n")).collect();
        let mut update = self.command(Some(&directory), None);
        update.args(["update-ref", "--stdin"]);
        self.local_run(update, Some(script.into_bytes()), path)?;
        Ok(stale.len())
    }
}
