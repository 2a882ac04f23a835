//! `sync`: brings what the sources have into the store.
//!
//! Each source is independent: one that fails keeps its last complete state, the others go on, and the exit
//! code says so. Nothing that is published changes, whatever happens here.

mod deb;
mod files;
mod packages;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use cloner::manifest::{Manifest, ManifestError};
use toolkit::Io;
use toolkit::exit::{self, Failure as _};
use toolkit::lock::FileLock;

use crate::config::{Config, DebSource, GitSource, Origin, Source};
use crate::error::{Error, Result};
use crate::fetch::Fetcher;
use crate::git::{Git, Upstream};
use crate::parallel;
use crate::state::{DebState, Found, GitState, State};
use crate::store::{Stamp, Store};
use crate::upstream::Context;

/// Largest number of repositories or packages of one source.
const MAX_ENTRIES: usize = 1_000_000;

/// Synchronises every source.
///
/// # Errors
/// [`Error::Busy`]; [`Error::Manifest`]; [`Error::Source`] and [`Error::Sources`] when the only one or some failed.
pub(crate) fn run(config: &Config, io: &mut Io) -> Result<()> {
    let (store, lock) = Store::writer(config.root()?)?;
    config.some_sources()?;
    let fetcher = Fetcher::with(&config.limits, config.proxy.as_deref(), config.jobs)
        .map_err(|why| Error::config(config.path(), why))?;
    let context = Context { store: &store, config, fetcher: &fetcher, now: crate::files::now() };
    let mut report = Report { config, failed: Vec::new(), codes: BTreeSet::new() };
    // Directories first: selections count on what they hold.
    for source in &config.sources {
        let done = match (source, source.origin()) {
            (Source::Deb(deb), Some(Origin::Dir(dir))) => sync_deb(&store, config, source, deb, dir, io),
            (Source::Git(git), _) => sync_git(&store, &lock, config, git, io),
            (Source::Files(files), _) => files::sync(&context, source, files),
            (Source::Rpm(_), _) => Err(Error::rejected("type: rpm", "is not there yet")),
            (Source::Deb(_), _) => continue,
        };
        report.take(source.name(), done, io)?;
    }
    for (name, done) in packages::run::<deb::Deb>(&context, io)? {
        report.take(&name, done, io)?;
    }
    report.end(&store)
}

/// What became of the sources.
struct Report<'a> {
    config: &'a Config,
    failed: Vec<String>,
    codes: BTreeSet<u8>,
}

impl Report<'_> {
    fn take(&mut self, name: &str, done: Result<String>, io: &mut Io) -> Result<()> {
        match done {
            Ok(summary) => io.note(format_args!("{name}: {summary}")),
            Err(error @ (Error::Config { .. } | Error::Manifest(_) | Error::Write { .. })) => return Err(error),
            Err(error) if self.config.sources.len() == 1 => {
                return Err(Error::Source { name: name.to_owned(), cause: Box::new(error) });
            }
            Err(error) => {
                io.error(format_args!("source {name}: {}", exit::chain(&error)));
                self.codes.insert(error.exit_code());
                self.failed.push(name.to_owned());
            }
        }
        Ok(())
    }

    fn end(self, store: &Store) -> Result<()> {
        if self.failed.is_empty() {
            // Nothing is waiting to be continued.
            for name in crate::files::names_in(&store.path("partial"))? {
                crate::files::remove(&store.path("partial").join(name))?;
            }
            return Ok(());
        }
        let away = self.codes.iter().all(|code| *code == exit::UNAVAILABLE);
        let code = if away { exit::UNAVAILABLE } else { exit::NO };
        Err(Error::Sources { failed: self.failed, total: self.config.sources.len(), code })
    }
}

fn sync_deb(
    store: &Store,
    config: &Config,
    source: &Source,
    deb: &DebSource,
    dir: &Path,
    io: &mut Io,
) -> Result<String> {
    let away = |error: std::io::Error| Error::unavailable(dir.display().to_string(), error.to_string());
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(away)? {
        let name = entry.map_err(away)?.file_name();
        if name.to_str().is_none_or(|name| name.ends_with(".deb") && !name.starts_with('.')) {
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
    let mut known: BTreeMap<String, Found> = BTreeMap::new();
    if let Some(State::Deb(state)) = State::load(store, source)? {
        known.extend(state.packages.into_iter().map(|found| (found.file.clone(), found)));
    }
    let results = parallel::map(config.jobs, &names, |name| take(store, dir, name, known.get(name)));
    let mut packages = Vec::with_capacity(results.len());
    let (mut new, mut refused) = (0, 0);
    let mut first = None;
    for (name, result) in names.iter().zip(results) {
        match result {
            Ok(None) => packages.push(known.remove(name).expect("only a known package is reused")),
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
                    io.error(format_args!("source {}: {}", deb.name, exit::chain(&error)));
                }
            }
        }
    }
    if let Some(error) = first {
        if refused > 1 {
            io.error(format_args!("source {}: {refused} of {} packages cannot be used", deb.name, names.len()));
        }
        return Err(error);
    }
    if packages.is_empty() {
        io.warn(format_args!("source {}: no package in {}", deb.name, dir.display()));
    }
    let summary = format!("{} packages, {new} new, {} gone", packages.len(), known.len());
    let state = DebState { v: State::VERSION, dir: dir.to_string_lossy().into_owned(), packages };
    store.write_json(State::path(&deb.name), &State::Deb(state))?;
    Ok(summary)
}

/// Stores one package; `None` when the file has not changed since it was read and its blob is there.
fn take(store: &Store, dir: &Path, name: &str, known: Option<&Found>) -> Result<Option<Found>> {
    let path = dir.join(name);
    let what = || path.display().to_string();
    let refuse = |error: std::io::Error| Error::rejected(what(), error.to_string());
    let file = crate::files::open_regular(&path).map_err(refuse)?;
    let before = Stamp::of(&file.metadata().map_err(refuse)?);
    if known.is_some_and(|found| found.stamp == before && store.has_blob(&found.sha256, found.size)) {
        return Ok(None);
    }
    // The package is read from our copy: whoever writes to the directory meanwhile cannot make the stanza
    // and the content differ.
    let mut staged = store.stage()?;
    staged.copy(&file, &path)?;
    let stamp = Stamp::of(&file.metadata().map_err(refuse)?);
    if stamp != before {
        return Err(Error::rejected(what(), "changed while it was read; run sync again when it is complete"));
    }
    let size = staged.size();
    let control = crate::deb::read(staged.file()).map_err(|message| Error::rejected(what(), message))?;
    let sha256 = staged.store(store)?;
    Ok(Some(Found {
        file: name.to_owned(),
        stamp,
        size,
        sha256,
        package: control.package,
        version: control.version,
        architecture: control.architecture,
        section: control.section,
        built: control.built,
        stanza: control.stanza,
    }))
}

fn sync_git(store: &Store, lock: &FileLock, config: &Config, source: &GitSource, io: &mut Io) -> Result<String> {
    let upstreams = upstreams(source)?;
    let git = Git::writer(store, &config.limits, lock);
    let results = parallel::map(config.jobs, &upstreams, |upstream| git.sync(upstream));
    let mut repos = Vec::with_capacity(results.len());
    let mut new = 0;
    let mut first = None;
    for result in results {
        match result {
            Ok((repo, changed)) => {
                new += usize::from(changed);
                repos.push(repo);
            }
            Err(error @ Error::Write { .. }) => return Err(error),
            Err(error) if first.is_none() => first = Some(error),
            Err(error) => io.error(format_args!("source {}: {}", source.name, exit::chain(&error))),
        }
    }
    if let Some(error) = first {
        return Err(error);
    }
    let summary = format!("{} repositories, {new} changed", repos.len());
    let state = GitState {
        v: State::VERSION,
        manifest: source.manifest.to_string_lossy().into_owned(),
        mirror: source.mirror.clone(),
        repos,
    };
    store.write_json(State::path(&source.name), &State::Git(state))?;
    Ok(summary)
}

/// Returns the manifest's repositories, each once, by path.
///
/// # Errors
/// [`Error::Config`]; [`Error::Manifest`].
pub(crate) fn upstreams(source: &GitSource) -> Result<Vec<Upstream>> {
    let wrong = |message: String| Error::config(&source.manifest, message);
    let repos = Manifest::load(&source.manifest).and_then(|manifest| manifest.repos())?;
    if repos.len() > MAX_ENTRIES {
        return Err(wrong("too many repositories".into()));
    }
    let base = source.manifest.parent().unwrap_or(std::path::Path::new("/"));
    let mut by_path = BTreeMap::new();
    for repo in repos {
        let upstream = Upstream::new(&repo.source, source.mirror.as_deref(), base).map_err(|why| {
            let message = format!("{}: {why}", repo.path);
            ManifestError::At { at: repo.at.clone(), message, hint: None }
        })?;
        by_path.entry(upstream.path.clone()).or_insert(upstream);
    }
    let paths: Vec<&String> = by_path.keys().collect();
    for pair in paths.windows(2) {
        if pair[1].strip_prefix(pair[0].as_str()).is_some_and(|rest| rest.starts_with('/')) {
            return Err(wrong(format!("repository {} lies inside {}", pair[1], pair[0])));
        }
    }
    Ok(by_path.into_values().collect())
}
