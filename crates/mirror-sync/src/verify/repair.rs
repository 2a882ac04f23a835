//! `verify --repair`: brings again what is damaged.
//!
//! Content comes from a sound copy in the mirror, from another form of the same index (an unpacked or packed
//! sibling), or from the source as it is configured now; whatever it comes from, it is used only if it has the
//! digest. Signatures are made again over sound content, pins are set again, repositories are fetched again. A
//! damaged blob that nobody can bring again leaves the store, so that the next `sync` fetches it; what is
//! published of it stays as it is and is named.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use toolkit::Io;
use toolkit::lock::FileLock;

use super::Damage;
use crate::config::{self, Config};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::files;
use crate::git::Git;
use crate::manifest::{Manifest, Source};
use crate::publish;
use crate::repository;
use crate::sign::SigningKey;
use crate::snapshot;
use crate::state::State;
use crate::store::Store;
use crate::sync;
use crate::upstream;

/// Largest index that is made again from another form of it.
const MAX_INDEX: u64 = 1 << 30;

/// What repairs need.
pub(super) struct Repair<'a> {
    pub(super) config: &'a Config,
    pub(super) store: &'a Store,
    pub(super) lock: &'a FileLock,
    pub(super) key: &'a SigningKey,
    /// Where sound content is.
    pub(super) good: BTreeMap<Digest, PathBuf>,
}

/// Where content is published: source and path, for every snapshot that has it.
type Places = BTreeMap<Digest, Vec<(String, String, u64)>>;

impl Repair<'_> {
    /// Repairs what can be.
    ///
    /// # Errors
    /// [`Error::Write`]; what cannot be repaired is no error here.
    pub(super) fn run(&self, damage: &BTreeSet<Damage>, io: &mut Io) -> Result<()> {
        let mut contents: BTreeMap<&Digest, Vec<&Path>> = BTreeMap::new();
        for item in damage {
            match item {
                Damage::Content { path, sha256: Some(sha256) } => contents.entry(sha256).or_default().push(path),
                // Without it clients ask git; `sync` makes it again.
                Damage::Content { path, sha256: None } | Damage::Form(path) => files::remove(path)?,
                _ => {}
            }
        }
        if !contents.is_empty() {
            let (places, manifests) = self.places()?;
            for (sha256, paths) in contents {
                if self.content(sha256, &paths, &places, &manifests, io)? {
                    io.note(format_args!("content {sha256} is sound again"));
                }
            }
        }
        for item in damage {
            let done = match item {
                Damage::Signature(id) => self.signature(id),
                Damage::Index { id, source } => self.index(id, source),
                _ => continue,
            };
            self.tell(done, io)?;
        }
        let mut fetched = BTreeSet::new();
        for item in damage {
            if let Damage::Objects(path) | Damage::Pin { path, .. } = item
                && fetched.insert(path)
            {
                self.tell(self.repository(path), io)?;
            }
        }
        Ok(())
    }

    /// Content that cannot be repaired is named by the check that follows; a disk that is full ends it.
    fn tell(&self, done: Result<()>, io: &mut Io) -> Result<()> {
        match done {
            Err(error @ Error::Write { .. }) => Err(error),
            Err(error) => {
                io.warn(toolkit::exit::chain(&error));
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn places(&self) -> Result<(Places, Vec<Manifest>)> {
        let mut places = Places::new();
        let mut manifests = Vec::new();
        for (id, _) in snapshot::all(self.store)? {
            // One that is damaged was named.
            let Ok(manifest) = Manifest::load(self.store, &id) else { continue };
            for source in &manifest.sources {
                for (path, size, sha256) in source.files() {
                    let place = (source.name().to_owned(), path.to_owned(), size);
                    let known = places.entry(sha256.clone()).or_default();
                    if !known.contains(&place) {
                        known.push(place);
                    }
                }
            }
            manifests.push(manifest);
        }
        Ok((places, manifests))
    }

    /// Brings content again and links it wherever it is published.
    fn content(
        &self,
        sha256: &Digest,
        paths: &[&Path],
        places: &Places,
        manifests: &[Manifest],
        io: &mut Io,
    ) -> Result<bool> {
        let blob = self.store.blob(sha256);
        if self.good.get(sha256).is_none_or(|path| *path != blob) {
            // Whoever looks for it must not take the damaged one for it.
            files::remove(&blob)?;
            let nowhere = Vec::new();
            let known = places.get(sha256).unwrap_or(&nowhere);
            let brought = self.copied(sha256)?
                || self.made_from_sibling(sha256, known, manifests)?
                || self.sent_by_source(sha256, known)?;
            if !brought {
                for (source, path, _) in known {
                    io.warn(format_args!("source {source}: nobody has {path} any more"));
                }
                return Ok(false);
            }
            self.store.settle()?;
        }
        for path in paths.iter().filter(|path| **path != blob) {
            let link = self.store.temporary("link");
            fs::hard_link(&blob, &link).map_err(Error::write(&link))?;
            let parent = path.parent().expect("a published file has a directory");
            files::make_dir(parent)?;
            fs::rename(&link, path).map_err(Error::write(path))?;
            toolkit::atomic::sync_dir(parent).map_err(Error::write(parent))?;
        }
        Ok(true)
    }

    fn take(&self, sha256: &Digest, path: &Path) -> Result<bool> {
        let Ok(file) = files::open_regular(path) else { return Ok(false) };
        let mut staged = self.store.stage()?;
        match staged.copy(file, path) {
            Err(error @ Error::Write { .. }) => return Err(error),
            Err(_) => return Ok(false),
            Ok(()) => {}
        }
        staged.store_if(self.store, sha256)
    }

    fn copied(&self, sha256: &Digest) -> Result<bool> {
        match self.good.get(sha256) {
            Some(path) => self.take(sha256, path),
            None => Ok(false),
        }
    }

    /// An index is published in several forms, from each of which the others can be made.
    fn made_from_sibling(
        &self,
        sha256: &Digest,
        known: &[(String, String, u64)],
        manifests: &[Manifest],
    ) -> Result<bool> {
        for (name, path, _) in known {
            let stem = path.strip_suffix(".gz").or_else(|| path.strip_suffix(".xz")).unwrap_or(path);
            for source in manifests.iter().flat_map(|manifest| &manifest.sources).filter(|part| part.name() == name) {
                let siblings: Vec<(&str, &Digest)> = source
                    .files()
                    .filter(|(other, _, _)| {
                        other.strip_prefix(stem).is_some_and(|end| ["", ".gz", ".xz"].contains(&end))
                    })
                    .map(|(other, _, digest)| (&other[stem.len()..], digest))
                    .collect();
                // Only forms that belong to the one that is missing.
                if !siblings.iter().any(|(_, digest)| *digest == sha256) {
                    continue;
                }
                for (form, digest) in &siblings {
                    let Some(from) = self.good.get(digest) else { continue };
                    let Ok(packed) = files::read_bounded(from, MAX_INDEX) else { continue };
                    let Ok(plain) = repository::unpacked(form, packed, MAX_INDEX) else { continue };
                    for made in [Ok(plain.clone()), repository::gzip(&plain), repository::xz(&plain)] {
                        let made = made?;
                        if Digest::of(&made) == *sha256 {
                            self.store.put(&made)?;
                            return Ok(true);
                        }
                    }
                }
            }
        }
        Ok(false)
    }

    /// The sources as they are configured now.
    fn sent_by_source(&self, sha256: &Digest, known: &[(String, String, u64)]) -> Result<bool> {
        for source in &self.config.sources {
            if let Some(config::Origin::Dir(dir)) = source.origin() {
                let files: Vec<String> = match State::load(self.store, source)? {
                    Some(State::Deb(state)) => {
                        let mine = state.packages.into_iter().filter(|found| found.sha256 == *sha256);
                        mine.map(|found| found.file).collect()
                    }
                    Some(State::Rpm(state)) => {
                        let mine = state.packages.into_iter().filter(|found| found.sha256 == *sha256);
                        mine.map(|found| found.file).collect()
                    }
                    _ => Vec::new(),
                };
                for file in files {
                    if self.take(sha256, &dir.join(file))? {
                        return Ok(true);
                    }
                }
            }
            for (_, path, size) in known.iter().filter(|(name, ..)| name == source.name()) {
                if upstream::fetch_again(self.config, self.store, source, path, *size, sha256)? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    fn signature(&self, id: &Digest) -> Result<()> {
        let base = self.store.path(format!("pub/snap/{id}"));
        let manifest = Manifest::load(self.store, id)?;
        publish::replace(&base.join("manifest.json.sig"), &self.key.detached(&manifest.encode()?.0)?)
    }

    fn index(&self, id: &Digest, name: &str) -> Result<()> {
        let manifest = Manifest::load(self.store, id)?;
        for source in manifest.sources.iter().filter(|source| source.name() == name) {
            let Some(directory) = source.directory() else { continue };
            let base = self.store.path(format!("pub/snap/{id}")).join(directory);
            for signed in source.signed() {
                // What is signed was checked against the manifest and repaired before; it is checked again here.
                let path = signed.content();
                let sound = |bytes: &[u8]| {
                    source.files().any(|(other, _, sha256)| other == path && *sha256 == Digest::of(bytes))
                };
                let at = base.join(&path);
                let bytes = files::read_bounded(&at, MAX_INDEX).map_err(Error::read(&at))?;
                if !sound(&bytes) {
                    return Err(Error::Damaged { path: at, message: "not what the manifest says; not signed".into() });
                }
                publish::sign(&base, &signed, self.key)?;
            }
        }
        Ok(())
    }

    /// Sets pins again; when that or the objects do not allow it, the repository is fetched again.
    fn repository(&self, path: &str) -> Result<()> {
        let git = Git::writer(self.store, &self.config.limits, self.lock);
        let pin = || -> Result<()> {
            for (id, _) in snapshot::all(self.store)? {
                let Ok(manifest) = Manifest::load(self.store, &id) else { continue };
                for source in &manifest.sources {
                    let Source::Git(part) = source else { continue };
                    for repo in part.repos.iter().filter(|repo| repo.path == path) {
                        if !git.unpinned(repo, &id)?.is_empty() {
                            git.pin(repo, &id)?;
                        }
                    }
                }
            }
            Ok(())
        };
        if git.directory(path).is_dir() && git.check(path).is_ok() && pin().is_ok() {
            return Ok(());
        }
        for source in &self.config.sources {
            let config::Source::Git(source) = source else { continue };
            if let Some(upstream) = sync::upstreams(source)?.into_iter().find(|upstream| upstream.path == path) {
                git.fetch_again(&upstream)?;
                return pin();
            }
        }
        Err(Error::rejected(path, "no source has this repository any more"))
    }
}
