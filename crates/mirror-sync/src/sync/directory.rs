//! Directories of package files: each is copied into the store once, and read from there.

use std::collections::BTreeMap;
use std::path::Path;

use toolkit::Io;
use toolkit::exit;

use super::{MAX_ENTRIES, Planned, What};
use crate::config::Source;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::files;
use crate::parallel;
use crate::rpm;
use crate::state::{DebState, Found, FoundRpm, RpmState, State};
use crate::store::{Staged, Stamp, Store};
use crate::upstream::Context;

/// What is remembered of a package file.
pub(super) trait Taken: Sized + Send + Sync {
    /// What the names of packages end with.
    const SUFFIX: &'static str;

    /// Returns name, stamp, content and length.
    fn file(&self) -> (&str, &Stamp, &Digest, u64);

    /// Reads a package from our copy.
    fn read(file: &str, stamp: Stamp, staged: &mut Staged) -> std::result::Result<Self, String>;

    /// Returns what a state remembers.
    fn of(state: State) -> Option<Vec<Self>>;

    /// Makes the state.
    fn state(dir: String, packages: Vec<Self>) -> State;
}

impl Taken for Found {
    const SUFFIX: &'static str = ".deb";

    fn file(&self) -> (&str, &Stamp, &Digest, u64) {
        (&self.file, &self.stamp, &self.sha256, self.size)
    }

    fn read(file: &str, stamp: Stamp, staged: &mut Staged) -> std::result::Result<Self, String> {
        let (size, sha256) = (staged.size(), staged.digest());
        let control = crate::deb::read(staged.file())?;
        Ok(Self {
            file: file.to_owned(),
            stamp,
            size,
            sha256,
            package: control.package,
            version: control.version,
            architecture: control.architecture,
            section: control.section,
            built: control.built,
            stanza: control.stanza,
        })
    }

    fn of(state: State) -> Option<Vec<Self>> {
        match state {
            State::Deb(state) => Some(state.packages),
            _ => None,
        }
    }

    fn state(dir: String, packages: Vec<Self>) -> State {
        State::Deb(DebState { v: State::VERSION, dir, packages })
    }
}

impl Taken for FoundRpm {
    const SUFFIX: &'static str = ".rpm";

    fn file(&self) -> (&str, &Stamp, &Digest, u64) {
        (&self.file, &self.stamp, &self.sha256, self.size)
    }

    fn read(file: &str, stamp: Stamp, staged: &mut Staged) -> std::result::Result<Self, String> {
        let (size, sha256) = (staged.size(), staged.digest());
        let header = rpm::header::read(staged.file())?;
        let described = rpm::metadata::describe(&header, size, &sha256)?;
        Ok(Self { file: file.to_owned(), stamp, size, sha256, described })
    }

    fn of(state: State) -> Option<Vec<Self>> {
        match state {
            State::Rpm(state) => Some(state.packages),
            _ => None,
        }
    }

    fn state(dir: String, packages: Vec<Self>) -> State {
        State::Rpm(RpmState { v: State::VERSION, dir, packages })
    }
}

/// Takes in what is new in a directory.
///
/// # Errors
/// [`Error::Unavailable`]; [`Error::Rejected`] naming the first file that cannot be used; [`Error::Write`].
pub(super) fn sync<T: Taken>(context: &Context<'_>, source: &Source, dir: &Path, io: &mut Io) -> Result<String> {
    let (store, name) = (context.store, source.name());
    let names = names(dir, T::SUFFIX)?;
    let mut known: BTreeMap<String, T> = BTreeMap::new();
    for package in State::load(store, source)?.and_then(T::of).unwrap_or_default() {
        known.insert(package.file().0.to_owned(), package);
    }
    if let Some(dry) = &context.dry {
        let (mut new, count) = (0, names.len());
        for file in names {
            let size = would_take(store, dir, &file, known.get(&file))?;
            known.remove(&file);
            if size.is_some() {
                new += 1;
                dry.add(Planned { source: name.to_owned(), what: What::Take, path: file, size });
            }
        }
        return Ok(format!("{count} packages, {new} to take, {} gone", known.len()));
    }
    let results = parallel::map(context.config.jobs, &names, |name| take(store, dir, name, known.get(name)));
    let mut packages = Vec::with_capacity(results.len());
    let (mut new, mut refused) = (0, 0);
    let mut first = None;
    for (file, result) in names.iter().zip(results) {
        match result {
            Ok(None) => packages.push(known.remove(file).expect("only a known package is reused")),
            Ok(Some(found)) => {
                new += 1;
                packages.push(found);
            }
            Err(error @ Error::Write { .. }) => return Err(error),
            Err(error) => {
                refused += 1;
                if first.is_none() {
                    first = Some(error);
                } else {
                    io.error(format_args!("source {name}: {}", exit::chain(&error)));
                }
            }
        }
    }
    if let Some(error) = first {
        if refused > 1 {
            io.error(format_args!("source {name}: {refused} of {} packages cannot be used", names.len()));
        }
        return Err(error);
    }
    if packages.is_empty() {
        io.warn(format_args!("source {name}: no package in {}", dir.display()));
    }
    let summary = format!("{} packages, {new} new, {} gone", packages.len(), known.len());
    if new > 0 || !known.is_empty() || packages.is_empty() {
        store.write_json(State::path(name), &T::state(dir.to_string_lossy().into_owned(), packages))?;
    }
    Ok(summary)
}

/// Returns the names of package files, sorted; hidden ones are somebody's work in progress.
fn names(dir: &Path, suffix: &str) -> Result<Vec<String>> {
    let away = |error: std::io::Error| Error::unavailable(dir.display().to_string(), error.to_string());
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(away)? {
        let name = entry.map_err(away)?.file_name();
        if name.to_str().is_none_or(|name| name.ends_with(suffix) && !name.starts_with('.')) {
            let readable = name.into_string();
            names.push(readable.map_err(|name| {
                Error::rejected(dir.join(name).display().to_string(), "the file's name is not UTF-8")
            })?);
        }
    }
    names.sort_unstable();
    if names.len() > MAX_ENTRIES {
        return Err(Error::rejected(dir.display().to_string(), "too many packages"));
    }
    Ok(names)
}

/// Returns the length of a package that would be stored.
fn would_take<T: Taken>(store: &Store, dir: &Path, name: &str, known: Option<&T>) -> Result<Option<u64>> {
    let path = dir.join(name);
    let refuse = |error: std::io::Error| Error::rejected(path.display().to_string(), error.to_string());
    let metadata = files::open_regular(&path).and_then(|file| file.metadata()).map_err(refuse)?;
    Ok(if is_known(store, known, &Stamp::of(&metadata)) { None } else { Some(metadata.len()) })
}

fn is_known<T: Taken>(store: &Store, known: Option<&T>, stamp: &Stamp) -> bool {
    known.map(Taken::file).is_some_and(|(_, before, sha256, size)| before == stamp && store.has_blob(sha256, size))
}

/// Stores one package; `None` when the file has not changed since it was read and its blob is there.
fn take<T: Taken>(store: &Store, dir: &Path, name: &str, known: Option<&T>) -> Result<Option<T>> {
    let path = dir.join(name);
    let what = || path.display().to_string();
    let refuse = |error: std::io::Error| Error::rejected(what(), error.to_string());
    let file = files::open_regular(&path).map_err(refuse)?;
    let before = Stamp::of(&file.metadata().map_err(refuse)?);
    if is_known(store, known, &before) {
        return Ok(None);
    }
    // The package is read from our copy: whoever writes to the directory meanwhile cannot make the index
    // and the content differ.
    let mut staged = store.stage()?;
    staged.copy(&file, &path)?;
    let stamp = Stamp::of(&file.metadata().map_err(refuse)?);
    if stamp != before {
        return Err(Error::rejected(what(), "changed while it was read; run sync again when it is complete"));
    }
    let found = T::read(name, stamp, &mut staged).map_err(|message| Error::rejected(what(), message))?;
    staged.store(store)?;
    Ok(Some(found))
}
