//! Commits of a snapshot in files: what crosses an air gap.

use std::fs;
use std::io::Read;
use std::path::Path;

use super::{Git, HISTORICAL};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::files;
use crate::manifest::Repo;

/// A snapshot's part of one repository.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pinned<'a> {
    /// Snapshot.
    pub(crate) id: &'a Digest,
    /// What it holds of the repository.
    pub(crate) repo: &'a Repo,
}

impl Git<'_> {
    /// Writes into `file` what a snapshot has of a repository and `since` has not; tells whether there is anything.
    ///
    /// # Errors
    /// [`Error::Rejected`] with git's words; [`Error::Damaged`] when a pin is lost.
    pub(crate) fn bundle(&self, what: Pinned<'_>, since: Option<Pinned<'_>>, file: &Path) -> Result<bool> {
        let Pinned { id, repo } = what;
        let directory = self.directory(&repo.path);
        if let Some(lost) = self.unpinned(repo, id)?.first() {
            let message = format!("the pin of {lost} for {id} is lost");
            return Err(Error::Damaged { path: directory, message });
        }
        if repo.refs.is_empty() {
            return Ok(false);
        }
        let mut names: String = repo.refs.keys().map(|name| format!("{}\n", pin(id, name))).collect();
        // Of a repository that the earlier snapshot had under another name nothing is taken for granted.
        let known = since.map(|since| since.repo.refs.values()).into_iter().flatten();
        names.extend(known.map(|target| format!("^{target}\n")));
        let mut create = self.command(Some(&directory), None);
        // One thread gives one order.
        create.args(["-c", "pack.threads=1", "bundle", "create", "--quiet"]).arg(file).arg("--stdin");
        match self.run(create, Some(names.into_bytes()), self.limits.total) {
            Ok(_) => Ok(true),
            Err(message) if message.contains("Refusing to create empty bundle") => Ok(false),
            Err(message) => Err(Error::rejected(&repo.path, message)),
        }
    }

    /// Takes a snapshot's commits from a file (`None`: `since` has them all), pins them, and makes branches and tags
    /// what they are in the snapshot.
    ///
    /// # Errors
    /// [`Error::Rejected`] when the file does not hold exactly what the snapshot says.
    pub(crate) fn unbundle(&self, what: Pinned<'_>, since: Option<Pinned<'_>>, file: Option<&Path>) -> Result<()> {
        let directory = self.directory(&what.repo.path);
        if directory.is_dir() {
            self.remove_stale_locks(&directory)?;
            return self.unbundle_into(&directory, what, since, file);
        }
        let work = self.store.temporary("git");
        let done = self
            .init(&what.repo.path, &work, what.repo.head.as_deref())
            .and_then(|()| self.unbundle_into(&work, what, since, file))
            .and_then(|()| self.place(&work, &directory));
        if done.is_err() {
            files::remove(&work)?;
        }
        done
    }

    fn unbundle_into(
        &self,
        work: &Path,
        what: Pinned<'_>,
        since: Option<Pinned<'_>>,
        file: Option<&Path>,
    ) -> Result<()> {
        let Pinned { id, repo } = what;
        let all = pin(id, "refs/*");
        if let Some(file) = file {
            if !is_bundle(file)? {
                return Err(Error::rejected(&repo.path, "what comes as its commits is no bundle of git"));
            }
            let mut fetch = self.command(Some(work), None);
            fetch.args(["-c", "fetch.fsckObjects=true"]);
            for message in HISTORICAL {
                fetch.arg("-c").arg(format!("fetch.fsck.{message}=ignore"));
            }
            fetch.args(["fetch", "--quiet", "--force", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance"]);
            fetch.arg("--").arg(file).arg(format!("+{all}:{all}"));
            self.run(fetch, None, self.limits.total).map_err(|message| Error::rejected(&repo.path, message))?;
        }
        self.pin_in(work, repo, id)?;
        self.is_complete(work, repo, since)?;
        let pins = self.refs(work, &[&pin(id, "refs/")])?;
        if pins.len() != repo.refs.len() {
            return Err(Error::rejected(&repo.path, "brings refs that the snapshot does not have"));
        }
        // As a fetch from an upstream does it: all of them in one step.
        let mut update = self.command(Some(work), None);
        update.args(["fetch", "--quiet", "--prune", "--atomic", "--force", "--no-tags", "--no-write-fetch-head"]);
        update.args(["--no-auto-maintenance", "--"]).arg(work);
        for kind in ["heads", "tags"] {
            update.arg(format!("+{}:refs/{kind}/*", pin(id, &format!("refs/{kind}/*"))));
        }
        self.local_run(update, None, &repo.path)?;
        if let Some(head) = &repo.head {
            let mut set = self.command(Some(work), None);
            set.args(["symbolic-ref", "HEAD", head]);
            self.local_run(set, None, &repo.path)?;
        }
        Ok(())
    }

    /// Checks that everything is there that the refs of a snapshot reach, but what `since` reaches.
    fn is_complete(&self, directory: &Path, repo: &Repo, since: Option<Pinned<'_>>) -> Result<()> {
        let mut ids: String = repo.refs.values().map(|target| format!("{target}\n")).collect();
        let known = since.map(|since| since.repo.refs.values()).into_iter().flatten();
        ids.extend(known.map(|target| format!("^{target}\n")));
        let mut list = self.command(Some(directory), None);
        list.args(["rev-list", "--objects", "--quiet", "--stdin"]);
        self.run(list, Some(ids.into_bytes()), self.limits.total)
            .map(|_| ())
            .map_err(|message| Error::rejected(&repo.path, message))
    }
}

/// Whether git would take a file for a bundle: anything else may tell it to read some other repository.
fn is_bundle(file: &Path) -> Result<bool> {
    let mut head = Vec::new();
    let content = files::open_regular(file).map_err(Error::read(file))?;
    content.take(16).read_to_end(&mut head).map_err(Error::read(file))?;
    Ok(matches!(&head[..], b"# v2 git bundle\n" | b"# v3 git bundle\n"))
}

/// The pin of a ref; `refs/stacktira/snap/ID/heads/main`.
fn pin(id: &Digest, name: &str) -> String {
    format!("refs/stacktira/snap/{id}/{}", name.strip_prefix("refs/").unwrap_or(name))
}

/// A file that is removed when it is not needed any more.
#[derive(Debug)]
pub(crate) struct Scrap(pub(crate) std::path::PathBuf);

impl Scrap {
    /// How long the file is.
    ///
    /// # Errors
    /// [`Error::Read`].
    pub(crate) fn open(&self) -> Result<(fs::File, u64)> {
        let file = files::open_regular(&self.0).map_err(Error::read(&self.0))?;
        let size = file.metadata().map_err(Error::read(&self.0))?.len();
        Ok((file, size))
    }
}

impl Drop for Scrap {
    fn drop(&mut self) {
        // What cannot be removed is in a directory that is swept, or was named by an error.
        let _ = fs::remove_file(&self.0);
    }
}
