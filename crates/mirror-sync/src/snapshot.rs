//! `snapshot`: freezes the last complete sync of every source under one id.

use std::fs;

use serde::{Deserialize, Serialize};
use toolkit::Io;

use crate::closed::Demands;
use crate::config::{self, Config};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::files;
use crate::manifest::{Git as GitPart, Manifest, Source};
use crate::publish::{self, Publisher, Signatures};
use crate::repository;
use crate::rpm;
use crate::sign::SigningKey;
use crate::state::State;
use crate::store::Store;

/// What is known about a snapshot besides its content.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Info {
    pub(crate) v: u32,
    /// Seconds since the epoch.
    pub(crate) created: u64,
    /// Fingerprint of the key that signed it.
    pub(crate) signer: String,
    /// When the sources were last found to hold exactly this.
    #[serde(default)]
    pub(crate) confirmed: u64,
    /// What it holds, in words, by source.
    #[serde(default)]
    pub(crate) holds: Vec<String>,
}

impl Info {
    pub(crate) fn path(id: &Digest) -> String {
        format!("snapshots/{id}/info.json")
    }

    /// Reads a snapshot's facts; of one copied from elsewhere its own directory tells the time.
    ///
    /// # Errors
    /// [`Error::Read`]; [`Error::Damaged`].
    pub(crate) fn load(store: &Store, id: &Digest) -> Result<Self> {
        if let Some(info) = store.read_json(Self::path(id))? {
            return Ok(info);
        }
        let path = store.path(format!("pub/snap/{id}"));
        let modified = fs::metadata(&path).and_then(|metadata| metadata.modified()).map_err(Error::read(&path))?;
        let created = modified.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Ok(Self { v: 1, created, signer: String::new(), confirmed: 0, holds: Vec::new() })
    }
}

/// Checks that a snapshot is published. Snapshots appear and disappear as a whole, so that is all there is to ask;
/// whether its content is sound is what `verify` answers.
///
/// # Errors
/// [`Error::NoSnapshot`].
pub(crate) fn must_exist(store: &Store, id: &Digest) -> Result<()> {
    let path = store.path(format!("pub/snap/{id}/manifest.json"));
    if fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file()) {
        Ok(())
    } else {
        Err(Error::no_snapshot(id))
    }
}

/// Makes a snapshot of the last complete sync of every source; returns its id.
///
/// # Errors
/// [`Error::NotSynced`]; [`Error::Busy`]; [`Error::Open`]; [`Error::Rejected`]; [`Error::Write`].
pub(crate) fn create(config: &Config, io: &mut Io) -> Result<Digest> {
    config.some_sources()?;
    let (store, lock) = Store::writer(config.root()?)?;
    let key = SigningKey::load(config.signing_key()?)?;
    let demands = Demands::read(config)?;
    let manifest = collect(&store, config, io)?;
    let (bytes, id) = manifest.encode()?;
    if store.path(format!("pub/snap/{id}")).is_dir() {
        demands.prove_again(&store, &id, &manifest, io)?;
        let info = Info { confirmed: files::now(), ..Info::load(&store, &id)? };
        files::make_dir(&store.path(format!("snapshots/{id}")))?;
        store.write_json(Info::path(&id), &info)?;
        io.note(format_args!("nothing changed since snapshot {id}"));
        return Ok(id);
    }
    let by = Publisher { store: &store, lock: &lock, config, signatures: Signatures::Make(&key) };
    publish::publish(&by, &manifest, &bytes, &id, None, &mut |tree| demands.prove(&store, &manifest, tree, io))?;
    demands.remember(&store, &id)?;
    Ok(id)
}

fn collect(store: &Store, config: &Config, io: &mut Io) -> Result<Manifest> {
    let mut sources = Vec::new();
    for source in &config.sources {
        let not_synced = |why: &str| Error::NotSynced { name: source.name().to_owned(), why: why.to_owned() };
        let state = State::load(store, source)?
            .ok_or_else(|| not_synced("never synchronised completely as it is configured now"))?;
        match (state, source) {
            (State::Deb(state), config::Source::Deb(deb)) => {
                if let Some(lost) = state.packages.iter().find(|found| !store.has_blob(&found.sha256, found.size)) {
                    return Err(not_synced(&format!("the content of {} is not in the store", lost.file)));
                }
                let part = repository::build(store, deb, &state.packages, &mut |message| io.warn(message))?;
                sources.push(Source::Deb(part));
            }
            (State::Rpm(state), config::Source::Rpm(rpm)) => {
                if let Some(lost) = state.packages.iter().find(|found| !store.has_blob(&found.sha256, found.size)) {
                    return Err(not_synced(&format!("the content of {} is not in the store", lost.file)));
                }
                let part = rpm::metadata::build(store, rpm, &state);
                let part = part.map_err(|error| State::lost(store, source.name(), error))?;
                sources.push(Source::Rpm(part));
            }
            (State::Part(state), _) => sources.push(state.part(store)?),
            (State::Git(state), config::Source::Git(git)) => {
                sources.push(Source::Git(GitPart { name: git.name.clone(), repos: state.repos }));
            }
            _ => return Err(not_synced("its state is of another type")),
        }
    }
    Ok(Manifest::new(sources))
}

/// Returns the ids of all snapshots with their facts, newest first.
///
/// # Errors
/// [`Error::Read`].
pub(crate) fn all(store: &Store) -> Result<Vec<(Digest, Info)>> {
    let mut snapshots = Vec::new();
    for name in files::names_in(&store.path("pub/snap"))? {
        if let Ok(id) = name.parse::<Digest>() {
            let info = Info::load(store, &id)?;
            snapshots.push((id, info));
        }
    }
    snapshots.sort_by(|a, b| b.1.created.cmp(&a.1.created).then_with(|| a.0.cmp(&b.0)));
    Ok(snapshots)
}
