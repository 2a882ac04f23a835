//! `verify`: reads everything that is published and says what is not as it should be.
//!
//! Of every snapshot: the manifest against its id and signature, every file against the manifest, each signed
//! `Release`, the pins and objects of its repositories. Then every blob against its name. What
//! is damaged is named on stdout, one line each; nothing is changed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use toolkit::Io;

use crate::channel;
use crate::config::Config;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::files;
use crate::git::Git;
use crate::manifest::{Manifest, Signed, Source};
use crate::sign::{Keyring, SigningKey};
use crate::snapshot;
use crate::store::Store;

/// Verifies the whole mirror.
///
/// # Errors
/// [`Error::Verify`] when something is damaged; [`Error::Read`].
pub(crate) fn run(config: &Config, io: &mut Io) -> Result<()> {
    let store = Store::at(config.root()?);
    let keyring = SigningKey::load(config.signing_key()?)?.keyring();
    let mut check = Check { store: &store, known: BTreeMap::new(), findings: BTreeSet::new() };
    let mut repos = BTreeSet::new();
    let git = Git::reader(&store, &config.limits);
    let snapshots = snapshot::all(&store)?;
    for (id, _) in &snapshots {
        let base = store.path(format!("pub/snap/{id}"));
        let manifest = match Manifest::load(&store, id) {
            Ok(manifest) => manifest,
            Err(error) => {
                check.found(&base.join("manifest.json"), &toolkit::exit::chain(&error));
                continue;
            }
        };
        check.signature(&base, &keyring);
        for source in &manifest.sources {
            if let Source::Git(part) = source {
                for repo in &part.repos {
                    repos.insert(repo.path.clone());
                    match git.unpinned(repo, id) {
                        Ok(lost) => {
                            for name in lost {
                                check.found(&git.directory(&repo.path), &format!("pin of {name} for {id} is lost"));
                            }
                        }
                        Err(error) => check.found(&git.directory(&repo.path), &toolkit::exit::chain(&error)),
                    }
                }
            }
            check.source(&base, source, &keyring);
        }
    }
    for path in &repos {
        if let Err(error) = git.check(path) {
            check.found(&git.directory(path), &toolkit::exit::chain(&error));
        }
    }
    let blobs = check.blobs()?;
    for name in &config.channels {
        if let Some(pointer) = channel::read(&store, name)?
            && !snapshots.iter().any(|(id, _)| *id == pointer.snapshot)
        {
            check.found(&store.path(format!("pub/channel/{name}.json")), "points at a snapshot that is not there");
        }
    }
    for finding in &check.findings {
        io.out(format!("{finding}\n")).map_err(Error::Output)?;
    }
    io.note(format_args!("{} snapshots, {blobs} blobs, {} repositories checked", snapshots.len(), repos.len()));
    if check.findings.is_empty() { Ok(()) } else { Err(Error::Verify { count: check.findings.len() }) }
}

struct Check<'a> {
    store: &'a Store,
    /// Digests by device and inode: hard links are read once.
    known: BTreeMap<(u64, u64), Digest>,
    findings: BTreeSet<String>,
}

impl Check<'_> {
    fn found(&mut self, path: &Path, message: &str) {
        self.findings.insert(format!("{}: {}", path.display(), toolkit::exit::one_line(message)));
    }

    fn signature(&mut self, base: &Path, keyring: &Keyring) {
        let manifest = base.join("manifest.json");
        match fs::read(&manifest) {
            Ok(bytes) => self.detached(&bytes, &base.join("manifest.json.sig"), keyring),
            Err(error) => self.found(&manifest, &error.to_string()),
        }
    }

    fn source(&mut self, base: &Path, source: &Source, keyring: &Keyring) {
        let Some(directory) = source.directory() else { return };
        let base = base.join(directory);
        for (path, _, sha256) in source.files() {
            self.file(&base.join(path), sha256);
        }
        for signed in source.signed() {
            match signed {
                Signed::Release(directory) => self.release(&base.join(directory), keyring),
                Signed::Repomd => {
                    let path = base.join("repodata/repomd.xml");
                    match fs::read(&path) {
                        Ok(bytes) => self.detached(&bytes, &base.join("repodata/repomd.xml.asc"), keyring),
                        Err(error) => self.found(&path, &error.to_string()),
                    }
                }
            }
        }
    }

    fn release(&mut self, directory: &Path, keyring: &Keyring) {
        let release = match fs::read_to_string(directory.join("Release")) {
            Ok(text) => text,
            Err(error) => return self.found(&directory.join("Release"), &error.to_string()),
        };
        let signed = directory.join("InRelease");
        match fs::read(&signed).map_err(|error| error.to_string()).and_then(|bytes| keyring.verify_cleartext(&bytes)) {
            Ok(text) if text == release => {}
            Ok(_) => self.found(&signed, "differs from Release"),
            Err(message) => self.found(&signed, &message),
        }
        self.detached(release.as_bytes(), &directory.join("Release.gpg"), keyring);
    }

    fn detached(&mut self, content: &[u8], signature: &Path, keyring: &Keyring) {
        let verified = fs::read(signature)
            .map_err(|error| error.to_string())
            .and_then(|bytes| keyring.verify_detached(content, &bytes));
        if let Err(message) = verified {
            self.found(signature, &message);
        }
    }

    fn file(&mut self, path: &Path, expected: &Digest) {
        match self.digest(path) {
            Ok(digest) if digest == *expected => {}
            Ok(_) => self.found(path, "content does not have the digest it should have"),
            Err(error) => self.found(path, &error.to_string()),
        }
    }

    fn digest(&mut self, path: &Path) -> std::io::Result<Digest> {
        let mut file = files::open_regular(path)?;
        let metadata = file.metadata()?;
        let key = (metadata.dev(), metadata.ino());
        if let Some(digest) = self.known.get(&key) {
            return Ok(digest.clone());
        }
        let mut hasher = Sha256::new();
        std::io::copy(&mut file, &mut hasher)?;
        let digest = Digest::finish(hasher);
        self.known.insert(key, digest.clone());
        Ok(digest)
    }

    fn blobs(&mut self) -> Result<usize> {
        let base = self.store.path("cas/sha256");
        let mut count = 0;
        for part in files::names_in(&base)? {
            let directory: PathBuf = base.join(part);
            for name in files::names_in(&directory)? {
                let path = directory.join(&name);
                count += 1;
                match name.parse::<Digest>() {
                    Ok(digest) => self.file(&path, &digest),
                    Err(_) => self.found(&path, "not a blob"),
                }
            }
        }
        Ok(count)
    }
}
