//! `export`: a snapshot, or what it has beyond an earlier one, as one file (see `archive`).
//!
//! A reader like `show`: it takes no lock of the mirror and waits for nobody. Every content is hashed again while it
//! is copied, so a damaged mirror is not carried further. The file is written beside its place, synced and renamed; one
//! that a killed run left behind (`FILE.partial`) is overwritten by the next one.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use toolkit::Io;
use toolkit::lock::FileLock;

use crate::archive::{Head, Name, Writer};
use crate::config::Config;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::files;
use crate::git::{Git, Pinned, Scrap};
use crate::manifest::{Manifest, Repo};
use crate::snapshot::Info;
use crate::store::Store;

/// What is exported.
struct Export<'a> {
    config: &'a Config,
    store: &'a Store,
    id: &'a Digest,
    manifest: &'a Manifest,
    /// What the receiver has.
    base: Option<(&'a Digest, Manifest)>,
    /// Where files under construction are.
    scratch: &'a Path,
}

/// Writes a snapshot to `out`, or to the data stream for `-`.
///
/// # Errors
/// [`Error::NoSnapshot`]; [`Error::Damaged`]; [`Error::Write`]; [`Error::Busy`] when another export writes the file.
pub(crate) fn run(config: &Config, id: &Digest, since: Option<&Digest>, out: &Path, io: &mut Io) -> Result<()> {
    let store = Store::at(config.root()?);
    let manifest = Manifest::load(&store, id)?;
    let base = match since {
        Some(since) => Some((since, Manifest::load(&store, since)?)),
        None => None,
    };
    let stream = out == Path::new("-");
    let temporary = std::env::temp_dir();
    let scratch = match out.parent() {
        _ if stream => &temporary,
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let export = Export { config, store: &store, id, manifest: &manifest, base, scratch };
    let (blobs, written) =
        if stream { export.write(io.data()).map_err(Failed::into_output)? } else { export.to_file(out)? };
    io.note(format_args!("{}: snapshot {id}, {blobs} blobs, {:.1} MB", out.display(), written as f64 / 1e6));
    Ok(())
}

/// Either side of a copy.
enum Failed {
    Read(Error),
    Write(io::Error),
}

impl Failed {
    fn into_output(self) -> Error {
        match self {
            Self::Read(error) => error,
            Self::Write(error) => Error::Output(error),
        }
    }

    fn into_error(self, path: &Path) -> Error {
        match self {
            Self::Read(error) => error,
            Self::Write(error) => Error::write(path)(error),
        }
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Read(error)
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Write(error)
    }
}

impl Export<'_> {
    fn to_file(&self, out: &Path) -> Result<(usize, u64)> {
        let name = out.file_name().ok_or_else(|| Error::write(out)(io::ErrorKind::IsADirectory.into()))?;
        let mut partial = name.to_owned();
        partial.push(".partial");
        let partial = self.scratch.join(partial);
        let lock = FileLock::try_exclusive(&partial)
            .map_err(|error| Error::Write { path: error.path, source: error.source })?;
        let _lock = lock.ok_or_else(|| Error::Busy { path: partial.clone(), what: "export" })?;
        let scrap = Scrap(partial);
        let path = &scrap.0;
        let file = File::options().write(true).truncate(true).open(path).map_err(Error::write(path))?;
        let written = self.write(BufWriter::with_capacity(1 << 20, &file)).map_err(|error| error.into_error(path))?;
        // A lock is its owner's alone; what is published is everybody's.
        file.set_permissions(fs::Permissions::from_mode(0o644)).map_err(Error::write(path))?;
        file.sync_all().map_err(Error::write(path))?;
        fs::rename(path, out).map_err(Error::write(out))?;
        toolkit::atomic::sync_dir(self.scratch).map_err(Error::write(self.scratch))?;
        Ok(written)
    }

    /// Returns the number of blobs and of bytes.
    fn write(&self, out: impl Write) -> std::result::Result<(usize, u64), Failed> {
        let mut writer = Writer::new(out);
        let info = Info::load(self.store, self.id)?;
        let since = self.base.as_ref().map(|(since, _)| (*since).clone());
        let head = Head::new(self.id.clone(), since, info.created, info.confirmed.max(info.created));
        writer.whole(&Name::Head, &crate::store::json_line(&head)?)?;
        let published = self.store.path(format!("pub/snap/{}", self.id));
        writer.whole(&Name::Manifest, &self.manifest.encode()?.0)?;
        writer.whole(&Name::ManifestSignature, &signature(&published.join("manifest.json.sig"))?)?;
        let blobs = self.blobs(&mut writer)?;
        self.bundles(&mut writer)?;
        let signed = self.manifest.sources.iter().flat_map(|source| source.signatures());
        for (number, path) in signed.enumerate() {
            writer.whole(&Name::Signature(number), &signature(&published.join(path))?)?;
        }
        let (_, written) = writer.finish()?;
        Ok((blobs, written))
    }

    fn blobs(&self, writer: &mut Writer<impl Write>) -> std::result::Result<usize, Failed> {
        let mut done: BTreeSet<&Digest> = match &self.base {
            Some((_, base)) => {
                base.sources.iter().flat_map(|source| source.files()).map(|(.., digest)| digest).collect()
            }
            None => BTreeSet::new(),
        };
        let mut count = 0;
        let mut buffer = vec![0; 256 << 10];
        for (_, size, sha256) in self.manifest.sources.iter().flat_map(|source| source.files()) {
            if !done.insert(sha256) {
                continue;
            }
            let path = self.store.blob(sha256);
            let damaged = |message: &str| Error::Damaged { path: path.clone(), message: message.to_owned() };
            let file = match files::open_regular(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(damaged("is not there").into()),
                other => other.map_err(Error::read(&path))?,
            };
            if file.metadata().map_err(Error::read(&path))?.len() != size {
                return Err(damaged("does not have the length it should have").into());
            }
            writer.entry(&Name::Blob(sha256.clone()), size)?;
            let mut hasher = Sha256::new();
            copy(file.take(size), &path, size, writer, &mut buffer, |bytes| hasher.update(bytes))?;
            if Digest::finish(hasher) != *sha256 {
                return Err(damaged("does not have the digest it should have").into());
            }
            count += 1;
        }
        Ok(count)
    }

    fn bundles(&self, writer: &mut Writer<impl Write>) -> std::result::Result<(), Failed> {
        let git = Git::reader(self.store, &self.config.limits);
        let mut buffer = vec![0; 256 << 10];
        let repos = self.manifest.sources.iter().flat_map(|source| source.repos());
        for (number, repo) in repos.enumerate() {
            let since = base_of(self.base.as_ref().map(|(id, manifest)| (*id, manifest)), repo);
            let file = Scrap(self.bundle_path(number));
            if git.bundle(Pinned { id: self.id, repo }, since, &file.0)? {
                let (content, size) = file.open()?;
                writer.entry(&Name::Bundle(number), size)?;
                copy(content, &file.0, size, writer, &mut buffer, |_| ())?;
            }
        }
        Ok(())
    }

    fn bundle_path(&self, number: usize) -> PathBuf {
        self.scratch.join(format!(".stacktira-{}-{number}.bundle", std::process::id()))
    }
}

/// Returns what the earlier snapshot holds of a repository.
pub(crate) fn base_of<'a>(base: Option<(&'a Digest, &'a Manifest)>, repo: &Repo) -> Option<Pinned<'a>> {
    let (id, manifest) = base?;
    let mut repos = manifest.sources.iter().flat_map(|source| source.repos());
    repos.find(|other| other.path == repo.path).map(|repo| Pinned { id, repo })
}

/// Copies exactly `size` bytes as the content of the entry that was started.
fn copy(
    mut from: impl Read,
    path: &Path,
    size: u64,
    writer: &mut Writer<impl Write>,
    buffer: &mut [u8],
    mut seen: impl FnMut(&[u8]),
) -> std::result::Result<(), Failed> {
    let mut left = size;
    loop {
        let count = match from.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other.map_err(Error::read(path))?,
        };
        if count == 0 || count as u64 > left {
            break;
        }
        seen(&buffer[..count]);
        writer.content(&buffer[..count])?;
        left -= count as u64;
    }
    if left > 0 {
        let message = "changed its length while it was read".to_owned();
        return Err(Error::Damaged { path: path.to_owned(), message }.into());
    }
    writer.pad()?;
    Ok(())
}

fn signature(path: &Path) -> Result<Vec<u8>> {
    files::read_bounded(path, crate::import::MAX_SIGNATURE).map_err(Error::read(path))
}
