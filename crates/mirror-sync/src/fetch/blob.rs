//! Downloads into the store: resumed where they stopped, verified while they arrive.
//!
//! A download is written to `ROOT/partial/DIGEST`. What an earlier run left there is hashed and continued with a range
//! request, so an interruption costs what was in flight and nothing else. When its size and digest are what was signed,
//! the store has it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use nix::fcntl::OFlag;
use sha2::{Digest as _, Sha256, Sha512};

use super::{Base, Failed, Fetcher, Throttled, failure};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::parallel;
use crate::store::Store;

/// What is said of files that were not tried.
const SKIPPED: &str = "not tried, because another file failed";

/// Digests that were signed; at least one is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    /// SHA-256.
    pub(crate) sha256: Option<Digest>,
    /// SHA-512, 128 hex digits.
    pub(crate) sha512: Option<Box<str>>,
}

impl Sums {
    /// Whether there is anything to verify with.
    pub(crate) fn is_empty(&self) -> bool {
        self.sha256.is_none() && self.sha512.is_none()
    }

    /// Adds a digest in hex; false if it is not one.
    pub(crate) fn add(&mut self, digest: &str, sha512: bool) -> bool {
        let length = if sha512 { 128 } else { 64 };
        if digest.len() != length || !digest.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return false;
        }
        let digest = digest.to_ascii_lowercase();
        if sha512 {
            self.sha512 = Some(digest.into_boxed_str());
        } else {
            self.sha256 = digest.parse().ok();
        }
        true
    }

    /// The name of the unfinished download.
    pub(crate) fn key(&self) -> String {
        match (&self.sha256, &self.sha512) {
            (Some(sha256), _) => sha256.to_string(),
            (None, Some(sha512)) => format!("sha512-{sha512}"),
            (None, None) => unreachable!("checked where metadata is parsed"),
        }
    }
}

/// Hashes everything that was signed, and the name in the store.
pub(crate) struct Hasher {
    sha256: Sha256,
    sha512: Option<Sha512>,
    size: u64,
}

impl Hasher {
    pub(crate) fn new(sums: &Sums) -> Self {
        Self { sha256: Sha256::new(), sha512: sums.sha512.is_some().then(Sha512::new), size: 0 }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        if let Some(sha512) = &mut self.sha512 {
            sha512.update(bytes);
        }
        self.size += bytes.len() as u64;
    }

    /// Returns the content's name when all digests are right.
    pub(crate) fn finish(self, sums: &Sums) -> Option<Digest> {
        let sha256 = Digest::finish(self.sha256);
        let right = sums.sha256.as_ref().is_none_or(|expected| *expected == sha256)
            && match (&sums.sha512, self.sha512) {
                (Some(expected), Some(hasher)) => toolkit::hex::encode(&hasher.finalize()) == **expected,
                _ => true,
            };
        right.then_some(sha256)
    }
}

/// A file to be in the store.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    /// Path below the address.
    pub(crate) path: String,
    /// Length, where it is known.
    pub(crate) size: Option<u64>,
    /// Digests.
    pub(crate) sums: Sums,
}

impl Wanted {
    /// Returns the file's name in the store if it is there already.
    pub(crate) fn present(&self, store: &Store) -> Option<Digest> {
        let sha256 = self.sums.sha256.as_ref()?;
        let there = match self.size {
            Some(size) => store.has_blob(sha256, size),
            None => store.blob(sha256).is_file(),
        };
        there.then(|| sha256.clone())
    }
}

/// Downloads of one source.
pub(crate) struct Batch<'a> {
    store: &'a Store,
    fetcher: &'a Fetcher,
    done: AtomicUsize,
    /// Contents that are being fetched, and those that came.
    claims: Mutex<BTreeMap<String, Option<Digest>>>,
    settled: Condvar,
    hopeless: AtomicBool,
}

impl<'a> Batch<'a> {
    pub(crate) fn new(store: &'a Store, fetcher: &'a Fetcher) -> Self {
        Self {
            store,
            fetcher,
            done: AtomicUsize::new(0),
            claims: Mutex::default(),
            settled: Condvar::new(),
            hopeless: AtomicBool::new(false),
        }
    }

    /// Downloads a file from the first of the addresses that has it; returns its name in the store.
    ///
    /// # Errors
    /// [`Error::Rejected`] when what every address offers is not what was signed; [`Error::Unavailable`];
    /// [`Error::Write`].
    pub(crate) fn fetch(&self, bases: &[Base], wanted: &Wanted) -> Result<Digest> {
        if let Some(present) = wanted.present(self.store) {
            return Ok(present);
        }
        let key = wanted.sums.key();
        if let Some(digest) = self.claim(&key) {
            return Ok(digest);
        }
        let result = self.any(bases, wanted);
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        match &result {
            Ok(digest) => claims.insert(key, Some(digest.clone())),
            Err(_) => claims.remove(&key),
        };
        self.settled.notify_all();
        result
    }

    /// One content may have several paths; only one thread writes it, the others wait for what becomes of it.
    fn claim(&self, key: &str) -> Option<Digest> {
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match claims.get(key) {
                Some(Some(digest)) => return Some(digest.clone()),
                Some(None) => claims = self.settled.wait(claims).unwrap_or_else(PoisonError::into_inner),
                None => {
                    claims.insert(key.to_owned(), None);
                    return None;
                }
            }
        }
    }

    fn any(&self, bases: &[Base], wanted: &Wanted) -> Result<Digest> {
        let mut last = None;
        for base in bases {
            if self.hopeless.load(Ordering::Relaxed) {
                break;
            }
            match self.one(base, wanted) {
                Ok(digest) => return Ok(digest),
                Err(error @ Error::Write { .. }) => return Err(error),
                // Wrong content says more than an absent mirror.
                Err(error) if matches!(last, Some(Error::Rejected { .. })) => drop(error),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| Error::unavailable(&wanted.path, SKIPPED)))
    }

    fn one(&self, base: &Base, wanted: &Wanted) -> Result<Digest> {
        let url = base.join(&wanted.path);
        let path = self.store.path("partial").join(wanted.sums.key());
        let mut wrong = 0;
        let mut progress = 0;
        loop {
            let mut download = Download::open(&path, wanted)?;
            let resumed = download.hasher.size > 0;
            let before = download.hasher.size;
            let outcome = self.fetcher.retrying(&url, || {
                let result = download.attempt(self.fetcher, base, &url, wanted);
                progress = download.hasher.size;
                result
            });
            if let Some(error) = download.write_error.take() {
                return Err(Error::write(&path)(error));
            }
            match outcome {
                Err(error) => {
                    if progress <= before && before == 0 {
                        // Nothing worth resuming.
                        let _ = fs::remove_file(&path);
                    }
                    return Err(error);
                }
                Ok(Transfer::Wrong) => {}
                Ok(Transfer::Whole) => {
                    if let Some(digest) = download.finish(&wanted.sums)? {
                        if !self.store.adopt(&digest, &path) {
                            // Another path has this content.
                            fs::remove_file(&path).map_err(Error::write(&path))?;
                        }
                        self.done.fetch_add(1, Ordering::Relaxed);
                        return Ok(digest);
                    }
                }
            }
            fs::remove_file(&path).map_err(Error::write(&path))?;
            // What was there before may have been the wrong part; new content that is wrong stays wrong.
            wrong += 1;
            if !resumed || wrong > 1 {
                return Err(Error::rejected(url, "the content is not what the signed index says (size or digest)"));
            }
        }
    }

    /// Returns how many files came so far.
    pub(crate) fn count(&self) -> usize {
        self.done.load(Ordering::Relaxed)
    }

    /// Downloads files on `jobs` connections; returns their names in the store, in the same order. After a
    /// failure the files that have not been started are left out.
    ///
    /// # Errors
    /// Those of [`Batch::fetch`]: the first of the gravest.
    pub(crate) fn fetch_all(&self, jobs: usize, bases: &[Base], wanted: &[Wanted]) -> Result<Vec<Digest>> {
        let fetched = parallel::map(jobs, wanted, |file| {
            let result = self.fetch(bases, file);
            self.hopeless.fetch_or(result.is_err(), Ordering::Relaxed);
            result
        });
        let gravity = |error: &Error| match error {
            Error::Unavailable { message, .. } if message == SKIPPED => 0,
            Error::Unavailable { .. } => 1,
            _ => 2,
        };
        let mut digests = Vec::with_capacity(fetched.len());
        let mut failed: Option<Error> = None;
        for result in fetched {
            match result {
                Ok(digest) => digests.push(digest),
                Err(error) if failed.as_ref().is_none_or(|first| gravity(&error) > gravity(first)) => {
                    failed = Some(error);
                }
                Err(_) => {}
            }
        }
        failed.map_or(Ok(digests), Err)
    }
}

enum Transfer {
    /// Everything came.
    Whole,
    /// The server's file has another length than was signed.
    Wrong,
}

/// One unfinished file.
struct Download {
    file: File,
    hasher: Hasher,
    write_error: Option<std::io::Error>,
}

impl Download {
    /// Opens the file and hashes what is there.
    fn open(path: &std::path::Path, wanted: &Wanted) -> Result<Self> {
        let failed = |error| Error::write(path)(error);
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        options.custom_flags((OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC).bits()).mode(0o600);
        let mut file = options.open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let mut hasher = Hasher::new(&wanted.sums);
        if wanted.size.is_some_and(|size| length > size) {
            file.set_len(0).map_err(failed)?;
        } else if length > 0 {
            let mut buffer = vec![0; 128 << 10];
            loop {
                match file.read(&mut buffer).map_err(failed)? {
                    0 => break,
                    count => hasher.update(&buffer[..count]),
                }
            }
        }
        Ok(Self { file, hasher, write_error: None })
    }

    fn restart(&mut self, sums: &Sums) -> std::result::Result<(), Failed> {
        if self.hasher.size == 0 {
            return Ok(());
        }
        let restarted = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        self.hasher = Hasher::new(sums);
        restarted.map(|_| ()).map_err(|error| self.failed_to_write(error))
    }

    fn failed_to_write(&mut self, error: std::io::Error) -> Failed {
        let failed = Failed::finally(&error);
        self.write_error = Some(error);
        failed
    }

    fn attempt(
        &mut self,
        fetcher: &Fetcher,
        base: &Base,
        url: &str,
        wanted: &Wanted,
    ) -> std::result::Result<Transfer, Failed> {
        if wanted.size.is_some_and(|size| self.hasher.size == size) {
            return Ok(Transfer::Whole);
        }
        let start = self.hasher.size;
        let mut request = fetcher.request(base, url);
        if start > 0 {
            request = request.header("Range", format!("bytes={start}-"));
        }
        let mut response = request.call().map_err(failure)?;
        match response.status().as_u16() {
            206 if start > 0 => {
                let range = response.headers().get("content-range").and_then(|value| value.to_str().ok());
                if !range.is_some_and(|range| range.starts_with(&format!("bytes {start}-"))) {
                    self.restart(&wanted.sums)?;
                    return Err(Failed::again("the server sent another range than was asked for"));
                }
            }
            200 => self.restart(&wanted.sums)?,
            416 => {
                self.restart(&wanted.sums)?;
                return Err(Failed::again("the server has less than was fetched before"));
            }
            _ => return Err(Failed::status(response.status())),
        }
        // A download of unknown length is as long as the server says, so that a cut one is noticed.
        let promised = response.body().content_length().map(|length| self.hasher.size + length);
        let mut reader = Throttled { reader: response.body_mut().as_reader(), fetcher };
        // Small enough to come from the heap each time.
        let mut buffer = vec![0; 64 << 10];
        loop {
            let count = reader.read(&mut buffer).map_err(Failed::again)?;
            if count == 0 {
                break;
            }
            if wanted.size.is_some_and(|size| self.hasher.size + count as u64 > size) {
                return Ok(Transfer::Wrong);
            }
            self.file.write_all(&buffer[..count]).map_err(|error| self.failed_to_write(error))?;
            self.hasher.update(&buffer[..count]);
        }
        match wanted.size.or(promised) {
            Some(size) if self.hasher.size < size => {
                // A server that says it sent everything has a shorter file than the index says.
                if promised == Some(self.hasher.size) && wanted.size.is_some() {
                    return Ok(Transfer::Wrong);
                }
                Err(Failed::again(format!("cut short after {} of {size} bytes", self.hasher.size)))
            }
            _ => Ok(Transfer::Whole),
        }
    }

    fn finish(self, sums: &Sums) -> Result<Option<Digest>> {
        let digest = self.hasher.finish(sums);
        if digest.is_some() {
            let mode = fs::Permissions::from_mode(0o444);
            self.file.set_permissions(mode).map_err(|source| Error::Write { path: "partial".into(), source })?;
        }
        Ok(digest)
    }
}
