//! `verify`: reads everything that is published and says what is not as it should be.
//!
//! Of every snapshot: the manifest against its id and signature, every file against the manifest, each signed
//! index, the pins and objects of its repositories. Then every blob against its name. What
//! is damaged is named on stdout, one line each; nothing is changed without `--repair`.

mod repair;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use toolkit::Io;

use crate::channel;
use crate::config::Config;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::files;
use crate::git::{Git, published};
use crate::manifest::{Manifest, Repo, Signed, Source};
use crate::sign::{Keyring, SigningKey};
use crate::snapshot;
use crate::store::Store;
use repair::Repair;

/// Largest file that is read whole: what is signed, and signatures.
const MAX_SIGNED: u64 = 512 << 20;

/// Verifies the whole mirror; with `repair` what is damaged is brought again, and what cannot be is named.
///
/// # Errors
/// [`Error::Verify`] when something is (still) damaged; [`Error::Read`]; with `repair` [`Error::Busy`].
pub(crate) fn run(config: &Config, repair: bool, io: &mut Io) -> Result<()> {
    if !repair {
        let store = Store::at(config.root()?);
        return Check::of(&store, config, &Keyring::of_site(config)?)?.finish(io);
    }
    let key = SigningKey::load(config.signing_key()?)?;
    let (store, lock) = Store::writer(config.root()?)?;
    let check = Check::of(&store, config, &key.keyring())?;
    if check.damage.is_empty() {
        return check.finish(io);
    }
    Repair { config, store: &store, lock: &lock, key: &key, good: check.good }.run(&check.damage, io)?;
    // Whether it helped is looked at, not believed.
    Check::of(&store, config, &key.keyring())?.finish(io)
}

/// What is damaged.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Damage {
    /// A file in the store or a published one.
    Content {
        path: PathBuf,
        /// `None`: nothing of this name should be there.
        sha256: Option<Digest>,
    },
    /// The manifest of a snapshot.
    Manifest(Digest),
    /// The signature of a snapshot's manifest.
    Signature(Digest),
    /// The signatures of a repository's index.
    Index { id: Digest, source: String },
    /// A pin of a commit.
    Pin { path: String, id: Digest },
    /// Objects of a repository.
    Objects(String),
    /// A bundle or a pack.
    Form(PathBuf),
    /// The pointer of a channel.
    Pointer,
}

/// Everything that was looked at.
struct Check<'a> {
    store: &'a Store,
    /// Digests by device and inode: hard links are read once.
    known: BTreeMap<(u64, u64), Digest>,
    /// Where sound content is, for repairs.
    good: BTreeMap<Digest, PathBuf>,
    damage: BTreeSet<Damage>,
    findings: BTreeSet<String>,
    snapshots: usize,
    blobs: usize,
    repositories: usize,
}

impl<'a> Check<'a> {
    fn of(store: &'a Store, config: &Config, keyring: &Keyring) -> Result<Self> {
        let mut check = Self {
            store,
            known: BTreeMap::new(),
            good: BTreeMap::new(),
            damage: BTreeSet::new(),
            findings: BTreeSet::new(),
            snapshots: 0,
            blobs: 0,
            repositories: 0,
        };
        check.all(config, keyring)?;
        Ok(check)
    }

    fn finish(self, io: &mut Io) -> Result<()> {
        for finding in &self.findings {
            io.out(format!("{finding}\n")).map_err(Error::Output)?;
        }
        let (snapshots, blobs, repositories) = (self.snapshots, self.blobs, self.repositories);
        io.note(format_args!("{snapshots} snapshots, {blobs} blobs, {repositories} repositories checked"));
        if self.findings.is_empty() { Ok(()) } else { Err(Error::Verify { count: self.findings.len() }) }
    }

    fn all(&mut self, config: &Config, keyring: &Keyring) -> Result<()> {
        let mut repos = BTreeSet::new();
        let git = Git::reader(self.store, &config.limits);
        let snapshots = snapshot::all(self.store)?;
        for (id, _) in &snapshots {
            let base = self.store.path(format!("pub/snap/{id}"));
            let manifest = match Manifest::load(self.store, id) {
                Ok(manifest) => manifest,
                Err(error) => {
                    let words = toolkit::exit::chain(&error);
                    self.found(&base.join("manifest.json"), &words, Damage::Manifest(id.clone()));
                    continue;
                }
            };
            self.signature(&base, id, keyring);
            for source in &manifest.sources {
                if let Source::Git(part) = source {
                    for repo in &part.repos {
                        repos.insert(repo.path.clone());
                        self.pins(&git, repo, id);
                    }
                }
                self.source(&base, id, source, keyring);
            }
        }
        self.forms(config)?;
        for path in &repos {
            if let Err(error) = git.check(path) {
                self.found(&git.directory(path), &toolkit::exit::chain(&error), Damage::Objects(path.clone()));
            }
        }
        self.blobs()?;
        for name in &config.channels {
            if let Some(pointer) = channel::read(self.store, name)?
                && !snapshots.iter().any(|(id, _)| *id == pointer.snapshot)
            {
                let path = self.store.path(format!("pub/channel/{name}.json"));
                self.found(&path, "points at a snapshot that is not there", Damage::Pointer);
            }
        }
        (self.snapshots, self.repositories) = (snapshots.len(), repos.len());
        Ok(())
    }

    fn found(&mut self, path: &Path, message: &str, damage: Damage) {
        self.findings.insert(format!("{}: {}", path.display(), toolkit::exit::one_line(message)));
        self.damage.insert(damage);
    }

    fn pins(&mut self, git: &Git<'_>, repo: &Repo, id: &Digest) {
        let damage = Damage::Pin { path: repo.path.clone(), id: id.clone() };
        match git.unpinned(repo, id) {
            Ok(lost) => {
                for name in lost {
                    self.found(&git.directory(&repo.path), &format!("pin of {name} for {id} is lost"), damage.clone());
                }
            }
            Err(error) => self.found(&git.directory(&repo.path), &toolkit::exit::chain(&error), damage),
        }
    }

    fn signature(&mut self, base: &Path, id: &Digest, keyring: &Keyring) {
        let manifest = base.join("manifest.json");
        match files::read_regular(&manifest, MAX_SIGNED) {
            Ok(bytes) => {
                let damage = Damage::Signature(id.clone());
                self.detached(&bytes, &base.join("manifest.json.sig"), keyring, damage);
            }
            Err(error) => self.found(&manifest, &error.to_string(), Damage::Manifest(id.clone())),
        }
    }

    fn source(&mut self, base: &Path, id: &Digest, source: &Source, keyring: &Keyring) {
        let Some(directory) = source.directory() else { return };
        let base = base.join(directory);
        for (path, _, sha256) in source.files() {
            self.file(&base.join(path), sha256);
        }
        let damage = Damage::Index { id: id.clone(), source: source.name().to_owned() };
        for signed in source.signed() {
            match signed {
                Signed::Release(directory) => self.release(&base.join(directory), keyring, &damage),
                Signed::Repomd => {
                    let path = base.join("repodata/repomd.xml");
                    match files::read_regular(&path, MAX_SIGNED) {
                        Ok(bytes) => {
                            let signature = base.join("repodata/repomd.xml.asc");
                            self.detached(&bytes, &signature, keyring, damage.clone());
                        }
                        Err(error) => self.found(&path, &error.to_string(), damage.clone()),
                    }
                }
            }
        }
    }

    fn release(&mut self, directory: &Path, keyring: &Keyring, damage: &Damage) {
        let release = match files::read_regular(&directory.join("Release"), MAX_SIGNED).and_then(toolkit::files::text) {
            Ok(text) => text,
            Err(error) => return self.found(&directory.join("Release"), &error.to_string(), damage.clone()),
        };
        let signed = directory.join("InRelease");
        let read = files::read_regular(&signed, MAX_SIGNED).map_err(|error| error.to_string());
        match read.and_then(|bytes| keyring.verify_cleartext(&bytes)) {
            Ok(text) if text == release => {}
            Ok(_) => self.found(&signed, "differs from Release", damage.clone()),
            Err(message) => self.found(&signed, &message, damage.clone()),
        }
        self.detached(release.as_bytes(), &directory.join("Release.gpg"), keyring, damage.clone());
    }

    fn detached(&mut self, content: &[u8], signature: &Path, keyring: &Keyring, damage: Damage) {
        let verified = files::read_regular(signature, MAX_SIGNED)
            .map_err(|error| error.to_string())
            .and_then(|bytes| keyring.verify_detached(content, &bytes));
        if let Err(message) = verified {
            self.found(signature, &message, damage);
        }
    }

    fn file(&mut self, path: &Path, expected: &Digest) {
        let damage = || Damage::Content { path: path.to_owned(), sha256: Some(expected.clone()) };
        match self.digest(path) {
            Ok(digest) if digest == *expected => {}
            Ok(_) => self.found(path, "content does not have the digest it should have", damage()),
            Err(error) => self.found(path, &error.to_string(), damage()),
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
        self.good.entry(digest.clone()).or_insert_with(|| path.to_owned());
        Ok(digest)
    }

    /// Static forms of repositories: what the state of a source names, by digest. One that is not there is made by the
    /// next `sync`.
    fn forms(&mut self, config: &Config) -> Result<()> {
        for (path, forms) in published::known(self.store, config)? {
            let base = self.store.path("git");
            let bundle = forms.bundle.map(|bundle| (base.join(published::bundle_path(&path)), bundle.sha256));
            let packs = forms.packs.into_values();
            let packs = packs.map(|pack| (base.join(cloner::refsindex::pack_path(pack.sha256.as_str())), pack.sha256));
            for (file, sha256) in bundle.into_iter().chain(packs).filter(|(file, _)| file.exists()) {
                if published::content(&file)?.sha256 != sha256 {
                    self.found(&file, "another content", Damage::Form(file.clone()));
                }
            }
        }
        Ok(())
    }

    fn blobs(&mut self) -> Result<()> {
        let base = self.store.path("cas/sha256");
        for part in files::names_in(&base)? {
            let directory: PathBuf = base.join(part);
            for name in files::names_in(&directory)? {
                let path = directory.join(&name);
                self.blobs += 1;
                match name.parse::<Digest>() {
                    Ok(digest) => self.file(&path, &digest),
                    Err(_) => self.found(&path, "not a blob", Damage::Content { path: path.clone(), sha256: None }),
                }
            }
        }
        Ok(())
    }
}
