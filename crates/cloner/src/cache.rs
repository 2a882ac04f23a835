//! `--cache DIR`: objects that many roots and runs share, one bare repository per source.
//!
//! Below DIR, `tips/HOST/PATH.git` keeps commits without their history, for exports, and
//! `full/HOST/PATH.git` keeps everything, for clones; `FILE.lock` beside each is held while it is used, so that
//! roots can share a cache. What a source listed last is kept as a refs index in `cloner.refs`: with
//! `--offline` that is what refs mean.
//!
//! A cache is never a reason to fail. What cannot be opened or read is moved to `DIR/quarantine`, one
//! per source, and fetched again; what has grown to many packs is dropped and begun anew.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use git2::{Oid, Repository};
use toolkit::lock::FileLock;

use crate::cli::Mode;
use crate::fault::{Cause, Fault};
use crate::git::{self, Head};
use crate::place;
use crate::refsindex::{self, Index, Refs};

/// Packs from which on an entry is begun anew.
const MAX_PACKS: usize = 64;
/// The last list of refs, in an entry.
const REFS: &str = "cloner.refs";

/// A cache directory.
#[derive(Debug)]
pub(crate) struct Cache {
    directory: PathBuf,
}

/// One source's repository, held.
pub(crate) struct Entry {
    pub(crate) path: PathBuf,
    place: String,
    quarantine: PathBuf,
    _lock: FileLock,
}

impl Cache {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Waits for the entry of the source at `place` and makes it usable.
    pub(crate) fn hold(&self, place: &str, mode: Mode, deadline: Instant) -> Result<Entry, Fault> {
        let path = self.directory.join(if mode == Mode::Clone { "full" } else { "tips" }).join(place);
        let disk = |err: &dyn std::fmt::Display| Fault::new(Cause::Disk, format!("{}: {err}", path.display()));
        fs::create_dir_all(path.parent().expect("it is below the cache")).map_err(|err| disk(&err))?;
        let mut name = path.clone().into_os_string();
        name.push(".lock");
        let taken = FileLock::exclusive_until(Path::new(&name), deadline).map_err(|err| disk(&err))?;
        let lock = taken.ok_or_else(|| Fault::new(Cause::Lock, format!("{}: another run uses it", path.display())))?;
        let quarantine = self.directory.join("quarantine").join(place.replace('/', "_"));
        let entry = Entry { path, place: place.to_owned(), quarantine, _lock: lock };
        entry.tidy()?;
        Ok(entry)
    }
}

impl Entry {
    /// Removes what a killed run left, and an entry that has grown too far.
    fn tidy(&self) -> Result<(), Fault> {
        let packs = self.path.join("objects/pack");
        let mut count = 0;
        for entry in fs::read_dir(&packs).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.as_encoded_bytes();
            count += usize::from(name.ends_with(b".pack"));
            // The lock is held, so nobody writes these.
            if name.starts_with(b"pack_") || name.ends_with(b".lock") {
                fs::remove_file(entry.path()).map_err(|err| Fault::disk(&entry.path(), &err))?;
            }
        }
        if count > MAX_PACKS {
            place::remove_tree(&self.path).map_err(|err| Fault::disk(&self.path, &err))?;
        }
        Ok(())
    }

    /// Opens the repository; one that is missing or damaged is made anew.
    pub(crate) fn open(&self) -> Result<Repository, Fault> {
        if fs::symlink_metadata(&self.path).is_ok() {
            match git::open_local(&self.path) {
                Ok(repository) => return Ok(repository),
                Err(_) => self.quarantine()?,
            }
        }
        git::init(&self.path, true)
    }

    /// Moves the repository out of the way, over what was moved there before.
    pub(crate) fn quarantine(&self) -> Result<(), Fault> {
        let disk = |err: std::io::Error| Fault::disk(&self.quarantine, &err);
        place::remove_tree(&self.quarantine).map_err(disk)?;
        fs::create_dir_all(self.quarantine.parent().expect("it is below the cache")).map_err(disk)?;
        fs::rename(&self.path, &self.quarantine).map_err(disk)
    }

    /// Keeps what the source lists.
    pub(crate) fn keep_heads(&self, heads: &[Head]) -> Result<(), Fault> {
        let mut refs = Refs::default();
        for head in heads {
            if let Some(name) = head.name.strip_suffix("^{}") {
                if let Some((_, peeled)) = refs.refs.get_mut(name) {
                    *peeled = Some(head.oid.to_string());
                }
            } else if head.name == "HEAD" {
                let name = head.symref.clone().unwrap_or_else(|| "refs/cloner/HEAD".to_owned());
                refs.refs.entry(name.clone()).or_insert((head.oid.to_string(), None));
                refs.head = Some(name);
            } else {
                refs.refs.insert(head.name.clone(), (head.oid.to_string(), None));
            }
        }
        // A list with the refs that mattered this time adds to those of other times.
        if let Some(before) = self.refs() {
            for (name, value) in before.refs {
                refs.refs.entry(name).or_insert(value);
            }
            refs.head = refs.head.or(before.head);
        }
        let fail = |why: String| Fault::new(Cause::Disk, format!("{}: {why}", self.path.display()));
        let text = refsindex::write([(self.place.as_str(), &refs)]).map_err(fail)?;
        toolkit::atomic::write(&self.path.join(REFS), text.as_bytes(), 0o644)
            .map(drop)
            .map_err(|err| Fault::disk(&self.path.join(REFS), &err))
    }

    fn refs(&self) -> Option<Refs> {
        let bytes = fs::read(self.path.join(REFS)).ok()?;
        Index::parse(String::from_utf8(bytes).ok()?).ok()?.find(&self.place).ok()?
    }

    /// Returns what the source listed when it was last asked.
    pub(crate) fn heads(&self) -> Option<Vec<Head>> {
        crate::fleet::heads(&self.refs()?)
    }

    /// Returns the commits that the repository has with all their history: those that a full fetch has left refs for.
    pub(crate) fn haves(&self, repository: &Repository) -> Vec<Oid> {
        let references = repository.references().into_iter().flatten().flatten();
        let mut haves: Vec<Oid> = references.filter_map(|reference| reference.target()).collect();
        haves.sort();
        haves.dedup();
        haves
    }
}
