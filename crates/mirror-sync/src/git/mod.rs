//! Bare mirrors of git repositories, kept by the `git` program.
//!
//! git itself is used, not a library: it is what clients of a mirror compare it with, it speaks every
//! transport, and it can be ended by a deadline. It runs with a closed environment and a closed list of
//! arguments: no user or system configuration, no prompt, no pager, only the protocol that the
//! source's URL has, and credentials in the environment, never in an argument.
//!
//! A new repository is fetched in `ROOT/tmp` and renamed; an existing one is updated by one atomic ref
//! transaction. Objects are never pruned while something may still point at them.

mod bundle;
mod pins;
pub(crate) mod published;
mod run;
mod upstream;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toolkit::lock::FileLock;

use crate::config::Limits;
use crate::error::{Error, Result};
use crate::files;
use crate::manifest::Repo;
use crate::store::Store;
pub(crate) use bundle::{Pinned, Scrap};
pub(crate) use run::{CONFIG, closed_environment};
pub(crate) use upstream::{Upstream, check_path};

/// What old programs wrote into commits that many repositories still have; it is no damage.
const HISTORICAL: [&str; 8] = [
    "badEmail",
    "badTimezone",
    "missingEmail",
    "missingNameBeforeEmail",
    "missingSpaceBeforeDate",
    "missingSpaceBeforeEmail",
    "zeroPaddedDate",
    "zeroPaddedFilemode",
];

/// The refs of a repository.
#[derive(Debug, Default, PartialEq, Eq)]
struct Refs {
    head: Option<String>,
    refs: BTreeMap<String, String>,
    /// The commits behind annotated tags; only of a mirror, not of its upstream.
    peeled: BTreeMap<String, String>,
}

/// Runs git in one mirror.
#[derive(Debug)]
pub(crate) struct Git<'a> {
    store: &'a Store,
    limits: &'a Limits,
    lock: Option<&'a FileLock>,
}

impl<'a> Git<'a> {
    /// Prepares to run git for readers of a mirror.
    pub(crate) fn reader(store: &'a Store, limits: &'a Limits) -> Self {
        Self { store, limits, lock: None }
    }

    /// Prepares to run git for the holder of the writer's lock. Children inherit the lock (as their empty standard
    /// input): when this process is killed the mirror stays locked until they have ended too, so whoever
    /// holds the lock next knows that no git is at work, and that lock files of git are left over.
    pub(crate) fn writer(store: &'a Store, limits: &'a Limits, lock: &'a FileLock) -> Self {
        Self { store, limits, lock: Some(lock) }
    }

    /// Returns where a repository is kept.
    pub(crate) fn directory(&self, path: &str) -> PathBuf {
        self.store.path("git").join(path)
    }

    /// Brings one repository to what its upstream has; returns it and whether anything changed.
    ///
    /// # Errors
    /// [`Error::Unavailable`]; [`Error::Write`].
    pub(crate) fn sync(&self, upstream: &Upstream) -> Result<(Repo, bool)> {
        let directory = self.directory(&upstream.path);
        let remote = self.with_retries(upstream, || self.remote(upstream))?;
        let present = directory.is_dir();
        if present {
            let local = self.local(&directory)?;
            if is_same(&local, &remote) {
                return Ok((repo(&upstream.path, local), false));
            }
            self.remove_stale_locks(&directory)?;
        }
        let work = if present { directory.clone() } else { self.store.temporary("git") };
        if !present {
            self.init(&upstream.path, &work, remote.head.as_deref())?;
        }
        self.with_retries(upstream, || self.fetch(upstream, &work))?;
        if let Some(head) = &remote.head {
            let mut set = self.command(Some(&work), None);
            set.args(["symbolic-ref", "HEAD", head]);
            self.local_run(set, None, &upstream.path)?;
        }
        let local = self.local(&work)?;
        if !present {
            self.place(&work, &directory)?;
        }
        Ok((repo(&upstream.path, local), true))
    }

    /// Whether an upstream has other refs than its mirror.
    ///
    /// # Errors
    /// [`Error::Unavailable`]; [`Error::Rejected`].
    pub(crate) fn would_move(&self, upstream: &Upstream) -> Result<bool> {
        let remote = self.with_retries(upstream, || self.remote(upstream))?;
        let directory = self.directory(&upstream.path);
        if !directory.is_dir() {
            return Ok(true);
        }
        let local = self.local(&directory)?;
        Ok(!is_same(&local, &remote))
    }

    /// Brings a damaged repository again: everything from its upstream, and from the damaged one the commits that only
    /// snapshots still have, as far as they are sound.
    ///
    /// # Errors
    /// As [`Git::sync`].
    pub(crate) fn fetch_again(&self, upstream: &Upstream) -> Result<()> {
        let directory = self.directory(&upstream.path);
        let work = self.store.temporary("git");
        self.init(&upstream.path, &work, None)?;
        self.with_retries(upstream, || self.fetch(upstream, &work))?;
        if directory.is_dir() {
            // One by one: a damaged commit must not keep the sound ones away.
            let pins = self.refs(&directory, &["refs/stacktira/snap/"]).unwrap_or_default();
            for name in pins.keys() {
                let mut fetch = self.command(Some(&work), None);
                fetch.args(["fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance", "--"]);
                fetch.arg(&directory).arg(format!("+{name}:{name}"));
                let _ = self.run(fetch, None, self.limits.total);
            }
            let head = files::read_bounded(&directory.join("HEAD"), 4096).map_err(Error::read(&directory))?;
            fs::write(work.join("HEAD"), head).map_err(Error::write(&work))?;
            let damaged = self.store.temporary("damaged");
            fs::rename(&directory, &damaged).map_err(Error::write(&directory))?;
            self.place(&work, &directory)?;
            return files::remove(&damaged);
        }
        self.place(&work, &directory)
    }

    fn init(&self, path: &str, work: &Path, head: Option<&str>) -> Result<()> {
        let branch = head.and_then(|head| head.strip_prefix("refs/heads/")).unwrap_or("main");
        let mut init = self.command(None, None);
        init.args(["init", "--quiet", "--bare", "--template="]).arg(format!("--initial-branch={branch}"));
        init.arg("--").arg(work);
        self.local_run(init, None, path).map(|_| ())
    }

    fn place(&self, work: &Path, directory: &Path) -> Result<()> {
        let parent = directory.parent().expect("a repository has a parent");
        files::make_dir(parent)?;
        fs::rename(work, directory).map_err(Error::write(directory))?;
        toolkit::atomic::sync_dir(parent).map_err(Error::write(parent))
    }

    /// Hashes every object again and checks that everything that any ref reaches is there.
    ///
    /// # Errors
    /// [`Error::Rejected`] with git's words.
    pub(crate) fn check(&self, path: &str) -> Result<()> {
        let mut fsck = self.command(Some(&self.directory(path)), None);
        for message in HISTORICAL {
            fsck.arg("-c").arg(format!("fsck.{message}=ignore"));
        }
        fsck.args(["fsck", "--full", "--no-dangling", "--no-progress"]);
        self.run(fsck, None, self.limits.total).map(|_| ()).map_err(|message| Error::rejected(path, message))
    }

    /// Packs a repository anew when many small packs have come together. Objects that nothing reaches stay for git's own
    /// two weeks, so that a client that is being answered finds them.
    ///
    /// # Errors
    /// [`Error::Rejected`] with git's words, such as those of a full disk.
    pub(crate) fn tidy(&self, path: &str) -> Result<()> {
        let mut pack = self.command(Some(&self.directory(path)), None);
        pack.args(["-c", "gc.auto=6700", "-c", "gc.autoPackLimit=50", "-c", "gc.autoDetach=false"]);
        pack.args(["gc", "--auto", "--quiet"]);
        self.run(pack, None, self.limits.total).map(|_| ()).map_err(|message| Error::rejected(path, message))
    }

    /// Removes lock files of git processes that were killed. Nobody else writes: we hold the writer's lock.
    fn remove_stale_locks(&self, directory: &Path) -> Result<()> {
        fn walk(directory: &Path) -> Result<()> {
            for name in files::names_in(directory)? {
                let path = directory.join(&name);
                if fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir()) {
                    walk(&path)?;
                } else if name.ends_with(".lock") {
                    files::remove(&path)?;
                }
            }
            Ok(())
        }
        if self.lock.is_none() {
            return Ok(());
        }
        for name in files::names_in(directory)? {
            if name.ends_with(".lock") {
                files::remove(&directory.join(name))?;
            }
        }
        walk(&directory.join("refs"))
    }

    fn remote(&self, upstream: &Upstream) -> std::result::Result<Refs, String> {
        let mut list = self.command(None, Some(upstream));
        list.args(["ls-remote", "--symref", "--", &upstream.url, "HEAD", "refs/heads/*", "refs/tags/*"]);
        let text = self.run(list, None, self.limits.total)?;
        let mut refs = Refs::default();
        for line in text.lines() {
            let Some((value, name)) = line.split_once('\t') else { continue };
            if let (Some(target), "HEAD") = (value.strip_prefix("ref: "), name) {
                refs.head = Some(target.to_owned()).filter(|target| target.starts_with("refs/heads/"));
            } else if (name.starts_with("refs/heads/") || name.starts_with("refs/tags/")) && !name.ends_with("^{}") {
                refs.refs.insert(name.to_owned(), value.to_owned());
            }
        }
        Ok(refs)
    }

    fn fetch(&self, upstream: &Upstream, directory: &Path) -> std::result::Result<(), String> {
        let mut fetch = self.command(Some(directory), Some(upstream));
        fetch.args(["fetch", "--quiet", "--prune", "--atomic", "--force", "--no-tags", "--no-write-fetch-head"]);
        fetch.args(["--no-auto-maintenance", "--no-recurse-submodules", "--", &upstream.url]);
        fetch.args(["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"]);
        self.run(fetch, None, self.limits.total).map(|_| ())
    }

    fn local(&self, directory: &Path) -> Result<Refs> {
        let mut list = self.command(Some(directory), None);
        list.args(["for-each-ref", "--format=%(objectname) %(refname) %(*objecttype) %(*objectname)", "--"]);
        list.args(["refs/heads", "refs/tags"]);
        let text = self.local_run(list, None, &directory.to_string_lossy())?;
        let mut local = Refs::default();
        for line in text.lines() {
            let mut words = line.split(' ');
            let (Some(target), Some(name)) = (words.next(), words.next()) else { continue };
            local.refs.insert(name.to_owned(), target.to_owned());
            if let (Some("commit"), Some(commit)) = (words.next(), words.next()) {
                local.peeled.insert(name.to_owned(), commit.to_owned());
            }
        }
        let head = directory.join("HEAD");
        let text = files::read_bounded(&head, 4096).map_err(Error::read(&head))?;
        local.head = String::from_utf8_lossy(&text).trim().strip_prefix("ref: ").map(str::to_owned);
        Ok(local)
    }

    fn refs(&self, directory: &Path, patterns: &[&str]) -> Result<BTreeMap<String, String>> {
        let mut list = self.command(Some(directory), None);
        list.args(["for-each-ref", "--format=%(objectname) %(refname)", "--"]).args(patterns);
        let text = self.local_run(list, None, &directory.to_string_lossy())?;
        let pair = |line: &str| line.split_once(' ').map(|(target, name)| (name.to_owned(), target.to_owned()));
        Ok(text.lines().filter_map(pair).collect())
    }

    fn with_retries<T>(
        &self,
        upstream: &Upstream,
        mut attempt: impl FnMut() -> std::result::Result<T, String>,
    ) -> Result<T> {
        let retries = if upstream.protocol == "file" { 0 } else { self.limits.retries };
        let mut backoff = toolkit::backoff::Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        let mut last = String::new();
        for number in 0..=retries {
            if number > 0 {
                std::thread::sleep(backoff.next_delay());
            }
            match attempt() {
                Ok(value) => return Ok(value),
                Err(message) => last = message,
            }
        }
        let url = toolkit::redact::url(&upstream.url);
        Err(Error::unavailable(upstream.path.clone(), format!("cannot fetch from {url}: {last}")))
    }
}

/// Whether a mirror has what its upstream has. An upstream need not say what its HEAD is.
fn is_same(local: &Refs, remote: &Refs) -> bool {
    local.refs == remote.refs && (remote.head.is_none() || local.head == remote.head)
}

fn repo(path: &str, refs: Refs) -> Repo {
    Repo { path: path.to_owned(), head: refs.head, refs: refs.refs, peeled: refs.peeled }
}
