//! Publishing a snapshot: a tree of hard links under its id.
//!
//! The tree is built in `ROOT/tmp` and renamed to `ROOT/pub/snap/ID` when it is whole, signed and its commits are
//! pinned. Nothing in it changes afterwards, so every URL below it stays valid for as long as the snapshot
//! exists, and old index files can always be fetched.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use toolkit::lock::FileLock;

use crate::config::Config;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::files;
use crate::git::Git;
use crate::import::Given;
use crate::manifest::{Git as GitPart, Manifest, Signed, Source};
use crate::parallel;
use crate::report;
use crate::repository;
use crate::sign::SigningKey;
use crate::snapshot::Info;
use crate::store::Store;

/// Where the site's signatures come from.
pub(crate) enum Signatures<'a> {
    /// Its key.
    Make(&'a SigningKey),
    /// They came along with the snapshot.
    Given(&'a Given),
}

/// What publishing needs: the writer's store and lock, and the site's signatures.
pub(crate) struct Publisher<'a> {
    pub(crate) store: &'a Store,
    pub(crate) lock: &'a FileLock,
    pub(crate) config: &'a Config,
    pub(crate) signatures: Signatures<'a>,
}

/// Publishes a snapshot whose content is in the store; one that is there is left alone. `confirmed` is when the sources
/// were last found to hold it, if that is not now. `prove` has the last word, with the tree as clients would see it; what it
/// refuses leaves nothing behind.
///
/// # Errors
/// Those of `prove`; [`Error::Rejected`] when a commit is missing; [`Error::Write`].
pub(crate) fn publish(
    by: &Publisher<'_>,
    manifest: &Manifest,
    bytes: &[u8],
    id: &Digest,
    confirmed: Option<u64>,
    prove: &mut dyn FnMut(&Path) -> Result<()>,
) -> Result<()> {
    let store = by.store;
    let target = store.path(format!("pub/snap/{id}"));
    if target.is_dir() {
        return Ok(());
    }
    store.settle()?;
    let work = store.temporary("snapshot");
    files::make_dir(&work)?;
    let mut links = Links::new(store);
    for source in &manifest.sources {
        let Some(directory) = source.directory() else { continue };
        let base = work.join(directory);
        files::make_dir(&base)?;
        for (path, _, sha256) in source.files() {
            if !repository::is_plain(path) {
                return Err(Error::Bug(format!("path {path:?} leaves the repository")));
            }
            links.add(sha256, &base.join(path))?;
        }
        if let Signatures::Make(key) = &by.signatures {
            source.signed().iter().try_for_each(|signed| sign(&base, signed, key))?;
        }
    }
    replace(&work.join("manifest.json"), bytes)?;
    if let Err(error) = prove(&work) {
        files::remove(&work)?;
        return Err(error);
    }
    for source in &manifest.sources {
        if let Source::Git(part) = source {
            pin(store, by.lock, by.config, part, id)?;
        }
    }
    let signer = match &by.signatures {
        Signatures::Make(key) => {
            replace(&work.join("manifest.json.sig"), &key.detached(bytes)?)?;
            key.fingerprint()
        }
        Signatures::Given(given) => {
            for (path, file) in given.files() {
                let bytes = fs::read(file).map_err(Error::read(file))?;
                replace(&work.join(path), &bytes)?;
            }
            given.signer.clone()
        }
    };
    sync_tree(&work)?;
    files::make_dir(&store.path(format!("snapshots/{id}")))?;
    let now = files::now();
    let holds = manifest.sources.iter().map(report::summary).collect();
    let confirmed = confirmed.map_or(now, |at| at.min(now));
    let info = Info { v: 1, created: now, signer, confirmed, holds };
    store.write_json(Info::path(id), &info)?;
    fs::rename(&work, &target).map_err(Error::write(&target))?;
    let parent = store.path("pub/snap");
    toolkit::atomic::sync_dir(&parent).map_err(Error::write(&parent))
}

fn pin(store: &Store, lock: &FileLock, config: &Config, part: &GitPart, id: &Digest) -> Result<()> {
    let git = Git::writer(store, &config.limits, lock);
    parallel::map(config.jobs, &part.repos, |repo| git.pin(repo, id)).into_iter().collect()
}

/// Makes the site's signatures of an index; those that are there are replaced.
///
/// # Errors
/// [`Error::Read`]; [`Error::Write`].
pub(crate) fn sign(base: &Path, signed: &Signed, key: &SigningKey) -> Result<()> {
    match signed {
        Signed::Release(directory) => {
            let directory = base.join(directory);
            let path = directory.join("Release");
            let text = fs::read_to_string(&path).map_err(Error::read(&path))?;
            replace(&directory.join("InRelease"), &key.cleartext(&text)?)?;
            replace(&directory.join("Release.gpg"), &key.detached(text.as_bytes())?)
        }
        Signed::Repomd => {
            let path = base.join("repodata/repomd.xml");
            let bytes = fs::read(&path).map_err(Error::read(&path))?;
            replace(&base.join("repodata/repomd.xml.asc"), &key.detached(&bytes)?)
        }
    }
}

/// Writes a published file, whole or not at all.
///
/// # Errors
/// [`Error::Write`].
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    toolkit::atomic::write(path, bytes, 0o444).map(|_| ()).map_err(Error::write(path))
}

/// Syncs the directories of a tree; its files are synced already.
fn sync_tree(directory: &Path) -> Result<()> {
    for entry in fs::read_dir(directory).map_err(Error::read(directory))? {
        let entry = entry.map_err(Error::read(directory))?;
        if entry.file_type().map_err(Error::read(directory))?.is_dir() {
            sync_tree(&entry.path())?;
        }
    }
    toolkit::atomic::sync_dir(directory).map_err(Error::write(directory))
}

/// Hard links of blobs, each directory made once.
struct Links<'a> {
    store: &'a Store,
    made: BTreeSet<std::path::PathBuf>,
}

impl<'a> Links<'a> {
    fn new(store: &'a Store) -> Self {
        Self { store, made: BTreeSet::new() }
    }

    fn add(&mut self, sha256: &Digest, path: &Path) -> Result<()> {
        let parent = path.parent().expect("a published file has a directory");
        if !self.made.contains(parent) {
            files::make_dir(parent)?;
            self.made.insert(parent.to_owned());
        }
        let blob = self.store.blob(sha256);
        match fs::hard_link(&blob, path) {
            // A file system allows a blob only so many names; a copy serves as well.
            Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EMLINK as i32) => {
                fs::copy(&blob, path).map(|_| ()).map_err(Error::write(path))
            }
            other => other.map_err(Error::write(path)),
        }
    }
}
