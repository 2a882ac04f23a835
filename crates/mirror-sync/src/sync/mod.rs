//! `sync`: brings what the sources have into the store.
//!
//! Each source is independent: one that fails keeps its last complete state, the others go on, and the exit
//! code says so. Nothing that is published changes, whatever happens here.

mod deb;
mod directory;
mod files;
mod packages;
mod plan;
mod rpm;

use std::collections::{BTreeMap, BTreeSet};

use cloner::manifest::{Manifest, ManifestError};
use toolkit::Io;
use toolkit::exit::{self, Failure as _};
use toolkit::lock::FileLock;

use crate::config::{Config, GitSource, Origin, Source};
use crate::error::{Error, Result};
use crate::fetch::Fetcher;
use crate::git::{Git, Upstream, published};
use crate::parallel;
use crate::state::{Found, GitState, State};
use crate::status;
use crate::store::Store;
use crate::upstream::Context;
pub(crate) use plan::{Plan, Planned, What};

/// Whether a run brings what it finds, or only says what that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It is brought.
    Real,
    /// It is printed. What has to be read to know it, signed indices, is in the store afterwards.
    Dry {
        /// As JSON.
        json: bool,
    },
}

/// Largest number of repositories or packages of one source.
const MAX_ENTRIES: usize = 1_000_000;

/// Synchronises every source.
///
/// # Errors
/// [`Error::Busy`]; [`Error::Manifest`]; [`Error::Source`] and [`Error::Sources`] when the only one or some failed.
pub(crate) fn run(config: &Config, mode: Mode, io: &mut Io) -> Result<()> {
    let (store, lock) = Store::writer(config.root()?)?;
    config.some_sources()?;
    let fetcher = Fetcher::with(&config.limits, config.proxy.as_deref(), config.jobs)
        .map_err(|why| Error::config(config.path(), why))?;
    let dry = matches!(mode, Mode::Dry { .. }).then(Plan::default);
    let context = Context { store: &store, config, fetcher: &fetcher, now: crate::files::now(), dry };
    let result = synchronise(&context, &lock, mode, io);
    if context.dry.is_some() {
        return result;
    }
    // What came is kept, even when a source failed: the next run does not fetch it again.
    let settled = store.settle();
    result.and(settled)
}

fn synchronise(context: &Context<'_>, lock: &FileLock, mode: Mode, io: &mut Io) -> Result<()> {
    let (config, store) = (context.config, context.store);
    let mut report = Report { store, config, dry: context.dry.is_some(), failed: Vec::new(), codes: BTreeSet::new() };
    // Directories first: selections count on what they hold.
    for source in &config.sources {
        let done = match (source, source.origin()) {
            (Source::Deb(_), Some(Origin::Dir(dir))) => directory::sync::<Found>(context, source, dir, io),
            (Source::Rpm(_), Some(Origin::Dir(dir))) => {
                directory::sync::<directory::TakenRpm>(context, source, dir, io)
            }
            (Source::Git(git), _) => sync_git(context, lock, source, git, io),
            (Source::Files(files), _) => files::sync(context, source, files),
            (Source::Deb(_) | Source::Rpm(_), _) => continue,
        };
        report.take(source.name(), done, io)?;
    }
    let debs = packages::run::<deb::Deb>(context, io)?;
    let rpms = packages::run::<rpm::Rpm>(context, io)?;
    for (name, done) in debs.into_iter().chain(rpms) {
        report.take(&name, done, io)?;
    }
    if let (Mode::Dry { json }, Some(plan)) = (mode, &context.dry) {
        plan.print(json, io)?;
        return report.end();
    }
    if config.sources.iter().any(|source| matches!(source, Source::Git(_))) {
        let git = Git::writer(store, &config.limits, lock);
        git.write_index(&crate::gc::repositories(store)?, &published::known(store, config)?, config.jobs)?;
    }
    report.end()
}

/// What became of the sources.
struct Report<'a> {
    store: &'a Store,
    config: &'a Config,
    /// Nothing is written.
    dry: bool,
    failed: Vec<String>,
    codes: BTreeSet<u8>,
}

impl Report<'_> {
    fn take(&mut self, name: &str, done: Result<String>, io: &mut Io) -> Result<()> {
        let words = done.as_ref().map(String::as_str).map_err(|error| exit::chain(error));
        if !self.dry
            && let Err(error) = status::record(self.store, name, words.as_ref().copied().map_err(String::as_str))
        {
            io.warn(exit::chain(&error));
        }
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

    fn end(self) -> Result<()> {
        if self.failed.is_empty() && self.dry {
            return Ok(());
        }
        if self.failed.is_empty() {
            self.store.settle()?;
            // Nothing is waiting to be continued.
            for name in crate::files::names_in(&self.store.path("partial"))? {
                crate::files::remove(&self.store.path("partial").join(name))?;
            }
            return Ok(());
        }
        let away = self.codes.iter().all(|code| *code == exit::UNAVAILABLE);
        let code = if away { exit::UNAVAILABLE } else { exit::NO };
        Err(Error::Sources { failed: self.failed, total: self.config.sources.len(), code })
    }
}

fn sync_git(context: &Context<'_>, lock: &FileLock, source: &Source, from: &GitSource, io: &mut Io) -> Result<String> {
    let (store, config) = (context.store, context.config);
    let upstreams = upstreams(from)?;
    let git = Git::writer(store, &config.limits, lock);
    let before = match State::load(store, source)? {
        Some(State::Git(state)) => state.forms,
        _ => published::AllForms::new(),
    };
    if let Some(dry) = &context.dry {
        let moved = parallel::map(config.jobs, &upstreams, |upstream| git.would_move(upstream));
        let mut count = 0;
        for (upstream, moved) in upstreams.iter().zip(moved) {
            if moved? {
                count += 1;
                let (source, path) = (from.name.clone(), upstream.path.clone());
                dry.add(Planned { source, what: What::Update, path, size: None });
            }
        }
        return Ok(format!("{} repositories, {count} to update", upstreams.len()));
    }
    let results = parallel::map(config.jobs, &upstreams, |upstream| {
        let (repo, changed) = git.sync(upstream)?;
        let forms = before.get(&repo.path).cloned().unwrap_or_default();
        let forms = git.publish(&repo, &upstream.wanted, &forms)?;
        Ok((repo, changed, forms))
    });
    let mut repos = Vec::with_capacity(results.len());
    let mut all = published::AllForms::new();
    let mut new = 0;
    let mut first = None;
    for result in results {
        match result {
            Ok((repo, changed, forms)) => {
                new += usize::from(changed);
                all.insert(repo.path.clone(), forms);
                repos.push(repo);
            }
            Err(error @ Error::Write { .. }) => return Err(error),
            Err(error) if first.is_none() => first = Some(error),
            Err(error) => io.error(format_args!("source {}: {}", from.name, exit::chain(&error))),
        }
    }
    if let Some(error) = first {
        return Err(error);
    }
    let summary = format!("{} repositories, {new} changed", repos.len());
    let state = GitState {
        v: State::VERSION,
        manifest: from.manifest.to_string_lossy().into_owned(),
        mirror: from.mirror.clone(),
        repos,
        forms: all,
    };
    store.write_json(State::path(&from.name), &State::Git(state))?;
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
    let mut by_path: BTreeMap<String, Upstream> = BTreeMap::new();
    for repo in repos {
        let upstream = Upstream::new(&repo.source, source.mirror.as_deref(), base).map_err(|why| {
            let message = format!("{}: {why}", repo.path);
            ManifestError::At { at: repo.at.clone(), message, hint: None }
        })?;
        let known = by_path.entry(upstream.path.clone()).or_insert(upstream);
        known.wanted.insert(repo.reference);
    }
    let paths: Vec<&String> = by_path.keys().collect();
    for pair in paths.windows(2) {
        if pair[1].strip_prefix(pair[0].as_str()).is_some_and(|rest| rest.starts_with('/')) {
            return Err(wrong(format!("repository {} lies inside {}", pair[1], pair[0])));
        }
    }
    Ok(by_path.into_values().collect())
}
