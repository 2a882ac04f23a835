//! `gc`: removes snapshots, blobs and pins that nothing retained needs.
//!
//! Retained are the snapshots that channels, roles and nodes point at, those that a rollout goes to or back to, those
//! that a node says it uses or is about to use, each channel's `keep` earlier ones (so that a rollback finds them),
//! the newest `keep` of the others, and what is younger than `grace`. When Consul is configured and away nobody knows
//! what is in use, and nothing is removed.
//!
//! A snapshot is first renamed out of `pub`, then removed, so clients never see half of one. It needs no
//! free space: content goes first, and what git cannot rewrite on a full disk is left for the next time.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use toolkit::Io;
use toolkit::lock::FileLock;

use crate::channel;
use crate::config::Config;
use crate::consul::{Cluster, NodeState};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::files;
use crate::git::{Git, published};
use crate::manifest::{Manifest, Source};
use crate::rollout::{self, Phase};
use crate::snapshot;
use crate::state::State;
use crate::store::Store;

/// Removes what is not needed.
///
/// # Errors
/// [`Error::Busy`]; [`Error::Damaged`] when a retained manifest cannot be read: then nothing is removed.
pub(crate) fn run(config: &Config, io: &mut Io) -> Result<()> {
    let (store, lock) = Store::writer(config.root()?)?;
    let _channels = store.channel_lock()?;
    let pointed = in_use(config, &store)?;
    let now = files::now();
    let (mut retained, mut dropped) = (BTreeSet::new(), Vec::new());
    let mut newest = 0;
    for (id, info) in snapshot::all(&store)? {
        let young = now.saturating_sub(info.created) < config.grace.as_secs();
        if pointed.contains(&id) {
            retained.insert(id);
        } else if newest < config.keep || young {
            newest += 1;
            retained.insert(id);
        } else {
            dropped.push(id);
        }
    }
    // Everything that is needed is known before anything is removed.
    let (mut blobs, mut repos) = (BTreeSet::new(), BTreeSet::new());
    for id in &retained {
        mark(&Manifest::load(&store, id)?, &mut blobs, &mut repos);
    }
    for source in &config.sources {
        match State::load(&store, source)? {
            Some(State::Deb(state)) => blobs.extend(state.packages.into_iter().map(|found| found.sha256)),
            Some(State::Rpm(state)) => {
                blobs.insert(state.elements);
                blobs.extend(state.packages.into_iter().map(|found| found.sha256));
            }
            Some(State::Part(state)) => state.mark(&store, &mut blobs)?,
            Some(State::Git(state)) => repos.extend(state.repos.into_iter().map(|repo| repo.path)),
            None => {}
        }
    }
    for id in &dropped {
        let work = store.temporary("dropped");
        let published = store.path(format!("pub/snap/{id}"));
        fs::rename(&published, &work).map_err(Error::write(&published))?;
        files::remove(&store.path(format!("snapshots/{id}")))?;
        files::remove(&work)?;
    }
    for name in files::names_in(&store.path("snapshots"))? {
        // Of a snapshot that was never finished, or whose removal was interrupted.
        if !store.path("pub/snap").join(&name).exists() {
            files::remove(&store.path("snapshots").join(name))?;
        }
    }
    let freed = sweep_blobs(&store, &blobs, config.grace)?;
    let swept = sweep_repositories(&store, &lock, config, &retained, &repos);
    io.note(format_args!("{} snapshots removed, {} kept, {freed} blobs removed", dropped.len(), retained.len()));
    swept
}

/// Returns the snapshots that somebody uses or may go to with one command.
fn in_use(config: &Config, store: &Store) -> Result<BTreeSet<Digest>> {
    let mut used = BTreeSet::new();
    for name in files::names_in(&store.path("pub/channel"))? {
        let Some(channel) = name.strip_suffix(".json") else { continue };
        used.extend(channel::read(store, channel)?.map(|pointer| pointer.snapshot));
        used.extend(channel::earlier(store, channel, config.keep)?);
    }
    if let Some(consul) = &config.consul {
        let cluster = Cluster::new(consul)?;
        used.extend(cluster.pointed()?);
        for (_, rollout) in rollout::all(&cluster)? {
            if rollout.phase == Phase::Running {
                used.insert(rollout.snapshot);
            }
            used.extend(rollout.previous);
        }
        for state in cluster.all::<NodeState>("state")?.into_values() {
            used.extend(state.want.into_iter().chain(state.have));
        }
    }
    Ok(used)
}

fn mark(manifest: &Manifest, blobs: &mut BTreeSet<Digest>, repos: &mut BTreeSet<String>) {
    for source in &manifest.sources {
        blobs.extend(source.files().map(|(_, _, sha256)| sha256.clone()));
        if let Source::Git(git) = source {
            repos.extend(git.repos.iter().map(|repo| repo.path.clone()));
        }
    }
}

fn is_old(path: &Path, grace: Duration) -> Result<bool> {
    let modified = fs::symlink_metadata(path).and_then(|metadata| metadata.modified()).map_err(Error::read(path))?;
    Ok(SystemTime::now().duration_since(modified).unwrap_or_default() >= grace)
}

fn sweep_blobs(store: &Store, needed: &BTreeSet<Digest>, grace: Duration) -> Result<usize> {
    let mut freed = 0;
    let base = store.path("cas/sha256");
    for part in files::names_in(&base)? {
        let directory = base.join(part);
        for name in files::names_in(&directory)? {
            let path = directory.join(&name);
            let needed = name.parse::<Digest>().is_ok_and(|digest| needed.contains(&digest));
            if !needed && is_old(&path, grace)? {
                files::remove(&path)?;
                freed += 1;
            }
        }
    }
    Ok(freed)
}

fn sweep_repositories(
    store: &Store,
    lock: &FileLock,
    config: &Config,
    retained: &BTreeSet<Digest>,
    needed: &BTreeSet<String>,
) -> Result<()> {
    let git = Git::writer(store, &config.limits, lock);
    let mut result = Ok(());
    let forms = published::known(store, config)?;
    for path in repositories(store)? {
        let directory = git.directory(&path);
        let done = if needed.contains(&path) {
            git.unpin(&path, |id| id.parse::<Digest>().is_ok_and(|id| retained.contains(&id)))
                .and_then(|_| git.tidy(&path))
        } else if is_old(&directory, config.grace)? {
            let work = store.temporary("dropped");
            fs::rename(&directory, &work).map_err(Error::write(&directory))?;
            files::remove(&store.path("git").join(published::bundle_path(&path)))?;
            files::remove(&work)
        } else {
            Ok(())
        };
        result = result.and(done);
    }
    let left = repositories(store)?;
    if store.path("git/refs.index").exists() {
        result = result.and(git.write_index(&left, &forms, config.jobs));
    }
    result.and(sweep_packs(store, &forms, config.grace))
}

/// Removes packs that the index does not name any more, but for those that a client may just have read of.
fn sweep_packs(store: &Store, forms: &published::AllForms, grace: Duration) -> Result<()> {
    let packs = forms.values().flat_map(|forms| forms.packs.values());
    let named: BTreeSet<String> = packs.map(|pack| format!("{}.pack", pack.sha256)).collect();
    let directory = store.path("git").join(published::PACKS);
    for name in files::names_in(&directory)? {
        let path = directory.join(&name);
        if !named.contains(&name) && name.ends_with(".pack") && is_old(&path, grace)? {
            files::remove(&path)?;
        }
    }
    Ok(())
}

/// Returns the repositories that are kept, as `HOST…/PATH.git`.
///
/// # Errors
/// [`Error::Read`].
pub(crate) fn repositories(store: &Store) -> Result<Vec<String>> {
    fn walk(directory: &Path, base: &Path, depth: usize, found: &mut Vec<String>) -> Result<()> {
        for name in files::names_in(directory)? {
            let path: PathBuf = directory.join(&name);
            if !fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir()) {
                continue;
            }
            if name.ends_with(".git") {
                let relative = path.strip_prefix(base).expect("walked from the base");
                found.push(relative.to_string_lossy().into_owned());
            } else if depth > 0 {
                walk(&path, base, depth - 1, found)?;
            }
        }
        Ok(())
    }
    let base = store.path("git");
    let mut found = Vec::new();
    walk(&base, &base, 30, &mut found)?;
    Ok(found)
}
