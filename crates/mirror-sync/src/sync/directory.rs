//! Directories of package files: each is copied into the store once, and read from there.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use toolkit::Io;
use toolkit::exit;

use super::{MAX_ENTRIES, Planned, What};
use crate::config::Source;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::files;
use crate::parallel;
use crate::pending::TOGETHER;
use crate::rpm::{self, elements::Elements};
use crate::state::{DebState, Found, FoundRpm, RpmState, State};
use crate::store::{Staged, Stamp, Store};
use crate::upstream::Context;

/// What is remembered of a package file.
pub(super) trait Taken: Sized + Send + Sync {
    /// What the names of packages end with.
    const SUFFIX: &'static str;
    /// What a new state needs of the last.
    type Last: Default;

    /// Returns name, stamp, content and length.
    fn file(&self) -> (&str, &Stamp, &Digest, u64);

    /// Reads a package from our copy.
    fn read(file: &str, stamp: Stamp, staged: &mut Staged) -> std::result::Result<Self, String>;

    /// Returns what a state remembers, if that can still be used.
    fn of(store: &Store, state: State) -> Option<(Vec<Self>, Self::Last)>;

    /// Makes the state.
    fn state(store: &Store, dir: String, packages: Vec<Self>, last: Self::Last) -> Result<State>;
}

impl Taken for Found {
    const SUFFIX: &'static str = ".deb";
    type Last = ();

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

    fn of(_: &Store, state: State) -> Option<(Vec<Self>, ())> {
        match state {
            State::Deb(state) => Some((state.packages, ())),
            _ => None,
        }
    }

    fn state(_: &Store, dir: String, packages: Vec<Self>, (): ()) -> Result<State> {
        Ok(State::Deb(DebState { v: State::VERSION, dir, packages }))
    }
}

/// An RPM package, and its elements.
pub(super) struct TakenRpm {
    found: FoundRpm,
    elements: Text,
}

/// Written at a time.
const BUFFER: usize = 256 << 10;

enum Text {
    /// Read from a package now.
    New(String),
    /// In this place of the last state's blob.
    Last(Range<usize>),
}

impl Taken for TakenRpm {
    const SUFFIX: &'static str = ".rpm";
    /// The blob of elements.
    type Last = Option<Digest>;

    fn file(&self) -> (&str, &Stamp, &Digest, u64) {
        let found = &self.found;
        (&found.file, &found.stamp, &found.sha256, found.size)
    }

    fn read(file: &str, stamp: Stamp, staged: &mut Staged) -> std::result::Result<Self, String> {
        let (size, sha256) = (staged.size(), staged.digest());
        let header = rpm::header::read(staged.file())?;
        let described = rpm::describe::describe(&header, size, &sha256)?;
        let mut lengths = [0; 3];
        for (length, element) in lengths.iter_mut().zip(&described.elements) {
            *length = u32::try_from(element.len()).map_err(|_| "its header is too long".to_owned())?;
        }
        let elements = described.elements.concat();
        let found = FoundRpm {
            file: file.to_owned(),
            stamp,
            size,
            sha256,
            name: described.name,
            version: described.version,
            arch: described.arch,
            built: described.built,
            path: described.path,
            lengths,
            crc: crate::pieces::crc(elements.as_bytes()),
        };
        Ok(Self { found, elements: Text::New(elements) })
    }

    fn of(store: &Store, state: State) -> Option<(Vec<Self>, Option<Digest>)> {
        let State::Rpm(state) = state else { return None };
        let mut end = 0;
        let taken = |found| {
            let place = rpm::elements::place(&found, &mut end);
            Self { found, elements: Text::Last(place) }
        };
        let packages: Vec<Self> = state.packages.into_iter().map(taken).collect();
        store.has_blob(&state.elements, end as u64).then_some((packages, Some(state.elements)))
    }

    fn state(store: &Store, dir: String, taken: Vec<Self>, last: Option<Digest>) -> Result<State> {
        let last = last.map(|blob| Elements::read(store, &blob)).transpose()?;
        let mut staged = store.stage()?;
        let mut packages = Vec::with_capacity(taken.len());
        let mut buffer = Vec::with_capacity(BUFFER);
        for package in taken {
            let elements = match (&package.elements, &last) {
                (Text::New(text), _) => text.as_bytes(),
                (Text::Last(place), Some(last)) => last.of(&package.found, place.clone())?,
                (Text::Last(_), None) => return Err(Error::Bug("elements of no state".into())),
            };
            if buffer.len() + elements.len() > BUFFER {
                staged.write(&buffer)?;
                buffer.clear();
            }
            buffer.extend_from_slice(elements);
            packages.push(package.found);
        }
        staged.write(&buffer)?;
        let elements = staged.store(store)?;
        Ok(State::Rpm(RpmState { v: State::VERSION, dir, packages, elements }))
    }
}

/// Takes in what is new in a directory.
///
/// # Errors
/// [`Error::Unavailable`]; [`Error::Rejected`] naming the first file that cannot be used; [`Error::Write`].
pub(super) fn sync<T: Taken>(context: &Context<'_>, source: &Source, dir: &Path, io: &mut Io) -> Result<String> {
    let (store, name) = (context.store, source.name());
    let names = names(dir, T::SUFFIX)?;
    let (packages, last) = State::load(store, source)?.and_then(|state| T::of(store, state)).unwrap_or_default();
    let mut known: BTreeMap<String, T> =
        packages.into_iter().map(|package| (package.file().0.to_owned(), package)).collect();
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
    let mut results = Vec::with_capacity(names.len());
    for names in names.chunks(TOGETHER) {
        results.extend(parallel::map(context.config.jobs, names, |name| take(store, dir, name, known.get(name))));
        store.settle()?;
    }
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
        let state = T::state(store, dir.to_string_lossy().into_owned(), packages, last);
        let state = state.map_err(|error| State::lost(store, name, error))?;
        store.write_json(State::path(name), &state)?;
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
    if is_known(store, known, &path) {
        return Ok(None);
    }
    let metadata = files::open_regular(&path).and_then(|file| file.metadata()).map_err(refuse)?;
    Ok(Some(metadata.len()))
}

/// Whether the file has not changed since it was read, and its blob is there.
fn is_known<T: Taken>(store: &Store, known: Option<&T>, path: &Path) -> bool {
    known.map(Taken::file).is_some_and(|(_, before, sha256, size)| {
        std::fs::symlink_metadata(path).is_ok_and(|now| Stamp::of(&now) == *before) && store.has_blob(sha256, size)
    })
}

/// Stores one package; `None` when it is known.
fn take<T: Taken>(store: &Store, dir: &Path, name: &str, known: Option<&T>) -> Result<Option<T>> {
    let path = dir.join(name);
    let what = || path.display().to_string();
    let refuse = |error: std::io::Error| Error::rejected(what(), error.to_string());
    if is_known(store, known, &path) {
        return Ok(None);
    }
    let file = files::open_regular(&path).map_err(refuse)?;
    let before = Stamp::of(&file.metadata().map_err(refuse)?);
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
