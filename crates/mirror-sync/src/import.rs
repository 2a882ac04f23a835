//! `import`: takes in what `export` wrote, proves it, and publishes it.
//!
//! Nothing is believed but the site's key: the manifest's signature is checked before anything else is read, and
//! says which content, commits and signatures may follow. Content goes into the store under its own digest, so a run
//! that was killed is continued by running it again; nothing is published before everything is there and proven.
//! A mirror with a key of its own signs what it publishes with it; one without publishes the signatures that came along.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use toolkit::Io;
use toolkit::lock::FileLock;

use crate::archive::{Head, Name, Reader};
use crate::config::Config;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::export::base_of;
use crate::files;
use crate::git::{Git, Pinned, Scrap, published};
use crate::manifest::{Manifest, Repo};
use crate::pending::TOGETHER;
use crate::publish::{self, Publisher, Signatures};
use crate::sign::{Keyring, SigningKey};
use crate::snapshot;
use crate::store::Store;

/// Largest manifest.
const MAX_MANIFEST: u64 = 512 << 20;
/// Largest signature; that of an index in the cleartext form holds the index.
pub(crate) const MAX_SIGNATURE: u64 = 64 << 20;

/// Takes in `file`, or standard input for `-`; returns the snapshot.
///
/// # Errors
/// [`Error::Forged`]; [`Error::Rejected`]; [`Error::NoBase`]; [`Error::Busy`]; [`Error::Write`].
pub(crate) fn run(config: &Config, file: &Path, keyring: Option<&Path>, io: &mut Io) -> Result<Digest> {
    let keyring = match keyring {
        Some(path) => Keyring::load(path)?,
        None => Keyring::of_site(config)?,
    };
    let key = config.own_key().map(SigningKey::load).transpose()?;
    let (store, lock) = Store::writer(config.root()?)?;
    let input: Box<dyn Read> = if file == Path::new("-") {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(file).map_err(Error::read(file))?)
    };
    let reader = Reader::new(BufReader::with_capacity(1 << 20, input));
    let mut import = Import { config, store: &store, lock: &lock, file, keyring: &keyring, reader };
    let mut given = Given::default();
    let (head, manifest, bytes) = import.begin(&mut given)?;
    let id = &head.snapshot;
    if store.path(format!("pub/snap/{id}")).is_dir() {
        io.note(format_args!("snapshot {id} is here already"));
        return Ok(head.snapshot);
    }
    let base = match &head.since {
        None => None,
        Some(since) if snapshot::must_exist(&store, since).is_err() => {
            return Err(Error::NoBase { path: file.to_owned(), id: id.to_string(), since: since.to_string() });
        }
        Some(since) => Some((since, Manifest::load(&store, since)?)),
    };
    let base = base.as_ref().map(|(since, manifest)| (*since, manifest));
    let taken = import.content(&manifest)?;
    let next = import.commits(id, &manifest, base, taken.next)?;
    import.signatures(&manifest, next, &mut given)?;
    let signatures = match &key {
        Some(key) => Signatures::Make(key),
        None => Signatures::Given(&given),
    };
    let by = Publisher { store: &store, lock: &lock, config, signatures };
    publish::publish(&by, &manifest, &bytes, id, Some(head.confirmed), &mut |_| Ok(()))?;
    io.note(format_args!("snapshot {id}: {} blobs taken in, {} were here", taken.new, taken.known));
    Ok(head.snapshot)
}

struct Import<'a, R> {
    config: &'a Config,
    store: &'a Store,
    lock: &'a FileLock,
    file: &'a Path,
    keyring: &'a Keyring,
    reader: Reader<R>,
}

/// How much content there was, and the entry that follows it.
struct Taken {
    new: usize,
    known: usize,
    next: Name,
}

/// Signatures as they came along.
#[derive(Debug, Default)]
pub(crate) struct Given {
    /// Who made them.
    pub(crate) signer: String,
    /// By their path in the snapshot.
    by_path: BTreeMap<String, Scrap>,
}

impl Given {
    /// Returns each path in the snapshot and the file with the signature.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&str, &Path)> {
        self.by_path.iter().map(|(path, scrap)| (path.as_str(), scrap.0.as_path()))
    }
}

impl<R: Read> Import<'_, R> {
    /// Reads and proves the head, the manifest and its signature.
    fn begin(&mut self, given: &mut Given) -> Result<(Head, Manifest, Vec<u8>)> {
        self.expect(&Name::Head)?;
        let head = self.whole(64 << 10)?;
        let head = Head::parse(&head).map_err(|why| self.rejected(why))?;
        self.expect(&Name::Manifest)?;
        let bytes = self.whole(MAX_MANIFEST)?;
        if Digest::of(&bytes) != head.snapshot {
            return Err(self.forged("the digest of its manifest is not the snapshot's id"));
        }
        self.expect(&Name::ManifestSignature)?;
        let signature = self.whole(MAX_SIGNATURE)?;
        given.signer = self
            .keyring
            .verify_detached(&bytes, &signature)
            .map_err(|why| self.forged(format!("the manifest's signature: {why}")))?;
        self.keep("manifest.json.sig", &signature, given)?;
        let manifest = Manifest::decode(&bytes, self.file)?;
        manifest.check().map_err(|why| self.rejected(why))?;
        Ok((head, manifest, bytes))
    }

    /// Takes content into the store until another entry comes; then everything must be there.
    fn content(&mut self, manifest: &Manifest) -> Result<Taken> {
        let files = || manifest.sources.iter().flat_map(|source| source.files());
        let wanted: BTreeMap<&Digest, u64> = files().map(|(_, size, sha256)| (sha256, size)).collect();
        let (mut new, mut known) = (0, 0);
        let next = loop {
            let (name, size) = self.next()?;
            let Name::Blob(sha256) = name else { break name };
            if wanted.get(&sha256) != Some(&size) {
                return Err(self.rejected(format!("brings {sha256}, which the snapshot does not have")));
            }
            // What is here is not written again; that a file is damaged is said all the same.
            let is_here = self.store.has_blob(&sha256, size);
            let sound = if is_here {
                let mut hasher = Sha256::new();
                io::copy(&mut self.reader, &mut hasher)
                    .map_err(|error| ended(self.file, Error::read(self.file)(error)))?;
                Digest::finish(hasher) == sha256
            } else {
                let mut staged = self.store.stage()?;
                staged.copy(&mut self.reader, self.file).map_err(|error| ended(self.file, error))?;
                staged.store_if(self.store, &sha256)?
            };
            if !sound {
                return Err(self.forged(format!("the content of {sha256} has another digest")));
            }
            *(if is_here { &mut known } else { &mut new }) += 1;
            if new % TOGETHER == 0 {
                self.store.settle()?;
            }
        };
        match files().find(|(_, size, sha256)| !self.store.has_blob(sha256, *size)) {
            Some((path, ..)) => Err(self.rejected(format!("lacks the content of {path}"))),
            None => Ok(Taken { new, known, next }),
        }
    }

    /// Brings every repository to what the snapshot holds; returns the entry that follows the commits.
    fn commits(
        &mut self,
        id: &Digest,
        manifest: &Manifest,
        base: Option<(&Digest, &Manifest)>,
        next: Name,
    ) -> Result<Name> {
        let git = Git::writer(self.store, &self.config.limits, self.lock);
        let repos: Vec<&Repo> = manifest.sources.iter().flat_map(|source| source.repos()).collect();
        let mut next = next;
        for (number, repo) in repos.iter().enumerate() {
            let bundle = if next == Name::Bundle(number) {
                let scrap = self.spool("bundle")?;
                next = self.next()?.0;
                Some(scrap)
            } else {
                None
            };
            let path = bundle.as_ref().map(|scrap| scrap.0.as_path());
            git.unbundle(Pinned { id, repo }, base_of(base, repo), path).map_err(|error| match error {
                Error::Rejected { what, message } => self.rejected(format!("{what}: {message}")),
                other => other,
            })?;
        }
        if !repos.is_empty() {
            let forms = published::known(self.store, self.config)?;
            git.write_index(&crate::gc::repositories(self.store)?, &forms, self.config.jobs)?;
        }
        Ok(next)
    }

    /// Proves the signatures of indices and the end of the file.
    fn signatures(&mut self, manifest: &Manifest, next: Name, given: &mut Given) -> Result<()> {
        let mut number = 0;
        let mut next = next;
        for source in &manifest.sources {
            for path in source.signatures() {
                if next != Name::Signature(number) {
                    return Err(self.rejected(format!("lacks {path}")));
                }
                let bytes = self.whole(MAX_SIGNATURE)?;
                source
                    .prove(&path, &bytes, self.keyring, |sha256| {
                        let blob = self.store.blob(sha256);
                        files::read_bounded(&blob, MAX_SIGNATURE).map_err(Error::read(&blob))
                    })?
                    .map_err(|why| self.forged(format!("{path}: {why}")))?;
                self.keep(&path, &bytes, given)?;
                number += 1;
                next = self.next()?.0;
            }
        }
        if next == Name::End { Ok(()) } else { Err(self.rejected(format!("{next} is not in its place"))) }
    }

    fn keep(&self, path: &str, bytes: &[u8], given: &mut Given) -> Result<()> {
        let scrap = Scrap(self.store.temporary("signature"));
        publish::replace(&scrap.0, bytes)?;
        given.by_path.insert(path.to_owned(), scrap);
        Ok(())
    }

    /// Copies the current entry into a file.
    fn spool(&mut self, what: &str) -> Result<Scrap> {
        let scrap = Scrap(self.store.temporary(what));
        let path: &PathBuf = &scrap.0;
        let mut file = File::options().write(true).create_new(true).open(path).map_err(Error::write(path))?;
        let mut buffer = vec![0; 256 << 10];
        loop {
            let count = match self.reader.read(&mut buffer) {
                Ok(0) => return Ok(scrap),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(ended(self.file, Error::read(self.file)(error))),
            };
            io::Write::write_all(&mut file, &buffer[..count]).map_err(Error::write(path))?;
        }
    }

    fn next(&mut self) -> Result<(Name, u64)> {
        self.reader.next().map_err(|error| ended(self.file, Error::read(self.file)(error)))
    }

    fn whole(&mut self, limit: u64) -> Result<Vec<u8>> {
        self.reader.whole(limit).map_err(|error| ended(self.file, Error::read(self.file)(error)))
    }

    fn expect(&mut self, name: &Name) -> Result<()> {
        let (found, _) = self.next()?;
        if found == *name { Ok(()) } else { Err(self.rejected(format!("{found} is not in its place"))) }
    }

    fn rejected(&self, message: impl Into<String>) -> Error {
        Error::rejected(self.file.display().to_string(), message)
    }

    fn forged(&self, message: impl Into<String>) -> Error {
        Error::forged(self.file.display().to_string(), message)
    }
}

/// What the form of the file is to blame for is no failure to read it.
fn ended(file: &Path, error: Error) -> Error {
    let what = file.display().to_string();
    match error {
        Error::Read { source, .. } if source.kind() == io::ErrorKind::UnexpectedEof => {
            Error::rejected(what, "ends before its end; copy or export it again")
        }
        Error::Read { source, .. } if source.kind() == io::ErrorKind::InvalidData => {
            Error::rejected(what, source.to_string())
        }
        other => other,
    }
}
