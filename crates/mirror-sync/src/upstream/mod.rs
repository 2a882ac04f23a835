//! Repositories somewhere else: what is signed is verified before anything in it is parsed, and what is not
//! newer than what was accepted before is not accepted.

pub(crate) mod deb;
pub(crate) mod packages;
pub(crate) mod release;
pub(crate) mod rpm;

use std::fs::File;
use std::io::BufReader;
use std::time::Duration;

use toolkit::Io;
use toolkit::backoff::Backoff;

use crate::config::{Config, Source, Upstream};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::fetch::{Base, Batch, Fetcher, Hasher, Sums, Wanted};
use crate::manifest::{Package, Published};
use crate::meter;
use crate::packing::{Capped, Packing};
use crate::sign::Keyring;
use crate::state::Head;
use crate::store::Store;
use crate::sync;

/// What every step of a synchronisation needs.
pub(crate) struct Context<'a> {
    /// The mirror.
    pub(crate) store: &'a Store,
    /// The configuration.
    pub(crate) config: &'a Config,
    /// Connections.
    pub(crate) fetcher: &'a Fetcher,
    /// Seconds since the epoch.
    pub(crate) now: u64,
    /// Where a run that changes nothing says what it would bring.
    pub(crate) dry: Option<sync::Plan>,
}

/// An upstream, ready to be asked.
pub(crate) struct Remote {
    /// The first address of the configuration: what was accepted is remembered by it.
    pub(crate) url: String,
    /// Addresses, the preferred one first.
    pub(crate) bases: Vec<Base>,
    /// Keys that may sign.
    pub(crate) keyring: Keyring,
    /// Digest of the keyring file: other keys mean that everything is verified again.
    pub(crate) keys: Digest,
}

impl Remote {
    /// Reads the keyring and the addresses.
    ///
    /// # Errors
    /// [`Error::Key`]; [`Error::Config`].
    pub(crate) fn open(config: &Config, upstream: &Upstream<'_>) -> Result<Self> {
        let urls = std::iter::once(upstream.url).chain(upstream.mirrors.iter().map(String::as_str));
        let bases = urls.map(Base::new).collect::<std::result::Result<Vec<_>, _>>();
        let bases = bases.map_err(|why| Error::config(config.path(), format!("a source's url {why}")))?;
        let (keyring, keys) = Keyring::restricted(upstream.keyring, upstream.fingerprints)?;
        Ok(Self { url: bases[0].url().to_owned(), bases, keyring, keys })
    }
}

/// What the signed indices of an upstream offer.
#[derive(Debug)]
pub(crate) struct Offer {
    /// Unpacked indices: path, length, content.
    pub(crate) indices: Vec<Published>,
    /// What is published when the whole upstream is mirrored.
    pub(crate) verbatim: Vec<Published>,
}

/// Packages of a source and how each is fetched.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// As they are published; those that are described without a SHA-256 have that of nothing until they are fetched.
    pub(crate) packages: Vec<Package>,
    /// In the same order.
    pub(crate) wanted: Vec<Wanted>,
}

impl Context<'_> {
    /// Tries something on one address after the other.
    ///
    /// # Errors
    /// What a signature or a date says is worse than an address that is away.
    pub(crate) fn on_any<T>(&self, bases: &[Base], mut work: impl FnMut(&Base) -> Result<T>) -> Result<(usize, T)> {
        let mut last: Option<Error> = None;
        for (index, base) in bases.iter().enumerate() {
            match work(base) {
                Ok(done) => return Ok((index, done)),
                Err(error @ (Error::Unavailable { .. } | Error::Rejected { .. } | Error::Forged { .. })) => {
                    if last.as_ref().is_none_or(|last| matches!(last, Error::Unavailable { .. })) {
                        last = Some(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| Error::Bug("a source without an address".into())))
    }

    /// Runs `work` again when the upstream may have changed between its signed root and its indices.
    ///
    /// # Errors
    /// The last one.
    pub(crate) fn settle<T>(&self, mut work: impl FnMut() -> Result<T>) -> Result<T> {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(5));
        let mut left = self.config.limits.retries.min(2);
        loop {
            match work() {
                Err(Error::Rejected { .. } | Error::Unavailable { .. }) if left > 0 => {
                    left -= 1;
                    std::thread::sleep(backoff.next_delay());
                }
                other => return other,
            }
        }
    }

    /// Unpacks a blob into the store.
    ///
    /// # Errors
    /// [`Error::Rejected`] when it is damaged, larger than the limit or not what was signed.
    pub(crate) fn unpack(
        &self,
        what: &str,
        packed: &Digest,
        packing: Packing,
        signed: Option<(u64, &Sums)>,
    ) -> Result<Published> {
        let path = self.store.blob(packed);
        let file = File::open(&path).map_err(Error::read(&path))?;
        let limit = self.config.limits.index;
        if let Some((size, _)) = signed
            && size > limit
        {
            let why = format!("unpacked it has {size} bytes, limits.index allows {limit}");
            return Err(Error::rejected(what, why));
        }
        let failed = |error: std::io::Error| Error::rejected(what, error.to_string());
        let unpacked = packing.reader(BufReader::with_capacity(128 << 10, file)).map_err(failed)?;
        let mut reader = Capped::new(unpacked, signed.map_or(limit, |(size, _)| size));
        let nothing = Sums::default();
        let sums = signed.map_or(&nothing, |(_, sums)| sums);
        let mut hasher = Hasher::new(sums);
        let mut staged = self.store.stage()?;
        let mut buffer = vec![0; 256 << 10];
        loop {
            match std::io::Read::read(&mut reader, &mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    if sums.sha512.is_some() {
                        hasher.update(&buffer[..count]);
                    }
                    staged.write(&buffer[..count])?;
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
        let size = staged.size();
        let other = || Error::rejected(what, "unpacked it is not what the signed index says");
        let strong = Sums { sha256: None, sha512: sums.sha512.clone() };
        if signed.is_some_and(|(expected, _)| expected != size) || hasher.finish(&strong).is_none() {
            return Err(other());
        }
        if let Some(expected) = &sums.sha256
            && staged.digest() != *expected
        {
            return Err(other());
        }
        let sha256 = staged.store(self.store)?;
        Ok(Published { path: what.to_owned(), size, sha256 })
    }

    /// Says of what is wanted and not in the store that it would be fetched; returns how much that is. Each content
    /// once, as it would come.
    pub(crate) fn would_fetch<'w>(
        &self,
        plan: &sync::Plan,
        name: &str,
        wanted: impl IntoIterator<Item = &'w Wanted>,
    ) -> (usize, u64) {
        let (mut seen, mut bytes) = (std::collections::HashSet::new(), 0);
        for file in wanted {
            if file.present(self.store).is_none() && seen.insert(file.sums.key()) {
                bytes += file.size.unwrap_or(0);
                let (source, path) = (name.to_owned(), file.path.clone());
                plan.add(sync::Planned { source, what: sync::What::Fetch, path, size: file.size });
            }
        }
        (seen.len(), bytes)
    }

    /// Fetches packages into the store and completes their digests; returns how many came.
    ///
    /// # Errors
    /// Those of [`Batch::fetch_all`].
    pub(crate) fn fetch(&self, name: &str, bases: &[Base], plan: &mut Plan, io: &mut Io) -> Result<usize> {
        let batch = Batch::new(self.store, self.fetcher);
        let fetch = || batch.fetch_all(self.config.jobs, bases, &plan.wanted);
        let digests = meter::watch(name, &plan.wanted, self.store, self.fetcher, || batch.count(), io, fetch)?;
        for (package, digest) in plan.packages.iter_mut().zip(digests) {
            package.sha256 = digest;
        }
        Ok(batch.count())
    }
}

/// Returns what was accepted before at an address, whatever was configured then.
pub(crate) fn accepted<'a>(heads: &'a [Head], url: &str, path: &str) -> Option<&'a Head> {
    heads.iter().find(|head| head.url == url && head.path == path)
}

/// Fetches one published file of a source again; false when nobody offers it any more.
///
/// # Errors
/// [`Error::Config`]; [`Error::Write`].
pub(crate) fn fetch_again(
    config: &Config,
    store: &Store,
    source: &Source,
    path: &str,
    size: u64,
    sha256: &Digest,
) -> Result<bool> {
    let mut places: Vec<(Base, String)> = Vec::new();
    let wrong = |why: &str| Error::config(config.path(), format!("a source's url {why}"));
    if let Some(upstream) = source.upstream() {
        for url in std::iter::once(upstream.url).chain(upstream.mirrors.iter().map(String::as_str)) {
            places.push((Base::new(url).map_err(wrong)?, path.to_owned()));
        }
    }
    if let Source::Files(files) = source {
        for file in files.files.iter().filter(|file| file.path == path) {
            places.push(file.place().map_err(wrong)?);
        }
    }
    let fetcher = Fetcher::with(&config.limits, config.proxy.as_deref(), 1).map_err(|why| wrong(&why))?;
    for (base, path) in places {
        let batch = Batch::new(store, &fetcher);
        let sums = Sums { sha256: Some(sha256.clone()), sha512: None };
        match batch.fetch(std::slice::from_ref(&base), &Wanted { path, size: Some(size), sums }) {
            Ok(_) => return Ok(true),
            Err(error @ Error::Write { .. }) => return Err(error),
            Err(_) => {}
        }
    }
    Ok(false)
}
